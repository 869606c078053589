"""Interceptors: skins of an onion around workflows, calls of activities and their execution."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hotmesh import MemFlow, activity, workflow
from hotmesh.errors import InvalidArgumentError, JobFailedError
from support.apart import apart
from support.flows import FAST, House
from support.offline import Life

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    MemFlow.clear_interceptors()
    MemFlow.clear_activity_interceptors()


class Skin:
    """Notes its way in and out, and wraps what comes out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def execute(self, ctx: Any, next: Any) -> Any:
        self.notes.append(f"{self.name} in {ctx.workflow_name} {ctx['args']}")
        try:
            return [self.name, await next()]
        finally:
            self.notes.append(f"{self.name} out")


async def greet(name: str) -> str:
    greeting: str = await acts.greeting(name)
    return greeting


async def greeting(name: str) -> str:
    return f"hello {name}"


# --- workflows ------------------------------------------------------------------------------------


async def test_the_first_interceptor_is_the_outermost_skin(house: House) -> None:
    notes: list[str] = []
    MemFlow.register_interceptor(Skin("outer", notes))
    MemFlow.register_interceptor({"execute": Skin("inner", notes).execute})
    await house.worker(greet)
    await house.activity_worker(greeting)
    assert await house.run(greet, "ada") == ["outer", ["inner", "hello ada"]]
    assert notes == ["outer in greet ['ada']", "inner in greet ['ada']", "inner out", "outer out"]
    MemFlow.clear_interceptors()
    assert await house.run(greet, "ada") == "hello ada"


async def test_an_interceptor_may_call_durable_functions_and_is_replayed_with_the_workflow() -> (
    None
):
    seen: list[bool] = []

    async def audit(ctx: Any, next: Any) -> Any:
        seen.append(ctx.is_replaying)
        await acts.audit("before", ctx.workflow_id)
        try:
            return await next()
        finally:
            await acts.audit("after")

    async def flow() -> Any:
        return await acts.work()

    MemFlow.register_interceptor(audit)
    first = Life(flow)
    first.answer(1)
    second = Life(flow, history=first.history)
    second.answer(2, value="done")
    second.answer(3)
    assert second.outcome == ("returned", "done")
    assert [(c.name, c.args) for c in first.asked + second.asked] == [
        ("audit", '["before","job-1"]'), ("work", "[]"), ("audit", '["after"]'),
    ]  # fmt: skip
    assert seen == [False, True]
    first.close()


async def test_an_interceptor_sees_failures_and_may_mend_or_replace_them(house: House) -> None:
    async def mends(ctx: Any, next: Any) -> Any:
        try:
            return await next()
        except KeyError as error:
            return f"mended {error}"

    async def fails(kind: str) -> None:
        raise KeyError(kind) if kind == "key" else ValueError(kind)

    MemFlow.register_interceptor(mends)
    await house.worker(fails)
    assert await house.run(fails, "key") == "mended 'key'"
    with pytest.raises(JobFailedError, match="value"):
        await house.run(fails, "value")


async def test_an_interceptor_that_goes_nowhere_answers_by_itself(house: House) -> None:
    async def closed(ctx: Any, next: Any) -> Any:
        return "closed"

    MemFlow.register_interceptor(closed)
    await house.worker(greet)
    assert await house.run(greet, "ada") == "closed"


# --- calls of activities --------------------------------------------------------------------------


class Tenant:
    async def execute(self, activity_ctx: Any, workflow_ctx: Any, next: Any) -> Any:
        activity_ctx.options["headers"]["tenant"] = f"t-{workflow_ctx.workflow_id}"
        activity_ctx["args"][0] = activity_ctx.args[0].upper()
        return f"{activity_ctx.activity_name}: {await next()}"


@pytest.mark.parametrize("inline", [True, False])
async def test_a_call_s_interceptor_changes_arguments_and_passes_headers(
    house: House, inline: bool
) -> None:
    def who(name: str) -> str:
        return f"{name} {dict(activity.context().headers)} {activity.context().attempt}"

    async def flow() -> Any:
        return [await acts.who("ada"), await workflow.execute_activity(who, "b", task_queue="acts")]

    expected = "who: {} {{'tenant': 't-k'}} 1"
    MemFlow.register_activity_interceptor(Tenant())
    await house.worker(flow)
    if inline:
        await house.activity_worker(who)
        found = await house.run(flow, key="k")
    else:
        async with apart(house.dsn, who):
            found = await house.run(flow, key="k")
    assert found == [expected.format("ADA"), expected.format("B")]


