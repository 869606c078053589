"""One attempt of one activity, and the register of who in this process can run which.

An async activity is a task of the worker's loop, a sync one runs in a thread. Whatever comes out of
it, `sys.exit` and results that JSON can't carry included, becomes a JSON text or an error, never an
exception of the worker.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from types import ModuleType
from typing import Any

from . import _codec, _interceptors, _payload, errors
from ._bounds import Bounds, Pulse
from ._context import in_attempt, in_run
from ._lent import Lender
from ._runner import Runner, Running
from ._transaction import AsyncTransaction, SyncTransaction
from .activity import ActivityContext
from .errors import FatalError, HotMeshError, InvalidArgumentError, TimedOutError

__all__ = [
    "SERVERS",
    "Execution",
    "Server",
    "Servers",
    "name_of",
    "named",
    "refuse_unreadable",
    "refuse_unreadable_run",
]

Function = Callable[..., Any]


def name_of(function: object) -> str:
    """The name under which a function, or its name, is known to the engine."""
    name = function if isinstance(function, str) else getattr(function, "__name__", None)
    if name is None:
        raise InvalidArgumentError(
            f"{_codec.kind(function)} is no function and no name of one",
            hint="what has no name of its own goes into a dict: {name: function}",
        )
    return _codec.text(name, "the name of a function")


def named(functions: object, what: str) -> dict[str, Function]:
    """Functions by name, from a module, a class, an object, a mapping, a list or one function."""
    if functions is None or functions == [] or functions == () or functions == {}:
        return {}
    if isinstance(functions, Mapping):
        found = dict(functions)
    elif isinstance(functions, ModuleType):
        found = {
            name: value
            for name, value in vars(functions).items()
            if inspect.isfunction(value)
            and value.__module__ == functions.__name__
            and not name.startswith("_")
        }
    elif inspect.isroutine(functions):
        found = {name_of(functions): functions}
    elif isinstance(functions, Iterable) and not isinstance(functions, str | bytes):
        found = {name_of(function): function for function in functions}
    elif type(functions).__module__ == "builtins" and not isinstance(functions, type):
        found = {}
    else:
        found = {
            name: value
            for name, value in inspect.getmembers(functions, callable)
            if not name.startswith("_")
        }
    if not found or not all(callable(value) for value in found.values()):
        raise InvalidArgumentError(
            f"{what} names no function", hint="pass a module, a class, or a list of functions"
        )
    return found


class Execution:
    """One attempt. `done(self)` is called in the worker's loop; then `output` or `error` is set.

    `output` is JSON text; `value` is what replay would make of it, of an inline attempt. `id` and
    `token` are those of the stream message, None while the attempt is not announced.
    """

    __slots__ = (
        "_asking",
        "_done",
        "_handed",
        "_task",
        "_wanted",
        "abandoned",
        "args",
        "asked",
        "bounds",
        "context",
        "error",
        "function",
        "hurry",
        "id",
        "lane",
        "late",
        "nudge",
        "output",
        "policy",
        "pulse",
        "sequence",
        "server",
        "since",
        "slot",
        "timeouts",
        "token",
        "told",
        "transaction",
        "value",
    )

    def __init__(
        self,
        server: Server,
        function: Function,
        context: ActivityContext,
        args: list[Any],
        done: Callable[[Execution], None],
        sequence: int = 0,
    ) -> None:
        if args and type(args[-1]) is dict and (headers := _payload.headers_of(args)):
            context = context._replace(headers=headers)
        self.server = server
        self.function = function
        self.context = context
        self.args = args
        self.sequence = sequence
        self.policy = ""
        self.timeouts = ""
        self.bounds: Bounds | None = None
        self.pulse: Pulse | None = None
        self.nudge: Callable[[], object] | None = None
        self.lane = ""
        self.id: int | None = None
        self.token: int | None = None
        self.output: str | None = None
        self.value: Any = None
        self.error: dict[str, Any] | None = None
        self.abandoned = False
        self.told = False
        self.late = False
        self._handed = False
        self.slot = False
        self.transaction: AsyncTransaction | SyncTransaction | None = None
        self.hurry: Callable[[Execution], object] | None = None
        self._asking: list[Future[None]] = []
        self.asked = monotonic()
        self.since = 0.0
        self._wanted = False
        self._done = done
        self._task: asyncio.Future[None] | Running | None = None

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.output is not None or self.error is not None

    @property
    def hurried(self) -> bool:
        """Whether somebody waits for its id and token."""
        return bool(self._asking) and self.id is None

    @property
    def silent(self) -> bool:
        """Whether nothing is left to report: nobody wants it, or its own transaction has told it."""
        return self.abandoned or self.told

    @property
    def locked(self) -> bool:
        """Whether its message is locked by its own transaction: then its lease is not needed."""
        return self.transaction is not None and self.transaction.locked

    def ask(self, told: Future[None]) -> None:
        """Resolve `told` once there are an id and a token; in the worker's loop.

        An attempt that began inline is announced by the next turn, later ones before they begin.
        """
        self.server.transactional.add(self.function)
        self._asking.append(told)
        if self.id or self.abandoned:
            self._answer()
        else:
            self.asked = float("-inf")
            if self.hurry is not None:
                self.hurry(self)

    def identify(self, id: int, token: int | None) -> None:
        """It was announced: its message has this id and token."""
        self.id, self.token = id, token
        self._answer()

    def _answer(self) -> None:
        asking, self._asking = self._asking, []
        for told in asking:
            if told.done():
                continue
            if self.abandoned:
                told.set_exception(HotMeshError("this attempt was given up"))
            else:
                told.set_result(None)

    @property
    def unwanted(self) -> bool:
        """Whether what it still does is in vain."""
        return self.abandoned or self.late

    @property
    def details(self) -> str | None:
        """What its last heartbeat told, JSON text."""
        return None if self.pulse is None else self.pulse.details

    def bound(self, bounds: Bounds) -> None:
        """Keep to these times once it begins."""
        self.bounds = bounds
        if bounds.heartbeat is not None:
            self.pulse = Pulse(bounds.heartbeat)

    def beat(self, details: Any) -> None:
        """The activity says that it is alive; in its own task or thread."""
        if self.unwanted:
            raise asyncio.CancelledError(f'activity "{self.context.activity_name}" is not wanted')
        told = None if details is None else _payload.dumps(details, "details of a heartbeat")
        if self.pulse is None:
            self.pulse = Pulse(None)
            self.pulse.nudge = self.nudge
        self.pulse.beat(told)

    def attach(self, nudge: Callable[[], object]) -> None:
        """It has a message; `nudge` lets its heartbeats be sent."""
        self.nudge = nudge
        if self.pulse is not None:
            self.pulse.nudge = nudge
            nudge()

    def start(self) -> None:
        """Begin, or as soon as there is a slot. Must be called in the worker's loop."""
        self._wanted = True
        if self.slot:
            self._begin()

    def take_slot(self) -> None:
        """It is this execution's turn; whoever reserved it may not have said `start` yet."""
        self.slot = True
        if self._wanted:
            self._begin()

    def _begin(self) -> None:
        self.since = monotonic()
        if self.server.is_async(self.function):
            self._task = self.server.runner.start(self._run_async, self._finish)
        else:
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()
            self._task = loop.run_in_executor(self.server.threads, context.run, self._run_sync)
            self._task.add_done_callback(self._finish_thread)
            self.server.in_threads.add(self._task)
            self._task.add_done_callback(self.server.in_threads.discard)
        if self.bounds is not None:
            self.bounds.begin(self.pulse, self._time_out)

    def _time_out(self, which: str, seconds: float) -> None:
        """Its time is over: that is told now. A thread that can't be stopped keeps its slot."""
        if self.finished or self.unwanted:
            return
        name = self.context.activity_name
        self.fail(TimedOutError(f'activity "{name}" timed out: {which}_timeout of {seconds:g} s'))
        assert self.error is not None
        self.error["timeout"] = which
        self.late = True
        self._stop()
        if not self.locked:  # else its own transaction tells it, once it has ended
            self._hand_over()

    def _hand_over(self) -> None:
        if self._handed:
            self.server.freed()
            return
        self._handed = True
        self._done(self)

    def _stop(self) -> None:
        if self.told:
            return  # its outcome is committed: it only cleans its connection
        if self._task is not None and self.server.is_async(self.function):
            self._task.cancel()

    def _enter(self) -> None:
        """Say to the code that it is an activity; the context is that of its task or thread."""
        if in_run.get() is not None:
            in_run.set(None)
        in_attempt.set(self)

    async def _run_async(self) -> None:
        self._enter()
        try:
            self._keep(await self._called())
        except asyncio.CancelledError:
            if self.unwanted:
                raise
            self.fail(FatalError(f'activity "{self.context.activity_name}" cancelled itself'))
        except BaseException as error:  # sys.exit in an activity must not stop the worker
            self.fail(error)
        finally:
            if isinstance(self.transaction, AsyncTransaction):
                await self.transaction.end()

    def _run_sync(self) -> None:
        self._enter()
        try:
            if _interceptors.executions:
                result = asyncio.run(self._called())
            else:
                result = self.function(*self._arguments())
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise InvalidArgumentError(
                    f'activity "{self.context.activity_name}" returned an awaitable',
                    hint="define it with `async def`",
                )
            self._keep(result)
        except BaseException as error:
            self.fail(error)
        if isinstance(self.transaction, SyncTransaction):
            self.transaction.end()

    def _called(self) -> Coroutine[Any, Any, Any]:
        """What an async activity, or one that has interceptors around it, has to be awaited."""
        args = self._arguments()
        if _interceptors.executions:
            is_async = self.server.is_async(self.function)
            return _interceptors.around_execution(self.context, args, self.function, is_async)
        return self.function(*args)  # type: ignore[no-any-return]

    def _arguments(self) -> list[Any]:
        what = f'activity "{self.context.activity_name}"'
        return _payload.arguments(self.function, self.args, what)

    def body(self) -> str:
        """The report of a message that was claimed, as JSON text."""
        head = f'{{"id":{self.id},"token":{self.token},'
        if self.error is not None:
            return head + self._failure() + "}"
        return head + f'"output":{self.output}}}'

    def _failure(self) -> str:
        """The error, and what else the next attempt needs: the worker's policy, and the details."""
        parts = [f'"error":{json.dumps(self.error)}']
        if self.policy:
            parts.append(f'"retry_policy":{self.policy}')
        if self.details is not None:
            parts.append(f'"output":{self.details}')
        return ",".join(parts)

    def _keep(self, value: Any) -> None:
        if self.late:
            return
        if value is None or value is True or value is False:
            self.value, self.output = value, _payload.seal(_CONSTANTS[value])
            return
        what = f'result of activity "{self.context.activity_name}"'
        text = _payload.written(value, what)
        if self.sequence:
            self.value = value if type(value) in (str, int) else _codec.stored(text)
        openly = getattr(self.function, "answers_openly", False)  # the engine has to read it
        self.output = text if openly else _payload.seal(text, what)

    def fail(self, error: BaseException) -> None:
        """Its outcome is this error, whatever it was before; unless its time was over by then."""
        if self.late:
            return
        self.output = None
        if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
            name = self.context.activity_name
            text = errors.to_json(error)["message"]
            told = FatalError(f'activity "{name}" raised {type(error).__name__}({text})')
            told.type = type(error).__name__
            error = told
        self.error = _payload.error_json(error)
        if isinstance(error, InvalidArgumentError) and error.detail is None:
            self.error["code"] = 598  # a result that JSON can't carry will not get better

    def _finish_thread(self, task: asyncio.Future[None]) -> None:
        self._finish(None if task.cancelled() else task.exception())

    def _finish(self, fault: BaseException | None) -> None:
        self.server.release(self)
        if self.bounds is not None:
            self.bounds.end()
        if self.output is None and self.error is None and not self.abandoned:
            lost = f'activity "{self.context.activity_name}" ended without a result'
            self.error = {"type": type(fault).__name__, "message": lost, "code": 500}
        self._hand_over()

    def abandon(self) -> None:
        """Nobody wants the result any more; an async activity is cancelled, a thread runs out.

        A thread keeps its slot until then; it is told at its next heartbeat.
        """
        if self.abandoned:
            return
        self.abandoned = True
        self._answer()
        self._stop()
        if self._task is None:  # it never began
            self.server.release(self)


