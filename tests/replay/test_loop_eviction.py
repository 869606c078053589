"""A loop that is closed forgets its tasks: finally blocks run, and nothing is left or said."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import warnings
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from support.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_is_unraisable")

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


def evict(runtime: Runtime, coro: Coroutine[Any, Any, Any]) -> list[str]:
    """Run `coro` until it waits, evict it, and return what was collected; nothing may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = runtime.run(coro)
        assert not task.done()
        runtime.loop.close()
        del task, coro
        gc.collect()
    return [f"{note['message']}: {note['exception']!r}" for note in runtime.loop.unhandled]


def test_eviction_runs_finally_blocks_in_their_own_context(runtime: Runtime) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[object] = []

    async def hold(name: str) -> None:
        variable.set(name)
        task = asyncio.current_task()
        try:
            await asyncio.get_running_loop().create_future()
        except Exception:
            pytest.fail("an eviction is no exception that workflow code handles")
        finally:
            seen.append((name, asyncio.current_task() is task, runtime.loop.closing))
            if sys.version_info >= (3, 11):
                assert variable.get() == name

    async def main() -> None:
        asyncio.create_task(hold("child"))  # noqa: RUF006
        await hold("main")

    assert evict(runtime, main()) == []
    assert seen == [("child", True, True), ("main", True, True)]
    assert runtime.loop.is_closed()


def test_eviction_withdraws_no_timer(runtime: Runtime) -> None:
    async def main() -> None:
        await asyncio.wait_for(asyncio.sleep(60), 10)

    assert evict(runtime, main()) == []
    assert (len(runtime.timers), runtime.cancelled) == (2, [])
    for timer in runtime.timers:
        timer.fire()


def test_eviction_meets_coroutines_that_never_started(runtime: Runtime) -> None:
    async def never() -> None:
        pytest.fail("started")

    async def deep() -> None:
        later, listed = never(), [never(), never()]
        await asyncio.get_running_loop().create_future()
        await asyncio.gather(later, *listed)

    async def main() -> None:
        await deep()

    assert evict(runtime, main()) == []


def test_eviction_meets_tasks_that_never_started(runtime: Runtime) -> None:
    async def never() -> None:
        pytest.fail("started")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.loop.run_main(never())
        runtime.loop.close()
        gc.collect()


def test_eviction_collects_what_goes_wrong(runtime: Runtime) -> None:
    async def awaits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)

    async def raises() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit("bye")

    async def starts() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            asyncio.create_task(raises())  # noqa: RUF006

    async def main() -> None:
        await asyncio.gather(awaits(), raises(), starts())

    start = "no task can start: this workflow is being evicted"
    assert evict(runtime, main()) == [
        f"a task raised while its workflow was evicted: {RuntimeError(start)!r}",
        f"a task raised while its workflow was evicted: {SystemExit('bye')!r}",
        "a task awaited while its workflow was evicted:"
        f" {RuntimeError('coroutine ignored GeneratorExit')!r}",
    ]


def test_eviction_insists(runtime: Runtime) -> None:
    ended: list[int] = []

    async def main() -> None:
        for number in range(5):
            try:
                await asyncio.get_running_loop().create_future()
            except GeneratorExit:  # noqa: PERF203
                ended.append(number)

    runtime.run(main())
    runtime.loop.close()
    assert (ended, len(runtime.loop.unhandled)) == ([0, 1, 2, 3, 4], 4)


@SINCE_3_11
def test_eviction_takes_task_groups_and_timeouts_as_they_are(runtime: Runtime) -> None:
    ended: list[str] = []

    async def hold(name: str) -> None:
        try:
            async with asyncio.timeout(10):
                await asyncio.sleep(60)
        finally:
            ended.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hold("first"))
            group.create_task(hold("second"))
            await hold("own")

    assert evict(runtime, main()) == []
    assert ended == ["second", "first", "own"]
    assert runtime.cancelled == []


def test_eviction_closes_async_generators(runtime: Runtime) -> None:
    ended: list[str] = []

    async def numbers(name: str, again: bool) -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            ended.append(name)
            if again:
                await asyncio.sleep(1)

    async def main() -> None:
        quiet, loud = numbers("quiet", False), numbers("loud", True)
        await quiet.__anext__()
        await loud.__anext__()
        async for _ in numbers("inner", False):
            await asyncio.get_running_loop().create_future()

    notes = evict(runtime, main())
    assert sorted(ended) == ["inner", "loud", "quiet"]
    assert [note.partition(":")[0] for note in notes] == [
        "an async generator awaited while its workflow was evicted"
    ]


def test_a_closed_loop_is_silent(runtime: Runtime) -> None:
    future = runtime.loop.create_future()

    async def main() -> None:
        await future

    runtime.run(main())
    runtime.loop.close()
    runtime.loop.close()
    future.set_result("too late")
    runtime.loop.call_soon(pytest.fail)
    runtime.loop.call_later(1, pytest.fail)
    assert runtime.delays == []
    with pytest.raises(RuntimeError, match="closed"):
        runtime.loop.drain()


def test_a_draining_loop_does_not_close(runtime: Runtime) -> None:
    async def main() -> None:
        runtime.loop.close()

    with pytest.raises(RuntimeError, match="while it is draining"):
        runtime.run(main()).result()
