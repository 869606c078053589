-- HotMesh 0.1.0 without `create extension`; built from sql/, do not edit.
-- build 0.1.0-c605b49f-9b8db2a4
begin;
--@ settings
set local client_min_messages = warning;
set local check_function_bodies = off;
set local search_path = pg_catalog, pg_temp;

--@ state
do $$
begin
    if to_regclass('hotmesh.apps') is not null then
        raise exception 'this database has the engine of HotMesh already'
            using errcode = '42710', hint = 'To bring it up to date, run "hotmesh upgrade".';
    end if;
end
$$;
create schema if not exists hotmesh;

-- 00_house.sql
create sequence hotmesh.ids;
comment on sequence hotmesh.ids is
'Numbers jobs and stream messages; shared by all apps, so a row can change tenants.';

-- 01_shape.sql


-- 02_app.sql
create table hotmesh.apps (
    name text not null,
    schema_name text not null,
    revision integer not null,
    settings jsonb not null default '{}',
    created_at timestamptz not null,
    constraint apps_pkey primary key (name),
    constraint a_schema_belongs_to_one_app unique (schema_name),
    constraint a_schema_name_needs_no_quotes check (schema_name ~ '^[a-z][a-z0-9_]{0,62}$'),
    constraint settings_are_an_object check (jsonb_typeof(settings) = 'object')
);
comment on table hotmesh.apps is 'One row per app: a tenant with a schema and tables of its own.';
comment on column hotmesh.apps.name is 'The name its users call it by, for instance my-app.';
comment on column hotmesh.apps.schema_name is
'Its schema: the name in lower case, with an underscore for every other character.';
comment on column hotmesh.apps.revision is
'The shape of its tables; app_upgrade raises it to that of the installed engine.';
comment on column hotmesh.apps.settings is 'What the app asks for, for instance limits on sizes.';
comment on column hotmesh.apps.created_at is 'When it was created.';

-- 10_pipe.sql


-- 11_value.sql


-- 12_number.sql


-- 13_math.sql


-- 14_string.sql


-- 15_array.sql


-- 16_object.sql


-- 17_operator.sql


-- 18_date.sql


-- 19_calendar.sql


-- 20_graph.sql
create table hotmesh.graphs (
    id bigint not null default nextval('hotmesh.ids'),
    topic text not null,
    version text not null,
    lone boolean not null,
    state text not null default 'deployed',
    publishes text,
    document jsonb not null,
    plan jsonb not null,
    digest text not null,
    deployed_by name not null,
    created_at timestamptz not null,
    activated_at timestamptz,
    constraint graphs_pkey primary key (id),
    constraint graph_state_is_known check (state in ('deployed', 'active', 'retired'))
);
comment on table hotmesh.graphs is 'One row per deployed version of a topic: a YAML workflow.';
comment on column hotmesh.graphs.id is 'Its number, in the names of its compiled functions too.';
comment on column hotmesh.graphs.topic is
'What it subscribes to; empty: every topic that no other graph answers.';
comment on column hotmesh.graphs.version is 'The version of its document.';
comment on column hotmesh.graphs.lone is
'Whether its document was a bare graph, which other versions of the app leave alone.';
comment on column hotmesh.graphs.state is
'deployed, active (new jobs take it) or retired (replaced; its jobs go on).';
comment on column hotmesh.graphs.publishes is 'The topic that hears of its outcomes.';
comment on column hotmesh.graphs.document is
'{"app": …, "graph": …}: the graph and what its app says, in the normal form.';
comment on column hotmesh.graphs.plan is 'What the engine knows of its activities without asking.';
comment on column hotmesh.graphs.digest is 'The hash of its document.';
comment on column hotmesh.graphs.deployed_by is
'The role that deployed it: it may use functions of SQL whose owner it is a member of.';
comment on column hotmesh.graphs.created_at is 'When it was deployed.';
comment on column hotmesh.graphs.activated_at is 'When new jobs last began to take it.';
create unique index graphs_active on hotmesh.graphs (topic) where state = 'active';
comment on index hotmesh.graphs_active is 'One graph answers a topic.';

-- 20_mapping.sql


-- 21_fault.sql


-- 21_field.sql


-- 21_flow.sql


-- 21_reference.sql


-- 22_expression.sql


-- 22_measure.sql
create table hotmesh.measures (
    job_id bigint not null,
    topic text not null,
    key text not null,
    at timestamptz not null,
    job_key text not null,
    measured jsonb not null default '{}',
    constraint measures_pkey primary key (job_id)
);
comment on table hotmesh.measures is
'One row per started job of a graph whose trigger has stats: what is counted and measured of it.';
comment on column hotmesh.measures.job_id is 'The job.';
comment on column hotmesh.measures.topic is 'The topic that it was started by.';
comment on column hotmesh.measures.key is
'What stats.key came to: jobs of one key are counted together; empty without one.';
comment on column hotmesh.measures.at is 'When it started.';
comment on column hotmesh.measures.job_key is 'The key of the job.';
comment on column hotmesh.measures.measured is '{"color": "red", "amount": 5}: values by target.';
create index measures_by_time on hotmesh.measures (topic, key, at);
comment on index hotmesh.measures_by_time is 'The jobs of a topic and a key in a span of time.';

-- 23_blame.sql
create type hotmesh.blame_scene as (
    graph jsonb, scope jsonb, id text, leg text, s jsonb, d text, self jsonb, job jsonb);
comment on type hotmesh.blame_scene is
'What the expressions of one activity read when one of them failed.';

-- 23_plan.sql
create type hotmesh.plan_step as (
    self jsonb, about jsonb, job jsonb, go integer[], skip boolean, emit boolean, persist boolean,
    store jsonb);
comment on type hotmesh.plan_step is 'What the expressions of one activity came to.';

-- 23_source.sql


-- 24_deploy.sql


-- 24_explain.sql


-- 25_retry.sql


-- 26_timeout.sql


-- 30_stream.sql
create table hotmesh.streams (
    id bigint not null default nextval('hotmesh.ids'),
    kind text not null,
    state text not null default 'ready',
    queue text not null default '',
    name text not null default '',
    priority smallint not null default 0,
    job_id bigint,
    dimension text not null default '',
    sequence integer,
    cursor bigint,
    args jsonb,
    retry_policy jsonb,
    attempt integer not null default 0,
    token integer not null default 0,
    visible_at timestamptz not null,
    worker text,
    error jsonb,
    created_at timestamptz not null,
    timeouts jsonb,
    concurrency_key text,
    slot smallint,
    constraint streams_pkey primary key (id),
    constraint kind_is_known check (
        kind in ('workflow', 'activity', 'event', 'signal', 'timer')),
    constraint state_is_known check (
        state in ('delayed', 'held', 'ready', 'leased', 'waiting', 'dead')),
    constraint leased_messages_have_a_worker check (state <> 'leased' or worker is not null),
    constraint attempts_and_tokens_only_count_up check (attempt >= 0 and token >= 0)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
comment on table hotmesh.streams is
'One row per message that is due or will be: for a queue, for a job''s inbox, or an alarm.';
comment on column hotmesh.streams.id is 'The message. Handed to whoever claims it.';
comment on column hotmesh.streams.kind is
'workflow: run or resume a function; activity: call one; event: news for a job; signal: one that was
sent to a job and waits for its wait, which makes it an event; timer: an alarm that becomes one.';
comment on column hotmesh.streams.state is
'delayed, held (its key has no free slot, see limits), ready, leased, waiting (for news, or in a
job''s inbox) or dead (a dead letter, or a parked workflow).';
comment on column hotmesh.streams.queue is
'The task queue whose workers may claim it; empty for events and timers.';
comment on column hotmesh.streams.name is 'The function to call, or the kind of news.';
comment on column hotmesh.streams.priority is 'Higher is claimed first.';
comment on column hotmesh.streams.job_id is 'The job it belongs to.';
comment on column hotmesh.streams.dimension is
'The part of the job it belongs to: empty for the main function, a path for a hook; of a signal: its
name.';
comment on column hotmesh.streams.sequence is
'The journal row that waits for its result; for a workflow that started over: the last of its steps
before that.';
comment on column hotmesh.streams.cursor is
'For a workflow that waits: the last event its worker has seen, so that only what is new is shipped
to it.';
comment on column hotmesh.streams.args is 'The arguments, or what an event tells.';
comment on column hotmesh.streams.retry_policy is
'The policy, normalised; null is the default policy.';
comment on column hotmesh.streams.attempt is
'Executions begun; for a workflow: deliveries since its last report.';
comment on column hotmesh.streams.token is
'Deliveries ever. A report must name the current one.';
comment on column hotmesh.streams.visible_at is
'When a delayed message is due and when a lease ends. A change by hand is honoured.';
comment on column hotmesh.streams.worker is
'Who holds it; for a workflow that waits: who holds its coroutine and is preferred for 100 ms.';
comment on column hotmesh.streams.error is 'The last failure.';
comment on column hotmesh.streams.created_at is 'When it was enqueued.';
comment on column hotmesh.streams.timeouts is
'How long an activity may take, when the attempt that runs is given up, and the details of its last
heartbeat; see 26_timeout. Null when nothing bounds it.';
comment on column hotmesh.streams.concurrency_key is
'Whose turn it is: messages of one key share the slots that their queue gives to each key.';
comment on column hotmesh.streams.slot is
'Where limits hold: 1 it has a slot of its key, 2 it counts in its queue, 0 it needs none. Null:
none yet, or no limit.';
create index streams_claimable on hotmesh.streams (kind, queue, name, priority desc, id)
where state = 'ready';
-- The second condition keeps it out of looks by id: a plan made on an empty app might prefer it.
create index streams_due on hotmesh.streams (visible_at)
where state in ('delayed', 'leased') and visible_at > '-infinity';
create index streams_by_job on hotmesh.streams (job_id, kind, dimension, sequence, id)
where job_id is not null;
create index streams_slots on hotmesh.streams (kind, queue, slot, concurrency_key)
where slot > 0;
create index streams_held on hotmesh.streams (kind, queue, concurrency_key, priority desc, id)
where state = 'held';
create index streams_resumed on hotmesh.streams (queue, name, priority desc, id)
where state = 'ready' and kind = 'workflow' and slot <> 1;
create index streams_news on hotmesh.streams (name, job_id)
where kind in ('event', 'signal') and state = 'ready';

-- 31_inbox.sql


-- 32_lease.sql


-- 33_limit.sql
create table hotmesh.limits (
    queue text not null,
    kind text not null,
    concurrency integer,
    per_key integer,
    rate integer,
    per interval,
    begun jsonb not null default '{}',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    throttle integer,
    constraint limits_pkey primary key (queue, kind),
    constraint limited_kind_is_known check (kind in ('workflow', 'activity')),
    constraint limits_are_above_zero check (concurrency > 0 and per_key > 0 and rate > 0),
    constraint a_rate_has_a_time check ((rate is null) = (per is null)),
    constraint throttle_is_a_delay_or_a_stop check (throttle > 0 or throttle = -1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.limits is
'One row per queue and kind of message that is, or was, limited.';
comment on column hotmesh.limits.queue is 'The task queue.';
comment on column hotmesh.limits.kind is
'Which of its messages: workflow or activity. Each is counted for itself.';
comment on column hotmesh.limits.concurrency is
'How many may be under way: workflows between first claim and close, activities that run.';
comment on column hotmesh.limits.per_key is
'How many of one concurrency key may be under way or ready; the rest of the key is held.';
comment on column hotmesh.limits.rate is 'How many may begin in any time as long as `per`.';
comment on column hotmesh.limits.per is 'The time that the rate is for.';
comment on column hotmesh.limits.begun is
'How many began in each sixtieth of `per`, by its number, as far as it still counts.';
comment on column hotmesh.limits.created_at is 'When it was set first.';
comment on column hotmesh.limits.updated_at is 'When it was set, or when something was claimed.';
comment on column hotmesh.limits.throttle is
'Milliseconds from one beginning to the next; -1: nothing begins.';

-- 34_lane.sql
create table hotmesh.lanes (
    id bigint not null default nextval('hotmesh.ids'),
    queue text not null,
    kind text not null,
    key text not null,
    constraint lanes_pkey primary key (id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.lanes is
'One note per change after which a held message of a key may have its turn; deleted when it was
followed.';
comment on column hotmesh.lanes.id is 'The note.';
comment on column hotmesh.lanes.queue is 'The task queue.';
comment on column hotmesh.lanes.kind is 'workflow or activity.';
comment on column hotmesh.lanes.key is 'The concurrency key.';
create index lanes_noted on hotmesh.lanes (queue, kind, key);

-- 35_worker.sql
create table hotmesh.workers (
    name text not null,
    kinds text[] not null,
    queues text[] not null,
    names text[] not null,
    host text,
    pid integer,
    idle_at timestamptz,
    seen_at timestamptz not null,
    started_at timestamptz not null,
    constraint workers_pkey primary key (name),
    constraint topics_come_in_triples check (
        cardinality(kinds) = cardinality(queues) and cardinality(queues) = cardinality(names))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.workers is
'One row per live consumer. A row that was not seen for a minute is dropped.';
comment on column hotmesh.workers.name is 'The worker, unique per start of a process.';
comment on column hotmesh.workers.kinds is
'What it serves, first part of each topic: workflow or activity.';
comment on column hotmesh.workers.queues is
'What it serves, second part of each topic: the task queue.';
comment on column hotmesh.workers.names is
'What it serves, third part of each topic: the function.';
comment on column hotmesh.workers.host is 'Where it runs.';
comment on column hotmesh.workers.pid is 'Its process.';
comment on column hotmesh.workers.idle_at is
'Since when it waits to be woken; null while it works.';
comment on column hotmesh.workers.seen_at is 'When it last reported in.';
comment on column hotmesh.workers.started_at is 'When it reported in first.';

-- 36_queue.sql


-- 40_job.sql
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

-- 50_attribute.sql
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

-- 52_log.sql
create table hotmesh.entity_log (
    job_id bigint not null,
    version bigint not null,
    operation text not null,
    path text,
    argument jsonb,
    role text not null,
    dimension text,
    sequence integer,
    at timestamptz not null,
    request text,
    answer jsonb,
    document jsonb,
    constraint entity_log_pkey primary key (job_id, version)
) with (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
comment on table hotmesh.entity_log is 'One row per change of an entity.';
comment on column hotmesh.entity_log.job_id is 'The job whose entity it was.';
comment on column hotmesh.entity_log.version is 'The version that the change made; the first is 1.';
comment on column hotmesh.entity_log.operation is
'set, merge, append, …; update: a plain UPDATE of jobs.context; fork: taken over at the start.';
comment on column hotmesh.entity_log.path is 'Where in the document; null for the whole of it.';
comment on column hotmesh.entity_log.argument is 'The value, index or amount.';
comment on column hotmesh.entity_log.role is 'The role that made the change.';
comment on column hotmesh.entity_log.dimension is
'The part of the job whose code asked for it, empty for the main function; null: it came from SQL.';
comment on column hotmesh.entity_log.sequence is 'The step of that part.';
comment on column hotmesh.entity_log.at is 'When the change was made.';
comment on column hotmesh.entity_log.request is 'The idempotency key of the call, if it had one.';
comment on column hotmesh.entity_log.answer is 'What a call with an idempotency key returned.';
comment on column hotmesh.entity_log.document is
'A snapshot of the document after the change, now and then.';
create unique index entity_log_requests on hotmesh.entity_log (job_id, request)
where request is not null;

-- 53_watch.sql


-- 55_archive.sql
create table hotmesh.jobs_archive (
    like hotmesh.jobs including comments including storage,
    constraint jobs_archive_pkey primary key (id, closed_at)
);
comment on table hotmesh.jobs_archive is 'Jobs that closed and expired.';
create index jobs_archive_by_key on hotmesh.jobs_archive (key, closed_at);
create table hotmesh.jobs_attributes_archive (
    like hotmesh.jobs_attributes including comments including storage,
    closed_at timestamptz not null,
    constraint jobs_attributes_archive_pkey primary key (job_id, field, closed_at)
);
comment on table hotmesh.jobs_attributes_archive is 'The attributes of the jobs in jobs_archive.';
comment on column hotmesh.jobs_attributes_archive.closed_at is
'When their job settled: both lie in the same month.';

create table hotmesh.entity_log_archive (
    like hotmesh.entity_log including comments including storage,
    closed_at timestamptz not null,
    constraint entity_log_archive_pkey primary key (job_id, version, closed_at)
);
comment on table hotmesh.entity_log_archive is 'The log of the entities of jobs_archive.';
comment on column hotmesh.entity_log_archive.closed_at is
'When their job settled: both lie in the same month.';

-- 60_signal.sql
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

-- 61_hook.sql


-- 63_query.sql
create table hotmesh.queries (
    id bigint not null default nextval('hotmesh.ids'),
    job_id bigint not null,
    name text not null,
    args jsonb not null,
    answer jsonb,
    created_at timestamptz not null,
    constraint queries_pkey primary key (id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
comment on table hotmesh.queries is
'One question to the code of a running job, until its answer is read, or a minute.';
comment on column hotmesh.queries.id is 'Its number.';
comment on column hotmesh.queries.job_id is 'The job that was asked.';
comment on column hotmesh.queries.name is 'Which handler of the code is meant.';
comment on column hotmesh.queries.args is 'Its arguments, a JSON array.';
comment on column hotmesh.queries.answer is
'{"output": …} or {"error": …}; null until there is one.';
comment on column hotmesh.queries.created_at is 'When it was asked.';

-- 64_update.sql


-- 70_timer.sql


-- 71_cron.sql
create type hotmesh.cron as (
    minutes integer[], hours integer[], days integer[], months integer[], weekdays integer[],
    either_day boolean, fixed boolean);
comment on type hotmesh.cron is
'A crontab line, read: the values of each field (Sunday is 0), whether a day of the month or a
weekday suffices, and whether minute and hour are fixed.';

-- 78_path.sql


-- 79_index.sql
create index jobs_entity on hotmesh.jobs (entity, id);

-- 80_patch.sql


-- 81_entity.sql
create type hotmesh.entity_command as (operation text, path text, argument jsonb);
comment on type hotmesh.entity_command is 'One change of an entity, or a look at it.';

-- 82_find.sql
create type hotmesh.find_part as (clause text, bound jsonb);
comment on type hotmesh.find_part is 'Conditions as SQL, and the paths and values bound so far.';

-- 83_close.sql


-- 83_history.sql


-- 83_search.sql


-- 84_command.sql


-- 84_emit.sql


-- 85_errand.sql
create type hotmesh.relay as (
    ids bigint[], tokens integer[], job_ids bigint[], topics text[], until timestamptz);
comment on type hotmesh.relay is
'Messages that a worker has finished, and topics for which it takes on what comes after them.';

-- 85_fail.sql


-- 85_start.sql


-- 85_stats.sql
create type hotmesh.stats_query as (
    topic text, key text, granularity text, step interval, since timestamptz, until timestamptz,
    measures jsonb);
comment on type hotmesh.stats_query is
'What is asked: of which jobs, in which span (`until` not included), in which steps.';

-- 85_subflow.sql


-- 85_trail.sql


-- 85_visit.sql


-- 85_walk.sql
create type hotmesh.walk_entry as (activity integer, dimension text, leg text, answer jsonb);
comment on type hotmesh.walk_entry is
'What a walk has to do: enter an activity, or go on with one that was answered.';
create type hotmesh.walk as (
    job_id bigint, graph_id bigint, plan jsonb, job jsonb, store jsonb, status bigint,
    todo hotmesh.walk_entry[], steps hotmesh.jobs_attributes[], commands jsonb, error jsonb,
    was bigint, parent_id bigint, ended boolean, told boolean, moves integer,
    activity integer, dimension text, leg text, codes integer[], self jsonb, pending boolean,
    whole boolean);
comment on type hotmesh.walk is 'A job on its way through its graph, in memory.';

-- 86_child.sql


-- 86_schedule.sql
create table hotmesh.schedules (
    name text not null,
    workflow text not null,
    args jsonb not null,
    queue text,
    cron text,
    every interval,
    timezone text not null,
    overlap text not null,
    options jsonb not null,
    note text,
    paused_at timestamptz,
    error jsonb,
    last_tick timestamptz,
    next_tick timestamptz,
    due_at timestamptz,
    planned_at timestamptz not null,
    buffered timestamptz[] not null default '{}',
    running text[] not null default '{}',
    started bigint not null default 0,
    skipped bigint not null default 0,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint schedules_pkey primary key (name),
    constraint a_schedule_has_a_cron_line_or_an_interval check ((cron is null) <> (every is null)),
    constraint overlap_is_known check (
        overlap in ('skip', 'buffer_one', 'buffer_all', 'allow_all', 'cancel_other',
                    'terminate_other')),
    constraint a_paused_schedule_is_never_due check (paused_at is null or due_at is null)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200);
comment on table hotmesh.schedules is 'One row per recurring start.';
comment on column hotmesh.schedules.name is 'Its name; the keys of its jobs begin with it.';
comment on column hotmesh.schedules.workflow is 'The workflow that it starts.';
comment on column hotmesh.schedules.args is 'The arguments of each start.';
comment on column hotmesh.schedules.queue is 'The task queue of each start.';
comment on column hotmesh.schedules.cron is 'When: a crontab line, read in the time zone.';
comment on column hotmesh.schedules.every is 'Or how often.';
comment on column hotmesh.schedules.timezone is 'The time zone of the crontab line.';
comment on column hotmesh.schedules.overlap is
'What a tick does while an earlier job is open: skip, buffer_one, buffer_all, allow_all,
cancel_other or terminate_other.';
comment on column hotmesh.schedules.options is
'Options of each start; and offset, start_at, end_at, catchup_window, entity.';
comment on column hotmesh.schedules.note is 'What people say about it, for instance why it paused.';
comment on column hotmesh.schedules.paused_at is 'Since when it is paused; null while it is not.';
comment on column hotmesh.schedules.error is 'Why the engine paused it: a start that was refused.';
comment on column hotmesh.schedules.last_tick is 'The last tick that was dealt with.';
comment on column hotmesh.schedules.next_tick is 'The next tick; null when there is none any more.';
comment on column hotmesh.schedules.due_at is
'When a turn looks at it: at its next tick, or sooner while a tick is buffered.';
comment on column hotmesh.schedules.planned_at is
'When next_tick was found. If that is in the future, the clock went back: it is found anew.';
comment on column hotmesh.schedules.buffered is 'Ticks that wait for an open job to end.';
comment on column hotmesh.schedules.running is 'Keys of the jobs that may still be open.';
comment on column hotmesh.schedules.started is 'How many jobs it has started.';
comment on column hotmesh.schedules.skipped is 'How many ticks met an open job and were dropped.';
comment on column hotmesh.schedules.created_at is 'When it was created.';
comment on column hotmesh.schedules.updated_at is 'When it last moved.';
create index schedules_due on hotmesh.schedules (due_at) where due_at is not null;
create index schedules_planned on hotmesh.schedules (planned_at) where due_at is not null;

-- 87_order.sql


-- 87_pub.sql


-- 87_tick.sql


-- 88_again.sql


-- 88_effect.sql


-- 89_fork.sql


-- 89_progress.sql


-- 90_engine.sql


-- 91_report.sql
create type hotmesh.report as (
    id bigint, token integer, cursor bigint, output jsonb, error jsonb, done jsonb, commands jsonb,
    outcome jsonb, running boolean, keep boolean, was_kept boolean, before bigint,
    kind text, job_id bigint, dimension text, retry_policy jsonb, attempt integer, runs integer,
    verdict text, ends boolean, news jsonb);
comment on type hotmesh.report is
'What a worker reports of one message it holds, with what the engine knows of that message; `before`
is the cursor that it told, `cursor` the one after what it has done.';

-- 92_delivery.sql
create type hotmesh.delivery as (
    answer text, id bigint, token integer, kind text, queue text, name text,
    job_id bigint, key text, dimension text, sequence integer, attempt integer, args jsonb,
    cursor bigint, history jsonb, started double precision, due double precision, signal text,
    base integer);
comment on type hotmesh.delivery is
'One answer of a turn; times are seconds. task: work to do, `started` is when it was asked for and
`due` the time now, `history` that of a run or the timeouts of an activity, `signal` what a hook
shall signal, `base` the number after which a run numbers its steps; events: news for a run that is
held; leased: an announced activity, its id and token; stale, busy, kept: what became of a report
(no answer: applied); limits: in `args`, which queues have limits for their activities; next:
seconds until something is due, of a turn that reported nothing and was given nothing.';

-- 93_turn.sql


-- 94_claim.sql


-- 95_view.sql


-- 99_grant.sql


--@ behaviour
-- 00_house.sql
-- Not pinned, but spelled out: so it becomes a part of whatever calls it.
create or replace function hotmesh.now()
returns timestamptz
language sql
volatile
as $$
    select pg_catalog.clock_timestamp()
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

-- extension/build.py writes it: version, state, behaviour.
create or replace function hotmesh.build()
returns text
language sql
immutable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select '0.1.0-c605b49f-9b8db2a4'
$$;
comment on function hotmesh.build() is
'Which sources the engine was built from: its version and fingerprints of its tables and of its
functions. A driver that brings others says so.';

create or replace function hotmesh._refuse_argument(message text, detail text, hint text)
returns void
language plpgsql
as $$
begin
    raise exception '%', message using
        errcode = '22023',
        detail = coalesce(_refuse_argument.detail, 'It was null.'),
        hint = _refuse_argument.hint;
end
$$;

-- A name as messages show it.
create or replace function hotmesh._named(name text)
returns text
language sql
immutable
as $$
    select coalesce('"' || left(name, 200) || '"', 'null')
$$;

create or replace function hotmesh._is_number(
    value jsonb, low double precision, high double precision)
returns boolean
language sql
immutable
parallel safe
as $$
    select case when jsonb_typeof(value) = 'number'
                then value::numeric between low::numeric and high::numeric
                else false end
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
        return make_interval(secs => round(v_text::numeric, 6)::double precision);
    elsif jsonb_typeof(value) = 'string' and length(v_text) < 100
        and v_text ~* (
            '^\s*(?=\d)(\d{1,6}(\.\d{1,9})?\s*(y|years?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(mons?|months?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(w|weeks?)\s*)?'
            || '(\d{1,6}(\.\d{1,9})?\s*(d|days?)\s*)?'
            || '(\d{1,7}(\.\d{1,9})?\s*(h|hrs?|hours?)\s*)?'
            || '(\d{1,7}(\.\d{1,9})?\s*(m|mins?|minutes?)\s*)?'
            || '(\d{1,11}(\.\d{1,9})?\s*(s|secs?|seconds?)\s*)?'
            || '(\d{1,11}(\.\d{1,9})?\s*(ms|milliseconds?)\s*)?$')
        and v_text::interval <= interval '1000 years' then
        return v_text::interval;
    end if;
    perform hotmesh._refuse_argument(
        format('%s is no duration: %s', what, left(value::text, 100)),
        'A duration is a number of seconds or a text such as "30 days", "1.5h" or "500ms", '
        || 'from 0 to 1000 years.',
        'Write the unit in full, for instance "2 minutes".');
end
$$;

-- What a value takes as text; a stored large one may be compressed many times over.
create or replace function hotmesh._bytes(value jsonb)
returns bigint
language sql
stable
parallel safe
as $$
    select case when pg_column_size(value) < 2000 then pg_column_size(value)
                else octet_length(value::text) end
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

-- 01_shape.sql
create or replace function hotmesh._shape_nouns()
returns setof text
language sql
stable
as $$
    select c.relname::text
    from pg_class c
    where c.relnamespace = to_regnamespace('hotmesh') and c.relkind = 'r' and c.relname <> 'apps'
    order by c.relname
$$;

create or replace function hotmesh._shape_columns(relation regclass)
returns table (name name, place smallint, type text, not_null boolean, value text)
language sql
stable
as $$
    select a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attnum
$$;

-- Every valid index that serves no constraint, with its definition as it would read on `target`.
create or replace function hotmesh._shape_indexes(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select c.relname, c.oid, regexp_replace(
        pg_get_indexdef(c.oid), ' ON (ONLY )?\S+ USING ', format(' ON %s USING ', target))
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    where i.indrelid = relation and i.indisvalid
      and not exists (
          select from pg_constraint k where k.conindid = c.oid and k.conrelid = relation)
$$;

create or replace function hotmesh._shape_triggers(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select t.tgname, t.oid, regexp_replace(
        pg_get_triggerdef(t.oid), ' ON \S+ ', format(' ON %s ', target))
    from pg_trigger t
    where t.tgrelid = relation and not t.tgisinternal and t.tgenabled = 'O'
$$;

create or replace function hotmesh._shape_storage(relation regclass)
returns setof text
language sql
stable
as $$
    select unnest(r.reloptions)
    from pg_class r
    where r.oid = relation
    union all
    select 'toast.' || unnest(t.reloptions)
    from pg_class r
    join pg_class t on t.oid = r.reltoastrelid
    where r.oid = relation
$$;

-- Brackets don't count: Postgres may write a definition with others once it has read it back.
create or replace function hotmesh._shape_differs(left_text text, right_text text)
returns boolean
language sql
immutable
as $$
    select translate(left_text, '()', '') is distinct from translate(right_text, '()', '')
$$;

-- Without its indexes: `like` would give them names of its own.
create or replace function hotmesh._shape_repair_missing(schema text, noun text)
returns setof text
language sql
stable
as $$
    select format('create table %1$I.%2$I (like hotmesh.%2$I including all excluding indexes) ',
                  schema, noun)
        || case when noun like '%\_archive' then 'partition by range (closed_at)'
                else format('inherits (hotmesh.%I)', noun) end
    where to_regclass(format('%I.%I', schema, noun)) is null
$$;

create or replace function hotmesh._shape_repair_columns(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s %s', child, r.change)
    from hotmesh._shape_columns(parent) p
    left join hotmesh._shape_columns(child) c on c.name = p.name
    cross join lateral (values
        (1, case when c.name is null then
            format('add column %I %s', p.name, p.type || coalesce(' default ' || p.value, '')) end),
        (2, case when c.name is not null and p.value is distinct from coalesce(c.value, '') then
            format('alter column %I set default ', p.name) || p.value end),
        (3, case when p.not_null and c.not_null is not true then
            format('alter column %I set not null', p.name) end)
    ) r (step, change)
    where r.change is not null
    order by p.place, r.step
$$;

create or replace function hotmesh._shape_repair_constraints(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %1$s drop constraint if exists %2$I, add constraint %2$I %3$s',
                  child, p.conname, pg_get_constraintdef(p.oid))
    from pg_constraint p
    left join pg_constraint c on c.conrelid = child and c.conname = p.conname
    where p.conrelid = parent and p.contype in ('p', 'u', 'x', 'c')
      and coalesce(c.coninhcount, 0) = 0
      and hotmesh._shape_differs(pg_get_constraintdef(p.oid), pg_get_constraintdef(c.oid))
    order by p.conname
$$;

create or replace function hotmesh._shape_repair_indexes(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[format('drop index if exists %I.%I', n.nspname, p.name), p.definition])
    from hotmesh._shape_indexes(parent, child) p
    left join hotmesh._shape_indexes(child, child) c on c.name = p.name
    join pg_class r on r.oid = child
    join pg_namespace n on n.oid = r.relnamespace
    where hotmesh._shape_differs(p.definition, c.definition)
    order by p.name
$$;

create or replace function hotmesh._shape_repair_storage(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s set (%s)', child, string_agg(o.setting, ', ' order by o.setting))
    from (
        select hotmesh._shape_storage(parent)
        except
        select hotmesh._shape_storage(child)) o (setting)
    where (select r.relkind from pg_class r where r.oid = child) = 'r'
    having count(*) > 0
$$;

create or replace function hotmesh._shape_repair_triggers(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[format('drop trigger if exists %I on %s', p.name, child), p.definition])
    from hotmesh._shape_triggers(parent, child) p
    left join hotmesh._shape_triggers(child, child) c on c.name = p.name
    where hotmesh._shape_differs(p.definition, c.definition)
    order by p.name
$$;

create or replace function hotmesh._shape_comments(relation regclass, target regclass)
returns table (thing text, remark text)
language sql
stable
as $$
    select format('table %s', target), obj_description(relation, 'pg_class')
    union all
    select format('column %s.%I', target, c.name), col_description(relation, c.place)
    from hotmesh._shape_columns(relation) c
    union all
    select format('constraint %I on %s', c.conname, target), obj_description(c.oid, 'pg_constraint')
    from pg_constraint c
    where c.conrelid = relation
    union all
    select format('index %I.%I', n.nspname, i.name), obj_description(i.place, 'pg_class')
    from hotmesh._shape_indexes(relation, target) i
    join pg_class r on r.oid = target
    join pg_namespace n on n.oid = r.relnamespace
    union all
    select format('trigger %I on %s', t.name, target), obj_description(t.place, 'pg_trigger')
    from hotmesh._shape_triggers(relation, target) t
$$;

create or replace function hotmesh._shape_repair_comments(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('comment on %s is %L', p.thing, p.remark)
    from hotmesh._shape_comments(parent, child) p
    left join hotmesh._shape_comments(child, child) c on c.thing = p.thing
    where p.remark <> coalesce(c.remark, '')
$$;

create or replace function hotmesh._shape_repair_view(schema text, archive text)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create or replace view %1$I.%2$I as select %3$s from %1$I.%4$I'
               ' union all select %3$s from %1$I.%5$I',
               schema, n.noun || '_all', n.names, n.noun, archive),
        format('comment on view %I.%I is %L', schema, n.noun || '_all',
               format('The rows of %s and of its archive.', n.noun))])
    from (
        select m.noun, string_agg(quote_ident(c.name), ', ' order by c.place) as names
        from (select left(archive, -length('_archive'))) m (noun)
        cross join lateral hotmesh._shape_columns(to_regclass(format('hotmesh.%I', m.noun))) c
        group by m.noun) n
    where archive like '%\_archive'
$$;

-- Who may read the jobs of an app may read what was added to it.
create or replace function hotmesh._shape_repair_grants(schema text)
returns setof text
language sql
stable
as $$
    select format('grant select on all tables in schema %I to %s', schema, a.grantee::regrole)
    from pg_class c
    cross join lateral aclexplode(c.relacl) a
    where c.oid = to_regclass(format('%I.jobs', schema))
      and a.privilege_type = 'SELECT' and a.grantee not in (0, c.relowner)
$$;

-- Attached, not created in place: `partition of` would lock out the readers of the archive.
create or replace function hotmesh._shape_month(schema text, archive text, month timestamp)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create table %1$I.%2$I (like %1$I.%3$I including all excluding indexes)',
               schema, m.name, archive),
        format('comment on table %I.%I is %L', schema, m.name, format(
               'The rows of %s that closed in %s (UTC).', archive, to_char(month, 'YYYY-MM'))),
        format('alter table %1$I.%3$I attach partition %1$I.%2$I for values from (%4$L) to (%5$L)',
               schema, m.name, archive,
               month::text || '+00', (month + interval '1 month')::text || '+00')])
    from (select format('%s_%s', archive, to_char(month, 'YYYY_MM'))) m (name)
    where to_regclass(format('%I.%I', schema, m.name)) is null
$$;

-- 02_app.sql
-- The shape of an app's tables. Raise it with every change to a parent.
create or replace function hotmesh._app_revision()
returns integer
language sql
immutable
as $$
    select 1
$$;

-- Plain ASCII, whatever the database's collation: a name folds alike after a restore elsewhere.
create or replace function hotmesh._app_schema(name text)
returns text
language sql
immutable
as $$
    select regexp_replace(lower(name collate "C"), '[^a-z0-9]', '_', 'g')
$$;

-- The schema of the app that was entered.
create or replace function hotmesh._app_here()
returns text
language sql
stable
as $$
    select (current_schemas(false))[2]::text
$$;

create or replace function hotmesh._app_refuse_unknown(app text)
returns void
language plpgsql
as $$
declare
    v_name text := (
        select a.name from hotmesh.apps a where a.schema_name = hotmesh._app_schema(app));
begin
    raise exception 'unknown app %', hotmesh._named(app) using
        errcode = 'MSH00',
        detail = case when v_name is null then 'No app of this name was created in this database.'
                      else format('There is an app of a similar name: "%s".', v_name) end,
        hint = case when v_name is not null
                    then 'Write the name as it was given to app_create, or as its schema.'
                    when app is null then 'Every call says first which app it is for: my-app.'
                    else format('Create it: select hotmesh.app_create(%L)', left(app, 200)) end;
end
$$;

create or replace function hotmesh._app_refuse_role(app text, role text)
returns void
language plpgsql
as $$
begin
    raise exception 'role "%" may not use app "%"', role, app using
        errcode = '42501',
        detail = 'The role has no USAGE on the schema of the app.',
        hint = format('Its owner can give it a key: select hotmesh.app_grant(%L, %L, ''client'')',
                      app, role);
end
$$;

create or replace function hotmesh._app_get(app text)
returns hotmesh.apps
language plpgsql
stable
as $$
declare
    v_app hotmesh.apps;
begin
    select (a::hotmesh.apps).* into v_app
    from hotmesh.apps a
    where a.name = app or a.schema_name = app;
    if not found then
        perform hotmesh._app_refuse_unknown(app);
    end if;
    return v_app;
end
$$;

-- The app of a name or a schema, which the caller may use.
create or replace function hotmesh._app_admit(app text, role name)
returns hotmesh.apps
language plpgsql
stable
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    if not has_schema_privilege(role, v_app.schema_name, 'usage') then
        perform hotmesh._app_refuse_role(app, role);
    end if;
    return v_app;
end
$$;

-- The role that is asked is the caller's: a door runs as its owner, who may use every app. Returns
-- the app's settings. One statement, as every door begins with it: the path is set if the app is
-- there and the caller may use it. What else there is, the other two say. Backslashes in literals
-- of the engine mean themselves, whatever the session says; both settings end with the door.
create or replace function hotmesh._enter(app text)
returns jsonb
language plpgsql
as $$
declare
    v_app hotmesh.apps;
    v_settings jsonb;
    v_path text;
    v_strings text;
begin
    select a.settings,
           set_config('search_path', 'pg_catalog, ' || a.schema_name || ', hotmesh, pg_temp', true),
           set_config('standard_conforming_strings', 'on', true)
    into v_settings, v_path, v_strings
    from hotmesh.apps a
    where a.name = app and has_schema_privilege(
        coalesce(nullif(current_setting('role'), 'none')::name, session_user), a.schema_name,
        'usage');
    if not found then
        v_app := hotmesh._app_admit(
            app, coalesce(nullif(current_setting('role'), 'none')::name, session_user));
        v_settings := v_app.settings;
        v_path := set_config(
            'search_path', 'pg_catalog, ' || v_app.schema_name || ', hotmesh, pg_temp', true);
        v_strings := set_config('standard_conforming_strings', 'on', true);
    end if;
    return v_settings;
end
$$;

create or replace function hotmesh._app_check_name(app text)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_rule constant text := 'A name begins with a letter and has at most 63 bytes: my-app.';
begin
    if app is null or app = '' then
        perform hotmesh._refuse_argument('an app needs a name', 'The name was empty.', v_rule);
    elsif octet_length(app) > 63 then
        perform hotmesh._refuse_argument(
            format('the name of app "%s…" is too long', left(app, 20)),
            format('It has %s bytes, and schemas have at most 63.', octet_length(app)), v_rule);
    elsif v_schema !~ '^[a-z]' then
        perform hotmesh._refuse_argument(
            format('the name of app "%s" does not begin with a letter', app),
            format('Its schema would be called "%s".', v_schema), v_rule);
    elsif v_schema in ('hotmesh', 'public', 'information_schema') or v_schema like 'pg\_%' then
        perform hotmesh._refuse_argument(
            format('the name "%s" is reserved', app),
            format('Its schema would be "%s", which is Postgres'' or the engine''s.', v_schema),
            'Choose another name, for instance my-app.');
    end if;
end
$$;

create or replace function hotmesh._app_check_free(app text)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_name text := (select a.name from hotmesh.apps a where a.schema_name = v_schema);
begin
    if v_name is not null then
        raise exception 'app "%" already exists', app using
            errcode = 'MSH01',
            detail = format('The schema of app "%s" is "%s"%s.', v_name, v_schema,
                            case when v_name <> app then ', and this name would have it, too'
                                 else '' end),
            hint = 'Use that app, or a name that differs in more than case and punctuation.';
    elsif to_regnamespace(quote_ident(v_schema)) is not null then
        raise exception 'the schema "%" of app "%" is taken', v_schema, app using
            errcode = 'MSH03',
            detail = format('A schema "%s" exists, and it is no app''s.', v_schema),
            hint = 'Choose another name for the app, or rename that schema.';
    end if;
end
$$;

create or replace function hotmesh._app_check_right()
returns void
language plpgsql
as $$
declare
    v_base name := current_database();
begin
    if not has_database_privilege(v_base, 'create') then
        raise exception 'the owner of the engine may not create schemas in "%"', v_base using
            errcode = '42501',
            detail = format('An app is a schema; role "%s" has no CREATE on the database.',
                            current_user),
            hint = format('grant create on database %I to %I', v_base, current_user);
    end if;
end
$$;

-- Against two who make the same thing. False: somebody else has the lock, and `patient` was false.
create or replace function hotmesh._app_lock(schema text, patient boolean default true)
returns boolean
language plpgsql
as $$
declare
    v_lock constant bigint := hashtextextended('hotmesh app ' || schema, 0);
begin
    if not patient then
        return pg_try_advisory_xact_lock(v_lock);
    end if;
    perform pg_advisory_xact_lock(v_lock);
    return true;
end
$$;

create or replace function hotmesh._app_run(statements text[])
returns void
language plpgsql
as $$
declare
    v_statement text;
begin
    foreach v_statement in array statements loop
        execute v_statement;
    end loop;
end
$$;

create or replace function hotmesh._app_furnish_table(schema text, noun text)
returns void
language plpgsql
as $$
declare
    v_parent regclass := to_regclass(format('hotmesh.%I', noun));
    v_child regclass;
begin
    perform hotmesh._app_run(array(select hotmesh._shape_repair_missing(schema, noun)));
    v_child := to_regclass(format('%I.%I', schema, noun));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_columns(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_constraints(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_indexes(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_storage(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_triggers(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_comments(v_parent, v_child)));
    perform hotmesh._app_run(array(select hotmesh._shape_repair_view(schema, noun)));
end
$$;

-- Makes the month of the archive in which `at` lies. False: somebody else is at it.
create or replace function hotmesh._app_open_month(
    schema text, at timestamptz, patient boolean default true)
returns boolean
language plpgsql
as $$
declare
    v_month timestamp := date_trunc('month', at at time zone 'UTC');
    v_name text := to_char(v_month, 'YYYY_MM');
begin
    if not exists (
        select from hotmesh._shape_nouns() n (noun)
        where n.noun like '%\_archive'
          and to_regclass(format('%I.%I', schema, n.noun || '_' || v_name)) is null)
    then
        return true;
    elsif not hotmesh._app_lock(schema, patient) then
        return false;
    end if;
    perform hotmesh._app_run(array(
        select hotmesh._shape_month(schema, n.noun, v_month)
        from hotmesh._shape_nouns() n (noun)
        where n.noun like '%\_archive'));
    return true;
end
$$;

-- Makes what is missing and repairs the rest. Next month is opened ahead, so that a job which is
-- replaced in a user's long transaction need not do it.
create or replace function hotmesh._app_furnish(app hotmesh.apps)
returns hotmesh.apps
language plpgsql
as $$
declare
    v_app hotmesh.apps;
    v_schema text := app.schema_name;
begin
    perform hotmesh._app_run(array[format('revoke all on schema %I from public', v_schema)]);
    perform hotmesh._app_furnish_table(v_schema, n.noun) from hotmesh._shape_nouns() n (noun);
    perform hotmesh._app_open_month(v_schema, hotmesh.now());
    perform hotmesh._app_open_month(v_schema, hotmesh.now() + interval '1 month');
    perform hotmesh._app_run(array(select hotmesh._shape_repair_grants(v_schema)));
    update hotmesh.apps a
    set revision = hotmesh._app_revision()
    where a.name = app.name
    returning (a::hotmesh.apps).* into v_app;
    return v_app;
end
$$;

create or replace function hotmesh.app_create(app text)
returns hotmesh.apps
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_schema text := hotmesh._app_schema(app);
    v_app hotmesh.apps;
begin
    perform hotmesh._app_check_name(app);
    perform hotmesh._app_lock(v_schema);
    perform hotmesh._app_check_free(app);
    perform hotmesh._app_check_right();
    perform hotmesh._app_run(array[format('create schema %I', v_schema)]);
    insert into hotmesh.apps as a (name, schema_name, revision, created_at)
    values (app, v_schema, 0, hotmesh.now())
    returning (a::hotmesh.apps).* into v_app;
    return hotmesh._app_furnish(v_app);
end
$$;
comment on function hotmesh.app_create(text) is
'Create an app: a schema with its tables. Raises MSH01 if the name folds to that of an app,
MSH03 if its schema is taken, 22023 if the name is not fit.';

-- `app_upgrade` is in 99: it needs every room.
create or replace function hotmesh._app_refuse_open(app hotmesh.apps)
returns void
language plpgsql
as $$
declare
    v_count bigint;
begin
    perform hotmesh._enter(app.name);
    lock table jobs in access exclusive mode;
    select count(*) into v_count
    from (select from jobs j where j.closed_at is null limit 1000) o;
    if v_count > 0 then
        raise exception 'app "%" has open jobs', app.name using
            errcode = 'MSH02',
            detail = format('%s of its jobs are open%s.', v_count,
                            case when v_count = 1000 then ', at least' else '' end),
            hint = format('Let them end, or drop them: select hotmesh.app_drop(%L, force => true)',
                          app.name);
    end if;
end
$$;

create or replace function hotmesh.app_drop(app text, force boolean default false)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    perform hotmesh._app_lock(v_app.schema_name);
    if to_regnamespace(quote_ident(v_app.schema_name)) is not null then
        if force is not true then
            perform hotmesh._app_refuse_open(v_app);
        end if;
        perform hotmesh._app_run(array[format('drop schema %I cascade', v_app.schema_name)]);
    end if;
    delete from hotmesh.apps a where a.name = v_app.name;
end
$$;
comment on function hotmesh.app_drop(text, boolean) is
'Drop an app with its schema and all that is in it. Raises MSH02 if it has open jobs and is not
forced, MSH00 if there is no such app.';

-- 10_pipe.sql
create or replace function hotmesh._pipe_refuse(message text, detail text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    perform hotmesh._refuse_argument(
        message, coalesce(detail, 'It was undefined.'),
        'JavaScript raises an error here too. Give another value, for instance by '
        'conditional.nullish before it.');
    return null;
end
$$;

-- What remains of a value when its pipe has ended, or when it is put into an array or object.
create or replace function hotmesh._pipe_store(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'object' and value ? '$number'
                then case value ->> '$number'
                     when '-0' then '0'::jsonb
                     when 'NaN' then 'null'
                     when 'Infinity' then 'null'
                     when '-Infinity' then 'null'
                     else value end
                else value end;
end
$$;

create or replace function hotmesh._pipe_item(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return coalesce(hotmesh._pipe_store(value), 'null');
end
$$;

-- The catalogue; a=b is a second name of b.
create or replace function hotmesh._pipe_names()
returns table (domain text, names text)
language sql
immutable
parallel safe
as $$
    values
        ('array', 'get length concat indexOf join lastIndexOf pop push reverse shift slice sort '
            'splice unshift'),
        ('bitwise', 'and or xor leftShift rightShift unsignedRightShift'),
        ('conditional', 'ternary equality strict_equality inequality strict_inequality '
            'greater_than less_than greater_than_or_equal less_than_or_equal nullish '
            'eq=equality ne=inequality neq=inequality gt=greater_than lt=less_than '
            'gte=greater_than_or_equal lte=less_than_or_equal'),
        ('cron', 'nextDelay'),
        ('date', 'fromISOString now yyyymmdd parse getDate=getUTCDate getDay=getUTCDay '
            'getFullYear=getUTCFullYear getHours=getUTCHours getMilliseconds=getUTCMilliseconds '
            'getMinutes=getUTCMinutes getMonth=getUTCMonth getSeconds=getUTCSeconds getTime '
            'getTimezoneOffset getUTCDate getUTCDay getUTCFullYear getUTCHours '
            'getUTCMilliseconds getUTCMinutes getUTCMonth getUTCSeconds setDate=setUTCDate '
            'setFullYear=setUTCFullYear setHours=setUTCHours setMilliseconds=setUTCMilliseconds '
            'setMinutes=setUTCMinutes setMonth=setUTCMonth setSeconds=setUTCSeconds setTime '
            'setUTCDate setUTCFullYear setUTCHours setUTCMilliseconds setUTCMinutes setUTCMonth '
            'setUTCSeconds toDateString toISOString toISOXString toJSON toLocaleDateString '
            'toLocaleString toLocaleTimeString toString UTC valueOf=getTime'),
        ('json', 'stringify parse'),
        ('logical', 'and or'),
        ('math', 'add subtract multiply divide abs acos acosh asin asinh atan atan2 atanh cbrt '
            'ceil clz32 cos cosh exp expm1 floor fround hypot imul log log10 log1p log2 max min '
            'pow random round sign sin sinh sqrt tan tanh trunc'),
        ('number', 'isFinite isEven isOdd isInteger isNaN parseFloat parseInt toFixed '
            'toExponential toPrecision gte lte gt lt max min pow round'),
        ('object', 'get set create keys values entries fromEntries assign getOwnPropertyNames '
            'getOwnPropertySymbols getOwnPropertyDescriptor defineProperty defineProperties '
            'freeze isFrozen seal isSealed preventExtensions isExtensible hasOwnProperty '
            'isPrototypeOf propertyIsEnumerable'),
        ('string', 'split charAt concat includes indexOf lastIndexOf slice toLowerCase '
            'toUpperCase trim trimStart trimEnd padStart padEnd replace search substring '
            'startsWith endsWith repeat'),
        ('symbol', 'null undefined whitespace object array posInfinity negInfinity NaN date'),
        ('unary', 'not positive negative bitwise_not')
$$;

-- toISOString of date is _date_to_iso_string.
create or replace function hotmesh._pipe_target(domain text, name text)
returns text
language sql
immutable
parallel safe
as $$
    select format('_%s_%s', domain, lower(regexp_replace(regexp_replace(
        replace(name, 'NaN', 'Nan'), '([A-Z]+)([A-Z][a-z])', '\1_\2', 'g'),
        '([a-z0-9])([A-Z])', '\1_\2', 'g')))
$$;

-- Each function with what it is in SQL; `most` null: it takes any number of values.
create or replace function hotmesh._pipe_functions()
returns table (
    domain text, name text, target text, fewest integer, most integer, volatility text,
    parallel_safe boolean)
language sql
stable
parallel safe
as $$
    select n.domain, split_part(w.word, '=', 1), 'hotmesh.' || t.target,
           p.pronargs - p.pronargdefaults,
           case when p.provariadic = 0 then p.pronargs::integer end,
           case p.provolatile when 'i' then 'immutable' when 's' then 'stable'
                else 'volatile' end,
           p.proparallel = 's'
    from hotmesh._pipe_names() n
    cross join lateral regexp_split_to_table(n.names, ' ') w (word)
    cross join lateral hotmesh._pipe_target(
        n.domain, coalesce(nullif(split_part(w.word, '=', 2), ''), w.word)) t (target)
    left join pg_proc p on p.proname = t.target and p.pronamespace = 'hotmesh'::regnamespace
$$;

-- How many letters make one word of the other.
create or replace function hotmesh._pipe_distance(a text, b text)
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_row integer[] := array(select generate_series(0, length(b)));
    v_next integer[];
begin
    for i in 1..length(a) loop
        v_next := array[i];
        for j in 1..length(b) loop
            v_next := v_next || least(
                v_row[j + 1] + 1, v_next[j] + 1,
                v_row[j] + (substr(a, i, 1) <> substr(b, j, 1))::integer);
        end loop;
        v_row := v_next;
    end loop;
    return v_row[length(b) + 1];
end
$$;

create or replace function hotmesh._pipe_nearest(domain text, name text)
returns text
language sql
stable
parallel safe
as $$
    select string_agg(n.full_name, ', ' order by n.d)
    from (
        select f.domain || '.' || f.name as full_name,
               hotmesh._pipe_distance(lower(replace(f.name, '_', '')), w.name)
                   + 2 * hotmesh._pipe_distance(f.domain, w.domain) as d
        from hotmesh._pipe_functions() f
        cross join (values (
            left(lower(_pipe_nearest.domain), 20),
            left(lower(replace(_pipe_nearest.name, '_', '')), 30))) w (domain, name)
        order by d, 1
        limit 3) n
$$;

-- The SQL function of a name, or a refusal.
create or replace function hotmesh._pipe_find(domain text, name text)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_target text;
begin
    select f.target into v_target
    from hotmesh._pipe_functions() f
    where f.domain = _pipe_find.domain and f.name = _pipe_find.name;
    if v_target is null then
        perform hotmesh._refuse_argument(
            format('unknown function: @%s.%s', left(domain, 40), left(name, 40)),
            case when exists (
                select from hotmesh._pipe_names() n where n.domain = _pipe_find.domain)
                 then format('The domain %s has no %s.', domain, left(name, 40))
                 else 'The domains are ' || (
                    select string_agg(n.domain, ', ' order by n.domain)
                    from hotmesh._pipe_names() n) || '.' end,
            format('Near to it: %s.', hotmesh._pipe_nearest(
                coalesce(domain, ''), coalesce(name, ''))));
    end if;
    return v_target;
end
$$;

-- Values beyond those that the function takes are dropped, missing ones are undefined.
create or replace function hotmesh._pipe_call(domain text, name text, args jsonb[])
returns jsonb
language plpgsql
volatile
as $$
declare
    v_target constant text := hotmesh._pipe_find(domain, name);
    v_function record;
    v_list text;
    v_value jsonb;
begin
    select f.fewest, f.most into v_function
    from hotmesh._pipe_functions() f
    where f.domain = _pipe_call.domain and f.name = _pipe_call.name;
    v_list := case
        when v_function.most is null then concat_ws(', ', (
            select string_agg(format('$1[%s]', n), ', ' order by n)
            from generate_series(1, v_function.fewest) n),
            format('variadic $1[%s:]', v_function.fewest + 1))
        else (
            select string_agg(format('$1[%s]', n), ', ' order by n)
            from generate_series(
                1, least(v_function.most, greatest(v_function.fewest, cardinality(args)))) n) end;
    execute format('select %s(%s)', v_target, v_list) into v_value using args;
    return v_value;
end
$$;

-- 11_value.sql
create or replace function hotmesh._value_type(value jsonb)
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return case when value is null then 'undefined'
                when jsonb_typeof(value) = 'object' and value ? '$number'
                    and value ->> '$number' in ('NaN', 'Infinity', '-Infinity', '-0')
                then 'number'
                else jsonb_typeof(value) end;
end
$$;

create or replace function hotmesh._value_pack(x double precision)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when x between -1.7976931348623157e308 and 1.7976931348623157e308
                    and (x <> 0 or x::text = '0')
                then x::text::jsonb
                else jsonb_build_object('$number', x::text) end;
end
$$;

create or replace function hotmesh._value_float(n numeric)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when n = 0 then 0
                when abs(n) >= 1.797693134862315808e308 then sign(n) * 'Infinity'::float8
                when abs(n) <= 2.4703282292062327209e-324
                then case when n < 0 then '-0' else '0' end::float8
                else n::float8 end;
end
$$;

-- All decimal digits of a finite number, of which its text shows the first 17.
create or replace function hotmesh._value_exact(x double precision)
returns numeric
language plpgsql
immutable
parallel safe
as $$
declare
    v_bits constant bigint := ('x' || encode(float8send(abs(x)), 'hex'))::bit(64)::bigint;
    v_exponent integer := v_bits >> 52;
    v_digits numeric := v_bits & 4503599627370495;
begin
    if v_exponent > 0 then
        v_digits := v_digits + 4503599627370496;
    else
        v_exponent := 1;
    end if;
    v_exponent := v_exponent - 1075;
    if v_exponent >= 0 then
        return case when x < 0 then -1 else 1 end * v_digits * power(2::numeric, v_exponent);
    end if;
    -- m / 2^k is m * 5^k / 10^k
    while v_exponent < 0 and v_digits > 0 and v_digits % 2 = 0 loop
        v_digits := div(v_digits, 2);
        v_exponent := v_exponent + 1;
    end loop;
    return case when x < 0 then -1 else 1 end
        * trunc(v_digits * power(5::numeric, -v_exponent))
        * ('1e' || v_exponent)::numeric;
end
$$;

-- What trim takes away.
create or replace function hotmesh._value_white()
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return E'\t\n\u000b\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007'
        || E'\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff';
end
$$;

create or replace function hotmesh._value_radix(digits text, radix integer)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_number numeric := 0;
    v_digit text;
begin
    if length(digits) > 1100 then
        return 'Infinity';
    end if;
    foreach v_digit in array regexp_split_to_array(lower(digits), '') loop
        v_number := v_number * radix + strpos('0123456789abcdefghijklmnopqrstuvwxyz', v_digit) - 1;
    end loop;
    return hotmesh._value_float(v_number);
end
$$;

-- A decimal literal, however large its exponent.
create or replace function hotmesh._value_decimal(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(word, '^([^eE]*)(?:[eE]([+-]?)0*([0-9]*))?$');
begin
    if length(v_parts[3]) > 4 or length(word) > 10000 then
        return case when v_parts[1] !~ '[1-9]' then '0'
                    when v_parts[2] = '-' then '0'
                    when left(word, 1) = '-' then '-Infinity'
                    else 'Infinity' end;
    elsif word ~ '^-[0.]+([eE]|$)' then
        return '-0';
    end if;
    return hotmesh._value_float(word::numeric);
end
$$;

-- The number that a text is.
create or replace function hotmesh._value_read(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_word constant text := btrim(word, hotmesh._value_white());
begin
    return case
        when v_word = '' then 0
        when v_word ~ '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$'
        then hotmesh._value_decimal(v_word)
        when v_word ~ '^0[xX][0-9a-fA-F]+$' then hotmesh._value_radix(substr(v_word, 3), 16)
        when v_word ~ '^0[oO][0-7]+$' then hotmesh._value_radix(substr(v_word, 3), 8)
        when v_word ~ '^0[bB][01]+$' then hotmesh._value_radix(substr(v_word, 3), 2)
        when v_word ~ '^[+-]?Infinity$' then v_word::float8
        else 'NaN' end;
end
$$;

create or replace function hotmesh._value_number(value jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(value)
           when 'number' then case when octet_length(value::text) < 300 then value::float8
                                   else hotmesh._value_float(value::numeric) end
           when 'string' then hotmesh._value_read(value #>> '{}')
           when 'boolean' then value::boolean::integer
           when 'null' then 0
           when 'array' then hotmesh._value_read(hotmesh._value_text(value))
           when 'object' then
               case when hotmesh._value_type(value) = 'number'
                    then (value ->> '$number')::float8 else 'NaN' end
           else 'NaN' end;
end
$$;

-- The text of a number that is read as it again. Right between two numbers fewer digits may do:
-- JavaScript takes those.
create or replace function hotmesh._value_short(x double precision)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_text text := x::text;
    v_parts constant text[] := string_to_array(v_text, 'e');
    v_near text;
begin
    if abs(x) < 1e16 or abs(x) > 1e40 then
        return v_text;
    end if;
    for places in reverse 15..12 loop
        v_near := trim_scale(round(v_parts[1]::numeric, places)) || 'e' || v_parts[2];
        exit when v_near::float8 <> x;
        v_text := v_near;
    end loop;
    return v_text;
end
$$;

-- A number as JavaScript writes it.
create or replace function hotmesh._value_digits(x double precision)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_text constant text := hotmesh._value_short(x);
begin
    return case when x = 0 then '0'
                when strpos(v_text, 'e') = 0 then v_text
                when abs(x) >= 1e-6 and abs(x) < 1e21 then v_text::numeric::text
                else regexp_replace(v_text, 'e([+-])0', 'e\1') end;
end
$$;

create or replace function hotmesh._value_text(value jsonb)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_type constant text := hotmesh._value_type(value);
begin
    if v_type = 'string' then
        return value #>> '{}';
    elsif v_type = 'number' then
        return hotmesh._value_digits(hotmesh._value_number(value));
    elsif v_type = 'array' then
        return coalesce((
            select string_agg(
                case when e.item = 'null' then '' else hotmesh._value_text(e.item) end, ','
                order by e.n)
            from jsonb_array_elements(value) with ordinality e (item, n)), '');
    end if;
    return case v_type when 'undefined' then v_type
                       when 'object' then '[object Object]'
                       else value::text end;
end
$$;

create or replace function hotmesh._value_truth(value jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
begin
    return case hotmesh._value_type(value)
           when 'boolean' then value::boolean
           when 'string' then value <> '""'
           when 'number' then abs(hotmesh._value_number(value)) between 5e-324 and 'Infinity'
           when 'undefined' then false
           when 'null' then false
           else true end;
end
$$;

create or replace function hotmesh._value_integer(value jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(value);
begin
    return case when v_x = 'NaN' or v_x = 0 then 0 else trunc(v_x) end;
end
$$;

create or replace function hotmesh._value_uint32(value jsonb)
returns bigint
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(value);
begin
    return case when abs(v_x) < 9e15 then trunc(v_x)::bigint & 4294967295
                when abs(v_x) <= 1.7976931348623157e308
                then mod(hotmesh._value_exact(trunc(v_x)), 4294967296)::bigint & 4294967295
                else 0 end;
end
$$;

-- The low 32 bits, as a signed number.
create or replace function hotmesh._value_signed(n bigint)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return ((n & 4294967295) # 2147483648) - 2147483648;
end
$$;

create or replace function hotmesh._value_int32(value jsonb)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return hotmesh._value_signed(hotmesh._value_uint32(value));
end
$$;

-- a === b
create or replace function hotmesh._value_same(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
begin
    return case when hotmesh._value_type(a) <> hotmesh._value_type(b) then false
                else case hotmesh._value_type(a)
                     when 'number' then hotmesh._value_number(a) = hotmesh._value_number(b)
                         and hotmesh._value_number(a) <> 'NaN'
                     when 'undefined' then true
                     when 'array' then false
                     when 'object' then false
                     else a = b end end;
end
$$;

-- An array or object as an operator takes it: its text.
create or replace function hotmesh._value_plain(value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when hotmesh._value_type(value) in ('array', 'object')
                then to_jsonb(hotmesh._value_text(value)) else value end;
end
$$;

-- a == b
create or replace function hotmesh._value_equal(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
declare
    v_a constant text := hotmesh._value_type(a);
    v_b constant text := hotmesh._value_type(b);
begin
    if v_a = v_b then
        return hotmesh._value_same(a, b);
    elsif v_a in ('null', 'undefined') or v_b in ('null', 'undefined') then
        return v_a in ('null', 'undefined') and v_b in ('null', 'undefined');
    elsif v_a in ('array', 'object') and v_b in ('array', 'object') then
        return false;
    elsif v_a in ('string', 'array', 'object') and v_b in ('string', 'array', 'object') then
        return hotmesh._value_text(a) = hotmesh._value_text(b);
    end if;
    return hotmesh._value_number(a) = hotmesh._value_number(b)
        and hotmesh._value_number(a) <> 'NaN';
end
$$;

-- a < b; null: they can't be compared.
create or replace function hotmesh._value_less(a jsonb, b jsonb)
returns boolean
language plpgsql
immutable
parallel safe
as $$
declare
    v_a jsonb;
    v_b jsonb;
    v_x double precision;
    v_y double precision;
begin
    if jsonb_typeof(a) = 'number' and jsonb_typeof(b) = 'number' then
        return hotmesh._value_float(a::numeric) < hotmesh._value_float(b::numeric);
    end if;
    v_a := hotmesh._value_plain(a);
    v_b := hotmesh._value_plain(b);
    if jsonb_typeof(v_a) = 'string' and jsonb_typeof(v_b) = 'string' then
        return (v_a #>> '{}') collate "C" < (v_b #>> '{}') collate "C";
    end if;
    v_x := hotmesh._value_number(v_a);
    v_y := hotmesh._value_number(v_b);
    return case when v_x <> 'NaN' and v_y <> 'NaN' then v_x < v_y end;
end
$$;

-- Where slice begins or ends: from the end if negative, never outside.
create or replace function hotmesh._value_place(value jsonb, length integer, fallback integer)
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_x double precision;
begin
    if value is null then
        return fallback;
    end if;
    v_x := hotmesh._value_integer(value);
    return case when v_x < 0 then greatest(v_x + length, 0)
                else least(v_x, length) end::integer;
end
$$;

create or replace function hotmesh._value_string(value jsonb, what text)
returns text
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'string' then value #>> '{}'
                else hotmesh._pipe_refuse(
                    format('%s needs a string', what), left(value::text, 100)) #>> '{}' end;
end
$$;

create or replace function hotmesh._value_array(value jsonb, what text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) = 'array' then value
                else hotmesh._pipe_refuse(
                    format('%s needs an array', what), left(value::text, 100)) end;
end
$$;

-- Anything but null and undefined.
create or replace function hotmesh._value_present(value jsonb, what text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case when jsonb_typeof(value) <> 'null' then value
                else hotmesh._pipe_refuse(
                    format('%s needs a value', what), left(value::text, 100)) end;
end
$$;

-- value?.[key]
create or replace function hotmesh._value_property(value jsonb, key text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(value)
           when 'object' then value -> key
           when 'array' then
               case when key = 'length' then to_jsonb(jsonb_array_length(value))
                    when key ~ '^(0|[1-9][0-9]{0,8})$' then value -> key::integer end
           when 'string' then
               case when key = 'length' then to_jsonb(length(value #>> '{}'))
                    when key ~ '^(0|[1-9][0-9]{0,8})$'
                    then to_jsonb(nullif(substr(value #>> '{}', key::integer + 1, 1), '')) end
           end;
end
$$;

-- 12_number.sql
create or replace function hotmesh._number_plus(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when abs(a) < 8e307 and abs(b) < 8e307
                    or abs(a) >= 'Infinity' or abs(b) >= 'Infinity' then a + b
                when abs(a) < 1 then b
                when abs(b) < 1 then a
                when abs(a / 2 + b / 2) >= 8.98846567431158e307
                then sign(a) * 'Infinity'::float8
                else (a / 2 + b / 2) * 2 end;
end
$$;

-- A product that may be too large or too small for double precision.
create or replace function hotmesh._number_scaled(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_size constant double precision := log(abs(a)) + log(abs(b));
    v_one constant double precision := greatest(abs(a), abs(b));
    v_two constant double precision := least(abs(a), abs(b));
    v_sign constant double precision := sign(a) * sign(b);
begin
    if v_size between -300 and 300 then
        return a * b;
    elsif v_size > 300 then
        -- 2^-64 and back
        return v_sign * case
            when v_size > 309 or v_one / 18446744073709551616.0 * v_two >= 9.745314011399999e288
            then 'Infinity'
            else v_one / 18446744073709551616.0 * v_two * 18446744073709551616.0 end;
    elsif v_size < -325 then
        return v_sign * 0.0;
    end if;
    return hotmesh._value_float(hotmesh._value_exact(a) * hotmesh._value_exact(b));
end
$$;

create or replace function hotmesh._number_times(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when a = 0 or b = 0 or abs(a) >= 'Infinity' or abs(b) >= 'Infinity'
                    or abs(a) between 1e-150 and 1e150 and abs(b) between 1e-150 and 1e150
                then a * b
                else hotmesh._number_scaled(a, b) end;
end
$$;

-- By 0 it is NaN: so HotMesh divides.
create or replace function hotmesh._number_over(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_size double precision;
begin
    if b = 0 then
        return 'NaN';
    elsif a = 0 or abs(a) >= 'Infinity' or abs(b) >= 'Infinity' then
        return a / b;
    end if;
    v_size := log(abs(a)) - log(abs(b));
    return case when v_size between -300 and 300 then a / b
                when v_size > 309 then sign(a) * sign(b) * 'Infinity'::float8
                when v_size < -325 then sign(a) * sign(b) * 0.0
                when v_size > 0
                then hotmesh._number_times(
                    a / (b * 18446744073709551616.0), 18446744073709551616.0)
                else hotmesh._value_float((
                    trunc(hotmesh._value_exact(a) * 1e360 / hotmesh._value_exact(b)) || 'e-360'
                    )::numeric) end;
end
$$;

create or replace function hotmesh._number_power(a double precision, b double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_odd constant boolean := abs(b) < 9007199254740992 and trunc(b) = b
        and mod(b::bigint, 2) <> 0;
    v_size double precision;
begin
    if b = 0 then
        return 1;
    elsif a = 'NaN' or b = 'NaN' or abs(a) = 1 and abs(b) = 'Infinity'
        or a < 0 and abs(a) < 'Infinity' and abs(b) < 'Infinity' and trunc(b) <> b
    then
        return 'NaN';
    elsif a = 0 then
        return case when b < 0 then 'Infinity'::float8 else 0.0 end
            * case when v_odd and a::text = '-0' then -1 else 1 end;
    elsif abs(a) = 'Infinity' or abs(b) = 'Infinity' then
        return case when (abs(a) > 1) = (b > 0) then 'Infinity'::float8 else 0.0 end
            * case when v_odd and a < 0 then -1 else 1 end;
    end if;
    v_size := hotmesh._number_times(ln(abs(a)), b);
    return case when v_size > 710 then 'Infinity'::float8 when v_size < -746 then 0.0
                when abs(v_size) < 700 then power(abs(a), b)
                else hotmesh._number_times(power(abs(a), b / 2), power(abs(a), b / 2)) end
        * case when v_odd and a < 0 then -1 else 1 end;
end
$$;

-- Halves go up, -0.5 to -0.
create or replace function hotmesh._number_near(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when abs(x) < 4503599627370496
                then case when x < 0 and x >= -0.5 then '-0'::float8
                          when x - floor(x) >= 0.5 then ceil(x)
                          else floor(x) end
                else x end
$$;

create or replace function hotmesh._number_greatest(numbers jsonb[])
returns double precision
language sql
immutable
parallel safe
as $$
    select case when bool_or(n.x = 'NaN') then 'NaN'
                when max(n.x) = 0 and bool_or(n.x::text = '0') then 0
                else coalesce(max(n.x), '-Infinity') end
    from unnest(numbers) e (item)
    cross join lateral (values (hotmesh._value_number(e.item))) n (x)
$$;

create or replace function hotmesh._number_least(numbers jsonb[])
returns double precision
language sql
immutable
parallel safe
as $$
    select case when bool_or(n.x = 'NaN') then 'NaN'
                when min(n.x) = 0 and bool_or(n.x::text = '-0') then '-0'
                else coalesce(min(n.x), 'Infinity') end
    from unnest(numbers) e (item)
    cross join lateral (values (hotmesh._value_number(e.item))) n (x)
$$;

create or replace function hotmesh._number_is_finite(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number'
        and abs(hotmesh._value_number(n)) <= 1.7976931348623157e308)
$$;

create or replace function hotmesh._number_is_nan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number' and hotmesh._value_number(n) = 'NaN')
$$;

create or replace function hotmesh._number_is_integer(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(n) = 'number'
        and abs(hotmesh._value_number(n)) <= 1.7976931348623157e308
        and trunc(hotmesh._value_number(n)) = hotmesh._value_number(n))
$$;

-- Of the division by 2, without its sign.
create or replace function hotmesh._number_remainder(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when abs(x) < 2 then abs(x)
                when abs(x) < 9007199254740992
                then abs(x) - 2 * floor(abs(x) / 2)
                when abs(x) < 'Infinity' then 0
                else 'NaN' end
$$;

create or replace function hotmesh._number_is_even(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._number_remainder(hotmesh._value_number(n)) = 0)
$$;

create or replace function hotmesh._number_is_odd(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._number_remainder(hotmesh._value_number(n)) = 1)
$$;

create or replace function hotmesh._number_gte(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(not hotmesh._value_less(a, b), false))
$$;

create or replace function hotmesh._number_lte(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(not hotmesh._value_less(b, a), false))
$$;

create or replace function hotmesh._number_gt(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(hotmesh._value_less(b, a), false))
$$;

create or replace function hotmesh._number_lt(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(hotmesh._value_less(a, b), false))
$$;

create or replace function hotmesh._number_max(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_greatest(numbers))
$$;

create or replace function hotmesh._number_min(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_least(numbers))
$$;

create or replace function hotmesh._number_pow(base jsonb, exponent jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_power(
        hotmesh._value_number(base), hotmesh._value_number(exponent)))
$$;

create or replace function hotmesh._number_round(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_near(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._number_parse_float(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(coalesce(
        hotmesh._value_read(substring(
            ltrim(hotmesh._value_text(value), hotmesh._value_white())
            from '^[+-]?(?:Infinity|(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?)')),
        'NaN'))
$$;

create or replace function hotmesh._number_parse_int(value jsonb, radix jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(
        ltrim(hotmesh._value_text(value), hotmesh._value_white()), '^([+-]?)(0[xX])?(.*)$');
    v_asked constant integer := hotmesh._value_int32(radix);
    v_hex constant boolean := v_parts[2] is not null and v_asked in (0, 16);
    v_radix constant integer := case when v_hex then 16 when v_asked = 0 then 10
                                     else v_asked end;
    v_digits text;
begin
    if v_radix not between 2 and 36 then
        return hotmesh._value_pack('NaN');
    end if;
    v_digits := substring(
        lower(case when v_hex then '' else coalesce(v_parts[2], '') end || v_parts[3])
        from format('^[%s]+', left('0123456789abcdefghijklmnopqrstuvwxyz', v_radix)));
    return hotmesh._value_pack(
        case when v_digits is null then 'NaN'
             else hotmesh._value_radix(v_digits, v_radix)
                * case when v_parts[1] = '-' then -1 else 1 end end);
end
$$;

create or replace function hotmesh._number_needed(n jsonb, what text)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_type(n) = 'number' then hotmesh._value_number(n)
                else (hotmesh._pipe_refuse(
                    format('%s needs a number', what), left(n::text, 100)) #>> '{}')::float8 end
$$;

create or replace function hotmesh._number_places(digits jsonb, low integer, what text)
returns integer
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_integer(digits) between low and 100
                then hotmesh._value_integer(digits)::integer
                else (hotmesh._pipe_refuse(
                    format('%s takes %s to 100 digits', what, low),
                    left(digits::text, 100)) #>> '{}')::integer end
$$;

create or replace function hotmesh._number_to_fixed(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toFixed');
    v_places constant integer := hotmesh._number_places(digits, 0, 'number.toFixed');
begin
    if not abs(v_x) < 1e21 then
        return to_jsonb(hotmesh._value_digits(v_x));
    end if;
    return to_jsonb(
        case when v_x < 0 then '-' else '' end
        || round(abs(hotmesh._value_exact(v_x)), v_places)::text);
end
$$;

-- One digit before the point, so many in all.
create or replace function hotmesh._number_scientific(n numeric, digits integer)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_exponent integer := case
        when n = 0 then 0
        when abs(n) >= 1 then length(trunc(abs(n))::text) - 1
        else -length(substring(abs(n)::text from '[.](0*)')) - 1 end;
    v_rounded constant numeric := round(abs(n), digits - 1 - v_exponent);
    v_digits text;
begin
    if v_rounded >= ('1e' || v_exponent + 1)::numeric then
        v_exponent := v_exponent + 1;
    end if;
    v_digits := rpad(ltrim(replace(v_rounded::text, '.', ''), '0'), digits, '0');
    return case when n < 0 then '-' else '' end || left(v_digits, 1)
        || case when digits > 1 then '.' || substr(v_digits, 2, digits - 1) else '' end
        || case when v_exponent < 0 then 'e-' else 'e+' end || abs(v_exponent);
end
$$;

create or replace function hotmesh._number_to_exponential(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toExponential');
    v_places constant integer :=
        case when not abs(v_x) < 'Infinity' then 0
             else hotmesh._number_places(digits, 0, 'number.toExponential') end;
    v_short constant text := regexp_replace(
        hotmesh._value_short(v_x), 'e.*|[-.]', '', 'g');
begin
    if not abs(v_x) < 'Infinity' then
        return to_jsonb(v_x::text);
    elsif digits is null then
        return to_jsonb(hotmesh._number_scientific(
            (abs(v_x)::text)::numeric * sign(v_x)::integer,
            greatest(length(btrim(v_short, '0')), 1)));
    end if;
    return to_jsonb(hotmesh._number_scientific(hotmesh._value_exact(v_x), v_places + 1));
end
$$;

create or replace function hotmesh._number_to_precision(n jsonb, digits jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._number_needed(n, 'number.toPrecision');
    v_digits integer;
    v_text text;
    v_exponent integer;
begin
    if digits is null or not abs(v_x) < 'Infinity' then
        return to_jsonb(hotmesh._value_digits(v_x));
    end if;
    v_digits := hotmesh._number_places(digits, 1, 'number.toPrecision');
    v_text := hotmesh._number_scientific(hotmesh._value_exact(v_x), v_digits);
    v_exponent := split_part(v_text, 'e', 2)::integer;
    if v_exponent between -6 and v_digits - 1 then
        v_text := round(v_text::numeric, v_digits - 1 - v_exponent)::text;
    end if;
    return to_jsonb(v_text);
end
$$;

-- 13_math.sql
create or replace function hotmesh._math_operands(items jsonb[])
returns double precision[]
language plpgsql
immutable
parallel safe
as $$
declare
    v_item jsonb;
    v_numbers double precision[] := '{}';
begin
    foreach v_item in array items loop
        if jsonb_typeof(v_item) = 'array' then
            v_numbers := v_numbers || hotmesh._math_operands(
                array(select e from jsonb_array_elements(v_item) e));
        else
            v_numbers := v_numbers || hotmesh._value_number(v_item);
        end if;
    end loop;
    return v_numbers;
end
$$;

create or replace function hotmesh._math_add(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision := 0;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := hotmesh._number_plus(v_result, v_number);
    end loop;
    return hotmesh._value_pack(v_result);
end
$$;

create or replace function hotmesh._math_multiply(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision := 1;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := hotmesh._number_times(v_result, v_number);
    end loop;
    return hotmesh._value_pack(v_result);
end
$$;

create or replace function hotmesh._math_subtract(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := case when v_result is null then v_number
                         else hotmesh._number_plus(v_result, -v_number) end;
    end loop;
    return hotmesh._value_pack(coalesce(v_result, 'NaN'));
end
$$;

create or replace function hotmesh._math_divide(variadic numbers jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_number double precision;
    v_result double precision;
begin
    foreach v_number in array hotmesh._math_operands(numbers) loop
        v_result := case when v_result is null then v_number
                         else hotmesh._number_over(v_result, v_number) end;
    end loop;
    return hotmesh._value_pack(coalesce(v_result, 'NaN'));
end
$$;

create or replace function hotmesh._math_within(
    n jsonb, low double precision, high double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return case when v_x between low and high then v_x else 'NaN' end;
end
$$;

create or replace function hotmesh._math_abs(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(abs(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_acos(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(acos(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_acosh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(acosh(hotmesh._math_within(n, 1, 'Infinity')))
$$;

create or replace function hotmesh._math_asin(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(asin(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_asinh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(asinh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_atan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atan(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_atan2(y jsonb, x jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atan2(hotmesh._value_number(y), hotmesh._value_number(x)))
$$;

create or replace function hotmesh._math_atanh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(atanh(hotmesh._math_within(n, -1, 1)))
$$;

create or replace function hotmesh._math_cbrt(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cbrt(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_ceil(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(ceil(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_clz32(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant bigint := hotmesh._value_uint32(n);
begin
    return to_jsonb(32 - length(ltrim(v_x::bit(32)::text, '0')));
end
$$;

create or replace function hotmesh._math_cos(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cos(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_cosh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(cosh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_exponential(x double precision)
returns double precision
language sql
immutable
parallel safe
as $$
    select case when x = '-Infinity' or x < -746 then 0
                when x between -746 and -700
                then hotmesh._number_times(exp(x + 100), exp(-100::float8))
                when x < 709.782712893384 then exp(x)
                when x = 'NaN' then x
                when x > 709.782712893384 then 'Infinity'
                else exp(x) end
$$;

create or replace function hotmesh._math_exp(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._math_exponential(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_expm1(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(
        case when v.x = 0 or e.u = 1 then v.x
             when abs(v.x) > 40 then e.u - 1
             else (e.u - 1) * (v.x / ln(e.u)) end)
    from (values (hotmesh._value_number(n))) v (x)
    cross join lateral (values (hotmesh._math_exponential(v.x))) e (u)
$$;

create or replace function hotmesh._math_floor(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(floor(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_fround(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when not abs(v_x) < 'Infinity' or v_x = 0 then v_x
             when abs(v_x) >= 3.4028235677973366e38 then sign(v_x) * 'Infinity'::float8
             when abs(v_x) <= 7.006492321624085e-46 then sign(v_x) * 0.0
             else v_x::real end);
end
$$;

create or replace function hotmesh._math_hypot(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(
        case when bool_or(abs(v.x) = 'Infinity') then 'Infinity'
             when bool_or(v.x = 'NaN') then 'NaN'
             else hotmesh._value_float(coalesce(sqrt(sum(
                 case when abs(v.x) < 'Infinity'
                      then v.x::text::numeric * v.x::text::numeric end)), 0)) end)
    from unnest(numbers) e (item) cross join lateral (values (hotmesh._value_number(e.item))) v (x)
$$;

create or replace function hotmesh._math_imul(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_signed(hotmesh._value_int32(a) * hotmesh._value_int32(b)))
$$;

create or replace function hotmesh._math_log(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x > 0 then ln(v_x) when v_x = 0 then '-Infinity' else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log10(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x > 0 then log(v_x) when v_x = 0 then '-Infinity' else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log1p(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x = 0 or v_x = 'Infinity' or 1 + v_x = 1 then v_x
             when v_x > -1 then ln(1 + v_x) * (v_x / ((1 + v_x) - 1))
             when v_x = -1 then '-Infinity'
             else 'NaN' end);
end
$$;

create or replace function hotmesh._math_log2(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(
        case when v_x = 'Infinity' then v_x
             when v_x > 0 then
                 case when hotmesh._number_power(2, round(ln(v_x) / ln(2::float8))) = v_x
                      then round(ln(v_x) / ln(2::float8))
                      else ln(v_x) / ln(2::float8) end
             when v_x = 0 then '-Infinity'
             else 'NaN' end);
end
$$;

create or replace function hotmesh._math_max(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_greatest(numbers))
$$;

create or replace function hotmesh._math_min(variadic numbers jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_least(numbers))
$$;

create or replace function hotmesh._math_pow(base jsonb, exponent jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_power(
        hotmesh._value_number(base), hotmesh._value_number(exponent)))
$$;

create or replace function hotmesh._math_random()
returns jsonb
language sql
volatile
as $$
    select to_jsonb(random())
$$;

create or replace function hotmesh._math_round(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._number_near(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_sign(n jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_x constant double precision := hotmesh._value_number(n);
begin
    return hotmesh._value_pack(case when v_x = 0 or v_x = 'NaN' then v_x else sign(v_x) end);
end
$$;

create or replace function hotmesh._math_sin(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sin(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_sinh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sinh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_sqrt(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(sqrt(hotmesh._math_within(n, 0, 'Infinity')))
$$;

create or replace function hotmesh._math_tan(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(tan(
        hotmesh._math_within(n, -1.7976931348623157e308, 1.7976931348623157e308)))
$$;

create or replace function hotmesh._math_tanh(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(tanh(hotmesh._value_number(n)))
$$;

create or replace function hotmesh._math_trunc(n jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(trunc(hotmesh._value_number(n)))
$$;

-- 14_string.sql
create or replace function hotmesh._string_at(s text, at double precision)
returns text
language sql
immutable
parallel safe
as $$
    select case when at >= 0 and at < length(s) then substr(s, at::integer + 1, 1) else '' end
$$;

create or replace function hotmesh._string_char_at(s jsonb, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._string_at(
        hotmesh._value_string(s, 'string.charAt'), hotmesh._value_integer(at)))
$$;

create or replace function hotmesh._string_concat(s jsonb, variadic parts jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_text text := hotmesh._value_string(s, 'string.concat');
begin
    for n in 1..cardinality(parts) loop
        v_text := v_text || hotmesh._value_text(parts[n]);
    end loop;
    return to_jsonb(v_text);
end
$$;

-- Where a part is, from a position on; -1: nowhere.
create or replace function hotmesh._string_find(s text, part text, first integer)
returns integer
language sql
immutable
parallel safe
as $$
    select case when first > length(s) then -1
                when part = '' then first
                else coalesce(nullif(strpos(substr(s, first + 1), part), 0) + first, 0) - 1 end
$$;

-- A position, never outside.
create or replace function hotmesh._string_first(value jsonb, length integer)
returns integer
language sql
immutable
parallel safe
as $$
    select least(greatest(hotmesh._value_integer(value), 0), length)::integer
$$;

create or replace function hotmesh._string_index_of(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.indexOf');
begin
    return to_jsonb(hotmesh._string_find(v_s, hotmesh._value_text(part),
        hotmesh._string_first(at, length(v_s))));
end
$$;

create or replace function hotmesh._string_includes(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.includes');
begin
    return to_jsonb(hotmesh._string_find(
        v_s, hotmesh._value_text(part), hotmesh._string_first(at, length(v_s))) >= 0);
end
$$;

create or replace function hotmesh._string_last_index_of(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.lastIndexOf');
    v_part constant text := hotmesh._value_text(part);
    v_at constant double precision := hotmesh._value_number(at);
    v_last integer := length(v_s) - length(v_part);
    v_found integer;
begin
    if v_at <> 'NaN' then
        v_last := least(v_last, greatest(trunc(v_at), 0));
    end if;
    if v_last < 0 then
        return to_jsonb(-1);
    end if;
    v_found := strpos(
        reverse(left(v_s, v_last + length(v_part))), reverse(v_part));
    return to_jsonb(case when v_part = '' then v_last
                         when v_found = 0 then -1
                         else v_last + 1 - v_found end);
end
$$;

create or replace function hotmesh._string_slice(
    s jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.slice');
    v_first constant integer := hotmesh._value_place(first, length(v_s), 0);
begin
    return to_jsonb(substr(v_s, v_first + 1, greatest(
        hotmesh._value_place(last, length(v_s), length(v_s)) - v_first, 0)));
end
$$;

create or replace function hotmesh._string_substring(
    s jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.substring');
    v_first constant integer := hotmesh._string_first(first, length(v_s));
    v_last constant integer := case when last is null then length(v_s)
                                    else hotmesh._string_first(last, length(v_s)) end;
begin
    return to_jsonb(substr(v_s, least(v_first, v_last) + 1, abs(v_last - v_first)));
end
$$;

create or replace function hotmesh._string_split(
    s jsonb, separator jsonb default null, most jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.split');
    v_separator constant text := hotmesh._value_text(separator);
    v_parts text[];
begin
    v_parts := case when separator is null then array[v_s]
                    when v_s = '' and v_separator = '' then '{}'
                    when v_separator = '' then regexp_split_to_array(v_s, '')
                    when v_s = '' then array['']
                    else string_to_array(v_s, v_separator) end;
    return to_jsonb(
        case when most is null then v_parts
             else v_parts[1:least(hotmesh._value_uint32(most), 2147483647)::integer] end);
end
$$;

create or replace function hotmesh._string_lower_letters()
returns text
language sql
immutable
parallel safe
as $$
    select 'abcdefghijklmnopqrstuvwxyzàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿāăąćĉċčďđēĕėęěĝğġģĥ'
        || 'ħĩīĭįĵķĺļľŀłńņňŋōŏőœŕŗřśŝşšţťŧũūŭůűųŵŷźżžάέήίόύώαβγδεζηθικλμνξοπρστυφχψωϊϋаб'
        || 'вгдежзийклмнопрстуфхцчшщъыьэюяѐёђѓєѕіїјљњћќѝўџґ'
$$;

create or replace function hotmesh._string_upper_letters()
returns text
language sql
immutable
parallel safe
as $$
    select 'ABCDEFGHIJKLMNOPQRSTUVWXYZÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞŸĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤ'
        || 'ĦĨĪĬĮĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŹŻŽΆΈΉΊΌΎΏΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫАБ'
        || 'ВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏҐ'
$$;

create or replace function hotmesh._string_to_upper_case(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(translate(
        replace(hotmesh._value_string(s, 'string.toUpperCase'), 'ß', 'SS'),
        hotmesh._string_lower_letters(), hotmesh._string_upper_letters()))
$$;

create or replace function hotmesh._string_to_lower_case(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(translate(
        hotmesh._value_string(s, 'string.toLowerCase'),
        hotmesh._string_upper_letters(), hotmesh._string_lower_letters()))
$$;

create or replace function hotmesh._string_trim(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(btrim(hotmesh._value_string(s, 'string.trim'), hotmesh._value_white()))
$$;

create or replace function hotmesh._string_trim_start(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(ltrim(hotmesh._value_string(s, 'string.trimStart'), hotmesh._value_white()))
$$;

create or replace function hotmesh._string_trim_end(s jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(rtrim(hotmesh._value_string(s, 'string.trimEnd'), hotmesh._value_white()))
$$;

-- What is missing, made of copies of a text.
create or replace function hotmesh._string_fill(fill jsonb, missing double precision, what text)
returns text
language sql
immutable
parallel safe
as $$
    select case when missing <= 0 or f.word = '' then ''
                when missing > 16777216 then hotmesh._pipe_refuse(
                    format('%s makes at most 16777216 characters', what),
                    format('%s more were asked for.', missing)) #>> '{}'
                else left(
                    repeat(f.word, ceil(missing / length(f.word))::integer), missing::integer) end
    from (values (
        case when fill is null then ' ' else hotmesh._value_text(fill) end)) f (word)
$$;

create or replace function hotmesh._string_pad_start(
    s jsonb, length jsonb default null, fill jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.padStart');
begin
    return to_jsonb(hotmesh._string_fill(
        fill, hotmesh._value_integer(_string_pad_start.length) - length(v_s),
        'string.padStart') || v_s);
end
$$;

create or replace function hotmesh._string_pad_end(
    s jsonb, length jsonb default null, fill jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.padEnd');
begin
    return to_jsonb(v_s || hotmesh._string_fill(
        fill, hotmesh._value_integer(_string_pad_end.length) - length(v_s), 'string.padEnd'));
end
$$;

create or replace function hotmesh._string_repeat(s jsonb, times jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.n between 0 and 16777216 and v.n * length(v.s) <= 16777216
                then to_jsonb(repeat(v.s, v.n::integer))
                when v.n >= 0 and v.n < 'Infinity' and v.s = '' then to_jsonb(''::text)
                else hotmesh._pipe_refuse(
                    'string.repeat makes 0 to 16777216 characters',
                    format('%s times %s.', left(times::text, 100), length(v.s))) end
    from (values (
        hotmesh._value_string(s, 'string.repeat'), hotmesh._value_integer(times))) v (s, n)
$$;

create or replace function hotmesh._string_starts_with(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(substr(
        v.s, hotmesh._string_first(at, length(v.s)) + 1, length(v.part)) = v.part)
    from (values (
        hotmesh._value_string(s, 'string.startsWith'), hotmesh._value_text(part))) v (s, part)
$$;

create or replace function hotmesh._string_ends_with(
    s jsonb, part jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(right(left(v.s, e.last), nullif(length(v.part), 0)) is not distinct from
        nullif(v.part, ''))
    from (values (
        hotmesh._value_string(s, 'string.endsWith'), hotmesh._value_text(part))) v (s, part)
    cross join lateral (values (
        case when at is null then length(v.s)
             else hotmesh._string_first(at, length(v.s)) end)) e (last)
$$;

-- $&, $`, $' and a doubled $ in what replaces.
create or replace function hotmesh._string_expand(
    replacement text, before text, part text, after text)
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(string_agg(
        case m.hit[1]
        when concat('$', '$') then '$'
        when '$&' then part
        when '$`' then before
        when '$''' then after
        else m.hit[1] end, '' order by m.n), '')
    from regexp_matches(replacement, '[$][$&`'']|[^$]+|[$]', 'g') with ordinality m (hit, n)
$$;

-- The first occurrence of a text.
create or replace function hotmesh._string_replace(
    s jsonb, part jsonb default null, replacement jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_s constant text := hotmesh._value_string(s, 'string.replace');
    v_part constant text := hotmesh._value_text(part);
    v_at constant integer := strpos(v_s, v_part);
    v_before constant text := left(v_s, greatest(v_at - 1, 0));
    v_after constant text := substr(v_s, v_at + length(v_part));
begin
    if v_at = 0 then
        return s;
    end if;
    return to_jsonb(v_before || hotmesh._string_expand(
        hotmesh._value_text(replacement), v_before, v_part, v_after) || v_after);
end
$$;

-- A regular expression of JavaScript as one of Postgres.
create or replace function hotmesh._string_pattern(pattern text)
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(string_agg(
        case t.part[1] when '.' then '[^\n\r\u2028\u2029]'
                       when '\b' then '\y'
                       else t.part[1] end, '' order by t.n), '')
    from regexp_matches(pattern, '\\.|\[(?:\\.|[^]\\])*\]|.', 'g') with ordinality t (part, n)
$$;

create or replace function hotmesh._string_search(s jsonb, pattern jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(length((regexp_match(
        hotmesh._value_string(s, 'string.search'), '^(.*?)(?:' || hotmesh._string_pattern(
            case when pattern is null then '' else hotmesh._value_text(pattern) end)
            || ')'))[1]), -1))
$$;

-- 15_array.sql
create or replace function hotmesh._array_get(items jsonb, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_property(items, hotmesh._value_text(at))
$$;

create or replace function hotmesh._array_length(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(jsonb_array_length(hotmesh._value_array(items, 'array.length')))
$$;

create or replace function hotmesh._array_concat(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    items := hotmesh._value_array(items, 'array.concat');
    for n in 1..cardinality(more) loop
        items := items || case when jsonb_typeof(more[n]) = 'array' then more[n]
                               else jsonb_build_array(hotmesh._pipe_item(more[n])) end;
    end loop;
    return items;
end
$$;

-- Where a value is.
create or replace function hotmesh._array_places(items jsonb, value jsonb)
returns setof integer
language sql
immutable
parallel safe
as $$
    select (i.n - 1)::integer
    from jsonb_array_elements(items) with ordinality i (item, n)
    where hotmesh._value_same(i.item, value)
$$;

create or replace function hotmesh._array_index_of(
    items jsonb, value jsonb default null, at jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(min(p), -1))
    from hotmesh._array_places(hotmesh._value_array(items, 'array.indexOf'), value) p
    where p >= hotmesh._value_place(at, jsonb_array_length(items), 0)
$$;

create or replace function hotmesh._array_last_index_of(
    items jsonb, value jsonb, variadic at jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(max(p), -1))
    from hotmesh._array_places(hotmesh._value_array(items, 'array.lastIndexOf'), value) p
    where cardinality(at) = 0
       or p <= hotmesh._value_integer(at[1])
            + case when hotmesh._value_integer(at[1]) < 0
                   then jsonb_array_length(items) else 0 end
$$;

create or replace function hotmesh._array_join(items jsonb, separator jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(coalesce(string_agg(
        case when i.item = 'null' then '' else hotmesh._value_text(i.item) end,
        case when separator is null then ',' else hotmesh._value_text(separator) end
        order by i.n), ''))
    from jsonb_array_elements(hotmesh._value_array(items, 'array.join')) with ordinality i (item, n)
$$;

-- The last element; the array is a value, and stays.
create or replace function hotmesh._array_pop(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.pop') -> -1
$$;

create or replace function hotmesh._array_push(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.push') || coalesce((
        select jsonb_agg(hotmesh._pipe_item(m.value) order by m.n)
        from unnest(more) with ordinality m (value, n)), '[]')
$$;

create or replace function hotmesh._array_reverse(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n desc), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.reverse'))
        with ordinality i (item, n)
$$;

create or replace function hotmesh._array_shift(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_array(items, 'array.shift') -> 0
$$;

create or replace function hotmesh._array_slice(
    items jsonb, first jsonb default null, last jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.slice'))
        with ordinality i (item, n)
    where i.n > hotmesh._value_place(first, jsonb_array_length(items), 0)
      and i.n <= hotmesh._value_place(
          last, jsonb_array_length(items), jsonb_array_length(items))
$$;

create or replace function hotmesh._array_sorted(items jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(
        i.item order by coalesce(
            array_position(array['number', 'string'], jsonb_typeof(i.item)), 3),
        case when jsonb_typeof(i.item) = 'number' then hotmesh._value_number(i.item) end,
        hotmesh._value_text(i.item) collate "C", i.n), '[]')
    from jsonb_array_elements(items) with ordinality i (item, n)
$$;

create or replace function hotmesh._array_sort(items jsonb, direction jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when direction = '"DESCENDING"'
                then hotmesh._array_reverse(
                    hotmesh._array_sorted(hotmesh._value_array(items, 'array.sort')))
                else hotmesh._array_sorted(hotmesh._value_array(items, 'array.sort')) end
$$;

-- The elements that JavaScript takes out.
create or replace function hotmesh._array_splice(
    items jsonb, first jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(i.item order by i.n), '[]')
    from jsonb_array_elements(hotmesh._value_array(items, 'array.splice'))
        with ordinality i (item, n)
    where (first is not null or cardinality(more) > 0)
      and i.n > hotmesh._value_place(first, jsonb_array_length(items), 0)
      and (cardinality(more) = 0
           or i.n <= hotmesh._value_place(first, jsonb_array_length(items), 0)
                + hotmesh._value_integer(more[1]))
$$;

-- The length that it would have.
create or replace function hotmesh._array_unshift(items jsonb, variadic more jsonb[] default '{}')
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(
        jsonb_array_length(hotmesh._value_array(items, 'array.unshift')) + cardinality(more))
$$;

-- 16_object.sql
-- The own keys of a value in JavaScript's order.
create or replace function hotmesh._object_pairs(value jsonb)
returns table (key text, item jsonb, n bigint)
language sql
immutable
parallel safe
as $$
    select p.key, p.item, row_number() over (order by p.key ~ '^(0|[1-9][0-9]{0,8})$' desc, p.n)
    from (
        select e.key, e.item, e.n
        from jsonb_each(
            case when hotmesh._value_type(value) = 'object' then value end)
            with ordinality e (key, item, n)
        union all
        select (e.n - 1)::text, e.item, e.n
        from jsonb_array_elements(
            case jsonb_typeof(value)
            when 'array' then value
            when 'string' then to_jsonb(regexp_split_to_array(nullif(value #>> '{}', ''), ''))
            end) with ordinality e (item, n)) p
$$;

create or replace function hotmesh._object_get(value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_property(value, hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_put(value jsonb, key text, item jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_length integer;
begin
    if hotmesh._value_type(value) = 'object' then
        return case when item is null then value - key
                    else value || jsonb_build_object(key, hotmesh._pipe_store(item)) end;
    elsif jsonb_typeof(value) is distinct from 'array' then
        return hotmesh._pipe_refuse(
            'object.set needs an object or an array', left(value::text, 100));
    elsif key !~ '^(0|[1-9][0-9]{0,8})$' then
        return value;
    end if;
    v_length := jsonb_array_length(value);
    if key::integer > v_length + 10000 then
        return hotmesh._pipe_refuse(
            'object.set would leave more than 10000 places empty',
            format('%s elements, and number %s.', v_length, key));
    end if;
    return jsonb_set(
        value || coalesce((
            select jsonb_agg(null::jsonb)
            from generate_series(v_length, key::integer)), '[]'),
        array[key], hotmesh._pipe_item(item));
end
$$;

create or replace function hotmesh._object_set(value jsonb, key jsonb, item jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_put(value, hotmesh._value_text(key), item)
$$;

create or replace function hotmesh._object_create(variadic pairs jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_object jsonb := '{}';
begin
    for n in 1..cardinality(pairs) by 2 loop
        v_object := hotmesh._object_put(
            v_object, hotmesh._value_text(pairs[n]), pairs[n + 1]);
    end loop;
    return v_object;
end
$$;

create or replace function hotmesh._object_keys(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(to_jsonb(p.key) order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.keys')) p
$$;

create or replace function hotmesh._object_values(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(p.item order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.values')) p
$$;

create or replace function hotmesh._object_entries(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_agg(jsonb_build_array(p.key, p.item) order by p.n), '[]')
    from hotmesh._object_pairs(hotmesh._value_present(value, 'object.entries')) p
$$;

create or replace function hotmesh._object_member(entry jsonb, key text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when jsonb_typeof(entry) in ('array', 'object')
                then hotmesh._value_property(entry, key)
                else hotmesh._pipe_refuse(
                    'object.fromEntries needs pairs', left(entry::text, 100)) end
$$;

create or replace function hotmesh._object_from_entries(entries jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(jsonb_object_agg(p.key, p.item) filter (where p.item is not null), '{}')
    from (
        select distinct on (1) hotmesh._value_text(hotmesh._object_member(e.entry, '0')),
               hotmesh._object_member(e.entry, '1')
        from jsonb_array_elements(hotmesh._value_array(
            case when entries = '""' then '[]' else entries end, 'object.fromEntries'))
            with ordinality e (entry, n) order by 1, e.n desc) p (key, item)
$$;

create or replace function hotmesh._object_assign(
    value jsonb, variadic sources jsonb[] default '{}')
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_source jsonb;
    v_pair record;
begin
    value := hotmesh._value_present(value, 'object.assign');
    if hotmesh._value_type(value) not in ('object', 'array') then
        return value;
    end if;
    foreach v_source in array sources loop
        for v_pair in select p.key, p.item from hotmesh._object_pairs(v_source) p loop
            value := hotmesh._object_put(value, v_pair.key, v_pair.item);
        end loop;
    end loop;
    return value;
end
$$;

create or replace function hotmesh._object_get_own_property_names(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_keys(hotmesh._value_present(value, 'object.getOwnPropertyNames'))
        || case when jsonb_typeof(value) in ('array', 'string') then '["length"]'::jsonb
                else '[]' end
$$;

create or replace function hotmesh._object_get_own_property_symbols(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_present(value, 'object.getOwnPropertySymbols') is not null
                then '[]'::jsonb end
$$;

create or replace function hotmesh._object_has_own_property(value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._object_get_own_property_names(
        hotmesh._value_present(value, 'object.hasOwnProperty')) ? hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_property_is_enumerable(
    value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._object_keys(
        hotmesh._value_present(value, 'object.propertyIsEnumerable')) ? hotmesh._value_text(key))
$$;

create or replace function hotmesh._object_get_own_property_descriptor(
    value jsonb, key jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._object_get_own_property_names(
                    hotmesh._value_present(value, 'object.getOwnPropertyDescriptor')) ? k.key
                then jsonb_build_object(
                    'value', hotmesh._value_property(value, k.key),
                    'writable', t.type = 'object' or t.type = 'array',
                    'enumerable', k.key <> 'length' or t.type = 'object',
                    'configurable', t.type = 'object' or t.type = 'array' and k.key <> 'length')
                end
    from (values (hotmesh._value_text(key))) k (key)
    cross join (values (jsonb_typeof(value))) t (type)
$$;

-- A property as a descriptor says.
create or replace function hotmesh._object_define(
    value jsonb, key text, descriptor jsonb, what text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_type(value) not in ('object', 'array')
                    or hotmesh._value_type(descriptor) not in ('object', 'array')
                    or coalesce(descriptor ? 'get' or descriptor ? 'set', false)
                then hotmesh._pipe_refuse(
                    format('%s needs an object and a descriptor', what),
                    left(concat(value, ' ', descriptor), 100))
                when jsonb_typeof(value) = 'object' and (
                    descriptor ? 'enumerable'
                    and not hotmesh._value_truth(descriptor -> 'enumerable')
                    or not descriptor ? 'enumerable'
                    and hotmesh._value_property(value, key) is null)
                then hotmesh._object_put(value, key, null)
                when descriptor ? 'value' or hotmesh._value_property(value, key) is null
                then hotmesh._object_put(value, key, descriptor -> 'value')
                else value end
$$;

create or replace function hotmesh._object_define_property(
    value jsonb, key jsonb default null, descriptor jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._object_define(
        value, hotmesh._value_text(key), descriptor, 'object.defineProperty')
$$;

create or replace function hotmesh._object_define_properties(
    value jsonb, descriptors jsonb default null)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_pair record;
begin
    if hotmesh._value_type(value) not in ('object', 'array') then
        return hotmesh._pipe_refuse(
            'object.defineProperties needs an object', left(value::text, 100));
    end if;
    descriptors := hotmesh._value_present(descriptors, 'object.defineProperties');
    for v_pair in select p.key, p.item from hotmesh._object_pairs(descriptors) p loop
        value := hotmesh._object_define(
            value, v_pair.key, v_pair.item, 'object.defineProperties');
    end loop;
    return value;
end
$$;

create or replace function hotmesh._object_freeze(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_seal(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_prevent_extensions(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select value
$$;

create or replace function hotmesh._object_is_frozen(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) not in ('array', 'object'))
$$;

create or replace function hotmesh._object_is_sealed(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) not in ('array', 'object'))
$$;

create or replace function hotmesh._object_is_extensible(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_type(value) in ('array', 'object'))
$$;

-- No JSON value is.
create or replace function hotmesh._object_is_prototype_of(value jsonb, other jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_present(value, 'object.isPrototypeOf') is null)
$$;

create or replace function hotmesh._json_write(value jsonb, keys text[], gap text, margin text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_margin constant text := margin || gap;
    v_break constant text := case when gap = '' then '' else E'\n' end;
    v_type constant text := hotmesh._value_type(value);
    v_items text;
begin
    if v_type = 'number' then
        return case when hotmesh._pipe_store(value) = 'null' then 'null'
                    else hotmesh._value_digits(hotmesh._value_number(value)) end;
    elsif v_type not in ('array', 'object') then
        return value::text;
    end if;
    if v_type = 'array' then
        select string_agg(v_margin || hotmesh._json_write(e.item, keys, gap, v_margin),
                          ',' || v_break order by e.n)
        into v_items
        from jsonb_array_elements(value) with ordinality e (item, n);
        return coalesce('[' || v_break || v_items || v_break || margin || ']', '[]');
    end if;
    select string_agg(
        v_margin || to_jsonb(p.key) || case when gap = '' then ':' else ': ' end
        || hotmesh._json_write(p.item, keys, gap, v_margin),
        ',' || v_break order by array_position(keys, p.key), p.n)
    into v_items
    from hotmesh._object_pairs(value) p
    where keys is null or p.key = any (keys);
    return coalesce('{' || v_break || v_items || v_break || margin || '}', '{}');
end
$$;

create or replace function hotmesh._json_stringify(
    value jsonb, replacer jsonb default null, space jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._json_write(
        value,
        case when jsonb_typeof(replacer) = 'array' then array(
            select hotmesh._value_text(e.item)
            from jsonb_array_elements(replacer) with ordinality e (item, n)
            where jsonb_typeof(e.item) in ('string', 'number')
            order by e.n) end,
        case hotmesh._value_type(space)
        when 'string' then left(space #>> '{}', 10)
        when 'number' then repeat(
            ' ', greatest(least(hotmesh._value_integer(space), 10), 0)::integer)
        else '' end, ''))
    where value is not null
$$;

-- A text that is no JSON: 22P02.
create or replace function hotmesh._json_parse(value jsonb, reviver jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_text(value)::jsonb
$$;

create or replace function hotmesh._symbol_null()
returns jsonb
language sql
immutable
parallel safe
as $$
    select 'null'::jsonb
$$;

create or replace function hotmesh._symbol_undefined()
returns jsonb
language sql
immutable
parallel safe
as $$
    select null::jsonb
$$;

create or replace function hotmesh._symbol_whitespace()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '" "'::jsonb
$$;

create or replace function hotmesh._symbol_object()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '{}'::jsonb
$$;

create or replace function hotmesh._symbol_array()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '[]'::jsonb
$$;

create or replace function hotmesh._symbol_pos_infinity()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('Infinity')
$$;

create or replace function hotmesh._symbol_neg_infinity()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('-Infinity')
$$;

create or replace function hotmesh._symbol_nan()
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack('NaN')
$$;

-- 17_operator.sql
create or replace function hotmesh._bitwise_and(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) & hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_or(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) | hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_xor(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) # hotmesh._value_int32(b))
$$;

create or replace function hotmesh._bitwise_left_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_signed(
        hotmesh._value_int32(a) << (hotmesh._value_uint32(b) & 31)::integer))
$$;

create or replace function hotmesh._bitwise_right_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_int32(a) >> (hotmesh._value_uint32(b) & 31)::integer)
$$;

create or replace function hotmesh._bitwise_unsigned_right_shift(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_uint32(a) >> (hotmesh._value_uint32(b) & 31)::integer)
$$;

create or replace function hotmesh._unary_not(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_truth(value))
$$;

create or replace function hotmesh._unary_positive(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._value_number(value))
$$;

create or replace function hotmesh._unary_negative(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(-hotmesh._value_number(value))
$$;

create or replace function hotmesh._unary_bitwise_not(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(~ hotmesh._value_int32(value))
$$;

create or replace function hotmesh._conditional_ternary(
    condition jsonb, yes jsonb default null, no jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(condition) then yes else no end
$$;

create or replace function hotmesh._conditional_equality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_equal(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_inequality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_equal(a, b))
$$;

create or replace function hotmesh._conditional_strict_equality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(hotmesh._value_same(a, b))
$$;

create or replace function hotmesh._conditional_strict_inequality(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select to_jsonb(not hotmesh._value_same(a, b))
$$;

create or replace function hotmesh._conditional_greater_than(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_less(b, a) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_less_than(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_less(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_greater_than_or_equal(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when not hotmesh._value_less(a, b) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_less_than_or_equal(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when not hotmesh._value_less(b, a) then 'true'::jsonb else 'false'::jsonb end
$$;

create or replace function hotmesh._conditional_nullish(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select coalesce(nullif(a, 'null'), b)
$$;

create or replace function hotmesh._logical_and(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(a) then b else a end
$$;

create or replace function hotmesh._logical_or(a jsonb, b jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._value_truth(a) then a else b end
$$;

-- 18_date.sql
create or replace function hotmesh._date_clip(ms double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when abs(ms) <= 8.64e15 then trunc(ms) + 0.0 else 'NaN' end;
end
$$;

-- The number of a day of the Gregorian calendar, months from 0; 1970 began with day 0.
create or replace function hotmesh._date_day(
    year double precision, month double precision, day double precision)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_years constant double precision := floor((month - 2) / 12);
    v_y constant double precision := year + v_years;
    v_m constant double precision := month - 2 - 12 * v_years;
begin
    return case
        when abs(v_y) < 400000 and abs(month) < 5000000 and abs(day) < 1e16
        then 365 * v_y + floor(v_y / 4) - floor(v_y / 100) + floor(v_y / 400)
             + floor((153 * v_m + 2) / 5) + day - 719469
        else 'NaN' end;
end
$$;

-- Year, month from 0, day, hours, minutes, seconds, milliseconds; each may be beyond its bounds.
create or replace function hotmesh._date_make(parts double precision[])
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_part double precision;
begin
    foreach v_part in array parts loop
        if not abs(v_part) < 1e16 then
            return 'NaN';
        end if;
    end loop;
    return hotmesh._date_clip(
        hotmesh._date_day(parts[1], parts[2], parts[3]) * 86400000
        + parts[4] * 3600000 + parts[5] * 60000 + parts[6] * 1000 + parts[7]);
end
$$;

-- As _date_make takes them, and the day of the week. Years begin in March, eras have 400.
create or replace function hotmesh._date_parts(ms double precision)
returns double precision[]
language plpgsql
immutable
parallel safe
as $$
declare
    v_day constant double precision := floor(ms / 86400000);
    v_rest constant bigint := ms - v_day * 86400000;
    v_n constant bigint := v_day + 719468;
    v_era constant bigint := floor(v_n / 146097.0);
    v_doe constant bigint := v_n - v_era * 146097;
    v_yoe constant bigint := (v_doe - v_doe / 1460 + v_doe / 36524 - v_doe / 146096) / 365;
    v_doy constant bigint := v_doe - (365 * v_yoe + v_yoe / 4 - v_yoe / 100);
    v_month constant bigint := (5 * v_doy + 2) / 153;
begin
    return array[
        v_yoe + v_era * 400 + (v_month >= 10)::integer, (v_month + 2) % 12,
        v_doy - (153 * v_month + 2) / 5 + 1,
        v_rest / 3600000, v_rest / 60000 % 60, v_rest / 1000 % 60, v_rest % 1000,
        v_day + 4 - 7 * floor((v_day + 4) / 7)];
end
$$;

-- Months count from 1 here; `ahead` is null or +hhmm, +hh:mm.
create or replace function hotmesh._date_checked(parts text[], ahead text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case when parts[2]::integer between 1 and 12 and parts[3]::integer between 1 and 31
                    and (parts[4]::integer < 24
                         or parts[4]::integer = 24
                            and parts[5] || parts[6] || parts[7] !~ '[1-9]')
                    and parts[5]::integer < 60 and parts[6]::integer < 60
                    and coalesce(substr(ahead, 2, 2)::integer, 0) < 24
                    and coalesce(right(ahead, 2)::integer, 0) < 60
                then hotmesh._date_make(array[
                    parts[1]::integer, parts[2]::integer - 1, parts[3]::integer,
                    parts[4]::integer,
                    parts[5]::integer - case when ahead like '-%' then -1 else 1 end
                        * (coalesce(substr(ahead, 2, 2)::integer, 0) * 60
                           + coalesce(right(ahead, 2)::integer, 0)),
                    parts[6]::integer, rpad(left(parts[7], 3), 3, '0')::integer])
                else 'NaN' end;
end
$$;

create or replace function hotmesh._date_iso(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts text[] := regexp_match(word, '^([+-]\d{6}|\d{4})(?:-(\d\d)(?:-(\d\d))?)?'
        '(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.](\d{1,20}))?)?(?:(Z)|([+-]\d\d:\d\d))?)?$');
begin
    if v_parts is null then
        v_parts := regexp_match(
            word, '^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:[.](\d{3}))?()()$');
    end if;
    if v_parts is null or v_parts[1] = '-000000' then
        return null;
    end if;
    return hotmesh._date_checked(
        array[v_parts[1], coalesce(v_parts[2], '01'), coalesce(v_parts[3], '01'),
              coalesce(v_parts[4], '00'), coalesce(v_parts[5], '00'),
              coalesce(v_parts[6], '00'), coalesce(v_parts[7], '0')],
        nullif(v_parts[9], ''));
end
$$;

-- A day and what stands after it: 10:30:00 AM GMT+0200 (…).
create or replace function hotmesh._date_clock(day text[], rest text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant text[] := regexp_match(rest, '^,?(?: +(\d?\d):(\d\d)(?::(\d\d))?'
        '(?: ([aApP])[mM])?)?(?: ?(?:Z|UTC|GMT)?([+-]\d\d:?\d\d)?)?(?: *[(].*[)])?$');
    v_hour integer := coalesce(v_parts[1], '0');
begin
    if v_parts is null or v_parts[4] is not null and v_hour not between 1 and 12 then
        return 'NaN';
    elsif v_parts[4] is not null then
        v_hour := v_hour % 12 + case when lower(v_parts[4]) = 'p' then 12 else 0 end;
    end if;
    return hotmesh._date_checked(
        day || array[v_hour::text, coalesce(v_parts[2], '00'), coalesce(v_parts[3], '00'), '0'],
        v_parts[5]);
end
$$;

create or replace function hotmesh._date_month(word text)
returns text
language sql
immutable
parallel safe
as $$
    select to_char(array_position(
        '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}', lower(left(word, 3))), 'FM00')
$$;

create or replace function hotmesh._date_read(word text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
declare
    v_iso constant double precision := hotmesh._date_iso(word);
    v_m text[];
begin
    if v_iso is not null then
        return v_iso;
    end if;
    v_m := regexp_match(word, '^(\d{4})/(\d?\d)/(\d?\d)(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(v_m[1:3], v_m[4]);
    end if;
    v_m := regexp_match(word, '^(\d?\d)/(\d?\d)/(\d{4})(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(array[v_m[3], v_m[1], v_m[2]], v_m[4]);
    end if;
    v_m := regexp_match(
        word, '^(?:[A-Za-z]{3,9},? )?([A-Za-z]{3,9}) (\d?\d),? (\d{4,6})(.*)$');
    if v_m is not null then
        return hotmesh._date_clock(array[v_m[3], hotmesh._date_month(v_m[1]), v_m[2]], v_m[4]);
    end if;
    v_m := regexp_match(
        word, '^(?:[A-Za-z]{3,9},? )?(\d?\d) ([A-Za-z]{3,9}) (\d{4,6})(.*)$');
    return coalesce(
        hotmesh._date_clock(array[v_m[3], hotmesh._date_month(v_m[2]), v_m[1]], v_m[4]), 'NaN');
end
$$;

-- new Date(date).getTime()
create or replace function hotmesh._date_ms(date jsonb)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case jsonb_typeof(date)
           when 'string' then hotmesh._date_read(date #>> '{}')
           when 'array' then hotmesh._date_read(hotmesh._value_text(date))
           else hotmesh._date_clip(hotmesh._value_number(date)) end;
end
$$;

create or replace function hotmesh._date_now()
returns jsonb
language sql
volatile
as $$
    select to_jsonb(floor(extract(epoch from hotmesh.now()) * 1000)::bigint)
$$;

create or replace function hotmesh._date_year(year bigint)
returns text
language sql
immutable
parallel safe
as $$
    select case when year between 0 and 9999 then to_char(year, 'FM0000')
                else case when year < 0 then '-' else '+' end || to_char(abs(year), 'FM000000') end
$$;

-- 1 hh 2 mm 3 ss 4 mmm 5 DD 6 MM 7 YYYY 8 Mon 9 Jan 10 year 11 M 12 D 13 era's year 14 h 15 AM
create or replace function hotmesh._date_written(ms double precision, pattern text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_parts constant double precision[] := hotmesh._date_parts(ms);
    v_weekday constant text :=
        ('{Sun,Mon,Tue,Wed,Thu,Fri,Sat}'::text[])[v_parts[8]::integer + 1];
    v_month constant text := ('{Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec}'::text[])[
        v_parts[2]::integer + 1];
    v_year constant integer := v_parts[1];
begin
    return format(
        pattern, to_char(v_parts[4], 'FM00'), to_char(v_parts[5], 'FM00'),
        to_char(v_parts[6], 'FM00'), to_char(v_parts[7], 'FM000'),
        to_char(v_parts[3], 'FM00'), to_char(v_parts[2] + 1, 'FM00'),
        hotmesh._date_year(v_year), v_weekday, v_month,
        case when v_year < 0 then '-' else '' end
            || lpad(abs(v_year)::text, greatest(length(abs(v_year)::text), 4), '0'),
        v_parts[2] + 1, v_parts[3],
        case when v_year < 1 then 1 - v_year else v_year end,
        (v_parts[4]::integer + 11) % 12 + 1, case when v_parts[4] < 12 then 'AM' else 'PM' end);
end
$$;

create or replace function hotmesh._date_from_iso_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then hotmesh._value_pack(v_ms)
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_iso_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then hotmesh._pipe_refuse(
                    'date.toISOString needs a date', left(date::text, 100))
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_json(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then 'null'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%7$s-%6$s-%5$sT%1$s:%2$s:%3$s.%4$sZ')) end;
end
$$;

create or replace function hotmesh._date_to_date_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%8$s %9$s %5$s %10$s')) end;
end
$$;

create or replace function hotmesh._date_to_string(date jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return case when v_ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v_ms, '%8$s %9$s %5$s %10$s %1$s:%2$s:%3$s'
                    ' GMT+0000 (Coordinated Universal Time)')) end;
end
$$;

create or replace function hotmesh._date_to_isox_string(date jsonb default null)
returns jsonb
language plpgsql
volatile
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(coalesce(date, hotmesh._date_now()));
begin
    if v_ms = 'NaN' then
        return hotmesh._pipe_refuse('date.toISOXString needs a date', left(date::text, 100));
    end if;
    return to_jsonb(hotmesh._date_written(v_ms, '%7$s%6$s%5$s%1$s%2$s%3$s.%4$s'));
end
$$;

create or replace function hotmesh._date_yyyymmdd(date jsonb default null)
returns jsonb
language sql
volatile
as $$
    select to_jsonb(left(hotmesh._date_to_isox_string(date) #>> '{}', -10))
$$;

create or replace function hotmesh._date_locale(locale jsonb, options jsonb, what text)
returns boolean
language sql
immutable
parallel safe
as $$
    select coalesce(locale, 'null') in ('null', '"en-US"', '["en-US"]')
        and coalesce(options, 'null') in ('null', '{}', '{"timeZone": "UTC"}')
        or hotmesh._pipe_refuse(
            format('%s knows en-US in UTC alone', what),
            left(concat(locale, ' ', options), 100)) is null
$$;

create or replace function hotmesh._date_to_locale_date_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%11$s/%12$s/%13$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleDateString')
$$;

create or replace function hotmesh._date_to_locale_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%11$s/%12$s/%13$s, %14$s:%2$s:%3$s %15$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleString')
$$;

create or replace function hotmesh._date_to_locale_time_string(
    date jsonb, locale jsonb default null, options jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when v.ms = 'NaN' then '"Invalid Date"'::jsonb
                else to_jsonb(hotmesh._date_written(
                    v.ms, '%14$s:%2$s:%3$s %15$s')) end
    from (values (hotmesh._date_ms(date))) v (ms)
    where hotmesh._date_locale(locale, options, 'date.toLocaleTimeString')
$$;

create or replace function hotmesh._date_parse(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_read(hotmesh._value_text(date)))
$$;

create or replace function hotmesh._date_get_time(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_ms(date))
$$;

create or replace function hotmesh._symbol_date()
returns jsonb
language sql
volatile
as $$
    select hotmesh._date_from_iso_string(hotmesh._date_now())
$$;

-- 19_calendar.sql
create or replace function hotmesh._date_part(date jsonb, at integer)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms constant double precision := hotmesh._date_ms(date);
begin
    return hotmesh._value_pack(
        case when v_ms = 'NaN' then v_ms else (hotmesh._date_parts(v_ms))[at] end);
end
$$;

create or replace function hotmesh._date_get_timezone_offset(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when hotmesh._date_ms(date) = 'NaN' then hotmesh._value_pack('NaN')
                else '0'::jsonb end
$$;

create or replace function hotmesh._date_get_utc_full_year(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 1)
$$;

create or replace function hotmesh._date_get_utc_month(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 2)
$$;

create or replace function hotmesh._date_get_utc_date(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 3)
$$;

create or replace function hotmesh._date_get_utc_hours(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 4)
$$;

create or replace function hotmesh._date_get_utc_minutes(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 5)
$$;

create or replace function hotmesh._date_get_utc_seconds(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 6)
$$;

create or replace function hotmesh._date_get_utc_milliseconds(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 7)
$$;

create or replace function hotmesh._date_get_utc_day(date jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_part(date, 8)
$$;

-- With other parts from a place on; what is undefined, but for the first, stays.
create or replace function hotmesh._date_change(date jsonb, first integer, given jsonb[])
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_ms double precision := hotmesh._date_ms(date);
    v_parts double precision[];
begin
    if v_ms = 'NaN' and first = 1 then
        v_ms := 0;
    elsif v_ms = 'NaN' then
        return hotmesh._value_pack(v_ms);
    end if;
    v_parts := hotmesh._date_parts(v_ms);
    for n in 1..cardinality(given) loop
        if n = 1 or given[n] is not null then
            v_parts[first + n - 1] := trunc(hotmesh._value_number(given[n]));
        end if;
    end loop;
    return hotmesh._value_pack(hotmesh._date_make(v_parts));
end
$$;

create or replace function hotmesh._date_set_utc_full_year(
    date jsonb, year jsonb default null, month jsonb default null, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 1, array[year, month, day])
$$;

create or replace function hotmesh._date_set_utc_month(
    date jsonb, month jsonb default null, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 2, array[month, day])
$$;

create or replace function hotmesh._date_set_utc_date(date jsonb, day jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 3, array[day])
$$;

create or replace function hotmesh._date_set_utc_hours(
    date jsonb, hours jsonb default null, minutes jsonb default null, seconds jsonb default
    null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 4, array[hours, minutes, seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_minutes(
    date jsonb, minutes jsonb default null, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 5, array[minutes, seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_seconds(
    date jsonb, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 6, array[seconds, ms])
$$;

create or replace function hotmesh._date_set_utc_milliseconds(date jsonb, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._date_change(date, 7, array[ms])
$$;

create or replace function hotmesh._date_set_time(date jsonb, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_clip(hotmesh._value_number(ms)))
$$;

create or replace function hotmesh._date_utc(
    year jsonb, month jsonb default null, day jsonb default null, hours jsonb default null,
    minutes jsonb default null, seconds jsonb default null, ms jsonb default null)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._value_pack(hotmesh._date_make(array[
        case when p.n[1] between 0 and 99 then 1900 + p.n[1] else p.n[1] end,
        p.n[2], p.n[3], p.n[4], p.n[5], p.n[6], p.n[7]]))
    from (
        select array_agg(trunc(hotmesh._value_number(a.value)) order by a.n)
        from unnest(array[
            year, coalesce(month, '0'), coalesce(day, '1'), coalesce(hours, '0'),
            coalesce(minutes, '0'), coalesce(seconds, '0'), coalesce(ms, '0')])
            with ordinality a (value, n)) p (n)
$$;

-- 20_graph.sql
-- The topics that graphs answer, or that their hooks wait for.
create or replace function hotmesh._graph_topics(kind text)
returns table (topic text, state text)
language plpgsql
stable
as $$
begin
    return query
    select t.topic, g.state
    from graphs g
    cross join lateral (
        select g.topic where kind = 'graph'
        union all
        select k from jsonb_object_keys(g.document #> '{graph,hooks}') k where kind = 'hook'
    ) t (topic);
end
$$;

create or replace function hotmesh._graph_refuse_unknown(topic text, kind text)
returns void
language plpgsql
as $$
declare
    v_known text := (
        select string_agg(distinct coalesce(nullif(t.topic, ''), '(every topic)'), ', ')
        from hotmesh._graph_topics(kind) t where t.state = 'active');
    v_state text := (
        select min(t.state) from hotmesh._graph_topics(kind) t
        where t.topic = _graph_refuse_unknown.topic);
begin
    raise exception 'no % answers topic %', kind, hotmesh._named(topic) using
        errcode = 'MSH22',
        detail = case
            when v_known is not null then format('Active topics: %s.', left(v_known, 500))
            when kind = 'hook' then 'No hook of an active graph waits for a topic.'
            else 'No graph is active.' end,
        hint = case
            when v_state = 'deployed' then 'It was deployed; activate its version.'
            when v_state = 'retired' then 'The version that had it was replaced by one without it.'
            when kind = 'hook' then 'Deploy a graph whose hooks have it, and activate its version.'
            else 'Deploy a graph that subscribes to it, and activate its version.' end;
end
$$;

-- The graph that answers a topic, or, when nobody does, the one without a topic.
create or replace function hotmesh._graph_find(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs;
begin
    select (g::hotmesh.graphs).* into v_graph
    from graphs g
    where g.state = 'active' and g.topic = any (array[_graph_find.topic, ''])
    order by g.topic desc
    limit 1;
    return v_graph;
end
$$;

-- Whether a graph of its own answers a topic; refused if one did or would, and is not active.
create or replace function hotmesh._graph_answers(topic text)
returns boolean
language plpgsql
stable
as $$
declare
    v_active boolean := (
        select bool_or(g.state = 'active') from graphs g where g.topic = _graph_answers.topic);
begin
    if not v_active then
        perform hotmesh._graph_refuse_unknown(topic, 'graph');
    end if;
    return coalesce(v_active, false);
end
$$;

create or replace function hotmesh._graph_get(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_find(topic);
begin
    if v_graph.id is null then
        perform hotmesh._graph_refuse_unknown(topic, 'graph');
    end if;
    return v_graph;
end
$$;

-- What graphs of other documents may be awaited, which of their hooks may be signalled.
create or replace function hotmesh._graph_known()
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'awaited', coalesce(jsonb_agg(distinct g.topic), '[]'),
            'signalled', coalesce(jsonb_agg(distinct h.topic) filter (where h.topic is not null),
                                  '[]'))
        from graphs g
        left join lateral jsonb_object_keys(g.document #> '{graph,hooks}') h (topic) on true
        where g.state <> 'retired');
end
$$;

create or replace function hotmesh._graph_name(id bigint)
returns text
language sql
stable
as $$
    select '_graph_' || id
$$;

-- Lays down what was deployed. A topic of this version that says the same is left as it is; one
-- that says something else takes its place, at once if it was active.
create or replace function hotmesh._graph_lay(graphs hotmesh.graphs[])
returns bigint[]
language plpgsql
as $$
declare
    v_active text[];
    v_laid bigint[];
begin
    with retired as (
        update graphs g set state = 'retired'
        from unnest(_graph_lay.graphs) n
        where g.topic = n.topic and g.version = n.version and g.state <> 'retired'
          and g.digest <> n.digest
        returning g.topic, (select o.state from graphs o where o.id = g.id) as before)
    select coalesce(array_agg(r.topic) filter (where r.before = 'active'), '{}') into v_active
    from retired r;
    with laid as (
        insert into graphs as g (
            id, topic, version, lone, state, publishes, document, plan, digest,
            deployed_by, created_at, activated_at)
        select n.id, n.topic, n.version, n.lone,
               case when n.topic = any (v_active) then 'active' else 'deployed' end, n.publishes,
               n.document, n.plan, n.digest, n.deployed_by, hotmesh.now(),
               case when n.topic = any (v_active) then hotmesh.now() end
        from unnest(_graph_lay.graphs) n
        where not exists (
            select from graphs o
            where o.topic = n.topic and o.version = n.version and o.state <> 'retired'
              and o.digest = n.digest)
        returning g.id)
    select coalesce(array_agg(l.id), '{}') into v_laid from laid l;
    return v_laid;
end
$$;

-- What a later engine knows of it.
create or replace function hotmesh._graph_replan(id bigint, plan jsonb)
returns void
language plpgsql
as $$
begin
    update graphs g set plan = _graph_replan.plan
    where g.id = _graph_replan.id and g.plan <> _graph_replan.plan;
end
$$;

-- New jobs take this version. What the app's other versions answered is answered no more; bare
-- graphs only make way for the same topic.
create or replace function hotmesh._graph_activate(version text)
returns void
language plpgsql
as $$
declare
    v_lone boolean := (
        select bool_and(g.lone) from graphs g
        where g.version = _graph_activate.version and g.state <> 'retired');
begin
    update graphs g set state = 'retired'
    where g.state = 'active' and g.version <> _graph_activate.version
      and (not g.lone and not v_lone
           or g.topic in (
               select n.topic from graphs n
               where n.version = _graph_activate.version and n.state = 'deployed'));
    update graphs g set state = 'active', activated_at = hotmesh.now()
    where g.version = _graph_activate.version and g.state = 'deployed';
end
$$;

-- Graphs that nobody can reach any more: replaced, and no open job runs by them.
create or replace function hotmesh._graph_forget()
returns bigint[]
language plpgsql
as $$
declare
    v_gone bigint[];
begin
    with gone as (
        delete from graphs g
        where g.state = 'retired' and not exists (
            select from jobs j where j.graph_id = g.id and j.closed_at is null)
        returning g.id)
    select coalesce(array_agg(g.id), '{}') into v_gone from gone g;
    return v_gone;
end
$$;

-- 20_mapping.sql
create or replace function hotmesh._mapping_common(a integer[], b integer[])
returns integer
language plpgsql
immutable
parallel safe
as $$
declare
    v_common integer := 0;
begin
    while a[v_common + 1] = b[v_common + 1] loop
        v_common := v_common + 1;
    end loop;
    return v_common;
end
$$;

-- Which of some instances is nearest to a dimension: the same path, a step before it, a branch of
-- it; of several the latest.
create or replace function hotmesh._mapping_nearest(instances jsonb, depth integer, d text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    v_d constant integer[] := string_to_array(substr(d, 2), ',')::integer[];
    v_guess constant text := ',' || array_to_string(
        (v_d || array_fill(0, array[depth + 1]))[1:depth + 1], ',');
begin
    if instances ? v_guess then
        return v_guess;
    end if;
    return (
        select i.dimension
        from jsonb_object_keys(instances) i (dimension)
        cross join lateral (values (
            string_to_array(substr(i.dimension, 2), ',')::integer[])) n (path)
        order by starts_with(d || ',', i.dimension || ',') desc,
                 hotmesh._mapping_common(n.path, v_d) desc, n.path desc
        limit 1);
end
$$;

-- What a reference to an activity finds.
create or replace function hotmesh._mapping_get(
    s jsonb, name text, depth integer, d text, path text[])
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_guess text := ',' || array_to_string((string_to_array(d, ','))[2:depth + 2], ',');
    v_value jsonb := s #> (array[name, v_guess] || path);
begin
    if v_value is null and not coalesce(s -> name ? v_guess, true) then
        return s #> (array[name, hotmesh._mapping_nearest(s -> name, depth, d)] || path);
    end if;
    return v_value;
end
$$;

create or replace function hotmesh._mapping_array(places integer[], vals jsonb[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select jsonb_agg(coalesce(e.value, 'null') order by n.n)
    from generate_series(0, (select max(p.place) from unnest(places) p (place))) n
    left join unnest(places, vals) e (place, value) on e.place = n.n
$$;

-- field[0], field[1] are items of the array field, up to the last defined one. An array in a lone
-- field[25] is the field: 25 only is how long it may become. field[-] and field[_] spread an
-- object into keys that begin with - or _.
create or replace function hotmesh._mapping_gather(keys text[], vals jsonb[])
returns jsonb
language sql
immutable
parallel safe
as $$
    with parts as (
        select coalesce(p.m[1], e.key) as field, p.m[2] as mark, e.value,
               count(*) over (partition by p.m[1]) as n
        from unnest(keys, vals) e (key, value)
        cross join lateral (values (
            regexp_match(e.key, '^(.*)\[([0-9]{1,4}|-|_)\]$'))) p (m)
        where e.value is not null
    ), fields as (
        select p.field, p.value from parts p where p.mark is null
        union all
        select p.mark || ltrim(o.key, p.mark), o.value
        from parts p
        cross join lateral jsonb_each(
            case when jsonb_typeof(p.value) = 'object' then p.value else '{}' end) o
        where p.mark in ('-', '_')
        union all
        select p.field, case when count(*) = 1 and max(p.mark) <> '0'
                                 and jsonb_typeof(min(p.value::text)::jsonb) = 'array'
                             then min(p.value::text)::jsonb
                             else hotmesh._mapping_array(
                                array_agg(p.mark::integer), array_agg(p.value)) end
        from parts p
        where p.mark ~ '[0-9]'
        group by p.field
    )
    select coalesce(jsonb_object_agg(f.field, f.value), '{}') from fields f
$$;

create or replace function hotmesh._mapping_items(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case jsonb_typeof(value)
           when 'array' then value
           when 'object' then hotmesh._object_values(value)
           else '[]' end
$$;

create or replace function hotmesh._mapping_keys(value jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case jsonb_typeof(value)
           when 'array' then (
               select coalesce(jsonb_agg(n::text), '[]')
               from generate_series(0, jsonb_array_length(value) - 1) n)
           when 'object' then hotmesh._object_keys(value)
           else '[]' end
$$;

-- 21_fault.sql
-- An object without its null fields.
create or replace function hotmesh._fault_bare(value jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(value) = 'object' then (
        select coalesce(jsonb_object_agg(e.key, e.value), '{}')
        from jsonb_each(value) e
        where e.value <> 'null') else value end
$$;

-- A transition or a rule as {"to": …}.
create or replace function hotmesh._fault_normal_item(item jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(item) = 'string' then jsonb_build_object('to', item)
                when jsonb_typeof(item -> 'conditions') = 'object'
                then hotmesh._fault_bare(item) || jsonb_build_object(
                    'conditions', hotmesh._fault_bare(item -> 'conditions'))
                else hotmesh._fault_bare(item) end
$$;

-- Transitions and rules as lists.
create or replace function hotmesh._fault_normal_lists(lists jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(lists) <> 'object' then lists
                else (
        select coalesce(jsonb_object_agg(e.key, case
            when jsonb_typeof(e.value) = 'array' then (
                select coalesce(jsonb_agg(hotmesh._fault_normal_item(i.item) order by i.n), '[]')
                from jsonb_array_elements(e.value) with ordinality i (item, n))
            when jsonb_typeof(e.value) = 'string' or e.value -> 'to' is not null
            then jsonb_build_array(hotmesh._fault_normal_item(e.value))
            else e.value end), '{}')
        from jsonb_each(lists) e
        where e.value not in ('null', '[]')) end
$$;

create or replace function hotmesh._fault_normal_activity(about jsonb)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(about) <> 'object' then about
                else (
        select coalesce(jsonb_object_agg(e.key, case
            when e.key = 'type' and e.value = '"activity"' then '"hook"'
            when e.key in ('input', 'output', 'job', 'hook', 'signal', 'resolver', 'stats')
            then hotmesh._fault_bare(e.value)
            else e.value end), '{}')
        from jsonb_each(about) e
        where e.value <> 'null') end
$$;

create or replace function hotmesh._fault_normal_graph(graph jsonb, subscribes text)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(graph) <> 'object' then graph
                else hotmesh._fault_bare(graph - '{inputs,outputs}'::text[])
                    || jsonb_strip_nulls(jsonb_build_object('subscribes', coalesce(
                        nullif(graph -> 'subscribes', 'null'), to_jsonb(subscribes))))
                    || jsonb_build_object(
                        'transitions', coalesce(hotmesh._fault_normal_lists(
                            nullif(graph -> 'transitions', 'null')), '{}'),
                        'hooks', coalesce(hotmesh._fault_normal_lists(
                            nullif(graph -> 'hooks', 'null')), '{}'))
                    || case when jsonb_typeof(graph -> 'activities') is distinct from 'object'
                            then '{}' else jsonb_build_object('activities', (
                        select coalesce(jsonb_object_agg(
                            a.key, hotmesh._fault_normal_activity(a.value)), '{}')
                        from jsonb_each(graph -> 'activities') a)) end end
$$;

-- {"app": {"id", "version", "settings", "graphs": [...]}}. A bare graph has neither id nor version;
-- it may be given its topic.
create or replace function hotmesh._fault_normal(document jsonb, subscribes text)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_app jsonb := document -> 'app';
    v_own constant text[] := '{id, version, graphs, settings, title, description, metadata,
        telemetry}';
begin
    if jsonb_typeof(document) <> 'object' then
        return document;
    elsif v_app is null and document -> 'graphs' is null then
        return jsonb_build_object('app', jsonb_build_object(
            'id', document -> 'id', 'version', document -> 'version',
            'settings', coalesce(document -> 'settings', '{}'),
            'graphs', jsonb_build_array(hotmesh._fault_normal_graph(
                document - '{id, version, settings}'::text[], coalesce(subscribes, '')))));
    end if;
    v_app := coalesce(v_app, document);
    if jsonb_typeof(v_app) <> 'object' then
        return document;
    elsif v_app -> 'graphs' is null and v_app -> 'activities' is not null then
        v_app := v_app - array(
                select k.name from jsonb_object_keys(v_app) k (name) where k.name <> all (v_own))
            || jsonb_build_object('graphs', jsonb_build_array(v_app - v_own));
    elsif v_app #> '{graphs,activities}' is not null then
        v_app := v_app || jsonb_build_object('graphs', jsonb_build_array(v_app -> 'graphs'));
    end if;
    if jsonb_typeof(v_app -> 'graphs') = 'array' then
        v_app := v_app || jsonb_build_object('graphs', (
            select coalesce(jsonb_agg(hotmesh._fault_normal_graph(
                g.graph, case when jsonb_array_length(v_app -> 'graphs') = 1 then subscribes end)
                order by g.n), '[]')
            from jsonb_array_elements(v_app -> 'graphs') with ordinality g (graph, n)));
    end if;
    return case when document -> 'app' is null then '{}' else document end
        || jsonb_build_object('app', v_app);
end
$$;

create or replace function hotmesh._fault_graphs(document jsonb)
returns table (graph jsonb, n integer, path text)
language sql
immutable
as $$
    select g.graph, g.n::integer - 1, format('app.graphs[%s]', g.n - 1)
    from jsonb_array_elements(
        case when jsonb_typeof(document #> '{app,graphs}') = 'array'
             then document #> '{app,graphs}' else '[]' end) with ordinality g (graph, n)
$$;

-- What the values of a graph may mention.
create or replace function hotmesh._fault_scope(document jsonb, graph jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'app', (document -> 'app') - 'graphs', 'graph', graph,
        'activities', (
            select coalesce(jsonb_object_agg(a.id, 0), '{}')
            from hotmesh._flow_activities(graph) a),
        'types', (
            select coalesce(jsonb_object_agg(a.id, coalesce(a.type, '')), '{}')
            from hotmesh._flow_activities(graph) a),
        'awaited', (
            select coalesce(jsonb_agg(hotmesh._field_topic(
                coalesce(g.graph ->> 'subscribes', ''), document -> 'app')), '[]')
            from hotmesh._fault_graphs(document) g) || coalesce(document -> 'awaited', '[]'),
        'signalled', (
            select coalesce(jsonb_agg(hotmesh._field_topic(h.topic, document -> 'app')), '[]')
            from hotmesh._fault_graphs(document) g
            cross join lateral jsonb_object_keys(
                hotmesh._flow_part(g.graph, 'hooks')) h (topic))
            || coalesce(document -> 'signalled', '[]'))
$$;

create or replace function hotmesh._fault_types()
returns text[]
language sql
immutable
as $$
    select '{trigger, worker, await, hook, cycle, signal, interrupt, sql}'::text[]
$$;

create or replace function hotmesh._fault_activity(
    id text, about jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if id !~ '^[A-Za-z_][A-Za-z0-9_-]{0,99}$' then
        return query select path,
            'an id is letters, digits, _ and -, begins with a letter or _, and has at most 100';
    end if;
    if jsonb_typeof(about) = 'object'
        and coalesce(about ->> 'type' <> all (hotmesh._fault_types()), true)
    then
        return query select path || '.type',
            case when about ->> 'type' is null then 'it is missing; it is one of '
                else format('there is no type %s; near to it: %s; there are ',
                    hotmesh._field_shown(about -> 'type'), hotmesh._flow_nearest(
                        about ->> 'type', hotmesh._fault_types())) end
            || array_to_string(hotmesh._fault_types(), ', ');
        return;
    end if;
    return query
        select f.at, f.reason
        from hotmesh._field_object(array['activity', about ->> 'type'], about, scope, path) f
        union all
        select path || '.topic', 'it is missing: the topic of a graph, or a workflow beside it'
        where about ->> 'type' = 'await'
          and coalesce(about ->> 'topic', about ->> 'workflow') is null;
end
$$;

-- How long its jobs stay is computed as they start.
create or replace function hotmesh._fault_expire(expire jsonb, scope jsonb, path text)
returns table (at text, reason text)
language sql
stable
as $$
    select path, format('it mentions the activity %s, but is computed as a job starts: from what '
        'the trigger was given', left(r.names[1], 60))
    from jsonb_path_query(expire, 'lax $.** ? (@ starts with "{")') w (word)
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    where scope #>> array['types', r.names[1]] <> 'trigger'
    limit 1
$$;

create or replace function hotmesh._fault_graph(graph jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    return query
        select f.at, f.reason
        from hotmesh._field_object('{graph}', graph, scope, path) f
        union all
        select f.at, f.reason
        from hotmesh._fault_expire(graph -> 'expire', scope, path || '.expire') f
        union all
        select path || '.activities', format('it is %s, but has to be an object of activities',
            hotmesh._field_shown(graph -> 'activities'))
        where graph -> 'activities' = '{}' or jsonb_typeof(graph -> 'activities') <> 'object'
        union all
        select f.at, f.reason
        from hotmesh._flow_activities(graph) a
        cross join lateral hotmesh._fault_activity(
            a.id, a.about, scope, format('%s.activities.%s', path, left(a.id, 60))) f
        union all
        select f.at, f.reason
        from hotmesh._flow_faults(graph, path) f
        where hotmesh._flow_part(graph, 'activities') <> '{}';
end
$$;

-- What there is twice.
create or replace function hotmesh._fault_doubles(document jsonb)
returns table (at text, reason text)
language sql
immutable
as $$
    select format('app.graphs[%s].subscribes', d.n), format(
        'app.graphs[%s] subscribes to %s too; give each graph a topic of its own',
        d.first, to_json(d.topic))
    from (
        select g.n, g.graph ->> 'subscribes' as topic,
               min(g.n) over (partition by g.graph ->> 'subscribes') as first
        from hotmesh._fault_graphs(document) g) d
    where d.n > d.first and d.topic is not null
    union all
    select format('app.graphs[%s].activities.%s', d.n, d.id), format(
        'app.graphs[%s] has an activity %s too; give each an id of its own', d.first, d.id)
    from (
        select g.n, a.id, min(g.n) over (partition by a.id) as first
        from hotmesh._fault_graphs(document) g
        cross join lateral hotmesh._flow_activities(g.graph) a) d
    where d.n > d.first
$$;

-- What can't be read further.
create or replace function hotmesh._fault_form(document jsonb)
returns table (at text, reason text)
language plpgsql
immutable
as $$
begin
    if jsonb_typeof(document) is distinct from 'object' then
        return query select '', 'a document is an object: {"app": {…}} or a bare graph';
    elsif length(document::text) > 4000000 then
        return query select '', 'it takes more than 4000000 characters';
    elsif jsonb_path_exists(document, 'strict $.**{64}') then
        return query select '', 'it is nested more than 64 deep';
    elsif jsonb_typeof(document -> 'app') is distinct from 'object' then
        return query select 'app', 'it has to be an object with id, version and graphs';
    elsif coalesce(jsonb_typeof(document #> '{app,graphs}') <> 'array'
        or document #> '{app,graphs}' = '[]', true)
    then
        return query select 'app.graphs', 'it has to be a list of graphs';
    end if;
    return query
        select g.path || '.activities', 'there are more than 500'
        from hotmesh._fault_graphs(document) g
        where (select count(*) from hotmesh._flow_activities(g.graph)) > 500
        union all
        select g.path || '.transitions', 'there are more than 5000'
        from hotmesh._fault_graphs(document) g
        where (select count(*) from hotmesh._flow_edges(g.graph)) > 5000;
end
$$;

-- Everything that is wrong with the normal form of a document. `known` are topics of others: see
-- _graph_known.
create or replace function hotmesh._fault_list(document jsonb, known jsonb default '{}')
returns table (path text, reason text)
language plpgsql
stable
as $$
begin
    return query select f.at, f.reason from hotmesh._fault_form(document) f;
    if found then
        return;
    end if;
    return query
        select distinct ltrim(f.at, '.'), f.reason
        from (
            select o.at, o.reason
            from hotmesh._field_object('{document}', document, '{}', '') o
            union all
            select a.at, a.reason
            from hotmesh._field_object('{app}', document -> 'app', '{}', 'app') a
            where a.at not in ('app.id', 'app.version')
               or not document -> 'app' @> '{"id": null, "version": null}'
            union all
            select g.at, g.reason
            from hotmesh._fault_graphs(document) d
            cross join lateral hotmesh._fault_graph(
                d.graph, hotmesh._fault_scope(known || document, d.graph), d.path) g
            union all
            select d.at, d.reason from hotmesh._fault_doubles(document) d) f
        order by 1, 2;
end
$$;

-- 21_field.sql
-- name:kind; `!` has to be there. `free` is not read.
create or replace function hotmesh._field_catalogue()
returns table (place text, fields text)
language sql
immutable
as $$
    values
        ('document', 'app:free!'),
        ('app', 'id:id! version:version! settings:free graphs:graphs! title:free description:free '
            'metadata:free telemetry:free'),
        ('graph', 'subscribes:subscribes! publishes:topic expire:expire persistent:flag input:free '
            'output:free activities:activities! transitions:transitions hooks:hooks title:free '
            'description:free metadata:free settings:free telemetry:free'),
        ('activity', 'type:free topic:free title:free description:free metadata:free settings:free '
            'statusThreshold:number input:section output:section job:section hook:section '
            'emit:flag persist:flag sleep:duration cycle:flag expire:expire retry:retry '
            'telemetry:value entity:value escalation:value'),
        ('trigger', 'stats:stats'),
        ('worker', 'topic:topic! task_queue:value'),
        ('await', 'topic:awaited await:flag workflow:topic task_queue:value id:value'),
        ('hook', ''),
        ('cycle', 'ancestor:text!'),
        ('signal', 'topic:signalled! subtype:subtype status:value code:number signal:section '
            'key_name:value key_value:value resolver:section scrub:flag'),
        ('interrupt', 'target:value topic:awaited reason:value throw:flag code:number descend:flag '
            'stack:value'),
        ('sql', 'function:text!'),
        ('stats', 'id:value key:value parent:value adjacent:value granularity:granularity '
            'measures:measures'),
        ('measure', 'measure:measure! target:value!'),
        ('edge', 'to:target! conditions:conditions'),
        ('rule', 'to:waiting! conditions:conditions!'),
        ('conditions', 'gate:gate code:code match:match'),
        ('match', 'expected:value! actual:value!'),
        ('policy', 'maximum_attempts:attempts initial_interval:duration '
            'backoff_coefficient:number maximum_interval:duration non_retryable_error_types:free')
$$;

create or replace function hotmesh._field_known(places text[])
returns table (name text, kind text, needed boolean)
language sql
immutable
as $$
    select split_part(w.word, ':', 1), rtrim(split_part(w.word, ':', 2), '!'), w.word like '%!'
    from hotmesh._field_catalogue() f
    cross join lateral regexp_split_to_table(f.fields, ' ') w (word)
    where f.place = any (places) and w.word <> ''
$$;

-- A value as it is shown.
create or replace function hotmesh._field_shown(value jsonb)
returns text
language sql
immutable
as $$
    select case when length(value::text) > 60 then left(value::text, 60) || '…'
                else value::text end
$$;

-- Is it found out only while a job runs?
create or replace function hotmesh._field_is_dynamic(value jsonb)
returns boolean
language sql
immutable
as $$
    select value -> '@pipe' is not null
        or jsonb_typeof(value) = 'string'
           and coalesce(value #>> '{}' ~ '^\{.*\}$', false)
$$;

create or replace function hotmesh._field_is_duration(value jsonb)
returns boolean
language plpgsql
stable
as $$
begin
    perform hotmesh._duration(value, 'it');
    return true;
exception when invalid_parameter_value or datetime_field_overflow then
    return false;
end
$$;

-- A code or a pattern of codes, in which * is a digit.
create or replace function hotmesh._field_is_code(value jsonb)
returns boolean
language plpgsql
immutable
as $$
begin
    return value::text ~ '^([0-9]{1,6}|"[0-9*|().[\]-]{1,40}")$'
        and coalesce('200' ~ replace(value #>> '{}', '*', '[0-9]'), true) is not null;
exception when invalid_regular_expression then
    return false;
end
$$;

create or replace function hotmesh._field_choices(kind text)
returns text[]
language sql
immutable
as $$
    select (jsonb_build_object(
        'subtype', '{one, all}', 'gate', '{and, or}',
        'granularity', '{5m, 10m, 15m, 30m, 1h, infinity}',
        'measure', '{count, sum, avg, mdn, max, min, index}') ->> kind)::text[]
$$;

-- What a value that stands as it is must be; null: it is.
create or replace function hotmesh._field_rule(kind text, value jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_text constant text := case when jsonb_typeof(value) = 'string' then value #>> '{}' end;
begin
    return case
        when kind in ('text', 'topic', 'awaited', 'signalled', 'target', 'waiting', 'subscribes')
        then case when coalesce(v_text !~ '^([^[:cntrl:][:space:]]|[^[:cntrl:]]{0,250}\S)?$'
                or v_text ~ '^\s' or v_text = '' and kind <> 'subscribes', true)
                  then 'a text on one line, of at most 250 characters, not padded' end
        when kind = 'flag' and jsonb_typeof(value) <> 'boolean' then 'true, false or a @pipe'
        when kind = 'number' and jsonb_typeof(value) <> 'number' then 'a number or a @pipe'
        when kind = 'duration' and not hotmesh._field_is_duration(value)
        then 'seconds, a duration such as "30 days" or "1.5h", or a @pipe'
        when kind = 'expire' and value <> '-1' and not hotmesh._field_is_duration(value)
        then 'seconds, a duration such as "30 days", a @pipe, or -1 for ever'
        when kind = 'attempts' and value::text !~ '^[1-9][0-9]{0,5}$'
        then 'a whole number from 1 to 999999: it counts executions'
        when kind = 'id' and coalesce(v_text !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$', true)
        then 'the name of an app: letters, digits, - and _'
        when kind = 'version' and jsonb_typeof(value) = 'number'
        then 'a text: put it in quotes, as 1.10 is read as 1.1'
        when kind = 'version' and coalesce(v_text !~ '^[0-9]{1,18}([.][0-9]{1,18})?$', true)
        then 'a number in quotes, such as "1" or "2.5"'
        when v_text <> all (hotmesh._field_choices(kind))
            or v_text is null and hotmesh._field_choices(kind) is not null
        then 'one of ' || array_to_string(hotmesh._field_choices(kind), ', ')
        when kind = 'code' and not hotmesh._field_is_code(value)
        then 'a code such as 500, a pattern such as "5**", or a list of them' end;
end
$$;

-- A topic as it is heard: one that begins with a dot is the app's own.
create or replace function hotmesh._field_topic(topic text, app jsonb)
returns text
language sql
immutable
as $$
    select case when topic like '.%' then coalesce(app ->> 'id', '') else '' end || topic
$$;

-- What is wrong with a name that means something else in the document.
create or replace function hotmesh._field_name(kind text, value jsonb, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_name constant text := value #>> '{}';
    v_type constant text := scope #>> array['types', v_name];
    v_known constant text[] := array(select jsonb_array_elements_text(scope -> kind));
begin
    if kind in ('target', 'waiting') and v_type is null then
        return format('there is no activity %s in this graph; near to it: %s', left(v_name, 60),
            hotmesh._flow_nearest(v_name, array(select jsonb_object_keys(scope -> 'types'))));
    elsif kind = 'waiting' and v_type <> 'hook' then
        return format('%s is of type %s; signals are for activities of type hook', v_name, v_type);
    elsif kind in ('awaited', 'signalled') and '' <> all (v_known)
        and hotmesh._field_topic(v_name, scope -> 'app') <> all (v_known)
    then
        return format(
            case kind when 'awaited'
                 then 'no graph of the document subscribes to %s; near to it: %s; '
                      'workflow and task_queue await a workflow in code'
                 else 'no hooks of the document wait for %s; near to it: %s' end,
            left(v_name, 60), hotmesh._flow_nearest(v_name, v_known));
    end if;
    return null;
end
$$;

-- A value of one of the kinds without parts.
create or replace function hotmesh._field_plain(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
declare
    v_rule text;
begin
    if kind in ('topic', 'awaited', 'signalled', 'flag', 'number', 'duration', 'expire', 'value')
        and (kind = 'value' or hotmesh._field_is_dynamic(value))
    then
        return query select f.at, f.reason from hotmesh._reference_faults(value, scope, path) f;
        return;
    end if;
    v_rule := hotmesh._field_rule(kind, value);
    return query
        select path, f.reason
        from (values (case when v_rule is null then hotmesh._field_name(kind, value, scope)
            else format('it is %s, but has to be %s', hotmesh._field_shown(value), v_rule)
            end)) f (reason)
        where f.reason is not null;
end
$$;

-- {"schema": …, "maps": {…}}; what stands under a code is documentation.
create or replace function hotmesh._field_section(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language sql
stable
as $$
    select path, format('it is %s, but has to be an object with schema and maps',
        hotmesh._field_shown(value))
    where jsonb_typeof(value) <> 'object'
    union all
    select path || '.' || left(e.key, 60), case e.key
        when 'maps' then format('it is %s, but has to be an object of fields',
            hotmesh._field_shown(e.value))
        else 'unknown field; there are schema and maps' end
    from jsonb_each(hotmesh._flow_part(jsonb_build_object('v', value), 'v')) e
    where e.key !~ '^(schema|maps|title|description|[0-9]{3})$'
       or e.key = 'maps' and jsonb_typeof(e.value) not in ('object', 'null')
          and not hotmesh._field_is_dynamic(e.value)
    union all
    select f.at, f.reason
    from hotmesh._reference_faults(value -> 'maps', scope, path || '.maps') f
$$;

-- {"500": [3]}: at most three retries; or a policy.
create or replace function hotmesh._field_retry(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'object' or value = '{}' or not exists (
        select from jsonb_object_keys(value) k (code) where k.code !~ '^[0-9*|().^$[\]-]+$')
    then
        return query
            select path, format('it is %s, but has to be {"500": [3]} or a policy such as '
                '{"maximum_attempts": 3}', hotmesh._field_shown(value))
            where jsonb_typeof(value) <> 'object' or exists (
                select from jsonb_each(value) e
                where jsonb_typeof(e.value) <> 'array'
                   or coalesce((e.value -> 0)::text !~ '^[0-9]{1,6}$', true));
        return;
    end if;
    return query
        select f.at, f.reason from hotmesh._field_object('{policy}', value, scope, path) f;
end
$$;

create or replace function hotmesh._field_items(place text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'array' or value = '[]' then
        return query select path, format('it is %s, but has to be a list of objects',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_array_elements(value) with ordinality e (item, n)
        cross join lateral hotmesh._field_object(
            array[place], e.item, scope, format('%s[%s]', path, e.n - 1)) f;
end
$$;

-- Lists by the name of an activity (transitions) or of a topic (hooks).
create or replace function hotmesh._field_lists(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
declare
    v_name constant text := case kind when 'hooks' then 'topic' else 'target' end;
    v_item constant text := case kind when 'hooks' then 'rule' else 'edge' end;
begin
    if jsonb_typeof(value) <> 'object' then
        return query select path, format('it is %s, but has to be an object of lists',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_each(value) e
        cross join lateral (values (path || '.' || left(e.key, 60))) p (path)
        cross join lateral (
            select n.at, n.reason
            from hotmesh._field_plain(v_name, to_jsonb(e.key), scope, p.path) n
            union all
            select i.at, i.reason
            from hotmesh._field_items(v_item, e.value, scope, p.path) i) f;
end
$$;

-- A value of any kind.
create or replace function hotmesh._field_value(kind text, value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if kind = 'free' or value is null or value = 'null' and kind <> 'value' then
        return;
    end if;
    return query select f.at, f.reason
        from hotmesh._field_plain(kind, value, scope, path) f
        where kind not in ('section', 'retry', 'stats', 'conditions', 'measures', 'match',
            'transitions', 'hooks', 'activities', 'graphs') and not (
                kind = 'code' and jsonb_typeof(value) = 'array' and value <> '[]')
        union all
        select f.at, f.reason
        from jsonb_path_query(value, 'strict $[*]', silent => true) c (code)
        cross join lateral hotmesh._field_plain(kind, c.code, scope, path) f
        where kind = 'code'
        union all
        select f.at, f.reason from hotmesh._field_section(value, scope, path) f
        where kind = 'section'
        union all
        select f.at, f.reason from hotmesh._field_retry(value, scope, path) f
        where kind = 'retry'
        union all
        select f.at, f.reason from hotmesh._field_object(array[kind], value, scope, path) f
        where kind in ('stats', 'conditions')
        union all
        select f.at, f.reason
        from hotmesh._field_items(rtrim(kind, 's'), value, scope, path) f
        where kind in ('measures', 'match')
        union all
        select f.at, f.reason from hotmesh._field_lists(kind, value, scope, path) f
        where kind in ('transitions', 'hooks');
end
$$;

-- The fields of an object.
create or replace function hotmesh._field_object(
    places text[], value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
as $$
begin
    if jsonb_typeof(value) <> 'object' then
        return query select path, format('it is %s, but has to be an object',
            hotmesh._field_shown(value));
        return;
    end if;
    return query
        select path || '.' || left(e.key, 60), format('unknown field; near to it: %s',
            hotmesh._flow_nearest(e.key, array(select k.name from hotmesh._field_known(places) k)))
        from jsonb_each(value) e
        where not exists (
            select from hotmesh._field_known(places) k where k.name = e.key)
        union all
        select path || '.' || k.name, 'it is missing'
        from hotmesh._field_known(places) k
        where k.needed and (
            value -> k.name is null or value -> k.name = 'null' and k.kind <> 'value')
        union all
        select f.at, f.reason
        from hotmesh._field_known(places) k
        cross join lateral hotmesh._field_value(
            k.kind, value -> k.name, scope, path || '.' || k.name) f;
end
$$;

-- 21_flow.sql
-- A part of an object, if it is an object too.
create or replace function hotmesh._flow_part(value jsonb, name text)
returns jsonb
language sql
immutable
as $$
    select case when jsonb_typeof(value -> name) = 'object' then value -> name else '{}' end
$$;

create or replace function hotmesh._flow_nearest(word text, words text[])
returns text
language sql
immutable
as $$
    select coalesce(min(n.word), 'nothing')
    from (
        select w.word from unnest(words) w (word)
        order by hotmesh._pipe_distance(
            lower(left(_flow_nearest.word, 40)), lower(left(w.word, 40))), 1
        limit 1) n
$$;

create or replace function hotmesh._flow_edges(graph jsonb)
returns table (origin text, target text, place integer)
language sql
immutable
as $$
    select t.key, e.edge ->> 'to', e.n::integer - 1
    from jsonb_each(hotmesh._flow_part(graph, 'transitions')) t
    cross join lateral jsonb_array_elements(
        case when jsonb_typeof(t.value) = 'array' then t.value else '[]' end)
        with ordinality e (edge, n)
    where jsonb_typeof(e.edge -> 'to') = 'string'
$$;

create or replace function hotmesh._flow_activities(graph jsonb)
returns table (id text, type text, about jsonb)
language sql
immutable
as $$
    select a.key, a.value ->> 'type', a.value
    from jsonb_each(hotmesh._flow_part(graph, 'activities')) a
$$;

-- Every way, however long, from an activity to another one.
create or replace function hotmesh._flow_ways(graph jsonb)
returns table (origin text, target text)
language sql
immutable
as $$
    with recursive edges as materialized (
        select distinct e.origin, e.target from hotmesh._flow_edges(graph) e
    ), ways as (
        select e.origin, e.target from edges e
        union
        select w.origin, e.target from ways w join edges e on e.origin = w.target
    )
    select w.origin, w.target from ways w
$$;

create or replace function hotmesh._flow_trigger_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    select path || '.activities', case when count(*) = 0
        then 'a graph begins with one activity of type trigger; this one has none'
        else format('a graph has one trigger; these are %s: %s',
            count(*), string_agg(a.id, ', ' order by a.id)) end
    from hotmesh._flow_activities(graph) a
    where a.type = 'trigger'
    having count(*) <> 1
$$;

create or replace function hotmesh._flow_cycle_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    select format('%s.activities.%s.ancestor', path, a.id), case
        when n.id is null
        then format('there is no activity %s; near to it: %s', a.about ->> 'ancestor',
            hotmesh._flow_nearest(a.about ->> 'ancestor', array(
                select i.id from hotmesh._flow_activities(graph) i)))
        when n.type = 'trigger'
        then 'a cycle can''t go back to the trigger; let it go back to a hook after it'
        else format('%s is no ancestor of %s: no transitions lead from it to here',
            n.id, a.id) end
    from hotmesh._flow_activities(graph) a
    left join hotmesh._flow_activities(graph) n on n.id = a.about ->> 'ancestor'
    where a.type = 'cycle' and jsonb_typeof(a.about -> 'ancestor') = 'string'
      and (n.id is null or n.type = 'trigger' or not exists (
          select from hotmesh._flow_ways(graph) w
          where w.origin = n.id and w.target = a.id))
    union all
    select format('%s.transitions.%s', path, a.id),
           'a cycle goes on at its ancestor; it has no transitions of its own'
    from hotmesh._flow_activities(graph) a
    where a.type = 'cycle' and exists (
        select from hotmesh._flow_edges(graph) e where e.origin = a.id)
$$;

create or replace function hotmesh._flow_faults(graph jsonb, path text)
returns table (at text, reason text)
language sql
immutable
as $$
    with activities as (select a.id, a.type from hotmesh._flow_activities(graph) a),
    ways as materialized (select w.origin, w.target from hotmesh._flow_ways(graph) w)
    select path || '.transitions', format(
        'transitions lead back: %s; only an activity of type cycle goes back',
        string_agg(w.origin, ', ' order by w.origin))
    from ways w
    where w.origin = w.target
    having count(*) > 0
    union all
    select format('%s.activities.%s', path, a.id),
           'no transition leads here from the trigger'
    from activities a
    where a.type <> 'trigger' and exists (select from activities t where t.type = 'trigger')
      and not exists (
          select from ways w join activities t on t.id = w.origin and t.type = 'trigger'
          where w.target = a.id)
    union all
    select f.at, f.reason from hotmesh._flow_trigger_faults(graph, path) f
    union all
    select f.at, f.reason from hotmesh._flow_cycle_faults(graph, path) f
    union all
    select format('%s.transitions.%s[%s].to', path, e.origin, e.place),
           'nothing leads to a trigger: it is where the graph begins'
    from hotmesh._flow_edges(graph) e
    join activities a on a.id = e.target and a.type = 'trigger'
$$;

-- 21_reference.sql
-- The names of a reference; null: the text is none.
create or replace function hotmesh._reference_parse(word text)
returns text[]
language sql
immutable
parallel safe
as $$
    select case when word ~ '^\{\s*[$@]?[A-Za-z_][A-Za-z0-9_-]*\s*(\.[^.{}"\n]+)*\}$'
                then regexp_split_to_array(
                    btrim(substr(word, 2, length(word) - 2), E' \t\n'), '\s*\.\s*') end
$$;

create or replace function hotmesh._reference_function(domain text, name text)
returns table (target text, fewest integer, most integer)
language sql
stable
parallel safe
as $$
    select 'hotmesh.' || t.target, p.pronargs - p.pronargdefaults,
           case when p.provariadic = 0 then p.pronargs::integer end
    from hotmesh._pipe_names() n
    cross join lateral regexp_split_to_table(n.names, ' ') w (word)
    cross join lateral hotmesh._pipe_target(
        n.domain, coalesce(nullif(split_part(w.word, '=', 2), ''), w.word)) t (target)
    cross join lateral (
        select p.pronargs, p.pronargdefaults, p.provariadic
        from pg_proc p
        where p.proname = t.target and p.pronamespace = 'hotmesh'::regnamespace
        limit 1) p
    where n.domain = _reference_function.domain
      and split_part(w.word, '=', 1) = _reference_function.name
$$;

-- What is known of an instance beside its data: its activity, type and topic, where it lies on the
-- way, when it was created and updated, the code of its answer, its error.
create or replace function hotmesh._reference_metadata_fault(word text, names text[])
returns text
language sql
immutable
parallel safe
as $$
    select format('%s finds nothing: the metadata of an activity are aid, atp, stp, dad, ac, au, '
        'code and err', word)
    where names[1] = 'metadata'
      and names[2] not in ('aid', 'atp', 'stp', 'dad', 'ac', 'au', 'code', 'err')
$$;

-- What is wrong with a reference; null: nothing.
create or replace function hotmesh._reference_fault(word text, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(word);
    v_root constant text := v_names[1];
begin
    if v_names is null then
        return case when word ~ '^\{\s*[$@][A-Za-z_].*\}$'
                    then format('%s is no reference; write {name.output.data.field}', word) end;
    elsif v_root like '@%' then
        return case
            when cardinality(v_names) <> 2
            then format('%s is no function; write {@domain.name}', word)
            when not exists (
                select from hotmesh._reference_function(substr(v_root, 2), v_names[2]))
            then format('there is no function %s; near to it: %s', word,
                hotmesh._pipe_nearest(substr(v_root, 2), v_names[2])) end;
    elsif v_root in ('$item', '$key', '$index', '$input', '$output') then
        return case when not scope ? 'reduce'
                    then format('%s has a meaning only inside @reduce', word) end;
    elsif v_root like '$%' then
        return case when v_root not in ('$self', '$job', '$hook', '$app', '$graph')
                    then format('there is no %s; a reference begins with an activity, $self, '
                        '$job, $hook, $app or $graph', word)
                    when v_root in ('$app', '$graph')
                        and scope #> (substr(v_root, 2) || v_names[2:]) is null
                    then format('%s finds nothing in the document', word)
                    else hotmesh._reference_metadata_fault(
                        word, v_names[case v_root when '$self' then 3 when '$hook' then 2 end:])
                    end;
    elsif not scope -> 'activities' ? v_root then
        return format('%s mentions the activity %s, which is not in this graph', word, v_root);
    end if;
    return case when v_names[2] not in ('output', 'input', 'hook')
                    or v_names[3] not in ('data', 'metadata')
                then format('%s finds nothing: an activity has output, input and hook, and each '
                    'has data and metadata', word)
                else hotmesh._reference_metadata_fault(word, v_names[3:]) end;
end
$$;

create or replace function hotmesh._reference_faults(value jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(value) = 'string' then
        return query
            select path, f.reason
            from (values (hotmesh._reference_fault(value #>> '{}', scope))) f (reason)
            where f.reason is not null;
    elsif value -> '@pipe' is not null then
        return query
            select path, '@pipe stands alone: nothing can be beside it'
            where value - '@pipe' <> '{}'
            union all
            select f.at, f.reason
            from hotmesh._reference_pipe_faults(value -> '@pipe', scope, path || '.@pipe') f;
    elsif jsonb_typeof(value) = 'array' then
        return query
            select f.at, f.reason
            from jsonb_array_elements(value) with ordinality e (item, n)
            cross join lateral hotmesh._reference_faults(
                e.item, scope, format('%s[%s]', path, e.n - 1)) f;
    elsif jsonb_typeof(value) = 'object' then
        return query
            select path, '@reduce is a row of a @pipe' where value -> '@reduce' is not null
            union all
            select f.at, f.reason
            from jsonb_each(value) e
            cross join lateral hotmesh._reference_faults(
                e.value, scope, path || '.' || e.key) f
            where e.key <> '@reduce';
    end if;
end
$$;

create or replace function hotmesh._reference_pipe_faults(rows jsonb, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(rows) <> 'array' or rows = '[]' then
        return query select path, 'a pipe is a list of rows';
        return;
    end if;
    return query
        select f.at, f.reason
        from jsonb_array_elements(rows) with ordinality r (line, n)
        cross join lateral hotmesh._reference_row_faults(
            r.line, r.n = 1, scope,
            format('%s[%s]', path, r.n - 1)) f;
end
$$;

create or replace function hotmesh._reference_row_faults(
    line jsonb, first boolean, scope jsonb, path text)
returns table (at text, reason text)
language plpgsql
stable
parallel safe
as $$
begin
    if jsonb_typeof(line) = 'array' and line <> '[]' then
        return query
            select path || '[0]', 'a row after the first begins with a function, {@domain.name}'
            where not first and not coalesce(hotmesh._reference_parse(line ->> 0) && array[
                '$item', '$key', '$index', '$input', '$output'], false)
              and not coalesce((hotmesh._reference_parse(line ->> 0))[1] like '@%', false)
            union all
            select f.at, f.reason from hotmesh._reference_faults(line, scope, path) f;
    elsif line -> '@pipe' is not null then
        return query select f.at, f.reason from hotmesh._reference_faults(line, scope, path) f;
    elsif line -> '@reduce' is not null then
        return query
            select path, 'the row before @reduce gives what is reduced: [iterable, initial]'
            where first
            union all
            select path, '@reduce stands alone: nothing can be beside it'
            where line - '@reduce' <> '{}'
            union all
            select f.at, f.reason
            from hotmesh._reference_pipe_faults(
                line -> '@reduce', scope || '{"reduce": 0}', path || '.@reduce') f;
    else
        return query select path, 'a row is a list of values, a @pipe or a @reduce';
    end if;
end
$$;

-- 22_expression.sql
create or replace function hotmesh._expression_read(s jsonb, name text, depth integer, d text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select hotmesh._mapping_get(s, name, depth, d, '{}')
$$;

-- Activity ids that a value mentions.
create or replace function hotmesh._expression_refs(value jsonb)
returns text[]
language sql
immutable
parallel safe
as $$
    select coalesce(array_agg(distinct r.names[1] order by r.names[1]), '{}')
    from jsonb_path_query(value, 'strict $.** ? (@ starts with "{")') w (word)
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    where r.names[1] ~ '^[A-Za-z_]'
$$;

create or replace function hotmesh._expression_literal(value jsonb)
returns text
language sql
immutable
parallel safe
as $$
    select quote_literal(value::text) || '::jsonb'
$$;

-- What stands in the body of a @reduce is nothing that the planner may evaluate beforehand: it
-- might fail, though nothing is iterated.
create or replace function hotmesh._expression_fixed(text text, scope jsonb)
returns text
language sql
immutable
parallel safe
as $$
    select case when scope ? 'reduce'
                then format('case when r%s.n >= 0 then %s end', scope ->> 'reduce', text)
                else text end
$$;

create or replace function hotmesh._expression_step(base text, names text[])
returns text
language sql
immutable
parallel safe
as $$
    select case when names = '{}' then base
                else format('(%s #> %s)', base, quote_literal(names::text)) end
$$;

create or replace function hotmesh._expression_call(name text, args text[])
returns text
language sql
stable
parallel safe
as $$
    select format('%s(%s)', f.target, concat_ws(', ', (
        select string_agg(coalesce(args[n], 'null::jsonb'), ', ' order by n)
        from generate_series(1, case when f.most is null then f.fewest
            else least(greatest(cardinality(args), f.fewest), f.most) end) n),
        case when f.most is null and cardinality(args) > f.fewest
             then format('variadic array[%s]::jsonb[]', array_to_string(
                args[f.fewest + 1:], ', ')) end))
    from hotmesh._reference_function(
        substr(split_part(name, '.', 1), 2), split_part(name, '.', 2)) f
$$;

-- A reference to an activity: the guess at its dimension is made in place.
create or replace function hotmesh._expression_find(
    name text, depth integer, names text[], prefix text)
returns text
language sql
stable
parallel safe
as $$
    select format(
        case when depth = 0
             then 'coalesce(%8$ss #> %5$L, hotmesh._mapping_get(%8$ss, %1$L, 0, %8$sd, %2$L))'
             else 'coalesce(case when substr(%8$sd, %3$s, 1) in ('''', '','') '
                'then %8$ss #> array[%1$L, rpad(%8$sd, %4$s, '',0'')%6$s] end, '
                'hotmesh._mapping_get(%8$ss, %1$L, %7$s, %8$sd, %2$L))' end,
        name, names, 2 * depth + 3, 2 * depth + 2, array[name, ',0'] || names,
        (select string_agg(', ' || quote_literal(n.name), '' order by n.n)
         from unnest(names) with ordinality n (name, n)), depth, prefix)
$$;

-- The names of a reference. The input of a `twin`, a trigger, is its output; in its own expressions
-- (`own`) it is $self.
create or replace function hotmesh._expression_names(word text, scope jsonb)
returns text[]
language sql
immutable
parallel safe
as $$
    select case
        when r.names[2] = 'input' and r.names[1] = any (
            array[scope ->> 'twin', case when scope ? 'own' then '$self' end])
        then array[r.names[1], 'output'] || r.names[3:]
        else r.names end
    from (values (hotmesh._reference_parse(word))) r (names)
$$;

create or replace function hotmesh._expression_word(word text, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._expression_names(word, scope);
    v_root constant text := v_names[1];
    v_reduce constant text := scope ->> 'reduce';
    v_prefix constant text := coalesce('e' || v_reduce || '.', '');
begin
    return case
        when v_names is null
        then hotmesh._expression_fixed(hotmesh._expression_literal(to_jsonb(word)), scope)
        when v_root like '@%'
        then hotmesh._expression_fixed(
            hotmesh._expression_call(array_to_string(v_names, '.'), '{}'), scope)
        when v_root in ('$app', '$graph')
        then coalesce(hotmesh._expression_literal(
            scope #> (substr(v_root, 2) || v_names[2:])), 'null::jsonb')
        when v_root in ('$self', '$job')
        then hotmesh._expression_step(v_prefix || substr(v_root, 2), v_names[2:])
        when v_root = '$hook' then hotmesh._expression_step(
            v_prefix || 'self', array['hook'] || v_names[2:])
        when v_root like '$%'
        then hotmesh._expression_step(case v_root
            when '$item' then format('(e%s.items -> r%s.n)', v_reduce, v_reduce)
            when '$key' then format('(e%s.keys -> r%s.n)', v_reduce, v_reduce)
            when '$index' then format('to_jsonb(r%s.n)', v_reduce)
            when '$input' then format('e%s.input', v_reduce)
            when '$output' then format('r%s.output', v_reduce) end, v_names[2:])
        else hotmesh._expression_find(
            v_root, (scope -> 'activities' ->> v_root)::integer, v_names[2:], v_prefix) end;
end
$$;

-- An object. Fields that may be undefined are set on it one by one, six at a time, as each makes
-- a copy.
create or replace function hotmesh._expression_fields(value jsonb, scope jsonb)
returns text
language sql
stable
parallel safe
as $$
    with fields as materialized (
        select e.key, hotmesh._expression_stored(e.value, scope) as text,
               row_number() over (partition by v.unsure order by e.key) - 1 as n, v.unsure
        from jsonb_each(value) e
        cross join lateral (values (e.value -> '@pipe' is not null
            or hotmesh._reference_parse(case jsonb_typeof(e.value)
                when 'string' then e.value #>> '{}' end) is not null)) v (unsure)
    ), parts as (
        select format('jsonb_build_object(%s)', string_agg(
            format('%L, %s', f.key, f.text), ', ' order by f.n)) as text
        from fields f where not f.unsure group by f.n / 40
        union all
        select repeat('jsonb_set_lax(', count(*)::integer) || quote_literal('{}') || string_agg(
            format(', %L, %s, true, %L)', array[f.key], f.text, 'return_target'), '' order by f.n)
        from fields f where f.unsure group by f.n / 6
    )
    select case when exists (select from fields f where f.key ~ '\[([0-9]{1,4}|-|_)\]$')
        then (select format('hotmesh._mapping_gather(%L, array[%s]::jsonb[])',
                  array_agg(f.key order by f.n, f.key),
                  string_agg(f.text, ', ' order by f.n, f.key))
              from fields f)
        else (select '(' || string_agg(p.text, ' || ') || ')' from parts p) end
$$;

-- A value while a pipe runs: NaN is NaN.
create or replace function hotmesh._expression_raw(value jsonb, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
begin
    return case
        when value is null then 'null::jsonb'
        when jsonb_typeof(value) = 'string' then hotmesh._expression_word(value #>> '{}', scope)
        when value::text !~ '"\{|"@pipe"|[]]": '
        then hotmesh._expression_fixed(hotmesh._expression_literal(value), scope)
        when value -> '@pipe' is not null
        then hotmesh._expression_pipe(value -> '@pipe', scope, null)
        when jsonb_typeof(value) = 'array'
        then format('to_jsonb(array[%s]::jsonb[])', (
            select string_agg(hotmesh._expression_stored(e.item, scope), ', ' order by e.n)
            from jsonb_array_elements(value) with ordinality e (item, n)))
        else hotmesh._expression_fields(value, scope) end;
end
$$;

-- A value at its end.
create or replace function hotmesh._expression_stored(value jsonb, scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
begin
    return format(
        case when value -> '@pipe' is not null
                 or jsonb_typeof(value) = 'string'
                 and (hotmesh._reference_parse(value #>> '{}'))[1] ~ '^(@|\$(item|output|input))'
             then 'hotmesh._pipe_store(%s)' else '%s' end,
        hotmesh._expression_raw(value, scope));
end
$$;

-- Does the row begin with a function that needs values?
create or replace function hotmesh._expression_needs(line jsonb)
returns boolean
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(line ->> 0);
begin
    return v_names[1] like '@%' and (
        select f.fewest > 0 or f.most is null
        from hotmesh._reference_function(substr(v_names[1], 2), v_names[2]) f);
end
$$;

-- The cells of a row; values null: its head is not called with values.
create or replace function hotmesh._expression_row(line jsonb, vals text[], scope jsonb)
returns text[]
language plpgsql
stable
parallel safe
as $$
declare
    v_names constant text[] := hotmesh._reference_parse(line ->> 0);
begin
    return array(
        select case when e.n = 1 and vals is not null and v_names[1] like '@%'
                    then hotmesh._expression_fixed(
                        hotmesh._expression_call(array_to_string(v_names, '.'), vals), scope)
                    else hotmesh._expression_raw(e.cell, scope) end
        from jsonb_array_elements(line) with ordinality e (cell, n)
        order by e.n);
end
$$;

-- The value of a pipe; prior: values that a function at its head is called with.
create or replace function hotmesh._expression_pipe(rows jsonb, scope jsonb, prior text[])
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_line jsonb;
    v_cells text[];
    v_queue text[] := '{}';
begin
    for v_line in select e.line from jsonb_array_elements(rows) with ordinality e (line, n)
                  order by e.n loop
        if v_line -> '@pipe' is not null then
            v_queue := v_queue || hotmesh._expression_pipe(
                v_line -> '@pipe', scope, coalesce(v_cells, prior));
            continue;
        elsif jsonb_typeof(v_line) = 'object' then
            v_cells := array[hotmesh._expression_reduce(
                v_line -> '@reduce', coalesce(nullif(v_queue, '{}'), v_cells), scope)];
        else
            v_cells := hotmesh._expression_row(v_line, coalesce(nullif(v_queue, '{}'), v_cells,
                case when prior is not null and hotmesh._expression_needs(v_line)
                     then prior end), scope);
        end if;
        v_queue := '{}';
        if length(v_cells[1]) > 1e6 then
            perform hotmesh._refuse_argument('a pipe is too large',
                format('Compiled it would take %s bytes.', length(v_cells[1])),
                'Split it among several activities.');
        end if;
    end loop;
    return coalesce(v_queue[cardinality(v_queue)], v_cells[1]);
end
$$;

-- What the body reads comes from a materialized row, for the same reason.
create or replace function hotmesh._expression_reduce(rows jsonb, vals text[], scope jsonb)
returns text
language plpgsql
stable
parallel safe
as $$
declare
    v_depth constant integer := coalesce((scope ->> 'reduce')::integer, 0) + 1;
begin
    return format(
        '(with recursive e%1$s (input, items, keys, s, d, self, job) as materialized ('
        'select v.input, hotmesh._mapping_items(v.input), hotmesh._mapping_keys(v.input), '
        '%5$ss, %5$sd, %5$sself, %5$sjob from (select %2$s) v (input)), r%1$s (n, output) as ('
        'select 0, coalesce(%3$s, ''null'') union all select r%1$s.n + 1, %4$s '
        'from r%1$s cross join e%1$s where r%1$s.n < jsonb_array_length(e%1$s.items)) '
        'select r%1$s.output from r%1$s cross join e%1$s '
        'where r%1$s.n = jsonb_array_length(e%1$s.items))',
        v_depth, vals[1], coalesce(vals[2], 'null::jsonb'),
        hotmesh._expression_pipe(
            rows, scope || jsonb_build_object('reduce', v_depth),
            array[format('r%s.output', v_depth)]),
        case when v_depth > 1 then format('e%s.', v_depth - 1) else '' end);
end
$$;

create or replace function hotmesh._expression_check(value jsonb, scope jsonb, path text)
returns void
language plpgsql
stable
as $$
declare
    v_fault record;
begin
    select f.at, f.reason into v_fault
    from hotmesh._reference_faults(value, scope, path) f
    limit 1;
    if found then
        perform hotmesh._refuse_argument(
            format('%s: %s', v_fault.at, v_fault.reason),
            format('The whole value is %s.', left(value::text, 300)),
            'Correct the document and deploy it again.');
    end if;
end
$$;

-- The SQL of a value of a document; path is its place there.
create or replace function hotmesh._expression_sql(value jsonb, scope jsonb, path text)
returns text
language plpgsql
stable
as $$
begin
    perform hotmesh._expression_check(value, scope, path);
    return hotmesh._expression_stored(value, scope);
end
$$;

-- actual === expected. What is simple is compared at once.
create or replace function hotmesh._expression_same(pair jsonb, scope jsonb, path text)
returns text
language plpgsql
stable
as $$
declare
    v_expected constant jsonb := pair -> 'expected';
    v_actual text;
begin
    perform hotmesh._expression_check(pair, scope, path);
    v_actual := hotmesh._expression_raw(pair -> 'actual', scope);
    return case
        when jsonb_typeof(v_expected) in ('boolean', 'null')
             or v_expected::text ~ '^(-?[1-9][0-9]{0,14}|"[^{].*)$'
        then format('coalesce(%s = %s, false)', v_actual, hotmesh._expression_literal(v_expected))
        else format('hotmesh._value_same(%s, %s)', v_actual,
            hotmesh._expression_raw(v_expected, scope)) end;
end
$$;

-- The SQL, a boolean, of the match of a condition.
create or replace function hotmesh._expression_condition(
    condition jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select coalesce('(' || string_agg(
        hotmesh._expression_same(e.pair, scope, format('%s.match[%s]', path, e.n - 1)),
        case when condition ->> 'gate' = 'or' then ' or ' else ' and ' end order by e.n) || ')',
        'true')
    from jsonb_array_elements(condition -> 'match') with ordinality e (pair, n)
$$;

-- value === true, for emit and persist
create or replace function hotmesh._expression_true(value jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select hotmesh._expression_same(
        jsonb_build_object('expected', true, 'actual', coalesce(value, 'false')), scope, path)
$$;

-- 22_measure.sql
-- What a target is called: {$self.output.data.size.width} is size.width; a pipe has no name.
create or replace function hotmesh._measure_name(target jsonb, measure text, place bigint)
returns text
language sql
immutable
as $$
    select coalesce(
        nullif(array_to_string(r.names[array_position(r.names, 'data') + 1:], '.'), ''),
        r.names[cardinality(r.names)], measure || place)
    from (values (hotmesh._reference_parse(
        case when jsonb_typeof(target) = 'string' then target #>> '{}' end))) r (names)
$$;

-- What a plan has of `stats`: measures are [{"measure", "target"}] with the names of the targets.
create or replace function hotmesh._measure_plan(stats jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'counted', case when stats ?| '{key,measures}' then true end,
        'granularity', stats -> 'granularity', 'measures', (
            select jsonb_agg(jsonb_build_object(
                'measure', m.about -> 'measure', 'target', hotmesh._measure_name(
                    m.about -> 'target', m.about ->> 'measure', m.place)) order by m.place)
            from jsonb_array_elements(stats -> 'measures') with ordinality m (about, place)))
$$;

-- What a trigger says of the job that is to be; `measured` in the order of the measures.
create or replace function hotmesh._measure_fields(graph jsonb, trigger jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'id', s.stats -> 'id', 'key', s.stats -> 'key', 'parent', s.stats -> 'parent',
        'adjacent', s.stats -> 'adjacent',
        'measured', (
            select jsonb_agg(m.about -> 'target' order by m.place)
            from jsonb_array_elements(s.stats -> 'measures') with ordinality m (about, place)),
        'expire', case
            when hotmesh._field_is_dynamic(graph -> 'expire') then graph -> 'expire' end)
    from (values (trigger -> 'stats')) s (stats)
$$;

create or replace function hotmesh._measure_key(value jsonb)
returns text
language sql
immutable
as $$
    select left(coalesce(value #>> '{}', ''), 500)
$$;

-- `trigger` is what those fields came to. Only what is no list and no object is measured.
create or replace function hotmesh._measure_lay(job hotmesh.jobs, measures jsonb, trigger jsonb)
returns void
language plpgsql
as $$
begin
    insert into measures (job_id, topic, key, at, job_key, measured)
    select job.id, job.topic, hotmesh._measure_key(trigger -> 'key'), job.created_at, job.key, (
        select coalesce(jsonb_object_agg(m.about ->> 'target', case jsonb_typeof(v.value)
                   when 'string' then to_jsonb(left(v.value #>> '{}', 500))
                   else v.value end), '{}')
        from jsonb_array_elements(measures) with ordinality m (about, place)
        join jsonb_array_elements(trigger -> 'measured') with ordinality v (value, place)
            on v.place = m.place
        where jsonb_typeof(v.value) in ('string', 'number', 'boolean'));
end
$$;

-- A facet is field:value.
create or replace function hotmesh._measure_is(measured jsonb, facet text)
returns boolean
language sql
immutable
as $$
    select coalesce(
        measured ->> left(facet, strpos(facet, ':') - 1) = substr(facet, strpos(facet, ':') + 1),
        false)
$$;

-- These jobs are found by this field no more.
create or replace function hotmesh._measure_unmark(job_ids bigint[], field text)
returns void
language plpgsql
as $$
begin
    update measures m set measured = m.measured - field
    where m.job_id = any (array(
        select l.job_id from measures l
        where l.job_id = any (job_ids) and l.measured ? field
        for update skip locked));
end
$$;

create or replace function hotmesh._measure_forget(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from measures m where m.job_id = any (job_ids);
end
$$;

-- What is older than the archive, but for jobs that are still there.
create or replace function hotmesh._measure_prune(before timestamptz)
returns void
language plpgsql
as $$
begin
    delete from measures m
    where m.at < before and not exists (select from jobs_all j where j.id = m.job_id);
end
$$;

-- 23_blame.sql
create or replace function hotmesh._blame_value(value jsonb, scene hotmesh.blame_scene)
returns jsonb
language plpgsql
stable
as $$
declare
    v_found jsonb;
begin
    execute format('select %s from (values ($1, $2, $3, $4)) v (s, d, self, job)',
                   hotmesh._expression_sql(value, scene.scope, ''))
    into v_found
    using scene.s, scene.d, scene.self, scene.job;
    return v_found;
end
$$;

create or replace function hotmesh._blame_fails(value jsonb, scene hotmesh.blame_scene)
returns boolean
language plpgsql
stable
as $$
begin
    perform hotmesh._blame_value(value, scene);
    return false;
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        return true;
end
$$;

-- What an activity says, by its places in the document, of what is evaluated as one.
create or replace function hotmesh._blame_fields(graph jsonb, id text)
returns table (at text, value jsonb)
language plpgsql
stable
as $$
declare
    v_path constant text := 'activities.' || id;
    v_type constant text := graph #>> array['activities', id, 'type'];
begin
    return query
    select case
               when f.key = 'expire' then f.key
               when v_type = 'trigger'
               then format('%s.stats.%s', v_path, replace(f.key, 'measured', 'measures'))
               when f.key = 'expected' then format('hooks.%s[0].conditions.match[0].expected',
                   hotmesh._plan_hook(graph, id) ->> 'topic')
               when f.key = 'data' then v_path || '.signal.maps'
               when f.key = 'resolver' then v_path || '.resolver.maps'
               when f.key = 'key' then v_path || '.id'
               else format('%s.%s', v_path, f.key) end,
           f.value
    from jsonb_each(hotmesh._source_fields(graph, id)) f;
end
$$;

-- The values of a section of a document: of an activity, its mappings, a transition, a hook.
create or replace function hotmesh._blame_section(place text, graph jsonb, id text)
returns table (at text, value jsonb)
language plpgsql
stable
as $$
declare
    v_parts constant text[] := regexp_match(place, '^transitions\.(.*)\[(\d+)\]\.conditions$');
begin
    if place = 'activities.' || id then
        return query select f.at, f.value from hotmesh._blame_fields(graph, id) f;
    elsif v_parts is not null then
        return query
        select format('%s.match[%s].%s', place, m.n - 1, p.key), p.value
        from jsonb_array_elements(graph #> array[
            'transitions', v_parts[1], v_parts[2], 'conditions', 'match'])
            with ordinality m (pair, n)
        cross join lateral jsonb_each(m.pair) p;
    elsif place like 'hooks.%' then
        return query select place || '[0].conditions.match[0].actual',
            hotmesh._plan_hook(graph, id) -> 'actual';
    elsif place = format('activities.%s.input.maps', id) then
        return query select place, hotmesh._source_input(graph, id);
    else
        return query select place, graph #> string_to_array(place, '.');
    end if;
end
$$;

-- What a value is made of, as far as each part stands by itself.
create or replace function hotmesh._blame_leaves(at text, value jsonb)
returns table (leaf text, part jsonb)
language sql
immutable
as $$
    with recursive parts (at, value) as (
        values (_blame_leaves.at, _blame_leaves.value)
        union all
        select n.at, n.value
        from parts p
        cross join lateral (
            select format('%s.%s', p.at, e.key), e.value
            from jsonb_each(case when jsonb_typeof(p.value) = 'object' then p.value else '{}' end)
                as e
            where p.value -> '@pipe' is null
            union all
            select format('%s[%s]', p.at, e.n - 1), e.item
            from jsonb_array_elements(
                case when jsonb_typeof(p.value) = 'array' then p.value else '[]' end)
                with ordinality e (item, n)) n (at, value))
    select p.at, p.value
    from parts p
    where p.value -> '@pipe' is not null
       or jsonb_typeof(p.value) = 'string' and p.value #>> '{}' like '{%'
$$;

-- The first row of a pipe that can't be evaluated on those before it; '' of what is no pipe.
create or replace function hotmesh._blame_row(value jsonb, scene hotmesh.blame_scene)
returns text
language plpgsql
stable
as $$
declare
    v_rows constant jsonb := value -> '@pipe';
begin
    for i in 1 .. coalesce(jsonb_array_length(v_rows), 0) loop
        if hotmesh._blame_fails(jsonb_build_object('@pipe', (
            select jsonb_agg(r.line order by r.n)
            from jsonb_array_elements(v_rows) with ordinality r (line, n)
            where r.n <= i)), scene)
        then
            return format('.@pipe[%s]', i - 1);
        end if;
    end loop;
    return '';
end
$$;

-- What was evaluated before the section, as the compiled function does it.
create or replace function hotmesh._blame_before(scene hotmesh.blame_scene, place text)
returns hotmesh.blame_scene
language plpgsql
stable
as $$
declare
    v_about constant jsonb := scene.graph #> array['activities', scene.id];
    v_own constant text := 'activities.' || scene.id;
begin
    if v_about ->> 'type' = 'trigger' then
        scene.s := hotmesh._plan_put(scene.s, scene.id, scene.d, scene.self);
    end if;
    if scene.leg = 'enter' and place = v_own then
        scene.self := scene.self || jsonb_build_object('input', jsonb_build_object(
            'data', coalesce(hotmesh._blame_value(hotmesh._source_input(
                scene.graph, scene.id), scene), '{}')));
    end if;
    if scene.leg in ('enter', 'actual') or place = v_own || '.output.maps' then
        return scene;
    end if;
    if scene.leg = 'leave' and v_about #> '{output,maps}' is not null
        and v_about ->> 'type' <> 'trigger'
    then
        scene.self := scene.self || jsonb_build_object('output', jsonb_build_object(
            'data', hotmesh._blame_value(v_about #> '{output,maps}', scene)));
    end if;
    scene.s := hotmesh._plan_put(scene.s, scene.id, scene.d, scene.self);
    if place <> v_own || '.job.maps' and v_about #> '{job,maps}' is not null then
        scene.job := hotmesh._plan_tell(
            scene.job, hotmesh._blame_value(v_about #> '{job,maps}', scene));
    end if;
    return scene;
end
$$;

-- The place of the expression in a section that fails, and what stands there; if none does by
-- itself, the section.
create or replace function hotmesh._blame_find(
    place text, scene hotmesh.blame_scene, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
begin
    scene := hotmesh._blame_before(scene, place);
    for at, value in
        select l.leaf, l.part
        from hotmesh._blame_section(place, scene.graph, scene.id) v
        cross join lateral hotmesh._blame_leaves(v.at, v.value) l
        limit 500
    loop
        if hotmesh._blame_fails(value, scene) then
            at := at || hotmesh._blame_row(value, scene);
            return;
        end if;
    end loop;
    at := place;
    value := (
        select case when count(*) = 1 then (array_agg(v.value))[1] end
        from hotmesh._blame_section(place, scene.graph, scene.id) v
        where v.value is not null);
end
$$;

-- 23_plan.sql
create or replace function hotmesh._plan_type(activity jsonb)
returns text
language sql
immutable
as $$
    select case activity ->> 'type' when 'activity' then 'hook' else activity ->> 'type' end
$$;

-- Every way from an activity to another: transitions.
create or replace function hotmesh._plan_edges(graph jsonb)
returns table (origin text, place integer, target text, conditions jsonb)
language sql
immutable
as $$
    select t.key, e.place::integer - 1, e.edge ->> 'to', e.edge -> 'conditions'
    from jsonb_each(coalesce(graph -> 'transitions', '{}')) t
    cross join lateral jsonb_array_elements(t.value) with ordinality e (edge, place)
    order by t.key, e.place
$$;

-- Activities that cycles return to.
create or replace function hotmesh._plan_pivots(graph jsonb)
returns setof text
language sql
immutable
as $$
    select distinct a.value ->> 'ancestor'
    from jsonb_each(graph -> 'activities') a
    where a.value ->> 'type' = 'cycle'
$$;

-- The activities by name, with number and depth: the trigger is 1 and lies at 0. `merging` are
-- those that more than one way leads to, what comes after them by ways of different lengths, and
-- those that cycles return to and that may answer more than once.
create or replace function hotmesh._plan_depths(graph jsonb)
returns table (id text, number integer, depth integer, merging boolean)
language plpgsql
immutable
as $$
begin
    return query
    with recursive edges as (
        select distinct e.origin, e.target from hotmesh._plan_edges(graph) e),
    ways (id, depth) as (
        select a.key, 0 from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger'
        union
        select e.target, w.depth + 1
        from ways w join edges e on e.origin = w.id
        where w.depth < 1000)
    select w.id,
           (row_number() over (order by min(w.depth), w.id))::integer,
           min(w.depth),
           count(*) > 1 or (select count(*) from edges e where e.target = w.id) > 1
               or w.id in (select p from hotmesh._plan_pivots(graph) p)
                  and (graph #>> array['activities', w.id, 'type'] not in ('hook', 'activity')
                       or hotmesh._plan_hook(graph, w.id) is not null)
    from ways w
    group by w.id;
end
$$;

-- The rule of `hooks` that leads to an activity: {"topic", "expected", "actual"}.
create or replace function hotmesh._plan_hook(graph jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'topic', h.key, 'expected', r.rule #> '{conditions,match,0,expected}',
        'actual', r.rule #> '{conditions,match,0,actual}')
    from jsonb_each(coalesce(graph -> 'hooks', '{}')) h
    cross join lateral jsonb_array_elements(h.value) r (rule)
    where r.rule ->> 'to' = id
    limit 1
$$;

-- A worker whose answer nothing is made of, and that nothing comes after: an answer reads nothing.
create or replace function hotmesh._plan_ends(graph jsonb, id text)
returns boolean
language sql
immutable
as $$
    select a.about ->> 'type' = 'worker' and not a.about ?| '{output,job,emit,persist}'
        and not coalesce(graph -> 'transitions', '{}') ? id
    from (select graph -> 'activities' -> id as about) a
$$;

-- It waits for nothing and nobody is told: it is entered and left in one piece.
create or replace function hotmesh._plan_passes(graph jsonb, id text)
returns boolean
language sql
immutable
as $$
    select hotmesh._plan_type(a.about) in ('trigger', 'hook')
        and hotmesh._plan_hook(graph, id) is null
        and not a.about ?| '{sleep,statusThreshold,emit,persist}'
    from (select graph -> 'activities' -> id as about) a
$$;

create or replace function hotmesh._plan_activity(graph jsonb, id text, depth integer,
    merging boolean, numbers jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'id', id, 'type', hotmesh._plan_type(a.about), 'depth', depth,
        'merging', nullif(merging, false),
        'ancestor', numbers -> (a.about ->> 'ancestor'),
        'topic', hotmesh._plan_hook(graph, id) ->> 'topic',
        'computed', case when hotmesh._field_is_dynamic(a.about -> 'topic') then true end,
        'twin', case when hotmesh._plan_is_twin(a.about) then true end,
        'sleeps', case when a.about ? 'sleep' then true end,
        'ends', case when hotmesh._plan_ends(graph, id) then true end,
        'passes', case when not merging and hotmesh._plan_passes(graph, id) then true end,
        'function', a.about ->> 'function',
        'retry', case when not a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'policy', case when a.about -> 'retry' ? 'maximum_attempts' then a.about -> 'retry' end,
        'code', a.about -> 'code', 'status', a.about -> 'status',
        'subtype', a.about ->> 'subtype'))
    from (select graph -> 'activities' -> id as about) a
$$;

-- A trigger whose input is its output: it is kept once.
create or replace function hotmesh._plan_is_twin(about jsonb)
returns boolean
language sql
immutable
as $$
    select about ->> 'type' = 'trigger' and about #> '{input,maps}' is null
$$;

-- Whether some activity gets the trigger's data because it says nothing else.
create or replace function hotmesh._plan_reads_trigger(graph jsonb)
returns boolean
language sql
immutable
as $$
    select exists (
        select from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' in ('worker', 'sql') and a.value #> '{input,maps}' is null)
$$;

-- Those of some activities that are read only by what lies behind them: on whatever way one comes
-- to a reader, one instance is on it, at one depth.
create or replace function hotmesh._plan_behind(graph jsonb, ids text[])
returns setof text
language sql
immutable
as $$
    with recursive edges as (
        select distinct e.origin, e.target from hotmesh._plan_edges(graph) e),
    ways (id, depth) as (
        select a.key, 0 from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger'
        union
        select e.target, w.depth + 1
        from ways w join edges e on e.origin = w.id
        where w.depth < 1000),
    around (id, place) as (  -- what can be come to without it
        select i.id, w.id from unnest(ids) i (id) cross join ways w
        where w.depth = 0 and w.id <> i.id
        union
        select a.id, e.target
        from around a join edges e on e.origin = a.place
        where e.target <> a.id),
    readers (id, place) as (
        select r.id, k.place
        from jsonb_object_keys(graph -> 'activities') k (place)
        cross join lateral unnest(hotmesh._expression_refs(jsonb_build_array(
            graph #> array['activities', k.place], graph #> array['transitions', k.place]))) r (id)
        union all
        select r.id, null
        from unnest(hotmesh._expression_refs(graph - '{activities,transitions}'::text[])) r (id))
    select i.id
    from unnest(ids) i (id)
    where not exists (
        select from readers r
        where r.id = i.id and (
            r.place is null or (select count(*) from ways w where w.id = i.id) > 1
            or exists (select from around a where a.id = i.id and a.place = r.place)))
$$;

create or replace function hotmesh._plan_build(app text, graph jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_numbers jsonb := (
        select jsonb_object_agg(d.id, d.number) from hotmesh._plan_depths(graph) d);
    v_refs text[] := hotmesh._expression_refs(graph);
    v_behind text[] := array(
        select b from hotmesh._plan_behind(graph, array(
            select d.id from hotmesh._plan_depths(graph) d where d.merging)) b);
    v_stats jsonb := (
        select coalesce(a.value -> 'stats', '{}') from jsonb_each(graph -> 'activities') a
        where a.value ->> 'type' = 'trigger');
begin
    return jsonb_strip_nulls(hotmesh._measure_plan(v_stats) || jsonb_build_object(
        'app', app, 'begins', case when v_stats ?| '{id,key,parent,adjacent,measures}'
                            or hotmesh._field_is_dynamic(graph -> 'expire') then true end,
        'expire', case
            when not hotmesh._field_is_dynamic(graph -> 'expire') then graph -> 'expire' end,
        'publishes', graph -> 'publishes',
        'merging', (
            select jsonb_agg(d.id) from hotmesh._plan_depths(graph) d
            where d.merging and d.id <> all (v_behind)),
        'pivots', (
            select jsonb_agg(jsonb_build_array(d.number, d.depth, d.id))
            from hotmesh._plan_depths(graph) d
            where d.id in (select p from hotmesh._plan_pivots(graph) p)),
        'deepest', (select max(d.depth) from hotmesh._plan_depths(graph) d),
        'reads', (
            select coalesce(jsonb_agg(jsonb_build_array(d.number, d.depth) order by d.number), '[]')
            from hotmesh._plan_depths(graph) d
            where d.id = any (v_refs)
               or d.number = 1 and hotmesh._plan_reads_trigger(graph)),
        'activities', (
            select jsonb_agg(
                hotmesh._plan_activity(graph, d.id, d.depth, d.merging, v_numbers)
                || case when d.merging and d.id = any (v_behind) then '{"unread": true}'
                        else '{}'::jsonb end order by d.number)
            from hotmesh._plan_depths(graph) d)));
end
$$;

-- Activities whose metadata some expression reads: only they keep them.
create or replace function hotmesh._plan_stamped(graph jsonb)
returns jsonb
language sql
immutable
as $$
    select coalesce(jsonb_agg(distinct m.id), '[]')
    from (
        select a.key as id, w.word
        from jsonb_each(graph -> 'activities') a
        cross join lateral jsonb_path_query(
            jsonb_build_array(a.value, graph -> 'transitions' -> a.key),
            'strict $.** ? (@ starts with "{")') w (word)
        union all
        select null, w.word
        from jsonb_path_query(graph, 'strict $.** ? (@ starts with "{")') w (word)) w
    cross join lateral (values (hotmesh._reference_parse(w.word #>> '{}'))) r (names)
    cross join lateral (values (coalesce(w.id, r.names[1]))) m (id)
    where w.id is null and r.names[3] = 'metadata' and r.names[1] not like '$%'
       or r.names[1] = '$self' and r.names[3] = 'metadata' and w.id is not null
       or r.names[1] = '$hook' and r.names[2] = 'metadata' and w.id is not null
$$;

-- What expressions may name.
create or replace function hotmesh._plan_scope(document jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'app', document -> 'app', 'graph', document -> 'graph',
        'activities', jsonb_object_agg(d.id, d.depth), 'numbers', jsonb_object_agg(d.id, d.number),
        'stamped', hotmesh._plan_stamped(document -> 'graph'))
        || coalesce((
            select jsonb_build_object('twin', a.key)
            from jsonb_each(document #> '{graph,activities}') a
            where hotmesh._plan_is_twin(a.value)), '{}')
    from hotmesh._plan_depths(document -> 'graph') d
$$;

-- What the expressions of one activity may name.
create or replace function hotmesh._plan_own(scope jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select case when scope ->> 'twin' = id then scope || '{"own": true}' else scope end
$$;

-- What compiled expressions call.
create or replace function hotmesh._plan_put(s jsonb, id text, d text, self jsonb)
returns jsonb
language sql
stable
parallel safe
as $$
    select case when s ? id then jsonb_set(s, array[id, d], coalesce(self, 'null'))
                else s || jsonb_build_object(id, jsonb_build_object(d, self)) end
$$;

-- Maps of two activities that reach into one object keep both.
create or replace function hotmesh._plan_merge(old jsonb, new jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case
        when jsonb_typeof(old) <> 'object' or jsonb_typeof(new) <> 'object' then new
        when not jsonb_path_exists(new, '$.* ? (@.type() == "object")') then old || new
        else old || (
            select coalesce(jsonb_object_agg(
                       n.key, coalesce(hotmesh._plan_merge(old -> n.key, n.value), n.value)), '{}')
            from jsonb_each(new) n) end
$$;

create or replace function hotmesh._plan_tell(job jsonb, told jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case
        when told is null then job
        else job || jsonb_build_object(
            'data', coalesce(hotmesh._plan_merge(job -> 'data', told), told)) end
$$;

create or replace function hotmesh._plan_reached(threshold jsonb, job jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select coalesce(
        (job #>> '{metadata,js}')::numeric <= (nullif(threshold, 'null') #>> '{}')::numeric, false)
$$;

-- Nobody but the engine may call what a graph was compiled into.
create or replace function hotmesh._plan_compile(graph hotmesh.graphs)
returns void
language plpgsql
as $$
declare
    v_schema text := hotmesh._app_here();
    v_name text := hotmesh._graph_name(graph.id);
begin
    perform hotmesh._app_run(array[
        hotmesh._source_step(v_schema, graph),
        hotmesh._source_walk(v_schema, graph),
        format('revoke all on function %I.%I from public', v_schema, v_name || '_step'),
        format('revoke all on function %I.%I from public', v_schema, v_name)]);
end
$$;

-- For an engine that has come since. Steps of jobs are known by the numbers of their activities:
-- these stay. What can't be compiled any more goes on as it is; nothing is refused here.
create or replace function hotmesh._plan_renew(graph hotmesh.graphs)
returns void
language plpgsql
as $$
declare
    v_ids constant jsonpath := '$.activities[*].id';
    v_plan jsonb;
begin
    v_plan := hotmesh._plan_build(graph.plan ->> 'app', graph.document -> 'graph');
    if jsonb_path_query_array(v_plan, v_ids) = jsonb_path_query_array(graph.plan, v_ids) then
        perform hotmesh._graph_replan(graph.id, v_plan);
        perform hotmesh._plan_compile(graph);
        return;
    end if;
    perform hotmesh._plan_warn(graph, 'its activities would get other numbers');
exception
    when data_exception or syntax_error_or_access_rule_violation or program_limit_exceeded
        or feature_not_supported or internal_error
    then
        perform hotmesh._plan_warn(graph, sqlerrm);
end
$$;

create or replace function hotmesh._plan_warn(graph hotmesh.graphs, why text)
returns void
language plpgsql
as $$
begin
    raise warning 'graph "%", version "%", stays as it was compiled: %',
        left(graph.topic, 200), left(graph.version, 60), left(why, 500) using
        hint = 'Its jobs go on. Deploy a version of it that this engine compiles.';
end
$$;

create or replace function hotmesh._plan_drop(ids bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._app_run(array(
        select format('drop function if exists %I.%I', hotmesh._app_here(), f.name)
        from unnest(ids) i
        cross join lateral (
            values (hotmesh._graph_name(i)), (hotmesh._graph_name(i) || '_step')) as f (name)));
end
$$;

-- Who calls the door.
create or replace function hotmesh._plan_deployer()
returns name
language sql
stable
as $$
    select coalesce(nullif(current_setting('role'), 'none')::name, session_user)
$$;

-- Why a graph may not call a function; null if it may. It runs with the rights of its owner, so
-- whoever deploys has to have them too.
create or replace function hotmesh._plan_function_fault(name text, deployer name)
returns text
language plpgsql
stable
as $$
declare
    v_function regprocedure;
    v_proc record;
begin
    v_function := to_regprocedure(name || '(jsonb)');
    select p.prosecdef, p.proowner, p.prokind = 'f' as plain, exists (
               select from unnest(p.proconfig) s where s like 'search_path=%') as pinned
    into v_proc
    from pg_proc p where p.oid = v_function;
    return case
        when v_proc is null then format('there is no function %s(jsonb)', left(name, 100))
        when not v_proc.plain then format('%s is no plain function', v_function)
        when not v_proc.prosecdef or not v_proc.pinned
            then format('%s has to be security definer and to set its search_path', v_function)
        when not pg_has_role(deployer, v_proc.proowner, 'member')
            then format('%s belongs to %s, of which %s is no member', v_function,
                        v_proc.proowner::regrole, deployer) end;
exception
    when syntax_error_or_access_rule_violation or data_exception then
        return format('%s is no name of a function', left(name, 100));
end
$$;

-- 23_source.sql
-- `variable := expression;`, after a line that says where the expression stands.
create or replace function hotmesh._source_assign(
    variable text, value jsonb, scope jsonb, path text, form text default '%s')
returns text
language sql
stable
as $$
    select format(E'-- @ %s\n%s := %s;\n', path, variable,
                  format(form, hotmesh._expression_sql(value, scope, path)))
    where value is not null
$$;

-- {"field": expression, …} of the fields that an activity says what to do with.
create or replace function hotmesh._source_about(fields jsonb, scope jsonb, path text)
returns text
language sql
stable
as $$
    select hotmesh._source_assign('o.about', jsonb_strip_nulls(fields), scope, path)
    where jsonb_strip_nulls(fields) <> '{}'
$$;

-- The fields of each type that are evaluated as it is entered.
create or replace function hotmesh._source_fields(graph jsonb, id text)
returns jsonb
language sql
stable
as $$
    select case hotmesh._plan_type(a.about)
        when 'trigger' then hotmesh._measure_fields(graph, a.about)
        when 'worker' then jsonb_build_object('topic', a.about -> 'topic')
        when 'await' then jsonb_build_object(
            'topic', a.about -> 'topic', 'await', a.about -> 'await',
            'workflow', a.about -> 'workflow', 'task_queue', a.about -> 'task_queue',
            'key', a.about -> 'id')
        when 'hook' then jsonb_build_object(
            'sleep', a.about -> 'sleep',
            'expected', hotmesh._plan_hook(graph, id) -> 'expected')
        when 'signal' then jsonb_build_object(
            'topic', a.about -> 'topic', 'code', a.about -> 'code',
            'subtype', a.about -> 'subtype', 'status', a.about -> 'status',
            'data', a.about #> '{signal,maps}',
            'key_name', a.about -> 'key_name', 'key_value', a.about -> 'key_value',
            'resolver', a.about #> '{resolver,maps}', 'scrub', a.about -> 'scrub')
        when 'interrupt' then jsonb_build_object(
            'target', a.about -> 'target', 'topic', a.about -> 'topic',
            'reason', a.about -> 'reason', 'throw', a.about -> 'throw',
            'code', a.about -> 'code', 'descend', a.about -> 'descend',
            'stack', a.about -> 'stack')
        else '{}' end
    from (select graph -> 'activities' -> id as about) a
$$;

-- A worker without maps gets what the trigger got.
create or replace function hotmesh._source_input(graph jsonb, id text)
returns jsonb
language sql
stable
as $$
    select coalesce(
        a.about #> '{input,maps}',
        case when a.about ->> 'type' in ('worker', 'sql') then (
            select to_jsonb(format('{%s.output.data}', t.key))
            from jsonb_each(graph -> 'activities') t
            where t.value ->> 'type' = 'trigger') end)
    from (select graph -> 'activities' -> id as about) a
$$;

-- The metadata of an instance, if anything reads them.
create or replace function hotmesh._source_stamp(graph jsonb, id text, part text, scope jsonb)
returns text
language sql
stable
as $$
    select format(
        E'self := hotmesh._trail_stamp(self, %L, %L, d, codes[1]);\n', part,
        jsonb_strip_nulls(jsonb_build_object(
            'aid', id, 'atp', hotmesh._plan_type(a.about), 'stp', case
            when not hotmesh._field_is_dynamic(a.about -> 'topic') then a.about -> 'topic' end)))
    from (select graph -> 'activities' -> id as about) a
    where scope -> 'stamped' ? id
      and (part <> 'hook' or hotmesh._plan_hook(graph, id) is not null)
$$;

-- What is evaluated when an activity is entered.
create or replace function hotmesh._source_enter(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        hotmesh._source_assign(
            'o.skip', v_about -> 'statusThreshold', scope, v_path || '.statusThreshold',
            'hotmesh._plan_reached(%s, job)'),
        hotmesh._source_assign(
            'v', hotmesh._source_input(graph, id), scope, v_path || '.input.maps'),
        case when hotmesh._source_input(graph, id) is not null then
            'self := self || jsonb_build_object(''input'', '
            'jsonb_build_object(''data'', coalesce(v, ''{}'')));
' end,
        hotmesh._source_stamp(graph, id, 'input', scope),
        hotmesh._source_about(hotmesh._source_fields(graph, id), scope, v_path));
end
$$;

-- What is evaluated when an activity has its answer: outputs, the job's data, where to go on.
create or replace function hotmesh._source_leave(graph jsonb, id text, scope jsonb)
returns text
language plpgsql
stable
as $$
declare
    v_about jsonb := graph -> 'activities' -> id;
    v_path text := 'activities.' || id;
begin
    return concat(
        case when v_about #> '{output,maps}' is not null and v_about ->> 'type' <> 'trigger'
             then concat(
            E'if leg in (''leave'', ''pass'') then\n',
            hotmesh._source_assign(
                'self', v_about #> '{output,maps}', scope, v_path || '.output.maps',
                'self || jsonb_build_object(''output'', coalesce(self -> ''output'', ''{}'') '
                '|| jsonb_build_object(''data'', %s))'),
            E'end if;\n') end,
        hotmesh._source_stamp(graph, id, 'output', scope),
        hotmesh._source_stamp(graph, id, 'hook', scope),
        format(E's := hotmesh._plan_put(s, %L, d, self);\n', id),
        hotmesh._source_assign(
            'job', v_about #> '{job,maps}', scope, v_path || '.job.maps',
            case when hotmesh._source_is_flat(v_about #> '{job,maps}')
                 then 'job || jsonb_build_object(''data'', job -> ''data'' || %s)'
                 else 'hotmesh._plan_tell(job, %s)' end),
        case when v_about #> '{job,maps}' is not null then E'o.job := job;\n' end,
        case when v_about ? 'emit' then format(
            E'-- @ %s.emit\no.emit := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'emit', scope, v_path || '.emit')) end,
        case when v_about ? 'persist' then format(
            E'-- @ %s.persist\no.persist := %s;\n', v_path,
            hotmesh._expression_true(v_about -> 'persist', scope, v_path || '.persist')) end,
        (select string_agg(hotmesh._source_edge(
                    e.place::integer - 1, (scope -> 'numbers' ->> (e.about ->> 'to'))::integer,
                    e.about -> 'conditions', scope, _source_leave.id), '' order by e.place)
         from jsonb_array_elements(graph -> 'transitions' -> id)
              with ordinality as e (about, place)
         where scope -> 'numbers' ? (e.about ->> 'to')));
end
$$;

-- A condition on the code: one, several, or a pattern such as 4**. Without any, what has conditions
-- wants 200, and what has none goes on whatever came.
create or replace function hotmesh._source_code(conditions jsonb)
returns text
language sql
immutable
as $$
    select case
        when conditions is null or conditions = '{}' then 'true'
        when not conditions ? 'code' then '200 = any (codes)'
        when jsonb_typeof(conditions -> 'code') = 'array' then (
            select format('(%s)', string_agg(
                hotmesh._source_code(jsonb_build_object('code', c)), ' or '))
            from jsonb_array_elements(conditions -> 'code') c)
        when conditions ->> 'code' ~ '^\d+$'
            then format('%s = any (codes)', (conditions ->> 'code')::integer)
        else format(
            'exists (select from unnest(codes) c where c::text ~ %L)',
            '^' || replace(regexp_replace(
                conditions ->> 'code', '[^0-9*\[\]|().-]', '', 'g'), '*', '\d') || '$') end
$$;

create or replace function hotmesh._source_edge(
    place integer, target integer, conditions jsonb, scope jsonb, origin text)
returns text
language plpgsql
stable
as $$
declare
    v_path text := format('transitions.%s[%s].conditions', origin, place);
begin
    if coalesce(conditions, '{}') = '{}' then
        return format(E'o.go := o.go || %s;\n', target);
    end if;
    return format(
        E'-- @ %s\nif %s%s then o.go := o.go || %s; end if;\n', v_path,
        hotmesh._source_code(conditions),
        coalesce(' and ' || hotmesh._expression_condition(
            nullif(conditions - 'code', '{}'), scope, v_path), ''),
        target);
end
$$;

-- A signal for a hook: the value by which it finds its wait. Of a trigger: its stats.key.
create or replace function hotmesh._source_actual(graph jsonb, id text, scope jsonb)
returns text
language sql
stable
as $$
    select hotmesh._source_assign(
        'o.about', coalesce(h.rule -> 'actual', graph #> array['activities', id, 'stats', 'key']),
        scope, coalesce('hooks.' || (h.rule ->> 'topic'), 'activities.' || id || '.stats.key'))
    from (values (hotmesh._plan_hook(graph, id))) h (rule)
$$;

-- Names and values, no objects of maps in them.
create or replace function hotmesh._source_is_flat(maps jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select jsonb_typeof(maps) = 'object' and not exists (
        select from jsonb_each(maps) m
        where m.key ~ '[\[@]'
           or jsonb_typeof(m.value) = 'object' and not m.value ? '@pipe'
           or jsonb_typeof(m.value) = 'array')
$$;

create or replace function hotmesh._source_case(graph jsonb, id text, number integer, scope jsonb)
returns text
language plpgsql
stable
as $$
begin
    return concat(
        format(E'when %s then\n', number),
        case when number = 1 then format(E's := hotmesh._plan_put(s, %L, d, self);\n', id) end,
        E'if leg in (''enter'', ''pass'') then\n' || nullif(
            hotmesh._source_enter(graph, id, scope), '') || E'end if;\n',
        case when hotmesh._plan_hook(graph, id) is not null or number = 1 then concat(
            E'if leg = ''actual'' then\nnull;\n',
            hotmesh._source_actual(graph, id, scope), E'end if;\n') end,
        E'if leg not in (''enter'', ''actual'') then\n',
        hotmesh._source_leave(graph, id, scope), E'end if;\n');
end
$$;

-- The function that evaluates what one activity says. Its parameters are what expressions read.
create or replace function hotmesh._source_step(schema text, graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select format(
        'create or replace function %I.%I(
            activity integer, leg text, codes integer[], s jsonb, d text, self jsonb, job jsonb)
        returns hotmesh.plan_step
        language plpgsql
        as %L', schema, hotmesh._graph_name(graph.id) || '_step', concat('
#variable_conflict use_variable
declare
o hotmesh.plan_step;
v jsonb;
begin
case activity
', (
            select string_agg(hotmesh._source_case(
                graph.document -> 'graph', n.key, n.value::integer,
                hotmesh._plan_own(s.scope, n.key)), ''
                order by n.value::integer)
            from (select hotmesh._plan_scope(graph.document) as scope offset 0) s
            cross join lateral jsonb_each_text(s.scope -> 'numbers') n), 'end case;
o.self := self;
o.store := s;
return o;
end
'))
$$;

-- Activities that wait for nothing, one after the other, as long as the next is such a one.
create or replace function hotmesh._source_pass(step text)
returns text
language sql
immutable
as $$
    select format('
v_steps := ''{}'';
loop
    e := w.todo[1];
    a := v_plan -> (e.activity - 1);
    exit when not coalesce(hotmesh._walk_passes(e, a), false) or w.ended or w.moves > 98;
    w.job := jsonb_set(w.job, ''{metadata,js}'', to_jsonb(w.status));
    o := %1$s(e.activity, ''pass'', ''{200}'', w.store, e.dimension,
        hotmesh._walk_self(a, e.answer), w.job);
    w.moves := w.moves + 2;
    w.store := o.store;
    w.job := coalesce(o.job, w.job);
    w.told := w.told or o.job is not null;
    w.status := w.status + coalesce(cardinality(o.go), 0) - 1;
    w.todo := hotmesh._walk_onward(w.todo[2:], o.go, e.dimension);
    v_steps := v_steps
        || hotmesh._walk_row(w.job_id, e.dimension, e.activity, a, o.self, ''done'', 0);
end loop;
w.steps := w.steps || v_steps;
', step)
$$;

-- The most frequent move in one piece: a worker answered with data alone, and from there it goes to
-- nowhere or to one worker. Whatever else there is goes the long way (85), from the same start.
create or replace function hotmesh._source_swift(step text)
returns text
language sql
immutable
as $$
    select format('
e := w.todo[1];
a := v_plan -> (e.activity - 1);
v_self := w.store -> (a ->> ''id'') -> e.dimension;
if hotmesh._walk_is_plain(e, a, v_self, cardinality(w.todo)) then
    w.activity := e.activity;
    w.dimension := e.dimension;
    v_self := v_self - ''$'' || jsonb_build_object(
        ''output'', jsonb_build_object(''data'', e.answer #> ''{output,data}''));
    o := %1$s(e.activity, ''leave'', ''{200}'', w.store, e.dimension, v_self, w.job);
    b := v_plan -> (o.go[1] - 1);
    v_swift := hotmesh._walk_is_next(o, b);
end if;
if v_swift then
    w.todo := ''{}'';
    w.job := coalesce(o.job, w.job);
    w.told := o.job is not null;
    w.steps := array[hotmesh._walk_row(w.job_id, w.dimension, w.activity, a, o.self, ''done'', 1)];
    w.status := w.status - (b is null)::integer;
    if b is not null then
        s := o.store;
        w.activity := o.go[1];
        w.dimension := e.dimension || '',0'';
        o := %1$s(w.activity, ''enter'', ''{200}'', s, w.dimension, ''{}'', w.job);
        w.commands := hotmesh._walk_asks(w.job_id, w.graph_id, w.dimension, w.activity, b, o);
        w.steps := w.steps || hotmesh._walk_row(
            w.job_id, w.dimension, w.activity, b, hotmesh._walk_asked(o),
            case when o.skip then ''cancelled'' else ''open'' end, 0);
        w.status := w.status - coalesce(o.skip, false)::integer;
    end if;
end if;
', step)
$$;

-- One walk: by the short ways, as far as they go; what fails there goes the long way from the same
-- start, which says where and why.
create or replace function hotmesh._source_one(step text)
returns text
language sql
immutable
as $$
    select concat('
foreach v_short in array array[true, false] loop
    w := walks[i];
    v_swift := false;
    begin
        if v_short then
            ', hotmesh._source_swift(step), '
        end if;
        while not v_swift loop
            if v_short then
                ', hotmesh._source_pass(step), '
            end if;
            w := hotmesh._walk_next(w);
            exit when w.leg is null;
            w := hotmesh._walk_moved(w, ', step, '(
                w.activity, w.leg, w.codes, w.store, w.dimension, w.self, w.job));
        end loop;
        exit;
    exception
        when data_exception or program_limit_exceeded or feature_not_supported
            or undefined_function or internal_error or sqlstate ''MSH22''
        then
            get stacked diagnostics v_state = returned_sqlstate,
                v_message = message_text, v_context = pg_exception_context;
    end;
    if not v_short then
        w := hotmesh._fail_blame(w, v_state, v_message, v_context);
    end if;
end loop;
')
$$;

-- The function that walks jobs: each by itself, so that a failure is one job's only.
create or replace function hotmesh._source_walk(schema text, graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select format(
        'create or replace function %I.%I(walks hotmesh.walk[])
        returns hotmesh.walk[]
        language plpgsql
        as %L', schema, hotmesh._graph_name(graph.id), concat('
declare
    w hotmesh.walk;
    e hotmesh.walk_entry;
    o hotmesh.plan_step;
    a jsonb; b jsonb; s jsonb; v_self jsonb;
    v_plan constant jsonb := walks[1].plan -> ''activities'';
    v_steps hotmesh.jobs_attributes[];
    v_short boolean; v_swift boolean;
    v_message text; v_state text; v_context text;
begin
    for i in 1 .. cardinality(walks) loop
        ', hotmesh._source_one(
            format('%I.%I', schema, hotmesh._graph_name(graph.id) || '_step')), '
        walks[i] := w;
    end loop;
    return walks;
end
'))
$$;

-- Where in the document a failure happened: the last `-- @` before the line of the function.
create or replace function hotmesh._source_place(schema text, id bigint, context text)
returns text
language sql
stable
as $$
    select (regexp_match(l.text, '^-- @ (.*)$'))[1]
    from pg_proc p
    cross join lateral regexp_split_to_table(p.prosrc, E'\n') with ordinality l (text, place)
    where p.pronamespace = to_regnamespace(quote_ident(schema))
      and p.proname = hotmesh._graph_name(id) || '_step'
      and l.text like '-- @ %'
      and l.place <= (regexp_match(
          context, '_graph_' || id || '_step\([^)]*\) line (\d+) '))[1]::integer
    order by l.place desc
    limit 1
$$;

-- 24_deploy.sql
create or replace function hotmesh._deploy_refuse_faults(faults jsonb)
returns void
language plpgsql
as $$
declare
    v_count integer := jsonb_array_length(faults);
begin
    raise exception 'the document has % fault%: %', v_count,
        case when v_count > 1 then 's' else '' end,
        concat_ws(': ', nullif(faults #>> '{0,path}', ''), faults #>> '{0,reason}') using
        errcode = 'MSH20',
        detail = faults::text,
        hint = 'DETAIL lists every fault with its path; nothing was deployed.';
end
$$;

create or replace function hotmesh._deploy_refuse_version(version text, message text, known text)
returns void
language plpgsql
as $$
begin
    raise exception 'version % %', hotmesh._named(left(version, 60)), message using
        errcode = 'MSH21',
        detail = coalesce('Versions: ' || known || '.', 'No version was deployed.'),
        hint = case
            when message = 'was not deployed' then 'Deploy its document, then activate it.'
            else 'Versions only go forward: deploy the document under a higher number.' end;
end
$$;

create or replace function hotmesh._deploy_versions()
returns text
language plpgsql
stable
as $$
begin
    return (select string_agg(distinct format('%s (%s)', g.version, g.state), ', ') from graphs g);
end
$$;

create or replace function hotmesh._deploy_functions(document jsonb)
returns jsonb
language sql
stable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
        'path', format('app.graphs[%s].activities.%s.function', g.place - 1, a.key),
        'reason', f.fault) order by g.place, a.key), '[]')
    from jsonb_array_elements(document #> '{app,graphs}') with ordinality g (graph, place)
    cross join lateral jsonb_each(g.graph -> 'activities') a
    cross join lateral hotmesh._plan_function_fault(
        a.value ->> 'function', hotmesh._plan_deployer()) f (fault)
    where a.value ->> 'type' = 'sql' and a.value ? 'function' and f.fault is not null
$$;

create or replace function hotmesh._deploy_check(app text, document jsonb)
returns void
language plpgsql
as $$
declare
    v_faults jsonb := (
        select jsonb_agg(jsonb_build_object('path', f.path, 'reason', f.reason))
        from hotmesh._fault_list(document, hotmesh._graph_known()) f);
    v_id text := document #>> '{app,id}';
    v_version text := document #>> '{app,version}';
begin
    if v_faults is not null then
        perform hotmesh._deploy_refuse_faults(v_faults);
    elsif v_id is not null and hotmesh._app_schema(v_id) <> hotmesh._app_here() then
        v_faults := jsonb_build_array(jsonb_build_object(
            'path', 'app.id', 'reason', format(
                'it is "%s", and the document is deployed to app "%s"', left(v_id, 60), app)));
    end if;
    v_faults := coalesce(v_faults, '[]') || hotmesh._deploy_functions(document);
    if v_faults <> '[]' then
        perform hotmesh._deploy_refuse_faults(v_faults);
    elsif exists (
        select from graphs g
        where not g.lone and v_version is not null and g.version::numeric > v_version::numeric)
    then
        perform hotmesh._deploy_refuse_version(
            v_version, 'goes backwards', hotmesh._deploy_versions());
    end if;
end
$$;

create or replace function hotmesh._deploy_graph(name text, app jsonb, graph jsonb)
returns hotmesh.graphs
language plpgsql
as $$
declare
    v_document jsonb := jsonb_build_object('app', app, 'graph', graph);
begin
    return (
        nextval('hotmesh.ids'), hotmesh._field_topic(coalesce(graph ->> 'subscribes', ''), app),
        coalesce(app ->> 'version', '1'), app ->> 'version' is null, 'deployed',
        graph ->> 'publishes', v_document, hotmesh._plan_build(name, graph),
        md5(v_document::text), hotmesh._plan_deployer(), hotmesh.now(), null)::hotmesh.graphs;
end
$$;

-- What is active stays what it is: only a bare graph, which has no version to raise, is replaced.
create or replace function hotmesh._deploy_check_active(graphs hotmesh.graphs[])
returns void
language plpgsql
as $$
declare
    v_version text := (
        select n.version from unnest(graphs) n
        where not n.lone and exists (
            select from graphs g
            where g.version = n.version and g.state = 'active' and not g.lone)
          and not exists (
            select from graphs g
            where g.version = n.version and g.topic = n.topic and g.digest = n.digest
              and g.state = 'active')
        limit 1);
begin
    if v_version is not null then
        perform hotmesh._deploy_refuse_version(
            v_version, 'is active and says something else', hotmesh._deploy_versions());
    end if;
end
$$;

create or replace function hotmesh._deploy_manifest(app text, version text, laid bigint[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'id', app, 'version', _deploy_manifest.version, 'changed', laid <> '{}',
            'active', bool_and(g.state = 'active'),
            'graphs', jsonb_agg(jsonb_build_object(
                'subscribes', g.topic, 'publishes', g.publishes,
                'activities', jsonb_array_length(g.plan -> 'activities')) order by g.topic))
        from graphs g
        where g.version = _deploy_manifest.version and g.state <> 'retired');
end
$$;

create or replace function hotmesh.graph_deploy(
    app text, document jsonb, subscribes text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document jsonb;
    v_graphs hotmesh.graphs[];
    v_laid bigint[];
begin
    perform hotmesh._enter(app);
    v_document := hotmesh._fault_normal(document, subscribes);
    perform hotmesh._app_lock(hotmesh._app_here());
    perform hotmesh._deploy_check(app, v_document);
    v_graphs := array(
        select hotmesh._deploy_graph(app, (v_document -> 'app') - 'graphs', g)
        from jsonb_array_elements(v_document #> '{app,graphs}') g);
    perform hotmesh._deploy_check_active(v_graphs);
    v_laid := hotmesh._graph_lay(v_graphs);
    perform hotmesh._plan_compile(g::hotmesh.graphs) from graphs g where g.id = any (v_laid);
    perform hotmesh._plan_drop(hotmesh._graph_forget());
    return hotmesh._deploy_manifest(
        app, coalesce(v_document #>> '{app,version}', '1'), v_laid);
end
$$;
comment on function hotmesh.graph_deploy(text, jsonb, text) is
'Check, compile and keep a document of graphs; new jobs take it once its version is activated. The
document is {"app": {"id", "version", "graphs": […]}} or a bare graph, whose topic may be given. A
bare graph is version 1, and takes the place of an active one at once. Answers what it holds.
Raises MSH20 with every fault, MSH21 for a version that goes backwards, or is active and says
something else.';

-- An upgrade of the app compiles what was deployed, and whatever jobs go by.
create or replace function hotmesh._deploy_renew(schema text)
returns void
language plpgsql
as $$
begin
    perform set_config('search_path', 'pg_catalog, ' || schema || ', hotmesh, pg_temp', true);
    perform hotmesh._plan_renew(g::hotmesh.graphs)
    from graphs g
    where g.state <> 'retired' or exists (
        select from jobs j where j.graph_id = g.id and j.closed_at is null);
end
$$;

create or replace function hotmesh.graph_activate(app text, version text)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._app_lock(hotmesh._app_here());
    if not exists (
        select from graphs g
        where g.version = graph_activate.version and g.state in ('deployed', 'active'))
    then
        perform hotmesh._deploy_refuse_version(
            version, case when exists (
                select from graphs g where g.version = graph_activate.version)
                then 'was replaced by a later one' else 'was not deployed' end,
            hotmesh._deploy_versions());
    end if;
    perform hotmesh._graph_activate(version);
    return true;
end
$$;
comment on function hotmesh.graph_activate(text, text) is
'New jobs take this version from now on; open jobs keep theirs. Raises MSH21.';

create or replace function hotmesh.graph_list(app text)
returns table (
    version text, topic text, publishes text, state text, open_jobs bigint,
    created_at timestamptz, activated_at timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select g.version, g.topic, g.publishes, g.state, (
               select count(*) from jobs j where j.graph_id = g.id and j.closed_at is null),
           g.created_at, g.activated_at
    from graphs g
    order by g.topic, g.id desc;
end
$$;
comment on function hotmesh.graph_list(text) is
'What was deployed: deployed, active or retired, and how many open jobs run by it.';

-- 24_explain.sql
-- On one line, whatever is in it.
create or replace function hotmesh._explain_line(words text)
returns text
language sql
immutable
as $$
    select regexp_replace(
        words, '[[:cntrl:]' || chr(133) || chr(8232) || chr(8233) || ']+', ' ', 'g')
$$;

create or replace function hotmesh._explain_value(value jsonb)
returns text
language plpgsql
immutable
as $$
declare
    v_row jsonb;
    v_told text;
    v_cells text;
begin
    if jsonb_typeof(value) <> 'object' or value -> '@pipe' is null then
        return case jsonb_typeof(value)
            when 'string' then value #>> '{}'
            when 'object' then (
                select format('{%s}', string_agg(
                    format('%s: %s', e.key, hotmesh._explain_value(e.value)), ', '
                    order by e.key))
                from jsonb_each(value) e)
            else value::text end;
    end if;
    for v_row in select * from jsonb_array_elements(value -> '@pipe') loop
        if jsonb_typeof(v_row) = 'object' then
            v_told := concat_ws(', ', v_told, case when v_row ? '@pipe'
                then hotmesh._explain_value(v_row) else 'reduce(…)' end);
            continue;
        end if;
        select string_agg(hotmesh._explain_value(c.cell), ', ' order by c.n) into v_cells
        from jsonb_array_elements(v_row) with ordinality c (cell, n)
        where v_told is null or c.n > 1;
        v_told := case when v_told is null then v_cells else concat_ws(', ', format(
            '%s(%s)', btrim(v_row ->> 0, '{@}'), v_told), v_cells) end;
    end loop;
    return v_told;
end
$$;

-- When a way is gone: "code 200 and gte({a.output.data.x}, 5) is true"; null: always.
create or replace function hotmesh._explain_conditions(conditions jsonb)
returns text
language sql
immutable
as $$
    select nullif(hotmesh._explain_line(concat_ws(' and ',
        'code ' || case when jsonb_typeof(conditions -> 'code') = 'array' then (
                       select string_agg(c, ' or ')
                       from jsonb_array_elements_text(conditions -> 'code') c)
                   else conditions ->> 'code' end,
        (select string_agg(
             format('%s is %s', hotmesh._explain_value(m -> 'actual'),
                    hotmesh._explain_value(m -> 'expected')),
             format(' %s ', coalesce(conditions ->> 'gate', 'and')) order by n)
         from jsonb_array_elements(conditions -> 'match') with ordinality e (m, n)))), '')
$$;

-- What an activity does: "worker inventory.check".
create or replace function hotmesh._explain_about(graph jsonb, plan jsonb)
returns text
language sql
immutable
as $$
    select hotmesh._explain_line(concat_ws(', ',
        concat_ws(' ', plan ->> 'type', nullif(a.about ->> 'subtype', 'one'),
            hotmesh._explain_value(coalesce(
                a.about -> 'topic', a.about -> 'function', a.about -> 'ancestor',
                a.about -> 'workflow', a.about -> 'target'))),
        case when a.about -> 'await' = 'false' then 'goes on at once' end,
        'waits for ' || (
            select string_agg(h.key, ', ' order by h.key)
            from jsonb_each(coalesce(graph -> 'hooks', '{}')) h
            cross join lateral jsonb_array_elements(h.value) r (rule)
            where r.rule ->> 'to' = plan ->> 'id'),
        'sleeps ' || hotmesh._explain_value(a.about -> 'sleep'),
        'retries ' || (a.about ->> 'retry'),
        'skipped at status ' || hotmesh._explain_value(a.about -> 'statusThreshold'),
        'emits if ' || nullif(hotmesh._explain_value(a.about -> 'emit'), 'false'),
        'completes if ' || nullif(hotmesh._explain_value(a.about -> 'persist'), 'false')))
    from (select graph -> 'activities' -> (plan ->> 'id') as about) a
$$;

-- The plan's activities: number, id, and what is said of each.
create or replace function hotmesh._explain_activities(graph hotmesh.graphs)
returns table (number bigint, id text, about text, activity jsonb)
language sql
stable
as $$
    select a.number, a.plan ->> 'id',
           hotmesh._explain_about(graph.document -> 'graph', a.plan),
           graph.document -> 'graph' -> 'activities' -> (a.plan ->> 'id')
    from jsonb_array_elements(graph.plan -> 'activities') with ordinality a (plan, number)
$$;

create or replace function hotmesh._explain_maps(activity jsonb, part text)
returns setof text
language sql
stable
as $$
    select E'\n    ' || hotmesh._explain_line(format(
        '%s %s = %s', part, m.key, hotmesh._explain_value(m.value)))
    from jsonb_each(case when part = 'stats'
                         then coalesce(activity -> 'stats', '{}') - 'measures'
                         when jsonb_typeof(activity -> part -> 'maps') = 'object'
                         then activity -> part -> 'maps' else '{}' end) m
    union all
    select E'\n    ' || hotmesh._explain_line(format(
        'measures %s of %s', m.about ->> 'measure', hotmesh._explain_value(m.about -> 'target')))
    from jsonb_array_elements(activity #> '{stats,measures}') m (about)
    where part = 'stats'
$$;

create or replace function hotmesh._explain_text(graph hotmesh.graphs)
returns text
language sql
stable
as $$
    select concat(
        case graph.topic when '' then 'any other topic'
                         else hotmesh._explain_line(graph.topic) end,
        format(', version %s, %s', graph.version, graph.state),
        ', publishes to ' || hotmesh._explain_line(graph.publishes),
        ', expires after ' || hotmesh._explain_line(
            hotmesh._explain_value(graph.document #> '{graph,expire}')),
        string_agg(concat(
            E'\n', a.number, ' ', a.id, ': ', a.about,
            (select string_agg(m, '') from unnest('{stats,input,output,job}'::text[]) p
             cross join lateral hotmesh._explain_maps(a.activity, p) m),
            (select string_agg(concat(
                 E'\n    -> ', e.target, ' if ' || hotmesh._explain_conditions(e.conditions)),
                 '' order by e.place)
             from hotmesh._plan_edges(graph.document -> 'graph') e
             where e.origin = a.id)), '' order by a.number))
    from hotmesh._explain_activities(graph) a
$$;

-- Text between the double quotes of a label.
create or replace function hotmesh._explain_label(word text)
returns text
language sql
immutable
as $$
    select replace(replace(replace(replace(replace(regexp_replace(
        replace(hotmesh._explain_line(left(word, 200)), '#', '#35;'), '\s+', ' ', 'g'),
        '"', '#quot;'), '<', '#lt;'), '>', '#gt;'), '`', '#96;'), '&', '#amp;')
$$;

create or replace function hotmesh._explain_mermaid(graph hotmesh.graphs)
returns text
language sql
stable
as $$
    with nodes as (
        select a.number, a.id, format(
                   '    a%s%s"%s<br/>%s"%s', a.number,
                   case a.activity ->> 'type' when 'trigger' then '([' when 'await' then '[['
                                              when 'hook' then '{{' else '[' end,
                   hotmesh._explain_label(a.id), hotmesh._explain_label(a.about),
                   case a.activity ->> 'type' when 'trigger' then '])' when 'await' then ']]'
                                              when 'hook' then '}}' else ']' end) as line,
               a.activity ->> 'ancestor' as ancestor
        from hotmesh._explain_activities(graph) a),
    edges as (
        select o.number, e.place, format(
                   '    a%s -->%s a%s', o.number,
                   '|"' || hotmesh._explain_label(
                       hotmesh._explain_conditions(e.conditions)) || '"|', t.number) as line
        from hotmesh._plan_edges(graph.document -> 'graph') e
        join nodes o on o.id = e.origin
        join nodes t on t.id = e.target
        union all
        select n.number, 1000, format('    a%s -.-> a%s', n.number, t.number)
        from nodes n join nodes t on t.id = n.ancestor)
    select concat_ws(E'\n', 'flowchart TD',
        (select string_agg(n.line, E'\n' order by n.number) from nodes n),
        (select string_agg(e.line, E'\n' order by e.number, e.place) from edges e))
$$;

-- The one that answers a topic, or the newest that was deployed for it.
create or replace function hotmesh._explain_find(topic text)
returns hotmesh.graphs
language plpgsql
stable
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_find(topic);
begin
    if v_graph.topic is distinct from topic then
        select (g::hotmesh.graphs).* into v_graph
        from graphs g
        where g.topic = any (array[_explain_find.topic, '']) and g.state <> 'retired'
        order by g.topic desc, g.id desc
        limit 1;
    end if;
    return case when v_graph.id is null then hotmesh._graph_get(topic) else v_graph end;
end
$$;

create or replace function hotmesh.graph_explain(app text, topic text, format text default 'text')
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_graph hotmesh.graphs;
begin
    perform hotmesh._enter(app);
    if format not in ('text', 'mermaid') or format is null then
        perform hotmesh._refuse_argument(
            pg_catalog.format('unknown format: %s', coalesce(left(format, 60), 'null')),
            'A plan is shown as text or drawn for Mermaid.', 'Leave it out for text.');
    end if;
    v_graph := hotmesh._explain_find(topic);
    return case format when 'mermaid' then hotmesh._explain_mermaid(v_graph)
                       else hotmesh._explain_text(v_graph) end;
end
$$;
comment on function hotmesh.graph_explain(text, text, text) is
'The compiled graph that answers a topic, or was deployed for it: its activities, what each does and
maps, and where it leads to on which conditions. format: text or mermaid. Raises MSH22.';

-- 25_retry.sql
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

-- 26_timeout.sql
create or replace function hotmesh._timeout_refuse(timeouts jsonb, what text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('timeouts: %s', what),
        format('They were %s.', left(timeouts::text, 300)),
        'Known keys: start_to_close, schedule_to_close, heartbeat; each a duration above zero.');
end
$$;

create or replace function hotmesh._timeout_seconds(value jsonb, what text)
returns double precision
language plpgsql
stable
as $$
declare
    v_seconds double precision := extract(epoch from hotmesh._duration(value, what));
begin
    if v_seconds <= 0 then
        perform hotmesh._refuse_argument(
            format('%s is no usable timeout: %s', what, left(value::text, 100)),
            'Nothing can be done in no time.', 'Leave it out for no limit.');
    end if;
    return v_seconds;
end
$$;

-- Checked once, when the message is laid down. schedule_to_close counts from here. `details` are
-- those of an attempt that ran before there was a message.
create or replace function hotmesh._timeout_policy(timeouts jsonb)
returns jsonb
language plpgsql
stable
as $$
declare
    v_known constant text[] := '{start_to_close,schedule_to_close,heartbeat,details}';
    v_all double precision;
begin
    if timeouts is null or timeouts = 'null' or timeouts = '{}' then
        return null;
    elsif jsonb_typeof(timeouts) <> 'object' then
        perform hotmesh._timeout_refuse(timeouts, 'they are no object');
    elsif exists (select from jsonb_object_keys(timeouts) k where k <> all (v_known)) then
        perform hotmesh._timeout_refuse(timeouts, 'unknown key');
    end if;
    v_all := hotmesh._timeout_seconds(timeouts -> 'schedule_to_close', 'schedule_to_close_timeout');
    return nullif(jsonb_strip_nulls(jsonb_build_object(
        'start_to_close', hotmesh._timeout_seconds(
            timeouts -> 'start_to_close', 'start_to_close_timeout'),
        'heartbeat', hotmesh._timeout_seconds(timeouts -> 'heartbeat', 'heartbeat_timeout'),
        'schedule_to_close', v_all,
        'deadline', extract(epoch from hotmesh.now()) + v_all))
        || case when timeouts ? 'details'
                then jsonb_build_object('details', timeouts -> 'details') else '{}' end, '{}');
end
$$;

create or replace function hotmesh._timeout_instant(timeouts jsonb, key text)
returns timestamptz
language sql
immutable
as $$
    select to_timestamp((timeouts ->> key)::double precision)
$$;

-- An attempt begins.
create or replace function hotmesh._timeout_begin(timeouts jsonb, at timestamptz)
returns jsonb
language sql
immutable
as $$
    select timeouts
           || case when timeouts ? 'start_to_close' then jsonb_build_object(
                  'close_by', extract(epoch from at)
                              + (timeouts ->> 'start_to_close')::double precision)
                   else '{}' end
           || case when timeouts ? 'heartbeat' then jsonb_build_object(
                  'beat_by', extract(epoch from at)
                             + (timeouts ->> 'heartbeat')::double precision)
                   else '{}' end
$$;

-- A sign of life: the next one is due one heartbeat later. Null details leave those before.
create or replace function hotmesh._timeout_beat(timeouts jsonb, at timestamptz, details jsonb)
returns jsonb
language sql
immutable
as $$
    select nullif(
        coalesce(timeouts, '{}')
        || case when timeouts ? 'heartbeat' then jsonb_build_object(
               'beat_by', extract(epoch from at)
                          + (timeouts ->> 'heartbeat')::double precision)
                else '{}' end
        || case when details is not null then jsonb_build_object('details', details)
                else '{}' end,
        '{}')
$$;

-- When an attempt is given up: its lease ends, or one of its times is over, whichever is first.
create or replace function hotmesh._timeout_until(timeouts jsonb, lease_end timestamptz)
returns timestamptz
language sql
immutable
as $$
    select least(lease_end, hotmesh._timeout_instant(timeouts, 'close_by'),
                 hotmesh._timeout_instant(timeouts, 'beat_by'))
$$;

-- Which time of an attempt is over; null if none is, so that its worker was lost.
create or replace function hotmesh._timeout_over(timeouts jsonb, at timestamptz)
returns text
language sql
immutable
as $$
    select case when hotmesh._timeout_instant(timeouts, 'close_by') <= at then 'start_to_close'
                when hotmesh._timeout_instant(timeouts, 'beat_by') <= at then 'heartbeat' end
$$;

-- Whether another attempt may begin at that instant.
create or replace function hotmesh._timeout_allows(timeouts jsonb, at timestamptz)
returns boolean
language sql
immutable
as $$
    select coalesce(hotmesh._timeout_instant(timeouts, 'deadline') > at, true)
$$;

create or replace function hotmesh._timeout_error(
    name text, timeouts jsonb, which text, cause jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'type', 'TimedOutError', 'code', 596, 'timeout', which, 'cause', cause,
        'message', format('activity "%s" timed out: %s_timeout of %s s', name, which,
                          timeouts ->> which)))
$$;

-- 30_stream.sql
-- What has a concurrency key is then held where its queue has a limit per key (34).
create or replace function hotmesh._stream_enqueue(messages hotmesh.streams[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_keyed bigint[];
begin
    with laid as (
        insert into streams (
            kind, state, queue, name, priority, job_id, dimension, sequence,
            args, retry_policy, attempt, token, visible_at, worker, created_at, timeouts,
            concurrency_key, slot)
        select m.kind, m.state, m.queue, m.name, coalesce(m.priority, 0), m.job_id,
               coalesce(m.dimension, ''), m.sequence, m.args, m.retry_policy,
               coalesce(m.attempt, 0), coalesce(m.token, 0), m.visible_at, m.worker, v_now,
               m.timeouts, m.concurrency_key,
               case when m.kind = 'workflow' and m.dimension <> '' then 0 end
        from unnest(messages) m
        returning id, concurrency_key, state)
    select array_agg(l.id) into v_keyed
    from laid l
    where l.concurrency_key is not null and l.state = 'ready';
    if v_keyed is not null then
        update streams s set state = 'ready'
        where s.id = any (v_keyed) and exists (
            select from limits l
            where l.queue = s.queue and l.kind = s.kind and l.per_key is not null);
    end if;
end
$$;

-- Topics (queue and function) that have ready work for this worker, as places in the arrays, the
-- oldest and most urgent first.
create or replace function hotmesh._stream_heads(
    kind text, queues text[], names text[], worker text)
returns setof integer
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
begin
    return query
    select t.place::integer
    from unnest(queues, names) with ordinality as t (queue, name, place)
    cross join lateral (
        select s.priority, s.id
        from streams s
        where s.state = 'ready' and s.kind = _stream_heads.kind
          and s.queue = t.queue and s.name = t.name
          and (s.worker is null or s.worker = _stream_heads.worker
               or s.visible_at <= v_grace or s.visible_at > v_grace + interval '1 s')
        order by s.priority desc, s.id
        limit 1) h
    order by h.priority desc, h.id;
end
$$;

create or replace function hotmesh._stream_lease(ids bigint[], worker text, lease interval)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    update streams s
    set state = 'leased',
        cursor = case when s.worker = _stream_lease.worker then s.cursor end,
        worker = _stream_lease.worker,
        token = s.token + 1,
        attempt = s.attempt + 1,
        visible_at = case when s.timeouts is null then v_now + lease
                          else hotmesh._timeout_until(
                              hotmesh._timeout_begin(s.timeouts, v_now), v_now + lease) end,
        timeouts = case when s.timeouts is not null
                        then hotmesh._timeout_begin(s.timeouts, v_now) end
    where s.id = any (ids);
end
$$;

create or replace function hotmesh._stream_claim(
    kind text, queues text[], names text[], worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_ids bigint[] := '{}';
    v_place integer;
    v_places integer[] := '{1}';
begin
    if cardinality(names) <> 1 then
        v_places := array(
            select h from hotmesh._stream_heads(kind, queues, names, worker) h);
    end if;
    foreach v_place in array v_places loop
        exit when cardinality(v_ids) >= take;
        v_ids := v_ids || array(
            select s.id
            from streams s
            where s.state = 'ready' and s.kind = _stream_claim.kind
              and s.queue = queues[v_place] and s.name = names[v_place]
              and (s.worker is null or s.worker = _stream_claim.worker
                   or s.visible_at <= v_now - interval '100 ms'
                   or s.visible_at > v_now + interval '900 ms')
            order by s.priority desc, s.id
            limit take - cardinality(v_ids)
            for update skip locked);
    end loop;
    if v_ids <> '{}' then
        perform hotmesh._stream_lease(v_ids, worker, lease);
    end if;
    return v_ids;
end
$$;

-- A finished activity turns into the event that tells its job: same row, one update.
-- `told` are jobs whose lock the caller holds.
create or replace function hotmesh._stream_complete(ids bigint[], outputs jsonb[], told bigint[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_bounded bigint[];
begin
    with finished as (
        update streams s
        set kind = 'event', name = 'result', queue = '', priority = 0, worker = null,
            visible_at = v_now, error = null, retry_policy = null,
            state = case when s.job_id = any (told) then 'waiting' else 'ready' end,
            args = jsonb_build_object('output', outputs[array_position(ids, s.id)])
        where s.id = any (ids) and s.job_id is not null
        returning s.id, s.timeouts)
    select array_agg(f.id) into v_bounded from finished f where f.timeouts is not null;
    delete from streams s where s.id = any (ids) and s.job_id is null;
    if v_bounded is not null then
        perform hotmesh._stream_drop_deadlines(v_bounded);
    end if;
end
$$;

-- The alarms that bound all attempts of these activities. One that rings this instant is locked: it
-- finds out by itself that there is nothing to end.
create or replace function hotmesh._stream_drop_deadlines(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select t.id
        from streams m
        join streams t
            on t.job_id = m.job_id and t.kind = 'timer' and t.name = 'deadline'
            and t.dimension = m.dimension and t.sequence = m.sequence
        where m.id = any (ids) and m.timeouts ? 'deadline'
        for update of t skip locked));
end
$$;

-- What is known of failed attempts: the policy of their worker, for those that have none, and the
-- details of their last heartbeat.
create or replace function hotmesh._stream_note(ids bigint[], policies jsonb[], details jsonb[])
returns void
language plpgsql
as $$
begin
    update streams s
    set retry_policy = coalesce(s.retry_policy, n.policy),
        timeouts = case when n.details is null then s.timeouts
                        else hotmesh._timeout_beat(s.timeouts, s.visible_at, n.details) end
    from unnest(ids, policies, details) as n (id, policy, details)
    where s.id = any (ids) and s.id = n.id;
end
$$;

-- The error of an activity that is not tried again: 596 when its time was over, 597 when every
-- attempt was used up, 598 when no other could help.
create or replace function hotmesh._stream_verdict(message hotmesh.streams, error jsonb)
returns jsonb
language sql
immutable
as $$
    select case
        when hotmesh._retry_activity(message.retry_policy, message.attempt, error)
             and error ->> 'timeout' is distinct from 'schedule_to_close'
            then hotmesh._timeout_error(
                message.name, message.timeouts, 'schedule_to_close', error)
        when error ->> 'code' = '596' or hotmesh._retry_is_final(error) then error
        when hotmesh._retry_again(message.retry_policy, 0, error)
            then error || '{"code": 597}'
        else error || '{"code": 598}' end
        || jsonb_build_object('attempt', message.attempt)
$$;

-- A failed activity is delayed by its policy, or becomes a dead letter and its failure an event.
create or replace function hotmesh._stream_fail(ids bigint[], errors jsonb[], told bigint[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_dead bigint[];
begin
    update streams s
    set state = 'delayed', worker = null, error = f.error,
        visible_at = v_now + hotmesh._retry_delay(s.retry_policy, s.attempt)
    from unnest(ids, errors) as f (id, error)
    where s.id = any (ids) and s.id = f.id
      and hotmesh._retry_activity(s.retry_policy, s.attempt, f.error)
      and (s.timeouts is null or hotmesh._timeout_allows(
          s.timeouts, v_now + hotmesh._retry_delay(s.retry_policy, s.attempt)));
    v_dead := array(select s.id from streams s where s.id = any (ids) and s.state = 'leased');
    if v_dead <> '{}' then
        update streams s
        set state = 'dead', worker = null, visible_at = v_now,
            error = hotmesh._stream_verdict(s::hotmesh.streams, f.error)
        from unnest(ids, errors) as f (id, error)
        where s.id = any (v_dead) and s.id = f.id;
        perform hotmesh._stream_tell_failure(v_dead, told);
    end if;
end
$$;

create or replace function hotmesh._stream_tell_failure(dead bigint[], told bigint[])
returns void
language plpgsql
as $$
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select 'event', 'result', case when s.job_id = any (told) then 'waiting' else 'ready' end,
           s.job_id, s.dimension, s.sequence, jsonb_build_object('error', s.error),
           s.visible_at, s.visible_at
    from streams s
    where s.id = any (dead) and s.job_id is not null and s.kind = 'activity';
    perform hotmesh._stream_drop_deadlines(dead);
end
$$;

create or replace function hotmesh._stream_drop(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from streams m
        where m.job_id = any (job_ids) and m.state <> 'dead'
          and not (m.kind in ('event', 'signal') and coalesce(m.args, '{}') ? 'published')
        for update skip locked));
end
$$;

-- `visible_at` is the truth: whoever moves it by hand into the future delays the message.
create or replace function hotmesh._stream_honour_visible_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.state := case when new.visible_at > hotmesh.now() then 'delayed' else 'ready' end;
    return new;
end
$$;
create or replace trigger honour_visible_at before update of visible_at on hotmesh.streams
for each row when (old.state = 'ready' and new.state = 'ready' and old.visible_at < new.visible_at)
execute function hotmesh._stream_honour_visible_at();

-- Announced activities of a report: leased to its sender from the start.
-- Returns their ids in the order given.
create or replace function hotmesh._stream_announce(messages hotmesh.streams[])
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := array(
        select nextval('hotmesh.ids') from generate_series(1, cardinality(messages)));
begin
    insert into streams (
        id, kind, state, queue, name, priority, job_id, dimension, sequence,
        args, retry_policy, attempt, token, visible_at, worker, created_at, timeouts,
        concurrency_key)
    select v_ids[m.ordinality], 'activity', 'leased', m.queue, m.name, coalesce(m.priority, 0),
           m.job_id, m.dimension, m.sequence, m.args, m.retry_policy, 1, 1,
           hotmesh._timeout_until(hotmesh._timeout_begin(m.timeouts, hotmesh.now()), m.visible_at),
           m.worker, hotmesh.now(), hotmesh._timeout_begin(m.timeouts, hotmesh.now()),
           m.concurrency_key
    from unnest(messages) with ordinality m;
    return v_ids;
end
$$;

create or replace function hotmesh._stream_cancel(
    job_ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from unnest(job_ids, dimensions, sequences) as c (job_id, dimension, sequence)
        join streams m
            on m.job_id = c.job_id and m.kind in ('timer', 'activity')
            and m.dimension = c.dimension and m.sequence = c.sequence
        for update of m skip locked));
end
$$;

-- A workflow that has nothing to do until news comes. Its worker keeps the coroutine;
-- `cursors` says how far it has seen.
create or replace function hotmesh._stream_rest(ids bigint[], cursors bigint[])
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'waiting', attempt = 0, cursor = cursors[array_position(ids, s.id)]
    where s.id = any (ids);
end
$$;

-- A function that starts over: its steps are numbered on from `sequence`, so that nothing which is
-- late is taken for an answer of the new ones.
create or replace function hotmesh._stream_again(id bigint, sequence integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    update streams s
    set state = 'ready', worker = null, cursor = null, attempt = 0, error = null,
        sequence = _stream_again.sequence, visible_at = v_now, created_at = v_now
    where s.id = _stream_again.id;
end
$$;

-- A run that has reported and is to run again: its lost deliveries are forgotten, its failures not.
create or replace function hotmesh._stream_delay(id bigint, delay interval, failure jsonb)
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'delayed', worker = null, cursor = null,
        attempt = hotmesh._retry_failures(failure),
        visible_at = hotmesh.now() + delay, error = failure
    where s.id = _stream_delay.id;
end
$$;

-- A claim that could not be used: it does not count as a delivery.
create or replace function hotmesh._stream_postpone(ids bigint[], delay interval)
returns void
language plpgsql
as $$
begin
    update streams s
    set state = 'delayed', worker = null, cursor = null,
        attempt = greatest(s.attempt - 1, 0), visible_at = hotmesh.now() + delay
    where s.id = any (ids);
end
$$;

-- A parked workflow is served again. A dead activity stays dead: its failure was told.
create or replace function hotmesh._stream_revive(id bigint)
returns boolean
language plpgsql
as $$
begin
    update streams s
    set state = 'ready', attempt = 0, worker = null, error = null, visible_at = hotmesh.now()
    where s.id = _stream_revive.id and s.state = 'dead' and s.kind = 'workflow';
    return found;
end
$$;

create or replace function hotmesh._stream_refuse_missing(id bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'no parked workflow %', coalesce(id::text, 'null') using errcode = 'MSH30',
        detail = 'There is no message with this id, or it is not dead, or it is an activity, whose '
                 || 'failure was told.',
        hint = 'hotmesh.stuck_jobs shows what is parked.';
end
$$;

-- 31_inbox.sql
-- Takes the results that wait for functions whose jobs' locks the caller holds, up to 500 of each:
-- a run that got news stays held, and its next report takes the rest.
create or replace function hotmesh._inbox_take(job_ids bigint[], dimensions text[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(job_ids, dimensions) as f (job_id, dimension)
            cross join lateral (
                select m.id from streams m
                where m.job_id = f.job_id and m.kind = 'event' and m.name = 'result'
                  and m.dimension = f.dimension
                order by m.visible_at, m.id limit 500 for update skip locked) e))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event) into v_events from taken t;
    return v_events;
end
$$;

-- Finished activities of graphs, as the events that tell their jobs at once: they are never laid
-- down. Their messages stay for what comes next (32), or to be dropped. They have no deadlines.
create or replace function hotmesh._inbox_finish(ids bigint[], outputs jsonb[])
returns hotmesh.streams[]
language plpgsql
as $$
begin
    return array(
        select (
            s.id, 'event', 'waiting', '', 'result', 0, s.job_id, s.dimension, s.sequence, null,
            jsonb_build_object('output', outputs[array_position(ids, s.id)]), null, 0, 0,
            null, null, null, null, null, null, null)::hotmesh.streams
        from streams s
        where s.id = any (ids)
        order by s.id);
end
$$;

-- Takes the results that wait for graphs whose jobs' locks the caller holds, up to 500 of each.
create or replace function hotmesh._inbox_drain(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    if hotmesh._inbox_jobs(job_ids, '{result}') = '{}' then
        return '{}';
    end if;
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(job_ids) as j (id)
            cross join lateral (
                select m.id from streams m
                where m.job_id = j.id and m.kind = 'event' and m.name = 'result'
                order by m.visible_at, m.id limit 500 for update skip locked) e))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).visible_at, (t.event).id) into v_events
    from taken t;
    return coalesce(v_events, '{}');
end
$$;

-- Places (job and dimension) of these jobs for which there is news.
create or replace function hotmesh._inbox_left(job_ids bigint[])
returns text[]
language plpgsql
as $$
begin
    return array(
        select distinct s.job_id || s.dimension from streams s
        where s.job_id = any (job_ids) and s.kind = 'event' and s.name in ('result', 'query'));
end
$$;

-- Files the news of jobs whose locks the caller holds and makes their waiting functions ready. News
-- of a function whose message is locked this instant (its lease is being extended) stay unfiled, so
-- that a later turn comes back to it: filed news of a function that waits would wake nobody.
-- Returns the workers that hold one that runs.
create or replace function hotmesh._inbox_route(job_ids bigint[])
returns text[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_seen bigint[] := hotmesh._inbox_functions(job_ids);
    v_holders text[];
begin
    update streams e
    set state = case e.state when 'ready' then 'waiting' else 'ready' end
    where e.id = any (array(
        select m.id
        from streams m
        where m.job_id = any (job_ids) and m.kind = 'event' and m.name in ('result', 'query')
          and (m.state = 'waiting') <> exists (
              select from streams f
              where f.job_id = m.job_id and f.kind = 'workflow' and f.dimension = m.dimension
                and f.id = any (v_seen))
        for update skip locked));
    update streams s set state = 'ready', visible_at = v_now
    where s.id = any (v_seen) and s.state = 'waiting';
    select array_agg(distinct m.worker) into v_holders
    from streams m
    where m.id = any (v_seen) and m.state in ('leased', 'ready') and m.worker is not null;
    return v_holders;
end
$$;

-- Answers of functions that have ended which could not be taken, being locked: news brings a turn
-- back to them.
create or replace function hotmesh._inbox_remind(job_ids bigint[], dimensions text[])
returns void
language plpgsql
as $$
declare
    v_left hotmesh.streams[] := array(
        select hotmesh._inbox_event('result', f.job_id, f.dimension, null, '{}')
        from unnest(job_ids, dimensions) as f (job_id, dimension)
        where exists (
            select from streams s
            where s.job_id = f.job_id and s.kind = 'event' and s.name = 'result'
              and s.dimension = f.dimension));
begin
    if v_left <> '{}' then
        perform hotmesh._inbox_add(v_left);
    end if;
end
$$;

-- News for functions that have ended, of jobs that go on; if some of it is not filed, all of it.
-- What is locked this instant is left, and brings a turn back to it.
create or replace function hotmesh._inbox_orphans(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_jobs bigint[];
    v_dimensions text[];
    v_orphans hotmesh.streams[];
begin
    select array_agg(n.job_id), array_agg(n.dimension) into v_jobs, v_dimensions
    from (
        select distinct e.job_id, e.dimension from streams e
        where e.job_id = any (job_ids) and e.kind = 'event' and e.state = 'ready'
          and e.name in ('result', 'query')
          and not exists (
              select from streams f
              where f.job_id = e.job_id and f.kind = 'workflow'
                and f.dimension = e.dimension)) n;
    with gone as (
        delete from streams s
        where s.id = any (array(
            select e.id
            from unnest(v_jobs, v_dimensions) as f (job_id, dimension)
            join streams e
                on e.job_id = f.job_id and e.kind = 'event' and e.dimension = f.dimension
                and e.name in ('result', 'query')
            for update of e skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(g.event) into v_orphans from gone g where v_jobs is not null;
    perform hotmesh._inbox_remind(v_jobs, v_dimensions) where v_jobs is not null;
    return v_orphans;
end
$$;

-- Takes what these jobs had of signals by name, so that one turn alone passes them on: answers, and
-- what was kept for a run that started over.
create or replace function hotmesh._inbox_published(job_ids bigint[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select e.id from streams e
            where e.job_id = any (job_ids) and e.kind in ('event', 'signal')
              and e.name in ('result', 'signal') and e.args ? 'published'
            for update skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).id) into v_events from taken t;
    return v_events;
end
$$;

-- The functions of these jobs for which there are results and whose messages can be locked now.
create or replace function hotmesh._inbox_functions(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select f.id
        from (
            select distinct e.job_id, e.dimension
            from streams e
            where e.job_id = any (job_ids) and e.kind = 'event'
              and e.name in ('result', 'query')) p
        cross join lateral (
            select m.id from streams m
            where m.job_id = p.job_id and m.kind = 'workflow' and m.dimension = p.dimension
            for update skip locked) f);
end
$$;

-- Jobs behind this one for which there is news to file, each found by one look, however much there
-- is for one.
create or replace function hotmesh._inbox_unfiled(
    names text[], take integer, after bigint default 0)
returns bigint[]
language plpgsql
as $$
begin
    if not exists (
        select from streams s
        where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = any (names))
    then
        return '{}';
    end if;
    return array(
        with recursive found (name, job_id) as (
            select n.name, after from unnest(names) n (name)
            union all
            select f.name, (
                select min(s.job_id) from streams s
                where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = f.name
                  and s.job_id > f.job_id)
            from found f
            where f.job_id is not null)
        select f.job_id from found f where f.job_id > after limit take);
end
$$;

-- The last of them.
create or replace function hotmesh._inbox_last(names text[])
returns bigint
language plpgsql
as $$
begin
    return (
        select max(l.job_id)
        from unnest(names) n (name)
        cross join lateral (
            select max(s.job_id) as job_id from streams s
            where s.kind in ('event', 'signal') and s.state = 'ready' and s.name = n.name) l);
end
$$;

create or replace function hotmesh._inbox_put(
    job_id bigint, dimension text, name text, args jsonb, id bigint default null)
returns void
language plpgsql
as $$
begin
    insert into streams (id, kind, name, state, job_id, dimension, args, visible_at, created_at)
    values (coalesce(id, nextval('hotmesh.ids')),
            case name when 'signal' then name else 'event' end,
            name, 'ready', job_id, dimension, args, hotmesh.now(), hotmesh.now());
end
$$;

-- A piece of news, to be added.
create or replace function hotmesh._inbox_event(
    name text, job_id bigint, dimension text, sequence integer, args jsonb)
returns hotmesh.streams
language sql
stable
as $$
    select jsonb_populate_record(null::hotmesh.streams, jsonb_build_object(
        'name', name, 'job_id', job_id, 'dimension', dimension, 'sequence', sequence,
        'args', args))
$$;

create or replace function hotmesh._inbox_add(events hotmesh.streams[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select 'event', e.name, 'ready', e.job_id, e.dimension, e.sequence, e.args, v_now, v_now
    from unnest(events) e;
end
$$;

-- The answer of a step; `waiting` if its function takes it in this turn, under its job's lock.
create or replace function hotmesh._inbox_told(
    job_id bigint, dimension text, sequence integer, args jsonb, state text)
returns void
language plpgsql
as $$
begin
    insert into streams (
        kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    values ('event', 'result', state, job_id, dimension, sequence, args, hotmesh.now(),
            hotmesh.now());
end
$$;

-- Signals that met their waits become those steps' results: new rows, since one that was locked in
-- a subtransaction and deleted outside of it stays in the way of every look until it is vacuumed.
create or replace function hotmesh._inbox_answer(
    ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
begin
    with met as (
        delete from streams s
        using unnest(ids, dimensions, sequences) as a (id, dimension, sequence)
        where s.id = any (ids) and s.id = a.id
        returning s.id, s.job_id, a.dimension, a.sequence, s.args, s.visible_at, s.created_at)
    insert into streams (
        id, kind, name, state, job_id, dimension, sequence, args, visible_at, created_at)
    select m.id, 'event', 'result', 'ready', m.job_id, m.dimension, m.sequence, m.args,
           m.visible_at, m.created_at
    from met m;
end
$$;

-- The signals to these jobs that are not filed, locked. In no order: that would be the order of the
-- primary key, and a look at every message there is.
create or replace function hotmesh._inbox_signals(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select m.id
        from streams m
        where m.name = 'signal' and m.job_id = any (job_ids)
          and m.kind = 'signal' and m.state = 'ready'
        for update skip locked);
end
$$;

create or replace function hotmesh._inbox_file(ids bigint[])
returns void
language plpgsql
as $$
begin
    update streams s set state = 'waiting' where s.id = any (ids) and s.state = 'ready';
end
$$;

-- Signals to a job that were filed and could not be taken when a wait for them was opened.
create or replace function hotmesh._inbox_unfile(job_ids bigint[], names text[])
returns void
language plpgsql
as $$
begin
    update streams s set state = 'ready'
    where s.id = any (array(
        select m.id
        from unnest(job_ids, names) as w (job_id, name)
        join streams m
            on m.job_id = w.job_id and m.kind = 'signal' and m.dimension = w.name
            and m.state = 'waiting'
        for update of m skip locked));
end
$$;

create or replace function hotmesh._inbox_jobs(job_ids bigint[], names text[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select distinct s.job_id from streams s
        where s.job_id = any (job_ids) and s.kind = 'event' and s.name = any (names));
end
$$;

create or replace function hotmesh._inbox_release(ids bigint[])
returns jsonb
language plpgsql
as $$
declare
    v_kept jsonb;
begin
    with taken as (delete from streams s where s.id = any (ids) returning s.id, s.args)
    select coalesce(jsonb_agg(t.args || '{"was_kept": true}' order by t.id), '[]') into v_kept
    from taken t;
    return v_kept;
end
$$;

-- Orders for jobs whose locks the caller holds, in the order in which they were given.
create or replace function hotmesh._inbox_orders(job_ids bigint[], names text[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_orders hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select m.id from streams m
            where m.job_id = any (job_ids) and m.kind = 'event' and m.name = any (names)
            for update skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event order by (t.event).id) into v_orders from taken t;
    return coalesce(v_orders, '{}');
end
$$;

-- Locks the messages of a function's steps and their answers; false if somebody else has one this
-- instant.
create or replace function hotmesh._inbox_hold(job_id bigint, dimension text)
returns boolean
language plpgsql
as $$
declare
    v_mine bigint[] := array(
        select m.id from streams m
        where m.job_id = _inbox_hold.job_id and m.dimension = _inbox_hold.dimension
          and (m.kind in ('timer', 'activity') or m.name in ('result', 'effect'))
        for update skip locked);
begin
    return not exists (
        select from streams m
        where m.job_id = _inbox_hold.job_id and m.dimension = _inbox_hold.dimension
          and (m.kind in ('timer', 'activity') or m.name in ('result', 'effect'))
          and m.id <> all (v_mine));
end
$$;

-- Takes the answers of these steps.
create or replace function hotmesh._inbox_withdraw(
    job_ids bigint[], dimensions text[], sequences integer[])
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[];
begin
    with taken as (
        delete from streams s
        where s.id = any (array(
            select m.id
            from unnest(job_ids, dimensions, sequences) as c (job_id, dimension, sequence)
            join streams m
                on m.job_id = c.job_id and m.kind = 'event' and m.name in ('result', 'effect')
                and m.dimension = c.dimension and m.sequence = c.sequence
            for update of m skip locked))
        returning (s::hotmesh.streams) as event)
    select array_agg(t.event) into v_events from taken t;
    return v_events;
end
$$;

-- What is left of functions that have ended, or with `activations` false, that start over. Never an
-- answer that was a signal: one that was locked until this instant still has to be given back.
create or replace function hotmesh._inbox_drop(
    job_ids bigint[], dimensions text[], activations boolean)
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id
        from unnest(job_ids, dimensions) as f (job_id, dimension)
        join streams m on m.job_id = f.job_id and m.dimension = f.dimension
        where m.state <> 'dead'
          and case m.kind when 'event' then m.name in ('result', 'effect')
                              and not coalesce(m.args, '{}') ? 'signal'
                          when 'signal' then false
                          when 'workflow' then activations
                          when 'timer' then m.name <> 'interrupt'
                          else true end
        for update of m skip locked));
end
$$;

-- 32_lease.sql
create or replace function hotmesh._lease_check(lease interval)
returns interval
language plpgsql
as $$
begin
    if lease is null or lease <= interval '0' or lease > interval '1 day' then
        perform hotmesh._refuse_argument(
            format('bad lease: %s', coalesce(lease::text, 'null')),
            'A lease lasts longer than nothing and at most a day.',
            'Leave it out for 15 s.');
    end if;
    return lease;
end
$$;

-- The messages of a report that its sender still holds. A row that is locked this instant
-- (its lease is being extended or given up) is left out.
create or replace function hotmesh._lease_held(ids bigint[], tokens integer[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        select s.id from streams s
        where s.id = any (ids) and s.state = 'leased'
          and s.token = tokens[array_position(ids, s.id)]
        order by s.id
        for update skip locked);
end
$$;

create or replace function hotmesh._lease_extend(ids bigint[], worker text, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_until timestamptz := hotmesh.now() + lease;
    v_held bigint[];
begin
    v_held := array(
        select s.id from streams s
        where s.id = any (ids) and s.state = 'leased' and s.worker = _lease_extend.worker
        for update skip locked);
    update streams s
    set visible_at = case when s.timeouts is null then v_until
                          else hotmesh._timeout_until(s.timeouts, v_until) end
    where s.id = any (v_held);
    return v_held;
end
$$;

-- Signs of life of the attempts that run: each also keeps its lease. busy: the row is locked this
-- instant.
create or replace function hotmesh._lease_beat(
    ids bigint[], tokens integer[], details jsonb[], lease interval)
returns table (id bigint, answer text)
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_held bigint[] := hotmesh._lease_held(ids, tokens);
begin
    update streams s
    set timeouts = b.timeouts, visible_at = hotmesh._timeout_until(b.timeouts, v_now + lease)
    from (
        select m.id, hotmesh._timeout_beat(
                   m.timeouts, v_now, details[array_position(ids, m.id)]) as timeouts
        from streams m
        where m.id = any (v_held)) b
    where s.id = any (v_held) and s.id = b.id;
    return query
    select b.id, case
        when b.id = any (v_held) then 'ok'
        when exists (
            select from streams s
            where s.id = b.id and s.token = b.token and s.state = 'leased') then 'busy'
        else 'stale' end
    from unnest(ids, tokens) as b (id, token);
end
$$;

-- A message whose activity has finished becomes the next one of its job, if its worker serves that:
-- leased to it already, as if it had been claimed. Once in a while it must queue up, so that jobs
-- that go in circles leave room for others. Returns the messages for which there was none.
create or replace function hotmesh._lease_relay(
    messages hotmesh.streams[], ids bigint[], tokens integer[], job_ids bigint[], topics text[],
    until timestamptz)
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_taken bigint[];
    v_ids bigint[];
begin
    with taken as (
        update streams s
        set queue = m.queue, name = m.name, dimension = m.dimension, sequence = m.sequence,
            args = m.args, retry_policy = m.retry_policy, attempt = 1, token = s.token + 1,
            error = null, visible_at = until, created_at = v_now
        from unnest(messages) with ordinality m
        where s.id = ids[array_position(job_ids, m.job_id)]
          and s.token = tokens[array_position(job_ids, m.job_id)] and s.token % 16 <> 0
          and s.kind = 'activity' and s.state = 'leased'
          and coalesce(s.slot, 0) = 0 and s.concurrency_key is null and s.timeouts is null
          and m.state = 'ready' and m.queue = any (topics)
        returning m.ordinality, s.id)
    select array_agg(t.ordinality), array_agg(t.id) into v_taken, v_ids from taken t;
    perform set_config('hotmesh.relayed', concat_ws(
        ',', nullif(current_setting('hotmesh.relayed', true), ''),
        array_to_string(v_ids, ',')), true)
    where v_ids is not null;
    return case
        when v_taken is null then messages
        when cardinality(v_taken) < cardinality(messages) then array(
            select messages[n] from generate_subscripts(messages, 1) n where n <> all (v_taken))
        else '{}' end;
end
$$;

-- The messages that were relayed in this turn: they are to be handed out.
create or replace function hotmesh._lease_relayed()
returns bigint[]
language plpgsql
as $$
declare
    v_ids text := current_setting('hotmesh.relayed', true);
begin
    if coalesce(v_ids, '') = '' then
        return '{}';
    end if;
    perform set_config('hotmesh.relayed', '', true);
    return string_to_array(v_ids, ',')::bigint[];
end
$$;

-- Messages of activities that have finished, and that nothing came after.
create or replace function hotmesh._lease_finish(ids bigint[], tokens integer[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (ids) and s.token = tokens[array_position(ids, s.id)] and s.state = 'leased';
end
$$;

-- A worker that stops gives back what it holds; what it had begun does not count as an attempt.
create or replace function hotmesh._lease_return(ids bigint[], worker text)
returns integer
language plpgsql
as $$
declare
    v_count integer;
begin
    update streams s
    set state = 'ready', worker = null, attempt = greatest(s.attempt - 1, 0),
        visible_at = hotmesh.now()
    where s.id = any (array(
        select m.id from streams m
        where m.id = any (ids) and m.state = 'leased' and m.worker = _lease_return.worker
          and not exists (
              select from streams e
              where e.job_id = m.job_id and e.kind = 'event' and e.name = 'report'
                and m.kind = 'workflow')
        for update skip locked));
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- A worker that lost an answer says what it holds; what it does not know of is ready again, but for
-- what it announces in this turn, `since` which it is told. Its leases end before `lease` has
-- passed, so what is delayed for longer is not looked at.
create or replace function hotmesh._lease_reconcile(
    worker text, held bigint[], lease interval, since timestamptz)
returns void
language plpgsql
as $$
declare
    v_until timestamptz := hotmesh.now() + lease;
begin
    perform hotmesh._lease_return(
        array(
            select s.id
            from streams s
            where s.state = 'leased' and s.visible_at > '-infinity' and s.visible_at <= v_until
              and s.worker = _lease_reconcile.worker and s.id <> all (held)
              and s.created_at <= since),
        worker);
end
$$;

-- A run that was delivered before has reported: it is alive, its deliveries count from one again.
create or replace function hotmesh._lease_alive(ids bigint[])
returns void
language plpgsql
as $$
begin
    update streams s set attempt = 1
    where s.id = any (array(
        select m.id
        from streams m
        where m.id = any (ids) and m.attempt > 1
        for update skip locked));
end
$$;

-- A job starts over as a new run: so does the time of a run.
create or replace function hotmesh._lease_run_again(job_id bigint)
returns void
language plpgsql
as $$
begin
    update streams s
    set visible_at = hotmesh.now() + make_interval(
            secs => (s.args ->> 'seconds')::double precision)
    where s.id = any (array(
        select m.id from streams m
        where m.job_id = _lease_run_again.job_id and m.kind = 'timer' and m.name = 'interrupt'
          and m.args ->> 'limit' = 'run_timeout'
        for update skip locked));
end
$$;

-- Seconds until the next delayed message is due or the next lease ends.
create or replace function hotmesh._lease_next_due()
returns double precision
language plpgsql
as $$
begin
    return (
        select greatest(0, extract(epoch from s.visible_at - hotmesh.now()))
        from streams s
        where s.state in ('delayed', 'leased') and s.visible_at > '-infinity'
        order by s.visible_at
        limit 1);
end
$$;

-- Seconds until the first run of a topic is anybody's that is still kept for another worker.
create or replace function hotmesh._lease_grace_ends(queues text[], names text[], worker text)
returns double precision
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
begin
    return (
        select extract(epoch from min(h.visible_at) - v_grace)
        from unnest(queues, names) as t (queue, name)
        cross join lateral (
            select s.worker, s.visible_at
            from streams s
            where s.state = 'ready' and s.kind = 'workflow'
              and s.queue = t.queue and s.name = t.name
            order by s.priority desc, s.id
            limit 1) h
        where h.worker <> _lease_grace_ends.worker
          and h.visible_at > v_grace and h.visible_at <= v_grace + interval '1 s');
end
$$;

-- Due messages become ready, due timers become events, lost workers give back what they held.
-- Bounded; every turn takes part.
create or replace function hotmesh._lease_sweep(take integer, only_queue text default null)
returns integer
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_due bigint[];
begin
    v_due := array(
        select s.id from streams s
        where s.state in ('delayed', 'leased') and s.visible_at > '-infinity'
          and s.visible_at <= v_now and (only_queue is null or s.queue = only_queue)
        order by s.visible_at
        limit take
        for update skip locked);
    if v_due = '{}' then
        return 0;
    end if;
    v_due := hotmesh._lease_deadlines(hotmesh._lease_late(hotmesh._lease_spare(v_due)));
    perform hotmesh._lease_bury(array(
        select s.id from streams s
        where s.id = any (v_due) and s.state = 'leased'
          and (s.kind = 'workflow' and s.attempt - hotmesh._retry_failures(s.error) >= 5
               or s.kind = 'activity'
               and not hotmesh._retry_again(s.retry_policy, s.attempt, null))));
    update streams s
    set kind = case s.kind when 'timer' then 'event' else s.kind end,
        name = case when s.kind = 'timer' and s.name = '' then 'result' else s.name end,
        args = case when s.kind = 'timer' then coalesce(s.args, '{"output": null}')
                    else s.args end,
        state = 'ready', worker = null
    where s.id = any (v_due) and s.state <> 'dead';
    return cardinality(v_due);
end
$$;

-- A run whose last report waits in its job's inbox was not lost with its worker: it stays as it is
-- until that report was applied.
create or replace function hotmesh._lease_spare(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_kept bigint[];
    v_spared bigint[];
begin
    if due = '{}' then
        return due;
    end if;
    v_kept := hotmesh._inbox_jobs(
        array(select s.job_id from streams s where s.id = any (due) and s.kind = 'workflow'),
        '{report}');
    with spared as (
        update streams s set visible_at = hotmesh.now() + interval '1 s'
        where s.id = any (due) and s.job_id = any (v_kept)
          and s.kind = 'workflow' and s.state = 'leased'
        returning s.id)
    select coalesce(array_agg(p.id), '{}') into v_spared from spared p;
    return array(select d from unnest(due) d where d <> all (v_spared));
end
$$;

-- Attempts whose time is over fail, by their policy; their late reports are stale. Returns the
-- others.
create or replace function hotmesh._lease_late(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_late bigint[];
    v_errors jsonb[];
begin
    select array_agg(s.id),
           array_agg(hotmesh._timeout_error(
               s.name, s.timeouts, hotmesh._timeout_over(s.timeouts, v_now), null))
    into v_late, v_errors
    from streams s
    where s.id = any (due) and s.state = 'leased' and s.timeouts is not null
      and hotmesh._timeout_over(s.timeouts, v_now) is not null;
    if v_late is null then
        return due;
    end if;
    perform hotmesh._stream_fail(v_late, v_errors, '{}');
    return array(select d from unnest(due) d where d <> all (v_late));
end
$$;

-- Alarms that bound all attempts of an activity: it ends, whatever its state. One that is locked
-- this instant is ended by the next sweep. Returns the other due messages.
create or replace function hotmesh._lease_deadlines(due bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_alarms bigint[] := array(
        select s.id from streams s
        where s.id = any (due) and s.kind = 'timer' and s.name = 'deadline');
    v_ended bigint[];
begin
    if v_alarms = '{}' then
        return due;
    end if;
    v_ended := array(
        select m.id from streams a
        join streams m
            on m.job_id = a.job_id and m.kind = 'activity' and m.state <> 'dead'
            and m.dimension = a.dimension and m.sequence = a.sequence
        where a.id = any (v_alarms)
        for update of m skip locked);
    update streams s
    set state = 'dead', worker = null, visible_at = hotmesh.now(),
        error = jsonb_build_object('attempt', s.attempt) || hotmesh._timeout_error(
            s.name, s.timeouts, 'schedule_to_close', s.error)
    where s.id = any (v_ended);
    perform hotmesh._stream_tell_failure(v_ended, '{}');
    delete from streams a
    where a.id = any (v_alarms) and not exists (
        select from streams m
        where m.job_id = a.job_id and m.kind = 'activity' and m.state <> 'dead'
          and m.dimension = a.dimension and m.sequence = a.sequence);
    return array(select d from unnest(due) d where d <> all (v_alarms));
end
$$;

create or replace function hotmesh._lease_bury(lost bigint[])
returns void
language plpgsql
as $$
begin
    if lost = '{}' then
        return;
    end if;
    update streams s
    set state = 'dead', visible_at = hotmesh.now(), error = jsonb_build_object(
        'type', 'WorkerLostError', 'code', 597, 'attempt', s.attempt,
        'message', format('worker %s took it %s times and never reported', s.worker, s.attempt))
    where s.id = any (lost);
    perform hotmesh._stream_tell_failure(lost, '{}');
end
$$;

-- What can't even be recorded on its job waits for a person.
create or replace function hotmesh._lease_park(id bigint, failure jsonb)
returns void
language plpgsql
as $$
begin
    update streams s set state = 'dead', visible_at = hotmesh.now(), error = failure
    where s.id = any (array(
        select m.id
        from streams m
        where m.id = _lease_park.id and m.state = 'leased'
        for update skip locked));
end
$$;

-- 33_limit.sql
-- Seconds of one of the sixty slices in which beginnings are counted. A message counts until the
-- sixtieth slice after its own has ended, so any time of length `per` has at most `rate` of them.
create or replace function hotmesh._limit_slice(per interval)
returns double precision
language sql
immutable
parallel safe
as $$
    select extract(epoch from per)::double precision / 60
$$;

-- What began lately: (slice, how many).
create or replace function hotmesh._limit_begun(lim hotmesh.limits)
returns table (slice bigint, number integer)
language sql
stable
as $$
    select b.key::bigint, b.value::integer
    from jsonb_each_text(lim.begun) b
    where abs(b.key::bigint
              - floor(extract(epoch from hotmesh.now()) / hotmesh._limit_slice(lim.per))) <= 60
$$;

-- Seconds until the throttle lets something begin again; zero or less: now.
create or replace function hotmesh._limit_pause(lim hotmesh.limits)
returns double precision
language sql
stable
as $$
    select lim.throttle / 1000.0 - abs(extract(epoch from hotmesh.now() - lim.updated_at))
$$;

-- How many more may begin now; the caller who means to take them holds the row's lock.
create or replace function hotmesh._limit_free(lim hotmesh.limits)
returns integer
language plpgsql
as $$
begin
    return coalesce(least(
        lim.concurrency - case when lim.concurrency is not null then (
            select count(*)
            from streams s
            where s.kind = lim.kind and s.queue = lim.queue and s.slot = 2) end,
        lim.rate - case when lim.rate is not null then (
            select coalesce(sum(b.number), 0) from hotmesh._limit_begun(lim) b) end,
        case when lim.throttle is not null then (
            lim.throttle > 0 and hotmesh._limit_pause(lim) <= 0)::integer end),
        2147483647);
end
$$;

create or replace function hotmesh._limit_count(lim hotmesh.limits, number integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_slice text := floor(extract(epoch from v_now) / hotmesh._limit_slice(lim.per))::text;
begin
    update limits l
    set updated_at = case when number > 0 then v_now else l.updated_at end,
        begun = case when lim.rate is null then '{}' else coalesce((
                select jsonb_object_agg(b.slice, b.number) from hotmesh._limit_begun(lim) b), '{}')
            || case when number > 0 then jsonb_build_object(
                v_slice, coalesce((lim.begun ->> v_slice)::integer, 0) + number) else '{}' end end
    where l.queue = lim.queue and l.kind = lim.kind;
end
$$;

-- Those of these queues that are limited.
create or replace function hotmesh._limit_of(kind text, queues text[])
returns hotmesh.limits[]
language plpgsql
as $$
begin
    return array(
        select (l::hotmesh.limits)
        from limits l
        where l.queue = any (queues) and l.kind = _limit_of.kind
          and coalesce(l.concurrency, l.per_key, l.rate, l.throttle) is not null);
end
$$;

-- Workflows that go on have their slot: no limit keeps them waiting.
create or replace function hotmesh._limit_resume(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_grace timestamptz := hotmesh.now() - interval '100 ms';
    v_ids bigint[] := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = 'workflow' and s.slot <> 1
          and s.queue = _limit_resume.queue and s.name = _limit_resume.name
          and (s.worker is null or s.worker = _limit_resume.worker
               or s.visible_at <= v_grace or s.visible_at > v_grace + interval '1 s')
        order by s.priority desc, s.id
        limit take
        for update skip locked);
begin
    perform hotmesh._stream_lease(v_ids, worker, lease);
    return v_ids;
end
$$;

-- Takes what may begin. While somebody else takes from this queue nothing is taken.
create or replace function hotmesh._limit_take(
    kind text, queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limit hotmesh.limits;
    v_free integer;
    v_taken bigint[];
    v_ids bigint[];
begin
    select (l::hotmesh.limits).* into v_limit
    from limits l
    where l.queue = _limit_take.queue and l.kind = _limit_take.kind
    for update skip locked;
    v_free := least(take, hotmesh._limit_free(v_limit));
    if v_limit.queue is null or v_free <= 0 then
        return '{}';
    end if;
    v_taken := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = _limit_take.kind
          and s.queue = _limit_take.queue and s.name = _limit_take.name
          and (s.slot is null or s.slot = 1)
        order by s.priority desc, s.id
        limit v_free
        for update skip locked);
    -- what came while the limit was being set has no slot of its key: the trigger holds it
    update streams s set state = 'ready'
    where s.id = any (v_taken) and s.slot is null and v_limit.per_key is not null
      and s.concurrency_key is not null;
    v_ids := array(select s.id from streams s where s.id = any (v_taken) and s.state = 'ready');
    perform hotmesh._stream_lease(v_ids, worker, lease);
    update streams s set slot = 2 where s.id = any (v_ids);
    perform hotmesh._limit_count(v_limit, cardinality(v_ids)) where v_ids <> '{}';
    return v_ids;
end
$$;

-- The claim for queues of which some may be limited.
create or replace function hotmesh._limit_claim(
    kind text, queues text[], names text[], worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limits hotmesh.limits[] := hotmesh._limit_of(kind, queues);
    v_ids bigint[] := '{}';
    v_place integer;
begin
    if v_limits = '{}' then
        return hotmesh._stream_claim(kind, queues, names, worker, take, lease);
    end if;
    foreach v_place in array array(
        select h from hotmesh._stream_heads(kind, queues, names, worker) h)
    loop
        exit when cardinality(v_ids) >= take;
        if not exists (select from unnest(v_limits) l where l.queue = queues[v_place]) then
            v_ids := v_ids || hotmesh._stream_claim(
                kind, queues[v_place:v_place], names[v_place:v_place], worker,
                take - cardinality(v_ids), lease);
            continue;
        end if;
        if kind = 'workflow' then
            v_ids := v_ids || hotmesh._limit_resume(
                queues[v_place], names[v_place], worker, take - cardinality(v_ids), lease);
        end if;
        v_ids := v_ids || hotmesh._limit_take(
            kind, queues[v_place], names[v_place], worker, take - cardinality(v_ids), lease);
    end loop;
    return v_ids;
end
$$;

-- Is there anything that this worker might claim now?
create or replace function hotmesh._limit_useful(
    kind text, queues text[], names text[], worker text)
returns boolean
language plpgsql
as $$
declare
    v_full text[] := array(
        select l.queue
        from unnest(hotmesh._limit_of(kind, queues)) l
        where hotmesh._limit_free(l) <= 0);
begin
    if v_full = '{}' then
        return exists (select from hotmesh._stream_heads(kind, queues, names, worker));
    end if;
    return exists (
        select from hotmesh._stream_heads(
            kind,
            array(select q from unnest(queues) q where q <> all (v_full)),
            array(select t.name from unnest(queues, names) as t (queue, name)
                  where t.queue <> all (v_full)),
            worker))
        or kind = 'workflow' and exists (
            select
            from unnest(queues, names) as t (queue, name)
            cross join lateral (
                select from streams s
                where s.state = 'ready' and s.kind = 'workflow' and s.slot <> 1
                  and s.queue = t.queue and s.name = t.name
                limit 1) r
            where t.queue = any (v_full));
end
$$;

-- Which of these queues have limits for their activities (a worker must not run those inline); null
-- if it is as the worker knows it: {queue: limited, …}.
create or replace function hotmesh._limit_news(known jsonb)
returns jsonb
language plpgsql
as $$
begin
    return nullif((
        select jsonb_object_agg(k, hotmesh._limit_of('activity', array[k]) <> '{}')
        from jsonb_object_keys(known) k), known);
end
$$;

-- Seconds until a full rate and a throttle let something begin again; null if they do, or never.
create or replace function hotmesh._limit_opens(lim hotmesh.limits)
returns double precision
language sql
stable
as $$
    select greatest(
        (select greatest(0, (min(b.slice) + 61) * hotmesh._limit_slice(lim.per)
                            - extract(epoch from hotmesh.now()))
         from hotmesh._limit_begun(lim) b
         where lim.rate is not null
         having sum(b.number) >= lim.rate),
        nullif(greatest(hotmesh._limit_pause(lim), 0), 0))
    where lim.throttle is distinct from -1
$$;

-- Sets or, with nulls, lifts the limits of a queue. What is under way counts from now on; each lane
-- is looked at anew. The row stays, so that notes always find one.
create or replace function hotmesh._limit_set(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into limits as l (
        queue, kind, concurrency, per_key, rate, per, created_at, updated_at)
    values (lim.queue, lim.kind, lim.concurrency, lim.per_key, lim.rate, lim.per, v_now, v_now)
    on conflict (queue, kind) do update
    set concurrency = lim.concurrency, per_key = lim.per_key, rate = lim.rate, per = lim.per,
        begun = case when l.per = lim.per then l.begun else '{}' end, updated_at = v_now;
    update streams s set slot = 2
    where s.id = any (array(
        select m.id
        from streams m
        where m.queue = lim.queue and m.kind = lim.kind and m.slot is distinct from 2
          and case m.kind when 'activity' then m.state = 'leased'
                  else m.token > 0 and m.dimension = '' and m.state <> 'dead' end
        for update skip locked));
    update streams s set state = 'ready'
    where s.id = any (array(
        select m.id
        from streams m
        where m.queue = lim.queue and m.kind = lim.kind and m.state = 'ready' and m.slot is null
          and m.concurrency_key is not null
        for update skip locked));
end
$$;

-- Sets or, with null, lifts the throttle of a queue.
create or replace function hotmesh._limit_throttle(queue text, kind text, throttle integer)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    insert into limits as l (queue, kind, throttle, created_at, updated_at)
    values (queue, kind, throttle, v_now, v_now)
    on conflict on constraint limits_pkey do update
    set throttle = _limit_throttle.throttle, updated_at = v_now;
end
$$;

-- 34_lane.sql
-- One note per lane and transaction is enough: nobody can have followed it before its commit.
create or replace function hotmesh._lane_note(queue text, kind text, key text)
returns void
language plpgsql
as $$
begin
    insert into lanes (queue, kind, key)
    select queue, kind, key
    where not exists (
        select from lanes n
        where n.queue = _lane_note.queue and n.kind = _lane_note.kind and n.key = _lane_note.key
          and n.xmin = pg_current_xact_id()::xid);
end
$$;

create or replace function hotmesh._lane_has_slots(queue text, kind text)
returns boolean
language plpgsql
stable
as $$
begin
    return exists (
        select from limits l
        where l.queue = _lane_has_slots.queue and l.kind = _lane_has_slots.kind
          and l.per_key is not null);
end
$$;

-- Is a message that had a slot still under way? A deleted one has no kind any more.
create or replace function hotmesh._lane_goes_on(
    was_kind text, was_state text, kind text, state text)
returns boolean
language sql
immutable
as $$
    select coalesce(kind = was_kind and case was_kind
        when 'workflow' then state <> 'dead'
        else state in ('leased', was_state) end, false)
$$;

-- Gives back the slot of a message that is no longer under way, and holds one that would be ready
-- but has no slot of its key.
create or replace function hotmesh._lane_keep()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config(
        'search_path', format('pg_catalog, %I, hotmesh, pg_temp', tg_table_schema), true);
    if old.slot > 0
        and not hotmesh._lane_goes_on(old.kind, old.state, new.kind, new.state)
    then
        if old.concurrency_key is not null and hotmesh._lane_has_slots(old.queue, old.kind) then
            perform hotmesh._lane_note(old.queue, old.kind, old.concurrency_key);
        end if;
        if tg_op = 'DELETE' then
            return old;
        end if;
        new.slot := null;
    end if;
    if new.state = 'ready' and new.slot is null and new.concurrency_key is not null
        and hotmesh._lane_has_slots(new.queue, new.kind)
    then
        new.state := 'held';
        perform hotmesh._lane_note(new.queue, new.kind, new.concurrency_key);
    end if;
    return coalesce(new, old);
end
$$;
create or replace trigger keep_slot before update of state on hotmesh.streams
for each row when (old.slot > 0 or new.concurrency_key is not null and new.state = 'ready')
execute function hotmesh._lane_keep();
create or replace trigger keep_slot_back before delete on hotmesh.streams
for each row when (old.slot > 0)
execute function hotmesh._lane_keep();

create or replace function hotmesh._lane_free(lim hotmesh.limits, key text)
returns integer
language plpgsql
as $$
begin
    if lim.per_key is null then
        return 1000;
    end if;
    return greatest(0, lim.per_key - (
        select count(*)
        from streams s
        where s.kind = lim.kind and s.queue = lim.queue and s.slot in (1, 2)
          and s.concurrency_key = key));
end
$$;

-- Follows the notes of one queue: the first of each lane become ready, as many as have slots. What
-- was locked this instant is noted again.
create or replace function hotmesh._lane_admit_to(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_keys text[];
begin
    with followed as (
        delete from lanes n
        where n.id = any (array(
            select m.id from lanes m
            where m.queue = lim.queue and m.kind = lim.kind
            limit 200 for update skip locked))
        returning n.key)
    select coalesce(array_agg(distinct f.key), '{}') into v_keys from followed f;
    update streams s
    set state = 'ready', slot = case when lim.per_key is not null then 1 end
    where s.id = any (array(
        select h.id
        from unnest(v_keys) as k (key)
        cross join lateral (
            select m.id from streams m
            where m.state = 'held' and m.kind = lim.kind and m.queue = lim.queue
              and m.concurrency_key = k.key
            order by m.priority desc, m.id
            limit hotmesh._lane_free(lim, k.key) for update skip locked) h));
    perform hotmesh._lane_note(lim.queue, lim.kind, k)
    from unnest(v_keys) k
    where hotmesh._lane_free(lim, k) > 0 and exists (
        select from streams m
        where m.state = 'held' and m.kind = lim.kind and m.queue = lim.queue
          and m.concurrency_key = k);
end
$$;

-- Follows notes. A queue from which somebody else takes this instant comes next time. The row is
-- written, not only locked, so that whoever counts in an older snapshot fails instead of admitting.
create or replace function hotmesh._lane_admit()
returns void
language plpgsql
as $$
declare
    v_limit hotmesh.limits;
begin
    foreach v_limit in array array(
        select (l::hotmesh.limits)
        from limits l
        where exists (select from lanes n where n.queue = l.queue and n.kind = l.kind)
        for update skip locked)
    loop
        perform hotmesh._limit_count(v_limit, 0);
        perform hotmesh._lane_admit_to(v_limit);
    end loop;
end
$$;

-- All lanes of a queue are looked at anew: its limits have changed.
create or replace function hotmesh._lane_review(lim hotmesh.limits)
returns void
language plpgsql
as $$
begin
    perform hotmesh._lane_note(lim.queue, lim.kind, k.key)
    from (
        select distinct m.concurrency_key as key
        from streams m
        where m.state = 'held' and m.kind = lim.kind and m.queue = lim.queue) k;
end
$$;

-- 35_worker.sql
create or replace function hotmesh._worker_channel(worker text)
returns text
language sql
immutable
parallel safe
as $$
    select 'hotmesh_' || worker
$$;

create or replace function hotmesh._worker_check(worker text)
returns text
language plpgsql
as $$
begin
    if coalesce(octet_length(worker), 0) not between 1 and 50 then
        perform hotmesh._refuse_argument(
            'a worker needs a name of 1 to 50 bytes', format('It was %L.', left(worker, 60)),
            'Choose one that is unique per start of a process.');
    end if;
    return worker;
end
$$;

-- Whoever wakes the worker may hold its row; then the row is left as it is.
create or replace function hotmesh._worker_seen(worker text, about jsonb, idle boolean)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    perform from workers w where w.name = worker for update skip locked;
    if found then
        update workers w
        set kinds = array(select jsonb_array_elements_text(about -> 'kinds')),
            queues = array(select jsonb_array_elements_text(about -> 'queues')),
            names = array(select jsonb_array_elements_text(about -> 'names')),
            idle_at = case when idle then v_now end, seen_at = v_now
        where w.name = worker;
    else
        insert into workers (
            name, kinds, queues, names, host, pid, idle_at, seen_at, started_at)
        select worker,
               array(select jsonb_array_elements_text(about -> 'kinds')),
               array(select jsonb_array_elements_text(about -> 'queues')),
               array(select jsonb_array_elements_text(about -> 'names')),
               about ->> 'host', (about ->> 'pid')::integer,
               case when idle then v_now end, v_now, v_now
        where not exists (select from workers w where w.name = worker);
    end if;
    delete from workers w
    where w.name = any (array(
        select d.name
        from workers d
        where d.seen_at < v_now - interval '1 minute'
        limit 10
        for update skip locked));
end
$$;

-- Wakes the named workers if they sleep. An idle flag older than a lease counts for nothing: its
-- owner is gone. A worker whose row is locked is just renewing its flag: it is told all the same.
create or replace function hotmesh._worker_wake(workers text[])
returns void
language plpgsql
as $$
declare
    v_asleep text[] := array(
        select w.name from workers w
        where w.name = any (_worker_wake.workers) and w.idle_at > hotmesh.now() - interval '15 s');
begin
    if v_asleep = '{}' then
        return;
    end if;
    update workers w set idle_at = null
    where w.name = any (array(
        select s.name from workers s where s.name = any (v_asleep) for update skip locked));
    perform pg_notify(hotmesh._worker_channel(n), '') from unnest(v_asleep) n;
end
$$;

-- Is a worker there, awake or asleep, that serves the topic? Where there are no turns nobody drops
-- the row of one that died.
create or replace function hotmesh._worker_serves(kind text, queue text, name text)
returns boolean
language plpgsql
as $$
declare
    v_since timestamptz := hotmesh.now() - interval '1 minute';
begin
    return exists (
        select
        from workers w
        cross join unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)
        where w.seen_at > v_since
          and t.kind = _worker_serves.kind and t.queue = _worker_serves.queue
          and t.name = _worker_serves.name);
end
$$;

-- Wakes one idle worker that serves the topic.
create or replace function hotmesh._worker_wake_for(kind text, queue text, name text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._worker_wake(array(
        select w.name
        from workers w
        where w.idle_at > hotmesh.now() - interval '15 s'
          and exists (
              select from unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)
              where t.kind = _worker_wake_for.kind
                and t.queue = _worker_wake_for.queue
                and t.name = _worker_wake_for.name)
        order by w.idle_at desc
        limit 1));
end
$$;

-- Wakes some idle worker: its turn will see what is to be done.
create or replace function hotmesh._worker_wake_any()
returns void
language plpgsql
as $$
begin
    perform hotmesh._worker_wake(array(
        select w.name from workers w
        where w.idle_at > hotmesh.now() - interval '15 s'
        order by w.idle_at desc
        limit 1));
end
$$;

-- Wakes idle workers for which work is ready; `except_worker` is the one that asks.
create or replace function hotmesh._worker_wake_useful(except_worker text)
returns void
language plpgsql
as $$
declare
    v_idle hotmesh.workers[] := array(
        select (w::hotmesh.workers)
        from workers w
        where w.idle_at > hotmesh.now() - interval '15 s' and w.name <> except_worker
        order by w.idle_at desc
        limit 10);
begin
    if v_idle = '{}' then
        return;
    end if;
    perform hotmesh._worker_wake(array(
        select w.name from unnest(v_idle) w where hotmesh._worker_is_useful(w) limit 2));
end
$$;

create or replace function hotmesh._worker_is_useful(worker hotmesh.workers)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select
        from unnest(array['workflow', 'activity']) as k (kind)
        where hotmesh._limit_useful(
            k.kind,
            array(
                select t.queue
                from unnest(worker.kinds, worker.queues) as t (kind, queue)
                where t.kind = k.kind),
            array(
                select t.name
                from unnest(worker.kinds, worker.names) as t (kind, name)
                where t.kind = k.kind),
            worker.name));
end
$$;

-- Is there one that serves a queue?
create or replace function hotmesh._worker_serves(kind text, queue text)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select from workers w
        where w.seen_at > hotmesh.now() - interval '1 minute'
          and exists (
              select from unnest(w.kinds, w.queues) t (kind, queue)
              where t.kind = _worker_serves.kind and t.queue = _worker_serves.queue));
end
$$;

create or replace function hotmesh._worker_gone(worker text)
returns void
language plpgsql
as $$
begin
    delete from workers w where w.name = worker;
end
$$;

create or replace function hotmesh.worker_extend(
    app text, worker text, ids bigint[], lease interval default '15 s')
returns bigint[]
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    perform hotmesh._lease_check(lease);
    return hotmesh._lease_extend(ids, worker, lease);
end
$$;
comment on function hotmesh.worker_extend(text, text, bigint[], interval) is
'Keep the leases of a worker alive; returns the messages that it still holds. Rows that are locked
this instant are left for the next call.';

-- Finds a heartbeat of a wrong form. One of no message is stale.
create or replace function hotmesh._worker_unfit()
returns jsonpath
language sql
immutable
as $$
    select 'strict $[*] ? (@.type() != "object"
        || exists(@.id ? (!exists(@ ? (
            @ == null || @ >= 0 && @ <= 9223372036854775807 && @.floor() == @))))
        || exists(@.token ? (!exists(@ ? (
            @ == null || @ >= 0 && @ <= 2147483647 && @.floor() == @)))))'::jsonpath
$$;

create or replace function hotmesh.worker_heartbeat(
    app text, worker text, beats jsonb, lease interval default '15 s')
returns table (id bigint, answer text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    perform hotmesh._lease_check(lease);
    if jsonb_typeof(beats) is distinct from 'array'
        or pg_column_size(beats) > hotmesh._setting('value_limit', 16777216)
        or jsonb_path_exists(beats, hotmesh._worker_unfit())
    then
        perform hotmesh._refuse_argument(
            'heartbeats are no JSON array of objects, or too large', left(beats::text, 200),
            'Give [{"id": …, "token": …, "details": …}, …].');
    end if;
    return query
    select b.id, b.answer
    from (
        select array_agg(r.id) as ids, array_agg(r.token) as tokens, array_agg(r.details) as details
        from jsonb_to_recordset(beats) as r (id bigint, token integer, details jsonb)) h
    cross join lateral hotmesh._lease_beat(h.ids, h.tokens, h.details, lease) b;
end
$$;
comment on function hotmesh.worker_heartbeat(text, text, jsonb, interval) is
'Signs of life of activities: [{"id": …, "token": …, "details": …}, …]. The details are handed to
the next attempt. Answers for each: ok; stale when the attempt is not wanted any more; busy when its
row is locked this instant.';

create or replace function hotmesh.worker_stop(app text, worker text, ids bigint[])
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count integer;
begin
    perform hotmesh._enter(app);
    perform hotmesh._worker_check(worker);
    v_count := hotmesh._lease_return(ids, worker);
    perform hotmesh._worker_gone(worker);
    perform hotmesh._worker_wake_useful(worker);
    return v_count;
end
$$;
comment on function hotmesh.worker_stop(text, text, bigint[]) is
'A worker leaves: what it holds is ready again at once, and what it had begun does not count as an
attempt. Returns how many messages it gave back.';

create or replace function hotmesh.worker_list(app text)
returns table (
    name text, host text, pid integer, serves jsonb, idle_at timestamptz, seen_at timestamptz,
    started_at timestamptz, held bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select w.name, w.host, w.pid,
           (select coalesce(jsonb_agg(jsonb_build_object(
                       'kind', t.kind, 'queue', t.queue, 'name', t.name)), '[]')
            from unnest(w.kinds, w.queues, w.names) as t (kind, queue, name)),
           w.idle_at, w.seen_at, w.started_at, coalesce(h.held, 0)
    from workers w
    left join (
        select s.worker, count(*) as held
        from streams s
        where s.state = 'leased'
        group by s.worker) h on h.worker = w.name
    order by w.started_at, w.name;
end
$$;
comment on function hotmesh.worker_list(text) is
'The workers that were seen in the last minute or two: where they run, what they serve, since when
they wait for work (null: they work), and how many messages each holds.';

-- 36_queue.sql
create or replace function hotmesh._queue_refuse(queue text, fault text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('bad limit of queue "%s": %s', left(queue, 100), fault),
        'concurrency, per_key and rate are whole numbers above zero, per an interval up to a year, '
        || 'kind is workflow, activity or null for both.',
        'For instance concurrency => 10, or rate => 100, per => ''1 minute''.');
end
$$;

create or replace function hotmesh._queue_check(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_name text := coalesce(lim.queue, '');
begin
    if octet_length(v_name) not between 1 and 500 then
        perform hotmesh._queue_refuse(v_name, 'a name has from 1 to 500 bytes');
    elsif lim.kind not in ('workflow', 'activity') then
        perform hotmesh._queue_refuse(v_name, 'unknown kind ' || left(lim.kind, 60));
    elsif lim.concurrency is null and lim.per_key is null and lim.rate is null then
        perform hotmesh._queue_refuse(v_name, 'nothing is limited; queue_unlimit lifts limits');
    elsif least(lim.concurrency, lim.per_key, lim.rate) <= 0 then
        perform hotmesh._queue_refuse(v_name, 'a number is not above zero');
    elsif lim.per is not null and lim.rate is null then
        perform hotmesh._queue_refuse(v_name, 'per without rate');
    elsif lim.per < interval '1 ms' or lim.per > interval '366 days' then
        perform hotmesh._queue_refuse(v_name, format('per is %s', lim.per));
    end if;
end
$$;

-- Whoever sleeps is told that there may be work now.
create or replace function hotmesh._queue_set(lim hotmesh.limits)
returns void
language plpgsql
as $$
declare
    v_limit hotmesh.limits := lim;
    v_kind text;
begin
    foreach v_kind in array array['workflow', 'activity'] loop
        if v_kind = coalesce(lim.kind, v_kind) then
            v_limit.kind := v_kind;
            perform hotmesh._limit_set(v_limit);
            perform hotmesh._lane_review(v_limit);
        end if;
    end loop;
    perform hotmesh._lane_admit();
    perform hotmesh._worker_wake_useful('');
end
$$;

create or replace function hotmesh.queue_limit(
    app text, queue text, concurrency integer default null, per_key integer default null,
    rate integer default null, per interval default null, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit hotmesh.limits := (
        queue, kind, concurrency, per_key, rate,
        coalesce(per, case when rate is not null then interval '1 s' end), null, null, null, null);
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check(v_limit);
    perform hotmesh._queue_set(v_limit);
end
$$;
comment on function hotmesh.queue_limit(text, text, integer, integer, integer, interval, text) is
'Set the limits of a queue, in place of those it has. concurrency: how many may be under way, that
is workflows from their first claim until they close, and activities while they run, each kind
counted for itself; per_key: the same for each concurrency_key; rate: how many may begin in any time
as long as per (1 second). kind: workflow or activity, null for both. Raises 22023.';

create or replace function hotmesh.queue_unlimit(app text, queue text, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check((queue, kind, 1, null, null, null, null, null, null, null));
    perform hotmesh._queue_set((queue, kind, null, null, null, null, null, null, null, null));
end
$$;
comment on function hotmesh.queue_unlimit(text, text, text) is
'Lift the limits of a queue, of one kind (workflow or activity) or of both. Nothing happens if it
has none.';

create or replace function hotmesh.queue_throttle(
    app text, queue text, delay integer, kind text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_kind text;
begin
    perform hotmesh._enter(app);
    perform hotmesh._queue_check((queue, kind, 1, null, null, null, null, null, null, null));
    if delay is null or delay not between -1 and 86400000 then
        perform hotmesh._queue_refuse(queue, 'delay is from -1 to 86400000 milliseconds');
    end if;
    foreach v_kind in array array['workflow', 'activity'] loop
        if v_kind = coalesce(kind, v_kind) then
            perform hotmesh._limit_throttle(queue, v_kind, nullif(delay, 0));
        end if;
    end loop;
    perform hotmesh._worker_wake_useful('');
end
$$;
comment on function hotmesh.queue_throttle(text, text, integer, text) is
'Let so many milliseconds pass from one beginning to the next in this queue, whoever serves it; -1:
nothing begins any more, 0: as if nothing had been said. What is under way goes on, and limits stay.
kind: workflow or activity, null for both. Raises 22023.';

create or replace function hotmesh.queue_list(app text)
returns table (
    queue text, kind text, concurrency integer, per_key integer, rate integer, per interval,
    under_way bigint, held bigint, throttle integer)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select l.queue, l.kind, l.concurrency, l.per_key, l.rate, l.per,
           (select count(*) from streams s
            where s.kind = l.kind and s.queue = l.queue and s.slot = 2),
           (select count(*) from streams s
            where s.kind = l.kind and s.queue = l.queue and s.state = 'held'),
           l.throttle
    from limits l
    where coalesce(l.concurrency, l.per_key, l.rate, l.throttle) is not null
    order by l.queue, l.kind;
end
$$;
comment on function hotmesh.queue_list(text) is
'The queues that have limits, what is under way in each, and how many messages are held because
their key has no free slot. throttle: milliseconds between two beginnings, -1: nothing begins.';

create or replace function hotmesh.queue_stats(app text)
returns table (
    queue text, kind text, name text, ready bigint, delayed bigint, leased bigint, waiting bigint,
    held bigint, dead bigint, oldest timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select s.queue, s.kind, s.name,
           count(*) filter (where s.state = 'ready'),
           count(*) filter (where s.state = 'delayed'),
           count(*) filter (where s.state = 'leased'),
           count(*) filter (where s.state = 'waiting'),
           count(*) filter (where s.state = 'held'),
           count(*) filter (where s.state = 'dead'),
           min(s.created_at) filter (where s.state = 'ready')
    from streams s
    where s.kind in ('workflow', 'activity')
    group by s.queue, s.kind, s.name
    order by s.queue, s.kind, s.name;
end
$$;
comment on function hotmesh.queue_stats(text) is
'Per queue and function: how many messages are in which state, and since when the oldest that is
ready waits. The workflows are the functions of open jobs; a dead one is parked, a dead activity is
a dead letter. Reads all messages of the app.';

create or replace function hotmesh._queue_topics(want jsonb, kind text, part text)
returns text[]
language sql
immutable
as $$
    select array(
        select t.value
        from jsonb_array_elements_text(want -> part) with ordinality as t (value, n)
        where want -> 'kinds' ->> t.n::integer - 1 = kind
        order by t.n)
$$;

-- Seconds until a worker that got nothing should look again: at once if there is something that
-- somebody else had locked.
create or replace function hotmesh._queue_next_due(worker text, want jsonb)
returns double precision
language plpgsql
as $$
declare
    v_due double precision := hotmesh._lease_next_due();
    v_queues text[] := array(select jsonb_array_elements_text(want -> 'queues'));
    v_limits hotmesh.limits[] := hotmesh._limit_of('workflow', v_queues)
        || hotmesh._limit_of('activity', v_queues);
begin
    if exists (select from lanes)
        or exists (
            select from unnest(array['workflow', 'activity']) as k (kind)
            where v_limits <> '{}' and (want ->> k.kind)::integer > 0
              and hotmesh._limit_useful(
                  k.kind, hotmesh._queue_topics(want, k.kind, 'queues'),
                  hotmesh._queue_topics(want, k.kind, 'names'), worker))
    then
        return 0;
    end if;
    if want ->> 'idle' = 'true' and (want ->> 'workflow')::integer > 0 then
        v_due := least(v_due, hotmesh._lease_grace_ends(
            hotmesh._queue_topics(want, 'workflow', 'queues'),
            hotmesh._queue_topics(want, 'workflow', 'names'), worker));
    end if;
    return least(v_due, (
        select min(hotmesh._limit_opens(l))
        from unnest(v_limits) l
        where (want ->> l.kind)::integer > 0));
end
$$;

-- 40_job.sql
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

-- 50_attribute.sql
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

-- 52_log.sql
create or replace function hotmesh._log_is_on(settings jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select (settings ->> 'entity_log_keep')::bigint is distinct from 0
$$;

-- Whether one of these versions is due for a snapshot.
create or replace function hotmesh._log_is_full(settings jsonb, first bigint, last bigint)
returns boolean
language sql
immutable
parallel safe
as $$
    select last % greatest(coalesce((settings ->> 'entity_snapshot')::bigint, 16), 1)
           <= last - first
$$;

create or replace function hotmesh._log_write(entries hotmesh.entity_log[])
returns void
language plpgsql
as $$
begin
    insert into entity_log (
        job_id, version, operation, path, argument, role, dimension, sequence,
        at, request, answer, document)
    select e.job_id, e.version, e.operation, e.path, e.argument, e.role, e.dimension, e.sequence,
           e.at, e.request, e.answer, e.document
    from unnest(entries) e;
end
$$;

-- What an earlier call with this idempotency key returned; SQL null if there was none.
create or replace function hotmesh._log_answer(job_id bigint, request text)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select l.answer from entity_log l
        where l.job_id = _log_answer.job_id and l.request = _log_answer.request);
end
$$;

-- Whether a row holds all of the document that it made.
create or replace function hotmesh._log_is_base(
    operation text, path text, document jsonb)
returns boolean
language sql
immutable
parallel safe
as $$
    select document is not null or (path is null and operation in ('set', 'update', 'fork'))
$$;

-- Drops what lies before the youngest base that is as old as `before`.
create or replace function hotmesh._log_prune(job_id bigint, before timestamptz)
returns bigint
language plpgsql
as $$
declare
    v_count bigint;
begin
    delete from entity_log l
    where l.job_id = _log_prune.job_id
      and l.version < (
          select max(b.version) from entity_log b
          where b.job_id = _log_prune.job_id and b.at <= before
            and hotmesh._log_is_base(b.operation, b.path, b.document));
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- As _log_prune, for all jobs of the app, as far as nobody holds the rows.
create or replace function hotmesh._log_prune_all(before timestamptz, take integer)
returns bigint
language plpgsql
as $$
declare
    v_count bigint;
begin
    delete from entity_log l
    where (l.job_id, l.version) in (
        select o.job_id, o.version
        from entity_log o
        join (
            select b.job_id, max(b.version) as version
            from entity_log b
            where b.at <= before and hotmesh._log_is_base(b.operation, b.path, b.document)
            group by b.job_id) k on k.job_id = o.job_id and o.version < k.version
        limit take
        for update of o skip locked);
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- 53_watch.sql
create or replace function hotmesh._watch_channel()
returns text
language sql
stable
as $$
    select 'hotmesh_entities_' || left(md5(hotmesh._app_here()), 16)
$$;

create or replace function hotmesh._watch_keep(job_id bigint)
returns void
language plpgsql
as $$
begin
    perform hotmesh._job_watch(job_id, hotmesh.now() + interval '1 minute');
end
$$;

create or replace function hotmesh._watch_tell(job_id bigint)
returns void
language plpgsql
as $$
begin
    perform pg_notify(hotmesh._watch_channel(), job_id::text);
end
$$;

-- 55_archive.sql
-- Left-over messages go too, but for one that is held this instant, whose report will be stale, and
-- for a signal that is still to be passed on (60): news brings a turn back to them.
create or replace function hotmesh._archive_messages(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from streams s
    where s.id = any (array(
        select m.id from streams m
        where m.job_id = any (ids)
          and not (m.kind in ('event', 'signal') and coalesce(m.args, '{}') ? 'published')
        for update skip locked));
    perform hotmesh._inbox_put(m.job_id, '', 'result', '{}')
    from (
        select distinct s.job_id from streams s
        where s.job_id = any (ids) and s.state <> 'dead') m;
end
$$;

-- `closed` maps a job's id to its closing time. A join would do, but a plan for it that was made
-- while the app was empty can be a nested loop.
create or replace function hotmesh._archive_attributes(ids bigint[], closed jsonb)
returns void
language plpgsql
as $$
begin
    with gone as (
        delete from jobs_attributes a
        where a.job_id = any (ids)
        returning a.job_id, a.field, a.value, a.kind, a.name, a.state, a.dimension, a.sequence,
                  a.cursor, a.ledger, a.created_at, a.updated_at)
    insert into jobs_attributes_archive (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at, closed_at)
    select g.job_id, g.field, g.value, g.kind, g.name, g.state, g.dimension, g.sequence,
           g.cursor, g.ledger, g.created_at, g.updated_at,
           (closed ->> g.job_id::text)::timestamptz
    from gone g;
end
$$;

create or replace function hotmesh._archive_log(ids bigint[], closed jsonb)
returns void
language plpgsql
as $$
begin
    with gone as (
        delete from entity_log l
        where l.job_id = any (ids)
        returning l.job_id, l.version, l.operation, l.path, l.argument, l.role, l.dimension,
                  l.sequence, l.at, l.request, l.answer, l.document)
    insert into entity_log_archive (
        job_id, version, operation, path, argument, role, dimension,
        sequence, at, request, answer, document, closed_at)
    select g.job_id, g.version, g.operation, g.path, g.argument, g.role, g.dimension,
           g.sequence, g.at, g.request, g.answer, g.document,
           (closed ->> g.job_id::text)::timestamptz
    from gone g;
end
$$;

create or replace function hotmesh._archive_open_months(ids bigint[], patient boolean)
returns boolean
language plpgsql
as $$
begin
    return (
        select coalesce(bool_and(
            hotmesh._app_open_month(hotmesh._app_here(), m.at at time zone 'UTC', patient)), true)
        from (
            select distinct date_trunc('month', j.closed_at at time zone 'UTC')
            from jobs j
            where j.id = any (ids) and j.closed_at is not null) m (at));
end
$$;

-- Moves jobs that the caller has locked, expired or not; those that are open stay.
create or replace function hotmesh._archive_jobs(ids bigint[])
returns bigint
language plpgsql
as $$
declare
    v_ids bigint[];
    v_closed jsonb;
begin
    perform hotmesh._archive_open_months(ids, patient => true);
    with gone as (
        delete from jobs j
        where j.id = any (ids) and j.closed_at is not null
        returning j.id, j.key, j.entity, j.queue, j.topic, j.graph_version, j.graph_id,
                  j.status, j.cursor,
                  j.context, j.entity_version, j.expire_after, j.parent_id, j.parent_dimension,
                  j.parent_sequence, j.origin_id, j.close_policy, j.created_at, j.updated_at,
                  j.closed_at, j.expire_at, j.watched_until),
    kept as (
        insert into jobs_archive as k (
            id, key, entity, queue, topic, graph_version, graph_id, status, cursor,
            context, entity_version, expire_after, parent_id, parent_dimension, parent_sequence,
            origin_id, close_policy, created_at, updated_at, closed_at, expire_at, watched_until)
        select g.id, g.key, g.entity, g.queue, g.topic, g.graph_version, g.graph_id, g.status,
               g.cursor,
               g.context, g.entity_version, g.expire_after, g.parent_id, g.parent_dimension,
               g.parent_sequence, g.origin_id, g.close_policy, g.created_at, g.updated_at,
               g.closed_at, g.expire_at, g.watched_until
        from gone g
        returning k.id, k.closed_at)
    select array_agg(k.id), jsonb_object_agg(k.id, k.closed_at) into v_ids, v_closed from kept k;
    perform hotmesh._archive_attributes(v_ids, v_closed);
    perform hotmesh._archive_log(v_ids, v_closed);
    perform hotmesh._archive_messages(v_ids);
    return coalesce(cardinality(v_ids), 0);
end
$$;

-- The open job of a key. What has closed is refused as closed, in the archive too.
create or replace function hotmesh._archive_find_open(key text)
returns hotmesh.jobs
language plpgsql
as $$
declare
    v_job hotmesh.jobs := hotmesh._job_find(key);
begin
    if v_job.id is null then
        v_job.closed_at := (
            select max(a.closed_at) from jobs_archive a where a.key = _archive_find_open.key);
    end if;
    if v_job.closed_at is not null then
        perform hotmesh._job_refuse_closed(key, v_job.closed_at);
    elsif v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_job;
end
$$;

-- The journal of a main function that starts over, and those of hooks that have ended, go to the
-- archive under a number of their own, as a job that has closed; the job itself goes on, with its
-- open hooks, its entity and what waits for it.
create or replace function hotmesh._archive_generation(id bigint)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_number bigint := nextval('hotmesh.ids');
begin
    perform hotmesh._app_open_month(
        hotmesh._app_here(), date_trunc('month', v_now at time zone 'UTC'), true);
    insert into jobs_archive (
        id, key, entity, queue, topic, graph_version, status, cursor, context, entity_version,
        parent_id, origin_id, created_at, updated_at, closed_at)
    select v_number, j.key, j.entity, j.queue, j.topic, j.graph_version, 0, j.cursor, '{}',
           j.entity_version, j.parent_id, j.origin_id, j.created_at, v_now, v_now
    from jobs j
    where j.id = _archive_generation.id;
    with gone as (
        delete from jobs_attributes a
        where a.job_id = _archive_generation.id
          and (a.field = 'input' or a.dimension = '' and a.sequence is not null
               or hotmesh._attribute_is_over(a.job_id, a.dimension))
        returning a.job_id, a.field, a.value, a.kind, a.name, a.state, a.dimension, a.sequence,
                  a.cursor, a.ledger, a.created_at, a.updated_at)
    insert into jobs_attributes_archive (
        job_id, field, value, kind, name, state, dimension, sequence,
        cursor, ledger, created_at, updated_at, closed_at)
    select v_number, g.field, g.value, g.kind, g.name, g.state, g.dimension, g.sequence,
           g.cursor, g.ledger, g.created_at, g.updated_at, v_now
    from gone g;
end
$$;

-- Of jobs that the caller has locked, those of which nobody else holds an attribute, and that have
-- no signal left to pass on.
create or replace function hotmesh._archive_quiet(ids bigint[])
returns bigint[]
language plpgsql
as $$
begin
    return array(
        with mine as materialized (
            select a.job_id
            from jobs_attributes a
            where a.job_id = any (ids)
            for update skip locked),
        counted as (
            select m.job_id, -1 as one from mine m
            union all
            select a.job_id, 1 from jobs_attributes a where a.job_id = any (ids)
            union all
            select i.id, 0 from unnest(ids) i (id))
        select c.job_id from counted c group by c.job_id
        having sum(c.one) = 0
           and not exists (
               select from streams m
               where m.job_id = c.job_id and m.kind in ('event', 'signal')
                 and m.args ? 'published'));
end
$$;

create or replace function hotmesh._archive_due(take integer)
returns bigint[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    return array(
        select j.id from jobs j
        where j.expire_at <= v_now
        order by j.expire_at
        limit take
        for update skip locked);
end
$$;

-- Idle workers call it too: nothing else runs that could. Next month is opened ahead, so that no
-- run which continues as new need do it.
create or replace function hotmesh._archive_expired(take integer)
returns bigint
language plpgsql
as $$
declare
    v_ids bigint[] := hotmesh._archive_due(take);
begin
    perform hotmesh._app_open_month(
        hotmesh._app_here(), hotmesh.now() + interval '1 month', patient => false);
    if v_ids = '{}' then
        return 0;
    end if;
    v_ids := hotmesh._archive_quiet(v_ids);
    if not hotmesh._archive_open_months(v_ids, patient => false) then
        return 0;
    end if;
    return hotmesh._archive_jobs(v_ids);
end
$$;

-- The planner is pinned: a plan made while the app was empty would scan its tables.
create or replace function hotmesh.job_archive(app text, take integer default 10000)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform hotmesh._enter(app);
    if coalesce(take, 0) not between 1 and 1000000 then
        perform hotmesh._refuse_argument(
            format('take is out of range: %s', coalesce(take::text, 'null')),
            'It says how many jobs one call moves at most: from 1 to 1000000.',
            'Leave it out, and call again until the answer is 0.');
    end if;
    return hotmesh._archive_expired(take);
end
$$;
comment on function hotmesh.job_archive(text, integer) is
'Move up to `take` closed jobs that have expired, with their attributes, to the archive; their keys
are free then. Returns how many moved; what others hold is left to a later call.';

-- As _attribute_history, of an archived job.
create or replace function hotmesh._archive_history(
    job_id bigint, dimension text, after integer, size_limit bigint)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(
                   jsonb_agg(
                       jsonb_build_array(
                           h.sequence, h.kind, h.name, h.state, h.value, h.cursor,
                           extract(epoch from h.updated_at))
                       order by h.sequence) filter (where h.before < size_limit),
                   '[]')
               || case when bool_and(h.before < size_limit) is false
                       then '[null]' else '[]' end::jsonb
        from (
            select a.sequence, a.kind, a.name, a.state, a.value, a.cursor, a.updated_at,
                   coalesce(sum(hotmesh._bytes(a.value)) over (
                       order by a.sequence
                       rows between unbounded preceding and 1 preceding), 0) as before
            from jobs_attributes_archive a
            where a.job_id = _archive_history.job_id
              and a.dimension = _archive_history.dimension
              and a.sequence > after) h);
end
$$;

create or replace function hotmesh._archive_months_before(at timestamptz)
returns setof regclass
language sql
stable
as $$
    select c.oid::regclass
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent in (
          to_regclass('jobs_archive'), to_regclass('jobs_attributes_archive'),
          to_regclass('entity_log_archive'))
      and c.relname ~ '_archive_\d{4}_\d\d$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= at at time zone 'UTC'
    order by c.relname
$$;

create or replace function hotmesh.job_prune(app text, keep interval)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_months regclass[];
begin
    perform hotmesh._enter(app);
    if keep is null or keep not between interval '0' and interval '1000 years' then
        perform hotmesh._refuse_argument(
            format('no span of time to keep: %s', coalesce(keep::text, 'null')),
            'It says how long archived jobs stay after they closed, from 0 to 1000 years.',
            'For instance keep => ''90 days''.');
    end if;
    v_months := array(select hotmesh._archive_months_before(hotmesh.now() - keep));
    perform hotmesh._app_run(array(select format('drop table %s', m) from unnest(v_months) m));
    perform hotmesh._measure_prune(
        date_trunc('month', (hotmesh.now() - keep) at time zone 'UTC') at time zone 'UTC');
    return cardinality(v_months);
end
$$;
comment on function hotmesh.job_prune(text, interval) is
'Drop the months of the archive that ended more than `keep` ago, and what was measured of jobs
before then. Returns the number of partitions.';

-- Everything of closed jobs, wherever it is by now.
create or replace function hotmesh._archive_scrub(ids bigint[])
returns void
language plpgsql
as $$
begin
    delete from jobs j where j.id = any (ids);
    delete from jobs_attributes a where a.job_id = any (ids);
    delete from entity_log l where l.job_id = any (ids);
    perform hotmesh._archive_messages(ids);
    perform hotmesh._measure_forget(ids);
    delete from jobs_archive j where j.id = any (ids);
    delete from jobs_attributes_archive a where a.job_id = any (ids);
    delete from entity_log_archive l where l.job_id = any (ids);
end
$$;

create or replace function hotmesh.job_scrub(app text, key text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_ids bigint[];
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._job_find(key);
    v_ids := array(
        select v_job.id where v_job.id is not null
        union all
        select a.id from jobs_archive a where a.key = job_scrub.key);
    if v_ids = '{}' then
        perform hotmesh._job_refuse_missing(key);
    elsif v_job.id is not null and v_job.closed_at is null then
        perform hotmesh._job_refuse_conflict(key, true, 'scrub');
    end if;
    perform hotmesh._archive_scrub(v_ids);
end
$$;
comment on function hotmesh.job_scrub(text, text) is
'Delete a closed job now, with its journal, its entity and what the archive has under its key: it
was never there. Raises MSH40 for an unknown job, MSH44 for an open one.';

-- 60_signal.sql
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

-- 61_hook.sql
-- `about`: workflow, queue, args, signal, retry_policy. The caller holds the job's lock. By default
-- a hook is tried until it succeeds. One that is there already (its job's function is run again)
-- goes on or stays done; if it failed it is run anew.
create or replace function hotmesh._hook_open(job_id bigint, dimension text, about jsonb)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_queue text := (select j.queue from jobs j where j.id = _hook_open.job_id);
    v_state text := (hotmesh._hook_find(job_id, dimension)).state;
    v_last integer;
begin
    if v_state in ('open', 'done') then
        return;
    elsif v_state = 'failed' then
        v_last := hotmesh._attribute_hook_drop(job_id, dimension);
    end if;
    perform hotmesh._job_oblige(job_id);
    perform hotmesh._attribute_hook(job_id, dimension, about ->> 'workflow', about - 'key');
    perform hotmesh._stream_enqueue(array[(
        null, 'workflow', 'ready', coalesce(about ->> 'queue', v_queue), about ->> 'workflow', 0,
        job_id, dimension, v_last, null, null,
        hotmesh._retry_policy(coalesce(
            nullif(about -> 'retry_policy', 'null'), '{"maximum_attempts": 1000000}')),
        0, 0, v_now, null, null, null, null, null, null)::hotmesh.streams]);
end
$$;

-- Who waited for this hook and met its failure waits again.
create or replace function hotmesh._hook_revive(job_id bigint, signal text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._hook_open(a.job_id, a.dimension, a.value)
    from jobs_attributes a
    where a.job_id = _hook_revive.job_id and a.kind = 'hook' and a.state = 'failed'
      and a.value ->> 'signal' = signal;
end
$$;

create or replace function hotmesh._hook_check(about jsonb)
returns void
language plpgsql
as $$
begin
    if octet_length(coalesce(about ->> 'workflow', '')) not between 1 and 500
        or octet_length(about ->> 'queue') not between 1 and 500
        or jsonb_typeof(about -> 'args') is distinct from 'array'
    then
        perform hotmesh._refuse_argument(
            'a hook needs a function''s name and a JSON array of arguments', left(about::text, 200),
            'Name the function as its worker registers it; a queue has 1 to 500 bytes.');
    end if;
    perform hotmesh._retry_policy(about -> 'retry_policy');
end
$$;

create or replace function hotmesh._hook_check_options(options jsonb)
returns void
language plpgsql
as $$
begin
    if jsonb_typeof(coalesce(options, '{}')) <> 'object'
        or (coalesce(options, '{}') - 'retry_policy') <> '{}'
    then
        perform hotmesh._refuse_argument(
            'a hook has one option, retry_policy', format('It was %s.', left(options::text, 200)),
            'For instance {"retry_policy": {"maximum_attempts": 5}}.');
    end if;
end
$$;

-- Workflow code hooks a function into its own job, or, with `key`, into another one.
create or replace function hotmesh._hook_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_dimension text := step.dimension || ',' || step.sequence;
    v_job hotmesh.jobs;
begin
    perform hotmesh._hook_check(step.value);
    if step.value ? 'key' then
        v_job := hotmesh._archive_find_open(step.value ->> 'key');
        if v_job.id <> step.job_id then
            perform hotmesh._inbox_put(v_job.id, '', 'hook', step.value);
            return 'true';
        end if;
    end if;
    perform hotmesh._hook_open(step.job_id, v_dimension, step.value);
    return to_jsonb(v_dimension);
end
$$;

create or replace function hotmesh._hook_find(job_id bigint, dimension text)
returns hotmesh.jobs_attributes
language plpgsql
stable
as $$
declare
    v_hook hotmesh.jobs_attributes;
begin
    select (a::hotmesh.jobs_attributes).* into v_hook
    from jobs_attributes a
    where a.job_id = _hook_find.job_id and a.field = 'hook' || _hook_find.dimension;
    return v_hook;
end
$$;

create or replace function hotmesh._hook_cursor(job_id bigint, dimension text)
returns bigint
language plpgsql
stable
as $$
begin
    return (hotmesh._hook_find(job_id, dimension)).cursor;
end
$$;

-- A hook has ended. True if its failure is nobody's: then it is the job's.
create or replace function hotmesh._hook_close(
    job_id bigint, dimension text, cursor bigint, outcome jsonb)
returns boolean
language plpgsql
as $$
declare
    v_hook hotmesh.jobs_attributes := hotmesh._hook_find(job_id, dimension);
    v_signal text := v_hook.value ->> 'signal';
begin
    perform hotmesh._attribute_advance(
        array[job_id], array[dimension], array[cursor],
        array[case when outcome ? 'error' then 'failed' else 'done' end]);
    if v_signal is not null and not v_hook.value ? 'signalled' then
        perform hotmesh._signal_send(job_id, v_signal, outcome);
    end if;
    return v_signal is null and outcome ? 'error';
end
$$;

-- 63_query.sql
create or replace function hotmesh._query_check(name text, args jsonb)
returns void
language plpgsql
as $$
begin
    if octet_length(coalesce(name, '')) not between 1 and 500
        or jsonb_typeof(args) is distinct from 'array'
    then
        perform hotmesh._refuse_argument(
            'a handler''s name and a JSON array of arguments are needed',
            format('They were %L and %s.', left(name, 60), coalesce(left(args::text, 200), 'NULL')),
            'Name what the code has set a handler for.');
    end if;
    perform hotmesh._job_check_size(format('args of "%s"', name), args);
end
$$;

-- Questions to functions of a batch, as entries of their news: they have no cursor.
create or replace function hotmesh._query_take(job_ids bigint[], dimensions text[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (e.job_id, null, e.args, 'query', e.args ->> 'name', 'open', '', 0, null, 0, null,
                e.visible_at)::hotmesh.jobs_attributes
        from unnest(hotmesh._inbox_orders(
            array(select f.job_id
                  from unnest(job_ids, dimensions) as f (job_id, dimension)
                  where f.dimension = ''), '{query}')) e);
end
$$;

-- The questions among news.
create or replace function hotmesh._query_entries(news jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_path_query_array(coalesce(news, '[]'), 'strict $[*] ? (@[1] == "query")')
$$;

create or replace function hotmesh._query_forget()
returns void
language plpgsql
as $$
begin
    delete from queries q
    where q.id = any (array(
        select o.id from queries o
        where o.created_at < hotmesh.now() - interval '1 minute'
        limit 100
        for update skip locked));
end
$$;

create or replace function hotmesh.query_ask(
    app text, key text, name text, args jsonb default '[]')
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_id bigint := nextval('hotmesh.ids');
begin
    perform hotmesh._enter(app);
    perform hotmesh._query_check(name, args);
    v_job := hotmesh._archive_find_open(key);
    insert into queries (id, job_id, name, args, created_at)
    values (v_id, v_job.id, query_ask.name, query_ask.args, hotmesh.now());
    perform hotmesh._inbox_put(v_job.id, '', 'query', jsonb_build_object(
        'id', v_id, 'name', name, 'args', args));
    perform hotmesh._worker_wake_for('workflow', v_job.queue, v_job.topic);
    perform hotmesh._query_forget();
    return v_id;
end
$$;
comment on function hotmesh.query_ask(text, text, text, jsonb) is
'Ask the code of an open job; commit, then look for the answer with query_result. Raises MSH40,
MSH42.';

create or replace function hotmesh.query_answer(app text, id bigint, answer jsonb)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if jsonb_typeof(answer) is distinct from 'object' or not answer ?| '{output,error}' then
        perform hotmesh._refuse_argument(
            'that is no answer to a query', left(answer::text, 200),
            'Give {"output": …} or {"error": {"message": …, "type": …}}.');
    end if;
    perform hotmesh._job_check_size('the answer', answer);
    update queries q set answer = query_answer.answer where q.id = query_answer.id;
end
$$;
comment on function hotmesh.query_answer(text, bigint, jsonb) is
'A worker''s answer to a question: {"output": …} or {"error": …}.';

create or replace function hotmesh.query_result(app text, id bigint)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_query hotmesh.queries;
begin
    perform hotmesh._enter(app);
    select (q::hotmesh.queries).* into v_query from queries q where q.id = query_result.id;
    if v_query.id is null then
        perform hotmesh._refuse_argument(
            format('no query %s', coalesce(id::text, 'null')),
            'Its answer was read before, or it was asked more than a minute ago.', 'Ask again.');
    elsif v_query.answer is not null then
        delete from queries q where q.id = query_result.id;
    end if;
    return v_query.answer;
end
$$;
comment on function hotmesh.query_result(text, bigint) is
'The answer to a question, {"output": …} or {"error": …}, read once; SQL null until there is one.
Raises 22023 for a question that is not there.';

-- 64_update.sql
-- Asked once per id. The caller holds the job's lock.
create or replace function hotmesh._update_admit(job_id bigint, about jsonb)
returns void
language plpgsql
as $$
declare
    v_sequence integer := hotmesh._attribute_order(
        job_id, 'update', about ->> 'name', about ->> 'id');
begin
    if v_sequence is not null then
        perform hotmesh._inbox_told(
            job_id, '', v_sequence, jsonb_build_object('output', about - 'name'), 'ready');
    end if;
end
$$;

-- The handler has ended: {id, answer}.
create or replace function hotmesh._update_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
begin
    perform hotmesh._attribute_facts(
        array[step.job_id], array['update:' || (step.value ->> 'id')],
        array[step.value -> 'answer']);
    return 'true';
end
$$;

-- The code starts over, and with it go the handlers that it had begun: whoever asked is told so.
create or replace function hotmesh._update_abandon(job_id bigint, seen bigint)
returns void
language plpgsql
as $$
begin
    perform hotmesh._attribute_facts(
        array_agg(u.job_id), array_agg('update:' || (u.value ->> 'id')),
        array_agg(jsonb_build_object('error', jsonb_build_object(
            'type', 'JobInterruptedError', 'code', 410, 'message', format(
                'the workflow continued as new before it had answered update "%s"', u.name)))))
    from jobs_attributes u
    where u.job_id = _update_abandon.job_id and u.dimension = '' and u.kind = 'update'
      and u.sequence <= 0 and u.cursor <= seen
      and not exists (
          select from jobs_attributes a
          where a.job_id = u.job_id and a.field = 'update:' || (u.value ->> 'id'))
    having count(*) > 0;
end
$$;

create or replace function hotmesh.update_send(
    app text, key text, name text, args jsonb default '[]', id text default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_id text := coalesce(id, replace(gen_random_uuid()::text, '-', ''));
begin
    perform hotmesh._enter(app);
    perform hotmesh._query_check(name, args);
    if octet_length(v_id) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'the id of an update is empty or too long', format('It was %L.', left(id, 60)),
            'From 1 to 500 bytes, or leave it out.');
    end if;
    v_job := hotmesh._archive_find_open(key);
    perform hotmesh._inbox_put(v_job.id, '', 'update', jsonb_build_object(
        'id', v_id, 'name', name, 'args', args));
    return v_id;
end
$$;
comment on function hotmesh.update_send(text, text, text, jsonb, text) is
'Ask the code of an open job for a change, in the caller''s transaction; the same id again asks for
nothing more. Returns the id, for update_result. Raises MSH40, MSH42.';

create or replace function hotmesh.update_result(app text, key text, id text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer jsonb;
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._job_find(key);
    if v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    v_answer := (
        select a.value from jobs_attributes a
        where a.job_id = v_job.id and a.field = 'update:' || update_result.id);
    if v_answer is null and v_job.closed_at is not null then
        perform hotmesh._job_refuse_closed(key, v_job.closed_at);
    end if;
    return v_answer;
end
$$;
comment on function hotmesh.update_result(text, text, text) is
'What an update answered, {"output": …} or {"error": …}; SQL null until then. Raises MSH40, and
MSH42 if the job closed before.';

-- 70_timer.sql
-- The alarm of an activity bounds all its attempts together: its `schedule_to_close`.
create or replace function hotmesh._timer_set(timers hotmesh.streams[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array(
        select (null, 'timer', 'delayed', '',
                case t.kind when 'activity' then 'deadline' else '' end, 0,
                t.job_id, t.dimension, t.sequence, null, null, null, 0, 0,
                case t.kind when 'activity' then hotmesh._timeout_instant(t.timeouts, 'deadline')
                     else t.visible_at end,
                null, null, null, null, null, null)::hotmesh.streams
        from unnest(timers) t
        where t.kind = 'timer' or t.timeouts ? 'deadline'));
end
$$;

-- The alarm of a run rings, but the job has started over since it was set: it is set for the new
-- run. False if it is time.
create or replace function hotmesh._timer_renew(alarm hotmesh.streams)
returns boolean
language plpgsql
as $$
declare
    v_due timestamptz := (
        select m.created_at + make_interval(secs => (alarm.args ->> 'seconds')::float8)
        from streams m
        where m.job_id = alarm.job_id and m.kind = 'workflow' and m.dimension = ''
          and alarm.args ->> 'limit' = 'run_timeout');
begin
    if coalesce(v_due <= hotmesh.now(), true) then
        return false;
    end if;
    alarm.kind := 'timer';
    alarm.state := 'delayed';
    alarm.visible_at := v_due;
    perform hotmesh._stream_enqueue(array[alarm]);
    return true;
end
$$;

-- The alarms of a job whose time is bounded, from when it may begin. That of a run starts over when
-- the job continues as new.
create or replace function hotmesh._timer_limits(
    job_id bigint, begins timestamptz, options jsonb)
returns setof hotmesh.streams
language plpgsql
as $$
begin
    return query
    select null::bigint, 'timer', 'delayed', '', 'interrupt', 0::smallint, job_id, '',
           null::integer, null::bigint, jsonb_build_object(
               'type', 'TimedOutError', 'code', 596, 'seconds', l.seconds, 'limit', l.name,
               'reason', format('the workflow timed out: %s of %s s', l.name, l.seconds)),
           null::jsonb, 0, 0, begins + make_interval(secs => l.seconds), null::text, null::jsonb,
           null::timestamptz, null::jsonb, null::text, null::smallint
    from (
        select n.name, hotmesh._timeout_seconds(options -> n.name, n.name) as seconds
        from unnest('{execution_timeout,run_timeout}'::text[]) n (name)) l
    where l.seconds is not null;
end
$$;

-- 71_cron.sql
create or replace function hotmesh._cron_refuse(line text, field text, fault text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('cron: %s is no line of a crontab', coalesce(left(line, 100), 'null')),
        format('%s: %s', field, fault),
        'Five fields, for instance "30 2 * * mon-fri" or "*/15 9-17 * * *", or @hourly, @daily, '
        || '@weekly, @monthly, @yearly.');
end
$$;

create or replace function hotmesh._cron_number(word text, low integer, names text[])
returns integer
language sql
immutable
as $$
    select case when word ~ '^\d' then word::integer
                else array_position(names, word) - 1 + low end
$$;

-- One item of a list: *, a, a-b, each with /step. Null: it can't be read.
create or replace function hotmesh._cron_item(
    item text, low integer, high integer, names text[])
returns integer[]
language plpgsql
immutable
as $$
declare
    v_parts text[] := regexp_match(
        item, '^(?:\*|(\d{1,2}|[a-z]{3})(?:-(\d{1,2}|[a-z]{3}))?)(?:/(\d{1,2}))?$');
    v_from integer := coalesce(hotmesh._cron_number(v_parts[1], low, names), low);
    v_to integer := hotmesh._cron_number(v_parts[2], low, names);
    v_step integer := coalesce(v_parts[3]::integer, 1);
begin
    if v_parts is null or v_step = 0
        or v_parts[1] is not null and hotmesh._cron_number(v_parts[1], low, names) is null
        or v_parts[2] is not null and v_to is null
    then
        return null;
    elsif v_parts[2] = 'sun' and v_from > 0 then
        v_to := 7;  -- fri-sun
    end if;
    v_to := coalesce(
        v_to, case when v_parts[1] is null or v_parts[3] is not null then high else v_from end);
    if v_from < low or v_to > high or v_from > v_to then
        return null;
    end if;
    return array(select generate_series(v_from, v_to, v_step));
end
$$;

create or replace function hotmesh._cron_field(
    line text, field text, item_list text, low integer, high integer, names text[] default '{}')
returns integer[]
language plpgsql
immutable
as $$
declare
    v_item text;
    v_found integer[];
    v_values integer[] := '{}';
begin
    foreach v_item in array string_to_array(item_list, ',') loop
        v_found := hotmesh._cron_item(v_item, low, high, names);
        if v_found is null then
            perform hotmesh._cron_refuse(line, field, format(
                '"%s" is none of *, a number or a name, a range such as %s-%s, each with or '
                || 'without a step such as /2.', left(v_item, 40), low, high));
        end if;
        v_values := v_values || v_found;
    end loop;
    return v_values;
end
$$;

create or replace function hotmesh._cron_parse(line text)
returns hotmesh.cron
language plpgsql
immutable
as $$
declare
    v_line text := lower(btrim(line, E' \t\n\r'));
    v_parts text[];
    v_cron hotmesh.cron;
begin
    v_line := case v_line
        when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *'
        when '@midnight' then '0 0 * * *' when '@weekly' then '0 0 * * 0'
        when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
        when '@annually' then '0 0 1 1 *' else v_line end;
    v_parts := regexp_split_to_array(left(v_line, 1000), '\s+');
    if cardinality(v_parts) is distinct from 5 or v_parts[1] = '' or length(v_line) > 1000 then
        perform hotmesh._cron_refuse(
            line, 'shape', format('it has %s fields.', coalesce(cardinality(v_parts), 0)));
    end if;
    v_cron.minutes := hotmesh._cron_field(line, 'minute', v_parts[1], 0, 59);
    v_cron.hours := hotmesh._cron_field(line, 'hour', v_parts[2], 0, 23);
    v_cron.days := hotmesh._cron_field(line, 'day of the month', v_parts[3], 1, 31);
    v_cron.months := hotmesh._cron_field(
        line, 'month', v_parts[4], 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
    v_cron.weekdays := array(
        select w % 7
        from unnest(hotmesh._cron_field(
            line, 'weekday', v_parts[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}')) w);
    v_cron.either_day := v_parts[3] !~ '^\*' and v_parts[5] !~ '^\*';
    v_cron.fixed := v_parts[1] !~ '^\*' and v_parts[2] !~ '^\*';
    return v_cron;
end
$$;

create or replace function hotmesh._cron_has(cron hotmesh.cron, day date)
returns boolean
language sql
immutable
as $$
    select extract(month from day)::integer = any (cron.months)
       and case when cron.either_day
                then extract(day from day)::integer = any (cron.days)
                     or extract(dow from day)::integer = any (cron.weekdays)
                else extract(day from day)::integer = any (cron.days)
                     and extract(dow from day)::integer = any (cron.weekdays) end
$$;

-- What the clocks of a zone are ahead of UTC at an instant.
create or replace function hotmesh._cron_ahead(zone text, at timestamptz)
returns interval
language sql
stable
as $$
    select (at at time zone zone) - (at at time zone 'UTC')
$$;

-- The instant between two at which the clocks change, to the second.
create or replace function hotmesh._cron_change(
    zone text, low timestamptz, high timestamptz)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_before constant interval := hotmesh._cron_ahead(zone, low);
    v_middle timestamptz;
begin
    while high - low > interval '1 s' loop
        v_middle := date_trunc('second', low + (high - low) / 2);
        if hotmesh._cron_ahead(zone, v_middle) = v_before then
            low := v_middle;
        else
            high := v_middle;
        end if;
    end loop;
    return high;
end
$$;

-- The ticks of a day on which the clocks change, or may; `u` is by the clock before the change,
-- `v` by the one after it.
create or replace function hotmesh._cron_odd_day(
    cron hotmesh.cron, day date, change timestamptz, ahead interval, ahead_then interval)
returns setof timestamptz
language sql
stable
as $$
    select t.tick
    from unnest(cron.hours) h
    cross join unnest(cron.minutes) m
    cross join lateral (
        select (day + make_interval(hours => h, mins => m)) at time zone 'UTC' as clock) c
    cross join lateral (select c.clock - ahead as u, c.clock - ahead_then as v) i
    cross join lateral (values
        (case when i.u < change then i.u
              when i.v >= change then i.v
              when cron.fixed then change end),
        (case when i.u < change and i.v >= change and not cron.fixed then i.v end)) t (tick)
    where t.tick is not null
$$;

-- The first tick of a day after an instant, or with step -1 the last one up to it. A local day lies
-- between 15 hours before and 37 hours after its midnight in UTC.
create or replace function hotmesh._cron_day(
    cron hotmesh.cron, zone text, day date, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_midnight constant timestamptz := day::timestamp at time zone 'UTC';
    v_low constant timestamptz := v_midnight - interval '15 hours';
    v_high constant timestamptz := v_midnight + interval '37 hours';
    v_ahead constant interval := hotmesh._cron_ahead(zone, v_low);
    v_then constant interval := hotmesh._cron_ahead(zone, v_high);
    v_now constant integer := floor(extract(epoch from at + v_ahead - v_midnight) / 60);
    v_tick timestamptz;
begin
    if v_ahead = v_then then
        return v_midnight - v_ahead + make_interval(mins => (
            select case when step > 0 then min(t) filter (where t > v_now)
                        else max(t) filter (where t <= v_now) end
            from unnest(cron.hours) h
            cross join unnest(cron.minutes) m
            cross join lateral (select h * 60 + m) t (t)));
    end if;
    select case when step > 0 then min(t) filter (where t > at)
                else max(t) filter (where t <= at) end
    into v_tick
    from hotmesh._cron_odd_day(
        cron, day, hotmesh._cron_change(zone, v_low, v_high), v_ahead, v_then) t;
    return v_tick;
end
$$;

-- The next tick after an instant, or with step -1 the last one up to it; null: none in 40 years.
create or replace function hotmesh._cron_near(
    cron hotmesh.cron, zone text, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_first constant date := (at at time zone zone)::date;
    v_tick timestamptz;
begin
    for n in 0..14700 loop
        if hotmesh._cron_has(cron, v_first + n * step) then
            v_tick := hotmesh._cron_day(cron, zone, v_first + n * step, at, step);
            exit when v_tick is not null;
        end if;
    end loop;
    return v_tick;
end
$$;

-- A zone by its full name, spelled as Postgres does. Abbreviations are refused: they don't change
-- with the season.
create or replace function hotmesh._cron_zone(zone text)
returns text
language plpgsql
stable
as $$
declare
    v_name text := case when zone = 'UTC' then zone else (
        select z.name
        from pg_timezone_names z
        where lower(z.name) = lower(left(zone, 100))
        limit 1) end;
begin
    if v_name is null then
        perform hotmesh._refuse_argument(
            format('unknown time zone: %s', coalesce(left(zone, 100), 'null')),
            'Time zones have names such as Europe/Berlin; those of this server are in '
            || 'pg_timezone_names.',
            'Leave it out for UTC.');
    end if;
    return v_name;
end
$$;

-- cron.nextDelay of @pipe: the whole seconds until the next tick in UTC, at least 1; -1 for what is
-- no text, or never comes.
create or replace function hotmesh._cron_next_delay(line jsonb)
returns jsonb
language plpgsql
volatile
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_tick timestamptz;
begin
    if jsonb_typeof(line) is distinct from 'string' then
        return '-1';
    end if;
    v_tick := hotmesh._cron_near(hotmesh._cron_parse(line #>> '{}'), 'UTC', v_now, 1);
    return case when v_tick is null then '-1'::jsonb
                else to_jsonb(greatest(ceil(extract(epoch from v_tick - v_now)), 1)::integer) end;
end
$$;

-- 78_path.sql
create or replace function hotmesh._path_check(path text)
returns void
language plpgsql
immutable
parallel safe
as $$
begin
    if octet_length(path) > 10000 then
        perform hotmesh._refuse_argument(
            'path is too long',
            format('It has %s bytes and begins with %L.', octet_length(path), left(path, 40)),
            'Up to 10000 bytes.');
    elsif path ~ '(^|[^\\])(\\\\)*\\$' then
        perform hotmesh._refuse_argument(
            format('path ends within an escape: %s', left(path, 200)),
            'A backslash escapes the dot or the backslash after it, and nothing comes after it.',
            'Write a backslash at the end of a name twice.');
    end if;
end
$$;

create or replace function hotmesh._path_split(path text)
returns text[]
language plpgsql
immutable
parallel safe
as $$
begin
    perform hotmesh._path_check(path);
    return array(
        select regexp_replace(m.name[1], '\\([\\.])', '\1', 'g')
        from regexp_matches(path || '.', '((?:[^\\.]|\\.)*)\.', 'g') with ordinality m (name, n)
        order by m.n);
end
$$;

-- Plain ones as a part of what calls it.
create or replace function hotmesh._path_parse(path text)
returns text[]
language sql
immutable
parallel safe
as $$
    select case
        when path is null then '{}'
        when path = '' or octet_length(path) > 10000 or strpos(path, '\') > 0
            then hotmesh._path_split(path)
        else string_to_array(path, '.') end
$$;

-- The value at a path; null if nothing is there. A json null is there.
create or replace function hotmesh._path_get(document jsonb, path text[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select document #> path
$$;

-- 79_index.sql
create or replace function hotmesh._index_check_entity(entity text)
returns void
language plpgsql
as $$
begin
    if octet_length(coalesce(entity, '')) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'find needs the name of an entity', format('It was %L.', left(entity, 60)),
            'Name what the jobs were started with; by default it is the workflow''s name.');
    end if;
end
$$;

create or replace function hotmesh._index_name(entity text, path text[], method text)
returns name
language sql
stable
as $$
    select format('jobs_%s_%s_%s', left(trim('_' from regexp_replace(
               lower(entity || '_' || array_to_string(path, '_')), '[^a-z0-9]+', '_', 'g')), 40),
           method, left(md5(jsonb_build_array(entity, path, method)::text), 8))::name
$$;

-- What an index holds of the value at a path, which is an SQL expression.
create or replace function hotmesh._index_key(path text)
returns text
language sql
immutable
as $$
    select format(
        '(case when jsonb_typeof(context #> %1$s) in (''object'', ''array'')'
        || ' or octet_length(context #>> %1$s) > 1500 then ''{}'' else context #> %1$s end)', path)
$$;

create or replace function hotmesh._index_there(entity text, path text[], method text)
returns boolean
language sql
stable
as $$
    select exists (
        select from pg_class c
        where c.relnamespace = to_regnamespace(quote_ident((current_schemas(false))[2]))
          and c.relname = hotmesh._index_name(entity, path, method) and c.relkind = 'i')
$$;

create or replace function hotmesh._index_check(entity text, field text, method text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._index_check_entity(entity);
    if coalesce(method, '') not in ('btree', 'gin') then
        perform hotmesh._refuse_argument(
            format('no such kind of index: %s', left(method, 60)),
            'A btree serves $eq $in $gt $gte $lt $lte of a path, a gin $contains of a path, or $eq '
            || 'and $contains of all paths if no field is named.',
            'Say btree or gin.');
    elsif method = 'btree' and field is null then
        perform hotmesh._refuse_argument(
            'a btree needs a field', 'None was named.', 'Name a path, such as "address.city".');
    end if;
end
$$;

-- What an index is of; null for the whole document.
create or replace function hotmesh._index_expression(path text[], method text)
returns text
language sql
stable
as $$
    select case
        when method = 'btree' then hotmesh._index_key(format('%L::text[]', path))
        when path <> '{}' then format('(context #> %L::text[])', path)
    end
$$;

-- What makes the index, in manner `how`; nothing if it is there. The planner reads no statistics
-- off a partial index, so its expression has an object of its own.
create or replace function hotmesh._index_ddl(entity text, field text, method text, how text)
returns text[]
language plpgsql
stable
as $$
declare
    v_schema text := (current_schemas(false))[2];
    v_path text[] := hotmesh._path_parse(field);
    v_name text := hotmesh._index_name(entity, v_path, method);
    v_of text := hotmesh._index_expression(v_path, method);
    v_valid boolean := (  -- or somebody builds it now
        select i.indisvalid or exists (
            select from pg_stat_progress_create_index b where b.index_relid = i.indexrelid)
        from pg_index i
        where i.indexrelid = to_regclass(format('%I.%I', v_schema, v_name)));
begin
    if v_valid then
        return '{}';
    end if;
    return array_remove(array[
        case when not v_valid then format('drop index %s %I.%I', how, v_schema, v_name) end,
        format('create index %s if not exists %I on %I.jobs using %I (%s%s)%s where entity = %L',
               how, v_name, v_schema, method, coalesce(v_of, 'context'),
               case method when 'gin' then ' jsonb_path_ops' end,
               case method when 'gin' then ' with (fastupdate = off)' end, entity),
        case when v_of is not null then format(
            'create statistics if not exists %1$I.%2$I on (%3$s) from %1$I.jobs',
            v_schema, v_name, v_of) end,
        case when exists (select from jobs j where j.entity = _index_ddl.entity)
             then format('analyze %I.jobs', v_schema) end], null);
end
$$;

create or replace function hotmesh.entity_index_ddl(
    app text, entity text, field text default null, method text default 'btree')
returns setof text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._index_check(entity, field, method);
    return query
    select d.statement
    from unnest(hotmesh._index_ddl(entity, field, method, 'concurrently')) d (statement)
    where pg_has_role(
        session_user, (select c.relowner from pg_class c where c.oid = 'jobs'::regclass), 'usage');
end
$$;
comment on function hotmesh.entity_index_ddl(text, text, text, text) is
'The statements by which an owner of the tables builds the index of `entity_create_index` without
stopping anybody: outside of a transaction, one by one. No rows: it is there, or is not yours to
build. Raises 22023.';

create or replace function hotmesh.entity_create_index(
    app text, entity text, field text default null, method text default 'btree')
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set lock_timeout = '10s'
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._index_check(entity, field, method);
    perform hotmesh._app_run(hotmesh._index_ddl(entity, field, method, ''));
    return hotmesh._index_name(entity, hotmesh._path_parse(field), method);
end
$$;
comment on function hotmesh.entity_create_index(text, text, text, text) is
'An index for `entity_find`, and its name; nothing happens if it is there. btree: of the value at a
path; gin: what the value there contains, or the whole document without a field. Stops the app''s
writers while it builds; see entity_index_ddl. Raises 22023.';

-- 80_patch.sql
create or replace function hotmesh._patch_name(path text[])
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(left(string_agg(
        replace(replace(n.name, '\', '\\'), '.', '\.'), '.' order by n.place), 300), '')
    from unnest(path) with ordinality n (name, place)
$$;

create or replace function hotmesh._patch_refuse_type(path text[], expected text, value jsonb)
returns void
language plpgsql
immutable
as $$
begin
    raise exception '% %, %', case
            when path = '{}' then 'the whole of the entity must be an'
            else format('"%s" of the entity is no', hotmesh._patch_name(path)) end,
        expected, case when path = '{}' then 'not ' else 'but ' end
            || coalesce(jsonb_typeof(value), 'nothing')
    using
        errcode = 'MSH80',
        detail = format('Expected %s, found %s: %s.', expected,
                        coalesce(jsonb_typeof(value), 'nothing'), left(value::text, 200)),
        hint = case
            when path = '{}' then 'Give an object, or name the part of it that is meant by a path.'
            else 'Look at it with entity_get; entity_set replaces it, entity_delete removes it.'
            end;
end
$$;

create or replace function hotmesh._patch_refuse_index(path text[], name text, list jsonb)
returns void
language plpgsql
immutable
as $$
begin
    raise exception 'the array "%" of the entity has no element %',
        hotmesh._patch_name(path), left(name, 60)
    using
        errcode = 'MSH81',
        detail = case when list = '[]' then 'It has no elements.' else format(
            'It has %s elements: expected 0 to %s, or from the end -1 to -%1$s.',
            jsonb_array_length(list), jsonb_array_length(list) - 1) end,
        hint = 'entity_append and entity_prepend make an array longer.';
end
$$;

create or replace function hotmesh._patch_refuse_depth(path text[], depth_limit integer)
returns void
language plpgsql
immutable
as $$
begin
    raise exception 'the entity would be nested too deep at "%"', hotmesh._patch_name(path[:20])
    using
        errcode = 'MSH82',
        detail = format('Expected at most %s levels of objects and arrays, found more.',
                        depth_limit),
        hint = 'Keep the parts in jobs of their own, or flat under composed names.';
end
$$;

create or replace function hotmesh._patch_refuse_whole(operation text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('%s needs a path', operation), 'Only set, merge and get take the whole document.',
        'Name the place: "notes", "counts.open", "items.0.done".');
end
$$;

-- Every level takes 8 bytes, so that small values need no look.
create or replace function hotmesh._patch_check_depth(path text[], value jsonb)
returns void
language plpgsql
immutable
as $$
declare
    v_limit constant integer := 400;
    v_left integer := v_limit - coalesce(cardinality(path), 0);
begin
    if v_left < 0 or (
        pg_column_size(value) > v_left * 8
        and jsonb_path_exists(value, format('strict $.**{%s}', v_left + 1)::jsonpath))
    then
        perform hotmesh._patch_refuse_depth(path, v_limit);
    end if;
end
$$;

-- The element of an array that the last name of a path means.
create or replace function hotmesh._patch_index(path text[], name text, list jsonb)
returns integer
language plpgsql
immutable
as $$
declare
    v_length constant integer := jsonb_array_length(list);
begin
    if name !~ '^-?\d{1,9}$' or name::integer not between -v_length and v_length - 1 then
        perform hotmesh._patch_refuse_index(path, name, list);
    end if;
    return name::integer;
end
$$;

-- Puts a value at a path. Where the parent is missing, it puts an object with the value there.
create or replace function hotmesh._patch_put(document jsonb, path text[], value jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_last integer := cardinality(path);
    v_parent jsonb;
begin
    while v_last > 0 loop
        v_parent := document #> path[:v_last - 1];
        if jsonb_typeof(v_parent) = 'object' then
            return jsonb_set(document, path[:v_last], value);
        elsif jsonb_typeof(v_parent) = 'array' then
            perform hotmesh._patch_index(path[:v_last - 1], path[v_last], v_parent);
            return jsonb_set(document, path[:v_last], value, false);
        elsif v_parent <> 'null' then
            perform hotmesh._patch_refuse_type(path[:v_last - 1], 'object or array', v_parent);
        end if;
        value := jsonb_build_object(path[v_last], value);
        v_last := v_last - 1;
    end loop;
    return value;
end
$$;

create or replace function hotmesh._patch_delete(document jsonb, path text[])
returns jsonb
language plpgsql
immutable
as $$
declare
    v_last integer := cardinality(path);
    v_parent jsonb;
begin
    while v_last > 0 loop
        v_parent := document #> path[:v_last - 1];
        if jsonb_typeof(v_parent) = 'array' then
            perform hotmesh._patch_index(path[:v_last - 1], path[v_last], v_parent);
        elsif jsonb_typeof(v_parent) <> 'object' and v_parent <> 'null' then
            perform hotmesh._patch_refuse_type(path[:v_last - 1], 'object or array', v_parent);
        end if;
        exit when v_parent is not null;
        v_last := v_last - 1;
    end loop;
    return case when v_last = cardinality(path) then document #- path else document end;
end
$$;

-- Objects merge at any depth, everything else replaces.
create or replace function hotmesh._patch_merge(target jsonb, value jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_nested jsonb;
begin
    if jsonb_typeof(target) is distinct from 'object' or jsonb_typeof(value) <> 'object' then
        return value;
    end if;
    select jsonb_object_agg(v.key, hotmesh._patch_merge(target -> v.key, v.value))
    into v_nested
    from jsonb_each(value) v
    where jsonb_typeof(v.value) = 'object' and jsonb_typeof(target -> v.key) = 'object';
    return target || case when v_nested is null then value else value || v_nested end;
end
$$;

-- What is at a path, if it is of a type; `missing` if nothing is there, or null.
create or replace function hotmesh._patch_typed(
    document jsonb, path text[], type text, missing jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_value jsonb := coalesce(nullif(document #> path, 'null'), missing);
begin
    if jsonb_typeof(v_value) <> type then
        perform hotmesh._patch_refuse_type(path, type, v_value);
    end if;
    return v_value;
end
$$;

create or replace function hotmesh._patch_check_argument(operation text, argument jsonb)
returns void
language plpgsql
immutable
as $$
begin
    if operation = 'increment' and jsonb_typeof(argument) <> 'number' then
        perform hotmesh._refuse_argument(
            format('the amount of an increment is no number: %s', left(argument::text, 60)),
            format('Expected a number, found %s.', jsonb_typeof(argument)),
            'A number of any size and precision, but neither NaN nor infinite.');
    elsif operation = 'remove' and argument::text !~ '^-?\d{1,9}$' then
        perform hotmesh._refuse_argument(
            format('the index of a remove is no whole number: %s', left(argument::text, 60)),
            format('Expected a whole number, found %s.', jsonb_typeof(argument)),
            'Elements count from 0, from the end -1 is the last.');
    end if;
end
$$;

-- What the commands that look at the old value put in its place.
create or replace function hotmesh._patch_value(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_list jsonb;
begin
    case operation
        when 'merge' then
            return hotmesh._patch_merge(document #> path, argument);
        when 'increment' then
            return to_jsonb(
                hotmesh._patch_typed(document, path, 'number', '0')::numeric + argument::numeric);
        when 'toggle' then
            return to_jsonb(not hotmesh._patch_typed(document, path, 'boolean', 'false')::boolean);
        else
            v_list := hotmesh._patch_typed(document, path, 'array', '[]');
    end case;
    case operation
        when 'append' then return v_list || jsonb_build_array(argument);
        when 'prepend' then return jsonb_build_array(argument) || v_list;
        when 'remove' then return v_list - hotmesh._patch_index(path, argument::text, v_list);
    end case;
end
$$;

create or replace function hotmesh._patch_apply(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language plpgsql
immutable
as $$
declare
    v_document jsonb;
begin
    if path = '{}' and operation not in ('set', 'merge', 'update', 'fork') then
        perform hotmesh._patch_refuse_whole(operation);
    end if;
    perform hotmesh._patch_check_depth(path, argument);
    case operation
        when 'set', 'update', 'fork' then
            v_document := hotmesh._patch_put(document, path, argument);
        when 'set_if_not_exists' then
            v_document := case when document #> path is not null then document
                               else hotmesh._patch_put(document, path, argument) end;
        when 'delete' then
            v_document := hotmesh._patch_delete(document, path);
        else
            perform hotmesh._patch_check_argument(operation, argument);
            v_document := hotmesh._patch_put(
                document, path, hotmesh._patch_value(document, operation, path, argument));
    end case;
    if jsonb_typeof(v_document) <> 'object' and operation <> 'update' then
        perform hotmesh._patch_refuse_type('{}', 'object', v_document);
    end if;
    return v_document;
end
$$;

-- The same, as a part of the statement that calls it: the plainest commands are told apart there,
-- for a call of a function costs more than what they do. (Stable, as to_jsonb is: an immutable one
-- would not become a part.)
create or replace function hotmesh._patch(
    document jsonb, operation text, path text[], argument jsonb)
returns jsonb
language sql
stable
as $$
    select case
        when operation = 'increment' and jsonb_typeof(argument) = 'number'
            and jsonb_typeof(document #> path) = 'number' and jsonb_typeof(document) = 'object'
            then jsonb_set(document, path,
                           to_jsonb((document #> path)::numeric + argument::numeric))
        else hotmesh._patch_apply(document, operation, path, argument) end
$$;

-- Whether this surely is a small object in which there is no other. (A brace in a text may be one.)
create or replace function hotmesh._patch_is_flat(argument jsonb)
returns boolean
language sql
stable
as $$
    select pg_column_size(argument) < 1000 and argument::text ~ '^\{[^{]*$'
$$;

-- The merge of such a one into the whole document, as a part of the statement, too.
create or replace function hotmesh._patch_lay(document jsonb, argument jsonb)
returns jsonb
language sql
stable
as $$
    select case when jsonb_typeof(document) = 'object' then document || argument
                else hotmesh._patch_apply(document, 'merge', '{}', argument) end
$$;

-- What a command answers: the document, or what is now at its path.
create or replace function hotmesh._patch_answer(document jsonb, operation text, path text[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select case when operation in ('set', 'merge', 'delete') then document
                else document #> path end
$$;

-- 81_entity.sql
create or replace function hotmesh._entity_refuse_large(size bigint, size_limit bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'the entity would be too large: % bytes', size using
        errcode = 'MSH83',
        detail = format('Expected at most %s bytes, found %s.', size_limit, size),
        hint = 'Keep large parts elsewhere and refer to them, or raise the app''s setting '
               || 'entity_limit.';
end
$$;

create or replace function hotmesh._entity_refuse_archived(key text)
returns void
language plpgsql
as $$
begin
    raise exception 'job "%" is archived', left(key, 200) using
        errcode = 'MSH84',
        detail = 'The entity of an archived job can be read, but not changed.',
        hint = 'Start a new job from it: entity_fork.';
end
$$;

create or replace function hotmesh._entity_refuse_missing(key text)
returns void
language plpgsql
as $$
begin
    if exists (select from jobs_archive a where a.key = _entity_refuse_missing.key) then
        perform hotmesh._entity_refuse_archived(key);
    end if;
    perform hotmesh._job_refuse_missing(key);
end
$$;

create or replace function hotmesh._entity_role()
returns text
language sql
stable
as $$
    select coalesce(nullif(current_setting('role'), 'none'), session_user::text)
$$;

-- A log entry to start from: who changes it and when, its version and its document as they are.
-- `#> '{}'` unpacks the document, once.
create or replace function hotmesh._entity_lock(key text)
returns hotmesh.entity_log
language plpgsql
as $$
declare
    v_entry hotmesh.entity_log;
begin
    select j.id, j.entity_version, j.context #> '{}'
    into v_entry.job_id, v_entry.version, v_entry.document
    from jobs j
    where j.key = _entity_lock.key
    for no key update;
    if not found then
        perform hotmesh._entity_refuse_missing(key);
    end if;
    v_entry.role := hotmesh._entity_role();
    v_entry.at := hotmesh.now();
    return v_entry;
end
$$;

create or replace function hotmesh._entity_check(command hotmesh.entity_command)
returns void
language plpgsql
immutable
as $$
declare
    v_known constant text[] := '{set,merge,append,prepend,remove,increment,toggle,'
        'set_if_not_exists,delete,get}';
begin
    if command.operation is null or command.operation <> all (v_known) then
        perform hotmesh._refuse_argument(
            format('no such entity command: %s', coalesce(left(command.operation, 60), 'null')),
            format('Commands: %s.', array_to_string(v_known, ', ')), 'Check the spelling.');
    end if;
end
$$;

create or replace function hotmesh._entity_check_request(request text)
returns void
language plpgsql
immutable
as $$
begin
    if octet_length(request) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'an idempotency key is empty or too long',
            format('It has %s bytes and begins with %L.', octet_length(request), left(request, 40)),
            'From 1 to 500 bytes, or leave it out.');
    end if;
end
$$;

-- What there is to do after a change that made the versions from `first` on; mostly nothing.
create or replace function hotmesh._entity_changed(
    settings jsonb, job_id bigint, first bigint, size bigint)
returns void
language plpgsql
as $$
declare
    v_keep bigint := (settings ->> 'entity_log_keep')::bigint;
    v_limit bigint := coalesce((settings ->> 'entity_limit')::bigint, 67108864);
    v_watched boolean;
    v_full boolean;
begin
    if size > v_limit then
        perform hotmesh._entity_refuse_large(size, v_limit);
    end if;
    select j.watched_until > j.updated_at, hotmesh._log_is_full(settings, first, j.entity_version)
    into v_watched, v_full
    from jobs j
    where j.id = job_id;
    if v_watched then
        perform hotmesh._watch_tell(job_id);
    end if;
    if v_keep > 0 and v_full then
        perform hotmesh._log_prune(job_id, hotmesh.now() - make_interval(secs => v_keep));
    end if;
end
$$;

-- What follows a command where it is not only its row of the log: there is no such job, the app
-- says how entities are kept, the document is large, or somebody watches.
create or replace function hotmesh._entity_done(
    settings jsonb, key text, entry hotmesh.entity_log)
returns void
language plpgsql
as $$
declare
    v_size bigint := pg_column_size(entry.document);
begin
    if entry.job_id is null then
        perform hotmesh._entity_refuse_missing(key);
    end if;
    if not hotmesh._log_is_full(settings, entry.version, entry.version) then
        entry.document := null;
    end if;
    if hotmesh._log_is_on(settings) then
        perform hotmesh._log_write(array[entry]);
    end if;
    perform hotmesh._entity_changed(settings, entry.job_id, entry.version, v_size);
end
$$;

-- One command: the document, its row of the log, and the answer. All expressions of a statement are
-- prepared anew in each transaction, used or not, and took a third of the time: so there are few.
create or replace function hotmesh._entity_do(
    settings jsonb, key text, operation text, path text, argument jsonb, request text,
    dimension text default null, sequence integer default null)
returns jsonb
language plpgsql
as $$
declare
    v_names text[];
    v_id bigint;
    v_version bigint;
    v_at timestamptz;
    v_document jsonb;
    v_watched timestamptz;
begin
    if request is not null then
        return hotmesh._entity_once(settings, key, operation, path, argument, request);
    end if;
    if operation = 'merge' and path is null and hotmesh._patch_is_flat(argument) then
        update jobs j set context = hotmesh._patch_lay(j.context, argument),
            entity_version = j.entity_version + 1, updated_at = hotmesh.now()
        where j.key = _entity_do.key
        returning j.id, j.entity_version, j.updated_at, j.context, j.watched_until
        into v_id, v_version, v_at, v_document, v_watched;
    else
        v_names := hotmesh._path_parse(path);
        update jobs j set context = hotmesh._patch(j.context, operation, v_names, argument),
            entity_version = j.entity_version + 1, updated_at = hotmesh.now()
        where j.key = _entity_do.key
        returning j.id, j.entity_version, j.updated_at, j.context, j.watched_until
        into v_id, v_version, v_at, v_document, v_watched;
    end if;
    if (v_watched is null or v_watched <= v_at) and pg_column_size(v_document) <= 67108864
        and not settings ?| '{entity_log_keep,entity_limit,entity_snapshot}'
    then
        insert into entity_log (
            job_id, version, operation, path, argument, role, dimension, sequence, at, document)
        values (v_id, v_version, operation, path, argument, hotmesh._entity_role(), dimension,
                sequence, v_at,
                case when hotmesh._log_is_full('{}', v_version, v_version) then v_document end);
    else
        perform hotmesh._entity_done(settings, key, (
            v_id, v_version, operation, path, argument, hotmesh._entity_role(), dimension, sequence,
            v_at, null, null, v_document)::hotmesh.entity_log);
    end if;
    return hotmesh._patch_answer(v_document, operation, v_names);
end
$$;

-- Several commands: the document of the last entry, and all of them.
create or replace function hotmesh._entity_write_all(
    settings jsonb, entries hotmesh.entity_log[], document jsonb)
returns void
language plpgsql
as $$
declare
    v_first bigint := entries[1].version;
    v_last hotmesh.entity_log := entries[cardinality(entries)];
begin
    update jobs j
    set context = document, entity_version = v_last.version, updated_at = v_last.at
    where j.id = v_last.job_id;
    if hotmesh._log_is_full(settings, v_first, v_last.version) then
        entries[cardinality(entries)].document := document;
    end if;
    if hotmesh._log_is_on(settings) or v_last.request is not null then
        perform hotmesh._log_write(entries);
    end if;
    perform hotmesh._entity_changed(
        settings, v_last.job_id, v_first, pg_column_size(document));
end
$$;

-- Carries out commands on the job of `entry`, as one change, and returns their answers. The row is
-- locked.
create or replace function hotmesh._entity_change(
    settings jsonb, entry hotmesh.entity_log, commands hotmesh.entity_command[], request text)
returns jsonb
language plpgsql
as $$
declare
    v_document jsonb := entry.document;
    v_command hotmesh.entity_command;
    v_path text[];
    v_entries hotmesh.entity_log[] := '{}';
    v_answers jsonb[] := '{}';
begin
    entry.document := null;
    foreach v_command in array commands loop
        perform hotmesh._entity_check(v_command);
        v_path := hotmesh._path_parse(v_command.path);
        if v_command.operation <> 'get' then
            v_document := hotmesh._patch_apply(
                v_document, v_command.operation, v_path, v_command.argument);
            entry.version := entry.version + 1;
            entry.operation := v_command.operation;
            entry.path := v_command.path;
            entry.argument := v_command.argument;
            v_entries := v_entries || entry;
        end if;
        v_answers := v_answers || array[
            hotmesh._patch_answer(v_document, v_command.operation, v_path)];
    end loop;
    if v_entries <> '{}' then
        if request is not null then
            v_entries[cardinality(v_entries)].request := request;
            v_entries[cardinality(v_entries)].answer := to_jsonb(v_answers);
        end if;
        perform hotmesh._entity_write_all(settings, v_entries, v_document);
    end if;
    return to_jsonb(v_answers);
end
$$;

-- Several commands, all or none; with an idempotency key, what the first call answered. One without
-- a key goes the short way.
create or replace function hotmesh._entity_apply(
    settings jsonb, key text, commands hotmesh.entity_command[], request text)
returns jsonb
language plpgsql
as $$
declare
    v_entry hotmesh.entity_log;
    v_answers jsonb;
begin
    if request is null and cardinality(commands) = 1 and commands[1].operation <> 'get' then
        perform hotmesh._entity_check(commands[1]);
        return jsonb_build_array(hotmesh._entity_do(
            settings, key, commands[1].operation, commands[1].path, commands[1].argument, null));
    end if;
    v_entry := hotmesh._entity_lock(key);
    if request is not null then
        perform hotmesh._entity_check_request(request);
        v_answers := hotmesh._log_answer(v_entry.job_id, request);
    end if;
    return coalesce(v_answers, hotmesh._entity_change(settings, v_entry, commands, request));
end
$$;

-- One command with an idempotency key.
create or replace function hotmesh._entity_once(
    settings jsonb, key text, operation text, path text, argument jsonb, request text)
returns jsonb
language plpgsql
as $$
begin
    return hotmesh._entity_apply(
        settings, key, array[(operation, path, argument)::hotmesh.entity_command], request) -> 0;
end
$$;

-- [{"operation": "merge", "path": "a.b", "value": {}}, …]; a value may be called index or amount.
create or replace function hotmesh._entity_commands(commands jsonb)
returns hotmesh.entity_command[]
language plpgsql
as $$
begin
    if jsonb_typeof(commands) is distinct from 'array' or commands = '[]'
        or jsonb_array_length(commands) > 10000
        or exists (select from jsonb_array_elements(commands) c where jsonb_typeof(c) <> 'object')
    then
        perform hotmesh._refuse_argument(
            'commands are no JSON array of objects', left(commands::text, 200),
            'From 1 to 10000: [{"operation": "increment", "path": "count", "amount": 1}].');
    elsif exists (
        select from jsonb_array_elements(commands) c
        where jsonb_typeof(c -> 'path') not in ('string', 'null'))
    then
        perform hotmesh._refuse_argument(
            'the path of a command is no text', left(commands::text, 200),
            'Write it as "counts.open"; leave it out for the whole document.');
    end if;
    return array(
        select (c.command ->> 'operation', c.command ->> 'path',
                coalesce(c.command -> 'value', c.command -> 'index', c.command -> 'amount',
                         case when c.command ->> 'operation' = 'increment' then '1'
                              else 'null' end::jsonb))::hotmesh.entity_command
        from jsonb_array_elements(commands) with ordinality c (command, place)
        order by c.place);
end
$$;

-- Workflow code's command: {"path": …, "value": …}; its name is the operation. The lock is held.
-- The journal keeps the answer as it is, a whole document, too. Its version alone would be smaller,
-- but replay would need a log that may be off, and whose rows go when the owner says so.
create or replace function hotmesh._entity_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_settings jsonb := (
        select a.settings from hotmesh.apps a where a.schema_name = hotmesh._app_here());
    v_key text := (select j.key from jobs j where j.id = step.job_id);
    v_command hotmesh.entity_command;
begin
    v_command.operation := step.name;
    v_command.path := step.value ->> 'path';
    v_command.argument := coalesce(step.value -> 'value', 'null');
    perform hotmesh._entity_check(v_command);
    if step.name = 'get' then
        return coalesce((
            select j.context #> hotmesh._path_parse(v_command.path)
            from jobs j where j.id = step.job_id), 'null');
    end if;
    return coalesce(hotmesh._entity_do(
        v_settings, v_key, v_command.operation, v_command.path, v_command.argument, null,
        step.dimension, step.sequence), 'null');
end
$$;

-- A plain UPDATE of the document: it counts, and is logged. (A command sets the version itself.)
create or replace function hotmesh._entity_updated()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
    v_entry hotmesh.entity_log;
begin
    if new.context is not distinct from old.context then
        return new;
    end if;
    perform set_config(
        'search_path', format('pg_catalog, %I, hotmesh, pg_temp', tg_table_schema), true);
    new.entity_version := old.entity_version + 1;
    v_entry.job_id := new.id;
    v_entry.version := new.entity_version;
    v_entry.operation := 'update';
    v_entry.argument := new.context;
    v_entry.role := hotmesh._entity_role();
    v_entry.at := hotmesh.now();
    if new.watched_until > v_entry.at then
        perform hotmesh._watch_tell(v_entry.job_id);
    end if;
    if hotmesh._setting('entity_log_keep', 1) <> 0 then
        perform hotmesh._log_write(array[v_entry]);
    end if;
    return new;
end
$$;
create or replace trigger version_context before update of context on hotmesh.jobs
for each row when (old.entity_version = new.entity_version)
execute function hotmesh._entity_updated();

-- 82_find.sql
create or replace function hotmesh._find_refuse(message text, given jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        message,
        format('It was %s.', coalesce(left(given::text, 200), 'null')),
        'Conditions are {"path": value} or {"path": {"$gt": value}}, with $eq $ne $gt $gte $lt '
        || '$lte $in $exists $contains $like, joined by {"$and": […]} and {"$or": […]}.');
end
$$;

-- Whether a value is fit for an operator; null for an operator that is not known.
create or replace function hotmesh._find_fits(operator text, value jsonb)
returns boolean
language sql
immutable
as $$
    select case
        when operator in ('$eq', '$ne', '$contains') then true
        when operator in ('$gt', '$gte', '$lt', '$lte')
            then jsonb_typeof(value) in ('number', 'string')
        when operator = '$in' then
            case when jsonb_typeof(value) = 'array' then jsonb_array_length(value) <= 10000
                 else false end
        when operator = '$exists' then jsonb_typeof(value) = 'boolean'
        when operator = '$like' then
            jsonb_typeof(value) = 'string' and value #>> '{}' !~ '(^|[^\\])(\\\\)*\\$'
    end
$$;

create or replace function hotmesh._find_check(operator text, value jsonb)
returns void
language plpgsql
as $$
declare
    v_fits boolean := hotmesh._find_fits(operator, value);
begin
    if v_fits is null then
        perform hotmesh._find_refuse(
            format('unknown operator: %s', left(operator, 60)), to_jsonb(operator));
    elsif not v_fits then
        perform hotmesh._find_refuse(
            format('%s takes %s', operator, case operator
                when '$in' then 'an array of up to 10000 values'
                when '$exists' then 'true or false'
                when '$like' then 'a pattern: a text that ends in no lone backslash'
                else 'a number or a text' end),
            value);
    end if;
end
$$;

create or replace function hotmesh._find_values(list jsonb)
returns jsonb[]
language sql
immutable
parallel safe
as $$
    select array(select e.value from jsonb_array_elements(list) e)
$$;

-- A document that holds just one value, at a path.
create or replace function hotmesh._find_nested(path text[], value jsonb)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
declare
    v_name text;
    v_nested jsonb := value;
begin
    foreach v_name in array array(
        select p.name from unnest(path) with ordinality p (name, n) order by p.n desc)
    loop
        v_nested := jsonb_build_object(v_name, v_nested);
    end loop;
    return v_nested;
end
$$;

-- One test, exactly; place and value are SQL expressions over what is bound.
create or replace function hotmesh._find_test(operator text, place text, value text)
returns text
language sql
immutable
as $$
    select format(case operator
        when '$eq' then '%1$s = %2$s'
        when '$ne' then '%1$s <> %2$s'
        when '$gt' then '%1$s > %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$gte' then '%1$s >= %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$lt' then '%1$s < %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$lte' then '%1$s <= %2$s and jsonb_typeof(%1$s) = jsonb_typeof(%2$s)'
        when '$in' then '%1$s = any (hotmesh._find_values(%2$s))'
        when '$exists' then '(%1$s is not null) = (%2$s)::boolean'
        when '$contains' then '%1$s @> %2$s'
        when '$like' then 'jsonb_typeof(%1$s) = ''string'' and %1$s #>> ''{}'' like %2$s #>> ''{}'''
        end, place, value)
$$;

-- What an index of the path can say of a test: it is true wherever the test is.
create or replace function hotmesh._find_narrow_path(operator text, path text, value text)
returns text
language sql
immutable
as $$
    select format(case operator
        when '$eq' then ' and %1$s = any (array[%2$s, ''{}''])'
        when '$gt' then ' and %1$s > %2$s'
        when '$gte' then ' and %1$s >= %2$s'
        when '$lt' then ' and (%1$s < %2$s or %1$s = ''{}'')'
        when '$lte' then ' and (%1$s <= %2$s or %1$s = ''{}'')'
        when '$in' then ' and %1$s = any (array_append(hotmesh._find_values(%2$s), ''{}''))'
        else '' end, hotmesh._index_key(path), value)
$$;

-- The same of an index of the whole document. Numbers in a path may mean an array or a name.
create or replace function hotmesh._find_narrow_document(
    operator text, names text[], path text, value text)
returns text
language sql
immutable
as $$
    select case
        when exists (select from unnest(names) n (name) where n.name ~ '^\s*[-+]?\d+$') then ''
        when operator = '$eq' then
            format(' and context @> hotmesh._find_nested(%s, %s)', path, value)
        when operator = '$contains' then
            format(' and (context @> hotmesh._find_nested(%1$s, %2$s)'
                   || ' or context @> hotmesh._find_nested(%1$s, ''[]'' || %2$s))', path, value)
        else '' end
$$;

-- What the planner is to think of a test: half of the rows. What an index can say is said beside
-- it, and Postgres would multiply the two, and sort a million jobs for the newest twenty.
create or replace function hotmesh._find_opaque(test text)
returns text
language sql
immutable
as $$
    select 'case when ' || test || ' then true else false end'
$$;

-- Without an entity it is the user's own facts that are tested: a path begins with a fact's name.
create or replace function hotmesh._find_clause(
    entity text, names text[], operator text, path text, value text)
returns text
language sql
stable
as $$
    select case
        when entity is null then hotmesh._find_test(operator, format(
            '((select a.value from jobs_attributes a where a.job_id = jobs.id'
            || ' and a.field = ''_'' || (%1$s)[1]) #> (%1$s)[2:])', path), value)
        when operator = '$contains' and hotmesh._index_there(entity, names, 'gin') then
            hotmesh._find_test(operator, format('(context #> %s)', path), value)
        else hotmesh._find_opaque(
            hotmesh._find_test(operator, format('(context #> %s)', path), value)) end
        || case when hotmesh._index_there(entity, names, 'btree')
                then hotmesh._find_narrow_path(operator, path, value) else '' end
        || case when hotmesh._index_there(entity, '{}', 'gin')
                then hotmesh._find_narrow_document(operator, names, path, value) else '' end
$$;

-- The tests of one path. Their values are bound behind it.
create or replace function hotmesh._find_field(
    entity text, field text, condition jsonb, bound jsonb)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_names text[] := hotmesh._path_parse(field);
    v_path text := format('hotmesh._path_parse($2 ->> %s)', jsonb_array_length(bound));
    v_tests jsonb := case
        when jsonb_path_exists(
            condition, 'strict $.keyvalue().key ? (@ starts with "$")', '{}', true) then condition
        else jsonb_build_object('$eq', condition) end;
    v_clauses text[] := '{}';
    v_bound jsonb := bound || to_jsonb(array[field]);
    v_operator text;
    v_value text;
begin
    foreach v_operator in array array(select jsonb_object_keys(v_tests)) loop
        perform hotmesh._find_check(v_operator, v_tests -> v_operator);
        v_value := format('($2 -> %s)', jsonb_array_length(v_bound));
        v_bound := v_bound || jsonb_build_array(v_tests -> v_operator);
        v_clauses := v_clauses
            || hotmesh._find_clause(entity, v_names, v_operator, v_path, v_value);
    end loop;
    return (array_to_string(v_clauses, ' and '), v_bound)::hotmesh.find_part;
end
$$;

create or replace function hotmesh._find_check_size(size integer, depth integer)
returns void
language plpgsql
as $$
begin
    if size > 400 or depth > 20 then
        perform hotmesh._refuse_argument(
            'too many conditions', 'Up to about 200 tests, 20 levels deep.',
            'Ask with $in, or in several calls.');
    end if;
end
$$;

-- All conditions of an object: every one of them must hold.
create or replace function hotmesh._find_group(
    entity text, conditions jsonb, bound jsonb, depth integer)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_clause text := 'true';
    v_part hotmesh.find_part;
    v_key text;
begin
    if jsonb_typeof(conditions) is distinct from 'object' then
        perform hotmesh._find_refuse('conditions are no JSON object', conditions);
    end if;
    v_part.bound := bound;
    foreach v_key in array array(select jsonb_object_keys(conditions)) loop
        perform hotmesh._find_check_size(jsonb_array_length(v_part.bound), depth);
        if v_key in ('$and', '$or') then
            v_part := hotmesh._find_list(
                entity, v_key, conditions -> v_key, v_part.bound, depth + 1);
        elsif v_key like '$%' then
            perform hotmesh._find_refuse(
                format('unknown operator: %s', left(v_key, 60)), conditions);
        else
            v_part := hotmesh._find_field(entity, v_key, conditions -> v_key, v_part.bound);
        end if;
        v_clause := v_clause || ' and (' || v_part.clause || ')';
    end loop;
    return (v_clause, v_part.bound)::hotmesh.find_part;
end
$$;

create or replace function hotmesh._find_list(
    entity text, operator text, list jsonb, bound jsonb, depth integer)
returns hotmesh.find_part
language plpgsql
as $$
declare
    v_clauses text[] := '{}';
    v_bound jsonb := bound;
    v_part hotmesh.find_part;
    v_group jsonb;
begin
    if jsonb_typeof(list) is distinct from 'array' or list = '[]' then
        perform hotmesh._find_refuse(format('%s takes an array of conditions', operator), list);
    end if;
    foreach v_group in array hotmesh._find_values(list) loop
        v_part := hotmesh._find_group(entity, v_group, v_bound, depth);
        v_bound := v_part.bound;
        v_clauses := v_clauses || ('(' || v_part.clause || ')');
    end loop;
    return (array_to_string(v_clauses, case operator when '$or' then ' or ' else ' and ' end),
            v_bound)::hotmesh.find_part;
end
$$;

-- The only dynamic statement: its text is made of what stands in this room.
create or replace function hotmesh._find_rows(
    query text, entity text, bound jsonb, take integer, skip integer, keys text[], before bigint)
returns table (key text, context jsonb, status bigint)
language plpgsql
as $$
begin
    return query execute query using entity, bound, take, skip, keys, before;
end
$$;

create or replace function hotmesh._find_check_page(
    entity text, take integer, skip integer, order_by text, descending boolean, before text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._index_check_entity(entity);
    if coalesce(take, -1) not between 0 and 10000 or coalesce(skip, -1) < 0 then
        perform hotmesh._refuse_argument(
            format('no such page: take %s, skip %s',
                   coalesce(take::text, 'null'), coalesce(skip::text, 'null')),
            'At most 10000 jobs at a time, from 0 on.', 'Leave both out for the newest 1000.');
    elsif order_by is null and descending or order_by is not null and before is not null then
        perform hotmesh._refuse_argument(
            'this order can''t be turned or continued so',
            'Jobs come newest first, and `before` continues that; or in the order of a path, which '
            || '`descending` may turn and `skip` continues.',
            'Leave out `before`, or name a path to order by.');
    end if;
end
$$;

create or replace function hotmesh._find_place(key text)
returns bigint
language plpgsql
stable
as $$
declare
    v_id bigint := (select max(j.id) from jobs_all j where j.key = _find_place.key);
begin
    if v_id is null and key is not null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_id;
end
$$;

create or replace function hotmesh.entity_find(
    app text, entity text, conditions jsonb default '{}', take integer default 1000,
    skip integer default 0, order_by text default null, descending boolean default false,
    before text default null, keys text[] default null)
returns table (key text, context jsonb, status bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_part hotmesh.find_part;
    v_query text;
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_page(entity, take, skip, order_by, descending, before);
    v_part := hotmesh._find_group(entity, conditions, jsonb_build_array(order_by), 0);
    v_query := 'select key, context, status from jobs where entity = $1 and ' || v_part.clause
        || case when keys is null then '' else ' and key = any ($5)' end
        || case when before is null then '' else ' and id < $6' end
        || ' order by '
        || case when order_by is null then ''
                else 'context #> hotmesh._path_parse($2 ->> 0) '
                     || case when descending then 'desc nulls last, ' else 'nulls last, ' end end
        || 'id desc limit $3 offset $4';
    return query
    select f.key, f.context, f.status
    from hotmesh._find_rows(
        v_query, entity, v_part.bound, take, skip, keys, hotmesh._find_place(before)) f;
end
$$;
comment on function hotmesh.entity_find(
    text, text, jsonb, integer, integer, text, boolean, text, text[]) is
'Jobs of an entity by their documents, newest first, archived ones left out. conditions:
{"path": value} or {"path": {"$gt": value}}, with $eq $ne $gt $gte $lt $lte $in $exists $contains
$like, $and and $or. `order_by` is a path, `before` the key after which the next page goes on.
Raises 22023 for conditions that make no sense, MSH40 for an unknown `before`.';

-- 83_close.sql
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

-- 83_history.sql
create or replace function hotmesh._history_refuse(key text, version bigint, newest bigint)
returns void
language plpgsql
as $$
begin
    raise exception 'version % of the entity of job "%" is not to be had',
        coalesce(version::text, 'null'), left(key, 200)
    using
        errcode = 'MSH85',
        detail = case
            when version between 0 and newest then format(
                'Its newest version is %s; the log does not reach back that far, or was off.',
                newest)
            else format('Expected a version from 0 to %s.', newest) end,
        hint = 'entity_history shows what the log has; the app''s setting entity_log_keep says '
               || 'for how many seconds it is kept.';
end
$$;

-- Id, version and document of a job that is open, closed or archived, as a log entry.
create or replace function hotmesh._history_job(key text)
returns hotmesh.entity_log
language plpgsql
stable
as $$
declare
    v_entry hotmesh.entity_log;
begin
    select j.id, j.entity_version, j.context, j.created_at
    into v_entry.job_id, v_entry.version, v_entry.document, v_entry.at
    from jobs j where j.key = _history_job.key;
    if not found then
        select a.id, a.entity_version, a.context, a.created_at
        into v_entry.job_id, v_entry.version, v_entry.document, v_entry.at
        from jobs_archive a where a.key = _history_job.key
        order by a.closed_at desc, a.id desc limit 1;
    end if;
    if not found then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_entry;
end
$$;

-- The entries that make a version, the base first; too few of them if the log has a gap.
create or replace function hotmesh._history_entries(job_id bigint, version bigint)
returns hotmesh.entity_log[]
language plpgsql
stable
as $$
declare
    v_entry hotmesh.entity_log;
    v_entries hotmesh.entity_log[] := '{}';
begin
    for v_entry.version, v_entry.operation, v_entry.path, v_entry.argument, v_entry.document in
        select l.version, l.operation, l.path, l.argument, l.document
        from entity_log_all l
        where l.job_id = _history_entries.job_id and l.version <= _history_entries.version
        order by l.version desc
    loop
        exit when v_entry.version <> _history_entries.version - cardinality(v_entries);
        v_entries := v_entry || v_entries;
        exit when hotmesh._log_is_base(v_entry.operation, v_entry.path, v_entry.document);
    end loop;
    return v_entries;
end
$$;

create or replace function hotmesh._history_at(key text, job hotmesh.entity_log, version bigint)
returns jsonb
language plpgsql
stable
as $$
declare
    v_entries hotmesh.entity_log[];
    v_entry hotmesh.entity_log;
    v_document jsonb := '{}';
begin
    if version = job.version then
        return job.document;
    elsif version between 0 and job.version then
        v_entries := hotmesh._history_entries(job.job_id, version);
    end if;
    if v_entries is null or (version > 0 and (
        v_entries = '{}'
        or not (v_entries[1].version = 1 or hotmesh._log_is_base(
            v_entries[1].operation, v_entries[1].path, v_entries[1].document))))
    then
        perform hotmesh._history_refuse(key, version, job.version);
    end if;
    foreach v_entry in array v_entries loop
        v_document := coalesce(v_entry.document, hotmesh._patch_apply(
            v_document, v_entry.operation, hotmesh._path_parse(v_entry.path), v_entry.argument));
    end loop;
    return v_document;
end
$$;

-- The first entry from `version` on.
create or replace function hotmesh._history_next(job_id bigint, version bigint)
returns hotmesh.entity_log
language plpgsql
stable
as $$
declare
    v_entry hotmesh.entity_log;
begin
    select l.version, l.at into v_entry.version, v_entry.at
    from entity_log_all l
    where l.job_id = _history_next.job_id and l.version >= _history_next.version
    order by l.version
    limit 1;
    return v_entry;
end
$$;

-- The version that was current at a time, found by halving; null if the log can't tell.
create or replace function hotmesh._history_version(job hotmesh.entity_log, at timestamptz)
returns bigint
language plpgsql
stable
as $$
declare
    v_first hotmesh.entity_log := hotmesh._history_next(job.job_id, 1);
    v_entry hotmesh.entity_log;
    v_low bigint := v_first.version;
    v_high bigint := job.version;
begin
    if job.version = 0 then
        return 0;
    elsif v_first.version is null or v_first.at > at then
        return case when v_first.version = 1 then 0 end;
    end if;
    while v_low < v_high loop
        v_entry := hotmesh._history_next(job.job_id, (v_low + v_high + 1) / 2);
        if v_entry.version is null then  -- the newest changes were not logged
            return null;
        elsif v_entry.at <= at then
            v_low := v_entry.version;
        else
            v_high := (v_low + v_high + 1) / 2 - 1;
        end if;
    end loop;
    return v_low;
end
$$;

create or replace function hotmesh.entity_at(app text, key text, version bigint)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
begin
    perform hotmesh._enter(app);
    return hotmesh._history_at(key, hotmesh._history_job(key), version);
end
$$;
comment on function hotmesh.entity_at(text, text, bigint) is
'The entity of a job as it was at a version; version 0 is the empty one. Raises MSH40, MSH85.';

create or replace function hotmesh.entity_at(app text, key text, at timestamptz)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    v_job hotmesh.entity_log;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._history_job(key);
    if at is null then
        perform hotmesh._refuse_argument(
            'entity_at needs a version or a time', null, 'entity_get gives the entity as it is.');
    elsif at < v_job.at then
        return null;
    end if;
    return hotmesh._history_at(key, v_job, hotmesh._history_version(v_job, at));
end
$$;
comment on function hotmesh.entity_at(text, text, timestamptz) is
'The entity of a job as it was at a time; SQL null before it was started. Raises MSH40, MSH85.';

create or replace function hotmesh.entity_history(
    app text, key text, after bigint default 0, take integer default null)
returns table (
    version bigint, operation text, path text, argument jsonb,
    role text, dimension text, sequence integer, at timestamptz, request text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
    v_job hotmesh.entity_log;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._history_job(key);
    if take < 0 then
        perform hotmesh._refuse_argument(
            format('no such page of a history: take %s', take),
            'Changes are taken from 0 on.', 'Leave it out for all of them.');
    end if;
    return query
    select l.version, l.operation, l.path, l.argument,
           l.role, l.dimension, l.sequence, l.at, l.request
    from entity_log_all l
    where l.job_id = v_job.job_id and l.version > coalesce(entity_history.after, 0)
    order by l.version
    limit take;
end
$$;
comment on function hotmesh.entity_history(text, text, bigint, integer) is
'The changes of an entity after a version, oldest first: what, by which role, from which part of the
workflow (dimension and step; null: from SQL), and when. Raises MSH40.';

create or replace function hotmesh.entity_watch(app text, key text)
returns table (channel text, id bigint, version bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.entity_log;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._history_job(key);
    perform hotmesh._watch_keep(v_job.job_id);
    return query select hotmesh._watch_channel(), v_job.job_id, v_job.version;
end
$$;
comment on function hotmesh.entity_watch(text, text) is
'Watch an entity for a minute: LISTEN to the channel, where each change sends the id; then read
entity_history after the version that you have seen. Call it again to go on. Raises MSH40.';

-- Where two documents differ, each place with what it was and is; SQL null: nothing was there.
create or replace function hotmesh._history_differences(path text, old_value jsonb, new_value jsonb)
returns table (place text, was jsonb, became jsonb)
language plpgsql
stable
as $$
begin
    if old_value is not distinct from new_value then
        return;
    elsif jsonb_typeof(old_value) = 'object' and jsonb_typeof(new_value) = 'object' then
        return query
        select d.place, d.was, d.became
        from (
            select k.name from jsonb_object_keys(old_value) k (name)
            union
            select k.name from jsonb_object_keys(new_value) k (name)) n
        cross join lateral hotmesh._history_differences(
            coalesce(path || '.', '') || hotmesh._patch_name(array[n.name]),
            old_value -> n.name, new_value -> n.name) d
        order by n.name collate "C", d.place collate "C";
    else
        return query select path, old_value, new_value;
    end if;
end
$$;

create or replace function hotmesh.entity_diff(app text, key text, older bigint, newer bigint)
returns table (path text, was jsonb, became jsonb)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_job hotmesh.entity_log;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._history_job(key);
    return query
    select d.place, d.was, d.became
    from hotmesh._history_differences(
        null, hotmesh._history_at(key, v_job, older), hotmesh._history_at(key, v_job, newer)) d;
end
$$;
comment on function hotmesh.entity_diff(text, text, bigint, bigint) is
'Where two versions of an entity differ: paths with what was and what became of it, SQL null where
there was nothing. Lists are compared whole. Raises MSH40, MSH85.';

create or replace function hotmesh.entity_prune(
    app text, keep interval, take integer default 100000)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if keep is null or keep not between interval '0' and interval '1000 years'
        or coalesce(take, 0) not between 1 and 1000000
    then
        perform hotmesh._refuse_argument(
            format('nothing to prune: keep %s, take %s', keep, take),
            'It keeps the log of the last span, from 0 to 1000 years; up to 1000000 rows a call.',
            'For instance keep => ''90 days'', again until the answer is 0.');
    end if;
    return hotmesh._log_prune_all(hotmesh.now() - keep, take);
end
$$;
comment on function hotmesh.entity_prune(text, interval, integer) is
'Drop what the log of entities knows from before `keep` ago, save what later versions need. Returns
how many rows went; repeat until 0. The app''s setting entity_log_keep does so bit by bit.';

-- 83_search.sql
create or replace function hotmesh._search_fields(names jsonb)
returns text[]
language plpgsql
as $$
begin
    if jsonb_typeof(names) is distinct from 'array' or exists (
        select from jsonb_array_elements(names) n (name)
        where jsonb_typeof(n.name) <> 'string'
           or octet_length(n.name #>> '{}') not between 1 and 500)
    then
        perform hotmesh._refuse_argument(
            'a search attribute needs a name',
            format('Names were %s.', coalesce(left(names::text, 200), 'null')),
            'From 1 to 500 bytes.');
    end if;
    return array(
        select '_' || n.name
        from jsonb_array_elements_text(names) with ordinality n (name, place)
        order by n.place);
end
$$;

create or replace function hotmesh._search_set(job_id bigint, data jsonb)
returns integer
language plpgsql
as $$
declare
    v_fields text[];
begin
    if jsonb_typeof(data) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'search data is no JSON object', left(data::text, 200), 'Give {"name": value}.');
    end if;
    v_fields := hotmesh._search_fields(to_jsonb(array(select jsonb_object_keys(data))));
    if v_fields <> '{}' then
        perform hotmesh._attribute_facts(
            array_agg(_search_set.job_id), array_agg(f), array_agg(data -> substr(f, 2)))
        from unnest(v_fields) f;
    end if;
    return cardinality(v_fields);
end
$$;

-- Values in the order of the fields; a json null where there is none.
create or replace function hotmesh._search_values(job_id bigint, fields text[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(coalesce(a.value, 'null') order by f.place), '[]')
        from unnest(fields) with ordinality f (field, place)
        left join jobs_attributes a on a.job_id = _search_values.job_id and a.field = f.field);
end
$$;

create or replace function hotmesh._search_number(what text, value jsonb)
returns numeric
language plpgsql
as $$
begin
    if value is null or value = 'null' then
        return null;
    elsif jsonb_typeof(value) = 'number'
        or jsonb_typeof(value) = 'string'
            and length(value #>> '{}') < 1000
            and value #>> '{}' ~ '^\s*[-+]?\d+(\.\d+)?(e[-+]?\d{1,2})?\s*$'
    then
        return (value #>> '{}')::numeric;
    end if;
    perform hotmesh._refuse_argument(
        format('%s is no number', what), format('It is %s.', left(value::text, 200)),
        'incr and mult need numbers; set it to one first.');
end
$$;

-- What is missing counts as 0 for incr, as 1 for mult.
create or replace function hotmesh._search_calculate(
    job_id bigint, operation text, name text, amount jsonb)
returns jsonb
language plpgsql
as $$
declare
    v_field text := (hotmesh._search_fields(jsonb_build_array(name)))[1];
    v_by numeric := hotmesh._search_number('the amount', amount);
    v_old numeric := hotmesh._search_number(
        format('search attribute "%s"', name),
        hotmesh._search_values(job_id, array[v_field]) -> 0);
    v_new numeric := case operation
        when 'incr' then coalesce(v_old, 0) + v_by
        else coalesce(v_old, 1) * v_by end;
begin
    if v_new is null or abs(v_new) >= 1e1000 then
        perform hotmesh._refuse_argument(
            format('%s of search attribute "%s" makes no number', operation, name),
            'The amount is missing, or the number has more than 1000 digits.', 'Give a number.');
    end if;
    v_new := round(v_new, least(scale(v_new), 100));
    perform hotmesh._attribute_facts(array[job_id], array[v_field], array[to_jsonb(v_new)]);
    return to_jsonb(v_new);
end
$$;

-- Workflow code: set and enrich {"data": {…}}; get, mget and delete {"names": […]}; incr and mult
-- {"name": …, "amount": …}.
create or replace function hotmesh._search_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_names jsonb := step.value -> 'names';
begin
    case step.name
        when 'set' then
            return to_jsonb(hotmesh._search_set(step.job_id, step.value -> 'data'));
        when 'enrich' then
            perform hotmesh._search_set(step.job_id, step.value -> 'data');
            return 'true';
        when 'get' then
            return hotmesh._search_values(step.job_id, hotmesh._search_fields(v_names)) -> 0;
        when 'mget' then
            return hotmesh._search_values(step.job_id, hotmesh._search_fields(v_names));
        when 'delete' then
            return to_jsonb(hotmesh._attribute_remove(
                step.job_id, hotmesh._search_fields(v_names)));
        when 'incr', 'mult' then
            return hotmesh._search_calculate(
                step.job_id, step.name, step.value ->> 'name', step.value -> 'amount');
        else
            perform hotmesh._refuse_argument(
                format('there is no search.%s', left(step.name, 60)),
                'Operations: set, get, mget, delete, incr, mult.', 'Check the spelling.');
    end case;
end
$$;

create or replace function hotmesh.search_get(app text, key text, fields text[] default null)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
begin
    perform hotmesh._enter(app);
    v_id := hotmesh._find_place(coalesce(key, ''));
    return (
        select coalesce(jsonb_object_agg(f.name, coalesce(a.value, 'null')), '{}')
        from (
            select n.name,
                   case when n.name ~ '^".+"$' then substr(n.name, 2, length(n.name) - 2)
                        else '_' || n.name end as field
            from unnest(coalesce(fields, array(
                select substr(u.field, 2) from jobs_attributes_all u
                where u.job_id = v_id and u.sequence is null and u.field like '\_%'))) n (name)
            where n.name is not null) f
        left join jobs_attributes_all a on a.job_id = v_id and a.field = f.field);
end
$$;
comment on function hotmesh.search_get(text, text, text[]) is
'The user''s own facts about a job, all or those named, null where there is none. A name in double
quotes is that of any attribute, such as "input". Raises MSH40.';

create or replace function hotmesh.search_find(
    app text, entity text default null, conditions jsonb default '{}',
    take integer default 1000, skip integer default 0, before text default null)
returns table (key text, data jsonb, status bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_part hotmesh.find_part;
begin
    perform hotmesh._enter(app);
    perform hotmesh._find_check_page(coalesce(entity, 'any'), take, skip, null, false, before);
    v_part := hotmesh._find_group(null, conditions, '[null]', 0);
    return query
    select f.key, f.context, f.status
    from hotmesh._find_rows(
        'select key, (select coalesce(jsonb_object_agg(substr(a.field, 2), a.value), ''{}'')'
        || ' from jobs_attributes a where a.job_id = jobs.id and a.sequence is null'
        || ' and a.field like ''\_%''), status'
        || ' from jobs where ($1 is null or entity = $1) and ($6 is null or id < $6) and '
        || v_part.clause || ' order by id desc limit $3 offset $4',
        entity, v_part.bound, take, skip, null, hotmesh._find_place(before)) f;
end
$$;
comment on function hotmesh.search_find(text, text, jsonb, integer, integer, text) is
'Jobs by the user''s own facts about them, newest first, archived ones left out; conditions as for
entity_find, where a path begins with the name of a fact. It reads the entity''s jobs one by one;
what must be found by an index belongs into the entity. Raises 22023, MSH40 for an unknown
`before`.';

-- 84_command.sql
create or replace function hotmesh.entity_apply(
    app text, key text, commands jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_apply(
        hotmesh._enter(app), key, hotmesh._entity_commands(commands), request);
end
$$;
comment on function hotmesh.entity_apply(text, text, jsonb, text) is
'Several commands in one, all or none: [{"operation": "merge", "path": "a.b", "value": {}}, …].
Returns their answers, in order. With a `request`, the same one again changes nothing and returns
the same.';

create or replace function hotmesh.entity_get(app text, key text, path text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text[];
    v_value jsonb;
begin
    perform hotmesh._enter(app);
    v_path := hotmesh._path_parse(path);
    select j.context #> v_path into v_value from jobs j where j.key = entity_get.key;
    if not found then
        select a.context #> v_path into v_value
        from jobs_archive a where a.key = entity_get.key
        order by a.closed_at desc, a.id desc limit 1;
        if not found then
            perform hotmesh._job_refuse_missing(key);
        end if;
    end if;
    return v_value;
end
$$;
comment on function hotmesh.entity_get(text, text, text) is
'The entity of a job, archived ones too, or what is at a path of it; SQL null if nothing is there.';

create or replace function hotmesh.entity_set(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_set(text, text, text, jsonb, text) is
'Put a value at a path; missing parents are created. Returns the document.';

create or replace function hotmesh.entity_set(app text, key text, value jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set', null, coalesce(value, 'null'), null);
end
$$;
comment on function hotmesh.entity_set(text, text, jsonb) is
'Replace the document. Returns it.';

create or replace function hotmesh.entity_merge(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'merge', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_merge(text, text, text, jsonb, text) is
'Merge a value into what is at a path: objects at any depth, everything else replaces. Returns the
document.';

create or replace function hotmesh.entity_merge(app text, key text, value jsonb)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'merge', null, coalesce(value, 'null'), null);
end
$$;
comment on function hotmesh.entity_merge(text, text, jsonb) is
'Merge an object into the document, at any depth. Returns the document.';

create or replace function hotmesh.entity_append(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'append', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_append(text, text, text, jsonb, text) is
'Add a value at the end of the array at a path. Returns the array.';

create or replace function hotmesh.entity_prepend(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'prepend', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_prepend(text, text, text, jsonb, text) is
'Add a value at the front of the array at a path. Returns the array.';

create or replace function hotmesh.entity_remove(
    app text, key text, path text, index integer, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'remove', path, coalesce(to_jsonb(index), 'null'), request);
end
$$;
comment on function hotmesh.entity_remove(text, text, text, integer, text) is
'Remove one element of the array at a path, from the end if the index is negative. Returns the
array.';

create or replace function hotmesh.entity_increment(
    app text, key text, path text, amount numeric default 1, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'increment', path, coalesce(to_jsonb(amount), 'null'), request);
end
$$;
comment on function hotmesh.entity_increment(text, text, text, numeric, text) is
'Add to the number at a path, exactly. Returns the number.';

create or replace function hotmesh.entity_toggle(
    app text, key text, path text, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(hotmesh._enter(app), key, 'toggle', path, 'null', request);
end
$$;
comment on function hotmesh.entity_toggle(text, text, text, text) is
'Turn the boolean at a path around. Returns it.';

create or replace function hotmesh.entity_set_if_not_exists(
    app text, key text, path text, value jsonb, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(
        hotmesh._enter(app), key, 'set_if_not_exists', path, coalesce(value, 'null'), request);
end
$$;
comment on function hotmesh.entity_set_if_not_exists(text, text, text, jsonb, text) is
'Put a value at a path where nothing is. Returns what is there now.';

create or replace function hotmesh.entity_delete(
    app text, key text, path text, request text default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return hotmesh._entity_do(hotmesh._enter(app), key, 'delete', path, 'null', request);
end
$$;
comment on function hotmesh.entity_delete(text, text, text, text) is
'Remove what is at a path. Returns the document.';

-- 84_emit.sql
create or replace function hotmesh._emit_channel(schema text)
returns text
language sql
immutable
as $$
    select 'hotmesh_emit_' || md5(schema)
$$;

-- `events` are in the value of this row of the job.
create or replace function hotmesh._emit_tell(job_id bigint, field text, events jsonb)
returns void
language plpgsql
as $$
begin
    perform pg_notify(
        hotmesh._emit_channel((current_schemas(false))[2]), concat_ws(' ', md5(t), job_id, field))
    from jsonb_object_keys(events) t;
end
$$;

create or replace function hotmesh._emit_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_events jsonb := step.value -> 'events';
begin
    if jsonb_typeof(v_events) is distinct from 'object' or exists (
        select from jsonb_object_keys(v_events) t where octet_length(t) not between 1 and 500)
    then
        perform hotmesh._refuse_argument(
            'events are no JSON object of topics', left(v_events::text, 200),
            'Give {"topic": payload}; a topic has 1 to 500 bytes.');
    end if;
    perform hotmesh._emit_tell(
        step.job_id, hotmesh._attribute_field(step.dimension, step.sequence), v_events);
    return step.value;
end
$$;

create or replace function hotmesh.emit_channel(app text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return hotmesh._emit_channel((current_schemas(false))[2]);
end
$$;
comment on function hotmesh.emit_channel(text) is
'The channel to LISTEN to for what workflows emit. A notification is the md5 of the topic, and the
job id and field by which emit_read finds the event.';

create or replace function hotmesh.emit_read(app text, job_id bigint, field text)
returns table (key text, events jsonb)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select g.key, a.value -> 'events'
    from jobs_all g
    join jobs_attributes_all a on a.job_id = g.id
    where g.key = (select j.key from jobs_all j where j.id = emit_read.job_id)
      and a.field = emit_read.field and a.kind = 'emit'
    order by g.id = emit_read.job_id desc, g.id desc
    limit 1;
end
$$;
comment on function hotmesh.emit_read(text, bigint, text) is
'What a workflow emitted in one step, {"topic": payload}, and by which job. An earlier
generation of the job may have it. No row: its run or its hook began anew since.';

-- 85_errand.sql
create or replace function hotmesh._errand_list(walks hotmesh.walk[], verb text)
returns setof jsonb
language sql
stable
as $$
    select c.about
    from unnest(walks) with ordinality w
    cross join lateral jsonb_array_elements(w.commands) with ordinality c (about, place)
    where w.commands <> '[]' and c.about ->> 'do' = verb
      and (not w.ended or verb not in ('wait', 'unwait'))
    order by w.ordinality, c.place
$$;

-- A worker gets one argument: {"metadata", "data"}.
create or replace function hotmesh._errand_work(walks hotmesh.walk[], relay hotmesh.relay)
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
    v_messages hotmesh.streams[] := array(
        select (null, 'activity', case when c.about ? 'delay' then 'delayed' else 'ready' end,
                c.about ->> 'topic', c.about ->> 'topic', 0, w.job_id, c.about ->> 'dimension',
                (c.about ->> 'sequence')::integer, null,
                jsonb_build_array(jsonb_build_object(
                    'data', c.about -> 'data', 'metadata', w.job -> 'metadata'
                    || jsonb_build_object(
                        'aid', c.about -> 'id', 'dad', c.about -> 'dimension',
                        'topic', c.about -> 'topic', 'guid', concat_ws(
                            ',', w.job_id, c.about ->> 'id') || (c.about ->> 'dimension')))),
                case when c.about -> 'policy' <> 'null'
                     then hotmesh._retry_policy(c.about -> 'policy') end, 0, 0,
                v_now + make_interval(secs => coalesce((c.about ->> 'delay')::float8, 0)),
                null, null, null, null, null, null)::hotmesh.streams
        from unnest(walks) w
        cross join lateral jsonb_array_elements(w.commands) c (about)
        where c.about ->> 'do' = 'worker');
begin
    if relay.topics <> '{}' and v_messages <> '{}' then
        v_messages := hotmesh._lease_relay(
            v_messages, relay.ids, relay.tokens, relay.job_ids, relay.topics, relay.until);
    end if;
    if v_messages <> '{}' then
        perform hotmesh._stream_enqueue(v_messages);
    end if;
end
$$;

create or replace function hotmesh._errand_sleep(walks hotmesh.walk[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    perform hotmesh._timer_set(array(
        select (null, 'timer', 'delayed', '', '', 0, (c ->> 'job_id')::bigint, c ->> 'dimension',
                (c ->> 'sequence')::integer, null, null, null, 0, 0,
                v_now + make_interval(secs => (c ->> 'seconds')::float8),
                null, null, null, null, null, null)::hotmesh.streams
        from hotmesh._errand_list(walks, 'sleep') c));
end
$$;

create or replace function hotmesh._errand_wait(walks hotmesh.walk[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._signal_wait((
        (c ->> 'job_id')::bigint, null, null, 'wait', c ->> 'name', 'open', c ->> 'dimension',
        (c ->> 'sequence')::integer, null, 0, null, null)::hotmesh.jobs_attributes)
    from hotmesh._errand_list(walks, 'wait') c;
    perform hotmesh._signal_unwait(
        array_agg(u.job_id), array_agg(u.dimension), array_agg(u.sequence)),
        hotmesh._stream_cancel(
            array_agg(u.job_id), array_agg(u.dimension), array_agg(u.sequence))
    from (
        select (c ->> 'job_id')::bigint as job_id, c ->> 'dimension' as dimension,
               (c ->> 'sequence')::integer as sequence
        from hotmesh._errand_list(walks, 'unwait') c) u
    having count(*) > 0;
    perform hotmesh._signal_publish(
        c ->> 'signal', c - '{signal,published,do,job_id,dimension,sequence,id,graph_id}'::text[],
        (c ->> 'published')::bigint)
    from hotmesh._errand_list(walks, 'return') c;
end
$$;

-- The hook rule of a topic, of the version that answers now.
create or replace function hotmesh._errand_rule(topic text)
returns table (graph hotmesh.graphs, number integer)
language plpgsql
stable
as $$
begin
    return query
    select g::hotmesh.graphs, a.number::integer
    from graphs g
    cross join lateral jsonb_array_elements(g.plan -> 'activities') with ordinality
        as a (about, number)
    where g.state = 'active' and a.about ->> 'type' = 'hook'
      and a.about ->> 'topic' = _errand_rule.topic
    order by g.id desc
    limit 1;
end
$$;

-- It has nothing by which its wait could be found.
create or replace function hotmesh._errand_refuse_signal(
    topic text, data jsonb, graph hotmesh.graphs)
returns void
language plpgsql
as $$
declare
    v_actual jsonb := graph.document #> array[
        'graph', 'hooks', topic, '0', 'conditions', 'match', '0', 'actual'];
    v_names text[] := hotmesh._reference_parse(v_actual #>> '{}');
    v_field text := array_to_string(v_names[array_position(v_names, 'data') + 1:], '.');
begin
    perform hotmesh._refuse_argument(
        format('a signal of topic "%s" lacks %s', left(topic, 200),
            coalesce(format('the field "%s"', nullif(v_field, '')), 'what its hook looks for')),
        format('The rule of the hook reads %s of its data: %s.',
            left(v_actual::text, 200), left(data::text, 100)),
        'Send the value by which the waiting job is to be found.');
end
$$;

-- The name under which a signal of a topic finds its wait.
create or replace function hotmesh._errand_signal_name(topic text, data jsonb)
returns text
language plpgsql
as $$
declare
    v_rule record;
    v_actual jsonb;
begin
    select r.graph, r.number into v_rule from hotmesh._errand_rule(topic) r;
    if v_rule.number is null then
        perform hotmesh._graph_refuse_unknown(topic, 'hook');
    end if;
    v_actual := (hotmesh._fail_ask(
        v_rule.graph, v_rule.number, 'actual',
        jsonb_build_object('hook', jsonb_build_object('data', data)), '{}')).about;
    if coalesce(v_actual, 'null') = 'null' then
        perform hotmesh._errand_refuse_signal(topic, data, v_rule.graph);
    end if;
    return hotmesh._visit_name(topic, v_actual);
end
$$;

-- The oldest wait for a topic of each job that waits for it; null `job_ids`: of all jobs.
create or replace function hotmesh._errand_waiting(topic text, job_ids bigint[])
returns table (job_id bigint, name text)
language plpgsql
stable
as $$
begin
    return query
    select distinct on (w.job_id) w.job_id, w.name
    from signals w
    join jobs j on j.id = w.job_id and j.closed_at is null
    join graphs g on g.id = j.graph_id
    where w.kind = 'wait'
      and (w.name = _errand_waiting.topic
           or starts_with(w.name, _errand_waiting.topic || ':'))
      and (job_ids is null or w.job_id = any (job_ids))
      and g.plan #>> array['activities', (w.sequence - 1)::text, 'topic'] = _errand_waiting.topic
    order by w.job_id, w.id;
end
$$;

-- Every waiting job gets it once; returns the jobs.
create or replace function hotmesh._errand_signal_all(
    topic text, answer jsonb, query jsonb, facets text[])
returns bigint[]
language plpgsql
as $$
declare
    v_graph hotmesh.graphs;
    v_ids bigint[];
    v_names text[];
begin
    select (r.graph).* into v_graph from hotmesh._errand_rule(topic) r;
    if v_graph.id is null then
        perform hotmesh._graph_refuse_unknown(topic, 'hook');
    end if;
    select coalesce(array_agg(w.job_id), '{}'), array_agg(w.name) into v_ids, v_names
    from hotmesh._errand_waiting(topic, hotmesh._stats_jobs(v_graph, query, facets)) w;
    perform hotmesh._signal_send(w.id, w.name, answer)
    from unnest(v_ids, v_names) as w (id, name);
    return v_ids;
end
$$;

-- An activity says so: {key_name, key_value} is the facet, `resolver` the query. If that makes no
-- sense as it is computed, its job ends.
create or replace function hotmesh._errand_signal_facet(c jsonb)
returns void
language plpgsql
as $$
declare
    v_ids bigint[];
begin
    v_ids := hotmesh._errand_signal_all(
        c ->> 'topic',
        hotmesh._errand_answer(
            nullif(c -> 'data', 'null'), c ->> 'status', (c ->> 'code')::integer),
        c -> 'resolver', array(
            select format('%s:%s', c ->> 'key_name', c ->> 'key_value') where c ? 'key_name'));
    if c -> 'scrub' = 'true' then
        perform hotmesh._measure_unmark(v_ids, c ->> 'key_name');
    end if;
exception
    when data_exception or program_limit_exceeded or feature_not_supported or undefined_function
        or internal_error or sqlstate 'MSH22'
    then
        perform hotmesh._inbox_put(
            (c ->> 'job_id')::bigint, '', 'interrupt', jsonb_build_object(
                'code', 598, 'throw', true,
                'reason', format('activity "%s": %s', c ->> 'id', sqlerrm)));
end
$$;

create or replace function hotmesh._errand_answer(data jsonb, status text, code integer)
returns jsonb
language sql
stable
as $$
    select jsonb_strip_nulls(jsonb_build_object('status', status, 'code', code))
        || jsonb_build_object('output', coalesce(data, '{}'))
$$;

create or replace function hotmesh._errand_signal(walks hotmesh.walk[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._signal_publish(
        c ->> 'name', hotmesh._errand_answer(
            nullif(c -> 'data', 'null'), c ->> 'status', (c ->> 'code')::integer))
    from hotmesh._errand_list(walks, 'signal') c
    where c ->> 'subtype' is distinct from 'all';
    perform hotmesh._errand_signal_facet(c)
    from hotmesh._errand_list(walks, 'signal') c
    where c ->> 'subtype' = 'all';
    perform hotmesh._inbox_put(j.id, '', 'interrupt', jsonb_build_object(
        'reason', c -> 'reason', 'code', c -> 'code', 'descend', c -> 'descend',
        'throw', coalesce(nullif(c -> 'throw', 'null'), 'true')))
    from hotmesh._errand_list(walks, 'interrupt') c
    join jobs j on j.key = c ->> 'target' and j.closed_at is null;
end
$$;

-- What is emitted stays with its job; who listens is told at commit.
create or replace function hotmesh._errand_emit(
    job_id bigint, field text, topic text, job jsonb)
returns void
language plpgsql
as $$
declare
    v_events jsonb := jsonb_build_object(
        topic, job, topic || '.' || (job #>> '{metadata,jid}'), job);
begin
    perform hotmesh._attribute_emit(job_id, field, topic, v_events);
    perform hotmesh._emit_tell(job_id, field, v_events);
end
$$;

create or replace function hotmesh._errand_publish(walks hotmesh.walk[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._errand_emit(
        w.job_id, format('emit%s-%s', c ->> 'dimension', c ->> 'sequence'),
        w.plan ->> 'publishes', c -> 'job')
    from unnest(walks) w
    cross join lateral jsonb_array_elements(w.commands) c
    where c ->> 'do' = 'emit' and w.plan ? 'publishes';
    perform hotmesh._inbox_add(array_agg(hotmesh._inbox_event(
        'result', j.parent_id, j.parent_dimension, j.parent_sequence,
        hotmesh._errand_answer(c #> '{job,data}', 'pending', 202))))
    from hotmesh._errand_list(walks, 'emit') c
    join jobs j on j.id = (c ->> 'job_id')::bigint and j.parent_sequence is not null
    having count(*) > 0;
end
$$;

-- A function of SQL: jsonb in, jsonb out. It runs with the rights of its own owner, and only while
-- it still is what it was when the graph was deployed.
create or replace function hotmesh._errand_call(c jsonb)
returns jsonb
language plpgsql
as $$
declare
    v_fault text := hotmesh._plan_function_fault(c ->> 'function', (
        select g.deployed_by from graphs g where g.id = (c ->> 'graph_id')::bigint));
    v_output jsonb;
begin
    if v_fault is not null then
        perform hotmesh._refuse_argument(
            v_fault, 'It was looked up again before its call.',
            'Make it what it was when the graph was deployed.');
    end if;
    execute format('select to_jsonb(%s($1))', to_regprocedure(
        (c ->> 'function') || '(jsonb)')::oid::regproc) into v_output
    using c -> 'data';
    return v_output;
end
$$;

-- What walks want to be done, each kind at once. Of those that have ended nothing is asked.
create or replace function hotmesh._errand_do(walks hotmesh.walk[], relay hotmesh.relay)
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_verbs text[] := array(
        select distinct c ->> 'do' from unnest(walks) w
        cross join lateral jsonb_array_elements(w.commands) c);
    v_open hotmesh.walk[] := walks;
begin
    if exists (select from unnest(walks) w where w.ended) then
        v_open := array(select w from unnest(walks) w where not w.ended);
    end if;
    if 'worker' = any (v_verbs) then
        perform hotmesh._errand_work(v_open, relay);
    end if;
    if 'sleep' = any (v_verbs) then
        perform hotmesh._errand_sleep(v_open);
    end if;
    if v_verbs && '{wait,unwait,return}' then
        perform hotmesh._errand_wait(walks);
    end if;
    if 'emit' = any (v_verbs) then
        perform hotmesh._errand_publish(walks);
    end if;
    if v_verbs && '{signal,interrupt}' then
        perform hotmesh._errand_signal(walks);
    end if;
    if v_verbs && '{await,sql}' then
        return hotmesh._subflow_start(v_open);
    end if;
    return '{}';
end
$$;

-- Steps, facts and commands of walks; returns those that they began.
create or replace function hotmesh._errand_write(walks hotmesh.walk[], relay hotmesh.relay)
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_begun hotmesh.walk[] := '{}';
begin
    perform hotmesh._errand_later(w) from unnest(walks) w where w.todo <> '{}';
    perform hotmesh._attribute_lay(hotmesh._trail_rows(walks));
    if exists (select from unnest(walks) w where w.commands <> '[]') then
        v_begun := hotmesh._errand_do(walks, relay);
    end if;
    perform hotmesh._errand_settle(walks);
    return v_begun;
end
$$;

-- What a walk did not come to is news for the next; of one that has ended, signals are passed on.
create or replace function hotmesh._errand_later(w hotmesh.walk)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_told(
        w.job_id, t.dimension, t.activity,
        case t.leg when 'enter' then jsonb_build_object('enter', true, 'answer', t.answer)
                   else t.answer end, 'ready')
    from unnest(w.todo) t
    where not w.ended or t.answer ? 'published';
end
$$;

create or replace function hotmesh._errand_settle(walks hotmesh.walk[])
returns void
language plpgsql
as $$
begin
    if exists (
        select from unnest(walks) w
        where w.error is not null or w.plan ? 'publishes' and (w.status = 0 or w.ended))
    then
        perform hotmesh._errand_tell(walks);
    end if;
    perform hotmesh._close_settle(
        array_agg(w.job_id), array_agg((w.was - w.status)::integer),
        array_agg(null::bigint), array_agg(w.ended))
    from unnest(walks) w
    where w.was <> w.status or w.ended
    having count(*) > 0;
end
$$;

-- What went wrong, and who is to hear how it ended.
create or replace function hotmesh._errand_tell(walks hotmesh.walk[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._attribute_facts(
        array_agg(w.job_id), array_agg('error'::text), array_agg(w.error))
    from unnest(walks) w
    where w.error is not null
    having count(*) > 0;
    perform hotmesh._errand_emit(
        w.job_id, 'emit', w.plan ->> 'publishes', jsonb_set(
            w.job || case when w.error is null then '{}'::jsonb
                          else jsonb_build_object('error', w.error) end,
            '{metadata,js}', to_jsonb(case when w.ended then -1000000000 else 0 end)))
    from unnest(walks) w
    where w.plan ? 'publishes' and (w.status = 0 or w.ended);
end
$$;

-- Walks on with jobs of graphs whose locks the caller holds, and with whatever comes of it in this
-- transaction: children, parents that can be locked. Past the bound the rest waits for a turn.
create or replace function hotmesh._errand_go(
    job_ids bigint[], begun hotmesh.walk[] default '{}', events hotmesh.streams[] default '{}',
    relay hotmesh.relay default null)
returns void
language plpgsql
as $$
declare
    v_jobs bigint[] := job_ids;
    v_walks hotmesh.walk[];
    v_known hotmesh.walk[] := '{}';
begin
    for i in 0 .. 20 loop
        perform hotmesh._inbox_route(v_jobs) where i = 20;
        exit when i = 20;
        v_walks := begun || hotmesh._trail_load(v_jobs, events, v_known);
        exit when v_walks = '{}';
        events := '{}';
        v_walks := hotmesh._walk_run(v_walks);
        begun := hotmesh._errand_write(v_walks, relay);
        exit when begun = '{}' and hotmesh._errand_is_quiet(v_walks);
        v_known := hotmesh._trail_known(v_walks, v_known);
        v_jobs := hotmesh._errand_next(v_jobs, v_walks);
    end loop;
    if begun <> '{}' then
        perform hotmesh._errand_write(begun, null);
    end if;
end
$$;

-- Nothing of what these walks led to can be news for a job that this transaction holds: they have
-- asked workers at most, are nobody's children and have come to their ends.
create or replace function hotmesh._errand_is_quiet(walks hotmesh.walk[])
returns boolean
language plpgsql
stable
as $$
begin
    return not exists (
        select from unnest(walks) w
        where w.parent_id is not null or w.todo <> '{}'
           or w.commands <> '[]' and w.commands @? '$[*] ? (@.do != "worker")');
end
$$;

-- The jobs that may have news now: these, and the parents of those that have closed.
create or replace function hotmesh._errand_next(job_ids bigint[], walks hotmesh.walk[])
returns bigint[]
language plpgsql
as $$
declare
    v_jobs bigint[] := array(
        select j from unnest(job_ids) j union select w.job_id from unnest(walks) w
        except select w.job_id from unnest(walks) w where w.status = 0 or w.ended);
    v_parents bigint[] := array(
        select w.parent_id from unnest(walks) w
        where (w.status = 0 or w.ended) and w.parent_id <> all (v_jobs));
begin
    if v_parents = '{}' then
        return v_jobs;
    end if;
    return v_jobs || hotmesh._job_lock(array(
        select j.id from jobs j where j.id = any (v_parents) and j.graph_id is not null));
end
$$;

-- 85_fail.sql
-- Which expression of a section failed; if that can't be found out, the section.
create or replace function hotmesh._fail_find(
    place text, scene hotmesh.blame_scene, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
begin
    select f.at, f.value into at, value from hotmesh._blame_find(place, scene) f;
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        at := place;
end
$$;

create or replace function hotmesh._fail_scope(document jsonb, id text)
returns jsonb
language sql
immutable
as $$
    select hotmesh._plan_own(hotmesh._plan_scope(document), id)
$$;

-- Which expression failed: a section of the document, and the place in it.
create or replace function hotmesh._fail_at(
    w hotmesh.walk, context text, out at text, out value jsonb)
returns record
language plpgsql
stable
as $$
declare
    v_document jsonb := (select g.document from graphs g where g.id = w.graph_id);
    v_id text := hotmesh._walk_about(w) ->> 'id';
begin
    at := hotmesh._source_place(hotmesh._app_here(), w.graph_id, context);
    if at is not null and context !~ 'function \S*_walk_next\(' then
        select f.at, f.value into at, value
        from hotmesh._fail_find(at, (
            v_document -> 'graph', hotmesh._fail_scope(v_document, v_id), v_id, w.leg, w.store,
            w.dimension, coalesce(w.self, '{}'), w.job)::hotmesh.blame_scene) f;
    end if;
end
$$;

-- Evaluates what one activity says, outside of any walk. Who asks is told which expression fails.
create or replace function hotmesh._fail_ask(
    graph hotmesh.graphs, activity integer, leg text, self jsonb, job jsonb)
returns hotmesh.plan_step
language plpgsql
as $$
declare
    v_message text; v_detail text; v_hint text; v_context text;
    v_id text;
    v_found record;
begin
    return hotmesh._walk_ask_step(graph, activity, leg, self, job);
exception
    when data_exception or program_limit_exceeded or feature_not_supported
        or undefined_function or internal_error
    then
        get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail,
            v_hint = pg_exception_hint, v_context = pg_exception_context;
        v_id := graph.plan -> 'activities' -> (activity - 1) ->> 'id';
        v_found := hotmesh._fail_find(
            hotmesh._source_place(hotmesh._app_here(), graph.id, v_context), (
                graph.document -> 'graph', hotmesh._fail_scope(graph.document, v_id), v_id, leg,
                '{}', ',0', self, job)::hotmesh.blame_scene);
        perform hotmesh._refuse_argument(
            concat_ws(': ', v_found.at, v_message),
            concat('The expression is ' || left(v_found.value::text, 500) || '. ', v_detail),
            v_hint);
end
$$;

-- An expression failed: that job fails, and says where. What it had sent before is sent.
create or replace function hotmesh._fail_blame(
    w hotmesh.walk, state text, message text, context text)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_found record := hotmesh._fail_at(w, context);
begin
    if context ~ 'function \S*_walk_next\(' then
        w.activity := (w.todo[1]).activity;
        w.dimension := (w.todo[1]).dimension;
    else
        w := hotmesh._walk_step(w, w.dimension, coalesce(w.self, '{}'), 'failed');
    end if;
    return hotmesh._walk_fail(w, jsonb_strip_nulls(jsonb_build_object(
        'type', 'ExpressionError', 'code', 598, 'sqlstate', state, 'expression', v_found.at,
        'detail', 'The expression is ' || left(v_found.value::text, 500),
        'message', format('%s: %s', coalesce(
            v_found.at, 'activity ' || (hotmesh._walk_about(w) ->> 'id')), message))));
end
$$;

-- 85_start.sql
create or replace function hotmesh._start_check_name(what text, name text, size_limit integer)
returns void
language plpgsql
as $$
begin
    if octet_length(name) not between 1 and size_limit then
        perform hotmesh._refuse_argument(
            format('%s is empty or too long', what),
            format('It has %s bytes and begins with %L.', octet_length(name), left(name, 40)),
            format('From 1 to %s bytes, or leave it out.', size_limit));
    elsif what <> 'key' and name ~ '[[:cntrl:]]' then
        perform hotmesh._refuse_argument(
            format('%s has a line break or another control character', what),
            format('It is %s.', to_jsonb(left(name, 100))), 'Take it out.');
    end if;
end
$$;

create or replace function hotmesh._start_refuse_names(request hotmesh.job_request)
returns void
language plpgsql
as $$
begin
    perform hotmesh._start_check_name('the name of a workflow', request.workflow, 500);
    perform hotmesh._start_check_name('key', request.key, 1000);
    perform hotmesh._start_check_name('queue', request.queue, 500);
    perform hotmesh._start_check_name('entity', request.entity, 500);
end
$$;

create or replace function hotmesh._start_check_request(
    request hotmesh.job_request, size_limit bigint)
returns void
language plpgsql
as $$
begin
    if coalesce(request.workflow, '') = '' or octet_length(request.workflow) > 500 then
        perform hotmesh._refuse_argument(
            'a start needs the name of a workflow',
            format('The name was %s.', coalesce(quote_literal(left(request.workflow, 60)), 'null')),
            'Name the function as the worker registers it, up to 500 characters.');
    elsif jsonb_typeof(request.args) is distinct from 'array' then
        perform hotmesh._refuse_argument(
            format('args of "%s" are no JSON array', request.workflow),
            format('They were %s.', coalesce(left(request.args::text, 200), 'null')),
            'Positional arguments come as an array, for instance ''["item-123", 5]''.');
    elsif pg_column_size(request.args) > size_limit then
        perform hotmesh._job_refuse_large(
            format('args of "%s"', request.workflow), pg_column_size(request.args), size_limit);
    elsif jsonb_typeof(coalesce(request.options, '{}')) <> 'object' then
        perform hotmesh._refuse_argument(
            'options are no JSON object', left(request.options::text, 200),
            'For instance {"on_conflict": "existing"}.');
    end if;
    if octet_length(request.key) not between 1 and 1000
        or octet_length(request.queue) not between 1 and 500
        or octet_length(request.entity) not between 1 and 500
        or concat(request.workflow, request.queue, request.entity) ~ '[[:cntrl:]]'
    then
        perform hotmesh._start_refuse_names(request);
    end if;
    if request.options <> '{}' then
        perform hotmesh._start_check_options(request.options);
        if pg_column_size(request.options) > size_limit then
            perform hotmesh._job_refuse_large(
                format('options of "%s"', request.workflow),
                pg_column_size(request.options), size_limit);
        end if;
    end if;
end
$$;

create or replace function hotmesh._start_check_options(options jsonb)
returns void
language plpgsql
as $$
declare
    v_known constant text[] := '{on_conflict,retry_policy,execution_timeout,run_timeout,expire,
        parent,search,priority,delay,concurrency_key}';
    v_unknown text := (
        select string_agg(k, ', ') from jsonb_object_keys(options) k where k <> all (v_known));
begin
    if v_unknown is not null then
        perform hotmesh._refuse_argument(
            format('unknown start option: %s', left(v_unknown, 100)),
            format('Known options: %s.', array_to_string(v_known, ', ')),
            'Check the spelling.');
    elsif coalesce(options ->> 'on_conflict', 'reject') not in ('reject', 'existing', 'replace')
    then
        perform hotmesh._refuse_argument(
            format('unknown on_conflict: %s', left(options ->> 'on_conflict', 60)),
            'Policies: reject, existing, replace.', 'Leave it out for reject.');
    elsif not hotmesh._is_number(coalesce(options -> 'priority', '0'), -32768, 32767)
        or coalesce(options ->> 'priority', '0') !~ '^-?\d+$'
    then
        perform hotmesh._refuse_argument(
            format('bad priority: %s', left(options ->> 'priority', 60)),
            'It is a whole number from -32768 to 32767; higher is served first.',
            'Leave it out for 0.');
    end if;
    perform hotmesh._start_check_labels(options);
end
$$;

create or replace function hotmesh._start_check_labels(options jsonb)
returns void
language plpgsql
as $$
begin
    if jsonb_typeof(coalesce(options -> 'search', '{}')) <> 'object'
        or exists (select from jsonb_object_keys(options -> 'search') k where octet_length(k) > 500)
    then
        perform hotmesh._refuse_argument(
            'search is no JSON object', left((options -> 'search')::text, 200),
            'Give {"name": "value"}.');
    elsif jsonb_typeof(options -> 'concurrency_key') not in ('string', 'null') then
        perform hotmesh._refuse_argument(
            'concurrency_key is no text', left((options -> 'concurrency_key')::text, 200),
            'For instance the customer''s number, as a text.');
    end if;
    perform hotmesh._start_check_name('concurrency_key', options ->> 'concurrency_key', 500);
end
$$;

-- A parent on record, which waits for nothing.
create or replace function hotmesh._start_lineage(request hotmesh.job_request, parent text)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_parent hotmesh.jobs := hotmesh._job_find(parent);
begin
    if v_parent.id is null then
        perform hotmesh._job_refuse_missing(parent);
    end if;
    request.parent_id := v_parent.id;
    request.origin_id := coalesce(v_parent.origin_id, v_parent.id);
    return request;
end
$$;

create or replace function hotmesh._start_request(
    request hotmesh.job_request, size_limit bigint)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_options jsonb := coalesce(nullif(request.options, 'null'), '{}');
begin
    perform hotmesh._start_check_request(request, size_limit);
    request.id := nextval('hotmesh.ids');
    request.key := coalesce(request.key, replace(gen_random_uuid()::text, '-', ''));
    request.queue := coalesce(request.queue, request.entity, 'default');
    request.entity := coalesce(request.entity, request.workflow);
    request.options := v_options;
    if v_options <> '{}' then
        request.expire_after := hotmesh._duration(v_options -> 'expire', 'expire');
        request.retry_policy := hotmesh._retry_policy(v_options -> 'retry_policy');
        perform hotmesh._timeout_seconds(v_options -> 'execution_timeout', 'execution_timeout'),
                hotmesh._timeout_seconds(v_options -> 'run_timeout', 'run_timeout');
        if v_options ? 'parent' then
            request := hotmesh._start_lineage(request, v_options ->> 'parent');
        end if;
        if v_options ? 'delay' then
            request.visible_at :=
                hotmesh.now() + hotmesh._duration(v_options -> 'delay', 'delay');
        end if;
    end if;
    return request;
end
$$;

-- Lays down the input and the first message of the jobs that were opened.
create or replace function hotmesh._start_begin(requests hotmesh.job_request[])
returns void
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    perform hotmesh._attribute_facts(
        array_agg(r.id), array_agg('input'::text), array_agg(r.args))
    from unnest(requests) r;
    perform hotmesh._stream_enqueue(array(
        select (null, 'workflow',
                case when r.visible_at > v_now then 'delayed' else 'ready' end,
                r.queue, r.workflow, coalesce((r.options ->> 'priority')::smallint, 0),
                r.id, '', null, null, null, r.retry_policy, 0, 0,
                coalesce(r.visible_at, v_now), null, null, null, null,
                r.options ->> 'concurrency_key', null)::hotmesh.streams
        from unnest(requests) r
        union all
        select (l::hotmesh.streams)
        from unnest(requests) r
        cross join lateral hotmesh._timer_limits(
            r.id, coalesce(r.visible_at, v_now), r.options) l
        where r.options ->> 'execution_timeout' is not null
           or r.options ->> 'run_timeout' is not null));
    perform hotmesh._attribute_facts(array_agg(r.id), array_agg('_' || s.key), array_agg(s.value))
    from unnest(requests) r
    cross join lateral jsonb_each(r.options -> 'search') s
    having count(*) > 0;
end
$$;

-- A key that is taken: refuse, or put the closed job away, or answer with the job that has it.
create or replace function hotmesh._start_conflict(request hotmesh.job_request)
returns bigint
language plpgsql
as $$
declare
    v_policy text := coalesce(request.options ->> 'on_conflict', 'reject');
    v_job hotmesh.jobs := hotmesh._job_find(request.key);
begin
    if v_job.id is null then  -- it was archived this instant
        return (hotmesh._start_open(array[request]))[1];
    elsif v_policy = 'existing' then
        return v_job.id;
    elsif v_policy = 'replace' and v_job.closed_at is not null then
        perform hotmesh._archive_jobs(array[v_job.id]);
        perform hotmesh._start_open(array[request]);
        return request.id;
    end if;
    perform hotmesh._job_refuse_conflict(request.key, v_job.closed_at is null, v_policy);
end
$$;

create or replace function hotmesh._start_open(requests hotmesh.job_request[])
returns bigint[]
language plpgsql
as $$
declare
    v_opened bigint[] := hotmesh._job_open(requests);
begin
    if cardinality(v_opened) = cardinality(requests) then
        perform hotmesh._start_begin(requests);
        return array(select r.id from unnest(requests) r);
    end if;
    if v_opened <> '{}' then
        perform hotmesh._start_begin(array(
            select r from unnest(requests) r where r.id = any (v_opened)));
    end if;
    return array(
        select case when r.id = any (v_opened) then r.id else hotmesh._start_conflict(r) end
        from unnest(requests) r);
end
$$;

-- 85_stats.sql
create or replace function hotmesh._stats_refuse(message text, given jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        message, format('It was %s.', left(given::text, 200)),
        'For instance {"data": {…}, "range": "1h", "end": "NOW", "granularity": "5m"}; a range '
        || 'may be infinity, times are ISO 8601 or NOW.');
end
$$;

-- Null: everything is one step.
create or replace function hotmesh._stats_step(granularity text)
returns interval
language plpgsql
immutable
as $$
begin
    if granularity <> all (hotmesh._field_choices('granularity')) then
        perform hotmesh._stats_refuse('no such granularity', to_jsonb(granularity));
    end if;
    return case when granularity <> 'infinity'
                then hotmesh._duration(to_jsonb(granularity), 'granularity') end;
end
$$;

-- A time without a zone is UTC.
create or replace function hotmesh._stats_time(query jsonb, name text)
returns timestamptz
language plpgsql
volatile
as $$
declare
    v_text text := query ->> name;
begin
    if v_text ~* '^now$' then
        return hotmesh.now();
    elsif v_text ~* ('^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?'
                     || '(Z|[-+]\d\d(:?\d\d)?)?)?$')
    then
        return (v_text || case when v_text ~* ':.*(Z|[-+]\d\d(:?\d\d)?)$' then '' else ' UTC'
                          end)::timestamptz;
    elsif v_text is not null then
        perform hotmesh._stats_refuse(format('%s is no time', name), query -> name);
    end if;
    return null;
exception when invalid_datetime_format or datetime_field_overflow then
    perform hotmesh._stats_refuse(format('%s is no time', name), query -> name);
end
$$;

-- From `since` to before `until`, in whole steps; a null `since` is the beginning. A query that
-- says nothing of time gets `fallback`.
create or replace function hotmesh._stats_span(
    ask hotmesh.stats_query, query jsonb, fallback text)
returns hotmesh.stats_query
language plpgsql
as $$
declare
    v_text text := coalesce(query ->> 'range', case when not query ? 'start' then fallback end);
    v_range interval := case when lower(v_text) <> 'infinity'
                             then hotmesh._duration(to_jsonb(v_text), 'range') end;
    v_start timestamptz := hotmesh._stats_time(query, 'start');
    v_end timestamptz := coalesce(
        hotmesh._stats_time(query, 'end'), v_start + v_range, hotmesh.now());
    v_origin constant timestamptz := '2000-01-01 00:00:00+00';
begin
    v_start := coalesce(v_start, v_end - v_range);
    if v_start > v_end then
        perform hotmesh._stats_refuse('start is after end', query);
    elsif (v_end - v_start) / 10000 > ask.step and query -> 'sparse' is distinct from 'true' then
        perform hotmesh._stats_refuse('more than 10000 segments', query);
    end if;
    ask.since := case when ask.step is null then v_start
                      else date_bin(ask.step, v_start, v_origin) end;
    ask.until := case when ask.step is null then v_end + interval '1 microsecond'
                      else date_bin(ask.step, v_end, v_origin) + ask.step end;
    return ask;
end
$$;

-- The key that jobs with such data have; null: of any key, since nothing was said of it.
create or replace function hotmesh._stats_key(graph hotmesh.graphs, query jsonb)
returns text
language plpgsql
as $$
declare
    v_key jsonb := (hotmesh._walk_ask_step(
        graph, 1, 'actual', jsonb_build_object('output', jsonb_build_object(
            'data', coalesce(query -> 'data', '{}'))), '{"data": {}, "metadata": {}}')).about;
begin
    return case when query ? 'data' or v_key <> 'null' then hotmesh._measure_key(v_key) end;
end
$$;

create or replace function hotmesh._stats_query(
    graph hotmesh.graphs, topic text, query jsonb, fallback text)
returns hotmesh.stats_query
language plpgsql
as $$
declare
    v_query jsonb := coalesce(nullif(query, 'null'), '{}');
    v_ask hotmesh.stats_query;
begin
    if jsonb_typeof(v_query) <> 'object'
        or v_query - '{data,range,start,end,granularity,sparse,scrub}'::text[] <> '{}'
    then
        perform hotmesh._stats_refuse('no such query', v_query);
    end if;
    v_query := jsonb_strip_nulls(v_query);
    v_ask.topic := nullif(topic, '');
    v_ask.key := hotmesh._stats_key(graph, v_query);
    v_ask.measures := coalesce(graph.plan -> 'measures', '[]');
    v_ask.granularity := coalesce(
        v_query ->> 'granularity', graph.plan ->> 'granularity', '5m');
    v_ask.step := hotmesh._stats_step(v_ask.granularity);
    return hotmesh._stats_span(
        v_ask, v_query, case when v_ask.step is null then 'infinity' else fallback end);
end
$$;

create or replace function hotmesh._stats_segment(ask hotmesh.stats_query, at timestamptz)
returns timestamptz
language sql
immutable
as $$
    select case when ask.step is null then coalesce(ask.since, '-infinity')
                else date_bin(ask.step, at, '2000-01-01 00:00:00+00') end
$$;

-- Two statements, so that the plan of the usual one, which looks into the index, stays its own.
create or replace function hotmesh._stats_rows(ask hotmesh.stats_query)
returns table (segment timestamptz, job_id bigint, job_key text, at timestamptz, measured jsonb)
language plpgsql
stable
as $$
declare
    v_since timestamptz := coalesce(ask.since, '-infinity');
begin
    if ask.topic is not null and ask.key is not null then
        return query
        select hotmesh._stats_segment(ask, m.at), m.job_id, m.job_key, m.at, m.measured
        from measures m
        where m.topic = ask.topic and m.key = ask.key and m.at >= v_since and m.at < ask.until;
        return;
    end if;
    return query
    select hotmesh._stats_segment(ask, m.at), m.job_id, m.job_key, m.at, m.measured
    from measures m
    where (ask.topic is null or m.topic = ask.topic) and (ask.key is null or m.key = ask.key)
      and m.at >= v_since and m.at < ask.until;
end
$$;

create or replace function hotmesh._stats_number(value jsonb)
returns numeric
language sql
immutable
as $$
    select case jsonb_typeof(value)
        when 'number' then case when abs(value::numeric) < 1e100 then value::numeric end
        when 'string' then case
            when value #>> '{}' ~ '^\s*[-+]?\d{1,100}(\.\d{1,100})?\s*$'
            then (value #>> '{}')::numeric end end
$$;

-- What is measured of each job, in the order of the measures. `count` counts by value, "color:red".
create or replace function hotmesh._stats_points(ask hotmesh.stats_query)
returns table (segment timestamptz, place bigint, measure text, target text, number numeric)
language sql
stable
as $$
    select r.segment, m.place, m.measure,
           case m.measure when 'count' then m.target || ':' || (r.measured ->> m.target)
                          else m.target end,
           case when m.measure <> 'count' then hotmesh._stats_number(r.measured -> m.target) end
    from (
        select e.place, e.about ->> 'measure' as measure, e.about ->> 'target' as target
        from jsonb_array_elements(ask.measures) with ordinality e (about, place)) m
    cross join hotmesh._stats_rows(ask) r
    where m.measure <> 'index' and r.measured ? m.target
$$;

-- What the measures come to in each segment, and in all of them (`segment` is null). Medians are
-- sorted, and all the others need not be.
create or replace function hotmesh._stats_sums(ask hotmesh.stats_query)
returns table (segment timestamptz, measures jsonb)
language sql
stable
as $$
    with points as materialized (select * from hotmesh._stats_points(ask)),
    sums as (
        select p.segment, p.place, p.measure, p.target, case p.measure
                   when 'count' then count(*) when 'sum' then sum(p.number)
                   when 'avg' then avg(p.number) when 'max' then max(p.number)
                   else min(p.number) end as value
        from points p
        where p.measure <> 'mdn'
        group by grouping sets (
            (p.place, p.measure, p.target), (p.segment, p.place, p.measure, p.target))
        union all
        select p.segment, p.place, p.measure, p.target,
               (percentile_disc(0.5) within group (order by p.number)
                + percentile_disc(0.5) within group (order by p.number desc)) / 2
        from points p
        where p.measure = 'mdn'
        group by grouping sets (
            (p.place, p.measure, p.target), (p.segment, p.place, p.measure, p.target)))
    select v.segment, jsonb_agg(jsonb_build_object(
               'target', v.target, 'type', v.measure, 'value', trim_scale(v.value))
               order by v.place, v.target)
    from sums v
    where v.value is not null
    group by v.segment
$$;

create or replace function hotmesh._stats_label(segment timestamptz)
returns text
language sql
stable
as $$
    select case when isfinite(segment)
                then to_char(segment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"')
                else 'infinity' end
$$;

-- The segments of a span; of one without a beginning, those in which a job started.
create or replace function hotmesh._stats_segments(ask hotmesh.stats_query)
returns setof timestamptz
language plpgsql
stable
as $$
begin
    if ask.step is null then
        return next coalesce(ask.since, '-infinity');
    elsif ask.since is null then
        return query select distinct r.segment from hotmesh._stats_rows(ask) r;
    else
        return query select generate_series(ask.since, ask.until - ask.step, ask.step);
    end if;
end
$$;

-- What an answer repeats of its question.
create or replace function hotmesh._stats_head(ask hotmesh.stats_query, query jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object(
        'key', ask.key, 'granularity', ask.granularity,
        'range', coalesce(query -> 'range', to_jsonb(case
            when query ? 'start' then null when ask.step is null then 'infinity' else '1h' end)),
        'start', coalesce(query -> 'start', to_jsonb(hotmesh._stats_label(ask.since))),
        'end', coalesce(query -> 'end', '"NOW"'))
$$;

-- Segments with their counts and measures.
create or replace function hotmesh._stats_table(ask hotmesh.stats_query, sums jsonb)
returns jsonb
language sql
stable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'time', hotmesh._stats_label(g.segment), 'count', coalesce(c.count, 0),
               'measures', coalesce(sums -> g.segment::text, '[]')) order by g.segment), '[]')
    from hotmesh._stats_segments(ask) g (segment)
    left join (
        select r.segment, count(*) from hotmesh._stats_rows(ask) r group by r.segment) c
        on c.segment = g.segment
$$;

create or replace function hotmesh.graph_stats(app text, topic text, query jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_ask hotmesh.stats_query;
    v_sums jsonb;
    v_answer jsonb;
begin
    perform hotmesh._enter(app);
    v_ask := hotmesh._stats_query(hotmesh._graph_get(topic), topic, query, '1h');
    select jsonb_object_agg(coalesce(s.segment::text, 'all'), s.measures) into v_sums
    from hotmesh._stats_sums(v_ask) s;
    v_answer := hotmesh._stats_head(v_ask, query) || jsonb_build_object(
        'count', (select count(*) from hotmesh._stats_rows(v_ask)),
        'measures', coalesce(v_sums -> 'all', '[]'));
    if query -> 'sparse' = 'true' then
        return v_answer;
    end if;
    return v_answer || jsonb_build_object('segments', hotmesh._stats_table(v_ask, v_sums));
end
$$;
comment on function hotmesh.graph_stats(text, text, jsonb) is
'How many jobs of a topic started in a span, and what its measures come to. query: data (from which
the key is composed, as for a job), range (1h), start, end (NOW), granularity, sparse (without
segments). Counted are jobs of graphs whose trigger has stats.key or stats.measures. Raises 22023,
MSH22.';

-- The facets that were asked for, or all there are of `index` measures.
create or replace function hotmesh._stats_facets(ask hotmesh.stats_query, facets text[])
returns text[]
language plpgsql
as $$
declare
    v_bad text := (select min(f) from unnest(facets) f where strpos(f, ':') < 2);
begin
    if v_bad is not null then
        perform hotmesh._stats_refuse('a facet is field:value', to_jsonb(v_bad));
    elsif facets <> '{}' then
        return facets;
    end if;
    return array(
        select distinct format('%s:%s', m.about ->> 'target', r.measured ->> (m.about ->> 'target'))
        from hotmesh._stats_rows(ask) r
        cross join jsonb_array_elements(ask.measures) m (about)
        where m.about ->> 'measure' = 'index' and r.measured ? (m.about ->> 'target')
        order by 1);
end
$$;

-- The jobs of each facet, by segment, as they started.
create or replace function hotmesh._stats_found(ask hotmesh.stats_query, facets text[])
returns table (segment timestamptz, facet text, place bigint, ids text[])
language sql
stable
as $$
    select r.segment, f.facet, f.place, array_agg(r.job_key order by r.at, r.job_id)
    from hotmesh._stats_rows(ask) r
    join unnest(facets) with ordinality f (facet, place)
        on hotmesh._measure_is(r.measured, f.facet)
    group by r.segment, f.facet, f.place
$$;

create or replace function hotmesh.graph_ids(
    app text, topic text, query jsonb default '{}', facets text[] default '{}')
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    v_ask hotmesh.stats_query;
    v_facets text[];
begin
    perform hotmesh._enter(app);
    v_ask := hotmesh._stats_query(hotmesh._graph_get(topic), topic, query, '1h');
    v_facets := hotmesh._stats_facets(v_ask, coalesce(facets, '{}'));
    return hotmesh._stats_head(v_ask, query) || (
        with found as materialized (select * from hotmesh._stats_found(v_ask, v_facets))
        select jsonb_build_object(
            'facets', v_facets, 'counts', (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'facet', f.facet, 'count', (
                               select coalesce(sum(cardinality(i.ids)), 0) from found i
                               where i.place = f.place)) order by f.place), '[]')
                from unnest(v_facets) with ordinality f (facet, place)),
            'segments', (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'time', hotmesh._stats_label(g.segment), 'measures', coalesce((
                               select jsonb_agg(jsonb_build_object(
                                   'time', hotmesh._stats_label(i.segment), 'target', i.facet,
                                   'count', cardinality(i.ids), 'type', 'ids', 'ids', i.ids)
                                   order by i.place)
                               from found i where i.segment = g.segment), '[]'))
                           order by g.segment), '[]')
                from hotmesh._stats_segments(v_ask) g (segment)
                where query -> 'sparse' is distinct from 'true'
                   or exists (select from found i where i.segment = g.segment))));
end
$$;
comment on function hotmesh.graph_ids(text, text, jsonb, text[]) is
'Which jobs of a topic that started in a span have a facet, such as color:red; without any, those of
the `index` measures. query as for graph_stats; with sparse only segments that have some. Raises
22023, MSH22.';

-- The jobs that a signal to all is for; null: nothing was said of them.
create or replace function hotmesh._stats_jobs(
    graph hotmesh.graphs, query jsonb, facets text[])
returns bigint[]
language plpgsql
as $$
declare
    v_ask hotmesh.stats_query;
begin
    if coalesce(query, '{}') in ('{}', 'null') and coalesce(facets, '{}') = '{}' then
        return null;
    end if;
    v_ask := hotmesh._stats_query(graph, graph.topic, query, 'infinity');
    perform hotmesh._stats_facets(v_ask, facets);
    return array(
        select r.job_id from hotmesh._stats_rows(v_ask) r
        where coalesce(facets, '{}') = '{}'
           or exists (select from unnest(facets) f where hotmesh._measure_is(r.measured, f)));
end
$$;

-- 85_subflow.sql
-- The key that the trigger gives to its job, and what else it says of it.
create or replace function hotmesh._subflow_trigger(graph hotmesh.graphs, data jsonb)
returns jsonb
language plpgsql
as $$
begin
    return (hotmesh._fail_ask(
        graph, 1, 'enter',
        jsonb_build_object('input', jsonb_build_object('data', data),
                           'output', jsonb_build_object('data', data)),
        jsonb_build_object('data', '{}'::jsonb, 'metadata', '{}'::jsonb))).about;
end
$$;

create or replace function hotmesh._subflow_request(
    graph hotmesh.graphs, topic text, data jsonb, request hotmesh.job_request)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_trigger jsonb := case
        when graph.plan ? 'begins' then hotmesh._subflow_trigger(graph, data) end;
    v_options jsonb := coalesce(request.options, '{}');
begin
    if v_options ?| '{delay,retry_policy,execution_timeout,run_timeout,concurrency_key}' then
        perform hotmesh._refuse_argument(
            format('a graph takes no such option: %s', left(v_options::text, 100)),
            'A graph says itself when it sleeps, what it tries again and when it gives up.',
            'Options of a graph: on_conflict, expire, parent, search.');
    end if;
    request.workflow := topic;
    request.key := coalesce(request.key, v_trigger ->> 'id');
    request.queue := coalesce(request.queue, '-');
    request.args := jsonb_build_array(data);
    request := hotmesh._start_request(request, hotmesh._setting('value_limit', 16777216));
    request.queue := '';
    request.graph_id := graph.id;
    request.graph_version := graph.version;
    request.expire_after := coalesce(request.expire_after, hotmesh._subflow_expire(
        coalesce(graph.plan -> 'expire', v_trigger -> 'expire')));
    if v_trigger is not null then
        request.options := request.options || jsonb_build_object('stats', v_trigger);
        request := hotmesh._subflow_lineage(request, v_trigger);
    end if;
    return request;
end
$$;

-- stats.adjacent is the job that it belongs to, stats.parent the first of those; on record only.
create or replace function hotmesh._subflow_lineage(request hotmesh.job_request, trigger jsonb)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_parent hotmesh.jobs;
    v_origin hotmesh.jobs;
begin
    if trigger ->> 'adjacent' is not null and request.parent_id is null then
        v_parent := hotmesh._job_find(trigger ->> 'adjacent');
        request.parent_id := v_parent.id;
    end if;
    if trigger ->> 'parent' is not null then
        v_origin := hotmesh._job_find(trigger ->> 'parent');
    end if;
    request.origin_id := coalesce(
        request.origin_id, v_origin.id, v_parent.origin_id, v_parent.id);
    return request;
end
$$;

-- A number of seconds or a duration; what is computed is so as the job starts. Without one, or
-- below zero, a job stays.
create or replace function hotmesh._subflow_expire(expire jsonb)
returns interval
language plpgsql
stable
as $$
declare
    v_text text := expire #>> '{}';
begin
    if jsonb_typeof(expire) in ('number', 'string') and length(v_text) < 40
        and v_text ~ '^\s*[-+]?\d+(\.\d+)?\s*$'
    then
        return case when v_text::numeric >= 0
                    then hotmesh._duration(to_jsonb(v_text::numeric), 'expire') end;
    end if;
    return hotmesh._duration(expire, 'expire');
end
$$;

-- Opens a job that goes through a graph, and returns its walk; null if its key was taken and
-- `existing` was asked for.
create or replace function hotmesh._subflow_open(
    graph hotmesh.graphs, request hotmesh.job_request)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_job hotmesh.jobs;
    v_walk hotmesh.walk;
begin
    if hotmesh._job_open(array[request]) = '{}' then
        return hotmesh._subflow_conflict(graph, request);
    end if;
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = request.id;
    if graph.plan ? 'counted' then
        perform hotmesh._measure_lay(
            v_job, graph.plan -> 'measures', request.options -> 'stats');
    end if;
    v_walk := hotmesh._trail_of(
        v_job, graph.plan, null, array[(1, ',0', 'enter', request.args -> 0)::hotmesh.walk_entry],
        '{}');
    v_walk.whole := true;
    v_walk.steps := array[hotmesh._walk_fact(v_job.id, 'input', request.args -> 0)];
    if request.options ? 'search' then
        v_walk.steps := v_walk.steps || array(
            select hotmesh._walk_fact(v_job.id, '_' || s.key, s.value)
            from jsonb_each(request.options -> 'search') s);
    end if;
    return v_walk;
end
$$;

create or replace function hotmesh._subflow_conflict(
    graph hotmesh.graphs, request hotmesh.job_request)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_policy text := coalesce(request.options ->> 'on_conflict', 'reject');
    v_job hotmesh.jobs := hotmesh._job_find(request.key);
begin
    if v_policy = 'existing' then
        return null;
    elsif v_policy = 'replace' and v_job.closed_at is not null then
        perform hotmesh._archive_jobs(array[v_job.id]);
        return hotmesh._subflow_open(graph, request);
    end if;
    perform hotmesh._job_refuse_conflict(request.key, v_job.closed_at is null, v_policy);
end
$$;

-- Starts what an `await` asks for: a graph, or a workflow in code. Returns its walk.
create or replace function hotmesh._subflow_child(c jsonb)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_parent hotmesh.jobs;
    v_request hotmesh.job_request;
    v_graph hotmesh.graphs;
    v_walk hotmesh.walk;
begin
    select (j::hotmesh.jobs).* into v_parent from jobs j where j.id = (c ->> 'job_id')::bigint;
    v_request.key := c ->> 'key';
    v_request.parent_id := v_parent.id;
    v_request.origin_id := coalesce(v_parent.origin_id, v_parent.id);
    if c ? 'again' then  -- the one before has failed
        v_request.options := '{"on_conflict": "replace"}';
    end if;
    if c -> 'await' is distinct from 'false' then
        v_request.parent_dimension := c ->> 'dimension';
        v_request.parent_sequence := (c ->> 'sequence')::integer;
    end if;
    if c ? 'workflow' then
        v_request.key := hotmesh._subflow_code(c, v_request);
    else
        v_graph := hotmesh._graph_get(c ->> 'topic');
        v_request := hotmesh._subflow_request(v_graph, c ->> 'topic', c -> 'data', v_request);
        v_walk := hotmesh._subflow_open(v_graph, v_request);
    end if;
    if c -> 'await' = 'false' then
        perform hotmesh._inbox_told(
            v_parent.id, c ->> 'dimension', (c ->> 'sequence')::integer,
            jsonb_build_object('output', jsonb_build_object(
                'job_id', v_request.key, 'jc', hotmesh._trail_time(hotmesh.now()),
                'ju', hotmesh._trail_time(hotmesh.now()))), 'waiting');
    end if;
    return v_walk;
end
$$;

create or replace function hotmesh._subflow_code(c jsonb, request hotmesh.job_request)
returns text
language plpgsql
as $$
begin
    request.workflow := c ->> 'workflow';
    request.queue := c ->> 'task_queue';
    request.args := case jsonb_typeof(c -> 'data')
        when 'array' then c -> 'data' else jsonb_build_array(c -> 'data') end;
    request := hotmesh._start_request(request, hotmesh._setting('value_limit', 16777216));
    perform hotmesh._start_open(array[request]);
    return request.key;
end
$$;

create or replace function hotmesh._subflow_error(state text, message text)
returns jsonb
language sql
immutable
as $$
    select jsonb_build_object(
        'type', case state when 'MSH41' then 'DuplicateJobError' else 'EngineError' end,
        'code', case state when 'MSH41' then 409 else 598 end,
        'sqlstate', state, 'message', message)
$$;

create or replace function hotmesh._subflow_told(c jsonb, answer jsonb)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_told(
        (c ->> 'job_id')::bigint, c ->> 'dimension', (c ->> 'sequence')::integer, answer,
        'waiting');
end
$$;

-- What an errand refuses is the answer of its step.
create or replace function hotmesh._subflow_refused(c jsonb, state text, message text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._subflow_told(
        c, jsonb_build_object('error', hotmesh._subflow_error(state, message)));
end
$$;

-- It is to be done later, in the turn that has its job then.
create or replace function hotmesh._subflow_wait(c jsonb, seconds double precision)
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_enqueue(array[(
        null, 'timer', 'delayed', '', 'effect', 0, (c ->> 'job_id')::bigint, c ->> 'dimension',
        (c ->> 'sequence')::integer, null, jsonb_build_object('errand', c - 'delay'), null, 0, 0,
        hotmesh.now() + make_interval(secs => seconds),
        null, null, null, null, null, null)::hotmesh.streams]);
end
$$;

-- It would have had to wait for somebody's lock: it is tried again, less and less often, for some
-- three minutes.
create or replace function hotmesh._subflow_later(c jsonb, state text, message text)
returns void
language plpgsql
as $$
declare
    v_tries integer := coalesce((c ->> 'tries')::integer, 0);
begin
    if v_tries >= 20 then
        perform hotmesh._subflow_refused(c, state, message);
        return;
    end if;
    perform hotmesh._subflow_wait(
        c || jsonb_build_object('tries', v_tries + 1), least(0.5 * 2 ^ v_tries, 10));
end
$$;

-- A turn carries the work of others. A function of SQL is not called in it, if there is a worker
-- that calls them (87): in a transaction of its own, for a bounded time.
create or replace function hotmesh._subflow_defer(c jsonb)
returns boolean
language plpgsql
as $$
begin
    if c ->> 'do' <> 'sql' or current_setting('hotmesh.turning', true) is distinct from 'on'
        or not hotmesh._worker_serves('activity', '@sql')
    then
        return false;
    end if;
    perform hotmesh._stream_enqueue(array[(
        null, 'activity', 'ready', '@sql', '@sql', 0, (c ->> 'job_id')::bigint, c ->> 'dimension',
        (c ->> 'sequence')::integer, null, jsonb_build_array(c),
        hotmesh._retry_policy(coalesce(nullif(c -> 'policy', 'null'), '{"maximum_attempts": 1}')),
        0, 0, hotmesh.now(), null, null, null, null, null, null)::hotmesh.streams]);
    return true;
end
$$;

-- Without one nothing in it waits long for a lock.
create or replace function hotmesh._subflow_try(c jsonb)
returns hotmesh.walk
language plpgsql
as $$
declare
    v_patience text := current_setting('lock_timeout');
    v_walk hotmesh.walk;
begin
    if c ? 'delay' then
        perform hotmesh._subflow_wait(c, (c ->> 'delay')::double precision);
        return null;
    elsif hotmesh._subflow_defer(c) then
        return null;
    elsif current_setting('hotmesh.turning', true) = 'on' then
        perform set_config('lock_timeout', '40ms', true);
    end if;
    if c ->> 'do' = 'sql' then
        perform hotmesh._subflow_told(
            c, jsonb_build_object('output', hotmesh._errand_call(c)));
    else
        v_walk := hotmesh._subflow_child(c);
    end if;
    perform set_config('lock_timeout', v_patience, true);
    return v_walk;
exception
    when lock_not_available then
        perform set_config('lock_timeout', v_patience, true);
        perform hotmesh._subflow_later(c, sqlstate, sqlerrm);
        return null;
    when sqlstate 'MSH22' or sqlstate 'MSH41' or sqlstate 'MSH43' or sqlstate 'MSH44'
        or data_exception or integrity_constraint_violation or object_not_in_prerequisite_state
        or raise_exception or syntax_error_or_access_rule_violation or plpgsql_error
        or program_limit_exceeded or feature_not_supported
        or external_routine_exception or triggered_action_exception
        or with_check_option_violation
    then
        perform set_config('lock_timeout', v_patience, true);
        perform hotmesh._subflow_refused(c, sqlstate, sqlerrm);
        return null;
end
$$;

-- What a function of SQL answered, to whoever called it for the engine.
create or replace function hotmesh._subflow_call(c jsonb)
returns jsonb
language plpgsql
as $$
begin
    return jsonb_build_object('output', hotmesh._errand_call(c));
exception
    when data_exception or integrity_constraint_violation or object_not_in_prerequisite_state
        or raise_exception or syntax_error_or_access_rule_violation or plpgsql_error
        or program_limit_exceeded or feature_not_supported
        or external_routine_exception or triggered_action_exception
        or with_check_option_violation
    then
        return jsonb_build_object('error', hotmesh._subflow_error(sqlstate, sqlerrm));
end
$$;

-- What had to wait is tried again, in the turn that holds its job.
create or replace function hotmesh._subflow_again(c jsonb)
returns void
language plpgsql
as $$
declare
    v_walk hotmesh.walk := hotmesh._subflow_try(c);
begin
    if v_walk.job_id is not null then
        perform hotmesh._errand_go('{}', array[v_walk]);
    end if;
end
$$;

-- Children that were started, as walks; functions of SQL that were called have answered.
create or replace function hotmesh._subflow_start(walks hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
begin
    return array(
        select t.walk
        from (
            select hotmesh._subflow_try(c.about) as walk
            from unnest(walks) with ordinality w
            cross join lateral jsonb_array_elements(w.commands) with ordinality c (about, place)
            where w.commands <> '[]' and c.about ->> 'do' in ('await', 'sql')
            order by w.ordinality, c.place
            offset 0) t
        where (t.walk).job_id is not null);
end
$$;

-- 85_trail.sql
-- The rows of the journal that answers at these places may need: the answered instances, and of
-- every activity that is read the instance on the way there: as many segments as it lies deep. An
-- answer to what ends there reads nothing more.
create or replace function hotmesh._trail_fields(plan jsonb, todo hotmesh.walk_entry[])
returns text[]
language plpgsql
immutable
as $$
declare
    v_entry hotmesh.walk_entry;
    v_place text[];
    v_reads constant jsonb := plan -> 'reads';
    v_fields text[] := '{}';
begin
    foreach v_entry in array todo loop
        v_fields := v_fields
            || hotmesh._attribute_field(v_entry.dimension, v_entry.activity);
        continue when v_entry.leg = 'answer'
            and plan -> 'activities' -> (v_entry.activity - 1) ? 'ends';
        v_place := string_to_array(v_entry.dimension || repeat(
            ',0', (plan ->> 'deepest')::integer), ',');
        for i in 0 .. jsonb_array_length(v_reads) - 1 loop
            v_fields := v_fields || hotmesh._attribute_field(
                array_to_string(v_place[1:(v_reads -> i ->> 1)::integer + 2], ','),
                (v_reads -> i ->> 0)::integer);
        end loop;
    end loop;
    return v_fields;
end
$$;

-- Where cycles return to from these places. A row that is there already says that several ways
-- lead back from one round: then all its rounds are needed, to find one that is free.
create or replace function hotmesh._trail_returns(
    job_id bigint, plan jsonb, todo hotmesh.walk_entry[])
returns text[]
language plpgsql
stable
as $$
begin
    return array(
        select distinct p.about ->> 2
        from jsonb_array_elements(plan -> 'pivots') as p (about)
        cross join lateral unnest(todo) t
        cross join lateral (
            select (regexp_match(
                t.dimension, '^(?:,\d+){' || ((p.about ->> 1)::integer + 1) || '}'))[1]) as d (base)
        join jobs_attributes a
            on a.job_id = _trail_returns.job_id
            and a.field = hotmesh._attribute_field(
                case when t.activity = (p.about ->> 0)::integer then t.dimension
                     else hotmesh._walk_dimension(d.base, 1) end, (p.about ->> 0)::integer)
        where d.base is not null);
end
$$;

-- One that is open can be answered: it says how often it was.
create or replace function hotmesh._trail_instance(value jsonb, state text, ledger bigint)
returns jsonb
language sql
stable
as $$
    select case
        when state <> 'open' then value
        when ledger % 100000000 = 0 then value || '{"$": {"open": true, "turn": 0}}'
        else value || jsonb_build_object('$', jsonb_build_object(
            'open', true, 'turn', ledger % 100000000)) end
$$;

create or replace function hotmesh._trail_time(at timestamptz)
returns text
language sql
stable
as $$
    select to_char(at at time zone 'UTC', 'YYYYMMDDHH24MISS.MS')
$$;

-- What is known of an instance beside its data; for those activities of which anything reads it.
create or replace function hotmesh._trail_stamp(
    self jsonb, part text, about jsonb, d text, code integer)
returns jsonb
language sql
stable
as $$
    select self || jsonb_build_object(part, coalesce(self -> part, '{}') || jsonb_build_object(
        'metadata', coalesce(self #> '{input,metadata}', about || jsonb_build_object(
            'dad', d, 'ac', n.now)) || jsonb_build_object('au', n.now)
            || case when part = 'input' then '{}' else jsonb_build_object('code', code) end
            || case when self ? 'error' then jsonb_build_object('err', self -> 'error')
                    else '{}' end))
    from (values (hotmesh._trail_time(hotmesh.now()))) n (now)
$$;

-- What expressions read of the job.
create or replace function hotmesh._trail_job(job hotmesh.jobs, plan jsonb, data jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object('data', coalesce(data, '{}'), 'metadata', jsonb_build_object(
        'jid', job.key, 'gid', job.id::text, 'tpc', job.topic, 'app', plan -> 'app',
        'vrs', job.graph_version, 'js', job.status, 'jc', hotmesh._trail_time(job.created_at),
        'ju', hotmesh._trail_time(job.updated_at)))
$$;

create or replace function hotmesh._trail_of(
    job hotmesh.jobs, plan jsonb, data jsonb, todo hotmesh.walk_entry[], store jsonb)
returns hotmesh.walk
language sql
stable
as $$
    select (
        job.id, job.graph_id, plan, hotmesh._trail_job(job, plan, data), store, job.status, todo,
        '{}', '[]', null, job.status,
        case when job.parent_sequence is not null then job.parent_id end,
        false, false, 0, null, null, null, null, null, null, false)::hotmesh.walk
$$;

-- Has an instance this dimension: in memory or, where a job is given, among its rows?
create or replace function hotmesh._trail_taken(
    instances jsonb, dimension text, job_id bigint, activity integer)
returns boolean
language plpgsql
stable
as $$
begin
    return coalesce(instances ? dimension, false)
        or job_id is not null and hotmesh._attribute_exists(
            job_id, hotmesh._attribute_field(dimension, activity));
end
$$;

-- A dimension that no instance has, this one or a later. They are taken one after the other: it
-- takes a few looks, however many there are.
create or replace function hotmesh._trail_free(
    instances jsonb, dimension text, job_id bigint, activity integer)
returns text
language plpgsql
stable
as $$
declare
    v_taken integer := -1;
    v_free integer := 0;
    v_at integer;
begin
    while hotmesh._trail_taken(
        instances, hotmesh._walk_dimension(dimension, v_free), job_id, activity)
    loop
        v_taken := v_free;
        v_free := 2 * v_free + 1;
    end loop;
    while v_free - v_taken > 1 loop
        v_at := (v_free + v_taken) / 2;
        if hotmesh._trail_taken(
            instances, hotmesh._walk_dimension(dimension, v_at), job_id, activity)
        then
            v_taken := v_at;
        else
            v_free := v_at;
        end if;
    end loop;
    return hotmesh._walk_dimension(dimension, v_free);
end
$$;

-- The instances that a walk may need, by activity and dimension. Most walks need one of each.
create or replace function hotmesh._trail_store(job_id bigint, fields text[], merging text[])
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_object_agg(n.name, n.instances), '{}')
        from (
            select a.name, jsonb_object_agg(
                       a.dimension, hotmesh._trail_instance(a.value, a.state, a.ledger)
                   ) as instances
            from jobs_attributes a
            where a.job_id = _trail_store.job_id and a.sequence is not null
              and (a.field = any (fields) or merging <> '{}' and a.name = any (merging))
            group by a.name) n);
end
$$;

-- The walks of jobs for which something came in: these events, and what waits in their inboxes.
-- The caller holds the jobs' locks, and remembers some of them.
create or replace function hotmesh._trail_load(
    job_ids bigint[], events hotmesh.streams[], known hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_known bigint[] := '{}';
    v_walks hotmesh.walk[] := '{}';
begin
    if job_ids <> '{}' then
        events := events || hotmesh._inbox_drain(job_ids);
    end if;
    if known <> '{}' and events <> '{}' then
        v_walks := array(
            select hotmesh._trail_resume(k, t.todo)
            from hotmesh._trail_todo(events) t
            join unnest(known) k on k.job_id = t.job_id);
        v_known := array(select k.job_id from unnest(known) k);
        events := array(select e from unnest(events) e where e.job_id <> all (v_known));
    end if;
    if events = '{}' then
        return v_walks;
    end if;
    return v_walks || hotmesh._trail_read(events);
end
$$;

-- Jobs that began in this transaction and that go on in it: all that they have done is in memory,
-- as long as that is little.
create or replace function hotmesh._trail_known(walks hotmesh.walk[], known hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
stable
as $$
begin
    return array(
        select w from unnest(walks) w
        where w.whole and w.status > 0 and not w.ended and pg_column_size(w.store) < 10000
        union all
        select k from unnest(known) k
        where k.job_id <> all (array(select w.job_id from unnest(walks) w)));
end
$$;

-- The next walk of a job after this one, which was written.
create or replace function hotmesh._trail_resume(w hotmesh.walk, todo hotmesh.walk_entry[])
returns hotmesh.walk
language plpgsql
as $$
begin
    w.todo := todo;
    w.steps := '{}';
    w.commands := '[]';
    w.told := false;
    w.moves := 0;
    w.was := w.status;
    w.job := w.job || jsonb_build_object('metadata', w.job -> 'metadata' || jsonb_build_object(
        'js', w.status, 'ju', hotmesh._trail_time(hotmesh.now())));
    return w;
end
$$;

-- `offset 0` makes it one look by id per job.
create or replace function hotmesh._trail_read(events hotmesh.streams[])
returns hotmesh.walk[]
language plpgsql
as $$
begin
    return array(
        select hotmesh._trail_of(
            e.job, e.plan, s.data, e.todo,
            case when e.simple then coalesce(s.store, '{}')
                 else hotmesh._trail_store((e.job).id, e.fields, e.merging) end)
        from (
            select t.job, t.plan, t.todo, t.fields, t.merging,
                   t.merging = '{}' and cardinality(t.todo) = 1 as simple
            from (
                select j.job, g.plan, v.todo, hotmesh._trail_fields(g.plan, v.todo) as fields,
                       case when g.plan ? 'merging'
                            then array(select jsonb_array_elements_text(g.plan -> 'merging'))
                            else '{}' end
                       || case when g.plan ? 'pivots'
                               then hotmesh._trail_returns(v.job_id, g.plan, v.todo)
                               else '{}' end as merging
                from hotmesh._trail_todo(events) v
                cross join lateral (
                    select j::hotmesh.jobs as job from jobs j
                    where j.id = v.job_id and j.closed_at is null
                    offset 0) j
                join graphs g on g.id = (j.job).graph_id
                offset 0) t) e
        left join lateral (
            select (array_agg(a.value) filter (where a.field = 'output'))[1] as data,
                   jsonb_object_agg(a.name, jsonb_build_object(
                       a.dimension, hotmesh._trail_instance(a.value, a.state, a.ledger)))
                       filter (where a.sequence is not null and e.simple) as store
            from jobs_attributes a
            where a.job_id = (e.job).id and a.field = any (e.fields || 'output'::text)
            offset 0) s on true
        order by (e.job).id);
end
$$;

-- What walks have written: their steps, and the data of those that told something or have ended.
create or replace function hotmesh._trail_rows(walks hotmesh.walk[])
returns hotmesh.jobs_attributes[]
language plpgsql
immutable
as $$
declare
    w hotmesh.walk;
    v_step hotmesh.jobs_attributes;
    v_rows hotmesh.jobs_attributes[] := '{}';
begin
    foreach w in array walks loop
        foreach v_step in array w.steps loop
            v_rows := v_rows || v_step;
        end loop;
        if w.told or w.status = 0 or w.ended then
            v_rows := v_rows || hotmesh._walk_fact(w.job_id, 'output', w.job -> 'data');
        end if;
    end loop;
    return v_rows;
end
$$;

create or replace function hotmesh._trail_todo(events hotmesh.streams[])
returns table (job_id bigint, todo hotmesh.walk_entry[])
language sql
stable
as $$
    select v.job_id, array_agg(
               (v.sequence, v.dimension,
                case when v.args ? 'enter' then 'enter' else 'answer' end,
                case when v.args ? 'enter' then v.args -> 'answer'
                     else coalesce(v.args #> '{output,$called}', v.args) end
               )::hotmesh.walk_entry order by v.ordinality)
    from unnest(events) with ordinality v
    group by v.job_id
$$;

-- 85_visit.sql
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

-- 85_walk.sql
create or replace function hotmesh._walk_about(w hotmesh.walk)
returns jsonb
language sql
immutable
as $$
    select w.plan -> 'activities' -> (w.activity - 1)
$$;

-- The dimension of the answer number `turn`, and of the iteration `turn` later.
create or replace function hotmesh._walk_dimension(dimension text, turn integer)
returns text
language sql
immutable
as $$
    select case when turn = 0 then dimension
                else regexp_replace(dimension, ',\d+$', '') || ',' || (
                    (regexp_match(dimension, '\d+$'))[1]::integer + turn) end
$$;

-- A step of the journal, to be written.
create or replace function hotmesh._walk_step(
    w hotmesh.walk, dimension text, self jsonb, state text)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_turn bigint := coalesce((self #>> '{$,turn}')::bigint, 0);
begin
    w.steps := w.steps || (
        w.job_id, hotmesh._attribute_field(dimension, w.activity), self - '$',
        v_about ->> 'type', v_about ->> 'id', state, dimension, w.activity, null,
        001100000000000 + v_turn + case state when 'open' then 0 else 100000000000000 end,
        null, null)::hotmesh.jobs_attributes;
    return w;
end
$$;

-- An instance that leads no further by itself.
create or replace function hotmesh._walk_end(w hotmesh.walk, state text)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.store := hotmesh._plan_put(
        w.store, hotmesh._walk_about(w) ->> 'id', w.dimension, w.self);
    return hotmesh._walk_step(w, w.dimension, w.self, state);
end
$$;

create or replace function hotmesh._walk_command(w hotmesh.walk, verb text, about jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.commands := w.commands || jsonb_build_array(about || jsonb_build_object(
        'do', verb, 'job_id', w.job_id, 'dimension', w.dimension, 'sequence', w.activity,
        'id', hotmesh._walk_about(w) ->> 'id', 'graph_id', w.graph_id));
    return w;
end
$$;

create or replace function hotmesh._walk_fail(w hotmesh.walk, error jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    w.error := error || jsonb_build_object(
        'activity', hotmesh._walk_about(w) ->> 'id', 'dimension', w.dimension);
    w.ended := true;
    return w;
end
$$;

-- Takes up the next thing to do. `leg` is null when there is none.
create or replace function hotmesh._walk_next(w hotmesh.walk)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_entry hotmesh.walk_entry;
    v_about jsonb;
begin
    w.leg := null;
    while w.leg is null and not w.ended and w.todo <> '{}'
        and (w.moves < 100 or (w.todo[1]).leg in ('leave', 'again'))
    loop
        v_entry := w.todo[1];
        w.todo := w.todo[2:];
        w.moves := w.moves + 1;
        w.activity := v_entry.activity;
        w.dimension := v_entry.dimension;
        w.codes := '{200}';
        w.pending := false;
        if v_entry.leg = 'enter' then
            w := hotmesh._walk_arrive(w, v_entry.answer);
        elsif v_entry.leg = 'answer' then
            w := hotmesh._walk_bind(w, v_entry.answer);
        else
            w.self := w.store -> (hotmesh._walk_about(w) ->> 'id') -> w.dimension;
            w.leg := v_entry.leg;
        end if;
    end loop;
    return w;
end
$$;

-- Is it a worker's first answer, with data alone?
create or replace function hotmesh._walk_is_plain(
    entry hotmesh.walk_entry, about jsonb, self jsonb, number integer)
returns boolean
language sql
immutable
as $$
    select coalesce(
        number = 1 and entry.leg = 'answer' and about ->> 'type' = 'worker'
        and self -> '$' = '{"open": true, "turn": 0}'
        and jsonb_typeof(entry.answer -> 'output') = 'object'
        and entry.answer -> 'output' ?| '{status,data}'
        and (entry.answer -> 'output') - 'data' <@ '{"status": "success"}'
        and entry.answer - 'output' = '{}', false)
$$;

-- Does it go to nowhere, or to one worker of a known topic, to which nothing else leads?
create or replace function hotmesh._walk_is_next(o hotmesh.plan_step, next jsonb)
returns boolean
language sql
immutable
as $$
    select coalesce(cardinality(o.go), 0) < 2 and o.emit is not true and o.persist is not true
        and (next is null or next ->> 'type' = 'worker' and not next ?| '{merging,computed}')
$$;

create or replace function hotmesh._walk_row(
    job_id bigint, dimension text, activity integer, about jsonb, self jsonb, state text,
    turn integer)
returns hotmesh.jobs_attributes
language sql
immutable
as $$
    select (
        job_id, hotmesh._attribute_field(dimension, activity), self, about ->> 'type',
        about ->> 'id', state, dimension, activity, null,
        001100000000000 + turn + case state when 'open' then 0 else 100000000000000 end,
        null, null)::hotmesh.jobs_attributes
$$;

-- A fact about a job, to be written with its steps.
create or replace function hotmesh._walk_fact(job_id bigint, field text, value jsonb)
returns hotmesh.jobs_attributes
language sql
immutable
as $$
    select (job_id, field, value, 'fact', null, 'done', '', null, null, 0, null, null
           )::hotmesh.jobs_attributes
$$;

-- A worker that was asked, and the command by which it is; nothing if it is skipped.
create or replace function hotmesh._walk_asked(o hotmesh.plan_step)
returns jsonb
language sql
stable
as $$
    select case when o.skip then o.self
                else o.self || jsonb_build_object('topic', o.about -> 'topic') end
$$;

create or replace function hotmesh._walk_asks(
    job_id bigint, graph_id bigint, dimension text, activity integer, about jsonb,
    o hotmesh.plan_step)
returns jsonb
language sql
stable
as $$
    select case when o.skip then '[]' else jsonb_build_array(o.about || jsonb_build_object(
        'data', coalesce(o.self #> '{input,data}', '{}'),
        'policy', case when about ? 'retry' then '{"maximum_attempts": 1}'
                       else about -> 'policy' end,
        'do', 'worker', 'job_id', job_id, 'dimension', dimension, 'sequence', activity,
        'id', about ->> 'id', 'graph_id', graph_id)) end
$$;

-- Is it an activity that waits for nothing, at its beginning?
create or replace function hotmesh._walk_passes(entry hotmesh.walk_entry, about jsonb)
returns boolean
language sql
immutable
as $$
    select about ? 'passes' and entry.leg = 'enter'
        and (entry.answer is null or entry.activity = 1)
$$;

-- What an instance begins with. A trigger's input is its output; it is kept twice only where maps
-- may part them.
create or replace function hotmesh._walk_self(about jsonb, output jsonb)
returns jsonb
language sql
stable
as $$
    select case
        when output is null then '{}'
        when about ->> 'type' = 'trigger' and not about ? 'twin' then jsonb_build_object(
            'input', jsonb_build_object('data', output),
            'output', jsonb_build_object('data', output))
        else jsonb_build_object('output', jsonb_build_object('data', output)) end
$$;

create or replace function hotmesh._walk_onward(
    todo hotmesh.walk_entry[], go integer[], dimension text)
returns hotmesh.walk_entry[]
language plpgsql
immutable
as $$
begin
    for i in 1 .. coalesce(cardinality(go), 0) loop
        todo := todo || (go[i], dimension || ',0', 'enter', null)::hotmesh.walk_entry;
    end loop;
    return todo;
end
$$;

-- A new instance; `output` is what a cycle gives to the activity that it returns to.
create or replace function hotmesh._walk_arrive(w hotmesh.walk, output jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
begin
    if v_about ? 'merging' or output is not null then
        w.dimension := hotmesh._trail_free(
            w.store -> (v_about ->> 'id'), w.dimension,
            case when v_about ? 'unread' then w.job_id end, w.activity);
    end if;
    w.job := jsonb_set(w.job, '{metadata,js}', to_jsonb(w.status));
    w.self := hotmesh._walk_self(v_about, output);
    w.leg := 'enter';
    return w;
end
$$;

-- What a worker said: {status, code, data}, or data alone.
create or replace function hotmesh._walk_response(output jsonb, kind text)
returns jsonb
language sql
stable
as $$
    select case
        when kind in ('worker', 'signal') and jsonb_typeof(output) = 'object'
             and output ?| '{status,code,data}'
             and output - '{status,code,data,metadata,stack}'::text[] = '{}' then output
        else jsonb_build_object('data', coalesce(output, 'null')) end
$$;

-- A code as a number; null if it is none.
create or replace function hotmesh._walk_code(code jsonb)
returns integer
language sql
immutable
as $$
    select case when code #>> '{}' ~ '^-?\d{1,9}$' and jsonb_typeof(code) in ('number', 'string')
                then (code #>> '{}')::integer end
$$;

-- What comes of an answer whose code is none.
create or replace function hotmesh._walk_miscoded(response jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object(
        'type', 'WorkerError', 'code', 598,
        'message', format('the code of the answer is no code: %s', left(response ->> 'code', 100)))
    where jsonb_typeof(response -> 'code') <> 'null'
      and hotmesh._walk_code(response -> 'code') is null
$$;

-- The codes by which transitions go: retries that were used up are the 500 of their cause, too.
create or replace function hotmesh._walk_codes(code integer)
returns integer[]
language sql
immutable
as $$
    select case when code = 597 then '{597,500}' else array[code] end
$$;

-- An answer came in. One for an instance that has ended, or was answered before, is dropped.
create or replace function hotmesh._walk_bind(w hotmesh.walk, answer jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_response jsonb;
    v_status text;
    v_error jsonb := answer -> 'error';
begin
    w.self := w.store -> (v_about ->> 'id') -> w.dimension;
    if w.self #>> '{$,open}' is distinct from 'true' then
        return case when answer ? 'published' then hotmesh._walk_command(w, 'return', answer)
                    else w end;
    end if;
    v_response := case when answer ? 'code' or answer ? 'status'
        then jsonb_build_object('code', answer -> 'code', 'status', answer -> 'status',
                                'data', answer -> 'output')
        else hotmesh._walk_response(answer -> 'output', v_about ->> 'type') end;
    v_status := lower(v_response ->> 'status');
    v_error := coalesce(v_error, hotmesh._walk_miscoded(v_response));
    w.codes := array[coalesce(hotmesh._walk_code(v_response -> 'code'),
                              case v_status when 'error' then 500 when 'pending' then 202
                                            else 200 end)];
    if v_status = 'error' and v_error is null then
        v_error := jsonb_strip_nulls(jsonb_build_object(
            'type', 'WorkerError', 'code', w.codes[1], 'data', v_response -> 'data',
            'message', coalesce(v_response #>> '{data,message}', v_response ->> 'message',
                                'the worker answered with an error'),
            'stack', v_response -> 'stack'));
        v_response := jsonb_build_object('data', case jsonb_typeof(v_response -> 'data')
            when 'object' then jsonb_build_object('code', w.codes[1]) || (v_response -> 'data')
            else v_response -> 'data' end);
    elsif v_error is not null then
        w.codes := hotmesh._walk_codes(coalesce(hotmesh._walk_code(v_error -> 'code'), 500));
        v_response := jsonb_build_object('data', v_error);
    end if;
    w.pending := v_error is null and (v_status = 'pending' or w.codes[1] = 202);
    return hotmesh._walk_answer(w, v_response -> 'data', v_error);
end
$$;

-- Lays an answer into its instance, each further one into a dimension of its own.
create or replace function hotmesh._walk_answer(w hotmesh.walk, data jsonb, error jsonb)
returns hotmesh.walk
language plpgsql
stable
as $$
declare
    v_about jsonb := hotmesh._walk_about(w);
    v_base text := w.dimension;
    v_turn integer := coalesce((w.self #>> '{$,turn}')::integer, 0);
begin
    if error is not null and v_about ? 'retry' then
        w := hotmesh._visit_retry(w, v_about -> 'retry');
        if w.codes = '{}' then
            return w;
        end if;
    end if;
    w.self := w.self || jsonb_build_object('$', jsonb_build_object(
        'turn', v_turn + 1, 'open', w.pending));
    if w.pending and w.self ? 'wait' then
        w := hotmesh._walk_command(w, 'wait', jsonb_build_object('name', w.self -> 'wait'));
    elsif w.self ?& '{wait,sleep}' then
        w := hotmesh._walk_command(w, 'unwait', '{}');
    end if;
    if v_turn > 0 then
        w := hotmesh._walk_step(
            w, v_base, w.self,
            case when w.pending then 'open' when error is null then 'done' else 'failed' end);
        w.store := hotmesh._plan_put(w.store, v_about ->> 'id', v_base, w.self);
        w.dimension := hotmesh._walk_dimension(v_base, v_turn);
        if v_about ? 'merging' then
            w.dimension := hotmesh._trail_free(
            w.store -> (v_about ->> 'id'), w.dimension,
            case when v_about ? 'unread' then w.job_id end, w.activity);
        end if;
        w.self := w.self - '$';
    end if;
    w.self := w.self || case v_about ->> 'type'
        when 'hook' then jsonb_build_object('hook', jsonb_build_object('data', data))
        else jsonb_build_object('output', jsonb_build_object('data', data)) end
        || case when error is null then '{}'::jsonb
                else jsonb_build_object('error', error) end;
    w.leg := case when error is null then 'leave' else 'failed' end;
    return w;
end
$$;

-- What the expressions of an activity came to, and what it leads to.
create or replace function hotmesh._walk_moved(w hotmesh.walk, o hotmesh.plan_step)
returns hotmesh.walk
language plpgsql
stable
as $$
begin
    if w.leg <> 'enter' then
        return hotmesh._visit_leave(w, o);
    end if;
    w.self := o.self;
    if o.skip then
        w.status := w.status - 1;
        return hotmesh._walk_end(w, 'cancelled');
    end if;
    case hotmesh._walk_about(w) ->> 'type'
        when 'trigger' then return hotmesh._visit_pass(w);
        when 'hook' then return hotmesh._visit_hook(w, coalesce(o.about, '{}'));
        when 'cycle' then return hotmesh._visit_cycle(w);
        when 'interrupt' then return hotmesh._visit_interrupt(w, coalesce(o.about, '{}'));
        when 'signal' then
            return hotmesh._visit_signal(w, coalesce(o.about, '{}'));
        else return hotmesh._visit_ask(w, coalesce(o.about, '{}'));
    end case;
end
$$;

create or replace function hotmesh._walk_graphs(walks hotmesh.walk[])
returns bigint[]
language plpgsql
immutable
as $$
begin
    if cardinality(walks) = 1 then
        return array[walks[1].graph_id];
    end if;
    return array(select distinct w.graph_id from unnest(walks) w);
end
$$;

-- Calls what each graph was compiled into, once for all its jobs.
create or replace function hotmesh._walk_run(walks hotmesh.walk[])
returns hotmesh.walk[]
language plpgsql
as $$
declare
    v_graphs constant bigint[] := hotmesh._walk_graphs(walks);
    v_graph bigint;
    v_name text;
    v_part hotmesh.walk[] := walks;
    v_done hotmesh.walk[] := '{}';
begin
    foreach v_graph in array v_graphs loop
        v_name := format('%I.%I', hotmesh._app_here(), hotmesh._graph_name(v_graph));
        if to_regproc(v_name) is null then
            perform hotmesh._plan_compile(g::hotmesh.graphs) from graphs g where g.id = v_graph;
        end if;
        if cardinality(v_graphs) > 1 then
            v_part := array(select w from unnest(walks) w where w.graph_id = v_graph);
        end if;
        execute format('select %s($1)', v_name) into v_part using v_part;
        v_done := v_done || v_part;
    end loop;
    return v_done;
end
$$;

-- Evaluates what one activity says, outside of any walk: the trigger of a job that is to be, the
-- rule of a hook.
create or replace function hotmesh._walk_ask_step(
    graph hotmesh.graphs, activity integer, leg text, self jsonb, job jsonb)
returns hotmesh.plan_step
language plpgsql
as $$
declare
    v_name text := format('%I.%I', hotmesh._app_here(), hotmesh._graph_name(graph.id) || '_step');
    v_step hotmesh.plan_step;
begin
    if to_regproc(v_name) is null then
        perform hotmesh._plan_compile(graph);
    end if;
    execute format('select (%s($1, $2, $3, $4, $5, $6, $7)).*', v_name) into v_step
    using activity, leg, '{200}'::integer[], '{}'::jsonb, ',0', self, job;
    return v_step;
end
$$;

-- 86_child.sql
create or replace function hotmesh._child_policy(policy text)
returns text
language plpgsql
as $$
begin
    if policy not in ('terminate', 'cancel', 'abandon') then
        perform hotmesh._refuse_argument(
            format('unknown parent_close_policy: %s', left(policy, 60)),
            'Policies: terminate, cancel, abandon.', 'Leave it out for abandon.');
    end if;
    return coalesce(policy, 'abandon');
end
$$;

-- {workflow, key, args, queue, entity, options, close_policy, outcome}: `outcome` is the step that
-- the child's end answers, while this one tells that it was started; without, this one is.
create or replace function hotmesh._child_effect(step hotmesh.jobs_attributes)
returns jsonb
language plpgsql
as $$
declare
    v_about jsonb := step.value;
    v_parent hotmesh.jobs;
    v_request hotmesh.job_request;
begin
    select (j::hotmesh.jobs).* into v_parent from jobs j where j.id = step.job_id;
    v_request.workflow := v_about ->> 'workflow';
    v_request.key := v_about ->> 'key';
    v_request.args := v_about -> 'args';
    v_request.queue := coalesce(v_about ->> 'queue', v_parent.queue);
    v_request.entity := v_about ->> 'entity';
    v_request.options := v_about -> 'options';
    v_request := hotmesh._start_request(
        v_request, hotmesh._setting('value_limit', 16777216));
    v_request.parent_id := v_parent.id;
    v_request.parent_dimension := step.dimension;
    v_request.parent_sequence := coalesce((v_about ->> 'outcome')::integer, step.sequence);
    v_request.origin_id := coalesce(v_parent.origin_id, v_parent.id);
    v_request.close_policy := hotmesh._child_policy(v_about ->> 'close_policy');
    perform hotmesh._child_refuse_existing(v_request);
    if v_about ->> 'queue' is null and hotmesh._graph_answers(v_request.workflow) then
        perform hotmesh._child_publish(v_request);
    else
        perform hotmesh._child_start(v_request);
    end if;
    return case when v_about ? 'outcome' then to_jsonb(v_request.key) end;
end
$$;

-- A child that goes through a graph: what needs no worker is done at once. Its data is the one
-- argument, if that is an object.
create or replace function hotmesh._child_publish(request hotmesh.job_request)
returns void
language plpgsql
as $$
declare
    v_graph hotmesh.graphs := hotmesh._graph_get(request.workflow);
    v_before text := hotmesh._child_adopt(request);
    v_data jsonb := case
        when request.args = '[]' then '{}'
        when jsonb_array_length(request.args) = 1 and jsonb_typeof(request.args -> 0) = 'object'
            then request.args -> 0
        else jsonb_build_object('args', request.args) end;
begin
    if v_before = 'adopted' then
        return;
    elsif v_before = 'failed' then
        request.options := request.options || '{"on_conflict": "replace"}';
    end if;
    perform hotmesh._errand_go('{}', array[hotmesh._subflow_open(
        v_graph, hotmesh._subflow_request(v_graph, request.workflow, v_data, request))]);
end
$$;

-- The parent's function is run again and asks for the child that this very step started before: it
-- goes on, or tells its end once more, unless it has failed: then it is run anew.
create or replace function hotmesh._child_adopt(request hotmesh.job_request)
returns text
language plpgsql
as $$
declare
    v_child hotmesh.jobs := hotmesh._job_find(request.key);
begin
    if v_child.id is null or v_child.parent_id is distinct from request.parent_id
        or v_child.parent_dimension is distinct from request.parent_dimension
        or v_child.parent_sequence is distinct from request.parent_sequence
    then
        return 'none';
    elsif v_child.status < 0 then
        return 'failed';
    elsif v_child.closed_at is not null then
        perform hotmesh._close_tell(array[v_child.id]);
    end if;
    return 'adopted';
end
$$;

-- Whoever starts a job of the same key in an open transaction may not hold up a turn for long: then
-- the effect is tried again later (88).
create or replace function hotmesh._child_start(request hotmesh.job_request)
returns void
language plpgsql
as $$
declare
    v_patience text := current_setting('lock_timeout');
    v_before text := hotmesh._child_adopt(request);
begin
    if v_before = 'adopted' then
        return;
    elsif v_before = 'failed' then
        request.options := request.options || '{"on_conflict": "replace"}';
    end if;
    perform set_config('lock_timeout', '40ms', true);
    perform hotmesh._start_open(array[request]);
    perform set_config('lock_timeout', v_patience, true);
end
$$;

create or replace function hotmesh._child_refuse_existing(request hotmesh.job_request)
returns void
language plpgsql
as $$
begin
    if request.options ->> 'on_conflict' = 'existing' then
        perform hotmesh._refuse_argument(
            'a child can''t be a job that exists', format('The key was %s.', request.key),
            'Use on_conflict reject or replace; a job that exists has a parent or none already.');
    end if;
end
$$;

-- 86_schedule.sql
create or replace function hotmesh._schedule_refuse_missing(name text)
returns void
language plpgsql
as $$
begin
    raise exception 'schedule % not found', hotmesh._named(name) using
        errcode = 'MSH86',
        detail = 'No schedule of this app has this name.',
        hint = 'hotmesh.schedule_list shows those there are.';
end
$$;

create or replace function hotmesh._schedule_refuse_taken(name text)
returns void
language plpgsql
as $$
begin
    raise exception 'schedule "%" already exists', name using
        errcode = 'MSH87',
        detail = 'Names of schedules are unique within an app.',
        hint = 'Choose another name, or the option on_conflict existing (leaves it as it is) or '
               || 'replace (changes it).';
end
$$;

-- An instant among the options; one without an offset is read in the schedule's time zone.
create or replace function hotmesh._schedule_instant(options jsonb, name text, zone text)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_parts constant text[] := regexp_match(
        options ->> name,
        '^(\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?)'
        || '( ?(?:Z|[+-]\d\d(?::?\d\d)?))?$');
begin
    if options ->> name is not null and v_parts is null then
        perform hotmesh._refuse_argument(
            format('%s is no instant: %s', name, left(options ->> name, 60)),
            'An instant is a text such as "2027-03-28T02:30:00+01:00".',
            'Leave it out for no limit.');
    end if;
    return case when v_parts[2] is null then v_parts[1]::timestamp at time zone zone
                else (v_parts[1] || v_parts[2])::timestamptz end;
end
$$;

-- The options that are the schedule's own; the rest belongs to each start.
create or replace function hotmesh._schedule_own()
returns text[]
language sql
immutable
parallel safe
as $$
    select '{offset,start_at,end_at,catchup_window,entity,note,paused,on_conflict}'::text[]
$$;

create or replace function hotmesh._schedule_check_options(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
declare
    v_options constant jsonb := schedule.options;
    v_window interval := hotmesh._duration(v_options -> 'catchup_window', 'catchup_window');
begin
    if jsonb_typeof(v_options) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'options are no JSON object', left(v_options::text, 200), 'Give {"note": "…"}.');
    end if;
    perform hotmesh._duration(v_options -> 'offset', 'offset'),
            hotmesh._schedule_instant(v_options, 'start_at', schedule.timezone),
            hotmesh._schedule_instant(v_options, 'end_at', schedule.timezone);
    if v_window < interval '10 s' then
        perform hotmesh._refuse_argument(
            format('catchup_window is too short: %s', v_window),
            'Every start is a little late: a window has at least 10 s.',
            'Leave it out: then a tick that is up to a minute late starts, and of older ones the '
            || 'last.');
    elsif coalesce(v_options ->> 'on_conflict', 'reject') not in ('reject', 'existing', 'replace')
    then
        perform hotmesh._refuse_argument(
            format('unknown on_conflict: %s', left(v_options ->> 'on_conflict', 60)),
            'What to do when there is a schedule of this name: reject, existing, replace.',
            'Leave it out for reject.');
    elsif jsonb_typeof(coalesce(v_options -> 'paused', 'false')) <> 'boolean' then
        perform hotmesh._refuse_argument(
            'paused is no boolean', left((v_options -> 'paused')::text, 60), 'Say true or false.');
    end if;
end
$$;

create or replace function hotmesh._schedule_check(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
begin
    if octet_length(schedule.name) is null
        or octet_length(schedule.name) not between 1 and 500 then
        perform hotmesh._refuse_argument(
            'a schedule needs a name of 1 to 500 bytes',
            format('It was %s.', coalesce(quote_literal(left(schedule.name, 60)), 'null')),
            'The keys of its jobs begin with it.');
    elsif (schedule.cron is null) = (schedule.every is null) then
        perform hotmesh._refuse_argument(
            format('schedule "%s" needs either cron or every', schedule.name),
            format('cron was %s, every was %s.', coalesce(left(schedule.cron, 60), 'null'),
                   coalesce(schedule.every::text, 'null')),
            'For instance cron => ''30 2 * * *'', or every => ''15 minutes''.');
    elsif schedule.every is not null and (
        extract(year from schedule.every) <> 0 or extract(month from schedule.every) <> 0
        or schedule.every not between interval '100 ms' and interval '3650 days')
    then
        perform hotmesh._refuse_argument(
            format('bad every: %s', schedule.every),
            'An interval has a fixed length, from 100 ms to 3650 days.',
            'Months and years are a crontab line: @monthly, @yearly.');
    elsif schedule.overlap is null
        or schedule.overlap not in ('skip', 'buffer_one', 'buffer_all', 'allow_all', 'cancel_other',
                                    'terminate_other') then
        perform hotmesh._refuse_argument(
            format('unknown overlap: %s', left(schedule.overlap, 60)),
            'While an earlier job of the schedule is open, a tick is dropped (skip), waits '
            || '(buffer_one, buffer_all), starts all the same (allow_all), or ends that job and '
            || 'takes its place (cancel_other, terminate_other).',
            'Leave it out for skip.');
    end if;
end
$$;

-- What the job of a tick is called, and what it knows of its tick.
create or replace function hotmesh._schedule_stamp(tick timestamptz)
returns text
language sql
stable
as $$
    select rtrim(rtrim(to_char(tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.')
        || 'Z'
$$;

-- The start of one tick, checked as any start is. It says where it comes from.
create or replace function hotmesh._schedule_request(
    schedule hotmesh.schedules, tick timestamptz)
returns hotmesh.job_request
language plpgsql
as $$
declare
    v_stamp constant text := hotmesh._schedule_stamp(tick);
    v_options constant jsonb := schedule.options - hotmesh._schedule_own();
    v_request hotmesh.job_request;
begin
    v_request.key := schedule.name || '-' || v_stamp;
    v_request.workflow := schedule.workflow;
    v_request.queue := schedule.queue;
    v_request.entity := schedule.options ->> 'entity';
    v_request.args := schedule.args;
    v_request.options := v_options || jsonb_build_object(
        'on_conflict', 'existing',
        'search', coalesce(nullif(v_options -> 'search', 'null'), '{}')
            || jsonb_build_object('schedule', schedule.name, 'scheduled_at', v_stamp));
    return hotmesh._start_request(v_request, hotmesh._setting('value_limit', 16777216));
end
$$;

-- The next tick after an instant, or with step -1 the last one up to it.
create or replace function hotmesh._schedule_near(
    schedule hotmesh.schedules, at timestamptz, step integer)
returns timestamptz
language plpgsql
stable
as $$
declare
    v_every constant numeric := extract(epoch from schedule.every);
    v_offset constant numeric := extract(epoch from coalesce(
        hotmesh._duration(schedule.options -> 'offset', 'offset'), '0'));
    v_start constant timestamptz := hotmesh._schedule_instant(
        schedule.options, 'start_at', schedule.timezone);
    v_end constant timestamptz := hotmesh._schedule_instant(
        schedule.options, 'end_at', schedule.timezone);
    v_tick timestamptz;
begin
    at := case when step > 0 then greatest(at, v_start - interval '1 microsecond')
               else least(at, v_end) end;
    if schedule.cron is not null then
        v_tick := hotmesh._cron_near(
            hotmesh._cron_parse(schedule.cron), schedule.timezone, at, step);
    else
        v_tick := timestamptz 'epoch' + make_interval(secs => (v_offset + v_every * (
            floor((extract(epoch from at)::numeric - v_offset) / v_every)
            + case when step > 0 then 1 else 0 end))::double precision);
    end if;
    return case when v_tick < v_start or v_tick > v_end then null else v_tick end;
end
$$;

-- Its next tick, as found from where the clock is now.
create or replace function hotmesh._schedule_plan(
    schedule hotmesh.schedules, next_tick timestamptz)
returns hotmesh.schedules
language plpgsql
as $$
begin
    schedule.planned_at := hotmesh.now();
    schedule.updated_at := schedule.planned_at;
    schedule.next_tick := _schedule_plan.next_tick;
    schedule.due_at := case
        when schedule.paused_at is not null then null
        when schedule.buffered <> '{}'
            then least(schedule.next_tick, schedule.planned_at + interval '1 s')
        else schedule.next_tick end;
    return schedule;
end
$$;

create or replace function hotmesh._schedule_save(schedule hotmesh.schedules)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_row hotmesh.schedules;
begin
    update schedules s
    set workflow = schedule.workflow, args = schedule.args, queue = schedule.queue,
        cron = schedule.cron, every = schedule.every, timezone = schedule.timezone,
        overlap = schedule.overlap, options = schedule.options, note = schedule.note,
        paused_at = schedule.paused_at, error = schedule.error, last_tick = schedule.last_tick,
        next_tick = schedule.next_tick, due_at = schedule.due_at,
        planned_at = schedule.planned_at, buffered = schedule.buffered,
        running = schedule.running, started = schedule.started, skipped = schedule.skipped,
        updated_at = schedule.updated_at
    where s.name = schedule.name
    returning (s::hotmesh.schedules).* into v_row;
    return v_row;
end
$$;

-- Its row, locked. Only doors wait here; a turn takes what is free.
create or replace function hotmesh._schedule_hold(name text)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_row hotmesh.schedules;
begin
    select (s::hotmesh.schedules).* into v_row
    from schedules s
    where s.name = _schedule_hold.name
    for update;
    if v_row.name is null then
        perform hotmesh._schedule_refuse_missing(name);
    end if;
    return v_row;
end
$$;

create or replace function hotmesh._schedule_add(schedule hotmesh.schedules)
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_policy constant text := coalesce(schedule.options ->> 'on_conflict', 'reject');
    v_row hotmesh.schedules;
begin
    insert into schedules as s (
        name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at,
        next_tick, due_at, planned_at, created_at, updated_at)
    values (schedule.name, schedule.workflow, schedule.args, schedule.queue, schedule.cron,
            schedule.every, schedule.timezone, schedule.overlap, schedule.options, schedule.note,
            schedule.paused_at, schedule.next_tick, schedule.due_at, schedule.planned_at,
            schedule.planned_at, schedule.updated_at)
    on conflict (name) do nothing
    returning (s::hotmesh.schedules).* into v_row;
    if v_row.name is null then
        if v_policy = 'reject' then
            perform hotmesh._schedule_refuse_taken(schedule.name);
        elsif v_policy = 'existing' then
            select (s::hotmesh.schedules).* into v_row
            from schedules s
            where s.name = schedule.name;
        else
            v_row := hotmesh._schedule_hold(schedule.name);
            schedule.last_tick := v_row.last_tick;
            schedule.running := v_row.running;
            schedule.started := v_row.started;
            schedule.skipped := v_row.skipped;
            schedule.buffered := '{}';
            v_row := hotmesh._schedule_save(schedule);
        end if;
    end if;
    return v_row;
end
$$;

create or replace function hotmesh.schedule_create(
    app text, name text, workflow text, args jsonb default '[]', queue text default null,
    cron text default null, every interval default null, timezone text default 'UTC',
    overlap text default 'skip', options jsonb default '{}')
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row.name := name;
    v_row.workflow := workflow;
    v_row.args := args;
    v_row.queue := queue;
    v_row.cron := btrim(cron, E' \t\r\n');
    v_row.every := every;
    v_row.timezone := hotmesh._cron_zone(timezone);
    v_row.overlap := overlap;
    v_row.options := coalesce(nullif(options, 'null'), '{}');
    perform hotmesh._job_check_size('options', options);
    v_row.note := options ->> 'note';
    v_row.buffered := '{}';
    perform hotmesh._schedule_check(v_row);
    perform hotmesh._schedule_check_options(v_row);
    perform hotmesh._schedule_request(v_row, hotmesh.now());
    v_row.paused_at := case when options ->> 'paused' = 'true' then hotmesh.now() end;
    v_row := hotmesh._schedule_plan(v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1));
    if v_row.next_tick is null then
        perform hotmesh._refuse_argument(
            format('schedule "%s" would never start anything', name),
            format('%s has no tick between now and %s.', coalesce(cron, every::text),
                   coalesce(options ->> 'end_at', '40 years from now')),
            'Check day and month, and end_at.');
    end if;
    return hotmesh._schedule_add(v_row);
end
$$;
comment on function hotmesh.schedule_create(
    text, text, text, jsonb, text, text, interval, text, text, jsonb) is
'Start a workflow again and again: at each tick of `cron` (five fields, or @hourly to @yearly) in
`timezone`, or `every` so often, counted from 1970-01-01 UTC. The key of a job is
<name>-<tick in UTC>. overlap, while a job of it is open: skip, buffer_one, buffer_all, allow_all,
cancel_other (waits until it has ended), terminate_other.
options: those of job_start, entity, offset (moves an interval), start_at, end_at, catchup_window
(after downtime all ticks that it covers start; by default the last), note, paused, on_conflict
(reject, existing, replace). Raises MSH87 if there is one of this name, 22023 for bad arguments.';

create or replace function hotmesh.schedule_pause(app text, name text, note text default null)
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row := hotmesh._schedule_hold(name);
    v_row.paused_at := coalesce(v_row.paused_at, hotmesh.now());
    perform hotmesh._job_check_size('the note', to_jsonb(note));
    v_row.note := coalesce(schedule_pause.note, v_row.note);
    v_row.buffered := '{}';
    return hotmesh._schedule_save(hotmesh._schedule_plan(
        v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1)));
end
$$;
comment on function hotmesh.schedule_pause(text, text, text) is
'Stop starting; open jobs go on, ticks that wait for them are dropped. Raises MSH86.';

create or replace function hotmesh.schedule_resume(app text, name text, note text default null)
returns hotmesh.schedules
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row hotmesh.schedules;
begin
    perform hotmesh._enter(app);
    v_row := hotmesh._schedule_hold(name);
    if v_row.paused_at is null then
        return v_row;
    end if;
    v_row.paused_at := null;
    v_row.error := null;
    perform hotmesh._job_check_size('the note', to_jsonb(note));
    v_row.note := coalesce(schedule_resume.note, v_row.note);
    return hotmesh._schedule_save(hotmesh._schedule_plan(
        v_row, hotmesh._schedule_near(v_row, hotmesh.now(), 1)));
end
$$;
comment on function hotmesh.schedule_resume(text, text, text) is
'Go on with the next tick; those that passed while it was paused are not made up for (see
schedule_backfill). Raises MSH86.';

create or replace function hotmesh.schedule_delete(app text, name text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    delete from schedules s where s.name = schedule_delete.name;
    if not found then
        perform hotmesh._schedule_refuse_missing(name);
    end if;
end
$$;
comment on function hotmesh.schedule_delete(text, text) is
'Drop a schedule; the jobs that it started stay. Raises MSH86.';

create or replace function hotmesh.schedule_list(app text, name text default null)
returns setof hotmesh.schedules
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select (r::hotmesh.schedules).*
    from schedules s
    cross join lateral jsonb_populate_record(s::hotmesh.schedules, jsonb_build_object(
        'running', (
            select coalesce(jsonb_agg(j.key), '[]') from jobs j
            where j.key = any (s.running) and j.closed_at is null))) r
    where schedule_list.name is null or s.name = schedule_list.name
    order by s.name;
end
$$;
comment on function hotmesh.schedule_list(text, text) is
'The schedules of an app by name, or the one of that name: when each ticks next, whether and why it
is paused.';

-- 87_order.sql
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

-- 87_pub.sql
create or replace function hotmesh._pub_check(data jsonb)
returns void
language plpgsql
as $$
begin
    if jsonb_typeof(data) <> 'object' then
        perform hotmesh._refuse_argument(
            format('the data of a job is no object: %s', left(data::text, 100)),
            format('It is of type %s; mappings read its fields.', jsonb_typeof(data)),
            'Wrap it: {"items": […]}; without data leave it out.');
    end if;
end
$$;

create or replace function hotmesh.graph_pub(
    app text, topic text, data jsonb default '{}', key text default null,
    options jsonb default '{}')
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_graph hotmesh.graphs;
    v_request hotmesh.job_request;
    v_walk hotmesh.walk;
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    perform hotmesh._pub_check(data);
    v_graph := hotmesh._graph_get(topic);
    v_request.key := key;
    v_request.options := options;
    v_request := hotmesh._subflow_request(v_graph, topic, coalesce(data, '{}'), v_request);
    v_walk := hotmesh._subflow_open(v_graph, v_request);
    if v_walk.job_id is not null then
        perform hotmesh._errand_go('{}', array[v_walk]);
        perform hotmesh._worker_wake_useful('');
    end if;
    select (j::hotmesh.jobs).* into v_job from jobs j where j.key = v_request.key;
    return v_job;
end
$$;
comment on function hotmesh.graph_pub(text, text, jsonb, text, jsonb) is
'Start a job of the graph that answers a topic, in the caller''s transaction; what needs no worker
is done when it returns. data is an object, {} by default. options: on_conflict (reject, existing,
replace), expire, search, parent. Raises MSH22 if no graph answers, MSH41 for a duplicate key.';

create or replace function hotmesh.graph_signal(
    app text, topic text, data jsonb, status text default null, code integer default 200)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint := nextval('hotmesh.ids');
begin
    perform hotmesh._enter(app);
    perform hotmesh._job_check_size('the data', data);
    perform hotmesh._signal_publish(
        hotmesh._errand_signal_name(topic, coalesce(data, '{}')),
        hotmesh._errand_answer(data, status, code), v_id);
    perform hotmesh._worker_wake_any();
    return v_id;
end
$$;
comment on function hotmesh.graph_signal(text, text, jsonb, text, integer) is
'Send to the hook that waits for a topic, or will: the rule of the hook finds it by the data. Code
202 leaves the hook open for more. Raises MSH22 if no active graph has such a hook.';

create or replace function hotmesh.graph_signal_all(
    app text, topic text, data jsonb, query jsonb default '{}', facets text[] default '{}')
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
begin
    perform hotmesh._enter(app);
    perform hotmesh._job_check_size('the data', data);
    v_ids := hotmesh._errand_signal_all(
        topic, hotmesh._errand_answer(data, null, 200), query, facets);
    perform hotmesh._worker_wake_any();
    return cardinality(v_ids);
end
$$;
comment on function hotmesh.graph_signal_all(text, text, jsonb, jsonb, text[]) is
'Send to every job that waits for a topic; with a query or facets only to those that they find, as
graph_ids does, of all time unless the query says otherwise. Returns to how many. Raises MSH22 if no
active graph has such a hook, 22023 for a query or a facet that makes no sense.';

create or replace function hotmesh.graph_call(app text, id bigint, token integer)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_asked jsonb;
begin
    perform hotmesh._enter(app);
    select s.args -> 0 into v_asked
    from streams s
    where s.id = graph_call.id and s.token = graph_call.token and s.queue = '@sql'
      and s.kind = 'activity' and s.state = 'leased';
    if v_asked is null then
        perform hotmesh._refuse_argument(
            'that is no call of a function, or it is another worker''s',
            format('The message is %L, its token %L.', id, token),
            'Claim from the queue "@sql"; give the id and the token of the message.');
    end if;
    return jsonb_build_object('$called', hotmesh._subflow_call(v_asked));
end
$$;
comment on function hotmesh.graph_call(text, bigint, integer) is
'Call the function of an activity of type sql, for a message that was claimed from the queue @sql.
Complete the message with what it answers, in the same transaction; bound that by a
statement_timeout.';

create or replace function hotmesh.graph_add(app text, response jsonb)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_step hotmesh.jobs_attributes;
begin
    perform hotmesh._enter(app);
    if response #>> '{metadata,jid}' is null or response #>> '{metadata,aid}' is null
        or response #>> '{metadata,dad}' is null
    then
        perform hotmesh._refuse_argument(
            'a response needs the metadata of its task', left(response::text, 200),
            'Give {"metadata": …, "data": …}, with the metadata as the worker got it.');
    end if;
    perform hotmesh._job_check_size('the response', response);
    v_job := hotmesh._job_find(response #>> '{metadata,jid}');
    select (a::hotmesh.jobs_attributes).* into v_step
    from jobs_attributes a
    where a.job_id = v_job.id and a.name = response #>> '{metadata,aid}'
      and a.dimension = response #>> '{metadata,dad}' and a.state = 'open';
    if v_step.job_id is null then
        return 'stale';
    end if;
    perform hotmesh._inbox_told(
        v_job.id, v_step.dimension, v_step.sequence,
        jsonb_build_object('output', response - 'metadata'), 'ready');
    perform hotmesh._worker_wake_any();
    return 'ok';
end
$$;
comment on function hotmesh.graph_add(text, jsonb) is
'A later answer of a worker that answered `pending`: the whole response, with its metadata. Answers
ok, or stale if nothing waits for it any more.';

-- 87_tick.sql
-- The ticks up to now that are to be dealt with, oldest first, at most 100 at a time; and as the
-- last element the one after them, null if there is none.
create or replace function hotmesh._tick_due(schedule hotmesh.schedules, at timestamptz)
returns timestamptz[]
language plpgsql
as $$
declare
    v_window constant interval :=
        hotmesh._duration(schedule.options -> 'catchup_window', 'catchup_window');
    v_from constant timestamptz := at - coalesce(v_window, '1 minute');
    v_tick timestamptz := schedule.next_tick;
    v_due timestamptz[] := '{}';
begin
    if v_tick < v_from then
        v_tick := hotmesh._schedule_near(schedule, v_from - interval '1 microsecond', 1);
        if v_window is null and (v_tick is null or v_tick > at) then
            v_tick := hotmesh._schedule_near(schedule, at, -1);
        end if;
    end if;
    while v_tick <= at and cardinality(v_due) < 100 loop
        v_due := v_due || v_tick;
        v_tick := hotmesh._schedule_near(schedule, v_tick, 1);
    end loop;
    return v_due || v_tick;
end
$$;

-- Those ticks that have no job yet: the clock may have gone back, or they were backfilled.
create or replace function hotmesh._tick_fresh(name text, ticks timestamptz[])
returns timestamptz[]
language plpgsql
as $$
begin
    return array(
        select t
        from unnest(ticks) t
        where not exists (
            select from jobs_all j where j.key = name || '-' || hotmesh._schedule_stamp(t))
        order by t);
end
$$;

create or replace function hotmesh._tick_start(schedule hotmesh.schedules, ticks timestamptz[])
returns text[]
language plpgsql
as $$
declare
    v_requests hotmesh.job_request[] := array(
        select hotmesh._schedule_request(schedule, t) from unnest(ticks) t);
begin
    if ticks <> '{}' then
        perform hotmesh._start_open(v_requests);
    end if;
    return array(select r.key from unnest(v_requests) r);
end
$$;

-- Asks the open jobs of a schedule to make way for the next.
create or replace function hotmesh._tick_stop(schedule hotmesh.schedules, how text)
returns void
language plpgsql
as $$
begin
    perform hotmesh._inbox_put(j.id, '', how, jsonb_build_object(
        'reason', format('the next tick of schedule "%s" has come', schedule.name)))
    from jobs j
    where j.key = any (schedule.running) and j.closed_at is null;
end
$$;

-- Starts what the policy lets start now; the rest is buffered or dropped.
create or replace function hotmesh._tick_serve(schedule hotmesh.schedules, ticks timestamptz[])
returns hotmesh.schedules
language plpgsql
as $$
declare
    v_stop constant text := case schedule.overlap
        when 'cancel_other' then 'cancel' when 'terminate_other' then 'interrupt' end;
    v_todo timestamptz[] := schedule.buffered || ticks;
    v_all constant integer := cardinality(v_todo);
    v_take constant integer := case
        when schedule.overlap = 'allow_all' then v_all
        when schedule.running = '{}' or v_stop = 'interrupt' then 1 else 0 end;
    v_keep constant integer := case
        when schedule.overlap in ('buffer_one', 'cancel_other') then 1
        when schedule.overlap = 'buffer_all' then 1000 else 0 end;
    v_keys text[];
begin
    if v_stop is not null then
        v_todo := v_todo[v_all:];
        if ticks <> '{}' then
            perform hotmesh._tick_stop(schedule, v_stop);
        end if;
    end if;
    v_keys := hotmesh._tick_start(schedule, v_todo[1:v_take]);
    schedule.started := schedule.started + cardinality(v_keys);
    schedule.buffered := v_todo[v_take + 1:v_take + v_keep];
    schedule.skipped := schedule.skipped
        + v_all - cardinality(v_keys) - cardinality(schedule.buffered);
    if schedule.overlap <> 'allow_all' then
        schedule.running := schedule.running || v_keys;
    end if;
    return schedule;
end
$$;

-- What a turn does with a schedule that it holds. A start that failed (93) pauses it, so that it
-- costs nobody else anything.
create or replace function hotmesh._tick_move(schedule hotmesh.schedules, error jsonb)
returns void
language plpgsql
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_due timestamptz[];
    v_next timestamptz;
begin
    if schedule.planned_at > v_now + interval '1 minute' then
        v_due := array[hotmesh._schedule_near(schedule, v_now, 1)];  -- the clock went back
    else
        v_due := hotmesh._tick_due(schedule, v_now);
    end if;
    v_next := v_due[cardinality(v_due)];
    v_due := v_due[:cardinality(v_due) - 1];
    schedule.running := array(
        select j.key from jobs j where j.key = any (schedule.running) and j.closed_at is null);
    if error is null then
        schedule := hotmesh._tick_serve(schedule, hotmesh._tick_fresh(schedule.name, v_due));
    else
        schedule.paused_at := v_now;
        schedule.error := error;
    end if;
    schedule.last_tick := coalesce(v_due[cardinality(v_due)], schedule.last_tick);
    perform hotmesh._schedule_save(hotmesh._schedule_plan(schedule, v_next));
end
$$;

-- Schedules that are due, or whose plan is of a time to come.
create or replace function hotmesh._tick_names(at timestamptz, take integer)
returns text[]
language plpgsql
as $$
begin
    return array(
        select s.name from schedules s
        where s.due_at <= at
        order by s.due_at
        limit take)
    || array(
        select s.name from schedules s
        where s.due_at is not null and s.planned_at > at + interval '1 minute'
        order by s.planned_at desc
        limit take);
end
$$;

-- Takes schedules for which something is to be done, and that nobody holds.
create or replace function hotmesh._tick_take(take integer)
returns hotmesh.schedules[]
language plpgsql
as $$
declare
    v_now constant timestamptz := hotmesh.now();
    v_names text[];
begin
    if not exists (select from schedules s where s.due_at <= v_now)
        and not exists (
            select from schedules s
            where s.due_at is not null and s.planned_at > v_now + interval '1 minute')
    then
        return '{}';
    end if;
    v_names := hotmesh._tick_names(v_now, take);
    return array(
        select (s::hotmesh.schedules)
        from schedules s
        where s.name = any (v_names)
          and (s.due_at <= v_now
               or s.due_at is not null and s.planned_at > v_now + interval '1 minute')
        order by s.due_at
        for update skip locked);
end
$$;

-- Seconds until the next schedule is due.
create or replace function hotmesh._tick_next_due()
returns double precision
language plpgsql
as $$
begin
    return (
        select greatest(0, extract(epoch from s.due_at - hotmesh.now()))
        from schedules s
        where s.due_at is not null
        order by s.due_at
        limit 1);
end
$$;

create or replace function hotmesh.schedule_trigger(app text, name text)
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule hotmesh.schedules;
    v_keys text[];
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_schedule := hotmesh._schedule_hold(name);
    v_keys := hotmesh._tick_start(v_schedule, array[hotmesh.now()]);
    v_schedule.started := v_schedule.started + 1;
    if v_schedule.overlap <> 'allow_all' then
        v_schedule.running := v_schedule.running || v_keys;
    end if;
    perform hotmesh._schedule_save(v_schedule);
    select (j::hotmesh.jobs).* into v_job from jobs j where j.key = v_keys[1];
    return v_job;
end
$$;
comment on function hotmesh.schedule_trigger(text, text) is
'Start the workflow of a schedule now, paused or not, whatever is open; its next ticks stay as they
are. Raises MSH86.';

create or replace function hotmesh._tick_check_range(start_at timestamptz, end_at timestamptz)
returns void
language plpgsql
as $$
begin
    if start_at is null or end_at is null or not isfinite(start_at) or start_at > end_at
        or end_at > hotmesh.now()
    then
        perform hotmesh._refuse_argument(
            'a backfill needs a time that has passed',
            format('It goes from %s to %s.', coalesce(start_at::text, 'null'),
                   coalesce(end_at::text, 'null')),
            'Both ends count: start_at => ''2027-03-01'', end_at => ''2027-03-08''.');
    end if;
end
$$;

create or replace function hotmesh.schedule_backfill(
    app text, name text, start_at timestamptz, end_at timestamptz)
returns setof hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule hotmesh.schedules;
    v_tick timestamptz;
    v_ticks timestamptz[] := '{}';
    v_keys text[];
begin
    perform hotmesh._enter(app);
    v_schedule := hotmesh._schedule_hold(name);
    perform hotmesh._tick_check_range(start_at, end_at);
    v_tick := hotmesh._schedule_near(
        v_schedule, schedule_backfill.start_at - interval '1 microsecond', 1);
    while v_tick <= schedule_backfill.end_at and cardinality(v_ticks) <= 1000 loop
        v_ticks := v_ticks || v_tick;
        v_tick := hotmesh._schedule_near(v_schedule, v_tick, 1);
    end loop;
    if cardinality(v_ticks) > 1000 then
        perform hotmesh._refuse_argument(
            format('there are more than 1000 ticks between %s and %s', start_at, end_at),
            'Nothing was started: one call makes up for at most 1000.', 'Take it in parts.');
    end if;
    v_keys := hotmesh._tick_start(v_schedule, hotmesh._tick_fresh(name, v_ticks));
    v_schedule.started := v_schedule.started + cardinality(v_keys);
    perform hotmesh._schedule_save(v_schedule);
    return query
    select (j::hotmesh.jobs).* from jobs j where j.key = any (v_keys) order by j.key;
end
$$;
comment on function hotmesh.schedule_backfill(text, text, timestamptz, timestamptz) is
'Start what a schedule would have started in a time that has passed, both ends included, all at
once; ticks that have a job already are left out. Returns the jobs that it started; at most 1000 in
one call. Raises MSH86, 22023.';

-- 88_again.sql
-- What is forgotten loses its messages, and gives back the signals that it had taken.
create or replace function hotmesh._again_forget(job_id bigint, dimension text)
returns void
language plpgsql
as $$
declare
    v_gone hotmesh.jobs_attributes[] := hotmesh._attribute_forget(job_id, dimension);
begin
    perform hotmesh._stream_cancel(
            array_agg(g.job_id), array_agg(g.dimension), array_agg(g.sequence)),
        hotmesh._signal_give_back(hotmesh._inbox_withdraw(
            array_agg(g.job_id), array_agg(g.dimension), array_agg(g.sequence)), '{}')
    from unnest(v_gone) g
    where g.state = 'open' having count(*) > 0;
    perform hotmesh._signal_unwait(
        array_agg(g.job_id), array_agg(g.dimension), array_agg(g.sequence))
    from unnest(v_gone) g
    where g.kind = 'wait' and g.state = 'open' having count(*) > 0;
    perform hotmesh._again_resend(v_gone);
    perform hotmesh._hook_revive(g.job_id, g.name)
    from unnest(v_gone) g
    where g.kind = 'wait' and g.state = 'failed';
end
$$;

-- The signals that forgotten steps had taken are kept for the new run, before all others. What came
-- by name goes on to whoever waits if the job closes without it.
create or replace function hotmesh._again_resend(gone hotmesh.jobs_attributes[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._signal_send(
        w.job_id, w.name, jsonb_build_object('output', w.value)
            || case when w.by_name then jsonb_build_object('published', w.id) else '{}' end,
        w.id)
    from (
        select g.job_id, g.name, g.value,
               g.ledger = hotmesh._attribute_ledger('by name') as by_name,
               -nextval('hotmesh.ids') as id
        from (
            select s.* from unnest(gone) s
            where s.kind = 'wait' and s.state = 'done'
            order by s.cursor desc
            offset 0) g
        offset 0) w;
end
$$;

-- Signals and orders that were numbered for a function which started over without seeing them, and
-- orders that were not.
create or replace function hotmesh._again_return(
    job_id bigint, dimension text, seen bigint)
returns void
language plpgsql
as $$
begin
    perform hotmesh._signal_resend(array(
        select a::hotmesh.jobs_attributes from jobs_attributes a
        where a.job_id = _again_return.job_id and a.dimension = _again_return.dimension
          and a.kind = 'wait' and a.state = 'done' and a.cursor > seen));
    perform hotmesh._inbox_put(
        a.job_id, '', a.kind, coalesce(
            (select nullif(m.args -> 'output', 'null') from streams m
             where m.job_id = a.job_id and m.kind = 'event' and m.name = 'result'
               and m.dimension = a.dimension and m.sequence = a.sequence),
            nullif(a.value, 'null'), '{}') || jsonb_build_object('name', a.name))
    from jobs_attributes a
    where a.job_id = _again_return.job_id and a.dimension = _again_return.dimension
      and a.sequence <= 0 and (a.state = 'open' or a.cursor > seen)
    order by a.sequence desc;
end
$$;

-- continue_as_new: the function starts over with these arguments and an empty journal. What it has
-- not seen yet reaches it then.
create or replace function hotmesh._again_continue(report hotmesh.report)
returns void
language plpgsql
as $$
declare
    v_last integer := (
        select max(a.sequence) from jobs_attributes a
        where a.job_id = report.job_id and a.dimension = report.dimension);
    v_first integer := (select s.sequence from streams s where s.id = report.id);
    v_args jsonb := report.outcome -> 'again' -> 'args';
begin
    perform hotmesh._again_return(
        report.job_id, report.dimension, (report.outcome -> 'again' ->> 'seen')::bigint);
    perform hotmesh._close_functions(array[report.job_id], array[report.dimension], false);
    if report.dimension = '' then
        perform hotmesh._update_abandon(
            report.job_id, (report.outcome -> 'again' ->> 'seen')::bigint);
        perform hotmesh._archive_generation(report.job_id);
        perform hotmesh._lease_run_again(report.job_id);
        perform hotmesh._attribute_facts(array[report.job_id], '{input}', array[v_args]);
    else
        perform hotmesh._attribute_hook_again(report.job_id, report.dimension, v_args);
    end if;
    perform hotmesh._stream_again(report.id, greatest(v_last, v_first, 0));
end
$$;

-- Locks the waits of a function; false if somebody else has one this instant.
create or replace function hotmesh._again_hold(job_id bigint, dimension text)
returns boolean
language plpgsql
as $$
declare
    v_mine bigint[] := array(
        select w.id from signals w
        where (w.job_id, w.dimension) = (_again_hold.job_id, _again_hold.dimension)
        for update skip locked);
begin
    return not exists (
        select from signals w
        where (w.job_id, w.dimension) = (_again_hold.job_id, _again_hold.dimension)
          and w.id <> all (v_mine));
end
$$;

-- A run that failed is tried again. Steps are numbered as before, so a message of the old run that
-- could not be taken back would answer the new one's: then it is replayed as it is, fails once more
-- and comes here again.
create or replace function hotmesh._again_retry(report hotmesh.report)
returns void
language plpgsql
as $$
begin
    if hotmesh._inbox_hold(report.job_id, report.dimension)
        and hotmesh._again_hold(report.job_id, report.dimension)
    then
        perform hotmesh._again_forget(report.job_id, report.dimension);
        perform hotmesh._stream_delay(
            report.id, hotmesh._retry_delay(report.retry_policy, report.runs),
            report.outcome -> 'error' || jsonb_build_object('attempt', report.runs));
    else
        perform hotmesh._stream_delay(
            report.id, interval '100 ms',
            report.outcome -> 'error' || jsonb_build_object('attempt', report.runs - 1));
    end if;
end
$$;

-- A run that is to be replayed later: it met other code, its policy lets it try again, or it starts
-- over.
create or replace function hotmesh._again_run(report hotmesh.report)
returns void
language plpgsql
as $$
begin
    if report.outcome ? 'mismatch' then
        perform hotmesh._attribute_facts(
            array[report.job_id], array['mismatch'], array[report.outcome -> 'mismatch']);
        perform hotmesh._stream_delay(report.id, interval '5 s', report.outcome -> 'mismatch');
    elsif report.outcome ? 'again' then
        perform hotmesh._again_continue(report);
    else
        perform hotmesh._again_retry(report);
    end if;
end
$$;

-- 88_effect.sql
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

-- 89_fork.sql
-- The start that a fork asks for: what it does not say is as it was in the other job.
create or replace function hotmesh._fork_request(key text, request hotmesh.job_request)
returns hotmesh.job_request
language plpgsql
stable
as $$
declare
    v_id bigint;
begin
    select j.id, coalesce(request.workflow, j.topic), coalesce(request.queue, j.queue),
           coalesce(request.entity, j.entity)
    into v_id, request.workflow, request.queue, request.entity
    from jobs_all j
    where j.key = _fork_request.key
    order by j.id desc
    limit 1;
    request.args := coalesce(request.args, (
        select a.value from jobs_attributes_all a where a.job_id = v_id and a.field = 'input'));
    return request;
end
$$;

create or replace function hotmesh.entity_fork(
    app text, key text, version bigint default null, new_key text default null,
    workflow text default null, args jsonb default null, queue text default null,
    entity text default null, options jsonb default '{}')
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb;
    v_from hotmesh.entity_log;
    v_document jsonb;
    v_request hotmesh.job_request;
    v_job hotmesh.jobs;
begin
    v_settings := hotmesh._enter(app);
    v_from := hotmesh._history_job(key);
    version := coalesce(version, v_from.version);
    v_document := hotmesh._history_at(key, v_from, version);
    v_request.key := new_key;
    v_request.workflow := workflow;
    v_request.queue := queue;
    v_request.entity := entity;
    v_request.args := args;
    v_request.options := options;
    v_request := hotmesh._start_request(
        hotmesh._fork_request(key, v_request), hotmesh._setting('value_limit', 16777216));
    v_request.id := (hotmesh._start_open(array[v_request]))[1];
    if (hotmesh._job_find(v_request.key)).entity_version = 0 then
        perform hotmesh._entity_do(
            v_settings, v_request.key, 'fork', null, v_document, null);
        perform hotmesh._attribute_facts(
            array[v_request.id], '{forked_from}',
            array[jsonb_build_object('key', key, 'version', version)]);
    end if;
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = v_request.id;
    return v_job;
end
$$;
comment on function hotmesh.entity_fork(
    text, text, bigint, text, text, jsonb, text, text, jsonb) is
'Start a job whose entity begins as that of `key` was at a version (by default as it is). Workflow,
arguments, queue and entity are those of that job unless given. Raises as job_start and entity_at.';

-- 89_progress.sql
-- The journal rows of what the code asks for.
create or replace function hotmesh._progress_asked(reports hotmesh.report[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (r.job_id, null, case c.kind when 'child' then c.args -> 'key' end, c.kind, c.name,
                case c.kind when 'patch' then 'done' else 'open' end, r.dimension, c.sequence,
                null, 0, null, null)::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, args jsonb)
        where r.commands is not null and c.kind <> 'cancel');
end
$$;

create or replace function hotmesh._progress_messages(
    reports hotmesh.report[], worker text, lease interval)
returns hotmesh.streams[]
language plpgsql
as $$
declare
    v_now timestamptz := hotmesh.now();
begin
    return array(
        select (r.id, c.kind,
                case when c.announced then 'leased'
                     when c.delay > 0 then 'delayed'
                     else 'ready' end,
                coalesce(c.queue, ''), coalesce(c.name, ''), coalesce(c.priority, 0),
                r.job_id, r.dimension, c.sequence, null, c.args,
                hotmesh._retry_policy(c.retry_policy), 0, 0,
                case when c.announced then v_now + lease
                     else v_now + make_interval(secs => coalesce(c.delay, 0)) end,
                case when c.announced then worker end, c.error, null,
                hotmesh._timeout_policy(c.timeouts), c.concurrency_key, null)::hotmesh.streams
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, queue text, priority smallint, args jsonb,
            retry_policy jsonb, timeouts jsonb, delay double precision, announced boolean,
            error jsonb, concurrency_key text)
        where r.commands is not null and c.kind <> 'cancel');
end
$$;

create or replace function hotmesh._progress_check_commands(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._refuse_argument(
        format('bad command: %s', left(c.kind, 60)),
        format('Commands: activity (with queue and name), timer, outcome, patch, cancel, %s.',
               array_to_string(hotmesh._effect_kinds(), ', ')),
        'Is the driver newer than the engine?')
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (kind text, queue text, name text)
    where r.commands is not null
      and (coalesce(c.kind, '') not in ('activity', 'timer', 'outcome', 'patch', 'cancel')
               and c.kind <> all (hotmesh._effect_kinds())
           or coalesce(c.kind, '') = ''
           or c.kind = 'activity' and (coalesce(c.queue, '') = '' or coalesce(c.name, '') = ''));
end
$$;

create or replace function hotmesh._progress_effects(reports hotmesh.report[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
begin
    return array(
        select (r.job_id, null, c.args, c.kind, c.name, 'open', r.dimension, c.sequence,
                null, 0, null, null)::hotmesh.jobs_attributes
        from unnest(reports) r
        cross join lateral jsonb_to_recordset(r.commands) as c (
            sequence integer, kind text, name text, args jsonb)
        where r.commands is not null and c.kind = any (hotmesh._effect_kinds()));
end
$$;

-- Lays down what the code asked for. An announced activity runs already, with its sender; one that
-- brings an error has failed its first attempt.
create or replace function hotmesh._progress_command(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_messages hotmesh.streams[] := hotmesh._progress_messages(reports, worker, lease);
    v_announced hotmesh.streams[] := array(
        select m from unnest(v_messages) m where m.state = 'leased');
    v_effects hotmesh.jobs_attributes[];
    v_ids bigint[];
begin
    perform hotmesh._progress_check_commands(reports);
    perform hotmesh._stream_enqueue(array(
        select m from unnest(v_messages) m where m.state <> 'leased' and m.kind = 'activity'));
    perform hotmesh._timer_set(array(
        select m from unnest(v_messages) m where m.kind = 'timer' or m.timeouts is not null));
    v_effects := hotmesh._progress_effects(reports);
    if v_effects <> '{}' then
        perform hotmesh._effect_apply(v_effects);
    end if;
    if v_announced <> '{}' then
        v_ids := hotmesh._stream_announce(v_announced);
        perform hotmesh._stream_fail(
            array_agg(v_ids[a.ordinality]), array_agg(a.error), array_agg(a.job_id))
        from unnest(v_announced) with ordinality a
        where a.error is not null
        having count(*) > 0;
        return query
        select 'leased', v_ids[a.ordinality], 1, 'activity', a.queue, a.name, a.job_id, null::text,
               a.dimension, a.sequence, 1, null::jsonb, null::bigint, null::jsonb,
               null::double precision, null::double precision, null::text, null::integer
        from unnest(v_announced) with ordinality a
        where a.error is null;
    end if;
    perform hotmesh._progress_cancel(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(c.sequence))
    from unnest(reports) r
    cross join lateral jsonb_to_recordset(r.commands) as c (sequence integer, kind text)
    where r.commands is not null and c.kind = 'cancel'
    having count(*) > 0;
end
$$;

-- The code no longer wants these answers. A signal that has met its wait already goes to another.
create or replace function hotmesh._progress_cancel(
    job_ids bigint[], dimensions text[], sequences integer[])
returns void
language plpgsql
as $$
declare
    v_fields text[] := array(
        select hotmesh._attribute_field(c.dimension, c.sequence)
        from unnest(dimensions, sequences) as c (dimension, sequence));
begin
    perform hotmesh._attribute_cancel(job_ids, v_fields);
    perform hotmesh._stream_cancel(job_ids, dimensions, sequences);
    perform hotmesh._signal_unwait(job_ids, dimensions, sequences);
    perform hotmesh._signal_resend(m.missed)
    from (select hotmesh._attribute_miss(job_ids, v_fields) as missed offset 0) m
    where m.missed <> '{}';
end
$$;

-- Does this report end its function? A replay that met other code does not: the job waits for right
-- code, visibly. A workflow that raised is run again only under a policy given to its start, and
-- not once it was cancelled.
create or replace function hotmesh._progress_ends(outcome jsonb, policy jsonb, runs integer)
returns boolean
language sql
immutable
as $$
    select outcome is not null and not outcome ?| '{mismatch,again}'
       and not (
           outcome ? 'error' and policy is not null
           and outcome -> 'error' ->> 'code' is distinct from '499'
           and hotmesh._retry_again(policy, runs, outcome -> 'error'))
$$;

-- The error of a function that had a policy: 597 when every run was used up, 598 when no other
-- could help. What has a code of its own kind already keeps it.
create or replace function hotmesh._progress_verdict(outcome jsonb, policy jsonb, runs integer)
returns jsonb
language sql
immutable
as $$
    select case
        when policy is null or not outcome ? 'error'
            or outcome -> 'error' ->> 'code' in ('410', '499', '596', '597', '598')
            or not hotmesh._progress_ends(outcome, policy, runs)
            then outcome
        when hotmesh._retry_again(policy, 0, outcome -> 'error')
            then jsonb_set(outcome, '{error,code}', '597')
        else jsonb_set(outcome, '{error,code}', '598') end
$$;

-- Numbers what waits in the inboxes after what the reports consumed; every report gets its new
-- cursor and its news. A function that ends or starts over takes none. What could not be taken, its
-- row being locked this instant, leaves the run held, with empty news: to let it rest would wake
-- nobody.
create or replace function hotmesh._progress_fold(reports hotmesh.report[])
returns hotmesh.report[]
language plpgsql
as $$
declare
    v_jobs bigint[] := array(select r.job_id from unnest(reports) r);
    v_dimensions text[];
    v_cursors bigint[];
    v_news hotmesh.jobs_attributes[];
begin
    if hotmesh._inbox_jobs(v_jobs, '{result,query}') = '{}' then
        return reports;
    end if;
    v_cursors := array(select r.cursor from unnest(reports) r);
    v_dimensions := array(
        select case when not (r.ends or coalesce(r.outcome ? 'again', false)) then r.dimension end
        from unnest(reports) r);
    v_news := hotmesh._progress_news(v_jobs, v_dimensions, v_cursors)
        || hotmesh._query_take(v_jobs, v_dimensions);
    return hotmesh._progress_tell(reports, v_cursors, v_news, hotmesh._inbox_left(v_jobs));
end
$$;

create or replace function hotmesh._progress_after(report hotmesh.report, at bigint, news jsonb)
returns hotmesh.report
language sql
immutable
as $$
    select (report.id, report.token, at, report.output, report.error, report.done, report.commands,
            report.outcome, report.running, report.keep, report.was_kept, report.before,
            report.kind, report.job_id, report.dimension, report.retry_policy, report.attempt,
            report.runs, report.verdict, report.ends, news)::hotmesh.report
$$;

-- Every report with its new cursor and its news; `places` are functions for which there is more.
create or replace function hotmesh._progress_tell(
    reports hotmesh.report[], cursors bigint[], steps hotmesh.jobs_attributes[], places text[])
returns hotmesh.report[]
language plpgsql
as $$
begin
    return array(
        with told as materialized (
            select s.job_id || s.dimension as place, max(s.cursor) as cursor,
                   jsonb_agg(hotmesh._attribute_entry(s) order by s.cursor) as news
            from unnest(steps) s
            group by s.job_id || s.dimension)
        select hotmesh._progress_after(
            reports[p.i], coalesce(t.cursor, cursors[p.i]),
            coalesce(t.news, case when p.place = any (places) then '[]'::jsonb end))
        from (
            select i, (reports[i]).job_id || (reports[i]).dimension as place
            from generate_subscripts(reports, 1) i) p
        left join told t on t.place = p.place
        order by p.i);
end
$$;

-- Closes the steps that were answered; a signal whose wait was given up meanwhile goes back.
create or replace function hotmesh._progress_news(
    job_ids bigint[], dimensions text[], cursors bigint[])
returns hotmesh.jobs_attributes[]
language plpgsql
as $$
declare
    v_events hotmesh.streams[] := hotmesh._inbox_take(job_ids, dimensions);
    v_news hotmesh.jobs_attributes[] :=
        hotmesh._attribute_close(v_events, job_ids, dimensions, cursors);
begin
    if cardinality(v_news) < cardinality(v_events) then
        perform hotmesh._signal_give_back(v_events, v_news);
    end if;
    return v_news;
end
$$;

-- Reports of runs whose jobs are locked and whose cursors were compared: journal, commands, news,
-- outcome, rest.
create or replace function hotmesh._progress_apply(
    reports hotmesh.report[], worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_after hotmesh.report[];
begin
    perform hotmesh._attribute_done(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(r.before), array_agg(r.done))
    from unnest(reports) r
    where r.done is not null
    having count(*) > 0;
    if exists (select from unnest(reports) r where r.commands is not null) then
        perform hotmesh._attribute_write(hotmesh._progress_asked(reports));
        return query select (c).* from hotmesh._progress_command(reports, worker, lease) c;
    end if;
    v_after := hotmesh._progress_fold(reports);
    if hotmesh._progress_conclude(v_after) then
        return query
        select 'events', r.id, r.token, 'workflow', null::text, null::text, r.job_id, null::text,
               r.dimension, null::integer, null::integer, null::jsonb, r.cursor, r.news,
               null::double precision, extract(epoch from hotmesh.now())::double precision,
               null::text, null::integer
        from unnest(v_after) r
        where r.outcome is null and r.news is not null;
    end if;
end
$$;

-- Moves the cursors of runs that go on, lays to rest those that only wait, settles those that end.
-- Returns whether there is news for some that go on.
create or replace function hotmesh._progress_conclude(reports hotmesh.report[])
returns boolean
language plpgsql
as $$
declare
    v_told boolean;
    v_jobs bigint[];
    v_cursors bigint[];
    v_hooks boolean;
    v_alive bigint[];
    v_resting boolean;
    v_ending hotmesh.report[];
begin
    select coalesce(bool_or(r.outcome is null and r.news is not null), false),
           array_agg(r.job_id) filter (where not r.ends and r.dimension = ''),
           array_agg(r.cursor) filter (where not r.ends and r.dimension = ''),
           bool_or(not r.ends and r.dimension <> ''),
           array_agg(r.id) filter (where r.running and r.attempt > 1),
           bool_or(r.outcome is null and not r.running and r.news is null),
           array_agg(r) filter (where r.outcome is not null)
    into v_told, v_jobs, v_cursors, v_hooks, v_alive, v_resting, v_ending
    from unnest(reports) r;
    if v_jobs is not null then
        perform hotmesh._job_advance(v_jobs, v_cursors);
    end if;
    if v_hooks then
        perform hotmesh._progress_advance_hooks(reports);
    end if;
    if v_alive is not null then
        perform hotmesh._lease_alive(v_alive);
    end if;
    if v_resting then
        perform hotmesh._progress_rest(reports);
    end if;
    if v_ending is not null then
        perform hotmesh._progress_finish(v_ending);
    end if;
    return v_told;
end
$$;

create or replace function hotmesh._progress_advance_hooks(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._attribute_advance(
        array_agg(r.job_id), array_agg(r.dimension), array_agg(r.cursor),
        array_agg('open'::text))
    from unnest(reports) r
    where not r.ends and r.dimension <> '';
end
$$;

create or replace function hotmesh._progress_rest(reports hotmesh.report[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_rest(array_agg(r.id), array_agg(r.cursor))
    from unnest(reports) r
    where r.outcome is null and not r.running and r.news is null;
end
$$;

-- Functions with an outcome: some run again, the others end.
create or replace function hotmesh._progress_finish(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_ended hotmesh.report[] := array(select r from unnest(reports) r where r.ends);
begin
    perform hotmesh._again_run(r) from unnest(reports) r where not r.ends;
    if v_ended <> '{}' then
        perform hotmesh._progress_end(v_ended);
    end if;
end
$$;

-- Functions that have ended: their outcomes are laid down, their obligations closed. Hooks that
-- were ordered meanwhile come first, so that their job stays open for them.
create or replace function hotmesh._progress_end(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_failed bigint[] := array(
        select r.job_id
        from unnest(reports) r
        where r.dimension <> ''
          and hotmesh._hook_close(r.job_id, r.dimension, r.cursor, r.outcome));
    v_jobs bigint[] := array(select distinct r.job_id from unnest(reports) r);
    v_late bigint[] := hotmesh._inbox_jobs(v_jobs, '{hook}');
begin
    perform hotmesh._attribute_facts(
        array_agg(r.job_id),
        array_agg(case when r.outcome ? 'error' then 'error' else 'output' end),
        array_agg(coalesce(r.outcome -> 'error', r.outcome -> 'output')))
    from (
        select distinct on (r.job_id) r.job_id, r.outcome
        from unnest(reports) r
        where r.dimension = '' or r.job_id = any (v_failed) and r.outcome ? 'error'
        order by r.job_id, r.outcome ? 'error' desc) r
    having count(*) > 0;
    if v_late <> '{}' then
        perform hotmesh._order_hooks(v_late);
    end if;
    perform hotmesh._close_functions(array_agg(r.job_id), array_agg(r.dimension), true)
    from unnest(reports) r
    join jobs j on j.id = r.job_id
    where j.status > 1
    having count(*) > 0;
    perform hotmesh._close_settle(
        array_agg(e.job_id), array_agg(e.ended), array_agg(e.cursor), array_agg(e.failed))
    from (
        select r.job_id, count(*)::integer as ended,
               max(r.cursor) filter (where r.dimension = '') as cursor,
               bool_or(r.dimension = '' and r.outcome ? 'error' or r.job_id = any (v_failed))
                   as failed
        from unnest(reports) r
        group by r.job_id) e;
end
$$;

-- 90_engine.sql
create or replace function hotmesh.job_start(
    app text, workflow text, key text default null, args jsonb default '[]',
    queue text default null, entity text default null, options jsonb default '{}')
returns hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_ids := hotmesh._start_open(array[hotmesh._start_request(
        (null, key, workflow, queue, entity, args, options,
         null, null, null, null, null, null, null, null, null, null)::hotmesh.job_request,
        hotmesh._setting('value_limit', 16777216))]);
    select (j::hotmesh.jobs).* into v_job from jobs j where j.id = v_ids[1];
    return v_job;
end
$$;
comment on function hotmesh.job_start(text, text, text, jsonb, text, text, jsonb) is
'Start a workflow, in the caller''s transaction. options: on_conflict (reject, existing, replace),
retry_policy, execution_timeout, run_timeout, expire, search, priority, delay, concurrency_key.
Raises MSH41 for a duplicate key, MSH43 for too large arguments, MSH44 for a replace of an open job,
22023 for bad arguments.';

create or replace function hotmesh._engine_check_list(requests jsonb)
returns void
language plpgsql
as $$
declare
    v_unknown text;
begin
    if jsonb_typeof(requests) is distinct from 'array'
        or jsonb_path_exists(requests, 'strict $[*] ? (@.type() != "object")')
    then
        perform hotmesh._refuse_argument(
            'requests are no JSON array of objects', left(requests::text, 200),
            'Give [{"workflow": …, "args": […]}, …].');
    end if;
    select string_agg(distinct k, ', ') into v_unknown
    from jsonb_array_elements(requests) r
    cross join lateral jsonb_object_keys(r) k
    where k <> all ('{workflow,key,args,queue,entity,options}');
    if v_unknown is not null then
        perform hotmesh._refuse_argument(
            format('unknown key of a request: %s', left(v_unknown, 100)),
            'Known keys: workflow, key, args, queue, entity, options.',
            'What else a start may say goes into its options.');
    end if;
end
$$;

create or replace function hotmesh.job_start_many(app text, requests jsonb)
returns setof hotmesh.jobs
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_limit bigint;
begin
    perform hotmesh._enter(app);
    perform hotmesh._engine_check_list(requests);
    v_limit := hotmesh._setting('value_limit', 16777216);
    v_ids := hotmesh._start_open(array(
        select hotmesh._start_request(
            (null, r.key, r.workflow, r.queue, r.entity, coalesce(r.args, '[]'), r.options,
             null, null, null, null, null, null, null, null, null, null)::hotmesh.job_request,
            v_limit)
        from jsonb_to_recordset(requests) as r (
            key text, workflow text, queue text, entity text, args jsonb, options jsonb)));
    return query
    select (j::hotmesh.jobs).*
    from unnest(v_ids) with ordinality as o (id, number)
    join jobs j on j.id = o.id
    order by o.number;
end
$$;
comment on function hotmesh.job_start_many(text, jsonb) is
'Start many workflows in one call: [{"workflow": …, "key": …, "args": […], "queue": …, "entity": …,
"options": {…}}, …]. Rows come in the order asked for. All are started or none. Raises as job_start
does.';

create or replace function hotmesh._engine_facts(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_object_agg(a.field, a.value), '{}')
        from jobs_attributes_all a
        where a.job_id = job.id and a.sequence is null);
end
$$;

-- The job of a key, open, closed or archived.
create or replace function hotmesh._engine_job(key text)
returns hotmesh.jobs
language plpgsql
stable
as $$
declare
    v_job hotmesh.jobs := hotmesh._job_find(key);
begin
    if v_job.id is null then
        select j.id, j.key, j.entity, j.queue, j.topic, j.graph_version, j.graph_id, j.status,
               j.cursor, j.context, j.entity_version, j.expire_after, j.parent_id,
               j.parent_dimension,
               j.parent_sequence, j.origin_id, j.close_policy, j.created_at, j.updated_at,
               j.closed_at, j.expire_at
        into v_job
        from jobs_archive j
        where j.key = _engine_job.key
        order by j.closed_at desc
        limit 1;
    end if;
    if v_job.id is null then
        perform hotmesh._job_refuse_missing(key);
    end if;
    return v_job;
end
$$;

create or replace function hotmesh.job_result(app text, key text)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    if v_job.closed_at is null then
        return null;
    end if;
    v_facts := hotmesh._engine_facts(v_job);
    if v_job.status < 0 and v_facts ? 'error' then
        perform hotmesh._job_refuse_failed(key, v_facts -> 'error');
    end if;
    return v_facts -> 'output';
end
$$;
comment on function hotmesh.job_result(text, text) is
'What a workflow returned; SQL null while it is open. Raises MSH40 if there is no such job, MSH46 if
it failed.';

create or replace function hotmesh.job_results(app text, keys text[])
returns table (key text, status bigint, output jsonb, error jsonb)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return query
    select k.key, j.status, f.output, f.error
    from unnest(keys) as k (key)
    left join lateral (
        select a.id, a.status, a.closed_at
        from jobs_all a
        where a.key = k.key
        order by a.closed_at desc nulls first
        limit 1) j on true
    left join lateral (
        select max(a.value::text) filter (where a.field = 'output')::jsonb as output,
               max(a.value::text) filter (where a.field = 'error')::jsonb as error
        from jobs_attributes_all a
        where a.job_id = j.id and a.field in ('output', 'error')) f on true
    where j.closed_at is not null or j.id is null;
end
$$;
comment on function hotmesh.job_results(text, text[]) is
'The outcomes of those jobs that have closed, for whoever waits for many; status is null where there
is no such job. Open jobs are left out.';

-- Why an open job does not move, as stuck_jobs says it; null when it does.
create or replace function hotmesh._engine_stuck(job hotmesh.jobs, mismatch jsonb)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(
            'reason', case when s.state = 'dead' then 'parked' else 'mismatch' end,
            'message', coalesce(mismatch ->> 'message', s.error ->> 'message'), 'id', s.id)
        from streams s
        where s.job_id = job.id and job.closed_at is null and s.kind = 'workflow'
          and (s.state = 'dead'
               or s.state in ('delayed', 'ready') and s.error is not null and mismatch is not null)
        order by s.id
        limit 1);
end
$$;

-- Who the job of a graph is, in HotMesh's names and its format of times: `ts` is when it started,
-- in steps of five minutes; `aid` its trigger; `key` that of its statistics; p… its parent, and
-- where in that it is awaited.
create or replace function hotmesh._engine_metadata(job hotmesh.jobs, error jsonb)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'jid', job.key, 'gid', job.id::text, 'tpc', job.topic, 'vrs', job.graph_version,
        'app', (select a.name from hotmesh.apps a where a.schema_name = hotmesh._app_here()),
        'js', job.status, 'jc', hotmesh._trail_time(job.created_at),
        'ju', hotmesh._trail_time(job.updated_at), 'err', error,
        'ts', left(hotmesh._trail_time(date_bin(
            '5 minutes', job.created_at, '2000-01-01 00:00:00+00')), 12),
        'aid', (
            select a.name from jobs_attributes_all a
            where a.job_id = job.id and a.field = hotmesh._attribute_field(',0', 1) limit 1),
        'key', (select nullif(m.key, '') from measures m where m.job_id = job.id),
        'pj', (select p.key from jobs_all p where p.id = job.parent_id limit 1),
        'pg', job.parent_id::text, 'pd', job.parent_dimension, 'pa', (
            select a.name from jobs_attributes_all a
            where a.job_id = job.parent_id and a.field = hotmesh._attribute_field(
                job.parent_dimension, job.parent_sequence)
            limit 1)));
end
$$;

create or replace function hotmesh.job_state(app text, key text, metadata boolean default false)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
    v_data jsonb;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    v_facts := hotmesh._engine_facts(v_job);
    v_data := case
        when v_job.graph_id is not null then coalesce(v_facts -> 'output', '{}')
        else jsonb_strip_nulls(jsonb_build_object('done', v_job.closed_at is not null))
            || case when v_facts ? 'output'
                    then jsonb_build_object('response', v_facts -> 'output') else '{}' end end;
    if not metadata then
        return v_data;
    end if;
    if v_job.graph_id is not null then
        return jsonb_build_object('data', v_data, 'metadata', hotmesh._engine_metadata(
            v_job, v_facts -> 'error'));
    end if;
    return jsonb_build_object('data', v_data, 'metadata', jsonb_strip_nulls(jsonb_build_object(
        'jid', v_job.key, 'gid', v_job.id::text, 'tpc', v_job.topic,
        'app', app, 'vrs', coalesce(v_job.graph_version, '1'), 'ngn', v_job.entity,
        'js', v_job.status, 'jc', v_job.created_at, 'ju', v_job.updated_at,
        'err', v_facts -> 'error',
        'stuck', hotmesh._engine_stuck(v_job, v_facts -> 'mismatch'))));
end
$$;
comment on function hotmesh.job_state(text, text, boolean) is
'The data of a job (of a graph, what its mappings made); with metadata also who it is and where it
stands. A failed job does not raise: its metadata has err; that of one that does not move has stuck:
reason (parked or mismatch), message and id, the message that stream_revive takes. Raises MSH40.';

-- The journal in its order; that of a graph by the ways that were gone.
create or replace function hotmesh._engine_timeline(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'key', a.field, 'kind', a.kind, 'name', a.name, 'state', a.state,
                   'value', a.value, 'dimension', a.dimension, 'index', a.sequence,
                   'order', a.cursor, 'created', a.created_at, 'updated', a.updated_at)
                   order by case when job.graph_id is not null then
                       string_to_array(substr(a.dimension, 2), ',')::bigint[] end,
                       a.dimension, a.sequence), '[]')
        from jobs_attributes_all a
        where a.job_id = job.id and a.sequence is not null);
end
$$;

-- What each activity of a graph came to: {"t": {",0": {"output": …, "state": "done"}}}.
create or replace function hotmesh._engine_process(steps jsonb)
returns jsonb
language sql
immutable
as $$
    select jsonb_object_agg(n.name, n.instances)
    from (
        select s.step ->> 'name' as name, jsonb_object_agg(
                   s.step ->> 'dimension',
                   (s.step -> 'value') || jsonb_build_object('state', s.step -> 'state'))
                   as instances
        from jsonb_array_elements(steps) s (step)
        group by 1) n
$$;

-- Which activities were gone through, without what they carried.
create or replace function hotmesh._engine_transitions(steps jsonb)
returns jsonb
language sql
immutable
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'activity', coalesce(nullif(s.step ->> 'name', ''), s.step ->> 'kind'),
               'dimensions', s.step -> 'dimension',
               'created', s.step -> 'created', 'updated', s.step -> 'updated')
               order by s.step ->> 'created', s.place), '[]')
    from jsonb_array_elements(steps) with ordinality s (step, place)
$$;

create or replace function hotmesh._engine_check_parts(allow text[], block text[])
returns void
language plpgsql
as $$
declare
    v_parts text[] := '{data,state,status,timeline,transitions,process,dependencies}';
    v_unknown text := (select min(p) from unnest(allow || block) p where p <> all (v_parts));
begin
    if v_unknown is not null then
        perform hotmesh._refuse_argument(
            format('an export has no part %s', hotmesh._named(v_unknown)),
            format('Its parts are %s.', array_to_string(v_parts, ', ')),
            'Leave allow and block out for all of them.');
    end if;
end
$$;

create or replace function hotmesh.job_export(
    app text, key text, allow text[] default null, block text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
    v_facts jsonb;
    v_steps jsonb;
begin
    perform hotmesh._enter(app);
    perform hotmesh._engine_check_parts(allow, block);
    v_job := hotmesh._engine_job(key);
    v_facts := hotmesh._engine_facts(v_job);
    v_steps := hotmesh._engine_timeline(v_job);
    return (
        select coalesce(jsonb_object_agg(s.name, s.value), '{}')
        from (values
            ('data', (
                select coalesce(jsonb_object_agg(substr(f.key, 2), f.value), '{}')
                from jsonb_each(v_facts) f
                where f.key like '\_%')),
            ('state', jsonb_build_object(
                'input', v_facts -> 'input', 'output', v_facts -> 'output',
                'error', v_facts -> 'error')),
            ('status', to_jsonb(v_job.status)),
            ('timeline', v_steps),
            ('process', case
                when v_job.graph_id is not null then hotmesh._engine_process(v_steps) end),
            ('dependencies', case when v_job.graph_id is not null then (
                select coalesce(jsonb_agg(c.key order by c.id), '[]')
                from jobs_all c where c.parent_id = v_job.id) end),
            ('transitions', hotmesh._engine_transitions(v_steps))) as s (name, value)
        where s.value is not null
          and (allow is null or s.name = any (allow)) and (block is null or s.name <> all (block)));
end
$$;
comment on function hotmesh.job_export(text, text, text[], text[]) is
'A job as one document: data (the user''s), state, status, timeline and transitions; of a graph also
process (what each activity came to, by dimension) and dependencies (the keys of its children).
allow and block choose among them. Raises MSH40, and 22023 for a part that there is not.';

create or replace function hotmesh.job_history(
    app text, key text, dimension text default '', after integer default -2147483648)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    if (hotmesh._job_find(key)).id = v_job.id then
        return hotmesh._attribute_history(v_job.id, dimension, after, 8388608);
    end if;
    return hotmesh._archive_history(v_job.id, dimension, after, 8388608);
end
$$;
comment on function hotmesh.job_history(text, text, text, integer) is
'The journal of one part of a job after step `after`, in pages of about 8 MB: rows [sequence, kind,
name, state, value, cursor, time]. Raises MSH40.';

-- 91_report.sql
-- `offset 0` makes it one look by id per report, whatever the planner thinks of an empty app.
create or replace function hotmesh._report_read(reports jsonb)
returns hotmesh.report[]
language plpgsql
as $$
begin
    return array(
        select (r.id, r.token,
                coalesce(r.before, r.cursor) + coalesce(jsonb_array_length(r.done), 0),
                r.output, r.error, r.done, r.commands,
                hotmesh._progress_verdict(r.outcome, s.policy, s.runs),
                coalesce(r.running, false), r.keep, r.was_kept, coalesce(r.before, r.cursor),
                s.kind, s.job_id, s.dimension, s.policy, s.attempt, s.runs,
                case when r.running and r.done is null and r.commands is null and r.outcome is null
                     then 'quiet' end,
                hotmesh._progress_ends(r.outcome, s.policy, s.runs), null)::hotmesh.report
        from jsonb_populate_recordset(null::hotmesh.report, reports) r
        left join lateral (
            select m.kind, m.job_id, m.dimension, m.attempt,
                   coalesce(case when r.retry_policy is not null
                                 then hotmesh._retry_policy(r.retry_policy) end,
                            m.retry_policy) as policy,
                   hotmesh._retry_failures(m.error) + 1 as runs
            from streams m
            where m.id = r.id and m.token = r.token and m.state = 'leased'
            offset 0) s on true
        order by s.job_id);
end
$$;

-- What is malformed is refused here, in a subtransaction that writes nothing; checking each value
-- beforehand costs as much as applying it. A step of a wrong form fails when it is laid down.
create or replace function hotmesh._report_take(reports jsonb)
returns hotmesh.report[]
language plpgsql
as $$
declare
    v_message text;
    v_hint text;
begin
    if jsonb_typeof(reports) is distinct from 'array' then
        perform hotmesh._refuse_argument(
            'reports are no JSON array', left(reports::text, 200),
            'Give [{"id": …, "token": …, …}, …], or [] for none.');
    end if;
    return hotmesh._report_read(reports);
exception
    when data_exception then
        get stacked diagnostics v_message = message_text, v_hint = pg_exception_hint;
        if v_hint <> '' then
            raise;  -- a refusal already
        end if;
        perform hotmesh._refuse_argument(
            'a report is malformed', left(v_message, 200),
            'It is an object with the id and the token that were claimed; of a run also its '
            || 'cursor, done and commands (arrays of steps), and outcome (an object).');
end
$$;

-- What becomes of each report; `quiet` is a holder that only asks for news. Takes the locks of the
-- jobs concerned, and of the messages that a report finishes or lays to rest.
create or replace function hotmesh._report_judge(reports hotmesh.report[])
returns text[]
language plpgsql
as $$
declare
    v_jobs bigint[];
    v_told bigint[];
    v_ids bigint[];
    v_tokens integer[];
    v_inbox bigint[] := '{}';
    v_held bigint[];
begin
    select array_agg(r.job_id),
           array_agg(r.job_id) filter (where r.verdict is distinct from 'quiet'),
           array_agg(r.id) filter (where r.kind = 'activity' or not r.running),
           array_agg(r.token) filter (where r.kind = 'activity' or not r.running)
    into v_jobs, v_told, v_ids, v_tokens
    from unnest(reports) r;
    if v_ids is not null then
        v_held := hotmesh._lease_held(v_ids, v_tokens);
    end if;
    if v_told is distinct from v_jobs then
        v_inbox := hotmesh._inbox_jobs(v_jobs, '{result,query}')
            || array(select r.job_id from unnest(reports) r where r.kind = 'activity');
    end if;
    return hotmesh._report_verdicts(
        reports, v_held, v_inbox, hotmesh._job_lock(v_told || v_inbox),
        hotmesh._inbox_jobs(v_jobs, '{report}'));
end
$$;

-- The verdicts, by what could be locked: `held` messages and `locked` jobs, of which `kept` have
-- reports that wait.
create or replace function hotmesh._report_verdicts(
    reports hotmesh.report[], held bigint[], inbox bigint[], locked bigint[], kept bigint[])
returns text[]
language plpgsql
as $$
declare
    v_cursors bigint[] := array(
        select j.cursor from jobs j where j.id = any (locked) order by j.id);
begin
    return array(
        select case
            when r.kind is null then 'stale'
            when (r.kind = 'activity' or not r.running) and r.id <> all (held)
                then case when r.was_kept then 'kept' else 'busy' end
            when r.kind = 'activity'
                then case when r.job_id = any (locked) then 'told' else 'untold' end
            when r.verdict = 'quiet' and r.job_id <> all (inbox) then 'quiet'
            when r.job_id <> all (locked)
                then case when r.keep or r.was_kept then 'kept' else 'busy' end
            when r.job_id = any (kept) and r.was_kept is null
                then case when r.keep then 'kept' else 'busy' end
            when r.before = case
                when r.dimension = '' then v_cursors[array_position(locked, r.job_id)]
                else hotmesh._hook_cursor(r.job_id, r.dimension) end then 'ok'
            else 'stale' end
        from unnest(reports) with ordinality r
        order by r.ordinality);
end
$$;

create or replace function hotmesh._report_check_sizes(reports hotmesh.report[])
returns void
language plpgsql
as $$
declare
    v_limit bigint := hotmesh._setting('value_limit', 16777216);
    v_large record;
begin
    select r.id, v.name, pg_column_size(v.value) as size into v_large
    from unnest(reports) r
    cross join lateral (
        select 'result' as name, r.output as value
        union all select 'error', r.error
        union all select 'outcome', r.outcome
        union all select 'result of step ' || (d.value ->> 'sequence'), d.value -> 'value'
        from jsonb_array_elements(r.done) d
        where pg_column_size(r.done) > v_limit
        union all select 'args of step ' || (c.value ->> 'sequence'), c.value -> 'args'
        from jsonb_array_elements(r.commands) c
        where pg_column_size(r.commands) > v_limit) v
    where pg_column_size(v.value) > v_limit
    limit 1;
    if found then
        perform hotmesh._job_refuse_large(
            format('%s of message %s', v_large.name, v_large.id), v_large.size, v_limit);
    end if;
end
$$;

-- What graphs' workers answered: their jobs go on at once, and what comes next goes to the worker
-- itself, up to `number` messages of `topics`.
create or replace function hotmesh._report_graphs(
    reports hotmesh.report[], graphs bigint[], relay hotmesh.relay, number integer)
returns void
language plpgsql
as $$
declare
    v_ids bigint[];
    v_tokens integer[];
    v_events hotmesh.streams[] := '{}';
begin
    select array_agg(r.id), array_agg(r.token), array_agg(r.job_id),
           hotmesh._inbox_finish(array_agg(r.id), array_agg(coalesce(r.output, 'null')))
    into v_ids, v_tokens, relay.job_ids, v_events
    from unnest(reports) r
    where r.error is null and r.job_id = any (graphs);
    relay.ids := v_ids[:number];
    relay.tokens := v_tokens[:number];
    relay.job_ids := relay.job_ids[:number];
    perform hotmesh._errand_go(graphs, events => coalesce(v_events, '{}'), relay => relay);
    if v_ids is not null then
        perform hotmesh._lease_finish(v_ids, v_tokens);
    end if;
end
$$;

-- Activities of code, and whatever failed.
create or replace function hotmesh._report_streamed(reports hotmesh.report[], told bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._stream_complete(array_agg(r.id), array_agg(coalesce(r.output, 'null')), told)
    from unnest(reports) r
    where r.error is null
    having count(*) > 0;
    perform hotmesh._stream_note(
        array_agg(r.id), array_agg(hotmesh._retry_policy(r.retry_policy)), array_agg(r.output))
    from unnest(reports) r
    where r.error is not null and (r.retry_policy is not null or r.output is not null)
    having count(*) > 0;
    perform hotmesh._stream_fail(array_agg(r.id), array_agg(r.error), told)
    from unnest(reports) r
    where r.error is not null
    having count(*) > 0;
end
$$;

create or replace function hotmesh._report_activities(
    reports hotmesh.report[], told bigint[], want jsonb, lease interval)
returns void
language plpgsql
as $$
declare
    v_graphs bigint[] := array(
        select j.id from jobs j where j.id = any (told) and j.graph_id is not null);
    v_streamed hotmesh.report[] := reports;
begin
    if v_graphs <> '{}' then
        v_streamed := array(
            select r from unnest(reports) r
            where r.error is not null or (r.job_id = any (v_graphs)) is not true);
    end if;
    if cardinality(v_streamed) > 0 then
        perform hotmesh._report_streamed(v_streamed, told);
    end if;
    if v_graphs <> '{}' then
        perform hotmesh._report_graphs(
            reports, v_graphs, hotmesh._report_relay(want, lease),
            coalesce((want ->> 'activity')::integer, 0));
    end if;
    if cardinality(told) > cardinality(v_graphs) then
        perform hotmesh._worker_wake(hotmesh._inbox_route(told));
    end if;
end
$$;

create or replace function hotmesh._report_kept(take integer)
returns jsonb
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._job_news('{report}', take);
    v_locked bigint[];
begin
    if v_jobs = '{}' then
        return '[]';
    end if;
    v_locked := hotmesh._job_lock(v_jobs);
    perform hotmesh._close_clear(array(
        select k.id from unnest(v_jobs) as k (id)
        where not exists (select from jobs j where j.id = k.id and j.closed_at is null)));
    return hotmesh._inbox_release(array(
        select s.id from streams s
        where s.id = any (array(
            select min(e.id) from streams e
            where e.job_id = any (v_locked) and e.kind = 'event' and e.name = 'report'
            group by e.job_id))
        for update skip locked));
end
$$;

-- The topics of activities that a worker takes on at once: those without limits. None of a worker
-- that is in doubt of what it holds.
create or replace function hotmesh._report_relay(want jsonb, lease interval)
returns hotmesh.relay
language plpgsql
as $$
declare
    v_relay hotmesh.relay;
    v_limits hotmesh.limits[];
begin
    if (want ->> 'activity')::integer > 0 and not want ? 'held' then
        v_relay.topics := array(
            select n.name
            from jsonb_array_elements_text(want -> 'names') with ordinality n (name, place)
            where want -> 'kinds' ->> n.place::integer - 1 = 'activity'
              and want -> 'queues' ->> n.place::integer - 1 = n.name);
        v_limits := hotmesh._limit_of('activity', v_relay.topics);
        if v_limits <> '{}' then
            v_relay.topics := array(
                select t from unnest(v_relay.topics) t
                except select l.queue from unnest(v_limits) l);
        end if;
        v_relay.until := hotmesh.now() + lease;
    end if;
    return v_relay;
end
$$;

-- Applies reports; the answers are for those that were not simply applied.
create or replace function hotmesh._report_apply(
    reports jsonb, worker text, lease interval, want jsonb default '{}')
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_reports hotmesh.report[] := hotmesh._report_take(reports);
    v_verdicts text[] := hotmesh._report_judge(v_reports);
begin
    if pg_column_size(reports) > hotmesh._setting('value_limit', 16777216) then
        perform hotmesh._report_check_sizes(v_reports);
    end if;
    if 'ok' = all (v_verdicts) then
        return query select (p).* from hotmesh._progress_apply(v_reports, worker, lease) p;
        return;
    elsif 'told' = all (v_verdicts) then
        perform hotmesh._report_activities(
            v_reports, array(select r.job_id from unnest(v_reports) r), want, lease);
        return;
    end if;
    for i in 1 .. cardinality(v_reports) loop
        v_reports[i].verdict := v_verdicts[i];
        if v_verdicts[i] = 'kept' then
            perform hotmesh._inbox_put(
                v_reports[i].job_id, v_reports[i].dimension, 'report', to_jsonb(v_reports[i]));
        end if;
    end loop;
    perform hotmesh._report_activities(
        array(select r from unnest(v_reports) r where r.verdict in ('told', 'untold')),
        array(select r.job_id from unnest(v_reports) r where r.verdict = 'told'), want, lease)
    where v_verdicts && '{told,untold}';
    if 'ok' = any (v_verdicts) then
        return query
        select (p).*
        from hotmesh._progress_apply(
            array(select r from unnest(v_reports) r where r.verdict = 'ok'), worker, lease) p;
    end if;
    return query
    select r.verdict, r.id, r.token, r.kind, null::text, null::text, r.job_id, null::text,
           r.dimension, null::integer, null::integer, null::jsonb, null::bigint, null::jsonb,
           null::double precision, null::double precision, null::text, null::integer
    from unnest(v_reports) r
    where r.verdict in ('stale', 'busy', 'kept') and r.was_kept is null;
end
$$;

-- 92_delivery.sql
-- Claims activities. A message whose job has closed meanwhile is dropped.
create or replace function hotmesh._delivery_activities(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_fit bigint[] := hotmesh._delivery_fit(ids);
    v_given integer;
begin
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension, s.sequence,
           s.attempt, s.args, null::bigint, s.timeouts,
           extract(epoch from j.created_at)::double precision,
           extract(epoch from hotmesh.now())::double precision,
           null::text, null::integer
    from streams s
    left join jobs j on j.id = s.job_id
    where s.id = any (v_fit) and (s.job_id is null or j.closed_at is null and j.id is not null);
    get diagnostics v_given = row_count;
    if v_given < cardinality(v_fit) then
        perform hotmesh._close_clear(array(
            select s.job_id
            from streams s
            where s.id = any (v_fit) and s.job_id is not null
              and not exists (select from jobs j where j.id = s.job_id and j.closed_at is null)));
    end if;
end
$$;

-- One answer carries about 8 MB of arguments, and always one message; what does not fit is put
-- back.
create or replace function hotmesh._delivery_fit(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_fit bigint[];
begin
    if (select sum(hotmesh._bytes(s.args)) from streams s where s.id = any (ids)) < 8388608 then
        return ids;
    end if;
    v_fit := array(
        select f.id
        from (
            select s.id,
                   coalesce(sum(hotmesh._bytes(s.args)) over (
                       order by s.priority desc, s.id
                       rows between unbounded preceding and 1 preceding), 0) as before
            from streams s
            where s.id = any (ids)) f
        where f.before < 8388608);
    if cardinality(v_fit) < cardinality(ids) then
        perform hotmesh._stream_postpone(
            array(select i from unnest(ids) i where i <> all (v_fit)), interval '0');
    end if;
    return v_fit;
end
$$;

create or replace function hotmesh._delivery_fold(ids bigint[])
returns hotmesh.report[]
language plpgsql
as $$
begin
    return hotmesh._progress_fold(array(
        select (s.id, s.token,
                case when s.dimension = '' then j.cursor
                     else hotmesh._hook_cursor(s.job_id, s.dimension) end,
                null, null, null, null, null, true, null, null, null,
                s.kind, s.job_id, s.dimension, null, null, null,
                null, false, null)::hotmesh.report
        from streams s
        join jobs j on j.id = s.job_id
        where s.id = any (ids)));
end
$$;

-- Hands out runs, whose jobs' locks the caller holds, with the history that replay needs, or to the
-- worker that still has the coroutine only the news. All share about 8 MB: of a large run a part
-- goes, and its worker reads on in pages.
create or replace function hotmesh._delivery_runs(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_runs hotmesh.report[] := hotmesh._delivery_fold(ids);
    v_told hotmesh.report[];
    v_now double precision := extract(epoch from hotmesh.now());
    v_size bigint := 8388608 / cardinality(ids);
begin
    v_told := array(select r from unnest(v_runs) r where r.news is not null);
    perform hotmesh._progress_conclude(v_told) where v_told <> '{}';
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension,
           s.cursor::integer, s.attempt,
           case when s.cursor is null
                then coalesce(h.value -> 'args', f.value) end,
           r.cursor,
           case when s.cursor is not null then coalesce(r.news, '[]')
                when r.cursor > 0 or s.token > 1
                    then hotmesh._query_entries(r.news)
                        || hotmesh._attribute_history(s.job_id, s.dimension, -2147483648, v_size)
                else hotmesh._query_entries(r.news) end,
           extract(epoch from s.created_at)::double precision,
           v_now, h.value ->> 'signal', s.sequence
    from unnest(v_runs) r
    join streams s on s.id = r.id
    join jobs j on j.id = s.job_id
    left join lateral (
        select a.value from jobs_attributes a
        where s.dimension <> '' and a.job_id = s.job_id and a.field = 'hook' || s.dimension
        offset 0) h on true
    left join lateral (
        select a.value from jobs_attributes a
        where s.cursor is null and s.dimension = '' and a.job_id = s.job_id
          and a.field = 'input' and hotmesh._bytes(a.value) <= v_size
        offset 0) f on true;
end
$$;

-- Of jobs that are done in one piece as many as one answer carries, and always one; the others are
-- put back.
create or replace function hotmesh._delivery_fit_whole(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_fit bigint[] := array(
        select f.id
        from (
            select s.id,
                   coalesce(sum(hotmesh._bytes(a.value)) over (
                       order by s.priority desc, s.id
                       rows between unbounded preceding and 1 preceding), 0) as before
            from streams s
            cross join lateral (
                select i.value from jobs_attributes i
                where i.job_id = s.job_id and i.field = 'input'
                offset 0) a
            where s.id = any (ids)) f
        where f.before < 8388608);
begin
    perform hotmesh._stream_postpone(array(
        select i from unnest(ids) i where i <> all (v_fit)), interval '0')
    where cardinality(v_fit) < cardinality(ids);
    return v_fit;
end
$$;

-- Jobs that are done in one piece, with their arguments. A message whose job has closed meanwhile
-- is dropped.
create or replace function hotmesh._delivery_whole(ids bigint[])
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_fit bigint[] := hotmesh._delivery_fit_whole(ids);
begin
    return query
    select 'task', s.id, s.token, s.kind, s.queue, s.name, s.job_id, j.key, s.dimension, s.sequence,
           s.attempt, a.value, null::bigint, null::jsonb,
           extract(epoch from j.created_at)::double precision,
           extract(epoch from hotmesh.now())::double precision, null::text, null::integer
    from streams s
    join jobs j on j.id = s.job_id
    cross join lateral (
        select i.value from jobs_attributes i
        where i.job_id = s.job_id and i.field = 'input'
        offset 0) a
    where s.id = any (v_fit) and j.closed_at is null;
    perform hotmesh._close_clear(array(
        select s.job_id
        from streams s
        join jobs j on j.id = s.job_id
        where s.id = any (v_fit) and j.closed_at is not null))
    where v_fit <> '{}';
end
$$;

-- A run whose job is locked by somebody else comes back in 100 ms; one whose job is gone is
-- dropped.
create or replace function hotmesh._delivery_put_back(ids bigint[])
returns void
language plpgsql
as $$
begin
    if ids = '{}' then
        return;
    end if;
    perform hotmesh._stream_postpone(ids, interval '100 ms');
    perform hotmesh._close_clear(array(
        select s.job_id
        from streams s
        where s.id = any (ids)
          and not exists (select from jobs j where j.id = s.job_id and j.closed_at is null)));
end
$$;

create or replace function hotmesh._delivery_claim(
    kind text, worker text, want jsonb, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_take integer := coalesce((want ->> kind)::integer, 0);
    v_queues text[];
    v_names text[];
begin
    if v_take <= 0 or not exists (
        select from streams s where s.state = 'ready' and s.kind = _delivery_claim.kind)
    then
        return '{}';
    end if;
    select array_agg(q.value order by q.n),
           array_agg(want -> 'names' ->> q.n::integer - 1 order by q.n)
    into v_queues, v_names
    from jsonb_array_elements_text(want -> 'queues') with ordinality as q (value, n)
    where want -> 'kinds' ->> q.n::integer - 1 = kind;
    if v_queues is null then
        return '{}';
    end if;
    return hotmesh._limit_claim(kind, v_queues, v_names, worker, least(v_take, 1000), lease);
end
$$;

-- Claims runs and locks their jobs. Those that could not be locked go back, and the slots that they
-- leave are filled in the same turn: else its runs would march out of step with the others, and
-- every turn would claim and settle a few.
create or replace function hotmesh._delivery_claim_runs(
    worker text, want jsonb, lease interval, again boolean default true)
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := hotmesh._delivery_claim('workflow', worker, want, lease);
    v_locked bigint[];
    v_back bigint[];
begin
    if v_ids = '{}' then
        return v_ids;
    end if;
    v_locked := hotmesh._job_lock(array(select s.job_id from streams s where s.id = any (v_ids)));
    v_back := array(
        select s.id from streams s where s.id = any (v_ids) and s.job_id <> all (v_locked));
    if v_back = '{}' then
        return v_ids;
    end if;
    perform hotmesh._delivery_put_back(v_back);
    v_ids := array(select i from unnest(v_ids) i where i <> all (v_back));
    return v_ids || case when again then hotmesh._delivery_claim_runs(
        worker, want || jsonb_build_object('workflow', cardinality(v_back)), lease, false) end;
end
$$;

-- Tells a worker that runs activities inline which queues it must leave to the stream, if that has
-- changed.
create or replace function hotmesh._delivery_limits(known jsonb)
returns setof hotmesh.delivery
language sql
as $$
    select 'limits', null::bigint, null::integer, null::text, null::text, null::text, null::bigint,
           null::text, null::text, null::integer, null::integer, n, null::bigint, null::jsonb,
           null::double precision, null::double precision, null::text, null::integer
    from hotmesh._limit_news(known) n
    where n is not null
$$;

create or replace function hotmesh._delivery_work(worker text, want jsonb, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_relayed bigint[] := hotmesh._lease_relayed();
    v_ids bigint[];
begin
    perform hotmesh._lane_admit() where exists (select from lanes);
    v_ids := hotmesh._delivery_claim_runs(worker, want, lease);
    if v_ids <> '{}' then
        return query select (d).* from hotmesh._delivery_runs(v_ids) d;
    end if;
    if (want ->> 'activity')::integer > cardinality(v_relayed) then
        v_relayed := v_relayed || hotmesh._delivery_claim(
            'activity', worker, want || jsonb_build_object(
                'activity', (want ->> 'activity')::integer - cardinality(v_relayed)), lease);
    end if;
    if v_relayed <> '{}' then
        return query select (d).* from hotmesh._delivery_activities(v_relayed) d;
    end if;
end
$$;

-- 93_turn.sql
-- Jobs that go through a graph have no code to tell: the engine itself goes on with them. Returns
-- the others, and those that have closed.
create or replace function hotmesh._turn_walk(job_ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_graphs bigint[] := array(
        select j.id from jobs j
        where j.id = any (job_ids) and j.graph_id is not null and j.closed_at is null);
begin
    if v_graphs = '{}' then
        return job_ids;
    end if;
    perform hotmesh._isolate(v_graphs);
    return array(select j from unnest(job_ids) j where j <> all (v_graphs));
end
$$;

-- Does this failure pass when it is tried again?
create or replace function hotmesh._turn_passes(state text)
returns boolean
language sql
immutable
as $$
    select state in ('40001', '40P01') or left(state, 2) in ('53', '57')
$$;

-- A schedule that is due. Whatever its start fails of pauses it, and is kept there: a refusal, what
-- an owner's trigger raises.
create or replace function hotmesh._isolate(schedule hotmesh.schedules)
returns void
language plpgsql
as $$
declare
    v_state text;
    v_message text;
    v_detail text;
    v_hint text;
begin
    perform hotmesh._tick_move(schedule, null);
exception
    when others then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text,
            v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        if hotmesh._turn_passes(v_state) then
            raise;
        end if;
        perform hotmesh._tick_move(schedule, jsonb_build_object(
            'sqlstate', v_state, 'message', v_message, 'detail', v_detail, 'hint', v_hint));
end
$$;

-- Jobs that walk, all at once or, if that fails, each by itself: one that fails alone is ended with
-- its error, so that it stops nobody's turns.
create or replace function hotmesh._isolate(job_ids bigint[])
returns void
language plpgsql
as $$
begin
    perform hotmesh._errand_go(job_ids);
exception
    when others then
        if hotmesh._turn_passes(sqlstate) then
            raise;
        elsif cardinality(job_ids) > 1 then
            perform hotmesh._isolate(array[j]) from unnest(job_ids) j;
        else
            perform hotmesh._order_interrupt(job_ids[1], jsonb_build_object(
                'type', 'EngineError', 'code', 598,
                'reason', format('%s (%s)', sqlerrm, sqlstate)));
        end if;
end
$$;

create or replace function hotmesh._turn_route()
returns void
language plpgsql
as $$
declare
    v_jobs bigint[] := hotmesh._job_news(
        '{result,query,signal,hook,cancel,interrupt,update,effect}', 200);
    v_locked bigint[];
    v_open bigint[];
begin
    if v_jobs = '{}' then
        return;
    end if;
    v_locked := hotmesh._job_lock(v_jobs);
    perform hotmesh._order_apply(v_locked, '{hook,cancel,interrupt,update}');
    perform hotmesh._effect_resume(v_locked);
    perform hotmesh._signal_meet(v_locked);
    v_locked := hotmesh._turn_walk(v_locked);
    perform hotmesh._signal_give_back(hotmesh._inbox_orphans(v_locked), '{}');
    perform hotmesh._worker_wake(hotmesh._inbox_route(v_locked));
    v_open := array(select j.id from jobs j where j.id = any (v_jobs) and j.closed_at is null);
    v_jobs := array(select u from unnest(v_jobs) u where u <> all (v_open));
    if v_jobs <> '{}' then
        perform hotmesh._close_clear(v_jobs);
    end if;
end
$$;

-- What is reported instead of the report that could not be applied: its activity or its job failed.
create or replace function hotmesh._turn_refused(report jsonb, error jsonb)
returns jsonb
language sql
stable
as $$
    select jsonb_build_array(
        jsonb_build_object(
            'id', report -> 'id', 'token', report -> 'token',
            'cursor', coalesce(report -> 'before', report -> 'cursor'),
            'keep', true, 'refused', true)
        || case when report ? 'cursor'
                then jsonb_build_object('outcome', jsonb_build_object('error', error))
                else jsonb_build_object('error', error) end)
$$;

-- The one place that catches everything: a report that fails alone is recorded on its job, so that
-- it costs nobody else anything; if not even that can be done, its message is parked. What a repeat
-- may cure (serialization, deadlock, shutdown, out of resources) passes through.
create or replace function hotmesh._isolate(reports jsonb, worker text, lease interval)
returns setof hotmesh.delivery
language plpgsql
as $$
declare
    v_error jsonb;
    v_state text;
    v_message text;
    v_detail text;
begin
    return query select (a).* from hotmesh._report_apply(reports, worker, lease) a;
exception
    when others then
        get stacked diagnostics
            v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail;
        if hotmesh._turn_passes(v_state) then
            raise;
        end if;
        v_error := jsonb_build_object(
            'type', 'EngineError', 'code', 598, 'sqlstate', v_state, 'detail', v_detail,
            'message', format('the engine refused a report: %s', v_message));
        if reports -> 0 ? 'refused' then
            perform hotmesh._lease_park((reports -> 0 ->> 'id')::bigint, v_error);
            return;
        end if;
        return query
        select (a).*
        from hotmesh._isolate(hotmesh._turn_refused(reports -> 0, v_error), worker, lease) a;
end
$$;

-- Checks what a turn was told; what it orders it carries out itself (87). Returns its lease.
create or replace function hotmesh._turn_begin(worker text, want jsonb)
returns interval
language plpgsql
as $$
declare
    v_turning text := set_config('hotmesh.turning', 'on', true);
begin
    worker := hotmesh._worker_check(worker);
    if jsonb_typeof(want) is distinct from 'object'
        or not hotmesh._is_number(coalesce(want -> 'lease', '15'), 0.1, 86400)
    then
        perform hotmesh._refuse_argument(
            format('bad want: %s', left(want::text, 100)),
            'It is an object; its lease is a number of seconds from 0.1 to 86400.',
            'Leave the lease out for 15.');
    elsif want ->> 'brief' = 'true' then
        null;  -- it has just turned with the same
    elsif jsonb_path_exists(want, 'strict $ ? (
        exists(@.workflow ? (!exists(@ ? (@ >= 0 && @ <= 1000000 && @.floor() == @))))
        || exists(@.activity ? (!exists(@ ? (@ >= 0 && @ <= 1000000 && @.floor() == @))))
        || exists(@.pid ? (!exists(@ ? (@ == null || @ >= 0 && @ < 2147483648 && @.floor() == @))))
        || exists(@.limits ? (@.type() != "object")) || exists(@.held ? (@.type() != "array"))
        || exists(@.held[*] ? (!exists(@ ? (@ >= 0 && @ <= 9223372036854775807)))))')
        or jsonb_path_exists(want, 'lax $ ? (
            (exists(@.kinds) || exists(@.queues) || exists(@.names)) && !(
                @.kinds.type() == "array" && @.queues.type() == "array"
                && @.names.type() == "array" && @.kinds.size() == @.queues.size()
                && @.kinds.size() == @.names.size()))')
    then
        perform hotmesh._refuse_argument(
            format('bad want: %s', left(want::text, 100)),
            'workflow and activity are numbers of free slots; kinds, queues and names are arrays '
            || 'of one length; held is an array of the numbers of messages.',
            'Leave out what there is nothing to say of.');
    end if;
    return make_interval(secs => coalesce((want ->> 'lease')::double precision, 15));
end
$$;

-- Reports that waited for a lock. A later report of such a run waits behind them. Each is isolated:
-- whoever sent it may be gone.
create or replace function hotmesh._turn_kept(worker text, lease interval)
returns void
language plpgsql
as $$
declare
    v_kept jsonb := hotmesh._report_kept(50);
begin
    perform hotmesh._signal_sweep(200, true);  -- before this turn writes halves of its own
    if v_kept <> '[]' then
        perform hotmesh._isolate(jsonb_build_array(k), worker, lease)
        from jsonb_array_elements(v_kept) k;
    end if;
end
$$;

-- Is there news that this turn caused, or that somebody else had locked?
create or replace function hotmesh._turn_owes()
returns boolean
language plpgsql
as $$
begin
    return exists (
        select from streams s
        where s.kind in ('event', 'signal') and s.state = 'ready'
          and s.name in (
              'result', 'signal', 'hook', 'cancel', 'interrupt', 'update', 'effect'))
        or exists (select from signals s where s.state = 'new');
end
$$;

-- When there will be something to do, as far as is known.
create or replace function hotmesh._turn_next(worker text, want jsonb)
returns hotmesh.delivery
language plpgsql
as $$
begin
    return ('next', null, null, null, null, null, null, null, null, null, null, null, null, null,
            null, case when hotmesh._turn_owes() then 0
                  else least(hotmesh._queue_next_due(worker, want), hotmesh._tick_next_due()) end,
            null, null)::hotmesh.delivery;
end
$$;

create or replace function hotmesh._turn_end(worker text, want jsonb, idle boolean)
returns void
language plpgsql
as $$
begin
    if idle then
        perform hotmesh._archive_expired(200);
    end if;
    if want ? 'seen' then
        perform hotmesh._worker_seen(worker, want, idle);
    end if;
    perform hotmesh._worker_wake_useful(worker);
end
$$;

create or replace function hotmesh._turn_sweep()
returns void
language plpgsql
as $$
begin
    perform hotmesh._lease_sweep(200);
    perform hotmesh._isolate(s) from unnest(hotmesh._tick_take(10)) s;
    perform hotmesh._signal_sweep(200, false);
    perform hotmesh._turn_route();
end
$$;

create or replace function hotmesh.turn(
    app text, worker text, reports jsonb default '[]', want jsonb default '{}')
returns setof hotmesh.delivery
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_brief boolean := coalesce(want ->> 'brief' = 'true', false);
    v_began timestamptz;
    v_lease interval;
    v_given bigint;
begin
    perform hotmesh._enter(app);
    v_lease := hotmesh._turn_begin(worker, want);
    v_began := hotmesh.now();
    if not v_brief then
        perform hotmesh._turn_kept(worker, v_lease);
    end if;
    if want ->> 'isolate' = 'true' and jsonb_typeof(reports) = 'array' then
        return query
        select (a).*
        from jsonb_array_elements(reports) r
        cross join lateral hotmesh._isolate(jsonb_build_array(r), worker, v_lease) a;
    elsif reports is distinct from '[]' then
        return query select (a).* from hotmesh._report_apply(reports, worker, v_lease, want) a;
    end if;
    if want ? 'held' then
        perform hotmesh._lease_reconcile(
            worker, array(select h::bigint from jsonb_array_elements_text(want -> 'held') h),
            v_lease, v_began);
    end if;
    if not v_brief then
        perform hotmesh._turn_sweep();
        return query select (l).* from hotmesh._delivery_limits(want -> 'limits') l;
    end if;
    return query select (d).* from hotmesh._delivery_work(worker, want, v_lease) d;
    get diagnostics v_given = row_count;
    if not v_brief or want ? 'seen' then
        perform hotmesh._turn_end(worker, want, v_given = 0 and want @> '{"idle": true}');
    end if;
    if v_given = 0 and reports = '[]' then
        return next hotmesh._turn_next(worker, want);
    end if;
end
$$;
comment on function hotmesh.turn(text, text, jsonb, jsonb) is
'Apply what a worker reports, move jobs on, claim new work: one round trip, one commit. want:
workflow and activity (free slots), kinds, queues, names (topics served), lease (seconds), idle,
seen, isolate, host, pid, limits (those it knows), brief (it turns again at once, and then sweeps
and wakes others). Rows: see the type hotmesh.delivery.';

-- 94_claim.sql
create or replace function hotmesh._claim_names(kind text, queue text)
returns text[]
language plpgsql
as $$
begin
    return array(
        with recursive found (name) as (
            (select s.name from streams s
             where s.state = 'ready' and s.kind = _claim_names.kind
               and s.queue = _claim_names.queue
             order by s.name limit 1)
            union all
            select (select s.name from streams s
                    where s.state = 'ready' and s.kind = _claim_names.kind
                      and s.queue = _claim_names.queue and s.name > f.name
                    order by s.name limit 1)
            from found f
            where f.name is not null)
        select f.name from found f where f.name is not null limit 1000);
end
$$;

-- Has its function written nothing down that a replay would need? What others ask of it (cancel,
-- update) is numbered from zero down, and hooks have their own dimensions.
create or replace function hotmesh._claim_fresh(job_id bigint)
returns boolean
language plpgsql
as $$
begin
    return not exists (
        select from jobs_attributes a
        where a.job_id = _claim_fresh.job_id and a.dimension = '' and a.sequence > 0);
end
$$;

-- Is it code that serves the name? Then the first of its runs shows that; a hook shows nothing.
create or replace function hotmesh._claim_replays(queue text, name text)
returns boolean
language plpgsql
as $$
begin
    return hotmesh._worker_serves('workflow', queue, name) or not coalesce((
        select s.sequence is null and hotmesh._claim_fresh(s.job_id)
        from streams s
        where s.state = 'ready' and s.kind = 'workflow' and s.dimension = ''
          and s.queue = _claim_replays.queue and s.name = _claim_replays.name
        order by s.priority desc, s.id
        limit 1), false);
end
$$;

-- Runs that may be done in one piece. Where the queue is limited, they have a slot, or what begins
-- gets one.
create or replace function hotmesh._claim_whole(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_limited boolean := hotmesh._limit_of('workflow', array[queue]) <> '{}';
    v_ids bigint[] := array(
        select s.id
        from streams s
        where s.state = 'ready' and s.kind = 'workflow'
          and s.queue = _claim_whole.queue and s.name = _claim_whole.name
          and s.dimension = '' and s.sequence is null and (s.slot = 2 or not v_limited)
          and hotmesh._claim_fresh(s.job_id)
        order by s.priority desc, s.id
        limit take
        for update skip locked);
begin
    perform hotmesh._stream_lease(v_ids, worker, lease) where v_ids <> '{}';
    if v_limited then
        v_ids := v_ids || hotmesh._limit_take(
            'workflow', queue, name, worker, take - cardinality(v_ids), lease);
    end if;
    return v_ids;
end
$$;

-- Jobs that were asked to stop before they were begun, or begun again, end here: there is no code
-- to clean up. Returns the others. Of one that is locked this instant a later claim finds out.
create or replace function hotmesh._claim_stop(ids bigint[])
returns bigint[]
language plpgsql
as $$
declare
    v_asked hotmesh.streams[] := array(
        select (s::hotmesh.streams)
        from streams s
        where s.id = any (ids) and exists (
            select from jobs_attributes a
            where a.job_id = s.job_id and a.dimension = '' and a.kind = 'cancel'));
    v_locked bigint[];
begin
    if v_asked = '{}' then
        return ids;
    end if;
    v_locked := hotmesh._job_lock(array(select m.job_id from unnest(v_asked) m));
    perform hotmesh._stream_postpone(
        array(select m.id from unnest(v_asked) m where m.job_id <> all (v_locked)),
        interval '100 ms');
    perform hotmesh._report_apply(jsonb_agg(jsonb_build_object(
        'id', m.id, 'token', m.token, 'cursor', j.cursor, 'outcome', jsonb_build_object(
            'error', jsonb_build_object(
                'type', 'JobCancelledError', 'code', 499,
                'message', format('job [%s] was cancelled', j.key))))), '', interval '15 s')
    from unnest(v_asked) m
    join jobs j on j.id = m.job_id
    where m.job_id = any (v_locked)
    having count(*) > 0;
    return array(select i from unnest(ids) i where i <> all (array(
        select m.id from unnest(v_asked) m)));
end
$$;

-- Those that were asked to stop leave room for others. Bounded: behind many of them a later claim
-- goes on.
create or replace function hotmesh._claim_begin(
    queue text, name text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_ids bigint[] := '{}';
    v_taken bigint[];
    v_left bigint[];
begin
    for i in 1..10 loop
        v_taken := hotmesh._claim_whole(queue, name, worker, take - cardinality(v_ids), lease);
        v_left := hotmesh._claim_stop(v_taken);
        v_ids := v_ids || v_left;
        exit when cardinality(v_left) = cardinality(v_taken);
    end loop;
    return v_ids;
end
$$;

-- Runs of workflows that no code serves: what does would have to replay. The names with the oldest
-- and most urgent ones first.
create or replace function hotmesh._claim_runs(
    queue text, worker text, take integer, lease interval)
returns bigint[]
language plpgsql
as $$
declare
    v_names text[] := hotmesh._claim_names('workflow', queue);
    v_ids bigint[] := '{}';
    v_place integer;
begin
    for v_place in
        select h from hotmesh._stream_heads(
            'workflow', array_fill(queue, array[cardinality(v_names)]), v_names, worker) h
    loop
        exit when cardinality(v_ids) >= take;
        if not hotmesh._claim_replays(queue, v_names[v_place]) then
            v_ids := v_ids || hotmesh._claim_begin(
                queue, v_names[v_place], worker, take - cardinality(v_ids), lease);
        end if;
    end loop;
    return v_ids;
end
$$;

create or replace function hotmesh.stream_claim(
    app text, queue text, worker text, take integer default 1, lease interval default '15 s')
returns table (id bigint, token integer, name text, args jsonb, attempt integer, key text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_names text[];
    v_ids bigint[];
begin
    perform hotmesh._enter(app);
    perform hotmesh._lease_check(lease);
    if octet_length(coalesce(queue, '')) not between 1 and 500
        or octet_length(coalesce(worker, '')) not between 1 and 500
        or take is null or take not between 1 and 1000
    then
        perform hotmesh._refuse_argument(
            'a claim needs a queue, a worker and a number from 1 to 1000',
            format('They were %L, %L, %L.', left(queue, 60), left(worker, 60), take),
            'Names have up to 500 bytes; take defaults to 1.');
    end if;
    -- Of other queues nothing is touched: the caller may stay in its transaction.
    perform hotmesh._lease_sweep(100, queue);
    perform hotmesh._lane_admit();
    v_names := hotmesh._claim_names('activity', queue);
    v_ids := case when v_names = '{}' then '{}' else hotmesh._limit_claim(
        'activity', array_fill(queue, array[cardinality(v_names)]), v_names, worker, take,
        lease) end;
    return query
    select c.id, c.token, c.name, c.args, c.attempt, c.key
    from hotmesh._delivery_activities(v_ids) c;
    if cardinality(v_ids) < take then
        return query
        select r.id, r.token, r.name, r.args, r.attempt, r.key
        from hotmesh._delivery_whole(
            hotmesh._claim_runs(queue, worker, take - cardinality(v_ids), lease)) r;
    end if;
end
$$;
comment on function hotmesh.stream_claim(text, text, text, integer, interval) is
'Take up to `take` messages of a queue for `lease`: activities of workflows; tasks of graphs, whose
queue is their topic; and jobs whose workflow no worker is there for, to be done in one piece: those
that were cancelled end instead. Report each by stream_complete or stream_fail with its token, or
extend it in time.';

-- The message of a report, locked, if its token is current. It comes before its job, as it does in
-- a transaction that holds it: here whoever reports late waits for nobody.
create or replace function hotmesh._claim_message(report jsonb)
returns hotmesh.streams
language plpgsql
as $$
declare
    v_message hotmesh.streams;
begin
    select (s::hotmesh.streams).* into v_message
    from streams s
    where s.id = (report ->> 'id')::bigint and s.token = (report ->> 'token')::integer
      and s.kind in ('activity', 'workflow') and s.state = 'leased'
    for update;
    return v_message;
end
$$;

-- Of a job that is done in one piece the report is the outcome of its code; null if that has begun
-- to do it in steps, or the job has closed while its message was held.
create or replace function hotmesh._claim_outcome(report jsonb, message hotmesh.streams)
returns jsonb
language plpgsql
as $$
declare
    v_cursor bigint;
begin
    select j.cursor into v_cursor
    from jobs j
    where j.id = message.job_id and j.closed_at is null
    for update;
    if v_cursor is null or not hotmesh._claim_fresh(message.job_id) then
        return null;
    end if;
    return report - '{output,error}'::text[] || jsonb_build_object(
        'cursor', v_cursor,
        'retry_policy', coalesce(message.retry_policy, report -> 'retry_policy'),
        'outcome', case
            when report ? 'error' then jsonb_build_object('error', report -> 'error')
            else jsonb_build_object('output', report -> 'output') end);
end
$$;

-- One report through the turn; what is locked this instant is waited for: here the caller has
-- nothing else to do.
create or replace function hotmesh._claim_report(report jsonb)
returns text
language plpgsql
as $$
declare
    v_message hotmesh.streams := hotmesh._claim_message(report);
    v_verdict text;
begin
    if v_message.kind = 'workflow' then
        report := hotmesh._claim_outcome(report, v_message);
    end if;
    if v_message.id is null or report is null then
        return 'stale';
    end if;
    select a.answer into v_verdict
    from hotmesh._report_apply(jsonb_build_array(report), '', interval '15 s') a;
    perform hotmesh._lane_admit();
    perform hotmesh._worker_wake_useful('');
    return coalesce(v_verdict, 'ok');
end
$$;

create or replace function hotmesh.stream_hold(app text, id bigint, token integer)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_mine text := format('%s %s %s', stream_hold.app, stream_hold.id, stream_hold.token);
begin
    perform hotmesh._enter(app);
    if current_setting('hotmesh.held', true) = v_mine then
        return 'held';
    end if;
    perform from streams s
    where s.id = stream_hold.id and s.token = stream_hold.token
      and s.kind in ('activity', 'workflow') and s.state = 'leased'
    for update;
    if not found then
        return 'stale';
    end if;
    perform set_config('hotmesh.held', v_mine, true);
    return 'ok';
end
$$;
comment on function hotmesh.stream_hold(text, bigint, integer) is
'First in a transaction whose writes are to come and go with the report that ends it: locks a
claimed message, so that nobody takes it, however long it lasts. Answers ok, or stale when the token
is no longer current; held when this very transaction has it already.';

create or replace function hotmesh.stream_complete(
    app text, id bigint, token integer, output jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    return hotmesh._claim_report(jsonb_build_object('id', id, 'token', token, 'output', output));
end
$$;
comment on function hotmesh.stream_complete(text, bigint, integer, jsonb) is
'Report the result of a claimed message. Answers ok, or stale when the token is no longer current:
then nothing changed.';

create or replace function hotmesh.stream_fail(
    app text, id bigint, token integer, error jsonb, retry_policy jsonb default null,
    details jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if jsonb_typeof(error) is distinct from 'object' then
        perform hotmesh._refuse_argument(
            'an error is a JSON object', left(error::text, 200),
            'For instance {"message": "no stock", "type": "StockError"}.');
    end if;
    return hotmesh._claim_report(jsonb_build_object(
        'id', id, 'token', token, 'error', error, 'output', details,
        'retry_policy', hotmesh._retry_policy(retry_policy)));
end
$$;
comment on function hotmesh.stream_fail(text, bigint, integer, jsonb, jsonb, jsonb) is
'Report a failure, {"message": …, "type": …}; it is retried by its policy, or by `retry_policy`
where the call has none, or becomes a dead letter and an error in its workflow. `details` are handed
to the next attempt. Answers ok or stale.';

create or replace function hotmesh.stream_extend(
    app text, id bigint, token integer, lease interval default '15 s', details jsonb default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    perform hotmesh._lease_check(lease);
    perform hotmesh._job_check_size('details', details);
    perform from streams s where s.id = stream_extend.id for update;
    return (
        select b.answer
        from hotmesh._lease_beat(array[id], array[token], array[details], lease) b);
end
$$;
comment on function hotmesh.stream_extend(text, bigint, integer, interval, jsonb) is
'Keep a claimed message for `lease` from now: it is its heartbeat too, and `details` are handed to
the next attempt. Answers ok or stale.';

create or replace function hotmesh.stream_revive(app text, id bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform hotmesh._enter(app);
    if not hotmesh._stream_revive(id) then
        perform hotmesh._stream_refuse_missing(id);
    end if;
    perform hotmesh._worker_wake_useful('');
end
$$;
comment on function hotmesh.stream_revive(text, bigint) is
'Serve a parked workflow again, with fresh attempts. Raises MSH30 if there is no such message.';

-- 95_view.sql
create or replace view hotmesh.queue_depth as
select a.name as app, s.kind, s.queue, s.name,
       count(*) filter (where s.state = 'ready') as ready,
       count(*) filter (where s.state = 'delayed') as delayed,
       count(*) filter (where s.state = 'leased') as leased,
       count(*) filter (where s.state = 'waiting') as waiting,
       count(*) filter (where s.state = 'dead') as dead,
       min(s.created_at) filter (where s.state = 'ready') as oldest,
       count(*) filter (where s.state = 'held') as held
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
where s.kind in ('workflow', 'activity')
group by a.name, s.kind, s.queue, s.name;
comment on view hotmesh.queue_depth is
'Per app, queue and function: how many messages are in which state, and how old the oldest is.';

create or replace view hotmesh.dead_letters as
select a.name as app, j.key, s.id, s.queue, s.name, s.attempt, s.visible_at as died_at,
       s.error ->> 'type' as type, s.error ->> 'message' as message
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
left join lateral (
    select j.key
    from hotmesh.jobs j
    join pg_catalog.pg_class k on k.oid = j.tableoid
    where j.id = s.job_id and k.relnamespace = n.oid) j on true
where s.state = 'dead' and s.kind = 'activity';
comment on view hotmesh.dead_letters is
'Activities that used up their attempts. Their jobs were told.';

create or replace view hotmesh.stuck_jobs as
select a.name as app, j.key, j.topic, s.id, s.queue, s.attempt, s.visible_at as since,
       case when s.state = 'dead' then 'parked' else 'mismatch' end as reason,
       coalesce(m.value ->> 'message', s.error ->> 'message', m.value #>> '{}') as message
from hotmesh.streams s
join pg_catalog.pg_class c on c.oid = s.tableoid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join hotmesh.apps a on a.schema_name = n.nspname
cross join lateral (
    select j.key, j.topic
    from hotmesh.jobs j
    join pg_catalog.pg_class k on k.oid = j.tableoid
    where j.id = s.job_id and k.relnamespace = n.oid and j.closed_at is null) j
left join lateral (
    select m.value
    from hotmesh.jobs_attributes m
    join pg_catalog.pg_class k on k.oid = m.tableoid
    where m.job_id = s.job_id and m.field = 'mismatch' and k.relnamespace = n.oid) m on true
where s.kind = 'workflow'
  and (s.state = 'dead'
       or s.state in ('delayed', 'ready') and s.error is not null and m.value is not null);
comment on view hotmesh.stuck_jobs is
'Open jobs that do not move: parked, since no worker reported on them (stream_revive serves them
again), or waiting for right code after a mismatch in replay.';

-- The parts of a job that are not in its journal: what is under way, and what it belongs to.
create or replace function hotmesh._view_family(job hotmesh.jobs)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_build_object(
        'parent', (
            select jsonb_build_object(
                'id', p.key, 'workflow', p.topic, 'semaphore', p.status,
                'dimension', job.parent_dimension, 'step', job.parent_sequence)
            from jobs_all p where p.id = job.parent_id limit 1),
        'origin', (
            select p.key from jobs_all p
            where p.id = coalesce(job.origin_id, job.parent_id) limit 1),
        'close_policy', job.close_policy,
        'children', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'id', c.key, 'workflow', c.topic, 'semaphore', c.status,
                'dimension', c.parent_dimension, 'step', c.parent_sequence,
                'created_at', c.created_at, 'closed_at', c.closed_at) order by c.id), '[]')
            from (
                select j.id, j.key, j.topic, j.status, j.parent_dimension, j.parent_sequence,
                       j.created_at, j.closed_at
                from jobs j
                where j.parent_id = job.id
                order by j.id
                limit 100) c),
        'child_count', (select count(*) from jobs j where j.parent_id = job.id));
end
$$;

-- `maximum`: of attempts; a workflow that raises has none unless its start gave a policy.
create or replace function hotmesh._view_work(job_id bigint, kind text)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'message', s.id, 'dimension', s.dimension, 'step', s.sequence, 'name', s.name,
            'queue', s.queue, 'state', s.state, 'attempt', s.attempt,
            'maximum', case when s.kind = 'activity' or s.retry_policy is not null
                            then coalesce((s.retry_policy ->> 'maximum_attempts')::integer, 3) end,
            'due', case when s.state in ('delayed', 'leased') and isfinite(s.visible_at)
                        then s.visible_at end,
            'worker', s.worker, 'error', s.error) order by s.dimension, s.sequence), '[]')
        from (
            select m.id, m.kind, m.dimension, m.sequence, m.name, m.queue, m.state, m.attempt,
                   m.retry_policy, m.visible_at, m.worker, m.error
            from streams m
            where m.job_id = _view_work.job_id and m.kind = _view_work.kind
            order by m.id
            limit 100) s);
end
$$;

-- Alarms with the step that each is for, null: the whole job; and orders and signals that came.
create or replace function hotmesh._view_news(job_id bigint)
returns jsonb
language plpgsql
stable
as $$
begin
    return jsonb_build_object(
        'timers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'dimension', t.dimension, 'step', t.sequence, 'due', t.visible_at,
                'what', case t.name when 'deadline' then 'schedule_to_close'
                                    when 'interrupt' then t.args ->> 'limit'
                                    else 'timer' end) order by t.visible_at), '[]')
            from streams t
            where t.job_id = _view_news.job_id and t.kind = 'timer' and isfinite(t.visible_at)),
        'signals', (
            select coalesce(jsonb_agg(e.args ->> 'signal' order by e.id), '[]')
            from streams e
            where e.job_id = _view_news.job_id and e.kind = 'signal'),
        'orders', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'order', e.name, 'given_at', e.created_at) order by e.id), '[]')
            from streams e
            where e.job_id = _view_news.job_id and e.kind = 'event'
              and e.name in ('hook', 'cancel', 'interrupt')));
end
$$;

create or replace function hotmesh.job_describe(app text, key text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job hotmesh.jobs;
begin
    perform hotmesh._enter(app);
    v_job := hotmesh._engine_job(key);
    return jsonb_build_object(
        'id', v_job.key, 'number', v_job.id, 'workflow', v_job.topic, 'entity', v_job.entity,
        'queue', v_job.queue, 'semaphore', v_job.status, 'created_at', v_job.created_at,
        'updated_at', v_job.updated_at, 'closed_at', v_job.closed_at,
        'expire_at', v_job.expire_at, 'entity_version', v_job.entity_version,
        'hooks', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'dimension', a.dimension, 'workflow', a.name, 'state', a.state,
                'signal', a.value -> 'signal', 'created_at', a.created_at,
                'updated_at', a.updated_at) order by a.created_at, a.dimension), '[]')
            from jobs_attributes_all a
            where a.job_id = v_job.id and a.kind = 'hook' and a.field = 'hook' || a.dimension),
        'functions', hotmesh._view_work(v_job.id, 'workflow'),
        'activities', hotmesh._view_work(v_job.id, 'activity'))
        || hotmesh._view_family(v_job) || hotmesh._view_news(v_job.id);
end
$$;
comment on function hotmesh.job_describe(text, text) is
'A job as operators look at it, beside its journal (job_export): parent and children, hooks, the
functions and activities under way with their attempts and errors, timers, and what was sent to it
and not taken yet. Lists end at 100. Raises MSH40.';

-- 99_grant.sql
-- Every door once, with the smallest kind that may open it.
create or replace function hotmesh._grant_ring()
returns table (door name, kind text)
language sql
immutable
as $$
    select d.door::name, k.kind
    from (values
        ('owner', 'app_create app_upgrade app_drop app_grant app_revoke'),
        ('client', 'schedule_create schedule_pause schedule_resume schedule_delete'),
        ('client', 'schedule_trigger schedule_backfill'),
        ('reader', 'schedule_list now version protocol build'),
        ('reader', 'job_status job_result job_results job_state job_export'),
        ('reader', 'job_list job_history job_describe worker_list queue_stats queue_list'),
        ('reader', 'entity_find search_find search_get emit_channel emit_read'),
        ('operator', 'entity_create_index entity_index_ddl'),
        ('client', 'job_start job_start_many job_signal job_cancel job_interrupt'),
        ('client', 'graph_pub graph_signal graph_signal_all graph_add'),
        ('operator', 'graph_deploy graph_activate'),
        ('reader', 'graph_list graph_explain graph_stats graph_ids'),
        ('client', 'signal_send hook_start query_ask query_result update_send update_result'),
        ('reader', 'entity_get entity_history entity_at entity_diff'),
        ('client', 'entity_set entity_merge entity_append entity_prepend entity_remove'),
        ('client', 'entity_increment entity_toggle entity_set_if_not_exists entity_delete'),
        ('client', 'entity_apply entity_fork entity_watch'),
        ('worker', 'query_answer'),
        ('worker', 'turn worker_extend worker_heartbeat worker_stop'),
        ('worker', 'stream_claim stream_hold stream_complete stream_fail stream_extend graph_call'),
        ('operator', 'job_archive job_prune job_scrub entity_prune stream_revive'),
        ('operator', 'queue_limit queue_unlimit queue_throttle')
    ) k (kind, doors)
    cross join lateral regexp_split_to_table(k.doors, ' ') d (door)
$$;

create or replace function hotmesh._grant_rank(kind text)
returns integer
language sql
immutable
as $$
    select array_position('{reader,client,worker,operator,owner}', kind)
$$;

create or replace function hotmesh._grant_doors(kind text)
returns setof regprocedure
language sql
stable
as $$
    select p.oid::regprocedure
    from pg_proc p
    join hotmesh._grant_ring() r on r.door = p.proname
    where p.pronamespace = to_regnamespace('hotmesh')
      and hotmesh._grant_rank(r.kind) <= hotmesh._grant_rank(_grant_doors.kind)
    order by p.proname
$$;

-- The kind that a role has: that of the highest door it was granted; null if none was.
create or replace function hotmesh._grant_kind(holder oid)
returns text
language sql
stable
as $$
    select r.kind
    from hotmesh._grant_ring() r
    join pg_proc p on p.proname = r.door and p.pronamespace = to_regnamespace('hotmesh')
    cross join lateral aclexplode(p.proacl) a
    where a.grantee = holder and a.privilege_type = 'EXECUTE'
    order by hotmesh._grant_rank(r.kind) desc
    limit 1
$$;

-- The roles that have a key to an app.
create or replace function hotmesh._grant_holders(schema text)
returns setof regrole
language sql
stable
as $$
    select a.grantee::regrole
    from pg_namespace n
    cross join lateral aclexplode(n.nspacl) a
    where n.nspname = schema and a.privilege_type = 'USAGE' and a.grantee not in (0, n.nspowner)
      and hotmesh._grant_kind(a.grantee) is not null
$$;

-- Another app to which a role has a key; null if there is none.
create or replace function hotmesh._grant_elsewhere(app hotmesh.apps, holder regrole)
returns text
language sql
stable
as $$
    select min(a.name)
    from hotmesh.apps a
    cross join lateral hotmesh._grant_holders(a.schema_name) h
    where h = holder and a.name <> app.name
$$;

create or replace function hotmesh._grant_give(schema text, holder regrole, kind text)
returns setof text
language sql
stable
as $$
    select format('grant usage on schema hotmesh, %I to %s', schema, holder)
    union all
    select format('grant execute on function %s to %s', d, holder)
    from hotmesh._grant_doors(kind) d
    union all
    select format('grant select on all tables in schema %I to %s', schema, holder)
    where kind in ('reader', 'operator')
$$;

create or replace function hotmesh._grant_take_app(schema text, holder regrole)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('revoke all on all tables in schema %I from %s', schema, holder),
        format('revoke all on schema %I from %s', schema, holder)])
$$;

create or replace function hotmesh._grant_take_doors(holder regrole)
returns setof text
language sql
stable
as $$
    select format('revoke all on function %s from %s', d, holder)
    from hotmesh._grant_doors('owner') d
    union all
    select format('revoke all on schema hotmesh from %s', holder)
$$;

create or replace function hotmesh._grant_find_role(role text)
returns regrole
language plpgsql
stable
as $$
declare
    v_oid oid := (select r.oid from pg_roles r where r.rolname = role);
begin
    if v_oid is null then
        perform hotmesh._refuse_argument(
            format('there is no role %s', hotmesh._named(role)),
            'A key is given to a role that exists, written as in pg_roles.',
            format('Create it: create role %I', coalesce(left(nullif(role, ''), 63), 'my_role')));
    elsif v_oid = (select n.nspowner from pg_namespace n where n.nspname = 'hotmesh')
        or v_oid = current_user::regrole then
        perform hotmesh._refuse_argument(
            format('role "%s" owns the engine', role),
            'The owner needs no key: it may do everything.', 'Give the key to another role.');
    end if;
    return v_oid;
end
$$;

create or replace function hotmesh._grant_check(app hotmesh.apps, holder regrole, kind text)
returns void
language plpgsql
as $$
declare
    v_other text := hotmesh._grant_elsewhere(app, holder);
begin
    if coalesce(kind, '') not in ('reader', 'client', 'worker', 'operator') then
        perform hotmesh._refuse_argument(
            format('there is no kind of key %s', hotmesh._named(kind)),
            'A key is of one of four kinds.', 'Say client, worker, operator or reader.');
    elsif v_other is not null and hotmesh._grant_kind(holder) <> kind then
        perform hotmesh._refuse_argument(
            format('role %s has another kind of key: %s', holder, hotmesh._grant_kind(holder)),
            format('It has it to app "%s", and a role has one kind in all its apps.', v_other),
            format('Give it the same kind, or use a role of its own for app "%s".', app.name));
    end if;
end
$$;

create or replace function hotmesh.app_grant(app text, role text, kind text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_app hotmesh.apps;
    v_role regrole;
begin
    perform hotmesh._enter(app);
    v_app := hotmesh._app_get(app);
    v_role := hotmesh._grant_find_role(role);
    perform hotmesh._grant_check(v_app, v_role, kind);
    if v_role not in (select hotmesh._grant_holders(v_app.schema_name))
        and hotmesh._grant_elsewhere(v_app, v_role) is null then
        perform hotmesh._app_run(array(select hotmesh._grant_take_doors(v_role)));
    end if;
    perform hotmesh._app_run(array(select hotmesh._grant_give(v_app.schema_name, v_role, kind)));
end
$$;
comment on function hotmesh.app_grant(text, text, text) is
'Give a role a key to an app; kind is client, worker, operator or reader. Adds to what it has: to
lower a key, app_revoke it first. Raises 22023 if the role has another kind in another app.';

create or replace function hotmesh.app_revoke(app text, role text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_app hotmesh.apps;
    v_role regrole;
begin
    perform hotmesh._enter(app);
    v_app := hotmesh._app_get(app);
    v_role := hotmesh._grant_find_role(role);
    perform hotmesh._app_run(array(select hotmesh._grant_take_app(v_app.schema_name, v_role)));
    if hotmesh._grant_elsewhere(v_app, v_role) is null then
        perform hotmesh._app_run(array(select hotmesh._grant_take_doors(v_role)));
    end if;
end
$$;
comment on function hotmesh.app_revoke(text, text) is
'Take the key to an app from a role. Nothing happens if it has none.';

-- The last room's, because it needs them all: keys that were given open the doors that came since.
create or replace function hotmesh.app_upgrade(app text)
returns hotmesh.apps
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set client_min_messages = warning
set lock_timeout = '10s'
as $$
declare
    v_app hotmesh.apps := hotmesh._app_get(app);
begin
    perform hotmesh._app_lock(v_app.schema_name);
    v_app := hotmesh._app_furnish(v_app);
    perform hotmesh._app_run(array(
        select hotmesh._grant_give(v_app.schema_name, h, hotmesh._grant_kind(h))
        from hotmesh._grant_holders(v_app.schema_name) h));
    perform hotmesh._deploy_renew(v_app.schema_name);
    return v_app;
end
$$;
comment on function hotmesh.app_upgrade(text) is
'Bring the tables, keys and compiled graphs of an app up to the installed engine. A graph that it
can''t compile stays as it is, with a warning. May be repeated; waits for a lock for 10 s at most.
Raises MSH00 if there is no such app.';

revoke all on schema hotmesh from public;
revoke all on all functions in schema hotmesh from public;

--@ end
commit;
