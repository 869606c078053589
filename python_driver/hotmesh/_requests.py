"""What a client may say, checked and made into calls; no I/O.

Each door that takes user data has its function here, and both clients run what it returns.
"""

from __future__ import annotations

import dataclasses
import time
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypedDict, TypeVar, cast

from . import (
    _calls,
    _calls_entity,
    _calls_find,
    _calls_order,
    _codec,
    _payload,
    _types,
    durations,
    errors,
)
from ._calls import Call, Job, Outcome
from .durations import Duration
from .errors import (
    ActivityError,
    HotMeshError,
    InvalidArgumentError,
    JobNotFoundError,
    PayloadTooLargeError,
    TimedOutError,
)

__all__ = [
    "ChildRequest",
    "HookRequest",
    "StartOptions",
    "StartRequest",
    "Workflow",
    "answered",
    "args_of",
    "entity",
    "entity_apply",
    "entity_at",
    "entity_text",
    "export",
    "fork",
    "guarded",
    "hook_start",
    "interrupt_options",
    "job_interrupt",
    "job_signal",
    "name_of",
    "options_of",
    "query_ask",
    "query_result",
    "reader",
    "search_find",
    "search_get",
    "signal_send",
    "start",
    "start_many",
    "state",
    "unanswered",
    "unpack",
    "update",
    "wait_over",
]

T = TypeVar("T")
OnConflict = Literal["reject", "existing", "replace"]
Workflow = str | Callable[..., Any]


class StartOptions(TypedDict, total=False):
    """What one start may say besides which workflow.

    `args`: positional arguments. `workflow_id`: the job's key, made up when absent. `entity`: by
    default the workflow's name. `task_queue`: by default the engine's choice. `retry_policy`: for
    the workflow's own exceptions. `execution_timeout`, `run_timeout`: how long the job may take, or
    one run of it; then it fails with a `TimedOutError`, code 596. `expire`: how long the closed job
    keeps its key. `delay`: before it may run. `priority`: higher goes first. `search`: attributes
    to find it by. `on_conflict`: what to do when the key is taken. `concurrency_key`: whose turn it
    is, where a queue has a limit per key.
    """

    args: Sequence[Any]
    task_queue: str | None
    workflow_id: str | None
    entity: str | None
    retry_policy: Mapping[str, Any] | None
    execution_timeout: Duration | None
    run_timeout: Duration | None
    expire: Duration | None
    search: Mapping[str, Any] | None
    on_conflict: OnConflict | None
    priority: int | None
    delay: Duration | None
    concurrency_key: str | None


class StartRequest(StartOptions, total=False):
    """What one start may say; `workflow_name`, a name or the function itself, alone is needed."""

    workflow_name: Workflow


class ChildRequest(StartRequest, total=False):
    """What the start of a child may say; `parent_close_policy`: terminate, cancel or abandon it."""

    parent_close_policy: str | None


def name_of(workflow: object) -> str:
    name = getattr(workflow, "__name__", None) if callable(workflow) else workflow
    if name is None:
        raise InvalidArgumentError(
            "workflow_name is missing", hint="pass the workflow's name or the function itself"
        )
    return _codec.name(name, "workflow_name")


def _optional(value: object, what: str) -> str | None:
    return None if value is None else _codec.text(value, what)


def args_of(value: object, what: str) -> str:
    if not isinstance(value, list | tuple):
        raise InvalidArgumentError(
            f"{what} must be a list or a tuple, not {_codec.kind(value)}",
            hint=f"one argument is {what}=[value]",
        )
    return _payload.dumps_args(value, what)


_CHOICES = ("reject", "existing", "replace")


def options_of(request: Mapping[str, Any], what: str = "") -> dict[str, Any]:
    """The options of a start as the door takes them; what was not said stays out."""
    told: dict[str, Any] = {}
    choice = request.get("on_conflict") or "reject"
    if choice not in _CHOICES:
        raise InvalidArgumentError(
            f"{what}on_conflict: {choice!r} is not one of {', '.join(_CHOICES)}"
        )
    if choice != "reject":
        told["on_conflict"] = choice
    if (policy := request.get("retry_policy")) is not None:
        told["retry_policy"] = _codec.retry_policy(policy, f"{what}retry_policy")
    for name in ("execution_timeout", "run_timeout"):
        if (limit := request.get(name)) is not None:
            told[name] = durations.above_zero(cast(Duration, limit), f"{what}{name}")
    for name in ("expire", "delay"):
        if (duration := request.get(name)) is not None:
            told[name] = durations.to_json(cast(Duration, duration), f"{what}{name}")
    if (search := request.get("search")) is not None:
        told["search"] = _search(search, f"{what}search")
    return told | _place_of(request, what)


