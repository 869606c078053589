"""The functions of @pipe answer as JavaScript does: generated calls, and node as the second opinion.

HOTMESH_PIPE_CALLS and HOTMESH_PIPE_SEED: see support.javascript.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import Connection, one
from support.javascript import ABOUT, CALLS, NODE, SIGNATURES, UNDEFINED, Call, calls, of_node, same

TRY = """
create function pg_temp.answers(calls jsonb) returns jsonb language plpgsql as $$
declare
    v_call record; v_answer jsonb; v_answers jsonb[];
begin
    for v_call in
        select f.target, case when f.most is not null then least(
                   greatest(jsonb_array_length(c.call -> 1), f.fewest), f.most) end as count,
               f.fewest, f.most,
               array(select nullif(a.value, '{"$undefined": true}')
                     from jsonb_array_elements(c.call -> 1) with ordinality a (value, n)
                     order by a.n) as args
        from jsonb_array_elements(calls) with ordinality c (call, n)
        left join hotmesh._pipe_functions() f on f.domain || '.' || f.name = c.call ->> 0
        order by c.n
    loop
        begin
            execute format('select %s(%s)', v_call.target, concat_ws(',', (
                select string_agg(format('$1[%s]', n), ',')
                from generate_series(1, coalesce(v_call.count, v_call.fewest)) n),
                case when v_call.most is null
                     then format('variadic $1[%s:]', v_call.fewest + 1) end))
            into v_answer using v_call.args;
            v_answers := v_answers || coalesce(v_answer, '{"$undefined": true}');
        exception when others then
            v_answers := v_answers || jsonb_build_object('$throws', sqlstate || ' ' || sqlerrm);
        end;
    end loop;
    return to_jsonb(v_answers);
