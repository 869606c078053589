"""Find: jobs by what their documents say; typed, bound, and by indexes."""

from __future__ import annotations

import json
import locale
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.hand import Connection, one
from support.plans import recorded


def put(db: Connection, documents: Sequence[Any], entity: str = "user") -> list[str]:
    """Jobs with these documents, oldest first; their keys are k0, k1 …"""
    start = one(db, "select count(*) from my_app.jobs")
    keys = [f"k{start + number}" for number in range(len(documents))]
    with db.cursor() as cursor:
        cursor.executemany(
            "insert into my_app.jobs (key, entity, topic, context, created_at, updated_at)"
            " values (%s, %s, 'w', %s, now(), now())",
            [(key, entity, Jsonb(document)) for key, document in zip(keys, documents, strict=True)],
        )
    return keys


def find(caller: Connection, conditions: Any, entity: str = "user", **more: Any) -> list[str]:
    """The keys of what is found."""
    named = [f"{name} => %s" for name in more]
    query = "select key from hotmesh.entity_find('my-app', %s, %s" + "".join(
        f", {each}" for each in named
    )
    rows = caller.execute(f"{query})", [entity, Jsonb(conditions), *more.values()]).fetchall()
    return [row[0] for row in rows]


def positions(caller: Connection, conditions: Any, **more: Any) -> list[int]:
    return sorted(int(key[1:]) for key in find(caller, conditions, **more))


USERS = [
    {"name": "ann", "age": 30, "tags": ["a", "b"], "address": {"city": "Rome"}, "vip": True},
    {"name": "bob", "age": "30", "tags": [], "a.b": {"c": 1}, "vip": False},
    {"name": "cid", "age": 30.0, "tags": "a", "address": {"city": None}},
    {"name": "dan", "age": 9, "tags": ["a", {"x": 1, "y": 2}], "": {"": "empty"}},
    {"name": None, "age": None, "it's": '"q"'},
    [],
    "text",
]


CASES: list[tuple[Any, list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5, 6]),
    ({"name": "ann"}, [0]),
    ({"age": 30}, [0, 2]),
    ({"age": "30"}, [1]),
    ({"age": {"$eq": 30.00}}, [0, 2]),
    ({"age": {"$ne": 30}}, [1, 3, 4]),
    ({"age": {"$gt": 9}}, [0, 2]),
    ({"age": {"$gte": 9}}, [0, 2, 3]),
    ({"age": {"$lt": 30}}, [3]),
    ({"age": {"$lte": 30}}, [0, 2, 3]),
    ({"age": {"$gte": "3"}}, [1]),
    ({"age": {"$gt": 5, "$lt": 10}}, [3]),
    ({"name": {"$lt": "bz"}}, [0, 1]),
    ({"name": {"$in": ["ann", "dan", 7, None]}}, [0, 3, 4]),
    ({"name": {"$in": []}}, []),
    ({"name": None}, [4]),
    ({"vip": True}, [0]),
    ({"vip": {"$exists": True}}, [0, 1]),
    ({"vip": {"$exists": False}}, [2, 3, 4, 5, 6]),
    ({"name": {"$exists": True}}, [0, 1, 2, 3, 4]),
    ({"address.city": "Rome"}, [0]),
    ({"address": {"city": "Rome"}}, [0]),
    ({"tags": ["a", "b"]}, [0]),
    ({"tags": []}, [1]),
    ({"tags.0": "a"}, [0, 3]),
    ({"tags.-1": {"x": 1, "y": 2}}, [3]),
    ({"tags": {"$contains": "a"}}, [0, 2, 3]),
    ({"tags": {"$contains": ["b", "a"]}}, [0]),
    ({"tags": {"$contains": [{"x": 1}]}}, [3]),
    ({"address": {"$contains": {"city": "Rome"}}}, [0]),
    ({r"a\.b.c": 1}, [1]),
    ({"a.b.c": 1}, []),
    ({".": "empty"}, [3]),
    ({"it's": '"q"'}, [4]),
    ({"name": {"$like": "_n%"}}, [0]),
    ({"age": {"$like": "3%"}}, [1]),
    ({"name": "ann", "age": 9}, []),
    ({"$or": [{"name": "ann"}, {"age": 9}]}, [0, 3]),
    ({"$and": [{"age": 30}, {"$or": [{"name": "cid"}, {"vip": False}]}]}, [2]),
    ({"$or": [{"name": "ann", "vip": False}, {"name": "bob", "vip": False}]}, [1]),
    ({"age": {"$gt": 5}, "$or": [{"vip": True}, {"name": "cid"}]}, [0, 2]),
    ({"name": "'; drop table my_app.jobs; --"}, []),
    ({"x' or '1'='1": 1}, []),
    ({") $2 -> 1": 1}, []),
    ({"name": "%s $1 \\ {"}, []),
]


