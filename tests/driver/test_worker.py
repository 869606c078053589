"""Workers: what they refuse, how they start, share, stop, and take over."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import types
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest

from hotmesh import HotMesh, MemFlow, Worker, _paces, register_activity_worker, workflow
from hotmesh.errors import (
    ConnectionLostError,
    InvalidArgumentError,
    NotAllowedError,
    ProtocolError,
)
from support.apart import apart
from support.engine import APP, CALLER, Server
from support.flows import FAST, House, wait_for
from support.sessions import Session

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)
here = workflow.proxy_activities(retry_policy=FAST)


async def echo(value: Any) -> Any:
    return value


async def call(value: Any) -> Any:
    return await acts.echo(value)


async def call_here(value: Any) -> Any:
    return await here.echo(value)


def not_async() -> None: ...


# --- what they refuse -----------------------------------------------------------------------------

REFUSED: dict[str, dict[str, Any]] = {
    "nothing to serve": {},
    "no `async def`": {"workflow": not_async},
    "task_queue": {"workflow": call, "task_queue": ""},
    "app_id": {"workflow": call, "app_id": ""},
    "max_concurrent_workflows": {"workflow": call, "max_concurrent_workflows": -1},
    "max_concurrent_workflows ": {"workflow": call, "max_concurrent_workflows": 0},
    "max_concurrent_activities": {"activities": [echo], "max_concurrent_activities": 1.5},
    "lease": {"workflow": call, "lease": "0s"},
    "lease ": {"workflow": call, "lease": -1},
    "lease  ": {"workflow": call, "lease": "soon"},
    "lease   ": {"workflow": call, "lease": 0},
    "nothing to serve ": {"workflows": [], "activities": []},
    "names no function": {"activities": types.ModuleType("empty")},
    "activities names no function": {"activities": 5},
    "activities names no function ": {"activities": "echo"},
    "an int is no function": {"activities": [1]},
    "an int is no function ": {"workflow": 5},
    "connection": {"workflow": call, "connection": ""},
    "connection ": {"workflow": call, "connection": 7},
}


@pytest.mark.parametrize("said", list(REFUSED))
async def test_a_worker_that_cannot_work_is_refused(dsn: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Worker.create(**{"connection": dsn, "app_id": APP, **REFUSED[said]})
    words = f"{caught.value} {caught.value.hint}"
    assert said.strip().replace("nothing", "something") in words


@pytest.mark.parametrize(
    "wrong", [{"activities": []}, {"activities": [echo], "activity_task_queue": ""}]
)
async def test_an_activity_worker_that_cannot_work_is_refused(
    dsn: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError):
        await register_activity_worker(dsn, APP, **wrong)


async def test_a_worker_without_a_database_says_so_and_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    with pytest.raises(ConnectionLostError, match="cannot reach the database"):
        await Worker.create("postgresql://nobody@127.0.0.1:1/nothing", APP, workflow=call)
    assert threading.active_count() <= threads + 1  # the default executor's thread may stay
    assert len(asyncio.all_tasks()) == 1


# --- how they start -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "reader"])
async def test_who_has_no_worker_s_key_is_told_so_at_once(
    dsn: str, caller_dsn: str, db: psycopg.Connection[Any], kind: str
) -> None:
    db.execute("select hotmesh.app_revoke('my-app', %s)", [CALLER])
    db.execute("select hotmesh.app_grant('my-app', %s, %s)", [CALLER, kind])
    place: dict[str, Any] = {"connection": caller_dsn, "app_id": APP}
    for beginning in (
        Worker.create(**place, workflow=call),
        register_activity_worker(**place, activities=[echo]),
        HotMesh.init(**place, workers=[{"topic": "t", "callback": echo}]),
    ):
        with pytest.raises(NotAllowedError, match='may not be a worker of app "my-app"') as caught:
            await beginning
        assert "app_grant('my-app', role, 'worker')" in (caught.value.hint or "")
    assert db.execute("select from my_app.workers").rowcount == 0


async def test_a_worker_whose_key_is_revoked_says_so_once_and_goes_on_when_it_has_one_again(
    server: Server, dbname: str, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await Worker.create(
        server.conninfo(dbname, CALLER), APP, task_queue="orders", workflow=echo
    )
    house.workers.append(worker)
    assert await house.run(echo, 1) == 1
    rounds, turn = 0, worker._pump._round

    async def counted() -> None:
        nonlocal rounds
        rounds += 1
        await turn()

    worker._pump._round = counted  # type: ignore[method-assign]
    house.db.execute("select hotmesh.app_revoke('my-app', %s)", [CALLER])
    await wait_for(lambda: "may not work any more" in caplog.text)
    said = rounds
    await wait_for(lambda: rounds >= said + 3)
    told = [record.getMessage() for record in caplog.records if worker.name in record.getMessage()]
    assert len(told) == 1, told
    house.db.execute("select hotmesh.app_grant('my-app', %s, 'worker')", [CALLER])
    assert await house.run(echo, 2, timeout=30) == 2


async def test_a_connection_that_breaks_under_the_first_turn_is_made_anew(
    house: House, sessions: Callable[..., tuple[Session, ...]]
) -> None:
    (user,) = sessions("user")
    user.begin()
    user.run("lock table my_app.streams in access exclusive mode")
    beginning = asyncio.create_task(house.worker(echo))
    turns = (
        "from pg_stat_activity where datname = current_database() and query like '%hotmesh.turn(%'"
        " and wait_event_type = 'Lock'"
    )
    pid = await wait_for(lambda: house.one(f"select pid {turns}"))
    house.db.execute("select pg_terminate_backend(%s, 10000)", [pid])
    user.rollback()
    await beginning
    assert await house.run(echo, 1) == 1


async def test_a_worker_whose_engine_does_not_fit_any_more_ends_and_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paces, "MISFIT_SECONDS", 0.3)
    worker = await house.worker(echo)
    await house.start(echo, 1, queue="later")
    house.db.execute("alter table hotmesh.streams rename column token to badge")
    house.db.execute("update my_app.streams set queue = 'orders'")
    with pytest.raises(ProtocolError, match=r"made for: column .*token") as caught:
        await asyncio.wait_for(worker.run(), 20)
    assert "hotmesh upgrade" in (caught.value.hint or "")


async def test_a_worker_outlives_an_engine_that_is_being_upgraded(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.worker(echo)
    handle = await house.start(echo, 1, queue="later")
    house.db.execute("alter table hotmesh.streams rename column token to badge")
    house.db.execute("update my_app.streams set queue = 'orders'")
    await wait_for(lambda: "token" in caplog.text)
    house.db.execute("alter table hotmesh.streams rename column badge to token")
    assert await handle.result(20) == 1


async def test_a_job_started_before_any_worker_waits_and_is_found(house: House) -> None:
    handle = await house.start(call_here, "x")
    assert await handle.status() == 1
    await house.worker(call_here, activities=[echo])
    assert await handle.result(timeout=10) == "x"


async def test_a_worker_leaves_alone_what_it_does_not_serve(house: House) -> None:
    await house.worker(call_here, activities=[echo])
    other_name, other_queue = (
        await house.start(call, "x"),
        await house.start(call_here, 1, queue="q"),
    )
    assert await house.run(call_here, "y") == "y"
    assert [await other_name.status(), await other_queue.status()] == [1, 1]
    await house.worker(call)
    await house.activity_worker(echo)
    await house.worker(call_here, queue="q", activities=[echo])
    assert await other_name.result(timeout=10) == "x"
    assert await other_queue.result(timeout=10) == 1


async def test_workflows_come_from_a_list_a_module_a_mapping_or_alone(house: House) -> None:
    module = types.ModuleType("flows")
    exec("async def from_module(value):\n    return value\n", module.__dict__)
    for served, name in (
        ({"workflow": echo}, "echo"),
        ({"workflows": [echo]}, "echo"),
        ({"workflows": {"renamed": echo}}, "renamed"),
        ({"workflows": module}, "from_module"),
    ):
        async with await Worker.create(house.dsn, APP, task_queue=f"q-{name}", **served):  # type: ignore[arg-type]
            assert await house.run(name, 1, queue=f"q-{name}") == 1


async def test_activities_come_from_a_class_or_an_object_too(house: House) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def greet(self, who: str) -> str:
            return f"{self.name} greets {who}"

    class Tools:
        @staticmethod
        def greet(who: str) -> str:
            return f"hello {who}"

    async def greets(queue: str) -> Any:
        return await workflow.execute_activity("greet", "you", task_queue=queue)

    await house.worker(greets)
    for queue, source in (("shop", Shop("shop")), ("tools", Tools)):
        worker = await register_activity_worker(house.dsn, APP, task_queue=queue, activities=source)
        house.workers.append(worker)
    assert await house.run(greets, "shop") == "shop greets you"
    assert await house.run(greets, "tools") == "hello you"


async def test_a_worker_takes_a_pool_and_leaves_it_open(house: House) -> None:
    async with psycopg_pool.AsyncConnectionPool(
        house.dsn, min_size=1, max_size=4, kwargs={"autocommit": True}
    ) as pool:
        worker = await Worker.create(
            pool, APP, task_queue="orders", workflow=call_here, activities=[echo]
        )
        assert await house.run(call_here, 1) == 1
        await worker.shutdown()
        assert not pool.closed
        async with pool.connection() as conn:
            assert (await (await conn.execute("select 1")).fetchone()) == (1,)


async def test_a_worker_s_key_is_all_that_a_worker_needs(
    server: Server, dbname: str, house: House
) -> None:
    """Also for a job whose history it has to read anew."""
    house.db.execute("select hotmesh.app_revoke('my-app', %s)", [CALLER])
    house.db.execute("select hotmesh.app_grant('my-app', %s, 'worker')", [CALLER])
    theirs = server.conninfo(dbname, CALLER)

    async def long() -> Any:
        return [await acts.echo(n) for n in range(5)]

    worker = await Worker.create(theirs, APP, task_queue="orders", workflow=long)
    house.workers.append(worker)
    worker._pump._remembered = 0
    worker._pump._workflow_slots = 1
    async with apart(theirs, echo):
        handles = [await house.start(long) for _ in range(4)]
        for handle in handles:
            assert await handle.result(timeout=20) == [0, 1, 2, 3, 4]


# --- what they share ------------------------------------------------------------------------------


async def test_workers_of_one_process_share_inline_activities(house: House) -> None:
    await house.activity_worker(echo)
    await house.worker(call)
    assert await house.run(call, 1, key="o-1") == 1
    kinds = "select count(*) from my_app.jobs_attributes where created_at is not null and kind = 'activity'"
    assert house.one(kinds) == 1
    cursor = house.one("select count(*) from my_app.streams")
    assert cursor == 0


async def test_a_run_of_a_worker_that_died_is_soon_taken_by_an_idle_one(house: House) -> None:
    """It is kept for its holder for 100 ms; an idle worker looks again when these are over."""

    async def waits() -> Any:
        return await workflow.wait_for("go")

    await house.worker(waits)
    rests = "select count(*) from my_app.streams where state = 'waiting'"
    idle = "select count(*) from my_app.workers where idle_at is not null"
    clock = asyncio.get_running_loop().time
    for round in range(3):
        handle = await house.start(waits, key=f"a{round}")
        await wait_for(lambda: house.one(rests) == 1)
        house.db.execute("update my_app.streams set worker = 'w-dead' where state = 'waiting'")
        await wait_for(lambda: house.one(idle) == 1)
        began = clock()
        await handle.signal("go", round)
        assert await handle.result(timeout=10) == round
        assert clock() - began < 1.0


@pytest.mark.parametrize("queue", ["a\nb", "\t", "a\x7f"])
async def test_the_name_of_a_queue_is_one_line(house: House, queue: str) -> None:
    with pytest.raises(InvalidArgumentError, match="line break or another control character"):
        await house.activity_worker(echo, queue=queue)
    with pytest.raises(InvalidArgumentError, match="line break or another control character"):
        workflow.proxy_activities(task_queue=queue)


async def test_workers_of_another_app_share_nothing(house: House) -> None:
    house.db.execute("select hotmesh.app_create('other')")
    other = await register_activity_worker(house.dsn, "other", task_queue="acts", activities=[echo])
    house.workers.append(other)
    await house.worker(call)
    handle = await house.start(call, 1)
    waits = "select count(*) from my_app.streams where kind = 'activity' and state = 'ready'"
    await wait_for(lambda: house.one(waits) == 1)
    await house.activity_worker(echo)
    assert await handle.result(timeout=10) == 1


async def test_no_more_workflows_are_held_at_once_than_the_worker_has_slots(house: House) -> None:
    running, most = 0, 0

    async def slow(value: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return value

    async def uses() -> Any:
        return await here.slow(1)

    await house.worker(uses, activities=[slow], max_concurrent_workflows=2)
    handles = [await house.start(uses) for _ in range(10)]
    assert [await h.result(timeout=10) for h in handles] == [1] * 10
    assert most <= 2


async def test_an_activity_that_is_still_running_when_its_owner_stops_reaches_its_workflow(
    house: House,
) -> None:
    """The workflow's worker borrows a slot of another worker, which then shuts down."""
    begun = asyncio.Event()

    async def slow() -> str:
        begun.set()
        await asyncio.sleep(0.05)
        return "finished"

    async def uses() -> Any:
        return await acts.slow()

    owner = await house.activity_worker(slow)
    await house.worker(uses)
    handle = await house.start(uses)
    await begun.wait()
    await owner.shutdown()
    assert await handle.result(timeout=10) == "finished"


