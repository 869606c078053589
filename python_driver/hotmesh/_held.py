"""A run that this worker holds or still remembers, and the report that it owes.

One report of a run is under way at a time. While it is, inline activities may finish; the code gets
to see their results only after the answer, so that what the engine numbered meanwhile comes first.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING

from . import _codec, _payload, errors
from ._bounds import Bounds, needs_a_message, with_details
from ._execution import SERVERS, Execution, Server
from ._replay import Command, ContinueAsNew, Run
from .activity import ActivityContext
from .errors import HotMeshError

if TYPE_CHECKING:
    from ._lease import Watch

__all__ = ["Held", "Report"]

_LOG = logging.getLogger("hotmesh")

_name = lru_cache(maxsize=1000)(json.dumps)
"""A name as JSON text; there are few of them, and each is written for every step."""

ANNOUNCE_AFTER = 1.0
"""Seconds after which an activity that runs inline gets a row of its own, as a lease holds."""


class Report:
    """The JSON text that goes into a turn, and what becomes true when it was applied."""

    __slots__ = ("body", "commands", "consumed", "held", "keep", "running", "starts")

    def __init__(self, held: Held, body: str, consumed: int, running: bool, keep: bool) -> None:
        self.held = held
        self.body = body
        self.consumed = consumed
        self.running = running
        self.keep = keep
        self.starts: list[Execution] = []
        self.commands = 0

    @property
    def tells(self) -> bool:
        """Whether there is anything in it that must be written."""
        return self.consumed > 0 or self.commands > 0 or self.held.over

    @property
    def size(self) -> int:
        """Characters of the text."""
        return len(self.body)


class Held:
    """A run, its message's id and token, and the activities that run inline for it."""

    def __init__(
        self, run: Run, id: int, token: int, home: tuple[str, str], announce: bool, clock: float
    ) -> None:
        self.run = run
        self.place = (run.info.job_id, run.info.dimension)
        self.id = id
        self.token = token
        self.home = home
        self.announce = announce
        self.cursor = run.cursor
        self.holding = True
        self.flight: Report | None = None
        self.inline: dict[int, Execution] = {}
        self.finished: deque[Execution] = deque()
        self.asked_at = 0.0
        self._unwanted: set[int] = set()
        self._clock = (clock, monotonic())

    def set_clock(self, engine_time: float | None) -> None:
        """Note the engine's time, seconds; between answers it goes on by this process's clock."""
        if engine_time is not None:
            self._clock = (engine_time, monotonic())

    def now(self) -> float:
        """The engine's time, never before what the run has seen."""
        engine, here = self._clock
        return max(self.run.time, engine + monotonic() - here)

    # --- what the run does ------------------------------------------------------------------------

    def step(self, watch: Watch, action: Callable[..., object], *args: object) -> None:
        """Let workflow code run, watched."""
        watch.step = (monotonic(), self.run.info.workflow_id)
        try:
            action(*args)
        finally:
            watch.step = None
            if self.run.loop.unhandled:
                self._tell_unhandled()

    def _tell_unhandled(self) -> None:
        """Log what asyncio would have logged, such as a failed task that nobody awaited.

        Code that awaits in a `finally` block, to clean up, can't when it is forgotten; it may.
        """
        told, self.run.loop.unhandled = self.run.loop.unhandled, []
        for context in told:
            error, name = context.get("exception"), self.run.info.workflow_id
            if isinstance(error, RuntimeError) and str(error).endswith("ignored GeneratorExit"):
                continue
            _LOG.warning('workflow "%s": %s', name, context.get("message"), exc_info=error)

    def report(self, watch: Watch) -> Report:
        """Consume what has finished inline, and say what the engine must write."""
        done: list[str] = []
        commands: list[str] = []
        starts: list[Execution] = []
        while self.finished:
            execution = self.finished.popleft()
            self.inline.pop(execution.sequence, None)
            if execution.error is not None:
                commands.append(self._failed(execution))
            elif execution.output is not None:
                done.append(self._consume(execution, watch))
        for command in self._commands():
            here = self._inline(command)
            if here is None:
                commands.append(_command(command))
            elif self.announce or here.function in here.server.transactional:
                commands.append(_command(command, announced=True))
            else:
                starts.append(here)
        if len(self.inline) > len(starts):
            commands += self._overdue()
        running = bool(self.inline)
        body = self._body(done, commands, running)
        keep = not commands or not any('"announced":true' in text for text in commands)
        report = Report(self, body, len(done), running, keep)
        report.starts = starts
        report.commands = len(commands)
        return report

    def _consume(self, execution: Execution, watch: Watch) -> str:
        at = round(self.now(), 6)  # what the journal keeps, so what a replay sees
        self.step(watch, self.run.complete, execution.sequence, execution.value, at)
        name = _name(execution.context.activity_name)
        return (
            f'{{"sequence":{execution.sequence},"kind":"activity","name":{name},'
            f'"value":{execution.output},"at":{at!r}}}'
        )

    def _failed(self, execution: Execution) -> str:
        """The first attempt has failed inline: from here on it is the stream's business."""
        command = _again(execution)
        command.timeouts = with_details(command.timeouts, execution.details)
        return _command(command, announced=True, error=json.dumps(execution.error))

    def _commands(self) -> list[Command]:
        if not self.run.commands:
            return []
        commands, self.run.commands = self.run.commands, []
        self._unwanted.clear()
        for command in commands:
            if command.kind == "cancel":
                self._unwanted.add(command.sequence)
                if (execution := self.inline.pop(command.sequence, None)) is not None:
                    execution.abandon()
        return commands

    def _inline(self, command: Command) -> Execution | None:
        """An execution right here, if a worker of this process serves it and has a slot."""
        if command.kind != "activity" or command.sequence in self._unwanted:
            return None
        if command.timeouts and needs_a_message(command.timeouts):
            return None
        server = SERVERS.find(self.home, command.queue, command.name, not self.announce)
        if server is None:
            return None
        return self._execution(server, command)

    def _execution(self, server: Server, command: Command) -> Execution:
        context = ActivityContext(self.run.info.workflow_id, command.name, command.queue)
        bounds = Bounds(json.loads(command.timeouts)) if command.timeouts else None
        if bounds is not None:
            context = context._replace(start_to_close_timeout=bounds.start_to_close)
        function = server.functions[command.queue, command.name]
        args = _codec.stored(command.args)
        execution = Execution(server, function, context, args, self._finish, command.sequence)
        execution.policy = command.retry_policy or server.policies.get(
            (command.queue, command.name), ""
        )
        execution.lane = command.lane
        execution.hurry = self._finish
        if bounds is not None:
            execution.timeouts = command.timeouts
            execution.bound(bounds)
        server.reserve(execution)
        self.inline[command.sequence] = execution
        return execution

    def _finish(self, execution: Execution) -> None:
        """It has an outcome, or is in a hurry to be announced."""
        if execution.finished and not execution.silent:
            self.finished.append(execution)
        self.wake(self, execution)

    @property
    def owes(self) -> bool:
        """Whether there is something to report that came while a report was under way."""
        return bool(self.finished) or any(it.hurried for it in self.inline.values())

    wake: Callable[[Held, Execution], None]

    def _overdue(self) -> list[str]:
        """Announce what has been running for long; what still waits for a slot goes to others."""
        late = monotonic() - ANNOUNCE_AFTER
        commands = []
        for execution in list(self.inline.values()):
            if execution.id is not None or execution.finished or execution.asked > late:
                continue
            if execution.slot:
                execution.id = 0  # asked for; the answer brings the real one
                commands.append(_command(_again(execution), announced=True))
            else:
                del self.inline[execution.sequence]
                execution.abandon()
                commands.append(_command(_again(execution)))
        return commands

    def _body(self, done: list[str], commands: list[str], running: bool) -> str:
        parts = [f'"id":{self.id},"token":{self.token},"cursor":{self.cursor}']
        if done:
            parts.append(f'"done":[{",".join(done)}]')
        if commands:
            parts.append(f'"commands":[{",".join(commands)}]')
        if self.run.mismatch is not None:
            told = json.dumps(errors.to_json(self.run.mismatch))
            parts.append(f'"outcome":{{"mismatch":{told}}}')
        elif self.run.ended:
            parts.append(f'"outcome":{self._outcome()}')
        elif running:
            parts.append('"running":true')
        return "{" + ",".join(parts) + "}"

    def _outcome(self) -> str:
        try:
            name = self.run.info.workflow_name
            output = _payload.dumps(self.run.result(), f'result of workflow "{name}"')
            return f'{{"output":{output}}}'
        except ContinueAsNew as anew:
            seen = self.run.seen  # later events were told, but the code did not get to see them
            return f'{{"again":{{"args":{anew.args_text},"seen":{seen}}}}}'
        except BaseException as error:
            if not isinstance(error, Exception | asyncio.CancelledError):
                text = errors.to_json(error)["message"]
                wrapped = HotMeshError(f"the workflow raised {type(error).__name__}({text})")
                wrapped.type = type(error).__name__
                error = wrapped
            if self.run.info.dimension:  # tried again for long: where else would anybody see why?
                about = (self.run.info.workflow_name, self.run.info.workflow_id)
                _LOG.warning('hook "%s" of job "%s" has failed: %r', *about, error)
            return f'{{"error":{json.dumps(_payload.error_json(error))}}}'

    @property
    def leaving(self) -> bool:
        """Whether the report under way gives the slot back: the run ends, or only waits."""
        return self.flight is not None and not self.flight.running

    @property
    def over(self) -> bool:
        """Whether the report that was built is the last one of this run."""
        return self.run.ended or self.run.mismatch is not None

    def evict(self) -> None:
        """Forget the run; its coroutine's `finally` blocks run, with commands disabled."""
        self.holding = False
        for execution in self.inline.values():
            execution.abandon()
        self.inline.clear()
        self.finished.clear()
        self.run.close()
        if self.run.loop.unhandled:
            self._tell_unhandled()


def _again(execution: Execution) -> Command:
    """The command from which an inline execution was made."""
    return Command(
        execution.sequence,
        "activity",
        execution.context.activity_name,
        execution.context.task_queue,
        _codec.dumps(execution.args, "args", None),
        execution.policy,
        timeouts=execution.timeouts,
        lane=execution.lane,
    )


def _command(command: Command, announced: bool = False, error: str = "") -> str:
    parts = [f'"sequence":{command.sequence},"kind":"{command.kind}"']
    if command.name:
        parts.append(f'"name":{_name(command.name)}')
    if command.queue:
        parts.append(f'"queue":{_name(command.queue)}')
    if command.args:
        parts.append(f'"args":{command.args}')
    if command.retry_policy:
        parts.append(f'"retry_policy":{command.retry_policy}')
    if command.timeouts:
        parts.append(f'"timeouts":{command.timeouts}')
    if command.lane:
        parts.append(command.lane)
    if command.delay:
        parts.append(f'"delay":{command.delay!r}')
    if announced:
        parts.append('"announced":true')
    if error:
        parts.append(f'"error":{error}')
    return "{" + ",".join(parts) + "}"
