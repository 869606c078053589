-- 94 claim: the small doors for a worker written in plain SQL or any language: claim, hold,
-- complete, fail, extend, and revive a dead letter. The same internals as the turn, no second path.
-- Errors: 22023, MSH30 no such message.

--@ state

--@ behaviour
create or replace function hotmesh._claim_names(queue text)
returns text[]
language plpgsql
as $$
begin
    return array(
        with recursive found (name) as (
            (select s.name from streams s
             where s.state = 'ready' and s.kind = 'activity' and s.queue = _claim_names.queue
             order by s.name limit 1)
            union all
            select (select s.name from streams s
                    where s.state = 'ready' and s.kind = 'activity'
                      and s.queue = _claim_names.queue and s.name > f.name
                    order by s.name limit 1)
            from found f
            where f.name is not null)
        select f.name from found f where f.name is not null limit 1000);
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
    if coalesce(queue, '') = '' or coalesce(worker, '') = ''
        or take is null or take not between 1 and 1000
    then
        perform hotmesh._refuse_argument(
            'a claim needs a queue, a worker and a number from 1 to 1000',
            format('They were %s, %s, %s.', queue, worker, take),
            'Name both; take defaults to 1.');
    end if;
    -- Of other queues nothing is touched: the caller may stay in its transaction.
    perform hotmesh._lease_sweep(100, queue);
    perform hotmesh._lane_admit();
    v_names := hotmesh._claim_names(queue);
    v_ids := case when v_names = '{}' then '{}' else hotmesh._limit_claim(
        'activity', array_fill(queue, array[cardinality(v_names)]), v_names, worker, take,
        lease) end;
    return query
    select c.id, c.token, c.name, c.args, c.attempt, c.key
    from hotmesh._delivery_activities(v_ids) c;
end
$$;
comment on function hotmesh.stream_claim(text, text, text, integer, interval) is
'Take up to `take` messages of a queue for `lease`: activities of workflows, and tasks of graphs,
whose queue is their topic. Runs of workflows are not among them: they need replay. Report each by
stream_complete or stream_fail with its token, or extend it in time.';

-- One report through the turn; a message that is locked this instant is waited for: here the caller
-- has nothing else to do.
create or replace function hotmesh._claim_report(report jsonb)
returns text
language plpgsql
as $$
declare
    v_verdict text;
begin
    perform from streams s where s.id = (report ->> 'id')::bigint for update;
    if not found then
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
      and s.kind = 'activity' and s.state = 'leased'
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
        'id', id, 'token', token, 'error', error, 'retry_policy', retry_policy, 'output', details));
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
