"""The `hotmesh` command: a few words over the same doors that the driver uses.

Tables for people, with `--json` one document for machines; an error is one sentence on standard
error and exit status 1, or 2 for a command that was typed wrong.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any, NoReturn

import click

from . import __version__, _calls, _calls_view, durations, embedded
from . import install as engine
from ._calls_view import QueueLimit
from ._cli import care, graphs, orders, schedules, screen, watching
from ._cli import jobs as looks
from ._cli.entities import entity
from ._cli.place import DEFAULT_APP, Place, json_object, note, placed, value_of
from ._cli.serve import Order, serve, served
from ._requests import StartRequest
from .errors import AppExistsError, AppNotFoundError, EmbeddedError
from .schedule import Overlap, Schedule
from .worker import Worker

__all__ = ["cli", "main"]

NUMBER = click.IntRange(1, 10_000)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hotmesh")
@click.pass_context
def cli(context: click.Context) -> None:
    """Durable workflows that are only Postgres."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- the engine -----------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--mode",
    type=click.Choice(["auto", "extension", "plain"]),
    default="auto",
    show_default=True,
    help="As an extension where the server has its files, or as plain SQL.",
)
@placed
def install(place: Place, mode: Any) -> None:
    """Put the engine into a database, and create the app."""
    with place.session() as session, session.connect() as conn:
        done = engine.install(conn, mode)
        session.ready = True  # as far as it goes: the app may be missing
        try:
            session.run(_calls.app_create(place.app), conn)
            created = True
        except AppExistsError:
            created = False
    _tell_engine(place, done, "was created" if created else "was there", created=created)


@cli.command()
@placed
def upgrade(place: Place) -> None:
    """Bring the engine, and then the app, to this driver's version."""
    with place.session() as session, session.connect() as conn:
        done = engine.upgrade(conn)
        session.ready = True
        try:
            session.run(_calls.app_upgrade(place.app), conn)
        except AppNotFoundError:
            if place.app != DEFAULT_APP:
                raise
    _tell_engine(place, done, "is up to date")


def _tell_engine(place: Place, done: engine.Installed, what: str, **more: Any) -> None:
    if place.screen.as_json:
        about = {"version": done.version, "protocol": done.protocol, "mode": done.mode}
        place.screen.document({**about, "app": place.app, **more})
        return
    kind = "as an extension" if done.mode == "extension" else "from the plain file"
    place.screen.line(f"engine {done.version}, protocol {done.protocol}, {kind}")
    place.screen.line(f"app {place.app} {what}")


@cli.command()
@placed
def up(place: Place) -> None:
    """Run the embedded Postgres in the foreground, with engine and app, and print its DSN."""
    if place.dsn is not None:
        raise click.UsageError("hotmesh up runs a Postgres of its own: it takes no --dsn")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dsn = embedded.dsn()
    with Place(dsn, place.app, place.screen).session(provision=True) as session:
        session.ensure()
    if place.screen.as_json:
        place.screen.document({"dsn": dsn, "app": place.app})
    else:
        place.screen.line(dsn)
        note("Ctrl-C stops it; its data stays")
    sys.stdout.flush()
    missed = 0
    while not stop.wait(0.5):
        missed = 0 if embedded.is_up() else missed + 1
        if missed > 3:
            raise EmbeddedError("the server was stopped by somebody else", hint="run: hotmesh up")


# --- jobs -----------------------------------------------------------------------------------------


