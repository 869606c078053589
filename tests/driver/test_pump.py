"""The pump of turns: what it costs, what it ships, and what it survives."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from hotmesh import _calls, activity, workflow
from hotmesh._calls import Call, Delivery
from hotmesh.errors import ConnectionLostError, HotMeshError, JobFailedError
from hotmesh.worker import Worker
from support.apart import apart
from support.flows import FAST, House, wait_for

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)
here = workflow.proxy_activities(retry_policy=FAST)


async def echo(value: Any) -> Any:
    return value


class Turns:
    """All turns of a worker: what it sent and what came back; `after` may change the answer."""

    def __init__(self, worker: Worker) -> None:
        self.sent: list[dict[str, Any]] = []
        self.rows: list[list[Delivery]] = []
        self.after: Callable[[Turns, list[dict[str, Any]]], None] = lambda turns, reports: None
        self.before = self.after
        self._run = worker._pump.session.run
        worker._pump.session.run = self.run  # type: ignore[method-assign,assignment]

    async def run(self, call: Call[Any], conn: object = None) -> Any:
        if "hotmesh.turn" not in call.sql:
            return await self._run(call, conn)
        reports = json.loads(call.params["reports"])
        self.before(self, reports)
        self.sent.append({"reports": reports, "want": json.loads(call.params["want"])})
        rows = await self._run(call, conn)
        self.rows.append(rows)
        self.after(self, reports)
        return rows

    def histories(self) -> list[Any]:
        """The histories that were shipped with tasks and events."""
        return [
            row.history for rows in self.rows for row in rows if row.answer in ("task", "events")
        ]


async def five_steps() -> list[Any]:
    return [await here.echo(n) for n in range(5)]


async def streamed_steps(count: int) -> list[Any]:
    return [await acts.echo(n) for n in range(count)]


# --- what it costs --------------------------------------------------------------------------------


async def test_five_inline_steps_take_at_most_six_turns_with_reports(house: House) -> None:
    turns = Turns(await house.worker(five_steps, activities=[echo]))
    await wait_for(lambda: any(s["want"].get("idle") for s in turns.sent))
    before = len(turns.sent)
    assert await house.run(five_steps) == [0, 1, 2, 3, 4]
    reporting = [s for s in turns.sent[before:] if s["reports"]]
    assert len(reporting) <= 6


async def test_a_second_activation_ships_only_the_news(house: House) -> None:
    """The activities are of another process's queue, served here by a worker in another loop."""
    turns = Turns(await house.worker(streamed_steps))
    async with apart(house.dsn, echo):
        assert await house.run(streamed_steps, 10) == list(range(10))
    lengths = [len(history or []) for history in turns.histories()]
    assert sum(lengths) == 10
    assert max(lengths) == 1


async def test_a_run_that_was_forgotten_gets_its_whole_history(house: House) -> None:
    worker = await house.worker(streamed_steps, max_concurrent_workflows=1)
    worker._pump._remembered = 0
    turns = Turns(worker)
    async with apart(house.dsn, echo):
        handles = [await house.start(streamed_steps, 5) for _ in range(4)]
        for handle in handles:
            assert await handle.result(timeout=20) == list(range(5))
    asked = sum(1 for rows in turns.rows for row in rows if row.answer == "task")
    assert asked > 4


async def test_an_idle_worker_makes_few_round_trips_and_picks_up_a_start_when_told(
    house: House,
) -> None:
    worker = await house.worker(five_steps, activities=[echo])
    pump = worker._pump
    assert pump._listener is not None
    await pump._listener.proven()
    turns = Turns(worker)
    await wait_for(lambda: pump._was_idle)
    await asyncio.sleep(0)
    before, began = len(turns.sent), asyncio.get_running_loop().time()
    await wait_for(lambda: len(turns.sent) >= before + 2, timeout=10)
    assert asyncio.get_running_loop().time() - began > 1.5, "an idle worker polls too often"
    await wait_for(lambda: pump._was_idle)
    assert await house.run(five_steps, timeout=1.5) == [0, 1, 2, 3, 4]


async def test_a_due_message_that_somebody_holds_locked_is_no_reason_to_hurry(
    house: House,
) -> None:
    async def sleeps() -> str:
        await asyncio.sleep(0.05)
        return "slept"

    turns = Turns(await house.worker(sleeps))
    handle = await house.start(sleeps)
    timer = "from my_app.streams where kind = 'timer'"
    await wait_for(lambda: house.one(f"select count(*) {timer}") == 1)
    with psycopg.connect(house.dsn) as other:
        other.execute(f"select id {timer} for update".encode())
        await wait_for(lambda: house.one(f"select visible_at < now() {timer}"))
        before, began = len(turns.sent), asyncio.get_running_loop().time()
        await wait_for(lambda: len(turns.sent) >= before + 12)
        assert asyncio.get_running_loop().time() - began > 0.3
    assert await handle.result(timeout=10) == "slept"


