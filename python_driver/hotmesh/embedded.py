"""A Postgres of one's own, for whoever names no database: started, shared and stopped here.

::

    dsn = hotmesh.embedded.dsn()        # the server of this user; its data outlives the process
    with hotmesh.embedded.ephemeral() as server:        # a fresh one, which leaves nothing behind
        psycopg.connect(server.dsn)

It opens no port, only a unix socket in a directory that is closed to others. Any number of processes share
one directory and one server. Each holds a shared lock on a file while it lives; the kernel takes it back
however the process ends, and whoever gets the lock alone is the last one out and stops the server.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.conninfo import make_conninfo

from hotmesh import _binaries
from hotmesh.errors import EmbeddedError
from hotmesh.install import extension_files, provide_database

__all__ = ["Server", "dsn", "ephemeral"]

DATABASE = "hotmesh"
"""The database, and the ordinary role that owns it."""

SETTINGS = {"listen_addresses": "", "port": "5432", "jit": "off", "timezone": "UTC"}
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
"""For data nobody wants back after a power cut; the death of the server itself still loses nothing."""

SOCKET_PATH_LIMIT = 103  # bytes, on macOS; Linux has four more
PATIENCE = 60.0  # seconds; recovery after a crash takes some

# Waits until its input closes, that is until our process is gone, then ends the server and removes its files.
WATCHER = """
cat >/dev/null
kill -QUIT "$0" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1/data/postmaster.pid" ] && sleep 1; done
rm -rf "$1"
rmdir "$(dirname "$1")" 2>/dev/null
"""


def dsn() -> str:
    """The DSN of this user's own server, which is started if need be and stays while the process lives."""
    global _shared
    with _guard:
        if _shared is None or not _shared.is_ours:
            _shared = Server()
            atexit.register(_shared.close)
        return _shared.start().dsn


def is_up() -> bool:
    """Whether the server that :func:`dsn` has started or found still runs. Does not connect."""
    return _shared is not None and _shared._postmaster() is not None


_shared: Server | None = None
_guard = threading.Lock()


