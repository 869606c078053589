"""A HotMesh that serves every topic of a graph and counts what it was asked; its turns, watched."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from hotmesh import HotMesh
from hotmesh._calls import Call
from support.flows import APP


class Mesh:
    """`await mesh.open(dsn, document, "ab")`; `asked` counts by topic and job."""

    def __init__(self, asked: Counter[tuple[str, str]] | None = None) -> None:
        self.asked = Counter() if asked is None else asked

    async def open(
        self, dsn: str, document: str, topics: str, slots: int, pool: object = None
    ) -> None:
        """Serve the topics, each a letter."""
        self.dsn = dsn
        workers = [{"topic": topic, "callback": self._callback(topic)} for topic in topics]
        self.mesh = await HotMesh.init(
            app_id=APP, connection=pool or dsn, workers=workers, max_concurrent=slots
        )
        self.worker = self.mesh._workers[0]
        self.pump = self.worker._pump
        await self.mesh.activate((await self.mesh.deploy(document))["version"])

    def _callback(self, topic: str) -> Callable[[dict[str, Any]], Any]:
        async def answer(task: dict[str, Any]) -> dict[str, Any]:
            self.asked[topic, task["metadata"]["jid"]] += 1
            return {"data": {}}

        return answer

    def start(self, topic: str, jobs: int) -> list[str]:
        """Start so many jobs in one call; their keys."""
        with psycopg.connect(self.dsn) as conn:
            pub = "select (hotmesh.graph_pub(%s, %s, '{}')).key from generate_series(1, %s)"
            return [row[0] for row in conn.execute(pub, [APP, topic, jobs])]

    async def done(self, keys: Sequence[str]) -> None:
        """Wait for the jobs to end well."""
        for key in keys:
            await asyncio.wait_for(self._ended(key), 10)

    async def _ended(self, key: str) -> None:
        while status := await self.mesh.get_status(key):
            assert status > 0, f"{key} has failed"
            await asyncio.sleep(0.01)


class Turn:
    """One turn that is sent: what it reports and wants, and whether it is beside another."""

    def __init__(self, call: Call[Any], beside: bool) -> None:
        self.reports: list[dict[str, Any]] = json.loads(call.params["reports"])
        self.want: dict[str, Any] = json.loads(call.params["want"])
        self.beside = beside
        self.given = 0


class Watched:
    """All turns of a mesh. `before` and `after` are awaited around each, and may raise."""

    def __init__(self, mesh: Mesh) -> None:
        self.turns: list[Turn] = []
        self.under_way: list[Turn] = []
        self.most = 0
        self._pump = mesh.pump
        self._run = mesh.pump.session.run
        mesh.pump.session.run = self.run  # type: ignore[method-assign,assignment]

    async def before(self, turn: Turn) -> None:
        """The turn is about to be sent."""

    async def after(self, turn: Turn) -> None:
        """It was answered."""

    async def run(self, call: Call[Any], conn: object = None) -> Any:
        """In place of the session's."""
        if "hotmesh.turn" not in call.sql:
            return await self._run(call, conn)
        turn = Turn(call, asyncio.current_task() is self._pump._turns.second)
        self.turns.append(turn)
        self.under_way.append(turn)
        self.most = max(self.most, len(self.under_way))
        if any("held" in each.want for each in self.under_way):
            assert len(self.under_way) == 1, "what is held is told beside another turn"
        try:
            await self.before(turn)
            rows = await self._run(call, conn)
            turn.given = sum(row.answer == "task" for row in rows)
            await self.after(turn)
            return rows
        finally:
            self.under_way.remove(turn)
