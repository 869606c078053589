"""Runs a `Call`: finds the database, keeps connections, repeats what may be repeated, provisions.

`AsyncSession` and `SyncSession` are twins over the same decisions, which are made without I/O in
:class:`_Session` and :class:`_Tries`. An error of the database leaves here as one of
`hotmesh.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.json import set_json_loads

from . import _calls, _codec, errors
from ._calls import Call
from ._source import Source, resolve, wrong_connection
from .errors import (
    AppNotFoundError,
    ConnectionLostError,
    HotMeshError,
    NotAllowedError,
    NotInstalledError,
    ProtocolError,
)

__all__ = [
    "AsyncSession",
    "Source",
    "SyncSession",
    "close_all",
    "execute",
    "execute_async",
    "resolve",
]

T = TypeVar("T")
Steps = Generator[Call[Any] | None, Any, None]
AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

_LOG = logging.getLogger("hotmesh")

POOL_SIZE = 4
"""Connections that one session opens at most; `conn=` and LISTEN have their own."""

CONNECT_SECONDS = 10
"""How long one attempt to connect may take, unless the DSN says otherwise."""

PATIENCE_SECONDS = 15.0
"""How long a session that was connected once waits for its database to come back."""

_ROLLED_BACK = frozenset({"40001", "40P01"})
_UNKNOWN_STATEMENT = frozenset({"26000", "42P05"})


# --- the decisions, without I/O -------------------------------------------------------------------


class _UnreachableError(Exception):
    """No connection could be had, so nothing was sent; the cause says why."""

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class _Step:
    """What to do after an error: wait, then repeat, unless the `probe` says that it took effect."""

    pause: float
    probe: Call[bool] | None = None


class _Tries:
    """The attempts of one call; decides after each error whether there is another."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._began = time.monotonic()
        self._count = 0

    def after(self, error: psycopg.Error | _UnreachableError, call: Call[Any]) -> _Step:
        """The next step, or the error as one of `hotmesh.errors`, raised."""
        self._count += 1
        if isinstance(error, _UnreachableError):
            return _Step(self._patience(error.cause, call))
        if error.sqlstate in _ROLLED_BACK and self._count <= 8:
            return _Step(random.uniform(0, 0.005 * 2**self._count))
        if error.sqlstate in _UNKNOWN_STATEMENT and self._count <= 3:
            self._session.prepare_threshold = None  # a pooler moves us between its connections
            return _Step(0.0)
        if not errors.is_lost(error):
            raise errors.from_sql(error, call.job_id) from error
        if not call.repeat and call.probe is None:
            raise _in_doubt(call) from error
        return _Step(self._patience(error, call), None if call.repeat else call.probe)

    def _patience(self, error: psycopg.Error, call: Call[Any]) -> float:
        """The pause before another attempt to connect, if the database is worth waiting for."""
        pause = min(0.02 * 2**self._count, 1.0) * random.uniform(0.5, 1.0)
        waited = time.monotonic() - self._began
        worth_it = self._session.ready or "starting up" in str(error)
        if not worth_it or waited + pause > self._session.patience:
            raise _unreachable(error, call.job_id) from error
        return float(pause)


def _unreachable(error: psycopg.Error, job_id: str | None) -> HotMeshError:
    reason = " ".join(str(error).split())
    return ConnectionLostError(
        f"cannot reach the database: {reason}", job_id=job_id, sqlstate=error.sqlstate
    )


def _in_doubt(call: Call[Any]) -> ConnectionLostError:
    what = f'the call about job "{call.job_id}"' if call.job_id else "the call"
    return ConnectionLostError(
        f"the connection broke, and whether {what} took effect is unknown",
        hint="read the state before you repeat it; a start with on_conflict='existing' is safe",
        job_id=call.job_id,
    )


