-- 90 engine: the conductor's doors: start jobs, in the caller's transaction, and answer for them.
-- The first start of a topic in a transaction wakes one idle worker when that transaction commits.
-- Errors: 22023, and those of the jobs (40).

--@ state

--@ behaviour
create or replace function hotmesh.job_start(
    app text, workflow text, key text default null, args jsonb default '[]',
    queue text default null, entity text default null, options jsonb default '{}')
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_ids := hotmesh._start_open(array[hotmesh._start_request(
        (null, key, workflow, queue, entity, args, options,
         null, null, null, null, null, null, null, null, null, null)::hotmesh.job_request,
        hotmesh._setting('value_limit', 16777216))]);
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = v_ids[1];
    return v_job;
end
$$;
comment on function hotmesh.job_start(text, text, text, jsonb, text, text, jsonb) is
'Start a workflow, in the caller''s transaction. options: on_conflict (reject, existing, replace),
retry_policy, execution_timeout, run_timeout, expire, search, priority, delay, concurrency_key.
Raises MSH41 for a duplicate key, MSH43 for too large arguments, MSH44 for a replace of an open job,
22023 for bad arguments.';

create or replace function hotmesh._engine_check_list(requests jsonb)
returns void
language plpgsql
as $$
declare
    v_unknown text;
begin
    if jsonb_typeof(requests) is distinct from 'array'
        or jsonb_path_exists(requests, 'strict $[*] ? (@.type() != "object")')
    then
        perform hotmesh._refuse_argument(
            'requests are no JSON array of objects', left(requests::text, 200),
            'Give [{"workflow": …, "args": […]}, …].');
    end if;
    select string_agg(distinct k, ', ') into v_unknown
    from jsonb_array_elements(requests) r
    cross join lateral jsonb_object_keys(r) k
    where k <> all ('{workflow,key,args,queue,entity,options}');
    if v_unknown is not null then
        perform hotmesh._refuse_argument(
            format('unknown key of a request: %s', left(v_unknown, 100)),
            'Known keys: workflow, key, args, queue, entity, options.',
            'What else a start may say goes into its options.');
    end if;
end
$$;

create or replace function hotmesh.job_start_many(app text, requests jsonb)
returns setof hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_limit bigint;
begin
    perform hotmesh._enter(app);
    perform hotmesh._engine_check_list(requests);
    v_limit := hotmesh._setting('value_limit', 16777216);
    v_ids := hotmesh._start_open(array(
        select hotmesh._start_request(
            (null, r.key, r.workflow, r.queue, r.entity, coalesce(r.args, '[]'), r.options,
             null, null, null, null, null, null, null, null, null, null)::hotmesh.job_request,
            v_limit)
        from jsonb_to_recordset(requests) as r (
            key text, workflow text, queue text, entity text, args jsonb, options jsonb)));
    return query
    select (j::hotmesh.jobs).*
    from unnest(v_ids) with ordinality as o (id, number)
    join jobs j on j.id = o.id
    order by o.number;
end
$$;
comment on function hotmesh.job_start_many(text, jsonb) is
'Start many workflows in one call: [{"workflow": …, "key": …, "args": […], "queue": …, "entity": …,
"options": {…}}, …]. Rows come in the order asked for. All are started or none. Raises as job_start
does.';

create or replace function hotmesh._engine_facts(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_object_agg(a.field, a.value), '{}')
        from jobs_attributes_all a
        where a.job_id = job.id and a.sequence is null);
end
$$;

-- The job of a key, open, closed or archived.
create or replace function hotmesh._engine_job(key text)
returns hotmesh.jobs
language plpgsql
stable
as $$
declare
    v_job hotmesh.jobs := hotmesh._job_find(key);
begin
    if v_job.id is null then
        select j.id, j.key, j.entity, j.queue, j.topic, j.graph_version, j.graph_id, j.status,
               j.cursor, j.context, j.entity_version, j.expire_after, j.parent_id,
               j.parent_dimension,
               j.parent_sequence, j.origin_id, j.close_policy, j.created_at, j.updated_at,
               j.closed_at, j.expire_at
        into v_job
        from jobs_archive j
        where j.key = _engine_job.key
        order by j.closed_at desc
        limit 1;
    end if;
    if v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_job;
end
$$;

