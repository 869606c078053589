-- 80 patch: what a command makes of a document. Pure functions: the entity applies them once, its
-- history again. Parents that are missing are created; missing and null count as 0, false, [] or
-- {}. Numeric names index arrays where there is an array, from the end where they are negative.
-- Numbers are numeric, so they stay exact. Errors: MSH80 wrong type, MSH81 no such element,
-- MSH82 nested too deep; 22023.

--@ state

--@ behaviour
create or replace function hotmesh._patch_name(path text[])
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(left(string_agg(
        replace(replace(n.name, '\', '\\'), '.', '\.'), '.' order by n.place), 300), '')
    from unnest(path) with ordinality n (name, place)
$$;

create or replace function hotmesh._patch_refuse_type(path text[], expected text, value jsonb)
returns void
language plpgsql
immutable
as $$
begin
    raise exception '% %, %', case
            when path = '{}' then 'the whole of the entity must be an'
            else format('"%s" of the entity is no', hotmesh._patch_name(path)) end,
        expected, case when path = '{}' then 'not ' else 'but ' end
            || coalesce(jsonb_typeof(value), 'nothing')
    using
        errcode = 'MSH80',
        detail = format('Expected %s, found %s: %s.', expected,
                        coalesce(jsonb_typeof(value), 'nothing'), left(value::text, 200)),
        hint = case
            when path = '{}' then 'Give an object, or name the part of it that is meant by a path.'
            else 'Look at it with entity_get; entity_set replaces it, entity_delete removes it.'
            end;
end
$$;

create or replace function hotmesh._patch_refuse_index(path text[], name text, list jsonb)
returns void
language plpgsql
immutable
as $$
begin
    raise exception 'the array "%" of the entity has no element %',
        hotmesh._patch_name(path), left(name, 60)
    using
        errcode = 'MSH81',
        detail = case when list = '[]' then 'It has no elements.' else format(
            'It has %s elements: expected 0 to %s, or from the end -1 to -%1$s.',
            jsonb_array_length(list), jsonb_array_length(list) - 1) end,
        hint = 'entity_append and entity_prepend make an array longer.';
end
$$;

create or replace function hotmesh._patch_refuse_depth(path text[], depth_limit integer)
returns void
language plpgsql
immutable
as $$
begin
    raise exception 'the entity would be nested too deep at "%"', hotmesh._patch_name(path[:20])
    using
        errcode = 'MSH82',
        detail = format('Expected at most %s levels of objects and arrays, found more.',
                        depth_limit),
        hint = 'Keep the parts in jobs of their own, or flat under composed names.';
end
$$;

create or replace function hotmesh._patch_refuse_whole(operation text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('%s needs a path', operation), 'Only set, merge and get take the whole document.',
        'Name the place: "notes", "counts.open", "items.0.done".');
end
$$;

-- Every level takes 8 bytes, so that small values need no look.
create or replace function hotmesh._patch_check_depth(path text[], value jsonb)
returns void
language plpgsql
immutable
as $$
declare
    v_limit constant integer := 400;
    v_left integer := v_limit - coalesce(cardinality(path), 0);
begin
    if v_left < 0 or (
        pg_column_size(value) > v_left * 8
        and jsonb_path_exists(value, format('strict $.**{%s}', v_left + 1)::jsonpath))
    then
        perform hotmesh._patch_refuse_depth(path, v_limit);
    end if;
end
$$;

-- The element of an array that the last name of a path means.
create or replace function hotmesh._patch_index(path text[], name text, list jsonb)
returns integer
language plpgsql
immutable
as $$
declare
    v_length constant integer := jsonb_array_length(list);
begin
    if name !~ '^-?\d{1,9}$' or name::integer not between -v_length and v_length - 1 then
        perform hotmesh._patch_refuse_index(path, name, list);
    end if;
    return name::integer;
end
$$;

-- Puts a value at a path. Where the parent is missing, it puts an object with the value there.
create or replace function hotmesh._patch_put(document jsonb, path text[], value jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_last integer := cardinality(path);
    v_parent jsonb;
begin
    while v_last > 0 loop
        v_parent := document #> path[:v_last - 1];
        if jsonb_typeof(v_parent) = 'object' then
            return jsonb_set(document, path[:v_last], value);
        elsif jsonb_typeof(v_parent) = 'array' then
            perform hotmesh._patch_index(path[:v_last - 1], path[v_last], v_parent);
            return jsonb_set(document, path[:v_last], value, false);
        elsif v_parent <> 'null' then
            perform hotmesh._patch_refuse_type(path[:v_last - 1], 'object or array', v_parent);
        end if;
        value := jsonb_build_object(path[v_last], value);
        v_last := v_last - 1;
    end loop;
    return value;
end
$$;

create or replace function hotmesh._patch_delete(document jsonb, path text[])
returns jsonb
language plpgsql
immutable
as $$
declare
    v_last integer := cardinality(path);
    v_parent jsonb;
begin
    while v_last > 0 loop
        v_parent := document #> path[:v_last - 1];
        if jsonb_typeof(v_parent) = 'array' then
            perform hotmesh._patch_index(path[:v_last - 1], path[v_last], v_parent);
        elsif jsonb_typeof(v_parent) <> 'object' and v_parent <> 'null' then
            perform hotmesh._patch_refuse_type(path[:v_last - 1], 'object or array', v_parent);
        end if;
        exit when v_parent is not null;
        v_last := v_last - 1;
    end loop;
    return case when v_last = cardinality(path) then document #- path else document end;
end
$$;

-- Objects merge at any depth, everything else replaces.
create or replace function hotmesh._patch_merge(target jsonb, value jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_nested jsonb;
begin
    if jsonb_typeof(target) is distinct from 'object' or jsonb_typeof(value) <> 'object' then
        return value;
    end if;
    select jsonb_object_agg(v.key, hotmesh._patch_merge(target -> v.key, v.value))
    into v_nested
    from jsonb_each(value) v
    where jsonb_typeof(v.value) = 'object' and jsonb_typeof(target -> v.key) = 'object';
    return target || case when v_nested is null then value else value || v_nested end;
end
$$;

-- What is at a path, if it is of a type; `missing` if nothing is there, or null.
create or replace function hotmesh._patch_typed(
    document jsonb, path text[], type text, missing jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_value jsonb := coalesce(nullif(document #> path, 'null'), missing);
begin
    if jsonb_typeof(v_value) <> type then
        perform hotmesh._patch_refuse_type(path, type, v_value);
    end if;
    return v_value;
end
$$;

create or replace function hotmesh._patch_check_argument(operation text, argument jsonb)
returns void
language plpgsql
immutable
as $$
begin
    if operation = 'increment' and jsonb_typeof(argument) <> 'number' then
        perform hotmesh._refuse_argument(
            format('the amount of an increment is no number: %s', left(argument::text, 60)),
            format('Expected a number, found %s.', jsonb_typeof(argument)),
            'A number of any size and precision, but neither NaN nor infinite.');
    elsif operation = 'remove' and argument::text !~ '^-?\d{1,9}$' then
        perform hotmesh._refuse_argument(
            format('the index of a remove is no whole number: %s', left(argument::text, 60)),
            format('Expected a whole number, found %s.', jsonb_typeof(argument)),
            'Elements count from 0, from the end -1 is the last.');
    end if;
end
$$;

-- What the commands that look at the old value put in its place.
create or replace function hotmesh._patch_value(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_list jsonb;
begin
    case operation
        when 'merge' then
            return hotmesh._patch_merge(document #> path, argument);
        when 'increment' then
            return to_jsonb(
                hotmesh._patch_typed(document, path, 'number', '0')::numeric + argument::numeric);
        when 'toggle' then
            return to_jsonb(not hotmesh._patch_typed(document, path, 'boolean', 'false')::boolean);
        else
            v_list := hotmesh._patch_typed(document, path, 'array', '[]');
    end case;
    case operation
        when 'append' then return v_list || jsonb_build_array(argument);
        when 'prepend' then return jsonb_build_array(argument) || v_list;
        when 'remove' then return v_list - hotmesh._patch_index(path, argument::text, v_list);
    end case;
end
$$;

create or replace function hotmesh._patch_apply(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_document jsonb;
begin
    if path = '{}' and operation not in ('set', 'merge', 'update', 'fork') then
        perform hotmesh._patch_refuse_whole(operation);
    end if;
    perform hotmesh._patch_check_depth(path, argument);
    case operation
        when 'set', 'update', 'fork' then
            v_document := hotmesh._patch_put(document, path, argument);
        when 'set_if_not_exists' then
            v_document := case when document #> path is not null then document
                               else hotmesh._patch_put(document, path, argument) end;
        when 'delete' then
            v_document := hotmesh._patch_delete(document, path);
        else
            perform hotmesh._patch_check_argument(operation, argument);
            v_document := hotmesh._patch_put(
                document, path, hotmesh._patch_value(document, operation, path, argument));
    end case;
    if jsonb_typeof(v_document) <> 'object' and operation <> 'update' then
        perform hotmesh._patch_refuse_type('{}', 'object', v_document);
    end if;
    return v_document;
end
$$;

-- The same, as a part of the statement that calls it: the plainest commands are told apart there,
-- for a call of a function costs more than what they do. (Stable, as to_jsonb is: an immutable one
-- would not become a part.)
create or replace function hotmesh._patch(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language sql
stable
as $$
    select case
        when operation = 'increment' and jsonb_typeof(argument) = 'number'
            and jsonb_typeof(document #> path) = 'number' and jsonb_typeof(document) = 'object'
            then jsonb_set(document, path,
                           to_jsonb((document #> path)::numeric + argument::numeric))
        else hotmesh._patch_apply(document, operation, path, argument) end
$$;

-- Whether this surely is a small object in which there is no other. (A brace in a text may be one.)
create or replace function hotmesh._patch_is_flat(argument jsonb)
returns boolean
language sql
stable
as $$
    select pg_column_size(argument) < 1000 and argument::text ~ '^\{[^{]*$'
$$;

-- The merge of such a one into the whole document, as a part of the statement, too.
create or replace function hotmesh._patch_lay(document jsonb, argument jsonb)
returns jsonb
language sql
stable
as $$
    select case when jsonb_typeof(document) = 'object' then document || argument
                else hotmesh._patch_apply(document, 'merge', '{}', argument) end
$$;

-- What a command answers: the document, or what is now at its path.
create or replace function hotmesh._patch_answer(document jsonb, operation text, path text[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when operation in ('set', 'merge', 'delete') then document
                else document #> path end
$$;
