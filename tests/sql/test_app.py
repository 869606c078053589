"""Apps: names, schemas, tables that equal their parents, upgrades, and who may enter."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from support.catalogue import Connection, column, difference, snapshot
from support.engine import OWNER, Server
from support.sessions import Session

NOUNS = ["jobs", "jobs_attributes", "streams", "workers"]


def one(db: Connection, query: str, *params: object) -> object:
    row = db.execute(query, params or None).fetchone()
    assert row
    return row[0]


def open_job(db: Connection, schema: str = "my_app") -> None:
    db.execute(
        sql.SQL(
            "insert into {}.jobs (key, entity, topic, created_at, updated_at)"
            " values ('k', 'e', 't', now(), now())"
        ).format(sql.Identifier(schema))
    )


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("orders", "orders"),
        ("Orders-2", "orders_2"),
        ("a.b c/d", "a_b_c_d"),
        ("select", "select"),
        ("user", "user"),
        ('x"; drop schema hotmesh; --', "x___drop_schema_hotmesh____"),
        ("straße", "stra_e"),
        ("a\N{KELVIN SIGN}b", "a_b"),
        ("pgq", "pgq"),
        ("a" * 63, "a" * 63),
    ],
)
def test_a_name_folds_to_a_schema(db: Connection, name: str, schema: str) -> None:
    row = db.execute("select name, schema_name from hotmesh.app_create(%s)", [name]).fetchone()
    assert row == (name, schema)
    assert one(db, "select count(*) from pg_namespace where nspname = %s", schema) == 1
    db.execute("select hotmesh.app_upgrade(%s)", [name])
    assert one(db, "select hotmesh.job_archive(%s)", name) == 0
    db.execute("select hotmesh.app_drop(%s)", [schema])
    assert one(db, "select count(*) from pg_namespace where nspname = %s", schema) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "an app needs a name"),
        (None, "an app needs a name"),
        ("hotmesh", "reserved"),
        ("HotMesh", "reserved"),
        ("public", "reserved"),
        ("Information.Schema", "reserved"),
        ("pg_x", "reserved"),
        ("PG-CATALOG", "reserved"),
        ("pg_temp", "reserved"),
        ("pg_toast", "reserved"),
        ("1st", "does not begin with a letter"),
        ("_x", "does not begin with a letter"),
        (" ", "does not begin with a letter"),
        ("éa", "does not begin with a letter"),
        ("a" * 64, "too long"),
        ("ä" * 40, "too long"),
    ],
)
def test_an_unfit_name_is_refused(db: Connection, name: str | None, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as caught:
        db.execute("select hotmesh.app_create(%s)", [name])
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint


@pytest.mark.parametrize("name", ["my-app", "my_app", "MY APP", "my.app"])
def test_a_name_that_folds_to_an_app_is_refused_with_msh01(db: Connection, name: str) -> None:
    with pytest.raises(psycopg.Error, match="already exists") as caught:
        db.execute("select hotmesh.app_create(%s)", [name])
    assert caught.value.sqlstate == "MSH01"
    assert '"my-app"' in (caught.value.diag.message_detail or "")


def test_somebody_elses_schema_is_refused_with_msh03(db: Connection) -> None:
    db.execute('create schema billing; create schema "select"')
    for name in ("Billing", "select"):
        with pytest.raises(psycopg.Error, match="taken") as caught:
            db.execute("select hotmesh.app_create(%s)", [name])
        assert caught.value.sqlstate == "MSH03"


def test_the_owner_needs_create_on_the_database(server: Server, admin: Connection) -> None:
    name = one(admin, "select current_database()")
    admin.execute(sql.SQL("alter database {} owner to current_user").format(sql.Identifier(name)))
    with server.connect(str(name), OWNER) as owner:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="create schemas") as caught:
            owner.execute("select hotmesh.app_create('late')")
        assert "grant create on database" in (caught.value.diag.message_hint or "")


def test_every_noun_has_a_child_in_the_app(db: Connection) -> None:
    children = column(
        db,
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " join pg_class p on p.oid = i.inhparent and p.relnamespace = 'hotmesh'::regnamespace"
        " where c.relnamespace = 'my_app'::regnamespace order by 1",
    )
    assert set(NOUNS) <= set(children)
    parents = column(db, "select * from hotmesh._shape_nouns()")
    assert [noun for noun in parents if not noun.endswith("_archive")] == children


def test_a_child_equals_its_parent(db: Connection) -> None:
    """Columns, constraints, indexes, storage, triggers and comments, under the parent's names."""
    for noun in NOUNS:
        for part in ("columns", "constraints", "indexes", "storage", "triggers", "comments"):
            query = f"select hotmesh._shape_repair_{part}(%s::regclass, %s::regclass)"
            assert column(db, query, f"hotmesh.{noun}", f"my_app.{noun}") == []
    names = (
        "select indexrelid::regclass::text from pg_index where indrelid = %s::regclass order by 1"
    )
    assert column(db, names, "my_app.jobs") == [
        name.replace("hotmesh.", "my_app.") for name in column(db, names, "hotmesh.jobs")
    ]


