"""Client and SyncClient: start, wait, read, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from typing import Any

import psycopg
import pytest

from hotmesh import _calls, errors
from hotmesh.client import Client, SyncClient

APP = "my-app"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def finish(dsn: str, outcomes: dict[str, Any]) -> None:
    """End jobs as a worker would: one turn that takes them, one that reports."""
    want = {"workflow": 100, "kinds": ["workflow"], "queues": ["orders"], "names": ["ship"]}
    with SyncClient(dsn, APP) as client:
        run = client._session.run
        tasks = run(_calls.turn(APP, "test", want=json.dumps(want)))
        reports = [
            {"id": t.id, "token": t.token, "cursor": t.cursor, "outcome": outcomes[t.key]}
            for t in tasks
            if t.key in outcomes
        ]
        assert len(reports) == len(outcomes)
        run(_calls.turn(APP, "test", reports=json.dumps(reports)))


SHIP: dict[str, Any] = {"workflow_name": "ship", "task_queue": "orders", "args": ["item-123", 5]}

# --- start ---


async def test_a_start_returns_a_handle_of_an_open_job(client: Client) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    assert (handle.workflow_id, handle.workflow_name) == ("order-1", "ship")
    assert handle.task_queue == "orders"
    assert await handle.status() > 0


def test_the_blocking_twin_does_the_same(sync_client: SyncClient) -> None:
    handle = sync_client.workflow.start(**SHIP, workflow_id="order-1")
    assert (handle.workflow_id, handle.workflow_name) == ("order-1", "ship")
    assert handle.status() > 0


def test_a_workflow_may_be_named_by_its_function(sync_client: SyncClient) -> None:
    async def ship(item: str) -> None: ...

    assert sync_client.workflow.start(workflow_name=ship, args=["a"]).workflow_name == "ship"


def test_an_id_is_made_up_when_there_is_none(sync_client: SyncClient) -> None:
    one, two = (sync_client.workflow.start(**SHIP) for _ in range(2))
    assert one.workflow_id != two.workflow_id


def test_the_twins_have_the_same_methods(dsn: str) -> None:
    def public(kind: object) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    sync_client, client = SyncClient(dsn), Client(dsn)
    assert public(sync_client) == public(client) - {"sub", "unsub"}  # to listen takes a loop
    assert public(sync_client.workflow) == public(client.workflow)
    one, two = (each.workflow.get_handle("q", "f", "id") for each in (sync_client, client))
    assert public(one) == public(two)
    assert not inspect.iscoroutinefunction(client.workflow.get_handle)


async def test_many_are_started_in_one_call_and_come_back_in_order(client: Client) -> None:
    ids = [f"order-{number}" for number in (3, 1, 2)]
    handles = await client.workflow.start_many([{**SHIP, "workflow_id": id} for id in ids])
    assert [handle.workflow_id for handle in handles] == ids
    assert await client.workflow.start_many([]) == []


def test_many_are_all_or_none(sync_client: SyncClient) -> None:
    sync_client.workflow.start(**SHIP, workflow_id="b")
    with pytest.raises(errors.DuplicateJobError, match=r"^Duplicate job: b$"):
        sync_client.workflow.start_many([{**SHIP, "workflow_id": id} for id in "ab"])
    with pytest.raises(errors.JobNotFoundError):
        sync_client.workflow.get_handle(workflow_id="a").status()


def test_a_taken_id_is_refused_or_returned_by_policy(sync_client: SyncClient) -> None:
    start = sync_client.workflow.start
    start(**SHIP, workflow_id="order-1")
    with pytest.raises(errors.DuplicateJobError, match=r"^Duplicate job: order-1$") as caught:
        start(**SHIP, workflow_id="order-1")
    assert caught.value.job_id == "order-1"
    assert start(**SHIP, workflow_id="order-1", on_conflict="existing").workflow_id == "order-1"
    with pytest.raises(errors.JobOpenError):
        start(**SHIP, workflow_id="order-1", on_conflict="replace")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"workflow_name": "ship", "args": "item-123"}, "^args must be a list"),
        ({"workflow_name": "ship", "args": {"a": 1}}, "^args must be a list"),
        ({"workflow_name": "ship", "args": None}, "^args must be a list"),
        ({"workflow_name": "ship", "args": [{"price": float("nan")}]}, r"^args\[0\]\.price"),
        ({"workflow_name": "ship", "args": ["a\0"]}, r"^args\[0\]"),
        ({"args": []}, "^workflow_name is missing"),
        ({"workflow_name": ""}, "^workflow_name is empty"),
        ({"workflow_name": 7}, "^workflow_name must be a text"),
        ({"workflow_name": "ship", "workflow_id": ""}, "^workflow_id is empty"),
        ({"workflow_name": "ship", "workflow_id": "a\ud800"}, "^workflow_id"),
        ({"workflow_name": "ship", "workflow_id": 7}, "^workflow_id must be a text"),
        ({"workflow_name": "ship", "task_queue": ""}, "^task_queue is empty"),
        ({"workflow_name": "ship", "on_conflict": "maybe"}, "^on_conflict"),
        ({"workflow_name": "ship", "expire": "soon"}, "^expire"),
        ({"workflow_name": "ship", "delay": -1}, "^delay"),
        ({"workflow_name": "ship", "priority": 1.5}, "^priority"),
        ({"workflow_name": "ship", "priority": 40_000}, "^priority"),
        ({"workflow_name": "ship", "search": ["a"]}, "^search must be a dict"),
        ({"workflow_name": "ship", "retry_policy": {"maximum_attempts": -1}}, "^retry_policy"),
        ({"workflow_name": "ship", "workflowId": "a"}, "^a start takes no workflowId"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    request_: dict[str, Any], message: str
) -> None:
    client = SyncClient(NOWHERE)
    with pytest.raises(errors.InvalidArgumentError, match=message):
        client.workflow.start(**request_)
    with pytest.raises(errors.InvalidArgumentError):
        client.workflow.start_many([request_])  # type: ignore[list-item]


@pytest.mark.parametrize("app_id", ["", "a\0", None, 7])
def test_an_app_id_must_be_a_name(app_id: Any) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"^app_id"):
        Client(NOWHERE, app_id)


def test_a_start_too_large_is_refused_by_the_apps_own_limit(
    sync_client: SyncClient, db: psycopg.Connection
) -> None:
    db.execute("""update hotmesh.apps set settings = '{"value_limit": 1000}'""")
    with pytest.raises(errors.PayloadTooLargeError, match="args"):
        sync_client.workflow.start(workflow_name="ship", args=[list(range(2_000))])


# --- in the caller's transaction ---


async def test_a_start_belongs_to_the_callers_transaction(
    client: Client, dsn: str, db: psycopg.Connection
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        handle = await client.workflow.start(**SHIP, workflow_id="order-1", conn=conn)
        with pytest.raises(errors.JobNotFoundError):
            await handle.status()
        await conn.rollback()
        with pytest.raises(errors.JobNotFoundError):
            await handle.status()
        await client.workflow.start_many([{**SHIP, "workflow_id": "order-1"}], conn=conn)
        await conn.commit()
    assert await handle.status() > 0


async def test_a_signal_belongs_to_the_callers_transaction(
    client: Client, sync_client: SyncClient, dsn: str, db: psycopg.Connection
) -> None:
    sent = "select args ->> 'signal' from my_app.streams where kind = 'signal' order by id"
    handle = await client.workflow.start(**SHIP, workflow_id="a")
    twin = sync_client.workflow.get_handle(workflow_id="a")
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await handle.signal("lost", 1, conn=conn)
        await conn.rollback()
        await handle.signal("kept", 1, conn=conn)
        assert db.execute(sent).fetchall() == []
    with psycopg.connect(dsn) as conn:
        twin.signal("lost", 1, conn=conn)
        conn.rollback()
        twin.signal("kept too", 1, conn=conn)
        assert db.execute(sent).fetchall() == [("kept",)]
    assert db.execute(sent).fetchall() == [("kept",), ("kept too",)]


async def test_a_refusal_leaves_the_callers_transaction_as_psycopg_does(
    client: Client, sync_client: SyncClient, dsn: str, db: psycopg.Connection
) -> None:
    """To be rolled back, or to a savepoint; what is refused before it is sent does it no harm."""
    status = psycopg.pq.TransactionStatus
    handle = await client.workflow.start(**SHIP, workflow_id="taken")
    nobody = client.workflow.get_handle(workflow_id="nobody")
    taken = {**SHIP, "workflow_id": "taken"}
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await client.workflow.start(**SHIP, workflow_id="kept", conn=conn)
        with pytest.raises(errors.InvalidArgumentError):
            await client.workflow.start(**{**SHIP, "args": "no list"}, conn=conn)
        for refused, call in (
            (errors.DuplicateJobError, lambda: client.workflow.start(**taken, conn=conn)),
            (errors.DuplicateJobError, lambda: client.workflow.start_many([taken], conn=conn)),
            (errors.JobNotFoundError, lambda: nobody.signal("x", conn=conn)),
        ):
            with pytest.raises(refused):
                async with conn.transaction():
                    await call()
            assert conn.info.transaction_status == status.INTRANS
    assert await client.workflow.get_handle(workflow_id="kept").status() > 0
    with psycopg.connect(dsn) as conn:
        sync_client.workflow.start(**SHIP, workflow_id="gone", conn=conn)
        with pytest.raises(errors.DuplicateJobError):
            sync_client.workflow.start_many([taken], conn=conn)
        assert conn.info.transaction_status == status.INERROR
        conn.rollback()
    with pytest.raises(errors.JobNotFoundError):
        sync_client.workflow.get_handle(workflow_id="gone").status()
    assert await handle.status() > 0


async def test_an_async_client_takes_a_blocking_connection_too(client: Client, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        handle = await client.workflow.start(**SHIP, conn=conn)
    assert await handle.status() > 0


def test_a_client_that_names_no_database_uses_the_callers(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    with psycopg.connect(dsn) as conn:
        assert SyncClient(app_id=APP).workflow.start(**SHIP, workflow_id="a", conn=conn)
        with pytest.raises(errors.AppNotFoundError):
            SyncClient(app_id="other").workflow.start(**SHIP, conn=conn)


def test_a_connection_with_dict_rows_is_as_good(sync_client: SyncClient, dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as conn:
        assert sync_client.workflow.start(**SHIP, workflow_id="a", conn=conn).workflow_id == "a"


def test_conn_must_be_a_connection(sync_client: SyncClient, dsn: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"^conn is a str"):
        sync_client.workflow.start(**SHIP, conn=dsn)


# --- results ---


async def test_a_result_arrives_when_the_job_ends(client: Client, dsn: str) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await asyncio.to_thread(finish, dsn, {"order-1": {"output": {"reserved": 5}}})
    assert await asyncio.wait_for(waiting, 5) == {"reserved": 5}
    assert await handle.status() == 0
    assert (await handle.state())["response"] == {"reserved": 5}
    assert (await handle.state(metadata=True))["metadata"]["jid"] == "order-1"
    assert "status" in await handle.export(allow=["status"])


async def test_many_results_are_awaited_by_one_poller(client: Client, dsn: str) -> None:
    ids = [f"order-{number}" for number in range(50)]
    handles = await client.workflow.start_many([{**SHIP, "workflow_id": id} for id in ids])
    waiting = [asyncio.create_task(handle.result()) for handle in handles]
    waiting.append(asyncio.create_task(handles[0].result()))
    await asyncio.sleep(0.05)
    assert sum(task.get_name() == "hotmesh results" for task in asyncio.all_tasks()) == 1
    await asyncio.to_thread(finish, dsn, {id: {"output": id} for id in ids})
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [*ids, ids[0]]


def test_a_blocking_result_arrives_too(sync_client: SyncClient, dsn: str) -> None:
    handle = sync_client.workflow.start(**SHIP, workflow_id="order-1")
    ending = threading.Timer(0.1, finish, [dsn, {"order-1": {"output": None}}])
    ending.start()
    assert handle.result(timeout="10s") is None
    ending.join()


FAILURES = [
    (500, errors.JobFailedError),
    (596, errors.JobTimedOutError),
    (597, errors.MaxedError),
    (598, errors.FatalError),
]


@pytest.mark.parametrize(("code", "kind"), FAILURES)
async def test_a_failed_job_raises_what_happened(
    client: Client, dsn: str, code: int, kind: type[errors.JobFailedError]
) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    error = {"type": "ValueError", "message": "no such item", "code": code}
    await asyncio.to_thread(finish, dsn, {"order-1": {"error": error}})
    with pytest.raises(kind, match=r"^no such item$") as caught:
        await handle.result(timeout=5)
    assert (caught.value.code, caught.value.job_id) == (code, "order-1")
    assert caught.value.type == "ValueError"
    assert await handle.status() < 0
    assert (await handle.state(metadata=True))["metadata"]["err"]["message"] == "no such item"


@pytest.mark.parametrize("timeout", [0, "50ms"])
async def test_a_wait_that_ends_says_that_the_job_goes_on(client: Client, timeout: Any) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    with pytest.raises(errors.TimedOutError, match="goes on") as caught:
        await handle.result(timeout=timeout)
    assert (caught.value.code, caught.value.job_id) == (504, "order-1")
    assert not isinstance(caught.value, errors.JobFailedError)
    assert client._watcher._waiting == {}


def test_a_blocking_wait_that_ends_says_the_same(sync_client: SyncClient) -> None:
    handle = sync_client.workflow.start(**SHIP, workflow_id="order-1")
    with pytest.raises(errors.TimedOutError, match="goes on"):
        handle.result(timeout=0.05)


async def test_a_result_of_nothing_raises(client: Client, sync_client: SyncClient) -> None:
    with pytest.raises(errors.JobNotFoundError, match='"nothing"') as caught:
        await client.workflow.get_handle(workflow_id="nothing").result()
    assert (caught.value.code, caught.value.job_id) == (404, "nothing")
    blocking = sync_client.workflow.get_handle(workflow_id="nothing")
    for read in (blocking.result, blocking.status, blocking.state, blocking.export):
        with pytest.raises(errors.JobNotFoundError):
            read()


async def test_closing_the_client_ends_the_waiting(client: Client) -> None:
    handle = await client.workflow.start(**SHIP)
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(errors.ConnectionLostError, match="closed"):
        await waiting
    with pytest.raises(errors.ConnectionLostError, match="closed"):
        await handle.status()


# --- signals ---


async def test_a_signal_is_taken_by_an_open_job_only(client: Client, dsn: str) -> None:
    handle = await client.workflow.start(**SHIP, workflow_id="order-1")
    await handle.signal("approved", {"by": "Ada"})
    with pytest.raises(errors.InvalidArgumentError, match=r"^data\.at"):
        await handle.signal("approved", {"at": object()})
    with pytest.raises(errors.JobNotFoundError):
        await client.workflow.get_handle(workflow_id="nothing").signal("approved")
    other = await client.workflow.start(**SHIP, workflow_id="order-2")
    await asyncio.to_thread(finish, dsn, {"order-2": {"output": None}})
    with pytest.raises(errors.JobClosedError, match="order-2"):
        await other.signal("approved")
