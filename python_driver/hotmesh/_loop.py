"""The deterministic event loop in which workflow code runs.

No wall clock, no threads, no I/O: everything that happens follows from the order in which the
runtime resolves operations and fires timers. The same order gives the same run, in any process.

What makes it so:

* ready callbacks run first in, first out, and only inside :meth:`WorkflowLoop.drain`;
* time is what the runtime says, and a delay is a durable timer of the runtime;
* tasks and futures hash by a counter, so that a ``set`` of them iterates alike in each replay;
* a suspended task is never left to the garbage collector, whose hour is not ours to choose.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import os
import sys
import threading
import types
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from . import _asyncgens
from ._stage import Stage, free_stage
from .errors import ForbiddenInWorkflow

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

__all__ = [
    "Cancellable",
    "NeverYields",
    "WorkflowFuture",
    "WorkflowLoop",
    "WorkflowTask",
    "place_of",
]

T = TypeVar("T")

_MOST_UNHANDLED = 100
_MOST_CLOSES = 100
_FIRST_SWEEP = 64
_SPREAD = 0x9E3779B97F4A7C1
_HASH_MASK = (1 << 60) - 1


class NeverYields(RuntimeError):
    """Workflow code kept its loop busy without ever waiting for a durable call."""


class Cancellable(Protocol):
    """What ``on_timer`` returns: the runtime's side of one durable timer."""

    def cancel(self) -> object:
        """Withdraw the timer; called at most once, never after it fired."""


def _in_activity(call: str) -> Any:
    """Return a method that refuses `call`, which does I/O or needs a thread."""
    return _refusal(f"{call} is not possible in a workflow: put it into an activity")


def _by_worker(call: str) -> Any:
    """Return a method that refuses `call`, which is the business of the worker."""
    return _refusal(f"{call} is not possible in a workflow: its loop is run by the worker")


def _refusal(message: str) -> Any:
    def refuse(self: WorkflowLoop, *args: object, **kwargs: object) -> NoReturn:
        raise ForbiddenInWorkflow(message)

    return refuse


class _Refusals(asyncio.AbstractEventLoop):
    """All that an event loop can do and a workflow may not."""

    run_forever = _by_worker("loop.run_forever")
    run_until_complete = _by_worker("loop.run_until_complete")
    stop = _by_worker("loop.stop")
    shutdown_asyncgens = _by_worker("loop.shutdown_asyncgens")
    shutdown_default_executor = _by_worker("loop.shutdown_default_executor")
    set_task_factory = _by_worker("loop.set_task_factory")
    set_exception_handler = _by_worker("loop.set_exception_handler")
    set_debug = _by_worker("loop.set_debug")
    add_signal_handler = _by_worker("loop.add_signal_handler")
    remove_signal_handler = _by_worker("loop.remove_signal_handler")

    run_in_executor = _in_activity("loop.run_in_executor (asyncio.to_thread)")
    set_default_executor = _in_activity("loop.set_default_executor")
    getaddrinfo = _in_activity("loop.getaddrinfo")
    getnameinfo = _in_activity("loop.getnameinfo")
    create_connection = _in_activity("loop.create_connection")
    create_server = _in_activity("loop.create_server")
    create_unix_connection = _in_activity("loop.create_unix_connection")
    create_unix_server = _in_activity("loop.create_unix_server")
    create_datagram_endpoint = _in_activity("loop.create_datagram_endpoint")
    connect_accepted_socket = _in_activity("loop.connect_accepted_socket")
    connect_read_pipe = _in_activity("loop.connect_read_pipe")
    connect_write_pipe = _in_activity("loop.connect_write_pipe")
    subprocess_shell = _in_activity("loop.subprocess_shell")
    subprocess_exec = _in_activity("loop.subprocess_exec")
    sendfile = _in_activity("loop.sendfile")
    start_tls = _in_activity("loop.start_tls")
    add_reader = _in_activity("loop.add_reader")
    remove_reader = _in_activity("loop.remove_reader")
    add_writer = _in_activity("loop.add_writer")
    remove_writer = _in_activity("loop.remove_writer")
    sock_accept = _in_activity("loop.sock_accept")
    sock_connect = _in_activity("loop.sock_connect")
    sock_recv = _in_activity("loop.sock_recv")
    sock_recv_into = _in_activity("loop.sock_recv_into")
    sock_recvfrom = _in_activity("loop.sock_recvfrom")
    sock_recvfrom_into = _in_activity("loop.sock_recvfrom_into")
    sock_sendall = _in_activity("loop.sock_sendall")
    sock_sendto = _in_activity("loop.sock_sendto")
    sock_sendfile = _in_activity("loop.sock_sendfile")


