"""Looking by the command line tool: jobs, histories, workers, limits, top, doctor, prune."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import psycopg
import pytest

from support.crash import python_path
from support.engine import STRANGER, Server
from support.shell import APP, Said, Start, Tool, only_a_sentence
from support.waiting import wait_until

# --- starting -------------------------------------------------------------------------------------


def test_job_says_when_it_is_stuck(tool: Tool, db: psycopg.Connection) -> None:
    tool("start", "total", "--id", "a")
    assert "stuck" not in tool("job", "a").out
    db.execute("update my_app.streams set state = 'dead', error = '{\"message\": \"lost\"}'")
    [(message,)] = db.execute("select id from my_app.streams").fetchall()
    assert f"parked, stream_revive serves {message} again: lost" in tool("job", "a").out
    assert tool("job", "a", "--json").document["stuck"]["reason"] == "parked"


# --- looking --------------------------------------------------------------------------------------


def test_a_job_is_shown_with_its_journal(tool: Tool, worker: Start) -> None:
    worker("flows:many", "--activities", "flows", "--queue", "q")
    tool("start", "total", "1", "2", "--queue", "q", "--id", "a", "--wait")
    shown = tool("job", "a").out
    for part in ("complete", "total", "[1, 2]", "activity add", "done"):
        assert part in shown
    told = tool("job", "a", "--json").document
    assert (told["id"], told["status"], told["semaphore"]) == ("a", "complete", 0)
    assert (told["input"], told["output"], told["error"]) == ([1, 2], 3, None)
    [step] = told["journal"]
    assert (step["name"], step["state"], step["value"]) == ("add", "done", 3)


def test_a_failed_job_is_shown_with_type_and_message(tool: Tool, worker: Start) -> None:
    worker("flows:many", "--activities", "flows", "--queue", "q")
    tool("start", "broken", "luck", "--queue", "q", "--id", "a", "--wait")
    shown = tool("job", "a").out
    assert "failed" in shown
    assert shown.count("ValueError: no luck") == 3, "for the job, its step and the dead letter"
    assert tool("job", "a", "--json").document["error"]["type"] == "ValueError"


def test_limits_of_queues_are_set_listed_and_lifted(
    bare: Tool, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def queue(*words: str) -> Said:
        monkeypatch.setenv("DATABASE_URL", dsn)
        return bare("queue", *words, *APP)

    said = queue("limit", "mail", "--concurrency", "3", "--rate", "100", "--per", "1 minute")
    assert (said.status, said.err) == (0, "")
    assert re.search(r"mail +activity +3 +100 in 0:01:00 +0 +0", said.out)
    [first, second] = queue("list", "--json").document
    assert (first["kind"], second["kind"], first["per"], first["per_key"]) == (
        "activity", "workflow", 60, None
    )  # fmt: skip
    [left] = queue("unlimit", "mail", "--kind", "activity", "--json").document
    assert left["kind"] == "workflow"
    assert "1000 ms apart" in queue("throttle", "letters", "1 s").out
    assert "paused" in queue("throttle", "letters", "pause").out
    assert "letters" not in queue("throttle", "letters", "resume").out
    only_a_sentence(queue("throttle", "letters", "soon"), 1, "soon")
    only_a_sentence(queue("limit", "mail"), 1, "nothing is limited")
    assert queue("limit", "mail", "--rate", "0").status == 2


def test_jobs_are_listed_newest_first_and_in_pages(tool: Tool) -> None:
    for key in ("a", "b", "c"):
        tool("start", "total", "--queue", key, "--entity", key * 2, "--id", key)
    assert [job["id"] for job in tool("jobs", "--json").document] == ["c", "b", "a"]
    first = tool("jobs", "--limit", "2", "--json").document
    assert [job["id"] for job in first] == ["c", "b"]
    rest = tool("jobs", "--before", str(first[-1]["number"]), "--json").document
    assert [job["id"] for job in rest] == ["a"]
    assert "--before" in tool("jobs", "--limit", "2").err
    assert [job["id"] for job in tool("jobs", "--queue", "b", "--json").document] == ["b"]
    assert [job["id"] for job in tool("jobs", "--entity", "aa", "--json").document] == ["a"]
    assert tool("jobs", "--status", "complete", "--json").document == []
    assert len(tool("jobs", "--status", "open", "--json").document) == 3


def test_what_users_wrote_is_shown_as_it_is(tool: Tool) -> None:
    key = "[red]x[/] " + "long" * 60
    tool("start", "total", "[bold]", "--id", key)
    assert key in tool("jobs").out
    assert '["[bold]"]' in tool("job", key).out


def test_there_is_no_colour_in_a_pipe_and_some_on_a_terminal(tool: Tool, dsn: str) -> None:
    tool("start", "total", "--id", "a")
    assert "\x1b" not in tool("jobs").out
    primary, secondary = pty.openpty()
    env = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": python_path(), "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "hotmesh", "jobs", *APP]
    with subprocess.Popen(command, stdout=secondary, stderr=secondary, env=env) as process:
        os.close(secondary)
        shown = b""
        while part := _read(primary):
            shown += part
    os.close(primary)
    assert process.returncode == 0
    assert b"\x1b[33mopen" in shown


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # how Linux ends a terminal
        return b""


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_who_leaves_early_hears_nothing(tool: Tool, dsn: str, option: str) -> None:
    tool("start", "total", "--id", "a")
    env = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": python_path()}
    command = (
        f"'{sys.executable}' -m hotmesh jobs --app my-app {option} | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


# --- looking after an app -------------------------------------------------------------------------


def test_a_job_is_shown_with_all_that_is_under_way(tool: Tool, worker: Start) -> None:
    worker("flows:kin", "--queue", "q", "--activities", "flows")
    tool("start", "family", "--queue", "q", "--id", "a")

    def told(key: str) -> Any:
        return tool("job", key, "--json").document

    wait_until(lambda: told("a")["children"] and told("a")["timers"], 10, "child and timer")
    wait_until(lambda: any(h["workflow"] == "helps" for h in told("a")["hooks"]), 10, "hook")
    about = told("a")
    assert [(c["id"], c["workflow"]) for c in about["children"]] == [("kid", "child")]
    assert about["timers"][0]["what"] == "timer"
    shown = tool("job", "a").out
    for part in ("kid", "helps", "timer", "wait help"):
        assert part in shown, part
    assert told("kid")["parent"]["id"] == "a"
    assert "a (family, open), its step " in tool("job", "kid").out


def test_the_attempts_of_an_activity_that_fails_are_shown(tool: Tool, worker: Start) -> None:
    worker("flows:kin", "--queue", "q", "--activities", "flows")
    tool("start", "flaky", "--queue", "q", "--id", "a")
    wait_until(lambda: "1 of 9" in tool("job", "a").out, 10, "the first attempt")
    [activity] = tool("job", "a", "--json").document["activities"]
    assert (activity["name"], activity["state"], activity["attempt"]) == ("boom", "delayed", 1)
    assert activity["error"]["message"] == "no luck"
    assert "ValueError: no luck" in tool("job", "a").out


def test_a_history_is_in_the_order_of_time(tool: Tool, worker: Start) -> None:
    worker("flows:many", "--activities", "flows", "--queue", "q")
    tool("start", "total", "1", "2", "--queue", "q", "--id", "a", "--wait")
    events = tool("history", "a", "--json").document
    assert [(one["event"], one["what"]) for one in events] == [
        ("started", "total"),
        ("asked", "activity add"),
        ("done", "activity add"),
        ("complete", "total"),
    ]
    assert "activity add" in tool("history", "a").out
    only_a_sentence(tool("history", "nix"), 1, "nix")


def test_workers_and_queues_are_listed(tool: Tool, worker: Start) -> None:
    assert "no worker was seen lately" in tool("workers").err
    tool("start", "total", "--queue", "lonely", "--id", "a")
    process = worker("flows:waits", "--queue", "q")
    [one] = tool("workers", "--json").document
    assert (one["pid"], one["held"], one["serves"]) == (
        process.process.pid, 0, [{"kind": "workflow", "queue": "q", "name": "waits"}]
    )  # fmt: skip
    assert "waits on q" in tool("workers").out
    seen = tool("top", "--json").document
    assert (seen["open"], seen["ready"], seen["workers"]) == (1, 1, 1)
    assert [job["id"] for job in seen["jobs"]] == ["a"]
    page = tool("top")
    assert page.status == 0
    assert re.search(r"lonely +workflow +total +1 .*none", page.out)


def test_top_is_live_on_a_terminal_and_ends_with_ctrl_c(tool: Tool, dsn: str) -> None:
    tool("start", "total", "--id", "first")
    primary, secondary = pty.openpty()
    env = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": python_path(), "TERM": "xterm"}
    command = [sys.executable, "-m", "hotmesh", "top", "--interval", "100ms", *APP]
    # a run in the background ignores SIGINT, and so would its children
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        stdout=secondary,
        stderr=secondary,
        env=env,
        preexec_fn=heed,  # noqa: PLW1509
    ) as process:
        os.close(secondary)
        shown = _read(primary)
        while b"first" not in shown:
            shown += _read(primary)
        tool("start", "total", "--id", "second")
        while b"second" not in shown:
            shown += _read(primary)
        process.send_signal(signal.SIGINT)
        while part := _read(primary):
            shown += part
    os.close(primary)
    assert process.returncode == 0
    assert b"Traceback" not in shown


def test_prune_archives_what_has_expired_and_drops_old_months(
    tool: Tool, worker: Start, db: psycopg.Connection
) -> None:
    process = worker("flows:many", "--activities", "flows", "--queue", "q").process
    tool("start", "total", "1", "2", "--queue", "q", "--id", "a", "--expire", "1h", "--wait")
    process.terminate()
    process.wait(20)
    db.execute("update my_app.jobs set expire_at = now() - interval '1 s'")
    assert tool("prune", "--json").document["archived"] == 1
    assert tool("job", "a", "--json").document["output"] == 3
    assert tool("prune", "--keep", "90 days", "--entity-log", "1h").out.startswith("0 archived")
    only_a_sentence(tool("prune", "--keep", "soon"), 1, "soon")


def test_doctor_tells_what_is_parked_dead_or_unserved(tool: Tool, db: psycopg.Connection) -> None:
    for key in ("a", "b"):
        tool("start", "total", "--queue", "lonely", "--id", key)
    db.execute("update my_app.streams set created_at = now() - interval '1 hour'")
    db.execute(
        "update my_app.streams set state = 'dead' from my_app.jobs j where j.id = job_id and key = 'a'"
    )
    db.execute("alter table my_app.jobs set (autovacuum_enabled = false)")
    db.execute("drop table my_app.limits")
    said = tool("doctor")
    assert said.status == 1
    for part in (
        "1 parked",
        "nobody serves the workflow total on lonely: 1 waiting",
        "autovacuum",
        "my-app is older than the engine: hotmesh upgrade --app my-app",
    ):
        assert part in said.out, part
    assert tool("upgrade").status == 0
    assert "older than the engine" not in tool("doctor").out


def test_doctor_says_what_a_role_may_not_look_at(
    bare: Tool, server: Server, dbname: str, db: psycopg.Connection
) -> None:
    db.execute(f"select hotmesh.app_grant('my-app', '{STRANGER}', 'reader')")
    said = bare("doctor", *APP, "--dsn", server.conninfo(dbname, STRANGER))
    assert said.status == 0, said.out
    assert "not looked at" in said.out
