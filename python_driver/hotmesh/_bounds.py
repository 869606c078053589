"""What bounds one attempt of an activity: how long it may take, and how long it may be silent.

The engine ends an attempt whose time is over, by itself. The worker that runs it keeps the same
times, so that its slot is free and the failure is told at once, also where there is no message yet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from . import durations
from .durations import Duration

__all__ = ["Bounds", "Pulse", "needs_a_message", "timeouts_text", "with_details"]

PACE_SECONDS = 1.0
"""How often at most the heartbeats of one attempt are sent; or three times per timeout."""


def timeouts_text(
    start_to_close: Duration | None, schedule_to_close: Duration | None, heartbeat: Duration | None
) -> str:
    """The three timeouts as the engine takes them, JSON text, empty when there are none."""
    if start_to_close is None and schedule_to_close is None and heartbeat is None:
        return ""
    told = {
        name: durations.above_zero(value, f"{name}_timeout")
        for name, value in (
            ("start_to_close", start_to_close),
            ("schedule_to_close", schedule_to_close),
            ("heartbeat", heartbeat),
        )
        if value is not None
    }
    return json.dumps(told)


def needs_a_message(timeouts: str) -> bool:
    """Whether the engine must watch over it from the beginning, so that it can't run inline."""
    return '"heartbeat"' in timeouts or '"schedule_to_close"' in timeouts


def with_details(timeouts: str, details: str | None) -> str:
    """The timeouts of an attempt that failed before it had a message, with its last details."""
    if details is None:
        return timeouts
    told = f'"details":{details}}}'
    return f"{timeouts[:-1]},{told}" if timeouts else f"{{{told}"


class Pulse:
    """The heartbeats of one attempt: the last one counts; they are sent at a bounded pace.

    The activity beats in its own task or thread, the thread that keeps leases sends.
    """

    __slots__ = ("_fresh", "_sent", "at", "details", "due", "nudge", "pace")

    def __init__(self, timeout: float | None) -> None:
        self.pace = min(PACE_SECONDS, timeout / 3) if timeout else PACE_SECONDS
        self.at = monotonic()
        self.details: str | None = None
        self.due: float | None = None
        self.nudge: Callable[[], object] | None = None
        self._sent = float("-inf")
        self._fresh = False

    def beat(self, details: str | None) -> None:
        """A sign of life; `details` (JSON text) replace those before, None leaves them."""
        self.at = monotonic()
        if details is not None:
            self.details = details
            self._fresh = True
        if self.due is None:
            self.due = max(self.at, self._sent + self.pace)
            if self.nudge is not None:
                self.nudge()

    def take(self) -> str:
        """What is to be sent now: the details, JSON text, where they are new."""
        self.due = None
        self._sent = monotonic()
        fresh, self._fresh = self._fresh, False
        return self.details if fresh and self.details is not None else "null"

    def put_back(self, seconds: float) -> None:
        """It did not arrive: once more, in so many seconds."""
        self._fresh = self.details is not None
        self.due = monotonic() + seconds


class Bounds:
    """The times of one attempt, in seconds; None where there is no limit."""

    __slots__ = ("_alarm", "heartbeat", "left", "schedule_to_close", "start_to_close")

    def __init__(self, told: Mapping[str, Any], now: float = 0.0) -> None:
        self.start_to_close: float | None = told.get("start_to_close")
        self.heartbeat: float | None = told.get("heartbeat")
        self.schedule_to_close: float | None = told.get("schedule_to_close")
        deadline = told.get("deadline")
        self.left: float | None = None if deadline is None else max(0.0, deadline - now)
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self, pulse: Pulse | None, over: Callable[[str, float], object]) -> None:
        """The attempt begins: `over(which, seconds)` is called in this loop once its time is over."""
        began = monotonic()
        if pulse is not None:
            pulse.at = began
        self._watch(began, pulse, over)

    def _watch(
        self, began: float, pulse: Pulse | None, over: Callable[[str, float], object]
    ) -> None:
        ends: list[tuple[float, str, float]] = []
        if self.start_to_close is not None:
            ends.append((began + self.start_to_close, "start_to_close", self.start_to_close))
        if self.left is not None:
            ends.append((began + self.left, "schedule_to_close", self.schedule_to_close or 0.0))
        if self.heartbeat is not None and pulse is not None:
            ends.append((pulse.at + self.heartbeat, "heartbeat", self.heartbeat))
        if not ends:
            return
        at, which, seconds = min(ends)
        wait = at - monotonic()
        if wait <= 0:
            over(which, seconds)
            return
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(wait, self._watch, began, pulse, over)

    def end(self) -> None:
        """The attempt has ended."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
