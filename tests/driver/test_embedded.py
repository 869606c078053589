"""The embedded server: shared by processes, however they die, and by whoever they are."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from hotmesh import _binaries, embedded, install
from hotmesh.embedded import Server, ephemeral
from hotmesh.errors import EmbeddedError
from support.crash import python_path
from support.waiting import wait_until

ATTACH = """
import encodings.idna, os, sys
from hotmesh import embedded
import hotmesh.install, psycopg, psycopg_binary
if uid := int(os.environ.get("HM_BECOME", "0")):  # here, as it may not be able to run this Python
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
print(embedded.dsn(), flush=True)
sys.stdin.read()
"""

Attach = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for a server, which is stopped whatever happens."""
    directory = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
    _binaries.server_user().own(directory)
    monkeypatch.setenv("HOTMESH_HOME", str(directory))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    yield directory
    if any(directory.glob("pg*/data/postmaster.pid")):
        Server(directory).stop("immediate")
    shutil.rmtree(directory)


@pytest.fixture
def attach(home: Path) -> Iterator[Attach]:
    """Start a process that attaches to the server and stays until its input closes."""
    started: list[subprocess.Popen[str]] = []

    def start(become: int = 0) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": python_path(), "HM_BECOME": str(become)}
        process = subprocess.Popen(
            [sys.executable, "-c", ATTACH], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=env, cwd="/",
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        assert process.stdout.readline().startswith("host=")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def postmaster(home: Path) -> int | None:
    files = list(home.glob("pg*/data/postmaster.pid"))
    return int(files[0].read_text().split()[0]) if files else None


def test_the_role_is_no_superuser_and_owns_the_database(home: Path) -> None:
    with Server() as server:
        assert ask(server.dsn, "select current_user") == "hotmesh"
        assert not ask(server.dsn, "select usesuper from pg_user where usename = current_user")
        assert ask(
            server.dsn, "select pg_get_userbyid(datdba) from pg_database where datname='hotmesh'"
        )
        assert ask(server.dsn, "show listen_addresses") == ""
        assert ask(server.admin_dsn, "select usesuper from pg_user where usename = current_user")


def test_a_table_of_the_user_s_goes_into_public_and_not_among_the_engine_s(home: Path) -> None:
    with Server() as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        install.install(connection)
        connection.execute("create table orders (id text)")
        connection.execute("select hotmesh.app_create('memflow')")
        found = connection.execute(
            "select relnamespace::regnamespace::text from pg_class where relname = 'orders'"
        )
        assert found.fetchall() == [("public",)]


def test_data_is_kept_between_runs(home: Path) -> None:
    with Server() as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("create table t as select 42 as n")
    assert postmaster(home) is None
    with Server() as server:
        assert ask(server.dsn, "select n from t") == 42


def test_the_last_one_out_stops_the_server(home: Path, attach: Attach) -> None:
    first, second = attach(), attach()
    running = postmaster(home)
    leave(first)
    assert running and postmaster(home) == running
    leave(second)
    assert postmaster(home) is None


def test_a_killed_process_takes_nobody_with_it(home: Path, attach: Attach) -> None:
    first, second = attach(), attach()
    running = postmaster(home)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert ask(Server(home).dsn, "select 1") == 1
    assert postmaster(home) == running
    leave(second)
    assert postmaster(home) is None


def test_what_a_killed_process_left_running_is_attached_to(home: Path, attach: Attach) -> None:
    only = attach()
    running = postmaster(home)
    only.kill()
    only.wait()
    next_one = attach()
    assert postmaster(home) == running
    leave(next_one)
    assert postmaster(home) is None


def test_many_at_once_start_one_server(home: Path) -> None:
    Server().start().close()
    env = {**os.environ, "PYTHONPATH": python_path()}
    script = ATTACH.replace("sys.stdin.read()", "")
    commands = [[sys.executable, "-c", script] for _ in range(5)]
    processes = [subprocess.Popen(c, env=env, stdout=subprocess.DEVNULL) for c in commands]
    assert [process.wait() for process in processes] == [0] * 5
    assert postmaster(home) is None


def test_a_killed_postmaster_comes_back_with_its_data(home: Path) -> None:
    with Server() as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("create table t as select 42 as n")
        with psycopg.connect(server.dsn) as idle:
            server.stop("kill")
            server.start()
            with pytest.raises(psycopg.OperationalError):
                idle.execute("select 1")
        assert ask(server.dsn, "select n from t") == 42


def test_a_pid_file_that_names_another_process_is_not_believed(home: Path) -> None:
    server = Server().start()
    file = next(home.glob("pg*/data")) / "postmaster.pid"
    text = file.read_text()
    server.stop("kill")
    file.write_text(text.replace(text.split()[0], str(os.getpid()), 1))
    assert ask(server.start().dsn, "select 1") == 1
    server.close()


def test_an_interrupted_initialisation_is_done_again(home: Path) -> None:
    major = Server().version
    draft = home / f"pg{major}" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("half")
    _binaries.server_user().own(home)
    with Server() as server:
        assert ask(server.dsn, "select 1") == 1


def test_a_forked_child_leaves_its_parents_server_alone(home: Path) -> None:
    script = """
import os
from hotmesh import embedded
dsn = embedded.dsn()
if os.fork() == 0:
    raise SystemExit
os.wait()
import psycopg
psycopg.connect(dsn).close()
"""
    env = {**os.environ, "PYTHONPATH": python_path()}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=env, check=True)
    assert postmaster(home) is None


