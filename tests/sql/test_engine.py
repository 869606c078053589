"""The engine: starts in the caller's transaction, taken keys, many at once, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.catalogue import column
from support.clock import Clock
from support.hand import Connection, Hand, messages, one, start, unchanged
from support.refusals import refusal
from support.sessions import Session

Sessions = Callable[..., tuple[Session, ...]]
START = "select key, status from hotmesh.job_start('my-app', 'order', %s, options => %s)"

# --- in the caller's transaction ------------------------------------------------------------------


def test_a_start_that_is_rolled_back_leaves_nothing(db: Connection, caller: Connection) -> None:
    with unchanged(db), caller.transaction(force_rollback=True):
        start(caller, "a", ["x"], search={"city": "Oslo"})
        assert one(caller, "select hotmesh.job_status('my-app', 'a')") == 1


def test_a_start_is_seen_by_others_when_its_transaction_commits(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    (user,) = sessions("user")
    user.begin()
    user.run("select hotmesh.job_start('my-app', 'order', 'a')")
    hand = Hand(caller)
    assert hand.claim() == []
    user.commit()
    assert hand.take().key == "a"


def test_a_start_that_is_rolled_back_to_a_savepoint_leaves_the_others(
    db: Connection, caller: Connection
) -> None:
    with caller.transaction():
        start(caller, "a")
        with caller.transaction(force_rollback=True):
            start(caller, "b")
        start(caller, "c")
    assert column(db, "select key from my_app.jobs order by 1") == ["a", "c"]


def test_a_trigger_on_a_users_table_starts_a_workflow(db: Connection, caller: Connection) -> None:
    db.execute("create schema shop; create table shop.orders (id int, city text)")
    db.execute(
        "create function shop.begin_order() returns trigger language plpgsql as $$ begin"
        " perform hotmesh.job_start('my-app', 'order', 'order-' || new.id,"
        "     jsonb_build_array(new.city)); return null; end $$;"
        " create trigger begin_order after insert on shop.orders"
        " for each row execute function shop.begin_order()"
    )
    db.execute("insert into shop.orders values (1, 'Oslo'), (2, 'Bergen')")
    assert [task.args for task in Hand(caller).claim(take=9)] == [["Oslo"], ["Bergen"]]
    with pytest.raises(psycopg.Error):
        db.execute("insert into shop.orders values (3, 'Oslo'), (1, 'Oslo')")
    assert column(db, "select key from my_app.jobs order by 1") == [
        "order-1",
        "order-2",
    ]


def test_what_a_start_writes(db: Connection, caller: Connection, clock: Clock) -> None:
    now = clock.freeze()
    row = caller.execute(
        "select key, entity, queue, topic, status, cursor, context, created_at, updated_at,"
        " closed_at, expire_at"
        " from hotmesh.job_start('my-app', 'order', 'a', '[1, \"é\"]', 'sales', 'sale')"
    ).fetchone()
    assert row == ("a", "sale", "sales", "order", 1, 0, {}, now, now, None, None)
    assert db.execute("select field, value from my_app.jobs_attributes").fetchall() == [
        ("input", [1, "é"])
    ]
    assert messages(db, "kind", "state", "queue", "name", "priority", "attempt", "token") == [
        ("workflow", "ready", "sales", "order", 0, 0, 0)
    ]


def test_a_key_is_made_when_none_is_given(caller: Connection) -> None:
    keys = [one(caller, "select (hotmesh.job_start('my-app', 'order')).key") for _ in range(2)]
    assert len(set(keys)) == 2
    assert all(len(key) == 32 for key in keys)


def test_queue_and_entity_have_defaults(caller: Connection) -> None:
    row = caller.execute(
        "select queue, entity from hotmesh.job_start('my-app', 'order')"
    ).fetchone()
    assert row == ("default", "order")
    row = caller.execute(
        "select queue, entity from hotmesh.job_start('my-app', 'order', entity => 'sale')"
    ).fetchone()
    assert row == ("sale", "sale")


def test_search_data_become_attributes_of_the_user(db: Connection, caller: Connection) -> None:
    start(caller, "a", search={"city": "Oslo", "tags": ["x"], "n": None})
    assert db.execute(
        "select field, value from my_app.jobs_attributes where field like '\\_%' order by 1"
    ).fetchall() == [("_city", "Oslo"), ("_n", None), ("_tags", ["x"])]
    assert one(caller, "select hotmesh.job_export('my-app', 'a')")["data"] == {
        "city": "Oslo", "tags": ["x"], "n": None,
    }  # fmt: skip


# --- priority, delay, expire ----------------------------------------------------------------------


def test_higher_priority_is_served_first(caller: Connection) -> None:
    for key, priority in (("low", -5), ("first", 0), ("second", 0), ("high", 32767)):
        start(caller, key, priority=priority)
    hand = Hand(caller)
    assert [hand.claim()[0].key for _ in range(4)] == ["high", "first", "second", "low"]


def test_a_delayed_start_waits_for_its_time(caller: Connection, clock: Clock) -> None:
    clock.freeze()
    start(caller, "a", delay="90 seconds")
    hand = Hand(caller)
    [idle] = hand.turn(workflow=1)
    assert (idle.answer, idle.due) == ("next", 90.0)
    clock.advance("89.999 seconds")
    assert hand.claim() == []
    clock.advance("0.001 seconds")
    assert hand.take().key == "a"


def test_nothing_expires_unless_asked(db: Connection, caller: Connection, clock: Clock) -> None:
    clock.freeze("2026-03-15 12:00+00")
    start(caller, "keeps")
    start(caller, "goes", expire="1 hour")
    hand = Hand(caller)
    for task in hand.claim(take=2):
        hand.settle(task, "bye")
    clock.advance("59 minutes")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 0
    assert refusal(caller, START, "goes", Jsonb({})).sqlstate == "MSH41"
    clock.advance("1 minute")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    clock.advance("1000 years")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 0
    assert one(caller, "select hotmesh.job_result('my-app', 'goes')") == "bye"
    assert start(caller, "goes")
    assert one(caller, "select hotmesh.job_status('my-app', 'goes')") == 1
    assert one(caller, "select hotmesh.job_result('my-app', 'goes')") is None


# --- a key that is taken --------------------------------------------------------------------------


def test_a_duplicate_key_is_refused(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    with unchanged(db):
        diag = refusal(caller, START, "a", Jsonb({}))
    assert (diag.sqlstate, diag.message_primary) == ("MSH41", "Duplicate job: a")
    assert "open" in str(diag.message_detail)
    Hand(caller).settle(Hand(caller).take())
    diag = refusal(caller, START, "a", Jsonb({"on_conflict": "reject"}))
    assert "closed" in str(diag.message_detail)


@pytest.mark.parametrize("closed", [False, True])
def test_existing_answers_with_the_job_that_has_the_key(
    db: Connection, caller: Connection, closed: bool
) -> None:
    first = start(caller, "a", ["mine"])
    if closed:
        Hand(caller).settle(Hand(caller).take())
    with unchanged(db):
        assert start(caller, "a", ["yours"], on_conflict="existing") == first


def test_replace_puts_a_closed_job_away(db: Connection, caller: Connection) -> None:
    first = start(caller, "a", ["old"])
    Hand(caller).settle(Hand(caller).take(), "old result")
    second = start(caller, "a", ["new"], on_conflict="replace")
    assert second > first
    assert column(db, "select id from my_app.jobs_archive") == [first]
    assert Hand(caller).take().args == ["new"]
    assert one(caller, "select hotmesh.job_result('my-app', 'a')") is None


def test_replace_refuses_an_open_job(db: Connection, caller: Connection) -> None:
    start(caller, "a")
    with unchanged(db):
        diag = refusal(caller, START, "a", Jsonb({"on_conflict": "replace"}))
    assert diag.sqlstate == "MSH44"
    assert '"a"' in str(diag.message_primary)


@pytest.mark.parametrize("policy", ["reject", "existing", "replace"])
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_who_start_the_same_key_at_once(
    db: Connection, caller: Connection, sessions: Sessions, policy: str, how: str
) -> None:
    first, second = sessions("first", "second")
    options = Jsonb({"on_conflict": policy})
    first.begin()
    first.run(START, ["a", options])
    waiting = second.run_async(START, ["a", options])
    second.wait_blocked()
    first.run(how)
    if how == "rollback" or policy == "existing":
        assert waiting.result(10) == [("a", 1)]
    else:
        with pytest.raises(psycopg.Error) as caught:
            waiting.result(10)
        assert caught.value.sqlstate == ("MSH41" if policy == "reject" else "MSH44")
    assert column(db, "select key from my_app.jobs") == ["a"]
    assert messages(db) == [("workflow", "ready")]
    assert column(db, "select field from my_app.jobs_attributes") == ["input"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_who_replace_the_same_closed_job(
    db: Connection, caller: Connection, sessions: Sessions, how: str
) -> None:
    old = start(caller, "a")
    Hand(caller).settle(Hand(caller).take())
    first, second = sessions("first", "second")
    options = Jsonb({"on_conflict": "replace"})
    first.begin()
    first.run(START, ["a", options])
    waiting = second.run_async(START, ["a", options])
    second.wait_blocked()
    first.run(how)
    if how == "commit":
        with pytest.raises(psycopg.Error, match="is open"):
            waiting.result(10)
    else:
        assert waiting.result(10) == [("a", 1)]
    assert column(db, "select id from my_app.jobs_archive") == [old]
    assert column(db, "select count(*) from my_app.jobs") == [1]


def test_who_starts_while_the_old_job_is_archived_gets_the_key(
    db: Connection, caller: Connection, sessions: Sessions
) -> None:
    start(caller, "a", expire=0)
    Hand(caller).settle(Hand(caller).take())
    first, second = sessions("first", "second")
    first.begin()
    assert first.value("select hotmesh.job_archive('my-app')") == 1
    waiting = second.run_async(START, ["a", Jsonb({})])
    second.wait_blocked()
    first.commit()
    assert waiting.result(10) == [("a", 1)]


@pytest.mark.parametrize("policy", ["reject", "existing", "replace"])
def test_a_key_that_is_freed_between_two_looks_is_taken(db: Connection, policy: str) -> None:
    """The insert met a job that was gone when it was looked for."""
    with db.transaction():
        db.execute("set local search_path = pg_catalog, my_app, hotmesh")
        request = (
            "(nextval('hotmesh.ids'), 'a', 'order', 'default', 'order', '[]', %s, null, null, null,"
            " null, null, null, null, null, null, null)::hotmesh.job_request"
        )
        db.execute(
            f"select hotmesh._start_conflict({request})",
            [Jsonb({"on_conflict": policy})],
        )
    assert db.execute("select key, status from my_app.jobs").fetchall() == [("a", 1)]


# --- many -----------------------------------------------------------------------------------------


MANY = "select key, id from hotmesh.job_start_many('my-app', %s)"


def test_many_come_back_in_the_order_asked_for(db: Connection, caller: Connection) -> None:
    keys = [f"k{number * 7919 % 500}" for number in range(500)]
    rows = caller.execute(MANY, [Jsonb([{"workflow": "order", "key": key} for key in keys])])
    assert [row[0] for row in rows] == keys
    assert [task.key for task in Hand(caller).claim(take=3)] != []
    first = [Hand(caller).claim()[0].key for _ in range(3)]
    assert first == keys[3:6]


def test_many_are_all_started_or_none(db: Connection, caller: Connection) -> None:
    start(caller, "taken")
    asked: list[Any] = [{"workflow": "order", "key": key} for key in ("a", "taken", "b")]
    with unchanged(db):
        assert refusal(caller, MANY, Jsonb(asked)).sqlstate == "MSH41"
    asked[1] = {"workflow": "order", "args": {"no": "array"}}
    with unchanged(db):
        assert refusal(caller, MANY, Jsonb(asked)).sqlstate == "22023"


def test_an_unknown_key_of_a_request_is_refused_by_name(db: Connection, caller: Connection) -> None:
    asked = [{"workflow": "order"}, {"workflow": "order", "task_queue": "q", "prio": 1}]
    with unchanged(db):
        refused = refusal(caller, MANY, Jsonb(asked))
    assert refused.sqlstate == "22023"
    assert "unknown key of a request: prio, task_queue" in (refused.message_primary or "")


@pytest.mark.parametrize("part", ["workflow", "queue", "entity"])
@pytest.mark.parametrize("sign", ["\n", "\t", "\x1b", "\x7f"])
def test_a_name_is_one_line(db: Connection, caller: Connection, part: str, sign: str) -> None:
    with unchanged(db):
        refused = refusal(caller, MANY, Jsonb([{"workflow": "order", part: f"a{sign}b"}]))
    assert refused.sqlstate == "22023"
    assert "has a line break or another control character" in (refused.message_primary or "")
    assert caller.execute(MANY, [Jsonb([{"workflow": "order", "key": f"a{sign}b"}])]).rowcount == 1


def test_many_may_name_one_key_twice(db: Connection, caller: Connection) -> None:
    twice = [{"workflow": "order", "key": "a", "args": [n]} for n in (1, 2)]
    with unchanged(db):
        assert refusal(caller, MANY, Jsonb(twice)).sqlstate == "MSH41"
    options = {"options": {"on_conflict": "existing"}}
    rows = caller.execute(MANY, [Jsonb([each | options for each in twice])]).fetchall()
    assert rows[0] == rows[1]
    assert Hand(caller).take().args == [1]


def test_many_with_a_policy_each(db: Connection, caller: Connection) -> None:
    old = start(caller, "closed")
    Hand(caller).settle(Hand(caller).take())
    opened = start(caller, "open")
    asked = [
        {"workflow": "order", "key": "closed", "options": {"on_conflict": "replace"}},
        {"workflow": "order", "key": "new"},
        {"workflow": "order", "key": "open", "options": {"on_conflict": "existing"}},
    ]
    rows = caller.execute(MANY, [Jsonb(asked)]).fetchall()
    assert [row[0] for row in rows] == ["closed", "new", "open"]
    assert rows[2][1] == opened
    assert rows[0][1] > old
    assert column(db, "select id from my_app.jobs_archive") == [old]


def test_none_are_many_too(caller: Connection) -> None:
    assert caller.execute(MANY, [Jsonb([])]).fetchall() == []


def test_two_who_start_the_same_many_in_other_orders_do_not_deadlock(
    db: Connection, sessions: Sessions
) -> None:
    first, second = sessions("first", "second")
    options = {"options": {"on_conflict": "existing"}}
    backwards = [{"workflow": "order", "key": key, **options} for key in ("c", "b")]
    first.begin()
    first.run(START, ["b", Jsonb({})])
    waiting = second.run_async(MANY, [Jsonb(backwards)])
    second.wait_blocked()
    first.run(START, ["c", Jsonb({})])
    first.commit()
    assert [row[0] for row in waiting.result(10)] == ["c", "b"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"args": Jsonb({"a": 1})}, "args"),
        ({"args": Jsonb("text")}, "args"),
        ({"args": Jsonb(None)}, "args"),
        ({"args": None}, "args"),
        ({"workflow": ""}, "workflow"),
        ({"workflow": None}, "workflow"),
        ({"workflow": "é" * 501}, "workflow"),
        ({"key": ""}, "key"),
        ({"key": "k" * 1001}, "key"),
        ({"key": "\U0001f600" * 999}, "key"),
        ({"queue": ""}, "queue"),
        ({"queue": "q" * 4000}, "queue"),
        ({"entity": ""}, "entity"),
        ({"entity": "e" * 4000}, "entity"),
        ({"options": Jsonb([])}, "options"),
        ({"options": Jsonb("x")}, "options"),
    ],
)
def test_a_bad_start_is_refused(
    db: Connection, caller: Connection, given: dict[str, Any], says: str
) -> None:
    call = {"app": "my-app", "workflow": "order", **given}
    arguments = ", ".join(f"{name} => %s" for name in call)
    with unchanged(db):
        diag = refusal(caller, f"select hotmesh.job_start({arguments})", *call.values())
    assert diag.sqlstate == "22023"
    assert says in str(diag.message_primary)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_conflct": "reject"}, "on_conflct"),
        ({"on_conflict": "ignore"}, "ignore"),
        ({"on_conflict": 5}, "5"),
        ({"on_conflict": {"a": 1}}, "on_conflict"),
        ({"priority": 1.5}, "1.5"),
        ({"priority": 32768}, "32768"),
        ({"priority": 1e300}, "priority"),
        ({"priority": "5"}, "5"),
        ({"priority": True}, "true"),
        ({"search": [1]}, "search"),
        ({"search": None}, "search"),
        ({"search": {"n" * 3000: 1}}, "search"),
        ({"expire": -1}, "-1"),
        ({"expire": "-1 hour"}, "-1 hour"),
        ({"expire": "soon"}, "soon"),
        ({"expire": "1 day; drop table jobs"}, "drop"),
        ({"expire": "99999999999 years"}, "99999999999 years"),
        ({"expire": "1001 years"}, "1001 years"),
        ({"expire": 1e300}, "expire"),
        ({"expire": True}, "true"),
        ({"expire": [1]}, "expire"),
        ({"expire": "infinity"}, "infinity"),
        ({"delay": "NaN"}, "NaN"),
        ({"delay": ""}, "delay"),
        ({"delay": "5"}, "5"),
        ({"retry_policy": [1]}, "retry policy"),
        ({"retry_policy": {"maximum_attempts": -1}}, "maximum_attempts"),
        ({"retry_policy": {"maximum_attempts": 0}}, "maximum_attempts"),
        ({"retry_policy": {"maximum_attempts": 1.5}}, "maximum_attempts"),
        ({"retry_policy": {"maximum_attempts": 10**30}}, "maximum_attempts"),
        ({"retry_policy": {"maximumAttempts": 3}}, "maximumAttempts"),
        ({"retry_policy": {"backoff_coefficient": 0.5}}, "backoff_coefficient"),
        ({"retry_policy": {"backoff_coefficient": 1e300}}, "backoff_coefficient"),
        ({"retry_policy": {"backoff_coefficient": "2"}}, "backoff_coefficient"),
        ({"retry_policy": {"initial_interval": -1}}, "initial_interval"),
        ({"retry_policy": {"maximum_interval": "many"}}, "maximum_interval"),
        (
            {"retry_policy": {"non_retryable_error_types": "ValueError"}},
            "non_retryable",
        ),
    ],
)
def test_a_bad_option_is_refused(
    db: Connection, caller: Connection, options: dict[str, Any], says: str
) -> None:
    with unchanged(db):
        diag = refusal(caller, START, "a", Jsonb(options))
    assert diag.sqlstate == "22023"
    assert says in str(diag.message_primary)


@pytest.mark.parametrize("requests", [None, Jsonb(None), Jsonb({}), Jsonb("x"), Jsonb([1]),
                                      Jsonb([None]), Jsonb([[]])])  # fmt: skip
def test_many_starts_are_a_list_of_objects(
    db: Connection, caller: Connection, requests: Any
) -> None:
    with unchanged(db):
        assert refusal(caller, MANY, requests).sqlstate == "22023"


@pytest.mark.parametrize(
    "text", [r'"\u0000"', r'"\ud800"', "NaN", "Infinity", "[1,", r'{"\u0000":1}']
)
def test_what_json_can_not_carry_never_gets_in(
    db: Connection, caller: Connection, text: str
) -> None:
    with unchanged(db), pytest.raises(psycopg.DataError):
        caller.execute("select hotmesh.job_start('my-app', 'order', 'a', %s)", [f"[{text}]"])


def test_args_past_the_limit_are_refused_with_size_and_limit(
    db: Connection, caller: Connection
) -> None:
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 1000}'")
    start(caller, "fits", ["x" * 900])
    with unchanged(db):
        diag = refusal(
            caller,
            "select hotmesh.job_start('my-app', 'order', 'a', %s)",
            Jsonb(["x" * 1000]),
        )
    assert diag.sqlstate == "MSH43"
    assert "order" in str(diag.message_primary)
    assert "10" in str(diag.message_primary)
    assert "1000 bytes" in str(diag.message_detail)


def test_search_data_past_the_limit_are_refused(db: Connection, caller: Connection) -> None:
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 1000}'")
    with unchanged(db):
        assert refusal(caller, START, "a", Jsonb({"search": {"t": "x" * 1100}})).sqlstate == "MSH43"
