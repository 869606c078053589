"""The workers of a HotMesh: what is refused, how they stop, what they tell, how they are throttled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hotmesh import HotMesh, MemFlow
from hotmesh.errors import (
    InvalidArgumentError,
)
from support.crash import Child, python_path
from support.echo import ECHO, Open, double
from support.engine import OWNER, Server
from support.flows import APP

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        ({"topic": "a"}, "workers must be a list"),
        ("a", "workers must be a list"),
        (["a"], r"workers\[0\] must be a dict"),
        ([{"callback": print}], r"workers\[0\].topic must be a text"),
        ([{"topic": "", "callback": print}], "is empty"),
        ([{"topic": "a\nb", "callback": print}], "line break"),
        ([{"topic": "a"}], r"workers\[0\].callback is no function"),
        ([{"topic": "a", "callback": "print"}], "is no function"),
        ([{"topic": "a", "callback": print, "taskQueue": "x"}], "has no key 'taskQueue'"),
        ([{"topic": "a", "callback": print, "retry_policy": {"attempts": 1}}], "has no key"),
        ([{"topic": "a", "callback": print}] * 2, "has a callback already"),
    ],
)
async def test_a_worker_that_cannot_be_used_is_refused(dsn: str, workers: Any, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        await HotMesh.init(app_id=APP, connection=dsn, workers=workers)


async def test_the_engine_and_the_app_are_provisioned(server: Server) -> None:
    with server.database() as name:
        place = {"connection": server.conninfo(name, OWNER)}
        async with await HotMesh.init(app_id="orders", engine=place) as hot:
            assert hot.app_id == "orders"
            assert await hot.graphs() == []


async def test_one_stops_alone_and_the_class_stops_all(mesh: Open) -> None:
    first, second, third = [await mesh((f"t{n}", double)) for n in range(3)]

    async def topics() -> set[str]:
        return {one["worker_topic"] for one in await third.roll_call() if "worker_topic" in one}

    await asyncio.gather(*(each.roll_call() for each in (first, second, third)))
    assert await topics() == {"t0", "t1", "t2"}
    await first.stop()
    assert await topics() == {"t1", "t2"}
    await HotMesh.stop()
    with pytest.raises(Exception, match="closed"):
        await second.get_status("x")


PROGRAM = """
import asyncio, sys
from hotmesh import HotMesh

async def hangs(message):
    print("begun", flush=True)
    await asyncio.sleep(60)

async def answers(message):
    return {"data": {"answer": message["metadata"]["try"]}}

async def made(connection, app_id) -> HotMesh:
    return await HotMesh.init(app_id=app_id, connection=connection, lease="1s",
        workers=[{"topic": "work", "callback": hangs}])

async def main():
    mesh = await HotMesh.init(app_id="my-app", lease="1s",
        workers=[{"topic": "work", "callback": answers}])
    print("serves", flush=True)
    await mesh.run()
    print("left", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_what_a_killed_process_had_begun_is_done_by_another(
    mesh: Open, child: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "meshes.py").write_text(PROGRAM)
    hot = await mesh(deploy=ECHO)
    words = ("worker", "meshes:made", "--app", APP)
    first = child("hotmesh", *words, PYTHONPATH=f"{tmp_path}:{python_path()}")
    await asyncio.to_thread(first.wait_for_output, "Ctrl-C stops it")
    waiting = asyncio.create_task(hot.pubsub("echo"))
    await asyncio.to_thread(first.wait_for_output, "begun")
    first.kill()
    second = child(tmp_path / "meshes.py")
    await asyncio.to_thread(second.wait_for_output, "serves")
    assert (await waiting)["data"] == {"answer": 1}
    assert await asyncio.to_thread(second.terminate) == 0
    second.wait_for_output("left")


async def test_nothing_runs_without_workers(mesh: Open) -> None:
    hot = await mesh()
    with pytest.raises(InvalidArgumentError):
        await hot.run()


async def test_memflow_shutdown_closes_it_too(mesh: Open) -> None:
    hot = await mesh(("t", double))
    await MemFlow.shutdown()
    with pytest.raises(Exception, match="closed"):
        await hot.get_status("x")


async def test_every_guid_is_another() -> None:
    assert len({HotMesh.guid() for _ in range(100)}) == 100


async def test_a_roll_call_shows_who_serves_what_and_how_much_waits(mesh: Open) -> None:
    hot = await mesh(("serves", double), deploy=ECHO)
    await hot.pub("echo", {"n": 1})

    [found] = [one for one in await hot.roll_call() if one.get("worker_topic") == "serves"]
    assert (found["app_id"], found["stream_depth"], found["throttle"]) == (APP, 0, 0)
    [engine] = [one for one in await hot.roll_call() if "worker_topic" not in one]
    assert engine["stream_depth"] == 1
    system = found["system"]
    assert system["UsedMemoryGB"] + system["FreeMemoryGB"] == pytest.approx(
        system["TotalMemoryGB"], abs=0.02
    )
    assert len(system["CPULoad"]) == 3
    assert system["NetworkStats"] == []


async def test_a_throttle_is_kept_and_lifted(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    await hot.throttle(-1, topic="work")
    waiting = asyncio.create_task(hot.pubsub("echo", {"n": 4}))
    other = await mesh()
    while True:
        found = [one for one in await other.roll_call() if one.get("worker_topic") == "work"]
        if found and found[0]["stream_depth"] == 1:
            break
        await asyncio.sleep(0.01)
    assert found[0]["throttle"] == -1
    assert not waiting.done()
    await other.throttle({"throttle": 0, "topic": "work"})
    assert (await waiting)["data"]["answer"] == 8
    await other.throttle({"throttle": 0, "topic": "work", "scope": "workers"})
    for wrong in (
        {"throttle": 1, "guid": "x"}, {"throttle": 1, "scope": "engines"},
        {"throttle": "x"}, {"throttle": -2}, {}, {"throttle": 1, "speed": 1},
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            await hot.throttle(wrong)


async def test_a_throttle_without_a_topic_is_for_all_that_are_served(mesh: Open) -> None:
    hot = await mesh(("work", double), ("more", double))
    await hot.throttle(throttle=7)
    told = {one["worker_topic"]: one["throttle"] for one in (await hot.roll_call())[1:]}
    assert told == {"work": 7, "more": 7}
    await hot.throttle(0)
    assert {one["throttle"] for one in await hot.roll_call()} == {0}


async def test_graphs_read_what_a_codec_would_seal(mesh: Open) -> None:
    class Codec:
        def encode(self, payload: bytes) -> bytes:
            return payload[::-1]

        def decode(self, stored: bytes) -> bytes:
            return stored[::-1]

    MemFlow.register_codec(Codec())
    try:
        hot = await mesh(("work", double), deploy=ECHO)
        assert (await hot.pubsub("echo", {"n": 4}))["data"]["answer"] == 8
    finally:
        MemFlow.register_codec(None)
