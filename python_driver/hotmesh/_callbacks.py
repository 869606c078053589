"""The callbacks of a `HotMesh`: each is an activity of its topic's queue, that answers in an envelope.

A callback takes `{"data": …, "metadata": …}` and answers `{"data": …, "status": …, "code": …}`.
What the engine gets is that envelope, without what it knows already.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

from . import _codec, _context
from .errors import InvalidArgumentError

__all__ = [
    "Callback",
    "Topic",
    "WorkerOptions",
    "by_connection",
    "listener",
    "response",
    "topics",
]

Callback = Callable[[dict[str, Any]], Any]

STATUSES = ("success", "error", "pending")
ENVELOPE = frozenset({"data", "metadata", "status", "code"})
"""A dict with one of these keys is an envelope; any other value is the data itself."""


class WorkerOptions(TypedDict, total=False):
    """One of the `workers` of `HotMesh.init`.

    `topic`: that of the worker activities in the graphs. `callback`: a function, async or not.
    `retry_policy`: for its exceptions; 3 attempts if left out. `connection`: by default that of the
    `HotMesh`.
    """

    topic: str
    callback: Callback
    retry_policy: Mapping[str, Any] | None
    connection: object


class Topic(NamedTuple):
    """A topic that is served, checked."""

    name: str
    function: Callback
    policy: str
    connection: object


def topics(workers: Iterable[Mapping[str, Any]]) -> list[Topic]:
    """The workers, checked; raises :class:`InvalidArgumentError` with the place of what is wrong."""
    if isinstance(workers, Mapping | str) or not isinstance(workers, Iterable):
        raise InvalidArgumentError("workers must be a list of dicts")
    found: dict[str, Topic] = {}
    for index, worker in enumerate(workers):
        topic = _topic(worker, f"workers[{index}]")
        if topic.name in found:
            raise InvalidArgumentError(
                f'workers[{index}]: the topic "{topic.name}" has a callback already',
                hint="one callback answers as many messages at a time as there are",
            )
        found[topic.name] = topic
    return list(found.values())


def _topic(worker: object, place: str) -> Topic:
    if not isinstance(worker, Mapping):
        raise InvalidArgumentError(f"{place} must be a dict, not {_codec.kind(worker)}")
    known = WorkerOptions.__annotations__
    if unknown := sorted(str(key) for key in worker.keys() - known.keys()):
        raise InvalidArgumentError(
            f"{place} has no key {unknown[0]!r}", hint=f"its keys are {', '.join(known)}"
        )
    name = _codec.name(worker.get("topic"), f"{place}.topic")
    callback = worker.get("callback")
    if not callable(callback):
        raise InvalidArgumentError(f"{place}.callback is no function")
    policy = worker.get("retry_policy")
    text = ""
    if policy is not None:
        text = _codec.dumps(_codec.retry_policy(policy, f"{place}.retry_policy"), "retry_policy")
    return Topic(name, _activity(name, callback), text, worker.get("connection"))


def _is_async(callback: Any) -> bool:
    while isinstance(callback, functools.partial):
        callback = callback.func
    call = getattr(callback, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(call)


def _activity(topic: str, callback: Callback) -> Callback:
    """The callback as an activity; one that is not async runs in a thread."""

    async def run(message: Any) -> Any:
        return response(topic, await callback(_told(message)))

    def run_in_thread(message: Any) -> Any:
        return response(topic, callback(_told(message)))

    function: Any = run if _is_async(callback) else run_in_thread
    function.answers_openly = True
    return function  # type: ignore[no-any-return]


def _told(message: dict[str, Any]) -> dict[str, Any]:
    """The message, with how often it was tried before."""
    attempt = _context.in_attempt.get()
    if attempt is None:
        return message
    metadata = {**(message.get("metadata") or {}), "try": attempt.context.attempt - 1}
    return {**message, "metadata": metadata}


def by_connection(topics: list[Topic], home: object) -> list[tuple[object, list[Topic]]]:
    """The topics by the database that they are served from; mostly all from one."""
    found: list[tuple[object, list[Topic]]] = []
    for topic in topics:
        place = home if topic.connection is None else topic.connection
        served = next((served for other, served in found if other is place or other == place), None)
        if served is None:
            found.append((place, served := []))
        served.append(topic)
    return found


def listener(callback: Any) -> Any:
    """The callback of a subscription: it is told the bare topic, without the id of a job."""
    if not callable(callback):
        return callback

    def heard(name: str, message: Any) -> Any:
        about = message.get("metadata") if isinstance(message, dict) else None
        job_id = about.get("jid") if isinstance(about, dict) else None
        return callback(name.removesuffix(f".{job_id}") if job_id else name, message)

    return heard


def response(topic: str, answer: Any) -> dict[str, Any]:
    """The answer as the engine takes it: status, code where it was given, and data."""
    if not isinstance(answer, dict) or (answer and not answer.keys() & ENVELOPE):
        return {"status": "success", "data": answer}
    status = answer.get("status")
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(
            f'the callback of "{topic}" answered with status {status!r}',
            hint=f"one of {', '.join(STATUSES)}; what is not meant for the engine goes into data",
        )
    told: dict[str, Any] = {"status": status or "success"}
    if (code := answer.get("code")) is not None:
        told["code"] = _codec.whole(
            code, f'the code that the callback of "{topic}" answered', 1, 999_999
        )
    if "data" in answer:
        told["data"] = answer["data"]
    return told
