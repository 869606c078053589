-- 20 graph: a workflow that is written as a document. One row is one deployed version of one topic;
-- it is compiled into functions of the app's schema (23), which are a cache of `document`: whatever
-- is missing is compiled again. New jobs take what is active, jobs keep what they began with.
-- Errors: MSH20 faults, MSH21 versions, MSH22 no graph for a topic.

--@ state
create table hotmesh.graphs (
    id bigint not null default nextval('hotmesh.ids'),
    topic text not null,
    version text not null,
    lone boolean not null,
    state text not null default 'deployed',
    publishes text,
    document jsonb not null,
    plan jsonb not null,
    digest text not null,
    deployed_by name not null,
    created_at timestamptz not null,
    activated_at timestamptz,
    constraint graphs_pkey primary key (id),
    constraint graph_state_is_known check (state in ('deployed', 'active', 'retired'))
);
comment on table hotmesh.graphs is 'One row per deployed version of a topic: a YAML workflow.';
comment on column hotmesh.graphs.id is 'Its number, in the names of its compiled functions too.';
comment on column hotmesh.graphs.topic is
'What it subscribes to; empty: every topic that no other graph answers.';
comment on column hotmesh.graphs.version is 'The version of its document.';
comment on column hotmesh.graphs.lone is
'Whether its document was a bare graph, which other versions of the app leave alone.';
comment on column hotmesh.graphs.state is
'deployed, active (new jobs take it) or retired (replaced; its jobs go on).';
comment on column hotmesh.graphs.publishes is 'The topic that hears of its outcomes.';
comment on column hotmesh.graphs.document is
'{"app": …, "graph": …}: the graph and what its app says, in the normal form.';
comment on column hotmesh.graphs.plan is 'What the engine knows of its activities without asking.';
comment on column hotmesh.graphs.digest is 'The hash of its document.';
comment on column hotmesh.graphs.deployed_by is
'The role that deployed it: it may use functions of SQL whose owner it is a member of.';
comment on column hotmesh.graphs.created_at is 'When it was deployed.';
comment on column hotmesh.graphs.activated_at is 'When new jobs last began to take it.';
create unique index graphs_active on hotmesh.graphs (topic) where state = 'active';
comment on index hotmesh.graphs_active is 'One graph answers a topic.';

