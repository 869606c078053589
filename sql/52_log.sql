-- 52 log: every change of an entity is a row of `entity_log`: its version, the command, who gave
-- it, and when. From a base (a snapshot, or a command that replaced the document) and the commands
-- after it any version is made again (83). Written under the lock of its job. The app's setting
-- entity_log_keep says for how many seconds rows are kept: null for ever, 0 not at all;
-- entity_snapshot, how many versions lie between two snapshots.

--@ state
create table hotmesh.entity_log (
    job_id bigint not null,
    version bigint not null,
    operation text not null,
    path text,
    argument jsonb,
    role text not null,
    dimension text,
    sequence integer,
    at timestamptz not null,
    request text,
    answer jsonb,
    document jsonb,
    constraint entity_log_pkey primary key (job_id, version)
) with (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
comment on table hotmesh.entity_log is 'One row per change of an entity.';
comment on column hotmesh.entity_log.job_id is 'The job whose entity it was.';
comment on column hotmesh.entity_log.version is 'The version that the change made; the first is 1.';
comment on column hotmesh.entity_log.operation is
'set, merge, append, …; update: a plain UPDATE of jobs.context; fork: taken over at the start.';
comment on column hotmesh.entity_log.path is 'Where in the document; null for the whole of it.';
comment on column hotmesh.entity_log.argument is 'The value, index or amount.';
comment on column hotmesh.entity_log.role is 'The role that made the change.';
comment on column hotmesh.entity_log.dimension is
'The part of the job whose code asked for it, empty for the main function; null: it came from SQL.';
comment on column hotmesh.entity_log.sequence is 'The step of that part.';
comment on column hotmesh.entity_log.at is 'When the change was made.';
comment on column hotmesh.entity_log.request is 'The idempotency key of the call, if it had one.';
comment on column hotmesh.entity_log.answer is 'What a call with an idempotency key returned.';
comment on column hotmesh.entity_log.document is
'A snapshot of the document after the change, now and then.';
create unique index entity_log_requests on hotmesh.entity_log (job_id, request)
where request is not null;

--@ behaviour
create or replace function hotmesh._log_is_on(settings jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select (settings ->> 'entity_log_keep')::bigint is distinct from 0
$$;

-- Whether one of these versions is due for a snapshot.
create or replace function hotmesh._log_is_full(settings jsonb, first bigint, last bigint)
returns boolean
language sql
immutable
parallel safe
as $$
    select last % greatest(coalesce((settings ->> 'entity_snapshot')::bigint, 16), 1)
           <= last - first
$$;

create or replace function hotmesh._log_write(entries hotmesh.entity_log[])
returns void
language plpgsql
as $$
begin
    insert into entity_log (
        job_id, version, operation, path, argument, role, dimension, sequence,
        at, request, answer, document)
    select e.job_id, e.version, e.operation, e.path, e.argument, e.role, e.dimension, e.sequence,
           e.at, e.request, e.answer, e.document
    from unnest(entries) e;
end
$$;

-- What an earlier call with this idempotency key returned; SQL null if there was none.
create or replace function hotmesh._log_answer(job_id bigint, request text)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select l.answer from entity_log l
        where l.job_id = _log_answer.job_id and l.request = _log_answer.request);
end
$$;

-- Whether a row holds all of the document that it made.
create or replace function hotmesh._log_is_base(
    operation text, path text, document jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select document is not null or (path is null and operation in ('set', 'update', 'fork'))
$$;

-- Drops what lies before the youngest base that is as old as `before`.
create or replace function hotmesh._log_prune(job_id bigint, before timestamptz)
returns bigint
language plpgsql
as $$
declare
    v_count bigint;
begin
    delete from entity_log l
    where l.job_id = _log_prune.job_id
      and l.version < (
          select max(b.version) from entity_log b
          where b.job_id = _log_prune.job_id and b.at <= before
            and hotmesh._log_is_base(b.operation, b.path, b.document));
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- As _log_prune, for all jobs of the app, as far as nobody holds the rows.
create or replace function hotmesh._log_prune_all(before timestamptz, take integer)
returns bigint
language plpgsql
as $$
declare
    v_count bigint;
begin
    delete from entity_log l
    where (l.job_id, l.version) in (
        select o.job_id, o.version
        from entity_log o
        join (
            select b.job_id, max(b.version) as version
            from entity_log b
            where b.at <= before and hotmesh._log_is_base(b.operation, b.path, b.document)
            group by b.job_id) k on k.job_id = o.job_id and o.version < k.version
        limit take
        for update of o skip locked);
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
