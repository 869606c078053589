"""The HotMesh object: graphs from Python, with workers that answer, late or wrongly or never."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from hotmesh import HotMesh, SyncHotMesh, activity
from hotmesh.errors import (
    DuplicateJobError,
    GraphError,
    InvalidArgumentError,
    JobFailedError,
    JobNotFoundError,
)
from support.echo import ECHO, HOOK, Open, double
from support.flows import APP, wait_for

pytestmark = pytest.mark.asyncio

# --- running --------------------------------------------------------------------------------------


async def test_a_job_runs_and_its_data_comes_back(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    output = await hot.pubsub("echo", {"n": 21})
    assert output["data"]["answer"] == 42
    assert output["metadata"]["tpc"] == "echo"
    assert output["metadata"]["app"] == APP
    assert await hot.get_status(output["metadata"]["jid"]) == 0


async def test_a_worker_that_sleeps_is_woken_by_a_start(mesh: Open, db: psycopg.Connection) -> None:
    """Without that it would look by itself, after two seconds."""
    hot = await mesh(("work", double), deploy=ECHO)
    idle = "select from my_app.workers where idle_at is not null"
    await wait_for(lambda: db.execute(idle).rowcount == 1, what="a worker that sleeps")
    began = asyncio.get_running_loop().time()
    assert (await hot.pubsub("echo", {"n": 21}))["data"]["answer"] == 42
    assert asyncio.get_running_loop().time() - began < 1.0


async def test_a_callback_is_told_who_asks(mesh: Open) -> None:
    told: list[Any] = []

    async def answer(message: dict[str, Any]) -> Any:
        told.append(message)
        return {"data": {"answer": 1}}

    hot = await mesh(("work", answer), deploy=ECHO)
    job_id = await hot.pub("echo", {"n": 1}, job_id="job-1")
    await wait_for(lambda: told)
    [message] = told
    assert set(message) == {"data", "metadata"}
    assert message["data"] == {"n": 1}
    about = message["metadata"]
    assert (job_id, about["jid"], about["aid"], about["topic"]) == ("job-1", "job-1", "w", "work")
    assert (about["app"], about["dad"], about["try"]) == (APP, ",0,0", 0)
    assert {"gid", "guid"} <= about.keys()


@pytest.mark.parametrize("kind", ["async", "thread", "partial", "object", "lambda"])
async def test_a_callback_may_be_any_function(mesh: Open, kind: str) -> None:
    import functools

    async def asynchronous(more: int, message: Any) -> Any:
        await asyncio.sleep(0)
        return {"data": {"answer": message["data"]["n"] + more}}

    def in_a_thread(message: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return {"data": {"answer": message["data"]["n"] + 1}}

    class Callable:
        async def __call__(self, message: Any) -> Any:
            return await asynchronous(1, message)

    async def plain(message: Any) -> Any:
        return await asynchronous(1, message)

    callbacks = {
        "async": plain,
        "thread": in_a_thread,
        "partial": functools.partial(asynchronous, 1),
        "object": Callable(),
        "lambda": lambda message: {"data": {"answer": message["data"]["n"] + 1}},
    }
    hot = await mesh(("work", callbacks[kind]), deploy=ECHO)
    assert (await hot.pubsub("echo", {"n": 1}))["data"] == {"answer": 2}


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        ({"data": {"answer": 1}}, {"answer": 1}),
        ({"data": {"answer": 1}, "status": "success", "code": 201}, {"answer": 1, "code": 201}),
        ({"answer": 1}, {"answer": 1}),
        ({}, {}),
        (None, {}),
        ({"metadata": {"x": 1}}, {}),
    ],
)
async def test_an_answer_is_an_envelope_or_the_data_itself(
    mesh: Open, answer: Any, data: Any
) -> None:
    async def say(message: Any) -> Any:
        return answer

    hot = await mesh(("work", say), deploy=ECHO)
    found = (await hot.pubsub("echo"))["data"]
    assert {**found, "code": data.get("code")} == {"code": None, **data}


async def test_many_topics_are_one_worker(mesh: Open) -> None:
    many = [(f"t{n}", double) for n in range(30)]
    hot = await mesh(*many)
    found = [one for one in await hot.roll_call() if "worker_topic" in one]
    assert len({one["engine_id"] for one in found}) == 1
    assert {one["worker_topic"] for one in found} == {topic for topic, _ in many}


async def test_two_share_a_topic_and_each_message_is_answered_once(mesh: Open) -> None:
    answered: dict[str, list[str]] = {}

    def answering(name: str) -> Any:
        async def answer(message: Any) -> Any:
            answered.setdefault(message["metadata"]["jid"], []).append(name)
            await asyncio.sleep(0.002)
            return {"data": {"answer": 1}}

        return ("work", answer)

    hot = await mesh(answering("a"), deploy=ECHO)
    await mesh(answering("b"), max_concurrent=1)
    await asyncio.gather(*(hot.pubsub("echo", job_id=f"j{n}") for n in range(60)))
    assert len(answered) == 60
    assert all(len(names) == 1 for names in answered.values())
    assert {name for names in answered.values() for name in names} == {"a", "b"}


async def test_a_callback_writes_in_the_transaction_of_its_answer(
    mesh: Open, db: psycopg.Connection
) -> None:
    db.execute("create table sold (key text, try integer)")

    async def sell(message: Any) -> Any:
        about = message["metadata"]
        conn = await activity.transaction()
        await conn.execute("insert into sold values (%s, %s)", [about["jid"], about["try"]])
        if about["try"] == 0:
            raise ValueError("once more")
        return {"data": {"answer": about["try"]}}

    policy = {"maximum_attempts": 3, "initial_interval": 0.001}
    hot = await mesh({"topic": "work", "callback": sell, "retry_policy": policy}, deploy=ECHO)
    assert (await hot.pubsub("echo", job_id="s"))["data"] == {"answer": 1}
    assert db.execute("select key, try from sold").fetchall() == [("s", 1)]


async def test_any_text_goes_through(mesh: Open) -> None:
    async def back(message: Any) -> Any:
        return {"data": {"answer": message["data"]["n"]}}

    hot = await mesh(("work", back), deploy=ECHO)
    texts = [
        "$$;drop table x;--",
        "'\"\\",
        "{t.output.data.n}",
        "{@math.add}",
        "é\u2028😀",
        "a" * 100_000,
    ]
    for text in texts:
        assert (await hot.pubsub("echo", {"n": text}))["data"]["answer"] == text
    value = {"{t}": [None, True, 1.5, {"": {"@pipe": [["{@math.add}"]]}}], "$ref": "x"}
    assert (await hot.pubsub("echo", {"n": value}))["data"]["answer"] == value


# --- errors ---------------------------------------------------------------------------------------


FORK = """
subscribes: fork
activities:
  t: {type: trigger}
  w: {type: worker, topic: work}
  good: {type: hook, job: {maps: {went: good, data: '{w.output.data}'}}}
  bad: {type: hook, job: {maps: {went: bad, why: '{w.output.data.why}'}}}
