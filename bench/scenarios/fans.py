"""One workflow asks for many things at once, and what each of them costs; timers that are due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import psycopg

from bench import _work
from bench._world import QUEUE, World
from bench.scenarios.workflows import Row
from hotmesh import Client, MemFlow

workflow = MemFlow.workflow
NAP = 0.3
Connection = psycopg.Connection[Any]


async def leaf(value: int) -> int:
    """A child, or a hook, that has nothing to do."""
    return value


async def activities(width: int) -> None:
    """Activities."""
    await asyncio.gather(*[workflow.execute_activity(_work.echo, n) for n in range(width)])


async def children(width: int) -> None:
    """Children."""
    await asyncio.gather(*[workflow.exec_child(leaf, args=[n]) for n in range(width)])


async def hooks(width: int) -> None:
    """Hooks."""
    await asyncio.gather(*[workflow.exec_hook(leaf, args=[n]) for n in range(width)])


async def signals(width: int) -> None:
    """Signals to this job, each of its own name, sent once all waits are there."""
    await asyncio.gather(*[workflow.wait_for(f"s{n}") for n in range(width)])


async def kept_signals(width: int) -> None:
    """Signals of one name that are there already, taken one by one."""
    for _ in range(width):
        await workflow.wait_for("kept")


async def timers(width: int) -> None:
    """Timers that are due at the same time."""
    await asyncio.gather(*[workflow.sleep_for(NAP) for _ in range(width)])


KINDS: list[Callable[[int], Awaitable[None]]] = [
    activities, children, hooks, signals, kept_signals, timers,
]  # fmt: skip


def fans(world: World, name: str, *, widths: list[int], pairs: int) -> list[Row]:
    """Milliseconds per thing, by how many there are at once."""
    with world.app(name) as app:
        return asyncio.run(_fans(world, app, widths, pairs))


async def _fans(world: World, app: str, widths: list[int], pairs: int) -> list[Row]:
    rows: list[Row] = []
    with world.connect() as conn:
        async with (
            await _work.create_worker(world.dsn, app, 100, [*KINDS, leaf]),
            Client(world.dsn, app) as client,
        ):
            for kind in KINDS:
                name = getattr(kind, "__name__", "")
                found: dict[int, list[float]] = {width: [] for width in widths}
                for _ in range(pairs + 1):
                    for width in widths:
                        found[width].append(await _fan(client, conn, name, width) / width * 1e3)
                row: Row = {
                    f"ms_each_of_{width}": median(times[1:]) for width, times in found.items()
                }
                few, many = (found[width][1:] for width in (min(widths), max(widths)))
                row["many_over_few"] = median(many) / median(few)
                rows.append({"case": name.replace("_", " "), **row})
    return rows


async def _fan(client: Client, conn: Connection, kind: str, width: int) -> float:
    """Seconds from the start of one workflow to its result."""
    began = time.perf_counter()
    key = f"{kind}-{began}"
    app = client.app_id
    send = "select hotmesh.job_signal(%s, %s, {}, '1') from generate_series(0, %s - 1) n"
    handle = await client.workflow.start(
        workflow_name=kind, workflow_id=key, task_queue=QUEUE, args=[width],
    )  # fmt: skip
    if kind == "kept_signals":
        conn.execute(send.format("'kept'").encode(), [app, key, width])
    if kind == "signals":
        waits = f"select count(*) from {app}.signals where kind = 'wait'".encode()
        while (conn.execute(waits).fetchone() or [0])[0] < width:
            await asyncio.sleep(0.005)
        conn.execute(send.format("'s' || n").encode(), [app, key, width])
    await handle.result()
    return time.perf_counter() - began - (NAP if kind == "timers" else 0)


def timer(world: World, name: str, *, naps: int) -> list[Row]:
    """How late an idle worker's code goes on after a timer, from the moment it asked for it."""
    with world.app(name) as app:
        return [asyncio.run(_timer(world, app, naps))]


async def _timer(world: World, app: str, naps: int) -> Row:
    late: list[float] = []

    async def nap(number: int) -> None:
        seconds = NAP + number % 7 / 100
        began = time.perf_counter()
        await workflow.sleep_for(seconds)
        late.append((time.perf_counter() - began - seconds) * 1e3)

    async with (
        await _work.create_worker(world.dsn, app, 100, [nap]),
        Client(world.dsn, app) as client,
    ):
        await asyncio.sleep(1)
        for number in range(naps):
            handle = await client.workflow.start(
                workflow_name="nap", task_queue=QUEUE, args=[number]
            )
            await handle.result()
    return {
        "case": f"{naps} naps of {NAP:g} s, one after the other",
        "late_p50_ms": median(late),
        "late_p99_ms": sorted(late)[int(len(late) * 0.99)],
        "earliest_ms": min(late),
    }
