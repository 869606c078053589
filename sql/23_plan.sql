-- 23 plan: what the walker (85) has to know of a graph beforehand: its activities by number, how
-- deep each lies, what it waits for, which of them are read. And what compiled graphs (23_source)
-- call while they run; they are made and dropped here.

--@ state
create type hotmesh.plan_step as (
    self jsonb, about jsonb, job jsonb, go integer[], skip boolean, emit boolean, persist boolean,
    store jsonb);
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

-- Activities that cycles return to.
create or replace function hotmesh._plan_pivots(graph jsonb)
returns setof text
language sql
immutable
as $$
    select distinct a.value ->> 'ancestor'
    from jsonb_each(graph -> 'activities') a
    where a.value ->> 'type' = 'cycle'
$$;

-- The activities by name, with number and depth: the trigger is 1 and lies at 0. `merging` are
-- those that more than one way leads to, what comes after them by ways of different lengths, and
-- those that cycles return to and that may answer more than once.
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
               or w.id in (select p from hotmesh._plan_pivots(graph) p)
                  and (graph #>> array['activities', w.id, 'type'] not in ('hook', 'activity')
                       or hotmesh._plan_hook(graph, w.id) is not null)
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

-- A worker whose answer nothing is made of, and that nothing comes after: an answer reads nothing.
create or replace function hotmesh._plan_ends(graph jsonb, id text)
returns boolean
language sql
immutable
as $$
    select a.about ->> 'type' = 'worker' and not a.about ?| '{output,job,emit,persist}'
        and not coalesce(graph -> 'transitions', '{}') ? id
    from (select graph -> 'activities' -> id as about) a
$$;

-- It waits for nothing and nobody is told: it is entered and left in one piece.
create or replace function hotmesh._plan_passes(graph jsonb, id text)
returns boolean
language sql
immutable
as $$
    select hotmesh._plan_type(a.about) in ('trigger', 'hook')
        and hotmesh._plan_hook(graph, id) is null
        and not a.about ?| '{sleep,statusThreshold,emit,persist}'
    from (select graph -> 'activities' -> id as about) a
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
        'ancestor', numbers -> (a.about ->> 'ancestor'),
        'topic', hotmesh._plan_hook(graph, id) ->> 'topic',
        'computed', case when hotmesh._field_is_dynamic(a.about -> 'topic') then true end,
        'twin', case when hotmesh._plan_is_twin(a.about) then true end,
        'sleeps', case when a.about ? 'sleep' then true end,
        'ends', case when hotmesh._plan_ends(graph, id) then true end,
        'passes', case when not merging and hotmesh._plan_passes(graph, id) then true end,
        'function', a.about ->> 'function',
        'retry', case when not a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'policy', case when a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'code', a.about -> 'code', 'status', a.about -> 'status',
        'subtype', a.about ->> 'subtype'))
    from (select graph -> 'activities' -> id as about) a
$$;

-- A trigger whose input is its output: it is kept once.
create or replace function hotmesh._plan_is_twin(about jsonb)
returns boolean
language sql
immutable
as $$
    select about ->> 'type' = 'trigger' and about #> '{input,maps}' is null
$$;

