-- 19 calendar: the rest of the domain date of @pipe: what takes a date apart and puts one together.
-- Setters answer in milliseconds. Local time is UTC, so that getHours is getUTCHours.

--@ state

--@ behaviour
create or replace function hotmesh._date_part(date jsonb, at integer)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return hotmesh._value_pack(
        case when v_ms = 'NaN' then v_ms else (hotmesh._date_parts(v_ms))[at] end);
end
$$;

create or replace function hotmesh._date_get_timezone_offset(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._date_ms(date) = 'NaN' then hotmesh._value_pack('NaN')
                else '0'::jsonb end
$$;

create or replace function hotmesh._date_get_utc_full_year(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 1)
$$;

create or replace function hotmesh._date_get_utc_month(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 2)
$$;

create or replace function hotmesh._date_get_utc_date(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 3)
$$;

create or replace function hotmesh._date_get_utc_hours(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 4)
$$;

create or replace function hotmesh._date_get_utc_minutes(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 5)
$$;

create or replace function hotmesh._date_get_utc_seconds(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 6)
$$;

create or replace function hotmesh._date_get_utc_milliseconds(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 7)
$$;

create or replace function hotmesh._date_get_utc_day(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 8)
$$;

-- With other parts from a place on; what is undefined, but for the first, stays.
create or replace function hotmesh._date_change(date jsonb, first integer, given jsonb[])
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms double precision := hotmesh._date_ms(date);
    v_parts double precision[];
begin
    if v_ms = 'NaN' and first = 1 then
        v_ms := 0;
    elsif v_ms = 'NaN' then
        return hotmesh._value_pack(v_ms);
    end if;
    v_parts := hotmesh._date_parts(v_ms);
    for n in 1..cardinality(given) loop
        if n = 1 or given[n] is not null then
            v_parts[first + n - 1] := trunc(hotmesh._value_number(given[n]));
        end if;
    end loop;
    return hotmesh._value_pack(hotmesh._date_make(v_parts));
end
$$;

create or replace function hotmesh._date_set_utc_full_year(
    date jsonb, year jsonb default null, month jsonb default null, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 1, array[year, month, day])
$$;

create or replace function hotmesh._date_set_utc_month(
    date jsonb, month jsonb default null, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 2, array[month, day])
$$;

create or replace function hotmesh._date_set_utc_date(date jsonb, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 3, array[day])
$$;

create or replace function hotmesh._date_set_utc_hours(
    date jsonb, hours jsonb default null, minutes jsonb default null, seconds jsonb default
    null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 4, array[hours, minutes, seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_minutes(
    date jsonb, minutes jsonb default null, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 5, array[minutes, seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_seconds(
    date jsonb, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 6, array[seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_milliseconds(date jsonb, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 7, array[ms])
$$;

create or replace function hotmesh._date_set_time(date jsonb, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_clip(hotmesh._value_number(ms)))
$$;

create or replace function hotmesh._date_utc(
    year jsonb, month jsonb default null, day jsonb default null, hours jsonb default null,
    minutes jsonb default null, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_make(array[
        case when p.n[1] between 0 and 99 then 1900 + p.n[1] else p.n[1] end,
        p.n[2], p.n[3], p.n[4], p.n[5], p.n[6], p.n[7]]))
    from (
        select array_agg(trunc(hotmesh._value_number(a.value)) order by a.n)
        from unnest(array[
            year, coalesce(month, '0'), coalesce(day, '1'), coalesce(hours, '0'),
            coalesce(minutes, '0'), coalesce(seconds, '0'), coalesce(ms, '0')])
            with ordinality a (value, n)) p (n)
$$;
