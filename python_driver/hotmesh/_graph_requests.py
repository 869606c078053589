"""What a `HotMesh` may say, checked and made into calls; no I/O. See :mod:`hotmesh._requests`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import _calls_graph, _codec, _payload, _requests
from ._callbacks import STATUSES
from ._calls import Call, Job
from ._graph_file import GraphFile
from .durations import Duration
from .errors import InvalidArgumentError, JobNotFoundError

__all__ = [
    "TIMEOUT",
    "activate",
    "add",
    "deploy",
    "explain",
    "ids",
    "options_of_interrupt",
    "pub",
    "scrub",
    "signal",
    "signal_all",
    "stats",
]

TIMEOUT: Duration = 30
"""Seconds that `pubsub` waits, if nothing else is said."""


def _object(value: object, what: str) -> str:
    """A JSON object; never sealed: graphs read it in the database."""
    if value is None:
        return "{}"
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{what} must be a dict, not a {type(value).__name__}")
    return _payload.written(dict(value), what)


def _topic(value: object) -> str:
    return _codec.text(value, "topic")


def deploy(app: str, file: GraphFile, subscribes: str | None) -> Call[dict[str, Any]]:
    topic = None if subscribes is None else _codec.text(subscribes, "subscribes")
    return _calls_graph.graph_deploy(app, file.text(), topic)


def activate(app: str, version: object) -> Call[bool]:
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    return _calls_graph.graph_activate(app, _codec.text(version, "version"))


def explain(app: str, topic: str, format: str) -> Call[str]:
    if format not in ("text", "mermaid"):
        raise InvalidArgumentError(f"format is {format!r}", hint="text or mermaid")
    return _calls_graph.graph_explain(app, _topic(topic), format)


STARTS = ("search", "expire", "parent", "on_conflict")


def pub(
    app: str, topic: str, data: object, job_id: str | None, options: Mapping[str, Any]
) -> Call[Job]:
    if unknown := sorted(options.keys() - set(STARTS)):
        raise InvalidArgumentError(
            f"pub takes no {unknown[0]}", hint=f"it takes job_id, {', '.join(STARTS)}"
        )
    told = _requests.options_of(options)
    if (parent := options.get("parent")) is not None:
        told["parent"] = _codec.text(parent, "parent")
    key = None if job_id is None else _codec.text(job_id, "job_id")
    call = _calls_graph.graph_pub(
        app, _topic(topic), _object(data, "data"), key, _codec.dumps(told, "options")
    )
    if key is None:
        return call
    return _requests.guarded(call, app, key, told.get("on_conflict") == "existing")


def signal(app: str, topic: str, data: object, status: str | None, code: int) -> Call[int]:
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(f"status is {status!r}", hint=f"one of {', '.join(STATUSES)}")
    return _calls_graph.graph_signal(
        app, _topic(topic), _object(data, "data"), status, _codec.whole(code, "code", 1, 999_999)
    )


def signal_all(
    app: str, topic: str, data: object, query: object, facets: Iterable[str]
) -> Call[int]:
    told = _object(data, "data"), _object(query, "query")
    return _calls_graph.graph_signal_all(app, _topic(topic), *told, _texts(facets, "facets"))


def ids(app: str, topic: str, query: object, facets: Iterable[str]) -> Call[Any]:
    told = _object(query, "query")
    return _calls_graph.graph_ids(app, _topic(topic), told, _texts(facets, "facets"))


def stats(app: str, topic: str, query: object) -> Call[Any]:
    return _calls_graph.graph_stats(app, _topic(topic), _object(query, "query"))


def _texts(value: Iterable[str], what: str) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{what} must be a list of texts")
    return [_codec.text(each, f"{what}[{index}]") for index, each in enumerate(value)]


def add(app: str, response: object) -> Call[str]:
    if not isinstance(response, Mapping) or not isinstance(response.get("metadata"), Mapping):
        raise InvalidArgumentError(
            "a response is a dict with the metadata that the callback got",
            hint='{"metadata": message["metadata"], "data": …, "status": "success", "code": 200}',
        )
    status = response.get("status")
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(f"status is {status!r}", hint=f"one of {', '.join(STATUSES)}")
    return _calls_graph.graph_add(app, _object(response, "the response"))


def scrub(app: str, job_id: str) -> Call[None]:
    return _calls_graph.job_scrub(app, _codec.text(job_id, "job_id"))


def state(app: str, job_id: str) -> Call[Any]:
    return _requests.state(app, _codec.text(job_id, "job_id"), True)


def options_of_interrupt(options: Mapping[str, Any]) -> dict[str, Any]:
    """`reason`, `code`, `descend` and `throw`, with what they are if they are left out."""
    known = {"reason": None, "code": 410, "descend": False, "throw": True}
    if unknown := sorted(options.keys() - known.keys()):
        raise InvalidArgumentError(
            f"interrupt takes no {unknown[0]}", hint=f"it takes {', '.join(known)}"
        )
    return {**known, **options}


def job_output(state: Any) -> dict[str, Any]:
    """What `pubsub` answers: data and metadata."""
    return {"metadata": state.get("metadata") or {}, "data": state.get("data")}


def output_of(state: Any, topic: str, job_id: str) -> dict[str, Any]:
    """The same, of a job of this topic; workflow code has none that its users know."""
    output = job_output(state)
    told = output["metadata"]
    if "ngn" not in told and told.get("tpc") != topic:
        raise JobNotFoundError(
            f'topic "{topic}" has no job "{job_id}"',
            detail=f"""the job's topic is "{told.get("tpc")}".""",
            hint="name the topic that it was published to",
            job_id=job_id,
        )
    return output
