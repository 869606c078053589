"""The bench runs: every scenario at a size that says nothing, and all that the claims ask for is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"


def _data(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((BENCH / name).read_text())
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run at tiny sizes writes, on its own server: there nobody else writes WAL."""
    output = tmp_path_factory.mktemp("bench") / "result.json"
    command = [sys.executable, str(BENCH / "run.py"), "--tiny", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [scenario["name"] for scenario in _data("scenarios.json")])
def test_a_scenario_is_measured(report: dict[str, Any], name: str) -> None:
    (result,) = (r for r in report["results"] if r["scenario"] == name)
    assert "failure" not in result
    assert result["rows"]
    assert all(row["case"] for row in result["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noop", "five_serial", "five_concurrent"])
def test_the_floor_leaves_the_rows_that_the_engine_leaves(
    report: dict[str, Any], name: str
) -> None:
    (result,) = (r for r in report["results"] if r["scenario"] == name)
    (row,) = result["rows"]
    assert row["bytes_left_of_floor"] == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_the_counts_of_five_steps_in_a_row_stand(report: dict[str, Any]) -> None:
    (result,) = (r for r in report["results"] if r["scenario"] == "five_serial")
    (row,) = result["rows"]
    jobs = result["sizes"]["jobs"]
    assert row["round_trips"] <= 6 + 1 / jobs  # the very first turn finds no predecessor to settle
    assert row["commits"] <= row["round_trips"] + 1 / jobs
    assert 0 < row["wal_bytes"] < 6144


@pytest.mark.slow
def test_each_claim_asks_for_what_is_measured(report: dict[str, Any]) -> None:
    for claim in _data("claims.json"):
        (result,) = (r for r in report["results"] if r["scenario"] == claim["of"])
        assert any(claim["value"] in row for row in result["rows"]), claim
