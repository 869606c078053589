"""Spans, for whoever has OpenTelemetry and asked for them by HMSH_TELEMETRY; else nothing."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._context import unsafe

if TYPE_CHECKING:
    from ._replay import RunInfo

__all__ = ["enabled", "span"]

_LOG = logging.getLogger("hotmesh")


def enabled() -> bool:
    """Whether HMSH_TELEMETRY asks for spans."""
    return os.environ.get("HMSH_TELEMETRY", "").strip().lower() in ("true", "1", "info", "debug")


def span(info: RunInfo, attributes: Mapping[str, Any]) -> None:
    """One span of a workflow, begun and ended here; what goes wrong with it is only logged."""
    if not enabled():
        return
    with unsafe():
        try:
            tracer = importlib.import_module("opentelemetry.trace").get_tracer("hotmesh")
            with tracer.start_as_current_span(f"workflow {info.workflow_name}") as current:
                current.set_attribute("hotmesh.workflow_id", info.workflow_id)
                current.set_attribute("hotmesh.task_queue", info.task_queue)
                for name, value in attributes.items():
                    plain = isinstance(value, str | bool | int | float)
                    current.set_attribute(str(name), value if plain else str(value))
        except ImportError:
            _LOG.debug("HMSH_TELEMETRY is set, but opentelemetry is not installed")
        except Exception:
            _LOG.warning("a span could not be made", exc_info=True)
