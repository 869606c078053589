"""Graphs under hostile input at run time: one job fails, and says where; all others go on."""

from __future__ import annotations

import itertools
import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import messages, one

WEIRD = """a'b"c\\d$$e$x$f{g}%s ünï😀"""


@pytest.fixture
def graphs(db: Connection) -> Graphs:
    return Graphs(db)


ASKS = """
subscribes: asks
activities:
  t: {type: trigger}
  w: {type: worker, topic: work, job: {maps: {seen: '{w.output.data}'}}}
  bad: {type: hook, job: {maps: {bad: '{w.output.data.message}'}}}
transitions:
  t: [{to: w}]
  w: [{to: bad, conditions: {code: 598}}]
"""


def raw(graphs: Graphs, task: Any, output: str | None) -> str:
    """Answer with this very JSON."""
    return str(
        one(graphs.connection, "select hotmesh.stream_complete('my-app', %s, %s, %s)",
            task.id, task.token, output)
    )  # fmt: skip


def two(graphs: Graphs, topic: str, work: str = "work") -> tuple[str, Any, str, Any]:
    """Two jobs of a topic, each with its task."""
    keys = [graphs.pub(topic, key=f"{topic}-{n}") for n in range(2)]
    tasks = {task.key: task for task in graphs.claim(work)}
    return keys[0], tasks[keys[0]], keys[1], tasks[keys[1]]


