"""Random workflow programs: sequences, gathers, races, limits, sleeps and failures, nested."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from hotmesh import workflow

FAST = {"maximum_attempts": 2, "initial_interval": 0.001, "backoff_coefficient": 1}
TICK = 1.0
"""Seconds of one unit of sleep; a live run sets less."""

acts = workflow.proxy_activities(retry_policy=FAST)

Program = Any
"""("act", n) | ("sleep", n) | ("seq", [p…]) | ("all", [p…]) | ("first", [p…]) | ("limit", p)"""

leaves = st.one_of(
    st.tuples(st.just("act"), st.integers(0, 9)),
    st.tuples(st.just("sleep"), st.integers(1, 5)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
)
programs: st.SearchStrategy[Program] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("seq"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("all"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("first"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("limit"), inner),
    ),
    max_leaves=8,
)


async def _first(parts: list[Any]) -> Any:
    tasks = [asyncio.create_task(interpret(part)) for part in parts]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [tasks.index(task) for task in done] + [task.result() for task in done]


async def _limited(part: Any) -> Any:
    try:
        return await asyncio.wait_for(interpret(part), 3 * TICK)
    except asyncio.TimeoutError:
        return "late"


async def _caught(name: str) -> Any:
    try:
        return await getattr(acts, name)()
    except Exception as error:
        return f"caught {error}"


async def interpret(program: Program) -> Any:
    """Run a program as a workflow would."""
    kind, rest = program
    if kind == "act":
        return await getattr(acts, f"act{rest}")()
    if kind == "fail":
        return await _caught(f"fail{rest}")
    if kind == "sleep":
        return await asyncio.sleep(rest * TICK, "slept")
    if kind == "seq":
        return [await interpret(part) for part in rest]
    if kind == "all":
        return await asyncio.gather(*(interpret(part) for part in rest))
    return await (_first(rest) if kind == "first" else _limited(rest))
