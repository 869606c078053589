"""Who looks after an app: its workers and queues, live; what a job went through; old jobs put away."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

import click
from rich.console import Group
from rich.text import Text

from .. import _calls, _calls_entity, _calls_view, durations
from .._calls_view import QueueStats, WorkerSeen
from .._session import SyncSession
from . import jobs
from .place import Place, note, placed
from .screen import Screen

__all__ = ["COMMANDS"]

WORKERS = ("worker", "host", "pid", "serves", "status", "held", "seen", "up")
QUEUES = (
    *("queue", "kind", "function", "ready", "delayed", "running", "waiting", "held", "dead"),
    *("oldest", "workers"),
)


def _ago(at: datetime | None, now: datetime) -> str:
    return "" if at is None else jobs.duration(now, at)


# --- workers --------------------------------------------------------------------------------------


def worker_record(worker: WorkerSeen) -> dict[str, Any]:
    """A worker, for machines."""
    return {**worker._asdict(), "idle": worker.idle_at is not None}


def _serves(worker: WorkerSeen) -> str:
    queues: dict[str, list[str]] = {}
    for one in worker.serves:
        queues.setdefault(one["queue"], []).append(one["name"])
    return "; ".join(f"{', '.join(sorted(names))} on {queue}" for queue, names in queues.items())


def worker_rows(found: Iterable[WorkerSeen], now: datetime) -> Iterator[list[str]]:
    """The same for people, under WORKERS."""
    for one in found:
        late = (now - one.seen_at).total_seconds() > 30
        status = "silent" if late else "working" if one.idle_at is None else "idle"
        yield [
            *(one.name, one.host or "", str(one.pid or ""), _serves(one), status, str(one.held)),
            *(_ago(one.seen_at, now), _ago(one.started_at, now)),
        ]


@click.command()
@placed
def workers(place: Place) -> None:
    """List the workers that were seen lately: where, what they serve, what they hold."""
    with place.session() as session:
        found = session.run(_calls_view.worker_list(place.app))
        now = session.run(_calls_view.now())
    if place.screen.as_json:
        place.screen.document([worker_record(one) for one in found])
        return
    place.screen.table(WORKERS, worker_rows(found, now))
    if not found:
        note("no worker was seen lately; hotmesh worker MODULE:NAME is one")


# --- top ------------------------------------------------------------------------------------------


class Snapshot(NamedTuple):
    """An app at one moment."""

    at: datetime
    queues: list[QueueStats]
    workers: list[WorkerSeen]
    newest: list[_calls.Job]


def _look(session: SyncSession, app: str, take: int) -> Snapshot:
    return Snapshot(
        session.run(_calls_view.now()),
        session.run(_calls_view.queue_stats(app)),
        session.run(_calls_view.worker_list(app)),
        session.run(_calls.job_list(app, take=take)),
    )


def _totals(seen: Snapshot) -> dict[str, int]:
    runs = [one for one in seen.queues if one.kind == "workflow"]
    acts = [one for one in seen.queues if one.kind == "activity"]
    return {
        "open": sum(sum(one[3:9]) for one in runs),
        "running": sum(one.leased for one in seen.queues),
        "ready": sum(one.ready for one in seen.queues),
        "parked": sum(one.dead for one in runs),
        "dead_letters": sum(one.dead for one in acts),
        "workers": len(seen.workers),
        "idle": sum(one.idle_at is not None for one in seen.workers),
    }


def _top_document(app: str, seen: Snapshot) -> dict[str, Any]:
    return {
        "app": app,
        "at": seen.at,
        **_totals(seen),
        "queues": [one._asdict() for one in seen.queues],
        "worker_list": [worker_record(one) for one in seen.workers],
        "jobs": [jobs.record(one) for one in seen.newest],
    }


def queue_rows(seen: Snapshot) -> Iterator[list[str]]:
    """The queues for people, under QUEUES."""
    served: dict[tuple[str, str, str], int] = {}
    for worker in seen.workers:
        for one in worker.serves:
            topic = (one["queue"], one["kind"], one["name"])
            served[topic] = served.get(topic, 0) + 1
    for queue in seen.queues:
        counts = ("" if not count else str(count) for count in queue[3:9])
        number = served.get((queue.queue, queue.kind, queue.name), 0)
        shown = [queue.queue, queue.kind, queue.name]
        yield [*shown, *counts, _ago(queue.oldest, seen.at), str(number) if number else "none"]


def _page(screen: Screen, app: str, seen: Snapshot) -> Group:
    totals = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in _totals(seen).items())
    return Group(
        Text(f"{app}   {str(seen.at)[:19]}   {totals}", style="bold"),
        screen.tabled(QUEUES, queue_rows(seen)),
        screen.tabled(WORKERS, worker_rows(seen.workers, seen.at)),
        screen.tabled(jobs.HEADS, map(jobs.row, seen.newest)),
    )


@click.command()
@click.option("--interval", default="2s", show_default=True, help="How often to look.")
@click.option("--once", is_flag=True, help="Look once; so it does where there is no terminal.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, help="Of the newest jobs.")
@placed
def top(place: Place, interval: str, once: bool, limit: int) -> None:
    """Watch the queues, the workers and the newest jobs of an app, until Ctrl-C.

    A look reads all messages of the app: with millions, look less often.
    """
    pause = durations.parse(interval, "interval")
    with place.session() as session:
        seen = _look(session, place.app, limit)
        if place.screen.as_json:
            place.screen.document(_top_document(place.app, seen))
            return
        if once or not place.screen.is_terminal:
            place.screen.show(_page(place.screen, place.app, seen))
            return
        try:
            with place.screen.live(_page(place.screen, place.app, seen)) as live:
                while True:
                    time.sleep(pause)
                    seen = _look(session, place.app, limit)
                    live.update(_page(place.screen, place.app, seen), refresh=True)
        except KeyboardInterrupt:
            return


# --- history --------------------------------------------------------------------------------------


def _events(found: Any, about: Any) -> Iterator[dict[str, Any]]:
    """What happened, unsorted: the start, what the code asked for, its answers, hooks, the end."""
    state = found["state"]
    yield {"at": about["created_at"], "event": "started", "what": about["workflow"],
           "value": state["input"]}  # fmt: skip
    for hook in about["hooks"]:
        where = {"what": f"hook {hook['workflow']}", "dimension": hook["dimension"]}
        yield {"at": hook["created_at"], "event": "started", **where}
        if hook["state"] != "open":
            yield {"at": hook["updated_at"], "event": hook["state"], **where}
    for step in found["timeline"]:
        where = {
            "what": f"{step['kind']} {step['name'] or ''}".strip(),
            "dimension": step["dimension"],
            "step": step["index"],
        }
        asked = min(
            step["created"], step["updated"], key=jobs.moment_of
        )  # it ran before it was told
        yield {"at": asked, "event": "asked", **where}
        if step["state"] != "open":
            yield {"at": step["updated"], "event": step["state"], "value": step["value"], **where}
    if about["closed_at"] is not None:
        failed = about["semaphore"] < 0
        value = state["error"] if failed else state["output"]
        yield {"at": about["closed_at"], "event": "failed" if failed else "complete",
               "what": about["workflow"], "value": value}  # fmt: skip


@click.command()
@click.argument("id")
@placed
def history(place: Place, id: str) -> None:
    """List what happened in the job ID, in the order of time.

    A step is asked for once and answered once; what ran inside of a worker without a pause is
    written down in one go, so that both times may be the same.
    """
    with place.session() as session:
        about = session.run(_calls_view.job_describe(place.app, id))
        found = session.run(_calls.job_export(place.app, id))
    events = sorted(_events(found, about), key=lambda event: jobs.moment_of(event["at"]))
    if place.screen.as_json:
        place.screen.document(events)
        return
    place.screen.table(("time", "step", "event", "what", "value"), ([
        str(jobs.moment_of(one["at"]).astimezone(timezone.utc))[:23],
        f"{one.get('dimension', '')} {one.get('step', '')}".strip(),
        one["event"], one["what"], jobs.value(one["value"]) if "value" in one else "",
    ] for one in events))  # fmt: skip


# --- prune ----------------------------------------------------------------------------------------


@click.command()
@click.option("--keep", metavar="DURATION", help="Drop months of the archive older than that.")
@click.option(
    "--entity-log", metavar="DURATION", help="Drop what logs of entities have from before."
)
@placed
def prune(place: Place, keep: str | None, entity_log: str | None) -> None:
    """Move closed jobs past their expiry to the archive; with --keep drop old months of it.

    Without options nothing is lost. The operator's key is enough.
    """
    kept = None if keep is None else durations.parse(keep, "keep")
    logged = None if entity_log is None else durations.parse(entity_log, "entity-log")
    done = {"archived": 0, "months_dropped": 0, "log_entries_dropped": 0}
    with place.session() as session:
        while moved := session.run(_calls.job_archive(place.app)):
            done["archived"] += moved
        if kept is not None:
            done["months_dropped"] = session.run(_calls.job_prune(place.app, kept))
        while logged is not None and (
            gone := session.run(_calls_entity.entity_prune(place.app, logged))
        ):
            done["log_entries_dropped"] += gone
    place.tell(done, ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in done.items()))


COMMANDS: tuple[click.Command, ...] = (workers, top, history, prune)
