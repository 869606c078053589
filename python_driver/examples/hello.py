"""One workflow, one activity, one process: `python hello.py` (with an embedded Postgres, if need be)."""

from __future__ import annotations

import asyncio

from hotmesh import MemFlow


async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def hello_workflow(name: str) -> str:
    return await MemFlow.workflow.execute_activity(greet, name)


async def main() -> None:
    await MemFlow.Worker.create(task_queue="hello", workflow=hello_workflow, activities=[greet])
    client = MemFlow.Client()
    handle = await client.workflow.start(
        args=["world"], task_queue="hello", workflow_name="hello_workflow"
    )
    print(await handle.result())
    await MemFlow.shutdown()


asyncio.run(main())