def test_conditions_find_what_they_say_with_and_without_indexes(
    caller: Connection, db: Connection
) -> None:
    put(db, USERS)
    put(db, [{"name": "ann", "age": 30}], entity="other")
    for conditions, found in CASES:
        assert positions(caller, conditions) == found, conditions
    for field in ("name", "age", "tags", "address.city", "vip"):
        db.execute("select hotmesh.entity_create_index('my-app', 'user', %s)", [field])
    db.execute("select hotmesh.entity_create_index('my-app', 'user', 'tags', 'gin')")
    db.execute("select hotmesh.entity_create_index('my-app', 'user', method => 'gin')")
    for conditions, found in CASES:
        assert positions(caller, conditions) == found, conditions


def test_rows_have_key_context_and_status_newest_first(caller: Connection, db: Connection) -> None:
    put(db, [{"n": n} for n in range(3)])
    rows = caller.execute("select * from hotmesh.entity_find('my-app', 'user')").fetchall()
    assert rows == [(f"k{n}", {"n": n}, 1) for n in (2, 1, 0)]


def test_pages_by_skip_and_by_the_last_key(caller: Connection, db: Connection) -> None:
    keys = put(db, [{"n": n % 2} for n in range(10)])[::-1]
    assert find(caller, {}, take=4) == keys[:4]
    assert find(caller, {}, take=4, skip=4) == keys[4:8]
    assert find(caller, {}, take=4, before=keys[3]) == keys[4:8]
    assert find(caller, {"n": 0}, take=2, before=keys[3]) == [keys[5], keys[7]]
    assert find(caller, {}, keys=["k3", "k5", "none"]) == ["k5", "k3"]
    with pytest.raises(psycopg.Error) as unknown:
        find(caller, {}, before="nobody")
    assert unknown.value.sqlstate == "MSH40"


def test_a_path_orders_by_type_and_value(caller: Connection, db: Connection) -> None:
    values = [3, "b", None, 20, "a", True, 3.5]
    put(db, [{"v": value} for value in values] + [{}, {}])
    order = ["k2", "k4", "k1", "k0", "k6", "k3", "k5"]
    assert find(caller, {}, order_by="v") == [*order, "k8", "k7"]
    assert find(caller, {}, order_by="v", descending=True) == [*order[::-1], "k8", "k7"]
    assert find(caller, {}, order_by="v", take=2, skip=3) == ["k0", "k6"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"a": {"$near": 1}}, r"unknown operator: \$near"),
        ({"$nor": [{"a": 1}]}, r"unknown operator: \$nor"),
        ({"a": {"$gt": 1, "b": 2}}, "unknown operator: b"),
        ({"$2 -> 1": 1}, "unknown operator"),
        ({"a": {"$gt": 1, "$or 1=1": 2}}, "unknown operator"),
        ({"a": {"$gt": None}}, r"\$gt takes a number or a text"),
        ({"a": {"$lte": [1]}}, r"\$lte takes"),
        ({"a": {"$in": 1}}, r"\$in takes an array"),
        ({"a": {"$in": list(range(10001))}}, r"\$in takes an array"),
        ({"a": {"$exists": 1}}, r"\$exists takes true or false"),
        ({"a": {"$like": 1}}, r"\$like takes"),
        ({"a": {"$like": "a\\"}}, r"\$like takes"),
        ({"$or": []}, r"\$or takes"),
        ({"$or": {"a": 1}}, r"\$or takes"),
        ({"$and": [1]}, "no JSON object"),
        ([], "no JSON object"),
        (None, "no JSON object"),
        ("name = 'x'", "no JSON object"),
        ({"a\\": 1}, "within an escape"),
        ({f"a{n}": n for n in range(300)}, "too many"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_refused(
    caller: Connection, db: Connection, conditions: Any, message: str
) -> None:
    put(db, USERS)
    before = db.execute("select key, context from my_app.jobs order by id").fetchall()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as refused:
        find(caller, conditions)
    assert refused.value.diag.message_hint
    assert db.execute("select key, context from my_app.jobs order by id").fetchall() == before


def test_deep_conditions_are_refused_and_not_followed(caller: Connection) -> None:
    conditions: Any = {"a": 1}
    for _ in range(100):
        conditions = {"$and": [conditions]}
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="too many"):
        find(caller, conditions)


