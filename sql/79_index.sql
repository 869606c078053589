-- 79 index: what makes finding jobs fast: their entities in the order of their ids, and indexes
-- that users ask for, partial by entity. A btree's key is small for every value, so that no
-- document can be too large for it: `{}` stands for objects, arrays and long texts. A gin has no
-- pending list, for which one turn would pay in the place of many. Errors: 22023.

--@ state
create index jobs_entity on hotmesh.jobs (entity, id);

--@ behaviour
create or replace function hotmesh._index_check_entity(entity text)
returns void
language plpgsql
as $$
begin
    if octet_length(coalesce(entity, '')) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'find needs the name of an entity', format('It was %L.', left(entity, 60)),
            'Name what the jobs were started with; by default it is the workflow''s name.');
    end if;
end
$$;

create or replace function hotmesh._index_name(entity text, path text[], method text)
returns name
language sql
stable
as $$
    select format('jobs_%s_%s_%s', left(trim('_' from regexp_replace(
               lower(entity || '_' || array_to_string(path, '_')), '[^a-z0-9]+', '_', 'g')), 40),
           method, left(md5(jsonb_build_array(entity, path, method)::text), 8))::name
$$;

-- What an index holds of the value at a path, which is an SQL expression.
create or replace function hotmesh._index_key(path text)
returns text
language sql
immutable
as $$
    select format(
        '(case when jsonb_typeof(context #> %1$s) in (''object'', ''array'')'
        || ' or octet_length(context #>> %1$s) > 1500 then ''{}'' else context #> %1$s end)', path)
$$;

create or replace function hotmesh._index_there(entity text, path text[], method text)
returns boolean
language sql
stable
as $$
    select exists (
        select from pg_class c
        where c.relnamespace = to_regnamespace(quote_ident((current_schemas(false))[2]))
          and c.relname = hotmesh._index_name(entity, path, method) and c.relkind = 'i')
$$;

create or replace function hotmesh._index_check(entity text, field text, method text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._index_check_entity(entity);
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
create or replace function hotmesh._index_expression(path text[], method text)
returns text
language sql
stable
as $$
    select case
        when method = 'btree' then hotmesh._index_key(format('%L::text[]', path))
        when path <> '{}' then format('(context #> %L::text[])', path)
    end
$$;

-- What makes the index, in manner `how`; nothing if it is there. The planner reads no statistics
-- off a partial index, so its expression has an object of its own.
create or replace function hotmesh._index_ddl(entity text, field text, method text, how text)
returns text[]
language plpgsql
stable
as $$
declare
    v_schema text := (current_schemas(false))[2];
    v_path text[] := hotmesh._path_parse(field);
    v_name text := hotmesh._index_name(entity, v_path, method);
    v_of text := hotmesh._index_expression(v_path, method);
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
        format('create index %s if not exists %I on %I.jobs using %I (%s%s)%s where entity = %L',
               how, v_name, v_schema, method, coalesce(v_of, 'context'),
               case method when 'gin' then ' jsonb_path_ops' end,
               case method when 'gin' then ' with (fastupdate = off)' end, entity),
        case when v_of is not null then format(
            'create statistics if not exists %1$I.%2$I on (%3$s) from %1$I.jobs',
            v_schema, v_name, v_of) end,
        case when exists (select from jobs j where j.entity = _index_ddl.entity)
             then format('analyze %I.jobs', v_schema) end], null);
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
    perform hotmesh._index_check(entity, field, method);
    return query
    select d.statement
    from unnest(hotmesh._index_ddl(entity, field, method, 'concurrently')) d (statement)
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
    perform hotmesh._index_check(entity, field, method);
    perform hotmesh._app_run(hotmesh._index_ddl(entity, field, method, ''));
    return hotmesh._index_name(entity, hotmesh._path_parse(field), method);
end
$$;
comment on function hotmesh.entity_create_index(text, text, text, text) is
'An index for `entity_find`, and its name; nothing happens if it is there. btree: of the value at a
path; gin: what the value there contains, or the whole document without a field. Stops the app''s
writers while it builds; see entity_index_ddl. Raises 22023.';
