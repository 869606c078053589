"""One run of a workflow function: it consumes events and asks for durable operations.

A run knows commands and history, not Postgres. Each durable call takes the next sequence number
when it is made. Events reach the code one at a time, in the order of their cursor, and the loop is
drained after each: so live and in every replay the same task wins the same race.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from . import _interceptors, _payload, errors
from ._context import in_run
from ._handlers import Handlers
from ._loop import NeverYields, WorkflowLoop, place_of
from ._operation import Operation
from ._types import Reader
from .errors import (
    ForbiddenInWorkflow,
    HotMeshError,
    InvalidArgumentError,
    JobCancelledError,
    NonDeterminismError,
    PayloadCodecError,
)

__all__ = ["Command", "ContinueAsNew", "Run", "RunInfo", "Step", "steps_of"]


class Step(NamedTuple):
    """A row of the journal; `cursor` is None while the operation is open, `at` is seconds."""

    sequence: int
    kind: str
    name: str | None
    state: str
    value: Any
    cursor: int | None
    at: float


def steps_of(history: list[Any] | None) -> list[Step]:
    """The steps of an answer's history; a last null only says that there is more."""
    return [Step._make(entry) for entry in history or () if entry is not None]


@dataclass(slots=True)
class Command:
    """A durable operation that the code asked for and the journal does not have yet."""

    sequence: int
    kind: str
    name: str = ""
    queue: str = ""
    args: str = ""
    retry_policy: str = ""
    delay: float = 0.0
    timeouts: str = ""
    lane: str = ""


@dataclass(frozen=True)
class RunInfo:
    """What a workflow may know of itself.

    `signal` is what a hook shall signal when it is done; `base` counts the steps of earlier
    generations, before `continue_as_new`.
    """

    workflow_id: str
    workflow_name: str
    task_queue: str
    job_id: int
    dimension: str = ""
    attempt: int = 1
    signal: str | None = None
    base: int = 0


class ContinueAsNew(BaseException):
    """Leaves the function, which starts over with `args` (JSON text) and an empty journal."""

    def __init__(self, args: str) -> None:
        super().__init__("the workflow continues as new")
        self.args_text = args


