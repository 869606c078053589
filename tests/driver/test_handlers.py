"""Queries and updates: what a running workflow answers."""

from __future__ import annotations

import asyncio

import pytest

from hotmesh import SyncClient, workflow
from hotmesh.errors import (
    ActivityError,
    ForbiddenInWorkflow,
    InvalidArgumentError,
    JobClosedError,
    JobInterruptedError,
    JobNotFoundError,
    TimedOutError,
)
from support.engine import APP
from support.flows import House, wait_for


async def plus(a: int, b: int) -> int:
    return a + b


async def account() -> int:
    state = {"balance": 0}

    async def deposit(amount: int) -> int:
        state["balance"] = await workflow.execute_activity(plus, state["balance"], amount)
        return state["balance"]

    def positive(amount: int) -> None:
        if amount <= 0:
            raise ValueError("an amount is positive")

    async def asks() -> None:
        await workflow.sleep_for(1)

    await workflow.set_query_handler("balance", lambda: state["balance"])
    workflow.set_query_handler("times", lambda n: state["balance"] * n)
    workflow.set_query_handler("asks", asks)
    workflow.set_query_handler("sneaks", lambda: workflow.execute_activity(plus, 1, 1))
    await workflow.set_update_handler("deposit", deposit, validator=positive)
    await workflow.wait_for("close")
    return state["balance"]


async def test_a_running_workflow_answers_queries_and_carries_out_updates(house: House) -> None:
    await house.worker(account, activities=[plus])
    handle = await house.start(account)
    assert await handle.query("balance") == 0
    assert await handle.update("deposit", 5) == 5
    assert await handle.update("deposit", 2) == 7
    assert await handle.query("times", 3) == 21
    with pytest.raises(ActivityError, match="positive") as caught:
        await handle.update("deposit", -1)
    assert isinstance(caught.value.__cause__, ValueError)
    await handle.signal("close")
    assert await handle.result(timeout=10) == 7


async def test_updates_are_replayed_and_queries_are_answered_by_another_worker(
    house: House,
) -> None:
    worker = await house.worker(account, activities=[plus])
    handle = await house.start(account)
    assert await handle.update("deposit", 5) == 5
    await worker.shutdown()
    await house.worker(account, activities=[plus])
    assert await handle.query("balance") == 5
    assert await handle.update("deposit", 5) == 10
    await handle.signal("close")
    assert await handle.result(timeout=10) == 10


async def test_what_can_not_be_answered_says_why(house: House) -> None:
    await house.worker(account, activities=[plus])
    handle = await house.start(account, key="a")
    with pytest.raises(InvalidArgumentError, match='no query handler "what"'):
        await handle.query("what")
    with pytest.raises(ForbiddenInWorkflow, match="async"):
        await handle.query("asks")
    with pytest.raises(ForbiddenInWorkflow, match="asked for activity plus"):
        await handle.query("sneaks")
    await handle.signal("close")
    await handle.result(timeout=10)
    with pytest.raises(JobClosedError):
        await handle.query("balance")
    with pytest.raises(JobClosedError):
        await handle.update("deposit", 1)
    with pytest.raises(JobNotFoundError):
        await house.client.workflow.get_handle(workflow_id="x").query("balance")


async def test_a_query_without_a_worker_times_out(house: House) -> None:
    handle = await house.start(account)
    with pytest.raises(TimedOutError):
        await handle.query("balance", timeout=0.1)


async def test_an_update_that_the_workflow_does_not_know_is_refused(house: House) -> None:
    await house.worker(account, activities=[plus])
    handle = await house.start(account)
    with pytest.raises(InvalidArgumentError, match='no update handler "withdraw"'):
        await handle.update("withdraw", 1)
    assert await handle.update("deposit", 1) == 1


async def test_an_update_whose_job_ends_before_is_told_so(house: House) -> None:
    handle = await house.start(account, key="a")
    with pytest.raises(TimedOutError):
        await handle.update("deposit", 1, timeout=0.05)
    await handle.interrupt()
    with pytest.raises(JobClosedError):
        await handle.update("deposit", 1)


async def test_the_same_update_id_counts_once(house: House) -> None:
    await house.worker(account, activities=[plus])
    handle = await house.start(account, key="a")
    for _ in range(2):
        house.one("select hotmesh.update_send('my-app', 'a', 'deposit', '[5]', 'once')")
    await wait_for(
        lambda: house.one("select hotmesh.update_result('my-app', 'a', 'once') is not null")
    )
    assert await handle.query("balance") == 5


async def test_the_blocking_client_asks_too(house: House) -> None:
    import asyncio

    await house.worker(account, activities=[plus])
    await house.start(account, key="a")

    def ask() -> list[int]:
        with SyncClient(house.dsn, APP) as client:
            handle = client.workflow.get_handle(workflow_id="a")
            return [handle.update("deposit", 3), handle.query("balance")]

    assert await asyncio.to_thread(ask) == [3, 3]


async def test_an_update_that_was_begun_when_the_code_starts_over_is_told_so(house: House) -> None:
    async def again(generation: int) -> int:
        begun = asyncio.Event()

        async def change() -> None:
            begun.set()
            await workflow.wait_for("never")

        workflow.set_update_handler("change", change)
        if generation:
            return generation
        await begun.wait()
        await workflow.continue_as_new(1)

    await house.worker(again)
    handle = await house.start(again, 0)
    with pytest.raises(JobInterruptedError, match='before it had answered update "change"'):
        await handle.update("change", timeout=10)
    assert await handle.result(timeout=10) == 1
