"""Two-session choreography without sleeping: who waits for a lock is read from Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg

from support.waiting import wait_until

Rows = list[tuple[Any, ...]]


class Session:
    """A named connection (`application_name`) that can run one statement in the background."""

    def __init__(self, name: str, dsn: str, observer: psycopg.Connection[Any]) -> None:
        self.name = name
        self.conn = psycopg.connect(dsn, application_name=name, autocommit=True)
        self.pid = self.conn.info.backend_pid
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def run(self, statement: str, params: Sequence[Any] | None = None) -> Rows:
        """Run a statement; return its rows, or an empty list."""
        cursor = self.conn.execute(statement, params)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, params: Sequence[Any] | None = None) -> Any:
        """The first column of the first row; None without a row."""
        rows = self.run(statement, params)
        return rows[0][0] if rows else None

    def run_async(self, statement: str, params: Sequence[Any] | None = None) -> Future[Rows]:
        """Run it in the background: `.result(timeout)` gives the rows or raises."""
        return self._thread.submit(self.run, statement, params)

    def begin(self) -> None:
        self.run("begin")

    def commit(self) -> None:
        self.run("commit")

    def rollback(self) -> None:
        self.run("rollback")

    def is_blocked(self) -> bool:
        """True while the session waits for a lock that another one holds."""
        row = self._observer.execute(
            "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s", [self.pid]
        ).fetchone()
        return bool(row and row[0])

    def wait_blocked(self, timeout: float = 30.0) -> None:
        wait_until(self.is_blocked, timeout, f"session {self.name} to block")

    def terminate(self) -> None:
        """End its backend, as an administrator would."""
        self._observer.execute("select pg_terminate_backend(%s)", [self.pid])

    def close(self) -> None:
        self.conn.cancel_safe(timeout=5)
        self._thread.shutdown()
        self.conn.close()
