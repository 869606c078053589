"""asyncio in workflow code: what is legal in a plain loop does the same here, or says why not.

Each program runs twice: over activities of a workflow, whose answers come in an order that the test
chooses, and replayed from its journal. What it returns is what plain asyncio returns.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hotmesh import workflow
from support.offline import Life

acts = workflow.proxy_activities(task_queue="acts")
later = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
Program = Callable[[Callable[[Any], Any]], Coroutine[Any, Any, Any]]


async def waits_for_all(step: Any) -> Any:
    tasks = [asyncio.create_task(step(n)) for n in range(3)]
    done, pending = await asyncio.wait(tasks)
    return [sorted(t.result() for t in done), len(pending)]


async def waits_for_the_first_exception(step: Any) -> Any:
    async def fails() -> None:
        await step(0)
        raise ValueError("no")

    tasks = [asyncio.create_task(fails()), asyncio.create_task(step(1))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    return [repr(t.exception()) for t in done if t.exception()]


async def takes_tasks_as_they_complete(step: Any) -> Any:
    tasks = [asyncio.create_task(step(n)) for n in range(3)]
    return [await next for next in asyncio.as_completed(tasks)]


async def gathers_failures(step: Any) -> Any:
    async def fails(n: int) -> None:
        await step(n)
        raise KeyError(n)

    found = await asyncio.gather(fails(0), step(1), fails(2), return_exceptions=True)
    return [repr(each) for each in found]


async def notifies_by_a_condition(step: Any) -> Any:
    condition, items, taken = asyncio.Condition(), [], []

    async def take() -> None:
        async with condition:
            await condition.wait_for(lambda: items)
            taken.append(items.pop(0))

    takers = [asyncio.create_task(take()) for _ in range(2)]
    for n in range(2):
        item = await step(n)
        async with condition:
            items.append(item)
            condition.notify()
    await asyncio.gather(*takers)
    return taken


async def queues_by_priority(step: Any) -> Any:
    queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
    for n in (2, 0, 1):
        await queue.put(await step(n))
    return [queue.get_nowait() for _ in range(3)]


async def takes_turns_at_a_bounded_semaphore(step: Any) -> Any:
    places, most, inside = asyncio.BoundedSemaphore(2), 0, 0

    async def enter(n: int) -> None:
        nonlocal most, inside
        async with places:
            inside += 1
            most = max(most, inside)
            await step(n)
            inside -= 1

    await asyncio.gather(*(enter(n) for n in range(4)))
    try:
        places.release()
    except ValueError as error:
        return [most, str(error)]


async def cancels_and_cleans_up(step: Any) -> Any:
    notes = []

    async def works() -> None:
        try:
            await step(0)
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise
        finally:
            notes.append(await step(1))

    task = asyncio.create_task(works())
    await asyncio.sleep(0)
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError:
        notes.append("over")
    return [*notes, task.cancelled()]


async def generates(step: Any) -> Any:
    async def numbers() -> Any:
        for n in range(3):
            yield await step(n)

    return [n async for n in numbers()]


async def shields(step: Any) -> Any:
    inner = asyncio.ensure_future(step(0))
    outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(inner), None))
    await asyncio.sleep(0)
    outer.cancel()
    ends = await asyncio.gather(outer, return_exceptions=True)
    return [type(ends[0]).__name__, await inner]


async def nests(step: Any) -> Any:
    async def branch(n: int, depth: int) -> Any:
        if not depth:
            return await step(n)
        tasks = [asyncio.create_task(branch(2 * n + k, depth - 1)) for k in range(2)]
        return [await task for task in tasks]

    return await branch(0, 2)


async def names_tasks(step: Any) -> Any:
    task = asyncio.create_task(step(0), name="mine")
    other = asyncio.current_task()
    return [task.get_name(), await task, other is not None and not other.done()]


async def groups_failures(step: Any) -> Any:
    async def fails(n: int) -> None:
        await step(n)
        raise (KeyError if n else ValueError)(n)

    async def waits() -> None:
        await step(9)

    try:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            group.create_task(fails(0))
            group.create_task(waits())
    except BaseException as group_error:
        errors = group_error.exceptions  # type: ignore[attr-defined]
        return [type(group_error).__name__, [repr(each) for each in errors]]


async def meets_at_a_barrier(step: Any) -> Any:
    barrier = asyncio.Barrier(2)  # type: ignore[attr-defined]

    async def arrive(n: int) -> int:
        await step(n)
        await barrier.wait()
        return n

    return await asyncio.gather(arrive(0), arrive(1))


async def splits_a_group(step: Any) -> Any:
    names: dict[str, Any] = {"step": step, "asyncio": asyncio}
    exec(SPLIT, names)  # `except*` is no syntax before 3.11
    return await names["run"]()


SPLIT = """
async def run():
    async def fails(kind):
        await step(0)
        raise kind("x")
    found = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails(KeyError))
    except* ValueError:
        found.append("value")
    except* KeyError as group:
        found.append(len(group.exceptions))
    return found
