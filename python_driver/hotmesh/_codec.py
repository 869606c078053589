"""The JSON seam: what may cross into the database, and the exact place of what may not.

The fast path is one pass of the C encoder. Only when that pass fails, or meets one of three rare
signs (a NUL, a float with a positive exponent, a lone surrogate), the slow path walks the value in
Python, names the place of the fault (`args[0].price`), and writes what the C encoder cannot: a
Decimal, and a large float that stays a float in jsonb.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NoReturn

from . import durations
from .errors import InvalidArgumentError, PayloadTooLargeError

__all__ = [
    "DEPTH_LIMIT",
    "NAME_LIMIT",
    "VALUE_LIMIT",
    "dumps",
    "loads",
    "retry_policy",
    "stored",
    "text",
    "whole",
]

VALUE_LIMIT = 16 * 1024 * 1024
"""Bytes that one value may have unless the caller knows another limit."""

DEPTH_LIMIT = 400
"""Levels of lists and dicts in one value."""

NAME_LIMIT = 1_000
"""Bytes of a name or a key; more does not fit into an index."""

_DIGITS_LIMIT = 4_000
"""Digits of one number: what Python reads back without asking."""


def dumps(value: object, what: str, limit: int | None = VALUE_LIMIT) -> str:
    """The value as JSON text.

    Tuples become lists and dataclasses dicts; keys that are numbers become text, as JSON has it.
    Raises :class:`InvalidArgumentError` with the place of what JSON or Postgres cannot carry, and
    :class:`PayloadTooLargeError` with name, size and limit (bytes; None for no limit).
    """
    try:
        written = _fast(value)
        if "e+" in written or "\\u0000" in written:
            written = _slow(value, what)
        size = len(written) if written.isascii() else len(written.encode("utf-8"))
    except InvalidArgumentError:
        raise
    except (TypeError, ValueError, RecursionError, _SlowPathError):
        written = _slow(value, what)
        size = len(written.encode("utf-8"))
    if limit is not None and size > limit:
        raise PayloadTooLargeError(
            f"{what} has {size:,} bytes, the limit is {limit:,}",
            hint="store the large part elsewhere and pass a reference to it",
        )
    return written


def loads(written: str | bytes) -> Any:
    """The value of a JSON text; whole numbers of any size come back exactly."""
    return json.loads(written)


_decode = json.JSONDecoder().raw_decode


class Unreadable:
    """Stands for a value that Postgres took and Python can't read; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def readable(written: str | bytes) -> Any:
    """The value of a text of jsonb, or :class:`Unreadable`: it must not cost its neighbours."""
    try:
        return _decode(written if isinstance(written, str) else written.decode())[0]
    except (ValueError, RecursionError) as error:
        return Unreadable(f"{type(error).__name__}: {str(error)[:200]}")


def stored(written: str) -> Any:
    """The value of a JSON text as it will come back from jsonb, which orders the keys of objects."""
    if "{" not in written and "-0.0" not in written:
        return _decode(written)[0]
    return json.loads(written, object_pairs_hook=_ordered, parse_float=_unsigned)


def _ordered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < 2:
        return found
    keys = sorted((len(key.encode()), key.encode(), key) for key in found)
    return {key: found[key] for _, _, key in keys}


def _unsigned(number: str) -> float:
    return float(number) + 0.0  # jsonb has no negative zero