create or replace function hotmesh.job_result(app text, key text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    if v_job.closed_at is null then
        return null;
    end if;
    v_facts := hotmesh._engine_facts(v_job);
    if v_job.status < 0 and v_facts ? 'error' then
        perform hotmesh._job_refuse_failed(key, v_facts -> 'error');
    end if;
    return v_facts -> 'output';
end
$$;
comment on function hotmesh.job_result(text, text) is
'What a workflow returned; SQL null while it is open. Raises MSH40 if there is no such job, MSH46 if
it failed.';

create or replace function hotmesh.job_results(app text, keys text[])
returns table (key text, status bigint, output jsonb, error jsonb)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select k.key, j.status, f.output, f.error
    from unnest(keys) as k (key)
    left join lateral (
        select a.id, a.status, a.closed_at
        from jobs_all a
        where a.key = k.key
        order by a.closed_at desc nulls first
        limit 1) j on true
    left join lateral (
        select max(a.value::text) filter (where a.field = 'output')::jsonb as output,
               max(a.value::text) filter (where a.field = 'error')::jsonb as error
        from jobs_attributes_all a
        where a.job_id = j.id and a.field in ('output', 'error')) f on true
    where j.closed_at is not null or j.id is null;
end
$$;
comment on function hotmesh.job_results(text, text[]) is
'The outcomes of those jobs that have closed, for whoever waits for many; status is null where there
is no such job. Open jobs are left out.';

-- Why an open job does not move, as stuck_jobs says it; null when it does.
create or replace function hotmesh._engine_stuck(job hotmesh.jobs, mismatch jsonb)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'reason', case when s.state = 'dead' then 'parked' else 'mismatch' end,
            'message', coalesce(mismatch ->> 'message', s.error ->> 'message'), 'id', s.id)
        from streams s
        where s.job_id = job.id and job.closed_at is null and s.kind = 'workflow'
          and (s.state = 'dead'
               or s.state in ('delayed', 'ready') and s.error is not null and mismatch is not null)
        order by s.id
        limit 1);
end
$$;

-- Who the job of a graph is, in HotMesh's names and its format of times: `ts` is when it started,
-- in steps of five minutes; `aid` its trigger; `key` that of its statistics; p… its parent, and
-- where in that it is awaited.
create or replace function hotmesh._engine_metadata(job hotmesh.jobs, error jsonb)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'jid', job.key, 'gid', job.id::text, 'tpc', job.topic, 'vrs', job.graph_version,
        'app', (select a.name from hotmesh.apps a where a.schema_name = hotmesh._app_here()),
        'js', job.status, 'jc', hotmesh._trail_time(job.created_at),
        'ju', hotmesh._trail_time(job.updated_at), 'err', error,
        'ts', left(hotmesh._trail_time(date_bin(
            '5 minutes', job.created_at, '2000-01-01 00:00:00+00')), 12),
        'aid', (
            select a.name from jobs_attributes_all a
            where a.job_id = job.id and a.field = hotmesh._attribute_field(',0', 1) limit 1),
        'key', (select nullif(m.key, '') from measures m where m.job_id = job.id),
        'pj', (select p.key from jobs_all p where p.id = job.parent_id limit 1),
        'pg', job.parent_id::text, 'pd', job.parent_dimension, 'pa', (
            select a.name from jobs_attributes_all a
            where a.job_id = job.parent_id and a.field = hotmesh._attribute_field(
                job.parent_dimension, job.parent_sequence)
            limit 1)));
end
$$;

create or replace function hotmesh.job_state(app text, key text, metadata boolean default false)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
    v_data jsonb;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    v_facts := hotmesh._engine_facts(v_job);
    v_data := case
        when v_job.graph_id is not null then coalesce(v_facts -> 'output', '{}')
        else jsonb_strip_nulls(jsonb_build_object('done', v_job.closed_at is not null))
            || case when v_facts ? 'output'
                    then jsonb_build_object('response', v_facts -> 'output') else '{}' end end;
    if not metadata then
        return v_data;
    end if;
    if v_job.graph_id is not null then
        return jsonb_build_object('data', v_data, 'metadata', hotmesh._engine_metadata(
            v_job, v_facts -> 'error'));
    end if;
    return jsonb_build_object('data', v_data, 'metadata', jsonb_strip_nulls(jsonb_build_object(
        'jid', v_job.key, 'gid', v_job.id::text, 'tpc', v_job.topic,
        'app', app, 'vrs', coalesce(v_job.graph_version, '1'), 'ngn', v_job.entity,
        'js', v_job.status, 'jc', v_job.created_at, 'ju', v_job.updated_at,
        'err', v_facts -> 'error',
        'stuck', hotmesh._engine_stuck(v_job, v_facts -> 'mismatch'))));
end
$$;
comment on function hotmesh.job_state(text, text, boolean) is
'The data of a job (of a graph, what its mappings made); with metadata also who it is and where it
stands. A failed job does not raise: its metadata has err; that of one that does not move has stuck:
reason (parked or mismatch), message and id, the message that stream_revive takes. Raises MSH40.';

