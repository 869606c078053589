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


FLOWS = {
    flow.__name__: flow for flow in (sequence, fan_out, race, timeouts, failures, chance, unawaited)
}
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
