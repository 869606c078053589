"""The workflows that are measured, and a worker that runs them while everything is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench._count import Tape
from bench._world import QUEUE, Wal, World
from hotmesh import MemFlow, Worker

PAYLOAD = "x" * 98
"""As JSON it has 100 bytes."""

PATIENCE = 300.0


async def echo(value: object) -> object:
    """The activity of all scenarios."""
    return value


async def noop(value: object) -> object:
    """No activity."""
    return value


async def one(value: object) -> object:
    """One activity."""
    return await MemFlow.workflow.execute_activity(echo, value)


async def five(value: object) -> object:
    """Five activities, one after the other."""
    for _ in range(5):
        value = await MemFlow.workflow.execute_activity(echo, value)
    return value


async def sequence(steps: int) -> int:
    """Many activities, one after the other."""
    for _ in range(steps):
        await MemFlow.workflow.execute_activity(echo, PAYLOAD)
    return steps


async def fan(width: int) -> int:
    """Many activities at once."""
    calls = (MemFlow.workflow.execute_activity(echo, PAYLOAD) for _ in range(width))
    return len(await asyncio.gather(*calls))


WORKFLOWS = [noop, one, five, sequence, fan]


@dataclass(frozen=True)
class Run:
    """What one worker did from the first claim to the last settle."""

    seconds: float
    round_trips: int
    commits: float
    flushes: float
    wal: Wal
    inside: Counter[str]
    outside: Counter[str]


@dataclass(frozen=True)
class Overhead:
    """What a worker costs beside its statements: its connections, its notification, its sign-off."""

    commits: int = 0
    flushes: int = 0


async def create_worker(
    dsn: str, app: str, concurrent: int, workflows: Sequence[object] = tuple(WORKFLOWS)
) -> Worker:
    """A worker for everything here."""
    return await Worker.create(
        dsn,
        app,
        task_queue=QUEUE,
        workflows=list(workflows),
        activities=[echo],
        max_concurrent_workflows=concurrent,
    )


def overhead(world: World, app: str) -> Overhead:
    """Taken from a run of no-op jobs, whose turns all write; long enough for LISTEN to be proven."""
    jobs = 30
    world.start(app, "noop", [PAYLOAD] * jobs)
    run = serve(world, app, jobs, 1)
    return Overhead(int(run.commits) - run.round_trips, int(run.flushes) - run.round_trips)


def serve(world: World, app: str, expect: int, concurrent: int, less: Overhead = Overhead()) -> Run:
    """Let one worker run until `expect` jobs have ended."""
    return asyncio.run(_serve(world, app, expect, concurrent, less))


async def _serve(world: World, app: str, expect: int, concurrent: int, less: Overhead) -> Run:
    before = world.settled()
    tape = Tape(expect, world.position)
    with tape.recording():
        worker = await create_worker(world.dsn, app, concurrent)
        try:
            await asyncio.wait_for(tape.done.wait(), PATIENCE)
        finally:
            await worker.shutdown()
    after = world.settled()
    commits = after.commits - before.commits - less.commits - tape.outside.total()
    return Run(
        tape.seconds,
        tape.inside.total(),
        commits,
        after.flushes - before.flushes - less.flushes,
        world.wal(tape.begin, tape.end) if tape.end else Wal(0, 0, 0),
        tape.inside,
        tape.outside,
    )
