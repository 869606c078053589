"""Durations as people write them."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotmesh import durations
from hotmesh.errors import InvalidArgumentError

DAY = 86_400

READ = [
    ("30 days", 30 * DAY),
    ("1.5h", 5_400),
    ("500ms", 0.5),
    ("2 minutes", 120),
    ("1h 30m", 5_400),
    ("1 day, 2 hours", 26 * 3_600),
    ("10S", 10),
    (" 3 w", 21 * DAY),
    ("1 year", 365.25 * DAY),
    ("0s", 0),
    (0, 0),
    (2.5, 2.5),
    (timedelta(minutes=3), 180),
]

REFUSED = [
    "",
    " ",
    "60",
    "s",
    "soon",
    "1 fortnight",
    "1h 5",
    "-1s",
    "1 month",
    "1e3 s",
    -1,
    -0.001,
    float("nan"),
    float("inf"),
    10**400,
    "1001 years",
    timedelta(days=-1),
    True,
    None,
    [],
    "1" * 5_000,
]


@pytest.mark.parametrize(("value", "seconds"), READ)
def test_a_duration_is_read(value: durations.Duration, seconds: float) -> None:
    assert durations.parse(value) == seconds


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: repr(value)[:20])
def test_what_is_no_duration_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^expire: "):
        durations.parse(value, "expire")  # type: ignore[arg-type]


def test_whole_seconds_are_written_whole() -> None:
    assert repr(durations.to_json("1.5h")) == "5400"
    assert repr(durations.to_json("500ms")) == "0.5"


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgumentError):
        assert 0 <= durations.parse(text) <= durations.LONGEST


@pytest.mark.parametrize("text", ["30 days", "1.5h", "500ms", "2 minutes", "3 w", "1 year"])
def test_the_engine_reads_the_same(db: psycopg.Connection, text: str) -> None:
    row = db.execute(
        "select extract(epoch from hotmesh._duration(to_jsonb(%s::text), 'x'))", [text]
    ).fetchone()
    assert row is not None
    assert float(row[0]) == durations.parse(text)
