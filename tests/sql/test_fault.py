"""Whatever is wrong with a document is told at once, each with its place and what to do."""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from support.hand import Connection, one

GTE = {
    "@pipe": [
        ["{checkInventory.output.data.availableQty}", "{trigger.output.data.requestedQty}"],
        ["{@conditional.gte}"],
    ]
}
# order.yaml of the seeds, as yaml.safe_load reads it
ORDER: dict[str, Any] = {
    "activities": {
        "trigger": {"type": "trigger"},
        "checkInventory": {"type": "worker", "topic": "inventory.check"},
        "reserveItem": {"type": "worker", "topic": "inventory.reserve"},
        "notifyBackorder": {"type": "worker", "topic": "inventory.backorder.notify"},
    },
    "transitions": {
        "trigger": [{"to": "checkInventory"}],
        "checkInventory": [
            {"to": "reserveItem", "conditions": {"match": [{"expected": True, "actual": GTE}]}},
            {
                "to": "notifyBackorder",
                "conditions": {"match": [{"expected": False, "actual": GTE}]},
            },
        ],
    },
}
LONG: dict[str, Any] = {
    "app": {
        "id": "orders", "version": "1.10", "settings": {"free": {"anything": [1, "{x"]}},
        "graphs": [
            {
                "subscribes": "order.new", "publishes": "order.done", "expire": 3600, "persistent": True,
                "input": {"schema": {"type": "object"}}, "output": {"schema": {}, "202": {"schema": {}}},
                "title": "x", "activities": {
                    "t1": {"type": "trigger", "title": "Begin", "emit": True,
                     "job": {"maps": {"a": "{$self.output.data.a}"}},
                           "stats": {"id": "{$self.input.data.id}",
                            "key": {"@pipe": [["{$self.input.data.k}"]]},
                                     "granularity": "5m", "measures": [{"measure": "count",
                                      "target": "{$self.input.data.k}"}]}},
                    "w1": {"type": "worker", "topic": "{t1.output.data.topic}", "retry": {"500": [3],
                     "4**": [2, 1]},
                           "input": {"schema": {}, "maps": {"x": ["{t1.output.data.x}"], "y[0]": 1}},
                           "output": {"422": {"schema": {}}}, "statusThreshold": 0,
                            "telemetry": {"a": "{$job.metadata.jid}"}},
                    "h1": {"type": "hook", "sleep": "30 days", "hook": {"schema": {}}, "cycle": True,
                     "persist": {"@pipe": [[True]]}},
                    "h2": {"type": "hook", "sleep": {"@pipe": [["{t1.output.data.n}", 5], ["{@math.add}"]]}},
                    "a1": {"type": "await", "topic": "order.check", "await": False,
                     "retry": {"maximum_attempts": 2}},
                    "a2": {"type": "await", "workflow": "code_workflow", "task_queue": "q"},
                    "c1": {"type": "cycle", "ancestor": "h1", "input": {"maps": {"n": 1}}},
                    "s1": {"type": "signal", "subtype": "one", "topic": "order.ok",
                     "signal": {"maps": {"id": "{$job.metadata.jid}"}},
                           "code": 202, "status": "pending"},
                    "i1": {"type": "interrupt", "topic": "order.check", "target": "{t1.output.data.x}",
                     "throw": False,
                           "reason": "late", "code": 410, "descend": True, "expire": -1},
                    "q1": {"type": "sql", "function": "public.f",
                     "input": {"maps": {"a": "{$app.settings.free}"}}},
                },
                "transitions": {
                    "t1": [{"to": "w1"}],
                    "w1": [{"to": "h1", "conditions": {"code": [200, "4**"], "gate": "or", "match": [
                        {"expected": None, "actual": "{t1.output.data.x}"},
                         {"expected": "{t1.output}", "actual": "{w1.output}"}]}},
                        {"to": "i1", "conditions": {"code": 500}}],
                    "h1": [{"to": "h2"}, {"to": "a1"}, {"to": "a2"}],
                    "a1": [{"to": "c1"}, {"to": "q1"}], "a2": [{"to": "s1"}],
                },
                "hooks": {"order.ok": [{"to": "h2", "conditions": {"match": [
                    {"expected": "{$job.metadata.jid}", "actual": "{$self.hook.data.id}"}]}}]},
            },
            {"subscribes": "order.check", "activities": {"t2": {"type": "trigger"}}, "transitions": {},
             "hooks": {}},
        ],
    }
}  # fmt: skip


