"""The runner of short coroutines: what shares a task, and that nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from hotmesh._runner import Runner, Running

Call = Callable[[], Coroutine[Any, Any, None]]

place: ContextVar[str] = ContextVar("place", default="nowhere")


class Stage:
    """A runner, and what came of those that it ran."""

    def __init__(self) -> None:
        self.runner = Runner()
        self.tasks: dict[str, asyncio.Task[Any] | None] = {}
        self.ended: dict[str, BaseException | None] = {}
        self._all = asyncio.Event()
        self._count = 0

    def start(self, name: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Running:
        async def noted() -> None:
            self.tasks[name] = asyncio.current_task()
            await call()

        def done(fault: BaseException | None) -> None:
            self.ended[name] = fault
            if len(self.ended) == self._count:
                self._all.set()

        self._count += 1
        return self.runner.start(noted, done)

    async def all(self) -> None:
        """Wait until everything that was started has ended."""
        await asyncio.wait_for(self._all.wait(), 5)


async def nothing() -> None:
    pass


async def a_moment() -> None:
    await asyncio.sleep(0.01)


async def test_what_never_waits_shares_a_task_and_runs_in_order() -> None:
    stage = Stage()
    for name in "abc":
        stage.start(name, nothing)
    await stage.all()
    assert list(stage.ended) == ["a", "b", "c"]
    assert len({id(task) for task in stage.tasks.values()}) == 1


async def test_what_waits_keeps_its_task_and_holds_up_nobody() -> None:
    stage, seen = Stage(), []

    async def waits() -> None:
        task = asyncio.current_task()
        await a_moment()
        seen.append(asyncio.current_task() is task)

    for name, call in (("a", nothing), ("b", waits), ("c", nothing), ("d", waits), ("e", nothing)):
        stage.start(name, call)
    await stage.all()
    assert list(stage.ended) == ["a", "c", "e", "b", "d"]
    assert seen == [True, True]
    assert stage.tasks["b"] not in (stage.tasks["c"], stage.tasks["d"], stage.tasks["e"])
    assert stage.tasks["d"] is not stage.tasks["e"]


async def test_work_that_comes_later_finds_a_task_again() -> None:
    stage = Stage()
    stage.start("a", nothing)
    await stage.all()
    await asyncio.sleep(0)
    stage.start("b", a_moment)
    await asyncio.sleep(0)
    stage.start("c", nothing)
    await asyncio.wait_for(asyncio.gather(stage.all(), asyncio.sleep(0.03)), 5)
    assert sorted(stage.ended) == ["a", "b", "c"]


async def test_each_has_a_context_of_its_own() -> None:
    stage, seen = Stage(), []

    async def moves(to: str) -> None:
        seen.append(place.get())
        place.set(to)
        await asyncio.sleep(0.01 if to == "b" else 0)
        seen.append(place.get())

    place.set("home")
    for name in "abc":
        stage.start(name, lambda name=name: moves(name))  # type: ignore[misc]
    await stage.all()
    assert sorted(seen) == ["a", "b", "c", "home", "home", "home"]
    assert place.get() == "home"


async def test_a_timeout_within_hits_nobody_else() -> None:
    stage, seen = Stage(), []

    async def times_out() -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            seen.append("late")

    for name, call in (("a", nothing), ("b", times_out), ("c", a_moment)):
        stage.start(name, call)
    await stage.all()
    assert seen == ["late"]
    assert stage.ended == {"a": None, "b": None, "c": None}


async def test_one_that_cancels_its_own_task_and_never_waits_cancels_nobody_else() -> None:
    stage = Stage()

    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    for name, call in (("a", cancels), ("b", a_moment), ("c", nothing)):
        stage.start(name, call)
    await stage.all()
    assert stage.ended == {"a": None, "b": None, "c": None}
    assert stage.tasks["a"] is not stage.tasks["b"]


async def test_one_that_is_cancelled_before_it_begins_never_begins() -> None:
    stage = Stage()
    stage.start("a", nothing)
    stage.start("b", nothing).cancel()
    stage.start("c", nothing)
    await stage.all()
    assert list(stage.tasks) == ["a", "c"]
    assert stage.ended == {"a": None, "b": None, "c": None}


@pytest.mark.parametrize("stubborn", [False, True], ids=["it-ends", "it-goes-on"])
async def test_one_that_waits_can_be_cancelled(stubborn: bool) -> None:
    stage, began = Stage(), asyncio.Event()

    async def waits() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not stubborn:
                raise
            await a_moment()

    running = stage.start("a", waits)
    await began.wait()
    running.cancel()
    await stage.all()
    assert isinstance(stage.ended["a"], asyncio.CancelledError) is not stubborn


async def test_what_it_raises_is_told_to_who_waits_for_it() -> None:
    stage = Stage()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    stage.start("a", fails)
    stage.start("b", nothing)
    await stage.all()
    assert isinstance(stage.ended["a"], SystemExit)
    assert stage.ended["b"] is None
