"""Timers: an alarm becomes news of its job when it is due, once, whoever turns."""

from __future__ import annotations

import pytest

from support.clock import Clock
from support.hand import Connection, Hand, activity, journal, messages, start, timer


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze("2030-01-01 00:00+00")
    return clock


def test_a_timer_rings_when_it_is_due_and_not_before(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 90)])
    time.advance("89.999 seconds")
    assert hand.claim() == []
    time.advance("0.001 seconds")
    [step] = hand.take().history
    assert (step[0], step[1], step[3], step[5]) == (1, "timer", "done", 1)
    assert messages(db) == [("workflow", "leased")]


def test_a_timer_has_the_time_at_which_it_was_due(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 90)])
    due = time.now().timestamp() + 90
    time.advance("3 days")
    assert hand.take().history[0][6] == due


def test_timers_that_are_overdue_ring_in_the_order_in_which_they_were_due(
    caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 30), timer(2, 10), timer(3, 20), timer(4, 99)])
    time.advance("1 minute")
    assert [step[0] for step in hand.take().history] == [2, 3, 1]


@pytest.mark.parametrize("delay", [0, -5, 1e-9])
def test_a_timer_that_is_due_at_once_rings_in_the_same_turn_or_the_next(
    caller: Connection, time: Clock, delay: float
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, delay)])
    assert [step[0] for step in hand.take().history] == [1]


def test_any_turn_rings_it(db: Connection, caller: Connection, time: Clock) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 1)])
    time.advance("1 second")
    Hand(caller, "stranger", workflows=[("other", "thing")]).turn()
    assert ("workflow", "ready") in messages(db)


def test_a_timer_of_a_run_that_is_held_comes_as_news(caller: Connection, time: Clock) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[timer(1, 5)], running=True)
    assert hand.news(run, running=True) == []
    time.advance("5 seconds")
    hand.turn()
    assert [step[0] for step in hand.news(run, running=True)] == [1]


def test_a_cancelled_timer_does_not_ring(db: Connection, caller: Connection, time: Clock) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[timer(1, 5), activity(2)], running=True)
    hand.report(run, commands=[{"sequence": 1, "kind": "cancel"}], running=True)
    time.advance("1 hour")
    hand.turn()
    assert hand.news(run, running=True) == []
    assert [step[2] for step in journal(db, "a")] == ["cancelled", "open"]


def test_a_timer_of_a_job_that_closed_is_gone(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[timer(1, 5)], running=True)
    hand.settle(run)
    assert messages(db) == []


def test_a_turn_that_dies_rings_nothing(db: Connection, caller: Connection, time: Clock) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 5)])
    time.advance("5 seconds")
    before = messages(db)
    with caller.transaction(force_rollback=True):
        assert len(hand.claim()) == 1
    assert messages(db) == before
    assert len(hand.take().history) == 1
