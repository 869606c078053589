-- 35 worker: who is alive and what it serves. A worker that finds nothing to do writes `idle_at`,
-- commits, looks once more and sleeps; whoever makes work ready wakes one idle worker that serves
-- it. Nobody else is notified: NOTIFY in a hot commit costs group commit.
-- Correctness never depends on this table: without a wake-up the worker looks again by itself.

--@ state
create table hotmesh.workers (
    name text not null,
    kinds text[] not null,
    queues text[] not null,
    names text[] not null,
    host text,
    pid integer,
    idle_at timestamptz,
    seen_at timestamptz not null,
    started_at timestamptz not null,
    constraint workers_pkey primary key (name),
    constraint topics_come_in_triples check (
        cardinality(kinds) = cardinality(queues) and cardinality(queues) = cardinality(names))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.workers is
'One row per live consumer. A row that was not seen for a minute is dropped.';
comment on column hotmesh.workers.name is 'The worker, unique per start of a process.';
comment on column hotmesh.workers.kinds is
'What it serves, first part of each topic: workflow or activity.';
comment on column hotmesh.workers.queues is
'What it serves, second part of each topic: the task queue.';
comment on column hotmesh.workers.names is
'What it serves, third part of each topic: the function.';
comment on column hotmesh.workers.host is 'Where it runs.';
comment on column hotmesh.workers.pid is 'Its process.';
comment on column hotmesh.workers.idle_at is
'Since when it waits to be woken; null while it works.';
comment on column hotmesh.workers.seen_at is 'When it last reported in.';
comment on column hotmesh.workers.started_at is 'When it reported in first.';

--@ behaviour
create or replace function hotmesh._worker_channel(worker text)
returns text
language sql
immutable
parallel safe
as $$
    select 'hotmesh_' || worker
$$;

create or replace function hotmesh._worker_check(worker text)
returns text
language plpgsql
as $$
begin
    if coalesce(octet_length(worker), 0) not between 1 and 50 then
        perform hotmesh._refuse_argument(
            'a worker needs a name of 1 to 50 bytes', format('It was %L.', left(worker, 60)),
            'Choose one that is unique per start of a process.');
    end if;
    return worker;
end
$$;

-- Whoever wakes the worker may hold its row; then the row is left as it is.
create or replace function hotmesh._worker_seen(worker text, about jsonb, idle boolean)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    perform from workers w where w.name = worker for update skip locked;
    if found then
        update workers w
        set kinds = array(select jsonb_array_elements_text(about -> 'kinds')),
            queues = array(select jsonb_array_elements_text(about -> 'queues')),
            names = array(select jsonb_array_elements_text(about -> 'names')),
            idle_at = case when idle then v_now end, seen_at = v_now
        where w.name = worker;
    else
        insert into workers (
            name, kinds, queues, names, host, pid, idle_at, seen_at, started_at)
        select worker,
               array(select jsonb_array_elements_text(about -> 'kinds')),
               array(select jsonb_array_elements_text(about -> 'queues')),
               array(select jsonb_array_elements_text(about -> 'names')),
               about ->> 'host', (about ->> 'pid')::integer,
               case when idle then v_now end, v_now, v_now
        where not exists (select from workers w where w.name = worker);
    end if;
    delete from workers w
    where w.name = any (array(
        select d.name
        from workers d
        where d.seen_at < v_now - interval '1 minute'
        limit 10
        for update skip locked));
end
$$;

-- Wakes the named workers if they sleep. An idle flag older than a lease counts for nothing: its
-- owner is gone. A worker whose row is locked is just renewing its flag: it is told all the same.
create or replace function hotmesh._worker_wake(workers text[])
returns void
language plpgsql
as $$
declare
    v_asleep text[] := array(
        select w.name from workers w
        where w.name = any (_worker_wake.workers) and w.idle_at > hotmesh.now() - interval '15 s');
begin
    if v_asleep = '{}' then
        return;
    end if;
    update workers w set idle_at = null
    where w.name = any (array(
        select s.name from workers s where s.name = any (v_asleep) for update skip locked));
    perform pg_notify(hotmesh._worker_channel(n), '') from unnest(v_asleep) n;
end
$$;

-- Is a worker there, awake or asleep, that serves the topic? Where there are no turns nobody drops
-- the row of one that died.
create or replace function hotmesh._worker_serves(kind text, queue text, name text)
returns boolean
language plpgsql
as $$
declare
    v_since timestamptz := hotmesh.now() - interval '1 minute';
begin
    return exists (
        select
        from workers w
        cross join unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)
        where w.seen_at > v_since
          and t.kind = _worker_serves.kind and t.queue = _worker_serves.queue
          and t.name = _worker_serves.name);
end
$$;

-- Wakes one idle worker that serves the topic.
create or replace function hotmesh._worker_wake_for(kind text, queue text, name text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._worker_wake(array(
        select w.name
        from workers w
        where w.idle_at > hotmesh.now() - interval '15 s'
          and exists (
              select from unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)
              where t.kind = _worker_wake_for.kind
                and t.queue = _worker_wake_for.queue
                and t.name = _worker_wake_for.name)
        order by w.idle_at desc
        limit 1));
end
$$;

-- Wakes some idle worker: its turn will see what is to be done.
create or replace function hotmesh._worker_wake_any()
returns void
language plpgsql
as $$
begin
    perform hotmesh._worker_wake(array(
        select w.name from workers w
        where w.idle_at > hotmesh.now() - interval '15 s'
        order by w.idle_at desc
        limit 1));
