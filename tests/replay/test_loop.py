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
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hotmesh import _loop
from hotmesh._context import unsafe
from hotmesh._loop import NeverYields, WorkflowLoop, WorkflowTask
from hotmesh.errors import ForbiddenInWorkflow

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


class Timer:
    """One durable timer of the test's runtime."""

    def __init__(self, runtime: Runtime, due: float, fire: Callable[[], None]) -> None:
        self.runtime = runtime
        self.due = due
        self.fire = fire

    def cancel(self) -> None:
        self.runtime.timers.remove(self)
        self.runtime.cancelled.append(self)


class Runtime:
    """The least runtime that a loop needs: a clock that the test moves, and a list of timers."""

    def __init__(self, seed: int = 0) -> None:
        self.clock = 1_000.0
        self.timers: list[Timer] = []
        self.cancelled: list[Timer] = []
        self.delays: list[float] = []
        self.loop = WorkflowLoop(self.on_timer, lambda: self.clock, seed=seed)

    def on_timer(self, delay: float, fire: Callable[[], None]) -> Timer:
        self.delays.append(delay)
        timer = Timer(self, self.clock + delay, fire)
        self.timers.append(timer)
        return timer

    def run(self, coro: Coroutine[Any, Any, Any]) -> WorkflowTask[Any]:
        task = self.loop.run_main(coro)
        self.loop.drain()
        return task

    def advance(self, seconds: float) -> None:
        """Move the clock and fire what is due, one timer and one drain at a time."""
        end = self.clock + seconds
        while due := sorted((t for t in self.timers if t.due <= end), key=lambda t: t.due):
            self.timers.remove(due[0])
            self.clock = due[0].due
            due[0].fire()
            self.loop.drain()
        self.clock = end


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.loop.close()


# --- the same programs on both loops -------------------------------------------------------------


class Stage:
    """What a program sees: futures by name, which the script resolves, and a trace."""

    def __init__(self) -> None:
        self.trace: list[Any] = []
        self.futures: dict[str, asyncio.Future[Any]] = {}

    def wait(self, name: str) -> asyncio.Future[Any]:
        self.futures[name] = future = asyncio.get_running_loop().create_future()
        return future

    async def step(self, name: str) -> str:
        """Wait for `name`, and trace the beginning and the end."""
        self.trace.append(f"{name} begins")
        try:
            return str(await self.wait(name))
        finally:
            self.trace.append(f"{name} ends")

    def act(self, line: str) -> None:
        """Resolve a future (``x``) or make it fail (``x!``), unless it is done."""
        future = self.futures[line.rstrip("!")]
        if not future.done():
            if line.endswith("!"):
                future.set_exception(ValueError(line))
            else:
                future.set_result(line)


Program = Callable[[Stage], Coroutine[Any, Any, Any]]
TICK = 0.05


def outcome(task: asyncio.Future[Any]) -> str:
    if not task.done():
        return "pending"
    if task.cancelled():
        return "cancelled"
    return repr(task.exception() or task.result())


def play_plain(program: Program, script: str) -> tuple[list[Any], str]:
    async def settle() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def play() -> tuple[list[Any], str]:
        stage = Stage()
        task = asyncio.create_task(program(stage))
        await settle()
        for line in script.split():
            if line == "tick":
                await asyncio.sleep(TICK)
            else:
                stage.act(line)
            await settle()
        return stage.trace, outcome(task)

    return asyncio.run(play())


def play_workflow(program: Program, script: str) -> tuple[list[Any], str]:
    stage, runtime = Stage(), Runtime()
    task = runtime.run(program(stage))
    for line in script.split():
        if line == "tick":
            runtime.advance(TICK)
        else:
            stage.act(line)
        runtime.loop.drain()
    seen = stage.trace.copy(), outcome(task)
    assert runtime.loop.unhandled == []
    runtime.loop.close()
    return seen


async def gather_in_order(stage: Stage) -> Any:
    return await asyncio.gather(*(stage.step(name) for name in "abc"))


async def gather_first_error(stage: Stage) -> Any:
    steps = [asyncio.create_task(stage.step(name)) for name in "abc"]
    try:
        await asyncio.gather(*steps)
    except ValueError as error:
        stage.trace.append(repr(error))
    return await asyncio.gather(*steps, return_exceptions=True)


