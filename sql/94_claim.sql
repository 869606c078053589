-- 94 claim: the small doors for a worker written in plain SQL or any language: claim, hold,
-- complete, fail, extend, and revive a dead letter. The same internals as the turn, no second path.
-- Errors: 22023, MSH30 no such message.

--@ state

--@ behaviour
create or replace function hotmesh._claim_names(kind text, queue text)
returns text[]
language plpgsql
as $$
begin
    return array(
        with recursive found (name) as (
            (select s.name from streams s
             where s.state = 'ready' and s.kind = _claim_names.kind
               and s.queue = _claim_names.queue
             order by s.name limit 1)
            union all
            select (select s.name from streams s
                    where s.state = 'ready' and s.kind = _claim_names.kind
                      and s.queue = _claim_names.queue and s.name > f.name
                    order by s.name limit 1)
            from found f
            where f.name is not null)
        select f.name from found f where f.name is not null limit 1000);
end
$$;

-- Has its function written nothing down that a replay would need? What others ask of it (cancel,
-- update) is numbered from zero down, and hooks have their own dimensions.
create or replace function hotmesh._claim_fresh(job_id bigint)
returns boolean
language plpgsql
as $$
begin
    return not exists (
        select from jobs_attributes a
        where a.job_id = _claim_fresh.job_id and a.dimension = '' and a.sequence > 0);
end
$$;

-- Is it code that serves the name? Then the first of its runs shows that; a hook shows nothing.
create or replace function hotmesh._claim_replays(queue text, name text)
returns boolean
language plpgsql
as $$
begin
    return hotmesh._worker_serves('workflow', queue, name) or not coalesce((
        select s.sequence is null and hotmesh._claim_fresh(s.job_id)
        from streams s
        where s.state = 'ready' and s.kind = 'workflow' and s.dimension = ''
          and s.queue = _claim_replays.queue and s.name = _claim_replays.name
        order by s.priority desc, s.id
        limit 1), false);
end
$$;

-- Runs that may be done in one piece. Where the queue is limited, they have a slot, or what begins
-- gets one.
create or replace function hotmesh._claim_whole(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limited boolean := hotmesh._limit_of('workflow', array[queue]) <> '{}';
    v_ids bigint[] := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = 'workflow'
          and s.queue = _claim_whole.queue and s.name = _claim_whole.name
          and s.dimension = '' and s.sequence is null and (s.slot = 2 or not v_limited)
          and hotmesh._claim_fresh(s.job_id)
        order by s.priority desc, s.id
        limit take
        for update skip locked);
begin
    perform hotmesh._stream_lease(v_ids, worker, lease) where v_ids <> '{}';
    if v_limited then
        v_ids := v_ids || hotmesh._limit_take(
            'workflow', queue, name, worker, take - cardinality(v_ids), lease);
    end if;
    return v_ids;
end
$$;

