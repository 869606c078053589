"""Who listens to what workflows emit: one LISTEN per client, callbacks by topic."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import logging
import re
from collections.abc import Callable
from typing import Any

from . import _calls_find, _codec, _payload
from ._listen import Listener
from ._session import AsyncSession
from .errors import ConnectionLostError, HotMeshError, InvalidArgumentError

__all__ = ["Callback", "Subscriptions"]

_LOG = logging.getLogger("hotmesh")
_PATTERN = re.compile(r"(^|\.)(\*+|#|>)(\.|$)|\*$")
Callback = Callable[[str, Any], Any]


class Subscriptions:
    """The topics of one client. A notification names a step; what it emitted is read there."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._topics: dict[str, tuple[str, list[Callback]]] = {}
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def add(self, topic: str, callback: Callback) -> None:
        """Listen from now on; raises :class:`ConnectionLostError` where notifications don't arrive."""
        if not callable(callback):
            raise InvalidArgumentError(f"the callback of {topic!r} is no function")
        if isinstance(topic, str) and _PATTERN.search(topic):
            raise InvalidArgumentError(
                f"{topic!r} is a pattern: nothing is published to it",
                hint="listen to the topic itself; with '.' and a job's id behind it to one job",
            )
        mark = _mark(topic)
        async with self._lock:
            if self._listener is None:
                await self._listen()
        self._topics.setdefault(mark, (topic, []))[1].append(callback)

    async def remove(self, topic: str) -> None:
        """Forget the callbacks of a topic."""
        self._topics.pop(_mark(topic), None)
        if not self._topics:
            await self.close()

    async def _listen(self) -> None:
        channel = await self._session.run(_calls_find.emit_channel(self._session.app_id))
        listener = Listener(self._session, channel, self._hear)
        if not await listener.proven(10):
            await listener.close()
            raise ConnectionLostError(
                "notifications don't arrive on this connection",
                hint="LISTEN needs a session of its own, not a pooler in transaction mode",
            )
        self._listener = listener
        self._task = asyncio.create_task(self._deliver(), name="hotmesh events")

    def _hear(self, notice: str) -> None:
        if notice.partition(" ")[0] in self._topics:
            self._heard.put_nowait(notice)

    async def _deliver(self) -> None:
        while True:
            mark, job, field = (await self._heard.get()).split(" ", 2)
            topic, callbacks = self._topics.get(mark, ("", []))
            try:
                read = _calls_find.emit_read(self._session.app_id, int(job), field)
                events = await self._session.run(read)
                if topic in events:
                    for callback in tuple(callbacks):
                        await _call(callback, topic, _payload.opened(events[topic]))
            except HotMeshError as error:
                _LOG.warning("an event of topic %s was lost: %s", topic, error)

    async def close(self) -> None:
        """Stop listening."""
        listener, self._listener = self._listener, None
        task, self._task = self._task, None
        if listener is not None:
            await listener.close()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _mark(topic: str) -> str:
    text = _codec.text(topic, "topic", 500)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def _call(callback: Callback, topic: str, message: Any) -> None:
    try:
        answer = callback(topic, message)
        if inspect.isawaitable(answer):
            await answer
    except Exception:
        _LOG.exception("a callback of topic %s failed", topic)
