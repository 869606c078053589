"""What activity code may say: who it works for, and which attempt this is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _context, _transaction

__all__ = ["ActivityContext", "context", "transaction"]


@dataclass(frozen=True)
class ActivityContext:
    """What an activity may know of itself.

    Attributes:
        workflow_id: the id of the workflow that asked for it; None for a message of no job.
        activity_name: the name under which it was called.
        task_queue: the queue that it came through.
        attempt: 1 for the first execution.
        headers: what an interceptor of the workflow passed on.
    """

    workflow_id: str | None
    activity_name: str
    task_queue: str
    attempt: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


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
