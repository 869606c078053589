"""Children, hooks, signals and timers by the thousand, eight workers in four processes.

No deadlock, hardly anybody waits for a lock, no signal is lost or doubled, nothing is left behind.
HOTMESH_STRESS_SECONDS makes it longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotmesh.client import SyncClient, SyncWorkflowHandle
from support.crash import Child
from support.engine import Server
from support.waiting import wait_until
from support.watchman import Watchman, deadlocks, percentile

PROGRAM = Path(__file__).with_name("crowd.py")
SECONDS = float(os.environ.get("HOTMESH_STRESS_SECONDS", "12"))
PROCESSES = 4  # of two workers each
WIDTH = 60
AT_ONCE = 6  # families that are open
Spawn = Callable[..., Child]


class Crowd:
    """Opens families as long as there is time, and sends each the signals that it waits for."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.sent: list[int] = []
        self.open: list[SyncWorkflowHandle] = []
        self.answers: list[dict[str, Any]] = []
        self.over = threading.Event()

    def live(self, client: SyncClient) -> None:
        until = time.monotonic() + SECONDS
        number = 0
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while time.monotonic() < until or not number:
                number += 1
                self.open.append(
                    client.workflow.start(
                        workflow_name="family", task_queue="orders", args=[WIDTH],
                        workflow_id=f"family-{number}",
                    )
                )  # fmt: skip
                self.signal(connection, f"family-{number}")
                while len(self.open) >= AT_ONCE:
                    self.answers.append(self.open.pop(0).result(timeout=60))
            self.answers += [handle.result(timeout=60) for handle in self.open]

    def signal(self, connection: psycopg.Connection[Any], key: str) -> None:
        """One by one, several in a transaction, and some in one that is rolled back."""
        one = "select hotmesh.job_signal('my-app', %s, %s, to_jsonb(%s))"
        crowd = "select hotmesh.signal_send('my-app', 'crowd', to_jsonb(%s))"
        for n in range(WIDTH):
            connection.execute(one, [key, f"mine-{n % 7}", n])
            self.sent.append(len(self.sent))
            connection.execute(crowd, [self.sent[-1]])
            if n % 20 == 0:
                with connection.transaction(force_rollback=True):
                    connection.execute(crowd, [-1])
                    connection.execute(one, [key, "mine-0", -1])

    def lock(self) -> None:
        """A user who locks jobs, messages and halves of signals for some milliseconds."""
        dice = random.Random(7)
        with psycopg.connect(self.dsn) as connection:
            while not self.over.is_set():
                for table in ("jobs", "streams", "signals"):
                    connection.execute(
                        f"select from my_app.{table} where id %% 5 = %s"
                        " order by id for update skip locked".encode(),
                        [dice.randrange(5)],
                    )
                time.sleep(dice.random() / 50)
                connection.rollback()
                time.sleep(dice.random() / 20)


@pytest.mark.slow
def test_eight_workers_and_a_crowd_know_no_deadlock_and_hardly_wait_for_locks(
    dsn: str, dbname: str, server: Server, admin: psycopg.Connection[Any], child: Spawn
) -> None:
    workers = [child(PROGRAM) for _ in range(PROCESSES)]
    for worker in workers:
        worker.wait_for_output("ready", 60)
    crowd = Crowd(dsn)
    user = threading.Thread(target=crowd.lock)
    with (
        SyncClient(dsn, "my-app") as client,
        server.connect(dbname) as connection,
        Watchman(connection) as watchman,
    ):
        user.start()
        try:
            crowd.live(client)
        finally:
            crowd.over.set()
            user.join()
    wait_until(lambda: left(admin) == [], 20, "an empty queue")
    for worker in workers:
        worker.terminate()
    check(crowd)
    waits = watchman.seconds()
    found, commits = deadlocks(admin)
    print(
        f"{len(crowd.answers)} families of {WIDTH}, {commits} commits, {watchman.samples} samples,"
        f" {len(waits)} waits, longest {waits[-5:]},"
        f" {Counter(wait[:2] for wait in watchman.waits.values())}"
    )
    assert found == 0
    assert watchman.samples > SECONDS * 20
    assert percentile(waits, 0.999) <= 0.05
    assert percentile(waits, 1) < 1


def left(admin: psycopg.Connection[Any]) -> list[Any]:
    return [
        *admin.execute("select kind, name, state from my_app.streams").fetchall(),
        *admin.execute("select kind, name, state from my_app.signals").fetchall(),
        *admin.execute("select key, status, null from my_app.jobs where status <> 0").fetchall(),
    ]


def check(crowd: Crowd) -> None:
    """Each family got its own, each signal by name met one wait."""
    numbers = range(WIDTH)
    for answer in crowd.answers:
        assert answer["mine"] == list(numbers)
        assert answer["kids"] == sum(numbers)
        assert answer["hooks"] == sum(range(WIDTH // 4))
        assert answer["timers"] == WIDTH
    met = sorted(value for answer in crowd.answers for value in answer["crowd"])
    assert met == crowd.sent


def test_the_watchman_sees_who_waits(
    db: psycopg.Connection[Any], dsn: str, dbname: str, server: Server
) -> None:
    """The control: a lock that is held on purpose is a wait of at least that long."""
    db.execute("create table public.t as select 1 as n")
    with (
        psycopg.connect(dsn) as holder,
        server.connect(dbname) as connection,
        Watchman(connection) as watchman,
    ):
        holder.execute("select from public.t for update")
        waiter = threading.Thread(
            target=lambda: db.execute("update public.t set n = 2")  # waits for the holder
        )
        waiter.start()
        wait_until(lambda: watchman.seconds() and watchman.seconds()[-1] > 0.1, 10, "a wait")
        holder.commit()
        waiter.join()
    assert len(watchman.waits) == 1
    assert percentile(watchman.seconds(), 0.999) > 0.05
