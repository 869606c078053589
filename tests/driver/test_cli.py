"""The command line tool: what people see, what machines read, and one sentence when it fails."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import click
import psycopg
import pytest

from hotmesh import _session, cli
from support.cluster import ROOT
from support.shell import APP, Said, Start, Tool, only_a_sentence
from support.waiting import wait_until

# --- starting -------------------------------------------------------------------------------------


def test_start_creates_an_app_only_if_it_is_told_to(
    bare: Tool, dsn: str, db: psycopg.Connection
) -> None:
    typo = ("start", "total", "--app", "my-appp", "--id", "a", "--dsn", dsn)
    only_a_sentence(bare(*typo), 1, r'unknown app "my-appp"\s.*--create')
    assert db.execute("select from hotmesh.apps where name = 'my-appp'").rowcount == 0
    assert bare(*typo, "--create").out == "a\n"
    assert bare("start", "total", "--id", "b", "--dsn", dsn).status == 0  # the default app


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


def test_a_question_that_nobody_answers_says_how_long_it_waited(tool: Tool) -> None:
    tool("start", "total", "--id", "a")
    said = tool("query", "a", "total", "--timeout", "10ms")
    only_a_sentence(said, 1, 'job "a" did not answer query total within 10ms$')


def test_an_entity_is_an_object(bare: Tool, tool: Tool) -> None:
    tool("start", "total", "--id", "a")
    for command in ("set", "merge"):
        said = bare("entity", command, "a", "packed", *APP)
        only_a_sentence(said, 1, "the whole of the entity must be an object, not string\n  Give an")


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
