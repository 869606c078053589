"""Leases: who holds what, until when; what becomes of it when its holder is gone."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from support.clock import Clock
from support.hand import (
    Connection,
    Hand,
    activity,
    done,
    one,
    start,
    unchanged,
    verdict,
)
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]
TURN = "select * from hotmesh.turn('my-app', %s, %s, %s)"


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze()
    return clock


def states(db: Connection, kind: str = "workflow") -> list[str]:
    return [
        row[0]
        for row in db.execute(
            "select state from my_app.streams where kind = %s order by id", [kind]
        )
    ]


# --- tokens and leases ----------------------------------------------------------------------------


def test_a_lease_that_ran_out_is_served_again_and_the_late_report_is_stale(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "a")
    slow, quick = Hand(caller, "slow"), Hand(caller, "quick")
    first = slow.take(lease=15)
    clock.advance("14.999 seconds")
    assert quick.claim() == []
    clock.advance("0.001 seconds")
    second = quick.take()
    assert (second.id, second.token, second.attempt) == (first.id, first.token + 1, 2)
    with unchanged(db):
        assert slow.report(first, outcome={"output": "late"}) == "stale"
    assert quick.settle(second, "in time") == "ok"
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == "in time"


def test_a_report_after_the_lease_counts_while_nobody_else_has_it(
    caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    clock.advance("1 hour")
    assert hand.settle(run) == "ok"


@pytest.mark.parametrize("token", [0, 2, -1, None, 2**31 - 1])
def test_a_report_with_another_token_changes_nothing(
    db: Connection, caller: Connection, token: int | None
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    with unchanged(db):
        assert hand.report(run, token=token, outcome={"output": 1}) == "stale"


def test_a_report_on_a_message_that_never_was_is_stale(db: Connection, caller: Connection) -> None:
    with unchanged(db):
        rows = Hand(caller).turn({"id": 10**15, "token": 1, "cursor": 0, "outcome": {}})
    assert verdict(rows, 10**15) == "stale"


def test_after_five_deliveries_without_a_report_a_job_is_parked_until_revived(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    for number in range(1, 6):
        assert hand.take().attempt == number
        clock.advance("16 seconds")
    for _ in range(3):
        assert hand.claim() == []
        clock.advance("1 day")
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    stuck = db.execute("select app, key, reason, attempt, id from hotmesh.stuck_jobs").fetchall()
    assert stuck[0][:4] == ("my-app", "a", "parked", 5)
    caller.execute("select hotmesh.stream_revive('my-app', %s)", [stuck[0][4]])
    assert hand.settle(hand.take()) == "ok"


def test_whoever_reports_in_between_is_not_parked(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    """A run of inline steps never rests; its deaths do not add up."""
    start(caller, "a")
    hand = Hand(caller)
    for number in range(8):
        run = hand.take()
        assert hand.report(run, done=[done(number + 1)], running=True) == "ok"
        clock.advance("16 seconds")
    assert hand.settle(hand.take()) == "ok"


def test_a_run_that_met_other_code_again_and_again_was_not_lost(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    for _ in range(7):
        task = hand.take()
        assert hand.report(task, outcome={"mismatch": {"message": "other code"}}) == "ok"
        clock.advance("5 seconds")
        hand.turn()
    assert hand.take().key == "a"
    clock.advance("16 seconds")
    hand.turn()
    assert hand.take().key == "a"


def test_a_lost_activity_uses_up_an_attempt_and_after_the_last_its_job_is_told(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1)])
    for number in (1, 2, 3):
        assert hand.take("activity").attempt == number
        clock.advance("16 seconds")
    assert hand.claim("activity") == []
    [step] = hand.take().history
    assert (step[3], step[4]["type"], step[4]["code"]) == ("failed", "WorkerLostError", 597)
    assert step[4]["attempt"] == 3


# --- an answer that was lost ----------------------------------------------------------------------


def test_a_worker_that_lost_an_answer_says_what_it_holds_and_gets_the_rest_again(
    caller: Connection,
) -> None:
    for key in "abc":
        start(caller, key)
    hand = Hand(caller)
    known = hand.claim()[0]
    lost = hand.claim(take=2)
    again = hand.claim(take=9, held=[known.id])
    assert sorted(run.key for run in again) == sorted(run.key for run in lost)
    assert [run.attempt for run in again] == [1, 1]
    assert [hand.settle(run) for run in lost] == ["stale", "stale"]
    assert [hand.settle(run) for run in [known, *again]] == ["ok"] * 3


def test_what_others_hold_is_not_given_up(caller: Connection) -> None:
    start(caller, "a")
    run = Hand(caller, "other").take()
    assert Hand(caller).claim(held=[]) == []
    assert Hand(caller, "other").settle(run) == "ok"


@pytest.mark.parametrize("held", ['"all"', "{}", '["x"]', "5"])
def test_what_is_held_is_a_list_of_messages(db: Connection, caller: Connection, held: str) -> None:
    start(caller, "a")
    Hand(caller).take()
    with unchanged(db), pytest.raises(psycopg.DataError):
        caller.execute(TURN, ["hand", "[]", f'{{"held": {held}}}'])


# --- the sweep ------------------------------------------------------------------------------------


def test_a_sweep_is_bounded_and_goes_by_due_time(
    db: Connection, caller: Connection, time: Clock
) -> None:
    db.execute(
        "insert into my_app.streams (kind, state, queue, name, visible_at, created_at)"
        " select 'activity', 'delayed', 'default', 'pay', hotmesh.now() + g * interval '1 s',"
        "        hotmesh.now() from generate_series(1000, 1, -1) g"
    )
    time.advance("1 hour")
    Hand(caller).turn()
    assert states(db, "activity").count("ready") == 200
    assert set(states(db, "activity")[-200:]) == {"ready"}
    for _ in range(4):
        Hand(caller).turn()
    assert states(db, "activity").count("ready") == 1000


def test_a_locked_row_that_is_due_does_not_stop_the_sweep(
    db: Connection, caller: Connection, time: Clock, sessions: Sessions
) -> None:
    for key in "ab":
        start(caller, key, delay=1)
    (locker,) = sessions("locker")
    locker.begin()
    locker.run("select from my_app.streams order by id limit 1 for update")
    time.advance("1 minute")
    assert Hand(caller).take().key == "b"
    locker.rollback()
    assert Hand(caller).take().key == "a"


# --- kept and given back ---------------------------------------------------------------------------


def test_a_worker_that_leaves_gives_back_what_it_holds_and_nothing_else(
    db: Connection, caller: Connection
) -> None:
    for key in "ab":
        start(caller, key)
    first = Hand(caller, "mine").claim()[0]
    second = Hand(caller, "yours").claim()[0]
    stop = "select hotmesh.worker_stop('my-app', 'mine', %s)"
    assert one(caller, stop, [first.id, second.id, 10**15]) == 1
    assert states(db) == ["ready", "leased"]
    again = Hand(caller, "third").take()
    assert (again.id, again.attempt, again.token) == (first.id, 1, 2)
    assert Hand(caller, "mine").settle(first) == "stale"


def test_a_lease_is_extended_for_its_worker_only(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    run = Hand(caller, "mine").take()
    extend = "select hotmesh.worker_extend('my-app', %s, %s, '1 hour')"
    assert one(caller, extend, "yours", [run.id]) == []
    assert one(caller, extend, "mine", [run.id, 10**15]) == [run.id]
    time.advance("59 minutes")
    assert Hand(caller, "other").claim() == []
    time.advance("1 minute")
    assert Hand(caller, "other").take().id == run.id
    assert one(caller, extend, "mine", [run.id]) == []


def test_a_lease_row_that_is_locked_is_left_for_the_next_time(
    caller: Connection, sessions: Sessions
) -> None:
    start(caller, "a")
    run = Hand(caller).take()
    (locker,) = sessions("locker")
    locker.begin()
    locker.run("select from my_app.streams for update")
    caller.execute("set statement_timeout = '5s'")
    assert one(caller, "select hotmesh.worker_extend('my-app', 'hand', %s)", [run.id]) == []
    locker.rollback()
    assert one(caller, "select hotmesh.worker_extend('my-app', 'hand', %s)", [run.id]) == [run.id]


@pytest.mark.parametrize("lease", ["-1 s", "0", "2 days", None])
def test_a_bad_lease_is_refused(caller: Connection, lease: str | None) -> None:
    start(caller, "a")
    run = Hand(caller).take()
    with pytest.raises(psycopg.Error) as caught:
        caller.execute(
            "select hotmesh.worker_extend('my-app', 'hand', %s, %s::interval)", [[run.id], lease]
        )
    assert caught.value.sqlstate == "22023"
