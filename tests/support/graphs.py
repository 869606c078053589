"""Graphs by hand: tests deploy, publish and answer through the doors, without the driver."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
import yaml
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from support.hand import one

Connection = psycopg.Connection[Any]


class State(NamedTuple):
    """Where a job stands: its semaphore, its data, its error."""

    status: int
    data: Any
    error: Any


class Graphs:
    """The graphs of `my-app`, and a worker of every topic."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def deploy(
        self, text: str, subscribes: str | None = None, version: str = "1"
    ) -> dict[str, Any]:
        """Deploy a document, and activate it."""
        found = self.check(text, subscribes)
        one(self.connection, "select hotmesh.graph_activate('my-app', %s)", version)
        return found

    def check(self, text: str, subscribes: str | None = None) -> dict[str, Any]:
        """Deploy a document."""
        found: dict[str, Any] = one(
            self.connection, "select hotmesh.graph_deploy('my-app', %s, %s)",
            Jsonb(yaml.safe_load(text)), subscribes,
        )  # fmt: skip
        return found

    def pub(self, topic: str, data: Any = None, **more: Any) -> str:
        """Start a job; its key."""
        key: str = one(
            self.connection, "select key from hotmesh.graph_pub('my-app', %s, %s, %s, %s)",
            topic, Jsonb(data or {}), more.pop("key", None), Jsonb(more),
        )  # fmt: skip
        return key

    def run(self, topic: str, data: Any = None, **more: Any) -> State:
        """Start a job, and see how far it came at once."""
        return self.state(self.pub(topic, data, **more))

    def claim(self, topic: str, take: int = 10) -> list[Any]:
        """What waits for the workers of a topic."""
        with self.connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(
                "select * from hotmesh.stream_claim('my-app', %s, 'hand', %s, '30 s')",
                [topic, take],
            ).fetchall()

    def answer(self, task: Any, data: Any = None, **more: Any) -> str:
        """Answer as a worker does: `status`, `code`."""
        return str(
            one(
                self.connection, "select hotmesh.stream_complete('my-app', %s, %s, %s)",
                task.id, task.token, Jsonb({"data": data or {}, **more}),
            )
        )  # fmt: skip

    def work(self, topic: str, data: Any = None, **more: Any) -> Any:
        """Claim the one task of a topic and answer it; the task."""
        [task] = self.claim(topic)
        assert self.answer(task, data, **more) == "ok"
        return task

    def fail(self, task: Any, code: int = 598, message: str = "broken") -> str:
        error = {"type": "ValueError", "message": message, "code": code}
        return str(
            one(
                self.connection, "select hotmesh.stream_fail('my-app', %s, %s, %s)",
                task.id, task.token, Jsonb(error),
            )
        )  # fmt: skip

    def signal(self, topic: str, data: Any, **more: Any) -> None:
        one(
            self.connection, "select hotmesh.graph_signal('my-app', %s, %s, %s, %s)",
            topic, Jsonb(data), more.get("status"), more.get("code", 200),
        )  # fmt: skip
        self.turn()

    def turn(self) -> None:
        """One turn of a worker that wants nothing: the engine does its chores."""
        self.connection.execute("select hotmesh.turn('my-app', 'hand', '[]', '{}')")

    def state(self, key: str) -> State:
        row = self.connection.execute(
            "select j.status, o.value, e.value from my_app.jobs_all j"
            " left join my_app.jobs_attributes_all o on o.job_id = j.id and o.field = 'output'"
            " left join my_app.jobs_attributes_all e on e.job_id = j.id and e.field = 'error'"
            " where j.key = %s",
            [key],
        ).fetchone()
        assert row is not None
        return State(*row)

    def steps(self, key: str) -> list[tuple[str, str, str]]:
        """(activity, dimension, state) in the order of the way."""
        return self.connection.execute(
            "select a.name, a.dimension, a.state from my_app.jobs_attributes_all a"
            " join my_app.jobs_all j on j.id = a.job_id"
            " where j.key = %s and a.sequence is not null order by a.dimension, a.sequence",
            [key],
        ).fetchall()
