"""Time travel: a clone's `hotmesh.now()` is replaced by one that reads a table.

It holds for every session and process that uses the clone; the engine knows nothing of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

REPLACEMENT = """
create schema if not exists hotmesh_test;
create table if not exists hotmesh_test.clock (frozen_at timestamptz, moved interval not null);
insert into hotmesh_test.clock select null, '0' where not exists (select from hotmesh_test.clock);
grant usage on schema hotmesh_test to public;
grant select on hotmesh_test.clock to public;
create or replace function hotmesh.now() returns timestamptz language sql volatile as $$
    select coalesce(c.frozen_at, pg_catalog.clock_timestamp()) + c.moved from hotmesh_test.clock c
$$;
"""


class Clock:
    """The clock of one database; it works through a connection of its own."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute(REPLACEMENT)

    def now(self) -> datetime:
        row = self._connection.execute("select hotmesh.now()").fetchone()
        assert isinstance(row, tuple)
        instant: datetime = row[0]
        return instant

    def advance(self, by: str) -> datetime:
        """Move on by an interval; a negative one goes back."""
        self._connection.execute("update hotmesh_test.clock set moved = moved + %s::interval", [by])
        return self.now()

    def freeze(self, at: str | datetime | None = None) -> datetime:
        """Stop at an instant, by default this one; `advance` still moves it."""
        self._connection.execute(
            "update hotmesh_test.clock"
            " set frozen_at = coalesce(%s::timestamptz, hotmesh.now()), moved = '0'",
            [at],
        )
        return self.now()

    def thaw(self) -> None:
        """Run again, with the true time."""
        self._connection.execute("update hotmesh_test.clock set frozen_at = null, moved = '0'")
