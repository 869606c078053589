"""Runs coroutines as tasks of the running loop; those that never wait share one task.

A task of its own costs as much as a short activity. So one task takes what is ready, one coroutine
after the other, each in a context of its own. A coroutine that waits keeps the task to its end, and
another task takes the rest: `asyncio.current_task()` of whoever waits is nobody else's.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["Runner", "Running"]


class Running:
    """A coroutine function that was given to a runner; `done` gets what came out of it, or None."""

    __slots__ = ("_cancelled", "call", "context", "done", "task")

    def __init__(
        self,
        call: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[BaseException | None], object],
    ) -> None:
        self.call = call
        self.done = done
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel it where it waits, or before it begins; like a task's, this may be caught."""
        if self.task is None:
            self._cancelled = True
        else:
            self.task.cancel()

    @types.coroutine
    def steps(self, waits: Callable[[], None]) -> Generator[Any, Any, BaseException | None]:
        """Run it in its context; `waits` is called when it does so for the first time."""
        coro, error, value = self.call(), None, None
        if self._cancelled:
            coro.close()
            return None
        while True:
            try:
                if error is None:
                    awaited = self.context.run(coro.send, value)
                else:
                    awaited = self.context.run(coro.throw, error)
            except StopIteration:
                return None
            except BaseException as fault:
                return fault
            waits()
            try:
                error, value = None, (yield awaited)
            except BaseException as thrown:
                error = thrown


class Runner:
    """Runs coroutines in the order in which they were given to it."""

    def __init__(self) -> None:
        self._ready: deque[Running] = deque()
        self._taker: asyncio.Task[None] | None = None

    def start(
        self,
        call: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[BaseException | None], object],
    ) -> Running:
        """Run `call()` soon, and then `done`, both in the running loop."""
        running = Running(call, done)
        self._ready.append(running)
        if self._taker is None or self._taker.done():
            self._take_over()
        return running

    def _take_over(self) -> None:
        """Let another task take what is ready."""
        self._taker = asyncio.get_running_loop().create_task(self._run()) if self._ready else None

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def leave() -> None:
            if self._taker is task:
                self._take_over()

        while self._taker is task and self._ready:
            running = self._ready.popleft()
            running.task = task
            fault = await running.steps(leave)
            if _told_to_end(task):
                leave()
            running.task = None
            running.done(fault)


def _told_to_end(task: asyncio.Task[None]) -> bool:
    """Whether the task was cancelled from within, so that nobody else may wait in it."""
    if sys.version_info >= (3, 11):
        return task.cancelling() > 0
    return bool(task._must_cancel)  # type: ignore[attr-defined]
