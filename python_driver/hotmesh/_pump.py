"""The pump of a worker: it calls `turn`, over and over, and does what the answers say.

Everything that became reportable while one turn was under way goes into the next, or where many
activities are done and no workflows are served, into a second turn beside it. A worker that has
nothing to do writes that it is idle, looks once more and sleeps until it is woken, something is due,
or the poll interval is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import monotonic
from typing import Any

from . import _calls, _life, _paces
from ._calls import Delivery
from ._claimed import Claimed
from ._codec import Unreadable
from ._execution import SERVERS, Execution, Server, refuse_unreadable_run
from ._handlers import Answers, apart
from ._held import Held, Report
from ._history import fetch
from ._lease import LeaseKeeper, Watch
from ._listen import Listener
from ._replay import Run, RunInfo, Step, steps_of
from ._session import AsyncSession, SyncSession
from ._spawn import with_signal
from ._stage import Stage
from ._turns import Doubt, Turns, profile
from .errors import HotMeshError

__all__ = ["Pump"]

_LOG = logging.getLogger("hotmesh")

Function = Callable[..., Coroutine[Any, Any, Any]]


class Pump:
    """One worker: what it serves, its slots, the runs that it holds and remembers."""

    def __init__(
        self,
        session: AsyncSession,
        *,
        workflows: dict[tuple[str, str], Function],
        activity_slots: int,
        workflow_slots: int,
        lease: float,
        remembered: int = 1000,
    ) -> None:
        self.session = session
        self.name = f"w{uuid.uuid4().hex[:16]}"
        self.home = (session.dsn, session.app_id)
        self.workflows = workflows
        self.server = Server(self.home, activity_slots)
        self.lease = lease
        self.stopping = False
        self.failure: HotMeshError | None = None
        self._at_once = False
        self._workflow_slots = workflow_slots
        self._remembered = remembered
        self._runs: OrderedDict[int, Held] = OrderedDict()
        self._dirty: OrderedDict[int, Held] = OrderedDict()
        self._again: list[Report] = []
        self._pause = 0.001
        self._wake = asyncio.Event()
        self.server.freed = self._wake.set
        self._claimed = Claimed(self.server, self._done, self._nudge)
        self._turns = Turns(session, self.name)
        self._loop = asyncio.get_running_loop()
        self._doubt = Doubt()
        self._was_idle = False
        self._started = False
        self._seen_at = 0.0
        self._swept_at = 0.0
        self._brief = False
        self._told = False
        self._fetching: dict[asyncio.Task[None], int] = {}
        self._answers = Answers(session)
        self._watch = Watch()
        self._stage = Stage()
        self._keeper: LeaseKeeper | None = None
        self._listener: Listener | None = None

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reach the database, begin to listen and to keep leases."""
        await self.session.ensure()
        await _life.admit(self)
        keeper = SyncSession(self.session.source, self.session.app_id, provision=False)
        self._keeper = LeaseKeeper(
            keeper, self.name, self.lease, self.held_ids, self._lost, self._watch
        )
        self._keeper.attempts = lambda: list(self._claimed.running.values())
        self._keeper.unwanted = self._unwanted
        self._keeper.start()
        self._listener = Listener(
            self.session, f"hotmesh_{self.name}", lambda payload: self._tell_all()
        )
        SERVERS.join(self.server)

    async def run(self) -> None:
        """Turn until told to stop, then until nothing is under way any more; see `failure`."""
        self.failure = await _life.live(self)

    def _tell_all(self) -> None:
        """Somebody has news, maybe for a run that is busy with an inline activity."""
        self._told = True
        self._wake.set()

    def stop(self, at_once: bool = False) -> None:
        """Claim nothing more; finish what runs, or `at_once` not even that."""
        self.stopping = True
        self.session.patience = _paces.STOPPING_SECONDS
        self._at_once |= at_once  # a task that is cancelled just as it wakes may never notice
        self.server.open = False
        self._wake.set()

    def _lost(self, ids: list[int]) -> None:
        """These messages are gone, or somebody else's: stop. Called from another thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._drop, ids)

    def _unwanted(self, execution: Execution) -> None:
        """The engine does not know this attempt any more. Called from another thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._claimed.give_up, execution)

    def _nudge(self) -> None:
        if self._keeper is not None:
            self._keeper.nudge()

    def _drop(self, ids: list[int]) -> None:
        self._claimed.lose(ids)
        for id in ids:
            if (held := self._runs.get(id)) is not None and held.holding:
                self._forget(held)
        self._wake.set()

    def _let_go(self) -> None:
        """Forget everything; its leases run out, so that what caused the defect is parked in the end."""
        for held in list(self._runs.values()):
            self._forget(held)
        self._claimed.clear()
        self._again.clear()

    async def close(self) -> None:
        """Hand back what is still held and sign off."""
        SERVERS.leave(self.server)
        self.server.open = False
        await self._turns.cancel()
        ids = self.held_ids()
        for task in self._fetching:
            task.cancel()
        if self._keeper is not None:
            self._keeper.stop()
            await asyncio.to_thread(self._keeper.join, 2.0)
        if self._listener is not None:
            await self._listener.close()
        for held in list(self._runs.values()):
            held.evict()
        self._claimed.clear()
        self.server.close()
        try:
            await self.session.run(_calls.worker_stop(self.session.app_id, self.name, ids))
        except HotMeshError as error:
            _LOG.warning(
                "worker %s could not sign off, its leases will run out: %s", self.name, error
            )

    @property
    def quiet(self) -> bool:
        """Whether no activity runs and nothing is left to report."""
        return not (
            self._claimed
            or self._turns.second
            or self._dirty
            or self._again
            or self.server.busy
            or self.server.waiting
            or any(held.inline for held in self._runs.values())
        )

    def held_ids(self) -> list[int]:
        """The messages whose leases must be kept. Called from another thread."""
        runs = [held.id for held in list(self._runs.values()) if held.holding]
        return runs + list(self._claimed.running) + list(self._fetching.values())

    # --- one round -------------------------------------------------------------------------------

    async def _round(self) -> None:
        self._wake.clear()
        self._started = False
        await self._turns.join(wait=bool(self._doubt))
        with self._stage:
            reports, finished = self._collect()
        if (self._started or self._turns.second) and not reports and not finished:
            await self._rest(_paces.PAUSE_SECONDS)
            return
        want = self._want(brief=bool(reports or finished))
        rows, given = await self._exchange(reports, finished, want)
        if reports or finished or given or self._dirty or self._again or self._turns.second:
            if not self._dirty and not self._claimed.finished and (self._busy or self._again):
                await self._rest(0.002 if self._again else _paces.PAUSE_SECONDS)
            return
        if self._busy and not self._free:
            await self._rest(_paces.NEWS_SECONDS)
            return
        await self._idle(rows)

    def _done(self) -> None:
        """An activity is done: it goes into the next turn, or with many others into one beside."""
        self._wake.set()
        self._begin_second()

    def _begin_second(self) -> None:
        """Where nothing but activities is served, two turns may be under way at a time.

        So the engine has one half to do while the other half runs here. What is held in doubt is
        told by a turn that is alone.
        """
        if self._claimed.many and not self.workflows and not self._doubt:
            self._turns.begin_second(self._beside)

    async def _beside(self) -> None:
        try:
            if finished := self._claimed.collect(_paces.REPORT_BYTES):
                await self._exchange([], finished, self._topics() | {"brief": True})
        finally:
            self._wake.set()

    @property
    def _busy(self) -> bool:
        return any(held.inline for held in self._runs.values() if held.holding)

    @property
    def _free(self) -> bool:
        want = self._slots()
        return want["workflow"] > 0 or want["activity"] > 0

    async def _idle(self, rows: Sequence[Delivery]) -> None:
        """Write idle, look once more, and once more shortly after; then sleep.

        Whoever makes work ready tells only those that it sees idle. The second look is for what was
        committed before the flag was, the third for what was checked before it and committed after.
        """
        if self.stopping:
            await self._rest(_paces.NEWS_SECONDS)
            return
        if not self._was_idle:
            for pause in (0.0, 0.0, _paces.SHORTLY_SECONDS):
                if pause:
                    await self._rest(pause)
                if self._wake.is_set():
                    return
                rows, given = await self._exchange([], [], self._want(idle=True))
                if given:
                    return
            self._was_idle = True
        due = next((row.due for row in rows if row.answer == "next"), None)
        listening = self._listener is not None and self._listener.works
        poll = _paces.POLL_LISTENING_SECONDS if listening else _paces.POLL_SECONDS
        if self._busy:
            poll = self._news_seconds
        # what is due and was not served is locked by somebody: look less and less often
        self._pause = min(self._pause * 2, 0.1) if due == 0 else 0.001
        await self._rest(poll if due is None else min(poll, max(due, self._pause)))

    @property
    def _news_seconds(self) -> float:
        """How often a run that is busy with an inline activity asks for news."""
        listening = self._listener is not None and self._listener.works
        return _paces.NEWS_LISTENING_SECONDS if listening else _paces.NEWS_SECONDS

    async def _rest(self, seconds: float) -> None:
        if self._brief:  # the chores of the last turn are still to be done
            seconds = min(seconds, _paces.SWEEP_SECONDS / 2)
        await asyncio.sleep(0)  # what has just begun may be done at once
        if self._wake.is_set():
            self._was_idle = False
            return
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
            self._was_idle = False
        except asyncio.TimeoutError:
            pass

    # --- asking ----------------------------------------------------------------------------------

    def _slots(self) -> dict[str, int]:
        if self.stopping:
            return {"workflow": 0, "activity": 0}
        going = (held for held in self._runs.values() if held.holding and not held.leaving)
        holding = sum(1 for _ in going) + len(self._fetching)
        return {
            "workflow": max(self._workflow_slots - holding, 0) if self.workflows else 0,
            "activity": max(self._room, 0) if self.server.functions else 0,
        }

    @property
    def _room(self) -> int:
        """How many activities may be claimed: what is unreported, or on its way, keeps its slot."""
        return self.server.free - len(self._claimed.finished) - self._turns.bringing

    def _topics(self) -> dict[str, Any]:
        topics = [("workflow", *topic) for topic in self.workflows]
        topics += [("activity", *topic) for topic in self.server.functions]
        return {
            **self._slots(),
            "lease": self.lease,
            "kinds": [topic[0] for topic in topics],
            "queues": [topic[1] for topic in topics],
            "names": [topic[2] for topic in topics],
        }

    def _want(self, idle: bool = False, brief: bool = False) -> dict[str, Any]:
        want = self._topics()
        if self.workflows and (limits := SERVERS.limits(self.home)):
            want["limits"] = limits
        now = monotonic()
        self._brief = brief and now - self._swept_at < _paces.SWEEP_SECONDS
        if self._brief:
            want["brief"] = True
        else:
            self._swept_at = now
        if self._doubt:
            want["held"] = self.held_ids()
        if idle or self._was_idle or now - self._seen_at > _paces.SEEN_SECONDS:
            self._seen_at = now
            want |= profile() | {"idle": idle or self._was_idle}
        return want

    def _collect(self) -> tuple[list[Report], list[Execution]]:
        """The reports that are due now, up to the size of a batch."""
        reports, self._again = self._again, []
        size = sum(report.size for report in reports)
        now = monotonic()
        before = now - self._news_seconds
        if self._told:
            before, self._told = now, False
        for held in self._runs.values():
            if held.holding and held.inline and held.asked_at < before:
                self._dirty.setdefault(held.id, held)
        while self._dirty and size < _paces.REPORT_BYTES:
            _, held = self._dirty.popitem(last=False)
            if held.flight is None and held.holding:
                held.asked_at = now
                report = held.report(self._watch)
                if report.starts and not report.tells:
                    self._start(report)
                    continue
                held.flight = report
                reports.append(report)
                size += report.size
        return reports, self._claimed.collect(_paces.REPORT_BYTES - size)

    async def _exchange(
        self, reports: list[Report], finished: list[Execution], want: dict[str, Any]
    ) -> tuple[list[Delivery], int]:
        """One turn, and what its answers bring: how many of them."""
        with self._turns.under_way(want["activity"]):
            self._begin_second()
            rows = await self._turn(reports, finished, want)
            with self._stage:
                return rows, self._dispatch(rows)

    async def _turn(
        self, reports: list[Report], finished: list[Execution], want: dict[str, Any]
    ) -> list[Delivery]:
        texts = [report.body for report in reports] + [done.body() for done in finished]
        try:
            rows = await self._turns.send(texts, want)
        except HotMeshError:
            self._doubt.arise()
            self._claimed.take_back(finished)
            for report in reports:
                if report.running and report.commands:
                    self._forget(report.held)  # the engine could take its commands for new ones
                else:
                    self._again.append(report)
            raise
        if "held" in want:
            self._doubt.told()
        self._settle(reports, finished, rows)
        return rows

    # --- what became of reports ------------------------------------------------------------------

    def _settle(
        self, reports: list[Report], finished: list[Execution], rows: Sequence[Delivery]
    ) -> None:
        verdicts = {
            (row.id or 0, row.token or 0): row.answer
            for row in rows
            if row.answer in ("stale", "busy", "kept")
        }
        now = monotonic()
        self._claimed.settle(finished, verdicts)
        if "stale" in verdicts.values():
            self._doubt.arise()  # of an answer that was lost, the next message may be held here
        for report in reports:
            verdict = verdicts.get((report.held.id, report.held.token))
            if verdict == "busy":
                if report.keep and now - report.held.asked_at > _paces.PATIENCE_SECONDS:
                    report.body = report.body[:-1] + ',"keep":true}'
                    report.keep = False
                self._again.append(report)
            elif verdict == "stale":
                self._forget(report.held)
            else:
                self._applied(report)

    def _applied(self, report: Report) -> None:
        held = report.held
        held.flight = None
        if self._runs.get(held.id) is not held:
            return  # it was lost while the report was under way
        held.cursor += report.consumed
        if held.run.mismatch is not None:
            told = held.run.mismatch
            _LOG.error("%s; %s (%s)", told, told.detail, told.hint)
        if held.over:
            self._forget(held)
            return
        held.holding = report.running
        self._start(report)
        # What ran when the report was written may have finished while it was sent again and again.
        if held.owes or (held.holding and not held.inline):
            self._dirty[held.id] = held
        if not held.holding:
            self._runs.move_to_end(held.id)

    def _start(self, report: Report) -> None:
        """Begin what runs inline, now that everything before it is committed."""
        for execution in report.starts:
            if not execution.abandoned:
                execution.start()
                self._started = True

    def _evict(self) -> None:
        """Keep to the number of remembered runs; after the news of a turn were told, never before."""
        surplus = len(self._runs) - self._remembered - self._workflow_slots
        if surplus > 0:
            for held in [held for held in self._runs.values() if not held.holding][:surplus]:
                self._forget(held)

    def _forget(self, held: Held) -> None:
        self._runs.pop(held.id, None)
        self._dirty.pop(held.id, None)
        held.flight = None
        held.evict()

    def _on_finish(self, held: Held, execution: Execution) -> None:
        if execution.silent:
            self._claimed.forget(execution)
            if held.inline.pop(execution.sequence, None) is not None and held.holding:
                self._dirty[held.id] = held
            self._wake.set()
            return
        if execution.id:
            self._claimed.finished.append(execution)
            held.finished.remove(execution)
            held.inline.pop(execution.sequence, None)
        if execution.id != 0 and self._runs.get(held.id) is held and held.holding:
            self._dirty[held.id] = held
        self._wake.set()

    # --- what the answers bring ------------------------------------------------------------------

    def _dispatch(self, rows: Iterable[Delivery]) -> int:
        given = 0
        for row in rows:
            if row.answer == "task" and row.kind == "workflow":
                self._claimed_run(row)
            elif row.answer == "task":
                self._claimed.begin(row)
            elif row.answer == "events":
                self._news(row)
            elif row.answer == "leased":
                self._announced(row)
            else:
                if row.answer == "limits":
                    SERVERS.learn(self.home, row.args)
                continue
            given += 1
        self._evict()
        return given

    def _announced(self, row: Delivery) -> None:
        place = (row.job_id, row.dimension)
        held = next((held for held in self._runs.values() if held.place == place), None)
        execution = held.inline.get(row.sequence or 0) if held else None
        if held is None or execution is None or row.id is None:
            return
        self._claimed.hold(execution, row)
        if not execution.since:
            execution.start()
        elif execution.finished:
            self._on_finish(held, execution)

    def _news(self, row: Delivery) -> None:
        held = self._runs.get(row.id or 0)
        if held is None:
            return
        held.holding = True
        self._tell(held, row)

    def _tell(self, held: Held, row: Delivery) -> None:
        held.set_clock(row.due)
        if isinstance(row.history, Unreadable):  # it comes back whole, and then its job fails
            self._doubt.arise()
            self._forget(held)
            return
        steps, queries = apart(steps_of(row.history))
        held.step(self._watch, held.run.tell, steps)
        held.cursor = held.run.cursor = row.cursor or held.cursor
        self._answers.give(held.run, queries)
        self._dirty[held.id] = held

    def _claimed_run(self, row: Delivery) -> None:
        assert row.id is not None
        held = self._runs.get(row.id)
        bad = next((v for v in (row.args, row.history) if isinstance(v, Unreadable)), None)
        if bad is not None and row.sequence is None:
            self._begin(row._replace(args=[bad.reason]), [], refuse_unreadable_run)
            return
        complete = bad is not None or not row.history or row.history[-1] is not None
        if row.sequence is not None and held is not None and held.cursor == row.sequence:
            held.token, held.holding = row.token or 0, True
            held.announce = (row.attempt or 1) > 1
            self._tell(held, row)
            return
        if held is not None:
            self._forget(held)
        if row.sequence is None and complete:
            self._begin(row, steps_of(row.history))
            return
        task = asyncio.create_task(self._fetch(row))
        self._fetching[task] = row.id
        task.add_done_callback(self._fetching.pop)

    async def _fetch(self, row: Delivery) -> None:
        """Read what did not come with the claim."""
        try:
            row, steps = await fetch(self.session, row)
        except HotMeshError as error:
            # its lease runs out, so that a history which nobody can read is parked in the end
            _LOG.warning("worker %s can't read %s: %s", self.name, row.key, error)
            return
        if isinstance(steps, Unreadable):
            self._begin(row._replace(args=[steps.reason]), [], refuse_unreadable_run)
        else:
            self._begin(row, steps)
        self._wake.set()

    def _begin(self, row: Delivery, steps: list[Step], function: Function | None = None) -> None:
        assert row.id is not None and row.queue is not None and row.name is not None
        attempt = row.attempt or 1
        info = RunInfo(
            row.key or "",
            row.name,
            row.queue,
            row.job_id or 0,
            row.dimension or "",
            attempt,
            row.signal,
            row.base or 0,
        )
        function = function or self.workflows[row.queue, row.name]
        run = Run(info, function, row.started or 0.0)
        held = Held(run, row.id, row.token or 0, self.home, attempt > 1, row.due or 0.0)
        held.wake = self._on_finish
        self._runs[row.id] = held
        args = with_signal(function, row.args or [], row.signal)
        steps, queries = apart(steps)
        held.step(self._watch, run.start, args, steps)
        held.cursor = run.cursor = row.cursor or 0
        self._answers.give(run, queries)
        self._dirty[row.id] = held
