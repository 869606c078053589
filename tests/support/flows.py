"""Workers and a client of one app, closed when the test ends; and looks into its tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg

from hotmesh import Client, Worker, register_activity_worker
from hotmesh.client import WorkflowHandle

APP = "my-app"
FAST = {"maximum_attempts": 3, "initial_interval": 0.001, "backoff_coefficient": 1}
T = TypeVar("T")


async def wait_for(look: Callable[[], T], timeout: float = 30.0, what: str = "the condition") -> T:
    """Let the event loop work until `look()` is true."""
    until = asyncio.get_running_loop().time() + timeout
    while not (value := look()):
        if asyncio.get_running_loop().time() > until:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        await asyncio.sleep(0.002)
    return value


class House:
    """One app: `await house.worker(flow, activities=[…])`, `await house.run(flow, 1, 2)`."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.client = Client(dsn, APP)
        self.workers: list[Worker] = []
        self.db = psycopg.connect(dsn, autocommit=True)

    async def worker(self, *workflows: Any, queue: str = "orders", **more: Any) -> Worker:
        """A worker of these workflows."""
        served = {"workflows": list(workflows)} if workflows else {}
        worker = await Worker.create(self.dsn, APP, task_queue=queue, **served, **more)
        self.workers.append(worker)
        return worker

    async def activity_worker(self, *activities: Any, queue: str = "acts", **more: Any) -> Worker:
        """A worker of these activities alone."""
        worker = await register_activity_worker(
            self.dsn, APP, task_queue=queue, activities=list(activities), **more
        )
        self.workers.append(worker)
        return worker

    async def start(self, workflow: Any, *args: Any, key: str = "", **more: Any) -> WorkflowHandle:
        """Start a job."""
        return await self.client.workflow.start(
            args=args, task_queue=more.pop("queue", "orders"), workflow_name=workflow,
            workflow_id=key or None, **more,
        )  # fmt: skip

    async def run(self, workflow: Any, *args: Any, timeout: float = 20, **more: Any) -> Any:
        """Start a job and wait for what it returns."""
        return await (await self.start(workflow, *args, **more)).result(timeout=timeout)

    def steps(self, key: str) -> list[tuple[Any, ...]]:
        """The journal of a job: (sequence, kind, name, state, value, cursor)."""
        return self.db.execute(
            "select a.sequence, a.kind, a.name, a.state, a.value, a.cursor"
            " from my_app.jobs_attributes a join my_app.jobs j on j.id = a.job_id"
            " where j.key = %s and a.sequence is not null order by a.sequence",
            [key],
        ).fetchall()

    def one(self, query: str, *params: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.db.execute(query.encode(), params or None).fetchone()
        return row[0] if row else None

    async def close(self) -> None:
        for worker in self.workers:
            await worker.shutdown(grace=0)
        await self.client.close()
        self.db.close()


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[House]:
    house = House(dsn)
    try:
        yield house
    finally:
        await house.close()
