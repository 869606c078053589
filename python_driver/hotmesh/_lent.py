"""The connections of transactional activities: lent to one attempt at a time, clean in between.

A new connection costs a server process and its caches, ten times what the rest of such an activity
costs. So one whose transaction was committed is kept, for whoever comes next.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg.pq.abc import PGconn

from ._session import AsyncSession
from .errors import InvalidArgumentError

__all__ = ["ActivityConnection", "AsyncActivityConnection", "Lender"]

T = TypeVar("T")
C = TypeVar("C", "ActivityConnection", "AsyncActivityConnection")

AT_ONCE = 10
"""Transactions that the async activities of one worker have open at a time; its threads likewise."""

KEPT_SECONDS = 10.0
"""How long a connection that nobody uses stays open."""

CLEAN = (
    "close all; set session authorization default; reset all; deallocate all; unlisten *;"
    " select pg_catalog.pg_advisory_unlock_all(); discard sequences; discard temporary"
)
"""What DISCARD ALL does but for the plans: those of the engine's functions are worth keeping."""


BOUNDED = "set local statement_timeout = '30s'"
"""Within it a function of SQL that a graph calls has to answer."""


def _refuse(what: str) -> NoReturn:
    raise InvalidArgumentError(
        f"{what} is refused on the connection of activity.transaction()",
        hint="it commits when the activity returns and rolls back when it raises; for a part of it "
        "use `with conn.transaction():`",
    )


def _refuse_ended() -> NoReturn:
    raise psycopg.OperationalError("the connection is closed: its activity has ended")


class AsyncActivityConnection(psycopg.AsyncConnection[Any]):
    """A psycopg connection whose transaction ends with the activity, and only so."""

    ended = False

    @property
    def closed(self) -> bool:
        """Whether its activity has ended: then the line to the server may be another one's."""
        return self.ended or super().closed

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """All that is sent goes through here."""
        return _refuse_ended() if self.ended else await super().wait(gen, *args, **named)

    async def commit(self) -> NoReturn:
        _refuse("commit()")

    async def rollback(self) -> NoReturn:
        _refuse("rollback()")

    async def close(self) -> NoReturn:
        _refuse("close()")

    async def set_autocommit(self, value: bool) -> NoReturn:
        _refuse("autocommit")

    async def __aenter__(self) -> NoReturn:
        _refuse("`async with conn`")


class ActivityConnection(psycopg.Connection[Any]):
    """The blocking twin of :class:`AsyncActivityConnection`."""

    ended = False

    @property
    def closed(self) -> bool:
        """Whether its activity has ended: then the line to the server may be another one's."""
        return self.ended or super().closed

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """All that is sent goes through here."""
        return _refuse_ended() if self.ended else super().wait(gen, *args, **named)

    def commit(self) -> NoReturn:
        _refuse("commit()")

    def rollback(self) -> NoReturn:
        _refuse("rollback()")

    def close(self) -> NoReturn:
        _refuse("close()")

    def set_autocommit(self, value: bool) -> NoReturn:
        _refuse("autocommit")

    def __enter__(self) -> NoReturn:
        _refuse("`with conn`")


class Lender:
    """Where the activities of one worker get their connections."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.loop = asyncio.get_running_loop()
        self.async_gate = asyncio.Semaphore(AT_ONCE)
        self.sync_gate = threading.BoundedSemaphore(AT_ONCE)
        self._lines: deque[tuple[float, PGconn]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._open = True

    def options(self) -> dict[str, Any]:
        """What such a connection is opened with, next to the DSN."""
        return {**self.session.options(), "autocommit": False}

    def take(self, kind: type[C]) -> C | None:
        """A connection over a line that was used before; it may have died since."""
        try:
            _, line = self._lines.pop()
        except IndexError:
            return None
        conn = kind(line)
        conn.prepare_threshold = self.session.prepare_threshold
        return conn

    async def give_back_async(self, conn: AsyncActivityConnection) -> None:
        """Its transaction was committed: clean it, keep its line."""
        conn.ended = True
        async with conn.lock:  # whatever was under way on it is over now, nothing more begins
            cleaner = AsyncActivityConnection(conn.pgconn)
        try:
            await psycopg.AsyncConnection.set_autocommit(cleaner, True)
            await cleaner.execute(CLEAN, prepare=False)
        except BaseException as error:
            await psycopg.AsyncConnection.close(cleaner)
            if not isinstance(error, psycopg.Error):
                raise
        else:
            self._keep(cleaner)

    def give_back(self, conn: ActivityConnection) -> None:
        """The blocking twin of :meth:`give_back_async`."""
        conn.ended = True
        with conn.lock:
            cleaner = ActivityConnection(conn.pgconn)
        try:
            psycopg.Connection.set_autocommit(cleaner, True)
            cleaner.execute(CLEAN, prepare=False)
        except BaseException as error:
            psycopg.Connection.close(cleaner)
            if not isinstance(error, psycopg.Error):
                raise
        else:
            self._keep(cleaner)

    def _keep(self, cleaner: ActivityConnection | AsyncActivityConnection) -> None:
        cleaner.ended = True
        self._lines.append((time.monotonic(), cleaner.pgconn))
        try:
            self.loop.call_soon_threadsafe(self._tend)
        except RuntimeError:  # the loop is closed, and so was the worker
            self.close()

    def _tend(self) -> None:
        """Close what nobody used for long; look again while there is any."""
        until = time.monotonic() - KEPT_SECONDS if self._open else float("inf")
        while self._lines and self._lines[0][0] <= until:
            self._lines.popleft()[1].finish()
        if self._timer is None and self._lines:
            self._timer = self.loop.call_later(KEPT_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._tend()

    def close(self) -> None:
        """Keep none any more."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        while self._lines:
            self._lines.popleft()[1].finish()
