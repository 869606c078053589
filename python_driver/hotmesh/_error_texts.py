"""The texts of errors on their way through the database: bounded, storable, and back."""

from __future__ import annotations

import ast
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "HINTS",
    "LEADS",
    "clean",
    "code_of",
    "faults_of",
    "is_misfit",
    "loose",
    "message_of",
    "text_of",
    "told_faults",
    "trace_of",
    "unquoted",
]

FAULTS_TOLD = 20

LEADS = {
    "NotInstalledError": "this database has no engine of HotMesh: ",
    "ProtocolError": "the engine is not the one that this driver was made for: ",
}
"""What stands before the words of the database, by class, where they alone would be a riddle."""

HINTS = {
    "NotInstalledError": "install the engine: hotmesh install",
    "NotAllowedError": "ask the engine's owner for a key: hotmesh.app_grant(app, role, kind)",
    "ProtocolError": "bring the engine up to the driver's version: hotmesh upgrade",
}
"""What to do, by class, where the database does not say it."""


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        return f"no message: str() of this exception raised {type(fault).__name__}"


def trace_of(error: BaseException) -> str:
    """The traceback of this exception alone; its causes carry their own."""
    if error.__traceback__ is None:
        return ""
    return "".join(traceback.format_tb(error.__traceback__, limit=-50))


def clean(text: str, limit: int) -> str:
    """The text without what Postgres cannot store, its middle left out when it is too long."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def unquoted(message: str) -> str:
    """The key of a `KeyError`, whose `str()` is a repr."""
    if not message.startswith(("'", '"')):
        return message
    try:
        return str(ast.literal_eval(message))
    except (SyntaxError, ValueError):
        return message


def message_of(told: Mapping[str, Any]) -> str:
    value = told.get("message")
    return value if isinstance(value, str) else loose(value)


def code_of(told: Mapping[str, Any]) -> int | None:
    code = told.get("code")
    if isinstance(code, str) and code.isdecimal():
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def loose(value: object) -> str:
    """Text for what another worker sent where a text was due."""
    if value is None:
        return "no message was given"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)


def faults_of(detail: str | None) -> list[dict[str, Any]]:
    """The list of faults that a detail is."""
    try:
        found = json.loads(detail or "[]")
    except ValueError:  # its middle was left out
        return []
    return [fault for fault in found if isinstance(fault, dict)] if isinstance(found, list) else []


_UNDEFINED = frozenset({"42703", "42883", "42P01"})
"""SQLSTATEs of columns, functions and tables that are not there."""


def is_misfit(state: str, message: str, context: str | None) -> bool:
    """Whether the driver names what the engine lacks, or the engine what itself lacks.

    What a function of the user's own lacks, such as a trigger's, is not that. `context` begins with
    the innermost function; with its schema, unless that is on the path, as the engine's and the
    app's are. The engine's inner parts have an underscore.
    """
    if state not in _UNDEFINED:
        return False
    inner = re.search(r' function "?(?:(\w+)\.)?(\w+)', context or " function hotmesh.turn")
    return " hotmesh." in message or (
        inner is not None and (inner[1] == "hotmesh" or (not inner[1] and inner[2][0] == "_"))
    )


def told_faults(faults: Sequence[Mapping[str, Any]]) -> str:
    """Faults for people: one in a line, several below a line that counts them."""
    lines = [_told_fault(fault) for fault in faults[:FAULTS_TOLD]]
    if len(faults) == 1:
        return lines[0]
    if len(faults) > FAULTS_TOLD:
        lines.append(f"and {len(faults) - FAULTS_TOLD} more")
    return "\n  ".join([f"the graph has {len(faults)} faults", *lines])


def _told_fault(fault: Mapping[str, Any]) -> str:
    place = ":".join(str(fault[name]) for name in ("file", "line", "column") if name in fault)
    return ": ".join(part for part in (place, fault.get("path"), fault.get("reason")) if part)
