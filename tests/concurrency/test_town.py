"""Eight workers, and jobs that have children, hooks and signals; somebody cancels, kills and locks.

What was sent is counted: each signal has met one wait, or is kept. HOTMESH_STRESS_SEED chooses
another run, HOTMESH_STRESS_JOBS makes it longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from hotmesh import workflow
from hotmesh.errors import HotMeshError, TimedOutError
from support.engine import Server
from support.flows import House
from support.watchman import Watchman, deadlocks, percentile

SEED = int(os.environ.get("HOTMESH_STRESS_SEED", "7"))
JOBS = int(os.environ.get("HOTMESH_STRESS_JOBS", "60"))
NAMES = 5
WORKERS = 8
Connection = psycopg.Connection[Any]


# --- what the jobs do -----------------------------------------------------------------------------


async def echo(value: int) -> int:
    return value


async def leaf(n: int) -> int:
    if n % 3 == 0:
        await workflow.sleep_for(0.001 * (n % 40))
    if n % 5 == 0:
        with contextlib.suppress(TimedOutError):
            await workflow.wait_for(f"town-{n % NAMES}", timeout=0.05)
    return int(await workflow.execute_activity(echo, n))


async def helper(n: int) -> int:
    if n % 4 == 0:
        await workflow.signal(f"town-{n % NAMES}", f"helper-{n}")
    return int(await workflow.execute_activity(echo, n))


async def hooked() -> None:
    """Started from outside; waits for a signal that may never come."""
    with contextlib.suppress(TimedOutError):
        await workflow.wait_for("mine", timeout=0.1)


async def member(n: int, generation: int = 0) -> int:
    """A bit of everything, in an order of its own."""
    dice = random.Random(f"{n}/{generation}")
    todo = ["wait", "race", "children", "hook", "activity", "own", "sleep"]
    for what in dice.sample(todo, dice.randint(2, 5)):
        if what == "wait":
            with contextlib.suppress(TimedOutError):
                await workflow.wait_for(f"town-{dice.randrange(NAMES)}", timeout=dice.random() / 2)
        elif what == "race":
            waits = [
                asyncio.create_task(
                    workflow.wait_for(f"town-{dice.randrange(NAMES)}", timeout=dice.random() / 10)
                )
                for _ in range(3)
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        elif what == "children":
            policy = dice.choice(["terminate", "cancel", "abandon"])
            await asyncio.gather(
                *[
                    workflow.exec_child(leaf, args=[n * 10 + i], parent_close_policy=policy)
                    for i in range(3)
                ]
            )
        elif what == "hook":
            await asyncio.gather(
                *[
                    workflow.exec_hook(helper, args=[n * 10 + i + 10000 * generation])
                    for i in range(2)
                ]
            )
        elif what == "activity":
            await asyncio.gather(*[workflow.execute_activity(echo, i) for i in range(4)])
        elif what == "own":
            with contextlib.suppress(TimedOutError):
                await workflow.wait_for("mine", timeout=dice.random() / 3)
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.sleep(dice.random() / 20), dice.random() / 20)
    if generation < n % 3:
        await workflow.continue_as_new(n, generation + 1)
    return n


# --- what is done to them -------------------------------------------------------------------------


class Town:
    """Workers that die, a crowd of senders, somebody who locks rows, and a watchman."""

    def __init__(self, house: House, dbname: str) -> None:
        self.house, self.dbname = house, dbname
        self.dice = random.Random(SEED)
        self.keys: list[str] = []
        self.sent: list[int] = []
        self.over = threading.Event()

    async def employ(self) -> None:
        await self.house.worker(
            member, leaf, helper, hooked, activities=[echo], lease=1.0, max_concurrent_workflows=20
        )

    async def open(self) -> None:
        for n in range(JOBS):
            self.keys.append(f"member-{n}")
            await self.house.start(member, n, key=self.keys[-1])
            await asyncio.sleep(0.005)

    async def shout(self) -> None:
        """Signals by name: early, late, in bursts, some rolled back; and to single jobs."""
        client = self.house.client
        for n in range(JOBS * 4):
            name = f"town-{self.dice.randrange(NAMES)}"
            if self.dice.random() < 0.1:
                with psycopg.connect(self.house.dsn) as undone:
                    undone.execute("select hotmesh.signal_send('my-app', %s, '-1')", [name])
                    undone.rollback()
            self.sent.append(n)
            await client.workflow.signal(name, n)
            with contextlib.suppress(HotMeshError):
                await client.workflow.get_handle(workflow_id=self.someone()).signal("mine", -n)
            if self.dice.random() < 0.5:
                await asyncio.sleep(self.dice.random() / 50)

    def someone(self) -> str:
        return self.dice.choice(self.keys or ["nobody"])

    async def order(self) -> None:
        """Hooks, cancels and interrupts of whoever happens to be there."""
        for _ in range(JOBS // 3):
            handle = self.house.client.workflow.get_handle(workflow_id=self.someone())
            with contextlib.suppress(HotMeshError):
                await self.house.client.workflow.hook(
                    workflow_id=self.someone(), workflow_name="hooked", task_queue="orders"
                )
                if self.dice.random() < 0.3:
                    await handle.cancel()
                elif self.dice.random() < 0.3:
                    await handle.interrupt(descend=self.dice.random() < 0.5)
            await asyncio.sleep(self.dice.random() / 20)

    async def kill(self) -> None:
        """Workers that go without a word, and connections that break."""
        while not self.over.is_set():
            await asyncio.sleep(0.4)
            if self.dice.random() < 0.5:
                self.house.db.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where query like '%%hotmesh.turn(%%' and datname = %s and pid <> pg_backend_pid()"
                    " order by random() limit 1",
                    [self.dbname],
                )
            else:
                worker = self.house.workers.pop(self.dice.randrange(len(self.house.workers)))
                await self.employ()
                await worker.shutdown(grace=0)

    def lock(self) -> None:
        """A user who locks jobs, messages and halves for a moment, in the one order."""
        dice = random.Random(SEED)
        with psycopg.connect(self.house.dsn) as connection:
            while not self.over.is_set():
                for table in ("jobs", "streams", "signals"):
                    connection.execute(
                        f"select from my_app.{table} where id %% 5 = %s"
                        " order by id for update skip locked".encode(),
                        [dice.randrange(5)],
                    )
                time.sleep(dice.random() / 50)
                connection.rollback()

    async def live(self) -> None:
        user = threading.Thread(target=self.lock)
        user.start()
        killing = asyncio.create_task(self.kill())
        try:
            for _ in range(WORKERS):
                await self.employ()
            await asyncio.gather(self.open(), self.shout(), self.order())
        finally:
            self.over.set()
            await killing
            user.join()
        await self.end()

    async def end(self) -> None:
        """Every job ends: nothing waits without a timeout."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            self.house.db.execute(
                "select hotmesh.stream_revive('my-app', id) from hotmesh.stuck_jobs"
                " where reason = 'parked'"
            )
            if not self.open_jobs():
                return
            await asyncio.sleep(0.05)

    def open_jobs(self) -> list[Any]:
        return self.house.db.execute(
            "select j.key, j.status, s.kind, s.name, s.state, s.attempt, s.dimension"
            " from my_app.jobs j left join my_app.streams s on s.job_id = j.id"
            " where j.closed_at is null order by j.id"
        ).fetchall()


