"""Limits: how much of a queue is under way, in all and per key, and how much begins in a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clock import Clock
from support.engine import CALLER, OWNER, Server
from support.hand import Connection, Hand, activity, body, one, start, timer
from support.limits import ask, keys, limit
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]

# --- concurrency of a queue -----------------------------------------------------------------------


def test_workflows_count_from_their_first_claim_until_they_close(caller: Connection) -> None:
    limit(caller, concurrency=2)
    for key in "abcd":
        start(caller, key)
    hand = Hand(caller)
    first, second = hand.claim(take=9)
    assert (first.key, second.key) == ("a", "b")
    assert hand.claim(take=9) == []
    hand.report(first, commands=[timer(1, 60)])  # it sleeps, and is in progress all the same
    assert hand.claim(take=9) == []
    hand.settle(second)
    assert keys(hand.claim(take=9)) == ["c"]
    assert hand.claim(take=9) == []


def test_a_workflow_that_goes_on_needs_no_slot(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    limit(caller, concurrency=1)
    for key in "ab":
        start(caller, key, priority=int(key == "b"))
    hand = Hand(caller)
    run = hand.take()
    assert run.key == "b"
    hand.report(run, commands=[timer(1, 5)])
    start(caller, "urgent", priority=9)
    clock.advance("6 s")
    assert keys(hand.claim(take=9)) == ["b"]


def test_a_slot_is_given_back_however_a_workflow_ends(caller: Connection) -> None:
    limit(caller, concurrency=1)
    for key in "abc":
        start(caller, key)
    hand = Hand(caller)
    hand.report(hand.take(), outcome={"error": {"type": "E"}})
    assert keys([hand.take()]) == ["b"]


def test_a_parked_workflow_lets_others_go(caller: Connection, db: Connection, clock: Clock) -> None:
    clock.freeze()
    limit(caller, concurrency=1)
    for key in "ab":
        start(caller, key)
    hand = Hand(caller)
    for _ in range(5):
        assert keys(hand.claim(take=9)) == ["a"]
        clock.advance("20 s")
    assert keys(hand.claim(take=9)) == ["b"]
    parked = one(db, "select id from my_app.streams where state = 'dead'")
    caller.execute("select hotmesh.stream_revive('my-app', %s)", [parked])
    assert hand.claim(take=9) == [], "revived, it has to wait for a slot again"


def test_activities_count_while_they_run(caller: Connection) -> None:
    limit(caller, concurrency=2, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 5)
    first, second = hand.claim("activity", 9)
    assert hand.claim("activity", 9) == []
    hand.report(first, output=1)
    (third,) = hand.claim("activity", 9)
    hand.report(second, error={"type": "E"})
    assert len(hand.claim("activity", 9)) == 1, "one that waits for its retry does not count"
    assert hand.claim("activity", 9) == []
    assert third.id not in (first.id, second.id)


def test_a_turn_that_reports_may_take_what_it_gives_back(caller: Connection) -> None:
    limit(caller, concurrency=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 3)
    task = hand.take("activity")
    rows = hand.turn(body(task, output=1), activity=9)
    assert [row.answer for row in rows] == ["task"]


def test_a_cancelled_activity_gives_its_slot_back(caller: Connection) -> None:
    limit(caller, concurrency=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    hand.report(run, commands=[activity(1), activity(2)], running=True)
    hand.take("activity")
    hand.report(run, commands=[{"sequence": 1, "kind": "cancel"}], running=True)
    assert hand.take("activity").sequence == 2


def test_a_dead_workers_slots_come_back_with_its_leases(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    limit(caller, concurrency=2)
    for key in "abc":
        start(caller, key)
    dies, other = Hand(caller, "dies"), Hand(caller, "other")
    assert len(dies.claim(take=9)) == 2
    assert other.claim(take=9) == []
    clock.advance("16 s")
    assert keys(other.claim(take=9)) == ["a", "b"], "these go on; c still waits"
    for task in dies.claim(take=9):
        raise AssertionError(task)


def test_a_dead_workers_activities_give_their_slots_to_whoever_is_first(
    caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    limit(caller, concurrency=1, kind="activity")
    start(caller, "a")
    dies, other = Hand(caller, "dies"), Hand(caller, "other")
    ask(dies, 2)
    lost = dies.take("activity")
    assert other.claim("activity", 9) == []
    clock.advance("16 s")
    task = other.take("activity")
    assert (task.id, task.attempt) == (lost.id, 2)
    assert dies.report(lost, output=1) == "stale"
    assert other.claim("activity", 9) == []


def test_what_is_handed_back_at_a_stop_is_free_at_once(caller: Connection) -> None:
    limit(caller, concurrency=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 2)
    task = hand.take("activity")
    caller.execute("select hotmesh.worker_stop('my-app', 'hand', %s)", [[task.id]])
    assert hand.take("activity").id == task.id


def test_each_kind_is_counted_for_itself(caller: Connection) -> None:
    limit(caller, concurrency=1)
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 2)
    assert len(hand.claim("activity", 9)) == 1


def test_other_queues_do_not_care(caller: Connection) -> None:
    limit(caller, "slow", concurrency=1)
    for number in range(4):
        start(caller, f"slow{number}", queue="slow")
        start(caller, f"fast{number}", queue="fast")
    hand = Hand(caller, workflows=[("slow", "order"), ("fast", "order")])
    assert sorted(keys(hand.claim(take=9))) == ["fast0", "fast1", "fast2", "fast3", "slow0"]


def test_priority_decides_who_gets_the_slot(caller: Connection) -> None:
    limit(caller, concurrency=1)
    for key, priority in (("low", 0), ("high", 5), ("middle", 1)):
        start(caller, key, priority=priority)
    hand = Hand(caller)
    order = []
    for _ in range(3):
        run = hand.take()
        order.append(run.key)
        hand.settle(run)
    assert order == ["high", "middle", "low"]


def test_hooks_of_a_job_in_progress_need_no_slot(caller: Connection, db: Connection) -> None:
    limit(caller, concurrency=1)
    job = start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    db.execute(
        "insert into my_app.streams (kind, queue, name, job_id, dimension, slot, visible_at,"
        " created_at) values ('workflow', 'default', 'order', %s, ',0,1', 0, now(), now())",
        [job],
    )
    (hook,) = hand.claim(take=9)
    assert (hook.job_id, hook.dimension) == (run.job_id, ",0,1")


# --- setting and lifting --------------------------------------------------------------------------


def test_what_is_under_way_when_a_limit_is_set_counts(caller: Connection) -> None:
    for key in "abcd":
        start(caller, key)
    hand = Hand(caller)
    runs = hand.claim(take=2)
    limit(caller, concurrency=3)
    assert keys(hand.claim(take=9)) == ["c"]
    hand.settle(runs[0])
    assert keys(hand.claim(take=9)) == ["d"]


def test_a_lower_limit_stops_nobody_and_waits(caller: Connection) -> None:
    limit(caller, concurrency=3)
    for key in "abcde":
        start(caller, key)
    hand = Hand(caller)
    runs = hand.claim(take=9)
    limit(caller, concurrency=1)
    for run in runs[:2]:
        hand.settle(run)
        assert hand.claim(take=9) == []
    hand.settle(runs[2])
    assert keys(hand.claim(take=9)) == ["d"]


def test_without_its_limits_a_queue_is_as_before(caller: Connection, db: Connection) -> None:
    limit(caller, concurrency=1, per_key=1, rate=1, per="1 hour")
    for number in range(6):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    assert len(hand.claim(take=9)) == 1
    caller.execute("select hotmesh.queue_unlimit('my-app', 'default')")
    assert caller.execute("select * from hotmesh.queue_list('my-app')").fetchall() == []
    assert len(hand.claim(take=9)) == 5
    assert one(db, "select count(*) from my_app.lanes") == 0


def test_the_list_tells_what_is_under_way(caller: Connection) -> None:
    limit(caller, concurrency=5, per_key=1, rate=9, per="1 minute", kind="workflow")
    for number in range(3):
        start(caller, str(number), concurrency_key="k")
    Hand(caller).claim(take=9)
    row = caller.execute("select * from hotmesh.queue_list('my-app')").fetchone()
    assert row is not None
    assert (row[:5], row[5].total_seconds(), row[6:]) == (
        ("default", "workflow", 5, 1, 9), 60, (1, 2, None)
    )  # fmt: skip


@pytest.mark.parametrize(
    "what",
    [
        {}, {"concurrency": 0}, {"per_key": -1}, {"rate": 0}, {"concurrency": 1, "kind": "event"},
        {"concurrency": 1, "per": "1 s"}, {"rate": 1, "per": "0 s"}, {"rate": 1, "per": "2 years"},
        {"concurrency": 1, "queue": ""}, {"concurrency": 1, "queue": "x" * 501},
        {"concurrency": 1, "queue": None},
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(caller: Connection, what: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        limit(caller, **what)


@pytest.mark.parametrize("key", [7, "", "k" * 501, ["a"]])
def test_a_concurrency_key_is_a_text(caller: Connection, key: Any) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        start(caller, "a", concurrency_key=key)


# --- rate -----------------------------------------------------------------------------------------


def test_no_more_begin_than_the_rate_allows(caller: Connection, clock: Clock) -> None:
    clock.freeze("2030-01-01")
    limit(caller, rate=3, per="1 minute")
    for number in range(10):
        start(caller, str(number))
    hand = Hand(caller)
    assert len(hand.claim(take=9, lease=600)) == 3
    clock.advance("59 s")
    assert hand.claim(take=9) == []
    [(answer, due)] = [(row.answer, row.due) for row in hand.turn(workflow=9)]
    assert answer == "next"
    assert 0 < due <= 2
    clock.advance(f"{due} s")
    assert len(hand.claim(take=9)) == 3, "what was not used does not pile up"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.integers(1, 7),
    pauses=st.lists(st.sampled_from([0, 1, 40, 300, 999, 1000, 5000, 30000]), max_size=25),
)
def test_in_any_time_as_long_as_per_no_more_than_the_rate_begin(
    server: Server, lent: str, rate: int, pauses: list[int]
) -> None:
    with server.connect(lent, OWNER) as owner, server.connect(lent, CALLER) as caller:
        owner.execute("truncate my_app.jobs, my_app.jobs_attributes, my_app.streams, my_app.limits")
        clock = Clock(owner)
        clock.freeze("2030-01-01")
        limit(caller, rate=rate, per="10 s")
        for _ in range(40):
            start(caller)
        hand, times, now = Hand(caller), [], 0
        for pause in pauses:
            clock.advance(f"{pause} ms")
            now += pause
            begun = [task for task in hand.claim(take=5) if task.attempt == 1]
            times += [now] * len({task.id for task in begun if task.token == 1})
        for at in times:
            assert sum(1 for other in times if at <= other < at + 10_000) <= rate


@pytest.fixture(scope="module")
def lent(server: Server, template_plain: Any) -> Any:
    with server.database(template_plain.template_dbname) as name:
        yield name


# --- many at once ---------------------------------------------------------------------------------


GUARD = """
create function my_app.guard() returns trigger language plpgsql security definer as $$
declare
    v_all bigint;
    v_key bigint;
