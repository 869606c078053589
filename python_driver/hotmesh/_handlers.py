"""What a run answers while it goes on: queries, which change nothing, and updates.

A query is answered by a plain function, at once. An update is a step that the code never asked for;
its handler runs as a task of the workflow, and what it returns is an effect.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _calls_order, _context, _payload
from .errors import ForbiddenInWorkflow, HotMeshError, InvalidArgumentError

if TYPE_CHECKING:
    from ._calls import Call
    from ._replay import Run, Step
    from ._session import AsyncSession

__all__ = ["Answers", "Handlers", "answer_of", "apart", "handlers"]

_LOG = logging.getLogger("hotmesh")

Handler = Callable[..., Any]


class Handlers:
    """The handlers that workflow code has set."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._queries: dict[str, Handler] = {}
        self._updates: dict[str, tuple[Handler, Handler | None]] = {}

    def set_query(self, name: str, handler: Handler) -> None:
        """Answer queries of that name."""
        self._queries[name] = handler

    def set_update(self, name: str, handler: Handler, validator: Handler | None) -> None:
        """Carry out updates of that name."""
        self._updates[name] = (handler, validator)

    def receive(self, step: Step) -> None:
        """An update: its handler begins now; if there is none, that is the answer."""
        handler, validator = self._updates.get(step.name or "", (self._unknown(step), None))
        self._run.loop.create_task(self._update(step, handler, validator))

    def _unknown(self, step: Step) -> Handler:
        known = ", ".join(sorted(self._updates)) or "none"

        def refuse(*args: Any) -> None:
            raise InvalidArgumentError(
                f'the workflow has no update handler "{step.name}"',
                detail=f"handlers: {known}",
                hint="workflow.set_update_handler(name, function), before the first await",
            )

        return refuse

    async def _update(self, step: Step, handler: Handler, validator: Handler | None) -> None:
        try:
            what = f'update "{step.name}"'
            args = _payload.arguments(handler, step.value["args"], what)
            if validator is not None:
                validator(*args)
            result = handler(*args)
            if inspect.isawaitable(result):
                result = await result
            answer = f'{{"output":{_payload.dumps(result, f"result of {what}")}}}'
        except Exception as error:
            answer = _payload.error_text(error)
        id = step.value["id"]
        self._run.effect("answer", step.name or "", f'{{"id":"{id}","answer":{answer}}}')

    def query(self, name: str, args: list[Any]) -> Any:
        """What the handler of that name returns now; it can ask for nothing durable."""
        handler = self._queries.get(name)
        if handler is None:
            known = ", ".join(sorted(self._queries)) or "none"
            raise InvalidArgumentError(
                f'the workflow has no query handler "{name}"',
                detail=f"handlers: {known}",
                hint="workflow.set_query_handler(name, function) sets one",
            )
        result = handler(*_payload.arguments(handler, args, f'query "{name}"'))
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ForbiddenInWorkflow(
                f'the query handler "{name}" is async; make it a plain function'
            )
        return result


def apart(steps: list[Step]) -> tuple[list[Step], list[Step]]:
    """The steps of a history, and the queries that came with it."""
    queries = [step for step in steps if step.kind == "query"]
    return ([step for step in steps if step.kind != "query"], queries) if queries else (steps, [])


def answer_of(run: Run, step: Step) -> str:
    """The JSON text of what a query gets: `{"output": …}` or `{"error": …}`."""
    try:
        value = run.answer(step.name or "", step.value["args"])
        return f'{{"output":{_payload.dumps(value, f"result of query {step.name}")}}}'
    except Exception as error:
        return _payload.error_text(error)


class Answers:
    """Tells what queries got, beside the turns."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._telling: set[asyncio.Task[None]] = set()

    def give(self, run: Run, queries: list[Step]) -> None:
        """Answer these queries to a run that was just told its news."""
        for step in queries:
            call = _calls_order.query_answer(
                self._session.app_id, step.value["id"], answer_of(run, step)
            )
            task = asyncio.create_task(self._tell(call))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, call: Call[None]) -> None:
        try:
            await self._session.run(call)
        except HotMeshError as error:
            _LOG.warning("a query could not be answered: %s", error)


def handlers(call: str) -> Handlers:
    """Those of the workflow that is running."""
    return _context.current_run(call).handlers
