"""Jobs of graphs that several sessions move at once: one wins, the other's news are not lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from psycopg.types.json import Jsonb

from hotmesh import embedded
from support.clock import Clock
from support.engine import OWNER, Server
from support.graph_model import KIDS, Answer, Edge, Graph, Model, Node, graphs
from support.graphs import Connection, Graphs
from support.hand import messages, one
from support.sessions import Session
from support.waiting import wait_until

GRAPHS = int(os.environ.get("HOTMESH_GRAPHS", "6"))
PHASES = [Phase.explicit, Phase.generate] + [Phase.shrink] * ("HOTMESH_SHRINK" in os.environ)
NAMES = itertools.count()
COMPLETE = "select hotmesh.stream_complete('my-app', %s, %s, %s)"
TURN = "select hotmesh.turn('my-app', 'other', '[]', '{}')"
SIGNAL = "select hotmesh.graph_signal('my-app', 'r.in', %s)"
Sessions = Callable[..., tuple[Session, ...]]

FORK = """
subscribes: fork
activities:
  t: {type: trigger}
  a: {type: worker, topic: left, job: {maps: {a: '{a.output.data.n}'}}}
  b: {type: worker, topic: right, job: {maps: {b: '{b.output.data.n}'}}}
  s: {type: hook, sleep: 10, job: {maps: {s: 1}}}
transitions: {t: [{to: a}, {to: b}, {to: s}]}
"""
RACE = """
subscribes: r
activities:
  t: {type: trigger}
  h: {type: hook, sleep: 10, job: {maps: {n: '{h.hook.data.n}'}}}
  after: {type: hook}
transitions: {t: [{to: h}], h: [{to: after}]}
hooks: {r.in: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}', actual:
      '{$self.hook.data.id}'}]}}]}
