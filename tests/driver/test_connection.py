"""Connections: what names a database, what a broken one costs, what the first use provides, LISTEN."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest

from hotmesh import _calls, embedded, errors
from hotmesh._listen import Listener
from hotmesh._session import AsyncSession, SyncSession
from hotmesh._source import resolve
from hotmesh.client import Client, SyncClient
from support.engine import Server
from support.waiting import wait_until

APP = "my-app"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def bare_dsn(server: Server) -> Iterator[str]:
    """A database without the engine, owned by an ordinary role."""
    with server.database() as name:
        yield server.conninfo(name, "hotmesh_owner")


SHIP: dict[str, Any] = {"workflow_name": "ship", "task_queue": "orders", "args": ["item-123", 5]}

# --- connections ---


@pytest.mark.parametrize(
    "connection",
    ["", "  ", 7, b"x", "postgres://[", {"options": "x"}, {"a": 1}, {"class": psycopg}],
)
def test_what_names_no_database_is_refused(connection: Any) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"^connection"):
        SyncClient(connection)


def test_the_dict_of_the_seeds_names_a_database() -> None:
    seeds = {"class": psycopg, "options": {"connectionString": "postgresql://localhost/mydb"}}
    assert resolve(seeds).dsn == "postgresql://localhost/mydb"
    parts = {"options": {"host": "h", "port": 5433, "database": "d", "user": "u"}}
    assert psycopg.conninfo.conninfo_to_dict(resolve(parts).dsn) == {
        "host": "h",
        "port": "5433",
        "dbname": "d",
        "user": "u",
    }


async def test_a_refused_connection_is_a_clear_error_at_once() -> None:
    with pytest.raises(errors.ConnectionLostError, match=r"cannot reach the database.*refused"):
        await Client(NOWHERE).workflow.start(**SHIP)
    with pytest.raises(errors.ConnectionLostError, match=r"cannot reach the database.*refused"):
        SyncClient(NOWHERE).workflow.start(**SHIP)


async def test_an_async_pool_is_used_and_left_open(dsn: str) -> None:
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        async with Client(pool, APP) as client:
            handle = await client.workflow.start(**SHIP)
            assert client._session._idle == []
        assert await Client(pool, APP).workflow.get_handle(workflow_id=handle.workflow_id).status()
        with SyncClient(pool, APP) as twin:
            assert twin.workflow.get_handle(workflow_id=handle.workflow_id).status()


async def test_a_blocking_pool_is_used_and_left_open(dsn: str) -> None:
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=2, open=True) as pool:
        with SyncClient(pool, APP) as client:
            handle = client.workflow.start(**SHIP)
            assert client._session._idle == []
        async with Client(pool, APP) as twin:
            assert await twin.workflow.get_handle(workflow_id=handle.workflow_id).status()


def terminate(admin: psycopg.Connection) -> None:
    admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'hotmesh' and datname = current_database()"
    )


async def test_a_terminated_backend_costs_nothing(
    client: Client, admin: psycopg.Connection
) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    waiting = asyncio.create_task(handle.result(timeout=0.5))
    for number in range(5):
        terminate(admin)
        assert await handle.status() > 0
        terminate(admin)
        assert await client.workflow.start(**SHIP)
        terminate(admin)
        assert await client.workflow.start(**SHIP, workflow_id=f"explicit-{number}")
    with pytest.raises(errors.TimedOutError):
        await waiting


def test_a_terminated_backend_costs_the_blocking_twin_nothing(
    sync_client: SyncClient, admin: psycopg.Connection
) -> None:
    for number in range(5):
        terminate(admin)
        assert sync_client.workflow.start(**SHIP, workflow_id=f"order-{number}").status() > 0


def test_a_start_whose_answer_was_lost_is_in_doubt(
    sync_client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the commit: repeating could refuse our own job."""
    sync_client.workflow.start(**SHIP)
    execute = psycopg.Cursor.execute

    def lose(self: Any, query: Any, *args: Any, **rest: Any) -> Any:
        answer = execute(self, query, *args, **rest)
        if "job_start" in str(query):
            monkeypatch.undo()
            self.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(psycopg.Cursor, "execute", lose)
    with pytest.raises(errors.ConnectionLostError, match="unknown") as caught:
        sync_client.workflow.start(**SHIP, workflow_id="order-1")
    assert caught.value.job_id == "order-1"
    monkeypatch.setattr(psycopg.Cursor, "execute", lose)
    made_up = sync_client.workflow.start(**SHIP)
    assert made_up.status() > 0


