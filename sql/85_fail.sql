-- 85 fail: an expression of a graph failed while a job walked: that job ends, and its error says
-- where in the document the expression stands, and what it is. Nobody else is touched.

--@ state

--@ behaviour
-- Which expression of a section failed; if that can't be found out, the section.
create or replace function hotmesh._fail_find(
    place text, scene hotmesh.blame_scene, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
begin
    select f.at, f.value into at, value from hotmesh._blame_find(place, scene) f;
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        at := place;
end
$$;

create or replace function hotmesh._fail_scope(document jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select hotmesh._plan_own(hotmesh._plan_scope(document), id)
$$;

-- Which expression failed: a section of the document, and the place in it.
create or replace function hotmesh._fail_at(
    w hotmesh.walk, context text, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
declare
    v_document jsonb := (select g.document from graphs g where g.id = w.graph_id);
    v_id text := hotmesh._walk_about(w) ->> 'id';
begin
    at := hotmesh._source_place(hotmesh._app_here(), w.graph_id, context);
    if at is not null and context !~ 'function \S*_walk_next\(' then
        select f.at, f.value into at, value
        from hotmesh._fail_find(at, (
            v_document -> 'graph', hotmesh._fail_scope(v_document, v_id), v_id, w.leg, w.store,
            w.dimension, coalesce(w.self, '{}'), w.job)::hotmesh.blame_scene) f;
    end if;
end
$$;

-- Evaluates what one activity says, outside of any walk. Who asks is told which expression fails.
create or replace function hotmesh._fail_ask(
    graph hotmesh.graphs, activity integer, leg text, self jsonb, job jsonb)
returns hotmesh.plan_step
language plpgsql
as $$
declare
    v_message text; v_detail text; v_hint text; v_context text;
    v_id text;
    v_found record;
begin
    return hotmesh._walk_ask_step(graph, activity, leg, self, job);
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail,
            v_hint = pg_exception_hint, v_context = pg_exception_context;
        v_id := graph.plan -> 'activities' -> (activity - 1) ->> 'id';
        v_found := hotmesh._fail_find(
            hotmesh._source_place(hotmesh._app_here(), graph.id, v_context), (
                graph.document -> 'graph', hotmesh._fail_scope(graph.document, v_id), v_id, leg,
                '{}', ',0', self, job)::hotmesh.blame_scene);
        perform hotmesh._refuse_argument(
            concat_ws(': ', v_found.at, v_message),
            concat('The expression is ' || left(v_found.value::text, 500) || '. ', v_detail),
            v_hint);
end
$$;

-- An expression failed: that job fails, and says where. What it had sent before is sent.
create or replace function hotmesh._fail_blame(
    w hotmesh.walk, state text, message text, context text)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_found record := hotmesh._fail_at(w, context);
begin
    if context ~ 'function \S*_walk_next\(' then
        w.activity := (w.todo[1]).activity;
        w.dimension := (w.todo[1]).dimension;
    else
        w := hotmesh._walk_step(w, w.dimension, coalesce(w.self, '{}'), 'failed');
    end if;
    return hotmesh._walk_fail(w, jsonb_strip_nulls(jsonb_build_object(
        'type', 'ExpressionError', 'code', 598, 'sqlstate', state, 'expression', v_found.at,
        'detail', 'The expression is ' || left(v_found.value::text, 500),
        'message', format('%s: %s', coalesce(
            v_found.at, 'activity ' || (hotmesh._walk_about(w) ->> 'id')), message))));
end
$$;
