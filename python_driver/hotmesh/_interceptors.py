"""What stands around workflows and activities: interceptors, like the skins of an onion.

The first that was registered is the outermost. Those of workflows, and those around the calls of
activities, are workflow code: they are replayed with it, may call durable functions, and must be
deterministic. Those around the execution of activities are ordinary code of the worker.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from . import _codec, _payload
from ._operation import Operation
from ._types import Reader
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._replay import Run
    from .activity import ActivityContext

__all__ = [
    "InterceptorContext",
    "around_call",
    "around_execution",
    "around_workflow",
    "calls",
    "clear_activity_interceptors",
    "clear_interceptors",
    "executions",
    "register_activity_interceptor",
    "register_execution_interceptor",
    "register_interceptor",
    "workflows",
]

Next = Callable[[], Awaitable[Any]]
Execute = Callable[..., Awaitable[Any]]

workflows: list[Execute] = []
calls: list[Execute] = []
executions: list[Execute] = []

_inside: ContextVar[bool] = ContextVar("hotmesh_inside_interceptor", default=False)


class InterceptorContext(dict[str, Any]):
    """What an interceptor is told, as items and as attributes: `ctx["args"]` is `ctx.args`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the context has no {name!r}: {', '.join(self)}") from None


def _execute_of(interceptor: object, parameters: int) -> Execute:
    execute = getattr(interceptor, "execute", None)
    if execute is None and isinstance(interceptor, Mapping):
        execute = interceptor.get("execute")
    execute = execute or interceptor
    if not inspect.iscoroutinefunction(execute):
        raise InvalidArgumentError(
            f"an interceptor needs `async def execute`, and {type(interceptor).__name__} has none"
        )
    try:
        inspect.signature(execute).bind(*range(parameters))
    except TypeError as error:
        raise InvalidArgumentError(
            f"an interceptor's execute gets {parameters} arguments: {error}"
        ) from error
    found: Execute = execute
    return found


def register_interceptor(interceptor: object) -> None:
    """Put `async execute(ctx, next)` around every workflow and hook that this process runs.

    `ctx` has workflow_id, workflow_name, task_queue, job_id, dimension, attempt, args and
    is_replaying; `await next()` runs what is within, and what `execute` returns is the result. It
    is workflow code: replayed like it, so it must be deterministic, and may call durable functions.

    Raises:
        InvalidArgumentError: an object without such a method.
    """
    workflows.append(_execute_of(interceptor, 2))


def register_activity_interceptor(interceptor: object) -> None:
    """Put `async execute(activity_ctx, workflow_ctx, next)` around every call of an activity.

    `activity_ctx` has activity_name, args and options (task_queue, retry_policy, timeouts, headers). A change
    of `args` or `options` before `next()` is what is sent; `options["headers"]`, a dict of text,
    reaches the activity as `activity.context().headers`. It is workflow code, run on the side of
    the caller; activities that it calls itself are not intercepted. A call takes its place in the
    journal when the innermost `next()` runs.

    Raises:
        InvalidArgumentError: an object without such a method.
    """
    calls.append(_execute_of(interceptor, 3))


def register_execution_interceptor(interceptor: object) -> None:
    """Put `async execute(activity_ctx, next)` around every execution of an activity on this worker.

    `activity_ctx` has activity_name, args, workflow_id, task_queue, attempt and headers; it is run
    once per attempt, in the worker's loop; around an activity that is no `async def`, in a thread, in
    a loop that lives as long as the attempt.

    Raises:
        InvalidArgumentError: an object without such a method.
    """
    executions.append(_execute_of(interceptor, 2))


def clear_interceptors() -> None:
    """Forget the interceptors of workflows; runs that have begun keep theirs."""
    workflows.clear()


def clear_activity_interceptors() -> None:
    """Forget the interceptors around calls and executions of activities."""
    calls.clear()
    executions.clear()


async def _onion(skins: Sequence[Execute], told: Sequence[Any], core: Next) -> Any:
    if not skins:
        return await core()
    return await skins[0](*told, lambda: _onion(skins[1:], told, core))


# --- around workflows -----------------------------------------------------------------------------


def _workflow_context(run: Run, **more: Any) -> InterceptorContext:
    return InterceptorContext(
        **{name: getattr(run.info, name) for name in run.info.__dataclass_fields__},
        is_replaying=run.is_replaying,
        **more,
    )


def around_workflow(run: Run, args: list[Any]) -> Coroutine[Any, Any, Any]:
    """The run's function with its interceptors around it."""
    told = [_workflow_context(run, args=args)]
    return _onion(list(workflows), told, lambda: run.function(*args))


# --- around calls of activities -------------------------------------------------------------------


def intercepts_calls() -> bool:
    """Whether a call of an activity that is made right here has interceptors around it."""
    return bool(calls) and not _inside.get()


def around_call(
    run: Run,
    name: str,
    args: Sequence[Any],
    queue: str,
    policy: str,
    timeouts: str,
    read: Reader | None,
    lane: str,
) -> Operation[Any]:
    """The call with its interceptors around it, eager as any durable call."""
    options: dict[str, Any] = {
        "task_queue": queue,
        "retry_policy": json.loads(policy) if policy else None,
        "timeouts": json.loads(timeouts) if timeouts else None,
        "headers": {},
    }
    call = InterceptorContext(activity_name=name, args=list(args), options=options)
    skins = list(calls)

    async def within() -> Any:
        _inside.set(True)
        return await _onion(
            skins, [call, _workflow_context(run)], lambda: _send(run, call, read, lane)
        )

    task = run.loop.create_task(within(), name=f"interceptors of {name}")
    operation: Operation[Any] = Operation(
        run.loop, run.sequence, "activity", name, lambda operation: task.cancel()
    )

    def settle(task: Any) -> None:
        if task.cancelled():
            operation.cancel()
        elif (error := task.exception()) is not None:
            operation.fail(error)
        else:
            operation.resolve(task.result())

    task.add_done_callback(settle)
    return operation


def _send(run: Run, call: InterceptorContext, read: Reader | None, lane: str) -> Operation[Any]:
    """Ask for the activity as the interceptors have left it."""
    name, options = call["activity_name"], call["options"]
    text = _payload.dumps_args(call["args"], f"args of activity {name}")
    if headers := options.get("headers"):
        text = _payload.with_headers(text, headers)
    policy, timeouts = options.get("retry_policy"), options.get("timeouts")
    return run.activity(
        _codec.text(name, "activity_name"),
        _codec.text(options.get("task_queue"), "options.task_queue"),
        text,
        _codec.dumps(_codec.retry_policy(policy), "retry_policy") if policy else "",
        read,
        _codec.dumps(timeouts, "timeouts") if timeouts else "",
        lane,
    )


# --- around executions of activities --------------------------------------------------------------


def around_execution(
    context: ActivityContext, args: list[Any], function: Callable[..., Any], is_async: bool
) -> Coroutine[Any, Any, Any]:
    """One attempt with its interceptors around it; a change of `args` in place is what it gets."""
    told = InterceptorContext(
        activity_name=context.activity_name,
        args=args,
        workflow_id=context.workflow_id,
        task_queue=context.task_queue,
        attempt=context.attempt,
        headers=context.headers,
    )

    def call() -> Awaitable[Any]:
        return function(*args) if is_async else asyncio.to_thread(function, *args)

    return _onion(list(executions), [told], call)
