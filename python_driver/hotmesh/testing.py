"""For the tests of those who write workflows: does the code still replay what was recorded?

::

    await record(handle, "tests/histories/order.json")      # once
    replay("tests/histories/order.json", order_workflow)    # in every test run

A replay needs no database. It runs the workflow's code with the answers of the history, and raises
:class:`~hotmesh.errors.NonDeterminismError`, with what was expected and what was found, where the
code asks for something else. Run it before code is deployed under open jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _codec, _payload
from ._execution import name_of
from ._replay import Run, RunInfo, Step
from .errors import InvalidArgumentError, NonDeterminismError

__all__ = ["Replay", "record", "replay"]

if TYPE_CHECKING:
    from .client import WorkflowHandle

Workflow = Callable[..., Coroutine[Any, Any, Any]]


@dataclass(frozen=True)
class Replay:
    """How a replay ended.

    Attributes:
        ended: whether the workflow has returned or raised; an open one waits for more.
        result: what it returned, as JSON.
        error: what it raised.
        steps: how many durable calls of the history it has made again.
    """

    ended: bool
    result: Any
    error: BaseException | None
    steps: int


async def record(handle: WorkflowHandle[Any], file: str | Path | None = None) -> dict[str, Any]:
    """The history of a job as :func:`replay` reads it, written to a JSON file if one is named.

    It is what `handle.export()` gives, and who the job is, which its random numbers come from.

    Raises:
        JobNotFoundError: there is no job of this id.
    """
    history: dict[str, Any] = await handle.export()
    about = (await handle.state(True))["metadata"]
    history["job"] = {
        "key": about["jid"],
        "id": about["gid"],
        "workflow": about["tpc"],
        "queue": handle.task_queue or "default",
        "created": about["jc"],
    }
    if file is not None:
        text = json.dumps(history, ensure_ascii=False, indent=1)
        Path(file).write_text(text + "\n", encoding="utf-8")
    return history


def replay(
    history: object,
    workflow: Workflow,
    *,
    args: Sequence[Any] | None = None,
    dimension: str = "",
) -> Replay:
    """Run a workflow's code over a recorded history.

    Args:
        history: what :func:`record` or `handle.export()` returned, or the path of a JSON file of it;
            or the rows of `hotmesh.job_history`, with `args`. Only that of `record` gives
            `workflow.random()` and `uuid4()` the numbers they had.
        workflow: the function to be checked.
        args: its arguments, where they are not part of the history.
        dimension: which function of the job; "" is its main one, others are its hooks.

    Raises:
        NonDeterminismError: the code asks for another step than the history holds, does not make one
            that it holds, or ends otherwise; `detail` has expected and found.
        InvalidArgumentError: what was given is no history.
    """
    from . import _guard

    _guard.install()
    told = _read(history)
    info, started = _info(told, workflow, dimension)
    steps = _steps(told, dimension)
    given = list(args) if args is not None else _input(told, info)
    run = Run(info, workflow, started)
    try:
        run.start(json.loads(_codec.dumps(given, "args", None)), steps)
        if run.mismatch is not None:
            raise run.mismatch
        return _ended(run, told if dimension == "" else {}, len(steps))
    finally:
        run.close()


def _read(history: object) -> Mapping[str, Any]:
    if isinstance(history, str | Path):
        try:
            history = json.loads(Path(history).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"history: {error}", hint="pass a JSON file") from error
    if isinstance(history, Mapping) and ("timeline" in history or "history" in history):
        return history
    if isinstance(history, Iterable) and not isinstance(history, Mapping | bytes):
        return {"history": list(history)}
    raise InvalidArgumentError(
        "history is neither an export of a job nor rows of its journal",
        hint="pass what `await handle.export()` returned, or a file of it",
    )


def _info(told: Mapping[str, Any], workflow: Workflow, dimension: str) -> tuple[RunInfo, float]:
    job = told.get("job") or {}
    info = RunInfo(
        workflow_id=job.get("key", "replay"),
        workflow_name=name_of(workflow),
        task_queue=job.get("queue", "default"),
        job_id=int(job.get("id", 0)),
        dimension=dimension,
    )
    return info, _seconds(job.get("created", 0.0))


def _seconds(time: Any) -> float:
    if isinstance(time, int | float):
        return float(time)
    text = re.sub(r"\.(\d+)", lambda m: f".{m[1]:0<6}", str(time).replace("Z", "+00:00"))
    return datetime.fromisoformat(text).timestamp()


def _steps(told: Mapping[str, Any], dimension: str) -> list[Step]:
    try:
        if "history" in told:
            return [Step._make(row) for row in told["history"] if row is not None]
        return [
            Step(
                row["index"], row["kind"], row["name"], row["state"], row["value"], row["order"],
                _seconds(row["updated"]),
            )
            for row in told["timeline"]
            if (row["dimension"] or "") == dimension
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the history is incomplete: {error!r}") from error


def _input(told: Mapping[str, Any], info: RunInfo) -> list[Any]:
    found = told["args"] if "args" in told else (told.get("state") or {}).get("input")
    if info.dimension or not isinstance(found, list):
        raise InvalidArgumentError("the history does not hold the arguments", hint="pass args=[…]")
    return found


def _ended(run: Run, told: Mapping[str, Any], steps: int) -> Replay:
    """What the replay came to, if that is what the history came to."""
    status = told.get("status")
    asked = [f"{command.kind} {command.name}".strip() for command in run.commands]
    if not run.ended:
        if status == 0:
            _differs(run, "the end of the workflow", f"a wait, after asking for {asked}")
        return Replay(False, None, None, steps)
    try:
        value = run.result()
    except BaseException as error:
        if status == 0:
            _differs(run, "the end of the workflow", f"{type(error).__name__}: {error}")
        return Replay(True, None, error, steps)
    result = _codec.stored(_payload.written(value, "result", None))
    if status == 0 and "state" in told:
        recorded = _payload.opened(told["state"].get("output"))
        if recorded != result:
            _differs(run, f"the result {_short(recorded)}", f"the result {_short(result)}")
    elif isinstance(status, int) and status < 0:
        _differs(run, "a failure", f"the result {_short(result)}")
    return Replay(True, result, None, steps)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:80]}…"


def _differs(run: Run, expected: str, found: str) -> None:
    raise NonDeterminismError(
        f'workflow "{run.info.workflow_id}" does not replay: expected {expected}, found {found}',
        detail=f"expected: {expected}; found: {found}; workflow {run.info.workflow_name}",
        hint="run the old code, or guard the change with workflow.patched(...)",
        job_id=run.info.workflow_id,
    )
