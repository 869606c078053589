"""Async generators of a workflow: finished where each replay finishes them, or at its eviction.

A generator that is left in the midst hands its ``finally`` blocks to the loop whenever its last
reference goes. Where the code drops it, that is the same place in each replay. Where the cyclic
collector drops it, the hour is not ours to choose, so the loop has to know when that is at work.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any, Protocol

__all__ = ["AsyncGenerators", "collecting", "watch_collector"]


class Note(Protocol):
    """How the loop is told what went wrong in a generator."""

    def __call__(
        self, message: str, error: BaseException | None = None, **more: object
    ) -> None: ...


class AsyncGenerators:
    """Those that one workflow has begun and that are not finished."""

    __slots__ = ("_begun", "_kept")

    def __init__(self) -> None:
        self._begun: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None
        self._kept: list[AsyncGenerator[Any, Any]] = []

    def __bool__(self) -> bool:
        """Whether there are any that may have to be finished."""
        return bool(self._kept or self._begun)

    def begin(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Remember a generator from its first step on."""
        if self._begun is None:
            self._begun = weakref.WeakSet()
            watch_collector()
        self._begun.add(agen)

    def keep(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Hold a generator until the workflow is evicted."""
        self._kept.append(agen)

    def close(self, note: Note) -> None:
        """Run the ``finally`` blocks of all of them."""
        agens, self._kept = self._kept, []
        if self._begun is not None:
            agens.extend(self._begun)
            self._begun.clear()
        for agen in agens:
            close(agen, note)


def close(agen: AsyncGenerator[Any, Any], note: Note) -> None:
    """Run the ``finally`` blocks of `agen`; what it raises, or that it awaits, is noted."""
    closer = agen.aclose()
    try:
        closer.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    except BaseException as error:
        note("an async generator raised while its workflow was evicted", error)
        return
    note("an async generator awaited while its workflow was evicted", asyncgen=agen)
    try:
        closer.close()
    except BaseException as error:
        note("an async generator raised while its workflow was evicted", error)


# --- the cyclic collector ------------------------------------------------------------------------

_collections_under_way: set[int] = set()


def collecting() -> bool:
    """Return whether the cyclic collector is at work in this thread."""
    return threading.get_ident() in _collections_under_way


def _note_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "start":
        _collections_under_way.add(threading.get_ident())
    else:
        _collections_under_way.discard(threading.get_ident())


def watch_collector() -> None:
    """Learn from now on when the cyclic collector is at work."""
    if _note_collection not in gc.callbacks:
        gc.callbacks.append(_note_collection)
