"""Activities: where they run, what they know, and how their errors and results travel."""

from __future__ import annotations

import asyncio
import sys
import threading
from decimal import Decimal
from typing import Any

import pytest

from hotmesh import activity, errors, workflow
from hotmesh.errors import FatalError, HotMeshError, JobFailedError, MaxedError, TimedOutError
from support.apart import apart
from support.flows import FAST, House, wait_for

acts = workflow.proxy_activities(task_queue="acts", retry_policy=FAST)


async def call(name: str, *args: Any) -> Any:
    """The workflow of most tests: one activity."""
    return await getattr(acts, name)(*args)


async def say(name: str, *args: Any) -> Any:
    """The same, and its failure as text."""
    try:
        return await getattr(acts, name)(*args)
    except Exception as error:
        cause = error.__cause__
        return [type(error).__name__, str(error), type(cause).__name__, str(cause)]


# --- where they run -------------------------------------------------------------------------------


async def test_an_async_activity_runs_in_the_loop_and_a_sync_one_in_a_thread(house: House) -> None:
    async def here() -> str:
        return threading.current_thread().name

    def there() -> str:
        return threading.current_thread().name

    await house.activity_worker(here, there)
    await house.worker(call)
    assert await house.run(call, "here") == threading.current_thread().name
    assert (await house.run(call, "there")).startswith("hotmesh-activity")


async def test_a_sync_activity_blocks_nobody(house: House) -> None:
    gate = threading.Event()

    def slow() -> str:
        return "slow" if gate.wait(20) else "never opened"

    def fast() -> str:
        return "fast"

    await house.activity_worker(slow, fast)
    await house.worker(call)
    waiting = await house.start(call, "slow")
    assert await house.run(call, "fast") == "fast"
    gate.set()
    assert await waiting.result(timeout=10) == "slow"


@pytest.mark.parametrize("inline", [True, False])
async def test_an_activity_knows_its_workflow_queue_name_and_attempt(
    house: House, inline: bool
) -> None:
    def about() -> list[Any]:
        it = activity.context()
        if it.attempt < 2:
            raise ValueError("once more")
        return [it.workflow_id, it.activity_name, it.task_queue, it.attempt]

    await house.activity_worker(about)
    await house.worker(call, **({"activities": [about]} if inline else {}))
    assert await house.run(call, "about", key="o-1") == ["o-1", "about", "acts", 2]


async def test_a_thread_pool_of_a_sync_activity_keeps_contexts_apart(house: House) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def about() -> str | None:
        barrier.wait()
        return activity.context().workflow_id

    await house.activity_worker(about)
    await house.worker(call)
    handles = [await house.start(call, "about", key=f"o-{n}") for n in range(2)]
    assert [await h.result(timeout=20) for h in handles] == ["o-0", "o-1"]


def test_context_outside_of_an_activity_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="outside of an activity"):
        activity.context()


async def test_workflow_calls_inside_an_activity_are_refused(house: House) -> None:
    async def wrong() -> Any:
        return workflow.now()

    await house.activity_worker(wrong)
    await house.worker(say)
    assert "outside of a workflow" in (await house.run(say, "wrong"))[1]


# --- errors ---------------------------------------------------------------------------------------


class OutOfStockError(Exception):
    pass


class StrRaisesError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle")


class OddCodeError(HotMeshError):
    code = object()  # type: ignore[assignment]


class OddTypeError(HotMeshError):
    def __init__(self) -> None:
        super().__init__("odd")
        self.type = "N\x00\ud800"


BOOM: dict[str, Any] = {
    "builtin": lambda: KeyError("item-1"),
    "own": lambda: OutOfStockError("item-1 is gone"),
    "wordless": StrRaisesError,
    "unpicklable": UnpicklableError,
    "odd code": lambda: OddCodeError("odd"),
    "odd type": OddTypeError,
    "unstorable": lambda: ValueError("nul \x00, half \ud800"),
    "huge": lambda: ValueError("x" * 20_000_000),
    "exit": lambda: SystemExit("bye"),
    "exit without text": lambda: SystemExit(StrRaisesError()),
    "interrupt": KeyboardInterrupt,
    "cancelled": lambda: asyncio.CancelledError("me"),
    "generator exit": GeneratorExit,
    "stop": lambda: StopIteration(1),
    "stop async": lambda: StopAsyncIteration(1),
}


if sys.version_info >= (3, 11):
    BOOM["group"] = lambda: BaseExceptionGroup(  # noqa: F821
        "two", [ValueError("a"), SystemExit(1)]
    )


async def boom(kind: str) -> None:
    raise BOOM[kind]()


def boom_sync(kind: str) -> None:
    raise BOOM[kind]()


