-- 87 order: what somebody asks of a job: run a hook in it, cancel it, interrupt it, update it (64).
-- Giving an order is an insert into the job's inbox, in the giver's transaction, and locks nothing.
-- It is carried out when that transaction commits, or, if the job is locked then, by the next turn.
-- Errors: MSH40, MSH42 of the job.

--@ state

--@ behaviour
-- Reaches the coroutines of its functions as CancelledError. A graph has no code to clean up: it
-- ends.
create or replace function hotmesh._order_cancel(job_id bigint)
returns void
language plpgsql
as $$
declare
    v_functions text[] := array(
        select s.dimension from streams s
        where s.job_id = _order_cancel.job_id and s.kind = 'workflow'
        order by s.dimension);
begin
    if exists (select from jobs j where j.id = job_id and j.graph_id is not null) then
        perform hotmesh._order_interrupt(
            job_id, '{"type": "JobCancelledError", "code": 499, "reason": "cancelled"}');
    end if;
    perform hotmesh._inbox_told(job_id, o.dimension, o.sequence, '{"output": null}', 'ready')
    from (
        select f as dimension, hotmesh._attribute_order(job_id, 'cancel', null, null, f) as sequence
        from unnest(v_functions) f
        offset 0) o
    where o.sequence is not null;
end
$$;

-- Ends a job at once; what its workers still report is stale.
create or replace function hotmesh._order_interrupt(job_id bigint, about jsonb)
returns void
language plpgsql
as $$
declare
    v_key text := (select j.key from jobs j where j.id = job_id);
begin
    if about ->> 'throw' is distinct from 'false' then
        perform hotmesh._attribute_facts(array[job_id], array['error'], array[jsonb_build_object(
            'type', coalesce(about ->> 'type', 'JobInterruptedError'),
            'code', case when hotmesh._is_number(about -> 'code', -999999999, 999999999)
                         then (about ->> 'code')::numeric::integer else 410 end,
            'message', coalesce(about ->> 'reason', format('job [%s] interrupted', v_key)))]);
    end if;
    if about ->> 'descend' = 'true' then
        perform hotmesh._close_order(array[job_id], null, 'interrupt', about);
    end if;
    perform hotmesh._close_settle(array[job_id], '{0}', array[null::bigint], '{true}');
end
$$;

create or replace function hotmesh._order_hook(event hotmesh.streams)
returns void
language plpgsql
as $$
declare
    v_dimension text := ',e' || event.id;
begin
    if (hotmesh._hook_find(event.job_id, v_dimension)).job_id is null then
        perform hotmesh._hook_open(event.job_id, v_dimension, event.args);
    end if;
end
$$;

-- Carries out what was ordered of jobs whose locks the caller holds, in the order given. What comes
-- after an interrupt finds a closed job and is dropped.
create or replace function hotmesh._order_apply(job_ids bigint[], names text[])
returns void
language plpgsql
as $$
declare
    v_order hotmesh.streams;
begin
    foreach v_order in array hotmesh._inbox_orders(job_ids, names) loop
        continue when not exists (
            select from jobs j where j.id = v_order.job_id and j.closed_at is null);
        case v_order.name
            when 'hook' then perform hotmesh._order_hook(v_order);
            when 'cancel' then perform hotmesh._order_cancel(v_order.job_id);
            when 'update' then perform hotmesh._update_admit(v_order.job_id, v_order.args);
            when 'interrupt' then
                perform hotmesh._order_interrupt(v_order.job_id, v_order.args)
                where not hotmesh._timer_renew(v_order);
        end case;
    end loop;
end
$$;

