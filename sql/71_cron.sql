-- 71 cron: what a crontab line means: five fields (minute, hour, day of the month, month, weekday),
-- with names, lists, ranges, steps and the words @hourly to @yearly. Pure functions; ticks are
-- found by walking the days. Clocks that change: a line with a fixed minute and hour runs once a
-- day, at the end of the gap if its time was left out, the first time if it comes twice; a line
-- whose minute or hour begins with * follows real time. So does Debian's cron. Errors: 22023.

--@ state
create type hotmesh.cron as (
    minutes integer[], hours integer[], days integer[], months integer[], weekdays integer[],
    either_day boolean, fixed boolean);
comment on type hotmesh.cron is
'A crontab line, read: the values of each field (Sunday is 0), whether a day of the month or a
weekday suffices, and whether minute and hour are fixed.';

--@ behaviour
create or replace function hotmesh._cron_refuse(line text, field text, fault text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('cron: %s is no line of a crontab', coalesce(left(line, 100), 'null')),
        format('%s: %s', field, fault),
        'Five fields, for instance "30 2 * * mon-fri" or "*/15 9-17 * * *", or @hourly, @daily, '
        || '@weekly, @monthly, @yearly.');
end
$$;

create or replace function hotmesh._cron_number(word text, low integer, names text[])
returns integer
language sql
immutable
as $$
    select case when word ~ '^\d' then word::integer
                else array_position(names, word) - 1 + low end
$$;

-- One item of a list: *, a, a-b, each with /step. Null: it can't be read.
create or replace function hotmesh._cron_item(
    item text, low integer, high integer, names text[])
returns integer[]
language plpgsql
immutable
as $$
declare
    v_parts text[] := regexp_match(
        item, '^(?:\*|(\d{1,2}|[a-z]{3})(?:-(\d{1,2}|[a-z]{3}))?)(?:/(\d{1,2}))?$');
    v_from integer := coalesce(hotmesh._cron_number(v_parts[1], low, names), low);
    v_to integer := hotmesh._cron_number(v_parts[2], low, names);
    v_step integer := coalesce(v_parts[3]::integer, 1);
begin
    if v_parts is null or v_step = 0
        or v_parts[1] is not null and hotmesh._cron_number(v_parts[1], low, names) is null
        or v_parts[2] is not null and v_to is null
    then
        return null;
    elsif v_parts[2] = 'sun' and v_from > 0 then
        v_to := 7;  -- fri-sun
    end if;
    v_to := coalesce(
        v_to, case when v_parts[1] is null or v_parts[3] is not null then high else v_from end);
    if v_from < low or v_to > high or v_from > v_to then
        return null;
    end if;
    return array(select generate_series(v_from, v_to, v_step));
end
$$;

create or replace function hotmesh._cron_field(
    line text, field text, item_list text, low integer, high integer, names text[] default '{}')
returns integer[]
language plpgsql
immutable
as $$
declare
    v_item text;
    v_found integer[];
    v_values integer[] := '{}';
begin
    foreach v_item in array string_to_array(item_list, ',') loop
        v_found := hotmesh._cron_item(v_item, low, high, names);
        if v_found is null then
            perform hotmesh._cron_refuse(line, field, format(
                '"%s" is none of *, a number or a name, a range such as %s-%s, each with or '
                || 'without a step such as /2.', left(v_item, 40), low, high));
        end if;
        v_values := v_values || v_found;
    end loop;
    return v_values;
end
$$;

create or replace function hotmesh._cron_parse(line text)
returns hotmesh.cron
language plpgsql
immutable
as $$
declare
    v_line text := lower(btrim(line, E' \t\n\r'));
    v_parts text[];
    v_cron hotmesh.cron;
