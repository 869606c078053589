"""Names what workflow code must not do: block, start threads, do I/O, read the clock.

There is no sandbox. An audit hook of the interpreter, asked about a few events only, looks whether
the loop that runs in its thread is a workflow's; before Python 3.13, whose interpreter says nothing
of sleeping and of threads, `time.sleep` and `Thread.start` are wrapped. Reading the clock can't be
seen while it happens, so the code of a workflow is looked at when a worker is made.
"""

from __future__ import annotations

import dis
import functools
import logging
import os
import random
import secrets
import sys
import sysconfig
import threading
import time
import types
import uuid
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

from . import _asyncgens
from ._context import is_unsafe
from ._loop import WorkflowLoop
from .errors import ForbiddenInWorkflow

__all__ = ["install", "warn_of"]

_LOG = logging.getLogger("hotmesh")

_EVENTS = {
    "open": "open",
    "builtins.input": "input",
    "time.sleep": "time.sleep",
    "_thread.start_new_thread": "threading.Thread.start",
    "_thread.start_joinable_thread": "threading.Thread.start",
    "sqlite3.connect": "sqlite3.connect",
    "subprocess.Popen": "subprocess.Popen",
    **{
        f"os.{name}": f"os.{name}"
        for name in (
            "exec", "fork", "forkpty", "link", "listdir", "mkdir", "posix_spawn", "remove",
            "rename", "rmdir", "scandir", "spawn", "startfile", "symlink", "system", "truncate",
        )
    },
    **{
        f"socket.{name}": f"socket.{name}"
        for name in (
            "bind", "connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "getnameinfo",
            "sendmsg", "sendto",
        )
    },
}  # fmt: skip

_ALLOWED = (
    "_frozen_importlib", "_frozen_importlib_external", "bdb", "encodings", "gettext", "importlib",
    "linecache", "locale", "logging", "pdb", "tokenize", "traceback", "warnings", "zoneinfo",
)  # fmt: skip
"""Modules that may do I/O wherever they are used: what they read is code, or what they say is news."""

_installed = False


def install() -> None:
    """Guard the workflow code of this process from now on; done once, and for good."""
    global _installed
    if _installed:
        return
    _installed = True
    _asyncgens.watch_collector()
    sys.addaudithook(_heard)
    if sys.version_info < (3, 13):
        time.sleep = _guarded(time.sleep, "time.sleep")
        threading.Thread.start = _guarded(  # type: ignore[method-assign]
            threading.Thread.start, "threading.Thread.start"
        )


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event in _EVENTS and type(_get_running_loop()) is WorkflowLoop:
        _refuse(_EVENTS[event], args)


def _guarded(function: Callable[..., Any], name: str) -> Any:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if type(_get_running_loop()) is WorkflowLoop:
            _refuse(name, args)
        return function(*args, **kwargs)

    return guarded


def _refuse(name: str, args: tuple[Any, ...]) -> None:
    """Raise, unless the code may do it: because it said so, or because of who asks for it."""
    if is_unsafe.get() or _asyncgens.collecting() or (name == "open" and _of_a_zone(args[0])):
        return
    frame: types.FrameType | None = sys._getframe(2)
    place: types.FrameType | None = None
    while frame is not None and frame.f_globals.get("__name__") != "hotmesh._loop":
        module = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if module in _ALLOWED:
            return
        if place is None and not frame.f_code.co_filename.startswith(_LIBRARIES):
            place = frame
        frame = frame.f_back
    where = f" at {_place(place)}" if place is not None else ""
    raise ForbiddenInWorkflow(
        f"workflow code calls {name}({_argument(name, args)}){where}: put it into an activity",
        hint="a replay would do it again; `with workflow.unsafe():` allows it where that is meant",
    )


def _of_a_zone(path: object) -> bool:
    """Whether a file describes a time zone: the interpreter itself opens it, without a frame."""
    zoneinfo = sys.modules.get("zoneinfo")
    return zoneinfo is not None and str(path).startswith(zoneinfo.TZPATH)


_LIBRARIES = tuple(
    {os.path.join(sysconfig.get_paths()[name], "") for name in ("stdlib", "purelib", "platlib")}
    | {"<frozen", os.path.join(os.path.dirname(__file__), "")}
)


def _place(frame: types.FrameType) -> str:
    code = frame.f_code
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"


def _argument(name: str, args: tuple[Any, ...]) -> str:
    """The argument that tells most; never more than a little of it."""
    index = 1 if name in ("socket.connect", "socket.bind", "socket.sendto") else 0
    if name.startswith("threading") or len(args) <= index:
        return ""
    text = repr(args[index])
    return text if len(text) <= 80 else f"{text[:70]}…"


# --- the clock, and chance ------------------------------------------------------------------------

_NOW = "workflow.now()"
_UNREPEATABLE: list[tuple[Any, str, str]] = [
    (time.time, "time.time()", f"{_NOW}.timestamp()"),
    (time.time_ns, "time.time_ns()", f"{_NOW}.timestamp()"),
    (time.monotonic, "time.monotonic()", _NOW),
    (time.perf_counter, "time.perf_counter()", _NOW),
    (datetime.now, "datetime.now()", _NOW),
    (datetime.utcnow, "datetime.utcnow()", _NOW),
    (datetime.today, "datetime.today()", _NOW),
    (date.today, "date.today()", f"{_NOW}.date()"),
    (uuid.uuid4, "uuid.uuid4()", "workflow.uuid4()"),
    (uuid.uuid1, "uuid.uuid1()", "workflow.uuid4()"),
    (os.urandom, "os.urandom()", "workflow.random()"),
    *(
        (getattr(random, name), f"random.{name}()", "workflow.random()")
        for name in ("random", "randint", "choice", "choices", "uniform", "shuffle", "sample")
    ),
    *((getattr(secrets, name), f"secrets.{name}()", "workflow.uuid4()")
      for name in ("token_hex", "token_urlsafe", "token_bytes", "choice")),
]  # fmt: skip


def warn_of(function: Callable[..., Any]) -> None:
    """Log what in a workflow's own code gives another answer in each replay, with its line."""
    code = getattr(function, "__code__", None)
    if isinstance(code, types.CodeType):
        for call, instead, line in _found(code, function.__globals__):
            _LOG.warning(
                'workflow "%s" calls %s at %s:%d, which gives another answer in a replay; use %s',
                function.__name__, call, os.path.basename(code.co_filename), line, instead,
            )  # fmt: skip


def _found(code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(call, what to use instead, line) in a code object and those within it."""
    value: Any = None
    line = code.co_firstlineno
    for step in dis.get_instructions(code):
        line = _line(step) or line
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            known = isinstance(value, types.ModuleType | type)
            value = getattr(value, step.argval, None) if known else None
        else:
            if step.opname not in ("PUSH_NULL", "CACHE", "EXTENDED_ARG"):
                value = None
            continue
        if value is not None:
            yield from (
                (call, instead, line) for what, call, instead in _UNREPEATABLE if what == value
            )
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _found(inner, names)


def _line(step: dis.Instruction) -> int | None:
    if sys.version_info >= (3, 13):
        return step.line_number
    return step.starts_line