-- Hooks that were ordered of jobs which end: these stay open for them. Of an order that is locked
-- this instant the row stays: a later turn finds that it was carried out.
create or replace function hotmesh._order_hooks(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._order_apply(job_ids, '{hook}');
    perform hotmesh._order_hook(o)
    from unnest(array(
        select s::hotmesh.streams from streams s
        where s.job_id = any (job_ids) and s.kind = 'event' and s.name = 'hook')) o;
end
$$;

-- A turn holds a job for some milliseconds, so a little patience is enough, and no giver is made to
-- wait by somebody's open transaction.
create or replace function hotmesh._order_lock(job_id bigint)
returns bigint[]
language plpgsql
as $$
declare
    v_locked bigint[];
begin
    for i in 1..20 loop
        v_locked := hotmesh._job_lock(array[job_id]);
        exit when v_locked <> '{}' or not exists (
            select from jobs j where j.id = job_id and j.closed_at is null);
        perform pg_sleep(0.005);
    end loop;
    return v_locked;
end
$$;

-- What was asked of code that has ended meanwhile is refused, as it would be now. Of a job that
-- closes in this very moment a turn drops it.
create or replace function hotmesh._order_missed(id bigint, job_id bigint)
returns void
language plpgsql
as $$
begin
    perform hotmesh._job_refuse_closed(j.key, j.closed_at)
    from jobs j
    where j.id = _order_missed.job_id and j.closed_at is not null
      and exists (select from streams s where s.id = _order_missed.id);
end
$$;

-- At the giver's commit, if nobody holds the job. What a turn ordered it carries out itself. With
-- the snapshot of a stricter isolation a lock may fail: then the next turn does it.
create or replace function hotmesh._order_carry_out()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('hotmesh.turning', true) = 'on' then
        return null;
    end if;
    perform set_config(
        'search_path', format('pg_catalog, %I, hotmesh, pg_temp', tg_table_schema), true);
    if current_setting('transaction_isolation') = 'read committed' then
        perform hotmesh._order_apply(
            hotmesh._order_lock(new.job_id), '{hook,cancel,interrupt,update}');
        perform hotmesh._order_missed(new.id, new.job_id)
        where new.name in ('hook', 'update');
    end if;
    perform hotmesh._worker_wake_any();
    return null;
end
$$;
do $$
begin
    if not exists (
        select from pg_trigger t
        where t.tgrelid = 'hotmesh.streams'::regclass and t.tgname = 'carry_out_order')
    then
        create constraint trigger carry_out_order after insert on hotmesh.streams
        deferrable initially deferred
        for each row when (
            new.kind = 'event' and new.name in ('hook', 'cancel', 'interrupt', 'update'))
        execute function hotmesh._order_carry_out();
    end if;
end
$$;
comment on trigger carry_out_order on hotmesh.streams is
'Carries out an order when its giver commits, if nobody holds the job.';

create or replace function hotmesh._order_check(about jsonb)
returns jsonb
language plpgsql
as $$
begin
    if not hotmesh._is_number(coalesce(nullif(about -> 'code', 'null'), '410'), 1, 999999)
        or coalesce(about ->> 'code', '410') !~ '^[0-9]+$'
    then
        perform hotmesh._refuse_argument(
            format('bad code: %s', left(about ->> 'code', 60)),
            'It is a whole number from 1 to 999999.', 'Leave it out for 410.');
    end if;
    perform hotmesh._job_check_size('the reason', about -> 'reason');
    return about;
end
$$;

-- Workflow code interrupts a job: {key, reason, code, descend, throw}.
create or replace function hotmesh._order_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_job hotmesh.jobs := hotmesh._archive_find_open(step.value ->> 'key');
begin
    perform hotmesh._inbox_put(
        v_job.id, '', 'interrupt', hotmesh._order_check(step.value - 'key'));
    return 'true';
end
$$;

create or replace function hotmesh.job_interrupt(
    app text, key text, reason text default null, code integer default 410,
    descend boolean default false, throw boolean default true)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_about jsonb;
begin
    perform hotmesh._enter(app);
    v_about := hotmesh._order_check(jsonb_build_object(
        'reason', reason, 'code', coalesce(code, 410), 'descend', coalesce(descend, false),
        'throw', coalesce(throw, true)));
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._inbox_put(v_job.id, '', 'interrupt', v_about);
end
$$;
comment on function hotmesh.job_interrupt(text, text, text, integer, boolean, boolean) is
'End a job at once, when the caller commits; with `descend` its children too. Unless `throw` is
false, whoever asks for its result gets the reason and the code. Raises MSH40, MSH42, 22023.';

create or replace function hotmesh.job_cancel(app text, key text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._inbox_put(v_job.id, '', 'cancel', '{}');
end
$$;
comment on function hotmesh.job_cancel(text, text) is
'Ask a job to stop: its code gets a CancelledError at its next await and may clean up. Raises MSH40,
MSH42.';

create or replace function hotmesh.hook_start(
    app text, key text, workflow text, args jsonb default '[]', queue text default null,
    options jsonb default '{}')
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_about jsonb;
begin
    perform hotmesh._enter(app);
    v_about := jsonb_build_object(
        'workflow', workflow, 'args', args, 'queue', queue,
        'retry_policy', options -> 'retry_policy');
    perform hotmesh._hook_check(v_about);
    perform hotmesh._hook_check_options(options);
    perform hotmesh._job_check_size(format('args of "%s"', workflow), args);
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._inbox_put(v_job.id, '', 'hook', v_about);
end
$$;
comment on function hotmesh.hook_start(text, text, text, jsonb, text, jsonb) is
'Run a function in an existing job, on its entity, in the caller''s transaction; by default on the
job''s queue. options: retry_policy. Raises MSH40, MSH42, 22023.';
