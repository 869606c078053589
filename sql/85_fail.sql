-- 85 fail: an expression of a graph failed while a job walked: that job ends, and its error says
-- where in the document the expression stands, and what it is. Nobody else is touched.

--@ state

--@ behaviour
-- Which expression failed: a section of the document, and the place in it.
create or replace function hotmesh._fail_at(
    w hotmesh.walk, context text, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
declare
    v_place text := hotmesh._source_place(hotmesh._app_here(), w.graph_id, context);
    v_document jsonb := (select g.document from graphs g where g.id = w.graph_id);
begin
    at := v_place;
    if v_place is not null and context !~ 'function \S*_walk_next\(' then
        select f.at, f.value into at, value
        from hotmesh._blame_find(v_place, (
            v_document -> 'graph', hotmesh._plan_own(
                hotmesh._plan_scope(v_document), hotmesh._walk_about(w) ->> 'id'),
            hotmesh._walk_about(w) ->> 'id', w.leg, w.store, w.dimension,
            coalesce(w.self, '{}'), w.job)::hotmesh.blame_scene) f;
    end if;
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        at := v_place;
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
