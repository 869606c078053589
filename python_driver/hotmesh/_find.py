"""Look for jobs by what their entities say: `Entity`, and `SyncEntity`, its blocking twin."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, TypedDict

from . import _calls_find, _codec
from ._calls import Call
from ._session import AsyncSession, SyncSession
from .errors import HotMeshError, InvalidArgumentError

__all__ = ["Entity", "FoundEntity", "SyncEntity"]


class FoundEntity(TypedDict):
    """One job that was found: its workflow id, its document, and its semaphore (0 complete)."""

    key: str
    context: Any
    status: int


class Entity:
    """Static: look for jobs by their documents. `client` is a Client, or what `MemFlow.init` gave.

    Conditions are a dict of paths: `{"stage": "open", "address.city": "Rome", "age": {"$gt": 17}}`;
    every one must hold. Operators: `$eq $ne $gt $gte $lt $lte $in $exists $contains` (a list has
    these elements, an object these members) and `$like`; `$and` and `$or` take lists of conditions.
    A number only compares with numbers, a text with texts. `a\\.b` is a name with a dot, `tags.0` the
    first element, `tags.-1` the last.
    """

    @staticmethod
    async def find(
        entity: str,
        conditions: Mapping[str, Any] | None = None,
        client: Any = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        before: str | None = None,
        order_by: str | None = None,
        descending: bool = False,
    ) -> list[FoundEntity]:
        """Jobs of an entity whose documents meet the conditions, newest first.

        Args:
            entity: what the jobs were started with; by default that is the workflow's name.
            conditions: see the class; nothing finds all.
            client: a :class:`Client`.
            limit: how many at most; 1,000 unless said, and never more than 10,000.
            offset: how many to leave out first.
            before: the key of the last one of the page before; cheaper than a large offset.
            order_by: a path to order by instead, missing values last.
            descending: turns that order.

        Raises:
            InvalidArgumentError: an unknown operator, or a value that does not fit it.
            JobNotFoundError: there never was a job `before`.
        """
        call = _find(client, entity, conditions, limit, offset, before, order_by, descending)
        return await _async(client).run(call)

    @staticmethod
    async def find_by_id(entity: str, id: str, client: Any = None) -> FoundEntity | None:
        """The job of this entity and workflow id, or None."""
        found = await _async(client).run(_find_by_id(client, entity, id))
        return found[0] if found else None

    @staticmethod
    async def find_by_condition(
        entity: str,
        field: str,
        value: Any,
        operator: str = "=",
        client: Any = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FoundEntity]:
        """Jobs whose value at a path compares so: `= != > >= < <= LIKE IN`; see :meth:`find`."""
        conditions = _condition(field, value, operator)
        return await Entity.find(entity, conditions, client, limit=limit, offset=offset)

    @staticmethod
    async def create_index(
        entity: str, field: str | None, client: Any = None, index_type: str = "btree"
    ) -> str:
        """Make an index that :meth:`find` uses, unless it is there; its name.

        A `btree` is for one path and compares; a `gin` is for `$contains` there or, with None for
        `field`, for `$eq` and `$contains` of every path. If the client's role owns the tables, it is
        built without stopping anybody; it then waits for transactions that are open.
        """
        session = _async(client)
        of = _index(client, entity, field, index_type)
        statements = await session.run(_calls_find.entity_index_ddl(*of))
        with contextlib.suppress(HotMeshError):  # on a connection in a transaction: as below
            for statement in statements:
                await session.run(statement)
        return await session.run(_calls_find.entity_create_index(*of))


class SyncEntity:
    """The blocking twin of :class:`Entity`; `client` is a SyncClient."""

    @staticmethod
    def find(
        entity: str,
        conditions: Mapping[str, Any] | None = None,
        client: Any = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        before: str | None = None,
        order_by: str | None = None,
        descending: bool = False,
    ) -> list[FoundEntity]:
        """Jobs whose documents meet the conditions; see :meth:`Entity.find`."""
        call = _find(client, entity, conditions, limit, offset, before, order_by, descending)
        return _sync(client).run(call)

    @staticmethod
    def find_by_id(entity: str, id: str, client: Any = None) -> FoundEntity | None:
        """The job of this entity and workflow id, or None."""
        found = _sync(client).run(_find_by_id(client, entity, id))
        return found[0] if found else None

    @staticmethod
    def find_by_condition(
        entity: str,
        field: str,
        value: Any,
        operator: str = "=",
        client: Any = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FoundEntity]:
        """Jobs whose value at a path compares so; see :meth:`Entity.find_by_condition`."""
        conditions = _condition(field, value, operator)
        return SyncEntity.find(entity, conditions, client, limit=limit, offset=offset)

    @staticmethod
    def create_index(
        entity: str, field: str | None, client: Any = None, index_type: str = "btree"
    ) -> str:
        """Make an index that :meth:`find` uses; see :meth:`Entity.create_index`."""
        session = _sync(client)
        of = _index(client, entity, field, index_type)
        statements = session.run(_calls_find.entity_index_ddl(*of))
        with contextlib.suppress(HotMeshError):
            for statement in statements:
                session.run(statement)
        return session.run(_calls_find.entity_create_index(*of))


# --- what both say, without I/O -------------------------------------------------------------------

_LARGEST_PAGE = 10_000
_OPERATORS = {
    "=": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
    "LIKE": "$like",
    "IN": "$in",
}


def _session(client: Any) -> Any:
    inner = getattr(client, "client", client)
    return getattr(inner, "_session", None)


def _async(client: Any) -> AsyncSession:
    session = _session(client)
    if not isinstance(session, AsyncSession):
        raise _no_client(client, "Client", "SyncEntity takes a SyncClient")
    return session


def _sync(client: Any) -> SyncSession:
    session = _session(client)
    if not isinstance(session, SyncSession):
        raise _no_client(client, "SyncClient", "Entity takes a Client")
    return session


def _no_client(client: Any, wanted: str, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"client must be a {wanted}, not {_codec.kind(client)}", hint=hint)


def _app(client: Any) -> str:
    return str(getattr(_session(client), "app_id", ""))


def _find(
    client: Any,
    entity: str,
    conditions: Mapping[str, Any] | None,
    limit: int | None,
    offset: int,
    before: str | None,
    order_by: str | None,
    descending: bool,
) -> Call[list[FoundEntity]]:
    if not isinstance(conditions, Mapping | None):
        raise InvalidArgumentError(
            f"conditions must be a dict, not {_codec.kind(conditions)}",
            hint='for instance {"stage": "open", "age": {"$gt": 17}}',
        )
    return _calls_find.entity_find(
        _app(client),
        _codec.text(entity, "entity"),
        _codec.dumps(dict(conditions or {}), "conditions"),
        1_000 if limit is None else _codec.whole(limit, "limit", 0, _LARGEST_PAGE),
        _codec.whole(offset, "offset", 0, 2**31 - 1),
        None if order_by is None else _codec.text(order_by, "order_by", 10_000),
        bool(descending),
        None if before is None else _codec.text(before, "before"),
    )


def _find_by_id(client: Any, entity: str, id: str) -> Call[list[FoundEntity]]:
    keys = [_codec.text(id, "id")]
    return _calls_find.entity_find(_app(client), _codec.text(entity, "entity"), take=1, keys=keys)


def _operator(told: object) -> str | None:
    """The engine's name of an operator, which may be told as `>=` or as `$gte`."""
    if not isinstance(told, str):
        return None
    named = told.strip()
    return named if named in _OPERATORS.values() else _OPERATORS.get(named.upper())


def _condition(field: str, value: Any, operator: str) -> dict[str, Any]:
    named = _operator(operator)
    if named is None:
        raise InvalidArgumentError(
            f"unknown operator: {operator!r}",
            hint=f"one of {' '.join(_OPERATORS)}; the client comes after it",
        )
    if isinstance(value, tuple | set | frozenset):
        value = list(value)
    return {_codec.text(field, "field", 10_000): {named: value}}


def _index(
    client: Any, entity: str, field: str | None, index_type: str
) -> tuple[str, str, str | None, str]:
    path = None if field is None else _codec.text(field, "field", 10_000)
    kind = _codec.text(index_type, "index_type").lower()
    return _app(client), _codec.text(entity, "entity"), path, kind
