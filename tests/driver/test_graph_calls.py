"""Graphs and workflows in code call each other."""

from __future__ import annotations

from typing import Any

from hotmesh import workflow
from hotmesh.errors import JobFailedError, TopicNotFoundError
from support.flows import House
from support.graphs import Graphs

CODE = """
subscribes: doubles
activities:
  t: {type: trigger}
  a: {type: await, workflow: double, task_queue: orders,
      input: {maps: {n: '{t.output.data.n}'}}, job: {maps: {r: '{a.output.data}'}}}
transitions: {t: [{to: a}]}
"""
GRAPH = """
subscribes: adds
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {r: {'@pipe': [['{t.output.data.n}', 1], ['{@math.add}']]}}}}
  i: {type: interrupt, reason: too much}
transitions:
  t:
    - to: h
    - {to: i, conditions: {match: [{expected: 13, actual: '{t.output.data.n}'}]}}
"""


async def double(data: dict[str, int]) -> int:
    return 2 * data["n"]


async def test_a_graph_awaits_a_workflow_in_code(house: House) -> None:
    graphs = Graphs(house.db)
    graphs.deploy(CODE)
    await house.worker(double)
    key = graphs.pub("doubles", {"n": 21})
    handle = house.client.workflow.get_handle("orders", "doubles", key)
    assert await handle.result(timeout=20) == {"r": 42}


async def test_code_executes_a_graph_as_its_child(house: House) -> None:
    async def parent(n: int) -> list[Any]:
        child = await workflow.start_child("adds", args=[{"n": n}], workflow_id="kid")
        return [
            await child.result(),
            await workflow.exec_child("adds", args=[{"n": n + 1}]),
        ]

    Graphs(house.db).deploy(GRAPH)
    await house.worker(parent)
    assert await house.run(parent, 1) == [{"r": 2}, {"r": 3}]
    assert house.one("select count(*) from my_app.jobs where graph_version = '1'") == 2


async def test_a_child_of_a_graph_that_is_not_active_is_refused(house: House) -> None:
    async def parent() -> str:
        try:
            await workflow.exec_child("adds", args=[{"n": 1}])
        except TopicNotFoundError as error:
            return f"{error} {error.hint}"
        return "nothing was raised"

    Graphs(house.db).check(GRAPH)
    await house.worker(parent)
    assert await house.run(parent) == (
        'no graph answers topic "adds" It was deployed; activate its version.'
    )


async def test_a_graph_that_fails_raises_in_the_code_that_awaits_it(house: House) -> None:
    async def parent() -> str:
        try:
            await workflow.exec_child("adds", args=[{"n": 13}])
        except JobFailedError as error:
            return str(error)
        return "nothing was raised"

    Graphs(house.db).deploy(GRAPH)
    await house.worker(parent)
    assert "too much" in await house.run(parent)
