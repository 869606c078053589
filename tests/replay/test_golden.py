"""Histories that were recorded once must replay for ever, in every version of driver and Python.

`histories/*.json` are journals as the engine ships them. A change that breaks one of them breaks
jobs that are open when it is deployed. New ones may be added; none may be changed.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hotmesh import workflow
from hotmesh._replay import Step
from hotmesh.errors import MaxedError
from support.offline import Life, told

HISTORIES = Path(__file__).with_name("histories")
acts = workflow.proxy_activities(task_queue="acts")


async def sequence(count: int) -> list[Any]:
    return [await acts.step(n) for n in range(count)]


async def fan_out(count: int) -> list[Any]:
    return list(await asyncio.gather(*(acts.step(n) for n in range(count))))


async def race() -> Any:
    tasks = [asyncio.create_task(acts.step(n)) for n in range(3)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [tasks.index(task) for task in done]


async def timeouts() -> Any:
    try:
        await asyncio.wait_for(acts.slow(), 30)
    except asyncio.TimeoutError:
        await workflow.sleep_for("1 hour")
    return await asyncio.wait_for(acts.step(1), 60)


async def failures() -> Any:
    try:
        await acts.fails()
    except MaxedError as error:
        return [str(error), error.type, type(error.__cause__).__name__]


async def chance() -> Any:
    picked = [workflow.random(), workflow.uuid4(), workflow.random()]
    await acts.step(picked)
    return [*picked, workflow.random(), workflow.now().isoformat()]


async def unawaited() -> Any:
    forgotten = [acts.step(n) for n in range(2)]
    last = await acts.step(9)
    return [last, len(forgotten)]


async def limited(count: int) -> list[Any]:
    """Two at a time, in turn; who is done frees a place."""
    places, order = asyncio.Semaphore(2), []

    async def one(n: int) -> None:
        async with places:
            order.append(await acts.step(n))

    await asyncio.gather(*(one(n) for n in range(count)))
    return order


async def pipeline(count: int) -> list[Any]:
    """A producer, two consumers, a queue between them, an event at the end."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=2)
    over, found = asyncio.Event(), []

    async def produce() -> None:
        for n in range(count):
            await queue.put(await acts.step(n))
        await queue.join()
        over.set()

    async def consume(who: int) -> None:
        while True:
            item = await queue.get()
            found.append([who, item, await acts.step(10 + who)])
            queue.task_done()

    tasks = [asyncio.create_task(consume(who)) for who in range(2)]
    producer = asyncio.create_task(produce())
    await over.wait()
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(producer, *tasks, return_exceptions=True)
    return [*found, [type(end).__name__ for end in ends]]


async def shielded() -> list[Any]:
    """What is shielded goes on when the one who waited for it has given up."""
    inner = asyncio.ensure_future(acts.slow())
    try:
        await asyncio.wait_for(asyncio.shield(inner), 0.05)
        said = "in time"
    except asyncio.TimeoutError:
        said = "late"
    async with asyncio.Lock():
        return [said, await inner]


async def signals() -> list[Any]:
    """Two waits for one name, one for another that never comes."""
    waits = [asyncio.create_task(workflow.wait_for(name)) for name in ("a", "b", "a")]
    await workflow.signal("a", 1)
    await workflow.signal("a", 2)
    done, pending = await asyncio.wait(waits, timeout=0.5)
    for task in pending:
        task.cancel()
    return [sorted(waits.index(task) for task in done), [t.result() for t in waits if t in done]]


FLOWS = {
    flow.__name__: flow
    for flow in (
        sequence, fan_out, race, timeouts, failures, chance, unawaited,
        limited, pipeline, shielded, signals,
    )
}  # fmt: skip
FILES = sorted(HISTORIES.glob("*.json"))


def load(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def replay(recorded: dict[str, Any], events: int | None = None) -> Life:
    steps = [Step._make(row) for row in recorded["history"]]
    if events is not None:
        steps = [
            s if (s.cursor or 0) <= events else s._replace(state="open", value=None, cursor=None)
            for s in steps
        ]
    return Life(FLOWS[recorded["workflow"]], recorded["args"], steps)


def test_every_workflow_has_a_recorded_history() -> None:
    assert {load(file)["workflow"] for file in FILES} == set(FLOWS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_history_replays_to_its_outcome(file: Path) -> None:
    recorded = load(file)
    life = replay(recorded)
    assert life.outcome == ("returned", recorded["returns"])
    assert told(life.asked) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_history_that_changed_does_not_replay(file: Path) -> None:
    """The control: a golden file is worth something only if it can fail."""
    recorded = load(file)
    for row in recorded["history"]:
        row[1], row[2] = "other", "other"
    assert replay(recorded).run.mismatch is not None


@pytest.mark.parametrize("flow", ["sequence", "fan_out", "failures"])
def test_a_recorded_history_goes_on_from_any_event(flow: str) -> None:
    """Workflows whose calls do not depend on what was asked for after an event."""
    recorded = next(load(file) for file in FILES if load(file)["workflow"] == flow)
    rows = [Step._make(row) for row in recorded["history"]]
    events = sorted((s for s in rows if s.cursor), key=lambda s: s.cursor or 0)
    for cut in range(len(events)):
        asked = 1 if flow == "failures" else len(rows) if flow == "fan_out" else cut + 1
        steps = [s._replace(state="open", value=None, cursor=None)
                 if (s.cursor or 0) > cut else s for s in rows][:asked]  # fmt: skip
        life = Life(FLOWS[flow], recorded["args"], steps)
        for step in events[cut:]:
            life.answer(step.sequence, value=step.value, failed=step.state == "failed")
        assert life.outcome == ("returned", recorded["returns"])
