"""The READMEs, read from top to bottom and executed: what they show is what comes out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pglast
import psycopg
import pytest
from psycopg.types.string import TextLoader

from support.cluster import ROOT
from support.crash import Child, python_path
from support.engine import OWNER, Server, plain_sql

README = ROOT / "README.md"
DRIVER_README = ROOT / "python_driver/README.md"
TOUR = ROOT / "python_driver/examples/tour/README.md"
ELSEWHERE = ("make demo", "make test", "pip install")  # test_examples, this run, test_install
TIMES = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?\+00(:00)?")
RUNS = re.compile(r"^(asyncio\.)?run\(", re.M)


class Snippet(NamedTuple):
    """A fenced block, where it is, and the output that is shown right below it."""

    language: str
    text: str
    line: int
    shown: str | None


def snippets(text: str) -> list[Snippet]:
    found: list[Snippet] = []
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        language, body = block[1], block[2]
        line = text.count("\n", 0, block.start()) + 1
        if language == "text":
            assert text[: block.start()].endswith("```\n"), f"line {line}: output of nothing"
            found[-1] = found[-1]._replace(shown=body)
        else:
            found.append(Snippet(language, body, line, None))
    return found


def normal(text: str) -> str:
    """Text without what differs in each run: times, and how wide a column is."""
    text = TIMES.sub("<time>", text)
    return "\n".join(
        re.sub(r"\s+", " ", re.sub(r"[-+]{3,}", "---", x)).strip() for x in text.splitlines()
    )


def as_psql(cursor: psycopg.Cursor[Any]) -> str:
    """Rows as psql shows them, but for the widths."""
    rows = cursor.fetchall()
    lines = [" | ".join(column.name for column in cursor.description or ()), "---"]
    lines += [" | ".join("" if value is None else str(value) for value in row) for row in rows]
    return "\n".join([*lines, f"({len(rows)} row{'s' if len(rows) != 1 else ''})"])


class Reader:
    """Someone who does what the README says, in a directory and a database of their own."""

    def __init__(self, server: Server, stack: ExitStack, place: Path) -> None:
        self.server, self.stack, self.place = server, stack, place
        self.dsn = ""
        self.connection: psycopg.Connection[Any] | None = None
        self.workers: list[Child] = []

    def follow(self, snippet: Snippet) -> None:
        said = getattr(self, f"_{snippet.language}")(snippet.text)
        if snippet.shown is not None:
            assert normal(said) == normal(snippet.shown), f"the snippet in line {snippet.line}"

    def _sql(self, text: str) -> str:
        assert self.connection
        said = ""
        for statement in _statements(text):
            cursor = self.connection.execute(statement.encode())
            if cursor.description:
                said = as_psql(cursor)
        return said

    def _python(self, text: str) -> str:
        named = re.match(r"# (\w+\.py)\n", text)
        file = self.place / (named[1] if named else "snippet.py")
        file.write_text(text)
        return self._run(sys.executable, file.name) if RUNS.search(text) else ""

    def _yaml(self, text: str) -> str:
        """A graph; its first line names its file."""
        named = re.match(r"# (\S+\.yaml)\n", text)
        assert named, "a graph without a name"
        (self.place / named[1]).write_text(text)
        return ""

    def _bash(self, text: str) -> str:
        said = ""
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            said = getattr(self, f"_{words[0]}_command")(line, words[1:])
        for worker in self.workers:
            assert worker.terminate() == 0
        self.workers.clear()
        return said

    def _make_command(self, line: str, words: list[str]) -> str:
        """What is said, and then the form with a directory that its comment mentions."""
        assert words == ["install"]
        assert "make install EXTDIR=" in line
        place = self.place / "extension"
        done = subprocess.run(
            ["make", "install", f"EXTDIR={place}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (place / "hotmesh.control").exists()
        return ""

    def _psql_command(self, line: str, words: list[str]) -> str:
        """Each installation goes into an empty database; the last one is used from then on."""
        database, *variables, option, what = words
        assert (database, variables) in (("mydb", []), ("mydb", ["-v", "ON_ERROR_STOP=1"]))
        if option == "-f":
            assert (ROOT / what).exists()
            what = plain_sql()
        name = self.stack.enter_context(self.server.database())
        self.dsn = self.server.conninfo(name, OWNER)
        self.connection = self.stack.enter_context(psycopg.connect(self.dsn, autocommit=True))
        for kind in ("jsonb", "timestamptz"):
            self.connection.adapters.register_loader(kind, TextLoader)
        if "extension" in what[:20]:
            available = self.connection.execute(
                "select from pg_available_extensions where name = 'hotmesh'"
            )
            if not available.rowcount:
                return ""
        self.connection.execute(what.encode())
        return ""

    def _hotmesh_command(self, line: str, words: list[str]) -> str:
        if words[0] == "worker":
            log = self.place / "worker.log"
            env = {"PYTHONPATH": f"{self.place}{os.pathsep}{python_path()}"}
            worker = Child("hotmesh", *words, dsn=self.dsn, log=log, env=env)
            self.stack.callback(worker.kill)
            self.workers.append(worker)
            worker.wait_for_output("Ctrl-C")
            return ""
        return self._run(sys.executable, "-m", "hotmesh", *words)

    def _run(self, *command: str) -> str:
        env = {**os.environ, "DATABASE_URL": self.dsn, "PYTHONPATH": python_path()}
        done = subprocess.run(
            command,
            cwd=self.place,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _statements(text: str) -> list[str]:
    return [text[part] for part in pglast.split(text, only_slices=True)]


@pytest.fixture
def reader(server: Server, tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(server, stack, tmp_path)


@pytest.mark.slow
def test_the_readme_does_what_it_says(reader: Reader) -> None:
    for snippet in snippets(README.read_text()):
        reader.follow(snippet)


def test_the_page_of_the_package_does_too(reader: Reader, dsn: str) -> None:
    reader.dsn = dsn
    for snippet in snippets(DRIVER_README.read_text()):
        reader.follow(snippet)


@pytest.mark.slow
def test_the_tour_of_graphs_leads_through_nine_versions(
    reader: Reader, dsn: str, db: psycopg.Connection
) -> None:
    reader.dsn = dsn
    for snippet in snippets(TOUR.read_text()):
        reader.follow(snippet)
    versions = db.execute(
        "select version from abc.graphs where state = 'active' or state = 'retired'"
    ).fetchall()
    assert ("9",) in versions


def test_commands_without_a_fence_are_run_elsewhere() -> None:
    text = README.read_text() + DRIVER_README.read_text()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    commands = re.findall(r"^ {4}(\S.*)$", outside, re.M)
    assert commands
    assert not [command for command in commands if not command.startswith(ELSEWHERE)]


def test_other_output_than_shown_is_noticed(reader: Reader, dsn: str) -> None:
    snippet = Snippet(
        "python", "# x.py\nimport asyncio\nprint(1)\nasyncio.run(asyncio.sleep(0))\n", 1, "2\n"
    )
    reader.dsn = dsn
    with pytest.raises(AssertionError):
        reader.follow(snippet)
    reader.follow(snippet._replace(shown="1\n"))


def test_links_lead_somewhere() -> None:
    for readme in (README, DRIVER_README, TOUR):
        targets = re.findall(r"\]\(([^)#]+)\)", readme.read_text())
        missing = [t for t in targets if "://" not in t and not (readme.parent / t).exists()]
        assert not missing


def test_the_two_commands_are_targets_of_make() -> None:
    said = subprocess.run(
        ["make", "-n", "demo", "test"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    chores = (ROOT / "python_driver/bootstrap.py").read_text()
    [script] = re.findall(r'"demo": \["([^"]+)"\]', chores)
    assert (ROOT / script).exists()


def test_the_rooms_and_folders_on_the_map_are_there() -> None:
    folders = re.findall(r"^\| `(\w+/)` \|", README.read_text(), re.M)
    assert len(folders) == 5
    assert all((ROOT / folder).is_dir() for folder in folders)
