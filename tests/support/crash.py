"""Crashes: a worker in a process of its own, SIGKILL, and backends that are terminated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from support.cluster import ROOT
from support.waiting import wait_until


def python_path() -> str:
    """PYTHONPATH for a child: the driver's source and the tests."""
    places = [str(ROOT / "python_driver"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, places))


class Child:
    """A Python process: a script or `-m module`, the DSN in DATABASE_URL, output in a file."""

    def __init__(
        self,
        program: str | Path,
        *args: str,
        dsn: str,
        log: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        is_file = isinstance(program, Path) or str(program).endswith(".py")
        command = [sys.executable, *([] if is_file else ["-m"]), str(program), *args]
        self.log = log
        variables = {"PYTHONPATH": python_path(), "DATABASE_URL": dsn, "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **variables, **(env or {})},
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_for_output(self, text: str, timeout: float = 20.0) -> None:
        """Wait until the child has printed `text`; fail at once when it has died before."""

        def seen() -> bool:
            if text in self.output:
                return True
            if not self.is_alive():
                raise AssertionError(
                    f"the child ended with {self.process.returncode}:\n{self.output}"
                )
            return False

        wait_until(seen, timeout, f"{text!r} in the child's output")

    def wait_for_death(self, timeout: float = 30.0) -> None:
        """Wait until the child has ended; what it printed is told when it lives on."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the child lives on:\n{self.output}") from None

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed or handed back."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout: float = 20.0) -> int:
        """SIGTERM, then wait for a graceful end; returns the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def _end(self, how: signal.Signals, timeout: float = 20.0) -> int:
        if self.is_alive():
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout)
            raise


def terminate_backends(
    admin: psycopg.Connection[Any], dbname: str, applications: Sequence[str] | None = None
) -> int:
    """End all other backends of a database, or those with one of these application names."""
    rows = admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'"
        "   and (%s::text[] is null or application_name = any(%s::text[]))",
        [dbname, applications, applications],
    ).fetchall()
    return len(rows)
