"""What a rule of the house is, and the small sound house that its bad snippets are added to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pglast import ast

from support.rooms import Function, Room, rooms, snippet

Check = Callable[[Sequence[Room]], Iterable[str]]


@dataclass(frozen=True)
class Rule:
    title: str
    check: Check
    bad: tuple[Room, ...]

    def holds(self) -> None:
        """The rooms of sql/ keep it."""
        assert rooms(), "there are no rooms in sql/"
        findings = list(self.check(rooms()))
        assert not findings, "\n".join([self.title, *findings])

    def bites(self) -> None:
        """It lets a sound house pass, and refuses each of its bad rooms."""
        assert not list(self.check(SOUND)), "a sound room is refused"
        for bad in self.bad:
            assert list(self.check((*SOUND, bad))), f"not refused:\n{bad.text}"


def into(rules: list[Rule]) -> Callable[..., Callable[[Check], Check]]:
    """The decorator that adds a rule to `rules`, with its title and the rooms that it must refuse."""

    def rule(title: str, *bad: Room) -> Callable[[Check], Check]:
        def register(check: Check) -> Check:
            rules.append(Rule(title, check, bad))
            return check

        return register

    return rule


def function(
    name: str, body: str, *, returns: str = "void", head: str = "language plpgsql", args: str = ""
) -> str:
    """A function for a snippet."""
    return (
        f"create or replace function hotmesh.{name}({args})\nreturns {returns}\n{head}\nas $$\n"
        f"{body}\n$$;"
    )


def block(*statements: str, declare: str = "") -> str:
    lines = "\n".join(f"    {statement};" for statement in statements)
    return f"declare\n{declare}\nbegin\n{lines}\nend" if declare else f"begin\n{lines}\nend"


DOOR_HEAD = "language plpgsql\nsecurity definer\nset search_path = pg_catalog, pg_temp"
TABLE = "create table hotmesh.{0} (id bigint, constraint {0}_pkey primary key (id));"
SOUND = (
    snippet(
        "00_house.sql",
        function(
            "now", "    select clock_timestamp()", returns="timestamptz", head="language sql\nvolatile"
        )
        + "\ncomment on function hotmesh.now() is 'The clock.';\n"
        + function("_enter", block("null"), args="app text"),
    ),
    snippet("30_stream.sql", function("_stream_claim", block("null")), TABLE.format("streams")),
    snippet(
        "40_job.sql",
        function("_job_open", block("insert into jobs (id) values (1)", "perform hotmesh.now()"))
        + function(
            "_job_refuse",
            block(
                "raise exception 'job closed' using errcode = 'MSH42', detail = 'd', hint = 'h'"
            ),
        )
        + function(
            "job_status", block("perform hotmesh._enter(app)"), head=DOOR_HEAD, args="app text"
        )
        + "\ncomment on function hotmesh.job_status(text) is 'The semaphore.';",
        TABLE.format("jobs"),
    ),
    snippet("90_engine.sql", function("_engine_go", block("perform hotmesh._job_open()"))),
)  # fmt: skip


def bad_job(*statements: str, declare: str = "", **more: str) -> Room:
    """A job room with one function whose body is at fault."""
    return snippet("40_job.sql", function("_job_bad", block(*statements, declare=declare), **more))


def functions(of: Iterable[Room]) -> Iterator[Function]:
    return itertools.chain.from_iterable(room.functions for room in of)


def relation(node: ast.RangeVar | None) -> str:
    return node.relname or "" if node else ""