-- The journal in its order; that of a graph by the ways that were gone.
create or replace function hotmesh._engine_timeline(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'key', a.field, 'kind', a.kind, 'name', a.name, 'state', a.state,
                   'value', a.value, 'dimension', a.dimension, 'index', a.sequence,
                   'order', a.cursor, 'created', a.created_at, 'updated', a.updated_at)
                   order by case when job.graph_id is not null then
                       string_to_array(substr(a.dimension, 2), ',')::bigint[] end,
                       a.dimension, a.sequence), '[]')
        from jobs_attributes_all a
        where a.job_id = job.id and a.sequence is not null);
end
$$;

-- What each activity of a graph came to: {"t": {",0": {"output": …, "state": "done"}}}.
create or replace function hotmesh._engine_process(steps jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_object_agg(n.name, n.instances)
    from (
        select s.step ->> 'name' as name, jsonb_object_agg(
                   s.step ->> 'dimension',
                   (s.step -> 'value') || jsonb_build_object('state', s.step -> 'state'))
                   as instances
        from jsonb_array_elements(steps) s (step)
        group by 1) n
$$;

-- Which activities were gone through, without what they carried.
create or replace function hotmesh._engine_transitions(steps jsonb)
returns jsonb
language sql
immutable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'activity', coalesce(nullif(s.step ->> 'name', ''), s.step ->> 'kind'),
               'dimensions', s.step -> 'dimension',
               'created', s.step -> 'created', 'updated', s.step -> 'updated')
               order by s.step ->> 'created', s.place), '[]')
    from jsonb_array_elements(steps) with ordinality s (step, place)
$$;

create or replace function hotmesh._engine_check_parts(allow text[], block text[])
returns void
language plpgsql
as $$
declare
    v_parts text[] := '{data,state,status,timeline,transitions,process,dependencies}';
    v_unknown text := (select min(p) from unnest(allow || block) p where p <> all (v_parts));
begin
    if v_unknown is not null then
        perform hotmesh._refuse_argument(
            format('an export has no part %s', hotmesh._named(v_unknown)),
            format('Its parts are %s.', array_to_string(v_parts, ', ')),
            'Leave allow and block out for all of them.');
    end if;
end
$$;

create or replace function hotmesh.job_export(
    app text, key text, allow text[] default null, block text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
    v_steps jsonb;
begin
    perform hotmesh._enter(app);
    perform hotmesh._engine_check_parts(allow, block);
    v_job := hotmesh._engine_job(key);
    v_facts := hotmesh._engine_facts(v_job);
    v_steps := hotmesh._engine_timeline(v_job);
    return (
        select coalesce(jsonb_object_agg(s.name, s.value), '{}')
        from (values
            ('data', (
                select coalesce(jsonb_object_agg(substr(f.key, 2), f.value), '{}')
                from jsonb_each(v_facts) f
                where f.key like '\_%')),
            ('state', jsonb_build_object(
                'input', v_facts -> 'input', 'output', v_facts -> 'output',
                'error', v_facts -> 'error')),
            ('status', to_jsonb(v_job.status)),
            ('timeline', v_steps),
            ('process', case
                when v_job.graph_id is not null then hotmesh._engine_process(v_steps) end),
            ('dependencies', case when v_job.graph_id is not null then (
                select coalesce(jsonb_agg(c.key order by c.id), '[]')
                from jobs_all c where c.parent_id = v_job.id) end),
            ('transitions', hotmesh._engine_transitions(v_steps))) as s (name, value)
        where s.value is not null
          and (allow is null or s.name = any (allow)) and (block is null or s.name <> all (block)));
end
$$;
comment on function hotmesh.job_export(text, text, text[], text[]) is
'A job as one document: data (the user''s), state, status, timeline and transitions; of a graph also
process (what each activity came to, by dimension) and dependencies (the keys of its children).
allow and block choose among them. Raises MSH40, and 22023 for a part that there is not.';

create or replace function hotmesh.job_history(
    app text, key text, dimension text default '', after integer default -2147483648)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    if (hotmesh._job_find(key)).id = v_job.id then
        return hotmesh._attribute_history(v_job.id, dimension, after, 8388608);
    end if;
    return hotmesh._archive_history(v_job.id, dimension, after, 8388608);
end
$$;
comment on function hotmesh.job_history(text, text, text, integer) is
'The journal of one part of a job after step `after`, in pages of about 8 MB: rows [sequence, kind,
name, state, value, cursor, time]. Raises MSH40.';
