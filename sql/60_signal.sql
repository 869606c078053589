-- 60 signal: news that somebody sends to a job by name. Sending is an insert into the job's inbox
-- and locks nothing, so it works in the caller's transaction. A wait is an open step of kind
-- `wait`. A signal without its wait stays in the inbox; a wait without its signal stays open;
-- whoever holds the job brings them together, oldest with oldest. Errors: MSH40, MSH42 of the job.

--@ state

--@ behaviour
create or replace function hotmesh._signal_send(job_id bigint, signal text, data jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_put(
        job_id, '', 'signal', jsonb_build_object('signal', signal, 'output', data));
end
$$;

-- Turns signals that have a wait into its answer. The caller holds the jobs' locks.
create or replace function hotmesh._signal_meet(job_ids bigint[])
returns void
language plpgsql
as $$
declare
    v_signals hotmesh.streams[] := hotmesh._inbox_signals(job_ids);
    v_ids bigint[];
    v_dimensions text[];
    v_sequences integer[];
begin
    if v_signals is null then
        return;
    end if;
    select array_agg(s.id), array_agg(w.dimension), array_agg(w.sequence)
    into v_ids, v_dimensions, v_sequences
    from (
        select m.id, m.job_id, m.args ->> 'signal' as name,
               row_number() over (partition by m.job_id, m.args ->> 'signal' order by m.id) as place
        from unnest(v_signals) m) s
    join (
        select a.job_id, a.name, a.dimension, a.sequence,
               row_number() over (
                   partition by a.job_id, a.name order by a.created_at, a.sequence) as place
        from jobs_attributes a
        where a.job_id = any (array(select m.job_id from unnest(v_signals) m))
          and a.kind = 'wait' and a.state = 'open') w
        on w.job_id = s.job_id and w.name = s.name and w.place = s.place;
    perform hotmesh._inbox_answer(v_ids, v_dimensions, v_sequences);
end
$$;

-- Workflow code sends a signal: {"data": …}; for now to its own job.
create or replace function hotmesh._signal_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
begin
    perform hotmesh._signal_send(step.job_id, step.name, coalesce(step.value -> 'data', 'null'));
    return 'true';
end
$$;

create or replace function hotmesh.job_signal(
    app text, key text, signal text, data jsonb default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    if coalesce(signal, '') = '' or length(signal) > 500 then
        perform hotmesh._refuse_argument(
            'a signal needs a name', 'It has 1 to 500 characters.',
            'Name what workflow.wait_for(…) waits for.');
    end if;
    v_job := hotmesh._job_find(key);
    if v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    elsif v_job.closed_at is not null then
        perform hotmesh._job_refuse_closed(key, v_job.closed_at);
    end if;
    perform hotmesh._signal_send(v_job.id, signal, coalesce(data, 'null'));
    perform hotmesh._worker_wake_for('workflow', v_job.queue, v_job.topic);
end
$$;
comment on function hotmesh.job_signal(text, text, text, jsonb) is
'Send a signal to one job, in the caller''s transaction. It is kept until the job waits for it.
Raises MSH40 for an unknown job, MSH42 for a closed one.';
