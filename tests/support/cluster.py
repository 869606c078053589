"""The server of a test run: `hotmesh.embedded.ephemeral`, with settings that make runs alike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from hotmesh import _binaries, embedded

ROOT = Path(__file__).resolve().parents[2]

ALIKE = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "autovacuum": "off",  # plans depend on what a test does, not on when statistics were taken
    "log_min_messages": "fatal",
}


def throw_away() -> AbstractContextManager[embedded.Server]:
    """The server that a run shares; in memory, if there is room."""
    return embedded.ephemeral(
        settings={**ALIKE, "synchronous_commit": "off", "wal_keep_size": "512MB"}
    )


@contextmanager
def crashable() -> Iterator[embedded.Server]:
    """A server of one's own that writes through: it may be restarted as after a power cut."""
    user = _binaries.server_user()
    with tempfile.TemporaryDirectory(prefix="hotmesh-crash-", dir="/tmp") as home:
        server = embedded.Server(user.own(Path(home)), settings=ALIKE)
        try:
            yield server.start()
        finally:
            server.close()


def share(server: embedded.Server) -> Path:
    """Where a server from version 18 on looks for control files."""
    return server.log.parent / "share"


def bin_dir() -> Path:
    """The directory of `psql`, `pg_dump` and `pg_restore`, which run as ourselves."""
    return next(_binaries._installed()).bin
