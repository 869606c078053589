"""The connections of transactional activities: kept for the next one, and clean when it comes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from hotmesh import _lent, activity, workflow
from support.flows import FAST, House, wait_for

here = workflow.proxy_activities(task_queue="orders", retry_policy=FAST)

SERVED = (
    "select count(*) from pg_stat_activity where datname = current_database()"
    " and application_name = 'hotmesh' and query like 'close all%'"
)
SPOIL = (
    "set work_mem = '1MB'; set role none; set search_path = public; create temp table mine (a int);"
    " select pg_advisory_lock(7); listen news; prepare mine as select 1;"
    " declare mine cursor with hold for select 1"
)
LEFT = (
    "select count(*) from pg_class where relname = 'mine'",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "select count(*) from pg_listening_channels()",
    "select count(*) from pg_cursors where name = 'mine'",
    "select count(*) from pg_prepared_statements where name = 'mine'",
    "select count(*) from pg_settings where source = 'session' and name ~ 'work_mem|search_path'",
)


async def calls(name: str) -> Any:
    return await getattr(here, name)()


async def served(house: House, *activities: Any) -> list[Any]:
    """What these activities answer, one after the other, on one worker."""
    await house.worker(calls, activities=list(activities))
    return [await house.run(calls, activity.__name__) for activity in activities]


async def test_the_next_activity_gets_the_same_line_and_nothing_of_the_last(house: House) -> None:
    async def spoils() -> int:
        conn = await activity.transaction()
        conn.row_factory = dict_row
        await conn.execute(SPOIL, prepare=False)
        return int(conn.info.backend_pid)

    async def looks() -> list[int]:
        conn = await activity.transaction()
        left = [await (await conn.execute(query)).fetchone() for query in LEFT]
        return [conn.info.backend_pid, *(count for (count,) in left)]

    spoiled, (pid, *left) = await served(house, spoils, looks)
    assert pid == spoiled
    assert left == [0] * len(LEFT)


async def test_the_same_in_threads(house: House) -> None:
    def spoils() -> int:
        conn = activity.transaction()
        conn.row_factory = dict_row
        conn.execute(SPOIL, prepare=False)
        return int(conn.info.backend_pid)

    def looks() -> list[int]:
        conn = activity.transaction()
        left = [conn.execute(query).fetchone() for query in LEFT]
        return [conn.info.backend_pid, *(count for (count,) in left)]

    spoiled, (pid, *left) = await served(house, spoils, looks)
    assert pid == spoiled
    assert left == [0] * len(LEFT)


async def test_whoever_holds_on_to_a_connection_writes_nothing_into_the_next_ones(
    house: House,
) -> None:
    stolen: list[Any] = []

    async def leaks() -> None:
        conn = await activity.transaction()
        stolen.extend([conn, conn.cursor()])

    def leaks_sync() -> None:
        conn = activity.transaction()
        stolen.extend([conn, conn.cursor()])

    async def next_one() -> list[str]:
        await activity.transaction()
        said = []
        for thing in stolen[:2]:
            with pytest.raises(psycopg.OperationalError) as caught:
                await thing.execute("select 1")
            said.append(str(caught.value))
        for thing in stolen[2:]:
            with pytest.raises(psycopg.OperationalError) as caught:
                thing.execute("select 1")
            said.append(str(caught.value))
        return said

    *_, said = await served(house, leaks, leaks_sync, next_one)
    assert all("closed" in text for text in said)
    assert stolen[0].closed
    assert stolen[2].closed


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_kept_line_that_died_costs_no_attempt(house: House, is_async: bool) -> None:
    attempts: list[int] = []

    async def counts() -> int:
        attempts.append(activity.context().attempt)
        return int((await activity.transaction()).info.backend_pid)

    def counts_sync() -> int:
        attempts.append(activity.context().attempt)
        return int(activity.transaction().info.backend_pid)

    served_one = counts if is_async else counts_sync
    await house.worker(calls, activities=[served_one])
    first = await house.run(calls, served_one.__name__)
    await wait_for(lambda: house.one(SERVED) == 1)
    house.one("select pg_terminate_backend(%s)", first)
    await wait_for(lambda: house.one(SERVED) == 0)
    assert await house.run(calls, served_one.__name__) != first
    assert attempts == [1, 1]


async def test_a_line_that_nobody_uses_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lent, "KEPT_SECONDS", 0.05)

    async def once() -> int:
        return int((await activity.transaction()).info.backend_pid)

    (pid,) = await served(house, once)
    await wait_for(lambda: not house.one("select 1 from pg_stat_activity where pid = %s", pid))


async def test_a_worker_that_ends_closes_its_lines(house: House) -> None:
    async def once() -> int:
        return int((await activity.transaction()).info.backend_pid)

    def once_sync() -> int:
        return int(activity.transaction().info.backend_pid)

    pids = await served(house, once, once_sync)
    await house.workers.pop().shutdown()
    open_ones = "select count(*) from pg_stat_activity where pid = any(%s)"
    await wait_for(lambda: house.one(open_ones, pids) == 0)
