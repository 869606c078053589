"""A graph from a file or a text: YAML or JSON, `$ref` resolved, each value with its place.

What comes out is plain JSON for `hotmesh.graph_deploy`; what it means is the database's business. The
faults that the database finds have a path in the document; :meth:`GraphFile.located` adds where
in which file that is.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _codec, _graph_json, _graph_yaml
from ._graph_node import DEPTH_LIMIT, Faults, Node, Place, Position, dotted
from .errors import GraphError, InvalidArgumentError, PayloadTooLargeError

__all__ = ["GraphFile", "load"]

TEXT = "<text>"
"""The file's name where there is no file."""

FILE_LIMIT = 4 * 1024 * 1024
"""Bytes of one file."""

VALUES_LIMIT = 200_000
"""Values of a document with all aliases and references in place."""

_LONE = "app.graphs[0]"
"""Where the database sees a graph that was written without its app."""

_SEPARATORS = re.compile(r"[][./\"']+")


class GraphFile:
    """A document, where it came from, and where each value of it is written."""

    def __init__(self, name: str, document: Any, places: Mapping[Position, Place]) -> None:
        self.name = name
        self.document = document
        self._places = {_normal(dotted(position)): place for position, place in places.items()}

    def text(self) -> str:
        """The document as JSON text."""
        return _codec.dumps(self.document, "the document", FILE_LIMIT)

    def place(self, path: str) -> Place | None:
        """Where the value of this path, or what is nearest around it, is written."""
        found = _normal(path)
        while found not in self._places:
            if not found:
                return None
            found = found.rpartition(".")[0]
        return self._places[found]

    def located(self, error: GraphError) -> GraphError:
        """The same faults by the paths of this document, each with its file, line and column."""
        located = GraphError.of([self._located(fault) for fault in error.faults])
        located.__cause__ = error.__cause__
        return located

    def _located(self, fault: dict[str, Any]) -> dict[str, Any]:
        if "line" in fault:
            return fault
        path = str(fault.get("path", ""))
        if isinstance(self.document, dict) and "app" not in self.document:
            path = path.removeprefix(_LONE).removeprefix(".")
        place = self.place(path)
        return {**fault, "path": path, **(place._asdict() if place else {})}


def _normal(path: str) -> str:
    """One spelling of a path for all: `a.b[0]`, `a["b"][0]` and `/a/b/0` are `a.b.0`."""
    return _SEPARATORS.sub(".", path).strip(".$")


def load(source: object) -> GraphFile:
    """Read a graph.

    Args:
        source: a path; or the text itself, if it has more than one line, or begins with `app:` or
            `{`; or the document as a dict.

    Raises:
        GraphError: it cannot be read as YAML or JSON, or not in one way only; `faults` says where.
        InvalidArgumentError: there is no such file, or it is too large.
    """
    if isinstance(source, GraphFile):
        return source
    if isinstance(source, Mapping):
        return GraphFile("a dict", dict(source), {})
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise InvalidArgumentError(
            f"a graph is a path, a text or a dict, not a {kind}", hint='deploy("./order.yaml")'
        )
    faults = Faults()
    if isinstance(source, str) and _is_text(source):
        root, folder, name = _parsed(source, TEXT, faults), None, TEXT
    else:
        name = os.path.normpath(source) if os.fspath(source) else ""
        root, folder = _read(Path(name), name, faults), Path(name).parent
    if not isinstance(root.value, dict):
        raise faults.stop(root.place, (), "a graph is a mapping: app:, or activities:")
    expansion = _Expansion(root, name, folder, faults)
    document = expansion.document()
    faults.raise_any()
    return GraphFile(name, document, expansion.places)


def _is_text(source: str) -> bool:
    return "\n" in source or source.lstrip().startswith(("app:", "{"))


def _read(path: Path, name: str, faults: Faults) -> Node:
    """The root of a file's document."""
    if not _is_file(path):
        shown = name if len(name) < 200 else f"{name[:200]}…"
        raise InvalidArgumentError(
            f"there is no file {shown!r}", hint="a path is relative to the working directory"
        )
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise PayloadTooLargeError(f"{name} has more than {FILE_LIMIT:,} bytes")
        found = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{name} cannot be read: {error.strerror or error}") from error
    try:
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        column = error.start - found.rfind(b"\n", 0, error.start)
        raise faults.stop(Place(name, line, column), (), "this is no UTF-8") from None
    return _parsed(text, name, faults)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _parsed(text: str, name: str, faults: Faults) -> Node:
    if len(text) > FILE_LIMIT:
        raise PayloadTooLargeError(f"the document has more than {FILE_LIMIT:,} characters")
    if not text.strip():
        raise faults.stop(Place(name, 1, 1), (), "there is no document in it")
    if half := re.search("[\ud800-\udfff]", "" if text.isascii() else text):
        place = _graph_yaml.place_of(text, half.start(), name)
        raise faults.stop(place, (), "half of a surrogate pair")
    if name.endswith(".json") or re.match(r'\s*\{\s*["}]', text):
        return _graph_json.read(text, name, faults)
    return _graph_yaml.read(text, name, faults)


