"""Waiting for jobs to end: one task per client looks for all that it waits for."""

from __future__ import annotations

import asyncio
import time

from . import _calls
from ._calls import Outcome
from ._session import AsyncSession
from .errors import ConnectionLostError

__all__ = ["Pace", "Watcher"]


class Pace:
    """The pauses between two looks: from 2 ms, longer each time nothing ended, up to 250 ms.

    A look that took long (there is much to ask for, or the server is busy) makes the pause longer,
    up to a second, so that waiting costs the server little. Not longer: when this process was
    blocked, the look only seems to have taken long.
    """

    FIRST, LAST, LONGEST, GROWTH, SHARE = 0.002, 0.25, 1.0, 1.6, 4.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def hurry(self, pause: float = FIRST) -> None:
        """Somebody new waits: look again soon."""
        self._next = min(self._next, pause)

    def after(self, took: float, ended: bool) -> float:
        """The pause after a look of `took` seconds, that found something `ended` or not."""
        pause = max(self._next, min(self.SHARE * took, self.LONGEST))
        self._next = max(self._next / 2, self.FIRST) if ended else self._next * self.GROWTH
        self._next = min(self._next, self.LAST)
        return pause


class Watcher:
    """One task per client that asks for all awaited jobs in one call."""

    KEYS_PER_CALL = 1_000
    SOON = 0.02

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._pace = Pace()
        self._alarm: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def outcome(self, key: str) -> Outcome:
        """The outcome of a job, once it has one."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pace.hurry(self.SOON if self._waiting else Pace.FIRST)
        self._waiting.setdefault(key, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="hotmesh results")
        _ring(self._alarm)
        try:
            return await future
        finally:
            self._forget(key, future)

    def _forget(self, key: str, future: asyncio.Future[Outcome]) -> None:
        futures = self._waiting.get(key, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(key, None)

    async def _watch(self) -> None:
        try:
            while self._waiting:
                began = time.monotonic()
                ended = await self._look()
                await self._sleep(self._pace.after(time.monotonic() - began, ended))
        except Exception as error:
            self._fail(error)

    async def _look(self) -> bool:
        """Ask for the awaited jobs, and whether any has ended."""
        keys, ended = list(self._waiting), False
        for start in range(0, len(keys), self.KEYS_PER_CALL):
            some = keys[start : start + self.KEYS_PER_CALL]
            for outcome in await self._session.run(_calls.job_results(self._session.app_id, some)):
                ended = True
                for future in self._waiting.pop(outcome.key, []):
                    if not future.done():
                        future.set_result(outcome)
        return ended

    async def _sleep(self, pause: float) -> None:
        """Sleep; longer than `SOON` only as long as nobody new waits."""
        if pause <= self.SOON:
            await asyncio.sleep(pause)
            return
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        timer = loop.call_later(pause, _ring, self._alarm)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    def _fail(self, error: Exception) -> None:
        """Tell all who wait why nobody watches any more; each may ask again."""
        waiting, self._waiting = self._waiting, {}
        for future in (future for futures in waiting.values() for future in futures):
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        """Stop; who still waits gets a :class:`ConnectionLostError`."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(ConnectionLostError("the client was closed while it waited"))


def _ring(alarm: asyncio.Future[None] | None) -> None:
    if alarm is not None and not alarm.done():
        alarm.set_result(None)
