"""What is counted of the jobs of graphs, how it is asked for, and signals to all who wait."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import one

COUNTED = """
subscribes: sold
activities:
  t:
    type: trigger
    stats:
      id: '{$self.output.data.id}'
      key: '{$self.output.data.kind}'
      measures:
        - {measure: count, target: '{$self.output.data.color}'}
        - {measure: index, target: '{$self.output.data.color}'}
        - {measure: sum, target: '{$self.output.data.size.width}'}
        - {measure: avg, target: '{$self.output.data.size.width}'}
        - {measure: mdn, target: '{$self.output.data.size.width}'}
        - {measure: max, target: '{$self.output.data.size.width}'}
        - {measure: min, target: '{$self.output.data.size.width}'}
        - {measure: sum, target: {'@pipe': [['{$self.output.data.size.width}', 10],
              ['{@math.multiply}']]}}
"""

WAITING = """
subscribes: waits
activities:
  t:
    type: trigger
    stats:
      id: '{$self.output.data.id}'
      key: all
      measures: [{measure: index, target: '{$self.output.data.color}'}]
  h: {type: hook, job: {maps: {said: '{h.hook.data.said}'}}}
transitions: {t: [{to: h}]}
hooks:
  wake: [{to: h, conditions: {match: [{expected: '{$job.metadata.jid}',
        actual: '{$self.hook.data.id}'}]}}]
