"""The calls of those who look after an app: its workers, its queues, and one job closely."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from ._calls import Call, _one, _read

__all__ = ["QueueStats", "WorkerSeen", "job_describe", "now", "queue_stats", "worker_list"]


class WorkerSeen(NamedTuple):
    """A worker that was seen lately; `idle_at` is since when it waits for work, None while it works."""

    name: str
    host: str | None
    pid: int | None
    serves: list[dict[str, str]]
    idle_at: datetime | None
    seen_at: datetime
    started_at: datetime
    held: int


class QueueStats(NamedTuple):
    """How many messages of a function are in which state; `oldest` of those that are ready."""

    queue: str
    kind: str
    name: str
    ready: int
    delayed: int
    leased: int
    waiting: int
    held: int
    dead: int
    oldest: datetime | None


def now() -> Call[datetime]:
    """The time by the engine's clock."""
    return Call("select now from hotmesh.now()", {}, _one).repeatable()


def worker_list(app: str) -> Call[list[WorkerSeen]]:
    """The workers that were seen in the last minute or two."""
    return Call(
        "select name, host, pid, serves, idle_at, seen_at, started_at, held "
        "from hotmesh.worker_list(app => %(app)s::text)",
        {"app": app},
        lambda rows: [WorkerSeen._make(row) for row in rows],
    ).repeatable()


def queue_stats(app: str) -> Call[list[QueueStats]]:
    """Per queue and function how many messages are in which state; reads all of them."""
    return Call(
        "select queue, kind, name, ready, delayed, leased, waiting, held, dead, oldest "
        "from hotmesh.queue_stats(app => %(app)s::text)",
        {"app": app},
        lambda rows: [QueueStats._make(row) for row in rows],
    ).repeatable()


def job_describe(app: str, key: str) -> Call[Any]:
    """What is under way in a job and whom it belongs to; see the door's comment for the parts."""
    return _read(
        "select job_describe from hotmesh.job_describe(app => %(app)s::text, key => %(key)s::text)",
        app,
        key,
    )
