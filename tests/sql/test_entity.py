"""Entities: what each command makes of a document and answers, and what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.hand import Connection, Hand, one, start

KEY = "a"
BASE = {
    "n": 1, "yes": True, "text": "t", "nothing": None, "list": [1, 2, 3],
    "deep": {"a": {"b": 1}, "list": [{"x": 1}]},
}  # fmt: skip


def call(connection: Connection, verb: str, *args: Any, key: str = KEY) -> Any:
    """Call `entity_<verb>(app, key, …)`; lists and dicts go in as jsonb."""
    given = [Jsonb(arg) if isinstance(arg, (dict, list)) else arg for arg in args]
    marks = ", ".join(["%s"] * (2 + len(given)))
    return one(connection, f"select hotmesh.entity_{verb}({marks})", "my-app", key, *given)


def document(connection: Connection, key: str = KEY) -> Any:
    return one(connection, "select context from my_app.jobs where key = %s", key)


def version(connection: Connection) -> int:
    return int(one(connection, "select entity_version from my_app.jobs where key = %s", KEY))


@pytest.fixture
def entity(caller: Connection) -> Connection:
    """An open job whose document is `BASE`."""
    start(caller, KEY)
    call(caller, "set", BASE)
    return caller


# --- what commands do -----------------------------------------------------------------------------


def test_a_new_entity_is_empty(caller: Connection) -> None:
    start(caller, KEY)
    assert call(caller, "get") == {}
    assert call(caller, "get", "a") is None


def test_the_document_of_the_seeds(caller: Connection) -> None:
    start(caller, KEY)
    call(caller, "set", {"caseId": "A42", "stage": "verification", "retries": 0, "notes": []})
    merged = call(
        caller, "merge",
        {"aiSummary": {"result": "Verified coverage", "confidence": 0.93}, "stage": "approval"},
    )  # fmt: skip
    assert merged["stage"] == "approval"
    note = {"reviewer": "ops1", "comment": "ok to proceed"}
    assert call(caller, "append", "notes", note) == [note]
    assert call(caller, "increment", "retries", 1) == 1
    assert call(caller, "get", "aiSummary.confidence") == 0.93
    assert one(caller, "select hotmesh.entity_get('my-app', 'a') ->> 'caseId'") == "A42"


@pytest.mark.parametrize(
    ("command", "answer", "changed"),
    [
        (("set", {"z": 1}), {"z": 1}, {"z": 1}),
        (("set", "n", "2"), ..., {**BASE, "n": 2}),
        (("set", "new.way.down", '"x"'), ..., {**BASE, "new": {"way": {"down": "x"}}}),
        (("set", "nothing.below", "1"), ..., {**BASE, "nothing": {"below": 1}}),
        (("set", "list.0", "9"), ..., {**BASE, "list": [9, 2, 3]}),
        (("set", "list.-1", "9"), ..., {**BASE, "list": [1, 2, 9]}),
        (("set", "fresh.0", "9"), ..., {**BASE, "fresh": {"0": 9}}),
        (("set", "text", None), ..., {**BASE, "text": None}),
        (("set", r"with\.dot", "1"), ..., {**BASE, "with.dot": 1}),
        (("set", r"back\\slash", "1"), ..., {**BASE, "back\\slash": 1}),
        (("set", "a\"'b", "1"), ..., {**BASE, "a\"'b": 1}),
        (("set", "ключ.☃", "1"), ..., {**BASE, "ключ": {"☃": 1}}),
        (("set", "a..b", "1"), ..., {**BASE, "a": {"": {"b": 1}}}),
        (("merge", {"deep": {"a": {"c": 2}}, "new": {"x": 1}}), ...,
         {**BASE, "deep": {"a": {"b": 1, "c": 2}, "list": [{"x": 1}]}, "new": {"x": 1}}),
        (("merge", {"list": [4], "deep": {"a": 5}, "n": None}), ...,
         {**BASE, "list": [4], "deep": {"a": 5, "list": [{"x": 1}]}, "n": None}),
        (("merge", "deep.a", {"c": 2}), ...,
         {**BASE, "deep": {"a": {"b": 1, "c": 2}, "list": [{"x": 1}]}}),
        (("merge", "text", {"c": 2}), ..., {**BASE, "text": {"c": 2}}),
        (("append", "list", "4"), [1, 2, 3, 4], {**BASE, "list": [1, 2, 3, 4]}),
        (("append", "list", [4, 5]), [1, 2, 3, [4, 5]], {**BASE, "list": [1, 2, 3, [4, 5]]}),
        (("append", "log.all", '{"x":1}'), [{"x": 1}], {**BASE, "log": {"all": [{"x": 1}]}}),
        (("append", "nothing", "1"), [1], {**BASE, "nothing": [1]}),
        (("prepend", "list", "0"), [0, 1, 2, 3], {**BASE, "list": [0, 1, 2, 3]}),
        (("prepend", "new", "0"), [0], {**BASE, "new": [0]}),
        (("remove", "list", 0), [2, 3], {**BASE, "list": [2, 3]}),
        (("remove", "list", -1), [1, 2], {**BASE, "list": [1, 2]}),
        (("remove", "deep.list", 0), [], {**BASE, "deep": {"a": {"b": 1}, "list": []}}),
        (("increment", "n"), 2, {**BASE, "n": 2}),
        (("increment", "n", -4), -3, {**BASE, "n": -3}),
        (("increment", "deep.list.0.x", 2), 3,
         {**BASE, "deep": {"a": {"b": 1}, "list": [{"x": 3}]}}),
        (("increment", "metrics.total", 2), 2, {**BASE, "metrics": {"total": 2}}),
        (("increment", "nothing", 2), 2, {**BASE, "nothing": 2}),
        (("toggle", "yes"), False, {**BASE, "yes": False}),
        (("toggle", "no.way"), True, {**BASE, "no": {"way": True}}),
        (("set_if_not_exists", "n", "7"), 1, BASE),
        (("set_if_not_exists", "nothing", "7"), None, BASE),
        (("set_if_not_exists", "meta.v", '"1.0"'), "1.0", {**BASE, "meta": {"v": "1.0"}}),
        (("delete", "n"), ..., {k: v for k, v in BASE.items() if k != "n"}),
        (("delete", "deep.a.b"), ..., {**BASE, "deep": {"a": {}, "list": [{"x": 1}]}}),
        (("delete", "list.1"), ..., {**BASE, "list": [1, 3]}),
        (("delete", "list.-1"), ..., {**BASE, "list": [1, 2]}),
        (("delete", "not.there"), ..., BASE),
        (("delete", "nothing.there"), ..., BASE),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_command(
    entity: Connection, db: Connection, command: Any, answer: Any, changed: Any
) -> None:
    found = call(entity, *command)
    assert document(db) == changed
    assert found == (changed if answer is ... else answer)
    assert version(db) == 2


def test_a_path_reads_what_is_there(entity: Connection) -> None:
    expected = {
        "deep.a.b": 1, "list.0": 1, "list.-1": 3, "deep.list.0.x": 1, "list.3": None,
        "text.x": None, "none.at.all": None, "nothing": None,
    }  # fmt: skip
    assert {path: call(entity, "get", path) for path in expected} == expected
    assert one(entity, "select hotmesh.entity_get('my-app', 'a', 'nothing') is null") is False
    assert one(entity, "select hotmesh.entity_get('my-app', 'a', 'missing') is null") is True


def test_plain_calls_without_types_and_with_names(caller: Connection) -> None:
    start(caller, KEY)
    for query, expected in {
        """select hotmesh.entity_set('my-app', 'a', '{"x": 1}')""": {"x": 1},
        "select hotmesh.entity_set('my-app', 'a', 'y', '2')": {"x": 1, "y": 2},
        """select hotmesh.entity_merge(app => 'my-app', key => 'a', value => '{"z": 3}')""":
            {"x": 1, "y": 2, "z": 3},
        "select hotmesh.entity_increment('my-app', 'a', 'x', 0.5)": 1.5,
        "select hotmesh.entity_increment(app => 'my-app', key => 'a', path => 'x', amount => -1.5)": 0,
        "select hotmesh.entity_append('my-app', 'a', 'l', '1')": [1],
        "select hotmesh.entity_remove('my-app', 'a', 'l', 0)": [],
    }.items():  # fmt: skip
        assert one(caller, query) == expected


def test_numbers_past_double_precision_stay_exact(entity: Connection, db: Connection) -> None:
    entity.execute("select hotmesh.entity_set('my-app', 'a', 'n', '9007199254740993')")
    entity.execute("select hotmesh.entity_increment('my-app', 'a', 'n', 0.000000000000000001)")
    entity.execute("select hotmesh.entity_increment('my-app', 'a', 'big', 1e300)")
    entity.execute("select hotmesh.entity_increment('my-app', 'a', 'big', 1)")
    found = one(db, "select array[context ->> 'n', context ->> 'big'] from my_app.jobs")
    assert found == ["9007199254740993.000000000000000001", str(10**300 + 1)]
    assert one(db, "select (context ->> 'n')::numeric from my_app.jobs") == Decimal(found[0])


def test_a_closed_job_keeps_its_memory(db: Connection, caller: Connection) -> None:
    start(caller, KEY)
    hand = Hand(caller)
    hand.report(hand.take(), outcome={"output": 1})
    assert call(caller, "increment", "n", 2) == 2
    assert document(db) == {"n": 2}


def test_an_archived_one_can_only_be_read(db: Connection, caller: Connection) -> None:
    start(caller, KEY, expire=0)
    call(caller, "set", {"x": 1})
    hand = Hand(caller)
    hand.report(hand.take(), outcome={"output": 1})
    one(caller, "select hotmesh.job_archive('my-app')")
    assert call(caller, "get") == {"x": 1}
    assert call(caller, "get", "x") == 1
    with pytest.raises(psycopg.Error) as caught:
        call(caller, "set", {"x": 2})
    assert caught.value.diag.sqlstate == "MSH84"
    assert one(db, "select count(*) from my_app.entity_log") == 0
    assert one(db, "select count(*) from my_app.entity_log_all") == 1


def test_an_unknown_job_is_not_found(caller: Connection) -> None:
    for command in (("get",), ("set", {}), ("toggle", "x"), ("merge", {})):
        with pytest.raises(psycopg.Error) as caught:
            call(caller, *command)
        assert caught.value.diag.sqlstate == "MSH40"


VALUES: tuple[Any, ...] = (
    None, True, 0, Decimal("1e40"), "x", [], [1, {"n": 2}], {}, {"n": 1}, {"n": {"n": {"b": 2}}, "x": [3]},
    {"n": [1], "x": {"y": 0.1}},
)  # fmt: skip


def made(db: Connection, function: str, *args: Any) -> Any:
    """What the function makes of a document, or what it refuses."""
    try:
        return one(db, f"select hotmesh.{function}(%s::jsonb, %s, %s, %s::jsonb)::text", *args)
    except psycopg.Error as error:
        return (error.diag.sqlstate, error.diag.message_primary)


@pytest.mark.parametrize("operation", ["merge", "increment", "set"])
def test_plain_commands_make_what_the_long_way_makes(db: Connection, operation: str) -> None:
    documents = [json.dumps(value, default=float) for value in (*VALUES, {"list": list(VALUES)})]
    paths: list[list[str]] = [[], ["n"], ["n", "n"], ["x", "y"], ["0"], ["list", "-1", "n"]]
    for document in documents:
        for path in paths:
            for argument in documents:
                args = (document, operation, path, argument)
                assert made(db, "_patch", *args) == made(db, "_patch_apply", *args), args


def test_what_is_flat_merges_as_the_long_way_does(db: Connection) -> None:
    texts = ({"x": "{y}"}, {"x": "y", "n": [1, "z"]}, {"n": [{}]})
    values = [json.dumps(value, default=float) for value in (*VALUES, *texts)]
    flat = [text for text in values if one(db, "select hotmesh._patch_is_flat(%s)", text)]
    assert flat == ["{}", '{"n": 1}', '{"x": "y", "n": [1, "z"]}']
    for document in values:
        for argument in flat:
            plain = made(db, "_patch_apply", document, "merge", [], argument)
            try:
                laid = one(db, "select hotmesh._patch_lay(%s, %s)::text", document, argument)
            except psycopg.Error as error:
                laid = (error.diag.sqlstate, error.diag.message_primary)
            assert laid == plain, (document, argument)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "state", "words"),
    [
        (("set", [1]), "MSH80", ("whole", "object", "array")),
        (("set", "text.x", "1"), "MSH80", ("text", "object", "string")),
        (("set", "text.x.y.z", "1"), "MSH80", ("text", "object", "string")),
        (("merge", "n.x", {}), "MSH80", ("n", "object", "number")),
        (("merge", [1]), "MSH80", ("whole", "object", "array")),
        (("set", "list.3", "1"), "MSH81", ("list", "3", "0 to 2")),
        (("set", "list.-4", "1"), "MSH81", ("list", "-4")),
        (("set", "list.x", "1"), "MSH81", ("list", "x")),
        (("set", "list.x.y", "1"), "MSH81", ("list", "x")),
        (("set", "list.99999999999999", "1"), "MSH81", ("list",)),
        (("remove", "list", 3), "MSH81", ("list", "3")),
        (("remove", "list", -4), "MSH81", ("list", "-4")),
        (("remove", "missing", 0), "MSH81", ("missing", "0")),
        (("remove", "text", 0), "MSH80", ("text", "array", "string")),
        (("delete", "list.5"), "MSH81", ("list", "5")),
        (("delete", "text.x"), "MSH80", ("text", "object", "string")),
        (("delete", "text.x.y"), "MSH80", ("text", "object", "string")),
        (("append", "text", "1"), "MSH80", ("text", "array", "string")),
        (("append", "deep", "1"), "MSH80", ("deep", "array", "object")),
        (("prepend", "n", "1"), "MSH80", ("n", "array", "number")),
        (("increment", "text", 1), "MSH80", ("text", "number", "string")),
        (("increment", "yes", 1), "MSH80", ("yes", "number", "boolean")),
        (("increment", "n", "NaN"), "22023", ("NaN",)),
        (("increment", "n", None), "22023", ("null",)),
        (("increment", "text.n", 1), "MSH80", ("text", "object", "string")),
        (("toggle", "n"), "MSH80", ("n", "boolean", "number")),
        (("set_if_not_exists", "n.x", "1"), "MSH80", ("n", "object", "number")),
        (("remove", "list", None), "22023", ("index",)),
        (("delete", None), "22023", ("path",)),
        (("append", None, "1"), "22023", ("path",)),
        (("set", "x\\", "1"), "22023", ("escape",)),
        (("set", "x" * 10_001, "1"), "22023", ("long",)),
        (("set", "x", "NaN"), "22P02", ("json",)),
        (("set", "x", '"\\u0000"'), "22P05", ()),
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_says_where_and_why_and_changes_nothing(
    entity: Connection, db: Connection, command: Any, state: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        call(entity, *command)
    diag = caught.value.diag
    assert diag.sqlstate == state, diag.message_primary
    told = f"{diag.message_primary} {diag.message_detail}"
    assert all(word in told for word in words), told
    assert (document(db), version(db)) == (BASE, 1)


def test_a_document_past_the_limit_is_refused(entity: Connection, db: Connection) -> None:
    db.execute("update hotmesh.apps set settings = '{\"entity_limit\": 2000}'")
    with pytest.raises(psycopg.Error) as caught:
        call(entity, "set", "x", Jsonb("x" * 2000))
    diag = caught.value.diag
    assert (diag.sqlstate, "2000" in str(diag.message_detail)) == ("MSH83", True)
    call(entity, "set", "x", Jsonb("x" * 1000))
    with pytest.raises(psycopg.Error) as caught:
        call(entity, "set", "y", Jsonb("x" * 1000))
    assert caught.value.diag.sqlstate == "MSH83"
    assert "y" not in document(db)


def nested(levels: int, inner: Any = 1) -> Any:
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def test_nesting_has_a_limit(entity: Connection, db: Connection) -> None:
    call(entity, "set", nested(400))
    call(entity, "merge", nested(399, {"b": 2}))
    call(entity, "merge", nested(400, 3))
    deepest = ".".join(["a"] * 400)
    assert call(entity, "get", deepest) == 3
    assert call(entity, "increment", deepest, 4) == 7
    for command in (
        ("set", nested(401)), ("merge", nested(401)), ("set", deepest + ".a", "1"),
        ("append", "x", nested(401)), ("set", "y.z", nested(399)),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            call(entity, *command)
        assert caught.value.diag.sqlstate in ("MSH82", "MSH80"), command
    assert set(document(db)) == {"a"}


def test_an_empty_array_has_no_element_to_remove(entity: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        call(entity, "remove", "none", 0)
    assert caught.value.diag.sqlstate == "MSH81"
    assert caught.value.diag.message_detail == "It has no elements."


# --- several in one, idempotency keys -------------------------------------------------------------


def test_several_commands_are_one_change(entity: Connection, db: Connection) -> None:
    commands: list[dict[str, Any]] = [
        {"operation": "increment", "path": "n"},
        {"operation": "increment", "path": "n", "amount": 3},
        {"operation": "append", "path": "list", "value": 4},
        {"operation": "remove", "path": "list", "index": 0},
        {"operation": "get", "path": "list"},
        {"operation": "get", "path": "missing"},
        {"operation": "merge", "value": {"deep": {"c": 1}}},
    ]
    *answers, merged = call(entity, "apply", commands)
    assert answers == [2, 5, [1, 2, 3, 4], [2, 3, 4], [2, 3, 4], None]
    assert merged == document(db)
    assert merged["deep"] == {**BASE["deep"], "c": 1}  # type: ignore[dict-item]
    assert version(db) == 6


def test_one_bad_command_undoes_all(entity: Connection, db: Connection) -> None:
    commands = [{"operation": "increment", "path": "n"}, {"operation": "toggle", "path": "n"}]
    with pytest.raises(psycopg.Error) as caught:
        call(entity, "apply", commands)
    assert caught.value.diag.sqlstate == "MSH80"
    assert (document(db), version(db)) == (BASE, 1)


@pytest.mark.parametrize(
    "commands",
    [
        [],
        {},
        [1],
        [{"operation": "destroy"}],
        [{}],
        [{"operation": "append"}],
        None,
        [{"operation": "toggle", "path": 5}],
        [{"operation": "toggle", "path": ["x"]}],
    ],
)
def test_bad_commands_are_refused(entity: Connection, commands: Any) -> None:
    with pytest.raises(psycopg.Error) as caught:
        call(entity, "apply", commands)
    assert caught.value.diag.sqlstate == "22023"


def test_the_same_request_counts_once(entity: Connection, db: Connection) -> None:
    first = call(entity, "increment", "n", 5, "order-1")
    call(entity, "increment", "n", 1)
    assert (
        [call(entity, "increment", "n", 5, "order-1") for _ in range(3)] == [first] * 3 == [6] * 3
    )
    assert call(entity, "set", None, {"x": 1}, "r2") == {"x": 1}
    assert call(entity, "set", None, {"x": 2}, "r2") == {"x": 1}
    both = [{"operation": "increment", "path": "x"}, {"operation": "toggle", "path": "y"}]
    assert call(entity, "apply", both, "r3") == call(entity, "apply", both, "r3") == [2, True]
    assert (document(db), version(db)) == ({"x": 2, "y": True}, 6)
    for bad in ("", "x" * 501):
        with pytest.raises(psycopg.Error) as caught:
            call(entity, "toggle", "yes", bad)
        assert caught.value.diag.sqlstate == "22023"


# --- the owner's own hand -------------------------------------------------------------------------


def test_a_plain_update_is_a_version_of_its_own(entity: Connection, db: Connection) -> None:
    db.execute("update my_app.jobs set context = context || '{\"hand\": 1}' where key = 'a'")
    assert version(db) == 2
    db.execute("update my_app.jobs set context = context, queue = queue")
    db.execute("update my_app.jobs set updated_at = updated_at")
    assert version(db) == 2
    call(entity, "increment", "hand", 1)
    assert version(db) == 3
    assert db.execute(
        "select version, operation, role from my_app.entity_log order by version"
    ).fetchall() == [
        (1, "set", "hotmesh_caller"),
        (2, "update", "hotmesh_owner"),
        (3, "increment", "hotmesh_caller"),
    ]


def test_a_constraint_of_the_owner_holds(entity: Connection, db: Connection) -> None:
    db.execute(
        "alter table my_app.jobs add constraint n_is_small check ((context ->> 'n')::numeric < 10)"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="n_is_small"):
        call(entity, "increment", "n", 10)
    assert call(entity, "increment", "n", 8) == 9
    assert document(db)["n"] == 9


def test_the_queries_of_the_seeds_run_as_they_are_written(
    entity: Connection, db: Connection
) -> None:
    db.execute("set search_path = my_app")
    db.execute(
        "create index idx_user_premium on my_app.jobs (id)"
        " where entity = 'user' and (context->>'isPremium')::boolean = true"
    )
    call(entity, "set", {"stage": "open", "aiSummary": {"result": "fine"}})
    assert db.execute(
        "SELECT id, context->>'stage', context->'aiSummary'->>'result' FROM my_app.jobs"
        " WHERE entity = 'order' AND context->>'stage' != 'complete';"
    ).fetchall()[0][1:] == ("open", "fine")
