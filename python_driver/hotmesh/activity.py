"""What activity code may say: who it works for, which attempt this is, and that it is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Mapping
from typing import Any, NamedTuple

from . import _context, _transaction

__all__ = ["ActivityContext", "context", "heartbeat", "info", "is_cancelled", "transaction"]


class ActivityContext(NamedTuple):
    """What an activity may know of itself.

    Attributes:
        workflow_id: the id of the workflow that asked for it; None for a message of no job.
        activity_name: the name under which it was called.
        task_queue: the queue that it came through.
        attempt: 1 for the first execution.
        headers: what an interceptor of the workflow passed on.
        heartbeat_details: what the last attempt told in its last heartbeat, or None.
        heartbeat_timeout: seconds that it may be silent, or None for ever.
        start_to_close_timeout: seconds that this attempt may take, or None for as long as it needs.
    """

    workflow_id: str | None
    activity_name: str
    task_queue: str
    attempt: int = 1
    headers: Mapping[str, str] = {}
    heartbeat_details: Any = None
    heartbeat_timeout: float | None = None
    start_to_close_timeout: float | None = None


def context() -> ActivityContext:
    """The activity that is running, in its own task or thread.

    Raises:
        InvalidArgumentError: the caller is no activity.
    """
    return _context.current_activity("activity.context()")


def transaction() -> Any:
    """A psycopg connection whose writes commit together with this activity's result.

    ``conn = await activity.transaction()`` in an `async def` gives a `psycopg.AsyncConnection`,
    ``conn = activity.transaction()`` in a plain function a `psycopg.Connection`. What is written
    through it, what the activity returns and what follows in the workflow become true in one
    commit; if the activity raises, or its process dies, none of it does. So its writes happen
    exactly once. The connection belongs to this attempt; each call gives the same one.

    It commits when the activity returns, and only then: `commit`, `rollback`, `close`, autocommit
    and ``with conn:`` are refused, ``with conn.transaction():`` gives savepoints.

    Raises:
        InvalidArgumentError: the caller is no activity, or it has ended.
        HotMeshError: this attempt was given to another worker meanwhile.
        ConnectionLostError: no connection could be had.
    """
    return _transaction.open_for(_context.current_attempt("activity.transaction()"))


info = context
"""The same as :func:`context`, as Temporal spells it."""


class _Told(Awaitable[None]):
    """What :func:`heartbeat` returns; an async activity may await it, and lets others run."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()


_TOLD = _Told()


def heartbeat(details: Any = None) -> Awaitable[None]:
    """Say that this attempt is alive and how far it has come; from a task or from a thread.

    It returns at once and may be called as often as one likes: the last details are sent about once
    a second, or three times per `heartbeat_timeout`. They are what `context().heartbeat_details` of
    the next attempt will be; without an argument those before are kept.

    Raises:
        asyncio.CancelledError: nobody wants this attempt any more: it was cancelled, its time is
            over, or its worker has lost it. Clean up and go.
        InvalidArgumentError: details that JSON can't carry, or the caller is no activity.
    """
    _context.current_attempt("activity.heartbeat()").beat(details)
    return _TOLD


def is_cancelled() -> bool:
    """Whether nobody wants this attempt any more; a thread that can't be cancelled may ask."""
    return _context.current_attempt("activity.is_cancelled()").unwanted
