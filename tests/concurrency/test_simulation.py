"""Workers that crash, report twice, late and out of turn: every job settles exactly once."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clock import Clock
from support.engine import CALLER, OWNER, Server
from support.simulation import Connection, Witness, Worker, check, revive, start_jobs, unsettled


@pytest.fixture
def seed() -> int:
    """Printed when a test fails; HOTMESH_TEST_SEED repeats a run."""
    chosen = int(os.environ.get("HOTMESH_TEST_SEED", random.randrange(2**32)))
    print(f"HOTMESH_TEST_SEED={chosen}")
    return chosen


# --- one session, any order, a clock of our own ---------------------------------------------------


@pytest.fixture(scope="module")
def lent(server: Server, template_plain: Any) -> Iterator[str]:
    with server.database(template_plain.template_dbname) as name:
        yield name


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), mischief=st.sampled_from([0, 0.05, 0.2, 0.4]))
def test_any_order_of_turns_settles_every_job_once(
    server: Server, lent: str, seed: int, mischief: float
) -> None:
    with ExitStack() as stack:
        owner, caller = (
            stack.enter_context(server.connect(lent, role)) for role in (OWNER, CALLER)
        )
        locker = stack.enter_context(psycopg.connect(server.conninfo(lent, OWNER)))
        owner.execute(
            "truncate my_app.jobs, my_app.jobs_attributes, my_app.streams, my_app.workers"
        )
        clock = Clock(owner)
        clock.freeze("2030-01-01")
        keys = start_jobs(caller, 6)
        witness = Witness()
        workers = [
            Worker(caller, f"w{number}", seed, mischief, witness=witness) for number in range(3)
        ]
        caller.execute("set statement_timeout = '5s'")  # a turn that waits is found
        rng = random.Random(seed)
        for round_number in range(3000):
            rng.choice(workers).step()
            clock.advance(rng.choice(["0", "1 ms", "50 ms", "200 ms", "16 seconds"]))
            if mischief and rng.random() < 0.1:
                locker.rollback()
                locker.execute(
                    "select from my_app.jobs where id %% 3 = %s and closed_at is null for update",
                    [rng.randrange(3)],
                )
            if round_number % 20 == 0:
                locker.rollback()
                revive(owner)
                if not unsettled(owner):
                    break
        locker.rollback()
        assert not unsettled(owner)
        check(owner, seed, keys, witness.cancelled)


# --- many sessions, real time ---------------------------------------------------------------------


class Town:
    """Workers in threads, someone who locks jobs, someone who kills sessions, and a watchman."""

    def __init__(self, server: Server, dbname: str, seed: int) -> None:
        self.server, self.dbname, self.seed = server, dbname, seed
        self.over = threading.Event()
        self.failures: list[BaseException] = []
        self.waits: list[tuple[Any, ...]] = []
        self.workers: dict[str, Worker] = {}
        self.connections: list[Connection] = []
        self.kills = 0

    def connect(self, name: str, role: str | None = CALLER) -> Connection:
        where = self.server.conninfo(self.dbname, role)
        connection = psycopg.connect(where, autocommit=True, application_name=name)
        self.connections.append(connection)
        return connection

    def work(self, name: str) -> None:
        worker = Worker(self.connect(name), name, self.seed, 0.05, lease=0.5)
        self.workers[name] = worker
        while not self.over.is_set():
            self.survive(worker, name)

    def survive(self, worker: Worker, name: str) -> None:
        """One step; a worker whose session was killed comes back and remembers nothing."""
        try:
            worker.step()
        except psycopg.OperationalError as error:
            if error.sqlstate not in (None, "57P01"):
                raise
            worker.hand.connection = self.connect(name)
            worker.runs.clear()
            worker.outbox.clear()

    def lock(self, name: str) -> None:
        """A user who locks jobs and messages for a while, in the one order."""
        rng = random.Random(f"{self.seed}/{name}")
        connection = self.connect(name, OWNER)
        while not self.over.is_set():
            with connection.transaction():
                connection.execute(
                    "select from my_app.jobs where id %% 7 = %s order by id for update skip locked",
                    [rng.randrange(7)],
                )
                connection.execute("select pg_sleep(%s)", [rng.random() * 0.05])

    def extend(self, name: str) -> None:
        connection = self.connect(name)
        while not self.over.wait(0.05):
            for worker in list(self.workers.values()):
                ids = [run.id for run in list(worker.runs.values()) if run.holding]
                connection.execute(
                    "select hotmesh.worker_extend('my-app', %s, %s, '500 ms')",
                    [worker.hand.name, ids],
                )

    def watch(self, name: str) -> None:
        """Notes who waits for a lock of a row for more than 50 ms; revives; kills a session."""
        admin = self.connect(name, None)
        rng = random.Random(f"{self.seed}/{name}")
        while not self.over.wait(0.01):
            self.waits += admin.execute(
                "select a.application_name, l.locktype, a.query from pg_locks l"
                " join pg_stat_activity a using (pid)"
                " where not l.granted and l.locktype in ('transactionid', 'tuple')"
                "   and l.waitstart < clock_timestamp() - interval '50 ms'"
            ).fetchall()
            if rng.random() < 0.02:
                revive(admin)
                self.kills += admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = %s",
                    [rng.choice(sorted(self.workers) or ["nobody"])],
                ).rowcount

    def guard(self, role: Any, name: str) -> None:
        try:
            role(name)
        except BaseException as error:
            self.failures.append(error)
            self.over.set()

    def live(self, owner: Connection, seconds: float) -> None:
        """Until every job has settled."""
        cast = [(self.work, f"worker-{number}") for number in range(4)]
        cast += [(self.lock, "locker"), (self.extend, "keeper"), (self.watch, "watchman")]
        threads = [threading.Thread(target=self.guard, args=part, name=part[1]) for part in cast]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while unsettled(owner) and time.monotonic() < until and not self.over.wait(0.05):
            pass
        self.over.set()
        for thread in threads:
            thread.join(20)
        for connection in self.connections:
            connection.close()


def test_workers_in_threads_that_misbehave_settle_every_job_once(
    server: Server, dbname: str, db: Connection, admin: Connection, seed: int
) -> None:
    keys = start_jobs(db, 300)
    before = deadlocks(admin)
    town = Town(server, dbname, seed)
    town.live(db, 40)
    assert town.failures == []
    assert town.waits == []
    assert deadlocks(admin) == before
    assert not unsettled(db)
    check(db, seed, keys)


def deadlocks(admin: Connection) -> int:
    admin.execute("select pg_stat_clear_snapshot()")
    row = admin.execute(
        "select deadlocks from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row
    return int(row[0])