"""


@pytest.fixture
def graphs(db: Connection, clock: Clock) -> Graphs:
    clock.freeze("2030-01-01 12:03:00+00")
    return Graphs(db)


def stats(graphs: Graphs, topic: str = "sold", **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = one(
        graphs.connection, "select hotmesh.graph_stats('my-app', %s, %s)", topic, Jsonb(query)
    )
    return found


def ids(graphs: Graphs, *facets: str, topic: str = "sold", **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = one(
        graphs.connection, "select hotmesh.graph_ids('my-app', %s, %s, %s)", topic, Jsonb(query),
        list(facets),
    )  # fmt: skip
    return found


def signal_all(graphs: Graphs, topic: str, data: Any, query: Any = None, *facets: str) -> int:
    told: int = one(
        graphs.connection, "select hotmesh.graph_signal_all('my-app', %s, %s, %s, %s)",
        topic, Jsonb(data), Jsonb(query or {}), list(facets),
    )  # fmt: skip
    graphs.turn()
    return told


def sell(graphs: Graphs, key: str, color: str, width: Any, kind: str = "bear") -> None:
    graphs.pub("sold", {"id": key, "kind": kind, "color": color, "size": {"width": width}})


def refused(graphs: Graphs, **query: Any) -> str:
    with pytest.raises(psycopg.DatabaseError) as caught:
        stats(graphs, **query)
    assert caught.value.sqlstate == "22023"
    return str(caught.value.diag.message_primary)


@pytest.fixture
def sold(graphs: Graphs, clock: Clock) -> Graphs:
    """Three bears and a duck: at 12:03, 12:03, 12:33 and 12:33."""
    graphs.deploy(COUNTED)
    sell(graphs, "a", "red", 1)
    sell(graphs, "b", "blue", "2.5")
    clock.advance("30 minutes")
    sell(graphs, "c", "red", 4)
    sell(graphs, "d", "red", 100, kind="duck")
    return graphs


def test_measures_of_a_key_are_added_up(sold: Graphs) -> None:
    found = stats(sold, data={"kind": "bear"}, range="1h", end="NOW", sparse=True)
    assert found == {
        "key": "bear", "granularity": "5m", "range": "1h", "start": "2030-01-01T11:30Z",
        "end": "NOW", "count": 3,
        "measures": [
            {"type": "count", "target": "color:blue", "value": 1},
            {"type": "count", "target": "color:red", "value": 2},
            {"type": "sum", "target": "size.width", "value": 7.5},
            {"type": "avg", "target": "size.width", "value": 2.5},
            {"type": "mdn", "target": "size.width", "value": 2.5},
            {"type": "max", "target": "size.width", "value": 4},
            {"type": "min", "target": "size.width", "value": 1},
            {"type": "sum", "target": "sum8", "value": 75},
        ],
    }  # fmt: skip


def test_an_hour_has_thirteen_segments_of_five_minutes(sold: Graphs) -> None:
    segments = stats(sold, data={"kind": "bear"}, range="1h", end="NOW")["segments"]
    assert [segment["time"][11:16] for segment in segments] == [
        "11:30", "11:35", "11:40", "11:45", "11:50", "11:55", "12:00", "12:05", "12:10", "12:15",
        "12:20", "12:25", "12:30",
    ]  # fmt: skip
    assert [segment["count"] for segment in segments] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    assert segments[5]["measures"] == []
    assert segments[12]["measures"][:2] == [
        {"type": "count", "target": "color:red", "value": 1},
        {"type": "sum", "target": "size.width", "value": 4},
    ]


@pytest.mark.parametrize(
    ("granularity", "segments"), [("10m", 7), ("15m", 5), ("30m", 3), ("1h", 2), ("infinity", 1)]
)
def test_a_question_chooses_its_granularity(sold: Graphs, granularity: str, segments: int) -> None:
    found = stats(sold, data={"kind": "bear"}, range="1h", granularity=granularity)
    assert (found["granularity"], len(found["segments"]), found["count"]) == (
        granularity, segments, 3,
    )  # fmt: skip


def test_a_span_is_of_whole_segments(sold: Graphs) -> None:
    bear = {"kind": "bear"}
    assert stats(sold, data=bear, start="2030-01-01T12:04", end="2030-01-01T12:04")["count"] == 2
    assert stats(sold, data=bear, start="2030-01-01T13:04+01:00", range="5m")["count"] == 2
    assert stats(sold, data=bear, start="2030-01-01T12:05:00Z", range="20m")["count"] == 0
    assert stats(sold, data=bear, start="2030-01-01T12:05:00Z")["count"] == 1
    assert stats(sold, data=bear, range="5m")["count"] == 1
    assert stats(sold, data=bear, end="2030-01-01")["count"] == 0
    assert stats(sold, data=bear, range="infinity")["count"] == 3


def test_without_data_every_key_counts(sold: Graphs) -> None:
    assert (stats(sold)["count"], stats(sold)["key"]) == (4, None)
    assert stats(sold, data={"kind": "duck"})["count"] == 1
    assert stats(sold, data={"kind": "cow"})["measures"] == []
    assert stats(sold, data={})["count"] == 0


def test_jobs_are_found_by_a_facet(sold: Graphs) -> None:
    found = ids(sold, "color:red", "color:green", data={"kind": "bear"}, range="1h")
    assert found["counts"] == [
        {"facet": "color:red", "count": 2}, {"facet": "color:green", "count": 0},
    ]  # fmt: skip
    assert (found["key"], found["facets"], found["range"]) == (
        "bear", ["color:red", "color:green"], "1h",
    )  # fmt: skip
    assert len(found["segments"]) == 13
    assert [segment["measures"] for segment in found["segments"] if segment["measures"]] == [
        [{"time": "2030-01-01T12:00Z", "target": "color:red", "type": "ids", "count": 1,
          "ids": ["a"]}],
        [{"time": "2030-01-01T12:30Z", "target": "color:red", "type": "ids", "count": 1,
          "ids": ["c"]}],
    ]  # fmt: skip


def test_without_facets_the_index_measures_tell_theirs(sold: Graphs) -> None:
    found = ids(sold, range="infinity", sparse=True)
    assert found["counts"] == [
        {"facet": "color:blue", "count": 1}, {"facet": "color:red", "count": 3},
    ]  # fmt: skip
    assert [segment["time"] for segment in found["segments"]] == [
        "2030-01-01T12:00Z", "2030-01-01T12:30Z",
    ]  # fmt: skip


def test_a_question_without_sense_is_refused(sold: Graphs) -> None:
    assert refused(sold, granularity="3m") == "no such granularity"
    assert refused(sold, rang="1h") == "no such query"
    assert refused(sold, range="an hour").startswith("range is no duration")
    assert refused(sold, end="tomorrow") == "end is no time"
    assert refused(sold, end="2030-13-01T00:00Z") == "end is no time"
    assert refused(sold, start="2030-01-02", end="2030-01-01") == "start is after end"
    assert refused(sold, range="10 years") == "more than 10000 segments"
    assert stats(sold, range="10 years", sparse=True)["count"] == 4
    with pytest.raises(psycopg.DatabaseError, match="a facet is field:value"):
        ids(sold, "red")
    with pytest.raises(psycopg.DatabaseError, match='no graph answers topic "bought"') as caught:
        stats(sold, topic="bought")
    assert caught.value.sqlstate == "MSH22"


def test_what_is_no_number_is_not_added_up(graphs: Graphs) -> None:
    graphs.deploy(COUNTED)
    for number, width in enumerate((1, "wide", None, [1], {"a": 1}, 10**400, True)):
        sell(graphs, f"k{number}", "red", width)
    found = stats(graphs, sparse=True)
    assert found["count"] == 7
    assert [m["value"] for m in found["measures"] if m["target"] == "size.width"] == [1] * 5


def test_hostile_values_are_kept_as_they_are(graphs: Graphs) -> None:
    graphs.deploy(COUNTED)
    color = "'; drop table jobs; -- $$ \\ \" \u2028:x"
    sell(graphs, "k", color, 1, kind="'\"\\")
    sell(graphs, "long", "x" * 100_000, 1, kind="y" * 100_000)
    assert ids(graphs, f"color:{color}", data={"kind": "'\"\\"})["counts"][0]["count"] == 1
    assert stats(graphs, data={"kind": "y" * 100_000})["count"] == 1


def test_a_graph_without_stats_leaves_no_rows(graphs: Graphs, db: Connection) -> None:
    graphs.deploy("subscribes: plain\nactivities: {t: {type: trigger, stats: {id: x}}}")
    graphs.pub("plain")
    assert one(db, "select count(*) from my_app.measures") == 0
    assert stats(graphs, "plain")["count"] == 0


def test_what_was_measured_outlives_its_job(sold: Graphs, db: Connection, clock: Clock) -> None:
    clock.advance("1 day")
    sold.pub("sold", {"id": "short", "kind": "bear"}, expire=0)
    clock.advance("1 s")
    assert one(db, "select hotmesh.job_archive('my-app')") == 1
    assert stats(sold, range="infinity")["count"] == 5


def test_a_parent_of_stats_is_on_record(graphs: Graphs, db: Connection) -> None:
    graphs.deploy("""
