"""`patched`: old runs keep the old way, new ones take the new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import InvalidArgumentError
from support.flows import House, opened, wait_for
from support.offline import Life, new_run

acts = workflow.proxy_activities()


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


async def old() -> Any:
    first = await acts.check("x")
    await asyncio.sleep(5)
    return await acts.reserve(first)


async def new() -> Any:
    first = await acts.check("x")
    if workflow.patched("faster"):
        await acts.notify(first)
    else:
        await asyncio.sleep(5)
    return await acts.reserve(first)


async def newest() -> Any:
    first = await acts.check("x")
    workflow.deprecate_patch("faster")
    await acts.notify(first)
    return await acts.reserve(first)


def names(commands: list[Any]) -> list[tuple[str, str]]:
    return [(command.kind, command.name) for command in commands]


def test_a_run_of_the_old_code_goes_the_old_way() -> None:
    life = Life(old)
    life.answer(1, value=1)
    run = new_run(new)
    run.start([], life.history)
    assert run.mismatch is None
    assert names(run.commands) == []
    life.answer(2)
    run = new_run(new)
    run.start([], life.history)
    assert run.mismatch is None
    assert ("activity", "notify") not in names(run.commands)


def test_a_run_that_had_not_come_so_far_goes_the_new_way() -> None:
    run = new_run(new)
    run.start([], Life(old).history)
    run.complete(1, 1, 5.0)
    assert names(run.commands)[-2:] == [("patch", "faster"), ("activity", "notify")]


@pytest.mark.parametrize("function", [new, newest])
async def test_the_new_way_replays_from_the_journal(house: House, function: Any) -> None:
    """The patch is journalled: another worker that replays goes the same way."""
    gate = asyncio.Event()
    seen: list[str] = []

    async def check(item: str) -> str:
        return item

    async def notify(item: str) -> None:
        seen.append(item)
        await gate.wait()

    async def reserve(item: str) -> str:
        return f"{item} reserved"

    activities = [check, notify, reserve]
    first = await house.worker(new, activities=activities)
    handle = await house.start(new, key="p-1")
    await wait_for(lambda: bool(seen))
    await first.shutdown(grace=0)
    gate.set()
    served = {"new": function}
    second = await house.worker(activities=activities, workflows=served)
    assert await handle.result(timeout=20) == "x reserved"
    assert second.name != first.name
    steps = (await handle.export(allow=["timeline"]))["timeline"]
    kinds = [(step["kind"], step["name"], step["state"]) for step in steps]
    assert ("patch", "faster", "done") in kinds


def test_patched_outside_of_a_workflow_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"workflow\.patched"):
        workflow.patched("x")
    with pytest.raises(InvalidArgumentError, match="deprecate_patch"):
        workflow.deprecate_patch("x")
