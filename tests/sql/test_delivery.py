"""Deliveries: work comes with what is needed to do it, and no more."""

from __future__ import annotations

from collections.abc import Callable

from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import (
    Connection,
    Hand,
    activity,
    body,
    done,
    one,
    start,
    timer,
)
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]

# --- history and the cached coroutine -------------------------------------------------------------


def test_a_run_that_had_only_asked_is_replayed_with_what_it_had_asked_for(
    caller: Connection, clock: Clock
) -> None:
    """No event was consumed, so its cursor is still 0; its journal is not empty."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)], running=True)
    caller.execute("select hotmesh.worker_stop('my-app', 'hand', %s)", [[run.id]])
    again = Hand(caller, "other").take()
    assert (again.cursor, again.attempt) == (0, 1)
    assert [step[:4] for step in again.history] == [[1, "activity", "pay", "open"]]


def test_a_parked_run_that_is_revived_is_replayed_with_its_journal(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[timer(1, 1e6)], running=True)
    db.execute("update my_app.streams set state = 'dead' where kind = 'workflow'")
    caller.execute("select hotmesh.stream_revive('my-app', %s)", [run.id])
    assert [step[3] for step in hand.take().history] == ["open"]


def test_only_news_go_to_the_worker_that_has_the_coroutine(
    caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "a")
    hand, other = Hand(caller), Hand(caller, "other")
    hand.report(hand.take(), done=[done(1)], commands=[activity(2)])
    other.report(other.take("activity"), output="x")
    assert other.claim() == []
    sticky = hand.take()
    assert (sticky.cursor, [step[0] for step in sticky.history]) == (2, [2])
    assert sticky.args is None


def test_after_a_tenth_of_a_second_anyone_takes_it_and_replays(
    caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "a", ["x"])
    hand, other = Hand(caller), Hand(caller, "other")
    hand.report(hand.take(), done=[done(1)], commands=[activity(2)])
    other.report(other.take("activity"), output="x")
    clock.advance("99 ms")
    assert other.claim() == []
    clock.advance("1 ms")
    run = other.take()
    assert [step[0] for step in run.history] == [1, 2]
    assert (run.args, run.cursor) == (["x"], 2)


def test_a_worker_that_lost_its_lease_gets_the_whole_history_again(
    caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), done=[done(1)], commands=[activity(2)])
    hand.report(hand.take("activity"), output="x")
    hand.take()
    clock.advance("16 seconds")
    assert [step[0] for step in hand.take().history] == [1, 2]


# --- what is locked -------------------------------------------------------------------------------


def test_slots_that_locked_jobs_leave_are_filled_in_the_same_turn(
    db: Connection, caller: Connection, sessions: Sessions, clock: Clock
) -> None:
    """Else the runs of a worker would march out of step, and each turn claim and settle a few."""
    clock.freeze()
    for key in "abcdefg":
        start(caller, key)
    hand = Hand(caller)
    (user,) = sessions("user")
    user.begin()
    user.run("select from my_app.jobs where key in ('a', 'c') for update")
    assert [run.key for run in hand.claim(take=4)] == ["b", "d", "e", "f"]
    again = "select count(*) from my_app.streams where state = 'delayed' and attempt = 0"
    assert one(db, again) == 2
    assert [run.key for run in hand.claim(take=4)] == ["g"]
    clock.advance("100 milliseconds")
    assert hand.claim(take=4) == []
    user.rollback()
    assert hand.claim(take=4) == []
    clock.advance("100 milliseconds")
    assert [(run.key, run.attempt) for run in hand.claim(take=4)] == [("a", 1), ("c", 1)]


def test_jobs_that_move_on_stay_on_their_page_while_a_transaction_stays_open(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    """It keeps what they were from being cleaned up; on another page each would need new index rows."""
    requests = [{"workflow": "order", "key": f"job{n}"} for n in range(100)]
    caller.execute("select from hotmesh.job_start_many('my-app', %s)", [Jsonb(requests)])
    hand = Hand(caller)
    runs = hand.claim(take=100)
    places = "select id, (ctid::text::point)[0], cursor from my_app.jobs order by id"
    before = db.execute(places).fetchall()
    (user,) = sessions("user")
    user.begin()
    user.run("create temporary table notes (id integer)")
    hand.turn(*[body(run, done=[done(1)]) for run in runs])
    after = db.execute(places).fetchall()
    user.rollback()
    assert [(id, page, cursor + 1) for id, page, cursor in before] == after