subscribes: family
activities:
  t: {type: trigger, stats: {id: '{$self.output.data.id}', parent: '{$self.output.data.first}',
        adjacent: '{$self.output.data.above}'}}
""")
    family = [("a", "no", "no"), ("b", None, "a"), ("c", None, "b"), ("d", "a", None)]
    for key, first, above in family:
        graphs.pub("family", {"id": key, "first": first, "above": above})
    assert db.execute(
        "select j.key, p.key, o.key from my_app.jobs j left join my_app.jobs p on p.id = j.parent_id"
        " left join my_app.jobs o on o.id = j.origin_id order by j.key"
    ).fetchall() == [("a", None, None), ("b", "a", "a"), ("c", "b", "a"), ("d", None, "a")]


def test_a_signal_to_all_reaches_every_waiting_job_once(graphs: Graphs) -> None:
    graphs.deploy(WAITING)
    for key in "abc":
        graphs.pub("waits", {"id": key})
    graphs.signal("wake", {"id": "c", "said": "first"})
    assert signal_all(graphs, "wake", {"said": "all"}) == 2
    assert [graphs.state(key).data["said"] for key in "abc"] == ["all", "all", "first"]
    assert signal_all(graphs, "wake", {"said": "again"}) == 0


def test_a_signal_to_all_of_a_facet_reaches_no_others(graphs: Graphs, clock: Clock) -> None:
    graphs.deploy(WAITING)
    for key, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        graphs.pub("waits", {"id": key, "color": color})
    clock.advance("2 hours")
    graphs.pub("waits", {"id": "d", "color": "red"})
    assert signal_all(graphs, "wake", {"said": 1}, {"range": "1h"}, "color:red") == 1
    assert signal_all(graphs, "wake", {"said": 2}, {}, "color:red") == 2
    assert [graphs.state(key).status for key in "abcd"] == [0, 1, 0, 0]
    with pytest.raises(psycopg.DatabaseError, match="a facet is field:value"):
        signal_all(graphs, "wake", {}, {}, "red")


def test_topics_that_begin_alike_are_two(graphs: Graphs) -> None:
    graphs.deploy(WAITING)
    graphs.deploy(WAITING.replace("subscribes: waits", "subscribes: more").replace(
        " wake:", " 'wake:more':"))  # fmt: skip
    graphs.pub("waits", {"id": "more"})
    graphs.pub("more", {"id": "x"})
    assert signal_all(graphs, "wake:more", {"said": 1}) == 1
    assert (graphs.state("more").status, graphs.state("x").status) == (1, 0)
    with pytest.raises(psycopg.DatabaseError, match='no hook answers topic "wak"') as caught:
        signal_all(graphs, "wak", {})
    assert caught.value.sqlstate == "MSH22"


WAKER = """
subscribes: waker
activities:
  t: {type: trigger, stats: {id: w}}
  s:
    type: signal
    subtype: all
    topic: wake
    signal: {maps: {said: '{t.output.data.said}'}}
    key_name: color
    key_value: '{t.output.data.color}'
    scrub: true
    resolver: {maps: {data: {}, range: '{t.output.data.range}'}}
  after: {type: hook, job: {maps: {done: true}}}
