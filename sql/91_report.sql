-- 91 report: what a worker tells of messages that it holds, and what becomes of each. A report
-- carries the message's token; that of a run also the cursor that its code had reached. Verdicts:
-- ok, told or untold (an activity's answer, its job locked or not), quiet (nothing to do), stale
-- (the token or the cursor is no longer current: nothing changes), busy (a row is locked by
-- somebody else: send it again), kept (it waits in the job's inbox). Errors: 22023, MSH43.

--@ state
create type hotmesh.report as (
    id bigint, token integer, cursor bigint, output jsonb, error jsonb, done jsonb, commands jsonb,
    outcome jsonb, running boolean, keep boolean, was_kept boolean, before bigint,
    kind text, job_id bigint, dimension text, retry_policy jsonb, attempt integer, runs integer,
    verdict text, ends boolean, news jsonb);
comment on type hotmesh.report is
'What a worker reports of one message it holds, with what the engine knows of that message; `before`
is the cursor that it told, `cursor` the one after what it has done.';

--@ behaviour
-- `offset 0` makes it one look by id per report, whatever the planner thinks of an empty app.
create or replace function hotmesh._report_read(reports jsonb)
returns hotmesh.report[]
language plpgsql
as $$
begin
    return array(
        select (r.id, r.token,
                coalesce(r.before, r.cursor) + coalesce(jsonb_array_length(r.done), 0),
                r.output, r.error, r.done, r.commands,
                hotmesh._progress_verdict(r.outcome, s.policy, s.runs),
                coalesce(r.running, false), r.keep, r.was_kept, coalesce(r.before, r.cursor),
                s.kind, s.job_id, s.dimension, s.policy, s.attempt, s.runs,
                case when r.running and r.done is null and r.commands is null and r.outcome is null
                     then 'quiet' end,
                hotmesh._progress_ends(r.outcome, s.policy, s.runs), null)::hotmesh.report
        from jsonb_populate_recordset(null::hotmesh.report, reports) r
        left join lateral (
            select m.kind, m.job_id, m.dimension, m.attempt,
                   coalesce(case when r.retry_policy is not null
                                 then hotmesh._retry_policy(r.retry_policy) end,
                            m.retry_policy) as policy,
                   hotmesh._retry_failures(m.error) + 1 as runs
            from streams m
            where m.id = r.id and m.token = r.token and m.state = 'leased'
            offset 0) s on true
        order by s.job_id);
end
$$;

-- What is malformed is refused here, in a subtransaction that writes nothing; checking each value
-- beforehand costs as much as applying it. A step of a wrong form fails when it is laid down.
create or replace function hotmesh._report_take(reports jsonb)
returns hotmesh.report[]
language plpgsql
as $$
declare
    v_message text;
    v_hint text;
begin
    if jsonb_typeof(reports) is distinct from 'array' then
        perform hotmesh._refuse_argument(
            'reports are no JSON array', left(reports::text, 200),
            'Give [{"id": …, "token": …, …}, …], or [] for none.');
    end if;
    return hotmesh._report_read(reports);
exception
    when data_exception then
        get stacked diagnostics v_message = message_text, v_hint = pg_exception_hint;
        if v_hint <> '' then
            raise;  -- a refusal already
        end if;
        perform hotmesh._refuse_argument(
            'a report is malformed', left(v_message, 200),
            'It is an object with the id and the token that were claimed; of a run also its '
            || 'cursor, done and commands (arrays of steps), and outcome (an object).');
end
$$;

-- What becomes of each report; `quiet` is a holder that only asks for news. Takes the locks of the
-- jobs concerned, and of the messages that a report finishes or lays to rest.
create or replace function hotmesh._report_judge(reports hotmesh.report[])
returns text[]
language plpgsql
as $$
declare
    v_jobs bigint[];
    v_told bigint[];
    v_ids bigint[];
    v_tokens integer[];
    v_inbox bigint[] := '{}';
    v_held bigint[];
begin
    select array_agg(r.job_id),
           array_agg(r.job_id) filter (where r.verdict is distinct from 'quiet'),
           array_agg(r.id) filter (where r.kind = 'activity' or not r.running),
           array_agg(r.token) filter (where r.kind = 'activity' or not r.running)
    into v_jobs, v_told, v_ids, v_tokens
    from unnest(reports) r;
    if v_ids is not null then
        v_held := hotmesh._lease_held(v_ids, v_tokens);
    end if;
    if v_told is distinct from v_jobs then
        v_inbox := hotmesh._inbox_jobs(v_jobs, '{result,query}')
            || array(select r.job_id from unnest(reports) r where r.kind = 'activity');
    end if;
    return hotmesh._report_verdicts(
        reports, v_held, v_inbox, hotmesh._job_lock(v_told || v_inbox),
        hotmesh._inbox_jobs(v_jobs, '{report}'));
end
$$;

-- The verdicts, by what could be locked: `held` messages and `locked` jobs, of which `kept` have
-- reports that wait.
create or replace function hotmesh._report_verdicts(
    reports hotmesh.report[], held bigint[], inbox bigint[], locked bigint[], kept bigint[])
returns text[]
language plpgsql
as $$
declare
    v_cursors bigint[] := array(
        select j.cursor from jobs j where j.id = any (locked) order by j.id);
begin
    return array(
        select case
            when r.kind is null then 'stale'
            when (r.kind = 'activity' or not r.running) and r.id <> all (held)
                then case when r.was_kept then 'kept' else 'busy' end
            when r.kind = 'activity'
                then case when r.job_id = any (locked) then 'told' else 'untold' end
            when r.verdict = 'quiet' and r.job_id <> all (inbox) then 'quiet'
            when r.job_id <> all (locked)
                then case when r.keep or r.was_kept then 'kept' else 'busy' end
            when r.job_id = any (kept) and r.was_kept is null
                then case when r.keep then 'kept' else 'busy' end
            when r.before = case
                when r.dimension = '' then v_cursors[array_position(locked, r.job_id)]
                else hotmesh._hook_cursor(r.job_id, r.dimension) end then 'ok'
            else 'stale' end
        from unnest(reports) with ordinality r
        order by r.ordinality);
end
$$;

create or replace function hotmesh._report_check_sizes(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_limit bigint := hotmesh._setting('value_limit', 16777216);
    v_large record;
begin
    select r.id, v.name, pg_column_size(v.value) as size into v_large
    from unnest(reports) r
    cross join lateral (
        select 'result' as name, r.output as value
        union all select 'error', r.error
        union all select 'outcome', r.outcome
        union all select 'result of step ' || (d.value ->> 'sequence'), d.value -> 'value'
        from jsonb_array_elements(r.done) d
        where pg_column_size(r.done) > v_limit
        union all select 'args of step ' || (c.value ->> 'sequence'), c.value -> 'args'
        from jsonb_array_elements(r.commands) c
        where pg_column_size(r.commands) > v_limit) v
    where pg_column_size(v.value) > v_limit
    limit 1;
    if found then
        perform hotmesh._job_refuse_large(
            format('%s of message %s', v_large.name, v_large.id), v_large.size, v_limit);
    end if;
end
$$;

-- What graphs' workers answered: their jobs go on at once, and what comes next goes to the worker
-- itself, up to `number` messages of `topics`.
create or replace function hotmesh._report_graphs(
    reports hotmesh.report[], graphs bigint[], relay hotmesh.relay, number integer)
returns void
language plpgsql
as $$
declare
    v_ids bigint[];
    v_tokens integer[];
    v_events hotmesh.streams[] := '{}';
begin
    select array_agg(r.id), array_agg(r.token), array_agg(r.job_id),
           hotmesh._inbox_finish(array_agg(r.id), array_agg(coalesce(r.output, 'null')))
    into v_ids, v_tokens, relay.job_ids, v_events
    from unnest(reports) r
    where r.error is null and r.job_id = any (graphs);
    relay.ids := v_ids[:number];
    relay.tokens := v_tokens[:number];
    relay.job_ids := relay.job_ids[:number];
    perform hotmesh._errand_go(graphs, events => coalesce(v_events, '{}'), relay => relay);
    if v_ids is not null then
        perform hotmesh._lease_finish(v_ids, v_tokens);
    end if;
end
$$;

-- Activities of code, and whatever failed.
create or replace function hotmesh._report_streamed(reports hotmesh.report[], told bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_complete(array_agg(r.id), array_agg(coalesce(r.output, 'null')), told)
    from unnest(reports) r
    where r.error is null
    having count(*) > 0;
    perform hotmesh._stream_note(
        array_agg(r.id), array_agg(hotmesh._retry_policy(r.retry_policy)), array_agg(r.output))
    from unnest(reports) r
    where r.error is not null and (r.retry_policy is not null or r.output is not null)
    having count(*) > 0;
    perform hotmesh._stream_fail(array_agg(r.id), array_agg(r.error), told)
    from unnest(reports) r
    where r.error is not null
    having count(*) > 0;
end
$$;

create or replace function hotmesh._report_activities(
    reports hotmesh.report[], told bigint[], want jsonb, lease interval)
returns void
language plpgsql
as $$
declare
    v_graphs bigint[] := array(
        select j.id from jobs j where j.id = any (told) and j.graph_id is not null);
    v_streamed hotmesh.report[] := reports;
begin
    if v_graphs <> '{}' then
        v_streamed := array(
            select r from unnest(reports) r
            where r.error is not null or (r.job_id = any (v_graphs)) is not true);
    end if;
    if cardinality(v_streamed) > 0 then
        perform hotmesh._report_streamed(v_streamed, told);
    end if;
    if v_graphs <> '{}' then
        perform hotmesh._report_graphs(
            reports, v_graphs, hotmesh._report_relay(want, lease),
            coalesce((want ->> 'activity')::integer, 0));
    end if;
    if cardinality(told) > cardinality(v_graphs) then
        perform hotmesh._worker_wake(hotmesh._inbox_route(told));
    end if;
end
$$;

create or replace function hotmesh._report_kept(take integer)
returns jsonb
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._job_news('{report}', take);
    v_locked bigint[];
begin
    if v_jobs = '{}' then
        return '[]';
    end if;
    v_locked := hotmesh._job_lock(v_jobs);
    perform hotmesh._close_clear(array(
        select k.id from unnest(v_jobs) as k (id)
        where not exists (select from jobs j where j.id = k.id and j.closed_at is null)));
    return hotmesh._inbox_release(array(
        select s.id from streams s
        where s.id = any (array(
            select min(e.id) from streams e
            where e.job_id = any (v_locked) and e.kind = 'event' and e.name = 'report'
            group by e.job_id))
        for update skip locked));
end
$$;

-- The topics of activities that a worker takes on at once: those without limits. None of a worker
-- that is in doubt of what it holds.
create or replace function hotmesh._report_relay(want jsonb, lease interval)
returns hotmesh.relay
language plpgsql
as $$
declare
    v_relay hotmesh.relay;
    v_limits hotmesh.limits[];
begin
    if (want ->> 'activity')::integer > 0 and not want ? 'held' then
        v_relay.topics := array(
            select n.name
            from jsonb_array_elements_text(want -> 'names') with ordinality n (name, place)
            where want -> 'kinds' ->> n.place::integer - 1 = 'activity'
              and want -> 'queues' ->> n.place::integer - 1 = n.name);
        v_limits := hotmesh._limit_of('activity', v_relay.topics);
        if v_limits <> '{}' then
            v_relay.topics := array(
                select t from unnest(v_relay.topics) t
                except select l.queue from unnest(v_limits) l);
        end if;
        v_relay.until := hotmesh.now() + lease;
    end if;
    return v_relay;
end
$$;

-- Applies reports; the answers are for those that were not simply applied.
create or replace function hotmesh._report_apply(
    reports jsonb, worker text, lease interval, want jsonb default '{}')
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_reports hotmesh.report[] := hotmesh._report_take(reports);
    v_verdicts text[] := hotmesh._report_judge(v_reports);
begin
    if pg_column_size(reports) > hotmesh._setting('value_limit', 16777216) then
        perform hotmesh._report_check_sizes(v_reports);
    end if;
    if 'ok' = all (v_verdicts) then
        return query select (p).* from hotmesh._progress_apply(v_reports, worker, lease) p;
        return;
    elsif 'told' = all (v_verdicts) then
        perform hotmesh._report_activities(
            v_reports, array(select r.job_id from unnest(v_reports) r), want, lease);
        return;
    end if;
    for i in 1 .. cardinality(v_reports) loop
        v_reports[i].verdict := v_verdicts[i];
        if v_verdicts[i] = 'kept' then
            perform hotmesh._inbox_put(
                v_reports[i].job_id, v_reports[i].dimension, 'report', to_jsonb(v_reports[i]));
        end if;
    end loop;
    perform hotmesh._report_activities(
        array(select r from unnest(v_reports) r where r.verdict in ('told', 'untold')),
        array(select r.job_id from unnest(v_reports) r where r.verdict = 'told'), want, lease)
    where v_verdicts && '{told,untold}';
    if 'ok' = any (v_verdicts) then
        return query
        select (p).*
        from hotmesh._progress_apply(
            array(select r from unnest(v_reports) r where r.verdict = 'ok'), worker, lease) p;
    end if;
    return query
    select r.verdict, r.id, r.token, r.kind, null::text, null::text, r.job_id, null::text,
           r.dimension, null::integer, null::integer, null::jsonb, null::bigint, null::jsonb,
           null::double precision, null::double precision, null::text, null::integer
    from unnest(v_reports) r
    where r.verdict in ('stale', 'busy', 'kept') and r.was_kept is null;
end
$$;
