"""What crosses between workflows, activities and clients: arguments, results, the data of signals.

A payload is JSON text that Python values of many types are written as, by `_types`, and read back
from by the hints of whoever receives it. A codec, if one is registered, turns each payload into
bytes that only it can read; what is stored then is ``{"$hotmesh.codec": "<base64>"}``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from . import _codec, _types, errors
from ._codec import VALUE_LIMIT
from .errors import (
    HotMeshError,
    InvalidArgumentError,
    PayloadCodecError,
    PayloadTooLargeError,
)

__all__ = [
    "PayloadCodec",
    "arguments",
    "dumps",
    "dumps_args",
    "error_json",
    "error_text",
    "headers_of",
    "opened",
    "opened_deep",
    "opened_error",
    "read",
    "register_codec",
    "result_reader",
    "seal",
    "with_headers",
    "written",
]

SEALED = "$hotmesh.codec"
HEADERS = "$hotmesh.headers"


class PayloadCodec(Protocol):
    """Turns payloads into what may be stored, and back; both are called in the event loop."""

    def encode(self, payload: bytes, /) -> bytes:
        """What is stored for a payload, which is JSON text in UTF-8."""
        ...

    def decode(self, stored: bytes, /) -> bytes:
        """The payload again, also of those that older keys wrote."""
        ...


_registered: PayloadCodec | None = None


def register_codec(codec: PayloadCodec | None) -> None:
    """Seal every payload of this process from now on; None stops that.

    Workers and clients of an app need the same codec. What was stored before it was registered
    stays readable. Sealed are arguments, results and the data of signals, and message, traceback
    and cause of errors; not sealed are names, ids, headers, error types, entities and search
    attributes, which are there to be queried.

    Raises:
        InvalidArgumentError: an object without `encode` and `decode`.
    """
    global _registered
    for name in ("encode", "decode") if codec is not None else ():
        if not callable(getattr(codec, name, None)):
            raise InvalidArgumentError(
                f"the codec is a {type(codec).__name__} without {name}()",
                hint="pass an object with encode(bytes) -> bytes and decode(bytes) -> bytes",
            )
    _registered = codec


# --- writing --------------------------------------------------------------------------------------

_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,  # such a value ends in a RecursionError
    allow_nan=False,
    separators=(",", ":"),
    default=_types.plain,
)


def _one_pass() -> Callable[[object], str]:
    """What `encode` does for each value, without making the C encoder anew each time."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    write = json.encoder.encode_basestring
    chunks = make(None, _types.plain, write, None, ":", ",", False, False, False)
    return lambda value: write(value) if type(value) is str else "".join(chunks(value, 0))


_fast = _one_pass()


def written(value: object, what: str, limit: int | None = VALUE_LIMIT) -> str:
    """The value as JSON text, not sealed.

    Raises :class:`InvalidArgumentError` with the place of what no JSON stands for, and
    :class:`PayloadTooLargeError` with name, size and limit.
    """
    try:
        text = _fast(value)
    except (TypeError, ValueError, RecursionError):
        return _codec.dumps(_plainly(value), what, limit)
    if "e+" in text or "\\u0000" in text:
        return _codec.dumps(_plainly(value), what, limit)
    try:
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return _codec.dumps(_plainly(value), what, limit)
    if limit is not None and size > limit:
        raise _too_large(size, what, limit)
    return text


def _too_large(size: int, what: str, limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"{what} has {size:,} bytes, the limit is {limit:,}",
        hint="store the large part elsewhere and pass a reference to it",
    )


def _plainly(value: object) -> object:
    """The value with all that JSON does not know replaced, as far as it can be."""
    try:
        return _replaced(value)
    except RecursionError:  # it contains itself, or is too deep: the slow path says which
        return value


