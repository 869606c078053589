"""Graphs: pure steps beside the rows that they leave behind, and orders beside the same as code."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psycopg
from psycopg import sql

from bench._world import QUEUE, World
from bench.scenarios.workflows import Row, medians
from hotmesh import HotMesh, MemFlow

Connection = psycopg.Connection[Any]
TABLES = ("jobs", "jobs_attributes")
ORDER = {"itemId": "item-123", "requestedQty": 5}
GTE = {
    "@pipe": [
        ["{check.output.data.availableQty}", "{t.output.data.requestedQty}"],
        ["{@conditional.gte}"],
    ]
}
ORDERS = {
    "subscribes": "orders",
    "activities": {
        "t": {"type": "trigger"},
        "check": {"type": "worker", "topic": "check"},
        "reserve": {"type": "worker", "topic": "reserve"},
        "notify": {"type": "worker", "topic": "notify"},
    },
    "transitions": {
        "t": [{"to": "check"}],
        "check": [
            {"to": "reserve", "conditions": {"match": [{"expected": True, "actual": GTE}]}},
            {"to": "notify", "conditions": {"match": [{"expected": False, "actual": GTE}]}},
        ],
    },
}


def pure(world: World, name: str, *, steps: int, jobs: int, pairs: int) -> list[Row]:
    """One job after the other through mappings, conditions and a sub-flow, each in one transaction."""
    with world.app(name) as app, world.connect() as conn:
        _deploy(conn, app, {"subscribes": "sub", **_chain(2, None)})
        _deploy(conn, app, {"subscribes": "pure", **_chain(steps, "sub")})
        found = [_pure_pair(world, conn, app, jobs) for _ in range(pairs + 1)][1:]
    return [{"case": f"{steps} pure steps, one of them a sub-flow", **medians(found)}]


def _deploy(conn: Connection, app: str, document: dict[str, Any]) -> None:
    conn.execute("select hotmesh.graph_deploy(%s, %s)", [app, json.dumps(document)])
    conn.execute("select hotmesh.graph_activate(%s, '1')", [app])


def _chain(steps: int, awaits: str | None) -> dict[str, Any]:
    """A trigger and so many steps: each maps, each third has a condition, the middle one awaits."""
    acts: dict[str, Any] = {"s0": {"type": "trigger"}}
    ways: dict[str, Any] = {}
    for n in range(1, steps):
        before = f"{{s{n - 1}.output.data.n}}"
        maps = {"n": {"@pipe": [[before, 1], ["{@math.add}"]]}, "name": "{s0.output.data.name}"}
        acts[f"s{n}"] = {"type": "hook", "output": {"maps": maps},
                         "job": {"maps": {"n": f"{{s{n}.output.data.n}}"}}}  # fmt: skip
        if awaits and n == steps // 2:
            acts[f"s{n}"] = {"type": "await", "topic": awaits, "input": {"maps": {"n": before}}}
        below = {"@pipe": [[before, 1000], ["{@conditional.lt}"]]}
        match = {"conditions": {"match": [{"expected": True, "actual": below}]}}
        ways[f"s{n - 1}"] = [{"to": f"s{n}", **({} if n % 3 else match)}]
    return {"activities": acts, "transitions": ways}


def _pure_pair(world: World, conn: Connection, app: str, jobs: int) -> Row:
    data = json.dumps({"n": 1, "name": "a"})
    begin = world.position()
    began = time.perf_counter()
    for _ in range(jobs):
        conn.execute("select key from hotmesh.graph_pub(%s, 'pure', %s)", [app, data])
    ours = (time.perf_counter() - began) / jobs
    wal = world.wal(begin, world.position())
    conn.execute(f"select 1 / (count(*) = 0)::int from {app}.jobs where status <> 0".encode())
    theirs = _floor(conn, app, jobs)
    return {
        "ms": ours * 1e3,
        "floor_ms": theirs * 1e3,
        "times_the_floor": ours / theirs,
        "round_trips": 1,
        "commits": wal.commits / jobs,
        "wal_bytes": wal.bytes / jobs,
    }


def _floor(conn: Connection, app: str, jobs: int) -> float:
    """Seconds to write the rows of one such job, and of its sub-flow: one statement, one commit."""
    for table in TABLES:
        conn.execute(
            f"drop table if exists {app}.floor_{table};"
            f"create table {app}.floor_{table} (like {app}.{table} including all)".encode()
        )
    rows = [
        (conn.execute(_newest(app, table)).fetchone() or ["[]"])[0]
        for table in TABLES
    ]  # fmt: skip
    write = sql.SQL(
        "with j as (insert into {floor_jobs} select * from jsonb_populate_recordset(null::{jobs}, %s))"
        " insert into {floor_jobs_attributes}"
        " select * from jsonb_populate_recordset(null::{jobs_attributes}, %s)"
    ).format(
        **{t: sql.Identifier(app, t) for t in TABLES},
        **{f"floor_{t}": sql.Identifier(app, f"floor_{t}") for t in TABLES},
    )
    batches = [[json.dumps(_copy(rows[0], n)), json.dumps(_copy(rows[1], n))] for n in range(jobs)]
    began = time.perf_counter()
    for batch in batches:
        conn.execute(write, batch)
    return (time.perf_counter() - began) / jobs


def _newest(app: str, table: str) -> bytes:
    """The rows of the newest job and its sub-flow."""
    owner = "id" if table == "jobs" else "job_id"
    return (
        f"select jsonb_agg(r) from {app}.{table} r where r.{owner} in ("
        f" select j.id from {app}.jobs j, (select max(id) as id from {app}.jobs where topic = 'pure') n"
        " where j.id = n.id or j.parent_id = n.id)"
    ).encode()


def _copy(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The same rows under other keys."""
    shift = (number + 1) * 1_000_000_000
    moved = {"id", "job_id", "parent_id", "origin_id"}
    return [
        {k: v + shift if k in moved and v else f"{v}-{number}" if k == "key" else v
         for k, v in row.items()}
        for row in rows
    ]  # fmt: skip


