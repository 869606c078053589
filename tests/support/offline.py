"""An engine of a few lines, in memory: it drives a `Run` and keeps the journal that replay reads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hotmesh._replay import Command, Run, RunInfo, Step

Function = Callable[..., Coroutine[Any, Any, Any]]
EPOCH = 1_800_000_000.0


def new_run(function: Function, job_id: int = 7) -> Run:
    """A run that was not started yet."""
    info = RunInfo("job-1", function.__name__, "orders", job_id)
    return Run(info, function, EPOCH)


class Life:
    """One life of a run, and the journal as a worker would have written it.

    `open` are the operations that may be answered next; `asked` is every command, in order.
    """

    def __init__(
        self,
        function: Function,
        args: Sequence[Any] = (),
        history: Sequence[Step] = (),
        job_id: int = 7,
    ) -> None:
        self.run = new_run(function, job_id)
        self.journal = {step.sequence: step for step in history}
        self.asked: list[Command] = []
        self.run.start(list(args), list(history))
        self.cursor = max((step.cursor or 0 for step in history), default=0)
        self.run.cursor = self.cursor
        self._take()

    def _take(self) -> None:
        commands, self.run.commands = self.run.commands, []
        self.asked += commands
        for command in commands:
            if command.kind != "cancel":
                self.journal[command.sequence] = Step(
                    command.sequence, command.kind, command.name, "open", None, None, EPOCH
                )
            elif self.journal[command.sequence].state == "open":
                self._put(command.sequence, state="cancelled")

    def _put(self, sequence: int, **changes: Any) -> Step:
        self.journal[sequence] = step = self.journal[sequence]._replace(**changes)
        return step

    @property
    def open(self) -> list[int]:
        """The numbers of the operations that wait for an answer."""
        return [step.sequence for step in self.journal.values() if step.state == "open"]

    @property
    def history(self) -> list[Step]:
        """The journal as a claim ships it: in the order of the calls."""
        return [self.journal[sequence] for sequence in sorted(self.journal)]

    def answer(self, *sequences: int, value: Any = None, failed: bool = False) -> list[Command]:
        """Answer operations, in this order and in one delivery; returns what is asked for next."""
        before = len(self.asked)
        steps = []
        for sequence in sequences:
            self.cursor += 1
            steps.append(
                self._put(
                    sequence,
                    state="failed" if failed else "done",
                    value=value,
                    cursor=self.cursor,
                    at=EPOCH + self.cursor,
                )
            )
        self.run.tell(steps)
        self._take()
        return self.asked[before:]

    def answer_here(self, sequence: int, value: Any = None) -> list[Command]:
        """Answer as an activity does that ran inline."""
        before = len(self.asked)
        self.cursor += 1
        at = EPOCH + self.cursor
        self._put(sequence, state="done", value=value, cursor=self.cursor, at=at)
        self.run.complete(sequence, value, at)
        self._take()
        return self.asked[before:]

    @property
    def outcome(self) -> tuple[str, Any]:
        """How the run stands: ("open", None), ("mismatch", its text), ("returned", …), ("raised", …)."""
        if self.run.mismatch is not None:
            return "mismatch", str(self.run.mismatch)
        if not self.run.ended:
            return "open", None
        try:
            return "returned", self.run.result()
        except BaseException as error:
            return "raised", f"{type(error).__name__}: {error}"

    def close(self) -> None:
        self.run.close()


def told(commands: Sequence[Command]) -> list[tuple[int, str, str, float]]:
    """What identifies commands in a comparison."""
    return [(c.sequence, c.kind, c.name, c.delay) for c in commands]


def as_json(step: Step) -> list[Any]:
    """The row as the engine ships it."""
    return list(step)


def changed(step: Step, **what: Any) -> Step:
    return step._replace(**what)


__all__ = ["EPOCH", "Life", "as_json", "changed", "new_run", "told"]
