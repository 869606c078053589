"""The look of sql/ outside of function bodies, by sqlfluff; and the built files are current."""

from __future__ import annotations

import subprocess
import sys

from support.cluster import ROOT
from support.engine import artefacts


def lint(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sqlfluff", "lint", "--disable-progress-bar", "--nocolor"]
    return subprocess.run(
        [*command, "--config", str(ROOT / ".sqlfluff"), *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def test_sqlfluff_has_no_complaint() -> None:
    done = lint("sql")
    assert done.returncode == 0, done.stdout + done.stderr


def test_sqlfluff_would_complain() -> None:
    done = lint("-", text="CREATE TABLE hotmesh.t (i INT);\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "CP01" in done.stdout


def test_the_built_files_are_what_the_rooms_say() -> None:
    stale = [
        str(file.relative_to(ROOT))
        for file, text in artefacts().items()
        if not file.exists() or file.read_text() != text
    ]
    assert not stale, f"run make build: {stale}"


def test_the_version_is_written_once_and_agrees() -> None:
    [line] = [
        line
        for line in (ROOT / "hotmesh.control").read_text().splitlines()
        if line.startswith("default_version")
    ]
    version = line.split("'")[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text().replace("[", "").replace("]", "")
    assert f'version = "{version}"' in (ROOT / "python_driver/pyproject.toml").read_text()
    assert (ROOT / f"extension/hotmesh--{version}.sql").exists()
