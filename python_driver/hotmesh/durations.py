"""Durations as people write them: `"30 days"`, `"1.5h"`, `"1h 30m"`, a timedelta, or seconds.

One form is refused on purpose: text without a unit. `"60"` is seconds to one reader and
milliseconds to another.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from .errors import InvalidArgumentError

__all__ = ["LONGEST", "Duration", "above_zero", "parse", "to_json"]

Duration = str | int | float | timedelta
"""What every argument that is a length of time takes; numbers are seconds."""

_YEAR = 365.25 * 86_400

LONGEST = 1_000 * _YEAR
"""The longest duration that is taken for meant, in seconds: a thousand years."""

_UNITS = {
    "ms": 0.001, "msec": 0.001, "msecs": 0.001, "millisecond": 0.001, "milliseconds": 0.001,
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3_600.0, "hr": 3_600.0, "hrs": 3_600.0, "hour": 3_600.0, "hours": 3_600.0,
    "d": 86_400.0, "day": 86_400.0, "days": 86_400.0,
    "w": 604_800.0, "week": 604_800.0, "weeks": 604_800.0,
    "y": _YEAR, "yr": _YEAR, "yrs": _YEAR, "year": _YEAR, "years": _YEAR,
}  # fmt: skip

_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]+)\s*,?")


def parse(value: Duration, what: str = "duration") -> float:
    """The duration in seconds.

    Raises :class:`InvalidArgumentError`, which names `what` and the value, for anything that is no
    duration, is negative, not finite, or longer than a thousand years.
    """
    seconds = _seconds(value, what)
    if not math.isfinite(seconds) or seconds < 0 or seconds > LONGEST:
        raise InvalidArgumentError(
            f"{what}: {value!r} is no usable duration",
            hint="a duration is zero or more, and at most 1,000 years",
        )
    return seconds


def to_json(value: Duration, what: str = "duration") -> int | float:
    """The duration as the doors take it: a JSON number of seconds, whole where it is whole."""
    seconds = parse(value, what)
    return int(seconds) if seconds.is_integer() else seconds


def above_zero(value: Duration, what: str) -> int | float:
    """The same for a limit, which is longer than nothing."""
    seconds = to_json(value, what)
    if seconds <= 0:
        raise InvalidArgumentError(
            f"{what}: {value!r} is no usable timeout", hint="leave it out for no limit"
        )
    return seconds


def _seconds(value: object, what: str) -> float:
    if isinstance(value, str):
        return _text(value, what)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise InvalidArgumentError(
        f"{what}: {value!r} is no duration",
        hint='write text with a unit such as "30 s", a timedelta, or a number of seconds',
    )


def _text(value: str, what: str) -> float:
    text, position, seconds = value.lower(), 0, 0.0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or part.group(2) not in _UNITS:
            raise _unreadable(value, what)
        seconds += float(part.group(1)) * _UNITS[part.group(2)]
        position = part.end()
    if position == 0:
        raise _unreadable(value, what)
    return round(seconds, 6)


def _unreadable(value: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what}: {_short(value)} is no duration",
        hint='a number and a unit: ms, s, m, h, d, w or y, such as "1.5h" or "30 days"',
    )


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")
