"""`activity.transaction()`: a connection whose transaction commits together with the result.

The transaction locks the attempt's message before anything else, so it needs its id and token: an
attempt that runs inline is announced first (`Execution.ask`), and the next ones from the start.
When the function has ended, the same transaction reports for it and commits. Where that fails, it
was rolled back and the worker's next report tells the failure; where nobody knows whether the
commit took effect, that report is stale if it did, and then nothing is run again.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.errors import (
    InFailedSqlTransaction,
    InvalidSavepointSpecification,
    NoActiveSqlTransaction,
)

from . import _calls, errors
from ._calls import Call
from ._lent import ActivityConnection, AsyncActivityConnection, Lender
from ._session import execute, execute_async
from .errors import ConnectionLostError, FatalError, HotMeshError, InvalidArgumentError

if TYPE_CHECKING:
    from ._execution import Execution

__all__ = ["AsyncTransaction", "SyncTransaction", "open_for"]

PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to connect."""

ANNOUNCED_WITHIN = 60.0
"""Seconds that a thread waits until its attempt was announced."""


def open_for(execution: Execution) -> Any:
    """The connection of an activity's transaction; for an async activity an awaitable of it."""
    source, kind = execution.server.transactions, execution.transaction
    if source is None:
        raise InvalidArgumentError("activity.transaction() needs a worker with a database")
    if execution.server.is_async(execution.function):
        if not isinstance(kind, AsyncTransaction):
            kind = execution.transaction = AsyncTransaction(execution, source)
        return kind.open()
    if not isinstance(kind, SyncTransaction):
        kind = execution.transaction = SyncTransaction(execution, source)
    return kind.open()


# --- the decisions, without I/O -------------------------------------------------------------------


class _Transaction:
    """The transaction of one attempt; `locked` while it holds the attempt's message."""

    def __init__(self, execution: Execution, source: Lender) -> None:
        self.execution = execution
        self.source = source
        self.locked = False
        self._over = False

    @property
    def _name(self) -> str:
        return f'activity "{self.execution.context.activity_name}"'

    @property
    def _wanted(self) -> bool:
        """Whether there is an outcome to commit, and anybody who wants it."""
        return self.execution.finished and not self.execution.abandoned

    def _address(self) -> tuple[str, int, int]:
        return self.source.session.app_id, self.execution.id or 0, self.execution.token or 0

    def _hold(self) -> Call[str]:
        return _calls.stream_hold(*self._address())

    def _report(self) -> Call[str]:
        if self.execution.error is not None:
            return _calls.stream_fail(
                *self._address(),
                json.dumps(self.execution.error),
                self.execution.policy or None,
                self.execution.details,
            )
        return _calls.stream_complete(*self._address(), self.execution.output or "null")

    def _check_open(self) -> None:
        if self._over or self.execution.unwanted:
            raise InvalidArgumentError(f"the transaction of {self._name} is over")

    def _check_held(self, answer: str) -> None:
        """The lock was taken: the attempt is still this worker's."""
        self._check_open()
        if answer != "ok":
            raise HotMeshError(
                f"this attempt of {self._name} is no longer current",
                hint="its lease ran out and another worker has it: whatever this one does is void",
            )

    def _check_same(self, answer: str) -> None:
        """The transaction that took the lock is the one that is about to commit."""
        if answer != "held":
            raise _ended_early(self._name)

    def _pauses(self, error: psycopg.Error, pauses: Iterator[float]) -> float:
        pause = next(pauses, None)
        if pause is None or not errors.is_lost(error):
            raise errors.from_sql(error) from error
        return pause

    def _rollback(self) -> tuple[Any, Any, None]:
        """How to leave the savepoint: with an exception if the activity failed."""
        if self.execution.error is None:
            return None, None, None
        return psycopg.Rollback, psycopg.Rollback(), None

    def _unsettled(self, error: Exception) -> None:
        """Nothing was committed, or nobody knows: that is what the worker reports."""
        told: BaseException = error
        early = InvalidSavepointSpecification | NoActiveSqlTransaction
        if self.execution.error is not None:  # there was nothing to roll back to
            early |= InFailedSqlTransaction
        if isinstance(error, early):
            told = _ended_early(self._name)
        elif isinstance(error, InFailedSqlTransaction):
            told = HotMeshError(
                f"a statement of {self._name} failed, and with it its whole transaction",
                hint="put what may fail into `with conn.transaction():`",
            )
        elif isinstance(error, psycopg.Error) and errors.is_lost(error):
            told = ConnectionLostError(
                f"the connection broke before the transaction of {self._name} was known to be over"
            )
        elif isinstance(error, psycopg.Error):
            told = errors.from_sql(error)
            told = told if isinstance(told, InvalidArgumentError) else error
        if self.execution.error is None or isinstance(told, FatalError):
            self.execution.fail(told)
            if self.execution.error and isinstance(told, InvalidArgumentError):
                self.execution.error["code"] = 598  # a result past a limit will not get smaller


def _ended_early(name: str) -> FatalError:
    return FatalError(
        f"{name} ended the transaction of activity.transaction() itself",
        hint="send no COMMIT and no ROLLBACK; what was committed by SQL text stays",
    )


# --- async ----------------------------------------------------------------------------------------


