"""Jobs that SQL serves, next to workflows in Python that start them and wait for them."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from hotmesh import workflow
from hotmesh.errors import JobFailedError
from support.flows import House, wait_for
from support.graphs import Graphs

CLAIM = "select id, token, args from hotmesh.stream_claim('my-app', 'mail', 'psql')"
GRAPH = """
subscribes: posts
activities:
  t: {type: trigger}
  a: {type: await, workflow: letter, task_queue: mail,
      input: {maps: {to: '{t.output.data.to}'}}, job: {maps: {sent: '{a.output.data.sent}'}}}
transitions: {t: [{to: a}]}
"""


async def claimed(house: House) -> tuple[Any, ...]:
    """What SQL takes of the queue `mail`: (id, token, args)."""
    return await wait_for(lambda: house.db.execute(CLAIM).fetchone(), what="a claim")


def complete(house: House, job: tuple[Any, ...], output: Any) -> None:
    text = "select hotmesh.stream_complete('my-app', %s, %s, %s)"
    assert house.one(text, *job[:2], Jsonb(output)) == "ok"


async def test_a_parent_in_python_gets_what_sql_answers(house: House) -> None:
    async def parent() -> list[Any]:
        sent = await workflow.exec_child("letter", args=["Ann"], task_queue="mail")
        try:
            await workflow.exec_child("letter", args=["Bob"], task_queue="mail")
        except JobFailedError as error:
            return [sent, error.type, str(error), error.code]
        return []

    await house.worker(parent)
    handle = await house.start(parent)
    first = await claimed(house)
    assert first[2] == ["Ann"]
    complete(house, first, {"sent": True})
    text = "select hotmesh.stream_fail('my-app', %s, %s, %s)"
    second = await claimed(house)
    error = Jsonb({"type": "NoStamp", "message": "no stamp"})
    assert house.one(text, *second[:2], error) == "ok"
    assert await handle.result(timeout=20) == [{"sent": True}, "NoStamp", "no stamp", 500]


async def test_a_failure_that_says_nothing_is_one_all_the_same(house: House) -> None:
    for given in ({}, {"message": 5, "type": 7, "code": "x"}, {"message": None}):
        handle = await house.start("letter", queue="mail")
        job = await claimed(house)
        text = "select hotmesh.stream_fail('my-app', %s, %s, %s)"
        assert house.one(text, *job[:2], Jsonb(given)) == "ok"
        with pytest.raises(JobFailedError) as caught:
            await handle.result(timeout=20)
        assert caught.value.code == 500


async def test_a_graph_goes_on_with_the_next_turn(house: House) -> None:
    graphs = Graphs(house.db)
    graphs.deploy(GRAPH)
    key = graphs.pub("posts", {"to": "Ann"})
    job = await claimed(house)
    assert job[2] == [{"to": "Ann"}]
    complete(house, job, {"sent": True})
    house.one("select count(*) from hotmesh.turn('my-app', 'clock', '[]', '{}')")
    assert house.one("select hotmesh.job_result('my-app', %s)", key) == {"sent": True}


async def test_code_that_comes_takes_what_is_not_held(house: House) -> None:
    async def letter(to: str) -> str:
        return f"{to}, by code"

    first = await house.start("letter", "Ann", queue="mail")
    job = await claimed(house)
    second = await house.start("letter", "Bob", queue="mail")
    await house.worker(letter, queue="mail")
    assert await second.result(timeout=20) == "Bob, by code"
    complete(house, job, "by hand")
    assert await first.result(timeout=20) == "by hand"
