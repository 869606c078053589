"""Two of the workers of the stress test: `crowd.py`, with DATABASE_URL."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hotmesh import Worker, workflow
from hotmesh.errors import TimedOutError


async def echo(value: int) -> int:
    return value


async def leaf(n: int) -> int:
    await workflow.sleep_for(0.001 * (n % 50))
    return int(await workflow.execute_activity(echo, n)) if n % 4 == 0 else n


async def helper(n: int) -> int:
    if n % 2:
        await workflow.sleep_for(0.001 * n)
    return n


async def patient(name: str) -> Any:
    """Waits again and again, so that waits are given up while signals are on their way."""
    while True:
        with contextlib.suppress(TimedOutError):
            return await workflow.wait_for(name, timeout=0.2)


async def family(width: int) -> dict[str, Any]:
    """All at once: children, hooks, timers, signals to this job and by name."""
    numbers = range(width)
    waits = [workflow.wait_for(f"mine-{n % 7}") for n in numbers]
    crowd = [asyncio.create_task(patient("crowd")) for _ in range(width // 2)]
    crowd += [workflow.wait_for("crowd") for _ in range(width - width // 2)]
    kids = asyncio.gather(*[workflow.exec_child(leaf, args=[n]) for n in numbers])
    hooks = asyncio.gather(*[workflow.exec_hook(helper, args=[n]) for n in range(width // 4)])
    timers = asyncio.gather(*[workflow.sleep_for(0.002 * n) for n in numbers])
    return {
        "mine": sorted(await asyncio.gather(*waits)),
        "kids": sum(await kids),
        "hooks": sum(await hooks),
        "timers": len(await timers),
        "crowd": await asyncio.gather(*crowd),
    }


async def main() -> None:
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                await Worker.create(
                    app_id="my-app", task_queue="orders", activities=[echo],
                    workflows=[family, leaf, helper],
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        print("ready", flush=True)
        await asyncio.gather(*[worker.run() for worker in workers])


if __name__ == "__main__":
    asyncio.run(main())