async def test_without_notifications_a_start_is_found_by_polling(house: House) -> None:
    worker = await house.worker(five_steps, activities=[echo])
    assert worker._pump._listener is not None
    await worker._pump._listener.close()
    worker._pump._listener = None
    await wait_for(lambda: worker._pump._was_idle)
    assert await house.run(five_steps, timeout=5) == [0, 1, 2, 3, 4]


# --- large histories ------------------------------------------------------------------------------


async def test_a_history_of_more_than_a_page_is_read_page_by_page(house: House) -> None:
    lives: list[bool] = []

    async def big() -> int:
        lives.append(workflow.is_replaying())
        total = 0
        for _ in range(4):
            total += len(await here.give())
        await asyncio.sleep(0.2)
        return total

    async def give() -> str:
        return "".join(chr(33 + n * 7919 % 90) for n in range(10_000)) * 400  # 4 MB

    first = await house.worker(big, activities=[give])
    handle = await house.start(big, key="o-1")
    await wait_for(lambda: len(house.steps("o-1")) == 5)
    await first.shutdown(grace=0)
    await house.worker(big, activities=[give])
    assert await handle.result(timeout=30) == 16_000_000
    assert lives == [False, True]


# --- answers that are lost ------------------------------------------------------------------------


async def mixed() -> Any:
    """Inline and streamed activities, timers, and a race, at once."""
    first = await asyncio.gather(here.echo(1), acts.echo(2), asyncio.sleep(0.01, 3))
    race = [asyncio.create_task(acts.echo("a")), asyncio.create_task(asyncio.sleep(60))]
    done, pending = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [*first, *(task.result() for task in done), await here.echo(4)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(8))
async def test_a_turn_whose_answer_is_lost_loses_nothing_and_counts_nothing_twice(
    house: House, at: int, when: str
) -> None:
    worker = await house.worker(mixed, activities=[echo])
    turns, count = Turns(worker), 0

    def lose(turns: Turns, reports: list[dict[str, Any]]) -> None:
        nonlocal count
        if reports:
            count += 1
            if count == at + 1:
                raise ConnectionLostError("the test cut the line")

    setattr(turns, when, lose)
    async with apart(house.dsn, echo):
        assert await house.run(mixed, key="o-1", timeout=10) == [1, 2, 3, "a", 4]
    steps = house.steps("o-1")
    assert [step[0] for step in steps] == [1, 2, 3, 4, 5, 6]
    cursors = [step[5] for step in steps if step[5] is not None]
    assert len(set(cursors)) == len(cursors) == 5


async def test_a_message_that_is_locked_when_it_is_given_back_is_given_back_soon_after(
    house: House,
) -> None:
    """The answer to its report is lost, and somebody has its row at the moment that tells of it."""
    worker = await house.worker(mixed, activities=[echo])
    turns, told = Turns(worker), 0
    locked = asyncio.Event()

    def lose(turns: Turns, reports: list[dict[str, Any]]) -> None:
        nonlocal told
        told += len(reports)
        if told and not locked.is_set():
            locked.set()
            raise ConnectionLostError("the test cut the line")

    turns.after = lose
    async with apart(house.dsn, echo):
        handle = await house.start(mixed, key="o-1")
        await asyncio.wait_for(locked.wait(), 10)
        async with await psycopg.AsyncConnection.connect(house.dsn) as other:
            await other.execute("select from my_app.streams where kind = 'workflow' for update")
            await asyncio.sleep(0.5)
        assert await handle.result(timeout=8) == [1, 2, 3, "a", 4]


async def test_a_run_whose_activity_ends_while_its_report_is_sent_again_is_laid_to_rest(
    house: House,
) -> None:
    """Its own transaction tells the end, whose event is locked when the report is taken at last."""
    asked, blank = 0, Delivery(*[None] * len(Delivery._fields))

    async def paid() -> str:
        await activity.transaction()
        await wait_for(lambda: asked)
        return "paid"

    async def pays() -> Any:
        return await here.paid()

    worker = await house.worker(pays, activities=[paid])
    pump, send = worker._pump, worker._pump.session.run

    async def busy_then_taken(call: Call[Any], conn: object = None) -> Any:
        nonlocal asked
        reports = json.loads(call.params["reports"]) if "hotmesh.turn" in call.sql else []
        news = [r for r in reports if r.get("running") and not r.get("commands")]
        asked += 1 if news else 0
        if not news or asked > 2:
            return await send(call, conn)
        await wait_for(lambda: not any(held.inline for held in pump._runs.values()))
        busy = [blank._replace(answer="busy", id=r["id"], token=r["token"]) for r in reports]
        return busy if asked == 1 else []

    pump.session.run = busy_then_taken  # type: ignore[method-assign,assignment]
    assert await house.run(pays, timeout=5) == "paid"
    assert asked >= 2


