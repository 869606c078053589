-- 88 again: functions that are run again: by their retry policy, by right code after a mismatch, or
-- because they said continue_as_new. What is done anew is forgotten, what was not seen given back.
-- The callers hold the jobs' locks.

--@ state

--@ behaviour
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
