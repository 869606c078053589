-- 82 find: jobs by what their documents say. Conditions become one statement whose text holds only
-- operators and numbers: $1 is the entity, $2 an array of all paths and values. A number compares
-- with numbers, a text with texts; a value of another type never matches and never fails. An index
-- of `entity_create_index` has a key that is small for every value, so that no document can be too
-- large for it: `{}` stands for objects, arrays and long texts. Errors: 22023, MSH40 of the job.

--@ state
create index jobs_entity on hotmesh.jobs (entity, id);

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

create or replace function hotmesh._find_index_name(entity text, path text[], method text)
returns name
language sql
stable
as $$
    select format('jobs_%s_%s_%s', left(trim('_' from regexp_replace(
               lower(entity || '_' || array_to_string(path, '_')), '[^a-z0-9]+', '_', 'g')), 40),
           method, left(md5(jsonb_build_array(entity, path, method)::text), 8))::name
$$;

-- What an index holds of the value at a path, which is an SQL expression.
create or replace function hotmesh._find_key(path text)
returns text
language sql
immutable
as $$
    select format(
        '(case when jsonb_typeof(context #> %1$s) in (''object'', ''array'')'
        || ' or octet_length(context #>> %1$s) > 1500 then ''{}'' else context #> %1$s end)', path)
$$;

-- One test, exactly; path and value are SQL expressions over what is bound.
create or replace function hotmesh._find_test(operator text, path text, value text)
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
        end, '(context #> ' || path || ')', value)
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
        else '' end, hotmesh._find_key(path), value)
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

create or replace function hotmesh._find_has_index(entity text, path text[], method text)
returns boolean
language sql
stable
as $$
    select exists (
        select from pg_class c
        where c.relnamespace = to_regnamespace(quote_ident((current_schemas(false))[2]))
          and c.relname = hotmesh._find_index_name(entity, path, method) and c.relkind = 'i')
$$;

create or replace function hotmesh._find_clause(
    entity text, names text[], operator text, path text, value text)
returns text
language sql
stable
as $$
    select hotmesh._find_test(operator, path, value)
        || case when hotmesh._find_has_index(entity, names, 'btree')
                then hotmesh._find_narrow_path(operator, path, value) else '' end
        || case when hotmesh._find_has_index(entity, '{}', 'gin')
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
    if octet_length(coalesce(entity, '')) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'find needs the name of an entity', format('It was %L.', left(entity, 60)),
            'Name what the jobs were started with; by default it is the workflow''s name.');
    elsif coalesce(take, 0) not between 1 and 10000 or coalesce(skip, -1) < 0 then
        perform hotmesh._refuse_argument(
            format('no such page: take %s, skip %s', take, skip),
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

-- ------------------------------------------------------------------ indexes

create or replace function hotmesh._find_check_index(entity text, field text, method text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._find_check_page(entity, 1, 0, null, false, null);
    if coalesce(method, '') not in ('btree', 'gin') then
        perform hotmesh._refuse_argument(
            format('no such kind of index: %s', left(method, 60)),
            'A btree serves $eq $in $gt $gte $lt $lte of a path, a gin $contains of a path, or $eq '
            || 'and $contains of all paths if no field is named.',
            'Say btree or gin.');
    elsif method = 'btree' and field is null then
        perform hotmesh._refuse_argument(
            'a btree needs a field', 'None was named.', 'Name a path, such as "address.city".');
    end if;
end
$$;

-- What an index is of; null for the whole document.
create or replace function hotmesh._find_expression(path text[], method text)
returns text
language sql
stable
as $$
    select case
        when method = 'btree' then hotmesh._find_key(format('%L::text[]', path))
        when path <> '{}' then format('(context #> %L::text[])', path)
    end
$$;

-- What makes the index, in manner `how`; nothing if it is there. The planner reads no statistics
-- off a partial index, so its expression has an object of its own.
create or replace function hotmesh._find_ddl(entity text, field text, method text, how text)
returns text[]
language plpgsql
stable
as $$
declare
    v_schema text := (current_schemas(false))[2];
    v_path text[] := hotmesh._path_parse(field);
    v_name text := hotmesh._find_index_name(entity, v_path, method);
    v_of text := hotmesh._find_expression(v_path, method);
    v_valid boolean := (  -- or somebody builds it now
        select i.indisvalid or exists (
            select from pg_stat_progress_create_index b where b.index_relid = i.indexrelid)
        from pg_index i
        where i.indexrelid = to_regclass(format('%I.%I', v_schema, v_name)));
begin
    if v_valid then
        return '{}';
    end if;
    return array_remove(array[
        case when not v_valid then format('drop index %s %I.%I', how, v_schema, v_name) end,
        format('create index %s if not exists %I on %I.jobs using %I (%s%s) where entity = %L',
               how, v_name, v_schema, method, coalesce(v_of, 'context'),
               case method when 'gin' then ' jsonb_path_ops' end, entity),
        case when v_of is not null then format(
            'create statistics if not exists %1$I.%2$I on (%3$s) from %1$I.jobs',
            v_schema, v_name, v_of) end,
        format('analyze %I.jobs', v_schema)], null);
end
$$;

create or replace function hotmesh.entity_index_ddl(
    app text, entity text, field text default null, method text default 'btree')
returns setof text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_index(entity, field, method);
    return query
    select d.statement
    from unnest(hotmesh._find_ddl(entity, field, method, 'concurrently')) d (statement)
    where pg_has_role(
        session_user, (select c.relowner from pg_class c where c.oid = 'jobs'::regclass), 'usage');
end
$$;
comment on function hotmesh.entity_index_ddl(text, text, text, text) is
'The statements by which an owner of the tables builds the index of `entity_create_index` without
stopping anybody: outside of a transaction, one by one. No rows: it is there, or is not yours to
build. Raises 22023.';

create or replace function hotmesh.entity_create_index(
    app text, entity text, field text default null, method text default 'btree')
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set lock_timeout = '10s'
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_index(entity, field, method);
    perform hotmesh._app_run(hotmesh._find_ddl(entity, field, method, ''));
    return hotmesh._find_index_name(entity, hotmesh._path_parse(field), method);
end
$$;
comment on function hotmesh.entity_create_index(text, text, text, text) is
'An index for `entity_find`, and its name; nothing happens if it is there. btree: of the value at a
path; gin: what the value there contains, or the whole document without a field. Stops the app''s
writers while it builds; see entity_index_ddl. Raises 22023.';
