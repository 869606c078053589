-- 84 emit: what workflow code tells whoever listens: {"topic": payload, …}. The payloads stay in
-- the journal, in their step. At commit a notification goes to the app's channel, which says only
-- where they are and a hash of the topic: anybody in the database may listen to a channel, and 8000
-- bytes are its limit. Who has a key to the app reads them there. Errors: 22023.

--@ state

--@ behaviour
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
