-- 30 stream: the one queue. A message is work (activity, workflow), news of a job (event) or an
-- alarm (timer). delayed -> ready -> leased -> deleted, or delayed again for a retry, or dead.
-- `visible_at` says when a delayed one is due and when a leased one is given up. A workflow message
-- lives as long as its function: it is `waiting` while there is nothing to do. News is `ready`
-- until its job was told, then `waiting` in the inbox. A claim raises `token`: a report with an old
-- one is stale. Errors: MSH30.

--@ state
create table hotmesh.streams (
    id bigint not null default nextval('hotmesh.ids'),
    kind text not null,
    state text not null default 'ready',
    queue text not null default '',
    name text not null default '',
    priority smallint not null default 0,
    job_id bigint,
    dimension text not null default '',
    sequence integer,
    cursor bigint,
    args jsonb,
    retry_policy jsonb,
    attempt integer not null default 0,
    token integer not null default 0,
    visible_at timestamptz not null,
    worker text,
    error jsonb,
    created_at timestamptz not null,
    timeouts jsonb,
    concurrency_key text,
    slot smallint,
    constraint streams_pkey primary key (id),
    constraint kind_is_known check (
        kind in ('workflow', 'activity', 'event', 'signal', 'timer')),
    constraint state_is_known check (
        state in ('delayed', 'held', 'ready', 'leased', 'waiting', 'dead')),
    constraint leased_messages_have_a_worker check (state <> 'leased' or worker is not null),
    constraint attempts_and_tokens_only_count_up check (attempt >= 0 and token >= 0)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
comment on table hotmesh.streams is
'One row per message that is due or will be: for a queue, for a job''s inbox, or an alarm.';
comment on column hotmesh.streams.id is 'The message. Handed to whoever claims it.';
comment on column hotmesh.streams.kind is
'workflow: run or resume a function; activity: call one; event: news for a job; signal: one that was
sent to a job and waits for its wait, which makes it an event; timer: an alarm that becomes one.';
comment on column hotmesh.streams.state is
'delayed, held (its key has no free slot, see limits), ready, leased, waiting (for news, or in a
job''s inbox) or dead (a dead letter, or a parked workflow).';
comment on column hotmesh.streams.queue is
'The task queue whose workers may claim it; empty for events and timers.';
comment on column hotmesh.streams.name is 'The function to call, or the kind of news.';
comment on column hotmesh.streams.priority is 'Higher is claimed first.';
comment on column hotmesh.streams.job_id is 'The job it belongs to.';
comment on column hotmesh.streams.dimension is
'The part of the job it belongs to: empty for the main function, a path for a hook; of a signal: its
name.';
comment on column hotmesh.streams.sequence is
'The journal row that waits for its result; for a workflow that started over: the last of its steps
before that.';
comment on column hotmesh.streams.cursor is
'For a workflow that waits: the last event its worker has seen, so that only what is new is shipped
to it.';
comment on column hotmesh.streams.args is 'The arguments, or what an event tells.';
comment on column hotmesh.streams.retry_policy is
'The policy, normalised; null is the default policy.';
comment on column hotmesh.streams.attempt is
'Executions begun; for a workflow: deliveries since its last report.';
comment on column hotmesh.streams.token is
'Deliveries ever. A report must name the current one.';
comment on column hotmesh.streams.visible_at is
'When a delayed message is due and when a lease ends. A change by hand is honoured.';
comment on column hotmesh.streams.worker is
'Who holds it; for a workflow that waits: who holds its coroutine and is preferred for 100 ms.';
comment on column hotmesh.streams.error is 'The last failure.';
comment on column hotmesh.streams.created_at is 'When it was enqueued.';
comment on column hotmesh.streams.timeouts is
'How long an activity may take, when the attempt that runs is given up, and the details of its last
heartbeat; see 26_timeout. Null when nothing bounds it.';
comment on column hotmesh.streams.concurrency_key is
'Whose turn it is: messages of one key share the slots that their queue gives to each key.';
comment on column hotmesh.streams.slot is
'Where limits hold: 1 it has a slot of its key, 2 it counts in its queue, 0 it needs none. Null:
none yet, or no limit.';
create index streams_claimable on hotmesh.streams (kind, queue, name, priority desc, id)
where state = 'ready';
-- The second condition keeps it out of looks by id: a plan made on an empty app might prefer it.
create index streams_due on hotmesh.streams (visible_at)
where state in ('delayed', 'leased') and visible_at > '-infinity';
create index streams_by_job on hotmesh.streams (job_id, kind, dimension, sequence, id)
where job_id is not null;
create index streams_slots on hotmesh.streams (kind, queue, slot, concurrency_key)
where slot > 0;
create index streams_held on hotmesh.streams (kind, queue, concurrency_key, priority desc, id)
where state = 'held';
create index streams_resumed on hotmesh.streams (queue, name, priority desc, id)
where state = 'ready' and kind = 'workflow' and slot <> 1;
create index streams_news on hotmesh.streams (name, job_id)
where kind in ('event', 'signal') and state = 'ready';