class _Session:
    """What both sessions know: the database, the app, and whether they were seen working."""

    def __init__(
        self,
        connection: object = None,
        app_id: str = "memflow",
        *,
        provision: bool = True,
        prepare_threshold: int | None = 5,
        pool_size: int = POOL_SIZE,
    ) -> None:
        self.source = resolve(connection)
        self.app_id = _codec.text(app_id, "app_id")
        self.provision = provision
        self.prepare_threshold = prepare_threshold
        self.pool_size = pool_size
        self.ready = False
        self.closed = False
        self.patience = PATIENCE_SECONDS
        self.embedded = False
        self.lenient = False  # a worker's: answers may hold values that can't be read
        _OPEN.add(self)

    @property
    def dsn(self) -> str:
        """The DSN; starts the embedded server if nothing else was named, and then blocks."""
        if not self.source.dsn:
            embedded = importlib.import_module("hotmesh.embedded")
            self.source = Source(str(embedded.dsn()), named=False)
            self.embedded = True
        return self.source.dsn

    def options(self) -> dict[str, Any]:
        """What an own connection is opened with, next to the DSN."""
        named = conninfo_to_dict(self.dsn)
        extra = {"connect_timeout": CONNECT_SECONDS, "application_name": "hotmesh"}
        extra["client_encoding"] = "UTF8"  # else a database in SQL_ASCII answers in bytes
        options: dict[str, Any] = {k: v for k, v in extra.items() if k not in named}
        return {**options, "autocommit": True, "prepare_threshold": self.prepare_threshold}

    def install(self) -> None:
        """Put the engine into the database. Blocks."""
        install = importlib.import_module("hotmesh.install")
        with psycopg.connect(self.dsn, **self.options()) as conn:
            install.install(conn)
            if self.embedded:
                install.refresh(conn)

    def provision_steps(self) -> Steps:
        """Check engine and app and provide what is missing: yields calls, and None for `install`.

        Another process may provision at the same time: what fails here and is there afterwards is
        good.
        """
        try:
            spoken = yield _calls.protocol()
        except (NotInstalledError, ProtocolError) as missing:
            spoken = yield from self._install_steps(missing)
        self.check_protocol(spoken)
        yield from self._build_steps()
        try:
            yield self.app_probe()
        except NotAllowedError:
            pass  # a worker's key does not open this door; the first real call will tell
        except AppNotFoundError as missing:
            yield from self._create_steps(missing)
        self.ready = True

    def _build_steps(self) -> Steps:
        """Compare the engine's build with the driver's; an embedded one follows the driver."""
        install, built = importlib.import_module("hotmesh.install"), None
        for attempt in (1, 2):
            try:
                built = yield _calls.build()
            except NotAllowedError:
                return  # an older key: nothing can be said
            except ProtocolError:
                built = None  # an engine from before there were builds
            if install.fits(built or (yield _calls.version())):
                return
            if not (self.embedded and self.provision and attempt == 1):
                break
            yield None
        _LOG.warning(install.OTHER_BUILD, built, install.build())

    def _install_steps(self, missing: HotMeshError) -> Generator[Call[Any] | None, Any, int]:
        if not self.provision:
            raise missing
        failure = missing
        try:
            yield None
        except HotMeshError as error:
            failure = error
        try:
            spoken: int = yield _calls.protocol()
        except (NotInstalledError, ProtocolError):
            raise failure from None
        return spoken

    def _create_steps(self, missing: HotMeshError) -> Steps:
        if not self.provision:
            raise missing
        try:
            yield _calls.app_create(self.app_id)
        except HotMeshError as failure:
            try:
                yield self.app_probe()
            except AppNotFoundError:
                raise failure from None

    def lacking(self, error: psycopg.Error) -> bool:
        """Whether a check on the caller's connection failed for want of engine or app."""
        missing = errors.from_sql(error)
        if isinstance(missing, NotAllowedError):
            return False
        if self.source.named and isinstance(
            missing, NotInstalledError | ProtocolError | AppNotFoundError
        ):
            return True
        raise missing from error

    def check_protocol(self, spoken: int) -> None:
        """Raise :class:`ProtocolError` unless engine and driver speak the same protocol."""
        if spoken == _calls.PROTOCOL:
            return
        older = spoken < _calls.PROTOCOL
        raise ProtocolError(
            f"the engine speaks protocol {spoken}, this driver speaks {_calls.PROTOCOL}",
            hint="run: hotmesh upgrade" if older else "run: pip install --upgrade hotmesh",
        )

    def check_open(self) -> None:
        """Raise :class:`ConnectionLostError` after `close()`."""
        if self.closed:
            raise ConnectionLostError("this client is closed", hint="make a new one")

    def __del__(self) -> None:
        """Let go of the connections of a client that nobody closed; there is no answer to wait for."""
        for conn in getattr(self, "_idle", ()):
            conn.pgconn.finish()

    def app_probe(self) -> Call[Any]:
        """A call that does nothing, and fails when the app does not exist."""
        return _calls.job_results(self.app_id, [])


