-- 36 queue: the doors to a queue's limits; how they work is in 33_limit. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._queue_refuse(queue text, fault text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('bad limit of queue "%s": %s', left(queue, 100), fault),
        'concurrency, per_key and rate are whole numbers above zero, per an interval up to a year, '
        || 'kind is workflow, activity or null for both.',
        'For instance concurrency => 10, or rate => 100, per => ''1 minute''.');
end
$$;

create or replace function hotmesh._queue_check(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_name text := coalesce(lim.queue, '');
begin
    if octet_length(v_name) not between 1 and 500 then
        perform hotmesh._queue_refuse(v_name, 'a name has from 1 to 500 bytes');
    elsif lim.kind not in ('workflow', 'activity') then
        perform hotmesh._queue_refuse(v_name, 'unknown kind ' || left(lim.kind, 60));
    elsif lim.concurrency is null and lim.per_key is null and lim.rate is null then
        perform hotmesh._queue_refuse(v_name, 'nothing is limited; queue_unlimit lifts limits');
    elsif least(lim.concurrency, lim.per_key, lim.rate) <= 0 then
        perform hotmesh._queue_refuse(v_name, 'a number is not above zero');
    elsif lim.per is not null and lim.rate is null then
        perform hotmesh._queue_refuse(v_name, 'per without rate');
    elsif lim.per < interval '1 ms' or lim.per > interval '366 days' then
        perform hotmesh._queue_refuse(v_name, format('per is %s', lim.per));
    end if;
end
$$;

-- Whoever sleeps is told that there may be work now.
create or replace function hotmesh._queue_set(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_limit hotmesh.limits := lim;
    v_kind text;
begin
    foreach v_kind in array array['workflow', 'activity'] loop
        if v_kind = coalesce(lim.kind, v_kind) then
            v_limit.kind := v_kind;
            perform hotmesh._limit_set(v_limit);
            perform hotmesh._lane_review(v_limit);
        end if;
    end loop;
    perform hotmesh._lane_admit();
    perform hotmesh._worker_wake_useful('');
end
$$;

create or replace function hotmesh.queue_limit(
    app text, queue text, concurrency integer default null, per_key integer default null,
    rate integer default null, per interval default null, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit hotmesh.limits := (
        queue, kind, concurrency, per_key, rate,
        coalesce(per, case when rate is not null then interval '1 s' end), null, null, null, null);
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check(v_limit);
    perform hotmesh._queue_set(v_limit);
end
$$;
comment on function hotmesh.queue_limit(text, text, integer, integer, integer, interval, text) is
'Set the limits of a queue, in place of those it has. concurrency: how many may be under way, that
is workflows from their first claim until they close, and activities while they run, each kind
counted for itself; per_key: the same for each concurrency_key; rate: how many may begin in any time
as long as per (1 second). kind: workflow or activity, null for both. Raises 22023.';

create or replace function hotmesh.queue_unlimit(app text, queue text, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check((queue, kind, 1, null, null, null, null, null, null, null));
    perform hotmesh._queue_set((queue, kind, null, null, null, null, null, null, null, null));
end
$$;
comment on function hotmesh.queue_unlimit(text, text, text) is
'Lift the limits of a queue, of one kind (workflow or activity) or of both. Nothing happens if it
has none.';

create or replace function hotmesh.queue_throttle(
    app text, queue text, delay integer, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_kind text;
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check((queue, kind, 1, null, null, null, null, null, null, null));
    if delay is null or delay not between -1 and 86400000 then
        perform hotmesh._queue_refuse(queue, 'delay is from -1 to 86400000 milliseconds');
    end if;
    foreach v_kind in array array['workflow', 'activity'] loop
        if v_kind = coalesce(kind, v_kind) then
            perform hotmesh._limit_throttle(queue, v_kind, nullif(delay, 0));
        end if;
    end loop;
    perform hotmesh._worker_wake_useful('');
end
$$;
comment on function hotmesh.queue_throttle(text, text, integer, text) is
'Let so many milliseconds pass from one beginning to the next in this queue, whoever serves it; -1:
nothing begins any more, 0: as if nothing had been said. What is under way goes on, and limits stay.
kind: workflow or activity, null for both. Raises 22023.';

create or replace function hotmesh.queue_list(app text)
returns table (
    queue text, kind text, concurrency integer, per_key integer, rate integer, per interval,
    under_way bigint, held bigint, throttle integer)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select l.queue, l.kind, l.concurrency, l.per_key, l.rate, l.per,
           (select count(*) from streams s
            where s.kind = l.kind and s.queue = l.queue and s.slot = 2),
           (select count(*) from streams s
            where s.kind = l.kind and s.queue = l.queue and s.state = 'held'),
           l.throttle
    from limits l
    where coalesce(l.concurrency, l.per_key, l.rate, l.throttle) is not null
    order by l.queue, l.kind;
end
$$;
comment on function hotmesh.queue_list(text) is
'The queues that have limits, what is under way in each, and how many messages are held because
their key has no free slot. throttle: milliseconds between two beginnings, -1: nothing begins.';

create or replace function hotmesh.queue_stats(app text)
returns table (
    queue text, kind text, name text, ready bigint, delayed bigint, leased bigint, waiting bigint,
    held bigint, dead bigint, oldest timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select s.queue, s.kind, s.name,
           count(*) filter (where s.state = 'ready'),
           count(*) filter (where s.state = 'delayed'),
           count(*) filter (where s.state = 'leased'),
           count(*) filter (where s.state = 'waiting'),
           count(*) filter (where s.state = 'held'),
           count(*) filter (where s.state = 'dead'),
           min(s.created_at) filter (where s.state = 'ready')
    from streams s
    where s.kind in ('workflow', 'activity')
    group by s.queue, s.kind, s.name
    order by s.queue, s.kind, s.name;
end
$$;
comment on function hotmesh.queue_stats(text) is
'Per queue and function: how many messages are in which state, and since when the oldest that is
ready waits. The workflows are the functions of open jobs; a dead one is parked, a dead activity is
a dead letter. Reads all messages of the app.';

create or replace function hotmesh._queue_topics(want jsonb, kind text, part text)
returns text[]
language sql
immutable
as $$
    select array(
        select t.value
        from jsonb_array_elements_text(want -> part) with ordinality as t (value, n)
        where want -> 'kinds' ->> t.n::integer - 1 = kind
        order by t.n)
$$;

-- Seconds until a worker that got nothing should look again: at once if there is something that
-- somebody else had locked.
create or replace function hotmesh._queue_next_due(worker text, want jsonb)
returns double precision
language plpgsql
as $$
declare
    v_due double precision := hotmesh._lease_next_due();
    v_queues text[] := array(select jsonb_array_elements_text(want -> 'queues'));
    v_limits hotmesh.limits[] := hotmesh._limit_of('workflow', v_queues)
        || hotmesh._limit_of('activity', v_queues);
begin
    if exists (select from lanes)
        or exists (
            select from unnest(array['workflow', 'activity']) as k (kind)
            where v_limits <> '{}' and (want ->> k.kind)::integer > 0
              and hotmesh._limit_useful(
                  k.kind, hotmesh._queue_topics(want, k.kind, 'queues'),
                  hotmesh._queue_topics(want, k.kind, 'names'), worker))
    then
        return 0;
    end if;
    if want ->> 'idle' = 'true' and (want ->> 'workflow')::integer > 0 then
        v_due := least(v_due, hotmesh._lease_grace_ends(
            hotmesh._queue_topics(want, 'workflow', 'queues'),
            hotmesh._queue_topics(want, 'workflow', 'names'), worker));
    end if;
    return least(v_due, (
        select min(hotmesh._limit_opens(l))
        from unnest(v_limits) l
        where (want ->> l.kind)::integer > 0));
end
$$;
