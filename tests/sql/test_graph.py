"""Graphs: what is deployed, and how jobs go through it."""

from __future__ import annotations

import json

import psycopg
import pytest
import yaml
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import messages, one

LONE = "subscribes: lone\nactivities: {t: {type: trigger}}"


def test_a_lone_trigger_is_done_at_once(graphs: Graphs) -> None:
    graphs.deploy(LONE)
    assert graphs.run("lone", {"a": 1}) == (0, {}, None)


def test_mappings_reach_the_data_of_the_job(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: sums
activities:
  t: {type: trigger, stats: {id: '{$self.output.data.id}'}}
  a: {type: hook, job: {maps: {x: '{t.output.data.v}', y: {'@pipe': [['{t.output.data.v}', 2],
        ['{@math.multiply}']]}}}}
  b: {type: hook, output: {maps: {z: '{$job.data.y}'}}, job: {maps: {deep:
        {z: '{b.output.data.z}'}}}}
  c: {type: hook, job: {maps: {deep: {jid: '{$job.metadata.jid}'}}}}
transitions:
  t: [{to: a}]
  a: [{to: b}, {to: c}]
""")
    assert graphs.pub("sums", {"id": "k1", "v": 5}) == "k1"
    assert graphs.state("k1") == (0, {"x": 5, "y": 10, "deep": {"z": 10, "jid": "k1"}}, None)
    assert graphs.steps("k1") == [
        ("t", ",0", "done"), ("a", ",0,0", "done"), ("b", ",0,0,0", "done"), ("c", ",0,0,0",
              "done"),
    ]  # fmt: skip


ORDER = """
activities:
  trigger: {type: trigger}
  checkInventory: {type: worker, topic: inventory.check}
  reserveItem: {type: worker, topic: inventory.reserve}
  notifyBackorder: {type: worker, topic: inventory.backorder.notify}
transitions:
  trigger: [{to: checkInventory}]
  checkInventory:
    - to: reserveItem
      conditions:
        match:
          - expected: true
            actual: {'@pipe': [['{checkInventory.output.data.availableQty}',
                  '{trigger.output.data.requestedQty}'], ['{@conditional.gte}']]}
    - to: notifyBackorder
      conditions:
        match:
          - expected: false
            actual: {'@pipe': [['{checkInventory.output.data.availableQty}',
                  '{trigger.output.data.requestedQty}'], ['{@conditional.gte}']]}
"""


@pytest.mark.parametrize(
    ("stock", "then"), [(5, "inventory.reserve"), (4, "inventory.backorder.notify")]
)
def test_the_order_of_the_seeds_takes_the_right_way(graphs: Graphs, stock: int, then: str) -> None:
    graphs.deploy(ORDER)
    key = graphs.pub("order.requested", {"itemId": "i", "requestedQty": 5})
    task = graphs.work("inventory.check", {"availableQty": stock})
    assert task.args[0]["data"] == {"itemId": "i", "requestedQty": 5}
    assert task.args[0]["metadata"]["jid"] == key
    assert graphs.work(then).args[0]["metadata"]["aid"] in ("reserveItem", "notifyBackorder")
    assert graphs.state(key) == (0, {}, None)


def test_a_graph_awaits_a_graph_in_one_transaction(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: child
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {r: {'@pipe': [['{t.output.data.n}', 1], ['{@math.add}']]}}}}
transitions: {t: [{to: h}]}
""")
    graphs.deploy("""
subscribes: parent
activities:
  t: {type: trigger}
  a: {type: await, topic: child, input: {maps: {n: '{t.output.data.n}'}}, job: {maps:
        {r: '{a.output.data.r}'}}}
  b: {type: await, topic: child, await: false, input: {maps: {n: 0}}, job: {maps:
        {id: '{b.output.data.job_id}'}}}
transitions: {t: [{to: a}, {to: b}]}
""")
    state = graphs.run("parent", {"n": 41})
    assert (state.status, state.data["r"]) == (0, 42)
    assert graphs.state(state.data["id"]).data == {"r": 1}


