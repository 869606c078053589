-- 85 walk: how a job goes through its graph. A walk is one job in memory: what came in (`todo`),
-- the instances of activities that expressions read (`store`), and what it leads to: steps to be
-- written, commands, obligations. Functions of a walk are pure; `_walk` loads, runs and writes, in
-- rounds, until nothing is left to do: pure steps and sub-flows cost no round trip. An instance is
-- a journal row: its dimension is the way that led to it, its sequence the activity's number.

--@ state
create type hotmesh.walk_entry as (activity integer, dimension text, leg text, answer jsonb);
comment on type hotmesh.walk_entry is
'What a walk has to do: enter an activity, or go on with one that was answered.';
create type hotmesh.walk as (
    job_id bigint, graph_id bigint, plan jsonb, job jsonb, store jsonb, status bigint,
    todo hotmesh.walk_entry[], steps hotmesh.jobs_attributes[], commands jsonb, error jsonb,
    was bigint, parent_id bigint, ended boolean, told boolean, moves integer,
    activity integer, dimension text, leg text, codes integer[], self jsonb, pending boolean,
    whole boolean);
comment on type hotmesh.walk is 'A job on its way through its graph, in memory.';

--@ behaviour
create or replace function hotmesh._walk_about(w hotmesh.walk)
returns jsonb
language sql
immutable
as $$
    select w.plan -> 'activities' -> (w.activity - 1)
$$;

-- The dimension of the answer number `turn`, and of the iteration `turn` later.
create or replace function hotmesh._walk_dimension(dimension text, turn integer)
returns text
language sql
immutable
as $$
    select case when turn = 0 then dimension
                else regexp_replace(dimension, ',\d+$', '') || ',' || (
                    (regexp_match(dimension, '\d+$'))[1]::integer + turn) end
$$;

