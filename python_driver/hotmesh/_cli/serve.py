"""`hotmesh worker`: find what `module:name` means, serve it, and end cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ..errors import InvalidArgumentError
from ..hotmesh import HotMesh
from ..worker import Worker, register_activity_worker

__all__ = ["Order", "load", "serve"]


class Order:
    """What `hotmesh worker` was asked to serve."""

    def __init__(
        self,
        connection: str | None,
        app_id: str,
        target: str | None,
        queue: str,
        activities: str | None,
        activity_queue: str | None,
        options: dict[str, Any],
    ) -> None:
        if target is None and activities is None:
            raise InvalidArgumentError(
                "nothing to serve", hint="name module:workflow, --activities module, or both"
            )
        self.target = None if target is None else _servable(target)
        self.name = target
        self.activities = None if activities is None else load(activities)
        self.queue = queue
        self.activity_queue = activity_queue or queue
        self.place: dict[str, Any] = {"connection": connection, "app_id": app_id}
        self.options = options

    async def start(self) -> list[Worker]:
        """The workers, at work."""
        if _is_factory(self.target):
            return await self._make()
        workers = []
        together = self.activity_queue == self.queue
        if self.target is not None:
            kind = "workflow" if callable(self.target) else "workflows"
            served = {kind: self.target, "activities": self.activities if together else None}
            workers.append(
                await Worker.create(**self.place, **self.options, task_queue=self.queue, **served)
            )
        if self.activities is not None and (self.target is None or not together):
            options = {k: v for k, v in self.options.items() if k != "max_concurrent_workflows"}
            workers.append(
                await register_activity_worker(
                    **self.place,
                    **options,
                    task_queue=self.activity_queue,
                    activities=self.activities,
                )
            )
        return workers

    async def _make(self) -> list[Worker]:
        """Call a factory, with the connection and the app if it takes them."""
        taken = inspect.signature(self.target).parameters  # type: ignore[arg-type]
        made = await self.target(**{k: v for k, v in self.place.items() if k in taken})  # type: ignore[misc]
        several = made if isinstance(made, list | tuple) else [made]
        workers = [one for each in several for one in _workers_of(each)]
        if not workers or not all(isinstance(worker, Worker) for worker in workers):
            raise InvalidArgumentError(f"{self.name} did not return a Worker")
        return workers


def _workers_of(made: object) -> list[Any]:
    return made._workers if isinstance(made, HotMesh) else [made]


def _is_factory(target: object) -> bool:
    """An `async def` whose return annotation says Worker or HotMesh; others are workflows."""
    if not inspect.iscoroutinefunction(target):
        return False
    told = inspect.signature(target).return_annotation
    text = told if isinstance(told, str) else getattr(told, "__name__", str(told))
    return text.strip("'\"").removesuffix("]").rpartition("[")[2].rpartition(".")[2] in (
        "Worker",
        "HotMesh",
    )


def _servable(target: str) -> Any:
    found = load(target)
    if not callable(found) and not isinstance(found, list | tuple | Mapping | ModuleType):
        article = "an" if type(found).__name__[0] in "aeiou" else "a"
        raise InvalidArgumentError(
            f"{target} is {article} {type(found).__name__}, and no workflow",
            hint="name an `async def`, a list of them, or one that returns a Worker",
        )
    return found


def load(target: str) -> Any:
    """What `module` or `module:name` names, with the current directory first on the path."""
    module_name, _, name = target.partition(":")
    if not module_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidArgumentError(
            f"{target!r} is no module:name", hint="such as workflows:order_workflow"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = _module(module_name)
    for part in name.split(".") if name else ():
        if not hasattr(found, part):
            raise InvalidArgumentError(
                f'module "{module_name}" has no "{name}"', hint=_offer(found)
            )
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InvalidArgumentError(
                f'there is no module "{name}" in {os.getcwd()}',
                hint=f"run hotmesh in the directory that {name.partition('.')[0]} is in",
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> InvalidArgumentError:
    return InvalidArgumentError(
        f'module "{name}" cannot be imported: {type(error).__name__}: {error}',
        hint="HMSH_LOGLEVEL=debug shows where",
    )


def _offer(module: object) -> str | None:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and not name.startswith("_")
    ]
    return f"it has {', '.join(names[:10])}" if names else None


async def serve(order: Order, tell: Callable[[list[Worker]], None]) -> None:
    """Work until SIGTERM or Ctrl-C, then finish or hand back; a second one ends it at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    workers = await order.start()
    for number in signals:
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    tell(workers)
    told = asyncio.create_task(stop.wait())
    await asyncio.wait([told, *(w._task for w in workers)], return_when="FIRST_COMPLETED")
    told.cancel()
    for number in signals:
        loop.remove_signal_handler(number)
    await asyncio.gather(*(worker.shutdown() for worker in workers))
    await HotMesh.stop()
    for worker in workers:
        worker.check()


def served(worker: Worker) -> list[tuple[str, str]]:
    """The (queue, name) pairs that a worker serves."""
    return [*worker._pump.workflows, *worker._pump.server.functions]
