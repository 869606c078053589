"""What runs beside a workflow: children, signals between them, and how they are stopped."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import (
    DuplicateJobError,
    InvalidArgumentError,
    JobCancelledError,
    JobClosedError,
    JobFailedError,
    JobInterruptedError,
    JobNotFoundError,
    TimedOutError,
)
from support.flows import House, wait_for


async def double(n: int) -> int:
    return 2 * n


async def fails(text: str) -> None:
    raise ValueError(text)


async def sleeps() -> str:
    await workflow.sleep_for("1 day")
    return "slept"


# --- children -------------------------------------------------------------------------------------


async def test_a_child_returns_its_result(house: House) -> None:
    async def parent(n: int) -> int:
        return int(await workflow.exec_child(double, args=[n])) + 1

    await house.worker(parent, double)
    assert await house.run(parent, 20) == 41


async def test_children_run_side_by_side_and_their_parent_is_on_record(house: House) -> None:
    async def parent(n: int) -> list[int]:
        return await workflow.all(
            *[workflow.exec_child(double, args=[i], workflow_id=f"child-{i}") for i in range(n)]
        )

    await house.worker(parent, double)
    assert await house.run(parent, 10, key="papa") == [2 * i for i in range(10)]
    assert (
        house.one(
            "select count(*) from my_app.jobs c join my_app.jobs p on p.id = c.parent_id"
            " where p.key = 'papa' and c.origin_id = p.id"
        )
        == 10
    )


async def test_a_started_child_has_a_handle(house: House) -> None:
    async def parent() -> list[Any]:
        child = await workflow.start_child(double, args=[4], workflow_id="the-child")
        return [child, child.workflow_id, await child.result()]

    await house.worker(parent, double)
    assert await house.run(parent) == ["the-child", "the-child", 8]


async def test_a_child_s_result_may_be_asked_for_again_after_a_timeout(house: House) -> None:
    async def slow() -> int:
        return int(await workflow.wait_for("go"))

    async def impatient() -> int:
        child = await workflow.start_child(slow, workflow_id="slow")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.result(), 0.05)
        await workflow.signal(id="gave-up", data=None)
        return await child.result()

    await house.worker(impatient, slow)
    handle = await house.start(impatient)
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.signals where kind = 'signal'")
    )
    await house.client.workflow.get_handle(workflow_id="slow").signal("go", 7)
    assert await handle.result(timeout=10) == 7


async def test_a_childs_failure_arrives_with_its_cause(house: House) -> None:
    async def parent() -> list[str]:
        try:
            await workflow.exec_child(fails, args=["no"], workflow_id="bad")
        except JobFailedError as error:
            return [type(error.__cause__).__name__, str(error.__cause__), str(error.job_id)]
        return []

    await house.worker(parent, fails)
    assert await house.run(parent) == ["ValueError", "no", "bad"]


async def test_a_duplicate_child_raises_in_the_parent(house: House) -> None:
    async def parent() -> list[Any]:
        answers = []
        for start in (workflow.exec_child, workflow.start_child):
            try:
                await start(double, args=[1], workflow_id="taken")
            except DuplicateJobError as error:  # noqa: PERF203
                answers.append(str(error))
        return answers

    await house.worker(parent, double)
    await (await house.start(double, 1, key="taken")).result(timeout=10)
    assert await house.run(parent) == ["Duplicate job: taken"] * 2


async def test_a_child_can_not_be_its_own_ancestor(house: House) -> None:
    async def ouroboros() -> None:
        await workflow.exec_child(ouroboros, workflow_id=workflow.context().workflow_id)

    await house.worker(ouroboros)
    with pytest.raises(JobFailedError, match="Duplicate job: snake"):
        await house.run(ouroboros, key="snake")


@pytest.mark.parametrize(
    ("policy", "ends"),
    [("terminate", JobInterruptedError), ("cancel", JobCancelledError), ("abandon", None)],
)
async def test_children_are_treated_by_policy_when_their_parent_closes(
    house: House, policy: str, ends: type[Exception] | None
) -> None:
    async def parent() -> None:
        await workflow.start_child(sleeps, workflow_id="kid", parent_close_policy=policy)

    await house.worker(parent, sleeps)
    await house.run(parent)
    kid = house.client.workflow.get_handle(workflow_id="kid")
    if ends is None:
        assert await kid.status() == 1
    else:
        with pytest.raises(ends):
            await kid.result(timeout=10)


async def test_unknown_words_for_a_child_are_refused(house: House) -> None:
    async def parent() -> list[str]:
        told = []
        for bad in ({"parent_close_policy": "keep"}, {"wrong": 1}):
            try:
                await workflow.exec_child(double, args=[1], **bad)  # type: ignore[arg-type]
            except InvalidArgumentError as error:  # noqa: PERF203
                told.append(str(error))
        return told

    await house.worker(parent, double)
    answers = await house.run(parent)
    assert ["keep" in answers[0], "wrong" in answers[1]] == [True, True]


# --- signals by name ------------------------------------------------------------------------------


async def waits(name: str) -> Any:
    return await workflow.wait_for(name)


async def test_a_signal_by_name_reaches_one_wait_whichever_was_first(house: House) -> None:
    await house.client.workflow.signal("early", 1)
    await house.worker(waits)
    assert await house.run(waits, "early") == 1
    handle = await house.start(waits, "late")
    await wait_for(lambda: house.one("select count(*) = 1 from my_app.signals"))
    await house.client.workflow.signal("late", 2)
    assert await handle.result(timeout=10) == 2
    assert house.one("select count(*) from my_app.signals") == 0


async def test_many_signals_by_name_meet_as_many_waits_once_each(house: House) -> None:
    await house.worker(waits)
    handles = await house.client.workflow.start_many(
        [{"workflow_name": "waits", "task_queue": "orders", "args": ["n"]} for _ in range(30)]
    )
    await asyncio.gather(*[house.client.workflow.signal("n", i) for i in range(31)])
    answers = await asyncio.gather(*[handle.result(timeout=20) for handle in handles])
    kept = house.one("select answer -> 'output' from my_app.signals")
    assert sorted([*answers, kept]) == list(range(31))


async def test_a_wait_that_timed_out_takes_no_signal(house: House) -> None:
    async def main() -> Any:
        with contextlib.suppress(TimedOutError):
            await workflow.wait_for("s", timeout=0.05)
        await workflow.wait_for("go on")
        return await workflow.wait_for("s")

    await house.worker(main)
    handle = await house.start(main)
    await wait_for(
        lambda: house.one(
            "select count(*) = 1 from my_app.signals where name = 'go on' and kind = 'wait'"
        )
    )
    await house.client.workflow.signal("s", "kept")
    await handle.signal("go on")
    assert await handle.result(timeout=10) == "kept"


# --- cancel and interrupt -------------------------------------------------------------------------


async def test_a_cancelled_workflow_cleans_up_and_ends_as_cancelled(house: House) -> None:
    cleaned: list[str] = []

    async def clean(what: str) -> None:
        cleaned.append(what)

    async def main() -> None:
        try:
            await workflow.sleep_for("1 day")
        finally:
            await workflow.execute_activity(clean, "room")

    await house.worker(main, activities=[clean])
    handle = await house.start(main)
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.streams where kind = 'timer'")
    )
    await handle.cancel()
    with pytest.raises(JobCancelledError) as caught:
        await handle.result(timeout=10)
    assert (caught.value.code, cleaned) == (499, ["room"])
    with pytest.raises(JobClosedError):
        await handle.cancel()


async def test_a_cancel_that_is_caught_does_not_end_the_workflow(house: House) -> None:
    async def main() -> str:
        try:
            await workflow.sleep_for("1 day")
        except asyncio.CancelledError:
            return f"stayed {await workflow.wait_for('x')}"
        return "never"

    worker = await house.worker(main)
    handle = await house.start(main)
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.streams where kind = 'timer'")
    )
    await handle.cancel()
    await wait_for(lambda: house.one("select count(*) = 1 from my_app.signals"))
    await worker.shutdown()  # the replay is cancelled at the same place
    await house.worker(main)
    await handle.signal("x", 1)
    assert await handle.result(timeout=10) == "stayed 1"


async def test_an_interrupt_ends_a_job_at_once_and_its_children_if_asked(house: House) -> None:
    async def parent() -> None:
        await workflow.exec_child(sleeps, workflow_id="kid")

    await house.worker(parent, sleeps)
    handle = await house.start(parent)
    kid = house.client.workflow.get_handle(workflow_id="kid")
    await wait_for(lambda: house.one("select count(*) = 1 from my_app.jobs where key = 'kid'"))
    await handle.interrupt("enough", code=499, descend=True)
    assert await handle.status() < 0
    with pytest.raises(JobFailedError, match="enough") as caught:
        await handle.result(timeout=10)
    assert caught.value.code == 499
    with pytest.raises(JobFailedError):
        await kid.result(timeout=10)
    await wait_for(lambda: house.one("select count(*) = 0 from my_app.streams"))


async def test_an_interrupt_without_a_worker_takes_effect_with_its_commit(house: House) -> None:
    handle = await house.start(sleeps, key="alone")
    await handle.interrupt()
    with pytest.raises(JobInterruptedError, match=r"job \[alone\] interrupted") as caught:
        await handle.result(timeout=5)
    assert caught.value.code == 410
    assert house.one("select count(*) from my_app.streams") == 0


async def test_an_interrupt_need_not_raise(house: House) -> None:
    handle = await house.start(sleeps)
    await handle.interrupt(throw=False)
    assert await handle.result(timeout=5) is None
    assert await handle.status() < 0


async def test_workflow_code_interrupts_another_job(house: House) -> None:
    async def main() -> list[str]:
        await workflow.interrupt("victim", reason="because")
        try:
            await workflow.interrupt("nobody")
        except JobNotFoundError as error:
            return [type(error).__name__]
        return []

    victim = await house.start(sleeps, key="victim")
    await house.worker(main)
    assert await house.run(main) == ["JobNotFoundError"]
    with pytest.raises(JobInterruptedError, match="because"):
        await victim.result(timeout=10)