@cli.command()
@click.argument("workflow")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--queue", help="The task queue that its workers serve.")
@click.option("--id", "key", help="The workflow id; made up if left out.")
@click.option("--entity", help="What kind of thing it is about; by default its name.")
@click.option(
    "--on-conflict",
    type=click.Choice(["reject", "existing", "replace"]),
    help="What to do when the id is taken.",
)
@click.option("--expire", metavar="DURATION", help='How long it stays once closed: "30 days".')
@click.option("--delay", metavar="DURATION", help="How long before it may run.")
@click.option("--priority", type=int, help="Higher goes first.")
@click.option(
    "--retry-policy", metavar="JSON", callback=json_object, help="For its own exceptions."
)
@click.option("--create", is_flag=True, help="Create the app if it is not there.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", metavar="DURATION", help="How long to wait at most.")
@placed
def start(
    place: Place,
    workflow: str,
    arguments: tuple[str, ...],
    queue: str | None,
    key: str | None,
    create: bool,
    wait: bool,
    timeout: str | None,
    **options: Any,
) -> None:
    """Start a workflow and print its id.

    Each of ARGS is JSON if it can be read as such, else text. Write -- before arguments that begin
    with a dash.
    """
    request: StartRequest = {
        "workflow_name": workflow,
        "args": [value_of(text) for text in arguments],
        "task_queue": queue,
        "workflow_id": key,
        **options,  # type: ignore[typeddict-item]
    }
    limit = None if timeout is None else durations.parse(timeout, "timeout")
    with place.client(provision=create or place.app == DEFAULT_APP) as client:
        try:
            handle = client.workflow.start(**request)
        except AppNotFoundError as error:
            error.hint = f"{error.hint}; hotmesh start --create does it too"
            raise
        told: dict[str, Any] = {"id": handle.workflow_id, "workflow": workflow}
        told["queue"] = handle.task_queue
        if not place.screen.as_json:
            place.screen.line(handle.workflow_id)
        if wait:
            with place.screen.spinner(
                f"waiting for {handle.workflow_id}; Ctrl-C leaves it running"
            ):
                told["result"] = handle.result(limit)
            if not place.screen.as_json:
                place.screen.line(screen.compact(told["result"]))
    if place.screen.as_json:
        place.screen.document(told)


@cli.command()
@click.argument("id")
@placed
def job(place: Place, id: str) -> None:
    """Show one job: where it stands, what went in and came out, and its journal."""
    with place.client() as client:
        handle = client.workflow.get_handle(workflow_id=id)
        about = handle.state(metadata=True)["metadata"]
        found = handle.export()
        now = client._session.run(_calls_view.job_describe(place.app, id))
    told = looks.document(id, about, found, now)
    if place.screen.as_json:
        place.screen.document(told)
    else:
        looks.show(place.screen, told)


@cli.command()
@click.option("--entity", help="Only of this kind.")
@click.option("--queue", help="Only of this task queue.")
@click.option("--status", type=click.Choice(["open", "complete", "failed"]), help="Only such.")
@click.option("--limit", type=NUMBER, default=50, show_default=True, help="At most.")
@click.option("--before", type=int, metavar="NUMBER", help="Only older ones: the next page.")
@placed
def jobs(place: Place, status: str | None, limit: int, **chosen: Any) -> None:
    """List jobs, the newest first."""
    with place.session() as session:
        found = session.run(_calls.job_list(place.app, state=status, take=limit, **chosen))
    if place.screen.as_json:
        place.screen.document([looks.record(job) for job in found])
        return
    place.screen.table(looks.HEADS, map(looks.row, found))
    if len(found) == limit:
        note(f"there may be more: --before {found[-1].id}")


# --- schedules ------------------------------------------------------------------------------------


@cli.group()
def schedule() -> None:
    """Recurring starts: create them and look after them."""


def _named(command: Callable[..., None]) -> Callable[..., None]:
    return schedule.command()(click.argument("name")(placed(command)))


@schedule.command()
@click.argument("name")
@click.argument("workflow")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
@click.option("--cron", metavar="LINE", help='When: "30 2 * * mon-fri", or @daily.')
@click.option("--every", metavar="DURATION", help='Or how often: "15 minutes".')
@click.option("--timezone", metavar="ZONE", help="Of the crontab line; by default UTC.")
@click.option(
    "--overlap",
    type=click.Choice(typing.get_args(Overlap)),
    help="What a tick does while an earlier job is open; by default skip.",
)
@click.option("--queue", "task_queue", help="The task queue of each start.")
@click.option("--entity", help="What kind of thing it is about; by default the workflow's name.")
@click.option("--expire", metavar="DURATION", help="How long each job stays once closed.")
@click.option(
    "--retry-policy", metavar="JSON", callback=json_object, help="For its own exceptions."
)
@click.option("--priority", type=int, help="Higher goes first.")
@click.option("--offset", metavar="DURATION", help="Moves the ticks of --every.")
@click.option("--start-at", metavar="TIME", help="No tick before.")
@click.option("--end-at", metavar="TIME", help="No tick after.")
@click.option("--catchup-window", metavar="DURATION", help="How far to catch up after downtime.")
@click.option("--paused", is_flag=True, help="Create it paused.")
@click.option("--note", help="What people should know.")
@click.option(
    "--on-conflict",
    type=click.Choice(["reject", "existing", "replace"]),
    help="What to do when there is one of this name.",
)
@placed
def create(
    place: Place, name: str, workflow: str, arguments: tuple[str, ...], **request: Any
) -> None:
    """Start WORKFLOW again and again, by --cron or --every.

    Each of ARGS is JSON if it can be read as such, else text.
    """
    with place.client(provision=True) as client:
        made = client.schedule.create(
            name, workflow_name=workflow, args=[value_of(text) for text in arguments], **request
        )
    _show_schedules(place, [made], alone=True)


