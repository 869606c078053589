-- 85 stats: what the jobs of a graph come to: how many started in a span of time, sums and averages
-- of what was measured (22), and which jobs a facet has. Segments are as long as the granularity,
-- aligned in UTC, and those in which a span begins and ends belong to it whole: an hour has 13 of
-- five minutes. Errors: 22023, MSH22 no graph for a topic.

--@ state
create type hotmesh.stats_query as (
    topic text, key text, granularity text, step interval, since timestamptz, until timestamptz,
    measures jsonb);
comment on type hotmesh.stats_query is
'What is asked: of which jobs, in which span (`until` not included), in which steps.';

--@ behaviour
create or replace function hotmesh._stats_refuse(message text, given jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        message, format('It was %s.', left(given::text, 200)),
        'For instance {"data": {…}, "range": "1h", "end": "NOW", "granularity": "5m"}; a range '
        || 'may be infinity, times are ISO 8601 or NOW.');
end
$$;

-- Null: everything is one step.
create or replace function hotmesh._stats_step(granularity text)
returns interval
language plpgsql
immutable
as $$
begin
    if granularity <> all (hotmesh._field_choices('granularity')) then
        perform hotmesh._stats_refuse('no such granularity', to_jsonb(granularity));
    end if;
    return case when granularity <> 'infinity'
                then hotmesh._duration(to_jsonb(granularity), 'granularity') end;
end
$$;

-- A time without a zone is UTC.
create or replace function hotmesh._stats_time(query jsonb, name text)
returns timestamptz
language plpgsql
volatile
as $$
declare
    v_text text := query ->> name;
begin
    if v_text ~* '^now$' then
        return hotmesh.now();
    elsif v_text ~* ('^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?'
                     || '(Z|[-+]\d\d(:?\d\d)?)?)?$')
    then
        return (v_text || case when v_text ~* ':.*(Z|[-+]\d\d(:?\d\d)?)$' then '' else ' UTC'
                          end)::timestamptz;
    elsif v_text is not null then
        perform hotmesh._stats_refuse(format('%s is no time', name), query -> name);
    end if;
    return null;
exception when invalid_datetime_format or datetime_field_overflow then
    perform hotmesh._stats_refuse(format('%s is no time', name), query -> name);
end
$$;

-- From `since` to before `until`, in whole steps; a null `since` is the beginning. A query that
-- says nothing of time gets `fallback`.
create or replace function hotmesh._stats_span(
    ask hotmesh.stats_query, query jsonb, fallback text)
returns hotmesh.stats_query
language plpgsql
as $$
declare
    v_text text := coalesce(query ->> 'range', case when not query ? 'start' then fallback end);
    v_range interval := case when lower(v_text) <> 'infinity'
                             then hotmesh._duration(to_jsonb(v_text), 'range') end;
    v_start timestamptz := hotmesh._stats_time(query, 'start');
    v_end timestamptz := coalesce(
        hotmesh._stats_time(query, 'end'), v_start + v_range, hotmesh.now());
    v_origin constant timestamptz := '2000-01-01 00:00:00+00';
begin
    v_start := coalesce(v_start, v_end - v_range);
    if v_start > v_end then
        perform hotmesh._stats_refuse('start is after end', query);
    elsif (v_end - v_start) / 10000 > ask.step and query -> 'sparse' is distinct from 'true' then
        perform hotmesh._stats_refuse('more than 10000 segments', query);
    end if;
    ask.since := case when ask.step is null then v_start
                      else date_bin(ask.step, v_start, v_origin) end;
    ask.until := case when ask.step is null then v_end + interval '1 microsecond'
                      else date_bin(ask.step, v_end, v_origin) + ask.step end;
    return ask;
end
$$;

-- The key that jobs with such data have; null: of any key, since nothing was said of it.
create or replace function hotmesh._stats_key(graph hotmesh.graphs, query jsonb)
returns text
language plpgsql
as $$
declare
    v_key jsonb := (hotmesh._walk_ask_step(
        graph, 1, 'actual', jsonb_build_object('output', jsonb_build_object(
            'data', coalesce(query -> 'data', '{}'))), '{"data": {}, "metadata": {}}')).about;
