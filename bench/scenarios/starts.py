"""Starting jobs, beside the floor that inserts a job, its input and its message."""

from __future__ import annotations

import time

from bench._floor import Floor
from bench._work import PAYLOAD
from bench._world import QUEUE, World
from bench.scenarios.workflows import Row, medians
from hotmesh import SyncClient
from hotmesh.client import StartRequest


def start(world: World, name: str, *, jobs: int, pairs: int) -> list[Row]:
    """The same number of jobs one by one, and in one call."""
    rows = []
    for case, batch in (("one by one", 1), ("in one call", jobs)):
        found = [_pair(world, name, jobs, batch) for _ in range(pairs)]
        rows.append({"case": f"{jobs:,} jobs {case}", **medians(found)})
    return rows


def _pair(world: World, name: str, jobs: int, batch: int) -> Row:
    with world.app(name) as app, SyncClient(world.dsn, app) as client:
        floor = Floor(world, app)
        request: StartRequest = {"workflow_name": "noop", "task_queue": QUEUE, "args": [PAYLOAD]}
        client.workflow.start(**request)
        begin, began = world.position(), time.perf_counter()
        if batch == 1:
            for _ in range(jobs):
                client.workflow.start(**request)
        else:
            client.workflow.start_many([request] * jobs)
        ours = time.perf_counter() - began
        wal = world.wal(begin, world.position())
        theirs = floor.start(jobs, batch)
    return {
        "per_s": jobs / ours,
        "floor_per_s": jobs / theirs,
        "of_floor": theirs / ours,
        "us_each": ours / jobs * 1e6,
        "commits": wal.commits / jobs,
        "wal_bytes": wal.bytes / jobs,
    }
