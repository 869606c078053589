"""What a type hint makes of a JSON value: dataclasses, models, dates, and containers of them.

A hint that only names JSON (``str``, ``int``, ``list[dict[str, Any]]``) or nothing known here costs
nothing: its reader is None, and the value stays what it is. Readers are made once per hint.
"""

from __future__ import annotations

import base64
import collections.abc as abc
import contextlib
import dataclasses
import enum
import functools
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

from . import durations

__all__ = ["Misfit", "Plan", "Reader", "is_model", "plain", "plan_of", "reader_of"]

Reader = Callable[[Any], Any]


class Misfit(Exception):
    """A value that its hint refuses; `path` leads to it, and `reason` says what was due."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def under(self, step: str) -> Misfit:
        """The same, seen from one level up."""
        self.path = step + self.path
        return self


# --- from Python to JSON --------------------------------------------------------------------------


def is_model(kind: object) -> bool:
    """Whether a class is a pydantic model, of version 2 or 1, or looks like one."""
    return isinstance(kind, type) and (
        hasattr(kind, "model_validate_json")
        or (hasattr(kind, "parse_raw") and hasattr(kind, "__fields__"))
    )


def plain(value: object) -> object:
    """The JSON value that stands for one of a known class; raises TypeError for the others."""
    if is_model(type(value)):
        return _dumped(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _field(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    raise TypeError


def _dumped(value: Any) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return json.loads(value.json())


def _sorted(values: Iterable[Any]) -> list[Any]:
    """A set in an order that does not depend on the process."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _field(value: Any) -> Any:
    """A field of a dataclass; its type says what it is, so here sets and bytes may pass."""
    kind = type(value)
    if kind in (set, frozenset):
        return [_field(item) for item in _sorted(value)]
    if kind in (bytes, bytearray):
        return base64.b64encode(value).decode("ascii")
    if kind in (list, tuple):
        return [_field(item) for item in value]
    if kind is dict:
        return {key: _field(item) for key, item in value.items()}
    return value


def _finite(value: Decimal) -> str:
    if not value.is_finite():
        raise TypeError
    return str(value)


_WRITERS: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (enum.Enum, lambda value: value.value),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time, time.isoformat),
    (timedelta, timedelta.total_seconds),
    (UUID, str),
    (Decimal, _finite),
    (PurePath, str),
)


# --- from JSON to Python: single values -----------------------------------------------------------


def _shown(value: object) -> str:
    """A JSON value as an error names it."""
    if value is None:
        return "null"
    kind = _JSON_KINDS.get(type(value), type(value).__name__)
    if type(value) in (dict, list):
        return kind
    text = repr(value)
    return f"{kind} {text if len(text) <= 60 else text[:50] + '…'}"


_JSON_KINDS = {
    str: "the text",
    int: "the number",
    float: "the number",
    bool: "the boolean",
    dict: "an object",
    list: "an array",
}


def _misfit(what: str, value: object) -> Misfit:
    return Misfit(f"must be {what}, not {_shown(value)}")


