-- 24 deploy: a document comes in: it is checked as a whole (21), compiled (23), and kept (20).
-- New jobs take it once its version is activated. Only a bare graph, which is version 1, takes the
-- place of an active one at once. Open jobs keep theirs. Errors: MSH20, MSH21.

--@ state

--@ behaviour
create or replace function hotmesh._deploy_refuse_faults(faults jsonb)
returns void
language plpgsql
as $$
declare
    v_count integer := jsonb_array_length(faults);
begin
    raise exception 'the document has % fault%: %', v_count,
        case when v_count > 1 then 's' else '' end,
        concat_ws(': ', nullif(faults #>> '{0,path}', ''), faults #>> '{0,reason}') using
        errcode = 'MSH20',
        detail = faults::text,
        hint = 'DETAIL lists every fault with its path; nothing was deployed.';
end
$$;

create or replace function hotmesh._deploy_refuse_version(version text, message text, known text)
returns void
language plpgsql
as $$
begin
    raise exception 'version % %', hotmesh._named(left(version, 60)), message using
        errcode = 'MSH21',
        detail = coalesce('Versions: ' || known || '.', 'No version was deployed.'),
        hint = case
            when message = 'was not deployed' then 'Deploy its document, then activate it.'
            else 'Versions only go forward: deploy the document under a higher number.' end;
end
$$;

create or replace function hotmesh._deploy_versions()
returns text
language plpgsql
stable
as $$
begin
    return (select string_agg(distinct format('%s (%s)', g.version, g.state), ', ') from graphs g);
end
$$;

create or replace function hotmesh._deploy_functions(document jsonb)
returns jsonb
language sql
stable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
        'path', format('app.graphs[%s].activities.%s.function', g.place - 1, a.key),
        'reason', f.fault) order by g.place, a.key), '[]')
    from jsonb_array_elements(document #> '{app,graphs}') with ordinality g (graph, place)
    cross join lateral jsonb_each(g.graph -> 'activities') a
    cross join lateral hotmesh._plan_function_fault(
        a.value ->> 'function', hotmesh._plan_deployer()) f (fault)
    where a.value ->> 'type' = 'sql' and a.value ? 'function' and f.fault is not null
$$;

create or replace function hotmesh._deploy_check(app text, document jsonb)
returns void
language plpgsql
as $$
declare
    v_faults jsonb := (
        select jsonb_agg(jsonb_build_object('path', f.path, 'reason', f.reason))
        from hotmesh._fault_list(document, hotmesh._graph_known()) f);
    v_id text := document #>> '{app,id}';
    v_version text := document #>> '{app,version}';
begin
    if v_faults is not null then
        perform hotmesh._deploy_refuse_faults(v_faults);
    elsif v_id is not null and hotmesh._app_schema(v_id) <> hotmesh._app_here() then
        v_faults := jsonb_build_array(jsonb_build_object(
            'path', 'app.id', 'reason', format(
                'it is "%s", and the document is deployed to app "%s"', left(v_id, 60), app)));
    end if;
    v_faults := coalesce(v_faults, '[]') || hotmesh._deploy_functions(document);
    if v_faults <> '[]' then
        perform hotmesh._deploy_refuse_faults(v_faults);
    elsif exists (
        select from graphs g
        where not g.lone and v_version is not null and g.version::numeric > v_version::numeric)
    then
        perform hotmesh._deploy_refuse_version(
            v_version, 'goes backwards', hotmesh._deploy_versions());
    end if;
end
$$;

create or replace function hotmesh._deploy_graph(name text, app jsonb, graph jsonb)
returns hotmesh.graphs
language plpgsql
as $$
declare
    v_document jsonb := jsonb_build_object('app', app, 'graph', graph);
begin
    return (
        nextval('hotmesh.ids'), hotmesh._field_topic(coalesce(graph ->> 'subscribes', ''), app),
        coalesce(app ->> 'version', '1'), app ->> 'version' is null, 'deployed',
        graph ->> 'publishes', v_document, hotmesh._plan_build(name, graph),
        md5(v_document::text), hotmesh._plan_deployer(), hotmesh.now(), null)::hotmesh.graphs;
end
$$;

-- What is active stays what it is: only a bare graph, which has no version to raise, is replaced.
create or replace function hotmesh._deploy_check_active(graphs hotmesh.graphs[])
returns void
language plpgsql
as $$
declare
    v_version text := (
        select n.version from unnest(graphs) n
        where not n.lone and exists (
            select from graphs g
            where g.version = n.version and g.state = 'active' and not g.lone)
          and not exists (
            select from graphs g
            where g.version = n.version and g.topic = n.topic and g.digest = n.digest
              and g.state = 'active')
        limit 1);
begin
    if v_version is not null then
        perform hotmesh._deploy_refuse_version(
            v_version, 'is active and says something else', hotmesh._deploy_versions());
    end if;
end
$$;

create or replace function hotmesh._deploy_manifest(app text, version text, laid bigint[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'id', app, 'version', _deploy_manifest.version, 'changed', laid <> '{}',
            'active', bool_and(g.state = 'active'),
            'graphs', jsonb_agg(jsonb_build_object(
                'subscribes', g.topic, 'publishes', g.publishes,
                'activities', jsonb_array_length(g.plan -> 'activities')) order by g.topic))
        from graphs g
        where g.version = _deploy_manifest.version and g.state <> 'retired');
end
$$;

create or replace function hotmesh.graph_deploy(
    app text, document jsonb, subscribes text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document jsonb;
    v_graphs hotmesh.graphs[];
    v_laid bigint[];
begin
    perform hotmesh._enter(app);
    v_document := hotmesh._fault_normal(document, subscribes);
    perform hotmesh._app_lock(hotmesh._app_here());
    perform hotmesh._deploy_check(app, v_document);
    v_graphs := array(
        select hotmesh._deploy_graph(app, (v_document -> 'app') - 'graphs', g)
        from jsonb_array_elements(v_document #> '{app,graphs}') g);
    perform hotmesh._deploy_check_active(v_graphs);
    v_laid := hotmesh._graph_lay(v_graphs);
    perform hotmesh._plan_compile(g::hotmesh.graphs) from graphs g where g.id = any (v_laid);
    perform hotmesh._plan_drop(hotmesh._graph_forget());
    return hotmesh._deploy_manifest(
        app, coalesce(v_document #>> '{app,version}', '1'), v_laid);
end
$$;
comment on function hotmesh.graph_deploy(text, jsonb, text) is
'Check, compile and keep a document of graphs; new jobs take it once its version is activated. The
document is {"app": {"id", "version", "graphs": […]}} or a bare graph, whose topic may be given. A
bare graph is version 1, and takes the place of an active one at once. Answers what it holds.
Raises MSH20 with every fault, MSH21 for a version that goes backwards, or is active and says
something else.';

-- An upgrade of the app compiles what was deployed, and whatever jobs go by.
create or replace function hotmesh._deploy_renew(schema text)
returns void
language plpgsql
as $$
begin
    perform set_config('search_path', 'pg_catalog, ' || schema || ', hotmesh, pg_temp', true);
    perform hotmesh._plan_renew(g::hotmesh.graphs)
    from graphs g
    where g.state <> 'retired' or exists (
        select from jobs j where j.graph_id = g.id and j.closed_at is null);
end
$$;

create or replace function hotmesh.graph_activate(app text, version text)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._app_lock(hotmesh._app_here());
    if not exists (
        select from graphs g
        where g.version = graph_activate.version and g.state in ('deployed', 'active'))
    then
        perform hotmesh._deploy_refuse_version(
            version, case when exists (
                select from graphs g where g.version = graph_activate.version)
                then 'was replaced by a later one' else 'was not deployed' end,
            hotmesh._deploy_versions());
    end if;
    perform hotmesh._graph_activate(version);
    return true;
end
$$;
comment on function hotmesh.graph_activate(text, text) is
'New jobs take this version from now on; open jobs keep theirs. Raises MSH21.';

create or replace function hotmesh.graph_list(app text)
returns table (
    version text, topic text, publishes text, state text, open_jobs bigint,
    created_at timestamptz, activated_at timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select g.version, g.topic, g.publishes, g.state, (
               select count(*) from jobs j where j.graph_id = g.id and j.closed_at is null),
           g.created_at, g.activated_at
    from graphs g
    order by g.topic, g.id desc;
end
$$;
comment on function hotmesh.graph_list(text) is
'What was deployed: deployed, active or retired, and how many open jobs run by it.';
