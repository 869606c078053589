"""The archive: what expires moves in bulk, keys become free, whole months are dropped."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from support.catalogue import Connection, column
from support.clock import Clock
from support.sessions import Session

NOW = "2026-03-15 12:00+00"


def one(db: Connection, query: str, *params: object) -> object:
    row = db.execute(query, params or None).fetchone()
    assert row
    return row[0]


@pytest.fixture
def clock(clock: Clock) -> Clock:
    clock.freeze(NOW)
    return clock


def close(db: Connection, key: str, at: str, expire: str | None = "1 hour") -> int:
    """A closed job with two attributes and a left-over message."""
    row = db.execute(
        "insert into my_app.jobs (key, entity, topic, status, context, created_at, updated_at,"
        " closed_at, expire_at) values (%(key)s, 'order', 'order', 0, '{\"a\": 1}', %(at)s, %(at)s,"
        " %(at)s, %(at)s::timestamptz + %(expire)s::interval) returning id",
        {"key": key, "at": at, "expire": expire},
    ).fetchone()
    assert row
    db.execute(
        "insert into my_app.jobs_attributes (job_id, field, value, created_at, updated_at)"
        " select %s, f, '\"v\"', now(), now() from unnest('{input,output}'::text[]) f",
        row,
    )
    db.execute(
        "insert into my_app.streams (kind, state, job_id, visible_at, created_at)"
        " values ('activity', 'dead', %s, now(), now())",
        row,
    )
    return int(row[0])


def counts(db: Connection) -> list[object]:
    tables = ["jobs", "jobs_attributes", "streams", "jobs_archive", "jobs_attributes_archive"]
    return [one(db, f"select count(*) from my_app.{table}") for table in tables]


def test_what_expired_moves_with_its_attributes(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    close(db, "due", "2026-03-15 10:00+00")
    close(db, "later", "2026-03-15 11:30+00")
    close(db, "never", "2026-03-01 00:00+00", expire=None)
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    assert counts(db) == [2, 4, 2, 1, 2]
    assert column(db, "select key from my_app.jobs_archive") == ["due"]
    clock.advance("30 minutes")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    clock.advance("1000 years")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 0
    assert column(db, "select key from my_app.jobs") == ["never"]


def test_an_open_job_is_never_archived(db: Connection, clock: Clock) -> None:
    db.execute(
        "insert into my_app.jobs (id, key, entity, topic, created_at, updated_at)"
        " values (7, 'open', 'e', 't', now(), now())"
    )
    with db.transaction():
        db.execute("set local search_path = pg_catalog, my_app, hotmesh")
        assert one(db, "select hotmesh._archive_jobs('{7}')") == 0
    assert one(db, "select count(*) from my_app.jobs") == 1


def test_a_closed_job_without_an_expiry_can_be_moved_by_number(
    db: Connection, clock: Clock
) -> None:
    job = close(db, "replaced", "2026-01-31 23:59:59.999999+00", expire=None)
    with db.transaction():
        db.execute("set local search_path = pg_catalog, my_app, hotmesh")
        assert one(db, "select hotmesh._archive_jobs(array[%s::bigint, -1])", job) == 1
    assert counts(db) == [0, 0, 0, 1, 2]
    assert one(db, "select count(*) from my_app.jobs_archive_2026_01") == 1
    close(db, "replaced", "2026-03-01 00:00+00")


def test_every_column_arrives_as_it_was(db: Connection, clock: Clock) -> None:
    job = close(db, "whole", "2026-02-28 23:59:59.999999+00")
    db.execute("update my_app.jobs set queue = 'q', entity_version = 5, expire_after = '1 h'")
    db.execute(
        "update my_app.jobs_attributes set name = 'n', kind = 'activity', dimension = ',0',"
        " sequence = 3, cursor = 4, ledger = 111000000000000"
    )
    jobs, attributes = "select * from my_app.jobs_all", "select * from my_app.jobs_attributes_all"
    before = db.execute(jobs).fetchall(), db.execute(f"{attributes} order by field").fetchall()
    assert one(db, "select hotmesh.job_archive('my-app')") == 1
    assert one(db, "select id from my_app.jobs_archive") == job
    assert before == (
        db.execute(jobs).fetchall(),
        db.execute(f"{attributes} order by field").fetchall(),
    )


def test_the_templates_have_every_column_of_the_parents(db: Connection) -> None:
    """A column that is added to a noun needs one here, and a place in `_archive_jobs`."""
    for noun, room in (("jobs", "_archive_jobs"), ("jobs_attributes", "_archive_attributes")):
        names = "select name::text from hotmesh._shape_columns(%s::regclass)"
        columns = column(db, names, f"hotmesh.{noun}")
        assert set(column(db, names, f"hotmesh.{noun}_archive")) - set(columns) <= {"closed_at"}
        assert set(columns) <= set(column(db, names, f"hotmesh.{noun}_archive"))
        columns = [name for name in columns if name != "watched_until"]  # nobody does any more
        body = str(one(db, "select prosrc from pg_proc where proname = %s", room))
        alias = noun.removeprefix("jobs_")[0]
        for name in columns:
            assert f"{alias}.{name}" in body and f"g.{name}" in body, (noun, name)


def test_an_owners_columns_do_not_get_in_the_way(db: Connection, clock: Clock) -> None:
    db.execute("alter table my_app.jobs add column tenant text not null default 'acme'")
    close(db, "k", "2026-03-01 00:00+00")
    assert one(db, "select hotmesh.job_archive('my-app')") == 1
    assert one(db, "select key from my_app.jobs_all") == "k"


def test_months_are_made_as_they_are_needed(db: Connection, clock: Clock) -> None:
    for key, at in (
        ("a", "2025-12-31 23:59+00"),
        ("b", "2026-01-01 00:00+00"),
        ("c", "2024-02-29"),
    ):
        close(db, key, at)
    db.execute("set timezone = 'Pacific/Kiritimati'")
    assert one(db, "select hotmesh.job_archive('my-app')") == 3
    where = "select tableoid::regclass::text from my_app.jobs_archive where key = %s"
    assert one(db, where, "a") == "my_app.jobs_archive_2025_12"
    assert one(db, where, "b") == "my_app.jobs_archive_2026_01"
    assert one(db, "select count(*) from my_app.jobs_attributes_archive_2024_02") == 2
    made = column(
        db,
        "select c.oid::regclass::text from pg_class c where c.relname ~ '^jobs_archive_2026_0[34]$'",
    )
    assert "my_app.jobs_archive_2026_04" in made, "next month is opened ahead"


def test_it_stops_at_take(db: Connection, clock: Clock) -> None:
    for number in range(5):
        close(db, f"k{number}", f"2026-03-0{9 - number} 00:00+00")
    assert one(db, "select hotmesh.job_archive('my-app', 2)") == 2
    assert sorted(column(db, "select key from my_app.jobs_archive")) == ["k3", "k4"]
    assert one(db, "select hotmesh.job_archive('my-app', take => 10)") == 3


@pytest.mark.parametrize("take", [0, -1, None, 1000001])
def test_an_absurd_take_is_refused(caller: Connection, take: int | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="take is out of range"):
        caller.execute("select hotmesh.job_archive('my-app', %s::int)", [take])


@pytest.mark.parametrize(
    ("table", "where"), [("jobs", "id"), ("jobs_attributes", "field = 'input' and job_id")]
)
def test_it_waits_for_nobody(
    db: Connection,
    clock: Clock,
    sessions: Callable[..., tuple[Session, ...]],
    table: str,
    where: str,
) -> None:
    held = close(db, "held", "2026-03-01 00:00+00")
    close(db, "free", "2026-03-02 00:00+00")
    a, b = sessions("a", "b")
    a.begin()
    a.run(f"select from my_app.{table} where {where} = %s for update", [held])
    b.run("set lock_timeout = '1ms'")
    assert b.value("select hotmesh.job_archive('my-app')") == 1
    assert column(db, "select key from my_app.jobs") == ["held"]
    assert one(db, "select count(*) from my_app.jobs_attributes") == 2
    a.rollback()
    assert b.value("select hotmesh.job_archive('my-app')") == 1


def test_a_message_that_somebody_holds_is_left(
    db: Connection, clock: Clock, sessions: Callable[..., tuple[Session, ...]]
) -> None:
    close(db, "k", "2026-03-01 00:00+00")
    a, b = sessions("a", "b")
    a.begin()
    a.run("select from my_app.streams for update")
    assert b.value("select hotmesh.job_archive('my-app')") == 1
    a.rollback()
    assert counts(db) == [0, 0, 1, 1, 2]


def test_two_archivers_share_the_work(
    db: Connection, clock: Clock, sessions: Callable[..., tuple[Session, ...]]
) -> None:
    for number in range(10):
        close(db, f"k{number}", "2026-03-01 00:00+00")
    a, b = sessions("a", "b")
    assert a.value("select hotmesh.job_archive('my-app', 1)") == 1
    a.begin()
    assert a.value("select hotmesh.job_archive('my-app', 5)") == 5
    assert b.value("select hotmesh.job_archive('my-app')") == 4
    a.commit()
    assert counts(db) == [0, 0, 0, 10, 20]


def test_it_does_not_wait_for_a_month_that_somebody_else_opens(
    db: Connection, clock: Clock, sessions: Callable[..., tuple[Session, ...]]
) -> None:
    for number in range(10):
        close(db, f"k{number}", "2026-03-01 00:00+00")
    a, b = sessions("a", "b")
    a.begin()
    assert a.value("select hotmesh.job_archive('my-app', 6)") == 6
    assert b.value("select hotmesh.job_archive('my-app')") == 0
    a.rollback()
    assert b.value("select hotmesh.job_archive('my-app')") == 10


def test_prune_drops_whole_months_that_are_over(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    for month in ("2025-11", "2025-12", "2026-01", "2026-02"):
        close(db, month, f"{month}-15 00:00+00")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 4
    assert one(caller, "select hotmesh.job_prune('my-app', '90 days')") == 3
    kept = "select key from my_app.jobs_archive order by key"
    assert column(db, kept) == ["2025-12", "2026-01", "2026-02"]
    assert one(db, "select count(*) from my_app.jobs_attributes_archive") == 6
    assert one(caller, "select hotmesh.job_prune('my-app', '90 days')") == 0
    assert one(caller, "select hotmesh.job_prune('my-app', '0')") == 9
    close(db, "again", "2025-11-15 00:00+00")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1


def test_prune_takes_what_was_measured_before(db: Connection, clock: Clock) -> None:
    ids = [close(db, key, "2026-01-10 10:00+00", None) for key in ("old", "kept", "young")]
    db.execute(
        "insert into my_app.measures (job_id, topic, key, at, job_key) select m.id, 't', '', m.at, 'k'"
        " from unnest(%s::bigint[], %s::timestamptz[]) as m (id, at)",
        [ids, ["2026-01-10 10:00+00", "2026-01-10 10:00+00", "2026-02-01 00:00+00"]],
    )
    db.execute("delete from my_app.jobs where key <> 'kept'")
    one(db, "select hotmesh.job_prune('my-app', '20 days')")
    assert db.execute("select job_id from my_app.measures order by 1").fetchall() == [
        (ids[1],), (ids[2],),
    ]  # fmt: skip


@pytest.mark.parametrize("keep", ["-1 day", None, "2000 years"])
def test_prune_refuses_an_absurd_span(caller: Connection, keep: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no span of time"):
        caller.execute("select hotmesh.job_prune('my-app', %s::interval)", [keep])


@pytest.mark.slow
def test_a_plan_made_on_an_empty_app_serves_a_large_one(db: Connection, clock: Clock) -> None:
    """The plans are cached while nothing is there; then 200,000 rows arrive without analyze."""
    for number in range(10):
        close(db, f"warm-{number}", "2026-03-01 00:00+00")
        assert one(db, "select hotmesh.job_archive('my-app', 1)") == 1
    db.execute("""
        insert into my_app.jobs (key, entity, topic, status, created_at, updated_at, closed_at, expire_at)
        select 'k' || i, 'e', 't', 0, t, t, t, t from generate_series(1, 40000) i,
               (select hotmesh.now() - interval '1 day') n (t);
        insert into my_app.jobs_attributes (job_id, field, created_at, updated_at)
        select j.id, 'f' || i, now(), now() from my_app.jobs j, generate_series(1, 4) i""")
    with db.transaction():
        db.execute("set local statement_timeout = '10s'")
        assert one(db, "select hotmesh.job_archive('my-app', 10000)") == 10000
    assert one(db, "select count(*) from my_app.jobs_attributes_archive") == 40020


@pytest.mark.parametrize(
    "door",
    [
        "job_signal('my-app', 'old', 's')",
        "hook_start('my-app', 'old', 'f')",
        "job_cancel('my-app', 'old')",
        "job_interrupt('my-app', 'old')",
    ],
)
def test_an_archived_job_is_refused_as_closed(
    db: Connection, caller: Connection, clock: Clock, door: str
) -> None:
    close(db, "old", "2026-03-15 10:00+00")
    assert one(caller, "select hotmesh.job_archive('my-app')") == 1
    with pytest.raises(psycopg.Error, match='job "old" has closed') as caught:
        caller.execute(f"select hotmesh.{door}".encode())
    assert caught.value.sqlstate == "MSH42"


# --- scrubbing ------------------------------------------------------------------------------------


def scrub(caller: Connection, key: str) -> None:
    caller.execute("select hotmesh.job_scrub('my-app', %s)", [key])


def rows_of(db: Connection, id: int) -> int:
    """How many rows any table of the app has of a job."""
    tables = db.execute(
        "select c.relname, a.attname from pg_class c"
        " join pg_attribute a on a.attrelid = c.oid and not a.attisdropped"
        " where c.relnamespace = 'my_app'::regnamespace and c.relkind = 'r'"
        "   and (a.attname = 'job_id' or a.attname = 'id' and c.relname ~ '^jobs(_archive.*)?$')"
    ).fetchall()
    assert len(tables) > 6
    counted = " + ".join(
        f"(select count(*) from my_app.{table} where {column} = {id})" for table, column in tables
    )
    found = one(db, f"select {counted}")
    assert isinstance(found, int)
    return found


def test_what_is_scrubbed_leaves_nothing(db: Connection, caller: Connection, clock: Clock) -> None:
    gone, stays = (close(db, key, "2026-03-15 11:30+00") for key in ("gone", "stays"))
    before = rows_of(db, stays)
    assert rows_of(db, gone) == before == 4
    scrub(caller, "gone")
    assert (rows_of(db, gone), rows_of(db, stays)) == (0, before)
    with pytest.raises(psycopg.Error, match="not found") as missing:
        caller.execute("select hotmesh.job_status('my-app', 'gone')")
    assert missing.value.sqlstate == "MSH40"
    assert close(db, "gone", "2026-03-15 11:40+00") > gone, "its key is free"


def test_all_that_the_archive_has_of_a_key_goes_too(
    db: Connection, caller: Connection, clock: Clock
) -> None:
    first = close(db, "k", "2026-02-15 10:00+00")
    caller.execute("select hotmesh.job_archive('my-app')")
    second = close(db, "k", "2026-03-15 10:00+00")
    caller.execute("select hotmesh.job_archive('my-app')")
    third = close(db, "k", "2026-03-15 11:30+00")
    assert all(rows_of(db, id) >= 3 for id in (first, second, third))
    scrub(caller, "k")
    assert [rows_of(db, id) for id in (first, second, third)] == [0, 0, 0]


def test_only_what_has_closed_is_scrubbed(db: Connection, caller: Connection) -> None:
    caller.execute("select hotmesh.job_start('my-app', 'order', 'open')")
    with pytest.raises(psycopg.Error, match="is open and can't be scrubbed") as refused:
        scrub(caller, "open")
    assert refused.value.sqlstate == "MSH44"
    with pytest.raises(psycopg.Error, match="not found") as missing:
        scrub(caller, "nobody")
    assert missing.value.sqlstate == "MSH40"
    assert one(db, "select count(*) from my_app.jobs") == 1