class _Plan:
    """Steps that ask for one thing after the other; `step` is what they ask for now."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.done = False
        self.step: Call[Any] | None = None
        self.answered(None)

    def answered(self, answer: Any) -> None:
        """Go on with the answer to the present step."""
        try:
            self.step = self._steps.send(answer)
        except StopIteration:
            self.done = True

    def failed(self, error: HotMeshError) -> None:
        """Go on, if the steps can, with the error of the present step."""
        try:
            self.step = self._steps.throw(error)
        except StopIteration:
            self.done = True


_OPEN: weakref.WeakSet[_Session] = weakref.WeakSet()


def _usable(conn: AnyConnection) -> bool:
    return not conn.closed and conn.info.transaction_status == TransactionStatus.IDLE


def execute(conn: psycopg.Connection[Any], call: Call[T]) -> T:
    with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
        cursor.execute(call.sql, call.params)
        return call.read(cursor.fetchall() if cursor.rownumber is not None else ())


async def execute_async(conn: psycopg.AsyncConnection[Any], call: Call[T]) -> T:
    async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
        await cursor.execute(call.sql, call.params)
        return call.read(await cursor.fetchall() if cursor.rownumber is not None else ())


def _on(conn: psycopg.Connection[Any], call: Call[T]) -> T:
    """Run a call on the caller's connection; its transaction stays the caller's business."""
    try:
        return execute(conn, call)
    except psycopg.Error as error:
        raise errors.from_sql(error, call.job_id) from error


def _lacks(session: _Session, conn: psycopg.Connection[Any]) -> bool:
    """Look at engine and app through the caller's connection, under a savepoint."""
    try:
        with conn.transaction():
            session.check_protocol(execute(conn, _calls.protocol()))
            execute(conn, session.app_probe())
    except psycopg.Error as error:
        return session.lacking(error)
    session.ready = True
    return False


# --- blocking -------------------------------------------------------------------------------------


class SyncSession(_Session):
    """Runs calls and blocks; may be used by many threads."""

    def __init__(self, connection: object = None, app_id: str = "memflow", **options: Any) -> None:
        super().__init__(connection, app_id, **options)
        self._gate = threading.BoundedSemaphore(self.pool_size)
        self._idle: list[psycopg.Connection[Any]] = []
        self._provisioning = threading.Lock()

    def run(self, call: Call[T], conn: object = None) -> T:
        """The call's answer; on `conn`, the caller's own connection, inside its transaction."""
        self.check_open()
        if conn is not None:
            return self._run_on(conn, call)
        self.ensure()
        return self._run(call)

    def ensure(self) -> None:
        """Check the engine and the app, once; provision what is missing if that is allowed."""
        if self.ready:
            return
        with self._provisioning:
            plan = None if self.ready else _Plan(self.provision_steps())
            while plan and not plan.done:
                self._take(plan)

    def _take(self, plan: _Plan) -> None:
        try:
            answer = self._run(plan.step) if plan.step else self._install()
        except HotMeshError as error:
            plan.failed(error)
        else:
            plan.answered(answer)

    def _install(self) -> Any:
        try:
            self.install()
        except psycopg.Error as error:
            raise errors.from_sql(error) from error

    def _run(self, call: Call[T]) -> T:
        tries = _Tries(self)
        while True:
            try:
                with self._lend() as conn:
                    return execute(conn, call)
            except (psycopg.Error, _UnreachableError) as error:
                step, cause = tries.after(error, call), error
            time.sleep(step.pause)
            if step.probe is not None and self._run(step.probe):
                raise _in_doubt(call) from cause

    def _run_on(self, conn: object, call: Call[T]) -> T:
        if not isinstance(conn, psycopg.Connection):
            raise wrong_connection(conn)
        if not self.ready and _lacks(self, conn):
            self.ensure()
        return _on(conn, call)

    @contextlib.contextmanager
    def _lend(self) -> Iterator[psycopg.Connection[Any]]:
        if self.source.has_sync_pool:
            with contextlib.ExitStack() as stack:
                try:
                    conn = stack.enter_context(self.source.pool.connection())
                except psycopg.Error as error:
                    raise _UnreachableError(error) from error
                yield conn
            return
        with self._gate:
            conn = self._idle.pop() if self._idle else self._connect()
            try:
                yield conn
            finally:
                self._give_back(conn)

    def _connect(self) -> psycopg.Connection[Any]:
        dsn, options = self.dsn, self.options()
        try:
            return psycopg.connect(dsn, **options)
        except psycopg.Error as error:
            raise _UnreachableError(error) from error

    def connect(self) -> psycopg.Connection[Any]:
        """A new connection, autocommit, that belongs to the caller."""
        try:
            return self._connect()
        except _UnreachableError as error:
            raise _unreachable(error.cause, None) from error.cause

    def _give_back(self, conn: psycopg.Connection[Any]) -> None:
        if self.closed or not _usable(conn):
            conn.close()
            self._drop_idle()
        else:
            self._idle.append(conn)

    def _drop_idle(self) -> None:
        """One broken connection means that the others are broken too, or soon will be."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close the connections of this session; a pool that the user gave stays open."""
        self.closed = True
        self._drop_idle()


