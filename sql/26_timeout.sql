-- 26 timeout: how long an activity may take. start_to_close bounds one attempt, heartbeat the time
-- between two signs of life, schedule_to_close all attempts together. A message carries them as one
-- document, in seconds, null when there are none; what runs adds the instants (deadline, close_by,
-- beat_by, as epochs) and the details of the last heartbeat. Pure functions. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._timeout_refuse(timeouts jsonb, what text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('timeouts: %s', what),
        format('They were %s.', left(timeouts::text, 300)),
        'Known keys: start_to_close, schedule_to_close, heartbeat; each a duration above zero.');
end
$$;

create or replace function hotmesh._timeout_seconds(value jsonb, what text)
returns double precision
language plpgsql
stable
as $$
declare
    v_seconds double precision := extract(epoch from hotmesh._duration(value, what));
begin
    if v_seconds <= 0 then
        perform hotmesh._refuse_argument(
            format('%s is no usable timeout: %s', what, left(value::text, 100)),
            'Nothing can be done in no time.', 'Leave it out for no limit.');
    end if;
    return v_seconds;
end
$$;

-- Checked once, when the message is laid down. schedule_to_close counts from here. `details` are
-- those of an attempt that ran before there was a message.
create or replace function hotmesh._timeout_policy(timeouts jsonb)
returns jsonb
language plpgsql
stable
as $$
declare
    v_known constant text[] := '{start_to_close,schedule_to_close,heartbeat,details}';
    v_all double precision;
begin
    if timeouts is null or timeouts = 'null' or timeouts = '{}' then
        return null;
    elsif jsonb_typeof(timeouts) <> 'object' then
        perform hotmesh._timeout_refuse(timeouts, 'they are no object');
    elsif exists (select from jsonb_object_keys(timeouts) k where k <> all (v_known)) then
        perform hotmesh._timeout_refuse(timeouts, 'unknown key');
    end if;
    v_all := hotmesh._timeout_seconds(timeouts -> 'schedule_to_close', 'schedule_to_close_timeout');
    return nullif(jsonb_strip_nulls(jsonb_build_object(
        'start_to_close', hotmesh._timeout_seconds(
            timeouts -> 'start_to_close', 'start_to_close_timeout'),
        'heartbeat', hotmesh._timeout_seconds(timeouts -> 'heartbeat', 'heartbeat_timeout'),
        'schedule_to_close', v_all,
        'deadline', extract(epoch from hotmesh.now()) + v_all))
        || case when timeouts ? 'details'
                then jsonb_build_object('details', timeouts -> 'details') else '{}' end, '{}');
end
$$;

create or replace function hotmesh._timeout_instant(timeouts jsonb, key text)
returns timestamptz
language sql
immutable
as $$
    select to_timestamp((timeouts ->> key)::double precision)
$$;

-- An attempt begins.
create or replace function hotmesh._timeout_begin(timeouts jsonb, at timestamptz)
returns jsonb
language sql
immutable
as $$
    select timeouts
           || case when timeouts ? 'start_to_close' then jsonb_build_object(
                  'close_by', extract(epoch from at)
                              + (timeouts ->> 'start_to_close')::double precision)
                   else '{}' end
           || case when timeouts ? 'heartbeat' then jsonb_build_object(
                  'beat_by', extract(epoch from at)
                             + (timeouts ->> 'heartbeat')::double precision)
                   else '{}' end
$$;

-- A sign of life: the next one is due one heartbeat later. Null details leave those before.
create or replace function hotmesh._timeout_beat(timeouts jsonb, at timestamptz, details jsonb)
returns jsonb
language sql
immutable
as $$
    select nullif(
        coalesce(timeouts, '{}')
        || case when timeouts ? 'heartbeat' then jsonb_build_object(
               'beat_by', extract(epoch from at)
                          + (timeouts ->> 'heartbeat')::double precision)
                else '{}' end
        || case when details is not null then jsonb_build_object('details', details)
                else '{}' end,
        '{}')
$$;

-- When an attempt is given up: its lease ends, or one of its times is over, whichever is first.
create or replace function hotmesh._timeout_until(timeouts jsonb, lease_end timestamptz)
returns timestamptz
language sql
immutable
as $$
    select least(lease_end, hotmesh._timeout_instant(timeouts, 'close_by'),
                 hotmesh._timeout_instant(timeouts, 'beat_by'))
$$;

-- Which time of an attempt is over; null if none is, so that its worker was lost.
create or replace function hotmesh._timeout_over(timeouts jsonb, at timestamptz)
returns text
language sql
immutable
as $$
    select case when hotmesh._timeout_instant(timeouts, 'close_by') <= at then 'start_to_close'
                when hotmesh._timeout_instant(timeouts, 'beat_by') <= at then 'heartbeat' end
$$;

-- Whether another attempt may begin at that instant.
create or replace function hotmesh._timeout_allows(timeouts jsonb, at timestamptz)
returns boolean
language sql
immutable
as $$
    select coalesce(hotmesh._timeout_instant(timeouts, 'deadline') > at, true)
$$;

create or replace function hotmesh._timeout_error(
    name text, timeouts jsonb, which text, cause jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'type', 'TimedOutError', 'code', 596, 'timeout', which, 'cause', cause,
        'message', format('activity "%s" timed out: %s_timeout of %s s', name, which,
                          timeouts ->> which)))
$$;
