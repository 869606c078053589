"""The layout of sql/: halves, lines, tables, sizes. Each rule comes with a snippet that it must refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pglast
import pytest
from pglast import ast, enums

from support.rooms import Function, Room, name_of, snippet, walk
from support.rules import Rule, bad_job, block, function, functions, into, relation

COLUMNS, BODY_LINES, ROOM_LINES, HEADER_LINES, MEDIAN_LINES, MAX_DEPTH = 100, 40, 500, 6, 15, 3


RULES: list[Rule] = []
rule = into(RULES)


# ------------------------------------------------------------------ halves and layout


LAID_ONCE = (
    *(ast.CreateStmt, ast.CompositeTypeStmt, ast.CreateSeqStmt, ast.IndexStmt, ast.CommentStmt),
    ast.AlterTableStmt,
)
REPLAYABLE = (ast.CommentStmt, ast.GrantStmt, ast.AlterDefaultPrivilegesStmt)


def _is_config_dump(node: ast.Node) -> bool:
    calls = [part for part in walk(node) if isinstance(part, ast.FuncCall)]
    return isinstance(node, ast.SelectStmt) and [name_of(call.funcname)[1] for call in calls] == [
        "pg_extension_config_dump"
    ]


@rule(
    "a state half only lays tables, types, sequences, indexes and comments",
    snippet("40_job.sql", state="create type hotmesh.colour as enum ('red');"),
    snippet("40_job.sql", state="insert into hotmesh.jobs values (1);"),
    snippet("40_job.sql", state="create view hotmesh.v as select 1;"),
    snippet("40_job.sql", state="create table if not exists hotmesh.t (i int);"),
)
def state_halves(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for node, _, line in room.parsed["state"]:
            if getattr(node, "if_not_exists", False) or not (
                isinstance(node, LAID_ONCE) or _is_config_dump(node) or _is_clock(node, room)
            ):
                yield f"{room.file}:{line} {type(node).__name__}"


def _is_clock(node: ast.Node, room: Room) -> bool:
    """hotmesh.now() is laid with the tables, because it is the default of their columns."""
    return isinstance(node, ast.CreateFunctionStmt) and (room.noun, name_of(node.funcname)[1]) == (
        "house",
        "now",
    )


def _is_replayable(node: ast.Node, text: str) -> bool:
    if isinstance(node, (ast.CreateFunctionStmt, ast.CreateTrigStmt, ast.ViewStmt)):
        return bool(node.replace)
    if isinstance(node, ast.DropStmt):
        return bool(node.missing_ok)
    if isinstance(node, ast.DoStmt):
        return "if not exists" in text
    return isinstance(node, REPLAYABLE)


@rule(
    "a behaviour half can be replayed",
    snippet(
        "40_job.sql", "create function hotmesh._job_x() returns int language sql as 'select 1';"
    ),
    snippet("40_job.sql", "create table hotmesh.t (i int);"),
    snippet("40_job.sql", "drop function hotmesh.f();"),
    snippet("40_job.sql", "do $$ begin create table t (i int); end $$;"),
)
def behaviour_halves(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for node, text, line in room.parsed["behaviour"]:
            if not _is_replayable(node, text):
                yield f"{room.file}:{line} {type(node).__name__}"


@rule(
    "a room has a header of at most six lines, then its two halves",
    snippet("40_job.sql", header="\n".join(["-- a line"] * 7)),
    Room("40_job.sql", "-- 40 job\nselect 1;\n"),
)
def shape(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        header = room.halves["header"].strip().splitlines()
        if not 0 < len(header) <= HEADER_LINES or not all(h.startswith("--") for h in header):
            yield f"{room.file}:1 the header has {len(header)} lines or is no comment"
        if "\n--@ state\n" not in room.text or "\n--@ behaviour\n" not in room.text:
            yield f"{room.file} lacks a half"


@rule(
    "lines have at most 100 columns, no tab and no trailing space",
    snippet("40_job.sql", "-- " + "x" * 100),
    snippet("40_job.sql", "\t-- tab"),
    snippet("40_job.sql", "-- trailing "),
)
def lines(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for number, line in enumerate(room.text.splitlines(), 1):
            if len(line) > COLUMNS or "\t" in line or line != line.rstrip():
                yield f"{room.file}:{number} {len(line)} columns"


def _upper_case(text: str) -> Iterator[str]:
    for token in pglast.parser.scan(text):
        word = text[token.start : token.end + 1]
        is_word = token.kind != "NO_KEYWORD" or token.name == "IDENT"
        if is_word and word != word.lower() and not word.startswith('"'):
            yield word


@rule(
    "keywords and names are lower case",
    snippet("40_job.sql", "COMMENT on table hotmesh.jobs is 'Jobs';"),
    bad_job("SELECT 1"),
)
def lower_case(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for word in _upper_case(room.text):
            yield f"{room.file} {word}"
    for each in functions(of):
        for word in _upper_case(each.body):
            yield f"{each.at()} {word}"


ORDER = ("language", "volatility", "security", "set", "as")


@rule(
    "a header goes: returns, language, volatility, security, set, as",
    snippet(
        "40_job.sql", function("_job_x", "select 1", head="stable\nlanguage sql", returns="int")
    ),
)
def header_order(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        given = [name for name in each.options if name in ORDER]
        if given != sorted(given, key=ORDER.index):
            yield f"{each.at()} {' '.join(given)}"


# ------------------------------------------------------------------ tables


@rule(
    "constraints have names",
    snippet("40_job.sql", state="create table hotmesh.t (i int check (i > 0));"),
    snippet("40_job.sql", state="create table hotmesh.t (i int, primary key (i));"),
)
def constraint_names(of: Sequence[Room]) -> Iterator[str]:
    plain = (
        enums.ConstrType.CONSTR_NOTNULL,
        enums.ConstrType.CONSTR_NULL,
        enums.ConstrType.CONSTR_DEFAULT,
        enums.ConstrType.CONSTR_IDENTITY,
        enums.ConstrType.CONSTR_GENERATED,
    )
    for room in of:
        for node, _, line in room.parsed["state"]:
            for part in walk(node):
                if isinstance(part, ast.Constraint) and not (part.conname or part.contype in plain):
                    yield f"{room.file}:{line} {part.contype!r}"


@rule(
    "there are no foreign keys",
    snippet(
        "40_job.sql",
        state="create table hotmesh.t (i int, constraint c foreign key (i) references hotmesh.jobs);",
    ),
)
def foreign_keys(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for node, _, line in room.parsed["state"]:
            for part in walk(node):
                if getattr(part, "contype", None) == enums.ConstrType.CONSTR_FOREIGN:
                    yield f"{room.file}:{line}"


@rule(
    "an index is called <table>_<purpose>",
    snippet("40_job.sql", state="create index on hotmesh.jobs (id);"),
    snippet("40_job.sql", state="create index due on hotmesh.jobs (id);"),
)
def index_names(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for node, _, line in room.parsed["state"]:
            if isinstance(node, ast.IndexStmt) and not (node.idxname or "").startswith(
                f"{relation(node.relation)}_"
            ):
                yield f"{room.file}:{line} {node.idxname}"


# ------------------------------------------------------------------ bodies


def _size(each: Function) -> int:
    kept = (line.strip() for line in each.body.splitlines())
    return sum(1 for line in kept if line and not line.startswith("--"))


@rule(
    "a body has at most 40 lines, a room at most 500",
    bad_job(*["null"] * 39),
    snippet("40_job.sql", "\n" * 500),
)
def sizes(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        if (count := room.text.count("\n")) > ROOM_LINES:
            yield f"{room.file} has {count} lines"
    for each in functions(of):
        if (count := _size(each)) > BODY_LINES:
            yield f"{each.at()} has {count} lines"


@rule(
    "half of the bodies have at most 15 lines",
    snippet("40_job.sql", "".join(function(f"_job_{n}", block(*["null"] * 20)) for n in range(9))),
)
def median(of: Sequence[Room]) -> Iterator[str]:
    counts = sorted(_size(each) for each in functions(of))
    if counts[len(counts) // 2] > MEDIAN_LINES:
        yield f"the median is {counts[len(counts) // 2]}"


NESTING = {
    f"PLpgSQL_stmt_{kind}"
    for kind in ("if", "case", "loop", "while", "fori", "fors", "forc", "foreach_a", "dynfors")
}


def _depth(node: object) -> int:
    if isinstance(node, list):
        return max(map(_depth, node), default=0)
    if not isinstance(node, dict):
        return 0
    return max(((key in NESTING) + _depth(value) for key, value in node.items()), default=0)


@rule(
    "branches and loops nest at most three deep",
    bad_job("if a then if b then if c then if d then null; end if; end if; end if; end if"),
)
def nesting(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        if _depth(each.tree) > MAX_DEPTH:
            yield each.at()


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.title)
def test_the_house_keeps_the_rule(each: Rule) -> None:
    each.holds()


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.title)
def test_the_rule_can_fail(each: Rule) -> None:
    each.bites()
