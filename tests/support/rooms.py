"""The rooms of sql/ as data: halves, functions, and every SQL expression inside a body."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pglast
from pglast import ast, enums

from support.engine import room_files

STATE, BEHAVIOUR = "--@ state", "--@ behaviour"
Json = dict[str, Any]


def walk(node: Any) -> Iterator[ast.Node]:
    """A node of a pglast tree and everything below it."""
    if isinstance(node, (tuple, list)):
        for item in node:
            yield from walk(item)
    elif isinstance(node, ast.Node):
        yield node
        for slot in node:
            yield from walk(getattr(node, slot))


def parse(text: str) -> list[ast.Node]:
    """The statements of a text."""
    return [raw.stmt for raw in pglast.parse_sql(text) if raw.stmt is not None]


def name_of(parts: Any) -> tuple[str, str]:
    """(schema, name) of a list of name parts; the schema is '' when it is not written."""
    names = [str(part.sval) for part in parts or () if isinstance(part, ast.String)]
    return (names[-2] if len(names) > 1 else "", names[-1] if names else "")


def _parseable(text: str) -> str:
    """pglast's PL/pgSQL parser knows no schema but public, and no array of a row type."""
    text = re.sub(r"\bvariadic (?=\w+ jsonb\[\])", "", text)  # nor that jsonb[] is an array
    return re.sub(r"\bpublic\.(\w+)\[\]", r"jsonb[]", re.sub(r"\bhotmesh\.", "public.", text))


@dataclass
class Function:
    """One `create function`, and what its body does."""

    room: Room
    node: ast.CreateFunctionStmt
    text: str
    line: int

    @functools.cached_property
    def name(self) -> str:
        return name_of(self.node.funcname)[1]

    @property
    def is_door(self) -> bool:
        return not self.name.startswith("_")

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        return {option.defname: option.arg for option in self.node.options or ()}

    @property
    def language(self) -> str:
        return str(self.options["language"].sval)

    @functools.cached_property
    def body(self) -> str:
        parts = self.options.get("as") or ()
        return str(parts[0].sval) if parts else self.text

    @property
    def is_trigger(self) -> bool:
        returned = self.node.returnType
        return returned is not None and name_of(returned.names)[1] == "trigger"

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """(name, type) of the parameters that a caller may give."""
        given = {
            enums.FunctionParameterMode.FUNC_PARAM_IN,
            enums.FunctionParameterMode.FUNC_PARAM_DEFAULT,
            enums.FunctionParameterMode.FUNC_PARAM_VARIADIC,
        }
        return [
            (parameter.name or "", name_of(parameter.argType.names)[1])
            for parameter in self.node.parameters or ()
            if parameter.mode in given
        ]

    @functools.cached_property
    def tree(self) -> Json:
        """The PL/pgSQL tree; empty for other languages."""
        if self.language != "plpgsql":
            return {}
        [tree] = pglast.parse_plpgsql(_parseable(self.text))
        return dict(tree)

    def steps(self, *kinds: str) -> Iterator[Json]:
        """PL/pgSQL nodes of these kinds, such as 'stmt_raise'."""
        wanted = {f"PLpgSQL_{kind}" for kind in kinds}

        def search(node: Any) -> Iterator[Json]:
            if isinstance(node, list):
                for item in node:
                    yield from search(item)
            elif isinstance(node, dict):
                for key, value in node.items():
                    if key in wanted:
                        yield value
                    yield from search(value)

        return search(self.tree)

    @functools.cached_property
    def statements(self) -> list[ast.Node]:
        """Every SQL statement or expression of the body, parsed, with hotmesh as it was."""
        if self.language == "sql":
            if sql_body := self.node.sql_body:
                return list(sql_body) if isinstance(sql_body, tuple) else [sql_body]
            return parse(self.body)
        found = []
        for expression in self.steps("expr"):
            text = re.sub(r"\bpublic\.", "hotmesh.", expression["query"])
            mode = expression.get("parseMode", 0)
            if mode >= 3:
                text = text.split(":=", 1)[1] if ":=" in text else text.split("=", 1)[1]
            if mode >= 2:
                text = f"select {text}"
            found += parse(text)
        return found

    def nodes(self) -> Iterator[ast.Node]:
        return walk(self.statements)

    def calls(self) -> Iterator[tuple[str, str]]:
        """(schema, name) of every function that the body calls."""
        for node in self.nodes():
            if isinstance(node, ast.FuncCall):
                yield name_of(node.funcname)

    def at(self, step: Json | None = None) -> str:
        line = self.line
        if step and step.get("lineno"):
            line += self.text[: self.text.index("$$")].count("\n") + step["lineno"] - 1
        return f"{self.room.file}:{line} {self.name}"


