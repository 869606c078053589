-- 86 child: a job that workflow code starts. Its parent's step is answered when it closes (83); its
-- origin is the first of its ancestors.

--@ state

--@ behaviour
create or replace function hotmesh._child_policy(policy text)
returns text
language plpgsql
as $$
begin
    if policy not in ('terminate', 'cancel', 'abandon') then
        perform hotmesh._refuse_argument(
            format('unknown parent_close_policy: %s', left(policy, 60)),
            'Policies: terminate, cancel, abandon.', 'Leave it out for abandon.');
    end if;
    return coalesce(policy, 'abandon');
end
$$;

-- {workflow, key, args, queue, entity, options, close_policy, outcome}: `outcome` is the step that
-- the child's end answers, while this one tells that it was started; without, this one is.
create or replace function hotmesh._child_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_about jsonb := step.value;
    v_parent hotmesh.jobs;
    v_request hotmesh.job_request;
begin
    select (j::hotmesh.jobs).* into v_parent from jobs j where j.id = step.job_id;
    v_request.workflow := v_about ->> 'workflow';
    v_request.key := v_about ->> 'key';
    v_request.args := v_about -> 'args';
    v_request.queue := coalesce(v_about ->> 'queue', v_parent.queue);
    v_request.entity := v_about ->> 'entity';
    v_request.options := v_about -> 'options';
    v_request := hotmesh._start_request(
        v_request, hotmesh._setting('value_limit', 16777216));
    v_request.parent_id := v_parent.id;
    v_request.parent_dimension := step.dimension;
    v_request.parent_sequence := coalesce((v_about ->> 'outcome')::integer, step.sequence);
    v_request.origin_id := coalesce(v_parent.origin_id, v_parent.id);
    v_request.close_policy := hotmesh._child_policy(v_about ->> 'close_policy');
    perform hotmesh._child_refuse_existing(v_request);
    if v_about ->> 'queue' is null and hotmesh._graph_answers(v_request.workflow) then
        perform hotmesh._child_publish(v_request);
    else
        perform hotmesh._child_start(v_request);
    end if;
    return case when v_about ? 'outcome' then to_jsonb(v_request.key) end;
end
$$;

-- A child that goes through a graph: what needs no worker is done at once. Its data is the one
-- argument, if that is an object.
create or replace function hotmesh._child_publish(request hotmesh.job_request)
returns void
language plpgsql
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_get(request.workflow);
    v_before text := hotmesh._child_adopt(request);
    v_data jsonb := case
        when request.args = '[]' then '{}'
        when jsonb_array_length(request.args) = 1 and jsonb_typeof(request.args -> 0) = 'object'
            then request.args -> 0
        else jsonb_build_object('args', request.args) end;
begin
    if v_before = 'adopted' then
        return;
    elsif v_before = 'failed' then
        request.options := request.options || '{"on_conflict": "replace"}';
    end if;
    perform hotmesh._errand_go('{}', array[hotmesh._subflow_open(
        v_graph, hotmesh._subflow_request(v_graph, request.workflow, v_data, request))]);
end
$$;

-- The parent's function is run again and asks for the child that this very step started before: it
-- goes on, or tells its end once more, unless it has failed: then it is run anew.
create or replace function hotmesh._child_adopt(request hotmesh.job_request)
returns text
language plpgsql
as $$
declare
    v_child hotmesh.jobs := hotmesh._job_find(request.key);
begin
    if v_child.id is null or v_child.parent_id is distinct from request.parent_id
        or v_child.parent_dimension is distinct from request.parent_dimension
        or v_child.parent_sequence is distinct from request.parent_sequence
    then
        return 'none';
    elsif v_child.status < 0 then
        return 'failed';
    elsif v_child.closed_at is not null then
        perform hotmesh._close_tell(array[v_child.id]);
    end if;
    return 'adopted';
end
$$;

-- Whoever starts a job of the same key in an open transaction may not hold up a turn for long: then
-- the effect is tried again later (88).
create or replace function hotmesh._child_start(request hotmesh.job_request)
returns void
language plpgsql
as $$
declare
    v_patience text := current_setting('lock_timeout');
    v_before text := hotmesh._child_adopt(request);
begin
    if v_before = 'adopted' then
        return;
    elsif v_before = 'failed' then
        request.options := request.options || '{"on_conflict": "replace"}';
    end if;
    perform set_config('lock_timeout', '40ms', true);
    perform hotmesh._start_open(array[request]);
    perform set_config('lock_timeout', v_patience, true);
end
$$;

create or replace function hotmesh._child_refuse_existing(request hotmesh.job_request)
returns void
language plpgsql
as $$
begin
    if request.options ->> 'on_conflict' = 'existing' then
        perform hotmesh._refuse_argument(
            'a child can''t be a job that exists', format('The key was %s.', request.key),
            'Use on_conflict reject or replace; a job that exists has a parent or none already.');
    end if;
end
$$;
