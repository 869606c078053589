-- 84 command: the doors to an entity, one per command. `path` is as 78 has it; null is the whole
-- document. With a `request`, an idempotency key, a second call changes nothing and returns what
-- the first did. Each is one change of one row, in the caller's transaction, and holds the row's
-- lock until it ends. Errors: MSH40, MSH80 to MSH84, 22023, what a constraint of the owner refuses.

--@ state

--@ behaviour
create or replace function hotmesh.entity_apply(
    app text, key text, commands jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_apply(
        hotmesh._enter(app), key, hotmesh._entity_commands(commands), request);
end
$$;
comment on function hotmesh.entity_apply(text, text, jsonb, text) is
'Several commands in one, all or none: [{"operation": "merge", "path": "a.b", "value": {}}, …].
Returns their answers, in order. With a `request`, the same one again changes nothing and returns
the same.';

create or replace function hotmesh.entity_get(app text, key text, path text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text[];
    v_value jsonb;
begin
    perform hotmesh._enter(app);
    v_path := hotmesh._path_parse(path);
    select j.context #> v_path into v_value from jobs j where j.key = entity_get.key;
    if not found then
        select a.context #> v_path into v_value
        from jobs_archive a where a.key = entity_get.key
        order by a.closed_at desc, a.id desc limit 1;
        if not found then
            perform hotmesh._job_refuse_missing(key);
        end if;
    end if;
    return v_value;
end
$$;
comment on function hotmesh.entity_get(text, text, text) is
'The entity of a job, archived ones too, or what is at a path of it; SQL null if nothing is there.';

create or replace function hotmesh.entity_set(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_set(text, text, text, jsonb, text) is
'Put a value at a path; missing parents are created. Returns the document.';

create or replace function hotmesh.entity_set(app text, key text, value jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set', null, coalesce(value, 'null'), null);
end
$$;
comment on function hotmesh.entity_set(text, text, jsonb) is
'Replace the document. Returns it.';

create or replace function hotmesh.entity_merge(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'merge', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_merge(text, text, text, jsonb, text) is
'Merge a value into what is at a path: objects at any depth, everything else replaces. Returns the
document.';

create or replace function hotmesh.entity_merge(app text, key text, value jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'merge', null, coalesce(value, 'null'), null);
end
$$;
comment on function hotmesh.entity_merge(text, text, jsonb) is
'Merge an object into the document, at any depth. Returns the document.';

create or replace function hotmesh.entity_append(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'append', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_append(text, text, text, jsonb, text) is
'Add a value at the end of the array at a path. Returns the array.';

create or replace function hotmesh.entity_prepend(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'prepend', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_prepend(text, text, text, jsonb, text) is
'Add a value at the front of the array at a path. Returns the array.';

create or replace function hotmesh.entity_remove(
    app text, key text, path text, index integer, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'remove', path, coalesce(to_jsonb(index), 'null'), request);
end
$$;
comment on function hotmesh.entity_remove(text, text, text, integer, text) is
'Remove one element of the array at a path, from the end if the index is negative. Returns the
array.';

create or replace function hotmesh.entity_increment(
    app text, key text, path text, amount numeric default 1, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'increment', path, coalesce(to_jsonb(amount), 'null'), request);
end
$$;
comment on function hotmesh.entity_increment(text, text, text, numeric, text) is
'Add to the number at a path, exactly. Returns the number.';

create or replace function hotmesh.entity_toggle(
    app text, key text, path text, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(hotmesh._enter(app), key, 'toggle', path, 'null', request);
end
$$;
comment on function hotmesh.entity_toggle(text, text, text, text) is
'Turn the boolean at a path around. Returns it.';

create or replace function hotmesh.entity_set_if_not_exists(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set_if_not_exists', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_set_if_not_exists(text, text, text, jsonb, text) is
'Put a value at a path where nothing is. Returns what is there now.';

create or replace function hotmesh.entity_delete(
    app text, key text, path text, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(hotmesh._enter(app), key, 'delete', path, 'null', request);
end
$$;
comment on function hotmesh.entity_delete(text, text, text, text) is
'Remove what is at a path. Returns the document.';