def _replaced(value: object) -> object:
    if isinstance(value, dict):
        return {_plain_key(key): _replaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    try:
        return _replaced(_types.plain(value))
    except TypeError:
        return value


def _plain_key(key: object) -> object:
    if isinstance(key, tuple | set | frozenset):
        return key
    try:
        return _types.plain(key)
    except TypeError:
        return key


def seal(text: str, what: str = "a payload") -> str:
    """The JSON text as it is stored: as it is, or sealed by the registered codec."""
    codec = _registered
    if codec is None or text == "null":
        return text
    try:
        data = codec.encode(text.encode("utf-8"))
    except Exception as error:
        raise PayloadCodecError(f"the codec can't encode {what}: {_told(error)}") from error
    if not isinstance(data, bytes | bytearray):
        raise PayloadCodecError(f"the codec made a {type(data).__name__} of {what}, not bytes")
    sealed = f'{{"{SEALED}":"{base64.b64encode(data).decode("ascii")}"}}'
    if len(sealed) > VALUE_LIMIT:
        raise _too_large(len(sealed), f"{what}, sealed,", VALUE_LIMIT)
    return sealed


def dumps(value: object, what: str) -> str:
    """One payload as it is stored."""
    text = written(value, what)
    return text if _registered is None else seal(text, what)


def dumps_args(args: Sequence[Any], what: str) -> str:
    """Arguments as they are stored: an array, each of them sealed for itself."""
    text = written(args, what)
    if _registered is None:
        return text
    return f"[{','.join(seal(written(arg, what), what) for arg in args)}]"


def error_json(error: BaseException) -> dict[str, Any]:
    """What the journal keeps of an exception; type and code stay readable, retries go by them."""
    told = errors.to_json(error)
    if _registered is None:
        return told
    try:
        sealed = json.loads(seal(json.dumps(told), "an error"))
    except HotMeshError as fault:  # better no message than one that all can read
        sealed = {"detail": str(fault)}
    message = "the payload codec has sealed this error"
    return {"type": told["type"], "code": told["code"], "message": message, **sealed}


def error_text(error: BaseException) -> str:
    """`{"error": …}`, as the engine takes it."""
    return f'{{"error":{json.dumps(error_json(error))}}}'


def with_headers(args: str, headers: Mapping[str, str]) -> str:
    """The array of an activity's arguments, and behind them what an interceptor passes on."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgumentError(f"headers: {name!r} must be a text with a text as its value")
    more = _codec.dumps({HEADERS: dict(headers)}, "headers")
    return f"{args[:-1]}{',' if args != '[]' else ''}{more}]"


# --- reading --------------------------------------------------------------------------------------


def opened(value: Any) -> Any:
    """The JSON value of a payload that was stored."""
    if type(value) is dict and len(value) == 1 and SEALED in value:
        return _open(value[SEALED])
    return value


def _open(data: object) -> Any:
    codec = _registered
    if codec is None:
        raise PayloadCodecError(
            "a payload is sealed, and this process has no codec",
            hint="call MemFlow.register_codec() with the codec of the process that wrote it",
        )
    try:
        text = codec.decode(base64.b64decode(str(data), validate=True))
        return _codec.stored(bytes(text).decode("utf-8"))
    except binascii.Error as error:
        raise PayloadCodecError("a sealed payload is no base64") from error
    except Exception as error:
        raise PayloadCodecError(f"the codec can't decode a payload: {_told(error)}") from error


def opened_error(value: Any) -> Any:
    """What :func:`error_json` was told, under the code that the engine has given it."""
    if type(value) is not dict or SEALED not in value:
        if type(value) is dict and type(value.get("cause")) is dict:
            return {**value, "cause": opened_error(value["cause"])}
        return value
    try:
        inner = _open(value[SEALED])
    except PayloadCodecError as fault:
        return {**value, "detail": str(fault)}
    return {**inner, "type": value.get("type"), "code": value.get("code")}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def opened_deep(value: Any) -> Any:
    """A document with all that is sealed in it opened; as it is where there is no codec."""
    if _registered is None:
        return value
    if type(value) is dict:
        if SEALED in value:
            return opened_error(value) if "type" in value else opened(value)
        return {key: opened_deep(item) for key, item in value.items()}
    return [opened_deep(item) for item in value] if type(value) is list else value


def headers_of(args: Sequence[Any]) -> Mapping[str, str]:
    """What stands behind the arguments of an activity; mostly nothing."""
    last = args[-1] if args else None
    return last[HEADERS] if type(last) is dict and len(last) == 1 and HEADERS in last else {}


def arguments(function: Callable[..., Any], args: list[Any], what: str) -> list[Any]:
    """The arguments for a function: opened, without headers, of the types of its hints.

    Raises :class:`InvalidArgumentError` naming the argument and the type, and
    :class:`PayloadCodecError`.
    """
    for arg in args:
        if type(arg) is dict and len(arg) == 1 and (SEALED in arg or HEADERS in arg):
            args = [opened(arg) for arg in (args[:-1] if headers_of(args) else args)]
            break
    try:
        plan = _types.plan_of(function)
    except TypeError:  # a callable that can't be hashed
        return args
    if plan is None:
        return args
    found = []
    for index, value in enumerate(args):
        reader = plan.reader(index)
        if reader is not None and not (value is None and _takes_none(function, plan, index)):
            value = read(reader, value, f"argument {index + 1} of {what}", plan.name(index))
        found.append(value)
    return found


def _takes_none(function: Any, plan: _types.Plan, index: int) -> bool:
    """Whether None is the default of the argument: `at: datetime = None` is written everywhere."""
    name = plan.name(index)
    defaults = getattr(function, "__defaults__", None) or ()
    behind = len(plan.names) - index
    return name in plan.names and 0 < behind <= len(defaults) and defaults[-behind] is None


def read(reader: Callable[[Any], Any], value: Any, what: str, name: str = "") -> Any:
    """The value as its reader makes it; the error of a misfit begins with `what`."""
    try:
        return reader(value)
    except _types.Misfit as fault:
        place = f"{what} ({name})" if name and not fault.path else what
        path = f": {name or 'it'}{fault.path}" if fault.path else ""
        raise InvalidArgumentError(f"{place}{path} {fault.reason}") from fault.__cause__


def result_reader(
    function: object, result_type: object = None, what: str = "result"
) -> Callable[[Any], Any] | None:
    """How the result of a function is read: by `result_type`, else by the hint of the function."""
    if result_type is not None:
        reader = _types.reader_of(result_type)
    elif callable(function):
        try:
            plan = _types.plan_of(function)
        except TypeError:
            return None
        reader = plan.result if plan else None
    else:
        return None
    if reader is None:
        return None
    return lambda value: read(reader, value, what)