"""


@pytest.fixture
def hand(db: Connection, clock: Clock) -> Graphs:
    graphs = Graphs(db)
    graphs.deploy(FORK)
    graphs.deploy(RACE)
    return graphs


def quiet(hand: Graphs) -> None:
    """Turns until there is nothing to do; they never wait for a lock."""

    def rests() -> bool:
        hand.turn()
        return not one(
            hand.connection,
            "select exists (select from my_app.streams where kind = 'event')"
            " or exists (select from my_app.signals where state = 'new')",
        )

    wait_until(rests, 20, "the engine to rest")


def finished(hand: Graphs, key: str) -> bool:
    return hand.state(key).status <= 0


# --- two sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1], ids=["the first", "the second"])
def test_two_branches_are_answered_at_once(
    hand: Graphs, sessions: Sessions, clock: Clock, first: int
) -> None:
    key = hand.pub("fork")
    tasks = hand.claim("left") + hand.claim("right")
    both = sessions("one", "two")
    for n, (session, task) in enumerate(zip(both, tasks, strict=True)):
        session.begin()  # neither waits for the other
        assert session.value(COMPLETE, [task.id, task.token, Jsonb({"data": {"n": n}})]) == "ok"
    both[first].commit()
    both[1 - first].commit()
    quiet(hand)
    assert hand.state(key) == (1, {"a": 0, "b": 1}, None)
    clock.advance("11 s")
    quiet(hand)
    assert hand.state(key) == (0, {"a": 0, "b": 1, "s": 1}, None)
    assert messages(hand.connection) == []


@pytest.mark.parametrize("answer_ends", ["commit", "rollback"])
def test_an_answer_and_a_time_come_at_once(
    hand: Graphs, sessions: Sessions, clock: Clock, answer_ends: str
) -> None:
    key = hand.pub("fork")
    [left], [right] = hand.claim("left"), hand.claim("right")
    hand.answer(right, {"n": 2})
    [one_] = sessions("one")
    clock.advance("11 s")
    one_.begin()
    assert one_.value(COMPLETE, [left.id, left.token, Jsonb({"data": {"n": 1}})]) == "ok"
    hand.turn()  # finds the time, and the job locked
    one_.run(answer_ends)
    quiet(hand)
    if answer_ends == "rollback":
        assert hand.state(key) == (1, {"b": 2, "s": 1}, None)
        assert hand.answer(left, {"n": 1}) == "ok"
    assert hand.state(key) == (0, {"a": 1, "b": 2, "s": 1}, None)


@pytest.mark.parametrize("order", ["time first", "signal first"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_of_a_time_and_a_signal_one_wins(
    hand: Graphs, sessions: Sessions, clock: Clock, order: str, ends: str
) -> None:
    key = hand.pub("r")
    time, signal = sessions("time", "signal")
    clock.advance("11 s")
    signal.begin()
    signal.run(SIGNAL, [Jsonb({"id": key, "n": 1})])
    if order == "signal first":
        clock.advance("-11 s")
        signal.run(TURN)
        clock.advance("11 s")
    time.begin()
    time.run(TURN)
    if order == "time first":
        signal.run(TURN)
        time.run(ends)
        signal.commit()
    else:
        signal.run(ends)
        time.commit()
    quiet(hand)
    state = hand.state(key)
    kept = hand.connection.execute("select kind from my_app.signals").fetchall()
    assert state.status == 0
    assert [step for step in hand.steps(key) if step[0] == "after"] == [("after", ",0,0,0", "done")]
    lost = order == "signal first" and ends == "rollback"  # it was never sent
    assert kept == ([] if state.data or lost else [("signal",)])
    assert messages(hand.connection) == []


@pytest.mark.parametrize("first", ["answer", "interrupt"])
def test_an_interrupt_meets_an_answer(hand: Graphs, sessions: Sessions, first: str) -> None:
    key = hand.pub("fork")
    [left] = hand.claim("left")
    one_, two = sessions("one", "two")
    acts = {
        "answer": lambda: one_.run(COMPLETE, [left.id, left.token, Jsonb({"data": {"n": 1}})]),
        "interrupt": lambda: two.run("select hotmesh.job_interrupt('my-app', %s, 'no')", [key]),
    }
    one_.begin()
    two.begin()
    for act in (first, *(acts.keys() - {first})):
        acts[act]()
    (one_ if first == "answer" else two).commit()
    (two if first == "answer" else one_).commit()
    quiet(hand)
    state = hand.state(key)
    assert state.status < 0
    assert (state.error["code"], state.error["message"]) == (410, "no")
    assert messages(hand.connection) == []
    assert hand.answer(left) == "stale"


def test_a_job_that_is_held_holds_up_nobody_else(
    hand: Graphs, sessions: Sessions, clock: Clock
) -> None:
    keys = [hand.pub("fork") for _ in range(3)]
    tasks = hand.claim("left") + hand.claim("right")
    [idle] = sessions("idle")
    idle.begin()
    idle.run("select from my_app.jobs where key = %s for update", [keys[0]])
    hand.connection.execute("set lock_timeout = '1ms'")
    for task in tasks:
        assert hand.answer(task, {"n": 7}) == "ok"
    clock.advance("11 s")
    for _ in range(3):
        hand.turn()
    assert [hand.state(key).status for key in keys] == [3, 0, 0]
    idle.rollback()
    quiet(hand)
    assert hand.state(keys[0]) == (0, {"a": 7, "b": 7, "s": 1}, None)


def test_a_signal_is_not_overtaken_while_it_is_held(hand: Graphs, sessions: Sessions) -> None:
    for n in (1, 2):
        one(hand.connection, SIGNAL, Jsonb({"id": "k", "n": n}))
        hand.turn()
    [idle] = sessions("idle")
    idle.begin()
    idle.run("select from my_app.signals order by id limit 1 for update")
    key = hand.pub("r", key="k")
    for _ in range(3):
        hand.turn()
    assert hand.state(key).status == 1
    idle.rollback()
    quiet(hand)
    assert hand.state(key) == (0, {"n": 1}, None)


# --- many sessions --------------------------------------------------------------------------------


@contextmanager
def running(dsn: str, *acts: Callable[[Graphs, random.Random], None]) -> Iterator[None]:
    """Each act over and over, in a thread and session of its own, until the block ends."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def loop(act: Callable[[Graphs, random.Random], None], number: int) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                hand, rng = Graphs(connection), random.Random(number)
                while not stop.is_set():
                    act(hand, rng)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=loop, args=(act, n)) for n, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []


