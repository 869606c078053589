"""Heartbeats: an attempt that shows no sign of life ends, and the next one gets the last details."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.hand import Connection, messages, one, unchanged
from support.timeouts import ONCE, THRICE, ask, outcome


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze("2030-01-01 00:00+00")
    return clock


def beat(caller: Connection, task: Any, details: Any = None, **more: Any) -> str | None:
    """One heartbeat through the door of workers; the answer for it."""
    told = {"id": task.id, "token": task.token, "details": details} | more
    answers = caller.execute(
        "select id, answer from hotmesh.worker_heartbeat('my-app', 'hand', %s)",
        [psycopg.types.json.Jsonb([told])],
    ).fetchall()
    [(id, answer)] = answers
    assert id == task.id
    return str(answer)


def test_an_attempt_without_a_heartbeat_in_time_ends(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"heartbeat": 10}, retry_policy=ONCE)
    task = hand.take("activity", lease=60)
    time.advance("9 seconds")
    assert beat(caller, task) == "ok"
    time.advance("9 seconds")
    hand.turn()
    assert messages(db)[1] == ("activity", "leased")
    time.advance("1 second")
    assert beat(caller, task) == "ok"  # at the last instant, before anybody swept
    time.advance("10 seconds")
    hand.turn()
    hand.take()
    error = outcome(db)
    assert (error["code"], error["timeout"]) == (596, "heartbeat")
    assert beat(caller, task) == "stale"


def test_keeping_the_lease_is_no_heartbeat(db: Connection, caller: Connection, time: Clock) -> None:
    hand = ask(caller, {"heartbeat": 10}, retry_policy=ONCE)
    task = hand.take("activity", lease=60)
    time.advance("9 seconds")
    caller.execute("select hotmesh.worker_extend('my-app', 'hand', %s, '60 s')", [[task.id]])
    time.advance("1 second")
    hand.turn()
    assert messages(db, "kind", "state")[1] == ("activity", "dead")


def test_the_next_attempt_gets_the_details_of_the_last_heartbeat(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"heartbeat": 10}, retry_policy=THRICE)
    task = hand.take("activity", lease=60)
    assert "details" not in task.history
    beat(caller, task, {"row": 1})
    beat(caller, task, {"row": 2})
    beat(caller, task)  # a bare sign of life keeps what was told
    time.advance("10 seconds")
    hand.turn()
    time.advance("1 second")
    again = hand.take("activity")
    assert again.history["details"] == {"row": 2}
    assert hand.report(again, error={"type": "X", "message": "y"}, output={"row": 3}) == "ok"
    time.advance("1 second")
    assert hand.take("activity").history["details"] == {"row": 3}


def test_details_are_kept_where_no_heartbeat_timeout_was_asked_for(
    caller: Connection, time: Clock
) -> None:
    hand = ask(caller, None, retry_policy=THRICE)
    beat(caller, hand.take("activity"), [7])
    time.advance("15 seconds")
    assert hand.take("activity").history == {"details": [7]}


@pytest.mark.parametrize("change", [{"token": 9}, {"id": 1}])
def test_a_heartbeat_of_another_attempt_changes_nothing(
    db: Connection, caller: Connection, change: dict[str, int]
) -> None:
    hand = ask(caller, {"heartbeat": 10})
    task = hand.take("activity")
    with unchanged(db):
        told = {"id": task.id, "token": task.token, "details": 1} | change
        rows = caller.execute(
            "select answer from hotmesh.worker_heartbeat('my-app', 'hand', %s)",
            [psycopg.types.json.Jsonb([told])],
        ).fetchall()
        assert rows == [("stale",)]


def test_a_message_that_is_locked_this_instant_is_no_stale_one(
    caller: Connection, sessions: Any
) -> None:
    hand = ask(caller, {"heartbeat": 10})
    task = hand.take("activity")
    [other] = sessions("other")
    other.begin()
    other.run("select from my_app.streams where id = %s for update", [task.id])
    assert beat(caller, task) == "busy"
    other.commit()
    assert beat(caller, task) == "ok"


@pytest.mark.parametrize(
    "beats", ["{}", "7", '"x"', "[7]", '[{"id": "x"}]', '[{"id": 1, "token": "y"}]', "null", None]
)
def test_heartbeats_that_are_none_are_refused_and_change_nothing(
    db: Connection, caller: Connection, beats: str | None
) -> None:
    hand = ask(caller, {"heartbeat": 10})
    hand.take("activity")
    with unchanged(db), pytest.raises(psycopg.DataError):
        caller.execute("select hotmesh.worker_heartbeat('my-app', 'hand', %s::jsonb)", [beats])


def test_no_heartbeats_are_no_mistake_and_those_of_nobody_are_stale(
    db: Connection, caller: Connection
) -> None:
    beat_all = "select id, answer from hotmesh.worker_heartbeat('my-app', 'hand', %s::jsonb)"
    with unchanged(db):
        assert caller.execute(beat_all, ["[]"]).fetchall() == []
        assert caller.execute(beat_all, ["[{}]"]).fetchall() == [(None, "stale")]


def test_a_worker_in_any_language_beats_by_extending(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"heartbeat": 10}, retry_policy=THRICE)
    [task] = caller.execute(
        "select id, token from hotmesh.stream_claim('my-app', 'default', 'me')"
    ).fetchall()
    for row in (1, 2):
        time.advance("9 seconds")
        extended = one(
            caller, "select hotmesh.stream_extend('my-app', %s, %s, '60 s', %s)", *task,
            psycopg.types.json.Jsonb({"row": row}),
        )  # fmt: skip
        assert extended == "ok"
    time.advance("10 seconds")
    hand.turn()
    time.advance("1 second")
    assert hand.take("activity").history["details"] == {"row": 2}
