"""What workflow code may say. Every durable call is made at once, numbered, and may be awaited later.

All of it works only inside a function that a worker runs as a workflow.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid as _uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from datetime import datetime, timezone
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypedDict, TypeVar, overload

from . import _codec, _context, _handlers, _interceptors, _payload, _requests, _spawn, durations
from ._bounds import timeouts_text
from ._context import unsafe
from ._effects import Search, emit, enrich, search, trace
from ._execution import name_of, named
from ._logger import WorkflowLogger
from ._replay import ContinueAsNew, RunInfo
from ._requests import ChildRequest
from .durations import Duration
from .entity import EntityContext
from .errors import InvalidArgumentError, TimedOutError

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

__all__ = [
    "ActivityOptions",
    "ActivityProxy",
    "ChildRequest",
    "Search",
    "all",
    "context",
    "continue_as_new",
    "deprecate_patch",
    "emit",
    "enrich",
    "entity",
    "exec_child",
    "exec_hook",
    "exec_hook_batch",
    "execute_activity",
    "hook",
    "interrupt",
    "is_replaying",
    "logger",
    "now",
    "patched",
    "proxy_activities",
    "random",
    "search",
    "set_query_handler",
    "set_update_handler",
    "signal",
    "sleep",
    "sleep_for",
    "start_child",
    "trace",
    "unsafe",
    "uuid4",
    "wait_for",
]

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M", bound=ModuleType)

logger = WorkflowLogger(logging.getLogger("hotmesh.workflow"), {})
"""Log by it in workflow code: silent in a replay, and its records carry who the workflow is."""


class ActivityOptions(TypedDict, total=False):
    """How an activity is to be run; :func:`proxy_activities` says what each of them means."""

    task_queue: str | None
    retry_policy: Mapping[str, Any] | None
    start_to_close_timeout: Duration | None
    schedule_to_close_timeout: Duration | None
    heartbeat_timeout: Duration | None
    priority: int | None
    concurrency_key: str | None


class ActivityProxy(Generic[T]):
    """Activities as methods: calling one asks for it and returns what can be awaited."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        task_queue: str | None,
        policy: str,
        what: str,
        timeouts: str = "",
        lane: str = "",
    ) -> None:
        self._functions = functions
        self._task_queue = task_queue
        self._policy = policy
        self._what = what
        self._timeouts = timeouts
        self._lane = lane

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._functions and name not in self._functions:
            raise AttributeError(f"{self._what} has no activity {name!r}")
        function = self._functions.get(_codec.text(name, "the name of an activity"), name)

        def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            queue, policy, timeouts = self._task_queue, self._policy, self._timeouts
            return _activity(name, function, args, kwargs, queue, policy, timeouts, lane=self._lane)

        call.__name__ = name
        return call


@overload
def proxy_activities(activities: type[T], **options: Unpack[ActivityOptions]) -> T: ...


@overload
def proxy_activities(activities: M, **options: Unpack[ActivityOptions]) -> M: ...


@overload
def proxy_activities(activities: Any = None, **options: Unpack[ActivityOptions]) -> Any: ...


def proxy_activities(
    activities: Any = None,
    *,
    task_queue: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    priority: int | None = None,
    concurrency_key: str | None = None,
) -> Any:
    """Activities to call by name.

    To a type checker the proxy of a class or module is that class or module, so that `async def`
    activities keep their signatures (mypy does not look into modules: `execute_activity` does). One
    that is no `async def` is to be awaited as well, which types can't say here: call it by
    :func:`execute_activity`, or give the proxy a Protocol whose methods are `async def`.

    Args:
        activities: a module, class or list of functions whose names may be called; nothing means
            any name, for activities that only another process has.
        task_queue: the queue whose workers run them; by default the workflow's own.
        retry_policy: `maximum_attempts` (executions, 3), `initial_interval` (1 s),
            `backoff_coefficient` (10), `maximum_interval` (120 s), `non_retryable_error_types`.
            Without it that of the worker holds.
        start_to_close_timeout: how long one attempt may take. What timed out is tried again by the
            policy; in the end it is a `TimedOutError` (596) here.
        schedule_to_close_timeout: how long all attempts may take together, from this call; also
            where nobody serves the queue.
        heartbeat_timeout: how long an attempt may go without `activity.heartbeat()`.
        priority: higher goes first among those that wait in the queue; 0.
        concurrency_key: whose turn it is, where the queue has a limit per key.

    Raises:
        InvalidArgumentError: a policy, queue or timeout that can't be used.
    """
    functions = named(activities, "activities") if activities is not None else {}
    what = getattr(activities, "__name__", "the proxy")
    timeouts = timeouts_text(start_to_close_timeout, schedule_to_close_timeout, heartbeat_timeout)
    lane = _codec.lane_text(priority, concurrency_key)
    queue, policy = _queue(task_queue), _policy(retry_policy)
    return ActivityProxy(functions, queue, policy, what, timeouts, lane)


