-- 87 pub: the doors to graphs that run: publish to a topic, signal a hook, give a late answer.
-- Everything a door causes that needs no worker happens in its caller's transaction.
-- Errors: MSH22, and those of a start.

--@ state

--@ behaviour
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
