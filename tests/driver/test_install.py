"""Installing the engine: both forms, again, at once, upgraded, refused; and the files themselves."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest

from hotmesh import MemFlow, SyncClient, _binaries, embedded, install
from hotmesh.errors import (
    HotMeshError,
    InvalidArgumentError,
    NotAllowedError,
    NotInstalledError,
    ProtocolError,
)
from support.cluster import ROOT
from support.engine import OWNER, STRANGER, Server

Connection = psycopg.Connection[Any]
VERSION = install.version()


@pytest.fixture
def empty(server: Server) -> Iterator[str]:
    """A database without the engine, as its owner."""
    with server.database() as name:
        yield server.conninfo(name, OWNER)


@pytest.fixture
def conn(empty: str) -> Iterator[Connection]:
    with psycopg.connect(empty, autocommit=True) as connection:
        yield connection


def has_extension(conn: Connection) -> bool:
    query = "select from pg_available_extensions where name = 'hotmesh'"
    return bool(conn.execute(query).rowcount)


def snapshot(conn: Connection) -> list[Any]:
    """Every function of the engine with its row's version: whether anything was done again."""
    query = "select oid, xmin::text from pg_proc where pronamespace = 'hotmesh'::regnamespace"
    return sorted(conn.execute(query).fetchall())


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_a_second_install_changes_nothing(conn: Connection, form: Any) -> None:
    if form == "extension" and not has_extension(conn):
        pytest.skip("this server does not have the files")
    installed = install.install(conn, form)
    assert installed == install.Installed(VERSION, install.PROTOCOL, form)
    before = snapshot(conn)
    assert install.install(conn) == install.install(conn, "plain") == install.check(conn)
    assert snapshot(conn) == before


def test_auto_takes_the_extension_where_the_server_has_it(conn: Connection) -> None:
    assert install.install(conn).mode == ("extension" if has_extension(conn) else "plain")


@pytest.mark.parametrize("form", ["plain", "auto"])
def test_many_at_once_install_once(empty: str, form: Any) -> None:
    def run(_: int) -> install.Installed:
        with psycopg.connect(empty) as connection:
            return install.install(connection, form)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(run, range(4)))) == 1


async def test_the_asynchronous_twins(empty: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty) as connection:
        with pytest.raises(NotInstalledError):
            await install.check_async(connection)
        installed = await install.install_async(connection, "plain")
        assert await install.upgrade_async(connection) == installed
        assert await install.check_async(connection) == installed


