"""Retries: the schedule is exact, three executions by default, some errors are final."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import Connection, Hand, activity, journal, messages, one, start


def again(db: Connection, policy: Any, attempt: int, error: Any = None) -> bool:
    given = [
        None if policy is None else Jsonb(policy),
        attempt,
        Jsonb(error or {"type": "E"}),
    ]
    return bool(one(db, "select hotmesh._retry_again(%s, %s, %s)", *given))


def delay(db: Connection, policy: Any, attempt: int) -> float:
    """Seconds after attempt `attempt`."""
    checked = one(
        db,
        "select hotmesh._retry_policy(%s)",
        None if policy is None else Jsonb(policy),
    )
    return float(
        one(
            db,
            "select extract(epoch from hotmesh._retry_delay(%s, %s))",
            None if checked is None else Jsonb(checked),
            attempt,
        )
    )


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (None, [10, 100, 120, 120]),
        ({"initial_interval": 0.5}, [5, 50, 120]),
        ({"initial_interval": "2 s", "backoff_coefficient": 1}, [2, 2, 2]),
        (
            {
                "initial_interval": 3,
                "backoff_coefficient": 2,
                "maximum_interval": "20 s",
            },
            [6, 12, 20],
        ),
        ({"initial_interval": 300}, [120, 120]),
        ({"initial_interval": 0}, [0, 0]),
        ({"maximum_interval": 0}, [0, 0]),
        ({"initial_interval": "500ms", "maximum_interval": "1h"}, [5, 50, 500, 3600]),
        ({"initial_interval": None, "maximum_interval": None}, [10, 100, 120]),
    ],
)
def test_the_delay_after_attempt_k(db: Connection, policy: Any, delays: list[float]) -> None:
    assert [delay(db, policy, k) for k in range(1, len(delays) + 1)] == pytest.approx(delays)


@pytest.mark.parametrize("attempt", [20, 400, 1_000_000, 2_147_483_647])
def test_a_large_attempt_does_not_overflow(db: Connection, attempt: int) -> None:
    policy = {"backoff_coefficient": 1000, "initial_interval": 1e-6}
    assert delay(db, policy, attempt) == 120
    assert delay(db, {"backoff_coefficient": 1}, attempt) == 1


@pytest.fixture(scope="module")
def shared(server: Any, template_plain: Any) -> Any:
    """One clone for all examples of a property."""
    with (
        server.database(template_plain.template_dbname) as name,
        server.connect(name) as admin,
    ):
        yield admin


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    initial=st.integers(0, 10**9).map(lambda ms: ms / 1000),
    coefficient=st.floats(1, 1000),
    maximum=st.integers(0, 10**9).map(lambda ms: ms / 1000),
    attempt=st.integers(1, 1_000_000),
)
def test_the_delay_is_what_the_formula_says(
    shared: Connection, initial: float, coefficient: float, maximum: float, attempt: int
) -> None:
    try:
        expected = min(initial * coefficient**attempt, maximum)
    except OverflowError:
        expected = maximum if initial else 0
    policy = {
        "initial_interval": initial,
        "backoff_coefficient": coefficient,
        "maximum_interval": maximum,
    }
    assert delay(shared, policy, attempt) == pytest.approx(expected, rel=1e-6, abs=2e-6)


def test_three_executions_unless_another_number_is_given(db: Connection) -> None:
    assert [again(db, None, attempt) for attempt in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    assert [again(db, {"maximum_attempts": 1}, attempt) for attempt in (1, 2)] == [
        False,
        False,
    ]
    assert again(db, {"maximum_attempts": 1_000_000}, 999_999)


def test_some_errors_are_final(db: Connection) -> None:
    policy = {"non_retryable_error_types": ["ValueError", "KeyError"]}
    assert again(db, policy, 1, {"type": "TypeError"})
    assert not again(db, policy, 1, {"type": "KeyError"})
    assert not again(db, None, 1, {"type": "TypeError", "code": 598})
    assert again(db, None, 1, {"type": "TypeError", "code": 597})
    assert again(db, policy, 1, {"message": "without a type"})


def test_an_empty_policy_is_the_default_policy(db: Connection) -> None:
    for empty in (None, Jsonb(None), Jsonb({})):
        assert one(db, "select hotmesh._retry_policy(%s)", empty) is None


def failing(hand: Hand, clock: Clock, policy: Any) -> list[float]:
    """Fail an activity until nobody may try again; the pauses in between, seconds."""
    hand.report(hand.take(), commands=[activity(1, retry_policy=policy)])
    pauses: list[float] = []
    while tasks := hand.claim("activity"):
        assert tasks[0].attempt == len(pauses) + 1
        assert hand.report(tasks[0], error={"type": "E", "message": "no"}) == "ok"
        if hand.claim():
            break
        [row] = hand.turn()
        pauses.append(row.due)
        clock.advance(f"{row.due - 0.001} seconds")
        assert hand.claim("activity") == []
        clock.advance("0.001 seconds")
    return pauses


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, [10, 100]),
        ({"maximum_attempts": 5, "backoff_coefficient": 2}, [2, 4, 8, 16]),
        ({"maximum_attempts": 1}, []),
    ],
)
def test_an_activity_is_tried_on_schedule_and_then_its_error_arrives(
    db: Connection, caller: Connection, clock: Clock, policy: Any, expected: list[float]
) -> None:
    clock.freeze()
    start(caller, "a")
    assert failing(Hand(caller), clock, policy) == expected
    [(_, _, state, error, cursor)] = journal(db, "a")
    assert (state, error["type"], error["code"], cursor) == ("failed", "E", 597, 1)
    assert error["attempt"] == len(expected) + 1
    assert messages(db, "kind", "state", "attempt") == [
        ("workflow", "leased", 1), ("activity", "dead", len(expected) + 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"non_retryable_error_types": ["StockError"]}, {"type": "StockError"}),
        (None, {"type": "E", "code": 598}),
    ],
)
def test_a_final_error_arrives_at_once(
    db: Connection, caller: Connection, policy: Any, error: Any
) -> None:
    start(caller, "a")
    hand = Hand(caller)
    hand.report(hand.take(), commands=[activity(1, retry_policy=policy)])
    hand.report(hand.take("activity"), error=error)
    [step] = hand.take().history
    assert (step[3], step[4]["code"]) == ("failed", 598)


def test_a_workflow_that_raises_fails_its_job_unless_a_policy_lets_it_try_again(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    clock.freeze()
    start(caller, "once")
    start(caller, "thrice", retry_policy={"maximum_attempts": 3, "backoff_coefficient": 2})
    hand = Hand(caller)
    failure = {"outcome": {"error": {"type": "E", "message": "no"}}}
    for task in hand.claim(take=2):
        assert hand.report(task, **failure) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'once')") < 0
    for pause in (2, 4):
        assert one(caller, "select hotmesh.job_status('my-app', 'thrice')") == 1
        assert hand.turn()[0].due == pause
        clock.advance(f"{pause} seconds")
        assert hand.report(hand.take(), **failure) == "ok"
    assert one(caller, "select hotmesh.job_status('my-app', 'thrice')") < 0
    assert hand.turn()[0].due is None


def test_a_workflow_that_is_tried_again_keeps_what_was_done(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a", retry_policy={"maximum_attempts": 2})
    hand = Hand(caller)
    hand.report(
        hand.take(),
        done=[done_step(1)],
        commands=[activity(2, retry_policy={"maximum_attempts": 1})],
    )
    hand.report(hand.take("activity"), error={"type": "E", "message": "no"})
    run = hand.take()
    assert [step[3] for step in run.history] == ["failed"]
    hand.report(run, outcome={"error": {"type": "E", "message": "no"}})
    clock.advance("1 hour")
    run = hand.take()
    assert [(step[0], step[3]) for step in run.history] == [(1, "done")]
    assert hand.report(run, done=[done_step(2)], outcome={"output": 1}) == "ok"
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") == 1


def done_step(sequence: int) -> dict[str, Any]:
    return {"sequence": sequence, "kind": "activity", "name": "pay", "value": sequence}


def test_a_parked_workflow_that_is_revived_has_all_its_tries(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    start(caller, "a", retry_policy={"maximum_attempts": 2})
    hand = Hand(caller)
    for _ in range(5):
        hand.take()
        clock.advance("1 minute")
    assert hand.claim() == []
    caller.execute(
        "select hotmesh.stream_revive('my-app', %s)",
        [one(db, "select id from my_app.streams")],
    )
    hand.report(hand.take(), outcome={"error": {"type": "E", "message": "no"}})
    assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1


def test_a_policy_that_was_refused_is_named(db: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        one(db, "select hotmesh._retry_policy(%s)", Jsonb({"maximum_attempts": "many"}))
    diag = caught.value.diag
    assert "maximum_attempts" in str(diag.message_primary)
    assert "many" in str(diag.message_detail)
    assert "non_retryable_error_types" in str(diag.message_hint)
