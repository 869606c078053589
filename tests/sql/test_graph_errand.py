"""Functions of SQL that a graph calls: as a step, refused, and where they meet a lock."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
import pytest

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import messages
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]


def test_a_function_of_sql_is_a_step(graphs: Graphs, db: Connection) -> None:
    db.execute("""
create function public.price(data jsonb) returns jsonb language sql security definer
set search_path = pg_catalog, pg_temp as $$ select jsonb_build_object('total',
      (data ->> 'n')::int * 2) $$""")
    graphs.deploy("""
subscribes: priced
activities:
  t: {type: trigger}
  s: {type: sql, function: public.price, job: {maps: {total: '{s.output.data.total}'}}}
  bad: {type: hook, job: {maps: {bad: '{s.output.data.sqlstate}'}}}
transitions:
  t: [{to: s}]
  s: [{to: bad, conditions: {code: 598}}]
""")
    assert graphs.run("priced", {"n": 21}) == (0, {"total": 42}, None)
    db.execute("alter function public.price(jsonb) security invoker")
    assert graphs.run("priced", {"n": 21}) == (0, {"bad": "22023"}, None)
    db.execute("alter function public.price(jsonb) security definer")
    assert graphs.run("priced", {"n": "x"}) == (0, {"bad": "22P02"}, None)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("public.nobody", "there is no function public.nobody(jsonb)"),
        ("pg_catalog.jsonb_typeof", "security definer"),
        ("drop table; --", "drop table; --"),
    ],
)
def test_a_function_that_a_graph_may_not_call_is_refused(
    graphs: Graphs, function: str, fault: str
) -> None:
    with pytest.raises(psycopg.DatabaseError, match=re.escape(fault)) as caught:
        graphs.deploy(f"""
subscribes: bad
activities:
  t: {{type: trigger}}
  s: {{type: sql, function: '{function}'}}
transitions: {{t: [{{to: s}}]}}
""")
    assert caught.value.sqlstate == "MSH20"


STOCK = """
create table public.stock (n int);
insert into public.stock values (5);
grant all on public.stock to public;
create function public.take(data jsonb) returns jsonb language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare v int;
begin
    update public.stock set n = n - (data ->> 'n')::int returning n into v;
    return jsonb_build_object('left', v);
end $$"""
TAKES = """
subscribes: takes
activities:
  t: {type: trigger}
  h: {type: hook, sleep: '{t.output.data.sleep}'}
  s: {type: sql, function: public.take, input: {maps: {n: '{t.output.data.n}'}},
      job: {maps: {left: '{s.output.data.left}'}}}
transitions: {t: [{to: h}], h: [{to: s}]}
"""


def test_a_function_of_sql_that_meets_a_lock_in_a_turn_is_called_again(
    graphs: Graphs, db: Connection, clock: Clock, sessions: Sessions
) -> None:
    db.execute(STOCK)
    graphs.deploy(TAKES)
    key = graphs.pub("takes", {"n": 2, "sleep": 60})
    (a,) = sessions("a")
    a.begin()
    a.run("update public.stock set n = n")
    clock.advance("61 s")
    graphs.turn()
    clock.advance("1 s")
    graphs.turn()
    assert graphs.state(key).status == 1  # it is not failed, and the turn did not wait
    a.rollback()
    clock.advance("2 s")
    graphs.turn()
    assert graphs.state(key) == (0, {"left": 3}, None)
    assert messages(db) == []


def test_a_function_of_sql_waits_for_a_lock_in_the_callers_own_transaction(
    graphs: Graphs, db: Connection, sessions: Sessions
) -> None:
    db.execute(STOCK)
    graphs.deploy(TAKES)
    a, b = sessions("a", "b")
    a.begin()
    a.run("update public.stock set n = 10")
    pub = b.run_async("select key from hotmesh.graph_pub('my-app', 'takes', '{\"n\": 1}', 'own')")
    b.wait_blocked()
    a.commit()
    assert pub.result(30) == [("own",)]
    assert graphs.state("own") == (0, {"left": 9}, None)
