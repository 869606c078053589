"""What graphs mean, in a few lines of Python, and graphs at random to hold against it.

A `Graph` is drawn; `document()` is what is deployed of it; a `Model` is one job that goes through it.
The model knows nothing of tables, locks or turns: it has instances (an activity in a dimension), a
count of obligations, and mail. Whoever drives the engine tells it what was said to the engine.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

Dimension = tuple[int, ...]
Key = tuple[str, Dimension]  # an instance

KIDS = """
subscribes: kid
activities:
  t: {type: trigger}
  ok: {type: hook, job: {maps: {n: '{t.output.data.n}'}}}
  bad: {type: interrupt, reason: enough, code: 410}
  ask: {type: worker, topic: kids, retry: {maximum_attempts: 1000}, job: {maps: {n:
        '{ask.output.data.n}'}}}
transitions:
  t:
    - {to: ok, conditions: {match: [{expected: ok, actual: '{t.output.data.mode}'}]}}
    - {to: bad, conditions: {match: [{expected: bad, actual: '{t.output.data.mode}'}]}}
    - {to: ask, conditions: {match: [{expected: ask, actual: '{t.output.data.mode}'}]}}
"""


class Answer(NamedTuple):
    """What a worker or a signal says; `raised`: the worker's function raised an exception."""

    status: str | None = None
    code: int | None = None
    n: int | None = None
    raised: bool = False

    @property
    def is_error(self) -> bool:
        return self.raised or (self.status or "").lower() == "error"

    @property
    def number(self) -> int:
        """The code by which transitions go."""
        if self.raised:
            return 598
        return self.code or {"error": 500, "pending": 202}.get((self.status or "").lower(), 200)

    @property
    def is_pending(self) -> bool:
        return not self.is_error and (self.status == "pending" or self.number == 202)


@dataclass
class Edge:
    to: str
    code: Any = None  # a number, a list, a pattern
    match: list[tuple[str, Any]] = field(default_factory=list)  # what, expected
    gate: str | None = None

    def conditions(self, node: Node) -> dict[str, Any]:
        said: dict[str, Any] = {"code": self.code} if self.code is not None else {}
        if self.match:
            said["match"] = [
                {"expected": want, "actual": actual(what, node)} for what, want in self.match
            ]
        return said | ({"gate": self.gate} if self.gate else {})


def actual(what: str, node: Node) -> Any:
    """How a condition says what it compares."""
    if what.startswith("<"):  # the rounds that a pivot has gone
        pivot, most = what[1:].split()
        return {"@pipe": [[f"{{{pivot}.output.data.n}}", int(most)], ["{@number.lt}"]]}
    if what == "broken":
        return {"@pipe": [["{t.output.data.obj}"], ["{@string.split}"]]}
    return f"{{{node.id}.{node.where}.data.n}}" if what == "n" else f"{{t.output.data.{what}}}"


@dataclass
class Node:
    id: str
    kind: str
    edges: list[Edge] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # the first ones, then plain 200
    target: str = ""  # of a cycle: its pivot; of a signal: the hook
    mode: str = ""  # of an await: ok, bad, ask, alone
    threshold: int | None = None
    seconds: int = 0
    throws: bool = True
    depth: int = 0

    @property
    def where(self) -> str:
        return "hook" if self.kind in ("wait", "race", "sleep") else "output"

    def document(self, name: str) -> dict[str, Any]:
        about: dict[str, Any] = {
            "trigger": {"type": "trigger"},
            "pass": {"type": "hook"},
            "pivot": {"type": "hook", "cycle": True, "output": {"maps": {"n": 0}}},
            "worker": {"type": "worker", "topic": f"{name}.work",
                       "retry": {"maximum_attempts": 1000}},
            "wait": {"type": "hook"},
            "sleep": {"type": "hook", "sleep": self.seconds},
            "race": {"type": "hook", "sleep": self.seconds},
            "await": {"type": "await", "topic": "kid", "input": {"maps": {
                "mode": "ok" if self.mode == "alone" else self.mode, "n": 1}}},
            "cycle": {"type": "cycle", "ancestor": self.target, "input": {"maps": {"n": {
                "@pipe": [[f"{{{self.target}.output.data.n}}", 1], ["{@math.add}"]]}}}},
            "signal": {"type": "signal", "subtype": "one", "topic": f"{name}.{self.target}",
                       "signal": {"maps": {"jid": "{$job.metadata.jid}", "n": 7}}},
            "stop": {"type": "interrupt", "reason": "enough", "code": 418},
        }[self.kind]  # fmt: skip
        if self.kind not in ("trigger", "cycle", "stop", "signal"):
            about["job"] = {"maps": {self.id: f"{{{self.id}.{self.where}.data.n}}"}}
        if self.mode == "alone":
            about["await"] = False
        if self.threshold is not None:
            about["statusThreshold"] = self.threshold
        if not self.throws:
            about["throw"] = False
        if self.kind == "signal" and self.answers:
            about["code"] = self.answers[0].number
        return about