def _place_of(request: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Its place in the queue."""
    told: dict[str, Any] = {}
    if (priority := request.get("priority")) is not None:
        told["priority"] = _codec.whole(priority, f"{what}priority", -32_768, 32_767)
    if (key := request.get("concurrency_key")) is not None:
        told["concurrency_key"] = _codec.lane_key(key, f"{what}concurrency_key")
    return told


def _search(search: object, what: str) -> dict[str, Any]:
    if not isinstance(search, Mapping):
        raise InvalidArgumentError(f"{what} must be a dict, not {_codec.kind(search)}")
    return dict(search)


def _key_of(request: StartRequest, options: dict[str, Any]) -> str:
    """The workflow id. One that is made up here names only this start, so it can be repeated."""
    key = request.get("workflow_id")
    if key is not None:
        return _codec.text(key, "workflow_id")
    options["on_conflict"] = "existing"
    return uuid.uuid4().hex


def start(app: str, request: StartRequest) -> Call[Job]:
    _check_request(request, "")
    options = options_of(request, "")
    key = _key_of(request, options)
    call = _calls.job_start(
        app,
        name_of(request.get("workflow_name")),
        key,
        args_of(request.get("args", ()), "args"),
        _optional(request.get("task_queue"), "task_queue"),
        _optional(request.get("entity"), "entity"),
        _codec.dumps(options, "options"),
    )
    return guarded(call, app, key, options.get("on_conflict") == "existing")


def fork(app: str, source: str, version: int | None, request: StartRequest) -> Call[Job]:
    """A start with the entity of another job; what is not said is as it was there."""
    _check_request(request, "")
    options = options_of(request, "")
    key = _key_of(request, options)
    workflow, args = request.get("workflow_name"), request.get("args")
    told = {
        "key": key,
        "workflow": None if workflow is None else name_of(workflow),
        "args": None if args is None else args_of(args, "args"),
        "queue": _optional(request.get("task_queue"), "task_queue"),
        "entity": _optional(request.get("entity"), "entity"),
        "options": _codec.dumps(options, "options"),
    }
    if version is not None:
        version = _codec.whole(version, "version", 0, 2**63 - 1)
    call = _calls_entity.entity_fork(app, _codec.text(source, "source"), version, told)
    return guarded(call, app, key, options.get("on_conflict") == "existing")


def guarded(call: Call[T], app: str, key: str, idempotent: bool) -> Call[T]:
    """The call, with what to do when its answer is lost."""
    if idempotent:
        return call.repeatable()
    return dataclasses.replace(call, probe=_calls.job_exists(app, key))


def start_many(app: str, requests: Iterable[StartRequest]) -> tuple[Call[list[Job]], list[str]]:
    """One call for all, and the keys in the order of the requests."""
    keys, written, idempotent = [], [], True
    for index, request in enumerate(requests):
        place = f"requests[{index}]."
        _check_request(request, place)
        options = options_of(request, place)
        key = _key_of(request, options)
        told = {
            "workflow": name_of(request.get("workflow_name")),
            "key": key,
            "queue": _optional(request.get("task_queue"), f"{place}task_queue"),
            "entity": _optional(request.get("entity"), f"{place}entity"),
            "options": options,
        }
        args = args_of(request.get("args", ()), f"{place}args")
        written.append(f'{_codec.dumps(told, place[:-1])[:-1]},"args":{args}}}')
        keys.append(key)
        idempotent = idempotent and options.get("on_conflict") == "existing"
    call = _calls.job_start_many(app, f"[{','.join(written)}]")
    return guarded(call, app, keys[0] if keys else "", idempotent), keys


KNOWN = frozenset(typing.get_type_hints(StartRequest))


def _check_request(request: object, place: str) -> None:
    if not isinstance(request, Mapping):
        raise InvalidArgumentError(f"{place[:-1]} must be a dict, not {_codec.kind(request)}")
    if unknown := sorted(str(name) for name in request.keys() - KNOWN):
        raise InvalidArgumentError(
            f"a start takes no {place}{unknown[0]}", hint=f"it takes {', '.join(sorted(KNOWN))}"
        )


def _parts(value: object, what: str) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{what} must be a list of texts")
    return [_codec.text(part, what) for part in value]


_EXPORTED = ("data", "state", "status", "timeline", "transitions", "process", "dependencies")


def export(
    app: str, key: str, allow: Iterable[str] | None, block: Iterable[str] | None
) -> Call[Any]:
    named = [_parts(allow, "allow"), _parts(block, "block")]
    for part in (part for parts in named for part in parts or ()):
        if part not in _EXPORTED:
            raise InvalidArgumentError(
                f"an export has no part {part!r}", hint=f"its parts are {', '.join(_EXPORTED)}"
            )
    return _opening(_calls.job_export(app, key, *named))


def search_get(app: str, key: str, fields: Iterable[str] | None) -> Call[Any]:
    return _calls_find.search_get(app, key, _parts(fields, "fields"))


def search_find(
    app: str,
    entity: str | None,
    conditions: Mapping[str, Any] | None,
    limit: int | None,
    offset: int,
    before: str | None,
) -> Call[list[Any]]:
    return _calls_find.search_find(
        app,
        _optional(entity, "entity"),
        _codec.dumps(_search(conditions or {}, "conditions"), "conditions"),
        1_000 if limit is None else _codec.whole(limit, "limit", 0, 10_000),
        _codec.whole(offset, "offset", 0, 2**31 - 1),
        _optional(before, "before"),
    )


def state(app: str, key: str, metadata: bool) -> Call[Any]:
    return _opening(_calls.job_state(app, key, metadata))


def _opening(call: Call[Any]) -> Call[Any]:
    """The call, with what is sealed in its answer opened."""
    return dataclasses.replace(call, read=lambda rows: _payload.opened_deep(call.read(rows)))


def interrupt_options(reason: str | None, code: int, descend: bool, throw: bool) -> dict[str, Any]:
    """What ends a job, checked."""
    return {
        "reason": _optional(reason, "reason"),
        "code": _codec.whole(code, "code", 1, 999_999),
        "descend": bool(descend),
        "throw": bool(throw),
    }


def job_signal(app: str, key: str, signal: str, data: Any) -> Call[None]:
    name = _codec.text(signal, "signal")
    return _calls_order.job_signal(app, key, name, _payload.dumps(data, "data"))


ENTITY_LIMIT = 64 * 1024 * 1024
"""Bytes of an entity, unless the app's setting `entity_limit` says otherwise."""


def entity(
    app: str, key: str, operation: str, path: str | None, value: Any, request: str | None
) -> Call[Any]:
    """One command; its answer alone."""
    if operation == "get":
        return _calls_entity.entity_get(app, key, path)
    command = {"operation": operation, "path": path, "value": value}
    call: Call[Any] = entity_apply(app, key, [command], request)
    return dataclasses.replace(call, read=lambda rows: rows[0][0][0])


def entity_apply(
    app: str, key: str, commands: Iterable[Mapping[str, Any]], request: str | None
) -> Call[list[Any]]:
    if isinstance(commands, Mapping | str) or not isinstance(commands, Iterable):
        raise InvalidArgumentError(
            f"commands must be a list of dicts, not {_codec.kind(commands)}",
            hint='for instance [{"operation": "increment", "path": "boxes", "value": 2}]',
        )
    text = entity_text(list(commands), "commands", ENTITY_LIMIT)
    return _calls_entity.entity_apply(app, key, text, _optional(request, "request"))


def entity_history(
    app: str, key: str, after: int, limit: int | None
) -> Call[list[_calls_entity.Change]]:
    after = _codec.whole(after, "after", 0, 2**63 - 1)
    take = None if limit is None else _codec.whole(limit, "limit", 0, 2**31 - 1)
    return _calls_entity.entity_history(app, key, after, take)


def entity_diff(app: str, key: str, older: int, newer: int) -> Call[list[_calls_entity.Difference]]:
    older = _codec.whole(older, "older", 0, 2**63 - 1)
    return _calls_entity.entity_diff(app, key, older, _codec.whole(newer, "newer", 0, 2**63 - 1))


def entity_at(app: str, key: str, when: int | datetime) -> Call[Any]:
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidArgumentError(
                "a time needs a time zone", hint="datetime.now(timezone.utc) has one"
            )
        return _calls_entity.entity_at_time(app, key, when)
    version = _codec.whole(when, "version", 0, 2**63 - 1)
    return _calls_entity.entity_at(app, key, version)


def entity_text(value: Any, what: str, limit: int = _codec.VALUE_LIMIT) -> str:
    """What goes into an entity, never sealed: as a payload, but a Decimal stays a number."""
    try:
        return _codec.dumps(value, what, limit)
    except PayloadTooLargeError:
        raise
    except InvalidArgumentError as error:
        try:
            plain = _plain(value)
        except RecursionError:
            raise error from None
        return _codec.dumps(plain, what, limit)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | Decimal):
        return value
    try:
        return _plain(_types.plain(value))
    except TypeError:
        return value