class _Expansion:
    """From nodes to plain values: aliases and references in place, and a place for each path."""

    def __init__(self, root: Node, name: str, folder: Path | None, faults: Faults) -> None:
        self.places: dict[Position, Place] = {}
        self._files: dict[str, Node] = {name: root}
        self._name = name
        self._folder = folder
        self._faults = faults
        self._left = VALUES_LIMIT

    def document(self) -> Any:
        root = self._files[self._name]
        return self._value(root, root.place, (), (f"{self._name}#",))

    def _value(self, node: Node, place: Place, position: Position, above: tuple[str, ...]) -> Any:
        """A node's value; `above` are the references that led here."""
        self._left -= 1
        if self._left < 0:
            reason = f"with its aliases and references the document has more than {VALUES_LIMIT:,} values"
            raise self._faults.stop(place, position[:5], reason)
        if len(position) > DEPTH_LIMIT:
            reason = f"nested deeper than {DEPTH_LIMIT} levels"
            raise self._faults.stop(place, position[:5], reason)
        self.places[position] = place
        if isinstance(node.value, list):
            return [
                self._value(item, item.place, (*position, index), above)
                for index, item in enumerate(node.value)
            ]
        if not isinstance(node.value, dict):
            return self._scalar(node, position)
        if "$ref" in node.value:
            return self._referred(node, position, above)
        return {
            key: self._value(item, at, (*position, key), above)
            for key, (at, item) in node.value.items()
        }

    def _scalar(self, node: Node, position: Position) -> Any:
        """The names of apps and versions are texts; `1` can only be '1', `1.10` can be two things."""
        if position not in (("app", "id"), ("app", "version")) or isinstance(node.value, str):
            return node.value
        if isinstance(node.value, int) and str(node.value) == node.word:
            return node.word
        word = node.word or _codec.dumps(node.value, "")
        reason = f"{position[-1]} is a text: write '{word}' in quotes"
        self._faults.add(node.place, position, reason)
        return node.word

    # --- references ------------------------------------------------------------------------------

    def _referred(self, node: Node, position: Position, above: tuple[str, ...]) -> Any:
        at, target = node.value["$ref"]
        if not isinstance(target.value, str):
            self._faults.add(at, position, "$ref is a text: './other.yaml'")
            return None
        name, found = self._target(target.value, target.place, position)
        if name in above:
            chain = " -> ".join([*above[above.index(name) :], name])
            raise self._faults.stop(at, position, f"$ref leads back to itself: {chain}")
        value = self._value(found, found.place, position, (*above, name))
        more = {key: item for key, item in node.value.items() if key != "$ref"}
        if more and not isinstance(value, dict):
            self._faults.add(at, position, "beside this $ref nothing may stand: it is no mapping")
        elif more:
            for key, (where, item) in more.items():
                value[key] = self._value(item, where, (*position, key), above)
        return value

    def _target(self, ref: str, place: Place, position: Position) -> tuple[str, Node]:
        """What a reference names: its full name, and the node."""
        path, _, pointer = ref.partition("#")
        name = self._file_of(path, place, position) if path else place.file
        try:
            node = self._files.get(name) or _read(Path(name), name, self._faults)
        except InvalidArgumentError as error:
            if isinstance(error, GraphError):
                raise
            raise self._faults.stop(place, position, f"$ref: {error}") from error
        self._files[name] = node
        for part in pointer.split("/")[1:]:
            key = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
            below = _below(node, key)
            if below is None:
                raise self._faults.stop(place, position, f"$ref: there is no {pointer} in {name}")
            node = below
        return f"{name}#{pointer}", node

    def _file_of(self, path: str, place: Place, position: Position) -> str:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", path):
            reason = f"$ref names files, not addresses: {path}"
        elif path.startswith(("/", "\\", "~")):
            reason = f"$ref is relative to the file that it stands in: {path}"
        elif self._folder is None:
            reason = "$ref to a file needs a file that it stands in: deploy the path, not the text"
        else:
            return os.path.normpath(Path(place.file).parent / path)
        raise self._faults.stop(place, position, reason)


def _below(node: Node, key: str) -> Node | None:
    if isinstance(node.value, dict) and key in node.value:
        found: Node = node.value[key][1]
        return found
    if isinstance(node.value, list) and key.isdecimal() and int(key) < len(node.value):
        item: Node = node.value[int(key)]
        return item
    return None
