"""Results as tables, on the terminal and in the README, and the verdict on each claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["as_json", "judge", "show", "show_claims", "show_machine", "write_readme"]

_BEGIN, _END = "<!-- results: made by run.py --publish -->\n", "<!-- end of results -->"

console = Console()


def figure(value: Any, digits: int = 3) -> str:
    """A number with as many digits as count."""
    if not isinstance(value, float | int):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def heading(key: str) -> str:
    """`late_of_early` as people write it."""
    return key.replace("per_s", "/s").replace("_", " ")


def judge(claims: list[dict[str, Any]], report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each claim with the number that was seen; claims about what was not measured are left out."""
    judged = []
    for claim in claims:
        seen = _find(claim, report)
        if seen is None:
            continue
        kept = seen <= claim["at_most"] if "at_most" in claim else seen >= claim["at_least"]
        judged.append({**claim, "seen": seen, "kept": kept})
    return judged


def _find(claim: dict[str, Any], report: dict[str, Any]) -> float | None:
    for result in report["results"]:
        for row in result["rows"]:
            if result["scenario"] == claim["of"] and row["case"] == claim.get("case", row["case"]):
                return float(row[claim["value"]]) if claim["value"] in row else None
    return None


def _bound(claim: dict[str, Any]) -> str:
    if "at_most" in claim:
        return f"≤ {figure(claim['at_most'])}"
    return f"≥ {figure(claim['at_least'])}"


# --- the terminal


def show_machine(machine: dict[str, Any]) -> None:
    """Where it was measured."""
    console.print(_machine(machine), highlight=False)


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpus']} × {machine['cpu']}, {machine['filesystem']},"
        f" fdatasync {machine['fdatasync_us']} µs, Postgres {machine['postgres']}"
        f" (shared_buffers {machine['settings']['shared_buffers']},"
        f" fsync {machine['settings']['fsync']}), Python {machine['python']}"
    )


def show(result: dict[str, Any]) -> None:
    """One scenario; a row per value, as there are more values than cases."""
    title = f"{result['scenario']}: {result['what']} ({result['took_s']} s)"
    if "failure" in result:
        console.print(f"[bold]{title}[/] [red]{result['failure']}[/]")
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    head, *lines = _grid(result)
    for column in head:
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _grid(result: dict[str, Any]) -> list[list[str]]:
    """A line per value, as there are more values than cases; with many cases, a line per case."""
    rows = result["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    grid = [["", *(row["case"] for row in rows)]]
    grid += [[heading(key), *(figure(row.get(key, "")) for row in rows)] for key in keys]
    return [list(line) for line in zip(*grid, strict=True)] if len(rows) > 2 else grid


def show_claims(claims: list[dict[str, Any]]) -> None:
    """The verdicts."""
    table = Table("claim", "bound", "seen", "", title="claims", title_justify="left")
    for claim in claims:
        verdict = "[green]kept[/]" if claim["kept"] else "[red]not kept[/]"
        table.add_row(claim["claim"], _bound(claim), figure(claim["seen"], 4), verdict)
    console.print(table)


# --- files


def as_json(report: dict[str, Any]) -> str:
    """Four digits after the point are more than enough."""
    return json.dumps(_rounded(report), indent=1, ensure_ascii=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def write_readme(path: Path, report: dict[str, Any]) -> None:
    """Put the tables between the two marks."""
    text = path.read_text()
    head, rest = text.split(_BEGIN)
    tail = rest.split(_END)[1]
    path.write_text(head + _BEGIN + "\n".join(_markdown(report)) + "\n" + _END + tail)


def _markdown(report: dict[str, Any]) -> list[str]:
    lines = [
        f"HotMesh {report['hotmesh']}, {report['at'][:10]}: {_machine(report['machine'])}.",
        "",
    ]
    lines += ["| claim | bound | seen | |", "|---|---|---|---|"]
    for claim in report["claims"]:
        verdict = "kept" if claim["kept"] else "**not kept**"
        lines.append(
            f"| {claim['claim']} | {_bound(claim)} | {figure(claim['seen'], 4)} | {verdict} |"
        )
    for result in report["results"]:
        lines += ["", f"**{result['scenario']}**: {result['what']}", ""]
        lines += _markdown_table(result)
    return lines


def _markdown_table(result: dict[str, Any]) -> list[str]:
    if "failure" in result:
        return [f"Not measured: {result['failure']}"]
    head, *lines = ["| " + " | ".join(line) + " |" for line in _grid(result)]
    return [head, "|---" * (head.count("|") - 1) + "|", *lines]
