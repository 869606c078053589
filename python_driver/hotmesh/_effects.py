"""What workflow code leaves behind besides its result: search attributes, events, spans.

Each call is a step of the journal: carried out once, in the commit that lays it down, and replayed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from decimal import Decimal
from typing import Any

from . import _codec, _context, _payload, _telemetry
from ._operation import Operation
from .errors import InvalidArgumentError

__all__ = ["Search", "emit", "enrich", "search", "trace"]

Number = int | float | Decimal


class Search:
    """The job's search attributes, in workflow code: `search = await workflow.search()`.

    They are what `start(search={…})` laid down: facts to find the job by, with
    `client.workflow.search` and `handle.query_state`, next to its entity. Values are JSON. Every
    command is made when it is called, counts once however often the code is replayed, and raises
    :class:`InvalidArgumentError` (when awaited) for what makes no sense.
    """

    def __await__(self) -> Generator[Any, None, Search]:
        yield from ()
        return self

    def set(self, *pairs: Any) -> Awaitable[int]:
        """`set({"color": "red"})` or `set("color", "red", …)`. Returns how many were set."""
        if len(pairs) == 1 and isinstance(pairs[0], Mapping):
            data = dict(pairs[0])
        elif len(pairs) % 2 == 0:
            data = dict(zip(pairs[::2], pairs[1::2], strict=True))
        else:
            raise InvalidArgumentError(
                "search.set takes a dict, or names and values", hint='set("color", "red")'
            )
        return self._ask("set", _payload.written({"data": data}, "search data"))

    def get(self, name: str) -> Awaitable[Any]:
        """One value; None if there is none."""
        return self._ask("get", _names((name,)))

    def mget(self, *names: str) -> Awaitable[list[Any]]:
        """Values in the order of the names, None where there is none."""
        return self._ask("mget", _names(names))

    def delete(self, *names: str) -> Awaitable[int]:
        """Remove them. Returns how many there were."""
        return self._ask("delete", _names(names))

    def incr(self, name: str, amount: Number = 1) -> Awaitable[Number]:
        """Add to a number, 0 if there is none. Returns it."""
        return self._ask("incr", _amount(name, amount))

    def mult(self, name: str, amount: Number) -> Awaitable[Number]:
        """Multiply a number, 1 if there is none. Returns it."""
        return self._ask("mult", _amount(name, amount))

    def _ask(self, operation: str, args: str) -> Operation[Any]:
        return _context.current_run(f"search.{operation}()").effect("search", operation, args)


def search() -> Search:
    """The job's search attributes, there at once, awaited or not; see :class:`Search`."""
    _context.current_run("workflow.search()")
    return Search()


def enrich(fields: Mapping[str, Any]) -> Awaitable[bool]:
    """Set search attributes once, as :meth:`Search.set` does. Returns True."""
    run = _context.current_run("workflow.enrich()")
    data = _payload.written({"data": _mapping(fields, "fields")}, "search data")
    return run.effect("search", "enrich", data)


def emit(events: Mapping[str, Any], *, once: bool = True) -> Awaitable[bool]:
    """Tell whoever listens: `emit({"order.shipped": {"id": 7}})`. Returns True.

    At the commit that lays the step down, whoever listens by `client.sub(topic, callback)` is told.
    The payloads stay in the journal, so they may be as large as any value, and who did not listen
    finds them in `handle.export()`. `once` is there because HotMesh has it: what the database does, it
    does once.
    """
    run = _context.current_run("workflow.emit()")
    told = {
        _codec.text(topic, "topic"): _payload.dumps(payload, f"payload of {topic}")
        for topic, payload in _mapping(events, "events").items()
    }
    if not told:
        raise InvalidArgumentError("emit was given no event", hint='emit({"topic": payload})')
    text = ",".join(f"{_codec.dumps(topic, 'topic')}:{payload}" for topic, payload in told.items())
    name = next(iter(told)) if len(told) == 1 else f"{len(told)} topics"
    return run.effect("emit", name, f'{{"events":{{{text}}}}}', reads=lambda _: True)


def trace(attributes: Mapping[str, Any], *, once: bool = True) -> Awaitable[bool]:
    """Record attributes in the journal, and as an OpenTelemetry span. Returns True.

    The span is made if `opentelemetry` is installed and HMSH_TELEMETRY is true, info or debug; once
    `once` is false it is made in each replay too, and the journal keeps nothing.
    """
    run = _context.current_run("workflow.trace()")
    told = _mapping(attributes, "attributes")
    text = _payload.written({"attributes": told}, "attributes")
    if not once:
        _telemetry.span(run.info, told)
        done = run.loop.create_future()
        done.set_result(True)
        return done
    first = not run.is_replaying

    def record(_: Any) -> bool:
        if first:
            _telemetry.span(run.info, told)
        return True

    return run.effect("trace", "", text, reads=record)


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{what} must be a dict, not {_codec.kind(value)}")
    return dict(value)


def _names(names: tuple[str, ...]) -> str:
    return _codec.dumps({"names": [_codec.text(name, "name", 500) for name in names]}, "names")


def _amount(name: str, amount: Number) -> str:
    if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal):
        raise InvalidArgumentError(f"amount must be a number, not {_codec.kind(amount)}")
    return _codec.dumps({"name": _codec.text(name, "name", 500), "amount": amount}, "search")
