-- 23 blame: which expression of a document could not be evaluated. A failure knows the line of the
-- compiled function, and by it the section of the document (23_source). Here that section is gone
-- through value by value, and a pipe row by row, each evaluated by itself with what it could read,
-- until one fails. Only a job that has failed pays for it.

--@ state
create type hotmesh.blame_scene as (
    graph jsonb, scope jsonb, id text, leg text, s jsonb, d text, self jsonb, job jsonb);
comment on type hotmesh.blame_scene is
'What the expressions of one activity read when one of them failed.';

--@ behaviour
create or replace function hotmesh._blame_value(value jsonb, scene hotmesh.blame_scene)
returns jsonb
language plpgsql
stable
as $$
declare
    v_found jsonb;
begin
    execute format('select %s from (values ($1, $2, $3, $4)) v (s, d, self, job)',
                   hotmesh._expression_sql(value, scene.scope, ''))
    into v_found
    using scene.s, scene.d, scene.self, scene.job;
    return v_found;
end
$$;

create or replace function hotmesh._blame_fails(value jsonb, scene hotmesh.blame_scene)
returns boolean
language plpgsql
stable
as $$
begin
    perform hotmesh._blame_value(value, scene);
    return false;
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        return true;
end
$$;

-- What an activity says, by its places in the document, of what is evaluated as one.
create or replace function hotmesh._blame_fields(graph jsonb, id text)
returns table (at text, value jsonb)
language plpgsql
stable
as $$
declare
    v_path constant text := 'activities.' || id;
    v_type constant text := graph #>> array['activities', id, 'type'];
begin
    return query
    select case
               when f.key = 'expire' then f.key
               when v_type = 'trigger'
               then format('%s.stats.%s', v_path, replace(f.key, 'measured', 'measures'))
               when f.key = 'expected' then format('hooks.%s[0].conditions.match[0].expected',
                   hotmesh._plan_hook(graph, id) ->> 'topic')
               when f.key = 'data' then v_path || '.signal.maps'
               when f.key = 'resolver' then v_path || '.resolver.maps'
               when f.key = 'key' then v_path || '.id'
               else format('%s.%s', v_path, f.key) end,
           f.value
    from jsonb_each(hotmesh._source_fields(graph, id)) f;
end
$$;

-- The values of a section of a document: of an activity, its mappings, a transition, a hook.
create or replace function hotmesh._blame_section(place text, graph jsonb, id text)
returns table (at text, value jsonb)
language plpgsql
stable
as $$
declare
    v_parts constant text[] := regexp_match(place, '^transitions\.(.*)\[(\d+)\]\.conditions$');
begin
    if place = 'activities.' || id then
        return query select f.at, f.value from hotmesh._blame_fields(graph, id) f;
    elsif v_parts is not null then
        return query
        select format('%s.match[%s].%s', place, m.n - 1, p.key), p.value
        from jsonb_array_elements(graph #> array[
            'transitions', v_parts[1], v_parts[2], 'conditions', 'match'])
            with ordinality m (pair, n)
        cross join lateral jsonb_each(m.pair) p;
    elsif place like 'hooks.%' then
        return query select place || '[0].conditions.match[0].actual',
            hotmesh._plan_hook(graph, id) -> 'actual';
    elsif place = format('activities.%s.input.maps', id) then
        return query select place, hotmesh._source_input(graph, id);
    else
        return query select place, graph #> string_to_array(place, '.');
    end if;
end
$$;

-- What a value is made of, as far as each part stands by itself.
create or replace function hotmesh._blame_leaves(at text, value jsonb)
returns table (leaf text, part jsonb)
language sql
immutable
as $$
    with recursive parts (at, value) as (
        values (_blame_leaves.at, _blame_leaves.value)
        union all
        select n.at, n.value
        from parts p
        cross join lateral (
            select format('%s.%s', p.at, e.key), e.value
            from jsonb_each(case when jsonb_typeof(p.value) = 'object' then p.value else '{}' end)
                as e
            where p.value -> '@pipe' is null
            union all
            select format('%s[%s]', p.at, e.n - 1), e.item
            from jsonb_array_elements(
                case when jsonb_typeof(p.value) = 'array' then p.value else '[]' end)
                with ordinality e (item, n)) n (at, value))
    select p.at, p.value
    from parts p
    where p.value -> '@pipe' is not null
       or jsonb_typeof(p.value) = 'string' and p.value #>> '{}' like '{%'
$$;

-- The first row of a pipe that can't be evaluated on those before it; '' of what is no pipe.
create or replace function hotmesh._blame_row(value jsonb, scene hotmesh.blame_scene)
returns text
language plpgsql
stable
as $$
declare
    v_rows constant jsonb := value -> '@pipe';
begin
    for i in 1 .. coalesce(jsonb_array_length(v_rows), 0) loop
        if hotmesh._blame_fails(jsonb_build_object('@pipe', (
            select jsonb_agg(r.line order by r.n)
            from jsonb_array_elements(v_rows) with ordinality r (line, n)
            where r.n <= i)), scene)
        then
            return format('.@pipe[%s]', i - 1);
        end if;
    end loop;
    return '';
end
$$;

-- What was evaluated before the section, as the compiled function does it.
create or replace function hotmesh._blame_before(scene hotmesh.blame_scene, place text)
returns hotmesh.blame_scene
language plpgsql
stable
as $$
declare
    v_about constant jsonb := scene.graph #> array['activities', scene.id];
    v_own constant text := 'activities.' || scene.id;
begin
    if v_about ->> 'type' = 'trigger' then
        scene.s := hotmesh._plan_put(scene.s, scene.id, scene.d, scene.self);
    end if;
    if scene.leg = 'enter' and place = v_own then
        scene.self := scene.self || jsonb_build_object('input', jsonb_build_object(
            'data', coalesce(hotmesh._blame_value(hotmesh._source_input(
                scene.graph, scene.id), scene), '{}')));
    end if;
    if scene.leg in ('enter', 'actual') or place = v_own || '.output.maps' then
        return scene;
    end if;
    if scene.leg = 'leave' and v_about #> '{output,maps}' is not null
        and v_about ->> 'type' <> 'trigger'
    then
        scene.self := scene.self || jsonb_build_object('output', jsonb_build_object(
            'data', hotmesh._blame_value(v_about #> '{output,maps}', scene)));
    end if;
    scene.s := hotmesh._plan_put(scene.s, scene.id, scene.d, scene.self);
    if place <> v_own || '.job.maps' and v_about #> '{job,maps}' is not null then
        scene.job := hotmesh._plan_tell(
            scene.job, hotmesh._blame_value(v_about #> '{job,maps}', scene));
    end if;
    return scene;
end
$$;

-- The place of the expression in a section that fails, and what stands there; if none does by
-- itself, the section.
create or replace function hotmesh._blame_find(
    place text, scene hotmesh.blame_scene, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
begin
    scene := hotmesh._blame_before(scene, place);
    for at, value in
        select l.leaf, l.part
        from hotmesh._blame_section(place, scene.graph, scene.id) v
        cross join lateral hotmesh._blame_leaves(v.at, v.value) l
        limit 500
    loop
        if hotmesh._blame_fails(value, scene) then
            at := at || hotmesh._blame_row(value, scene);
            return;
        end if;
    end loop;
    at := place;
    value := (
        select case when count(*) = 1 then (array_agg(v.value))[1] end
        from hotmesh._blame_section(place, scene.graph, scene.id) v
        where v.value is not null);
end
$$;
