-- 61 hook: a further function of a job, in a dimension of its own, on the same entity. It has an
-- activation in `streams` as the main function has, and a row of its own in the journal: name,
-- arguments, the signal that somebody waits for, and its cursor. It is an obligation of its job.
-- A hook that ends without having signalled signals what it returned, or how it failed.

--@ state

--@ behaviour
-- `about`: workflow, queue, args, signal, retry_policy. The caller holds the job's lock. By default
-- a hook is tried until it succeeds. One that is there already (its job's function is run again)
-- goes on or stays done; if it failed it is run anew.
create or replace function hotmesh._hook_open(job_id bigint, dimension text, about jsonb)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_queue text := (select j.queue from jobs j where j.id = _hook_open.job_id);
    v_state text := (hotmesh._hook_find(job_id, dimension)).state;
    v_last integer;
begin
    if v_state in ('open', 'done') then
        return;
    elsif v_state = 'failed' then
        v_last := hotmesh._attribute_hook_drop(job_id, dimension);
    end if;
    perform hotmesh._job_oblige(job_id);
    perform hotmesh._attribute_hook(job_id, dimension, about ->> 'workflow', about - 'key');
    perform hotmesh._stream_enqueue(array[(
        null, 'workflow', 'ready', coalesce(about ->> 'queue', v_queue), about ->> 'workflow', 0,
        job_id, dimension, v_last, null, null,
        hotmesh._retry_policy(coalesce(
            nullif(about -> 'retry_policy', 'null'), '{"maximum_attempts": 1000000}')),
        0, 0, v_now, null, null, null, null, null, null)::hotmesh.streams]);
end
$$;

-- Who waited for this hook and met its failure waits again.
create or replace function hotmesh._hook_revive(job_id bigint, signal text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._hook_open(a.job_id, a.dimension, a.value)
    from jobs_attributes a
    where a.job_id = _hook_revive.job_id and a.kind = 'hook' and a.state = 'failed'
      and a.value ->> 'signal' = signal;
end
$$;

create or replace function hotmesh._hook_check(about jsonb)
returns void
language plpgsql
as $$
begin
    if octet_length(coalesce(about ->> 'workflow', '')) not between 1 and 500
        or octet_length(about ->> 'queue') not between 1 and 500
        or jsonb_typeof(about -> 'args') is distinct from 'array'
    then
        perform hotmesh._refuse_argument(
            'a hook needs a function''s name and a JSON array of arguments', left(about::text, 200),
            'Name the function as its worker registers it; a queue has 1 to 500 bytes.');
    end if;
    perform hotmesh._retry_policy(about -> 'retry_policy');
end
$$;

create or replace function hotmesh._hook_check_options(options jsonb)
returns void
language plpgsql
as $$
begin
    if jsonb_typeof(coalesce(options, '{}')) <> 'object'
        or (coalesce(options, '{}') - 'retry_policy') <> '{}'
    then
        perform hotmesh._refuse_argument(
            'a hook has one option, retry_policy', format('It was %s.', left(options::text, 200)),
            'For instance {"retry_policy": {"maximum_attempts": 5}}.');
    end if;
end
$$;

-- Workflow code hooks a function into its own job, or, with `key`, into another one.
create or replace function hotmesh._hook_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_dimension text := step.dimension || ',' || step.sequence;
    v_job hotmesh.jobs;
begin
    perform hotmesh._hook_check(step.value);
    if step.value ? 'key' then
        v_job := hotmesh._archive_find_open(step.value ->> 'key');
        if v_job.id <> step.job_id then
            perform hotmesh._inbox_put(v_job.id, '', 'hook', step.value);
            return 'true';
        end if;
    end if;
    perform hotmesh._hook_open(step.job_id, v_dimension, step.value);
    return to_jsonb(v_dimension);
end
$$;

create or replace function hotmesh._hook_find(job_id bigint, dimension text)
returns hotmesh.jobs_attributes
language plpgsql
stable
as $$
declare
    v_hook hotmesh.jobs_attributes;
begin
    select (a::hotmesh.jobs_attributes).* into v_hook
    from jobs_attributes a
    where a.job_id = _hook_find.job_id and a.field = 'hook' || _hook_find.dimension;
    return v_hook;
end
$$;

create or replace function hotmesh._hook_cursor(job_id bigint, dimension text)
returns bigint
language plpgsql
stable
as $$
begin
    return (hotmesh._hook_find(job_id, dimension)).cursor;
end
$$;

-- A hook has ended. True if its failure is nobody's: then it is the job's.
create or replace function hotmesh._hook_close(
    job_id bigint, dimension text, cursor bigint, outcome jsonb)
returns boolean
language plpgsql
as $$
declare
    v_hook hotmesh.jobs_attributes := hotmesh._hook_find(job_id, dimension);
    v_signal text := v_hook.value ->> 'signal';
begin
    perform hotmesh._attribute_advance(
        array[job_id], array[dimension], array[cursor],
        array[case when outcome ? 'error' then 'failed' else 'done' end]);
    if v_signal is not null and not v_hook.value ? 'signalled' then
        perform hotmesh._signal_send(job_id, v_signal, outcome);
    end if;
    return v_signal is null and outcome ? 'error';
end
$$;
