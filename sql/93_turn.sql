-- 93 turn: the one call a driver makes, over and over: one round trip, one commit. It applies what
-- a worker reports, files news, gives due messages back, claims new work with the history that
-- replay needs, and wakes whoever can help. A turn never waits for a row lock: what is locked by
-- somebody else is answered `busy` or kept in the job's inbox. Planner settings are pinned: plans
-- made on an empty app outlive its growth. Errors: 22023; a report that fails alone is recorded on
-- its job by `_isolate`.

--@ state

--@ behaviour
-- Jobs that go through a graph have no code to tell: the engine itself goes on with them. Returns
-- the others, and those that have closed.
create or replace function hotmesh._turn_walk(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_graphs bigint[] := array(
        select j.id from jobs j
        where j.id = any (job_ids) and j.graph_id is not null and j.closed_at is null);
begin
    if v_graphs = '{}' then
        return job_ids;
    end if;
    perform hotmesh._isolate(v_graphs);
    return array(select j from unnest(job_ids) j where j <> all (v_graphs));
end
$$;

-- Does this failure pass when it is tried again?
create or replace function hotmesh._turn_passes(state text)
returns boolean
language sql
immutable
as $$
    select state in ('40001', '40P01') or left(state, 2) in ('53', '57')
$$;

-- A schedule that is due. Whatever its start fails of pauses it, and is kept there: a refusal, what
-- an owner's trigger raises.
create or replace function hotmesh._isolate(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
declare
    v_state text;
    v_message text;
    v_detail text;
    v_hint text;
begin
    perform hotmesh._tick_move(schedule, null);
exception
    when others then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text,
            v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        if hotmesh._turn_passes(v_state) then
            raise;
        end if;
        perform hotmesh._tick_move(schedule, jsonb_build_object(
            'sqlstate', v_state, 'message', v_message, 'detail', v_detail, 'hint', v_hint));
end
$$;

-- Jobs that walk, all at once or, if that fails, each by itself: one that fails alone is ended with
-- its error, so that it stops nobody's turns.
create or replace function hotmesh._isolate(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._errand_go(job_ids);
exception
    when others then
        if hotmesh._turn_passes(sqlstate) then
            raise;
        elsif cardinality(job_ids) > 1 then
            perform hotmesh._isolate(array[j]) from unnest(job_ids) j;
        else
            perform hotmesh._order_interrupt(job_ids[1], jsonb_build_object(
                'type', 'EngineError', 'code', 598,
                'reason', format('%s (%s)', sqlerrm, sqlstate)));
        end if;
end
$$;

create or replace function hotmesh._turn_route()
returns void
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._job_news(
        '{result,query,signal,hook,cancel,interrupt,update,effect}', 200);
    v_locked bigint[];
    v_open bigint[];
begin
    if v_jobs = '{}' then
        return;
    end if;
    v_locked := hotmesh._job_lock(v_jobs);
    perform hotmesh._order_apply(v_locked, '{hook,cancel,interrupt,update}');
    perform hotmesh._effect_resume(v_locked);
    perform hotmesh._signal_meet(v_locked);
    v_locked := hotmesh._turn_walk(v_locked);
    perform hotmesh._signal_give_back(hotmesh._inbox_orphans(v_locked), '{}');
    perform hotmesh._worker_wake(hotmesh._inbox_route(v_locked));
    v_open := array(select j.id from jobs j where j.id = any (v_jobs) and j.closed_at is null);
    v_jobs := array(select u from unnest(v_jobs) u where u <> all (v_open));
    if v_jobs <> '{}' then
        perform hotmesh._close_clear(v_jobs);
    end if;
end
$$;

-- What is reported instead of the report that could not be applied: its activity or its job failed.
create or replace function hotmesh._turn_refused(report jsonb, error jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_array(
        jsonb_build_object(
            'id', report -> 'id', 'token', report -> 'token',
            'cursor', coalesce(report -> 'before', report -> 'cursor'),
            'keep', true, 'refused', true)
        || case when report ? 'cursor'
                then jsonb_build_object('outcome', jsonb_build_object('error', error))
                else jsonb_build_object('error', error) end)
$$;

-- The one place that catches everything: a report that fails alone is recorded on its job, so that
-- it costs nobody else anything; if not even that can be done, its message is parked. What a repeat
-- may cure (serialization, deadlock, shutdown, out of resources) passes through.
create or replace function hotmesh._isolate(reports jsonb, worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_error jsonb;
    v_state text;
    v_message text;
    v_detail text;
begin
    return query select (a).* from hotmesh._report_apply(reports, worker, lease) a;
exception
    when others then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail;
        if hotmesh._turn_passes(v_state) then
            raise;
        end if;
        v_error := jsonb_build_object(
            'type', 'EngineError', 'code', 598, 'sqlstate', v_state, 'detail', v_detail,
            'message', format('the engine refused a report: %s', v_message));
        if reports -> 0 ? 'refused' then
            perform hotmesh._lease_park((reports -> 0 ->> 'id')::bigint, v_error);
            return;
        end if;
        return query
        select (a).*
        from hotmesh._isolate(hotmesh._turn_refused(reports -> 0, v_error), worker, lease) a;
end
$$;

-- Checks what a turn was told; what it orders it carries out itself (87). Returns its lease.
create or replace function hotmesh._turn_begin(worker text, want jsonb)
returns interval
language plpgsql
as $$
declare
    v_turning text := set_config('hotmesh.turning', 'on', true);
begin
    worker := hotmesh._worker_check(worker);
    if jsonb_typeof(want) is distinct from 'object'
        or not hotmesh._is_number(coalesce(want -> 'lease', '15'), 0.1, 86400)
    then
        perform hotmesh._refuse_argument(
            format('bad want: %s', left(want::text, 100)),
            'It is an object; its lease is a number of seconds from 0.1 to 86400.',
            'Leave the lease out for 15.');
    elsif want ->> 'brief' = 'true' then
        null;  -- it has just turned with the same
    elsif jsonb_path_exists(want, 'strict $ ? (
        exists(@.workflow ? (!exists(@ ? (@ >= 0 && @ <= 1000000 && @.floor() == @))))
        || exists(@.activity ? (!exists(@ ? (@ >= 0 && @ <= 1000000 && @.floor() == @))))
        || exists(@.pid ? (!exists(@ ? (@ == null || @ >= 0 && @ < 2147483648 && @.floor() == @))))
        || exists(@.limits ? (@.type() != "object")) || exists(@.held ? (@.type() != "array"))
        || exists(@.held[*] ? (!exists(@ ? (@ >= 0 && @ <= 9223372036854775807)))))')
        or jsonb_path_exists(want, 'lax $ ? (
            (exists(@.kinds) || exists(@.queues) || exists(@.names)) && !(
                @.kinds.type() == "array" && @.queues.type() == "array"
                && @.names.type() == "array" && @.kinds.size() == @.queues.size()
                && @.kinds.size() == @.names.size()))')
    then
        perform hotmesh._refuse_argument(
            format('bad want: %s', left(want::text, 100)),
            'workflow and activity are numbers of free slots; kinds, queues and names are arrays '
            || 'of one length; held is an array of the numbers of messages.',
            'Leave out what there is nothing to say of.');
    end if;
    return make_interval(secs => coalesce((want ->> 'lease')::double precision, 15));
end
$$;

-- Reports that waited for a lock. A later report of such a run waits behind them. Each is isolated:
-- whoever sent it may be gone.
create or replace function hotmesh._turn_kept(worker text, lease interval)
returns void
language plpgsql
as $$
declare
    v_kept jsonb := hotmesh._report_kept(50);
begin
    perform hotmesh._signal_sweep(200, true);  -- before this turn writes halves of its own
    if v_kept <> '[]' then
        perform hotmesh._isolate(jsonb_build_array(k), worker, lease)
        from jsonb_array_elements(v_kept) k;
    end if;
end
$$;

-- Is there news that this turn caused, or that somebody else had locked?
create or replace function hotmesh._turn_owes()
returns boolean
language plpgsql
as $$
begin
    return exists (
        select from streams s
        where s.kind in ('event', 'signal') and s.state = 'ready'
          and s.name in (
              'result', 'signal', 'hook', 'cancel', 'interrupt', 'update', 'effect'))
        or exists (select from signals s where s.state = 'new');
end
$$;

-- When there will be something to do, as far as is known.
create or replace function hotmesh._turn_next(worker text, want jsonb)
returns hotmesh.delivery
language plpgsql
as $$
begin
    return ('next', null, null, null, null, null, null, null, null, null, null, null, null, null,
            null, case when hotmesh._turn_owes() then 0
                  else least(hotmesh._queue_next_due(worker, want), hotmesh._tick_next_due()) end,
            null, null)::hotmesh.delivery;
end
$$;

create or replace function hotmesh._turn_end(worker text, want jsonb, idle boolean)
returns void
language plpgsql
as $$
begin
    if idle then
        perform hotmesh._archive_expired(200);
    end if;
    if want ? 'seen' then
        perform hotmesh._worker_seen(worker, want, idle);
    end if;
    perform hotmesh._worker_wake_useful(worker);
end
$$;

create or replace function hotmesh._turn_sweep()
returns void
language plpgsql
as $$
begin
    perform hotmesh._lease_sweep(200);
    perform hotmesh._isolate(s) from unnest(hotmesh._tick_take(10)) s;
    perform hotmesh._signal_sweep(200, false);
    perform hotmesh._turn_route();
end
$$;

create or replace function hotmesh.turn(
    app text, worker text, reports jsonb default '[]', want jsonb default '{}')
returns setof hotmesh.delivery
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_brief boolean := coalesce(want ->> 'brief' = 'true', false);
    v_began timestamptz;
    v_lease interval;
    v_given bigint;
begin
    perform hotmesh._enter(app);
    v_lease := hotmesh._turn_begin(worker, want);
    v_began := hotmesh.now();
    if not v_brief then
        perform hotmesh._turn_kept(worker, v_lease);
    end if;
    if want ->> 'isolate' = 'true' and jsonb_typeof(reports) = 'array' then
        return query
        select (a).*
        from jsonb_array_elements(reports) r
        cross join lateral hotmesh._isolate(jsonb_build_array(r), worker, v_lease) a;
    elsif reports is distinct from '[]' then
        return query select (a).* from hotmesh._report_apply(reports, worker, v_lease, want) a;
    end if;
    if want ? 'held' then
        perform hotmesh._lease_reconcile(
            worker, array(select h::bigint from jsonb_array_elements_text(want -> 'held') h),
            v_lease, v_began);
    end if;
    if not v_brief then
        perform hotmesh._turn_sweep();
        return query select (l).* from hotmesh._delivery_limits(want -> 'limits') l;
    end if;
    return query select (d).* from hotmesh._delivery_work(worker, want, v_lease) d;
    get diagnostics v_given = row_count;
    if not v_brief or want ? 'seen' then
        perform hotmesh._turn_end(worker, want, v_given = 0 and want @> '{"idle": true}');
    end if;
    if v_given = 0 and reports = '[]' then
        return next hotmesh._turn_next(worker, want);
    end if;
end
$$;
comment on function hotmesh.turn(text, text, jsonb, jsonb) is
'Apply what a worker reports, move jobs on, claim new work: one round trip, one commit. want:
workflow and activity (free slots), kinds, queues, names (topics served), lease (seconds), idle,
seen, isolate, host, pid, limits (those it knows), brief (it turns again at once, and then sweeps
and wakes others). Rows: see the type hotmesh.delivery.';
