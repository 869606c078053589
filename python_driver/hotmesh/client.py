"""Start workflows and ask for them: `Client`, its blocking twin `SyncClient`, and their handles.

What a method means is said once, in `_requests`, as a pure function that builds a `Call`; the two
clients only run it, one with `await` and one without.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import aclosing
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from . import _calls, _calls_order, _codec, _requests, durations
from ._calls import Call, Job, Outcome
from ._events import Subscriptions
from ._outcomes import Pace, Watcher
from ._queues import QueueClient, SyncQueueClient
from ._requests import HookRequest, StartOptions, StartRequest, Workflow
from ._searches import Listening, Queries, Searches, SyncQueries, SyncSearches
from ._session import AsyncSession, SyncSession
from ._watch import Watching, looked
from .durations import Duration
from .entity import Change, EntityHandle, SyncEntityHandle
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


def _started(request: StartRequest, job: Job) -> Workflow:
    """The function that a start named, if that is what has started; else its name."""
    workflow = request.get("workflow_name")
    if workflow is not None and callable(workflow) and _requests.name_of(workflow) == job.workflow:
        return workflow
    return job.workflow


# --- async ---


class WorkflowHandle(Queries, Generic[R]):
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
    async def result(self, timeout: Duration | None = None, *, result_type: UnionType) -> Any: ...

    async def result(self, timeout: Duration | None = None, *, result_type: Any = None) -> Any:
        """What the workflow returned, once it has ended.

        It is of `result_type`, or of the type that the workflow's function says if the handle was
        got with the function; else it is JSON.

        Raises a :class:`JobFailedError` (its class says how it failed, `__cause__` what was
        raised), :class:`JobNotFoundError`, or after `timeout` :class:`TimedOutError` with code 504;
        the job then goes on.
        """
        read = _requests.reader(self._workflow, result_type)
        seconds = None if timeout is None else durations.parse(timeout, "timeout")
        waiting = self._client._watcher.outcome(self.workflow_id)
        if timeout is None:
            return _requests.unpack(await waiting, read)
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
        return await self._run(_requests.state(self._app, self.workflow_id, metadata))

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

    async def watch(self, since: int = 0) -> AsyncGenerator[Change, None]:
        """The changes of the job's entity after version `since`, in order, as they happen, for ever.

        Whoever keeps the last `version` that it has seen goes on from there: nothing is lost meanwhile.
        Raises :class:`EntityVersionError` when the log has been pruned beyond that.
        """
        async with aclosing(self._client._watching.changes(self.workflow_id, since)) as changes:
            async for change in changes:
                yield change

    def entity(self) -> EntityHandle:
        """The job's entity: `await handle.entity().merge({"stage": "done"})`."""
        return EntityHandle(self._run, self._app, self.workflow_id)

    async def query(self, name: str, *args: Any, timeout: Duration = 10) -> Any:
        """Ask the running workflow: what its handler `name` returns now, by default within 10 s.

        Raises :class:`TimedOutError` when no worker that serves it answers.
        """
        ask, deadline = _requests.query_ask(self._app, self.workflow_id, name, args, timeout)
        call = _requests.query_result(self._app, await self._run(ask))
        for pause in deadline:
            if (answer := await self._run(call)) is not None:
                return _requests.answered(answer, self.workflow_id)
            await asyncio.sleep(pause)
        raise _requests.unanswered(f"query {name}", self.workflow_id, timeout)

    async def update(self, name: str, *args: Any, timeout: Duration | None = None) -> Any:
        """Have the running workflow carry out its update handler `name`; returns its answer.

        Raises what the handler or its validator raised, :class:`JobClosedError` when the job ends
        before, :class:`TimedOutError` when `timeout` is over; then the update goes on.
        """
        send, call, deadline = _requests.update(self._app, self.workflow_id, name, args, timeout)
        await self._run(send)
        for pause in deadline:
            if (answer := await self._run(call)) is not None:
                return _requests.answered(answer, self.workflow_id)
            await asyncio.sleep(pause)
        raise _requests.unanswered(f"update {name}", self.workflow_id, timeout)

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


class WorkflowClient(Searches):
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

    async def fork(
        self, source: str, version: int | None = None, *, conn: object = None, **request: Any
    ) -> WorkflowHandle[Any]:
        """Start a workflow whose entity begins as that of the job `source` was at a version.

        The version is by default the newest; workflow, arguments, queue and entity are those of that
        job unless the `request`, as in :meth:`start`, says otherwise.
        """
        told = cast(StartRequest, request)
        call = _requests.fork(self._client.app_id, source, version, told)
        job = await self._client._session.run(call, conn)
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


