"""Timeouts: of one attempt, of all attempts together, of a job, of a transaction."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from hotmesh import activity, workflow
from hotmesh.errors import InvalidArgumentError, JobTimedOutError, TimedOutError
from support.failures import ONCE, Count, both, proxy, serve, told
from support.flows import FAST, House, wait_for

# --- one attempt ----------------------------------------------------------------------------------


@both
async def test_an_async_activity_is_cancelled_at_its_start_to_close_timeout(
    house: House, where: str
) -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def flow() -> Any:
        with pytest.raises(TimedOutError) as caught:
            await proxy(start_to_close_timeout=0.1, retry_policy=FAST).hang()
        assert isinstance(caught.value, TimeoutError)
        return told(caught.value)[:3]

    await serve(house, where, flow, hang)
    message = 'activity "hang" timed out: start_to_close_timeout of 0.1 s'
    assert await house.run(flow, queue="acts") == ["TimedOutError", 596, message]
    assert ended == ["cancelled"] * 3


@both
async def test_an_attempt_that_hangs_is_tried_again(house: House, where: str) -> None:
    async def flow() -> Any:
        acts = proxy(start_to_close_timeout="200ms", retry_policy=FAST)
        return await acts.second_time_lucky()

    async def second_time_lucky() -> int:
        if activity.context().attempt == 1:
            await asyncio.sleep(60)
        return activity.context().attempt

    await serve(house, where, flow, second_time_lucky)
    assert await house.run(flow, queue="acts") == 2


@both
async def test_a_thread_that_hangs_times_out_too_and_its_late_result_is_ignored(
    house: House, where: str
) -> None:
    gate, late = threading.Event(), threading.Event()

    def hang() -> str:
        if activity.context().attempt > 1:
            return "second"
        gate.wait(20)
        assert activity.is_cancelled()
        late.set()
        return "too late"

    async def flow() -> Any:
        return await proxy(start_to_close_timeout=0.1, retry_policy=FAST).hang()

    await serve(house, where, flow, hang)
    assert await house.run(flow, queue="acts") == "second"
    gate.set()
    await wait_for(late.is_set)
    assert await house.run(flow, queue="acts") == "second"


async def test_a_thread_that_can_t_be_stopped_keeps_its_slot_until_it_ends(house: House) -> None:
    gate = threading.Event()

    def hang() -> str:
        gate.wait(20)
        return "ran"

    async def flow(limit: float | None) -> Any:
        with pytest.raises(TimedOutError):
            await proxy(start_to_close_timeout=limit, retry_policy=ONCE).hang()

    async def wait() -> Any:
        return await proxy().hang()

    [worker] = [await house.activity_worker(hang, max_concurrent_activities=1)]
    await house.worker(flow, wait)
    await house.run(flow, 0.1)
    assert worker._pump.server.free == 0
    waiting = await house.start(wait)
    gate.set()
    assert await waiting.result(timeout=5) == "ran"


async def test_an_activity_that_ignores_its_cancellation_changes_nothing(house: House) -> None:
    done = asyncio.Event()

    async def stubborn() -> str:
        if activity.context().attempt > 1:
            return "second"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            done.set()
        return "first, late"

    async def flow() -> Any:
        return await proxy(start_to_close_timeout=0.1, retry_policy=FAST).stubborn()

    await serve(house, "stream", flow, stubborn)
    assert await house.run(flow, queue="acts") == "second"
    assert done.is_set()


async def test_a_timeout_is_about_running_not_about_waiting_for_a_slot(house: House) -> None:
    async def nap() -> str:
        await asyncio.sleep(0.1)
        return "rested"

    async def flow() -> Any:
        acts = proxy(start_to_close_timeout=1, retry_policy=ONCE)
        return await workflow.all(*[acts.nap() for _ in range(15)])

    await serve(house, "inline", flow, nap, max_concurrent_activities=1)
    assert await house.run(flow, queue="acts") == ["rested"] * 15


async def test_an_activity_knows_its_timeouts(house: House) -> None:
    def about() -> list[Any]:
        it = activity.info()
        return [it.start_to_close_timeout, it.heartbeat_timeout, it.heartbeat_details]

    async def flow() -> Any:
        bounded = proxy(start_to_close_timeout="1 minute", heartbeat_timeout=30)
        return [
            await bounded.about(),
            await proxy(start_to_close_timeout=5).about(),
            await proxy().about(),
        ]

    await serve(house, "inline", flow, about)
    assert await house.run(flow, queue="acts") == [[60, 30, None], [5, None, None], [None] * 3]


# --- all attempts together ------------------------------------------------------------------------


async def test_what_nobody_serves_ends_at_its_schedule_to_close_timeout(house: House) -> None:
    async def flow() -> Any:
        lost = workflow.proxy_activities(task_queue="nobody", schedule_to_close_timeout=0.2)
        with pytest.raises(TimedOutError) as caught:
            await lost.anything()
        return told(caught.value)[:3]

    await house.worker(flow)
    message = 'activity "anything" timed out: schedule_to_close_timeout of 0.2 s'
    assert await house.run(flow) == ["TimedOutError", 596, message]


async def test_retries_end_with_the_schedule_to_close_timeout(house: House) -> None:
    async def flow() -> Any:
        slow = {"maximum_attempts": 9, "initial_interval": 30, "backoff_coefficient": 1}
        with pytest.raises(TimedOutError) as caught:
            await proxy(schedule_to_close_timeout=20, retry_policy=slow).fail()
        return [*told(caught.value)[:2], str(caught.value.__cause__)]

    fail = Count()
    await serve(house, "inline", flow, fail)
    began = time.monotonic()
    assert await house.run(flow, queue="acts") == ["TimedOutError", 596, "'no stock'"]
    assert (fail.calls, time.monotonic() - began < 10) == (1, True)


async def test_an_attempt_that_runs_is_cancelled_at_the_schedule_to_close_timeout(
    house: House,
) -> None:
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def flow() -> Any:
        with pytest.raises(TimedOutError, match="schedule_to_close_timeout"):
            await proxy(schedule_to_close_timeout=0.3, start_to_close_timeout=10).hang()

    await serve(house, "stream", flow, hang)
    await house.run(flow, queue="acts")
    await wait_for(ended.is_set)


# --- bad input ------------------------------------------------------------------------------------


BAD = [0, -1, "soon", "60", True, float("nan"), float("inf"), "2000 years", [], {}, "-5 s", "0 s"]
NAMES = ("start_to_close_timeout", "schedule_to_close_timeout", "heartbeat_timeout")


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_timeout_is_refused_where_it_is_written(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        workflow.proxy_activities(**{name: value})
    with pytest.raises(InvalidArgumentError, match=name):
        workflow.execute_activity("pay", **{name: value})


# --- the time of a job ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["execution_timeout", "run_timeout"])
async def test_a_job_whose_time_is_over_fails_with_596_and_its_activities_learn_it(
    house: House, name: str
) -> None:
    met = asyncio.Event()

    async def walk() -> None:
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.01)
        finally:
            met.set()

    async def flow() -> None:
        await proxy(heartbeat_timeout=5).walk()

    await serve(house, "stream", flow, walk)
    handle = await house.start(flow, queue="acts", **{name: 0.5})
    with pytest.raises(JobTimedOutError, match=f"{name} of 0.5 s") as caught:
        await handle.result(timeout=10)
    assert (caught.value.code, caught.value.job_id) == (596, handle.workflow_id)
    assert isinstance(caught.value, TimeoutError)
    await asyncio.wait_for(met.wait(), 10)


async def test_a_job_that_sleeps_past_its_time_fails(house: House) -> None:
    async def flow() -> str:
        await workflow.sleep_for("1 day")
        return "awake"

    await house.worker(flow)
    with pytest.raises(JobTimedOutError):
        await house.run(flow, execution_timeout="300 ms")


async def test_a_job_with_time_to_spare_ends_as_ever(house: House) -> None:
    async def flow() -> str:
        return "in time"

    await house.worker(flow)
    assert await house.run(flow, execution_timeout="1 minute", run_timeout=30) == "in time"
    assert house.one("select count(*) from my_app.streams") == 0


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("name", ["execution_timeout", "run_timeout"])
async def test_a_start_with_what_is_no_timeout_starts_nothing(
    house: House, name: str, value: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        await house.client.workflow.start(workflow_name="flow", **{name: value})
    assert house.one("select count(*) from my_app.jobs") == 0


async def test_the_time_of_a_job_bounds_its_hooks_too(house: House) -> None:
    ended: list[str] = []

    async def aside() -> None:
        await workflow.sleep_for("1 day")

    async def flow() -> str:
        await workflow.hook(aside)
        ended.append("main")
        return "main is done"

    await house.worker(flow, aside)
    with pytest.raises(JobTimedOutError, match="execution_timeout"):
        await house.run(flow, execution_timeout="700 ms")
    assert ended == ["main"]


async def test_a_child_whose_time_is_over_fails_its_parent_s_call(house: House) -> None:
    async def slow() -> None:
        await workflow.sleep_for("1 day")

    async def flow() -> Any:
        with pytest.raises(JobTimedOutError) as caught:
            await workflow.exec_child(slow, execution_timeout="300 ms")
        return told(caught.value)[:3]

    await house.worker(flow, slow)
    message = "the workflow timed out: execution_timeout of 0.3 s"
    assert await house.run(flow) == ["JobTimedOutError", 596, message]


async def test_activities_of_hooks_are_bounded_like_those_of_the_main_function(
    house: House,
) -> None:
    async def hang() -> None:
        await asyncio.sleep(60)

    async def aside() -> list[Any]:
        seen = []
        for limits in (
            {"start_to_close_timeout": 0.1}, {"heartbeat_timeout": 0.1},
            {"schedule_to_close_timeout": 0.1},
        ):  # fmt: skip
            with pytest.raises(TimedOutError) as caught:
                await proxy(retry_policy=ONCE, **limits).hang()
            seen.append(caught.value.code)
        return seen

    async def flow() -> Any:
        return await workflow.exec_hook(workflow_name=aside, signal_id="done")

    await serve(house, "stream", flow, hang)
    await house.worker(aside, queue="acts")
    assert await house.run(flow, queue="acts") == [596, 596, 596]


# --- transactions that take too long --------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
async def test_a_transaction_that_takes_too_long_is_rolled_back_and_tried_again(
    house: House, sync: bool
) -> None:
    house.db.execute("create table public.written (attempt integer)")
    house.db.execute("grant all on public.written to public")

    def in_thread() -> int:
        conn = activity.transaction()
        attempt = activity.context().attempt
        conn.execute("insert into public.written values (%s)", [attempt])
        if attempt == 1:
            time.sleep(0.5)
        return attempt

    async def in_task() -> int:
        conn = await activity.transaction()
        attempt = activity.context().attempt
        await conn.execute("insert into public.written values (%s)", [attempt])
        if attempt == 1:
            await asyncio.sleep(60)
        return attempt

    async def flow() -> Any:
        acts = proxy(start_to_close_timeout=0.2)
        return await (acts.in_thread() if sync else acts.in_task())

    await serve(house, "stream", flow, in_thread, in_task, retry_policy=FAST)
    assert await house.run(flow, queue="acts") == 2
    assert house.db.execute("select attempt from public.written").fetchall() == [(2,)]
