"""The small doors: a worker in plain SQL claims, completes, fails, extends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.claims import CLAIM, HOLD, claim, complete, fail
from support.clock import Clock
from support.hand import Connection, Hand, activity, journal, messages, one, start, timer, unchanged
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


@pytest.fixture
def waiting(caller: Connection) -> Any:
    """A run that waits for `pay` and `ship`."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1, args=[5]), activity(2, "ship")])
    return run


@pytest.mark.both_modes
@pytest.mark.usefixtures("waiting")
def test_an_activity_by_hand(db: Connection, caller: Connection) -> None:
    [(message, token, name, args, attempt, key)] = claim(caller)
    assert (token, name, args, attempt, key) == (1, "pay", [5], 1, "a")
    assert complete(caller, message, token, {"paid": 5}) == "ok"
    [(message, token, name, *_)] = claim(caller, 9)
    assert name == "ship"
    assert complete(caller, message, token) == "ok"
    assert sorted(step[:5] for step in Hand(caller).take().history) == [
        [1, "activity", "pay", "done", {"paid": 5}],
        [2, "activity", "ship", "done", None],
    ]


def test_a_door_takes_a_workers_key(db: Connection, stranger: Connection, waiting: Any) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        claim(stranger)
    db.execute("select hotmesh.app_grant('my-app', 'hotmesh_stranger', 'worker')")
    try:
        [(message, token, *_)] = claim(stranger)
        assert one(
            stranger, "select hotmesh.stream_extend('my-app', %s, %s)", message, token
        ) == "ok"  # fmt: skip
        assert complete(stranger, message, token, 1) == "ok"
        for statement in (
            "select from my_app.streams", "update my_app.streams set token = 9",
            "select hotmesh._enter('my-app')", "select hotmesh.stream_revive('my-app', 1)",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                stranger.execute(statement)
    finally:
        db.execute("select hotmesh.app_revoke('my-app', 'hotmesh_stranger')")


@pytest.mark.usefixtures("waiting")
def test_a_held_message_is_nobody_elses_until_the_transaction_ends(
    db: Connection, caller: Connection, sessions: Sessions, caller_dsn: str, clock: Clock
) -> None:
    """However long it lasts; and what the holder writes comes and goes with its report."""
    [(message, token, *_), _] = claim(caller, 9)
    (holder,) = sessions("holder", dsn=caller_dsn)
    holder.begin()
    assert holder.value(HOLD, [message, token]) == "ok"
    assert holder.value(HOLD, [message, token]) == "held"
    clock.advance("1 hour")
    assert message not in [row[0] for row in claim(caller, 9)]
    Hand(caller).turn()
    held = "select state, token from my_app.streams where id = %s"
    assert db.execute(held, [message]).fetchall() == [("leased", token)]
    holder.rollback()
    [again] = claim(caller, 9)
    assert again[:2] == (message, token + 1)
    with unchanged(db):
        assert one(caller, HOLD, message, token) == "stale"
    holder.begin()
    assert holder.value(HOLD, [message, token + 1]) == "ok"
    done = "select hotmesh.stream_complete('my-app', %s, %s, '7')"
    assert holder.value(done, [message, token + 1]) == "ok"
    assert journal(db, "a")[0][2] == "open"
    holder.commit()
    assert one(caller, HOLD, message, token + 1) == "stale"


@pytest.mark.usefixtures("waiting")
def test_a_hold_lasts_as_long_as_its_transaction(db: Connection, caller: Connection) -> None:
    [(message, token, *_)] = claim(caller)
    for _ in range(2):
        with caller.transaction():
            assert one(caller, HOLD, message, token) == "ok"
            assert one(caller, HOLD, message, token) == "held"
            assert one(caller, HOLD, message, token + 1) == "stale"
    [(run,)] = db.execute("select id from my_app.streams where kind = 'workflow'").fetchall()
    assert one(caller, HOLD, run, 1) == "stale"
    assert one(caller, HOLD, 0, 1) == "stale"


@pytest.mark.usefixtures("waiting")
def test_an_answer_counts_once(db: Connection, caller: Connection) -> None:
    [(message, token, *_)] = claim(caller)
    assert complete(caller, message, token, 1) == "ok"
    with unchanged(db):
        assert complete(caller, message, token, 2) == "stale"
        assert fail(caller, message, token, {"message": "no"}) == "stale"


@pytest.mark.usefixtures("waiting")
def test_an_old_token_is_stale(db: Connection, caller: Connection, clock: Clock) -> None:
    [(message, token, *_)] = claim(caller)
    clock.advance("16 seconds")
    [again, _] = sorted(claim(caller, 9))
    assert again[:2] == (message, token + 1)
    with unchanged(db):
        assert complete(caller, message, token, "late") == "stale"
        assert fail(caller, message, token, {"message": "late"}) == "stale"
        extend = "select hotmesh.stream_extend('my-app', %s, %s)"
        assert one(caller, extend, message, token) == "stale"
        assert complete(caller, 10**15, 1) == "stale"
    assert complete(caller, message, token + 1, "in time") == "ok"


def test_code_that_is_under_way_is_not_completed_through_this_door(
    db: Connection, caller: Connection
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)], running=True)
    with unchanged(db):
        assert complete(caller, run.id, run.token, 1) == "stale"


