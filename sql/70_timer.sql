-- 70 timer: an alarm of a run is a row of `streams` of kind timer, delayed until it is due; the
-- sweep of any turn makes it an event of its job.

--@ state

--@ behaviour
create or replace function hotmesh._timer_set(timers hotmesh.streams[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array(
        select (null, 'timer', 'delayed', '', '', 0, t.job_id, t.dimension, t.sequence,
                null, null, null, 0, 0, t.visible_at, null, null, null)::hotmesh.streams
        from unnest(timers) t));
end
$$;
