"""Limits, as the driver keeps them: what is limited is never run inline, and nothing is exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from hotmesh import SyncClient
from hotmesh._execution import SERVERS
from hotmesh.errors import InvalidArgumentError, JobFailedError
from hotmesh.workflow import execute_activity, proxy_activities, sleep_for
from support.crash import Child
from support.flows import APP, House, opened, wait_for

pytestmark = pytest.mark.asyncio


class Gauge:
    """Counts who is inside."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def visit(self, key: str, seconds: float = 0.01) -> str:
        self.now[key] = self.now.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.now[key])
        self.now["*"] = sum(n for k, n in self.now.items() if k != "*")
        self.most["*"] = max(self.most.get("*", 0), self.now["*"])
        await asyncio.sleep(seconds)
        self.now[key] -= 1
        return key


gauge = Gauge()


async def visit(key: str) -> str:
    return await gauge.visit(key)


async def fan(count: int, keys: int) -> list[str]:
    calls = [
        execute_activity(visit, f"k{n % keys}", task_queue="acts", concurrency_key=f"k{n % keys}")
        for n in range(count)
    ]
    return list(await asyncio.gather(*calls))


async def one(key: str) -> str:
    return await execute_activity(visit, key, task_queue="acts")


async def ranked() -> list[str]:
    urgent = proxy_activities([visit], task_queue="later", priority=5)
    usual = proxy_activities([visit], task_queue="later")
    return list(await asyncio.gather(usual.visit("usual"), urgent.visit("urgent")))


async def naps() -> None:
    await sleep_for(0.05)


async def lane_of(key: Any) -> str:
    return await execute_activity(visit, "x", concurrency_key=key, priority=None)


@pytest_asyncio.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    global gauge
    gauge = Gauge()
    async with opened(dsn) as house:
        yield house


async def test_no_more_activities_run_than_the_queue_allows(house: House) -> None:
    await house.client.queue.limit("acts", concurrency=3, kind="activity")
    await house.worker(fan)
    await house.activity_worker(visit)
    await house.activity_worker(visit)
    assert len(await house.run(fan, 40, 4)) == 40
    assert gauge.most["*"] == 3


async def test_no_more_of_a_key_run_than_it_may(house: House) -> None:
    await house.client.queue.limit("acts", per_key=1)
    await house.worker(fan)
    await house.activity_worker(visit)
    assert len(await house.run(fan, 20, 4)) == 20
    assert {key: most for key, most in gauge.most.items() if key != "*"} == {
        "k0": 1, "k1": 1, "k2": 1, "k3": 1
    }  # fmt: skip
    assert gauge.most["*"] > 1


async def test_a_throttle_keeps_the_beginnings_apart_whoever_serves(house: House) -> None:
    loop, begun = asyncio.get_running_loop(), []

    async def visit(key: str) -> str:
        begun.append(loop.time())
        return key

    await house.client.queue.throttle("acts", 50, kind="activity")
    await house.worker(fan)
    await house.activity_worker(visit)
    await house.activity_worker(visit)
    assert len(await house.run(fan, 6, 2)) == 6
    assert begun[-1] - begun[0] > 0.2, "five times 50 ms, and a bit for the last to be told"


async def test_what_is_paused_goes_on_when_it_is_resumed(house: House) -> None:
    await house.client.queue.throttle("acts", -1)
    await house.worker(one)
    await house.activity_worker(visit)
    handle = await house.start(one, "k")
    ready = "select count(*) from my_app.streams where kind = 'activity' and state = 'ready'"
    await wait_for(lambda: house.one(ready) == 1, what="an activity that waits")
    assert gauge.most == {}
    [limit] = [one for one in await house.client.queue.list() if one.kind == "activity"]
    assert (limit.queue, limit.throttle) == ("acts", -1)
    await house.client.queue.throttle("acts", 0)
    assert await handle.result(timeout=10) == "k"


async def test_an_activity_of_a_limited_queue_is_not_run_inline(house: House) -> None:
    """The control: without a limit the same worker runs it inline, and no message is ever laid."""
    house.db.execute(
        "create table laid (name text);"
        "create function laid() returns trigger language plpgsql as"
        " $$ begin insert into public.laid values (new.queue); return null; end $$;"
        "create trigger laid after insert on my_app.streams for each row"
        " when (new.kind = 'activity') execute function laid()"
    )
    await house.worker(one)
    await house.activity_worker(visit)
    assert await house.run(one, "inline") == "inline"
    assert house.one("select count(*) from laid") == 0
    await house.client.queue.limit("acts", concurrency=1)
    assert await house.run(one, "streamed") == "streamed"
    assert house.one("select count(*) from laid") == 1
    await house.client.queue.unlimit("acts")
    await wait_for(lambda: known(house) is False)
    assert await house.run(one, "inline") == "inline"
    assert house.one("select count(*) from laid") == 1


