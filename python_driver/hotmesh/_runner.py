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


Call = Callable[[], Coroutine[Any, Any, None]]
Done = Callable[[BaseException | None], object]


class Running:
    """What was given to a runner: it waits, or runs in `task`, or has ended."""

    __slots__ = ("cancelled", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel it where it waits, or before it begins; like a task's, this may be caught."""
        if self.task is None:
            self.cancelled = True
        else:
            self.task.cancel()


class Runner:
    """Runs coroutines in the order in which they were given to it."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Running, Call, Done, contextvars.Context]] = deque()
        self._taker: asyncio.Task[None] | None = None

    def start(self, call: Call, done: Done) -> Running:
        """Run `call()` soon, and then `done` with what came out of it, both in the running loop."""
        running = Running()
        self._ready.append((running, call, done, contextvars.copy_context()))
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
            running, call, done, context = self._ready.popleft()
            fault = None
            if not running.cancelled:
                running.task = task
                fault = await _steps(call(), context, leave)
                running.task = None
            if _told_to_end(task):
                leave()
            done(fault)


@types.coroutine
def _steps(
    coro: Coroutine[Any, Any, None], context: contextvars.Context, waits: Callable[[], None]
) -> Generator[Any, Any, BaseException | None]:
    """Run a coroutine in its context; `waits` is called each time before it does so."""
    send: Callable[[Any], Any] = coro.send
    given: Any = None
    while True:
        try:
            awaited = context.run(send, given)
        except StopIteration:
            return None
        except BaseException as fault:
            return fault
        waits()
        try:
            send, given = coro.send, (yield awaited)
        except BaseException as thrown:
            send, given = coro.throw, thrown


def _told_to_end(task: asyncio.Task[None]) -> bool:
    """Whether the task was cancelled from within, so that nobody else may wait in it."""
    if sys.version_info >= (3, 11):
        return task.cancelling() > 0
    return bool(task._must_cancel)  # type: ignore[attr-defined]
