"""Start workflows and ask for them: `Client`, its blocking twin `SyncClient`, and their handles.

What a method means is said once, in `_requests`, as a pure function that builds a `Call`; the two
clients only run it, one with `await` and one without.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from . import _calls, _calls_order, _codec, _requests, durations
from ._calls import Call, Job, Outcome
from ._requests import HookRequest, StartOptions, StartRequest, Workflow
from ._session import AsyncSession, SyncSession
from .durations import Duration
from .entity import EntityHandle, SyncEntityHandle
from .errors import ConnectionLostError
from .schedule import ScheduleClient, SyncScheduleClient

T = TypeVar("T")
S = TypeVar("S")

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar
    from typing_extensions import Unpack

    R = _TypeVar("R", default=Any)
else:
    R = TypeVar("R")

__all__ = [
    "Client",
    "StartRequest",
    "SyncClient",
    "SyncWorkflowClient",
    "SyncWorkflowHandle",
    "WorkflowClient",
    "WorkflowHandle",
]


class _Pace:
    """The pauses between two looks: from 2 ms, longer each time nothing ended, up to 250 ms.

    A look that took long (there is much to ask for, or the server is busy) makes the pause longer,
    up to a second, so that waiting costs the server little. Not longer: when this process was
    blocked, the look only seems to have taken long.
    """

    FIRST, LAST, LONGEST, GROWTH, SHARE = 0.002, 0.25, 1.0, 1.6, 4.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def hurry(self, pause: float = FIRST) -> None:
        """Somebody new waits: look again soon."""
        self._next = min(self._next, pause)

    def after(self, took: float, ended: bool) -> float:
        """The pause after a look of `took` seconds, that found something `ended` or not."""
        pause = max(self._next, min(self.SHARE * took, self.LONGEST))
        self._next = max(self._next / 2, self.FIRST) if ended else self._next * self.GROWTH
        self._next = min(self._next, self.LAST)
        return pause


def _started(request: StartRequest, job: Job) -> Workflow:
    """The function that a start named, if that is what has started; else its name."""
    workflow = request.get("workflow_name")
    if workflow is not None and callable(workflow) and _requests.name_of(workflow) == job.workflow:
        return workflow
    return job.workflow


# --- async ---


class _Watcher:
    """One task per client that asks for all awaited jobs in one call."""

    KEYS_PER_CALL = 1_000
    SOON = 0.02

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._pace = _Pace()
        self._alarm: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def outcome(self, key: str) -> Outcome:
        """The outcome of a job, once it has one."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pace.hurry(self.SOON if self._waiting else _Pace.FIRST)
        self._waiting.setdefault(key, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="hotmesh results")
        _ring(self._alarm)
        try:
            return await future
        finally:
            self._forget(key, future)

    def _forget(self, key: str, future: asyncio.Future[Outcome]) -> None:
        futures = self._waiting.get(key, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(key, None)

    async def _watch(self) -> None:
        try:
            while self._waiting:
                began = time.monotonic()
                ended = await self._look()
                await self._sleep(self._pace.after(time.monotonic() - began, ended))
        except Exception as error:
            self._fail(error)

    async def _look(self) -> bool:
        """Ask for the awaited jobs, and whether any has ended."""
        keys, ended = list(self._waiting), False
        for start in range(0, len(keys), self.KEYS_PER_CALL):
            some = keys[start : start + self.KEYS_PER_CALL]
            for outcome in await self._session.run(_calls.job_results(self._session.app_id, some)):
                ended = True
                for future in self._waiting.pop(outcome.key, []):
                    if not future.done():
                        future.set_result(outcome)
        return ended

    async def _sleep(self, pause: float) -> None:
        """Sleep; longer than `SOON` only as long as nobody new waits."""
        if pause <= self.SOON:
            await asyncio.sleep(pause)
            return
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        timer = loop.call_later(pause, _ring, self._alarm)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    def _fail(self, error: Exception) -> None:
        """Tell all who wait why nobody watches any more; each may ask again."""
        waiting, self._waiting = self._waiting, {}
        for future in (future for futures in waiting.values() for future in futures):
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        """Stop; who still waits gets a :class:`ConnectionLostError`."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(ConnectionLostError("the client was closed while it waited"))


def _ring(alarm: asyncio.Future[None] | None) -> None:
    if alarm is not None and not alarm.done():
        alarm.set_result(None)


class WorkflowHandle(Generic[R]):
    """One workflow execution, by its id. To have a handle says nothing about the job's existence.

    One that was got with the workflow's function knows the type of its result.
    """

    def __init__(
        self,
        client: Client,
        workflow_id: str,
        workflow: Workflow | None,
        task_queue: str | None,
    ) -> None:
        self._client = client
        self._workflow = workflow
        self.workflow_id = workflow_id
        self.workflow_name = None if workflow is None else _requests.name_of(workflow)
        self.task_queue = task_queue

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.workflow_id!r}>"

    @overload
    async def result(self, timeout: Duration | None = None) -> R: ...

    @overload
    async def result(self, timeout: Duration | None = None, *, result_type: type[S]) -> S: ...

    @overload
    async def result(self, timeout: Duration | None = None, *, result_type: Any) -> Any: ...

    async def result(self, timeout: Duration | None = None, *, result_type: Any = None) -> Any:
        """What the workflow returned, once it has ended.

        It is of `result_type`, or of the type that the workflow's function says if the handle was
        got with the function; else it is JSON.

        Raises a :class:`JobFailedError` (its class says how it failed, `__cause__` what was
        raised), :class:`JobNotFoundError`, or after `timeout` :class:`TimedOutError` with code 504;
        the job then goes on.
        """
        read = _requests.reader(self._workflow, result_type)
        waiting = self._client._watcher.outcome(self.workflow_id)
        if timeout is None:
            return _requests.unpack(await waiting, read)
        seconds = durations.parse(timeout, "timeout")
        try:
            outcome = await asyncio.wait_for(waiting, seconds)
        except asyncio.TimeoutError:
            outcome = await self._last_look(timeout)
        return _requests.unpack(outcome, read)

    async def _last_look(self, timeout: Duration) -> Outcome:
        outcomes = await self._run(_calls.job_results(self._app, [self.workflow_id]))
        if not outcomes:
            raise _requests.wait_over(self.workflow_id, timeout)
        return outcomes[0]

    async def status(self) -> int:
        """The semaphore: 0 complete, above zero open, below zero failed or interrupted."""
        return await self._run(_calls.job_status(self._app, self.workflow_id))

    async def state(self, metadata: bool = False) -> Any:
        """The job's data; with `metadata` a dict of `data` and `metadata`."""
        return await self._run(_calls.job_state(self._app, self.workflow_id, metadata))

    async def export(
        self, allow: Iterable[str] | None = None, block: Iterable[str] | None = None
    ) -> Any:
        """The job with its journal; `allow` and `block` name the parts to keep or leave out."""
        return await self._run(_requests.export(self._app, self.workflow_id, allow, block))

    async def signal(self, id: str, data: Any = None, *, conn: object = None) -> None:
        """Send a signal to this job; kept until the job waits for it.

        With `conn`, a psycopg connection of the caller, it is sent when its transaction commits; see
        :meth:`WorkflowClient.start`.
        """
        call = _requests.job_signal(self._app, self.workflow_id, id, data)
        await self._client._session.run(call, conn)

    def entity(self) -> EntityHandle:
        """The job's entity: `await handle.entity().merge({"stage": "done"})`."""
        return EntityHandle(self._run, self._app, self.workflow_id)

    async def cancel(self) -> None:
        """Ask the workflow to stop: its code gets a `CancelledError` and may clean up."""
        await self._run(_calls_order.job_cancel(self._app, self.workflow_id))

    async def interrupt(
        self,
        reason: str | None = None,
        *,
        code: int = 410,
        descend: bool = False,
        throw: bool = True,
    ) -> None:
        """End the job at once, with `descend` its children too; its code sees nothing of it.

        Unless `throw` is false, `result()` raises a :class:`JobInterruptedError` with the reason.
        """
        await self._run(
            _requests.job_interrupt(self._app, self.workflow_id, reason, code, descend, throw)
        )

    @property
    def _app(self) -> str:
        return self._client.app_id

    async def _run(self, call: Call[T]) -> T:
        return await self._client._session.run(call)


class WorkflowClient:
    """`client.workflow`: start workflows, get their handles."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @overload
    async def start(
        self,
        *,
        workflow_name: Callable[..., Awaitable[S]],
        conn: object = None,
        **request: Unpack[StartOptions],
    ) -> WorkflowHandle[S]: ...

    @overload
    async def start(
        self, *, workflow_name: Workflow, conn: object = None, **request: Unpack[StartOptions]
    ) -> WorkflowHandle[Any]: ...

    async def start(self, *, conn: object = None, **request: Any) -> WorkflowHandle[Any]:
        """Start a workflow; see :class:`StartOptions` for what each argument means.

        With `conn`, a psycopg connection of the caller, the start is part of its transaction and
        comes and goes with it; it takes no savepoint, so a start that the database refuses leaves
        the transaction as any failed statement does: to be rolled back, or to the savepoint of an
        ``async with conn.transaction():`` around it. What is refused before it is sent (arguments)
        leaves it as it was. Raises :class:`DuplicateJobError`, :class:`JobOpenError`,
        :class:`InvalidArgumentError`, :class:`ConnectionLostError`.
        """
        told = cast(StartRequest, request)
        job = await self._client._session.run(_requests.start(self._client.app_id, told), conn)
        return self.get_handle(job.queue, _started(told, job), job.key)

    async def start_many(
        self, requests: Iterable[StartRequest], *, conn: object = None
    ) -> list[WorkflowHandle]:
        """Start many workflows in one call and one commit: all of them or none."""
        call, keys = _requests.start_many(self._client.app_id, requests)
        jobs = {job.key: job for job in await self._client._session.run(call, conn)}
        return [self.get_handle(jobs[key].queue, jobs[key].workflow, key) for key in keys]

    async def signal(self, id: str, data: Any = None, *, conn: object = None) -> None:
        """Send a signal by name: the oldest wait for it gets it; it is kept until there is one."""
        call = _requests.signal_send(self._client.app_id, id, data)
        await self._client._session.run(call, conn)

    async def hook(self, *, conn: object = None, **request: Unpack[HookRequest]) -> None:
        """Run a function in an open job, on its entity; see :class:`HookRequest`.

        Raises :class:`JobNotFoundError`, :class:`JobClosedError`, :class:`InvalidArgumentError`.
        """
        await self._client._session.run(_requests.hook_start(self._client.app_id, request), conn)

    @overload
    def get_handle(
        self, task_queue: str | None, workflow_name: Callable[..., Awaitable[S]], workflow_id: str
    ) -> WorkflowHandle[S]: ...

    @overload
    def get_handle(
        self,
        task_queue: str | None = None,
        workflow_name: Workflow | None = None,
        workflow_id: str = "",
    ) -> WorkflowHandle[Any]: ...

    def get_handle(
        self,
        task_queue: str | None = None,
        workflow_name: Workflow | None = None,
        workflow_id: str = "",
    ) -> WorkflowHandle[Any]:
        """The handle of a workflow id, without asking the database."""
        key = _codec.text(workflow_id, "workflow_id")
        return WorkflowHandle(self._client, key, workflow_name, task_queue)


class Client:
    """Starts workflows and asks for them; safe to share within one event loop.

    `connection` is a DSN, a psycopg pool, or nothing: then `DATABASE_URL`, and without that the
    embedded server. The first use checks the engine and provisions what is missing.
    """

    def __init__(
        self,
        connection: object = None,
        app_id: str = "memflow",
        *,
        session: AsyncSession | None = None,
    ) -> None:
        self._session = session or AsyncSession(connection, app_id)
        self._owns_session = session is None
        self._watcher = _Watcher(self._session)
        self.workflow = WorkflowClient(self)
        self.schedule = ScheduleClient(self._session, self.workflow.get_handle)

    @property
    def app_id(self) -> str:
        """The app that this client works in."""
        return self._session.app_id

    async def close(self) -> None:
        """Stop waiting for results and close the connections; a pool that was given stays open."""
        await self._watcher.close()
        if self._owns_session:
            await self._session.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


# --- blocking ---


class SyncWorkflowHandle(Generic[R]):
    """The blocking twin of :class:`WorkflowHandle`."""

    def __init__(
        self,
        client: SyncClient,
        workflow_id: str,
        workflow: Workflow | None,
        task_queue: str | None,
    ) -> None:
        self._client = client
        self._workflow = workflow
        self.workflow_id = workflow_id
        self.workflow_name = None if workflow is None else _requests.name_of(workflow)
        self.task_queue = task_queue

    def __repr__(self) -> str:
        return f"<SyncWorkflowHandle {self.workflow_id!r}>"

    @overload
    def result(self, timeout: Duration | None = None) -> R: ...

    @overload
    def result(self, timeout: Duration | None = None, *, result_type: type[S]) -> S: ...

    @overload
    def result(self, timeout: Duration | None = None, *, result_type: Any) -> Any: ...

    def result(self, timeout: Duration | None = None, *, result_type: Any = None) -> Any:
        """What the workflow returned; see :meth:`WorkflowHandle.result`."""
        read = _requests.reader(self._workflow, result_type)
        seconds = math.inf if timeout is None else durations.parse(timeout, "timeout")
        until, pace = time.monotonic() + seconds, _Pace()
        while True:
            began = time.monotonic()
            if outcomes := self._run(_calls.job_results(self._app, [self.workflow_id])):
                return _requests.unpack(outcomes[0], read)
            now = time.monotonic()
            if now >= until:
                raise _requests.wait_over(self.workflow_id, timeout)
            time.sleep(min(pace.after(now - began, False), until - now))

    def status(self) -> int:
        """The semaphore; see :meth:`WorkflowHandle.status`."""
        return self._run(_calls.job_status(self._app, self.workflow_id))

    def state(self, metadata: bool = False) -> Any:
        """The job's data; see :meth:`WorkflowHandle.state`."""
        return self._run(_calls.job_state(self._app, self.workflow_id, metadata))

    def export(self, allow: Iterable[str] | None = None, block: Iterable[str] | None = None) -> Any:
        """The job with its journal; see :meth:`WorkflowHandle.export`."""
        return self._run(_requests.export(self._app, self.workflow_id, allow, block))

    def signal(self, id: str, data: Any = None, *, conn: object = None) -> None:
        """Send a signal to this job; see :meth:`WorkflowHandle.signal`."""
        call = _requests.job_signal(self._app, self.workflow_id, id, data)
        self._client._session.run(call, conn)

    def entity(self) -> SyncEntityHandle:
        """The job's entity; see :meth:`WorkflowHandle.entity`."""
        return SyncEntityHandle(self._run, self._app, self.workflow_id)

    def cancel(self) -> None:
        """Ask the workflow to stop: its code gets a `CancelledError` and may clean up."""
        self._run(_calls_order.job_cancel(self._app, self.workflow_id))

    def interrupt(
        self,
        reason: str | None = None,
        *,
        code: int = 410,
        descend: bool = False,
        throw: bool = True,
    ) -> None:
        """End the job at once, with `descend` its children too; its code sees nothing of it.

        Unless `throw` is false, `result()` raises a :class:`JobInterruptedError` with the reason.
        """
        self._run(
            _requests.job_interrupt(self._app, self.workflow_id, reason, code, descend, throw)
        )

    @property
    def _app(self) -> str:
        return self._client.app_id

    def _run(self, call: Call[T]) -> T:
        return self._client._session.run(call)


class SyncWorkflowClient:
    """The blocking twin of :class:`WorkflowClient`."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    @overload
    def start(
        self,
        *,
        workflow_name: Callable[..., Awaitable[S]],
        conn: object = None,
        **request: Unpack[StartOptions],
    ) -> SyncWorkflowHandle[S]: ...

    @overload
    def start(
        self, *, workflow_name: Workflow, conn: object = None, **request: Unpack[StartOptions]
    ) -> SyncWorkflowHandle[Any]: ...

    def start(self, *, conn: object = None, **request: Any) -> SyncWorkflowHandle[Any]:
        """Start a workflow; see :meth:`WorkflowClient.start`."""
        told = cast(StartRequest, request)
        job = self._client._session.run(_requests.start(self._client.app_id, told), conn)
        return self.get_handle(job.queue, _started(told, job), job.key)

    def start_many(
        self, requests: Iterable[StartRequest], *, conn: object = None
    ) -> list[SyncWorkflowHandle]:
        """Start many workflows in one call; see :meth:`WorkflowClient.start_many`."""
        call, keys = _requests.start_many(self._client.app_id, requests)
        jobs = {job.key: job for job in self._client._session.run(call, conn)}
        return [self.get_handle(jobs[key].queue, jobs[key].workflow, key) for key in keys]

    def signal(self, id: str, data: Any = None, *, conn: object = None) -> None:
        """Send a signal by name: the oldest wait for it gets it; it is kept until there is one."""
        call = _requests.signal_send(self._client.app_id, id, data)
        self._client._session.run(call, conn)

    def hook(self, *, conn: object = None, **request: Unpack[HookRequest]) -> None:
        """Run a function in an open job, on its entity; see :class:`HookRequest`.

        Raises :class:`JobNotFoundError`, :class:`JobClosedError`, :class:`InvalidArgumentError`.
        """
        self._client._session.run(_requests.hook_start(self._client.app_id, request), conn)

    @overload
    def get_handle(
        self, task_queue: str | None, workflow_name: Callable[..., Awaitable[S]], workflow_id: str
    ) -> SyncWorkflowHandle[S]: ...

    @overload
    def get_handle(
        self,
        task_queue: str | None = None,
        workflow_name: Workflow | None = None,
        workflow_id: str = "",
    ) -> SyncWorkflowHandle[Any]: ...

    def get_handle(
        self,
        task_queue: str | None = None,
        workflow_name: Workflow | None = None,
        workflow_id: str = "",
    ) -> SyncWorkflowHandle[Any]:
        """The handle of a workflow id, without asking the database."""
        key = _codec.text(workflow_id, "workflow_id")
        return SyncWorkflowHandle(self._client, key, workflow_name, task_queue)


class SyncClient:
    """The blocking twin of :class:`Client`; safe to share between threads."""

    def __init__(
        self,
        connection: object = None,
        app_id: str = "memflow",
        *,
        session: SyncSession | None = None,
    ) -> None:
        self._session = session or SyncSession(connection, app_id)
        self._owns_session = session is None
        self.workflow = SyncWorkflowClient(self)
        self.schedule = SyncScheduleClient(self._session, self.workflow.get_handle)

    @property
    def app_id(self) -> str:
        """The app that this client works in."""
        return self._session.app_id

    def close(self) -> None:
        """Close the connections; a pool that was given stays open."""
        if self._owns_session:
            self._session.close()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