transitions: {t: [{to: s}], s: [{to: after}]}
"""


def test_an_activity_signals_all_of_a_facet(graphs: Graphs) -> None:
    graphs.deploy(WAITING)
    graphs.deploy(WAKER)
    for key, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        graphs.pub("waits", {"id": key, "color": color})
    assert graphs.run("waker", {"said": "hi", "color": "red", "range": "1h"}).data == {"done": True}
    graphs.turn()
    assert [graphs.state(key).status for key in "abc"] == [0, 1, 0]
    assert graphs.state("a").data == {"said": "hi"}
    assert ids(graphs, topic="waits")["counts"] == [{"facet": "color:blue", "count": 1}]


def test_an_activity_whose_query_makes_no_sense_ends_its_job_only(graphs: Graphs) -> None:
    graphs.deploy(WAITING)
    graphs.deploy(WAKER.replace("after: {type: hook", "after: {type: worker, topic: rest"))
    graphs.pub("waits", {"id": "a", "color": "red"})
    graphs.pub("waker", {"said": "hi", "color": "red", "range": "soon"})
    graphs.turn()
    assert graphs.state("a").status == 1
    error = graphs.state("w").error
    assert (error["code"], error["message"][:38]) == (598, 'activity "s": range is no duration: "s')


EXPIRING = """
subscribes: lasts
expire: {EXPIRE}
activities:
  t: {type: trigger, stats: {id: '{$self.output.data.id}'}}
