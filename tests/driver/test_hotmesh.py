"""The HotMesh object: graphs from Python, with workers that answer, late or wrongly or never."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotmesh import HotMesh, MemFlow, SyncHotMesh, activity
from hotmesh.errors import (
    DuplicateJobError,
    GraphError,
    GraphVersionError,
    InvalidArgumentError,
    JobFailedError,
    JobInterruptedError,
    JobNotFoundError,
    JobOpenError,
    TimedOutError,
    TopicNotFoundError,
)
from support.crash import Child, python_path
from support.engine import OWNER, Server
from support.flows import APP, wait_for

pytestmark = pytest.mark.asyncio

Open = Callable[..., Any]


@pytest.fixture
async def mesh(dsn: str) -> AsyncIterator[Open]:
    """Opens a HotMesh of the app; closes it in the end."""

    async def opened(*workers: Any, deploy: str = "", **more: Any) -> HotMesh:
        told = [
            worker if isinstance(worker, dict) else {"topic": worker[0], "callback": worker[1]}
            for worker in workers
        ]
        made = await HotMesh.init(app_id=APP, connection=dsn, workers=told, **more)
        if deploy:
            await made.activate((await made.deploy(deploy))["version"])
        return made

    yield opened
    await HotMesh.stop()


ECHO = """
subscribes: echo
publishes: echo.done
activities:
  t: {type: trigger}
  w:
    type: worker
    topic: work
    job: {maps: {answer: '{w.output.data.answer}'}}
transitions:
  t: [{to: w}]
"""


async def double(message: dict[str, Any]) -> Any:
    return {"metadata": message["metadata"], "data": {"answer": 2 * message["data"]["n"]}}


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


HOOK = """
subscribes: ask
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {by: '{$self.hook.data.by}'}}}
transitions:
  t: [{to: h}]
hooks:
  ask.approved:
    - to: h
      conditions: {match: [{expected: '{$job.metadata.jid}', actual: '{$self.hook.data.id}'}]}
"""


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


# --- versions -------------------------------------------------------------------------------------


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


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        ({"topic": "a"}, "workers must be a list"),
        ("a", "workers must be a list"),
        (["a"], r"workers\[0\] must be a dict"),
        ([{"callback": print}], r"workers\[0\].topic must be a text"),
        ([{"topic": "", "callback": print}], "is empty"),
        ([{"topic": "a\nb", "callback": print}], "line break"),
        ([{"topic": "a"}], r"workers\[0\].callback is no function"),
        ([{"topic": "a", "callback": "print"}], "is no function"),
        ([{"topic": "a", "callback": print, "taskQueue": "x"}], "has no key 'taskQueue'"),
        ([{"topic": "a", "callback": print, "retry_policy": {"attempts": 1}}], "has no key"),
        ([{"topic": "a", "callback": print}] * 2, "has a callback already"),
    ],
)
async def test_a_worker_that_cannot_be_used_is_refused(dsn: str, workers: Any, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        await HotMesh.init(app_id=APP, connection=dsn, workers=workers)


async def test_the_engine_and_the_app_are_provisioned(server: Server) -> None:
    with server.database() as name:
        place = {"connection": server.conninfo(name, OWNER)}
        async with await HotMesh.init(app_id="orders", engine=place) as hot:
            assert hot.app_id == "orders"
            assert await hot.graphs() == []


async def test_one_stops_alone_and_the_class_stops_all(mesh: Open) -> None:
    first, second, third = [await mesh((f"t{n}", double)) for n in range(3)]

    async def topics() -> set[str]:
        return {one["worker_topic"] for one in await third.roll_call() if "worker_topic" in one}

    await asyncio.gather(*(each.roll_call() for each in (first, second, third)))
    assert await topics() == {"t0", "t1", "t2"}
    await first.stop()
    assert await topics() == {"t1", "t2"}
    await HotMesh.stop()
    with pytest.raises(Exception, match="closed"):
        await second.get_status("x")


PROGRAM = """
import asyncio, sys
from hotmesh import HotMesh

async def hangs(message):
    print("begun", flush=True)
    await asyncio.sleep(60)

async def answers(message):
    return {"data": {"answer": message["metadata"]["try"]}}

async def made(connection, app_id) -> HotMesh:
    return await HotMesh.init(app_id=app_id, connection=connection, lease="1s",
        workers=[{"topic": "work", "callback": hangs}])