async def test_calls_stay_eager_in_order_and_usable_as_any_operation() -> None:
    notes: list[str] = []

    async def outer(call: Any, ctx: Any, next: Any) -> Any:
        notes.append(f"outer {call.activity_name}")
        return ["outer", await next()]

    async def inner(call: Any, ctx: Any, next: Any) -> Any:
        notes.append(f"inner {call.activity_name}")
        await acts.audit(call.activity_name)
        return ["inner", await next()]

    async def flow() -> Any:
        first, second = acts.one(), acts.two()
        third = asyncio.create_task(acts.three())
        return await asyncio.gather(second, first, third)

    MemFlow.register_activity_interceptor(outer)
    MemFlow.register_activity_interceptor(inner)
    life = Life(flow)
    assert [c.name for c in life.asked] == ["audit"] * 3
    life.answer(1, 2, 3)
    assert [c.name for c in life.asked[3:]] == ["one", "two", "three"]
    replayed = Life(flow, history=life.history)
    assert replayed.asked == []
    for one in (life, replayed):
        one.answer(4, 5, 6, value="x")
        assert one.outcome == ("returned", [["outer", ["inner", "x"]]] * 3)
    assert notes[:4] == ["outer one", "inner one", "outer two", "inner two"]


async def test_a_call_that_is_given_up_or_fails_tells_its_interceptor() -> None:
    seen: list[str] = []

    async def watches(call: Any, ctx: Any, next: Any) -> Any:
        try:
            return await next()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async def flow() -> Any:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(acts.slow(), 5)
        try:
            await acts.fails()
        except Exception as error:
            return str(error)

    MemFlow.register_activity_interceptor(watches)
    life = Life(flow)
    assert [c.kind for c in life.asked] == ["timer", "activity"]
    life.answer(1)
    assert [c.kind for c in life.asked[2:]] == ["cancel", "activity"]
    life.answer(3, value={"type": "ValueError", "message": "no", "code": 500}, failed=True)
    assert life.outcome == ("returned", "no")
    assert seen == ["CancelledError", "ValueError"]


async def test_headers_that_are_no_text_are_refused() -> None:
    async def bad(call: Any, ctx: Any, next: Any) -> Any:
        call.options["headers"] = {"n": 1}
        return await next()

    MemFlow.register_activity_interceptor(bad)
    life = Life(greet, ["ada"])
    assert life.outcome[0] == "raised"
    assert "headers: 'n' must be a text" in life.outcome[1]


# --- executions -----------------------------------------------------------------------------------


async def test_an_execution_s_interceptor_stands_around_every_attempt(house: House) -> None:
    tried: list[Any] = []

    async def timed(ctx: Any, next: Any) -> Any:
        tried.append([ctx.activity_name, list(ctx.args), ctx.attempt, ctx.workflow_id])
        return f"<{await next()}>"

    async def once_more(name: str) -> str:
        if activity.context().attempt == 1:
            raise ValueError("first")
        return f"{name} in {threading.current_thread().name[:4]}"

    def in_a_thread(name: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return asyncio.run(greeting(name)) + activity.context().activity_name

    async def flow() -> Any:
        return [await acts.once_more("a"), await acts.in_a_thread("b")]

    MemFlow.register_execution_interceptor(timed)
    await house.worker(flow)
    await house.activity_worker(once_more, in_a_thread)
    assert await house.run(flow, key="k") == ["<a in Main>", "<hello bin_a_thread>"]
    assert tried == [
        ["once_more", ["a"], 1, "k"], ["once_more", ["a"], 2, "k"], ["in_a_thread", ["b"], 1, "k"],
    ]  # fmt: skip


# --- what is no interceptor -----------------------------------------------------------------------


class Sync:
    def execute(self, ctx: Any, next: Any) -> Any:
        """Not async."""


@pytest.mark.parametrize("bad", [None, 5, Sync(), {}, object(), greeting, print], ids=range(7))
def test_what_is_no_interceptor_is_refused(bad: Any) -> None:
    for register in (
        MemFlow.register_interceptor, MemFlow.register_activity_interceptor,
        MemFlow.register_execution_interceptor,
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match="an interceptor"):
            register(bad)
