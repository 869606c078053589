-- 85 trail: the way that a job has gone so far, as a walk needs it: of every activity that some
-- expression reads the instance nearest to where an answer came in, found by its key.

--@ state

--@ behaviour
-- The rows of the journal that answers at these places may need: the answered instances, and of
-- every activity that is read the instance on the way there: as many segments as it lies deep.
create or replace function hotmesh._trail_fields(plan jsonb, todo hotmesh.walk_entry[])
returns text[]
language plpgsql
immutable
as $$
declare
    v_entry hotmesh.walk_entry;
    v_place text[];
    v_read integer[];
    v_fields text[] := '{}';
begin
    foreach v_entry in array todo loop
        v_fields := v_fields
            || hotmesh._attribute_field(v_entry.dimension, v_entry.activity);
        v_place := string_to_array(v_entry.dimension || repeat(
            ',0', (plan ->> 'deepest')::integer), ',');
        for v_read in select array[(r ->> 0)::integer, (r ->> 1)::integer]
            from jsonb_array_elements(plan -> 'reads') r
        loop
            v_fields := v_fields || hotmesh._attribute_field(
                array_to_string(v_place[1:v_read[2] + 2], ','), v_read[1]);
        end loop;
    end loop;
    return v_fields;
end
$$;

create or replace function hotmesh._trail_store(
    job_id bigint, plan jsonb, todo hotmesh.walk_entry[])
returns jsonb
language plpgsql
stable
as $$
declare
    v_fields text[] := hotmesh._trail_fields(plan, todo);
    v_merging text[];
begin
    if plan ? 'merging' then
        v_merging := array(select jsonb_array_elements_text(plan -> 'merging'));
    end if;
    return (
        select coalesce(jsonb_object_agg(n.name, n.instances), '{}')
        from (
            select a.name, jsonb_object_agg(a.dimension, a.value || jsonb_build_object(
                       '$', jsonb_build_object('open', a.state = 'open',
                                               'turn', a.ledger % 100000000))) as instances
            from jobs_attributes a
            where a.job_id = _trail_store.job_id and a.sequence is not null
              and (a.field = any (v_fields) or a.name = any (v_merging))
            group by a.name) n);
end
$$;

create or replace function hotmesh._trail_time(at timestamptz)
returns text
language sql
stable
as $$
    select to_char(at at time zone 'UTC', 'YYYYMMDDHH24MISS.MS')
$$;

-- What expressions read of the job.
create or replace function hotmesh._trail_job(job hotmesh.jobs, data jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object('data', coalesce(data, '{}'), 'metadata', jsonb_build_object(
        'jid', job.key, 'gid', job.id::text, 'tpc', job.topic, 'app', a.name,
        'vrs', job.graph_version, 'js', job.status, 'jc', hotmesh._trail_time(job.created_at),
        'ju', hotmesh._trail_time(job.updated_at)))
    from hotmesh.apps a
    where a.schema_name = hotmesh._app_here()
$$;

create or replace function hotmesh._trail_of(
    job hotmesh.jobs, plan jsonb, data jsonb, todo hotmesh.walk_entry[], store jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    w hotmesh.walk;
begin
    w.job_id := job.id;
    w.graph_id := job.graph_id;
    w.plan := plan;
    w.job := hotmesh._trail_job(job, data);
    w.store := store;
    w.status := job.status;
    w.was := job.status;
    w.todo := todo;
    w.steps := '{}';
    w.commands := '[]';
    w.ended := false;
    w.told := false;
    w.moves := 0;
    return w;
end
$$;

-- The walks of jobs for which something came in. The caller holds their locks.
create or replace function hotmesh._trail_load(job_ids bigint[])
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    if job_ids <> '{}' then
        v_events := hotmesh._inbox_drain(job_ids);
    end if;
    if v_events is null then
        return '{}';
    end if;
    return array(
        select hotmesh._trail_of(
            j::hotmesh.jobs, g.plan, o.value, e.todo,
            hotmesh._trail_store(j.id, g.plan, e.todo))
        from (
            select v.job_id, array_agg(
                       (v.sequence, v.dimension,
                        case when v.args ? 'enter' then 'enter' else 'answer' end,
                        case when v.args ? 'enter' then v.args -> 'answer' else v.args end
                       )::hotmesh.walk_entry order by v.ordinality) as todo
            from unnest(v_events) with ordinality v
            group by v.job_id) e
        join jobs j on j.id = e.job_id and j.closed_at is null
        join graphs g on g.id = j.graph_id
        left join jobs_attributes o on o.job_id = j.id and o.field = 'output'
        order by j.id);
end
$$;
