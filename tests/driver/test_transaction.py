"""Transactional activities: writes, result and what follows are one commit; exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from hotmesh import activity, errors, workflow
from hotmesh._lent import ActivityConnection, AsyncActivityConnection
from hotmesh.errors import FatalError, HotMeshError, InvalidArgumentError, JobFailedError
from support.apart import apart
from support.flows import FAST, House, opened, wait_for

here = workflow.proxy_activities(task_queue="orders", retry_policy=FAST)
there = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)

WRITE = "insert into public.ledger (line) values (%s)"
OPEN = (
    "select count(*) from pg_stat_activity"
    " where state = 'idle in transaction' and datname = current_database()"
)


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        house.db.execute("create table public.ledger (line text)")
        yield house


async def inline(name: str, *args: Any) -> Any:
    """The workflow of most tests: one activity, served by the same worker."""
    return await getattr(here, name)(*args)


async def streamed(name: str, *args: Any) -> Any:
    """One activity of another worker."""
    return await getattr(there, name)(*args)


async def serve(house: House, *activities: Callable[..., Any], lease: str = "15s") -> None:
    """One worker for `inline`, which serves the activities too."""
    await house.worker(inline, activities=list(activities), lease=lease)


def lines(house: House) -> list[str]:
    rows = house.db.execute("select line from public.ledger order by line").fetchall()
    return [line for (line,) in rows]


async def failed(house: House, *args: Any) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        await house.run(inline, *args)
    return caught.value


async def pay(line: str) -> str:
    conn = await activity.transaction()
    await conn.execute(WRITE, [line])
    return f"paid {line}"


def pay_sync(line: str) -> str:
    activity.transaction().execute(WRITE, [line])
    return f"paid {line}"


# --- one commit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [inline, streamed])
@pytest.mark.parametrize("function", [pay, pay_sync])
async def test_writes_and_result_arrive_together(
    house: House, flow: Callable[..., Any], function: Callable[..., Any]
) -> None:
    await house.worker(inline, streamed, activities=[function])
    async with apart(house.dsn, function):
        for line in "ab":
            assert await house.run(flow, function.__name__, line, key=line) == f"paid {line}"
    assert lines(house) == ["a", "b"]
    assert [step[1:5] for step in house.steps("a")] == [
        ("activity", function.__name__, "done", "paid a")
    ]
    assert house.one("select count(*) from my_app.streams") == 0


@pytest.mark.parametrize("is_async", [True, False])
async def test_nothing_is_seen_before_the_activity_has_ended(house: House, is_async: bool) -> None:
    wrote, gate = threading.Event(), threading.Event()

    async def slow() -> None:
        conn = await activity.transaction()
        await conn.execute(WRITE, ["x"])
        wrote.set()
        await wait_for(gate.is_set)

    def slow_sync() -> None:
        activity.transaction().execute(WRITE, ["x"])
        wrote.set()
        assert gate.wait(20)

    await serve(house, slow, slow_sync)
    handle = await house.start(inline, "slow" if is_async else "slow_sync", key="a")
    await wait_for(wrote.is_set)
    assert lines(house) == []
    assert [step[3] for step in house.steps("a")] == ["open"]
    gate.set()
    await handle.result(timeout=10)
    assert lines(house) == ["x"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_attempt_that_raises_leaves_nothing(house: House, is_async: bool) -> None:
    attempts: list[int] = []

    async def fragile() -> int:
        conn = await activity.transaction()
        await conn.execute(WRITE, [str(len(attempts))])
        return begin()

    def fragile_sync() -> int:
        activity.transaction().execute(WRITE, [str(len(attempts))])
        return begin()

    def begin() -> int:
        attempts.append(activity.context().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return len(attempts)

    await serve(house, fragile, fragile_sync)
    assert await house.run(inline, "fragile" if is_async else "fragile_sync") == 3
    assert attempts == [1, 2, 3]
    assert lines(house) == ["2"]


async def test_it_has_a_message_of_its_own_and_is_never_inline(house: House) -> None:
    seen: list[tuple[Any, ...]] = []

    async def watched(line: str) -> None:
        query = "select state, token, attempt from my_app.streams where kind = 'activity'"
        seen.extend(house.db.execute(query).fetchall())
        await pay(line)
        seen.extend(house.db.execute(query).fetchall())

    await serve(house, watched)
    await house.run(inline, "watched", "a")
    assert seen == [("leased", 1, 1)]  # the first time it becomes known by its call
    await house.run(inline, "watched", "b")
    assert seen == [("leased", 1, 1)] * 3


async def test_what_is_started_on_it_begins_with_the_commit(house: House) -> None:
    attempts: list[int] = []

    async def order() -> str:
        conn = await activity.transaction()
        attempts.append(1)
        request = {"workflow_name": "later", "task_queue": "elsewhere"}
        await house.client.workflow.start(workflow_id=f"c{len(attempts)}", conn=conn, **request)
        if len(attempts) == 1:
            raise ValueError("once more")
        return "ordered"

    await serve(house, order)
    assert await house.run(inline, "order", key="a") == "ordered"
    keys = house.db.execute("select key from my_app.jobs order by key").fetchall()
    assert keys == [("a",), ("c2",)]


# --- the connection -------------------------------------------------------------------------------


async def test_the_transaction_ends_with_the_activity_and_only_so(house: House) -> None:
    refused: list[str] = []

    async def stubborn() -> None:
        conn = await activity.transaction()
        await conn.execute(WRITE, ["kept"])
        for call in (conn.commit, conn.rollback, conn.close, lambda: conn.set_autocommit(True)):
            with pytest.raises(InvalidArgumentError, match="is refused on the connection of"):
                await call()
            refused.append("async")
        with pytest.raises(InvalidArgumentError, match="is refused"):
            async with conn:
                pass

    def stubborn_sync() -> None:
        conn = activity.transaction()
        conn.execute(WRITE, ["kept"])
        calls = [conn.commit, conn.rollback, conn.close]
        for call in [*calls, lambda: setattr(conn, "autocommit", True)]:
            with pytest.raises(InvalidArgumentError, match="is refused on the connection of"):
                call()
            refused.append("sync")
        with pytest.raises(InvalidArgumentError, match="is refused"), conn:
            pass

    await serve(house, stubborn, stubborn_sync)
    await house.run(inline, "stubborn")
    await house.run(inline, "stubborn_sync")
    assert refused == ["async"] * 4 + ["sync"] * 4
    assert lines(house) == ["kept", "kept"]


async def test_a_part_may_be_rolled_back_to_a_savepoint(house: House) -> None:
    async def careful() -> None:
        conn = await activity.transaction()
        await conn.execute(WRITE, ["a"])
        try:
            async with conn.transaction():
                await conn.execute(WRITE, ["b"])
                await conn.execute("select from nowhere")
        except psycopg.errors.UndefinedTable:
            pass
        async with conn.transaction():
            await conn.execute(WRITE, ["c"])

    await serve(house, careful)
    await house.run(inline, "careful")
    assert lines(house) == ["a", "c"]


async def test_every_call_gives_the_same_connection(house: House) -> None:
    async def twice() -> bool:
        first, second = await asyncio.gather(activity.transaction(), activity.transaction())
        return first is second is await activity.transaction()

    await serve(house, twice)
    assert await house.run(inline, "twice") is True


async def test_many_share_a_few_connections(house: House) -> None:
    most = 0

    async def counted(line: str) -> None:
        nonlocal most
        await pay(line)
        most = max(most, house.one(OPEN))

    async def fan() -> None:
        await asyncio.gather(*(here.counted(f"{n:02}") for n in range(40)))

    await house.worker(fan, activities=[counted])
    await house.run(fan)
    assert lines(house) == [f"{n:02}" for n in range(40)]
    assert most <= 10


async def test_outside_of_a_running_activity_there_is_none(house: House) -> None:
    kept: list[Any] = []

    async def leaky() -> None:
        kept.append(await activity.transaction())
        context = asyncio.current_task()
        assert context is not None
        kept.append(asyncio.create_task(late()))

    async def late() -> Any:
        await wait_for(lambda: kept[0].closed)
        return await activity.transaction()

    async def misplaced() -> None:
        await activity.transaction()

    await house.worker(inline, misplaced, activities=[leaky])
    with pytest.raises(InvalidArgumentError, match="outside of an activity"):
        activity.transaction()
    with pytest.raises(JobFailedError, match="outside of an activity"):
        await house.run(misplaced)
    await house.run(inline, "leaky")
    with pytest.raises(InvalidArgumentError, match='transaction of activity "leaky" is over'):
        await kept[1]


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["commit", "rollback", "commit; begin", "rollback; begin"])
@pytest.mark.parametrize("raises", [True, False])
async def test_an_activity_that_ends_it_by_sql_text_fails_for_good(
    house: House, text: str, raises: bool
) -> None:
    async def sly() -> None:
        conn = await activity.transaction()
        await conn.execute(WRITE, ["before"])
        await conn.execute(text)
        await conn.execute(WRITE, ["after"])
        if raises:
            raise ValueError("and that too")

    await serve(house, sly)
    error = await failed(house, "sly")
    assert "ended the transaction of activity.transaction() itself" in str(error)
    assert error.code == 598
    assert "after" not in lines(house)
    assert len(lines(house)) == ("commit" in text)


async def test_a_failed_statement_that_was_caught_fails_the_activity(house: House) -> None:
    async def careless() -> str:
        conn = await activity.transaction()
        await conn.execute(WRITE, ["x"])
        with pytest.raises(psycopg.errors.UndefinedTable):
            await conn.execute("select from nowhere")
        return "all is well"

    await serve(house, careless)
    error = await failed(house, "careless")
    assert "a statement of activity" in str(error)
    assert lines(house) == []


async def test_a_constraint_that_is_checked_at_the_commit_fails_the_activity(house: House) -> None:
    house.db.execute(
        "alter table public.ledger add constraint only_once unique (line) deferrable"
        " initially deferred; insert into public.ledger values ('x')"
    )
    await serve(house, pay, pay_sync)
    for name in ("pay", "pay_sync"):
        error = await failed(house, name, "x")
        assert "only_once" in str(error)
        assert error.code == 597
    assert lines(house) == ["x"]


async def test_a_result_past_the_limit_fails_the_activity_once(house: House) -> None:
    attempts: list[int] = []

    async def large() -> str:
        attempts.append(1)
        conn = await activity.transaction()
        await conn.execute(WRITE, ["x"])
        return "".join(map(chr, range(0x4E00, 0x9000))) * 600

    await serve(house, large)
    error = await failed(house, "large")
    assert "the limit is 16,777,216" in str(error)
    assert (error.code, len(attempts), lines(house)) == (598, 1, [])


async def test_one_that_lasts_longer_than_its_lease_keeps_its_message(house: House) -> None:
    """Nobody extends the lease of a locked message, and nobody takes it."""
    attempts: list[int] = []
    overdue = "select count(*) from my_app.streams where kind = 'activity'" + (
        " and visible_at < now() - interval '1 s'"
    )

    async def long(fails: bool) -> None:
        attempts.append(1)
        await pay("x")
        await wait_for(lambda: house.one(overdue) == 1)
        if fails:
            raise FatalError("my own words")

    await serve(house, long, lease="1s")
    other = await house.worker(inline, activities=[long], lease="1s")
    await house.run(inline, "long", False)
    with pytest.raises(JobFailedError, match="my own words"):
        await house.run(inline, "long", True)
    assert (len(attempts), lines(house)) == (2, ["x"])
    assert other.name


async def test_it_stops_nobody_else(house: House) -> None:
    gate = asyncio.Event()

    async def blocking() -> None:
        await pay("x")
        await gate.wait()

    async def both() -> None:
        tasks = [asyncio.create_task(here.blocking()), asyncio.create_task(here.quick())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def quick() -> None:
        pass

    await house.worker(inline, both, activities=[blocking, quick])
    waiting = await house.start(inline, "blocking")
    await wait_for(lambda: house.one("select count(*) from pg_locks where mode = 'RowShareLock'"))
    for _ in range(20):
        await house.run(inline, "quick")
    await house.run(both)  # it ends while its other activity runs
    gate.set()
    await waiting.result(timeout=10)
    await wait_for(lambda: house.one("select count(*) from my_app.streams") == 0)


@pytest.mark.parametrize("function", [pay, pay_sync])
async def test_an_attempt_that_another_worker_has_gets_none(
    house: House, function: Callable[..., Any]
) -> None:
    """Its lease ran out before it came to its transaction, and somebody else did the work."""
    told: list[BaseException] = []

    def robbed() -> None:
        if activity.context().attempt == 1:
            raise ValueError("the next attempt comes by the stream")
        over = "update my_app.streams set visible_at = '2000-01-01' where kind = 'activity'"
        with house.db.transaction():
            house.db.execute(over)
            stolen.extend(house.db.execute(claim).fetchall())

    async def slow(line: str) -> Any:
        robbed()
        try:
            return await pay(line)
        except HotMeshError as error:
            told.append(error)
            raise

    def slow_sync(line: str) -> Any:
        robbed()
        try:
            return pay_sync(line)
        except HotMeshError as error:
            told.append(error)
            raise

    claim = "select id, token from hotmesh.stream_claim('my-app', 'acts', 'thief')"
    stolen: list[tuple[int, int]] = []
    late = slow if function is pay else slow_sync
    await house.worker(streamed)
    await house.activity_worker(late)
    handle = await house.start(streamed, late.__name__, "x")
    await wait_for(lambda: told)
    assert "is no longer current" in str(told[0])
    house.db.execute("select hotmesh.stream_complete('my-app', %s, %s, '\"stolen\"')", stolen[0])
    assert await handle.result(timeout=10) == "stolen"
    assert lines(house) == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_one_whose_time_is_over_rolls_back(house: House, is_async: bool) -> None:
    gate = threading.Event()
    quick = workflow.proxy_activities(
        task_queue="orders", start_to_close_timeout="200ms", retry_policy={"maximum_attempts": 1}
    )

    async def late() -> None:
        await pay("late")
        await asyncio.Event().wait()

    def late_sync() -> None:
        pay_sync("late")
        gate.wait(20)

    async def flow(name: str) -> str:
        try:
            await getattr(quick, name)()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "in time"

    await house.worker(flow, activities=[late, late_sync])
    handle = await house.start(flow, "late" if is_async else "late_sync", key="a")
    if not is_async:
        over = "select count(*) from my_app.streams where kind = 'activity' and now() - created_at"
        await wait_for(lambda: house.one(f"{over} > interval '500 ms'"))
        gate.set()
    said = await handle.result(timeout=10)
    assert "timed out: start_to_close_timeout of 0.2 s" in said
    assert lines(house) == []
    left = "select count(*) from my_app.streams where state <> 'dead'"
    await wait_for(lambda: house.one(left) == 0)
    assert house.one(OPEN) == 0


class Cut:
    """Breaks the connection at the commit: before it reaches the server, or after."""

    def __init__(self, after: bool) -> None:
        self.after = after
        self.done = False

    def cut(self, conn: Any) -> None:
        self.done = True
        conn.pgconn.finish()
        raise psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize("after", [True, False])
async def test_a_commit_of_unknown_outcome_is_never_made_twice(
    house: House, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    cut, attempts = Cut(after), []
    commit = psycopg.AsyncConnection.commit

    async def broken(conn: psycopg.AsyncConnection) -> None:
        ours = isinstance(conn, AsyncActivityConnection)
        if after or cut.done or not ours:
            await commit(conn)
        if ours and not cut.done:
            cut.cut(conn)

    async def once(line: str) -> str:
        attempts.append(activity.context().attempt)
        return await pay(line)

    await serve(house, once)
    monkeypatch.setattr(psycopg.AsyncConnection, "commit", broken)
    assert await house.run(inline, "once", "x") == "paid x"
    assert lines(house) == ["x"]
    assert attempts == ([1] if after else [1, 2])


@pytest.mark.parametrize("after", [True, False])
async def test_the_same_in_a_thread(
    house: House, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    cut, attempts = Cut(after), []
    commit = psycopg.Connection.commit

    def broken(conn: psycopg.Connection) -> None:
        ours = isinstance(conn, ActivityConnection)
        if after or cut.done or not ours:
            commit(conn)
        if ours and not cut.done:
            cut.cut(conn)

    def once(line: str) -> str:
        attempts.append(activity.context().attempt)
        return pay_sync(line)

    await serve(house, once)
    monkeypatch.setattr(psycopg.Connection, "commit", broken)
    assert await house.run(inline, "once", "x") == "paid x"
    assert lines(house) == ["x"]
    assert attempts == ([1] if after else [1, 2])


async def test_a_connection_that_is_terminated_costs_one_attempt(house: House) -> None:
    attempts: list[int] = []

    async def unlucky(line: str) -> str:
        attempts.append(activity.context().attempt)
        conn = await activity.transaction()
        await conn.execute(WRITE, [line])
        if len(attempts) == 1:
            house.db.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
        return "done"

    await serve(house, unlucky)
    assert await house.run(inline, "unlucky", "x") == "done"
    assert (attempts, lines(house)) == ([1, 2], ["x"])


async def test_a_worker_that_is_stopped_rolls_back(house: House) -> None:
    gate, began = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        await pay("x")
        began.set()
        await gate.wait()

    worker = await house.worker(inline, activities=[endless])
    handle = await house.start(inline, "endless")
    await began.wait()
    await worker.shutdown(grace=0)
    assert lines(house) == []
    gate.set()
    await serve(house, endless, lease="1s")
    house.db.execute("update my_app.streams set visible_at = now() where state = 'leased'")
    await handle.result(timeout=20)
    assert lines(house) == ["x"]


async def test_a_database_that_has_no_connection_left_is_a_clear_error(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotmesh._transaction.PAUSES", (0.0,))
    await serve(house, pay)

    async def refuse(*args: Any, **more: Any) -> Any:
        raise psycopg.OperationalError("no route to host")

    monkeypatch.setattr("hotmesh._lent.AsyncActivityConnection.connect", refuse)
    error = await failed(house, "pay", "x")
    assert "no route to host" in str(error)
    assert isinstance(error.__cause__, errors.ConnectionLostError)
