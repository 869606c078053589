"""Functions of SQL in graphs: not in a turn, which others share, but in a transaction of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from hotmesh import HotMesh, _functions
from support.flows import APP, wait_for

pytestmark = pytest.mark.asyncio

TABLE = """
create table public.stock (n int);
insert into public.stock values (5);
grant all on public.stock to public;
create function public.take(data jsonb) returns jsonb language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare v int;
begin
    if data ? 'sleep' then
        perform pg_sleep((data ->> 'sleep')::float8);
    end if;
    update public.stock set n = n - (data ->> 'n')::int returning n into v;
    return jsonb_build_object(
        'left', v, 'bound', current_setting('statement_timeout'),
        'turning', current_setting('hotmesh.turning', true));
end $$"""
TAKES = """
subscribes: takes
activities:
  t: {type: trigger}
  w: {type: worker, topic: pick}
  s: {type: sql, function: public.take, input: {maps: {n: '{t.output.data.n}',
        sleep: '{t.output.data.sleep}'}},
      job: {maps: {left: '{s.output.data.left}', bound: '{s.output.data.bound}',
        turning: '{s.output.data.turning}'}}}
  bad: {type: hook, job: {maps: {state: '{s.output.data.sqlstate}',
        code: '{s.output.data.code}'}}}
transitions:
  t: [{to: w}]
  w: [{to: s}]
  s: [{to: bad, conditions: {code: [596, 598]}}]
"""


@pytest.fixture
async def mesh(dsn: str, db: psycopg.Connection) -> AsyncIterator[HotMesh]:
    """One that serves the worker of the graph."""

    async def pick(message: dict[str, Any]) -> Any:
        return {"data": {}}

    db.execute(TABLE)
    workers: Any = [{"topic": "pick", "callback": pick}]
    async with await HotMesh.init(app_id=APP, connection=dsn, workers=workers) as made:
        await made.activate((await made.deploy(TAKES))["version"])
        seen = "select from my_app.workers where '@sql' = any (queues)"
        await wait_for(lambda: db.execute(seen).rowcount == 1)
        yield made


async def test_a_function_is_called_in_a_transaction_of_its_own_for_a_bounded_time(
    mesh: HotMesh, db: psycopg.Connection
) -> None:
    found = await mesh.pubsub("takes", {"n": 2}, timeout=10)
    assert found["data"]["left"] == 3
    assert found["data"]["bound"] == "30s"
    assert not found["data"].get("turning")
    assert db.execute("select count(*) from my_app.streams").fetchone() == (0,)


async def test_what_a_function_refuses_goes_the_way_of_its_error(mesh: HotMesh) -> None:
    found = await mesh.pubsub("takes", {"n": "x"}, timeout=10)
    assert found["data"] == {"state": "22P02", "code": 598}


async def test_a_function_that_takes_too_long_is_ended_and_its_writes_with_it(
    mesh: HotMesh, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_functions, "BOUNDED", "set local statement_timeout = '200ms'")
    found = await mesh.pubsub("takes", {"n": 1, "sleep": 60}, timeout=10)
    assert found["data"] == {"state": "57014", "code": 596}
    assert db.execute("select n from public.stock").fetchone() == (5,)


async def _done(mesh: HotMesh, key: str) -> None:
    while await mesh.get_status(key) != 0:
        await asyncio.sleep(0.01)


def _waits(db: psycopg.Connection) -> bool:
    waiting = "select from pg_locks where not granted"
    return db.execute(waiting).rowcount > 0


async def test_a_function_that_waits_for_a_lock_holds_up_nobody_else(
    mesh: HotMesh, db: psycopg.Connection
) -> None:
    with db.transaction():
        db.execute("update public.stock set n = 50")
        slow = await mesh.pub("takes", {"n": 1})
        await wait_for(lambda: _waits(db))
        for _ in range(5):  # others come and go, up to the same function
            other = await mesh.pub("takes", {"n": "x"})
            await asyncio.wait_for(_done(mesh, other), 10)
        assert await mesh.get_status(slow) > 0
    await asyncio.wait_for(_done(mesh, slow), 10)
    assert (await mesh.get_state("takes", slow))["data"]["left"] == 49


async def test_a_roll_call_does_not_show_it(mesh: HotMesh) -> None:
    assert {one.get("worker_topic") for one in await mesh.roll_call()} == {None, "pick"}


async def test_only_a_message_that_was_claimed_makes_a_call(
    mesh: HotMesh, db: psycopg.Connection
) -> None:
    with pytest.raises(psycopg.DataError, match="that is no call of a function"):
        db.execute("select hotmesh.graph_call(%s, 1, 1)", [APP])
