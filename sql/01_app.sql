-- 01 app: a tenant is a schema. The schema hotmesh holds one empty parent per noun; an app's schema holds a child of each, so that
-- `select ... from hotmesh.jobs` sees every app and `my_app.jobs` is an ordinary table. The archive's tables are templates, not parents.
-- `app_create` and `app_upgrade` take the same way: make what is missing, then repair each table until it equals its parent.
-- What the owner of an app added to its tables (columns, indexes, constraints, triggers, tuning) stays; the engine's own names are the engine's.
-- Every statement that is built from a name runs in `_app_run`. Errors: MSH00 unknown app, MSH01 app exists, MSH02 open jobs, MSH03 schema taken.

--@ state
create table hotmesh.apps (
    name text not null,
    schema_name text not null,
    revision integer not null,
    settings jsonb not null default '{}',
    created_at timestamptz not null,
    constraint apps_pkey primary key (name),
    constraint schemas_belong_to_one_app unique (schema_name),
    constraint schema_names_need_no_quotes check (schema_name ~ '^[a-z][a-z0-9_]{0,62}$'),
    constraint settings_are_an_object check (jsonb_typeof(settings) = 'object')
);
comment on table hotmesh.apps is 'One row per app: a tenant with a schema and tables of its own.';
comment on column hotmesh.apps.name is 'The name its users call it by, for instance my-app.';
comment on column hotmesh.apps.schema_name is 'Its schema: the name in lower case, each other character an underscore.';
comment on column hotmesh.apps.revision is 'The shape of its tables; app_upgrade raises it to that of the installed engine.';
comment on column hotmesh.apps.settings is 'What the app asks for, for instance limits on sizes.';
comment on column hotmesh.apps.created_at is 'When it was created.';
select pg_catalog.pg_extension_config_dump('hotmesh.apps', '');

--@ behaviour

-- The shape of an app's tables. Raise it with every change to a parent; doors serve the revision before it as well.
create or replace function hotmesh._app_revision()
returns integer
language sql
immutable
as $$
    select 1
$$;

-- Plain ASCII, whatever the database's collation: the same name folds alike after a restore elsewhere.
create or replace function hotmesh._app_schema(name text)
returns text
language sql
immutable
as $$
    select regexp_replace(lower(name collate "C"), '[^a-z0-9]', '_', 'g')
$$;

create or replace function hotmesh._app_tables()
returns setof text
language sql
stable
as $$
    select c.relname::text
    from pg_class c
    where c.relnamespace = to_regnamespace('hotmesh') and c.relkind = 'r' and c.relname <> 'apps'
    order by c.relname
$$;

-- Names -------------------------------------------------------------------------------------------------------------------------

create or replace function hotmesh._app_refuse_unknown(app text)
returns void
language plpgsql
as $$
declare
    v_name text := (select a.name from hotmesh.apps a where a.schema_name = hotmesh._app_schema(app));
begin
    raise exception 'unknown app "%"', app using
        errcode = 'MSH00',
        detail = case when v_name is null then 'No app of this name was created in this database.'
                      else format('There is an app of a similar name: "%s".', v_name) end,
        hint = case when v_name is null then format('Create it: select hotmesh.app_create(%L)', app)
                    else 'Names are written as they were given to app_create, or as the schema is called.' end;
end
$$;

create or replace function hotmesh._app_refuse_role(app text, role text)
returns void
language plpgsql
as $$
begin
    raise exception 'role "%" may not use app "%"', role, app using
        errcode = '42501',
        detail = 'The role has no USAGE on the schema of the app.',
        hint = format('Its owner can give it a key: select hotmesh.app_grant(%L, %L, ''client'')', app, role);
end
$$;

create or replace function hotmesh._app_get(app text)
returns hotmesh.apps
language plpgsql
stable
as $$
declare
    v_app hotmesh.apps;