def signal_send(app: str, signal: str, data: Any) -> Call[None]:
    name = _codec.text(signal, "signal")
    return _calls_order.signal_send(app, name, _payload.dumps(data, "data"))


def job_interrupt(
    app: str, key: str, reason: str | None, code: int, descend: bool, throw: bool
) -> Call[None]:
    return _calls_order.job_interrupt(app, key, **interrupt_options(reason, code, descend, throw))


class HookRequest(TypedDict, total=False):
    """What a hook from outside may say; `workflow_id` names the job, which must be open.

    `workflow_name`: the function. `args`: its arguments. `task_queue`: by default the job's.
    `retry_policy`: by default it is tried until it succeeds.
    """

    workflow_id: str
    workflow_name: Workflow
    args: Sequence[Any]
    task_queue: str | None
    retry_policy: Mapping[str, Any] | None


def hook_start(app: str, request: HookRequest) -> Call[None]:
    unknown = set(request) - set(HookRequest.__annotations__)
    if unknown:
        raise InvalidArgumentError(f"unknown arguments for a hook: {', '.join(sorted(unknown))}")
    told: dict[str, Any] = {}
    if (policy := request.get("retry_policy")) is not None:
        told["retry_policy"] = _codec.retry_policy(policy, "retry_policy")
    return _calls_order.hook_start(
        app,
        _codec.text(request.get("workflow_id"), "workflow_id"),
        name_of(request.get("workflow_name")),
        args_of(request.get("args", ()), "args"),
        _optional(request.get("task_queue"), "task_queue"),
        _codec.dumps(told, "options"),
    )


