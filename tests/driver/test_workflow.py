"""Workflows on real workers: durable calls, errors, what is refused, and what a workflow knows."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import threading
import time
from typing import Any

import pytest

from hotmesh import MemFlow, errors, workflow
from hotmesh.errors import FatalError, JobFailedError, MaxedError
from support.engine import APP
from support.flows import FAST, House, wait_for

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)


async def echo(value: Any) -> Any:
    return value


async def fail(text: str) -> None:
    raise ValueError(text)


# --- the documents' example -----------------------------------------------------------------------


async def check_inventory(item_id: str) -> int:
    return {"item-123": 5}.get(item_id, 0)


async def reserve_item(item_id: str, qty: int) -> str:
    return f"reserved {qty} of {item_id}"


async def notify_backorder(item_id: str) -> None:
    return None


activities = [check_inventory, reserve_item, notify_backorder]


async def order_workflow(item_id: str, qty: int) -> str:
    acts = MemFlow.workflow.proxy_activities(
        activities,
        task_queue="inventory-tasks",
        retry_policy={
            "maximum_attempts": 5,
            "backoff_coefficient": 2,
            "maximum_interval": "60s",
        },
    )
    if await acts.check_inventory(item_id) >= qty:
        return str(await acts.reserve_item(item_id, qty))
    await acts.notify_backorder(item_id)
    return "backordered"


@pytest.mark.parametrize("third", [None, "inventory-activities"])
async def test_the_order_example_runs_as_it_is_written(dsn: str, third: str | None) -> None:
    c = dsn
    await MemFlow.register_activity_worker(
        connection=c,
        app_id=APP,
        task_queue="inventory-tasks",
        activities=activities,
        activity_task_queue=third,
    )
    await MemFlow.Worker.create(
        connection=c, app_id=APP, task_queue="orders", workflow=order_workflow
    )
    client = MemFlow.Client(connection=c, app_id=APP)
    try:
        handle = await client.workflow.start(
            args=["item-123", 5],
            task_queue="orders",
            workflow_name="order_workflow",
            workflow_id="order-456",
        )
        assert await handle.result(timeout=20) == "reserved 5 of item-123"
        handle = await client.workflow.start(
            args=["item-9", 1],
            task_queue="orders",
            workflow_name="order_workflow",
            workflow_id="order-457",
        )
        assert await handle.result(timeout=20) == "backordered"
    finally:
        await client.close()
        await MemFlow.shutdown()


async def test_an_activity_worker_serves_its_third_argument_too(house: House) -> None:
    async def by_other_name() -> Any:
        return await workflow.execute_activity(echo, 1, task_queue="inventory-activities")

    await house.activity_worker(
        echo, queue="inventory-tasks", activity_task_queue="inventory-activities"
    )
    await house.worker(by_other_name)
    assert await house.run(by_other_name) == 1


# --- asyncio --------------------------------------------------------------------------------------


async def in_time() -> Any:
    return await asyncio.wait_for(acts.echo("in time"), 3600)


# --- its own errors -------------------------------------------------------------------------------


async def raises_value_error() -> None:
    raise ValueError("mine")


async def exits() -> None:
    sys.exit("bye")


async def interrupts() -> None:
    raise KeyboardInterrupt


async def cancels_itself() -> None:
    raise asyncio.CancelledError("me")


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class WordlessExit(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no")


async def wordless() -> None:
    raise WordlessError


async def wordless_exit() -> None:
    raise WordlessExit


async def returns_a_set() -> Any:
    return {1}


async def returns_nan() -> Any:
    return [float("nan")]


async def returns_too_much() -> Any:
    return "x" * (16 * 1024 * 1024 + 1)


async def opens_a_socket() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def looks_up_a_name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def uses_a_thread() -> None:
    await asyncio.to_thread(time.sleep, 0)


async def uses_an_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)


async def reads_a_socket() -> None:
    with socket.socket() as sock:
        await asyncio.get_running_loop().sock_recv(sock, 1)


async def runs_a_program() -> None:
    await asyncio.create_subprocess_exec("true")


async def never_yields() -> None:
    while True:
        await asyncio.sleep(0)


async def passes_a_set() -> None:
    await acts.echo({1, 2})


async def passes_nul() -> None:
    await acts.echo("\x00")


async def bad_policy() -> None:
    workflow.proxy_activities(retry_policy={"maximum_attempts": -1})


async def bad_queue() -> None:
    workflow.proxy_activities(task_queue="")


async def bad_sleep() -> None:
    await workflow.sleep_for("60")


async def sleeps_absurdly() -> None:
    await asyncio.sleep(1e300)


async def names_a_ghost() -> None:
    await workflow.proxy_activities([echo]).ghost()


ENDS = {
    raises_value_error: ("ValueError", "mine"),
    exits: ("SystemExit", "bye"),
    interrupts: ("KeyboardInterrupt", ""),
    cancels_itself: ("CancelledError", ""),
    wordless: ("WordlessError", "no message"),
    wordless_exit: ("WordlessExit", ""),
    returns_a_set: ("InvalidArgumentError", "returns_a_set"),
    returns_nan: ("InvalidArgumentError", "nan"),
    returns_too_much: ("PayloadTooLargeError", "16,777,216"),
    opens_a_socket: ("ForbiddenInWorkflow", "activity"),
    looks_up_a_name: ("ForbiddenInWorkflow", "activity"),
    uses_a_thread: ("ForbiddenInWorkflow", "activity"),
    uses_an_executor: ("ForbiddenInWorkflow", "activity"),
    reads_a_socket: ("ForbiddenInWorkflow", "activity"),
    runs_a_program: ("ForbiddenInWorkflow", ""),
    never_yields: ("NeverYields", "never yields"),
    passes_a_set: ("InvalidArgumentError", "args of activity echo[0]"),
    passes_nul: ("InvalidArgumentError", "NUL"),
    bad_policy: ("InvalidArgumentError", "maximum_attempts"),
    bad_queue: ("InvalidArgumentError", "task_queue"),
    bad_sleep: ("InvalidArgumentError", "60"),
    sleeps_absurdly: ("", ""),
    names_a_ghost: ("AttributeError", "ghost"),
}


@pytest.mark.parametrize("flow", list(ENDS), ids=lambda flow: flow.__name__)
async def test_a_workflow_that_ends_badly_fails_its_job_and_no_other(
    house: House, flow: Any
) -> None:
    await house.activity_worker(echo)
    await house.worker(flow, in_time)
    bad, good = await house.start(flow, key="bad"), await house.start(in_time)
    with pytest.raises(JobFailedError) as caught:
        await bad.result(timeout=20)
    kind, text = ENDS[flow]
    assert caught.value.job_id == "bad"
    assert text in str(caught.value)
    assert kind in (caught.value.type, "")
    assert await good.result(timeout=20) == "in time"
    assert await house.run(in_time) == "in time"


async def test_code_that_raises_while_it_is_forgotten_is_logged(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def untidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("in its finally block")

    worker = await house.worker(untidy)
    await house.start(untidy, key="o-1")
    timers = "select count(*) from my_app.streams where kind = 'timer'"
    await wait_for(lambda: house.one(timers) == 1)
    with caplog.at_level(logging.WARNING, "hotmesh"):
        await worker.shutdown()
    assert 'workflow "o-1": a task raised while its workflow was evicted' in caplog.text
    assert "in its finally block" in caplog.text


async def test_code_that_cleans_up_is_forgotten_without_a_word(
    house: House, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("tidy")
            await acts.echo("clean")

    worker = await house.worker(tidy)
    await house.start(tidy, key="o-1")
    timers = "select count(*) from my_app.streams where kind = 'timer'"
    await wait_for(lambda: house.one(timers) == 1)
    with caplog.at_level(logging.WARNING, "hotmesh"):
        await worker.shutdown()
    gc.collect()
    assert ended == ["tidy"]
    assert (caplog.text, capsys.readouterr().err) == ("", "")


async def test_wrong_arguments_fail_the_job_as_a_type_error(house: House) -> None:
    await house.worker(order_workflow)
    with pytest.raises(JobFailedError, match="missing 1 required positional argument") as caught:
        await house.run(order_workflow, "item-1")
    assert caught.value.type == "TypeError"
    assert isinstance(caught.value.__cause__, TypeError)


async def test_an_uncaught_failure_of_an_activity_is_the_failure_of_the_job(house: House) -> None:
    async def careless() -> None:
        await acts.fail("no stock")

    await house.activity_worker(fail)
    await house.worker(careless)
    handle = await house.start(careless, key="o-1")
    with pytest.raises(MaxedError, match="no stock") as caught:
        await handle.result(timeout=20)
    assert (caught.value.code, caught.value.type, caught.value.job_id) == (597, "ValueError", "o-1")
    assert await handle.status() < 0
    state = await handle.state(metadata=True)
    assert state["metadata"]["err"]["message"] == "no stock"


async def test_a_workflow_may_catch_and_go_on(house: House) -> None:
    async def careful() -> Any:
        try:
            await acts.fail("no stock")
        except MaxedError as error:
            return await acts.echo(["instead of", str(error), repr(error.__cause__)])

    await house.activity_worker(echo, fail)
    await house.worker(careful)
    assert await house.run(careful) == ["instead of", "no stock", "ValueError('no stock')"]


async def test_a_workflow_is_run_again_only_under_a_policy_given_to_its_start(
    house: House,
) -> None:
    lives: list[str] = []

    async def moody() -> str:
        lives.append(workflow.context().workflow_id)
        if lives.count("again") == 1 or workflow.context().workflow_id == "once":
            raise ValueError("bad day")
        return "good day"

    await house.worker(moody)
    with pytest.raises(JobFailedError, match="bad day"):
        await house.run(moody, key="once")
    assert await house.run(moody, key="again", retry_policy=FAST) == "good day"
    assert lives == ["once", "again", "again"]


async def test_a_fatal_error_of_the_workflow_itself_is_not_run_again(house: House) -> None:
    lives = []

    async def final() -> None:
        lives.append(1)
        raise FatalError("over")

    await house.worker(final)
    with pytest.raises(FatalError, match="over"):
        await house.run(final, retry_policy=FAST)
    assert lives == [1]


# --- code that blocks -----------------------------------------------------------------------------


async def test_code_that_blocks_is_named_and_keeps_its_leases(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    async def blocks() -> str:
        opened = gate.wait(20)  # as time.sleep would: nothing else can run in this loop
        return "opened" if opened else "never"

    worker = await house.worker(blocks, lease=1.8)
    left: list[Any] = []

    def watch() -> None:
        """Open the gate once the block was named, and the lease outlived itself."""
        until = time.monotonic() + 15
        while time.monotonic() < until and "has blocked its worker" not in caplog.text:
            time.sleep(0.05)  # the loop of this test is what is blocked
        left.append(
            house.one("select extract(epoch from visible_at - now()) > 0 from my_app.streams")
        )
        gate.set()

    with caplog.at_level(logging.WARNING, "hotmesh"):
        thread = threading.Thread(target=watch)
        thread.start()  # before the start, whose answer the code may be faster than
        assert await house.run(blocks, key="o-1") == "opened"
        thread.join()
    assert left == [True]
    assert '"o-1" has blocked its worker for over 2 s' in caplog.text
    assert "gate.wait" in caplog.text or "threading.py" in caplog.text
    assert worker._pump.held_ids() == []


# --- what a workflow knows ------------------------------------------------------------------------


async def test_a_workflow_knows_itself_and_its_time_is_that_of_its_events(house: House) -> None:
    async def about() -> Any:
        it = workflow.context()
        return [it.workflow_id, it.workflow_name, it.task_queue, it.attempt, time.time() > 0,
                workflow.now().tzinfo is not None]  # fmt: skip

    await house.worker(about)
    assert await house.run(about, key="o-1") == ["o-1", "about", "orders", 1, True, True]


def test_workflow_calls_outside_of_a_workflow_are_refused() -> None:
    for call in (workflow.now, workflow.random, workflow.uuid4, workflow.context):
        with pytest.raises(errors.InvalidArgumentError, match="outside of a workflow"):
            call()
    with pytest.raises(errors.InvalidArgumentError, match="outside of a workflow"):
        acts.echo(1)


async def test_named_arguments_are_put_in_order_and_unknown_ones_refused(house: House) -> None:
    known = workflow.proxy_activities([reserve_item], task_queue="acts")

    async def by_name() -> Any:
        first = await known.reserve_item(qty=2, item_id="i")
        try:
            await known.reserve_item(count=2)
        except TypeError as error:
            return [first, str(error)]

    await house.activity_worker(reserve_item)
    await house.worker(by_name)
    first, refused = await house.run(by_name)
    assert first == "reserved 2 of i"
    assert "item_id" in refused or "count" in refused


async def test_a_workflow_that_compensated_is_run_again_from_its_first_failure(
    house: House,
) -> None:
    calls: list[str] = []

    async def book() -> str:
        calls.append("book")
        return "booked"

    async def pay() -> str:
        calls.append("pay")
        if calls.count("pay") == 1:
            raise FatalError("card refused")
        return "paid"

    async def cancel() -> None:
        calls.append("cancel")

    async def trip() -> list[str]:
        booked = await workflow.execute_activity(book)
        try:
            return [booked, await workflow.execute_activity(pay)]
        except FatalError:
            await workflow.execute_activity(cancel)
            raise RuntimeError("the trip is off") from None

    await house.worker(trip, activities=[book, pay, cancel])
    assert await house.run(trip, retry_policy=FAST) == ["booked", "paid"]
    assert calls == ["book", "pay", "cancel", "pay"]


async def test_a_workflow_signals_itself_once(house: House) -> None:
    async def talks_to_itself() -> list[Any]:
        answer = await workflow.signal("news", {"n": 1})
        return [answer, await workflow.wait_for("news")]

    await house.worker(talks_to_itself)
    assert await house.run(talks_to_itself) == [True, {"n": 1}]


async def test_what_is_there_at_once_may_be_awaited_and_need_not(house: House) -> None:
    async def plain(n: int) -> Any:
        entity, search = workflow.entity(), workflow.search()
        assert await entity is entity
        assert await search is search
        await search.set("n", n)
        if n < 2:
            await entity.increment("rounds")
            workflow.continue_as_new(n + 1)
        return [await entity.get("rounds"), await search.get("n")]

    await house.worker(plain)
    assert await house.run(plain, 0) == [2, 2]
