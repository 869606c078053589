"""Transactional activities are done exactly once, whoever dies at whatever moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotmesh.client import SyncClient
from support.crash import Child
from support.waiting import wait_until

PROGRAM = Path(__file__).with_name("payer.py")
Spawn = Callable[..., Child]


@pytest.fixture
def client(db: psycopg.Connection[Any], dsn: str) -> Iterator[SyncClient]:
    db.execute("create table public.ledger (line text)")
    with SyncClient(dsn, "my-app") as client:
        yield client


def lines(db: psycopg.Connection[Any]) -> list[str]:
    rows = db.execute("select line from public.ledger order by line").fetchall()
    return [line for (line,) in rows]


@pytest.mark.parametrize(("name", "result"), [("dies_before", "alive"), ("dies_after", "after")])
def test_killed_before_the_commit_neither_after_it_both(
    client: SyncClient, db: psycopg.Connection[Any], child: Spawn, name: str, result: str
) -> None:
    first = child(PROGRAM, HMSH_LEASE="1s")
    first.wait_for_output("serving")
    handle = client.workflow.start(
        workflow_name="dies", args=[name], workflow_id="a", task_queue="orders"
    )
    first.wait_for_death()
    written = [] if name == "dies_before" else ["after"]
    assert lines(db) == written
    told = db.execute(
        "select from my_app.streams where kind = 'event' union all"
        " select from my_app.jobs_attributes where kind = 'activity' and state = 'done'"
    ).rowcount  # its loop may have been told before it died
    assert told == len(written)
    child(PROGRAM, HMSH_LEASE="1s").wait_for_output("serving")
    assert handle.result(timeout=20) == result
    assert lines(db) == [name.removeprefix("dies_")]


def test_hundreds_are_done_once_while_workers_and_connections_die(
    client: SyncClient, db: psycopg.Connection[Any], admin: psycopg.Connection[Any], child: Spawn
) -> None:
    """Two workers; every few commits one is killed, or a backend in its transaction is."""
    keys = [f"{n:03}" for n in range(80)]
    wanted = [f"{key}-{step}" for key in keys for step in range(1, 5)]
    handles = client.workflow.start_many(
        [
            {"workflow_name": "pays", "args": [k], "workflow_id": k, "task_queue": "orders"}
            for k in keys
        ]
    )
    chance = random.Random(7)
    workers = [child(PROGRAM, HMSH_LEASE="1s") for _ in range(2)]
    deaths = cuts = 0
    while deaths < 5 and len(lines(db)) < len(wanted):
        before = len(lines(db))
        wait_until(
            lambda before=before: len(lines(db)) > before + chance.randrange(30),  # type: ignore[misc]
            what="progress",
        )
        cuts += admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and xact_start is not null"
            "   and application_name = 'hotmesh' and pid <> pg_backend_pid()"
        ).rowcount
        victim = chance.randrange(2)
        if chance.random() < 0.5:
            workers[victim].kill()
            workers[victim] = child(PROGRAM, HMSH_LEASE="1s")
            deaths += 1
    for handle in handles:
        assert handle.result(timeout=30) == f"{handle.workflow_id}-4"
    assert lines(db) == wanted
    assert deaths > 0
    assert cuts > 0
