-- 31 inbox: news for a job are rows of `streams`. An event is `ready` until its job was told of it,
-- then `waiting` in the job's inbox until the run's next report or claim takes it. Who writes it
-- needs no lock on the job: any later turn files what is still ready. By name: `result` (a step's
-- answer), `report` (all of a worker whose job was locked by somebody else), `query` (63), the
-- orders `hook`, `cancel`, `interrupt`, `update` (87). A `signal` (60) is of a kind of its own
-- until it has met its wait, so that looks for events pass over what is kept.

--@ state

--@ behaviour
-- Takes the results that wait for functions whose jobs' locks the caller holds, up to 500 of each:
-- a run that got news stays held, and its next report takes the rest.
create or replace function hotmesh._inbox_take(job_ids bigint[], dimensions text[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(job_ids, dimensions) as f (job_id, dimension)
            cross join lateral (
                select m.id from streams m
                where m.job_id = f.job_id and m.kind = 'event' and m.name = 'result'
                  and m.dimension = f.dimension
                order by m.visible_at, m.id limit 500 for update skip locked) e))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event) into v_events from taken t;
    return v_events;
end
$$;

-- Finished activities of graphs, as the events that tell their jobs at once: they are never laid
-- down. Their messages stay for what comes next (32), or to be dropped. They have no deadlines.
create or replace function hotmesh._inbox_finish(ids bigint[], outputs jsonb[])
returns hotmesh.streams[]
language plpgsql
as $$
begin
    return array(
        select (
            s.id, 'event', 'waiting', '', 'result', 0, s.job_id, s.dimension, s.sequence, null,
            jsonb_build_object('output', outputs[array_position(ids, s.id)]), null, 0, 0,
            null, null, null, null, null, null, null)::hotmesh.streams
        from streams s
        where s.id = any (ids)
        order by s.id);
end
$$;

-- Takes the results that wait for graphs whose jobs' locks the caller holds, up to 500 of each.
create or replace function hotmesh._inbox_drain(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    if hotmesh._inbox_jobs(job_ids, '{result}') = '{}' then
        return '{}';
    end if;
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(job_ids) as j (id)
            cross join lateral (
                select m.id from streams m
                where m.job_id = j.id and m.kind = 'event' and m.name = 'result'
                order by m.visible_at, m.id limit 500 for update skip locked) e))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).visible_at, (t.event).id) into v_events
    from taken t;
    return coalesce(v_events, '{}');
end
$$;

-- Places (job and dimension) of these jobs for which there is news.
create or replace function hotmesh._inbox_left(job_ids bigint[])
returns text[]
language plpgsql
as $$
begin
    return array(
        select distinct s.job_id || s.dimension from streams s
        where s.job_id = any (job_ids) and s.kind = 'event' and s.name in ('result', 'query'));
end
$$;

