"""Documents that somebody has damaged: deployed, or refused with the place of every fault, never else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hotmesh import SyncHotMesh
from hotmesh.errors import DuplicateJobError, GraphError, GraphVersionError, InvalidArgumentError
from support.flows import APP

SOUND = yaml.safe_load("""
app:
  id: my-app
  version: '1'
  settings: {a: 1}
  graphs:
    - subscribes: x
      publishes: y
      expire: 10
      activities:
        t: {type: trigger, stats: {id: '{$self.output.data.id}', key: a, measures: [
              {measure: count, target: '{$self.output.data.c}'}]}}
        w:
          type: worker
          topic: q
          retry: {'500': [3]}
          input:
            maps:
              a: '{t.output.data.a}'
              b: {'@pipe': [['{t.output.data.l}', 0],
                    {'@reduce': [['{$output}', '{$item}'], ['{@math.add}']]}]}
          job: {maps: {z: '{w.output.data.z}'}}
        h: {type: hook, sleep: 5, cycle: true, statusThreshold: 2, emit: true, persist: true}
        c: {type: cycle, ancestor: h, input: {maps: {n: 1}}}
        s: {type: signal, subtype: one, topic: x.go, code: 202, signal: {maps: {id: '{t.output.data.id}'}}}
        i: {type: interrupt, target: '{t.output.data.k}', topic: x, reason: r, throw: false, code: 410}
        a: {type: await, topic: x, await: false}
      transitions:
        t: [{to: w}, {to: h}]
        w:
          - {to: s, conditions: {code: [200, 404], gate: or, match: [
              {expected: 1, actual: '{w.output.data.q}'}]}}
          - {to: i}
        h:
          - {to: c, conditions: {match: [
              {expected: true, actual: {'@pipe': [[1, 2], ['{@number.lt}']]}}]}}
          - {to: a}
      hooks:
        x.go: [{to: h, conditions: {match: [
          {expected: '{$job.metadata.jid}', actual: '{$hook.data.id}'}]}}]
""")

KEYS = [
    "zzz",
    "type",
    "topic",
    "to",
    "maps",
    "conditions",
    "job",
    "sleep",
    "",
    "a b",
    "no'pe",
    'x"y',
    "$self",
]
JUNK: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, "", "x", "{", "{}", "{a.b}", "{t.output.data.x}", "{$self}",
    "{@math.add}", "{@nope.x}", "$$", "'; drop", "\\", "é😀", "a" * 300, "500", "worker", "cycle", "sql", "t",
    [], {}, [[]], [{}], ["t"], [{"to": "t"}], [200, "4**"], {"": 1}, {"maps": 5}, {"@reduce": []},
    {"@pipe": []}, {"@pipe": 5}, {"@pipe": [[]]}, {"@pipe": [["{@math.add}"]]}, {"@pipe": [[1], ["x"]]},
    {"@pipe": [[1], {"@reduce": []}]}, {"x[1]": 1, "x[3]": 2, "y[-]": {"a": 1}},
]  # fmt: skip
LIKELY: list[Any] = [
    "{t.output.data.a}", "{t.output.data.l}", "{$job.data.z}", "{$self.output.data.x}", "{w.output.data.q}",
    "{$app.settings.a}", "{h.hook.data.x}", 1, 0, -5, "x", None, True, {"a": "{t.output.data.a}"}, [1],
]  # fmt: skip
EVALUATED = {"expected", "actual", "sleep", "statusThreshold", "emit", "persist", "code", "expire",
             "target", "reason", "throw", "key", "id", "await", "a", "b", "z", "n"}  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*above, key)
        if isinstance(item, dict | list):
            yield from places(item, (*above, key))


def pipe(dice: random.Random, functions: list[str]) -> dict[str, Any]:
    """Some function of something."""
    rows: list[Any] = [[dice.choice(LIKELY) for _ in range(dice.randint(1, 3))]]
    rows += [
        [f"{{@{dice.choice(functions)}}}", dice.choice(LIKELY)] for _ in range(dice.randint(1, 3))
    ]
    return {"@pipe": rows}


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def damaged(dice: random.Random) -> Any:
    """The document with one to three values that make no sense, in places that are any."""
    document = copy.deepcopy(SOUND)
    for _ in range(dice.randint(1, 3)):
        path = dice.choice(list(places(document)))
        inner, what = at(document, path[:-1]), dice.random()
        if what < 0.15:
            del inner[path[-1]]
        elif what < 0.3 and isinstance(inner, dict):
            inner[dice.choice(KEYS)] = dice.choice(JUNK)
        else:
            inner[path[-1]] = dice.choice(JUNK)
    return document


def varied(dice: random.Random, functions: list[str]) -> Any:
    """The document with other values where values are evaluated."""
    document = copy.deepcopy(SOUND)
    for _ in range(dice.randint(1, 3)):
        path = dice.choice([p for p in places(document) if p[-1] in EVALUATED and len(p) > 2])
        value = pipe(dice, functions) if dice.random() < 0.6 else dice.choice(LIKELY)
        at(document, path[:-1])[path[-1]] = value
    return document


@pytest.fixture
def functions(db: Any) -> list[str]:
    """The catalogue of @pipe."""
    rows = db.execute("select domain || '.' || name from hotmesh._pipe_functions()")
    return [row[0] for row in rows]


def deployed(mesh: SyncHotMesh, document: Any) -> bool:
    """Whether it could be deployed; if not, each fault has a path, a reason and a line."""
    text, faults = json.dumps(document, indent=1), None
    try:
        mesh.deploy(text)
    except GraphVersionError:
        return False
    except GraphError as error:
        faults = error.faults
    assert faults != []
    for fault in faults or ():
        assert fault["reason"] and fault["line"] <= text.count("\n") + 1, (fault, text)
    return faults is None


def test_the_control_is_sound(dsn: str) -> None:
    with SyncHotMesh(dsn, APP) as mesh:
        assert deployed(mesh, SOUND)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_is_damaged_is_deployed_or_told_where(dsn: str, seed: int) -> None:
    dice = random.Random(seed)
    with SyncHotMesh(dsn, APP) as mesh:
        told = [deployed(mesh, damaged(dice)) for _ in range(40)]
    assert told.count(False) > 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_was_deployed_can_be_run(dsn: str, functions: list[str], seed: int) -> None:
    """Whatever a mapping comes to: the job goes on, or fails with the place of the expression."""
    dice, run = random.Random(seed), 0
    with SyncHotMesh(dsn, APP) as mesh:
        for number in range(25):
            document = varied(dice, functions)
            document["app"]["version"] = str(number + 1)
            if not deployed(mesh, document):
                continue
            mesh.activate(str(number + 1))
            try:
                key = mesh.pub("x", {"id": f"k{number}", "a": 1, "l": [1, 2]})
            except (DuplicateJobError, InvalidArgumentError):
                continue  # its id became the same, or none
            run += 1
            error = mesh.get_state("x", key)["metadata"].get("err")
            assert error is None or error["message"]
    assert run > 5