_CONSTANTS = {None: "null", True: "true", False: "false"}


class Server:
    """The activities of one worker, by queue and name, and its slots."""

    def __init__(self, home: tuple[str, str], slots: int) -> None:
        self.home = home
        self.slots = slots
        self.busy = 0
        self.waiting: deque[Execution] = deque()
        self.functions: dict[tuple[str, str], Function] = {}
        self.limits: dict[str, bool | None] = {}
        self.runner = Runner()
        self.transactions: Lender | None = None
        self.transactional: set[Function] = set()
        self.policies: dict[tuple[str, str], str] = {}
        self._async: set[Function] = set()
        self.threads = ThreadPoolExecutor(max(slots, 1), thread_name_prefix="hotmesh-activity")
        self.in_threads: set[asyncio.Future[None]] = set()
        self.freed: Callable[[], object] = lambda: None
        self.open = True

    def close(self) -> None:
        """Wait for no thread any more, and keep no connection."""
        self.open = False
        if self.transactions is not None:
            self.transactions.close()
        for future in list(self.in_threads):
            future.cancel()
        self.threads.shutdown(wait=False, cancel_futures=True)

    @property
    def free(self) -> int:
        """How many activities may begin now."""
        return self.slots - self.busy if self.open else 0

    def has_room(self, wait: bool) -> bool:
        """Whether one more may be reserved: for a free slot, or with `wait` for one to come."""
        return self.free > 0 or (wait and self.open and len(self.waiting) < self.slots)

    def reserve(self, execution: Execution) -> None:
        """Give it a slot, or a place in the line for one."""
        if self.busy < self.slots:
            self.busy += 1
            execution.take_slot()
        else:
            self.waiting.append(execution)

    def release(self, execution: Execution) -> None:
        """Take its slot, or its place in the line, away from an execution."""
        if not execution.slot:
            self.waiting.remove(execution)
            return
        execution.slot = False
        self.busy -= 1
        while self.waiting and self.busy < self.slots:
            self.reserve(self.waiting.popleft())

    def add(self, queue: str, functions: Mapping[str, Function], policy: str = "") -> None:
        """Serve these functions on a queue; `policy` (JSON text) is for calls that have none."""
        self.limits.setdefault(queue, None)
        self.policies.update({(queue, name): policy for name in functions if policy})
        self.functions.update({(queue, name): function for name, function in functions.items()})
        self._async.update(filter(inspect.iscoroutinefunction, functions.values()))

    def is_async(self, function: Function) -> bool:
        """Whether a function that is served here is an `async def`."""
        return function in self._async