begin
    return case when query ? 'data' or v_key <> 'null' then hotmesh._measure_key(v_key) end;
end
$$;

create or replace function hotmesh._stats_query(
    graph hotmesh.graphs, topic text, query jsonb, fallback text)
returns hotmesh.stats_query
language plpgsql
as $$
declare
    v_query jsonb := coalesce(nullif(query, 'null'), '{}');
    v_ask hotmesh.stats_query;
begin
    if jsonb_typeof(v_query) <> 'object'
        or v_query - '{data,range,start,end,granularity,sparse,scrub}'::text[] <> '{}'
    then
        perform hotmesh._stats_refuse('no such query', v_query);
    end if;
    v_query := jsonb_strip_nulls(v_query);
    v_ask.topic := nullif(topic, '');
    v_ask.key := hotmesh._stats_key(graph, v_query);
    v_ask.measures := coalesce(graph.plan -> 'measures', '[]');
    v_ask.granularity := coalesce(
        v_query ->> 'granularity', graph.plan ->> 'granularity', '5m');
    v_ask.step := hotmesh._stats_step(v_ask.granularity);
    return hotmesh._stats_span(
        v_ask, v_query, case when v_ask.step is null then 'infinity' else fallback end);
end
$$;

create or replace function hotmesh._stats_segment(ask hotmesh.stats_query, at timestamptz)
returns timestamptz
language sql
immutable
as $$
    select case when ask.step is null then coalesce(ask.since, '-infinity')
                else date_bin(ask.step, at, '2000-01-01 00:00:00+00') end
$$;

-- Two statements, so that the plan of the usual one, which looks into the index, stays its own.
create or replace function hotmesh._stats_rows(ask hotmesh.stats_query)
returns table (segment timestamptz, job_id bigint, job_key text, at timestamptz, measured jsonb)
language plpgsql
stable
as $$
declare
    v_since timestamptz := coalesce(ask.since, '-infinity');
begin
    if ask.topic is not null and ask.key is not null then
        return query
        select hotmesh._stats_segment(ask, m.at), m.job_id, m.job_key, m.at, m.measured
        from measures m
        where m.topic = ask.topic and m.key = ask.key and m.at >= v_since and m.at < ask.until;
        return;
    end if;
    return query
    select hotmesh._stats_segment(ask, m.at), m.job_id, m.job_key, m.at, m.measured
    from measures m
    where (ask.topic is null or m.topic = ask.topic) and (ask.key is null or m.key = ask.key)
      and m.at >= v_since and m.at < ask.until;
end
$$;

