"""Timeouts: of one attempt, of all attempts together, of a job."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.hand import Connection, Hand, activity, journal, messages, one, start, unchanged
from support.timeouts import ONCE, THRICE, ask, outcome


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze("2030-01-01 00:00+00")
    return clock


def test_without_timeouts_an_attempt_lasts_as_long_as_its_lease_is_kept(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, None)
    task = hand.take("activity")
    assert task.history is None
    for _ in range(5):
        time.advance("14 seconds")
        assert one(caller, "select hotmesh.worker_extend('my-app', 'hand', %s)", [task.id]) == [
            task.id
        ]
    hand.turn()
    assert messages(db, "kind", "state", "timeouts") == [
        ("workflow", "waiting", None), ("activity", "leased", None),
    ]  # fmt: skip


def test_an_attempt_ends_with_its_start_to_close_timeout_however_long_its_lease(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"start_to_close": 20}, retry_policy=ONCE)
    time.advance("1 hour")  # nobody serves it: that is not its time
    task = hand.take("activity", lease=60)
    time.advance("19.999 seconds")
    caller.execute("select hotmesh.worker_extend('my-app', 'hand', %s, '60 s')", [[task.id]])
    hand.turn()
    assert hand.report(task, error={"type": "X", "message": "y"}) == "ok"  # in time


def test_the_late_report_of_an_attempt_that_timed_out_is_stale(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"start_to_close": 20}, retry_policy=THRICE)
    task = hand.take("activity", lease=60)
    time.advance("20 seconds")
    hand.turn()
    assert hand.report(task, output="late") == "stale"
    assert messages(db, "state", "attempt", "error ->> 'code'")[1] == ("delayed", 1, "596")
    time.advance("1 second")
    again = hand.take("activity", lease=60)
    assert (again.id, again.attempt, again.token) == (task.id, 2, task.token + 1)
    assert hand.report(task, output="later") == "stale"
    assert hand.report(again, output="in time") == "ok"
    assert [step[3] for step in hand.take().history] == ["done"]


def test_the_last_attempt_that_times_out_is_596_in_the_workflow(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"start_to_close": 20}, retry_policy=THRICE)
    for attempt in (1, 2, 3):
        assert hand.take("activity", lease=60).attempt == attempt
        time.advance("20 seconds")
        hand.turn()
        time.advance("1 second")
    [step] = hand.take().history
    error = outcome(db)
    assert step[3] == "failed"
    assert (error["type"], error["code"], error["attempt"]) == ("TimedOutError", 596, 3)
    assert error["message"] == 'activity "pay" timed out: start_to_close_timeout of 20 s'
    assert messages(db) == [("workflow", "leased"), ("activity", "dead")]


def test_a_timeout_that_is_non_retryable_by_name_is_final_at_once(
    db: Connection, caller: Connection, time: Clock
) -> None:
    policy = THRICE | {"non_retryable_error_types": ["TimedOutError"]}
    hand = ask(caller, {"start_to_close": 20}, retry_policy=policy)
    hand.take("activity", lease=60)
    time.advance("20 seconds")
    hand.turn()
    hand.take()
    assert (outcome(db)["code"], outcome(db)["attempt"]) == (596, 1)


def test_a_worker_that_dies_frees_the_attempt_when_its_lease_ends_not_its_timeout(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"start_to_close": 3600, "heartbeat": 60})
    hand.take("activity", lease=5)
    time.advance("5 seconds")
    assert hand.take("activity").attempt == 2


def test_the_failure_of_a_worker_in_any_language_may_bring_policy_and_details(
    db: Connection, caller: Connection, time: Clock
) -> None:
    ask(caller, None)
    claim = "select id, token, attempt from hotmesh.stream_claim('my-app', 'default', 'me')"
    [(id, token, _)] = caller.execute(claim).fetchall()
    fail = "select hotmesh.stream_fail('my-app', %s, %s, %s, retry_policy => %s, details => '[7]')"
    error = psycopg.types.json.Jsonb({"type": "X", "message": "y"})
    policy = {"maximum_attempts": 2, "initial_interval": 3, "backoff_coefficient": 1}
    with unchanged(db), pytest.raises(psycopg.errors.InvalidParameterValue, match="retry policy"):
        caller.execute(fail, [id, token, error, psycopg.types.json.Jsonb({"attempts": 3})])
    assert one(caller, fail, id, token, error, psycopg.types.json.Jsonb(policy)) == "ok"
    time.advance("3 seconds")
    assert Hand(caller).take("activity").history == {"details": [7]}


def test_schedule_to_close_ends_what_nobody_serves(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"schedule_to_close": 30}, queue="nobody")
    time.advance("29.999 seconds")
    assert hand.claim() == []
    time.advance("0.001 seconds")
    [step] = hand.take().history
    error = outcome(db)
    assert step[3] == "failed"
    assert (error["type"], error["code"], error["timeout"]) == (
        "TimedOutError", 596, "schedule_to_close",
    )  # fmt: skip
    assert messages(db) == [("workflow", "leased"), ("activity", "dead")]


def test_schedule_to_close_ends_an_attempt_that_runs_and_its_report_is_stale(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"schedule_to_close": 30})
    task = hand.take("activity", lease=60)
    time.advance("30 seconds")
    hand.turn()
    assert hand.report(task, output=1) == "stale"
    hand.take()
    assert outcome(db)["code"] == 596


def test_schedule_to_close_counts_from_the_ask_whatever_was_tried(
    db: Connection, caller: Connection, time: Clock
) -> None:
    policy = {"maximum_attempts": 99, "initial_interval": 8, "backoff_coefficient": 1}
    hand = ask(caller, {"schedule_to_close": 30}, retry_policy=policy)
    for _ in range(3):
        hand.report(hand.take("activity"), error={"type": "X", "message": "no luck"})
        time.advance("8 seconds")
    last = hand.take("activity")  # at 24 s: the next would begin at 32 s
    hand.report(last, error={"type": "X", "message": "no luck"})
    hand.take()
    error = outcome(db)
    assert (error["code"], error["timeout"], error["attempt"]) == (596, "schedule_to_close", 4)
    assert error["cause"] == {"type": "X", "message": "no luck"}
    assert messages(db) == [("workflow", "leased"), ("activity", "dead")]


def test_the_last_failure_is_the_cause_when_time_runs_out_during_a_delay(
    db: Connection, caller: Connection, time: Clock
) -> None:
    policy = {"initial_interval": 20, "backoff_coefficient": 1}
    hand = ask(caller, {"schedule_to_close": 30}, retry_policy=policy)
    hand.report(hand.take("activity"), error={"type": "X", "message": "no luck"})
    time.advance("40 seconds")
    hand.turn()
    hand.take()
    assert outcome(db)["cause"]["type"] == "X"


def test_an_activity_that_is_done_in_time_leaves_no_alarm(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, {"schedule_to_close": 30, "start_to_close": 10, "heartbeat": 5})
    assert ("timer", "delayed") in messages(db)
    assert hand.report(hand.take("activity"), output=1) == "ok"
    hand.report(hand.take(), running=True, done=None)
    time.advance("1 hour")
    hand.turn()
    assert [step[2:4] for step in journal(db, "a")] == [("done", 1)]
    assert "timer" not in [row[0] for row in messages(db)]


def test_an_activity_that_fails_for_good_leaves_no_alarm(
    db: Connection, caller: Connection
) -> None:
    hand = ask(caller, {"schedule_to_close": 30})
    hand.report(hand.take("activity"), error={"type": "X", "message": "y", "code": 598})
    hand.take()
    assert outcome(db)["code"] == 598
    assert messages(db) == [("workflow", "leased"), ("activity", "dead")]


def test_a_cancelled_activity_leaves_no_alarm(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1, timeouts={"schedule_to_close": 30})], running=True)
    hand.report(run, commands=[{"sequence": 1, "kind": "cancel"}], running=True)
    assert messages(db) == [("workflow", "leased")]


def test_an_alarm_whose_activity_is_locked_rings_again(
    db: Connection, caller: Connection, sessions: Any, time: Clock
) -> None:
    hand = ask(caller, {"schedule_to_close": 30}, queue="nobody")
    [other] = sessions("other")
    other.begin()
    other.run("select from my_app.streams where kind = 'activity' for update")
    time.advance("30 seconds")
    hand.turn()
    assert ("activity", "ready") in messages(db)
    other.commit()
    hand.turn()
    hand.take()
    assert outcome(db)["code"] == 596


def test_an_announced_attempt_is_bounded_too(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    asked = activity(1, announced=True, timeouts={"start_to_close": 5}, retry_policy=ONCE)
    hand.turn({"id": run.id, "token": run.token, "cursor": 0, "running": True,
               "commands": [asked]}, lease=60)  # fmt: skip
    time.advance("5 seconds")
    hand.turn()
    assert [step[3] for step in hand.news(run, running=True)] == ["failed"]
    assert outcome(db)["code"] == 596


def test_a_turn_answers_when_the_next_attempt_is_over(caller: Connection) -> None:
    hand = ask(caller, {"start_to_close": 5})
    hand.take("activity", lease=60)
    assert [row.due for row in hand.turn() if row.answer == "next"] == [5]


BAD = [
    {"start_to_close": 0}, {"start_to_close": -1}, {"start_to_close": "soon"}, [], "5 s", 7,
    {"start_to_close": "9999 years"}, {"heartbeat": True}, {"heartbeat": "0 s"}, {"close": 5},
    {"schedule_to_close": 1e300}, {"schedule_to_close": [1]}, {"heartbeat": "1"},
]  # fmt: skip


@pytest.mark.parametrize("timeouts", BAD, ids=repr)
def test_what_is_no_timeout_is_refused_and_nothing_changes(
    db: Connection, caller: Connection, timeouts: Any
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    with unchanged(db), pytest.raises(psycopg.errors.InvalidParameterValue, match=r"timeout|durat"):
        hand.report(run, commands=[activity(1, timeouts=timeouts)], running=True)


def test_a_worker_s_policy_holds_where_the_call_has_none(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, None)
    policy = {"maximum_attempts": 2, "initial_interval": 3, "backoff_coefficient": 1}
    error = {"type": "X", "message": "y"}
    hand.report(hand.take("activity"), error=error, retry_policy=policy)
    time.advance("3 seconds")
    hand.report(hand.take("activity"), error=error)  # of a worker that has none: the first stays
    hand.take()
    assert (outcome(db)["code"], outcome(db)["attempt"]) == (597, 2)


def test_the_policy_of_the_call_goes_before_the_worker_s(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = ask(caller, None, retry_policy={"initial_interval": 3, "backoff_coefficient": 1})
    hand.report(hand.take("activity"), error={"type": "X", "message": "y"}, retry_policy=ONCE)
    time.advance("3 seconds")
    assert hand.take("activity").attempt == 2


# --- jobs -----------------------------------------------------------------------------------------


def ended(db: Connection, key: str = "a") -> tuple[Any, ...]:
    """How a job has failed: type, code and message."""
    rows = db.execute(
        "select a.value ->> 'type', (a.value ->> 'code')::integer, a.value ->> 'message'"
        " from my_app.jobs j join my_app.jobs_attributes a on a.job_id = j.id"
        " where j.key = %s and j.status < 0 and a.field = 'error'",
        [key],
    ).fetchall()
    return tuple(rows[0]) if rows else ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"execution_timeout": 60}, "the workflow timed out: execution_timeout of 60 s"),
        ({"run_timeout": "1 minute"}, "the workflow timed out: run_timeout of 60 s"),
        (
            {"execution_timeout": "1 h", "run_timeout": 60},
            "the workflow timed out: run_timeout of 60 s",
        ),
        (
            {"execution_timeout": 60, "run_timeout": 600},
            "the workflow timed out: execution_timeout of 60 s",
        ),
    ],
)
def test_a_job_whose_time_is_over_fails(
    db: Connection, caller: Connection, time: Clock, options: dict[str, Any], message: str
) -> None:
    start(caller, "a", **options)
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1), activity(2)])
    task = hand.claim("activity", 1)[0]
    time.advance("59.999 seconds")
    hand.turn()
    assert ended(db) == ()
    time.advance("0.001 seconds")
    hand.turn()
    assert ended(db) == ("TimedOutError", 596, message)
    assert hand.report(task, output=1) == "stale"
    assert messages(db) == []


def test_a_job_that_nobody_serves_fails_in_time_too(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", queue="nobody", execution_timeout=60)
    time.advance("1 minute")
    Hand(caller).turn()
    assert ended(db)[1] == 596


def test_a_delayed_job_has_its_time_from_when_it_may_begin(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", delay=60, execution_timeout=60)
    hand = Hand(caller)
    time.advance("119 seconds")
    hand.turn()
    assert ended(db) == ()
    time.advance("1 second")
    hand.turn()
    assert ended(db)[1] == 596


def test_a_job_that_ends_in_time_leaves_no_alarm(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", execution_timeout=60)
    hand = Hand(caller)
    hand.settle(hand.take())
    assert messages(db) == []
    time.advance("1 hour")
    hand.turn()
    assert ended(db) == ()


def test_the_time_of_a_job_goes_on_while_it_is_run_again(
    db: Connection, caller: Connection, time: Clock
) -> None:
    policy = {"maximum_attempts": 99, "initial_interval": 40, "backoff_coefficient": 1}
    start(caller, "a", execution_timeout=60, retry_policy=policy)
    hand = Hand(caller)
    hand.report(hand.take(), outcome={"error": {"type": "X", "message": "y"}})
    time.advance("40 seconds")
    hand.report(hand.take(), outcome={"error": {"type": "X", "message": "y"}})
    time.advance("20 seconds")
    hand.turn()
    assert ended(db)[1] == 596


def test_a_run_that_is_held_when_the_time_is_over_reports_in_vain(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", execution_timeout=10)
    hand = Hand(caller)
    run = hand.take(lease=60)
    time.advance("10 seconds")
    assert hand.report(run, outcome={"output": "late"}) in ("ok", "stale")
    hand.turn()
    assert len(messages(db)) == 0


def test_a_run_that_continues_as_new_has_its_time_anew_the_job_has_not(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", run_timeout=60, execution_timeout=150)
    hand = Hand(caller)
    for _ in range(2):
        time.advance("50 seconds")
        assert hand.report(hand.take(), outcome={"again": {"args": []}}) == "ok"
    time.advance("49 seconds")
    hand.turn()
    assert ended(db) == ()
    time.advance("1 second")
    hand.turn()
    assert ended(db)[2] == "the workflow timed out: execution_timeout of 150 s"


@pytest.mark.parametrize("name", ["execution_timeout", "run_timeout"])
@pytest.mark.parametrize("value", [0, -1, "soon", "60", True, [], {}, "2000 years", 1e300])
def test_what_is_no_timeout_of_a_job_starts_nothing(
    db: Connection, caller: Connection, name: str, value: Any
) -> None:
    with (
        unchanged(db),
        pytest.raises(psycopg.errors.InvalidParameterValue, match=name),
    ):
        start(caller, "a", **{name: value})


# --- limits ---------------------------------------------------------------------------------------


def limited(caller: Connection, timeouts: dict[str, Any]) -> Hand:
    """Two activities that share the one slot of their queue."""
    caller.execute("select hotmesh.queue_limit('my-app', 'default', concurrency => 1)")
    start(caller, "a", queue="flows")
    hand = Hand(caller, workflows=[("flows", "order")])
    commands = [activity(n, timeouts=timeouts, retry_policy=ONCE) for n in (1, 2)]
    hand.report(hand.take(), commands=commands)
    return hand


@pytest.mark.parametrize("name", ["start_to_close", "heartbeat"])
def test_an_attempt_that_timed_out_gives_its_slot_back(
    caller: Connection, time: Clock, name: str
) -> None:
    hand = limited(caller, {name: 20})
    [first] = hand.claim("activity", 9, lease=60)
    time.advance("20 seconds")
    [second] = hand.claim("activity", 9, lease=60)
    assert first.id != second.id


def test_an_activity_past_its_deadline_gives_its_slot_back_or_its_place(
    db: Connection, caller: Connection, time: Clock
) -> None:
    hand = limited(caller, {"schedule_to_close": 20})
    assert len(hand.claim("activity", 9, lease=60)) == 1
    time.advance("20 seconds")
    hand.turn()
    assert [step[2] for step in journal(db, "a")] == ["open", "open"]  # told, not yet taken
    hand.take()
    assert [step[2] for step in journal(db, "a")] == ["failed", "failed"]
    start(caller, "b", queue="flows")
    hand.report(hand.take(), commands=[activity(1)])
    assert len(hand.claim("activity", 9)) == 1
