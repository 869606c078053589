"""Throttles: a queue lets one begin after the other, or is paused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.hand import Connection, Hand, activity, start
from support.limits import keys, limit


def throttle(connection: Connection, delay: Any, queue: Any = "default", kind: Any = None) -> None:
    connection.execute("select hotmesh.queue_throttle('my-app', %s, %s, %s)", (queue, delay, kind))


def test_a_throttled_queue_lets_one_begin_after_the_other(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    throttle(caller, 500)
    for key in "abc":
        start(caller, key)
    hand = Hand(caller)
    begun = []
    for _ in range(8):
        clock.advance("200 ms")
        begun.append(keys(hand.claim(take=9)))
    assert begun == [[], [], ["a"], [], [], ["b"], [], []]


def test_a_worker_is_told_when_a_throttle_opens(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    throttle(caller, 60_000)
    hand = Hand(caller)
    clock.advance("20 s")
    assert [(row.answer, row.due) for row in hand.turn(workflow=9)] == [("next", 40)]
    clock.advance("1 hour")
    assert all(row.due is None or row.due > 60 for row in hand.turn(workflow=9)), "nothing waits"
    throttle(caller, -1)
    start(caller, "a")
    assert all(row.due is None or row.due > 60 for row in hand.turn(workflow=9)), (
        "nothing may begin"
    )


def test_a_paused_queue_lets_nothing_begin_until_it_is_resumed(
    caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    throttle(caller, -1)
    start(caller, "b")
    clock.advance("10 s")
    assert hand.claim(take=9) == []
    hand.settle(run)
    throttle(caller, 0)
    assert keys(hand.claim(take=9)) == ["b"]


def test_a_throttle_is_for_its_queue_and_kind(caller: Connection) -> None:
    throttle(caller, -1, kind="activity")
    throttle(caller, -1, queue="other")
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)])
    assert hand.claim(kind="activity", take=9) == []
    throttle(caller, 0)
    assert len(hand.claim(kind="activity", take=9)) == 1


def test_limits_and_throttles_leave_each_other_alone(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    throttle(caller, 1000)
    limit(caller, concurrency=1)
    clock.advance("1 s")
    for key in "abc":
        start(caller, key)
    hand = Hand(caller)
    run = hand.take()
    clock.advance("1 s")
    assert hand.claim(take=9) == []
    hand.settle(run)
    assert keys(hand.claim(take=9)) == ["b"]
    caller.execute("select hotmesh.queue_unlimit('my-app', 'default')")
    assert hand.claim(take=9) == []
    rows = caller.execute("select queue, kind, throttle from hotmesh.queue_list('my-app')")
    assert rows.fetchall() == [("default", "activity", 1000), ("default", "workflow", 1000)]


def test_keyed_messages_do_not_wait_longer_because_others_end(
    caller: Connection, clock: Clock
) -> None:
    """What admits the next of a lane writes the limit's row, too."""
    clock.freeze()
    limit(caller, per_key=1)
    throttle(caller, 1000)
    for number in range(4):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    clock.advance("1 s")
    run = hand.take()
    clock.advance("900 ms")
    hand.settle(run)
    clock.advance("100 ms")
    assert len(hand.claim(take=9)) == 1


@pytest.mark.parametrize(
    ("delay", "queue", "kind"),
    [
        (-2, "q", None), (None, "q", None), (86_400_001, "q", None), (1, "", None),
        (1, None, None), (1, "q", "event"),
    ],
)  # fmt: skip
def test_what_is_no_throttle_is_refused(
    caller: Connection, delay: Any, queue: Any, kind: Any
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        throttle(caller, delay, queue, kind)
