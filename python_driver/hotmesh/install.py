"""Put the engine into a database, bring it up to date, and say what is there.

The engine comes in two forms from the same statements: as an extension, where the server has its files, and
as one plain SQL file for every other Postgres. `auto` takes the extension if it can. Everything happens in
one transaction under an advisory lock, so two processes that start at once do not collide.

The steps are generators that yield SQL and receive rows; they know neither `await` nor its absence, so
`install` and `install_async` are the same steps.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from hotmesh._calls import PROTOCOL
from hotmesh.errors import (
    HotMeshError,
    InvalidArgumentError,
    NotAllowedError,
    NotInstalledError,
    ProtocolError,
    from_sql,
)

__all__ = [
    "PROTOCOL",
    "Installed",
    "check",
    "check_async",
    "extension_files",
    "install",
    "install_async",
    "provide_database",
    "upgrade",
    "upgrade_async",
    "version",
]

if TYPE_CHECKING:
    from typing_extensions import LiteralString

Mode = Literal["auto", "extension", "plain"]
Row = tuple[Any, ...]
T = TypeVar("T")


class Step(NamedTuple):
    """A statement and its parameters; without any, the text may hold several statements."""

    text: str | sql.Composed
    params: dict[str, Any] | None = None


Steps: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True)
class Installed:
    """The engine of a database."""

    version: str
    protocol: int
    mode: Literal["extension", "plain"]
    build: str | None = field(default=None, compare=False)
    """Which sources it was built from; None where it can't or may not be asked."""


def install(conn: psycopg.Connection[Any], mode: Mode = "auto") -> Installed:
    """Install the engine; the connection's role owns it. A database that has it is left alone."""
    return _run(conn, _install(mode))


def refresh(conn: psycopg.Connection[Any]) -> bool:
    """Bring the engine and all its apps to this driver's build, if that can be done without loss.

    False: its tables are those of another build, which no script leads away from.
    """
    return _run(conn, _refresh())


def upgrade(conn: psycopg.Connection[Any]) -> Installed:
    """Bring the engine to this driver's version. Each app then takes `hotmesh.app_upgrade(app)`."""
    return _run(conn, _upgrade())


def check(conn: psycopg.Connection[Any]) -> Installed:
    """What is installed; raises NotInstalledError, ProtocolError or NotAllowedError."""
    return _run(conn, _check())


async def install_async(conn: psycopg.AsyncConnection[Any], mode: Mode = "auto") -> Installed:
    """As `install`."""
    return await _run_async(conn, _install(mode))


async def upgrade_async(conn: psycopg.AsyncConnection[Any]) -> Installed:
    """As `upgrade`."""
    return await _run_async(conn, _upgrade())


async def check_async(conn: psycopg.AsyncConnection[Any]) -> Installed:
    """As `check`."""
    return await _run_async(conn, _check())


# --- the files


@functools.cache
def extension_files() -> tuple[Path, ...]:
    """The control file and the scripts: beside this file, or in a checkout where they are made."""
    packed = Path(__file__).parent / "_sql"
    checkout = Path(__file__).resolve().parents[2]
    places = [packed] if packed.is_dir() else [checkout, checkout / "extension"]
    found = [file for place in places for file in sorted(place.glob("hotmesh*"))]
    files = tuple(file for file in found if file.suffix in {".control", ".sql"})
    if not {"hotmesh.control", "hotmesh.sql"} <= {file.name for file in files}:
        raise NotInstalledError(
            f"the scripts of the engine are missing in {places[-1]}",
            hint="Install the package again; in a checkout, run make build.",
        )
    return files


def _text(name: str) -> str:
    return next(file for file in extension_files() if file.name == name).read_text("utf-8")


@functools.cache
def version() -> str:
    """The version of the scripts that this driver brings."""
    found = re.search(r"^default_version = '(.+)'", _text("hotmesh.control"), re.M)
    assert found
    return found[1]


@functools.cache
def build() -> str:
    """The build of the scripts that this driver brings: version, state, behaviour."""
    path = next(file for file in extension_files() if file.name == "hotmesh.sql")
    with path.open("rb") as file:
        found = re.search(rb"^-- build (\S+)$", file.read(400), re.M)
    return found[1].decode() if found else version()


def _plain(*parts: str) -> str:
    """Parts of the plain file; `--@ name` opens each."""
    pieces = re.split(r"^--@ (\w+)\n", _text("hotmesh.sql"), flags=re.M)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return "".join(sections[part] for part in ("settings", *parts))