# --- async ----------------------------------------------------------------------------------------


class AsyncSession(_Session):
    """Runs calls without blocking the event loop."""

    def __init__(self, connection: object = None, app_id: str = "memflow", **options: Any) -> None:
        super().__init__(connection, app_id, **options)
        self._gate = asyncio.Semaphore(self.pool_size)
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._provisioning = asyncio.Lock()

    async def run(self, call: Call[T], conn: object = None) -> T:
        """The call's answer; on `conn`, the caller's own connection, inside its transaction."""
        self.check_open()
        if conn is not None:
            return await self._run_on(conn, call)
        await self.ensure()
        return await self._run(call)

    async def ensure(self) -> None:
        """Check the engine and the app, once; provision what is missing if that is allowed."""
        if self.ready:
            return
        async with self._provisioning:
            plan = None if self.ready else _Plan(self.provision_steps())
            while plan and not plan.done:
                await self._take(plan)

    async def _take(self, plan: _Plan) -> None:
        try:
            answer = await (self._run(plan.step) if plan.step else self._install())
        except HotMeshError as error:
            plan.failed(error)
        else:
            plan.answered(answer)

    async def _install(self) -> Any:
        try:
            await asyncio.to_thread(self.install)
        except psycopg.Error as error:
            raise errors.from_sql(error) from error

    async def _run(self, call: Call[T]) -> T:
        tries = _Tries(self)
        while True:
            try:
                async with self._lend() as conn:
                    return await execute_async(conn, call)
            except (psycopg.Error, _UnreachableError) as error:
                step, cause = tries.after(error, call), error
            await asyncio.sleep(step.pause)
            if step.probe is not None and await self._run(step.probe):
                raise _in_doubt(call) from cause

    async def _run_on(self, conn: object, call: Call[T]) -> T:
        if isinstance(conn, psycopg.Connection):
            if not self.ready and await asyncio.to_thread(_lacks, self, conn):
                await self.ensure()
            return await asyncio.to_thread(_on, conn, call)
        if not isinstance(conn, psycopg.AsyncConnection):
            raise wrong_connection(conn)
        if not self.ready and await self._lacks(conn):
            await self.ensure()
        try:
            return await execute_async(conn, call)
        except psycopg.Error as error:
            raise errors.from_sql(error, call.job_id) from error

    async def _lacks(self, conn: psycopg.AsyncConnection[Any]) -> bool:
        """Look at engine and app through the caller's connection, under a savepoint."""
        try:
            async with conn.transaction():
                self.check_protocol(await execute_async(conn, _calls.protocol()))
                await execute_async(conn, self.app_probe())
        except psycopg.Error as error:
            return self.lacking(error)
        self.ready = True
        return False

    @contextlib.asynccontextmanager
    async def _lend(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        if self.source.has_async_pool:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    conn = await stack.enter_async_context(self.source.pool.connection())
                except psycopg.Error as error:
                    raise _UnreachableError(error) from error
                yield conn
            return
        async with self._gate:
            conn = self._idle.pop() if self._idle else await self._connect()
            try:
                yield conn
            finally:
                await self._give_back(conn)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if not self.source.dsn:
            await asyncio.to_thread(lambda: self.dsn)  # starts the embedded server
        try:
            conn = await psycopg.AsyncConnection.connect(self.dsn, **self.options())
        except psycopg.Error as error:
            raise _UnreachableError(error) from error
        if self.lenient:
            set_json_loads(_codec.readable, conn)
        return conn

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """A new connection, autocommit, that belongs to the caller."""
        try:
            return await self._connect()
        except _UnreachableError as error:
            raise _unreachable(error.cause, None) from error.cause

    async def _give_back(self, conn: psycopg.AsyncConnection[Any]) -> None:
        if self.closed or not _usable(conn):
            await conn.close()
            await self._drop_idle()
        else:
            self._idle.append(conn)

    async def _drop_idle(self) -> None:
        """One broken connection means that the others are broken too, or soon will be."""
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Close the connections of this session; a pool that the user gave stays open."""
        self.closed = True
        await self._drop_idle()


async def close_all() -> None:
    """Close every session of this process."""
    for session in list(_OPEN):
        if isinstance(session, AsyncSession):
            await session.close()
        elif isinstance(session, SyncSession):
            session.close()
