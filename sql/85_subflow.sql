-- 85 subflow: jobs that go through a graph, from the start: who asks for one is a door (87), an
-- `await` of another graph, a workflow in code. And the other way: a graph that awaits code.

--@ state

--@ behaviour
-- The key that the trigger gives to its job, and what else it says of it.
create or replace function hotmesh._subflow_trigger(graph hotmesh.graphs, data jsonb)
returns jsonb
language plpgsql
as $$
begin
    return (hotmesh._fail_ask(
        graph, 1, 'enter',
        jsonb_build_object('input', jsonb_build_object('data', data),
                           'output', jsonb_build_object('data', data)),
        jsonb_build_object('data', '{}'::jsonb, 'metadata', '{}'::jsonb))).about;
end
$$;

create or replace function hotmesh._subflow_request(
    graph hotmesh.graphs, topic text, data jsonb, request hotmesh.job_request)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_trigger jsonb := case
        when graph.plan ? 'begins' then hotmesh._subflow_trigger(graph, data) end;
    v_options jsonb := coalesce(request.options, '{}');
begin
    if v_options ?| '{delay,retry_policy,execution_timeout,run_timeout,concurrency_key}' then
        perform hotmesh._refuse_argument(
            format('a graph takes no such option: %s', left(v_options::text, 100)),
            'A graph says itself when it sleeps, what it tries again and when it gives up.',
            'Options of a graph: on_conflict, expire, parent, search.');
    end if;
    request.workflow := topic;
    request.key := coalesce(request.key, v_trigger ->> 'id');
    request.queue := coalesce(request.queue, '-');
    request.args := jsonb_build_array(data);
    request := hotmesh._start_request(request, hotmesh._setting('value_limit', 16777216));
    request.queue := '';
    request.graph_id := graph.id;
    request.graph_version := graph.version;
    request.expire_after := coalesce(request.expire_after, hotmesh._subflow_expire(
        coalesce(graph.plan -> 'expire', v_trigger -> 'expire')));
    if v_trigger is not null then
        request.options := request.options || jsonb_build_object('stats', v_trigger);
        request := hotmesh._subflow_lineage(request, v_trigger);
    end if;
    return request;
end
$$;

-- stats.adjacent is the job that it belongs to, stats.parent the first of those; on record only.
create or replace function hotmesh._subflow_lineage(request hotmesh.job_request, trigger jsonb)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_parent hotmesh.jobs;
    v_origin hotmesh.jobs;
begin
    if trigger ->> 'adjacent' is not null and request.parent_id is null then
        v_parent := hotmesh._job_find(trigger ->> 'adjacent');
        request.parent_id := v_parent.id;
    end if;
    if trigger ->> 'parent' is not null then
        v_origin := hotmesh._job_find(trigger ->> 'parent');
    end if;
    request.origin_id := coalesce(
        request.origin_id, v_origin.id, v_parent.origin_id, v_parent.id);
    return request;
end
$$;

-- A number of seconds or a duration; what is computed is so as the job starts. Without one, or
-- below zero, a job stays.
create or replace function hotmesh._subflow_expire(expire jsonb)
returns interval
language plpgsql
stable
as $$
declare
    v_text text := expire #>> '{}';
begin
    if jsonb_typeof(expire) in ('number', 'string') and length(v_text) < 40
        and v_text ~ '^\s*[-+]?\d+(\.\d+)?\s*$'
    then
        return case when v_text::numeric >= 0
                    then hotmesh._duration(to_jsonb(v_text::numeric), 'expire') end;
    end if;
    return hotmesh._duration(expire, 'expire');
end
$$;

-- Opens a job that goes through a graph, and returns its walk; null if its key was taken and
-- `existing` was asked for.
create or replace function hotmesh._subflow_open(
    graph hotmesh.graphs, request hotmesh.job_request)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_job hotmesh.jobs;
    v_walk hotmesh.walk;
begin
    if hotmesh._job_open(array[request]) = '{}' then
        return hotmesh._subflow_conflict(graph, request);
    end if;
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = request.id;
    if graph.plan ? 'counted' then
        perform hotmesh._measure_lay(
            v_job, graph.plan -> 'measures', request.options -> 'stats');
    end if;
    v_walk := hotmesh._trail_of(
        v_job, graph.plan, null, array[(1, ',0', 'enter', request.args -> 0)::hotmesh.walk_entry],
        '{}');
    v_walk.whole := true;
    v_walk.steps := array[hotmesh._walk_fact(v_job.id, 'input', request.args -> 0)];
    if request.options ? 'search' then
        v_walk.steps := v_walk.steps || array(
            select hotmesh._walk_fact(v_job.id, '_' || s.key, s.value)
            from jsonb_each(request.options -> 'search') s);
    end if;
    return v_walk;