def _deltas(installed: str) -> list[str]:
    """The upgrade scripts from one version to ours, in order, fit for a plain install."""
    names = [re.fullmatch(r"hotmesh--(.+)--(.+)\.sql", file.name) for file in extension_files()]
    steps = {found[1]: found[2] for found in names if found}
    scripts = []
    while installed != version():
        if installed not in steps:
            raise ProtocolError(
                f"no way to upgrade the engine from {installed} to {version()}",
                detail="This driver brings no script that starts there.",
                hint="Use the driver of the engine's version, or a newer one.",
            )
        script = _text(f"hotmesh--{installed}--{steps[installed]}.sql")
        script = re.sub(r"\A\\echo.*\n", "", script)
        scripts.append(
            re.sub(
                r"^select pg_catalog\.pg_extension_config_dump\([^;]*\);\n", "", script, flags=re.M
            )
        )
        installed = steps[installed]
    return scripts


# --- the steps

_LOCK = Step(
    "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('hotmesh.install', 0))"
)

_FIND = Step("""
    select n.oid is not null,
           pg_catalog.has_schema_privilege(n.oid, 'usage'),
           pg_catalog.pg_has_role(n.nspowner, 'member'),
           exists (select from pg_catalog.pg_proc p where p.pronamespace = n.oid and p.proname = 'protocol'),
           exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid),
           (select e.extversion from pg_catalog.pg_extension e where e.extname = 'hotmesh'),
           (select pg_catalog.has_function_privilege(p.oid, 'execute')
            from pg_catalog.pg_proc p
            where p.pronamespace = n.oid and p.proname = 'build'),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
           pg_catalog.current_database()::text, current_user::text
    from (values (1)) one left join pg_catalog.pg_namespace n on n.nspname = 'hotmesh'
""")


class Found(NamedTuple):
    """What `_FIND` sees, without a call into the engine."""

    schema: bool
    may_use: bool
    owns_schema: bool
    engine: bool
    tables: bool
    extension: str | None
    tells_build: bool | None  # None: it has no word for it
    may_create: bool
    database: str
    role: str


def _find() -> Steps[Found]:
    return Found(*(yield _FIND)[0])


def _check() -> Steps[Installed]:
    found = yield from _find()
    if not found.engine:
        raise NotInstalledError(
            f'the database "{found.database}" has no HotMesh engine',
            hint='Run "hotmesh install", or "create extension hotmesh".',
        )
    installed = yield from _installed(found)
    if installed.protocol != PROTOCOL:
        older, newer = (
            ("engine", "driver") if installed.protocol < PROTOCOL else ("driver", "engine")
        )
        raise ProtocolError(
            f"the {older} is older than the {newer}: the engine is {installed.version} with protocol "
            f"{installed.protocol}, the driver {version()} with protocol {PROTOCOL}",
            hint='Run "hotmesh upgrade".'
            if older == "engine"
            else "Install a newer hotmesh with pip.",
        )
    if found.tells_build is not False:
        fits(installed.build or installed.version)
    return installed


def _installed(found: Found) -> Steps[Installed]:
    if not found.may_use:
        raise NotAllowedError(
            f'the role "{found.role}" may not use the HotMesh engine of "{found.database}"',
            hint="Ask the engine's owner for hotmesh.app_grant(app, role, kind).",
        )
    [(number, protocol)] = yield Step("select hotmesh.version(), hotmesh.protocol()")
    built = (yield Step("select hotmesh.build()"))[0][0] if found.tells_build else None
    return Installed(number, protocol, "extension" if found.extension else "plain", built)


def _install(mode: Mode) -> Steps[Installed]:
    if mode not in ("auto", "extension", "plain"):
        raise InvalidArgumentError(f"mode is auto, extension or plain, not {mode!r}")
    found = yield from _find()
    if not found.engine:
        yield _LOCK
        found = yield from _find()
    if found.engine:
        return (yield from _check())
    _refuse_place(found)
    if (yield from _takes_extension(mode)):
        yield Step(sql.SQL("create extension hotmesh version {}").format(sql.Literal(version())))
    else:
        yield Step(_plain("state", "behaviour"))
    return (yield from _check())


def _refuse_place(found: Found) -> None:
    """Say in one sentence what `create schema` or the first `create table` would trip over."""
    if not found.may_create:
        raise NotAllowedError(
            f'the role "{found.role}" may not install HotMesh in "{found.database}"',
            hint=f'Install as the database\'s owner, or: grant create on database "{found.database}" '
            f'to "{found.role}".',
        )
    if found.schema and (found.tables or not found.owns_schema):
        raise HotMeshError(
            f'the database "{found.database}" has a schema "hotmesh" that is not the engine\'s',
            code=409,
            hint="Rename or drop that schema, then install again.",
        )


def _takes_extension(mode: Mode) -> Steps[bool]:
    if mode == "plain":
        return False
    available = yield Step(
        "select 1 from pg_catalog.pg_available_extension_versions "
        "where name = 'hotmesh' and version = %(version)s",
        {"version": version()},
    )
    if mode == "extension" and not available:
        raise NotInstalledError(
            f"this server does not have the files of the extension hotmesh {version()}",
            hint='Run "make install" on the server, or install with mode "plain".',
        )
    return bool(available)


