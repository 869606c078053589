-- 02 app: a tenant is a schema. `hotmesh.jobs` shows the rows of every app, `my_app.jobs` is a
-- plain table. The engine's owner owns both; nobody else may create anything in an app's schema.
-- A door begins with `_enter(app)`, which points unqualified tables at the app while it runs.
-- Every statement that is built from a name runs in `_app_run`. Lock: one advisory lock per app.
-- Errors: MSH00 unknown app, MSH01 app exists, MSH02 app has open jobs, MSH03 schema is taken.

--@ state
create table hotmesh.apps (
    name text not null,
    schema_name text not null,
    revision integer not null,
    settings jsonb not null default '{}',
    created_at timestamptz not null,
    constraint apps_pkey primary key (name),
    constraint a_schema_belongs_to_one_app unique (schema_name),
    constraint a_schema_name_needs_no_quotes check (schema_name ~ '^[a-z][a-z0-9_]{0,62}$'),
    constraint settings_are_an_object check (jsonb_typeof(settings) = 'object')
);
comment on table hotmesh.apps is 'One row per app: a tenant with a schema and tables of its own.';
comment on column hotmesh.apps.name is 'The name its users call it by, for instance my-app.';
comment on column hotmesh.apps.schema_name is
'Its schema: the name in lower case, with an underscore for every other character.';
comment on column hotmesh.apps.revision is
'The shape of its tables; app_upgrade raises it to that of the installed engine.';
comment on column hotmesh.apps.settings is 'What the app asks for, for instance limits on sizes.';
comment on column hotmesh.apps.created_at is 'When it was created.';
select pg_catalog.pg_extension_config_dump('hotmesh.apps', '');

--@ behaviour
-- The shape of an app's tables. Raise it with every change to a parent.
create or replace function hotmesh._app_revision()
returns integer
language sql
immutable
as $$
    select 1
$$;

-- Plain ASCII, whatever the database's collation: a name folds alike after a restore elsewhere.
create or replace function hotmesh._app_schema(name text)
returns text
language sql
immutable
as $$
    select regexp_replace(lower(name collate "C"), '[^a-z0-9]', '_', 'g')
$$;

-- The schema of the app that was entered.
create or replace function hotmesh._app_here()
returns text
language sql
stable
as $$
    select (current_schemas(false))[2]::text
$$;

create or replace function hotmesh._app_refuse_unknown(app text)
returns void
language plpgsql
as $$
declare
    v_name text := (
        select a.name from hotmesh.apps a where a.schema_name = hotmesh._app_schema(app));
begin
    raise exception 'unknown app %', hotmesh._named(app) using
        errcode = 'MSH00',
        detail = case when v_name is null then 'No app of this name was created in this database.'
                      else format('There is an app of a similar name: "%s".', v_name) end,
        hint = case when v_name is not null
                    then 'Write the name as it was given to app_create, or as its schema.'
                    when app is null then 'Every call says first which app it is for: my-app.'
                    else format('Create it: select hotmesh.app_create(%L)', left(app, 200)) end;
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
        hint = format('Its owner can give it a key: select hotmesh.app_grant(%L, %L, ''client'')',
                      app, role);
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
    select (a::hotmesh.apps).* into v_app
    from hotmesh.apps a
    where a.name = app or a.schema_name = app;
    if not found then
        perform hotmesh._app_refuse_unknown(app);
    end if;
    return v_app;
end
$$;

-- The app of a name or a schema, which the caller may use.
create or replace function hotmesh._app_admit(app text, role name)
returns hotmesh.apps
language plpgsql
stable
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    if not has_schema_privilege(role, v_app.schema_name, 'usage') then
        perform hotmesh._app_refuse_role(app, role);
    end if;
    return v_app;
end
$$;

