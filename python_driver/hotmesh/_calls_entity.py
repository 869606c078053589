"""The front step once more: the doors to entities; see :mod:`hotmesh._calls`."""

from __future__ import annotations

from typing import Any

from ._calls import Call, _one, _read

__all__ = ["entity_apply", "entity_get"]


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
