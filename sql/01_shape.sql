-- 01 shape: what an app's tables look like. Each noun has an empty parent here, each app a child of
-- it; the archive's tables are templates, since a partitioned table can't inherit. A function of
-- this room compares a child with its parent and names the statements that make them equal; it runs
-- nothing (02 does). So a new table and an old one take the same way, and fresh equals upgraded.
-- What the owner of an app added (columns, indexes, constraints, triggers, tuning) stays.

--@ state

--@ behaviour
create or replace function hotmesh._shape_nouns()
returns setof text
language sql
stable
as $$
    select c.relname::text
    from pg_class c
    where c.relnamespace = to_regnamespace('hotmesh') and c.relkind = 'r' and c.relname <> 'apps'
    order by c.relname
$$;

create or replace function hotmesh._shape_columns(relation regclass)
returns table (name name, place smallint, type text, not_null boolean, value text)
language sql
stable
as $$
    select a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attnum
$$;

-- Every valid index that serves no constraint, with its definition as it would read on `target`.
create or replace function hotmesh._shape_indexes(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select c.relname, c.oid, regexp_replace(
        pg_get_indexdef(c.oid), ' ON (ONLY )?\S+ USING ', format(' ON %s USING ', target))
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    where i.indrelid = relation and i.indisvalid
      and not exists (
          select from pg_constraint k where k.conindid = c.oid and k.conrelid = relation)
$$;

create or replace function hotmesh._shape_triggers(relation regclass, target regclass)
returns table (name name, place oid, definition text)
language sql
stable
as $$
    select t.tgname, t.oid, regexp_replace(
        pg_get_triggerdef(t.oid), ' ON \S+ ', format(' ON %s ', target))
    from pg_trigger t
    where t.tgrelid = relation and not t.tgisinternal and t.tgenabled = 'O'
$$;

create or replace function hotmesh._shape_storage(relation regclass)
returns setof text
language sql
stable
as $$
    select unnest(r.reloptions)
    from pg_class r
    where r.oid = relation
    union all
    select 'toast.' || unnest(t.reloptions)
    from pg_class r
    join pg_class t on t.oid = r.reltoastrelid
    where r.oid = relation
$$;

-- Brackets don't count: Postgres may write a definition with others once it has read it back.
create or replace function hotmesh._shape_differs(left_text text, right_text text)
returns boolean
language sql
immutable
as $$
    select translate(left_text, '()', '') is distinct from translate(right_text, '()', '')
$$;

-- Without its indexes: `like` would give them names of its own.
create or replace function hotmesh._shape_repair_missing(schema text, noun text)
returns setof text
language sql
stable
as $$
    select format('create table %1$I.%2$I (like hotmesh.%2$I including all excluding indexes) ',
                  schema, noun)
        || case when noun like '%\_archive' then 'partition by range (closed_at)'
                else format('inherits (hotmesh.%I)', noun) end
    where to_regclass(format('%I.%I', schema, noun)) is null
$$;

create or replace function hotmesh._shape_repair_columns(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s %s', child, r.change)
    from hotmesh._shape_columns(parent) p
    left join hotmesh._shape_columns(child) c on c.name = p.name
    cross join lateral (values
        (1, case when c.name is null then
            format('add column %I %s', p.name, p.type || coalesce(' default ' || p.value, '')) end),
        (2, case when c.name is not null and p.value is distinct from coalesce(c.value, '') then
            format('alter column %I set default ', p.name) || p.value end),
        (3, case when p.not_null and c.not_null is not true then
            format('alter column %I set not null', p.name) end)
    ) r (step, change)
    where r.change is not null
    order by p.place, r.step
$$;

create or replace function hotmesh._shape_repair_constraints(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %1$s drop constraint if exists %2$I, add constraint %2$I %3$s',
                  child, p.conname, pg_get_constraintdef(p.oid))
    from pg_constraint p
    left join pg_constraint c on c.conrelid = child and c.conname = p.conname
    where p.conrelid = parent and p.contype in ('p', 'u', 'x', 'c')
      and coalesce(c.coninhcount, 0) = 0
      and hotmesh._shape_differs(pg_get_constraintdef(p.oid), pg_get_constraintdef(c.oid))
    order by p.conname
$$;

create or replace function hotmesh._shape_repair_indexes(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[format('drop index if exists %I.%I', n.nspname, p.name), p.definition])
    from hotmesh._shape_indexes(parent, child) p
    left join hotmesh._shape_indexes(child, child) c on c.name = p.name
    join pg_class r on r.oid = child
    join pg_namespace n on n.oid = r.relnamespace
    where hotmesh._shape_differs(p.definition, c.definition)
    order by p.name
$$;

create or replace function hotmesh._shape_repair_storage(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('alter table %s set (%s)', child, string_agg(o.setting, ', ' order by o.setting))
    from (
        select hotmesh._shape_storage(parent)
        except
        select hotmesh._shape_storage(child)) o (setting)
    where (select r.relkind from pg_class r where r.oid = child) = 'r'
    having count(*) > 0
$$;

create or replace function hotmesh._shape_repair_triggers(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select unnest(array[format('drop trigger if exists %I on %s', p.name, child), p.definition])
    from hotmesh._shape_triggers(parent, child) p
    left join hotmesh._shape_triggers(child, child) c on c.name = p.name
    where hotmesh._shape_differs(p.definition, c.definition)
    order by p.name
$$;

create or replace function hotmesh._shape_comments(relation regclass, target regclass)
returns table (thing text, remark text)
language sql
stable
as $$
    select format('table %s', target), obj_description(relation, 'pg_class')
    union all
    select format('column %s.%I', target, c.name), col_description(relation, c.place)
    from hotmesh._shape_columns(relation) c
    union all
    select format('constraint %I on %s', c.conname, target), obj_description(c.oid, 'pg_constraint')
    from pg_constraint c
    where c.conrelid = relation
    union all
    select format('index %I.%I', n.nspname, i.name), obj_description(i.place, 'pg_class')
    from hotmesh._shape_indexes(relation, target) i
    join pg_class r on r.oid = target
    join pg_namespace n on n.oid = r.relnamespace
    union all
    select format('trigger %I on %s', t.name, target), obj_description(t.place, 'pg_trigger')
    from hotmesh._shape_triggers(relation, target) t
$$;

create or replace function hotmesh._shape_repair_comments(parent regclass, child regclass)
returns setof text
language sql
stable
as $$
    select format('comment on %s is %L', p.thing, p.remark)
    from hotmesh._shape_comments(parent, child) p
    left join hotmesh._shape_comments(child, child) c on c.thing = p.thing
    where p.remark <> coalesce(c.remark, '')
$$;

create or replace function hotmesh._shape_repair_view(schema text, archive text)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create or replace view %1$I.%2$I as select %3$s from %1$I.%4$I'
               ' union all select %3$s from %1$I.%5$I',
               schema, n.noun || '_all', n.names, n.noun, archive),
        format('comment on view %I.%I is %L', schema, n.noun || '_all',
               format('The rows of %s and of its archive.', n.noun))])
    from (
        select m.noun, string_agg(quote_ident(c.name), ', ' order by c.place) as names
        from (select left(archive, -length('_archive'))) m (noun)
        cross join lateral hotmesh._shape_columns(to_regclass(format('hotmesh.%I', m.noun))) c
        group by m.noun) n
    where archive like '%\_archive'
$$;

-- Who may read the jobs of an app may read what was added to it.
create or replace function hotmesh._shape_repair_grants(schema text)
returns setof text
language sql
stable
as $$
    select format('grant select on all tables in schema %I to %s', schema, a.grantee::regrole)
    from pg_class c
    cross join lateral aclexplode(c.relacl) a
    where c.oid = to_regclass(format('%I.jobs', schema))
      and a.privilege_type = 'SELECT' and a.grantee not in (0, c.relowner)
$$;

-- Attached, not created in place: `partition of` would lock out the readers of the archive.
create or replace function hotmesh._shape_month(schema text, archive text, month timestamp)
returns setof text
language sql
stable
as $$
    select unnest(array[
        format('create table %1$I.%2$I (like %1$I.%3$I including all excluding indexes)',
               schema, m.name, archive),
        format('comment on table %I.%I is %L', schema, m.name, format(
               'The rows of %s that closed in %s (UTC).', archive, to_char(month, 'YYYY-MM'))),
        format('alter table %1$I.%3$I attach partition %1$I.%2$I for values from (%4$L) to (%5$L)',
               schema, m.name, archive,
               month::text || '+00', (month + interval '1 month')::text || '+00')])
    from (select format('%s_%s', archive, to_char(month, 'YYYY_MM'))) m (name)
    where to_regclass(format('%I.%I', schema, m.name)) is null
$$;
