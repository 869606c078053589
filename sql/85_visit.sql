-- 85 visit: what an activity does when a walk comes to it, by its type: it passes, or it asks
-- somebody and waits; and what it leads to when it has its answer. Pure, like all of a walk.

--@ state

--@ behaviour
-- The number of seconds that a hook sleeps; null if it does not.
create or replace function hotmesh._visit_seconds(sleep jsonb)
returns double precision
language sql
stable
as $$
    select case
        when s.seconds > 0 and s.seconds < 'infinity' then s.seconds end
    from (
        select case jsonb_typeof(sleep)
            when 'number' then (sleep #>> '{}')::double precision
            when 'string' then case
                when sleep #>> '{}' ~ '^\s*[-+]?\d+(\.\d+)?\s*$'
                    then (sleep #>> '{}')::double precision
                else extract(epoch from hotmesh._duration(sleep, 'sleep')) end
            end::double precision as seconds) s
$$;

-- What an activity hands to the engine is what the engine can keep, or its own job fails.
create or replace function hotmesh._visit_check(about jsonb, seconds double precision)
returns void
language plpgsql
as $$
begin
    if about ? 'code' and jsonb_typeof(about -> 'code') <> 'null'
        and hotmesh._walk_code(about -> 'code') is null
    then
        perform hotmesh._refuse_argument(
            format('code is no code: %s', left(about ->> 'code', 100)),
            'It was computed.', 'It is a whole number, such as 200.');
    elsif seconds > 1e11 then
        perform hotmesh._refuse_argument(
            format('sleep is too long: %s s', seconds), 'It was computed.', 'Up to 1e11 seconds.');
    end if;
end
$$;

create or replace function hotmesh._visit_check_topic(topic jsonb)
returns void
language plpgsql
as $$
begin
    if jsonb_typeof(topic) is distinct from 'string'
        or octet_length(topic #>> '{}') not between 1 and 500
    then
        perform hotmesh._refuse_argument(
            format('topic is no topic: %s', left(topic::text, 100)),
            'It was computed.', 'It is a text of 1 to 500 bytes.');
    end if;
end
$$;

-- The name under which a hook's signal is awaited. One that an index can't hold is hashed.
create or replace function hotmesh._visit_name(topic text, value jsonb)
returns text
language sql
immutable
as $$
    select topic || coalesce(':' || case
        when octet_length(value #>> '{}') < 1000 then value #>> '{}'
        else md5(value #>> '{}') end, '')
$$;

-- `retry: {'500': [3]}`: three more attempts for that code, after 10, 100, 1,000 ms.
create or replace function hotmesh._visit_retry(w hotmesh.walk, retry jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_tries integer := coalesce((w.self ->> 'tries')::integer, 0);
    v_most integer := (
        select max((r.value ->> 0)::integer) from jsonb_each(retry) r
        where exists (
            select from unnest(w.codes) c
            where c::text ~ ('^' || replace(r.key, '*', '\d') || '$')));
begin
    if v_tries < v_most then
        w.self := w.self || jsonb_build_object('tries', v_tries + 1);
        w := hotmesh._walk_step(w, w.dimension, w.self, 'open');
        w.store := hotmesh._plan_put(w.store, v_about ->> 'id', w.dimension, w.self);
        w := hotmesh._walk_command(w, v_about ->> 'type', coalesce(
                w.self -> 'asked', jsonb_build_object('topic', w.self -> 'topic'))
            || jsonb_build_object(
                'data', coalesce(w.self #> '{input,data}', '{}'),
                'function', v_about -> 'function', 'policy', '{"maximum_attempts": 1}'::jsonb,
                'again', true, 'delay', power(10, v_tries + 1) / 1000));
        w.codes := '{}';
    end if;
    return w;
end
$$;

-- It has nothing to wait for.
create or replace function hotmesh._visit_pass(w hotmesh.walk)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.store := hotmesh._plan_put(
        w.store, hotmesh._walk_about(w) ->> 'id', w.dimension, w.self);
    w.todo := (w.activity, w.dimension,
               case when w.self ? 'output' then 'again' else 'leave' end, null
              )::hotmesh.walk_entry || w.todo;
    return w;
end
$$;

-- It waits: its row stays open, its answer comes as an event.
create or replace function hotmesh._visit_wait(w hotmesh.walk)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w := hotmesh._walk_step(w, w.dimension, w.self, 'open');
    w.store := hotmesh._plan_put(
        w.store, hotmesh._walk_about(w) ->> 'id', w.dimension,
        w.self || '{"$": {"open": true, "turn": 0}}');
    return w;
end
$$;

-- A worker, another graph, a workflow in code, a function of SQL.
create or replace function hotmesh._visit_ask(w hotmesh.walk, about jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_plan jsonb := hotmesh._walk_about(w);
begin
    if v_plan ->> 'type' = 'worker' then
        perform hotmesh._visit_check_topic(about -> 'topic');
        w.self := w.self || jsonb_build_object('topic', about -> 'topic');
    elsif v_plan ? 'retry' then
        w.self := w.self || jsonb_build_object('asked', about);
    end if;
    w := hotmesh._walk_command(w, v_plan ->> 'type', about || jsonb_build_object(
        'data', coalesce(w.self #> '{input,data}', '{}'),
        'function', v_plan -> 'function',
        'policy', case when v_plan ? 'retry' then '{"maximum_attempts": 1}'
                       else v_plan -> 'policy' end));
    return hotmesh._visit_wait(w);
end
$$;

-- Waits for a time, for a signal, for whichever comes first; or passes.
create or replace function hotmesh._visit_hook(w hotmesh.walk, about jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_plan jsonb := hotmesh._walk_about(w);
    v_seconds double precision := hotmesh._visit_seconds(about -> 'sleep');
begin
    perform hotmesh._visit_check('{}', v_seconds);
    if v_seconds is null and not v_plan ? 'topic' or w.self ? 'output' then
        return hotmesh._visit_pass(w);
    end if;
    if v_plan ? 'topic' then
        w.self := w.self || jsonb_build_object(
            'wait', hotmesh._visit_name(v_plan ->> 'topic', about -> 'expected'));
        w := hotmesh._walk_command(w, 'wait', jsonb_build_object('name', w.self -> 'wait'));
    end if;
    if v_seconds is not null then
        w.self := w.self || jsonb_build_object('sleep', v_seconds);
        w := hotmesh._walk_command(w, 'sleep', jsonb_build_object('seconds', v_seconds));
    end if;
    return hotmesh._visit_wait(w);
end
$$;

-- Goes back to its ancestor, in that one's next dimension, with its own input as that one's
-- output.
create or replace function hotmesh._visit_cycle(w hotmesh.walk)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_ancestor integer := (hotmesh._walk_about(w) ->> 'ancestor')::integer;
    v_depth integer := (w.plan #>> array['activities', (v_ancestor - 1)::text, 'depth'])::integer;
    v_limit bigint := hotmesh._setting('cycle_limit', 10000);
    v_dimension text := hotmesh._walk_dimension(
        (regexp_match(w.dimension, '^(?:,\d+){' || v_depth + 1 || '}'))[1], 1);
begin
    if (regexp_match(v_dimension, '\d+$'))[1]::integer > v_limit then
        return hotmesh._walk_fail(w, jsonb_build_object(
            'type', 'CycleError', 'code', 598, 'message', format(
                'cycle "%s" has returned %s times', hotmesh._walk_about(w) ->> 'id', v_limit)));
    end if;
    w.todo := w.todo || (v_ancestor, v_dimension, 'enter',
                         coalesce(w.self #> '{input,data}', '{}'))::hotmesh.walk_entry;
    return hotmesh._walk_end(w, 'done');
end
$$;

-- Sends to one hook, whose rule says under which name, or to all of a facet.
create or replace function hotmesh._visit_signal(w hotmesh.walk, about jsonb)
returns hotmesh.walk
language plpgsql
as $$
begin
    perform hotmesh._visit_check(about, null);
    if about ->> 'subtype' is distinct from 'all' then
        about := about || jsonb_build_object('name', hotmesh._errand_signal_name(
            about ->> 'topic', coalesce(nullif(about -> 'data', 'null'), '{}')));
    end if;
    w := hotmesh._walk_command(w, 'signal', about);
    return hotmesh._visit_pass(w);
end
$$;

-- Ends its own job, or orders another's end.
create or replace function hotmesh._visit_interrupt(w hotmesh.walk, about jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_key text := w.job #>> '{metadata,jid}';
begin
    perform hotmesh._visit_check(about, null);
    if coalesce(about ->> 'target', v_key) <> v_key then
        w := hotmesh._walk_command(w, 'interrupt', about);
        return hotmesh._visit_pass(w);
    end if;
    w := hotmesh._walk_step(w, w.dimension, w.self, 'done');
    w.status := w.status - 1;
    if about ->> 'throw' = 'false' then
        w.ended := true;
        return w;
    end if;
    return hotmesh._walk_fail(w, jsonb_strip_nulls(jsonb_build_object(
        'type', 'JobInterruptedError', 'code', coalesce(hotmesh._walk_code(about -> 'code'), 410),
        'message', coalesce(about ->> 'reason', format('job [%s] interrupted', v_key)),
        'stack', about -> 'stack', 'descend', about -> 'descend')));
end
$$;

-- An activity is through: the job's data, whoever is to hear of it, where to go on.
create or replace function hotmesh._visit_leave(w hotmesh.walk, o hotmesh.plan_step)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_open boolean := w.pending and o.self ? '$';
begin
    if o.job is not null then
        w.job := o.job;
        w.told := true;
    end if;
    w.store := coalesce(o.store, hotmesh._plan_put(  -- what an earlier engine compiled has none
        w.store, hotmesh._walk_about(w) ->> 'id', w.dimension, o.self));
    w := hotmesh._walk_step(
        w, w.dimension, o.self,
        case when v_open then 'open' when w.leg = 'failed' then 'failed' else 'done' end);
    w.status := w.status + coalesce(cardinality(o.go), 0) - case when w.pending then 0 else 1 end;
    w.todo := hotmesh._walk_onward(w.todo, o.go, w.dimension);
    if o.emit or o.persist then
        w := hotmesh._walk_command(w, 'emit', jsonb_build_object('job', w.job));
    end if;
    if w.leg = 'failed' and o.go is null then
        return hotmesh._walk_fail(w, o.self -> 'error');
    end if;
    return w;
end
$$;