def turns(hand: Graphs, rng: random.Random) -> None:
    hand.turn()


def test_times_and_signals_of_many_hooks(hand: Graphs, dsn: str, clock: Clock) -> None:
    keys = [hand.pub("r", key=f"r{n}") for n in range(60)]
    todo, sent = iter(keys), []

    def signals(mine: Graphs, rng: random.Random) -> None:
        if key := next(todo, None):
            one(mine.connection, SIGNAL, Jsonb({"id": key, "n": 1}))
            sent.append(key)
        mine.turn()

    with running(dsn, signals, turns, turns):
        wait_until(lambda: len(sent) > 20, 30, "some signals")
        clock.advance("11 s")
        wait_until(lambda: all(finished(hand, key) for key in keys), 30, "all hooks")
        wait_until(lambda: len(sent) == 60, 30, "all signals")
    quiet(hand)
    won = [key for key in keys if hand.state(key).data]
    assert len(won) > 20
    assert [hand.state(key).status for key in keys] == [0] * 60
    assert all(len(hand.steps(key)) == 3 for key in keys)
    assert one(hand.connection, "select count(*) from my_app.signals") == 60 - len(won)
    assert messages(hand.connection) == []


def version(number: int) -> str:
    """Every version has one activity more."""
    activities = {f"h{n}": {"type": "hook"} for n in range(number)}
    ways = list(itertools.pairwise(["t", "w", *activities, "w2"]))
    worker = {"type": "worker", "topic": "grow", "input": {"maps": {"v": number}}}
    return json.dumps({"app": {"id": "my-app", "version": str(number), "graphs": [{
        "subscribes": "grows",
        "activities": {"t": {"type": "trigger"}, "w": worker, **activities,
                       "w2": worker | {"job": {"maps": {"v": number}}}},
        "transitions": {one_: [{"to": two}] for one_, two in ways},
    }]}})  # fmt: skip


def test_nine_versions_while_jobs_run(hand: Graphs, dsn: str) -> None:
    keys: list[str] = []
    hand.deploy(version(1), version="1")

    def publish(mine: Graphs, rng: random.Random) -> None:
        if len(keys) < 150:
            keys.append(mine.pub("grows"))

    def work(mine: Graphs, rng: random.Random) -> None:
        for task in mine.claim("grow", rng.randint(1, 5)):
            assert mine.answer(task, task.args[0]["data"]) == "ok"
        mine.turn()

    with running(dsn, publish, work, work):
        for number in range(2, 10):
            wait_until(lambda goal=number: len(keys) > goal * 10, 30, "jobs")  # type: ignore[misc]
            hand.deploy(version(number), version=str(number))
        wait_until(lambda: len(keys) == 150, 30, "all jobs")
        wait_until(lambda: all(finished(hand, key) for key in keys), 60, "all to end")
    rows = hand.connection.execute(
        "select j.status, j.graph_version, o.value ->> 'v', (select count(*) from"
        " my_app.jobs_attributes a where a.job_id = j.id and a.sequence is not null) - 3"
        " from my_app.jobs j join my_app.jobs_attributes o on o.job_id = j.id and o.field = 'output'"
        " where j.topic = 'grows'"
    ).fetchall()
    assert len(rows) == 150
    assert all(status == 0 and v == str(steps) == made for status, v, made, steps in rows), rows
    assert len({row[1] for row in rows}) >= 5
    assert messages(hand.connection) == []


