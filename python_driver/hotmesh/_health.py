"""What `hotmesh doctor` asks of Postgres beside the engine's doors: plain looks at its catalogues.

Each look is a :class:`Finding` or several; one that the role may not make is left out, or says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql

from . import _calls_view
from ._session import SyncSession
from .errors import NotAllowedError

__all__ = ["Finding", "findings"]

State = Literal["ok", "note", "no"]
Connection = psycopg.Connection[Any]

OLD_SNAPSHOT = 300  # seconds
NOTICE_SECONDS = 2.0
UNSERVED = 60  # seconds


class Finding(NamedTuple):
    """What was looked at, how it stands, and what it means for whom."""

    check: str
    state: State
    about: str


def findings(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    """Look at a database whose engine and app were found; `conn` is the caller's, autocommit."""
    looks: tuple[Callable[[SyncSession, Connection], Iterator[Finding]], ...] = (
        *(_owner, _listen, _autovacuum, _snapshots, _apps, _messages),
    )
    for look in looks:
        yield from _may(look, session, conn)


def _may(
    look: Callable[[SyncSession, Connection], Iterator[Finding]],
    session: SyncSession,
    conn: Connection,
) -> Iterator[Finding]:
    try:
        yield from look(session, conn)
    except (psycopg.errors.InsufficientPrivilege, NotAllowedError) as error:
        reason = " ".join(str(error).split())
        name = look.__name__.lstrip("_")
        yield Finding(name, "note", f"not looked at: {reason}; the engine's owner may")


def _owner(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    row = conn.execute(
        "select r.rolname, r.rolsuper from pg_catalog.pg_namespace n "
        "join pg_catalog.pg_roles r on r.oid = n.nspowner where n.nspname = 'hotmesh'"
    ).fetchone()
    assert row
    if row[1]:
        about = f"the engine belongs to {row[0]}, a superuser: its doors run with all rights"
        yield Finding("owner", "note", f"{about}; let an ordinary role install it")
    else:
        yield Finding("owner", "ok", f"{row[0]}, an ordinary role")


def _listen(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    """A pooler in transaction mode takes LISTEN and delivers nothing."""
    channel = sql.Identifier(f"hotmesh_{uuid.uuid4().hex}")
    with session.connect() as ear:
        ear.execute(sql.SQL("listen {}").format(channel))
        conn.execute(sql.SQL("notify {}").format(channel))
        heard = next(ear.notifies(timeout=NOTICE_SECONDS, stop_after=1), None)
    if heard:
        yield Finding("listen", "ok", "notifications arrive")
    else:
        about = "notifications do not arrive (a pooler in transaction mode?)"
        yield Finding("listen", "note", f"{about}: workers look by themselves, up to 2 s late")


def _autovacuum(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    rows = conn.execute(
        "select c.oid::pg_catalog.regclass::text from pg_catalog.pg_class c "
        "join hotmesh.apps a on a.schema_name = c.relnamespace::pg_catalog.regnamespace::text "
        "where a.name = %s and 'autovacuum_enabled=false' = any (c.reloptions)",
        [session.app_id],
    ).fetchall()
    on = conn.execute("select pg_catalog.current_setting('autovacuum')").fetchone() == ("on",)
    if not on:
        yield Finding("autovacuum", "note", "it is off: tables and indexes grow without end")
    elif rows:
        names = ", ".join(row[0] for row in rows)
        yield Finding("autovacuum", "note", f"it is off for {names}: reset (autovacuum_enabled)")
    else:
        yield Finding("autovacuum", "ok", "on")


_SNAPSHOTS = """
select 'process ' || a.pid || coalesce(' of ' || nullif(a.application_name, ''), '') ||
           ', ' || a.state, extract(epoch from pg_catalog.now() - a.xact_start)::integer
from pg_catalog.pg_stat_activity a
where a.datname = pg_catalog.current_database() and a.backend_xmin is not null
  and a.xact_start < pg_catalog.now() - pg_catalog.make_interval(secs => %(old)s)
union all
select 'prepared transaction ' || p.gid, extract(epoch from pg_catalog.now() - p.prepared)::integer
from pg_catalog.pg_prepared_xacts p
where p.database = pg_catalog.current_database()
  and p.prepared < pg_catalog.now() - pg_catalog.make_interval(secs => %(old)s)
union all
select 'replication slot ' || s.slot_name || ', inactive', null
from pg_catalog.pg_replication_slots s
where not s.active and (s.xmin is not null or s.catalog_xmin is not null)
"""


def _snapshots(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    """What keeps dead rows from being removed; of others' sessions only their owners see it."""
    found = conn.execute(_SNAPSHOTS, {"old": OLD_SNAPSHOT}).fetchall()
    for who, seconds in found:
        age = "" if seconds is None else f" for {seconds // 60} min"
        yield Finding("snapshots", "note", f"held{age} by {who}: dead rows stay, claims get slow")
    if not found:
        yield Finding("snapshots", "ok", "none is held for long")


_OLD_APPS = """
select a.name from hotmesh.apps a
where a.revision < hotmesh._app_revision() or exists (
    select from hotmesh._shape_nouns() n (noun)
    where exists (select from hotmesh._shape_repair_missing(a.schema_name, n.noun))
       or exists (select from hotmesh._shape_repair_columns(
              pg_catalog.to_regclass(pg_catalog.format('hotmesh.%I', n.noun)),
              pg_catalog.to_regclass(pg_catalog.format('%I.%I', a.schema_name, n.noun)))))
order by a.name
"""


def _apps(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    old = [row[0] for row in conn.execute(_OLD_APPS).fetchall()]
    for name in old:
        yield Finding(
            "apps", "no", f"{name} is older than the engine: hotmesh upgrade --app {name}"
        )
    if not old:
        yield Finding("apps", "ok", "all are as the engine wants them")


def _messages(session: SyncSession, conn: Connection) -> Iterator[Finding]:
    """Work that nobody does: parked jobs, dead letters, queues without a worker."""
    stats = session.run(_calls_view.queue_stats(session.app_id))
    now = session.run(_calls_view.now())
    served = {
        (one["queue"], one["kind"], one["name"])
        for worker in session.run(_calls_view.worker_list(session.app_id))
        for one in worker.serves
    }
    parked = sum(one.dead for one in stats if one.kind == "workflow")
    dead = sum(one.dead for one in stats if one.kind == "activity")
    if parked:
        yield Finding(
            "stuck jobs", "note", f"{parked} parked: see hotmesh.stuck_jobs, hotmesh job ID"
        )
    if dead:
        yield Finding("dead letters", "note", f"{dead}: see hotmesh.dead_letters")
    for one in stats:
        waits = 0 if one.oldest is None else (now - one.oldest).total_seconds()
        if waits > UNSERVED and (one.queue, one.kind, one.name) not in served:
            what = f"{one.kind} {one.name} on {one.queue}"
            yield Finding("workers", "note", f"nobody serves the {what}: {one.ready} waiting")
    if not parked and not dead:
        yield Finding("messages", "ok", "nothing is parked or dead")
