"""The calls of those who look after an app: its workers, its queues, and one job closely."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ._calls import Call, _nothing, _one, _read

__all__ = [
    "QueueLimit",
    "QueueStats",
    "WorkerSeen",
    "job_describe",
    "now",
    "queue_limit",
    "queue_list",
    "queue_stats",
    "queue_throttle",
    "queue_unlimit",
    "worker_list",
]


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


class QueueLimit(NamedTuple):
    """The limits of one kind of message in a queue, and how much is under way and held there.

    `throttle`: milliseconds from one beginning to the next, -1 when nothing begins.
    """

    queue: str
    kind: str
    concurrency: int | None
    per_key: int | None
    rate: int | None
    per: timedelta | None
    under_way: int
    held: int
    throttle: int | None


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


_QUEUE_LIMIT = """
select queue_limit from hotmesh.queue_limit(
    app => %(app)s::text, queue => %(queue)s::text, concurrency => %(concurrency)s::integer,
    per_key => %(per_key)s::integer, rate => %(rate)s::integer,
    per => make_interval(secs => %(per)s::double precision), kind => %(kind)s::text)
"""


def queue_limit(
    app: str,
    queue: str,
    concurrency: int | None = None,
    per_key: int | None = None,
    rate: int | None = None,
    per: float | None = None,
    kind: str | None = None,
) -> Call[None]:
    """Set the limits of a queue; `per` is in seconds, `kind` workflow, activity or None for both."""
    params = {
        "app": app,
        "queue": queue,
        "concurrency": concurrency,
        "per_key": per_key,
        "rate": rate,
        "per": per,
        "kind": kind,
    }
    return Call(_QUEUE_LIMIT, params, _nothing).repeatable()


def queue_unlimit(app: str, queue: str, kind: str | None = None) -> Call[None]:
    """Lift the limits of a queue, of one kind or of both."""
    return Call(
        "select queue_unlimit from hotmesh.queue_unlimit("
        "app => %(app)s::text, queue => %(queue)s::text, kind => %(kind)s::text)",
        {"app": app, "queue": queue, "kind": kind},
        _nothing,
    ).repeatable()


def queue_throttle(app: str, queue: str, delay: int, kind: str | None) -> Call[None]:
    """So many milliseconds from one beginning to the next; -1: none, 0: as fast as it goes."""
    return Call(
        "select queue_throttle from hotmesh.queue_throttle(app => %(app)s::text, "
        "queue => %(queue)s::text, delay => %(delay)s::integer, kind => %(kind)s::text)",
        {"app": app, "queue": queue, "delay": delay, "kind": kind},
        _nothing,
    ).repeatable()


def queue_list(app: str) -> Call[list[QueueLimit]]:
    """The queues that have limits."""
    return Call(
        "select queue, kind, concurrency, per_key, rate, per, under_way, held, throttle "
        "from hotmesh.queue_list(app => %(app)s::text)",
        {"app": app},
        lambda rows: [QueueLimit._make(row) for row in rows],
    ).repeatable()


def job_describe(app: str, key: str) -> Call[Any]:
    """What is under way in a job and whom it belongs to; see the door's comment for the parts."""
    return _read(
        "select job_describe from hotmesh.job_describe(app => %(app)s::text, key => %(key)s::text)",
        app,
        key,
    )