@pytest.mark.parametrize(
    "page",
    [
        {"take": -1}, {"take": 10001}, {"take": None}, {"skip": -1}, {"entity": ""}, {"descending": True},
        {"order_by": "a", "before": "k0"}, {"order_by": "a\\"},
    ],
    ids=str,
)  # fmt: skip
def test_a_page_that_makes_no_sense_is_refused(caller: Connection, page: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        find(caller, {}, **page)


def test_a_page_of_nothing_is_empty(caller: Connection) -> None:
    caller.execute("select hotmesh.job_start('my-app', 'user', 'a')")
    assert (find(caller, {}), find(caller, {}, take=0)) == (["a"], [])


# --- a model --------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, 10**30]),
    st.sampled_from(["", "a", "b", "ab", "1", "A" * 1500, "A" * 1501, "A" * 4000]),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("xy"), SCALARS)
)
RANGES = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}  # fmt: skip
TESTS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), VALUES),
    st.tuples(st.just("$in"), st.lists(VALUES, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(
        st.sampled_from(sorted(RANGES)),
        SCALARS.filter(lambda v: v is not None and not isinstance(v, bool)),
    ),
)


def typed(value: Any) -> Any:
    """A value that equals another one only if jsonb says so."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list):
        return ("list", *map(typed, value))
    if isinstance(value, dict):
        return ("dict", *sorted((key, typed(each)) for key, each in value.items()))
    return value


def holds(document: dict[str, Any], operator: str, value: Any) -> bool:
    if operator == "$exists":
        return ("v" in document) == value
    if "v" not in document:
        return False
    given = document["v"]
    if operator == "$in":
        return typed(given) in map(typed, value)
    if operator in ("$eq", "$ne"):
        return (typed(given) == typed(value)) == (operator == "$eq")
    kinds = [str if isinstance(each, str) else float for each in (given, value)]
    if isinstance(given, bool | list | dict) or given is None or kinds[0] is not kinds[1]:
        return False
    if isinstance(given, str):
        given, value = locale.strxfrm(given), locale.strxfrm(value)
    return bool(RANGES[operator](given, value))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.one_of(st.none(), st.tuples(VALUES)), max_size=8),
    st.lists(TESTS, min_size=1, max_size=4),
)
def test_find_is_the_model_with_and_without_an_index(
    db: Connection, documents: list[Any], tests: list[tuple[str, Any]]
) -> None:
    contexts = [{} if each is None else {"v": each[0]} for each in documents]
    db.execute("truncate my_app.jobs cascade")
    put(db, contexts)
    expected = [[n for n, each in enumerate(contexts) if holds(each, *test)] for test in tests]
    for entity in ("none", "user"):
        db.execute("select hotmesh.entity_create_index('my-app', %s, 'v')", [entity])
        db.execute("select hotmesh.entity_create_index('my-app', %s, method => 'gin')", [entity])
        for (operator, value), found in zip(tests, expected, strict=True):
            assert positions(db, {"v": {operator: value}}) == found, (operator, value)
    db.execute("truncate my_app.jobs cascade")


# --- indexes --------------------------------------------------------------------------------------


def scans(admin: Connection, conditions: Any, **more: Any) -> list[str]:
    """The indexes by which find reads the jobs."""
    with recorded(admin) as plans:
        find(admin, conditions, **more)
    [plan] = [plan for plan in plans if plan.query.startswith("select key, context, status")]
    return plan.scans("jobs")


def index(connection: Connection, field: str | None, method: str = "btree") -> str:
    query = "select hotmesh.entity_create_index('my-app', 'user', %s, %s)"
    return str(one(connection, query, field, method))


@pytest.fixture
def crowd(db: Connection) -> Connection:
    """20,000 users and as many others; nobody analyzes."""
    db.execute(
        "insert into my_app.jobs (key, entity, topic, context, created_at, updated_at)"
        " select format('%s-%s', e, g), e, 'w', jsonb_build_object('email', format('u%s@x', g),"
        "        'age', g, 'stage', case when g % 2 = 0 then 'open' else 'closed' end,"
        "        'address', jsonb_build_object('zip', g::text), 'tags', array[g, g + 1]),"
        "        now(), now()"
        " from generate_series(1, 20000) g, unnest(array['user', 'other']) e order by g"
    )
    return db


@pytest.mark.parametrize("when", ["before", "after"])
def test_find_reads_by_the_index_of_the_path(
    admin: Connection, db: Connection, request: pytest.FixtureRequest, when: str
) -> None:
    """Made on the full table, and made on an empty one that then grew without analyze."""
    crowd = request.getfixturevalue("crowd") if when == "after" else db
    names = {field: index(crowd, field) for field in ("email", "age", "address.zip")}
    names["tags"] = index(crowd, "tags", "gin")
    find(admin, {"email": "u7@x"})
    request.getfixturevalue("crowd")
    for conditions, field in [
        ({"email": "u7@x"}, "email"),
        ({"email": {"$in": ["u7@x", "u8@x"]}}, "email"),
        ({"age": 12}, "age"),
        ({"age": {"$gt": 19990}}, "age"),
        ({"age": {"$gte": 7, "$lt": 9}}, "age"),
        ({"address.zip": "77"}, "address.zip"),
        ({"tags": {"$contains": 5}}, "tags"),
        ({"$and": [{"stage": "open"}, {"age": {"$lte": 10, "$gt": 0}}]}, "age"),
    ]:
        found = scans(admin, conditions, take=20)
        assert set(found) == {names[field]}, (conditions, found)


def test_find_reads_either_branch_of_an_or_by_its_index(
    admin: Connection, crowd: Connection
) -> None:
    names = [index(crowd, "email"), index(crowd, "age")]
    found = scans(admin, {"$or": [{"email": "u7@x"}, {"age": 12}]}, take=20)
    assert set(found) == set(names)


def test_an_index_of_the_document_serves_every_path(admin: Connection, crowd: Connection) -> None:
    name = index(crowd, None, "gin")
    assert scans(admin, {"address.zip": "77"}, take=20) == [name]
    assert set(scans(admin, {"tags": {"$contains": 7}}, take=20)) == {name}


def test_without_an_index_find_reads_the_entity_newest_first(
    admin: Connection, crowd: Connection
) -> None:
    for conditions in ({}, {"stage": "open"}):
        assert scans(admin, conditions, take=20) == ["jobs_entity"]
    assert scans(admin, {}, take=20, before="user-100") == ["jobs_entity"]
    assert scans(admin, {}, keys=["user-100"]) == ["jobs_have_one_key"]


def test_a_common_value_does_not_read_all_that_have_it(
    admin: Connection, crowd: Connection
) -> None:
    name = index(crowd, "stage")
    assert name not in scans(admin, {"stage": "open"}, take=20)
    assert scans(admin, {"stage": "none"}, take=20) == [name]


def test_an_index_is_made_once_partial_and_has_a_stable_name(db: Connection) -> None:
    query = "select indexname, indexdef from pg_indexes where indexname = %s"
    name = index(db, "address.zip code'\"")
    assert name.startswith("jobs_user_address_zip_code_btree_")
    assert name == index(db, "address.zip code'\"")
    [(_, definition)] = db.execute(query, [name]).fetchall()
    assert "ON my_app.jobs" in definition
    assert "WHERE (entity = 'user'::text)" in definition
    assert len({index(db, field) for field in ("a.b", "a_b", "a\\.b", "A.b")}) == 4
    assert len({index(db, "a.b"), index(db, "a.b", "gin"), index(db, None, "gin")}) == 3
    assert len(index(db, "x" * 5000)) <= 63


def test_an_index_that_was_left_invalid_is_made_again(admin: Connection, db: Connection) -> None:
    name = index(db, "a")
    admin.execute(
        "update pg_index set indisvalid = false where indexrelid = %s::regclass", [f"my_app.{name}"]
    )
    assert index(db, "a") == name
    valid = "select indisvalid from pg_index where indexrelid = %s::regclass"
    assert one(db, valid, f"my_app.{name}")


@pytest.mark.parametrize(
    ("field", "method"),
    [("a", "gist"), ("a", None), ("a", "btree (id); --"), (None, "btree"), ("a\\", "btree")],
)
def test_an_index_that_makes_no_sense_is_refused(db: Connection, field: Any, method: Any) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        index(db, field, method)


def test_no_document_is_too_large_for_an_index(db: Connection) -> None:
    index(db, "v")
    noise = "".join(chr(65 + (n * n * 7919 + n // 3) % 5000) for n in range(200_000))
    [key] = put(db, [{"v": noise}])
    assert find(db, {"v": noise}) == [key]
    assert find(db, {"v": {"$gt": noise[:100]}}) == [key]
    [key] = put(db, [{"v": {"list": list(range(50_000))}}])
    assert find(db, {"v": {"$contains": {"list": [7]}}}) == [key]


def test_the_statements_are_for_an_owner(db: Connection, caller: Connection) -> None:
    query = "select entity_index_ddl from hotmesh.entity_index_ddl('my-app', 'it''s', 'a', 'gin')"
    assert not caller.execute(query).fetchall()
    statements = [row[0] for row in db.execute(query)]
    assert "concurrently" in statements[0]
    for statement in statements:
        db.execute(statement)
    assert not db.execute(query).fetchall()
    name = one(db, "select hotmesh.entity_create_index('my-app', 'it''s', 'a', 'gin')")
    assert f" {name} " in statements[0]


def test_the_queries_of_the_readme_of_hotmesh_run_as_they_are_written(db: Connection) -> None:
    put(db, [{"stage": "review", "aiSummary": {"result": "ok"}}], "claims-review")
    put(db, [{"isPremium": True}])
    db.execute(
        "CREATE INDEX idx_user_premium ON my_app.jobs (id)\n"
        "WHERE entity = 'user' AND (context->>'isPremium')::boolean = true;"
    )
    rows = db.execute(
        "SELECT id, context->>'stage', context->'aiSummary'->>'result'\n"
        "FROM my_app.jobs\nWHERE entity = 'claims-review'\n  AND context->>'stage' != 'complete';"
    ).fetchall()
    assert [row[1:] for row in rows] == [("review", "ok")]
    db.execute(
        "create index on my_app.jobs (id) where entity = 'user' and (context->>'isPremium')::boolean = true"
    )
    db.execute("select hotmesh.job_start('my-app', 'w', 'order-456', '[1]')")
    db.execute("set search_path = my_app")
    rows = db.execute(
        "SELECT\nj.key AS job_key,\nj.status AS semaphore,\nj.entity AS workflow,\n"
        "a.field AS attribute,\na.value AS value,\nj.created_at,\nj.updated_at\nFROM\njobs j\n"
        "JOIN jobs_attributes a ON a.job_id = j.id\nWHERE\nj.key = 'order-456'\nORDER BY\na.field;"
    ).fetchall()
    assert [row[:5] for row in rows] == [("order-456", 1, "w", "input", [1])]
