"""The driver is thin: its front steps hold its SQL, and that SQL only calls doors."""

from __future__ import annotations

import ast as python
import re
from collections.abc import Iterator
from pathlib import Path

import pglast
import psycopg
import pytest
from pglast import ast

from support.catalogue import error_of
from support.cluster import ROOT
from support.rooms import name_of, walk

PACKAGE = ROOT / "python_driver/hotmesh"
FRONT_STEPS = (
    "_calls.py",
    "_calls_entity.py",
    "_calls_find.py",
    "_calls_graph.py",
    "_calls_order.py",
    "_calls_schedule.py",
    "_calls_view.py",
)
# They act before there is a door, or look whether doors can work.
INSTALLERS = {"install.py", "embedded.py", "_health.py"}
# What has no door and no parameter: the session itself.
ALSO: dict[str, tuple[type[ast.Node], ...]] = {
    "_listen.py": (ast.ListenStmt, ast.UnlistenStmt, ast.NotifyStmt),
    "_lent.py": (
        *(ast.ClosePortalStmt, ast.VariableSetStmt, ast.DeallocateStmt, ast.UnlistenStmt),
        *(ast.SelectStmt, ast.DiscardStmt),
    ),
}
CONVERSIONS = {"make_interval"}
SQL_ONLY = {
    # The driver sends the same commands through entity_apply.
    *("entity_set", "entity_merge", "entity_append", "entity_prepend", "entity_remove"),
    *("entity_increment", "entity_toggle", "entity_set_if_not_exists", "entity_delete"),
}


def _without_parameters(text: str, value: str = "null") -> str:
    return re.sub(r"%\(\w+\)s|%s", value, text)


def _text(node: python.AST) -> str | None:
    """A string, or an f-string with x in its gaps."""
    if isinstance(node, python.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, python.JoinedStr):
        return "".join(_text(part) or "x" for part in node.values)
    return None


def _docstrings(tree: python.AST) -> set[int]:
    owners = (python.Module, python.ClassDef, python.FunctionDef, python.AsyncFunctionDef)
    return {
        id(node.value)
        for owner in python.walk(tree)
        if isinstance(owner, owners)
        for node in owner.body
        if isinstance(node, python.Expr)
    }


def sql_texts(source: str) -> Iterator[tuple[int, str, list[ast.Node]]]:
    """(line, text, statements) of every string that Postgres could run; single words are words."""
    tree = python.parse(source)
    docstrings = _docstrings(tree)
    for node in python.walk(tree):
        text = _text(node)
        if text is None or id(node) in docstrings or len(text.split()) < 2:
            continue
        try:
            parsed = pglast.parse_sql(re.sub(r"\{\w*\}", "x", _without_parameters(text)))
        except pglast.parser.ParseError:
            continue
        if parsed:
            line: int = getattr(node, "lineno", 0)
            yield line, text, [raw.stmt for raw in parsed if raw.stmt is not None]


def complaint(statement: ast.Node) -> str | None:
    """Why a statement is more than `select … from hotmesh.door(name => …)`; None if it is not."""
    if not isinstance(statement, ast.SelectStmt):
        return f"is a {type(statement).__name__}"
    source = statement.fromClause or ()
    if len(source) != 1 or not isinstance(source[0], ast.RangeFunction):
        return "does not read from one function"
    [[door, *_], *_] = source[0].functions or ()
    for node in walk(statement):
        if isinstance(node, (ast.RangeVar, ast.SubLink, ast.JoinExpr)):
            return f"has a {type(node).__name__}"
        if isinstance(node, ast.FuncCall) and node is not door:
            called = name_of(node.funcname)[1]
            if called not in CONVERSIONS:
                return f"calls {called}"
    schema, name = name_of(door.funcname)
    if schema != "hotmesh" or name.startswith("_"):
        return f"{schema}.{name} is no door"
    if not all(isinstance(argument, ast.NamedArgExpr) for argument in door.args or ()):
        return "has an argument without a name"
    if statement.whereClause or statement.sortClause or statement.withClause:
        return "does more than call"
    return None


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def calls() -> list[tuple[int, str, list[ast.Node]]]:
    """Their lines are counted through all front steps."""
    return list(sql_texts("\n".join((PACKAGE / step).read_text() for step in FRONT_STEPS)))


def test_only_the_front_step_holds_sql() -> None:
    found = [
        f"{module.relative_to(PACKAGE)}:{line} {text.strip()[:60]}"
        for module in modules()
        if module.name not in {*FRONT_STEPS, *INSTALLERS}
        for line, text, statements in sql_texts(module.read_text())
        if not all(isinstance(each, ALSO.get(module.name, ())) for each in statements)
    ]
    assert not found, "\n".join(found)


def test_the_front_step_only_calls_doors() -> None:
    assert calls()
    found = [
        f"front step:{line} {complaint(statement)}"
        for line, _, statements in calls()
        for statement in statements
        if len(statements) > 1 or complaint(statement)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "update my_app.jobs set status = 0",
        "select key from my_app.jobs",
        "select 1 from hotmesh._enter(app => %(app)s)",
        "select 1 from hotmesh.job_start(%(app)s)",
        "select id from hotmesh.turn(app => %(app)s), my_app.jobs",
        "select id from hotmesh.turn(app => (select key from my_app.jobs))",
        "select id from hotmesh.turn(app => %(app)s) where id > 1",
        "select pg_sleep(1) from hotmesh.turn(app => %(app)s)",
    ],
)
def test_more_than_a_call_is_noticed(text: str) -> None:
    [(_, _, [statement])] = sql_texts(f"def f():\n    return execute({text!r})\n")
    assert complaint(statement)


def test_prose_is_not_mistaken_for_sql() -> None:
    source = (
        '"""Select a row."""\nx = "begin"\ny = "select from what is there"\nz = f"{x} of {y}"\n'
    )
    assert not list(sql_texts(source))


def test_doors_arguments_and_columns_are_as_the_engine_has_them(db: psycopg.Connection) -> None:
    """EXPLAIN resolves the door, its named arguments and the columns, and runs nothing."""
    texts = [(line, f"explain {_without_parameters(text)}") for line, text, _ in calls()]
    errors = [(line, error_of(db, text)) for line, text in texts]
    found = [f"front step:{line} {error}" for line, error in errors if error]
    assert not found, "\n".join(found)


def test_every_door_is_called_or_meant_for_sql(db: psycopg.Connection) -> None:
    doors = {
        row[0]
        for row in db.execute(
            "select proname from pg_proc"
            " where pronamespace = 'hotmesh'::regnamespace and proname !~ '^_'"
        )
    }
    called = {name for _, text, _ in calls() for name in re.findall(r"hotmesh\.(\w+)", text)}
    assert not doors - called - SQL_ONLY


def test_one_protocol_is_spoken(db: psycopg.Connection) -> None:
    from hotmesh import _calls, install

    spoken = db.execute("select hotmesh.protocol()").fetchone()
    assert spoken == (_calls.PROTOCOL,) == (install.PROTOCOL,)