--@ behaviour
-- The topics that graphs answer, or that their hooks wait for.
create or replace function hotmesh._graph_topics(kind text)
returns table (topic text, state text)
language plpgsql
stable
as $$
begin
    return query
    select t.topic, g.state
    from graphs g
    cross join lateral (
        select g.topic where kind = 'graph'
        union all
        select k from jsonb_object_keys(g.document #> '{graph,hooks}') k where kind = 'hook'
    ) t (topic);
end
$$;

create or replace function hotmesh._graph_refuse_unknown(topic text, kind text)
returns void
language plpgsql
as $$
declare
    v_known text := (
        select string_agg(distinct coalesce(nullif(t.topic, ''), '(every topic)'), ', ')
        from hotmesh._graph_topics(kind) t where t.state = 'active');
    v_state text := (
        select min(t.state) from hotmesh._graph_topics(kind) t
        where t.topic = _graph_refuse_unknown.topic);
begin
    raise exception 'no % answers topic %', kind, hotmesh._named(topic) using
        errcode = 'MSH22',
        detail = case
            when v_known is not null then format('Active topics: %s.', left(v_known, 500))
            when kind = 'hook' then 'No hook of an active graph waits for a topic.'
            else 'No graph is active.' end,
        hint = case
            when v_state = 'deployed' then 'It was deployed; activate its version.'
            when v_state = 'retired' then 'The version that had it was replaced by one without it.'
            when kind = 'hook' then 'Deploy a graph whose hooks have it, and activate its version.'
            else 'Deploy a graph that subscribes to it, and activate its version.' end;
end
$$;

-- The graph that answers a topic, or, when nobody does, the one without a topic.
create or replace function hotmesh._graph_find(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs;
begin
    select (g::hotmesh.graphs).* into v_graph
    from graphs g
    where g.state = 'active' and g.topic = any (array[_graph_find.topic, ''])
    order by g.topic desc
    limit 1;
    return v_graph;
end
$$;

-- Whether a graph of its own answers a topic; refused if one did or would, and is not active.
create or replace function hotmesh._graph_answers(topic text)
returns boolean
language plpgsql
stable
as $$
declare
    v_active boolean := (
        select bool_or(g.state = 'active') from graphs g where g.topic = _graph_answers.topic);
begin
    if not v_active then
        perform hotmesh._graph_refuse_unknown(topic, 'graph');
    end if;
    return coalesce(v_active, false);
end
$$;

create or replace function hotmesh._graph_get(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_find(topic);
begin
    if v_graph.id is null then
        perform hotmesh._graph_refuse_unknown(topic, 'graph');
    end if;
    return v_graph;
end
$$;

-- What graphs of other documents may be awaited, which of their hooks may be signalled.
create or replace function hotmesh._graph_known()
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'awaited', coalesce(jsonb_agg(distinct g.topic), '[]'),
            'signalled', coalesce(jsonb_agg(distinct h.topic) filter (where h.topic is not null),
                                  '[]'))
        from graphs g
        left join lateral jsonb_object_keys(g.document #> '{graph,hooks}') h (topic) on true
        where g.state <> 'retired');
end
$$;

create or replace function hotmesh._graph_name(id bigint)
returns text
language sql
stable
as $$
    select '_graph_' || id
$$;

-- Lays down what was deployed. A topic of this version that says the same is left as it is; one
-- that says something else takes its place, at once if it was active.
create or replace function hotmesh._graph_lay(graphs hotmesh.graphs[])
returns bigint[]
language plpgsql
as $$
declare
    v_active text[];
    v_laid bigint[];
begin
    with retired as (
        update graphs g set state = 'retired'
        from unnest(_graph_lay.graphs) n
        where g.topic = n.topic and g.version = n.version and g.state <> 'retired'
          and g.digest <> n.digest
        returning g.topic, (select o.state from graphs o where o.id = g.id) as before)
    select coalesce(array_agg(r.topic) filter (where r.before = 'active'), '{}') into v_active
    from retired r;
    with laid as (
        insert into graphs as g (
            id, topic, version, lone, state, publishes, document, plan, digest,
            deployed_by, created_at, activated_at)
        select n.id, n.topic, n.version, n.lone,
               case when n.topic = any (v_active) then 'active' else 'deployed' end, n.publishes,
               n.document, n.plan, n.digest, n.deployed_by, hotmesh.now(),
               case when n.topic = any (v_active) then hotmesh.now() end
        from unnest(_graph_lay.graphs) n
        where not exists (
            select from graphs o
            where o.topic = n.topic and o.version = n.version and o.state <> 'retired'
              and o.digest = n.digest)
        returning g.id)
    select coalesce(array_agg(l.id), '{}') into v_laid from laid l;
    return v_laid;
end
$$;

-- What a later engine knows of it.
create or replace function hotmesh._graph_replan(id bigint, plan jsonb)
returns void
language plpgsql
as $$
begin
    update graphs g set plan = _graph_replan.plan
    where g.id = _graph_replan.id and g.plan <> _graph_replan.plan;
end
$$;

-- New jobs take this version. What the app's other versions answered is answered no more; bare
-- graphs only make way for the same topic.
create or replace function hotmesh._graph_activate(version text)
returns void
language plpgsql
as $$
declare
    v_lone boolean := (
        select bool_and(g.lone) from graphs g
        where g.version = _graph_activate.version and g.state <> 'retired');
begin
    update graphs g set state = 'retired'
    where g.state = 'active' and g.version <> _graph_activate.version
      and (not g.lone and not v_lone
           or g.topic in (
               select n.topic from graphs n
               where n.version = _graph_activate.version and n.state = 'deployed'));
    update graphs g set state = 'active', activated_at = hotmesh.now()
    where g.version = _graph_activate.version and g.state = 'deployed';
end
$$;

-- Graphs that nobody can reach any more: replaced, and no open job runs by them.
create or replace function hotmesh._graph_forget()
returns bigint[]
language plpgsql
as $$
declare
    v_gone bigint[];
begin
    with gone as (
        delete from graphs g
        where g.state = 'retired' and not exists (
            select from jobs j where j.graph_id = g.id and j.closed_at is null)
        returning g.id)
    select coalesce(array_agg(g.id), '{}') into v_gone from gone g;
    return v_gone;
end
$$;
