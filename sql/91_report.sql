-- 91 report: what a worker tells of messages that it holds, and what becomes of each. A report
-- carries the message's token; that of a run also the cursor that its code had reached. Verdicts:
-- ok, told or untold (an activity's answer, its job locked or not), quiet (nothing to do), stale
-- (the token or the cursor is no longer current: nothing changes), busy (a row is locked by
-- somebody else: send it again), kept (it waits in the job's inbox). Errors: 22023, MSH43.

--@ state
create type hotmesh.report as (
    id bigint, token integer, cursor bigint, output jsonb, error jsonb, done jsonb, commands jsonb,
    outcome jsonb, running boolean, keep boolean, was_kept boolean,
    kind text, job_id bigint, dimension text, retry_policy jsonb, attempt integer, runs integer,
    verdict text, ends boolean, news jsonb);
comment on type hotmesh.report is
'What a worker reports of one message it holds, with what the engine knows of that message.';

--@ behaviour
-- `offset 0` makes it one look by id per report, whatever the planner thinks of an empty app.
create or replace function hotmesh._report_read(reports jsonb)
returns hotmesh.report[]
language plpgsql
as $$
begin
    return array(
        select (r.id, r.token, r.cursor, r.output, r.error, r.done, r.commands, r.outcome,
                coalesce(r.running, false), r.keep, r.was_kept,
                s.kind, s.job_id, s.dimension, coalesce(r.retry_policy, s.retry_policy), s.attempt,
                coalesce((s.error ->> 'attempt')::integer, 0) + 1,
                case when r.running and r.done is null and r.commands is null and r.outcome is null
                     then 'quiet' end,
                false, null)::hotmesh.report
        from jsonb_populate_recordset(null::hotmesh.report, reports) r
        left join lateral (
            select m.kind, m.job_id, m.dimension, m.retry_policy, m.attempt, m.error
            from streams m
            where m.id = r.id and m.token = r.token and m.state = 'leased'
            offset 0) s on true
        order by s.job_id);
end
$$;

-- What becomes of each report; `quiet` is a holder that only asks for news. Takes the locks of the
-- jobs concerned, and of the messages that a report finishes or lays to rest.
create or replace function hotmesh._report_judge(reports hotmesh.report[])
returns text[]
language plpgsql
as $$
declare
    v_held bigint[];
    v_inbox bigint[] := '{}';
    v_locked bigint[];
    v_kept bigint[];
    v_all bigint[] := array(
        select distinct r.job_id from unnest(reports) r where r.job_id is not null);
begin
    select hotmesh._lease_held(array_agg(r.id), array_agg(r.token)) into v_held
    from unnest(reports) r
    where r.kind = 'activity' or not r.running;
    if exists (select from unnest(reports) r where r.verdict = 'quiet') then
        v_inbox := hotmesh._inbox_jobs(v_all, '{result,signal}')
            || array(select r.job_id from unnest(reports) r where r.kind = 'activity');
    end if;
    v_locked := hotmesh._job_lock(array(
        select r.job_id
        from unnest(reports) r
        where r.verdict is distinct from 'quiet' or r.job_id = any (v_inbox)));
    v_kept := hotmesh._inbox_jobs(v_all, '{report}');
    return array(
        select case
            when r.kind is null then 'stale'
            when (r.kind = 'activity' or not r.running) and r.id <> all (v_held)
                then case when r.was_kept then 'kept' else 'busy' end
            when r.kind = 'activity'
                then case when r.job_id = any (v_locked) then 'told' else 'untold' end
            when r.verdict = 'quiet' and r.job_id <> all (v_inbox) then 'quiet'
            when r.job_id <> all (v_locked)
                then case when r.keep or r.was_kept then 'kept' else 'busy' end
            when r.job_id = any (v_kept) and r.was_kept is null
                then case when r.keep then 'kept' else 'busy' end
            when r.cursor = (select j.cursor from jobs j where j.id = r.job_id) then 'ok'
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

create or replace function hotmesh._report_activities(reports hotmesh.report[], told bigint[])
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
    if told <> '{}' then
        perform hotmesh._worker_wake(hotmesh._inbox_route(told));
    end if;
end
$$;

-- The journal rows of a report: what the code consumed, numbered from the report's cursor, and what
-- it asked for.
create or replace function hotmesh._report_steps(reports hotmesh.report[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (r.job_id, null, d.value, d.kind, d.name, 'done', r.dimension, d.sequence,
                r.cursor + d.number, 0, null,
                timestamptz 'epoch' + make_interval(secs => d.at))::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral rows from (
            jsonb_to_recordset(r.done) as (
                sequence integer, kind text, name text, value jsonb, at double precision))
            with ordinality as d (sequence, kind, name, value, at, number)
        where r.done is not null
        union all
        select (r.job_id, null, null, c.kind, c.name,
                case c.kind when 'patch' then 'done' else 'open' end, r.dimension, c.sequence,
                null, 0, null, null)::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text)
        where r.commands is not null and c.kind <> 'cancel');
end
$$;

create or replace function hotmesh._report_messages(
    reports hotmesh.report[], worker text, lease interval)
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    return array(
        select (r.id, c.kind,
                case when c.announced then 'leased'
                     when c.delay > 0 then 'delayed'
                     else 'ready' end,
                coalesce(c.queue, ''), coalesce(c.name, ''), coalesce(c.priority, 0),
                r.job_id, r.dimension, c.sequence, null, c.args,
                hotmesh._retry_policy(c.retry_policy), 0, 0,
                case when c.announced then v_now + lease
                     else v_now + make_interval(secs => coalesce(c.delay, 0)) end,
                case when c.announced then worker end, c.error, null,
                hotmesh._timeout_policy(c.timeouts), c.concurrency_key, null)::hotmesh.streams
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, queue text, priority smallint, args jsonb,
            retry_policy jsonb, timeouts jsonb, delay double precision, announced boolean,
            error jsonb, concurrency_key text)
        where r.commands is not null and c.kind <> 'cancel');
end
$$;

create or replace function hotmesh._report_check_commands(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('bad command: %s', left(c.kind, 60)),
        format('Commands: activity (with queue and name), timer, wait, patch, cancel, %s.',
               array_to_string(hotmesh._effect_kinds(), ', ')),
        'Is the driver newer than the engine?')
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (kind text, queue text, name text)
    where r.commands is not null
      and (coalesce(c.kind, '') not in ('activity', 'timer', 'wait', 'patch', 'cancel')
               and c.kind <> all (hotmesh._effect_kinds())
           or coalesce(c.kind, '') = ''
           or c.kind = 'activity' and (coalesce(c.queue, '') = '' or coalesce(c.name, '') = ''));
end
$$;

create or replace function hotmesh._report_effects(reports hotmesh.report[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (r.job_id, null, c.args, c.kind, c.name, 'open', r.dimension, c.sequence,
                null, 0, null, null)::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, args jsonb)
        where r.commands is not null and c.kind = any (hotmesh._effect_kinds()));
end
$$;

-- Lays down what the code asked for. An announced activity runs already, with its sender; one that
-- brings an error has failed its first attempt.
create or replace function hotmesh._report_command(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_messages hotmesh.streams[] := hotmesh._report_messages(reports, worker, lease);
    v_announced hotmesh.streams[] := array(
        select m from unnest(v_messages) m where m.state = 'leased');
    v_ids bigint[];
begin
    perform hotmesh._report_check_commands(reports);
    perform hotmesh._stream_enqueue(array(
        select m from unnest(v_messages) m where m.state <> 'leased' and m.kind = 'activity'));
    perform hotmesh._timer_set(array(
        select m from unnest(v_messages) m where m.kind = 'timer' or m.timeouts is not null));
    perform hotmesh._effect_apply(hotmesh._report_effects(reports));
    if v_announced <> '{}' then
        v_ids := hotmesh._stream_announce(v_announced);
        perform hotmesh._stream_fail(
            array_agg(v_ids[a.ordinality]), array_agg(a.error), array_agg(a.job_id))
        from unnest(v_announced) with ordinality a
        where a.error is not null
        having count(*) > 0;
        return query
        select 'leased', v_ids[a.ordinality], 1, 'activity', a.queue, a.name, a.job_id, null::text,
               a.dimension, a.sequence, 1, null::jsonb, null::bigint, null::jsonb,
               null::double precision, null::double precision
        from unnest(v_announced) with ordinality a
        where a.error is null;
    end if;
    perform hotmesh._attribute_cancel(
                array_agg(r.job_id),
                array_agg(hotmesh._attribute_field(r.dimension, c.sequence))),
            hotmesh._stream_cancel(
                array_agg(r.job_id), array_agg(r.dimension), array_agg(c.sequence))
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (sequence integer, kind text)
    where r.commands is not null and c.kind = 'cancel'
    having count(*) > 0;
end
$$;

-- Does this report end its job? A replay that met other code does not: the job waits for right
-- code, visibly. A workflow that raised is run again only under a policy given to its start.
create or replace function hotmesh._report_ends(report hotmesh.report)
returns boolean
language sql
immutable
as $$
    select report.outcome is not null and not report.outcome ? 'mismatch'
       and not (
           report.outcome ? 'error' and report.retry_policy is not null
           and hotmesh._retry_again(report.retry_policy, report.runs, report.outcome -> 'error'))
$$;

-- Numbers what the reports consumed and then what waits in their inboxes; every report gets its new
-- cursor and its news. What could not be taken, its row being locked this instant, leaves the run
-- held, with empty news: to let it rest would wake nobody.
create or replace function hotmesh._report_fold(reports hotmesh.report[])
returns hotmesh.report[]
language plpgsql
as $$
declare
    v_jobs bigint[] := array(select r.job_id from unnest(reports) r);
    v_cursors bigint[] := array(
        select r.cursor + coalesce(jsonb_array_length(r.done), 0) from unnest(reports) r);
    v_told bigint[];
    v_left bigint[] := '{}';
    v_events hotmesh.streams[];
    v_news hotmesh.jobs_attributes[];
begin
    v_told := hotmesh._inbox_jobs(v_jobs, '{result,signal}');
    if v_told <> '{}' then
        perform hotmesh._signal_meet(v_told);
        v_events := hotmesh._inbox_take(v_told);
        v_news := hotmesh._attribute_close(v_events, v_jobs, v_cursors);
        v_left := hotmesh._inbox_jobs(v_told, '{result}');
    end if;
    for i in 1 .. cardinality(reports) loop
        reports[i].cursor := v_cursors[i];
        reports[i].ends := hotmesh._report_ends(reports[i]);
        if v_events is not null then
            reports[i].cursor := coalesce(
                (select max(n.cursor) from unnest(v_news) n where n.job_id = v_jobs[i]),
                v_cursors[i]);
            reports[i].news := (
                select jsonb_agg(hotmesh._attribute_entry(n) order by n.cursor)
                from unnest(v_news) n
                where n.job_id = v_jobs[i]);
        end if;
        if reports[i].news is null and v_jobs[i] = any (v_left) then
            reports[i].news := '[]';
        end if;
    end loop;
    return reports;
end
$$;

-- Reports of runs whose jobs are locked and whose cursors were compared: journal, commands, news,
-- outcome, rest.
create or replace function hotmesh._report_progress(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_after hotmesh.report[];
begin
    perform hotmesh._attribute_write(hotmesh._report_steps(reports));
    if exists (select from unnest(reports) r where r.commands is not null) then
        return query select (c).* from hotmesh._report_command(reports, worker, lease) c;
    end if;
    v_after := hotmesh._report_fold(reports);
    perform hotmesh._report_conclude(v_after);
    return query
    select 'events', r.id, r.token, 'workflow', null::text, null::text, r.job_id, null::text,
           r.dimension, null::integer, null::integer, null::jsonb, r.cursor, r.news,
           null::double precision, extract(epoch from hotmesh.now())::double precision
    from unnest(v_after) r
    where r.outcome is null and r.news is not null;
end
$$;

-- Moves the cursors of runs that go on, lays to rest those that only wait, settles those that end.
create or replace function hotmesh._report_conclude(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._job_advance(array_agg(r.job_id), array_agg(r.cursor))
    from unnest(reports) r
    where not r.ends
    having count(*) > 0;
    perform hotmesh._lease_alive(array_agg(r.id))
    from unnest(reports) r
    where r.running and r.attempt > 1
    having count(*) > 0;
    perform hotmesh._stream_rest(array_agg(r.id), array_agg(r.cursor))
    from unnest(reports) r
    where r.outcome is null and not r.running and r.news is null
    having count(*) > 0;
    perform hotmesh._report_again(r)
    from unnest(reports) r
    where r.outcome is not null and not r.ends;
    perform hotmesh._attribute_facts(
                array_agg(r.job_id),
                array_agg(case when r.outcome ? 'error' then 'error' else 'output' end),
                array_agg(coalesce(r.outcome -> 'error', r.outcome -> 'output'))),
            hotmesh._job_settle(
                array_agg(r.job_id), array_agg(r.cursor), array_agg(r.outcome ? 'error')),
            hotmesh._stream_drop(array_agg(r.job_id))
    from unnest(reports) r
    where r.ends
    having count(*) > 0;
end
$$;

-- What is forgotten loses its messages, and gives back the signals that it had taken.
create or replace function hotmesh._report_forget(job_id bigint, dimension text)
returns void
language plpgsql
as $$
declare
    v_gone hotmesh.jobs_attributes[] := hotmesh._attribute_forget(job_id, dimension);
begin
    perform hotmesh._stream_cancel(
        array_agg(g.job_id), array_agg(g.dimension), array_agg(g.sequence))
    from unnest(v_gone) g
    where g.state = 'open' having count(*) > 0;
    perform hotmesh._signal_send(w.job_id, w.name, coalesce(w.value, 'null'))
    from (
        select g.job_id, g.name, g.value from unnest(v_gone) g
        where g.kind = 'wait' and g.state = 'done' order by g.cursor) w;
end
$$;

-- A run that is to be replayed later: it met other code, or its policy lets it try again.
create or replace function hotmesh._report_again(report hotmesh.report)
returns void
language plpgsql
as $$
begin
    if report.outcome ? 'mismatch' then
        perform hotmesh._attribute_facts(
            array[report.job_id], array['mismatch'], array[report.outcome -> 'mismatch']);
        perform hotmesh._stream_delay(report.id, interval '5 s', report.outcome -> 'mismatch');
    else
        perform hotmesh._report_forget(report.job_id, report.dimension);
        perform hotmesh._stream_delay(
            report.id, hotmesh._retry_delay(report.retry_policy, report.runs),
            report.outcome -> 'error' || jsonb_build_object('attempt', report.runs));
    end if;
end
$$;

create or replace function hotmesh._report_kept(take integer)
returns jsonb
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._inbox_unfiled('{report}', take);
    v_locked bigint[];
begin
    if v_jobs = '{}' then
        return '[]';
    end if;
    v_locked := hotmesh._job_lock(v_jobs);
    perform hotmesh._stream_drop(array(
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

-- Applies reports; the answers are for those that were not simply applied.
create or replace function hotmesh._report_apply(reports jsonb, worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_reports hotmesh.report[] := hotmesh._report_read(reports);
    v_verdicts text[] := hotmesh._report_judge(v_reports);
begin
    if pg_column_size(reports) > hotmesh._setting('value_limit', 16777216) then
        perform hotmesh._report_check_sizes(v_reports);
    end if;
    if 'ok' = all (v_verdicts) then
        return query select (p).* from hotmesh._report_progress(v_reports, worker, lease) p;
        return;
    end if;
    for i in 1 .. cardinality(v_reports) loop
        v_reports[i].verdict := v_verdicts[i];
        if v_verdicts[i] = 'kept' then
            perform hotmesh._inbox_put(
                v_reports[i].job_id, v_reports[i].dimension, 'report', to_jsonb(v_reports[i]));
        end if;
    end loop;
    if v_verdicts && '{told,untold}' then
        perform hotmesh._report_activities(
            array(select r from unnest(v_reports) r where r.verdict in ('told', 'untold')),
            array(select r.job_id from unnest(v_reports) r where r.verdict = 'told'));
    end if;
    if 'ok' = any (v_verdicts) then
        return query
        select (p).*
        from hotmesh._report_progress(
            array(select r from unnest(v_reports) r where r.verdict = 'ok'), worker, lease) p;
    end if;
    return query
    select r.verdict, r.id, r.token, r.kind, null::text, null::text, r.job_id, null::text,
           r.dimension, null::integer, null::integer, null::jsonb, null::bigint, null::jsonb,
           null::double precision, null::double precision
    from unnest(v_reports) r
    where r.verdict in ('stale', 'busy', 'kept') and r.was_kept is null;
end
$$;
