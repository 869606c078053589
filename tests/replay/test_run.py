"""A run asks for operations in the order of its calls and consumes events in the order given."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotmesh import workflow
from hotmesh._replay import Step
from hotmesh.errors import MaxedError, from_json, to_json
from support.offline import EPOCH, Life, told
from support.programs import Program, interpret, programs

SINCE_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
acts = workflow.proxy_activities()


# --- what is asked for, and when ------------------------------------------------------------------


async def three_in_a_row() -> list[Any]:
    return [await acts.first(), await acts.second(), await acts.third()]


def test_a_sequence_asks_for_one_activity_at_a_time() -> None:
    life = Life(three_in_a_row)
    assert told(life.asked) == [(1, "activity", "first", 0.0)]
    assert told(life.answer(1, value="a")) == [(2, "activity", "second", 0.0)]
    assert told(life.answer(2, value="b")) == [(3, "activity", "third", 0.0)]
    life.answer(3, value="c")
    assert life.outcome == ("returned", ["a", "b", "c"])


def test_an_activity_is_asked_for_when_it_is_called_not_when_it_is_awaited() -> None:
    async def flow() -> str:
        early = acts.early()
        late = await acts.late()
        return f"{await early}{late}"

    life = Life(flow)
    assert [c.name for c in life.asked] == ["early", "late"]
    life.answer(2, value="2")
    life.answer(1, value="1")
    assert life.outcome == ("returned", "12")


def test_an_activity_that_nobody_awaits_is_asked_for_and_does_not_hold_the_run_open() -> None:
    async def flow() -> str:
        acts.forgotten()
        return str(await acts.kept())

    life = Life(flow)
    assert [c.name for c in life.asked] == ["forgotten", "kept"]
    life.answer(2, value="done")
    assert life.outcome == ("returned", "done")


def test_a_failure_that_nobody_awaits_is_no_failure_of_the_workflow() -> None:
    async def flow() -> str:
        acts.forgotten()
        return str(await acts.kept())

    life = Life(flow)
    life.answer(1, value=to_json(ValueError("no one looks")), failed=True)
    life.answer(2, value="done")
    assert life.outcome == ("returned", "done")


def test_gather_asks_for_all_at_once_and_keeps_their_order() -> None:
    async def flow() -> list[Any]:
        return list(await asyncio.gather(acts.a(), acts.b(), acts.c()))

    life = Life(flow)
    assert [c.name for c in life.asked] == ["a", "b", "c"]
    for sequence in (3, 1, 2):
        life.answer(sequence, value=sequence)
    assert life.outcome == ("returned", [1, 2, 3])


def test_the_first_answer_wins_a_race_and_the_loser_can_be_taken_back() -> None:
    async def flow() -> Any:
        tasks = [asyncio.create_task(acts.slow()), asyncio.create_task(acts.fast())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        [winner] = done
        return winner.result()

    life = Life(flow)
    assert told(life.answer(2, value="fast")) == [(1, "cancel", "", 0.0)]
    assert life.outcome == ("returned", "fast")
    assert life.history[0].state == "cancelled"


def test_two_events_of_one_delivery_reach_the_code_one_after_the_other() -> None:
    async def flow() -> Any:
        tasks = [asyncio.create_task(acts.a()), asyncio.create_task(acts.b())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return sorted(task.result() for task in done)

    life = Life(flow)
    life.answer(2, 1, value="x")
    assert life.outcome == ("returned", ["x"])


def test_wait_for_is_a_durable_timer_that_is_taken_back_in_time() -> None:
    async def flow() -> Any:
        return await asyncio.wait_for(acts.quick(), 30)

    life = Life(flow)
    assert [(c.kind, c.delay) for c in life.asked] == [("activity", 0.0), ("timer", 30.0)]
    [cancel] = life.answer(1, value="in time")
    assert (cancel.kind, cancel.sequence) == ("cancel", 2)
    assert life.outcome == ("returned", "in time")


def test_wait_for_that_runs_out_takes_the_activity_back() -> None:
    async def flow() -> str:
        try:
            return str(await asyncio.wait_for(acts.slow(), 30))
        except asyncio.TimeoutError:
            return "too late"

    life = Life(flow)
    [cancel] = life.answer(2)
    assert (cancel.kind, cancel.sequence) == ("cancel", 1)
    assert life.outcome == ("returned", "too late")


@SINCE_3_11
def test_timeout_is_a_durable_timer_too() -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(5):  # type: ignore[attr-defined,unused-ignore]
                await acts.slow()
        except TimeoutError:
            return "too late"
        return "in time"

    life = Life(flow)
    assert {c.kind for c in life.asked} == {"activity", "timer"}
    timer = next(c.sequence for c in life.asked if c.kind == "timer")
    life.answer(timer)
    assert life.outcome == ("returned", "too late")


@SINCE_3_11
def test_a_task_group_takes_operations_and_cancels_the_others_when_one_fails() -> None:
    async def flow() -> str:
        try:
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
                group.create_task(acts.a())
                group.create_task(acts.b())
                group.create_task(acts.c())
        except BaseException as errors:
            return ",".join(type(e).__name__ for e in errors.exceptions)  # type: ignore[attr-defined]
        return "all"

    life = Life(flow)
    cancelled = life.answer(2, value=to_json(ValueError("no")), failed=True)
    assert sorted(c.sequence for c in cancelled) == [1, 3]
    assert life.outcome == ("returned", "ValueError")


def test_nested_tasks_number_their_calls_in_the_order_in_which_they_run() -> None:
    async def inner(name: str) -> Any:
        first = await getattr(acts, f"{name}1")()
        return await getattr(acts, f"{name}2")(first)

    async def outer() -> Any:
        return await asyncio.gather(inner("a"), inner("b"))

    async def flow() -> Any:
        return await asyncio.create_task(outer())

    life = Life(flow)
    assert [c.name for c in life.asked] == ["a1", "b1"]
    assert [c.name for c in life.answer(2)] == ["b2"]
    assert [c.name for c in life.answer(1)] == ["a2"]
    life.answer(3, 4, value=1)
    assert life.outcome == ("returned", [1, 1])


def test_a_shielded_activity_outlives_the_task_that_waited_for_it() -> None:
    async def flow() -> Any:
        kept = acts.kept()
        try:
            await asyncio.wait_for(asyncio.shield(kept), 1)
        except asyncio.TimeoutError:
            return f"late {await kept}"

    life = Life(flow)
    assert life.answer(2) == []
    life.answer(1, value="but here")
    assert life.outcome == ("returned", "late but here")


def test_queue_event_lock_and_semaphore_work_between_tasks_of_a_workflow() -> None:
    async def flow() -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)
        started, lock, two = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        seen: list[Any] = []

        async def produce() -> None:
            for number in range(3):
                async with two, lock:
                    await queue.put(await acts.make(number))
            started.set()

        async def consume() -> None:
            seen.extend([await queue.get() for _ in range(3)])

        await asyncio.gather(produce(), consume(), started.wait())
        return seen

    life = Life(flow)
    while life.outcome[0] == "open":
        [sequence] = life.open
        life.answer(sequence, value=sequence * 10)
    assert life.outcome == ("returned", [10, 20, 30])


def test_a_sleep_is_one_timer_and_time_moves_by_events_alone() -> None:
    async def flow() -> Any:
        began = workflow.now().timestamp()
        await workflow.sleep_for("2 days")
        return workflow.now().timestamp() - began

    life = Life(flow)
    assert told(life.asked) == [(1, "timer", "", 172_800.0)]
    life.answer(1)
    assert life.outcome == ("returned", 1.0)


def test_random_and_uuid_are_the_same_in_each_life_and_another_for_each_job() -> None:
    async def flow() -> Any:
        return [workflow.random(), workflow.uuid4(), workflow.random()]

    first, again = Life(flow).outcome[1], Life(flow).outcome[1]
    assert first == again
    assert first[0] != first[2]
    assert len({first[1], first[1].lower()}) == 1 and len(first[1]) == 36


# --- errors ---------------------------------------------------------------------------------------


def test_a_failure_arrives_with_type_message_and_cause() -> None:
    async def flow() -> Any:
        try:
            await acts.a()
        except MaxedError as error:
            return [str(error), error.type, repr(error.__cause__), error.job_id]

    life = Life(flow)
    life.answer(1, value={**to_json(KeyError("stock")), "code": 597}, failed=True)
    assert life.outcome == (
        "returned",
        [str(KeyError("stock")), "KeyError", repr(KeyError("stock")), "job-1"],
    )


def test_an_uncaught_failure_ends_the_run_with_it() -> None:
    async def flow() -> Any:
        await acts.a()

    life = Life(flow)
    life.answer(1, value={**to_json(ValueError("no")), "code": 598}, failed=True)
    assert life.outcome == ("raised", "FatalError: no")


@pytest.mark.parametrize(
    "ending", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("me"), GeneratorExit()]
)
def test_whatever_the_function_raises_ends_its_run_alone(ending: BaseException) -> None:
    async def flow() -> Any:
        await acts.a()
        raise ending

    life = Life(flow)
    life.answer(1)
    assert life.outcome[0] == "raised"


def test_wrong_arguments_end_the_run_as_a_type_error() -> None:
    async def flow(a: int) -> int:
        return a

    assert Life(flow, [1, 2]).outcome[1].startswith("TypeError")


def test_code_that_never_waits_for_anything_durable_is_stopped() -> None:
    async def flow() -> None:
        while True:
            await asyncio.sleep(0)

    kind, text = Life(flow).outcome
    assert kind == "raised" and text.startswith("NeverYields")


def test_io_is_refused_with_what_to_do_instead() -> None:
    async def flow() -> str:
        await asyncio.open_connection("localhost", 1)
        return "never"

    kind, text = Life(flow).outcome
    assert kind == "raised" and "put it into an activity" in text


# --- eviction -------------------------------------------------------------------------------------


def test_an_evicted_run_runs_its_finally_blocks_and_asks_for_nothing() -> None:
    closed = []

    async def flow() -> None:
        try:
            await acts.a()
        finally:
            closed.append(True)
            acts.cleanup()

    life = Life(flow)
    life.close()
    assert closed == [True]
    assert life.run.commands == []


# --- replay ---------------------------------------------------------------------------------------


def test_a_run_that_has_ended_leaves_nothing_to_the_garbage_collector() -> None:
    async def flow() -> list[Any]:
        helper = asyncio.create_task(acts.a())
        return [await helper, *await asyncio.gather(acts.b(), acts.c())]

    gc.collect()
    gc.disable()
    try:
        life = Life(flow)
        for sequence in (1, 2, 3):
            life.answer(sequence, value="x")
        assert life.run.ended
        known = weakref.ref(life.run), weakref.ref(life.run.loop)
        life.run.close()
        del life
        assert [ref() for ref in known] == [None, None]
    finally:
        gc.enable()


def test_a_replay_asks_for_nothing_that_the_journal_has() -> None:
    life = Life(three_in_a_row)
    life.answer(1, value="a")
    again = Life(three_in_a_row, history=life.history)
    assert again.asked == []
    assert told(again.answer(2, value="b")) == [(3, "activity", "third", 0.0)]


def test_a_step_that_ran_inline_and_was_not_reported_is_asked_for_again() -> None:
    async def flow() -> Any:
        return await asyncio.gather(acts.a(), acts.b())

    life = Life(flow)
    life.answer(1, value="a")
    [first, _] = life.history
    again = Life(flow, history=[first])
    assert [c.name for c in again.asked] == ["b"]
    again.answer(2, value="b")
    assert again.outcome == ("returned", ["a", "b"])


def test_is_replaying_ends_with_the_history() -> None:
    async def flow() -> Any:
        seen = [workflow.is_replaying()]
        await acts.a()
        seen.append(workflow.is_replaying())
        await acts.b()
        return [*seen, workflow.is_replaying()]

    life = Life(flow)
    life.answer(1)
    again = Life(flow, history=life.history)
    again.answer(2)
    assert again.outcome == ("returned", [True, True, False])
    life.answer(2)
    assert life.outcome == ("returned", [False, False, False])


def test_an_answer_to_a_cancelled_call_is_consumed_and_ignored() -> None:
    async def flow() -> Any:
        lost = acts.lost()
        lost.cancel()
        return await acts.kept()

    life = Life(flow)
    step = Step(1, "activity", "lost", "done", "late", 1, EPOCH)
    life.run.tell([step])
    assert life.outcome == ("open", None)
    life.cursor = 1
    life.answer(2, value="kept")
    assert life.outcome == ("returned", "kept")


# --- any program ----------------------------------------------------------------------------------


def live(program: Program, choose: Callable[[int], int]) -> tuple[Life, list[Any]]:
    """Run it, answering in the order that `choose` says; a picture is taken after each event."""
    life = Life(interpret, [program])
    pictures = [(life.history, told(life.asked))]
    while life.run.mismatch is None and not life.run.ended and life.open:
        sequence = life.open[choose(len(life.open))]
        step = life.journal[sequence]
        if (step.name or "").startswith("fail"):
            life.answer(sequence, value=to_json(ValueError("no")), failed=True)
        elif choose(2) and step.kind == "activity":
            life.answer_here(sequence, value=sequence)
        else:
            life.answer(sequence, value=sequence if step.kind == "activity" else None)
        pictures.append((life.history, told(life.asked)))
    return life, pictures


@settings(max_examples=200, deadline=None)
@given(programs, st.randoms(use_true_random=False))
def test_any_program_replays_to_the_same_winner_commands_and_outcome(
    program: Program, random: Any
) -> None:
    life, _ = live(program, random.randrange)
    assert life.outcome[0] in ("returned", "raised"), life.outcome
    again = Life(interpret, [program], history=life.history)
    assert again.outcome == life.outcome
    assert again.asked == []


@settings(max_examples=100, deadline=None)
@given(programs, st.randoms(use_true_random=False))
def test_any_program_cut_at_any_event_goes_on_with_exactly_the_commands_that_remain(
    program: Program, random: Any
) -> None:
    life, pictures = live(program, random.randrange)
    events = sorted((s for s in life.history if s.cursor), key=lambda s: s.cursor or 0)
    for at, (history, asked) in enumerate(pictures):
        again = Life(interpret, [program], history=history)
        assert again.asked == [], f"after event {at}"
        for step, (_, later) in zip(events[at:], pictures[at + 1 :], strict=False):
            again.answer(step.sequence, value=step.value, failed=step.state == "failed")
            assert told(again.asked) == later[len(asked) :]
        assert again.outcome == life.outcome


def test_the_exception_that_replay_rebuilds_equals_the_one_of_the_first_life() -> None:
    told = to_json(OSError("disk"))
    assert repr(from_json(told)) == repr(from_json(told)) == repr(OSError("disk"))


async def _consume(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def test_an_operation_may_be_handed_to_another_coroutine() -> None:
    async def flow() -> Any:
        return await _consume(acts.a())

    life = Life(flow)
    life.answer(1, value="a")
    assert life.outcome == ("returned", "a")
