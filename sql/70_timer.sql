-- 70 timer: an alarm of a run is a row of `streams` of kind timer, delayed until it is due; the
-- sweep of any turn makes it an event of its job.

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
