#!/usr/bin/env python3
"""Lay the rooms of sql/ into the scripts that are installed; `--check` says whether they are current.

Three artefacts, from the same statements. `hotmesh--X.Y.Z.sql` is for `create extension`. `hotmesh.sql` is
for a Postgres where that is not possible: by `psql -f`, or as one `execute`; its `--@` lines let the driver
take the behaviour half alone for an upgrade. For each hand-written `upgrade/A--B.sql`, the changes of state
between two versions, `hotmesh--A--B.sql` is those changes and the whole behaviour half.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

SETTINGS = """\
set local client_min_messages = warning;
set local check_function_bodies = off;
set local search_path = pg_catalog, pg_temp;
"""
# The path keeps an unqualified `create` from landing anywhere; bodies are compiled when first called,
# so a function may name one of a later room.

GUARD = r"""\echo Use "{verb}" to load this file. \quit
"""

ONCE = """\
do $$
begin
    if to_regclass('hotmesh.apps') is not null then
        raise exception 'this database has the engine of HotMesh already'
            using errcode = '42710', hint = 'To bring it up to date, run "hotmesh upgrade".';
    end if;
end
$$;
"""

CONFIG_DUMP = re.compile(r"^select pg_catalog\.pg_extension_config_dump\([^;]*\);\n", re.M)
BUILT = re.compile(r"^    select '(\d\S+-[0-9a-f]{8}-[0-9a-f]{8})'$", re.M)
OR_REPLACE = re.compile(r"^create or replace ", re.M)


def version() -> str:
    """The version, which only the control file knows."""
    found = re.search(r"^default_version = '(.+)'", (ROOT / "hotmesh.control").read_text(), re.M)
    assert found, "hotmesh.control has no default_version"
    return found[1]


def halves(room: Path) -> tuple[str, str]:
    """The state and the behaviour of one room, each under a line that names the file."""
    parts = re.split(r"^--@ (.*)\n", room.read_text(), flags=re.M)
    if parts[1::2] != ["state", "behaviour"]:
        sys.exit(f"{room.name} needs one line '--@ state', then one line '--@ behaviour'")
    state, behaviour = (f"-- {room.name}\n{part.strip()}\n\n" for part in parts[2::2])
    return state, behaviour


def rooms(folder: Path) -> tuple[str, str]:
    """All state, then all behaviour: a table may be named by any function."""
    pairs = [halves(room) for room in sorted(folder.glob("[0-9][0-9]_*.sql"))]
    assert pairs, f"no rooms in {folder}"
    state, behaviour = ("".join(half) for half in zip(*pairs, strict=True))
    return state, behaviour.replace("@build@", build(state, behaviour))


def build(state: str, behaviour: str) -> str:
    """Tells apart what was built from different sources; what the tables say of themselves is left out."""
    bare = re.sub(r"^comment on [\s\S]*?';$|^--.*$", "", state, flags=re.M)
    prints = (hashlib.sha256(text.encode()).hexdigest()[:8] for text in (bare, behaviour))
    return "-".join([version(), *prints])


def extension_script(state: str, behaviour: str) -> str:
    """Nothing is replaced: who made an object of that name before us would own it."""
    guard = GUARD.format(verb="create extension hotmesh")
    return guard + SETTINGS + "\n" + OR_REPLACE.sub("create ", state + behaviour).rstrip() + "\n"


def plain_script(state: str, behaviour: str) -> str:
    """The same for a Postgres without the extension; one transaction, no commands of psql."""
    return (
        f"-- HotMesh {version()} without `create extension`; built from sql/, do not edit.\n"
        f"-- build {BUILT.findall(behaviour)[0]}\n"
        f"begin;\n--@ settings\n{SETTINGS}\n--@ state\n{ONCE}create schema if not exists hotmesh;\n\n"
        f"{CONFIG_DUMP.sub('', state)}--@ behaviour\n{CONFIG_DUMP.sub('', behaviour)}--@ end\ncommit;\n"
    )


def upgrade_script(target: str, delta: str, behaviour: str) -> str:
    """Changes of state by hand, behaviour replayed: a new version is a short delta."""
    guard = GUARD.format(verb=f"alter extension hotmesh update to '{target}'")
    return f"{guard}{SETTINGS}\n{delta.strip()}\n\n{behaviour.rstrip()}\n"


def artefacts() -> dict[Path, str]:
    """Every file that is built, and what has to be in it; scripts of older versions are frozen."""
    state, behaviour = rooms(ROOT / "sql")
    built = {
        HERE / f"hotmesh--{version()}.sql": extension_script(state, behaviour),
        HERE / "hotmesh.sql": plain_script(state, behaviour),
    }
    for delta in sorted((HERE / "upgrade").glob(f"*--{version()}.sql")):
        script = upgrade_script(version(), delta.read_text(), behaviour)
        built[HERE / f"hotmesh--{delta.name}"] = script
    return built


def main(arguments: list[str]) -> int:
    """Write what differs, or only name it."""
    stale = {f: t for f, t in artefacts().items() if not f.exists() or f.read_text() != t}
    for file, text in stale.items():
        if "--check" in arguments:
            print(f"{file.relative_to(ROOT)} is not what sql/ says: run make build")
        else:
            file.write_text(text)
            print(f"built {file.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