def _upgrade() -> Steps[Installed]:
    yield _LOCK
    found = yield from _find()
    if not found.engine:
        return (yield from _check())
    before = yield from _installed(found)
    if before.protocol > PROTOCOL:
        return (yield from _check())
    if found.tells_build is not False:
        fits(before.build or before.version)
    if not found.extension:
        for script in _deltas(before.version):
            yield Step(script)
        yield Step(_plain("behaviour"))
    elif found.extension != version():
        yield Step(sql.SQL("alter extension hotmesh update to {}").format(sql.Literal(version())))
    elif before.build != build():
        yield Step(_plain("behaviour"))
        yield _ADOPT
    return (yield from _check())


OTHER_BUILD = "the engine is another build than this driver's: %s, not %s; run: hotmesh upgrade"


def _number(told: str) -> str:
    return told.partition("-")[0]


def same_tables(told: str) -> bool:
    """Whether an engine has the tables of ours, or a script leads from its version to ours."""
    ours = build()
    return _number(told) != version() or told.rpartition("-")[0] == ours.rpartition("-")[0]


def fits(told: str) -> bool:
    """Whether an engine is of our build, by its own; or by its version, where it knows no build.

    An engine of another version is taken as it is. One of ours that knows no build was made before
    there were builds, from other tables. Raises ProtocolError for other tables, InvalidArgumentError
    for a connection that has no encoding.
    """
    if not isinstance(told, str):
        raise InvalidArgumentError(
            "the connection's client_encoding is SQL_ASCII, in which text cannot be read",
            hint="open it with client_encoding=UTF8, in its DSN or by PGCLIENTENCODING",
        )
    if same_tables(told):
        return _number(told) != version() or told == build()
    raise ProtocolError(
        f"the engine of this database is another build of {_number(told)}, with other tables than "
        "this driver needs",
        detail=f"It is {told}, the driver brings {build()}.",
        hint="Its data was left as it is. Use the checkout or package that made it, or another "
        "database; for the embedded server, another directory: HOTMESH_HOME.",
    )


# What a newer build of the same version brought is the extension's, too.
_ADOPT = Step("""
do $$
declare
    v_stray regprocedure;
begin
    for v_stray in
        select p.oid from pg_catalog.pg_proc p
        where p.pronamespace = 'hotmesh'::regnamespace and not exists (
            select from pg_catalog.pg_depend d
            where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid
              and d.deptype = 'e')
    loop
        execute pg_catalog.format('alter extension hotmesh add function %s', v_stray);
    end loop;
end
$$
""")


def _refresh() -> Steps[bool]:
    found = yield from _find()
    before = yield from _installed(found)
    if before.build == build() or before.protocol > PROTOCOL:
        return True
    if found.tells_build is False or not same_tables(before.build or before.version):
        return False
    yield from _upgrade()
    for (app,) in (yield Step("select name from hotmesh.apps order by name")):
        yield Step("select hotmesh.app_upgrade(%(app)s)", {"app": app})
    return True


# --- a database to install into


def provide_database(conn: psycopg.Connection[Any], name: str) -> None:
    """Make a database and the ordinary role that owns it, both of this name.

    By default a role's tables go into a schema of its name: here that would be the engine's.
    """
    with _translated():
        _provide(conn, "pg_roles", "rolname", "create role {} login", name)
        _provide(conn, "pg_database", "datname", "create database {0} owner {0}", name)
        path = sql.SQL("alter database {} set search_path = public")
        conn.execute(path.format(sql.Identifier(name)))


def _provide(
    conn: psycopg.Connection[Any], catalogue: str, column: str, command: LiteralString, name: str
) -> None:
    query = sql.SQL("select 1 from pg_catalog.{} where {} = {}")
    found = query.format(sql.Identifier(catalogue), sql.Identifier(column), sql.Literal(name))
    if not conn.execute(found).fetchone():
        conn.execute(sql.SQL(command).format(sql.Identifier(name)))


# --- running the steps, with and without await


def _run(conn: psycopg.Connection[Any], steps: Steps[T]) -> T:
    rows: list[Row] | None = None
    with _translated(), conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        while True:
            try:
                step = steps.send(rows)
            except StopIteration as stop:
                return cast(T, stop.value)
            cursor.execute(*_query(step), prepare=False)
            rows = cursor.fetchall() if cursor.description else []


async def _run_async(conn: psycopg.AsyncConnection[Any], steps: Steps[T]) -> T:
    rows: list[Row] | None = None
    with _translated():
        async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            while True:
                try:
                    step = steps.send(rows)
                except StopIteration as stop:
                    return cast(T, stop.value)
                await cursor.execute(*_query(step), prepare=False)
                rows = await cursor.fetchall() if cursor.description else []


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise from_sql(error) from error


def _query(step: Step) -> tuple[bytes | sql.Composed, dict[str, Any] | None]:
    return (step.text.encode() if isinstance(step.text, str) else step.text), step.params