@pytest.mark.slow
async def test_a_town_loses_no_signal_and_leaves_nothing_behind(
    house: House, server: Server, dbname: str, admin: Connection
) -> None:
    town = Town(house, dbname)
    with server.connect(dbname) as connection, Watchman(connection) as watchman:
        await town.live()
    assert town.open_jobs() == []
    while house.workers:
        await house.workers.pop().shutdown()
    db = house.db
    met = db.execute(
        "select value from my_app.jobs_attributes_all"
        " where kind = 'wait' and state = 'done' and name like 'town-%'"
    ).fetchall()
    kept = db.execute(
        "select answer -> 'output' from my_app.signals where kind = 'signal'"
    ).fetchall()
    found = Counter(row[0] for row in met + kept)
    assert {n: found[n] for n in town.sent if found[n] != 1} == {}
    assert [n for n, count in found.items() if count > 1] == []
    assert found[-1] == 0
    assert db.execute("select * from my_app.signals where kind = 'wait'").fetchall() == []
    assert db.execute("select kind, name, state, job_id from my_app.streams").fetchall() == []
    statuses = [row[0] for row in db.execute("select status from my_app.jobs")]
    assert [status for status in statuses if status != 0 and status > -900_000_000] == []
    assert deadlocks(admin)[0] == 0
    assert percentile(watchman.seconds(), 1) < 1
