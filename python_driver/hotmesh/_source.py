"""Where the database is: what `connection=` may be, everywhere in the package."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .errors import InvalidArgumentError

__all__ = ["Source", "resolve", "wrong_connection"]


@dataclass(frozen=True)
class Source:
    """A database: its DSN (empty means embedded), the user's pool, and whether it was named."""

    dsn: str
    pool: Any = None
    named: bool = True

    @property
    def has_async_pool(self) -> bool:
        """Whether the user gave a pool of async connections."""
        return self.pool is not None and inspect.iscoroutinefunction(self.pool.getconn)

    @property
    def has_sync_pool(self) -> bool:
        """Whether the user gave a pool of blocking connections."""
        return self.pool is not None and not self.has_async_pool


def resolve(connection: object = None) -> Source:
    """Where the database is: a DSN, a psycopg pool, the seeds' dict, `DATABASE_URL`, or embedded.

    Raises :class:`InvalidArgumentError` for anything else. Does no I/O: the embedded server is
    started by the first use.
    """
    if connection is None:
        dsn = os.environ.get("DATABASE_URL", "")
        return Source(_checked(dsn), named=False) if dsn else Source("", named=False)
    if isinstance(connection, Source):
        return connection
    if isinstance(connection, str):
        if not connection.strip():
            raise InvalidArgumentError("connection is an empty text", hint=_CONNECTION_HINT)
        return Source(_checked(connection))
    if isinstance(connection, Mapping):
        return Source(_checked(_from_mapping(connection)))
    if _looks_like_pool(connection):
        return Source(_dsn_of_pool(connection), pool=connection)
    raise InvalidArgumentError(
        f"connection is a {type(connection).__name__}, which names no database",
        hint=_CONNECTION_HINT,
    )


_CONNECTION_HINT = "pass a DSN, a psycopg pool, or nothing for DATABASE_URL or the embedded server"


def _checked(dsn: str) -> str:
    """The DSN, refused early (and without its password) when libpq cannot read it."""
    try:
        conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):
        raise InvalidArgumentError(
            "connection is not a DSN that Postgres can read",
            hint="such as postgresql://user@localhost:5432/mydb",
        ) from None
    return dsn


_OPTION_NAMES = {"database": "dbname", "username": "user", "pass": "password"}


def _from_mapping(connection: Mapping[Any, Any]) -> str:
    options = connection.get("options", connection)
    if not isinstance(options, Mapping):
        raise InvalidArgumentError("connection['options'] must be a dict", hint=_CONNECTION_HINT)
    for name in ("connectionString", "connection_string", "dsn", "conninfo"):
        if isinstance(options.get(name), str) and options[name]:
            return str(options[name])
    named = {_OPTION_NAMES.get(str(name), str(name)): value for name, value in options.items()}
    named.pop("class", None)
    if not named:
        raise InvalidArgumentError(
            "connection is a dict that names no database", hint=_CONNECTION_HINT
        )
    try:
        return make_conninfo("", **{name: str(value) for name, value in named.items()})
    except psycopg.Error as error:
        raise InvalidArgumentError(f"connection: {error}", hint=_CONNECTION_HINT) from None


def _looks_like_pool(connection: object) -> bool:
    return hasattr(connection, "getconn") and hasattr(connection, "conninfo")


_NOT_IN_A_DSN = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}


def _dsn_of_pool(pool: Any) -> str:
    """The DSN behind a pool: for what needs a connection of its own (LISTEN, install)."""
    conninfo, extra = pool.conninfo, pool.kwargs or {}
    if not isinstance(conninfo, str) or not isinstance(extra, Mapping):
        raise InvalidArgumentError(
            "the pool computes its conninfo by a function", hint="pass a pool made with a DSN"
        )
    named = {name: value for name, value in extra.items() if name not in _NOT_IN_A_DSN}
    return make_conninfo(conninfo, **named)


def wrong_connection(conn: object) -> InvalidArgumentError:
    """What `conn=` was, and what it has to be."""
    return InvalidArgumentError(
        f"conn is a {type(conn).__name__}, not a psycopg connection that can be used here",
        hint="SyncClient takes a psycopg.Connection, Client also a psycopg.AsyncConnection",
    )
