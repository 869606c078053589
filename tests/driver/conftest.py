"""A client, a house of workers, a HotMesh, the command line tool: for the files that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hotmesh import Client, HotMesh, SyncClient, cli
from support.crash import Child, python_path
from support.echo import Open
from support.flows import APP, House, opened
from support.shell import APP as OPTION
from support.shell import FLOWS, Said, Start, Tool


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


@pytest.fixture
async def mesh(dsn: str) -> AsyncIterator[Open]:
    """Opens a HotMesh of the app; closes it in the end."""

    async def opened(*workers: Any, deploy: str = "", **more: Any) -> HotMesh:
        told = [
            worker if isinstance(worker, dict) else {"topic": worker[0], "callback": worker[1]}
            for worker in workers
        ]
        made = await HotMesh.init(app_id=APP, connection=dsn, workers=told, **more)
        if deploy:
            await made.activate((await made.deploy(deploy))["version"])
        return made

    yield opened
    await HotMesh.stop()


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where one stands: it has the module `flows`."""
    (tmp_path / "flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """`bare("jobs")`: run a command in this process, with no database in the environment."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("HMSH_LOGLEVEL", raising=False)

    def run(*words: str) -> Said:
        with pytest.raises(SystemExit) as end:
            cli.main(list(words))
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def tool(bare: Tool, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The same, with the test's database in DATABASE_URL, and the app of the template."""

    def run(*words: str) -> Said:
        monkeypatch.setenv("DATABASE_URL", dsn)
        return bare(*words[:1], *OPTION, *words[1:])

    return run


@pytest.fixture
def worker(child: Start, flows: Path) -> Start:
    """`worker("flows:total", "--queue", "q")`: `hotmesh worker`, once it serves."""

    def start(*words: str) -> Child:
        process = child("hotmesh", "worker", *words, *OPTION, PYTHONPATH=f"{flows}:{python_path()}")
        process.wait_for_output("Ctrl-C stops it")
        return process

    return start


@pytest.fixture
def sync_client(dsn: str) -> Iterator[SyncClient]:
    with SyncClient(dsn, APP) as client:
        yield client


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    async with Client(dsn, APP) as client:
        yield client
