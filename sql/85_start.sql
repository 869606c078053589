-- 85 start: a request becomes a job: checked, opened, its input and first message laid down. It
-- locks nothing but its own new rows, so that it may run in anybody's transaction. Who asks: the
-- doors of the engine (90), a parent (see 65_child), a schedule. Errors: 22023, and those of the
-- jobs (40).

--@ state

--@ behaviour
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
