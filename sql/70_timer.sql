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

-- The alarm of a run rings, but the job has started over since it was set: it is set for the new
-- run. False if it is time.
create or replace function hotmesh._timer_renew(alarm hotmesh.streams)
returns boolean
language plpgsql
as $$
declare
    v_due timestamptz := (
        select m.created_at + make_interval(secs => (alarm.args ->> 'seconds')::float8)
        from streams m
        where m.job_id = alarm.job_id and m.kind = 'workflow' and m.dimension = ''
          and alarm.args ->> 'limit' = 'run_timeout');
begin
    if coalesce(v_due <= hotmesh.now(), true) then
        return false;
    end if;
    alarm.kind := 'timer';
    alarm.state := 'delayed';
    alarm.visible_at := v_due;
    perform hotmesh._stream_enqueue(array[alarm]);
    return true;
end
$$;

-- The alarms of a job whose time is bounded, from when it may begin. That of a run starts over when
-- the job continues as new.
create or replace function hotmesh._timer_limits(
    job_id bigint, begins timestamptz, options jsonb)
returns setof hotmesh.streams
language plpgsql
as $$
begin
    return query
    select null::bigint, 'timer', 'delayed', '', 'interrupt', 0::smallint, job_id, '',
           null::integer, null::bigint, jsonb_build_object(
               'type', 'TimedOutError', 'code', 596, 'seconds', l.seconds, 'limit', l.name,
               'reason', format('the workflow timed out: %s of %s s', l.name, l.seconds)),
           null::jsonb, 0, 0, begins + make_interval(secs => l.seconds), null::text, null::jsonb,
           null::timestamptz, null::jsonb, null::text, null::smallint
    from (
        select n.name, hotmesh._timeout_seconds(options -> n.name, n.name) as seconds
        from unnest('{execution_timeout,run_timeout}'::text[]) n (name)) l
    where l.seconds is not null;
end
$$;
