-- 50 attribute: facts about a job: `input`, `output`, `error`, the user's own (`_name`), and steps.
-- A step is one durable operation of the run, numbered as the code called it (`sequence`) and again
-- as its completion reached the code (`cursor`); these rows are the journal, and replay reads
-- nothing else. The ledger proves delivery: 15 digits that only grow (1 finalized, 2-3 leg-1
-- entries, 4 leg-1 complete, 5 answered by a signal by name, 8-15 leg-2 entries), each set by
-- compare-and-set in the transaction of the work it proves. Errors: MSH50.

--@ state
create table hotmesh.jobs_attributes (
    job_id bigint not null,
    field text not null,
    value jsonb,
    kind text not null default 'fact',
    name text,
    state text not null default 'done',
    dimension text not null default '',
    sequence integer,
    cursor bigint,
    ledger bigint not null default 0,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint jobs_attributes_pkey primary key (job_id, field),
    constraint attribute_state_is_known check (state in ('open', 'done', 'failed', 'cancelled')),
    constraint a_ledger_has_fifteen_digits check (ledger between 0 and 999999999999999),
    constraint finished_steps_are_finalized check (
        state not in ('done', 'failed') or sequence is null or ledger >= 100000000000000)
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);
comment on table hotmesh.jobs_attributes is
'One row per durable fact about a job: its input, output and error, the user''s data, and its
journal.';
comment on column hotmesh.jobs_attributes.job_id is 'The job.';
comment on column hotmesh.jobs_attributes.field is
'The fact''s name: input, output, error, _name for the user''s own, step-0001 for the journal.';
comment on column hotmesh.jobs_attributes.value is
'The value, the result of a step or its failure.';
comment on column hotmesh.jobs_attributes.kind is
'fact, or what a step is: activity, timer, …';
comment on column hotmesh.jobs_attributes.name is 'What a step called.';
comment on column hotmesh.jobs_attributes.state is 'open, done, failed or cancelled.';
comment on column hotmesh.jobs_attributes.dimension is
'The part of the job: empty for the main function, a path for a hook.';
comment on column hotmesh.jobs_attributes.sequence is 'A step''s number in the order of calls.';
comment on column hotmesh.jobs_attributes.cursor is
'A step''s number in the order of completions.';
comment on column hotmesh.jobs_attributes.ledger is
'Proof of delivery: 15 digits that only grow.';
comment on column hotmesh.jobs_attributes.created_at is 'When it was written.';
comment on column hotmesh.jobs_attributes.updated_at is
'When it was last changed; for a step: the time that the code saw.';

--@ behaviour
create or replace function hotmesh._attribute_exists(job_id bigint, field text)
returns boolean
language plpgsql
stable
as $$
begin
    return exists (
        select from jobs_attributes a
        where a.job_id = _attribute_exists.job_id and a.field = _attribute_exists.field);
end
$$;

create or replace function hotmesh._attribute_field(dimension text, sequence integer)
returns text
language sql
immutable
parallel safe
as $$
    select 'step' || dimension || '-' || case
        when sequence between 0 and 9999 then lpad(sequence::text, 4, '0')
        else sequence::text end
$$;

