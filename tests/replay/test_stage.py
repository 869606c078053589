"""Many runs of workflow code on one stage: each loop keeps what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from hotmesh._loop import WorkflowLoop
from hotmesh._stage import Stage


def _loop(seed: int) -> WorkflowLoop:
    def no_timer(delay: float, fire: Any) -> Any:
        raise AssertionError("nobody sleeps here")

    return WorkflowLoop(no_timer, lambda: 0.0, seed=seed)


async def _numbers(closed: list[object]) -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        closed.append(asyncio.get_running_loop())


async def _leave_in_the_midst(closed: list[object]) -> None:
    async for _ in _numbers(closed):
        break


async def test_a_generator_that_is_dropped_is_closed_by_the_loop_that_began_it() -> None:
    closed: list[object] = []
    first, second = _loop(1), _loop(2)
    with Stage():
        for loop in (first, second, first):
            loop.create_task(_leave_in_the_midst(closed))
            loop.drain()
    assert closed == [first, second, first]


async def test_a_generator_that_outlives_its_drain_is_closed_at_the_eviction() -> None:
    closed: list[object] = []
    kept: list[Any] = []
    first, second = _loop(1), _loop(2)

    async def keep() -> None:
        kept.append(_numbers(closed))
        assert await anext(kept[0]) == 1

    with Stage():
        first.create_task(keep())
        first.drain()
        second.create_task(_leave_in_the_midst(closed))
        second.drain()
        kept.clear()
        assert closed == [second]
        first.close()
    assert closed == [second, first]


async def test_the_loop_around_keeps_its_generators_its_task_and_its_place() -> None:
    closed: list[object] = []
    outer, task = asyncio.get_running_loop(), asyncio.current_task()
    loop = _loop(1)
    with Stage():
        agen = _numbers(closed)
        with pytest.raises(StopIteration):
            agen.asend(None).send(None)
        loop.create_task(_leave_in_the_midst(closed))
        loop.drain()
        assert asyncio.get_running_loop() is outer
        del agen
    assert asyncio.current_task() is task
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert closed == [loop, outer]


async def test_a_loop_may_drain_within_the_drain_of_another() -> None:
    seen: list[object] = []
    inner, around = _loop(1), _loop(2)

    async def look() -> None:
        seen.append(asyncio.get_running_loop())

    async def drain_another() -> None:
        inner.create_task(look())
        inner.drain()
        seen.append(asyncio.get_running_loop())
        seen.append(asyncio.current_task())

    with Stage():
        task = around.create_task(drain_another())
        around.drain()
    assert seen == [inner, around, task]
