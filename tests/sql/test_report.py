"""Reports: applied once, in order, by cursor; what the code asks for and what it takes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.hand import (
    Connection,
    Hand,
    activity,
    body,
    done,
    journal,
    messages,
    one,
    start,
    timer,
    unchanged,
)
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


# --- the same report twice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        {"done": [done(1)], "running": True},
        {"done": [done(1)]},
        {"commands": [activity(1)]},
        {"outcome": {"output": 1}},
        {"outcome": {"error": {"type": "E", "message": "no"}}},
    ],
)
def test_the_same_report_twice_is_applied_once(
    db: Connection, caller: Connection, what: dict[str, Any]
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    assert hand.report(run, **what) == "ok"
    with unchanged(db):
        assert hand.report(run, **what) == "stale"
        assert hand.report(run, **what, keep=True) == "stale"


def test_the_same_report_twice_in_one_batch_is_applied_at_most_once(
    db: Connection, caller: Connection
) -> None:
    """The batch is refused or one of them is stale; halved, the first is applied."""
    start(caller, "a")
    hand = Hand(caller)
    report = body(hand.take(), done=[done(1)], running=True)
    try:
        hand.turn(report, report)
    except psycopg.Error:
        assert journal(db, "a") == []
        hand.turn(report)
    assert len(journal(db, "a")) == 1
    assert one(db, "select cursor from my_app.jobs") == 1


@pytest.mark.parametrize("second", [{"output": 2}, {"error": {"type": "E", "message": "no"}}])
def test_two_answers_of_one_activity_count_once(
    db: Connection, caller: Connection, second: dict[str, Any]
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1)])
    task = hand.take("activity")
    hand.turn(body(task, output=1), body(task, **second))
    assert hand.report(task, **second) == "stale"
    [step] = hand.take().history
    assert step[3:6] == ["done", 1, 1]
    assert hand.claim("activity") == []


def test_a_cursor_is_compared_and_set(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, done=[done(1)], running=True)
    with unchanged(db):
        for cursor in (0, 2, -1, None):
            assert hand.report(run, cursor=cursor, done=[done(2)], running=True) == "stale"
    assert hand.report(run, cursor=1, done=[done(2)], running=True) == "ok"


# --- what the code asks for -----------------------------------------------------------------------


def test_an_announced_activity_runs_already_and_uses_up_attempts(
    caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    rows = hand.turn(body(hand.take(), commands=[activity(1, announced=True)], running=True))
    [leased] = [row for row in rows if row.answer == "leased"]
    assert (leased.sequence, leased.token, leased.name) == (1, 1, "pay")
    assert Hand(caller, "other").claim("activity") == []
    clock.advance("10 seconds")
    caller.execute("select hotmesh.worker_extend('my-app', 'hand', %s)", [[leased.id]])
    clock.advance("10 seconds")
    assert Hand(caller, "other").claim("activity") == []
    clock.advance("10 seconds")
    again = Hand(caller, "other").take("activity")
    assert (again.id, again.attempt, again.token) == (leased.id, 2, 2)


def test_an_activity_that_failed_inline_goes_on_in_the_stream(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "a")
    hand = Hand(caller)
    error = {"type": "E", "message": "no"}
    rows = hand.turn(body(hand.take(), commands=[activity(1, announced=True, error=error)]))
    assert [row.answer for row in rows if row.answer == "leased"] == []
    assert hand.claim("activity") == []
    clock.advance("10 seconds")
    assert hand.take("activity").attempt == 2


def test_an_activity_that_failed_inline_for_good_is_told_in_the_same_answer(
    db: Connection, caller: Connection
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    command = activity(1, announced=True, error={"type": "E"}, retry_policy={"maximum_attempts": 1})
    [news] = hand.news(hand.take(), commands=[command], running=True)
    assert (news[0], news[3], news[4]["code"], news[5]) == (1, "failed", 597, 1)


def test_what_was_cancelled_is_not_run_and_its_late_answer_is_dropped(
    db: Connection, caller: Connection
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1), activity(2), timer(3, 60)], running=True)
    task = hand.claim("activity")[0]
    cancels = [{"sequence": number, "kind": "cancel"} for number in (1, 2, 3)]
    assert hand.report(run, commands=cancels, running=True) == "ok"
    assert hand.report(task, output="late") == "stale"
    assert hand.claim("activity") == []
    assert [step[2] for step in journal(db, "a")] == ["cancelled"] * 3
    assert messages(db) == [("workflow", "leased")]
    assert hand.settle(run) == "ok"


def test_a_job_that_closes_takes_its_activities_along(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1), activity(2), timer(3, 60)], running=True)
    out = hand.claim("activity")[0]
    assert hand.settle(run, "early") == "ok"
    assert messages(db) == []
    with unchanged(db):
        assert hand.report(out, output="late") == "stale"
        clock.advance("1 hour")
        assert hand.claim("activity", 9) == hand.claim(take=9) == []
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == "early"


def test_a_message_that_was_held_while_its_job_closed_changes_nothing(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    """Its row was locked, so it outlived the job: its answer comes in, and is dropped."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1), activity(2)], running=True)
    out = hand.claim("activity")[0]
    (keeper,) = sessions("keeper")
    keeper.begin()
    keeper.run("select from my_app.streams where kind = 'activity' for update")
    assert hand.settle(run, "early") == "ok"
    keeper.rollback()
    assert messages(db, "kind") == [("activity",), ("activity",), ("event",)]  # it is looked for
    assert hand.report(out, output="late") in ("ok", "stale")
    assert hand.claim("activity", 9) == []
    hand.turn()
    assert messages(db) == []
    assert [step[2] for step in journal(db, "a")] == ["open", "open"]
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == "early"


def test_a_mismatch_leaves_the_job_open_and_visible_until_right_code_comes(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    told = {"type": "NonDeterminismError", "message": "expected pay, found ship"}
    assert hand.report(hand.take(), outcome={"mismatch": told}) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    assert db.execute("select key, reason, message from hotmesh.stuck_jobs").fetchall() == [
        ("a", "mismatch", "expected pay, found ship")
    ]
    assert hand.claim() == []
    for _ in range(9):
        clock.advance("6 seconds")
        assert hand.report(hand.take(), outcome={"mismatch": told}) == "ok"
    clock.advance("6 seconds")
    assert hand.settle(hand.take(), 1) == "ok"
    assert db.execute("select from hotmesh.stuck_jobs").fetchall() == []
