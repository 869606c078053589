"""What activity code may say: who it works for, and which attempt this is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import _context

__all__ = ["ActivityContext", "context"]


@dataclass(frozen=True)
class ActivityContext:
    """What an activity may know of itself.

    Attributes:
        workflow_id: the id of the workflow that asked for it; None for a message of no job.
        activity_name: the name under which it was called.
        task_queue: the queue that it came through.
        attempt: 1 for the first execution.
        headers: what an interceptor of the workflow passed on.
    """

    workflow_id: str | None
    activity_name: str
    task_queue: str
    attempt: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


def context() -> ActivityContext:
    """The activity that is running, in its own task or thread.

    Raises:
        InvalidArgumentError: the caller is no activity.
    """
    return _context.current_activity("activity.context()")
