"""A worker by hand: tests report and claim through `hotmesh.turn`, without the driver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
Report = Mapping[str, Any]
VERDICTS = ("stale", "busy", "kept")
TABLES = (
    "jobs",
    "jobs_attributes",
    "streams",
    "workers",
    "jobs_archive",
    "jobs_attributes_archive",
)


def one(connection: Connection, query: str, *params: Any) -> Any:
    """The first column of the first row."""
    row = connection.execute(query, params or None).fetchone()
    assert row is not None
    return row[0]


def start(connection: Connection, key: str | None = None, args: Any = (), **more: Any) -> int:
    """Start a workflow, by default `order` on queue `default`; the id of its job."""
    options = {name: more.pop(name) for name in list(more) if name not in ("queue", "workflow")}
    return int(
        one(
            connection,
            "select (hotmesh.job_start('my-app', %s, %s, %s, %s, null, %s)).id",
            more.get("workflow", "order"), key, Jsonb(list(args)), more.get("queue"), Jsonb(options),
        )
    )  # fmt: skip


def activity(sequence: int, name: str = "pay", **more: Any) -> dict[str, Any]:
    """The command to run an activity."""
    about = {"kind": "activity", "name": name, "queue": "default", "args": []}
    return {"sequence": sequence, **about, **more}


def timer(sequence: int, delay: float) -> dict[str, Any]:
    return {"sequence": sequence, "kind": "timer", "delay": delay}


def done(sequence: int, value: Any = None, name: str = "pay", **more: Any) -> dict[str, Any]:
    """What a run consumed: an activity that was done inline."""
    return {
        "sequence": sequence,
        "kind": "activity",
        "name": name,
        "value": value,
        **more,
    }


class Hand:
    """One worker; it serves workflow `order` and the activities `pay` and `ship`."""

    def __init__(
        self,
        connection: Connection,
        name: str = "hand",
        workflows: Sequence[tuple[str, str]] = (("default", "order"),),
        activities: Sequence[tuple[str, str]] = (
            ("default", "pay"),
            ("default", "ship"),
        ),
    ) -> None:
        self.connection = connection
        self.name = name
        topics = [("workflow", *topic) for topic in workflows]
        topics += [("activity", *topic) for topic in activities]
        self.serves = {
            "kinds": [topic[0] for topic in topics],
            "queues": [topic[1] for topic in topics],
            "names": [topic[2] for topic in topics],
        }

    def turn(self, *reports: Report, **want: Any) -> list[Any]:
        """One turn; it claims nothing unless `workflow=` or `activity=` says how many."""
        with self.connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(
                "select * from hotmesh.turn('my-app', %s, %s, %s)",
                [
                    self.name,
                    json.dumps(list(reports)),
                    json.dumps({**self.serves, **want}),
                ],
            ).fetchall()

    def claim(self, kind: str = "workflow", take: int = 1, **want: Any) -> list[Any]:
        """The tasks of a turn that asks for so many of a kind."""
        rows = self.turn(**{kind: take}, **want)
        return [row for row in rows if row.answer == "task"]

    def take(self, kind: str = "workflow", **want: Any) -> Any:
        """Claim what must be exactly one task."""
        [task] = self.claim(kind, 10, **want)
        return task

    def report(self, task: Any, **what: Any) -> str:
        """Report on a task; the verdict is ok, stale, busy or kept."""
        return verdict(self.turn(body(task, **what)), task.id)

    def settle(self, task: Any, output: Any = None) -> str:
        """Report that the run returned."""
        return self.report(task, outcome={"output": output})

    def news(self, task: Any, **what: Any) -> list[Any]:
        """Report, and what the answer tells of the run: journal rows."""
        rows = self.turn(body(task, **what))
        return [step for row in rows if row.answer == "events" for step in row.history]


def body(task: Any, **what: Any) -> dict[str, Any]:
    """A report: a run's carries the cursor of its claim, unless another is given."""
    head = {"id": task.id, "token": task.token}
    return head | ({"cursor": task.cursor} if task.kind == "workflow" else {}) | what


def verdict(rows: Sequence[Any], message: int) -> str:
    """What became of the report of a message; no answer means that it was applied."""
    answers = [row.answer for row in rows if row.id == message and row.answer in VERDICTS]
    assert len(answers) <= 1
    return answers[0] if answers else "ok"


def journal(db: Connection, key: str) -> list[tuple[Any, ...]]:
    """(sequence, name, state, value, cursor) of the steps of a job."""
    return db.execute(
        "select a.sequence, a.name, a.state, a.value, a.cursor"
        " from my_app.jobs_attributes_all a join my_app.jobs_all j on j.id = a.job_id"
        " where j.key = %s and a.sequence is not null order by a.sequence",
        [key],
    ).fetchall()


def messages(db: Connection, *columns: str) -> list[tuple[Any, ...]]:
    """The rows of the queue, oldest first; by default their kinds and states."""
    return db.execute(
        f"select {', '.join(columns or ('kind', 'state'))} from my_app.streams order by id"
    ).fetchall()


def contents(db: Connection) -> dict[str, list[str]]:
    """Every row of the app."""
    return {
        table: [row[0] for row in db.execute(f"select t::text from my_app.{table} t order by 1")]
        for table in TABLES
    }


@contextmanager
def unchanged(db: Connection) -> Iterator[None]:
    """What is done inside leaves no trace."""
    before = contents(db)
    yield
    assert contents(db) == before
