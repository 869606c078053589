"""Where the code that is running now belongs: to a workflow run, to an activity, or to neither."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._execution import Execution
    from ._replay import Run
    from .activity import ActivityContext

__all__ = [
    "current_activity",
    "current_attempt",
    "current_run",
    "in_attempt",
    "in_run",
    "is_unsafe",
    "unsafe",
]

in_run: ContextVar[Run | None] = ContextVar("hotmesh_run", default=None)
in_attempt: ContextVar[Execution | None] = ContextVar("hotmesh_attempt", default=None)
is_unsafe: ContextVar[bool] = ContextVar("hotmesh_unsafe", default=False)


class unsafe:  # noqa: N801
    """`with workflow.unsafe():` let workflow code do what a replay can't repeat.

    What happens within is not guarded, and happens again in each replay: for debugging, or for a
    look at a file that never changes.
    """

    def __enter__(self) -> unsafe:
        self._before = is_unsafe.get()
        is_unsafe.set(True)
        return self

    def __exit__(self, *exc: object) -> None:
        is_unsafe.set(self._before)


def current_run(call: str) -> Run:
    """The run that workflow code belongs to; `call` is named in the error when there is none."""
    run = in_run.get()
    if run is None:
        raise InvalidArgumentError(
            f"{call} was called outside of a workflow",
            hint="call it in the async function that a Worker runs as a workflow",
        )
    return run


def current_activity(call: str) -> ActivityContext:
    """The activity that is running; `call` is named in the error when there is none."""
    return current_attempt(call).context


def current_attempt(call: str) -> Execution:
    """The attempt that is running; `call` is named in the error when there is none."""
    attempt = in_attempt.get()
    if attempt is None:
        raise _outside(call)
    return attempt


def _outside(call: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{call} was called outside of an activity",
        hint="call it in a function that a worker runs as an activity",
    )
