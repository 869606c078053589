-- 81 entity: the document of a job, `jobs.context`, shared by its workflow, hooks, agents, people.
-- One command is one update of the row, which patches the document (80) and counts its version, and
-- a row of the log (52). Several in one call are one change of the row. It works on open and closed
-- jobs, until they are archived. A plain UPDATE of the column is a version of its own. What code
-- asks for comes as an effect (88). Limit: the app's setting entity_limit, in bytes.
-- Errors: MSH83 too large, MSH84 archived; those of 80 and MSH40.

--@ state
create type hotmesh.entity_command as (operation text, path text, argument jsonb);
comment on type hotmesh.entity_command is 'One change of an entity, or a look at it.';

--@ behaviour
create or replace function hotmesh._entity_refuse_large(size bigint, size_limit bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'the entity would be too large: % bytes', size using
        errcode = 'MSH83',
        detail = format('Expected at most %s bytes, found %s.', size_limit, size),
        hint = 'Keep large parts elsewhere and refer to them, or raise the app''s setting '
               || 'entity_limit.';
end
$$;

create or replace function hotmesh._entity_refuse_archived(key text)
returns void
language plpgsql
as $$
begin
    raise exception 'job "%" is archived', left(key, 200) using
        errcode = 'MSH84',
        detail = 'The entity of an archived job can be read, but not changed.',
        hint = 'Start a new job from it: entity_fork.';
end
$$;

create or replace function hotmesh._entity_refuse_missing(key text)
returns void
language plpgsql
as $$
begin
    if exists (select from jobs_archive a where a.key = _entity_refuse_missing.key) then
        perform hotmesh._entity_refuse_archived(key);
    end if;
    perform hotmesh._job_refuse_missing(key);
end
$$;

create or replace function hotmesh._entity_role()
returns text
language sql
stable
as $$
    select coalesce(nullif(current_setting('role'), 'none'), session_user::text)
$$;

-- A log entry to start from: who changes it and when, its version and its document as they are.
-- `#> '{}'` unpacks the document, once.
create or replace function hotmesh._entity_lock(key text)
returns hotmesh.entity_log
language plpgsql
as $$
declare
    v_entry hotmesh.entity_log;
begin
    select j.id, j.entity_version, j.context #> '{}'
    into v_entry.job_id, v_entry.version, v_entry.document
    from jobs j
    where j.key = _entity_lock.key
    for no key update;
    if not found then
        perform hotmesh._entity_refuse_missing(key);
    end if;
    v_entry.role := hotmesh._entity_role();
    v_entry.at := hotmesh.now();
    return v_entry;
end
$$;

create or replace function hotmesh._entity_check(command hotmesh.entity_command)
returns void
language plpgsql
immutable
as $$
declare
    v_known constant text[] := '{set,merge,append,prepend,remove,increment,toggle,'
        'set_if_not_exists,delete,get}';
begin
    if command.operation is null or command.operation <> all (v_known) then
        perform hotmesh._refuse_argument(
            format('no such entity command: %s', coalesce(left(command.operation, 60), 'null')),
            format('Commands: %s.', array_to_string(v_known, ', ')), 'Check the spelling.');
    end if;
end
$$;

create or replace function hotmesh._entity_check_request(request text)
returns void
language plpgsql
immutable
as $$
begin
    if octet_length(request) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'an idempotency key is empty or too long',
            format('It has %s bytes and begins with %L.', octet_length(request), left(request, 40)),
            'From 1 to 500 bytes, or leave it out.');
    end if;
end
$$;

-- What there is to do after a change that made the versions from `first` on; mostly nothing.
create or replace function hotmesh._entity_changed(
    settings jsonb, job_id bigint, first bigint, size bigint)
returns void
language plpgsql
as $$
declare
    v_keep bigint := (settings ->> 'entity_log_keep')::bigint;
    v_limit bigint := coalesce((settings ->> 'entity_limit')::bigint, 67108864);
    v_watched boolean;
    v_full boolean;
begin
    if size > v_limit then
        perform hotmesh._entity_refuse_large(size, v_limit);
    end if;
    select j.watched_until > j.updated_at, hotmesh._log_is_full(settings, first, j.entity_version)
    into v_watched, v_full
    from jobs j
    where j.id = job_id;
    if v_watched then
        perform hotmesh._watch_tell(job_id);
    end if;
    if v_keep > 0 and v_full then
        perform hotmesh._log_prune(job_id, hotmesh.now() - make_interval(secs => v_keep));
    end if;
end
$$;

-- What follows a command where it is not only its row of the log: there is no such job, the app
-- says how entities are kept, the document is large, or somebody watches.
create or replace function hotmesh._entity_done(
    settings jsonb, key text, entry hotmesh.entity_log)
returns void
language plpgsql
as $$
declare
    v_size bigint := pg_column_size(entry.document);
