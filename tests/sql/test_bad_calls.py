"""Every door under bad input: it answers, or it says clearly what was wrong, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.engine import STRANGER
from support.hand import Connection, Hand, activity, contents, done, one, start

Args = dict[str, Any]

JSON = [
    None, 7, -1.5, 1e300, "x", "", "x" * 3000, [], {}, True, [None], [7], ["a"], [[]], [{}],
    {"a": None}, {"": 1}, {"a": {"b": 1}}, [{"id": "x"}],
]  # fmt: skip
BAD: dict[str, list[Any]] = {
    "text": ["", " ", "x" * 3000, "a\nb", "\x01", "-1", "NaN", "null"],
    "jsonb": [Jsonb(value) for value in JSON],
    "integer": [0, -5, 2**31 - 1, -(2**31)],
    "bigint": [0, -5, 2**63 - 1, -(2**63)],
    "interval": ["-1 s", "0 s", "1000000 years", "1 microsecond"],
    "timestamp with time zone": ["infinity", "-infinity", "0001-01-01 BC"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1e1000", "1e-1000"],
    "boolean": [True, False],
    "text[]": [[], [None], [""], ["x" * 3000], ["a", "a"]],
    "bigint[]": [[], [None], [-1], [2**63 - 1]],
}
POLICY = {
    "maximum_attempts": 3, "initial_interval": "1 s", "backoff_coefficient": 2,
    "maximum_interval": 60, "non_retryable_error_types": ["ValueError"],
}  # fmt: skip
OPTIONS = {
    "on_conflict": "existing", "retry_policy": POLICY, "execution_timeout": "1 day",
    "run_timeout": 60, "expire": "1 day", "search": {"colour": "red"}, "priority": 5, "delay": 1,
    "concurrency_key": "c", "parent": "open",
}  # fmt: skip
GRAPH = {
    "app": {
        "id": "my-app", "version": "1",
        "graphs": [{
            "subscribes": "g", "expire": 120,
            "activities": {
                "t": {"type": "trigger"},
                "w": {"type": "worker", "topic": "work"},
                "h": {"type": "hook"},
            },
            "transitions": {"t": [{"to": "w"}], "w": [{"to": "h"}]},
            "hooks": {"news": [{"to": "h", "conditions": {
                "match": [{"expected": "{t.output.data.id}", "actual": "{$self.hook.data.id}"}]}}]},
        }],
    }
}  # fmt: skip

# One sound call of each door; where a door has two forms, of both. What is a dictionary or a list
# of JSON is spoiled at each of its places.
CALLS: list[tuple[str, Args]] = [
    ("app_create", {"app": "other"}),
    ("app_drop", {"force": True}),
    ("app_grant", {"role": STRANGER, "kind": "reader"}),
    ("app_revoke", {"role": STRANGER}),
    ("app_upgrade", {}),
    ("emit_channel", {}),
    ("emit_read", {"job_id": 1, "field": "x"}),
    ("entity_append", {"key": "open", "path": "list", "value": Jsonb(1), "request": "r"}),
    ("entity_apply", {"key": "open", "request": "r", "commands": Jsonb(
        [{"operation": "set", "path": "a", "argument": 1}])}),
    ("entity_at", {"key": "open", "version": 1}),
    ("entity_at", {"key": "open", "at": "2126-01-01"}),
    ("entity_create_index", {"entity": "order", "field": "a", "method": "btree"}),
    ("entity_delete", {"key": "open", "path": "a", "request": "r"}),
    ("entity_diff", {"key": "open", "older": 0, "newer": 1}),
    ("entity_find", {
        "entity": "order", "conditions": Jsonb({"a": {"$gt": 0}, "n": 1}), "take": 5, "skip": 0,
        "order_by": "a", "descending": False, "before": None, "keys": ["open"]}),
    ("entity_fork", {
        "key": "open", "version": 1, "new_key": "new", "workflow": "order", "args": Jsonb([]),
        "queue": "q", "entity": "e", "options": Jsonb(OPTIONS)}),
    ("entity_get", {"key": "open", "path": "a"}),
    ("entity_history", {"key": "open", "after": 0, "take": 5}),
    ("entity_increment", {"key": "open", "path": "n", "amount": 1, "request": "r"}),
    ("entity_index_ddl", {"entity": "order", "field": "a", "method": "btree"}),
    ("entity_merge", {"key": "open", "value": Jsonb({"a": 2})}),
    ("entity_merge", {"key": "open", "path": "o", "value": Jsonb({"a": 2}), "request": "r"}),
    ("entity_prepend", {"key": "open", "path": "list", "value": Jsonb(1), "request": "r"}),
    ("entity_prune", {"keep": "1 day", "take": 5}),
    ("entity_remove", {"key": "open", "path": "list", "index": 0, "request": "r"}),
    ("entity_set", {"key": "open", "value": Jsonb({})}),
    ("entity_set", {"key": "open", "path": "o", "value": Jsonb({}), "request": "r"}),
    ("entity_set_if_not_exists", {
        "key": "open", "path": "o", "value": Jsonb({}), "request": "r"}),
    ("entity_toggle", {"key": "open", "path": "t", "request": "r"}),
    ("entity_watch", {"key": "open"}),
    ("graph_activate", {"version": "1"}),
    ("graph_add", {"response": Jsonb(
        {"metadata": {"jid": "g1", "aid": "w", "dad": ",0,0"}, "data": {}, "status": "success"})}),
    ("graph_call", {"id": None, "token": None}),
    ("graph_deploy", {"document": Jsonb(GRAPH), "subscribes": "t2"}),
    ("graph_explain", {"topic": "g", "format": "text"}),
    ("graph_ids", {
        "topic": "g", "query": Jsonb({"range": "1h", "end": "NOW", "granularity": "5m"}),
        "facets": ["a:b"]}),
    ("graph_list", {}),
    ("graph_pub", {
        "topic": "g", "data": Jsonb({"id": 1}), "key": "g9",
        "options": Jsonb({"on_conflict": "existing", "expire": 60, "search": {"colour": "red"}})}),
    ("graph_signal", {"topic": "news", "data": Jsonb({"id": 1}), "status": None, "code": 200}),
    ("graph_signal_all", {
        "topic": "news", "data": Jsonb({"id": 1}), "query": Jsonb({}), "facets": []}),
    ("graph_stats", {"topic": "g", "query": Jsonb(
        {"range": "1h", "end": "NOW", "granularity": "5m", "sparse": True, "data": {"a": 1}})}),
    ("hook_start", {
        "key": "open", "workflow": "h", "args": Jsonb([]), "queue": "q",
        "options": Jsonb({"retry_policy": POLICY})}),
    ("job_archive", {"take": 5}),
    ("job_cancel", {"key": "open"}),
    ("job_describe", {"key": "open"}),
    ("job_export", {"key": "open", "allow": ["data"], "block": ["state"]}),
    ("job_history", {"key": "open", "dimension": "", "after": 0}),
    ("job_interrupt", {
        "key": "open", "reason": "r", "code": 410, "descend": False, "throw": True}),
    ("job_list", {
        "entity": "order", "queue": "default", "state": "open", "take": 5, "before": None}),
    ("job_prune", {"keep": "1 day"}),
    ("job_result", {"key": "open"}),
    ("job_results", {"keys": ["open"]}),
    ("job_scrub", {"key": "closed"}),
    ("job_signal", {"key": "open", "signal": "s", "data": Jsonb(1)}),
    ("job_start", {
        "workflow": "order", "key": "new", "args": Jsonb([1]), "queue": "q", "entity": "e",
        "options": Jsonb(OPTIONS)}),
    ("job_start_many", {"requests": Jsonb([{
        "workflow": "order", "key": "new", "args": [1], "queue": "q", "entity": "e",
        "options": OPTIONS}])}),
    ("job_state", {"key": "open", "metadata": True}),
    ("job_status", {"key": "open"}),
    ("query_answer", {"id": 1, "answer": Jsonb({"output": 1})}),
    ("query_ask", {"key": "open", "name": "q", "args": Jsonb([])}),
    ("query_result", {"id": 1}),
    ("queue_limit", {
        "queue": "q", "concurrency": 1, "per_key": 1, "rate": 1, "per": "1 s",
        "kind": "activity"}),
    ("queue_list", {}),
    ("queue_stats", {}),
    ("queue_throttle", {"queue": "q", "delay": 1, "kind": "activity"}),
    ("queue_unlimit", {"queue": "q", "kind": "activity"}),
    ("schedule_backfill", {"name": "s", "start_at": "2026-01-01", "end_at": "2026-01-02"}),
    ("schedule_create", {
        "name": "s2", "workflow": "order", "args": Jsonb([]), "queue": "q", "every": "1 h",
        "timezone": "UTC", "overlap": "skip", "options": Jsonb({
            "offset": "1 m", "start_at": "2026-01-01", "end_at": "2126-01-01", "entity": "e",
            "catchup_window": "1 h", "note": "n", "paused": True, "on_conflict": "existing",
            "retry_policy": POLICY, "search": {"colour": "red"}})}),
    ("schedule_create", {
        "name": "s2", "workflow": "order", "cron": "* * * * *", "timezone": "UTC"}),
    ("schedule_delete", {"name": "s"}),
    ("schedule_list", {"name": "s"}),
    ("schedule_pause", {"name": "s", "note": "n"}),
    ("schedule_resume", {"name": "s", "note": "n"}),
    ("schedule_trigger", {"name": "s"}),
    ("search_find", {
        "entity": "order", "conditions": Jsonb({"a": 1}), "take": 5, "skip": 0, "before": None}),
    ("search_get", {"key": "open", "fields": ["a"]}),
    ("signal_send", {"signal": "s", "data": Jsonb(1)}),
    ("stream_claim", {"queue": "default", "worker": "w", "take": 1, "lease": "15 s"}),
    ("stream_complete", {"id": None, "token": None, "output": Jsonb(1)}),
    ("stream_extend", {"id": None, "token": None, "lease": "15 s", "details": Jsonb(1)}),
    ("stream_fail", {
        "id": None, "token": None, "error": Jsonb({"message": "m", "type": "T", "code": 500}),
        "retry_policy": Jsonb(POLICY), "details": Jsonb(1)}),
    ("stream_hold", {"id": None, "token": None}),
    ("stream_revive", {"id": None}),
    ("turn", {"worker": "hand", "reports": None, "want": None}),
    ("update_result", {"key": "open", "id": "u"}),
    ("update_send", {"key": "open", "name": "u", "args": Jsonb([]), "id": "u1"}),
    ("worker_extend", {"worker": "hand", "ids": [1], "lease": "15 s"}),
    ("worker_heartbeat", {"worker": "hand", "beats": None, "lease": "15 s"}),
    ("worker_list", {}),
    ("worker_stop", {"worker": "hand", "ids": [1]}),
]  # fmt: skip
# A driver's own: a step of a wrong form fails its report, which is then sent alone and recorded on
# its job (`_isolate`).
STEPS = ("done", "commands")
WITHOUT_ARGUMENTS = {"now", "version", "protocol", "build"}


@pytest.fixture
def told(db: Connection) -> dict[tuple[str, str], Any]:
    """A house with something of everything; and what some calls say of it."""
    for key in ("open", "closed"):
        start(db, key)
    db.execute("select hotmesh.job_interrupt('my-app', 'closed')")
    db.execute(
        "select hotmesh.entity_set('my-app', 'open', %s)",
        [Jsonb({"a": 1, "list": [1], "n": 1, "o": {}, "t": True})],
    )
    db.execute("select hotmesh.graph_deploy('my-app', %s)", [Jsonb(GRAPH)])
    db.execute("select hotmesh.graph_activate('my-app', '1')")
    db.execute("select hotmesh.graph_pub('my-app', 'g', '{\"id\": 1}', 'g1')")
    db.execute("select hotmesh.schedule_create('my-app', 's', 'order', every => '1 h')")
    hand = Hand(db)
    task = hand.take()
    report = {
        "id": task.id, "token": task.token, "cursor": task.cursor, "running": True, "before": 0,
        "done": [done(0)], "commands": [activity(1)],
    }  # fmt: skip
    want = {
        **hand.serves, "workflow": 1, "activity": 1, "lease": 15, "idle": True, "seen": True,
        "host": "h", "pid": 1, "held": [task.id], "limits": {}, "brief": False,
    }  # fmt: skip
    return {
        ("turn", "reports"): Jsonb([report]),
        ("turn", "want"): Jsonb(want),
        ("worker_heartbeat", "beats"): Jsonb([{"id": task.id, "token": task.token, "details": 1}]),
        ("*", "id"): task.id,
        ("*", "token"): task.token,
    }


def spoiled(value: Any) -> Iterator[Any]:
    """A document with each of its places replaced by what does not belong there, or gone."""
    yield from JSON
    for place, inner in places(value):
        if place in STEPS:
            continue
        for bad in spoiled(inner):
            copy = value.copy()
            copy[place] = bad
            yield copy
    if isinstance(value, dict):
        yield value | {"nonsense": 1}
        for gone in value:
            yield {name: each for name, each in value.items() if name != gone}


def places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def variants(kind: str, sound: Any) -> Iterator[Any]:
    yield None
    if kind == "jsonb" and isinstance(sound, Jsonb):
        yield from map(Jsonb, spoiled(sound.obj))
    else:
        yield from BAD[kind]


def kinds(db: Connection, door: str, names: set[str]) -> dict[str, str]:
    """The types of those arguments of that form of a door that has them all."""
    [found] = db.execute(
        "select p.proargnames[:p.pronargs], array(select format_type(t, null) from"
        " unnest(p.proargtypes) with ordinality u (t, n) order by n)"
        " from pg_proc p where p.pronamespace = 'hotmesh'::regnamespace and p.proname = %s"
        " and p.proargnames[:p.pronargs] @> %s order by p.pronargs limit 1",
        [door, list(names)],
    ).fetchall()
    return dict(zip(*found, strict=True))


def call(connection: Connection, door: str, args: Args, types: dict[str, str]) -> str | None:
    """What is wrong with how a door takes these arguments; whatever it does is taken back."""
    said = refused(connection, door, args, types)
    return fault(said) if said else None


def refused(
    connection: Connection, door: str, args: Args, types: dict[str, str]
) -> psycopg.errors.Diagnostic | None:
    """What a door says if it refuses these arguments."""
    told = ", ".join(f"{name} => %s::{types[name]}" for name in args)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local statement_timeout = '10s'")
            connection.execute(f"select * from hotmesh.{door}({told})", list(args.values()))
            connection.execute("set constraints all immediate")
    except psycopg.Error as error:
        return error.diag
    return None


def fault(diag: psycopg.errors.Diagnostic) -> str | None:
    said = [diag.message_primary or "", diag.message_detail or "", diag.message_hint or ""]
    state = diag.sqlstate or ""
    if not state.startswith("MSH") and state not in ("22023", "42501", "0A000"):
        return f"{state} {said[0]}"
    if not all(said) or "<NULL>" in "".join(said) or len(said[0]) > 600:
        return f"{state} {' | '.join(said)[:700]}"
    return None


def test_doors_that_are_called_badly_answer_or_say_what_is_wrong(
    db: Connection, told: dict[tuple[str, str], Any]
) -> None:
    """The owner calls: only it may open each of them."""
    faults = []
    before = contents(db)
    for door, args in CALLS:
        types, sound = kinds(db, door, {"app", *args}), soundly(told, door, args)
        faults += [
            f"{door}: {name} => {str(getattr(value, 'obj', value))[:200]!r}: {found}"
            for name in sound
            for value in variants(types[name], sound[name])
            if (found := call(db, door, {**sound, name: value}, types))
        ]
        assert contents(db) == before, door
    assert not faults, "\n".join(faults)


def soundly(told: dict[tuple[str, str], Any], door: str, args: Args) -> Args:
    """The arguments of a sound call, with what the house says of them."""
    return {
        name: told.get((door, name), told.get(("*", name), value) if value is None else value)
        for name, value in {"app": "my-app", **args}.items()
    }


def test_doors_do_the_same_where_backslashes_are_escapes(
    db: Connection, dsn: str, told: dict[tuple[str, str], Any]
) -> None:
    """A session may have standard_conforming_strings off; it keeps it, too."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("set standard_conforming_strings = off")
        other.execute("set escape_string_warning = off")
        for door, args in CALLS:
            types, sound = kinds(db, door, {"app", *args}), soundly(told, door, args)
            there, here = refused(other, door, sound, types), refused(db, door, sound, types)
            assert (there and there.message_primary) == (here and here.message_primary), door
        other.execute("update my_app.jobs set context = '{\"a.b\": 1}' where key = 'open'")
        assert one(other, "show standard_conforming_strings") == "off"