begin
    select count(*), count(*) filter (where s.concurrency_key = new.concurrency_key)
    into v_all, v_key
    from my_app.streams s
    where s.queue = new.queue and s.kind = new.kind and s.state = 'leased';
    if v_all > 5 or v_key > 2 then
        raise exception 'too many: % in all, % of %', v_all, v_key, new.concurrency_key;
    end if;
    insert into my_app.seen values (v_all);
    return null;
end
$$;
create table my_app.seen (n bigint);
create constraint trigger guard after update on my_app.streams
deferrable initially deferred for each row when (new.state = 'leased' and new.kind = 'activity')
execute function my_app.guard();
"""


def test_workers_that_claim_at_once_never_exceed_a_limit(
    caller: Connection, db: Connection, caller_dsn: str
) -> None:
    """The database looks itself, as late as it can in each transaction that claims."""
    start(caller, "a")
    commands = [activity(n + 1, concurrency_key=f"k{n % 4}") for n in range(200)]
    Hand(caller).report(Hand(caller).take(lease=600), commands=commands, running=True)
    limit(caller, concurrency=5, per_key=2, kind="activity")
    db.execute(GUARD)
    faults: list[BaseException] = []
    done: list[int] = []

    def work(name: str) -> None:
        try:
            with psycopg.connect(caller_dsn, autocommit=True) as connection:
                hand, reports = Hand(connection, name), []
                for _ in range(3000):
                    rows = hand.turn(*reports, activity=3)
                    tasks = [row for row in rows if row.answer == "task"]
                    busy = [row.id for row in rows if row.answer == "busy"]
                    done.extend(report["id"] for report in reports if report["id"] not in busy)
                    reports = [r for r in reports if r["id"] in busy]
                    reports += [body(task, output=1) for task in tasks]
                    if len(done) >= 200:
                        return
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=[f"w{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(set(done)) == 200
    assert one(db, "select max(n) from my_app.seen") > 1
    assert one(db, "select count(*) from my_app.streams where slot > 0") == 0


def test_a_claim_in_an_old_snapshot_fails_rather_than_exceed(
    caller: Connection, sessions: Sessions
) -> None:
    limit(caller, concurrency=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    ask(hand, 2)
    (old,) = sessions("old")
    old.run("begin isolation level repeatable read")
    old.run("select 1")
    old.run("select count(*) from pg_class")
    hand.take("activity")
    with pytest.raises(psycopg.errors.SerializationFailure):
        old.run("select * from hotmesh.stream_claim('my-app', 'default', 'w', 9)")


def test_claims_by_hand_are_limited_too(caller: Connection) -> None:
    limit(caller, concurrency=2, per_key=1, kind="activity")
    start(caller, "a")
    hand = Hand(caller)
    run = hand.take()
    keyed = [activity(n + 1, concurrency_key="k") for n in range(2)]
    hand.report(run, commands=[*keyed, activity(3), activity(4)])
    claim = "select id, token from hotmesh.stream_claim('my-app', 'default', 'w', 9)"
    first, _ = caller.execute(claim).fetchall()
    assert caller.execute(claim).fetchall() == []
    caller.execute("select hotmesh.stream_complete('my-app', %s, %s)", first)
    assert len(caller.execute(claim).fetchall()) == 1


def test_a_full_queue_wakes_nobody(caller: Connection, sessions: Sessions) -> None:
    """What can't be taken is no reason to wake: or two idle workers would wake each other for ever."""
    limit(caller, concurrency=1, per_key=1)
    for number in range(3):
        start(caller, str(number), concurrency_key="k")
        start(caller, f"free{number}")
    hand = Hand(caller)
    hand.claim(take=9)
    (sleeps,) = sessions("sleeps")
    sleeps.run("listen hotmesh_sleeps")
    Hand(sleeps.conn, "sleeps").turn(workflow=1, seen=True, idle=True)
    for _ in range(3):
        hand.turn(workflow=1, seen=True, idle=True)
    assert list(sleeps.conn.notifies(timeout=0.2)) == []


