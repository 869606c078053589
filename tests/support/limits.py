"""Limits by hand: set one, ask for work, see what waits."""

from __future__ import annotations

from typing import Any

from support.hand import Connection, Hand, activity


def limit(connection: Connection, queue: str = "default", **what: Any) -> None:
    named = "".join(f", {name} => %({name})s" for name in what)
    connection.execute(
        f"select hotmesh.queue_limit('my-app', %(queue)s{named})", {"queue": queue, **what}
    )


def keys(tasks: list[Any]) -> list[str]:
    return [task.key for task in tasks]


def ask(hand: Hand, number: int, **more: Any) -> Any:
    """A run that asks for so many activities."""
    run = hand.take()
    hand.report(run, commands=[activity(n + 1, **more) for n in range(number)])
    return run


def pending(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select state, concurrency_key, slot from my_app.streams"
        " where kind in ('workflow', 'activity') order by id"
    ).fetchall()
