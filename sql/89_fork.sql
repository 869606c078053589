-- 89 fork: a new job that starts with the entity of another, as it was at a version: to try
-- another way from there, or to go on from a job that is archived. Version 1 of the new entity is
-- the document it took over. Errors: those of a start (85), of the history (83).

--@ state

--@ behaviour
-- The start that a fork asks for: what it does not say is as it was in the other job.
create or replace function hotmesh._fork_request(key text, request hotmesh.job_request)
returns hotmesh.job_request
language plpgsql
stable
as $$
declare
    v_id bigint;
begin
    select j.id, coalesce(request.workflow, j.topic), coalesce(request.queue, j.queue),
           coalesce(request.entity, j.entity)
    into v_id, request.workflow, request.queue, request.entity
    from jobs_all j
    where j.key = _fork_request.key
    order by j.id desc
    limit 1;
    request.args := coalesce(request.args, (
        select a.value from jobs_attributes_all a where a.job_id = v_id and a.field = 'input'));
    return request;
end
$$;

create or replace function hotmesh.entity_fork(
    app text, key text, version bigint default null, new_key text default null,
    workflow text default null, args jsonb default null, queue text default null,
    entity text default null, options jsonb default '{}')
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb;
    v_from hotmesh.entity_log;
    v_document jsonb;
    v_request hotmesh.job_request;
    v_job hotmesh.jobs;
begin
    v_settings := hotmesh._enter(app);
    v_from := hotmesh._history_job(key);
    version := coalesce(version, v_from.version);
    v_document := hotmesh._history_at(key, v_from, version);
    v_request.key := new_key;
    v_request.workflow := workflow;
    v_request.queue := queue;
    v_request.entity := entity;
    v_request.args := args;
    v_request.options := options;
    v_request := hotmesh._start_request(
        hotmesh._fork_request(key, v_request), hotmesh._setting('value_limit', 16777216));
    v_request.id := (hotmesh._start_open(array[v_request]))[1];
    if (hotmesh._job_find(v_request.key)).entity_version = 0 then
        perform hotmesh._entity_do(
            v_settings, v_request.key, 'fork', null, v_document, null);
        perform hotmesh._attribute_facts(
            array[v_request.id], '{forked_from}',
            array[jsonb_build_object('key', key, 'version', version)]);
    end if;
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = v_request.id;
    return v_job;
end
$$;
comment on function hotmesh.entity_fork(
    text, text, bigint, text, text, jsonb, text, text, jsonb) is
'Start a job whose entity begins as that of `key` was at a version (by default as it is). Workflow,
arguments, queue and entity are those of that job unless given. Raises as job_start and entity_at.';
