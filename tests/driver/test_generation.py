"""Generations: a workflow continues as new, or is run again, with its signals, hooks and children."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import JobCancelledError
from support.flows import House, wait_for


async def double(n: int) -> int:
    return 2 * n


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
