"""A family by hand: the commands of its members, and what waits and what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from support.hand import Connection, Hand, body
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]
TURN = "select * from hotmesh.turn('my-app', 'hand', %s, '{}')"
AGAIN = {"maximum_attempts": 5, "initial_interval": 0.01, "backoff_coefficient": 1}


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