"""

PROGRAMS: list[Any] = [
    waits_for_all, waits_for_the_first_exception, takes_tasks_as_they_complete, gathers_failures,
    notifies_by_a_condition, queues_by_priority, takes_turns_at_a_bounded_semaphore,
    cancels_and_cleans_up, generates, shields, nests, names_tasks,
    pytest.param(groups_failures, marks=later), pytest.param(meets_at_a_barrier, marks=later),
    pytest.param(splits_a_group, marks=later),
]  # fmt: skip


def plainly(program: Program) -> Any:
    """What the program returns in a plain loop, its steps answered in the order of their calls."""

    async def main() -> Any:
        turn = asyncio.Lock()

        async def step(n: Any) -> Any:
            async with turn:
                await asyncio.sleep(0.001)
            return n

        return await program(step)

    return asyncio.run(main())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_returns_what_it_does_in_a_plain_loop_and_in_its_replay(program: Any) -> None:
    async def flow() -> Any:
        return await program(acts.step)

    life = Life(flow)
    given = {}
    while life.outcome[0] == "open":
        sequence = next(s for s in life.open if s not in given)
        [command] = [c for c in life.asked if c.sequence == sequence and c.kind == "activity"]
        given[sequence] = int(command.args.strip("[]"))
        life.answer(sequence, value=given[sequence])
    assert life.outcome == ("returned", plainly(program))
    replayed = Life(flow, history=life.history)
    assert replayed.outcome == life.outcome
    assert replayed.asked == []
    life.close()
    replayed.close()


# --- where it can't work --------------------------------------------------------------------------


async def runs_a_loop() -> None:
    coro = acts.step(1)
    try:
        asyncio.run(coro)
    finally:
        coro.cancel()


async def awaits_another_loop_s_future() -> None:
    other = asyncio.new_event_loop()
    try:
        await other.create_future()
    finally:
        other.close()


async def reads_standard_input() -> None:
    await asyncio.get_running_loop().connect_read_pipe(asyncio.Protocol, sys.stdin)


async def completes_bare_coroutines() -> None:
    async def one(n: int) -> Any:
        return await acts.step(n)

    bare = [one(1), one(2)]
    try:
        for each in asyncio.as_completed(bare):
            await each
    finally:
        for coro in bare:
            coro.close()


async def starts_a_process() -> None:
    await asyncio.create_subprocess_exec("true")


async def opens_a_connection() -> None:
    await asyncio.open_connection("localhost", 80)


IMPOSSIBLE = [
    (runs_a_loop, "cannot be called from a running event loop"),
    (awaits_another_loop_s_future, "attached to a different loop"),
    (reads_standard_input, "put it into an activity"),
    (completes_bare_coroutines, "give it tasks"),
    (starts_a_process, "put it into an activity"),
    (opens_a_connection, "put it into an activity"),
]


@pytest.mark.parametrize(("flow", "said"), IMPOSSIBLE, ids=[f.__name__ for f, _ in IMPOSSIBLE])
def test_what_can_not_work_says_so(flow: Any, said: str) -> None:
    life = Life(flow)
    how, text = life.outcome
    assert how == "raised"
    assert said in text
    life.close()


# --- what nobody can wake -------------------------------------------------------------------------


async def waits_for_an_event_that_nobody_sets() -> None:
    await acts.step(1)
    await asyncio.Event().wait()


async def waits_for_a_future_that_nobody_resolves() -> None:
    await asyncio.get_running_loop().create_future()


async def waits_for_a_queue_beside_an_activity() -> None:
    await asyncio.gather(asyncio.Queue[int]().get(), acts.step(1))


def test_code_that_waits_for_nothing_durable_is_named_once_with_its_line() -> None:
    for flow in (waits_for_an_event_that_nobody_sets, waits_for_a_future_that_nobody_resolves):
        life = Life(flow)
        while life.open:
            assert life.run.loop.unhandled == []
            life.answer(life.open[0])
        [said] = [context["message"] for context in life.run.loop.unhandled]
        line = flow.__code__.co_firstlineno + (2 if "event" in flow.__name__ else 1)
        assert said.startswith(
            f"it waits for nothing durable at test_asyncio.py:{line} in {flow.__name__}"
        )
        life.run.tell([])
        assert len(life.run.loop.unhandled) == 1
        life.close()


def test_code_that_something_can_wake_is_not_named() -> None:
    life = Life(waits_for_a_queue_beside_an_activity)
    assert life.run.loop.unhandled == []
    life.close()