end
$$;

create or replace function hotmesh._subflow_conflict(
    graph hotmesh.graphs, request hotmesh.job_request)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_policy text := coalesce(request.options ->> 'on_conflict', 'reject');
    v_job hotmesh.jobs := hotmesh._job_find(request.key);
begin
    if v_policy = 'existing' then
        return null;
    elsif v_policy = 'replace' and v_job.closed_at is not null then
        perform hotmesh._archive_jobs(array[v_job.id]);
        return hotmesh._subflow_open(graph, request);
    end if;
    perform hotmesh._job_refuse_conflict(request.key, v_job.closed_at is null, v_policy);
end
$$;

-- Starts what an `await` asks for: a graph, or a workflow in code. Returns its walk.
create or replace function hotmesh._subflow_child(c jsonb)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_parent hotmesh.jobs;
    v_request hotmesh.job_request;
    v_graph hotmesh.graphs;
    v_walk hotmesh.walk;
begin
    select (j::hotmesh.jobs).* into v_parent from jobs j where j.id = (c ->> 'job_id')::bigint;
    v_request.key := c ->> 'key';
    v_request.parent_id := v_parent.id;
    v_request.origin_id := coalesce(v_parent.origin_id, v_parent.id);
    if c ? 'again' then  -- the one before has failed
        v_request.options := '{"on_conflict": "replace"}';
    end if;
    if c -> 'await' is distinct from 'false' then
        v_request.parent_dimension := c ->> 'dimension';
        v_request.parent_sequence := (c ->> 'sequence')::integer;
    end if;
    if c ? 'workflow' then
        v_request.key := hotmesh._subflow_code(c, v_request);
    else
        v_graph := hotmesh._graph_get(c ->> 'topic');
        v_request := hotmesh._subflow_request(v_graph, c ->> 'topic', c -> 'data', v_request);
        v_walk := hotmesh._subflow_open(v_graph, v_request);
    end if;
    if c -> 'await' = 'false' then
        perform hotmesh._inbox_told(
            v_parent.id, c ->> 'dimension', (c ->> 'sequence')::integer,
            jsonb_build_object('output', jsonb_build_object(
                'job_id', v_request.key, 'jc', hotmesh._trail_time(hotmesh.now()),
                'ju', hotmesh._trail_time(hotmesh.now()))), 'waiting');
    end if;
    return v_walk;
end
$$;

create or replace function hotmesh._subflow_code(c jsonb, request hotmesh.job_request)
returns text
language plpgsql
as $$
begin
    request.workflow := c ->> 'workflow';
    request.queue := c ->> 'task_queue';
    request.args := case jsonb_typeof(c -> 'data')
        when 'array' then c -> 'data' else jsonb_build_array(c -> 'data') end;
    request := hotmesh._start_request(request, hotmesh._setting('value_limit', 16777216));
    perform hotmesh._start_open(array[request]);
    return request.key;
end
$$;

create or replace function hotmesh._subflow_error(state text, message text)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'type', case state when 'MSH41' then 'DuplicateJobError' else 'EngineError' end,
        'code', case state when 'MSH41' then 409 else 598 end,
        'sqlstate', state, 'message', message)
$$;

