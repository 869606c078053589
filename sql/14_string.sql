-- 14 string: the domain string of @pipe. Positions are counted in characters, so that an emoji is
-- one. search takes a regular expression of Postgres; \b and . are those of JavaScript. Upper and
-- lower case are those of Latin, Greek and Cyrillic, whatever the database's locale. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._string_at(s text, at double precision)
returns text
language sql
immutable
parallel safe
as $$
    select case when at >= 0 and at < length(s) then substr(s, at::integer + 1, 1) else '' end
$$;

create or replace function hotmesh._string_char_at(s jsonb, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._string_at(
        hotmesh._value_string(s, 'string.charAt'), hotmesh._value_integer(at)))
$$;

create or replace function hotmesh._string_concat(s jsonb, variadic parts jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_text text := hotmesh._value_string(s, 'string.concat');
begin
    for n in 1..cardinality(parts) loop
        v_text := v_text || hotmesh._value_text(parts[n]);
    end loop;
    return to_jsonb(v_text);
end
$$;

-- Where a part is, from a position on; -1: nowhere.
create or replace function hotmesh._string_find(s text, part text, first integer)
returns integer
language sql
immutable
parallel safe
as $$
    select case when first > length(s) then -1
                when part = '' then first
                else coalesce(nullif(strpos(substr(s, first + 1), part), 0) + first, 0) - 1 end
$$;

-- A position, never outside.
create or replace function hotmesh._string_first(value jsonb, length integer)
returns integer
language sql
immutable
parallel safe
as $$
    select least(greatest(hotmesh._value_integer(value), 0), length)::integer
$$;

create or replace function hotmesh._string_index_of(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.indexOf');
begin
    return to_jsonb(hotmesh._string_find(v_s, hotmesh._value_text(part),
        hotmesh._string_first(at, length(v_s))));
end
$$;

create or replace function hotmesh._string_includes(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.includes');
begin
    return to_jsonb(hotmesh._string_find(
        v_s, hotmesh._value_text(part), hotmesh._string_first(at, length(v_s))) >= 0);
end
$$;

create or replace function hotmesh._string_last_index_of(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.lastIndexOf');
    v_part constant text := hotmesh._value_text(part);
    v_at constant double precision := hotmesh._value_number(at);
    v_last integer := length(v_s) - length(v_part);
    v_found integer;
begin
    if v_at <> 'NaN' then
        v_last := least(v_last, greatest(trunc(v_at), 0));
    end if;
    if v_last < 0 then
        return to_jsonb(-1);
    end if;
    v_found := strpos(
        reverse(left(v_s, v_last + length(v_part))), reverse(v_part));
    return to_jsonb(case when v_part = '' then v_last
                         when v_found = 0 then -1
                         else v_last + 1 - v_found end);
end
$$;

create or replace function hotmesh._string_slice(
    s jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.slice');
    v_first constant integer := hotmesh._value_place(first, length(v_s), 0);
begin
    return to_jsonb(substr(v_s, v_first + 1, greatest(
        hotmesh._value_place(last, length(v_s), length(v_s)) - v_first, 0)));
end
$$;

create or replace function hotmesh._string_substring(
    s jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.substring');
    v_first constant integer := hotmesh._string_first(first, length(v_s));
    v_last constant integer := case when last is null then length(v_s)
                                    else hotmesh._string_first(last, length(v_s)) end;
begin
    return to_jsonb(substr(v_s, least(v_first, v_last) + 1, abs(v_last - v_first)));
end
$$;

create or replace function hotmesh._string_split(
    s jsonb, separator jsonb default null, most jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.split');
    v_separator constant text := hotmesh._value_text(separator);
    v_parts text[];
begin
    v_parts := case when separator is null then array[v_s]
                    when v_s = '' and v_separator = '' then '{}'
                    when v_separator = '' then regexp_split_to_array(v_s, '')
                    when v_s = '' then array['']
                    else string_to_array(v_s, v_separator) end;
    return to_jsonb(
        case when most is null then v_parts
             else v_parts[1:least(hotmesh._value_uint32(most), 2147483647)::integer] end);
end
$$;

create or replace function hotmesh._string_lower_letters()
returns text
language sql
immutable
parallel safe
as $$
    select 'abcdefghijklmnopqrstuvwxyzàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿāăąćĉċčďđēĕėęěĝğġģĥ'
        || 'ħĩīĭįĵķĺļľŀłńņňŋōŏőœŕŗřśŝşšţťŧũūŭůűųŵŷźżžάέήίόύώαβγδεζηθικλμνξοπρστυφχψωϊϋаб'
        || 'вгдежзийклмнопрстуфхцчшщъыьэюяѐёђѓєѕіїјљњћќѝўџґ'
$$;

create or replace function hotmesh._string_upper_letters()
returns text
language sql
immutable
parallel safe
as $$
    select 'ABCDEFGHIJKLMNOPQRSTUVWXYZÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞŸĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤ'
        || 'ĦĨĪĬĮĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŹŻŽΆΈΉΊΌΎΏΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫАБ'
        || 'ВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏҐ'
$$;

create or replace function hotmesh._string_to_upper_case(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(translate(
        replace(hotmesh._value_string(s, 'string.toUpperCase'), 'ß', 'SS'),
        hotmesh._string_lower_letters(), hotmesh._string_upper_letters()))
$$;

create or replace function hotmesh._string_to_lower_case(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(translate(
        hotmesh._value_string(s, 'string.toLowerCase'),
        hotmesh._string_upper_letters(), hotmesh._string_lower_letters()))
$$;

create or replace function hotmesh._string_trim(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(btrim(hotmesh._value_string(s, 'string.trim'), hotmesh._value_white()))
$$;

create or replace function hotmesh._string_trim_start(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(ltrim(hotmesh._value_string(s, 'string.trimStart'), hotmesh._value_white()))
$$;

create or replace function hotmesh._string_trim_end(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(rtrim(hotmesh._value_string(s, 'string.trimEnd'), hotmesh._value_white()))
$$;

-- What is missing, made of copies of a text.
create or replace function hotmesh._string_fill(fill jsonb, missing double precision, what text)
returns text
language sql
immutable
parallel safe
as $$
    select case when missing <= 0 or f.word = '' then ''
                when missing > 16777216 then hotmesh._pipe_refuse(
                    format('%s makes at most 16777216 characters', what),
                    format('%s more were asked for.', missing)) #>> '{}'
                else left(
                    repeat(f.word, ceil(missing / length(f.word))::integer), missing::integer) end
    from (values (
        case when fill is null then ' ' else hotmesh._value_text(fill) end)) f (word)
$$;

create or replace function hotmesh._string_pad_start(
    s jsonb, length jsonb default null, fill jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.padStart');
begin
    return to_jsonb(hotmesh._string_fill(
        fill, hotmesh._value_integer(_string_pad_start.length) - length(v_s),
        'string.padStart') || v_s);
end
$$;

create or replace function hotmesh._string_pad_end(
    s jsonb, length jsonb default null, fill jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.padEnd');
begin
    return to_jsonb(v_s || hotmesh._string_fill(
        fill, hotmesh._value_integer(_string_pad_end.length) - length(v_s), 'string.padEnd'));
end
$$;

create or replace function hotmesh._string_repeat(s jsonb, times jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.n between 0 and 16777216 and v.n * length(v.s) <= 16777216
                then to_jsonb(repeat(v.s, v.n::integer))
                when v.n >= 0 and v.n < 'Infinity' and v.s = '' then to_jsonb(''::text)
                else hotmesh._pipe_refuse(
                    'string.repeat makes 0 to 16777216 characters',
                    format('%s times %s.', left(times::text, 100), length(v.s))) end
    from (values (
        hotmesh._value_string(s, 'string.repeat'), hotmesh._value_integer(times))) v (s, n)
$$;

create or replace function hotmesh._string_starts_with(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(substr(
        v.s, hotmesh._string_first(at, length(v.s)) + 1, length(v.part)) = v.part)
    from (values (
        hotmesh._value_string(s, 'string.startsWith'), hotmesh._value_text(part))) v (s, part)
$$;

create or replace function hotmesh._string_ends_with(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(right(left(v.s, e.last), nullif(length(v.part), 0)) is not distinct from
        nullif(v.part, ''))
    from (values (
        hotmesh._value_string(s, 'string.endsWith'), hotmesh._value_text(part))) v (s, part)
    cross join lateral (values (
        case when at is null then length(v.s)
             else hotmesh._string_first(at, length(v.s)) end)) e (last)
$$;

-- $&, $`, $' and a doubled $ in what replaces.
create or replace function hotmesh._string_expand(
    replacement text, before text, part text, after text)
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(string_agg(
        case m.hit[1]
        when concat('$', '$') then '$'
        when '$&' then part
        when '$`' then before
        when '$''' then after
        else m.hit[1] end, '' order by m.n), '')
    from regexp_matches(replacement, '[$][$&`'']|[^$]+|[$]', 'g') with ordinality m (hit, n)
$$;

-- The first occurrence of a text.
create or replace function hotmesh._string_replace(
    s jsonb, part jsonb default null, replacement jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.replace');
    v_part constant text := hotmesh._value_text(part);
    v_at constant integer := strpos(v_s, v_part);
    v_before constant text := left(v_s, greatest(v_at - 1, 0));
    v_after constant text := substr(v_s, v_at + length(v_part));
begin
    if v_at = 0 then
        return s;
    end if;
    return to_jsonb(v_before || hotmesh._string_expand(
        hotmesh._value_text(replacement), v_before, v_part, v_after) || v_after);
end
$$;

-- A regular expression of JavaScript as one of Postgres.
create or replace function hotmesh._string_pattern(pattern text)
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(string_agg(
        case t.part[1] when '.' then '[^\n\r\u2028\u2029]'
                       when '\b' then '\y'
                       else t.part[1] end, '' order by t.n), '')
    from regexp_matches(pattern, '\\.|\[(?:\\.|[^]\\])*\]|.', 'g') with ordinality t (part, n)
$$;

create or replace function hotmesh._string_search(s jsonb, pattern jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(length((regexp_match(
        hotmesh._value_string(s, 'string.search'), '^(.*?)(?:' || hotmesh._string_pattern(
            case when pattern is null then '' else hotmesh._value_text(pattern) end)
            || ')'))[1]), -1))
$$;
