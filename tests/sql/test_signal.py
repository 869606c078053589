"""Signals, one session: many waits of one job, many of one name."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import psycopg
import pytest

from support.hand import Hand, body, one, start

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


@pytest.mark.parametrize("scope", ["app", "job"])
def test_taking_a_kept_signal_touches_as_much_however_many_were_taken(
    db: Connection, admin: Connection, scope: str
) -> None:
    hand = Hand(admin)
    start(db, "p")
    send = {
        "app": "hotmesh.signal_send('my-app', 's', to_jsonb(n))",
        "job": "hotmesh.job_signal('my-app', 'p', 's', to_jsonb(n))",
    }[scope]
    db.execute(f"select {send} from generate_series(1, 1500) n".encode())
    task = hand.take(lease=600)
    touched: list[int] = []
    for n in range(1, 1401):
        report = body(
            task, running=True, cursor=task.cursor + n - 1, commands=[wait(n, "s")]
        )  # fmt: skip
        if n % 100 == 0:
            touched.append(buffers(admin, hand, report))
        else:
            [row] = [row for row in hand.turn(report) if row.answer == "events"]
            assert [step[4] for step in row.history] == [n]
    assert median(touched[-4:]) <= 2 * median(touched[:4]), touched


def buffers(connection: Connection, hand: Hand, report: dict[str, Any]) -> int:
    """Pages that a turn with this report touches."""
    row = connection.execute(
        "explain (analyze, buffers, timing off, format json)"
        " select * from hotmesh.turn('my-app', %s, %s, %s)",
        [hand.name, json.dumps([report]), json.dumps(hand.serves)],
    ).fetchone()
    assert row
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
