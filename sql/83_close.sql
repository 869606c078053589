-- 83 close: what happens when jobs close, whichever way: their parents are told, their children
-- treated by policy, what was waiting is taken away. All in the transaction that settles them, and
-- of other jobs by inserts only.

--@ state

--@ behaviour
-- What a parent's step gets: the error, if there is one, or the output. `limit 1` looks by key,
-- also if the plan was made while the app was empty.
create or replace function hotmesh._close_tell(ids bigint[])
returns void
language plpgsql
as $$
declare
    v_answers hotmesh.streams[] := array(
        select hotmesh._inbox_event(
                   'result', j.parent_id, j.parent_dimension, j.parent_sequence,
                   jsonb_build_object('child', j.key) || coalesce(a.told, '{"output": null}'))
        from jobs j
        left join lateral (
            select jsonb_build_object(a.field, a.value) as told
            from jobs_attributes a
            where a.job_id = j.id and a.field = any ('{error,output}') and a.value is not null
            order by a.field
            limit 1) a on true
        where j.id = any (ids) and j.parent_sequence is not null);
begin
    if v_answers <> '{}' then
        perform hotmesh._inbox_add(v_answers);
    end if;
end
$$;

-- An order to the open children of these jobs; a null `policy` means all of them.
create or replace function hotmesh._close_order(ids bigint[], policy text, name text, args jsonb)
returns void
language plpgsql
as $$
declare
    v_orders hotmesh.streams[] := array(
        select hotmesh._inbox_event(name, j.id, '', null, args)
        from jobs j
        where j.parent_id = any (ids) and j.closed_at is null
          and (policy is null or j.close_policy = policy));
begin
    if v_orders <> '{}' then
        perform hotmesh._inbox_add(v_orders);
    end if;
end
$$;

-- Takes away what was waiting for jobs that have closed; mostly there is nothing. What is locked
-- this instant is left to a later turn, by a piece of news that brings it back here.
create or replace function hotmesh._close_clear(ids bigint[])
returns void
language plpgsql
as $$
begin
    if exists (select from streams m where m.job_id = any (ids)) then
        perform hotmesh._stream_drop(ids);
    end if;
    if not exists (select from streams m where m.job_id = any (ids))
        and not exists (select from signals s where s.job_id = any (ids))
    then
        return;
    end if;
    perform hotmesh._signal_forget(ids);
    perform hotmesh._inbox_put(w.job_id, '', 'result', '{}')
    from (
        select s.job_id from signals s where s.job_id = any (ids)
        union
        select m.job_id from streams m where m.job_id = any (ids) and m.state <> 'dead') w;
end
$$;

-- Closes obligations: see _job_settle.
create or replace function hotmesh._close_settle(
    ids bigint[], ended integer[], cursors bigint[], failed boolean[])
returns void
language plpgsql
as $$
declare
    v_closed bigint[];
    v_awaited bigint[];
begin
    select s.closed, s.awaited into v_closed, v_awaited
    from hotmesh._job_settle(ids, ended, cursors, failed) s;
    if v_closed = '{}' then
        return;
    end if;
    if v_awaited <> '{}' then
        perform hotmesh._close_tell(v_awaited);
    end if;
    if exists (select from jobs j where j.parent_id = any (v_closed)) then
        perform hotmesh._close_order(
            v_closed, 'terminate', 'interrupt', '{"reason": "its parent has closed"}');
        perform hotmesh._close_order(v_closed, 'cancel', 'cancel', '{}');
    end if;
    perform hotmesh._close_clear(v_closed);
end
$$;

-- What functions leave behind that have ended or, with `activations` false, start over.
create or replace function hotmesh._close_functions(
    job_ids bigint[], dimensions text[], activations boolean)
returns void
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    loop
        v_events := hotmesh._inbox_take(job_ids, dimensions);
        exit when v_events is null;
        perform hotmesh._signal_give_back(v_events, '{}');
    end loop;
    perform hotmesh._signal_drop(job_ids, dimensions);
    perform hotmesh._inbox_drop(job_ids, dimensions, activations);
    if activations then
        perform hotmesh._inbox_remind(job_ids, dimensions);
    end if;
end
$$;