begin
    select (a::hotmesh.apps).* into v_app from hotmesh.apps a where a.name = app or a.schema_name = app;
    if not found then
        perform hotmesh._app_refuse_unknown(app);
    end if;
    return v_app;
end
$$;

-- The first act of every door: from here to its return, unqualified tables are those of the app. The caller is asked for, not the door's owner.
create or replace function hotmesh._enter(app text)
returns void
language plpgsql
as $$
declare
    v_schema text;
    v_role name := coalesce(nullif(current_setting('role'), 'none')::name, session_user);
begin
    select a.schema_name into v_schema from hotmesh.apps a where a.name = app;
    if v_schema is null then
        v_schema := (hotmesh._app_get(app)).schema_name;
    end if;
    if not has_schema_privilege(v_role, v_schema, 'usage') then
        perform hotmesh._app_refuse_role(app, v_role);
    end if;
    perform set_config('search_path', 'pg_catalog, ' || v_schema || ', hotmesh, pg_temp', true);
end
$$;

-- The schema of the app that was entered.
create or replace function hotmesh._app_here()
returns text
language sql
stable
as $$
    select (current_schemas(false))[2]::text
$$;

create or replace function hotmesh._app_check_name(app text)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_rule constant text := 'A name begins with a letter and has at most 63 bytes, for instance my-app.';
begin
    if app is null or app = '' then
        perform hotmesh._refuse_argument('an app needs a name', 'The name was empty.', v_rule);
    elsif octet_length(app) > 63 then
        perform hotmesh._refuse_argument(format('the name of app "%s" is too long', left(app, 20) || '…'),
            format('It has %s bytes, and schemas have at most 63.', octet_length(app)), v_rule);
    elsif v_schema !~ '^[a-z]' then
        perform hotmesh._refuse_argument(format('the name of app "%s" does not begin with a letter', app),
            format('Its schema would be called "%s".', v_schema), v_rule);
    elsif v_schema in ('hotmesh', 'public', 'information_schema') or v_schema like 'pg\_%' then
        perform hotmesh._refuse_argument(format('the name "%s" is reserved', app),
            format('Its schema would be "%s", which belongs to Postgres or to the engine.', v_schema),
            'Choose another name, for instance my-app.');
    end if;
end
$$;

create or replace function hotmesh._app_check_free(app text)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_name text := (select a.name from hotmesh.apps a where a.schema_name = v_schema);
begin
    if v_name is not null then
        raise exception 'app "%" already exists', app using
            errcode = 'MSH01',
            detail = format('The app "%s" has the schema "%s", to which the name "%s" folds.', v_name, v_schema, app),
            hint = 'Use that app, or choose a name that differs in more than case and punctuation.';
    elsif to_regnamespace(v_schema) is not null then
        raise exception 'the schema "%" of app "%" is taken', v_schema, app using
            errcode = 'MSH03',
            detail = format('A schema "%s" exists, and it is no app''s.', v_schema),
            hint = 'Choose another name for the app, or rename that schema.';
    end if;
end
$$;

create or replace function hotmesh._app_check_right()
returns void
language plpgsql
as $$
begin
    if not has_database_privilege(current_database(), 'create') then
        raise exception 'the owner of the engine may not create schemas in database "%"', current_database() using
            errcode = '42501',
            detail = format('An app is a schema, and the role "%s" has no CREATE on the database.', current_user),
            hint = format('grant create on database %I to %I', current_database(), current_user);
    end if;
end
$$;

create or replace function hotmesh._app_lock(schema text)
returns void
language sql
as $$
    select pg_advisory_xact_lock(hashtextextended('hotmesh app ' || schema, 0))
$$;

-- Repair: each function names the statements that make a child equal to its parent -------------------------------------------------

create or replace function hotmesh._app_run(statements text[])
returns void
language plpgsql
as $$
declare
    v_statement text;
begin
    foreach v_statement in array statements loop
        execute v_statement;
    end loop;