def query_ask(
    app: str, key: str, name: str, args: Sequence[Any], timeout: Duration
) -> tuple[Call[int], Iterable[float]]:
    """The question, and the pauses between two looks for its answer."""
    seconds = durations.parse(timeout, "timeout")
    text = _payload.dumps_args(args, "args of the query")
    return _calls_order.query_ask(app, key, _codec.text(name, "name"), text), _pauses(seconds)


def query_result(app: str, id: int) -> Call[Any]:
    return _calls_order.query_result(app, id)


def update(
    app: str, key: str, name: str, args: Sequence[Any], timeout: Duration | None
) -> tuple[Call[str], Call[Any], Iterable[float]]:
    """What asks for it, what looks for its answer, and the pauses between two looks."""
    seconds = None if timeout is None else durations.parse(timeout, "timeout")
    text = _payload.dumps_args(args, "args of the update")
    id = uuid.uuid4().hex
    send = _calls_order.update_send(app, key, _codec.text(name, "name"), text, id)
    return send, _calls_order.update_result(app, key, id), _pauses(seconds)


def _pauses(seconds: float | None) -> Iterable[float]:
    """Short at first, then a quarter of a second, until the time is over."""
    end = None if seconds is None else time.monotonic() + seconds
    pause = 0.002
    while end is None or time.monotonic() < end:
        yield pause
        pause = min(pause * 1.5, 0.25)


def answered(answer: Mapping[str, Any], key: str) -> Any:
    """The value of an answer; raises its error."""
    if "error" in answer:
        found = errors.from_json(_payload.opened_error(answer["error"]), key)
        if isinstance(found, HotMeshError):
            raise found
        raise ActivityError(str(found), type=type(found).__name__, job_id=key) from found
    return _payload.opened(answer.get("output"))


def unanswered(what: str, key: str, timeout: Duration | None) -> TimedOutError:
    return TimedOutError(f'job "{key}" did not answer {what} within {_said(timeout)}', job_id=key)


def unpack(outcome: Outcome, read: Callable[[Any], Any] | None = None) -> Any:
    """What `result()` returns for a job that has closed, or raises for one that did not end well."""
    if outcome.status is None:
        raise JobNotFoundError(f'job "{outcome.key}" not found', job_id=outcome.key)
    if outcome.status != 0 and outcome.error is not None:
        raise errors.job_failure(_payload.opened_error(outcome.error), outcome.key)
    value = _payload.opened(outcome.output)
    return value if read is None else read(value)


def reader(workflow: object, result_type: object = None) -> Callable[[Any], Any] | None:
    """How a result is read: by `result_type`, else by the hint of the function, if it is one."""
    return _payload.result_reader(workflow, result_type, "the result of the workflow")


def wait_over(key: str, timeout: Duration | None) -> TimedOutError:
    return TimedOutError(
        f'job "{key}" did not end within {_said(timeout)}; it goes on', code=504, job_id=key
    )


def _said(timeout: Duration | None) -> str:
    return f"{timeout:g} s" if isinstance(timeout, int | float) else str(timeout)
