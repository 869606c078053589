"""What people look at: how deep the queues are, what died, what is stuck."""

from __future__ import annotations

import pytest

from support.catalogue import Connection


@pytest.fixture
def busy(db: Connection) -> Connection:
    """Two apps with messages in every state, a parked job, one that waits for right code."""
    db.execute("select hotmesh.app_create('other')")
    for schema in ("my_app", "other"):
        db.execute(f"""
            insert into {schema}.jobs (id, key, entity, topic, status, created_at, updated_at, closed_at)
            select i, k, 'e', 'order', s, now(), now(), case when s = 0 then now() end
            from (values (1, 'fine', 1), (2, 'parked', 1), (3, 'mismatched', 1), (4, 'ended', 0))
                as v (i, k, s);
            insert into {schema}.jobs_attributes (job_id, field, value, created_at, updated_at)
            values (3, 'mismatch', '{{"message": "expected a, found b"}}', now(), now());
            insert into {schema}.streams
                (kind, state, queue, name, job_id, attempt, worker, error, visible_at, created_at)
            values
                ('workflow', 'waiting', 'q', 'order', 1, 0, null, null, now(), now()),
                ('workflow', 'dead', 'q', 'order', 2, 5, null, '{{"message": "lost"}}', now(), now()),
                ('workflow', 'delayed', 'q', 'order', 3, 1, null, '{{"x": 1}}', now(), now()),
                ('workflow', 'dead', 'q', 'order', 4, 5, null, '{{"message": "old"}}', now(), now()),
                ('activity', 'ready', 'q', 'pay', 1, 0, null, null, now(), '2026-01-01 00:00+00'),
                ('activity', 'ready', 'q', 'pay', 1, 0, null, null, now(), '2026-01-02 00:00+00'),
                ('activity', 'leased', 'q', 'pay', 1, 1, 'w', null, now(), now()),
                ('activity', 'dead', 'q', 'pay', 1, 3, null,
                 '{{"type": "ValueError", "message": "no"}}', now(), now()),
                ('event', 'ready', '', 'result', 1, 0, null, null, now(), now())""")
    return db


def test_queue_depth_counts_by_state(busy: Connection) -> None:
    rows = busy.execute(
        "select app, kind, queue, name, ready, delayed, leased, waiting, dead,"
        " oldest = '2026-01-01 00:00+00' from hotmesh.queue_depth order by app, kind"
    ).fetchall()
    assert rows == [
        (app, *row)
        for app in ("my-app", "other")
        for row in (
            ("activity", "q", "pay", 2, 0, 1, 0, 1, True),
            ("workflow", "q", "order", 0, 1, 0, 1, 2, None),
        )
    ]


def test_dead_letters_name_their_job_and_error(busy: Connection) -> None:
    rows = busy.execute(
        "select app, key, queue, name, attempt, type, message from hotmesh.dead_letters order by app"
    ).fetchall()
    assert rows == [(app, "fine", "q", "pay", 3, "ValueError", "no") for app in ("my-app", "other")]


def test_stuck_jobs_are_parked_or_wait_for_right_code(busy: Connection) -> None:
    rows = busy.execute(
        "select key, topic, reason, message from hotmesh.stuck_jobs"
        " where app = 'my-app' order by key"
    ).fetchall()
    assert rows == [
        ("mismatched", "order", "mismatch", "expected a, found b"),
        ("parked", "order", "parked", "lost"),
    ]


def test_the_state_of_a_job_says_that_it_is_stuck(busy: Connection) -> None:
    state = "select hotmesh.job_state('my-app', key, true) -> 'metadata' -> 'stuck'"
    found = dict(busy.execute(f"select key, ({state}) from my_app.jobs").fetchall())
    told = {key: (about["reason"], about["message"]) for key, about in found.items() if about}
    assert told == {
        "mismatched": ("mismatch", "expected a, found b"),
        "parked": ("parked", "lost"),
    }
    busy.execute("select hotmesh.stream_revive('my-app', %s)", [found["parked"]["id"]])
    assert busy.execute(f"{state} from my_app.jobs where key = 'parked'").fetchone() == (None,)


def test_a_view_over_both_reads_the_table_and_its_archive(busy: Connection) -> None:
    busy.execute("update my_app.jobs set expire_at = now() - interval '1 day' where key = 'ended'")
    assert busy.execute("select hotmesh.job_archive('my-app')").fetchone() == (1,)
    both = "select count(*), count(*) filter (where closed_at is not null) from my_app.jobs_all"
    assert busy.execute(both).fetchone() == (4, 1)


def test_queue_stats_are_those_of_one_app(busy: Connection) -> None:
    rows = busy.execute(
        "select kind, queue, name, ready, delayed, leased, waiting, held, dead,"
        " oldest = '2026-01-01 00:00+00' from hotmesh.queue_stats('my-app')"
    ).fetchall()
    assert rows == [
        ("activity", "q", "pay", 2, 0, 1, 0, 0, 1, True),
        ("workflow", "q", "order", 0, 1, 0, 1, 0, 2, None),
    ]


def test_workers_tell_what_they_serve_and_hold(busy: Connection) -> None:
    busy.execute(
        "insert into my_app.workers (name, kinds, queues, names, host, pid, seen_at, started_at)"
        " values ('w', '{activity}', '{q}', '{pay}', 'here', 7, now(), now())"
    )
    rows = busy.execute("select name, host, pid, serves, held from hotmesh.worker_list('my-app')")
    serves = [{"kind": "activity", "queue": "q", "name": "pay"}]
    assert rows.fetchall() == [("w", "here", 7, serves, 1)]
    assert busy.execute("select from hotmesh.worker_list('other')").rowcount == 0


def test_a_job_is_described_with_what_is_under_way(busy: Connection) -> None:
    busy.execute(
        "insert into my_app.jobs (id, key, entity, topic, status, parent_id, created_at, updated_at)"
        " values (9, 'kid', 'e', 'order', 1, 1, now(), now())"
    )
    row = busy.execute("select hotmesh.job_describe('my-app', 'fine')").fetchone()
    assert row
    told = row[0]
    assert (told["parent"], told["child_count"]) == (None, 1)
    assert [child["id"] for child in told["children"]] == ["kid"]
    assert [part["state"] for part in told["activities"]] == ["ready", "ready", "leased", "dead"]
    assert {part["maximum"] for part in told["activities"]} == {3}
    row = busy.execute(
        "select hotmesh.job_describe('my-app', 'kid') -> 'parent' ->> 'id'"
    ).fetchone()
    assert row == ("fine",)
