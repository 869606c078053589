"""The floor: the rows that the engine leaves behind, written by plain SQL from one Python process.

It knows what it writes, asks for nothing, claims nothing and checks nothing, on tables with the same
columns, indexes and storage, without constraints and triggers. No engine that keeps the same journal
in Postgres, driven by one Python process, can be faster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from bench._work import PAYLOAD
from bench._world import World

_WRITE = """
with written as (
    insert into floor.jobs_attributes
        (job_id, field, value, kind, name, sequence, cursor, ledger, created_at, updated_at)
    select t.job_id, t.field, t.value::jsonb, case when t.sequence is null then 'fact' else 'activity' end,
           case when t.sequence is not null then 'echo' end, t.sequence, t.sequence,
           case when t.sequence is null then 0 else 101100000000001 end,
           clock_timestamp(), clock_timestamp()
    from unnest(%s::bigint[], %s::text[], %s::text[], %s::integer[]) as t (job_id, field, value, sequence))
update floor.jobs j
set cursor = j.cursor + t.steps, updated_at = clock_timestamp(),
    status = case when t.closes then 0 else 1 end,
    closed_at = case when t.closes then clock_timestamp() end
from unnest(%s::bigint[], %s::integer[], %s::boolean[]) as t (id, steps, closes)
where j.id = t.id
"""

_START = """
with t (id, input) as (select nextval('hotmesh.ids'), v::jsonb from unnest(%s::text[]) as u (v)),
job as (
    insert into floor.jobs (id, key, entity, queue, topic, created_at, updated_at)
    select t.id, replace(gen_random_uuid()::text, '-', ''), 'noop', 'bench', 'noop',
           clock_timestamp(), clock_timestamp() from t),
input as (
    insert into floor.jobs_attributes (job_id, field, value, created_at, updated_at)
    select t.id, 'input', t.input, clock_timestamp(), clock_timestamp() from t)
insert into floor.streams (kind, state, queue, name, job_id, visible_at, created_at)
select 'workflow', 'ready', 'bench', 'noop', t.id, clock_timestamp(), clock_timestamp() from t
"""


_ADOPT = (
    "insert into floor.jobs (id, key, entity, queue, topic, created_at, updated_at)"
    " select %(sign)s * id, left(%(sign)s::text, 1) || substr(key, 2), entity, queue, topic,"
    " created_at, updated_at from {}.jobs where id = any (%(ids)s)",
    "insert into floor.jobs_attributes (job_id, field, value, created_at, updated_at)"
    " select %(sign)s * job_id, field, value, created_at, updated_at"
    " from {}.jobs_attributes where job_id = any (%(ids)s)",
)


@dataclass
class Commit:
    """What one commit writes: journal rows, and jobs that are moved or closed."""

    rows: list[tuple[int, str, Any, int | None]]
    moved: list[tuple[int, int, bool]]


class Floor:
    """Look-alike tables of one app, and a connection that writes them."""

    def __init__(self, world: World, app: str) -> None:
        self._world = world
        self._app = app
        self._conn = world.connect()
        self._conn.execute("drop schema if exists floor cascade")
        self._conn.execute("create schema floor")
        for table in ("jobs", "jobs_attributes", "streams"):
            self._copy(table)
        self._conn.close()

    def _copy(self, table: str) -> None:
        name = sql.Identifier(table)
        self._conn.execute(
            sql.SQL(
                "create table floor.{} (like {}.{} including defaults including indexes including storage)"
            ).format(name, sql.Identifier(self._app), name)
        )
        row = self._conn.execute(
            "select array_to_string(reloptions, ', ') from pg_class where oid = %s::regclass",
            [f"{self._app}.{table}"],
        ).fetchone()
        if row and row[0]:
            self._conn.execute(
                sql.SQL("alter table floor.{} set ({})").format(name, sql.SQL(row[0]))
            )

    def adopt(self, ids: Sequence[int]) -> list[int]:
        """Copy jobs that were just started, with their inputs; and once more, under the ids returned."""
        with self._world.connect() as conn:
            for sign in (1, -1):
                for statement in _ADOPT:
                    query = sql.SQL(statement).format(sql.Identifier(self._app))
                    conn.execute(query, {"sign": sign, "ids": list(ids)})
        return [-id for id in ids]

    def write(self, commits: Iterable[Commit]) -> tuple[float, int]:
        """Seconds and number of commits."""
        with self._world.connect() as conn:
            for _ in range(4):
                conn.execute(_WRITE, [[], [], [], [], [], [], []])  # prepared, as the driver's
            count, began = 0, time.perf_counter()
            for commit in commits:
                _write(conn, commit)
                count += 1
            return time.perf_counter() - began, count

    def start(self, count: int, batch: int) -> float:
        """Seconds to start jobs: the job, its input, its message."""
        with self._world.connect() as conn:
            for _ in range(4):
                conn.execute(_START, [[]])
            began = time.perf_counter()
            for _ in range(count // batch):
                conn.execute(_START, [[json.dumps([PAYLOAD]) for _ in range(batch)]])
            return time.perf_counter() - began

    def bytes_left(self, ids: Sequence[int]) -> tuple[int, int]:
        """The size of the rows of these jobs, ours and the floor's."""
        query = (
            "select (select sum(pg_column_size(j.*)) from {0}.jobs j where j.id = any (%(ids)s))"
            " + (select sum(pg_column_size(a.*)) from {0}.jobs_attributes a"
            " where a.job_id = any (%(ids)s))"
        )
        with self._world.connect() as conn:
            sizes = [
                conn.execute(
                    sql.SQL(query).format(sql.Identifier(schema)), {"ids": list(ids)}
                ).fetchone()
                for schema in (self._app, "floor")
            ]
        return tuple(int(row[0]) if row else 0 for row in sizes)  # type: ignore[return-value]


