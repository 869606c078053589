-- 34 lane: the messages of one concurrency key in a queue with a limit per key. One without a slot
-- of its key is `held`, out of the way of all claims. Whatever may let a lane move (a message that
-- comes, a slot that is given back) leaves a note in `lanes`, which needs no lock; any turn follows
-- it, under the lock of the queue's limits, and makes the first of the lane ready.

--@ state
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

--@ behaviour
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
