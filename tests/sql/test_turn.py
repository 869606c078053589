"""The turn: one call, one commit; it waits for nobody, and a bad report costs only itself."""

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
    verdict,
)
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]
TURN = "select * from hotmesh.turn('my-app', %s, %s, %s)"


# --- the main road --------------------------------------------------------------------------------


def test_a_job_from_its_start_to_its_result(db: Connection, caller: Connection) -> None:
    start(caller, "a", ["x"])
    hand = Hand(caller)
    run = hand.take()
    assert (run.key, run.name, run.args, run.cursor, run.history) == ("a", "order", ["x"], 0, [])
    assert hand.report(run, commands=[activity(1, args=[5])]) == "ok"
    task = hand.take("activity")
    assert (task.key, task.name, task.args, task.attempt) == ("a", "pay", [5], 1)
    assert hand.report(task, output={"paid": 5}) == "ok"
    run = hand.take()
    assert [step[:6] for step in run.history] == [[1, "activity", "pay", "done", {"paid": 5}, 1]]
    assert hand.settle(run, "thanks") == "ok"
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == "thanks"
    assert messages(db) == []


def test_a_whole_job_in_one_report(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), done=[done(1, 1), done(2, 2)], outcome={"output": 3})
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == 3
    assert [(step[0], step[3], step[4]) for step in journal(db, "a")] == [(1, 1, 1), (2, 2, 2)]
    assert one(db, "select cursor from my_app.jobs") == 2


def test_a_turn_reports_on_many_jobs_and_claims_in_the_same_call(caller: Connection) -> None:
    hand = Hand(caller)
    for key in "abc":
        start(caller, key)
    runs = hand.claim(take=3)
    start(caller, "d")
    rows = hand.turn(*[body(run, outcome={"output": run.key}) for run in runs], workflow=1)
    assert [row.key for row in rows if row.answer == "task"] == ["d"]
    for key in "abc":
        assert one(caller, "select hotmesh.job_result('my-app', %s)", key) == key


def test_a_workflow_that_nobody_serves_yet_waits_and_is_found(caller: Connection) -> None:
    start(caller, "a", workflow="later", queue="elsewhere")
    assert Hand(caller).claim(take=9) == []
    assert Hand(caller, workflows=[("elsewhere", "order"), ("default", "later")]).claim() == []
    assert Hand(caller, workflows=[("elsewhere", "later")]).take().key == "a"


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
    assert len(messages(db)) == 2
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


# --- a bad report ---------------------------------------------------------------------------------

BAD: list[dict[str, Any]] = [
    {"done": [done(1), done(1)]},
    {"done": [done(1, at=1e300)]},
    {"commands": [activity(1, retry_policy={"maximum_attempts": -1})]},
    {"commands": [timer(1, 1e300)]},
    {"commands": [{"sequence": 1, "kind": "miracle"}]},
    {"commands": [{"kind": "activity", "name": "pay"}]},
    {"commands": [activity(10**12)]},
    {"commands": {"sequence": 1}},
    {"outcome": {"output": "x" * 2000}},
    {"outcome": {"error": {"type": "E", "message": "x" * 2000}}},
    {"done": [done(1, "x" * 2000)]},
    {"commands": [activity(1, args=["x" * 2000])]},
]


@pytest.fixture
def limited(db: Connection) -> None:
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 1000}'")


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_report_costs_only_its_own_job(
    db: Connection, caller: Connection, bad: dict[str, Any]
) -> None:
    for key in ("good", "bad", "fine"):
        start(caller, key)
    hand = Hand(caller)
    runs = {run.key: run for run in hand.claim(take=3)}
    report = body(runs["bad"], running="outcome" not in bad, **bad)
    with unchanged(db), pytest.raises(psycopg.Error):
        hand.turn(
            body(runs["good"], outcome={"output": 1}), report,
            body(runs["fine"], outcome={"output": 1}),
        )  # fmt: skip
    assert verdict(hand.turn(report, isolate=True), runs["bad"].id) == "ok"
    assert hand.settle(runs["good"]) == hand.settle(runs["fine"]) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'good')") == 0
    assert one(caller, "select hotmesh.job_status('my-app', 'bad')") == -999_999_999
    error = one(caller, "select hotmesh.job_state('my-app', 'bad', true)")["metadata"]["err"]
    assert (error["type"], error["code"]) == ("EngineError", 598)
    assert len(error["sqlstate"]) == 5
    assert messages(db) == []


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "bad", [{"output": "x" * 2000}, {"error": {"type": "E", "message": "x" * 2000}}]
)
def test_a_bad_answer_of_an_activity_fails_the_activity(
    db: Connection, caller: Connection, bad: dict[str, Any]
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1)])
    task = hand.take("activity")
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        hand.turn(body(task, **bad))
    assert caught.value.sqlstate == "MSH43"
    assert "1000 bytes" in str(caught.value.diag.message_detail)
    hand.turn(body(task, **bad), isolate=True)
    [step] = hand.take().history
    assert (step[3], step[4]["type"], step[4]["code"]) == ("failed", "EngineError", 598)
    assert step[4]["sqlstate"] == "MSH43"