"""


@pytest.mark.parametrize(
    ("expire", "given", "stays"),
    [
        ("90", None, 90),
        ("1.5 hours", None, 5400),
        ("-1", None, None),
        ("0", None, 0),
        ("'{$self.output.data.ttl}'", "2 minutes", 120),
        ("'{$self.output.data.ttl}'", "30", 30),
        ("'{t.output.data.ttl}'", 30, 30),
        ("'{t.output.data.ttl}'", -1, None),
        ("'{t.output.data.ttl}'", None, None),
        ("{'@pipe': [['{t.output.data.ttl}', 60], ['{@math.multiply}']]}", 3, 180),
    ],
)
def test_a_graph_says_how_long_its_jobs_stay(
    graphs: Graphs, db: Connection, expire: str, given: Any, stays: float | None
) -> None:
    graphs.deploy(EXPIRING.replace("{EXPIRE}", expire))
    graphs.pub("lasts", {"id": "k", "ttl": given})
    assert one(db, "select extract(epoch from expire_at - closed_at)::float8 from my_app.jobs") == (
        stays
    )


def test_an_expire_that_is_no_time_is_refused(graphs: Graphs, db: Connection) -> None:
    graphs.deploy(EXPIRING.replace("{EXPIRE}", "'{t.output.data.ttl}'"))
    with pytest.raises(psycopg.DatabaseError, match='expire is no duration: "soon"') as caught:
        graphs.pub("lasts", {"id": "k", "ttl": "soon"})
    assert caught.value.sqlstate == "22023"
    assert one(db, "select count(*) from my_app.jobs") == 0


def test_a_question_reads_the_rows_of_its_key_only(
    sold: Graphs, db: Connection, admin: Connection
) -> None:
    """Also by plans that were made while there was next to nothing."""
    query = Jsonb({"data": {"kind": "bear"}, "range": "1h"})

    def pages(call: str) -> int:
        plan = one(
            admin,
            f"explain (analyze, buffers, timing off, format json) select hotmesh.{call}",
            query,
        )[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    calls = [
        "graph_stats('my-app', 'sold', %s)", "graph_ids('my-app', 'sold', %s, '{color:red}')",
    ]  # fmt: skip
    few = [min(pages(call) for _ in range(7)) for call in calls]
    db.execute(
        "insert into my_app.measures (job_id, topic, key, at, job_key, measured)"
        " select g, 'sold', 'cow' || g %% 1000, %s::timestamptz - g * interval '1 s', 'k' || g,"
        '        \'{"color": "red"}\''
        " from generate_series(10000000, 10100000) g",
        ["2030-01-01 12:00+00"],
    )
    for call, before in zip(calls, few, strict=True):
        # The best of three: a session that has fallen behind reads the catalogue anew.
        assert min(pages(call) for _ in range(3)) < before + 60, (call, before)


@pytest.mark.parametrize(
    "expire", ["'{w.output.data.ttl}'", "{'@pipe': [['{w.output.data.ttl}', 1], ['{@math.add}']]}"]
)
def test_an_expire_that_needs_what_comes_later_is_a_fault(graphs: Graphs, expire: str) -> None:
    document = EXPIRING.replace("{EXPIRE}", expire)
    with pytest.raises(psycopg.DatabaseError) as caught:
        graphs.check(document + "  w: {type: worker, topic: w}\ntransitions: {t: [{to: w}]}\n")
    assert caught.value.sqlstate == "MSH20"
    [fault] = json.loads(caught.value.diag.message_detail or "")
    assert fault["path"].endswith("expire")
    assert fault["reason"].startswith("it mentions the activity w, but is computed as a job starts")


def test_a_trigger_chooses_the_granularity(graphs: Graphs) -> None:
    graphs.deploy(COUNTED.replace("key:", "granularity: 30m\n      key:"))
    sell(graphs, "a", "red", 1)
    found = stats(graphs)
    assert found["granularity"] == "30m"
    assert [segment["time"][11:16] for segment in found["segments"]] == ["11:00", "11:30", "12:00"]
