"""The job: its semaphore and its guards, and lists of jobs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors

from support.hand import Connection, Hand, one, start, unchanged


@pytest.fixture
def job(caller: Connection) -> int:
    return start(caller, "a")


def close(caller: Connection, **outcome: Any) -> None:
    hand = Hand(caller)
    assert hand.report(hand.take(), outcome=outcome or {"output": 1}) == "ok"


# --- the semaphore --------------------------------------------------------------------------------


@pytest.mark.usefixtures("job")
def test_the_semaphore_counts_open_obligations_and_ends_at_nothing(
    db: Connection, caller: Connection
) -> None:
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    close(caller)
    assert db.execute("select status, closed_at is not null from my_app.jobs").fetchall() == [
        (0, True)
    ]


@pytest.mark.usefixtures("job")
def test_a_failed_job_is_far_below_zero(db: Connection, caller: Connection) -> None:
    close(caller, error={"type": "E"})
    assert one(db, "select status from my_app.jobs") == 1 - 1_000_000_000


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("change", "law"),
    [
        ("status = 0", "a_job_is_open_while_its_semaphore_is_above_zero"),
        ("closed_at = now()", "a_job_is_open_while_its_semaphore_is_above_zero"),
        ("status = -1, closed_at = now()", "a_semaphore_never_passes_through_zero"),
        ("status = -900000000, closed_at = now()", "a_semaphore_never_passes_through_zero"),
        ("expire_at = now()", "only_closed_jobs_expire"),
    ],
)
def test_the_table_knows_the_law_of_the_semaphore(db: Connection, change: str, law: str) -> None:
    with pytest.raises(errors.CheckViolation) as caught:
        db.execute(f"update my_app.jobs set {change}")
    assert caught.value.diag.constraint_name == law


@pytest.mark.usefixtures("job")
def test_two_jobs_never_have_one_key(db: Connection) -> None:
    with pytest.raises(errors.UniqueViolation):
        db.execute(
            "insert into my_app.jobs (key, entity, topic, created_at, updated_at)"
            " values ('a', 'e', 't', now(), now())"
        )


# --- closed is closed -----------------------------------------------------------------------------


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("outcome", [{"output": 1}, {"error": {"type": "E"}}])
@pytest.mark.parametrize(
    "change",
    [
        "status = 1, closed_at = null",
        "status = status - 1000000000",
        "cursor = cursor + 1",
        "cursor = -1",
        "closed_at = closed_at + interval '1 s'",
    ],
)
def test_a_closed_job_does_not_move(
    db: Connection, caller: Connection, outcome: dict[str, Any], change: str
) -> None:
    close(caller, **outcome)
    with unchanged(db), pytest.raises(psycopg.Error) as caught:
        db.execute(f"update my_app.jobs set {change}")
    diag = caught.value.diag
    assert (diag.sqlstate, diag.message_primary) == ("MSH42", 'job "a" has closed')
    assert diag.message_detail
    assert diag.message_hint


@pytest.mark.usefixtures("job")
def test_the_entity_of_a_closed_job_may_still_change(db: Connection, caller: Connection) -> None:
    close(caller)
    db.execute(
        "update my_app.jobs set context = '{\"late\": true}', entity_version = 1,"
        " updated_at = now(), expire_at = now(), status = status, cursor = cursor"
    )
    assert one(db, "select context from my_app.jobs") == {"late": True}


@pytest.mark.usefixtures("job")
def test_an_open_job_may_move(db: Connection) -> None:
    db.execute("update my_app.jobs set status = 3, cursor = 7")
    assert one(db, "select status from my_app.jobs") == 3


# --- columns that an owner added ------------------------------------------------------------------


def test_rows_go_up_by_name_also_when_the_owner_added_a_column(
    db: Connection, caller: Connection
) -> None:
    db.execute("alter table my_app.jobs add column mine text default 'mine'")
    start(caller, "a")
    row = caller.execute(
        "select key, entity, status, closed_at, expire_at"
        " from hotmesh.job_start('my-app', 'order', 'b')"
    ).fetchone()
    assert row == ("b", "order", 1, None, None)
    hand = Hand(caller)
    for run in hand.claim(take=2):
        assert hand.settle(run, run.key) == "ok"
    assert one(caller, "select hotmesh.job_result('my-app', 'b')") == "b"
    keys = caller.execute("select key from hotmesh.job_list('my-app')").fetchall()
    assert keys == [("b",), ("a",)]


# --- lists ----------------------------------------------------------------------------------------

LIST = "select key from hotmesh.job_list('my-app', %s, %s, %s, %s, %s)"


def listed(caller: Connection, *given: Any) -> list[str]:
    arguments = [*given, *[None, None, None, 50, None][len(given) :]]
    return [row[0] for row in caller.execute(LIST, arguments)]


def test_jobs_are_listed_newest_first_and_filtered(caller: Connection) -> None:
    start(caller, "open", queue="q")
    start(caller, "complete")
    start(caller, "failed")
    hand = Hand(caller)
    runs = {run.key: run for run in hand.claim(take=9)}
    hand.settle(runs["complete"])
    hand.report(runs["failed"], outcome={"error": {"type": "E"}})
    assert listed(caller) == ["failed", "complete", "open"]
    for state in ("open", "complete", "failed"):
        assert listed(caller, None, None, state) == [state]
    assert listed(caller, "order", "q") == ["open"]
    assert listed(caller, "nothing") == []


def test_a_list_goes_on_page_by_page(caller: Connection) -> None:
    ids = {f"k{number}": start(caller, f"k{number}") for number in range(5)}
    first = listed(caller, None, None, None, 2)
    assert first == ["k4", "k3"]
    assert listed(caller, None, None, None, 9, ids["k3"]) == ["k2", "k1", "k0"]


@pytest.mark.parametrize(
    "given", [(None, None, "lost"), (None, None, None, 0), (None, None, None, None),
              (None, None, None, 10**6)],
)  # fmt: skip
def test_a_bad_list_is_refused(caller: Connection, given: tuple[Any, ...]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        listed(caller, *given)
    assert caught.value.sqlstate == "22023"
    assert caught.value.diag.message_hint