-- Files the news of jobs whose locks the caller holds and makes their waiting functions ready. News
-- of a function whose message is locked this instant (its lease is being extended) stay unfiled, so
-- that a later turn comes back to it: filed news of a function that waits would wake nobody.
-- Returns the workers that hold one that runs.
create or replace function hotmesh._inbox_route(job_ids bigint[])
returns text[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_seen bigint[] := hotmesh._inbox_functions(job_ids);
    v_holders text[];
begin
    update streams e
    set state = case e.state when 'ready' then 'waiting' else 'ready' end
    where e.id = any (array(
        select m.id
        from streams m
        where m.job_id = any (job_ids) and m.kind = 'event' and m.name in ('result', 'query')
          and (m.state = 'waiting') <> exists (
              select from streams f
              where f.job_id = m.job_id and f.kind = 'workflow' and f.dimension = m.dimension
                and f.id = any (v_seen))
        for update skip locked));
    update streams s set state = 'ready', visible_at = v_now
    where s.id = any (v_seen) and s.state = 'waiting';
    select array_agg(distinct m.worker) into v_holders
    from streams m
    where m.id = any (v_seen) and m.state in ('leased', 'ready') and m.worker is not null;
    return v_holders;
end
$$;

-- Answers of functions that have ended which could not be taken, being locked: news brings a turn
-- back to them.
create or replace function hotmesh._inbox_remind(job_ids bigint[], dimensions text[])
returns void
language plpgsql
as $$
declare
    v_left hotmesh.streams[] := array(
        select hotmesh._inbox_event('result', f.job_id, f.dimension, null, '{}')
        from unnest(job_ids, dimensions) as f (job_id, dimension)
        where exists (
            select from streams s
            where s.job_id = f.job_id and s.kind = 'event' and s.name = 'result'
              and s.dimension = f.dimension));
begin
    if v_left <> '{}' then
        perform hotmesh._inbox_add(v_left);
    end if;
end
$$;

-- News for functions that have ended, of jobs that go on; if some of it is not filed, all of it.
-- What is locked this instant is left, and brings a turn back to it.
create or replace function hotmesh._inbox_orphans(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_jobs bigint[];
    v_dimensions text[];
    v_orphans hotmesh.streams[];
begin
    select array_agg(n.job_id), array_agg(n.dimension) into v_jobs, v_dimensions
    from (
        select distinct e.job_id, e.dimension from streams e
        where e.job_id = any (job_ids) and e.kind = 'event' and e.state = 'ready'
          and e.name in ('result', 'query')
          and not exists (
              select from streams f
              where f.job_id = e.job_id and f.kind = 'workflow'
                and f.dimension = e.dimension)) n;
    with gone as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(v_jobs, v_dimensions) as f (job_id, dimension)
            join streams e
                on e.job_id = f.job_id and e.kind = 'event' and e.dimension = f.dimension
                and e.name in ('result', 'query')
            for update of e skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(g.event) into v_orphans from gone g where v_jobs is not null;
    perform hotmesh._inbox_remind(v_jobs, v_dimensions) where v_jobs is not null;
    return v_orphans;
end
$$;

-- Takes what these jobs had of signals by name, so that one turn alone passes them on: answers, and
-- what was kept for a run that started over.
create or replace function hotmesh._inbox_published(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id from streams e
            where e.job_id = any (job_ids) and e.kind in ('event', 'signal')
              and e.name in ('result', 'signal') and e.args ? 'published'
            for update skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).id) into v_events from taken t;
    return v_events;
end
$$;

-- The functions of these jobs for which there are results and whose messages can be locked now.
create or replace function hotmesh._inbox_functions(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select f.id
        from (
            select distinct e.job_id, e.dimension
            from streams e
            where e.job_id = any (job_ids) and e.kind = 'event'
              and e.name in ('result', 'query')) p
        cross join lateral (
            select m.id from streams m
            where m.job_id = p.job_id and m.kind = 'workflow' and m.dimension = p.dimension
            for update skip locked) f);
end
$$;

-- Jobs behind this one for which there is news to file, each found by one look, however much there
-- is for one.
create or replace function hotmesh._inbox_unfiled(
    names text[], take integer, after bigint default 0)
returns bigint[]
language plpgsql
as $$
begin
    if not exists (
        select from streams s
        where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = any (names))
    then
        return '{}';
    end if;
    return array(
        with recursive found (name, job_id) as (
            select n.name, after from unnest(names) n (name)
            union all
            select f.name, (
                select min(s.job_id) from streams s
                where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = f.name
                  and s.job_id > f.job_id)
            from found f
            where f.job_id is not null)
        select f.job_id from found f where f.job_id > after limit take);
end
$$;

-- The last of them.
create or replace function hotmesh._inbox_last(names text[])
returns bigint
language plpgsql
as $$
begin
    return (
        select max(l.job_id)
        from unnest(names) n (name)
        cross join lateral (
            select max(s.job_id) as job_id from streams s
            where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = n.name) l);
end
$$;

create or replace function hotmesh._inbox_put(
    job_id bigint, dimension text, name text, args jsonb, id bigint default null)
returns void
language plpgsql
as $$
begin
    insert into streams (id, kind, name, state, job_id, dimension, args, visible_at, created_at)
    values (coalesce(id, nextval('hotmesh.ids')),
            case name when 'signal' then name else 'event' end,
            name, 'ready', job_id, dimension, args, hotmesh.now(), hotmesh.now());
end
$$;

-- A piece of news, to be added.
create or replace function hotmesh._inbox_event(
    name text, job_id bigint, dimension text, sequence integer, args jsonb)
returns hotmesh.streams
language sql
stable
as $$
    select jsonb_populate_record(null::hotmesh.streams, jsonb_build_object(
        'name', name, 'job_id', job_id, 'dimension', dimension, 'sequence', sequence,
        'args', args))
$$;

create or replace function hotmesh._inbox_add(events hotmesh.streams[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select 'event', e.name, 'ready', e.job_id, e.dimension, e.sequence, e.args, v_now, v_now
    from unnest(events) e;
end
$$;

-- The answer of a step; `waiting` if its function takes it in this turn, under its job's lock.
create or replace function hotmesh._inbox_told(
    job_id bigint, dimension text, sequence integer, args jsonb, state text)
returns void
language plpgsql
as $$
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    values ('event', 'result', state, job_id, dimension, sequence, args, hotmesh.now(),
            hotmesh.now());
end
$$;

-- Signals that met their waits become those steps' results: new rows, since one that was locked in
-- a subtransaction and deleted outside of it stays in the way of every look until it is vacuumed.
create or replace function hotmesh._inbox_answer(
    ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
begin
    with met as (
        delete from streams s
        using unnest(ids, dimensions, sequences) as a (id, dimension, sequence)
        where s.id = any (ids) and s.id = a.id
        returning s.id, s.job_id, a.dimension, a.sequence, s.args, s.visible_at, s.created_at)
    insert into streams (
        id, kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select m.id, 'event', 'result', 'ready', m.job_id, m.dimension, m.sequence, m.args,
           m.visible_at, m.created_at
    from met m;
end
$$;

-- The signals to these jobs that are not filed, locked. In no order: that would be the order of the
-- primary key, and a look at every message there is.
create or replace function hotmesh._inbox_signals(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select m.id
        from streams m
        where m.name = 'signal' and m.job_id = any (job_ids)
          and m.kind = 'signal' and m.state = 'ready'
        for update skip locked);
end
$$;

create or replace function hotmesh._inbox_file(ids bigint[])
returns void
language plpgsql
as $$
begin
    update streams s set state = 'waiting' where s.id = any (ids) and s.state = 'ready';
end
$$;

-- Signals to a job that were filed and could not be taken when a wait for them was opened.
create or replace function hotmesh._inbox_unfile(job_ids bigint[], names text[])
returns void
language plpgsql
as $$
begin
    update streams s set state = 'ready'
    where s.id = any (array(
        select m.id
        from unnest(job_ids, names) as w (job_id, name)
        join streams m
            on m.job_id = w.job_id and m.kind = 'signal' and m.dimension = w.name
            and m.state = 'waiting'
        for update of m skip locked));
end
$$;

create or replace function hotmesh._inbox_jobs(job_ids bigint[], names text[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select distinct s.job_id from streams s
        where s.job_id = any (job_ids) and s.kind = 'event' and s.name = any (names));
end
$$;

create or replace function hotmesh._inbox_release(ids bigint[])
returns jsonb
language plpgsql
as $$
declare
    v_kept jsonb;
begin
    with taken as (delete from streams s where s.id = any (ids) returning s.id, s.args)
    select coalesce(jsonb_agg(t.args || '{"was_kept": true}' order by t.id), '[]') into v_kept
    from taken t;
    return v_kept;
end
$$;

-- Orders for jobs whose locks the caller holds, in the order in which they were given.
create or replace function hotmesh._inbox_orders(job_ids bigint[], names text[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_orders hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select m.id from streams m
            where m.job_id = any (job_ids) and m.kind = 'event' and m.name = any (names)
            for update skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).id) into v_orders from taken t;
    return coalesce(v_orders, '{}');
end
$$;

-- Locks the messages of a function's steps and their answers; false if somebody else has one this
-- instant.
create or replace function hotmesh._inbox_hold(job_id bigint, dimension text)
returns boolean
language plpgsql
as $$
declare
    v_mine bigint[] := array(
        select m.id from streams m
        where m.job_id = _inbox_hold.job_id and m.dimension = _inbox_hold.dimension
          and (m.kind in ('timer', 'activity') or m.name in ('result', 'effect'))
        for update skip locked);
begin
    return not exists (
        select from streams m
        where m.job_id = _inbox_hold.job_id and m.dimension = _inbox_hold.dimension
          and (m.kind in ('timer', 'activity') or m.name in ('result', 'effect'))
          and m.id <> all (v_mine));
end
$$;

-- Takes the answers of these steps.
create or replace function hotmesh._inbox_withdraw(
    job_ids bigint[], dimensions text[], sequences integer[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select m.id
            from unnest(job_ids, dimensions, sequences) as c (job_id, dimension, sequence)
            join streams m
                on m.job_id = c.job_id and m.kind = 'event' and m.name in ('result', 'effect')
                and m.dimension = c.dimension and m.sequence = c.sequence
            for update of m skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event) into v_events from taken t;
    return v_events;
end
$$;

-- What is left of functions that have ended, or with `activations` false, that start over. Never an
-- answer that was a signal: one that was locked until this instant still has to be given back.
create or replace function hotmesh._inbox_drop(
    job_ids bigint[], dimensions text[], activations boolean)
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from unnest(job_ids, dimensions) as f (job_id, dimension)
        join streams m on m.job_id = f.job_id and m.dimension = f.dimension
        where m.state <> 'dead'
          and case m.kind when 'event' then m.name in ('result', 'effect')
                              and not coalesce(m.args, '{}') ? 'signal'
                          when 'signal' then false
                          when 'workflow' then activations
                          when 'timer' then m.name <> 'interrupt'
                          else true end
        for update of m skip locked));
end
$$;