create or replace function hotmesh._stats_number(value jsonb)
returns numeric
language sql
immutable
as $$
    select case jsonb_typeof(value)
        when 'number' then case when abs(value::numeric) < 1e100 then value::numeric end
        when 'string' then case
            when value #>> '{}' ~ '^\s*[-+]?\d{1,100}(\.\d{1,100})?\s*$'
            then (value #>> '{}')::numeric end end
$$;

-- What is measured of each job, in the order of the measures. `count` counts by value, "color:red".
create or replace function hotmesh._stats_points(ask hotmesh.stats_query)
returns table (segment timestamptz, place bigint, measure text, target text, number numeric)
language sql
stable
as $$
    select r.segment, m.place, m.measure,
           case m.measure when 'count' then m.target || ':' || (r.measured ->> m.target)
                          else m.target end,
           case when m.measure <> 'count' then hotmesh._stats_number(r.measured -> m.target) end
    from (
        select e.place, e.about ->> 'measure' as measure, e.about ->> 'target' as target
        from jsonb_array_elements(ask.measures) with ordinality e (about, place)) m
    cross join hotmesh._stats_rows(ask) r
    where m.measure <> 'index' and r.measured ? m.target
$$;

-- What the measures come to in each segment, and in all of them (`segment` is null). Medians are
-- sorted, and all the others need not be.
create or replace function hotmesh._stats_sums(ask hotmesh.stats_query)
returns table (segment timestamptz, measures jsonb)
language sql
stable
as $$
    with points as materialized (select * from hotmesh._stats_points(ask)),
    sums as (
        select p.segment, p.place, p.measure, p.target, case p.measure
                   when 'count' then count(*) when 'sum' then sum(p.number)
                   when 'avg' then avg(p.number) when 'max' then max(p.number)
                   else min(p.number) end as value
        from points p
        where p.measure <> 'mdn'
        group by grouping sets (
            (p.place, p.measure, p.target), (p.segment, p.place, p.measure, p.target))
        union all
        select p.segment, p.place, p.measure, p.target,
               (percentile_disc(0.5) within group (order by p.number)
                + percentile_disc(0.5) within group (order by p.number desc)) / 2
        from points p
        where p.measure = 'mdn'
        group by grouping sets (
            (p.place, p.measure, p.target), (p.segment, p.place, p.measure, p.target)))
    select v.segment, jsonb_agg(jsonb_build_object(
               'target', v.target, 'type', v.measure, 'value', trim_scale(v.value))
               order by v.place, v.target)
    from sums v
    where v.value is not null
    group by v.segment
$$;

create or replace function hotmesh._stats_label(segment timestamptz)
returns text
language sql
stable
as $$
    select case when isfinite(segment)
                then to_char(segment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"')
                else 'infinity' end
$$;

-- The segments of a span; of one without a beginning, those in which a job started.
create or replace function hotmesh._stats_segments(ask hotmesh.stats_query)
returns setof timestamptz
language plpgsql
stable
as $$
begin
    if ask.step is null then
        return next coalesce(ask.since, '-infinity');
    elsif ask.since is null then
        return query select distinct r.segment from hotmesh._stats_rows(ask) r;
    else
        return query select generate_series(ask.since, ask.until - ask.step, ask.step);
    end if;
end
$$;

-- What an answer repeats of its question.
create or replace function hotmesh._stats_head(ask hotmesh.stats_query, query jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object(
        'key', ask.key, 'granularity', ask.granularity,
        'range', coalesce(query -> 'range', to_jsonb(case
            when query ? 'start' then null when ask.step is null then 'infinity' else '1h' end)),
        'start', coalesce(query -> 'start', to_jsonb(hotmesh._stats_label(ask.since))),
        'end', coalesce(query -> 'end', '"NOW"'))
$$;

-- Segments with their counts and measures.
create or replace function hotmesh._stats_table(ask hotmesh.stats_query, sums jsonb)
returns jsonb
language sql
stable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'time', hotmesh._stats_label(g.segment), 'count', coalesce(c.count, 0),
               'measures', coalesce(sums -> g.segment::text, '[]')) order by g.segment), '[]')
    from hotmesh._stats_segments(ask) g (segment)
    left join (
        select r.segment, count(*) from hotmesh._stats_rows(ask) r group by r.segment) c
        on c.segment = g.segment
$$;

create or replace function hotmesh.graph_stats(app text, topic text, query jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_ask hotmesh.stats_query;
    v_sums jsonb;
    v_answer jsonb;
begin
    perform hotmesh._enter(app);
    v_ask := hotmesh._stats_query(hotmesh._graph_get(topic), topic, query, '1h');
    select jsonb_object_agg(coalesce(s.segment::text, 'all'), s.measures) into v_sums
    from hotmesh._stats_sums(v_ask) s;
    v_answer := hotmesh._stats_head(v_ask, query) || jsonb_build_object(
        'count', (select count(*) from hotmesh._stats_rows(v_ask)),
        'measures', coalesce(v_sums -> 'all', '[]'));
    if query -> 'sparse' = 'true' then
        return v_answer;
    end if;
    return v_answer || jsonb_build_object('segments', hotmesh._stats_table(v_ask, v_sums));
end
$$;
comment on function hotmesh.graph_stats(text, text, jsonb) is
'How many jobs of a topic started in a span, and what its measures come to. query: data (from which
the key is composed, as for a job), range (1h), start, end (NOW), granularity, sparse (without
segments). Counted are jobs of graphs whose trigger has stats.key or stats.measures. Raises 22023,
MSH22.';

