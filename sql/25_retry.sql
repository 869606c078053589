-- 25 retry: when a failed message is tried again. maximum_attempts counts executions (3); the delay
-- after attempt k is min(initial_interval × backoff_coefficient^k, maximum_interval), by default
-- min(1 s × 10^k, 120 s). Pure functions; a policy is checked when it is laid down. Errors: 22023.

--@ state

--@ behaviour
create or replace function hotmesh._retry_refuse(policy jsonb, what text, rule text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('retry policy: %s', what),
        format('The policy was %s. %s', left(policy::text, 300), rule),
        'Known keys: maximum_attempts, initial_interval, backoff_coefficient, maximum_interval, '
        || 'non_retryable_error_types.');
end
$$;

create or replace function hotmesh._retry_seconds(policy jsonb, key text, fallback interval)
returns numeric
language plpgsql
stable
as $$
begin
    return extract(epoch from coalesce(hotmesh._duration(policy -> key, key), fallback));
end
$$;

-- Checked once, when the message is laid down, so that failing never fails.
create or replace function hotmesh._retry_policy(policy jsonb)
returns jsonb
language plpgsql
stable
as $$
declare
    v_known constant text[] := '{maximum_attempts, initial_interval, backoff_coefficient,
        maximum_interval, non_retryable_error_types}';
    v_key text;
begin
    if policy is null or policy = 'null' or policy = '{}' then
        return null;
    elsif jsonb_typeof(policy) <> 'object' then
        perform hotmesh._retry_refuse(policy, 'it is no object', 'It is a JSON object.');
    end if;
    foreach v_key in array array(select jsonb_object_keys(policy)) loop
        if v_key <> all (v_known) then
            perform hotmesh._retry_refuse(
                policy, format('unknown key %s', left(v_key, 60)),
                'Keys are spelled as in the hint.');
        end if;
    end loop;
    if not hotmesh._is_number(coalesce(policy -> 'maximum_attempts', '3'), 1, 1000000)
        or coalesce(policy ->> 'maximum_attempts', '3') !~ '^\d+$' then
        perform hotmesh._retry_refuse(
            policy, 'bad maximum_attempts',
            'It counts executions: a whole number from 1 to 1000000.');
    elsif not hotmesh._is_number(coalesce(policy -> 'backoff_coefficient', '10'), 1, 1000) then
        perform hotmesh._retry_refuse(
            policy, 'bad backoff_coefficient', 'It is a number from 1 to 1000.');
    elsif jsonb_typeof(coalesce(policy -> 'non_retryable_error_types', '[]')) <> 'array' then
        perform hotmesh._retry_refuse(
            policy, 'bad non_retryable_error_types', 'It is a list of names of exception classes.');
    end if;
    return policy || jsonb_build_object(
        'initial_interval', hotmesh._retry_seconds(policy, 'initial_interval', '1 s'),
        'maximum_interval', hotmesh._retry_seconds(policy, 'maximum_interval', '120 s'));
end
$$;

-- min(initial × coefficient^attempt, maximum); the logarithm keeps a large attempt from
-- overflowing.
create or replace function hotmesh._retry_delay(policy jsonb, attempt integer)
returns interval
language sql
immutable
as $$
    select make_interval(secs => case
        when p.initial <= 0 then 0
        when ln(p.initial) + attempt * ln(p.coefficient) >= ln(greatest(p.maximum, 1e-6))
            then p.maximum
        else p.initial * power(p.coefficient, attempt) end)
    from (
        select coalesce((policy ->> 'initial_interval')::double precision, 1) as initial,
               coalesce((policy ->> 'backoff_coefficient')::double precision, 10) as coefficient,
               coalesce((policy ->> 'maximum_interval')::double precision, 120) as maximum) p
$$;

create or replace function hotmesh._retry_again(policy jsonb, attempt integer, error jsonb)
returns boolean
language sql
immutable
as $$
    select attempt < coalesce((policy ->> 'maximum_attempts')::integer, 3)
       and coalesce(error ->> 'code', '') <> '598'
       and not coalesce(policy -> 'non_retryable_error_types' ? (error ->> 'type'), false)
$$;

-- An activity that says itself that its attempts (597) or its time (596) are over is not tried
-- again; that of a single attempt, which its worker or the engine bounds, names its timeout.
create or replace function hotmesh._retry_activity(policy jsonb, attempt integer, error jsonb)
returns boolean
language sql
immutable
as $$
    select hotmesh._retry_again(policy, attempt, error) and not hotmesh._retry_is_final(error)
$$;

create or replace function hotmesh._retry_is_final(error jsonb)
returns boolean
language sql
immutable
as $$
    select coalesce(error ->> 'code' in ('596', '597') and not error ? 'timeout', false)
$$;

-- How many runs of a workflow have failed, and were reported: these are no lost deliveries.
create or replace function hotmesh._retry_failures(error jsonb)
returns integer
language sql
immutable
as $$
    select coalesce((error ->> 'attempt')::integer, 0)
$$;
