"""The command line tool: what people see, what machines read, and one sentence when it fails."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import psycopg
import pytest

from hotmesh import _binaries, _session, cli, embedded
from support.clock import Clock
from support.cluster import ROOT
from support.crash import Child, python_path
from support.engine import OWNER, STRANGER, Server
from support.waiting import wait_until

APP = ["--app", "my-app"]
FLOWS = """
import asyncio
from hotmesh import MemFlow, Worker

ONCE = {"maximum_attempts": 1}

async def add(a, b):
    return a + b

async def boom(what):
    raise ValueError(f"no {what}")

async def slow():
    await asyncio.sleep(60)

async def total(a, b):
    return await MemFlow.workflow.execute_activity(add, a, b)

async def broken(what):
    await MemFlow.workflow.execute_activity("boom", what, retry_policy=ONCE)

async def far(a, b):
    return await MemFlow.workflow.execute_activity(add, a, b, task_queue="acts")

async def waits():
    return await MemFlow.workflow.wait_for("go")

async def lingers():
    await MemFlow.workflow.execute_activity(slow)

async def child():
    return await MemFlow.workflow.wait_for("grow")

async def helps(who):
    entity = await MemFlow.workflow.entity()
    await entity.set("helper", who)
    await MemFlow.workflow.wait_for("help")

async def family():
    await MemFlow.workflow.start_child(child, args=[], workflow_id="kid")
    await MemFlow.workflow.hook(workflow_name="helps", args=["ann"])
    await MemFlow.workflow.sleep_for("1 hour")

async def flaky():
    await MemFlow.workflow.execute_activity(
        "boom", "luck", retry_policy={"maximum_attempts": 9, "initial_interval": 1000})

async def counts():
    total = [0]
    def add(by):
        total[0] += by
        return total[0]
    MemFlow.workflow.set_query_handler("total", lambda: total[0])
    MemFlow.workflow.set_update_handler("add", add)
    return await MemFlow.workflow.wait_for("go")

async def made(connection, app_id) -> Worker:
    return await Worker.create(connection, app_id, task_queue="made", workflow=total, activities=[add])

async def lies() -> Worker:
    return 1

