"""Functions of SQL that graphs call: each in a transaction of its own job, for a bounded time.

A turn carries the work of many jobs; one slow function would hold up all of them. So the engine
asks for the call by a message, which is claimed as any activity is, and what the function writes
becomes true together with its answer.
"""

from __future__ import annotations

from typing import Any

from psycopg.errors import QueryCanceled

from . import _calls_graph, _context, activity
from ._lent import BOUNDED
from ._session import execute_async

__all__ = ["QUEUE", "SERVED"]

QUEUE = "@sql"
"""The queue and the name of these messages; no user sees them."""


async def call(message: dict[str, Any]) -> Any:
    """Call one; what it refuses is its answer too."""
    attempt = _context.current_attempt("a function of SQL")
    conn = await activity.transaction()
    source = attempt.server.transactions
    assert source is not None and attempt.id is not None and attempt.token is not None
    asked = _calls_graph.graph_call(source.session.app_id, attempt.id, attempt.token)
    try:
        async with conn.transaction():
            await conn.execute(BOUNDED)
            return await execute_async(conn, asked)
    except QueryCanceled as error:
        return {
            "$called": {
                "error": {
                    "type": "TimedOutError",
                    "code": 596,
                    "sqlstate": error.sqlstate,
                    "message": f"the function {message.get('function')} did not answer in time",
                }
            }
        }


call.answers_openly = True  # type: ignore[attr-defined]

SERVED = {QUEUE: {QUEUE: call}}
