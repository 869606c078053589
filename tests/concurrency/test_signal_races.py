"""Signals and waits, one session uncommitted while another one works."""

from __future__ import annotations

from typing import Any

import pytest

from hotmesh import workflow
from hotmesh.errors import MaxedError
from support.families import AGAIN, TURN, Sessions, cancel, hook, left, news, report, resolved, wait
from support.flows import House
from support.hand import Connection, Hand, one, start


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
        except MaxedError as error:
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


# --- what is locked while its function ends or starts over ----------------------------------------

PAUSE = """
create function public.pause() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7);
    return null;
end $$;
create trigger pause after delete on my_app.signals
for each row when (old.kind = 'wait') execute function public.pause()
"""


@pytest.mark.parametrize("scope", ["app", "job"])
@pytest.mark.parametrize("which", ["starts over", "hook ends", "job ends"])
def test_an_answer_that_comes_free_while_its_function_is_cleared_away_is_not_lost(
    db: Connection, admin: Connection, hand: Hand, sessions: Sessions, scope: str, which: str
) -> None:
    """It is locked when answers are given back, and free when what is left is dropped."""
    start(db, "p")
    start(db, "q")
    task, other = hand.claim(take=2)
    if which == "hook ends":
        hand.report(task, commands=[hook(1)])
        task = hand.take()
    hand.report(task, running=True, commands=[wait(1, "s"), wait(2, "t")])
    send = {
        "app": "select hotmesh.signal_send('my-app', 's', '1')",
        "job": "select hotmesh.job_signal('my-app', 'p', 's', '1')",
    }[scope]
    db.execute(send)
    hand.turn()  # it has met its wait
    admin.execute(PAUSE)
    admin.commit()
    user, gate, worker = sessions("user", "gate", "worker")
    user.begin()
    user.run("select from my_app.streams where name = 'result' for update")
    gate.begin()
    gate.run("select pg_advisory_xact_lock(7)")
    outcome = {"again": {"args": []}} if which == "starts over" else {"output": None}
    ending = worker.run_async(TURN, [report(task, outcome=outcome)])
    worker.wait_blocked()
    user.rollback()
    gate.rollback()
    resolved(ending)
    for _ in range(4):
        hand.turn()
    if which == "starts over":
        [again] = hand.claim(take=1)
        base = again.base
        assert news(hand, again, 1, wait(base + 1, "s")) == [[base + 1, 1]]
    elif scope == "app":
        assert news(hand, other, 1, wait(1, "s")) == [[1, 1]]
    else:
        kept = one(db, "select count(*) from my_app.streams where kind = 'signal'")
        assert kept == (1 if which == "hook ends" else 0)


async def test_a_signal_by_name_that_a_retry_does_not_want_goes_on_to_others(house: House) -> None:
    seen: list[int] = []

    async def fails_once() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise ValueError("not yet")
        return 1

    async def main() -> Any:
        try:
            await workflow.execute_activity(fails_once, retry_policy={"maximum_attempts": 1})
        except MaxedError:
            await workflow.wait_for("s")
            raise

    async def waits() -> Any:
        return await workflow.wait_for("s")

    await house.worker(main, waits, activities=[fails_once])
    handle = await house.start(main, retry_policy=AGAIN)
    await house.client.workflow.signal("s", 1)
    assert await handle.result(timeout=10) is None
    assert await (await house.start(waits)).result(timeout=10) == 1
