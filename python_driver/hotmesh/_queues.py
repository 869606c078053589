"""`client.queue`: how much of a queue may be under way, and how much may begin in a time."""

from __future__ import annotations

from typing import Literal

from . import _calls_view, _codec, durations
from ._calls import Call
from ._calls_view import QueueLimit
from ._session import AsyncSession, SyncSession
from .durations import Duration
from .errors import InvalidArgumentError

__all__ = ["Kind", "QueueClient", "SyncQueueClient", "throttle"]

Kind = Literal["workflow", "activity"]
LARGEST = 2**31 - 1
DAY = 86_400_000
"""In milliseconds: the longest that a throttle lets pass."""


def _limit(
    app: str,
    task_queue: str,
    concurrency: int | None,
    per_key: int | None,
    rate: int | None,
    per: Duration | None,
    kind: Kind | None,
) -> Call[None]:
    return _calls_view.queue_limit(
        app,
        _codec.text(task_queue, "task_queue"),
        _number(concurrency, "concurrency"),
        _number(per_key, "per_key"),
        _number(rate, "rate"),
        None if per is None else durations.parse(per, "per"),
        _kind(kind),
    )


def _unlimit(app: str, task_queue: str, kind: Kind | None) -> Call[None]:
    return _calls_view.queue_unlimit(app, _codec.text(task_queue, "task_queue"), _kind(kind))


def throttle(app: str, task_queue: str, delay: int, kind: Kind | None) -> Call[None]:
    """The call, checked."""
    name = _codec.text(task_queue, "task_queue")
    told = _codec.whole(delay, "throttle", -1, DAY)
    return _calls_view.queue_throttle(app, name, told, _kind(kind))


def _number(value: object, what: str) -> int | None:
    return None if value is None else _codec.whole(value, what, 1, LARGEST)


def _kind(kind: object) -> str | None:
    if kind is None or kind in ("workflow", "activity"):
        return None if kind is None else str(kind)
    raise InvalidArgumentError(f"kind is {kind!r}", hint="workflow, activity, or None for both")


class QueueClient:
    """`client.queue`: the limits of task queues, enforced by the database in each claim."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def limit(
        self,
        task_queue: str,
        *,
        concurrency: int | None = None,
        per_key: int | None = None,
        rate: int | None = None,
        per: Duration | None = None,
        kind: Kind | None = None,
    ) -> None:
        """Set the limits of a queue, in place of those it has.

        Args:
            task_queue: the queue.
            concurrency: how many may be under way: workflows from their first claim until they
                close, also while they sleep, and activities while they run.
            per_key: the same for each `concurrency_key`; other keys go on meanwhile.
            rate: how many may begin in any time as long as `per`.
            per: the time that the rate is for; 1 second.
            kind: only its workflows, or only its activities; each kind is counted for itself.

        Raises:
            InvalidArgumentError: nothing is limited, or a number, time or kind that can't be used.
        """
        app = self._session.app_id
        call = _limit(app, task_queue, concurrency, per_key, rate, per, kind)
        await self._session.run(call)

    async def unlimit(self, task_queue: str, *, kind: Kind | None = None) -> None:
        """Lift the limits of a queue, of one kind or of both."""
        await self._session.run(_unlimit(self._session.app_id, task_queue, kind))

    async def throttle(
        self, task_queue: str, milliseconds: int, *, kind: Kind | None = None
    ) -> None:
        """Let so much time pass from one beginning to the next; -1: nothing begins, 0 lifts it.

        It holds for whoever serves the queue, until it is lifted; what is under way goes on.
        """
        await self._session.run(throttle(self._session.app_id, task_queue, milliseconds, kind))

    async def list(self) -> list[QueueLimit]:
        """The queues that have limits, with how much is under way and held in each."""
        return await self._session.run(_calls_view.queue_list(self._session.app_id))


class SyncQueueClient:
    """The blocking twin of :class:`QueueClient`."""

    def __init__(self, session: SyncSession) -> None:
        self._session = session

    def limit(
        self,
        task_queue: str,
        *,
        concurrency: int | None = None,
        per_key: int | None = None,
        rate: int | None = None,
        per: Duration | None = None,
        kind: Kind | None = None,
    ) -> None:
        """Set the limits of a queue; see :meth:`QueueClient.limit`."""
        app = self._session.app_id
        self._session.run(_limit(app, task_queue, concurrency, per_key, rate, per, kind))

    def unlimit(self, task_queue: str, *, kind: Kind | None = None) -> None:
        """Lift the limits of a queue; see :meth:`QueueClient.unlimit`."""
        self._session.run(_unlimit(self._session.app_id, task_queue, kind))

    def throttle(self, task_queue: str, milliseconds: int, *, kind: Kind | None = None) -> None:
        """Slow a queue down, pause or resume it; see :meth:`QueueClient.throttle`."""
        self._session.run(throttle(self._session.app_id, task_queue, milliseconds, kind))

    def list(self) -> list[QueueLimit]:
        """The queues that have limits; see :meth:`QueueClient.list`."""
        return self._session.run(_calls_view.queue_list(self._session.app_id))