@pytest.mark.parametrize(
    ("output", "data"),
    [
        (None, None), ("null", None), ("5", 5), ('"x"', "x"), ("[1, null]", [1, None]),
        ("true", True), ("{}", {}), ('{"data": null}', None), ('{"a": {"data": 1}}', {"a": {"data": 1}}),
        (json.dumps("x" * 1_000_000), "x" * 1_000_000),
        (json.dumps({WEIRD: WEIRD}), {WEIRD: WEIRD}),
        ("[" * 900 + "]" * 900, json.loads("[" * 900 + "]" * 900)),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_whatever_a_worker_answers_is_data(graphs: Graphs, output: str | None, data: Any) -> None:
    graphs.deploy(ASKS)
    key = graphs.pub("asks")
    [task] = graphs.claim("work")
    assert raw(graphs, task, output) == "ok"
    assert graphs.state(key).status == 0
    assert graphs.state(key).data.get("seen") == data


@pytest.mark.parametrize("code", ['"abc"', "99999999999", "200.5", "[200]", "{}", "true", '"1e2"'])
def test_a_code_that_is_none_is_an_error_of_its_worker(graphs: Graphs, code: str) -> None:
    graphs.deploy(ASKS)
    bad, bad_task, good, good_task = two(graphs, "asks")
    assert raw(graphs, bad_task, f'{{"code": {code}, "data": {{"n": 1}}}}') == "ok"
    assert graphs.state(bad).status == 0
    assert "code" in graphs.state(bad).data["bad"]
    assert raw(graphs, good_task, '{"code": 200, "data": 1}') == "ok"
    assert graphs.state(good) == (0, {"seen": 1}, None)


@pytest.mark.parametrize(
    "rest", ['"code": -1', '"code": "201"', '"code": null', '"status": 42', '"status": null',
             '"status": ["error"]', '"status": {"a": 1}', '"status": "sucess", "code": 0']
)  # fmt: skip
def test_an_odd_status_or_code_is_a_success(graphs: Graphs, rest: str) -> None:
    graphs.deploy(ASKS)
    key = graphs.pub("asks")
    [task] = graphs.claim("work")
    assert raw(graphs, task, f'{{{rest}, "data": 7}}') == "ok"
    assert graphs.state(key) == (0, {"seen": 7}, None)


@pytest.mark.parametrize(
    "response",
    [
        "null",
        "[]",
        "5",
        "{}",
        '{"metadata": 5}',
        '{"metadata": {"jid": 1, "aid": [], "dad": null}}',
    ],
)
def test_a_later_answer_to_no_task_is_refused(graphs: Graphs, response: str) -> None:
    graphs.deploy(ASKS)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="metadata of its task"):
        graphs.connection.execute("select hotmesh.graph_add('my-app', %s)", [response])


def test_a_later_answer_to_nobody_is_stale(graphs: Graphs) -> None:
    graphs.deploy(ASKS)
    response = '{"metadata": {"jid": "gone", "aid": "a", "dad": ",0"}}'
    assert one(graphs.connection, "select hotmesh.graph_add('my-app', %s)", response) == "stale"


@pytest.mark.parametrize(
    ("rest", "status"), [({"code": "abc"}, 0), ({"data": None}, 0), ({}, 0), ({"status": 3}, 0)]
)
def test_a_later_answer_may_be_odd(graphs: Graphs, rest: dict[str, Any], status: int) -> None:
    graphs.deploy(ASKS)
    key = graphs.pub("asks")
    metadata = graphs.work("work", code=202).args[0]["metadata"]
    body = Jsonb({"metadata": metadata} | rest)
    assert one(graphs.connection, "select hotmesh.graph_add('my-app', %s)", body) == "ok"
    graphs.turn()
    assert graphs.state(key).status == status


def test_nul_is_refused(graphs: Graphs) -> None:
    graphs.deploy(ASKS)
    key = graphs.pub("asks")
    [task] = graphs.claim("work")
    for call in (
        lambda: raw(graphs, task, '{"data": "a\\u0000"}'),
        lambda: graphs.pub("asks", {"a": "\x00"}),
        lambda: graphs.pub("asks", {}, key="\x00"),
    ):
        with pytest.raises(psycopg.DataError):
            call()
    assert raw(graphs, task, "1") == "ok"
    assert graphs.state(key).status == 0


# --- what fails at run time -----------------------------------------------------------------------

BREAKS = """
subscribes: breaks
activities:
  t: {type: trigger}
  w: {type: worker, topic: work}
  h: {type: hook}
  %s
hooks: {poke: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}', actual:
      '{$self.hook.data.id}'}]}}]}
transitions:
  t: [{to: w}, {to: h}]
  w: [{to: x%s}]
"""
SPLIT = "{'@pipe': [['{w.output.data.o}'], ['{@string.split}']]}"
LONG = "{'@pipe': [['x', 100000], ['{@string.repeat}']]}"


@pytest.mark.parametrize(
    ("activity", "conditions", "place"),
    [
        ("x: {type: hook}", f", conditions: {{match: [{{expected: 1, actual: {SPLIT}}}]}}",
         "transitions.w[0].conditions"),
        (f"x: {{type: hook, job: {{maps: {{y: {SPLIT}}}}}}}", "", "activities.x.job.maps"),
        (f"x: {{type: hook, sleep: {SPLIT}}}", "", "activities.x"),
        ("x: {type: hook, sleep: '{w.output.data.s}'}", "", "activity x"),
        ("x: {type: hook, sleep: '{w.output.data.huge}'}", "", "activity x"),
        ("x: {type: worker, topic: '{w.output.data.none}'}", "", "activity x"),
        ("x: {type: worker, topic: '{w.output.data.long}'}", "", "activity x"),
        ("x: {type: await, topic: '{w.output.data.none}'}", "", "no graph answers"),
        ("x: {type: await, topic: '{w.output.data.s}'}", "", "no graph answers"),
        ("x: {type: signal, subtype: one, topic: '{w.output.data.s}', signal: {maps: {id: 1}}}",
         "", "activity x"),
        ("x: {type: signal, subtype: one, topic: poke, code: '{w.output.data.s}',"
         " signal: {maps: {id: 1}}}", "", "activity x"),
        ("x: {type: interrupt, code: '{w.output.data.s}'}", "", "activity x"),
        ("x: {type: interrupt, target: '{w.output.data.job}', code: '{w.output.data.s}'}", "",
         "activity x"),
        ("x: {type: hook, emit: '{w.output.data.o}', job: {maps: {'a[9]': '{w.output.data.o}'}}}",
         "", None),
        ("x: {type: hook, statusThreshold: '{w.output.data.s}'}", "", "activities.x.statusThreshold"),
    ],
)  # fmt: skip
def test_what_fails_at_run_time_fails_its_job_only(
    graphs: Graphs, db: Connection, activity: str, conditions: str, place: str | None
) -> None:
    graphs.deploy(BREAKS % (activity, conditions))
    graphs.deploy(ASKS)
    bad, bad_task, other, other_task = two(graphs, "breaks")
    for task in (bad_task, other_task):
        assert graphs.claim("work") == []
        hostile = {"o": {}, "s": "no time", "huge": 1e300, "long": "x" * 5000, "job": other}
        data = hostile if task is bad_task else {"o": "a", "s": "1", "huge": 1, "long": "ok",
                                                 "none": "kid", "job": bad}  # fmt: skip
        assert graphs.answer(task, data) == "ok"
    graphs.turn()
    state = graphs.state(bad)
    if place is not None:
        assert state.status < 0, state
        assert state.error["activity"] == ("w" if conditions else "x")
        assert place in state.error["message"] or place in str(state.error.get("expression"))
    assert one(db, "select count(*) from my_app.streams where kind = 'event'") == 0
    good = graphs.pub("asks")
    graphs.work("work", {"n": 1})
    assert graphs.state(good).status == 0
    if graphs.state(other).status > 0:
        graphs.signal("poke", {"id": other})
        assert ("h", ",0,0", "done") in graphs.steps(other)


NAMED = """
subscribes: named
activities:
  t: {type: trigger, job: {maps: {n: 1}}}
  w: {type: worker, topic: named.w, input: {maps: {o: '{t.output.data.o}'}}%s}
  h: {type: %s}
hooks: {named.in: [%s]}
transitions: {t: [{to: w}], w: [{to: h%s}]}
"""
LATER = "{to: h, conditions: {match: [{expected: 1, actual: 1}]}}"
TIMES = "{'@pipe': [['{w.output.data.list}'], ['{@array.length}'], ['{@string.split}']]}"
SHOUT = "{'@pipe': [['{$self.input.data.o}', 3], ['{@string.split}']]}"
SUMS = """{'@pipe': [['{w.output.data.list}', 0], {'@reduce': [['{$output}', '{$item}'],
    ['{@string.split}']]}]}"""


@pytest.mark.parametrize(
    ("worker", "after", "rule", "edge", "place", "expression"),
    [
        (f", output: {{maps: {{fine: 1, deep: {{er: {SPLIT}}}}}}}", "hook", "", "",
         "activities.w.output.maps.deep.er.@pipe[1]", "{w.output.data.o}"),
        (f", job: {{maps: {{ok: '{{t.output.data.o}}', 'x[1]': {SPLIT}}}}}", "hook", "", "",
         "activities.w.job.maps.x[1].@pipe[1]", "{w.output.data.o}"),
        (f", output: {{maps: {{o: {{}}, list: [1]}}}}, job: {{maps: {{x: {SPLIT}}}}}", "hook", "", "",
         "activities.w.job.maps.x.@pipe[1]", "{w.output.data.o}"),
        ("", f"hook, job: {{maps: {{a: 1, z: {TIMES}}}}}", "", "",
         "activities.h.job.maps.z.@pipe[2]", "{@array.length}"),
        ("", f"hook, job: {{maps: {{z: {SUMS}}}}}", "", "",
         "activities.h.job.maps.z.@pipe[1]", "@reduce"),
        ("", f"hook, sleep: {SPLIT}", "", "", "activities.h.sleep.@pipe[1]", "{w.output.data.o}"),
        ("", f"worker, topic: {SHOUT}, input: {{maps: {{o: '{{w.output.data.o}}'}}}}", "", "",
         "activities.h.topic.@pipe[1]", "{$self.input.data.o}"),
        ("", f"worker, topic: v, input: {{maps: {{deep: {{o: {SPLIT}}}}}}}", "", "",
         "activities.h.input.maps.deep.o.@pipe[1]", "{w.output.data.o}"),
        ("", f"signal, subtype: one, topic: '{{t.output.data.x}}', signal: {{maps: {{o: {SPLIT}}}}}", "", "",
         "activities.h.signal.maps.o.@pipe[1]", "{w.output.data.o}"),
        ("", "hook", f"{{to: h, conditions: {{match: [{{expected: {SPLIT}, actual: 1}}]}}}}", "",
         "hooks.named.in[0].conditions.match[0].expected.@pipe[1]", "{w.output.data.o}"),
        ("", "hook", LATER,
         f", conditions: {{match: [{{expected: 1, actual: 1}}, {{expected: 2, actual: {SPLIT}}}]}}",
         "transitions.w[0].conditions.match[1].actual.@pipe[1]", "{w.output.data.o}"),
        (f", emit: {SPLIT}", "hook", "", "", "activities.w.emit.@pipe[1]", "{w.output.data.o}"),
        (", emit: {'@pipe': [['{$job.data.o}'], ['{@string.split}']]}, job: {maps: {o:"
         " '{w.output.data.o}'}}", "hook", "", "", "activities.w.emit.@pipe[1]", "{$job.data.o}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("swift", [True, False])
def test_a_failure_names_its_place_and_its_expression(
    graphs: Graphs, worker: str, after: str, rule: str, edge: str, place: str, expression: str,
    swift: bool,
) -> None:  # fmt: skip
    graphs.deploy((NAMED % (worker, after, rule, edge)).replace("hooks: {named.in: []}\n", ""))
    key = graphs.pub("named", {"o": {}})
    [task] = graphs.claim("named.w")
    graphs.answer(task, {"o": {}, "list": [1, 2]}, **({} if swift else {"code": 200}))
    error = graphs.state(key).error
    assert error is not None
    assert error["expression"] == place
    assert error["message"].startswith(f"{place}: ")
    assert error["activity"] == ("h" if ".h." in place or place.startswith("hooks") else "w")
    assert expression in error["detail"]


def test_a_job_that_fails_in_a_turn_does_not_hold_up_others(
    graphs: Graphs, db: Connection, clock: Clock
) -> None:
    """Their events are taken in one turn; one can't be gone on with."""
    graphs.deploy("""
subscribes: later
activities:
  t: {type: trigger}
  s: {type: hook, sleep: 10}
  x: {type: worker, topic: '{t.output.data.topic}'}
transitions: {t: [{to: s}], s: [{to: x}]}
""")
    topics = ["fine", None, "x" * 5000, "fine", ""]
    keys = [graphs.pub("later", {"topic": topic} if topic is not None else {}) for topic in topics]
    clock.advance("11 s")
    graphs.turn()
    status = [graphs.state(key).status for key in keys]
    assert [each > 0 for each in status] == [True, False, False, True, False]
    assert messages(db, "kind", "name") == [("activity", "fine")] * 2


def test_what_was_sent_before_a_failure_was_sent(graphs: Graphs, db: Connection) -> None:
    graphs.deploy("""
subscribes: first
activities:
  t: {type: trigger}
  s: {type: signal, subtype: one, topic: first.in, signal: {maps: {id: 1}}}
  x: {type: hook, job: {maps: {y: {'@pipe': [['{t.output.data}'], ['{@string.split}']]}}}}
  h: {type: hook}
hooks: {first.in: [{to: h, conditions: {match: [{expected: 1, actual: '{$self.hook.data.id}'}]}}]}
transitions: {t: [{to: s}], s: [{to: x, conditions: {code: 200}}, {to: h, conditions: {code: 5}}]}
""")
    assert graphs.run("first").status < 0
    assert one(db, "select count(*) from my_app.signals where kind = 'signal'") == 1


def test_a_rule_that_fails_is_told_to_who_sends(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: ruled
activities: {t: {type: trigger}, h: {type: hook}}
transitions: {t: [{to: h}]}
hooks: {ruled.in: [{to: h, conditions: {match: [{expected: x, actual: {'@pipe': [
        ['{$self.hook.data.id}'], ['{@string.split}']]}}]}}]}
""")
    key = graphs.pub("ruled")
    with pytest.raises(psycopg.DatabaseError) as caught:
        graphs.signal("ruled.in", {"id": {}})
    place = "hooks.ruled.in[0].conditions.match[0].actual.@pipe[1]: "
    assert caught.value.diag.message_primary.startswith(place)
    assert graphs.state(key).status == 1


def test_a_trigger_that_fails_is_told_to_who_publishes(graphs: Graphs, db: Connection) -> None:
    graphs.deploy("""
subscribes: keyed
activities:
  t: {type: trigger, stats: {id: {'@pipe': [['{$self.input.data.o}', 3], ['{@string.split}']]}}}
""")
    with pytest.raises(psycopg.DataError) as caught:
        graphs.pub("keyed", {"o": {}})
    assert caught.value.diag.message_primary.startswith("activities.t.stats.id.@pipe[1]: ")
    assert "{$self.input.data.o}" in caught.value.diag.message_detail
    assert one(db, "select count(*) from my_app.jobs") == 0


@pytest.mark.parametrize("data", [None, "null", "5", "[]", '"x"'])
def test_a_signal_without_the_field_of_its_rule_is_refused(
    graphs: Graphs, db: Connection, data: str | None
) -> None:
    graphs.deploy(BREAKS % ("x: {type: hook}", ""))
    graphs.pub("breaks")
    with pytest.raises(psycopg.DatabaseError, match='"poke" lacks the field "id"') as caught:
        one(db, "select hotmesh.graph_signal('my-app', 'poke', %s)", data)
    assert caught.value.sqlstate == "22023"
    assert one(db, "select count(*) from my_app.signals where kind = 'signal'") == 0


def test_an_activity_that_signals_without_the_field_fails_its_job(graphs: Graphs) -> None:
    signal = "{type: signal, subtype: one, topic: poke, signal: {maps: {other: 1}}}"
    graphs.deploy(BREAKS % (f"x: {signal}", ""))
    key = graphs.pub("breaks")
    graphs.work("work")
    assert graphs.state(key).error["message"] == (
        'activity x: a signal of topic "poke" lacks the field "id"'
    )


@pytest.mark.parametrize("data", ["null", "5", "[]", '[{"a": 1}]', '"x"', "true"])
def test_the_data_of_a_job_is_an_object(graphs: Graphs, db: Connection, data: str) -> None:
    graphs.deploy(ASKS)
    with pytest.raises(psycopg.DataError, match="the data of a job is no object") as caught:
        one(db, "select hotmesh.graph_pub('my-app', 'asks', %s::jsonb)", data)
    assert caught.value.diag.message_hint is not None
    one(db, "select hotmesh.graph_pub('my-app', 'asks', null)")
    assert graphs.work("work").args[0]["data"] == {}


# --- size, names ----------------------------------------------------------------------------------


def test_many_branches_of_one_job(graphs: Graphs, db: Connection) -> None:
    ids = [f"b{n}" for n in range(499)]
    graphs.deploy(json.dumps({
        "subscribes": "wide",
        "activities": {"t": {"type": "trigger"}} | {
            id: {"type": "hook"} if n % 10 else {"type": "worker", "topic": "wide"}
            for n, id in enumerate(ids)},
        "transitions": {"t": [{"to": id} for id in ids]},
    }))  # fmt: skip
    key = graphs.pub("wide")
    for _ in range(10):
        graphs.turn()
    assert graphs.state(key).status == 50
    for task in graphs.claim("wide", 200):
        assert graphs.answer(task) == "ok"
    assert graphs.state(key) == (0, {}, None)
    assert len(graphs.steps(key)) == 500
    assert messages(db) == []


def test_many_instances_of_one_activity(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(json.dumps({
        "subscribes": "many",
        "activities": {"t": {"type": "trigger"}, "w": {"type": "worker", "topic": "many"}} | {
            f"b{n}": {"type": "hook"} for n in range(120)},
        "transitions": {"t": [{"to": f"b{n}"} for n in range(120)]} | {
            f"b{n}": [{"to": "w"}] for n in range(120)},
    }))  # fmt: skip
    key = graphs.pub("many")
    for _ in range(10):
        graphs.turn()
    tasks = graphs.claim("many", 1000)
    assert len(tasks) == graphs.state(key).status == 120
    for task in tasks:
        assert graphs.answer(task) == "ok"
    assert graphs.state(key) == (0, {}, None)
    assert messages(db) == []


def test_five_hundred_activities_one_after_the_other(graphs: Graphs) -> None:
    ids = ["t", *(f"b{n}" for n in range(499))]
    activities: dict[str, Any] = {id: {"type": "hook"} for id in ids} | {"t": {"type": "trigger"}}
    activities["b498"]["job"] = {"maps": {"x": "{t.output.data.x}", "jid": "{$job.metadata.jid}"}}
    activities["b400"] = {"type": "worker", "topic": "long"}
    graphs.deploy(json.dumps({
        "subscribes": "long", "activities": activities,
        "transitions": {one: [{"to": two}] for one, two in itertools.pairwise(ids)},
    }))  # fmt: skip
    key = graphs.pub("long", {"x": 3})
    graphs.work("long")
    assert graphs.state(key) == (0, {"x": 3, "jid": key}, None)
    assert len(graphs.steps(key)) == 500


def test_names_may_hold_anything(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(json.dumps({
        "subscribes": WEIRD,
        "activities": {
            "t": {"type": "trigger"},
            "w": {"type": "worker", "topic": WEIRD, "input": {"maps": {WEIRD: "{t.output.data.x}"}},
                  "job": {"maps": {WEIRD: "{w.output.data.x}"}}},
            "h": {"type": "hook", "job": {"maps": {"h": "{h.hook.data.x}"}}},
        },
        "transitions": {"t": [{"to": "w"}, {"to": "h"}]},
        "hooks": {WEIRD: [{"to": "h", "conditions": {"match": [
            {"expected": "{$job.metadata.jid}", "actual": "{$self.hook.data.id}"}]}}]},
    }))  # fmt: skip
    key = graphs.pub(WEIRD, {"x": WEIRD}, key=WEIRD)
    assert key == WEIRD
    task = graphs.work(WEIRD, {"x": WEIRD})
    assert task.args[0]["data"] == {WEIRD: WEIRD}
    assert task.args[0]["metadata"]["jid"] == WEIRD
    graphs.signal(WEIRD, {"id": WEIRD, "x": WEIRD})
    assert graphs.state(key) == (0, {WEIRD: WEIRD, "h": WEIRD}, None)