def _write(conn: psycopg.Connection[Any], commit: Commit) -> None:
    """One statement, one round trip, one commit."""
    ids, fields, values, sequences = ([row[n] for row in commit.rows] for n in range(4))
    moved, steps, closes = ([row[n] for row in commit.moved] for n in range(3))
    texts = [json.dumps(value) for value in values]
    conn.execute(_WRITE, [ids, fields, texts, sequences, moved, steps, closes])


def _step(job: int, number: int) -> tuple[int, str, Any, int | None]:
    return job, f"step-{number:04}", PAYLOAD, number


def _output(job: int) -> tuple[int, str, Any, int | None]:
    return job, "output", PAYLOAD, None


def _batches(items: Sequence[int], size: int) -> Iterator[list[int]]:
    walk = iter(items)
    while batch := list(islice(walk, size)):
        yield batch


def step_by_step(jobs: Sequence[int], steps: int, batch: int) -> Iterator[Commit]:
    """Each step of `batch` jobs in one commit that also moves the jobs; one more settles them."""
    for some in _batches(jobs, batch):
        for number in range(1, steps + 1):
            yield Commit([_step(job, number) for job in some], [(job, 1, False) for job in some])
        yield Commit([_output(job) for job in some], [(job, 0, True) for job in some])


def all_at_once(jobs: Sequence[int], steps: int, batch: int) -> Iterator[Commit]:
    """Only the rows that stay, `batch` journal rows a commit, each job written once: no engine at all."""
    for some in _batches(jobs, max(1, batch // max(steps, 1))):
        rows = [_step(job, number) for job in some for number in range(1, steps + 1)]
        rows += [_output(job) for job in some]
        yield Commit(rows, [(job, steps, True) for job in some])


def in_commits(job: int, steps: int, commits: int) -> Iterator[Commit]:
    """The steps of one job, spread evenly over a number of commits; the last settles it."""
    size = -(-steps // max(1, commits))
    for numbers in _batches(range(1, steps + 1), size):
        last = numbers[-1] == steps
        rows = [_step(job, number) for number in numbers] + ([_output(job)] if last else [])
        yield Commit(rows, [(job, len(numbers), last)])