end
$$;

-- Wakes idle workers for which work is ready; `except_worker` is the one that asks.
create or replace function hotmesh._worker_wake_useful(except_worker text)
returns void
language plpgsql
as $$
declare
    v_idle hotmesh.workers[] := array(
        select (w::hotmesh.workers)
        from workers w
        where w.idle_at > hotmesh.now() - interval '15 s' and w.name <> except_worker
        order by w.idle_at desc
        limit 10);
begin
    if v_idle = '{}' then
        return;
    end if;
    perform hotmesh._worker_wake(array(
        select w.name from unnest(v_idle) w where hotmesh._worker_is_useful(w) limit 2));
end
$$;

create or replace function hotmesh._worker_is_useful(worker hotmesh.workers)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select
        from unnest(array['workflow', 'activity']) as k (kind)
        where hotmesh._limit_useful(
            k.kind,
            array(
                select t.queue
                from unnest(worker.kinds, worker.queues) as t (kind, queue)
                where t.kind = k.kind),
            array(
                select t.name
                from unnest(worker.kinds, worker.names) as t (kind, name)
                where t.kind = k.kind),
            worker.name));
end
$$;

-- Is there one that serves a queue?
create or replace function hotmesh._worker_serves(kind text, queue text)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select from workers w
        where w.seen_at > hotmesh.now() - interval '1 minute'
          and exists (
              select from unnest(w.kinds, w.queues) t (kind, queue)
              where t.kind = _worker_serves.kind and t.queue = _worker_serves.queue));
end
$$;

create or replace function hotmesh._worker_gone(worker text)
returns void
language plpgsql
as $$
begin
    delete from workers w where w.name = worker;
end
$$;

create or replace function hotmesh.worker_extend(
    app text, worker text, ids bigint[], lease interval default '15 s')
returns bigint[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    perform hotmesh._lease_check(lease);
    return hotmesh._lease_extend(ids, worker, lease);
end
$$;
comment on function hotmesh.worker_extend(text, text, bigint[], interval) is
'Keep the leases of a worker alive; returns the messages that it still holds. Rows that are locked
this instant are left for the next call.';

-- Finds a heartbeat of a wrong form. One of no message is stale.
create or replace function hotmesh._worker_unfit()
returns jsonpath
language sql
immutable
as $$
    select 'strict $[*] ? (@.type() != "object"
        || exists(@.id ? (!exists(@ ? (
            @ == null || @ >= 0 && @ <= 9223372036854775807 && @.floor() == @))))
        || exists(@.token ? (!exists(@ ? (
            @ == null || @ >= 0 && @ <= 2147483647 && @.floor() == @)))))'::jsonpath
$$;

create or replace function hotmesh.worker_heartbeat(
    app text, worker text, beats jsonb, lease interval default '15 s')
returns table (id bigint, answer text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    perform hotmesh._lease_check(lease);
    if jsonb_typeof(beats) is distinct from 'array'
        or pg_column_size(beats) > hotmesh._setting('value_limit', 16777216)
        or jsonb_path_exists(beats, hotmesh._worker_unfit())
    then
        perform hotmesh._refuse_argument(
            'heartbeats are no JSON array of objects, or too large', left(beats::text, 200),
            'Give [{"id": …, "token": …, "details": …}, …].');
    end if;
    return query
    select b.id, b.answer
    from (
        select array_agg(r.id) as ids, array_agg(r.token) as tokens, array_agg(r.details) as details
        from jsonb_to_recordset(beats) as r (id bigint, token integer, details jsonb)) h
    cross join lateral hotmesh._lease_beat(h.ids, h.tokens, h.details, lease) b;
end
$$;
comment on function hotmesh.worker_heartbeat(text, text, jsonb, interval) is
'Signs of life of activities: [{"id": …, "token": …, "details": …}, …]. The details are handed to
the next attempt. Answers for each: ok; stale when the attempt is not wanted any more; busy when its
row is locked this instant.';

create or replace function hotmesh.worker_stop(app text, worker text, ids bigint[])
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count integer;
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    v_count := hotmesh._lease_return(ids, worker);
    perform hotmesh._worker_gone(worker);
    perform hotmesh._worker_wake_useful(worker);
    return v_count;
end
$$;
comment on function hotmesh.worker_stop(text, text, bigint[]) is
'A worker leaves: what it holds is ready again at once, and what it had begun does not count as an
attempt. Returns how many messages it gave back.';

create or replace function hotmesh.worker_list(app text)
returns table (
    name text, host text, pid integer, serves jsonb, idle_at timestamptz, seen_at timestamptz,
    started_at timestamptz, held bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select w.name, w.host, w.pid,
           (select coalesce(jsonb_agg(jsonb_build_object(
                       'kind', t.kind, 'queue', t.queue, 'name', t.name)), '[]')
            from unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)),
           w.idle_at, w.seen_at, w.started_at, coalesce(h.held, 0)
    from workers w
    left join (
        select s.worker, count(*) as held
        from streams s
        where s.state = 'leased'
        group by s.worker) h on h.worker = w.name
    order by w.started_at, w.name;
end
$$;
comment on function hotmesh.worker_list(text) is
'The workers that were seen in the last minute or two: where they run, what they serve, since when
they wait for work (null: they work), and how many messages each holds.';
