-- 99 grant: the key-ring. A key is one of four kinds: a reader reads its apps' tables and results, a client starts and signals, a worker claims
-- and reports, an operator keeps house and may do and read all of that. What is the owner's is on no key. A role has one kind in all its apps,
-- because the right to call a function holds for all of them; which apps it may use is USAGE on their schemas, which `_enter` asks for.
-- No role gets anything on a parent: who reads a parent reads every tenant. Errors: MSH04 the role has another kind in another app.

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
        ('reader', 'now version protocol job_status job_result job_results job_state job_export'),
        ('client', 'job_start job_start_many job_signal'),
        ('worker', 'turn worker_extend worker_stop stream_claim stream_complete stream_fail stream_extend'),
        ('operator', 'job_archive job_prune stream_revive')
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
    where p.pronamespace = to_regnamespace('hotmesh') and hotmesh._grant_rank(r.kind) <= hotmesh._grant_rank(_grant_doors.kind)
    order by 1
$$;

-- The kind that a role has: that of the highest door that was granted to it by name; null if none was.
create or replace function hotmesh._grant_kind(role oid)
returns text
language sql
stable
as $$
    select r.kind
    from hotmesh._grant_ring() r
    join pg_proc p on p.proname = r.door and p.pronamespace = to_regnamespace('hotmesh')
    cross join lateral aclexplode(p.proacl) a
    where a.grantee = role and a.privilege_type = 'EXECUTE'
    order by hotmesh._grant_rank(r.kind) desc
    limit 1
$$;

-- The roles that were given a key to an app.
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

create or replace function hotmesh._grant_apps(holder oid)
returns setof hotmesh.apps
language sql
stable
as $$
    select (a::hotmesh.apps).* from hotmesh.apps a
    where exists (select from hotmesh._grant_holders(a.schema_name) h where h = holder)
    order by a.name
$$;

-- Whether a role was given the tables of an app to read.
create or replace function hotmesh._grant_reads(schema text, holder oid)
returns boolean
language sql
stable
as $$
    select exists (
        select from pg_class c
        cross join lateral aclexplode(c.relacl) a
        where c.oid = to_regclass(format('%I.jobs', schema)) and a.grantee = holder and a.privilege_type = 'SELECT')
$$;

create or replace function hotmesh._grant_give(schema text, holder regrole, kind text)
returns setof text
language sql
stable
as $$
    select format('grant usage on schema hotmesh, %I to %s', schema, holder)
    union all
    select format('grant execute on function %s to %s', d, holder) from hotmesh._grant_doors(kind) d
    union all
    select format('grant select on all tables in schema %I to %s', schema, holder)
    where kind in ('reader', 'operator') or hotmesh._grant_reads(schema, holder)
$$;

-- `last`: the role has no other app, so that it gives back the doors too.
create or replace function hotmesh._grant_take(schema text, holder regrole, last boolean)
returns setof text
language sql
stable
as $$
    select format('revoke all on all tables in schema %I from %s', schema, holder)
    union all
    select format('revoke all on schema %I from %s', schema, holder)
    union all
    select format('revoke all on function %s from %s', d, holder) from hotmesh._grant_doors('owner') d where last
    union all
    select format('revoke all on schema hotmesh from %s', holder) where last
$$;

create or replace function hotmesh._grant_revoke(app hotmesh.apps, holder regrole)
returns void
language plpgsql
as $$
declare
    v_last boolean := not exists (select from hotmesh._grant_apps(holder) a where a.name <> app.name);
begin
    perform hotmesh._app_run(array(select hotmesh._grant_take(app.schema_name, holder, v_last)));
end
$$;

-- After an upgrade: keys open the doors and tables that came with it.
create or replace function hotmesh._grant_renew(schema text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._app_run(array(
        select hotmesh._grant_give(schema, h, hotmesh._grant_kind(h)) from hotmesh._grant_holders(schema) h));
end
$$;

create or replace function hotmesh._grant_role(role text)
returns regrole
language plpgsql
stable
as $$
declare
    v_oid oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if v_oid is null then
        perform hotmesh._refuse_argument(format('there is no role "%s"', role),
            'A key is given to a role that exists, written as in pg_roles.', format('Create it: create role %I', role));
    elsif v_oid = (select n.nspowner from pg_namespace n where n.nspname = 'hotmesh') or v_oid = current_user::regrole then
        perform hotmesh._refuse_argument(format('role "%s" owns the engine', role),
            'The owner needs no key: it may do everything.', 'Give the key to an ordinary role.');
    end if;
    return v_oid::regrole;
end
$$;

create or replace function hotmesh._grant_check_kind(role regrole, kind text, app hotmesh.apps)
returns void
language plpgsql
as $$
declare
    v_other text;
begin
    if coalesce(kind, '') not in ('reader', 'client', 'worker', 'operator') then
        perform hotmesh._refuse_argument(format('there is no kind of key "%s"', kind),
            'A key is of one of four kinds.', 'The kinds are client, worker, operator and reader.');
    end if;
    v_other := (select min(a.name) from hotmesh._grant_apps(role) a where a.name <> app.name);
    if v_other is not null and hotmesh._grant_kind(role) <> kind then
        raise exception 'role % is a % of another app', role, hotmesh._grant_kind(role) using
            errcode = 'MSH04',
            detail = format('It has a key to app "%s", and a role has one kind of key in all its apps.', v_other),
            hint = format('Use a role of its own for app "%s".', app.name);
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
    v_app hotmesh.apps := hotmesh._app_get(app);
    v_role regrole := hotmesh._grant_role(role);
begin
    perform hotmesh._grant_check_kind(v_role, kind, v_app);
    perform hotmesh._app_run(array(select hotmesh._grant_give(v_app.schema_name, v_role, kind)));
end
$$;
comment on function hotmesh.app_grant(text, text, text) is
'Give a role the key to an app: kind is client, worker, operator or reader. Takes nothing away: app_revoke first to lower it. Raises MSH04 if the role has another kind in another app.';

create or replace function hotmesh.app_revoke(app text, role text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    perform hotmesh._grant_revoke(v_app, hotmesh._grant_role(role));
end
$$;
comment on function hotmesh.app_revoke(text, text) is
'Take the key to an app from a role. Nothing happens if it has none.';

revoke all on schema hotmesh from public;
revoke all on all functions in schema hotmesh from public;