-- A step of the journal, to be written.
create or replace function hotmesh._walk_step(
    w hotmesh.walk, dimension text, self jsonb, state text)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_turn bigint := coalesce((self #>> '{$,turn}')::bigint, 0);
begin
    w.steps := w.steps || (
        w.job_id, hotmesh._attribute_field(dimension, w.activity), self - '$',
        v_about ->> 'type', v_about ->> 'id', state, dimension, w.activity, null,
        001100000000000 + v_turn + case state when 'open' then 0 else 100000000000000 end,
        null, null)::hotmesh.jobs_attributes;
    return w;
end
$$;

-- An instance that leads no further by itself.
create or replace function hotmesh._walk_end(w hotmesh.walk, state text)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.store := hotmesh._plan_put(
        w.store, hotmesh._walk_about(w) ->> 'id', w.dimension, w.self);
    return hotmesh._walk_step(w, w.dimension, w.self, state);
end
$$;

create or replace function hotmesh._walk_command(w hotmesh.walk, verb text, about jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.commands := w.commands || jsonb_build_array(about || jsonb_build_object(
        'do', verb, 'job_id', w.job_id, 'dimension', w.dimension, 'sequence', w.activity,
        'id', hotmesh._walk_about(w) ->> 'id', 'graph_id', w.graph_id));
    return w;
end
$$;

create or replace function hotmesh._walk_fail(w hotmesh.walk, error jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.error := error || jsonb_build_object(
        'activity', hotmesh._walk_about(w) ->> 'id', 'dimension', w.dimension);
    w.ended := true;
    return w;
end
$$;

-- Takes up the next thing to do. `leg` is null when there is none.
create or replace function hotmesh._walk_next(w hotmesh.walk)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_entry hotmesh.walk_entry;
    v_about jsonb;
begin
    w.leg := null;
    while w.leg is null and not w.ended and w.todo <> '{}'
        and (w.moves < 100 or (w.todo[1]).leg in ('leave', 'again'))
    loop
        v_entry := w.todo[1];
        w.todo := w.todo[2:];
        w.moves := w.moves + 1;
        w.activity := v_entry.activity;
        w.dimension := v_entry.dimension;
        w.codes := '{200}';
        w.pending := false;
        if v_entry.leg = 'enter' then
            w := hotmesh._walk_arrive(w, v_entry.answer);
        elsif v_entry.leg = 'answer' then
            w := hotmesh._walk_bind(w, v_entry.answer);
        else
            w.self := w.store -> (hotmesh._walk_about(w) ->> 'id') -> w.dimension;
            w.leg := v_entry.leg;
        end if;
    end loop;
    return w;
end
$$;

-- Is it a worker's first answer, with data alone?
create or replace function hotmesh._walk_is_plain(
    entry hotmesh.walk_entry, about jsonb, self jsonb, number integer)
returns boolean
language sql
immutable
as $$
    select coalesce(
        number = 1 and entry.leg = 'answer' and about ->> 'type' = 'worker'
        and self -> '$' = '{"open": true, "turn": 0}'
        and jsonb_typeof(entry.answer -> 'output') = 'object'
        and entry.answer -> 'output' ?| '{status,data}'
        and (entry.answer -> 'output') - 'data' <@ '{"status": "success"}'
        and entry.answer - 'output' = '{}', false)
$$;

-- Does it go to nowhere, or to one worker of a known topic, to which nothing else leads?
create or replace function hotmesh._walk_is_next(o hotmesh.plan_step, next jsonb)
returns boolean
language sql
immutable
as $$
    select coalesce(cardinality(o.go), 0) < 2 and o.emit is not true and o.persist is not true
        and (next is null or next ->> 'type' = 'worker' and not next ?| '{merging,computed}')
$$;

create or replace function hotmesh._walk_row(
    job_id bigint, dimension text, activity integer, about jsonb, self jsonb, state text,
    turn integer)
returns hotmesh.jobs_attributes
language sql
immutable
as $$
    select (
        job_id, hotmesh._attribute_field(dimension, activity), self, about ->> 'type',
        about ->> 'id', state, dimension, activity, null,
        001100000000000 + turn + case state when 'open' then 0 else 100000000000000 end,
        null, null)::hotmesh.jobs_attributes
$$;

-- A fact about a job, to be written with its steps.
create or replace function hotmesh._walk_fact(job_id bigint, field text, value jsonb)
returns hotmesh.jobs_attributes
language sql
immutable
as $$
    select (job_id, field, value, 'fact', null, 'done', '', null, null, 0, null, null
           )::hotmesh.jobs_attributes
$$;

-- A worker that was asked, and the command by which it is; nothing if it is skipped.
create or replace function hotmesh._walk_asked(o hotmesh.plan_step)
returns jsonb
language sql
stable
as $$
    select case when o.skip then o.self
                else o.self || jsonb_build_object('topic', o.about -> 'topic') end
$$;

create or replace function hotmesh._walk_asks(
    job_id bigint, graph_id bigint, dimension text, activity integer, about jsonb,
    o hotmesh.plan_step)
returns jsonb
language sql
stable
as $$
    select case when o.skip then '[]' else jsonb_build_array(o.about || jsonb_build_object(
        'data', coalesce(o.self #> '{input,data}', '{}'),
        'policy', case when about ? 'retry' then '{"maximum_attempts": 1}'
                       else about -> 'policy' end,
        'do', 'worker', 'job_id', job_id, 'dimension', dimension, 'sequence', activity,
        'id', about ->> 'id', 'graph_id', graph_id)) end
$$;

-- Is it an activity that waits for nothing, at its beginning?
create or replace function hotmesh._walk_passes(entry hotmesh.walk_entry, about jsonb)
returns boolean
language sql
immutable
as $$
    select about ? 'passes' and entry.leg = 'enter'
        and (entry.answer is null or entry.activity = 1)
$$;

-- What an instance begins with. A trigger's input is its output; it is kept twice only where maps
-- may part them.
create or replace function hotmesh._walk_self(about jsonb, output jsonb)
returns jsonb
language sql
stable
as $$
    select case
        when output is null then '{}'
        when about ->> 'type' = 'trigger' and not about ? 'twin' then jsonb_build_object(
            'input', jsonb_build_object('data', output),
            'output', jsonb_build_object('data', output))
        else jsonb_build_object('output', jsonb_build_object('data', output)) end
$$;

create or replace function hotmesh._walk_onward(
    todo hotmesh.walk_entry[], go integer[], dimension text)
returns hotmesh.walk_entry[]
language plpgsql
immutable
as $$
begin
    for i in 1 .. coalesce(cardinality(go), 0) loop
        todo := todo || (go[i], dimension || ',0', 'enter', null)::hotmesh.walk_entry;
    end loop;
    return todo;
end
$$;

-- A new instance; `output` is what a cycle gives to the activity that it returns to.
create or replace function hotmesh._walk_arrive(w hotmesh.walk, output jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
begin
    if v_about ? 'merging' or output is not null then
        w.dimension := hotmesh._trail_free(
            w.store -> (v_about ->> 'id'), w.dimension,
            case when v_about ? 'unread' then w.job_id end, w.activity);
    end if;
    w.job := jsonb_set(w.job, '{metadata,js}', to_jsonb(w.status));
    w.self := hotmesh._walk_self(v_about, output);
    w.leg := 'enter';
    return w;
end
$$;

-- What a worker said: {status, code, data}, or data alone.
create or replace function hotmesh._walk_response(output jsonb, kind text)
returns jsonb
language sql
stable
as $$
    select case
        when kind in ('worker', 'signal') and jsonb_typeof(output) = 'object'
             and output ?| '{status,code,data}'
             and output - '{status,code,data,metadata,stack}'::text[] = '{}' then output
        else jsonb_build_object('data', coalesce(output, 'null')) end
$$;

-- A code as a number; null if it is none.
create or replace function hotmesh._walk_code(code jsonb)
returns integer
language sql
immutable
as $$
    select case when code #>> '{}' ~ '^-?\d{1,9}$' and jsonb_typeof(code) in ('number', 'string')
                then (code #>> '{}')::integer end
$$;

-- What comes of an answer whose code is none.
create or replace function hotmesh._walk_miscoded(response jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object(
        'type', 'WorkerError', 'code', 598,
        'message', format('the code of the answer is no code: %s', left(response ->> 'code', 100)))
    where jsonb_typeof(response -> 'code') <> 'null'
      and hotmesh._walk_code(response -> 'code') is null
$$;

-- The codes by which transitions go: retries that were used up are the 500 of their cause, too.
create or replace function hotmesh._walk_codes(code integer)
returns integer[]
language sql
immutable
as $$
    select case when code = 597 then '{597,500}' else array[code] end
$$;

-- An answer came in. One for an instance that has ended, or was answered before, is dropped.
create or replace function hotmesh._walk_bind(w hotmesh.walk, answer jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_response jsonb;
    v_status text;
    v_error jsonb := answer -> 'error';
begin
    w.self := w.store -> (v_about ->> 'id') -> w.dimension;
    if w.self #>> '{$,open}' is distinct from 'true' then
        return case when answer ? 'published' then hotmesh._walk_command(w, 'return', answer)
                    else w end;
    end if;
    v_response := case when answer ? 'code' or answer ? 'status'
        then jsonb_build_object('code', answer -> 'code', 'status', answer -> 'status',
                                'data', answer -> 'output')
        else hotmesh._walk_response(answer -> 'output', v_about ->> 'type') end;
    v_status := lower(v_response ->> 'status');
    v_error := coalesce(v_error, hotmesh._walk_miscoded(v_response));
    w.codes := array[coalesce(hotmesh._walk_code(v_response -> 'code'),
                              case v_status when 'error' then 500 when 'pending' then 202
                                            else 200 end)];
    if v_status = 'error' and v_error is null then
        v_error := jsonb_strip_nulls(jsonb_build_object(
            'type', 'WorkerError', 'code', w.codes[1], 'data', v_response -> 'data',
            'message', coalesce(v_response #>> '{data,message}', v_response ->> 'message',
                                'the worker answered with an error'),
            'stack', v_response -> 'stack'));
        v_response := jsonb_build_object('data', case jsonb_typeof(v_response -> 'data')
            when 'object' then jsonb_build_object('code', w.codes[1]) || (v_response -> 'data')
            else v_response -> 'data' end);
    elsif v_error is not null then
        w.codes := hotmesh._walk_codes(coalesce(hotmesh._walk_code(v_error -> 'code'), 500));
        v_response := jsonb_build_object('data', v_error);
    end if;
    w.pending := v_error is null and (v_status = 'pending' or w.codes[1] = 202);
    return hotmesh._walk_answer(w, v_response -> 'data', v_error);
end
$$;

-- Lays an answer into its instance, each further one into a dimension of its own.
create or replace function hotmesh._walk_answer(w hotmesh.walk, data jsonb, error jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_base text := w.dimension;
    v_turn integer := coalesce((w.self #>> '{$,turn}')::integer, 0);
begin
    if error is not null and v_about ? 'retry' then
        w := hotmesh._visit_retry(w, v_about -> 'retry');
        if w.codes = '{}' then
            return w;
        end if;
    end if;
    w.self := w.self || jsonb_build_object('$', jsonb_build_object(
        'turn', v_turn + 1, 'open', w.pending));
    if w.pending and w.self ? 'wait' then
        w := hotmesh._walk_command(w, 'wait', jsonb_build_object('name', w.self -> 'wait'));
    elsif w.self ?& '{wait,sleep}' then
        w := hotmesh._walk_command(w, 'unwait', '{}');
    end if;
    if v_turn > 0 then
        w := hotmesh._walk_step(
            w, v_base, w.self,
            case when w.pending then 'open' when error is null then 'done' else 'failed' end);
        w.store := hotmesh._plan_put(w.store, v_about ->> 'id', v_base, w.self);
        w.dimension := hotmesh._walk_dimension(v_base, v_turn);
        if v_about ? 'merging' then
            w.dimension := hotmesh._trail_free(
            w.store -> (v_about ->> 'id'), w.dimension,
            case when v_about ? 'unread' then w.job_id end, w.activity);
        end if;
        w.self := w.self - '$';
    end if;
    w.self := w.self || case v_about ->> 'type'
        when 'hook' then jsonb_build_object('hook', jsonb_build_object('data', data))
        else jsonb_build_object('output', jsonb_build_object('data', data)) end
        || case when error is null then '{}'::jsonb
                else jsonb_build_object('error', error) end;
    w.leg := case when error is null then 'leave' else 'failed' end;
    return w;
end
$$;

-- What the expressions of an activity came to, and what it leads to.
create or replace function hotmesh._walk_moved(w hotmesh.walk, o hotmesh.plan_step)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    if w.leg <> 'enter' then
        return hotmesh._visit_leave(w, o);
    end if;
    w.self := o.self;
    if o.skip then
        w.status := w.status - 1;
        return hotmesh._walk_end(w, 'cancelled');
    end if;
    case hotmesh._walk_about(w) ->> 'type'
        when 'trigger' then return hotmesh._visit_pass(w);
        when 'hook' then return hotmesh._visit_hook(w, coalesce(o.about, '{}'));
        when 'cycle' then return hotmesh._visit_cycle(w);
        when 'interrupt' then return hotmesh._visit_interrupt(w, coalesce(o.about, '{}'));
        when 'signal' then
            return hotmesh._visit_signal(w, coalesce(o.about, '{}'));
        else return hotmesh._visit_ask(w, coalesce(o.about, '{}'));
    end case;
end
$$;

create or replace function hotmesh._walk_graphs(walks hotmesh.walk[])
returns bigint[]
language plpgsql
immutable
as $$
begin
    if cardinality(walks) = 1 then
        return array[walks[1].graph_id];
    end if;
    return array(select distinct w.graph_id from unnest(walks) w);
end
$$;

-- Calls what each graph was compiled into, once for all its jobs.
create or replace function hotmesh._walk_run(walks hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_graphs constant bigint[] := hotmesh._walk_graphs(walks);
    v_graph bigint;
    v_name text;
    v_part hotmesh.walk[] := walks;
    v_done hotmesh.walk[] := '{}';
begin
    foreach v_graph in array v_graphs loop
        v_name := format('%I.%I', hotmesh._app_here(), hotmesh._graph_name(v_graph));
        if to_regproc(v_name) is null then
            perform hotmesh._plan_compile(g::hotmesh.graphs) from graphs g where g.id = v_graph;
        end if;
        if cardinality(v_graphs) > 1 then
            v_part := array(select w from unnest(walks) w where w.graph_id = v_graph);
        end if;
        execute format('select %s($1)', v_name) into v_part using v_part;
        v_done := v_done || v_part;
    end loop;
    return v_done;
end
$$;

-- Evaluates what one activity says, outside of any walk: the trigger of a job that is to be, the
-- rule of a hook.
create or replace function hotmesh._walk_ask_step(
    graph hotmesh.graphs, activity integer, leg text, self jsonb, job jsonb)
returns hotmesh.plan_step
language plpgsql
as $$
declare
    v_name text := format('%I.%I', hotmesh._app_here(), hotmesh._graph_name(graph.id) || '_step');
    v_step hotmesh.plan_step;
begin
    if to_regproc(v_name) is null then
        perform hotmesh._plan_compile(graph);
    end if;
    execute format('select (%s($1, $2, $3, $4, $5, $6, $7)).*', v_name) into v_step
    using activity, leg, '{200}'::integer[], '{}'::jsonb, ',0', self, job;
    return v_step;
end
$$;
