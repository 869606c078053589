"""Errors of graphs: the way of each code, retries by code, and jobs that nothing saves."""

from __future__ import annotations

import psycopg
import pytest

from support.clock import Clock
from support.graphs import Connection, Graphs
from support.hand import messages, one

ERRORS = """
subscribes: errors
activities:
  t: {type: trigger}
  w: {type: worker, topic: errs}
  ok: {type: hook, job: {maps: {path: ok}}}
  bad: {type: hook, job: {maps: {path: bad, message: '{w.output.data.message}'}}}
  div: {type: hook, job: {maps: {q: {'@pipe': [['{t.output.data.obj}'], ['{@string.split}']]}}}}
transitions:
  t: [{to: w}, {to: div, conditions: {match: [{expected: true, actual: '{t.output.data.boom}'}]}}]
  w: [{to: ok, conditions: {code: [200, 201]}}, {to: bad, conditions: {code: '50*'}}]
"""


def test_errors_go_their_own_ways(graphs: Graphs) -> None:
    graphs.deploy(ERRORS)
    key = graphs.pub("errors")
    graphs.work("errs", {"message": "oops"}, status="error", code=503)
    assert graphs.state(key) == (0, {"path": "bad", "message": "oops"}, None)
    key = graphs.pub("errors")
    graphs.work("errs", code=201)
    assert graphs.state(key).data == {"path": "ok"}


def test_an_error_that_nothing_takes_up_fails_the_job(graphs: Graphs) -> None:
    graphs.deploy(ERRORS)
    key = graphs.pub("errors")
    graphs.work("errs", {"message": "gone"}, status="error", code=404)
    state = graphs.state(key)
    assert state.status < 0
    assert (state.error["code"], state.error["message"], state.error["activity"]) == (
        404,
        "gone",
        "w",
    )


def test_an_exception_that_nothing_takes_up_fails_the_job(graphs: Graphs) -> None:
    graphs.deploy(ERRORS)
    key = graphs.pub("errors")
    [task] = graphs.claim("errs")
    assert graphs.fail(task, 598) == "ok"
    assert graphs.state(key).error["code"] == 598


def test_an_expression_that_fails_is_named_and_fails_its_job_only(
    graphs: Graphs, db: Connection
) -> None:
    graphs.deploy(ERRORS)
    good = graphs.pub("errors")
    state = graphs.run("errors", {"boom": True, "obj": {}})
    assert state.status < 0
    assert state.error["expression"].startswith("activities.div.job.maps.")
    assert graphs.state(good).status == 1
    assert one(db, "select count(*) from my_app.streams") == 1  # the good one's


def test_a_worker_that_is_not_ready_answers_later(graphs: Graphs) -> None:
    graphs.deploy(ERRORS)
    key = graphs.pub("errors")
    metadata = graphs.work("errs", status="pending", code=202).args[0]["metadata"]
    assert graphs.state(key).status == 1
    for verdict in ("ok", "stale"):
        answer = {"metadata": metadata, "code": 200, "data": {}}
        assert (
            one(graphs.connection, "select hotmesh.graph_add('my-app', %s)",
                psycopg.types.json.Jsonb(answer)) == verdict
        )  # fmt: skip
        graphs.turn()
    assert graphs.state(key) == (0, {"path": "ok"}, None)


def test_a_retry_by_code_asks_again(graphs: Graphs, clock: Clock) -> None:
    graphs.deploy("""
subscribes: again
activities:
  t: {type: trigger}
  w: {type: worker, topic: flaky, retry: {'500': [2]}, job: {maps: {n: '{w.output.data.n}'}}}
transitions: {t: [{to: w}]}
""")
    key = graphs.pub("again")
    for _ in range(2):
        graphs.work("flaky", status="error", code=500)
        assert messages(graphs.connection) == [("activity", "delayed")]
        clock.advance("200 ms")
    graphs.work("flaky", {"n": 3})
    assert graphs.state(key) == (0, {"n": 3}, None)


