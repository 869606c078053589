"""The workers that the crash tests kill: `program.py QUEUE…`, with DATABASE_URL and HMSH_LEASE."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import psycopg

from hotmesh import Worker, activity, workflow

FAST = {"maximum_attempts": 3, "initial_interval": 0.001, "backoff_coefficient": 1}
acts = workflow.proxy_activities(retry_policy=FAST)
beating = workflow.proxy_activities(heartbeat_timeout="30s", retry_policy=FAST)
bounded = workflow.proxy_activities(start_to_close_timeout="1s", retry_policy=FAST)
patient = workflow.proxy_activities(retry_policy={**FAST, "maximum_attempts": 50})


async def five_steps() -> list[int]:
    return [await patient.double(n) for n in range(5)]


async def mixed() -> list[int]:
    """Inline, all at once, and a timer."""
    first = await patient.double(1)
    more = await asyncio.gather(*(patient.double(n) for n in range(3)))
    await asyncio.sleep(0.01)
    return [first, *more, await patient.double(9)]


async def uses_killer() -> str:
    try:
        await acts.kill_me()
    except Exception as error:
        return f"{type(error).__name__}: {getattr(error, 'type', '')}"
    return "survived"


async def kills() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def holds() -> str:
    await acts.double(1)
    return str(await acts.hold())


async def walks() -> str:
    return str(await beating.walk())


async def blocks() -> str:
    return str(await bounded.block())


async def walk() -> str:
    """Beat on the first worker for ever, answer on any other with what the first told."""
    before = activity.context().heartbeat_details
    while before is None:
        activity.heartbeat([NAME, "came far"])
        print("walking", flush=True)
        await asyncio.sleep(0.05)
    return f"{activity.context().attempt} after {' '.join(before)}"


async def block() -> str:
    """Block the whole loop of the first worker for ever: nothing in it can keep its times."""
    if activity.context().attempt == 1:
        print("blocking", flush=True)
        time.sleep(3600)
    return f"answered at attempt {activity.context().attempt}"


async def double(n: int) -> int:
    return n * 2


async def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def hold() -> str:
    """Wait on the first worker for ever, answer on any other."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        conn.execute("create table if not exists public.held (worker text)")
        others = conn.execute("select from public.held where worker <> %s", [NAME]).rowcount
        conn.execute("insert into public.held values (%s)", [NAME])
    if others == 0:
        print("holding", flush=True)
        await asyncio.Event().wait()
    return f"answered at attempt {activity.context().attempt}"


NAME = os.environ.get("WORKER", "worker")


async def main() -> None:
    served = os.environ.get("SERVES")
    flows = [five_steps, mixed, uses_killer, kills, holds, walks, blocks]
    worker = await Worker.create(
        app_id="my-app",
        task_queue="orders",
        workflows=[flow for flow in flows if not served or flow.__name__ in served.split(",")],
        activities=None if "NO_ACTIVITIES" in os.environ else [double, kill_me, hold, walk, block],
    )
    print("serving", flush=True)
    await worker.run()
    print("stopped", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
