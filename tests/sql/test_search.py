"""Search attributes and events in SQL: what the doors read, and what an effect refuses."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.hand import Connection, Hand, one, start
from support.plans import recorded


def told(db: Connection) -> Any:
    """The answer to the only effect, delivered or not yet."""
    row = db.execute(
        "select s.args from my_app.streams s where s.kind = 'event' and s.name = 'result' union all"
        " select jsonb_build_object(case a.state when 'failed' then 'error' else 'output' end, a.value)"
        " from my_app.jobs_attributes a where a.sequence = 1 and a.state <> 'open'"
    ).fetchone()
    return row and row[0]


@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("set", {"data": {"a": 1, "b": None}}, 2),
        ("set", {"data": {}}, 0),
        ("enrich", {"data": {"a": 1}}, True),
        ("get", {"names": ["old"]}, 5),
        ("get", {"names": ["none"]}, None),
        ("mget", {"names": ["none", "old"]}, [None, 5]),
        ("delete", {"names": ["old", "none"]}, 1),
        ("incr", {"name": "old", "amount": 0.5}, 5.5),
        ("mult", {"name": "new", "amount": 3}, 3),
    ],
)
def test_an_effect_answers(
    caller: Connection, db: Connection, name: str, args: Any, answer: Any
) -> None:
    hand = Hand(caller)
    start(caller, "j", search={"old": 5})
    hand.report(
        hand.take(), commands=[{"sequence": 1, "kind": "search", "name": name, "args": args}]
    )
    assert told(db) == {"output": answer}


@pytest.mark.parametrize(
    ("kind", "name", "args", "message"),
    [
        ("search", "set", {"data": [1]}, "no JSON object"),
        ("search", "set", {}, "no JSON object"),
        ("search", "set", {"data": {"": 1}}, "needs a name"),
        ("search", "get", {"names": [1]}, "needs a name"),
        ("search", "mget", {}, "needs a name"),
        ("search", "incr", {"name": "word", "amount": 1}, '"word" is no number'),
        ("search", "incr", {"name": "old", "amount": "x"}, "the amount is no number"),
        ("search", "incr", {"name": "old"}, "makes no number"),
        ("search", "mult", {"name": "old", "amount": 10**1000}, "makes no number"),
        ("search", "rename", {}, "no search.rename"),
        ("emit", "t", {"events": []}, "no JSON object"),
        ("emit", "t", {"events": {"": 1}}, "no JSON object"),
    ],
)
def test_an_effect_that_makes_no_sense_fails_and_changes_nothing(
    caller: Connection, db: Connection, kind: str, name: str, args: Any, message: str
) -> None:
    hand = Hand(caller)
    start(caller, "j", search={"old": 5, "word": "w"})
    hand.report(hand.take(), commands=[{"sequence": 1, "kind": kind, "name": name, "args": args}])
    error = told(db)["error"]
    assert error["sqlstate"] == "22023"
    assert message in error["message"]
    assert one(caller, "select hotmesh.search_get('my-app', 'j')") == {"old": 5, "word": "w"}


def test_search_get_reads_open_closed_and_archived_jobs(caller: Connection, db: Connection) -> None:
    hand = Hand(caller)
    start(caller, "j", ["arg"], search={"a": 1, "b": [2]}, expire=0)
    query = "select hotmesh.search_get('my-app', 'j', %s)"
    for move in (lambda: None, lambda: hand.settle(hand.take(), "out"), lambda: archive(caller)):
        move()
        assert one(caller, query, None) == {"a": 1, "b": [2]}
        assert one(caller, query, ["a", "z", '"input"']) == {"a": 1, "z": None, '"input"': ["arg"]}
    assert one(db, "select count(*) from my_app.jobs") == 0
    for key in ("nobody", None):
        with pytest.raises(psycopg.Error) as missing:
            one(caller, "select hotmesh.search_get('my-app', %s)", key)
        assert missing.value.sqlstate == "MSH40"


def archive(caller: Connection) -> None:
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1


def test_search_find_goes_by_the_jobs_newest_first(
    admin: Connection, caller: Connection, db: Connection
) -> None:
    db.execute(
        "insert into my_app.jobs (key, entity, topic, created_at, updated_at)"
        " select format('%s-%s', e, g), e, 'w', now(), now()"
        " from generate_series(1, 5000) g, unnest(array['user', 'other']) e order by g"
    )
    db.execute(
        "insert into my_app.jobs_attributes (job_id, field, value, created_at, updated_at)"
        " select id, '_n', to_jsonb(id % 10), now(), now() from my_app.jobs"
    )
    query = "select key from hotmesh.search_find('my-app', 'user', %s, 5)"
    caller.execute(query, [Jsonb({})])
    with recorded(admin) as plans:
        found = admin.execute(query, [Jsonb({"n": 3})]).fetchall()
    assert len(found) == 5
    assert found == sorted(found, key=lambda row: -int(row[0].split("-")[1]))
    [plan] = [plan for plan in plans if plan.query.startswith("select key, (select")]
    assert set(plan.scans("jobs")) <= {"jobs_entity", "jobs_pkey"}


def test_an_event_is_read_where_its_notification_says(caller: Connection, db: Connection) -> None:
    channel = one(caller, "select hotmesh.emit_channel('my-app')")
    caller.execute(f'listen "{channel}"')
    hand = Hand(caller)
    job = start(caller, "j")
    events = {"a": {"n": 1}, "b": "x" * 9000}
    hand.report(
        hand.take(),
        commands=[{"sequence": 1, "kind": "emit", "name": "t", "args": {"events": events}}],
    )
    notices = [notice.payload for notice in caller.notifies(timeout=5, stop_after=2)]
    assert len(notices) == 2
    for notice in notices:
        mark, id, field = notice.split(" ")
        assert mark in {one(caller, "select md5(%s)", topic) for topic in "ab"}
        assert int(id) == job
        row = caller.execute(
            "select * from hotmesh.emit_read('my-app', %s, %s)", [int(id), field]
        ).fetchone()
        assert row == ("j", events)
    assert not caller.execute(
        "select * from hotmesh.emit_read('my-app', %s, 'input')", [job]
    ).fetchall()


def test_a_trace_is_only_recorded(caller: Connection, db: Connection) -> None:
    hand = Hand(caller)
    start(caller, "j")
    args = {"attributes": {"a": 1}}
    hand.report(hand.take(), commands=[{"sequence": 1, "kind": "trace", "name": "", "args": args}])
    assert told(db) == {"output": args}
