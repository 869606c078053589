"""Histories that did not come with a claim: read in pages."""

from __future__ import annotations

from . import _calls
from ._calls import Delivery
from ._codec import Unreadable
from ._replay import Step, steps_of
from ._session import AsyncSession

__all__ = ["fetch"]


async def fetch(session: AsyncSession, row: Delivery) -> tuple[Delivery, list[Step] | Unreadable]:
    """The claim with its arguments, and all steps, or why Python can't read them."""
    steps: list[Step] = []
    app, key, more = session.app_id, row.key or "", True
    if row.args is None:
        found = await session.run(_calls.job_export(app, key, ["state"]))
        row = row._replace(args=found["state"]["input"])
    while more:
        last = steps[-1].sequence if steps else _calls.BEFORE_ALL
        page = await session.run(_calls.job_history(app, key, row.dimension or "", last))
        if isinstance(page, Unreadable):
            return row, page
        more = bool(page) and page[-1] is None
        steps += steps_of(page)
    return row, steps
