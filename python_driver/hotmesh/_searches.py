"""What clients and handles can do with search attributes and events: parts of `client`'s classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _requests
from ._events import Callback, Subscriptions

if TYPE_CHECKING:
    from .client import Client, SyncClient

__all__ = ["Listening", "Queries", "Searches", "SyncQueries", "SyncSearches"]


class Queries:
    """A part of a handle."""

    _client: Client
    workflow_id: str

    async def query_state(self, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """The job's search attributes, those named or all; a name in double quotes is any attribute's."""
        state: dict[str, Any] = await self._client._session.run(
            _requests.search_get(self._client.app_id, self.workflow_id, fields)
        )
        return state


class Searches:
    """A part of `client.workflow`."""

    _client: Client

    async def search(
        self,
        entity: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """Jobs by their search attributes, newest first: dicts of key, data and status.

        Conditions, `limit`, `offset` and `before` are those of :meth:`hotmesh.Entity.find`; a path
        begins with an attribute's name. It looks at the jobs of the entity one by one.
        """
        app = self._client.app_id
        call = _requests.search_find(app, entity, conditions, limit, offset, before)
        found: list[dict[str, Any]] = await self._client._session.run(call)
        return found


class Listening:
    """A part of a client."""

    _events: Subscriptions

    async def sub(self, topic: str, callback: Callback) -> None:
        """Call `callback(topic, message)` for what workflows emit from now on; see `workflow.emit`.

        While the connection is lost nothing is heard; the journals of the jobs keep it.
        """
        await self._events.add(topic, callback)

    async def unsub(self, topic: str) -> None:
        """Stop what :meth:`sub` began."""
        await self._events.remove(topic)


class SyncQueries:
    """The blocking twin of :class:`Queries`."""

    _client: SyncClient
    workflow_id: str

    def query_state(self, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """The job's search attributes; see :meth:`WorkflowHandle.query_state`."""
        state: dict[str, Any] = self._client._session.run(
            _requests.search_get(self._client.app_id, self.workflow_id, fields)
        )
        return state


class SyncSearches:
    """The blocking twin of :class:`Searches`."""

    _client: SyncClient

    def search(
        self,
        entity: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """Jobs by their search attributes; see :meth:`WorkflowClient.search`."""
        app = self._client.app_id
        call = _requests.search_find(app, entity, conditions, limit, offset, before)
        found: list[dict[str, Any]] = self._client._session.run(call)
        return found
