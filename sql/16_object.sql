-- 16 object: the domains object, json and symbol of @pipe. Objects are values: freeze, seal and
-- preventExtensions change nothing, set and defineProperty answer with another object. What is
-- not enumerable is not kept. __proto__ is a name like others. Errors: 22023.

--@ state

--@ behaviour
-- The own keys of a value in JavaScript's order.
create or replace function hotmesh._object_pairs(value jsonb)
returns table (key text, item jsonb, n bigint)
language sql
immutable
parallel safe
as $$
    select p.key, p.item, row_number() over (order by p.key ~ '^(0|[1-9][0-9]{0,8})$' desc, p.n)
    from (
        select e.key, e.item, e.n
        from jsonb_each(
            case when hotmesh._value_type(value) = 'object' then value end)
            with ordinality e (key, item, n)
        union all
        select (e.n - 1)::text, e.item, e.n
        from jsonb_array_elements(
            case jsonb_typeof(value)
            when 'array' then value
            when 'string' then to_jsonb(regexp_split_to_array(nullif(value #>> '{}', ''), ''))
            end) with ordinality e (item, n)) p
$$;

create or replace function hotmesh._object_get(value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_property(value, hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_put(value jsonb, key text, item jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_length integer;
begin
    if hotmesh._value_type(value) = 'object' then
        return case when item is null then value - key
                    else value || jsonb_build_object(key, hotmesh._pipe_store(item)) end;
    elsif jsonb_typeof(value) is distinct from 'array' then
        return hotmesh._pipe_refuse(
            'object.set needs an object or an array', left(value::text, 100));
    elsif key !~ '^(0|[1-9][0-9]{0,8})$' then
        return value;
    end if;
    v_length := jsonb_array_length(value);
    if key::integer > v_length + 10000 then
        return hotmesh._pipe_refuse(
            'object.set would leave more than 10000 places empty',
            format('%s elements, and number %s.', v_length, key));
    end if;
    return jsonb_set(
        value || coalesce((
            select jsonb_agg(null::jsonb)
            from generate_series(v_length, key::integer)), '[]'),
        array[key], hotmesh._pipe_item(item));
end
$$;

create or replace function hotmesh._object_set(value jsonb, key jsonb, item jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_put(value, hotmesh._value_text(key), item)
$$;

create or replace function hotmesh._object_create(variadic pairs jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_object jsonb := '{}';
begin
    for n in 1..cardinality(pairs) by 2 loop
        v_object := hotmesh._object_put(
            v_object, hotmesh._value_text(pairs[n]), pairs[n + 1]);
    end loop;
    return v_object;
end
$$;

create or replace function hotmesh._object_keys(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(to_jsonb(p.key) order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.keys')) p
$$;

create or replace function hotmesh._object_values(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(p.item order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.values')) p
$$;

create or replace function hotmesh._object_entries(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(jsonb_build_array(p.key, p.item) order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.entries')) p
$$;

create or replace function hotmesh._object_member(entry jsonb, key text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when jsonb_typeof(entry) in ('array', 'object')
                then hotmesh._value_property(entry, key)
                else hotmesh._pipe_refuse(
                    'object.fromEntries needs pairs', left(entry::text, 100)) end
$$;

create or replace function hotmesh._object_from_entries(entries jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_object_agg(p.key, p.item) filter (where p.item is not null), '{}')
    from (
        select distinct on (1) hotmesh._value_text(hotmesh._object_member(e.entry, '0')),
               hotmesh._object_member(e.entry, '1')
        from jsonb_array_elements(hotmesh._value_array(
            case when entries = '""' then '[]' else entries end, 'object.fromEntries'))
            with ordinality e (entry, n) order by 1, e.n desc) p (key, item)
$$;

create or replace function hotmesh._object_assign(
    value jsonb, variadic sources jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_source jsonb;
    v_pair record;
begin
    value := hotmesh._value_present(value, 'object.assign');
    if hotmesh._value_type(value) not in ('object', 'array') then
        return value;
    end if;
    foreach v_source in array sources loop
        for v_pair in select p.key, p.item from hotmesh._object_pairs(v_source) p loop
            value := hotmesh._object_put(value, v_pair.key, v_pair.item);
        end loop;
    end loop;
    return value;
end
$$;

create or replace function hotmesh._object_get_own_property_names(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_keys(hotmesh._value_present(value, 'object.getOwnPropertyNames'))
        || case when jsonb_typeof(value) in ('array', 'string') then '["length"]'::jsonb
                else '[]' end
$$;

create or replace function hotmesh._object_get_own_property_symbols(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_present(value, 'object.getOwnPropertySymbols') is not null
                then '[]'::jsonb end
$$;

create or replace function hotmesh._object_has_own_property(value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._object_get_own_property_names(
        hotmesh._value_present(value, 'object.hasOwnProperty')) ? hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_property_is_enumerable(
    value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._object_keys(
        hotmesh._value_present(value, 'object.propertyIsEnumerable')) ? hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_get_own_property_descriptor(
    value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._object_get_own_property_names(
                    hotmesh._value_present(value, 'object.getOwnPropertyDescriptor')) ? k.key
                then jsonb_build_object(
                    'value', hotmesh._value_property(value, k.key),
                    'writable', t.type = 'object' or t.type = 'array',
                    'enumerable', k.key <> 'length' or t.type = 'object',
                    'configurable', t.type = 'object' or t.type = 'array' and k.key <> 'length')
                end
    from (values (hotmesh._value_text(key))) k (key)
    cross join (values (jsonb_typeof(value))) t (type)
$$;

-- A property as a descriptor says.
create or replace function hotmesh._object_define(
    value jsonb, key text, descriptor jsonb, what text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_type(value) not in ('object', 'array')
                    or hotmesh._value_type(descriptor) not in ('object', 'array')
                    or coalesce(descriptor ? 'get' or descriptor ? 'set', false)
                then hotmesh._pipe_refuse(
                    format('%s needs an object and a descriptor', what),
                    left(concat(value, ' ', descriptor), 100))
                when jsonb_typeof(value) = 'object' and (
                    descriptor ? 'enumerable'
                    and not hotmesh._value_truth(descriptor -> 'enumerable')
                    or not descriptor ? 'enumerable'
                    and hotmesh._value_property(value, key) is null)
                then hotmesh._object_put(value, key, null)
                when descriptor ? 'value' or hotmesh._value_property(value, key) is null
                then hotmesh._object_put(value, key, descriptor -> 'value')
                else value end
$$;

create or replace function hotmesh._object_define_property(
    value jsonb, key jsonb default null, descriptor jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_define(
        value, hotmesh._value_text(key), descriptor, 'object.defineProperty')
$$;

create or replace function hotmesh._object_define_properties(
    value jsonb, descriptors jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_pair record;
begin
    if hotmesh._value_type(value) not in ('object', 'array') then
        return hotmesh._pipe_refuse(
            'object.defineProperties needs an object', left(value::text, 100));
    end if;
    descriptors := hotmesh._value_present(descriptors, 'object.defineProperties');
    for v_pair in select p.key, p.item from hotmesh._object_pairs(descriptors) p loop
        value := hotmesh._object_define(
            value, v_pair.key, v_pair.item, 'object.defineProperties');
    end loop;
    return value;
end
$$;

create or replace function hotmesh._object_freeze(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_seal(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_prevent_extensions(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_is_frozen(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) not in ('array', 'object'))
$$;

create or replace function hotmesh._object_is_sealed(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) not in ('array', 'object'))
$$;

create or replace function hotmesh._object_is_extensible(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) in ('array', 'object'))
$$;

-- No JSON value is.
create or replace function hotmesh._object_is_prototype_of(value jsonb, other jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_present(value, 'object.isPrototypeOf') is null)
$$;

create or replace function hotmesh._json_write(value jsonb, keys text[], gap text, margin text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_margin constant text := margin || gap;
    v_break constant text := case when gap = '' then '' else E'\n' end;
    v_type constant text := hotmesh._value_type(value);
    v_items text;
begin
    if v_type = 'number' then
        return case when hotmesh._pipe_store(value) = 'null' then 'null'
                    else hotmesh._value_digits(hotmesh._value_number(value)) end;
    elsif v_type not in ('array', 'object') then
        return value::text;
    end if;
    if v_type = 'array' then
        select string_agg(v_margin || hotmesh._json_write(e.item, keys, gap, v_margin),
                          ',' || v_break order by e.n)
        into v_items
        from jsonb_array_elements(value) with ordinality e (item, n);
        return coalesce('[' || v_break || v_items || v_break || margin || ']', '[]');
    end if;
    select string_agg(
        v_margin || to_jsonb(p.key) || case when gap = '' then ':' else ': ' end
        || hotmesh._json_write(p.item, keys, gap, v_margin),
        ',' || v_break order by array_position(keys, p.key), p.n)
    into v_items
    from hotmesh._object_pairs(value) p
    where keys is null or p.key = any (keys);
    return coalesce('{' || v_break || v_items || v_break || margin || '}', '{}');
end
$$;

create or replace function hotmesh._json_stringify(
    value jsonb, replacer jsonb default null, space jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._json_write(
        value,
        case when jsonb_typeof(replacer) = 'array' then array(
            select hotmesh._value_text(e.item)
            from jsonb_array_elements(replacer) with ordinality e (item, n)
            where jsonb_typeof(e.item) in ('string', 'number')
            order by e.n) end,
        case hotmesh._value_type(space)
        when 'string' then left(space #>> '{}', 10)
        when 'number' then repeat(
            ' ', greatest(least(hotmesh._value_integer(space), 10), 0)::integer)
        else '' end, ''))
    where value is not null
$$;

-- A text that is no JSON: 22P02.
create or replace function hotmesh._json_parse(value jsonb, reviver jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_text(value)::jsonb
$$;

create or replace function hotmesh._symbol_null()
returns jsonb
language sql
immutable
parallel safe
as $$
    select 'null'::jsonb
$$;

create or replace function hotmesh._symbol_undefined()
returns jsonb
language sql
immutable
parallel safe
as $$
    select null::jsonb
$$;

create or replace function hotmesh._symbol_whitespace()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '" "'::jsonb
$$;

create or replace function hotmesh._symbol_object()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '{}'::jsonb
$$;

create or replace function hotmesh._symbol_array()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '[]'::jsonb
$$;

create or replace function hotmesh._symbol_pos_infinity()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('Infinity')
$$;

create or replace function hotmesh._symbol_neg_infinity()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('-Infinity')
$$;

create or replace function hotmesh._symbol_nan()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('NaN')
$$;