class Graph:
    """Activities by name; the ways between them are theirs."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def __repr__(self) -> str:
        said = {n.id: [a[:3] for a in n.answers] for n in self.nodes.values() if n.answers}
        return f"{yaml.safe_dump(self.document('g'), width=200)}answers: {said}"

    @property
    def is_ordered(self) -> bool:
        """Whether it matters what comes first: something may end the job, or look at its status."""
        return any(
            node.kind == "stop"
            or node.threshold is not None
            or node.mode == "bad"
            or any(a.is_error for a in node.answers)
            or any(what == "broken" for edge in node.edges for what, _ in edge.match)
            for node in self.nodes.values()
        )

    def document(self, name: str) -> dict[str, Any]:
        waits = [node for node in self.nodes.values() if node.kind in ("wait", "race")]
        rule = {"expected": "{$job.metadata.jid}", "actual": "{$self.hook.data.jid}"}
        return {
            "subscribes": name,
            "activities": {node.id: node.document(name) for node in self.nodes.values()},
            "transitions": {
                node.id: [
                    {"to": edge.to}
                    | ({"conditions": said} if (said := edge.conditions(node)) else {})
                    for edge in node.edges
                ]
                for node in self.nodes.values()
                if node.edges
            },
            "hooks": {
                f"{name}.{node.id}": [{"to": node.id, "conditions": {"match": [rule]}}]
                for node in waits
            },
        }


# --- the semantics --------------------------------------------------------------------------------


@dataclass
class Waiting:
    """An instance that is open."""

    node: Node
    answers: int = 0
    asked: bool = False  # a worker's message is under way
    due: int | None = None


class Model:
    """One job. `semaphore` counts obligations; it is done at 0, or ended before."""

    def __init__(
        self, graph: Graph, data: dict[str, Any], mail: Sequence[tuple[str, Answer]] = ()
    ) -> None:
        self.graph = graph
        self.input = data
        self.semaphore = 1
        self.ended = False
        self.error: tuple[int, str] | None = None  # code, activity
        self.data: dict[str, Any] = {}
        self.steps: dict[Key, str] = {}
        self.values: dict[Key, int | None] = {}  # n of instances
        self.waiting: dict[Key, Waiting] = {}
        self.waits: list[Key] = []  # who waits for signals, in their order
        self.mail = list(mail)  # signals that nobody waited for
        self.taken: list[tuple[str, Answer]] = []  # of them, in this round
        self.posted: list[tuple[str, Answer]] = []  # signals of this instant
        self.todo: deque[tuple[str, Dimension, int | None]] = deque()
        self.rounds: deque[list[tuple[Key, Answer]]] = deque([[], []])
        self.time = 0
        self.todo.append(("t", (0,), None))
        self.settle()

    @property
    def is_open(self) -> bool:
        return not self.ended and self.semaphore > 0

    # --- what may happen to it

    def answer(self, key: Key, answer: Answer) -> None:
        """Somebody answers an instance; whoever was closed doesn't hear."""
        self.rounds[0].append((key, answer))
        self.settle()

    def signal(self, hook: str, answer: Answer) -> None:
        self.posted.append((hook, answer))
        self.settle()

    def pass_time(self, seconds: int) -> None:
        self.time += seconds
        due = [(w.due, key) for key, w in self.waiting.items() if w.due is not None]
        for at, key in sorted(due, key=lambda each: each[0]):
            if at <= self.time:
                self.waiting[key].due = None
                self.rounds[0].append((key, Answer()))
        self.settle()

    # --- how it goes on

    def settle(self) -> None:
        """Go on as far as it gets by itself: in rounds, what is asked in one is answered later."""
        while self.is_open and (self.todo or any(self.rounds) or self.met()):
            self.taken = []
            for key, answer in self.rounds.popleft():
                self.bind(key, answer)
            self.rounds.append([])
            while self.todo and not self.ended:
                self.enter(*self.todo.popleft())
        if not self.is_open:
            self.mail = self.taken + self.mail  # a round in which a job ends takes none
            self.taken = []
            self.met()
            self.waiting.clear()
            self.waits.clear()

    def met(self) -> bool:
        """The oldest signals answer the oldest waits."""
        self.mail += self.posted
        self.posted = []
        kept = []
        for hook, answer in self.mail:
            key = next((key for key in self.waits if key[0] == hook), None)
            if key is None or not self.is_open:
                kept.append((hook, answer))
            else:
                self.waits.remove(key)
                self.rounds[0].append((key, answer))
        found = len(kept) < len(self.mail)
        self.mail = kept
        return found

    def free(self, id: str, dimension: Dimension) -> Dimension:
        """No instance takes the place of another."""
        while (id, dimension) in self.steps:
            dimension = (*dimension[:-1], dimension[-1] + 1)
        return dimension

    def enter(self, id: str, dimension: Dimension, given: int | None) -> None:
        node = self.graph.nodes[id]
        key = (id, self.free(id, dimension))
        if node.threshold is not None and self.semaphore <= node.threshold:
            self.steps[key] = "cancelled"
            self.semaphore -= 1
        elif node.kind == "stop":
            self.steps[key] = "done"
            self.ended = True
            if node.throws:
                self.error = (418, id)
        elif node.kind == "cycle":
            self.steps[key] = "done"
            pivot = self.graph.nodes[node.target]
            back = key[1][: pivot.depth + 1]
            n = self.values[(pivot.id, back)]
            assert n is not None
            self.todo.append((pivot.id, (*back[:-1], back[-1] + 1), n + 1))
        elif node.kind in ("worker", "wait", "sleep", "race", "await"):
            self.ask(key, node)
        else:
            if node.kind == "signal":
                n, code = 7, (node.answers[0].number if node.answers else None)
                self.posted.append((node.target, Answer(code=code, n=n)))
            n = (given or 0) if node.kind == "pivot" else None
            self.leave(key, Answer(n=n))

    def ask(self, key: Key, node: Node) -> None:
        """It waits for a worker, a signal, a time, another job."""
        self.steps[key] = "open"
        waiting = self.waiting[key] = Waiting(node)
        if node.kind in ("wait", "race"):
            self.await_signal(key)
        if node.kind in ("sleep", "race"):
            waiting.due = self.time + node.seconds
        waiting.asked = node.kind == "worker" or node.mode == "ask"
        if node.mode == "alone":
            self.rounds[0].append((key, Answer()))
        elif node.mode == "ok":
            self.rounds[1].append((key, Answer(n=1)))
        elif node.mode == "bad":
            self.rounds[1].append((key, Answer("error", 410)))

    def await_signal(self, key: Key) -> None:
        """The oldest that was kept answers at once, unless somebody else has a claim to it."""
        first = next((n for n, (hook, _) in enumerate(self.mail) if hook == key[0]), None)
        others = self.waits + [each for some in self.rounds for each, _ in some]
        if first is None or any(id == key[0] for id, _ in others):
            self.waits.append(key)
        else:
            self.taken.append(self.mail.pop(first))
            kinds = [self.graph.nodes[id].mode for (id, _), _ in self.rounds[0]]
            at = kinds.index("alone") if "alone" in kinds else len(kinds)  # mail comes before those
            self.rounds[0].insert(at, (key, self.taken[-1][1]))

    def bind(self, key: Key, answer: Answer) -> None:
        """An answer: each further one has a dimension of its own."""
        waiting = self.waiting.get(key)
        if waiting is None or self.ended:
            return
        waiting.asked = False
        if waiting.node.kind == "await":  # a child says what became of it, not how
            answer = answer._replace(n=None) if answer.is_error else Answer(n=answer.n)
        id, base = key
        state = "failed" if answer.is_error else "done"
        self.steps[key] = "open" if answer.is_pending else state
        if answer.is_pending:
            if waiting.node.kind in ("wait", "race"):
                self.await_signal(key)
        else:
            del self.waiting[key]
            self.waits = [other for other in self.waits if other != key]
        if waiting.answers:
            key = (id, self.free(id, (*base[:-1], base[-1] + waiting.answers)))
        waiting.answers += 1
        self.leave(key, answer, self.steps.get(key, state))

    def leave(self, key: Key, answer: Answer, state: str = "done") -> None:
        node = self.graph.nodes[key[0]]
        self.values[key] = answer.n
        try:
            go = [edge for edge in node.edges if self.passes(edge, key, answer)]
        except ZeroDivisionError:
            self.steps[key] = "failed"
            self.ended, self.error = True, (598, node.id)
            return
        self.steps[key] = state
        if answer.n is not None and node.kind not in ("trigger", "cycle", "stop", "signal"):
            self.data[node.id] = answer.n
        self.semaphore += len(go) - (0 if answer.is_pending else 1)
        self.todo += [(edge.to, (*key[1], 0), None) for edge in go]
        if answer.is_error and not go:
            self.ended, self.error = True, (answer.number, node.id)

    def passes(self, edge: Edge, key: Key, answer: Answer) -> bool:
        """No conditions: whatever came. Conditions without a code: 200."""
        if edge.code is None and not edge.match:
            return True
        codes = edge.code if isinstance(edge.code, list) else [edge.code or 200]
        patterns = [str(code).replace("*", r"\d") for code in codes]
        if not any(re.fullmatch(pattern, str(answer.number)) for pattern in patterns):
            return False
        found = [self.look(what, key, answer) == want for what, want in edge.match]
        return any(found) if edge.gate == "or" else all(found)

    def look(self, what: str, key: Key, answer: Answer) -> Any:
        if what == "broken":
            raise ZeroDivisionError
        if what.startswith("<"):
            pivot, most = what[1:].split()
            n = self.values[(pivot, key[1][: self.graph.nodes[pivot].depth + 1])]
            return n is not None and n < int(most)
        return answer.n if what == "n" else self.input.get(what)


