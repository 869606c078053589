"""Commands on entities, beside a plain `update … set context = context || $1` of a look-alike table.

The log is on, every commit is flushed. Both keep the document's size: the same names are written over
and over. Answers are made but not sent: a merge answers with the document, a plain update with nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench._world import World
from bench.scenarios.workflows import Row, medians

Change = Callable[[str, int], object]

BETWEEN_SNAPSHOTS = 16
INCREMENT = {"operation": "increment", "path": "n"}


def commands(
    world: World, name: str, *, jobs: list[int], sizes: list[int], batches: list[int],
    count: int, pairs: int,
) -> list[Row]:  # fmt: skip
    """One hot entity and many, small and large documents, one and many commands per commit.

    Pairs are many and short, for the machine changes its mind; large documents have fewer, and one job.
    """
    rows = []
    for many in jobs:
        for size in sizes if many == jobs[0] else sizes[:1]:
            with world.app(name) as app, world.connect() as conn, _documents(conn, app, many, size):
                for verb, change in _verbs(conn, app).items():
                    for batch in batches:
                        times = _rounds(conn, app, change, many, batch, count)
                        wanted = max(pairs // (1 + size // 5_000), 3)
                        found = [next(times) for _ in range(wanted + 1)][1:]
                        case = f"{verb}, {many:,} jobs, {size:,} bytes, {batch} per commit"
                        rows.append({"case": case, **medians(found)})
    return rows


def _document(size: int) -> str:
    """About `size` bytes that don't compress away, with a counter."""
    chance = random.Random(size)
    text = "".join(chance.choice("0123456789abcdef") for _ in range(max(size - 60, 0)))
    parts = {f"part{n}": text[n : n + 40] for n in range(0, len(text), 56)}
    return json.dumps({"n": 0, "stage": "new", **parts})


@contextmanager
def _documents(conn: psycopg.Connection[Any], app: str, many: int, size: int) -> Iterator[None]:
    """The same documents in jobs of the app and in a table with the columns and indexes of theirs."""
    conn.execute(
        "select from hotmesh.job_start_many(%s, (select jsonb_agg(jsonb_build_object("
        "'workflow', 'noop', 'key', 'job' || n)) from generate_series(1, %s) n))",
        [app, many],
    )
    conn.execute(f"update {app}.jobs set context = %s".encode(), [_document(size)])
    conn.execute("drop schema if exists floor cascade")
    conn.execute("create schema floor")
    conn.execute(
        f"create table floor.jobs (like {app}.jobs including defaults including indexes"
        " including storage) with (fillfactor = 40)".encode()
    )
    conn.execute(f"insert into floor.jobs select * from {app}.jobs".encode())
    conn.execute(f"vacuum (analyze) {app}.jobs, floor.jobs".encode())
    yield
    conn.execute("drop schema floor cascade")


def _verbs(conn: psycopg.Connection[Any], app: str) -> dict[str, Change]:
    merge = "select hotmesh.entity_merge(%s, %s, null, %s::jsonb) is null"
    increment = "select hotmesh.entity_increment(%s, %s, 'n', %s) is null"
    return {
        "merge": lambda key, n: conn.execute(merge, [app, key, f'{{"stage": "s{n % 10}"}}']),
        "increment": lambda key, n: conn.execute(increment, [app, key, 1]),
    }


def _rounds(
    conn: psycopg.Connection[Any], app: str, change: Change, many: int, batch: int, count: int
) -> Iterator[Row]:
    plain = "update floor.jobs set context = context || %s::jsonb where key = %s"

    def floor(key: str, n: int) -> object:
        return conn.execute(plain, [f'{{"stage": "s{n % 10}"}}', key])

    while True:
        ours = _time(conn, change, many, batch, count)
        theirs = _time(conn, floor, many, batch, count)
        yield {
            "per_s": count / ours, "floor_per_s": count / theirs, "of_floor": theirs / ours,
            "us_each": ours / count * 1e6,
        }  # fmt: skip


def _time(
    conn: psycopg.Connection[Any], change: Change, many: int, batch: int, count: int
) -> float:
    began = time.perf_counter()
    for first in range(0, count, batch):
        if batch == 1:
            change(f"job{first % many + 1}", first)
            continue
        with conn.transaction():
            for n in range(first, min(first + batch, count)):
                change(f"job{n % many + 1}", n)
    return time.perf_counter() - began


def versions(world: World, name: str, *, counts: list[int], size: int, rounds: int) -> list[Row]:
    """`entity_at` in logs of different lengths, of documents of one size; each version once."""
    rows: list[Row] = []
    for count in counts:
        with world.app(name) as app, world.connect() as conn:
            conn.execute("select from hotmesh.job_start(%s, 'noop', 'job')", [app])
            conn.execute("select from hotmesh.entity_set(%s, 'job', %s)", [app, _document(size)])
            conn.execute("set synchronous_commit = off")
            for done in range(1, count, BETWEEN_SNAPSHOTS):
                increments = min(BETWEEN_SNAPSHOTS, count - done) * [INCREMENT]
                conn.execute(
                    "select from hotmesh.entity_apply(%s, 'job', %s)",
                    [app, json.dumps(increments)],
                )
            chance = random.Random(count)
            wanted = [chance.randrange(max(count - 100, 1), count) for _ in range(rounds)]
            took = sorted(_read(conn, app, version) for version in wanted)
            row = {"median_ms": took[rounds // 2], "p95_ms": took[int(rounds * 0.95)]}
            growth = row["median_ms"] / rows[0]["median_ms"] if rows else 1.0
            rows.append({"case": f"{count:,} versions, {size:,} bytes", **row, "growth": growth})
    return rows


def _read(conn: psycopg.Connection[Any], app: str, version: int) -> float:
    began = time.perf_counter()
    conn.execute("select 1 from hotmesh.entity_at(%s, 'job', version => %s)", [app, version])
    return (time.perf_counter() - began) * 1e3