@pytest.mark.parametrize("code", ["40001", "40P01", "26000"])
def test_what_was_rolled_back_is_repeated(
    sync_client: SyncClient, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    sync_client.workflow.start(**SHIP)
    execute, calls = psycopg.Cursor.execute, []

    def refuse(self: Any, *args: Any, **rest: Any) -> Any:
        calls.append(code)
        if len(calls) < 3:
            raise psycopg.errors.lookup(code)("try again")
        return execute(self, *args, **rest)

    monkeypatch.setattr(psycopg.Cursor, "execute", refuse)
    assert sync_client.workflow.start(**SHIP, workflow_id="order-1")
    assert (sync_client._session.prepare_threshold is None) == (code == "26000")


def test_a_power_cut_costs_no_start_that_was_acknowledged(crash_server: embedded.Server) -> None:
    dsn = crash_server.conninfo("crash", "hotmesh_owner")
    acknowledged, in_doubt, stop = [], [], threading.Event()

    def start_one(client: SyncClient, key: str) -> None:
        try:
            acknowledged.append(client.workflow.start(**SHIP, workflow_id=key).workflow_id)
        except errors.ConnectionLostError:
            in_doubt.append(key)

    def keep_starting(client: SyncClient) -> None:
        for number in itertools.count():
            start_one(client, f"order-{number}")
            if stop.is_set():
                return

    with SyncClient(dsn, APP) as client:
        starter = threading.Thread(target=keep_starting, args=[client])
        starter.start()
        for _ in range(2):
            seen = len(acknowledged)
            wait_until(lambda seen=seen: len(acknowledged) > seen + 20, 20, "twenty starts")
            crash_server.restart("immediate")
        stop.set()
        starter.join()
        assert len(in_doubt) <= 2
        statuses = [client.workflow.get_handle(workflow_id=key).status() for key in acknowledged]
    assert all(status > 0 for status in statuses)


async def test_tasks_that_meet_a_new_client_at_once_check_it_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    protocol = _calls.protocol
    monkeypatch.setattr(_calls, "protocol", lambda: asked.append(1) or protocol())
    await asyncio.gather(*(client.workflow.start(**SHIP) for _ in range(20)))
    assert len(asked) == 1


# --- the engine and the app are provided ---


async def test_the_first_use_provides_engine_and_app(bare_dsn: str) -> None:
    async with Client(bare_dsn, "shop") as client:
        assert await (await client.workflow.start(**SHIP)).status() > 0


def test_a_session_that_may_not_provision_misses_the_engine(bare_dsn: str) -> None:
    with pytest.raises(errors.NotInstalledError):
        SyncClient(session=SyncSession(bare_dsn, "shop", provision=False)).workflow.start(**SHIP)


def test_a_session_that_may_not_provision_misses_the_app(dsn: str) -> None:
    with pytest.raises(errors.AppNotFoundError, match="shop"):
        SyncClient(session=SyncSession(dsn, "shop", provision=False)).workflow.start(**SHIP)


def test_processes_that_provision_at_once_all_succeed(bare_dsn: str) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def use() -> None:
        try:
            with SyncClient(bare_dsn, "shop") as client:
                barrier.wait()
                client.workflow.start(**SHIP)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_engine_of_another_protocol_is_refused(
    sync_client: SyncClient, db: psycopg.Connection
) -> None:
    db.execute(
        "create or replace function hotmesh.protocol() returns integer language sql immutable "
        "as 'select 99'"
    )
    with pytest.raises(errors.ProtocolError, match=r"protocol 99.*speaks 1") as caught:
        sync_client.workflow.start(**SHIP)
    assert "pip install" in (caught.value.hint or "")


def test_a_stranger_is_told_that_it_may_not(server: Server, dbname: str) -> None:
    with SyncClient(server.conninfo(dbname, "hotmesh_stranger"), APP) as client:
        with pytest.raises(errors.NotAllowedError):
            client.workflow.start(**SHIP)


# --- LISTEN ---


async def test_a_listener_hears_proves_itself_and_comes_back(
    dsn: str, db: psycopg.Connection, admin: psycopg.Connection
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    session = AsyncSession(dsn, APP)
    listener = Listener(session, "orders", heard.put_nowait)
    try:
        assert await listener.proven()
        assert await heard.get() == ""
        db.execute("notify orders, 'one'")
        assert await asyncio.wait_for(heard.get(), 5) == "one"
        terminate(admin)
        assert await asyncio.wait_for(heard.get(), 5) == ""
        assert await listener.proven()
        db.execute("notify orders, 'two'")
        assert await asyncio.wait_for(heard.get(), 5) == "two"
    finally:
        await listener.close()
        await session.close()


@pytest.mark.parametrize("timeout", ["soon", -1])
async def test_a_wait_for_no_duration_is_refused_and_leaves_nothing(
    client: Client, timeout: Any
) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    with pytest.raises(errors.InvalidArgumentError, match="timeout"):
        await handle.result(timeout=timeout)
    assert client._watcher._waiting == {}
