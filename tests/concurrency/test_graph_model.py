"""Graphs at random, held against a model of what they mean; see support/graph_model.py.

`HOTMESH_GRAPHS` says how many graphs are drawn (25 unless said).
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.engine import OWNER, Server
from support.graph_model import KIDS, Answer, Graph, Key, Model, graphs
from support.graphs import Graphs
from support.hand import Connection, one

GRAPHS = int(os.environ.get("HOTMESH_GRAPHS", "25"))
PHASES = [Phase.explicit, Phase.generate] + [Phase.shrink] * ("HOTMESH_SHRINK" in os.environ)
JOBS = 3  # of each graph
LEASE = 30
NAMES = itertools.count()


@pytest.fixture(scope="module")
def lent(server: Server, template_plain: Any) -> Iterator[Connection]:
    with server.database(template_plain.template_dbname) as name, server.connect(name, OWNER) as db:
        Clock(db).freeze("2030-01-01")
        Graphs(db).deploy(KIDS)
        yield db


class Run:
    """One job, driven through the doors and told to the model."""

    def __init__(
        self, db: Connection, name: str, number: int, graph: Graph, rng: random.Random
    ) -> None:
        self.db, self.graph, self.rng = db, graph, rng
        self.hand = Graphs(db)
        self.clock = Clock(db)
        self.name = name
        self.key = f"{name}-{number}"
        self.held: dict[Key, Any] = {}
        self.sent: list[Any] = []  # tasks that were answered, or lost
        self.metadata: dict[Key, Any] = {}  # of workers that answered `pending`
        self.done: list[str] = []
        data = {"a": rng.randint(0, 1), "b": rng.randint(0, 1), "obj": {}}
        self.early = [
            (node.id, Answer(n=rng.randint(0, 1)))
            for node in graph.nodes.values()
            if node.kind in ("wait", "race") and rng.random() < 0.2
        ]
        for hook, answer in self.early:
            self.send(hook, answer)
        self.hand.pub(self.name, data, key=self.key)
        self.id = one(db, "select id from my_app.jobs where key = %s", self.key)
        self.model = Model(graph, data, self.early)
        self.quiet()

    # --- the engine

    def quiet(self) -> None:
        """Turns until there is nothing to do."""
        for _ in range(50):
            self.hand.turn()
            if not one(
                self.db,
                "select exists (select from my_app.streams where kind = 'event')"
                " or exists (select from my_app.signals where state = 'new')",
            ):
                return
        raise AssertionError("the engine finds no rest")

    def send(self, hook: str, answer: Answer) -> None:
        one(
            self.db, "select hotmesh.graph_signal('my-app', %s, %s, %s, %s)",
            f"{self.name}.{hook}", Jsonb({"jid": self.key} | said(answer)), answer.status,
            answer.code,
        )  # fmt: skip
        self.quiet()

    def claim(self) -> None:
        for task in self.hand.claim(f"{self.name}.work", self.rng.randint(1, 5)):
            about = task.args[0]["metadata"]
            self.held[(about["aid"], places(about["dad"]))] = task
        for task in self.hand.claim("kids", 5):
            parent = self.db.execute(
                "select p.key, a.name, a.dimension from my_app.jobs j"
                " join my_app.jobs p on p.id = j.parent_id"
                " join my_app.jobs_attributes a on a.job_id = p.id"
                "  and a.dimension = j.parent_dimension and a.sequence = j.parent_sequence"
                " where j.key = %s", [task.key],
            ).fetchone()  # fmt: skip
            assert parent is not None
            if parent[0] == self.key:
                self.held[(parent[1], places(parent[2]))] = task

    def reply(self, task: Any, answer: Answer) -> str:
        if answer.raised:
            return self.hand.fail(task, 598)
        more = {"status": answer.status, "code": answer.code}
        return self.hand.answer(
            task, said(answer), **{name: value for name, value in more.items() if value}
        )

    # --- what may happen

    def script(self, key: Key) -> Answer:
        """What this instance is answered next."""
        waiting = self.model.waiting.get(key)
        answers = self.graph.nodes[key[0]].answers
        turn = waiting.answers if waiting else 0
        return answers[turn] if turn < len(answers) else Answer(n=turn % 2)

    def run(self) -> None:
        self.compare()
        for number in range(400):
            if not self.model.is_open:
                break
            if number % 4:
                self.act()
            else:
                self.push()
            self.compare()
        else:
            raise AssertionError(f"no end: {self.model.waiting}")
        for _ in range(2):
            self.stray()
            self.signal()
        event("failed" if self.model.ended else "done")
        self.finish()

    def act(self) -> None:
        choices = [self.work, self.work, self.work, self.signal, self.signal, self.wait, self.add]
        choices += [self.lose, self.stray, self.undone]
        act = self.rng.choice(choices)
        self.done.append(act.__name__)
        act()

    def push(self) -> None:
        """What brings it nearer to its end, whatever is drawn."""
        open_ = self.model.waiting
        self.done.append("push")
        if any(w.asked for w in open_.values()):
            self.claim()
            self.answer(next(iter(self.held)))
        elif self.model.waits:
            self.signal(self.model.waits[0][0])
        elif any(w.due is not None for w in open_.values()):
            self.wait(always=True)
        else:
            self.add()

    def work(self) -> None:
        """A worker claims, or answers one of its tasks."""
        if not self.held or self.rng.random() < 0.3:
            self.claim()
        elif key := self.pick(self.held):
            self.answer(key)

    def answer(self, key: Key) -> None:
        task, answer = self.held.pop(key), self.script(key)
        self.sent.append(task)
        is_kid = self.graph.nodes[key[0]].kind == "await"
        assert self.reply(task, answer) == ("ok" if is_kid or self.model.is_open else "stale")
        if answer.is_pending:
            self.metadata[key] = task.args[0]["metadata"]
        self.quiet()
        self.model.answer(key, answer)

    def signal(self, hook: str | None = None) -> None:
        """A signal for a hook that waits, for one that will, for one that waits no more."""
        waits = [key[0] for key in self.model.waits]
        hooks = [node.id for node in self.graph.nodes.values() if node.kind in ("wait", "race")]
        if hooks:
            hook = hook or self.rng.choice(waits if waits and self.rng.random() < 0.8 else hooks)
            key = next((key for key in self.model.waits if key[0] == hook), (hook, (0,)))
            answer = self.script(key)
            self.model.signal(hook, answer)
            self.send(hook, answer)

    def wait(self, always: bool = False) -> None:
        """Time passes: up to the next alarm, or not that far."""
        due = [w.due - self.model.time for w in self.model.waiting.values() if w.due]
        if due and (always or self.rng.random() < 0.4):
            self.clock.advance(f"{min(due)} s")
            self.lost(min(due))
            self.quiet()
            self.model.pass_time(min(due))

    def lost(self, seconds: int) -> None:
        """Whoever has held a task for so long, holds it no more."""
        if seconds >= LEASE:
            self.sent += self.held.values()
            self.held.clear()

    def lose(self) -> None:
        """The workers die; their leases run out, and others get what they had."""
        if self.held and self.rng.random() < 0.4:
            self.clock.advance(f"{LEASE} s")
            self.lost(LEASE)
            self.quiet()
            self.model.pass_time(LEASE)

    def stray(self) -> None:
        """An answer that was given, or comes too late, changes nothing."""
        if self.sent:
            assert self.reply(self.rng.choice(self.sent), Answer(n=5)) == "stale"

    def add(self) -> None:
        """The later answer of a worker that wasn't ready, and once more."""
        if self.metadata and (key := self.pick(self.metadata)):
            answer = self.script(key)._replace(raised=False)
            is_open = key in self.model.waiting
            body = {"metadata": self.metadata[key], "data": said(answer), "code": answer.number}
            body |= {"status": answer.status} if answer.status else {}
            for _ in range(self.rng.choice([1, 1, 2]) if not answer.is_pending else 1):
                found = one(self.db, "select hotmesh.graph_add('my-app', %s)", Jsonb(body))
                assert found == ("ok" if is_open else "stale")
            self.quiet()
            self.model.answer(key, answer)

    def undone(self) -> None:
        """What is rolled back has not been."""
        before = self.seen()
        with self.db.transaction(force_rollback=True):
            if self.held:
                self.reply(next(iter(self.held.values())), Answer(n=4))
            self.hand.claim(f"{self.name}.work")
            self.hand.turn()
        assert self.seen() == before

    def pick(self, keys: Any) -> Key | None:
        return self.rng.choice(sorted(keys)) if keys else None

    # --- what is compared

    def seen(self) -> dict[str, Any]:
        """What is to be found of the job."""
        found = self.db.execute(
            "select j.status, coalesce(o.value, '{}'), (e.value ->> 'code')::int,"
            " e.value ->> 'activity' from my_app.jobs j"
            " left join my_app.jobs_attributes o on o.job_id = j.id and o.field = 'output'"
            " left join my_app.jobs_attributes e on e.job_id = j.id and e.field = 'error'"
            " where j.id = %s", [self.id],
        ).fetchone()  # fmt: skip
        assert found is not None
        steps = {(id, places(dad)): state for id, dad, state in self.hand.steps(self.key)}
        messages = self.db.execute(
            "select s.kind from my_app.streams s join my_app.jobs j on j.id = s.job_id"
            " where (j.id = %s or j.parent_id = %s and j.parent_sequence is not null)"
            " and s.state <> 'dead'", [self.id, self.id],
        ).fetchall()  # fmt: skip
        halves = self.db.execute(
            "select kind, substring(name from '[.](.*):') from my_app.signals where name like %s",
            [f"{self.name}.%:{self.key}"],
        ).fetchall()
        return {
            "status": max(found[0], -1), "data": found[1],
            "error": found[2:] if found[2] else None, "steps": steps,
            "messages": Counter(kind for (kind,) in messages),
            "signals": Counter(halves),
        }  # fmt: skip

    def meant(self) -> dict[str, Any]:
        """What the model says of it."""
        model = self.model
        open_ = list(model.waiting.values())
        messages = Counter({
            "activity": sum(w.asked for w in open_), "timer": sum(w.due is not None for w in open_),
        })  # fmt: skip
        return {
            "status": -1 if model.ended else model.semaphore, "data": model.data,
            "error": model.error, "steps": model.steps, "messages": +messages,
            "signals": Counter(
                [("wait", key[0]) for key in model.waits] + [("signal", m[0]) for m in model.mail]
            ),
        }  # fmt: skip

    def compare(self) -> None:
        seen, meant = self.seen(), self.meant()
        if not self.model.is_open:  # children go on
            del seen["messages"], meant["messages"]
        if seen != meant:
            wrong = {what: (seen[what], meant[what]) for what in seen if seen[what] != meant[what]}
            raise AssertionError(f"seen and meant differ: {wrong}\nafter {self.done}")

    def finish(self) -> None:
        """Whatever is left is answered; then nothing is left."""
        self.clock.advance(f"{LEASE} s")
        self.held.clear()
        for _ in range(40):
            self.quiet()
            tasks = self.hand.claim("kids") + self.hand.claim(f"{self.name}.work")
            if not tasks:
                break
            for task in tasks:
                self.hand.answer(task)
        assert one(self.db, "select count(*) from my_app.streams where state <> 'dead'") == 0
        assert one(self.db, "select count(*) from my_app.signals where kind = 'wait'") == 0
        assert one(self.db, "select count(*) from my_app.jobs where closed_at is null") == 0
        self.compare()


