"""The thread that keeps a worker's leases alive, on a connection of its own.

Workflow code that blocks the event loop can't lose them, and is named when it blocks for long.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from . import _calls
from ._session import SyncSession
from .errors import HotMeshError

__all__ = ["LeaseKeeper", "Watch"]

_LOG = logging.getLogger("hotmesh")

BLOCKED_SECONDS = 2.0
"""How long one step of workflow code may keep the loop before it is named in the log."""


MISSES = 3
"""How often in a row an extension must miss a message until it is taken for lost."""


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
        self._stopped = threading.Event()

    def run(self) -> None:
        extended = time.monotonic()
        while not self._stopped.wait(min(0.5, self._lease / 6)):
            said = self._watch.look()
            if said:
                _LOG.warning(said)
            if time.monotonic() - extended >= self._lease / 3:
                extended = time.monotonic()
                self._extend()
        self._session.close()

    def _extend(self) -> None:
        ids = self._held()
        if not ids:
            return
        app = self._session.app_id
        try:
            kept = self._session.run(_calls.worker_extend(app, self._worker, ids, self._lease))
        except HotMeshError as error:
            _LOG.warning("worker %s could not extend its leases: %s", self._worker, error)
            return
        # a row that is locked this instant is left out too: only a whole lease of misses counts
        self._missed = {id: self._missed.get(id, 0) + 1 for id in set(ids) - set(kept)}
        if gone := [id for id, times in self._missed.items() if times >= MISSES]:
            self._lost(gone)

    def stop(self) -> None:
        """End the thread; it closes its connection."""
        self._stopped.set()
