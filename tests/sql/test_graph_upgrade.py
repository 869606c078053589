"""What an upgrade of an app does to its graphs: those that jobs go by are compiled again."""

from __future__ import annotations

from typing import Any

import pytest

from support.graphs import Connection, Graphs
from support.hand import one

ORDER = """
app:
  id: my-app
  version: '%s'
  graphs:
    - subscribes: order
      activities:
        t: {type: trigger}
        w: {type: worker, topic: pay, input: {maps: {n: '{t.output.data.n}'}}}
        e: {type: hook, job: {maps: {n: {'@pipe': [['{t.output.data.n}', '{w.output.data.n}'],
                                                   ['{@math.add}']]}, by: '%s'}}}
      transitions: {t: [{to: w}], w: [{to: e}]}
"""
COMPILED = """
    select p.proname::text, p.prosrc from pg_proc p
    where p.pronamespace = 'my_app'::regnamespace and p.proname like '\\_graph\\_%' order by 1
"""


@pytest.fixture
def graphs(db: Connection) -> Graphs:
    return Graphs(db)


def compiled(db: Connection) -> tuple[list[Any], list[Any]]:
    """What the engine knows of graphs, and their functions."""
    plans = db.execute("select id, plan from my_app.graphs order by id").fetchall()
    return plans, db.execute(COMPILED).fetchall()


def age(db: Connection) -> None:
    """An engine of long ago compiled them: what it made can't do what this one does."""
    db.execute("update my_app.graphs set plan = plan - '{reads,deepest}'::text[]")
    for name, _ in db.execute(COMPILED).fetchall():
        head = "(walks hotmesh.walk[]) returns hotmesh.walk[]"
        if name.endswith("_step"):
            head = (
                "(activity integer, leg text, codes integer[], s jsonb, d text, self jsonb,"
                " job jsonb) returns hotmesh.plan_step"
            )
        db.execute(
            f"create or replace function my_app.{name}{head}"
            " language plpgsql as 'begin raise division_by_zero; end'"
        )


def upgrade(db: Connection) -> list[str]:
    """What it warns of."""
    told: list[str] = []

    def hear(notice: Any) -> None:
        told.append(notice.message_primary)

    db.add_notice_handler(hear)
    db.execute("select hotmesh.app_upgrade('my-app')")
    db.remove_notice_handler(hear)
    return told


def finish(graphs: Graphs, *keys: str) -> list[Any]:
    for task in graphs.claim("pay"):
        assert graphs.answer(task, {"n": 1}) == "ok"
    return [graphs.state(key) for key in keys]


@pytest.mark.both_modes
def test_an_upgrade_compiles_again_what_jobs_go_by(graphs: Graphs) -> None:
    db = graphs.connection
    graphs.deploy(ORDER % (1, "one"))
    old = graphs.pub("order", {"n": 1})
    graphs.deploy(ORDER % (2, "two"), version="2")
    new = graphs.pub("order", {"n": 2})
    graphs.check(ORDER % (3, "three"))  # nobody goes by it yet
    fresh = compiled(db)
    assert len(fresh[1]) == 6
    age(db)
    assert compiled(db) != fresh
    assert upgrade(db) == []
    assert compiled(db) == fresh
    assert finish(graphs, old, new) == [
        (0, {"n": 2, "by": "one"}, None), (0, {"n": 3, "by": "two"}, None)
    ]  # fmt: skip
    assert upgrade(db) == []
    assert not one(
        db, "select bool_or(has_function_privilege('public', p.oid, 'execute')) from pg_proc p"
        " where p.pronamespace = 'my_app'::regnamespace and p.proname like '\\_graph%'",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("since", "why"),
    [
        (
            "document = jsonb_set(document, '{graph,activities,e,job,maps,by}',"
            """ '{"@pipe": [["a"], ["{@string.shout}"]]}')""",
            "activities.e.job.maps.by",
        ),
        (
            "plan = jsonb_set(plan, '{activities}', jsonb_build_array("
            " plan #> '{activities,0}', plan #> '{activities,2}', plan #> '{activities,1}'))",
            "its activities would get other numbers",
        ),
    ],
    ids=["a function that there is no more", "another way to count"],
)
def test_what_this_engine_would_compile_otherwise_stays_as_it_is(
    graphs: Graphs, since: str, why: str
) -> None:
    db = graphs.connection
    graphs.deploy(ORDER % (1, "one"))
    graphs.deploy("subscribes: other\nactivities: {t: {type: trigger}}")
    key = graphs.pub("order", {"n": 1})
    db.execute(f"update my_app.graphs set {since} where topic = 'order'")
    before = compiled(db)
    [told] = upgrade(db)
    assert told.startswith('graph "order", version "1", stays as it was compiled: ')
    assert why in told
    assert compiled(db) == before
    if "numbers" not in why:
        assert finish(graphs, key) == [(0, {"n": 2, "by": "one"}, None)]