def orders(world: World, name: str, *, jobs: int, concurrent: list[int], pairs: int) -> list[Row]:
    """The orders of the seeds as a graph, and as code, each with one worker with as many slots."""
    with world.app(name) as app, world.connect() as conn:
        _deploy(conn, app, ORDERS)
        return [
            {"case": f"{jobs:,} orders, {slots} at a time", **_orders(world, conn, app, jobs, slots, pairs)}
            for slots in concurrent
        ]  # fmt: skip


def _orders(world: World, conn: Connection, app: str, jobs: int, slots: int, pairs: int) -> Row:
    found = []
    for _ in range(pairs + 1):
        graph = asyncio.run(_graph(world, conn, app, jobs, slots))
        code = asyncio.run(_code(world, conn, app, jobs, slots))
        found.append({"per_s": graph, "code_per_s": code, "of_code": graph / code})
    return medians(found[1:])


async def check(item: str) -> int:
    """How many there are."""
    return 10


async def reserve(item: str, quantity: int) -> str:
    """Puts them aside."""
    return f"{quantity} of {item}"


async def order(item: str, quantity: int) -> str:
    """The workflow of the seeds, as code."""
    acts = MemFlow.workflow.proxy_activities([check, reserve], task_queue=QUEUE)
    return str(await acts.reserve(item, quantity) if await acts.check(item) >= quantity else "")


async def _graph(world: World, conn: Connection, app: str, jobs: int, concurrent: int) -> float:
    async def checks(task: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"availableQty": await check(task["data"]["itemId"])}}

    async def reserves(task: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"id": await reserve(task["data"]["itemId"], 5)}}

    conn.execute(
        "select count(hotmesh.graph_pub(%s, 'orders', %s)) from generate_series(1, %s)",
        [app, json.dumps(ORDER), jobs],
    )
    workers = [{"topic": "check", "callback": checks}, {"topic": "reserve", "callback": reserves}]
    hotmesh = await HotMesh.init(
        app_id=app, connection=world.dsn, workers=workers, max_concurrent=concurrent
    )
    try:
        return await _rate(conn, app, "orders", jobs)
    finally:
        await hotmesh.stop()


async def _code(world: World, conn: Connection, app: str, jobs: int, concurrent: int) -> float:
    requests = [{"workflow": "order", "queue": QUEUE, "args": ["item-123", 5]}] * jobs
    conn.execute("select count(*) from hotmesh.job_start_many(%s, %s)", [app, json.dumps(requests)])
    async with await MemFlow.Worker.create(
        world.dsn, app, task_queue=QUEUE, workflow=order, activities=[check, reserve],
        max_concurrent_workflows=concurrent, max_concurrent_activities=concurrent,
    ):  # fmt: skip
        return await _rate(conn, app, "order", jobs)


async def _rate(conn: Connection, app: str, topic: str, jobs: int) -> float:
    """Jobs per second, by the server's clock: from the first answer to the last settle. They are
    taken away afterwards. Whether there are any left is asked rarely, for that counts too."""
    left = f"select count(*) from {app}.jobs where topic = %s and closed_at is null".encode()
    while (conn.execute(left, [topic]).fetchone() or [0])[0]:
        await asyncio.sleep(0.1)
    row = conn.execute(
        f"select extract(epoch from max(j.closed_at) - min(a.updated_at))::float8"
        f" from {app}.jobs j join {app}.jobs_attributes a on a.job_id = j.id"
        " and a.kind in ('worker', 'activity') where j.topic = %s".encode(),
        [topic],
    ).fetchone()
    assert row is not None
    conn.execute(
        f"with gone as (delete from {app}.jobs where topic = %s returning id)"
        f" delete from {app}.jobs_attributes a using gone g where a.job_id = g.id".encode(),
        [topic],
    )
    return jobs / float(row[0])