-- The role that is asked is the caller's: a door runs as its owner, who may use every app. Returns
-- the app's settings. One statement, as every door begins with it: the path is set if the app is
-- there and the caller may use it. What else there is, the other two say. Backslashes in literals
-- of the engine mean themselves, whatever the session says; both settings end with the door.
create or replace function hotmesh._enter(app text)
returns jsonb
language plpgsql
as $$
declare
    v_app hotmesh.apps;
    v_settings jsonb;
    v_path text;
    v_strings text;
begin
    select a.settings,
           set_config('search_path', 'pg_catalog, ' || a.schema_name || ', hotmesh, pg_temp', true),
           set_config('standard_conforming_strings', 'on', true)
    into v_settings, v_path, v_strings
    from hotmesh.apps a
    where a.name = app and has_schema_privilege(
        coalesce(nullif(current_setting('role'), 'none')::name, session_user), a.schema_name,
        'usage');
    if not found then
        v_app := hotmesh._app_admit(
            app, coalesce(nullif(current_setting('role'), 'none')::name, session_user));
        v_settings := v_app.settings;
        v_path := set_config(
            'search_path', 'pg_catalog, ' || v_app.schema_name || ', hotmesh, pg_temp', true);
        v_strings := set_config('standard_conforming_strings', 'on', true);
    end if;
    return v_settings;
end
$$;

