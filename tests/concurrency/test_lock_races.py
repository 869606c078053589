"""News whose row somebody has locked when a turn looks, and not when it looks again."""

from __future__ import annotations

from typing import Any

from support.clock import Clock
from support.families import (
    AGAIN,
    TURN,
    Sessions,
    cancel,
    hook,
    left,
    news,
    resolved,
    wait,
)
from support.graphs import Graphs
from support.hand import Connection, Hand, activity, body, one, start
from support.sessions import Session

RACE = """
subscribes: r
activities:
  t: {type: trigger}
  h: {type: hook, sleep: 10}
transitions: {t: [{to: h}]}
hooks: {r.in: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}', actual:
      '{$self.hook.data.id}'}]}}]}
"""
STOPS = """
subscribes: p
activities:
  t: {type: trigger}
  h: {type: hook, sleep: 10}
  stop: {type: interrupt, reason: enough}
transitions: {t: [{to: h}], h: [{to: stop}]}
hooks: {p.in: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}', actual:
      '{$self.hook.data.id}'}]}}]}
"""


def pause(admin: Connection, at: str) -> None:
    """Whoever comes by here waits for the gate, advisory lock 7."""
    admin.execute(
        "create function public.pause() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(7); return null; end $$"
    )
    admin.execute(f"create trigger pause after {at} execute function public.pause()".encode())
    admin.commit()


def holds(session: Session, query: str) -> None:
    session.begin()
    session.run(query)


def published(db: Connection) -> Any:
    return one(db, "select count(*) from my_app.signals where kind = 'signal'")


# --- signals by name ------------------------------------------------------------------------------