create or replace function hotmesh._attribute_facts(job_ids bigint[], fields text[], vals jsonb[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes as a (job_id, field, value, created_at, updated_at)
    select f.job_id, f.field, f.value, v_now, v_now
    from unnest(job_ids, fields, vals) as f (job_id, field, value)
    on conflict (job_id, field) do update
    set value = excluded.value, updated_at = v_now;
end
$$;

create or replace function hotmesh._attribute_remove(job_id bigint, fields text[])
returns bigint
language plpgsql
as $$
declare
    v_count bigint;
begin
    delete from jobs_attributes a
    where a.job_id = _attribute_remove.job_id and a.field = any (fields) and a.sequence is null;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

create or replace function hotmesh._attribute_ledger(state text)
returns bigint
language sql
immutable
parallel safe
as $$
    select case state
        when 'open' then 001100000000000
        when 'cancelled' then 001100000000000
        when 'by name' then 101110000000001
        else 101100000000001 end
$$;

create or replace function hotmesh._attribute_write(steps hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at)
    select s.job_id, hotmesh._attribute_field(s.dimension, s.sequence), s.value, s.kind, s.name,
           s.state, s.dimension, s.sequence,
           s.cursor, hotmesh._attribute_ledger(s.state), v_now, coalesce(s.updated_at, v_now)
    from unnest(steps) s;
end
$$;

-- Steps and facts of a graph, as they came to be; of two that are one row the later counts.
create or replace function hotmesh._attribute_lay(steps hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes as a (
        job_id, field, value, kind, name, state, dimension, sequence,
        ledger, created_at, updated_at)
    select distinct on (s.job_id, s.field)
           s.job_id, s.field, s.value, s.kind, s.name, s.state, s.dimension, s.sequence,
           s.ledger, v_now, v_now
    from unnest(steps) with ordinality s
    order by s.job_id, s.field, s.ordinality desc
    on conflict (job_id, field) do update
    set value = excluded.value, state = excluded.state, ledger = excluded.ledger,
        updated_at = v_now;
end
$$;

-- What a job tells whoever listens.
create or replace function hotmesh._attribute_emit(
    job_id bigint, field text, topic text, events jsonb)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes as a (job_id, field, value, kind, name, created_at, updated_at)
    values (job_id, field, jsonb_build_object('events', events), 'emit', topic, v_now, v_now)
    on conflict on constraint jobs_attributes_pkey do update
    set value = excluded.value, updated_at = v_now;
end
$$;

-- The journal rows of what functions have consumed: of each its steps, numbered on from `cursors`.
create or replace function hotmesh._attribute_done(
    job_ids bigint[], dimensions text[], cursors bigint[], steps jsonb[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at)
    select f.job_id, hotmesh._attribute_field(f.dimension, d.sequence), d.value, d.kind, d.name,
           'done', f.dimension, d.sequence, f.cursor + d.number,
           hotmesh._attribute_ledger('done'), v_now,
           coalesce(timestamptz 'epoch' + make_interval(secs => d.at), v_now)
    from unnest(job_ids, dimensions, cursors, steps) as f (job_id, dimension, cursor, steps)
    cross join lateral rows from (
        jsonb_to_recordset(f.steps) as (
            sequence integer, kind text, name text, value jsonb, at double precision))
        with ordinality as d (sequence, kind, name, value, at, number);
end
$$;

-- Numbers what came in after `cursors` and closes the steps that waited for it. A step that is no
-- longer open was cancelled or answered before: its event is dropped, so running twice never counts
-- twice. The caller holds the jobs' locks.
create or replace function hotmesh._attribute_close(
    events hotmesh.streams[], job_ids bigint[], dimensions text[], cursors bigint[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
declare
    v_closed hotmesh.jobs_attributes[];
begin
    if events is null then
        return '{}';
    end if;
    with numbered as (
        select m.job_id, hotmesh._attribute_field(m.dimension, m.sequence) as field,
               m.args, m.visible_at,
               f.cursor + row_number() over (
                   partition by m.job_id, m.dimension order by m.visible_at, m.id) as cursor
        from unnest(job_ids, dimensions, cursors) as f (job_id, dimension, cursor)
        join unnest(events) m on m.job_id = f.job_id and m.dimension = f.dimension),
    closed as (
        update jobs_attributes a
        set state = case when e.args ? 'error' then 'failed' else 'done' end,
            value = coalesce(e.args -> 'error', e.args -> 'output'),
            cursor = e.cursor, updated_at = e.visible_at,
            ledger = hotmesh._attribute_ledger(
                case when e.args ? 'published' then 'by name' else 'done' end)
        from numbered e
        where a.job_id = e.job_id and a.field = e.field and a.state = 'open'
          and (not e.args ? 'child' or hotmesh._attribute_expects(a, e.args ->> 'child'))
        returning (a::hotmesh.jobs_attributes) as step)
    select coalesce(array_agg(c.step order by (c.step).cursor), '{}') into v_closed
    from closed c;
    return v_closed;
end
$$;

-- A hook's own row: its name, arguments and cursor.
create or replace function hotmesh._attribute_hook(
    job_id bigint, dimension text, name text, about jsonb)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into jobs_attributes (
        job_id, field, value, kind, name, state, dimension, cursor, created_at, updated_at)
    values (job_id, 'hook' || dimension, about, 'hook', name, 'open', dimension, 0, v_now, v_now);
end
$$;

-- A hook that failed and is to be run anew. Returns the last of its steps.
create or replace function hotmesh._attribute_hook_drop(job_id bigint, dimension text)
returns integer
language plpgsql
as $$
declare
    v_last integer;
begin
    with gone as (
        delete from jobs_attributes a
        where a.job_id = _attribute_hook_drop.job_id
          and a.dimension = _attribute_hook_drop.dimension
        returning a.sequence)
    select max(g.sequence) into v_last from gone g;
    return v_last;
end
$$;

-- A hook has sent a signal: perhaps the one that is expected of it.
create or replace function hotmesh._attribute_hook_signalled(
    job_id bigint, dimension text, signal text)
returns void
language plpgsql
as $$
begin
    update jobs_attributes a
    set value = a.value || '{"signalled": true}'
    where a.job_id = _attribute_hook_signalled.job_id
      and a.field = 'hook' || _attribute_hook_signalled.dimension
      and a.value ->> 'signal' = _attribute_hook_signalled.signal;
end
$$;

-- Whether a row belongs to a hook that has ended.
create or replace function hotmesh._attribute_is_over(job_id bigint, dimension text)
returns boolean
language plpgsql
stable
as $$
begin
    return dimension <> '' and exists (
        select from jobs_attributes h
        where h.job_id = _attribute_is_over.job_id
          and h.field = 'hook' || _attribute_is_over.dimension and h.state <> 'open');
end
$$;

-- A hook that starts over: with other arguments, its journal forgotten, and those of the hooks that
-- it had started and that have ended.
create or replace function hotmesh._attribute_hook_again(
    job_id bigint, dimension text, args jsonb)
returns void
language plpgsql
as $$
begin
    delete from jobs_attributes a
    where a.job_id = _attribute_hook_again.job_id
      and (a.dimension = _attribute_hook_again.dimension and a.sequence is not null
           or starts_with(a.dimension, _attribute_hook_again.dimension || ',')
           and hotmesh._attribute_is_over(a.job_id, a.dimension));
    update jobs_attributes a
    set value = a.value || jsonb_build_object('args', args), updated_at = hotmesh.now()
    where a.job_id = _attribute_hook_again.job_id
      and a.field = 'hook' || _attribute_hook_again.dimension;
end
$$;

-- Moves the cursors of hooks, and closes those that have ended with `states`.
create or replace function hotmesh._attribute_advance(
    job_ids bigint[], dimensions text[], cursors bigint[], states text[])
returns void
language plpgsql
as $$
begin
    update jobs_attributes a
    set cursor = f.cursor, state = f.state, updated_at = hotmesh.now()
    from unnest(job_ids, dimensions, cursors, states) as f (job_id, dimension, cursor, state)
    where a.job_id = f.job_id and a.field = 'hook' || f.dimension;
end
$$;

-- An order that reaches the code as a step which it never asked for: numbered down from 0, below
-- what an earlier run left in the inbox, once per id and dimension. Returns the number, or null if
-- it is there already.
create or replace function hotmesh._attribute_order(
    job_id bigint, kind text, name text, id text, dimension text default '')
returns integer
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_sequence integer := (
        select least(min(n.sequence), 1) - 1
        from (
            select a.sequence from jobs_attributes a
            where a.job_id = _attribute_order.job_id and a.dimension = _attribute_order.dimension
            union all
            select s.sequence from streams s
            where s.job_id = _attribute_order.job_id and s.kind = 'event'
              and s.dimension = _attribute_order.dimension) n);
begin
    if exists (
        select from jobs_attributes a
        where a.job_id = _attribute_order.job_id and a.dimension = _attribute_order.dimension
          and a.kind = _attribute_order.kind
          and coalesce(a.value ->> 'id', '') = coalesce(_attribute_order.id, ''))
    then
        return null;
    end if;
    insert into jobs_attributes (
        job_id, field, value, kind, name, state, dimension, sequence, ledger,
        created_at, updated_at)
    values (job_id, hotmesh._attribute_field(dimension, v_sequence),
            jsonb_build_object('id', id), kind, name, 'open', dimension,
            v_sequence, hotmesh._attribute_ledger('open'), v_now, v_now);
    return v_sequence;
end
$$;

-- Did this step, or for an outcome the one before it, start the child of this key? After a retry
-- the number may be another step's.
create or replace function hotmesh._attribute_expects(step hotmesh.jobs_attributes, key text)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select from jobs_attributes c
        where c.job_id = step.job_id and c.kind = 'child'
          and c.field = hotmesh._attribute_field(
              step.dimension,
              step.sequence - case step.kind when 'outcome' then 1 else 0 end)
          and coalesce(c.value #>> '{}' = key, true));
end
$$;

create or replace function hotmesh._attribute_cancel(job_ids bigint[], fields text[])
returns void
language plpgsql
as $$
begin
    update jobs_attributes a
    set state = 'cancelled', updated_at = hotmesh.now()
    from unnest(job_ids, fields) as c (job_id, field)
    where a.job_id = c.job_id and a.field = c.field and a.state = 'open';
end
$$;

-- Of steps that the code gave up before it saw their answers: the waits, which were answered for
-- nothing.
create or replace function hotmesh._attribute_miss(job_ids bigint[], fields text[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
declare
    v_missed hotmesh.jobs_attributes[];
begin
    with missed as (
        update jobs_attributes a
        set state = 'cancelled'
        from unnest(job_ids, fields) as c (job_id, field)
        where a.job_id = c.job_id and a.field = c.field and a.kind = 'wait' and a.state = 'done'
        returning (a::hotmesh.jobs_attributes) as step)
    select coalesce(array_agg(m.step), '{}') into v_missed from missed m;
    return v_missed;
end
$$;

-- One step as replay reads it: [sequence, kind, name, state, value, cursor, time].
create or replace function hotmesh._attribute_entry(step hotmesh.jobs_attributes)
returns jsonb
language sql
stable
as $$
    select jsonb_build_array(
        step.sequence, step.kind, step.name, step.state, step.value, step.cursor,
        extract(epoch from step.updated_at))
$$;

-- The journal of one part of a job after step `after`: about `size_limit` bytes of values, always
-- one step; a last null says that there is more.
create or replace function hotmesh._attribute_history(
    job_id bigint, dimension text, after integer, size_limit bigint)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(
                   jsonb_agg(hotmesh._attribute_entry(h.step) order by (h.step).sequence)
                       filter (where h.before < size_limit),
                   '[]')
               || case when bool_and(h.before < size_limit) is false
                       then '[null]' else '[]' end::jsonb
        from (
            select (a::hotmesh.jobs_attributes) as step,
                   coalesce(sum(hotmesh._bytes(a.value)) over (
                       order by a.sequence
                       rows between unbounded preceding and 1 preceding), 0) as before
            from jobs_attributes a
            where a.job_id = _attribute_history.job_id
              and a.dimension = _attribute_history.dimension
              and a.sequence > after) h);
end
$$;

-- Before a run is tried again, its first failure is forgotten, and all that came after it: that is
-- done anew, what was done before stays done. Returns the steps that are gone.
create or replace function hotmesh._attribute_forget(job_id bigint, dimension text)
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
declare
    v_first bigint := (
        select min(a.cursor) from jobs_attributes a
        where a.job_id = _attribute_forget.job_id
          and a.dimension = _attribute_forget.dimension and a.state = 'failed');
    v_gone hotmesh.jobs_attributes[];
begin
    with gone as (
        delete from jobs_attributes a
        where a.job_id = _attribute_forget.job_id
          and a.dimension = _attribute_forget.dimension
          and a.sequence > 0 and v_first is not null
          and (a.cursor >= v_first or a.cursor is null)
        returning (a::hotmesh.jobs_attributes) as step)
    select coalesce(array_agg(g.step), '{}') into v_gone from gone g;
    return v_gone;
end
$$;

create or replace function hotmesh._attribute_guard()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'ledger of % would shrink', old.field using
        errcode = 'MSH50',
        detail = format('It is %s and would become %s.', old.ledger, new.ledger),
        hint = 'A ledger only grows; this is a defect of the engine or a change by hand.';
end
$$;
create or replace trigger guard_ledger before update of ledger on hotmesh.jobs_attributes
for each row when (new.ledger < old.ledger)
execute function hotmesh._attribute_guard();
