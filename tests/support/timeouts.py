"""An activity with timeouts by hand: asked for, and what its journal has."""

from __future__ import annotations

from typing import Any

from support.hand import Connection, Hand, activity, journal, start

ONCE = {"maximum_attempts": 1}
THRICE = {"maximum_attempts": 3, "initial_interval": 1, "backoff_coefficient": 1}


def ask(caller: Connection, timeouts: dict[str, Any] | None, **more: Any) -> Hand:
    """A job `a` whose run rests and waits for the activity `pay`."""
    start(caller, "a")
    hand = Hand(caller)
    about = {} if timeouts is None else {"timeouts": timeouts}
    hand.report(hand.take(), commands=[activity(1, **about, **more)])
    return hand


def outcome(db: Connection) -> dict[str, Any]:
    """What the journal of job `a` has for its one step."""
    [(_, _, state, value, _)] = journal(db, "a")
    assert state == "failed"
    return dict(value)
