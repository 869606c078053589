"""How jobs look: as a document for machines, as facts, rows and a journal for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from .._calls import Job
from .screen import Screen, coloured, compact

__all__ = ["document", "record", "row", "show"]


def status_of(semaphore: int) -> str:
    """What people call the states of a semaphore."""
    return "open" if semaphore > 0 else "complete" if semaphore == 0 else "failed"


# --- one of many ----------------------------------------------------------------------------------


def record(job: Job) -> dict[str, object]:
    """A job of a list, for machines."""
    return {
        "number": job.id,
        "id": job.key,
        "status": status_of(job.status),
        "semaphore": job.status,
        "workflow": job.workflow,
        "entity": job.entity,
        "queue": job.queue,
        "created_at": job.created_at,
        "closed_at": job.closed_at,
    }


def row(job: Job) -> list[str]:
    """The same for people: job, workflow, queue, status, created, took."""
    took = "" if job.closed_at is None else _duration(job.closed_at, job.created_at)
    return [job.key, job.workflow, job.queue, status_of(job.status), _moment(job.created_at), took]


# --- one alone ------------------------------------------------------------------------------------


def document(key: str, about: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A job with its journal, from the metadata of `job_state` and from `job_export`."""
    return {
        "id": key,
        "status": status_of(found["status"]),
        "semaphore": found["status"],
        "workflow": about["tpc"],
        "entity": about["ngn"],
        "created_at": about["jc"],
        "updated_at": about["ju"],
        "stuck": about.get("stuck"),
        **{name: found["state"][name] for name in ("input", "output", "error")},
        "data": found["data"],
        "journal": found["timeline"],
    }


def show(paper: Screen, told: Mapping[str, Any]) -> None:
    """That document for people."""
    facts = {
        "job": told["id"],
        "status": coloured(told["status"]),
        "stuck": _stuck(told["stuck"]) if told["stuck"] else None,
        "workflow": told["workflow"],
        "entity": told["entity"] if told["entity"] != told["workflow"] else None,
        "created": _moment(told["created_at"]),
        "updated": _moment(told["updated_at"]),
        "input": compact(told["input"]),
        "output": compact(told["output"]) if told["status"] == "complete" else None,
        "error": _value(told["error"]) if told["error"] else None,
        "data": compact(told["data"]) if told["data"] else None,
    }
    paper.facts(facts)
    if told["journal"]:
        heads = ("step", "what", "state", "value", "after")
        paper.table(heads, _journal(told["journal"], told["created_at"]))


def _stuck(told: Mapping[str, Any]) -> str:
    """Why it does not move, and what helps."""
    helps = {
        "parked": f"stream_revive serves {told['id']} again",
        "mismatch": "it waits for right code",
    }
    return f"{told['reason']}, {helps[told['reason']]}: {told['message']}"


def _journal(timeline: Iterable[Mapping[str, Any]], start: str) -> Iterator[list[str]]:
    """A row per step; `after` is when the code saw its end, counted from the start of the job."""
    for step in timeline:
        ended = step["state"] != "open"
        yield [
            f"{step['dimension']} {step['index']}".strip(),
            f"{step['kind']} {step['name'] or ''}".strip(),
            step["state"],
            _value(step["value"]) if ended else "",
            _duration(_time(step["updated"]), _time(start)) if ended else "",
        ]


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and {"type", "message"} <= value.keys():
        return f"{value['type']}: {value['message']}"
    return compact(value)


def _time(told: str) -> datetime:
    """A time as Postgres writes it into JSON; Python 3.10 reads six digits of a second or none."""
    head, dot, tail = told.partition(".")
    if not dot:
        return datetime.fromisoformat(told)
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    return datetime.fromisoformat(f"{head}.{digits:0<6}{tail[len(digits) :]}")


def _moment(told: object) -> str:
    return str(told).replace("T", " ")[:19]


def _duration(later: datetime, earlier: datetime) -> str:
    """A length of time, as short as people say it."""
    seconds = max((later - earlier).total_seconds(), 0.0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
