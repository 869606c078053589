"""Put the engine into a database, in either install mode, with one app and one caller."""

from __future__ import annotations

import functools
import importlib.util
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from support.cluster import ROOT

APP = "my-app"
OWNER = "hotmesh_owner"  # owns the engine: an ordinary role, no superuser
CALLER = "hotmesh_caller"  # holds an operator's key, which also is a client's and a worker's
STRANGER = "hotmesh_stranger"  # holds nothing
PASSWORD = "hotmesh"
KIND = "operator"


@dataclass(frozen=True)
class Server:
    """Where the test server is; `admin` may create roles and databases."""

    host: str
    port: int
    admin: str
    password: str | None

    def conninfo(self, dbname: str, role: str | None = None) -> str:
        """A conninfo for the admin, or for one of the roles of the tests."""
        password = PASSWORD if role else self.password
        more = {} if password is None else {"password": password}
        user = role or self.admin
        return make_conninfo(host=self.host, port=self.port, user=user, dbname=dbname, **more)

    def connect(self, dbname: str = "postgres", role: str | None = None) -> psycopg.Connection:
        return psycopg.connect(self.conninfo(dbname, role), autocommit=True)

    def create_roles(self) -> None:
        """Roles belong to the whole server, so they are made once and kept."""
        with self.connect() as admin:
            for role in (OWNER, CALLER, STRANGER):
                if not admin.execute("select from pg_roles where rolname = %s", [role]).rowcount:
                    admin.execute(
                        sql.SQL("create role {} login password {}").format(
                            sql.Identifier(role), sql.Literal(PASSWORD)
                        )
                    )
            admin.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(OWNER)))

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database that OWNER owns, cloned from a template; dropped afterwards."""
        name = f"hm_{secrets.token_hex(5)}"
        with self.connect() as admin:
            admin.execute(
                sql.SQL("create database {} template {} owner {}").format(
                    sql.Identifier(name), sql.Identifier(template or "template0"),
                    sql.Identifier(OWNER),
                )
            )  # fmt: skip
            try:
                yield name
            finally:
                admin.execute(
                    sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
                )


@functools.cache
def artefacts() -> dict[Path, str]:
    """What extension/build.py makes of sql/ as it is now: the tests never run on a stale build."""
    spec = importlib.util.spec_from_file_location("hotmesh_build", ROOT / "extension/build.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return dict(builder.artefacts())


def plain_sql() -> str:
    """The plain file, for a Postgres where `create extension` is not possible."""
    return artefacts()[ROOT / "extension/hotmesh.sql"]


def lay_out_extension(directory: Path) -> None:
    """Put control file and scripts to where `extension_control_path` finds them."""
    target = directory / "extension"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "hotmesh.control", target)
    for file in (ROOT / "extension").glob("hotmesh--*.sql"):
        shutil.copy(file, target)
    for file, text in artefacts().items():
        (target / file.name).write_text(text)
    for path in (directory, target, *target.iterdir()):
        path.chmod(0o755)


def install(connection: psycopg.Connection[Any], mode: str) -> None:
    """Install the engine as the connection's role."""
    if mode == "extension":
        connection.execute("create extension hotmesh")
    else:
        connection.execute(plain_sql().encode())


def create_app(connection: psycopg.Connection[Any], app: str = APP) -> None:
    """Create an app and hand CALLER its key."""
    connection.execute("select hotmesh.app_create(%s)", [app])
    connection.execute("select hotmesh.app_grant(%s, %s, %s)", [app, CALLER, KIND])


def load(mode: str, **where: Any) -> None:
    """What pytest-postgresql calls to fill a template database."""
    where.pop("autocommit", None)
    with psycopg.connect(**where, autocommit=True) as admin:
        admin.execute(
            sql.SQL("alter database {} owner to {}").format(
                sql.Identifier(where["dbname"]), sql.Identifier(OWNER)
            )
        )
    with psycopg.connect(
        **{**where, "user": OWNER, "password": PASSWORD}, autocommit=True
    ) as owner:
        install(owner, mode)
        create_app(owner)


def room_files() -> list[Path]:
    return sorted((ROOT / "sql").glob("[0-9][0-9]_*.sql"))