# --- any graph, by many hands ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def lent(server: Server, template_plain: Any) -> Iterator[str]:
    with server.database(template_plain.template_dbname) as name:
        with server.connect(name, OWNER) as db:
            Clock(db).freeze("2030-01-01")
            Graphs(db).deploy(KIDS)
        yield server.conninfo(name, OWNER)


def sayings(node: Node) -> list[Answer]:
    """All that is said to an instance, up to what closes it."""
    answers = list(itertools.takewhile(lambda answer: answer.is_pending, node.answers))
    return answers + [*node.answers[len(answers) :], Answer()][:1]


def written(dimension: tuple[int, ...]) -> str:
    return "".join(f",{place}" for place in dimension)


def in_the_end(graph: Graph) -> Model:
    model = Model(graph, {"a": 1, "b": 0})
    while model.is_open:
        key, waiting = next(iter(model.waiting.items()))
        if waiting.due is not None:
            model.pass_time(waiting.due - model.time)
        else:
            model.answer(key, sayings(waiting.node)[waiting.answers])
    return model


class Hands:
    """Those who signal and work, in threads of their own."""

    def __init__(self, name: str, graph: Graph, model: Model, keys: list[str]) -> None:
        self.name, self.graph = name, graph
        waits = [graph.nodes[id] for id, _ in model.steps if graph.nodes[id].kind == "wait"]
        self.signals = iter(
            [(key, node.id, answer) for key in keys for node in waits for answer in sayings(node)]
        )

    def signal(self, hand: Graphs, rng: random.Random) -> None:
        if said := next(self.signals, None):
            key, hook, answer = said
            one(hand.connection, "select hotmesh.graph_signal('my-app', %s, %s, %s, %s)",
                f"{self.name}.{hook}", Jsonb({"jid": key, "n": answer.n}), answer.status,
                answer.code)  # fmt: skip
        hand.turn()

    def work(self, hand: Graphs, rng: random.Random) -> None:
        for topic in ("kids", f"{self.name}.work"):
            for task in hand.claim(topic, rng.randint(1, 3)):
                self.answer(hand, task, topic == "kids")
        if rng.random() < 0.2:
            with hand.connection.transaction(force_rollback=True):
                hand.turn()
        hand.turn()

    def answer(self, hand: Graphs, task: Any, is_kid: bool) -> None:
        about = task.args[0]["metadata"]
        said = [Answer()] if is_kid else sayings(self.graph.nodes[about["aid"]])
        for n, answer in enumerate(said):
            body = {"data": {"n": answer.n}, "code": answer.number, "metadata": about}
            if n:
                one(hand.connection, "select hotmesh.graph_add('my-app', %s)", Jsonb(body))
            elif hand.answer(task, **body) == "stale":
                break  # it took too long: others have it


@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck),
          print_blob=True, phases=PHASES)  # fmt: skip
@given(graph=graphs(calm=True))
def test_any_graph_by_many_hands_comes_to_the_same_end(lent: str, graph: Graph) -> None:
    for node in graph.nodes.values():  # whose time and signals are not in a race
        node.kind = {"race": "wait", "signal": "pass"}.get(node.kind, node.kind)
        node.answers = [] if node.kind == "pass" else node.answers
    model = in_the_end(graph)
    for node in graph.nodes.values():  # whose instances wait for the same signals
        if node.kind == "wait" and Counter(id for id, _ in model.steps)[node.id] > len(
            sayings(node)
        ):
            node.answers = [answer for answer in node.answers if not answer.is_pending]
    model = in_the_end(graph)
    name = f"m{next(NAMES)}"
    with psycopg.connect(lent, autocommit=True) as db:
        db.execute("truncate my_app.jobs, my_app.jobs_attributes, my_app.streams, my_app.signals")
        main, clock = Graphs(db), Clock(db)
        main.deploy(json.dumps(graph.document(name)))
        keys = [main.pub(name, {"a": 1, "b": 0}, key=f"{name}-{n}") for n in range(4)]
        hands = Hands(name, graph, model, keys)

        def closed() -> bool:
            busy = one(db, "select exists (select from my_app.streams where kind = 'activity')")
            clock.advance("1 s" if busy else "100 s")
            return all(finished(main, key) for key in keys)

        with running(lent, hands.signal, hands.work, hands.work):
            wait_until(closed, 60, "all to end")
        quiet(main)
        steps = {(id, written(dimension), state) for (id, dimension), state in model.steps.items()}
        for key in keys:
            assert main.state(key).status == 0
            assert set(main.steps(key)) == steps
        assert messages(db) == []
        assert one(db, "select count(*) from my_app.signals where kind = 'wait'") == 0


