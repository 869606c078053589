"""`hotmesh.testing`: what a real job has recorded replays without a database, or says why not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import InvalidArgumentError, JobFailedError, NonDeterminismError
from hotmesh.testing import record, replay
from support.flows import House, opened

acts = workflow.proxy_activities(task_queue="acts")


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


@dataclass
class Item:
    price: Decimal


def price(name: str) -> Item:
    return Item(Decimal(len(name)))


def fails() -> None:
    raise ValueError("no")


async def shop(names: list[str]) -> list[Any]:
    found = await asyncio.gather(
        *(workflow.execute_activity(price, name, task_queue="acts") for name in names)
    )
    await workflow.sleep_for("10 ms")
    return [sum(item.price for item in found), workflow.random(), workflow.uuid4(),
            workflow.now().isoformat()]  # fmt: skip


async def recorded(house: House, flow: Any, *args: Any, key: str = "k") -> dict[str, Any]:
    await house.worker(flow)
    await house.activity_worker(price, fails)
    handle = await house.start(flow, *args, key=key)
    with contextlib.suppress(JobFailedError):
        await handle.result(timeout=20)
    return await record(handle)


async def test_a_recorded_job_replays_to_the_same_result_from_memory_or_a_file(
    house: House, tmp_path: Path
) -> None:
    history = await recorded(house, shop, ["a", "bb"])
    handle = house.client.workflow.get_handle("orders", shop, "k")
    done = replay(history, shop)
    assert (done.ended, done.result, done.steps) == (True, await handle.result(), 3)
    await record(handle, tmp_path / "shop.json")
    assert replay(tmp_path / "shop.json", shop) == done
    assert replay(str(tmp_path / "shop.json"), shop) == done


async def test_an_export_and_rows_of_the_journal_replay_too(house: House) -> None:
    async def sums(names: list[str]) -> str:
        return str((await workflow.execute_activity(price, names[0], task_queue="acts")).price)

    await recorded(house, sums, ["abc"])
    handle = house.client.workflow.get_handle(None, "sums", "k")
    assert replay(await handle.export(), sums).result == "3"
    rows = house.one("select hotmesh.job_history('my-app', 'k')")
    assert replay(rows, sums, args=[["abc"]]).result == "3"
    with pytest.raises(InvalidArgumentError, match="does not hold the arguments"):
        replay(rows, sums)
    with pytest.raises(InvalidArgumentError, match="does not hold the arguments"):
        replay(await handle.export(block=["state"]), sums)


async def other_call(names: list[str]) -> Any:
    return [await acts.cost(name) for name in names]


async def fewer_calls(names: list[str]) -> Any:
    return await acts.price(names[0])


async def more_calls(names: list[str]) -> Any:
    found = await shop(names)
    await acts.price("more")
    return found


async def no_calls(names: list[str]) -> Any:
    return len(names)


async def other_result(names: list[str]) -> Any:
    return (await shop(names))[:1]


async def raises(names: list[str]) -> Any:
    await shop(names)
    raise KeyError("new")


CHANGES = [
    (other_call, "activity price", "activity cost"),
    (fewer_calls, "activity price", "no call under this number"),
    (no_calls, "activity price", "no call under this number"),
    (more_calls, "the end of the workflow", "a wait, after asking for ['activity price']"),
    (other_result, 'the result ["3"', 'the result ["3"]'),
    (raises, "the end of the workflow", "KeyError: 'new'"),
]


async def test_changed_code_does_not_replay_and_is_told_what_was_expected_and_found(
    house: House,
) -> None:
    history = await recorded(house, shop, ["a", "bb"])
    for flow, expected, found in CHANGES:
        with pytest.raises(NonDeterminismError) as caught:
            replay(history, flow)
        assert f"expected: {expected}" in (caught.value.detail or "")
        assert f"found: {found}" in (caught.value.detail or "")
        assert "patched" in (caught.value.hint or "")


async def test_a_job_that_is_open_replays_as_far_as_it_has_come(house: House) -> None:
    async def waits() -> None:
        await workflow.execute_activity(price, "a", task_queue="acts")
        await workflow.wait_for("never")

    async def longer() -> None:
        await waits()
        await acts.price("b")

    await house.worker(waits)
    await house.activity_worker(price)
    handle = await house.start(waits, key="k")
    while len(house.steps("k")) < 2:
        await asyncio.sleep(0.005)
    history = await record(handle)
    for flow in (waits, longer):
        done = replay(history, flow)
        assert (done.ended, done.steps) == (False, 2)


async def test_a_job_that_failed_replays_to_its_failure(house: House) -> None:
    async def breaks() -> None:
        await workflow.execute_activity(
            fails, task_queue="acts", retry_policy={"maximum_attempts": 1}
        )

    async def mends() -> str:
        with contextlib.suppress(Exception):
            await breaks()
        return "mended"

    history = await recorded(house, breaks)
    done = replay(history, breaks)
    assert done.ended
    assert "no" in str(done.error)
    with pytest.raises(NonDeterminismError, match="expected a failure, found the result"):
        replay(history, mends)


NO_HISTORY: list[Any] = [5, {"a": 1}, b"[]", None, "/nowhere.json", [[1, 2]], {"timeline": [{}]}]


@pytest.mark.parametrize("history", NO_HISTORY, ids=repr)
def test_what_is_no_history_is_refused(history: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="history"):
        replay(history, shop, args=[])


@pytest.mark.parametrize("file", sorted(Path(__file__).with_name("histories").glob("*.json")),
                         ids=lambda file: file.stem)  # fmt: skip
def test_the_golden_histories_replay_by_it_too(file: Path) -> None:
    from tests.replay.test_golden import FLOWS

    told = json.loads(file.read_text())
    told.setdefault("job", {"id": 7, "created": 1_800_000_000.0})
    assert replay(told, FLOWS[told["workflow"]]).result == told["returns"]