@dataclass
class Run:
    """The coroutine of one job, its loop, and what it waits for.

    `cursor` counts the events that the code has consumed. `commands` are new; whoever drives the
    run takes them. `ended` says that the function has returned or raised, `mismatch` that a replay
    met other code.
    """

    info: RunInfo
    function: Callable[..., Coroutine[Any, Any, Any]]
    time: float
    cursor: int = 0
    sequence: int = 0
    commands: list[Command] = field(default_factory=list)
    mismatch: HotMeshError | None = None

    def __post_init__(self) -> None:
        self.ended = False
        self.loop = WorkflowLoop(self._start_timer, lambda: self.time, seed=self.info.job_id)
        self._recorded: dict[int, Step] = {}
        self._cancelled: set[int] = set()
        self._events: deque[Step] = deque()
        self._waiting: dict[int, Callable[[Step], object]] = {}
        self._randoms = 0
        self.sequence = self.info.base
        self.seen = 0
        self._patches: dict[str, bool] = {}
        self._forlorn = False
        self._main: asyncio.Task[Any] | None = None
        self._cancelled_from_outside = False
        self._never: NeverYields | None = None
        self._handlers: Handlers | None = None
        self._answering = False
        self._replay_until = 0
        self._context = contextvars.copy_context()

    # --- driven by the worker --------------------------------------------------------------------

    def start(self, args: list[Any], history: Iterable[Step] = ()) -> None:
        """Begin the function; `history` is what an earlier life of this run has left."""
        steps = list(history)
        self._recorded = {step.sequence: step for step in steps if step.sequence > 0}
        self._cancelled = {step.sequence for step in steps if step.state == "cancelled"}
        self._events.extend(
            sorted((step for step in steps if step.cursor), key=lambda step: step.cursor or 0)
        )
        self._replay_until = max(self._recorded, default=0)
        self._context.run(in_run.set, self)
        self._main = self.loop.run_main(self._call(args), self._context)
        self._drain()
        self._consume()
        if self._recorded:  # all that is recorded was asked for before the last recorded event
            self._mismatched(self._recorded[min(self._recorded)], None)

    async def _call(self, args: list[Any]) -> Any:
        what = f'workflow "{self.info.workflow_name}"'
        try:
            args = _payload.arguments(self.function, args, what)
        except PayloadCodecError as fault:
            self.mismatch = fault  # another worker may have the codec: the job waits
            return None
        if _interceptors.workflows:
            return await _interceptors.around_workflow(self, args)
        return await self.function(*args)

    def tell(self, steps: Iterable[Step]) -> None:
        """Deliver numbered events, in the order of their cursor."""
        self._events.extend(steps)
        self._consume()

    def complete(self, sequence: int, value: Any, at: float) -> Step:
        """Deliver the result of an activity that ran right here: the next event of all."""
        step = Step(sequence, "activity", None, "done", value, self.cursor + 1, at)
        self._events.append(step)
        self._consume()
        return step

    def _consume(self) -> None:
        while self._events and self.mismatch is None and not self.ended:
            step = self._events.popleft()
            if (cursor := step.cursor) is not None:
                self.seen = max(self.seen, cursor)
                self.cursor = max(self.cursor, cursor)
            if step.at > self.time:
                self.time = step.at
            if step.sequence <= 0:
                self._obey(step)
                continue
            deliver = self._waiting.pop(step.sequence, None)
            if deliver is None:
                self._mismatched(step, None)
                return
            deliver(step)
            self._drain()
        if not self._waiting and not self.ended and self.mismatch is None:
            self._tell_forlorn()

    def _tell_forlorn(self) -> None:
        """The code waits, and nothing that it waits for can come: say where, once."""
        if not self._forlorn and self._main is not None:
            self._forlorn = True
            where = place_of(self._main.get_coro())
            said = f"it waits for nothing durable{where}: only a cancel can wake it"
            self.loop.unhandled.append({"message": said})

    def _drain(self) -> None:
        try:
            self.loop.drain()
        except NeverYields as error:
            self._never = error
        self.ended = self._never is not None or (self._main is not None and self._main.done())

    def _obey(self, step: Step) -> None:
        """A step that the code never asked for: somebody cancels the job, or updates it."""
        if step.kind == "update":
            self._context.run(self.handlers.receive, step)
        elif self._main is not None:
            self._cancelled_from_outside = True
            self._main.cancel()
        self._drain()

    @property
    def handlers(self) -> Handlers:
        """Those of queries and updates."""
        if self._handlers is None:
            self._handlers = Handlers(self)
        return self._handlers

    def answer(self, name: str, args: list[Any]) -> Any:
        """Answer a query, without a trace: its handler can ask for nothing."""
        if self.mismatch is not None:
            raise self.mismatch
        self._answering = True
        try:
            return self._context.run(self.handlers.query, name, args)
        finally:
            self._answering = False

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        if self._never is not None:
            raise self._never
        assert self._main is not None
        if self._main.cancelled() and self._cancelled_from_outside:
            raise JobCancelledError(f"job [{self.info.workflow_id}] was cancelled")
        if self._main.cancelled():
            raise asyncio.CancelledError("the workflow cancelled itself")
        return self._main.result()

    @property
    def is_replaying(self) -> bool:
        """Whether the code is still going over what an earlier life has done."""
        return bool(self._events) or self.sequence < self._replay_until

    def close(self) -> None:
        """Drop the coroutine; its `finally` blocks run, and can ask for nothing."""
        self.loop.close()
        self._handlers = None
        self._context.run(in_run.set, None)  # no cycle is left to the garbage collector

    # --- called by workflow code -----------------------------------------------------------------

    def next_sequence(self) -> int:
        """The number of the next durable call."""
        self.sequence += 1
        return self.sequence

    def activity(
        self,
        name: str,
        queue: str,
        args: str,
        retry_policy: str,
        read: Reader | None = None,
        timeouts: str = "",
        lane: str = "",
    ) -> Operation[Any]:
        """Ask for an activity; `read` makes its result, the others are JSON texts (`lane` members)."""
        operation: Operation[Any] = Operation(
            self.loop, self.next_sequence(), "activity", name, self._give_up
        )
        command = Command(
            operation.sequence,
            "activity",
            name,
            queue,
            args,
            retry_policy,
            timeouts=timeouts,
            lane=lane,
        )
        self._ask(command, lambda step: self._resolve(operation, step, read))
        return operation

    def effect(
        self,
        kind: str,
        name: str,
        args: str = "",
        reads: Callable[[Any], Any] | None = None,
        fails: Callable[[Any], Exception] | None = None,
    ) -> Operation[Any]:
        """Ask the engine itself for something; `args` is the JSON text that its room reads.

        `reads` makes the awaited value of the answer, `fails` the exception of an error.
        """
        operation: Operation[Any] = Operation(
            self.loop, self.next_sequence(), kind, name, self._give_up
        )
        command = Command(operation.sequence, kind, name, args=args)

        def deliver(step: Step) -> None:
            if step.state == "failed" and fails is not None:
                operation.fail(fails(_payload.opened_error(step.value)))
            else:
                self._resolve(operation, step, reads)

        self._ask(command, deliver)
        return operation

    def wait(
        self,
        signal: str,
        timeout: float | None = None,
        late: Exception | None = None,
        read: Reader | None = None,
    ) -> Operation[Any]:
        """Ask for the next signal of that name; after `timeout` seconds it fails with `late`."""
        operation = self.effect("wait", signal, reads=read)
        if timeout is None:
            return operation

        def fire() -> None:
            if operation.fail(late or TimeoutError()):
                self.cancel(operation.sequence)

        timer = self._start_timer(timeout, fire)
        operation.add_done_callback(lambda _: timer.cancel())
        return operation

    def sleep(self, seconds: float) -> Operation[float]:
        """A durable timer that answers its length."""
        if seconds <= 0:
            operation: Operation[float] = Operation(self.loop, 0, "timer", "")
            operation.resolve(seconds)
            return operation
        sequence = self.next_sequence()
        operation = Operation(self.loop, sequence, "timer", "", self._give_up)
        self._ask(
            Command(sequence, "timer", delay=seconds), lambda step: operation.resolve(seconds)
        )
        return operation

    def patched(self, id: str) -> bool:
        """Whether the code may take its new way: yes, unless an earlier life went the old one."""
        if id not in self._patches:
            recorded = self._recorded.get(self.sequence + 1)
            if recorded is not None and (recorded.kind, recorded.name) == ("patch", id):
                del self._recorded[self.next_sequence()]
                self._patches[id] = True
            elif self.sequence < self._replay_until:
                self._patches[id] = False
            else:
                self._patches[id] = True
                if not self.loop.closing:
                    self.commands.append(Command(self.next_sequence(), "patch", id))
        return self._patches[id]

    def random(self) -> Random:
        """A generator whose numbers are the same in each replay."""
        self._randoms += 1
        generation = f"@{self.info.base}" if self.info.base else ""
        return Random(f"{self.info.job_id}{self.info.dimension}{generation}/{self._randoms}")

    def _start_timer(self, delay: float, fire: Callable[[], None]) -> _Timer:
        sequence = self.next_sequence()
        self._ask(Command(sequence, "timer", delay=delay), lambda step: fire())
        return _Timer(self, sequence)

    def _resolve(self, operation: Operation[Any], step: Step, read: Reader | None = None) -> None:
        if step.state == "failed":
            told = _payload.opened_error(step.value)
            operation.fail(errors.from_json(told, self.info.workflow_id))
            return
        value = step.value
        try:
            if type(value) is dict:
                value = _payload.opened(value)
            operation.resolve(value if read is None else read(value))
        except PayloadCodecError as fault:
            self.mismatch = fault  # another worker may have the codec: the job waits
            self.commands.clear()
        except InvalidArgumentError as fault:
            operation.fail(fault)

    def _ask(self, command: Command, deliver: Callable[[Step], object]) -> None:
        if self.loop.closing:
            return
        if self._answering:
            raise ForbiddenInWorkflow(f"a query handler asked for {command.kind} {command.name}")
        if self.mismatch is not None:
            raise self.mismatch
        recorded = self._recorded.pop(command.sequence, None)
        if recorded is None:  # new, or it ran inline in a process that died before it could report
            self.commands.append(command)
        elif recorded.kind != command.kind or (recorded.name or "") != command.name:
            self._mismatched(recorded, command)
            raise self.mismatch or AssertionError
        self._waiting[command.sequence] = deliver

    def _give_up(self, operation: Operation[Any]) -> None:
        self.cancel(operation.sequence)

    def cancel(self, sequence: int) -> None:
        """The code no longer wants this answer; one that is on its way will be ignored."""
        if self.loop.closing or self.mismatch is not None or sequence not in self._waiting:
            return
        self._waiting[sequence] = lambda step: None
        if sequence not in self._cancelled:
            self.commands.append(Command(sequence, "cancel"))

    def _mismatched(self, recorded: Step | None, found: Command | None) -> None:
        if self.mismatch is None:
            self.mismatch = _mismatch(self.info, recorded, found)
            self.commands.clear()


class _Timer:
    """What `call_later` holds: cancelling it takes the durable timer back."""

    __slots__ = ("_run", "_sequence")

    def __init__(self, run: Run, sequence: int) -> None:
        self._run = run
        self._sequence = sequence

    def cancel(self) -> None:
        self._run.cancel(self._sequence)


def _mismatch(info: RunInfo, recorded: Step | None, found: Command | None) -> NonDeterminismError:
    number = found.sequence if found else recorded.sequence if recorded else 0
    expected = f"{recorded.kind} {recorded.name or ''}".strip() if recorded else "nothing"
    met = f"{found.kind} {found.name}".strip() if found else "no call under this number"
    return NonDeterminismError(
        f'workflow "{info.workflow_id}" does not replay: step {number} was {expected},'
        f" the code now asks for {met}",
        detail=f"expected: {expected}; found: {met}; workflow {info.workflow_name}",
        hint="run the old code, or guard the change with workflow.patched(...)",
        job_id=info.workflow_id,
    )
