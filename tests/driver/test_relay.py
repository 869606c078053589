"""A worker of graphs that reports one half of what it has done while it does the other."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from hotmesh import HotMesh
from hotmesh._calls import Call
from hotmesh.errors import ConnectionLostError
from support.flows import APP

pytestmark = pytest.mark.asyncio

TWO = """
subscribes: two
activities:
  t: {type: trigger}
  a: {type: worker, topic: a}
  b: {type: worker, topic: b}
transitions:
  t: [{to: a}]
  a: [{to: b}]
"""
JOBS = 150
SLOTS = 40


class Mesh:
    """A HotMesh that serves both topics, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()

    async def open(self, dsn: str) -> None:
        workers = [{"topic": topic, "callback": self._callback(topic)} for topic in "ab"]
        self.mesh = await HotMesh.init(
            app_id=APP, connection=dsn, workers=workers, max_concurrent=SLOTS
        )
        self.pump = self.mesh._workers[0]._pump
        await self.mesh.activate((await self.mesh.deploy(TWO))["version"])

    def _callback(self, topic: str) -> Callable[[dict[str, Any]], Any]:
        async def answer(task: dict[str, Any]) -> dict[str, Any]:
            self.asked[topic, task["metadata"]["jid"]] += 1
            return {"data": {}}

        return answer

    async def done(self, keys: list[str]) -> None:
        """Wait for the jobs to end."""
        for key in keys:
            await asyncio.wait_for(self._ended(key), 10)

    async def _ended(self, key: str) -> None:
        while await self.mesh.get_status(key):
            await asyncio.sleep(0.01)


@pytest.fixture
async def mesh(dsn: str) -> AsyncIterator[Mesh]:
    made = Mesh()
    await made.open(dsn)
    yield made
    await HotMesh.stop()


async def test_what_is_not_reported_yet_keeps_its_slot(mesh: Mesh, dsn: str) -> None:
    reported: list[int] = []
    held: list[int] = []
    run = mesh.pump.session.run

    async def watched(call: Call[Any], conn: object = None) -> Any:
        answer = await run(call, conn)
        if "hotmesh.turn" in call.sql:
            reported.append(len(json.loads(call.params["reports"])))
            given = sum(row.answer == "task" for row in answer)
            held.append(len(mesh.pump._claimed.running) - reported[-1] + given)
        return answer

    mesh.pump.session.run = watched  # type: ignore[method-assign,assignment]
    with psycopg.connect(dsn) as conn:
        pub = "select (hotmesh.graph_pub(%s, 'two', '{}')).key from generate_series(1, %s)"
        keys = [row[0] for row in conn.execute(pub, [APP, JOBS])]
    await mesh.done(keys)
    assert set(mesh.asked.values()) == {1}
    assert len(mesh.asked) == 2 * JOBS
    assert max(reported) <= SLOTS // 2
    assert max(held) <= SLOTS


async def test_jobs_go_on_when_answers_of_turns_are_lost(mesh: Mesh) -> None:
    lost = 0
    run = mesh.pump.session.run

    async def losing(call: Call[Any], conn: object = None) -> Any:
        nonlocal lost
        answer = await run(call, conn)
        if "hotmesh.turn" in call.sql and lost < 3 and call.params["reports"] != "[]":
            lost += 1
            raise ConnectionLostError("the answer was lost")
        return answer

    mesh.pump.session.run = losing  # type: ignore[method-assign,assignment]
    keys = [await mesh.mesh.pub("two", {}) for _ in range(10)]
    await mesh.done(keys)
    assert lost == 3
    assert {key for _, key in mesh.asked} == set(keys)
