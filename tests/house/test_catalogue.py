"""The rules of the house that only a live catalogue can tell, in both install modes."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from support import engine
from support.catalogue import Connection, column, difference, error_of, snapshot
from support.engine import CALLER, OWNER, STRANGER, Server
from support.plans import recorded

pytestmark = pytest.mark.both_modes

DOORS = """
    select p.oid::regprocedure::text, p.proname, p.prosecdef, p.proconfig,
           obj_description(p.oid, 'pg_proc')
    from pg_proc p
    where p.pronamespace = 'hotmesh'::regnamespace and p.proname !~ '^_' order by 1"""


def findings_about_doors(db: Connection) -> list[str]:
    pinned = "search_path=pg_catalog, pg_temp"
    keys = column(db, "select door::text from hotmesh._grant_ring()")
    found = []
    for door, name, definer, config, comment in db.execute(DOORS).fetchall():
        if not (definer or name == "now"):
            found.append(f"{door} is not security definer")
        if pinned not in (config or []) and name != "now":
            found.append(f"{door} is not pinned")
        if not comment:
            found.append(f"{door} has no comment")
        if keys.count(name) != 1:
            found.append(f"{door} is on {keys.count(name)} keys")
    return found


def test_doors_are_definer_pinned_commented_and_on_exactly_one_key(db: Connection) -> None:
    assert not findings_about_doors(db)


def test_a_bad_door_is_noticed(db: Connection) -> None:
    before = findings_about_doors(db)
    db.execute("create function hotmesh.job_bad() returns int language sql as 'select 1'")
    assert len(findings_about_doors(db)) == len(before) + 4


def test_every_name_on_the_grant_ring_is_a_door(db: Connection) -> None:
    missing = column(
        db,
        "select r.door::text from hotmesh._grant_ring() r where not exists (select from pg_proc p"
        " where p.proname = r.door and p.pronamespace = 'hotmesh'::regnamespace)",
    )
    assert not missing


def may_execute(db: Connection, role: str, pattern: str) -> list[str]:
    return column(
        db,
        "select p.oid::regprocedure::text from pg_proc p"
        " where p.pronamespace = 'hotmesh'::regnamespace and p.proname ~ %s"
        "   and has_function_privilege(%s, p.oid, 'execute')",
        pattern,
        role,
    )


def test_a_stranger_may_execute_nothing(db: Connection) -> None:
    assert not may_execute(db, STRANGER, ".")
    assert not column(db, "select 1 where has_schema_privilege(%s, 'hotmesh', 'usage')", STRANGER)


def test_no_key_opens_a_corridor(db: Connection) -> None:
    assert may_execute(db, CALLER, "^[^_]")
    assert not may_execute(db, CALLER, "^_")


def test_a_grant_to_public_would_be_noticed(db: Connection) -> None:
    db.execute("create function hotmesh._job_bad() returns int language sql as 'select 1'")
    assert may_execute(db, STRANGER, ".") == ["hotmesh._job_bad()"]


def test_no_role_holds_anything_on_a_parent(db: Connection) -> None:
    held = column(
        db,
        "select c.relname from pg_class c where c.relnamespace = 'hotmesh'::regnamespace"
        " and c.relkind in ('r', 'p', 'v', 'S') and exists (select from aclexplode(c.relacl) a"
        "   where a.grantee <> c.relowner)",
    )
    assert not held


def test_the_owner_of_everything_is_one_ordinary_role(db: Connection) -> None:
    owners = column(
        db,
        "select distinct o.owner::regrole::text from ("
        " select relowner, relnamespace from pg_class union all"
        " select proowner, pronamespace from pg_proc union all"
        " select nspowner, oid from pg_namespace) o (owner, namespace)"
        " where o.namespace = any (array['hotmesh', 'my_app']::regnamespace[])",
    )
    assert owners == [OWNER]


def test_nobody_else_may_create_in_an_app(db: Connection) -> None:
    able = column(
        db,
        "select r from unnest(array[%s, %s]) r where has_schema_privilege(r, 'my_app', 'create')"
        " or has_schema_privilege(r, 'hotmesh', 'create')",
        CALLER,
        STRANGER,
    )
    assert not able


TABLES = """
    select c.oid, c.oid::regclass::text, c.relkind from pg_class c
    where c.relnamespace = any (array['hotmesh', 'my_app']::regnamespace[])
      and c.relkind in ('r', 'p', 'v') and not c.relispartition order by 2"""


def findings_about_tables(db: Connection) -> list[str]:
    found = []
    for oid, name, kind in db.execute(TABLES).fetchall():
        if kind != "v" and not column(
            db, "select 1 from pg_constraint where conrelid = %s and contype = 'p'", oid
        ):
            found.append(f"{name} has no primary key")
        if not column(db, "select 1 where obj_description(%s, 'pg_class') is not null", oid):
            found.append(f"{name} has no comment")
        if kind != "v":
            found += column(
                db,
                "select format('%%s.%%s has no comment', attrelid::regclass, attname)"
                " from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped"
                "   and col_description(attrelid, attnum) is null",
                oid,
            )
    return found


def test_tables_and_views_have_keys_and_comments(db: Connection) -> None:
    assert not findings_about_tables(db)


def test_a_bare_table_is_noticed(db: Connection) -> None:
    before = findings_about_tables(db)
    db.execute("create table my_app.bare (i int)")
    assert len(findings_about_tables(db)) == len(before) + 3


def test_states_are_texts_and_not_enums(db: Connection) -> None:
    assert not column(db, "select typname from pg_type where typtype = 'e'")


def test_what_the_extension_owns_and_fills_is_dumped(db: Connection, mode: str) -> None:
    """Parents and templates stay empty; whatever else holds rows is marked for pg_dump."""
    if mode == "plain":
        pytest.skip("a plain install is dumped like any other schema")
    unmarked = column(
        db,
        "select c.oid::regclass::text from pg_class c, pg_extension e"
        " where c.relnamespace = 'hotmesh'::regnamespace and e.extname = 'hotmesh'"
        "   and c.oid <> all (coalesce(e.extconfig, '{}')) and (c.relkind = 'S' or c.relkind = 'r'"
        "   and c.relname not like '%_archive'"
        "   and not exists (select from pg_inherits i where i.inhparent = c.oid))",
    )
    assert not unmarked


def test_an_app_is_no_part_of_the_extension(db: Connection) -> None:
    members = column(
        db,
        "select pg_describe_object(classid, objid, objsubid) from pg_depend"
        " where deptype = 'e' and (classid, objid) in (select 'pg_class'::regclass, c.oid"
        "   from pg_class c where c.relnamespace = 'my_app'::regnamespace"
        "   union all select 'pg_namespace'::regclass, 'my_app'::regnamespace)",
    )
    assert not members


INSERT_TRIGGERS = """
    select format('%s on %s', t.tgname, t.tgrelid::regclass) from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = 'hotmesh'::regnamespace and not t.tgisinternal and t.tgtype & 4 = 4
      and not (t.tgdeferrable and t.tginitdeferred and exists (
          select from pg_inherits i where i.inhparent = c.oid))"""
# pg_dump restores rows of extension tables after their triggers exist; the rows of an app
# come before its triggers. So only a parent, which is empty, may have one, for its children.


def test_no_insert_trigger_fires_on_restore(db: Connection) -> None:
    assert not column(db, INSERT_TRIGGERS)


def test_an_insert_trigger_is_noticed(db: Connection) -> None:
    db.execute(
        "create function hotmesh._f() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger bad before insert on hotmesh.apps for each row execute function hotmesh._f()"
    )
    assert column(db, INSERT_TRIGGERS) == ["bad on hotmesh.apps"]


def test_both_install_modes_lay_the_same_house(server: Server, db: Connection, mode: str) -> None:
    other = "plain" if mode == "extension" else "extension"
    with server.connect() as admin:
        if not column(admin, "select 1 from pg_available_extensions where name = 'hotmesh'"):
            pytest.skip("this server has no hotmesh.control")
    with server.database() as name, server.connect(name, OWNER) as there:
        engine.install(there, other)
        engine.create_app(there)
        for schema in ("hotmesh", "my_app"):
            found = difference(snapshot(db, schema), snapshot(there, schema))
            assert not found, "\n".join(found)


def test_a_difference_between_catalogues_is_noticed(db: Connection) -> None:
    before = snapshot(db, "my_app")
    db.execute("alter table my_app.jobs alter column key set default ''")
    assert difference(before, snapshot(db, "my_app"))


def test_a_replayed_behaviour_changes_nothing(db: Connection, mode: str) -> None:
    if mode == "extension":
        pytest.skip("replay is what an update script does; the plain file stands for both")
    before = snapshot(db)
    db.execute(engine.plain_sql().split("--@ behaviour\n")[1].split("--@ end\n")[0].encode())
    assert not difference(before, snapshot(db))


def test_an_upgraded_app_equals_a_fresh_one(db: Connection) -> None:
    before = snapshot(db, "my_app")
    db.execute("select hotmesh.app_upgrade('my-app')")
    assert not difference(before, snapshot(db, "my_app"))


def test_every_function_compiles(db: Connection) -> None:
    """Created again one by one, bodies checked, as they are called: in an app's path."""
    db.execute("set check_function_bodies = on")
    db.execute("set search_path = pg_catalog, my_app, hotmesh, pg_temp")
    definitions = db.execute(
        "select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p"
        " where p.pronamespace = 'hotmesh'::regnamespace"
    ).fetchall()
    errors = [(name, error_of(db, definition)) for name, definition in definitions]
    assert definitions
    assert not [f"{name}: {error}" for name, error in errors if error]


def test_a_claim_keeps_its_index_with_plans_cached_on_an_empty_app(
    admin: psycopg.Connection, db: Connection
) -> None:
    """The plan guard: cached on an empty app, then 20,000 rows without analyze."""
    admin.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
    claim = "select id from hotmesh.stream_claim('my-app', 'q', 'w', 10, '15 s')"
    for _ in range(12):
        admin.execute(claim)
    db.execute(
        "insert into my_app.streams (kind, queue, name, visible_at, created_at)"
        " select 'activity', 'q', 'f', hotmesh.now(), hotmesh.now() from generate_series(1, 20000)"
    )
    admin.execute("reset role")
    with recorded(admin) as plans:
        assert len(admin.execute(claim).fetchall()) == 10
    scans = [scan for plan in plans for scan in plan.scans("streams")]
    assert scans
    assert "Seq Scan" not in scans
