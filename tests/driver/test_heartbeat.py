"""Heartbeats: who goes silent is ended, who beats lives, and what a beat brings back."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from hotmesh import activity, workflow
from hotmesh.errors import InvalidArgumentError, JobTimedOutError, TimedOutError
from support.failures import both, proxy, serve
from support.flows import FAST, House, wait_for


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
