"""The logger of workflow code: silent while the code goes over what it has done before."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from ._context import in_run

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

__all__ = ["LEVELS", "WorkflowLogger", "set_level"]

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 1,
}


class _Fallback(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, as long as the program has not set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            super().emit(record)


def set_level() -> None:
    """Log from HMSH_LOGLEVEL on, if it is set; done when the package is imported."""
    name = os.environ.get("HMSH_LOGLEVEL", "").strip().lower()
    logger = logging.getLogger("hotmesh")
    if name in LEVELS:
        logger.setLevel(LEVELS[name])
        fallback = _Fallback()
        fallback.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(fallback)
    elif name:
        logger.warning("HMSH_LOGLEVEL is %r; it is one of %s", name, ", ".join(LEVELS))


class WorkflowLogger(_Adapter):
    """A logger whose records carry workflow_id, workflow_name, task_queue and attempt.

    In a replay it says nothing, so that what was logged once stays logged once. Outside of a
    workflow it is an ordinary logger.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        """Whether a record of this level would be made: not in a replay."""
        run = in_run.get()
        return not (run is not None and run.is_replaying) and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add who the workflow is to the record's `extra`."""
        run = in_run.get()
        if run is not None:
            info = run.info
            kwargs["extra"] = {
                "workflow_id": info.workflow_id,
                "workflow_name": info.workflow_name,
                "task_queue": info.task_queue,
                "attempt": info.attempt,
                **(kwargs.get("extra") or {}),
            }
        return msg, kwargs
