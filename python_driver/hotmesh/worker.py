"""The worker: it runs workflows and activities of one app, from the queues that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from . import _codec, _functions, durations
from ._callbacks import Topic
from ._execution import name_of, named
from ._lent import Lender
from ._pump import Pump
from ._session import AsyncSession
from .durations import Duration
from .errors import InvalidArgumentError

__all__ = ["Worker", "register_activity_worker"]

DEFAULT_LEASE = "15s"
GRACE_SECONDS = 10.0
"""How long `shutdown` lets running activities finish before it hands them back."""

_OPEN: set[Worker] = set()
"""Workers work until they are shut down, also those that nobody refers to."""


class Worker:
    """Runs what it serves from the moment it was created; make one by :meth:`create`.

    `await worker.run()` waits until it is stopped, by SIGTERM, SIGINT or :meth:`shutdown`.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._task = asyncio.create_task(pump.run(), name=f"hotmesh {pump.name}")
        self._closed = False
        self._told = False
        _OPEN.difference_update({w for w in _OPEN if w._task.get_loop().is_closed()})
        _OPEN.add(self)

    @classmethod
    async def create(
        cls,
        connection: object = None,
        app_id: str = "memflow",
        *,
        task_queue: str = "default",
        workflow: Callable[..., Any] | None = None,
        workflows: object = None,
        activities: object = None,
        max_concurrent_workflows: int = 100,
        max_concurrent_activities: int = 100,
        retry_policy: Mapping[str, Any] | None = None,
        lease: Duration | None = None,
    ) -> Worker:
        """Start a worker.

        Args:
            connection: a DSN, a psycopg pool, or nothing for DATABASE_URL or the embedded server.
            app_id: the app; it is provisioned if need be.
            task_queue: the queue that is served.
            workflow: one `async def`, or use `workflows` for a list, module or mapping of them.
            activities: functions, async or not, to be run from the same queue.
            max_concurrent_workflows: runs held at a time.
            max_concurrent_activities: activities that run at a time; sync ones in threads.
            retry_policy: for its activities, where the call has none; see `proxy_activities`. That
                of a workflow is given to `start`.
            lease: after how long a dead worker's work moves on; default HMSH_LEASE or 15 s.

        Raises:
            InvalidArgumentError: nothing to serve, a workflow that is no `async def`, bad numbers.
            ConnectionLostError, NotInstalledError, ProtocolError: the database can't be used.
            NotAllowedError: the role has no worker's key to the app.
        """
        served = dict(_workflows(workflow, workflows))
        functions = named(activities, "activities")
        if not served and not functions:
            raise InvalidArgumentError(
                "a worker needs something to serve",
                hint="pass workflow=, workflows= or activities=",
            )
        queue = _codec.name(task_queue, "task_queue")
        worker = await _pump(
            connection,
            app_id,
            {(queue, name): function for name, function in served.items()},
            {queue: functions},
            _policy(retry_policy),
            (max_concurrent_workflows, max_concurrent_activities),
            lease,
        )
        return cls(worker)

    @property
    def name(self) -> str:
        """The worker's name in `workers` and `streams`."""
        return self._pump.name

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT or :meth:`shutdown`; then finish or hand back, and return.

        Raises:
            ProtocolError: the engine was changed, and is not one that this driver can work with.
        """
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, _stop_all)
        try:
            await asyncio.shield(self._stopping())
        finally:
            for number in signals:
                with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                    loop.remove_signal_handler(number)
            await (shutdown_all() if self._told else self.shutdown())
        self.check()

    def check(self) -> None:
        """Raise what has ended the worker, if it was not told to stop."""
        if self._pump.failure is not None:
            raise self._pump.failure

    async def _stopping(self) -> None:
        while not self._pump.stopping and not self._task.done():
            await asyncio.wait([self._task], timeout=0.1)

    async def shutdown(self, grace: Duration = GRACE_SECONDS) -> None:
        """Claim nothing more, let what runs finish within `grace`, hand back the rest."""
        seconds = durations.parse(grace, "grace")
        if self._closed:
            return
        self._closed = True
        _OPEN.discard(self)
        self._pump.stop()
        await asyncio.wait([self._task], timeout=seconds)
        self._pump.stop(at_once=True)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._pump.close()
        await self._pump.session.close()

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()


async def register_activity_worker(
    connection: object = None,
    app_id: str = "memflow",
    *,
    task_queue: str = "default",
    activities: object,
    activity_task_queue: str | None = None,
    max_concurrent_activities: int = 100,
    retry_policy: Mapping[str, Any] | None = None,
    lease: Duration | None = None,
) -> Worker:
    """Start a worker for activities only.

    It serves `task_queue`, and `activity_task_queue` too if that is named: HotMesh's documents
    register under one name and call the other. `retry_policy` is for calls that have none.

    Raises:
        InvalidArgumentError: no functions, a bad queue, number or policy.
        ConnectionLostError, NotInstalledError, ProtocolError, NotAllowedError: as for `Worker`.
    """
    functions = named(activities, "activities")
    if not functions:
        raise InvalidArgumentError("a worker needs something to serve", hint="pass activities=")
    queues = {_codec.name(task_queue, "task_queue"): functions}
    if activity_task_queue is not None:
        queues[_codec.name(activity_task_queue, "activity_task_queue")] = functions
    slots = (0, max_concurrent_activities)
    policy = _policy(retry_policy)
    return Worker(await _pump(connection, app_id, {}, queues, policy, slots, lease))


async def answering(
    connection: object,
    app_id: str,
    topics: Iterable[Topic],
    max_concurrent: int,
    lease: Duration | None,
) -> Worker:
    """Start a worker for the callbacks of a `HotMesh`: each topic is a queue with one activity."""
    served = list(topics)
    queues = {topic.name: {topic.name: topic.function} for topic in served} | _functions.SERVED
    policies = {topic.name: topic.policy for topic in served} | {_functions.QUEUE: ""}
    slots = (0, max_concurrent)
    return Worker(await _pump(connection, app_id, {}, queues, policies, slots, lease))


def _stop_all() -> None:
    """A signal is for the whole process: every worker stops."""
    for worker in list(_OPEN):
        worker._told = True
        worker._pump.stop()


async def shutdown_all() -> None:
    """Shut down every worker of this process that belongs to the running loop."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(w.shutdown() for w in list(_OPEN) if w._task.get_loop() is loop))


