"""`hotmesh entity`: the document of a job, from the shell."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InvalidArgumentError
from .place import Place, note, placed, value_of
from .screen import compact

__all__ = ["entity"]


@click.group()
def entity() -> None:
    """The entity of a job: the document that its code and everybody outside share."""


def _tell(place: Place, value: Any) -> None:
    if place.screen.as_json:
        place.screen.document(value)
    else:
        place.screen.line(compact(value))


@entity.command()
@click.argument("id")
@click.argument("path", required=False)
@click.option("--version", type=click.IntRange(0), metavar="N", help="As it was at that version.")
@click.option("--at", metavar="TIME", help="As it was at that time.")
@placed
def get(place: Place, id: str, path: str | None, version: int | None, at: str | None) -> None:
    """Print the entity of the job ID, or what is at PATH of it."""
    if path is not None and (version is not None or at is not None):
        raise click.UsageError("a version is the whole document; leave PATH out")
    if version is not None and at is not None:
        raise click.UsageError("--version or --at, not both")
    with place.handle(id) as handle:
        if version is not None:
            _tell(place, handle.entity().at(version))
        elif at is not None:
            _tell(place, handle.entity().at(_time(at)))
        else:
            _tell(place, handle.entity().get(path))


def _time(text: str) -> Any:
    from datetime import datetime

    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise InvalidArgumentError(
            f"--at {text!r} is no time", hint="such as 2026-11-21T16:00:00+00:00"
        ) from error
    return at if at.tzinfo else at.astimezone()


def _parted(words: tuple[str, ...]) -> tuple[Any, ...]:
    """VALUE, or PATH VALUE."""
    if len(words) > 2:
        raise click.UsageError("give VALUE, or PATH VALUE; quote what has spaces")
    return (value_of(words[0]),) if len(words) == 1 else (words[0], value_of(words[1]))


@entity.command(name="set")
@click.argument("id")
@click.argument("words", nargs=-1, required=True, metavar="[PATH] VALUE")
@click.option("--request", metavar="KEY", help="The same key again changes nothing.")
@placed
def set_(place: Place, id: str, words: tuple[str, ...], request: str | None) -> None:
    """Replace the entity of the job ID, or what is at PATH of it; print the document."""
    with place.handle(id) as handle:
        _tell(place, handle.entity().set(*_parted(words), request=request))


@entity.command()
@click.argument("id")
@click.argument("words", nargs=-1, required=True, metavar="[PATH] VALUE")
@click.option("--request", metavar="KEY", help="The same key again changes nothing.")
@placed
def merge(place: Place, id: str, words: tuple[str, ...], request: str | None) -> None:
    """Merge VALUE into the entity of the job ID, or into what is at PATH; print the document."""
    with place.handle(id) as handle:
        _tell(place, handle.entity().merge(*_parted(words), request=request))


@entity.command()
@click.argument("id")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="N", help="Only later versions."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, help="At most.")
@placed
def history(place: Place, id: str, after: int, limit: int) -> None:
    """List the changes of the entity of the job ID, oldest first."""
    with place.handle(id) as handle:
        changes = handle.entity().history(after=after, limit=limit)
    if place.screen.as_json:
        place.screen.document([change._asdict() for change in changes])
        return
    heads = ("version", "what", "path", "argument", "by", "at")
    place.screen.table(heads, ([
        str(one.version), one.operation, one.path or "", compact(one.argument),
        one.role if one.dimension is None else f"step {one.dimension} {one.sequence}",
        str(one.at)[:19],
    ] for one in changes))  # fmt: skip
    if len(changes) == limit:
        note(f"there may be more: --after {changes[-1].version}")
