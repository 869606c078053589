"""The front step once more: the doors to entities; see :mod:`hotmesh._calls`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ._calls import Call, Job, _one, _read

__all__ = [
    "Change",
    "Difference",
    "Watch",
    "entity_apply",
    "entity_at",
    "entity_at_time",
    "entity_diff",
    "entity_fork",
    "entity_get",
    "entity_history",
    "entity_prune",
    "entity_watch",
]


def entity_apply(app: str, key: str, commands: str, request: str | None) -> Call[list[Any]]:
    """Commands (the JSON text of a list of objects) as one change; answers with their answers."""
    return Call(
        "select entity_apply from hotmesh.entity_apply(app => %(app)s::text, key => %(key)s::text, "
        "commands => %(commands)s::jsonb, request => %(request)s::text)",
        {"app": app, "key": key, "commands": commands, "request": request},
        _one,
        repeat=request is not None,
        job_id=key,
    )


def entity_get(app: str, key: str, path: str | None = None) -> Call[Any]:
    """The entity of a job, or what is at a path of it."""
    return _read(
        "select entity_get from hotmesh.entity_get("
        "app => %(app)s::text, key => %(key)s::text, path => %(path)s::text)",
        app,
        key,
        path=path,
    )


class Change(NamedTuple):
    """One change of an entity: what, where, who and when.

    `path` is None for the whole document. `dimension` and `sequence` say which step of the workflow
    it was, and are None for what came from outside. `request` is the idempotency key, if any.
    """

    version: int
    operation: str
    path: str | None
    argument: Any
    role: str
    dimension: str | None
    sequence: int | None
    at: datetime
    request: str | None


class Difference(NamedTuple):
    """A place where two versions differ: what it was and what became of it."""

    path: str | None
    was: Any
    became: Any


_ENTITY_HISTORY = """
select version, operation, path, argument, role, dimension, sequence, at, request
from hotmesh.entity_history(
    app => %(app)s::text, key => %(key)s::text, after => %(after)s::bigint,
    take => %(take)s::integer)
"""


def entity_history(
    app: str, key: str, after: int = 0, take: int | None = None
) -> Call[list[Change]]:
    """The changes after a version, oldest first."""
    return Call(
        _ENTITY_HISTORY,
        {"app": app, "key": key, "after": after, "take": take},
        lambda rows: [Change._make(row) for row in rows],
        repeat=True,
        job_id=key,
    )


def entity_at(app: str, key: str, version: int) -> Call[Any]:
    """The entity as it was at a version."""
    return _read(
        "select entity_at from hotmesh.entity_at("
        "app => %(app)s::text, key => %(key)s::text, version => %(version)s::bigint)",
        app,
        key,
        version=version,
    )


def entity_at_time(app: str, key: str, at: datetime) -> Call[Any]:
    """The entity as it was at a time."""
    return _read(
        "select entity_at from hotmesh.entity_at("
        "app => %(app)s::text, key => %(key)s::text, at => %(at)s::timestamptz)",
        app,
        key,
        at=at,
    )


def entity_diff(app: str, key: str, older: int, newer: int) -> Call[list[Difference]]:
    """Where two versions differ."""
    return Call(
        "select path, was, became from hotmesh.entity_diff(app => %(app)s::text, "
        "key => %(key)s::text, older => %(older)s::bigint, newer => %(newer)s::bigint)",
        {"app": app, "key": key, "older": older, "newer": newer},
        lambda rows: [Difference._make(row) for row in rows],
        repeat=True,
        job_id=key,
    )


_ENTITY_FORK = """
select id, key, topic, entity, queue, status, created_at, closed_at
from hotmesh.entity_fork(
    app => %(app)s::text, key => %(key)s::text, version => %(version)s::bigint,
    new_key => %(new_key)s::text, workflow => %(workflow)s::text, args => %(args)s::jsonb,
    queue => %(queue)s::text, entity => %(entity)s::text, options => %(options)s::jsonb)
"""


def entity_fork(app: str, key: str, version: int | None, start: Mapping[str, Any]) -> Call[Job]:
    """Start a job with the entity of another; `start` is what :func:`job_start` takes."""
    params = {**start, "app": app, "key": key, "version": version, "new_key": start["key"]}
    return Call(_ENTITY_FORK, params, lambda rows: Job._make(rows[0]), job_id=start["key"])


def entity_prune(app: str, keep: float, take: int = 100_000) -> Call[int]:
    """Drop what the log knows from before `keep` seconds ago; answers how many rows went."""
    return Call(
        "select entity_prune from hotmesh.entity_prune(app => %(app)s::text, "
        "keep => make_interval(secs => %(keep)s::double precision), take => %(take)s::integer)",
        {"app": app, "keep": keep, "take": take},
        _one,
    ).repeatable()


class Watch(NamedTuple):
    """Where to listen for the changes of an entity, what is sent there, and its version now."""

    channel: str
    id: int
    version: int


def entity_watch(app: str, key: str) -> Call[Watch]:
    """Watch an entity for a minute."""
    return Call(
        "select channel, id, version from hotmesh.entity_watch("
        "app => %(app)s::text, key => %(key)s::text)",
        {"app": app, "key": key},
        lambda rows: Watch._make(rows[0]),
        repeat=True,
        job_id=key,
    )