end
$$;

create or replace function hotmesh._app_columns(relation regclass)
returns table (name name, place smallint, type text, not_null boolean, value text)
language sql
stable
as $$
    select a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attnum
$$;

create or replace function hotmesh._app_repair_columns(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s %s', child, r.change)
    from hotmesh._app_columns(parent) p
    left join hotmesh._app_columns(child) c on c.name = p.name
    cross join lateral (values
        (1, case when c.name is null then format('add column %I %s', p.name, p.type || coalesce(' default ' || p.value, '')) end),
        (2, case when c.name is not null and p.value is distinct from coalesce(c.value, '')
                 then format('alter column %I set default ', p.name) || p.value end),
        (3, case when p.not_null and c.not_null is not true then format('alter column %I set not null', p.name) end)
    ) r (step, change)
    where r.change is not null
    order by p.place, r.step
$$;

create or replace function hotmesh._app_repair_constraints(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s drop constraint if exists %I, add constraint %I %s',
                  child, p.conname, p.conname, pg_get_constraintdef(p.oid))
    from pg_constraint p
    left join pg_constraint c on c.conrelid = child and c.conname = p.conname
    where p.conrelid = parent and p.contype in ('p', 'u', 'x', 'c', 'f') and coalesce(c.coninhcount, 0) = 0
      and pg_get_constraintdef(p.oid) is distinct from pg_get_constraintdef(c.oid)
    order by p.contype = 'f', p.conname
$$;

-- The definition of every valid index that serves no constraint, as it would read on another table.
create or replace function hotmesh._app_indexes(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select c.relname, c.oid, regexp_replace(pg_get_indexdef(c.oid), ' ON (ONLY )?\S+ USING ', format(' ON %s USING ', target))
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    where i.indrelid = relation and i.indisvalid
      and not exists (select from pg_constraint k where k.conindid = c.oid and k.conrelid = relation)
$$;

create or replace function hotmesh._app_repair_indexes(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('drop index if exists %I.%I', n.nspname, p.name),
        p.definition || coalesce(' tablespace ' || quote_ident(t.spcname), '')])
    from hotmesh._app_indexes(parent, child) p
    left join hotmesh._app_indexes(child, child) c on c.name = p.name
    join pg_class r on r.oid = child
    join pg_namespace n on n.oid = r.relnamespace
    left join pg_tablespace t on t.oid = r.reltablespace
    where p.definition is distinct from c.definition
    order by p.name
$$;

create or replace function hotmesh._app_storage(relation regclass)
returns setof text
language sql
stable
as $$
    select unnest(r.reloptions) from pg_class r where r.oid = relation
    union all
    select 'toast.' || unnest(t.reloptions) from pg_class r join pg_class t on t.oid = r.reltoastrelid where r.oid = relation
$$;

create or replace function hotmesh._app_repair_storage(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s set (%s)', child, string_agg(o.name, ', ' order by o.name))
    from (select hotmesh._app_storage(parent) except select hotmesh._app_storage(child)) o (name)
    where (select r.relkind from pg_class r where r.oid = child) = 'r'
    having count(*) > 0
$$;

create or replace function hotmesh._app_triggers(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select t.tgname, t.oid, regexp_replace(pg_get_triggerdef(t.oid), ' ON \S+ ', format(' ON %s ', target))
    from pg_trigger t
    where t.tgrelid = relation and not t.tgisinternal and t.tgenabled = 'O'
$$;

create or replace function hotmesh._app_repair_triggers(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[format('drop trigger if exists %I on %s', p.name, child), p.definition])
    from hotmesh._app_triggers(parent, child) p
    left join hotmesh._app_triggers(child, child) c on c.name = p.name
    where p.definition is distinct from c.definition
    order by p.name
$$;

create or replace function hotmesh._app_repair_comments(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    with target (name, wanted, present) as (
        select format('table %s', child), obj_description(parent, 'pg_class'), obj_description(child, 'pg_class')
        union all
        select format('column %s.%I', child, p.name), col_description(parent, p.place), col_description(child, c.place)
        from hotmesh._app_columns(parent) p
        join hotmesh._app_columns(child) c on c.name = p.name
        union all
        select format('constraint %I on %s', p.conname, child),
               obj_description(p.oid, 'pg_constraint'), obj_description(c.oid, 'pg_constraint')
        from pg_constraint p
        join pg_constraint c on c.conname = p.conname and c.conrelid = child
        where p.conrelid = parent
        union all
        select format('index %s', c.place::regclass), obj_description(p.place, 'pg_class'), obj_description(c.place, 'pg_class')
        from hotmesh._app_indexes(parent, child) p
        join hotmesh._app_indexes(child, child) c on c.name = p.name
        union all
        select format('trigger %I on %s', p.name, child), obj_description(p.place, 'pg_trigger'), obj_description(c.place, 'pg_trigger')
        from hotmesh._app_triggers(parent, child) p
        join hotmesh._app_triggers(child, child) c on c.name = p.name)
    select format('comment on %s is %L', t.name, t.wanted)
    from target t
    where t.wanted <> coalesce(t.present, '')
$$;

-- Indexes are made by name afterwards: `like` would choose names of its own.
create or replace function hotmesh._app_repair_missing(schema text, noun text)
returns setof text
language sql
stable
as $$
    select format('create table %I.%I (like hotmesh.%I including all excluding indexes) %s', schema, noun, noun,
                  case when noun like '%\_archive' then 'partition by range (closed_at)' else format('inherits (hotmesh.%I)', noun) end)
    where to_regclass(format('%I.%I', schema, noun)) is null
$$;

create or replace function hotmesh._app_repair_view(schema text, archive text)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create or replace view %I.%I as select %s from %I.%I union all select %s from %I.%I',
               schema, n.noun || '_all', n.columns, schema, n.noun, n.columns, schema, archive),
        format('comment on view %I.%I is %L', schema, n.noun || '_all', format('The rows of %s and of its archive.', n.noun))])
    from (
        select m.noun, string_agg(quote_ident(c.name), ', ' order by c.place) as columns
        from (select left(archive, -length('_archive'))) m (noun)
        cross join lateral hotmesh._app_columns(to_regclass(format('hotmesh.%I', m.noun))) c
        group by m.noun) n
    where archive like '%\_archive'
$$;

create or replace function hotmesh._app_furnish_table(schema text, noun text)
returns void
language plpgsql
as $$
declare
    v_parent regclass := to_regclass(format('hotmesh.%I', noun));
    v_child regclass;
begin
    perform hotmesh._app_run(array(select hotmesh._app_repair_missing(schema, noun)));
    v_child := to_regclass(format('%I.%I', schema, noun));
    perform hotmesh._app_run(array(select hotmesh._app_repair_columns(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_constraints(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_indexes(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_storage(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_triggers(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_comments(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._app_repair_view(schema, noun)));
end
$$;

-- Months of the archive: attached, not created in place, for `partition of` would lock out readers.
create or replace function hotmesh._app_month(schema text, archive text, month timestamp)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create table %1$I.%2$I (like %1$I.%3$I including all excluding indexes)',
               schema, m.name, archive),
        format('comment on table %I.%I is %L', schema, m.name, format(
            'The rows of %s that closed in %s (UTC).', archive, to_char(month, 'YYYY-MM'))),
        format('alter table %1$I.%3$I attach partition %1$I.%2$I for values from (%4$L) to (%5$L)',
               schema, m.name, archive,
               month::text || '+00', (month + interval '1 month')::text || '+00')])
    from (select format('%s_%s', archive, to_char(month, 'YYYY_MM'))) m (name)
    where to_regclass(format('%I.%I', schema, m.name)) is null
$$;

create or replace function hotmesh._app_open_month(schema text, at timestamptz)
returns void
language plpgsql
as $$
declare
    v_month timestamp := date_trunc('month', at at time zone 'UTC');
    v_last text := 'jobs_attributes_archive_' || to_char(v_month, 'YYYY_MM');
begin
    if to_regclass(format('%I.%I', schema, v_last)) is null then
        perform hotmesh._app_lock(schema);
        perform hotmesh._app_run(array(
            select hotmesh._app_month(schema, t.name, v_month)
            from hotmesh._app_tables() t (name)
            where t.name like '%\_archive'));
    end if;
end
$$;

create or replace function hotmesh._app_furnish(schema text)
returns void
language plpgsql
as $$
declare
    v_noun text;
begin
    perform hotmesh._app_run(array[format('revoke all on schema %I from public', schema)]);
    for v_noun in select hotmesh._app_tables() loop
        perform hotmesh._app_furnish_table(schema, v_noun);
    end loop;
    perform hotmesh._app_open_month(schema, hotmesh.now());
    perform hotmesh._app_open_month(schema, hotmesh.now() + interval '1 month');
end
$$;

-- Doors -------------------------------------------------------------------------------------------------------------------------

create or replace function hotmesh.app_create(app text)
returns hotmesh.apps
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_app hotmesh.apps;
begin
    perform hotmesh._app_check_name(app);
    perform hotmesh._app_lock(v_schema);
    perform hotmesh._app_check_free(app);
    perform hotmesh._app_check_right();
    perform hotmesh._app_run(array[format('create schema %I', v_schema)]);
    insert into hotmesh.apps as a (name, schema_name, revision, created_at)
    values (app, v_schema, hotmesh._app_revision(), hotmesh.now())
    returning (a::hotmesh.apps).* into v_app;
    perform hotmesh._app_furnish(v_schema);
    return v_app;
end
$$;
comment on function hotmesh.app_create(text) is
'Create an app: a schema with its tables. Raises MSH01 if the name folds to that of an app, MSH03 if its schema is taken, 22023 if the name is not fit.';

create or replace function hotmesh._app_refurnish(app hotmesh.apps)
returns hotmesh.apps
language plpgsql
as $$
declare
    v_app hotmesh.apps;
begin
    perform hotmesh._app_lock(app.schema_name);
    perform hotmesh._app_furnish(app.schema_name);
    update hotmesh.apps a
    set revision = hotmesh._app_revision()
    where a.name = app.name
    returning (a::hotmesh.apps).* into v_app;
    return v_app;
end
$$;

create or replace function hotmesh._app_refuse_open(app hotmesh.apps)
returns void
language plpgsql
as $$
declare
    v_count bigint;
begin
    perform hotmesh._enter(app.name);
    lock table jobs in access exclusive mode;
    select count(*) into v_count from (select from jobs j where j.closed_at is null limit 1000) o;
    if v_count > 0 then
        raise exception 'app "%" has open jobs', app.name using
            errcode = 'MSH02',
            detail = format('%s of its jobs are open%s.', v_count, case when v_count = 1000 then ', at least' else '' end),
            hint = format('Let them end, or drop them too: select hotmesh.app_drop(%L, force => true)', app.name);
    end if;
end
$$;

create or replace function hotmesh.app_drop(app text, force boolean default false)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    perform hotmesh._app_lock(v_app.schema_name);
    if to_regnamespace(v_app.schema_name) is not null then
        if force is not true then
            perform hotmesh._app_refuse_open(v_app);
        end if;
        perform hotmesh._app_run(array[format('drop schema %I cascade', v_app.schema_name)]);
    end if;
    delete from hotmesh.apps a where a.name = v_app.name;
end
$$;
comment on function hotmesh.app_drop(text, boolean) is
'Drop an app with its schema and all that is in it. Raises MSH02 if it has open jobs and is not forced, MSH00 if there is no such app.';
