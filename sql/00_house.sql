-- HotMesh: a durable workflow engine that is only Postgres. The tour, in the order of a job's life:
-- `app_create` makes a schema with one table per noun (01). A message waits in `streams` (30) until a worker (35) claims it.
-- `job_start` opens a row of `jobs` (40) whose status is a semaphore: the number of open obligations. Everything the run did is a row of
-- `jobs_attributes` (50), its journal, which replay reads. Signals (60) and timers (70) are messages too. The engine (90) opens and settles jobs,
-- the turn (91) is the one call a driver makes: it applies reports, moves jobs on and claims new work in one commit. Closed jobs move to the archive (45).
-- Lock order: jobs, then jobs_attributes, then streams; every lock of the engine is taken with `skip locked`. Errors: MSH0x here and in 01_app.

--@ state
create sequence hotmesh.ids;
comment on sequence hotmesh.ids is 'Numbers jobs and stream messages; shared by all apps, so a row can change tenants.';
select pg_catalog.pg_extension_config_dump('hotmesh.ids', '');

--@ behaviour
create or replace function hotmesh.now()
returns timestamptz
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select clock_timestamp()
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

create or replace function hotmesh._refuse_argument(message text, detail text, hint text)
returns void
language plpgsql
as $$
begin
    raise exception '%', message using errcode = '22023', detail = _refuse_argument.detail, hint = _refuse_argument.hint;
end
$$;

create or replace function hotmesh._is_number(value jsonb, low double precision, high double precision)
returns boolean
language sql
immutable
parallel safe
as $$
    select case when jsonb_typeof(value) = 'number' then value::numeric between low::numeric and high::numeric else false end
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
        return make_interval(secs => v_text::double precision);
    elsif jsonb_typeof(value) = 'string' and length(v_text) < 100
        and v_text ~* '^\s*(\d{1,11}(\.\d+)?\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|hrs?|d|days?|w|weeks?|mons?|months?|y|years?)\s*)+$'
        and v_text::interval <= interval '1000 years' then
        return v_text::interval;
    end if;
    perform hotmesh._refuse_argument(
        format('%s is no duration: %s', what, left(value::text, 100)),
        'A duration is a number of seconds or a text such as "30 days", "1.5h" or "500ms", from 0 to 1000 years.',
        'Write the unit in full, for instance "2 minutes".');
end
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
