"""The turns of a worker that are under way: one, or a second one beside it.

They are sent whole; a batch that the engine refuses is sent once more by halves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any

from . import _calls, _paces
from ._calls import Call, Delivery
from ._session import AsyncSession
from .errors import ConnectionLostError, HotMeshError, ProtocolError

__all__ = ["Doubt", "Turns", "profile"]

_LOG = logging.getLogger("hotmesh")

_PASSING = ("40", "53", "57")
"""Classes of SQLSTATE that a repeat may cure."""


def profile() -> dict[str, Any]:
    """What a turn says so that the worker is seen."""
    return {"seen": True, "host": socket.gethostname(), "pid": os.getpid()}


class Doubt:
    """Whether it is time to tell the engine what is held here, as an answer was lost.

    It is told at once, and again after some pauses: what is locked at that moment is passed over.
    """

    def __init__(self) -> None:
        self._pauses: Iterator[float] = iter(())
        self._due = math.inf

    def __bool__(self) -> bool:
        return monotonic() >= self._due

    def arise(self) -> None:
        """An answer was lost, or may have been."""
        self._pauses, self._due = iter(_paces.DOUBT_SECONDS), 0.0

    def told(self) -> None:
        """The engine knows what is held."""
        self._due = monotonic() + next(self._pauses, math.inf)


class Turns:
    """Those of one worker; `bringing` is how many activities they may bring."""

    def __init__(self, session: AsyncSession, worker: str) -> None:
        self._session = session
        self._worker = worker
        self._number = 0
        self.bringing = 0
        self.second: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def under_way(self, asked: int) -> Iterator[None]:
        """Around a turn that asks for so many activities, and around the taking up of its answers."""
        self._number += 1
        self.bringing += asked
        try:
            yield
        finally:
            self._number -= 1
            self.bringing -= asked

    def begin_second(self, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let a second turn run, if one is under way and no other beside it."""
        if self._number and self.second is None:
            self.second = asyncio.create_task(turn())

    async def join(self, wait: bool) -> None:
        """Raise what the second turn met, once it is over; `wait` for that."""
        if self.second is not None and (wait or self.second.done()):
            try:
                await self.second
            finally:
                self.second = None

    async def cancel(self) -> None:
        """Let no second turn be under way any more."""
        if self.second is not None:
            self.second.cancel()
            await asyncio.gather(self.second, return_exceptions=True)

    async def send(self, texts: list[str], want: dict[str, Any]) -> list[Delivery]:
        """The answers to these reports; a batch that is refused is sent by halves, down to one."""
        try:
            return await self._session.run(self._call(texts, want))
        except (ConnectionLostError, ProtocolError):
            raise
        except HotMeshError as error:
            if not texts:
                raise
            _LOG.warning(
                "worker %s: a batch of %d was refused: %s", self._worker, len(texts), error
            )
            if len(texts) > 1:
                middle = len(texts) // 2
                first = await self.send(texts[:middle], {})
                return first + await self.send(texts[middle:], {})
            return await self._send_alone(texts[0])

    async def _send_alone(self, text: str) -> list[Delivery]:
        """The engine records on the job why it refuses this report; if it can't, the run is lost."""
        try:
            return await self._session.run(self._call([text], {"isolate": True}))
        except HotMeshError as error:
            if error.sqlstate is None or error.sqlstate[:2] in _PASSING:
                raise
            _LOG.error("worker %s: a report can't be told: %s", self._worker, error)
            lost, told = Delivery(*[None] * len(Delivery._fields)), json.loads(text)
            return [lost._replace(answer="stale", id=told["id"], token=told["token"])]

    def _call(self, texts: list[str], want: dict[str, Any]) -> Call[list[Delivery]]:
        reports = "[" + ",".join(texts) + "]"
        return _calls.turn(self._session.app_id, self._worker, reports, json.dumps(want))