@pytest.mark.parametrize("name", ["boom", "boom_sync"])
@pytest.mark.parametrize("kind", list(BOOM))
@pytest.mark.parametrize("inline", [True, False])
async def test_whatever_an_activity_raises_reaches_its_workflow_and_nothing_else(
    house: House, name: str, kind: str, inline: bool
) -> None:
    def fine() -> str:
        return "fine"

    if inline:
        await house.activity_worker(boom, boom_sync, fine)
        await house.worker(say, call)
    else:
        await house.worker(say, call)
        async with apart(house.dsn, boom, boom_sync, fine):
            await check(house, name, kind)
        return
    await check(house, name, kind)


async def check(house: House, name: str, kind: str) -> None:
    found = await house.run(say, name, kind)
    assert found[0] in ("MaxedError", "FatalError"), found
    assert await house.run(call, "fine") == "fine"


async def test_attempts_used_up_arrive_as_597_with_the_original_as_cause(house: House) -> None:
    tried = []

    def check_stock() -> None:
        tried.append(activity.context().attempt)
        raise KeyError("item-1")

    await house.activity_worker(check_stock)
    await house.worker(say, call)
    assert await house.run(say, "check_stock") == ["MaxedError", "'item-1'", "KeyError", "'item-1'"]
    assert tried == [1, 2, 3]
    handle = await house.start(call, "check_stock", key="o-9")
    with pytest.raises(MaxedError) as caught:
        await handle.result(timeout=10)
    assert isinstance(caught.value, JobFailedError)
    assert (caught.value.code, caught.value.type, caught.value.job_id) == (597, "KeyError", "o-9")
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.args == ("item-1",)


async def test_an_own_class_and_its_cause_keep_their_names(house: House) -> None:
    def reserve() -> None:
        try:
            raise OSError("disk")
        except OSError as error:
            raise OutOfStockError("item-1 is gone") from error

    async def told() -> list[Any]:
        try:
            await acts.reserve()
        except MaxedError as error:
            own = error.__cause__
            assert own is not None
            return [error.type, str(own), own.type, repr(own.__cause__)]  # type: ignore[attr-defined]
        return []

    await house.activity_worker(reserve)
    await house.worker(told)
    assert await house.run(told) == [
        "OutOfStockError", "item-1 is gone", "OutOfStockError", repr(OSError("disk")),
    ]  # fmt: skip


async def test_a_fatal_error_is_not_tried_again(house: House) -> None:
    tried = []

    def pay() -> None:
        tried.append(1)
        raise FatalError("card stolen")

    await house.activity_worker(pay)
    await house.worker(say, call)
    assert (await house.run(say, "pay"))[:2] == ["FatalError", "card stolen"]
    handle = await house.start(call, "pay")
    with pytest.raises(FatalError, match="card stolen") as caught:
        await handle.result(timeout=10)
    assert caught.value.code == 598
    assert len(tried) == 2


@pytest.mark.parametrize("kind", [MaxedError, TimedOutError])
async def test_an_activity_that_says_itself_that_it_is_over_is_not_tried_again(
    house: House, kind: type[HotMeshError]
) -> None:
    tried = []

    def pay() -> None:
        tried.append(1)
        raise kind("no more")

    await house.activity_worker(pay)
    await house.worker(say, call)
    assert (await house.run(say, "pay"))[:2] == [kind.__name__, "no more"]
    handle = await house.start(call, "pay")
    with pytest.raises(kind, match="no more") as caught:
        await handle.result(timeout=10)
    assert caught.value.code == kind("").code
    assert len(tried) == 2


async def test_types_that_a_policy_names_are_not_tried_again(house: House) -> None:
    tried = []

    def pay() -> None:
        tried.append(1)
        raise OutOfStockError("gone")

    async def once() -> Any:
        policy = {**FAST, "non_retryable_error_types": [OutOfStockError]}
        mine = workflow.proxy_activities(task_queue="acts", retry_policy=policy)
        try:
            await mine.pay()
        except JobFailedError as error:
            return [error.code, error.type]

    await house.activity_worker(pay)
    await house.worker(once)
    assert await house.run(once) == [598, "OutOfStockError"]
    assert len(tried) == 1


async def test_an_activity_that_fails_once_succeeds_through_the_stream(house: House) -> None:
    seen = []

    def flaky() -> str:
        seen.append(activity.context().attempt)
        if len(seen) < 3:
            raise ConnectionError("try again")
        return "at last"

    await house.activity_worker(flaky)
    await house.worker(call)
    assert await house.run(call, "flaky", key="o-1") == "at last"
    assert seen == [1, 2, 3]
    assert house.steps("o-1") == [(1, "activity", "flaky", "done", "at last", 1)]


