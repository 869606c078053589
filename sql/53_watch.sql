-- 53 watch: who wants to hear of an entity's changes. A watch lasts a minute and is renewed; it
-- is a column of the job, so that a change need not look elsewhere. A change of a watched entity
-- notifies the app's channel with the job's id, at its commit. What was missed is in the log (52):
-- a watcher keeps the version it has seen, looks now and then, and loses nothing.

--@ state

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
