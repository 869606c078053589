-- 55 archive: where closed jobs go when they expire, so that the hot tables stay small. Partitioned
-- by the month (UTC) in which the job closed: months are made as needed, and dropped whole.
-- A key that was archived is free. What moves is named column by column, since an app's tables may
-- have more columns, in another order. Nothing waits for a row that someone else holds.
-- Lock order: jobs, then jobs_attributes, then streams.

--@ state
create table hotmesh.jobs_archive (
    like hotmesh.jobs including comments including storage,
    constraint jobs_archive_pkey primary key (id, closed_at)
);
comment on table hotmesh.jobs_archive is 'Jobs that closed and expired.';
create index jobs_archive_by_key on hotmesh.jobs_archive (key, closed_at);
create table hotmesh.jobs_attributes_archive (
    like hotmesh.jobs_attributes including comments including storage,
    closed_at timestamptz not null,
    constraint jobs_attributes_archive_pkey primary key (job_id, field, closed_at)
);
comment on table hotmesh.jobs_attributes_archive is 'The attributes of the jobs in jobs_archive.';
comment on column hotmesh.jobs_attributes_archive.closed_at is
'When their job settled: both lie in the same month.';

create table hotmesh.entity_log_archive (
    like hotmesh.entity_log including comments including storage,
    closed_at timestamptz not null,
    constraint entity_log_archive_pkey primary key (job_id, version, closed_at)
);
comment on table hotmesh.entity_log_archive is 'The log of the entities of jobs_archive.';
comment on column hotmesh.entity_log_archive.closed_at is
'When their job settled: both lie in the same month.';

--@ behaviour
-- Left-over messages go too, but for one that is held this instant, whose report will be stale, and
-- for a signal that is still to be passed on (60): news brings a turn back to them.
create or replace function hotmesh._archive_messages(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id from streams m
        where m.job_id = any (ids)
          and not (m.kind in ('event', 'signal') and coalesce(m.args, '{}') ? 'published')
        for update skip locked));
    perform hotmesh._inbox_put(m.job_id, '', 'result', '{}')
    from (
        select distinct s.job_id from streams s
        where s.job_id = any (ids) and s.state <> 'dead') m;
end
$$;

-- `closed` maps a job's id to its closing time. A join would do, but a plan for it that was made
-- while the app was empty can be a nested loop.
create or replace function hotmesh._archive_attributes(ids bigint[], closed jsonb)
returns void
language plpgsql
as $$
begin
    with gone as (
        delete from jobs_attributes a
        where a.job_id = any (ids)
        returning a.job_id, a.field, a.value, a.kind, a.name, a.state, a.dimension, a.sequence,
                  a.cursor, a.ledger, a.created_at, a.updated_at)
    insert into jobs_attributes_archive (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at, closed_at)
    select g.job_id, g.field, g.value, g.kind, g.name, g.state, g.dimension, g.sequence,
           g.cursor, g.ledger, g.created_at, g.updated_at,
           (closed ->> g.job_id::text)::timestamptz
    from gone g;
end
$$;

create or replace function hotmesh._archive_log(ids bigint[], closed jsonb)
returns void
language plpgsql
as $$
begin
    with gone as (
        delete from entity_log l
        where l.job_id = any (ids)
        returning l.job_id, l.version, l.operation, l.path, l.argument, l.role, l.dimension,
                  l.sequence, l.at, l.request, l.answer, l.document)
    insert into entity_log_archive (
        job_id, version, operation, path, argument, role, dimension,
        sequence, at, request, answer, document, closed_at)
    select g.job_id, g.version, g.operation, g.path, g.argument, g.role, g.dimension,
           g.sequence, g.at, g.request, g.answer, g.document,
           (closed ->> g.job_id::text)::timestamptz
    from gone g;
end
$$;

create or replace function hotmesh._archive_open_months(ids bigint[], patient boolean)
returns boolean
language plpgsql
as $$
begin
    return (
        select coalesce(bool_and(
            hotmesh._app_open_month(hotmesh._app_here(), m.at at time zone 'UTC', patient)), true)
        from (
            select distinct date_trunc('month', j.closed_at at time zone 'UTC')
            from jobs j
            where j.id = any (ids) and j.closed_at is not null) m (at));
end
$$;

-- Moves jobs that the caller has locked, expired or not; those that are open stay.
create or replace function hotmesh._archive_jobs(ids bigint[])
returns bigint
language plpgsql
as $$
declare
    v_ids bigint[];
    v_closed jsonb;
