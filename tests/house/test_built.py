"""Both forms of the engine are the same statements, and one version is on all of it.

That they are current is a rule of test_style.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from support.cluster import ROOT


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", ROOT / "extension/build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load()
PLAIN = ROOT / "extension/hotmesh.sql"
EXTENSION = ROOT / f"extension/hotmesh--{build.version()}.sql"


def statements(script: str) -> list[str]:
    """The lines that create something: without guards, settings, comments and `or replace`."""
    body = script[script.index("-- 00_house.sql") :]
    body = re.sub(r"^--@ .*\n|^commit;\n", "", build.CONFIG_DUMP.sub("", body), flags=re.M)
    return [line for line in build.OR_REPLACE.sub("create ", body).splitlines() if line.strip()]


def test_extension_and_plain_file_have_the_same_statements() -> None:
    plain, extension = (file.read_text() for file in (PLAIN, EXTENSION))
    assert statements(plain) == statements(extension)


def test_the_extension_replaces_nothing() -> None:
    assert not re.search(r"^create or replace ", EXTENSION.read_text(), re.M)


def test_the_plain_file_needs_neither_psql_nor_an_extension() -> None:
    text = PLAIN.read_text()
    assert not re.search(r"^\\", text, re.M)
    assert "pg_extension_config_dump(" not in text
    assert text.index("begin;") < text.index("--@ settings") < text.index("--@ state")
    assert text.index("--@ behaviour") < text.index("--@ end") < text.index("\ncommit;")


def test_one_version_everywhere(db: psycopg.Connection) -> None:
    version = build.version()
    project = (ROOT / "python_driver/pyproject.toml").read_text()
    entry = re.search(r"^## (\S+)(.*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    installed = db.execute("select hotmesh.version(), hotmesh.protocol()").fetchone()
    assert f'\nversion = "{version}"' in project
    assert entry and installed
    assert (entry[1], installed[0]) == (version, version)
    assert f"protocol {installed[1]}" in entry[2]


@pytest.mark.parametrize(
    "room",
    [
        "-- no halves\n",
        "-- one\n--@ state\n",
        "-- wrong order\n--@ behaviour\n\n--@ state\n",
        "-- three\n--@ state\n--@ behaviour\n--@ behaviour\n",
    ],
)
def test_a_room_without_its_two_halves_is_refused(tmp_path: Path, room: str) -> None:
    (tmp_path / "00_house.sql").write_text(room)
    with pytest.raises(SystemExit, match="00_house"):
        build.rooms(tmp_path)


def test_an_upgrade_is_the_delta_and_the_whole_behaviour() -> None:
    script = build.upgrade_script("9.9.9", "alter table hotmesh.jobs add column x int;\n", "-- b\n")
    assert script.startswith("\\echo Use \"alter extension hotmesh update to '9.9.9'\"")
    assert script.endswith("add column x int;\n\n-- b\n")
