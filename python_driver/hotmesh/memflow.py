"""The `MemFlow` namespace: workflows as code, spelled as HotMesh spells them."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from . import _interceptors, _payload, _session, activity, workflow
from . import client as _client
from . import worker as _worker
from .client import Client, SyncClient
from .entity import Entity, SyncEntity

__all__ = ["MemFlow"]


class _Initialised:
    """What `MemFlow.init` returns: a client whose engine and app are provisioned."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.workflow = client.workflow

    async def shutdown(self) -> None:
        """Close the client."""
        await self.client.close()

    async def __aenter__(self) -> _Initialised:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()


class Connection:
    """Echoes what names a database, as HotMesh's `Connection.connect` does; it does no I/O."""

    @staticmethod
    async def connect(connection: Any) -> Any:
        """The connection, checked."""
        _session.resolve(connection)
        return connection


class MemFlow:
    """Workflows as code. Not to be instantiated: its members are the API."""

    Client = Client
    SyncClient = SyncClient
    Worker = _worker.Worker
    Connection = Connection
    Entity = Entity
    SyncEntity = SyncEntity
    workflow = workflow
    activity = activity
    register_activity_worker = staticmethod(_worker.register_activity_worker)
    register_codec = staticmethod(_payload.register_codec)
    register_interceptor = staticmethod(_interceptors.register_interceptor)
    register_activity_interceptor = staticmethod(_interceptors.register_activity_interceptor)
    register_execution_interceptor = staticmethod(_interceptors.register_execution_interceptor)
    clear_interceptors = staticmethod(_interceptors.clear_interceptors)
    clear_activity_interceptors = staticmethod(_interceptors.clear_activity_interceptors)

    @staticmethod
    async def init(
        app_id: str = "memflow", connection: object = None, engine: Any = None
    ) -> _Initialised:
        """Provision the engine and the app, and return an object with `.workflow`.

        Args:
            app_id: the app; its schema is the name with everything but letters and digits as `_`.
            connection: a DSN, a psycopg pool, or nothing for DATABASE_URL or the embedded server.
            engine: the seeds' form, `{"connection": …}`.
        """
        if connection is None and isinstance(engine, dict):
            connection = engine.get("connection")
        client = Client(connection, app_id)
        try:
            await client._session.ensure()
        except BaseException:
            await client.close()
            raise
        return _Initialised(client)

    @staticmethod
    async def shutdown() -> None:
        """Close everything of this process: workers first, then clients and their connections."""
        await _worker.shutdown_all()
        await _client.close_all()
        await _session.close_all()
