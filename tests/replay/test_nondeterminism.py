"""Changed code meets an old journal: the run stops, says what it met, and asks for nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from hotmesh import workflow
from support.offline import Function, Life, new_run

acts = workflow.proxy_activities()


async def recorded() -> Any:
    first = await acts.check("x")
    await asyncio.sleep(5)
    return await acts.reserve(first)


@pytest.fixture
def history() -> Any:
    """The journal of `recorded` after its first activity and its sleep."""
    life = Life(recorded)
    life.answer(1, value=1)
    life.answer(2)
    return life.history


def replayed(function: Function, history: Any) -> Any:
    run = new_run(function)
    run.start([], history)
    return run


def mismatch_of(function: Function, history: Any) -> str:
    run = replayed(function, history)
    assert run.mismatch is not None, "the replay noticed nothing"
    return f"{run.mismatch} / {run.mismatch.detail} / {run.mismatch.hint}"


def test_the_same_code_replays(history: Any) -> None:
    assert replayed(recorded, history).mismatch is None


def test_another_name_is_told_with_expected_found_and_patched(history: Any) -> None:
    async def renamed() -> Any:
        await acts.inspect("x")

    text = mismatch_of(renamed, history)
    assert "step 1 was activity check" in text
    assert "now asks for activity inspect" in text
    assert "expected: activity check; found: activity inspect" in text
    assert "patched" in text
    assert '"job-1"' in text


def test_another_kind_is_told(history: Any) -> None:
    async def slept() -> Any:
        await asyncio.sleep(5)

    assert "expected: activity check; found: timer" in mismatch_of(slept, history)


def test_a_swapped_pair_is_told() -> None:
    async def pair() -> Any:
        return await asyncio.gather(acts.a(), acts.b())

    async def swapped() -> Any:
        return await asyncio.gather(acts.b(), acts.a())

    text = mismatch_of(swapped, Life(pair).history)
    assert "step 1 was activity a" in text


def test_code_that_returns_before_its_recorded_calls_is_told_and_does_not_return(
    history: Any,
) -> None:
    async def shorter() -> Any:
        return await acts.check("x")

    assert "step 2 was timer" in mismatch_of(shorter, history)


def test_code_that_raises_before_its_recorded_calls_is_told(history: Any) -> None:
    async def broken() -> Any:
        await acts.check("x")
        raise ValueError("new in this version")

    assert "step 2 was timer" in mismatch_of(broken, history)


def test_code_that_waits_without_its_recorded_calls_is_told(history: Any) -> None:
    async def stuck() -> Any:
        await acts.check("x")
        await asyncio.Event().wait()

    assert "step 2 was timer" in mismatch_of(stuck, history)


def test_code_that_calls_once_more_at_the_end_is_welcome(history: Any) -> None:
    async def longer() -> Any:
        await recorded()
        return await acts.ship()

    run = replayed(longer, history)
    assert run.mismatch is None


def test_an_event_that_no_call_waits_for_is_told(history: Any) -> None:
    life = Life(recorded)
    life.run.tell([history[1]._replace(cursor=1)])
    assert life.run.mismatch is not None
    assert "no call under this number" in str(life.run.mismatch)


def test_after_a_mismatch_the_code_asks_for_nothing_even_if_it_catches_the_error(
    history: Any,
) -> None:
    async def stubborn() -> Any:
        for _ in range(6):
            with contextlib.suppress(Exception):
                await acts.new()

    async def in_a_gap() -> Any:
        await asyncio.gather(acts.before(), acts.between(), asyncio.sleep(1))

    gap = [step for step in Life(in_a_gap).history if step.name != "before"]

    async def gap_changed() -> Any:
        await asyncio.gather(acts.before(), acts.other(), return_exceptions=True)

    for function, journal in ((stubborn, history), (gap_changed, gap)):
        run = replayed(function, journal)
        assert run.mismatch is not None
        assert run.commands == []


def test_the_first_mismatch_is_the_one_that_is_told(history: Any) -> None:
    async def twice() -> Any:
        return await asyncio.gather(acts.one(), acts.two(), return_exceptions=True)

    assert "step 1 was" in mismatch_of(twice, history)