# --- how they stop --------------------------------------------------------------------------------


async def test_a_worker_leaves_no_task_thread_connection_or_row_behind(
    house: House, admin: Any
) -> None:
    def in_a_thread() -> int:
        return 1

    async def uses() -> Any:
        return await here.in_a_thread()

    async with await Worker.create(
        house.dsn, APP, task_queue="orders", workflow=uses, activities=[in_a_thread]
    ):
        assert await house.run(uses) == 1
    await house.client.close()
    assert {t.get_name() for t in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]
    await wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("hotmesh")])
    assert house.one("select count(*) from my_app.workers") == 0
    query = (
        "select count(*) from pg_stat_activity where application_name = 'hotmesh' and datname = %s"
    )
    await wait_for(lambda: admin.execute(query, [house.db.info.dbname]).fetchone() == (0,))


async def test_shutdown_lets_a_running_activity_finish_and_its_result_is_kept(
    house: House,
) -> None:
    begun, lives = asyncio.Event(), []

    async def slow() -> str:
        begun.set()
        await asyncio.sleep(0.1)
        return "kept"

    async def uses() -> Any:
        lives.append(1)
        return [await here.slow(), await acts.echo("later")]

    worker = await house.worker(uses, activities=[slow], lease="1h")
    handle = await house.start(uses, key="o-1")
    await begun.wait()
    await worker.shutdown()
    assert house.steps("o-1")[0][3:5] == ("done", "kept")
    await house.worker(uses)
    await house.activity_worker(echo)
    assert await handle.result(timeout=10) == ["kept", "later"]
    assert lives == [1, 1]


