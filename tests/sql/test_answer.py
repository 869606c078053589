"""Answers about a job: open, done, failed, of many, exported; and reading changes nothing."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.hand import Connection, Hand, activity, contents, done, one, start, timer, unchanged
from support.refusals import refusal

# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["job_status", "job_result", "job_state", "job_export", "job_history"]
)
def test_there_is_no_answer_about_a_job_that_is_not_there(caller: Connection, call: str) -> None:
    for key in ("nope", None, ""):
        diag = refusal(caller, f"select hotmesh.{call}('my-app', %s)", key)
        assert diag.sqlstate == "MSH40"
    assert "job" in str(diag.message_primary)


# --- answers about a job --------------------------------------------------------------------------


def fail(hand: Hand, task: Any, **error: Any) -> str:
    return hand.report(task, outcome={"error": {"type": "StockError", "message": "none", **error}})


def test_answers_about_an_open_job(caller: Connection) -> None:
    start(caller, "a", ["x"])
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    assert one(caller, "select hotmesh.job_result('my-app', 'a') is null") is True
    assert one(caller, "select hotmesh.job_state('my-app', 'a')") == {"done": False}
    exported = one(caller, "select hotmesh.job_export('my-app', 'a')")
    assert exported == {
        "data": {},
        "state": {"input": ["x"], "output": None, "error": None},
        "status": 1,
        "timeline": [],
        "transitions": [],
    }
    assert caller.execute("select * from hotmesh.job_results('my-app', '{a}')").fetchall() == []


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("output", [{"sum": 5}, None, [], "text", False])
def test_answers_about_a_job_that_is_done(
    caller: Connection, clock: Clock, archived: bool, output: Any
) -> None:
    clock.freeze("2026-03-15 12:00+00")
    start(caller, "a", expire=1)
    hand = Hand(caller)
    hand.report(hand.take(), done=[done(1, 3)], outcome={"output": output})
    if archived:
        clock.advance("1 second")
        assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 0
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == output
    assert one(caller, "select hotmesh.job_result('my-app', 'a') is null") is False
    assert one(caller, "select hotmesh.job_state('my-app', 'a')") == {
        "done": True, "response": output,
    }  # fmt: skip
    exported = one(caller, "select hotmesh.job_export('my-app', 'a')")
    assert exported["state"] == {"input": [], "output": output, "error": None}
    assert [step["key"] for step in exported["timeline"]] == ["step-0001"]
    assert len(one(caller, "select hotmesh.job_history('my-app', 'a')")) == 1
    assert caller.execute("select * from hotmesh.job_results('my-app', '{a}')").fetchall() == [
        ("a", 0, output, None)
    ]


def test_answers_about_a_job_that_failed(caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    fail(hand, hand.take())
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == -999_999_999
    diag = refusal(caller, "select hotmesh.job_result('my-app', 'a')")
    assert (diag.sqlstate, diag.message_primary) == ("MSH46", 'job "a" failed: none')
    error = json.loads(str(diag.message_detail))
    assert (error["type"], error["message"]) == ("StockError", "none")
    state = one(caller, "select hotmesh.job_state('my-app', 'a', true)")
    assert state["data"] == {"done": True}
    assert state["metadata"]["js"] == -999_999_999
    assert state["metadata"]["err"]["message"] == "none"
    [row] = caller.execute("select * from hotmesh.job_results('my-app', '{a}')").fetchall()
    assert row[:3] == ("a", -999_999_999, None)
    assert row[3]["type"] == "StockError"


def test_results_of_many_tell_what_is_missing_and_leave_out_what_is_open(
    caller: Connection,
) -> None:
    start(caller, "done")
    Hand(caller).settle(Hand(caller).take(), 1)
    start(caller, "open")
    rows = caller.execute(
        "select * from hotmesh.job_results('my-app', '{open,done,missing,done}')"
    ).fetchall()
    assert sorted(rows, key=str) == [
        ("done", 0, 1, None), ("done", 0, 1, None), ("missing", None, None, None),
    ]  # fmt: skip


def test_an_export_is_of_what_is_allowed_and_not_blocked(caller: Connection) -> None:
    start(caller, "a")
    export = "select hotmesh.job_export('my-app', 'a', %s, %s)"
    assert set(one(caller, export, ["data", "status"], None)) == {"data", "status"}
    assert set(one(caller, export, None, ["timeline"])) == {
        "data",
        "state",
        "status",
        "transitions",
    }
    assert one(caller, export, ["data"], ["data"]) == {}
    assert one(caller, export, ["process"], None) == {}  # of a graph only
    for allow, block in (["status", "tate"], None), (None, ["tate"]):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='has no part "tate"'):
            one(caller, export, allow, block)


def test_reading_changes_nothing(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1), timer(2, 60)])
    with unchanged(db):
        for call in (
            "job_status",
            "job_result",
            "job_state",
            "job_export",
            "job_history",
        ):
            caller.execute(f"select hotmesh.{call}('my-app', 'a')")
    assert contents(db)["jobs"] != []