_OPEN: weakref.WeakSet[Client] = weakref.WeakSet()


async def close_all() -> None:
    """Close every client of this process, but for those that are at work in another event loop."""
    loop = asyncio.get_running_loop()
    for client in list(_OPEN):
        tasks = (client._watcher._task, client._events._task)
        if all(task is None or task.get_loop() is loop for task in tasks):
            await client.close()


class Client(Listening):
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
        _OPEN.add(self)
        self._watcher = Watcher(self._session)
        self._events = Subscriptions(self._session)
        self._watching = Watching(self._session)
        self.workflow = WorkflowClient(self)
        self.schedule = ScheduleClient(self._session, self.workflow.get_handle)
        self.queue = QueueClient(self._session)

    @property
    def app_id(self) -> str:
        """The app that this client works in."""
        return self._session.app_id

    async def close(self) -> None:
        """Stop waiting for results and close the connections; a pool that was given stays open."""
        await self._watcher.close()
        await self._events.close()
        await self._watching.close()
        if self._owns_session:
            await self._session.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


# --- blocking ---


class SyncWorkflowHandle(SyncQueries, Generic[R]):
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
    def result(self, timeout: Duration | None = None, *, result_type: UnionType) -> Any: ...

    def result(self, timeout: Duration | None = None, *, result_type: Any = None) -> Any:
        """What the workflow returned; see :meth:`WorkflowHandle.result`."""
        read = _requests.reader(self._workflow, result_type)
        seconds = math.inf if timeout is None else durations.parse(timeout, "timeout")
        until, pace = time.monotonic() + seconds, Pace()
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
        return self._run(_requests.state(self._app, self.workflow_id, metadata))

    def export(self, allow: Iterable[str] | None = None, block: Iterable[str] | None = None) -> Any:
        """The job with its journal; see :meth:`WorkflowHandle.export`."""
        return self._run(_requests.export(self._app, self.workflow_id, allow, block))

    def signal(self, id: str, data: Any = None, *, conn: object = None) -> None:
        """Send a signal to this job; see :meth:`WorkflowHandle.signal`."""
        call = _requests.job_signal(self._app, self.workflow_id, id, data)
        self._client._session.run(call, conn)

    def watch(self, since: int = 0) -> Generator[Change, None, None]:
        """The changes of the job's entity, for ever; see :meth:`WorkflowHandle.watch`."""
        return looked(self._client._session, self.workflow_id, since)

    def entity(self) -> SyncEntityHandle:
        """The job's entity; see :meth:`WorkflowHandle.entity`."""
        return SyncEntityHandle(self._run, self._app, self.workflow_id)

    def query(self, name: str, *args: Any, timeout: Duration = 10) -> Any:
        """Ask the running workflow: what its handler `name` returns now, by default within 10 s.

        Raises :class:`TimedOutError` when no worker that serves it answers.
        """
        ask, deadline = _requests.query_ask(self._app, self.workflow_id, name, args, timeout)
        call = _requests.query_result(self._app, self._run(ask))
        for pause in deadline:
            if (answer := self._run(call)) is not None:
                return _requests.answered(answer, self.workflow_id)
            time.sleep(pause)
        raise _requests.unanswered(f"query {name}", self.workflow_id, timeout)

    def update(self, name: str, *args: Any, timeout: Duration | None = None) -> Any:
        """Have the running workflow carry out its update handler `name`; returns its answer.

        Raises what the handler or its validator raised, :class:`JobClosedError` when the job ends
        before, :class:`TimedOutError` when `timeout` is over; then the update goes on.
        """
        send, call, deadline = _requests.update(self._app, self.workflow_id, name, args, timeout)
        self._run(send)
        for pause in deadline:
            if (answer := self._run(call)) is not None:
                return _requests.answered(answer, self.workflow_id)
            time.sleep(pause)
        raise _requests.unanswered(f"update {name}", self.workflow_id, timeout)

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


class SyncWorkflowClient(SyncSearches):
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

    def fork(
        self, source: str, version: int | None = None, *, conn: object = None, **request: Any
    ) -> SyncWorkflowHandle[Any]:
        """Start a workflow with the entity of another; see :meth:`WorkflowClient.fork`."""
        told = cast(StartRequest, request)
        call = _requests.fork(self._client.app_id, source, version, told)
        job = self._client._session.run(call, conn)
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
        self.queue = SyncQueueClient(self._session)

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
