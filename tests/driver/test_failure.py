"""Failure: retry policies of calls, workers and workflows, and how a job fails."""

from __future__ import annotations

from typing import Any

import pytest

from hotmesh import errors, workflow
from hotmesh.errors import (
    FatalError,
    InvalidArgumentError,
    JobCancelledError,
    JobFailedError,
    JobTimedOutError,
    MaxedError,
    TimedOutError,
)
from support.failures import ONCE, Count, both, proxy, serve, told
from support.flows import FAST, House, wait_for

# --- retry policies -------------------------------------------------------------------------------


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
