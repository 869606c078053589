"""Entities in Python: in workflow code, where each command counts once, and from outside."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from hotmesh import SyncClient, errors, workflow
from hotmesh.entity import Change
from support.flows import FAST, House, wait_for

acts = workflow.proxy_activities(task_queue="orders", retry_policy=FAST)


# --- in workflow code -----------------------------------------------------------------------------


async def claims_review(case_id: str) -> Any:
    entity = await workflow.entity()
    await entity.set({"caseId": case_id, "stage": "verification", "retries": 0, "notes": []})
    await entity.merge({"aiSummary": {"confidence": 0.93}, "stage": "approval"})
    await entity.append("notes", {"reviewer": "ops1"})
    await entity.increment("retries", 1)
    return await entity.get()


async def every_command(_: None) -> list[Any]:
    entity = await workflow.entity()
    return [
        await entity.set({"list": [1], "deep": {"a": 1}}),
        await entity.set("deep.b", 2),
        await entity.merge("deep", {"c": {"d": 3}}),
        await entity.append("list", 2),
        await entity.prepend("list", 0),
        await entity.remove("list", -1),
        await entity.increment("n"),
        await entity.increment("n", Decimal("0.5")),
        await entity.toggle("flag"),
        await entity.set_if_not_exists("n", 9),
        await entity.delete("deep.c"),
        await entity.get("deep.b"),
        await entity.get("nothing"),
        await entity.get(),
    ]


ANSWERS = [
    {"list": [1], "deep": {"a": 1}},
    {"list": [1], "deep": {"a": 1, "b": 2}},
    {"list": [1], "deep": {"a": 1, "b": 2, "c": {"d": 3}}},
    [1, 2], [0, 1, 2], [0, 1], 1, 1.5, True, 1.5,
    {"list": [0, 1], "deep": {"a": 1, "b": 2}, "n": 1.5, "flag": True},
    2, None,
    {"list": [0, 1], "deep": {"a": 1, "b": 2}, "n": 1.5, "flag": True},
]  # fmt: skip


async def test_the_seeds_claims_review(house: House) -> None:
    await house.worker(claims_review)
    assert await house.run(claims_review, "A42", key="c") == {
        "caseId": "A42", "stage": "approval", "retries": 1, "notes": [{"reviewer": "ops1"}],
        "aiSummary": {"confidence": 0.93},
    }  # fmt: skip
    assert house.one("select context ->> 'stage' from my_app.jobs") == "approval"


async def test_every_command_answers(house: House) -> None:
    await house.worker(every_command)
    assert await house.run(every_command, None, key="e") == ANSWERS
    assert [step[1:3] for step in house.steps("e")][:2] == [("entity", "set")] * 2


async def again(amount: int) -> list[Any]:
    entity = await workflow.entity()
    found = [await entity.increment("n", amount), await entity.append("seen", amount)]
    await workflow.sleep_for(0.05)
    return [*found, await entity.increment("n", amount)]


async def test_a_replay_repeats_the_answers_and_changes_nothing(house: House) -> None:
    worker = await house.worker(again)
    handle = await house.start(again, 5, key="r")
    await wait_for(lambda: house.one("select context -> 'seen' from my_app.jobs") == [5])
    await worker.shutdown()
    await handle.entity().increment("n", 100)
    await house.worker(again)
    assert await handle.result(timeout=20) == [5, [5], 110]
    assert await handle.entity().get() == {"n": 110, "seen": [5]}
    assert house.db.execute(
        "select version, operation, dimension, sequence from my_app.entity_log order by version"
    ).fetchall() == [
        (1, "increment", "", 1), (2, "append", "", 2), (3, "increment", None, None),
        (4, "increment", "", 4),
    ]  # fmt: skip


async def refusal(command: Awaitable[Any]) -> str:
    try:
        await command
    except errors.HotMeshError as error:
        return f"{type(error).__name__} {error.sqlstate}"
    return "none"


async def refused(_: None) -> list[str]:
    entity = await workflow.entity()
    await entity.set({"text": "x", "list": [], "n": 1})
    return [
        await refusal(entity.increment("text")),
        await refusal(entity.remove("list", 0)),
        await refusal(entity.toggle("n")),
        await refusal(entity.set([1])),  # type: ignore[arg-type, call-overload]
        await refusal(entity.set("n", 1000)),
        await entity.get("n"),
    ]


async def test_what_an_entity_refuses_is_raised_in_the_workflow(house: House) -> None:
    house.db.execute(
        "alter table my_app.jobs add constraint n_is_small check ((context ->> 'n')::numeric < 100)"
    )
    await house.worker(refused)
    assert await house.run(refused, None, key="x") == [
        "EntityTypeError MSH80", "EntityIndexError MSH81", "EntityTypeError MSH80",
        "EntityTypeError MSH80", "ConstraintError 23514", 1,
    ]  # fmt: skip


async def kept_within(_: None) -> Any:
    entity = await workflow.entity()
    await entity.set({"stage": "open"})
    refusals = [
        await refusal(entity.merge({"stage": "gone"})),
        await refusal(entity.set("stage", "gone")),
    ]
    return refusals, await entity.get()


async def test_what_a_trigger_of_the_owner_refuses_is_raised_in_the_workflow(house: House) -> None:
    house.db.execute(
        "create function stay() returns trigger language plpgsql as $$ begin"
        " raise exception 'stages are open' using hint = 'stay'; end $$;"
        "create trigger stay before update of context on my_app.jobs for each row"
        " when (new.context ->> 'stage' = 'gone') execute function stay()"
    )
    await house.worker(kept_within)
    handle = await house.start(kept_within, None, key="x")
    assert await handle.result(timeout=20) == [["ConstraintError P0001"] * 2, {"stage": "open"}]
    with pytest.raises(errors.ConstraintError, match="stages are open"):
        await handle.entity().merge({"stage": "gone"})
    assert await handle.entity().get() == {"stage": "open"}


async def parallel(count: int) -> Any:
    entity = await workflow.entity()
    await workflow.all(*(entity.merge({"parts": {str(n): {"done": True}}}) for n in range(count)))
    return sorted(map(int, await entity.get("parts")))


async def test_commands_side_by_side_keep_each_other(house: House) -> None:
    await house.worker(parallel)
    assert await house.run(parallel, 20) == list(range(20))


async def test_workflow_code_gives_no_request(house: House) -> None:
    async def asks(_: None) -> Any:
        entity = await workflow.entity()
        return await entity.toggle("x", request="r")

    await house.worker(asks)
    with pytest.raises(errors.JobFailedError, match="no request"):
        await house.run(asks, None)
    with pytest.raises(errors.InvalidArgumentError, match="outside of a workflow"):
        await workflow.entity()


# --- from outside ---------------------------------------------------------------------------------


async def test_every_command_from_outside(house: House) -> None:
    entity = (await house.start("nobody", key="o")).entity()
    answers = [
        await entity.set({"list": [1], "deep": {"a": 1}}),
        await entity.set("deep.b", 2),
        await entity.merge("deep", {"c": {"d": 3}}),
        await entity.append("list", 2),
        await entity.prepend("list", 0),
        await entity.remove("list", -1),
        await entity.increment("n"),
        await entity.increment("n", 0.5),
        await entity.toggle("flag"),
        await entity.set_if_not_exists("n", 9),
        await entity.delete("deep.c"),
        await entity.get("deep.b"),
        await entity.get("nothing"),
        await entity.get(),
    ]
    assert answers == ANSWERS


async def test_the_blocking_twin(house: House, dsn: str) -> None:
    await house.start("nobody", key="s")
    with SyncClient(dsn, "my-app") as client:
        entity = client.workflow.get_handle(workflow_id="s").entity()
        assert entity.merge({"a": {"b": [1]}}) == {"a": {"b": [1]}}
        assert entity.append("a.b", 2, request="once") == [1, 2]
        assert entity.append("a.b", 2, request="once") == [1, 2]
        assert entity.apply([
            {"operation": "increment", "path": "n", "amount": 2},
            {"operation": "get", "path": "a.b.-1"},
        ]) == [2, 2]  # fmt: skip
        assert entity.get("a.b") == [1, 2]


async def test_what_is_refused_outside_names_the_job(house: House) -> None:
    entity = (await house.start("nobody", key="t")).entity()
    await entity.set({"text": "x"})
    with pytest.raises(errors.EntityTypeError, match="text") as caught:
        await entity.append("text", 1)
    assert caught.value.job_id == "t"
    assert isinstance(caught.value, errors.EntityError)
    for bad in (math.nan, math.inf, "1", True, None):
        with pytest.raises(errors.InvalidArgumentError):
            await entity.increment("n", bad)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError, match="arguments"):
        await entity.set(1, 2, 3)  # type: ignore[call-overload]
    with pytest.raises(errors.InvalidArgumentError):
        await entity.set({"n": math.nan})
    with pytest.raises(errors.JobNotFoundError):
        await house.client.workflow.get_handle(workflow_id="nobody").entity().get()
    assert await entity.get() == {"text": "x"}


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("apply", (5,)), ("apply", ("x",)), ("apply", ({},)), ("apply", ([],)), ("apply", ([1],)),
        ("history", (-1,)), ("history", ("x",)), ("history", (0, -1)), ("diff", ("a", 1)),
        ("diff", (0, 1.5)), ("at", ("x",)), ("at", (None,)), ("at", (datetime(2026, 1, 1),)),
        ("increment", ("n", "1")), ("increment", ("n", True)), ("remove", ("list", 1.0)),
        ("set", ()), ("set", (1, 2, 3)), ("append", (7, 1)), ("toggle", (None,)),
    ],
)  # fmt: skip
async def test_arguments_that_make_no_sense_are_refused(
    house: House, verb: str, args: tuple[Any, ...]
) -> None:
    handle = await house.start("nobody", key="b")
    with pytest.raises(errors.InvalidArgumentError) as told:
        await getattr(handle.entity(), verb)(*args)
    assert "syntax for type" not in str(told.value)
    assert await handle.entity().get() == {}


async def test_set_and_merge_take_their_arguments_by_name(house: House) -> None:
    entity = (await house.start("nobody", key="n")).entity()
    assert await entity.set(value={"a": 1}) == {"a": 1}
    assert await entity.merge(value={"b": 2}) == {"a": 1, "b": 2}
    assert await entity.set(path="c.d", value=3) == {"a": 1, "b": 2, "c": {"d": 3}}
    assert await entity.merge("c", value={"e": 4}) == {"a": 1, "b": 2, "c": {"d": 3, "e": 4}}
    for arguments, named in ((), {"path": "a"}), (({},), {"vaule": 1}), ((1, 2), {"path": "a"}):
        with pytest.raises(errors.InvalidArgumentError, match="a path and a value"):
            await entity.set(*arguments, **named)


async def test_large_whole_numbers_stay_exact(house: House) -> None:
    entity = (await house.start("nobody", key="n")).entity()
    assert await entity.increment("n", 2**70) == 2**70
    assert await entity.increment("n") == 2**70 + 1


async def test_values_of_many_types_are_written_as_payloads_are(house: House) -> None:
    entity = (await house.start("nobody", key="v")).entity()
    at = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    await entity.set({"at": at, "price": Decimal("1.10"), "tags": ["b", "a"], "pair": (1, 2)})
    assert house.one("select context::text from my_app.jobs") == (
        '{"at": "2026-01-02T03:04:00+00:00", "pair": [1, 2], "tags": ["b", "a"], "price": 1.10}'
    )
    loop: list[Any] = []
    loop.append(loop)
    for bad in (object(), loop):
        with pytest.raises(errors.InvalidArgumentError):
            await entity.append("list", bad)


# --- history and forks ----------------------------------------------------------------------------


async def test_the_history_of_an_entity(house: House, dsn: str) -> None:
    entity = (await house.start("nobody", key="h")).entity()
    await entity.set({"n": 1})
    before = house.one("select clock_timestamp()")
    await entity.increment("n", 2, request="once")
    changes = await entity.history()
    assert [change[:4] for change in changes] == [
        (1, "set", None, {"n": 1}),
        (2, "increment", "n", 2),
    ]
    assert (changes[1].request, changes[1].dimension, changes[1].role) == (
        "once", None, house.one("select session_user::text"),
    )  # fmt: skip
    assert await entity.history(after=1, limit=5) == changes[1:]
    assert [await entity.at(when) for when in (0, 1, 2, before)] == [
        {},
        {"n": 1},
        {"n": 3},
        {"n": 1},
    ]
    assert await entity.diff(1, 2) == [("n", 1, 3)]
    with pytest.raises(errors.EntityVersionError, match="version 3"):
        await entity.at(3)
    with pytest.raises(errors.InvalidArgumentError, match="time zone"):
        await entity.at(datetime(2026, 1, 1))
    with SyncClient(dsn, "my-app") as client:
        handle = client.workflow.get_handle(workflow_id="h")
        twin = handle.entity()
        assert (twin.history(), twin.at(1), twin.diff(1, 2)) == (
            changes, {"n": 1}, await entity.diff(1, 2),
        )  # fmt: skip
        assert [change for _, change in zip("12", handle.watch(), strict=False)] == changes
        assert client.workflow.fork("h", 1, workflow_id="f1").entity().get() == {"n": 1}


async def test_a_fork_runs_on_its_own_memory(house: House) -> None:
    async def counts(amount: int) -> Any:
        return await (await workflow.entity()).increment("n", amount)

    await house.worker(counts)
    assert await house.run(counts, 5, key="one") == 5
    fork = await house.client.workflow.fork("one", workflow_id="two")
    assert await fork.result(timeout=20) == 10
    fork = await house.client.workflow.fork("one", 0, args=[1])
    assert await fork.result(timeout=20) == 1
    assert await house.client.workflow.get_handle(workflow_id="one").entity().get("n") == 5
    with pytest.raises(errors.DuplicateJobError):
        await house.client.workflow.fork("one", workflow_id="two")


# --- watching -------------------------------------------------------------------------------------


async def take(changes: AsyncIterator[Change], count: int) -> list[tuple[int, str]]:
    """The next changes: version and operation."""
    found = [await asyncio.wait_for(anext(changes), 10) for _ in range(count)]
    return [(change.version, change.operation) for change in found]


async def test_a_watcher_sees_all_changes_in_order_and_can_go_on_later(house: House) -> None:
    handle = await house.start("nobody", key="w")
    await handle.entity().set({"n": 1})
    async with aclosing(handle.watch()) as changes:
        assert await take(changes, 1) == [(1, "set")]
        await handle.entity().increment("n")
        house.db.execute("update my_app.jobs set context = '{}'")
        assert await take(changes, 2) == [(2, "increment"), (3, "update")]
    await handle.entity().toggle("away")
    async with aclosing(handle.watch(since=3)) as changes:
        assert await take(changes, 1) == [(4, "toggle")]


async def test_a_watcher_is_told_and_survives_a_lost_connection(house: House) -> None:
    handle = await house.start("nobody", key="w")
    async with aclosing(handle.watch()) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        watching = house.client._watching
        await wait_for(lambda: watching._listener is not None and watching._listener.works)
        await handle.entity().increment("n")
        assert (await asyncio.wait_for(waiting, 3)).version == 1
        ended = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where query ~* '^listen'"
        )
        waiting = asyncio.ensure_future(anext(changes))
        await wait_for(lambda: house.one(ended) or watching._listener is None)
        await handle.entity().increment("n")
        assert (await asyncio.wait_for(waiting, 10)).version == 2
    assert watching._listener is None


async def test_a_watcher_hears_of_a_gap(house: House) -> None:
    handle = await house.start("nobody", key="w")
    await handle.entity().apply([{"operation": "increment", "path": "n"}] * 3)
    house.db.execute("delete from my_app.entity_log where version = 2")
    async with aclosing(handle.watch()) as changes:
        assert (await anext(changes)).version == 1
        with pytest.raises(errors.EntityVersionError, match="versions 2 to 2"):
            await anext(changes)
    with pytest.raises(errors.JobNotFoundError):
        await anext(house.client.workflow.get_handle(workflow_id="nobody").watch())