@pytest.mark.parametrize("size", [1, 20_000])
def test_a_job_that_goes_on_in_memory_is_as_one_that_is_read_again(
    graphs: Graphs, size: int
) -> None:
    """Little is kept in mind between rounds, much is read again, and 30 rounds are several turns."""
    graphs.deploy("""
subscribes: child
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {r: {'@pipe': [['{t.output.data.n}', 1], ['{@math.add}']]}}}}
transitions: {t: [{to: h}]}
""")
    graphs.deploy("""
subscribes: rounds
activities:
  t: {type: trigger}
  p: {type: hook, cycle: true, output: {maps: {n: 0}}}
  a: {type: await, topic: child, input: {maps: {n: '{p.output.data.n}'}}, job: {maps:
        {n: '{a.output.data.r}', text: '{t.output.data.text}', js: '{$job.metadata.js}'}}}
  c: {type: cycle, ancestor: p, input: {maps: {n: '{a.output.data.r}'}}}
transitions:
  t: [{to: p}]
  p: [{to: a}]
  a: [{to: c, conditions: {match: [{expected: true, actual: {'@pipe': [['{a.output.data.r}', 30],
        ['{@number.lt}']]}}]}}]
""")
    key = graphs.pub("rounds", {"text": "x" * size})
    for _ in range(5):
        graphs.turn()
    assert graphs.state(key) == (0, {"n": 30, "text": "x" * size, "js": 1}, None)
    steps = graphs.steps(key)
    assert len(steps) == len(set(steps)) == 90
    assert {state for _, _, state in steps} == {"done"}


LOOP = """
subscribes: loop
activities:
  t: {type: trigger}
  p: {type: hook, cycle: true, output: {maps: {n: 0}}}
  w: {type: hook, output: {maps: {n: {'@pipe': [['{p.output.data.n}', 1], ['{@math.add}']]}}},
        job: {maps: {n: '{w.output.data.n}'}}}
  c: {type: cycle, ancestor: p, input: {maps: {n: '{w.output.data.n}'}}}
transitions:
  t: [{to: p}]
  p: [{to: w}]
  w: [{to: c, conditions: {match: [{expected: true, actual: {'@pipe': [['{w.output.data.n}',
        '{t.output.data.most}'], ['{@number.lt}']]}}]}}]
"""


def test_a_loop_goes_round_in_dimensions_of_its_own(graphs: Graphs) -> None:
    graphs.deploy(LOOP)
    key = graphs.pub("loop", {"most": 3})
    assert graphs.state(key) == (0, {"n": 3}, None)
    assert [step[1] for step in graphs.steps(key) if step[0] == "w"] == [
        ",0,0,0",
        ",0,1,0",
        ",0,2,0",
    ]


def test_a_loop_without_end_fails_its_job(graphs: Graphs, db: Connection) -> None:
    db.execute("update hotmesh.apps set settings = '{\"cycle_limit\": 50}'")
    graphs.deploy(LOOP)
    state = graphs.run("loop", {"most": 20_000})
    assert state.status < 0
    assert state.error["activity"] == "c"
    assert "50 times" in state.error["message"]


def test_a_long_way_goes_on_in_the_next_turn(graphs: Graphs) -> None:
    """A caller's transaction is not held up for ever: the rest is done by whoever turns."""
    graphs.deploy(LOOP)
    key = graphs.pub("loop", {"most": 500})
    assert graphs.state(key).status == 1
    graphs.turn()
    assert graphs.state(key) == (0, {"n": 500}, None)


HOOK = """
subscribes: asks
activities:
  t: {type: trigger, stats: {id: '{$self.output.data.id}'}}
  h: {type: hook, sleep: 100, job: {maps: {x: '{h.hook.data.x}', late:
        {'@pipe': [['{h.hook.data.x}', gone], ['{@conditional.nullish}']]}}}}
transitions: {t: [{to: h}]}
hooks:
  asks.in: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}',
        actual: '{$self.hook.data.id}'}]}}]
"""


