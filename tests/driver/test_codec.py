"""The JSON seam: what crosses it comes back the same, and what cannot cross is named with its place."""

from __future__ import annotations

import json
import math
import timeit
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotmesh import _codec
from hotmesh.errors import InvalidArgumentError, PayloadTooLargeError


@dataclass
class Item:
    name: str
    price: object


class Thing:
    pass


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED = [
    ([math.nan], "args[0]"),
    ([{"price": math.inf}], "args[0].price"),
    ([1, [2, -math.inf]], "args[1][1]"),
    ({math.nan: 1}, "a key of args"),
    (["a\0b"], "args[0]"),
    ([{"a\0": 1}], "a key of args[0]"),
    (["\ud800"], "args[0]"),
    ([{"k\udfff": 1}], "a key of args[0]"),
    ([{1, 2}], "args[0]"),
    ([b"x"], "args[0]"),
    ([datetime.now()], "args[0]"),
    ([Thing()], "args[0]"),
    ([Thing], "args[0]"),
    ([Item], "args[0]"),
    ([1j], "args[0]"),
    ({(1, 2): 3}, "args"),
    ([Item("a", {1})], "args[0].price"),
    ([Decimal("NaN")], "args[0]"),
    ([Decimal("1e999999")], "args[0]"),
    ([10**5000], "args[0]"),
    (itself(), "args[0]"),
    (deep(200_000), "args"),
]


@pytest.mark.parametrize(("value", "place"), REFUSED, ids=range(len(REFUSED)))
def test_what_json_cannot_carry_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _codec.dumps(value, "args")
    assert str(caught.value).startswith(place)
    str(caught.value).encode()


def test_tuples_and_dataclasses_are_carried_as_lists_and_dicts() -> None:
    assert _codec.loads(_codec.dumps((1, Item("a", (2,))), "x")) == [1, {"name": "a", "price": [2]}]


def test_a_backslash_u_that_the_user_wrote_is_text() -> None:
    assert _codec.loads(_codec.dumps(["a\\u0000"], "x")) == ["a\\u0000"]


NUMBERS = [
    0,
    -1,
    2**63,
    10**3000,
    0.1,
    -0.5,
    1e22,
    1e23,
    1e300,
    5e-324,
    1.7976931348623157e308,
    1.0,
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: str(number)[:12])
def test_a_number_comes_back_from_jsonb_exactly(db: psycopg.Connection, number: float) -> None:
    row = db.execute("select %s::jsonb", [_codec.dumps([number], "x")]).fetchone()
    assert row is not None
    assert row[0] == [number]
    assert type(row[0][0]) is type(number)


def test_a_decimal_goes_out_as_an_exact_number(db: psycopg.Connection) -> None:
    value = Decimal("12345678901234567890.123456789")
    row = db.execute("select (%s::jsonb ->> 0)::numeric", [_codec.dumps([value], "x")]).fetchone()
    assert row == (value,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_value_comes_back_the_same_or_is_refused(value: object) -> None:
    try:
        written = _codec.dumps(value, "x")
    except InvalidArgumentError:
        return
    assert _codec.loads(written) == value
    assert "\\u0000" not in json.dumps(json.loads(written)).replace("\\\\", "")


@given(JSON)
def test_the_slow_path_writes_what_the_fast_one_does(value: object) -> None:
    try:
        slow = _codec._slow(value, "x")
    except InvalidArgumentError:
        return
    assert json.loads(slow) == json.loads(json.dumps(value))


def test_a_value_past_the_limit_is_refused_with_name_size_and_limit() -> None:
    with pytest.raises(
        PayloadTooLargeError, match=r"^args\[0\] has 1,002 bytes, the limit is 100$"
    ):
        _codec.dumps("x" * 1_000, "args[0]", 100)


def test_the_limit_counts_bytes() -> None:
    with pytest.raises(PayloadTooLargeError):
        _codec.dumps("é" * 60, "x", 100)
    assert _codec.dumps("é" * 60, "x", 122)


@pytest.mark.parametrize("value", ["", "a\0", "\ud800", 7, None, "x" * 2_000])
def test_what_cannot_be_a_name_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^workflow_id"):
        _codec.text(value, "workflow_id")


def test_a_small_value_is_cheap() -> None:
    value = {"item": "item-123", "qty": 5, "tags": ["a", 2.5, None, True]}
    plain = min(timeit.repeat(lambda: json.dumps(value), number=2_000, repeat=5))
    ours = min(timeit.repeat(lambda: _codec.dumps(value, "x"), number=2_000, repeat=5))
    assert ours < 3 * plain


# --- retry policies ---


def test_a_policy_is_written_in_seconds() -> None:
    policy = {
        "maximum_attempts": 5,
        "backoff_coefficient": 2,
        "initial_interval": "500ms",
        "maximum_interval": "60s",
        "non_retryable_error_types": [ValueError, "CardRefused"],
    }
    assert _codec.retry_policy(policy) == {
        "maximum_attempts": 5,
        "backoff_coefficient": 2,
        "initial_interval": 0.5,
        "maximum_interval": 60,
        "non_retryable_error_types": ["CardRefused", "ValueError"],
    }


@pytest.mark.parametrize(
    "policy",
    [
        {"maximum_attempts": 0},
        {"maximum_attempts": -1},
        {"maximum_attempts": 1.5},
        {"maximum_attempts": True},
        {"maximum_attempts": 10**12},
        {"backoff_coefficient": -2},
        {"backoff_coefficient": math.nan},
        {"backoff_coefficient": 1e12},
        {"initial_interval": -1},
        {"maximum_interval": "2000 years"},
        {"non_retryable_error_types": "ValueError"},
        {"maximumAttempts": 3},
    ],
    ids=str,
)
def test_an_absurd_policy_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^retry_policy"):
        _codec.retry_policy(policy)
