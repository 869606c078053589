"""What runs beside a workflow: children, hooks, signals between them, and how they are stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
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
    MaxedError,
    TimedOutError,
)
from support.flows import House, opened, wait_for


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


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


# --- hooks ----------------------------------------------------------------------------------------


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


# --- continue as new ------------------------------------------------------------------------------


async def test_a_workflow_continues_as_new_with_a_small_journal(house: House) -> None:
    async def one() -> int:
        return 1

    async def counts(n: int, total: int = 0) -> int:
        late = workflow.execute_activity(one)
        total += await workflow.execute_activity(one)
        if n > 1:
            await workflow.continue_as_new(n - 1, total)
        return total + await late

    await house.worker(counts, activities=[one])
    handle = await house.start(counts, 5, key="c")
    assert await handle.result(timeout=10) == 6
    archived = "from my_app.jobs_archive where key = 'c'"
    assert house.one(f"select count(*) {archived}") == 4
    assert house.one("select count(*) from my_app.jobs_attributes where sequence is not null") == 2
    assert await handle.status() == 0


async def test_signals_and_hooks_outlive_a_generation(house: House) -> None:
    async def helper() -> None:
        await workflow.signal("helped", await workflow.wait_for("to hook"))

    async def main(generation: int) -> Any:
        if generation == 1:
            await workflow.hook(helper)
            await workflow.wait_for("next")
            await workflow.continue_as_new(2)
        return [await workflow.wait_for("early"), await workflow.wait_for("helped")]

    await house.worker(main, helper)
    handle = await house.start(main, 1)
    await handle.signal("early", "kept")
    await handle.signal("next")
    await wait_for(lambda: house.one("select count(*) = 1 from my_app.jobs_archive"))
    await handle.signal("to hook", "yes")
    assert await handle.result(timeout=10) == ["kept", "yes"]


async def test_a_hook_continues_as_new(house: House) -> None:
    async def loop(n: int, info: dict[str, str]) -> None:
        await workflow.sleep_for(0.001)
        if n > 0:
            await workflow.continue_as_new(n - 1)
        await workflow.signal(info["signal"], workflow.context().base)

    async def main() -> Any:
        return await workflow.exec_hook(loop, args=[3])

    await house.worker(main, loop)
    assert await house.run(main) == 3


async def test_a_child_that_continues_as_new_answers_its_parent_once_at_its_end(
    house: House,
) -> None:
    async def child(n: int) -> str:
        if n:
            await workflow.continue_as_new(n - 1)
        return "done"

    async def parent() -> Any:
        return await workflow.exec_child(child, args=[3])

    await house.worker(parent, child)
    assert await house.run(parent) == "done"


async def test_hooks_of_earlier_lives_go_to_the_archive_with_them(house: House) -> None:
    async def note() -> str:
        return str(await workflow.execute_activity(double, 4))

    async def circle(n: int) -> str:
        answer = await workflow.exec_hook(note)
        if n:
            await workflow.continue_as_new(n - 1)
        return str(answer)

    await house.worker(circle, note, activities=[double])
    assert await house.run(circle, 5, key="round") == "8"
    counted = (
        "select count(*) from my_app.jobs_attributes{} where kind = 'hook' and sequence is null"
    )
    assert house.one(counted.format("")) == 1
    assert house.one(counted.format("_archive")) == 5


# --- a workflow that is run again -----------------------------------------------------------------


async def test_a_workflow_that_is_run_again_keeps_its_hooks_and_children(house: House) -> None:
    runs: list[str] = []

    async def helper() -> str:
        runs.append("hook")
        return "helped"

    async def kid() -> str:
        runs.append("child")
        return "grown"

    async def breaks() -> None:
        runs.append("activity")
        if runs.count("activity") < 3:
            raise ValueError("not yet")

    async def main() -> list[Any]:
        broken = workflow.execute_activity(breaks, retry_policy={"maximum_attempts": 1})
        helped = workflow.exec_hook(helper)
        grown = workflow.exec_child(kid)
        await broken
        return [await helped, await grown]

    await house.worker(main, helper, kid, activities=[breaks])
    policy = {"maximum_attempts": 5, "initial_interval": 0.01, "backoff_coefficient": 1}
    handle = await house.start(main, key="m", retry_policy=policy)
    assert await handle.result(timeout=15) == ["helped", "grown"]
    assert (runs.count("hook"), runs.count("child")) == (1, 1)


async def test_a_hook_that_failed_is_run_anew_with_its_workflow(house: House) -> None:
    tries: list[int] = []

    async def shaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        return "at last"

    async def main() -> Any:
        return await workflow.exec_hook(shaky, retry_policy={"maximum_attempts": 1})

    await house.worker(main, shaky)
    policy = {"maximum_attempts": 3, "initial_interval": 0.01, "backoff_coefficient": 1}
    handle = await house.start(main, retry_policy=policy)
    assert await handle.result(timeout=15) == "at last"


async def test_what_nobody_can_read_any_more_is_taken_away(house: House) -> None:
    async def helper() -> None:
        await workflow.wait_for("go")

    async def main() -> None:
        await workflow.hook(helper)

    await house.worker(main, helper)
    handle = await house.start(main, key="m")
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.jobs_attributes where field = 'output'")
    )
    house.one("select hotmesh.query_ask('my-app', 'm', 'any')")
    house.one("select hotmesh.update_send('my-app', 'm', 'any')")
    await wait_for(
        lambda: house.one("select count(*) = 0 from my_app.streams where kind = 'event'")
    )
    await handle.signal("go")
    assert await handle.result(timeout=10) is None


async def test_a_signal_that_came_together_with_the_end_of_a_generation_is_kept(
    house: House,
) -> None:
    async def main(generation: int) -> Any:
        got = workflow.wait_for("s")
        if generation == 1:
            await workflow.wait_for("next")
            await workflow.continue_as_new(2)
        return await got

    handle = await house.start(main, 1)
    await handle.signal("next")  # both are told at once, and the first of them ends the generation
    await handle.signal("s", "kept")
    await house.worker(main)
    assert await handle.result(timeout=10) == "kept"


async def test_a_cancel_reaches_hooks_too(house: House) -> None:
    async def helper() -> str:
        try:
            await workflow.sleep_for("1 day")
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    async def main() -> Any:
        helped = asyncio.ensure_future(workflow.exec_hook(helper))
        try:
            return await asyncio.shield(helped)
        except asyncio.CancelledError:
            return await helped

    await house.worker(main, helper)
    handle = await house.start(main)
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.streams where kind = 'timer'")
    )
    await handle.cancel()
    assert await handle.result(timeout=10) == "cleaned up"


async def test_news_reach_a_run_that_is_busy_with_an_inline_activity(house: House) -> None:
    begun = asyncio.Event()
    go = asyncio.Event()

    async def long() -> str:
        begun.set()
        await go.wait()
        return "done"

    async def main() -> list[Any]:
        activity = asyncio.ensure_future(workflow.execute_activity(long))
        said = await workflow.wait_for("s")
        await workflow.execute_activity(let_go)
        return [said, await activity]

    async def let_go() -> None:
        go.set()

    await house.worker(main, activities=[long, let_go])
    handle = await house.start(main)
    await begun.wait()
    await handle.signal("s", "heard")
    assert await handle.result(timeout=10) == ["heard", "done"]


async def test_kept_signals_answer_in_the_turn_that_asks_for_them(house: House) -> None:
    async def takes(n: int) -> list[Any]:
        return [await workflow.wait_for("k") for _ in range(n)]

    for i in range(20):
        await house.client.workflow.signal("k", i)
    await house.worker(takes)
    await wait_for(
        lambda: house.one("select count(*) = 20 from my_app.signals where state = 'kept'")
    )
    handle = await house.start(takes, 20)
    assert await handle.result(timeout=10) == list(range(20))
    assert house.one("select count(*) from my_app.signals") == 0


async def test_a_cancel_that_a_generation_did_not_see_reaches_the_next(house: House) -> None:
    async def main(generation: int) -> None:
        if generation == 1:
            await workflow.wait_for("next")
            await workflow.continue_as_new(2)
        await workflow.wait_for("never")

    handle = await house.start(main, 1)
    await handle.signal("next")  # both are told at once, and the first of them ends the generation
    await handle.cancel()
    await house.worker(main)
    with pytest.raises(JobCancelledError):
        await handle.result(timeout=10)
