"""What real workers have recorded replays, without them, to the same winners and outcomes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotmesh._calls import job_history
from hotmesh._replay import Step
from hotmesh.errors import JobFailedError
from support import programs as p
from support.apart import apart
from support.flows import House, opened, wait_for
from support.offline import Life

chance = random.Random(3)


def activities(low: int, high: int) -> list[Any]:
    """`act0` … and `fail0` …, some at once, some a little later, some in threads."""
    found = []
    for number in range(low, high):

        async def act(number: int = number) -> int:
            await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
            return number

        def in_a_thread(number: int = number) -> int:
            return number

        async def fail() -> None:
            raise ValueError("no")

        function = in_a_thread if number % 3 == 0 else act
        function.__name__, fail.__name__ = f"act{number}", f"fail{number}"
        found += [function, fail]
    return found


async def outcome(house: House, key: str) -> tuple[str, Any]:
    try:
        handle = house.client.workflow.get_handle("orders", "interpret", key)
        return "returned", await handle.result(timeout=8)
    except JobFailedError as error:
        return "raised", f"{error.type}: {error}"


async def run_all(dsn: str, drawn: list[p.Program], remembered: int, round: int) -> None:
    """Half of the activities run inline, half through the stream; then replay each journal."""
    async with opened(dsn) as house, apart(dsn, *activities(5, 10), queue="orders"):
        worker = await house.worker(
            p.interpret, activities=activities(0, 5), max_concurrent_workflows=3
        )
        worker._pump._remembered = remembered
        keys = [f"{round}-{number}" for number in range(len(drawn))]
        for key, program in zip(keys, drawn, strict=True):
            await house.start(p.interpret, program, key=key)
        for key, program in zip(keys, drawn, strict=True):
            live = await outcome(house, key)
            rows = await house.client._session.run(job_history("my-app", key))
            job = house.one("select id from my_app.jobs where key = %s", key)
            args = json.loads(json.dumps([program]))
            again = Life(p.interpret, args, [Step._make(row) for row in rows], job_id=job)
            assert json.loads(json.dumps(again.outcome)) == list(live), (program, rows)
        left = "select count(*) from my_app.streams where state <> 'dead'"
        await wait_for(lambda: house.one(left) == 0, 5, "late answers to closed jobs to be dropped")


rounds = iter(range(1_000_000))


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(p.programs, min_size=8, max_size=16), st.sampled_from([0, 1000]))
def test_any_program_run_live_replays_from_its_journal(
    dsn: str, monkeypatch: pytest.MonkeyPatch, drawn: list[p.Program], remembered: int
) -> None:
    monkeypatch.setattr(p, "TICK", 0.004)
    asyncio.run(run_all(dsn, drawn, remembered, next(rounds)))
