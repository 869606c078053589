"""Keys: which role may open which door, of which app."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from support.catalogue import Connection, column, difference, snapshot
from support.engine import CALLER, OWNER, Server

KINDS = ("reader", "client", "worker", "operator")


@pytest.fixture
def role(server: Server, dbname: str) -> Iterator[Callable[..., str]]:
    """`role("name")` makes a role that is gone when the test ends."""
    made = []
    with server.connect(dbname) as admin:

        def create(suffix: str = "role") -> str:
            made.append(f"hm_{secrets.token_hex(3)}_{suffix}")
            admin.execute(
                sql.SQL("create role {} login password 'hotmesh'").format(sql.Identifier(made[-1]))
            )
            return made[-1]

        yield create
        for name in made:
            admin.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(name)))


@pytest.fixture
def act(server: Server, dbname: str) -> Iterator[Callable[[str], Connection]]:
    """`act(role)`: a connection as that role."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(server.connect(dbname, name))


def grant(db: Connection, role: str, kind: str, app: str = "my-app") -> None:
    db.execute("select hotmesh.app_grant(%s, %s, %s)", [app, role, kind])


def doors(db: Connection, role: str) -> set[str]:
    return set(
        column(
            db,
            "select p.proname::text from pg_proc p where p.pronamespace = 'hotmesh'::regnamespace"
            " and has_function_privilege(%s, p.oid, 'execute')",
            role,
        )
    )


def ring(db: Connection, *kinds: str) -> set[str]:
    return set(
        column(
            db,
            "select r.door::text from hotmesh._grant_ring() r join pg_proc p on p.proname = r.door"
            " and p.pronamespace = 'hotmesh'::regnamespace where r.kind = any(%s)",
            list(kinds),
        )
    )


def open_job(db: Connection, schema: str = "my_app") -> None:
    db.execute(
        f"insert into {schema}.jobs (key, entity, topic, created_at, updated_at)"
        " values ('k', 'e', 't', now(), now())"
    )


@pytest.mark.both_modes
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_opens_its_doors_and_the_smaller_ones(
    db: Connection, role: Callable[..., str], kind: str
) -> None:
    name = role()
    assert doors(db, name) == set()
    grant(db, name, kind)
    assert doors(db, name) == ring(db, *KINDS[: KINDS.index(kind) + 1])
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    assert doors(db, name) == set()


