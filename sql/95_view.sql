-- 95 view: what people and dashboards look at, for all apps at once. They read the parents, so they
-- are the owner's: who reads them reads every tenant. Ids are unique within an app, so rows are
-- joined within its schema. An app's own views (jobs_all, jobs_attributes_all) are in its schema.

--@ state

--@ behaviour
create or replace view hotmesh.queue_depth as
select a.name as app, s.kind, s.queue, s.name,
       count(*) filter (where s.state = 'ready') as ready,
       count(*) filter (where s.state = 'delayed') as delayed,
       count(*) filter (where s.state = 'leased') as leased,
       count(*) filter (where s.state = 'waiting') as waiting,
       count(*) filter (where s.state = 'dead') as dead,
       min(s.created_at) filter (where s.state = 'ready') as oldest,
       count(*) filter (where s.state = 'held') as held
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
where s.kind in ('workflow', 'activity')
group by a.name, s.kind, s.queue, s.name;
comment on view hotmesh.queue_depth is
'Per app, queue and function: how many messages are in which state, and how old the oldest is.';

create or replace view hotmesh.dead_letters as
select a.name as app, j.key, s.id, s.queue, s.name, s.attempt, s.visible_at as died_at,
       s.error ->> 'type' as type, s.error ->> 'message' as message
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
left join lateral (
    select j.key
    from hotmesh.jobs j
    join pg_catalog.pg_class k on k.oid = j.tableoid
    where j.id = s.job_id and k.relnamespace = n.oid) j on true
where s.state = 'dead' and s.kind = 'activity';
comment on view hotmesh.dead_letters is
'Activities that used up their attempts. Their jobs were told.';

create or replace view hotmesh.stuck_jobs as
select a.name as app, j.key, j.topic, s.id, s.queue, s.attempt, s.visible_at as since,
       case when s.state = 'dead' then 'parked' else 'mismatch' end as reason,
       coalesce(m.value ->> 'message', s.error ->> 'message', m.value #>> '{}') as message
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
cross join lateral (
    select j.key, j.topic
    from hotmesh.jobs j
    join pg_catalog.pg_class k on k.oid = j.tableoid
    where j.id = s.job_id and k.relnamespace = n.oid and j.closed_at is null) j
left join lateral (
    select m.value
    from hotmesh.jobs_attributes m
    join pg_catalog.pg_class k on k.oid = m.tableoid
    where m.job_id = s.job_id and m.field = 'mismatch' and k.relnamespace = n.oid) m on true
where s.kind = 'workflow'
  and (s.state = 'dead'
       or s.state in ('delayed', 'ready') and s.error is not null and m.value is not null);
comment on view hotmesh.stuck_jobs is
'Open jobs that do not move: parked, since no worker reported on them (stream_revive serves them
again), or waiting for right code after a mismatch in replay.';

-- The parts of a job that are not in its journal: what is under way, and what it belongs to.
create or replace function hotmesh._view_family(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_build_object(
        'parent', (
            select jsonb_build_object(
                'id', p.key, 'workflow', p.topic, 'semaphore', p.status,
                'dimension', job.parent_dimension, 'step', job.parent_sequence)
            from jobs_all p where p.id = job.parent_id limit 1),
        'origin', (
            select p.key from jobs_all p
            where p.id = coalesce(job.origin_id, job.parent_id) limit 1),
        'close_policy', job.close_policy,
        'children', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'id', c.key, 'workflow', c.topic, 'semaphore', c.status,
                'dimension', c.parent_dimension, 'step', c.parent_sequence,
                'created_at', c.created_at, 'closed_at', c.closed_at) order by c.id), '[]')
            from (
                select j.id, j.key, j.topic, j.status, j.parent_dimension, j.parent_sequence,
                       j.created_at, j.closed_at
                from jobs j
                where j.parent_id = job.id
                order by j.id
                limit 100) c),
        'child_count', (select count(*) from jobs j where j.parent_id = job.id));
end
$$;

-- `maximum`: of attempts; a workflow that raises has none unless its start gave a policy.
create or replace function hotmesh._view_work(job_id bigint, kind text)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'message', s.id, 'dimension', s.dimension, 'step', s.sequence, 'name', s.name,
            'queue', s.queue, 'state', s.state, 'attempt', s.attempt,
            'maximum', case when s.kind = 'activity' or s.retry_policy is not null
                            then coalesce((s.retry_policy ->> 'maximum_attempts')::integer, 3) end,
            'due', case when s.state in ('delayed', 'leased') and isfinite(s.visible_at)
                        then s.visible_at end,
            'worker', s.worker, 'error', s.error) order by s.dimension, s.sequence), '[]')
        from (
            select m.id, m.kind, m.dimension, m.sequence, m.name, m.queue, m.state, m.attempt,
                   m.retry_policy, m.visible_at, m.worker, m.error
            from streams m
            where m.job_id = _view_work.job_id and m.kind = _view_work.kind
            order by m.id
            limit 100) s);
end
$$;

-- Alarms with the step that each is for, null: the whole job; and orders and signals that came.
create or replace function hotmesh._view_news(job_id bigint)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_build_object(
        'timers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'dimension', t.dimension, 'step', t.sequence, 'due', t.visible_at,
                'what', case t.name when 'deadline' then 'schedule_to_close'
                                    when 'interrupt' then t.args ->> 'limit'
                                    else 'timer' end) order by t.visible_at), '[]')
            from streams t
            where t.job_id = _view_news.job_id and t.kind = 'timer' and isfinite(t.visible_at)),
        'signals', (
            select coalesce(jsonb_agg(e.args ->> 'signal' order by e.id), '[]')
            from streams e
            where e.job_id = _view_news.job_id and e.kind = 'signal'),
        'orders', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'order', e.name, 'given_at', e.created_at) order by e.id), '[]')
            from streams e
            where e.job_id = _view_news.job_id and e.kind = 'event'
              and e.name in ('hook', 'cancel', 'interrupt')));
end
$$;

create or replace function hotmesh.job_describe(app text, key text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    return jsonb_build_object(
        'id', v_job.key, 'number', v_job.id, 'workflow', v_job.topic, 'entity', v_job.entity,
        'queue', v_job.queue, 'semaphore', v_job.status, 'created_at', v_job.created_at,
        'updated_at', v_job.updated_at, 'closed_at', v_job.closed_at,
        'expire_at', v_job.expire_at, 'entity_version', v_job.entity_version,
        'hooks', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'dimension', a.dimension, 'workflow', a.name, 'state', a.state,
                'signal', a.value -> 'signal', 'created_at', a.created_at,
                'updated_at', a.updated_at) order by a.created_at, a.dimension), '[]')
            from jobs_attributes_all a
            where a.job_id = v_job.id and a.kind = 'hook' and a.field = 'hook' || a.dimension),
        'functions', hotmesh._view_work(v_job.id, 'workflow'),
        'activities', hotmesh._view_work(v_job.id, 'activity'))
        || hotmesh._view_family(v_job) || hotmesh._view_news(v_job.id);
end
$$;
comment on function hotmesh.job_describe(text, text) is
'A job as operators look at it, beside its journal (job_export): parent and children, hooks, the
functions and activities under way with their attempts and errors, timers, and what was sent to it
and not taken yet. Lists end at 100. Raises MSH40.';
