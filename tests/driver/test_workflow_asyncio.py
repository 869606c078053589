"""Workflows on real workers: asyncio as people know it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any

import pytest

from hotmesh import workflow
from support.flows import FAST, House, wait_for

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)


async def echo(value: Any) -> Any:
    return value


async def fail(text: str) -> None:
    raise ValueError(text)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def gathered() -> Any:
    return await asyncio.gather(*(acts.echo(n) for n in range(20)))


async def all_of() -> Any:
    return await workflow.all(acts.echo(1), acts.echo(2))


async def raced() -> Any:
    tasks = [asyncio.create_task(acts.for_ever()), asyncio.create_task(acts.echo("won"))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [len(pending), *(task.result() for task in done)]


async def timed_out() -> Any:
    try:
        return await asyncio.wait_for(acts.for_ever(), 0.05)
    except asyncio.TimeoutError:
        return "timed out"


async def in_time() -> Any:
    return await asyncio.wait_for(acts.echo("in time"), 3600)


async def slept() -> Any:
    before = workflow.now()
    await asyncio.sleep(0.05)
    return (workflow.now() - before).total_seconds() >= 0.05


async def tasks_in_tasks() -> Any:
    async def inner(n: int) -> Any:
        return await acts.echo(await acts.echo(n))

    async def outer(n: int) -> Any:
        return await asyncio.gather(*(asyncio.create_task(inner(n * 10 + k)) for k in range(3)))

    return await asyncio.gather(outer(1), outer(2))


async def shielded() -> Any:
    kept = acts.echo("kept")
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.1, "x")), 0.01)
    except asyncio.TimeoutError:
        return await kept


async def early_and_late() -> Any:
    early = acts.echo("early")
    late = await acts.echo("late")
    return [await early, late]


async def unawaited() -> Any:
    acts.echo("nobody")
    acts.fail("nobody")
    return await acts.echo("somebody")


async def synchronised() -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue(2)
    lock, semaphore, event = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
    order: list[int] = []

    async def produce(n: int) -> None:
        async with semaphore, lock:
            await queue.put(await acts.echo(n))

    async def consume() -> None:
        order.extend([await queue.get() for _ in range(4)])
        event.set()

    await asyncio.gather(consume(), *(produce(n) for n in range(4)))
    await event.wait()
    return order


FLOWS = {
    gathered: list(range(20)),
    all_of: [1, 2],
    raced: [1, "won"],
    timed_out: "timed out",
    in_time: "in time",
    slept: True,
    tasks_in_tasks: [[10, 11, 12], [20, 21, 22]],
    shielded: "kept",
    early_and_late: ["early", "late"],
    unawaited: "somebody",
    synchronised: [0, 1, 2, 3],
}


@pytest.mark.parametrize("flow", list(FLOWS), ids=lambda flow: flow.__name__)
async def test_asyncio_means_what_it_means(house: House, flow: Any) -> None:
    await house.activity_worker(echo, fail, for_ever)
    await house.worker(flow)
    assert await house.run(flow) == FLOWS[flow]


@SINCE_3_11
async def test_a_task_group_runs_and_cancels_its_tasks(house: House) -> None:
    async def grouped() -> Any:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            one, two = group.create_task(acts.echo(1)), group.create_task(acts.echo(2))
        try:
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
                group.create_task(acts.for_ever())
                group.create_task(acts.fail("no"))
        except BaseException as caught:
            return [one.result(), two.result(), len(caught.exceptions)]  # type: ignore[attr-defined]

    await house.activity_worker(echo, fail, for_ever)
    await house.worker(grouped)
    assert await house.run(grouped) == [1, 2, 1]


async def test_what_was_cancelled_frees_its_slot_and_leaves_no_message(house: House) -> None:
    async def hurried() -> Any:
        for _ in range(3):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(acts.for_ever(), 0.01)
        return await acts.echo("free")

    await house.activity_worker(echo, for_ever, max_concurrent_activities=1, lease=1)
    worker = await house.worker(hurried)
    assert await house.run(hurried, key="o-1") == "free"
    assert house.one("select count(*) from my_app.streams") == 0
    for each in house.workers:
        await wait_for(lambda each=each: each._pump.quiet, what=f"{each.name} to be quiet")  # type: ignore[misc]
    assert worker._pump.held_ids() == []


async def test_an_activity_that_ran_over_a_second_and_is_cancelled_is_forgotten(
    house: House,
) -> None:
    async def impatient() -> Any:
        try:
            await asyncio.wait_for(acts.for_ever(), 1.5)
        except asyncio.TimeoutError:
            return "late"

    worker = await house.worker(impatient, activities=None)
    await house.activity_worker(for_ever)
    assert await house.run(impatient) == "late"
    await wait_for(lambda: worker._pump.quiet, what="the worker to be quiet")
    assert worker._pump.held_ids() == []


async def test_a_workflow_that_returns_leaves_its_unawaited_long_activity_behind(
    house: House,
) -> None:
    async def careless() -> Any:
        acts.for_ever()
        await asyncio.sleep(1.3)
        return "gone"

    worker = await house.worker(careless)
    await house.activity_worker(for_ever)
    assert await house.run(careless) == "gone"
    await wait_for(lambda: worker._pump.quiet, what="the worker to be quiet")
    began = time.monotonic()
    await worker.shutdown()
    assert time.monotonic() - began < 5