def test_the_parent_shows_every_app_and_the_child_one(db: Connection) -> None:
    db.execute("select hotmesh.app_create('other')")
    open_job(db)
    open_job(db, "other")
    assert one(db, "select count(*) from hotmesh.jobs") == 2
    assert one(db, "select count(*) from my_app.jobs") == 1
    assert one(db, "select count(*) from only hotmesh.jobs") == 0


def break_it(db: Connection) -> None:
    """What a careless hand, or an older engine, may have left."""
    db.execute("""
        drop index my_app.jobs_expiring;
        drop index my_app.streams_claimable;
        create index streams_claimable on my_app.streams (id);
        drop index my_app.jobs_archive_by_key;
        alter table my_app.jobs drop constraint jobs_have_one_key;
        alter table my_app.workers drop constraint workers_pkey;
        alter table my_app.jobs reset (fillfactor, autovacuum_vacuum_scale_factor);
        alter table my_app.streams set (fillfactor = 100);
        alter table my_app.jobs alter status drop default;
        alter table my_app.jobs alter context set default '{"x": 1}';
        drop view my_app.jobs_all;
        drop table my_app.workers;
        comment on table my_app.jobs is null;
        comment on column my_app.jobs.key is 'wrong';
        grant usage on schema my_app to public;
        update hotmesh.apps set revision = 0""")
    trigger = one(
        db,
        "select min(tgname)::text from pg_trigger"
        " where tgrelid = 'my_app.jobs'::regclass and not tgisinternal",
    )
    db.execute(sql.SQL("drop trigger {} on my_app.jobs").format(sql.Identifier(str(trigger))))
    db.execute("alter table my_app.streams disable trigger all")


@pytest.mark.both_modes
def test_an_upgraded_app_equals_a_fresh_one(db: Connection) -> None:
    fresh = snapshot(db, "my_app")
    break_it(db)
    assert len(difference(fresh, snapshot(db, "my_app"))) > 15
    db.execute("select hotmesh.app_upgrade('my-app')")
    assert difference(fresh, snapshot(db, "my_app")) == []
    usage = "select has_schema_privilege('public', 'my_app', 'usage')"
    assert (one(db, usage), one(db, "select revision > 0 from hotmesh.apps")) == (False, True)


def test_an_upgrade_keeps_rows_and_changes_nothing_when_repeated(db: Connection) -> None:
    open_job(db)
    before = column(db, "select oid from pg_class where relnamespace = 'my_app'::regnamespace")
    db.execute("select hotmesh.app_upgrade('my-app'), hotmesh.app_upgrade('my_app')")
    after = column(db, "select oid from pg_class where relnamespace = 'my_app'::regnamespace")
    assert sorted(before) == sorted(after)
    assert one(db, "select count(*) from my_app.jobs") == 1


def test_an_upgrade_keeps_what_the_owner_added(db: Connection) -> None:
    db.execute("""
        alter table my_app.jobs add column tenant text default 'acme';
        create index by_tenant on my_app.jobs (tenant);
        alter table my_app.jobs add constraint tenants_are_short check (length(tenant) < 100);
        alter table my_app.jobs set (autovacuum_enabled = off);
        create function public.note() returns trigger language plpgsql as 'begin return new; end';
        create trigger note before insert on my_app.jobs for each row execute function note();
        comment on column my_app.jobs.tenant is 'Whose job it is.'""")
    before = snapshot(db, "my_app")
    db.execute("select hotmesh.app_upgrade('my-app')")
    assert difference(before, snapshot(db, "my_app")) == []


def test_a_change_of_a_parent_reaches_an_app_by_upgrade(db: Connection) -> None:
    db.execute("""
        create table hotmesh.notes (id bigint, body text not null default '',
            constraint notes_pkey primary key (id)) with (fillfactor = 60, toast.autovacuum_enabled = off);
        comment on table hotmesh.notes is 'New.';
        alter table hotmesh.jobs add column origin text not null default 'sql';
        alter table hotmesh.jobs_archive add column origin text not null default 'sql';
        comment on column hotmesh.jobs.origin is 'Where from.';
        create index jobs_by_origin on hotmesh.jobs (origin) where origin <> 'sql';
        comment on index hotmesh.jobs_by_origin is 'Rare.';
        alter table hotmesh.jobs set (fillfactor = 51);
        alter table hotmesh.jobs add constraint origins_have_a_name check (origin <> '')""")
    db.execute("select hotmesh.app_upgrade('my-app')")
    db.execute("select hotmesh.app_create('fresh')")
    old, new = snapshot(db, "my_app"), snapshot(db, "fresh")
    assert {row[0] for row in old["columns"]} == {row[0] for row in new["columns"]}
    for relation in ("jobs", "jobs_archive", "jobs_all", "notes"):
        assert [row[1:] for row in old["columns"] if row[0] == relation] == [
            row[1:] for row in new["columns"] if row[0] == relation
        ]
    assert one(db, "select reloptions::text from pg_class where oid = 'my_app.jobs'::regclass") == (
        one(db, "select reloptions::text from pg_class where oid = 'fresh.jobs'::regclass")
    )