--@ behaviour
-- What has a concurrency key is then held where its queue has a limit per key (34).
create or replace function hotmesh._stream_enqueue(messages hotmesh.streams[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_keyed bigint[];
begin
    with laid as (
        insert into streams (
            kind, state, queue, name, priority, job_id, dimension, sequence,
            args, retry_policy, attempt, token, visible_at, worker, created_at, timeouts,
            concurrency_key, slot)
        select m.kind, m.state, m.queue, m.name, coalesce(m.priority, 0), m.job_id,
               coalesce(m.dimension, ''), m.sequence, m.args, m.retry_policy,
               coalesce(m.attempt, 0), coalesce(m.token, 0), m.visible_at, m.worker, v_now,
               m.timeouts, m.concurrency_key,
               case when m.kind = 'workflow' and m.dimension <> '' then 0 end
        from unnest(messages) m
        returning id, concurrency_key, state)
    select array_agg(l.id) into v_keyed
    from laid l
    where l.concurrency_key is not null and l.state = 'ready';
    if v_keyed is not null then
        update streams s set state = 'ready'
        where s.id = any (v_keyed) and exists (
            select from limits l
            where l.queue = s.queue and l.kind = s.kind and l.per_key is not null);
    end if;
end
$$;

-- Topics (queue and function) that have ready work for this worker, as places in the arrays, the
-- oldest and most urgent first.
create or replace function hotmesh._stream_heads(
    kind text, queues text[], names text[], worker text)
returns setof integer
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
begin
    return query
    select t.place::integer
    from unnest(queues, names) with ordinality as t (queue, name, place)
    cross join lateral (
        select s.priority, s.id
        from streams s
        where s.state = 'ready' and s.kind = _stream_heads.kind
          and s.queue = t.queue and s.name = t.name
          and (s.worker is null or s.worker = _stream_heads.worker
               or s.visible_at <= v_grace or s.visible_at > v_grace + interval '1 s')
        order by s.priority desc, s.id
        limit 1) h
    order by h.priority desc, h.id;
end
$$;

create or replace function hotmesh._stream_lease(ids bigint[], worker text, lease interval)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    update streams s
    set state = 'leased',
        cursor = case when s.worker = _stream_lease.worker then s.cursor end,
        worker = _stream_lease.worker,
        token = s.token + 1,
        attempt = s.attempt + 1,
        visible_at = case when s.timeouts is null then v_now + lease
                          else hotmesh._timeout_until(
                              hotmesh._timeout_begin(s.timeouts, v_now), v_now + lease) end,
        timeouts = case when s.timeouts is not null
                        then hotmesh._timeout_begin(s.timeouts, v_now) end
    where s.id = any (ids);
end
$$;

create or replace function hotmesh._stream_claim(
    kind text, queues text[], names text[], worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_ids bigint[] := '{}';
    v_place integer;
    v_places integer[] := '{1}';
begin
    if cardinality(names) <> 1 then
        v_places := array(
            select h from hotmesh._stream_heads(kind, queues, names, worker) h);
    end if;
    foreach v_place in array v_places loop
        exit when cardinality(v_ids) >= take;
        v_ids := v_ids || array(
            select s.id
            from streams s
            where s.state = 'ready' and s.kind = _stream_claim.kind
              and s.queue = queues[v_place] and s.name = names[v_place]
              and (s.worker is null or s.worker = _stream_claim.worker
                   or s.visible_at <= v_now - interval '100 ms'
                   or s.visible_at > v_now + interval '900 ms')
            order by s.priority desc, s.id
            limit take - cardinality(v_ids)
            for update skip locked);
    end loop;
    if v_ids <> '{}' then
        perform hotmesh._stream_lease(v_ids, worker, lease);
    end if;
    return v_ids;
end
$$;

-- A finished activity turns into the event that tells its job: same row, one update.
-- `told` are jobs whose lock the caller holds.
create or replace function hotmesh._stream_complete(ids bigint[], outputs jsonb[], told bigint[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_bounded bigint[];
begin
    with finished as (
        update streams s
        set kind = 'event', name = 'result', queue = '', priority = 0, worker = null,
            visible_at = v_now, error = null, retry_policy = null,
            state = case when s.job_id = any (told) then 'waiting' else 'ready' end,
            args = jsonb_build_object('output', outputs[array_position(ids, s.id)])
        where s.id = any (ids) and s.job_id is not null
        returning s.id, s.timeouts)
    select array_agg(f.id) into v_bounded from finished f where f.timeouts is not null;
    delete from streams s where s.id = any (ids) and s.job_id is null;
    if v_bounded is not null then
        perform hotmesh._stream_drop_deadlines(v_bounded);
    end if;
end
$$;

-- The alarms that bound all attempts of these activities. One that rings this instant is locked: it
-- finds out by itself that there is nothing to end.
create or replace function hotmesh._stream_drop_deadlines(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select t.id
        from streams m
        join streams t
            on t.job_id = m.job_id and t.kind = 'timer' and t.name = 'deadline'
            and t.dimension = m.dimension and t.sequence = m.sequence
        where m.id = any (ids) and m.timeouts ? 'deadline'
        for update of t skip locked));
end
$$;

-- What is known of failed attempts: the policy of their worker, for those that have none, and the
-- details of their last heartbeat.
create or replace function hotmesh._stream_note(ids bigint[], policies jsonb[], details jsonb[])
returns void
language plpgsql
as $$
begin
    update streams s
    set retry_policy = coalesce(s.retry_policy, n.policy),
        timeouts = case when n.details is null then s.timeouts
                        else hotmesh._timeout_beat(s.timeouts, s.visible_at, n.details) end
    from unnest(ids, policies, details) as n (id, policy, details)
    where s.id = any (ids) and s.id = n.id;
end
$$;

-- The error of an activity that is not tried again: 596 when its time was over, 597 when every
-- attempt was used up, 598 when no other could help.
create or replace function hotmesh._stream_verdict(message hotmesh.streams, error jsonb)
returns jsonb
language sql
immutable
as $$
    select case
        when hotmesh._retry_activity(message.retry_policy, message.attempt, error)
             and error ->> 'timeout' is distinct from 'schedule_to_close'
            then hotmesh._timeout_error(
                message.name, message.timeouts, 'schedule_to_close', error)
        when error ->> 'code' = '596' or hotmesh._retry_is_final(error) then error
        when hotmesh._retry_again(message.retry_policy, 0, error)
            then error || '{"code": 597}'
        else error || '{"code": 598}' end
        || jsonb_build_object('attempt', message.attempt)
$$;

-- A failed activity is delayed by its policy, or becomes a dead letter and its failure an event.
create or replace function hotmesh._stream_fail(ids bigint[], errors jsonb[], told bigint[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_dead bigint[];
begin
    update streams s
    set state = 'delayed', worker = null, error = f.error,
        visible_at = v_now + hotmesh._retry_delay(s.retry_policy, s.attempt)
    from unnest(ids, errors) as f (id, error)
    where s.id = any (ids) and s.id = f.id
      and hotmesh._retry_activity(s.retry_policy, s.attempt, f.error)
      and (s.timeouts is null or hotmesh._timeout_allows(
          s.timeouts, v_now + hotmesh._retry_delay(s.retry_policy, s.attempt)));
    v_dead := array(select s.id from streams s where s.id = any (ids) and s.state = 'leased');
    if v_dead <> '{}' then
        update streams s
        set state = 'dead', worker = null, visible_at = v_now,
            error = hotmesh._stream_verdict(s::hotmesh.streams, f.error)
        from unnest(ids, errors) as f (id, error)
        where s.id = any (v_dead) and s.id = f.id;
        perform hotmesh._stream_tell_failure(v_dead, told);
    end if;
end
$$;

create or replace function hotmesh._stream_tell_failure(dead bigint[], told bigint[])
returns void
language plpgsql
as $$
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select 'event', 'result', case when s.job_id = any (told) then 'waiting' else 'ready' end,
           s.job_id, s.dimension, s.sequence, jsonb_build_object('error', s.error),
           s.visible_at, s.visible_at
    from streams s
    where s.id = any (dead) and s.job_id is not null and s.kind = 'activity';
    perform hotmesh._stream_drop_deadlines(dead);
end
$$;

create or replace function hotmesh._stream_drop(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from streams m
        where m.job_id = any (job_ids) and m.state <> 'dead'
          and not (m.kind in ('event', 'signal') and coalesce(m.args, '{}') ? 'published')
        for update skip locked));
end
$$;

-- `visible_at` is the truth: whoever moves it by hand into the future delays the message.
create or replace function hotmesh._stream_honour_visible_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.state := case when new.visible_at > hotmesh.now() then 'delayed' else 'ready' end;
    return new;
end
$$;
create or replace trigger honour_visible_at before update of visible_at on hotmesh.streams
for each row when (old.state = 'ready' and new.state = 'ready' and old.visible_at < new.visible_at)
execute function hotmesh._stream_honour_visible_at();

-- Announced activities of a report: leased to its sender from the start.
-- Returns their ids in the order given.
create or replace function hotmesh._stream_announce(messages hotmesh.streams[])
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := array(
        select nextval('hotmesh.ids') from generate_series(1, cardinality(messages)));
begin
    insert into streams (
        id, kind, state, queue, name, priority, job_id, dimension, sequence,
        args, retry_policy, attempt, token, visible_at, worker, created_at, timeouts,
        concurrency_key)
    select v_ids[m.ordinality], 'activity', 'leased', m.queue, m.name, coalesce(m.priority, 0),
           m.job_id, m.dimension, m.sequence, m.args, m.retry_policy, 1, 1,
           hotmesh._timeout_until(hotmesh._timeout_begin(m.timeouts, hotmesh.now()), m.visible_at),
           m.worker, hotmesh.now(), hotmesh._timeout_begin(m.timeouts, hotmesh.now()),
           m.concurrency_key
    from unnest(messages) with ordinality m;
    return v_ids;
end
$$;

create or replace function hotmesh._stream_cancel(
    job_ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from unnest(job_ids, dimensions, sequences) as c (job_id, dimension, sequence)
        join streams m
            on m.job_id = c.job_id and m.kind in ('timer', 'activity')
            and m.dimension = c.dimension and m.sequence = c.sequence
        for update of m skip locked));
end
$$;

-- A workflow that has nothing to do until news comes. Its worker keeps the coroutine;
-- `cursors` says how far it has seen.
create or replace function hotmesh._stream_rest(ids bigint[], cursors bigint[])
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'waiting', attempt = 0, cursor = cursors[array_position(ids, s.id)]
    where s.id = any (ids);
end
$$;

-- A function that starts over: its steps are numbered on from `sequence`, so that nothing which is
-- late is taken for an answer of the new ones.
create or replace function hotmesh._stream_again(id bigint, sequence integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    update streams s
    set state = 'ready', worker = null, cursor = null, attempt = 0, error = null,
        sequence = _stream_again.sequence, visible_at = v_now, created_at = v_now
    where s.id = _stream_again.id;
end
$$;

-- A run that has reported and is to run again: its lost deliveries are forgotten, its failures not.
create or replace function hotmesh._stream_delay(id bigint, delay interval, failure jsonb)
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'delayed', worker = null, cursor = null,
        attempt = hotmesh._retry_failures(failure),
        visible_at = hotmesh.now() + delay, error = failure
    where s.id = _stream_delay.id;
end
$$;

-- A claim that could not be used: it does not count as a delivery.
create or replace function hotmesh._stream_postpone(ids bigint[], delay interval)
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'delayed', worker = null, cursor = null,
        attempt = greatest(s.attempt - 1, 0), visible_at = hotmesh.now() + delay
    where s.id = any (ids);
end
$$;

-- A parked workflow is served again. A dead activity stays dead: its failure was told.
create or replace function hotmesh._stream_revive(id bigint)
returns boolean
language plpgsql
as $$
begin
    update streams s
    set state = 'ready', attempt = 0, worker = null, error = null, visible_at = hotmesh.now()
    where s.id = _stream_revive.id and s.state = 'dead' and s.kind = 'workflow';
    return found;
end
$$;

create or replace function hotmesh._stream_refuse_missing(id bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'no parked workflow %', coalesce(id::text, 'null') using errcode = 'MSH30',
        detail = 'There is no message with this id, or it is not dead, or it is an activity, whose '
                 || 'failure was told.',
        hint = 'hotmesh.stuck_jobs shows what is parked.';
end
$$;