@schedule.command(name="list")
@placed
def list_(place: Place) -> None:
    """List the schedules by name."""
    with place.client() as client:
        _show_schedules(place, client.schedule.list())


@_named
def show(place: Place, name: str) -> None:
    """Show one schedule."""
    with place.client() as client:
        _show_schedules(place, [client.schedule.get(name)], alone=True)


@schedule.command()
@click.argument("name")
@click.option("--note", help="Why.")
@placed
def pause(place: Place, name: str, note: str | None) -> None:
    """Stop starting; open jobs go on."""
    with place.client() as client:
        _show_schedules(place, [client.schedule.pause(name, note)], alone=True)


@schedule.command()
@click.argument("name")
@click.option("--note", help="Why.")
@placed
def resume(place: Place, name: str, note: str | None) -> None:
    """Go on with the next tick."""
    with place.client() as client:
        _show_schedules(place, [client.schedule.resume(name, note)], alone=True)


@_named
def delete(place: Place, name: str) -> None:
    """Drop a schedule; its jobs stay."""
    with place.client() as client:
        client.schedule.delete(name)
    if place.screen.as_json:
        place.screen.document({"name": name})
    else:
        place.screen.line(f"{name} is gone; its jobs stay")


@_named
def trigger(place: Place, name: str) -> None:
    """Start its workflow now, and print the id."""
    with place.client() as client:
        _show_started(place, [client.schedule.trigger(name).workflow_id])


@schedule.command()
@click.argument("name")
@click.argument("start_at", metavar="FROM")
@click.argument("end_at", metavar="TO")
@placed
def backfill(place: Place, name: str, start_at: str, end_at: str) -> None:
    """Start what it would have started between FROM and TO, and print the ids."""
    with place.client() as client:
        started = client.schedule.backfill(name, start_at, end_at)
    _show_started(place, [handle.workflow_id for handle in started])


def _show_started(place: Place, ids: list[str]) -> None:
    if place.screen.as_json:
        place.screen.document([{"id": id} for id in ids])
        return
    for id in ids:
        place.screen.line(id)


def _show_schedules(place: Place, found: list[Schedule], alone: bool = False) -> None:
    if place.screen.as_json:
        records = [schedules.record(each) for each in found]
        place.screen.document(records[0] if alone else records)
        return
    place.screen.table(schedules.HEADS, map(schedules.row, found))
    for each in found:
        if each.error or (alone and each.note):
            note(f"{each.name}: {each.error['message'] if each.error else each.note}")


# --- queues ---------------------------------------------------------------------------------------


@cli.group()
def queue() -> None:
    """Limits of task queues: how much is under way, how much begins in a time."""


KIND = click.Choice(["workflow", "activity"])
ABOVE_ZERO = click.IntRange(1, 2**31 - 1)


@queue.command(name="limit")
@click.argument("name")
@click.option("--concurrency", type=ABOVE_ZERO, metavar="N", help="How many may be under way.")
@click.option("--per-key", type=ABOVE_ZERO, metavar="N", help="The same, of each concurrency key.")
@click.option("--rate", type=ABOVE_ZERO, metavar="N", help="How many may begin in --per.")
@click.option("--per", metavar="DURATION", help="The time that the rate is for; 1 second.")
@click.option(
    "--kind", type=KIND, help="Only its workflows or activities; else both, each for itself."
)
@placed
def queue_limit(place: Place, name: str, **chosen: Any) -> None:
    """Set the limits of a queue, in place of those it has."""
    with place.client() as client:
        client.queue.limit(name, **chosen)
    _show_queues(place)


