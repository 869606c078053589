"""Calls that fail: their activities inline or by a worker of their own, and what a workflow is told."""

from __future__ import annotations

from typing import Any

import pytest

from hotmesh import workflow
from support.flows import House

ONCE = {"maximum_attempts": 1}


def proxy(**options: Any) -> Any:
    return workflow.proxy_activities(task_queue="acts", **options)


def told(error: BaseException) -> list[Any]:
    """What a workflow sees of a failure."""
    cause = error.__cause__
    return [type(error).__name__, getattr(error, "code", None), str(error), type(cause).__name__]


async def serve(house: House, where: str, flow: Any, *activities: Any, **more: Any) -> None:
    """Activities of a worker of their own (`stream`), or of the one that runs the workflow."""
    if where == "inline":
        await house.worker(flow, activities=list(activities), queue="acts", **more)
    else:
        await house.activity_worker(*activities, **more)
        await house.worker(flow, queue="acts")


both = pytest.mark.parametrize("where", ["inline", "stream"])


class Count:
    """An activity that always fails, and counts."""

    __name__ = "fail"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise KeyError("no stock")
