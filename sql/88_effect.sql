-- 88 effect: what workflow code asks the engine itself to do: signal, start a child, change the
-- entity. An effect is a step of the journal whose `value` holds its arguments. It is carried out
-- once, in the turn that lays its step down, under the lock of its own job; its answer, or what it
-- refused, becomes the step's result like any other. A noun that has effects has a function
-- `_<noun>_effect(step)`, which answers json, or null when the answer comes later.

--@ state

--@ behaviour
create or replace function hotmesh._effect_kinds()
returns text[]
language sql
immutable
parallel safe
as $$
    select '{answer,child,emit,entity,hook,interrupt,search,signal,trace,wait}'::text[]
$$;

create or replace function hotmesh._effect_run(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
begin
    case step.kind
        when 'answer' then return hotmesh._update_effect(step);
        when 'child' then return hotmesh._child_effect(step);
        when 'hook' then return hotmesh._hook_effect(step);
        when 'interrupt' then return hotmesh._order_effect(step);
        when 'signal' then return hotmesh._signal_effect(step);
        when 'entity' then return hotmesh._entity_effect(step);
        when 'wait' then return hotmesh._signal_wait(step);
        when 'search' then return hotmesh._search_effect(step);
        when 'emit' then return hotmesh._emit_effect(step);
        when 'trace' then return step.value;  -- to be in the journal is all
    end case;
end
$$;

create or replace function hotmesh._effect_tell(step hotmesh.jobs_attributes, answer jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_told(step.job_id, step.dimension, step.sequence, answer, 'waiting');
end
$$;

-- One that would have to wait for somebody's open transaction is tried again.
create or replace function hotmesh._effect_later(step hotmesh.jobs_attributes)
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array[(
        null, 'timer', 'delayed', '', 'effect', 0, step.job_id, step.dimension, step.sequence, null,
        to_jsonb(step), null, 0, 0, hotmesh.now() + interval '500 ms',
        null, null, null, null, null, null)::hotmesh.streams]);
end
$$;

-- What an effect refuses (our own codes, bad arguments, a constraint or trigger that the owner
-- put on a table) is the step's error; anything else is a defect and stops the report. Effects that
-- fail are tried one by one, so that it costs one subtransaction if all goes well.
create or replace function hotmesh._effect_apply(steps hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
declare
    v_state text;
    v_message text;
    v_detail text;
    v_hint text;
begin
    perform hotmesh._effect_tell(e.step, jsonb_build_object('output', e.answer))
    from (
        select steps[i] as step, hotmesh._effect_run(steps[i]) as answer
        from generate_subscripts(steps, 1) i
        order by i
        offset 0) e
    where e.answer is not null;
exception
    when sqlstate 'MSH00' or sqlstate 'MSH40' or sqlstate 'MSH41' or sqlstate 'MSH42'
        or sqlstate 'MSH43' or sqlstate 'MSH44' or data_exception or sqlstate 'MSH22'
        or sqlstate 'MSH80' or sqlstate 'MSH81' or sqlstate 'MSH82' or sqlstate 'MSH83'
        or integrity_constraint_violation or raise_exception or lock_not_available
    then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text,
            v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        if cardinality(steps) > 1 then
            perform hotmesh._effect_apply(array[s]) from unnest(steps) s;
        elsif v_state = '55P03' then
            perform hotmesh._effect_later(steps[1]);
        else
            perform hotmesh._effect_tell(steps[1], jsonb_build_object(
                'error', jsonb_build_object(
                    'sqlstate', v_state, 'message', v_message, 'detail', v_detail,
                    'hint', v_hint)));
        end if;
end
$$;

-- Effects and errands of jobs whose locks the caller holds that are to be tried again.
create or replace function hotmesh._effect_resume(job_ids bigint[])
returns void
language plpgsql
as $$
declare
    v_orders hotmesh.streams[] := hotmesh._inbox_orders(job_ids, '{effect}');
begin
    v_orders := array(
        select o
        from unnest(v_orders) o
        where exists (
            select from jobs_attributes s
            join jobs j on j.id = s.job_id and j.closed_at is null
            where s.job_id = o.job_id and s.state = 'open'
              and s.field = hotmesh._attribute_field(o.dimension, o.sequence)));
    perform hotmesh._effect_apply(
        array[jsonb_populate_record(null::hotmesh.jobs_attributes, o.args)])
    from unnest(v_orders) o
    where not o.args ? 'errand';
    perform hotmesh._subflow_again(o.args -> 'errand')
    from unnest(v_orders) o
    where o.args ? 'errand';
end
$$;