class WorkflowFuture(asyncio.Future[T]):
    """A future that hashes by the order of its creation, not by its address."""

    __slots__ = ("_order",)

    def __init__(self, loop: WorkflowLoop) -> None:
        self._order = loop._next_order()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._order


class WorkflowTask(asyncio.Task[T]):
    """A task that hashes by the order of its creation and remembers its context."""

    __slots__ = ("_home", "_order")

    def __init__(
        self,
        coro: Any,
        loop: WorkflowLoop,
        name: object,
        context: contextvars.Context | None,
        options: dict[str, Any],
    ) -> None:
        # The task enters a WeakSet, and so is hashed, while it initialises.
        self._order = loop._next_order()
        self._home = home = contextvars.copy_context() if context is None else context
        name = f"Task-{loop._count}" if name is None else str(name)
        if sys.version_info >= (3, 11):
            super().__init__(coro, loop=loop, name=name, context=home, **options)
        else:
            home.run(partial(super().__init__, coro, loop=loop, name=name))

    def __hash__(self) -> int:
        return self._order


class _DurableTimer(asyncio.TimerHandle):
    """A callback that waits for the runtime to fire one durable timer."""

    __slots__ = ("_durable", "_fired")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: WorkflowLoop,
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._durable: Cancellable | None = None
        self._fired = False


