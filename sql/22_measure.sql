-- 22 measure: what is counted of the jobs of graphs. A job whose trigger has `stats` with a key or
-- measures leaves one row as it starts: its topic, its key among the topic's jobs, when, and the
-- values that are measured, by the names of their targets. What they come to is asked by 85_stats.
-- Rows stay when their jobs are archived; they go when a job is scrubbed, and with the months that
-- job_prune drops.

--@ state
create table hotmesh.measures (
    job_id bigint not null,
    topic text not null,
    key text not null,
    at timestamptz not null,
    job_key text not null,
    measured jsonb not null default '{}',
    constraint measures_pkey primary key (job_id)
);
comment on table hotmesh.measures is
'One row per started job of a graph whose trigger has stats: what is counted and measured of it.';
comment on column hotmesh.measures.job_id is 'The job.';
comment on column hotmesh.measures.topic is 'The topic that it was started by.';
comment on column hotmesh.measures.key is
'What stats.key came to: jobs of one key are counted together; empty without one.';
comment on column hotmesh.measures.at is 'When it started.';
comment on column hotmesh.measures.job_key is 'The key of the job.';
comment on column hotmesh.measures.measured is '{"color": "red", "amount": 5}: values by target.';
create index measures_by_time on hotmesh.measures (topic, key, at);
comment on index hotmesh.measures_by_time is 'The jobs of a topic and a key in a span of time.';

--@ behaviour
-- What a target is called: {$self.output.data.size.width} is size.width; a pipe has no name.
create or replace function hotmesh._measure_name(target jsonb, measure text, place bigint)
returns text
language sql
immutable
as $$
    select coalesce(
        nullif(array_to_string(r.names[array_position(r.names, 'data') + 1:], '.'), ''),
        r.names[cardinality(r.names)], measure || place)
    from (values (hotmesh._reference_parse(
        case when jsonb_typeof(target) = 'string' then target #>> '{}' end))) r (names)
$$;

-- What a plan has of `stats`: measures are [{"measure", "target"}] with the names of the targets.
create or replace function hotmesh._measure_plan(stats jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'counted', case when stats ?| '{key,measures}' then true end,
        'granularity', stats -> 'granularity', 'measures', (
            select jsonb_agg(jsonb_build_object(
                'measure', m.about -> 'measure', 'target', hotmesh._measure_name(
                    m.about -> 'target', m.about ->> 'measure', m.place)) order by m.place)
            from jsonb_array_elements(stats -> 'measures') with ordinality m (about, place)))
$$;

-- What a trigger says of the job that is to be; `measured` in the order of the measures.
create or replace function hotmesh._measure_fields(graph jsonb, trigger jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'id', s.stats -> 'id', 'key', s.stats -> 'key', 'parent', s.stats -> 'parent',
        'adjacent', s.stats -> 'adjacent',
        'measured', (
            select jsonb_agg(m.about -> 'target' order by m.place)
            from jsonb_array_elements(s.stats -> 'measures') with ordinality m (about, place)),
        'expire', case
            when hotmesh._field_is_dynamic(graph -> 'expire') then graph -> 'expire' end)
    from (values (trigger -> 'stats')) s (stats)
$$;

create or replace function hotmesh._measure_key(value jsonb)
returns text
language sql
immutable
as $$
    select left(coalesce(value #>> '{}', ''), 500)
$$;

-- `trigger` is what those fields came to. Only what is no list and no object is measured.
create or replace function hotmesh._measure_lay(job hotmesh.jobs, measures jsonb, trigger jsonb)
returns void
language plpgsql
as $$
begin
    insert into measures (job_id, topic, key, at, job_key, measured)
    select job.id, job.topic, hotmesh._measure_key(trigger -> 'key'), job.created_at, job.key, (
        select coalesce(jsonb_object_agg(m.about ->> 'target', case jsonb_typeof(v.value)
                   when 'string' then to_jsonb(left(v.value #>> '{}', 500))
                   else v.value end), '{}')
        from jsonb_array_elements(measures) with ordinality m (about, place)
        join jsonb_array_elements(trigger -> 'measured') with ordinality v (value, place)
            on v.place = m.place
        where jsonb_typeof(v.value) in ('string', 'number', 'boolean'));
end
$$;

-- A facet is field:value.
create or replace function hotmesh._measure_is(measured jsonb, facet text)
returns boolean
language sql
immutable
as $$
    select coalesce(
        measured ->> left(facet, strpos(facet, ':') - 1) = substr(facet, strpos(facet, ':') + 1),
        false)
$$;

-- These jobs are found by this field no more.
create or replace function hotmesh._measure_unmark(job_ids bigint[], field text)
returns void
language plpgsql
as $$
begin
    update measures m set measured = m.measured - field
    where m.job_id = any (array(
        select l.job_id from measures l
        where l.job_id = any (job_ids) and l.measured ? field
        for update skip locked));
end
$$;

create or replace function hotmesh._measure_forget(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from measures m where m.job_id = any (job_ids);
end
$$;

-- What is older than the archive, but for jobs that are still there.
create or replace function hotmesh._measure_prune(before timestamptz)
returns void
language plpgsql
as $$
begin
    delete from measures m
    where m.at < before and not exists (select from jobs_all j where j.id = m.job_id);
end
$$;