def test_an_unknown_app_is_refused_with_msh00(db: Connection) -> None:
    for call in ("app_upgrade('nope')", "app_drop('nope')", "job_archive('nope')",
                 "app_grant('nope', 'x', 'client')", "job_archive(null)"):  # fmt: skip
        with pytest.raises(psycopg.Error, match="unknown app") as caught:
            db.execute(f"select hotmesh.{call}")
        assert caught.value.sqlstate == "MSH00"
    with pytest.raises(psycopg.Error, match="unknown app") as caught:
        db.execute("select hotmesh.job_archive('My App')")
    assert '"my-app"' in (caught.value.diag.message_detail or "")


def test_an_app_with_open_jobs_is_dropped_by_force_alone(db: Connection) -> None:
    open_job(db)
    with pytest.raises(psycopg.Error, match="open jobs") as caught:
        db.execute("select hotmesh.app_drop('my-app')")
    assert caught.value.sqlstate == "MSH02"
    assert one(db, "select count(*) from my_app.jobs") == 1
    db.execute("select hotmesh.app_drop('my-app', force => true)")
    assert column(db, "select name from hotmesh.apps") == []


def test_an_app_whose_schema_was_dropped_by_hand_can_be_dropped(db: Connection) -> None:
    db.execute("drop schema my_app cascade")
    db.execute("select hotmesh.app_drop('my-app')")
    db.execute("select hotmesh.app_create('my-app')")


def test_creating_an_app_is_part_of_the_callers_transaction(db: Connection) -> None:
    with db.transaction(force_rollback=True):
        db.execute("select hotmesh.app_create('late')")
    assert column(db, "select name from hotmesh.apps") == ["my-app"]


def test_two_who_create_one_app_at_once_get_one(
    sessions: Callable[..., tuple[Session, ...]],
) -> None:
    a, b = sessions("a", "b")
    a.begin()
    a.run("select hotmesh.app_create('twin')")
    second = b.run_async("select hotmesh.app_create('Twin')")
    b.wait_blocked()
    a.commit()
    with pytest.raises(psycopg.Error) as caught:
        second.result(10)
    assert caught.value.sqlstate == "MSH01"


def test_many_apps_can_be_created_at_once(dsn: str) -> None:
    def create(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select hotmesh.app_create(%s)", [f"app-{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(8)))
    with psycopg.connect(dsn) as connection:
        assert one(connection, "select count(*) from hotmesh.apps") == 9


def test_nobody_but_the_owner_may_make_anything_in_an_app(
    caller: Connection, stranger: Connection
) -> None:
    for role in (caller, stranger):
        for statement in (
            "create table my_app.trap (i int)",
            "create function my_app.lower(varchar) returns text language sql as 'select null'",
            "create trigger t before insert on my_app.jobs for each row execute function f()",
            "insert into my_app.jobs (key, entity, topic) values ('k', 'e', 't')",
            "alter table my_app.jobs add column x int",
            "drop schema my_app",
        ):
            with pytest.raises(psycopg.Error) as caught:
                role.execute(statement)
            assert caught.value.sqlstate in ("42501", "42883")


def test_a_door_leaves_the_callers_path_alone(caller: Connection) -> None:
    caller.execute("set search_path = pg_temp, public")
    with caller.transaction():
        caller.execute("select hotmesh.job_archive('my-app')")
        assert one(caller, "show search_path") == "pg_temp, public"
    assert one(caller, "show search_path") == "pg_temp, public"


def test_a_temporary_table_does_not_hide_an_apps(caller: Connection, db: Connection) -> None:
    caller.execute("create temp table jobs (id int); set search_path = pg_temp")
    open_job(db)
    assert one(caller, "select hotmesh.job_status('my-app', 'k')") == 1


def test_the_role_that_was_set_is_the_one_that_enters(db: Connection, admin: Connection) -> None:
    """A superuser who became a role has that role's keys; a door's owner does not lend its own."""
    admin.execute("set role hotmesh_stranger")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("select hotmesh.job_archive('my-app')")
    admin.execute("set role hotmesh_caller")
    assert one(admin, "select hotmesh.job_archive('my-app')") == 0


def test_a_key_to_the_doors_is_no_key_to_every_app(db: Connection, caller: Connection) -> None:
    db.execute("select hotmesh.app_create('other')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not use app") as caught:
        caller.execute("select hotmesh.job_archive('other')")
    assert "app_grant" in (caught.value.diag.message_hint or "")
