-- 23 source: a graph as two functions in the app's schema: `_graph_<id>_step` evaluates what one
-- activity says, and `_graph_<id>` walks jobs with it, so that a turn calls one function per graph.
-- Literals are quoted; nothing of a document runs as code. A comment `-- @` before an expression
-- says where in the document it stands: by it a failure is named.

--@ state

--@ behaviour
-- `variable := expression;`, after a line that says where the expression stands.
create or replace function hotmesh._source_assign(
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
create or replace function hotmesh._source_about(fields jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select hotmesh._source_assign('o.about', jsonb_strip_nulls(fields), scope, path)
    where jsonb_strip_nulls(fields) <> '{}'
$$;

-- The fields of each type that are evaluated as it is entered.
create or replace function hotmesh._source_fields(graph jsonb, id text)
returns jsonb
language sql
stable
as $$
    select case hotmesh._plan_type(a.about)
        when 'trigger' then hotmesh._measure_fields(graph, a.about)
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
            'subtype', a.about -> 'subtype', 'status', a.about -> 'status',
            'data', a.about #> '{signal,maps}',
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
create or replace function hotmesh._source_input(graph jsonb, id text)
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

-- The metadata of an instance, if anything reads them.
create or replace function hotmesh._source_stamp(graph jsonb, id text, part text, scope jsonb)
returns text
language sql
stable
as $$
    select format(
        E'self := hotmesh._trail_stamp(self, %L, %L, d, codes[1]);\n', part,
        jsonb_strip_nulls(jsonb_build_object(
            'aid', id, 'atp', hotmesh._plan_type(a.about), 'stp', case
            when not hotmesh._field_is_dynamic(a.about -> 'topic') then a.about -> 'topic' end)))
    from (select graph -> 'activities' -> id as about) a
    where scope -> 'stamped' ? id
      and (part <> 'hook' or hotmesh._plan_hook(graph, id) is not null)
$$;

-- What is evaluated when an activity is entered.
create or replace function hotmesh._source_enter(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        hotmesh._source_assign(
            'o.skip', v_about -> 'statusThreshold', scope, v_path || '.statusThreshold',
            'hotmesh._plan_reached(%s, job)'),
        hotmesh._source_assign(
            'v', hotmesh._source_input(graph, id), scope, v_path || '.input.maps'),
        case when hotmesh._source_input(graph, id) is not null then
            'self := self || jsonb_build_object(''input'', '
            'jsonb_build_object(''data'', coalesce(v, ''{}'')));
' end,
        hotmesh._source_stamp(graph, id, 'input', scope),
        hotmesh._source_about(hotmesh._source_fields(graph, id), scope, v_path));
end
$$;

-- What is evaluated when an activity has its answer: outputs, the job's data, where to go on.
create or replace function hotmesh._source_leave(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        case when v_about #> '{output,maps}' is not null and v_about ->> 'type' <> 'trigger'
             then concat(
            E'if leg in (''leave'', ''pass'') then\n',
            hotmesh._source_assign(
                'self', v_about #> '{output,maps}', scope, v_path || '.output.maps',
                'self || jsonb_build_object(''output'', coalesce(self -> ''output'', ''{}'') '
                '|| jsonb_build_object(''data'', %s))'),
            E'end if;\n') end,
        hotmesh._source_stamp(graph, id, 'output', scope),
        hotmesh._source_stamp(graph, id, 'hook', scope),
        format(E's := hotmesh._plan_put(s, %L, d, self);\n', id),
        hotmesh._source_assign(
            'job', v_about #> '{job,maps}', scope, v_path || '.job.maps',
            case when hotmesh._source_is_flat(v_about #> '{job,maps}')
                 then 'job || jsonb_build_object(''data'', job -> ''data'' || %s)'
                 else 'hotmesh._plan_tell(job, %s)' end),
        case when v_about #> '{job,maps}' is not null then E'o.job := job;\n' end,
        case when v_about ? 'emit' then format(
            E'-- @ %s.emit\no.emit := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'emit', scope, v_path || '.emit')) end,
        case when v_about ? 'persist' then format(
            E'-- @ %s.persist\no.persist := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'persist', scope, v_path || '.persist')) end,
        (select string_agg(hotmesh._source_edge(
                    e.place::integer - 1, (scope -> 'numbers' ->> (e.about ->> 'to'))::integer,
                    e.about -> 'conditions', scope, _source_leave.id), '' order by e.place)
         from jsonb_array_elements(graph -> 'transitions' -> id)
              with ordinality as e (about, place)
         where scope -> 'numbers' ? (e.about ->> 'to')));
end
$$;

-- A condition on the code: one, several, or a pattern such as 4**. Without any, what has conditions
-- wants 200, and what has none goes on whatever came.
create or replace function hotmesh._source_code(conditions jsonb)
returns text
language sql
immutable
as $$
    select case
        when conditions is null or conditions = '{}' then 'true'
        when not conditions ? 'code' then '200 = any (codes)'
        when jsonb_typeof(conditions -> 'code') = 'array' then (
            select format('(%s)', string_agg(
                hotmesh._source_code(jsonb_build_object('code', c)), ' or '))
            from jsonb_array_elements(conditions -> 'code') c)
        when conditions ->> 'code' ~ '^\d+$'
            then format('%s = any (codes)', (conditions ->> 'code')::integer)
        else format(
            'exists (select from unnest(codes) c where c::text ~ %L)',
            '^' || replace(regexp_replace(
                conditions ->> 'code', '[^0-9*\[\]|().-]', '', 'g'), '*', '\d') || '$') end
$$;

create or replace function hotmesh._source_edge(
    place integer, target integer, conditions jsonb, scope jsonb, origin text)
returns text
language plpgsql
stable
as $$
declare
    v_path text := format('transitions.%s[%s].conditions', origin, place);
begin
    if coalesce(conditions, '{}') = '{}' then
        return format(E'o.go := o.go || %s;\n', target);
    end if;
    return format(
        E'-- @ %s\nif %s%s then o.go := o.go || %s; end if;\n', v_path,
        hotmesh._source_code(conditions),
        coalesce(' and ' || hotmesh._expression_condition(
            nullif(conditions - 'code', '{}'), scope, v_path), ''),
        target);
end
$$;

-- A signal for a hook: the value by which it finds its wait. Of a trigger: its stats.key.
create or replace function hotmesh._source_actual(graph jsonb, id text, scope jsonb)
returns text
language sql
stable
as $$
    select hotmesh._source_assign(
        'o.about', coalesce(h.rule -> 'actual', graph #> array['activities', id, 'stats', 'key']),
        scope, coalesce('hooks.' || (h.rule ->> 'topic'), 'activities.' || id || '.stats.key'))
    from (values (hotmesh._plan_hook(graph, id))) h (rule)
$$;

-- Names and values, no objects of maps in them.
create or replace function hotmesh._source_is_flat(maps jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select jsonb_typeof(maps) = 'object' and not exists (
        select from jsonb_each(maps) m
        where m.key ~ '[\[@]'
           or jsonb_typeof(m.value) = 'object' and not m.value ? '@pipe'
           or jsonb_typeof(m.value) = 'array')
$$;

create or replace function hotmesh._source_case(graph jsonb, id text, number integer, scope jsonb)
returns text
language plpgsql
stable
as $$
begin
    return concat(
        format(E'when %s then\n', number),
        case when number = 1 then format(E's := hotmesh._plan_put(s, %L, d, self);\n', id) end,
        E'if leg in (''enter'', ''pass'') then\n' || nullif(
            hotmesh._source_enter(graph, id, scope), '') || E'end if;\n',
        case when hotmesh._plan_hook(graph, id) is not null or number = 1 then concat(
            E'if leg = ''actual'' then\nnull;\n',
            hotmesh._source_actual(graph, id, scope), E'end if;\n') end,
        E'if leg not in (''enter'', ''actual'') then\n',
        hotmesh._source_leave(graph, id, scope), E'end if;\n');
end
$$;

-- The function that evaluates what one activity says. Its parameters are what expressions read.
create or replace function hotmesh._source_step(schema text, graph hotmesh.graphs)
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
            select string_agg(hotmesh._source_case(
                graph.document -> 'graph', n.key, n.value::integer,
                hotmesh._plan_own(s.scope, n.key)), ''
                order by n.value::integer)
            from (select hotmesh._plan_scope(graph.document) as scope offset 0) s
            cross join lateral jsonb_each_text(s.scope -> 'numbers') n), 'end case;
o.self := self;
o.store := s;
return o;
end
'))
$$;

-- Activities that wait for nothing, one after the other, as long as the next is such a one.
create or replace function hotmesh._source_pass(step text)
returns text
language sql
immutable
as $$
    select format('
v_steps := ''{}'';
loop
    e := w.todo[1];
    a := v_plan -> (e.activity - 1);
    exit when not coalesce(hotmesh._walk_passes(e, a), false) or w.ended or w.moves > 98;
    w.job := jsonb_set(w.job, ''{metadata,js}'', to_jsonb(w.status));
    o := %1$s(e.activity, ''pass'', ''{200}'', w.store, e.dimension,
        hotmesh._walk_self(a, e.answer), w.job);
    w.moves := w.moves + 2;
    w.store := o.store;
    w.job := coalesce(o.job, w.job);
    w.told := w.told or o.job is not null;
    w.status := w.status + coalesce(cardinality(o.go), 0) - 1;
    w.todo := hotmesh._walk_onward(w.todo[2:], o.go, e.dimension);
    v_steps := v_steps
        || hotmesh._walk_row(w.job_id, e.dimension, e.activity, a, o.self, ''done'', 0);
end loop;
w.steps := w.steps || v_steps;
', step)
$$;

-- The most frequent move in one piece: a worker answered with data alone, and from there it goes to
-- nowhere or to one worker. Whatever else there is goes the long way (85), from the same start.
create or replace function hotmesh._source_swift(step text)
returns text
language sql
immutable
as $$
    select format('
e := w.todo[1];
a := v_plan -> (e.activity - 1);
v_self := w.store -> (a ->> ''id'') -> e.dimension;
if hotmesh._walk_is_plain(e, a, v_self, cardinality(w.todo)) then
    w.activity := e.activity;
    w.dimension := e.dimension;
    v_self := v_self - ''$'' || jsonb_build_object(
        ''output'', jsonb_build_object(''data'', e.answer #> ''{output,data}''));
    o := %1$s(e.activity, ''leave'', ''{200}'', w.store, e.dimension, v_self, w.job);
    b := v_plan -> (o.go[1] - 1);
    v_swift := hotmesh._walk_is_next(o, b);
end if;
if v_swift then
    w.todo := ''{}'';
    w.job := coalesce(o.job, w.job);
    w.told := o.job is not null;
    w.steps := array[hotmesh._walk_row(w.job_id, w.dimension, w.activity, a, o.self, ''done'', 1)];
    w.status := w.status - (b is null)::integer;
    if b is not null then
        s := o.store;
        w.activity := o.go[1];
        w.dimension := e.dimension || '',0'';
        o := %1$s(w.activity, ''enter'', ''{200}'', s, w.dimension, ''{}'', w.job);
        w.commands := hotmesh._walk_asks(w.job_id, w.graph_id, w.dimension, w.activity, b, o);
        w.steps := w.steps || hotmesh._walk_row(
            w.job_id, w.dimension, w.activity, b, hotmesh._walk_asked(o),
            case when o.skip then ''cancelled'' else ''open'' end, 0);
        w.status := w.status - coalesce(o.skip, false)::integer;
    end if;
end if;
', step)
$$;

-- One walk: by the short ways, as far as they go; what fails there goes the long way from the same
-- start, which says where and why.
create or replace function hotmesh._source_one(step text)
returns text
language sql
immutable
as $$
    select concat('
foreach v_short in array array[true, false] loop
    w := walks[i];
    v_swift := false;
    begin
        if v_short then
            ', hotmesh._source_swift(step), '
        end if;
        while not v_swift loop
            if v_short then
                ', hotmesh._source_pass(step), '
            end if;
            w := hotmesh._walk_next(w);
            exit when w.leg is null;
            w := hotmesh._walk_moved(w, ', step, '(
                w.activity, w.leg, w.codes, w.store, w.dimension, w.self, w.job));
        end loop;
        exit;
    exception
        when data_exception or program_limit_exceeded or feature_not_supported
            or undefined_function or internal_error or sqlstate ''MSH22''
        then
            get stacked diagnostics v_state = returned_sqlstate,
                v_message = message_text, v_context = pg_exception_context;
    end;
    if not v_short then
        w := hotmesh._fail_blame(w, v_state, v_message, v_context);
    end if;
end loop;
')
$$;

-- The function that walks jobs: each by itself, so that a failure is one job's only.
create or replace function hotmesh._source_walk(schema text, graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select format(
        'create or replace function %I.%I(walks hotmesh.walk[])
        returns hotmesh.walk[]
        language plpgsql
        as %L', schema, hotmesh._graph_name(graph.id), concat('
declare
    w hotmesh.walk;
    e hotmesh.walk_entry;
    o hotmesh.plan_step;
    a jsonb; b jsonb; s jsonb; v_self jsonb;
    v_plan constant jsonb := walks[1].plan -> ''activities'';
    v_steps hotmesh.jobs_attributes[];
    v_short boolean; v_swift boolean;
    v_message text; v_state text; v_context text;
begin
    for i in 1 .. cardinality(walks) loop
        ', hotmesh._source_one(
            format('%I.%I', schema, hotmesh._graph_name(graph.id) || '_step')), '
        walks[i] := w;
    end loop;
    return walks;
end
'))
$$;

-- Where in the document a failure happened: the last `-- @` before the line of the function.
create or replace function hotmesh._source_place(schema text, id bigint, context text)
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
          context, '_graph_' || id || '_step\([^)]*\) line (\d+) '))[1]::integer
    order by l.place desc
    limit 1
$$;
