-- 23 plan: a graph, compiled. What the walker (85) has to know beforehand becomes the graph's
-- `plan`: its activities by number, how deep each lies, what it waits for. It also becomes two
-- functions in the app's schema: `_graph_<id>_step` evaluates what one activity says, and
-- `_graph_<id>` walks jobs with it, so that a turn calls one function per graph. A comment `-- @`
-- before an expression says where in the document it stands: by it a failure is named.

--@ state
create type hotmesh.plan_step as (
    self jsonb, about jsonb, job jsonb, go integer[], skip boolean, emit boolean, persist boolean);
comment on type hotmesh.plan_step is 'What the expressions of one activity came to.';

--@ behaviour
create or replace function hotmesh._plan_type(activity jsonb)
returns text
language sql
immutable
as $$
    select case activity ->> 'type' when 'activity' then 'hook' else activity ->> 'type' end
$$;

-- Every way from an activity to another: transitions.
create or replace function hotmesh._plan_edges(graph jsonb)
returns table (origin text, place integer, target text, conditions jsonb)
language sql
immutable
as $$
    select t.key, e.place::integer - 1, e.edge ->> 'to', e.edge -> 'conditions'
    from jsonb_each(coalesce(graph -> 'transitions', '{}')) t
    cross join lateral jsonb_array_elements(t.value) with ordinality e (edge, place)
    order by t.key, e.place
$$;

-- The activities by name, with number and depth: the trigger is 1 and lies at 0. `merging` are
-- those that more than one way leads to, and what comes after them by ways of different lengths.
create or replace function hotmesh._plan_depths(graph jsonb)
returns table (id text, number integer, depth integer, merging boolean)
language plpgsql
immutable
as $$
begin
    return query
    with recursive edges as (
        select distinct e.origin, e.target from hotmesh._plan_edges(graph) e),
    ways (id, depth) as (
        select a.key, 0 from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger'
        union
        select e.target, w.depth + 1
        from ways w join edges e on e.origin = w.id
        where w.depth < 1000)
    select w.id,
           (row_number() over (order by min(w.depth), w.id))::integer,
           min(w.depth),
           count(*) > 1 or (select count(*) from edges e where e.target = w.id) > 1
    from ways w
    group by w.id;
end
$$;

-- The rule of `hooks` that leads to an activity: {"topic", "expected", "actual"}.
create or replace function hotmesh._plan_hook(graph jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'topic', h.key, 'expected', r.rule #> '{conditions,match,0,expected}',
        'actual', r.rule #> '{conditions,match,0,actual}')
    from jsonb_each(coalesce(graph -> 'hooks', '{}')) h
    cross join lateral jsonb_array_elements(h.value) r (rule)
    where r.rule ->> 'to' = id
    limit 1
$$;

create or replace function hotmesh._plan_activity(graph jsonb, id text, depth integer,
    merging boolean, numbers jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'id', id, 'type', hotmesh._plan_type(a.about), 'depth', depth,
        'merging', nullif(merging, false),
        'read', case when id = any (hotmesh._expression_refs(graph)) then true end,
        'ancestor', numbers -> (a.about ->> 'ancestor'),
        'topic', hotmesh._plan_hook(graph, id) ->> 'topic',
        'sleeps', case when a.about ? 'sleep' then true end,
        'function', a.about ->> 'function',
        'retry', case when not a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'policy', case when a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'code', a.about -> 'code', 'status', a.about -> 'status',
        'subtype', a.about ->> 'subtype'))
    from (select graph -> 'activities' -> id as about) a
$$;

create or replace function hotmesh._plan_build(graph jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_numbers jsonb := (
        select jsonb_object_agg(d.id, d.number) from hotmesh._plan_depths(graph) d);
    v_stats jsonb := (
        select coalesce(a.value -> 'stats', '{}') from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger');
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'begins', case when v_stats ?| '{id,key,parent,adjacent}' then true end,
        'measures', v_stats -> 'measures', 'granularity', v_stats -> 'granularity',
        'expire', graph -> 'expire', 'publishes', graph -> 'publishes',
        'merging', (
            select jsonb_agg(d.id) from hotmesh._plan_depths(graph) d where d.merging),
        'activities', (
            select jsonb_agg(
                hotmesh._plan_activity(graph, d.id, d.depth, d.merging, v_numbers)
                order by d.number)
            from hotmesh._plan_depths(graph) d)));
