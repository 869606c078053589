"""JSON with places: as the standard library reads it, but each value knows its line and column."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from ._graph_node import DEPTH_LIMIT, Faults, Node, Place, Position, number_of, shortened

__all__ = ["read"]

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])", re.A)
_WORDS = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"(?:true|false|null)(?!\w)", re.A)


def read(text: str, file: str, faults: Faults) -> Node:
    """The root of a JSON document; what makes it unreadable is raised, the rest goes to `faults`."""
    reader = _Reader(text, file, faults)
    try:
        node, end = reader.value(reader.skip(0), ())
        end = reader.skip(end)
        if end < len(text):
            raise JSONDecodeError("there is more after the end of the document", text, end)
    except JSONDecodeError as error:
        place = reader.place(error.pos)
        raise faults.stop(place, (), f"this is no JSON: {error.msg}") from None
    return node


class _Reader:
    def __init__(self, text: str, file: str, faults: Faults) -> None:
        self._text = text
        self._file = file
        self._faults = faults
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def place(self, index: int) -> Place:
        line = bisect.bisect(self._lines, index)
        return Place(self._file, line, index - self._lines[line - 1] + 1)

    def skip(self, index: int) -> int:
        found = _SPACE.match(self._text, index)
        return found.end() if found else index

    def value(self, index: int, position: Position) -> tuple[Node, int]:
        place = self.place(index)
        sign = self._text[index : index + 1]
        if sign in ("{", "[") and len(position) >= DEPTH_LIMIT:
            raise JSONDecodeError(f"nested deeper than {DEPTH_LIMIT} levels", self._text, index)
        if sign == "{":
            return self._object(index, place, position)
        if sign == "[":
            return self._array(index, place, position)
        if sign == '"':
            text, end = self._string(index, place, position)
            return Node(text, place), end
        if found := _WORD.match(self._text, index):
            return Node(_WORDS[found[0]], place), found.end()
        if found := _NUMBER.match(self._text, index):
            number = number_of(found[0])
            if number is None:
                reason = f"no number of this size can be kept: {shortened(found[0])}"
                self._faults.add(place, position, reason)
            return Node(number, place, found[0]), found.end()
        raise JSONDecodeError("a value is missing", self._text, index)

    def _string(self, index: int, place: Place, position: Position) -> tuple[str, int]:
        text, end = scanstring(self._text, index + 1, True)
        self._faults.check_text(text, place, position)
        return text, end

    def _object(self, index: int, place: Place, position: Position) -> tuple[Node, int]:
        found: dict[str, tuple[Place, Node]] = {}
        for begin in self._items(index, "}"):
            if self._text[begin : begin + 1] != '"':
                raise JSONDecodeError("a key in double quotes is missing", self._text, begin)
            at = self.place(begin)
            key, end = self._string(begin, at, position)
            colon = self.skip(end)
            if self._text[colon : colon + 1] != ":":
                raise JSONDecodeError("a colon is missing after the key", self._text, colon)
            if key in found:
                first = found[key][0]
                self._faults.add(
                    at, (*position, key), f'the key "{key}" is in line {first.line} already'
                )
            node, self._end = self.value(self.skip(colon + 1), (*position, key))
            found.setdefault(key, (at, node))
        return Node(found, place), self._end

    def _array(self, index: int, place: Place, position: Position) -> tuple[Node, int]:
        found: list[Any] = []
        for begin in self._items(index, "]"):
            node, self._end = self.value(begin, (*position, len(found)))
            found.append(node)
        return Node(found, place), self._end

    _end = 0
    """Where the item that was read last ends."""

    def _items(self, index: int, close: str) -> Iterator[int]:
        """Where each item begins; in the end `_end` is behind the bracket that closes."""
        self._end = index = self.skip(index + 1)
        if self._text[index : index + 1] != close:
            while True:
                yield index
                self._end = index = self.skip(self._end)
                if self._text[index : index + 1] == close:
                    break
                if self._text[index : index + 1] != ",":
                    raise JSONDecodeError(f"a comma or {close} is missing", self._text, index)
                index = self.skip(index + 1)
        self._end = index + 1