end $$"""


def of_postgres(db: Connection, made: list[Call]) -> list[Any]:
    db.execute("drop function if exists pg_temp.answers(jsonb)")
    db.execute(TRY)
    found: list[Any] = []
    for first in range(0, len(made), 1000):
        found += one(db, "select pg_temp.answers(%s)", Jsonb(made[first : first + 1000])) or []
    return found


@pytest.mark.skipif(NODE is None, reason="there is no node on this machine")
@pytest.mark.parametrize("domain", SIGNATURES)
def test_the_domain_answers_as_javascript_does(db: Connection, domain: str) -> None:
    made = calls(domain, CALLS)
    differences = [
        f"{name}({json.dumps(args)[1:-1]})\n   {json.dumps(expected)}\n   {json.dumps(found)}"
        for (name, args), expected, found in zip(
            made, of_node(made), of_postgres(db, made), strict=True
        )
        if not same(expected, found, ABOUT.get(name, 0))
    ]
    assert not differences, f"{len(differences)} of {len(made)}\n" + "\n".join(differences[:20])


CALL = "select hotmesh._pipe_call(%s, %s, %s)"


def call(db: Connection, name: str, *args: Any) -> Any:
    return one(
        db, CALL, *name.split("."), [None if arg is UNDEFINED else Jsonb(arg) for arg in args]
    )


def test_every_name_of_the_catalogue_is_a_function(db: Connection) -> None:
    functions = db.execute(
        "select domain, name, target, volatility from hotmesh._pipe_functions()"
    ).fetchall()
    missing = [row for row in functions if row[3] is None]
    assert not missing
    assert len({row[:2] for row in functions}) == len(functions) > 190


def test_every_function_is_compared_with_javascript(db: Connection) -> None:
    compared = {
        (domain, signature.split(":")[0])
        for domain, signatures in SIGNATURES.items()
        for signature in signatures.split()
    }
    known = set(db.execute("select domain, name from hotmesh._pipe_functions()").fetchall())
    told_by_a_clock = {
        ("date", "now"),
        ("symbol", "date"),
        ("cron", "nextDelay"),
        ("math", "random"),
    }
    assert known - compared == told_by_a_clock
    assert compared <= known


def test_only_clocks_and_dice_are_not_immutable(db: Connection) -> None:
    rows = db.execute(
        "select domain || '.' || name from hotmesh._pipe_functions()"
        " where volatility <> 'immutable' or not parallel_safe order by 1"
    ).fetchall()
    assert [name for (name,) in rows] == [
        "cron.nextDelay", "date.now", "date.toISOXString", "date.yyyymmdd", "math.random", "symbol.date",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "near"),
    [("conditional.gteq", "conditional.gte"), ("math.floot", "math.floor"), ("maths.floor", "math.floor"),
     ("string.index_of", "string.indexOf"), ("date.toISOstring", "date.toISOString"), (".", "date"),
     ("x" * 5000 + "." + "y" * 5000, "date")],
)  # fmt: skip
def test_an_unknown_function_is_refused_with_its_neighbours(
    db: Connection, name: str, near: str
) -> None:
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match="unknown function: @"
    ) as refused:
        call(db, name, 1)
    assert near in (refused.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("name", "args"),
    [("array.push", [5, 1]), ("string.trim", [None]), ("string.repeat", ["x", -1]),
     ("number.toFixed", [1, 101]), ("array.length", []),
     ("string.repeat", ["x", 1e9]), ("string.padEnd", ["x", 1e12]), ("object.keys", [None]),
     ("object.set", [[], 1e8, 1]), ("date.toISOString", ["soon"]), ("date.toLocaleString", [0, "de-DE"])],
)  # fmt: skip
def test_a_value_that_a_function_cannot_take_is_refused_by_name(
    db: Connection, name: str, args: list[Any]
) -> None:
    with pytest.raises(psycopg.Error, match=r"^[a-z]+\.\w+ ") as refused:
        call(db, name, *args)
    assert refused.value.sqlstate == "22023"
    assert refused.value.diag.message_hint and refused.value.diag.message_detail


def test_a_call_by_name_drops_what_is_too_much_and_lacks_what_is_missing(db: Connection) -> None:
    assert call(db, "math.abs", -1, 2, 3) == 1
    assert call(db, "string.charAt", "abc") == "a"
    assert call(db, "math.add", 1, [2, [3]], "4") == 10
    assert call(db, "array.concat", [1], [2], UNDEFINED) == [1, 2, None]
    assert call(db, "math.add") == 0
    assert call(db, "conditional.gte", 5, 4) is True


def test_what_json_cannot_say_lives_in_a_pipe_and_is_stored_as_null(db: Connection) -> None:
    for name, args in (("math.divide", [1, 0]), ("symbol.posInfinity", []), ("math.log", [0])):
        found = call(db, name, *args)
        assert "$number" in found
        assert one(db, "select hotmesh._pipe_store(%s)", Jsonb(found)) is None
        assert call(db, "array.push", [1], found) == [1, None]
    zero = call(db, "math.round", -0.2)
    assert zero == {"$number": "-0"}
    assert one(db, "select hotmesh._pipe_store(%s)", Jsonb(zero)) == 0
    assert call(db, "number.isNaN", call(db, "symbol.NaN")) is True
    assert call(db, "json.stringify", [1, {"a": None}]) == '[1,{"a":null}]'


def test_the_clock_is_the_engines(db: Connection, clock: Clock) -> None:
    clock.freeze("2030-02-03T04:05:06.789Z")
    assert call(db, "date.now") == 1896321906789
    assert call(db, "symbol.date") == "2030-02-03T04:05:06.789Z"
    assert call(db, "date.toISOXString") == "20300203040506.789"
    assert call(db, "date.yyyymmdd") == "20300203"
    assert call(db, "date.getTime", "20300203040506.789") == 1896321906789
    assert call(db, "cron.nextDelay", "*/5 * * * *") == 294
    assert call(db, "cron.nextDelay", None) == -1
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cron"):
        call(db, "cron.nextDelay", "every day")


def test_dice_fall_between_zero_and_one(db: Connection) -> None:
    thrown = [call(db, "math.random") for _ in range(20)]
    assert len(set(thrown)) > 1
    assert all(0 <= throw < 1 for throw in thrown)


def test_a_comparison_notices_what_differs() -> None:
    """The control of the differential test."""
    assert not same(1, 1.0000000001, 0)
    assert not same(True, 1, 0)
    assert not same({"$throws": "TypeError"}, None, 0)
    assert not same(UNDEFINED, None, 0)
    assert same([1, {"a": 2.0}], [1.0, {"a": 2}], 0)
