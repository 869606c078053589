"""Workers that misbehave, and a model of what must come out whatever they do.

A program is a list of groups of steps, made from a seed and the job's key. A simulated worker runs
it through `hotmesh.turn` as the driver does: it claims, replays, reports what it did inline and what
it asks for, rests, and is told news. On the way it crashes, reports twice, late and for others.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from support.hand import Hand, verdict

Connection = psycopg.Connection[Any]
POLICY = {"maximum_attempts": 1000, "initial_interval": 0.001, "backoff_coefficient": 1}
FINISHED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Step:
    sequence: int
    kind: str  # inline, activity, timer; never and victim: a timer and an activity, cancelled


def program(seed: int, key: str) -> list[list[Step]]:
    """What the workflow of this key does: groups of steps, one group after the other."""
    rng = random.Random(f"{seed}/{key}")
    groups, sequence = [], 0
    for _ in range(rng.randint(1, 5)):
        kinds = rng.choice(
            [["inline"], ["inline"], ["activity"], ["timer"], ["activity", "activity", "inline"],
             ["activity", "never"], ["timer", "victim"], ["inline", "timer"]]
        )  # fmt: skip
        groups.append([Step(sequence + n + 1, kind) for n, kind in enumerate(kinds)])
        sequence += len(kinds)
    return groups


def value_of(key: str, sequence: int) -> str:
    return f"{key}:{sequence}"


@dataclass
class Run:
    """A run that a worker holds or remembers."""

    id: int
    token: int
    key: str
    cursor: int
    states: dict[int, str] = field(default_factory=dict)
    holding: bool = True

    def learn(self, history: list[Any]) -> None:
        for step in history:
            self.states[step[0]] = step[3]


@dataclass(eq=False)
class Report:
    body: dict[str, Any]
    run: Run | None = None
    consumed: int = 0
    over: bool = False
    sent: int = 0

    @property
    def running(self) -> bool:
        return bool(self.body.get("running"))


class Witness:
    """Remembers what was handed out and accepted; good for one session, where order is known."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}
        self.accepted: set[tuple[Any, ...]] = set()
        self.cancelled: set[tuple[str, int]] = set()

    def delivered(self, row: Any) -> None:
        assert row.token > self.tokens.get(row.id, 0), (
            f"{row.id} was handed out again as {row.token}"
        )
        self.tokens[row.id] = row.token

    def saw(self, bodies: list[dict[str, Any]], rows: list[Any]) -> None:
        """A turn: what was sent, and its answers."""
        for body in bodies:
            self.judged(body, verdict(rows, body["id"]))
        for row in rows:
            if row.answer in ("task", "leased"):
                self.delivered(row)

    def judged(self, body: dict[str, Any], answer: str) -> None:
        if answer != "ok" or not body.keys() - {"id", "token", "cursor", "running", "keep"}:
            return
        assert body["token"] == self.tokens[body["id"]], f"an old token counted: {body}"
        name = (body["id"], body["token"], body.get("cursor"), repr(body.get("commands")))
        assert name not in self.accepted, f"counted twice: {body}"
        self.accepted.add(name)


