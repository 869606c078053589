"""The list of bad input: each gets a clear error in the right place, and nothing else is lost."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from hotmesh import Client, SyncClient, Worker, errors, workflow
from hotmesh.errors import InvalidArgumentError, JobFailedError, PayloadTooLargeError
from support.engine import APP, CALLER, Server
from support.flows import FAST, House, opened, wait_for

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        await house.worker(echo)
        yield house


async def echo(value: Any) -> Any:
    return value


async def goes_on(house: House) -> None:
    """Nothing else is lost: the same client and worker do their work."""
    assert await house.run(echo, "still here") == "still here"


# --- starts ---------------------------------------------------------------------------------------

LOOP: list[Any] = []
LOOP.append(LOOP)
STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "no workflow": ({"workflow_name": None}, "workflow_name"),
    "an empty workflow": ({"workflow_name": ""}, "workflow_name"),
    "a long workflow": ({"workflow_name": "x" * 1001}, "workflow_name"),
    "an empty id": ({"workflow_id": ""}, "workflow_id"),
    "an id with NUL": ({"workflow_id": "a\x00"}, "NUL"),
    "an id with half a character": ({"workflow_id": "\ud800"}, "surrogate"),
    "an id that is a number": ({"workflow_id": 7}, "workflow_id"),
    "an empty queue": ({"task_queue": ""}, "task_queue"),
    "args that are a text": ({"args": "abc"}, "args"),
    "args that are a dict": ({"args": {"a": 1}}, "args"),
    "args that are one value": ({"args": 7}, "args"),
    "NUL in an argument": ({"args": [{"name": "a\x00b"}]}, "args[0].name"),
    "half a character in an argument": ({"args": ["\udc00"]}, "args[0]"),
    "NaN": ({"args": [1, float("nan")]}, "args[1]"),
    "infinity": ({"args": [[float("-inf")]]}, "args[0][0]"),
    "a set": ({"args": [{1}]}, "args[0]"),
    "bytes": ({"args": [b"x"]}, "args[0]"),
    "an object": ({"args": [object()]}, "args[0]"),
    "itself": ({"args": [LOOP]}, "contains itself"),
    "too much": ({"args": ["x" * (16 * 1024 * 1024)]}, "16,777,216"),
    "negative attempts": ({"retry_policy": {"maximum_attempts": -1}}, "maximum_attempts"),
    "no attempts": ({"retry_policy": {"maximum_attempts": 0}}, "maximum_attempts"),
    "half an attempt": ({"retry_policy": {"maximum_attempts": 1.5}}, "maximum_attempts"),
    "absurd attempts": ({"retry_policy": {"maximum_attempts": 10**18}}, "maximum_attempts"),
    "a shrinking delay": ({"retry_policy": {"backoff_coefficient": 0.5}}, "backoff_coefficient"),
    "a NaN coefficient": ({"retry_policy": {"backoff_coefficient": float("nan")}}, "coefficient"),
    "a negative interval": ({"retry_policy": {"initial_interval": -1}}, "initial_interval"),
    "an interval in words": ({"retry_policy": {"maximum_interval": "soon"}}, "maximum_interval"),
    "an unknown key": ({"retry_policy": {"attempts": 3}}, "attempts"),
    "a policy that is none": ({"retry_policy": 3}, "retry_policy"),
    "types that are a text": (
        {"retry_policy": {"non_retryable_error_types": "ValueError"}},
        "non_retryable_error_types",
    ),
    "a negative expire": ({"expire": "-1 day"}, "expire"),
    "an expire without a unit": ({"expire": "60"}, "expire"),
    "a delay for ever": ({"delay": float("inf")}, "delay"),
    "an absurd priority": ({"priority": 10**9}, "priority"),
    "an unknown policy": ({"on_conflict": "ignore"}, "on_conflict"),
    "an unknown option": ({"colour": "red"}, "colour"),
}


@pytest.mark.parametrize("what", list(STARTS))
async def test_a_bad_start_is_refused_with_its_place_and_starts_nothing(
    house: House, what: str
) -> None:
    wrong, place = STARTS[what]
    request = {"workflow_name": "echo", "task_queue": "orders", "args": [1], **wrong}
    with pytest.raises(InvalidArgumentError) as caught:
        await house.client.workflow.start(**request)
    assert place in f"{caught.value} {caught.value.hint}"
    assert len(str(caught.value)) < 500
    with pytest.raises(InvalidArgumentError):
        await house.client.workflow.start_many([{"workflow_name": "echo"}, request])  # type: ignore[list-item]
    with SyncClient(house.dsn, APP) as blocking, pytest.raises(InvalidArgumentError):
        blocking.workflow.start(**request)
    assert house.one("select count(*) from my_app.jobs") == 0
    await goes_on(house)


@pytest.mark.parametrize("policy", [{"maximum_attempts": 2_000_000}, {"backoff_coefficient": 5000}])
async def test_driver_and_engine_refuse_the_same_policies(
    house: House, policy: dict[str, Any]
) -> None:
    """What the driver lets pass the engine must take: else a whole batch of reports is refused."""

    async def fails() -> None:
        raise ValueError("no")

    async def uses() -> Any:
        try:
            mine = workflow.proxy_activities(task_queue="acts", retry_policy=policy)
        except InvalidArgumentError:
            return "refused by the driver"
        try:
            await mine.fails()
        except Exception as error:
            return type(error).__name__

    await house.worker(uses)
    assert await house.run(uses, timeout=10) == "refused by the driver"


# --- what does not exist --------------------------------------------------------------------------


async def test_an_unknown_key_is_not_found(house: House) -> None:
    handle = house.client.workflow.get_handle("orders", "echo", "nobody")
    for call in (handle.result, handle.status, handle.state, handle.export):
        with pytest.raises(errors.JobNotFoundError, match="nobody"):
            await call()
    await goes_on(house)


async def test_a_duplicate_key_is_refused_by_name(house: House) -> None:
    await house.start(echo, 1, key="o-1")
    with pytest.raises(errors.DuplicateJobError, match=r"^Duplicate job: o-1$"):
        await house.start(echo, 2, key="o-1")
    await goes_on(house)


async def test_an_app_that_nobody_may_create_is_unknown(server: Server, dbname: str) -> None:
    """CALLER holds a key to my-app, and none that creates apps."""
    theirs = server.conninfo(dbname, CALLER)
    async with Client(theirs, "no-such-app") as client:
        with pytest.raises((errors.AppNotFoundError, errors.NotAllowedError), match="app"):
            await client.workflow.start(workflow_name="echo")
    with pytest.raises((errors.AppNotFoundError, errors.NotAllowedError), match="app"):
        await Worker.create(theirs, "no-such-app", workflow=echo)


async def test_a_workflow_or_queue_that_nobody_serves_waits(house: House) -> None:
    waiting = [await house.start("ghost"), await house.start(echo, 1, queue="nowhere")]
    await goes_on(house)
    for handle in waiting:
        assert await handle.status() == 1
        with pytest.raises(errors.TimedOutError) as caught:
            await handle.result(timeout=0.01)
        assert caught.value.code == 504


# --- connections ----------------------------------------------------------------------------------


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """A server that is no Postgres: it says `answer` and hangs up."""

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(100)
                peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"postgresql://u@127.0.0.1:{server.getsockname()[1]}/x?sslmode=disable"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


async def refused(dsn: str) -> errors.HotMeshError:
    """The error that client and worker have in common."""
    with pytest.raises(errors.HotMeshError) as by_worker:
        await Worker.create(dsn, APP, workflow=echo)
    async with Client(dsn, APP) as client:
        with pytest.raises(errors.HotMeshError) as by_client:
            await client.workflow.start(workflow_name="echo")
    assert type(by_worker.value) is type(by_client.value)
    return by_client.value


async def test_a_connection_that_is_refused_says_so() -> None:
    error = await refused("postgresql://u@127.0.0.1:1/x")
    assert isinstance(error, errors.ConnectionLostError)
    assert "cannot reach the database" in str(error)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_that_is_no_postgres_says_so(answer: bytes) -> None:
    with listening(answer) as dsn:
        assert isinstance(await refused(dsn), errors.ConnectionLostError)


async def test_a_database_without_the_engine_says_how_to_install_it(
    server: Server, dbname: str
) -> None:
    with server.database() as bare:
        error = await refused(server.conninfo(bare, "hotmesh_stranger"))
    assert isinstance(error, errors.NotInstalledError | errors.NotAllowedError)


async def test_an_engine_of_another_protocol_says_who_must_be_upgraded(
    db: psycopg.Connection[Any], dsn: str
) -> None:
    db.execute(
        "create or replace function hotmesh.protocol() returns integer language sql as 'select 99'"
    )
    error = await refused(dsn)
    assert isinstance(error, errors.ProtocolError)
    assert "99" in str(error) and error.hint


async def test_a_worker_outlives_a_connection_that_is_lost_in_the_middle(
    house: House, admin: psycopg.Connection[Any]
) -> None:
    terminate = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'hotmesh'"
    )
    for n in range(5):
        admin.execute(terminate)
        assert await house.run(echo, n) == n


# --- workflows and activities that misbehave ------------------------------------------------------


async def exits() -> None:
    raise SystemExit(3)


async def calls(name: str) -> Any:
    return await getattr(acts, name)()


async def test_an_activity_that_exits_fails_alone(house: House) -> None:
    await house.activity_worker(exits, echo)
    await house.worker(calls)
    with pytest.raises(JobFailedError, match="SystemExit"):
        await house.run(calls, "exits")
    await goes_on(house)


async def test_an_activity_that_nobody_serves_waits_alone(house: House) -> None:
    await house.activity_worker(exits)
    await house.worker(calls)
    handle = await house.start(calls, "no_such_activity")
    ready = "select count(*) from my_app.streams where name = 'no_such_activity'"
    await wait_for(lambda: house.one(ready) == 1)
    assert await handle.status() == 1
    await goes_on(house)


async def names(name: str) -> Any:
    return await workflow.execute_activity("\x00" if name == "nul" else name, task_queue="acts")


@pytest.mark.parametrize(
    ("name", "error"), [("nul", InvalidArgumentError), ("x" * 2000, PayloadTooLargeError)]
)
async def test_a_name_that_cannot_be_stored_is_refused_where_it_is_used(
    house: House, name: str, error: type[Exception]
) -> None:
    await house.worker(names)
    with pytest.raises(JobFailedError) as caught:
        await house.run(names, name)
    assert caught.value.type == error.__name__
    await goes_on(house)


async def proxied(name: str) -> Any:
    return await getattr(acts, "\x00\ud800" if name == "nul" else name)()


@pytest.mark.parametrize("name", ["nul", "x" * 2000])
async def test_a_proxy_s_name_that_cannot_be_stored_is_refused_too(house: House, name: str) -> None:
    await house.worker(proxied)
    with pytest.raises(JobFailedError) as caught:
        await house.run(proxied, name)
    assert caught.value.type in ("InvalidArgumentError", "PayloadTooLargeError"), caught.value.type
    await goes_on(house)


async def test_a_message_of_another_language_that_is_odd_fails_nothing_else(house: House) -> None:
    """A job whose args were written by hand, not by a door."""
    await house.worker(calls)
    house.db.execute("select hotmesh.job_start('my-app', 'echo', 'odd', '[1, 2, 3]', 'orders')")
    handle = house.client.workflow.get_handle("orders", "echo", "odd")
    with pytest.raises(JobFailedError, match="positional argument"):
        await handle.result(timeout=10)
    await goes_on(house)


DEEP = "[" * 3000 + "]" * 3000


def reads_deep() -> bool:
    """Whether this Python reads what is as deep as that; newer ones do."""
    try:
        return bool(json.loads(DEEP))
    except RecursionError:
        return False


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param("9" * 5000, id="too many digits"),
        pytest.param(DEEP, id="too deep", marks=pytest.mark.skipif(reads_deep(), reason="it can")),
    ],
)
async def test_a_value_that_python_cannot_read_fails_its_own_job_alone(
    house: House, poison: str
) -> None:
    async def echo(value: Any) -> Any:
        return value

    async def signalled() -> Any:
        return await workflow.wait_for("news")

    text = (
        "select from hotmesh.job_start('my-app', 'echo', key => %s, args => %s::jsonb, queue => %s)"
    )
    house.db.execute(text, ["bad", f"[{poison}]", "orders"])
    house.db.execute(text, ["good", '["fine"]', "orders"])
    await house.worker(echo, signalled)
    assert await house.client.workflow.get_handle("orders", "echo", "good").result(20) == "fine"
    with pytest.raises(JobFailedError, match="can't be read"):
        await house.client.workflow.get_handle("orders", "echo", "bad").result(20)
    handle = await house.start(signalled, key="told")
    house.db.execute(
        "select hotmesh.job_signal('my-app', 'told', 'news', %s::jsonb)", [f"[{poison}]"]
    )
    with pytest.raises(JobFailedError, match="can't be read"):
        await handle.result(timeout=20)
