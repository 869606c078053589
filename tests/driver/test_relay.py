"""A worker of graphs that reports one half of what it has done while it does the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from hotmesh import HotMesh
from hotmesh.errors import ConnectionLostError
from support.crash import terminate_backends
from support.flows import wait_for
from support.meshes import Mesh, Turn, Watched

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
BOTH = """
subscribes: both
activities:
  t: {type: trigger}
  a: {type: worker, topic: a}
  b: {type: worker, topic: b}
  c: {type: worker, topic: c}
transitions:
  t: [{to: a}, {to: b}]
  a: [{to: c}]
"""
JOBS = 150
SLOTS = 40


@pytest.fixture
async def mesh(dsn: str) -> AsyncIterator[Mesh]:
    made = Mesh()
    await made.open(dsn, TWO, "ab", SLOTS)
    yield made
    await HotMesh.stop()


def each_once(mesh: Mesh, db: psycopg.Connection[Any], keys: list[str]) -> None:
    """Every job was asked for each topic once, and has each activity once."""
    assert mesh.asked == Counter({(topic, key): 1 for topic in "ab" for key in keys})
    odd = db.execute(
        "select j.key, j.status, n.names from my_app.jobs j, lateral ("
        " select array_agg(a.name || ':' || a.state order by a.name) as names"
        " from my_app.jobs_attributes a where a.job_id = j.id and a.sequence is not null) n"
        " where j.status <> 0 or n.names <> '{a:done,b:done,t:done}'"
    ).fetchall()
    assert odd == []
    assert db.execute("select from my_app.streams").rowcount == 0


async def test_what_is_not_reported_yet_keeps_its_slot(mesh: Mesh) -> None:
    watched, held = Watched(mesh), []

    async def after(turn: Turn) -> None:
        held.append(len(mesh.pump._claimed.running) - len(turn.reports) + turn.given)

    watched.after = after  # type: ignore[method-assign]
    await mesh.done(mesh.start("two", JOBS))
    assert set(mesh.asked.values()) == {1}
    assert len(mesh.asked) == 2 * JOBS
    assert max(len(turn.reports) for turn in watched.turns) <= SLOTS // 2
    assert max(held) <= SLOTS


async def test_one_half_is_reported_while_the_other_is_on_its_way(
    mesh: Mesh, db: psycopg.Connection[Any]
) -> None:
    watched = Watched(mesh)
    keys = mesh.start("two", JOBS)
    await mesh.done(keys)
    assert watched.most == 2
    assert all(turn.reports for turn in watched.turns if turn.beside)
    each_once(mesh, db, keys)


async def test_few_answers_make_no_second_turn(mesh: Mesh) -> None:
    watched = Watched(mesh)
    await mesh.done(mesh.start("two", 10))
    assert watched.most == 1


async def test_no_job_is_in_two_turns_at_a_time(dsn: str) -> None:
    mesh = Mesh()
    await mesh.open(dsn, BOTH, "abc", SLOTS)
    watched = Watched(mesh)
    jobs: dict[int, str] = {}

    async def before(turn: Turn) -> None:
        running = mesh.pump._claimed.running
        for report in turn.reports:
            jobs[report["id"]] = str(running[report["id"]].context.workflow_id)
        told = [{jobs[report["id"]] for report in each.reports} for each in watched.under_way]
        assert sum(map(len, told)) == len(set().union(*told))

    watched.before = before  # type: ignore[method-assign]
    try:
        await mesh.done(mesh.start("both", JOBS))
    finally:
        await HotMesh.stop()
    assert watched.most == 2
    assert len(mesh.asked) == 3 * JOBS
    assert set(mesh.asked.values()) == {1}


@pytest.mark.parametrize("beside", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("sent", [False, True], ids=["on_its_way", "on_the_way_back"])
async def test_a_turn_that_is_lost_beside_another_costs_nobody_anything(
    mesh: Mesh, db: psycopg.Connection[Any], beside: bool, sent: bool
) -> None:
    """The other one is answered late, when the lost one has long been noticed."""
    watched, lost, late = Watched(mesh), [], []

    async def lose(turn: Turn) -> None:
        if len(watched.under_way) == 2 and turn.beside is beside and len(lost) < 3:
            lost.append(turn)
            raise ConnectionLostError("the connection is lost")

    async def after(turn: Turn) -> None:
        if sent:
            await lose(turn)
        if len(watched.under_way) == 2 and turn.beside is not beside and len(late) < 3:
            late.append(turn)
            await wait_for(lambda: len(watched.under_way) == 1)
            await asyncio.sleep(0.1)  # time enough for a turn that should wait

    watched.after = after  # type: ignore[method-assign]
    if not sent:
        watched.before = lose  # type: ignore[method-assign]
    keys = mesh.start("two", JOBS)
    await mesh.done(keys)
    assert len(lost) == 3
    each_once(mesh, db, keys)


async def test_connections_that_are_ended_again_and_again_cost_nobody_anything(
    mesh: Mesh, db: psycopg.Connection[Any], admin: psycopg.Connection[Any], dbname: str
) -> None:
    watched = Watched(mesh)
    keys = mesh.start("two", 4 * JOBS)
    for _ in range(4):
        done = len(mesh.asked)
        await wait_for(lambda done=done: len(mesh.asked) > done + 50)  # type: ignore[misc]
        await wait_for(lambda: len(watched.under_way) == 2 or len(mesh.asked) == 8 * JOBS)
        terminate_backends(admin, dbname, ["hotmesh"])
    await mesh.done(keys)
    assert watched.most == 2
    each_once(mesh, db, keys)


@pytest.mark.parametrize("grace", ["10s", "0s"], ids=["in_peace", "at_once"])
async def test_a_worker_that_stops_in_the_middle_leaves_the_rest_to_the_next(
    mesh: Mesh, dsn: str, db: psycopg.Connection[Any], grace: str
) -> None:
    watched = Watched(mesh)
    keys = mesh.start("two", JOBS)
    await wait_for(lambda: len(watched.under_way) == 2)
    await mesh.worker.shutdown(grace)
    assert not mesh.pump._turns.second or mesh.pump._turns.second.done()
    assert db.execute("select from my_app.streams where state = 'leased'").rowcount == 0
    assert len(mesh.asked) < 2 * JOBS, "it was too fast to be stopped in the middle"
    other = Mesh(mesh.asked)
    await other.open(dsn, TWO, "ab", SLOTS)
    await other.done(keys)
    if grace == "0s":  # what was done and not reported is done again
        mesh.asked = Counter(dict.fromkeys(mesh.asked, 1))
    each_once(mesh, db, keys)


async def test_a_pool_of_one_connection_is_enough(dsn: str, db: psycopg.Connection[Any]) -> None:
    async with AsyncConnectionPool(
        dsn, min_size=1, max_size=1, kwargs={"autocommit": True}, open=False
    ) as pool:
        mesh = Mesh()
        await mesh.open(dsn, TWO, "ab", SLOTS, pool)
        keys = mesh.start("two", JOBS)
        await mesh.done(keys)
        await HotMesh.stop()
    each_once(mesh, db, keys)


async def test_jobs_go_on_when_answers_of_turns_are_lost(mesh: Mesh) -> None:
    watched, lost = Watched(mesh), []

    async def lose(turn: Turn) -> None:
        if turn.reports and len(lost) < 3:
            lost.append(turn)
            raise ConnectionLostError("the answer was lost")

    watched.after = lose  # type: ignore[method-assign]
    keys = [await mesh.mesh.pub("two", {}) for _ in range(10)]
    await mesh.done(keys)
    assert len(lost) == 3
    assert {key for _, key in mesh.asked} == set(keys)
