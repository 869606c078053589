"""The rules of the house, read from sql/ itself. Each comes with a snippet that it must refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pglast
import pytest
from pglast import ast, enums

from support.rooms import Function, Room, name_of, raises, snippet, walk
from support.rules import (
    DOOR_HEAD,
    Rule,
    bad_job,
    block,
    function,
    functions,
    into,
    relation,
)

# What the plan allows by name; everything else is refused.
DOORS_WITHOUT_APP = {"now", "version", "protocol", "build"}
DOORS_THAT_DO_NOT_ENTER = DOORS_WITHOUT_APP | {"app_create", "app_drop", "app_upgrade"}
EXTRA_PREFIXES = {
    "app": {"enter"},
    "archive": {"job"},
    "command": {"entity"},
    "deploy": {"graph"},
    "explain": {"graph"},
    "find": {"entity"},  # for its user it stands next to the entity's commands
    "fork": {"entity"},
    "history": {"entity"},
    "grant": {"app"},
    "index": {"entity"},  # indexes are of entities
    "object": {"json", "symbol"},  # domains of @pipe
    "operator": {"bitwise", "conditional", "logical", "unary"},
    "calendar": {"date"},
    "date": {"symbol"},
    "order": {"hook", "job"},
    "pub": {"graph"},
    "signal": {"job"},
    "stats": {"graph"},
    "tick": {"schedule"},
    "view": {"job"},
}
CONDUCTORS = {"engine", "turn", "claim"}  # they act for every noun
WRITES_ELSEWHERE = {
    "archive": {"jobs", "jobs_attributes", "entity_log", "streams"},
    "entity": {"jobs", "entity_log"},  # the document, and its row of the log in one statement
    "inbox": {"streams"},  # events are messages
    "lease": {"streams"},
    "limit": {"streams"},  # slots are a column of the messages
    "lane": {"streams"},
}
MAY_EXECUTE = {
    "_app_run",  # tenants, keys, partitions and users' indexes; never on a hot path
    "_errand_call",  # a function that the graph names, looked up and checked; the value is bound
    "_blame_value",  # an expression of a document, compiled; what it reads is bound
    "_walk_run",  # what a graph was compiled into, once per graph and turn
    "_walk_ask_step",  # the same, for one expression
    "_pipe_call",  # its text is a name from the catalogue; the values are bound
    "_find_rows",  # its text is made of operators and numbers; paths and values are bound
}
MAY_CALL_RUN = {"app", "archive", "index", "grant", "plan"}
STANDARD_CODES = {"22023", "42501", "40001", "0A000", "23514"}
CLOCKS = {
    *("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"),
    *("current_date", "current_time", "localtime", "localtimestamp"),
}
INSTANTS = {"now", "today", "tomorrow", "yesterday"}


RULES: list[Rule] = []
rule = into(RULES)


# ------------------------------------------------------------------ who may do what


def _prefix(name: str) -> str:
    return name.lstrip("_").split("_")[0]


@rule(
    "a function's noun is its room",
    snippet("40_job.sql", function("_stream_x", block("null"))),
    snippet("00_house.sql", function("_job_x", block("null"))),
    snippet("30_stream.sql", function("job_take", block("null"))),
)
def nouns(of: Sequence[Room]) -> Iterator[str]:
    known = {room.noun for room in of} - CONDUCTORS
    for each in functions(of):
        noun, prefix = each.room.noun, _prefix(each.name)
        own = {noun} | EXTRA_PREFIXES.get(noun, set())
        if noun == "house":
            own = {prefix} - known
        if noun not in CONDUCTORS and prefix not in own:
            yield f"{each.at()} belongs elsewhere"


def _writes(each: Function) -> Iterator[str]:
    for node in each.nodes():
        if isinstance(node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            yield relation(node.relation)
        elif isinstance(node, ast.TruncateStmt):
            yield from map(relation, node.relations or ())


@rule(
    "only the owning room writes a table",
    snippet("30_stream.sql", function("_stream_x", block("update jobs set id = 1"))),
    snippet("90_engine.sql", function("_engine_x", block("delete from hotmesh.streams"))),
    snippet(
        "90_engine.sql",
        function("_x", "with w as (insert into jobs values (1) returning id) select id from w",
                 head="language sql", returns="bigint"),
    ),
)  # fmt: skip
def writers(of: Sequence[Room]) -> Iterator[str]:
    owners = {table: room.noun for room in of for table in room.tables}
    for each in functions(of):
        for table in _writes(each):
            owner = owners.get(table)
            if owner not in (None, each.room.noun) and table not in WRITES_ELSEWHERE.get(
                each.room.noun, set()
            ):
                yield f"{each.at()} writes {table}, which is {owner}'s"


@rule(
    "calls go to the same or to a lower room",
    snippet("30_stream.sql", function("_stream_x", block("perform hotmesh._job_open()"))),
    snippet("40_job.sql", function("_job_x", block("if hotmesh._engine_go() then null; end if"))),
)
def downwards(of: Sequence[Room]) -> Iterator[str]:
    home: dict[str, int] = {}
    for each in functions(of):
        home[each.name] = min(home.get(each.name, 99), each.room.number)
    for each in functions(of):
        for schema, name in each.calls():
            if schema == "hotmesh" and home.get(name, 0) > each.room.number:
                yield f"{each.at()} calls {name} of room {home[name]}"


@rule(
    "an engine function is called as hotmesh.f, and exists",
    bad_job("perform _job_open()"),
    bad_job("perform hotmesh._job_missing()"),
)
def qualified(of: Sequence[Room]) -> Iterator[str]:
    known = {each.name for each in functions(of)}
    for each in functions(of):
        for schema, name in each.calls():
            if schema == "" and name in known - CLOCKS:
                yield f"{each.at()} calls {name} unqualified"
            if schema == "hotmesh" and name not in known:
                yield f"{each.at()} calls hotmesh.{name}, which no room has"


@rule(
    "a body names app tables without a schema",
    bad_job("delete from hotmesh.jobs"),
    bad_job("perform 1 from hotmesh.streams"),
)
def unqualified_tables(of: Sequence[Room]) -> Iterator[str]:
    per_app = {table for room in of for table in room.tables} - {"apps"}
    for each in functions(of):
        for node in each.nodes():
            if isinstance(node, ast.RangeVar) and node.schemaname and node.relname in per_app:
                yield f"{each.at()} names {node.schemaname}.{node.relname}"


# ------------------------------------------------------------------ bodies


@rule(
    "no execute outside the allow-list",
    bad_job("execute 'select 1'"),
    bad_job("perform hotmesh._app_run('{select}')"),
    bad_job("return query execute 'select 1'", returns="setof int"),
    bad_job("for r in execute 'select 1' loop null; end loop", declare="r record;"),
)
def dynamic_sql(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        if each.room.noun not in MAY_CALL_RUN and ("hotmesh", "_app_run") in each.calls():
            yield f"{each.at()} calls _app_run"
        if each.name in MAY_EXECUTE:
            continue
        for step in each.steps("stmt_dynexecute", "stmt_dynfors"):
            yield each.at(step)
        for step in each.steps("stmt_return_query", "stmt_open"):
            if "dynquery" in step:
                yield each.at(step)


def _tells_time(node: ast.Node) -> bool:
    if isinstance(node, ast.FuncCall):
        schema, name = name_of(node.funcname)
        return schema in ("", "pg_catalog") and name in CLOCKS
    if isinstance(node, ast.SQLValueFunction):
        return node.op is not None and bool(node.op < enums.SQLValueFunctionOp.SVFOP_CURRENT_ROLE)
    if isinstance(node, ast.TypeCast) and isinstance(node.arg, ast.A_Const):
        value = node.arg.val
        return isinstance(value, ast.String) and str(value.sval).strip().lower() in INSTANTS
    return False


@rule(
    "there is no clock but hotmesh.now()",
    bad_job("perform now()"),
    bad_job("perform pg_catalog.clock_timestamp()"),
    bad_job("perform current_timestamp"),
    bad_job("perform 'now'::timestamptz"),
    bad_job("v_at := v_at + (now() - v_at)", declare="    v_at timestamptz;"),
    snippet("40_job.sql", state="create table hotmesh.t (at timestamptz default now());"),
)
def clocks(of: Sequence[Room]) -> Iterator[str]:
    for room in of:
        for node, _, line in (*room.parsed["state"], *room.parsed["behaviour"]):
            if any(map(_tells_time, walk(node))):
                yield f"{room.file}:{line}"
    for each in functions(of):
        if (each.room.noun, each.name) != ("house", "now"):
            for node in filter(_tells_time, each.nodes()):
                yield f"{each.at()} {type(node).__name__}"


def _stars(node: ast.Node) -> Iterator[ast.Node]:
    targets = (
        *(getattr(node, "targetList", None) or ()),
        *(getattr(node, "returningList", None) or ()),
        *(getattr(getattr(node, "returningClause", None), "exprs", None) or ()),
    )
    for target in targets:
        value = getattr(target, "val", None)
        if isinstance(value, ast.ColumnRef) and isinstance(
            (value.fields or [None])[-1], ast.A_Star
        ):
            yield value


def _reads_tables(node: ast.Node) -> bool:
    if not isinstance(node, ast.SelectStmt):
        return True
    return any(isinstance(part, ast.RangeVar) for part in walk(node.fromClause))


@rule(
    "rows go up by name: no `returning *`, no `select *` from a table",
    bad_job("insert into jobs values (1) returning * into v", declare="    v hotmesh.jobs;"),
    bad_job("select * into v from jobs", declare="    v hotmesh.jobs;"),
    bad_job("select j.* into v from jobs j", declare="    v hotmesh.jobs;"),
    bad_job("return query update jobs j set id = 1 returning j.*", returns="setof hotmesh.jobs"),
)
def stars(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        for node in each.nodes():
            if _reads_tables(node) and any(_stars(node)):
                yield f"{each.at()} {type(node).__name__}"


# ------------------------------------------------------------------ errors


@rule(
    "every error has a code of its room's decade or a standard one, and a detail or a hint",
    bad_job("raise exception 'no code'"),
    bad_job("raise exception 'decade' using errcode = 'MSH30', hint = 'h'"),
    bad_job("raise exception 'foreign' using errcode = '23505', hint = 'h'"),
    bad_job("raise exception 'terse' using errcode = 'MSH42'"),
    bad_job("raise exception 'v' using errcode = v, hint = 'h'", declare="    v text;"),
)
def codes(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        for found in raises(each):
            if found.code is None:
                yield f"{found.at} raises without a literal errcode"
            elif found.code not in STANDARD_CODES and not re.fullmatch(
                rf"MSH{each.room.number // 10}\d", found.code
            ):
                yield f"{found.at} raises {found.code}"
            if not found.tells_more:
                yield f"{found.at} raises without detail and hint"


@rule(
    "one code is raised in one function",
    snippet(
        "40_job.sql",
        "".join(
            function(f"_job_{n}", block("raise exception 'x' using errcode = 'MSH42', hint = 'h'"))
            for n in "ab"
        ),
    ),
)
def one_raise(of: Sequence[Room]) -> Iterator[str]:
    places: dict[str, set[str]] = {}
    for each in functions(of):
        for found in raises(each):
            if found.code and found.code.startswith("MSH"):
                places.setdefault(found.code, set()).add(found.at.split(" ")[-1])
    for code, names in places.items():
        if len(names) > 1:
            yield f"{code}: {', '.join(sorted(names))}"


@rule(
    "`when others` stands in _isolate alone",
    bad_job("begin null; exception when others then null; end"),
)
def when_others(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        for step in each.steps("condition"):
            if step.get("condname") == "others" and each.name != "_isolate":
                yield each.at(step)


# ------------------------------------------------------------------ doors, corridors, windows


def _is_pinned(each: Function) -> bool:
    for option in each.node.options or ():
        if option.defname == "set" and option.arg.name == "search_path":
            return [part.val.sval for part in option.arg.args] == ["pg_catalog", "pg_temp"]
    return False


def _commented(room: Room) -> set[str]:
    return {
        name_of(node.object.objname)[1]
        for node, _, _ in room.parsed["behaviour"]
        if isinstance(node, ast.CommentStmt) and isinstance(node.object, ast.ObjectWithArgs)
    }


@rule(
    "a door is security definer, pinned, commented, and takes the app first",
    snippet("40_job.sql", function("job_x", block("null"), args="app text")),
    snippet("40_job.sql", function("job_x", block("null"), head=DOOR_HEAD, args="key text")),
    snippet(
        "40_job.sql",
        function(
            "job_x", block("null"), head=DOOR_HEAD.replace("_catalog", "_temp"), args="app text"
        )
        + "comment on function hotmesh.job_x(text) is 'X.';",
    ),
)
def doors(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        if not each.is_door or each.name == "now":
            continue
        if "security" not in each.options or not _is_pinned(each):
            yield f"{each.at()} is not security definer and pinned to pg_catalog, pg_temp"
        if each.name not in DOORS_WITHOUT_APP and each.parameters[:1] != [("app", "text")]:
            yield f"{each.at()} does not take `app text` first"
        if each.name not in _commented(each.room):
            yield f"{each.at()} has no comment"


def _first_call(each: Function) -> tuple[str, str]:
    """What the first statement calls before anything else: arguments come before their function."""
    body = next(each.steps("stmt_block"), {}).get("body", [{}])
    statement = next(iter(body[0].values()), {}) if body else {}
    if "expr" not in statement:
        return ("", "")
    text = statement["expr"]["PLpgSQL_expr"]["query"]
    if "PLpgSQL_stmt_perform" not in body[0]:
        text = f"select {text.split(':=')[-1]}"
    call = next(
        (node for node in walk(pglast.parse_sql(text)[0].stmt) if isinstance(node, ast.FuncCall)),
        None,
    )
    while call is not None and call.args and isinstance(call.args[0], ast.FuncCall):
        call = call.args[0]
    return name_of(call.funcname) if call else ("", "")


@rule(
    "a door enters the app before anything else",
    snippet("40_job.sql", function("job_x", block("null"), head=DOOR_HEAD, args="app text")),
    snippet(
        "40_job.sql",
        function("job_x", block("perform hotmesh._enter(app)", declare="    v jsonb := hotmesh.f();"),
                 head=DOOR_HEAD, args="app text"),
    ),
)  # fmt: skip
def entering(of: Sequence[Room]) -> Iterator[str]:
    engine = {each.name for each in functions(of)} | {"f"}
    for each in functions(of):
        if not each.is_door or each.name in DOORS_THAT_DO_NOT_ENTER:
            continue
        if _first_call(each)[1] != "_enter":
            yield f"{each.at()} does not begin with perform hotmesh._enter(app)"
        declared = each.tree.get("PLpgSQL_function", {}).get("datums", [])
        if any(name in str(declared) for name in (f"public.{name}(" for name in engine)):
            yield f"{each.at()} calls the engine in its declarations, before it enters"


@rule(
    "corridors are neither pinned nor definer; windows are private and pinned",
    bad_job("null", head="language plpgsql\nsecurity definer"),
    bad_job("null", head="language plpgsql\nset search_path = pg_catalog, pg_temp"),
    bad_job("return new", returns="trigger"),
    snippet(
        "40_job.sql", function("job_x", block("return new"), returns="trigger", head=DOOR_HEAD)
    ),
)
def corridors(of: Sequence[Room]) -> Iterator[str]:
    for each in functions(of):
        if each.is_trigger:
            if each.is_door or not _is_pinned(each):
                yield f"{each.at()} is a window: private and pinned"
        elif not each.is_door and ("security" in each.options or "set" in each.options):
            yield f"{each.at()} is a corridor: it inherits rights and path"


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.title)
def test_the_house_keeps_the_rule(each: Rule) -> None:
    each.holds()


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.title)
def test_the_rule_can_fail(each: Rule) -> None:
    each.bites()
