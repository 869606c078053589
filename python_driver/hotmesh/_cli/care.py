"""Is everything as it should be, and how fast is it: `hotmesh doctor` and `hotmesh bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from .. import _health
from .. import install as engine
from .._health import Finding
from ..errors import HotMeshError
from .place import Place, note, placed

__all__ = ["COMMANDS"]


@click.command()
@placed
def doctor(place: Place) -> None:
    """Look whether database, engine and app are as they should be.

    A note is worth knowing; a no is an error, and so is then the exit status.
    """
    checks: list[Finding] = []
    try:
        with place.session() as session, session.connect() as conn:
            server = conn.info.server_version
            checks.append(Finding("database", "ok", f"Postgres {server // 10000}.{server % 10000}"))
            found = engine.check(conn)
            about = f"{found.version}, protocol {found.protocol}, {found.mode}"
            same = found.build == engine.build()
            about += "" if same else f"; its build is {found.build}, the driver's {engine.build()}"
            more = "" if same else ": hotmesh upgrade"
            checks.append(Finding("engine", "ok" if same else "note", about + more))
            session.run(session.app_probe(), conn)
            checks.append(Finding("app", "ok", place.app))
            session.ready = True
            checks.extend(_health.findings(session, conn))
    except HotMeshError as error:
        name = ("database", "engine", "app", "health")[min(len(checks), 3)]
        hint = f"; {error.hint}" if error.hint else ""
        checks.append(Finding(name, "no", f"{error}{hint}"))
    if place.screen.as_json:
        place.screen.document([check._asdict() for check in checks])
    else:
        place.screen.table(("check", "state", "about"), checks)
    if any(check.state == "no" for check in checks):
        raise click.exceptions.Exit(1)


BENCH = Path(__file__).resolve().parents[3] / "bench" / "run.py"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, metavar="[OPTIONS]...")
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the engine next to the floor: bench/run.py of a checkout, with its OPTIONS.

    By default in a Postgres of its own, made for it; --quick takes about a minute.
    """
    if not BENCH.is_file():
        raise HotMeshError(
            "the measurements are not part of the package",
            hint="run make bench in a checkout of the repository",
        )
    note(f"{BENCH} {' '.join(arguments)}")
    status = subprocess.run([sys.executable, str(BENCH), *arguments], check=False).returncode
    raise click.exceptions.Exit(status)


COMMANDS: tuple[click.Command, ...] = (doctor, bench)
