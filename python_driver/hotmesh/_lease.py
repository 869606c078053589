"""The thread that keeps a worker's leases alive and sends heartbeats, on a connection of its own.

Workflow code that blocks the event loop can't lose them, and is named when it blocks for long.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _calls
from ._session import SyncSession
from .errors import HotMeshError

if TYPE_CHECKING:
    from ._execution import Execution

__all__ = ["LeaseKeeper", "Watch"]

_LOG = logging.getLogger("hotmesh")

BLOCKED_SECONDS = 2.0
"""How long one step of workflow code may keep the loop before it is named in the log."""


MISSES = 3
"""How often in a row an extension must miss a message until it is taken for lost."""


BEATS_BYTES = 8_000_000
"""One call carries heartbeats up to this size; the others follow."""


class Watch:
    """What the worker's loop is busy with: set around each step of workflow code."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.step: tuple[float, str] | None = None
        self._named: tuple[float, str] | None = None

    def look(self) -> str | None:
        """A sentence about a step that blocks, once per step."""
        step = self.step
        if step is None or step == self._named or time.monotonic() - step[0] < BLOCKED_SECONDS:
            return None
        self._named = step
        frame = sys._current_frames().get(self.thread)
        where = "".join(traceback.format_stack(frame)[-1:]).strip() if frame else "unknown"
        return (
            f'workflow "{step[1]}" has blocked its worker for over {BLOCKED_SECONDS:.0f} s: {where};'
            " put what takes time into an activity"
        )


class LeaseKeeper(threading.Thread):
    """Extends the leases of what `held()` names, three times per lease."""

    def __init__(
        self,
        session: SyncSession,
        worker: str,
        lease: float,
        held: Callable[[], list[int]],
        lost: Callable[[list[int]], object],
        watch: Watch,
    ) -> None:
        super().__init__(name=f"hotmesh-lease-{worker}", daemon=True)
        self._session = session
        self._worker = worker
        self._lease = lease
        self._held = held
        self._lost = lost
        self._missed: dict[int, int] = {}
        self._watch = watch
        self._stopped = False
        self._said = ""  # what kept it from extending last time
        self._nudged = threading.Event()
        self.attempts: Callable[[], list[Execution]] = list
        self.unwanted: Callable[[Execution], object] = lambda execution: None

    def run(self) -> None:
        extended = time.monotonic()
        while not self._stopped:
            self._nudged.wait(self._pause())
            self._nudged.clear()
            said = self._watch.look()
            if said:
                _LOG.warning(said)
            if not self._stopped:
                self._beat()
            if not self._stopped and time.monotonic() - extended >= self._lease / 3:
                extended = time.monotonic()
                self._extend()
        self._session.close()

    def nudge(self) -> None:
        """There is a heartbeat to be sent. Called from any thread."""
        self._nudged.set()

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        due = [a.pulse.due for a in self.attempts() if a.pulse is not None and a.pulse.due]
        tick = min(0.5, self._lease / 6)
        return max(0.0, min(tick, min(due) - time.monotonic())) if due else tick

    def _beat(self) -> None:
        """Send the heartbeats that are due; who is not wanted any more is told."""
        now, size = time.monotonic(), 0
        sent: dict[int, Execution] = {}
        texts: list[str] = []
        for attempt in self.attempts():
            pulse = attempt.pulse
            if pulse is None or not pulse.due or pulse.due > now or size > BEATS_BYTES:
                continue
            text = f'{{"id":{attempt.id},"token":{attempt.token},"details":{pulse.take()}}}'
            sent[attempt.id or 0] = attempt
            texts.append(text)
            size += len(text)
        if not sent:
            return
        app = self._session.app_id
        try:
            answers = self._session.run(
                _calls.worker_heartbeat(app, self._worker, f"[{','.join(texts)}]", self._lease)
            )
        except HotMeshError as error:
            _LOG.warning("worker %s could not send heartbeats: %s", self._worker, error)
            answers = [(id, "busy") for id in sent]
        for id, answer in answers:
            if answer == "stale":
                self.unwanted(sent[id])
            elif answer == "busy" and (late := sent[id].pulse) is not None:
                late.put_back(0.1)

    def _extend(self) -> None:
        ids = self._held()
        if not ids:
            return
        app = self._session.app_id
        try:
            kept = self._session.run(_calls.worker_extend(app, self._worker, ids, self._lease))
        except HotMeshError as error:
            if str(error) != self._said:
                _LOG.warning("worker %s could not extend its leases: %s", self._worker, error)
            self._said = str(error)
            return
        self._said = ""
        # a row that is locked this instant is left out too: only a whole lease of misses counts
        self._missed = {id: self._missed.get(id, 0) + 1 for id in set(ids) - set(kept)}
        if gone := [id for id, times in self._missed.items() if times >= MISSES]:
            self._lost(gone)

    def stop(self) -> None:
        """End the thread; it closes its connection."""
        self._stopped = True
        self._nudged.set()