-- Whether some activity gets the trigger's data because it says nothing else.
create or replace function hotmesh._plan_reads_trigger(graph jsonb)
returns boolean
language sql
immutable
as $$
    select exists (
        select from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' in ('worker', 'sql') and a.value #> '{input,maps}' is null)
$$;

-- Those of some activities that are read only by what lies behind them: on whatever way one comes
-- to a reader, one instance is on it, at one depth.
create or replace function hotmesh._plan_behind(graph jsonb, ids text[])
returns setof text
language sql
immutable
as $$
    with recursive edges as (
        select distinct e.origin, e.target from hotmesh._plan_edges(graph) e),
    ways (id, depth) as (
        select a.key, 0 from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger'
        union
        select e.target, w.depth + 1
        from ways w join edges e on e.origin = w.id
        where w.depth < 1000),
    around (id, place) as (  -- what can be come to without it
        select i.id, w.id from unnest(ids) i (id) cross join ways w
        where w.depth = 0 and w.id <> i.id
        union
        select a.id, e.target
        from around a join edges e on e.origin = a.place
        where e.target <> a.id),
    readers (id, place) as (
        select r.id, k.place
        from jsonb_object_keys(graph -> 'activities') k (place)
        cross join lateral unnest(hotmesh._expression_refs(jsonb_build_array(
            graph #> array['activities', k.place], graph #> array['transitions', k.place]))) r (id)
        union all
        select r.id, null
        from unnest(hotmesh._expression_refs(graph - '{activities,transitions}'::text[])) r (id))
    select i.id
    from unnest(ids) i (id)
    where not exists (
        select from readers r
        where r.id = i.id and (
            r.place is null or (select count(*) from ways w where w.id = i.id) > 1
            or exists (select from around a where a.id = i.id and a.place = r.place)))
$$;

create or replace function hotmesh._plan_build(app text, graph jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_numbers jsonb := (
        select jsonb_object_agg(d.id, d.number) from hotmesh._plan_depths(graph) d);
    v_refs text[] := hotmesh._expression_refs(graph);
    v_behind text[] := array(
        select b from hotmesh._plan_behind(graph, array(
            select d.id from hotmesh._plan_depths(graph) d where d.merging)) b);
    v_stats jsonb := (
        select coalesce(a.value -> 'stats', '{}') from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger');
begin
    return jsonb_strip_nulls(hotmesh._measure_plan(v_stats) || jsonb_build_object(
        'app', app, 'begins', case when v_stats ?| '{id,key,parent,adjacent,measures}'
                            or hotmesh._field_is_dynamic(graph -> 'expire') then true end,
        'expire', case
            when not hotmesh._field_is_dynamic(graph -> 'expire') then graph -> 'expire' end,
        'publishes', graph -> 'publishes',
        'merging', (
            select jsonb_agg(d.id) from hotmesh._plan_depths(graph) d
            where d.merging and d.id <> all (v_behind)),
        'pivots', (
            select jsonb_agg(jsonb_build_array(d.number, d.depth, d.id))
            from hotmesh._plan_depths(graph) d
            where d.id in (select p from hotmesh._plan_pivots(graph) p)),
        'deepest', (select max(d.depth) from hotmesh._plan_depths(graph) d),
        'reads', (
            select coalesce(jsonb_agg(jsonb_build_array(d.number, d.depth) order by d.number), '[]')
            from hotmesh._plan_depths(graph) d
            where d.id = any (v_refs)
               or d.number = 1 and hotmesh._plan_reads_trigger(graph)),
        'activities', (
            select jsonb_agg(
                hotmesh._plan_activity(graph, d.id, d.depth, d.merging, v_numbers)
                || case when d.merging and d.id = any (v_behind) then '{"unread": true}'
                        else '{}'::jsonb end order by d.number)
            from hotmesh._plan_depths(graph) d)));
end
$$;

-- Activities whose metadata some expression reads: only they keep them.
create or replace function hotmesh._plan_stamped(graph jsonb)
returns jsonb
language sql
immutable
as $$
    select coalesce(jsonb_agg(distinct m.id), '[]')
    from (
        select a.key as id, w.word
        from jsonb_each(graph -> 'activities') a
        cross join lateral jsonb_path_query(
            jsonb_build_array(a.value, graph -> 'transitions' -> a.key),
            'strict $.** ? (@ starts with "{")') w (word)
        union all
        select null, w.word
        from jsonb_path_query(graph, 'strict $.** ? (@ starts with "{")') w (word)) w
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    cross join lateral (values (coalesce(w.id, r.names[1]))) m (id)
    where w.id is null and r.names[3] = 'metadata' and r.names[1] not like '$%'
       or r.names[1] = '$self' and r.names[3] = 'metadata' and w.id is not null
       or r.names[1] = '$hook' and r.names[2] = 'metadata' and w.id is not null
$$;

-- What expressions may name.
create or replace function hotmesh._plan_scope(document jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'app', document -> 'app', 'graph', document -> 'graph',
        'activities', jsonb_object_agg(d.id, d.depth), 'numbers', jsonb_object_agg(d.id, d.number),
        'stamped', hotmesh._plan_stamped(document -> 'graph'))
        || coalesce((
            select jsonb_build_object('twin', a.key)
            from jsonb_each(document #> '{graph,activities}') a
            where hotmesh._plan_is_twin(a.value)), '{}')
    from hotmesh._plan_depths(document -> 'graph') d
$$;

-- What the expressions of one activity may name.
create or replace function hotmesh._plan_own(scope jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select case when scope ->> 'twin' = id then scope || '{"own": true}' else scope end
$$;

-- What compiled expressions call.
create or replace function hotmesh._plan_put(s jsonb, id text, d text, self jsonb)
returns jsonb
language sql
stable
parallel safe
as $$
    select case when s ? id then jsonb_set(s, array[id, d], coalesce(self, 'null'))
                else s || jsonb_build_object(id, jsonb_build_object(d, self)) end
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
        hotmesh._source_step(v_schema, graph),
        hotmesh._source_walk(v_schema, graph),
        format('revoke all on function %I.%I from public', v_schema, v_name || '_step'),
        format('revoke all on function %I.%I from public', v_schema, v_name)]);
end
$$;

-- For an engine that has come since. Steps of jobs are known by the numbers of their activities:
-- these stay. What can't be compiled any more goes on as it is; nothing is refused here.
create or replace function hotmesh._plan_renew(graph hotmesh.graphs)
returns void
language plpgsql
as $$
declare
    v_ids constant jsonpath := '$.activities[*].id';
    v_plan jsonb;
begin
    v_plan := hotmesh._plan_build(graph.plan ->> 'app', graph.document -> 'graph');
    if jsonb_path_query_array(v_plan, v_ids) = jsonb_path_query_array(graph.plan, v_ids) then
        perform hotmesh._graph_replan(graph.id, v_plan);
        perform hotmesh._plan_compile(graph);
        return;
    end if;
    perform hotmesh._plan_warn(graph, 'its activities would get other numbers');
exception
    when data_exception or syntax_error_or_access_rule_violation or program_limit_exceeded
        or feature_not_supported or internal_error
    then
        perform hotmesh._plan_warn(graph, sqlerrm);
end
$$;

create or replace function hotmesh._plan_warn(graph hotmesh.graphs, why text)
returns void
language plpgsql
as $$
begin
    raise warning 'graph "%", version "%", stays as it was compiled: %',
        left(graph.topic, 200), left(graph.version, 60), left(why, 500) using
        hint = 'Its jobs go on. Deploy a version of it that this engine compiles.';
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

-- Who calls the door.
create or replace function hotmesh._plan_deployer()
returns name
language sql
stable
as $$
    select coalesce(nullif(current_setting('role'), 'none')::name, session_user)
$$;

-- Why a graph may not call a function; null if it may. It runs with the rights of its owner, so
-- whoever deploys has to have them too.
create or replace function hotmesh._plan_function_fault(name text, deployer name)
returns text
language plpgsql
stable
as $$
declare
    v_function regprocedure;
    v_proc record;
begin
    v_function := to_regprocedure(name || '(jsonb)');
    select p.prosecdef, p.proowner, p.prokind = 'f' as plain, exists (
               select from unnest(p.proconfig) s where s like 'search_path=%') as pinned
    into v_proc
    from pg_proc p where p.oid = v_function;
    return case
        when v_proc is null then format('there is no function %s(jsonb)', left(name, 100))
        when not v_proc.plain then format('%s is no plain function', v_function)
        when not v_proc.prosecdef or not v_proc.pinned
            then format('%s has to be security definer and to set its search_path', v_function)
        when not pg_has_role(deployer, v_proc.proowner, 'member')
            then format('%s belongs to %s, of which %s is no member', v_function,
                        v_proc.proowner::regrole, deployer) end;
exception
    when syntax_error_or_access_rule_violation or data_exception then
        return format('%s is no name of a function', left(name, 100));
end
$$;