async def first_completed(stage: Stage) -> Any:
    tasks = {asyncio.create_task(stage.step(name), name=name) for name in "abc"}
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stage.trace.append(sorted(task.get_name() for task in done))


async def wait_with_timeout(stage: Stage) -> Any:
    task = asyncio.create_task(stage.step("a"))
    done, pending = await asyncio.wait([task], timeout=0.01)
    stage.trace.append((len(done), len(pending)))
    return await task


async def wait_for_times_out(stage: Stage) -> Any:
    try:
        await asyncio.wait_for(stage.step("a"), 0.01)
    except asyncio.TimeoutError:
        stage.trace.append("timeout")
    return await asyncio.wait_for(stage.step("b"), 10)


async def shielded(stage: Stage) -> Any:
    inner = asyncio.create_task(stage.step("a"))
    try:
        await asyncio.wait_for(asyncio.shield(inner), 0.01)
    except asyncio.TimeoutError:
        stage.trace.append(f"still running: {not inner.done()}")
    return await inner


async def completed_in_turn(stage: Stage) -> Any:
    tasks = [asyncio.create_task(stage.step(name)) for name in "abc"]
    return [await first for first in asyncio.as_completed(tasks)]


async def cancels(stage: Stage) -> Any:
    task = asyncio.create_task(stage.step("a"))
    await stage.wait("go")
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError:
        stage.trace.append("cancelled")
    raise asyncio.CancelledError


async def refuses_cancel(stage: Stage) -> Any:
    async def stubborn() -> str:
        try:
            return await stage.step("a")
        except asyncio.CancelledError:
            return await stage.step("b")

    task = asyncio.create_task(stubborn())
    await stage.wait("go")
    task.cancel()
    return await task


async def queue(stage: Stage) -> Any:
    items: asyncio.Queue[str] = asyncio.Queue(maxsize=1)

    async def produce() -> None:
        for name in "abc":
            await items.put(await stage.step(name))
            stage.trace.append(f"put {name}")

    producer = asyncio.create_task(produce())
    got = [await items.get() for _ in range(3)]
    await producer
    return got


async def locks(stage: Stage) -> Any:
    lock, two, opened = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()

    async def enter(name: str) -> None:
        await opened.wait()
        async with two, lock:
            await stage.step(name)

    tasks = [asyncio.create_task(enter(name)) for name in "abc"]
    await stage.wait("go")
    opened.set()
    await asyncio.gather(*tasks)


async def condition(stage: Stage) -> Any:
    changed = asyncio.Condition()
    seen: list[str] = []

    async def watch(name: str) -> None:
        async with changed:
            await changed.wait_for(lambda: bool(seen))
            stage.trace.append(f"{name} saw {seen}")

    tasks = [asyncio.create_task(watch(name)) for name in "xy"]
    seen.append(await stage.step("a"))
    async with changed:
        changed.notify_all()
    await asyncio.gather(*tasks)


async def nested_tasks(stage: Stage) -> Any:
    async def tree(depth: int, name: str) -> str:
        if depth == 0:
            return await stage.step(name)
        halves = [asyncio.create_task(tree(depth - 1, name + side)) for side in "lr"]
        return "".join([await half for half in halves])

    return await tree(2, "")


async def current_task(stage: Stage) -> Any:
    async def who() -> str:
        task = asyncio.current_task()
        assert task is not None
        await stage.wait("a")
        return f"{task.get_name()} {asyncio.current_task() is task}"

    return await asyncio.create_task(who(), name="child")


async def contexts(stage: Stage) -> Any:
    variable = contextvars.ContextVar("variable", default="unset")

    async def change() -> str:
        variable.set("child")
        await stage.wait("a")
        return variable.get()

    variable.set("parent")
    return await asyncio.create_task(change()), variable.get()


async def sleeps(stage: Stage) -> Any:
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)
        stage.trace.append(seconds)

    await asyncio.gather(nap(0.02), nap(0.01), nap(0), nap(-1), nap(0.03))


async def yields(stage: Stage) -> Any:
    async def count(name: str) -> None:
        for number in range(3):
            stage.trace.append(f"{name}{number}")
            await asyncio.sleep(0)

    await asyncio.gather(count("x"), count("y"))