create or replace function hotmesh._app_check_name(app text)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_rule constant text := 'A name begins with a letter and has at most 63 bytes: my-app.';
begin
    if app is null or app = '' then
        perform hotmesh._refuse_argument('an app needs a name', 'The name was empty.', v_rule);
    elsif octet_length(app) > 63 then
        perform hotmesh._refuse_argument(
            format('the name of app "%s…" is too long', left(app, 20)),
            format('It has %s bytes, and schemas have at most 63.', octet_length(app)), v_rule);
    elsif v_schema !~ '^[a-z]' then
        perform hotmesh._refuse_argument(
            format('the name of app "%s" does not begin with a letter', app),
            format('Its schema would be called "%s".', v_schema), v_rule);
    elsif v_schema in ('hotmesh', 'public', 'information_schema') or v_schema like 'pg\_%' then
        perform hotmesh._refuse_argument(
            format('the name "%s" is reserved', app),
            format('Its schema would be "%s", which is Postgres'' or the engine''s.', v_schema),
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
            detail = format('The schema of app "%s" is "%s"%s.', v_name, v_schema,
                            case when v_name <> app then ', and this name would have it, too'
                                 else '' end),
            hint = 'Use that app, or a name that differs in more than case and punctuation.';
    elsif to_regnamespace(quote_ident(v_schema)) is not null then
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
declare
    v_base name := current_database();
begin
    if not has_database_privilege(v_base, 'create') then
        raise exception 'the owner of the engine may not create schemas in "%"', v_base using
            errcode = '42501',
            detail = format('An app is a schema; role "%s" has no CREATE on the database.',
                            current_user),
            hint = format('grant create on database %I to %I', v_base, current_user);
    end if;
end
$$;

-- Against two who make the same thing. False: somebody else has the lock, and `patient` was false.
create or replace function hotmesh._app_lock(schema text, patient boolean default true)
returns boolean
language plpgsql
as $$
declare
    v_lock constant bigint := hashtextextended('hotmesh app ' || schema, 0);
begin
    if not patient then
        return pg_try_advisory_xact_lock(v_lock);
    end if;
    perform pg_advisory_xact_lock(v_lock);
    return true;
end
$$;

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

create or replace function hotmesh._app_furnish_table(schema text, noun text)
returns void
language plpgsql
as $$
declare
    v_parent regclass := to_regclass(format('hotmesh.%I', noun));
    v_child regclass;
begin
    perform hotmesh._app_run(array(select hotmesh._shape_repair_missing(schema, noun)));
    v_child := to_regclass(format('%I.%I', schema, noun));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_columns(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_constraints(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_indexes(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_storage(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_triggers(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_comments(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_view(schema, noun)));
end
$$;

-- Makes the month of the archive in which `at` lies. False: somebody else is at it.
create or replace function hotmesh._app_open_month(
    schema text, at timestamptz, patient boolean default true)
returns boolean
language plpgsql
as $$
declare
    v_month timestamp := date_trunc('month', at at time zone 'UTC');
    v_name text := to_char(v_month, 'YYYY_MM');
begin
    if not exists (
        select from hotmesh._shape_nouns() n (noun)
        where n.noun like '%\_archive'
          and to_regclass(format('%I.%I', schema, n.noun || '_' || v_name)) is null)
    then
        return true;
    elsif not hotmesh._app_lock(schema, patient) then
        return false;
    end if;
    perform hotmesh._app_run(array(
        select hotmesh._shape_month(schema, n.noun, v_month)
        from hotmesh._shape_nouns() n (noun)
        where n.noun like '%\_archive'));
    return true;
end
$$;

-- Makes what is missing and repairs the rest. Next month is opened ahead, so that a job which is
-- replaced in a user's long transaction need not do it.
create or replace function hotmesh._app_furnish(app hotmesh.apps)
returns hotmesh.apps
language plpgsql
as $$
declare
    v_app hotmesh.apps;
    v_schema text := app.schema_name;
begin
    perform hotmesh._app_run(array[format('revoke all on schema %I from public', v_schema)]);
    perform hotmesh._app_furnish_table(v_schema, n.noun) from hotmesh._shape_nouns() n (noun);
    perform hotmesh._app_open_month(v_schema, hotmesh.now());
    perform hotmesh._app_open_month(v_schema, hotmesh.now() + interval '1 month');
    perform hotmesh._app_run(array(select hotmesh._shape_repair_grants(v_schema)));
    update hotmesh.apps a
    set revision = hotmesh._app_revision()
    where a.name = app.name
    returning (a::hotmesh.apps).* into v_app;
    return v_app;
end
$$;

create or replace function hotmesh.app_create(app text)
returns hotmesh.apps
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
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
    values (app, v_schema, 0, hotmesh.now())
    returning (a::hotmesh.apps).* into v_app;
    return hotmesh._app_furnish(v_app);
end
$$;
comment on function hotmesh.app_create(text) is
'Create an app: a schema with its tables. Raises MSH01 if the name folds to that of an app,
MSH03 if its schema is taken, 22023 if the name is not fit.';

-- `app_upgrade` is in 99: it needs every room.
create or replace function hotmesh._app_refuse_open(app hotmesh.apps)
returns void
language plpgsql
as $$
declare
    v_count bigint;
begin
    perform hotmesh._enter(app.name);
    lock table jobs in access exclusive mode;
    select count(*) into v_count
    from (select from jobs j where j.closed_at is null limit 1000) o;
    if v_count > 0 then
        raise exception 'app "%" has open jobs', app.name using
            errcode = 'MSH02',
            detail = format('%s of its jobs are open%s.', v_count,
                            case when v_count = 1000 then ', at least' else '' end),
            hint = format('Let them end, or drop them: select hotmesh.app_drop(%L, force => true)',
                          app.name);
    end if;
end
$$;

create or replace function hotmesh.app_drop(app text, force boolean default false)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    perform hotmesh._app_lock(v_app.schema_name);
    if to_regnamespace(quote_ident(v_app.schema_name)) is not null then
        if force is not true then
            perform hotmesh._app_refuse_open(v_app);
        end if;
        perform hotmesh._app_run(array[format('drop schema %I cascade', v_app.schema_name)]);
    end if;
    delete from hotmesh.apps a where a.name = v_app.name;
end
$$;
comment on function hotmesh.app_drop(text, boolean) is
'Drop an app with its schema and all that is in it. Raises MSH02 if it has open jobs and is not
forced, MSH00 if there is no such app.';
