"""Values of documents become SQL that finds what the references mean and does what the pipes say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.hand import Connection, one
from support.javascript import CALLS, NODE, of_node, pipes, same

SCOPE = {
    "activities": {"t1": 0, "a1": 1, "b1": 2, "lost": 1},
    "app": {"settings": {"limit": 7, "names": ["x", "y"]}},
    "graph": {"subscribes": "order.requested"},
}
S = {
    "t1": {",0": {"output": {"data": {"first": "Ada", "last": "Byron", "list": [3, 1, 2], "n": 5,
                                      "nothing": None, "map": {"a": 1, "b": {"c": 2}}}}}},
    "a1": {",0,0": {"output": {"data": {"round": 0}}}, ",0,1": {"output": {"data": {"round": 1}}},
           ",0,12": {"output": {"data": {"round": 12}}}},
    "b1": {",0,1,0": {"output": {"data": {"x": "b of 1"}}}},
}  # fmt: skip
SELF = {"input": {"data": {"x": 1}}, "hook": {"data": {"id": "h1"}}}
JOB = {"metadata": {"jid": "job-1"}, "data": {"total": 10}}
UNDEFINED = object()


def compiled(db: Connection, value: Any, scope: Any = SCOPE, kind: str = "sql") -> str:
    call = f"select hotmesh._expression_{kind}(%s, %s, 'graphs[0].x')"
    return str(one(db, call, Jsonb(value), Jsonb(scope)))


def make(db: Connection, text: str, returns: str = "jsonb") -> None:
    """Lay the expression into a function, as a graph does."""
    db.execute("drop function if exists pg_temp.made(jsonb, text, jsonb, jsonb)")
    db.execute(
        sql.SQL(
            "create function pg_temp.made(s jsonb, d text, self jsonb, job jsonb) returns {}"
            " language plpgsql as {}"
        ).format(sql.SQL(returns), sql.Literal(f"begin return {text}; end"))  # type: ignore[arg-type]
    )


def run(db: Connection, d: str = ",0,0") -> Any:
    values = [Jsonb(S), d, Jsonb(SELF), Jsonb(JOB)]
    found, undefined = db.execute(
        "select v, v is null from pg_temp.made(%s, %s, %s, %s) v", values
    ).fetchall()[0]
    return UNDEFINED if undefined else found


def evaluate(
    db: Connection, value: Any, d: str = ",0,0", scope: Any = SCOPE, conforming: str = "on"
) -> Any:
    text = compiled(db, value, scope)
    db.execute(f"set standard_conforming_strings = {conforming}")
    make(db, text)
    try:
        return run(db, d)
    finally:
        db.execute("set standard_conforming_strings = on")


def pipe(*rows: Any) -> dict[str, Any]:
    return {"@pipe": list(rows)}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("{t1.output.data.first}", "Ada"), ("{ t1.output.data.first }", "Ada"),
        ("{t1.output.data.list.1}", 1), ("{t1.output.data.map.b.c}", 2), ("{t1.output.data.nothing}", None),
        ("{t1.output.data.no}", UNDEFINED), ("{t1.output.data.first.x}", UNDEFINED),
        ("{lost.output.data.x}", UNDEFINED),
        ("{$self.input.data.x}", 1), ("{$hook.data.id}", "h1"), ("{$self.hook.data.id}", "h1"),
        ("{$job.metadata.jid}", "job-1"), ("{$job}", JOB), ("{t1}", S["t1"][",0"]),
        ("{$app.settings.limit}", 7), ("{$app.settings.names.1}", "y"),
        ("{$graph.subscribes}", "order.requested"), ("{@symbol.null}", None), ("{@symbol.NaN}", None),
        ("plain", "plain"), ("a {t1.output} b", "a {t1.output} b"), ("{}", "{}"), ('{"a": 1}', '{"a": 1}'),
        (5, 5), (1.10, 1.1), (None, None), (True, True), ([], []), ({}, {}),
    ],
)  # fmt: skip
def test_a_value_is_a_reference_or_itself(db: Connection, value: Any, found: Any) -> None:
    assert evaluate(db, value) == found


@pytest.mark.parametrize(
    ("name", "d", "found"),
    [
        ("a1", ",0,0", 0), ("a1", ",0,1", 1), ("a1", ",0,1,0", 1), ("a1", ",0,12,0,3", 12), ("a1", ",0", 0),
        ("a1", ",0,7", 12), ("a1", ",3,1", 12), ("a1", ",0,2", 12), ("a1", ",0,10", 12), ("a1", ",0,120", 12),
    ],
)  # fmt: skip
def test_the_nearest_instance_is_meant(db: Connection, name: str, d: str, found: int) -> None:
    make(db, compiled(db, f"{{{name}.output.data.round}}"))
    assert run(db, d) == found
    read = "select hotmesh._expression_read(%s, %s, 1, %s) #> '{output,data,round}'"
    assert one(db, read, Jsonb(S), name, d) == found


def test_what_ran_in_another_branch_is_found_from_a_later_one(db: Connection) -> None:
    assert evaluate(db, "{b1.output.data.x}", ",0,5,0") == "b of 1"


HOSTILE = [
    "'", "''", "\\", "\\'", "'; drop table x; --", "$$", "$a$", "$fn$ x $fn$", "E'\\n'", "\n\t\r",
    "%s %1$s %L",
    "{t1.output.data.first", "é日🙂", '"', "\\u0041", "{'; x}", "{$$}", "{a'b.c}", ":x", "}{", "?", "NULL",
]  # fmt: skip


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_no_text_of_the_document_is_run(db: Connection, conforming: str) -> None:
    db.execute("set escape_string_warning = off")
    values = {text: text for text in HOSTILE} | {"list": HOSTILE, "r": "{t1.output.data.n}"}
    expected = values | {"r": 5}
    scope = SCOPE | {"app": {"settings": values}}
    assert evaluate(db, values, conforming=conforming) == expected
    assert evaluate(db, "{$app.settings}", scope=scope, conforming=conforming) == values
    for text in HOSTILE:
        assert evaluate(db, pipe([text, "{t1.output.data.n}"], ["{@string.concat}"])) == text + "5"
        if "." not in text and not set(text) & set('{}\n"'):
            assert evaluate(db, f"{{t1.output.data.{text}}}") is UNDEFINED


def test_objects_leave_out_what_is_undefined_and_keep_null(db: Connection) -> None:
    value = {
        "a": "{t1.output.data.no}", "b": "{t1.output.data.nothing}", "c": {"d": "{t1.output.data.n}"},
        "e": ["{t1.output.data.no}", "{t1.output.data.n}", {"f": "{t1.output.data.no}"}],
        "nan": pipe(["{@symbol.NaN}"]), "g": {"h": {"i": 1}},
    }  # fmt: skip
    assert evaluate(db, value) == {
        "b": None, "c": {"d": 5}, "e": [None, 5, {}], "nan": None, "g": {"h": {"i": 1}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"f[1]": 2, "f[0]": "{t1.output.data.n}", "g": 1}, {"f": [5, 2], "g": 1}),
        ({"f[2]": 2, "f[0]": "{t1.output.data.no}"}, {"f": [None, None, 2]}),
        ({"f[0]": 1, "f[1]": "{t1.output.data.no}"}, {"f": [1]}),
        ({"f[0]": "{t1.output.data.no}"}, {}),
        ({"f[0]": "{t1.output.data.list}"}, {"f": [[3, 1, 2]]}),
        ({"f[25]": "{t1.output.data.list}"}, {"f": [3, 1, 2]}),
        ({"f[1]": "{t1.output.data.n}"}, {"f": [None, 5]}),
        ({"s[_]": {"color": "{t1.output.data.first}", "_x": 1}}, {"_color": "Ada", "_x": 1}),
        ({"m[-]": "{t1.output.data.map}", "a": 1}, {"-a": 1, "-b": {"c": 2}, "a": 1}),
        ({"m[-]": "{t1.output.data.n}"}, {}),
        ({"f[x]": 1, "g[]": 2}, {"f[x]": 1, "g[]": 2}),
    ],
)  # fmt: skip
def test_keys_with_brackets_make_arrays_and_spread_objects(
    db: Connection, value: Any, found: Any
) -> None:
    assert evaluate(db, value) == found


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([["{t1.output.data.first}", " ", "{t1.output.data.last}"], ["{@string.concat}"]], "Ada Byron"),
        ([[1, 2], ["{@math.add}", 4], ["{@math.multiply}"]], 12),
        ([["abc", 1, 2, 3, 4], ["{@string.charAt}"]], "b"),
        ([["abc"], ["{@string.charAt}"]], "a"),
        ([["{@symbol.object}", "k", "{@symbol.array}"], ["{@object.set}"]], {"k": []}),
        ([["only", "first"]], "only"),
        ([["{t1.output.data.no}"]], UNDEFINED),
        ([["{t1.output.data.no}", 3], ["{@conditional.nullish}"]], 3),
        ([["{t1.output.data.nothing}", "{t1.output.data.no}"], ["{@conditional.strict_equality}"]], False),
        ([[1, 0], ["{@math.divide}"]], None),
        ([[1, 0], ["{@math.divide}"], ["{@number.isNaN}"]], True),
        ([pipe(["{t1.output.data.first}", 0], ["{@string.charAt}"]),
          pipe(["{t1.output.data.last}", 0], ["{@string.charAt}"]), ["{@string.concat}"]], "AB"),
        # what comes before nested pipes is not given to the row after them
        ([["x", "y"], pipe(["a"]), pipe(["b"]), ["{@string.concat}", "c"], ["{@string.concat}"]], "abc"),
        ([["a"], pipe(["b"])], "b"),
        # a function at the head of a nested pipe takes the row before it
        ([["{t1.output.data.first}", 0], pipe(["{@string.charAt}"]),
          pipe(["{@string.charAt}", 1], ["{@string.repeat}"]), ["{@string.concat}"]], "AA"),
        ([["abc"], pipe(["{@symbol.array}"])], []),
        ([["Ada", 0], pipe(pipe(["{@string.charAt}"]), ["{@string.toLowerCase}"])], "a"),
        ([[pipe([1, 2], ["{@math.add}"]), 4], ["{@math.add}"]], 7),
        ([[{"a": "{t1.output.data.n}"}, "a"], ["{@object.get}"]], 5),
        ([["{t1.output.data.n}", 5], ["{@conditional.gte}"]], True),
    ],
)  # fmt: skip
def test_pipes(db: Connection, rows: Any, found: Any) -> None:
    assert evaluate(db, pipe(*rows)) == found


ADD = [["{$output}", "{$item}"], ["{@math.add}"]]
NUMBERED = [["{$output}", "{$key}", "{$index}"], ["{@string.concat}"]]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([["{t1.output.data.list}", 0], {"@reduce": ADD}], 6),
        ([["{t1.output.data.list}", 10], {"@reduce": ADD}, ["{@math.multiply}", 1], ["{@math.add}"]], 17),
        ([["{t1.output.data.list}"], {"@reduce": [["{$output}"]]}], None),
        ([["{t1.output.data.no}", "start"], {"@reduce": ADD}], "start"),
        ([[[], "start"], {"@reduce": ADD}], "start"),
        ([[7, "start"], {"@reduce": ADD}], "start"),
        # a body that fails is not evaluated where there is nothing to go through
        ([[[], "start"], {"@reduce": [[0.5], ["{@string.trim}"]]}], "start"),
        ([[[], "start"], {"@reduce": [["{t1.output.data.n}"], ["{@string.trim}"]]}], "start"),
        ([[{"b": 1, "10": 2, "2": 3}, ""], {"@reduce": NUMBERED}], "20101b2"),
        ([["{t1.output.data.map}", ""], {"@reduce": NUMBERED}],
         "a0b1"),
        ([["{t1.output.data.list}", ""], {"@reduce": NUMBERED}],
         "001122"),
        ([["{t1.output.data.map}", ""], {"@reduce": [["{$output}", "{$item.c}"], ["{@string.concat}"]]}],
         "undefined2"),
        ([["{t1.output.data.list}", "{@symbol.array}"],
          {"@reduce": [["{$output}", "{$item}"], ["{@array.push}"]]}], [3, 1, 2]),
        # the accumulator is given to a function at the head
        ([["{t1.output.data.list}", 1], {"@reduce": [["{@math.add}", "{$item}"], ["{@math.multiply}"]]}], 6),
        # to every head that is no function, the row's own cells
        ([[[[1, 2], [3, 4]], 0],
          {"@reduce": [["{$item}", "{$output}"], {"@reduce": ADD}]}], 10),
        ([[[1, 2], 0], {"@reduce": [["{$input}"], ["{@array.length}", "{$output}"], ["{@math.add}"]]}], 4),
        ([[[{"a": {"b": 2}}, {"a": {"b": 3}}], 1],
          {"@reduce": [["{$output}", "{$item.a.b}"], ["{@math.multiply}"]]}], 6),
        ([[[1, 2, 3], 0], {"@reduce": [pipe(["{$item}", 2], ["{@math.pow}"]),
                                       pipe(["{$output}"]), ["{@math.add}"]]}], 14),
        ([[["a", "b"], ""], {"@reduce": [["{$output}"], ["{$item}", "!"], ["{@string.concat}"]]}], "b!"),
        # NaN goes from round to round
        ([[[1, 2], "{@symbol.NaN}"], {"@reduce": ADD}, ["{@number.isNaN}"]], True),
        # after nested pipes their values are what is reduced
        ([pipe(["1,2", ","], ["{@string.split}"]), pipe([""]),
          {"@reduce": [["{$output}", "{$item}"], ["{@string.concat}"]]}], "12"),
    ],
)  # fmt: skip
def test_reduce(db: Connection, rows: Any, found: Any) -> None:
    assert evaluate(db, pipe(*rows)) == found


def test_a_long_array_is_reduced_in_linear_time(db: Connection) -> None:
    value = pipe([list(range(20000)), 0], {"@reduce": ADD})
    db.execute("set statement_timeout = '20s'")
    assert evaluate(db, value) == sum(range(20000))


def match(*pairs: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    return {
        "match": [{"expected": expected, "actual": actual} for expected, actual in pairs]
    } | more


N = "{t1.output.data.n}"
NO = "{t1.output.data.no}"


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (match((5, N)), True), (match((5.0, N)), True), (match(("5", N)), False), (match((6, N)), False),
        (match((True, pipe([N, 5], ["{@conditional.gte}"]))), True),
        (match((False, pipe([N, 5], ["{@conditional.gte}"]))), False),
        (match((N, N)), True), (match((pipe([N]), pipe([N]))), True), (match((NO, NO)), True),
        (match((None, NO)), False), (match((None, "{t1.output.data.nothing}")), True),
        (match((NO, N)), False),
        (match((5, NO)), False), (match((True, NO)), False), (match((0, pipe([-0.0]))), True),
        (match((0, pipe([0, -1], ["{@math.multiply}"]))), True),
        (match((None, pipe(["{@symbol.NaN}"]))), False), (match(("{@symbol.NaN}", "{@symbol.NaN}")), False),
        (match(([1], [1])), False), (match(("Ada", "{t1.output.data.first}")), True),
        (match((5, N), (6, N)), False), (match((5, N), (6, N), gate="or"), True),
        (match((5, N), (5, N), gate="and"), True), (match((4, N), (6, N), gate="or"), False),
        (match(), True), ({}, True), ({"code": 202}, True), ({"match": [{"expected": 1}]}, False),
    ],
)  # fmt: skip
def test_conditions_compare_strictly(db: Connection, condition: Any, found: bool) -> None:
    make(db, compiled(db, condition, kind="condition"), "boolean")
    assert run(db) is found


@pytest.mark.parametrize(
    ("value", "found"),
    [(True, True), (False, False), ("true", False), (1, False), (pipe([N, 5], ["{@number.gte}"]), True),
    (NO, False)],
)  # fmt: skip
def test_a_flag_is_set_by_true_alone(db: Connection, value: Any, found: bool) -> None:
    make(db, compiled(db, value, kind="true"), "boolean")
    assert run(db) is found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{nobody.output.data.x}", "nobody, which is not in this graph"),
        ("{x}", "which is not in this graph"),
        ("{$nobody.x}", "there is no {$nobody.x}"), ("{$item.x}", "only inside @reduce"),
        ("{t1.outptu.data.x}", "finds nothing"), ("{$app.no}", "finds nothing in the document"),
         ("{$self..x}", "is no reference"),
        ("{@math.ad}", "near to it: math.add"), ("{@mat.add}", "near to it: math.add"),
        ("{@math}", "is no function"), ("{@math.add.x}", "is no function"),
        (pipe(), "a pipe is a list of rows"), ({"@pipe": 1}, "a pipe is a list of rows"),
        (pipe(1), "a row is a list"), (pipe([]), "a row is a list"), (pipe({"x": 1}), "a row is a list"),
        (pipe(["a"], ["b"]), "begins with a function"), (pipe(["a"], [N]), "begins with a function"),
        (pipe(["a"], ["{$item}"]), "only inside @reduce"),
        (pipe({"@reduce": ADD}), "the row before @reduce"), ({"@reduce": ADD}, "is a row of a @pipe"),
        ({"@pipe": [["a"]], "x": 1}, "stands alone"), (pipe([[1]], {"@reduce": ADD, "x": 1}), "stands alone"),
        (pipe(["a"], ["{@string.nope}"]), "@string.nope"), ({"a": [{"b": "{x.y}"}]}, "x.a[0].b: "),
        (pipe(["a"], pipe(["a"], ["{@nope.nope}"])), "x.@pipe[1].@pipe[1][0]: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(db: Connection, value: Any, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as raised:
        compiled(db, value)
    assert str(raised.value.diag.message_primary).startswith("graphs[0].x")
    assert message in str(raised.value.diag.message_primary)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["{t1.output.data.x}", {"a": pipe([N], ["{@math.add}", "{a1.output}"])}], ["a1", "t1"]),
        ("{$self.x}", []), ("x", []), (None, []), ("{t1}", ["t1"]), ("{t1.x} ", []),
    ],
)  # fmt: skip
def test_a_value_tells_which_activities_it_mentions(
    db: Connection, value: Any, names: Sequence[str]
) -> None:
    assert one(db, "select hotmesh._expression_refs(%s)", Jsonb(value)) == names


WHOLE = """
create function pg_temp.whole(pipes jsonb) returns jsonb language plpgsql as $$
declare
    v_pipe jsonb; v_text text; v_answer jsonb; v_answers jsonb[];
