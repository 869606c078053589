"""Children, hooks, signals and orders, one session uncommitted while another one works."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest

from hotmesh import workflow
from support.flows import House, opened, wait_for
from support.hand import Hand, activity, body, done, one, start
from support.sessions import Session

Connection = psycopg.Connection[Any]
Sessions = Callable[..., tuple[Session, ...]]
TURN = "select * from hotmesh.turn('my-app', 'hand', %s, '{}')"
AGAIN = {"maximum_attempts": 5, "initial_interval": 0.01, "backoff_coefficient": 1}


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


@pytest.fixture
def hand(caller: Connection) -> Iterator[Hand]:
    return Hand(caller, workflows=(("default", "order"), ("default", "aid")))


def wait(sequence: int, name: str) -> dict[str, Any]:
    return {"sequence": sequence, "kind": "wait", "name": name}


def cancel(sequence: int) -> dict[str, Any]:
    return {"sequence": sequence, "kind": "cancel"}


def child(sequence: int, key: str, **more: Any) -> dict[str, Any]:
    about = {"workflow": "order", "key": key, "args": [], **more}
    return {"sequence": sequence, "kind": "child", "name": "order", "args": about}


def hook(sequence: int) -> dict[str, Any]:
    about = {"workflow": "aid", "args": []}
    return {"sequence": sequence, "kind": "hook", "name": "aid", "args": about}


def report(task: Any, **what: Any) -> str:
    return json.dumps([body(task, **what)])


def news(hand: Hand, task: Any, count: int, *commands: Any) -> list[Any]:
    """What a held run is told after these commands, until it is so much: [sequence, value]."""
    told: list[Any] = []
    about: dict[str, Any] = {"cursor": task.cursor, "commands": list(commands)}
    for _ in range(count + 3):
        for row in hand.turn(body(task, running=True, **about)):
            if row.answer == "events":
                about["cursor"] = row.cursor
                told += [[step[0], step[4]] for step in row.history]
        about.pop("commands", None)
        if len(told) >= count:
            break
    return told


def left(db: Connection) -> list[Any]:
    return [
        *db.execute("select kind, name, state, dimension from my_app.streams").fetchall(),
        *db.execute("select kind, name, state, '' from my_app.signals").fetchall(),
    ]


def resolved(future: Future[Any]) -> Any:
    return future.result(5)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["wait", "signal"])
@pytest.mark.parametrize("scope", ["app", "job"])
def test_a_wait_and_a_signal_that_do_not_see_each_other_meet(
    db: Connection, hand: Hand, sessions: Sessions, first: str, scope: str
) -> None:
    start(db, "p")
    task = hand.take()
    waiter, sender = sessions("waiter", "sender")
    waiter.begin()
    sender.begin()
    send = {
        "app": "select hotmesh.signal_send('my-app', 's', '1')",
        "job": "select hotmesh.job_signal('my-app', 'p', 's', '1')",
    }[scope]
    for who in (waiter, sender) if first == "wait" else (sender, waiter):
        if who is waiter:
            who.run(TURN, [report(task, commands=[wait(1, "s")])])
        else:
            who.run(send)
    for who in (waiter, sender) if first == "wait" else (sender, waiter):
        hand.turn()
        who.commit()
    hand.turn()
    assert [step[4] for step in hand.take().history] == [1]
    assert [row[:2] for row in left(db)] == [("workflow", "order")]


def test_two_sweeps_at_once_lose_and_double_no_signal(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, running=True, commands=[wait(n, "s") for n in range(1, 5)])
    db.execute("update my_app.signals set state = 'new'")
    db.execute(
        "select hotmesh.signal_send('my-app', 's', to_jsonb(n)) from generate_series(1, 4) n"
    )
    a, b = sessions("a", "b")
    a.begin()
    b.begin()
    a.run("select from my_app.signals where kind = 'signal' order by id limit 2 for update")
    b.run(TURN, ["[]"])
    b.commit()
    a.rollback()
    told = news(hand, task, 4)
    assert sorted(value for _, value in told) == [1, 2, 3, 4]
    assert sorted(sequence for sequence, _ in told) == [1, 2, 3, 4]
    assert [row[:2] for row in left(db)] == [("workflow", "order")]


def test_a_turn_that_had_matched_and_rolls_back_leaves_both_halves(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, commands=[wait(1, "s")])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    (other,) = sessions("other")
    other.begin()
    other.run(TURN, ["[]"])
    assert other.value("select count(*) from my_app.signals") == 0
    hand.turn()
    other.rollback()
    hand.turn()
    assert [step[4] for step in hand.take().history] == [1]


def test_what_was_locked_is_looked_at_again_at_once(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    hand.report(hand.take(), commands=[wait(1, "s")])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.signals where kind = 'wait' for update")
    [row] = hand.turn(idle=True)
    assert (row.answer, row.due) == ("next", 0)


def test_the_wait_of_a_job_that_closes_is_taken_away_even_if_it_is_locked(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    hand.report(hand.take(), commands=[wait(1, "x")])
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.signals for update")
    db.execute("select hotmesh.job_interrupt('my-app', 'p')")
    hand.turn()
    assert one(db, "select count(*) from my_app.signals") == 1
    other.commit()
    hand.turn()
    assert left(db) == []


def test_signals_keep_their_order_when_a_wait_had_gone(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, running=True, commands=[wait(1, "x")])
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.signals for update")
    hand.report(task, running=True, commands=[cancel(1)])
    other.commit()  # the wait is still there, and takes the first signal for nobody
    for n in range(3):
        db.execute("select hotmesh.signal_send('my-app', 'x', to_jsonb(%s))", [n])
    hand.turn()
    told = news(hand, task, 3, *[wait(n, "x") for n in (2, 3, 4)])
    assert sorted(told) == [[2, 0], [3, 1], [4, 2]]


@pytest.mark.parametrize("scope", ["app", "job"])
def test_a_signal_that_met_a_wait_which_the_code_gives_up_unseen_goes_to_the_next(
    db: Connection, hand: Hand, scope: str
) -> None:
    """A timer and a signal are told at once: the code sees the timer first, and waits again."""
    start(db, "p")
    start(db, "q")
    task, other = hand.claim(take=2)
    hand.report(task, running=True, commands=[wait(1, "s")])
    send = {
        "app": "select hotmesh.signal_send('my-app', 's', to_jsonb(%s))",
        "job": "select hotmesh.job_signal('my-app', 'p', 's', to_jsonb(%s))",
    }[scope]
    db.execute(send, [1])
    hand.turn()
    assert news(hand, task, 1) == [[1, 1]]
    db.execute(send, [2])
    again = task if scope == "job" else other
    cursor = 1 if scope == "job" else 0
    assert hand.report(task, running=True, cursor=1, commands=[cancel(1)]) == "ok"
    told = news(hand, again._replace(cursor=cursor), 2, wait(2, "s"), wait(3, "s"))
    assert sorted(told) == [[2, 1], [3, 2]]
    assert [row[:2] for row in left(db)] == [("workflow", "order")] * 2


def test_a_wait_that_finds_its_signal_locked_meets_it_later(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    db.execute("select hotmesh.job_signal('my-app', 'p', 's', '1')")
    hand.turn()  # files it
    (user,) = sessions("user")
    user.begin()
    user.run("select from my_app.streams where kind = 'signal' for update")
    hand.report(task, running=True, commands=[wait(1, "s")])
    for _ in range(3):
        hand.turn()
    user.rollback()
    assert news(hand, task, 1) == [[1, 1]]
    assert [row[:2] for row in left(db)] == [("workflow", "order")]


@pytest.mark.parametrize("waits", [True, False])
def test_a_turn_waits_for_no_signal_that_somebody_has_locked(
    db: Connection, hand: Hand, sessions: Sessions, waits: bool
) -> None:
    start(db, "p")
    task = hand.take()
    if waits:
        hand.report(task, running=True, commands=[wait(1, "s"), wait(2, "s")])
    db.execute(
        "select hotmesh.job_signal('my-app', 'p', 's', to_jsonb(n)) from unnest('{1,2}'::int[]) n"
    )
    user, worker = sessions("user", "worker")
    user.begin()
    user.run("select from my_app.streams where kind = 'signal' order by id limit 1 for update")
    resolved(worker.run_async(TURN, ["[]"]))
    user.rollback()
    told = news(hand, task, 2, *[] if waits else [wait(1, "s"), wait(2, "s")])
    assert sorted(told) == [[1, 1], [2, 2]]  # none has overtaken the other


def test_a_signal_that_reached_a_closed_job_goes_on_once_whoever_clears_it(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    start(db, "q")
    first, other = hand.claim(take=2)
    hand.report(first, commands=[wait(1, "s")])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    hand.turn()  # it has met its wait
    user, clearer = sessions("user", "clearer")
    user.begin()
    user.run("select from my_app.streams where name = 'result' for update")
    db.execute("select hotmesh.job_interrupt('my-app', 'p')")
    hand.turn()
    assert one(db, "select count(*) from my_app.signals") == 0  # it waits for the user
    user.rollback()
    clearer.begin()
    clearer.run(TURN, ["[]"])
    hand.turn()
    clearer.commit()
    assert news(hand, other, 1, wait(1, "s"), wait(2, "s")) == [[1, 1]]
    assert one(db, "select count(*) from my_app.signals where kind = 'signal'") == 0
    assert [row[:2] for row in left(db) if row[0] != "wait"] == [("workflow", "order")]


def test_a_function_that_starts_over_gives_back_every_signal_it_had_not_seen(
    db: Connection, hand: Hand
) -> None:
    count = 1200
    start(db, "p")
    task = hand.take()
    hand.report(task, running=True, commands=[wait(n + 1, f"s{n}") for n in range(count)])
    db.execute(
        "select hotmesh.job_signal('my-app', 'p', 's' || n, to_jsonb(n))"
        " from generate_series(0, %s) n",
        [count - 1],
    )
    hand.turn()
    assert one(db, "select count(*) from my_app.streams where name = 'result'") == count
    assert hand.report(task, outcome={"again": {"args": []}}) == "ok"
    assert one(db, "select count(*) from my_app.streams where name = 'signal'") == count
    again = hand.take()
    waits = [wait(again.base + n + 1, f"s{n}") for n in range(count)]
    told = news(hand, again, count, *waits)
    assert sorted(value for _, value in told) == list(range(count))


async def test_a_retry_finds_the_signals_in_their_order(house: House) -> None:
    seen: list[int] = []

    async def fails_once() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise ValueError("not yet")
        return 1

    async def main() -> Any:
        failed = None
        try:
            await workflow.execute_activity(fails_once, retry_policy={"maximum_attempts": 1})
        except ValueError as error:
            failed = error
        found = [await workflow.wait_for("s"), await workflow.wait_for("s")]
        if failed is not None:
            raise failed
        return [*found, await workflow.wait_for("s")]

    await house.worker(main, activities=[fails_once])
    handle = await house.start(main, retry_policy=AGAIN)
    for n in range(3):
        await handle.signal("s", n)
    assert await handle.result(timeout=10) == [0, 1, 2]


# --- hooks ----------------------------------------------------------------------------------------


async def test_a_retry_runs_a_hook_that_failed_again(house: House) -> None:
    tries: list[int] = []

    async def helper() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("no")
        return "fine"

    async def main() -> Any:
        return await workflow.exec_hook(helper, retry_policy={"maximum_attempts": 1})

    await house.worker(main, helper)
    assert await house.run(main, retry_policy=AGAIN, timeout=10) == "fine"
    assert len(tries) == 3


def test_what_comes_for_a_hook_that_has_ended_is_dropped(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, commands=[wait(1, "x"), hook(2)])
    aid = hand.take()
    hand.report(aid, running=True, commands=[activity(1)])
    pay = hand.take("activity")
    (other,) = sessions("other")
    other.begin()
    other.run("select from my_app.streams where id = %s for update", [pay.id])
    assert hand.report(aid, cursor=0, outcome={"output": 1}) == "ok"
    other.commit()
    assert hand.report(pay, output=1) == "ok"
    hand.turn()
    assert [row for row in left(db) if row[0] == "event"] == []


@pytest.mark.parametrize("first", ["hook", "end"])
def test_a_hook_and_the_end_of_its_job(
    db: Connection, hand: Hand, sessions: Sessions, first: str
) -> None:
    start(db, "p")
    task = hand.take()
    giver, worker = sessions("giver", "worker")
    giver.begin()
    giver.run("select hotmesh.hook_start('my-app', 'p', 'aid')")
    if first == "hook":
        worker.begin()
        worker.run("select from my_app.jobs for update")  # so that it waits in the inbox
        giver.commit()
        worker.run(TURN, [report(task, outcome={"output": 1})])
        worker.commit()
        assert one(db, "select status from my_app.jobs") == 1
        hand.settle(hand.take())
    else:
        worker.run(TURN, [report(task, outcome={"output": 1})])
        with pytest.raises(psycopg.errors.DatabaseError, match="has closed"):
            giver.commit()
    hand.turn()
    assert one(db, "select status from my_app.jobs") == 0
    assert left(db) == []


def test_a_job_that_is_interrupted_by_whoever_asked_for_a_hook_refuses_nothing(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    (giver,) = sessions("giver")
    giver.begin()
    giver.run("select hotmesh.hook_start('my-app', 'p', 'aid')")
    giver.run("select hotmesh.job_interrupt('my-app', 'p')")
    giver.run("select hotmesh.update_send('my-app', 'p', 'change')")
    giver.commit()
    hand.turn()
    assert one(db, "select status from my_app.jobs") < -900_000_000
    assert left(db) == []


# --- orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_an_order_of_a_strict_transaction_does_not_fail_its_commit(
    db: Connection, hand: Hand, sessions: Sessions, isolation: str
) -> None:
    start(db, "p")
    (giver,) = sessions("giver")
    giver.run(f"begin isolation level {isolation}")
    giver.run("select hotmesh.job_interrupt('my-app', 'p')")
    hand.report(hand.take(), running=True, done=[done(1)])
    giver.commit()
    hand.turn()
    assert one(db, "select status from my_app.jobs") < -900_000_000


@pytest.mark.parametrize("order", ["job_cancel", "job_interrupt"])
@pytest.mark.parametrize("first", ["order", "end"])
def test_an_order_and_the_end_of_its_job(
    db: Connection, hand: Hand, sessions: Sessions, order: str, first: str
) -> None:
    start(db, "p")
    task = hand.take()
    giver, worker = sessions("giver", "worker")
    giver.begin()
    giver.run(f"select hotmesh.{order}('my-app', 'p')")
    worker.begin()
    worker.run(TURN, [report(task, outcome={"output": 1})])
    for who in (giver, worker) if first == "order" else (worker, giver):
        who.commit()
    hand.turn()
    assert one(db, "select status from my_app.jobs") == 0
    assert left(db) == []


@pytest.mark.parametrize("taken", [False, True])
def test_a_cancel_reaches_the_generation_that_comes(
    db: Connection, hand: Hand, taken: bool
) -> None:
    start(db, "p")
    task = hand.take()
    if taken:  # the code of the first generation has seen it, and caught it
        db.execute("select hotmesh.job_cancel('my-app', 'p')")
        hand.turn()
        assert news(hand, task, 1) == [[0, None]]
        assert hand.report(task, cursor=1, outcome={"again": {"args": []}}) == "ok"
    else:
        db.execute("select hotmesh.job_cancel('my-app', 'p')")
        assert hand.report(task, outcome={"again": {"args": []}}) == "ok"
    again = hand.take()
    assert [step[0] for step in again.history] == ([] if taken else [0])


async def test_an_interrupt_descends_without_delay(house: House) -> None:
    async def deep(n: int) -> None:
        if n == 0:
            await workflow.sleep_for("1 day")
        child = f"deep-{n - 1}"
        policy = {"workflow_id": child, "parent_close_policy": "terminate"}
        await workflow.exec_child(deep, args=[n - 1], **policy)

    async def killer() -> None:
        await workflow.interrupt("deep-8")

    await house.worker(deep, killer)
    await house.start(deep, 8, key="deep-8")
    await wait_for(
        lambda: house.one("select count(*) = 1 from my_app.streams where kind = 'timer'")
    )
    began = time.monotonic()
    await house.run(killer)
    await wait_for(lambda: house.one("select count(*) = 0 from my_app.jobs where status > 0"))
    assert time.monotonic() - began < 1.5
    await wait_for(lambda: house.one("select count(*) = 0 from my_app.streams"))


# --- children -------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_a_child_whose_key_is_taken_in_an_open_transaction_does_not_hold_up_the_turn(
    db: Connection, hand: Hand, sessions: Sessions, commits: bool
) -> None:
    start(db, "p")
    task = hand.take()
    user, worker = sessions("user", "worker")
    user.begin()
    user.run("select hotmesh.job_start('my-app', 'order', 'kid')")
    resolved(worker.run_async(TURN, [report(task, running=True, commands=[child(1, "kid")])]))
    if commits:
        user.commit()
    else:
        user.rollback()
    db.execute("update my_app.streams set visible_at = now() where name = 'effect'")
    hand.turn()
    kid = hand.take()
    assert kid.key == "kid"
    if commits:  # a step's failure, as ever
        [[sequence, error]] = news(hand, task, 1)
        assert (sequence, error["sqlstate"]) == (1, "MSH41")
    else:
        hand.settle(kid, "done")
        assert news(hand, task, 1) == [[1, "done"]]


def test_two_turns_that_start_the_same_children_in_other_orders_do_not_lock_each_other_out(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p1")
    start(db, "p2")
    first, second = hand.claim(take=2)
    a, b = sessions("a", "b")
    a.begin()
    b.begin()
    a.run(TURN, [report(first, running=True, commands=[child(1, "x")])])
    b.run(TURN, [report(second, running=True, commands=[child(1, "y")])])
    mine = a.run_async(TURN, [report(first, running=True, commands=[child(2, "y")])])
    theirs = b.run_async(TURN, [report(second, running=True, commands=[child(2, "x")])])
    resolved(mine)
    resolved(theirs)
    a.commit()
    b.commit()
    db.execute("update my_app.streams set visible_at = now() where name = 'effect'")
    hand.turn()
    for task in (first, second):
        [[sequence, error]] = news(hand, task, 1)
        assert (sequence, error["sqlstate"]) == (2, "MSH41")


@pytest.mark.parametrize("first", ["child", "parent"])
def test_a_childs_end_and_its_parents_end(
    db: Connection, hand: Hand, sessions: Sessions, first: str
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, running=True, commands=[child(1, "kid", close_policy="terminate")])
    kid = hand.take()
    ends = [(kid, {"outcome": {"output": 1}}), (task, {"outcome": {"output": 2}})]
    both = list(zip(sessions("child", "parent"), ends, strict=True))
    for session, (message, what) in both if first == "child" else reversed(both):
        session.begin()
        session.run(TURN, [report(message, **what)])
    for session, _ in both:
        session.commit()
    for message, what in ends:  # who was told that the job is busy, once more
        hand.report(message, **what)
    assert [row[0] for row in db.execute("select closed_at is null from my_app.jobs")] == [
        False
    ] * 2
    assert [row[0] for row in db.execute("select status = 0 from my_app.jobs where key = 'p'")] == [
        True
    ]
    hand.turn()
    assert left(db) == []


async def test_a_retry_starts_a_child_that_failed_again(house: House) -> None:
    tries: list[int] = []

    async def kid() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("no")
        return "fine"

    async def main() -> Any:
        return await workflow.exec_child(kid)

    await house.worker(main, kid)
    assert await house.run(main, retry_policy=AGAIN, timeout=10) == "fine"
    assert len(tries) == 3


async def test_a_retry_goes_on_with_a_child_that_has_not_failed(house: House) -> None:
    tries: list[int] = []
    runs: list[str] = []

    async def kid(name: str) -> str:
        runs.append(name)
        await workflow.wait_for(f"go {name}")
        return name

    async def fails_once() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("no")
        return 1

    async def main() -> Any:
        once = {"maximum_attempts": 1}
        return await workflow.all(
            workflow.exec_child(kid, args=["a"]), workflow.exec_child(kid, args=["b"]),
            workflow.execute_activity(fails_once, retry_policy=once),
        )  # fmt: skip

    await house.worker(main, kid, activities=[fails_once])
    handle = await house.start(main, retry_policy=AGAIN)
    await wait_for(lambda: len(tries) == 2)
    for name in ("a", "b"):
        await house.client.workflow.signal(f"go {name}")
    assert await handle.result(timeout=10) == ["a", "b", 1]
    assert sorted(set(runs)) == ["a", "b"]
    assert house.one("select count(*) from my_app.jobs_all") == 3


def test_the_answer_of_a_forgotten_child_is_no_other_steps(db: Connection, hand: Hand) -> None:
    start(db, "p", retry_policy={**AGAIN, "initial_interval": 0.001})
    task = hand.take()
    hand.report(task, running=True, commands=[activity(1, retry_policy={"maximum_attempts": 1}),
                                              child(2, "kid")])  # fmt: skip
    hand.report(hand.take("activity"), error={"message": "no"})
    hand.turn()
    news(hand, task, 1)
    hand.report(task, cursor=1, outcome={"error": {"message": "no"}})
    db.execute("update my_app.streams set visible_at = now() where state = 'delayed'")
    hand.turn()
    tasks = {row.key: row for row in hand.claim(take=2)}
    hand.report(tasks["p"], running=True, commands=[activity(1), activity(2, "ship")])
    hand.settle(tasks["kid"], "kid")
    hand.turn()
    rows = hand.turn(body(tasks["p"], running=True))
    assert [row for row in rows if row.answer == "events"] == []