@contextmanager
def ephemeral(
    *, fsync: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server for a test or a measurement; it ends, and its files go, when the block or the process ends."""
    place = None if fsync else _memory()
    user = _binaries.server_user(default_home())
    home = user.own(Path(tempfile.mkdtemp(prefix="hotmesh-", dir=place)))
    chosen = {**({} if fsync else FORGETFUL), **(settings or {})}
    server = Server(home, keep=False, settings=chosen)
    try:
        yield server.start()
    finally:
        server.close()


def _memory() -> str | None:
    """Memory, if there is enough: a database is cloned ten times faster there. Docker gives 64 MB.

    A run of our tests fills 0.8 GB, and two servers may begin at once.
    """
    place = Path("/dev/shm")
    with suppress(OSError):
        if os.access(place, os.W_OK) and shutil.disk_usage(place).free >= 2 << 30:
            return str(place)
    return None


def default_home() -> Path:
    """`$HOTMESH_HOME`, or the user's data directory; root's is closed to the user it steps down to."""
    if named := os.environ.get("HOTMESH_HOME"):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/hotmesh")
    home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "hotmesh"
    with suppress(OSError):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home
    return Path(f"/var/tmp/hotmesh-{os.geteuid()}")  # users such as nobody have no home


class Server:
    """The server on one directory. Processes that name the same directory share it.

    `data` holds everything: the cluster, the log, the socket. With `keep=False` all of it is removed by
    `close`, or when the process dies.
    """

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        keep: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = Path(data).absolute() if data else default_home()
        self.keep = keep
        self.settings = dict(settings or {})
        self._user = _binaries.server_user(self.home)
        self._user.provide(self.home)
        cache = self.home if keep else default_home()
        self._user.provide(cache)
        self._binaries = _binaries.find(self.home, cache, self._user)
        self._root = self.home / f"pg{self._binaries.major}"
        self._data = self._root / "data"
        self._attached: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()

    # --- what callers need

    @property
    def dsn(self) -> str:
        """For the ordinary role `hotmesh`, which owns the database of that name."""
        return self.conninfo()

    @property
    def admin_dsn(self) -> str:
        """For the superuser."""
        return self.conninfo("postgres", "postgres")

    def conninfo(self, dbname: str = DATABASE, user: str = DATABASE) -> str:
        """A DSN for any database and role."""
        return make_conninfo("", host=str(self.socket), port=5432, dbname=dbname, user=user)

    @property
    def socket(self) -> Path:
        """The directory of the socket: beside the data, or, if that path is too long, in /tmp."""
        place = self._root / "run"
        if len(os.fsencode(place / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
            return place
        name = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]
        return Path("/tmp") / f"hotmesh-{self._user.uid}-{name}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self._root / "log"

    @property
    def version(self) -> int:
        """The major version."""
        return self._binaries.major

    @property
    def takes_extension(self) -> bool:
        """Whether `create extension hotmesh` works here; the plain file always does."""
        return self._binaries.takes_extension

    @property
    def is_ours(self) -> bool:
        """False in a forked child: it has to attach for itself."""
        return self._pid == os.getpid()

    def start(self) -> Server:
        """Attach to the running server, or start it; afterwards it answers."""
        self._user.provide(self._root, private=True)
        with self._starting():
            if self._attached is None:
                self._attached = self._open("attached.lock")
            try:
                fcntl.flock(self._attached, fcntl.LOCK_SH)
                self._start()
            except BaseException:
                self._attached.close()
                self._attached = None
                raise
        return self

    def _start(self) -> None:
        self._lay_out_extension()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        if self._postmaster() is None:
            self._launch()
        _wait(self._answers, "Postgres does not answer", self.log)
        with psycopg.connect(self.admin_dsn, autocommit=True) as admin:
            provide_database(admin, DATABASE)

    def close(self) -> None:
        """Detach; the last one out stops the server. Does nothing in a forked child."""
        if not self.is_ours:
            return
        last = self._attached is None or self._detach()
        if self._process is not None:
            self._process.returncode = 0  # others use it; it is not ours to wait for
        if last and not self.keep:
            self._remove()

    def _detach(self) -> bool:
        """Let go of the lock, and stop the server if nobody else holds it."""
        attached, self._attached = self._attached, None
        assert attached is not None
        with self._starting(), attached:
            try:
                fcntl.flock(attached, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.stop("fast" if self.keep else "immediate")
        return True

    def stop(self, mode: str = "fast") -> None:
        """Stop it for everybody: `fast`, `immediate` (as after a power cut) or `kill` (SIGKILL)."""
        how = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}[mode]
        if pid := self._postmaster():
            os.kill(pid, how)
            _wait(lambda: self._postmaster() is None, "Postgres did not stop", self.log)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def restart(self, mode: str = "fast") -> Server:
        """Stop it and start it again."""
        self.stop(mode)
        return self.start()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- the parts of start

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """One process at a time starts or stops."""
        with self._open("starting.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open(self, name: str) -> IO[bytes]:
        """A file beside the data, which stays the server user's also when root makes it."""
        file = (self._root / name).open("ab")
        if self._user.steps_down:
            os.fchown(file.fileno(), self._user.uid, self._user.gid)
        return file

    def _lay_out_extension(self) -> None:
        """Put the engine's files where `create extension` finds them; the server need not restart for it."""
        if not self.takes_extension:
            return
        share = self._root / "share"
        target = share / "extension"
        if self.version < _binaries.HAS_CONTROL_PATH and self._binaries.control_files:
            share = target = self._binaries.control_files
        target.mkdir(parents=True, exist_ok=True)
        for file in extension_files():
            copy = target / file.name
            if not copy.exists() or copy.read_bytes() != file.read_bytes():
                shutil.copyfile(file, copy)
        self._user.own(share)

    def _initialise(self) -> None:
        """A new cluster, under its name only when it is whole."""
        draft = self._data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        options += ["--no-instructions"] if self.keep else ["--no-sync"]
        self._user.run(self._binaries.bin / "initdb", "-D", draft, *options)
        draft.rename(self._data)

    def _launch(self) -> None:
        """Start it; orphans of a killed server may hold the data for a moment longer."""
        self._user.provide(self.socket, private=True)
        self._disown_pid_file()
        if self.log.exists() and self.log.stat().st_size > 1 << 20:
            self.log.replace(self.log.with_suffix(".old"))
        _wait(self._launched, "Postgres did not start", self.log)
        if not self.keep and self._process is not None:
            self._watch(self._process.pid)

    def _launched(self) -> bool:
        with self._open("log") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True, **self._user.popen
            )
        try:
            _wait(self._answers, "Postgres did not start", self.log)
        except EmbeddedError:
            with self.log.open("rb") as log:
                log.seek(begin)
                if b"is still in use" not in log.read():
                    raise
            return False
        return True

    def _command(self) -> list[str]:
        settings = {**SETTINGS, "unix_socket_directories": str(self.socket), **self.settings}
        if self.version >= _binaries.HAS_CONTROL_PATH:
            settings["extension_control_path"] = f"$system:{self._root / 'share'}"
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._binaries.bin / "postgres"), "-D", str(self._data), *options]

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.admin_dsn, connect_timeout=5).close()
            return True
        if self._process.poll() is not None if self._process else self._postmaster() is None:
            self._process = None
            raise EmbeddedError("Postgres ended while it started", detail=_tail(self.log))
        return False

    def _postmaster(self) -> int | None:
        """The running server's process, by the file that it keeps; a number used again is not believed."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            if os.fsencode(self._data) in _binaries.command_line(pid):
                return pid
        return None

    def _disown_pid_file(self) -> None:
        """After a crash or in a new container, the old number may be another process of this user.

        Postgres would take that for a server and not start. A number that is its parent's it knows to be
        stale, and still makes sure that no orphan of the old server touches the data.
        """
        with suppress(FileNotFoundError):
            file = self._data / "postmaster.pid"
            _, _, rest = file.read_text().partition("\n")
            file.write_text(f"{os.getpid()}\n{rest}")

    def _watch(self, pid: int) -> None:
        """See to the end of a server whose process is killed; a pipe closes however that happens."""
        options: dict[str, Any] = {**self._user.popen, "stdin": subprocess.PIPE}
        command = ["/bin/sh", "-c", WATCHER, str(pid), str(self._root)]
        self._watcher = subprocess.Popen(command, start_new_session=True, **options)

    def _remove(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.rmtree(self.socket, ignore_errors=True)
        with suppress(OSError):
            self.home.rmdir()


def _wait(done: Callable[[], bool], failure: str, log: Path) -> None:
    """Ask until it is so; a server takes 0.1 s as a rule."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{failure} within {PATIENCE:.0f} s", detail=_tail(log))
        time.sleep(0.02)


def _tail(log: Path) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    return ""
