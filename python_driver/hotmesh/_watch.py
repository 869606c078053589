"""Watching entities: ordered and complete by the log, prompt by LISTEN, right without it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator

from . import _calls_entity, _codec
from ._calls import Call
from ._calls_entity import Change, Watch
from ._listen import Listener
from ._outcomes import Pace
from ._session import AsyncSession, SyncSession
from .errors import EntityVersionError

__all__ = ["Watching", "looked"]

_PAGE = 500
_RENEW_SECONDS = 30.0
_LOOK_SECONDS = 5.0


class Watching:
    """The watchers of one client; all share one connection that listens, as long as there are any."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._listener: Listener | None = None
        self._bells: dict[asyncio.Event, str] = {}

    async def changes(self, key: str, since: int) -> AsyncGenerator[Change, None]:
        """The changes of an entity after version `since`, for ever."""
        version = _codec.whole(since, "since", 0, 2**63 - 1)
        bell, pace, renewed = asyncio.Event(), Pace(), 0.0
        try:
            while True:
                if time.monotonic() - renewed > _RENEW_SECONDS:
                    renewed = time.monotonic()
                    self._join(bell, await self._session.run(self._watch(key)))
                bell.clear()
                found = await self._session.run(
                    _calls_entity.entity_history(self._session.app_id, key, version, _PAGE)
                )
                for change in found:
                    _check(key, version, change)
                    version = change.version
                    yield change
                if len(found) < _PAGE:
                    await self._wait(bell, pace.after(0.0, bool(found)))
        finally:
            await self._leave(bell)

    def _watch(self, key: str) -> Call[Watch]:
        return _calls_entity.entity_watch(self._session.app_id, key)

    def _join(self, bell: asyncio.Event, watch: Watch) -> None:
        self._bells[bell] = str(watch.id)
        if self._listener is None:
            self._listener = Listener(self._session, watch.channel, self._heard)

    def _heard(self, payload: str) -> None:
        """Ring for the job of that id; an empty text means that something may have been missed."""
        for bell, id in self._bells.items():
            if payload in ("", id):
                bell.set()

    async def _wait(self, bell: asyncio.Event, pause: float) -> None:
        works = self._listener is not None and self._listener.works
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(), _LOOK_SECONDS if works else pause)

    async def _leave(self, bell: asyncio.Event) -> None:
        self._bells.pop(bell, None)
        if not self._bells:
            await self.close()

    async def close(self) -> None:
        """Stop listening; who still watches goes on by looking."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()


def looked(session: SyncSession, key: str, since: int) -> Generator[Change, None, None]:
    """The changes of an entity after version `since`, for ever; the blocking twin only looks."""
    version, pace = _codec.whole(since, "since", 0, 2**63 - 1), Pace()
    while True:
        found = session.run(_calls_entity.entity_history(session.app_id, key, version, _PAGE))
        for change in found:
            _check(key, version, change)
            version = change.version
            yield change
        if len(found) < _PAGE:
            time.sleep(pace.after(0.0, bool(found)))


def _check(key: str, version: int, change: Change) -> None:
    if change.version != version + 1:
        raise EntityVersionError(
            f'versions {version + 1} to {change.version - 1} of the entity of job "{key}" are not in'
            " the log",
            hint=f"get the document as it is, and watch since={change.version}",
            job_id=key,
        )
