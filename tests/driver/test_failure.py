"""Failure: retry policies of calls, workers and workflows; timeouts; heartbeats; how jobs fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hotmesh import activity, errors, workflow
from hotmesh.errors import (
    FatalError,
    InvalidArgumentError,
    JobCancelledError,
    JobFailedError,
    JobTimedOutError,
    MaxedError,
    TimedOutError,
)
from support.flows import FAST, House, opened, wait_for

ONCE = {"maximum_attempts": 1}


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


def proxy(**options: Any) -> Any:
    return workflow.proxy_activities(task_queue="acts", **options)


def told(error: BaseException) -> list[Any]:
    """What a workflow sees of a failure."""
    cause = error.__cause__
    return [type(error).__name__, getattr(error, "code", None), str(error), type(cause).__name__]


async def serve(house: House, where: str, flow: Any, *activities: Any, **more: Any) -> None:
    """Activities of a worker of their own (`stream`), or of the one that runs the workflow."""
    if where == "inline":
        await house.worker(flow, activities=list(activities), queue="acts", **more)
    else:
        await house.activity_worker(*activities, **more)
        await house.worker(flow, queue="acts")


both = pytest.mark.parametrize("where", ["inline", "stream"])


# --- retry policies -------------------------------------------------------------------------------


class Count:
    """An activity that always fails, and counts."""

    __name__ = "fail"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise KeyError("no stock")


@both
async def test_a_worker_s_policy_holds_where_the_call_has_none(house: House, where: str) -> None:
    async def flow() -> Any:
        try:
            await proxy().fail()
        except Exception as error:
            return told(error)

    fail = Count()
    await serve(house, where, flow, fail, retry_policy=FAST | {"maximum_attempts": 2})
    assert (await house.run(flow, queue="acts"))[:2] == ["MaxedError", 597]
    assert fail.calls == 2


@both
async def test_the_policy_of_the_call_goes_before_the_worker_s(house: House, where: str) -> None:
    async def flow() -> Any:
        with pytest.raises(MaxedError) as caught:
            await proxy(retry_policy=FAST | {"maximum_attempts": 4}).fail()
        return told(caught.value)

    fail = Count()
    await serve(house, where, flow, fail, retry_policy=ONCE)
    assert await house.run(flow, queue="acts") == ["MaxedError", 597, "'no stock'", "KeyError"]
    assert fail.calls == 4


async def test_a_worker_s_policy_names_what_is_not_retried(house: House) -> None:
    async def flow() -> Any:
        with pytest.raises(FatalError) as caught:
            await proxy().fail()
        return told(caught.value)

    fail = Count()
    policy = FAST | {"non_retryable_error_types": [KeyError]}
    await serve(house, "stream", flow, fail, retry_policy=policy)
    assert (await house.run(flow, queue="acts"))[:2] == ["FatalError", 598]
    assert fail.calls == 1


async def test_a_workflow_whose_runs_are_used_up_has_failed_with_597(house: House) -> None:
    runs: list[int] = []

    async def flow() -> None:
        runs.append(1)
        raise KeyError("no")

    async def parent() -> Any:
        try:
            await workflow.exec_child(flow, retry_policy=FAST)
        except MaxedError as error:
            return error.code

    await house.worker(flow, parent)
    with pytest.raises(MaxedError, match="no") as caught:
        await house.run(flow, retry_policy=FAST)
    error = caught.value
    assert (error.code, error.type, type(error.__cause__), len(runs)) == (
        597,
        "KeyError",
        KeyError,
        3,
    )
    with pytest.raises(FatalError):
        await house.run(flow, retry_policy=FAST | {"non_retryable_error_types": ["KeyError"]})
    assert len(runs) == 4
    assert await house.run(parent) == 597


async def test_a_cancelled_workflow_is_not_run_again_by_its_policy(house: House) -> None:
    runs: list[int] = []

    async def flow() -> None:
        runs.append(1)
        await workflow.wait_for("never")

    await house.worker(flow)
    handle = await house.start(flow, key="c", retry_policy=FAST)
    await wait_for(lambda: house.steps("c"))
    await handle.cancel()
    with pytest.raises(JobCancelledError):
        await handle.result(timeout=10)
    assert len(runs) == 1


async def test_a_workflow_is_run_again_only_under_a_policy_given_to_its_start(house: House) -> None:
    runs: list[int] = []

    async def flow() -> str:
        runs.append(workflow.context().attempt)
        if len(runs) < 3:
            raise ConnectionError("not yet")
        return "in the end"

    await house.worker(flow)
    assert await house.run(flow, retry_policy=FAST) == "in the end"
    assert len(runs) == 3
    runs.clear()
    with pytest.raises(JobFailedError) as caught:
        await house.run(flow)
    assert (caught.value.type, len(runs)) == ("ConnectionError", 1)


@pytest.mark.parametrize(
    "policy", [{"maximum_attempts": 0}, {"attempts": 3}, {"initial_interval": "soon"}, [3], "often"]
)
async def test_a_worker_with_a_bad_policy_does_not_start(house: House, policy: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="retry_policy"):
        await house.activity_worker(Count(), retry_policy=policy)
    with pytest.raises(InvalidArgumentError, match="retry_policy"):
        await house.worker(activities=[Count()], retry_policy=policy)


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


# --- heartbeats -----------------------------------------------------------------------------------


async def test_an_async_activity_that_goes_silent_is_ended(house: House) -> None:
    seen: list[Any] = []

    async def walk() -> str:
        seen.append(activity.context().heartbeat_details)
        if len(seen) == 3:
            return "there"
        for step in range(4):
            activity.heartbeat({"run": len(seen), "step": step})
            await asyncio.sleep(0.05)
        await asyncio.sleep(60)
        return "never"

    async def flow() -> Any:
        return await proxy(heartbeat_timeout=0.6, retry_policy=FAST).walk()

    await serve(house, "inline", flow, walk)
    assert await house.run(flow, queue="acts") == "there"
    assert seen == [None, {"run": 1, "step": 3}, {"run": 2, "step": 3}]


async def test_an_activity_lives_as_long_as_it_beats(house: House) -> None:
    async def walk() -> int:
        for _ in range(30):
            await activity.heartbeat()
            await asyncio.sleep(0.05)
        return activity.context().attempt

    def march() -> int:
        for _ in range(30):
            activity.heartbeat()
            time.sleep(0.05)
        return activity.context().attempt

    async def flow() -> Any:
        acts = proxy(heartbeat_timeout="500 ms")
        return await workflow.all(acts.walk(), acts.march())

    await serve(house, "stream", flow, walk, march)
    assert await house.run(flow, queue="acts") == [1, 1]


async def test_heartbeat_timeouts_used_up_are_596(house: House) -> None:
    async def mute() -> None:
        await asyncio.sleep(60)

    async def flow() -> None:
        await proxy(heartbeat_timeout=0.1, retry_policy=FAST).mute()

    await serve(house, "stream", flow, mute)
    with pytest.raises(JobTimedOutError, match="heartbeat_timeout") as caught:
        await house.run(flow, queue="acts")
    assert (caught.value.code, caught.value.type) == (596, "TimedOutError")
    assert isinstance(caught.value, TimedOutError)


@both
async def test_the_details_of_a_failed_attempt_reach_the_next_one(house: House, where: str) -> None:
    async def flow() -> Any:
        return await proxy(retry_policy=FAST).load()

    def load() -> Any:
        before = activity.context().heartbeat_details
        for row in range(100):
            activity.heartbeat(row)
        if before is None:
            raise ConnectionError("in the middle")
        return before

    await serve(house, where, flow, load)
    assert await house.run(flow, queue="acts") == 99


async def test_many_heartbeats_are_few_calls(house: House, monkeypatch: Any) -> None:
    from hotmesh import _calls

    sent: list[str] = []
    call = _calls.worker_heartbeat

    def counted(app: str, worker: str, beats: str, lease: float) -> Any:
        sent.append(beats)
        return call(app, worker, beats, lease)

    monkeypatch.setattr(_calls, "worker_heartbeat", counted)

    async def chatter() -> None:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            activity.heartbeat("x" * 100)
            await asyncio.sleep(0)

    async def flow() -> None:
        await proxy(heartbeat_timeout=30).chatter()

    await serve(house, "stream", flow, chatter)
    await house.run(flow, queue="acts")
    assert 1 <= len(sent) <= 3


@pytest.mark.parametrize("sync", [True, False])
async def test_an_activity_that_its_workflow_cancelled_learns_it_at_a_heartbeat(
    house: House, sync: bool
) -> None:
    met: list[str] = []
    began = threading.Event()

    def march() -> None:
        began.set()
        try:
            while True:
                activity.heartbeat()
                time.sleep(0.01)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    async def walk() -> None:
        began.set()
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    async def flow() -> str:
        try:
            async with asyncio.timeout(0.3):
                await getattr(proxy(heartbeat_timeout=3), "march" if sync else "walk")()
        except TimeoutError:
            return "gone on"
        return "done"

    await serve(house, "stream", flow, march, walk)
    waiting = await house.start(flow, queue="acts")
    await wait_for(began.is_set)
    assert await waiting.result(timeout=10) == "gone on"
    await wait_for(lambda: met)


async def test_an_activity_whose_message_is_somebody_else_s_learns_it(house: House) -> None:
    met = threading.Event()

    def march() -> str:
        if activity.context().attempt > 1:
            return "second"
        try:
            while True:
                activity.heartbeat()
                time.sleep(0.01)
        except asyncio.CancelledError:
            met.set()
            raise

    async def flow() -> Any:
        return await proxy(heartbeat_timeout=10).march()

    await serve(house, "stream", flow, march)
    waiting = await house.start(flow, queue="acts")
    taken = "update my_app.streams set token = token + 1, visible_at = hotmesh.now()"
    await wait_for(
        lambda: house.db.execute(f"{taken} where kind = 'activity' and state = 'leased'").rowcount
    )
    assert await waiting.result(timeout=10) == "second"
    await wait_for(met.is_set)


async def test_heartbeats_outside_of_activities_are_refused(house: House) -> None:
    for call in (activity.heartbeat, activity.is_cancelled):
        with pytest.raises(InvalidArgumentError, match="outside of an activity"):
            call()

    async def flow() -> str:
        with pytest.raises(InvalidArgumentError, match="outside of an activity"):
            activity.heartbeat()
        return "refused"

    await house.worker(flow)
    assert await house.run(flow) == "refused"


async def test_details_that_json_can_t_carry_are_refused_in_the_activity(house: House) -> None:
    def wrong() -> str:
        with pytest.raises(InvalidArgumentError, match="details of a heartbeat"):
            activity.heartbeat(object())
        with pytest.raises(InvalidArgumentError, match="NUL"):
            activity.heartbeat("a\x00b")
        return "refused"

    async def flow() -> Any:
        return await proxy(heartbeat_timeout=5).wrong()

    await serve(house, "stream", flow, wrong)
    assert await house.run(flow, queue="acts") == "refused"


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


# --- how a job fails ------------------------------------------------------------------------------


async def test_an_uncaught_failure_leaves_type_message_code_and_traceback(house: House) -> None:
    async def flow() -> None:
        raise LookupError("nowhere to be found")

    await house.worker(flow)
    handle = await house.start(flow)
    with pytest.raises(JobFailedError, match="nowhere to be found") as caught:
        await handle.result(timeout=10)
    error = caught.value
    assert (error.type, error.code, error.job_id) == ("LookupError", 500, handle.workflow_id)
    assert "in flow" in (error.traceback or "")
    assert isinstance(error.__cause__, LookupError)
    metadata = (await handle.state(metadata=True))["metadata"]
    assert {"type", "message", "code", "traceback"} <= set(metadata["err"])


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (FatalError("never"), FatalError, 598),
        (KeyError("stock"), MaxedError, 597),
        (TimedOutError("no answer"), JobTimedOutError, 596),
    ],
    ids=["fatal", "maxed", "timed out"],
)
async def test_an_activity_s_failure_that_nobody_catches_keeps_its_code(
    house: House, raised: Exception, kind: type[Exception], code: int
) -> None:
    def fail() -> None:
        raise raised

    async def flow() -> None:
        await proxy(retry_policy=FAST).fail()

    await serve(house, "stream", flow, fail)
    with pytest.raises(kind) as caught:
        await house.run(flow, queue="acts")
    assert getattr(caught.value, "code", None) == code
    assert isinstance(caught.value, errors.JobFailedError)


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
