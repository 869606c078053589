-- 33 limit: how much of a queue may be under way (workflows from their first claim until they
-- close, activities while they run), in all and per concurrency key, how many may begin in a time,
-- and how long after each other. Claims of a limited queue lock its row in `limits`, so they come
-- one after another, and count slots, a column of the messages: whatever becomes of one gives its
-- slot back (34). A queue that is full is not looked at. Beginnings are counted in sixtieths of the
-- time of the rate.

--@ state
create table hotmesh.limits (
    queue text not null,
    kind text not null,
    concurrency integer,
    per_key integer,
    rate integer,
    per interval,
    begun jsonb not null default '{}',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    throttle integer,
    constraint limits_pkey primary key (queue, kind),
    constraint limited_kind_is_known check (kind in ('workflow', 'activity')),
    constraint limits_are_above_zero check (concurrency > 0 and per_key > 0 and rate > 0),
    constraint a_rate_has_a_time check ((rate is null) = (per is null)),
    constraint throttle_is_a_delay_or_a_stop check (throttle > 0 or throttle = -1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.limits is
'One row per queue and kind of message that is, or was, limited.';
comment on column hotmesh.limits.queue is 'The task queue.';
comment on column hotmesh.limits.kind is
'Which of its messages: workflow or activity. Each is counted for itself.';
comment on column hotmesh.limits.concurrency is
'How many may be under way: workflows between first claim and close, activities that run.';
comment on column hotmesh.limits.per_key is
'How many of one concurrency key may be under way or ready; the rest of the key is held.';
comment on column hotmesh.limits.rate is 'How many may begin in any time as long as `per`.';
comment on column hotmesh.limits.per is 'The time that the rate is for.';
comment on column hotmesh.limits.begun is
'How many began in each sixtieth of `per`, by its number, as far as it still counts.';
comment on column hotmesh.limits.created_at is 'When it was set first.';
comment on column hotmesh.limits.updated_at is 'When it was set, or when something was claimed.';
comment on column hotmesh.limits.throttle is
'Milliseconds from one beginning to the next; -1: nothing begins.';

--@ behaviour
-- Seconds of one of the sixty slices in which beginnings are counted. A message counts until the
-- sixtieth slice after its own has ended, so any time of length `per` has at most `rate` of them.
create or replace function hotmesh._limit_slice(per interval)
returns double precision
language sql
immutable
parallel safe
as $$
    select extract(epoch from per)::double precision / 60
$$;

-- What began lately: (slice, how many).
create or replace function hotmesh._limit_begun(lim hotmesh.limits)
returns table (slice bigint, number integer)
language sql
stable
as $$
    select b.key::bigint, b.value::integer
    from jsonb_each_text(lim.begun) b
    where abs(b.key::bigint
              - floor(extract(epoch from hotmesh.now()) / hotmesh._limit_slice(lim.per))) <= 60
$$;

-- Seconds until the throttle lets something begin again; zero or less: now.
create or replace function hotmesh._limit_pause(lim hotmesh.limits)
returns double precision
language sql
stable
as $$
    select lim.throttle / 1000.0 - abs(extract(epoch from hotmesh.now() - lim.updated_at))
$$;

-- How many more may begin now; the caller who means to take them holds the row's lock.
create or replace function hotmesh._limit_free(lim hotmesh.limits)
returns integer
language plpgsql
as $$
begin
    return coalesce(least(
        lim.concurrency - case when lim.concurrency is not null then (
            select count(*)
            from streams s
            where s.kind = lim.kind and s.queue = lim.queue and s.slot = 2) end,
        lim.rate - case when lim.rate is not null then (
            select coalesce(sum(b.number), 0) from hotmesh._limit_begun(lim) b) end,
        case when lim.throttle is not null then (
            lim.throttle > 0 and hotmesh._limit_pause(lim) <= 0)::integer end),
        2147483647);
end
$$;

create or replace function hotmesh._limit_count(lim hotmesh.limits, number integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_slice text := floor(extract(epoch from v_now) / hotmesh._limit_slice(lim.per))::text;
begin
    update limits l
    set updated_at = case when number > 0 then v_now else l.updated_at end,
        begun = case when lim.rate is null then '{}' else coalesce((
                select jsonb_object_agg(b.slice, b.number) from hotmesh._limit_begun(lim) b), '{}')
            || case when number > 0 then jsonb_build_object(
                v_slice, coalesce((lim.begun ->> v_slice)::integer, 0) + number) else '{}' end end
    where l.queue = lim.queue and l.kind = lim.kind;
end
$$;

-- Those of these queues that are limited.
create or replace function hotmesh._limit_of(kind text, queues text[])
returns hotmesh.limits[]
language plpgsql
as $$
begin
    return array(
        select (l::hotmesh.limits)
        from limits l
        where l.queue = any (queues) and l.kind = _limit_of.kind
          and coalesce(l.concurrency, l.per_key, l.rate, l.throttle) is not null);
end
$$;

-- Workflows that go on have their slot: no limit keeps them waiting.
create or replace function hotmesh._limit_resume(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
    v_ids bigint[] := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = 'workflow' and s.slot <> 1
          and s.queue = _limit_resume.queue and s.name = _limit_resume.name
          and (s.worker is null or s.worker = _limit_resume.worker
               or s.visible_at <= v_grace or s.visible_at > v_grace + interval '1 s')
        order by s.priority desc, s.id
        limit take
        for update skip locked);
begin
    perform hotmesh._stream_lease(v_ids, worker, lease);
    return v_ids;
end
$$;

-- Takes what may begin. While somebody else takes from this queue nothing is taken.
create or replace function hotmesh._limit_take(
    kind text, queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limit hotmesh.limits;
    v_free integer;
    v_taken bigint[];
    v_ids bigint[];
begin
    select (l::hotmesh.limits).* into v_limit
    from limits l
    where l.queue = _limit_take.queue and l.kind = _limit_take.kind
    for update skip locked;
    v_free := least(take, hotmesh._limit_free(v_limit));
    if v_limit.queue is null or v_free <= 0 then
        return '{}';
    end if;
    v_taken := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = _limit_take.kind
          and s.queue = _limit_take.queue and s.name = _limit_take.name
          and (s.slot is null or s.slot = 1)
        order by s.priority desc, s.id
        limit v_free
        for update skip locked);
    -- what came while the limit was being set has no slot of its key: the trigger holds it
    update streams s set state = 'ready'
    where s.id = any (v_taken) and s.slot is null and v_limit.per_key is not null
      and s.concurrency_key is not null;
    v_ids := array(select s.id from streams s where s.id = any (v_taken) and s.state = 'ready');
    perform hotmesh._stream_lease(v_ids, worker, lease);
    update streams s set slot = 2 where s.id = any (v_ids);
    perform hotmesh._limit_count(v_limit, cardinality(v_ids)) where v_ids <> '{}';
    return v_ids;
end
$$;

-- The claim for queues of which some may be limited.
create or replace function hotmesh._limit_claim(
    kind text, queues text[], names text[], worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limits hotmesh.limits[] := hotmesh._limit_of(kind, queues);
    v_ids bigint[] := '{}';
    v_place integer;
begin
    if v_limits = '{}' then
        return hotmesh._stream_claim(kind, queues, names, worker, take, lease);
    end if;
    foreach v_place in array array(
        select h from hotmesh._stream_heads(kind, queues, names, worker) h)
    loop
        exit when cardinality(v_ids) >= take;
        if not exists (select from unnest(v_limits) l where l.queue = queues[v_place]) then
            v_ids := v_ids || hotmesh._stream_claim(
                kind, queues[v_place:v_place], names[v_place:v_place], worker,
                take - cardinality(v_ids), lease);
            continue;
        end if;
        if kind = 'workflow' then
            v_ids := v_ids || hotmesh._limit_resume(
                queues[v_place], names[v_place], worker, take - cardinality(v_ids), lease);
        end if;
        v_ids := v_ids || hotmesh._limit_take(
            kind, queues[v_place], names[v_place], worker, take - cardinality(v_ids), lease);
    end loop;
    return v_ids;
end
$$;

-- Is there anything that this worker might claim now?
create or replace function hotmesh._limit_useful(
    kind text, queues text[], names text[], worker text)
returns boolean
language plpgsql
as $$
declare
    v_full text[] := array(
        select l.queue
        from unnest(hotmesh._limit_of(kind, queues)) l
        where hotmesh._limit_free(l) <= 0);
begin
    if v_full = '{}' then
        return exists (select from hotmesh._stream_heads(kind, queues, names, worker));
    end if;
    return exists (
        select from hotmesh._stream_heads(
            kind,
            array(select q from unnest(queues) q where q <> all (v_full)),
            array(select t.name from unnest(queues, names) as t (queue, name)
                  where t.queue <> all (v_full)),
            worker))
        or kind = 'workflow' and exists (
            select
            from unnest(queues, names) as t (queue, name)
            cross join lateral (
                select from streams s
                where s.state = 'ready' and s.kind = 'workflow' and s.slot <> 1
                  and s.queue = t.queue and s.name = t.name
                limit 1) r
            where t.queue = any (v_full));
end
$$;

-- Which of these queues have limits for their activities (a worker must not run those inline); null
-- if it is as the worker knows it: {queue: limited, …}.
create or replace function hotmesh._limit_news(known jsonb)
returns jsonb
language plpgsql
as $$
begin
    return nullif((
        select jsonb_object_agg(k, hotmesh._limit_of('activity', array[k]) <> '{}')
        from jsonb_object_keys(known) k), known);
end
$$;

-- Seconds until a full rate and a throttle let something begin again; null if they do, or never.
create or replace function hotmesh._limit_opens(lim hotmesh.limits)
returns double precision
language sql
stable
as $$
    select greatest(
        (select greatest(0, (min(b.slice) + 61) * hotmesh._limit_slice(lim.per)
                            - extract(epoch from hotmesh.now()))
         from hotmesh._limit_begun(lim) b
         where lim.rate is not null
         having sum(b.number) >= lim.rate),
        nullif(greatest(hotmesh._limit_pause(lim), 0), 0))
    where lim.throttle is distinct from -1
$$;

-- Sets or, with nulls, lifts the limits of a queue. What is under way counts from now on; each lane
-- is looked at anew. The row stays, so that notes always find one.
create or replace function hotmesh._limit_set(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into limits as l (
        queue, kind, concurrency, per_key, rate, per, created_at, updated_at)
    values (lim.queue, lim.kind, lim.concurrency, lim.per_key, lim.rate, lim.per, v_now, v_now)
    on conflict (queue, kind) do update
    set concurrency = lim.concurrency, per_key = lim.per_key, rate = lim.rate, per = lim.per,
        begun = case when l.per = lim.per then l.begun else '{}' end, updated_at = v_now;
    update streams s set slot = 2
    where s.id = any (array(
        select m.id
        from streams m
        where m.queue = lim.queue and m.kind = lim.kind and m.slot is distinct from 2
          and case m.kind when 'activity' then m.state = 'leased'
                  else m.token > 0 and m.dimension = '' and m.state <> 'dead' end
        for update skip locked));
    update streams s set state = 'ready'
    where s.id = any (array(
        select m.id
        from streams m
        where m.queue = lim.queue and m.kind = lim.kind and m.state = 'ready' and m.slot is null
          and m.concurrency_key is not null
        for update skip locked));
end
$$;

-- Sets or, with null, lifts the throttle of a queue.
create or replace function hotmesh._limit_throttle(queue text, kind text, throttle integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into limits as l (queue, kind, throttle, created_at, updated_at)
    values (queue, kind, throttle, v_now, v_now)
    on conflict on constraint limits_pkey do update
    set throttle = _limit_throttle.throttle, updated_at = v_now;
end
$$;
