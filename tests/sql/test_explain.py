"""What people see of a compiled graph: text, and a drawing that Mermaid can read whatever is in it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from support.graphs import Connection, Graphs
from support.hand import one

ORDER = """
app:
  id: my-app
  version: '3'
  graphs:
    - subscribes: order.requested
      publishes: order.done
      activities:
        trigger: {type: trigger}
        check:
          type: worker
          topic: inventory.check
          input: {maps: {item: '{trigger.output.data.itemId}'}}
        reserve: {type: await, topic: reserve, job: {maps: {id: '{reserve.output.data.id}', of: {a: 1}}}}
        wait: {type: hook, sleep: 60}
        again: {type: cycle, ancestor: pivot}
        pivot: {type: hook, cycle: true}
      transitions:
        trigger: [{to: pivot}]
        pivot: [{to: check}]
        check:
          - to: reserve
            conditions:
              code: 200
              match:
                - expected: true
                  actual: {'@pipe': [['{check.output.data.qty}', '{trigger.output.data.qty}'], ['{@conditional.gte}']]}
          - to: wait
            conditions: {code: [404, 500]}
        wait: [{to: again}]
      hooks:
        order.go:
          - to: wait
            conditions: {match: [{expected: '{$job.metadata.jid}', actual: '{$hook.data.id}'}]}
    - subscribes: reserve
      activities: {t: {type: trigger}}
"""  # noqa: E501

TEXT = """\
order.requested, version 3, active, publishes to order.done
1 trigger: trigger
    -> pivot
2 pivot: hook
    -> check
3 check: worker inventory.check
    input item = {trigger.output.data.itemId}
    -> reserve if code 200 and conditional.gte({check.output.data.qty}, {trigger.output.data.qty}) is true
    -> wait if code 404 or 500
4 reserve: await reserve
    job id = {reserve.output.data.id}
    job of = {a: 1}
5 wait: hook, waits for order.go, sleeps 60
    -> again
6 again: cycle pivot"""

MERMAID = """\
flowchart TD
    a1(["trigger<br/>trigger"])
    a2{{"pivot<br/>hook"}}
    a3["check<br/>worker inventory.check"]
    a4[["reserve<br/>await reserve"]]
    a5{{"wait<br/>hook, waits for order.go, sleeps 60"}}
    a6["again<br/>cycle pivot"]
    a1 --> a2
    a2 --> a3
    a3 -->|"code 200 and conditional.gte({check.output.data.qty}, {trigger.output.data.qty}) is true"| a4
    a3 -->|"code 404 or 500"| a5
    a5 --> a6
    a6 -.-> a2"""


@pytest.fixture
def graphs(db: Connection) -> Graphs:
    return Graphs(db)


def explain(connection: Connection, topic: str, *form: Any) -> str:
    query = f"select hotmesh.graph_explain('my-app', %s{', %s' if form else ''})"
    return str(one(connection, query, topic, *form))


def test_a_graph_is_explained_as_text_and_drawn(graphs: Graphs, caller: Connection) -> None:
    graphs.deploy(ORDER, version="3")
    assert explain(caller, "order.requested") == TEXT
    assert explain(caller, "order.requested", "text") == TEXT
    assert explain(caller, "order.requested", "mermaid") == MERMAID
    assert explain(caller, "reserve") == "reserve, version 3, active\n1 t: trigger"


def test_a_graph_without_a_topic_answers_for_any(graphs: Graphs, caller: Connection) -> None:
    graphs.deploy("activities: {t: {type: trigger}}")
    assert explain(caller, "whatever").startswith("any other topic, version 1, active\n")


PIPES = {
    "x": "x",
    "'{$self.output.data.n}'": "{$self.output.data.n}",
    "5": "5",
    "{'@pipe': [['{t.output.data.n}', 2], ['{@math.add}', 3], ['{@math.multiply}']]}":
        "math.multiply(math.add({t.output.data.n}, 2), 3)",
    "{'@pipe': [{'@pipe': [['{t.output.data.a}'], ['{@array.length}']]}, ['{@number.gt}', 1]]}":
        "number.gt(array.length({t.output.data.a})), 1",
    "{'@pipe': [['{t.output.data.a}', 0], {'@reduce': [['{$output}', '{$item}'], ['{@math.add}']]}]}":
        "{t.output.data.a}, 0, reduce(…)",
}  # fmt: skip


@pytest.mark.parametrize("value", PIPES)
def test_a_pipe_is_written_as_its_calls(graphs: Graphs, caller: Connection, value: str) -> None:
    graphs.deploy(f"""
subscribes: p
activities:
  t: {{type: trigger}}
  h: {{type: hook, job: {{maps: {{v: {value}}}}}}}