@queue.command(name="unlimit")
@click.argument("name")
@click.option("--kind", type=KIND, help="Only those of its workflows or activities.")
@placed
def queue_unlimit(place: Place, name: str, kind: Any) -> None:
    """Lift the limits of a queue."""
    with place.client() as client:
        client.queue.unlimit(name, kind=kind)
    _show_queues(place)


@queue.command(name="list")
@placed
def queue_list(place: Place) -> None:
    """List the queues that have limits."""
    _show_queues(place)


@queue.command(name="throttle")
@click.argument("name")
@click.argument("delay", metavar="DURATION|pause|resume")
@click.option("--kind", type=KIND, help="Only its workflows or activities.")
@placed
def queue_throttle(place: Place, name: str, delay: str, kind: Any) -> None:
    """Let so much time pass from one beginning to the next; or pause the queue, or resume it."""
    pace = {"pause": -1, "resume": 0}.get(delay)
    if pace is None:
        pace = round(1000 * durations.above_zero(delay, "the delay"))
    with place.client() as client:
        client.queue.throttle(name, pace, kind=kind)
    _show_queues(place)


def _pace(one: QueueLimit) -> str:
    rate = f"{one.rate} in {one.per}" if one.rate else ""
    throttle = {None: "", -1: "paused"}.get(one.throttle, f"{one.throttle} ms apart")
    return ", ".join(part for part in (rate, throttle) if part)


def _show_queues(place: Place) -> None:
    with place.client() as client:
        found = client.queue.list()
    if place.screen.as_json:
        place.screen.document(
            [{**one._asdict(), "per": one.per and one.per.total_seconds()} for one in found]
        )
        return
    heads = ("queue", "kind", "concurrency", "per key", "rate", "under way", "held")
    place.screen.table(heads, ([
        one.queue, one.kind, str(one.concurrency or ""), str(one.per_key or ""),
        _pace(one), str(one.under_way), str(one.held),
    ] for one in found))  # fmt: skip


# --- workers --------------------------------------------------------------------------------------


@cli.command()
@click.argument("target", required=False, metavar="[MODULE:NAME]")
@click.option("--queue", default="default", show_default=True, help="The task queue to serve.")
@click.option("--activities", metavar="MODULE", help="A module (or module:name) of activities.")
@click.option("--activity-queue", help="Their queue, if it is another one.")
@click.option("--lease", metavar="DURATION", help="After how long a dead worker's work moves on.")
@click.option("--max-concurrent-workflows", type=NUMBER, metavar="N", help="Runs held at a time.")
@click.option("--max-concurrent-activities", type=NUMBER, metavar="N", help="At a time.")
@placed
def worker(
    place: Place,
    target: str | None,
    queue: str,
    activities: str | None,
    activity_queue: str | None,
    **options: Any,
) -> None:
    """Serve a workflow until SIGTERM or Ctrl-C.

    NAME in MODULE, found from the current directory, is a workflow, a list of workflows, or an
    `async def` annotated `-> Worker` or `-> HotMesh` that makes it itself.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    order = Order(place.dsn, place.app, target, queue, activities, activity_queue, chosen)
    asyncio.run(serve(order, functools.partial(_banner, place)))
    if not place.screen.as_json:
        note("stopped; nothing is held any more")


def _banner(place: Place, workers: list[Worker]) -> None:
    if place.screen.as_json:
        about = [{"worker": w.name, "serves": [list(s) for s in served(w)]} for w in workers]
        place.screen.document({"app": place.app, "pid": os.getpid(), "workers": about})
        sys.stdout.flush()
        return
    queues: dict[str, list[str]] = {}
    for queue, name in (each for worker in workers for each in served(worker)):
        queues.setdefault(queue, []).append(name)
    what = "; ".join(f"{', '.join(names)} on {queue}" for queue, names in queues.items())
    note(f"app {place.app}, process {os.getpid()}, serving {what}. Ctrl-C stops it")


for command in (
    *orders.COMMANDS, *graphs.COMMANDS, *watching.COMMANDS, *care.COMMANDS, entity
):  # fmt: skip
    cli.add_command(command)


# --- the command itself ---------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and end the process with its status."""
    try:
        screen.set_up_logging()
        status = cli.main(arguments, prog_name="hotmesh", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hotmesh"
        screen.complain(error.format_message(), f"{path} --help shows what it takes")
        status = 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except Exception as error:
        screen.stumble(error)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