def test_a_path_too_long_for_a_socket(home: Path) -> None:
    with Server(home / ("long" * 25)) as server:
        assert str(server.socket).startswith("/tmp/hotmesh-")
        assert ask(server.dsn, "select 1") == 1
    shutil.rmtree(server.socket)


def test_an_ephemeral_server_leaves_nothing() -> None:
    with ephemeral(settings={"work_mem": "8MB"}) as server:
        assert ask(server.dsn, "show work_mem") == "8MB"
        assert ask(server.dsn, "show fsync") == "off"
        socket = server.socket
    assert not server.home.exists()
    assert not socket.exists()


def test_an_ephemeral_server_dies_with_its_process() -> None:
    script = ATTACH.replace(
        "print(embedded.dsn()", "c = embedded.ephemeral(); print(c.__enter__().home"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    )  # fmt: skip
    assert process.stdout
    directory = Path(process.stdout.readline().strip())
    assert directory.exists()
    process.kill()
    process.communicate()
    wait_until(lambda: not directory.exists(), timeout=20, what="the files to go")


def test_no_postgres_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTMESH_PG_BIN", "/nowhere")
    with pytest.raises(EmbeddedError, match="no Postgres was found") as caught:
        Server()
    assert caught.value.hint


def test_data_of_another_major_is_not_passed_over(home: Path) -> None:
    (home / "pg9" / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedError, match="needs Postgres 9"):
        Server()


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(EmbeddedError, match="ended") as caught:
        Server(settings={"work_mem": "nonsense"}).start()
    assert "work_mem" in str(caught.value.detail)


def test_without_a_home_there_is_still_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOTMESH_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nowhere")
    assert embedded.default_home() == Path("/var/tmp/hotmesh-1234")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@as_root
def test_root_and_the_owner_share_a_server(home: Path, attach: Attach) -> None:
    other = attach(become=home.stat().st_uid)
    running = postmaster(home)
    with Server(home) as server:
        assert postmaster(home) == running
        assert ask(server.dsn, "select 1") == 1
    leave(other)
    assert postmaster(home) is None


@as_root
def test_root_serves_the_owner_of_the_directory(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    with Server(home) as server:
        assert ask(server.dsn, "select 1") == 1
        assert Path(f"/proc/{postmaster(home)}").stat().st_uid == nobody.pw_uid


@as_root
def test_binaries_below_a_closed_directory_are_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(_binaries._installed()).bin
    package = source.parent.parent
    closed = tmp_path / "closed"
    shutil.copytree(source.parent, closed / package.name / source.parent.name, symlinks=True)
    if (libs := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libs, closed / libs.name)
    closed.chmod(0o700)
    monkeypatch.setenv("HOTMESH_PG_BIN", str(closed / package.name / source.parent.name / "bin"))
    with Server() as server:
        assert ask(server.dsn, "select 1") == 1
    assert len(list(home.glob("copy-*"))) == 1
