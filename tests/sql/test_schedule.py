"""Schedules: one job per tick whoever turns, overlap, pause, downtime, backfill, clocks that jump."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import Connection, Hand, one, timer
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze("2030-01-01 00:00:10+00")
    return clock


def create(connection: Connection, name: str = "s", **more: Any) -> Any:
    """A schedule of the workflow `order`, by default each minute."""
    options = more.pop("options", {})
    given = {"cron": "* * * * *", **more} if "every" not in more else more
    names = "".join(f", {each} => %s" for each in given)
    return row(
        connection,
        f"select * from hotmesh.schedule_create('my-app', %s, 'order', options => %s{names})",
        name, Jsonb(options), *given.values(),
    )  # fmt: skip


def row(connection: Connection, query: str, *params: Any) -> Any:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query, params).fetchone()


def schedule(connection: Connection, name: str = "s") -> Any:
    return row(connection, "select * from hotmesh.schedule_list('my-app', %s)", name)


def keys(db: Connection) -> list[str]:
    """What was started, without the name of the schedule and the seconds, in order."""
    found = db.execute("select key from my_app.jobs_all order by id").fetchall()
    return [key.removeprefix("s-2030-01-").removesuffix(":00Z") for (key,) in found]


def turn(connection: Connection) -> None:
    Hand(connection, "other", workflows=[("other", "thing")], activities=[]).turn()


def settle_all(connection: Connection) -> None:
    hand = Hand(connection)
    for task in hand.claim(take=100):
        hand.settle(task)


# --- ticks ----------------------------------------------------------------------------------------


def test_each_tick_starts_one_job_that_knows_its_schedule(
    db: Connection, caller: Connection, time: Clock
) -> None:
    made = create(caller, args=Jsonb([7]), queue="q", overlap="allow_all",
                  options={"search": {"who": "me"}, "entity": "thing", "priority": 3})  # fmt: skip
    assert f"{made.next_tick:%H:%M:%S}" == "00:01:00"
    turn(caller)
    assert keys(db) == []
    time.advance("50 seconds")
    turn(caller)
    turn(caller)
    assert keys(db) == ["01T00:01"]
    job = row(db, "select * from my_app.jobs")
    assert (job.topic, job.queue, job.entity) == ("order", "q", "thing")
    facts = db.execute("select field, value from my_app.jobs_attributes order by 1").fetchall()
    assert facts == [
        ("_schedule", "s"), ("_scheduled_at", "2030-01-01T00:01:00Z"), ("_who", "me"), ("input", [7])
    ]  # fmt: skip
    assert one(db, "select priority from my_app.streams") == 3
    time.advance("1 minute")
    turn(caller)
    assert keys(db) == ["01T00:01", "01T00:02"]
    now = schedule(caller)
    assert (now.started, f"{now.last_tick:%M}", f"{now.next_tick:%M}") == (2, "02", "03")


def test_an_interval_counts_from_1970_moved_by_its_offset(caller: Connection) -> None:
    ticks = [
        create(caller, "a", every="10 minutes").next_tick,
        create(caller, "b", every="10 minutes", options={"offset": "2m"}).next_tick,
        create(caller, "c", every="0.7 seconds").next_tick,
        create(caller, "d", every="1 day").next_tick,
    ]
    assert [f"{tick:%d %H:%M:%S.%f}" for tick in ticks] == [
        "01 00:10:00.000000", "01 00:02:00.000000", "01 00:00:10.600000", "02 00:00:00.000000"
    ]  # fmt: skip


def test_a_tick_within_a_second_has_a_key_of_its_own(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, every="250 ms", overlap="allow_all")
    time.advance("0.5 seconds")
    turn(caller)
    assert keys(db) == ["01T00:00:10.25Z", "01T00:00:10.5Z"]


def test_the_turn_says_when_the_next_tick_is_due(caller: Connection, time: Clock) -> None:
    create(caller)
    hand = Hand(caller)
    assert [r.due for r in hand.turn() if r.answer == "next"] == [50.0]
    time.advance("50 seconds")
    assert [t.key for t in hand.claim()] == ["s-2030-01-01T00:01:00Z"], (
        "served by the turn it is due"
    )


def test_it_ticks_in_its_own_time_zone(db: Connection, caller: Connection, time: Clock) -> None:
    time.freeze("2030-03-30 12:00+00")
    create(caller, cron="30 2 * * *", timezone="europe/berlin")
    for _ in range(3):
        time.advance("24 hours")
        turn(caller)
        settle_all(caller)
    found = [key for (key,) in db.execute("select key from my_app.jobs order by id").fetchall()]
    assert found == ["s-2030-03-31T01:00:00Z", "s-2030-04-01T00:30:00Z", "s-2030-04-02T00:30:00Z"]
    assert schedule(caller).timezone == "Europe/Berlin"


def test_it_begins_and_ends_when_it_is_told_to(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, overlap="allow_all", timezone="Asia/Tokyo", options={
        "start_at": "2030-01-01 09:03", "end_at": "2030-01-01T00:05:00Z"})  # fmt: skip
    for _ in range(10):
        time.advance("1 minute")
        turn(caller)
    assert keys(db) == ["01T00:03", "01T00:04", "01T00:05"]
    assert schedule(caller).next_tick is None
    assert [r.due for r in Hand(caller).turn() if r.answer == "next"] == [None]


# --- overlap --------------------------------------------------------------------------------------


def test_skip_drops_ticks_while_a_job_is_open(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    for _ in range(3):
        time.advance("1 minute")
        turn(caller)
    assert keys(db) == ["01T00:01"]
    settle_all(caller)
    time.advance("1 minute")
    turn(caller)
    assert keys(db) == ["01T00:01", "01T00:04"]
    assert schedule(caller).skipped == 2


@pytest.mark.parametrize(
    ("overlap", "kept", "skipped"),
    [("buffer_one", ["01T00:02"], 1), ("buffer_all", ["01T00:02", "01T00:03"], 0)],
)
def test_buffered_ticks_start_one_after_the_other_as_jobs_end(
    db: Connection, caller: Connection, time: Clock, overlap: str, kept: list[str], skipped: int
) -> None:
    create(caller, overlap=overlap)
    for _ in range(3):
        time.advance("1 minute")
        turn(caller)
    assert keys(db) == ["01T00:01"]
    for count in range(1, len(kept) + 1):
        settle_all(caller)
        time.advance("1 second")
        turn(caller)
        assert keys(db) == ["01T00:01", *kept[:count]]
    settle_all(caller)
    time.advance("2 seconds")
    turn(caller)
    assert keys(db) == ["01T00:01", *kept]
    assert schedule(caller).skipped == skipped


def test_terminate_other_ends_the_open_job_and_takes_its_place(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, overlap="terminate_other")
    for _ in range(2):
        time.advance("1 minute")
        turn(caller)
    turn(caller)
    found = db.execute("select status > 0 from my_app.jobs order by id").fetchall()
    assert found == [(False,), (True,)]
    state = one(caller, "select hotmesh.job_state('my-app', 's-2030-01-01T00:01:00Z', true)")
    assert 'schedule "s"' in state["metadata"]["err"]["message"]


def test_cancel_other_asks_the_open_job_to_stop_and_starts_when_it_has(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, overlap="cancel_other")
    time.advance("1 minute")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[timer(1, 3600)], running=True)
    for _ in range(3):
        time.advance("1 minute")
        turn(caller)
    assert keys(db) == ["01T00:01"]
    assert one(db, "select count(*) from my_app.jobs_attributes where kind = 'cancel'") == 1
    hand.news(run)
    db.execute("select hotmesh.job_interrupt('my-app', 's-2030-01-01T00:01:00Z')")
    turn(caller)
    time.advance("1 second")
    turn(caller)
    assert keys(db) == ["01T00:01", "01T00:04"]
    assert schedule(caller).skipped == 2


def test_a_parent_that_is_gone_pauses_the_schedule(
    db: Connection, caller: Connection, time: Clock
) -> None:
    caller.execute("select hotmesh.job_start('my-app', 'order', 'p', options => '{\"expire\": 0}')")
    create(caller, options={"parent": "p"})
    settle_all(caller)
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    time.advance("1 minute")
    turn(caller)
    assert schedule(caller).error["sqlstate"] == "MSH40"


def test_allow_all_starts_them_all(db: Connection, caller: Connection, time: Clock) -> None:
    create(caller, overlap="allow_all")
    for _ in range(3):
        time.advance("1 minute")
        turn(caller)
    assert keys(db) == ["01T00:01", "01T00:02", "01T00:03"]


# --- pause, downtime, clocks ----------------------------------------------------------------------


def test_a_paused_schedule_starts_nothing_and_makes_up_for_nothing(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, options={"paused": True, "note": "later"})
    time.advance("5 minutes")
    turn(caller)
    assert keys(db) == []
    assert schedule(caller).note == "later"
    assert row(caller, "select * from hotmesh.schedule_resume('my-app', 's')").paused_at is None
    time.advance("30 seconds")
    turn(caller)
    assert keys(db) == []
    time.advance("20 seconds")
    turn(caller)
    assert keys(db) == ["01T00:06"]
    assert row(caller, "select * from hotmesh.schedule_pause('my-app', 's', 'why')").note == "why"
    paused = schedule(caller).paused_at
    time.advance("5 minutes")
    caller.execute("select hotmesh.schedule_pause('my-app', 's')")
    turn(caller)
    assert keys(db) == ["01T00:06"]
    assert schedule(caller).paused_at == paused


@pytest.mark.parametrize(
    ("options", "down", "expected"),
    [
        ({}, "3 minutes 30 seconds", ["01T00:03"]),
        ({}, "40 seconds", []),
        ({"catchup_window": "150 s"}, "5 minutes", ["01T00:03", "01T00:04", "01T00:05"]),
        ({"catchup_window": "1 day"}, "3 hours", [f"01T{m // 60:02}:{m % 60:02}" for m in range(1, 181)]),
    ],
)  # fmt: skip
def test_after_downtime_it_catches_up_as_far_as_its_window_goes(
    db: Connection, caller: Connection, time: Clock, options: Any, down: str, expected: list[str]
) -> None:
    create(caller, overlap="allow_all", options=options)
    time.advance(down)
    for _ in range(3):
        turn(caller)
    assert keys(db) == expected
    assert schedule(caller).next_tick > time.now()


def test_of_ticks_missed_for_long_the_last_one_starts(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, cron="0 2 * * *")
    time.advance("5 days 3 hours")
    turn(caller)
    turn(caller)
    assert keys(db) == ["06T02:00"]


@pytest.mark.parametrize("jump", ["1 hour", "400 days"])
def test_a_clock_that_jumps_starts_no_tick_twice_and_stalls_nothing(
    db: Connection, caller: Connection, time: Clock, jump: str
) -> None:
    create(caller, overlap="allow_all")
    time.advance("1 minute")
    turn(caller)
    time.advance(jump)
    turn(caller)
    ahead = keys(db)
    assert len(ahead) == 2
    time.advance(f"-{jump}")
    for _ in range(3):
        turn(caller)
        time.advance("1 minute")
    turn(caller)
    assert keys(db) == [*ahead, "01T00:02", "01T00:03", "01T00:04"]
    time.advance("-3 minutes")
    for _ in range(5):
        turn(caller)
        time.advance("1 minute")
    assert keys(db)[2:] == ["01T00:02", "01T00:03", "01T00:04", "01T00:05"]


def test_a_job_that_was_archived_is_not_started_again(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller, options={"expire": 0})
    time.advance("1 minute")
    settle_all(caller)
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    time.advance("-61 seconds")
    turn(caller)
    time.advance("61 seconds")
    turn(caller)
    assert keys(db) == ["01T00:01"]


# --- by hand --------------------------------------------------------------------------------------


def test_a_backfill_starts_what_is_missing_and_can_be_repeated(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    time.advance("5 minutes")
    turn(caller)
    fill = (
        "select key from hotmesh.schedule_backfill"
        "('my-app', 's', '2030-01-01 00:02Z', '2030-01-01 00:05Z')"
    )
    assert [key[-9:] for (key,) in caller.execute(fill)] == ["00:02:00Z", "00:03:00Z", "00:04:00Z"]
    assert caller.execute(fill).fetchall() == []
    assert schedule(caller).started == 4
    time.advance("1 minute")
    settle_all(caller)
    assert len(keys(db)) == 4


def test_a_trigger_starts_one_now_paused_or_not(db: Connection, caller: Connection) -> None:
    create(caller, options={"paused": True})
    job = row(caller, "select * from hotmesh.schedule_trigger('my-app', 's')")
    assert (job.key, job.status) == ("s-2030-01-01T00:00:10Z", 1)
    assert schedule(caller).running == [job.key]
    hand = Hand(caller)
    hand.settle(hand.take())
    assert schedule(caller).running == []


def test_a_schedule_that_is_deleted_leaves_its_jobs(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    time.advance("1 minute")
    turn(caller)
    caller.execute("select hotmesh.schedule_delete('my-app', 's')")
    time.advance("1 minute")
    turn(caller)
    assert keys(db) == ["01T00:01"]
    assert schedule(caller) is None


def test_a_name_that_is_taken_is_refused_kept_or_changed(caller: Connection, time: Clock) -> None:
    create(caller)
    time.advance("1 minute")
    turn(caller)
    with pytest.raises(psycopg.Error) as refused:
        create(caller)
    assert refused.value.sqlstate == "MSH87"
    kept = create(caller, cron="0 5 * * *", options={"on_conflict": "existing"})
    assert (kept.cron, kept.started) == ("* * * * *", 1)
    changed = create(caller, every="1 hour", options={"on_conflict": "replace"})
    assert (changed.cron, changed.started, f"{changed.next_tick:%H:%M}") == (None, 1, "01:00")


@pytest.mark.parametrize(
    "call", ["schedule_pause", "schedule_resume", "schedule_delete", "schedule_trigger"]
)
def test_a_schedule_that_is_not_there_is_told(caller: Connection, call: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        caller.execute(f"select hotmesh.{call}('my-app', 'nobody')")
    assert refused.value.sqlstate == "MSH86"


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"cron": "61 * * * *"}, {"cron": "0 0 31 2 *"}, {"cron": ""}, {"cron": None},
        {"every": "1 month"}, {"every": "1 ms"}, {"every": "-1 day"}, {"every": None},
        {"every": "1 day", "cron": "@daily"}, {"overlap": "sometimes"}, {"overlap": None},
        {"timezone": "Mars/Base"}, {"timezone": "EST5EDT+7"}, {"timezone": None},
        {"name": ""}, {"name": "x" * 501}, {"args": Jsonb({})},
        {"options": []}, {"options": {"colour": 1}}, {"options": {"catchup_window": "1 s"}},
        {"options": {"start_at": "soon"}}, {"options": {"end_at": "2029-01-01"}},
        {"options": {"start_at": 5}}, {"options": {"offset": "-1"}}, {"options": {"paused": "no"}},
        {"options": {"on_conflict": "maybe"}}, {"options": {"retry_policy": {"a": 1}}},
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_a_schedule_is_refused_at_once(caller: Connection, bad: Any) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        create(caller, bad.pop("name", "s"), **bad)
    assert refused.value.diag.message_hint
    assert caller.execute("select hotmesh.schedule_list('my-app')").fetchall() == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2029-12-01", "2030-01-01"), ("2030-01-01", "2029-12-31"), ("2029-12-31", "2030-01-02"),
        (None, "2029-12-31"), ("-infinity", "2029-12-31"),
    ],
)  # fmt: skip
def test_a_backfill_has_two_ends_in_the_past_and_a_bound(
    db: Connection, caller: Connection, start: Any, end: Any
) -> None:
    create(caller)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        caller.execute("select hotmesh.schedule_backfill('my-app', 's', %s, %s)", [start, end])
    assert keys(db) == []


def test_a_start_that_is_refused_pauses_its_schedule_and_nothing_else(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    create(caller, "t")
    db.execute("alter table my_app.jobs add constraint no_s check (key not like 's-%')")
    time.advance("1 minute")
    turn(caller)
    assert [key[:2] for (key,) in db.execute("select key from my_app.jobs")] == ["t-"]
    paused = schedule(caller)
    assert paused.paused_at == time.now()
    assert "no_s" in paused.error["message"]
    db.execute("alter table my_app.jobs drop constraint no_s")
    assert row(caller, "select * from hotmesh.schedule_resume('my-app', 's')").error is None
    time.advance("1 minute")
    turn(caller)
    assert schedule(caller).started == 1


@pytest.mark.parametrize("state", ["UE001", "08006", "55P03", "P0001", "0A000", "XX001"])
def test_whatever_a_trigger_of_the_owner_raises_pauses_one_schedule(
    db: Connection, caller: Connection, time: Clock, state: str
) -> None:
    create(caller)
    create(caller, "t", overlap="allow_all")
    db.execute(
        f"""
