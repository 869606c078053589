"""The stream: who is served first, tokens, what is due, what died, `visible_at` moved by hand."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors

from support.clock import Clock
from support.hand import Connection, Hand, activity, messages, one, start, timer
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


@pytest.fixture(autouse=True)
def time(clock: Clock) -> Clock:
    clock.freeze()
    return clock


def states(db: Connection, kind: str = "workflow") -> list[str]:
    return [
        row[0]
        for row in db.execute(
            "select state from my_app.streams where kind = %s order by id", [kind]
        )
    ]


# --- who is served first --------------------------------------------------------------------------


def test_the_oldest_is_served_first(caller: Connection) -> None:
    for key in "abcd":
        start(caller, key)
    hand = Hand(caller)
    assert [hand.claim()[0].key for _ in range(4)] == list("abcd")


def test_priority_beats_age_across_functions_too(caller: Connection) -> None:
    start(caller, "old")
    start(caller, "urgent", workflow="rush", priority=1)
    hand = Hand(caller, workflows=[("default", "order"), ("default", "rush")])
    assert [hand.claim()[0].key for _ in range(2)] == ["urgent", "old"]


def test_a_claim_takes_no_more_than_it_asks_for(caller: Connection) -> None:
    for number in range(7):
        start(caller, str(number), workflow="order" if number % 2 else "rush")
    hand = Hand(caller, workflows=[("default", "order"), ("default", "rush")])
    assert [len(hand.claim(take=take)) for take in (0, 1, 4, 9)] == [0, 1, 4, 2]


def test_a_topic_that_is_named_twice_is_served_once(caller: Connection) -> None:
    for key in "abc":
        start(caller, key)
    hand = Hand(caller, workflows=[("default", "order")] * 3)
    assert sorted(task.key for task in hand.claim(take=3)) == ["a", "b", "c"]


def test_a_queue_and_a_function_are_both_meant(caller: Connection) -> None:
    start(caller, "a", queue="q", workflow="f")
    start(caller, "b", queue="f", workflow="q")
    assert Hand(caller, workflows=[("q", "q"), ("f", "f")]).claim(take=9) == []
    assert [t.key for t in Hand(caller, workflows=[("q", "f")]).claim(take=9)] == ["a"]


def test_an_activity_is_not_claimed_as_a_workflow_of_that_name(caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller, workflows=[("default", "order"), ("default", "pay")])
    hand.report(hand.take(), commands=[activity(1)])
    assert hand.claim(take=9) == []
    assert hand.take("activity").name == "pay"


def test_two_who_claim_at_once_share_the_work(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    for number in range(10):
        start(caller, str(number))
    first, second = sessions("first", "second")
    first.begin()
    mine = Hand(first.conn, "first").claim(take=5)
    second.run("set statement_timeout = '5s'")
    yours = Hand(second.conn, "second").claim(take=9)
    first.commit()
    keys = sorted(task.key for task in mine + yours)
    assert keys == [str(number) for number in range(10)]
    assert (len(mine), len(yours)) == (5, 5)


def test_what_a_dying_claim_took_is_there_again(caller: Connection, sessions: Sessions) -> None:
    start(caller, "a")
    (dies,) = sessions("dies")
    dies.begin()
    assert len(Hand(dies.conn, "dies").claim()) == 1
    dies.terminate()
    with pytest.raises(psycopg.OperationalError):
        dies.run("select")
    again = Hand(caller).take()
    assert (again.attempt, again.token) == (1, 1)


def test_a_late_commit_with_an_old_number_is_found(caller: Connection, sessions: Sessions) -> None:
    """Ids come before commits: what commits late lies behind what was claimed already."""
    (late,) = sessions("late")
    late.begin()
    late.run("select hotmesh.job_start('my-app', 'order', 'late')")
    for number in range(20):
        start(caller, str(number))
    hand = Hand(caller)
    assert len(hand.claim(take=50)) == 20
    late.commit()
    assert hand.take().key == "late"


# --- visible_at is the truth ----------------------------------------------------------------------


def move(db: Connection, by: str, kind: str = "workflow") -> None:
    db.execute(
        "update my_app.streams set visible_at = visible_at + %s::interval where kind = %s",
        [by, kind],
    )


def test_a_ready_message_that_is_moved_into_the_future_waits(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    move(db, "1 hour")
    assert states(db) == ["delayed"]
    assert hand.claim() == []
    time.advance("1 hour")
    assert hand.take().key == "a"


def test_a_ready_message_that_is_moved_within_the_past_stays_ready(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a")
    time.advance("1 hour")
    move(db, "1 minute")
    assert Hand(caller).take().key == "a"


def test_a_delayed_message_that_is_moved_to_now_is_served(
    db: Connection, caller: Connection
) -> None:
    start(caller, "a", delay="1 day")
    hand = Hand(caller)
    assert hand.claim() == []
    move(db, "-1 day")
    assert hand.take().key == "a"


def test_a_delayed_message_may_be_put_off_further(
    db: Connection, caller: Connection, time: Clock
) -> None:
    start(caller, "a", delay="1 hour")
    move(db, "1 hour")
    time.advance("119 minutes")
    assert Hand(caller).claim() == []
    time.advance("1 minute")
    assert Hand(caller).take().key == "a"


def test_a_lease_that_is_moved_ends_then(db: Connection, caller: Connection, time: Clock) -> None:
    start(caller, "a")
    hand, other = Hand(caller), Hand(caller, "other")
    hand.take()
    move(db, "1 hour")
    time.advance("59 minutes")
    assert other.claim() == []
    move(db, "-1 hour")
    assert other.take().attempt == 2


def test_a_retry_may_be_brought_forward(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1)])
    hand.report(hand.take("activity"), error={"type": "E"})
    assert hand.claim("activity") == []
    move(db, "-1 hour", "activity")
    assert hand.take("activity").attempt == 2


def test_a_timer_may_be_brought_forward(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[timer(1, 1e6)])
    move(db, "-12 days", "timer")
    assert [step[0] for step in hand.take().history] == [1]


# --- dead letters ---------------------------------------------------------------------------------


def test_a_dead_letter_stays_visible_with_its_error(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(
        hand.take(), commands=[activity(1, args=["x"], retry_policy={"maximum_attempts": 1})]
    )
    hand.report(hand.take("activity"), error={"type": "StockError", "message": "none"})
    hand.settle(hand.take())
    assert db.execute(
        "select key, name, attempt, type, message from hotmesh.dead_letters"
    ).fetchall() == [("a", "pay", 1, "StockError", "none")]
    assert messages(db, "state", "args") == [("dead", ["x"])]


def test_only_a_parked_workflow_can_be_revived(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1, retry_policy={"maximum_attempts": 1})])
    hand.report(hand.take("activity"), error={"type": "E"})
    for identity in [*one(db, "select array_agg(id) from my_app.streams"), 10**15, None]:
        with pytest.raises(psycopg.Error) as caught:
            caller.execute("select hotmesh.stream_revive('my-app', %s)", [identity])
        assert caught.value.sqlstate == "MSH30"
        assert caught.value.diag.message_hint


# --- the table knows the law ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ("kind = 'miracle'", "kind_is_known"),
        ("state = 'lost'", "state_is_known"),
        ("state = 'leased', worker = null", "leased_messages_have_a_worker"),
        ("attempt = -1", "attempts_and_tokens_only_count_up"),
        ("token = -1", "attempts_and_tokens_only_count_up"),
    ],
)
def test_the_table_refuses_nonsense(
    db: Connection, caller: Connection, change: str, law: str
) -> None:
    start(caller, "a")
    with pytest.raises(errors.CheckViolation) as caught:
        db.execute(f"update my_app.streams set {change}")
    assert caught.value.diag.constraint_name == law