begin
    if entry.job_id is null then
        perform hotmesh._entity_refuse_missing(key);
    end if;
    if not hotmesh._log_is_full(settings, entry.version, entry.version) then
        entry.document := null;
    end if;
    if hotmesh._log_is_on(settings) then
        perform hotmesh._log_write(array[entry]);
    end if;
    perform hotmesh._entity_changed(settings, entry.job_id, entry.version, v_size);
end
$$;

-- One command: the document, its row of the log, and the answer. All expressions of a statement are
-- prepared anew in each transaction, used or not, and took a third of the time: so there are few.
create or replace function hotmesh._entity_do(
    settings jsonb, key text, operation text, path text, argument jsonb, request text,
    dimension text default null, sequence integer default null)
returns jsonb
language plpgsql
as $$
declare
    v_names text[];
    v_id bigint;
    v_version bigint;
    v_at timestamptz;
    v_document jsonb;
    v_watched timestamptz;
begin
    if request is not null then
        return hotmesh._entity_once(settings, key, operation, path, argument, request);
    end if;
    if operation = 'merge' and path is null and hotmesh._patch_is_flat(argument) then
        update jobs j set context = hotmesh._patch_lay(j.context, argument),
            entity_version = j.entity_version + 1, updated_at = hotmesh.now()
        where j.key = _entity_do.key
        returning j.id, j.entity_version, j.updated_at, j.context, j.watched_until
        into v_id, v_version, v_at, v_document, v_watched;
    else
        v_names := hotmesh._path_parse(path);
        update jobs j set context = hotmesh._patch(j.context, operation, v_names, argument),
            entity_version = j.entity_version + 1, updated_at = hotmesh.now()
        where j.key = _entity_do.key
        returning j.id, j.entity_version, j.updated_at, j.context, j.watched_until
        into v_id, v_version, v_at, v_document, v_watched;
    end if;
    if (v_watched is null or v_watched <= v_at) and pg_column_size(v_document) <= 67108864
        and not settings ?| '{entity_log_keep,entity_limit,entity_snapshot}'
    then
        insert into entity_log (
            job_id, version, operation, path, argument, role, dimension, sequence, at, document)
        values (v_id, v_version, operation, path, argument, hotmesh._entity_role(), dimension,
                sequence, v_at,
                case when hotmesh._log_is_full('{}', v_version, v_version) then v_document end);
    else
        perform hotmesh._entity_done(settings, key, (
            v_id, v_version, operation, path, argument, hotmesh._entity_role(), dimension, sequence,
            v_at, null, null, v_document)::hotmesh.entity_log);
    end if;
    return hotmesh._patch_answer(v_document, operation, v_names);
end
$$;

-- Several commands: the document of the last entry, and all of them.
create or replace function hotmesh._entity_write_all(
    settings jsonb, entries hotmesh.entity_log[], document jsonb)
returns void
language plpgsql
as $$
declare
    v_first bigint := entries[1].version;
    v_last hotmesh.entity_log := entries[cardinality(entries)];
begin
    update jobs j
    set context = document, entity_version = v_last.version, updated_at = v_last.at
    where j.id = v_last.job_id;
    if hotmesh._log_is_full(settings, v_first, v_last.version) then
        entries[cardinality(entries)].document := document;
    end if;
    if hotmesh._log_is_on(settings) or v_last.request is not null then
        perform hotmesh._log_write(entries);
    end if;
    perform hotmesh._entity_changed(
        settings, v_last.job_id, v_first, pg_column_size(document));
end
$$;

-- Carries out commands on the job of `entry`, as one change, and returns their answers. The row is
-- locked.
create or replace function hotmesh._entity_change(
    settings jsonb, entry hotmesh.entity_log, commands hotmesh.entity_command[], request text)
returns jsonb
language plpgsql
as $$
declare
    v_document jsonb := entry.document;
    v_command hotmesh.entity_command;
    v_path text[];
    v_entries hotmesh.entity_log[] := '{}';
    v_answers jsonb[] := '{}';
begin
    entry.document := null;
    foreach v_command in array commands loop
        perform hotmesh._entity_check(v_command);
        v_path := hotmesh._path_parse(v_command.path);
        if v_command.operation <> 'get' then
            v_document := hotmesh._patch_apply(
                v_document, v_command.operation, v_path, v_command.argument);
            entry.version := entry.version + 1;
            entry.operation := v_command.operation;
            entry.path := v_command.path;
            entry.argument := v_command.argument;
            v_entries := v_entries || entry;
        end if;
        v_answers := v_answers || array[
            hotmesh._patch_answer(v_document, v_command.operation, v_path)];
    end loop;
    if v_entries <> '{}' then
        if request is not null then
            v_entries[cardinality(v_entries)].request := request;
            v_entries[cardinality(v_entries)].answer := to_jsonb(v_answers);
        end if;
        perform hotmesh._entity_write_all(settings, v_entries, v_document);
    end if;
    return to_jsonb(v_answers);