def normal(db: Connection, document: Any, subscribes: str | None = None) -> Any:
    return one(db, "select hotmesh._fault_normal(%s, %s)", Jsonb(document), subscribes)


def faults(db: Connection, document: Any) -> dict[str, str]:
    rows = db.execute(
        "select path, reason from hotmesh._fault_list(hotmesh._fault_normal(%s, null))",
        [Jsonb(document)],
    ).fetchall()
    found: dict[str, str] = {}
    for path, reason in rows:
        found[path] = f"{found[path]}; {reason}" if path in found else reason
    return found


def changed(path: str, value: Any, document: dict[str, Any] = LONG) -> dict[str, Any]:
    """The document with another value at `path`; `...` takes it away."""
    found = copy.deepcopy(document)
    *steps, last = path.split("/")
    at: Any = found
    for step in steps:
        at = at[int(step) if isinstance(at, list) else step]
    if value is ...:
        del at[last]
    elif isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    return found


def test_a_sound_document_has_no_faults(db: Connection) -> None:
    assert faults(db, LONG) == {}
    assert faults(db, ORDER) == {}
    assert normal(db, LONG) == LONG


def test_a_bare_graph_becomes_a_document(db: Connection) -> None:
    graph = ORDER | {"subscribes": "", "hooks": {}}
    app = {"id": None, "version": None, "settings": {}}
    assert normal(db, ORDER) == {"app": app | {"graphs": [graph]}}
    assert normal(db, ORDER, "x") == {"app": app | {"graphs": [graph | {"subscribes": "x"}]}}
    own = ORDER | {"subscribes": "own"}
    assert normal(db, own, "x") == {"app": app | {"graphs": [graph | {"subscribes": "own"}]}}


@pytest.mark.parametrize("form", [
    {"app": {"id": "a-b", "version": "2", **ORDER, "subscribes": "s"}},
    {"app": {"id": "a-b", "version": "2", "graphs": {**ORDER, "subscribes": "s"}}},
    {"app": {"id": "a-b", "version": "2", "graphs": [{**ORDER, "subscribes": "s"}]}},
    {"id": "a-b", "version": "2", "graphs": [{**ORDER, "subscribes": "s", "hooks": None, "inputs": {},
     "outputs": 1}]},
])  # fmt: skip
def test_other_spellings_mean_the_same(db: Connection, form: Any) -> None:
    graph = ORDER | {"subscribes": "s", "hooks": {}}
    assert normal(db, form) == {"app": {"id": "a-b", "version": "2", "graphs": [graph]}}
    assert faults(db, form) == {}


def test_short_transitions_and_types_are_spelled_out(db: Connection) -> None:
    activities = {"t": {"type": "trigger"}, "a": {"type": "activity"}, "b": {"type": "hook"}}
    document = {"activities": activities, "transitions": {"t": "a", "a": ["b"], "b": None}}
    graph = normal(db, document)["app"]["graphs"][0]
    assert graph["transitions"] == {"t": [{"to": "a"}], "a": [{"to": "b"}]}
    assert graph["activities"]["a"] == {"type": "hook"}
    assert faults(db, document) == {}


A = "app/graphs/0/activities/"
T = "app/graphs/0/transitions/"


