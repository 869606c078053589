"""The house: the clock, durations, numbers, refusals, settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.hand import Connection, one

DURATION = "select hotmesh._duration(%s, 'expire')"


def test_the_clock_goes_on_within_a_statement_and_a_transaction(
    caller: Connection,
) -> None:
    with caller.transaction():
        first = one(caller, "select hotmesh.now()")
        assert first > one(caller, "select pg_catalog.now()")
        assert one(caller, "select hotmesh.now()") > first


def test_everything_goes_by_the_engines_clock(
    caller: Connection, clock: Clock, db: Connection
) -> None:
    clock.freeze("2042-01-01 00:00+00")
    caller.execute("select hotmesh.job_start('my-app', 'order')")
    times = db.execute(
        "select j.created_at, j.updated_at, a.created_at, a.updated_at, s.created_at, s.visible_at"
        " from my_app.jobs j, my_app.jobs_attributes a, my_app.streams s"
    ).fetchall()
    assert {time.isoformat() for time in times[0]} == {clock.now().isoformat()}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0), (1.5, 1.5), (86400, 86400), ("0 s", 0), ("30 seconds", 30), ("1.5h", 5400),
        ("500ms", 0.5), ("2 minutes", 120), ("5m", 300), ("1 day 2 hours", 93600), ("  3 D  ", 259200),
        ("1w", 604800), ("90 SECS", 90), (1e-400, 0), ("86400000 ms", 86400), ("99999999 s", 99999999),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_or_a_text(db: Connection, given: Any, seconds: float) -> None:
    assert one(db, DURATION, Jsonb(given)) == timedelta(seconds=seconds)


def test_a_tiny_number_of_seconds_is_nothing(db: Connection) -> None:
    assert one(db, "select hotmesh._duration('1e-400', 'expire')") == timedelta(0)


def test_months_are_months(db: Connection) -> None:
    assert one(db, "select hotmesh._duration('\"1 month\"', 'e') = interval '1 month'")
    assert one(db, "select hotmesh._duration('\"1m\"', 'e') = interval '1 minute'")


def test_no_duration_is_none(db: Connection) -> None:
    assert one(db, DURATION, None) is None
    assert one(db, DURATION, Jsonb(None)) is None


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.text("0123456789. -+:smhdwyPTinfatyNA", max_size=120),
        st.lists(
            st.tuples(st.integers(0, 10**12), st.sampled_from(["ms", "s", "m", "h", "d", "w", "mons", "y"])),
            min_size=1, max_size=9,
        ).map(lambda parts: " ".join(f"{number} {unit}" for number, unit in parts)),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(),
    )
)  # fmt: skip
def test_any_input_is_a_duration_or_refused_in_the_houses_way(
    shared: Connection, value: Any
) -> None:
    found, refused = outcome(shared, value)
    if refused is None:
        assert one(
            shared, "select %s::interval between interval '0' and interval '1001 years'", found
        )
    else:
        assert refused.sqlstate == "22023", (value, refused)
        assert str(refused.diag.message_primary).startswith("expire is no duration: ")


def outcome(connection: Connection, value: Any) -> tuple[str | None, psycopg.Error | None]:
    try:
        return one(connection, "select hotmesh._duration(%s, 'expire')::text", Jsonb(value)), None
    except psycopg.Error as error:
        return None, error


@pytest.fixture(scope="module")
def shared(server: Any, template_plain: Any) -> Any:
    """One clone for all examples of a property."""
    with (
        server.database(template_plain.template_dbname) as name,
        server.connect(name) as admin,
    ):
        yield admin


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5", True), ("0", True), ("10", True), ("10.001", False), ("-1", False), ('"5"', False),
     ("null", False), ("true", False), ("[5]", False), ("1e1000", False), ("-1e1000", False)],
)  # fmt: skip
def test_what_is_a_number_in_bounds(db: Connection, value: str, expected: bool) -> None:
    assert one(db, "select hotmesh._is_number(%s, 0, 10)", value) is expected


def test_a_refusal_says_what_why_and_what_to_do(db: Connection) -> None:
    for detail in ("because", None):
        with pytest.raises(psycopg.Error) as caught:
            db.execute(
                "select hotmesh._refuse_argument('no such thing', %s, 'try another')",
                [detail],
            )
        diag = caught.value.diag
        assert (diag.sqlstate, diag.message_primary) == ("22023", "no such thing")
        assert diag.message_detail
        assert diag.message_hint == "try another"


def test_a_setting_is_the_apps_own(db: Connection) -> None:
    db.execute("select hotmesh.app_create('other')")
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 5}' where name = 'other'")
    for schema, expected in (("my_app", 7), ("other", 5)):
        with db.transaction():
            db.execute(f"set local search_path = pg_catalog, {schema}, hotmesh")
            assert one(db, "select hotmesh._setting('value_limit', 7)") == expected


@pytest.mark.both_modes
def test_who_holds_a_key_may_ask_for_version_and_protocol(caller: Connection) -> None:
    assert one(caller, "select hotmesh.version()").count(".") == 2
    assert one(caller, "select hotmesh.protocol()") == 1