class Worker:
    """A worker with bad habits; `mischief` says how often it has them."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        seed: int,
        mischief: float = 0.1,
        lease: float = 15,
        witness: Witness | None = None,
    ) -> None:
        self.witness = witness
        self.hand = Hand(connection, name)
        self.seed = seed
        self.rng = random.Random(f"{seed}/{name}")
        self.mischief = mischief
        self.lease = lease
        self.runs: dict[int, Run] = {}
        self.outbox: list[Report] = []
        self.sent: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def naughty(self, weight: float = 1.0) -> bool:
        return self.rng.random() < self.mischief * weight

    # --- one step ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One turn, with what happens to be in the outbox, and perhaps an old report once more."""
        reports = self.take_reports()
        bodies = [report.body for report in reports]
        if self.sent and self.naughty(2):
            stray = self.rng.choice(self.sent)
            bodies += [stray] if stray["id"] not in {body["id"] for body in bodies} else []
        self.sent = (self.sent + bodies)[-50:]
        rows = self.hand.turn(
            *bodies, workflow=self.rng.randint(0, 3), activity=self.rng.randint(0, 3),
            lease=self.lease, seen=self.naughty(3), idle=True,
        )  # fmt: skip
        if self.witness:
            self.witness.saw(bodies, rows)
        for report in reports:
            self.settle(report, verdict(rows, report.body["id"]))
        for row in rows:
            self.answered(row)
        for run in list(self.runs.values()):
            if run.holding and not any(report.run is run for report in self.outbox):
                self.outbox.append(self.report(run))
        if self.naughty(0.5):
            self.crash()

    def take_reports(self) -> list[Report]:
        """One per message, some are left for later; who was refused often asks to be kept."""
        late = {id(report) for report in self.outbox if self.naughty()}
        first = {report.body["id"]: report for report in reversed(self.outbox)}
        reports = [report for report in first.values() if id(report) not in late]
        self.outbox = [report for report in self.outbox if report not in reports]
        for report in reports:
            report.sent += 1
            if report.sent > 2 and self.rng.random() < 0.5:
                report.body["keep"] = True
        return reports

    def answered(self, row: Any) -> None:
        if row.answer == "task" and row.kind == "workflow":
            self.claimed(row)
        elif row.answer == "events" and row.id in self.runs:
            self.told(row)
        elif row.answer in ("task", "leased"):
            self.work(row)

    def crash(self) -> None:
        """Forget everything; some leave properly and give back what they hold."""
        held = [run.id for run in self.runs.values() if run.holding]
        self.runs.clear()
        self.outbox.clear()
        if self.rng.random() < 0.3:
            self.hand.connection.execute(
                "select hotmesh.worker_stop('my-app', %s, %s)", [self.hand.name, held]
            )

    # --- runs -------------------------------------------------------------------------------------

    def claimed(self, row: Any) -> None:
        if self.naughty():
            self.runs.pop(row.id, None)  # it dies with it
            return
        news = row.sequence is not None  # only what came after that cursor
        run = self.runs.get(row.id) if news else None
        if run is None:
            run = Run(row.id, row.token, row.key, row.cursor)
            history = row.history
            if news or (history and history[-1] is None):
                history = self.hand.connection.execute(
                    "select hotmesh.job_history('my-app', %s)", [row.key]
                ).fetchone()[0]  # type: ignore[index]
            run.learn(history)
            self.runs[row.id] = run
        else:
            run.learn(row.history)
        run.token, run.cursor, run.holding = row.token, row.cursor, True

    def told(self, row: Any) -> None:
        run = self.runs[row.id]
        if run.token == row.token:
            run.learn(row.history)
            run.cursor, run.holding = row.cursor, True

    def report(self, run: Run) -> Report:
        """What the code does next: inline steps and commands, or the end."""
        done: list[Any] = []
        commands: list[Any] = []
        body: dict[str, Any] = {"id": run.id, "token": run.token, "cursor": run.cursor}
        for group in program(self.seed, run.key):
            self.begin(run, group, done, commands)
            if not self.finished(run, group, commands):
                running = bool(done) and self.rng.random() < 0.5
                body |= {"done": done, "commands": commands} | (
                    {"running": True} if running else {}
                )
                return Report(body, run, len(done))
            if done and self.rng.random() < 0.3:
                body |= {"done": done, "commands": commands, "running": True}
                return Report(body, run, len(done))
        body |= {"done": done, "commands": commands, "outcome": {"output": run.key}}
        return Report(body, run, len(done), over=True)

    def begin(self, run: Run, group: list[Step], done: list[Any], commands: list[Any]) -> None:
        for step in group:
            if step.sequence in run.states:
                continue
            run.states[step.sequence] = "open"
            if step.kind == "inline":
                run.states[step.sequence] = "done"
                value = value_of(run.key, step.sequence)
                done.append(
                    {"sequence": step.sequence, "kind": "activity", "name": "pay", "value": value}
                )
            else:
                commands.append(self.command(step))

    def command(self, step: Step) -> dict[str, Any]:
        head: dict[str, Any] = {"sequence": step.sequence}
        if step.kind in ("timer", "never"):
            delay = 1e6 if step.kind == "never" else self.rng.random() / 20
            return head | {"kind": "timer", "delay": delay}
        head |= {"kind": "activity", "name": self.rng.choice(["pay", "ship"]), "queue": "default",
                 "args": [], "retry_policy": POLICY}  # fmt: skip
        if self.rng.random() < 0.2:
            head["announced"] = True
            if self.rng.random() < 0.5:
                head["error"] = {"type": "Inline", "message": "failed"}
        return head

    def finished(self, run: Run, group: list[Step], commands: list[Any]) -> bool:
        open_steps = [s for s in group if run.states[s.sequence] not in FINISHED]
        if not all(step.kind in ("never", "victim") for step in open_steps):
            return False
        for step in open_steps:
            run.states[step.sequence] = "cancelled"
            commands.append({"sequence": step.sequence, "kind": "cancel"})
        return True

    def settle(self, report: Report, answer: str) -> None:
        run = report.run
        if answer == "busy":
            self.outbox.append(report)
        elif run is None:
            return
        elif answer == "stale" or report.over:
            if self.runs.get(run.id) is run:
                del self.runs[run.id]
        else:
            if self.witness and answer == "ok":
                cancels = [c for c in report.body.get("commands", ()) if c["kind"] == "cancel"]
                self.witness.cancelled |= {(run.key, cancel["sequence"]) for cancel in cancels}
            run.cursor += report.consumed
            run.holding = report.running
            if answer == "kept" and not report.running and self.runs.get(run.id) is run:
                del self.runs[run.id]

    # --- activities -------------------------------------------------------------------------------

    def work(self, row: Any) -> None:
        if self.naughty():
            return
        body: dict[str, Any] = {"id": row.id, "token": row.token}
        key = row.key or next((r.key for r in self.runs.values() if r.id == row.id), None)
        if key is None:  # announced by ourselves: the answer does not repeat the key
            found = self.hand.connection.execute(
                "select key from my_app.jobs where id = %s", [row.job_id]
            ).fetchone()
            key = found[0] if found else ""
        if self.naughty():
            body["error"] = {"type": "Flaky", "message": "no"}
        else:
            body["output"] = value_of(key, row.sequence)
        self.outbox.append(Report(body))


