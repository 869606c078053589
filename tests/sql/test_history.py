"""The log of entities: every version can be had again, or is refused; retention; forks."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import Connection, Hand, one, start
from support.plans import recorded

KEY = "a"


def call(connection: Connection, verb: str, *args: Any, key: str = KEY) -> Any:
    given = [Jsonb(arg) if isinstance(arg, (dict, list)) else arg for arg in args]
    marks = ", ".join(["%s"] * (2 + len(given)))
    return one(connection, f"select hotmesh.entity_{verb}({marks})", "my-app", key, *given)


def at(connection: Connection, version: int, key: str = KEY) -> Any:
    return one(connection, "select hotmesh.entity_at('my-app', %s, version => %s)", key, version)


def setting(db: Connection, **values: Any) -> None:
    db.execute("update hotmesh.apps set settings = %s", [Jsonb(values)])


def refused(connection: Connection, query: str, *args: Any) -> str:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query.encode(), args or None)
    return str(caught.value.diag.sqlstate)


def some_changes(caller: Connection, count: int, seed: int = 1) -> list[Any]:
    """Give `count` commands; the documents after each, from the empty one on."""
    chance = random.Random(seed)
    documents = [call(caller, "get")]
    for n in range(count):
        name = chance.choice("abc")
        verb, *args = chance.choice([
            ("set", {"a": {"x": n}, "list": [n]}), ("merge", {name: {"y": {"z": n}}}),
            ("append", "list", str(n)), ("increment", "n", n), ("toggle", f"flags.{name}"),
            ("delete", name), ("set", f"deep.{name}", f'"{n}"'), ("prepend", "list", str(n)),
        ])  # fmt: skip
        call(caller, verb, *args)
        documents.append(call(caller, "get"))
    return documents


@pytest.mark.parametrize("snapshot", [1, 3, 16, 1000])
def test_every_version_can_be_had_again(db: Connection, caller: Connection, snapshot: int) -> None:
    setting(db, entity_snapshot=snapshot)
    start(caller, KEY)
    documents = some_changes(caller, 60)
    assert [at(caller, version) for version in range(61)] == documents


def test_an_app_that_says_how_entities_are_kept_logs_as_one_that_does_not(
    db: Connection, caller: Connection
) -> None:
    """The latter goes a shorter way; the default is a snapshot each 16 versions."""
    log = (
        "select version, operation, path, argument, role, dimension, request, document"
        " from my_app.entity_log l join my_app.jobs j on j.id = l.job_id and j.key = %s order by 1"
    )
    start(caller, KEY)
    documents = some_changes(caller, 40)
    assert [at(caller, version) for version in range(41)] == documents
    plain = db.execute(log, [KEY]).fetchall()
    assert [row[0] for row in plain if row[-1] is not None] == [16, 32]
    db.execute("update my_app.jobs set key = 'other' where key = %s", [KEY])
    setting(db, entity_snapshot=16)
    start(caller, KEY)
    some_changes(caller, 40)
    assert db.execute(log, [KEY]).fetchall() == plain


def test_a_batch_is_as_many_versions_as_it_has_commands(caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "apply", [{"operation": "increment", "path": "n"}] * 40)
    assert [at(caller, version).get("n") for version in range(41)] == [None, *range(1, 41)]


def test_the_history_tells_who_did_what(db: Connection, caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "set", {"n": 1})
    call(caller, "increment", "n", 2, "key-1")
    db.execute("update my_app.jobs set context = '{}'")
    found = caller.execute(
        "select version, operation, path, argument, role, dimension, request"
        " from hotmesh.entity_history('my-app', 'a')"
    ).fetchall()
    assert found == [
        (1, "set", None, {"n": 1}, "hotmesh_caller", None, None),
        (2, "increment", "n", 2, "hotmesh_caller", None, "key-1"),
        (3, "update", None, {}, "hotmesh_owner", None, None),
    ]
    assert caller.execute(
        "select version from hotmesh.entity_history('my-app', 'a', after => 1, take => 1)"
    ).fetchall() == [(2,)]
    assert at(caller, 3) == {}


def test_a_time_means_the_version_of_then(caller: Connection, clock: Clock) -> None:
    clock.freeze("2030-01-01 00:00+00")
    start(caller, KEY)
    for _ in range(40):
        clock.advance("1 minute")
        call(caller, "increment", "n")
    query = "select hotmesh.entity_at('my-app', 'a', at => %s::timestamptz)"
    assert one(caller, query, "2029-12-31 23:59+00") is None
    assert one(caller, query, "2030-01-01 00:00:59+00") == {}
    for minute in (1, 2, 17, 39, 40):
        assert one(caller, query, f"2030-01-01 00:{minute}:30+00") == {"n": minute}
        assert one(caller, query, f"2030-01-01 00:{minute}:00+00") == {"n": minute}
    assert one(caller, query, "2031-01-01 00:00+00") == {"n": 40}


def test_versions_that_never_were_are_refused(caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "toggle", "x")
    for version in (-1, 2, None):
        query = "select hotmesh.entity_at('my-app', 'a', version => %s::bigint)"
        assert refused(caller, query, version) == "MSH85"
    for query in (
        "select hotmesh.entity_at('my-app', 'b', version => 1)",
        "select hotmesh.entity_at('my-app', 'b', at => 'now')",
        "select from hotmesh.entity_history('my-app', 'b')",
        "select from hotmesh.entity_diff('my-app', 'b', 0, 1)",
        "select hotmesh.entity_fork('my-app', 'b')",
    ):
        assert refused(caller, query) == "MSH40"


def test_a_difference_names_the_places(caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "set", {"a": {"x": 1, "y": 2}, "list": [1], "gone": 1, "d.t": 1})
    call(caller, "set", {"a": {"x": 1, "y": 3}, "list": [1, 2], "new": None, "d.t": 2})
    query = "select path, was, became from hotmesh.entity_diff('my-app', 'a', %s, %s)"
    assert caller.execute(query, [1, 2]).fetchall() == [
        ("a.y", 2, 3), (r"d\.t", 1, 2), ("gone", 1, None), ("list", [1], [1, 2]), ("new", None, None),
    ]  # fmt: skip
    assert caller.execute(query, [2, 2]).fetchall() == []
    assert [row[0] for row in caller.execute(query, [2, 1])] == [
        "a.y", r"d\.t", "gone", "list", "new",
    ]  # fmt: skip


# --- retention ------------------------------------------------------------------------------------


def test_a_log_that_is_off_is_not_guessed(db: Connection, caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "increment", "n")
    setting(db, entity_log_keep=0)
    call(caller, "increment", "n")
    db.execute("update my_app.jobs set context = context || '{\"x\": 1}'")
    assert call(caller, "increment", "n", 1, "once") == call(caller, "increment", "n", 1, "once")
    setting(db)
    call(caller, "increment", "n")
    assert [at(caller, version) for version in (0, 1, 5)] == [{}, {"n": 1}, {"n": 4, "x": 1}]
    for version in (2, 3, 4):
        query = f"select hotmesh.entity_at('my-app', 'a', version => {version})"
        assert refused(caller, query) == "MSH85"
    assert [row[0] for row in db.execute("select version from my_app.entity_log")] == [1, 4, 5]
    for _ in range(16):
        call(caller, "increment", "n")
    assert at(caller, 18) == {"n": 17, "x": 1}


def test_old_rows_go_as_the_setting_says(db: Connection, caller: Connection, clock: Clock) -> None:
    setting(db, entity_log_keep=3600, entity_snapshot=4)
    start(caller, KEY)
    for _ in range(30):
        clock.advance("5 minutes")
        call(caller, "increment", "n")
    versions = [row[0] for row in db.execute("select version from my_app.entity_log order by 1")]
    assert versions == list(range(16, 31))
    assert [at(caller, version)["n"] for version in versions] == versions
    assert refused(caller, "select hotmesh.entity_at('my-app', 'a', version => 15)") == "MSH85"


def test_prune_keeps_what_later_versions_need(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    setting(db, entity_snapshot=4)
    for key in ("a", "b"):
        start(caller, key)
        for _ in range(10):
            clock.advance("1 minute")
            call(caller, "increment", "n", key=key)
    assert one(caller, "select hotmesh.entity_prune('my-app', '1 day')") == 0
    assert one(caller, "select hotmesh.entity_prune('my-app', '0', 5)") == 5
    assert one(caller, "select hotmesh.entity_prune('my-app', '0')") == 9
    for key in ("a", "b"):
        assert [at(caller, version, key)["n"] for version in (8, 9, 10)] == [8, 9, 10]
    for keep in (None, "-1 day", "2000 years"):
        assert (
            refused(caller, "select hotmesh.entity_prune('my-app', %s::interval)", keep) == "22023"
        )


def test_the_log_goes_to_the_archive_with_its_job(db: Connection, caller: Connection) -> None:
    start(caller, KEY, expire=0)
    documents = some_changes(caller, 20)
    hand = Hand(caller)
    hand.report(hand.take(), outcome={"output": 1})
    one(caller, "select hotmesh.job_archive('my-app')")
    assert one(db, "select count(*) from my_app.entity_log") == 0
    assert [at(caller, version) for version in range(21)] == documents
    assert one(caller, "select count(*) from hotmesh.entity_history('my-app', 'a')") == 20


# --- forks ----------------------------------------------------------------------------------------


def test_a_fork_goes_on_from_a_version(db: Connection, caller: Connection) -> None:
    start(caller, KEY, args=[7], queue="special")
    call(caller, "set", {"n": 1})
    call(caller, "set", {"n": 2})
    fork = "select key, topic, queue, entity from hotmesh.entity_fork('my-app', 'a', {})"
    assert caller.execute(fork.format("1, 'b'")).fetchone() == ("b", "order", "special", "order")
    caller.execute(fork.format("new_key => 'c', workflow => 'other', args => '[1]'"))
    assert [call(caller, "get", "n", key=key) for key in "abc"] == [2, 1, 2]
    assert call(caller, "increment", "n", 10, key="b") == 11
    assert [at(caller, version, "b") for version in range(3)] == [{}, {"n": 1}, {"n": 11}]
    assert db.execute(
        "select j.key, j.topic, a.value, f.value from my_app.jobs j"
        " join my_app.jobs_attributes a on a.job_id = j.id and a.field = 'input'"
        " join my_app.jobs_attributes f on f.job_id = j.id and f.field = 'forked_from' order by 1"
    ).fetchall() == [
        ("b", "order", [7], {"key": "a", "version": 1}),
        ("c", "other", [1], {"key": "a", "version": 2}),
    ]
    assert refused(caller, "select hotmesh.entity_fork('my-app', 'a', 1, 'b')") == "MSH41"
    assert refused(caller, "select hotmesh.entity_fork('my-app', 'a', 9)") == "MSH85"
    again = """select key from hotmesh.entity_fork('my-app', 'a', 1, 'b',
               options => '{"on_conflict": "existing"}')"""
    assert one(caller, again) == "b"
    assert call(caller, "get", key="b") == {"n": 11}


def test_a_time_or_a_page_that_is_none_is_refused(caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "set", {"n": 0})
    assert refused(caller, "select hotmesh.entity_at('my-app', 'a', at => null)") == "22023"
    history = "select version from hotmesh.entity_history('my-app', 'a', {}, {})"
    assert refused(caller, history.format(0, -1)) == "22023"
    assert [caller.execute(history.format(*page).encode()).fetchall()
            for page in ((0, 0), ("null", "null"))] == [[], [(1,)]]  # fmt: skip


# --- watching -------------------------------------------------------------------------------------


def test_who_watches_is_told_and_nobody_else(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, KEY)
    start(caller, "b")
    found = caller.execute("select channel, id, version from hotmesh.entity_watch('my-app', 'a')")
    [(channel, id, version)] = found.fetchall()
    assert version == 0
    db.execute(f"listen {channel}".encode())
    for key in ("a", "b"):
        call(caller, "toggle", "x", key=key)
    db.execute("update my_app.jobs set context = '{}'")
    assert [notice.payload for notice in db.notifies(timeout=0.2)] == [str(id)] * 2
    clock.advance("2 minutes")
    call(caller, "toggle", "x")
    assert not list(db.notifies(timeout=0.2))
    assert one(caller, "select version from hotmesh.entity_watch('my-app', 'a')") == 3


# --- plans ----------------------------------------------------------------------------------------


def test_a_long_log_is_read_by_its_key(
    admin: Connection, db: Connection, caller: Connection
) -> None:
    start(caller, KEY)
    call(caller, "set", {"n": 0})
    later = "select hotmesh.entity_at('my-app', 'a', at => now() + interval '1 hour')"
    for _ in range(7):  # plans are cached while the log is empty
        at(admin, 0)
        one(admin, later)
    db.execute(
        "insert into my_app.entity_log (job_id, version, operation, path, argument, role, at)"
        " select j.id, n, 'increment', 'n', '1', 'x', j.created_at + n * interval '1 second'"
        " from my_app.jobs j, generate_series(2, 100000) n"
    )
    db.execute(
        "update my_app.entity_log set document = jsonb_build_object('n', version - 1)"
        " where version % 16 = 0"
    )
    db.execute("update my_app.jobs set entity_version = 100000, context = '{\"n\": 99999}'")
    with recorded(admin) as plans:
        assert at(admin, 99_999) == {"n": 99_998}
        one(admin, later)
    scans = {scan for plan in plans for scan in plan.scans("entity_log")}
    assert scans == {"entity_log_pkey"}
