-- 99 grant: the key-ring. A key is one of four kinds: a reader reads an app's tables and results, a
-- client starts and signals, a worker claims and reports, an operator keeps house and may do all
-- that. The owner's doors are on no key. The right to call a door holds for all apps, so each role
-- has one kind in all its apps; which these are is USAGE on their schemas, which `_enter` asks for.
-- No role gets anything on a parent: who reads a parent reads every tenant. Errors: 22023.

--@ state

--@ behaviour
-- Every door once, with the smallest kind that may open it.
create or replace function hotmesh._grant_ring()
returns table (door name, kind text)
language sql
immutable
as $$
    select d.door::name, k.kind
    from (values
        ('owner', 'app_create app_upgrade app_drop app_grant app_revoke'),
        ('client', 'schedule_create schedule_pause schedule_resume schedule_delete'),
        ('client', 'schedule_trigger schedule_backfill'),
        ('reader', 'schedule_list now version protocol build'),
        ('reader', 'job_status job_result job_results job_state job_export'),
        ('reader', 'job_list job_history job_describe worker_list queue_stats queue_list'),
        ('reader', 'entity_find search_find search_get emit_channel emit_read'),
        ('operator', 'entity_create_index entity_index_ddl'),
        ('client', 'job_start job_start_many job_signal job_cancel job_interrupt'),
        ('client', 'graph_pub graph_signal graph_signal_all graph_add'),
        ('operator', 'graph_deploy graph_activate'),
        ('reader', 'graph_list graph_explain graph_stats graph_ids'),
        ('client', 'signal_send hook_start query_ask query_result update_send update_result'),
        ('reader', 'entity_get entity_history entity_at entity_diff'),
        ('client', 'entity_set entity_merge entity_append entity_prepend entity_remove'),
        ('client', 'entity_increment entity_toggle entity_set_if_not_exists entity_delete'),
        ('client', 'entity_apply entity_fork entity_watch'),
        ('worker', 'query_answer'),
        ('worker', 'turn worker_extend worker_heartbeat worker_stop'),
        ('worker', 'stream_claim stream_hold stream_complete stream_fail stream_extend graph_call'),
        ('operator', 'job_archive job_prune job_scrub entity_prune stream_revive'),
        ('operator', 'queue_limit queue_unlimit queue_throttle')
    ) k (kind, doors)
    cross join lateral regexp_split_to_table(k.doors, ' ') d (door)
$$;

create or replace function hotmesh._grant_rank(kind text)
returns integer
language sql
immutable
as $$
    select array_position('{reader,client,worker,operator,owner}', kind)
$$;

create or replace function hotmesh._grant_doors(kind text)
returns setof regprocedure
language sql
stable
as $$
    select p.oid::regprocedure
    from pg_proc p
    join hotmesh._grant_ring() r on r.door = p.proname
    where p.pronamespace = to_regnamespace('hotmesh')
      and hotmesh._grant_rank(r.kind) <= hotmesh._grant_rank(_grant_doors.kind)
    order by p.proname
$$;

-- The kind that a role has: that of the highest door it was granted; null if none was.
create or replace function hotmesh._grant_kind(holder oid)
returns text
language sql
stable
as $$
    select r.kind
    from hotmesh._grant_ring() r
    join pg_proc p on p.proname = r.door and p.pronamespace = to_regnamespace('hotmesh')
    cross join lateral aclexplode(p.proacl) a
    where a.grantee = holder and a.privilege_type = 'EXECUTE'
    order by hotmesh._grant_rank(r.kind) desc
    limit 1
$$;

-- The roles that have a key to an app.
create or replace function hotmesh._grant_holders(schema text)
returns setof regrole
language sql
stable
as $$
    select a.grantee::regrole
    from pg_namespace n
    cross join lateral aclexplode(n.nspacl) a
    where n.nspname = schema and a.privilege_type = 'USAGE' and a.grantee not in (0, n.nspowner)
      and hotmesh._grant_kind(a.grantee) is not null
$$;

-- Another app to which a role has a key; null if there is none.
create or replace function hotmesh._grant_elsewhere(app hotmesh.apps, holder regrole)
returns text
language sql
stable
as $$
    select min(a.name)
    from hotmesh.apps a
    cross join lateral hotmesh._grant_holders(a.schema_name) h
    where h = holder and a.name <> app.name
$$;

create or replace function hotmesh._grant_give(schema text, holder regrole, kind text)
returns setof text
language sql
stable
as $$
    select format('grant usage on schema hotmesh, %I to %s', schema, holder)
    union all
    select format('grant execute on function %s to %s', d, holder)
    from hotmesh._grant_doors(kind) d
    union all
    select format('grant select on all tables in schema %I to %s', schema, holder)
    where kind in ('reader', 'operator')