# --- the server dies ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_dies_between_turns_loses_nothing(crash_server: embedded.Server) -> None:
    """The power goes after an act that was acknowledged; the job goes on as if it had not."""
    graph = Graph({
        "t": Node("t", "trigger", [Edge("p"), Edge("s")]),
        "p": Node("p", "pivot", [Edge("w")], depth=1),
        "w": Node("w", "worker", [Edge("h", code=200), Edge("x", code=202), Edge("c", match=[
            ("<p 1", True)])], [Answer(None, 202, 1), Answer(None, 200, 0)], depth=2),
        "x": Node("x", "pass", depth=3),
        "h": Node("h", "wait", answers=[Answer(None, 202, 1)], depth=3),
        "c": Node("c", "cycle", target="p", depth=3),
        "s": Node("s", "sleep", [Edge("k")], seconds=100, depth=1),
        "k": Node("k", "await", mode="ask", depth=2),
    })  # fmt: skip
    model = in_the_end(graph)
    dsn = crash_server.conninfo("crash", "hotmesh_owner")
    key = "g-1"

    def acts() -> Iterator[Callable[[Graphs], Any]]:
        yield lambda hand: hand.deploy(KIDS)
        yield lambda hand: hand.deploy(json.dumps(graph.document("g")))
        yield lambda hand: hand.pub("g", {"a": 1, "b": 0}, key=key)
        for answer in sayings(graph.nodes["h"]) * 2:
            data = Jsonb({"jid": key, "n": answer.n})
            yield lambda hand, a=answer, d=data: one(
                hand.connection, "select hotmesh.graph_signal('my-app', 'g.h', %s, %s, %s)",
                d, a.status, a.code,
            )  # fmt: skip
        for _ in range(2):
            about: list[Any] = []
            yield lambda hand, a=about: a.append(hand.work("g.work", {"n": 1}, code=202).args[0])
            body = {"metadata": about[0]["metadata"], "code": 200, "data": {"n": 0}}
            yield lambda hand, b=body: one(
                hand.connection, "select hotmesh.graph_add('my-app', %s)", Jsonb(b)
            )
            yield lambda hand: hand.turn()
        yield lambda hand: Clock(hand.connection).advance("100 s")
        yield lambda hand: hand.turn()
        yield lambda hand: hand.work("kids", {"n": 1})

    for number, act in enumerate(acts()):
        with psycopg.connect(dsn, autocommit=True) as connection:
            act(Graphs(connection))
        if number > 1 and (number % 3 == 0 or "HOTMESH_GRAPHS" in os.environ):
            crash_server.restart("immediate")
    with psycopg.connect(dsn, autocommit=True) as connection:
        hand = Graphs(connection)
        quiet(hand)
        assert hand.state(key).status == 0
        assert {(id, dad) for id, dad, state in hand.steps(key)} == {
            (id, written(dimension)) for id, dimension in model.steps
        }
        assert messages(connection) == []
        assert connection.execute("select kind from my_app.signals").fetchall() == []
