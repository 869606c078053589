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
