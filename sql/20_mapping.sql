-- 20 mapping: what compiled mappings call while they run: which instance of an activity a reference
-- means, fields that are items of arrays or that spread over their object, what @reduce goes
-- through. SQL null is undefined. Pure functions.

--@ state

--@ behaviour
create or replace function hotmesh._mapping_common(a integer[], b integer[])
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_common integer := 0;
begin
    while a[v_common + 1] = b[v_common + 1] loop
        v_common := v_common + 1;
    end loop;
    return v_common;
end
$$;

-- Which of some instances is nearest to a dimension: the same path, a step before it, a branch of
-- it; of several the latest.
create or replace function hotmesh._mapping_nearest(instances jsonb, depth integer, d text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_d constant integer[] := string_to_array(substr(d, 2), ',')::integer[];
    v_guess constant text := ',' || array_to_string(
        (v_d || array_fill(0, array[depth + 1]))[1:depth + 1], ',');
begin
    if instances ? v_guess then
        return v_guess;
    end if;
    return (
        select i.dimension
        from jsonb_object_keys(instances) i (dimension)
        cross join lateral (values (
            string_to_array(substr(i.dimension, 2), ',')::integer[])) n (path)
        order by starts_with(d || ',', i.dimension || ',') desc,
                 hotmesh._mapping_common(n.path, v_d) desc, n.path desc
        limit 1);
end
$$;

-- What a reference to an activity finds.
create or replace function hotmesh._mapping_get(
    s jsonb, name text, depth integer, d text, path text[])
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_guess text := ',' || array_to_string((string_to_array(d, ','))[2:depth + 2], ',');
    v_value jsonb := s #> (array[name, v_guess] || path);
begin
    if v_value is null and not coalesce(s -> name ? v_guess, true) then
        return s #> (array[name, hotmesh._mapping_nearest(s -> name, depth, d)] || path);
    end if;
    return v_value;
end
$$;

create or replace function hotmesh._mapping_array(places integer[], vals jsonb[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select jsonb_agg(coalesce(e.value, 'null') order by n.n)
    from generate_series(0, (select max(p.place) from unnest(places) p (place))) n
    left join unnest(places, vals) e (place, value) on e.place = n.n
$$;

-- field[0], field[1] are items of the array field, up to the last defined one. An array in a lone
-- field[25] is the field: 25 only is how long it may become. field[-] and field[_] spread an
-- object into keys that begin with - or _.
create or replace function hotmesh._mapping_gather(keys text[], vals jsonb[])
returns jsonb
language sql
immutable
parallel safe
as $$
    with parts as (
        select coalesce(p.m[1], e.key) as field, p.m[2] as mark, e.value,
               count(*) over (partition by p.m[1]) as n
        from unnest(keys, vals) e (key, value)
        cross join lateral (values (
            regexp_match(e.key, '^(.*)\[([0-9]{1,4}|-|_)\]$'))) p (m)
        where e.value is not null
    ), fields as (
        select p.field, p.value from parts p where p.mark is null
        union all
        select p.mark || ltrim(o.key, p.mark), o.value
        from parts p
        cross join lateral jsonb_each(
            case when jsonb_typeof(p.value) = 'object' then p.value else '{}' end) o
        where p.mark in ('-', '_')
        union all
        select p.field, case when count(*) = 1 and max(p.mark) <> '0'
                                 and jsonb_typeof(min(p.value::text)::jsonb) = 'array'
                             then min(p.value::text)::jsonb
                             else hotmesh._mapping_array(
                                array_agg(p.mark::integer), array_agg(p.value)) end
        from parts p
        where p.mark ~ '[0-9]'
        group by p.field
    )
    select coalesce(jsonb_object_agg(f.field, f.value), '{}') from fields f
$$;

create or replace function hotmesh._mapping_items(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case jsonb_typeof(value)
           when 'array' then value
           when 'object' then hotmesh._object_values(value)
           else '[]' end
$$;

create or replace function hotmesh._mapping_keys(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case jsonb_typeof(value)
           when 'array' then (
               select coalesce(jsonb_agg(n::text), '[]')
               from generate_series(0, jsonb_array_length(value) - 1) n)
           when 'object' then hotmesh._object_keys(value)
           else '[]' end
$$;