class AsyncTransaction(_Transaction):
    """The transaction of an `async def`."""

    def __init__(self, execution: Execution, source: Lender) -> None:
        super().__init__(execution, source)
        self._opening = asyncio.Lock()
        self._conn: AsyncActivityConnection | None = None

    async def open(self) -> AsyncActivityConnection:
        """The connection, opened by the first call."""
        async with self._opening:
            self._check_open()
            if self._conn is None:
                told: Future[None] = Future()
                self.execution.ask(told)
                await asyncio.wrap_future(told)
                self._conn = await self._open()
            return self._conn

    async def _open(self) -> AsyncActivityConnection:
        gate = self.source.async_gate
        await gate.acquire()
        try:
            return await self._hold_one()
        except BaseException:
            gate.release()
            raise

    async def _hold_one(self) -> AsyncActivityConnection:
        kept = self.source.take(AsyncActivityConnection)
        if kept is not None:
            try:
                return await self._begin(kept)
            except psycopg.Error as error:  # it may have died while nobody used it
                if not errors.is_lost(error):
                    raise
        return await self._begin(await self._connect())

    async def _begin(self, conn: AsyncActivityConnection) -> AsyncActivityConnection:
        try:
            self._check_held(await execute_async(conn, self._hold()))
            self._savepoint = conn.transaction()
            await self._savepoint.__aenter__()
        except BaseException:
            await psycopg.AsyncConnection.close(conn)
            raise
        self.locked = True
        return conn

    async def _connect(self) -> AsyncActivityConnection:
        session, pauses = self.source.session, iter(PAUSES)
        while True:
            try:
                return await AsyncActivityConnection.connect(session.dsn, **self.source.options())
            except psycopg.Error as error:
                pause = self._pauses(error, pauses)
            await asyncio.sleep(pause)

    async def end(self) -> None:
        """Commit with the outcome of the attempt; what can't be committed is rolled back."""
        self._over = True
        if self._conn is None:
            return
        try:
            if self._wanted:
                await self._settle(self._conn)
        except Exception as error:
            self._unsettled(error)
        finally:
            self.locked = False
            await self._let_go(self._conn)

    async def _let_go(self, conn: AsyncActivityConnection) -> None:
        try:
            if self.execution.told:
                await self.source.give_back_async(conn)
            else:
                await psycopg.AsyncConnection.close(conn)
        finally:
            self.source.async_gate.release()

    async def _settle(self, conn: AsyncActivityConnection) -> None:
        await self._savepoint.__aexit__(*self._rollback())
        self._check_same(await execute_async(conn, self._hold()))
        await execute_async(conn, self._report())
        await psycopg.AsyncConnection.commit(conn)
        self.execution.told = True


# --- blocking -------------------------------------------------------------------------------------


class SyncTransaction(_Transaction):
    """The transaction of a plain function, in its thread."""

    def __init__(self, execution: Execution, source: Lender) -> None:
        super().__init__(execution, source)
        self._opening = threading.Lock()
        self._conn: ActivityConnection | None = None

    def open(self) -> ActivityConnection:
        """The connection, opened by the first call."""
        with self._opening:
            self._check_open()
            if self._conn is None:
                told: Future[None] = Future()
                self.source.loop.call_soon_threadsafe(self.execution.ask, told)
                told.result(ANNOUNCED_WITHIN)
                self._conn = self._open()
            return self._conn

    def _open(self) -> ActivityConnection:
        gate = self.source.sync_gate
        while not gate.acquire(timeout=1.0):
            self._check_open()
        try:
            return self._hold_one()
        except BaseException:
            gate.release()
            raise

    def _hold_one(self) -> ActivityConnection:
        kept = self.source.take(ActivityConnection)
        if kept is not None:
            try:
                return self._begin(kept)
            except psycopg.Error as error:  # it may have died while nobody used it
                if not errors.is_lost(error):
                    raise
        return self._begin(self._connect())

    def _begin(self, conn: ActivityConnection) -> ActivityConnection:
        try:
            self._check_held(execute(conn, self._hold()))
            self._savepoint = conn.transaction()
            self._savepoint.__enter__()
        except BaseException:
            psycopg.Connection.close(conn)
            raise
        self.locked = True
        return conn

    def _connect(self) -> ActivityConnection:
        session, pauses = self.source.session, iter(PAUSES)
        while True:
            try:
                return ActivityConnection.connect(session.dsn, **self.source.options())
            except psycopg.Error as error:
                pause = self._pauses(error, pauses)
            time.sleep(pause)

    def end(self) -> None:
        """Commit with the outcome of the attempt; what can't be committed is rolled back."""
        self._over = True
        if self._conn is None:
            return
        try:
            if self._wanted:
                self._settle(self._conn)
        except Exception as error:
            self._unsettled(error)
        finally:
            self.locked = False
            self._let_go(self._conn)

    def _let_go(self, conn: ActivityConnection) -> None:
        try:
            if self.execution.told:
                self.source.give_back(conn)
            else:
                psycopg.Connection.close(conn)
        finally:
            self.source.sync_gate.release()

    def _settle(self, conn: ActivityConnection) -> None:
        self._savepoint.__exit__(*self._rollback())
        self._check_same(execute(conn, self._hold()))
        execute(conn, self._report())
        psycopg.Connection.commit(conn)
        self.execution.told = True
