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


# --- a bad report ---------------------------------------------------------------------------------

BAD: list[dict[str, Any]] = [
    {"done": [done(1), done(1)]},
    {"done": [done(1, at=1e300)]},
    {"commands": [activity(1, retry_policy={"maximum_attempts": -1})]},
    {"done": [done(1, at="Infinity")]},
    {"commands": [timer(1, 1e300)]},
    {"commands": [{"sequence": 1, "kind": "activity", "name": "pay"}]},
    {"commands": [activity(1, "")]},
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
        "create or replace function hotmesh._attribute_done(job_ids bigint[], dimensions text[],"
        " cursors bigint[], steps jsonb[])"
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