many = [total, broken, waits]
kin = [family, child, helps, flaky, waits]
number = 7
"""


class Said(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Tool = Callable[..., Said]
Start = Callable[..., Child]


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where one stands: it has the module `flows`."""
    (tmp_path / "flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """`bare("jobs")`: run a command in this process, with no database in the environment."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("HMSH_LOGLEVEL", raising=False)

    def run(*words: str) -> Said:
        with pytest.raises(SystemExit) as end:
            cli.main(list(words))
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def tool(bare: Tool, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The same, with the test's database in DATABASE_URL, and the app of the template."""

    def run(*words: str) -> Said:
        monkeypatch.setenv("DATABASE_URL", dsn)
        return bare(*words[:1], *APP, *words[1:])

    return run


@pytest.fixture
def worker(child: Start, flows: Path) -> Start:
    """`worker("flows:total", "--queue", "q")`: `hotmesh worker`, once it serves."""

    def start(*words: str) -> Child:
        process = child("hotmesh", "worker", *words, *APP, PYTHONPATH=f"{flows}:{python_path()}")
        process.wait_for_output("Ctrl-C stops it")
        return process

    return start


def only_a_sentence(said: Said, status: int, pattern: str) -> None:
    """At most two lines, on standard error, and no traceback."""
    assert said.status == status
    assert re.search(pattern, said.err), said.err
    assert said.err.startswith("hotmesh: ")
    assert said.err.count("\n") <= 2, said.err
    assert "Traceback" not in said.err
    assert "\x1b" not in said.err


# --- starting -------------------------------------------------------------------------------------


def test_start_creates_an_app_only_if_it_is_told_to(
    bare: Tool, dsn: str, db: psycopg.Connection
) -> None:
    typo = ("start", "total", "--app", "my-appp", "--id", "a", "--dsn", dsn)
    only_a_sentence(bare(*typo), 1, r'unknown app "my-appp"\s.*--create')
    assert db.execute("select from hotmesh.apps where name = 'my-appp'").rowcount == 0
    assert bare(*typo, "--create").out == "a\n"
    assert bare("start", "total", "--id", "b", "--dsn", dsn).status == 0  # the default app


def test_job_says_when_it_is_stuck(tool: Tool, db: psycopg.Connection) -> None:
    tool("start", "total", "--id", "a")
    assert "stuck" not in tool("job", "a").out
    db.execute("update my_app.streams set state = 'dead', error = '{\"message\": \"lost\"}'")
    [(message,)] = db.execute("select id from my_app.streams").fetchall()
    assert f"parked, stream_revive serves {message} again: lost" in tool("job", "a").out
    assert tool("job", "a", "--json").document["stuck"]["reason"] == "parked"


def test_start_prints_the_id(tool: Tool, db: psycopg.Connection) -> None:
    said = tool("start", "total", "1", "2", "--queue", "q", "--id", "a")
    assert said == (0, "a\n", "")
    made_up = tool("start", "total", "1", "2").out.strip()
    assert {key for (key,) in db.execute("select key from my_app.jobs")} == {"a", made_up}


def test_start_answers_machines_with_one_document(tool: Tool) -> None:
    said = tool("start", "total", "--queue", "q", "--id", "a", "--json")
    assert said.document == {"id": "a", "workflow": "total", "queue": "q"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", 5),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('{"a": [1]}', {"a": [1]}),
        ('"5"', "5"),
        ("item-123", "item-123"),
        ("", ""),
        ("NaN", "NaN"),
        ("{a", "{a"),
        ("é😀", "é😀"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_an_argument_is_json_or_text(
    tool: Tool, db: psycopg.Connection, word: str, value: object
) -> None:
    assert tool("start", "total", "--id", "a", "--", word).status == 0
    row = db.execute("select value from my_app.jobs_attributes where field = 'input'").fetchone()
    assert row == ([value],)


def test_arguments_that_begin_with_a_dash_come_after_two(
    tool: Tool, db: psycopg.Connection
) -> None:
    assert tool("start", "total", "--id", "a", "--", "-5", "--id").status == 0
    row = db.execute("select value from my_app.jobs_attributes where field = 'input'").fetchone()
    assert row == ([-5, "--id"],)
    only_a_sentence(tool("start", "total", "-5"), 2, "No such option '-5'")


def test_every_option_of_a_start_reaches_the_engine(tool: Tool, db: psycopg.Connection) -> None:
    words = ["--queue", "q", "--entity", "e", "--expire", "2 days", "--delay", "1h"]
    words += ["--priority", "7", "--retry-policy", '{"maximum_attempts": 9}']
    assert tool("start", "total", "--id", "a", *words).status == 0
    job = db.execute("select queue, entity, expire_after = interval '2 days' from my_app.jobs")
    assert job.fetchone() == ("q", "e", True)
    message = db.execute(
        "select priority, state, visible_at > created_at + interval '59 min',"
        " retry_policy -> 'maximum_attempts' from my_app.streams"
    )
    assert message.fetchone() == (7, "delayed", True, 9)


def test_a_key_that_is_taken(tool: Tool) -> None:
    tool("start", "total", "--id", "a")
    only_a_sentence(tool("start", "total", "--id", "a"), 1, "^hotmesh: Duplicate job: a\n")
    assert tool("start", "total", "--id", "a", "--on-conflict", "existing").out == "a\n"
    only_a_sentence(tool("start", "total", "--id", "a", "--on-conflict", "replace"), 1, "is open")


@pytest.mark.parametrize(
    ("words", "status", "pattern"),
    [
        (["start"], 2, "Missing argument 'WORKFLOW'"),
        (["start", ""], 1, "workflow_name is empty"),
        (["start", "a\0b"], 1, "NUL|null|U\\+0000"),
        (["start", "x", "\udcff"], 1, "args\\[0\\]"),
        (["start", "x", "--id", ""], 1, "workflow_id is empty"),
        (["start", "x", "--expire", "soon"], 1, "expire: 'soon' is no duration"),
        (["start", "x", "--expire", "60"], 1, "expire"),
        (["start", "x", "--priority", "99999"], 1, "priority"),
        (["start", "x", "--priority", "high"], 2, "--priority"),
        (["start", "x", "--retry-policy", "[1]"], 2, "JSON object"),
        (["start", "x", "--retry-policy", '{"maximum_attempts": -1}'], 1, "maximum_attempts"),
        (["start", "x", "--retry-policy", '{"attempts": 1}'], 1, "attempts"),
        (["start", "x", "--on-conflict", "ignore"], 2, "--on-conflict"),
        (["job"], 2, "Missing argument 'ID'"),
        (["job", "nope"], 1, 'job "nope" not found'),
        (["signal", "nope", "go"], 1, 'job "nope" not found'),
        (["jobs", "--limit", "0"], 2, "--limit"),
        (["jobs", "--status", "well"], 2, "--status"),
        (["jbos"], 2, "No such command 'jbos'"),
        (["worker"], 1, "nothing to serve"),
        (["worker", "nowhere:total"], 1, 'there is no module "nowhere" in '),
        (["worker", "flows:nothing"], 1, 'module "flows" has no "nothing"'),
        (["worker", "broken:total"], 1, 'module "broken" cannot be imported: ZeroDivisionError'),
        (["worker", "exits:total"], 1, 'module "exits" cannot be imported: SystemExit'),
        (["worker", "needs:total"], 1, "No module named 'not_there'"),
        (["worker", "flows.py:total"], 1, "module"),
        (["worker", "../flows:total"], 1, "is no module:name"),
        (["worker", "flows:number"], 1, "flows:number is an int, and no workflow"),
        (["worker", "flows:lies"], 1, "flows:lies did not return a Worker"),
        (["worker", "flows:total", "--lease", "0s"], 1, "lease"),
        (["worker", "flows:total", "--max-concurrent-workflows", "0"], 2, "workflows"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(
    tool: Tool, flows: Path, words: list[str], status: int, pattern: str
) -> None:
    (flows / "broken.py").write_text("1 / 0\n")
    (flows / "exits.py").write_text("raise SystemExit(3)\n")
    (flows / "needs.py").write_text("import not_there\n")
    only_a_sentence(tool(*words), status, pattern)


# --- waiting, and the worker ----------------------------------------------------------------------


def test_wait_prints_the_result(tool: Tool, worker: Start) -> None:
    worker("flows:many", "--activities", "flows", "--queue", "q")
    said = tool("start", "total", "1", "2", "--queue", "q", "--id", "a", "--wait")
    assert said == (0, "a\n3\n", "")
    said = tool("start", "total", '"x"', '"y"', "--queue", "q", "--id", "b", "--wait", "--json")
    assert said.document == {"id": "b", "workflow": "total", "queue": "q", "result": "xy"}


def test_wait_tells_how_a_workflow_failed(tool: Tool, worker: Start) -> None:
    worker("flows:many", "--activities", "flows", "--queue", "q")
    said = tool("start", "broken", "luck", "--queue", "q", "--id", "a", "--wait")
    only_a_sentence(said, 1, 'job "a" failed: ValueError: no luck')


def test_a_timeout_that_is_no_duration_starts_nothing(tool: Tool) -> None:
    said = tool("start", "total", "--id", "a", "--wait", "--timeout", "soon")
    only_a_sentence(said, 1, "timeout: 'soon' is no duration")
    only_a_sentence(tool("job", "a"), 1, "not found")


def test_wait_ends_after_its_timeout_and_the_job_goes_on(tool: Tool) -> None:
    said = tool("start", "total", "--id", "a", "--wait", "--timeout", "10ms")
    only_a_sentence(said, 1, 'job "a" did not end within')
    assert tool("job", "a", "--json").document["status"] == "open"


def test_a_worker_made_by_a_factory(tool: Tool, worker: Start) -> None:
    process = worker("flows:made")
    assert "total, add on made" in process.output
    assert tool("start", "total", "1", "2", "--queue", "made", "--wait").out.endswith("\n3\n")


def test_activities_may_have_a_queue_and_a_process_of_their_own(tool: Tool, worker: Start) -> None:
    worker("flows:far", "--queue", "q", "--activities", "flows", "--activity-queue", "acts")
    assert tool("start", "far", "1", "2", "--queue", "q", "--wait").out.endswith("\n3\n")
    alone = worker("--queue", "other", "--activities", "flows:add")
    assert "serving add on other" in alone.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_cleanly(worker: Start, number: signal.Signals) -> None:
    process = worker("flows:far", "--queue", "q", "--activities", "flows", "--activity-queue", "a")
    process.process.send_signal(number)
    assert process.process.wait(20) == 0
    assert process.output.endswith("stopped; nothing is held any more\n")
    assert "Traceback" not in process.output


def test_a_signal_reaches_the_job_that_waits(tool: Tool, worker: Start) -> None:
    tool("start", "waits", "--queue", "q", "--id", "a")
    assert tool("signal", "a", "go", '{"by": "hand"}') == (0, "go was sent to a\n", "")
    worker("flows:many", "--queue", "q")
    said = tool(
        "start", "waits", "--queue", "q", "--id", "a", "--on-conflict", "existing", "--wait"
    )
    assert said.out == 'a\n{"by": "hand"}\n'
    only_a_sentence(tool("signal", "a", "go"), 1, "closed")


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


# --- orders ---------------------------------------------------------------------------------------


def test_a_signal_without_a_job_goes_to_whoever_waits(tool: Tool, worker: Start) -> None:
    assert tool("signal", "go").out == "go was sent to whoever waits for it\n"
    assert tool("signal", "--any", "go", "7", "--json").document == {"id": None, "signal": "go"}
    worker("flows:many", "--queue", "q")
    for key, result in (("a", "null"), ("b", "7")):
        said = tool("start", "waits", "--queue", "q", "--id", key, "--wait")
        assert said.out == f"{key}\n{result}\n"
    assert tool("signal", "a", "b", "c", "d").status == 2


def test_a_job_is_cancelled_or_interrupted_from_the_shell(tool: Tool, worker: Start) -> None:
    worker("flows:kin", "--queue", "q", "--activities", "flows")
    for key in ("a", "b"):
        tool("start", "waits", "--queue", "q", "--id", key)
    assert tool("cancel", "a") == (0, "a was asked to stop\n", "")
    again = ("start", "waits", "--queue", "q", "--on-conflict", "existing", "--wait")
    only_a_sentence(tool(*again, "--id", "a"), 1, 'job "a" failed: .*[Cc]ancelled')
    assert "cancelled" in tool("job", "a").out
    only_a_sentence(tool("cancel", "a"), 1, "closed")
    assert tool("interrupt", "b", "--reason", "enough", "--code", "499").status == 0
    only_a_sentence(tool(*again, "--id", "b"), 1, "enough")
    assert tool("job", "b", "--json").document["error"]["code"] == 499
    only_a_sentence(tool("interrupt", "nix"), 1, "nix")


def test_a_hook_runs_in_a_job_and_the_entity_is_read_and_written(
    bare: Tool, tool: Tool, worker: Start
) -> None:
    worker("flows:kin", "--queue", "q")
    tool("start", "waits", "--queue", "q", "--id", "a")
    assert tool("hook", "a", "helps", "bob").out == "helps will run in a\n"

    def entity(*words: str) -> Said:
        return bare("entity", *words, *APP)

    wait_until(lambda: entity("get", "a").out == '{"helper": "bob"}\n', 10, "the hook's entry")
    assert entity("set", "a", "count", "1").out == '{"count": 1, "helper": "bob"}\n'
    assert entity("merge", "a", '{"count": 2}', "--json").document["count"] == 2
    assert entity("get", "a", "count").out == "2\n"
    assert entity("get", "a", "--version", "1").out == '{"helper": "bob"}\n'
    changes = entity("history", "a", "--json").document
    assert [change["operation"] for change in changes] == ["set", "set", "merge"]
    shown = entity("history", "a", "--limit", "2")
    assert "count" in shown.out
    assert "--after 2" in shown.err
    only_a_sentence(entity("get", "a", "--at", "noon"), 1, "noon")
    assert entity("get", "a", "count", "--version", "1").status == 2
    assert entity("set", "a", "b", "c", "d").status == 2


def test_the_code_of_a_job_is_asked_and_told(tool: Tool, worker: Start) -> None:
    worker("flows:counts", "--queue", "q")
    tool("start", "counts", "--queue", "q", "--id", "a")
    assert tool("query", "a", "total") == (0, "0\n", "")
    assert tool("update", "a", "add", "3", "--json").document == 3
    assert tool("query", "a", "total", "--json").document == 3
    only_a_sentence(tool("query", "a", "nix"), 1, "nix")
    tool("start", "counts", "--queue", "nobody", "--id", "b")
    only_a_sentence(tool("query", "b", "total", "--timeout", "100ms"), 1, "total")


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


# --- the engine -----------------------------------------------------------------------------------


@pytest.fixture
def empty(server: Server) -> Iterator[str]:
    """A database without the engine."""
    with server.database() as name:
        yield server.conninfo(name, OWNER)


def test_install_makes_engine_and_app_and_may_be_repeated(bare: Tool, empty: str) -> None:
    first = bare("install", "--mode", "plain", "--dsn", empty, "--json")
    assert first.document["created"] is True
    assert (first.document["mode"], first.document["app"]) == ("plain", "memflow")
    again = bare("install", "--dsn", empty)
    assert again.status == 0
    assert "app memflow was there" in again.out
    assert bare("start", "total", "--id", "a", "--dsn", empty).out == "a\n"


def test_upgrade_brings_engine_and_app_up_to_date(tool: Tool) -> None:
    said = tool("upgrade")
    assert said.status == 0
    assert "app my-app is up to date" in said.out
    assert tool("upgrade", "--json").document["app"] == "my-app"


def test_upgrade_without_an_app_is_fine_unless_one_was_named(bare: Tool, dsn: str) -> None:
    assert bare("upgrade", "--dsn", dsn).status == 0
    only_a_sentence(bare("upgrade", "--dsn", dsn, "--app", "nix"), 1, 'unknown app "nix"')


def test_doctor_finds_what_is_missing(bare: Tool, tool: Tool, empty: str, dsn: str) -> None:
    checks = {check["check"]: check["state"] for check in tool("doctor", "--json").document}
    names = ("database", "engine", "app", "owner", "listen", "snapshots", "apps", "messages")
    assert {name: checks[name] for name in names} == dict.fromkeys(names, "ok")
    assert checks["autovacuum"] == "note", "the server of the tests has none"
    for words, name in (
        (["--dsn", empty], "engine"),
        (["--dsn", dsn, "--app", "nix"], "app"),
        (["--dsn", "host=/nowhere"], "database"),
    ):
        said = bare("doctor", "--json", *words)
        assert said.status == 1
        bad = [check for check in said.document if check["state"] == "no"]
        assert [check["check"] for check in bad] == [name]


@pytest.mark.parametrize(
    "words",
    [["jobs"], ["job", "a"], ["signal", "a", "go"], ["signal", "go"], ["workers"], ["top"],
     ["history", "a"], ["prune"], ["interrupt", "a"]],
)  # fmt: skip
def test_looking_provisions_nothing(bare: Tool, empty: str, dsn: str, words: list[str]) -> None:
    only_a_sentence(bare(*words, "--dsn", empty), 1, "hotmesh install")
    only_a_sentence(bare(*words, "--dsn", dsn, "--app", "nix"), 1, 'unknown app "nix"')


@pytest.mark.parametrize(
    "words",
    [["jobs"], ["start", "x"], ["install"], ["worker", "flows:total"], ["top"], ["cancel", "a"]],
)
def test_a_database_that_is_not_there(bare: Tool, flows: Path, words: list[str]) -> None:
    only_a_sentence(bare(*words, "--dsn", f"host={flows}"), 1, "cannot reach the database")
    only_a_sentence(bare(*words, "--dsn", "nonsense ="), 1, "is not a DSN")


def test_a_role_without_a_key(bare: Tool, server: Server, dbname: str) -> None:
    stranger = server.conninfo(dbname, STRANGER)
    for words in (["jobs"], ["start", "x"], ["install"]):
        only_a_sentence(bare(*words, "--dsn", stranger, *APP), 1, "permission|may not|not allowed")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for an embedded server."""
    directory = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
    _binaries.server_user().own(directory)
    monkeypatch.setenv("HOTMESH_HOME", str(directory))
    yield directory
    if any(directory.glob("pg*/data/postmaster.pid")):
        embedded.Server(directory).stop("immediate")
    shutil.rmtree(directory)


def test_up_runs_the_embedded_server_until_it_is_stopped(home: Path, bare: Tool) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "hotmesh", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        dsn = process.stdout.readline().strip()
        try:
            assert bare("start", "total", "--id", "a", "--dsn", dsn).out == "a\n"
            assert bare("doctor", "--dsn", dsn).status == 0
        finally:
            process.terminate()
        assert process.wait(20) == 0
    wait_until(lambda: not any(home.glob("pg*/data/postmaster.pid")), 10, "the server's end")


def test_up_ends_when_somebody_else_stops_its_server(home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "hotmesh", "up"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            embedded.Server(home).stop()
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "the server was stopped by somebody else" in said


# --- schedules ------------------------------------------------------------------------------------


@pytest.fixture
def timed(bare: Tool, dsn: str) -> Tool:
    """`timed("list")`: a word of `hotmesh schedule`."""

    def run(word: str, *words: str) -> Said:
        return bare("schedule", word, *APP, "--dsn", dsn, *words)

    return run


def test_a_schedule_is_created_listed_paused_and_deleted(timed: Tool) -> None:
    when = ["--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--queue", "q", "--note", "why"]
    made = timed("create", "nightly", "total", "1", "two", *when, "--json").document
    assert (made["args"], made["queue"], made["status"]) == ([1, "two"], "q", "active")
    assert timed("create", "often", "total", "--every", "90 s").status == 0
    said = timed("list")
    assert re.search(r"nightly +0 2 \* \* \* Europe/Berlin +total +q +active +20\d\d-", said.out)
    assert re.search(r"often +every 0:01:30 +total +active", said.out)
    assert [each["every"] for each in timed("list", "--json").document] == [None, 90.0]
    assert re.search("nightly .* paused", timed("pause", "nightly", "--note", "moving").out)
    assert "moving" in timed("show", "nightly").err
    assert timed("resume", "nightly", "--json").document["paused_at"] is None
    assert timed("delete", "often").out.startswith("often is gone")
    assert timed("delete", "nightly", "--json").document == {"name": "nightly"}
    assert timed("list", "--json").document == []


def test_every_option_of_a_schedule_reaches_the_engine(timed: Tool) -> None:
    words = ["--overlap", "allow_all", "--entity", "e", "--expire", "2 days", "--priority", "7"]
    words += ["--offset", "5 s", "--start-at", "2040-01-01", "--end-at", "2041-01-01T00:00Z"]
    words += ["--catchup-window", "1 h", "--paused", "--retry-policy", '{"maximum_attempts": 9}']
    made = timed("create", "s", "total", "--every", "1 h", *words, "--json").document
    assert (made["overlap"], made["status"]) == ("allow_all", "paused")
    assert made["next_tick"] == "2040-01-01T00:00:05+00:00"
    assert made["options"] == {
        "entity": "e", "expire": 172800, "priority": 7, "offset": 5, "start_at": "2040-01-01",
        "end_at": "2041-01-01T00:00Z", "catchup_window": 3600, "paused": True,
        "retry_policy": {"maximum_attempts": 9},
    }  # fmt: skip
    changed = timed("create", "s", "x", "--cron", "@daily", "--on-conflict", "replace", "--json")
    assert changed.document["workflow"] == "x"


def test_a_schedule_is_triggered_and_backfilled(timed: Tool, clock: Clock) -> None:
    clock.freeze("2030-01-01 12:00:30+00")
    timed("create", "s", "total", "--cron", "@hourly")
    assert timed("trigger", "s").out == "s-2030-01-01T12:00:30Z\n"
    ends = ("2030-01-01T11:00Z", "2030-01-01T12:00Z")
    filled = timed("backfill", "s", *ends)
    assert filled.out == "s-2030-01-01T11:00:00Z\ns-2030-01-01T12:00:00Z\n"
    assert timed("backfill", "s", *ends, "--json").document == []


@pytest.mark.parametrize(
    ("words", "status", "pattern"),
    [
        (["create", "s"], 2, "Missing argument 'WORKFLOW'"),
        (["create", "s", "w"], 1, "needs either cron or every"),
        (["create", "s", "w", "--cron", "61 * * * *"], 1, "cron: 61"),
        (["create", "s", "w", "--every", "soon"], 1, "every: 'soon' is no duration"),
        (["create", "s", "w", "--cron", "@daily", "--timezone", "Mars"], 1, "time zone: Mars"),
        (["create", "s", "w", "--cron", "@daily", "--overlap", "some"], 2, "--overlap"),
        (["create", "s", "w", "--cron", "@daily", "--end-at", "soon"], 1, "end_at is no instant"),
        (["pause", "nobody"], 1, 'schedule "nobody" not found'),
        (["show", "nobody"], 1, 'schedule "nobody" not found'),
        (["backfill", "s", "then"], 2, "Missing argument 'TO'"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said_in_a_sentence(
    timed: Tool, words: list[str], status: int, pattern: str
) -> None:
    only_a_sentence(timed(*words), status, pattern)


# --- help, logs, defects --------------------------------------------------------------------------


def test_every_command_and_option_has_help() -> None:
    assert isinstance(cli.schedule, click.Group)
    groups = [each for each in cli.cli.commands.values() if isinstance(each, click.Group)]
    below = [pair for group in groups for pair in group.commands.items()]
    for name, command in [*cli.cli.commands.items(), *below]:
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("words", [[], ["--help"], ["start", "-h"], ["--version"]])
def test_help_needs_no_database(bare: Tool, words: list[str]) -> None:
    said = bare(*words)
    assert (said.status, said.err) == (0, "")
    assert "hotmesh" in said.out


def test_every_command_is_in_the_readme() -> None:
    readmes = (ROOT / "README.md").read_text() + (ROOT / "python_driver/README.md").read_text()
    told = set(re.findall(r"`hotmesh (\w+)", readmes))
    assert told - {"up"} <= set(cli.cli.commands)
    assert set(cli.cli.commands) <= told


def test_the_log_level_comes_from_the_environment(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HMSH_LOGLEVEL", "loud")
    only_a_sentence(tool("jobs"), 1, "HMSH_LOGLEVEL is 'loud'")
    monkeypatch.setenv("HMSH_LOGLEVEL", "debug")
    assert "Traceback" in tool("job", "nope").err


def test_a_defect_is_a_sentence_too(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "SyncSession", lambda *_, **__: 1 / 0)
    only_a_sentence(tool("jobs"), 1, "ZeroDivisionError")
