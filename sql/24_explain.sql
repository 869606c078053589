-- 24 explain: a compiled graph for people: its activities by number, what each does and maps, and
-- where it leads to on which conditions; as text, or as a drawing for Mermaid. A pipe is written as
-- the calls that it is: gte({a.output.data.x}, 5). Errors: MSH22, 22023.

--@ state

--@ behaviour
-- On one line, whatever is in it.
create or replace function hotmesh._explain_line(words text)
returns text
language sql
immutable
as $$
    select regexp_replace(
        words, '[[:cntrl:]' || chr(133) || chr(8232) || chr(8233) || ']+', ' ', 'g')
$$;

create or replace function hotmesh._explain_value(value jsonb)
returns text
language plpgsql
immutable
as $$
declare
    v_row jsonb;
    v_told text;
    v_cells text;
begin
    if jsonb_typeof(value) <> 'object' or value -> '@pipe' is null then
        return case jsonb_typeof(value)
            when 'string' then value #>> '{}'
            when 'object' then (
                select format('{%s}', string_agg(
                    format('%s: %s', e.key, hotmesh._explain_value(e.value)), ', '
                    order by e.key))
                from jsonb_each(value) e)
            else value::text end;
    end if;
    for v_row in select * from jsonb_array_elements(value -> '@pipe') loop
        if jsonb_typeof(v_row) = 'object' then
            v_told := concat_ws(', ', v_told, case when v_row ? '@pipe'
                then hotmesh._explain_value(v_row) else 'reduce(…)' end);
            continue;
        end if;
        select string_agg(hotmesh._explain_value(c.cell), ', ' order by c.n) into v_cells
        from jsonb_array_elements(v_row) with ordinality c (cell, n)
        where v_told is null or c.n > 1;
        v_told := case when v_told is null then v_cells else concat_ws(', ', format(
            '%s(%s)', btrim(v_row ->> 0, '{@}'), v_told), v_cells) end;
    end loop;
    return v_told;
end
$$;

-- When a way is gone: "code 200 and gte({a.output.data.x}, 5) is true"; null: always.
create or replace function hotmesh._explain_conditions(conditions jsonb)
returns text
language sql
immutable
as $$
    select nullif(hotmesh._explain_line(concat_ws(' and ',
        'code ' || case when jsonb_typeof(conditions -> 'code') = 'array' then (
                       select string_agg(c, ' or ')
                       from jsonb_array_elements_text(conditions -> 'code') c)
                   else conditions ->> 'code' end,
        (select string_agg(
             format('%s is %s', hotmesh._explain_value(m -> 'actual'),
                    hotmesh._explain_value(m -> 'expected')),
             format(' %s ', coalesce(conditions ->> 'gate', 'and')) order by n)
         from jsonb_array_elements(conditions -> 'match') with ordinality e (m, n)))), '')
$$;

-- What an activity does: "worker inventory.check".
create or replace function hotmesh._explain_about(graph jsonb, plan jsonb)
returns text
language sql
immutable
as $$
    select hotmesh._explain_line(concat_ws(', ',
        concat_ws(' ', plan ->> 'type', nullif(a.about ->> 'subtype', 'one'),
            hotmesh._explain_value(coalesce(
                a.about -> 'topic', a.about -> 'function', a.about -> 'ancestor',
                a.about -> 'workflow', a.about -> 'target'))),
        case when a.about -> 'await' = 'false' then 'goes on at once' end,
        'waits for ' || (
            select string_agg(h.key, ', ' order by h.key)
            from jsonb_each(coalesce(graph -> 'hooks', '{}')) h
            cross join lateral jsonb_array_elements(h.value) r (rule)
            where r.rule ->> 'to' = plan ->> 'id'),
        'sleeps ' || hotmesh._explain_value(a.about -> 'sleep'),
        'retries ' || (a.about ->> 'retry'),
        'skipped at status ' || hotmesh._explain_value(a.about -> 'statusThreshold'),
        'emits if ' || nullif(hotmesh._explain_value(a.about -> 'emit'), 'false'),
        'completes if ' || nullif(hotmesh._explain_value(a.about -> 'persist'), 'false')))
    from (select graph -> 'activities' -> (plan ->> 'id') as about) a
$$;

-- The plan's activities: number, id, and what is said of each.
create or replace function hotmesh._explain_activities(graph hotmesh.graphs)
returns table (number bigint, id text, about text, activity jsonb)
language sql
stable
as $$
    select a.number, a.plan ->> 'id',
           hotmesh._explain_about(graph.document -> 'graph', a.plan),
           graph.document -> 'graph' -> 'activities' -> (a.plan ->> 'id')
    from jsonb_array_elements(graph.plan -> 'activities') with ordinality a (plan, number)
$$;

