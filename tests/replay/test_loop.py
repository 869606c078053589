"""The loop of workflow code means what plain asyncio means, and repeats itself exactly."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hotmesh import _loop
from hotmesh._context import unsafe
from hotmesh._loop import NeverYields, WorkflowLoop
from hotmesh.errors import ForbiddenInWorkflow
from support.runtime import Runtime, Timer

pytestmark = pytest.mark.usefixtures("nothing_is_unraisable")

# --- one order -----------------------------------------------------------------------------------


FAN_OUT = textwrap.dedent(
    """
    import asyncio
    from hotmesh._loop import WorkflowLoop

    def once(seed):
        loop = WorkflowLoop(lambda delay, fire: None, lambda: 0.0, seed=seed)
        futures, order, keep = [], [], [object() for _ in range(seed * 7)]

        async def one(number):
            await futures[number]
            return number

        async def main():
            futures.extend(loop.create_future() for _ in range(6))
            tasks = {asyncio.create_task(one(number)) for number in range(6)}
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                order.append([task.result() for task in done])
                order.append([int(task.get_name()[5:]) for task in tasks])
                order.append([future.done() for future in set(futures)])

        main = loop.run_main(main())
        loop.drain()
        for numbers in ((4, 1), (0,), (5, 3, 2)):
            for number in numbers:
                futures[number].set_result(None)
            loop.drain()
        assert main.done() and main.exception() is None
        loop.close()
        return order

    print([once(seed) for seed in range(50)])
    """
)


def test_a_fan_out_comes_in_one_order_in_every_process() -> None:
    driver = Path(_loop.__file__).parent.parent

    def fresh(hash_seed: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", FAN_OUT],
            env={"PYTHONPATH": str(driver), "PYTHONHASHSEED": str(hash_seed)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert len({fresh(hash_seed) for hash_seed in range(6)}) == 1


def test_tasks_and_futures_hash_by_their_order_of_creation() -> None:
    async def nothing() -> None: ...

    def hashes(seed: int) -> list[int]:
        loop = Runtime(seed).loop
        made = [hash(loop.create_future()), hash(loop.run_main(nothing())), hash(loop)]
        loop.drain()
        loop.close()
        return made[:2]

    assert hashes(7) == hashes(7)
    assert len({*hashes(7), *hashes(8), *hashes(2**63)}) == 6


def test_tasks_are_named_by_their_number_in_the_run(runtime: Runtime) -> None:
    async def main() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
        await asyncio.gather(*tasks)
        return [task.get_name() for task in tasks]

    task = runtime.run(main())
    assert (task.get_name(), task.result()) == ("workflow", ["Task-2", "Task-3"])


def test_bare_coroutines_that_asyncio_puts_into_a_set_are_refused(runtime: Runtime) -> None:
    async def main() -> None:
        for first in asyncio.as_completed([asyncio.sleep(1)]):
            await first

    with pytest.raises(ForbiddenInWorkflow, match=r"as_completed starts bare .* give it tasks"):
        runtime.run(main()).result()


# --- time ----------------------------------------------------------------------------------------


def test_a_delay_is_a_durable_timer_and_no_delay_is_none(runtime: Runtime) -> None:
    async def main() -> float:
        for delay in (0, -5, 60, 0.25):
            await asyncio.sleep(delay)
        return asyncio.get_running_loop().time()

    task = runtime.run(main())
    runtime.advance(61)
    assert runtime.delays == [60, 0.25]
    assert task.result() == 1_060.25


def test_a_point_in_time_asks_for_the_delay_that_was_meant(runtime: Runtime) -> None:
    runtime.clock = 1_763_726_197.123457

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (5, 0.1, 3_600):
            loop.call_at(loop.time() + delay, print)

    runtime.run(main())
    assert runtime.delays == [5, 0.1, 3_600]


def test_cancelling_withdraws_the_timer_once(runtime: Runtime) -> None:
    handle = runtime.loop.call_later(5, pytest.fail)
    handle.cancel()
    handle.cancel()
    assert len(runtime.cancelled) == 1
    runtime.cancelled[0].fire()
    runtime.loop.drain()


def test_a_timer_fires_once_and_is_not_withdrawn_afterwards(runtime: Runtime) -> None:
    calls: list[str] = []
    handle = runtime.loop.call_later(5, calls.append, "fired")
    timer = runtime.timers[0]
    timer.fire()
    timer.fire()
    runtime.loop.drain()
    handle.cancel()
    assert (calls, runtime.cancelled) == (["fired"], [])


def test_a_timer_may_fire_while_it_is_made() -> None:
    def on_timer(delay: float, fire: Callable[[], None]) -> Timer:
        fire()
        return Timer(Runtime(), 0, fire)

    loop = WorkflowLoop(on_timer, lambda: 0.0)
    main = loop.run_main(asyncio.sleep(5, "slept"))
    loop.drain()
    assert main.result() == "slept"
    loop.close()


def test_forever_needs_no_timer_and_nan_is_no_delay(runtime: Runtime) -> None:
    runtime.loop.call_later(math.inf, pytest.fail).cancel()
    assert runtime.delays == []
    with pytest.raises(ValueError, match="NaN"):
        runtime.loop.call_later(math.nan, pytest.fail)


# --- what is refused -----------------------------------------------------------------------------


SUPPORTED = {
    "call_at",
    "call_exception_handler",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "close",
    "create_future",
    "create_task",
    "default_exception_handler",
    "get_debug",
    "get_exception_handler",
    "get_task_factory",
    "is_closed",
    "is_running",
    "time",
}
KNOWN = [name for name, _ in inspect.getmembers(asyncio.AbstractEventLoop) if name[0] != "_"]


@pytest.mark.parametrize("name", sorted(set(KNOWN) - SUPPORTED))
def test_what_a_replay_cannot_repeat_is_refused(runtime: Runtime, name: str) -> None:
    with pytest.raises(ForbiddenInWorkflow, match=f"loop.{name} .*(into an activity|the worker)"):
        getattr(runtime.loop, name)(None)


def blocking_calls() -> list[Any]:
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "to_thread": lambda: asyncio.to_thread(print),
        "open_connection": lambda: asyncio.open_connection("localhost", 1),
        "start_server": lambda: asyncio.start_server(print, "localhost", 1),
        "create_subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    }
    return [pytest.param(call, id=name) for name, call in calls.items()]


@pytest.mark.parametrize("call", blocking_calls())
def test_asyncio_calls_that_do_io_are_refused(
    runtime: Runtime, call: Callable[[], Awaitable[Any]]
) -> None:
    async def main() -> None:
        await call()

    with pytest.raises(ForbiddenInWorkflow, match="put it into an activity"):
        runtime.run(main()).result()


def test_another_thread_can_not_call_in(runtime: Runtime) -> None:
    refused: list[str] = []

    def meddle() -> None:
        try:
            runtime.loop.call_soon_threadsafe(print)
        except ForbiddenInWorkflow as error:
            refused.append(str(error))

    async def main() -> None:
        thread = threading.Thread(target=meddle)
        with unsafe():
            thread.start()
        thread.join()
        asyncio.get_running_loop().call_soon_threadsafe(refused.append, "own thread")

    runtime.run(main())
    assert refused == [
        "loop.call_soon_threadsafe from another thread is not possible in a workflow:"
        " put the thread into an activity",
        "own thread",
    ]


# --- drain ---------------------------------------------------------------------------------------


def test_drain_gives_the_outer_loop_and_task_their_place_back(runtime: Runtime) -> None:
    seen: list[object] = []

    async def inner() -> None:
        seen.append(asyncio.get_running_loop() is runtime.loop)
        seen.append(asyncio.current_task() is main)

    async def outer() -> None:
        loop, task, hooks = (
            asyncio.get_running_loop(),
            asyncio.current_task(),
            sys.get_asyncgen_hooks(),
        )
        runtime.loop.drain()
        seen.append(asyncio.get_running_loop() is loop)
        seen.append(asyncio.current_task() is task)
        seen.append(sys.get_asyncgen_hooks() == hooks)
        asyncio.get_running_loop().call_soon(runtime.loop.drain)
        await asyncio.sleep(0)
        seen.append(runtime.loop.is_running())

    main = runtime.loop.run_main(inner())
    asyncio.run(outer())
    assert seen == [True, True, True, True, True, False]


def test_no_outer_task_is_current_while_draining(runtime: Runtime) -> None:
    """Python 3.14 refuses to enter a task while any other of the thread is current."""
    seen: list[object] = []

    async def outer() -> None:
        loop = asyncio.get_running_loop()
        runtime.loop.call_soon(lambda: seen.append(asyncio.current_task(loop)))
        runtime.loop.drain()

    asyncio.run(outer())
    assert seen == [None]


def test_loops_drain_within_each_other(runtime: Runtime) -> None:
    other = Runtime()

    async def inner() -> str:
        return "inner"

    async def outer() -> object:
        task = other.run(inner())
        return task.result(), asyncio.get_running_loop() is runtime.loop

    assert runtime.run(outer()).result() == ("inner", True)
    other.loop.close()


def test_a_loop_does_not_drain_within_itself(runtime: Runtime) -> None:
    async def main() -> None:
        runtime.loop.call_soon(print)
        runtime.loop.drain()

    with pytest.raises(RuntimeError, match="running already"):
        runtime.run(main()).result()


def test_code_that_never_yields_is_stopped(runtime: Runtime) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    runtime.loop.run_main(spin())
    with pytest.raises(NeverYields, match="never yields to a durable call: 500 callbacks ran"):
        runtime.loop.drain(max_callbacks=500)
    assert asyncio._get_running_loop() is None


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
def test_an_exit_of_workflow_code_is_the_exception_of_its_task(
    runtime: Runtime, exit_: type[BaseException]
) -> None:
    async def child() -> None:
        raise exit_("bye")

    async def main() -> None:
        await asyncio.create_task(child())

    with pytest.raises(exit_, match="bye"):
        runtime.run(main()).result()
    assert [repr(note["exception"]) for note in runtime.loop.unhandled] == [repr(exit_("bye"))] * 2


def test_a_failing_callback_is_collected_and_stops_nobody(runtime: Runtime) -> None:
    calls: list[str] = []
    runtime.loop.call_soon(lambda: 1 // 0)
    runtime.loop.call_soon(calls.append, "next")
    runtime.loop.drain()
    assert calls == ["next"]
    assert isinstance(runtime.loop.unhandled[0]["exception"], ZeroDivisionError)


def test_a_context_given_to_the_main_task_is_its_context(runtime: Runtime) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    context = contextvars.Context()
    context.run(variable.set, "given")

    async def main() -> str:
        return variable.get()

    task = runtime.loop.run_main(main(), context)
    runtime.loop.drain()
    assert task.result() == "given"


def test_a_suspended_task_outlives_the_collector(runtime: Runtime) -> None:
    ended: list[str] = []

    async def alone() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    async def main() -> None:
        for _ in range(200):
            asyncio.create_task(alone())  # noqa: RUF006
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006

    runtime.run(main())
    gc.collect()
    assert ended == []
    runtime.loop.close()
    assert len(ended) == 200


def test_a_generator_that_the_collector_found_waits_for_the_eviction(runtime: Runtime) -> None:
    ended: list[str] = []

    async def numbers(me: list[Any]) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            ended.append("ended")

    async def main() -> None:
        cycle: list[Any] = []
        cycle.append(numbers(cycle))
        await cycle[0].__anext__()
        del cycle
        gc.collect()
        await asyncio.sleep(0)

    runtime.run(main())
    assert ended == []
    runtime.loop.close()
    assert ended == ["ended"]
