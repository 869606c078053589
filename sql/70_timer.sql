-- 70 timer: an alarm is a row of `streams` of kind timer, delayed until it is due; the sweep of any
-- turn makes it an event of its job: that of a run the answer of its step, that of a job the order
-- to interrupt it. That of an activity ends it. Errors: 22023.

--@ state

--@ behaviour
-- The alarm of an activity bounds all its attempts together: its `schedule_to_close`.
create or replace function hotmesh._timer_set(timers hotmesh.streams[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array(
        select (null, 'timer', 'delayed', '',
                case t.kind when 'activity' then 'deadline' else '' end, 0,
                t.job_id, t.dimension, t.sequence, null, null, null, 0, 0,
                case t.kind when 'activity' then hotmesh._timeout_instant(t.timeouts, 'deadline')
                     else t.visible_at end,
                null, null, null, null, null, null)::hotmesh.streams
        from unnest(timers) t
        where t.kind = 'timer' or t.timeouts ? 'deadline'));
end
$$;

-- The alarm of a job whose time is bounded, from when it may begin.
create or replace function hotmesh._timer_limit(
    job_id bigint, begins timestamptz, options jsonb)
returns hotmesh.streams
language plpgsql
as $$
declare
    v_all double precision := hotmesh._timeout_seconds(
        options -> 'execution_timeout', 'execution_timeout');
    v_run double precision := hotmesh._timeout_seconds(options -> 'run_timeout', 'run_timeout');
    v_seconds double precision := least(v_all, v_run);
begin
    return (null, 'timer', 'delayed', '', 'interrupt', 0, job_id, '', null, null,
            jsonb_build_object(
                'type', 'TimedOutError', 'code', 596,
                'reason', format('the workflow timed out: %s of %s s', case v_seconds
                    when v_all then 'execution_timeout' else 'run_timeout' end, v_seconds)),
            null, 0, 0, begins + make_interval(secs => v_seconds),
            null, null, null, null, null, null)::hotmesh.streams;
end
$$;
