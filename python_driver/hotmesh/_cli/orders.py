"""What may be sent to a job or asked of it: signal, cancel, interrupt, hook, query, update."""

from __future__ import annotations

from typing import Any

import click

from .place import Place, json_object, placed, value_of
from .screen import compact

__all__ = ["COMMANDS"]


@click.command(name="signal")
@click.argument("words", nargs=-1, required=True, metavar="[ID] NAME [DATA]")
@click.option("--any", "anyone", is_flag=True, help="To whoever waits for it: NAME [DATA].")
@placed
def signal_(place: Place, words: tuple[str, ...], anyone: bool) -> None:
    """Send the signal NAME to the job ID; DATA is JSON or text.

    With --any, or with NAME alone, it goes to the oldest wait for that name in the app, and is kept
    until there is one.
    """
    anyone = anyone or len(words) == 1
    parts = ["", *words] if anyone else [*words]
    if len(parts) > 3:
        raise click.UsageError(f"too many words: {' '.join(parts[3:])}; quote DATA")
    id, name, data = (*parts, "null")[:3]
    with place.client() as client:
        if anyone:
            client.workflow.signal(name, value_of(data))
        else:
            client.workflow.get_handle(workflow_id=id).signal(name, value_of(data))
    to = id if not anyone else "whoever waits for it"
    place.tell({"id": None if anyone else id, "signal": name}, f"{name} was sent to {to}")


@click.command()
@click.argument("id")
@placed
def cancel(place: Place, id: str) -> None:
    """Ask the job ID to stop: its code gets a CancelledError and may clean up."""
    with place.handle(id) as handle:
        handle.cancel()
    place.tell({"id": id, "cancel": True}, f"{id} was asked to stop")


@click.command()
@click.argument("id")
@click.option("--reason", help="What whoever waits for its result is told.")
@click.option("--code", type=int, default=410, show_default=True, help="The error's code.")
@click.option("--descend", is_flag=True, help="Its children, too.")
@placed
def interrupt(place: Place, id: str, reason: str | None, code: int, descend: bool) -> None:
    """End the job ID at once; its code sees nothing of it."""
    with place.handle(id) as handle:
        handle.interrupt(reason, code=code, descend=descend)
    place.tell({"id": id, "interrupt": True, "descend": descend}, f"{id} was interrupted")


@click.command()
@click.argument("id")
@click.argument("workflow")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--queue", help="The task queue that serves the function; else the job's.")
@click.option(
    "--retry-policy", metavar="JSON", callback=json_object, help="Else until it succeeds."
)
@placed
def hook(
    place: Place,
    id: str,
    workflow: str,
    arguments: tuple[str, ...],
    queue: str | None,
    retry_policy: Any,
) -> None:
    """Run the function WORKFLOW in the job ID, on its entity.

    Each of ARGS is JSON if it can be read as such, else text.
    """
    args = [value_of(text) for text in arguments]
    with place.client() as client:
        client.workflow.hook(
            workflow_id=id,
            workflow_name=workflow,
            args=args,
            task_queue=queue,
            retry_policy=retry_policy,
        )
    place.tell({"id": id, "hook": workflow, "queue": queue}, f"{workflow} will run in {id}")


@click.command()
@click.argument("id")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--timeout", metavar="DURATION", default="10s", show_default=True, help="At most.")
@placed
def query(place: Place, id: str, name: str, arguments: tuple[str, ...], timeout: str) -> None:
    """Ask the running code of the job ID: what its query handler NAME returns.

    Each of ARGS is JSON if it can be read as such, else text.
    """
    with place.handle(id) as handle:
        answer = handle.query(name, *map(value_of, arguments), timeout=timeout)
    place.tell(answer, compact(answer))


@click.command()
@click.argument("id")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--timeout", metavar="DURATION", help="How long to wait; then the update goes on.")
@placed
def update(
    place: Place, id: str, name: str, arguments: tuple[str, ...], timeout: str | None
) -> None:
    """Have the running code of the job ID carry out its update handler NAME; print its answer.

    Each of ARGS is JSON if it can be read as such, else text.
    """
    with (
        place.handle(id) as handle,
        place.screen.spinner(f"waiting for {id}; Ctrl-C leaves the update to it"),
    ):
        answer = handle.update(name, *map(value_of, arguments), timeout=timeout)
    place.tell(answer, compact(answer))


COMMANDS: tuple[click.Command, ...] = (signal_, cancel, interrupt, hook, query, update)