def _scalar(kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _misfit(f"a value of type {kind.__name__}", value)

    return read


def _parsed(what: str, accepts: type | tuple[type, ...], parse: Callable[[Any], Any]) -> Reader:
    def read(value: Any) -> Any:
        if isinstance(value, accepts) and not isinstance(value, bool):
            try:
                return parse(value)
            except (ValueError, ArithmeticError, OverflowError):
                pass
        raise _misfit(what, value)

    return read


def _iso(kind: Any) -> Callable[[str], Any]:
    def parse(value: str) -> Any:
        if sys.version_info < (3, 11) and value.endswith(("Z", "z")):
            value = value[:-1] + "+00:00"
        return kind.fromisoformat(value)

    return parse


def _timedelta(value: Any) -> timedelta:
    seconds = value if isinstance(value, int | float) else durations.parse(value)
    return timedelta(seconds=seconds)


_SINGLE: dict[object, Reader] = {
    datetime: _parsed("a date and time (ISO 8601)", str, _iso(datetime)),
    date: _parsed("a date (ISO 8601)", str, _iso(date)),
    time: _parsed("a time of day (ISO 8601)", str, _iso(time)),
    timedelta: _parsed("a duration in seconds", (int, float, str), _timedelta),
    UUID: _parsed("a UUID", str, UUID),
    Decimal: _parsed("a decimal number", (str, int, float), lambda value: Decimal(str(value))),
    bytes: _parsed("bytes as base64", str, lambda value: base64.b64decode(value, validate=True)),
    bytearray: _parsed("bytes as base64", str, lambda value: bytearray(base64.b64decode(value))),
}

_SCALARS: dict[object, Reader] = {kind: _scalar(kind) for kind in (str, int, float, bool)}


def _enum(kind: type[enum.Enum]) -> Reader:
    def read(value: Any) -> Any:
        if isinstance(value, list):
            value = tuple(value)
        try:
            return kind(value)
        except (ValueError, TypeError):
            known = ", ".join(repr(member.value) for member in list(kind)[:10])
            raise _misfit(f"one of the {kind.__name__} values {known}", value) from None

    return read


def _none(value: Any) -> None:
    if value is not None:
        raise _misfit("null", value)


# --- containers -----------------------------------------------------------------------------------


def _at(step: str, read: Reader, value: Any) -> Any:
    """The value read; a misfit says where it was."""
    try:
        return read(value)
    except Misfit as fault:
        raise fault.under(step) from fault.__cause__


def _each(values: Any, read: Reader, what: str) -> list[Any]:
    if not isinstance(values, list):
        raise _misfit(what, values)
    found = []
    for index, value in enumerate(values):
        found.append(_at(f"[{index}]", read, value))
    return found


def _sequence(make: Callable[[list[Any]], Any], item: object, what: str) -> Reader:
    read = _strict(item)
    if make is list:
        return lambda values: _each(values, read, what)
    return lambda values: make(_each(values, read, what))


def _tuple(items: tuple[Any, ...], make: Callable[[list[Any]], Any] = tuple) -> Reader:
    readers = [_strict(item) for item in items]

    def read(values: Any) -> Any:
        if not isinstance(values, list) or len(values) != len(readers):
            size = f", not one of {len(values)}" if isinstance(values, list) else ""
            if size:
                raise Misfit(f"must be an array of {len(readers)}{size}")
            raise _misfit(f"an array of {len(readers)}", values)
        found = []
        for index, value in enumerate(values):
            found.append(_at(f"[{index}]", readers[index], value))
        return make(found)

    return read


def _mapping(key: object, item: object) -> Reader:
    read_key, read = _key(key), _strict(item)

    def read_all(values: Any) -> Any:
        if not isinstance(values, dict):
            raise _misfit("an object", values)
        found = {}
        for name, value in values.items():
            found[read_key(name)] = _at(f".{name}", read, value)
        return found

    return read_all


def _key(hint: object) -> Reader:
    """Keys are text in JSON, those that were numbers too."""
    if hint in (int, float):
        return _parsed(
            f"a key of type {getattr(hint, '__name__', hint)}", str, typing.cast(Any, hint)
        )
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        by_text = {str(member.value): member for member in hint}
        return lambda value: by_text[value] if value in by_text else _enum(hint)(value)
    return _strict(hint) if _needs(hint) else lambda value: value


class _Fields:
    """Reads a dataclass. What the sender knows and we don't is left out; what is missing is not."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @functools.cached_property
    def readers(self) -> dict[str, tuple[Reader, bool]]:
        """By field: its reader, and whether it must be there."""
        hints = _hints(self.kind)
        missing = dataclasses.MISSING
        return {
            field.name: (
                _strict(hints.get(field.name, Any)),
                field.default is missing and field.default_factory is missing,
            )
            for field in dataclasses.fields(self.kind)
            if field.init
        }

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise _misfit(f"an object for {self.kind.__name__}", value)
        found = {}
        for name, (read, needed) in self.readers.items():
            if name in value:
                found[name] = _at(f".{name}", read, value[name])
            elif needed:
                raise Misfit(f"must have the field {name!r} of {self.kind.__name__}")
        try:
            return self.kind(**found)
        except (ValueError, TypeError) as error:
            raise Misfit(f"is no {self.kind.__name__}: {error}") from error

    def knows_all(self, value: Any) -> bool:
        """Whether every key of the value is a field."""
        return isinstance(value, dict) and value.keys() <= self.readers.keys()


def _model(kind: Any) -> Reader:
    def read(value: Any) -> Any:
        text = json.dumps(value)
        try:
            if hasattr(kind, "model_validate_json"):
                return kind.model_validate_json(text)
            return kind.parse_raw(text)
        except ValueError as error:
            raise Misfit(f"is no {kind.__name__}: {str(error)[:500]}") from error

    return read


def _typed_dict(kind: Any) -> Reader:
    readers = {name: _strict(hint) for name, hint in _hints(kind).items() if _needs(hint)}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _misfit(f"an object for {kind.__name__}", value)
        found = dict(value)
        for name in readers.keys() & value.keys():
            found[name] = _at(f".{name}", readers[name], value[name])
        return found

    return read


def _union(members: tuple[Any, ...]) -> Reader:
    """The first member that fits, in their order; dataclasses first where they know every key."""
    readers: list[tuple[Any, Reader]] = [
        (member, _strict(member)) for member in members if member is not type(None)
    ]
    optional = len(readers) < len(members)

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        if len(readers) == 1:
            return readers[0][1](value)
        known: list[Reader] = [
            r for _, r in readers if isinstance(r, _Fields) and r.knows_all(value)
        ]
        for reader in [*known, *(r for _, r in readers)]:
            with contextlib.suppress(Misfit):
                return reader(value)
        names = " or ".join(getattr(m, "__name__", str(m)) for m, _ in readers)
        raise _misfit(names, value)

    return read


# --- hints ----------------------------------------------------------------------------------------

_LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection)
_SETS: dict[object, Any] = {
    set: set, abc.Set: frozenset, abc.MutableSet: set, frozenset: frozenset
}  # fmt: skip
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_UNIONS = (typing.Union, types.UnionType)


def _bare(hint: Any) -> Any:
    """The hint without NewType, type aliases and the promise of an awaitable."""
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif typing.get_origin(hint) in (abc.Awaitable, abc.Coroutine):
            hint = typing.get_args(hint)[-1]
        elif typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        else:
            return hint


def _rich(kind: Any) -> bool:
    """Whether a class itself is more than JSON."""
    if not isinstance(kind, type):
        return False
    if kind in _SINGLE or kind is tuple or kind in (set, frozenset):
        return True
    if issubclass(kind, enum.Enum | PurePath) or dataclasses.is_dataclass(kind) or is_model(kind):
        return True
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _needs(hint: object) -> bool:
    """Whether a hint, or one within it, is more than JSON."""
    hint = _bare(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return False
    if origin is None:
        if typing.is_typeddict(hint):
            return any(_needs(inner) for inner in _hints(hint).values())
        return _rich(hint)
    if _rich(origin) or origin in _SETS:
        return True
    args = typing.get_args(hint)
    if origin in _MAPPINGS and _bare(args[0]) in (int, float):
        return True
    if origin in (*_UNIONS, *_LISTS, *_MAPPINGS):
        return any(_needs(inner) for inner in args)
    return False


def _strict(hint: object) -> Reader:
    """The reader of a hint inside another: simple types are checked there too."""
    hint = _bare(hint)
    if hint is None or hint is type(None):
        return _none
    found = _SINGLE.get(hint) or _SCALARS.get(hint) if isinstance(hint, type) else None
    if found is not None:
        return found
    return _of_class(hint) or _of_generic(hint) or (lambda value: value)


def _of_class(hint: Any) -> Reader | None:
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type):
        return None
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if is_model(kind):
        return _model(hint if is_model(hint) else kind)
    if dataclasses.is_dataclass(kind):
        return _Fields(kind)
    if issubclass(kind, PurePath):
        return _parsed("a path", str, kind)
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = _hints(kind)
        items = tuple(hints.get(name, Any) for name in kind._fields)
        return _tuple(items, lambda values: kind(*values))
    return None


def _of_generic(hint: Any) -> Reader | None:
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in _UNIONS:
        return _union(args)
    if origin is tuple:
        if not args or (len(args) == 2 and args[1] is Ellipsis):
            return _sequence(tuple, args[0] if args else Any, "an array")
        return _tuple(() if args == ((),) else args)
    if _hashable(origin) and origin in _SETS:
        return _sequence(_SETS[origin], args[0] if args else Any, "an array")
    if args and origin in _LISTS:
        return _sequence(list, args[0], "an array")
    if args and origin in _MAPPINGS:
        return _mapping(*args)
    return None


def _hashable(value: object) -> bool:
    return isinstance(value, abc.Hashable)


@functools.lru_cache(maxsize=4096)
def reader_of(hint: object) -> Reader | None:
    """What makes a value of this type from JSON; None where JSON is all that the hint says."""
    return _strict(hint) if _needs(hint) else None


# --- functions ------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The readers of a function: by position, of `*args`, and of its result."""

    names: tuple[str, ...]
    readers: tuple[Reader | None, ...]
    rest: Reader | None
    result: Reader | None

    def reader(self, index: int) -> Reader | None:
        """The reader of the argument at `index`, from 0."""
        return self.readers[index] if index < len(self.readers) else self.rest

    def name(self, index: int) -> str:
        """How an error names the argument at `index`."""
        return self.names[index] if index < len(self.names) else f"args[{index}]"


def _hints(target: Any) -> dict[str, Any]:
    """The hints of a class or function; one that can't be resolved is Any, and costs no other."""
    try:
        return typing.get_type_hints(target, localns=_closure(target))
    except Exception:
        return {name: _one_hint(target, name) for name in _annotations(target)}


def _annotations(target: Any) -> Mapping[str, Any]:
    if not isinstance(target, type):
        return typing.cast(Mapping[str, Any], getattr(target, "__annotations__", {}))
    return {name: hint for base in reversed(target.__mro__)
            for name, hint in getattr(base, "__annotations__", {}).items()}  # fmt: skip


def _one_hint(target: Any, name: str) -> Any:
    def alone() -> None:
        """Carries one annotation."""

    alone.__annotations__ = {name: _annotations(target)[name]}
    module = sys.modules.get(getattr(target, "__module__", ""), None)
    names = getattr(inspect.unwrap(target), "__globals__", None) or vars(module or types)
    try:
        return typing.get_type_hints(alone, names, _closure(target))[name]
    except Exception:
        return Any


def _closure(target: Any) -> dict[str, Any] | None:
    """Names of the function around, as far as the function itself uses them."""
    cells = getattr(target, "__closure__", None)
    if not cells:
        return None
    found = {}
    for name, cell in zip(target.__code__.co_freevars, cells, strict=False):
        with contextlib.suppress(ValueError):  # not bound yet
            found[name] = cell.cell_contents
    return found


@functools.lru_cache(maxsize=4096)
def plan_of(function: Callable[..., Any]) -> Plan | None:
    """How the arguments of a function are read; None where all of it is JSON."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    target: Any = function
    if not hasattr(target, "__annotations__"):
        target = getattr(target, "func", None) or type(target).__call__
    hints = {name: reader_of(hint) if _hashable(hint) else None
             for name, hint in _hints(target).items()}  # fmt: skip
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    readers = tuple(hints.get(name) for name in positional)
    found = Plan(tuple(positional), readers, hints.get(rest), hints.get("return"))
    return found if any((*readers, found.rest, found.result)) else None