class WorkflowLoop(_Refusals):
    """An event loop that the runtime drives by :meth:`drain`.

    `on_timer(delay, fire)` is asked for each positive delay: the runtime journals a durable
    timer, and calls `fire()` and then :meth:`drain` once it is due. `now()` is the job's time in
    seconds. `seed` must be the same in each replay of a job and should differ between jobs (the
    job's id): asyncio keeps the tasks of all loops in one set, and equal hashes would crowd it.

    Attributes:
        closing: true from the start of :meth:`close`; durable commands must do nothing then.
        unhandled: what asyncio would have logged, as contexts of ``call_exception_handler``;
            at most 100 are kept. The runtime may empty it.
    """

    def __init__(
        self,
        on_timer: Callable[[float, Callable[[], None]], Cancellable],
        now: Callable[[], float],
        *,
        seed: int = 0,
    ) -> None:
        self._on_timer = on_timer
        self._now = now
        self._base = seed * _SPREAD & _HASH_MASK
        self._count = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[WorkflowTask[Any]] = []
        self._sweep_at = _FIRST_SWEEP
        self._agens = _asyncgens.AsyncGenerators()
        self._thread: int | None = None
        self._closed = False
        self.closing = False
        self.unhandled: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._thread else "idle"
        return f"<WorkflowLoop {state} ready={len(self._ready)}>"

    # --- what the runtime calls ------------------------------------------------------------------

    def run_main(
        self, coro: Coroutine[Any, Any, T], context: contextvars.Context | None = None
    ) -> WorkflowTask[T]:
        """Create the task of the workflow itself; it starts with the next :meth:`drain`."""
        return self.create_task(coro, name="workflow", context=context)

    def drain(self, max_callbacks: int = 1_000_000) -> None:
        """Run ready callbacks until none is left.

        May be called from a callback or a task of another running loop, whose place is given
        back afterwards. ``KeyboardInterrupt`` and ``SystemExit`` of workflow code become the
        exception of their task and an entry of `unhandled`; they never leave this method.

        Raises:
            NeverYields: `max_callbacks` have run and more are ready. Nothing is lost, but a
                loop that raised this is only good for :meth:`close`.
        """
        if self.closing:
            raise RuntimeError("this workflow loop is closed")
        ready = self._ready
        if not ready:
            return
        if (stage := free_stage()) is None:
            with Stage():
                return self.drain(max_callbacks)
        self._enter(stage)
        try:
            take = ready.popleft
            for _ in range(max_callbacks):
                if not ready:
                    return
                handle = take()
                if not handle._cancelled:
                    try:
                        handle._run()
                    except (KeyboardInterrupt, SystemExit) as error:
                        self._note("workflow code raised an exit of the process", error)
            if ready:
                raise NeverYields(
                    f"workflow code never yields to a durable call: {max_callbacks} callbacks ran,"
                    " and more are ready"
                )
        finally:
            self._leave(stage)

    def close(self) -> None:
        """Evict the workflow: run the ``finally`` blocks of all that is suspended.

        Sets `closing` first; no timer or operation is cancelled, no callback runs. Coroutines
        get ``GeneratorExit`` in their own context, the youngest task first. What they raise,
        and that they awaited again, is collected in `unhandled`. Closing twice is harmless.
        """
        if self._thread is not None:
            raise RuntimeError("a workflow loop can't be closed while it is draining")
        if self.closing:
            return
        self.closing = True
        self._ready.clear()
        tasks, self._tasks = [task for task in self._tasks if not task.done()], []
        if tasks or self._agens:
            self._close_all(tasks)
        self._closed = True
        now = self._now()
        self._now = lambda: now  # nothing is left here that knows the run: both can go at once
        del self._on_timer

    # --- the loop's own interface ----------------------------------------------------------------

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Make `callback` ready; in a closing loop it never runs."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.closing:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Do the same as :meth:`call_soon`, and refuse any thread but the one that drains."""
        if self._thread != threading.get_ident():
            raise ForbiddenInWorkflow(
                "loop.call_soon_threadsafe from another thread is not possible in a workflow:"
                " put the thread into an activity"
            )
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call after a durable timer; without delay it is :meth:`call_soon`, not journalled."""
        return self._schedule(delay, self._now() + delay, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call at the job's time `when`; see :meth:`call_later`."""
        return self._schedule(round(when - self._now(), 6), when, callback, args, context)

    def time(self) -> float:
        """Return the job's time, which moves only between two drains."""
        return self._now()

    def create_future(self) -> WorkflowFuture[Any]:
        """Return a future of this loop."""
        return WorkflowFuture(self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> WorkflowTask[T]:
        """Return a new task; without `name` it is named by its number in this run."""
        if self.closing:
            coro.close()
            raise RuntimeError("no task can start: this workflow is being evicted")
        _refuse_unordered(coro)
        if (convert := getattr(coro, "as_coroutine", None)) is not None:
            coro = convert()
        task: WorkflowTask[T] = WorkflowTask(coro, self, name, context, options)
        self._keep(task)
        return task

    def get_task_factory(self) -> None:
        """Return None: tasks of a workflow are always :class:`WorkflowTask`."""

    def get_exception_handler(self) -> None:
        """Return None: unhandled exceptions are collected in `unhandled`."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Do what :meth:`call_exception_handler` does."""
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Collect `context` in `unhandled`; a closing loop drops it."""
        if not self.closing and len(self.unhandled) < _MOST_UNHANDLED:
            self.unhandled.append(context)

    def get_debug(self) -> bool:
        """Return False."""
        return False

    def is_running(self) -> bool:
        """Return whether the loop is draining or closing just now."""
        return self._thread is not None

    def is_closed(self) -> bool:
        """Return whether :meth:`close` has finished."""
        return self._closed

    # --- inner matters ---------------------------------------------------------------------------

    def _next_order(self) -> int:
        self._count = count = self._count + 1
        return self._base + count & _HASH_MASK

    def _schedule(
        self,
        delay: float,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        if math.isnan(delay):
            raise ValueError("a delay must be a number, not NaN")
        timer = _DurableTimer(when, callback, args, self, context)
        if self.closing or delay == math.inf:
            return timer
        if delay <= 0:
            timer._fired = True
            self._ready.append(timer)
            return timer
        durable = self._on_timer(delay, lambda: self._fire(timer))
        if not timer._fired:
            timer._durable = durable
        return timer

    def _fire(self, timer: _DurableTimer) -> None:
        """Make a durable timer's callback ready, once."""
        if timer._fired or timer._cancelled or self.closing:
            return
        timer._fired = True
        timer._durable = None
        self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Withdraw the durable timer of `handle`; TimerHandle.cancel() calls this."""
        assert isinstance(handle, _DurableTimer)
        durable, handle._durable = handle._durable, None
        if durable is not None and not self.closing:
            durable.cancel()

    def _keep(self, task: WorkflowTask[Any]) -> None:
        """Hold `task` until it is done: asyncio itself holds tasks but weakly."""
        tasks = self._tasks
        tasks.append(task)
        if len(tasks) >= self._sweep_at:
            tasks[:] = [task for task in tasks if not task.done()]
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(tasks))

    def _note(self, message: str, error: BaseException | None = None, **more: object) -> None:
        if len(self.unhandled) < _MOST_UNHANDLED:
            self.unhandled.append({"message": message, "exception": error, **more})

    def _enter(self, stage: Stage) -> None:
        """Become the thread's running loop."""
        if self._thread is not None:
            raise RuntimeError("this workflow loop is running already")
        stage.take(self)
        self._thread = get_ident()

    def _leave(self, stage: Stage) -> None:
        """Give its place back to the loop around."""
        self._thread = None
        stage.give_back()

    def _agen_dropped(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Finish a generator whose last reference went.

        One that goes in the midst of the workflow's code goes at the same place in each replay,
        and is closed by a task as usual. One that the cyclic collector found, or that goes
        elsewhere, is kept for :meth:`close`.
        """
        if self.closing:
            _asyncgens.close(agen, self._note)
        elif self._thread != threading.get_ident() or _asyncgens.collecting():
            self._agens.keep(agen)
        else:
            self.call_soon(self.create_task, agen.aclose())

    # --- eviction --------------------------------------------------------------------------------

    def _close_all(self, tasks: list[WorkflowTask[Any]]) -> None:
        if (stage := free_stage()) is None:
            with Stage():
                return self._close_all(tasks)
        self._enter(stage)
        try:
            for task in reversed(tasks):
                if not task.done():
                    self._close_task(task)
            self._agens.close(self._note)
        finally:
            self._leave(stage)

    def _close_task(self, task: WorkflowTask[Any]) -> None:
        """Close the coroutine of one suspended task, in its context and as current task."""
        coro: Any = task.get_coro()
        _close_unstarted(coro)
        asyncio._enter_task(self, task)
        try:
            for _ in range(_MOST_CLOSES):
                if self._close_once(task, coro):
                    return
        finally:
            asyncio._leave_task(self, task)

    def _close_once(self, task: WorkflowTask[Any], coro: Any) -> bool:
        """Return whether `coro` is finished now; when not, it has awaited again."""
        try:
            task._home.run(coro.close)
        except BaseException as error:
            if getattr(coro, "cr_frame", None) is None:
                self._note("a task raised while its workflow was evicted", error, task=task)
                return True
            # A task group waits for its tasks, which is no fault of the workflow's code.
            if _innermost_module(coro) != "asyncio.taskgroups":
                self._note("a task awaited while its workflow was evicted", error, task=task)
            return False
        return True


# --- coroutines and frames -----------------------------------------------------------------------


def _refuse_unordered(coro: object) -> None:
    """Refuse a bare coroutine that asyncio took out of a set.

    ``asyncio.as_completed`` (and ``asyncio.wait`` of Python 3.10) start what they are given in
    the order of a set: by address, for bare coroutines, so that calls would swap their numbers
    in a replay without anybody noticing.
    """
    frame: types.FrameType | None = sys._getframe(2)
    if frame is None or frame.f_globals.get("__name__") != "asyncio.tasks":
        return
    while frame is not None and frame.f_globals.get("__name__") == "asyncio.tasks":
        culprit = _UNORDERED.get(frame.f_code.co_name)
        if culprit is not None and type(coro).__hash__ is object.__hash__:
            if inspect.iscoroutine(coro):
                coro.close()
            raise ForbiddenInWorkflow(
                f"{culprit} starts bare coroutines in the order of their addresses, which differs"
                " in a replay: give it tasks, [asyncio.create_task(c) for c in coroutines]"
            )
        frame = frame.f_back


_UNORDERED = {
    "as_completed": "asyncio.as_completed",
    "__init__": "asyncio.as_completed",
    "wait": "asyncio.wait",
}


def _close_unstarted(coro: Any) -> None:
    """Close coroutines that suspended frames made and did not await yet, so that none warns."""
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        for value in tuple(frame.f_locals.values()):
            for item in value if type(value) in (list, tuple, set) else (value,):
                if _is_unstarted(item) and item is not coro:
                    item.close()
        coro = coro.cr_await


def _is_unstarted(value: object) -> bool:
    if not inspect.iscoroutine(value):
        return False
    return inspect.getcoroutinestate(value) == inspect.CORO_CREATED


def _innermost_module(coro: Any) -> str | None:
    """Return the name of the module whose code the coroutine waits in."""
    module = None
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        module = frame.f_globals.get("__name__")
        coro = coro.cr_await
    return module


def place_of(coro: Any) -> str:
    """Where a suspended coroutine waits, in code that is not asyncio's; empty if that is unknown."""
    found = ""
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        code = frame.f_code
        if not str(frame.f_globals.get("__name__")).startswith("asyncio."):
            found = f" at {os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
        coro = coro.cr_await
    return found
