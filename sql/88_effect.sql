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
    select '{signal,entity}'::text[]
$$;

create or replace function hotmesh._effect_run(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
begin
    case step.kind
        when 'signal' then return hotmesh._signal_effect(step);
        when 'entity' then return hotmesh._entity_effect(step);
    end case;
end
$$;

-- What an effect refuses (our own codes, bad arguments, a constraint that the owner put on a table)
-- is the step's error; anything else is a defect and stops the report.
create or replace function hotmesh._effect_try(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_answer jsonb;
    v_state text;
    v_message text;
    v_detail text;
    v_hint text;
begin
    v_answer := hotmesh._effect_run(step);
    return case when v_answer is not null then jsonb_build_object('output', v_answer) end;
exception
    when sqlstate 'MSH00' or sqlstate 'MSH40' or sqlstate 'MSH41' or sqlstate 'MSH42'
        or sqlstate 'MSH43' or sqlstate 'MSH44' or data_exception
        or sqlstate 'MSH80' or sqlstate 'MSH81' or sqlstate 'MSH82' or sqlstate 'MSH83'
        or integrity_constraint_violation
    then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text,
            v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        return jsonb_build_object('error', jsonb_build_object(
            'sqlstate', v_state, 'message', v_message, 'detail', v_detail, 'hint', v_hint));
end
$$;

-- Carries out the effects of a batch, one after the other. The caller holds the jobs' locks.
create or replace function hotmesh._effect_apply(steps hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
declare
    v_step hotmesh.jobs_attributes;
    v_answer jsonb;
begin
    foreach v_step in array steps loop
        v_answer := hotmesh._effect_try(v_step);
        if v_answer is not null then
            perform hotmesh._inbox_told(
                v_step.job_id, v_step.dimension, v_step.sequence, v_answer);
        end if;
    end loop;
end
$$;
