-- 64 update: a change that somebody asks of a running job's code, which answers. It reaches the
-- code as a step that it never asked for, with a number below zero, so that every replay sees it at
-- the same place; what its handler returns is an effect, kept as a fact of the job. Asking is an
-- insert; see 87_order. Errors: MSH40, MSH42 of the job.

--@ state

--@ behaviour
-- Asked once per id. The caller holds the job's lock.
create or replace function hotmesh._update_admit(job_id bigint, about jsonb)
returns void
language plpgsql
as $$
declare
    v_sequence integer := hotmesh._attribute_order(
        job_id, 'update', about ->> 'name', about ->> 'id');
begin
    if v_sequence is not null then
        perform hotmesh._inbox_told(
            job_id, '', v_sequence, jsonb_build_object('output', about - 'name'), 'ready');
    end if;
end
$$;

-- The handler has ended: {id, answer}.
create or replace function hotmesh._update_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
begin
    perform hotmesh._attribute_facts(
        array[step.job_id], array['update:' || (step.value ->> 'id')],
        array[step.value -> 'answer']);
    return 'true';
end
$$;

-- The code starts over, and with it go the handlers that it had begun: whoever asked is told so.
create or replace function hotmesh._update_abandon(job_id bigint, seen bigint)
returns void
language plpgsql
as $$
begin
    perform hotmesh._attribute_facts(
        array_agg(u.job_id), array_agg('update:' || (u.value ->> 'id')),
        array_agg(jsonb_build_object('error', jsonb_build_object(
            'type', 'JobInterruptedError', 'code', 410, 'message', format(
                'the workflow continued as new before it had answered update "%s"', u.name)))))
    from jobs_attributes u
    where u.job_id = _update_abandon.job_id and u.dimension = '' and u.kind = 'update'
      and u.sequence <= 0 and u.cursor <= seen
      and not exists (
          select from jobs_attributes a
          where a.job_id = u.job_id and a.field = 'update:' || (u.value ->> 'id'))
    having count(*) > 0;
end
$$;

create or replace function hotmesh.update_send(
    app text, key text, name text, args jsonb default '[]', id text default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_id text := coalesce(id, replace(gen_random_uuid()::text, '-', ''));
begin
    perform hotmesh._enter(app);
    perform hotmesh._query_check(name, args);
    if octet_length(v_id) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'the id of an update is empty or too long', format('It was %L.', left(id, 60)),
            'From 1 to 500 bytes, or leave it out.');
    end if;
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._inbox_put(v_job.id, '', 'update', jsonb_build_object(
        'id', v_id, 'name', name, 'args', args));
    return v_id;
end
$$;
comment on function hotmesh.update_send(text, text, text, jsonb, text) is
'Ask the code of an open job for a change, in the caller''s transaction; the same id again asks for
nothing more. Returns the id, for update_result. Raises MSH40, MSH42.';

create or replace function hotmesh.update_result(app text, key text, id text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer jsonb;
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._job_find(key);
    if v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    v_answer := (
        select a.value from jobs_attributes a
        where a.job_id = v_job.id and a.field = 'update:' || update_result.id);
    if v_answer is null and v_job.closed_at is not null then
        perform hotmesh._job_refuse_closed(key, v_job.closed_at);
    end if;
    return v_answer;
end
$$;
comment on function hotmesh.update_result(text, text, text) is
'What an update answered, {"output": …} or {"error": …}; SQL null until then. Raises MSH40, and
MSH42 if the job closed before.';
