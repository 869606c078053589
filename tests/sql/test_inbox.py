"""The inbox: what is told to a job that somebody else has locked is kept, and applied in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.clock import Clock
from support.hand import (
    Connection,
    Hand,
    activity,
    body,
    done,
    journal,
    messages,
    one,
    start,
    timer,
    verdict,
)
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


@pytest.fixture
def locker(sessions: Sessions) -> Session:
    """A user's session that sits in a transaction; `hold(locker, key)` locks a job there."""
    (session,) = sessions("locker")
    return session


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    """What was looked at in vain is looked at again after a while; `free` lets it pass."""
    clock.freeze()
    return clock


def hold(session: Session, key: str) -> None:
    session.begin()
    session.run("select from my_app.jobs where key = %s for update", [key])


def turns(caller: Connection, count: int = 5) -> None:
    """Some turns of a worker that has nothing to report."""
    for _ in range(count):
        Hand(caller, "other").turn()


def free(session: Session, clock: Clock) -> None:
    session.rollback()
    clock.advance("200 ms")


def test_a_report_for_a_locked_job_is_answered_busy_and_changes_nothing(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    assert hand.report(task, done=[done(1)], running=True) == "busy"
    assert journal(db, "a") == []
    free(locker, time)
    assert hand.report(task, done=[done(1)], running=True) == "ok"
    assert len(journal(db, "a")) == 1


def test_a_kept_report_is_applied_once_the_job_is_free(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    assert hand.report(task, outcome={"output": 7}, keep=True) == "kept"
    assert messages(db) == [("workflow", "leased"), ("event", "ready")]
    Hand(caller, "other").turn()
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1
    free(locker, time)
    turns(caller)
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == 7
    assert messages(db) == []


def test_a_kept_report_is_applied_once(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    for _ in range(2):
        assert hand.report(task, done=[done(1)], running=True, keep=True) == "kept"
    free(locker, time)
    turns(caller)
    assert journal(db, "a") == [(1, "pay", "done", None, 1)]
    assert messages(db) == [("workflow", "leased")]


def test_kept_reports_of_a_run_are_applied_in_order_and_before_the_next_one(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    assert hand.report(task, done=[done(1)], running=True, keep=True) == "kept"
    free(locker, time)
    assert hand.report(task, cursor=1, done=[done(2)], running=True) == "ok"
    assert [step[0] for step in journal(db, "a")] == [1, 2]


def test_while_something_is_kept_a_younger_report_is_kept_behind_it(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    for number in range(3):
        report = body(task, cursor=number, done=[done(number + 1)], running=True, keep=True)
        assert verdict(hand.turn(report), task.id) == "kept"
    free(locker, time)
    turns(caller)
    assert [(step[0], step[4]) for step in journal(db, "a")] == [(1, 1), (2, 2), (3, 3)]


def test_a_kept_report_outlives_its_worker_and_its_lease(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    task = Hand(caller, "dies").take()
    hold(locker, "a")
    assert (
        Hand(caller, "dies").report(task, done=[done(1, "paid")], running=True, keep=True) == "kept"
    )
    other = Hand(caller, "other")
    for _ in range(3):
        time.advance("20 seconds")
        assert other.claim() == []
    free(locker, time)
    turns(caller)
    assert journal(db, "a") == [(1, "pay", "done", "paid", 1)]
    time.advance("20 seconds")
    again = other.take()
    assert again.cursor == 1
    assert len(again.history) == 1


def test_a_kept_report_outlives_a_worker_that_signs_off(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    assert hand.report(task, done=[done(1)], running=True, keep=True) == "kept"
    caller.execute("select hotmesh.worker_stop('my-app', 'hand', %s)", [[task.id]])
    free(locker, time)
    turns(caller)
    assert len(journal(db, "a")) == 1


def test_a_kept_report_is_not_overtaken_when_another_turn_has_its_row(
    db: Connection, caller: Connection, locker: Session, time: Clock, sessions: Sessions
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    task = hand.take()
    hold(locker, "a")
    for number in range(2):
        hand.turn(body(task, cursor=number, done=[done(number + 1)], running=True, keep=True))
    (turning,) = sessions("turning")
    turning.begin()
    turning.run("select from my_app.streams where name = 'report' order by id limit 1 for update")
    free(locker, time)
    hand.turn()
    assert journal(db, "a") == []
    free(turning, time)
    turns(caller)
    assert [step[0] for step in journal(db, "a")] == [1, 2]


@pytest.mark.parametrize(
    "poison",
    [
        {"commands": [activity(1, retry_policy={"maximum_attempts": -1})]},
        {"done": [done(1, at=1e300)]},
        {"done": [done(1), done(1)]},
        {"commands": [timer(1, 1e300)]},
    ],
)
def test_a_kept_report_that_fails_costs_its_own_job_alone(
    db: Connection,
    caller: Connection,
    locker: Session,
    time: Clock,
    poison: dict[str, object],
) -> None:
    start(caller, "bad")
    hand = Hand(caller)
    bad = hand.take()
    start(caller, "good")
    hold(locker, "bad")
    assert hand.report(bad, running=True, keep=True, **poison) == "kept"
    free(locker, time)
    good = hand.take()
    assert hand.settle(good, 1) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'good')") == 0
    assert one(caller, "select hotmesh.job_status('my-app', 'bad')") < 0
    error = one(caller, "select hotmesh.job_state('my-app', 'bad', true)")["metadata"]["err"]
    assert error["type"] == "EngineError"


def test_what_a_locked_job_gets_does_not_hold_up_the_news_of_others(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    """Three hundred results of one locked job lie in front of another job's alarm."""
    start(caller, "busy")
    hand = Hand(caller)
    busy = hand.take()
    assert hand.report(busy, commands=[activity(n) for n in range(1, 301)]) == "ok"
    start(caller, "other")
    other = hand.take()
    assert hand.report(other, commands=[timer(1, 60)]) == "ok"
    hold(locker, "busy")
    for task in hand.claim("activity", 300):
        hand.turn(body(task, output=1))
    time.advance("61 seconds")
    assert [task.key for task in hand.claim(take=10) + hand.claim(take=10)] == ["other"]


def test_what_a_locked_job_keeps_does_not_hold_up_what_others_keep(
    db: Connection, caller: Connection, locker: Session, time: Clock, sessions: Sessions
) -> None:
    start(caller, "busy")
    hand = Hand(caller)
    busy = hand.take()
    hold(locker, "busy")
    for number in range(60):
        hand.turn(body(busy, cursor=number, done=[done(number + 1)], running=True, keep=True))
    start(caller, "other")
    other = hand.take()
    (second,) = sessions("second")
    hold(second, "other")
    assert hand.report(other, outcome={"output": 1}, keep=True) == "kept"
    free(second, time)
    turns(caller)
    assert one(caller, "select hotmesh.job_status('my-app', 'other')") == 0


def test_whoever_locks_hundreds_of_jobs_holds_up_the_news_of_no_other(
    db: Connection, caller: Connection, locker: Session
) -> None:
    db.execute(
        "select hotmesh.job_start_many('my-app', jsonb_agg(jsonb_build_object("
        "'workflow', 'order', 'key', 'k' || n))) from generate_series(1, 500) n"
    )
    start(db, "free")
    hand = Hand(caller)
    for task in hand.claim(take=501):
        hand.report(task, commands=[{"sequence": 1, "kind": "wait", "name": "s"}])
    locker.begin()
    locker.run("select from my_app.jobs where key <> 'free' for update")
    db.execute("select hotmesh.job_signal('my-app', j.key, 's') from my_app.jobs j order by j.id")
    for _ in range(40):
        turns(caller, 1)
        if ("workflow", "ready") in messages(db):
            return
    pytest.fail("the news of the job that nobody holds was not looked at")


def test_results_of_a_locked_job_are_kept_and_numbered_when_it_is_free(
    db: Connection, caller: Connection, locker: Session, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1), activity(2)])
    hold(locker, "a")
    for task in hand.claim("activity", 2):
        assert hand.report(task, output=task.sequence * 10) == "ok"
    assert [step[2] for step in journal(db, "a")] == ["open", "open"]
    assert hand.claim() == []
    free(locker, time)
    task = hand.take()
    assert task.cursor == 2
    assert sorted((step[0], step[4]) for step in task.history) == [(1, 10), (2, 20)]


def test_news_reach_a_run_that_is_held(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)], running=True)
    hand.report(hand.take("activity"), output="paid")
    [news] = hand.news(run, running=True)
    assert news[:5] == [1, "activity", "pay", "done", "paid"]
    assert hand.news(run, cursor=1, running=True) == []


def test_a_result_that_nobody_waits_for_any_more_does_not_move_the_run(
    db: Connection, caller: Connection
) -> None:
    """The step was cancelled after its result had been filed; the run goes on undisturbed."""
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1)], running=True)
    hand.report(hand.take("activity"), output="paid")
    assert hand.news(run, commands=[{"sequence": 1, "kind": "cancel"}], running=True) == []
    assert hand.report(run, cursor=0, done=[done(2)], running=True) == "ok"
    assert [(step[0], step[2]) for step in journal(db, "a")] == [
        (1, "cancelled"),
        (2, "done"),
    ]


def test_what_was_kept_for_a_job_that_has_closed_is_dropped(
    db: Connection, caller: Connection
) -> None:
    """Somebody had locked it while the job settled, so it was left over."""
    job = start(caller, "a")
    hand = Hand(caller)
    hand.settle(hand.take())
    db.execute(
        "insert into my_app.streams (kind, name, state, job_id, args, visible_at, created_at)"
        " values ('event', 'report', 'ready', %s, '{}', now(), now())",
        [job],
    )
    hand.turn()
    assert messages(db) == []


@pytest.mark.parametrize("running", [{}, {"running": True}])
def test_more_news_than_an_answer_carries_come_with_the_next_ones(
    db: Connection, caller: Connection, running: dict[str, bool]
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(number + 1) for number in range(1200)], **running)
    while tasks := hand.claim("activity", 1000):
        hand.turn(*[body(task, output=task.sequence) for task in tasks])
    told = [] if running else (run := hand.take()).history
    cursor = run.cursor
    for _ in range(6):
        for row in hand.turn(body(run, cursor=cursor, **running), workflow=1):
            if row.answer in ("events", "task"):
                told, cursor = told + row.history, row.cursor
    assert sorted(step[0] for step in told) == list(range(1, 1201))
    assert [step[5] for step in told] == list(range(1, 1201))
    assert len(journal(db, "a")) == 1200
