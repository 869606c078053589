-- 00 house: the tour. An app is a schema with one table per noun (02). `job_start` (90) opens a row
-- of `jobs` (40), whose status counts open obligations. Its message waits in `streams` (30) until
-- a worker (35) claims it. What the run did is its journal, `jobs_attributes` (50), which replay
-- reads; signals (60) and timers (70) are messages too. A driver's one call is the turn (93):
-- reports (91) in, deliveries (92) out, one commit. Closed jobs go to the archive (55). Lock order:
-- jobs, jobs_attributes, streams; locks are taken with `skip locked`. Errors: 22023.

--@ state
create sequence hotmesh.ids;
comment on sequence hotmesh.ids is
'Numbers jobs and stream messages; shared by all apps, so a row can change tenants.';
select pg_catalog.pg_extension_config_dump('hotmesh.ids', '');

--@ behaviour
-- Not pinned, but spelled out: so it becomes a part of whatever calls it.
create or replace function hotmesh.now()
returns timestamptz
language sql
volatile
as $$
    select pg_catalog.clock_timestamp()
$$;
comment on function hotmesh.now() is
'The engine''s only clock. Tests replace it to travel in time.';

create or replace function hotmesh.protocol()
returns integer
language sql
immutable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 1
$$;
comment on function hotmesh.protocol() is
'The protocol spoken by `turn`. A driver refuses to work with a number it does not know.';

-- extension/build.py writes it: version, state, behaviour.
create or replace function hotmesh.build()
returns text
language sql
immutable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select '@build@'
$$;
comment on function hotmesh.build() is
'Which sources the engine was built from: its version and fingerprints of its tables and of its
functions. A driver that brings others says so.';

create or replace function hotmesh._refuse_argument(message text, detail text, hint text)
returns void
language plpgsql
as $$
begin
    raise exception '%', message using
        errcode = '22023',
        detail = coalesce(_refuse_argument.detail, 'It was null.'),
        hint = _refuse_argument.hint;
end
$$;

-- A name as messages show it.
create or replace function hotmesh._named(name text)
returns text
language sql
immutable
as $$
    select coalesce('"' || left(name, 200) || '"', 'null')
$$;

create or replace function hotmesh._is_number(
    value jsonb, low double precision, high double precision)
returns boolean
language sql
immutable
parallel safe
as $$
    select case when jsonb_typeof(value) = 'number'
                then value::numeric between low::numeric and high::numeric
                else false end
$$;

create or replace function hotmesh._duration(value jsonb, what text)
returns interval
language plpgsql
stable
as $$
declare
    v_text text := value #>> '{}';
begin
    if value is null or value = 'null' then
        return null;
    elsif hotmesh._is_number(value, 0, 3.2e10) then
        return make_interval(secs => round(v_text::numeric, 6)::double precision);
    elsif jsonb_typeof(value) = 'string' and length(v_text) < 100
        and v_text ~* (
            '^\s*(?=\d)(\d{1,6}(\.\d{1,9})?\s*(y|years?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(mons?|months?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(w|weeks?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(d|days?)\s*)?'
            || '(\d{1,7}(\.\d{1,9})?\s*(h|hrs?|hours?)\s*)?'
            || '(\d{1,7}(\.\d{1,9})?\s*(m|mins?|minutes?)\s*)?'
            || '(\d{1,11}(\.\d{1,9})?\s*(s|secs?|seconds?)\s*)?'
            || '(\d{1,11}(\.\d{1,9})?\s*(ms|milliseconds?)\s*)?$')
        and v_text::interval <= interval '1000 years' then
        return v_text::interval;
    end if;
    perform hotmesh._refuse_argument(
        format('%s is no duration: %s', what, left(value::text, 100)),
        'A duration is a number of seconds or a text such as "30 days", "1.5h" or "500ms", '
        || 'from 0 to 1000 years.',
        'Write the unit in full, for instance "2 minutes".');
end
$$;

-- What a value takes as text; a stored large one may be compressed many times over.
create or replace function hotmesh._bytes(value jsonb)
returns bigint
language sql
stable
parallel safe
as $$
    select case when pg_column_size(value) < 2000 then pg_column_size(value)
                else octet_length(value::text) end
$$;

create or replace function hotmesh._setting(name text, fallback bigint)
returns bigint
language plpgsql
stable
as $$
begin
    return coalesce((
        select (a.settings ->> _setting.name)::bigint
        from hotmesh.apps a
        where a.schema_name = (current_schemas(false))[2]), fallback);
end
$$;

create or replace function hotmesh.version()
returns text
language sql
immutable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select '0.1.0'
$$;
comment on function hotmesh.version() is
'The version of the engine in this database.';
