"""The command line tool as a test sees it: what a command said, and workflows for its workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from support.crash import Child

APP = ["--app", "my-app"]
FLOWS = """
import asyncio
from hotmesh import MemFlow, Worker

ONCE = {"maximum_attempts": 1}

async def add(a, b):
    return a + b

async def boom(what):
    raise ValueError(f"no {what}")

async def slow():
    await asyncio.sleep(60)

async def total(a, b):
    return await MemFlow.workflow.execute_activity(add, a, b)

async def broken(what):
    await MemFlow.workflow.execute_activity("boom", what, retry_policy=ONCE)

async def far(a, b):
    return await MemFlow.workflow.execute_activity(add, a, b, task_queue="acts")

async def waits():
    return await MemFlow.workflow.wait_for("go")

async def lingers():
    await MemFlow.workflow.execute_activity(slow)

async def child():
    return await MemFlow.workflow.wait_for("grow")

async def helps(who):
    entity = await MemFlow.workflow.entity()
    await entity.set("helper", who)
    await MemFlow.workflow.wait_for("help")

async def family():
    await MemFlow.workflow.start_child(child, args=[], workflow_id="kid")
    await MemFlow.workflow.hook(workflow_name="helps", args=["ann"])
    await MemFlow.workflow.sleep_for("1 hour")

async def flaky():
    await MemFlow.workflow.execute_activity(
        "boom", "luck", retry_policy={"maximum_attempts": 9, "initial_interval": 1000})

async def counts():
    total = [0]
    def add(by):
        total[0] += by
        return total[0]
    MemFlow.workflow.set_query_handler("total", lambda: total[0])
    MemFlow.workflow.set_update_handler("add", add)
    return await MemFlow.workflow.wait_for("go")

async def made(connection, app_id) -> Worker:
    return await Worker.create(connection, app_id, task_queue="made", workflow=total, activities=[add])

async def lies() -> Worker:
    return 1

many = [total, broken, waits]
kin = [family, child, helps, flaky, waits]
number = 7
"""


class Said(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Tool = Callable[..., Said]
Start = Callable[..., Child]


def only_a_sentence(said: Said, status: int, pattern: str) -> None:
    """At most two lines, on standard error, and no traceback."""
    assert said.status == status
    assert re.search(pattern, said.err), said.err
    assert said.err.startswith("hotmesh: ")
    assert said.err.count("\n") <= 2, said.err
    assert "Traceback" not in said.err
    assert "\x1b" not in said.err
