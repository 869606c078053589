"""A worker in a thread with a loop of its own: what it serves never runs inline for another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from support.flows import opened


class apart:  # noqa: N801
    """`async with apart(dsn, echo, queue="acts"): …`: a worker of these activities."""

    def __init__(
        self, dsn: str, *activities: Any, queue: str = "acts", workflows: Sequence[Any] = (),
        **more: Any,
    ) -> None:  # fmt: skip
        self.dsn, self.activities, self.more = dsn, list(activities), more
        self.queue, self.workflows = queue, workflows
        self.ready = threading.Event()
        self.failure: BaseException | None = None

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        async with opened(self.dsn) as other:
            if self.workflows:
                await other.worker(
                    *self.workflows, queue=self.queue, activities=self.activities, **self.more
                )
            else:
                await other.activity_worker(*self.activities, queue=self.queue, **self.more)
            self.ready.set()
            await self.stop.wait()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.failure = error
        finally:
            self.ready.set()

    async def __aenter__(self) -> apart:
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()
        await asyncio.to_thread(self.ready.wait)
        if self.failure:
            raise self.failure
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        await asyncio.to_thread(self.thread.join)
        if self.failure:
            raise self.failure
