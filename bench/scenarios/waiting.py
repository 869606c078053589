"""What happens beside the work: a session that holds a lock, a worker that has nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench import _work
from bench._count import Tape
from bench._world import QUEUE, World
from bench.scenarios.workflows import Row
from hotmesh import Client


def locked(world: World, name: str, *, jobs: int, concurrent: int, pairs: int) -> list[Row]:
    """One session idle in transaction with a lock on one job: the throughput of all others."""
    with world.app(name) as app:
        found = []
        for number in range(pairs + 1):
            rates = {}
            order = (False, True) if number % 2 else (True, False)
            for hold in order:
                rates[hold] = _throughput(world, app, jobs, concurrent, hold)
            found.append((rates[True], rates[False]))
    return [
        {
            "case": f"{jobs:,} × five, {concurrent} at a time, one other job locked",
            "per_s": median(held for held, _ in found[1:]),
            "unlocked_per_s": median(free for _, free in found[1:]),
            "of_unlocked": median(held / free for held, free in found[1:]),
            "worst_pair": min(held / free for held, free in found[1:]),
        }
    ]


def _throughput(world: World, app: str, jobs: int, concurrent: int, hold: bool) -> float:
    """Steps per second of all jobs but the first, which is locked in one of two cases."""
    ids = world.start(app, "five", [_work.PAYLOAD] * (jobs + 1))
    with _lock(world, app, ids[0], hold):
        run = _work.serve(world, app, jobs + (not hold), concurrent)
    if hold:
        _work.serve(world, app, 1, 1)  # what was locked goes on
    return jobs * 5 / run.seconds


@contextmanager
def _lock(world: World, app: str, id: int, hold: bool) -> Iterator[None]:
    if not hold:
        yield
        return
    with world.connect() as conn, conn.transaction():
        conn.execute(f"select from {app}.jobs where id = %s for update".encode(), [id])
        yield


def idle(world: World, name: str, *, seconds: float, starts: int) -> list[Row]:
    """A worker that has nothing to do: what it asks, how fast it wakes, how long one activity takes."""
    with world.app(name) as app:
        return [asyncio.run(_idle(world, app, seconds, starts))]


async def _idle(world: World, app: str, seconds: float, starts: int) -> Row:
    called: list[float] = []

    async def woken(value: object) -> None:
        called.append(time.perf_counter())

    tape = Tape(0, world.position)
    async with (
        await _work.create_worker(world.dsn, app, 100, [woken, _work.one]),
        Client(world.dsn, app) as client,
    ):
        await asyncio.sleep(min(seconds, 2.5))
        with tape.recording():
            await asyncio.sleep(seconds)
        await _activity(client)  # connects
        picked, after = [], []
        for _ in range(starts):
            began = time.perf_counter()
            handle = await client.workflow.start(workflow_name="woken", task_queue=QUEUE, args=[1])
            started = time.perf_counter()
            await handle.result()
            picked.append((called[-1] - began) * 1e3)
            after.append((called[-1] - started) * 1e3)
            await asyncio.sleep(0.1)
        whole = [await _activity(client) for _ in range(starts)]
    return {
        "case": f"{seconds:g} s without work, then {starts} starts 0.1 s apart",
        "round_trips_per_s": tape.outside.total() / seconds,
        "pick_up_p50_ms": median(picked),
        "pick_up_p99_ms": sorted(picked)[int(len(picked) * 0.99)],
        "of_that_after_start_returned_p50_ms": median(after),
        "one_activity_p50_ms": median(whole),
        "one_activity_p99_ms": sorted(whole)[int(len(whole) * 0.99)],
    }


async def _activity(client: Client) -> float:
    """Milliseconds from the call that starts a workflow of one activity to its result."""
    began = time.perf_counter()
    handle = await client.workflow.start(
        workflow_name="one", task_queue=QUEUE, args=[_work.PAYLOAD]
    )
    await handle.result()
    took = (time.perf_counter() - began) * 1e3
    await asyncio.sleep(0.1)
    return took
