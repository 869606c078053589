"""The least runtime that a loop of workflow code needs, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from hotmesh._loop import WorkflowLoop, WorkflowTask


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
