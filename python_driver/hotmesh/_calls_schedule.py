"""The front step's schedules: their doors, as `_calls` has those of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ._calls import Call, Job

__all__ = [
    "Schedule",
    "schedule_backfill",
    "schedule_create",
    "schedule_delete",
    "schedule_list",
    "schedule_pause",
    "schedule_resume",
    "schedule_trigger",
]

Rows = Sequence[tuple[Any, ...]]


class Schedule(NamedTuple):
    """A recurring start: when it ticks, what it starts, and how it is doing.

    `next_tick` is None once there is none any more, `paused_at` while it is not paused; `error` says
    why the engine paused it. `running` are the ids of the jobs that may be open, `buffered` the ticks
    that wait for them; `started` and `skipped` count.
    """

    name: str
    workflow: str
    args: Any
    queue: str | None
    cron: str | None
    every: timedelta | None
    timezone: str
    overlap: str
    options: Any
    note: str | None
    paused_at: datetime | None
    error: Any
    last_tick: datetime | None
    next_tick: datetime | None
    buffered: list[datetime]
    running: list[str]
    started: int
    skipped: int
    created_at: datetime


def _schedule(rows: Rows) -> Schedule:
    return Schedule._make(rows[0])


def schedule_create(app: str, told: Mapping[str, Any]) -> Call[Schedule]:
    """Create a schedule; `told` has the door's parameters, `every` in seconds, json as text."""
    return Call(
        "select name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at, "
        "error, last_tick, next_tick, buffered, running, started, skipped, created_at "
        "from hotmesh.schedule_create(app => %(app)s::text, "
        "name => %(name)s::text, workflow => %(workflow)s::text, args => %(args)s::jsonb, "
        "queue => %(queue)s::text, cron => %(cron)s::text, "
        "every => make_interval(secs => %(every)s::double precision), "
        "timezone => %(timezone)s::text, overlap => %(overlap)s::text, "
        "options => %(options)s::jsonb)",
        {"app": app, **told},
        _schedule,
    )


def schedule_pause(app: str, name: str, note: str | None = None) -> Call[Schedule]:
    """Stop starting; a `note` says why."""
    return Call(
        "select name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at, "
        "error, last_tick, next_tick, buffered, running, started, skipped, created_at "
        "from hotmesh.schedule_pause("
        "app => %(app)s::text, name => %(name)s::text, note => %(note)s::text)",
        {"app": app, "name": name, "note": note},
        _schedule,
    ).repeatable()


def schedule_resume(app: str, name: str, note: str | None = None) -> Call[Schedule]:
    """Go on with the next tick."""
    return Call(
        "select name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at, "
        "error, last_tick, next_tick, buffered, running, started, skipped, created_at "
        "from hotmesh.schedule_resume("
        "app => %(app)s::text, name => %(name)s::text, note => %(note)s::text)",
        {"app": app, "name": name, "note": note},
        _schedule,
    ).repeatable()


def schedule_delete(app: str, name: str) -> Call[None]:
    """Drop a schedule; its jobs stay."""
    return Call(
        "select schedule_delete from hotmesh.schedule_delete("
        "app => %(app)s::text, name => %(name)s::text)",
        {"app": app, "name": name},
        lambda rows: None,
    )


def schedule_list(app: str, name: str | None = None) -> Call[list[Schedule]]:
    """The schedules by name, or the one of that name."""
    return Call(
        "select name, workflow, args, queue, cron, every, timezone, overlap, options, note, paused_at, "
        "error, last_tick, next_tick, buffered, running, started, skipped, created_at "
        "from hotmesh.schedule_list("
        "app => %(app)s::text, name => %(name)s::text)",
        {"app": app, "name": name},
        lambda rows: [Schedule._make(row) for row in rows],
    ).repeatable()


def schedule_trigger(app: str, name: str) -> Call[Job]:
    """Start its workflow now."""
    return Call(
        "select id, key, topic, entity, queue, status, created_at, closed_at "
        "from hotmesh.schedule_trigger(app => %(app)s::text, name => %(name)s::text)",
        {"app": app, "name": name},
        lambda rows: Job._make(rows[0]),
    )


def schedule_backfill(app: str, name: str, start_at: str, end_at: str) -> Call[list[Job]]:
    """Start what it missed between two instants; answers with what was started."""
    return Call(
        "select id, key, topic, entity, queue, status, created_at, closed_at "
        "from hotmesh.schedule_backfill(app => %(app)s::text, name => %(name)s::text, "
        "start_at => %(start_at)s::timestamptz, end_at => %(end_at)s::timestamptz)",
        {"app": app, "name": name, "start_at": start_at, "end_at": end_at},
        lambda rows: [Job._make(row) for row in rows],
    )
