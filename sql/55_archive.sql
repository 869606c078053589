-- 55 archive: where closed jobs go when they expire, so that the hot tables stay small. Each app has one table per noun here, partitioned by
-- the month (UTC) in which the job closed; months are made as they are needed, and retention drops whole months. The tables in hotmesh are
-- templates: a partitioned table can't inherit. A key that was archived is free. What moves is named column by column: an app's tables may have
-- more columns, in another order. Nothing here waits for a job that someone else holds. Errors: 22023 only.

--@ state
create table hotmesh.jobs_archive (
    like hotmesh.jobs including comments including storage,
    constraint jobs_archive_pkey primary key (id, closed_at)
);
comment on table hotmesh.jobs_archive is 'Jobs that closed and expired.';
create index jobs_archive_by_key on hotmesh.jobs_archive (key, closed_at);
create table hotmesh.jobs_attributes_archive (
    like hotmesh.jobs_attributes including comments including storage,
    closed_at timestamptz,
    constraint jobs_attributes_archive_pkey primary key (job_id, field, closed_at)
);
comment on table hotmesh.jobs_attributes_archive is 'The attributes of the jobs in jobs_archive.';
comment on column hotmesh.jobs_attributes_archive.closed_at is 'When their job settled: they lie in the same month.';

--@ behaviour
-- Moves closed jobs whose rows the caller has locked, whether they expired or not; open ones stay. The planner is pinned: a plan made
-- while the app was empty would scan the tables for each job.
create or replace function hotmesh._archive_jobs(ids bigint[])
returns bigint
language plpgsql
set enable_seqscan = off
set enable_nestloop = off
as $$
declare
    v_ids bigint[];
    v_closed timestamptz[];
begin
    perform hotmesh._app_open_month(hotmesh._app_here(), m.month at time zone 'UTC')
    from (select distinct date_trunc('month', j.closed_at at time zone 'UTC') from jobs j
          where j.id = any (ids) and j.closed_at is not null) m (month);
    with gone as (
        delete from jobs j
        where j.id = any (ids) and j.closed_at is not null
        returning j.id, j.key, j.entity, j.queue, j.topic, j.graph_version, j.status, j.cursor, j.context, j.entity_version,
                  j.expire_after, j.created_at, j.updated_at, j.closed_at, j.expire_at),
    kept as (
        insert into jobs_archive as k (
            id, key, entity, queue, topic, graph_version, status, cursor, context, entity_version,
            expire_after, created_at, updated_at, closed_at, expire_at)
        select g.id, g.key, g.entity, g.queue, g.topic, g.graph_version, g.status, g.cursor, g.context, g.entity_version,
               g.expire_after, g.created_at, g.updated_at, g.closed_at, g.expire_at
        from gone g
        returning k.id, k.closed_at)
    select array_agg(k.id), array_agg(k.closed_at) into v_ids, v_closed from kept k;
    perform hotmesh._archive_attributes(v_ids, v_closed);
    return coalesce(cardinality(v_ids), 0);
end
$$;

-- Left-over messages go too, but for one that somebody holds this instant: its report will be stale.
create or replace function hotmesh._archive_attributes(ids bigint[], closed timestamptz[])
returns void
language plpgsql
as $$
begin
    with gone as (
        delete from jobs_attributes a
        where a.job_id = any (ids)
        returning a.job_id, a.field, a.value, a.kind, a.name, a.state, a.dimension, a.sequence, a.cursor, a.ledger, a.created_at, a.updated_at)
    insert into jobs_attributes_archive (
        job_id, field, value, kind, name, state, dimension, sequence, cursor, ledger, created_at, updated_at, closed_at)
    select g.job_id, g.field, g.value, g.kind, g.name, g.state, g.dimension, g.sequence, g.cursor, g.ledger, g.created_at, g.updated_at, c.closed_at
    from gone g
    join unnest(ids, closed) as c (id, closed_at) on c.id = g.job_id;
    delete from streams s
    where s.id = any (array(
        select m.id from streams m where m.job_id = any (ids) for update skip locked));
end
$$;

-- Locks what is due. A job of which somebody holds an attribute is left for the next time.
create or replace function hotmesh._archive_due(take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_ids bigint[];
begin
    v_ids := array(
        select j.id from jobs j
        where j.expire_at <= v_now
        order by j.expire_at
        limit take
        for update skip locked);
    return array(
        with held as materialized (
            select a.job_id from jobs_attributes a where a.job_id = any (v_ids) for update skip locked),
        rows as (
            select h.job_id, -1 as one from held h
            union all
            select a.job_id, 1 from jobs_attributes a where a.job_id = any (v_ids)
            union all
            select i.id, 0 from unnest(v_ids) i (id))
        select r.job_id from rows r group by r.job_id having sum(r.one) = 0);
end
$$;

create or replace function hotmesh.job_archive(app text, take integer default 10000)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_nestloop = off
as $$
begin
    perform hotmesh._enter(app);
    if coalesce(take, 0) not between 1 and 1000000 then
        perform hotmesh._refuse_argument(format('take is out of range: %s', coalesce(take::text, 'null')),
            'It says how many jobs one call moves at most: from 1 to 1000000.', 'Call again until it returns 0.');
    end if;
    perform hotmesh._app_open_month(hotmesh._app_here(), hotmesh.now() + interval '1 month');
    return hotmesh._archive_jobs(hotmesh._archive_due(take));
end
$$;
comment on function hotmesh.job_archive(text, integer) is
'Move up to `take` closed jobs that have expired to the archive, with their attributes; their keys are free then. Returns how many moved. Skips what others hold.';

create or replace function hotmesh.job_prune(app text, keep interval)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_end timestamp;
    v_drops text[];
begin
    perform hotmesh._enter(app);
    if keep is null or keep not between interval '0' and interval '1000 years' then
        perform hotmesh._refuse_argument(format('no span of time to keep: %s', coalesce(keep::text, 'null')),
            'It says how long archived jobs stay after they closed, from 0 to 1000 years.', 'For instance keep => ''90 days''.');
    end if;
    v_end := (hotmesh.now() - keep) at time zone 'UTC';
    v_drops := array(
        select format('drop table %s', c.oid::regclass)
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent in (to_regclass('jobs_archive'), to_regclass('jobs_attributes_archive'))
          and c.relname ~ '_archive_\d{4}_\d\d$'
          and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= v_end
        order by c.relname);
    perform hotmesh._app_run(v_drops);
    return cardinality(v_drops);
end
$$;
comment on function hotmesh.job_prune(text, interval) is
'Drop the months of the archive that ended longer than `keep` ago. Returns how many partitions were dropped.';