def test_what_gives_a_slot_back_wakes_who_can_use_it(
    caller: Connection, sessions: Sessions
) -> None:
    limit(caller, per_key=1)
    for number in range(2):
        start(caller, str(number), concurrency_key="k")
    hand = Hand(caller)
    run = hand.take()
    (sleeps,) = sessions("sleeps")
    sleeps.run("listen hotmesh_sleeps")
    Hand(sleeps.conn, "sleeps").turn(workflow=1, seen=True, idle=True)
    hand.settle(run)
    assert len(list(sleeps.conn.notifies(timeout=2, stop_after=1))) == 1


# --- what it costs --------------------------------------------------------------------------------


def test_a_worker_is_told_which_queues_are_limited_when_that_changes(caller: Connection) -> None:
    hand = Hand(caller)

    def told(known: dict[str, bool]) -> list[Any]:
        return [row.args for row in hand.turn(limits=known) if row.answer == "limits"]

    assert told({"default": False, "other": False}) == []
    limit(caller, concurrency=1, kind="activity")
    assert told({"default": False, "other": False}) == [{"default": True, "other": False}]
    assert told({"default": True, "other": False}) == []
    caller.execute("select hotmesh.queue_unlimit('my-app', 'default')")
    assert told({"default": True}) == [{"default": False}]


