-- 15 array: the domain array of @pipe. What is undefined becomes null in an array. sort puts
-- numbers by size before texts by their characters, then all else by its text. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._array_get(items jsonb, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_property(items, hotmesh._value_text(at))
$$;

create or replace function hotmesh._array_length(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(jsonb_array_length(hotmesh._value_array(items, 'array.length')))
$$;

create or replace function hotmesh._array_concat(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    items := hotmesh._value_array(items, 'array.concat');
    for n in 1..cardinality(more) loop
        items := items || case when jsonb_typeof(more[n]) = 'array' then more[n]
                               else jsonb_build_array(hotmesh._pipe_item(more[n])) end;
    end loop;
    return items;
end
$$;

-- Where a value is.
create or replace function hotmesh._array_places(items jsonb, value jsonb)
returns setof integer
language sql
immutable
parallel safe
as $$
    select (i.n - 1)::integer
    from jsonb_array_elements(items) with ordinality i (item, n)
    where hotmesh._value_same(i.item, value)
$$;

create or replace function hotmesh._array_index_of(
    items jsonb, value jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(min(p), -1))
    from hotmesh._array_places(hotmesh._value_array(items, 'array.indexOf'), value) p
    where p >= hotmesh._value_place(at, jsonb_array_length(items), 0)
$$;

create or replace function hotmesh._array_last_index_of(
    items jsonb, value jsonb, variadic at jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(max(p), -1))
    from hotmesh._array_places(hotmesh._value_array(items, 'array.lastIndexOf'), value) p
    where cardinality(at) = 0
       or p <= hotmesh._value_integer(at[1])
            + case when hotmesh._value_integer(at[1]) < 0
                   then jsonb_array_length(items) else 0 end
$$;

create or replace function hotmesh._array_join(items jsonb, separator jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(string_agg(
        case when i.item = 'null' then '' else hotmesh._value_text(i.item) end,
        case when separator is null then ',' else hotmesh._value_text(separator) end
        order by i.n), ''))
    from jsonb_array_elements(hotmesh._value_array(items, 'array.join')) with ordinality i (item, n)
$$;

-- The last element; the array is a value, and stays.
create or replace function hotmesh._array_pop(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.pop') -> -1
$$;

create or replace function hotmesh._array_push(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.push') || coalesce((
        select jsonb_agg(hotmesh._pipe_item(m.value) order by m.n)
        from unnest(more) with ordinality m (value, n)), '[]')
$$;

create or replace function hotmesh._array_reverse(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n desc), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.reverse'))
        with ordinality i (item, n)
$$;

create or replace function hotmesh._array_shift(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.shift') -> 0
$$;

create or replace function hotmesh._array_slice(
    items jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.slice'))
        with ordinality i (item, n)
    where i.n > hotmesh._value_place(first, jsonb_array_length(items), 0)
      and i.n <= hotmesh._value_place(
          last, jsonb_array_length(items), jsonb_array_length(items))
$$;

create or replace function hotmesh._array_sorted(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(
        i.item order by coalesce(
            array_position(array['number', 'string'], jsonb_typeof(i.item)), 3),
        case when jsonb_typeof(i.item) = 'number' then hotmesh._value_number(i.item) end,
        hotmesh._value_text(i.item) collate "C", i.n), '[]')
    from jsonb_array_elements(items) with ordinality i (item, n)
$$;

create or replace function hotmesh._array_sort(items jsonb, direction jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when direction = '"DESCENDING"'
                then hotmesh._array_reverse(
                    hotmesh._array_sorted(hotmesh._value_array(items, 'array.sort')))
                else hotmesh._array_sorted(hotmesh._value_array(items, 'array.sort')) end
$$;

-- The elements that JavaScript takes out.
create or replace function hotmesh._array_splice(
    items jsonb, first jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.splice'))
        with ordinality i (item, n)
    where (first is not null or cardinality(more) > 0)
      and i.n > hotmesh._value_place(first, jsonb_array_length(items), 0)
      and (cardinality(more) = 0
           or i.n <= hotmesh._value_place(first, jsonb_array_length(items), 0)
                + hotmesh._value_integer(more[1]))
$$;

-- The length that it would have.
create or replace function hotmesh._array_unshift(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(
        jsonb_array_length(hotmesh._value_array(items, 'array.unshift')) + cardinality(more))
$$;
