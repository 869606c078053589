"""Measure HotMesh next to the floor: `python bench/run.py [--scenario NAME] [--quick] [--dsn DSN]`.

Without --dsn it starts a Postgres of its own, on disk and with fsync. The result goes to
bench/results/last.json; --publish also keeps it under its date and writes its tables into README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import _report
from bench._world import World, embedded_world, given_world, machine
from hotmesh.install import version

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure, show, keep; 0 unless a scenario could not be measured."""
    scenarios = json.loads((HERE / "scenarios.json").read_text())
    names = [scenario["name"] for scenario in scenarios]
    options = _options(names)
    chosen = [s for s in scenarios if not options.scenario or s["name"] in options.scenario]
    size = "tiny" if options.tiny else "quick" if options.quick else "full"
    with given_world(options.dsn) if options.dsn else embedded_world() as world:
        report = measure(world, chosen, size)
    report["claims"] = _report.judge(json.loads((HERE / "claims.json").read_text()), report)
    _report.show_claims(report["claims"])
    keep(report, options.output, options.publish)
    return int(any("failure" in result for result in report["results"]))


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--scenario", action="append", choices=names, help="only this one; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: about a minute")
    parser.add_argument(
        "--tiny", action="store_true", help="does it run at all? no numbers to look at"
    )
    parser.add_argument("--dsn", help="a server that is there, with the right to create a database")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "last.json")
    parser.add_argument("--publish", action="store_true", help="into results/ and README.md")
    return parser.parse_args()


def measure(world: World, scenarios: list[dict[str, Any]], size: str) -> dict[str, Any]:
    """All scenarios, each shown as soon as it is measured."""
    report: dict[str, Any] = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hotmesh": version(),
        "size": size,
        "machine": machine(world),
        "results": [],
    }
    _report.show_machine(report["machine"])
    for scenario in scenarios:
        began = time.perf_counter()
        result = {
            "scenario": scenario["name"],
            "what": scenario["what"],
            **_one(world, scenario, size),
        }
        result["took_s"] = round(time.perf_counter() - began, 1)
        report["results"].append(result)
        _report.show(result)
    return report


def _one(world: World, scenario: dict[str, Any], size: str) -> dict[str, Any]:
    """One scenario; its failure is a result, too."""
    sizes = {**scenario["full"], **scenario.get(size, {})}
    module, function = scenario["measure"].split(".")
    measured = getattr(importlib.import_module(f"bench.scenarios.{module}"), function)
    try:
        return {"sizes": sizes, "rows": measured(world, scenario["name"], **sizes)}
    except Exception as error:
        return {"sizes": sizes, "rows": [], "failure": f"{type(error).__name__}: {error}"}


def keep(report: dict[str, Any], output: Path, publish: bool) -> None:
    """Write the result, and the published one also under its date and into the README."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(_report.as_json(report))
    if publish:
        name = f"{report['at'][:10]}-{report['hotmesh']}.json"
        (HERE / "results" / name).write_text(_report.as_json(report))
        _report.write_readme(HERE / "README.md", report)


if __name__ == "__main__":
    sys.exit(main())
