"""A HotMesh waits: late answers, subscribers, signals; and what its jobs tell meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hotmesh.errors import (
    InvalidArgumentError,
    JobInterruptedError,
    JobNotFoundError,
    TimedOutError,
    TopicNotFoundError,
)
from support.echo import ECHO, HOOK, Open, double
from support.flows import wait_for

pytestmark = pytest.mark.asyncio


async def test_who_waited_in_vain_is_told_and_the_job_goes_on(mesh: Open) -> None:
    gate = asyncio.Event()

    async def slow(message: Any) -> Any:
        await gate.wait()
        return {"data": {"answer": 1}}

    hot = await mesh(("work", slow), deploy=ECHO)
    with pytest.raises(TimedOutError) as raised:
        await hot.pubsub("echo", timeout=0.05, job_id="late")
    assert (raised.value.code, raised.value.job_id) == (504, "late")
    assert await hot.get_status("late") > 0
    gate.set()
    while await hot.get_status("late"):
        await asyncio.sleep(0.005)
    assert (await hot.get_state("echo", "late"))["data"] == {"answer": 1}


async def test_a_pending_answer_is_completed_later(mesh: Open) -> None:
    told: list[Any] = []

    async def pend(message: Any) -> Any:
        told.append(message["metadata"])
        return {"status": "pending", "code": 202, "data": {}}

    hot = await mesh(("work", pend), deploy=ECHO)
    await hot.pub("echo", job_id="p")
    await wait_for(lambda: told)
    [about] = told
    late = {"metadata": about, "status": "success", "data": {"answer": 5}}
    while await hot.add(late) != "ok":
        await asyncio.sleep(0.005)
    while await hot.get_status("p"):
        await asyncio.sleep(0.005)
    assert (await hot.get_state("echo", "p"))["data"]["answer"] == 5
    assert await hot.add({"metadata": about, "data": {"answer": 6}}) == "stale"


@pytest.mark.parametrize(
    "response", [None, {}, {"metadata": 1}, {"metadata": {}, "status": "done"}, "x"]
)
async def test_what_is_no_response_is_refused(mesh: Open, response: Any) -> None:
    hot = await mesh()
    with pytest.raises(InvalidArgumentError):
        await hot.add(response)


async def test_subscribers_hear_of_all_jobs_or_of_one(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    heard: list[tuple[str, str, Any]] = []

    def listen(name: str) -> Any:
        return lambda topic, message: heard.append((name, topic, message))

    await hot.sub("echo.done", listen("all"))
    await hot.sub("echo.done.b", listen("one"))
    for key, n in (("a", 1), ("b", 2)):
        await hot.pubsub("echo", {"n": n}, job_id=key)
    await wait_for(lambda: len(heard) == 3)
    by_name = {(name, message["metadata"]["jid"]): (topic, message["data"]["answer"])
               for name, topic, message in heard}  # fmt: skip
    assert by_name == {
        ("all", "a"): ("echo.done", 2),
        ("all", "b"): ("echo.done", 4),
        ("one", "b"): ("echo.done", 4),
    }
    await hot.unsub("echo.done")
    await hot.pubsub("echo", {"n": 3}, job_id="c")
    await hot.sub("echo.done.d", listen("one"))
    await hot.pubsub("echo", {"n": 4}, job_id="d")
    await wait_for(lambda: len(heard) == 4)
    assert heard[-1][0] == "one"


async def test_a_signal_wakes_the_job_that_it_is_for(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=HOOK)
    first, second = await hot.pub("ask"), await hot.pub("ask")
    await hot.signal("ask.approved", {"id": second, "by": "ann"})
    while await hot.get_status(second):
        await asyncio.sleep(0.005)
    assert (await hot.get_state("ask", second))["data"] == {"by": "ann"}
    assert await hot.get_status(first) > 0


async def test_nobody_waits_at_an_unknown_topic(mesh: Open) -> None:
    hot = await mesh(deploy=HOOK)
    with pytest.raises(TopicNotFoundError):
        await hot.signal("ask.refused", {"id": "x"})
    with pytest.raises(TopicNotFoundError):
        await hot.pub("tell")
    with pytest.raises(TopicNotFoundError):
        await hot.pubsub("tell")


COUNTED = """
subscribes: sold
activities:
  t:
    type: trigger
    stats:
      key: '{t.output.data.shop}'
      granularity: 5m
      measures:
        - {measure: count, target: '{t.output.data.color}'}
        - {measure: sum, target: '{t.output.data.price}'}
        - {measure: index, target: '{t.output.data.color}'}
  h: {type: hook, job: {maps: {heard: '{$self.hook.data.word}'}}}
transitions:
  t: [{to: h}]
hooks:
  sold.back:
    - to: h
      conditions: {match: [{expected: '{$job.metadata.jid}', actual: '{$self.hook.data.id}'}]}
"""


async def test_jobs_are_counted_found_and_told_by_facets(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=COUNTED)
    for number, color in enumerate(("red", "blue", "red")):
        data = {"shop": "a", "color": color, "price": 10 * (number + 1)}
        await hot.pub("sold", data, job_id=f"{color}{number}")
    query = {"data": {"shop": "a"}, "range": "1h", "end": "NOW"}
    stats = await hot.get_stats("sold", query)
    assert stats["count"] == 3
    assert {one["value"] for one in stats["measures"] if one["type"] == "sum"} == {60}
    assert (await hot.get_stats("sold", {"data": {"shop": "b"}}))["count"] == 0
    found = await hot.get_ids("sold", query, ["color:red"])
    assert found["counts"] == [{"facet": "color:red", "count": 2}]
    assert await hot.signal_all("sold.back", {"word": "ok"}, query, ["color:red"]) == 2
    for key in ("red0", "red2"):
        while await hot.get_status(key):
            await asyncio.sleep(0.005)
        assert (await hot.get_state("sold", key))["data"] == {"heard": "ok"}
    assert await hot.get_status("blue1") > 0
    for wrong in ("color:red", [5], [""]):
        with pytest.raises(InvalidArgumentError):
            await hot.get_ids("sold", query, wrong)
    with pytest.raises(InvalidArgumentError):
        await hot.get_stats("sold", {"range": "soon"})
    with pytest.raises(TopicNotFoundError):
        await hot.signal_all("sold.out", {})


async def test_an_interrupted_job_says_so(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=HOOK)
    waiting = asyncio.create_task(hot.pubsub("ask", job_id="i"))
    while True:
        try:
            await hot.interrupt("ask", "i", reason="enough", code=499)
            break
        except JobNotFoundError:
            await asyncio.sleep(0.005)
    with pytest.raises(JobInterruptedError, match="enough"):
        await waiting
    assert await hot.get_status("i") < 0
    with pytest.raises(InvalidArgumentError):
        await hot.interrupt("ask", "i", because="x")
