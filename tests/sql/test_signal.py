"""Signals, one session: many waits of one job, many of one name."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.hand import Hand, one, start

Connection = psycopg.Connection[Any]


def wait(sequence: int, name: str) -> dict[str, Any]:
    return {"sequence": sequence, "kind": "wait", "name": name}


@pytest.mark.parametrize("scope", ["app", "job"])
@pytest.mark.parametrize("names", [1, 300])
def test_each_of_many_waits_of_a_job_gets_one_signal_in_order(
    db: Connection, caller: Connection, scope: str, names: int
) -> None:
    hand = Hand(caller)
    start(caller, "p")
    task = hand.take()
    hand.report(task, commands=[wait(n + 1, f"s{n % names}") for n in range(300)])
    send = {
        "app": "hotmesh.signal_send('my-app', 's' || n %% %s, to_jsonb(n))",
        "job": "hotmesh.job_signal('my-app', 'p', 's' || n %% %s, to_jsonb(n))",
    }[scope]
    caller.execute(f"select {send} from generate_series(0, 299) n".encode(), [names])
    told: dict[int, Any] = {}
    for _ in range(4):
        hand.turn()
    for step in hand.take().history:
        told[step[0]] = step[4]
    assert told == {n + 1: n for n in range(300)}
    assert one(db, "select count(*) from my_app.signals") == 0
    assert one(db, "select count(*) from my_app.streams where kind = 'event'") == 0


def test_only_the_waits_that_are_answered_are_touched(db: Connection, caller: Connection) -> None:
    hand = Hand(caller)
    start(caller, "p")
    hand.report(hand.take(), commands=[wait(n + 1, f"s{n}") for n in range(50)])
    hand.turn()
    before = db.execute("select id, xmin, xmax from my_app.signals order by id").fetchall()
    caller.execute("select hotmesh.job_signal('my-app', 'p', 's0')")
    hand.turn()
    after = db.execute("select id, xmin, xmax from my_app.signals order by id").fetchall()
    assert after == before[1:]