create or replace function hotmesh._subflow_told(c jsonb, answer jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_told(
        (c ->> 'job_id')::bigint, c ->> 'dimension', (c ->> 'sequence')::integer, answer,
        'waiting');
end
$$;

-- What an errand refuses is the answer of its step.
create or replace function hotmesh._subflow_refused(c jsonb, state text, message text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._subflow_told(
        c, jsonb_build_object('error', hotmesh._subflow_error(state, message)));
end
$$;

-- It is to be done later, in the turn that has its job then.
create or replace function hotmesh._subflow_wait(c jsonb, seconds double precision)
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array[(
        null, 'timer', 'delayed', '', 'effect', 0, (c ->> 'job_id')::bigint, c ->> 'dimension',
        (c ->> 'sequence')::integer, null, jsonb_build_object('errand', c - 'delay'), null, 0, 0,
        hotmesh.now() + make_interval(secs => seconds),
        null, null, null, null, null, null)::hotmesh.streams]);
end
$$;

-- It would have had to wait for somebody's lock: it is tried again, less and less often, for some
-- three minutes.
create or replace function hotmesh._subflow_later(c jsonb, state text, message text)
returns void
language plpgsql
as $$
declare
    v_tries integer := coalesce((c ->> 'tries')::integer, 0);
begin
    if v_tries >= 20 then
        perform hotmesh._subflow_refused(c, state, message);
        return;
    end if;
    perform hotmesh._subflow_wait(
        c || jsonb_build_object('tries', v_tries + 1), least(0.5 * 2 ^ v_tries, 10));
end
$$;

-- A turn carries the work of others. A function of SQL is not called in it, if there is a worker
-- that calls them (87): in a transaction of its own, for a bounded time.
create or replace function hotmesh._subflow_defer(c jsonb)
returns boolean
language plpgsql
as $$
begin
    if c ->> 'do' <> 'sql' or current_setting('hotmesh.turning', true) is distinct from 'on'
        or not hotmesh._worker_serves('activity', '@sql')
    then
        return false;
    end if;
    perform hotmesh._stream_enqueue(array[(
        null, 'activity', 'ready', '@sql', '@sql', 0, (c ->> 'job_id')::bigint, c ->> 'dimension',
        (c ->> 'sequence')::integer, null, jsonb_build_array(c),
        hotmesh._retry_policy(coalesce(nullif(c -> 'policy', 'null'), '{"maximum_attempts": 1}')),
        0, 0, hotmesh.now(), null, null, null, null, null, null)::hotmesh.streams]);
    return true;
end
$$;

-- Without one nothing in it waits long for a lock.
create or replace function hotmesh._subflow_try(c jsonb)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_patience text := current_setting('lock_timeout');
    v_walk hotmesh.walk;
begin
    if c ? 'delay' then
        perform hotmesh._subflow_wait(c, (c ->> 'delay')::double precision);
        return null;
    elsif hotmesh._subflow_defer(c) then
        return null;
    elsif current_setting('hotmesh.turning', true) = 'on' then
        perform set_config('lock_timeout', '40ms', true);
    end if;
    if c ->> 'do' = 'sql' then
        perform hotmesh._subflow_told(
            c, jsonb_build_object('output', hotmesh._errand_call(c)));
    else
        v_walk := hotmesh._subflow_child(c);
    end if;
    perform set_config('lock_timeout', v_patience, true);
    return v_walk;
exception
    when lock_not_available then
        perform set_config('lock_timeout', v_patience, true);
        perform hotmesh._subflow_later(c, sqlstate, sqlerrm);
        return null;
    when sqlstate 'MSH22' or sqlstate 'MSH41' or sqlstate 'MSH43' or sqlstate 'MSH44'
        or data_exception or integrity_constraint_violation or object_not_in_prerequisite_state
        or raise_exception or syntax_error_or_access_rule_violation or plpgsql_error
        or program_limit_exceeded or feature_not_supported
        or external_routine_exception or triggered_action_exception
        or with_check_option_violation
    then
        perform set_config('lock_timeout', v_patience, true);
        perform hotmesh._subflow_refused(c, sqlstate, sqlerrm);
        return null;
end
$$;

-- What a function of SQL answered, to whoever called it for the engine.
create or replace function hotmesh._subflow_call(c jsonb)
returns jsonb
language plpgsql
as $$
begin
    return jsonb_build_object('output', hotmesh._errand_call(c));
exception
    when data_exception or integrity_constraint_violation or object_not_in_prerequisite_state
        or raise_exception or syntax_error_or_access_rule_violation or plpgsql_error
        or program_limit_exceeded or feature_not_supported
        or external_routine_exception or triggered_action_exception
        or with_check_option_violation
    then
        return jsonb_build_object('error', hotmesh._subflow_error(sqlstate, sqlerrm));
end
$$;

-- What had to wait is tried again, in the turn that holds its job.
create or replace function hotmesh._subflow_again(c jsonb)
returns void
language plpgsql
as $$
declare
    v_walk hotmesh.walk := hotmesh._subflow_try(c);
begin
    if v_walk.job_id is not null then
        perform hotmesh._errand_go('{}', array[v_walk]);
    end if;
end
$$;

-- Children that were started, as walks; functions of SQL that were called have answered.
create or replace function hotmesh._subflow_start(walks hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
begin
    return array(
        select t.walk
        from (
            select hotmesh._subflow_try(c.about) as walk
            from unnest(walks) with ordinality w
            cross join lateral jsonb_array_elements(w.commands) with ordinality c (about, place)
            where w.commands <> '[]' and c.about ->> 'do' in ('await', 'sql')
            order by w.ordinality, c.place
            offset 0) t
        where (t.walk).job_id is not null);
end
$$;