def text(value: object, what: str, limit: int = NAME_LIMIT) -> str:
    """The value, if it can be a name or a key: text, not empty, storable, within `limit` bytes."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{what} must be a text, not {kind(value)}")
    if value.isascii() and 0 < len(value) <= limit and "\x00" not in value:
        return value
    if not value:
        raise InvalidArgumentError(f"{what} is empty")
    _check_text(value, what)
    size = len(value.encode("utf-8"))
    if size > limit:
        raise PayloadTooLargeError(f"{what} has {size:,} bytes, the limit is {limit:,}")
    return value


def name(value: object, what: str) -> str:
    """The value, if it can name a queue or a function: such a text on one line."""
    found = text(value, what)
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in found):
        raise InvalidArgumentError(
            f"{what} has a line break or another control character: {found!r}"
        )
    return found


# --- the fast path --------------------------------------------------------------------------------


class _SlowPathError(Exception):
    """The value holds something that the C encoder cannot write."""


def _default(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    raise _SlowPathError


_fast = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,  # such a value ends in a RecursionError
    allow_nan=False,
    separators=(",", ":"),
    default=_default,
).encode


def _fields(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


# --- the slow path --------------------------------------------------------------------------------


def _slow(value: object, what: str) -> str:
    try:
        return "".join(_write(value, what, 0, set()))
    except RecursionError:
        _refuse(what, "nested too deeply")


def _write(value: object, path: str, depth: int, above: set[int]) -> Iterator[str]:
    if value is None or value is True or value is False:
        yield _fast(value)
    elif isinstance(value, str):
        _check_text(value, path)
        yield _fast(value)
    elif isinstance(value, int | float | Decimal):
        yield _number(value, path)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _nested(_fields(value), path, depth, above)
    elif isinstance(value, dict | list | tuple):
        yield from _nested(value, path, depth, above)
    else:
        _refuse(path, f"{kind(value)} is not a JSON value", _advice(value))


def _nested(
    value: dict[Any, Any] | list[Any] | tuple[Any, ...], path: str, depth: int, above: set[int]
) -> Iterator[str]:
    if id(value) in above:
        _refuse(path, "the value contains itself")
    if depth >= DEPTH_LIMIT:
        _refuse(_shortened(path), f"nested deeper than {DEPTH_LIMIT} levels")
    above = above | {id(value)}
    is_dict = isinstance(value, dict)
    yield "{" if is_dict else "["
    for index, item in enumerate(value.items() if isinstance(value, dict) else value):
        if index:
            yield ","
        if is_dict:
            key = _key(item[0], path)
            yield _fast(key) + ":"
            yield from _write(item[1], f"{path}.{key}", depth + 1, above)
        else:
            yield from _write(item, f"{path}[{index}]", depth + 1, above)
    yield "}" if is_dict else "]"


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        _check_text(key, f"a key of {path}")
        return key
    if key is None or isinstance(key, bool):
        return _fast(key)
    if isinstance(key, int | float):
        return _number(key, f"a key of {path}")
    _refuse(path, f"a key is {kind(key)}, and only text can be a key")


def _number(value: int | float | Decimal, path: str) -> str:
    if isinstance(value, int):
        return _whole(value, path)
    if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
        _refuse(path, f"{value} is not a JSON number", "pass None where there is no number")
    if isinstance(value, float):
        written = float.__repr__(value)
        # jsonb would turn 1e+22 into a whole number, and the float into an int on its way back
        return f"{Decimal(written):f}.0" if "e+" in written else written
    if abs(value.adjusted()) > _DIGITS_LIMIT or len(value.as_tuple().digits) > _DIGITS_LIMIT:
        _refuse(path, f"a number of more than {_DIGITS_LIMIT:,} digits")
    return f"{value:f}"


def _whole(value: int, path: str) -> str:
    if value.bit_length() > _DIGITS_LIMIT * 3:
        _refuse(path, f"a number of more than {_DIGITS_LIMIT:,} digits")
    return int.__repr__(value)


def _check_text(value: str, path: str) -> None:
    if "\x00" in value:
        _refuse(path, f"the text has a NUL character at position {value.index(chr(0))}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as fault:
        _refuse(path, f"the text has a lone surrogate at position {fault.start}")


def _refuse(path: str, reason: str, hint: str | None = None) -> NoReturn:
    raise InvalidArgumentError(f"{_shortened(_printable(path))}: {reason}", hint=hint) from None


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]} … {path[-80:]}"


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def kind(value: object) -> str:
    """What a value is, in words: "an int"."""
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _advice(value: object) -> str | None:
    if hasattr(value, "isoformat"):
        return "pass its .isoformat()"
    if isinstance(value, bytes | bytearray | memoryview):
        return "pass text, such as base64"
    if isinstance(value, set | frozenset):
        return "pass a sorted list"
    return None


# --- shapes that the doors know -------------------------------------------------------------------

_ATTEMPTS_LIMIT = 1_000_000
_COEFFICIENT_LIMIT = 1_000


def whole(value: object, what: str, low: int, high: int) -> int:
    """The value, if it is a whole number from `low` to `high`."""
    return int(_between(value, what, low, high, whole=True))


def retry_policy(policy: Mapping[str, Any], what: str = "retry_policy") -> dict[str, Any]:
    """The policy as the doors take it, intervals in seconds; keys that are absent stay absent.

    Keys: maximum_attempts (executions, from 1), initial_interval, maximum_interval (durations),
    backoff_coefficient (from 1), non_retryable_error_types (a list of class names).
    """
    if not isinstance(policy, Mapping):
        raise InvalidArgumentError(f"{what} must be a dict, not {kind(policy)}")
    told: dict[str, Any] = {}
    for key, value in policy.items():
        place = f"{what}.{key}"
        if key == "maximum_attempts":
            told[key] = _between(value, place, 1, _ATTEMPTS_LIMIT, whole=True)
        elif key == "backoff_coefficient":
            told[key] = _between(value, place, 1, _COEFFICIENT_LIMIT)
        elif key in ("initial_interval", "maximum_interval"):
            told[key] = durations.to_json(value, place)
        elif key == "non_retryable_error_types":
            told[key] = _names(value, place)
        else:
            raise InvalidArgumentError(f"{what} has no key {key!r}", hint=_POLICY_HINT)
    return told


_POLICY_HINT = (
    "its keys are maximum_attempts, initial_interval, backoff_coefficient, maximum_interval "
    "and non_retryable_error_types"
)


def _between(value: object, place: str, low: int, high: int, whole: bool = False) -> int | float:
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if fits and low <= value <= high:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    kind = "a whole number" if whole else "a number"
    raise InvalidArgumentError(f"{place}: {value!r} must be {kind} from {low:,} to {high:,}")


def _names(value: object, place: str) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidArgumentError(f"{place} must be a list of class names, not {kind(value)}")
    return sorted({text(getattr(name, "__name__", name), place) for name in value})


def lane_text(priority: int | None, concurrency_key: str | None) -> str:
    """What a command says of its place in a queue: members of a JSON object, or nothing."""
    parts = []
    if priority:
        parts.append(f'"priority":{whole(priority, "priority", -32_768, 32_767)}')
    if concurrency_key is not None:
        parts.append(f'"concurrency_key":{dumps(lane_key(concurrency_key), "concurrency_key")}')
    return ",".join(parts)


def lane_key(value: object, what: str = "concurrency_key") -> str:
    """A concurrency key as the engine takes it: from 1 to 500 bytes."""
    key = text(value, what)
    if len(key.encode()) > 500:
        raise InvalidArgumentError(f"{what} is longer than 500 bytes")
    return key