@pytest.mark.parametrize("key", ["", ", id: kid"])
def test_a_retry_by_code_awaits_another_child(graphs: Graphs, clock: Clock, key: str) -> None:
    graphs.deploy("""
subscribes: kid
activities:
  t: {type: trigger}
  w: {type: worker, topic: kw, job: {maps: {n: '{w.output.data.n}', got: '{t.output.data.a}'}}}
transitions: {t: [{to: w}]}
""")
    graphs.deploy(f"""
subscribes: again
activities:
  t: {{type: trigger}}
  s: {{type: await, topic: kid, retry: {{'5**': [2]}}, input: {{maps: {{a: 7}}}},
      job: {{maps: {{n: '{{s.output.data.n}}', got: '{{s.output.data.got}}'}}}}{key}}}
transitions: {{t: [{{to: s}}]}}
""")
    good = graphs.pub("again")
    for answer in ({"status": "error", "code": 500}, {"status": "error", "code": 503}, {}):
        clock.advance("2 s")
        graphs.turn()
        graphs.work("kw", {"n": 2}, **answer)
    assert graphs.state(good) == (0, {"n": 2, "got": 7}, None)


def test_a_retry_by_code_calls_a_function_of_sql_again(
    graphs: Graphs, db: Connection, clock: Clock
) -> None:
    db.execute("""
create table public.tries (n int);
insert into public.tries values (0);
create function public.flaky(data jsonb) returns jsonb language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if (select n from public.tries) < (data ->> 'after')::int then
        raise exception 'not yet';
    end if;
    return data;
end $$""")
    graphs.deploy("""
subscribes: flaky
activities:
  t: {type: trigger}
  s: {type: sql, function: public.flaky, retry: {'598': [2]}, job: {maps: {
      after: '{s.output.data.after}'}}}
transitions: {t: [{to: s}]}
""")
    good, bad = graphs.pub("flaky", {"after": 1}), graphs.pub("flaky", {"after": 9})
    db.execute("update public.tries set n = 1")
    for _ in range(3):
        clock.advance("1 s")
        graphs.turn()
    assert graphs.state(good) == (0, {"after": 1}, None)
    assert graphs.state(bad).error["message"] == "not yet"
    assert messages(db) == []


def test_a_retry_by_code_counts_what_workers_raise_too(graphs: Graphs, clock: Clock) -> None:
    graphs.deploy("""
subscribes: again
activities:
  t: {type: trigger}
  w: {type: worker, topic: flaky, retry: {'500': [3]}}
transitions: {t: [{to: w}]}
""")
    clock.freeze()
    key = graphs.pub("again")
    due = """select round(extract(epoch from visible_at - created_at) * 1000)
             from my_app.streams where state = 'delayed'"""
    for delay in (10, 100, 1000):
        [task] = graphs.claim("flaky")
        graphs.fail(task, 500)
        assert one(graphs.connection, due) == delay
        clock.advance(f"{delay} ms")
    [task] = graphs.claim("flaky")
    graphs.fail(task, 500)
    assert graphs.state(key).status < 0


