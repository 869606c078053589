"""Entities: the JSON document of a job, shared by its workflow, its hooks and everybody outside.

In workflow code `entity = await workflow.entity()`, from outside `entity = handle.entity()`. Both take
the same commands; each is one change of one row, so commands of others are never lost. `Entity` looks
for jobs by their documents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar, overload

from . import _codec, _context, _requests
from ._calls import Call
from ._calls_entity import Change, Difference
from ._find import Entity, FoundEntity, SyncEntity
from .errors import InvalidArgumentError

__all__ = [
    "Change",
    "Difference",
    "Entity",
    "EntityContext",
    "EntityHandle",
    "FoundEntity",
    "SyncEntity",
    "SyncEntityHandle",
]

T = TypeVar("T")
Number = int | float | Decimal


class _Commands:
    """The commands; where one stands says how it is sent.

    A path such as `"counts.open"` or `"items.-1.done"` names keys and elements; `\\.` is a dot in a
    key. Missing parents are created; what is missing or null counts as 0, False, [] or {}. Numbers are
    exact in the document, of any size and precision; whole ones are so in Python too, while a fraction
    is read as a float. All of them raise :class:`EntityTypeError`, :class:`EntityIndexError`,
    :class:`EntityDepthError`, :class:`EntityTooLargeError`, :class:`EntityArchivedError`,
    :class:`JobNotFoundError`, :class:`ConstraintError`, :class:`InvalidArgumentError`, and then the
    document is as it was.

    `request`, from outside, is an idempotency key: the same one again changes nothing and returns
    what the first call did. Workflow code needs none, each command counts once.
    """

    def _send(self, operation: str, path: str | None, value: Any, request: str | None) -> Any:
        raise NotImplementedError

    @overload
    def set(self, value: Mapping[str, Any], *, request: str | None = None) -> Any: ...
    @overload
    def set(self, path: str | None, value: Any, *, request: str | None = None) -> Any: ...
    def set(self, *arguments: Any, request: str | None = None, **named: Any) -> Any:
        """`set(document)` replaces the document, `set(path, value)` what is there. Returns it all."""
        return self._send("set", *_placed("set", arguments, named), request)

    @overload
    def merge(self, value: Mapping[str, Any], *, request: str | None = None) -> Any: ...
    @overload
    def merge(self, path: str | None, value: Any, *, request: str | None = None) -> Any: ...
    def merge(self, *arguments: Any, request: str | None = None, **named: Any) -> Any:
        """`merge(value)` or `merge(path, value)`: dicts merge at any depth, the rest replaces.

        Returns the document.
        """
        return self._send("merge", *_placed("merge", arguments, named), request)

    def append(self, path: str, value: Any, *, request: str | None = None) -> Any:
        """Add a value at the end of a list. Returns the list."""
        return self._send("append", _path(path), value, request)

    def prepend(self, path: str, value: Any, *, request: str | None = None) -> Any:
        """Add a value at the front of a list. Returns the list."""
        return self._send("prepend", _path(path), value, request)

    def remove(self, path: str, index: int, *, request: str | None = None) -> Any:
        """Remove one element of a list; -1 is the last. Returns the list."""
        index = _codec.whole(index, "index", -999_999_999, 999_999_999)
        return self._send("remove", _path(path), index, request)

    def increment(self, path: str, amount: Number = 1, *, request: str | None = None) -> Any:
        """Add to a number. Returns the number."""
        if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal):
            raise InvalidArgumentError(f"amount must be a number, not {type(amount).__name__}")
        return self._send("increment", _path(path), amount, request)

    def toggle(self, path: str, *, request: str | None = None) -> Any:
        """Turn a boolean around. Returns it."""
        return self._send("toggle", _path(path), None, request)

    def set_if_not_exists(self, path: str, value: Any, *, request: str | None = None) -> Any:
        """Put a value where nothing is. Returns what is there now."""
        return self._send("set_if_not_exists", _path(path), value, request)

    def delete(self, path: str, *, request: str | None = None) -> Any:
        """Remove what is at a path. Returns the document."""
        return self._send("delete", _path(path), None, request)

    def get(self, path: str | None = None) -> Any:
        """The document, or what is at a path of it; None if nothing is there."""
        return self._send("get", None if path is None else _path(path), None, None)


def _path(path: object) -> str:
    return _codec.text(path, "path", 10_000) if path != "" else ""


def _placed(
    operation: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[str | None, Any]:
    """The path and the value of a command that takes the value alone, too."""
    given = len(arguments) + len(named)
    left = [name for name in ("path", "value")[2 - min(given, 2) :] if name not in named]
    told = {**dict(zip(left, arguments, strict=False)), **named}
    if given not in (1, 2) or told.keys() - {"path"} != {"value"}:
        raise InvalidArgumentError(
            f"{operation} takes a value, or a path and a value: it got {given} arguments",
            hint=f"by name it got {', '.join(named) or 'none'}",
        )
    path = told.get("path")
    return None if path is None else _path(path), told["value"]


class EntityContext(_Commands):
    """The entity of the job whose workflow code is running; `await workflow.entity()`.

    Each command counts once, however often the code is replayed, and its answer is replayed.
    """

    def __await__(self) -> Generator[Any, None, EntityContext]:
        yield from ()
        return self

    def _send(self, operation: str, path: str | None, value: Any, request: str | None) -> Any:
        run = _context.current_run(f"entity.{operation}()")
        if request is not None:
            raise InvalidArgumentError(
                f"{operation} takes no request in workflow code",
                hint="it counts once, however often the code is replayed",
            )
        told = {"path": path, "value": value}
        return run.effect("entity", operation, _requests.entity_text(told, operation))


class EntityHandle(_Commands):
    """The entity of a job, from outside; `handle.entity()`. All of it is to be awaited."""

    def __init__(
        self, run: Callable[[Call[Any]], Awaitable[Any]], app_id: str, workflow_id: str
    ) -> None:
        self._run, self._app_id, self.workflow_id = run, app_id, workflow_id

    def _send(self, operation: str, path: str | None, value: Any, request: str | None) -> Any:
        return self._run(
            _requests.entity(self._app_id, self.workflow_id, operation, path, value, request)
        )

    async def apply(
        self, commands: Iterable[Mapping[str, Any]], *, request: str | None = None
    ) -> list[Any]:
        """Several commands as one change, all or none. Returns their answers.

        A command is `{"operation": "increment", "path": "count", "amount": 2}`; what it takes besides
        its path is its `value`, `index` or `amount`.
        """
        call = _requests.entity_apply(self._app_id, self.workflow_id, commands, request)
        answers: list[Any] = await self._run(call)
        return answers

    async def history(self, after: int = 0, limit: int | None = None) -> list[Change]:
        """The changes after a version, oldest first; see :class:`Change`."""
        call = _requests.entity_history(self._app_id, self.workflow_id, after, limit)
        changes: list[Change] = await self._run(call)
        return changes

    async def at(self, when: int | datetime) -> Any:
        """The document as it was at a version or a time; None before the job was started.

        Raises :class:`EntityVersionError` for what never was, or is not in the log any more.
        """
        return await self._run(_requests.entity_at(self._app_id, self.workflow_id, when))

    async def diff(self, older: int, newer: int) -> list[Difference]:
        """The places where two versions differ, with what was there and what became of it."""
        call = _requests.entity_diff(self._app_id, self.workflow_id, older, newer)
        differences: list[Difference] = await self._run(call)
        return differences


class SyncEntityHandle(_Commands):
    """The blocking twin of :class:`EntityHandle`."""

    def __init__(self, run: Callable[[Call[Any]], Any], app_id: str, workflow_id: str) -> None:
        self._run, self._app_id, self.workflow_id = run, app_id, workflow_id

    def _send(self, operation: str, path: str | None, value: Any, request: str | None) -> Any:
        return self._run(
            _requests.entity(self._app_id, self.workflow_id, operation, path, value, request)
        )

    def apply(
        self, commands: Iterable[Mapping[str, Any]], *, request: str | None = None
    ) -> list[Any]:
        """Several commands as one change; see :meth:`EntityHandle.apply`."""
        call = _requests.entity_apply(self._app_id, self.workflow_id, commands, request)
        answers: list[Any] = self._run(call)
        return answers

    def history(self, after: int = 0, limit: int | None = None) -> list[Change]:
        """The changes after a version; see :meth:`EntityHandle.history`."""
        call = _requests.entity_history(self._app_id, self.workflow_id, after, limit)
        changes: list[Change] = self._run(call)
        return changes

    def at(self, when: int | datetime) -> Any:
        """The document as it was; see :meth:`EntityHandle.at`."""
        return self._run(_requests.entity_at(self._app_id, self.workflow_id, when))

    def diff(self, older: int, newer: int) -> list[Difference]:
        """Where two versions differ; see :meth:`EntityHandle.diff`."""
        call = _requests.entity_diff(self._app_id, self.workflow_id, older, newer)
        differences: list[Difference] = self._run(call)
        return differences
