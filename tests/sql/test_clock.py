"""Clocks that jump back and forward: nothing is lost, nothing comes twice, nobody waits below zero."""

from __future__ import annotations

from typing import Any

import pytest

from support.clock import Clock
from support.hand import Connection, Hand, activity, body, journal, messages, one, start, timer

AGAIN = {"maximum_attempts": 5, "initial_interval": 1, "backoff_coefficient": 1}
JUMPS = ["-1 hour", "-40 days", "1 hour", "40 days"]


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze("2030-01-01 12:00+00")
    return clock


def back(jump: str) -> str:
    """The way back: an interval that undoes the jump."""
    return jump[1:] if jump.startswith("-") else f"-{jump}"


@pytest.fixture
def hand(caller: Connection) -> Hand:
    return Hand(caller)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_timer_rings_once(db: Connection, hand: Hand, time: Clock, jump: str) -> None:
    start(db, "a")
    hand.report(hand.take(lease=80000), commands=[timer(1, 60)])
    rung = [hand.claim(lease=80000)]
    for step in (jump, back(jump), "1 minute", jump, back(jump), "1 hour"):
        time.advance(step)
        rung.append(hand.claim(lease=80000))
        assert all(row.due is None or row.due >= 0 for row in hand.turn(idle=True))
    tasks = [task for tasks in rung for task in tasks]
    assert [[step[0] for step in task.history] for task in tasks][:1] == [[1]]
    assert [row[:3] for row in journal(db, "a")] == [(1, None, "done")]
    assert {task.id for task in tasks} == {tasks[0].id}
    assert hand.settle(tasks[-1]) == "ok"
    assert messages(db) == []


@pytest.mark.parametrize("jump", JUMPS)
def test_a_message_has_one_holder_whose_report_counts(
    db: Connection, hand: Hand, caller: Connection, time: Clock, jump: str
) -> None:
    start(db, "a")
    first = hand.take()
    time.advance(jump)
    other = Hand(caller, "other")
    claimed = other.claim()
    assert (claimed != []) == (not jump.startswith("-"))  # a lease is an instant
    if claimed:
        assert hand.settle(first, "old") == "stale"
        time.advance(back(jump))
        assert hand.claim() == []
        assert other.settle(claimed[0], "new") == "ok"
    else:
        assert hand.settle(first, "new") == "ok"
    assert one(db, "select value #>> '{}' from my_app.jobs_attributes where field = 'output'") == (
        "new"
    )


@pytest.mark.parametrize("jump", JUMPS)
def test_a_failed_activity_is_tried_again_once(
    db: Connection, hand: Hand, time: Clock, jump: str
) -> None:
    start(db, "a")
    hand.report(hand.take(), commands=[activity(1, retry_policy=AGAIN)])
    pay = hand.take("activity", lease=80000)
    time.advance(jump)
    tried = [pay]
    if not jump.startswith("-"):
        time.advance(back(jump))
    hand.turn(body(pay, error={"type": "E", "message": "no"}))
    for step in (jump, back(jump), "2 seconds"):
        time.advance(step)
        tried += hand.claim("activity", lease=80000)
    tried += hand.claim("activity", lease=80000)
    assert [task.attempt for task in tried] == [1, 2]
    assert hand.report(tried[-1], output="paid") == "ok"
    assert [step[4] for step in hand.take().history] == ["paid"]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_rate_goes_on(db: Connection, hand: Hand, time: Clock, jump: str) -> None:
    set_limit(db, rate=2, per="1 minute")
    for number in range(12):
        start(db, f"j{number}")
    assert begun(hand) == 2
    time.advance(jump)
    assert begun(hand) == 2
    assert begun(hand) == 0
    time.advance("2 minutes")
    assert begun(hand) == 2


@pytest.mark.parametrize("jump", JUMPS)
def test_a_throttle_goes_on(db: Connection, hand: Hand, time: Clock, jump: str) -> None:
    db.execute("select hotmesh.queue_throttle('my-app', 'default', 60000)")
    for number in range(4):
        start(db, f"j{number}")
    time.advance("1 minute")
    assert begun(hand) == 1
    assert begun(hand) == 0
    time.advance(jump)
    assert begun(hand) == 1
    assert begun(hand) == 0


def test_a_run_that_is_kept_for_its_worker_is_anybodys_after_a_jump(
    db: Connection, hand: Hand, caller: Connection, time: Clock
) -> None:
    start(db, "a")
    hand.report(hand.take(), commands=[{"sequence": 1, "kind": "wait", "name": "s"}])
    db.execute("select hotmesh.job_signal('my-app', 'a', 's', '1')")
    other = Hand(caller, "other")
    assert other.claim() == []  # its worker is preferred for 100 ms
    time.advance("-1 day")
    assert [task.key for task in other.claim()] == ["a"]


def begun(hand: Hand) -> int:
    """How many runs begin in a turn; those whose leases were over go on."""
    return sum(task.token == 1 for task in hand.claim(take=12, lease=80000))


def set_limit(db: Connection, **what: Any) -> None:
    named = "".join(f", {name} => %({name})s" for name in what)
    db.execute(f"select hotmesh.queue_limit('my-app', 'default'{named})".encode(), what)