def test_a_hook_goes_on_by_its_signal(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(HOOK)
    for key in ("a", "b"):
        assert graphs.run("asks", {"id": key}).status == 1
    graphs.signal("asks.in", {"id": "b", "x": 9})
    assert graphs.state("b") == (0, {"x": 9, "late": 9}, None)
    assert graphs.state("a").status == 1
    assert messages(db) == [("timer", "delayed")]  # that of a


def test_a_hook_goes_on_by_its_time(graphs: Graphs, db: Connection, clock: Clock) -> None:
    graphs.deploy(HOOK)
    graphs.pub("asks", {"id": "a"})
    clock.advance("101 s")
    graphs.turn()
    assert graphs.state("a") == (0, {"late": "gone"}, None)
    assert one(db, "select count(*) from my_app.signals") == 0


def test_a_signal_before_its_hook_is_kept(graphs: Graphs) -> None:
    graphs.deploy(HOOK)
    graphs.signal("asks.in", {"id": "early", "x": 1})
    assert graphs.run("asks", {"id": "early"}) == (0, {"x": 1, "late": 1}, None)


def test_a_signal_with_202_leaves_the_hook_open(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: many
activities:
  t: {type: trigger, stats: {id: m}}
  h: {type: hook}
  each: {type: hook, job: {maps: {last: '{h.hook.data.n}'}}}
  end: {type: hook, job: {maps: {end: '{h.hook.data.n}'}}}
transitions:
  t: [{to: h}]
  h: [{to: each, conditions: {code: 202}}, {to: end, conditions: {code: 200}}]
hooks:
  many.in: [{to: h, conditions: {match: [{expected: m, actual: '{$self.hook.data.id}'}]}}]
""")
    graphs.pub("many")
    for n in (1, 2):
        graphs.signal("many.in", {"id": "m", "n": n}, code=202)
        assert graphs.state("m") == (1, {"last": n}, None)
    graphs.signal("many.in", {"id": "m", "n": 3})
    assert graphs.state("m") == (0, {"last": 2, "end": 3}, None)
    assert [step[1:] for step in graphs.steps("m") if step[0] == "h"] == [
        (",0,0", "done"), (",0,1", "done"), (",0,2", "done"),
    ]  # fmt: skip


def test_jobs_keep_the_version_they_began_with(graphs: Graphs) -> None:
    def version(number: int) -> str:
        return f"""
app:
  id: my-app
  version: '{number}'
  graphs:
    - subscribes: grows
      activities:
        t: {{type: trigger}}
        w: {{type: worker, topic: works, job: {{maps: {{v: {number}}}}}}}
      transitions: {{t: [{{to: w}}]}}
"""

    keys = []
    for number in [*range(1, 9), 1795298263123]:  # a time will do for a version
        graphs.deploy(version(number), version=str(number))
        keys.append(graphs.pub("grows"))
    for task in graphs.claim("works"):
        assert graphs.answer(task) == "ok"
    assert [graphs.state(key).data["v"] for key in keys] == [*range(1, 9), 1795298263123]
    with pytest.raises(psycopg.DatabaseError, match="goes backwards") as caught:
        graphs.check(version(8))
    assert caught.value.sqlstate == "MSH21"


def test_a_version_that_was_not_deployed_is_refused(graphs: Graphs) -> None:
    with pytest.raises(psycopg.DatabaseError, match="was not deployed") as caught:
        one(graphs.connection, "select hotmesh.graph_activate('my-app', '7')")
    assert caught.value.sqlstate == "MSH21"
    assert caught.value.diag.message_detail == "No version was deployed."


def test_a_topic_that_nobody_answers_is_refused(graphs: Graphs) -> None:
    graphs.check(LONE)
    with pytest.raises(psycopg.DatabaseError, match='no graph answers topic "lone"') as caught:
        graphs.pub("lone")
    assert caught.value.sqlstate == "MSH22"
    assert caught.value.diag.message_hint == "It was deployed; activate its version."


def test_a_topic_that_no_hook_waits_for_is_refused(graphs: Graphs) -> None:
    def told() -> tuple[str | None, str | None]:
        with pytest.raises(psycopg.DatabaseError, match='no hook answers topic "in"') as caught:
            graphs.signal("in", {})
        assert caught.value.sqlstate == "MSH22"
        return caught.value.diag.message_detail, caught.value.diag.message_hint

    hint = "Deploy a graph whose hooks have it, and activate its version."
    assert told() == ("No hook of an active graph waits for a topic.", hint)
    graphs.deploy("activities: {t: {type: trigger}}")  # it answers every topic
    assert told() == ("No hook of an active graph waits for a topic.", hint)
    graphs.deploy(HOOKED.replace("in:", "other:"))
    assert told() == ("Active topics: other.", hint)
    graphs.check(HOOKED.replace("version: '1'", "version: '2'"))
    assert told()[1] == "It was deployed; activate its version."


HOOKED = """
app:
  id: my-app
  version: '1'
  graphs:
    - subscribes: hooked
      activities: {a: {type: trigger}, b: {type: hook}}
      transitions: {a: [{to: b}]}
      hooks: {in: [{to: b, conditions: {match: [{expected: 1, actual: '{$self.hook.data.id}'}]}}]}
"""


def test_a_key_is_taken_once(graphs: Graphs) -> None:
    graphs.deploy(LONE)
    assert graphs.pub("lone", key="k") == "k"
    with pytest.raises(psycopg.DatabaseError, match="Duplicate job: k"):
        graphs.pub("lone", key="k")
    assert graphs.pub("lone", key="k", on_conflict="existing") == "k"
    assert graphs.pub("lone", key="k", on_conflict="replace") == "k"


def test_nothing_remains_when_the_caller_rolls_back(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(ORDER)
    with db.transaction(force_rollback=True):
        graphs.pub("order.requested")
    assert messages(db) == []
    assert one(db, "select count(*) from my_app.jobs") == 0


def test_an_interrupt_ends_its_own_job(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: stops
activities:
  t: {type: trigger}
  w: {type: worker, topic: other}
  i: {type: interrupt, reason: enough, code: 410}
transitions: {t: [{to: w}, {to: i}]}
""")
    state = graphs.run("stops")
    assert state.status < 0
    assert (state.error["message"], state.error["code"]) == ("enough", 410)
    assert graphs.claim("other") == []


def test_a_cancelled_graph_ends(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(ORDER)
    key = graphs.pub("order.requested")
    db.execute("select hotmesh.job_cancel('my-app', %s)", [key])
    state = graphs.state(key)
    assert (state.status < 0, state.error["code"]) == (True, 499)
    assert messages(db) == []


def test_an_export_of_a_graphs_job_has_the_way_it_went(graphs: Graphs) -> None:
    graphs.deploy(LOOP)
    graphs.deploy("""
subscribes: above
activities:
  t: {type: trigger, stats: {id: above}}
  a: {type: await, topic: loop, input: {maps: {most: 12}}, job: {maps: {n: '{a.output.data.n}'}}}
transitions: {t: [{to: a}]}
""")
    graphs.pub("above")
    db = graphs.connection
    found = one(db, "select hotmesh.job_export('my-app', 'above')")
    assert found["process"]["a"] == {
        ",0,0": {"input": {"data": {"most": 12}}, "output": {"data": {"n": 12}}, "state": "done"}
    }
    assert [step["activity"] for step in found["transitions"]] == ["t", "a"]
    [child] = found["dependencies"]
    found = one(db, "select hotmesh.job_export('my-app', %s)", child)
    assert found["state"] == {"input": {"most": 12}, "output": {"n": 12}, "error": None}
    assert [step["dimension"] for step in found["timeline"] if step["name"] == "w"] == [
        f",0,{turn},0" for turn in range(12)
    ]
    assert one(db, "select hotmesh.job_state('my-app', %s)", child) == {"n": 12}


def test_a_worker_without_maps_gets_the_triggers_data_however_late(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: late
activities:
  t: {type: trigger}
  a: {type: worker, topic: first}
  b: {type: worker, topic: second}
transitions: {t: [{to: a}], a: [{to: b}]}
""")
    graphs.pub("late", {"n": 7})
    graphs.work("first")
    assert graphs.work("second").args[0]["data"] == {"n": 7}


def test_a_triggers_input_is_its_output(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: inputs
activities:
  t: {type: trigger, stats: {id: '{$self.input.data.id}'}}
  a: {type: hook, job: {maps: {id: '{t.input.data.id}'}}}
  w: {type: worker, topic: asked, input: {maps: {id: '{t.input.data.id}'}},
      job: {maps: {again: '{t.input.data.id}'}}}
transitions: {t: [{to: a}, {to: w}]}
""")
    assert graphs.pub("inputs", {"id": "mine"}) == "mine"
    assert graphs.work("asked").args[0]["data"] == {"id": "mine"}
    assert graphs.state("mine").data == {"id": "mine", "again": "mine"}
    kept = graphs.connection.execute(
        "select value from my_app.jobs_attributes_all where name = 't' and sequence is not null"
    ).fetchone()
    assert kept == ({"output": {"data": {"id": "mine"}}},)  # once


def test_a_trigger_with_maps_has_an_input_of_its_own(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: both
activities:
  t: {type: trigger, input: {maps: {id: changed}}}
  a: {type: hook, job: {maps: {in: '{t.input.data.id}', out: '{t.output.data.id}'}}}
transitions: {t: [{to: a}]}
""")
    assert graphs.run("both", {"id": "mine"}).data == {"in": "changed", "out": "mine"}


@pytest.mark.parametrize("emit", ["", ", emit: true"])  # that is no short way
def test_a_triggers_output_is_what_it_was_given(graphs: Graphs, emit: str) -> None:
    graphs.deploy(f"""
subscribes: given
activities:
  t: {{type: trigger, output: {{maps: {{id: changed}}}}{emit}}}
  a: {{type: hook, job: {{maps: {{in: '{{t.input.data.id}}', out: '{{t.output.data.id}}'}}}}}}
transitions: {{t: [{{to: a}}]}}
""")
    assert graphs.run("given", {"id": "mine"}).data == {"in": "mine", "out": "mine"}


def test_instances_are_loaded_only_where_one_has_to_be_chosen(db: Connection) -> None:
    """Of what is read behind it the one that is meant lies on the way; else the nearest is."""
    document = """
{activities: {t: {type: trigger}, a: {type: hook}, b: {type: hook}, j: {type: hook}, k: {type: hook,
 job: {maps: {x: '{j.output.data.x}'}}}, l: {type: hook, job: {maps: {x: '{k.output.data.x}'}}},
 o: {type: hook}}, transitions: {t: [{to: a}, {to: b}, {to: o}], a: [{to: j}], b: [{to: j}],
 j: [{to: k}], o: [{to: l}], k: [{to: l}]}}"""
    found = db.execute(
        "select hotmesh._plan_behind(%s, '{j,k,l}') order by 1", [Jsonb(yaml.safe_load(document))]
    ).fetchall()
    assert found == [("j",), ("l",)]  # k is read where one comes without it, l by nobody


@pytest.mark.parametrize("reads", ["", ", seen: '{j.output.data.n}'"])
def test_ways_that_meet_each_have_an_instance_of_their_own(graphs: Graphs, reads: str) -> None:
    """Of an activity that nothing reads the instances are counted, of another they are read."""
    graphs.deploy(json.dumps({
        "subscribes": "meet",
        "activities": {
            "t": {"type": "trigger"},
            "j": {"type": "worker", "topic": "met"},
            "k": yaml.safe_load(f"{{type: hook, job: {{maps: {{n: 1{reads}}}}}}}"),
        } | {f"b{n}": {"type": "hook"} for n in range(25)}
          | {f"w{n}": {"type": "worker", "topic": "way"} for n in range(25)},
        "transitions": {"t": [{"to": f"{x}{n}"} for n in range(25) for x in "bw"], "j": ["k"]}
        | {f"{x}{n}": [{"to": "j"}] for n in range(25) for x in "bw"},
    }))  # fmt: skip
    key = graphs.pub("meet")
    for task in graphs.claim("way", 100):
        graphs.answer(task)
    graphs.turn()
    tasks = graphs.claim("met", 100)
    for n, task in enumerate(tasks):
        graphs.answer(task, {"n": n}, code=202)
    for task in tasks:  # each once more: further instances beside those
        response = {"metadata": task.args[0]["metadata"], "data": {"n": 1}}
        one(graphs.connection, "select hotmesh.graph_add('my-app', %s)", Jsonb(response))
    for _ in range(5):
        graphs.turn()
    assert graphs.state(key).status == 0
    steps = [step[:2] for step in graphs.steps(key)]
    assert len(steps) == len(set(steps)) == 1 + 50 + 2 * 100


def test_an_active_version_keeps_what_it_says(graphs: Graphs) -> None:
    document = """
app:
  id: my-app
  version: '1'
  graphs: [{subscribes: kept, activities: {t: {type: trigger, job: {maps: {v: %s}}}}}]
"""
    graphs.check(document % 0)
    graphs.deploy(document % 1)  # so far it was not active
    assert graphs.check(document % 1)["changed"] is False
    with pytest.raises(psycopg.DatabaseError, match="is active and says something else") as caught:
        graphs.check(document % 2)
    assert caught.value.sqlstate == "MSH21"
    assert graphs.run("kept").data == {"v": 1}
