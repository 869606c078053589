"""pg_dump and restore: the same rows, the same catalogue, and the jobs in flight finish."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from support.catalogue import column, difference, snapshot
from support.cluster import bin_dir
from support.engine import APP, CALLER, OWNER, Server
from support.waiting import wait_until

pytestmark = pytest.mark.both_modes

Connection = psycopg.Connection[Any]
WANT = {"workflow": 10, "kinds": ["workflow"], "queues": ["default"], "names": ["order"]}


def pg(program: str, dsn: str, *arguments: str) -> None:
    """Run a client program against a database."""
    where = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    password = where.pop("password", "")
    command = [str(bin_dir() / program), "--dbname", psycopg.conninfo.make_conninfo(**where)]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PGPASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def start(caller: Connection, key: str, **options: Any) -> None:
    caller.execute(
        "select from hotmesh.job_start(%s, 'order', key => %s, args => '[1]', queue => 'default',"
        " options => %s)",
        [APP, key, json.dumps(options)],
    )


def turn(caller: Connection, *reports: dict[str, Any], want: Any = WANT) -> dict[str, Any]:
    """One turn of worker w: the tasks it was given, by the key of their job."""
    rows = caller.execute(
        "select key, id, token, cursor, history from hotmesh.turn(%s, 'w', %s, %s)"
        " where answer = 'task'",
        [APP, json.dumps(reports), json.dumps(want)],
    ).fetchall()
    names = ("id", "token", "cursor", "history")
    return {key: dict(zip(names, rest, strict=True)) for key, *rest in rows}


def report(task: dict[str, Any], **what: Any) -> dict[str, Any]:
    """A report on a task: its address and what is told."""
    return {name: task[name] for name in ("id", "token", "cursor")} | what


def work_in_every_state(caller: Connection) -> tuple[int, int]:
    """Jobs that are archived, done, delayed, and one whose activity a worker holds."""
    start(caller, "archived", expire="1ms")
    start(caller, "done")
    start(caller, "in flight")
    start(caller, "delayed", delay="1 hour")
    leap = "select hotmesh.schedule_create(%s, 'leap', 'order', cron => '0 0 29 2 *')"
    caller.execute(leap, [APP])
    tasks = turn(caller)
    call = {"sequence": 1, "kind": "activity", "name": "charge", "queue": "pay", "args": [7]}
    turn(
        caller,
        report(tasks["archived"], outcome={"output": "old"}),
        report(tasks["done"], outcome={"output": {"ok": True}}),
        report(tasks["in flight"], commands=[call]),
        want={},
    )
    archive = "select hotmesh.job_archive(%s)"
    wait_until(lambda: column(caller, archive, APP)[0] > 0, what="the job to be archived")
    [(held, token)] = caller.execute(
        "select id, token from hotmesh.stream_claim(%s, 'pay', 'w', 1, '1 hour')", [APP]
    ).fetchall()
    return held, token


def all_rows(db: Connection) -> dict[str, list[str]]:
    """Every row of the engine and of the app, as text, and where the numbers stand."""
    relations = db.execute(
        "select n.nspname, c.relname, c.relkind from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('hotmesh', 'my_app') and c.relkind in ('r', 'S')"
    ).fetchall()
    found = {}
    for schema, name, kind in relations:
        row = "t::text" if kind == "r" else "format('%s %s', last_value, is_called)"
        query = sql.SQL(f"select {row} from only {{}} t order by 1")
        rows = db.execute(query.format(sql.Identifier(schema, name))).fetchall()
        found[f"{schema}.{name}"] = [row for [row] in rows]
    return found


@contextmanager
def restored(server: Server, dsn: str, tmp_path: Path, how: str) -> Iterator[str]:
    """Another database, restored by its owner from a dump of the first."""
    dump = str(tmp_path / "dump")
    form = {"plain": "--format=plain", "custom": "--format=custom"}[how]
    pg("pg_dump", dsn, form, "--file", dump)
    with server.database() as name:
        there = server.conninfo(name, OWNER)
        if how == "plain":
            pg("psql", there, "--no-psqlrc", "-qXv", "ON_ERROR_STOP=1", "--file", dump)
        else:
            pg("pg_restore", there, "--exit-on-error", dump)
        yield name


@pytest.mark.parametrize("how", ["plain", "custom"])
def test_a_restored_database_is_equal_and_its_jobs_finish(
    server: Server, db: Connection, caller: Connection, dsn: str, tmp_path: Path, how: str
) -> None:
    asked = [str(bin_dir() / "pg_dump"), "--version"]
    ours = subprocess.run(asked, capture_output=True, text=True, check=True)
    if int(ours.stdout.split()[2].split(".")[0]) > db.info.server_version // 10_000:
        pytest.skip("a dump by a newer pg_dump is not for this server")
    held, token = work_in_every_state(caller)
    before = all_rows(db)
    assert before["my_app.jobs"]
    assert before["hotmesh.apps"]

    with (
        restored(server, dsn, tmp_path, how) as name,
        server.connect(name, OWNER) as owner,
        server.connect(name, CALLER) as worker,
    ):
        after = all_rows(owner)
        assert {table for table in before if before[table] != after.get(table)} == set()
        for schema in ("hotmesh", "my_app"):
            assert not difference(snapshot(db, schema), snapshot(owner, schema))
        finish(worker, held, token)


def finish(worker: Connection, held: int, token: int) -> None:
    """What was held is completed with its token, its job goes on, and new ones can start."""
    complete = "select hotmesh.stream_complete(%s, %s, %s, '42')"
    assert column(worker, complete, APP, held, token) == ["ok"]
    assert column(worker, complete, APP, held, token) == ["stale"]
    task = turn(worker)["in flight"]
    assert "42" in json.dumps(task["history"])
    turn(worker, report(task, outcome={"output": "charged"}), want={})
    result = "select hotmesh.job_result(%s, %s)"
    assert column(worker, result, APP, "in flight") == ["charged"]
    assert column(worker, result, APP, "done") == [{"ok": True}]
    assert column(worker, result, APP, "archived") == ["old"]
    start(worker, "new")
    [leap] = column(worker, "select key from hotmesh.schedule_trigger(%s, 'leap')", APP)
    assert set(turn(worker)) == {"new", leap}