begin
    perform hotmesh._archive_open_months(ids, patient => true);
    with gone as (
        delete from jobs j
        where j.id = any (ids) and j.closed_at is not null
        returning j.id, j.key, j.entity, j.queue, j.topic, j.graph_version, j.graph_id,
                  j.status, j.cursor,
                  j.context, j.entity_version, j.expire_after, j.parent_id, j.parent_dimension,
                  j.parent_sequence, j.origin_id, j.close_policy, j.created_at, j.updated_at,
                  j.closed_at, j.expire_at, j.watched_until),
    kept as (
        insert into jobs_archive as k (
            id, key, entity, queue, topic, graph_version, graph_id, status, cursor,
            context, entity_version, expire_after, parent_id, parent_dimension, parent_sequence,
            origin_id, close_policy, created_at, updated_at, closed_at, expire_at, watched_until)
        select g.id, g.key, g.entity, g.queue, g.topic, g.graph_version, g.graph_id, g.status,
               g.cursor,
               g.context, g.entity_version, g.expire_after, g.parent_id, g.parent_dimension,
               g.parent_sequence, g.origin_id, g.close_policy, g.created_at, g.updated_at,
               g.closed_at, g.expire_at, g.watched_until
        from gone g
        returning k.id, k.closed_at)
    select array_agg(k.id), jsonb_object_agg(k.id, k.closed_at) into v_ids, v_closed from kept k;
    perform hotmesh._archive_attributes(v_ids, v_closed);
    perform hotmesh._archive_log(v_ids, v_closed);
    perform hotmesh._archive_messages(v_ids);
    return coalesce(cardinality(v_ids), 0);
end
$$;

-- The open job of a key. What has closed is refused as closed, in the archive too.
create or replace function hotmesh._archive_find_open(key text)
returns hotmesh.jobs
language plpgsql
as $$
declare
    v_job hotmesh.jobs := hotmesh._job_find(key);
begin
    if v_job.id is null then
        v_job.closed_at := (
            select max(a.closed_at) from jobs_archive a where a.key = _archive_find_open.key);
    end if;
    if v_job.closed_at is not null then
        perform hotmesh._job_refuse_closed(key, v_job.closed_at);
    elsif v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_job;
end
$$;

-- The journal of a main function that starts over, and those of hooks that have ended, go to the
-- archive under a number of their own, as a job that has closed; the job itself goes on, with its
-- open hooks, its entity and what waits for it.
create or replace function hotmesh._archive_generation(id bigint)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_number bigint := nextval('hotmesh.ids');
begin
    perform hotmesh._app_open_month(
        hotmesh._app_here(), date_trunc('month', v_now at time zone 'UTC'), true);
    insert into jobs_archive (
        id, key, entity, queue, topic, graph_version, status, cursor, context, entity_version,
        parent_id, origin_id, created_at, updated_at, closed_at)
    select v_number, j.key, j.entity, j.queue, j.topic, j.graph_version, 0, j.cursor, '{}',
           j.entity_version, j.parent_id, j.origin_id, j.created_at, v_now, v_now
    from jobs j
    where j.id = _archive_generation.id;
    with gone as (
        delete from jobs_attributes a
        where a.job_id = _archive_generation.id
          and (a.field = 'input' or a.dimension = '' and a.sequence is not null
               or hotmesh._attribute_is_over(a.job_id, a.dimension))
        returning a.job_id, a.field, a.value, a.kind, a.name, a.state, a.dimension, a.sequence,
                  a.cursor, a.ledger, a.created_at, a.updated_at)
    insert into jobs_attributes_archive (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at, closed_at)
    select v_number, g.field, g.value, g.kind, g.name, g.state, g.dimension, g.sequence,
           g.cursor, g.ledger, g.created_at, g.updated_at, v_now
    from gone g;
end
$$;

-- Of jobs that the caller has locked, those of which nobody else holds an attribute, and that have
-- no signal left to pass on.
create or replace function hotmesh._archive_quiet(ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        with mine as materialized (
            select a.job_id
            from jobs_attributes a
            where a.job_id = any (ids)
            for update skip locked),
        counted as (
            select m.job_id, -1 as one from mine m
            union all
            select a.job_id, 1 from jobs_attributes a where a.job_id = any (ids)
            union all
            select i.id, 0 from unnest(ids) i (id))
        select c.job_id from counted c group by c.job_id
        having sum(c.one) = 0
           and not exists (
               select from streams m
               where m.job_id = c.job_id and m.kind in ('event', 'signal')
                 and m.args ? 'published'));
end
$$;

