-- 85 trail: the way that a job has gone so far, as a walk needs it: of every activity that some
-- expression reads the instance nearest to where an answer came in, found by its key.

--@ state

--@ behaviour
-- The rows of the journal that answers at these places may need: the answered instances, and of
-- every activity that is read the instance on the way there: as many segments as it lies deep. An
-- answer to what ends there reads nothing more.
create or replace function hotmesh._trail_fields(plan jsonb, todo hotmesh.walk_entry[])
returns text[]
language plpgsql
immutable
as $$
declare
    v_entry hotmesh.walk_entry;
    v_place text[];
    v_reads constant jsonb := plan -> 'reads';
    v_fields text[] := '{}';
begin
    foreach v_entry in array todo loop
        v_fields := v_fields
            || hotmesh._attribute_field(v_entry.dimension, v_entry.activity);
        continue when v_entry.leg = 'answer'
            and plan -> 'activities' -> (v_entry.activity - 1) ? 'ends';
        v_place := string_to_array(v_entry.dimension || repeat(
            ',0', (plan ->> 'deepest')::integer), ',');
        for i in 0 .. jsonb_array_length(v_reads) - 1 loop
            v_fields := v_fields || hotmesh._attribute_field(
                array_to_string(v_place[1:(v_reads -> i ->> 1)::integer + 2], ','),
                (v_reads -> i ->> 0)::integer);
        end loop;
    end loop;
    return v_fields;
end
$$;

-- Where cycles return to from these places. A row that is there already says that several ways
-- lead back from one round: then all its rounds are needed, to find one that is free.
create or replace function hotmesh._trail_returns(
    job_id bigint, plan jsonb, todo hotmesh.walk_entry[])
returns text[]
language plpgsql
stable
as $$
begin
    return array(
        select distinct p.about ->> 2
        from jsonb_array_elements(plan -> 'pivots') as p (about)
        cross join lateral unnest(todo) t
        cross join lateral (
            select (regexp_match(
                t.dimension, '^(?:,\d+){' || ((p.about ->> 1)::integer + 1) || '}'))[1]) as d (base)
        join jobs_attributes a
            on a.job_id = _trail_returns.job_id
            and a.field = hotmesh._attribute_field(
                case when t.activity = (p.about ->> 0)::integer then t.dimension
                     else hotmesh._walk_dimension(d.base, 1) end, (p.about ->> 0)::integer)
        where d.base is not null);
end
$$;

-- One that is open can be answered: it says how often it was.
create or replace function hotmesh._trail_instance(value jsonb, state text, ledger bigint)
returns jsonb
language sql
stable
as $$
    select case
        when state <> 'open' then value
        when ledger % 100000000 = 0 then value || '{"$": {"open": true, "turn": 0}}'
        else value || jsonb_build_object('$', jsonb_build_object(
            'open', true, 'turn', ledger % 100000000)) end
$$;

create or replace function hotmesh._trail_time(at timestamptz)
returns text
language sql
stable
as $$
    select to_char(at at time zone 'UTC', 'YYYYMMDDHH24MISS.MS')
$$;

-- What is known of an instance beside its data; for those activities of which anything reads it.
create or replace function hotmesh._trail_stamp(
    self jsonb, part text, about jsonb, d text, code integer)
returns jsonb
language sql
stable
as $$
    select self || jsonb_build_object(part, coalesce(self -> part, '{}') || jsonb_build_object(
        'metadata', coalesce(self #> '{input,metadata}', about || jsonb_build_object(
            'dad', d, 'ac', n.now)) || jsonb_build_object('au', n.now)
            || case when part = 'input' then '{}' else jsonb_build_object('code', code) end
            || case when self ? 'error' then jsonb_build_object('err', self -> 'error')
                    else '{}' end))
    from (values (hotmesh._trail_time(hotmesh.now()))) n (now)
$$;

