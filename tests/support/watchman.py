"""Who waits for a lock, and for how long."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

Wait = tuple[str, str, float]


class Watchman:
    """Samples who waits for a lock of any kind, every few milliseconds, and for how long.

    A wait is known by its process and the moment it began; what is kept is the longest time that
    it was seen. One that begins and ends between two samples is shorter than those few
    milliseconds, and only makes the percentiles look worse by being left out.
    """

    def __init__(self, connection: psycopg.Connection[Any], pause: float = 0.004) -> None:
        self.connection, self.pause = connection, pause
        self.over = threading.Event()
        self.waits: dict[tuple[int, Any], Wait] = {}
        self.samples = 0
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.over.wait(self.pause):
            self.samples += 1
            for pid, since, kind, mode, seconds in self.connection.execute(
                "select l.pid, l.waitstart, l.locktype, l.mode,"
                " extract(epoch from clock_timestamp() - l.waitstart)::float8"
                " from pg_locks l where not l.granted and l.waitstart is not null"
            ):
                self.waits[pid, since] = (kind, mode, seconds)

    def __enter__(self) -> Watchman:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def seconds(self) -> list[float]:
        return sorted(wait[2] for wait in self.waits.values())


def percentile(sorted_values: list[float], part: float) -> float:
    """The value that `part` of them do not exceed; 0 of none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(int(len(sorted_values) * part), len(sorted_values) - 1)]


def deadlocks(admin: psycopg.Connection[Any]) -> tuple[int, int]:
    """Deadlocks and commits of this database."""
    admin.execute("select pg_stat_clear_snapshot()")
    row = admin.execute(
        "select deadlocks, xact_commit from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row
    return int(row[0]), int(row[1])