def test_an_install_belongs_to_the_callers_transaction(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        install.install(conn, "plain")
    with pytest.raises(NotInstalledError, match="has no HotMesh engine") as caught:
        install.check(conn)
    assert "hotmesh install" in str(caught.value.hint)


def test_who_may_not_create_is_told_so(server: Server, empty: str) -> None:
    dbname = psycopg.conninfo.conninfo_to_dict(empty)["dbname"]
    with psycopg.connect(server.conninfo(str(dbname), STRANGER)) as connection:
        with pytest.raises(NotAllowedError, match="may not install") as caught:
            install.install(connection)
    assert "grant create" in str(caught.value.hint)


def test_who_may_not_use_it_is_told_so(stranger: Connection) -> None:
    with pytest.raises(NotAllowedError, match="may not use"):
        install.check(stranger)


def test_a_foreign_schema_of_our_name_is_not_touched(conn: Connection) -> None:
    conn.execute("create schema hotmesh")
    conn.execute("create table hotmesh.mine (n int)")
    with pytest.raises(HotMeshError, match="not the engine's"):
        install.install(conn)


def test_the_schema_that_a_dropped_extension_leaves_is_no_obstacle(conn: Connection) -> None:
    conn.execute("create schema hotmesh")
    assert install.install(conn).version == VERSION


def test_a_server_without_the_files_says_so(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "version", lambda: "99.0.0")
    with pytest.raises(NotInstalledError, match="does not have the files"):
        install.install(conn, "extension")


@pytest.mark.parametrize(
    ("protocol", "words"),
    [(install.PROTOCOL - 1, "the engine is older"), (install.PROTOCOL + 1, "the driver is older")],
)
def test_another_protocol_is_refused(conn: Connection, protocol: int, words: str) -> None:
    install.install(conn, "plain")
    body = (
        f"create or replace function hotmesh.protocol() returns int language sql return {protocol}"
    )
    conn.execute(body.encode())
    for use in (install.check, install.install):
        with pytest.raises(ProtocolError, match=words):
            use(conn)


def test_a_plain_upgrade_replays_behaviour_and_keeps_state(conn: Connection) -> None:
    install.install(conn, "plain")
    conn.execute("select hotmesh.app_create('kept')")
    conn.execute(
        "create or replace function hotmesh.version() returns text language sql return 'x'"
    )
    with pytest.raises(ProtocolError, match="no way to upgrade the engine from x"):
        install.upgrade(conn)
    conn.execute(
        "create or replace function hotmesh.now() returns timestamptz language sql "
        "as $$select timestamptz 'epoch'$$"
    )
    conn.execute(
        f"create or replace function hotmesh.version() returns text language sql return '{VERSION}'".encode()
    )
    install.upgrade(conn)
    assert conn.execute(
        "select hotmesh.now() > '2000-01-01', name from hotmesh.apps"
    ).fetchall() == [(True, "kept")]


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A repository one version on: its files are the driver's from here on."""
    for name in ("sql", "extension"):
        shutil.copytree(ROOT / name, tmp_path / name)
    control = (ROOT / "hotmesh.control").read_text()
    (tmp_path / "hotmesh.control").write_text(control.replace(VERSION, "99.0.0"))
    house = tmp_path / "sql/00_house.sql"
    house.write_text(house.read_text().replace(f"'{VERSION}'", "'99.0.0'"))
    (tmp_path / "extension/upgrade").mkdir(exist_ok=True)
    delta = tmp_path / f"extension/upgrade/{VERSION}--99.0.0.sql"
    delta.write_text("alter table hotmesh.jobs add column mood text;\n")
    subprocess.run([sys.executable, tmp_path / "extension/build.py"], check=True)
    files = [tmp_path / "hotmesh.control", *sorted((tmp_path / "extension").glob("hotmesh*.sql"))]
    home = _binaries.server_user().own(Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp")))
    monkeypatch.setenv("HOTMESH_HOME", str(home))  # where a copy of the binaries may get our files
    for module in (install, embedded):
        monkeypatch.setattr(module, "extension_files", lambda: tuple(files))
    monkeypatch.setattr(install, "version", lambda: "99.0.0")
    monkeypatch.setattr(install, "build", install.build.__wrapped__)
    yield "99.0.0"
    shutil.rmtree(home)


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_an_upgrade_to_the_next_version(next_version: str, form: str) -> None:
    with embedded.ephemeral() as server:
        if form == "extension" and not server.takes_extension:
            pytest.skip("this Postgres takes no files from outside")
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            if form == "extension":
                conn.execute(f"create extension hotmesh version '{VERSION}'".encode())
            else:
                conn.execute((ROOT / "extension/hotmesh.sql").read_bytes())
            conn.execute("select hotmesh.app_create('my-app')")
            assert install.install(conn) == install.Installed(VERSION, install.PROTOCOL, form)  # type: ignore[arg-type]
            upgraded = install.upgrade(conn)
            assert upgraded == install.Installed(next_version, install.PROTOCOL, form)  # type: ignore[arg-type]
            assert conn.execute("select mood from my_app.jobs").fetchall() == []
            assert install.upgrade(conn) == upgraded


# --- the files


def program(name: str) -> Path:
    path = next(_binaries._installed()).bin / name
    if not path.exists():
        pytest.skip(f"this Postgres comes without {name}")
    return path


def psql(dsn: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [program("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-q", "-d", dsn, "-f", file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_psql_reads_the_plain_file(empty: str, conn: Connection) -> None:
    done = psql(empty, ROOT / "extension/hotmesh.sql")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert install.check(conn) == install.Installed(VERSION, install.PROTOCOL, "plain")
    again = psql(empty, ROOT / "extension/hotmesh.sql")
    assert again.returncode != 0
    assert "has the engine of HotMesh already" in again.stderr
    assert "hotmesh upgrade" in again.stderr


def test_psql_stops_at_the_guard_of_the_extension(empty: str, conn: Connection) -> None:
    done = psql(empty, ROOT / f"extension/hotmesh--{VERSION}.sql")
    assert 'Use "create extension hotmesh"' in done.stdout
    with pytest.raises(NotInstalledError):
        install.check(conn)


FILES = {"hotmesh.control", f"hotmesh--{VERSION}.sql"}


def make(*arguments: str) -> str:
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_install_needs_only_a_directory(tmp_path: Path) -> None:
    for target, left in (("install", FILES), ("uninstall", set())):
        make(target, f"EXTDIR={tmp_path}/here")
        assert {file.name for file in (tmp_path / "here").iterdir()} == left


def test_make_install_needs_only_a_pg_config_that_knows_sharedir(tmp_path: Path) -> None:
    stub = tmp_path / "pg_config"
    stub.write_text(f'#!/bin/sh\n[ "$1" = --sharedir ] && echo {tmp_path}/share || exit 1\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    for target, left in (("install", FILES), ("uninstall", set())):
        make(target, f"PG_CONFIG={stub}")
        assert {file.name for file in (tmp_path / "share/extension").iterdir()} == left


def test_make_install_with_pgxs(tmp_path: Path) -> None:
    pg_config = program("pg_config")
    pgxs = subprocess.check_output([pg_config, "--pgxs"], text=True).strip()
    if not Path(pgxs).exists():
        pytest.skip("this Postgres comes without PGXS")
    for target, left in (("install", FILES), ("uninstall", set())):
        make(target, f"PG_CONFIG={pg_config}", f"DESTDIR={tmp_path}")
        assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == left


def test_the_wheel_brings_the_scripts(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    if not (ROOT / "python_driver/README.md").exists():
        pytest.skip("no README yet")
    source = tmp_path / "python_driver"
    skip = shutil.ignore_patterns("__pycache__", "dist", "_sql")
    shutil.copytree(ROOT / "python_driver", source, ignore=skip)
    shutil.copy(ROOT / "hotmesh.control", tmp_path)
    shutil.copytree(ROOT / "extension", tmp_path / "extension")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / "dist")]
    subprocess.run([*build, "-t", "sdist"], cwd=source, check=True, capture_output=True)
    sdist = next((tmp_path / "dist").glob("*.tar.gz"))
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(sdist, tmp_path / "unpacked", **safely)
    for place in (source, next((tmp_path / "unpacked").iterdir())):
        subprocess.run([*build, "-t", "wheel"], cwd=place, check=True, capture_output=True)
        wheel = next((tmp_path / "dist").glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            packed = {
                m[1] for m in (re.match(r"hotmesh/_sql/(.+)", n) for n in archive.namelist()) if m
            }
        assert FILES | {"hotmesh.sql"} <= packed
        wheel.unlink()


# --- builds of one version ------------------------------------------------------------------------


def older_build(conn: Connection, built: str) -> None:
    """As if the engine had been installed from other sources, with a function less."""
    conn.execute("drop function hotmesh.worker_list(text)")
    body = f"create or replace function hotmesh.build() returns text language sql return '{built}'"
    conn.execute(body.encode())


def other(part: int) -> str:
    parts = install.build().rsplit("-", 2)
    parts[part] = "00000000"
    return "-".join(parts)


def test_the_driver_and_what_it_installs_are_of_one_build(conn: Connection) -> None:
    assert install.install(conn, "plain").build == install.build()
    assert re.fullmatch(rf"{re.escape(VERSION)}-[0-9a-f]{{8}}-[0-9a-f]{{8}}", install.build())


def test_a_plain_engine_of_another_build_follows_the_driver(conn: Connection) -> None:
    install.install(conn, "plain")
    conn.execute("select hotmesh.app_create('kept')")
    older_build(conn, other(2))
    assert install.refresh(conn)
    assert install.check(conn).build == install.build()
    assert conn.execute("select from hotmesh.worker_list('kept')").rowcount == 0


def test_other_tables_of_the_same_version_are_refused(conn: Connection) -> None:
    install.install(conn, "plain")
    older_build(conn, other(1))
    assert not install.refresh(conn)
    with pytest.raises(ProtocolError, match="another build"):
        install.upgrade(conn)


def engine_of_another_checkout(conn: Connection) -> None:
    """As an engine of this version was before it could tell its build, with a job in it."""
    install.install(conn, "plain")
    conn.execute("select hotmesh.app_create('memflow')")
    conn.execute("select hotmesh.job_start('memflow', 'kept', key => 'kept')")
    conn.execute("drop function hotmesh.build()")
    conn.execute("alter table hotmesh.streams rename column token to badge")


def test_an_engine_that_tells_no_build_is_refused_by_all_and_left_as_it_is(
    conn: Connection, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of_another_checkout(conn)
    before = snapshot(conn)
    for use in (install.check, install.install, install.upgrade):
        with pytest.raises(ProtocolError, match=f"another build of {VERSION}") as caught:
            use(conn)
        assert "HOTMESH_HOME" in str(caught.value.hint)
    assert not install.refresh(conn)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(embedded, "dsn", lambda: empty)
    for place in (empty, None):
        with SyncClient(place) as client, pytest.raises(ProtocolError, match="with other tables"):
            client.workflow.start(workflow_name="w", task_queue="q", workflow_id="a")
    assert snapshot(conn) == before
    assert conn.execute("select key from memflow.jobs").fetchall() == [("kept",)]


@pytest.mark.both_modes
def test_an_engine_of_another_build_is_told_of_with_what_helps(
    db: psycopg.Connection, dsn: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    older_build_here = (
        f"create or replace function hotmesh.build() returns text language sql return '{other(2)}'"
    )
    db.execute(older_build_here.encode())
    with SyncClient(dsn, "my-app") as client:
        client.workflow.start(workflow_name="w", task_queue="q", workflow_id="a")
    assert "run: hotmesh upgrade" in caplog.text
    assert install.upgrade(db).build == install.build()


def test_an_embedded_engine_of_another_build_is_brought_up_to_date(
    conn: Connection,
    empty: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install.install(conn, "plain")
    conn.execute("select hotmesh.app_create('memflow')")
    older_build(conn, other(2))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(embedded, "dsn", lambda: empty)
    with SyncClient() as client:
        client.workflow.start(workflow_name="w", task_queue="q", workflow_id="a")
    assert install.check(conn).build == install.build()
    assert "hotmesh upgrade" not in caplog.text


# --- encodings ------------------------------------------------------------------------------------


@pytest.fixture
def ascii_database(server: Server) -> Iterator[str]:
    """A database as initdb makes them where no language is set."""
    with server.connect() as admin:
        admin.execute(
            "create database hm_ascii template template0 encoding 'SQL_ASCII' "
            f"lc_collate 'C' lc_ctype 'C' owner {OWNER}".encode()
        )
        try:
            yield server.conninfo("hm_ascii", OWNER)
        finally:
            admin.execute("drop database hm_ascii with (force)")


async def test_a_database_without_an_encoding_is_used_in_utf_8(ascii_database: str) -> None:
    async def greet(name: str) -> str:
        return f"Grüß Gott, {name} 🙂"

    async with await MemFlow.Worker.create(ascii_database, workflow=greet):
        async with MemFlow.Client(ascii_database) as client:
            handle = await client.workflow.start(workflow_name="greet", args=["Übü"])
            assert await handle.result(timeout=20) == "Grüß Gott, Übü 🙂"


def test_a_connection_without_an_encoding_is_refused_with_what_to_do(ascii_database: str) -> None:
    with psycopg_pool.ConnectionPool(ascii_database, min_size=1, open=True) as pool:
        with SyncClient(pool) as client, pytest.raises(InvalidArgumentError) as caught:
            client.workflow.start(workflow_name="w", task_queue="q")
    assert "client_encoding" in str(caught.value)
    assert "PGCLIENTENCODING" in str(caught.value.hint)
