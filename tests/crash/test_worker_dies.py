"""Workers die, by SIGKILL, by SIGTERM, by their own activities: every job ends, each step once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotmesh.client import SyncClient, SyncWorkflowHandle
from support.crash import Child
from support.waiting import wait_until

PROGRAM = Path(__file__).with_name("program.py")
Spawn = Callable[..., Child]


@pytest.fixture
def client(dsn: str) -> Iterator[SyncClient]:
    with SyncClient(dsn, "my-app") as client:
        yield client


def start(client: SyncClient, name: str, count: int, first: int = 0) -> list[SyncWorkflowHandle]:
    return client.workflow.start_many(
        [
            {"workflow_name": name, "workflow_id": f"{name}-{n}", "task_queue": "orders"}
            for n in range(first, first + count)
        ]
    )


def closed(db: psycopg.Connection[Any]) -> int:
    row = db.execute("select count(*) from my_app.jobs where closed_at is not null").fetchone()
    assert row is not None
    return int(row[0])


def odd_journals(db: psycopg.Connection[Any], steps: int) -> list[Any]:
    """Jobs that did not end well, or whose journal has not each step and each place once."""
    return db.execute(
        "select j.key, j.status, j.cursor, s.sequences, s.cursors from my_app.jobs j,"
        " lateral (select array_agg(a.sequence order by a.sequence) as sequences,"
        "                 count(distinct a.cursor) as cursors"
        "          from my_app.jobs_attributes a"
        "          where a.job_id = j.id and a.sequence is not null) s"
        " where j.status <> 0 or s.sequences <> array(select generate_series(1, %s))"
        "    or s.cursors <> %s",
        [steps, steps],
    ).fetchall()


def test_a_worker_killed_under_load_loses_nothing(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    first = child(PROGRAM, HMSH_LEASE="1s")
    first.wait_for_output("serving")
    handles = start(client, "five_steps", 300) + start(client, "mixed", 100)
    wait_until(lambda: closed(db) > 10, what="the load to run")
    first.kill()
    left = 400 - closed(db)
    assert left > 0, "the worker was too fast to be killed in the middle"
    second = child(PROGRAM, HMSH_LEASE="1s")
    second.wait_for_output("serving")
    for handle in handles:
        wanted = [2, 0, 2, 4, 18] if handle.workflow_name == "mixed" else [0, 2, 4, 6, 8]
        assert handle.result(timeout=30) == wanted
    db.execute("delete from my_app.jobs where topic = 'mixed'")
    assert odd_journals(db, 5) == []


def test_workers_killed_again_and_again_finish_in_the_end(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    handles = start(client, "mixed", 200)
    for _ in range(4):
        worker = child(PROGRAM, HMSH_LEASE="1s")
        worker.wait_for_output("serving")
        before = closed(db)
        wait_until(
            lambda before=before: closed(db) > before or closed(db) == 200,  # type: ignore[misc]
            what="progress",
        )
        worker.kill()
    child(PROGRAM, HMSH_LEASE="1s").wait_for_output("serving")
    for handle in handles:
        assert handle.result(timeout=30) == [2, 0, 2, 4, 18]
    assert odd_journals(db, 6) == []


def test_what_a_killed_worker_told_in_its_last_heartbeat_reaches_the_next(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    first = child(PROGRAM, HMSH_LEASE="1s", WORKER="first")
    [handle] = start(client, "walks", 1)
    first.wait_for_output("walking")
    told = "select from my_app.streams where timeouts ? 'details'"
    wait_until(lambda: db.execute(told).rowcount == 1, what="a heartbeat to arrive")
    first.kill()
    child(PROGRAM, HMSH_LEASE="1s", WORKER="second").wait_for_output("serving")
    assert handle.result(timeout=20) == "2 after first came far"


def test_a_worker_that_hangs_in_an_activity_loses_the_attempt_though_it_keeps_its_lease(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    first = child(PROGRAM, HMSH_LEASE="60s", WORKER="first", SERVES="five_steps")
    first.wait_for_output("serving")
    runs = child(PROGRAM, HMSH_LEASE="60s", WORKER="runs", NO_ACTIVITIES="yes")
    runs.wait_for_output("serving")
    [handle] = start(client, "blocks", 1)
    first.wait_for_output("blocking")
    child(PROGRAM, HMSH_LEASE="60s", WORKER="second").wait_for_output("serving")
    assert handle.result(timeout=20) == "answered at attempt 2"


def test_a_worker_told_to_stop_hands_its_job_back_at_once(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    """With a lease of an hour, only handing back can explain that the next one has it."""
    first = child(PROGRAM, HMSH_LEASE="1h", WORKER="first")
    [handle] = start(client, "holds", 1)
    first.wait_for_output("holding")
    second = child(PROGRAM, HMSH_LEASE="1h", WORKER="second")
    second.wait_for_output("serving")
    assert first.terminate(timeout=30) == 0
    assert "stopped" in first.output
    assert handle.result(timeout=10) == "answered at attempt 1"


def test_a_worker_told_to_stop_when_idle_goes_at_once_and_signs_off(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    worker = child(PROGRAM)
    worker.wait_for_output("serving")
    wait_until(lambda: db.execute("select from my_app.workers").rowcount == 1)
    assert worker.terminate(timeout=5) == 0
    assert db.execute("select from my_app.workers").rowcount == 0


def spawn_until(
    child: Spawn, done: Callable[[], object], most: int, **variables: str
) -> list[Child]:
    """Start a worker whenever there is none alive, until `done()`."""
    workers: list[Child] = []
    while not done():
        assert len(workers) < most, "it goes on for ever"
        workers.append(child(PROGRAM, HMSH_LEASE="1s", **variables))
        now = workers[-1]
        wait_until(lambda now=now: done() or not now.is_alive(), 30, "an end")  # type: ignore[misc]
    return workers


def test_an_activity_that_kills_its_process_uses_up_its_attempts(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    [handle] = start(client, "uses_killer", 1)
    spawn_until(child, lambda: closed(db) == 1, 8)
    assert handle.result(timeout=10) == "MaxedError: WorkerLostError"


def test_a_workflow_that_kills_its_process_is_parked_and_others_go_on(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    [handle] = start(client, "kills", 1)

    def parked() -> bool:
        return db.execute("select from my_app.streams where state = 'dead'").rowcount == 1

    workers = spawn_until(child, parked, 9)
    assert sum(not worker.is_alive() for worker in workers) == 5
    if not workers[-1].is_alive():
        child(PROGRAM).wait_for_output("serving")
    [other] = start(client, "five_steps", 1)
    assert other.result(timeout=20) == [0, 2, 4, 6, 8]
    assert handle.status() > 0


def test_a_dead_worker_s_workflow_waits_for_one_that_serves_it(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    [handle] = start(client, "mixed", 1)
    other = child(PROGRAM, SERVES="five_steps")
    other.wait_for_output("serving")
    [mine] = start(client, "five_steps", 1)
    assert mine.result(timeout=20) == [0, 2, 4, 6, 8]
    assert handle.status() == 1
    child(PROGRAM, SERVES="mixed").wait_for_output("serving")
    assert handle.result(timeout=20) == [2, 0, 2, 4, 18]


def test_connections_terminated_at_random_lose_nothing(
    client: SyncClient, db: psycopg.Connection[Any], admin: psycopg.Connection[Any], child: Spawn
) -> None:
    for worker in [child(PROGRAM, HMSH_LEASE="2s") for _ in range(2)]:
        worker.wait_for_output("serving")
    terminated, started = 0, 0
    while terminated < 20:  # more work until enough connections broke in the midst of it
        start(client, "mixed", 50, first=started)
        started += 50
        for reached in range(started - 45, started, 5):
            wait_until(lambda reached=reached: closed(db) >= reached, 30, "progress")  # type: ignore[misc]
            terminated += admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'hotmesh'"
                "   and pid not in (%s, pg_backend_pid()) and backend_type = 'client backend'"
                " order by random() limit 2",
                [db.info.backend_pid],
            ).rowcount
    wait_until(lambda: closed(db) == started, 30, "all to end")
    assert odd_journals(db, 6) == []


def test_a_journal_that_lacks_a_step_would_be_seen(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn
) -> None:
    child(PROGRAM).wait_for_output("serving")
    [handle] = start(client, "five_steps", 1)
    handle.result(timeout=20)
    assert odd_journals(db, 5) == []
    db.execute("delete from my_app.jobs_attributes where field = 'step-0002'")
    assert len(odd_journals(db, 5)) == 1
