"""The engine by the command line tool: installed, upgraded, missing, and run by `hotmesh up`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotmesh import _binaries, embedded
from support.crash import python_path
from support.engine import OWNER, STRANGER, Server
from support.shell import APP, Tool, only_a_sentence
from support.waiting import wait_until


@pytest.fixture
def empty(server: Server) -> Iterator[str]:
    """A database without the engine."""
    with server.database() as name:
        yield server.conninfo(name, OWNER)


def test_install_makes_engine_and_app_and_may_be_repeated(bare: Tool, empty: str) -> None:
    first = bare("install", "--mode", "plain", "--dsn", empty, "--json")
    assert first.document["created"] is True
    assert (first.document["mode"], first.document["app"]) == ("plain", "memflow")
    again = bare("install", "--dsn", empty)
    assert again.status == 0
    assert "app memflow was there" in again.out
    assert bare("start", "total", "--id", "a", "--dsn", empty).out == "a\n"


def test_upgrade_brings_engine_and_app_up_to_date(tool: Tool) -> None:
    said = tool("upgrade")
    assert said.status == 0
    assert "app my-app is up to date" in said.out
    assert tool("upgrade", "--json").document["app"] == "my-app"


def test_upgrade_without_an_app_is_fine_unless_one_was_named(bare: Tool, dsn: str) -> None:
    assert bare("upgrade", "--dsn", dsn).status == 0
    only_a_sentence(bare("upgrade", "--dsn", dsn, "--app", "nix"), 1, 'unknown app "nix"')


def test_up_takes_no_other_database(bare: Tool, dsn: str) -> None:
    only_a_sentence(bare("up", "--dsn", dsn), 2, "a Postgres of its own: it takes no --dsn")


def test_doctor_finds_what_is_missing(bare: Tool, tool: Tool, empty: str, dsn: str) -> None:
    checks = {check["check"]: check["state"] for check in tool("doctor", "--json").document}
    names = ("database", "engine", "app", "owner", "listen", "snapshots", "apps", "messages")
    assert {name: checks[name] for name in names} == dict.fromkeys(names, "ok")
    assert checks["autovacuum"] == "note", "the server of the tests has none"
    for words, name in (
        (["--dsn", empty], "engine"),
        (["--dsn", dsn, "--app", "nix"], "app"),
        (["--dsn", "host=/nowhere"], "database"),
    ):
        said = bare("doctor", "--json", *words)
        assert said.status == 1
        bad = [check for check in said.document if check["state"] == "no"]
        assert [check["check"] for check in bad] == [name]


@pytest.mark.parametrize(
    "words",
    [["jobs"], ["job", "a"], ["signal", "a", "go"], ["signal", "go"], ["workers"], ["top"],
     ["history", "a"], ["prune"], ["interrupt", "a"]],
)  # fmt: skip
def test_looking_provisions_nothing(bare: Tool, empty: str, dsn: str, words: list[str]) -> None:
    only_a_sentence(bare(*words, "--dsn", empty), 1, "hotmesh install")
    only_a_sentence(bare(*words, "--dsn", dsn, "--app", "nix"), 1, 'unknown app "nix"')


@pytest.mark.parametrize(
    "words",
    [["jobs"], ["start", "x"], ["install"], ["worker", "flows:total"], ["top"], ["cancel", "a"]],
)
def test_a_database_that_is_not_there(bare: Tool, flows: Path, words: list[str]) -> None:
    only_a_sentence(bare(*words, "--dsn", f"host={flows}"), 1, "cannot reach the database")
    only_a_sentence(bare(*words, "--dsn", "nonsense ="), 1, "is not a DSN")


def test_a_role_without_a_key(bare: Tool, server: Server, dbname: str) -> None:
    stranger = server.conninfo(dbname, STRANGER)
    for words in (["jobs"], ["start", "x"], ["install"]):
        only_a_sentence(bare(*words, "--dsn", stranger, *APP), 1, "permission|may not|not allowed")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for an embedded server."""
    directory = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
    _binaries.server_user().own(directory)
    monkeypatch.setenv("HOTMESH_HOME", str(directory))
    yield directory
    if any(directory.glob("pg*/data/postmaster.pid")):
        embedded.Server(directory).stop("immediate")
    shutil.rmtree(directory)


def test_up_runs_the_embedded_server_until_it_is_stopped(home: Path, bare: Tool) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "hotmesh", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        dsn = process.stdout.readline().strip()
        try:
            assert bare("start", "total", "--id", "a", "--dsn", dsn).out == "a\n"
            assert bare("doctor", "--dsn", dsn).status == 0
        finally:
            process.terminate()
        assert process.wait(20) == 0
    wait_until(lambda: not any(home.glob("pg*/data/postmaster.pid")), 10, "the server's end")


def test_up_ends_when_somebody_else_stops_its_server(home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "hotmesh", "up"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            embedded.Server(home).stop()
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "the server was stopped by somebody else" in said