transitions: {{t: [{{to: h}}]}}
""")
    assert explain(caller, "p").splitlines()[-1] == f"    job v = {PIPES[value]}"


def test_a_drawing_survives_what_is_in_the_document(graphs: Graphs, caller: Connection) -> None:
    hostile = """"]; click a1 "javascript:x" <script> #quot; ` %% --> | {{"""
    graphs.deploy(f"""
subscribes: p
activities:
  t: {{type: trigger}}
  h: {{type: worker, topic: w}}
  i: {{type: hook}}
transitions:
  t: [{{to: h}}]
  h: [{{to: i, conditions: {{match: [{{expected: '{hostile}', actual: '{{h.output.data.x}}'}}]}}}}]
""")
    drawn = explain(caller, "p", "mermaid")
    lines = [line for line in drawn.splitlines() if '"' in line]
    assert len(lines) == 4
    for line in lines:
        assert line.count('"') == 2, line
        label = re.search(r'"(.*)"', line)
        assert label is not None
        assert not re.search(r"[<>`](?!br/>|.*<br/>)", label[1].replace("<br/>", "")), line
    assert "#quot;]; click" in drawn
    assert "#35;quot;" in drawn


@pytest.mark.parametrize("form", ["svg", "", None])
def test_only_known_formats_are_drawn(graphs: Graphs, caller: Connection, form: Any) -> None:
    graphs.deploy("activities: {t: {type: trigger}}")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        explain(caller, "x", form)


def test_an_unknown_topic_is_told(caller: Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        explain(caller, "nobody")
    assert raised.value.sqlstate == "MSH22"


SAID = """
subscribes: said
expire: 1 hour
activities:
  t: {type: trigger, stats: {id: '{$self.output.data.id}', key: all, measures: [{measure: sum,
        target: '{$self.output.data.n}'}, {measure: count, target: x}]}}
  w: {type: worker, topic: w, retry: {'500': [3]}, emit: true, statusThreshold: 2}
  a: {type: await, topic: said, await: false}
  s: {type: signal, subtype: all, topic: go, persist: true}
  h: {type: hook}
  i: {type: interrupt, target: '{t.output.data.other}'}
transitions: {t: [{to: w}], w: [{to: a}], a: [{to: s}], s: [{to: h}], h: [{to: i}]}
hooks: {go: [{to: h, conditions: {match: [{expected: 1, actual: 1}]}}]}
"""


def test_what_an_activity_does_is_said_in_short(graphs: Graphs, caller: Connection) -> None:
    graphs.deploy(SAID)
    assert [
        line for line in explain(caller, "said").splitlines() if not line.startswith("    ->")
    ] == [
        "said, version 1, active, expires after 1 hour",
        "1 t: trigger",
        "    stats id = {$self.output.data.id}",
        "    stats key = all",
        "    measures sum of {$self.output.data.n}",
        "    measures count of x",
        '2 w: worker w, retries {"500": [3]}, skipped at status 2, emits if true',
        "3 a: await said, goes on at once",
        "4 s: signal all go, completes if true",
        "5 h: hook, waits for go",
        "6 i: interrupt {t.output.data.other}",
    ]


def test_what_is_not_active_yet_is_explained_too(graphs: Graphs, caller: Connection) -> None:
    graphs.check("subscribes: new\nactivities: {t: {type: trigger}}")
    assert explain(caller, "new") == "new, version 1, deployed\n1 t: trigger"
    graphs.deploy("activities: {t: {type: trigger}}")
    assert explain(caller, "new").startswith("new, version 1")


BROKEN = r"""
subscribes: '"] & $$ \ '' {}'
activities:
  t: {type: trigger, stats: {id: "a\nb\u2028c"}}
  w: {type: worker, topic: 'x"] & &lt;b&gt;', job: {maps: {"a\"]\n": "\u0007`#`\\"}}}
  e: {type: hook}
transitions:
  t: [{to: w, conditions: {match: [{expected: "\"|\n| end\u2029", actual: '{t.output.data.x}'}]}}]
  w: [{to: e, conditions: {code: '[45]*'}}]
"""
LINE = re.compile(
    r'flowchart TD|    a\d+(\(\["[^"]*"\]\)|\["[^"]*"\]|\{\{"[^"]*"\}\})'
    r'|    a\d+ -->(\|"[^"]*"\|)? a\d+'
)


def test_every_line_stays_one_line(graphs: Graphs, caller: Connection) -> None:
    graphs.deploy(BROKEN)
    topic = "\"] & $$ \\ ' {}"
    drawn = explain(caller, topic, "mermaid")
    assert [line for line in drawn.split("\n") if not LINE.fullmatch(line)] == []
    assert "&" not in drawn
    told = explain(caller, topic)
    assert told.split("\n") == told.splitlines()
    assert told.splitlines()[2] == "    stats id = a b c"
    assert "\x07" not in told + drawn