-- What expressions read of the job.
create or replace function hotmesh._trail_job(job hotmesh.jobs, plan jsonb, data jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object('data', coalesce(data, '{}'), 'metadata', jsonb_build_object(
        'jid', job.key, 'gid', job.id::text, 'tpc', job.topic, 'app', plan -> 'app',
        'vrs', job.graph_version, 'js', job.status, 'jc', hotmesh._trail_time(job.created_at),
        'ju', hotmesh._trail_time(job.updated_at)))
$$;

create or replace function hotmesh._trail_of(
    job hotmesh.jobs, plan jsonb, data jsonb, todo hotmesh.walk_entry[], store jsonb)
returns hotmesh.walk
language sql
stable
as $$
    select (
        job.id, job.graph_id, plan, hotmesh._trail_job(job, plan, data), store, job.status, todo,
        '{}', '[]', null, job.status,
        case when job.parent_sequence is not null then job.parent_id end,
        false, false, 0, null, null, null, null, null, null, false)::hotmesh.walk
$$;

-- Has an instance this dimension: in memory or, where a job is given, among its rows?
create or replace function hotmesh._trail_taken(
    instances jsonb, dimension text, job_id bigint, activity integer)
returns boolean
language plpgsql
stable
as $$
begin
    return coalesce(instances ? dimension, false)
        or job_id is not null and hotmesh._attribute_exists(
            job_id, hotmesh._attribute_field(dimension, activity));
end
$$;

-- A dimension that no instance has, this one or a later. They are taken one after the other: it
-- takes a few looks, however many there are.
create or replace function hotmesh._trail_free(
    instances jsonb, dimension text, job_id bigint, activity integer)
returns text
language plpgsql
stable
as $$
declare
    v_taken integer := -1;
    v_free integer := 0;
    v_at integer;
begin
    while hotmesh._trail_taken(
        instances, hotmesh._walk_dimension(dimension, v_free), job_id, activity)
    loop
        v_taken := v_free;
        v_free := 2 * v_free + 1;
    end loop;
    while v_free - v_taken > 1 loop
        v_at := (v_free + v_taken) / 2;
        if hotmesh._trail_taken(
            instances, hotmesh._walk_dimension(dimension, v_at), job_id, activity)
        then
            v_taken := v_at;
        else
            v_free := v_at;
        end if;
    end loop;
    return hotmesh._walk_dimension(dimension, v_free);
end
$$;

-- The instances that a walk may need, by activity and dimension. Most walks need one of each.
create or replace function hotmesh._trail_store(job_id bigint, fields text[], merging text[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_object_agg(n.name, n.instances), '{}')
        from (
            select a.name, jsonb_object_agg(
                       a.dimension, hotmesh._trail_instance(a.value, a.state, a.ledger)
                   ) as instances
            from jobs_attributes a
            where a.job_id = _trail_store.job_id and a.sequence is not null
              and (a.field = any (fields) or merging <> '{}' and a.name = any (merging))
            group by a.name) n);
end
$$;

-- The walks of jobs for which something came in: these events, and what waits in their inboxes.
-- The caller holds the jobs' locks, and remembers some of them.
create or replace function hotmesh._trail_load(
    job_ids bigint[], events hotmesh.streams[], known hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_known bigint[] := '{}';
    v_walks hotmesh.walk[] := '{}';
begin
    if job_ids <> '{}' then
        events := events || hotmesh._inbox_drain(job_ids);
    end if;
    if known <> '{}' and events <> '{}' then
        v_walks := array(
            select hotmesh._trail_resume(k, t.todo)
            from hotmesh._trail_todo(events) t
            join unnest(known) k on k.job_id = t.job_id);
        v_known := array(select k.job_id from unnest(known) k);
        events := array(select e from unnest(events) e where e.job_id <> all (v_known));
    end if;
    if events = '{}' then
        return v_walks;
    end if;
    return v_walks || hotmesh._trail_read(events);
end
$$;

-- Jobs that began in this transaction and that go on in it: all that they have done is in memory,
-- as long as that is little.
create or replace function hotmesh._trail_known(walks hotmesh.walk[], known hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
stable
as $$
begin
    return array(
        select w from unnest(walks) w
        where w.whole and w.status > 0 and not w.ended and pg_column_size(w.store) < 10000
        union all
        select k from unnest(known) k
        where k.job_id <> all (array(select w.job_id from unnest(walks) w)));
end
$$;

-- The next walk of a job after this one, which was written.
create or replace function hotmesh._trail_resume(w hotmesh.walk, todo hotmesh.walk_entry[])
returns hotmesh.walk
language plpgsql
as $$
begin
    w.todo := todo;
    w.steps := '{}';
    w.commands := '[]';
    w.told := false;
    w.moves := 0;
    w.was := w.status;
    w.job := w.job || jsonb_build_object('metadata', w.job -> 'metadata' || jsonb_build_object(
        'js', w.status, 'ju', hotmesh._trail_time(hotmesh.now())));
    return w;
end
$$;

-- `offset 0` makes it one look by id per job.
create or replace function hotmesh._trail_read(events hotmesh.streams[])
returns hotmesh.walk[]
language plpgsql
as $$
begin
    return array(
        select hotmesh._trail_of(
            e.job, e.plan, s.data, e.todo,
            case when e.simple then coalesce(s.store, '{}')
                 else hotmesh._trail_store((e.job).id, e.fields, e.merging) end)
        from (
            select t.job, t.plan, t.todo, t.fields, t.merging,
                   t.merging = '{}' and cardinality(t.todo) = 1 as simple
            from (
                select j.job, g.plan, v.todo, hotmesh._trail_fields(g.plan, v.todo) as fields,
                       case when g.plan ? 'merging'
                            then array(select jsonb_array_elements_text(g.plan -> 'merging'))
                            else '{}' end
                       || case when g.plan ? 'pivots'
                               then hotmesh._trail_returns(v.job_id, g.plan, v.todo)
                               else '{}' end as merging
                from hotmesh._trail_todo(events) v
                cross join lateral (
                    select j::hotmesh.jobs as job from jobs j
                    where j.id = v.job_id and j.closed_at is null
                    offset 0) j
                join graphs g on g.id = (j.job).graph_id
                offset 0) t) e
        left join lateral (
            select (array_agg(a.value) filter (where a.field = 'output'))[1] as data,
                   jsonb_object_agg(a.name, jsonb_build_object(
                       a.dimension, hotmesh._trail_instance(a.value, a.state, a.ledger)))
                       filter (where a.sequence is not null and e.simple) as store
            from jobs_attributes a
            where a.job_id = (e.job).id and a.field = any (e.fields || 'output'::text)
            offset 0) s on true
        order by (e.job).id);
end
$$;

-- What walks have written: their steps, and the data of those that told something or have ended.
create or replace function hotmesh._trail_rows(walks hotmesh.walk[])
returns hotmesh.jobs_attributes[]
language plpgsql
immutable
as $$
declare
    w hotmesh.walk;
    v_step hotmesh.jobs_attributes;
    v_rows hotmesh.jobs_attributes[] := '{}';
begin
    foreach w in array walks loop
        foreach v_step in array w.steps loop
            v_rows := v_rows || v_step;
        end loop;
        if w.told or w.status = 0 or w.ended then
            v_rows := v_rows || hotmesh._walk_fact(w.job_id, 'output', w.job -> 'data');
        end if;
    end loop;
    return v_rows;
end
$$;

create or replace function hotmesh._trail_todo(events hotmesh.streams[])
returns table (job_id bigint, todo hotmesh.walk_entry[])
language sql
stable
as $$
    select v.job_id, array_agg(
               (v.sequence, v.dimension,
                case when v.args ? 'enter' then 'enter' else 'answer' end,
                case when v.args ? 'enter' then v.args -> 'answer'
                     else coalesce(v.args #> '{output,$called}', v.args) end
               )::hotmesh.walk_entry order by v.ordinality)
    from unnest(events) with ordinality v
    group by v.job_id
$$;
