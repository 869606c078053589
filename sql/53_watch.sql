-- 53 watch: who wants to hear of the changes of an entity. A watch lasts a minute and is renewed; a
-- change of a watched entity notifies the app's channel with the job's id, at its commit. What was
-- missed is in the log (52), so a watcher keeps the version it has seen, looks now and then, and
-- loses nothing. Nobody watches: a change costs one look into a small table.

--@ state
create table hotmesh.entity_watches (
    job_id bigint not null,
    until timestamptz not null,
    constraint entity_watches_pkey primary key (job_id)
);
comment on table hotmesh.entity_watches is 'One row per job whose entity somebody watches.';
comment on column hotmesh.entity_watches.job_id is 'The job.';
comment on column hotmesh.entity_watches.until is 'When nobody has renewed it by then, it is over.';

--@ behaviour
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
declare
    v_now timestamptz := hotmesh.now();
begin
    delete from entity_watches w
    where w.job_id = any (array(
        select o.job_id from entity_watches o
        where o.until < v_now - interval '1 hour' for update skip locked));
    insert into entity_watches as w (job_id, until)
    values (_watch_keep.job_id, v_now + interval '1 minute')
    on conflict on constraint entity_watches_pkey do update
    set until = excluded.until
    where w.until < excluded.until - interval '10 seconds';
end
$$;

create or replace function hotmesh._watch_tell(job_id bigint, at timestamptz)
returns void
language plpgsql
as $$
begin
    if exists (
        select from entity_watches w where w.job_id = _watch_tell.job_id and w.until > at)
    then
        perform pg_notify(hotmesh._watch_channel(), job_id::text);
    end if;
end
$$;