create or replace function hotmesh._explain_maps(activity jsonb, part text)
returns setof text
language sql
stable
as $$
    select E'\n    ' || hotmesh._explain_line(format(
        '%s %s = %s', part, m.key, hotmesh._explain_value(m.value)))
    from jsonb_each(case when part = 'stats'
                         then coalesce(activity -> 'stats', '{}') - 'measures'
                         when jsonb_typeof(activity -> part -> 'maps') = 'object'
                         then activity -> part -> 'maps' else '{}' end) m
    union all
    select E'\n    ' || hotmesh._explain_line(format(
        'measures %s of %s', m.about ->> 'measure', hotmesh._explain_value(m.about -> 'target')))
    from jsonb_array_elements(activity #> '{stats,measures}') m (about)
    where part = 'stats'
$$;

create or replace function hotmesh._explain_text(graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select concat(
        case graph.topic when '' then 'any other topic'
                         else hotmesh._explain_line(graph.topic) end,
        format(', version %s, %s', graph.version, graph.state),
        ', publishes to ' || hotmesh._explain_line(graph.publishes),
        ', expires after ' || hotmesh._explain_line(
            hotmesh._explain_value(graph.document #> '{graph,expire}')),
        string_agg(concat(
            E'\n', a.number, ' ', a.id, ': ', a.about,
            (select string_agg(m, '') from unnest('{stats,input,output,job}'::text[]) p
             cross join lateral hotmesh._explain_maps(a.activity, p) m),
            (select string_agg(concat(
                 E'\n    -> ', e.target, ' if ' || hotmesh._explain_conditions(e.conditions)),
                 '' order by e.place)
             from hotmesh._plan_edges(graph.document -> 'graph') e
             where e.origin = a.id)), '' order by a.number))
    from hotmesh._explain_activities(graph) a
$$;

-- Text between the double quotes of a label.
create or replace function hotmesh._explain_label(word text)
returns text
language sql
immutable
as $$
    select replace(replace(replace(replace(replace(regexp_replace(
        replace(hotmesh._explain_line(left(word, 200)), '#', '#35;'), '\s+', ' ', 'g'),
        '"', '#quot;'), '<', '#lt;'), '>', '#gt;'), '`', '#96;'), '&', '#amp;')
$$;

create or replace function hotmesh._explain_mermaid(graph hotmesh.graphs)
returns text
language sql
stable
as $$
    with nodes as (
        select a.number, a.id, format(
                   '    a%s%s"%s<br/>%s"%s', a.number,
                   case a.activity ->> 'type' when 'trigger' then '([' when 'await' then '[['
                                              when 'hook' then '{{' else '[' end,
                   hotmesh._explain_label(a.id), hotmesh._explain_label(a.about),
                   case a.activity ->> 'type' when 'trigger' then '])' when 'await' then ']]'
                                              when 'hook' then '}}' else ']' end) as line,
               a.activity ->> 'ancestor' as ancestor
        from hotmesh._explain_activities(graph) a),
    edges as (
        select o.number, e.place, format(
                   '    a%s -->%s a%s', o.number,
                   '|"' || hotmesh._explain_label(
                       hotmesh._explain_conditions(e.conditions)) || '"|', t.number) as line
        from hotmesh._plan_edges(graph.document -> 'graph') e
        join nodes o on o.id = e.origin
        join nodes t on t.id = e.target
        union all
        select n.number, 1000, format('    a%s -.-> a%s', n.number, t.number)
        from nodes n join nodes t on t.id = n.ancestor)
    select concat_ws(E'\n', 'flowchart TD',
        (select string_agg(n.line, E'\n' order by n.number) from nodes n),
        (select string_agg(e.line, E'\n' order by e.number, e.place) from edges e))
$$;

-- The one that answers a topic, or the newest that was deployed for it.
create or replace function hotmesh._explain_find(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_find(topic);
begin
    if v_graph.topic is distinct from topic then
        select (g::hotmesh.graphs).* into v_graph
        from graphs g
        where g.topic = any (array[_explain_find.topic, '']) and g.state <> 'retired'
        order by g.topic desc, g.id desc
        limit 1;
    end if;
    return case when v_graph.id is null then hotmesh._graph_get(topic) else v_graph end;
end
$$;

create or replace function hotmesh.graph_explain(app text, topic text, format text default 'text')
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_graph hotmesh.graphs;
begin
    perform hotmesh._enter(app);
    if format not in ('text', 'mermaid') or format is null then
        perform hotmesh._refuse_argument(
            pg_catalog.format('unknown format: %s', coalesce(left(format, 60), 'null')),
            'A plan is shown as text or drawn for Mermaid.', 'Leave it out for text.');
    end if;
    v_graph := hotmesh._explain_find(topic);
    return case format when 'mermaid' then hotmesh._explain_mermaid(v_graph)
                       else hotmesh._explain_text(v_graph) end;
end
$$;
comment on function hotmesh.graph_explain(text, text, text) is
'The compiled graph that answers a topic, or was deployed for it: its activities, what each does and
maps, and where it leads to on which conditions. format: text or mermaid. Raises MSH22.';
