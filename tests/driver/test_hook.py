"""Hooks: functions that run in a job beside its main one, and answer by signal or value."""

from __future__ import annotations

from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import (
    JobClosedError,
    JobFailedError,
    JobNotFoundError,
    MaxedError,
    TimedOutError,
)
from support.flows import House, wait_for


async def fails(text: str) -> None:
    raise ValueError(text)


async def signals(text: str, info: dict[str, str]) -> None:
    await workflow.signal(info["signal"], {"said": text})


async def returns(text: str) -> str:
    return text.upper()


async def test_a_hook_answers_by_its_signal_or_by_its_value(house: House) -> None:
    async def main() -> list[Any]:
        first = workflow.exec_hook(signals, args=["hello"])
        second = workflow.exec_hook(workflow_name="returns", args=["world"])
        return [await first, await second]

    await house.worker(main, signals, returns)
    assert await house.run(main, key="m") == [{"said": "hello"}, "WORLD"]
    assert house.one("select status from my_app.jobs where key = 'm'") == 0


async def test_a_batch_of_hooks_answers_by_key(house: House) -> None:
    async def main() -> dict[str, Any]:
        return await workflow.exec_hook_batch(
            [
                {
                    "key": "a",
                    "options": {"workflow_name": "returns", "args": ["x"], "signal_id": "s"},
                },
                {"key": "b", "options": {"workflow_name": "signals", "args": ["y"]}},
            ]
        )

    await house.worker(main, signals, returns)
    assert await house.run(main) == {"a": "X", "b": {"said": "y"}}


async def test_a_job_stays_open_for_its_hooks(house: House) -> None:
    async def late() -> None:
        await workflow.wait_for("go")

    async def main() -> str:
        await workflow.hook(late)
        return "main is done"

    await house.worker(main, late)
    handle = await house.start(main, key="m")
    await wait_for(
        lambda: house.one(
            "select count(*) = 1 from my_app.jobs_attributes a join my_app.jobs j on j.id = a.job_id"
            " where j.key = 'm' and a.field = 'output' and j.status = 1"
        )
    )
    with pytest.raises(TimedOutError):
        await handle.result(timeout=0.2)
    await handle.signal("go")
    assert await handle.result(timeout=10) == "main is done"


async def test_a_hook_from_outside_runs_in_the_open_job(house: House) -> None:
    async def visitor(name: str) -> None:
        await workflow.signal("visited", name)

    async def main() -> Any:
        return await workflow.wait_for("visited")

    await house.worker(main, visitor)
    handle = await house.start(main, key="m")
    await house.client.workflow.hook(workflow_id="m", workflow_name="visitor", args=["Ada"])
    assert await handle.result(timeout=10) == "Ada"
    with pytest.raises(JobClosedError):
        await house.client.workflow.hook(workflow_id="m", workflow_name="visitor", args=["Bob"])
    with pytest.raises(JobNotFoundError):
        await house.client.workflow.hook(workflow_id="x", workflow_name="visitor", args=["Bob"])


async def test_a_hook_that_fails_is_tried_until_it_succeeds(house: House) -> None:
    tries: list[int] = []

    async def shaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return "at last"

    async def main() -> Any:
        policy = {"maximum_attempts": 5, "initial_interval": 0.01, "backoff_coefficient": 1}
        return await workflow.exec_hook(shaky, retry_policy=policy)

    await house.worker(main, shaky)
    assert await house.run(main) == "at last"
    assert len(tries) == 3


async def test_a_hook_that_gave_up_fails_whoever_waits_for_it(house: House) -> None:
    async def main() -> Any:
        try:
            await workflow.exec_hook(fails, args=["no"], retry_policy={"maximum_attempts": 1})
        except MaxedError as error:
            return [error.code, str(error), type(error.__cause__).__name__]

    await house.worker(main, fails)
    assert await house.run(main) == [597, "no", "ValueError"]


async def test_a_hook_that_fails_is_told_of_in_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await workflow.hook(fails, args=["because"])

    await house.worker(main, fails)
    handle = await house.start(main, key="m")
    await wait_for(lambda: 'hook "fails" of job "m" has failed' in caplog.text)
    assert "because" in caplog.text
    await handle.interrupt()


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({"key": "a", "options": {"workflow_name": "greet"}}, "must be a list"),
        ([{"key": "a"}], r"hooks\[0\] has no key or no options"),
        ([{"key": None, "options": {"workflow_name": "greet"}}], "has no key"),
        (2 * [{"key": "a", "options": {"workflow_name": "greet"}}], r"hooks\[1\] has the key"),
        ([{"key": "a", "options": {"workflow_name": "greet", "arg": 1}}], "unknown options.* arg"),
    ],
)
async def test_a_batch_that_is_none_is_refused_before_any_hook_runs(
    house: House, hooks: Any, said: str
) -> None:
    async def main() -> None:
        await workflow.exec_hook_batch(hooks)

    await house.worker(main)
    with pytest.raises(JobFailedError, match=said) as caught:
        await house.run(main, key="m")
    assert caught.value.type == "InvalidArgumentError"
    assert house.steps("m") == []


async def test_a_hook_that_gave_up_and_that_nobody_waits_for_fails_the_job(house: House) -> None:
    async def main() -> None:
        await workflow.hook(fails, args=["no"], retry_policy={"maximum_attempts": 1})
        await workflow.wait_for("never")

    await house.worker(main, fails)
    with pytest.raises(JobFailedError, match="no"):
        await house.run(main)


async def test_a_function_does_not_hook_itself(house: House) -> None:
    async def main() -> None:
        await workflow.hook(main)

    await house.worker(main)
    with pytest.raises(JobFailedError, match="infinite loop"):
        await house.run(main)


async def test_hooks_replay_on_another_worker(house: House) -> None:
    async def long(info: dict[str, str]) -> None:
        first = await workflow.wait_for("one")
        second = await workflow.wait_for("two")
        await workflow.signal(info["signal"], [first, second])

    async def main() -> Any:
        return await workflow.exec_hook(long)

    worker = await house.worker(main, long)
    handle = await house.start(main, key="m")
    await handle.signal("one", 1)
    await wait_for(
        lambda: house.one(
            "select count(*) = 1 from my_app.jobs_attributes"
            " where kind = 'wait' and name = 'one' and state = 'done'"
        )
    )
    await worker.shutdown()
    await house.worker(main, long)
    await handle.signal("two", 2)
    assert await handle.result(timeout=10) == [1, 2]