# --- graphs at random -----------------------------------------------------------------------------

NUMBERS = st.integers(0, 1)


def answers(statuses: Sequence[str | None], codes: Sequence[int | None]) -> Any:
    return st.builds(
        Answer, st.sampled_from(statuses), st.sampled_from(codes), NUMBERS, st.just(False)
    )


GOOD = answers([None, None, "success", "*"], [None, None, 200, 201, 500])
LATER = answers([None, "pending"], [202])
BAD = answers(["error", "Error"], [None, 404, 503])
RAISED = st.just(Answer(raised=True))
CODES = st.sampled_from([200, 202, 404, 500, [200, 201], "5**", "4**", [202, "20*"], 410, 598])
LEAVES = ["pass", "worker", "wait", "signal", "stop"]
KINDS = ["pass", "worker", "worker", "wait", "sleep", "race", "await", "pivot", "signal"]


class Growing:
    """A tree of activities, with a way across now and then."""

    def __init__(self, draw: st.DrawFn, most: int, calm: bool) -> None:
        self.draw, self.most, self.calm = draw, most, calm
        self.nodes: dict[str, Node] = {"t": Node("t", "trigger")}
        self.returns: dict[str, int] = {}

    def grow(self, parent: Node, pivots: list[Node]) -> None:
        for _ in range(self.draw(st.integers(1, 3) if parent.depth < 4 else st.just(0))):
            if len(self.nodes) >= self.most:
                return
            open_pivots = [p for p in pivots if self.returns[p.id] < 2]
            if open_pivots and parent.kind != "trigger" and self.draw(st.integers(0, 1)):
                self.go_back(parent, self.draw(st.sampled_from(open_pivots)))
                continue
            node = self.node(parent.depth + 1)
            parent.edges.append(self.edge(node.id))
            more = [node] if node.kind == "pivot" and len(pivots) < 2 else []
            self.returns.update({p.id: 0 for p in more})
            if node.kind != "stop":
                self.grow(node, pivots + more)

    def go_back(self, parent: Node, pivot: Node) -> None:
        id = f"c{len(self.nodes)}"
        self.returns[pivot.id] += 1
        self.nodes[id] = Node(id, "cycle", target=pivot.id, depth=parent.depth + 1)
        most = self.draw(st.integers(1, 2))
        parent.edges.append(Edge(id, match=[(f"<{pivot.id} {most}", True)]))

    def node(self, depth: int) -> Node:
        kinds = KINDS + ([] if self.calm else ["stop"])
        node = Node(f"a{len(self.nodes)}", self.draw(st.sampled_from(kinds)), depth=depth)
        self.nodes[node.id] = node
        said = [GOOD, LATER] if self.calm else [GOOD, LATER, BAD, RAISED]
        if node.kind in ("worker", "wait", "race"):
            node.answers = self.draw(st.lists(st.one_of(said), max_size=3))
        if node.kind in ("wait", "race"):
            node.answers = [a for a in node.answers if not a.raised]
        if node.kind == "await":
            node.mode = self.draw(
                st.sampled_from(["ok", "ask", "alone"] + ([] if self.calm else ["bad"]))
            )
            node.answers = (
                [] if self.calm else self.draw(st.lists(st.one_of(GOOD, BAD), max_size=1))
            )
        node.seconds = self.draw(st.sampled_from([50, 100, 100, 1000]))
        if node.kind == "stop":
            node.throws = self.draw(st.booleans())
        if not self.calm and node.kind != "pivot" and self.draw(st.integers(0, 9)) == 0:
            node.threshold = self.draw(st.integers(0, 2))
        return node

    def edge(self, to: str) -> Edge:
        edge = Edge(to)
        shape = self.draw(st.sampled_from(["any", "any", "code", "match", "both"]))
        if shape in ("code", "both"):
            edge.code = self.draw(CODES)
        if shape in ("match", "both"):
            whats = ["a", "b", "n", "missing"]
            edge.match = self.draw(
                st.lists(st.tuples(st.sampled_from(whats), NUMBERS), min_size=1, max_size=2)
            )
            edge.gate = self.draw(st.sampled_from([None, "and", "or"]))
            if not self.calm and self.draw(st.integers(0, 15)) == 0:
                edge.match = [("broken", 1)]
        return edge

    def joins(self) -> Iterator[tuple[Node, Node]]:
        """Pairs that a way across may lead from and to: one level apart, no loops about."""
        for one in self.nodes.values():
            for two in self.nodes.values():
                if (
                    two.depth == one.depth + 1
                    and two.kind not in ("cycle", "pivot")
                    and (
                        one.kind not in ("stop", "cycle")
                        and all(edge.to != two.id for edge in one.edges)
                    )
                ):
                    yield one, two

    def finish(self) -> Graph:
        cycles = any(node.kind == "cycle" for node in self.nodes.values())
        pairs = [] if cycles else list(self.joins())
        if pairs and self.draw(st.booleans()):
            one, two = self.draw(st.sampled_from(pairs))
            one.edges.append(self.edge(two.id))
        hooks = [node.id for node in self.nodes.values() if node.kind in ("wait", "race")]
        for node in self.nodes.values():
            if node.kind == "signal" and not hooks:
                node.kind = "pass"
            elif node.kind == "signal":
                node.target = self.draw(st.sampled_from(hooks))
                node.answers = [Answer(code=c) for c in self.draw(
                    st.sampled_from([[], [200], [202]]))]  # fmt: skip
        return Graph(self.nodes)


@st.composite
def graphs(draw: st.DrawFn, most: int = 14, calm: bool = False) -> Graph:
    growing = Growing(draw, most, calm or draw(st.booleans()))
    while len(growing.nodes) < 7:  # small ones find little
        growing.grow(growing.nodes["t"], [])
    return growing.finish()
