"""What workflow code starts beside itself, as effects: child jobs, and hooks in its own job."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from . import _codec, _payload, _requests, errors
from ._operation import Operation
from ._replay import Run
from .errors import InvalidArgumentError

__all__ = [
    "ChildHandle",
    "batch",
    "child",
    "child_with_handle",
    "hook",
    "hook_and_wait",
    "with_signal",
]

T = TypeVar("T")
CLOSE_POLICIES = ("terminate", "cancel", "abandon")


class ChildHandle(str, Generic[T]):
    """A child that was started: its workflow id, as a string, and its outcome."""

    _outcome: Operation[T]

    @property
    def workflow_id(self) -> str:
        """The child's key."""
        return str(self)

    async def result(self) -> T:
        """What the child returns; raises `JobFailedError` with the child's own error as cause.

        Whoever gives up waiting, at a timeout for instance, may ask again.
        """
        return await asyncio.shield(self._outcome)


def _named(run: Run, workflow: object, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The workflow's name and the request, whichever way it was said: HotMesh has one options object."""
    told = dict(request)
    if isinstance(workflow, Mapping):
        told, workflow = {**workflow, **told}, None
    found = workflow or told.pop("workflow_name", None) or told.get("entity")
    return _requests.name_of(found), told


def _child_args(
    run: Run, name: str, request: Mapping[str, Any], sequence: int, outcome: int | None
) -> tuple[str, str]:
    """The child's key, and what room 86 of the engine reads."""
    told = dict(request)
    policy = told.pop("parent_close_policy", None)
    if policy is not None and policy not in CLOSE_POLICIES:
        raise InvalidArgumentError(
            f"parent_close_policy: {policy!r} is not one of {', '.join(CLOSE_POLICIES)}"
        )
    unknown = set(told) - _requests.KNOWN
    if unknown:
        raise InvalidArgumentError(f"unknown arguments for a child: {', '.join(sorted(unknown))}")
    info = run.info
    default = f"{info.workflow_id}-{name}-{info.job_id}{info.dimension}-{sequence}"
    key = _codec.text(told.get("workflow_id") or default, "workflow_id")
    about = {
        "workflow": name,
        "key": key,
        "queue": told.get("task_queue"),
        "options": _requests.options_of(told),
        "close_policy": policy,
    }
    if told.get("entity") is not None:
        about["entity"] = _codec.text(told["entity"], "entity")
    if outcome is not None:
        about["outcome"] = outcome
    return key, _with_args(about, told.get("args") or (), f"args of child {name}")


def _with_args(about: dict[str, Any], args: Sequence[Any], what: str) -> str:
    """JSON of what is told, and of the arguments as payloads are stored."""
    return f'{_codec.dumps(about, what)[:-1]},"args":{_payload.dumps_args(args, what)}}}'


def child(run: Run, workflow: object, request: Mapping[str, Any]) -> Operation[Any]:
    """Start a child; its outcome is the answer."""
    name, told = _named(run, workflow, request)
    key, args = _child_args(run, name, told, run.sequence + 1, None)
    read = _reading(workflow, request)
    return run.effect("child", name, args, reads=read, fails=_failing(key))


def child_with_handle(
    run: Run, workflow: object, request: Mapping[str, Any]
) -> Operation[ChildHandle[Any]]:
    """Start a child; the answer, once it was started, is its handle."""
    name, told = _named(run, workflow, request)
    key, args = _child_args(run, name, told, run.sequence + 1, run.sequence + 2)

    def handle(value: str) -> ChildHandle[Any]:
        made: ChildHandle[Any] = ChildHandle(value)
        made._outcome = outcome
        return made

    started = run.effect("child", name, args, reads=handle)
    read = _reading(workflow, request)
    outcome = run.effect("outcome", name, reads=read, fails=_failing(key))
    return started


def _reading(workflow: object, request: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """How the child's result is read: by the hint of its function, if that is what was named."""
    about = workflow if isinstance(workflow, Mapping) else {"workflow_name": workflow, **request}
    function = about.get("workflow_name")
    return _payload.result_reader(function, None, "the result of the child")


def _failing(key: str) -> Callable[[Any], Exception]:
    """What a parent's `await` raises: a start that was refused as itself, else the child's failure."""

    def failure(told: Any) -> Exception:
        if isinstance(told, Mapping) and told.get("sqlstate"):
            return errors.from_json(told, key)
        return errors.job_failure(told, key)

    return failure


def _hook_args(
    run: Run,
    name: str,
    args: Sequence[Any],
    task_queue: str | None,
    signal: str | None,
    workflow_id: str | None,
    retry_policy: Mapping[str, Any] | None,
) -> str:
    queue = task_queue or run.info.task_queue
    if (name, queue, workflow_id) == (run.info.workflow_name, run.info.task_queue, None):
        raise InvalidArgumentError(
            f'"{name}" would hook itself: potential infinite loop',
            hint="hook another function, or loop inside this one",
        )
    about: dict[str, Any] = {"workflow": name, "queue": queue}
    if signal is not None:
        about["signal"] = signal
    if workflow_id is not None:
        about["key"] = _codec.text(workflow_id, "workflow_id")
    if retry_policy is not None:
        about["retry_policy"] = _codec.retry_policy(retry_policy)
    return _with_args(about, args, f"args of hook {name}")


def hook(
    run: Run,
    name: str,
    args: Sequence[Any],
    task_queue: str | None = None,
    signal: str | None = None,
    workflow_id: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
) -> Operation[Any]:
    """Run a function in this job, or in the job `workflow_id`."""
    about = _hook_args(run, name, args, task_queue, signal, workflow_id, retry_policy)
    return run.effect("hook", name, about)


def hook_and_wait(
    run: Run,
    name: str,
    args: Sequence[Any],
    task_queue: str | None = None,
    signal_id: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
) -> Operation[Any]:
    """Run a function in this job; what it signals, or returns, is the answer.

    The default signal id is made of job and step, so that every replay waits for the same one.
    """
    info = run.info
    signal = (
        signal_id or f"hook-{info.workflow_id}-{info.job_id}{info.dimension}-{run.sequence + 1}"
    )
    signal = _codec.text(signal, "signal_id")
    hooked = hook(run, name, args, task_queue, signal, None, retry_policy)
    waiting = run.effect("wait", signal)

    def refused(_: object) -> None:
        if not hooked.cancelled() and (error := hooked.exception()) is not None:
            waiting.fail(error)

    hooked.add_done_callback(refused)
    return waiting


HOOK_OPTIONS = frozenset({"workflow_name", "args", "task_queue", "signal_id", "retry_policy"})


def batch(hooks: object) -> dict[str, dict[str, Any]]:
    """The options of each hook of a batch by its key, checked before any of them is run."""
    if not isinstance(hooks, list | tuple):
        raise InvalidArgumentError(f"hooks must be a list, not {_codec.kind(hooks)}")
    found: dict[str, dict[str, Any]] = {}
    for index, each in enumerate(hooks):
        told = each if isinstance(each, Mapping) else {}
        key, options = told.get("key"), told.get("options")
        if not isinstance(key, str) or not isinstance(options, Mapping):
            raise InvalidArgumentError(
                f"hooks[{index}] has no key or no options",
                hint='each is {"key": text, "options": {what exec_hook takes}}',
            )
        if key in found:
            raise InvalidArgumentError(f"hooks[{index}] has the key of another: {key!r}")
        if unknown := set(options) - HOOK_OPTIONS:
            names = ", ".join(sorted(map(str, unknown)))
            raise InvalidArgumentError(f"hooks[{index}]: unknown options for a hook: {names}")
        found[key] = dict(options)
    return found


def with_signal(function: Callable[..., Any], args: list[Any], signal: str | None) -> list[Any]:
    """A hook's arguments, and `{"signal": id}` if the function has room for one more."""
    if signal is None:
        return args
    more = [*args, {"signal": signal}]
    try:
        inspect.signature(function).bind(*more)
    except TypeError:
        return args
    return more