async def async_generators(stage: Stage) -> Any:
    async def numbers() -> AsyncGenerator[str, None]:
        try:
            for name in "abc":
                yield await stage.step(name)
        finally:
            await asyncio.sleep(0)
            stage.trace.append("generator closed")

    async for number in numbers():
        stage.trace.append(number)
        if number == "b":
            break
    return await stage.wait("go")


async def call_soon_order(stage: Stage) -> Any:
    loop = asyncio.get_running_loop()
    loop.call_soon(stage.trace.append, "soon")
    loop.call_later(0, stage.trace.append, "later 0")
    loop.call_soon(stage.trace.append, "dropped").cancel()
    loop.call_later(0.02, stage.trace.append, "second")
    loop.call_at(loop.time() + 0.01, stage.trace.append, "first")
    loop.call_later(0.01, stage.trace.append, "never").cancel()
    stage.trace.append("now")


async def task_group(stage: Stage) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stage.step(name)) for name in "abc"]
    return [task.result() for task in tasks]


async def task_group_error(stage: Stage) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(stage.step(name))
    except BaseException as error:
        stage.trace.append(repr(error))
    return await stage.step("after")


async def timeout_block(stage: Stage) -> Any:
    try:
        async with asyncio.timeout(0.01) as limit:
            await stage.step("a")
    except TimeoutError:
        stage.trace.append(f"expired {limit.expired()}")
    async with asyncio.timeout(10) as limit:
        await stage.step("b")
        limit.reschedule(asyncio.get_running_loop().time() + 0.01)
        await stage.step("c")


async def uncancels(stage: Stage) -> Any:
    async def inner() -> None:
        async with asyncio.timeout(0.01):
            await stage.step("a")

    task = asyncio.create_task(inner())
    await stage.wait("go")
    task.cancel()
    await asyncio.wait([task])
    return outcome(task), task.cancelling()


async def barrier(stage: Stage) -> Any:
    gate = asyncio.Barrier(2)

    async def arrive(name: str) -> None:
        await stage.step(name)
        await gate.wait()
        stage.trace.append(f"{name} through")

    await asyncio.gather(arrive("a"), arrive("b"))


PROGRAMS = [
    pytest.param(gather_in_order, "c a b", id="gather"),
    pytest.param(gather_first_error, "b! a c", id="gather-error"),
    pytest.param(first_completed, "b c a", id="first-completed"),
    pytest.param(wait_with_timeout, "tick a", id="wait-timeout"),
    pytest.param(wait_for_times_out, "tick b", id="wait-for"),
    pytest.param(shielded, "tick a", id="shield"),
    pytest.param(completed_in_turn, "c a b", id="as-completed"),
    pytest.param(cancels, "go a", id="cancel"),
    pytest.param(refuses_cancel, "go b", id="cancel-refused"),
    pytest.param(queue, "a b c", id="queue"),
    pytest.param(locks, "go a b c", id="lock-semaphore-event"),
    pytest.param(condition, "a", id="condition"),
    pytest.param(nested_tasks, "rl ll rr lr", id="nested"),
    pytest.param(current_task, "a", id="current-task"),
    pytest.param(contexts, "a", id="contextvars"),
    pytest.param(sleeps, "tick", id="sleep"),
    pytest.param(yields, "", id="sleep-0"),
    pytest.param(async_generators, "a b go", id="async-generator"),
    pytest.param(call_soon_order, "tick", id="call-soon"),
    pytest.param(task_group, "c a b", id="task-group", marks=SINCE_3_11),
    pytest.param(task_group_error, "b! after", id="task-group-error", marks=SINCE_3_11),
    pytest.param(timeout_block, "tick b tick", id="timeout", marks=SINCE_3_11),
    pytest.param(uncancels, "go", id="uncancel", marks=SINCE_3_11),
    pytest.param(barrier, "b a", id="barrier", marks=SINCE_3_11),
]


@pytest.mark.parametrize(("program", "script"), PROGRAMS)
def test_a_program_runs_as_under_plain_asyncio(program: Program, script: str) -> None:
    assert play_workflow(program, script) == play_plain(program, script)


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


# --- eviction ------------------------------------------------------------------------------------


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


@pytest.fixture(autouse=True)
def _nothing_is_unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caught: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: caught.append(event.exc_value))
    yield
    gc.collect()
    assert caught == []


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
