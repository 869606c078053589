-- 87 tick: schedules that are due become jobs. Any turn looks; it takes rows that nobody holds, and
-- starting the jobs and moving the row on is one transaction: a tick is dealt with once, whoever
-- dies. After downtime a tick that is up to a minute late starts, and of older ones the last; with
-- catchup_window all that it covers. A clock that goes back starts no tick again: its job is found,
-- be it archived. Errors: 22023; a start that is refused pauses its schedule and is kept there.

--@ state

--@ behaviour
-- The ticks up to now that are to be dealt with, oldest first, at most 100 at a time; and as the
-- last element the one after them, null if there is none.
create or replace function hotmesh._tick_due(schedule hotmesh.schedules, at timestamptz)
returns timestamptz[]
language plpgsql
as $$
declare
    v_window constant interval :=
        hotmesh._duration(schedule.options -> 'catchup_window', 'catchup_window');
    v_from constant timestamptz := at - coalesce(v_window, '1 minute');
    v_tick timestamptz := schedule.next_tick;
    v_due timestamptz[] := '{}';
begin
    if v_tick < v_from then
        v_tick := hotmesh._schedule_near(schedule, v_from - interval '1 microsecond', 1);
        if v_window is null and (v_tick is null or v_tick > at) then
            v_tick := hotmesh._schedule_near(schedule, at, -1);
        end if;
    end if;
    while v_tick <= at and cardinality(v_due) < 100 loop
        v_due := v_due || v_tick;
        v_tick := hotmesh._schedule_near(schedule, v_tick, 1);
    end loop;
    return v_due || v_tick;
end
$$;

-- Those ticks that have no job yet: the clock may have gone back, or they were backfilled.
create or replace function hotmesh._tick_fresh(name text, ticks timestamptz[])
returns timestamptz[]
language plpgsql
as $$
begin
    return array(
        select t
        from unnest(ticks) t
        where not exists (
            select from jobs_all j where j.key = name || '-' || hotmesh._schedule_stamp(t))
        order by t);
end
$$;

create or replace function hotmesh._tick_start(schedule hotmesh.schedules, ticks timestamptz[])
returns text[]
language plpgsql
as $$
declare
    v_requests hotmesh.job_request[] := array(
        select hotmesh._schedule_request(schedule, t) from unnest(ticks) t);
begin
    if ticks <> '{}' then
        perform hotmesh._start_open(v_requests);
    end if;
    return array(select r.key from unnest(v_requests) r);
end
$$;