@pytest.mark.usefixtures("waiting")
def test_a_failure_is_tried_again_on_schedule(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    for attempt, pause in ((1, 10), (2, 100), (3, None)):
        [(message, token, _, _, found, _)] = [row for row in claim(caller, 9) if row[2] == "pay"]
        assert found == attempt
        assert fail(caller, message, token, {"type": "E", "message": "no"}) == "ok"
        if pause:
            clock.advance(f"{pause - 1} seconds")
            assert [row for row in claim(caller, 9) if row[2] == "pay"] == []
            clock.advance("1 second")
    [step] = [step for step in Hand(caller).take().history if step[2] == "pay"]
    assert (step[3], step[4]["code"], step[4]["attempt"]) == ("failed", 597, 3)


@pytest.mark.usefixtures("waiting")
def test_a_lease_is_extended_by_its_token(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    [(message, token, *_)] = claim(caller, lease="10 s")
    extend = "select hotmesh.stream_extend('my-app', %s, %s, '1 hour')"
    assert one(caller, extend, message, token) == "ok"
    clock.advance("59 minutes")
    assert message not in [row[0] for row in claim(caller, 9)]
    clock.advance("1 minute")
    assert message in [row[0] for row in claim(caller, 9)]


@pytest.mark.usefixtures("waiting")
def test_an_answer_in_a_users_transaction_counts_when_it_commits(
    db: Connection, caller: Connection
) -> None:
    [(message, token, *_)] = claim(caller)
    with unchanged(db), caller.transaction(force_rollback=True):
        assert complete(caller, message, token, 1) == "ok"
    assert complete(caller, message, token, 2) == "ok"
    assert [step[4] for step in Hand(caller).take().history] == [2]


@pytest.mark.usefixtures("waiting")
def test_an_answer_in_an_open_transaction_locks_no_job_but_its_own(
    db: Connection, caller: Connection, sessions: Sessions, clock: Clock
) -> None:
    """Another job's alarm has gone off and was not filed yet."""
    start(caller, "b")
    hand = Hand(caller)
    other = hand.take()
    hand.report(other, commands=[timer(1, 5)], running=True)
    clock.advance("5 seconds")
    (user,) = sessions("user")
    user.begin()
    user.run("select from my_app.jobs where key = 'b' for update")
    hand.turn()
    user.rollback()
    [(message, token, *_)] = claim(caller)
    user.begin()
    assert complete(user.conn, message, token, 1) == "ok"
    hand.turn()
    assert [step[0] for step in hand.news(other, running=True)] == [1]
    assert hand.report(other, cursor=1, outcome={"output": 1}) == "ok"
    user.commit()


@pytest.mark.usefixtures("waiting")
def test_two_answers_at_once_count_once(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    [(message, token, *_)] = claim(caller)
    first, second = sessions("first", "second")
    text = "select hotmesh.stream_complete('my-app', %s, %s, %s)"
    first.begin()
    assert first.value(text, [message, token, Jsonb(1)]) == "ok"
    later = second.run_async(text, [message, token, Jsonb(2)])
    second.wait_blocked()
    first.commit()
    assert later.result(10) == [("stale",)]
    assert [step[4] for step in Hand(caller).take().history] == [1]


@pytest.mark.usefixtures("waiting")
def test_an_answer_for_a_locked_job_is_kept(
    db: Connection, caller: Connection, sessions: Sessions, clock: Clock
) -> None:
    [(message, token, *_)] = claim(caller)
    (locker,) = sessions("locker")
    locker.begin()
    locker.run("select from my_app.jobs for update")
    caller.execute("set statement_timeout = '5s'")
    assert complete(caller, message, token, 1) == "ok"
    locker.rollback()
    clock.advance("1 second")
    hand = Hand(caller)
    hand.turn()
    assert [step[4] for step in hand.take().history] == [1]


@pytest.mark.usefixtures("waiting")
def test_an_answer_after_the_job_closed_changes_nothing(db: Connection, caller: Connection) -> None:
    [(message, token, *_)] = claim(caller)
    run = db.execute("select id, token from my_app.streams where kind = 'workflow'").fetchone()
    assert run
    db.execute("update my_app.streams set state = 'leased' where kind = 'workflow'")
    Hand(caller).turn({"id": run[0], "token": run[1], "cursor": 0, "outcome": {"output": 1}})
    with unchanged(db):
        assert complete(caller, message, token, 1) == "stale"
    assert [step[2] for step in journal(db, "a")] == ["open", "open"]
    assert messages(db) == []


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(
    "given",
    [("", "psql", 1, "15 s"), (None, "psql", 1, "15 s"), ("q", "", 1, "15 s"), ("q", None, 1, "15 s"),
     ("q", "w", 0, "15 s"), ("q", "w", -1, "15 s"), ("q", "w", 1001, "15 s"), ("q", "w", None, "15 s"),
     ("q", "w", 1, "0"), ("q", "w", 1, "-1 s"), ("q", "w", 1, "2 days"), ("q", "w", 1, None)],
)  # fmt: skip
def test_a_bad_claim_is_refused(db: Connection, caller: Connection, given: tuple[Any, ...]) -> None:
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        caller.execute(CLAIM, given)
    assert caught.value.sqlstate == "22023"
    assert caught.value.diag.message_detail
    assert caught.value.diag.message_hint


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("error", [None, Jsonb(None), Jsonb("no"), Jsonb([1])])
def test_an_error_is_an_object(db: Connection, caller: Connection, error: Any) -> None:
    [(message, token, *_)] = claim(caller)
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        caller.execute("select hotmesh.stream_fail('my-app', %s, %s, %s)", [message, token, error])
    assert caught.value.sqlstate == "22023"


def test_a_result_past_the_limit_is_refused(
    db: Connection, caller: Connection, waiting: Any
) -> None:
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 1000}'")
    [(message, token, *_)] = claim(caller)
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        complete(caller, message, token, "x" * 2000)
    assert caught.value.sqlstate == "MSH43"
    assert complete(caller, message, token, "small") == "ok"


def test_a_queue_is_served_whatever_its_functions_are_called(caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    names = [f"f{number % 7}" for number in range(30)]
    hand.report(
        hand.take(),
        commands=[activity(n + 1, name, queue="mixed") for n, name in enumerate(names)],
    )
    assert claim(caller, 9, queue="other") == []
    found = [row[2] for take in (10, 10, 10) for row in claim(caller, take, queue="mixed")]
    assert sorted(found) == sorted(names)
