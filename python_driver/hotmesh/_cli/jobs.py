"""How jobs look: as a document for machines, as facts, rows and a journal for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from .._calls import Job
from .screen import Screen, coloured, compact

__all__ = ["HEADS", "document", "duration", "moment_of", "record", "row", "show", "value"]

HEADS = ("job", "workflow", "queue", "status", "created", "took")


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
    took = "" if job.closed_at is None else duration(job.closed_at, job.created_at)
    return [job.key, job.workflow, job.queue, status_of(job.status), _moment(job.created_at), took]


# --- one alone ------------------------------------------------------------------------------------


UNDER_WAY = (
    *("parent", "origin", "close_policy", "children", "child_count", "hooks"),
    *("functions", "activities", "timers", "signals", "orders"),
)


def document(
    key: str, about: Mapping[str, Any], found: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """A job with its journal: from the metadata of `job_state`, `job_export` and `job_describe`."""
    return {
        "id": key,
        "status": status_of(found["status"]),
        "semaphore": found["status"],
        "workflow": about["tpc"],
        "entity": about.get("ngn", about["tpc"]),
        "queue": now["queue"],
        "created_at": _spelled(about["jc"]),
        "updated_at": _spelled(about["ju"]),
        "closed_at": now["closed_at"],
        "expire_at": now["expire_at"],
        "entity_version": now["entity_version"],
        "stuck": about.get("stuck"),
        **{name: found["state"][name] for name in ("input", "output", "error")},
        "data": found["data"],
        **{name: now[name] for name in UNDER_WAY},
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
        "queue": told["queue"],
        "parent": _parent(told["parent"]),
        "origin": _origin(told),
        "created": _moment(told["created_at"]),
        "updated": _moment(told["updated_at"]),
        "input": compact(told["input"]),
        "output": compact(told["output"]) if told["status"] == "complete" else None,
        "error": value(told["error"]) if told["error"] else None,
        "data": compact(told["data"]) if told["data"] else None,
        "cancelled": _cancelled(told),
        "signals": ", ".join(told["signals"]) or None,
    }
    paper.facts(facts)
    for heads, rows in _parts(told):
        if rows:
            paper.table(heads, rows)
    if told["journal"]:
        heads = ("step", "what", "state", "value", "after")
        paper.table(heads, _journal(told["journal"], told["created_at"]))


def _parent(parent: Mapping[str, Any] | None) -> str | None:
    if parent is None:
        return None
    step = "" if parent["step"] is None else f", its step {_place(parent)}"
    return f"{parent['id']} ({parent['workflow']}, {status_of(parent['semaphore'])}){step}"


def _origin(told: Mapping[str, Any]) -> str | None:
    direct = told["parent"] is None or told["origin"] == told["parent"]["id"]
    return None if direct else str(told["origin"])


def _place(part: Mapping[str, Any]) -> str:
    """The dimension and the step of a part of a job."""
    step = part["index"] if "index" in part else part.get("step")
    return f"{part['dimension'] or ''} {'' if step is None else step}".strip()


def _cancelled(told: Mapping[str, Any]) -> str | None:
    """When it was asked to stop, and whether its code knows."""
    for order in told["orders"]:
        if order["order"] == "cancel":
            return f"asked {_moment(order['given_at'])}, not carried out yet"
    asked = [step["created"] for step in told["journal"] if step["kind"] == "cancel"]
    return f"asked {_moment(asked[0])}" if asked else None


def _parts(told: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[list[str]]]]:
    """Tables of what belongs to the job and is under way: heads and rows."""
    yield (
        ("child", "workflow", "status", "step", "created"),
        [
            [c["id"], c["workflow"], status_of(c["semaphore"]), _place(c), _moment(c["created_at"])]
            for c in told["children"]
        ],
    )
    yield (
        ("hook", "function", "status", "signals", "started"),
        [
            [h["dimension"], h["workflow"], h["state"], h["signal"] or "", _moment(h["created_at"])]
            for h in told["hooks"]
        ],
    )
    yield (
        ("part", "function", "queue", "state", "attempt", "due", "worker", "error"),
        [
            _work(part)
            for part in (*told["functions"], *told["activities"])
            if not (part["state"] == "waiting" and part["dimension"] == "" and part["step"] is None)
        ],
    )
    yield (
        ("alarm", "of", "due"),
        [[t["what"], _place(t) or "the job", _moment(t["due"])] for t in told["timers"]],
    )


def _work(part: Mapping[str, Any]) -> list[str]:
    """What is under way; an attempt that failed shows why, and when the next is due."""
    most = "" if part["maximum"] is None else f" of {part['maximum']}"
    return [
        _place(part) or "main",
        part["name"],
        part["queue"],
        part["state"],
        f"{part['attempt']}{most}" if part["attempt"] else "",
        _moment(part["due"] or ""),
        part["worker"] or "",
        value(part["error"]) if part["error"] else "",
    ]


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
            value(step["value"]) if ended else "",
            duration(moment_of(step["updated"]), moment_of(start)) if ended else "",
        ]


def value(told: Any) -> str:
    """A value on one line; an error as people say it."""
    if isinstance(told, Mapping) and {"type", "message"} <= told.keys():
        return f"{told['type']}: {told['message']}"
    return compact(told)


def moment_of(told: str) -> datetime:
    """A time as Postgres writes it into JSON; Python 3.10 reads six digits of a second or none."""
    head, dot, tail = told.partition(".")
    if not dot:
        return datetime.fromisoformat(told)
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    return datetime.fromisoformat(f"{head}.{digits:0<6}{tail[len(digits) :]}")


def _spelled(told: str) -> str:
    """A time with its separators; the metadata of graphs has 20260131120000.123."""
    if not re.fullmatch(r"\d{14}\.\d+", told):
        return told
    found = datetime.strptime(told, "%Y%m%d%H%M%S.%f").replace(tzinfo=timezone.utc)
    return found.isoformat()


def _moment(told: object) -> str:
    return str(told).replace("T", " ")[:19]


def duration(later: datetime, earlier: datetime) -> str:
    """A length of time, as short as people say it."""
    seconds = max((later - earlier).total_seconds(), 0.0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
