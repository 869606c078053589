-- 21 flow: where the transitions of a graph lead: what nothing reaches, loops, cycles that don't go
-- back to an ancestor. Malformed parts are as if they weren't there: 21_fault names them.

--@ state

--@ behaviour
-- A part of an object, if it is an object too.
create or replace function hotmesh._flow_part(value jsonb, name text)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(value -> name) = 'object' then value -> name else '{}' end
$$;

create or replace function hotmesh._flow_nearest(word text, words text[])
returns text
language sql
immutable
as $$
    select coalesce(min(n.word), 'nothing')
    from (
        select w.word from unnest(words) w (word)
        order by hotmesh._pipe_distance(
            lower(left(_flow_nearest.word, 40)), lower(left(w.word, 40))), 1
        limit 1) n
$$;

create or replace function hotmesh._flow_edges(graph jsonb)
returns table (origin text, target text, place integer)
language sql
immutable
as $$
    select t.key, e.edge ->> 'to', e.n::integer - 1
    from jsonb_each(hotmesh._flow_part(graph, 'transitions')) t
    cross join lateral jsonb_array_elements(
        case when jsonb_typeof(t.value) = 'array' then t.value else '[]' end)
        with ordinality e (edge, n)
    where jsonb_typeof(e.edge -> 'to') = 'string'
$$;

create or replace function hotmesh._flow_activities(graph jsonb)
returns table (id text, type text, about jsonb)
language sql
immutable
as $$
    select a.key, a.value ->> 'type', a.value
    from jsonb_each(hotmesh._flow_part(graph, 'activities')) a
$$;

-- Every way, however long, from an activity to another one.
create or replace function hotmesh._flow_ways(graph jsonb)
returns table (origin text, target text)
language sql
immutable
as $$
    with recursive edges as materialized (
        select distinct e.origin, e.target from hotmesh._flow_edges(graph) e
    ), ways as (
        select e.origin, e.target from edges e
        union
        select w.origin, e.target from ways w join edges e on e.origin = w.target
    )
    select w.origin, w.target from ways w
$$;

create or replace function hotmesh._flow_trigger_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    select path || '.activities', case when count(*) = 0
        then 'a graph begins with one activity of type trigger; this one has none'
        else format('a graph has one trigger; these are %s: %s',
            count(*), string_agg(a.id, ', ' order by a.id)) end
    from hotmesh._flow_activities(graph) a
    where a.type = 'trigger'
    having count(*) <> 1
$$;

create or replace function hotmesh._flow_cycle_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    select format('%s.activities.%s.ancestor', path, a.id), case
        when n.id is null
        then format('there is no activity %s; near to it: %s', a.about ->> 'ancestor',
            hotmesh._flow_nearest(a.about ->> 'ancestor', array(
                select i.id from hotmesh._flow_activities(graph) i)))
        when n.type = 'trigger'
        then 'a cycle can''t go back to the trigger; let it go back to a hook after it'
        else format('%s is no ancestor of %s: no transitions lead from it to here',
            n.id, a.id) end
    from hotmesh._flow_activities(graph) a
    left join hotmesh._flow_activities(graph) n on n.id = a.about ->> 'ancestor'
    where a.type = 'cycle' and jsonb_typeof(a.about -> 'ancestor') = 'string'
      and (n.id is null or n.type = 'trigger' or not exists (
          select from hotmesh._flow_ways(graph) w
          where w.origin = n.id and w.target = a.id))
    union all
    select format('%s.transitions.%s', path, a.id),
           'a cycle goes on at its ancestor; it has no transitions of its own'
    from hotmesh._flow_activities(graph) a
    where a.type = 'cycle' and exists (
        select from hotmesh._flow_edges(graph) e where e.origin = a.id)
$$;

create or replace function hotmesh._flow_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    with activities as (select a.id, a.type from hotmesh._flow_activities(graph) a),
    ways as materialized (select w.origin, w.target from hotmesh._flow_ways(graph) w)
    select path || '.transitions', format(
        'transitions lead back: %s; only an activity of type cycle goes back',
        string_agg(w.origin, ', ' order by w.origin))
    from ways w
    where w.origin = w.target
    having count(*) > 0
    union all
    select format('%s.activities.%s', path, a.id),
           'no transition leads here from the trigger'
    from activities a
    where a.type <> 'trigger' and exists (select from activities t where t.type = 'trigger')
      and not exists (
          select from ways w join activities t on t.id = w.origin and t.type = 'trigger'
          where w.target = a.id)
    union all
    select f.at, f.reason from hotmesh._flow_trigger_faults(graph, path) f
    union all
    select f.at, f.reason from hotmesh._flow_cycle_faults(graph, path) f
    union all
    select format('%s.transitions.%s[%s].to', path, e.origin, e.place),
           'nothing leads to a trigger: it is where the graph begins'
    from hotmesh._flow_edges(graph) e
    join activities a on a.id = e.target and a.type = 'trigger'
$$;
