"""Who is there and how fast: roll calls, and throttles."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from . import _calls, _calls_view, _functions, _queues
from ._calls import Call
from ._calls_view import QueueLimit, QueueStats, WorkerSeen
from .errors import InvalidArgumentError

__all__ = ["profiles", "questions", "throttles"]


KEYS = {"throttle", "topic", "scope", "guid"}
SCOPES = ("all", "workers", None)
"""What a throttle may be of. The engine is the database: it begins what workers claim."""


def questions(app: str) -> tuple[Call[Any], ...]:
    """What a roll call asks, in the order in which :func:`profiles` takes the answers."""
    return (
        _calls_view.now(),
        _calls.version(),
        _calls_view.worker_list(app),
        _calls_view.queue_stats(app),
        _calls_view.queue_list(app),
    )


def profiles(
    app: str,
    now: Any,
    version: str,
    workers: Iterable[WorkerSeen],
    stats: Iterable[QueueStats],
    limits: Iterable[QueueLimit],
) -> list[dict[str, Any]]:
    """A profile of the engine, and one of each topic of each worker.

    `engine_id` is who answers, `stream_depth` how many messages are ready, `error_count` how many
    are dead, `inited` since when it is there, `throttle` milliseconds. `system` says where a worker
    runs and, if that is this machine, how busy it is.
    """
    here = socket.gethostname()
    depths, dead = _summed(stats)
    delays = {one.queue: one.throttle or 0 for one in limits if one.kind == "activity"}
    common = {"namespace": "hmsh", "app_id": app, "timestamp": now.isoformat()}
    engine = {
        **common,
        "engine_id": "postgres",
        "version": version,
        "stream": app,
        "stream_depth": sum(depths.values()),
        "counts": {},
        "error_count": sum(dead.values()),
        "inited": None,
        "throttle": 0,
    }
    return [engine] + [
        {
            **common,
            "engine_id": worker.name,
            "worker_topic": queue,
            "stream": f"{app}:{queue}",
            "stream_depth": depths.get(queue, 0),
            "counts": {"leased": worker.held},
            "error_count": dead.get(queue, 0),
            "inited": worker.started_at.isoformat(),
            "throttle": delays.get(queue, 0),
            "is_idle": worker.idle_at is not None,
            "system": {"host": worker.host, "pid": worker.pid}
            | (_load() if worker.host == here else {}),
        }
        for worker in workers
        for queue in sorted({served["queue"] for served in worker.serves} - {_functions.QUEUE})
    ]


def _load() -> dict[str, Any]:
    """How busy this machine is: memory in GB, and as `CPULoad` the load of 1, 5 and 15 minutes."""
    try:
        page = os.sysconf("SC_PAGE_SIZE") / 2**30
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
        busy = os.getloadavg()
    except (AttributeError, OSError, ValueError):  # not every platform tells
        return {}
    return {
        "TotalMemoryGB": round(total, 2),
        "FreeMemoryGB": round(free, 2),
        "UsedMemoryGB": round(total - free, 2),
        "CPULoad": [round(each, 2) for each in busy],
        "NetworkStats": [],
    }


def _summed(stats: Iterable[QueueStats]) -> tuple[dict[str, int], dict[str, int]]:
    depths: dict[str, int] = {}
    dead: dict[str, int] = {}
    for one in stats:
        depths[one.queue] = depths.get(one.queue, 0) + one.ready
        dead[one.queue] = dead.get(one.queue, 0) + one.dead
    return depths, dead


def throttles(
    app: str, throttle: object, topic: str | None, profiles: Iterable[Mapping[str, Any]]
) -> list[Call[None]]:
    """The calls that throttle a topic, or all that are served, or have a throttle."""
    if isinstance(throttle, Mapping):
        if throttle.get("guid") is not None or throttle.get("scope", "all") not in SCOPES:
            raise InvalidArgumentError(
                "a throttle is of a topic, for all workers that serve it",
                hint="name a topic; to stop one worker, stop it: the others take over",
            )
        if unknown := sorted(str(key) for key in throttle.keys() - KEYS):
            raise InvalidArgumentError(
                f"throttle takes no {unknown[0]}", hint="it takes throttle, topic and scope"
            )
        topic, throttle = throttle.get("topic", topic), throttle.get("throttle")
    known = {str(profile["worker_topic"]) for profile in profiles if "worker_topic" in profile}
    chosen = sorted(known) if topic is None else [topic]
    if not chosen:
        raise InvalidArgumentError("nothing is served that could be throttled", hint="name a topic")
    return [_queues.throttle(app, name, throttle, None) for name in chosen]  # type: ignore[arg-type]
