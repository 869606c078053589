"""The front step once more: the doors by which jobs are found and heard; see :mod:`hotmesh._calls`."""

from __future__ import annotations

from typing import Any

from ._calls import Call, _nothing, _one, _read

__all__ = [
    "emit_channel",
    "emit_read",
    "entity_create_index",
    "entity_find",
    "entity_index_ddl",
    "search_find",
    "search_get",
]

_ENTITY_FIND = """
select key, context, status
from hotmesh.entity_find(
    app => %(app)s::text, entity => %(entity)s::text, conditions => %(conditions)s::jsonb,
    take => %(take)s::integer, skip => %(skip)s::integer, order_by => %(order_by)s::text,
    descending => %(descending)s, before => %(before)s::text, keys => %(keys)s::text[])
"""


def entity_find(
    app: str,
    entity: str,
    conditions: str = "{}",
    take: int = 1_000,
    skip: int = 0,
    order_by: str | None = None,
    descending: bool = False,
    before: str | None = None,
    keys: list[str] | None = None,
) -> Call[list[Any]]:
    """Jobs by their documents, as dicts of key, context and status; conditions are a JSON text."""
    params = {
        "app": app,
        "entity": entity,
        "conditions": conditions,
        "take": take,
        "skip": skip,
        "order_by": order_by,
        "descending": descending,
        "before": before,
        "keys": keys,
    }
    return Call(
        _ENTITY_FIND,
        params,
        lambda rows: [dict(zip(("key", "context", "status"), row, strict=True)) for row in rows],
    ).repeatable()


def entity_create_index(app: str, entity: str, field: str | None, method: str) -> Call[str]:
    """Make an index for :func:`entity_find` unless it is there; answers with its name."""
    return Call(
        "select entity_create_index from hotmesh.entity_create_index(app => %(app)s::text, "
        "entity => %(entity)s::text, field => %(field)s::text, method => %(method)s::text)",
        {"app": app, "entity": entity, "field": field, "method": method},
        _one,
    ).repeatable()


def entity_index_ddl(
    app: str, entity: str, field: str | None, method: str
) -> Call[list[Call[None]]]:
    """What the owner of the tables runs, one by one, to make the index without stopping writers."""
    return Call(
        "select entity_index_ddl from hotmesh.entity_index_ddl(app => %(app)s::text, "
        "entity => %(entity)s::text, field => %(field)s::text, method => %(method)s::text)",
        {"app": app, "entity": entity, "field": field, "method": method},
        lambda rows: [Call(str(row[0]).replace("%", "%%"), {}, _nothing) for row in rows],
    ).repeatable()


def search_get(app: str, key: str, fields: list[str] | None) -> Call[Any]:
    """The user's own facts about a job, all or those named."""
    return _read(
        "select search_get from hotmesh.search_get("
        "app => %(app)s::text, key => %(key)s::text, fields => %(fields)s::text[])",
        app,
        key,
        fields=fields,
    )


_SEARCH_FIND = """
select key, data, status
from hotmesh.search_find(
    app => %(app)s::text, entity => %(entity)s::text, conditions => %(conditions)s::jsonb,
    take => %(take)s::integer, skip => %(skip)s::integer, before => %(before)s::text)
"""


def search_find(
    app: str, entity: str | None, conditions: str, take: int, skip: int, before: str | None
) -> Call[list[Any]]:
    """Jobs by the user's own facts, as dicts of key, data and status."""
    return Call(
        _SEARCH_FIND,
        {
            "app": app,
            "entity": entity,
            "conditions": conditions,
            "take": take,
            "skip": skip,
            "before": before,
        },
        lambda rows: [dict(zip(("key", "data", "status"), row, strict=True)) for row in rows],
    ).repeatable()


def emit_channel(app: str) -> Call[str]:
    """The channel to listen to for what workflows emit."""
    return Call(
        "select emit_channel from hotmesh.emit_channel(app => %(app)s::text)", {"app": app}, _one
    ).repeatable()


def emit_read(app: str, job_id: int, field: str) -> Call[dict[str, Any]]:
    """What a step emitted, by topic; nothing if its run began anew since."""
    return Call(
        "select events from hotmesh.emit_read("
        "app => %(app)s::text, job_id => %(job_id)s::bigint, field => %(field)s::text)",
        {"app": app, "job_id": job_id, "field": field},
        lambda rows: dict(_one(rows) or {}),
    ).repeatable()
