"""The worker of the transaction crash tests: every activity writes one line into public.ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import psycopg

from hotmesh import Worker, activity, workflow

PATIENT = {"maximum_attempts": 50, "initial_interval": 0.001, "backoff_coefficient": 1}
acts = workflow.proxy_activities(retry_policy=PATIENT)
WRITE = "insert into public.ledger (line) values (%s)"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def pays(key: str) -> str:
    """One after the other, and two at a time."""
    await acts.pay(f"{key}-1")
    await asyncio.gather(acts.pay(f"{key}-2"), acts.pay_sync(f"{key}-3"))
    return await acts.pay_sync(f"{key}-4")


async def dies(name: str) -> str:
    return await getattr(acts, name)()


async def pay(line: str) -> str:
    conn = await activity.transaction()
    await conn.execute(WRITE, [line])
    return line


def pay_sync(line: str) -> str:
    activity.transaction().execute(WRITE, [line])
    return line


async def dies_before(again: bool = False) -> str:
    await pay("before")
    if activity.context().attempt == 1:
        die()
    return "alive"


async def dies_after() -> str:
    own, commit = await activity.transaction(), psycopg.AsyncConnection.commit

    async def last(conn: psycopg.AsyncConnection[Any]) -> None:
        await commit(conn)
        if conn is own:  # the worker's listener commits too
            die()

    psycopg.AsyncConnection.commit = last  # type: ignore[method-assign]
    return await pay("after")


async def main() -> None:
    worker = await Worker.create(
        app_id="my-app",
        task_queue="orders",
        workflows=[pays, dies],
        activities=[pay, pay_sync, dies_before, dies_after],
    )
    print("serving", flush=True)
    await worker.run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
