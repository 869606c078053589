-- 60 signal: news by name. Sent to one job, it is an event of that job's inbox and is kept for it;
-- sent by name alone, it is a row of `signals`, where each open wait has a row too: one half of a
-- rendezvous each. Who takes a wait's row away answers the wait, so that one signal meets one wait.
-- Sending is an insert and locks nothing. A half is `new` until a turn has looked for the other
-- after its commit: so neither of two that were written at once is missed. Errors: MSH40, MSH42.

--@ state
create table hotmesh.signals (
    id bigint not null default nextval('hotmesh.ids'),
    kind text not null,
    state text not null default 'new',
    name text not null,
    job_id bigint,
    dimension text,
    sequence integer,
    answer jsonb,
    created_at timestamptz not null,
    constraint signals_pkey primary key (id),
    constraint signal_kind_is_known check (kind in ('wait', 'signal')),
    constraint signal_state_is_known check (state in ('new', 'kept'))
) with (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
comment on table hotmesh.signals is
'One half of a rendezvous: a wait without its signal, or a signal without its wait.';
comment on column hotmesh.signals.id is 'Its number: the oldest halves meet first.';
comment on column hotmesh.signals.kind is
'wait: an open step of a job; signal: sent by name to whoever waits.';
comment on column hotmesh.signals.state is
'new until a turn has looked for the other half after this one was committed, then kept.';
comment on column hotmesh.signals.name is 'The signal''s name, shared by the whole app.';
comment on column hotmesh.signals.job_id is 'Of a wait: its job.';
comment on column hotmesh.signals.dimension is 'Of a wait: the part of the job.';
comment on column hotmesh.signals.sequence is 'Of a wait: its step.';
comment on column hotmesh.signals.answer is 'Of a signal: {"output": data}.';
comment on column hotmesh.signals.created_at is 'When it was written.';
create index signals_unmet on hotmesh.signals (id) where state = 'new';
comment on index hotmesh.signals_unmet is 'Halves that no turn has looked at yet.';
create index signals_by_name on hotmesh.signals (name, kind, id);
comment on index hotmesh.signals_by_name is 'The oldest halves of a name.';
create index signals_by_job on hotmesh.signals (job_id, name, id) where job_id is not null;
comment on index hotmesh.signals_by_job is 'The oldest waits of a job for a name.';
create index signals_by_step on hotmesh.signals (job_id, sequence) where job_id is not null;
comment on index hotmesh.signals_by_step is 'The wait of a step.';

--@ behaviour
-- To one job, filed under its name; `answer` is {"output": …} or {"error": …}. One that is given
-- back keeps its id, and so its place among those of its name.
create or replace function hotmesh._signal_send(
    job_id bigint, signal text, answer jsonb, id bigint default null)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_put(
        job_id, signal, 'signal', answer || jsonb_build_object('signal', signal), id);
end
$$;

-- To whoever waits.
create or replace function hotmesh._signal_publish(
    name text, answer jsonb, id bigint default null)
returns void
language plpgsql
as $$
begin
    insert into signals (id, kind, name, answer, created_at)
    values (coalesce(id, nextval('hotmesh.ids')), 'signal', name, answer, hotmesh.now());
end
$$;

-- An answer that was published goes back to where it was.
create or replace function hotmesh._signal_republish(event hotmesh.streams)
returns void
language plpgsql
as $$
begin
    perform hotmesh._signal_publish(
        event.args ->> 'signal', event.args - '{signal,published}'::text[],
        (event.args ->> 'published')::bigint);
end
$$;

-- Workflow code sends: to a wait of its own job, if there is one, else to whoever waits.
create or replace function hotmesh._signal_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_answer jsonb := jsonb_build_object('output', step.value -> 'data');
begin
    if step.dimension <> '' then
        perform hotmesh._attribute_hook_signalled(step.job_id, step.dimension, step.name);
    end if;
    if exists (
        select from signals w
        where w.job_id = step.job_id and w.name = step.name and exists (
            select from jobs_attributes a
            where a.job_id = w.job_id and a.state = 'open'
              and a.field = hotmesh._attribute_field(w.dimension, w.sequence)))
    then
        perform hotmesh._signal_send(step.job_id, step.name, v_answer);
    else
        perform hotmesh._signal_publish(step.name, v_answer);
    end if;
    return 'true';
end
$$;

-- Workflow code waits: the oldest signal that was sent to its job answers at once, or else the
-- oldest that was kept for whoever waits, if nobody waits already.
create or replace function hotmesh._signal_wait(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_sent bigint[] := array(
        select m.id from streams m
        where m.job_id = step.job_id and m.kind = 'signal' and m.dimension = step.name
        order by m.sequence, m.id limit 1 for update skip locked);
begin
    if v_sent <> '{}' then
        perform hotmesh._inbox_answer(v_sent, array[step.dimension], array[step.sequence]);
    elsif not hotmesh._signal_take(step) then
        insert into signals (kind, name, job_id, dimension, sequence, created_at)
        values ('wait', step.name, step.job_id, step.dimension, step.sequence, hotmesh.now());
    end if;
    return null;
end
$$;

-- Takes the oldest signal as the answer of a step, if that was kept; one that is new may have an
-- older beside it. So may one in the job's inbox: its wait may be gone, then it is given back.
create or replace function hotmesh._signal_take(step hotmesh.jobs_attributes)
returns boolean
language plpgsql
as $$
declare
    v_kept bigint[];
    v_answer jsonb;
begin
    if exists (select from signals w where w.name = step.name and w.kind = 'wait')
        or exists (
            select from streams m
            where m.job_id = step.job_id and m.kind = 'event' and m.name = 'result'
              and m.args ->> 'signal' = step.name)
    then
        return false;
    end if;
    v_kept := array(
        select s.id from signals s
        where s.name = step.name and s.kind = 'signal'
        order by s.id
        limit 1
        for update skip locked);
    delete from signals s
    where s.id = any (v_kept) and s.state = 'kept'
      and not exists (
          select from signals o where o.name = s.name and o.kind = s.kind and o.id < s.id)
    returning s.answer || jsonb_build_object('signal', s.name, 'published', s.id) into v_answer;
    if v_answer is null then
        return false;
    end if;
    perform hotmesh._inbox_told(step.job_id, step.dimension, step.sequence, v_answer, 'waiting');
    return true;
end
$$;

-- Brings signals that were sent to jobs together with the oldest waits of those jobs, in order:
-- none overtakes one that is locked this instant. What finds no wait is filed until one is opened;
-- if its wait's row is locked it stays, to be tried again. The caller holds the jobs' locks.
create or replace function hotmesh._signal_meet(job_ids bigint[])
returns void
language plpgsql
as $$
declare
    v_mine bigint[] := hotmesh._inbox_signals(job_ids);
    v_sent bigint[];
    v_waits bigint[];
begin
    if v_mine = '{}' then
        return;
    end if;
    select array_agg(p.sent), array_agg(p.wait) into v_sent, v_waits
    from (
        select m.job_id, m.name, array_agg(m.id order by m.id) as ids
        from (
            select s.id, s.job_id, s.dimension as name,
                   bool_and(s.id = any (v_mine)) over (
                       partition by s.job_id, s.dimension order by s.id) as in_order
            from streams s
            where s.name = 'signal' and s.job_id = any (job_ids)
              and s.kind = 'signal' and s.state = 'ready') m
        where m.in_order
        group by 1, 2) g
    cross join lateral unnest(
        g.ids, hotmesh._signal_waits(g.job_id, g.name, cardinality(g.ids))) as p (sent, wait)
    where p.sent is not null and p.wait is not null;
    if v_sent is not null then
        perform hotmesh._signal_answer(v_sent, v_waits);
    end if;
    perform hotmesh._inbox_file(array(
        select m.id from streams m
        where m.id = any (v_mine) and m.kind = 'signal'
          and not exists (
              select from signals w where w.job_id = m.job_id and w.name = m.dimension)));
end
$$;

-- The oldest waits of a job for a name, locked.
create or replace function hotmesh._signal_waits(job_id bigint, name text, take integer)
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select w.id from signals w
        where w.job_id = _signal_waits.job_id and w.name = _signal_waits.name
        order by w.id
        limit take
        for update skip locked);
end
$$;

-- Each of these signals becomes the result of the wait beside it.
create or replace function hotmesh._signal_answer(sent bigint[], waits bigint[])
returns void
language plpgsql
as $$
declare
    v_sent bigint[];
    v_dimensions text[];
    v_sequences integer[];
begin
    with met as (
        delete from signals w
        using unnest(sent, waits) as p (sent, wait)
        where w.id = p.wait
        returning p.sent, w.dimension, w.sequence)
    select array_agg(m.sent), array_agg(m.dimension), array_agg(m.sequence)
    into v_sent, v_dimensions, v_sequences
    from met m;
    perform hotmesh._inbox_answer(v_sent, v_dimensions, v_sequences);
end
$$;

-- The oldest halves of a kind for these names, locked; none that is younger than one that somebody
-- else has locked this instant, so that nobody overtakes.
create or replace function hotmesh._signal_lock(names text[], kind text, take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_locked bigint[] := array(
        select h.id
        from unnest(names) n (name)
        cross join lateral (
            select s.id from signals s
            where s.name = n.name and s.kind = _signal_lock.kind
            order by s.id
            limit take
            for update skip locked) h);
begin
    return array(
        select s.id from signals s
        where s.id = any (v_locked)
          and not exists (
              select from signals o
              where o.name = s.name and o.kind = s.kind and o.id < s.id
                and o.id <> all (v_locked)));
end
$$;

-- Halves that are new, locked: the oldest and, if those are many, as many from anywhere behind
-- them: whoever sits on the oldest holds up no others.
create or replace function hotmesh._signal_unmet(take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := array(
        select s.id from signals s
        where s.state = 'new' order by s.id limit take for update skip locked);
begin
    return v_ids || array(
        select s.id from signals s
        where cardinality(v_ids) = take and s.state = 'new' and s.id > v_ids[take] + (
            select random() * (max(n.id) - v_ids[take]) from signals n where n.state = 'new')
        order by s.id limit take for update skip locked);
end
$$;

-- Looks at halves that are new: pairs the oldest signals with the oldest waits of their names and
-- answers those. `keep` keeps what is alone, except for whoever has written halves in this very
-- transaction: they are not committed. A half whose other half is there but locked stays new, since
-- its holder may roll back; the other half of a wait may also be a signal to its job.
create or replace function hotmesh._signal_sweep(take integer, keep boolean)
returns void
language plpgsql
as $$
declare
    v_new bigint[] := hotmesh._signal_unmet(take);
    v_names text[];
    v_sent bigint[];
begin
    if v_new = '{}' then
        return;
    end if;
    v_names := array(select distinct s.name from signals s where s.id = any (v_new));
    perform hotmesh._inbox_unfile(array_agg(s.job_id), array_agg(s.name))
    from signals s
    where s.id = any (v_new) and s.kind = 'wait' having count(*) > 0;
    v_sent := hotmesh._signal_lock(v_names, 'signal', cardinality(v_new));
    if v_sent <> '{}' then
        perform hotmesh._signal_pair(
            hotmesh._signal_lock(v_names, 'wait', cardinality(v_sent)), v_sent);
    end if;
    update signals s set state = 'kept'
    where keep and s.id = any (v_new)
      and not exists (
          select from signals o
          where o.name = s.name and o.kind = case s.kind when 'wait' then 'signal' else 'wait' end)
      and not exists (
          select from streams m
          where m.job_id = s.job_id and m.kind = 'signal' and m.dimension = s.name
            and m.state = 'waiting');
end
$$;

create or replace function hotmesh._signal_pair(waits bigint[], sent bigint[])
returns void
language plpgsql
as $$
declare
    v_answers hotmesh.streams[];
begin
    with pairs as (
        select p.wait, p.sent
        from (
            select s.name, array_agg(s.id order by s.id) filter (where s.kind = 'wait') as waits,
                   array_agg(s.id order by s.id) filter (where s.kind = 'signal') as sent
            from signals s
            where s.id = any (waits || sent)
            group by s.name) n
        cross join lateral unnest(n.waits, n.sent) as p (wait, sent)
        where p.wait is not null and p.sent is not null),
    taken as (
        delete from signals s using pairs p where s.id = p.sent
        returning p.wait, s.id, s.name, s.answer),
    answered as (
        delete from signals w using taken t where w.id = t.wait
        returning hotmesh._inbox_event(
            'result', w.job_id, w.dimension, w.sequence,
            t.answer || jsonb_build_object('signal', t.name, 'published', t.id)) as event)
    select array_agg(a.event) into v_answers from answered a;
    perform hotmesh._inbox_add(v_answers);
end
$$;

-- These steps wait no more. A row that is locked this instant was just answered: see give_back.
create or replace function hotmesh._signal_unwait(
    job_ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
begin
    delete from signals s
    where s.id = any (array(
        select w.id
        from unnest(job_ids, dimensions, sequences) as c (job_id, dimension, sequence)
        join signals w
            on w.job_id = c.job_id and w.dimension = c.dimension and w.sequence = c.sequence
        for update of w skip locked));
end
$$;

-- Nor do these functions, which have ended.
create or replace function hotmesh._signal_drop(job_ids bigint[], dimensions text[])
returns void
language plpgsql
as $$
begin
    delete from signals s
    where s.id = any (array(
        select w.id
        from unnest(job_ids, dimensions) as f (job_id, dimension)
        join signals w on w.job_id = f.job_id and w.dimension = f.dimension
        for update of w skip locked));
end
$$;

-- Answers that nobody took are signals again: their waits were given up meanwhile.
create or replace function hotmesh._signal_give_back(
    events hotmesh.streams[], closed hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
begin
    perform case
        when e.args ? 'published' then hotmesh._signal_republish(e)
        else hotmesh._signal_send(e.job_id, e.args ->> 'signal', e.args, e.id) end
    from unnest(events) e
    where e.args ? 'signal'
      and not exists (
          select from unnest(closed) c
          where c.job_id = e.job_id and c.dimension = e.dimension and c.sequence = e.sequence)
    order by e.id;
end
$$;

-- Signals that steps had taken whose code did not want them go back to where they were sent, before
-- all that were kept.
create or replace function hotmesh._signal_resend(steps hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
begin
    perform case
        when w.ledger = hotmesh._attribute_ledger('by name')
            then hotmesh._signal_publish(
                w.name, jsonb_build_object('output', w.value), -nextval('hotmesh.ids'))
        else hotmesh._signal_send(
            w.job_id, w.name, jsonb_build_object('output', w.value), -nextval('hotmesh.ids')) end
    from (
        select s.job_id, s.name, s.value, s.ledger
        from unnest(steps) s
        order by s.cursor desc
        offset 0) w;
end
$$;

-- Jobs that have closed wait for nothing; what was published and reached them too late goes on to
-- others.
create or replace function hotmesh._signal_forget(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from signals s
    where s.id = any (array(
        select w.id from signals w where w.job_id = any (job_ids) for update skip locked));
    perform hotmesh._signal_republish(p)
    from unnest(hotmesh._inbox_published(job_ids)) p;
end
$$;

create or replace function hotmesh._signal_check(signal text, data jsonb)
returns void
language plpgsql
as $$
begin
    if coalesce(signal, '') = '' or length(signal) > 500 then
        perform hotmesh._refuse_argument(
            'a signal needs a name', 'It has 1 to 500 characters.',
            'Name what workflow.wait_for(…) waits for.');
    end if;
    perform hotmesh._job_check_size(format('the data of signal "%s"', signal), data);
end
$$;

create or replace function hotmesh.job_signal(
    app text, key text, signal text, data jsonb default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    perform hotmesh._signal_check(signal, data);
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._signal_send(v_job.id, signal, jsonb_build_object('output', data));
    perform hotmesh._worker_wake_for('workflow', v_job.queue, v_job.topic);
end
$$;
comment on function hotmesh.job_signal(text, text, text, jsonb) is
'Send a signal to one job, in the caller''s transaction. It is kept until the job waits for it.
Raises MSH40 for an unknown job, MSH42 for a closed one.';

create or replace function hotmesh.signal_send(app text, signal text, data jsonb default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._signal_check(signal, data);
    perform hotmesh._signal_publish(signal, jsonb_build_object('output', data));
    perform hotmesh._worker_wake_any();
end
$$;
comment on function hotmesh.signal_send(text, text, jsonb) is
'Send a signal by name, in the caller''s transaction, to the oldest wait in the app, or the next.';
