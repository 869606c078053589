"""The same programs on the loop of workflow code and on asyncio's own do the same."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from support.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_is_unraisable")

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


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
