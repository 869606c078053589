"""How schedules look: as a record for machines, and as a row for people."""

from __future__ import annotations

from datetime import datetime

from .._calls_schedule import Schedule

__all__ = ["HEADS", "record", "row"]

HEADS = ("schedule", "when", "workflow", "queue", "status", "next", "last", "started", "skipped")


def status_of(schedule: Schedule) -> str:
    """active, paused, failed (the engine paused it, since a start was refused) or ended."""
    if schedule.error is not None:
        return "failed"
    if schedule.paused_at is not None:
        return "paused"
    return "active" if schedule.next_tick or schedule.buffered else "ended"


def record(schedule: Schedule) -> dict[str, object]:
    """A schedule, for machines; `every` is seconds."""
    every = None if schedule.every is None else schedule.every.total_seconds()
    return {**schedule._asdict(), "every": every, "status": status_of(schedule)}


def row(schedule: Schedule) -> list[str]:
    """The same for people, under HEADS."""
    when = schedule.cron or f"every {schedule.every}"
    if schedule.cron and schedule.timezone != "UTC":
        when += f" {schedule.timezone}"
    return [
        schedule.name,
        when,
        schedule.workflow,
        schedule.queue or "",
        status_of(schedule),
        _moment(schedule.next_tick) if schedule.paused_at is None else "",
        _moment(schedule.last_tick),
        str(schedule.started),
        str(schedule.skipped),
    ]


def _moment(at: datetime | None) -> str:
    return "" if at is None else str(at)[:19]
