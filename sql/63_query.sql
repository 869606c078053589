-- 63 query: a question to the code of a running job, answered by whoever holds or can replay it. It
-- changes nothing and is not journalled: its row is there until the answer is read, or a minute.
-- Errors: 22023; MSH40, MSH42 of the job.

--@ state
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

--@ behaviour
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
