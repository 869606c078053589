"""Children, hooks and orders, one session uncommitted while another one works."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from hotmesh import workflow
from support.families import AGAIN, TURN, Sessions, child, hook, left, news, report, resolved, wait
from support.flows import House, wait_for
from support.hand import Connection, Hand, activity, body, done, one, start, timer

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


@pytest.mark.parametrize(
    "command", [activity(2, "ship"), timer(2, 1000), wait(2, "s")], ids=lambda c: c["kind"]
)
def test_a_retry_waits_for_what_it_cannot_take_back(
    db: Connection, hand: Hand, sessions: Sessions, command: dict[str, Any]
) -> None:
    """It would answer the step of the same number of the next run."""
    start(db, "p", retry_policy=AGAIN)
    task = hand.take()
    hand.report(task, running=True, commands=[activity(1, retry_policy={"maximum_attempts": 1})])
    hand.report(hand.take("activity"), error={"message": "no"})
    hand.turn()
    assert news(hand, task, 1, command)[0][0] == 1
    (user,) = sessions("user")
    user.begin()
    user.run("select from my_app.streams where sequence = 2 for update")
    user.run("select from my_app.signals for update")
    again = fail(db, hand, task._replace(cursor=1))
    assert again.history[0][0] == 1
    user.rollback()
    assert fail(db, hand, again).history == []
    assert [row[:2] for row in left(db) if row[2] != "dead"] == [("workflow", "order")]


def fail(db: Connection, hand: Hand, task: Any) -> Any:
    """Report that the run failed; its next run."""
    assert hand.report(task, outcome={"error": {"message": "no"}}) == "ok"
    db.execute("update my_app.streams set visible_at = now() where name = 'order'")
    return hand.take()