async def test_a_report_that_the_engine_refuses_costs_only_its_own_job(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def absurd() -> None:
        await asyncio.sleep(1e300)

    await house.worker(absurd, five_steps, activities=[echo])
    bad = [await house.start(absurd) for _ in range(3)]
    good = [await house.start(five_steps) for _ in range(5)]
    for handle in good:
        assert await handle.result(timeout=10) == [0, 1, 2, 3, 4]
    for handle in bad:
        with pytest.raises(JobFailedError, match="engine refused"):
            await handle.result(timeout=10)


async def test_a_report_that_cannot_be_told_at_all_blocks_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def poisonous() -> str:
        return "poison"

    worker = await house.worker(poisonous, five_steps, activities=[echo])

    def refuse(turns: Turns, reports: list[dict[str, Any]]) -> None:
        if any(r.get("outcome") == {"output": "poison"} for r in reports):
            raise HotMeshError("the test refuses this", sqlstate="XX000")

    Turns(worker).before = refuse
    with caplog.at_level(logging.ERROR, "hotmesh"):
        await house.start(poisonous)
        handles = [await house.start(five_steps) for _ in range(10)]
        for handle in handles:
            assert await handle.result(timeout=10) == [0, 1, 2, 3, 4]
        await wait_for(lambda: "can't be told" in caplog.text)


async def test_a_defect_of_the_driver_stops_no_worker(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await house.worker(five_steps, activities=[echo])
    dispatch, times = worker._pump._dispatch, 0

    def stumble(rows: Any) -> int:
        nonlocal times
        times += 1
        if times == 1:
            raise KeyError("defect")
        return dispatch(rows)

    monkeypatch.setattr(worker._pump, "_dispatch", stumble)
    with caplog.at_level(logging.ERROR, "hotmesh"):
        await wait_for(lambda: "met a defect" in caplog.text)
    assert await house.run(five_steps, timeout=10) == [0, 1, 2, 3, 4]


# --- other code -----------------------------------------------------------------------------------


async def test_a_job_that_met_other_code_waits_visibly_and_goes_on_with_the_right_one(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def old() -> Any:
        return [await here.echo(1), await acts.echo(2)]

    async def new() -> Any:
        return [await here.other(1), await acts.echo(2)]

    first = await Worker.create(
        house.dsn, "my-app", task_queue="orders", workflows={"flow": old}, activities=[echo]
    )
    house.workers.append(first)
    handle = await house.start("flow", key="o-1")
    await wait_for(lambda: len(house.steps("o-1")) == 2)
    await first.shutdown()
    second = await Worker.create(house.dsn, "my-app", task_queue="orders", workflows={"flow": new})
    house.workers.append(second)
    await house.activity_worker(echo)
    query = "select value from my_app.jobs_attributes where field = 'mismatch'"
    with caplog.at_level(logging.ERROR, "hotmesh"):
        told = await wait_for(lambda: house.one(query))
    assert told["type"] == "NonDeterminismError"
    assert "activity echo" in told["message"] and "activity other" in told["message"]
    assert "patched" in told["hint"]
    await wait_for(lambda: "does not replay" in caplog.text)
    assert all(word in caplog.text for word in ("expected: ", "found: ", "patched"))
    assert await handle.status() > 0
    await second.shutdown()
    third = await Worker.create(
        house.dsn, "my-app", task_queue="orders", workflows={"flow": old}, activities=[echo]
    )
    house.workers.append(third)
    house.db.execute("update my_app.streams set visible_at = now() where state = 'delayed'")
    assert await handle.result(timeout=15) == [1, 2]
    assert [step[2] for step in house.steps("o-1")] == ["echo", "echo"]


# --- each once ------------------------------------------------------------------------------------


async def test_two_workers_share_a_queue_and_write_each_step_once(house: House) -> None:
    await house.worker(five_steps, activities=[echo])
    async with apart(house.dsn, echo, workflows=[five_steps], queue="orders"):
        handles = await house.client.workflow.start_many(
            [
                {"workflow_name": "five_steps", "workflow_id": f"o-{n}", "task_queue": "orders"}
                for n in range(500)
            ]
        )
        for handle in handles:
            assert await handle.result(timeout=60) == [0, 1, 2, 3, 4]
    odd = house.one(
        "select count(*) from my_app.jobs j where status <> 0 or cursor <> 5 or"
        " (select array_agg(a.sequence order by a.cursor) from my_app.jobs_attributes a"
        "  where a.job_id = j.id and a.sequence is not null) <> '{1,2,3,4,5}'"
    )
    assert odd == 0
    assert house.one("select count(*) from my_app.streams") == 0


def test_the_texts_of_a_turn_are_json() -> None:
    call = _calls.turn("my-app", "w")
    assert json.loads(call.params["reports"]) == []