class Servers:
    """Who in this loop serves which activity: a run looks here before it uses the stream."""

    def __init__(self) -> None:
        self._servers: dict[asyncio.AbstractEventLoop, list[Server]] = {}

    def join(self, server: Server) -> None:
        """Add a worker's activities to those of the running loop."""
        self._servers.setdefault(asyncio.get_running_loop(), []).append(server)

    def leave(self, server: Server) -> None:
        """Take a worker's activities away."""
        for loop, servers in list(self._servers.items()):
            if server in servers:
                servers.remove(server)
            if not servers or loop.is_closed():
                del self._servers[loop]

    def find(self, home: tuple[str, str], queue: str, name: str, wait: bool) -> Server | None:
        """A worker of this app that serves the activity here and has room for it.

        None where the queue has limits, which only a claim keeps, and while that is not known.
        """
        for server in self._servers.get(asyncio.get_running_loop(), ()):
            if server.home == home and (queue, name) in server.functions and server.has_room(wait):
                return server if server.limits[queue] is False else None
        return None

    def _at(self, home: tuple[str, str]) -> list[Server]:
        servers = self._servers.get(asyncio.get_running_loop(), ())
        return [server for server in servers if server.home == home]

    def limits(self, home: tuple[str, str]) -> dict[str, bool | None]:
        """Which queues of this app that are served here have limits; None is not known yet."""
        known: dict[str, bool | None] = {}
        for server in self._at(home):
            for queue, limited in server.limits.items():
                known[queue] = limited if queue not in known or limited is None else known[queue]
        return known

    def learn(self, home: tuple[str, str], limits: Mapping[str, bool]) -> None:
        """The engine says which queues have limits for their activities."""
        for server in self._at(home):
            server.limits.update(
                {queue: limits[queue] for queue in server.limits if queue in limits}
            )


SERVERS = Servers()


def refuse_unreadable(reason: str) -> None:
    """Runs in place of an activity whose arguments Python can't read."""
    raise InvalidArgumentError(
        f"its arguments or history can't be read: {reason}",
        hint="the value came in by SQL; numbers have up to 4,000 digits, nesting up to 400 levels",
    )


async def refuse_unreadable_run(reason: str) -> None:
    """Runs in place of a workflow whose arguments or history Python can't read."""
    refuse_unreadable(reason)
