"""Claims of ten messages from queues of different depths, beside the same claim in plain SQL.

The queue keeps its depth: what was claimed is deleted and replaced, outside of the measured time. The
session does not wait for the log, so that a flush, which costs the same at every depth, hides nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psycopg

from bench._work import PAYLOAD
from bench._world import QUEUE, World
from bench.scenarios.workflows import Row
from hotmesh import _calls

TAKE = 10

Claim = Callable[[psycopg.Connection[Any], str], list[int]]


def claim(
    world: World, name: str, *, depths: list[int], delayed: list[int], rounds: int
) -> list[Row]:
    """Each door at each depth, without and with delayed messages beside."""
    rows = []
    for late in delayed:
        with world.app(name) as app, world.connect() as conn:
            conn.execute("set synchronous_commit = off")
            _fill(conn, app, late, "delayed")
            first: Row = {}
            for depth in sorted(depths):
                _deepen(conn, app, depth)
                row = _measure(conn, app, depth, rounds)
                first = first or (row if depth else {})
                rows.append(_row(depth, late, row, first))
    return rows


def _row(depth: int, late: int, row: Row, first: Row) -> Row:
    """Beside the shallowest queue that has something to claim."""
    growth = {
        f"{door}_growth": row[f"{door}_ms"] / first[f"{door}_ms"] for door in first and _DOORS
    }
    ratio = row["plain_sql_ms"] / row["turn_ms"]
    case = f"{depth:,} waiting, {late:,} delayed"
    return {"case": case, **row, **growth, "of_floor": ratio}


def _deepen(conn: psycopg.Connection[Any], app: str, depth: int) -> None:
    row = conn.execute(
        f"select count(*) from {app}.streams where state = 'ready'".encode()
    ).fetchone()
    assert row is not None
    _fill(conn, app, depth - row[0], "ready")
    conn.execute(f"vacuum (analyze) {app}.streams".encode())  # as autovacuum does


def _fill(conn: psycopg.Connection[Any], app: str, count: int, state: str) -> None:
    """Messages by plain SQL; delayed ones are due some time tomorrow."""
    conn.execute(
        f"insert into {app}.streams (kind, state, queue, name, args, visible_at, created_at)"
        " select 'activity', %s, %s, 'echo', %s::jsonb,"
        " now() + case when %s = 'delayed' then interval '1 day' * (1 + random()) else '0' end, now()"
        " from generate_series(1, %s)".encode(),
        [state, QUEUE, json.dumps([PAYLOAD]), state, count],
    )


def _measure(conn: psycopg.Connection[Any], app: str, depth: int, rounds: int) -> Row:
    row: Row = {}
    for door, claim in _DOORS.items():
        times = sorted(_timed(conn, app, depth, door, claim) for _ in range(rounds + 5))
        row[f"{door}_ms"] = median(times)
        row[f"{door}_p95_ms"] = times[int(len(times) * 0.95)]
    return row


def _timed(conn: psycopg.Connection[Any], app: str, depth: int, door: str, claim: Claim) -> float:
    began = time.perf_counter()
    ids = claim(conn, app)
    took = time.perf_counter() - began
    if len(ids) != min(TAKE, depth):
        raise RuntimeError(f"{door} claimed {len(ids)} of {depth}")
    if ids:  # by id: a long scan would leave cold caches to the next claim
        conn.execute(f"delete from {app}.streams where id = any (%s)".encode(), [ids])
        _fill(conn, app, len(ids), "ready")
    return took * 1e3


def _turn(conn: psycopg.Connection[Any], app: str) -> list[int]:
    want = {"activity": TAKE, "kinds": ["activity"], "queues": [QUEUE], "names": ["echo"]}
    call = _calls.turn(app, "bench", "[]", json.dumps(want))
    rows = call.read(conn.execute(call.sql.encode(), call.params).fetchall())
    return [row.id for row in rows if row.answer == "task" and row.id]


def _stream_claim(conn: psycopg.Connection[Any], app: str) -> list[int]:
    call = _calls.stream_claim(app, QUEUE, "bench", TAKE)
    rows = call.read(conn.execute(call.sql.encode(), call.params).fetchall())
    return [row.id for row in rows]


def _plain(conn: psycopg.Connection[Any], app: str) -> list[int]:
    query = (
        f"update {app}.streams s set state = 'leased', worker = 'bench', token = s.token + 1,"
        " attempt = s.attempt + 1, visible_at = clock_timestamp() + interval '15 s'"
        f" where s.id = any (array(select m.id from {app}.streams m where m.state = 'ready'"
        " and m.kind = 'activity' and m.queue = %s and m.name = 'echo'"
        " order by m.priority desc, m.id limit %s for update skip locked))"
        " returning s.id, s.token, s.name, s.args, s.attempt"
    )
    return [row[0] for row in conn.execute(query.encode(), [QUEUE, TAKE]).fetchall()]


_DOORS: dict[str, Claim] = {
    "turn": _turn,
    "stream_claim": _stream_claim,
    "plain_sql": _plain,
}


def sleepers(world: World, name: str, *, counts: list[int], rounds: int) -> list[Row]:
    """The same claim beside jobs that sleep until tomorrow, and in an app that has none, in turns."""
    with world.app(f"{name}_none") as empty, world.app(name) as full:
        with world.connect() as quiet, world.connect() as busy:
            for conn, app in ((quiet, empty), (busy, full)):
                conn.execute("set synchronous_commit = off")
                _deepen(conn, app, 100)
            rows, there = [], 0
            for count in sorted(counts):
                _put_to_sleep(busy, full, count - there)
                there = count
                pairs = [
                    (
                        _timed(quiet, empty, 100, "turn", _turn),
                        _timed(busy, full, 100, "turn", _turn),
                    )
                    for _ in range(rounds + 5)
                ][5:]
                alone, beside = (median(pair[n] for pair in pairs) for n in (0, 1))
                rows.append(
                    {
                        "case": f"beside {count:,} sleeping jobs",
                        "turn_ms": beside,
                        "turn_ms_alone": alone,
                        "of_alone": beside / alone,
                    }
                )
    return rows


def _put_to_sleep(conn: psycopg.Connection[Any], app: str, count: int) -> None:
    """A job that sleeps is its row, a message that waits, a step that is open, and a timer."""
    base = conn.execute("select nextval('hotmesh.ids')").fetchone()
    assert base is not None
    first = base[0]
    conn.execute("select setval('hotmesh.ids', %s)", [first + count * 3])
    conn.execute(
        f"insert into {app}.jobs (id, key, entity, queue, topic, created_at, updated_at)"
        " select %(first)s + n, 'sleeper-' || (%(first)s + n), 'nap', 'bed', 'nap', now(), now()"
        " from generate_series(1, %(count)s) n".encode(),
        {"first": first, "count": count},
    )
    conn.execute(
        f"insert into {app}.jobs_attributes (job_id, field, kind, state, sequence, ledger,"
        " created_at, updated_at)"
        " select %s + n, 'step-0001', 'timer', 'open', 1, 1100000000000, now(), now()"
        " from generate_series(1, %s) n".encode(),
        [first, count],
    )
    conn.execute(
        f"insert into {app}.streams (id, kind, state, queue, name, job_id, sequence, visible_at,"
        " created_at)"
        " select %(first)s + (1 + k.n) * %(count)s + g, k.kind, k.state, k.queue, k.name,"
        " %(first)s + g, k.step, now() + interval '1 day' * (1 + random()), now()"
        " from generate_series(1, %(count)s) g, (values"
        " (0, 'workflow', 'waiting', 'bed', 'nap', null::integer),"
        " (1, 'timer', 'delayed', '', '', 1)) k (n, kind, state, queue, name, step)".encode(),
        {"first": first, "count": count},
    )
    for table in ("jobs", "jobs_attributes", "streams"):
        conn.execute(f"vacuum (analyze) {app}.{table}".encode())  # as autovacuum does