end
$$;

-- Several commands, all or none; with an idempotency key, what the first call answered. One without
-- a key goes the short way.
create or replace function hotmesh._entity_apply(
    settings jsonb, key text, commands hotmesh.entity_command[], request text)
returns jsonb
language plpgsql
as $$
declare
    v_entry hotmesh.entity_log;
    v_answers jsonb;
begin
    if request is null and cardinality(commands) = 1 and commands[1].operation <> 'get' then
        perform hotmesh._entity_check(commands[1]);
        return jsonb_build_array(hotmesh._entity_do(
            settings, key, commands[1].operation, commands[1].path, commands[1].argument, null));
    end if;
    v_entry := hotmesh._entity_lock(key);
    if request is not null then
        perform hotmesh._entity_check_request(request);
        v_answers := hotmesh._log_answer(v_entry.job_id, request);
    end if;
    return coalesce(v_answers, hotmesh._entity_change(settings, v_entry, commands, request));
end
$$;

-- One command with an idempotency key.
create or replace function hotmesh._entity_once(
    settings jsonb, key text, operation text, path text, argument jsonb, request text)
returns jsonb
language plpgsql
as $$
begin
    return hotmesh._entity_apply(
        settings, key, array[(operation, path, argument)::hotmesh.entity_command], request) -> 0;
end
$$;

-- [{"operation": "merge", "path": "a.b", "value": {}}, …]; a value may be called index or amount.
create or replace function hotmesh._entity_commands(commands jsonb)
returns hotmesh.entity_command[]
language plpgsql
as $$
begin
    if jsonb_typeof(commands) is distinct from 'array' or commands = '[]'
        or jsonb_array_length(commands) > 10000
        or exists (select from jsonb_array_elements(commands) c where jsonb_typeof(c) <> 'object')
    then
        perform hotmesh._refuse_argument(
            'commands are no JSON array of objects', left(commands::text, 200),
            'From 1 to 10000: [{"operation": "increment", "path": "count", "amount": 1}].');
    elsif exists (
        select from jsonb_array_elements(commands) c
        where jsonb_typeof(c -> 'path') not in ('string', 'null'))
    then
        perform hotmesh._refuse_argument(
            'the path of a command is no text', left(commands::text, 200),
            'Write it as "counts.open"; leave it out for the whole document.');
    end if;
    return array(
        select (c.command ->> 'operation', c.command ->> 'path',
                coalesce(c.command -> 'value', c.command -> 'index', c.command -> 'amount',
                         case when c.command ->> 'operation' = 'increment' then '1'
                              else 'null' end::jsonb))::hotmesh.entity_command
        from jsonb_array_elements(commands) with ordinality c (command, place)
        order by c.place);
end
$$;

-- Workflow code's command: {"path": …, "value": …}; its name is the operation. The lock is held.
-- The journal keeps the answer as it is, a whole document, too. Its version alone would be smaller,
-- but replay would need a log that may be off, and whose rows go when the owner says so.
create or replace function hotmesh._entity_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_settings jsonb := (
        select a.settings from hotmesh.apps a where a.schema_name = hotmesh._app_here());
    v_key text := (select j.key from jobs j where j.id = step.job_id);
    v_command hotmesh.entity_command;
begin
    v_command.operation := step.name;
    v_command.path := step.value ->> 'path';
    v_command.argument := coalesce(step.value -> 'value', 'null');
    perform hotmesh._entity_check(v_command);
    if step.name = 'get' then
        return coalesce((
            select j.context #> hotmesh._path_parse(v_command.path)
            from jobs j where j.id = step.job_id), 'null');
    end if;
    return coalesce(hotmesh._entity_do(
        v_settings, v_key, v_command.operation, v_command.path, v_command.argument, null,
        step.dimension, step.sequence), 'null');
end
$$;

-- A plain UPDATE of the document: it counts, and is logged. (A command sets the version itself.)
create or replace function hotmesh._entity_updated()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
    v_entry hotmesh.entity_log;
begin
    if new.context is not distinct from old.context then
        return new;
    end if;
    perform set_config(
        'search_path', format('pg_catalog, %I, hotmesh, pg_temp', tg_table_schema), true);
    new.entity_version := old.entity_version + 1;
    v_entry.job_id := new.id;
    v_entry.version := new.entity_version;
    v_entry.operation := 'update';
    v_entry.argument := new.context;
    v_entry.role := hotmesh._entity_role();
    v_entry.at := hotmesh.now();
    if new.watched_until > v_entry.at then
        perform hotmesh._watch_tell(v_entry.job_id);
    end if;
    if hotmesh._setting('entity_log_keep', 1) <> 0 then
        perform hotmesh._log_write(array[v_entry]);
    end if;
    return new;
end
$$;
create or replace trigger version_context before update of context on hotmesh.jobs
for each row when (old.entity_version = new.entity_version)
execute function hotmesh._entity_updated();
