-- 21 fault: a document of graphs is brought to its normal form and read as a whole; whatever is
-- wrong with it is told at once, each with its place, the value, and what to do. Where texts are
-- silent: a rule of `hooks` needs a match; topics that are awaited or signalled are topics of the
-- document, or known from others; a graph that subscribes to '' answers every topic.

--@ state

--@ behaviour
-- An object without its null fields.
create or replace function hotmesh._fault_bare(value jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(value) = 'object' then (
        select coalesce(jsonb_object_agg(e.key, e.value), '{}')
        from jsonb_each(value) e
        where e.value <> 'null') else value end
$$;

-- A transition or a rule as {"to": …}.
create or replace function hotmesh._fault_normal_item(item jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(item) = 'string' then jsonb_build_object('to', item)
                when jsonb_typeof(item -> 'conditions') = 'object'
                then hotmesh._fault_bare(item) || jsonb_build_object(
                    'conditions', hotmesh._fault_bare(item -> 'conditions'))
                else hotmesh._fault_bare(item) end
$$;

-- Transitions and rules as lists.
create or replace function hotmesh._fault_normal_lists(lists jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(lists) <> 'object' then lists
                else (
        select coalesce(jsonb_object_agg(e.key, case
            when jsonb_typeof(e.value) = 'array' then (
                select coalesce(jsonb_agg(hotmesh._fault_normal_item(i.item) order by i.n), '[]')
                from jsonb_array_elements(e.value) with ordinality i (item, n))
            when jsonb_typeof(e.value) = 'string' or e.value -> 'to' is not null
            then jsonb_build_array(hotmesh._fault_normal_item(e.value))
            else e.value end), '{}')
        from jsonb_each(lists) e
        where e.value not in ('null', '[]')) end
$$;

create or replace function hotmesh._fault_normal_activity(about jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(about) <> 'object' then about
                else (
        select coalesce(jsonb_object_agg(e.key, case
            when e.key = 'type' and e.value = '"activity"' then '"hook"'
            when e.key in ('input', 'output', 'job', 'hook', 'signal', 'resolver', 'stats')
            then hotmesh._fault_bare(e.value)
            else e.value end), '{}')
        from jsonb_each(about) e
        where e.value <> 'null') end
$$;

create or replace function hotmesh._fault_normal_graph(graph jsonb, subscribes text)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(graph) <> 'object' then graph
                else hotmesh._fault_bare(graph - '{inputs,outputs}'::text[])
                    || jsonb_strip_nulls(jsonb_build_object('subscribes', coalesce(
                        nullif(graph -> 'subscribes', 'null'), to_jsonb(subscribes))))
                    || jsonb_build_object(
                        'transitions', coalesce(hotmesh._fault_normal_lists(
                            nullif(graph -> 'transitions', 'null')), '{}'),
                        'hooks', coalesce(hotmesh._fault_normal_lists(
                            nullif(graph -> 'hooks', 'null')), '{}'))
                    || case when jsonb_typeof(graph -> 'activities') is distinct from 'object'
                            then '{}' else jsonb_build_object('activities', (
                        select coalesce(jsonb_object_agg(
                            a.key, hotmesh._fault_normal_activity(a.value)), '{}')
                        from jsonb_each(graph -> 'activities') a)) end end
$$;

-- {"app": {"id", "version", "settings", "graphs": [...]}}. A bare graph has neither id nor version;
-- it may be given its topic.
create or replace function hotmesh._fault_normal(document jsonb, subscribes text)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_app jsonb := document -> 'app';
    v_own constant text[] := '{id, version, graphs, settings, title, description, metadata,
        telemetry}';
begin
    if jsonb_typeof(document) <> 'object' then
        return document;
    elsif v_app is null and document -> 'graphs' is null then
        return jsonb_build_object('app', jsonb_build_object(
            'id', document -> 'id', 'version', document -> 'version',
            'settings', coalesce(document -> 'settings', '{}'),
            'graphs', jsonb_build_array(hotmesh._fault_normal_graph(
                document - '{id, version, settings}'::text[], coalesce(subscribes, '')))));
    end if;
    v_app := coalesce(v_app, document);
    if jsonb_typeof(v_app) <> 'object' then
        return document;
    elsif v_app -> 'graphs' is null and v_app -> 'activities' is not null then
        v_app := v_app - array(
                select k.name from jsonb_object_keys(v_app) k (name) where k.name <> all (v_own))
            || jsonb_build_object('graphs', jsonb_build_array(v_app - v_own));
    elsif v_app #> '{graphs,activities}' is not null then
        v_app := v_app || jsonb_build_object('graphs', jsonb_build_array(v_app -> 'graphs'));
    end if;
    if jsonb_typeof(v_app -> 'graphs') = 'array' then
        v_app := v_app || jsonb_build_object('graphs', (
            select coalesce(jsonb_agg(hotmesh._fault_normal_graph(
                g.graph, case when jsonb_array_length(v_app -> 'graphs') = 1 then subscribes end)
                order by g.n), '[]')
            from jsonb_array_elements(v_app -> 'graphs') with ordinality g (graph, n)));
    end if;
    return case when document -> 'app' is null then '{}' else document end
        || jsonb_build_object('app', v_app);
end
$$;

create or replace function hotmesh._fault_graphs(document jsonb)
returns table (graph jsonb, n integer, path text)
language sql
immutable
as $$
    select g.graph, g.n::integer - 1, format('app.graphs[%s]', g.n - 1)
    from jsonb_array_elements(
        case when jsonb_typeof(document #> '{app,graphs}') = 'array'
             then document #> '{app,graphs}' else '[]' end) with ordinality g (graph, n)
$$;

-- What the values of a graph may mention.
create or replace function hotmesh._fault_scope(document jsonb, graph jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'app', (document -> 'app') - 'graphs', 'graph', graph,
        'activities', (
            select coalesce(jsonb_object_agg(a.id, 0), '{}')
            from hotmesh._flow_activities(graph) a),
        'types', (
            select coalesce(jsonb_object_agg(a.id, coalesce(a.type, '')), '{}')
            from hotmesh._flow_activities(graph) a),
        'awaited', (
            select coalesce(jsonb_agg(hotmesh._field_topic(
                coalesce(g.graph ->> 'subscribes', ''), document -> 'app')), '[]')
            from hotmesh._fault_graphs(document) g) || coalesce(document -> 'awaited', '[]'),
        'signalled', (
            select coalesce(jsonb_agg(hotmesh._field_topic(h.topic, document -> 'app')), '[]')
            from hotmesh._fault_graphs(document) g
            cross join lateral jsonb_object_keys(
                hotmesh._flow_part(g.graph, 'hooks')) h (topic))
            || coalesce(document -> 'signalled', '[]'))
$$;

create or replace function hotmesh._fault_types()
returns text[]
language sql
immutable
as $$
    select '{trigger, worker, await, hook, cycle, signal, interrupt, sql}'::text[]
$$;

create or replace function hotmesh._fault_activity(
    id text, about jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if id !~ '^[A-Za-z_][A-Za-z0-9_-]{0,99}$' then
        return query select path,
            'an id is letters, digits, _ and -, begins with a letter or _, and has at most 100';
    end if;
    if jsonb_typeof(about) = 'object'
        and coalesce(about ->> 'type' <> all (hotmesh._fault_types()), true)
    then
        return query select path || '.type',
            case when about ->> 'type' is null then 'it is missing; it is one of '
                else format('there is no type %s; near to it: %s; there are ',
                    hotmesh._field_shown(about -> 'type'), hotmesh._flow_nearest(
                        about ->> 'type', hotmesh._fault_types())) end
            || array_to_string(hotmesh._fault_types(), ', ');
        return;
    end if;
    return query
        select f.at, f.reason
        from hotmesh._field_object(array['activity', about ->> 'type'], about, scope, path) f
        union all
        select path || '.topic', 'it is missing: the topic of a graph, or a workflow beside it'
        where about ->> 'type' = 'await'
          and coalesce(about ->> 'topic', about ->> 'workflow') is null;
end
$$;

-- How long its jobs stay is computed as they start.
create or replace function hotmesh._fault_expire(expire jsonb, scope jsonb, path text)
returns table (at text, reason text)
language sql
stable
as $$
    select path, format('it mentions the activity %s, but is computed as a job starts: from what '
        'the trigger was given', left(r.names[1], 60))
    from jsonb_path_query(expire, 'lax $.** ? (@ starts with "{")') w (word)
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    where scope #>> array['types', r.names[1]] <> 'trigger'
    limit 1
$$;

create or replace function hotmesh._fault_graph(graph jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    return query
        select f.at, f.reason
        from hotmesh._field_object('{graph}', graph, scope, path) f
        union all
        select f.at, f.reason
        from hotmesh._fault_expire(graph -> 'expire', scope, path || '.expire') f
        union all
        select path || '.activities', format('it is %s, but has to be an object of activities',
            hotmesh._field_shown(graph -> 'activities'))
        where graph -> 'activities' = '{}' or jsonb_typeof(graph -> 'activities') <> 'object'
        union all
        select f.at, f.reason
        from hotmesh._flow_activities(graph) a
        cross join lateral hotmesh._fault_activity(
            a.id, a.about, scope, format('%s.activities.%s', path, left(a.id, 60))) f
        union all
        select f.at, f.reason
        from hotmesh._flow_faults(graph, path) f
        where hotmesh._flow_part(graph, 'activities') <> '{}';
end
$$;

-- What there is twice.
create or replace function hotmesh._fault_doubles(document jsonb)
returns table (at text, reason text)
language sql
immutable
as $$
    select format('app.graphs[%s].subscribes', d.n), format(
        'app.graphs[%s] subscribes to %s too; give each graph a topic of its own',
        d.first, to_json(d.topic))
    from (
        select g.n, g.graph ->> 'subscribes' as topic,
               min(g.n) over (partition by g.graph ->> 'subscribes') as first
        from hotmesh._fault_graphs(document) g) d
    where d.n > d.first and d.topic is not null
    union all
    select format('app.graphs[%s].activities.%s', d.n, d.id), format(
        'app.graphs[%s] has an activity %s too; give each an id of its own', d.first, d.id)
    from (
        select g.n, a.id, min(g.n) over (partition by a.id) as first
        from hotmesh._fault_graphs(document) g
        cross join lateral hotmesh._flow_activities(g.graph) a) d
    where d.n > d.first
$$;

-- What can't be read further.
create or replace function hotmesh._fault_form(document jsonb)
returns table (at text, reason text)
language plpgsql
immutable
as $$
begin
    if jsonb_typeof(document) is distinct from 'object' then
        return query select '', 'a document is an object: {"app": {…}} or a bare graph';
    elsif length(document::text) > 4000000 then
        return query select '', 'it takes more than 4000000 characters';
    elsif jsonb_path_exists(document, 'strict $.**{64}') then
        return query select '', 'it is nested more than 64 deep';
    elsif jsonb_typeof(document -> 'app') is distinct from 'object' then
        return query select 'app', 'it has to be an object with id, version and graphs';
    elsif coalesce(jsonb_typeof(document #> '{app,graphs}') <> 'array'
        or document #> '{app,graphs}' = '[]', true)
    then
        return query select 'app.graphs', 'it has to be a list of graphs';
    end if;
    return query
        select g.path || '.activities', 'there are more than 500'
        from hotmesh._fault_graphs(document) g
        where (select count(*) from hotmesh._flow_activities(g.graph)) > 500
        union all
        select g.path || '.transitions', 'there are more than 5000'
        from hotmesh._fault_graphs(document) g
        where (select count(*) from hotmesh._flow_edges(g.graph)) > 5000;
end
$$;

-- Everything that is wrong with the normal form of a document. `known` are topics of others: see
-- _graph_known.
create or replace function hotmesh._fault_list(document jsonb, known jsonb default '{}')
returns table (path text, reason text)
language plpgsql
stable
as $$
begin
    return query select f.at, f.reason from hotmesh._fault_form(document) f;
    if found then
        return;
    end if;
    return query
        select distinct ltrim(f.at, '.'), f.reason
        from (
            select o.at, o.reason
            from hotmesh._field_object('{document}', document, '{}', '') o
            union all
            select a.at, a.reason
            from hotmesh._field_object('{app}', document -> 'app', '{}', 'app') a
            where a.at not in ('app.id', 'app.version')
               or not document -> 'app' @> '{"id": null, "version": null}'
            union all
            select g.at, g.reason
            from hotmesh._fault_graphs(document) d
            cross join lateral hotmesh._fault_graph(
                d.graph, hotmesh._fault_scope(known || document, d.graph), d.path) g
            union all
            select d.at, d.reason from hotmesh._fault_doubles(document) d) f
        order by 1, 2;
end
$$;