@dataclass
class Room:
    """One file of sql/."""

    file: str
    text: str
    halves: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        before, _, rest = self.text.partition(f"\n{STATE}\n")
        state, _, behaviour = rest.partition(f"\n{BEHAVIOUR}\n")
        self.halves = {"header": before, "state": state, "behaviour": behaviour}

    @property
    def number(self) -> int:
        return int(self.file[:2])

    @property
    def noun(self) -> str:
        return self.file[3:].removesuffix(".sql")

    def statements(self, half: str) -> list[tuple[ast.Node, str, int]]:
        """(statement, its text, its line in the file) of a half."""
        text = self.halves[half]
        offset = self.text.index(text) if text else 0
        found = []
        for raw in pglast.parse_sql(text):
            start = raw.stmt_location or 0
            end = start + raw.stmt_len if raw.stmt_len else len(text)
            chunk = text[start:end]
            bare = re.sub(r"\A(\s*(--[^\n]*)?\n)*", "", chunk)
            line = self.text[: offset + end - len(bare)].count("\n") + 1
            if raw.stmt is not None:
                found.append((raw.stmt, bare, line))
        return found

    @functools.cached_property
    def parsed(self) -> dict[str, list[tuple[ast.Node, str, int]]]:
        return {half: self.statements(half) for half in ("state", "behaviour")}

    @functools.cached_property
    def functions(self) -> list[Function]:
        return [
            Function(self, node, text, line)
            for half in self.parsed.values()
            for node, text, line in half
            if isinstance(node, ast.CreateFunctionStmt)
        ]

    @functools.cached_property
    def tables(self) -> set[str]:
        return {
            str(node.relation.relname)
            for node, _, _ in self.parsed["state"]
            if isinstance(node, ast.CreateStmt) and node.relation is not None
        }


@functools.cache
def rooms() -> tuple[Room, ...]:
    """The rooms as they are, parsed once."""
    return tuple(Room(file.name, file.read_text()) for file in room_files())


def snippet(file: str, behaviour: str = "", state: str = "", header: str = "-- a room") -> Room:
    """A small room for a negative control: a rule that cannot fail is worth nothing."""
    return Room(file, f"{header}\n\n{STATE}\n{state}\n{BEHAVIOUR}\n{behaviour}\n")


@dataclass(frozen=True)
class Raise:
    """One `raise exception`: where, with which code, and what else it says."""

    at: str
    function: Function
    code: str | None
    tells_more: bool


def _literal(expression: str) -> str | None:
    nodes = list(walk(parse(f"select {expression}")))
    bare = [ast.SelectStmt, ast.ResTarget, ast.A_Const, ast.String]
    return str(nodes[-1].sval) if [type(node) for node in nodes] == bare else None  # type: ignore[attr-defined]


ERROR, ERRCODE, DETAIL, HINT = 21, 0, 2, 3  # elog.h and plpgsql.h


def raises(function: Function) -> Iterator[Raise]:
    """Every raise of an error in the body; `raise` alone, which re-raises, is none."""
    for step in function.steps("stmt_raise"):
        options = [option["PLpgSQL_raise_option"] for option in step.get("options", [])]
        if step.get("elog_level") != ERROR or not (
            options or step.get("message") or step.get("condname")
        ):
            continue
        by_type = {option.get("opt_type", 0): option["expr"] for option in options}
        code = step.get("condname")
        if ERRCODE in by_type:
            code = _literal(by_type[ERRCODE]["PLpgSQL_expr"]["query"])
        yield Raise(function.at(step), function, code, DETAIL in by_type or HINT in by_type)