transitions:
  t: [{to: w}]
  w:
    - {to: good, conditions: {code: 200}}
    - {to: bad, conditions: {code: [409, 500]}}
"""


async def test_an_error_takes_the_way_of_its_code(mesh: Open) -> None:
    async def refuse(message: Any) -> Any:
        return {"status": "error", "code": 409, "data": {"why": "sold out"}}

    hot = await mesh(("work", refuse), deploy=FORK)
    assert (await hot.pubsub("fork"))["data"] == {"went": "bad", "why": "sold out"}


async def test_an_error_that_no_way_leads_on_from_fails_the_job(mesh: Open) -> None:
    async def refuse(message: Any) -> Any:
        return {"status": "error", "code": 418, "data": {"message": "a teapot"}}

    hot = await mesh(("work", refuse), deploy=FORK)
    with pytest.raises(JobFailedError) as raised:
        await hot.pubsub("fork", job_id="tea")
    assert (raised.value.code, raised.value.job_id) == (418, "tea")
    assert await hot.get_status("tea") < 0
    assert (await hot.get_state("fork", "tea"))["metadata"]["err"]["code"] == 418


async def test_an_exception_is_tried_again_by_the_policy_of_the_worker(mesh: Open) -> None:
    tries: list[int] = []

    async def fail(message: Any) -> Any:
        tries.append(message["metadata"]["try"])
        if len(tries) < 3:
            raise ValueError("not yet")
        return {"data": {"answer": 7}}

    policy = {"maximum_attempts": 5, "initial_interval": 0.001, "backoff_coefficient": 1}
    worker = {"topic": "work", "callback": fail, "retry_policy": policy}
    hot = await mesh(worker, deploy=ECHO)
    assert (await hot.pubsub("echo"))["data"]["answer"] == 7
    assert tries == [0, 1, 2]


async def test_each_topic_has_a_policy_of_its_own(mesh: Open) -> None:
    tries = {"once": 0, "twice": 0}

    def failing(name: str) -> Any:
        async def fail(message: Any) -> Any:
            tries[name] += 1
            raise ValueError(name)

        policy = {"maximum_attempts": 1 + (name == "twice"), "initial_interval": 0.001}
        return {"topic": name, "callback": fail, "retry_policy": policy}

    text = (
        "subscribes: {0}\nactivities: {{t: {{type: trigger}}, {0}: {{type: worker, topic: {0}}}}}\n"
    )
    text += "transitions: {{t: [{{to: {0}}}]}}\n"
    hot = await mesh(failing("once"), failing("twice"))
    for name in tries:
        await hot.deploy(text.format(name))
        await hot.activate("1")
        with pytest.raises(JobFailedError, match=name):
            await hot.pubsub(name)
    assert tries == {"once": 1, "twice": 2}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"status": "shipped", "data": {}}, "answered with status 'shipped'"),
        ({"status": "error", "code": "x"}, "the code that the callback"),
        ({"data": {1, 2}}, "a set is not a JSON value"),
        ({"data": {"f": float("nan")}}, "nan is not a JSON number"),
    ],
)
async def test_an_answer_that_is_none_fails_the_job_at_once(
    mesh: Open, answer: Any, told: str
) -> None:
    asked = 0

    async def say(message: Any) -> Any:
        nonlocal asked
        asked += 1
        return answer

    hot = await mesh(("work", say), deploy=ECHO)
    with pytest.raises(JobFailedError, match=told):
        await hot.pubsub("echo")
    assert asked == 1


# --- waiting --------------------------------------------------------------------------------------


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

# --- starts ---------------------------------------------------------------------------------------


async def test_an_id_is_taken_once(mesh: Open) -> None:
    hot = await mesh(deploy=HOOK)
    assert await hot.pub("ask", job_id="a") == "a"
    with pytest.raises(DuplicateJobError, match="Duplicate job: a"):
        await hot.pub("ask", job_id="a")
    assert await hot.pub("ask", job_id="a", on_conflict="existing") == "a"


async def test_a_start_may_be_part_of_a_transaction(mesh: Open, dsn: str) -> None:
    hot = await mesh(deploy=HOOK)
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await hot.pub("ask", job_id="gone", conn=conn)
        await conn.rollback()
        await hot.pub("ask", job_id="kept", conn=conn)
        with pytest.raises(JobNotFoundError):
            await hot.get_status("kept")
        await conn.commit()
    assert await hot.get_status("kept") > 0
    with pytest.raises(JobNotFoundError):
        await hot.get_status("gone")


async def test_a_job_may_have_a_parent_attributes_and_an_expiry(
    mesh: Open, db: psycopg.Connection
) -> None:
    hot = await mesh(deploy=HOOK)
    await hot.pub("ask", job_id="p")
    await hot.pub("ask", job_id="c", parent="p", search={"color": "red"}, expire="1 hour")
    row = db.execute(
        "select p.key, c.expire_after, a.value from my_app.jobs c"
        " join my_app.jobs p on p.id in (c.parent_id, c.origin_id)"
        " join my_app.jobs_attributes a on a.job_id = c.id and a.field = '_color'"
        " where c.key = 'c'"
    ).fetchone()
    assert row is not None
    assert (row[0], row[1].total_seconds(), row[2]) == ("p", 3600, "red")


@pytest.mark.parametrize(
    ("topic", "data", "more"),
    [
        ("", {}, {}), (7, {}, {}), ("x", [1], {}), ("x", "text", {}), ("x", {"a": float("inf")}, {}),
        ("x", {"a": "\x00"}, {}), ("x", {}, {"retry": 1}), ("x", {}, {"job_id": ""}),
        ("x", {}, {"on_conflict": "maybe"}), ("x", {}, {"workflow_id": "a"}),
    ],
)  # fmt: skip
async def test_what_cannot_be_published_is_refused(
    mesh: Open, topic: Any, data: Any, more: Any
) -> None:
    hot = await mesh()
    with pytest.raises(InvalidArgumentError):
        await hot.pub(topic, data, **more)


# --- the blocking twin ----------------------------------------------------------------------------


async def test_the_blocking_twin_does_the_same(mesh: Open, dsn: str) -> None:
    await mesh(("work", double))

    def blocking() -> None:
        with SyncHotMesh(dsn, APP) as hot:
            assert hot.deploy(ECHO)["version"] == "1"
            assert hot.activate("1") is True
            output = hot.pubsub("echo", {"n": 3}, job_id="a")
            assert output["data"]["answer"] == 6
            assert hot.get_status("a") == 0
            assert hot.get_state("echo", "a")["data"] == output["data"]
            assert hot.export("a")["status"] == 0
            hot.deploy(HOOK)
            hot.activate("1")
            assert hot.pub("ask", job_id="b") == "b"
            hot.signal("ask.approved", {"id": "b", "by": "x"})
            assert hot.pub("ask", job_id="c") == "c"
            hot.interrupt("ask", "c")
            assert {row.topic for row in hot.graphs()} == {"echo", "ask"}
            assert "2 h: hook" in hot.explain("ask")
            hot.scrub("c")
            assert any(one.get("worker_topic") == "work" for one in hot.roll_call())
            hot.throttle(10, topic="work")
            hot.deploy(COUNTED)
            hot.activate("1")
            hot.pub("sold", {"shop": "a", "color": "red", "price": 1})
            assert hot.get_stats("sold", {"data": {"shop": "a"}})["count"] == 1
            assert hot.get_ids("sold", {"data": {"shop": "a"}}, ["color:red"])["counts"]
            assert hot.signal_all("sold.back", {"word": "ok"}) == 1
            with pytest.raises(GraphError):
                hot.deploy("a: [\n")
            assert hot.add({"metadata": {"jid": "a", "aid": "w", "dad": ",0,0"}}) == "stale"

    await asyncio.to_thread(blocking)


def _members(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


async def test_the_twins_have_the_same_members() -> None:
    apart = {"init", "stop", "run", "guid", "sub", "unsub"}
    assert _members(HotMesh) - apart == _members(SyncHotMesh) - {"close"}
