"""LISTEN on a connection of its own, with the proof that notifications arrive.

The two statements here are commands, not calls of doors: no function can listen for its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from . import _calls
from ._session import AsyncSession, execute_async
from .errors import ConnectionLostError

__all__ = ["Listener"]

_LOG = logging.getLogger("hotmesh")

_PROBE_SECONDS = 2.0
_QUIET_SECONDS = 60.0


class Listener:
    """One dedicated connection that listens, and comes back by itself after it was lost.

    `works` says whether notifications arrive: a pooler in transaction mode takes LISTEN and
    delivers nothing, so each new connection is tried with a notification from another one. Whoever
    listens must be right without it, by polling.
    """

    def __init__(self, session: AsyncSession, channel: str, heard: Callable[[str], None]) -> None:
        self._session = session
        self._channel = channel
        self._heard = heard
        self._proof = f"hotmesh_{uuid.uuid4().hex}"
        self._proven = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"hotmesh listen {channel}")

    @property
    def works(self) -> bool:
        """Whether a notification was seen to arrive on the present connection."""
        return self._proven.is_set()

    async def proven(self, timeout: float = _PROBE_SECONDS) -> bool:
        """Wait up to `timeout` seconds for the proof that notifications arrive."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._proven.wait(), timeout)
        return self.works

    async def close(self) -> None:
        """Stop listening and close the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                async with await self._session.connect() as conn:
                    await self._subscribe(conn)
                    pause = 0.1
                    await self._hear(conn)
            except (ConnectionLostError, psycopg.Error) as error:
                _LOG.info(
                    "listening on %s ended, once more in %.1f s: %s", self._channel, pause, error
                )
            finally:
                self._proven.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)

    async def _subscribe(self, conn: psycopg.AsyncConnection[Any]) -> None:
        for channel in (self._channel, self._proof):
            await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        async with await self._session.connect() as other:
            await other.execute(sql.SQL("notify {}").format(sql.Identifier(self._proof)))
        self._heard("")  # what came while nobody listened

    async def _hear(self, conn: psycopg.AsyncConnection[Any]) -> None:
        while True:
            async for notice in conn.notifies(timeout=_QUIET_SECONDS):
                if notice.channel == self._proof:
                    self._proven.set()
                else:
                    self._heard(notice.payload)
            await execute_async(conn, _calls.protocol())  # is the line still there?
