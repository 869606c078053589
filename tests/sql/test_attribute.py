"""Attributes: the journal, its numbers, the ledger that only grows, history in pages."""

from __future__ import annotations

import json
import random
from typing import Any

import psycopg
import pytest
from psycopg import errors

from support.hand import Connection, Hand, activity, done, journal, one, start


@pytest.fixture
def steps(db: Connection, caller: Connection) -> Hand:
    """A job with an open, a done and a cancelled step."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, done=[done(1, 5)], commands=[activity(2), activity(3)], running=True)
    hand.report(run, cursor=1, commands=[{"sequence": 3, "kind": "cancel"}], running=True)
    assert [step[2] for step in journal(db, "a")] == ["done", "open", "cancelled"]
    return hand


def ledgers(db: Connection) -> list[int]:
    return [
        row[0]
        for row in db.execute(
            "select ledger from my_app.jobs_attributes where sequence is not null order by sequence"
        )
    ]


# --- the ledger -----------------------------------------------------------------------------------


def test_a_ledger_tells_what_was_delivered(db: Connection, steps: Hand) -> None:
    assert [f"{ledger:015}" for ledger in ledgers(db)] == [
        "101100000000001", "001100000000000", "001100000000000",
    ]  # fmt: skip
    steps.report(steps.take("activity"), output=1)
    steps.connection.execute("select from hotmesh.turn('my-app', 'hand')")
    run = db.execute("select id, token from my_app.streams where kind = 'workflow'").fetchone()
    assert run
    steps.turn({"id": run[0], "token": run[1], "cursor": 1, "running": True})
    assert f"{ledgers(db)[1]:015}" == "101100000000001"


@pytest.mark.usefixtures("steps")
def test_a_ledger_only_grows(db: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        db.execute("update my_app.jobs_attributes set ledger = ledger - 1 where sequence = 1")
    diag = caught.value.diag
    assert diag.sqlstate == "MSH50"
    assert "step-0001" in str(diag.message_primary)
    assert "101100000000001" in str(diag.message_detail)
    db.execute("update my_app.jobs_attributes set ledger = ledger + 1 where sequence = 1")


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize(
    ("change", "law"),
    [
        ("ledger = 1000000000000000", "a_ledger_has_fifteen_digits"),
        ("state = 'lost'", "attribute_state_is_known"),
        ("state = 'done'", "finished_steps_are_finalized"),
        ("state = 'failed'", "finished_steps_are_finalized"),
    ],
)
def test_the_table_knows_the_law_of_the_ledger(db: Connection, change: str, law: str) -> None:
    with pytest.raises(errors.CheckViolation) as caught:
        db.execute(f"update my_app.jobs_attributes set {change} where sequence = 2")
    assert caught.value.diag.constraint_name == law


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "sequence", "field"),
    [("", 1, "step-0001"), ("", 9999, "step-9999"), ("", 10000, "step-10000"),
     (",0,1", 12, "step,0,1-0012")],
)  # fmt: skip
def test_a_steps_name(db: Connection, dimension: str, sequence: int, field: str) -> None:
    assert one(db, "select hotmesh._attribute_field(%s, %s)", dimension, sequence) == field


def test_completions_are_numbered_in_the_order_in_which_they_reached_the_code(
    db: Connection, caller: Connection
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1), activity(2), activity(3)], running=True)
    tasks = {task.sequence: task for task in hand.claim("activity", 3)}
    hand.report(tasks[3], output="third")
    [news] = hand.news(run, done=[done(4), done(5)], running=True)
    assert (news[0], news[5]) == (3, 3)
    hand.report(tasks[1], error={"type": "E", "code": 598})
    hand.report(tasks[2], output="second")
    news = hand.news(run, cursor=3, running=True)
    assert [(step[0], step[3], step[5]) for step in news] == [(1, "failed", 4), (2, "done", 5)]
    assert [(step[0], step[4]) for step in journal(db, "a")] == [
        (1, 4), (2, 5), (3, 3), (4, 1), (5, 2),
    ]  # fmt: skip
    assert one(db, "select cursor from my_app.jobs") == 5


def test_a_step_keeps_the_time_that_the_code_saw(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), done=[done(1, at=1_500_000_000.25)])
    [[*_, at]] = one(caller, "select hotmesh.job_history('my-app', 'a')")
    assert at == 1_500_000_000.25


@pytest.mark.parametrize(
    "value",
    [None, False, 0, "", [], {}, "é\U0001f600\n\t\\\"", 1e15, 5.0, 12345678901234567890123,
     0.1234567890123456789, {"": {"": []}}, [[[[[1]]]]]],
)  # fmt: skip
def test_values_come_back_as_they_went_in(db: Connection, caller: Connection, value: Any) -> None:
    start(caller, "a", [value])
    hand = Hand(caller)
    run = hand.take()
    assert run.args == [value]
    hand.report(run, done=[done(1, value)], commands=[activity(2, args=[value])])
    task = hand.take("activity")
    assert task.args == [value]
    hand.report(task, output=value)
    run = Hand(caller, "other").take() if (found := hand.claim()) == [] else found[0]
    hand.settle(run, value)
    history = one(caller, "select hotmesh.job_history('my-app', 'a')")
    assert [step[4] for step in history] == [value, value]
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == value


# --- history in pages -----------------------------------------------------------------------------


def long_job(db: Connection, caller: Connection, count: int, size: int) -> int:
    job = start(caller, "a")
    db.execute(
        "insert into my_app.jobs_attributes (job_id, field, value, kind, name, state, sequence,"
        "  cursor, ledger, created_at, updated_at)"
        " select %s, hotmesh._attribute_field('', g), to_jsonb(repeat(md5(g::text), %s / 32)),"
        "        'activity', 'pay', 'done', g, g, 101100000000001, now(), now()"
        " from generate_series(1, %s) g",
        [job, size, count],
    )
    db.execute("alter table my_app.jobs_attributes alter column value set storage external")
    db.execute("update my_app.jobs_attributes set value = value || '[]' where sequence is not null")
    db.execute("update my_app.jobs set cursor = %s", [count])
    return job


HISTORY = "select hotmesh.job_history('my-app', 'a', '', %s)"


def test_a_long_history_comes_in_pages_and_a_last_null_says_that_there_is_more(
    db: Connection, caller: Connection
) -> None:
    long_job(db, caller, 30, 1_000_000)
    pages, after = [], 0
    while True:
        page = one(caller, HISTORY, after)
        steps = [step for step in page if step is not None]
        pages.append([step[0] for step in steps])
        assert len(json.dumps(page)) < 10_000_000
        assert page.count(None) == (page[-1] is None)
        if page[-1] is not None:
            break
        after = steps[-1][0]
    assert [number for page in pages for number in page] == list(range(1, 31))
    assert len(pages) == 4


def test_a_page_holds_at_least_one_step(db: Connection, caller: Connection) -> None:
    long_job(db, caller, 3, 9_000_000)
    for after in (0, 1):
        page = one(caller, HISTORY, after)
        assert ([page[0][0]], page[1:]) == ([after + 1], [None])
    assert [step[0] for step in one(caller, HISTORY, 2)] == [3]
    assert one(caller, HISTORY, 3) == []


def test_a_claim_ships_a_part_of_a_long_history_and_says_so(
    db: Connection, caller: Connection
) -> None:
    long_job(db, caller, 30, 1_000_000)
    db.execute("update my_app.streams set token = 1")
    run = Hand(caller).take()
    assert run.cursor == 30
    assert run.history[-1] is None
    rest = one(caller, HISTORY, run.history[-2][0])
    assert rest[0][0] == run.history[-2][0] + 1


def test_a_claim_of_many_stays_within_bounds(db: Connection, caller: Connection) -> None:
    for number in range(6):
        start(caller, str(number), [random.Random(number).randbytes(1_500_000).hex()])
    runs = Hand(caller).claim(take=6)
    assert len(runs) >= 1
    assert len(json.dumps([(run.args, run.history) for run in runs])) < 17_000_000


# --- a run that is tried again --------------------------------------------------------------------


def test_a_retry_forgets_the_first_failure_and_all_that_came_after_it(
    db: Connection, caller: Connection
) -> None:
    job = long_job(db, caller, 3, 32)
    db.execute("update my_app.jobs_attributes set state = 'failed' where sequence = 2")
    with db.transaction():
        db.execute("set local search_path = pg_catalog, my_app, hotmesh")
        db.execute("select hotmesh._attribute_forget(%s, '')", [job])
    assert [step[0] for step in journal(db, "a")] == [1]
