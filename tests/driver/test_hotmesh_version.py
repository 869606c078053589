"""Versions of a HotMesh's graphs: deployed, refused, explained, and following each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hotmesh.errors import (
    GraphError,
    GraphVersionError,
    InvalidArgumentError,
    JobNotFoundError,
    JobOpenError,
    TopicNotFoundError,
)
from support.echo import ECHO, HOOK, Open, double

pytestmark = pytest.mark.asyncio


async def test_a_version_that_was_not_deployed_cannot_be_active(mesh: Open) -> None:
    hot = await mesh()
    with pytest.raises(GraphVersionError):
        await hot.activate("7")
    with pytest.raises(InvalidArgumentError):
        await hot.activate("")


async def test_a_file_is_deployed_and_shown(mesh: Open, tmp_path: Path) -> None:
    (tmp_path / "echo.yaml").write_text(ECHO)
    hot = await mesh()
    found = await hot.deploy(tmp_path / "echo.yaml")
    assert (found["version"], found["active"], found["changed"]) == ("1", False, True)
    assert await hot.activate("1") is True
    assert (await hot.deploy(str(tmp_path / "echo.yaml")))["changed"] is False
    [row] = await hot.graphs()
    assert (row.version, row.topic, row.publishes, row.state) == (
        "1",
        "echo",
        "echo.done",
        "active",
    )


async def test_every_fault_of_a_short_graph_has_its_line(mesh: Open) -> None:
    hot = await mesh()
    with pytest.raises(GraphError) as raised:
        await hot.deploy("""
activities:
  t: {type: trigger}
  w: {type: wroker}
transitions:
  t:
    - to: w
    - to: x
""")
    found = [(fault["line"], fault["path"]) for fault in raised.value.faults]
    assert sorted(found) == [(4, "activities.w.type"), (8, "transitions.t[1].to")]


async def test_a_graph_gets_its_topic_from_its_document_or_as_it_is_deployed(mesh: Open) -> None:
    hot = await mesh()
    bare = {"activities": {"t": {"type": "trigger"}}}
    await hot.deploy(bare, subscribes="named")
    await hot.activate("1")
    assert (await hot.pubsub("named"))["metadata"]["tpc"] == "named"
    with pytest.raises(TopicNotFoundError):
        await hot.pub("any")
    await hot.deploy(bare)
    await hot.activate("1")
    assert (await hot.pubsub("any"))["metadata"]["tpc"] == "any"
    with pytest.raises(InvalidArgumentError):
        await hot.deploy(bare, subscribes="")


async def test_a_graph_is_explained_and_drawn(mesh: Open) -> None:
    hot = await mesh(deploy=ECHO)
    assert "2 w: worker work" in await hot.explain("echo")
    assert (await hot.explain("echo", "mermaid")).startswith("flowchart TD\n")
    with pytest.raises(InvalidArgumentError):
        await hot.explain("echo", "svg")
    with pytest.raises(TopicNotFoundError):
        await hot.explain("nobody")


async def test_a_job_is_found_under_its_own_topic_only(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    job_id = (await hot.pubsub("echo", {"n": 1}))["metadata"]["jid"]
    assert (await hot.get_state("echo", job_id))["metadata"]["tpc"] == "echo"
    with pytest.raises(JobNotFoundError, match='topic "other" has no job') as caught:
        await hot.get_state("other", job_id)
    assert caught.value.job_id == job_id
    assert '"echo"' in (caught.value.detail or "")


async def test_a_job_that_was_scrubbed_was_never_there(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    job_id = (await hot.pubsub("echo", {"n": 1}))["metadata"]["jid"]
    await hot.scrub(job_id)
    for look in (hot.get_status, hot.export, hot.scrub, lambda id: hot.get_state("echo", id)):
        with pytest.raises(JobNotFoundError):
            await look(job_id)
    await hot.deploy(HOOK)
    await hot.activate("1")
    open_one = await hot.pub("ask")
    with pytest.raises(JobOpenError):
        await hot.scrub(open_one)


async def test_an_interrupt_without_an_error_ends_the_waiting(mesh: Open) -> None:
    hot = await mesh(deploy=HOOK)
    waiting = asyncio.create_task(hot.pubsub("ask", job_id="i"))
    while True:
        try:
            await hot.interrupt("ask", "i", throw=False)
            break
        except JobNotFoundError:
            await asyncio.sleep(0.005)
    assert (await waiting)["data"] == {}


async def test_topics_may_be_served_from_another_place(mesh: Open, dsn: str) -> None:
    other = {"topic": "work", "callback": double, "connection": f"{dsn} application_name=other"}
    hot = await mesh(other, ("else", double), deploy=ECHO)
    assert (await hot.pubsub("echo", {"n": 1}))["data"]["answer"] == 2
    same = {"topic": "work", "callback": double, "connection": dsn}
    assert len((await mesh(same, ("else", double)))._workers) == 1
    assert len(hot._workers) == 2


async def test_a_broken_file_changes_nothing(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    with pytest.raises(GraphError) as raised:
        await hot.deploy("subscribes: echo\nactivities: {t: {type: trigger}\n")
    assert raised.value.faults[0]["line"] == 3
    assert (await hot.pubsub("echo", {"n": 1}))["data"]["answer"] == 2


async def test_nine_versions_follow_each_other_on_a_live_system(mesh: Open) -> None:
    text = """
app:
  id: my-app
  version: '{0}'
  graphs:
    - subscribes: count
      activities:
        t: {{type: trigger}}
        w: {{type: worker, topic: work, job: {{maps: {{version: {0}, answer: '{{w.output.data.answer}}'}}}}}}
      transitions: {{t: [{{to: w}}]}}
"""
    gate = asyncio.Event()

    async def slow(message: Any) -> Any:
        await gate.wait()
        return {"data": {"answer": message["data"]["n"]}}

    hot = await mesh(("work", slow))
    waiting = []
    for version in range(1, 10):
        await hot.deploy(text.format(version))
        await hot.activate(version)
        for n in range(3):
            key = await hot.pub("count", {"n": version}, job_id=f"v{version}-{n}")
            waiting.append(hot.get_state("count", key))
    gate.set()
    for version in range(1, 10):
        for n in range(3):
            while await hot.get_status(f"v{version}-{n}"):
                await asyncio.sleep(0.005)
    answers = [state["data"] for state in await asyncio.gather(*waiting)]
    assert answers == [{"version": n, "answer": n} for n in range(1, 10) for _ in range(3)]
    with pytest.raises(GraphVersionError):
        await hot.deploy(text.format(3))