def known(house: House) -> bool | None:
    """Whether this process takes the queue for limited."""
    return SERVERS.limits(house.workers[0]._pump.home).get("acts")


async def test_workflows_are_limited_too_and_sleep_in_their_slots(house: House) -> None:
    await house.client.queue.limit("orders", concurrency=2)
    await house.worker(naps)
    handles = [await house.start(naps) for _ in range(6)]
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, house.one("select count(*) from my_app.streams where slot = 2"))
        return house.one("select count(*) from my_app.jobs where status > 0") == 0

    await wait_for(look)
    assert most == 2
    assert [await handle.result(timeout=5) for handle in handles] == [None] * 6


async def test_a_rate_lets_no_more_begin_and_nobody_sleeps_longer(house: House) -> None:
    await house.client.queue.limit("orders", rate=2, per=0.3)
    await house.worker(naps)
    began = asyncio.get_running_loop().time()
    handles = [await house.start(naps) for _ in range(6)]
    for handle in handles:
        await handle.result(timeout=10)
    took = asyncio.get_running_loop().time() - began
    assert took >= 0.6, "two at once, two after 0.3 s, two after 0.6 s"
    assert took < 2, "the turn says when the next may begin"


async def test_a_start_takes_a_key_a_priority_and_a_delay(house: House) -> None:
    await house.client.queue.limit("orders", per_key=1)
    for number in range(2):
        await house.start(naps, concurrency_key="k", priority=number)
    await house.start(naps, delay="1 hour", concurrency_key="other")
    [limits] = [q for q in await house.client.queue.list() if q.kind == "workflow"]
    assert (limits.queue, limits.per_key, limits.under_way) == ("orders", 1, 0)
    rows = house.db.execute(
        "select state, priority, concurrency_key from my_app.streams order by id"
    ).fetchall()
    assert [row[1:] for row in rows] == [(0, "k"), (1, "k"), (0, "other")]
    assert rows[2][0] == "delayed"


async def test_a_call_may_be_more_urgent_than_another(house: House) -> None:
    await house.worker(ranked)
    handle = await house.start(ranked)
    await wait_for(lambda: house.one("select count(*) from my_app.streams where queue = 'later'"))
    rows = house.db.execute(
        "select args ->> 0, priority from my_app.streams where queue = 'later' order by id"
    ).fetchall()
    assert rows == [("usual", 0), ("urgent", 5)]
    await house.activity_worker(visit, queue="later")
    assert await handle.result(timeout=10) == ["usual", "urgent"]


@pytest.mark.parametrize("key", ["", 7, "k" * 501])
async def test_a_key_that_is_none_is_refused_where_it_stands(house: House, key: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        await house.start(lane_of, concurrency_key=key)
    await house.worker(lane_of)
    with pytest.raises(JobFailedError, match="concurrency_key"):
        await house.run(lane_of, key)


@pytest.mark.parametrize(
    "what",
    [
        {}, {"concurrency": 0}, {"per_key": 1.5}, {"rate": "many"}, {"rate": 1, "per": "soon"},
        {"concurrency": 1, "kind": "event"}, {"concurrency": 1, "per": 1},
    ],
)  # fmt: skip
async def test_what_is_no_limit_is_refused(house: House, what: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await house.client.queue.limit("acts", **what)


async def test_the_blocking_client_does_the_same(dsn: str) -> None:
    with SyncClient(dsn, APP) as client:
        client.queue.limit("acts", rate=5, per="1 minute", kind="activity")
        [limits] = client.queue.list()
        assert (limits.rate, limits.per and limits.per.total_seconds()) == (5, 60)
        client.queue.throttle("acts", 7)
        assert [one.throttle for one in client.queue.list()] == [7, 7]
        client.queue.throttle("acts", 0)
        client.queue.unlimit("acts")
        assert client.queue.list() == []


PROGRAM = """
import asyncio, sys
from hotmesh import MemFlow

async def hangs():
    print("began", flush=True)
    await asyncio.sleep(600)

async def main():
    worker = await MemFlow.register_activity_worker(
        app_id="my-app", task_queue="acts", activities=[hangs], lease="1s")
    await worker.run()

asyncio.run(main())
"""


async def hangs() -> str:
    return "done by another"


async def waits_for_it() -> str:
    return await execute_activity(hangs, task_queue="acts")


async def test_slots_of_a_worker_that_was_killed_come_back(
    house: House, child: Any, tmp_path: Any
) -> None:
    await house.client.queue.limit("acts", concurrency=1)
    (tmp_path / "program.py").write_text(PROGRAM)
    dying: Child = child(str(tmp_path / "program.py"))
    await house.worker(waits_for_it)
    handle = await house.start(waits_for_it)
    await asyncio.to_thread(dying.wait_for_output, "began")
    dying.kill()
    await house.activity_worker(hangs)
    assert await handle.result(timeout=15) == "done by another"
    assert house.one("select count(*) from my_app.streams where slot > 0") == 0