def test_isolated_reports_are_judged_one_by_one(db: Connection, caller: Connection) -> None:
    for key in ("good", "bad"):
        start(caller, key)
    hand = Hand(caller)
    runs = {run.key: run for run in hand.claim(take=2)}
    hand.turn(
        body(runs["good"], outcome={"output": 1}),
        body(runs["bad"], done=[done(1), done(1)]),
        isolate=True,
    )
    assert one(caller, "select hotmesh.job_status('my-app', 'good')") == 0
    assert one(caller, "select hotmesh.job_status('my-app', 'bad')") < 0


@pytest.mark.parametrize("kept", [False, True])
def test_a_job_whose_row_refuses_to_close_is_parked_and_stops_nobody(
    db: Connection, caller: Connection, sessions: Sessions, kept: bool
) -> None:
    """Its owner has put a trigger on the table; not even the failure can be written."""
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin raise 'not on my watch'; end $$;"
        " create trigger refuse before update of status on my_app.jobs"
        " for each row when (old.key = 'bad') execute function public.refuse()"
    )
    start(caller, "bad")
    hand = Hand(caller)
    bad = hand.take()
    start(caller, "good")
    if kept:
        (locker,) = sessions("locker")
        locker.begin()
        locker.run("select from my_app.jobs where key = 'bad' for update")
        assert hand.report(bad, outcome={"output": 1}, keep=True) == "kept"
        locker.rollback()
    else:
        hand.turn(body(bad, outcome={"output": 1}), isolate=True)
    assert hand.settle(hand.take(), 1) == "ok"
    stuck = db.execute("select key, reason, message from hotmesh.stuck_jobs").fetchall()
    assert stuck == [("bad", "parked", "the engine refused a report: not on my watch")]
    db.execute("drop trigger refuse on my_app.jobs")
    caller.execute("select hotmesh.stream_revive('my-app', %s)", [bad.id])
    assert hand.settle(hand.take(), 1) == "ok"


