"""`client.schedule`: recurring starts from Python, served by real workers."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from hotmesh import MemFlow, errors
from hotmesh.client import Client, SyncClient
from hotmesh.schedule import Schedule
from support.clock import Clock
from support.flows import wait_for
from support.hand import Connection

APP = "my-app"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    async with Client(dsn, APP) as client:
        yield client


async def report(number: int) -> int:
    return number


async def test_a_schedule_is_created_shown_paused_resumed_and_deleted(client: Client) -> None:
    made = await client.schedule.create(
        "nightly",
        workflow_name=report,
        args=[7],
        task_queue="reports",
        cron="30 2 * * mon-fri",
        timezone="Europe/Berlin",
        overlap="buffer_one",
        search={"who": "me"},
        expire="30 days",
        catchup_window=timedelta(hours=1),
        start_at=datetime(2040, 3, 1, tzinfo=timezone.utc),
        note="the report",
    )
    assert isinstance(made, Schedule)
    assert (made.name, made.workflow, made.args, made.queue) == (
        "nightly",
        "report",
        [7],
        "reports",
    )
    assert (made.cron, made.timezone, made.overlap) == (
        "30 2 * * mon-fri", "Europe/Berlin", "buffer_one"
    )  # fmt: skip
    assert made.next_tick == datetime(2040, 3, 1, 1, 30, tzinfo=timezone.utc)
    assert await client.schedule.list() == [made] == [await client.schedule.get("nightly")]
    paused = await client.schedule.pause("nightly", "no reports today")
    assert paused.paused_at is not None
    assert paused.note == "no reports today"
    assert (await client.schedule.resume("nightly")).paused_at is None
    await client.schedule.delete("nightly")
    assert await client.schedule.list() == []


async def test_an_interval_may_be_any_duration(client: Client) -> None:
    for index, every in enumerate(["90 minutes", timedelta(minutes=90), 5400]):
        made = await client.schedule.create(name=f"s{index}", workflow_name="w", every=every)
        assert made.every == timedelta(minutes=90)


def ended(db: Connection) -> list[str]:
    found = db.execute("select key from my_app.jobs where status = 0 order by id").fetchall()
    return [key for (key,) in found]


async def test_the_names_of_the_door_do_as_well(client: Client) -> None:
    made = await client.schedule.create(
        "s", workflow="w", queue="q", every="1h", options={"priority": 3, "note": "n"}
    )
    assert (made.workflow, made.queue, made.note) == ("w", "q", "n")
    assert made.options["priority"] == 3
    for twice in ({"workflow_name": "w"}, {"options": {"workflow": "v"}}, {"options": []}):
        with pytest.raises(errors.InvalidArgumentError, match=r"twice|options must"):
            await client.schedule.create("t", workflow="w", every="1h", **twice)  # type: ignore[misc]


async def test_workers_start_each_tick_once_and_serve_it(
    dsn: str, db: Connection, client: Client
) -> None:
    workers = [
        await MemFlow.Worker.create(connection=dsn, app_id=APP, task_queue="q", workflow=report)
        for _ in range(3)
    ]
    try:
        await client.schedule.create(
            "often",
            workflow_name=report,
            args=[3],
            task_queue="q",
            every="1 s",
            overlap="allow_all",
        )
        await wait_for(lambda: len(ended(db)) >= 3, 20)
        await client.schedule.pause("often")
        keys = sorted(ended(db))
        ticks = [datetime.fromisoformat(key.removeprefix("often-")[:-1]) for key in keys]
        gaps = {later - earlier for earlier, later in itertools.pairwise(ticks)}
        assert gaps == {timedelta(seconds=1)}
        assert await client.workflow.get_handle(workflow_id=keys[0]).result() == 3
    finally:
        for worker in workers:
            await worker.shutdown()


async def test_an_idle_worker_wakes_for_a_tick(dsn: str, db: Connection, client: Client) -> None:
    worker = await MemFlow.Worker.create(
        connection=dsn, app_id=APP, task_queue="q", workflow=report
    )
    try:
        made = await client.schedule.create(
            "s", workflow_name=report, args=[1], task_queue="q", every="5 s"
        )
        await wait_for(lambda: bool(ended(db)), 20)
        late = db.execute("select min(created_at) - %s from my_app.jobs", [made.next_tick])
        assert late.fetchall()[0][0] < timedelta(seconds=2.5), "no later than it looks by itself"
    finally:
        await worker.shutdown()


async def test_a_trigger_and_a_backfill_return_handles(client: Client, clock: Clock) -> None:
    clock.freeze("2030-01-01 12:00:30+00")
    await client.schedule.create("s", workflow_name=report, args=[1], cron="0 * * * *")
    triggered = await client.schedule.trigger("s")
    assert triggered.workflow_id == "s-2030-01-01T12:00:30Z"
    assert await triggered.status() == 1
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    filled = await client.schedule.backfill("s", noon - timedelta(hours=1), noon)
    assert [each.workflow_id for each in filled] == [
        "s-2030-01-01T11:00:00Z", "s-2030-01-01T12:00:00Z"
    ]  # fmt: skip
    assert await client.schedule.backfill("s", "2030-01-01T11:00Z", "2030-01-01T12:00Z") == []


async def test_create_is_part_of_the_callers_transaction(dsn: str, client: Client) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await client.schedule.create("s", workflow_name="w", cron="@daily", conn=conn)
        await conn.rollback()
    assert await client.schedule.list() == []


def test_the_blocking_twin_does_the_same(dsn: str, clock: Clock) -> None:
    clock.freeze("2030-01-01 12:00:30+00")
    with SyncClient(dsn, APP) as client:
        made = client.schedule.create("s", workflow_name="w", cron="@hourly", paused=True)
        assert client.schedule.list() == [made] == [client.schedule.get("s")]
        assert client.schedule.resume("s").paused_at is None
        assert client.schedule.pause("s").paused_at is not None
        assert client.schedule.trigger("s").workflow_id == "s-2030-01-01T12:00:30Z"
        [filled] = client.schedule.backfill("s", "2030-01-01T12:00Z", "2030-01-01T12:00Z")
        assert filled.status() == 1
        client.schedule.delete("s")
        with pytest.raises(errors.ScheduleNotFoundError, match='"s"'):
            client.schedule.get("s")


async def test_a_name_is_taken_unless_it_may_be_replaced(client: Client) -> None:
    await client.schedule.create("s", workflow_name="w", cron="@hourly")
    with pytest.raises(errors.ScheduleExistsError):
        await client.schedule.create("s", workflow_name="w", cron="@daily")
    kept = await client.schedule.create(
        "s", workflow_name="w", cron="@daily", on_conflict="existing"
    )
    assert kept.cron == "@hourly"
    changed = await client.schedule.create(
        "s", workflow_name="w", cron="@daily", on_conflict="replace"
    )
    assert changed.cron == "@daily"


@pytest.mark.parametrize(
    "bad",
    [
        {"cron": "never"}, {"cron": 5}, {"cron": "@daily", "every": "1 day"}, {}, {"every": "soon"},
        {"every": 0}, {"cron": "@daily", "timezone": "Mars"}, {"cron": "@daily", "overlap": "x"},
        {"cron": "@daily", "colour": 1}, {"cron": "@daily", "args": 5},
        {"cron": "@daily", "end_at": "2001-01-01"}, {"cron": "@daily", "catchup_window": "1 s"},
        {"cron": "@daily", "workflow_name": None}, {"cron": "@daily", "paused": "perhaps"},
        {"cron": "@daily", "start_at": 5}, {"cron": "@daily", "workflow_id": "x"},
    ],
    ids=str,
)  # fmt: skip
async def test_what_can_not_be_a_schedule_is_refused(client: Client, bad: Any) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        await client.schedule.create("s", **{"workflow_name": "w", **bad})
    assert await client.schedule.list() == []


@pytest.mark.parametrize("name", ["pause", "resume", "delete", "get", "trigger"])
async def test_a_schedule_that_is_not_there_is_told(client: Client, name: str) -> None:
    with pytest.raises(errors.ScheduleNotFoundError):
        await getattr(client.schedule, name)("nobody")


async def test_a_backfill_needs_two_known_instants(client: Client) -> None:
    await client.schedule.create("s", workflow_name="w", cron="@hourly")
    with pytest.raises(errors.InvalidArgumentError, match="time zone"):
        await client.schedule.backfill("s", datetime(2020, 1, 1), "2020-01-02")
    with pytest.raises(errors.InvalidArgumentError, match="1000 ticks"):
        await client.schedule.backfill("s", "2020-01-01", "2021-01-01")
