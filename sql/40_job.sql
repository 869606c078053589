-- 40 job: one run of a workflow, graph or agent. `status` is the semaphore: it counts open
-- obligations, and the job settles in the transaction that makes it 0. Below zero: failed or
-- interrupted (1,000,000,000 was subtracted, so late arrivals never bring it back to 0). `cursor`
-- counts the events that the run has consumed; a report moves it by compare-and-set. Kept slim:
-- input, output and error are attributes. Errors: MSH40 not found, MSH41 duplicate, MSH42 closed,
-- MSH43 too large, MSH44 open, MSH46 failed.

--@ state
create table hotmesh.jobs (
    id bigint not null default nextval('hotmesh.ids'),
    key text not null,
    entity text not null,
    queue text not null default '',
    topic text not null,
    graph_version text,
    graph_id bigint,
    status bigint not null default 1,
    cursor bigint not null default 0,
    context jsonb not null default '{}',
    entity_version bigint not null default 0,
    expire_after interval,
    parent_id bigint,
    parent_dimension text,
    parent_sequence integer,
    origin_id bigint,
    close_policy text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    closed_at timestamptz,
    expire_at timestamptz,
    watched_until timestamptz,
    constraint jobs_pkey primary key (id),
    constraint jobs_have_one_key unique (key)
) with (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
comment on table hotmesh.jobs is
'One row per run of a workflow, graph or agent, with its entity document.';
comment on column hotmesh.jobs.id is 'The job''s number; jobs_attributes and streams refer to it.';
comment on column hotmesh.jobs.key is
'The workflow id that the user gave. Unique, closed jobs included.';
comment on column hotmesh.jobs.entity is
'What kind of thing the document describes; by default the workflow''s name.';
comment on column hotmesh.jobs.queue is 'The task queue of the main function.';
comment on column hotmesh.jobs.topic is 'The workflow''s name or the graph''s topic.';
comment on column hotmesh.jobs.graph_version is
'The version of the graph that the job started with; null for code.';
comment on column hotmesh.jobs.graph_id is 'The graph that it runs by, see graphs; null for code.';
comment on column hotmesh.jobs.status is
'The semaphore: open obligations. 0 complete, below zero failed or interrupted.';
comment on column hotmesh.jobs.cursor is 'Events that the main function has consumed.';
comment on column hotmesh.jobs.context is
'The entity: the document that hooks, people and agents share.';
comment on column hotmesh.jobs.entity_version is 'How often the entity was changed.';
comment on column hotmesh.jobs.expire_after is
'How long the closed job stays before it is archived and its key is free; null for ever.';
comment on column hotmesh.jobs.parent_id is 'The job that started it as its child.';
comment on column hotmesh.jobs.parent_dimension is 'The part of the parent that waits for it.';
comment on column hotmesh.jobs.parent_sequence is
'The parent''s step that its outcome answers; null if the parent only is on record.';
comment on column hotmesh.jobs.origin_id is 'The first of its ancestors.';
comment on column hotmesh.jobs.close_policy is
'What becomes of it when its parent closes: terminate, cancel, abandon; null is abandon.';
comment on column hotmesh.jobs.created_at is 'When it was started.';
comment on column hotmesh.jobs.updated_at is 'When it last moved.';
comment on column hotmesh.jobs.closed_at is 'When it settled.';
comment on column hotmesh.jobs.expire_at is 'When it may be archived.';
comment on column hotmesh.jobs.watched_until is
'Until when changes of its entity are told to whoever watches it.';
create index jobs_by_parent on hotmesh.jobs (parent_id) where parent_id is not null;
comment on index hotmesh.jobs_by_parent is 'The children of a job.';
create index jobs_by_graph on hotmesh.jobs (graph_id) where graph_id is not null;
comment on index hotmesh.jobs_by_graph is 'Jobs that keep a version of a graph in use.';
create index jobs_expiring on hotmesh.jobs (expire_at) where expire_at is not null;

create type hotmesh.job_request as (
    id bigint, key text, workflow text, queue text, entity text, args jsonb, options jsonb,
    expire_after interval, retry_policy jsonb, visible_at timestamptz,
    parent_id bigint, parent_dimension text, parent_sequence integer, origin_id bigint,
    close_policy text, graph_version text, graph_id bigint);
comment on type hotmesh.job_request is 'What a start asks for, normalised.';

--@ behaviour
create or replace function hotmesh._job_refuse_missing(key text)
returns void
language plpgsql
as $$
begin
    raise exception 'job % not found', hotmesh._named(key) using
        errcode = 'MSH40',
        detail = 'Neither an open, a closed nor an archived job has this key.',
        hint = 'Check the app and the key; `select key from <app>.jobs` lists them.';
end
$$;

create or replace function hotmesh._job_refuse_conflict(key text, is_open boolean, policy text)
returns void
language plpgsql
as $$
begin
    if policy in ('replace', 'scrub') then
        raise exception 'job "%" is open and can''t be %', key,
            case policy when 'scrub' then 'scrubbed' else 'replaced' end using
            errcode = 'MSH44',
            detail = case policy when 'scrub' then 'What is open may go on any time.'
                     else 'on_conflict replace replaces a closed job only.' end,
            hint = case policy when 'scrub' then 'Interrupt it first.'
                   else 'Interrupt it first, or start with on_conflict existing.' end;
    end if;
    raise exception 'Duplicate job: %', key using
        errcode = 'MSH41',
        detail = format('A job with this key is %s.',
                        case when is_open then 'open' else 'closed' end),
        hint = 'Use another key, or on_conflict existing (returns that job) or replace (replaces a '
               || 'closed one).';
end
$$;

create or replace function hotmesh._job_refuse_failed(key text, error jsonb)
returns void
language plpgsql
as $$
begin
    raise exception 'job "%" failed: %', key, coalesce(error ->> 'message', 'no message') using
        errcode = 'MSH46',
        detail = coalesce(error, '{}')::text,
        hint = 'DETAIL holds type, message, code and traceback; job_state shows it without '
               || 'raising.';
end
$$;

create or replace function hotmesh._job_check_size(name text, value jsonb)
returns void
language plpgsql
as $$
declare
    v_limit bigint := hotmesh._setting('value_limit', 16777216);
begin
    if pg_column_size(value) > v_limit then
        perform hotmesh._job_refuse_large(name, pg_column_size(value), v_limit);
    end if;
end
$$;

create or replace function hotmesh._job_refuse_large(name text, size bigint, size_limit bigint)
returns void
language plpgsql
as $$
begin
    raise exception '% is too large: % bytes', name, size using
        errcode = 'MSH43',
        detail = format('The limit is %s bytes.', size_limit),
        hint = 'Store the payload elsewhere and pass a reference, or raise the app''s setting '
               || 'value_limit.';
end
$$;

-- Locks what can be locked without waiting, in id order. What is missing from the answer is busy,
-- closed or gone.
create or replace function hotmesh._job_lock(ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select j.id
        from jobs j
        where j.id = any (ids) and j.closed_at is null
        order by j.id
        for update skip locked);
end
$$;

-- Jobs for which there is news to file, `take` of them. If most of those are locked by somebody, as
-- many again, from anywhere behind them: whoever sits on the oldest holds up nobody else.
create or replace function hotmesh._job_news(names text[], take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._inbox_unfiled(names, take);
begin
    if cardinality(v_jobs) = take and cardinality(hotmesh._job_lock(v_jobs)) < take / 2 then
        v_jobs := v_jobs || hotmesh._inbox_unfiled(
            names, take,
            (v_jobs[1] + random() * (hotmesh._inbox_last(names) - v_jobs[1]))::bigint - 1);
    end if;
    return v_jobs;
end
$$;

create or replace function hotmesh._job_find(key text)
returns hotmesh.jobs
language plpgsql
stable
as $$
declare
    v_job hotmesh.jobs;
begin
    select (j::hotmesh.jobs).* into v_job from jobs j where j.key = _job_find.key;
    return v_job;
end
$$;

-- Opens those whose key is free and returns their ids.
create or replace function hotmesh._job_open(requests hotmesh.job_request[])
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_ids bigint[];
begin
    with opened as (
        insert into jobs (
            id, key, entity, queue, topic, graph_version, graph_id, expire_after, parent_id,
            parent_dimension, parent_sequence, origin_id, close_policy, created_at, updated_at)
        select r.id, r.key, r.entity, r.queue, r.workflow, r.graph_version, r.graph_id,
               r.expire_after, r.parent_id, r.parent_dimension, r.parent_sequence, r.origin_id,
               r.close_policy, v_now, v_now
        from unnest(requests) r
        order by r.key
        on conflict (key) do nothing
        returning id)
    select coalesce(array_agg(o.id), '{}') into v_ids from opened o;
    return v_ids;
end
$$;

-- The compare-and-set behind it was made under the job's lock, which the caller holds.
create or replace function hotmesh._job_advance(ids bigint[], cursors bigint[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    update jobs j
    set cursor = cursors[array_position(ids, j.id)], updated_at = v_now
    where j.id = any (ids);
end
$$;

-- Closes obligations of jobs: `ended` is how many, `cursors` the main function's if it is among
-- them. `closed` are the jobs that closed by it, `awaited` those of them that a parent waits for.
create or replace function hotmesh._job_settle(
    ids bigint[], ended integer[], cursors bigint[], failed boolean[])
returns table (closed bigint[], awaited bigint[])
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    return query
    with settled as (
        update jobs j
        set status = j.status - case when s.failed then 1000000000 else s.ended end,
            cursor = coalesce(s.cursor, j.cursor), updated_at = v_now,
            closed_at = case when s.failed or j.status <= s.ended then v_now end,
            expire_at = case when s.failed or j.status <= s.ended then v_now + j.expire_after end
        from unnest(ids, ended, cursors, failed) as s (id, ended, cursor, failed)
        where j.id = any (ids) and j.id = s.id
        returning j.id, j.closed_at, j.parent_sequence)
    select coalesce(array_agg(s.id), '{}'),
           coalesce(array_agg(s.id) filter (where s.parent_sequence is not null), '{}')
    from settled s
    where s.closed_at is not null;
end
$$;

-- One more obligation: the caller holds the job's lock.
create or replace function hotmesh._job_oblige(id bigint)
returns void
language plpgsql
as $$
begin
    update jobs j set status = j.status + 1, updated_at = hotmesh.now()
    where j.id = _job_oblige.id;
end
$$;

create or replace function hotmesh._job_watch(id bigint, until timestamptz)
returns void
language plpgsql
as $$
begin
    update jobs j
    set watched_until = until
    where j.id = _job_watch.id
      and coalesce(j.watched_until < until - interval '10 seconds', true);
end
$$;

create or replace function hotmesh._job_refuse_closed(key text, closed_at timestamptz)
returns void
language plpgsql
as $$
begin
    raise exception 'job "%" has closed', key using
        errcode = 'MSH42',
        detail = format('It closed at %s. Its status, cursor and closing can''t change any more.',
                        closed_at),
        hint = 'Start a new job; only the entity of a closed job may still change.';
end
$$;

create or replace function hotmesh._job_guard()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._job_refuse_closed(old.key, old.closed_at);
    return null;
end
$$;
create or replace trigger guard_closed before update of status, cursor, closed_at on hotmesh.jobs
for each row when (
    old.closed_at is not null
    and (old.status is distinct from new.status
         or old.cursor is distinct from new.cursor
         or old.closed_at is distinct from new.closed_at))
execute function hotmesh._job_guard();

create or replace function hotmesh._job_broken_law(job hotmesh.jobs)
returns text
language sql
immutable
as $$
    select case
        when (job.closed_at is null) <> (job.status > 0)
            then 'a_job_is_open_while_its_semaphore_is_above_zero'
        when job.status between -900000000 and -1 then 'a_semaphore_never_passes_through_zero'
        else 'only_closed_jobs_expire' end
$$;

create or replace function hotmesh._job_judge()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_law constant text := hotmesh._job_broken_law(new);
begin
    raise exception 'job "%" breaks a law: %', new.key, replace(v_law, '_', ' ') using
        errcode = '23514', schema = tg_table_schema, table = tg_table_name, constraint = v_law,
        detail = format('Its status would be %s, closed_at %s, expire_at %s.',
                        new.status, new.closed_at, new.expire_at),
        hint = 'The engine keeps these columns; this is a change by hand.';
end
$$;
-- What check constraints would say. They are prepared anew for each update of any column, and took
-- a fifth of an entity's command; a trigger looks only where one of its columns is written.
create or replace trigger guard_laws
before update of status, closed_at, expire_at on hotmesh.jobs
for each row when (
    (new.closed_at is null) <> (new.status > 0)
    or new.status between -900000000 and -1
    or (new.closed_at is null and new.expire_at is not null))
execute function hotmesh._job_judge();

-- True once per topic and transaction: only the first start of a topic needs a wake-up.
create or replace function hotmesh._job_first_told(queue text, topic text)
returns boolean
language plpgsql
as $$
declare
    v_told text := coalesce(current_setting('hotmesh.told', true), '');
    v_topic text := format('|%s/%s/%s|', (current_schemas(false))[2], queue, topic);
begin
    if strpos(v_told, v_topic) > 0 then
        return false;
    end if;
    perform set_config('hotmesh.told', v_told || v_topic, true);
    return true;
end
$$;

-- Runs at commit, when it is known who is idle.
create or replace function hotmesh._job_wake()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config(
        'search_path', format('pg_catalog, %I, hotmesh, pg_temp', tg_table_schema), true);
    perform hotmesh._worker_wake_for('workflow', new.queue, new.topic);
    return null;
end
$$;
do $$
begin
    if not exists (
        select from pg_trigger t
        where t.tgrelid = 'hotmesh.jobs'::regclass and t.tgname = 'wake_worker'
          and pg_get_triggerdef(t.oid) like '%graph_id%')
    then
        drop trigger if exists wake_worker on hotmesh.jobs;
        create constraint trigger wake_worker after insert on hotmesh.jobs
        deferrable initially deferred
        for each row when (
            new.graph_id is null and hotmesh._job_first_told(new.queue, new.topic))
        execute function hotmesh._job_wake();
    end if;
end
$$;

create or replace function hotmesh.job_status(app text, key text)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status bigint;
begin
    perform hotmesh._enter(app);
    select j.status into v_status
    from jobs_all j
    where j.key = job_status.key
    order by j.closed_at desc nulls first
    limit 1;
    if v_status is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_status;
end
$$;
comment on function hotmesh.job_status(text, text) is
'The semaphore of a job: 0 complete, above zero open, below zero failed or interrupted. Raises MSH40
if there is no such job.';

create or replace function hotmesh.job_list(
    app text, entity text default null, queue text default null, state text default null,
    take integer default 50, before bigint default null)
returns setof hotmesh.jobs
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_sort = off
as $$
begin
    perform hotmesh._enter(app);
    if coalesce(state, 'open') not in ('open', 'complete', 'failed')
        or take is null or take not between 1 and 10000 then
        perform hotmesh._refuse_argument(
            format('no such list of jobs: state %s, take %s', coalesce(left(state, 60), 'any'),
                   coalesce(take::text, 'null')),
            'States: open, complete, failed. At most 10000 jobs at a time.',
            'Leave both out for the newest 50.');
    end if;
    return query
    select (j::hotmesh.jobs).*
    from jobs j
    where (job_list.entity is null or j.entity = job_list.entity)
      and (job_list.queue is null or j.queue = job_list.queue)
      and (job_list.before is null or j.id < job_list.before)
      and (job_list.state is null or job_list.state = case
               when j.status > 0 then 'open'
               when j.status = 0 then 'complete'
               else 'failed' end)
    order by j.id desc
    limit take;
end
$$;
comment on function hotmesh.job_list(text, text, text, text, integer, bigint) is
'The newest jobs, archived ones left out; state is open, complete or failed; `before` is the id
after which the next page goes on.';