-- Asks the open jobs of a schedule to make way for the next.
create or replace function hotmesh._tick_stop(schedule hotmesh.schedules, how text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_put(j.id, '', how, jsonb_build_object(
        'reason', format('the next tick of schedule "%s" has come', schedule.name)))
    from jobs j
    where j.key = any (schedule.running) and j.closed_at is null;
end
$$;

-- Starts what the policy lets start now; the rest is buffered or dropped.
create or replace function hotmesh._tick_serve(schedule hotmesh.schedules, ticks timestamptz[])
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_stop constant text := case schedule.overlap
        when 'cancel_other' then 'cancel' when 'terminate_other' then 'interrupt' end;
    v_todo timestamptz[] := schedule.buffered || ticks;
    v_all constant integer := cardinality(v_todo);
    v_take constant integer := case
        when schedule.overlap = 'allow_all' then v_all
        when schedule.running = '{}' or v_stop = 'interrupt' then 1 else 0 end;
    v_keep constant integer := case
        when schedule.overlap in ('buffer_one', 'cancel_other') then 1
        when schedule.overlap = 'buffer_all' then 1000 else 0 end;
    v_keys text[];
begin
    if v_stop is not null then
        v_todo := v_todo[v_all:];
        if ticks <> '{}' then
            perform hotmesh._tick_stop(schedule, v_stop);
        end if;
    end if;
    v_keys := hotmesh._tick_start(schedule, v_todo[1:v_take]);
    schedule.started := schedule.started + cardinality(v_keys);
    schedule.buffered := v_todo[v_take + 1:v_take + v_keep];
    schedule.skipped := schedule.skipped
        + v_all - cardinality(v_keys) - cardinality(schedule.buffered);
    if schedule.overlap <> 'allow_all' then
        schedule.running := schedule.running || v_keys;
    end if;
    return schedule;
end
$$;

-- What a turn does with a schedule that it holds. A start that failed (93) pauses it, so that it
-- costs nobody else anything.
create or replace function hotmesh._tick_move(schedule hotmesh.schedules, error jsonb)
returns void
language plpgsql
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_due timestamptz[];
    v_next timestamptz;
begin
    if schedule.planned_at > v_now + interval '1 minute' then
        v_due := array[hotmesh._schedule_near(schedule, v_now, 1)];  -- the clock went back
    else
        v_due := hotmesh._tick_due(schedule, v_now);
    end if;
    v_next := v_due[cardinality(v_due)];
    v_due := v_due[:cardinality(v_due) - 1];
    schedule.running := array(
        select j.key from jobs j where j.key = any (schedule.running) and j.closed_at is null);
    if error is null then
        schedule := hotmesh._tick_serve(schedule, hotmesh._tick_fresh(schedule.name, v_due));
    else
        schedule.paused_at := v_now;
        schedule.error := error;
    end if;
    schedule.last_tick := coalesce(v_due[cardinality(v_due)], schedule.last_tick);
    perform hotmesh._schedule_save(hotmesh._schedule_plan(schedule, v_next));
end
$$;

-- Schedules that are due, or whose plan is of a time to come.
create or replace function hotmesh._tick_names(at timestamptz, take integer)
returns text[]
language plpgsql
as $$
begin
    return array(
        select s.name from schedules s
        where s.due_at <= at
        order by s.due_at
        limit take)
    || array(
        select s.name from schedules s
        where s.due_at is not null and s.planned_at > at + interval '1 minute'
        order by s.planned_at desc
        limit take);
end
$$;

-- Takes schedules for which something is to be done, and that nobody holds.
create or replace function hotmesh._tick_take(take integer)
returns hotmesh.schedules[]
language plpgsql
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_names text[];
begin
    if not exists (select from schedules s where s.due_at <= v_now)
        and not exists (
            select from schedules s
            where s.due_at is not null and s.planned_at > v_now + interval '1 minute')
    then
        return '{}';
    end if;
    v_names := hotmesh._tick_names(v_now, take);
    return array(
        select (s::hotmesh.schedules)
        from schedules s
        where s.name = any (v_names)
          and (s.due_at <= v_now
               or s.due_at is not null and s.planned_at > v_now + interval '1 minute')
        order by s.due_at
        for update skip locked);
end
$$;

-- Seconds until the next schedule is due.
create or replace function hotmesh._tick_next_due()
returns double precision
language plpgsql
as $$
begin
    return (
        select greatest(0, extract(epoch from s.due_at - hotmesh.now()))
        from schedules s
        where s.due_at is not null
        order by s.due_at
        limit 1);
end
$$;

create or replace function hotmesh.schedule_trigger(app text, name text)
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule hotmesh.schedules;
    v_keys text[];
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_schedule := hotmesh._schedule_hold(name);
    v_keys := hotmesh._tick_start(v_schedule, array[hotmesh.now()]);
    v_schedule.started := v_schedule.started + 1;
    if v_schedule.overlap <> 'allow_all' then
        v_schedule.running := v_schedule.running || v_keys;
    end if;
    perform hotmesh._schedule_save(v_schedule);
    select (j::hotmesh.jobs).* into v_job from jobs j where j.key = v_keys[1];
    return v_job;
end
$$;
comment on function hotmesh.schedule_trigger(text, text) is
'Start the workflow of a schedule now, paused or not, whatever is open; its next ticks stay as they
are. Raises MSH86.';

create or replace function hotmesh._tick_check_range(start_at timestamptz, end_at timestamptz)
returns void
language plpgsql
as $$
begin
    if start_at is null or end_at is null or not isfinite(start_at) or start_at > end_at
        or end_at > hotmesh.now()
    then
        perform hotmesh._refuse_argument(
            'a backfill needs a time that has passed',
            format('It goes from %s to %s.', coalesce(start_at::text, 'null'),
                   coalesce(end_at::text, 'null')),
            'Both ends count: start_at => ''2027-03-01'', end_at => ''2027-03-08''.');
    end if;
end
$$;

create or replace function hotmesh.schedule_backfill(
    app text, name text, start_at timestamptz, end_at timestamptz)
returns setof hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule hotmesh.schedules;
    v_tick timestamptz;
    v_ticks timestamptz[] := '{}';
    v_keys text[];
begin
    perform hotmesh._enter(app);
    v_schedule := hotmesh._schedule_hold(name);
    perform hotmesh._tick_check_range(start_at, end_at);
    v_tick := hotmesh._schedule_near(
        v_schedule, schedule_backfill.start_at - interval '1 microsecond', 1);
    while v_tick <= schedule_backfill.end_at and cardinality(v_ticks) <= 1000 loop
        v_ticks := v_ticks || v_tick;
        v_tick := hotmesh._schedule_near(v_schedule, v_tick, 1);
    end loop;
    if cardinality(v_ticks) > 1000 then
        perform hotmesh._refuse_argument(
            format('there are more than 1000 ticks between %s and %s', start_at, end_at),
            'Nothing was started: one call makes up for at most 1000.', 'Take it in parts.');
    end if;
    v_keys := hotmesh._tick_start(v_schedule, hotmesh._tick_fresh(name, v_ticks));
    v_schedule.started := v_schedule.started + cardinality(v_keys);
    perform hotmesh._schedule_save(v_schedule);
    return query
    select (j::hotmesh.jobs).* from jobs j where j.key = any (v_keys) order by j.key;
end
$$;
comment on function hotmesh.schedule_backfill(text, text, timestamptz, timestamptz) is
'Start what a schedule would have started in a time that has passed, both ends included, all at
once; ticks that have a job already are left out. Returns the jobs that it started; at most 1000 in
one call. Raises MSH86, 22023.';