-- Jobs that were asked to stop before they were begun, or begun again, end here: there is no code
-- to clean up. Returns the others. Of one that is locked this instant a later claim finds out.
create or replace function hotmesh._claim_stop(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_asked hotmesh.streams[] := array(
        select (s::hotmesh.streams)
        from streams s
        where s.id = any (ids) and exists (
            select from jobs_attributes a
            where a.job_id = s.job_id and a.dimension = '' and a.kind = 'cancel'));
    v_locked bigint[];
begin
    if v_asked = '{}' then
        return ids;
    end if;
    v_locked := hotmesh._job_lock(array(select m.job_id from unnest(v_asked) m));
    perform hotmesh._stream_postpone(
        array(select m.id from unnest(v_asked) m where m.job_id <> all (v_locked)),
        interval '100 ms');
    perform hotmesh._report_apply(jsonb_agg(jsonb_build_object(
        'id', m.id, 'token', m.token, 'cursor', j.cursor, 'outcome', jsonb_build_object(
            'error', jsonb_build_object(
                'type', 'JobCancelledError', 'code', 499,
                'message', format('job [%s] was cancelled', j.key))))), '', interval '15 s')
    from unnest(v_asked) m
    join jobs j on j.id = m.job_id
    where m.job_id = any (v_locked)
    having count(*) > 0;
    return array(select i from unnest(ids) i where i <> all (array(
        select m.id from unnest(v_asked) m)));
end
$$;

-- Those that were asked to stop leave room for others. Bounded: behind many of them a later claim
-- goes on.
create or replace function hotmesh._claim_begin(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := '{}';
    v_taken bigint[];
    v_left bigint[];
begin
    for i in 1..10 loop
        v_taken := hotmesh._claim_whole(queue, name, worker, take - cardinality(v_ids), lease);
        v_left := hotmesh._claim_stop(v_taken);
        v_ids := v_ids || v_left;
        exit when cardinality(v_left) = cardinality(v_taken);
    end loop;
    return v_ids;
end
$$;

-- Runs of workflows that no code serves: what does would have to replay. The names with the oldest
-- and most urgent ones first.
create or replace function hotmesh._claim_runs(
    queue text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_names text[] := hotmesh._claim_names('workflow', queue);
    v_ids bigint[] := '{}';
    v_place integer;
begin
    for v_place in
        select h from hotmesh._stream_heads(
            'workflow', array_fill(queue, array[cardinality(v_names)]), v_names, worker) h
    loop
        exit when cardinality(v_ids) >= take;
        if not hotmesh._claim_replays(queue, v_names[v_place]) then
            v_ids := v_ids || hotmesh._claim_begin(
                queue, v_names[v_place], worker, take - cardinality(v_ids), lease);
        end if;
    end loop;
    return v_ids;
end
$$;

create or replace function hotmesh.stream_claim(
    app text, queue text, worker text, take integer default 1, lease interval default '15 s')
returns table (id bigint, token integer, name text, args jsonb, attempt integer, key text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_names text[];
    v_ids bigint[];
begin
    perform hotmesh._enter(app);
    perform hotmesh._lease_check(lease);
    if octet_length(coalesce(queue, '')) not between 1 and 500
        or octet_length(coalesce(worker, '')) not between 1 and 500
        or take is null or take not between 1 and 1000
    then
        perform hotmesh._refuse_argument(
            'a claim needs a queue, a worker and a number from 1 to 1000',
            format('They were %L, %L, %L.', left(queue, 60), left(worker, 60), take),
            'Names have up to 500 bytes; take defaults to 1.');
    end if;
    -- Of other queues nothing is touched: the caller may stay in its transaction.
    perform hotmesh._lease_sweep(100, queue);
    perform hotmesh._lane_admit();
    v_names := hotmesh._claim_names('activity', queue);
    v_ids := case when v_names = '{}' then '{}' else hotmesh._limit_claim(
        'activity', array_fill(queue, array[cardinality(v_names)]), v_names, worker, take,
        lease) end;
    return query
    select c.id, c.token, c.name, c.args, c.attempt, c.key
    from hotmesh._delivery_activities(v_ids) c;
    if cardinality(v_ids) < take then
        return query
        select r.id, r.token, r.name, r.args, r.attempt, r.key
        from hotmesh._delivery_whole(
            hotmesh._claim_runs(queue, worker, take - cardinality(v_ids), lease)) r;
    end if;
end
$$;
comment on function hotmesh.stream_claim(text, text, text, integer, interval) is
'Take up to `take` messages of a queue for `lease`: activities of workflows; tasks of graphs, whose
queue is their topic; and jobs whose workflow no worker is there for, to be done in one piece: those
that were cancelled end instead. Report each by stream_complete or stream_fail with its token, or
extend it in time.';

-- The message of a report, locked, if its token is current. It comes before its job, as it does in
-- a transaction that holds it: here whoever reports late waits for nobody.
create or replace function hotmesh._claim_message(report jsonb)
returns hotmesh.streams
language plpgsql
as $$
declare
    v_message hotmesh.streams;
begin
    select (s::hotmesh.streams).* into v_message
    from streams s
    where s.id = (report ->> 'id')::bigint and s.token = (report ->> 'token')::integer
      and s.kind in ('activity', 'workflow') and s.state = 'leased'
    for update;
    return v_message;
end
$$;

-- Of a job that is done in one piece the report is the outcome of its code; null if that has begun
-- to do it in steps, or the job has closed while its message was held.
create or replace function hotmesh._claim_outcome(report jsonb, message hotmesh.streams)
returns jsonb
language plpgsql
as $$
declare
    v_cursor bigint;
begin
    select j.cursor into v_cursor
    from jobs j
    where j.id = message.job_id and j.closed_at is null
    for update;
    if v_cursor is null or not hotmesh._claim_fresh(message.job_id) then
        return null;
    end if;
    return report - '{output,error}'::text[] || jsonb_build_object(
        'cursor', v_cursor,
        'retry_policy', coalesce(message.retry_policy, report -> 'retry_policy'),
        'outcome', case
            when report ? 'error' then jsonb_build_object('error', report -> 'error')
            else jsonb_build_object('output', report -> 'output') end);
end
$$;

-- One report through the turn; what is locked this instant is waited for: here the caller has
-- nothing else to do.
create or replace function hotmesh._claim_report(report jsonb)
returns text
language plpgsql
as $$
declare
    v_message hotmesh.streams := hotmesh._claim_message(report);
    v_verdict text;
begin
    if v_message.kind = 'workflow' then
        report := hotmesh._claim_outcome(report, v_message);
    end if;
    if v_message.id is null or report is null then
        return 'stale';
    end if;
    select a.answer into v_verdict
    from hotmesh._report_apply(jsonb_build_array(report), '', interval '15 s') a;
    perform hotmesh._lane_admit();
    perform hotmesh._worker_wake_useful('');
    return coalesce(v_verdict, 'ok');
end
$$;

create or replace function hotmesh.stream_hold(app text, id bigint, token integer)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_mine text := format('%s %s %s', stream_hold.app, stream_hold.id, stream_hold.token);
begin
    perform hotmesh._enter(app);
    if current_setting('hotmesh.held', true) = v_mine then
        return 'held';
    end if;
    perform from streams s
    where s.id = stream_hold.id and s.token = stream_hold.token
      and s.kind in ('activity', 'workflow') and s.state = 'leased'
    for update;
    if not found then
        return 'stale';
    end if;
    perform set_config('hotmesh.held', v_mine, true);
    return 'ok';
end
$$;
comment on function hotmesh.stream_hold(text, bigint, integer) is
'First in a transaction whose writes are to come and go with the report that ends it: locks a
claimed message, so that nobody takes it, however long it lasts. Answers ok, or stale when the token
is no longer current; held when this very transaction has it already.';

create or replace function hotmesh.stream_complete(
    app text, id bigint, token integer, output jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return hotmesh._claim_report(jsonb_build_object('id', id, 'token', token, 'output', output));
end
$$;
comment on function hotmesh.stream_complete(text, bigint, integer, jsonb) is
'Report the result of a claimed message. Answers ok, or stale when the token is no longer current:
then nothing changed.';

create or replace function hotmesh.stream_fail(
    app text, id bigint, token integer, error jsonb, retry_policy jsonb default null,
    details jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if jsonb_typeof(error) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'an error is a JSON object', left(error::text, 200),
            'For instance {"message": "no stock", "type": "StockError"}.');
    end if;
    return hotmesh._claim_report(jsonb_build_object(
        'id', id, 'token', token, 'error', error, 'output', details,
        'retry_policy', hotmesh._retry_policy(retry_policy)));
end
$$;
comment on function hotmesh.stream_fail(text, bigint, integer, jsonb, jsonb, jsonb) is
'Report a failure, {"message": …, "type": …}; it is retried by its policy, or by `retry_policy`
where the call has none, or becomes a dead letter and an error in its workflow. `details` are handed
to the next attempt. Answers ok or stale.';

create or replace function hotmesh.stream_extend(
    app text, id bigint, token integer, lease interval default '15 s', details jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._lease_check(lease);
    perform hotmesh._job_check_size('details', details);
    perform from streams s where s.id = stream_extend.id for update;
    return (
        select b.answer
        from hotmesh._lease_beat(array[id], array[token], array[details], lease) b);
end
$$;
comment on function hotmesh.stream_extend(text, bigint, integer, interval, jsonb) is
'Keep a claimed message for `lease` from now: it is its heartbeat too, and `details` are handed to
the next attempt. Answers ok or stale.';

create or replace function hotmesh.stream_revive(app text, id bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if not hotmesh._stream_revive(id) then
        perform hotmesh._stream_refuse_missing(id);
    end if;
    perform hotmesh._worker_wake_useful('');
end
$$;
comment on function hotmesh.stream_revive(text, bigint) is
'Serve a parked workflow again, with fresh attempts. Raises MSH30 if there is no such message.';
