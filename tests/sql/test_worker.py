"""Workers: who is alive, who is idle, and who is woken, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from support.catalogue import column
from support.clock import Clock
from support.hand import Connection, Hand, activity, one, start
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]
Listening = Callable[..., Hand]


@pytest.fixture
def listener(caller_dsn: str) -> Iterator[Connection]:
    """A connection that hears what is told to the workers `idle`, `second` and `busy`."""
    with psycopg.connect(caller_dsn, autocommit=True) as connection:
        for name in ("idle", "second", "busy"):
            connection.execute(f"listen hotmesh_{name}")
        yield connection


def heard(listener: Connection) -> list[str]:
    """The workers that were woken so far: what comes before a note that we send ourselves."""
    listener.execute("notify hotmesh_idle, 'end'")
    woken = []
    for note in listener.notifies(timeout=10):
        if note.payload == "end":
            break
        woken.append(note.channel.removeprefix("hotmesh_"))
    return woken


def idle(connection: Connection, name: str = "idle", **serves: list[tuple[str, str]]) -> Hand:
    """A worker that found nothing to do and sleeps."""
    hand = Hand(connection, name, **serves)
    [row] = hand.turn(workflow=1, activity=1, seen=True, idle=True)
    assert row.answer == "next"
    return hand


# --- who is woken ---------------------------------------------------------------------------------


def test_a_start_wakes_an_idle_worker_that_serves_it(
    caller: Connection, listener: Connection
) -> None:
    idle(caller)
    start(caller, "a")
    assert heard(listener) == ["idle"]


def test_a_start_wakes_nobody_who_serves_something_else(
    caller: Connection, listener: Connection
) -> None:
    idle(caller, workflows=[("default", "rush")])
    idle(caller, "second", workflows=[("other", "order")], activities=[("default", "order")])
    start(caller, "a")
    assert heard(listener) == []


def test_a_start_wakes_nobody_who_is_busy(caller: Connection, listener: Connection) -> None:
    Hand(caller, "busy").turn(workflow=1, seen=True)
    start(caller, "a")
    assert heard(listener) == []


def test_a_worker_that_found_work_is_not_idle(
    db: Connection, caller: Connection, listener: Connection
) -> None:
    start(caller, "a")
    assert len(Hand(caller, "idle").claim(seen=True, idle=True)) == 1
    assert column(db, "select idle_at from my_app.workers") == [None]
    start(caller, "b")
    assert heard(listener) == []


def test_a_start_wakes_when_its_transaction_commits(
    caller: Connection, listener: Connection, sessions: Sessions
) -> None:
    idle(caller)
    (user,) = sessions("user")
    user.begin()
    user.run("select hotmesh.job_start('my-app', 'order')")
    assert heard(listener) == []
    user.commit()
    assert heard(listener) == ["idle"]
    user.begin()
    user.run("select hotmesh.job_start('my-app', 'order')")
    user.rollback()
    assert heard(listener) == []


def test_a_worker_that_became_idle_after_the_start_but_before_its_commit_is_woken(
    caller: Connection, listener: Connection, sessions: Sessions
) -> None:
    (user,) = sessions("user")
    user.begin()
    user.run("select hotmesh.job_start('my-app', 'order')")
    idle(caller)
    user.commit()
    assert heard(listener) == ["idle"]


def test_many_starts_in_one_transaction_wake_one_worker_per_topic(
    caller: Connection, listener: Connection
) -> None:
    idle(caller)
    idle(caller, "second", workflows=[("default", "rush")])
    with caller.transaction():
        for number in range(50):
            start(caller, f"o{number}")
            start(caller, f"r{number}", workflow="rush")
    assert sorted(heard(listener)) == ["idle", "second"]


def test_a_start_that_was_rolled_back_to_a_savepoint_does_not_swallow_the_next_ones_wake_up(
    caller: Connection, listener: Connection
) -> None:
    idle(caller)
    with caller.transaction():
        with caller.transaction(force_rollback=True):
            start(caller, "a")
        start(caller, "b")
    assert heard(listener) == ["idle"]


def test_starts_in_two_apps_in_one_transaction_wake_both(
    db: Connection, caller: Connection, listener: Connection
) -> None:
    db.execute("select hotmesh.app_create('other')")
    idle(caller)
    db.execute(
        "select * from hotmesh.turn('other', 'second', '[]', '{\"seen\": true, \"idle\": true,"
        ' "workflow": 1, "kinds": ["workflow"], "queues": ["default"], "names": ["order"]}\')'
    )
    with db.transaction():
        db.execute("select hotmesh.job_start('my-app', 'order')")
        db.execute("select hotmesh.job_start('other', 'order')")
    assert sorted(heard(listener)) == ["idle", "second"]


def test_an_idle_flag_older_than_a_lease_counts_for_nothing(
    caller: Connection, listener: Connection, clock: Clock
) -> None:
    clock.freeze()
    idle(caller)
    clock.advance("16 seconds")
    start(caller, "a")
    assert heard(listener) == []


def test_whoever_was_woken_is_not_woken_again(caller: Connection, listener: Connection) -> None:
    idle(caller)
    for key in "abc":
        start(caller, key)
    assert heard(listener) == ["idle"]


def test_activities_wake_those_who_serve_them(caller: Connection, listener: Connection) -> None:
    start(caller, "a")
    busy = Hand(caller, "busy", activities=[])
    run = busy.take()
    idle(caller, workflows=[], activities=[("warehouse", "ship")])
    busy.report(run, commands=[activity(1, "ship", queue="elsewhere")], running=True)
    assert heard(listener) == []
    busy.report(run, commands=[activity(2, "ship", queue="warehouse")], running=True)
    assert heard(listener) == ["idle"]


def test_a_turn_wakes_others_and_not_the_one_that_turns(
    caller: Connection, listener: Connection
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1)])
    task = hand.take("activity")
    sleeper = idle(caller)
    sleeper.turn(body_of(task), seen=True, idle=True)
    assert heard(listener) == []


def body_of(task: object) -> dict[str, object]:
    return {"id": task.id, "token": task.token, "output": 1}  # type: ignore[attr-defined]


def test_the_holder_of_a_run_is_woken_by_its_news(caller: Connection, listener: Connection) -> None:
    start(caller, "a")
    holder = Hand(caller, "idle", activities=[])
    holder.report(holder.take(), commands=[activity(1)])
    idle(caller, activities=[])
    other = Hand(caller, "busy", workflows=[])
    other.report(other.take("activity"), output=1)
    assert heard(listener) == ["idle"]


def test_a_hot_loop_without_idle_workers_notifies_nobody(
    caller: Connection, listener: Connection
) -> None:
    busy = Hand(caller, "busy")
    for number in range(20):
        start(caller, str(number))
        busy.settle(busy.claim(seen=True)[0])
    assert heard(listener) == []


def test_a_worker_that_is_gone_is_not_woken(caller: Connection, listener: Connection) -> None:
    idle(caller)
    caller.execute("select hotmesh.worker_stop('my-app', 'idle', '{}')")
    start(caller, "a")
    assert heard(listener) == []


def test_what_a_leaving_worker_gives_back_wakes_another(
    caller: Connection, listener: Connection
) -> None:
    start(caller, "a")
    run = Hand(caller, "busy").take()
    idle(caller)
    caller.execute("select hotmesh.worker_stop('my-app', 'busy', %s)", [[run.id]])
    assert heard(listener) == ["idle"]


# --- who is alive ---------------------------------------------------------------------------------


def test_a_worker_says_what_it_is(db: Connection, caller: Connection, clock: Clock) -> None:
    now = clock.freeze()
    Hand(caller).turn(seen=True, idle=True, host="here", pid=7)
    assert db.execute(
        "select name, kinds, queues, names, host, pid, idle_at, seen_at, started_at"
        " from my_app.workers"
    ).fetchall() == [
        ("hand", ["workflow", "activity", "activity"], ["default"] * 3, ["order", "pay", "ship"],
         "here", 7, now, now, now)
    ]  # fmt: skip
    clock.advance("5 seconds")
    Hand(caller).turn(seen=True)
    assert db.execute(
        "select idle_at, seen_at - started_at = interval '5 s' from my_app.workers"
    ).fetchall() == [(None, True)]


def test_a_worker_that_serves_more_than_before_is_woken_for_it(
    caller: Connection, listener: Connection
) -> None:
    idle(caller)
    idle(caller, workflows=[("default", "order"), ("default", "rush")])
    start(caller, "a", workflow="rush")
    assert heard(listener) == ["idle"]


def test_a_worker_that_was_not_seen_for_a_minute_is_dropped(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    Hand(caller, "gone").turn(seen=True)
    clock.advance("60 seconds")
    Hand(caller).turn(seen=True)
    assert column(db, "select name from my_app.workers order by 1") == ["gone", "hand"]
    clock.advance("1 second")
    Hand(caller).turn(seen=True)
    assert column(db, "select name from my_app.workers") == ["hand"]


def test_a_turn_that_does_not_say_who_it_is_leaves_no_row(
    db: Connection, caller: Connection
) -> None:
    Hand(caller).turn(workflow=1)
    assert one(db, "select count(*) from my_app.workers") == 0


@pytest.mark.parametrize("name", ["w" * 50, "é" * 25, "Worker-1.local", "a b", '"', "'; --"])
def test_any_short_name_can_be_woken(caller: Connection, name: str) -> None:
    """A name that no channel can carry would break the commit of whoever starts a job."""
    idle(caller, name)
    start(caller, "a")
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1


@pytest.mark.parametrize("name", ["w" * 51, "é" * 26, "", None])
def test_a_name_that_can_not_be_woken_is_refused(
    db: Connection, caller: Connection, name: str | None
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        Hand(caller, name).turn(seen=True)  # type: ignore[arg-type]
    assert caught.value.sqlstate == "22023"
    assert one(db, "select count(*) from my_app.workers") == 0
