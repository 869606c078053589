"""Two small graphs, the callback that answers the first, and how a test opens a HotMesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Open = Callable[..., Any]


ECHO = """
subscribes: echo
publishes: echo.done
activities:
  t: {type: trigger}
  w:
    type: worker
    topic: work
    job: {maps: {answer: '{w.output.data.answer}'}}
transitions:
  t: [{to: w}]
"""


async def double(message: dict[str, Any]) -> Any:
    return {"metadata": message["metadata"], "data": {"answer": 2 * message["data"]["n"]}}


HOOK = """
subscribes: ask
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {by: '{$self.hook.data.by}'}}}
transitions:
  t: [{to: h}]
hooks:
  ask.approved:
    - to: h
      conditions: {match: [{expected: '{$job.metadata.jid}', actual: '{$self.hook.data.id}'}]}
"""
