"""The `HotMesh` object: graphs that the database executes by itself, and workers for their topics."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from . import _callbacks, _graph_file, _quorum
from . import _graph_requests as _say
from . import worker as _worker
from ._callbacks import WorkerOptions
from ._calls import Call
from ._calls_graph import GraphVersion, graph_list
from ._events import Callback
from .client import Client, SyncClient, SyncWorkflowHandle, WorkflowHandle
from .durations import Duration
from .errors import GraphError, InvalidArgumentError

__all__ = ["HotMesh", "SyncHotMesh"]

T = TypeVar("T")

_OPEN: set[HotMesh] = set()
"""What was opened in this process and not stopped; their workers work until then."""


class _Stop:
    """`await mesh.stop()` stops one, `await HotMesh.stop()` all of this process."""

    def __get__(self, mesh: HotMesh | None, owner: type[HotMesh]) -> Callable[[], Awaitable[None]]:
        return _stop_all if mesh is None else mesh._stop


class HotMesh:
    """An app's graphs; make one by :meth:`init`.

    It works from the moment it was made, until `await mesh.stop()`; `await HotMesh.stop()` stops
    all of this process. It is safe to share within one event loop. Errors are
    :class:`hotmesh.errors.HotMeshError`.
    """

    stop = _Stop()

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._workers: list[_worker.Worker] = []

    @classmethod
    async def init(
        cls,
        app_id: str = "memflow",
        connection: object = None,
        engine: Mapping[str, Any] | None = None,
        workers: Iterable[WorkerOptions] = (),
        *,
        max_concurrent: int = 100,
        lease: Duration | None = None,
    ) -> HotMesh:
        """Provision the engine and the app, and begin to answer for the topics of the workers.

        Args:
            app_id: the app.
            connection: a DSN, a psycopg pool, or nothing for DATABASE_URL or the embedded server.
            engine: the seeds' form, `{"connection": …}`.
            workers: for each topic a callback, async or not; see :class:`WorkerOptions`. It takes
                `{"data": …, "metadata": …}`, the metadata with jid, aid, topic and try, and answers
                `{"data": …}`, where it has to say so with `"status"`: success, error or pending,
                and with `"code"`, by which transitions are chosen. An exception is tried again.
            max_concurrent: how many callbacks run at a time; those that are not async in threads.
            lease: after how long a dead worker's work moves on; default HMSH_LEASE or 15 s.

        Raises:
            InvalidArgumentError: a worker that cannot be used; the message says which.
            ConnectionLostError, NotInstalledError, ProtocolError: the database can't be used.
            NotAllowedError: the role has no worker's key to the app.
        """
        served = _callbacks.topics(workers)
        if connection is None and engine is not None:
            connection = engine.get("connection")
        mesh = cls(Client(connection, app_id))
        _OPEN.add(mesh)
        try:
            await mesh._client._session.ensure()
            for place, topics in _callbacks.by_connection(served, connection):
                made = await _worker.answering(place, app_id, topics, max_concurrent, lease)
                mesh._workers.append(made)
        except BaseException:
            await mesh._stop()
            raise
        return mesh

    @property
    def app_id(self) -> str:
        """The app."""
        return self._client.app_id

    @staticmethod
    def guid() -> str:
        """A new id that nobody else has."""
        return uuid.uuid4().hex

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT or :meth:`stop`; then finish or hand back, and return."""
        if not self._workers:
            raise InvalidArgumentError("there are no workers that could run")
        try:
            await asyncio.gather(*(worker.run() for worker in self._workers))
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """Let what runs finish, and close everything of this object."""
        _OPEN.discard(self)
        for worker in self._workers:
            await worker.shutdown()
        await self._client.close()

    async def __aenter__(self) -> HotMesh:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _run(self, call: Call[T], conn: object = None) -> T:
        return await self._client._session.run(call, conn)

    def _handle(self, job_id: str) -> WorkflowHandle[Any]:
        return self._client.workflow.get_handle(workflow_id=job_id)

    # --- versions --------------------------------------------------------------------------------

    async def deploy(self, source: object, subscribes: str | None = None) -> dict[str, Any]:
        """Check, compile and keep a version of the app's graphs; running jobs keep theirs.

        Args:
            source: a path to YAML or JSON; or the text, if it has several lines or begins with
                `app:` or `{`; or a dict. `$ref` brings in other files.
            subscribes: the topic of a graph that does not say it itself.

        Returns:
            `id`, `version`, `graphs` with their topics and activities, whether it is `active`, and
            whether anything `changed`.

        Raises:
            GraphError: its `faults` are all that is wrong, each with path, line and column.
            GraphVersionError: this version exists with other graphs, or a later one does.
        """
        file = _graph_file.load(source)
        try:
            return await self._run(_say.deploy(self.app_id, file, subscribes))
        except GraphError as error:
            raise file.located(error) from error.__cause__

    async def activate(self, version: str | int) -> bool:
        """From now on new jobs run in this version."""
        return await self._run(_say.activate(self.app_id, version))

    async def explain(self, topic: str, format: str = "text") -> str:
        """The compiled plan of a topic's graph: `text`, or `mermaid` for a drawing."""
        return await self._run(_say.explain(self.app_id, topic, format))

    async def graphs(self) -> list[GraphVersion]:
        """What was deployed: a row for each topic of each version."""
        return await self._run(graph_list(self.app_id))

    # --- jobs ------------------------------------------------------------------------------------

    async def pub(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        *,
        job_id: str | None = None,
        conn: object = None,
        **options: Any,
    ) -> str:
        """Start a job of the graph that subscribes to the topic, and return its id.

        Args:
            topic: the topic.
            data: what the trigger gets.
            job_id: by default what the trigger says, or a new id.
            conn: a psycopg connection of the caller: the start is part of its transaction.
            options: `search`, `expire` and `on_conflict`, as for `client.workflow.start`; `parent`
                is the id of the job that it belongs to.

        Raises:
            TopicNotFoundError: no active graph answers the topic.
            DuplicateJobError: the id is taken.
        """
        call = _say.pub(self.app_id, topic, data, job_id, options)
        return (await self._run(call, conn)).key

    async def pubsub(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = _say.TIMEOUT,
        *,
        job_id: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Start a job and wait for its end: `{"metadata": …, "data": …}`.

        Raises what :meth:`pub` raises; a :class:`JobFailedError` when the job fails; and after
        `timeout` :class:`TimedOutError` with code 504: the job goes on. Both have its `job_id`.
        """
        job = await self._run(_say.pub(self.app_id, topic, data, job_id, options))
        if job.status != 0:
            await self._handle(job.key).result(timeout)
        return _say.job_output(await self._run(_say.state(self.app_id, job.key)))

    async def sub(self, topic: str, callback: Callback) -> None:
        """Call `callback(topic, message)` for what graphs publish to the topic from now on.

        `topic` is what a graph `publishes` to, or that with `.` and a job's id behind it; the
        message is `{"metadata": …, "data": …}`. While the connection is lost nothing is heard.
        """
        await self._client.sub(topic, _callbacks.listener(callback))

    async def unsub(self, topic: str) -> None:
        """Stop what :meth:`sub` began."""
        await self._client.unsub(topic)

    async def signal(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        status: str | None = None,
        code: int = 200,
    ) -> int:
        """Wake the job that waits at a hook of this topic for this data.

        `pending`, or code 202, leaves the hook open. Raises :class:`TopicNotFoundError`.
        """
        return await self._run(_say.signal(self.app_id, topic, data, status, code))

    async def signal_all(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        facets: Iterable[str] = (),
    ) -> int:
        """Wake all jobs that wait at a hook of this topic and that the index has; returns how many.

        `query` is that of :meth:`get_stats`, `facets` are texts such as `color:red`.
        """
        return await self._run(_say.signal_all(self.app_id, topic, data, query, facets))

    async def interrupt(self, topic: str, job_id: str, **options: Any) -> None:
        """End a job at once; `options` are `reason`, `code`, `descend` and `throw`.

        See :meth:`hotmesh.client.WorkflowHandle.interrupt`; the topic is only said.
        """
        await self._handle(job_id).interrupt(**_say.options_of_interrupt(options))

    async def add(self, stream_data: Mapping[str, Any]) -> str:
        """Give an answer that a callback has left pending: `ok`, or `stale` if nobody waits for it.

        It is a whole response, with the `metadata` that the callback got.
        """
        return await self._run(_say.add(self.app_id, stream_data))

    # --- reading ---------------------------------------------------------------------------------

    async def get_status(self, job_id: str) -> int:
        """The semaphore: 0 complete, above zero open, below zero failed or interrupted."""
        return await self._handle(job_id).status()

    async def get_state(self, topic: str, job_id: str) -> dict[str, Any]:
        """A job of a topic as it is now: `{"metadata": …, "data": …}`.

        Raises :class:`JobNotFoundError` if there is none, or it is another topic's.
        """
        state = await self._run(_say.state(self.app_id, job_id))
        return _say.output_of(state, topic, job_id)

    async def export(self, job_id: str) -> dict[str, Any]:
        """A job with its journal; its `status` is the semaphore."""
        found: dict[str, Any] = await self._handle(job_id).export()
        return found

    async def scrub(self, job_id: str) -> None:
        """Delete a closed job now."""
        await self._run(_say.scrub(self.app_id, job_id))

    async def get_ids(
        self, topic: str, query: Mapping[str, Any] | None = None, facets: Iterable[str] = ()
    ) -> Any:
        """The ids behind the statistics of a topic, by time and facet, such as `color:red`."""
        return await self._run(_say.ids(self.app_id, topic, query, facets))

    async def get_stats(self, topic: str, query: Mapping[str, Any] | None = None) -> Any:
        """Counts and measures of a topic's jobs, as its trigger's `stats` says.

        `query` has `data`, by which the key is made, and `range`, `start`, `end`, `granularity`
        and `sparse`.
        """
        return await self._run(_say.stats(self.app_id, topic, query))

    # --- workers ---------------------------------------------------------------------------------

    async def roll_call(self) -> list[dict[str, Any]]:
        """A profile of the engine and of each topic of each worker that is alive.

        Workers of this object that have just begun are waited for, up to a second.
        """
        app, own = self.app_id, {worker.name for worker in self._workers}
        until = self._loop.time() + 1.0
        while True:
            seen = [await self._run(call) for call in _quorum.questions(app)]
            found = _quorum.profiles(app, *seen)
            if own <= {one["engine_id"] for one in found} or self._loop.time() > until:
                return found
            await asyncio.sleep(0.02)

    async def throttle(
        self, throttle: int | Mapping[str, Any], *, topic: str | None = None
    ) -> None:
        """Milliseconds between the beginnings of two messages, for all workers; kept in the database.

        0 lifts it, -1 lets nothing begin. Without a topic it holds for every topic that is served
        now.
        """
        for call in _quorum.throttles(self.app_id, throttle, topic, await self.roll_call()):
            await self._run(call)


async def _stop_all() -> None:
    """Stop what belongs to the running loop; what belonged to one that is closed is gone."""
    loop = asyncio.get_running_loop()
    _OPEN.difference_update({mesh for mesh in _OPEN if mesh._loop.is_closed()})
    await asyncio.gather(*(mesh._stop() for mesh in list(_OPEN) if mesh._loop is loop))


class SyncHotMesh:
    """The blocking twin of :class:`HotMesh`, without workers and subscriptions; for any thread."""

    def __init__(
        self,
        connection: object = None,
        app_id: str = "memflow",
        *,
        client: SyncClient | None = None,
    ) -> None:
        self._client = client or SyncClient(connection, app_id)
        self._owns_client = client is None

    @property
    def app_id(self) -> str:
        """The app."""
        return self._client.app_id

    def close(self) -> None:
        """Close the connections."""
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> SyncHotMesh:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, call: Call[T], conn: object = None) -> T:
        return self._client._session.run(call, conn)

    def _handle(self, job_id: str) -> SyncWorkflowHandle[Any]:
        return self._client.workflow.get_handle(workflow_id=job_id)

    def deploy(self, source: object, subscribes: str | None = None) -> dict[str, Any]:
        """Check, compile and keep a version; see :meth:`HotMesh.deploy`."""
        file = _graph_file.load(source)
        try:
            return self._run(_say.deploy(self.app_id, file, subscribes))
        except GraphError as error:
            raise file.located(error) from error.__cause__

    def activate(self, version: str | int) -> bool:
        """From now on new jobs run in this version."""
        return self._run(_say.activate(self.app_id, version))

    def explain(self, topic: str, format: str = "text") -> str:
        """The compiled plan; see :meth:`HotMesh.explain`."""
        return self._run(_say.explain(self.app_id, topic, format))

    def graphs(self) -> list[GraphVersion]:
        """What was deployed: a row for each topic of each version."""
        return self._run(graph_list(self.app_id))

    def pub(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        *,
        job_id: str | None = None,
        conn: object = None,
        **options: Any,
    ) -> str:
        """Start a job and return its id; see :meth:`HotMesh.pub`."""
        return self._run(_say.pub(self.app_id, topic, data, job_id, options), conn).key

    def pubsub(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = _say.TIMEOUT,
        *,
        job_id: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Start a job and wait for its end; see :meth:`HotMesh.pubsub`."""
        job = self._run(_say.pub(self.app_id, topic, data, job_id, options))
        if job.status != 0:
            self._handle(job.key).result(timeout)
        return _say.job_output(self._run(_say.state(self.app_id, job.key)))

    def signal(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        status: str | None = None,
        code: int = 200,
    ) -> int:
        """Wake the job that waits for this; see :meth:`HotMesh.signal`."""
        return self._run(_say.signal(self.app_id, topic, data, status, code))

    def signal_all(
        self,
        topic: str,
        data: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        facets: Iterable[str] = (),
    ) -> int:
        """Wake all jobs that the index has; see :meth:`HotMesh.signal_all`."""
        return self._run(_say.signal_all(self.app_id, topic, data, query, facets))

    def interrupt(self, topic: str, job_id: str, **options: Any) -> None:
        """End a job at once; see :meth:`HotMesh.interrupt`."""
        self._handle(job_id).interrupt(**_say.options_of_interrupt(options))

    def add(self, stream_data: Mapping[str, Any]) -> str:
        """Give an answer that was left pending; see :meth:`HotMesh.add`."""
        return self._run(_say.add(self.app_id, stream_data))

    def get_status(self, job_id: str) -> int:
        """The semaphore; see :meth:`HotMesh.get_status`."""
        return self._handle(job_id).status()

    def get_state(self, topic: str, job_id: str) -> dict[str, Any]:
        """A job of a topic as it is now; see :meth:`HotMesh.get_state`."""
        return _say.output_of(self._run(_say.state(self.app_id, job_id)), topic, job_id)

    def export(self, job_id: str) -> dict[str, Any]:
        """A job with its journal; see :meth:`HotMesh.export`."""
        found: dict[str, Any] = self._handle(job_id).export()
        return found

    def scrub(self, job_id: str) -> None:
        """Delete a closed job now."""
        self._run(_say.scrub(self.app_id, job_id))

    def get_ids(
        self, topic: str, query: Mapping[str, Any] | None = None, facets: Iterable[str] = ()
    ) -> Any:
        """The ids behind the statistics of a topic; see :meth:`HotMesh.get_ids`."""
        return self._run(_say.ids(self.app_id, topic, query, facets))

    def get_stats(self, topic: str, query: Mapping[str, Any] | None = None) -> Any:
        """Counts and measures of a topic's jobs; see :meth:`HotMesh.get_stats`."""
        return self._run(_say.stats(self.app_id, topic, query))

    def roll_call(self) -> list[dict[str, Any]]:
        """A profile of the engine and of each worker; see :meth:`HotMesh.roll_call`."""
        app = self.app_id
        return _quorum.profiles(app, *(self._run(call) for call in _quorum.questions(app)))

    def throttle(self, throttle: int | Mapping[str, Any], *, topic: str | None = None) -> None:
        """Slow down, pause or resume; see :meth:`HotMesh.throttle`."""
        for call in _quorum.throttles(self.app_id, throttle, topic, self.roll_call()):
            self._run(call)