@pytest.mark.parametrize(
    ("path", "value", "at", "reason"),
    [
        ("app/version", 1.1, "app.version", "put it in quotes"),
        ("app/version", 1, "app.version", "put it in quotes"),
        ("app/version", "1.2.3", "app.version", "a number in quotes"),
        ("app/version", "v1", "app.version", "a number in quotes"),
        ("app/version", ..., "app.version", "missing"),
        ("app/id", ..., "app.id", "missing"), ("app/id", "a b", "app.id", "the name of an app"),
        ("app/id", "x'; drop", "app.id", "the name of an app"),
        ("app/id", True, "app.id", "the name of an app"),
        ("app/vresion", "1", "app.vresion", "near to it: version"),
        ("apps", {}, "apps", "near to it: app"),
        ("app", [], "app", "an object"), ("app/graphs", [], "app.graphs", "a list of graphs"),
        ("app/graphs/1", "x", "app.graphs[1]", "an object"),
        ("app/graphs/1/subscribes", ..., "app.graphs[1].subscribes", "missing"),
        ("app/graphs/1/subscribes", 5, "app.graphs[1].subscribes", "a text"),
        ("app/graphs/1/subscribes", "a\nb", "app.graphs[1].subscribes", "on one line"),
        ("app/graphs/1/subscribes", " a", "app.graphs[1].subscribes", "not padded"),
        ("app/graphs/1/subscribes", "order.new", "app.graphs[1].subscribes", "app.graphs[0] subscribes"),
        ("app/graphs/1/activites", {}, "app.graphs[1].activites", "near to it: activities"),
        ("app/graphs/1/activities", {}, "app.graphs[1].activities", "an object of activities"),
        ("app/graphs/1/activities", ..., "app.graphs[1].activities", "missing"),
        ("app/graphs/1/activities/w1",
         {"type": "trigger"}, "app.graphs[1].activities.w1", "app.graphs[0] has"),
        ("app/graphs/1/activities/x", {"type": "trigger"}, "app.graphs[1].activities", "these are 2: t2, x"),
        (A + "t1/type", "hook", "app.graphs[0].activities", "this one has none"),
        (A + "a.b", {"type": "hook"}, "app.graphs[0].activities.a.b", "an id is letters"),
        (A + "x" * 101, {"type": "hook"}, "app.graphs[0].activities." + "x" * 60, "an id is letters"),
        (A + "alone", {"type": "hook"}, "app.graphs[0].activities.alone", "no transition leads here"),
        (A + "h1", "hook", "app.graphs[0].activities.h1", "an object"),
        (A + "h1/type", ..., "app.graphs[0].activities.h1.type", "missing"),
        (A + "h1/type", "hok", "app.graphs[0].activities.h1.type", "near to it: hook"),
        (A + "h1/slep", 1, "app.graphs[0].activities.h1.slep", "near to it: sleep"),
        (A + "h1/sleep", "tomorrow", "app.graphs[0].activities.h1.sleep", "30 days"),
        (A + "h1/sleep", "999999 years", "app.graphs[0].activities.h1.sleep", "30 days"),
        (A + "h1/sleep", -1, "app.graphs[0].activities.h1.sleep", "30 days"),
        (A + "h1/sleep", "{t1.output.dat.x}", "app.graphs[0].activities.h1.sleep", "finds nothing"),
        (A + "h1/emit", "true", "app.graphs[0].activities.h1.emit", "true, false or a @pipe"),
        (A + "h1/input", [], "app.graphs[0].activities.h1.input", "schema and maps"),
        (A + "h1/input", {"map": {}}, "app.graphs[0].activities.h1.input.map", "schema and maps"),
        (A + "h1/input", {"maps": "x"}, "app.graphs[0].activities.h1.input.maps", "an object of fields"),
        (A + "h1/input", {"maps": {"a": {"b": ["{zz.output}"]}}},
         "app.graphs[0].activities.h1.input.maps.a.b[0]", "zz, which is not in this graph"),
        (A + "h1/input",
         {"maps": {"a": "{t2.output.data}"}}, "app.graphs[0].activities.h1.input.maps.a", "t2"),
        (A + "h1/job", {"maps": {"a": {"@pipe": [[1], ["{@math.plus}"]]}}},
         "app.graphs[0].activities.h1.job.maps.a.@pipe[1][0]", "there is no function {@math.plus}"),
        (A + "h1/job",
         {"maps": {"a": {"@pipe": []}}}, "app.graphs[0].activities.h1.job.maps.a.@pipe", "list of rows"),
        (A + "h1/job",
         {"maps": {"a": "{$app.settings.nope}"}}, "app.graphs[0].activities.h1.job.maps.a", "finds nothing"),
        (A + "h1/retry", {"500": 3}, "app.graphs[0].activities.h1.retry", '{"500": [3]}'),
        (A + "h1/retry", {"500": ["x"]}, "app.graphs[0].activities.h1.retry", '{"500": [3]}'),
        (A + "h1/retry", 3, "app.graphs[0].activities.h1.retry", '{"500": [3]}'),
        (A + "h1/retry", {"maximumAttempts": 3}, "app.graphs[0].activities.h1.retry.maximumAttempts",
         "near to it: maximum_attempts"),
        (A + "h1/retry",
         {"maximum_attempts": 0}, "app.graphs[0].activities.h1.retry.maximum_attempts", "a whole number"),
        (A + "h1/retry",
         {"initial_interval": "x"}, "app.graphs[0].activities.h1.retry.initial_interval", "seconds"),
        (A + "h1/statusThreshold", "x", "app.graphs[0].activities.h1.statusThreshold", "a number"),
        (A + "w1/topic", ..., "app.graphs[0].activities.w1.topic", "missing"),
        (A + "w1/topic", "", "app.graphs[0].activities.w1.topic", "a text"),
        (A + "w1/topic", 5, "app.graphs[0].activities.w1.topic", "a text"),
        (A + "a1/topic", "order.chekc", "app.graphs[0].activities.a1.topic", "near to it: order.check"),
        (A + "a2/workflow", ..., "app.graphs[0].activities.a2.topic", "missing"),
        (A + "i1/topic", "nope", "app.graphs[0].activities.i1.topic",
         "no graph of the document subscribes to nope"),
        (A + "s1/topic", "nope", "app.graphs[0].activities.s1.topic", "near to it: order.ok"),
        (A + "s1/subtype", "some", "app.graphs[0].activities.s1.subtype", "one of one, all"),
        (A + "q1/function", ..., "app.graphs[0].activities.q1.function", "missing"),
        (A + "c1/ancestor", ..., "app.graphs[0].activities.c1.ancestor", "missing"),
        (A + "c1/ancestor", "h9", "app.graphs[0].activities.c1.ancestor", "there is no activity h9"),
        (A + "c1/ancestor", "a2", "app.graphs[0].activities.c1.ancestor", "no transitions lead from it"),
        (A + "c1/ancestor", "c1", "app.graphs[0].activities.c1.ancestor", "no transitions lead from it"),
        (A + "c1/ancestor", "t1", "app.graphs[0].activities.c1.ancestor", "to the trigger"),
        (A + "t1/stats/granularity", "2m", "app.graphs[0].activities.t1.stats.granularity", "5m, 10m"),
        (A + "t1/stats/measures/0/measure", "cnt", "app.graphs[0].activities.t1.stats.measures[0].measure",
         "one of count"),
        (A + "t1/stats/kay", "x", "app.graphs[0].activities.t1.stats.kay", "near to it: key"),
        (T + "h9", [{"to": "h1"}], "app.graphs[0].transitions.h9", "there is no activity h9"),
        (T + "h2", [{"to": "h9"}], "app.graphs[0].transitions.h2[0].to",
         "no activity h9 in this graph; near to it: h1"),
        (T + "h2", [{"tp": "h1"}], "app.graphs[0].transitions.h2[0].tp", "near to it: to"),
        (T + "h2", 5, "app.graphs[0].transitions.h2", "a list"),
        (T + "h2", [5], "app.graphs[0].transitions.h2[0]", "an object"),
        (T + "h2", [{"to": "w1"}], "app.graphs[0].transitions", "lead back: h1, h2, w1"),
        (T + "h2", [{"to": "h2"}], "app.graphs[0].transitions", "lead back: h2"),
        (T + "h2", [{"to": "t1"}], "app.graphs[0].transitions.h2[0].to", "where the graph begins"),
        (T + "c1", [{"to": "i1"}], "app.graphs[0].transitions.c1", "a cycle goes on at its ancestor"),
        (T + "t1/0/conditions",
         {"gate": "xor"}, "app.graphs[0].transitions.t1[0].conditions.gate", "one of and, or"),
        (T + "t1/0/conditions",
         {"code": "x"}, "app.graphs[0].transitions.t1[0].conditions.code", "a code such as"),
        (T + "t1/0/conditions",
         {"code": [1.5]}, "app.graphs[0].transitions.t1[0].conditions.code", "a code such as"),
        (T + "t1/0/conditions",
         {"code": []}, "app.graphs[0].transitions.t1[0].conditions.code", "a code such as"),
        (T + "t1/0/conditions",
         {"matches": []}, "app.graphs[0].transitions.t1[0].conditions.matches", "near to it: match"),
        (T + "t1/0/conditions",
         {"match": {}}, "app.graphs[0].transitions.t1[0].conditions.match", "a list of objects"),
        (T + "t1/0/conditions", {"match": [{"expected": 1}]},
         "app.graphs[0].transitions.t1[0].conditions.match[0].actual", "missing"),
        (T + "t1/0/conditions", {"match": [{"expected": 1, "actual": "{$x}"}]},
         "app.graphs[0].transitions.t1[0].conditions.match[0].actual", "there is no {$x}"),
        ("app/graphs/0/hooks/order.ok/0/to", "w1", "app.graphs[0].hooks.order.ok[0].to", "of type worker"),
        ("app/graphs/0/hooks/order.ok/0/to", "h9", "app.graphs[0].hooks.order.ok[0].to",
         "there is no activity"),
        ("app/graphs/0/hooks/order.ok/0/conditions", ..., "app.graphs[0].hooks.order.ok[0].conditions",
         "missing"),
        ("app/graphs/0/hooks", [], "app.graphs[0].hooks", "an object of lists"),
        ("app/graphs/0/expire", "soon", "app.graphs[0].expire", "-1 for ever"),
        ("app/graphs/0/persistent", "yes", "app.graphs[0].persistent", "true, false"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(
    db: Connection, path: str, value: Any, at: str, reason: str
) -> None:
    found = faults(db, changed(path, value))
    assert at in found
    assert reason in found[at]
    assert len(found[at]) < 300


@pytest.mark.parametrize("document", [
    None, 5, "x", [], [{}], {}, {"app": None}, {"app": 1}, {"app": {"graphs": 1}},
     {"app": {"graphs": [None, 1, "x", []]}},
    {"app": {"graphs": {}}}, {"activities": 1}, {"activities": []},
     {"activities": {"a": None, "b": 1, "c": []}},
    {"activities": {"t": {"type": 5}}},
     {"activities": {"t": {"type": "trigger"}}, "transitions": 5, "hooks": "x"},
    {"activities": {"t": {"type": "trigger"}}, "transitions": {"t": [1, None, {"to": 5},
     {"to": None}, [[]]]}},
    {"activities": {"t": {"type": "trigger", "stats": 5}}},
     {"activities": {"t": {"type": "trigger", "stats": {"measures": 5}}}},
    {"activities": {"t": {"type": "trigger", "input": {"maps": {"@pipe": {"@reduce": 1}}}}}},
    {"activities": {"t": {"type": "trigger", "input": {"maps": {"@reduce": []}}}}},
    {"activities": {"t": {"type": "trigger"}, "c": {"type": "cycle", "ancestor": 5}}},
    {"activities": {"": {"type": "trigger"}}}, {"graphs": 5}, {"app": {"activities": 5}},
])  # fmt: skip
def test_whatever_comes_is_refused_not_broken(db: Connection, document: Any) -> None:
    assert faults(db, document)


def test_all_faults_come_at_once(db: Connection) -> None:
    document = changed("app/version", 2)
    document = changed(A + "w1/topic", ..., document)
    document = changed(A + "h1/slep", "{nope}", document)
    document = changed(T + "h2", [{"to": "nope"}], document)
    assert list(faults(db, document)) == [
        "app.graphs[0].activities.h1.slep", "app.graphs[0].activities.w1.topic",
        "app.graphs[0].transitions.h2[0].to", "app.version",
    ]  # fmt: skip


def test_what_is_too_large_or_too_deep_is_refused_quickly(db: Connection) -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = {"a": deep}
    before = time.monotonic()
    assert faults(db, changed("app/settings", deep)) == {"": "it is nested more than 64 deep"}
    assert "4000000" in faults(db, changed("app/settings", "x" * 4_000_001))[""]
    many = {f"h{n}": {"type": "hook"} for n in range(1000)}
    assert "more than 500" in faults(db, {"activities": many})["app.graphs[0].activities"]
    assert time.monotonic() - before < 20


def test_a_large_document_is_read_in_seconds(db: Connection) -> None:
    activities: dict[str, Any] = {"t": {"type": "trigger"}}
    for n in range(300):
        maps = {"x": "{t.output.data.x}", "y": {"@pipe": [[1, n], ["{@math.add}"]]}}
        activities[f"h{n}"] = {"type": "hook", "job": {"maps": maps}}
    transitions = {"t": [{"to": "h0"}]} | {f"h{n}": [{"to": f"h{n + 1}"}] for n in range(299)}
    before = time.monotonic()
    assert faults(db, {"activities": activities, "transitions": transitions}) == {}
    assert time.monotonic() - before < 20


def test_hostile_names_are_only_told(db: Connection) -> None:
    hostile = "'; drop table jobs; --$$\\"
    document = changed(A + hostile, {"type": hostile, hostile: 1})
    found = faults(db, document)
    assert f"app.graphs[0].activities.{hostile}" in found
    assert f"app.graphs[0].activities.{hostile}.type" in found


def test_what_is_null_is_as_if_it_were_not_there(db: Connection) -> None:
    document = {
        "activities": {"t": {"type": "trigger", "stats": {"id": None}, "emit": None},
                       "h": {"type": "hook", "sleep": None, "input": {"maps": None, "schema": {}},
                             "job": None}},
        "transitions": {"t": [{"to": "h", "conditions": None}], "h": None}, "hooks": None, "expire": None,
    }  # fmt: skip
    assert normal(db, document)["app"]["graphs"] == [{
        "subscribes": "", "activities": {"t": {"type": "trigger", "stats": {}},
                                         "h": {"type": "hook", "input": {"schema": {}}}},
        "transitions": {"t": [{"to": "h"}]}, "hooks": {},
    }]  # fmt: skip
    assert faults(db, document) == {}


JUNK = [
    None, 0, -1, 1.5, True, "", "x", "{t1.output.data.x}", "{nope.x}", "{@math.add}", "{}", [], {},
    [[]], [None], {"@pipe": []}, {"@pipe": [[1, 2], ["{@math.add}"]]}, {"maps": {}}, "'; drop", "\u0001",
    "30 days", "1 fortnight", {"to": "h1"}, [{"to": "h1"}], "h1", "hook", {"type": "hook"},
    {"type": "trigger"}, "4**", "4(", "*)", 99999999999,
    {"match": [{"expected": 1, "actual": 1}]},
]  # fmt: skip


def places(value: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if steps:
        yield steps
    for step, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            yield from places(item, (*steps, step))
        else:
            yield (*steps, step)


def damaged(source: random.Random) -> dict[str, Any]:
    """The long document with something else in one, two or three places."""
    found = changed("app/id", "my-app")
    found = changed(A + "q1", {"type": "hook"}, found)
    for _ in range(source.randint(1, 3)):
        *steps, last = source.choice(list(places(found)))
        at: Any = found
        for step in steps:
            at = at[step]
        if source.random() < 0.3:
            del at[last]
        else:
            at[last] = copy.deepcopy(source.choice(JUNK))
    return found


def test_what_has_no_faults_can_be_deployed(db: Connection) -> None:
    source = random.Random(int(os.environ.get("HOTMESH_FAULT_SEED", "1")))
    sound = 0
    for _ in range(int(os.environ.get("HOTMESH_FAULT_DOCUMENTS", "60"))):
        document = damaged(source)
        if not faults(db, document):
            sound += 1
            with db.transaction(force_rollback=True):
                db.execute("select hotmesh.graph_deploy('my-app', %s)", [Jsonb(document)])
    assert sound
