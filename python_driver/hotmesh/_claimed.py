"""The activities that a worker holds by a message of the stream, from the claim to the verdict.

Most were claimed; some ran inline and were announced. A message may come back while an earlier
attempt of it is still running here: then that attempt is nobody's any more, and tokens tell the two
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import _payload
from ._bounds import Bounds
from ._calls import Delivery
from ._codec import Unreadable
from ._execution import Execution, Server, refuse_unreadable
from .activity import ActivityContext
from .errors import HotMeshError

__all__ = ["Claimed"]

PIPELINED = 16
"""Fewer are reported at once."""


class Claimed:
    """What runs under a message's token, and what has finished and is to be reported."""

    def __init__(
        self, server: Server, wake: Callable[[], object], nudge: Callable[[], object]
    ) -> None:
        self.running: dict[int, Execution] = {}
        self.finished: list[Execution] = []
        self._telling: set[str | None] = set()
        self._server = server
        self._wake = wake
        self._nudge = nudge

    def __bool__(self) -> bool:
        """Whether anything runs, or waits to be reported."""
        return bool(self.running or self.finished)

    @property
    def many(self) -> bool:
        """Whether so much has finished that it is worth a turn."""
        return len(self.finished) >= PIPELINED

    def begin(self, row: Delivery) -> None:
        """Run an activity that was claimed."""
        assert row.id is not None and row.queue is not None and row.name is not None
        told = row.history if isinstance(row.history, dict) else {}
        function, args = self._server.functions[row.queue, row.name], row.args or []
        details: Any = None
        try:
            details = _payload.opened(told.get("details"))
        except HotMeshError as error:
            function, args = refuse_unreadable, [str(error)]
        if isinstance(args, Unreadable):
            function, args = refuse_unreadable, [args.reason]
        context = ActivityContext(
            row.key, row.name, row.queue, row.attempt or 1,
            heartbeat_details=details,
            heartbeat_timeout=told.get("heartbeat"),
            start_to_close_timeout=told.get("start_to_close"),
        )  # fmt: skip
        execution = Execution(self._server, function, context, args, self._on_finish)
        execution.policy = self._server.policies.get((row.queue, row.name), "")
        if told:
            execution.bound(Bounds(told, row.due or 0.0))
        self.hold(execution, row)
        self._server.reserve(execution)
        execution.start()

    def hold(self, execution: Execution, row: Delivery) -> None:
        """From now on the execution is the current attempt of this message."""
        assert row.id is not None
        self.drop([row.id])
        execution.attach(self._nudge)
        self.running[row.id] = execution
        execution.identify(row.id, row.token)

    def _on_finish(self, execution: Execution) -> None:
        if execution.told:
            self.forget(execution)
        elif not execution.abandoned:
            self.finished.append(execution)
        self._wake()

    def collect(self, room: int) -> list[Execution]:
        """What is to be reported, the first first, until `room` characters are full.

        Of many no more than half of the slots: so the engine has the others to do while what it
        gives for these runs here. Nothing of jobs of which a turn under way tells: what comes
        later would find them locked.
        """
        most = max(self._server.slots // 2, PIPELINED)
        taken: list[Execution] = []
        left: list[Execution] = []
        for execution in self.finished:
            if (
                len(taken) < most
                and room > 0
                and execution.context.workflow_id not in self._telling
            ):
                taken.append(execution)
                room -= len(execution.output or "")
            else:
                left.append(execution)
        self.finished = left
        self._telling |= {execution.context.workflow_id for execution in taken} - {None}
        return taken

    def settle(self, reported: list[Execution], verdicts: Mapping[tuple[int, int], str]) -> None:
        """What became of reports, by id and token; without a verdict they were applied."""
        self._told(reported)
        for execution in reported:
            if verdicts.get((execution.id or 0, execution.token or 0)) == "busy":
                self.finished.append(execution)
            else:
                self.forget(execution)

    def take_back(self, reported: list[Execution]) -> None:
        """What became of these reports is not known: they are sent again."""
        self._told(reported)
        self.finished += reported

    def _told(self, reported: list[Execution]) -> None:
        self._telling.difference_update([execution.context.workflow_id for execution in reported])

    def forget(self, execution: Execution) -> None:
        """Nothing more is to be said about this attempt."""
        if self.running.get(execution.id or 0) is execution:
            del self.running[execution.id or 0]

    def give_up(self, execution: Execution) -> None:
        """This attempt is not wanted any more; in the worker's loop."""
        self.forget(execution)
        execution.abandon()

    def drop(self, ids: list[int]) -> None:
        """These messages are gone, or somebody else's: what runs for them is not wanted."""
        for id in ids:
            if (execution := self.running.pop(id, None)) is not None:
                execution.abandon()

    def lose(self, ids: list[int]) -> None:
        """Leases of these messages were not extended; of those that are locked they need not be."""
        self.drop([id for id in ids if id not in self.running or not self.running[id].locked])

    def clear(self) -> None:
        """Drop everything, unreported."""
        self.drop(list(self.running))
        self.finished.clear()
        self._telling.clear()
