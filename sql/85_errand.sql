-- 85 errand: what a walk leads to is written down, and its commands are carried out: messages for
-- workers, alarms, waits, signals, other jobs, functions of SQL. `_errand_go` is the loop: whatever
-- is answered at once is walked on with at once, so that sub-flows end in the same transaction.

--@ state
create type hotmesh.relay as (
    ids bigint[], tokens integer[], job_ids bigint[], topics text[], until timestamptz);
comment on type hotmesh.relay is
'Messages that a worker has finished, and topics for which it takes on what comes after them.';

--@ behaviour
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