async def test_the_wait_between_attempts_is_durable_and_follows_the_policy(house: House) -> None:
    def failing() -> None:
        raise ValueError("no")

    async def patient() -> Any:
        policy = {"initial_interval": "10s", "backoff_coefficient": 2, "maximum_interval": "15s"}
        return await workflow.proxy_activities(task_queue="acts", retry_policy=policy).failing()

    await house.activity_worker(failing)
    await house.worker(patient)
    await house.start(patient)
    query = (
        "select round(extract(epoch from visible_at - now())) from my_app.streams"
        " where kind = 'activity' and state = 'delayed'"
    )
    delay = await wait_for(lambda: house.one(query), what="the delayed message")
    assert 13 <= delay <= 15


async def test_an_activity_that_returns_an_awaitable_without_being_async_is_told(
    house: House,
) -> None:
    async def inner() -> None: ...

    def outer() -> Any:
        return inner()

    await house.activity_worker(outer)
    await house.worker(say)
    assert "returned an awaitable" in (await house.run(say, "outer"))[1]


async def test_wrong_arguments_are_the_activity_s_type_error(house: House) -> None:
    def one(a: int) -> int:
        return a

    await house.activity_worker(one)
    await house.worker(say)
    assert (await house.run(say, "one", 1, 2))[2] == "TypeError"


# --- results --------------------------------------------------------------------------------------

LOOP: list[Any] = []
LOOP.append(LOOP)
BAD: dict[str, Any] = {
    "set": {1, 2},
    "object": object(),
    "nan": float("nan"),
    "infinity": [1, float("inf")],
    "nul": "a\x00b",
    "surrogate": {"name": "\ud800"},
    "bytes": b"x",
    "itself": LOOP,
    "key": {(1, 2): 3},
    "too large": "x" * (16 * 1024 * 1024 + 1),
    "digits": 10**5000,
    "decimal nan": Decimal("nan"),
}


@pytest.mark.parametrize("kind", list(BAD))
@pytest.mark.parametrize("inline", [True, False])
async def test_a_result_that_json_cannot_carry_fails_at_once_and_says_where(
    house: House, kind: str, inline: bool
) -> None:
    tried = []

    def give() -> Any:
        tried.append(1)
        return BAD[kind]

    await house.worker(say)
    if inline:
        await house.activity_worker(give)
        found = await house.run(say, "give")
    else:
        async with apart(house.dsn, give):
            found = await house.run(say, "give")
    assert found[0] == "FatalError", found
    assert 'result of activity "give"' in found[1]
    assert len(tried) == 1


GOOD: list[Any] = [
    None, True, 0, -1, 10**30, 1.5, 1e22, 1e-7, -0.0, 5e-324, "", "ü€😀", "\u2028\"\\", [], {},
    [1, [2, {"a": None}]], {"b": 1, "aa": 2, "a": {"z": 1, "y": [{"q": 1, "p": 2}]}},
    {1: "a", None: "b", False: "c", 2.5: "d"}, (1, 2), Decimal("1.50"),
    {"ä": 1, "zz": 2, "b": 3},
]  # fmt: skip


async def test_a_result_looks_to_the_code_just_as_in_every_replay(house: House) -> None:
    """Also in the order of a dict's keys: jsonb has its own."""
    seen: dict[str, list[str]] = {}

    def give(index: int) -> Any:
        return GOOD[index]

    async def flow() -> None:
        me = workflow.context().workflow_id
        seen[me] = mine = []
        mine += [repr(await acts.give(index)) for index in range(len(GOOD))]

    await house.worker(flow)
    await house.activity_worker(give)
    await house.run(flow, key="inline")
    async with apart(house.dsn, give):
        await house.workers[1].shutdown()
        await house.run(flow, key="streamed")
    assert seen["inline"] == seen["streamed"]


async def test_a_large_result_arrives_whole(house: House) -> None:
    def give() -> str:
        return "x" * 9_000_000

    async def size() -> int:
        return len(await acts.give()) + len(await acts.give())

    await house.activity_worker(give)
    await house.worker(size)
    assert await house.run(size) == 18_000_000


# --- how many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [True, False])
async def test_no_more_activities_run_at_once_than_the_worker_has_slots(
    house: House, inline: bool
) -> None:
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async def many() -> None:
        await asyncio.gather(*(acts.work() for _ in range(12)))

    await house.worker(many)
    if inline:
        await house.activity_worker(work, max_concurrent_activities=3)
        await house.run(many)
    else:
        async with apart(house.dsn, work, max_concurrent_activities=3):
            await house.run(many)
    assert most == 3


async def test_an_activity_of_another_queue_waits_for_a_worker_of_that_queue(house: House) -> None:
    def work() -> str:
        return "done"

    await house.activity_worker(work, queue="other")
    await house.worker(call)
    handle = await house.start(call, "work")
    query = "select count(*) from my_app.streams where kind = 'activity' and state = 'ready'"
    await wait_for(lambda: house.one(query) == 1)
    await house.activity_worker(work)
    assert await handle.result(timeout=10) == "done"
