"""The server, the databases and the helpers that every test may ask for; see README.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories

from hotmesh import embedded
from support import engine
from support.clock import Clock
from support.cluster import crashable, share, throw_away
from support.crash import Child
from support.engine import CALLER, OWNER, STRANGER, Server
from support.sessions import Session

OWN_SERVER = pytest.StashKey[ExitStack]()

# The same examples in each run; `--hypothesis-profile=search` looks for others.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", print_blob=True)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    """Start a server, unless one is named: each of xdist's workers its own.

    Tests count pages and WAL, and an open transaction of a neighbour keeps dead rows everywhere.
    """
    if config.option.postgresql_host:
        os.environ["HOTMESH_TEST_DSN"] = _server(config).conninfo("postgres")
    elif "HOTMESH_TEST_DSN" not in os.environ:
        if config.getoption("numprocesses", None):
            return
        stack = config.stash.setdefault(OWN_SERVER, ExitStack())
        server = stack.enter_context(throw_away())
        engine.lay_out_extension(share(server))
        os.environ["HOTMESH_TEST_DSN"] = server.admin_dsn
    where = conninfo_to_dict(os.environ["HOTMESH_TEST_DSN"])
    for name in ("host", "port", "user", "password"):
        setattr(config.option, f"postgresql_{name}", where.get(name))
    if OWN_SERVER in config.stash or not hasattr(config, "workerinput"):
        _server(config).create_roles()


def _server(config: pytest.Config) -> Server:
    option = config.option
    return Server(
        host=option.postgresql_host or "localhost",
        port=int(option.postgresql_port or 5432),
        admin=option.postgresql_user or "postgres",
        password=option.postgresql_password,
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    if OWN_SERVER in config.stash:
        config.stash[OWN_SERVER].close()
        del os.environ["HOTMESH_TEST_DSN"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs on the plain install, and on both when it is marked `both_modes`."""
    if "mode" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_modes")
        modes = ["plain", "extension"] if both else ["plain"]
        metafunc.parametrize("mode", modes, indirect=True, scope="session")


# Filled once per process, by pytest-postgresql, and only when a test needs them.
template_plain = factories.postgresql_noproc(
    dbname="hotmesh_plain", load=[partial(engine.load, "plain")]
)
template_extension = factories.postgresql_noproc(
    dbname="hotmesh_extension", load=[partial(engine.load, "extension")]
)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    """The server; `server.database()` lends an empty database that OWNER owns."""
    return _server(pytestconfig)


@pytest.fixture(scope="session")
def mode(request: pytest.FixtureRequest, server: Server) -> str:
    """How the engine was installed: 'plain', or for tests marked both_modes also 'extension'."""
    mode: str = getattr(request, "param", "plain")
    if mode == "extension":
        with server.connect() as admin:
            found = admin.execute(
                "select from pg_available_extensions where name = 'hotmesh'"
            ).rowcount
        if not found:
            pytest.skip("this server has no hotmesh.control: run make install, or use Postgres 18")
    return mode


@pytest.fixture
def dbname(request: pytest.FixtureRequest, server: Server, mode: str) -> Iterator[str]:
    """A fresh clone of the template: engine, the app `my-app`, and CALLER with an operator's key."""
    template = request.getfixturevalue(f"template_{mode}").template_dbname
    with server.database(template) as name:
        yield name


@pytest.fixture
def dsn(server: Server, dbname: str) -> str:
    """The clone, as the engine's owner."""
    return server.conninfo(dbname, OWNER)


@pytest.fixture
def caller_dsn(server: Server, dbname: str) -> str:
    """The clone, as a role that holds nothing but the key that `app_grant` gives."""
    return server.conninfo(dbname, CALLER)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """The owner's connection, autocommit: sees the tables of `my_app`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def caller(caller_dsn: str) -> Iterator[psycopg.Connection]:
    """The unprivileged connection, autocommit: tests of doors call them through it."""
    with psycopg.connect(caller_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def stranger(server: Server, dbname: str) -> Iterator[psycopg.Connection]:
    """A role without any key."""
    with psycopg.connect(server.conninfo(dbname, STRANGER), autocommit=True) as connection:
        yield connection


@pytest.fixture
def admin(server: Server, dbname: str) -> Iterator[psycopg.Connection]:
    """A superuser in the clone: for pg_stat_activity and pg_terminate_backend."""
    with server.connect(dbname) as connection:
        yield connection


@pytest.fixture
def clock(dsn: str) -> Iterator[Clock]:
    """Time travel for every session of this clone."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield Clock(connection)


@pytest.fixture
def sessions(dsn: str, admin: psycopg.Connection) -> Iterator[Callable[..., tuple[Session, ...]]]:
    """`a, b = sessions("a", "b")`: named connections; `dsn=` chooses another role."""
    with ExitStack() as stack:

        def open_sessions(*names: str, dsn: str = dsn) -> tuple[Session, ...]:
            opened = tuple(Session(name, dsn, admin) for name in names)
            for session in opened:
                stack.callback(session.close)
            return opened

        yield open_sessions


@pytest.fixture
def child(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`child(path_or_module, *args, dsn=…)`: a Python process, killed when the test ends."""
    children: list[Child] = []

    def start(program: str | Path, *args: str, dsn: str = dsn, **env: str) -> Child:
        log = tmp_path / f"child-{len(children)}.log"
        children.append(Child(program, *args, dsn=dsn, log=log, env=env))
        return children[-1]

    yield start
    for each in children:
        each.kill()


@pytest.fixture
def crash_server() -> Iterator[embedded.Server]:
    """A server of one's own with fsync on; `restart("immediate")` is the power cut.

    Its database `crash` has the engine and the app `my-app`:
    `crash_server.conninfo("crash", "hotmesh_owner")`, or as `hotmesh_caller`.
    """
    with crashable() as own:
        server = Server(str(own.socket), 5432, "postgres", None)
        server.create_roles()
        with server.connect() as admin:
            admin.execute("create database crash")
        engine.load("plain", host=server.host, port=5432, user="postgres", dbname="crash")
        yield own


def pytest_report_header(config: pytest.Config) -> str:
    started = OWN_SERVER in config.stash
    return f"postgres: {config.option.postgresql_host} ({'our own' if started else 'given'})"