-- The facets that were asked for, or all there are of `index` measures.
create or replace function hotmesh._stats_facets(ask hotmesh.stats_query, facets text[])
returns text[]
language plpgsql
as $$
declare
    v_bad text := (select min(f) from unnest(facets) f where strpos(f, ':') < 2);
begin
    if v_bad is not null then
        perform hotmesh._stats_refuse('a facet is field:value', to_jsonb(v_bad));
    elsif facets <> '{}' then
        return facets;
    end if;
    return array(
        select distinct format('%s:%s', m.about ->> 'target', r.measured ->> (m.about ->> 'target'))
        from hotmesh._stats_rows(ask) r
        cross join jsonb_array_elements(ask.measures) m (about)
        where m.about ->> 'measure' = 'index' and r.measured ? (m.about ->> 'target')
        order by 1);
end
$$;

-- The jobs of each facet, by segment, as they started.
create or replace function hotmesh._stats_found(ask hotmesh.stats_query, facets text[])
returns table (segment timestamptz, facet text, place bigint, ids text[])
language sql
stable
as $$
    select r.segment, f.facet, f.place, array_agg(r.job_key order by r.at, r.job_id)
    from hotmesh._stats_rows(ask) r
    join unnest(facets) with ordinality f (facet, place)
        on hotmesh._measure_is(r.measured, f.facet)
    group by r.segment, f.facet, f.place
$$;

create or replace function hotmesh.graph_ids(
    app text, topic text, query jsonb default '{}', facets text[] default '{}')
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_ask hotmesh.stats_query;
    v_facets text[];
begin
    perform hotmesh._enter(app);
    v_ask := hotmesh._stats_query(hotmesh._graph_get(topic), topic, query, '1h');
    v_facets := hotmesh._stats_facets(v_ask, coalesce(facets, '{}'));
    return hotmesh._stats_head(v_ask, query) || (
        with found as materialized (select * from hotmesh._stats_found(v_ask, v_facets))
        select jsonb_build_object(
            'facets', v_facets, 'counts', (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'facet', f.facet, 'count', (
                               select coalesce(sum(cardinality(i.ids)), 0) from found i
                               where i.place = f.place)) order by f.place), '[]')
                from unnest(v_facets) with ordinality f (facet, place)),
            'segments', (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'time', hotmesh._stats_label(g.segment), 'measures', coalesce((
                               select jsonb_agg(jsonb_build_object(
                                   'time', hotmesh._stats_label(i.segment), 'target', i.facet,
                                   'count', cardinality(i.ids), 'type', 'ids', 'ids', i.ids)
                                   order by i.place)
                               from found i where i.segment = g.segment), '[]'))
                           order by g.segment), '[]')
                from hotmesh._stats_segments(v_ask) g (segment)
                where query -> 'sparse' is distinct from 'true'
                   or exists (select from found i where i.segment = g.segment))));
end
$$;
comment on function hotmesh.graph_ids(text, text, jsonb, text[]) is
'Which jobs of a topic that started in a span have a facet, such as color:red; without any, those of
the `index` measures. query as for graph_stats; with sparse only segments that have some. Raises
22023, MSH22.';

-- The jobs that a signal to all is for; null: nothing was said of them.
create or replace function hotmesh._stats_jobs(
    graph hotmesh.graphs, query jsonb, facets text[])
returns bigint[]
language plpgsql
as $$
declare
    v_ask hotmesh.stats_query;
begin
    if coalesce(query, '{}') in ('{}', 'null') and coalesce(facets, '{}') = '{}' then
        return null;
    end if;
    v_ask := hotmesh._stats_query(graph, graph.topic, query, 'infinity');
    perform hotmesh._stats_facets(v_ask, facets);
    return array(
        select r.job_id from hotmesh._stats_rows(v_ask) r
        where coalesce(facets, '{}') = '{}'
           or exists (select from unnest(facets) f where hotmesh._measure_is(r.measured, f)));
end
$$;
