"""Search attributes, events, spans, and what a handle shows: from workflow code and from outside."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hotmesh import MemFlow, SyncClient, errors, workflow
from support import flows
from support.flows import House, wait_for


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with flows.opened(dsn) as house:
        yield house


# --- search in workflow code ----------------------------------------------------------------------


async def test_search_attributes_are_set_read_and_counted(house: House) -> None:
    async def flow() -> Any:
        search = await MemFlow.workflow.search()
        return [
            await search.get("color"),
            await search.set({"size": 3, "tags": ["a"]}),
            await search.set("color", "blue", "x", None),
            await search.mget("color", "none", "size", "x"),
            await search.incr("size"),
            await search.incr("size", -0.5),
            await search.incr("new", 7),
            await search.mult("size", 4),
            await search.mult("fresh", 2),
            await search.delete("tags", "none"),
            await search.get("tags"),
        ]

    await house.worker(flow)
    answers = await house.run(flow, key="s", search={"color": "red"})
    assert answers == ["red", 2, 2, ["blue", None, 3, None], 4, 3.5, 7, 14.0, 2, 1, None]
    handle = house.client.workflow.get_handle(workflow_id="s")
    assert await handle.query_state(["color", "size", "none", '"output"']) == {
        "color": "blue", "size": 14.0, "none": None, '"output"': answers,
    }  # fmt: skip
    everything = {"color": "blue", "size": 14.0, "x": None, "new": 7, "fresh": 2}
    assert await handle.query_state() == everything
    assert (await handle.export(allow=["data"])) == {"data": everything}


async def test_a_command_counts_once_however_often_the_code_is_replayed(house: House) -> None:
    lives = []

    async def flow() -> Any:
        lives.append(1)
        search = await workflow.search()
        first = await search.incr("count")
        await workflow.wait_for("go")
        return [first, await search.incr("count")]

    worker = await house.worker(flow)
    handle = await house.start(flow, key="once")
    await wait_for(
        lambda: house.one("select value from my_app.jobs_attributes where field = '_count'")
    )
    await worker.shutdown(grace=0)
    await house.worker(flow)
    await handle.signal("go")
    assert await handle.result(timeout=20) == [1, 2]
    assert len(lives) == 2


async def test_numbers_stay_exact_and_texts_that_read_as_numbers_count(house: House) -> None:
    async def flow() -> Any:
        search = await workflow.search()
        await search.set({"big": 2**70, "text": "41"})
        return [await search.incr("big"), await search.incr("text"), await search.mult("big", 2)]

    await house.worker(flow)
    assert await house.run(flow) == [2**70 + 1, 42, 2**71 + 2]


async def refused(ask: Callable[[], Any]) -> bool:
    try:
        await ask()
    except errors.InvalidArgumentError:
        return True
    return False


async def test_what_makes_no_sense_is_an_error_in_the_workflow(house: House) -> None:
    async def flow() -> Any:
        search = await workflow.search()
        told = 0
        await search.set("word", "many")
        for ask in (
            lambda: search.incr("word"),
            lambda: search.set("odd"),
            lambda: search.set({"": 1}),
            lambda: search.set({"x" * 600: 1}),
            lambda: search.incr("word", "1"),  # type: ignore[arg-type]
            lambda: search.mult("big", 10**999 * 11),
            lambda: search.get(""),
            lambda: workflow.enrich([1]),  # type: ignore[arg-type]
            lambda: workflow.emit({}),
            lambda: workflow.emit({"": 1}),
            lambda: workflow.trace("x"),  # type: ignore[arg-type]
        ):
            told += await refused(ask)
        return [told, await search.get("word")]

    await house.worker(flow)
    assert await house.run(flow) == [11, "many"]


async def test_search_outside_of_a_workflow_is_refused() -> None:
    for ask in (workflow.search, lambda: workflow.enrich({}), lambda: workflow.emit({"a": 1})):
        with pytest.raises(errors.InvalidArgumentError, match="outside of a workflow"):
            await ask()  # type: ignore[misc, operator]


async def test_enrich_sets_once_and_says_so(house: House) -> None:
    async def flow() -> Any:
        return await workflow.enrich({"stage": "done", "count": 2})

    await house.worker(flow)
    handle = await house.start(flow)
    assert await handle.result(timeout=20) is True
    assert await handle.query_state(["stage", "count"]) == {"stage": "done", "count": 2}


# --- from outside ---------------------------------------------------------------------------------


async def test_the_client_searches_by_attributes(house: House, dsn: str) -> None:
    for number in range(4):
        await house.start(
            "order", key=f"o{number}", search={"color": ["red", "blue"][number % 2], "n": number}
        )
    await house.start("other", key="x", search={"color": "red", "deep": {"a.b": [1]}})
    found = await house.client.workflow.search("order", {"color": "red", "n": {"$gte": 1}})
    assert found == [{"key": "o2", "data": {"color": "red", "n": 2}, "status": 1}]

    async def keys(*args: Any, **more: Any) -> list[str]:
        return [row["key"] for row in await house.client.workflow.search(*args, **more)]

    assert await keys() == ["x", "o3", "o2", "o1", "o0"]
    assert await keys(conditions={"color": "red"}) == ["x", "o2", "o0"]
    assert await keys("order", {"$or": [{"n": 0}, {"color": {"$in": ["blue"]}}]}, limit=2) == [
        "o3",
        "o1",
    ]
    assert await keys("order", limit=2, offset=1) == ["o2", "o1"]
    assert await keys("order", limit=2, before="o2") == ["o1", "o0"]
    assert await keys(conditions={"deep.a\\.b.0": 1}) == ["x"]
    assert await keys(conditions={"n": {"$exists": False}}) == ["x"]
    assert await keys(conditions={"color' or 1=1 --": 1}) == []
    with pytest.raises(errors.InvalidArgumentError, match="unknown operator"):
        await keys("order", {"n": {"$near": 1}})
    with SyncClient(dsn, flows.APP) as blocking:
        assert blocking.workflow.search("order", {"n": 3}) == [
            {"key": "o3", "data": {"color": "blue", "n": 3}, "status": 1}
        ]
        handle = blocking.workflow.get_handle(workflow_id="o3")
        assert handle.query_state(["n"]) == {"n": 3}


async def test_the_state_of_a_job_that_does_not_exist_is_refused(house: House) -> None:
    with pytest.raises(errors.JobNotFoundError):
        await house.client.workflow.get_handle(workflow_id="nobody").query_state(["a"])


async def test_an_export_has_five_parts_and_leaves_out_what_is_blocked(house: House) -> None:
    async def double(n: int) -> int:
        return 2 * n

    async def flow(n: int) -> int:
        await workflow.enrich({"n": n})
        return int(await workflow.execute_activity(double, n))

    await house.worker(flow, activities=[double])
    handle = await house.start(flow, 4, key="e")
    assert await handle.result(timeout=20) == 8
    export = await handle.export()
    assert set(export) == {"data", "state", "status", "timeline", "transitions"}
    assert export["data"] == {"n": 4}
    assert export["status"] == 0
    assert export["state"]["output"] == 8
    assert [(step["kind"], step["name"], step["value"]) for step in export["timeline"]] == [
        ("search", "enrich", True),
        ("activity", "double", 8),
    ]
    assert [step["activity"] for step in export["transitions"]] == ["enrich", "double"]
    assert set(export["transitions"][0]) == {"activity", "dimensions", "created", "updated"}
    assert set(await handle.export(block=["timeline", "data"])) == {
        "state",
        "status",
        "transitions",
    }
    both = await handle.export(allow=["data", "status"], block=["data"])
    assert both == {"status": 0}
    state = await handle.state(metadata=True)
    assert state["data"]["response"] == 8
    assert state["metadata"]["jid"] == "e"
    with pytest.raises(errors.InvalidArgumentError, match="no part 'dta'"):
        await handle.export(allow=["dta"])


# --- events ---------------------------------------------------------------------------------------


async def test_who_listens_hears_what_is_emitted_once(house: House) -> None:
    heard: list[tuple[str, Any]] = []

    async def later(topic: str, message: Any) -> None:
        await asyncio.sleep(0)
        heard.append((topic, message))

    def fails(topic: str, message: Any) -> None:
        raise RuntimeError("a callback that fails")

    async def flow(n: int) -> Any:
        first = await workflow.emit({"shipped": {"n": n}, "other": 1})
        await workflow.emit({"large": "x" * 100_000})
        await workflow.wait_for("go")
        await workflow.emit({"shipped": "end"}, once=False)
        return first

    await house.client.sub("shipped", fails)
    await house.client.sub("shipped", lambda topic, message: heard.append((topic, message)))
    await house.client.sub("large", later)
    worker = await house.worker(flow)
    handle = await house.start(flow, 7, key="ship")
    await wait_for(lambda: len(heard) == 2)
    await worker.shutdown(grace=0)
    await house.worker(flow)
    await handle.signal("go")
    assert await handle.result(timeout=20) is True
    await wait_for(lambda: len(heard) == 3)
    assert sorted(heard, key=str) == [
        ("large", "x" * 100_000), ("shipped", "end"), ("shipped", {"n": 7}),
    ]  # fmt: skip
    steps = [step for step in house.steps("ship") if step[1] == "emit"]
    assert [step[2] for step in steps] == ["2 topics", "large", "shipped"]
    assert steps[0][4] == {"events": {"shipped": {"n": 7}, "other": 1}}


async def test_what_was_emitted_right_before_continue_as_new_is_heard(house: House) -> None:
    heard: list[Any] = []

    async def flow(n: int) -> Any:
        await workflow.emit({"round": n})
        if n:
            await workflow.continue_as_new(n - 1)
        return n

    await house.client.sub("round", lambda topic, message: heard.append(message))
    await house.worker(flow)
    assert await house.run(flow, 3) == 0
    await wait_for(lambda: len(heard) == 4)
    assert heard == [3, 2, 1, 0]


async def test_nothing_is_heard_after_unsub(house: House) -> None:
    heard: list[Any] = []

    async def flow(topic: str) -> Any:
        return await workflow.emit({topic: topic})

    await house.client.sub("a", lambda topic, message: heard.append(message))
    await house.client.sub("b", lambda topic, message: heard.append(message))
    await house.client.unsub("a")
    await house.worker(flow)
    await house.run(flow, "a")
    await house.run(flow, "b")
    await wait_for(lambda: heard)
    assert heard == ["b"]
    await house.client.unsub("b")
    assert house.client._events._listener is None
    with pytest.raises(errors.InvalidArgumentError, match="no function"):
        await house.client.sub("a", None)  # type: ignore[arg-type]
    for pattern in ("*", "a.*", "orders.#", "a.*.done", "orders*", "**"):
        with pytest.raises(
            errors.InvalidArgumentError, match="is a pattern: nothing is published to it"
        ):
            await house.client.sub(pattern, print)


async def test_a_notification_tells_nothing_to_who_has_no_key(house: House) -> None:
    listener = house.db
    channel = house.one("select hotmesh.emit_channel('my-app')")
    listener.execute(f'listen "{channel}"')

    async def flow() -> Any:
        return await workflow.emit({"secret.topic": {"card": "4711"}})

    await house.worker(flow)
    await house.run(flow)
    notices = list(listener.notifies(timeout=5, stop_after=1))
    assert len(notices) == 1
    assert "secret" not in notices[0].payload
    assert "4711" not in notices[0].payload


# --- spans ----------------------------------------------------------------------------------------


class FakeSpan(dict[str, Any]):
    def __enter__(self) -> FakeSpan:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    set_attribute = dict.__setitem__


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FakeSpan]]:
    """What a pretended OpenTelemetry was told."""
    made: list[tuple[str, FakeSpan]] = []

    class Tracer:
        def start_as_current_span(self, name: str) -> FakeSpan:
            made.append((name, FakeSpan()))
            return made[-1][1]

    fake = types.ModuleType("opentelemetry.trace")
    fake.get_tracer = lambda name: Tracer()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry", types.ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", fake)
    monkeypatch.setenv("HMSH_TELEMETRY", "true")
    return made


async def traced(house: House) -> Any:
    async def flow() -> Any:
        first = await workflow.trace({"step": "one", "n": 1, "list": [1]})
        await workflow.trace({"each": "time"}, once=False)
        await workflow.wait_for("go")
        return first

    worker = await house.worker(flow)
    handle = await house.start(flow, key="t")
    await wait_for(lambda: len(house.steps("t")) == 2)
    await worker.shutdown(grace=0)
    await house.worker(flow)
    await handle.signal("go")
    answer = await handle.result(timeout=20)
    assert house.steps("t")[0][1:5] == (
        "trace", None, "done", {"attributes": {"step": "one", "n": 1, "list": [1]}},
    )  # fmt: skip
    return answer


async def test_a_trace_is_a_span_once(house: House, spans: list[Any]) -> None:
    assert await traced(house) is True
    once = [span for _, span in spans if "step" in span]
    assert [name for name, _ in spans] == ["workflow flow"] * 3
    assert once == [
        {
            "hotmesh.workflow_id": "t", "hotmesh.task_queue": "orders",
            "step": "one", "n": 1, "list": "[1]",
        }
    ]  # fmt: skip


async def test_without_the_variable_there_is_no_span(
    house: House, spans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HMSH_TELEMETRY")
    assert await traced(house) is True
    assert spans == []


async def test_without_opentelemetry_the_workflow_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HMSH_TELEMETRY", "true")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert await traced(house) is True
