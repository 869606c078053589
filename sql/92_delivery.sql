-- 92 delivery: what a turn answers. Work is handed out with what is needed to do it: an activity
-- with its arguments, a run with the history that replay needs, or with its news alone to the
-- worker that still has the coroutine.

--@ state
create type hotmesh.delivery as (
    answer text, id bigint, token integer, kind text, queue text, name text,
    job_id bigint, key text, dimension text, sequence integer, attempt integer, args jsonb,
    cursor bigint, history jsonb, started double precision, due double precision, signal text,
    base integer);
comment on type hotmesh.delivery is
'One answer of a turn; times are seconds. task: work to do, `started` is when it was asked for and
`due` the time now, `history` that of a run or the timeouts of an activity, `signal` what a hook
shall signal, `base` the number after which a run numbers its steps; events: news for a run that is
held; leased: an announced activity, its id and token; stale, busy, kept: what became of a report
(no answer: applied); limits: in `args`, which queues have limits for their activities; next:
seconds until something is due, of a turn that reported nothing and was given nothing.';

--@ behaviour
-- Claims activities. A message whose job has closed meanwhile is dropped.
create or replace function hotmesh._delivery_activities(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_fit bigint[] := hotmesh._delivery_fit(ids);
    v_given integer;
begin
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension, s.sequence,
           s.attempt, s.args, null::bigint, s.timeouts,
           extract(epoch from j.created_at)::double precision,
           extract(epoch from hotmesh.now())::double precision,
           null::text, null::integer
    from streams s
    left join jobs j on j.id = s.job_id
    where s.id = any (v_fit) and (s.job_id is null or j.closed_at is null and j.id is not null);
    get diagnostics v_given = row_count;
    if v_given < cardinality(v_fit) then
        perform hotmesh._close_clear(array(
            select s.job_id
            from streams s
            where s.id = any (v_fit) and s.job_id is not null
              and not exists (select from jobs j where j.id = s.job_id and j.closed_at is null)));
    end if;
end
$$;

-- One answer carries about 8 MB of arguments, and always one message; what does not fit is put
-- back.
create or replace function hotmesh._delivery_fit(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_fit bigint[];
begin
    if (select sum(hotmesh._bytes(s.args)) from streams s where s.id = any (ids)) < 8388608 then
        return ids;
    end if;
    v_fit := array(
        select f.id
        from (
            select s.id,
                   coalesce(sum(hotmesh._bytes(s.args)) over (
                       order by s.priority desc, s.id
                       rows between unbounded preceding and 1 preceding), 0) as before
            from streams s
            where s.id = any (ids)) f
        where f.before < 8388608);
    if cardinality(v_fit) < cardinality(ids) then
        perform hotmesh._stream_postpone(
            array(select i from unnest(ids) i where i <> all (v_fit)), interval '0');
    end if;
    return v_fit;
end
$$;

create or replace function hotmesh._delivery_fold(ids bigint[])
returns hotmesh.report[]
language plpgsql
as $$
begin
    return hotmesh._progress_fold(array(
        select (s.id, s.token,
                case when s.dimension = '' then j.cursor
                     else hotmesh._hook_cursor(s.job_id, s.dimension) end,
                null, null, null, null, null, true, null, null, null,
                s.kind, s.job_id, s.dimension, null, null, null,
                null, false, null)::hotmesh.report
        from streams s
        join jobs j on j.id = s.job_id
        where s.id = any (ids)));
end
$$;

-- Hands out runs, whose jobs' locks the caller holds, with the history that replay needs, or to the
-- worker that still has the coroutine only the news. All share about 8 MB: of a large run a part
-- goes, and its worker reads on in pages.
create or replace function hotmesh._delivery_runs(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_runs hotmesh.report[] := hotmesh._delivery_fold(ids);
    v_told hotmesh.report[];
    v_now double precision := extract(epoch from hotmesh.now());
    v_size bigint := 8388608 / cardinality(ids);
begin
    v_told := array(select r from unnest(v_runs) r where r.news is not null);
    perform hotmesh._progress_conclude(v_told) where v_told <> '{}';
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension,
           s.cursor::integer, s.attempt,
           case when s.cursor is null
                then coalesce(h.value -> 'args', f.value) end,
           r.cursor,
           case when s.cursor is not null then coalesce(r.news, '[]')
                when r.cursor > 0 or s.token > 1
                    then hotmesh._query_entries(r.news)
                        || hotmesh._attribute_history(s.job_id, s.dimension, -2147483648, v_size)
                else hotmesh._query_entries(r.news) end,
           extract(epoch from s.created_at)::double precision,
           v_now, h.value ->> 'signal', s.sequence
    from unnest(v_runs) r
    join streams s on s.id = r.id
    join jobs j on j.id = s.job_id
    left join lateral (
        select a.value from jobs_attributes a
        where s.dimension <> '' and a.job_id = s.job_id and a.field = 'hook' || s.dimension
        offset 0) h on true
    left join lateral (
        select a.value from jobs_attributes a
        where s.cursor is null and s.dimension = '' and a.job_id = s.job_id
          and a.field = 'input' and hotmesh._bytes(a.value) <= v_size
        offset 0) f on true;
end
$$;

-- Of jobs that are done in one piece as many as one answer carries, and always one; the others are
-- put back.
create or replace function hotmesh._delivery_fit_whole(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_fit bigint[] := array(
        select f.id
        from (
            select s.id,
                   coalesce(sum(hotmesh._bytes(a.value)) over (
                       order by s.priority desc, s.id
                       rows between unbounded preceding and 1 preceding), 0) as before
            from streams s
            cross join lateral (
                select i.value from jobs_attributes i
                where i.job_id = s.job_id and i.field = 'input'
                offset 0) a
            where s.id = any (ids)) f
        where f.before < 8388608);
begin
    perform hotmesh._stream_postpone(array(
        select i from unnest(ids) i where i <> all (v_fit)), interval '0')
    where cardinality(v_fit) < cardinality(ids);
    return v_fit;
end
$$;

-- Jobs that are done in one piece, with their arguments. A message whose job has closed meanwhile
-- is dropped.
create or replace function hotmesh._delivery_whole(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_fit bigint[] := hotmesh._delivery_fit_whole(ids);
begin
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension, s.sequence,
           s.attempt, a.value, null::bigint, null::jsonb,
           extract(epoch from j.created_at)::double precision,
           extract(epoch from hotmesh.now())::double precision, null::text, null::integer
    from streams s
    join jobs j on j.id = s.job_id
    cross join lateral (
        select i.value from jobs_attributes i
        where i.job_id = s.job_id and i.field = 'input'
        offset 0) a
    where s.id = any (v_fit) and j.closed_at is null;
    perform hotmesh._close_clear(array(
        select s.job_id
        from streams s
        join jobs j on j.id = s.job_id
        where s.id = any (v_fit) and j.closed_at is not null))
    where v_fit <> '{}';
end
$$;

-- A run whose job is locked by somebody else comes back in 100 ms; one whose job is gone is
-- dropped.
create or replace function hotmesh._delivery_put_back(ids bigint[])
returns void
language plpgsql
as $$
begin
    if ids = '{}' then
        return;
    end if;
    perform hotmesh._stream_postpone(ids, interval '100 ms');
    perform hotmesh._close_clear(array(
        select s.job_id
        from streams s
        where s.id = any (ids)
          and not exists (select from jobs j where j.id = s.job_id and j.closed_at is null)));
end
$$;

create or replace function hotmesh._delivery_claim(
    kind text, worker text, want jsonb, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_take integer := coalesce((want ->> kind)::integer, 0);
    v_queues text[];
    v_names text[];
begin
    if v_take <= 0 or not exists (
        select from streams s where s.state = 'ready' and s.kind = _delivery_claim.kind)
    then
        return '{}';
    end if;
    select array_agg(q.value order by q.n),
           array_agg(want -> 'names' ->> q.n::integer - 1 order by q.n)
    into v_queues, v_names
    from jsonb_array_elements_text(want -> 'queues') with ordinality as q (value, n)
    where want -> 'kinds' ->> q.n::integer - 1 = kind;
    if v_queues is null then
        return '{}';
    end if;
    return hotmesh._limit_claim(kind, v_queues, v_names, worker, least(v_take, 1000), lease);
end
$$;

-- Claims runs and locks their jobs. Those that could not be locked go back, and the slots that they
-- leave are filled in the same turn: else its runs would march out of step with the others, and
-- every turn would claim and settle a few.
create or replace function hotmesh._delivery_claim_runs(
    worker text, want jsonb, lease interval, again boolean default true)
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := hotmesh._delivery_claim('workflow', worker, want, lease);
    v_locked bigint[];
    v_back bigint[];
begin
    if v_ids = '{}' then
        return v_ids;
    end if;
    v_locked := hotmesh._job_lock(array(select s.job_id from streams s where s.id = any (v_ids)));
    v_back := array(
        select s.id from streams s where s.id = any (v_ids) and s.job_id <> all (v_locked));
    if v_back = '{}' then
        return v_ids;
    end if;
    perform hotmesh._delivery_put_back(v_back);
    v_ids := array(select i from unnest(v_ids) i where i <> all (v_back));
    return v_ids || case when again then hotmesh._delivery_claim_runs(
        worker, want || jsonb_build_object('workflow', cardinality(v_back)), lease, false) end;
end
$$;

-- Tells a worker that runs activities inline which queues it must leave to the stream, if that has
-- changed.
create or replace function hotmesh._delivery_limits(known jsonb)
returns setof hotmesh.delivery
language sql
as $$
    select 'limits', null::bigint, null::integer, null::text, null::text, null::text, null::bigint,
           null::text, null::text, null::integer, null::integer, n, null::bigint, null::jsonb,
           null::double precision, null::double precision, null::text, null::integer
    from hotmesh._limit_news(known) n
    where n is not null
$$;

create or replace function hotmesh._delivery_work(worker text, want jsonb, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_relayed bigint[] := hotmesh._lease_relayed();
    v_ids bigint[];
begin
    perform hotmesh._lane_admit() where exists (select from lanes);
    v_ids := hotmesh._delivery_claim_runs(worker, want, lease);
    if v_ids <> '{}' then
        return query select (d).* from hotmesh._delivery_runs(v_ids) d;
    end if;
    if (want ->> 'activity')::integer > cardinality(v_relayed) then
        v_relayed := v_relayed || hotmesh._delivery_claim(
            'activity', worker, want || jsonb_build_object(
                'activity', (want ->> 'activity')::integer - cardinality(v_relayed)), lease);
    end if;
    if v_relayed <> '{}' then
        return query select (d).* from hotmesh._delivery_activities(v_relayed) d;
    end if;
end
$$;