@overload
def execute_activity(
    activity: Callable[[Unpack[Ts]], Coroutine[Any, Any, R]],
    *args: Unpack[Ts],
    **options: Unpack[ActivityOptions],
) -> Awaitable[R]: ...


@overload
def execute_activity(
    activity: Callable[[Unpack[Ts]], R], *args: Unpack[Ts], **options: Unpack[ActivityOptions]
) -> Awaitable[R]: ...


@overload
def execute_activity(
    activity: str, *args: Any, result_type: type[T], **options: Unpack[ActivityOptions]
) -> Awaitable[T]: ...


@overload
def execute_activity(
    activity: str,
    *args: Any,
    result_type: UnionType | None = None,
    **options: Unpack[ActivityOptions],
) -> Awaitable[Any]: ...


def execute_activity(  # type: ignore[misc]
    activity: Callable[..., Any] | str,
    *args: Any,
    task_queue: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    priority: int | None = None,
    concurrency_key: str | None = None,
    result_type: Any = None,
) -> Awaitable[Any]:
    """Ask for one activity, by function or name; await it for its result.

    The result is of the type that the function's hint says, or `result_type`; by name alone it is
    JSON. What the policy and the timeouts mean stands at :func:`proxy_activities`.

    Raises:
        InvalidArgumentError: arguments that JSON can't carry, a bad policy or timeout, or no
            workflow here.
        TimedOutError: (when awaited) its time was over, code 596.
        MaxedError: (when awaited) every attempt failed; the last failure is the cause.
        FatalError: (when awaited) the activity said that no further attempt makes sense.
    """
    name = name_of(activity)
    timeouts = timeouts_text(start_to_close_timeout, schedule_to_close_timeout, heartbeat_timeout)
    queue = None if task_queue is None else _queue(task_queue)
    policy = _policy(retry_policy) if retry_policy else ""
    lane = (
        _codec.lane_text(priority, concurrency_key)
        if priority or concurrency_key is not None
        else ""
    )
    return _activity(name, activity, args, {}, queue, policy, timeouts, result_type, lane=lane)


def _activity(
    name: str,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task_queue: str | None,
    policy: str,
    timeouts: str = "",
    result_type: Any = None,
    *,
    lane: str = "",
) -> Awaitable[Any]:
    run = _context.current_run(f"activity {name}")
    if kwargs:
        args = _positional(name, function, args, kwargs)
    read = _payload.result_reader(function, result_type, f'the result of activity "{name}"')
    queue = task_queue or run.info.task_queue
    if _interceptors.intercepts_calls():
        return _interceptors.around_call(run, name, args, queue, policy, timeouts, read, lane)
    text = _payload.dumps_args(args, f"args of activity {name}")
    return run.activity(name, queue, text, policy, read, timeouts, lane)


