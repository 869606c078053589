"""A graph's document as it was written: values that know where they stand, and the faults in it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import GraphError

__all__ = ["DEPTH_LIMIT", "Faults", "Node", "Place", "Position", "dotted", "number_of"]

DEPTH_LIMIT = 100
"""Levels of lists and mappings in a document."""

_DIGITS_LIMIT = 400
_SHOWN = 60

Position = tuple["str | int", ...]
"""Where a value is in a document: keys and indices from the root."""


class Place(NamedTuple):
    """Where something is written; line and column begin at 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Node(NamedTuple):
    """A value: a scalar, a list of nodes, or a dict of (place of the key, node).

    `word` is what stands there of a number.
    """

    value: Any
    place: Place
    word: str = ""


def dotted(position: Sequence[str | int]) -> str:
    """The position as faults name it: `app.graphs[0].activities.t1`."""
    return re.sub(r"\.\[", "[", ".".join(f"[{x}]" if isinstance(x, int) else x for x in position))


class Faults:
    """The faults of one document, in the order in which they were met."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []

    def add(self, place: Place, position: Sequence[str | int], reason: str) -> None:
        """One more; the same fault of the same place counts once, however often it is referred to."""
        fault = {"path": dotted(position), "reason": reason, **place._asdict()}
        if fault not in self._found[-100:]:
            self._found.append(fault)

    def stop(self, place: Place, position: Sequence[str | int], reason: str) -> GraphError:
        """The exception for a fault after which nothing can be read."""
        self.add(place, position, reason)
        return GraphError.of(self._found)

    def raise_any(self) -> None:
        """Raise :class:`GraphError` with all of them, if there is one."""
        if self._found:
            raise GraphError.of(self._found)

    def check_text(self, text: str, place: Place, position: Sequence[str | int]) -> None:
        """What Postgres cannot store is a fault."""
        if "\x00" in text:
            self.add(place, position, "a text with the character NUL, that Postgres cannot store")
        elif not text.isascii() and re.search("[\ud800-\udfff]", text):
            self.add(place, position, "a text with half of a surrogate pair")


def number_of(word: str) -> int | float | None:
    """The number that a decimal literal says; None for one that JSON could not carry."""
    if len(word) > _DIGITS_LIMIT:
        return None
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    number = float(word)
    return number if math.isfinite(number) else None


def shortened(word: str) -> str:
    """The word, or its beginning."""
    return word if len(word) <= _SHOWN else f"{word[:_SHOWN]}…"
