-- 18 date: the domain date of @pipe. Instants are milliseconds since 1970, ±8.64e15, NaN if none. A
-- date comes as milliseconds or as text: ISO, what toString, toUTCString and toLocaleString write,
-- 2024/1/31, 1/31/2024, January 31 2024, and HotMesh's own 20240131120000.123. Its locale is en-US,
-- its time zone UTC. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._date_clip(ms double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when abs(ms) <= 8.64e15 then trunc(ms) + 0.0 else 'NaN' end;
end
$$;

-- The number of a day of the Gregorian calendar, months from 0; 1970 began with day 0.
create or replace function hotmesh._date_day(
    year double precision, month double precision, day double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_years constant double precision := floor((month - 2) / 12);
    v_y constant double precision := year + v_years;
    v_m constant double precision := month - 2 - 12 * v_years;
begin
    return case
        when abs(v_y) < 400000 and abs(month) < 5000000 and abs(day) < 1e16
        then 365 * v_y + floor(v_y / 4) - floor(v_y / 100) + floor(v_y / 400)
             + floor((153 * v_m + 2) / 5) + day - 719469
        else 'NaN' end;
end
$$;

-- Year, month from 0, day, hours, minutes, seconds, milliseconds; each may be beyond its bounds.
create or replace function hotmesh._date_make(parts double precision[])
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_part double precision;
begin
    foreach v_part in array parts loop
        if not abs(v_part) < 1e16 then
            return 'NaN';
        end if;
    end loop;
    return hotmesh._date_clip(
        hotmesh._date_day(parts[1], parts[2], parts[3]) * 86400000
        + parts[4] * 3600000 + parts[5] * 60000 + parts[6] * 1000 + parts[7]);
end
$$;

-- As _date_make takes them, and the day of the week. Years begin in March, eras have 400.
create or replace function hotmesh._date_parts(ms double precision)
returns double precision[]
language plpgsql
immutable
parallel safe
as $$
declare
    v_day constant double precision := floor(ms / 86400000);
    v_rest constant bigint := ms - v_day * 86400000;
    v_n constant bigint := v_day + 719468;
    v_era constant bigint := floor(v_n / 146097.0);
    v_doe constant bigint := v_n - v_era * 146097;
    v_yoe constant bigint := (v_doe - v_doe / 1460 + v_doe / 36524 - v_doe / 146096) / 365;
    v_doy constant bigint := v_doe - (365 * v_yoe + v_yoe / 4 - v_yoe / 100);
    v_month constant bigint := (5 * v_doy + 2) / 153;
begin
    return array[
        v_yoe + v_era * 400 + (v_month >= 10)::integer, (v_month + 2) % 12,
        v_doy - (153 * v_month + 2) / 5 + 1,
        v_rest / 3600000, v_rest / 60000 % 60, v_rest / 1000 % 60, v_rest % 1000,
        v_day + 4 - 7 * floor((v_day + 4) / 7)];
end
$$;

-- Months count from 1 here; `ahead` is null or +hhmm, +hh:mm.
create or replace function hotmesh._date_checked(parts text[], ahead text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when parts[2]::integer between 1 and 12 and parts[3]::integer between 1 and 31
                    and (parts[4]::integer < 24
                         or parts[4]::integer = 24
                            and parts[5] || parts[6] || parts[7] !~ '[1-9]')
                    and parts[5]::integer < 60 and parts[6]::integer < 60
                    and coalesce(substr(ahead, 2, 2)::integer, 0) < 24
                    and coalesce(right(ahead, 2)::integer, 0) < 60
                then hotmesh._date_make(array[
                    parts[1]::integer, parts[2]::integer - 1, parts[3]::integer,
                    parts[4]::integer,
                    parts[5]::integer - case when ahead like '-%' then -1 else 1 end
                        * (coalesce(substr(ahead, 2, 2)::integer, 0) * 60
                           + coalesce(right(ahead, 2)::integer, 0)),
                    parts[6]::integer, rpad(left(parts[7], 3), 3, '0')::integer])
                else 'NaN' end;
end
$$;

create or replace function hotmesh._date_iso(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts text[] := regexp_match(word, '^([+-]\d{6}|\d{4})(?:-(\d\d)(?:-(\d\d))?)?'
        '(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.](\d{1,20}))?)?(?:(Z)|([+-]\d\d:\d\d))?)?$');
begin
    if v_parts is null then
        v_parts := regexp_match(
            word, '^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:[.](\d{3}))?()()$');
    end if;
    if v_parts is null or v_parts[1] = '-000000' then
        return null;
    end if;
    return hotmesh._date_checked(
        array[v_parts[1], coalesce(v_parts[2], '01'), coalesce(v_parts[3], '01'),
              coalesce(v_parts[4], '00'), coalesce(v_parts[5], '00'),
              coalesce(v_parts[6], '00'), coalesce(v_parts[7], '0')],
        nullif(v_parts[9], ''));
end
$$;

-- A day and what stands after it: 10:30:00 AM GMT+0200 (…).
create or replace function hotmesh._date_clock(day text[], rest text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(rest, '^,?(?: +(\d?\d):(\d\d)(?::(\d\d))?'
        '(?: ([aApP])[mM])?)?(?: ?(?:Z|UTC|GMT)?([+-]\d\d:?\d\d)?)?(?: *[(].*[)])?$');
    v_hour integer := coalesce(v_parts[1], '0');
begin
    if v_parts is null or v_parts[4] is not null and v_hour not between 1 and 12 then
        return 'NaN';
    elsif v_parts[4] is not null then
        v_hour := v_hour % 12 + case when lower(v_parts[4]) = 'p' then 12 else 0 end;
    end if;
    return hotmesh._date_checked(
        day || array[v_hour::text, coalesce(v_parts[2], '00'), coalesce(v_parts[3], '00'), '0'],
        v_parts[5]);
end
$$;

create or replace function hotmesh._date_month(word text)
returns text
language sql
immutable
parallel safe
as $$
    select to_char(array_position(
        '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}', lower(left(word, 3))), 'FM00')
$$;

create or replace function hotmesh._date_read(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_iso constant double precision := hotmesh._date_iso(word);
    v_m text[];
begin
    if v_iso is not null then
        return v_iso;
    end if;
    v_m := regexp_match(word, '^(\d{4})/(\d?\d)/(\d?\d)(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(v_m[1:3], v_m[4]);
    end if;
    v_m := regexp_match(word, '^(\d?\d)/(\d?\d)/(\d{4})(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(array[v_m[3], v_m[1], v_m[2]], v_m[4]);
    end if;
    v_m := regexp_match(
        word, '^(?:[A-Za-z]{3,9},? )?([A-Za-z]{3,9}) (\d?\d),? (\d{4,6})(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(array[v_m[3], hotmesh._date_month(v_m[1]), v_m[2]], v_m[4]);
    end if;
    v_m := regexp_match(
        word, '^(?:[A-Za-z]{3,9},? )?(\d?\d) ([A-Za-z]{3,9}) (\d{4,6})(.*)$');
    return coalesce(
        hotmesh._date_clock(array[v_m[3], hotmesh._date_month(v_m[2]), v_m[1]], v_m[4]), 'NaN');
end
$$;

-- new Date(date).getTime()
create or replace function hotmesh._date_ms(date jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(date)
           when 'string' then hotmesh._date_read(date #>> '{}')
           when 'array' then hotmesh._date_read(hotmesh._value_text(date))
           else hotmesh._date_clip(hotmesh._value_number(date)) end;
end
$$;

create or replace function hotmesh._date_now()
returns jsonb
language sql
volatile
as $$
    select to_jsonb(floor(extract(epoch from hotmesh.now()) * 1000)::bigint)
$$;

create or replace function hotmesh._date_year(year bigint)
returns text
language sql
immutable
parallel safe
as $$
    select case when year between 0 and 9999 then to_char(year, 'FM0000')
                else case when year < 0 then '-' else '+' end || to_char(abs(year), 'FM000000') end
$$;

-- 1 hh 2 mm 3 ss 4 mmm 5 DD 6 MM 7 YYYY 8 Mon 9 Jan 10 year 11 M 12 D 13 era's year 14 h 15 AM
create or replace function hotmesh._date_written(ms double precision, pattern text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant double precision[] := hotmesh._date_parts(ms);
    v_weekday constant text :=
        ('{Sun,Mon,Tue,Wed,Thu,Fri,Sat}'::text[])[v_parts[8]::integer + 1];
    v_month constant text := ('{Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec}'::text[])[
        v_parts[2]::integer + 1];
    v_year constant integer := v_parts[1];
begin
    return format(
        pattern, to_char(v_parts[4], 'FM00'), to_char(v_parts[5], 'FM00'),
        to_char(v_parts[6], 'FM00'), to_char(v_parts[7], 'FM000'),
        to_char(v_parts[3], 'FM00'), to_char(v_parts[2] + 1, 'FM00'),
        hotmesh._date_year(v_year), v_weekday, v_month,
        case when v_year < 0 then '-' else '' end
            || lpad(abs(v_year)::text, greatest(length(abs(v_year)::text), 4), '0'),
        v_parts[2] + 1, v_parts[3],
        case when v_year < 1 then 1 - v_year else v_year end,
        (v_parts[4]::integer + 11) % 12 + 1, case when v_parts[4] < 12 then 'AM' else 'PM' end);
end
$$;

create or replace function hotmesh._date_from_iso_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then hotmesh._value_pack(v_ms)
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_iso_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then hotmesh._pipe_refuse(
                    'date.toISOString needs a date', left(date::text, 100))
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_json(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then 'null'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_date_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%8$s %9$s %5$s %10$s')) end;
end
$$;

create or replace function hotmesh._date_to_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%8$s %9$s %5$s %10$s %1$s:%2$s:%3$s'
                    ' GMT+0000 (Coordinated Universal Time)')) end;
end
$$;

create or replace function hotmesh._date_to_isox_string(date jsonb default null)
returns jsonb
language plpgsql
volatile
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(coalesce(date, hotmesh._date_now()));
begin
    if v_ms = 'NaN' then
        return hotmesh._pipe_refuse('date.toISOXString needs a date', left(date::text, 100));
    end if;
    return to_jsonb(hotmesh._date_written(v_ms, '%7$s%6$s%5$s%1$s%2$s%3$s.%4$s'));
end
$$;

create or replace function hotmesh._date_yyyymmdd(date jsonb default null)
returns jsonb
language sql
volatile
as $$
    select to_jsonb(left(hotmesh._date_to_isox_string(date) #>> '{}', -10))
$$;

create or replace function hotmesh._date_locale(locale jsonb, options jsonb, what text)
returns boolean
language sql
immutable
parallel safe
as $$
    select coalesce(locale, 'null') in ('null', '"en-US"', '["en-US"]')
        and coalesce(options, 'null') in ('null', '{}', '{"timeZone": "UTC"}')
        or hotmesh._pipe_refuse(
            format('%s knows en-US in UTC alone', what),
            left(concat(locale, ' ', options), 100)) is null
$$;

create or replace function hotmesh._date_to_locale_date_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%11$s/%12$s/%13$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleDateString')
$$;

create or replace function hotmesh._date_to_locale_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%11$s/%12$s/%13$s, %14$s:%2$s:%3$s %15$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleString')
$$;

create or replace function hotmesh._date_to_locale_time_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%14$s:%2$s:%3$s %15$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleTimeString')
$$;

create or replace function hotmesh._date_parse(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_read(hotmesh._value_text(date)))
$$;

create or replace function hotmesh._date_get_time(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_ms(date))
$$;

create or replace function hotmesh._symbol_date()
returns jsonb
language sql
volatile
as $$
    select hotmesh._date_from_iso_string(hotmesh._date_now())
$$;