def _positional(
    name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments in order: what is journalled and sent is an array."""
    if isinstance(function, str):
        raise InvalidArgumentError(
            f"activity {name} got named arguments, but its signature is not known here",
            hint="pass them by position, or give proxy_activities the module that defines it",
        )
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    if bound.kwargs:
        raise InvalidArgumentError(
            f"activity {name} has keyword-only arguments {sorted(bound.kwargs)}",
            hint="activities take their arguments by position",
        )
    return bound.args


def _queue(task_queue: str | None) -> str | None:
    return None if task_queue is None else _codec.name(task_queue, "task_queue")


def _policy(policy: Mapping[str, Any] | None) -> str:
    if not policy:
        return ""
    return _codec.dumps(_codec.retry_policy(policy), "retry_policy")


def sleep_for(duration: Duration) -> Awaitable[float]:
    """Sleep durably: seconds, a timedelta, or a text such as "30 days". Returns the seconds."""
    run = _context.current_run("workflow.sleep_for()")
    return run.sleep(durations.parse(duration))


def sleep(duration: Duration) -> Awaitable[float]:
    """The same as :func:`sleep_for`."""
    return sleep_for(duration)


@overload
def wait_for(
    signal_id: str, timeout: Duration | None = None, *, result_type: type[T]
) -> Awaitable[T]: ...


@overload
def wait_for(
    signal_id: str, timeout: Duration | None = None, *, result_type: UnionType | None = None
) -> Awaitable[Any]: ...


def wait_for(
    signal_id: str, timeout: Duration | None = None, *, result_type: Any = None
) -> Awaitable[Any]:
    """Wait for a signal and return what it carried; earlier ones were kept.

    It may be sent to this job, or by name to whoever waits: the oldest wait gets it.

    What it carried is JSON, or what `result_type` makes of it.

    Raises:
        TimedOutError: none came within `timeout` (code 596).
    """
    run = _context.current_run("workflow.wait_for()")
    late = TimedOutError(
        f'no signal "{signal_id}" came within {timeout}', job_id=run.info.workflow_id
    )
    seconds = None if timeout is None else durations.parse(timeout, "timeout")
    read = _payload.result_reader(None, result_type, f'the data of signal "{signal_id}"')
    return run.wait(_codec.text(signal_id, "signal_id"), seconds, late, read)


def signal(id: str, data: Any = None) -> Awaitable[None]:
    """Send a signal once, however often the code is replayed.

    It goes to a wait of this job, else to the oldest wait in the app, and is kept until there is one.
    """
    run = _context.current_run("workflow.signal()")
    args = f'{{"data":{_payload.dumps(data, f"data of signal {id}")}}}'
    return run.effect("signal", _codec.text(id, "signal"), args)


def entity() -> EntityContext:
    """The job's entity, whose commands count once: `await (await entity()).increment("retries")`.

    It is there at once: the inner `await` may be left out.
    """
    _context.current_run("workflow.entity()")
    return EntityContext()


@overload
def exec_child(
    workflow: Callable[..., Coroutine[Any, Any, R]], /, **request: Unpack[ChildRequest]
) -> Awaitable[R]: ...


@overload
def exec_child(
    workflow: str | Mapping[str, Any] | None = None, /, **request: Unpack[ChildRequest]
) -> Awaitable[Any]: ...


def exec_child(workflow: Any = None, /, **request: Unpack[ChildRequest]) -> Awaitable[Any]:
    """Run a child workflow and return its result.

    Args:
        workflow: the function, its name, or all arguments as one mapping.
        request: what `client.workflow.start` takes (`args`, `task_queue`, by default this
            workflow's, `workflow_id`, `entity`, `retry_policy`, …), and `parent_close_policy`:
            `terminate`, `cancel` or `abandon` (the default) the child when this job closes first.

    Raises:
        DuplicateJobError: the child's workflow id is taken.
        JobFailedError: (when awaited) the child failed; its own error is the cause.
    """
    return _spawn.child(_context.current_run("workflow.exec_child()"), workflow, request)


@overload
def start_child(
    workflow: Callable[..., Coroutine[Any, Any, R]], /, **request: Unpack[ChildRequest]
) -> Awaitable[_spawn.ChildHandle[R]]: ...


@overload
def start_child(
    workflow: str | Mapping[str, Any] | None = None, /, **request: Unpack[ChildRequest]
) -> Awaitable[_spawn.ChildHandle[Any]]: ...


def start_child(
    workflow: Any = None, /, **request: Unpack[ChildRequest]
) -> Awaitable[_spawn.ChildHandle[Any]]:
    """Start a child workflow; awaited, the answer is its handle (and id) with `result()`.

    Takes and raises what :func:`exec_child` does.
    """
    run = _context.current_run("workflow.start_child()")
    return _spawn.child_with_handle(run, workflow, request)


def hook(
    workflow: Any = None,
    /,
    *,
    workflow_name: Any = None,
    args: Sequence[Any] = (),
    task_queue: str | None = None,
    workflow_id: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
) -> Awaitable[Any]:
    """Run a further function in this job, on the same entity; the job stays open for it.

    Args:
        workflow: the function or its name (or `workflow_name=`).
        args: its arguments.
        task_queue: whose workers have it; by default this workflow's.
        workflow_id: another job to run it in.
        retry_policy: by default it is tried until it succeeds.
    """
    run = _context.current_run("workflow.hook()")
    name = _requests.name_of(workflow or workflow_name)
    queue = _queue(task_queue)
    return _spawn.hook(run, name, args, queue, None, workflow_id, retry_policy)


def exec_hook(
    workflow: Any = None,
    /,
    *,
    workflow_name: Any = None,
    args: Sequence[Any] = (),
    task_queue: str | None = None,
    signal_id: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
) -> Awaitable[Any]:
    """Run a hook and wait for what it signals, or else for what it returns.

    `{"signal": id}` is appended to its arguments if the function has room for it, so that it can say
    `await workflow.signal(info["signal"], data)`. Takes what :func:`hook` does.
    """
    run = _context.current_run("workflow.exec_hook()")
    name = _requests.name_of(workflow or workflow_name)
    return _spawn.hook_and_wait(run, name, args, _queue(task_queue), signal_id, retry_policy)


async def exec_hook_batch(hooks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Run hooks side by side: `[{"key": …, "options": {what exec_hook takes}}, …]` → key: answer.

    Raises:
        InvalidArgumentError: one of them has no key or no options, or a key comes twice; then none is run.
    """
    batch = _spawn.batch(hooks)
    answers = {key: exec_hook(**options) for key, options in batch.items()}
    return dict(zip(answers, await all(*answers.values()), strict=True))


def interrupt(
    job_id: str,
    *,
    reason: str | None = None,
    code: int = 410,
    descend: bool = False,
    throw: bool = True,
) -> Awaitable[None]:
    """End another job, or this one, at once; with `descend` its children too.

    Raises:
        JobNotFoundError, JobClosedError: (when awaited) there is nothing to interrupt.
    """
    run = _context.current_run("workflow.interrupt()")
    key = _codec.text(job_id, "job_id")
    about = {"key": key, **_requests.interrupt_options(reason, code, descend, throw)}
    return run.effect("interrupt", key, _codec.dumps(about, "options of interrupt"))


class _Done:
    """What has happened by the call; an `await` before it is welcome and not needed."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


def set_query_handler(name: str, handler: Callable[..., Any]) -> Awaitable[None]:
    """Answer `handle.query(name, *args)` by a plain function, which reads and changes nothing.

    It is set by the call: `await` may be left out.
    """
    _handlers.handlers("workflow.set_query_handler()").set_query(
        _codec.text(name, "the name of a query"), handler
    )
    return _Done()


def set_update_handler(
    name: str, handler: Callable[..., Any], validator: Callable[..., Any] | None = None
) -> Awaitable[None]:
    """Carry out `handle.update(name, *args)`: what `handler`, plain or async, returns is the answer.

    `validator` gets the same arguments first; what it raises refuses the update. Set handlers before
    the first `await` of something durable: an update without one is refused. It is set by the call:
    `await` may be left out.
    """
    _handlers.handlers("workflow.set_update_handler()").set_update(
        _codec.text(name, "the name of an update"), handler, validator
    )
    return _Done()


def continue_as_new(*args: Any) -> NoReturn:
    """Start over with these arguments and an empty journal, in the same job; it never returns.

    It raises, where it is called, what no `except Exception` catches; an `await` before it is welcome
    and not needed.

    The workflow id, the entity, signals that wait and open hooks stay. What the function had asked for
    and not awaited is given up. The old journal of a workflow goes to the archive, a hook's is dropped.
    """
    _context.current_run("workflow.continue_as_new()")
    raise ContinueAsNew(_payload.dumps_args(args, "args of continue_as_new"))


async def all(*awaitables: Any) -> list[Any]:
    """Wait for all and return their results in order, as `Promise.all` does.

    They may come as one list, and what is no awaitable is its own result.
    """
    if len(awaitables) == 1 and isinstance(awaitables[0], list | tuple):
        awaitables = tuple(awaitables[0])
    waiting = [each for each in awaitables if inspect.isawaitable(each)]
    results = iter(await asyncio.gather(*waiting))
    return [next(results) if inspect.isawaitable(each) else each for each in awaitables]


def context() -> RunInfo:
    """Who this workflow is: workflow_id, workflow_name, task_queue, job_id, dimension, attempt."""
    return _context.current_run("workflow.context()").info


def now() -> datetime:
    """The job's time, UTC: that of the last event it has seen, and the same in each replay."""
    return datetime.fromtimestamp(_context.current_run("workflow.now()").time, timezone.utc)


def random() -> float:
    """A number from 0 up to 1, the same in each replay."""
    return _context.current_run("workflow.random()").random().random()


def uuid4() -> str:
    """A UUID, the same in each replay."""
    bits = _context.current_run("workflow.uuid4()").random().getrandbits(128)
    return str(_uuid.UUID(int=bits, version=4))


def patched(id: str) -> bool:
    """Guard a change of workflow code: `if patched("my-change"): new way, else: old way`.

    True in a run that gets here for the first time, which is journalled, and in its replays; False
    in the replay of a run that went on from here before the change. Once no run of the old code is
    open, replace the condition by :func:`deprecate_patch`, and drop that when its runs have closed.
    """
    run = _context.current_run("workflow.patched()")
    return run.patched(_codec.text(id, "the id of a patch"))


def deprecate_patch(id: str) -> None:
    """Stand where :func:`patched` stood, after its old way was deleted."""
    run = _context.current_run("workflow.deprecate_patch()")
    run.patched(_codec.text(id, "the id of a patch"))


def is_replaying() -> bool:
    """Whether the code is going over what an earlier life of this run has done."""
    return _context.current_run("workflow.is_replaying()").is_replaying
