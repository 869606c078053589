"""The MemFlow namespace: what it holds, what `init` provisions, and what `shutdown` closes."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import hotmesh
from hotmesh import MemFlow, _logger, activity, workflow
from hotmesh.errors import ConnectionLostError, InvalidArgumentError
from support.crash import python_path
from support.engine import APP, Server
from support.flows import wait_for


@pytest.fixture
def bare_dsn(server: Server) -> Iterator[str]:
    """A database without the engine, owned by an ordinary role."""
    with server.database() as name:
        yield server.conninfo(name, "hotmesh_owner")


async def echo(value: Any) -> Any:
    return value


async def flow(value: Any) -> Any:
    return await MemFlow.workflow.proxy_activities([echo], task_queue="acts").echo(value)


def test_the_namespace_has_the_names_of_the_contract() -> None:
    for name in ("init", "Client", "Worker", "Connection", "workflow", "register_activity_worker"):
        assert hasattr(MemFlow, name), name
    assert inspect.iscoroutinefunction(MemFlow.shutdown)
    assert MemFlow.workflow is workflow
    assert MemFlow.activity is activity
    assert MemFlow.Client is hotmesh.Client


async def test_init_provisions_engine_and_app_and_runs_a_workflow(bare_dsn: str) -> None:
    house = await MemFlow.init(app_id="brand-new", connection=bare_dsn)
    try:
        await MemFlow.register_activity_worker(
            bare_dsn, "brand-new", task_queue="acts", activities=[echo]
        )
        await MemFlow.Worker.create(bare_dsn, "brand-new", task_queue="orders", workflow=flow)
        handle = await house.workflow.start(
            args=[1], task_queue="orders", workflow_name="flow", workflow_id="o-1"
        )
        assert await handle.result(timeout=20) == 1
    finally:
        await house.shutdown()
        await MemFlow.shutdown()


async def test_init_takes_the_documents_engine_dict(dsn: str) -> None:
    async with await MemFlow.init(APP, engine={"connection": dsn}) as house:
        with pytest.raises(hotmesh.errors.JobNotFoundError):
            await house.workflow.get_handle("orders", "flow", "nobody").status()


@pytest.mark.parametrize("app_id", ["", "\x00", 7])
async def test_init_refuses_an_app_id_that_is_none(dsn: str, app_id: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="app_id"):
        await MemFlow.init(app_id=app_id, connection=dsn)


async def test_init_without_a_database_says_so_and_leaves_nothing_open() -> None:
    with pytest.raises(ConnectionLostError):
        await MemFlow.init(APP, "postgresql://nobody@127.0.0.1:1/nothing")
    assert len(asyncio.all_tasks()) == 1


async def test_connection_echoes_what_names_a_database(dsn: str) -> None:
    assert await MemFlow.Connection.connect(dsn) == dsn
    with pytest.raises(InvalidArgumentError):
        await MemFlow.Connection.connect(7)


async def test_shutdown_closes_workers_clients_tasks_threads_and_connections(
    dsn: str, admin: Any, dbname: str
) -> None:
    house = await MemFlow.init(APP, dsn)
    await MemFlow.register_activity_worker(dsn, APP, task_queue="acts", activities=[echo])
    await MemFlow.Worker.create(dsn, APP, task_queue="orders", workflow=flow)
    handle = await house.workflow.start(args=[1], task_queue="orders", workflow_name="flow")
    assert await handle.result(timeout=20) == 1
    unserved = await house.workflow.start(args=[1], task_queue="nobody", workflow_name="flow")
    waiting = asyncio.create_task(unserved.result())
    await asyncio.sleep(0)
    await MemFlow.shutdown()
    with pytest.raises(ConnectionLostError):
        await asyncio.wait_for(waiting, 5)
    mine = asyncio.current_task()
    await wait_for(lambda: asyncio.all_tasks() == {mine}, what="all tasks to end")
    assert [t.name for t in threading.enumerate() if t.name.startswith("hotmesh")] == []
    query = (
        "select count(*) from pg_stat_activity where application_name = 'hotmesh' and datname = %s"
    )
    await wait_for(lambda: admin.execute(query, [dbname]).fetchone() == (0,))


async def test_shutdown_with_nothing_open_and_twice_is_harmless() -> None:
    await MemFlow.shutdown()
    await MemFlow.shutdown()


async def test_after_shutdown_a_new_beginning_works(dsn: str) -> None:
    for _ in range(2):
        async with await MemFlow.init(APP, dsn) as house:
            await MemFlow.Worker.create(dsn, APP, task_queue="orders", workflow=echo)
            handle = await house.workflow.start(args=[1], task_queue="orders", workflow_name="echo")
            assert await handle.result(timeout=20) == 1
            await MemFlow.shutdown()


@pytest.mark.parametrize(
    ("level", "said"),
    [("", ["warning"]), ("info", ["info", "warning"]), ("ERROR", []), ("silent", [])],
)
def test_the_log_begins_at_the_level_of_the_environment(level: str, said: list[str]) -> None:
    program = (
        "import logging, hotmesh; log = logging.getLogger('hotmesh');"
        "log.debug('debug'); log.info('info'); log.warning('warning')"
    )
    env = {**os.environ, "HMSH_LOGLEVEL": level, "PYTHONPATH": python_path()}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in done.stderr.splitlines()] == said


def test_an_unknown_log_level_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HMSH_LOGLEVEL", "loud")
    _logger.set_level()
    assert "HMSH_LOGLEVEL is 'loud'; it is one of debug" in caplog.text