$$;

create or replace function hotmesh._grant_take_app(schema text, holder regrole)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('revoke all on all tables in schema %I from %s', schema, holder),
        format('revoke all on schema %I from %s', schema, holder)])
$$;

create or replace function hotmesh._grant_take_doors(holder regrole)
returns setof text
language sql
stable
as $$
    select format('revoke all on function %s from %s', d, holder)
    from hotmesh._grant_doors('owner') d
    union all
    select format('revoke all on schema hotmesh from %s', holder)
$$;

create or replace function hotmesh._grant_find_role(role text)
returns regrole
language plpgsql
stable
as $$
declare
    v_oid oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if v_oid is null then
        perform hotmesh._refuse_argument(
            format('there is no role %s', hotmesh._named(role)),
            'A key is given to a role that exists, written as in pg_roles.',
            format('Create it: create role %I', coalesce(left(nullif(role, ''), 63), 'my_role')));
    elsif v_oid = (select n.nspowner from pg_namespace n where n.nspname = 'hotmesh')
        or v_oid = current_user::regrole then
        perform hotmesh._refuse_argument(
            format('role "%s" owns the engine', role),
            'The owner needs no key: it may do everything.', 'Give the key to another role.');
    end if;
    return v_oid;
end
$$;

create or replace function hotmesh._grant_check(app hotmesh.apps, holder regrole, kind text)
returns void
language plpgsql
as $$
declare
    v_other text := hotmesh._grant_elsewhere(app, holder);
begin
    if coalesce(kind, '') not in ('reader', 'client', 'worker', 'operator') then
        perform hotmesh._refuse_argument(
            format('there is no kind of key %s', hotmesh._named(kind)),
            'A key is of one of four kinds.', 'Say client, worker, operator or reader.');
    elsif v_other is not null and hotmesh._grant_kind(holder) <> kind then
        perform hotmesh._refuse_argument(
            format('role %s has another kind of key: %s', holder, hotmesh._grant_kind(holder)),
            format('It has it to app "%s", and a role has one kind in all its apps.', v_other),
            format('Give it the same kind, or use a role of its own for app "%s".', app.name));
    end if;
end
$$;

create or replace function hotmesh.app_grant(app text, role text, kind text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_app hotmesh.apps;
    v_role regrole;
begin
    perform hotmesh._enter(app);
    v_app := hotmesh._app_get(app);
    v_role := hotmesh._grant_find_role(role);
    perform hotmesh._grant_check(v_app, v_role, kind);
    if v_role not in (select hotmesh._grant_holders(v_app.schema_name))
        and hotmesh._grant_elsewhere(v_app, v_role) is null then
        perform hotmesh._app_run(array(select hotmesh._grant_take_doors(v_role)));
    end if;
    perform hotmesh._app_run(array(select hotmesh._grant_give(v_app.schema_name, v_role, kind)));
end
$$;
comment on function hotmesh.app_grant(text, text, text) is
'Give a role a key to an app; kind is client, worker, operator or reader. Adds to what it has: to
lower a key, app_revoke it first. Raises 22023 if the role has another kind in another app.';

create or replace function hotmesh.app_revoke(app text, role text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_app hotmesh.apps;
    v_role regrole;
begin
    perform hotmesh._enter(app);
    v_app := hotmesh._app_get(app);
    v_role := hotmesh._grant_find_role(role);
    perform hotmesh._app_run(array(select hotmesh._grant_take_app(v_app.schema_name, v_role)));
    if hotmesh._grant_elsewhere(v_app, v_role) is null then
        perform hotmesh._app_run(array(select hotmesh._grant_take_doors(v_role)));
    end if;
end
$$;
comment on function hotmesh.app_revoke(text, text) is
'Take the key to an app from a role. Nothing happens if it has none.';

-- The last room's, because it needs them all: keys that were given open the doors that came since.
create or replace function hotmesh.app_upgrade(app text)
returns hotmesh.apps
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
    v_app := hotmesh._app_furnish(v_app);
    perform hotmesh._app_run(array(
        select hotmesh._grant_give(v_app.schema_name, h, hotmesh._grant_kind(h))
        from hotmesh._grant_holders(v_app.schema_name) h));
    perform hotmesh._deploy_renew(v_app.schema_name);
    return v_app;
end
$$;
comment on function hotmesh.app_upgrade(text) is
'Bring the tables, keys and compiled graphs of an app up to the installed engine. A graph that it
can''t compile stays as it is, with a warning. May be repeated; waits for a lock for 10 s at most.
Raises MSH00 if there is no such app.';

revoke all on schema hotmesh from public;
revoke all on all functions in schema hotmesh from public;
