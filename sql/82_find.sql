-- 82 find: jobs by what their documents say. Conditions become one statement whose text holds only
-- operators and numbers: $1 is the entity, $2 an array of all paths and values. A number compares
-- with numbers, a text with texts; a value of another type never matches and never fails. Beside
-- each test stands what an index (79) can say of it. Errors: 22023, MSH40 of the job.

--@ state
create type hotmesh.find_part as (clause text, bound jsonb);
comment on type hotmesh.find_part is 'Conditions as SQL, and the paths and values bound so far.';

--@ behaviour
create or replace function hotmesh._find_refuse(message text, given jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        message,
        format('It was %s.', coalesce(left(given::text, 200), 'null')),
        'Conditions are {"path": value} or {"path": {"$gt": value}}, with $eq $ne $gt $gte $lt '
        || '$lte $in $exists $contains $like, joined by {"$and": […]} and {"$or": […]}.');
end
$$;

-- Whether a value is fit for an operator; null for an operator that is not known.
create or replace function hotmesh._find_fits(operator text, value jsonb)
returns boolean
language sql
immutable
as $$
    select case
        when operator in ('$eq', '$ne', '$contains') then true
        when operator in ('$gt', '$gte', '$lt', '$lte')
            then jsonb_typeof(value) in ('number', 'string')
        when operator = '$in' then
            case when jsonb_typeof(value) = 'array' then jsonb_array_length(value) <= 10000
                 else false end
        when operator = '$exists' then jsonb_typeof(value) = 'boolean'
        when operator = '$like' then
            jsonb_typeof(value) = 'string' and value #>> '{}' !~ '(^|[^\\])(\\\\)*\\$'
    end
$$;

create or replace function hotmesh._find_check(operator text, value jsonb)
returns void
language plpgsql
as $$
declare
    v_fits boolean := hotmesh._find_fits(operator, value);
begin
    if v_fits is null then
        perform hotmesh._find_refuse(
            format('unknown operator: %s', left(operator, 60)), to_jsonb(operator));
    elsif not v_fits then
        perform hotmesh._find_refuse(
            format('%s takes %s', operator, case operator
                when '$in' then 'an array of up to 10000 values'
                when '$exists' then 'true or false'
                when '$like' then 'a pattern: a text that ends in no lone backslash'
                else 'a number or a text' end),
            value);
    end if;
end
$$;

create or replace function hotmesh._find_values(list jsonb)
returns jsonb[]
language sql
immutable
parallel safe
as $$
    select array(select e.value from jsonb_array_elements(list) e)
$$;

