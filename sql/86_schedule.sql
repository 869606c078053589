-- 86 schedule: recurring starts. A row knows its next tick; whoever turns when it is due starts the
-- job and moves the row on, in one transaction (87). A tick is an instant of a crontab line (71) in
-- a time zone, or of an interval counted from 1970-01-01 UTC, moved by the option `offset`. The key
-- of its job is made of the schedule's name and the tick, so no tick can start two.
-- Errors: 22023, MSH86 no such schedule, MSH87 there is one.

--@ state
create table hotmesh.schedules (
    name text not null,
    workflow text not null,
    args jsonb not null,
    queue text,
    cron text,
    every interval,
    timezone text not null,
    overlap text not null,
    options jsonb not null,
    note text,
    paused_at timestamptz,
    error jsonb,
    last_tick timestamptz,
    next_tick timestamptz,
    due_at timestamptz,
    planned_at timestamptz not null,
    buffered timestamptz[] not null default '{}',
    running text[] not null default '{}',
    started bigint not null default 0,
    skipped bigint not null default 0,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint schedules_pkey primary key (name),
    constraint a_schedule_has_a_cron_line_or_an_interval check ((cron is null) <> (every is null)),
    constraint overlap_is_known check (
        overlap in ('skip', 'buffer_one', 'buffer_all', 'allow_all', 'cancel_other',
                    'terminate_other')),
    constraint a_paused_schedule_is_never_due check (paused_at is null or due_at is null)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.schedules is 'One row per recurring start.';
comment on column hotmesh.schedules.name is 'Its name; the keys of its jobs begin with it.';
comment on column hotmesh.schedules.workflow is 'The workflow that it starts.';
comment on column hotmesh.schedules.args is 'The arguments of each start.';
comment on column hotmesh.schedules.queue is 'The task queue of each start.';
comment on column hotmesh.schedules.cron is 'When: a crontab line, read in the time zone.';
comment on column hotmesh.schedules.every is 'Or how often.';
comment on column hotmesh.schedules.timezone is 'The time zone of the crontab line.';
comment on column hotmesh.schedules.overlap is
'What a tick does while an earlier job is open: skip, buffer_one, buffer_all, allow_all,
cancel_other or terminate_other.';
comment on column hotmesh.schedules.options is
'Options of each start; and offset, start_at, end_at, catchup_window, entity.';
comment on column hotmesh.schedules.note is 'What people say about it, for instance why it paused.';
comment on column hotmesh.schedules.paused_at is 'Since when it is paused; null while it is not.';
comment on column hotmesh.schedules.error is 'Why the engine paused it: a start that was refused.';
comment on column hotmesh.schedules.last_tick is 'The last tick that was dealt with.';
comment on column hotmesh.schedules.next_tick is 'The next tick; null when there is none any more.';
comment on column hotmesh.schedules.due_at is
'When a turn looks at it: at its next tick, or sooner while a tick is buffered.';
comment on column hotmesh.schedules.planned_at is
'When next_tick was found. If that is in the future, the clock went back: it is found anew.';
comment on column hotmesh.schedules.buffered is 'Ticks that wait for an open job to end.';
comment on column hotmesh.schedules.running is 'Keys of the jobs that may still be open.';
comment on column hotmesh.schedules.started is 'How many jobs it has started.';
comment on column hotmesh.schedules.skipped is 'How many ticks met an open job and were dropped.';
comment on column hotmesh.schedules.created_at is 'When it was created.';
comment on column hotmesh.schedules.updated_at is 'When it last moved.';
create index schedules_due on hotmesh.schedules (due_at) where due_at is not null;
create index schedules_planned on hotmesh.schedules (planned_at) where due_at is not null;

--@ behaviour
create or replace function hotmesh._schedule_refuse_missing(name text)
returns void
language plpgsql
as $$
begin
    raise exception 'schedule % not found', hotmesh._named(name) using
        errcode = 'MSH86',
        detail = 'No schedule of this app has this name.',
        hint = 'hotmesh.schedule_list shows those there are.';
end
$$;

create or replace function hotmesh._schedule_refuse_taken(name text)
returns void
language plpgsql
as $$
begin
    raise exception 'schedule "%" already exists', name using
        errcode = 'MSH87',
        detail = 'Names of schedules are unique within an app.',
        hint = 'Choose another name, or the option on_conflict existing (leaves it as it is) or '
               || 'replace (changes it).';
end
$$;

-- An instant among the options; one without an offset is read in the schedule's time zone.
create or replace function hotmesh._schedule_instant(options jsonb, name text, zone text)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_parts constant text[] := regexp_match(
        options ->> name,
        '^(\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?)'
        || '( ?(?:Z|[+-]\d\d(?::?\d\d)?))?$');
begin
    if options ->> name is not null and v_parts is null then
        perform hotmesh._refuse_argument(
            format('%s is no instant: %s', name, left(options ->> name, 60)),
            'An instant is a text such as "2027-03-28T02:30:00+01:00".',
            'Leave it out for no limit.');
    end if;
    return case when v_parts[2] is null then v_parts[1]::timestamp at time zone zone
                else (v_parts[1] || v_parts[2])::timestamptz end;
end
$$;

-- The options that are the schedule's own; the rest belongs to each start.
create or replace function hotmesh._schedule_own()
returns text[]
language sql
immutable
parallel safe
as $$
    select '{offset,start_at,end_at,catchup_window,entity,note,paused,on_conflict}'::text[]
$$;

create or replace function hotmesh._schedule_check_options(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
declare
    v_options constant jsonb := schedule.options;
    v_window interval := hotmesh._duration(v_options -> 'catchup_window', 'catchup_window');
begin
    if jsonb_typeof(v_options) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'options are no JSON object', left(v_options::text, 200), 'Give {"note": "…"}.');
    end if;
    perform hotmesh._duration(v_options -> 'offset', 'offset'),
            hotmesh._schedule_instant(v_options, 'start_at', schedule.timezone),
            hotmesh._schedule_instant(v_options, 'end_at', schedule.timezone);
    if v_window < interval '10 s' then
        perform hotmesh._refuse_argument(
            format('catchup_window is too short: %s', v_window),
            'Every start is a little late: a window has at least 10 s.',
            'Leave it out: then a tick that is up to a minute late starts, and of older ones the '
            || 'last.');
    elsif coalesce(v_options ->> 'on_conflict', 'reject') not in ('reject', 'existing', 'replace')
    then
        perform hotmesh._refuse_argument(
            format('unknown on_conflict: %s', left(v_options ->> 'on_conflict', 60)),
            'What to do when there is a schedule of this name: reject, existing, replace.',
            'Leave it out for reject.');
    elsif jsonb_typeof(coalesce(v_options -> 'paused', 'false')) <> 'boolean' then
        perform hotmesh._refuse_argument(
            'paused is no boolean', left((v_options -> 'paused')::text, 60), 'Say true or false.');
    end if;
end
$$;

create or replace function hotmesh._schedule_check(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
begin
    if octet_length(schedule.name) is null
        or octet_length(schedule.name) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'a schedule needs a name of 1 to 500 bytes',
            format('It was %s.', coalesce(quote_literal(left(schedule.name, 60)), 'null')),
            'The keys of its jobs begin with it.');
    elsif (schedule.cron is null) = (schedule.every is null) then
        perform hotmesh._refuse_argument(
            format('schedule "%s" needs either cron or every', schedule.name),
            format('cron was %s, every was %s.', coalesce(left(schedule.cron, 60), 'null'),
                   coalesce(schedule.every::text, 'null')),
            'For instance cron => ''30 2 * * *'', or every => ''15 minutes''.');
    elsif schedule.every is not null and (
        extract(year from schedule.every) <> 0 or extract(month from schedule.every) <> 0
        or schedule.every not between interval '100 ms' and interval '3650 days')
    then
        perform hotmesh._refuse_argument(
            format('bad every: %s', schedule.every),
            'An interval has a fixed length, from 100 ms to 3650 days.',
            'Months and years are a crontab line: @monthly, @yearly.');
    elsif schedule.overlap is null
        or schedule.overlap not in ('skip', 'buffer_one', 'buffer_all', 'allow_all', 'cancel_other',
                                    'terminate_other') then
        perform hotmesh._refuse_argument(
            format('unknown overlap: %s', left(schedule.overlap, 60)),
            'While an earlier job of the schedule is open, a tick is dropped (skip), waits '
            || '(buffer_one, buffer_all), starts all the same (allow_all), or ends that job and '
            || 'takes its place (cancel_other, terminate_other).',
            'Leave it out for skip.');
    end if;
end
$$;

-- What the job of a tick is called, and what it knows of its tick.
create or replace function hotmesh._schedule_stamp(tick timestamptz)
returns text
language sql
stable
as $$
    select rtrim(rtrim(to_char(tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.')
        || 'Z'
$$;

-- The start of one tick, checked as any start is. It says where it comes from.
create or replace function hotmesh._schedule_request(
    schedule hotmesh.schedules, tick timestamptz)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_stamp constant text := hotmesh._schedule_stamp(tick);
    v_options constant jsonb := schedule.options - hotmesh._schedule_own();
    v_request hotmesh.job_request;
begin
    v_request.key := schedule.name || '-' || v_stamp;
    v_request.workflow := schedule.workflow;
    v_request.queue := schedule.queue;
    v_request.entity := schedule.options ->> 'entity';
    v_request.args := schedule.args;
    v_request.options := v_options || jsonb_build_object(
        'on_conflict', 'existing',
        'search', coalesce(nullif(v_options -> 'search', 'null'), '{}')
            || jsonb_build_object('schedule', schedule.name, 'scheduled_at', v_stamp));
    return hotmesh._start_request(v_request, hotmesh._setting('value_limit', 16777216));
end
$$;

-- The next tick after an instant, or with step -1 the last one up to it.
create or replace function hotmesh._schedule_near(
    schedule hotmesh.schedules, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_every constant numeric := extract(epoch from schedule.every);
    v_offset constant numeric := extract(epoch from coalesce(
        hotmesh._duration(schedule.options -> 'offset', 'offset'), '0'));
    v_start constant timestamptz := hotmesh._schedule_instant(
        schedule.options, 'start_at', schedule.timezone);
    v_end constant timestamptz := hotmesh._schedule_instant(
        schedule.options, 'end_at', schedule.timezone);
    v_tick timestamptz;
begin
    at := case when step > 0 then greatest(at, v_start - interval '1 microsecond')
               else least(at, v_end) end;
    if schedule.cron is not null then
        v_tick := hotmesh._cron_near(
            hotmesh._cron_parse(schedule.cron), schedule.timezone, at, step);
    else
        v_tick := timestamptz 'epoch' + make_interval(secs => (v_offset + v_every * (
            floor((extract(epoch from at)::numeric - v_offset) / v_every)
            + case when step > 0 then 1 else 0 end))::double precision);
    end if;
    return case when v_tick < v_start or v_tick > v_end then null else v_tick end;
end
$$;

-- Its next tick, as found from where the clock is now.
create or replace function hotmesh._schedule_plan(
    schedule hotmesh.schedules, next_tick timestamptz)
returns hotmesh.schedules
language plpgsql
as $$
begin
    schedule.planned_at := hotmesh.now();
    schedule.updated_at := schedule.planned_at;
    schedule.next_tick := _schedule_plan.next_tick;
    schedule.due_at := case
        when schedule.paused_at is not null then null
        when schedule.buffered <> '{}'
            then least(schedule.next_tick, schedule.planned_at + interval '1 s')
        else schedule.next_tick end;
    return schedule;
end
$$;

create or replace function hotmesh._schedule_save(schedule hotmesh.schedules)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_row hotmesh.schedules;
begin
    update schedules s
    set workflow = schedule.workflow, args = schedule.args, queue = schedule.queue,
        cron = schedule.cron, every = schedule.every, timezone = schedule.timezone,
        overlap = schedule.overlap, options = schedule.options, note = schedule.note,
        paused_at = schedule.paused_at, error = schedule.error, last_tick = schedule.last_tick,
        next_tick = schedule.next_tick, due_at = schedule.due_at,
        planned_at = schedule.planned_at, buffered = schedule.buffered,
        running = schedule.running, started = schedule.started, skipped = schedule.skipped,
        updated_at = schedule.updated_at
    where s.name = schedule.name
    returning (s::hotmesh.schedules).* into v_row;
    return v_row;
end
$$;

-- Its row, locked. Only doors wait here; a turn takes what is free.
create or replace function hotmesh._schedule_hold(name text)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_row hotmesh.schedules;
begin
    select (s::hotmesh.schedules).* into v_row
    from schedules s
    where s.name = _schedule_hold.name
    for update;
    if v_row.name is null then
        perform hotmesh._schedule_refuse_missing(name);
    end if;
    return v_row;
end
$$;

create or replace function hotmesh._schedule_add(schedule hotmesh.schedules)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_policy constant text := coalesce(schedule.options ->> 'on_conflict', 'reject');
    v_row hotmesh.schedules;
begin
    insert into schedules as s (
        name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at,
        next_tick, due_at, planned_at, created_at, updated_at)
    values (schedule.name, schedule.workflow, schedule.args, schedule.queue, schedule.cron,
            schedule.every, schedule.timezone, schedule.overlap, schedule.options, schedule.note,
            schedule.paused_at, schedule.next_tick, schedule.due_at, schedule.planned_at,
            schedule.planned_at, schedule.updated_at)
    on conflict (name) do nothing
    returning (s::hotmesh.schedules).* into v_row;
    if v_row.name is null then
        if v_policy = 'reject' then
            perform hotmesh._schedule_refuse_taken(schedule.name);
        elsif v_policy = 'existing' then
            select (s::hotmesh.schedules).* into v_row
            from schedules s
            where s.name = schedule.name;
        else
            v_row := hotmesh._schedule_hold(schedule.name);
            schedule.last_tick := v_row.last_tick;
            schedule.running := v_row.running;
            schedule.started := v_row.started;
            schedule.skipped := v_row.skipped;
            schedule.buffered := '{}';
            v_row := hotmesh._schedule_save(schedule);
        end if;
    end if;
    return v_row;
end
$$;

create or replace function hotmesh.schedule_create(
    app text, name text, workflow text, args jsonb default '[]', queue text default null,
    cron text default null, every interval default null, timezone text default 'UTC',
    overlap text default 'skip', options jsonb default '{}')
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row.name := name;
    v_row.workflow := workflow;
    v_row.args := args;
    v_row.queue := queue;
    v_row.cron := btrim(cron, E' \t\r\n');
    v_row.every := every;
    v_row.timezone := hotmesh._cron_zone(timezone);
    v_row.overlap := overlap;
    v_row.options := coalesce(nullif(options, 'null'), '{}');
    perform hotmesh._job_check_size('options', options);
    v_row.note := options ->> 'note';
    v_row.buffered := '{}';
    perform hotmesh._schedule_check(v_row);
    perform hotmesh._schedule_check_options(v_row);
    perform hotmesh._schedule_request(v_row, hotmesh.now());
    v_row.paused_at := case when options ->> 'paused' = 'true' then hotmesh.now() end;
    v_row := hotmesh._schedule_plan(v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1));
    if v_row.next_tick is null then
        perform hotmesh._refuse_argument(
            format('schedule "%s" would never start anything', name),
            format('%s has no tick between now and %s.', coalesce(cron, every::text),
                   coalesce(options ->> 'end_at', '40 years from now')),
            'Check day and month, and end_at.');
    end if;
    return hotmesh._schedule_add(v_row);
end
$$;
comment on function hotmesh.schedule_create(
    text, text, text, jsonb, text, text, interval, text, text, jsonb) is
'Start a workflow again and again: at each tick of `cron` (five fields, or @hourly to @yearly) in
`timezone`, or `every` so often, counted from 1970-01-01 UTC. The key of a job is
<name>-<tick in UTC>. overlap, while a job of it is open: skip, buffer_one, buffer_all, allow_all,
cancel_other (waits until it has ended), terminate_other.
options: those of job_start, entity, offset (moves an interval), start_at, end_at, catchup_window
(after downtime all ticks that it covers start; by default the last), note, paused, on_conflict
(reject, existing, replace). Raises MSH87 if there is one of this name, 22023 for bad arguments.';

create or replace function hotmesh.schedule_pause(app text, name text, note text default null)
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row := hotmesh._schedule_hold(name);
    v_row.paused_at := coalesce(v_row.paused_at, hotmesh.now());
    perform hotmesh._job_check_size('the note', to_jsonb(note));
    v_row.note := coalesce(schedule_pause.note, v_row.note);
    v_row.buffered := '{}';
    return hotmesh._schedule_save(hotmesh._schedule_plan(
        v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1)));
end
$$;
comment on function hotmesh.schedule_pause(text, text, text) is
'Stop starting; open jobs go on, ticks that wait for them are dropped. Raises MSH86.';

create or replace function hotmesh.schedule_resume(app text, name text, note text default null)
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row := hotmesh._schedule_hold(name);
    if v_row.paused_at is null then
        return v_row;
    end if;
    v_row.paused_at := null;
    v_row.error := null;
    perform hotmesh._job_check_size('the note', to_jsonb(note));
    v_row.note := coalesce(schedule_resume.note, v_row.note);
    return hotmesh._schedule_save(hotmesh._schedule_plan(
        v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1)));
end
$$;
comment on function hotmesh.schedule_resume(text, text, text) is
'Go on with the next tick; those that passed while it was paused are not made up for (see
schedule_backfill). Raises MSH86.';

create or replace function hotmesh.schedule_delete(app text, name text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    delete from schedules s where s.name = schedule_delete.name;
    if not found then
        perform hotmesh._schedule_refuse_missing(name);
    end if;
end
$$;
comment on function hotmesh.schedule_delete(text, text) is
'Drop a schedule; the jobs that it started stay. Raises MSH86.';

create or replace function hotmesh.schedule_list(app text, name text default null)
returns setof hotmesh.schedules
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select (r::hotmesh.schedules).*
    from schedules s
    cross join lateral jsonb_populate_record(s::hotmesh.schedules, jsonb_build_object(
        'running', (
            select coalesce(jsonb_agg(j.key), '[]') from jobs j
            where j.key = any (s.running) and j.closed_at is null))) r
    where schedule_list.name is null or s.name = schedule_list.name
    order by s.name;
end
$$;
comment on function hotmesh.schedule_list(text, text) is
'The schedules of an app by name, or the one of that name: when each ticks next, whether and why it
is paused.';
