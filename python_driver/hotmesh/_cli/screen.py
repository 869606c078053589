"""What the commands show: tables for people, one JSON document for machines, errors in a sentence."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .._logger import LEVELS
from ..errors import HotMeshError, InvalidArgumentError, JobFailedError

__all__ = [
    "Screen",
    "coloured",
    "compact",
    "complain",
    "set_up_logging",
    "stumble",
]

COLOURS = {
    **dict.fromkeys(("open", "note", "asked", "delayed"), "yellow"),
    **dict.fromkeys(("complete", "ok", "done", "working"), "green"),
    **dict.fromkeys(("failed", "no", "dead", "silent", "none"), "red"),
}
COLOURS = {
    "open": "yellow",
    "note": "yellow",
    "asked": "yellow",
    "delayed": "yellow",
    "complete": "green",
    "ok": "green",
    "done": "green",
    "working": "green",
    "failed": "red",
    "no": "red",
    "dead": "red",
    "silent": "red",
    "none": "red",
}
PIPE_WIDTH = 10_000
"""Columns where there is no terminal: nothing is folded or cut."""


class Screen:
    """Standard output; `as_json` decides who reads it. Colour only on a terminal."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)

    def document(self, value: object) -> None:
        """The one JSON document of a command."""
        indent = 2 if sys.stdout.isatty() else None
        print(json.dumps(value, ensure_ascii=False, indent=indent, default=_plain))

    def line(self, text: str) -> None:
        """A line for people, as it is."""
        self._console.print(Text(text), soft_wrap=True)

    def facts(self, facts: Mapping[str, str | Text | None]) -> None:
        """Names and values below each other; what is None is left out."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in facts.items():
            if value is not None:
                table.add_row(name, value if isinstance(value, Text) else Text(value))
        self._console.print(table)

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it, and not a pipe or a file."""
        return sys.stdout.isatty()

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; words that say how something stands are coloured."""
        self.show(self.tabled(heads, rows))

    def show(self, what: RenderableType) -> None:
        """Anything that was made to be shown."""
        self._console.print(what)

    def live(self, what: RenderableType) -> Live:
        """Show it in the whole terminal, and what it is updated with, until the block ends."""
        return Live(what, console=self._console, screen=True, auto_refresh=False)

    def tabled(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        """A table that is not shown yet."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, overflow="ellipsis" if head == "value" else "fold")
        for row in rows:
            table.add_row(*(coloured(cell) for cell in row))
        return table

    def spinner(self, text: str) -> AbstractContextManager[object]:
        """Shown on standard error while something takes its time; nothing where it is no terminal."""
        return Console(stderr=True).status(Text(text))


def coloured(cell: str) -> Text:
    return Text(cell, style=COLOURS.get(cell, ""))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def compact(value: object) -> str:
    """A value on one line, as JSON."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


# --- what goes wrong ------------------------------------------------------------------------------


def complain(message: str, hint: str | None = None) -> None:
    """An error: one sentence, and what to do about it on a second line."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    lines = [f"hotmesh: {' '.join(message.split())}"]
    if hint:
        lines.append(f"  {' '.join(hint.split())}")
    console.print(Text("\n").join([Text(lines[0], style="red"), *map(Text, lines[1:])]))


def stumble(error: BaseException) -> None:
    """Tell of an exception; its traceback only under HMSH_LOGLEVEL=debug."""
    if os.environ.get("HMSH_LOGLEVEL") == "debug":
        traceback.print_exception(error)
    if isinstance(error, JobFailedError) and error.job_id:
        complain(f'job "{error.job_id}" failed: {error.type}: {error}', error.hint)
    elif isinstance(error, HotMeshError):
        complain(str(error) or type(error).__name__, error.hint)
    else:
        hint = "this is a defect; HMSH_LOGLEVEL=debug shows where"
        complain(f"{type(error).__name__}: {error}", hint)


def set_up_logging() -> None:
    """Send the log of the driver to standard error, from HMSH_LOGLEVEL on; default warn."""
    name = os.environ.get("HMSH_LOGLEVEL", "").lower() or "warn"
    if name not in LEVELS:
        raise InvalidArgumentError(f"HMSH_LOGLEVEL is {name!r}", hint=f"one of {', '.join(LEVELS)}")
    logger = logging.getLogger("hotmesh")
    logger.setLevel(LEVELS[name])
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