def test_every_door_is_called_badly(db: Connection) -> None:
    doors = db.execute(
        "select distinct proname from pg_proc where pronamespace = 'hotmesh'::regnamespace"
        r" and proname not like '\_%'"
    ).fetchall()
    assert {door for door, _ in CALLS} | WITHOUT_ARGUMENTS == {name for (name,) in doors}


def test_a_call_that_fails_inside_is_found(db: Connection) -> None:
    """The control: what is not refused but breaks, or says nothing of use, does not pass."""
    db.execute("create schema wild")
    for name, body in {
        "breaks": "begin perform 'x'::integer; end",
        "mute": "begin raise exception 'no' using errcode = '22023'; end",
        "says_null": "begin raise exception 'no %', null using errcode = 'MSH00', detail = 'd',"
        " hint = 'h'; end",
    }.items():
        db.execute(
            f"create function hotmesh.{name}(app text) returns void language plpgsql as $${body}$$"
        )
        assert call(db, name, {"app": "x"}, {"app": "text"})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("turn('my-app', 'w', '{}')", "reports are no JSON array"),
        ("turn('my-app', 'w', null)", "reports are no JSON array"),
        ("turn('my-app', 'w', '[7]')", "a report is malformed"),
        ("turn('my-app', 'w', '[{\"id\": 1.5, \"token\": 1}]')", "a report is malformed"),
        ("turn('my-app', 'w', '{}', '{\"isolate\": true}')", "reports are no JSON array"),
        ("turn('my-app', 'w', '[]', '{\"kinds\": [\"workflow\"]}')", "bad want"),
        (
            "turn('my-app', 'w', '[]', '{\"kinds\": [\"activity\"], \"queues\": [], \"names\": []}')",
            "bad want",
        ),
        ("turn('my-app', 'w', '[]', '{\"workflow\": -1}')", "bad want"),
        ("graph_deploy('my-app', '[]')", "the document has 1 fault: a document is an object"),
        ("job_interrupt('my-app', 'open', code => -5)", "bad code: -5"),
        ("job_interrupt('my-app', 'open', code => 0)", "bad code: 0"),
        ("hook_start('my-app', 'open', 'h', options => '7')", "a hook has one option"),
        ("hook_start('my-app', 'open', 'h', options => '{\"prio\": 1}')", "a hook has one option"),
        ("graph_add('my-app', '{}')", "a response needs the metadata of its task"),
        ("query_answer('my-app', 1, '7')", "that is no answer to a query"),
        ("update_send('my-app', 'open', 'u', id => '')", "the id of an update is empty"),
        ("worker_stop('my-app', null, '{1}')", "a worker needs a name"),
        ("worker_extend('my-app', '', '{1}')", "a worker needs a name"),
        ("stream_claim('my-app', 'q', repeat('w', 501))", "a claim needs a queue"),
        ("job_status('my-app', null)", "job null not found"),
        ("job_status(null, 'open')", "unknown app null"),
        ("graph_pub('my-app', null)", "no graph answers topic null"),
        ("schedule_delete('my-app', null)", "schedule null not found"),
    ],
)
def test_nonsense_is_refused(db: Connection, query: str, message: str) -> None:
    start(db, "open")
    before = contents(db)
    with pytest.raises(psycopg.Error, match=message) as caught:
        db.execute(f"select hotmesh.{query}")
    assert fault(caught.value.diag) is None
    assert contents(db) == before