begin
    v_line := case v_line
        when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *'
        when '@midnight' then '0 0 * * *' when '@weekly' then '0 0 * * 0'
        when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
        when '@annually' then '0 0 1 1 *' else v_line end;
    v_parts := regexp_split_to_array(left(v_line, 1000), '\s+');
    if cardinality(v_parts) is distinct from 5 or v_parts[1] = '' or length(v_line) > 1000 then
        perform hotmesh._cron_refuse(
            line, 'shape', format('it has %s fields.', coalesce(cardinality(v_parts), 0)));
    end if;
    v_cron.minutes := hotmesh._cron_field(line, 'minute', v_parts[1], 0, 59);
    v_cron.hours := hotmesh._cron_field(line, 'hour', v_parts[2], 0, 23);
    v_cron.days := hotmesh._cron_field(line, 'day of the month', v_parts[3], 1, 31);
    v_cron.months := hotmesh._cron_field(
        line, 'month', v_parts[4], 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
    v_cron.weekdays := array(
        select w % 7
        from unnest(hotmesh._cron_field(
            line, 'weekday', v_parts[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}')) w);
    v_cron.either_day := v_parts[3] !~ '^\*' and v_parts[5] !~ '^\*';
    v_cron.fixed := v_parts[1] !~ '^\*' and v_parts[2] !~ '^\*';
    return v_cron;
end
$$;

create or replace function hotmesh._cron_has(cron hotmesh.cron, day date)
returns boolean
language sql
immutable
as $$
    select extract(month from day)::integer = any (cron.months)
       and case when cron.either_day
                then extract(day from day)::integer = any (cron.days)
                     or extract(dow from day)::integer = any (cron.weekdays)
                else extract(day from day)::integer = any (cron.days)
                     and extract(dow from day)::integer = any (cron.weekdays) end
$$;

-- What the clocks of a zone are ahead of UTC at an instant.
create or replace function hotmesh._cron_ahead(zone text, at timestamptz)
returns interval
language sql
stable
as $$
    select (at at time zone zone) - (at at time zone 'UTC')
$$;

-- The instant between two at which the clocks change, to the second.
create or replace function hotmesh._cron_change(
    zone text, low timestamptz, high timestamptz)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_before constant interval := hotmesh._cron_ahead(zone, low);
    v_middle timestamptz;
begin
    while high - low > interval '1 s' loop
        v_middle := date_trunc('second', low + (high - low) / 2);
        if hotmesh._cron_ahead(zone, v_middle) = v_before then
            low := v_middle;
        else
            high := v_middle;
        end if;
    end loop;
    return high;
end
$$;

-- The ticks of a day on which the clocks change, or may; `u` is by the clock before the change,
-- `v` by the one after it.
create or replace function hotmesh._cron_odd_day(
    cron hotmesh.cron, day date, change timestamptz, ahead interval, ahead_then interval)
returns setof timestamptz
language sql
stable
as $$
    select t.tick
    from unnest(cron.hours) h
    cross join unnest(cron.minutes) m
    cross join lateral (
        select (day + make_interval(hours => h, mins => m)) at time zone 'UTC' as clock) c
    cross join lateral (select c.clock - ahead as u, c.clock - ahead_then as v) i
    cross join lateral (values
        (case when i.u < change then i.u
              when i.v >= change then i.v
              when cron.fixed then change end),
        (case when i.u < change and i.v >= change and not cron.fixed then i.v end)) t (tick)
    where t.tick is not null
$$;

-- The first tick of a day after an instant, or with step -1 the last one up to it. A local day lies
-- between 15 hours before and 37 hours after its midnight in UTC.
create or replace function hotmesh._cron_day(
    cron hotmesh.cron, zone text, day date, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_midnight constant timestamptz := day::timestamp at time zone 'UTC';
    v_low constant timestamptz := v_midnight - interval '15 hours';
    v_high constant timestamptz := v_midnight + interval '37 hours';
    v_ahead constant interval := hotmesh._cron_ahead(zone, v_low);
    v_then constant interval := hotmesh._cron_ahead(zone, v_high);
    v_now constant integer := floor(extract(epoch from at + v_ahead - v_midnight) / 60);
    v_tick timestamptz;
begin
    if v_ahead = v_then then
        return v_midnight - v_ahead + make_interval(mins => (
            select case when step > 0 then min(t) filter (where t > v_now)
                        else max(t) filter (where t <= v_now) end
            from unnest(cron.hours) h
            cross join unnest(cron.minutes) m
            cross join lateral (select h * 60 + m) t (t)));
    end if;
    select case when step > 0 then min(t) filter (where t > at)
                else max(t) filter (where t <= at) end
    into v_tick
    from hotmesh._cron_odd_day(
        cron, day, hotmesh._cron_change(zone, v_low, v_high), v_ahead, v_then) t;
    return v_tick;
end
$$;

-- The next tick after an instant, or with step -1 the last one up to it; null: none in 40 years.
create or replace function hotmesh._cron_near(
    cron hotmesh.cron, zone text, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_first constant date := (at at time zone zone)::date;
    v_tick timestamptz;
begin
    for n in 0..14700 loop
        if hotmesh._cron_has(cron, v_first + n * step) then
            v_tick := hotmesh._cron_day(cron, zone, v_first + n * step, at, step);
            exit when v_tick is not null;
        end if;
    end loop;
    return v_tick;
end
$$;

-- A zone by its full name, spelled as Postgres does. Abbreviations are refused: they don't change
-- with the season.
create or replace function hotmesh._cron_zone(zone text)
returns text
language plpgsql
stable
as $$
declare
    v_name text := case when zone = 'UTC' then zone else (
        select z.name
        from pg_timezone_names z
        where lower(z.name) = lower(left(zone, 100))
        limit 1) end;
begin
    if v_name is null then
        perform hotmesh._refuse_argument(
            format('unknown time zone: %s', coalesce(left(zone, 100), 'null')),
            'Time zones have names such as Europe/Berlin; those of this server are in '
            || 'pg_timezone_names.',
            'Leave it out for UTC.');
    end if;
    return v_name;
end
$$;

-- cron.nextDelay of @pipe: the whole seconds until the next tick in UTC, at least 1; -1 for what is
-- no text, or never comes.
create or replace function hotmesh._cron_next_delay(line jsonb)
returns jsonb
language plpgsql
volatile
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_tick timestamptz;
begin
    if jsonb_typeof(line) is distinct from 'string' then
        return '-1';
    end if;
    v_tick := hotmesh._cron_near(hotmesh._cron_parse(line #>> '{}'), 'UTC', v_now, 1);
    return case when v_tick is null then '-1'::jsonb
                else to_jsonb(greatest(ceil(extract(epoch from v_tick - v_now)), 1)::integer) end;
end
$$;
