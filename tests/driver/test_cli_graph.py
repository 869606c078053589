"""Graphs at the command line: deployed, shown, run; faults with their places, for people and machines."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotmesh import cli
from support.shell import APP, Said, Tool

GRAPH = """\
subscribes: pure
activities:
  t: {type: trigger}
  h: {type: hook, job: {maps: {twice: {'@pipe': [['{t.output.data.n}', 2], ['{@math.multiply}']]}}}}
transitions:
  t: [{to: h}]
"""
WRONG = """\
app:
  id: my-app
  version: '2'
  graphs:
    - subscribes: pure
      activities:
        t: {type: trigger}
        w: {type: wroker}
      transitions:
        t:
          - to: nobody
"""


@pytest.fixture
def tool(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tool:
    """`tool("graphs")`: run a command in a folder with graphs, on the test's database."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.delenv("HMSH_LOGLEVEL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pure.yaml").write_text(GRAPH)
    (tmp_path / "wrong.yaml").write_text(WRONG)

    def run(*words: str) -> Said:
        with pytest.raises(SystemExit) as end:
            cli.main(list(words))
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return run


def test_a_graph_is_deployed_activated_and_run(tool: Tool) -> None:
    said = tool("deploy", "pure.yaml", *APP)
    assert (said.status, said.out) == (0, "app my-app, version 1 deployed: pure\n")
    assert "not active yet: hotmesh activate 1" in said.err
    assert tool("pub", "pure", *APP).status == 1
    assert tool("activate", "1", *APP).out == "app my-app: new jobs run in version 1\n"
    assert tool("deploy", "pure.yaml", *APP).out == (
        "app my-app, version 1 was deployed already: pure\n"
    )
    said = tool("pub", "pure", '{"n": 21}', "--wait", *APP)
    assert (said.status, said.out) == (0, '{"twice": 42}\n')
    assert tool("pub", "pure", "--id", "a", *APP).out == "a\n"
    said = tool("pub", "pure", "--id", "a", *APP)
    assert said.status == 1
    assert said.err.startswith("hotmesh: Duplicate job: a\n")


def test_machines_read_documents(tool: Tool) -> None:
    found = tool("deploy", "pure.yaml", "--activate", "--json", *APP).document
    assert found["app"] == "my-app"
    assert (found["version"], found["active"], found["changed"]) == ("1", True, True)
    assert [graph["subscribes"] for graph in found["graphs"]] == ["pure"]
    [row] = tool("graphs", "--json", *APP).document
    assert (row["topic"], row["version"], row["state"]) == ("pure", "1", "active")
    output = tool("pub", "pure", '{"n": 1}', "--wait", "--json", *APP).document
    assert (output["data"], output["metadata"]["tpc"]) == ({"twice": 2}, "pure")
    assert tool("activate", "1", "--json", *APP).document["active"] is True


def test_the_list_shows_topics_versions_and_states(tool: Tool) -> None:
    tool("deploy", "pure.yaml", "--activate", *APP)
    out = tool("graphs", *APP).out
    assert "pure" in out
    assert "active" in out


def test_a_graph_is_explained_as_text_and_drawn(tool: Tool) -> None:
    tool("deploy", "pure.yaml", "--activate", *APP)
    assert tool("explain", "pure", *APP).out.splitlines() == [
        "pure, version 1, active",
        "1 t: trigger",
        "    -> h",
        "2 h: hook",
        "    job twice = math.multiply({t.output.data.n}, 2)",
    ]
    assert tool("explain", "pure", "--mermaid", *APP).out.startswith("flowchart TD\n")
    assert tool("explain", "pure", "--mermaid", "--json", *APP).document["format"] == "mermaid"
    assert tool("explain", "nobody", *APP).status == 1


def test_a_job_of_a_graph_is_looked_at_as_any_other(tool: Tool) -> None:
    tool("deploy", "pure.yaml", "--activate", *APP)
    tool("pub", "pure", '{"n": 4}', "--id", "a", *APP)
    said = tool("job", "a", *APP)
    assert said.status == 0, said.err
    shown = said.out
    assert "trigger" in shown
    told = tool("job", "a", "--json", *APP).document
    assert (told["status"], told["entity"]) == ("complete", "pure")
    assert datetime.fromisoformat(told["created_at"]).utcoffset() is not None
    assert f"created   {told['created_at'][:10]}" in shown
    assert "h" in tool("history", "a", *APP).out.split()
    assert "pure" in tool("jobs", *APP).out


def test_faults_are_a_table_with_places(tool: Tool) -> None:
    said = tool("deploy", "wrong.yaml")
    assert said.status == 1
    assert "wrong.yaml:8:13 " in said.out
    assert "wrong.yaml:11:13 " in said.out
    assert said.err == "hotmesh: 3 faults; nothing was deployed\n"
    faults = tool("deploy", "wrong.yaml", "--json").document["faults"]
    assert {(fault["file"], fault["line"]) for fault in faults} == {
        ("wrong.yaml", 8), ("wrong.yaml", 11)
    }  # fmt: skip
    assert all(fault["path"] and fault["reason"] for fault in faults)


def test_broken_yaml_is_a_fault_like_any_other(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("app:\n  version: 1.10\n  id: no\n")
    said = tool("deploy", "broken.yaml", *APP)
    assert (said.status, said.err) == (1, "hotmesh: 2 faults; nothing was deployed\n")
    assert "broken.yaml:3:7 " in said.out
    (tmp_path / "broken.yaml").write_text("app: [\n")
    said = tool("deploy", "broken.yaml", *APP)
    assert (said.status, said.err) == (1, "hotmesh: 1 fault; nothing was deployed\n")
    assert "Traceback" not in said.out + said.err


def test_the_app_is_that_of_the_document_unless_it_is_named(
    tool: Tool, tmp_path: Path, db: psycopg.Connection
) -> None:
    text = "app:\n  id: shop\n  version: '1'\n  graphs:\n    - subscribes: x\n"
    (tmp_path / "shop.yaml").write_text(text + "      activities: {t: {type: trigger}}\n")
    said = tool("deploy", "shop.yaml")
    assert said.status == 1
    assert "--create" in said.err
    assert tool("deploy", "shop.yaml", "--create").out.startswith("app shop, version 1 deployed")
    assert tool("deploy", "shop.yaml", *APP).status == 1
    assert db.execute("select topic from shop.graphs").fetchall() == [("x",)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("deploy", "missing.yaml"), "there is no file"),
        (("activate", "7"), 'version "7" was not deployed\n  Deploy its document'),
        (("pub", "nobody"), 'no graph answers topic "nobody"'),
        (("pub", "pure", "[1]"), "DATA is no JSON object"),
        (("pub", "pure", "{'a': 1}"), "DATA is no JSON object"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tool: Tool, words: Any, told: str) -> None:
    said = tool(*words, *APP)
    assert said.status == 1
    assert told in said.err
    assert said.err.startswith("hotmesh: ")
    assert said.err.count("\n") <= 2
    assert said.out == ""