async def main():
    mesh = await HotMesh.init(app_id="my-app", lease="1s",
        workers=[{"topic": "work", "callback": answers}])
    print("serves", flush=True)
    await mesh.run()
    print("left", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_what_a_killed_process_had_begun_is_done_by_another(
    mesh: Open, child: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "meshes.py").write_text(PROGRAM)
    hot = await mesh(deploy=ECHO)
    words = ("worker", "meshes:made", "--app", APP)
    first = child("hotmesh", *words, PYTHONPATH=f"{tmp_path}:{python_path()}")
    await asyncio.to_thread(first.wait_for_output, "Ctrl-C stops it")
    waiting = asyncio.create_task(hot.pubsub("echo"))
    await asyncio.to_thread(first.wait_for_output, "begun")
    first.kill()
    second = child(tmp_path / "meshes.py")
    await asyncio.to_thread(second.wait_for_output, "serves")
    assert (await waiting)["data"] == {"answer": 1}
    assert await asyncio.to_thread(second.terminate) == 0
    second.wait_for_output("left")


async def test_nothing_runs_without_workers(mesh: Open) -> None:
    hot = await mesh()
    with pytest.raises(InvalidArgumentError):
        await hot.run()


async def test_memflow_shutdown_closes_it_too(mesh: Open) -> None:
    hot = await mesh(("t", double))
    await MemFlow.shutdown()
    with pytest.raises(Exception, match="closed"):
        await hot.get_status("x")


async def test_every_guid_is_another() -> None:
    assert len({HotMesh.guid() for _ in range(100)}) == 100


async def test_a_roll_call_shows_who_serves_what_and_how_much_waits(mesh: Open) -> None:
    hot = await mesh(("serves", double), deploy=ECHO)
    await hot.pub("echo", {"n": 1})

    [found] = [one for one in await hot.roll_call() if one.get("worker_topic") == "serves"]
    assert (found["app_id"], found["stream_depth"], found["throttle"]) == (APP, 0, 0)
    [engine] = [one for one in await hot.roll_call() if "worker_topic" not in one]
    assert engine["stream_depth"] == 1
    system = found["system"]
    assert system["UsedMemoryGB"] + system["FreeMemoryGB"] == pytest.approx(
        system["TotalMemoryGB"], abs=0.02
    )
    assert len(system["CPULoad"]) == 3
    assert system["NetworkStats"] == []


async def test_a_throttle_is_kept_and_lifted(mesh: Open) -> None:
    hot = await mesh(("work", double), deploy=ECHO)
    await hot.throttle(-1, topic="work")
    waiting = asyncio.create_task(hot.pubsub("echo", {"n": 4}))
    other = await mesh()
    while True:
        found = [one for one in await other.roll_call() if one.get("worker_topic") == "work"]
        if found and found[0]["stream_depth"] == 1:
            break
        await asyncio.sleep(0.01)
    assert found[0]["throttle"] == -1
    assert not waiting.done()
    await other.throttle({"throttle": 0, "topic": "work"})
    assert (await waiting)["data"]["answer"] == 8
    await other.throttle({"throttle": 0, "topic": "work", "scope": "workers"})
    for wrong in (
        {"throttle": 1, "guid": "x"}, {"throttle": 1, "scope": "engines"},
        {"throttle": "x"}, {"throttle": -2}, {}, {"throttle": 1, "speed": 1},
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            await hot.throttle(wrong)


async def test_a_throttle_without_a_topic_is_for_all_that_are_served(mesh: Open) -> None:
    hot = await mesh(("work", double), ("more", double))
    await hot.throttle(throttle=7)
    told = {one["worker_topic"]: one["throttle"] for one in (await hot.roll_call())[1:]}
    assert told == {"work": 7, "more": 7}
    await hot.throttle(0)
    assert {one["throttle"] for one in await hot.roll_call()} == {0}


async def test_graphs_read_what_a_codec_would_seal(mesh: Open) -> None:
    class Codec:
        def encode(self, payload: bytes) -> bytes:
            return payload[::-1]

        def decode(self, stored: bytes) -> bytes:
            return stored[::-1]

    MemFlow.register_codec(Codec())
    try:
        hot = await mesh(("work", double), deploy=ECHO)
        assert (await hot.pubsub("echo", {"n": 4}))["data"]["answer"] == 8
    finally:
        MemFlow.register_codec(None)


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
