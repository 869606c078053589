"""What a graph's job tells of itself: its state, and the metadata of its activities."""

from __future__ import annotations

import re

import psycopg
import pytest

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import one

FAMILY = """
subscribes: young
activities:
  t: {type: trigger, stats: {id: young, key: '{$self.output.data.kind}'}}
  w: {type: worker, topic: works, job: {maps: {n: '{w.output.data.n}'}}}
transitions: {t: [{to: w}]}
"""


def test_the_state_of_a_graphs_job_speaks_as_hotmesh_does(graphs: Graphs, clock: Clock) -> None:
    clock.freeze("2030-01-01 12:03:04.567+00")
    graphs.deploy(FAMILY)
    graphs.deploy("""
subscribes: old
activities:
  t: {type: trigger, stats: {id: old}}
  a: {type: await, topic: young, input: {maps: {kind: bear}}}
transitions: {t: [{to: a}]}
""")
    graphs.pub("old")
    db = graphs.connection
    clock.freeze("2030-01-01 12:13:00+00")
    graphs.work("works", {"message": "no"}, status="error", code=418)
    state = one(db, "select hotmesh.job_state('my-app', 'young', true)")
    gid, pg = (state["metadata"].pop(name) for name in ("gid", "pg"))
    assert (int(gid) > int(pg), state.pop("data")) == (True, {})
    error = state["metadata"].pop("err")
    assert (error["code"], error["message"]) == (418, "no")
    assert state["metadata"] == {
        "jid": "young", "tpc": "young", "app": "my-app", "vrs": "1", "aid": "t", "key": "bear",
        "js": -999999999, "jc": "20300101120304.567", "ju": "20300101121300.000",
        "ts": "203001011200", "pj": "old", "pd": ",0,0", "pa": "a",
    }  # fmt: skip


METADATA = """
subscribes: meta
activities:
  t: {type: trigger, job: {maps: {began: '{$self.output.metadata.ac}'}}}
  w: {type: worker, topic: meta.w, job: {maps: {own: '{$self.output.metadata.aid}'}}}
  h: {type: hook, job: {maps: {
    w: '{w.output.metadata}', asked: '{w.input.metadata.ac}', n: '{w.output.data.n}'}}}
  e: {type: hook, job: {maps: {why: '{w.output.metadata.err.code}'}}}
transitions: {t: [{to: w}], w: [{to: h}, {to: e, conditions: {code: 500}}]}
"""


def test_metadata_of_activities_can_be_read(graphs: Graphs, clock: Clock) -> None:
    graphs.deploy(METADATA)
    key = graphs.pub("meta")
    clock.advance("5 s")
    graphs.work("meta.w", {"n": 1})
    data = graphs.state(key).data
    began, asked, ended = data["began"], data["asked"], data["w"]["au"]
    assert re.fullmatch(r"\d{14}\.\d{3}", began)
    assert began <= asked < ended
    assert data == {"began": began, "own": "w", "n": 1, "asked": asked, "w": {
        "aid": "w", "atp": "worker", "stp": "meta.w", "dad": ",0,0", "ac": asked, "au": ended,
        "code": 200,
    }}  # fmt: skip
    key = graphs.pub("meta")
    graphs.work("meta.w", status="error")
    assert graphs.state(key).data["why"] == 500


def test_metadata_that_nobody_reads_are_not_kept(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(METADATA)
    graphs.pub("meta")
    graphs.work("meta.w")
    kept = db.execute(
        "select name, value::text like '%metadata%' from my_app.jobs_attributes_all"
        " where sequence is not null order by name"
    ).fetchall()
    assert kept == [("h", False), ("t", True), ("w", True)]


@pytest.mark.parametrize(
    "word", ["{w.output.metadata.l1s}", "{$self.input.metadata.x.y}", "{$hook.metadata.gone}"]
)
def test_metadata_that_there_are_not_are_refused(graphs: Graphs, word: str) -> None:
    told = f"activities.w.job.maps.own: {word} finds nothing: the metadata of an activity are aid"
    with pytest.raises(psycopg.DatabaseError, match=re.escape(told)):
        graphs.deploy(METADATA.replace("{$self.output.metadata.aid}", word))
