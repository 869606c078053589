"""Jobs that no code serves, done in one piece by a worker in plain SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.claims import CLAIM, HOLD, claim, complete, fail
from support.clock import Clock
from support.hand import Connection, Hand, activity, messages, one, start, unchanged
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


def test_a_job_that_no_code_serves_is_done_by_hand(db: Connection, caller: Connection) -> None:
    start(caller, "a", [5], queue="mail", workflow="letter")
    start(caller, "b", [6], queue="mail", workflow="letter", priority=3)
    start(caller, "c", [7], queue="mail", workflow="parcel")
    found = [row[2:] for row in claim(caller, 9, "mail")]
    assert sorted(found[:2]) == [("letter", [5], 1, "a"), ("letter", [6], 1, "b")]
    assert found[2] == ("parcel", [7], 1, "c")
    assert claim(caller, 9, "mail") == []


def test_the_most_urgent_one_comes_first(caller: Connection) -> None:
    start(caller, "a", queue="mail")
    start(caller, "b", queue="mail", priority=3)
    assert [claim(caller, 1, "mail")[0][5] for _ in "ab"] == ["b", "a"]


def test_its_report_is_the_outcome(db: Connection, caller: Connection) -> None:
    for key in "ab":
        start(caller, key, queue="mail")
    [(message, token, *_), (other, second, *_)] = claim(caller, 9, "mail")
    assert complete(caller, message, token, {"sent": True}) == "ok"
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == {"sent": True}
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 0
    assert fail(caller, other, second, {"type": "NoStamp", "message": "no stamp"}) == "ok"
    told = one(caller, "select hotmesh.job_state('my-app', 'b', true)")["metadata"]["err"]
    assert "no stamp" in str(told)
    assert messages(db) == []
    with unchanged(db):
        assert complete(caller, message, token, 1) == "stale"


def test_it_is_tried_again_under_the_policy_of_its_start(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    policy = {"maximum_attempts": 2, "initial_interval": 1}
    start(caller, "a", queue="mail", retry_policy=policy)
    [(message, token, _, _, attempt, _)] = claim(caller, 9, "mail")
    assert attempt == 1
    assert fail(caller, message, token, {"type": "E", "message": "no"}) == "ok"
    assert claim(caller, 9, "mail") == []
    clock.advance("10 seconds")
    [(message, token, _, _, attempt, _)] = claim(caller, 9, "mail")
    assert attempt == 2
    assert fail(caller, message, token, {"type": "E", "message": "no"}) == "ok"
    error = (
        "select a.value ->> 'code' from my_app.jobs_attributes a"
        " join my_app.jobs j on j.id = a.job_id where j.key = 'a' and a.field = 'error'"
    )
    assert one(db, error) == "597"


def test_one_whose_worker_died_goes_to_the_next(caller: Connection, clock: Clock) -> None:
    start(caller, "a", queue="mail")
    [(message, token, *_)] = claim(caller, 9, "mail")
    extend = "select hotmesh.stream_extend('my-app', %s, %s, '1 minute')"
    assert one(caller, extend, message, token) == "ok"
    clock.advance("59 seconds")
    assert claim(caller, 9, "mail") == []
    clock.advance("2 seconds")
    [again] = claim(caller, 9, "mail")
    assert again[:2] == (message, token + 1)
    assert complete(caller, message, token) == "stale"
    assert complete(caller, message, token + 1) == "ok"


def test_failures_are_no_lost_deliveries(db: Connection, caller: Connection, clock: Clock) -> None:
    policy = {"maximum_attempts": 20, "initial_interval": 1, "backoff_coefficient": 1}
    start(caller, "a", queue="mail", retry_policy=policy)
    for number in range(1, 8):
        [(message, token, _, _, attempt, _)] = claim(caller, 9, "mail")
        assert attempt == number
        assert fail(caller, message, token, {"type": "E", "message": "no"}) == "ok"
        clock.advance("2 seconds")
    for number in range(8, 13):
        assert [row[4] for row in claim(caller, 9, "mail")] == [number]
        clock.advance("16 seconds")
    assert claim(caller, 9, "mail") == []
    assert one(db, "select reason from hotmesh.stuck_jobs") == "parked"


def test_its_writes_come_and_go_with_its_report(
    db: Connection, caller: Connection, sessions: Sessions, caller_dsn: str
) -> None:
    start(caller, "a", queue="mail")
    [(message, token, *_)] = claim(caller, 9, "mail")
    (holder,) = sessions("holder", dsn=caller_dsn)
    holder.begin()
    assert holder.value(HOLD, [message, token]) == "ok"
    assert (
        holder.value("select hotmesh.stream_complete('my-app', %s, %s)", [message, token]) == "ok"
    )
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    holder.commit()
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 0


def test_what_code_serves_is_left_to_it(caller: Connection) -> None:
    """Whether it is awake, or has begun and is away."""
    hand = Hand(caller)
    hand.turn(seen=True, idle=True)
    start(caller, "a")
    assert claim(caller, 9) == []
    run = hand.take()
    hand.report(run, commands=[activity(1, queue="acts")])
    [(message, token, *_)] = claim(caller, 9, "acts")
    caller.execute("select hotmesh.worker_stop('my-app', 'hand', '{}')")
    assert complete(caller, message, token) == "ok"
    assert claim(caller, 9) == []
    assert hand.take().key == "a"


def test_the_limits_of_its_queue_hold(db: Connection, caller: Connection, clock: Clock) -> None:
    db.execute("select hotmesh.queue_limit('my-app', 'mail', concurrency => 1)")
    for key in "ab":
        start(caller, key, queue="mail")
    [(message, token, *_)] = claim(caller, 9, "mail")
    assert claim(caller, 9, "mail") == []
    clock.advance("16 seconds")
    [again] = claim(caller, 9, "mail")
    assert again[:2] == (message, token + 1)
    assert complete(caller, message, token + 1) == "ok"
    assert len(claim(caller, 9, "mail")) == 1


@pytest.mark.parametrize("limited", [False, True])
def test_a_hook_is_left_to_code(db: Connection, caller: Connection, limited: bool) -> None:
    """Its arguments are its own, and its end is not that of its job."""
    if limited:
        db.execute("select hotmesh.queue_limit('my-app', 'mail', concurrency => 5)")
    start(caller, "b", queue="mail", workflow="letter")
    start(caller, "a", queue="other")
    caller.execute("select hotmesh.hook_start('my-app', 'a', 'letter', '[1]', 'mail')")
    Hand(caller).turn()
    ready = "select count(*) from my_app.streams where queue = 'mail' and state = 'ready'"
    assert one(db, ready) == 2
    assert [row[5] for row in claim(caller, 9, "mail")] == ["b"]


def test_two_never_take_the_same_one(
    caller: Connection, sessions: Sessions, caller_dsn: str
) -> None:
    for number in range(4):
        start(caller, str(number), queue="mail")
    first, second = sessions("first", "second", dsn=caller_dsn)
    for session in (first, second):
        session.begin()
        session.run(CLAIM, ["mail", session.name, 2, "15 s"])
    for session in (first, second):
        session.commit()
    assert claim(caller, 9, "mail") == []


def test_the_most_urgent_one_comes_first_whatever_it_is_called(caller: Connection) -> None:
    for key in "abc":
        start(caller, key, queue="mail", workflow="card")
    start(caller, "z", queue="mail", workflow="telegram", priority=3)
    assert [claim(caller, 1, "mail")[0][5] for _ in "za"] == ["z", "a"]


def test_a_worker_that_died_serves_nothing(caller: Connection, clock: Clock) -> None:
    """Nobody takes a turn that would drop its row."""
    Hand(caller).turn(seen=True, idle=True)
    start(caller, "a")
    clock.advance("59 seconds")
    assert claim(caller) == []
    clock.advance("2 seconds")
    assert [row[5] for row in claim(caller)] == ["a"]


def test_one_that_was_asked_to_stop_ends_and_holds_up_nobody(
    db: Connection, caller: Connection
) -> None:
    for key in "abc":
        start(caller, key, queue="mail", retry_policy={"maximum_attempts": 9})
    for key in "ab":
        caller.execute("select hotmesh.job_cancel('my-app', %s)", [key])
    [(message, token, *_, key)] = claim(caller, 1, "mail")
    assert key == "c"
    for key in "ab":
        error = one(caller, "select hotmesh.job_state('my-app', %s, true)", key)["metadata"]["err"]
        assert (error["type"], error["code"]) == ("JobCancelledError", 499)
    assert complete(caller, message, token) == "ok"
    assert messages(db) == []


def test_what_was_done_before_it_heard_of_the_stop_counts(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    for key in "abc":
        start(caller, key, queue="mail", retry_policy={"maximum_attempts": 9})
    (done, undone, _) = claim(caller, 9, "mail")
    for key in "abc":
        caller.execute("select hotmesh.job_cancel('my-app', %s)", [key])
    assert complete(caller, *done[:2], 1) == "ok"
    assert fail(caller, *undone[:2], {"type": "E", "message": "no"}) == "ok"
    clock.advance("1 minute")
    assert claim(caller, 9, "mail") == []
    statuses = [one(caller, "select hotmesh.job_status('my-app', %s)", key) for key in "abc"]
    assert [status < 0 for status in statuses] == [False, True, True]
    assert messages(db) == []


def test_one_whose_stop_cannot_be_noted_now_is_stopped_later(
    db: Connection, caller: Connection, sessions: Sessions, clock: Clock
) -> None:
    start(caller, "a", queue="mail")
    caller.execute("select hotmesh.job_cancel('my-app', 'a')")
    (locker,) = sessions("locker")
    locker.begin()
    locker.run("select from my_app.jobs for update")
    assert claim(caller, 9, "mail") == []
    locker.rollback()
    clock.advance("1 second")
    assert claim(caller, 9, "mail") == []
    assert messages(db) == []


def test_a_hook_of_code_holds_up_no_job_of_its_name(db: Connection, caller: Connection) -> None:
    start(caller, "a", queue="other", workflow="letter")
    hand = Hand(caller, workflows=[("other", "letter")])
    hand.report(hand.take(), commands=[activity(1)])
    caller.execute("select hotmesh.hook_start('my-app', 'a', 'letter', '[1]', 'mail')")
    hand.turn()
    start(caller, "b", queue="mail", workflow="letter")
    assert [row[5] for row in claim(caller, 9, "mail")] == ["b"]


def test_a_hook_does_not_keep_it_from_being_done(db: Connection, caller: Connection) -> None:
    start(caller, "a", queue="mail", workflow="letter")
    [(message, token, *_)] = claim(caller, 9, "mail")
    caller.execute("select hotmesh.hook_start('my-app', 'a', 'stamp', '[1]', 'mail')")
    hand = Hand(caller, workflows=[("mail", "stamp")])
    hook = hand.take()
    hand.report(hook, commands=[activity(1)], running=True)
    assert complete(caller, message, token, 1) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    assert hand.settle(hook, 2) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 0
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == 1


def test_code_that_starts_over_is_left_to_code(caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    assert hand.report(run, outcome={"again": {"args": [], "seen": 0}}) == "ok"
    hand.report(hand.take(), commands=[activity(2)])
    caller.execute("select hotmesh.worker_stop('my-app', 'hand', '{}')")
    assert [row[2] for row in claim(caller, 9)] == ["pay"]


def test_one_that_was_interrupted_while_it_was_held_is_stale(
    db: Connection, caller: Connection, sessions: Sessions, caller_dsn: str
) -> None:
    start(caller, "a", queue="mail")
    [(message, token, *_)] = claim(caller, 9, "mail")
    (holder,) = sessions("holder", dsn=caller_dsn)
    holder.begin()
    assert holder.value(HOLD, [message, token]) == "ok"
    caller.execute("select hotmesh.job_interrupt('my-app', 'a')")
    done = "select hotmesh.stream_complete('my-app', %s, %s)"
    assert holder.value(done, [message, token]) == "stale"
    holder.rollback()
    assert claim(caller, 9, "mail") == []


def test_a_message_that_its_closed_job_left_behind_is_dropped(
    db: Connection, caller: Connection, sessions: Sessions, clock: Clock
) -> None:
    start(caller, "a", queue="mail")
    claim(caller, 9, "mail")
    (locker,) = sessions("locker")
    locker.begin()
    locker.run("select from my_app.streams where kind = 'workflow' for update")
    caller.execute("select hotmesh.job_interrupt('my-app', 'a')")
    locker.rollback()
    clock.advance("16 seconds")
    assert claim(caller, 9, "mail") == []
    assert [kind for kind, *_ in messages(db) if kind == "workflow"] == []


def test_a_late_report_waits_for_nobody(
    caller: Connection, sessions: Sessions, caller_dsn: str, clock: Clock
) -> None:
    """Else the late one held the job, while the other one held the message."""
    start(caller, "a", queue="mail")
    [(message, late, *_)] = claim(caller, 9, "mail")
    clock.advance("16 seconds")
    [(_, token, *_)] = claim(caller, 9, "mail")
    (holder,) = sessions("holder", dsn=caller_dsn)
    holder.begin()
    assert holder.value(HOLD, [message, token]) == "ok"
    caller.execute("set statement_timeout = '5s'")
    assert complete(caller, message, late) == "stale"
    done = "select hotmesh.stream_complete('my-app', %s, %s)"
    assert holder.value(done, [message, token]) == "ok"
    holder.commit()


def test_the_policy_of_the_start_goes_before_that_of_the_worker(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a", queue="mail", retry_policy={"maximum_attempts": 1})
    start(caller, "b", queue="mail")
    text = (
        "select hotmesh.stream_fail('my-app', %s, %s, '{\"message\": \"no\"}',"
        ' \'{"maximum_attempts": 2, "initial_interval": "1 s"}\')'
    )
    assert [one(caller, text, *row[:2]) for row in claim(caller, 9, "mail")] == ["ok", "ok"]
    clock.advance("10 seconds")
    [(message, token, _, _, attempt, key)] = claim(caller, 9, "mail")
    assert (key, attempt) == ("b", 2)
    assert one(caller, text, message, token) == "ok"
    assert messages(db) == []


@pytest.mark.parametrize("policy", [{"maximum_attempts": "x"}, {"nope": 1}, [1], 3])
def test_a_bad_policy_is_refused(db: Connection, caller: Connection, policy: Any) -> None:
    start(caller, "a", queue="mail")
    [(message, token, *_)] = claim(caller, 9, "mail")
    text = "select hotmesh.stream_fail('my-app', %s, %s, '{}', %s)"
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        caller.execute(text, [message, token, Jsonb(policy)])
    assert caught.value.sqlstate == "22023"
    assert caught.value.diag.message_hint


def test_where_no_worker_runs_a_bare_turn_moves_the_clock(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a", queue="mail", execution_timeout="1 minute")
    caller.execute(
        "select hotmesh.schedule_create('my-app', 's', 'letter', queue => 'mail', every => '1 hour')"
    )
    [(message, token, *_)] = claim(caller, 9, "mail", "1 hour")
    clock.advance("1 hour")
    for _ in range(2):
        caller.execute("select from hotmesh.turn('my-app', 'clock', '[]', '{}')")
    assert complete(caller, message, token) == "stale"
    error = one(caller, "select hotmesh.job_state('my-app', 'a', true)")["metadata"]["err"]
    assert error["type"] == "TimedOutError"
    assert [row[2] for row in claim(caller, 9, "mail")] == ["letter"]


def test_one_answer_carries_what_fits(db: Connection, caller: Connection) -> None:
    db.execute(
        "select hotmesh.job_start('my-app', 'order', k::text, jsonb_build_array("
        " (select string_agg(md5(random()::text), '') from generate_series(1, 94000))), 'mail')"
        " from generate_series(1, 5) k"
    )
    found = claim(caller, 9, "mail")
    assert [row[5] for row in found] == ["1", "2", "3"]
    assert [row[4] for row in claim(caller, 9, "mail")] == [1, 1]