def test_a_hundred_thousand_held_messages_cost_the_others_nothing(
    caller: Connection, admin: Connection, db: Connection
) -> None:
    limit(caller, per_key=1)
    for number in range(7):  # catalogue pages, and plans made while the app is small
        claims(caller, admin, f"warm{number}-")
    few = claims(caller, admin, "few")
    start(caller, "blocks", concurrency_key="k", priority=9)
    hand = Hand(caller)
    assert keys([hand.take()]) == ["blocks"]
    db.execute(
        "insert into my_app.streams (kind, state, queue, name, priority, job_id, concurrency_key,"
        "   visible_at, created_at)"
        " select 'workflow', 'held', 'default', 'order', 9, -g, 'k', now(), now()"
        " from generate_series(1, 100000) g"
    )
    many = claims(caller, admin, "many")
    assert many <= 2 * few + 10


def claims(caller: Connection, admin: Connection, name: str) -> int:
    """Pages that a claim of ten touches, among ten keys."""
    for number in range(10):
        start(caller, f"{name}{number}", concurrency_key=f"{name}{number}")
    hand = Hand(caller, name)
    hand.turn()
    row = admin.execute(
        "explain (analyze, buffers, timing off, format json)"
        " select * from hotmesh.turn('my-app', %s, '[]', %s)",
        [
            name,
            '{"workflow": 10, "kinds": ["workflow"], "queues": ["default"], "names": ["order"]}',
        ],
    ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == 10
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
