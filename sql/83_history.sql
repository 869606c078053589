-- 83 history: an entity as it was at any version: the youngest base before it, and the commands
-- since then, applied again (80). A version of which the log has too little is refused, never
-- guessed. Errors: MSH85 no such version, or not in the log; MSH40.

--@ state

--@ behaviour
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