begin
    for v_pipe in select p.value from jsonb_array_elements(pipes)
            with ordinality p (value, n) order by p.n loop
        begin
            v_text := hotmesh._expression_sql(
                jsonb_build_object('@pipe', v_pipe -> 'pipe'), '{"activities": {"t": 0}}', 'x');
            execute format('select %s from (values ($1, $2, $1, $1)) v (s, d, self, job)', v_text)
            into v_answer using jsonb_build_object('t', jsonb_build_object(',0',
                jsonb_build_object('output', v_pipe - 'pipe'))), ',0';
            v_answers := v_answers || coalesce(v_answer, '{"$undefined": true}');
        exception when others then
            v_answers := v_answers || jsonb_build_object('$throws', sqlstate || ' ' || sqlerrm);
        end;
    end loop;
    return to_jsonb(v_answers);
end $$"""


@pytest.mark.skipif(NODE is None, reason="there is no node on this machine")
def test_whole_pipes_answer_as_javascript_does(db: Connection) -> None:
    """What JavaScript refuses, we may not have to evaluate at all."""
    db.execute(WHOLE)
    differences, refused = [], 0
    made = pipes(CALLS * 5)
    expected = of_node(made)
    found: list[Any] = []
    for first in range(0, len(made), 500):
        found += one(db, "select pg_temp.whole(%s)", Jsonb(made[first : first + 500]))
    for pipe, theirs, ours in zip(made, expected, found, strict=True):
        if isinstance(theirs, dict) and "$throws" in theirs:
            refused += 1
            if not str(ours).startswith("{'$throws': 'XX"):
                continue
        if not same(theirs, ours, 0):
            differences.append("\n   ".join(json.dumps(each) for each in (pipe, theirs, ours)))
    assert not differences, f"{len(differences)} of {len(made)}\n" + "\n".join(differences[:12])
    assert refused < len(made) * 0.8
