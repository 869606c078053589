-- 32 lease: who holds a message, and until when. A claim leases it; the holder extends the lease or
-- gives it back; the sweep of any turn takes it from a holder that was lost. The same sweep makes
-- delayed messages ready and due timers events: `visible_at` is the one clock of the queue.
-- Nothing here waits for a row that somebody else has locked.

--@ state

--@ behaviour
create or replace function hotmesh._lease_check(lease interval)
returns interval
language plpgsql
as $$
begin
    if lease is null or lease <= interval '0' or lease > interval '1 day' then
        perform hotmesh._refuse_argument(
            format('bad lease: %s', coalesce(lease::text, 'null')),
            'A lease lasts longer than nothing and at most a day.',
            'Leave it out for 15 s.');
    end if;
    return lease;
end
$$;

-- The messages of a report that its sender still holds. A row that is locked this instant
-- (its lease is being extended or given up) is left out.
create or replace function hotmesh._lease_held(ids bigint[], tokens integer[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select s.id from streams s
        where s.id = any (ids) and s.state = 'leased'
          and s.token = tokens[array_position(ids, s.id)]
        order by s.id
        for update skip locked);
end
$$;

create or replace function hotmesh._lease_extend(ids bigint[], worker text, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_until timestamptz := hotmesh.now() + lease;
    v_held bigint[];
begin
    v_held := array(
        select s.id from streams s
        where s.id = any (ids) and s.state = 'leased' and s.worker = _lease_extend.worker
        for update skip locked);
    update streams s
    set visible_at = case when s.timeouts is null then v_until
                          else hotmesh._timeout_until(s.timeouts, v_until) end
    where s.id = any (v_held);
    return v_held;
end
$$;

-- Signs of life of the attempts that run: each also keeps its lease. busy: the row is locked this
-- instant.
create or replace function hotmesh._lease_beat(
    ids bigint[], tokens integer[], details jsonb[], lease interval)
returns table (id bigint, answer text)
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_held bigint[] := hotmesh._lease_held(ids, tokens);
begin
    update streams s
    set timeouts = b.timeouts, visible_at = hotmesh._timeout_until(b.timeouts, v_now + lease)
    from (
        select m.id, hotmesh._timeout_beat(
                   m.timeouts, v_now, details[array_position(ids, m.id)]) as timeouts
        from streams m
        where m.id = any (v_held)) b
    where s.id = any (v_held) and s.id = b.id;
    return query
    select b.id, case
        when b.id = any (v_held) then 'ok'
        when exists (
            select from streams s
            where s.id = b.id and s.token = b.token and s.state = 'leased') then 'busy'
        else 'stale' end
    from unnest(ids, tokens) as b (id, token);
end
$$;

-- A message whose activity has finished becomes the next one of its job, if its worker serves that:
-- leased to it already, as if it had been claimed. Once in a while it must queue up, so that jobs
-- that go in circles leave room for others. Returns the messages for which there was none.
create or replace function hotmesh._lease_relay(
    messages hotmesh.streams[], ids bigint[], tokens integer[], job_ids bigint[], topics text[],
    until timestamptz)
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_taken bigint[];
    v_ids bigint[];
begin
    with taken as (
        update streams s
        set queue = m.queue, name = m.name, dimension = m.dimension, sequence = m.sequence,
            args = m.args, retry_policy = m.retry_policy, attempt = 1, token = s.token + 1,
            error = null, visible_at = until, created_at = v_now
        from unnest(messages) with ordinality m
        where s.id = ids[array_position(job_ids, m.job_id)]
          and s.token = tokens[array_position(job_ids, m.job_id)] and s.token % 16 <> 0
          and s.kind = 'activity' and s.state = 'leased'
          and coalesce(s.slot, 0) = 0 and s.concurrency_key is null and s.timeouts is null
          and m.state = 'ready' and m.queue = any (topics)
        returning m.ordinality, s.id)
    select array_agg(t.ordinality), array_agg(t.id) into v_taken, v_ids from taken t;
    perform set_config('hotmesh.relayed', concat_ws(
        ',', nullif(current_setting('hotmesh.relayed', true), ''),
        array_to_string(v_ids, ',')), true)
    where v_ids is not null;
    return case
        when v_taken is null then messages
        when cardinality(v_taken) < cardinality(messages) then array(
            select messages[n] from generate_subscripts(messages, 1) n where n <> all (v_taken))
        else '{}' end;
end
$$;

-- The messages that were relayed in this turn: they are to be handed out.
create or replace function hotmesh._lease_relayed()
returns bigint[]
language plpgsql
as $$
declare
    v_ids text := current_setting('hotmesh.relayed', true);
begin
    if coalesce(v_ids, '') = '' then
        return '{}';
    end if;
    perform set_config('hotmesh.relayed', '', true);
    return string_to_array(v_ids, ',')::bigint[];
end
$$;

-- Messages of activities that have finished, and that nothing came after.
create or replace function hotmesh._lease_finish(ids bigint[], tokens integer[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (ids) and s.token = tokens[array_position(ids, s.id)] and s.state = 'leased';
end
$$;

-- A worker that stops gives back what it holds; what it had begun does not count as an attempt.
create or replace function hotmesh._lease_return(ids bigint[], worker text)
returns integer
language plpgsql
as $$
declare
    v_count integer;
begin
    update streams s
    set state = 'ready', worker = null, attempt = greatest(s.attempt - 1, 0),
        visible_at = hotmesh.now()
    where s.id = any (array(
        select m.id from streams m
        where m.id = any (ids) and m.state = 'leased' and m.worker = _lease_return.worker
          and not exists (
              select from streams e
              where e.job_id = m.job_id and e.kind = 'event' and e.name = 'report'
                and m.kind = 'workflow')
        for update skip locked));
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- A worker that lost an answer says what it holds; what it does not know of is ready again, but for
-- what it announces in this turn, `since` which it is told. Its leases end before `lease` has
-- passed, so what is delayed for longer is not looked at.
create or replace function hotmesh._lease_reconcile(
    worker text, held bigint[], lease interval, since timestamptz)
returns void
language plpgsql
as $$
declare
    v_until timestamptz := hotmesh.now() + lease;
begin
    perform hotmesh._lease_return(
        array(
            select s.id
            from streams s
            where s.state = 'leased' and s.visible_at > '-infinity' and s.visible_at <= v_until
              and s.worker = _lease_reconcile.worker and s.id <> all (held)
              and s.created_at <= since),
        worker);
end
$$;

-- A run that was delivered before has reported: it is alive, its deliveries count from one again.
create or replace function hotmesh._lease_alive(ids bigint[])
returns void
language plpgsql
as $$
begin
    update streams s set attempt = 1
    where s.id = any (array(
        select m.id
        from streams m
        where m.id = any (ids) and m.attempt > 1
        for update skip locked));
end
$$;

-- A job starts over as a new run: so does the time of a run.
create or replace function hotmesh._lease_run_again(job_id bigint)
returns void
language plpgsql
as $$
begin
    update streams s
    set visible_at = hotmesh.now() + make_interval(
            secs => (s.args ->> 'seconds')::double precision)
    where s.id = any (array(
        select m.id from streams m
        where m.job_id = _lease_run_again.job_id and m.kind = 'timer' and m.name = 'interrupt'
          and m.args ->> 'limit' = 'run_timeout'
        for update skip locked));
end
$$;

-- Seconds until the next delayed message is due or the next lease ends.
create or replace function hotmesh._lease_next_due()
returns double precision
language plpgsql
as $$
begin
    return (
        select greatest(0, extract(epoch from s.visible_at - hotmesh.now()))
        from streams s
        where s.state in ('delayed', 'leased') and s.visible_at > '-infinity'
        order by s.visible_at
        limit 1);
end
$$;

-- Seconds until the first run of a topic is anybody's that is still kept for another worker.
create or replace function hotmesh._lease_grace_ends(queues text[], names text[], worker text)
returns double precision
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
begin
    return (
        select extract(epoch from min(h.visible_at) - v_grace)
        from unnest(queues, names) as t (queue, name)
        cross join lateral (
            select s.worker, s.visible_at
            from streams s
            where s.state = 'ready' and s.kind = 'workflow'
              and s.queue = t.queue and s.name = t.name
            order by s.priority desc, s.id
            limit 1) h
        where h.worker <> _lease_grace_ends.worker
          and h.visible_at > v_grace and h.visible_at <= v_grace + interval '1 s');
end
$$;

-- Due messages become ready, due timers become events, lost workers give back what they held.
-- Bounded; every turn takes part.
create or replace function hotmesh._lease_sweep(take integer, only_queue text default null)
returns integer
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_due bigint[];
begin
    v_due := array(
        select s.id from streams s
        where s.state in ('delayed', 'leased') and s.visible_at > '-infinity'
          and s.visible_at <= v_now and (only_queue is null or s.queue = only_queue)
        order by s.visible_at
        limit take
        for update skip locked);
    if v_due = '{}' then
        return 0;
    end if;
    v_due := hotmesh._lease_deadlines(hotmesh._lease_late(hotmesh._lease_spare(v_due)));
    perform hotmesh._lease_bury(array(
        select s.id from streams s
        where s.id = any (v_due) and s.state = 'leased'
          and (s.kind = 'workflow' and s.attempt - hotmesh._retry_failures(s.error) >= 5
               or s.kind = 'activity'
               and not hotmesh._retry_again(s.retry_policy, s.attempt, null))));
    update streams s
    set kind = case s.kind when 'timer' then 'event' else s.kind end,
        name = case when s.kind = 'timer' and s.name = '' then 'result' else s.name end,
        args = case when s.kind = 'timer' then coalesce(s.args, '{"output": null}')
                    else s.args end,
        state = 'ready', worker = null
    where s.id = any (v_due) and s.state <> 'dead';
    return cardinality(v_due);
end
$$;

-- A run whose last report waits in its job's inbox was not lost with its worker: it stays as it is
-- until that report was applied.
create or replace function hotmesh._lease_spare(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_kept bigint[];
    v_spared bigint[];
begin
    if due = '{}' then
        return due;
    end if;
    v_kept := hotmesh._inbox_jobs(
        array(select s.job_id from streams s where s.id = any (due) and s.kind = 'workflow'),
        '{report}');
    with spared as (
        update streams s set visible_at = hotmesh.now() + interval '1 s'
        where s.id = any (due) and s.job_id = any (v_kept)
          and s.kind = 'workflow' and s.state = 'leased'
        returning s.id)
    select coalesce(array_agg(p.id), '{}') into v_spared from spared p;
    return array(select d from unnest(due) d where d <> all (v_spared));
end
$$;

-- Attempts whose time is over fail, by their policy; their late reports are stale. Returns the
-- others.
create or replace function hotmesh._lease_late(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_late bigint[];
    v_errors jsonb[];
begin
    select array_agg(s.id),
           array_agg(hotmesh._timeout_error(
               s.name, s.timeouts, hotmesh._timeout_over(s.timeouts, v_now), null))
    into v_late, v_errors
    from streams s
    where s.id = any (due) and s.state = 'leased' and s.timeouts is not null
      and hotmesh._timeout_over(s.timeouts, v_now) is not null;
    if v_late is null then
        return due;
    end if;
    perform hotmesh._stream_fail(v_late, v_errors, '{}');
    return array(select d from unnest(due) d where d <> all (v_late));
end
$$;

-- Alarms that bound all attempts of an activity: it ends, whatever its state. One that is locked
-- this instant is ended by the next sweep. Returns the other due messages.
create or replace function hotmesh._lease_deadlines(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_alarms bigint[] := array(
        select s.id from streams s
        where s.id = any (due) and s.kind = 'timer' and s.name = 'deadline');
    v_ended bigint[];
begin
    if v_alarms = '{}' then
        return due;
    end if;
    v_ended := array(
        select m.id from streams a
        join streams m
            on m.job_id = a.job_id and m.kind = 'activity' and m.state <> 'dead'
            and m.dimension = a.dimension and m.sequence = a.sequence
        where a.id = any (v_alarms)
        for update of m skip locked);
    update streams s
    set state = 'dead', worker = null, visible_at = hotmesh.now(),
        error = jsonb_build_object('attempt', s.attempt) || hotmesh._timeout_error(
            s.name, s.timeouts, 'schedule_to_close', s.error)
    where s.id = any (v_ended);
    perform hotmesh._stream_tell_failure(v_ended, '{}');
    delete from streams a
    where a.id = any (v_alarms) and not exists (
        select from streams m
        where m.job_id = a.job_id and m.kind = 'activity' and m.state <> 'dead'
          and m.dimension = a.dimension and m.sequence = a.sequence);
    return array(select d from unnest(due) d where d <> all (v_alarms));
end
$$;

create or replace function hotmesh._lease_bury(lost bigint[])
returns void
language plpgsql
as $$
begin
    if lost = '{}' then
        return;
    end if;
    update streams s
    set state = 'dead', visible_at = hotmesh.now(), error = jsonb_build_object(
        'type', 'WorkerLostError', 'code', 597, 'attempt', s.attempt,
        'message', format('worker %s took it %s times and never reported', s.worker, s.attempt))
    where s.id = any (lost);
    perform hotmesh._stream_tell_failure(lost, '{}');
end
$$;

-- What can't even be recorded on its job waits for a person.
create or replace function hotmesh._lease_park(id bigint, failure jsonb)
returns void
language plpgsql
as $$
begin
    update streams s set state = 'dead', visible_at = hotmesh.now(), error = failure
    where s.id = any (array(
        select m.id
        from streams m
        where m.id = _lease_park.id and m.state = 'leased'
        for update skip locked));
end
$$;
