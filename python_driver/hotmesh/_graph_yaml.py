"""YAML with places, read for what its author meant.

The parser is PyYAML's; what words mean is decided here. Where YAML 1.1 and 1.2 read a word in two
ways, or text and number are both likely, the word is refused with its place: quotes settle it.
Nothing in a document makes Python objects: tags are refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from ._graph_node import DEPTH_LIMIT, Faults, Node, Place, Position, number_of, shortened
from .errors import HotMeshError

__all__ = ["place_of", "read"]

MERGED_LIMIT = 100_000
"""Keys that `<<` may bring into one document."""

_WORDS = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)  # type: ignore[arg-type]
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)  # type: ignore[arg-type]

_DECIMAL = re.compile(
    r"-?(?:0|[1-9][0-9]*)|-?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
)

_REFERENCE = re.compile(r"\$?\w[\w-]*(?:\.[^\s.]+)+")

_TRAPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?:yes|no|on|off)", re.I),
        "a boolean for YAML 1.1, a text for YAML 1.2: write true, false, or '{word}' in quotes",
    ),
    (
        re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?"),
        "a number or a text, octal or not: write '{word}' in quotes, or a number without the zero",
    ),
    (
        re.compile(r"[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[oO][0-7_]+|[-+]?0[bB][01_]+"),
        "a number or a text, as one reads it: write a decimal number, or '{word}' in quotes",
    ),
    (
        re.compile(r"[-+]?[0-9][0-9,]*_[0-9_]*(?:\.[0-9_]*)?"),
        "a number for YAML 1.1, a text for YAML 1.2: leave out the _, or write '{word}' in quotes",
    ),
    (
        re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+"),
        "a number or a name: write out the number, or '{word}' in quotes",
    ),
    (
        re.compile(r"\+[0-9.]+(?:[eE][-+]?[0-9]+)?"),
        "a number loses its plus: leave it out, or write '{word}' in quotes",
    ),
    (
        re.compile(r"[-+]?\.(?:inf|nan)", re.I),
        "JSON has no such number: write '{word}' in quotes if it is a text",
    ),
)


def read(text: str, file: str, faults: Faults) -> Node:
    """The root of a YAML document; what makes it unreadable is raised, the rest goes to `faults`."""
    yaml = _library()
    try:
        return _Reader(yaml, text, file, faults).document()
    except yaml.reader.ReaderError as error:
        sign = error.character if isinstance(error.character, int) else ord(error.character[:1])
        raise faults.stop(
            place_of(text, error.position, file),
            (),
            f"a character that YAML does not allow: U+{sign:04X}",
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        raise faults.stop(place, (), _told(error, text)) from None


def _library() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise HotMeshError(
            "a graph in YAML needs the library PyYAML",
            hint="pip install 'hotmesh[yaml]', or write the graph as JSON",
        ) from None


def place_of(text: str, index: int, file: str) -> Place:
    """The place of a character."""
    before = text[:index]
    return Place(file, before.count("\n") + 1, index - before.rfind("\n"))


def _told(error: Any, text: str) -> str:
    """What the parser says, and what it probably is."""
    mark = error.problem_mark
    if mark is not None and text.splitlines()[mark.line : mark.line + 1] != []:
        line = text.splitlines()[mark.line]
        if line[mark.column : mark.column + 1] == "\t":
            return "this is no YAML: a tab; lines are indented by spaces"
    problem = str(error.problem or error.context or "it cannot be read")
    if error.problem and error.context and error.context_mark:
        problem += f", {error.context} that begins in line {error.context_mark.line + 1}"
    for sign, advice in _ADVICE.items():
        if sign in problem:
            return f"this is no YAML: {problem}; {advice}"
    return f"this is no YAML: {problem}"


_ADVICE = {
    "unknown escape": "a text in single quotes has no escapes",
    "mapping values are not allowed": "a text with a colon and a space needs quotes",
    "cannot start any token": "a text that begins with * & ! % @ or ` needs quotes",
    "alphabetic or numeric": "a text that begins with * & ! % @ or ` needs quotes",
}


class _Reader:
    """Reads the events of one document, never more of them than it needs."""

    def __init__(self, yaml: Any, text: str, file: str, faults: Faults) -> None:
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._yaml = yaml
        self._file = file
        self._faults = faults
        self._anchors: dict[str, Node | None] = {}
        self._merged = 0
        self._makers: dict[type, Callable[[Any, Position], Any]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.SequenceStartEvent: self._list,
            yaml.MappingStartEvent: self._mapping,
        }

    def document(self) -> Node:
        begin = next(self._events)
        while isinstance(begin, self._yaml.StreamStartEvent):
            begin = next(self._events)
        if isinstance(begin, self._yaml.StreamEndEvent):
            raise self._faults.stop(self._place(begin), (), "there is no document in it")
        node = self._node(next(self._events), ())
        next(self._events)
        after = next(self._events)
        if not isinstance(after, self._yaml.StreamEndEvent):
            raise self._faults.stop(self._place(after), (), "a second document begins here")
        return node

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, position: Position) -> Node:
        place = self._place(event)
        if isinstance(event, self._yaml.AliasEvent):
            return self._alias(event.anchor, place, position)
        if len(position) > DEPTH_LIMIT:
            reason = f"nested deeper than {DEPTH_LIMIT} levels"
            raise self._faults.stop(place, position[:5], reason)
        if event.tag is not None:
            reason = f"tags are not taken: {shortened(event.tag)}; a graph is JSON, no more"
            self._faults.add(place, position, reason)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        value = self._makers[type(event)](event, position)
        node = value if isinstance(value, Node) else Node(value, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, name: str, place: Place, position: Position) -> Node:
        if name not in self._anchors:
            reason = (
                f"nothing before it has the anchor &{name}; a text that begins with * needs quotes"
            )
            raise self._faults.stop(place, position, reason)
        node = self._anchors[name]
        if node is None:
            raise self._faults.stop(place, position, f"the alias *{name} stands inside of itself")
        return node

    def _list(self, event: Any, position: Position) -> list[Node]:
        found: list[Node] = []
        while not isinstance(item := next(self._events), self._yaml.SequenceEndEvent):
            found.append(self._node(item, (*position, len(found))))
        return found

    def _mapping(self, event: Any, position: Position) -> dict[str, tuple[Place, Node]]:
        found: dict[str, tuple[Place, Node]] = {}
        merges: list[Node] = []
        while not isinstance(item := next(self._events), self._yaml.MappingEndEvent):
            at = self._place(item)
            key = self._key(item, at, position)
            value = next(self._events)
            if event.flow_style and self._is_reference(key, value):
                reason = f"without quotes this is a mapping: a reference is written '{{{key}}}'"
                self._faults.add(at, position, reason)
            node = self._node(value, (*position, key))
            if key == "<<" and item.implicit[0]:
                merges.append(node)
            elif key in found:
                reason = f'the key "{shortened(key)}" is in line {found[key][0].line} already'
                self._faults.add(at, (*position, key), reason)
            else:
                found[key] = (at, node)
        for node in merges:
            self._merge(found, node, position)
        return found

    def _is_reference(self, key: str, value: Any) -> bool:
        """Whether this is `{a1.output.data.x}`, that lacks its quotes: a key without a value."""
        is_bare = isinstance(value, self._yaml.ScalarEvent) and value.implicit[0]
        return is_bare and value.value == "" and _REFERENCE.fullmatch(key) is not None

    def _key(self, event: Any, place: Place, position: Position) -> str:
        """The key as it is written: in JSON every key is a text, so `no` and `1.10` are what they are."""
        if not isinstance(event, self._yaml.ScalarEvent):
            reason = "a key must be a text; {…} and [ ] as text need quotes"
            raise self._faults.stop(place, position, reason)
        if event.tag is not None:
            self._faults.add(place, position, f"tags are not taken: {shortened(event.tag)}")
        if event.anchor is not None:
            self._anchors[event.anchor] = Node(event.value, place)
        self._faults.check_text(event.value, place, position)
        return str(event.value)

    def _merge(self, into: dict[str, tuple[Place, Node]], node: Node, position: Position) -> None:
        """`<<`: what the mapping does not say itself."""
        for each in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(each.value, dict):
                self._faults.add(each.place, position, "<< takes a mapping or a list of mappings")
                continue
            self._merged += len(each.value)
            if self._merged > MERGED_LIMIT:
                reason = f"<< brings more than {MERGED_LIMIT:,} keys"
                raise self._faults.stop(node.place, position, reason)
            for key, item in each.value.items():
                into.setdefault(key, item)

    def _scalar(self, event: Any, position: Position) -> Any:
        word: str = event.value
        place = self._place(event)
        if not event.implicit[0]:  # in quotes, or a block
            self._faults.check_text(word, place, position)
            return word
        if word in _WORDS:
            return _WORDS[word]
        if _DECIMAL.fullmatch(word):
            number = number_of(word)
            if number is None:
                reason = f"no number of this size can be kept: {shortened(word)}"
                self._faults.add(place, position, reason)
            return Node(number, place, word)
        for pattern, reason in _TRAPS:
            if pattern.fullmatch(word):
                told = f"{shortened(word)} without quotes is {reason.format(word=shortened(word))}"
                self._faults.add(place, position, told)
                break
        self._faults.check_text(word, place, position)
        return word
