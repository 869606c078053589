"""The server restarts as after a power cut, under load: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from hotmesh import embedded
from hotmesh.client import SyncClient
from support.crash import Child
from support.waiting import wait_until

PROGRAM = Path(__file__).with_name("program.py")


def closed(dsn: str) -> int:
    """Jobs that have closed; -1 while the server is away."""
    try:
        with psycopg.connect(dsn, connect_timeout=5) as db:
            row = db.execute(
                "select count(*) from my_app.jobs where closed_at is not null"
            ).fetchone()
    except psycopg.OperationalError:
        return -1
    assert row is not None
    return int(row[0])


def test_a_worker_told_to_stop_while_the_server_is_away_stops(
    crash_server: embedded.Server, tmp_path: Path
) -> None:
    dsn = crash_server.conninfo("crash", "hotmesh_owner")
    worker = Child(PROGRAM, dsn=dsn, log=tmp_path / "worker.log")
    try:
        worker.wait_for_output("serving")
        crash_server.stop("fast")
        assert worker.terminate(timeout=9) == 0
    finally:
        worker.kill()


@pytest.mark.slow
def test_a_server_restarted_as_after_a_power_cut_loses_nothing(
    crash_server: embedded.Server, tmp_path: Path
) -> None:
    dsn = crash_server.conninfo("crash", "hotmesh_owner")
    worker = Child(PROGRAM, dsn=dsn, log=tmp_path / "worker.log", env={"HMSH_LEASE": "2s"})
    try:
        worker.wait_for_output("serving")
        with SyncClient(dsn, "my-app") as client:
            client.workflow.start_many(
                [
                    {"workflow_name": "five_steps", "workflow_id": f"o-{n}", "task_queue": "orders"}
                    for n in range(300)
                ]
            )
        acknowledged = wait_until(lambda: max(closed(dsn) - 20, 0), 30, "the load to run")
        crash_server.restart("immediate")
        assert closed(dsn) >= acknowledged
        wait_until(lambda: closed(dsn) == 300, 40, "all to end")
        with psycopg.connect(dsn) as db:
            odd = db.execute(
                "select count(*) from my_app.jobs j where status <> 0 or cursor <> 5 or"
                " (select array_agg(a.sequence order by a.cursor) from my_app.jobs_attributes a"
                "  where a.job_id = j.id and a.sequence is not null) <> '{1,2,3,4,5}'"
            ).fetchone()
        assert odd == (0,)
        assert worker.is_alive()
    finally:
        worker.kill()
