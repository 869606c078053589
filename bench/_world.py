"""The database that is measured, and what its statistics say."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench._count import Aside
from hotmesh import embedded
from hotmesh.install import install

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
"""No checkpoint in the middle of a scenario, and its tables in memory; all else as Postgres ships."""

QUEUE = "bench"
BENCH = "hotmesh bench"


@dataclass(frozen=True)
class Stats:
    """Counters of the server at one moment."""

    commits: int
    flushes: int


@dataclass(frozen=True)
class Wal:
    """What was written between two positions of the log."""

    bytes: int
    full_page_images: int
    commits: int


class World:
    """One database for one run of the bench; `monitor` is in another one, so it counts for nothing."""

    def __init__(self, admin: str, dsn: str, database: str) -> None:
        self.dsn = dsn
        self.database = database
        self.monitor: psycopg.Connection[Any] = psycopg.connect(
            admin, autocommit=True, cursor_factory=Aside
        )
        self.version = self.monitor.info.server_version // 10_000
        self.inspects_wal = self._try("create extension if not exists pg_walinspect")
        with self.connect() as conn:
            install(conn)

    def connect(self) -> psycopg.Connection[Any]:
        """The bench's own connection to the database that is measured."""
        return psycopg.connect(
            self.dsn, autocommit=True, prepare_threshold=2, application_name=BENCH
        )

    def ask(self, query: str, *params: object) -> Any:
        """One value from the monitor."""
        row = self.monitor.execute(query.encode(), params).fetchone()
        assert row is not None
        return row[0]

    def _try(self, statement: str) -> bool:
        try:
            self.monitor.execute(statement.encode())
        except psycopg.Error:
            return False
        return True

    @contextmanager
    def app(self, name: str) -> Iterator[str]:
        """An app of its own for one scenario, dropped afterwards; the log begins with a checkpoint."""
        app = f"bench_{name}"
        with self.connect() as conn:
            conn.execute("select hotmesh.app_create(%s)", [app])
        self._try("checkpoint")
        try:
            yield app
        finally:
            with self.connect() as conn:
                conn.execute("select hotmesh.app_drop(%s, true)", [app])

    def start(self, app: str, workflow: str, args: list[Any]) -> list[int]:
        """Start one job per argument, in one call; returns their ids."""
        requests = [{"workflow": workflow, "queue": QUEUE, "args": [arg]} for arg in args]
        with self.connect() as conn:
            rows = conn.execute(
                "select id from hotmesh.job_start_many(%s, %s::jsonb)", [app, json.dumps(requests)]
            )
            return [row[0] for row in rows]

    # --- statistics

    def position(self) -> str:
        """The end of the log."""
        return str(self.ask("select pg_current_wal_insert_lsn()"))

    def settled(self) -> Stats:
        """The counters once every session has ended, for a session counts when it ends at the latest."""
        for _ in range(100):
            if not self.ask(
                "select count(*) from pg_stat_activity"
                " where datname = %s and backend_type = 'client backend' and application_name <> %s",
                self.database,
                BENCH,
            ):
                break
            time.sleep(0.05)
        self.monitor.execute("select pg_stat_force_next_flush()")
        commits = self.ask(
            "select xact_commit from pg_stat_database where datname = %s", self.database
        )
        return Stats(commits, self._flushes())

    def _flushes(self) -> int:
        if self.version >= 18:
            return int(self.ask("select sum(fsyncs) from pg_stat_io where object = 'wal'"))
        return int(self.ask("select wal_sync from pg_stat_wal"))

    def _await_flush(self, end: str) -> None:
        """Only what is flushed can be read; where commits don't wait, the log's writer takes a moment."""
        for _ in range(100):
            if self.ask("select pg_current_wal_flush_lsn() >= %s", end):
                return
            time.sleep(0.02)

    def wal(self, begin: str, end: str) -> Wal:
        """The log between two positions: exact with pg_walinspect, else without images' sizes."""
        self._await_flush(end)
        if not self.inspects_wal or begin == end:
            return Wal(int(self.ask("select %s::pg_lsn - %s::pg_lsn", end, begin)), 0, 0)
        row = self.monitor.execute(
            "select coalesce(sum(record_size), 0)::bigint, coalesce(sum(fpi_size), 0)::bigint,"
            " coalesce(sum(count) filter (where r like 'Transaction/COMMIT%%'), 0)::bigint"
            ' from pg_get_wal_stats(%s, %s, true) as s (r, count, "count %%", record_size, "record %%",'
            ' fpi_size, "fpi %%", combined_size, "combined %%")',
            [begin, end],
        ).fetchone()
        assert row is not None
        return Wal(*row)


@contextmanager
def embedded_world() -> Iterator[World]:
    """A server of one's own, on disk, with fsync."""
    with embedded.ephemeral(fsync=True, settings=SETTINGS) as server:
        world = World(server.admin_dsn, server.dsn, embedded.DATABASE)
        try:
            yield world
        finally:
            world.monitor.close()


@contextmanager
def given_world(dsn: str) -> Iterator[World]:
    """A database of one's own on a server that is there."""
    name = f"hotmesh_bench_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    world = World(dsn, make_conninfo(dsn, dbname=name), name)
    try:
        yield world
    finally:
        world.monitor.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        world.monitor.close()


def machine(world: World) -> dict[str, Any]:
    """The hardware as found, and the settings that matter."""
    names = "shared_buffers fsync synchronous_commit full_page_writes wal_sync_method"
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "postgres": world.ask("select current_setting('server_version')"),
        "fdatasync_us": round(_fdatasync_us()),
        "filesystem": _filesystem(),
        "wal_counted_by": "pg_walinspect" if world.inspects_wal else "position, images included",
        "settings": {name: world.ask("select current_setting(%s)", name) for name in names.split()},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _filesystem() -> str:
    try:
        command = ["df", "--output=fstype", tempfile.gettempdir()]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()[
            -1
        ]
    except (OSError, IndexError):
        return "unknown"


def _fdatasync_us() -> float:
    """The median of 200 flushes of one page, where the server's data is."""
    flush = getattr(os, "fdatasync", os.fsync)
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(200):
            file.seek(0)
            file.write(os.urandom(8192))
            file.flush()
            began = time.perf_counter()
            flush(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[100] * 1e6
