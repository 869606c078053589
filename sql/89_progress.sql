-- 89 progress: what a run's report does to its job, once it may: the steps that the code consumed
-- and asked for are laid down, effects carried out, news numbered and handed over, cursors moved,
-- and functions that have ended close their obligations. The callers (91 report, 92 delivery) hold
-- the jobs' locks and have compared the cursors. Errors: 22023.

--@ state

--@ behaviour
-- The journal rows of what the code asks for.
create or replace function hotmesh._progress_asked(reports hotmesh.report[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (r.job_id, null, case c.kind when 'child' then c.args -> 'key' end, c.kind, c.name,
                case c.kind when 'patch' then 'done' else 'open' end, r.dimension, c.sequence,
                null, 0, null, null)::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, args jsonb)
        where r.commands is not null and c.kind <> 'cancel');
end
$$;

create or replace function hotmesh._progress_messages(
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

create or replace function hotmesh._progress_check_commands(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('bad command: %s', left(c.kind, 60)),
        format('Commands: activity (with queue and name), timer, outcome, patch, cancel, %s.',
               array_to_string(hotmesh._effect_kinds(), ', ')),
        'Is the driver newer than the engine?')
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (kind text, queue text, name text)
    where r.commands is not null
      and (coalesce(c.kind, '') not in ('activity', 'timer', 'outcome', 'patch', 'cancel')
               and c.kind <> all (hotmesh._effect_kinds())
           or coalesce(c.kind, '') = ''
           or c.kind = 'activity' and (coalesce(c.queue, '') = '' or coalesce(c.name, '') = ''));
end
$$;

create or replace function hotmesh._progress_effects(reports hotmesh.report[])
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
create or replace function hotmesh._progress_command(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_messages hotmesh.streams[] := hotmesh._progress_messages(reports, worker, lease);
    v_announced hotmesh.streams[] := array(
        select m from unnest(v_messages) m where m.state = 'leased');
    v_effects hotmesh.jobs_attributes[];
    v_ids bigint[];
begin
    perform hotmesh._progress_check_commands(reports);
    perform hotmesh._stream_enqueue(array(
        select m from unnest(v_messages) m where m.state <> 'leased' and m.kind = 'activity'));
    perform hotmesh._timer_set(array(
        select m from unnest(v_messages) m where m.kind = 'timer' or m.timeouts is not null));
    v_effects := hotmesh._progress_effects(reports);
    if v_effects <> '{}' then
        perform hotmesh._effect_apply(v_effects);
    end if;
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
               null::double precision, null::double precision, null::text, null::integer
        from unnest(v_announced) with ordinality a
        where a.error is null;
    end if;
    perform hotmesh._progress_cancel(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(c.sequence))
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (sequence integer, kind text)
    where r.commands is not null and c.kind = 'cancel'
    having count(*) > 0;
end
$$;

-- The code no longer wants these answers. A signal that has met its wait already goes to another.
create or replace function hotmesh._progress_cancel(
    job_ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
declare
    v_fields text[] := array(
        select hotmesh._attribute_field(c.dimension, c.sequence)
        from unnest(dimensions, sequences) as c (dimension, sequence));
begin
    perform hotmesh._attribute_cancel(job_ids, v_fields);
    perform hotmesh._stream_cancel(job_ids, dimensions, sequences);
    perform hotmesh._signal_unwait(job_ids, dimensions, sequences);
    perform hotmesh._signal_resend(m.missed)
    from (select hotmesh._attribute_miss(job_ids, v_fields) as missed offset 0) m
    where m.missed <> '{}';
end
$$;

-- Does this report end its function? A replay that met other code does not: the job waits for right
-- code, visibly. A workflow that raised is run again only under a policy given to its start, and
-- not once it was cancelled.
create or replace function hotmesh._progress_ends(outcome jsonb, policy jsonb, runs integer)
returns boolean
language sql
immutable
as $$
    select outcome is not null and not outcome ?| '{mismatch,again}'
       and not (
           outcome ? 'error' and policy is not null
           and outcome -> 'error' ->> 'code' is distinct from '499'
           and hotmesh._retry_again(policy, runs, outcome -> 'error'))
$$;

-- The error of a function that had a policy: 597 when every run was used up, 598 when no other
-- could help. What has a code of its own kind already keeps it.
create or replace function hotmesh._progress_verdict(outcome jsonb, policy jsonb, runs integer)
returns jsonb
language sql
immutable
as $$
    select case
        when policy is null or not outcome ? 'error'
            or outcome -> 'error' ->> 'code' in ('410', '499', '596', '597', '598')
            or not hotmesh._progress_ends(outcome, policy, runs)
            then outcome
        when hotmesh._retry_again(policy, 0, outcome -> 'error')
            then jsonb_set(outcome, '{error,code}', '597')
        else jsonb_set(outcome, '{error,code}', '598') end
$$;

-- Numbers what waits in the inboxes after what the reports consumed; every report gets its new
-- cursor and its news. A function that ends or starts over takes none. What could not be taken, its
-- row being locked this instant, leaves the run held, with empty news: to let it rest would wake
-- nobody.
create or replace function hotmesh._progress_fold(reports hotmesh.report[])
returns hotmesh.report[]
language plpgsql
as $$
declare
    v_jobs bigint[] := array(select r.job_id from unnest(reports) r);
    v_dimensions text[];
    v_cursors bigint[];
    v_news hotmesh.jobs_attributes[];
begin
    if hotmesh._inbox_jobs(v_jobs, '{result,query}') = '{}' then
        return reports;
    end if;
    v_cursors := array(select r.cursor from unnest(reports) r);
    v_dimensions := array(
        select case when not (r.ends or coalesce(r.outcome ? 'again', false)) then r.dimension end
        from unnest(reports) r);
    v_news := hotmesh._progress_news(v_jobs, v_dimensions, v_cursors)
        || hotmesh._query_take(v_jobs, v_dimensions);
    return hotmesh._progress_tell(reports, v_cursors, v_news, hotmesh._inbox_left(v_jobs));
end
$$;

create or replace function hotmesh._progress_after(report hotmesh.report, at bigint, news jsonb)
returns hotmesh.report
language sql
immutable
as $$
    select (report.id, report.token, at, report.output, report.error, report.done, report.commands,
            report.outcome, report.running, report.keep, report.was_kept, report.before,
            report.kind, report.job_id, report.dimension, report.retry_policy, report.attempt,
            report.runs, report.verdict, report.ends, news)::hotmesh.report
$$;

-- Every report with its new cursor and its news; `places` are functions for which there is more.
create or replace function hotmesh._progress_tell(
    reports hotmesh.report[], cursors bigint[], steps hotmesh.jobs_attributes[], places text[])
returns hotmesh.report[]
language plpgsql
as $$
begin
    return array(
        with told as materialized (
            select s.job_id || s.dimension as place, max(s.cursor) as cursor,
                   jsonb_agg(hotmesh._attribute_entry(s) order by s.cursor) as news
            from unnest(steps) s
            group by s.job_id || s.dimension)
        select hotmesh._progress_after(
            reports[p.i], coalesce(t.cursor, cursors[p.i]),
            coalesce(t.news, case when p.place = any (places) then '[]'::jsonb end))
        from (
            select i, (reports[i]).job_id || (reports[i]).dimension as place
            from generate_subscripts(reports, 1) i) p
        left join told t on t.place = p.place
        order by p.i);
end
$$;

-- Closes the steps that were answered; a signal whose wait was given up meanwhile goes back.
create or replace function hotmesh._progress_news(
    job_ids bigint[], dimensions text[], cursors bigint[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[] := hotmesh._inbox_take(job_ids, dimensions);
    v_news hotmesh.jobs_attributes[] :=
        hotmesh._attribute_close(v_events, job_ids, dimensions, cursors);
begin
    if cardinality(v_news) < cardinality(v_events) then
        perform hotmesh._signal_give_back(v_events, v_news);
    end if;
    return v_news;
end
$$;

-- Reports of runs whose jobs are locked and whose cursors were compared: journal, commands, news,
-- outcome, rest.
create or replace function hotmesh._progress_apply(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_after hotmesh.report[];
begin
    perform hotmesh._attribute_done(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(r.before), array_agg(r.done))
    from unnest(reports) r
    where r.done is not null
    having count(*) > 0;
    if exists (select from unnest(reports) r where r.commands is not null) then
        perform hotmesh._attribute_write(hotmesh._progress_asked(reports));
        return query select (c).* from hotmesh._progress_command(reports, worker, lease) c;
    end if;
    v_after := hotmesh._progress_fold(reports);
    if hotmesh._progress_conclude(v_after) then
        return query
        select 'events', r.id, r.token, 'workflow', null::text, null::text, r.job_id, null::text,
               r.dimension, null::integer, null::integer, null::jsonb, r.cursor, r.news,
               null::double precision, extract(epoch from hotmesh.now())::double precision,
               null::text, null::integer
        from unnest(v_after) r
        where r.outcome is null and r.news is not null;
    end if;
end
$$;

-- Moves the cursors of runs that go on, lays to rest those that only wait, settles those that end.
-- Returns whether there is news for some that go on.
create or replace function hotmesh._progress_conclude(reports hotmesh.report[])
returns boolean
language plpgsql
as $$
declare
    v_told boolean;
    v_jobs bigint[];
    v_cursors bigint[];
    v_hooks boolean;
    v_alive bigint[];
    v_resting boolean;
    v_ending hotmesh.report[];
begin
    select coalesce(bool_or(r.outcome is null and r.news is not null), false),
           array_agg(r.job_id) filter (where not r.ends and r.dimension = ''),
           array_agg(r.cursor) filter (where not r.ends and r.dimension = ''),
           bool_or(not r.ends and r.dimension <> ''),
           array_agg(r.id) filter (where r.running and r.attempt > 1),
           bool_or(r.outcome is null and not r.running and r.news is null),
           array_agg(r) filter (where r.outcome is not null)
    into v_told, v_jobs, v_cursors, v_hooks, v_alive, v_resting, v_ending
    from unnest(reports) r;
    if v_jobs is not null then
        perform hotmesh._job_advance(v_jobs, v_cursors);
    end if;
    if v_hooks then
        perform hotmesh._progress_advance_hooks(reports);
    end if;
    if v_alive is not null then
        perform hotmesh._lease_alive(v_alive);
    end if;
    if v_resting then
        perform hotmesh._progress_rest(reports);
    end if;
    if v_ending is not null then
        perform hotmesh._progress_finish(v_ending);
    end if;
    return v_told;
end
$$;

create or replace function hotmesh._progress_advance_hooks(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._attribute_advance(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(r.cursor),
        array_agg('open'::text))
    from unnest(reports) r
    where not r.ends and r.dimension <> '';
end
$$;

create or replace function hotmesh._progress_rest(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_rest(array_agg(r.id), array_agg(r.cursor))
    from unnest(reports) r
    where r.outcome is null and not r.running and r.news is null;
end
$$;

-- Functions with an outcome: some run again, the others end.
create or replace function hotmesh._progress_finish(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_ended hotmesh.report[] := array(select r from unnest(reports) r where r.ends);
begin
    perform hotmesh._again_run(r) from unnest(reports) r where not r.ends;
    if v_ended <> '{}' then
        perform hotmesh._progress_end(v_ended);
    end if;
end
$$;

-- Functions that have ended: their outcomes are laid down, their obligations closed. Hooks that
-- were ordered meanwhile come first, so that their job stays open for them.
create or replace function hotmesh._progress_end(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_failed bigint[] := array(
        select r.job_id
        from unnest(reports) r
        where r.dimension <> ''
          and hotmesh._hook_close(r.job_id, r.dimension, r.cursor, r.outcome));
    v_jobs bigint[] := array(select distinct r.job_id from unnest(reports) r);
    v_late bigint[] := hotmesh._inbox_jobs(v_jobs, '{hook}');
begin
    perform hotmesh._attribute_facts(
        array_agg(r.job_id),
        array_agg(case when r.outcome ? 'error' then 'error' else 'output' end),
        array_agg(coalesce(r.outcome -> 'error', r.outcome -> 'output')))
    from (
        select distinct on (r.job_id) r.job_id, r.outcome
        from unnest(reports) r
        where r.dimension = '' or r.job_id = any (v_failed) and r.outcome ? 'error'
        order by r.job_id, r.outcome ? 'error' desc) r
    having count(*) > 0;
    if v_late <> '{}' then
        perform hotmesh._order_hooks(v_late);
    end if;
    perform hotmesh._close_functions(array_agg(r.job_id), array_agg(r.dimension), true)
    from unnest(reports) r
    join jobs j on j.id = r.job_id
    where j.status > 1
    having count(*) > 0;
    perform hotmesh._close_settle(
        array_agg(e.job_id), array_agg(e.ended), array_agg(e.cursor), array_agg(e.failed))
    from (
        select r.job_id, count(*)::integer as ended,
               max(r.cursor) filter (where r.dimension = '') as cursor,
               bool_or(r.dimension = '' and r.outcome ? 'error' or r.job_id = any (v_failed))
                   as failed
        from unnest(reports) r
        group by r.job_id) e;
end
$$;