@pytest.mark.parametrize(
    "query",
    [
        "job_signal('my-app', 'open', 's', %s)",
        "signal_send('my-app', 's', %s)",
        "hook_start('my-app', 'open', 'h', jsonb_build_array(%s::jsonb))",
        "query_ask('my-app', 'open', 'q', jsonb_build_array(%s::jsonb))",
        "query_answer('my-app', 1, jsonb_build_object('output', %s::jsonb))",
        "update_send('my-app', 'open', 'u', jsonb_build_array(%s::jsonb))",
        "stream_extend('my-app', 1, 1, details => %s)",
        "job_interrupt('my-app', 'open', (%s::jsonb)::text)",
        "schedule_pause('my-app', 's', (%s::jsonb)::text)",
    ],
)
def test_what_is_too_large_is_refused_before_it_is_written(db: Connection, query: str) -> None:
    start(db, "open")
    db.execute("select hotmesh.schedule_create('my-app', 's', 'order', every => '1 h')")
    db.execute("update hotmesh.apps set settings = '{\"value_limit\": 10000}'")
    before = contents(db)
    with pytest.raises(psycopg.Error, match="is too large") as caught:
        db.execute(f"select hotmesh.{query}", [json.dumps("x" * 12_000)])
    assert caught.value.diag.sqlstate == "MSH43"
    assert contents(db) == before
    assert one(db, "select note is null from my_app.schedules")
    db.execute(f"select hotmesh.{query}", [json.dumps("x" * 8_000)])