def start_jobs(connection: Connection, count: int) -> list[str]:
    keys = [f"j{number}" for number in range(count)]
    connection.execute(
        "select hotmesh.job_start_many('my-app', %s)",
        [Jsonb([{"workflow": "order", "key": key} for key in keys])],
    )
    return keys


def revive(owner: Connection) -> None:
    """What was parked, since five in a row died with it, is served again."""
    owner.execute(
        "select hotmesh.stream_revive('my-app', id) from hotmesh.stuck_jobs where reason = 'parked'"
    )


def unsettled(owner: Connection) -> int:
    row = owner.execute("select count(*) from my_app.jobs where closed_at is null").fetchone()
    assert row
    return int(row[0])


def check(
    owner: Connection, seed: int, keys: list[str], cancelled: Collection[tuple[str, int]] = ()
) -> None:
    """Each job settled once, each step is in the journal once with its value, nothing is left."""
    rows = owner.execute(
        "select j.key, j.status, j.cursor, a.value from my_app.jobs j"
        " left join my_app.jobs_attributes a on a.job_id = j.id and a.field in ('output', 'error')"
        " order by j.id"
    ).fetchall()
    assert [(row[0], row[1], row[3]) for row in rows] == [(key, 0, key) for key in keys]
    journal = owner.execute(
        "select j.key, a.sequence, a.state, a.value, a.cursor from my_app.jobs_attributes a"
        " join my_app.jobs j on j.id = a.job_id where a.sequence is not null order by 1, 2"
    ).fetchall()
    for key, _, cursor, _ in rows:
        mine = [row[1:] for row in journal if row[0] == key]
        steps = [step for group in program(seed, key) for step in group]
        assert [row[0] for row in mine] == [step.sequence for step in steps]
        for step, (_, state, value, _) in zip(steps, mine, strict=True):
            special: dict[str, list[tuple[str, Any]]] = {
                "never": [("cancelled", None)],
                "timer": [("done", None)],
                "victim": [("cancelled", None), ("done", value_of(key, step.sequence))],
            }
            expected = special.get(step.kind, [("done", value_of(key, step.sequence))])
            assert (state, value) in expected, (key, step)
            assert state == "cancelled" or (key, step.sequence) not in cancelled
        cursors = [row[3] for row in mine if row[3] is not None]
        assert len(set(cursors)) == len(cursors), (key, mine)
        assert max(cursors, default=0) <= cursor
    left = owner.execute("select kind, state, name, job_id from my_app.streams").fetchall()
    assert left == []