create function public.odd() returns trigger language plpgsql as $$ begin
    if new.key like 's-%' then
        raise exception 'no such luck' using errcode = '{state}', hint = 'Wait.';
    end if;
    return new;
end $$"""
    )
    db.execute("create trigger odd before insert on my_app.jobs for each row"
               " execute function public.odd()")  # fmt: skip
    time.advance("1 minute")
    turn(caller)
    assert [key[:2] for (key,) in db.execute("select key from my_app.jobs")] == ["t-"]
    paused = schedule(caller)
    assert paused.paused_at == time.now()
    assert paused.error == {
        "sqlstate": state, "message": "no such luck", "detail": "", "hint": "Wait."
    }  # fmt: skip
    time.advance("1 minute")
    turn(caller)
    assert (schedule(caller).started, schedule(caller, "t").started) == (0, 2)


def test_a_turn_that_dies_starts_nothing_and_the_next_one_does(
    db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    time.advance("1 minute")
    with caller.transaction(force_rollback=True):
        turn(caller)
        assert schedule(caller).started == 1
    assert keys(db) == []
    turn(caller)
    assert keys(db) == ["01T00:01"]


def test_a_schedule_that_somebody_holds_stops_no_turn(
    sessions: Sessions, db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    create(caller, "t", overlap="allow_all")
    (a,) = sessions("a")
    a.begin()
    a.run("select hotmesh.schedule_pause('my-app', 's')")
    time.advance("1 minute")
    turn(caller)
    assert [key[:2] for (key,) in db.execute("select key from my_app.jobs")] == ["t-"]
    a.rollback()
    turn(caller)
    assert len(keys(db)) == 2


def test_a_program_that_makes_sure_of_its_schedule_stops_no_tick(
    sessions: Sessions, db: Connection, caller: Connection, time: Clock
) -> None:
    create(caller)
    (a,) = sessions("a")
    a.begin()
    a.run(
        "select hotmesh.schedule_create('my-app', 's', 'order', cron => '@daily',"
        """ options => '{"on_conflict": "existing"}')"""
    )
    time.advance("1 minute")
    turn(caller)
    assert keys(db) == ["01T00:01"]
    a.rollback()


def test_many_workers_start_each_tick_once(db: Connection, caller_dsn: str, time: Clock) -> None:
    with psycopg.connect(caller_dsn, autocommit=True) as maker:
        all_ = {"overlap": "allow_all", "options": {"catchup_window": "1 day"}}
        create(maker, **all_)
        create(maker, "t", every="10 s", **all_)

    def work(number: int) -> None:
        with psycopg.connect(caller_dsn, autocommit=True) as connection:
            hand = Hand(connection, f"w{number}", workflows=[("other", "x")], activities=[])
            for step in range(40):
                if number == 0:
                    time.advance("5 seconds")
                hand.turn(seen=step % 2 == 0, idle=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    found = [key for (key,) in db.execute("select key from my_app.jobs order by key").fetchall()]
    assert [key for key in found if key.startswith("s")] == [
        f"s-2030-01-01T00:0{minute}:00Z" for minute in range(1, 4)
    ]
    assert len([key for key in found if key.startswith("t")]) == 20