def test_an_answer_of_a_hook_that_has_ended_is_waited_for_as_long_as_it_is_locked(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    hand.report(hand.take(), commands=[hook(1)])
    aid = hand.take()
    hand.report(aid, running=True, commands=[wait(1, "s")])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    hand.turn()  # it has met its wait
    (user,) = sessions("user")
    holds(user, "select from my_app.streams where name = 'result' for update")
    assert hand.report(aid, outcome={"output": None}) == "ok"
    for _ in range(4):
        hand.turn()
    user.rollback()
    for _ in range(3):
        hand.turn()
    assert published(db) == 1


def test_a_job_that_replaces_another_drops_no_signal_that_reached_that_too_late(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    hand.report(hand.take(), running=True, commands=[wait(1, "s")])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    hand.turn()  # it has met its wait
    (user,) = sessions("user")
    holds(user, "select from my_app.streams where name = 'result' for update")
    db.execute("select hotmesh.job_interrupt('my-app', 'p')")
    user.rollback()
    start(db, "p", on_conflict="replace")
    hand.turn()
    assert published(db) == 1


def test_what_is_left_of_a_job_that_closed_is_not_forgotten_by_who_claims_its_work(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    hand.report(hand.take(), running=True, commands=[wait(1, "s"), activity(2)])
    db.execute("select hotmesh.signal_send('my-app', 's', '1')")
    hand.turn()  # it has met its wait
    user, claimer = sessions("user", "claimer")
    holds(user, "select from my_app.streams for update")
    db.execute("select hotmesh.job_interrupt('my-app', 'p')")
    user.rollback()
    holds(user, "select from my_app.streams where name = 'result' and args ? 'signal' for update")
    claimer.run("select hotmesh.stream_claim('my-app', 'default', 'claimer', 10)")
    user.rollback()
    for _ in range(2):
        hand.turn()
    assert published(db) == 1
    assert [row for row in left(db) if row[0] != "signal"] == []


def test_a_signal_that_code_sends_while_its_own_wait_is_given_up_goes_to_others(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    """The row of a wait that was given up may be there for a while."""
    start(db, "p")
    start(db, "q")
    task, other = hand.claim(take=2)
    hand.report(other, running=True, commands=[wait(1, "x")])
    hand.report(task, running=True, commands=[wait(1, "s")])
    (user,) = sessions("user")
    holds(user, "select from my_app.signals for update")
    hand.report(task, running=True, commands=[cancel(1)])
    user.rollback()
    send = {"sequence": 2, "kind": "signal", "name": "s", "args": {"data": 1}}
    assert news(hand, task, 2, send) == [[2, True]]  # and gives back what its old wait took
    assert news(hand, other, 1, wait(2, "s")) == [[2, 1]]


def test_a_graph_that_is_interrupted_passes_on_the_signal_that_came_free_meanwhile(
    db: Connection, admin: Connection, hand: Hand, sessions: Sessions
) -> None:
    graphs = Graphs(db)
    graphs.deploy(RACE)
    key = graphs.pub("r")
    user, gate, worker, giver = sessions("user", "gate", "worker", "giver")
    holds(user, "select from my_app.jobs for update")
    graphs.signal("r.in", {"id": key})
    giver.run("select hotmesh.job_interrupt('my-app', %s)", [key])  # a turn carries it out
    pause(admin, "delete on my_app.streams for each row when (old.kind = 'timer')")
    user.rollback()
    holds(user, "select from my_app.streams where args ? 'published' for update")
    holds(gate, "select pg_advisory_xact_lock(7)")
    turning = worker.run_async(TURN, ["[]"])
    worker.wait_blocked()
    user.rollback()
    gate.rollback()
    resolved(turning)
    hand.turn()
    assert published(db) == 1


def test_a_graph_that_ends_itself_passes_on_what_reached_it_at_the_same_time(
    db: Connection, hand: Hand, sessions: Sessions, clock: Clock
) -> None:
    graphs = Graphs(db)
    graphs.deploy(STOPS)
    key = graphs.pub("p")
    clock.advance("11 s")
    (user,) = sessions("user")
    holds(user, "select from my_app.jobs for update")
    graphs.signal("p.in", {"id": key})
    user.rollback()
    hand.turn()
    assert graphs.state(key).status < 0
    assert published(db) == 1


def test_who_sits_on_a_signal_that_many_wait_for_holds_up_no_others(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    start(db, "q")
    task, other = hand.claim(take=2)
    db.execute("select hotmesh.signal_send('my-app', 's', '0')")
    (user,) = sessions("user")
    holds(user, "select from my_app.signals for update")
    hand.report(task, running=True, commands=[wait(n, "s") for n in range(1, 220)])
    hand.turn()
    db.execute("select hotmesh.signal_send('my-app', 't', '1')")
    assert news(hand, other, 1, wait(1, "t")) == [[1, 1]]


# --- questions, orders, reports -------------------------------------------------------------------


def test_a_question_that_is_locked_when_its_run_would_rest_is_asked_later(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    hand.report(task, running=True, commands=[wait(1, "s")])
    db.execute("select hotmesh.query_ask('my-app', 'p', 'how')")
    hand.turn()  # files it
    (user,) = sessions("user")
    holds(user, "select from my_app.streams where name = 'query' for update")
    assert hand.report(task) == "ok"
    user.rollback()
    asked = hand.news(task)
    if not asked:
        asked = [step for claimed in hand.claim() for step in claimed.history]
    assert [step[1] for step in asked] == ["query"]


def test_a_hook_whose_order_is_locked_keeps_its_job_open(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p")
    task = hand.take()
    user, giver = sessions("user", "giver")
    holds(user, "select from my_app.jobs for update")
    giver.run("select hotmesh.hook_start('my-app', 'p', 'aid')")  # waits in the inbox
    user.rollback()
    holds(user, "select from my_app.streams where name = 'hook' for update")
    assert hand.report(task, outcome={"output": 1}) == "ok"
    user.rollback()
    hand.turn()
    assert one(db, "select status from my_app.jobs") == 1
    assert hand.settle(hand.take()) == "ok"
    assert one(db, "select status from my_app.jobs") == 0
    hand.turn()
    assert left(db) == []


def test_orders_that_a_function_had_not_seen_reach_its_new_run_in_their_order(
    db: Connection, hand: Hand
) -> None:
    start(db, "p")
    task = hand.take()
    for n in range(3):
        db.execute("select hotmesh.update_send('my-app', 'p', %s)", [f"u{n}"])
    assert hand.report(task, outcome={"again": {"args": [], "seen": 0}}) == "ok"
    hand.turn()
    told = sorted(hand.take().history, key=lambda step: int(step[5]))  # by their cursors
    assert [step[2] for step in told] == ["u0", "u1", "u2"]


def test_an_order_of_an_old_run_that_comes_late_is_no_other_order_of_the_new(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    """Orders are numbered from 0 again."""
    start(db, "p")
    task = hand.take()
    db.execute("select hotmesh.job_cancel('my-app', 'p')")
    assert hand.news(task, running=True)[0][1] == "cancel"
    db.execute("select hotmesh.update_send('my-app', 'p', 'old')")
    hand.turn()
    (user,) = sessions("user")
    holds(user, "select from my_app.streams where name = 'result' for update")
    about = {"args": [], "seen": 1}
    assert hand.report(task, cursor=1, outcome={"again": about}) == "ok"
    db.execute("select hotmesh.update_send('my-app', 'p', 'new', '[1]')")
    hand.turn()
    user.rollback()
    told = {step[2]: step[4]["args"] for step in hand.take().history}
    assert told == {"old": [], "new": [1]}


def test_what_a_worker_in_doubt_announces_is_its_own(db: Connection, hand: Hand) -> None:
    """It says what it holds in the turn that announces, and so can't know of that yet."""
    start(db, "p")
    task = hand.take()
    pay = body(task, running=True, commands=[activity(1, announced=True)])
    [told] = hand.turn(pay, held=[task.id])
    assert told.answer == "leased"
    assert hand.claim("activity") == []
    assert hand.report(told, output=1) == "ok"


# --- retries and new runs -------------------------------------------------------------------------


def test_an_answer_that_is_locked_while_its_run_is_tried_again_is_no_other_steps(
    db: Connection, hand: Hand, sessions: Sessions
) -> None:
    start(db, "p", retry_policy=AGAIN)
    task = hand.take()
    hand.report(task, running=True, commands=[activity(1, retry_policy={"maximum_attempts": 1})])
    hand.report(hand.take("activity"), error={"message": "no"})
    hand.turn()
    assert news(hand, task, 1, activity(2, "ship"))[0][0] == 1
    assert hand.report(hand.take("activity"), output="old") == "ok"
    (user,) = sessions("user")
    holds(user, "select from my_app.streams where name = 'result' for update")
    again = fail(db, hand, task._replace(cursor=1))
    if not again.history:
        assert news(hand, again, 1, activity(1), activity(2, "ship")) == []
    user.rollback()
    again = fail(db, hand, again)
    assert again.history == []
    assert news(hand, again, 1, activity(1), activity(2, "ship")) == []


def test_the_time_of_a_run_starts_over_with_it_though_its_alarm_is_locked(
    db: Connection, hand: Hand, sessions: Sessions, clock: Clock
) -> None:
    start(db, "p", run_timeout=60)
    task = hand.take()
    (user,) = sessions("user")
    clock.advance("50 s")
    holds(user, "select from my_app.streams where kind = 'timer' for update")
    assert hand.report(task, outcome={"again": {"args": []}}) == "ok"
    user.rollback()
    clock.advance("20 s")
    for _ in range(2):
        hand.turn()
    assert one(db, "select status from my_app.jobs") == 1
    clock.advance("45 s")
    for _ in range(2):
        hand.turn()
    assert one(db, "select status from my_app.jobs") < 0


def fail(db: Connection, hand: Hand, task: Any) -> Any:
    """Report that the run failed; its next run."""
    assert hand.report(task, outcome={"error": {"message": "no"}}) == "ok"
    db.execute("update my_app.streams set visible_at = now() where name = 'order'")
    return hand.take()


# --- graphs ---------------------------------------------------------------------------------------


def test_a_graph_goes_on_though_one_turn_does_not_come_to_its_end(
    db: Connection, hand: Hand
) -> None:
    db.execute(
        "create function public.step(data jsonb) returns jsonb language sql security definer"
        " set search_path = pg_catalog, pg_temp as $$ select '{}'::jsonb $$"
    )
    graphs = Graphs(db)
    steps = "".join(f"  s{n}: {{type: sql, function: public.step}}\n" for n in range(45))
    ways = "".join(f"  s{n}: [{{to: s{n + 1}}}]\n" for n in range(44))
    graphs.deploy(
        f"subscribes: long\nactivities:\n  t: {{type: trigger}}\n{steps}"
        f"transitions:\n  t: [{{to: s0}}]\n{ways}"
    )
    key = graphs.pub("long")
    for _ in range(4):
        hand.turn()
    assert graphs.state(key).status == 0