@pytest.mark.parametrize("state", ["40001", "40P01", "53100", "57014", "57P01"])
def test_what_a_repeat_may_cure_passes_through(
    db: Connection, caller: Connection, state: str
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    db.execute(
        "create or replace function hotmesh._attribute_write(steps hotmesh.jobs_attributes[])"
        f" returns void language plpgsql as $$ begin raise 'no' using errcode = '{state}'; end $$"
    )
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        hand.turn(body(run, done=[done(1)]), isolate=True)
    assert caught.value.sqlstate == state


@pytest.mark.parametrize("text", [r'"\u0000"', r'"\ud800"', "NaN"])
def test_what_json_can_not_carry_changes_nothing(
    db: Connection, caller: Connection, text: str
) -> None:
    start(caller, "a")
    run = Hand(caller).take()
    report = f'[{{"id":{run.id},"token":{run.token},"cursor":0,"outcome":{{"output":{text}}}}}]'
    for want in ("{}", '{"isolate": true}'):
        with unchanged(db), pytest.raises(psycopg.DataError):
            caller.execute(TURN, ["hand", report, want])


@pytest.mark.parametrize(
    ("worker", "reports", "want"),
    [
        (None, "[]", "{}"),
        ("", "[]", "{}"),
        ("w" * 60, "[]", "{}"),
        ("hand", '{"id": 1}', "{}"),
        ("hand", "[1]", "{}"),
        ("hand", '[{"id": "x"}]', "{}"),
        ("hand", "[]", '{"lease": -1, "workflow": 1}'),
        ("hand", "[]", '{"lease": 0}'),
        ("hand", "[]", '{"lease": 1e300}'),
        ("hand", "[]", '{"lease": "long"}'),
        ("hand", "[]", '{"workflow": "many"}'),
        ("hand", "[]", '{"workflow": 1, "queues": "default"}'),
    ],
)
def test_a_bad_turn_is_refused_and_changes_nothing(
    db: Connection, caller: Connection, worker: str | None, reports: str, want: str
) -> None:
    start(caller, "a")
    serves = (
        want
        if '"queues"' in want
        else want[:-1]
        + (", " if len(want) > 2 else "")
        + '"kinds": ["workflow"], "queues": ["default"], "names": ["order"]}'
    )
    with unchanged(db), pytest.raises(psycopg.DataError):
        caller.execute(TURN, [worker, reports, serves])


# --- it waits for nobody --------------------------------------------------------------------------


def test_a_turn_never_waits_for_a_lock(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    """Jobs, messages and workers are locked by a user who went to lunch."""
    caller.execute("set statement_timeout = '5s'")
    hand = Hand(caller)
    hand.turn(seen=True, idle=True)
    for key in "abcdef":
        start(caller, key)
    runs = {run.key: run for run in hand.claim(take=4)}
    hand.report(runs["d"], commands=[activity(1)])
    (lunch,) = sessions("lunch")
    lunch.begin()
    lunch.run("select from my_app.jobs where key in ('a', 'e') for update")
    lunch.run("select from my_app.streams where id = %s for update", [runs["b"].id])
    lunch.run("select from my_app.workers for update")
    rows = hand.turn(
        *[body(runs[key], outcome={"output": key}) for key in "abc"],
        workflow=5, activity=5, seen=True,
    )  # fmt: skip
    assert [verdict(rows, runs[key].id) for key in "abc"] == ["busy", "busy", "ok"]
    assert sorted(row.key for row in rows if row.answer == "task") == ["d", "f"]
    hand.turn(body(runs["a"], outcome={"output": 1}, keep=True), seen=True)
    assert caller.execute("select hotmesh.worker_extend('my-app', 'hand', %s)", [[runs["a"].id]])
    lunch.rollback()


def test_a_turn_in_a_transaction_that_stays_open_stops_only_its_own_jobs(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    caller.execute("set statement_timeout = '5s'")
    for key in "abcd":
        start(caller, key)
    (slow,) = sessions("slow")
    slow_hand, hand = Hand(slow.conn, "slow"), Hand(caller)
    hand.turn(seen=True, idle=True)
    slow.begin()
    held = slow_hand.claim(take=2)
    slow_hand.report(held[0], commands=[activity(1)])
    for run in hand.claim(take=9, seen=True):
        assert hand.settle(run) == "ok"
    assert [one(caller, "select hotmesh.job_status('my-app', %s)", key) for key in "abcd"] == [
        1, 1, 0, 0,
    ]  # fmt: skip
    slow.rollback()
    assert len(hand.claim(take=9)) == 2


@pytest.mark.parametrize("call", ["stream_complete", "stream_revive", "worker_stop"])
def test_a_door_in_a_transaction_that_stays_open_stops_no_worker(
    db: Connection, caller: Connection, sessions: Sessions, call: str
) -> None:
    """It has woken a worker, whose row it holds until its transaction ends."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)], running=call != "stream_complete")
    task = hand.take("activity")
    start(caller, "b")
    if call == "stream_revive":
        db.execute("update my_app.streams set state = 'dead' where id = %s", [run.id])
    sleeper = Hand(caller, "sleeper")
    sleeper.turn(seen=True, idle=True)
    (user,) = sessions("user")
    user.begin()
    if call == "stream_complete":
        user.run("select hotmesh.stream_complete('my-app', %s, %s, '1')", [task.id, task.token])
    elif call == "stream_revive":
        user.run("select hotmesh.stream_revive('my-app', %s)", [run.id])
    else:
        user.run("select hotmesh.worker_stop('my-app', 'hand', %s)", [[task.id, run.id]])
    caller.execute("set statement_timeout = '5s'")
    sleeper.turn(seen=True, idle=True, workflow=1)
    user.commit()


def test_an_idle_turn_says_when_the_next_thing_is_due(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    hand = Hand(caller)
    [idle] = hand.turn(workflow=1)
    assert (idle.answer, idle.due) == ("next", None)
    start(caller, "a")
    hand.report(hand.take(), commands=[timer(1, 60), timer(2, 7.5)])
    [idle] = hand.turn(workflow=1)
    assert idle.due == 7.5


def test_a_user_who_holds_a_key_to_another_app_gets_nothing_from_this_one(
    db: Connection, caller: Connection
) -> None:
    db.execute("select hotmesh.app_create('other')")
    db.execute("select hotmesh.job_start('other', 'order', 'theirs')")
    assert Hand(caller).claim() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        caller.execute("select * from hotmesh.turn('other', 'hand')")


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
