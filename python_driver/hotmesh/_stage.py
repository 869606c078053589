"""The place of the loop around, given up once for many short runs of workflow code.

A drain of a workflow's loop takes that place and gives it back. Most of what that costs are the
hooks of async generators, for the interpreter's audit hooks hear of every change of them. So they
stay as they are until the stage is left, and find out by themselves for which loop they speak.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import _enter_task, _get_running_loop, _leave_task, _set_running_loop, current_task
from collections.abc import AsyncGenerator
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._loop import WorkflowLoop

__all__ = ["Stage", "free_stage"]

_here = threading.local()
_owners: weakref.WeakValueDictionary[int, WorkflowLoop] = weakref.WeakValueDictionary()
"""The loops of async generators that have begun, by the generators' ids."""


def free_stage() -> Stage | None:
    """The stage that this thread is on, if no loop drains on it."""
    stage: Stage | None = getattr(_here, "stage", None)
    return stage if stage is not None and stage.on is None else None


class Stage:
    """`with stage:` is for code that awaits nothing; `on` is the workflow's loop that drains now.

    Within it, while no loop drains, the loop around is the running one, without a current task:
    since Python 3.14 a thread, not a loop, has one, so it must be left before ours can be entered.
    Leaving and entering is asyncio's documented way to do that.
    """

    __slots__ = ("_around", "_hooks", "_outer", "_task", "on")

    def __init__(self) -> None:
        self.on: WorkflowLoop | None = None

    def __enter__(self) -> None:
        self._outer = outer = _get_running_loop()
        self._task = None if outer is None else current_task(outer)
        self._hooks: Any = get_asyncgen_hooks()
        self._around: Stage | None = getattr(_here, "stage", None)
        if outer is not None and self._task is not None:
            _leave_task(outer, self._task)
        set_asyncgen_hooks(self._begun, self._dropped)
        _here.stage = self

    def __exit__(self, *exc: object) -> None:
        _here.stage = self._around
        set_asyncgen_hooks(*self._hooks)
        if self._outer is not None and self._task is not None:
            _enter_task(self._outer, self._task)
        self._task = None

    def take(self, loop: WorkflowLoop) -> None:
        """The loop is the running one from now on."""
        self.on = loop
        _set_running_loop(loop)

    def give_back(self) -> None:
        """The loop around is the running one again."""
        self.on = None
        _set_running_loop(self._outer)

    def _begun(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self.on is not None:
            _owners[id(agen)] = self.on
            self.on._agens.begin(agen)
            return
        _owners.pop(id(agen), None)
        if self._hooks[0] is not None:
            self._hooks[0](agen)

    def _dropped(self, agen: AsyncGenerator[Any, Any]) -> None:
        owner = _owners.pop(id(agen), None)
        if owner is not None:
            owner._agen_dropped(agen)
        elif self._hooks[1] is not None:
            self._hooks[1](agen)
