"""An operation is awaited, gathered, shielded and cancelled like a task that runs already."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from hotmesh._loop import WorkflowLoop, WorkflowTask
from hotmesh._operation import Operation

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


class Timer:
    def cancel(self) -> None: ...


class Runtime:
    """Make operations, resolve them, and note which were cancelled."""

    def __init__(self) -> None:
        self.fires: list[Callable[[], None]] = []
        self.cancelled: list[int] = []
        self.operations: dict[int, Operation[Any]] = {}
        self.loop = WorkflowLoop(self._on_timer, lambda: 0.0)

    def _on_timer(self, delay: float, fire: Callable[[], None]) -> Timer:
        self.fires.append(fire)
        return Timer()

    def call(self) -> Operation[Any]:
        sequence = len(self.operations) + 1
        operation: Operation[Any] = Operation(
            self.loop,
            sequence,
            "activity",
            "charge",
            lambda operation: self.cancelled.append(operation.sequence),
        )
        self.operations[sequence] = operation
        return operation

    def run(self, coro: Coroutine[Any, Any, Any]) -> WorkflowTask[Any]:
        task = self.loop.run_main(coro)
        self.loop.drain()
        return task

    def resolve(self, *sequences: int) -> None:
        for sequence in sequences:
            self.operations[sequence].resolve(f"result {sequence}")
            self.loop.drain()

    def tick(self) -> None:
        for fire in self.fires:
            fire()
        self.loop.drain()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.loop.close()
        runtime.operations.clear()
        gc.collect()
    assert runtime.loop.unhandled == []


# --- ways to wait --------------------------------------------------------------------------------

Way = Callable[[Runtime], Coroutine[Any, Any, Any]]


async def await_it(runtime: Runtime) -> Any:
    return await runtime.call()


async def await_twice(runtime: Runtime) -> Any:
    operation = runtime.call()
    first = await operation
    assert await operation == first
    return first


async def create_task(runtime: Runtime) -> Any:
    return await asyncio.create_task(runtime.call(), name="charge")


async def several_tasks(runtime: Runtime) -> Any:
    operation = runtime.call()

    async def one() -> Any:
        return await operation

    tasks = [asyncio.create_task(c) for c in (operation, one(), operation, one())]
    results = {*await asyncio.gather(*tasks), await operation}
    return results.pop() if len(results) == 1 else results


async def task_group(runtime: Runtime) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.call())
    return task.result()


async def gather(runtime: Runtime) -> Any:
    operation = runtime.call()
    first, second = await asyncio.gather(operation, operation)
    return first if first == second else None


async def wait(runtime: Runtime) -> Any:
    (done,), pending = await asyncio.wait([asyncio.create_task(runtime.call())])
    return None if pending else done.result()


async def wait_bare(runtime: Runtime) -> Any:
    (done,), pending = await asyncio.wait([asyncio.ensure_future(runtime.call())])
    return None if pending else done.result()


async def wait_for(runtime: Runtime) -> Any:
    return await asyncio.wait_for(runtime.call(), 10)


async def timeout(runtime: Runtime) -> Any:
    async with asyncio.timeout(10):
        return await runtime.call()


async def shield(runtime: Runtime) -> Any:
    return await asyncio.shield(runtime.call())


async def ensure_future(runtime: Runtime) -> Any:
    return await asyncio.ensure_future(runtime.call())


async def as_completed(runtime: Runtime) -> Any:
    (first,) = asyncio.as_completed([runtime.call()])
    return await first


async def yield_from(runtime: Runtime) -> Any:
    class Wrapped:
        def __await__(self) -> Any:
            return (yield from runtime.call())

    return await Wrapped()


WAYS = [
    await_it,
    await_twice,
    create_task,
    several_tasks,
    gather,
    wait,
    wait_bare,
    wait_for,
    shield,
    ensure_future,
    as_completed,
    yield_from,
    pytest.param(task_group, marks=SINCE_3_11),
    pytest.param(timeout, marks=SINCE_3_11),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_wait_gets_the_result(runtime: Runtime, way: Way) -> None:
    task = runtime.run(way(runtime))
    assert not task.done()
    runtime.resolve(1)
    assert (task.result(), runtime.cancelled) == ("result 1", [])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_wait_gets_the_failure(runtime: Runtime, way: Way) -> None:
    task = runtime.run(way(runtime))
    failure = ValueError("declined")
    runtime.operations[1].fail(failure)
    runtime.loop.drain()
    error = task.exception()
    assert failure in (error, *getattr(error, "exceptions", ()))


WATCHERS = [wait_bare, shield, wait, as_completed]


@pytest.mark.parametrize("way", [way for way in WAYS if way not in WATCHERS])
def test_cancelling_whoever_waits_cancels_the_call_once(runtime: Runtime, way: Way) -> None:
    task = runtime.run(way(runtime))
    task.cancel()
    runtime.loop.drain()
    assert (task.cancelled(), runtime.cancelled) == (True, [1])


@pytest.mark.parametrize("way", WATCHERS)
def test_cancelling_whoever_only_watches_lets_the_call_go_on(runtime: Runtime, way: Way) -> None:
    task = runtime.run(way(runtime))
    task.cancel()
    runtime.loop.drain()
    assert (task.cancelled(), runtime.cancelled) == (True, [])
    assert not runtime.operations[1].done()


def test_a_result_that_is_there_is_returned_without_a_turn_of_the_loop(runtime: Runtime) -> None:
    async def main() -> list[object]:
        ticks: list[object] = []
        asyncio.get_running_loop().call_soon(ticks.append, "tick")
        operation = runtime.call()
        operation.resolve((1, 2))
        return [await operation, *ticks]

    assert runtime.run(main()).result() == [(1, 2)]


def test_results_arrive_in_the_order_in_which_they_are_resolved(runtime: Runtime) -> None:
    order: list[str] = []

    async def one() -> None:
        order.append(await runtime.call())

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    runtime.run(main())
    runtime.resolve(3, 1, 4, 2)
    assert order == ["result 3", "result 1", "result 4", "result 2"]


def test_bare_operations_complete_in_their_own_order(runtime: Runtime) -> None:
    async def main() -> list[str]:
        calls = [runtime.call() for _ in range(3)]
        return [await first for first in asyncio.as_completed(calls)]

    task = runtime.run(main())
    runtime.resolve(2, 3, 1)
    assert task.result() == ["result 2", "result 3", "result 1"]


# --- cancelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 5])
def test_a_timeout_cancels_the_call(runtime: Runtime, limit: float) -> None:
    async def main() -> str:
        try:
            await asyncio.wait_for(runtime.call(), limit)
        except asyncio.TimeoutError:
            return "timeout"
        return "result"

    task = runtime.run(main())
    runtime.tick()
    assert (task.result(), runtime.cancelled) == ("timeout", [1])


def test_a_task_cancelled_before_its_first_step_cancels_the_call(runtime: Runtime) -> None:
    async def main() -> None:
        task = asyncio.create_task(runtime.call())
        task.cancel("enough")
        await task

    assert runtime.run(main()).cancelled()
    assert runtime.cancelled == [1]


def test_cancel_answers_whether_there_was_something_to_cancel(runtime: Runtime) -> None:
    operation = runtime.call()
    assert (operation.cancel("enough"), operation.cancel()) == (True, False)
    assert (operation.cancelled(), operation.done(), runtime.cancelled) == (True, True, [1])
    with pytest.raises(asyncio.CancelledError, match="enough"):
        operation.result()


def test_what_is_resolved_after_a_cancel_is_ignored(runtime: Runtime) -> None:
    operation = runtime.call()
    operation.cancel()
    assert not operation.resolve("late")
    assert not operation.fail(ValueError("late"))
    assert operation.cancelled()


def test_a_done_call_can_not_be_cancelled(runtime: Runtime) -> None:
    operation = runtime.call()
    assert operation.resolve(1)
    assert not operation.resolve(2)
    assert not operation.cancel()
    assert (operation.result(), runtime.cancelled) == (1, [])


def test_nothing_is_cancelled_by_an_eviction(runtime: Runtime) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(runtime.call()) for _ in range(2)]
        try:
            await asyncio.gather(*tasks, runtime.call())
        finally:
            for task in tasks:
                task.cancel()
            runtime.operations[3].cancel()

    runtime.run(main())
    runtime.loop.close()
    assert runtime.cancelled == []


# --- what it is ----------------------------------------------------------------------------------


def test_it_is_a_future_with_a_name(runtime: Runtime) -> None:
    operation = runtime.call()
    assert asyncio.isfuture(operation)
    assert isinstance(operation.as_coroutine(), collections.abc.Coroutine)
    assert (operation.sequence, operation.kind, operation.name) == (1, "activity", "charge")
    assert repr(operation) == "<Operation 1 activity charge pending>"


def test_callbacks_are_called(runtime: Runtime) -> None:
    operation, seen = runtime.call(), list[Any]()
    operation.add_done_callback(seen.append)
    runtime.resolve(1)
    assert seen == [operation]
    assert operation.exception() is None


@pytest.mark.parametrize("end", [None, "resolve", "fail", "cancel"])
def test_nobody_has_to_await_it(runtime: Runtime, end: str | None) -> None:
    async def main() -> None:
        runtime.call()

    assert runtime.run(main()).done()
    operation = runtime.operations.pop(1)
    if end == "resolve":
        operation.resolve(None)
    elif end == "fail":
        operation.fail(ValueError("nobody looks"))
    elif end == "cancel":
        operation.cancel()
    runtime.loop.drain()


def test_an_operation_is_freed_by_counting(runtime: Runtime) -> None:
    freed: list[int] = []

    class Watched(Operation[Any]):
        def __del__(self) -> None:
            freed.append(self.sequence)

    async def main() -> None:
        operation: Operation[Any] = Watched(runtime.loop, 1, "activity", "charge", print)
        operation.resolve(None)
        await operation

    gc.disable()
    try:
        runtime.run(main())
    finally:
        gc.enable()
    assert freed == [1]


def test_a_stop_iteration_arrives_as_the_cause_of_a_runtime_error(runtime: Runtime) -> None:
    task = runtime.run(await_it(runtime))
    runtime.operations[1].fail(StopIteration(1))
    runtime.loop.drain()
    error = task.exception()
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


def test_by_hand_its_coroutine_is_sent_to(runtime: Runtime) -> None:
    operation = runtime.call()
    coroutine = operation.as_coroutine()
    assert coroutine.send(None) is operation
    assert coroutine.send(None) is operation
    coroutine.close()
    assert not operation.done()
    operation.resolve("done")
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert stop.value.value == "done"


@pytest.mark.parametrize(
    "thrown",
    [
        pytest.param((ValueError("thrown"),), id="instance"),
        pytest.param((ValueError, "thrown"), id="class-and-value"),
        pytest.param((ValueError, ValueError("thrown"), None), id="triple"),
    ],
)
def test_by_hand_its_coroutine_raises_what_is_thrown(
    runtime: Runtime, thrown: tuple[Any, ...]
) -> None:
    operation = runtime.call()
    coroutine = operation.as_coroutine()
    with pytest.raises(ValueError, match="thrown"):
        coroutine.throw(*thrown)
    with pytest.raises(KeyError):
        coroutine.throw(KeyError)
    assert not operation.done()