-- A document that holds just one value, at a path.
create or replace function hotmesh._find_nested(path text[], value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_name text;
    v_nested jsonb := value;
begin
    foreach v_name in array array(
        select p.name from unnest(path) with ordinality p (name, n) order by p.n desc)
    loop
        v_nested := jsonb_build_object(v_name, v_nested);
    end loop;
    return v_nested;
end
$$;

-- One test, exactly; place and value are SQL expressions over what is bound.
create or replace function hotmesh._find_test(operator text, place text, value text)
returns text
language sql
immutable
as $$
    select format(case operator
        when '$eq' then '%1$s = %2$s'
        when '$ne' then '%1$s <> %2$s'
        when '$gt' then '%1$s > %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$gte' then '%1$s >= %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$lt' then '%1$s < %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$lte' then '%1$s <= %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$in' then '%1$s = any (hotmesh._find_values(%2$s))'
        when '$exists' then '(%1$s is not null) = (%2$s)::boolean'
        when '$contains' then '%1$s @> %2$s'
        when '$like' then 'jsonb_typeof(%1$s) = ''string'' and %1$s #>> ''{}'' like %2$s #>> ''{}'''
        end, place, value)
$$;

-- What an index of the path can say of a test: it is true wherever the test is.
create or replace function hotmesh._find_narrow_path(operator text, path text, value text)
returns text
language sql
immutable
as $$
    select format(case operator
        when '$eq' then ' and %1$s = any (array[%2$s, ''{}''])'
        when '$gt' then ' and %1$s > %2$s'
        when '$gte' then ' and %1$s >= %2$s'
        when '$lt' then ' and (%1$s < %2$s or %1$s = ''{}'')'
        when '$lte' then ' and (%1$s <= %2$s or %1$s = ''{}'')'
        when '$in' then ' and %1$s = any (array_append(hotmesh._find_values(%2$s), ''{}''))'
        else '' end, hotmesh._index_key(path), value)
$$;

-- The same of an index of the whole document. Numbers in a path may mean an array or a name.
create or replace function hotmesh._find_narrow_document(
    operator text, names text[], path text, value text)
returns text
language sql
immutable
as $$
    select case
        when exists (select from unnest(names) n (name) where n.name ~ '^\s*[-+]?\d+$') then ''
        when operator = '$eq' then
            format(' and context @> hotmesh._find_nested(%s, %s)', path, value)
        when operator = '$contains' then
            format(' and (context @> hotmesh._find_nested(%1$s, %2$s)'
                   || ' or context @> hotmesh._find_nested(%1$s, ''[]'' || %2$s))', path, value)
        else '' end
$$;

-- What the planner is to think of a test: half of the rows. What an index can say is said beside
-- it, and Postgres would multiply the two, and sort a million jobs for the newest twenty.
create or replace function hotmesh._find_opaque(test text)
returns text
language sql
immutable
as $$
    select 'case when ' || test || ' then true else false end'
$$;

-- Without an entity it is the user's own facts that are tested: a path begins with a fact's name.
create or replace function hotmesh._find_clause(
    entity text, names text[], operator text, path text, value text)
returns text
language sql
stable
as $$
    select case
        when entity is null then hotmesh._find_test(operator, format(
            '((select a.value from jobs_attributes a where a.job_id = jobs.id'
            || ' and a.field = ''_'' || (%1$s)[1]) #> (%1$s)[2:])', path), value)
        when operator = '$contains' and hotmesh._index_there(entity, names, 'gin') then
            hotmesh._find_test(operator, format('(context #> %s)', path), value)
        else hotmesh._find_opaque(
            hotmesh._find_test(operator, format('(context #> %s)', path), value)) end
        || case when hotmesh._index_there(entity, names, 'btree')
                then hotmesh._find_narrow_path(operator, path, value) else '' end
        || case when hotmesh._index_there(entity, '{}', 'gin')
                then hotmesh._find_narrow_document(operator, names, path, value) else '' end
$$;

-- The tests of one path. Their values are bound behind it.
create or replace function hotmesh._find_field(
    entity text, field text, condition jsonb, bound jsonb)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_names text[] := hotmesh._path_parse(field);
    v_path text := format('hotmesh._path_parse($2 ->> %s)', jsonb_array_length(bound));
    v_tests jsonb := case
        when jsonb_path_exists(
            condition, 'strict $.keyvalue().key ? (@ starts with "$")', '{}', true) then condition
        else jsonb_build_object('$eq', condition) end;
    v_clauses text[] := '{}';
    v_bound jsonb := bound || to_jsonb(array[field]);
    v_operator text;
    v_value text;
begin
    foreach v_operator in array array(select jsonb_object_keys(v_tests)) loop
        perform hotmesh._find_check(v_operator, v_tests -> v_operator);
        v_value := format('($2 -> %s)', jsonb_array_length(v_bound));
        v_bound := v_bound || jsonb_build_array(v_tests -> v_operator);
        v_clauses := v_clauses
            || hotmesh._find_clause(entity, v_names, v_operator, v_path, v_value);
    end loop;
    return (array_to_string(v_clauses, ' and '), v_bound)::hotmesh.find_part;
end
$$;

create or replace function hotmesh._find_check_size(size integer, depth integer)
returns void
language plpgsql
as $$
begin
    if size > 400 or depth > 20 then
        perform hotmesh._refuse_argument(
            'too many conditions', 'Up to about 200 tests, 20 levels deep.',
            'Ask with $in, or in several calls.');
    end if;
end
$$;

-- All conditions of an object: every one of them must hold.
create or replace function hotmesh._find_group(
    entity text, conditions jsonb, bound jsonb, depth integer)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_clause text := 'true';
    v_part hotmesh.find_part;
    v_key text;
begin
    if jsonb_typeof(conditions) is distinct from 'object' then
        perform hotmesh._find_refuse('conditions are no JSON object', conditions);
    end if;
    v_part.bound := bound;
    foreach v_key in array array(select jsonb_object_keys(conditions)) loop
        perform hotmesh._find_check_size(jsonb_array_length(v_part.bound), depth);
        if v_key in ('$and', '$or') then
            v_part := hotmesh._find_list(
                entity, v_key, conditions -> v_key, v_part.bound, depth + 1);
        elsif v_key like '$%' then
            perform hotmesh._find_refuse(
                format('unknown operator: %s', left(v_key, 60)), conditions);
        else
            v_part := hotmesh._find_field(entity, v_key, conditions -> v_key, v_part.bound);
        end if;
        v_clause := v_clause || ' and (' || v_part.clause || ')';
    end loop;
    return (v_clause, v_part.bound)::hotmesh.find_part;
end
$$;

create or replace function hotmesh._find_list(
    entity text, operator text, list jsonb, bound jsonb, depth integer)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_clauses text[] := '{}';
    v_bound jsonb := bound;
    v_part hotmesh.find_part;
    v_group jsonb;
begin
    if jsonb_typeof(list) is distinct from 'array' or list = '[]' then
        perform hotmesh._find_refuse(format('%s takes an array of conditions', operator), list);
    end if;
    foreach v_group in array hotmesh._find_values(list) loop
        v_part := hotmesh._find_group(entity, v_group, v_bound, depth);
        v_bound := v_part.bound;
        v_clauses := v_clauses || ('(' || v_part.clause || ')');
    end loop;
    return (array_to_string(v_clauses, case operator when '$or' then ' or ' else ' and ' end),
            v_bound)::hotmesh.find_part;
end
$$;

-- The only dynamic statement: its text is made of what stands in this room.
create or replace function hotmesh._find_rows(
    query text, entity text, bound jsonb, take integer, skip integer, keys text[], before bigint)
returns table (key text, context jsonb, status bigint)
language plpgsql
as $$
begin
    return query execute query using entity, bound, take, skip, keys, before;
end
$$;

create or replace function hotmesh._find_check_page(
    entity text, take integer, skip integer, order_by text, descending boolean, before text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._index_check_entity(entity);
    if coalesce(take, -1) not between 0 and 10000 or coalesce(skip, -1) < 0 then
        perform hotmesh._refuse_argument(
            format('no such page: take %s, skip %s',
                   coalesce(take::text, 'null'), coalesce(skip::text, 'null')),
            'At most 10000 jobs at a time, from 0 on.', 'Leave both out for the newest 1000.');
    elsif order_by is null and descending or order_by is not null and before is not null then
        perform hotmesh._refuse_argument(
            'this order can''t be turned or continued so',
            'Jobs come newest first, and `before` continues that; or in the order of a path, which '
            || '`descending` may turn and `skip` continues.',
            'Leave out `before`, or name a path to order by.');
    end if;
end
$$;

create or replace function hotmesh._find_place(key text)
returns bigint
language plpgsql
stable
as $$
declare
    v_id bigint := (select max(j.id) from jobs_all j where j.key = _find_place.key);
begin
    if v_id is null and key is not null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_id;
end
$$;

create or replace function hotmesh.entity_find(
    app text, entity text, conditions jsonb default '{}', take integer default 1000,
    skip integer default 0, order_by text default null, descending boolean default false,
    before text default null, keys text[] default null)
returns table (key text, context jsonb, status bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_part hotmesh.find_part;
    v_query text;
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_page(entity, take, skip, order_by, descending, before);
    v_part := hotmesh._find_group(entity, conditions, jsonb_build_array(order_by), 0);
    v_query := 'select key, context, status from jobs where entity = $1 and ' || v_part.clause
        || case when keys is null then '' else ' and key = any ($5)' end
        || case when before is null then '' else ' and id < $6' end
        || ' order by '
        || case when order_by is null then ''
                else 'context #> hotmesh._path_parse($2 ->> 0) '
                     || case when descending then 'desc nulls last, ' else 'nulls last, ' end end
        || 'id desc limit $3 offset $4';
    return query
    select f.key, f.context, f.status
    from hotmesh._find_rows(
        v_query, entity, v_part.bound, take, skip, keys, hotmesh._find_place(before)) f;
end
$$;
comment on function hotmesh.entity_find(
    text, text, jsonb, integer, integer, text, boolean, text, text[]) is
'Jobs of an entity by their documents, newest first, archived ones left out. conditions:
{"path": value} or {"path": {"$gt": value}}, with $eq $ne $gt $gte $lt $lte $in $exists $contains
$like, $and and $or. `order_by` is a path, `before` the key after which the next page goes on.
Raises 22023 for conditions that make no sense, MSH40 for an unknown `before`.';