async def test_shutdown_without_grace_hands_back_what_runs(house: House) -> None:
    begun, cancelled = asyncio.Event(), []

    async def hang(times: list[int] = []) -> str:  # noqa: B006
        times.append(1)
        if len(times) > 1:
            return "second life"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        return "never"

    async def uses() -> Any:
        return await here.hang()

    worker = await house.worker(uses, activities=[hang], lease="1h")
    handle = await house.start(uses)
    await begun.wait()
    await worker.shutdown(grace=0)
    await house.worker(uses, activities=[hang])
    assert await handle.result(timeout=10) == "second life"
    assert cancelled == [True]


async def test_shutting_down_twice_is_harmless(house: House) -> None:
    worker = await house.worker(call)
    await asyncio.gather(worker.shutdown(), worker.shutdown())
    await worker.shutdown()


async def test_shutdown_closes_even_if_the_pump_has_died(house: House) -> None:
    worker = await house.worker(call)
    worker._task.cancel()
    await asyncio.wait([worker._task])
    await worker.shutdown()
    assert house.one("select count(*) from my_app.workers") == 0


async def test_sigterm_stops_every_worker_that_runs_in_the_process(house: House) -> None:
    first, second = await house.worker(call), await house.activity_worker(echo)
    running = asyncio.gather(first.run(), second.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    assert house.one("select count(*) from my_app.workers") == 0


async def test_sigterm_also_signs_off_the_workers_that_nobody_runs(house: House) -> None:
    first = await house.worker(call)
    await house.activity_worker(echo)
    running = asyncio.create_task(first.run())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    assert house.one("select count(*) from my_app.workers") == 0


async def test_a_worker_that_nobody_refers_to_works_on_and_is_shut_down_too(house: House) -> None:
    await Worker.create(house.dsn, APP, task_queue="orders", workflow=echo)
    gc.collect()
    assert await house.run(echo, 1) == 1
    await MemFlow.shutdown()
    assert house.one("select count(*) from my_app.workers") == 0


async def test_a_worker_that_is_not_run_goes_on_until_shutdown(house: House) -> None:
    await house.worker(call_here, activities=[echo])
    for n in range(3):
        assert await house.run(call_here, n) == n


async def test_a_late_worker_s_reports_change_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease ran out while it was busy; another one did the work."""
    gate, lives = asyncio.Event(), []

    async def slow() -> str:
        lives.append(1)
        if len(lives) == 1:
            await gate.wait()
            return "late"
        return "in time"

    async def uses() -> Any:
        return await here.slow()

    late = await house.worker(uses, activities=[slow])
    assert late._pump._keeper is not None
    handle = await house.start(uses, key="o-1")
    await wait_for(lambda: lives)
    late._pump._keeper.stop()
    late._pump.stop()  # it takes nothing new
    house.db.execute("update my_app.streams set visible_at = now() - interval '1 s'")
    await house.worker(uses, activities=[slow])
    assert await handle.result(timeout=10) == "in time"
    with caplog.at_level(logging.WARNING, "hotmesh"):
        gate.set()
        await wait_for(lambda: late._pump.quiet)
    assert house.steps("o-1") == [(1, "activity", "slow", "done", "in time", 1)]