def said(answer: Answer) -> dict[str, Any]:
    return {} if answer.n is None else {"n": answer.n}


def places(dimension: str) -> tuple[int, ...]:
    return tuple(int(place) for place in dimension[1:].split(","))


@contextmanager
def clean(db: Connection) -> Iterator[None]:
    """An example that fails leaves nothing to those that come after it."""
    db.execute("truncate my_app.jobs, my_app.jobs_attributes, my_app.streams, my_app.signals")
    yield


@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck),
          print_blob=True, phases=PHASES)  # fmt: skip
@given(graph=graphs(), rng=st.randoms(use_true_random=False))
def test_any_graph_does_what_it_means(lent: Connection, graph: Graph, rng: random.Random) -> None:
    with clean(lent):
        name = f"g{next(NAMES)}"
        Graphs(lent).deploy(json.dumps(graph.document(name)))
        for number in range(JOBS):
            Run(lent, name, number, graph, rng).run()


# --- what they found ------------------------------------------------------------------------------


def test_two_ways_into_a_worker_that_answers_later(db: Connection) -> None:
    hand = Graphs(db)
    hand.deploy("""
subscribes: joins
activities:
  t: {type: trigger}
  a: {type: hook}
  b: {type: hook}
  w: {type: worker, topic: joined}
transitions: {t: [{to: a}, {to: b}], a: [{to: w}], b: [{to: w}]}
""")
    key = hand.pub("joins")
    first, second = hand.claim("joined")
    about = first.args[0]["metadata"]
    assert hand.answer(first, code=202) == "ok"
    body = Jsonb({"metadata": about, "code": 200, "data": {}})
    assert one(db, "select hotmesh.graph_add('my-app', %s)", body) == "ok"
    hand.turn()
    assert hand.state(key).status == 1
    assert hand.answer(second) == "ok"
    assert hand.state(key) == (0, {}, None)
    assert [dad for id, dad, _ in hand.steps(key) if id == "w"] == [",0,0,0", ",0,0,1", ",0,0,2"]


@pytest.mark.parametrize("between", ["{type: hook}", "{type: worker, topic: rounds}"])
def test_two_ways_back_from_one_round(db: Connection, between: str) -> None:
    hand = Graphs(db)
    back = "input: {maps: {n: {'@pipe': [['{p.output.data.n}', 1], ['{@math.add}']]}}}"
    again = "conditions: {match: [{expected: 0, actual: '{p.output.data.n}'}]}"
    hand.deploy(f"""
subscribes: rounds
activities:
  t: {{type: trigger}}
  p: {{type: hook, cycle: true, output: {{maps: {{n: 0}}}}}}
  a: {between}
  b: {between}
  c: {{type: cycle, ancestor: p, {back}}}
  d: {{type: cycle, ancestor: p, {back}}}
transitions:
  t: [{{to: p}}]
  p: [{{to: a}}, {{to: b}}]
  a: [{{to: c, {again}}}]
  b: [{{to: d, {again}}}]
""")
    key = hand.pub("rounds")
    for _ in range(6):
        for task in hand.claim("rounds", 1):
            assert hand.answer(task) == "ok"
    assert hand.state(key).status == 0
    assert [dad for id, dad, _ in hand.steps(key) if id == "p"] == [",0,0", ",0,1", ",0,2"]