def test_no_kind_opens_the_owners_doors(caller: Connection) -> None:
    for call in ("app_create('x')", "app_drop('my-app')", "app_upgrade('my-app')",
                 "app_grant('my-app', 'hotmesh_stranger', 'reader')",
                 "app_revoke('my-app', 'hotmesh_caller')"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            caller.execute(f"select hotmesh.{call}")


def test_a_stranger_can_do_nothing(stranger: Connection) -> None:
    for query in ("select hotmesh.now()", "select hotmesh._enter('my-app')",
                  "select from hotmesh.jobs", "select from hotmesh.apps",
                  "select from my_app.jobs"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(query)


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_read_the_tables(
    db: Connection, role: Callable[..., str], act: Callable[[str], Connection], kind: str
) -> None:
    open_job(db)
    name = role()
    grant(db, name, kind)
    connection = act(name)
    for relation in ("my_app.jobs", "my_app.jobs_all", "my_app.jobs_attributes", "my_app.streams"):
        if kind in ("reader", "operator"):
            connection.execute(f"select * from {relation}")
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from {relation}")
    for statement in ("select * from hotmesh.jobs", "select * from hotmesh.queue_depth",
                      "update my_app.jobs set status = 0", "select nextval('hotmesh.ids')",
                      "select hotmesh._app_run('{}')"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_a_readers_key_reads_results_and_starts_nothing(
    db: Connection, role: Callable[..., str], act: Callable[[str], Connection]
) -> None:
    open_job(db)
    name = role()
    grant(db, name, "reader")
    reader = act(name)
    assert reader.execute("select hotmesh.job_status('my-app', 'k')").fetchone() == (1,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select hotmesh.job_start('my-app', 'w')")


def test_a_key_is_to_one_app(
    db: Connection, role: Callable[..., str], act: Callable[[str], Connection]
) -> None:
    db.execute("select hotmesh.app_create('other')")
    open_job(db, "other")
    name = role()
    grant(db, name, "client")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not use app"):
        act(name).execute("select hotmesh.job_status('other', 'k')")
    grant(db, name, "client", "other")
    assert act(name).execute("select hotmesh.job_status('other', 'k')").fetchone() == (1,)
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    assert "job_start" in doors(db, name), "the other key needs the doors"


def test_a_role_has_one_kind_in_all_its_apps(db: Connection, role: Callable[..., str]) -> None:
    """Else a worker of one app would be one of every app in which it is a client."""
    db.execute("select hotmesh.app_create('other')")
    name = role()
    grant(db, name, "client")
    for kind in ("worker", "reader"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="another kind") as caught:
            grant(db, name, kind, "other")
        assert '"my-app"' in (caught.value.diag.message_detail or "")
    grant(db, name, "operator")
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    grant(db, name, "reader", "other")
    assert doors(db, name) == ring(db, "reader")


def test_nothing_is_left_of_the_key_to_an_app_that_was_dropped(
    db: Connection, role: Callable[..., str]
) -> None:
    db.execute("select hotmesh.app_create('other')")
    name = role()
    grant(db, name, "operator", "other")
    db.execute("select hotmesh.app_drop('other')")
    grant(db, name, "client")
    assert doors(db, name) == ring(db, "reader", "client")


@pytest.mark.parametrize(
    ("who", "kind", "message"),
    [
        ("nobody-of-this-name", "client", "no role"),
        ("public", "client", "no role"),
        ("", "client", "no role"),
        (None, "client", "no role"),
        (OWNER, "client", "owns the engine"),
        (CALLER, "owner", "no kind of key"),
        (CALLER, "Client", "no kind of key"),
        (CALLER, "", "no kind of key"),
        (CALLER, None, "no kind of key"),
        ("x; drop role y", "client", "no role"),
    ],
)
def test_a_bad_grant_is_refused(
    db: Connection, who: str | None, kind: str | None, message: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as caught:
        db.execute("select hotmesh.app_grant('my-app', %s, %s)", [who, kind])
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint


def test_a_hostile_name_is_a_name(db: Connection, role: Callable[..., str]) -> None:
    name = role('x"; drop table hotmesh.apps; --')
    grant(db, name, "operator")
    assert doors(db, name) == ring(db, *KINDS)
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    assert doors(db, name) == set()


def test_revoking_restores_what_was(db: Connection, role: Callable[..., str]) -> None:
    name = role()
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    before = snapshot(db), snapshot(db, "my_app")
    grant(db, name, "operator")
    db.execute("select hotmesh.app_revoke('my-app', %s)", [name])
    assert difference(before[0], snapshot(db)) == []
    assert difference(before[1], snapshot(db, "my_app")) == []


def test_an_upgrade_keeps_the_keys_and_fits_new_doors_and_tables(
    db: Connection, role: Callable[..., str], act: Callable[[str], Connection]
) -> None:
    names = {kind: role(kind) for kind in KINDS}
    for kind, name in names.items():
        grant(db, name, kind)
    db.execute(
        """
        create table hotmesh.notes (id bigint, constraint notes_pkey primary key (id));
        drop table my_app.workers;
        revoke all on function hotmesh.job_status from """
        + names["client"]
    )
    before = {kind: doors(db, name) for kind, name in names.items()}
    db.execute("select hotmesh.app_upgrade('my-app')")
    assert doors(db, names["client"]) == before["client"] | {"job_status"}
    assert {kind: doors(db, names[kind]) for kind in ("reader", "worker", "operator")} == {
        kind: before[kind] for kind in ("reader", "worker", "operator")
    }
    for table in ("notes", "workers", "jobs_archive"):
        act(names["reader"]).execute(f"select * from my_app.{table}")
        act(names["operator"]).execute(f"select * from my_app.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            act(names["client"]).execute(f"select * from my_app.{table}")


def test_private_functions_are_on_no_key(db: Connection) -> None:
    private = "select p.proname::text from pg_proc p where p.pronamespace = 'hotmesh'::regnamespace"
    granted = f"""{private} and p.proname ~ '^_' and exists (
        select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where a.grantee <> p.proowner)"""
    assert column(db, granted) == []
    assert column(db, f"{private} and p.proname ~ '^_'")