def test_a_late_answer_of_a_failed_job_is_dropped(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: two
activities:
  t: {type: trigger}
  a: {type: worker, topic: left}
  b: {type: worker, topic: right}
transitions: {t: [{to: a}, {to: b}]}
""")
    key = graphs.pub("two")
    [right] = graphs.claim("right")
    graphs.work("left", status="error", code=500)
    before = graphs.state(key)
    assert graphs.answer(right) == "stale"
    assert graphs.state(key) == before


def test_what_nobody_foresaw_ends_one_job_and_stops_no_turn(
    graphs: Graphs, db: Connection, clock: Clock
) -> None:
    """A code of the user's own is caught by no list; the jobs beside it go on."""
    db.execute("""
create function public.odd(data jsonb) returns jsonb language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$ begin
    if data ->> 'bad' = 'true' then raise exception 'odd' using errcode = 'UE001'; end if;
    return data;
end $$""")
    graphs.deploy("""
subscribes: odd
activities:
  t: {type: trigger}
  h: {type: hook, sleep: 60}
  s: {type: sql, function: public.odd}
transitions: {t: [{to: h}], h: [{to: s}]}
""")
    keys = [graphs.pub("odd", {"bad": bad}) for bad in (False, True, False)]
    clock.advance("61 s")
    graphs.turn()
    states = [graphs.state(key) for key in keys]
    assert [state.status == 0 for state in states] == [True, False, True]
    assert states[1].error["message"] == "odd (UE001)"


def test_an_error_binds_its_code(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: codes
activities:
  t: {type: trigger}
  w: {type: worker, topic: coded}
  e: {type: hook, job: {maps: {code: '{w.output.data.code}', why: '{w.output.data.why}'}}}
transitions: {t: [{to: w}], w: [{to: e, conditions: {code: 404}}]}
""")
    key = graphs.pub("codes")
    graphs.work("coded", {"why": "gone"}, status="error", code=404)
    assert graphs.state(key).data == {"code": 404, "why": "gone"}


def test_the_error_of_a_child_is_what_its_await_binds(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: child
activities: {t: {type: trigger}, w: {type: worker, topic: born}}
transitions: {t: [{to: w}]}
""")
    graphs.deploy("""
subscribes: parent
activities:
  t: {type: trigger}
  a: {type: await, topic: child}
  e: {type: hook, job: {maps: {code: '{a.output.data.code}', by: '{a.output.data.activity}',
      said: '{a.output.data.data}', n: '{a.output.data.n}'}}}
transitions: {t: [{to: a}], a: [{to: e, conditions: {code: '5**'}}]}
""")
    key = graphs.pub("parent")
    graphs.work("born", {"n": 0}, status="error", code=503)
    assert graphs.state(key) == (0, {"code": 503, "by": "w", "said": {"n": 0}}, None)


def test_what_a_worker_of_a_child_says_by_its_code_stays_in_the_child(
    graphs: Graphs,
) -> None:
    graphs.deploy("""
subscribes: child
activities: {t: {type: trigger}, w: {type: worker, topic: born, job: {maps: {n:
    '{w.output.data.n}'}}}}
transitions: {t: [{to: w}]}
""")
    graphs.deploy("""
subscribes: parent
activities:
  t: {type: trigger}
  a: {type: await, topic: child}
  ok: {type: hook, job: {maps: {ok: '{a.output.data.n}'}}}
  bad: {type: hook, job: {maps: {bad: '{a.output.data}'}}}
transitions:
  t: [{to: a}]
  a: [{to: ok, conditions: {code: 200}}, {to: bad, conditions: {code: 500}}]
""")
    key = graphs.pub("parent")
    graphs.work("born", {"n": 1}, code=500)
    assert graphs.state(key) == (0, {"ok": 1}, None)


def test_a_job_that_ends_as_it_would_wait_takes_no_signal(graphs: Graphs) -> None:
    graphs.deploy("""
subscribes: brief
activities:
  t: {type: trigger, stats: {id: brief}}
  h: {type: hook}
  i: {type: interrupt, reason: enough, throw: false}
transitions: {t: [{to: h}, {to: i}]}
hooks: {brief.in: [{to: h, conditions: {match: [
    {expected: '{$job.metadata.jid}', actual: '{$self.hook.data.id}'}]}}]}
""")
    graphs.signal("brief.in", {"id": "brief"})
    graphs.pub("brief")
    graphs.turn()
    assert graphs.state("brief").status < 0
    db = graphs.connection
    assert db.execute("select kind, name from my_app.signals").fetchall() == [
        ("signal", "brief.in:brief")
    ]
