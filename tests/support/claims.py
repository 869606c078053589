"""The small doors as a worker in plain SQL calls them."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from support.hand import Connection, one

CLAIM = "select * from hotmesh.stream_claim('my-app', %s, %s, %s, %s::interval)"
HOLD = "select hotmesh.stream_hold('my-app', %s, %s)"


def claim(
    connection: Connection, take: int = 1, queue: str = "default", lease: str = "15 s"
) -> list[tuple[Any, ...]]:
    """(id, token, name, args, attempt, key) of what was taken."""
    return connection.execute(CLAIM, [queue, "psql", take, lease]).fetchall()


def complete(connection: Connection, message: int, token: int, output: Any = None) -> str:
    return str(
        one(
            connection,
            "select hotmesh.stream_complete('my-app', %s, %s, %s)",
            message, token, None if output is None else Jsonb(output),
        )
    )  # fmt: skip


def fail(connection: Connection, message: int, token: int, error: Any) -> str:
    return str(
        one(
            connection,
            "select hotmesh.stream_fail('my-app', %s, %s, %s)", message, token, Jsonb(error),
        )
    )  # fmt: skip
