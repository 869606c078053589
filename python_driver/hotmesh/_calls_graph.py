"""The front step once more: the doors to graphs; see :mod:`hotmesh._calls`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from ._calls import Call, Job, _flag, _job, _nothing, _one

__all__ = [
    "GraphVersion",
    "graph_activate",
    "graph_add",
    "graph_call",
    "graph_deploy",
    "graph_explain",
    "graph_ids",
    "graph_list",
    "graph_pub",
    "graph_signal",
    "graph_signal_all",
    "graph_stats",
    "job_scrub",
]


class GraphVersion(NamedTuple):
    """A topic of one version of the app's graphs.

    `topic` is empty where it answers every topic that no other graph does; `state` is deployed,
    active or retired; `open_jobs` run in it.
    """

    version: str
    topic: str
    publishes: str | None
    state: str
    open_jobs: int
    created_at: datetime
    activated_at: datetime | None


def graph_deploy(app: str, document: str, subscribes: str | None) -> Call[dict[str, Any]]:
    """Check, compile and keep a document (a JSON text): its id, version, graphs, active, changed."""
    return Call(
        "select graph_deploy from hotmesh.graph_deploy(app => %(app)s::text, "
        "document => %(document)s::jsonb, subscribes => %(subscribes)s::text)",
        {"app": app, "document": document, "subscribes": subscribes},
        _one,
    ).repeatable()


def graph_activate(app: str, version: str) -> Call[bool]:
    """New jobs run in this version from now on."""
    return Call(
        "select graph_activate from hotmesh.graph_activate("
        "app => %(app)s::text, version => %(version)s::text)",
        {"app": app, "version": version},
        _flag,
    ).repeatable()


def graph_explain(app: str, topic: str, format: str) -> Call[str]:
    """The compiled plan of a topic, as text or for Mermaid."""
    return Call(
        "select graph_explain from hotmesh.graph_explain("
        "app => %(app)s::text, topic => %(topic)s::text, format => %(format)s::text)",
        {"app": app, "topic": topic, "format": format},
        _one,
    ).repeatable()


def graph_list(app: str) -> Call[list[GraphVersion]]:
    """The topics of each version that was deployed."""
    return Call(
        "select version, topic, publishes, state, open_jobs, created_at, activated_at "
        "from hotmesh.graph_list(app => %(app)s::text)",
        {"app": app},
        lambda rows: [GraphVersion._make(row) for row in rows],
    ).repeatable()


_GRAPH_PUB = """
select id, key, topic, entity, queue, status, created_at, closed_at
from hotmesh.graph_pub(
    app => %(app)s::text, topic => %(topic)s::text, data => %(data)s::jsonb,
    key => %(key)s::text, options => %(options)s::jsonb)
"""


def graph_pub(app: str, topic: str, data: str, key: str | None, options: str) -> Call[Job]:
    """Start a job of the graph that subscribes to the topic; `data` and `options` are JSON texts."""
    params = {"app": app, "topic": topic, "data": data, "key": key, "options": options}
    return Call(_GRAPH_PUB, params, _job, job_id=key)


def graph_signal(app: str, topic: str, data: str, status: str | None, code: int) -> Call[int]:
    """Tell the job that waits for it, by the hooks of the topic; `data` is a JSON text."""
    return Call(
        "select graph_signal from hotmesh.graph_signal(app => %(app)s::text, "
        "topic => %(topic)s::text, data => %(data)s::jsonb, status => %(status)s::text, "
        "code => %(code)s::integer)",
        {"app": app, "topic": topic, "data": data, "status": status, "code": code},
        _one,
    )


def graph_signal_all(app: str, topic: str, data: str, query: str, facets: list[str]) -> Call[int]:
    """Tell all jobs that an index has; answers how many. `data` and `query` are JSON texts."""
    return Call(
        "select graph_signal_all from hotmesh.graph_signal_all(app => %(app)s::text, "
        "topic => %(topic)s::text, data => %(data)s::jsonb, query => %(query)s::jsonb, "
        "facets => %(facets)s::text[])",
        {"app": app, "topic": topic, "data": data, "query": query, "facets": facets},
        _one,
    )


def graph_add(app: str, response: str) -> Call[str]:
    """A worker's response that comes later, a JSON text: `ok` or `stale`."""
    return Call(
        "select graph_add from hotmesh.graph_add("
        "app => %(app)s::text, response => %(response)s::jsonb)",
        {"app": app, "response": response},
        _one,
    )


def graph_call(app: str, id: int, token: int) -> Call[Any]:
    """Call the function of SQL that a claimed message asks for; its answer completes the message."""
    return Call(
        "select graph_call from hotmesh.graph_call("
        "app => %(app)s::text, id => %(id)s::bigint, token => %(token)s::integer)",
        {"app": app, "id": id, "token": token},
        _one,
    )


def graph_ids(app: str, topic: str, query: str, facets: list[str]) -> Call[Any]:
    """The ids of the jobs that a topic's statistics count; `query` is a JSON text."""
    return Call(
        "select graph_ids from hotmesh.graph_ids(app => %(app)s::text, topic => %(topic)s::text, "
        "query => %(query)s::jsonb, facets => %(facets)s::text[])",
        {"app": app, "topic": topic, "query": query, "facets": facets},
        _one,
    ).repeatable()


def graph_stats(app: str, topic: str, query: str) -> Call[Any]:
    """What a topic's statistics say; `query` is a JSON text."""
    return Call(
        "select graph_stats from hotmesh.graph_stats(app => %(app)s::text, "
        "topic => %(topic)s::text, query => %(query)s::jsonb)",
        {"app": app, "topic": topic, "query": query},
        _one,
    ).repeatable()


def job_scrub(app: str, key: str) -> Call[None]:
    """Delete a closed job now, with all that is kept of it."""
    return Call(
        "select job_scrub from hotmesh.job_scrub(app => %(app)s::text, key => %(key)s::text)",
        {"app": app, "key": key},
        _nothing,
        job_id=key,
    )
