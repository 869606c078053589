"""Entity: find jobs by their documents, and make the indexes for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.types.json import Jsonb

from hotmesh import Client, Entity, MemFlow, SyncClient, SyncEntity, errors
from hotmesh._calls import Call

APP = "my-app"
USERS = [
    {"name": "Ann", "age": 41, "tags": ["a", "b"], "address": {"city": "Rome"}},
    {"name": "Bob", "age": 17, "tags": ["b"]},
    {"name": "Cid", "age": "old", "a.b": 1},
]


@pytest.fixture
async def client(dsn: str, db: psycopg.Connection[Any]) -> AsyncIterator[Client]:
    """A client, and three users u0 to u2."""
    async with Client(dsn, APP) as client:
        for number, user in enumerate(USERS):
            await client.workflow.start(workflow_name="user", workflow_id=f"u{number}")
            db.execute(
                "update my_app.jobs set context = %s where key = %s", [Jsonb(user), f"u{number}"]
            )
        yield client


def keys(found: Any) -> list[str]:
    return [each["key"] for each in found]


async def test_find_gives_key_context_and_status_newest_first(client: Client) -> None:
    assert await Entity.find("user", {"age": {"$gt": 16}}, client) == [
        {"key": "u1", "context": USERS[1], "status": 1},
        {"key": "u0", "context": USERS[0], "status": 1},
    ]
    assert keys(await Entity.find("user", {}, client)) == ["u2", "u1", "u0"]
    assert keys(await Entity.find("user", None, client, limit=1, offset=1)) == ["u1"]
    assert keys(await Entity.find("user", client=client, limit=1, before="u1")) == ["u0"]
    assert keys(await Entity.find("user", client=client, order_by="name")) == ["u0", "u1", "u2"]
    found = await Entity.find("user", {}, client, order_by="name", descending=True)
    assert keys(found) == ["u2", "u1", "u0"]
    assert not await Entity.find("nobody", {}, client)


async def test_find_takes_the_operators(client: Client) -> None:
    for conditions, found in [
        ({"name": "Ann"}, ["u0"]),
        ({"address.city": "Rome"}, ["u0"]),
        ({r"a\.b": 1}, ["u2"]),
        ({"tags": {"$contains": ["b"]}}, ["u1", "u0"]),
        ({"age": {"$in": [17, "old"]}}, ["u2", "u1"]),
        ({"tags": {"$exists": False}}, ["u2"]),
        ({"$or": [{"name": "Ann"}, {"age": {"$lt": 18}}]}, ["u1", "u0"]),
        ({"name": "'; drop table jobs; --"}, []),
    ]:
        assert keys(await MemFlow.Entity.find("user", conditions, client)) == found, conditions


async def test_find_by_id_finds_one_or_none(client: Client) -> None:
    assert await Entity.find_by_id("user", "u0", client) == {
        "key": "u0", "context": USERS[0], "status": 1,
    }  # fmt: skip
    assert await Entity.find_by_id("user", "u7", client) is None
    assert await Entity.find_by_id("other", "u0", client) is None


@pytest.mark.parametrize(
    ("field", "operator", "value", "found"),
    [
        ("age", "=", 41, ["u0"]), ("age", "!=", 41, ["u2", "u1"]), ("age", ">", 17, ["u0"]),
        ("age", ">=", 17, ["u1", "u0"]), ("age", "<", 41, ["u1"]), ("age", "<=", 41, ["u1", "u0"]),
        ("name", "LIKE", "%n%", ["u0"]), ("name", "in", ("Ann", "Cid"), ["u2", "u0"]),
        ("age", "<", "z", ["u2"]), ("age", "$gte", 17, ["u1", "u0"]),
    ],
)  # fmt: skip
async def test_find_by_condition_compares(
    client: Client, field: str, operator: str, value: Any, found: list[str]
) -> None:
    assert keys(await Entity.find_by_condition("user", field, value, operator, client)) == found


async def test_find_by_condition_asks_for_equality_by_default(client: Client) -> None:
    found = await Entity.find_by_condition("user", "age", 17, client=client, limit=5, offset=0)
    assert keys(found) == ["u1"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [({"a": {"$near": 1}}, "near"), ({"a": {"$gt": None}}, "gt takes"), ({"a": {"$in": 3}}, "in takes"),
     ([1], "must be a dict"), ({"a": float("nan")}, "nan"), ({"a\0": 1}, "NUL")],
)  # fmt: skip
async def test_conditions_that_make_no_sense_are_refused(
    client: Client, conditions: Any, message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        await Entity.find("user", conditions, client)


async def test_other_bad_input_is_refused(client: Client, dsn: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="unknown operator") as told:
        await Entity.find_by_condition("user", "age", 1, client)  # type: ignore[arg-type]
    assert "the client comes after it" in str(told.value.hint)
    with pytest.raises(errors.InvalidArgumentError, match="unknown operator"):
        await Entity.find_by_condition("user", "age", 1, "= 1 or 1", client)
    with pytest.raises(errors.InvalidArgumentError, match="limit"):
        await Entity.find("user", {}, client, limit=-1)
    assert await Entity.find("user", {}, client, limit=0) == []
    with pytest.raises(errors.InvalidArgumentError, match="must be a dict, not an int"):
        await Entity.find("user", 1, client)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError, match="kind of index"):
        await Entity.create_index("user", "a", client, "hash (a); --")
    with pytest.raises(errors.InvalidArgumentError, match="must be a Client"):
        await Entity.find("user", {})
    with SyncClient(dsn, APP) as blocking:
        with pytest.raises(errors.InvalidArgumentError, match="not a SyncClient"):
            await Entity.find("user", {}, blocking)
        with pytest.raises(errors.JobNotFoundError):
            SyncEntity.find("user", {}, blocking, before="nobody")


async def test_an_index_is_made_once_and_is_there(
    client: Client, db: psycopg.Connection[Any]
) -> None:
    names = [
        await Entity.create_index("user", "age", client),
        await Entity.create_index("user", "100%.o'clock", client, index_type="btree"),
        await Entity.create_index("user", "tags", client, index_type="GIN"),
        await Entity.create_index("user", None, client, index_type="gin"),
    ]
    assert names[0] == await Entity.create_index("user", "age", client)
    rows = db.execute(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indisvalid and c.relname = any (%s)",
        [names],
    ).fetchall()
    assert sorted(row[0] for row in rows) == sorted(names)
    assert keys(await Entity.find("user", {"age": 17, "tags": {"$contains": "b"}}, client)) == [
        "u1"
    ]


async def test_an_owner_builds_without_stopping_writers(client: Client, db: Any) -> None:
    ran = []
    run = client._session.run

    async def listen(call: Call[Any], conn: object = None) -> Any:
        ran.append(call.sql)
        return await run(call, conn)

    client._session.run = listen  # type: ignore[method-assign]
    await Entity.create_index("user", "age", client)
    assert any(sql.startswith("create index concurrently") for sql in ran)


async def test_a_pool_in_transactions_makes_the_index_too(
    dsn: str, client: Client, db: psycopg.Connection[Any]
) -> None:
    async with psycopg_pool.AsyncConnectionPool(dsn, open=False) as pool:
        async with Client(pool, APP) as pooled:
            name = await Entity.create_index("user", "age", pooled)
    assert db.execute("select to_regclass(%s)", [f"my_app.{name}"]).fetchone() != (None,)


async def test_who_does_not_own_the_tables_makes_it_through_the_door(
    client: Client, caller_dsn: str, db: psycopg.Connection[Any]
) -> None:
    async with Client(caller_dsn, APP) as operator:
        name = await Entity.create_index("user", "age", operator)
        assert keys(await Entity.find("user", {"age": 17}, operator)) == ["u1"]
    assert db.execute("select to_regclass(%s)", [f"my_app.{name}"]).fetchone() != (None,)


def test_the_blocking_twin_does_the_same(client: Client, dsn: str) -> None:
    with SyncClient(dsn, APP) as blocking:
        assert keys(SyncEntity.find("user", {"age": 17}, blocking)) == ["u1"]
        assert keys(SyncEntity.find_by_condition("user", "age", 17, ">", blocking)) == ["u0"]
        name = SyncEntity.create_index("user", "age", blocking)
        assert name == SyncEntity.create_index("user", "age", blocking)
        found = SyncEntity.find_by_id("user", "u2", blocking)
        assert found is not None
        assert found["context"] == USERS[2]
        assert SyncEntity.find_by_id("user", "u3", blocking) is None


async def test_what_init_gave_is_a_client_too(client: Client, dsn: str) -> None:
    async with await MemFlow.init(APP, dsn) as memflow:
        assert keys(await Entity.find("user", {"age": 17}, memflow)) == ["u1"]