create or replace function hotmesh._archive_due(take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    return array(
        select j.id from jobs j
        where j.expire_at <= v_now
        order by j.expire_at
        limit take
        for update skip locked);
end
$$;

-- Idle workers call it too: nothing else runs that could. Next month is opened ahead, so that no
-- run which continues as new need do it.
create or replace function hotmesh._archive_expired(take integer)
returns bigint
language plpgsql
as $$
declare
    v_ids bigint[] := hotmesh._archive_due(take);
begin
    perform hotmesh._app_open_month(
        hotmesh._app_here(), hotmesh.now() + interval '1 month', patient => false);
    if v_ids = '{}' then
        return 0;
    end if;
    v_ids := hotmesh._archive_quiet(v_ids);
    if not hotmesh._archive_open_months(v_ids, patient => false) then
        return 0;
    end if;
    return hotmesh._archive_jobs(v_ids);
end
$$;

-- The planner is pinned: a plan made while the app was empty would scan its tables.
create or replace function hotmesh.job_archive(app text, take integer default 10000)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform hotmesh._enter(app);
    if coalesce(take, 0) not between 1 and 1000000 then
        perform hotmesh._refuse_argument(
            format('take is out of range: %s', coalesce(take::text, 'null')),
            'It says how many jobs one call moves at most: from 1 to 1000000.',
            'Leave it out, and call again until the answer is 0.');
    end if;
    return hotmesh._archive_expired(take);
end
$$;
comment on function hotmesh.job_archive(text, integer) is
'Move up to `take` closed jobs that have expired, with their attributes, to the archive; their keys
are free then. Returns how many moved; what others hold is left to a later call.';

-- As _attribute_history, of an archived job.
create or replace function hotmesh._archive_history(
    job_id bigint, dimension text, after integer, size_limit bigint)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(
                   jsonb_agg(
                       jsonb_build_array(
                           h.sequence, h.kind, h.name, h.state, h.value, h.cursor,
                           extract(epoch from h.updated_at))
                       order by h.sequence) filter (where h.before < size_limit),
                   '[]')
               || case when bool_and(h.before < size_limit) is false
                       then '[null]' else '[]' end::jsonb
        from (
            select a.sequence, a.kind, a.name, a.state, a.value, a.cursor, a.updated_at,
                   coalesce(sum(hotmesh._bytes(a.value)) over (
                       order by a.sequence
                       rows between unbounded preceding and 1 preceding), 0) as before
            from jobs_attributes_archive a
            where a.job_id = _archive_history.job_id
              and a.dimension = _archive_history.dimension
              and a.sequence > after) h);
end
$$;

create or replace function hotmesh._archive_months_before(at timestamptz)
returns setof regclass
language sql
stable
as $$
    select c.oid::regclass
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent in (
          to_regclass('jobs_archive'), to_regclass('jobs_attributes_archive'),
          to_regclass('entity_log_archive'))
      and c.relname ~ '_archive_\d{4}_\d\d$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= at at time zone 'UTC'
    order by c.relname
$$;

create or replace function hotmesh.job_prune(app text, keep interval)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_months regclass[];
begin
    perform hotmesh._enter(app);
    if keep is null or keep not between interval '0' and interval '1000 years' then
        perform hotmesh._refuse_argument(
            format('no span of time to keep: %s', coalesce(keep::text, 'null')),
            'It says how long archived jobs stay after they closed, from 0 to 1000 years.',
            'For instance keep => ''90 days''.');
    end if;
    v_months := array(select hotmesh._archive_months_before(hotmesh.now() - keep));
    perform hotmesh._app_run(array(select format('drop table %s', m) from unnest(v_months) m));
    perform hotmesh._measure_prune(
        date_trunc('month', (hotmesh.now() - keep) at time zone 'UTC') at time zone 'UTC');
    return cardinality(v_months);
end
$$;
comment on function hotmesh.job_prune(text, interval) is
'Drop the months of the archive that ended more than `keep` ago, and what was measured of jobs
before then. Returns the number of partitions.';

-- Everything of closed jobs, wherever it is by now.
create or replace function hotmesh._archive_scrub(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from jobs j where j.id = any (ids);
    delete from jobs_attributes a where a.job_id = any (ids);
    delete from entity_log l where l.job_id = any (ids);
    perform hotmesh._archive_messages(ids);
    perform hotmesh._measure_forget(ids);
    delete from jobs_archive j where j.id = any (ids);
    delete from jobs_attributes_archive a where a.job_id = any (ids);
    delete from entity_log_archive l where l.job_id = any (ids);
end
$$;

create or replace function hotmesh.job_scrub(app text, key text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_ids bigint[];
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._job_find(key);
    v_ids := array(
        select v_job.id where v_job.id is not null
        union all
        select a.id from jobs_archive a where a.key = job_scrub.key);
    if v_ids = '{}' then
        perform hotmesh._job_refuse_missing(key);
    elsif v_job.id is not null and v_job.closed_at is null then
        perform hotmesh._job_refuse_conflict(key, true, 'scrub');
    end if;
    perform hotmesh._archive_scrub(v_ids);
end
$$;
comment on function hotmesh.job_scrub(text, text) is
'Delete a closed job now, with its journal, its entity and what the archive has under its key: it
was never there. Raises MSH40 for an unknown job, MSH44 for an open one.';
