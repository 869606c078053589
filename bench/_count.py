"""Counts what the driver sends.

The count is taken at psycopg: each `execute` of a cursor is one round trip, as every connection of the
driver is in autocommit mode. The statement that is executed for the sixth time on a connection costs
one more, once, when psycopg prepares it. The bench's own statements go through `Aside` or happen
outside of a recording.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

__all__ = ["Aside", "Tape"]

_CURSOR: Any = psycopg.Cursor
_ASYNC_CURSOR: Any = psycopg.AsyncCursor
_SYNC: Any = psycopg.Cursor.execute
_ASYNC: Any = psycopg.AsyncCursor.execute


class Aside(psycopg.Cursor[Any]):
    """A cursor that is never counted."""

    execute = _SYNC


class Tape:
    """The statements of one worker; its window goes from the first claim to the last outcome.

    Outside of the window are the worker's connections, LISTEN, its check of the engine, the turn by
    which it learns whether it may work, the one that finds nothing more, and its farewell.
    """

    def __init__(self, expect: int, position: Callable[[], str]) -> None:
        self.inside: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        self.done = asyncio.Event()
        self.begin = self.end = ""
        self.began = self.ended = 0.0
        self._expect = expect
        self._position = position
        self._outcomes = 0

    @property
    def seconds(self) -> float:
        """How long the window was open."""
        return self.ended - self.began

    def before(self, label: str, params: Any) -> None:
        """A statement is about to be sent."""
        claims = label == "turn" and '"workflow"' in params["want"]
        if claims and self._expect and not self.began:
            self.begin = self._position()
            self.began = time.perf_counter()
        opened = self.began and not self.ended and label not in ("listen", "notify")
        (self.inside if opened else self.outside)[label] += 1

    def after(self, label: str, params: Any) -> None:
        """It was answered."""
        if label != "turn" or not self._expect:
            return
        self._outcomes += params["reports"].count('"outcome":')
        if self._outcomes >= self._expect and not self.ended:
            self.ended = time.perf_counter()
            self.end = self._position()
            self.done.set()

    @contextmanager
    def recording(self) -> Iterator[Tape]:
        """Count every statement of this process."""

        def execute(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
            label = _label(query)
            self.before(label, params)
            answer = _SYNC(cursor, query, params, **options)
            self.after(label, params)
            return answer

        async def execute_async(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
            label = _label(query)
            self.before(label, params)
            answer = await _ASYNC(cursor, query, params, **options)
            self.after(label, params)
            return answer

        _CURSOR.execute = execute
        _ASYNC_CURSOR.execute = execute_async
        try:
            yield self
        finally:
            _CURSOR.execute = _SYNC
            _ASYNC_CURSOR.execute = _ASYNC


def _label(query: Any) -> str:
    """The door that a statement calls, or its first word."""
    text = query if isinstance(query, str) else query.as_string(None)
    called = re.search(r"hotmesh\.(\w+)\(", text)
    return called.group(1) if called else text.split(None, 1)[0].lower()