async def _pump(
    connection: object,
    app_id: str,
    workflows: dict[tuple[str, str], Callable[..., Any]],
    activities: Mapping[str, Mapping[str, Callable[..., Any]]],
    policy: str | Mapping[str, str],
    slots: tuple[int, int],
    lease: Duration | None,
) -> Pump:
    session = AsyncSession(connection, app_id)
    session.lenient = True
    await asyncio.to_thread(lambda: session.dsn)
    pump = Pump(
        session,
        workflows=workflows,
        workflow_slots=_slots(slots[0], "max_concurrent_workflows", min(len(workflows), 1)),
        activity_slots=_slots(slots[1], "max_concurrent_activities", 0),
        lease=_lease(lease),
    )
    pump.server.transactions = Lender(session)
    for queue, functions in activities.items():
        told = policy if isinstance(policy, str) else policy[queue]
        pump.server.add(queue, functions, told)
    try:
        await pump.start()
    except BaseException:
        await session.close()
        raise
    return pump


def _workflows(workflow: Callable[..., Any] | None, workflows: object) -> dict[str, Any]:
    found = named(workflows, "workflows") if workflows is not None else {}
    if workflow is not None:
        found = {**found, name_of(workflow): workflow}
    for name, function in found.items():
        if not inspect.iscoroutinefunction(function):
            raise InvalidArgumentError(
                f"workflow {name} is no `async def`", hint="write it as `async def`, and await"
            )
    if found:
        from . import _guard

        _guard.install()
        for function in found.values():
            _guard.warn_of(function)
    return found


def _policy(policy: Mapping[str, Any] | None) -> str:
    return _codec.dumps(_codec.retry_policy(policy), "retry_policy") if policy else ""


def _slots(value: int, what: str, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10_000:
        raise InvalidArgumentError(f"{what} is {value!r}", hint=f"a whole number, {low} to 10000")
    return value


def _lease(lease: Duration | None) -> float:
    if lease is None:
        lease = os.environ.get("HMSH_LEASE") or DEFAULT_LEASE
    seconds = durations.parse(lease, "lease")
    if not 1 <= seconds <= 3600:
        raise InvalidArgumentError(f"lease is {seconds} s", hint="from 1 second to 1 hour")
    return seconds
