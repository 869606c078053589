"""Limits per key: each key has a lane of its own, and what is held in it stops no other."""

from __future__ import annotations

from collections.abc import Callable

from support.clock import Clock
from support.hand import Connection, Hand, one, start
from support.limits import ask, keys, limit, pending
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


def test_a_key_at_its_limit_does_not_stop_the_others(caller: Connection, db: Connection) -> None:
    limit(caller, per_key=1)
    for number in range(3):
        for key in "ab":
            start(caller, f"{key}{number}", concurrency_key=key)
    start(caller, "free")
    hand = Hand(caller)
    runs = hand.claim(take=9)
    assert sorted(keys(runs)) == ["a0", "b0", "free"]
    assert hand.claim(take=9) == []
    hand.settle(next(run for run in runs if run.key == "a0"))
    assert keys(hand.claim(take=9)) == ["a1"]
    assert one(db, "select count(*) from my_app.lanes") == 0


def test_a_lane_is_served_by_priority_then_age(caller: Connection) -> None:
    limit(caller, per_key=1)
    for key, priority in (("first", 0), ("old", 0), ("new", 0), ("urgent", 1)):
        start(caller, key, concurrency_key="k", priority=priority)
    hand = Hand(caller)
    order = []
    for _ in range(4):
        run = hand.take()
        order.append(run.key)
        hand.settle(run)
    assert order == ["urgent", "first", "old", "new"]


def test_activities_have_keys_too(caller: Connection) -> None:
    limit(caller, per_key=2, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 5, concurrency_key="k")
    tasks = hand.claim("activity", 9)
    assert len(tasks) == 2
    hand.report(tasks[0], error={"type": "E"})
    assert len(hand.claim("activity", 9)) == 1


def test_a_retry_waits_for_a_slot_of_its_key_again(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    limit(caller, per_key=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 2, concurrency_key="k")
    failed = hand.take("activity")
    hand.report(failed, error={"type": "E"})
    second = hand.take("activity", lease=7200)
    clock.advance("1 hour")
    assert hand.claim("activity", 9) == []
    hand.report(second, output=1)
    assert hand.take("activity").id == failed.id


def test_a_delayed_start_enters_its_lane_when_it_is_due(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    limit(caller, per_key=1)
    start(caller, "later", concurrency_key="k", delay="10 s")
    hand = Hand(caller)
    assert hand.claim(take=9) == []
    start(caller, "now", concurrency_key="k")
    run = hand.take(lease=60)
    assert run.key == "now"
    clock.advance("11 s")
    assert hand.claim(take=9) == []
    hand.settle(run)
    assert hand.take().key == "later"


def test_more_per_key_lets_held_ones_go(caller: Connection) -> None:
    limit(caller, per_key=1)
    for number in range(5):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    assert len(hand.claim(take=9)) == 1
    limit(caller, per_key=3)
    assert len(hand.claim(take=9)) == 2


def test_a_limit_per_key_holds_what_is_already_there(caller: Connection, db: Connection) -> None:
    for number in range(4):
        start(caller, str(number), concurrency_key="k")
    limit(caller, per_key=1)
    assert [state for state, *_ in pending(db)] == ["ready", "held", "held", "held"]
    assert len(Hand(caller).claim(take=9)) == 1


def test_a_start_that_did_not_know_of_the_limit_is_held_by_the_claim(
    caller: Connection, db: Connection, sessions: Sessions
) -> None:
    (early,) = sessions("early")
    early.begin()
    for number in range(3):
        early.run("select hotmesh.job_start('my-app', 'order', %s, options => %s)",
                  [str(number), '{"concurrency_key": "k"}'])  # fmt: skip
    limit(caller, per_key=1)
    early.commit()
    hand = Hand(caller)
    assert len(hand.claim(take=9) + hand.claim(take=9)) == 1
    assert hand.claim(take=9) == []


def test_a_note_survives_whoever_has_the_queue_locked(
    caller: Connection, db: Connection, sessions: Sessions
) -> None:
    limit(caller, per_key=1)
    for number in range(2):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    run = hand.take()
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.limits for update")
    hand.settle(run)
    rows = hand.turn(workflow=9)
    assert [(row.answer, row.due) for row in rows] == [("next", 0)]
    other.rollback()
    assert hand.take().key == "1"


def test_a_held_message_that_is_locked_is_noted_again(
    caller: Connection, db: Connection, sessions: Sessions
) -> None:
    limit(caller, per_key=1)
    for number in range(2):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    run = hand.take()
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.streams where state = 'held' for update")
    hand.settle(run)
    assert hand.claim(take=9) == []
    other.rollback()
    assert hand.take().key == "1"