end
$$;

-- What expressions may name.
create or replace function hotmesh._plan_scope(document jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'app', document -> 'app', 'graph', document -> 'graph', 'activities', (
            select jsonb_object_agg(d.id, d.depth)
            from hotmesh._plan_depths(document -> 'graph') d))
$$;

-- `variable := expression;`, after a line that says where the expression stands.
create or replace function hotmesh._plan_assign(
    variable text, value jsonb, scope jsonb, path text, form text default '%s')
returns text
language sql
stable
as $$
    select format(E'-- @ %s\n%s := %s;\n', path, variable,
                  format(form, hotmesh._expression_sql(value, scope, path)))
    where value is not null
$$;

-- {"field": expression, …} of the fields that an activity says what to do with.
create or replace function hotmesh._plan_about(fields jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select hotmesh._plan_assign('o.about', jsonb_strip_nulls(fields), scope, path)
    where jsonb_strip_nulls(fields) <> '{}'
$$;

-- The fields of each type that are evaluated as it is entered.
create or replace function hotmesh._plan_fields(graph jsonb, id text)
returns jsonb
language sql
stable
as $$
    select case hotmesh._plan_type(a.about)
        when 'trigger' then jsonb_build_object(
            'id', a.about #> '{stats,id}', 'key', a.about #> '{stats,key}',
            'parent', a.about #> '{stats,parent}', 'adjacent', a.about #> '{stats,adjacent}')
        when 'worker' then jsonb_build_object('topic', a.about -> 'topic')
        when 'await' then jsonb_build_object(
            'topic', a.about -> 'topic', 'await', a.about -> 'await',
            'workflow', a.about -> 'workflow', 'task_queue', a.about -> 'task_queue',
            'key', a.about -> 'id')
        when 'hook' then jsonb_build_object(
            'sleep', a.about -> 'sleep',
            'expected', hotmesh._plan_hook(graph, id) -> 'expected')
        when 'signal' then jsonb_build_object(
            'topic', a.about -> 'topic', 'code', a.about -> 'code',
            'status', a.about -> 'status', 'data', a.about #> '{signal,maps}',
            'key_name', a.about -> 'key_name', 'key_value', a.about -> 'key_value',
            'resolver', a.about #> '{resolver,maps}', 'scrub', a.about -> 'scrub')
        when 'interrupt' then jsonb_build_object(
            'target', a.about -> 'target', 'topic', a.about -> 'topic',
            'reason', a.about -> 'reason', 'throw', a.about -> 'throw',
            'code', a.about -> 'code', 'descend', a.about -> 'descend',
            'stack', a.about -> 'stack')
        else '{}' end
    from (select graph -> 'activities' -> id as about) a
$$;

-- A worker without maps gets what the trigger got.
create or replace function hotmesh._plan_input(graph jsonb, id text)
returns jsonb
language sql
stable
as $$
    select coalesce(
        a.about #> '{input,maps}',
        case when a.about ->> 'type' in ('worker', 'sql') then (
            select to_jsonb(format('{%s.output.data}', t.key))
            from jsonb_each(graph -> 'activities') t
            where t.value ->> 'type' = 'trigger') end)
    from (select graph -> 'activities' -> id as about) a
$$;

-- What is evaluated when an activity is entered.
create or replace function hotmesh._plan_enter(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        hotmesh._plan_assign(
            'o.skip', v_about -> 'statusThreshold', scope, v_path || '.statusThreshold',
            'hotmesh._plan_reached(%s, job)'),
        hotmesh._plan_assign(
            'v', hotmesh._plan_input(graph, id), scope, v_path || '.input.maps'),
        case when hotmesh._plan_input(graph, id) is not null then
            'self := self || jsonb_build_object(''input'', '
            'jsonb_build_object(''data'', coalesce(v, ''{}'')));
' end,
        hotmesh._plan_about(hotmesh._plan_fields(graph, id), scope, v_path));
end
$$;

-- What is evaluated when an activity has its answer: outputs, the job's data, where to go on.
create or replace function hotmesh._plan_leave(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        case when v_about #> '{output,maps}' is not null then concat(
            E'if leg = ''leave'' then\n',
            hotmesh._plan_assign(
                'v', v_about #> '{output,maps}', scope, v_path || '.output.maps'),
            'self := self || jsonb_build_object(''output'', '
            'coalesce(self -> ''output'', ''{}'') || jsonb_build_object(''data'', v));
end if;
') end,
        format(E's := hotmesh._plan_put(s, %L, d, self);\n', id),
        case when v_about #> '{job,maps}' is not null then concat(
            hotmesh._plan_assign('o.job', v_about #> '{job,maps}', scope, v_path || '.job.maps'),
            E'job := hotmesh._plan_tell(job, o.job);\n') end,
        case when v_about ? 'emit' then format(
            E'-- @ %s.emit\no.emit := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'emit', scope, v_path || '.emit')) end,
        case when v_about ? 'persist' then format(
            E'-- @ %s.persist\no.persist := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'persist', scope, v_path || '.persist')) end,
        (select string_agg(hotmesh._plan_edge(
                    e.place, n.number, e.conditions, scope, _plan_leave.id), ''
                           order by e.place)
         from hotmesh._plan_edges(graph) e
         join hotmesh._plan_depths(graph) n on n.id = e.target
         where e.origin = _plan_leave.id));
end
$$;

-- A condition on the code: one, several, or a pattern such as 4**. Without any, what has conditions
-- wants 200, and what has none goes on whatever came.
create or replace function hotmesh._plan_code(conditions jsonb)
returns text
language sql
immutable
as $$
    select case
        when conditions is null or conditions = '{}' then 'true'
        when not conditions ? 'code' then '200 = any (codes)'
        when jsonb_typeof(conditions -> 'code') = 'array' then (
            select format('(%s)', string_agg(
                hotmesh._plan_code(jsonb_build_object('code', c)), ' or '))
            from jsonb_array_elements(conditions -> 'code') c)
        when conditions ->> 'code' ~ '^\d+$'
            then format('%s = any (codes)', (conditions ->> 'code')::integer)
        else format(
            'exists (select from unnest(codes) c where c::text ~ %L)',
            '^' || replace(regexp_replace(
                conditions ->> 'code', '[^0-9*\[\]|().-]', '', 'g'), '*', '\d') || '$') end
$$;

create or replace function hotmesh._plan_edge(
    place integer, target integer, conditions jsonb, scope jsonb, origin text)
returns text
language plpgsql
stable
as $$
declare
    v_path text := format('transitions.%s[%s].conditions', origin, place);
begin
    return format(
        E'-- @ %s\nif %s%s then o.go := o.go || %s; end if;\n', v_path,
        hotmesh._plan_code(conditions),
        coalesce(' and ' || hotmesh._expression_condition(
            nullif(conditions - 'code', '{}'), scope, v_path), ''),
        target);
end
$$;

-- A signal for a hook: the value by which it finds its wait.
create or replace function hotmesh._plan_actual(graph jsonb, id text, scope jsonb)
returns text
language sql
stable
as $$
    select hotmesh._plan_assign(
        'o.about', h.rule -> 'actual', scope, 'hooks.' || (h.rule ->> 'topic'))
    from (select hotmesh._plan_hook(graph, id) as rule) h
$$;

-- What compiled expressions call.
create or replace function hotmesh._plan_put(s jsonb, id text, d text, self jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select s || jsonb_build_object(
        id, coalesce(s -> id, '{}') || jsonb_build_object(d, self))
$$;

-- Maps of two activities that reach into one object keep both.
create or replace function hotmesh._plan_merge(old jsonb, new jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case
        when jsonb_typeof(old) <> 'object' or jsonb_typeof(new) <> 'object' then new
        when not jsonb_path_exists(new, '$.* ? (@.type() == "object")') then old || new
        else old || (
            select coalesce(jsonb_object_agg(
                       n.key, coalesce(hotmesh._plan_merge(old -> n.key, n.value), n.value)), '{}')
            from jsonb_each(new) n) end
$$;

create or replace function hotmesh._plan_tell(job jsonb, told jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case
        when told is null then job
        else job || jsonb_build_object(
            'data', coalesce(hotmesh._plan_merge(job -> 'data', told), told)) end
$$;

create or replace function hotmesh._plan_reached(threshold jsonb, job jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select coalesce(
        (job #>> '{metadata,js}')::numeric <= (nullif(threshold, 'null') #>> '{}')::numeric, false)
$$;

create or replace function hotmesh._plan_case(graph jsonb, id text, number integer, scope jsonb)
returns text
language plpgsql
stable
as $$
begin
    return concat(
        format(E'when %s then\n', number),
        case when number = 1 then format(E's := hotmesh._plan_put(s, %L, d, self);\n', id) end,
        E'if leg = ''enter'' then\nnull;\n', hotmesh._plan_enter(graph, id, scope),
        case when hotmesh._plan_hook(graph, id) is not null then concat(
            E'elsif leg = ''actual'' then\nnull;\n',
            hotmesh._plan_actual(graph, id, scope)) end,
        E'else\n', hotmesh._plan_leave(graph, id, scope), E'end if;\n');
end
$$;

-- The function that evaluates what one activity says. Its parameters are what expressions read.
create or replace function hotmesh._plan_source_step(schema text, graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select format(
        'create or replace function %I.%I(
            activity integer, leg text, codes integer[], s jsonb, d text, self jsonb, job jsonb)
        returns hotmesh.plan_step
        language plpgsql
        as %L', schema, hotmesh._graph_name(graph.id) || '_step', concat('
#variable_conflict use_variable
declare
o hotmesh.plan_step;
v jsonb;
begin
case activity
', (
            select string_agg(hotmesh._plan_case(
                graph.document -> 'graph', n.id, n.number,
                hotmesh._plan_scope(graph.document)), '' order by n.number)
            from hotmesh._plan_depths(graph.document -> 'graph') n), 'end case;
o.self := self;
return o;
end
'))
$$;

-- The function that walks jobs: each by itself, so that a failure is one job's only.
create or replace function hotmesh._plan_source_walk(schema text, graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select format(
        'create or replace function %I.%I(walks hotmesh.walk[])
        returns hotmesh.walk[]
        language plpgsql
        as %L', schema, hotmesh._graph_name(graph.id), format('
declare
    w hotmesh.walk;
    v_message text;
    v_state text;
    v_context text;
begin
    for i in 1 .. cardinality(walks) loop
        w := walks[i];
        begin
            loop
                w := hotmesh._walk_next(w);
                exit when w.leg is null;
                w := hotmesh._walk_moved(w, %1$I.%2$I(
                    w.activity, w.leg, w.codes, w.store, w.dimension, w.self, w.job));
            end loop;
        exception
            when data_exception or program_limit_exceeded or feature_not_supported
                or undefined_function or internal_error
            then
                get stacked diagnostics v_state = returned_sqlstate,
                    v_message = message_text, v_context = pg_exception_context;
                w := hotmesh._walk_blame(w, v_state, v_message, v_context);
        end;
        walks[i] := w;
    end loop;
    return walks;
end
', schema, hotmesh._graph_name(graph.id) || '_step'))
$$;

-- Nobody but the engine may call what a graph was compiled into.
create or replace function hotmesh._plan_compile(graph hotmesh.graphs)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_here();
    v_name text := hotmesh._graph_name(graph.id);
begin
    perform hotmesh._app_run(array[
        hotmesh._plan_source_step(v_schema, graph),
        hotmesh._plan_source_walk(v_schema, graph),
        format('revoke all on function %I.%I from public', v_schema, v_name || '_step'),
        format('revoke all on function %I.%I from public', v_schema, v_name)]);
end
$$;

create or replace function hotmesh._plan_drop(ids bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._app_run(array(
        select format('drop function if exists %I.%I', hotmesh._app_here(), f.name)
        from unnest(ids) i
        cross join lateral (
            values (hotmesh._graph_name(i)), (hotmesh._graph_name(i) || '_step')) as f (name)));
end
$$;

-- Where in the document a failure happened: the last `-- @` before the line of the function.
create or replace function hotmesh._plan_place(schema text, id bigint, context text)
returns text
language sql
stable
as $$
    select (regexp_match(l.text, '^-- @ (.*)$'))[1]
    from pg_proc p
    cross join lateral regexp_split_to_table(p.prosrc, E'\n') with ordinality l (text, place)
    where p.pronamespace = to_regnamespace(quote_ident(schema))
      and p.proname = hotmesh._graph_name(id) || '_step'
      and l.text like '-- @ %'
      and l.place <= (regexp_match(
          context, '_graph_' || id || '_step\(.*?\) line (\d+) '))[1]::integer
    order by l.place desc
    limit 1
$$;
