"""Crontab lines: how they are read, and when they tick; a well-kept library is the second opinion."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import psycopg
import pytest
from cronsim import CronSim, CronSimError

from support.hand import Connection, one

UTC = timezone.utc
NEAR = "select hotmesh._cron_near(hotmesh._cron_parse(%s), %s, %s, %s)"


def ticks(db: Connection, line: str, zone: str, after: str, count: int = 1) -> list[str]:
    """The next ticks after an instant, in UTC, without the seconds."""
    at, found = one(db, "select %s::timestamptz", after), []
    for _ in range(count):
        at = one(db, NEAR, line, zone, at, 1)
        found.append(f"{at.astimezone(UTC):%Y-%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("line", "after", "ticks_"),
    [
        ("* * * * *", "2030-01-01 00:00:30Z", ["2030-01-01 00:01", "2030-01-01 00:02"]),
        ("*/15 9-10 * * *", "2030-01-01 09:40Z", ["2030-01-01 09:45", "2030-01-01 10:00"]),
        ("5/20 * * * *", "2030-01-01 00:00Z", ["2030-01-01 00:05", "2030-01-01 00:25"]),
        ("0 0 1,15 * *", "2030-01-01 00:00Z", ["2030-01-15 00:00", "2030-02-01 00:00"]),
        ("0 0 * * 7", "2030-01-01 00:00Z", ["2030-01-06 00:00", "2030-01-13 00:00"]),
        ("0 0 * * FRI-sun", "2030-01-01 00:00Z", ["2030-01-04 00:00", "2030-01-05 00:00"]),
        ("0 0 13 * fri", "2030-09-10 00:00Z", ["2030-09-13 00:00", "2030-09-20 00:00"]),
        ("0 12 * feb,Nov *", "2030-02-28 12:00Z", ["2030-11-01 12:00", "2030-11-02 12:00"]),
        ("0 0 29 2 *", "2096-03-01 00:00Z", ["2104-02-29 00:00"]),
        ("@hourly", "2030-01-01 00:00Z", ["2030-01-01 01:00"]),
        ("@daily", "2030-01-01 00:00Z", ["2030-01-02 00:00"]),
        ("@midnight", "2030-01-01 00:00Z", ["2030-01-02 00:00"]),
        ("@weekly", "2030-01-01 00:00Z", ["2030-01-06 00:00"]),
        ("@monthly", "2030-01-01 00:00Z", ["2030-02-01 00:00"]),
        ("@yearly", "2030-01-01 00:00Z", ["2031-01-01 00:00"]),
        ("@annually", "2030-01-01 00:00Z", ["2031-01-01 00:00"]),
    ],
)
def test_a_line_ticks_when_a_cron_user_expects_it(
    db: Connection, line: str, after: str, ticks_: list[str]
) -> None:
    assert ticks(db, line, "UTC", after, len(ticks_)) == ticks_


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        # Berlin: 02:00 becomes 03:00 on 31 March 2030, 03:00 becomes 02:00 on 27 October 2030
        ("30 2 * * *", "2030-03-30 12:00Z", ["2030-03-31 01:00", "2030-04-01 00:30"]),
        ("0,30 2 * * *", "2030-03-30 12:00Z", ["2030-03-31 01:00", "2030-04-01 00:00"]),
        ("30 2 * * *", "2030-10-26 12:00Z", ["2030-10-27 00:30", "2030-10-28 01:30"]),
        ("0 3 * * *", "2030-10-26 12:00Z", ["2030-10-27 02:00", "2030-10-28 02:00"]),
        ("0 * * * *", "2030-03-31 00:00Z", ["2030-03-31 01:00", "2030-03-31 02:00"]),
        ("0 * * * *", "2030-10-26 23:30Z", ["2030-10-27 00:00", "2030-10-27 01:00"]),
        ("*/30 2 * * *", "2030-03-30 12:00Z", ["2030-04-01 00:00"]),
        ("*/30 2 * * *", "2030-10-27 00:00Z", ["2030-10-27 00:30", "2030-10-27 01:00"]),
    ],
)
def test_clocks_that_change_make_a_daily_tick_neither_vanish_nor_double(
    db: Connection, line: str, after: str, expected: list[str]
) -> None:
    assert ticks(db, line, "Europe/Berlin", after, len(expected)) == expected


def test_a_gap_of_a_whole_day_and_a_change_at_midnight_lose_no_day(db: Connection) -> None:
    # Samoa had no 30 December 2011; Paraguay's clocks skipped from 0:00 to 1:00
    assert ticks(db, "30 9 * * *", "Pacific/Apia", "2011-12-28 20:00Z", 3) == [
        "2011-12-29 19:30", "2011-12-30 10:00", "2011-12-30 19:30"
    ]  # fmt: skip
    assert ticks(db, "0 0 * * *", "America/Asuncion", "2019-10-05 12:00Z", 2) == [
        "2019-10-06 04:00", "2019-10-07 03:00"
    ]  # fmt: skip


def _field(chance: random.Random, low: int, high: int) -> str:
    def item() -> str:
        a, b = sorted(chance.sample(range(low, high + 1), 2))
        text = chance.choice(["*", f"{a}", f"{a}", f"{a}-{b}"])
        return text if chance.random() < 0.6 else f"{text}/{chance.randint(1, max(2, high // 2))}"

    return "*" if chance.random() < 0.35 else ",".join(item() for _ in range(chance.randint(1, 2)))


RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata")


DAYS = ("2024-03-08", "2024-03-30", "2024-10-26", "2024-11-02", "2024-02-27")


def _second_opinion(line: str, start: datetime) -> list[datetime] | None:
    try:
        found = CronSim(line, start)
        return [next(found).astimezone(UTC) for _ in range(8)]
    except (CronSimError, StopIteration):
        return None


@pytest.mark.parametrize("seed", range(40))
def test_random_lines_tick_as_a_library_says(db: Connection, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(6):
        line = " ".join(_field(chance, *each) for each in RANGES)
        zone = chance.choice(ZONES)
        start = datetime.fromisoformat(f"{chance.choice(DAYS)} 00:00:00+00:00")
        expected = _second_opinion(line, start.astimezone(ZoneInfo(zone)))
        if expected is None:
            assert one(db, NEAR, line, zone, start, 1) is None, line
            continue
        at, found = start, []
        for _ in expected:
            at = one(db, NEAR, line, zone, at, 1)
            found.append(at.astimezone(UTC))
        assert found == expected, (line, zone, start)
        assert one(db, NEAR, line, zone, at, -1) == at
        assert one(db, NEAR, line, zone, at - timedelta(seconds=1), -1) == found[-2]


def test_a_change_by_half_an_hour_is_read_right(db: Connection) -> None:
    # Lord Howe: from 11:00 to 10:30 ahead of UTC on 7 April 2024, where the library is wrong
    assert ticks(db, "*/30 14 * * *", "Australia/Lord_Howe", "2024-04-06 11:00Z", 2) == [
        "2024-04-07 03:30", "2024-04-07 04:00"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
        "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", "* * * foo *",
        "1,,2 * * * *", "1, * * * *", "-1 * * * *", "1-2-3 * * * *", "*-5 * * * *", "1/2/3 * * * *",
        "@reboot", "@every 5m", "* * * * mon-", "; drop table x * * *", "* * jan * *", "mon * * * *",
        "100 * * * *", "1.5 * * * *", "* * L * *", "* * * * 5#2", None,
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_refused_and_told_why(db: Connection, line: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        one(db, "select hotmesh._cron_parse(%s)", line)
    assert "cron: " in str(refused.value)
    assert refused.value.diag.message_hint
    assert "Five fields" in refused.value.diag.message_hint
