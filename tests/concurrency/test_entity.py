"""Many writers of one entity: nothing is lost, and the log makes the same document again.

`HOTMESH_ENTITY_COMMANDS` says how many commands are given in all, by 16 writers (640 unless said).
"""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from support.hand import Connection, one, start

WRITERS = 16
COMMANDS = int(os.environ.get("HOTMESH_ENTITY_COMMANDS", "640"))
KEY = "a"
NAMES = st.sampled_from(["a", "b", "c d", "é", '"', "x.y"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.text("ab\\é\"'", max_size=4)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.lists(NAMES | st.sampled_from(["0", "-1", "2"]), min_size=1, max_size=3)
Path = Sequence[str]


def command(operation: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"operation": st.just(operation), "path": PATHS, "value": value})


WORDS = st.one_of(
    command("set", VALUES), command("merge", VALUES), command("append", VALUES),
    command("prepend", VALUES), command("remove", st.integers(-3, 3)),
    command("increment", st.integers(-(10**20), 10**20)), command("toggle", st.none()),
    command("set_if_not_exists", VALUES), command("delete", st.none()),
)  # fmt: skip


# --- the model: what the commands mean, in Python -------------------------------------------------


class Refused(Exception):
    """The command can't be carried out."""


MISSING: Any = object()


def place(list_: list[Any], name: str) -> int:
    try:
        index = int(name)
    except ValueError:
        raise Refused from None
    if not -len(list_) <= index < len(list_):
        raise Refused
    return index


def look(value: Any, path: Path) -> Any:
    for name in path:
        if isinstance(value, list) and name.lstrip("-").isdecimal():
            value = dict(zip(range(-len(value), len(value)), value * 2, strict=True)).get(
                int(name), MISSING
            )
        else:
            value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def put(value: Any, path: Path, leaf: Any) -> Any:
    if not path:
        return leaf
    name, rest = path[0], path[1:]
    if isinstance(value, list):
        index = place(value, name)
        value[index] = put(value[index], rest, leaf)
        return value
    if value is MISSING or value is None:
        value = {}
    if not isinstance(value, dict):
        raise Refused
    value[name] = put(value.get(name, MISSING), rest, leaf)
    return value


def drop(value: Any, path: Path) -> None:
    for name in path[:-1]:
        if isinstance(value, list):
            value = value[place(value, name)]
        elif isinstance(value, dict):
            value = value.get(name)
        elif value is None:
            return
        else:
            raise Refused
    if isinstance(value, list):
        del value[place(value, path[-1])]
    elif isinstance(value, dict):
        value.pop(path[-1], None)
    elif value is not None:
        raise Refused


def merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}


def typed(value: Any, kind: type, missing: Any) -> Any:
    if value is MISSING or value is None:
        return missing
    if type(value) is not kind:
        raise Refused
    return value


def obey(document: Any, operation: str, path: Path, value: Any) -> Any:
    """The document after a command; raises `Refused`."""
    there = look(document, path)
    if operation == "delete":
        drop(document, path)
        return document
    if operation == "set_if_not_exists" and there is not MISSING:
        return document
    if operation == "merge":
        value = merged(there, value)
    elif operation == "increment":
        value += typed(there, int, 0)
    elif operation == "toggle":
        value = not typed(there, bool, False)
    elif operation in ("append", "prepend", "remove"):
        list_ = list(typed(there, list, []))
        if operation == "append":
            list_.append(value)
        elif operation == "prepend":
            list_.insert(0, value)
        else:
            del list_[place(list_, str(value))]
        value = list_
    return put(document, path, value)


# --- the tests ------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in path)


def give(connection: Connection, told: dict[str, Any]) -> str | None:
    """Give one command; the SQLSTATE if it is refused."""
    sent = json.dumps([{**told, "path": dotted(told["path"])}])
    try:
        connection.execute("select hotmesh.entity_apply('my-app', 'a', %s)", [sent])
    except psycopg.Error as error:
        return error.sqlstate
    return None


def tried(document: Any, told: dict[str, Any]) -> Any:
    return obey(copy.deepcopy(document), told["operation"], told["path"], told["value"])


def history(connection: Connection) -> list[tuple[str, list[str], Any]]:
    rows = connection.execute(
        "select operation, path, argument from hotmesh.entity_history('my-app', 'a')"
    )
    return [
        (
            operation,
            [name.replace("\0", ".") for name in path.replace("\\.", "\0").split(".")],
            argument,
        )
        for operation, path, argument in rows.fetchall()
    ]


def replayed(changes: list[tuple[str, list[str], Any]], document: Any) -> Any:
    """The document that the model makes of the log."""
    for change in changes:
        document = obey(document, *change)
    return document


def test_the_engine_and_the_model_mean_the_same(caller: Connection) -> None:
    start(caller, KEY)
    document: Any = {}

    @seed(20_261_121)
    @settings(
        max_examples=max(COMMANDS // 2, 100), deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(told=WORDS)
    def one_command(told: dict[str, Any]) -> None:
        nonlocal document
        before = document
        try:
            document = tried(document, told)
            expected = None
        except Refused:
            expected = "MSH8"
        found = give(caller, told)
        assert (found or "None").startswith(expected or "None"), (before, told, found)
        assert one(caller, "select hotmesh.entity_get('my-app', 'a')") == document, (before, told)

    one_command()
    assert replayed(history(caller), {}) == document


@pytest.mark.parametrize("writers", [WRITERS])
def test_parallel_writers_lose_nothing(
    db: Connection, caller: Connection, caller_dsn: str, writers: int
) -> None:
    start(caller, KEY)
    told: list[list[dict[str, Any]]] = [[] for _ in range(writers)]
    counted = [0] * writers

    @seed(7)
    @settings(
        max_examples=COMMANDS, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(words=WORDS, writer=st.integers(0, writers - 1))
    def draw(words: dict[str, Any], writer: int) -> None:
        told[writer].append(words)

    draw()
    refusals: list[str] = []

    def write(writer: int) -> None:
        with psycopg.connect(caller_dsn, autocommit=True) as connection:
            for words in told[writer]:
                state = give(connection, words)
                if state is not None and not state.startswith("MSH8"):
                    refusals.append(state)
                own = {"operation": "increment", "path": ["own", f"w{writer}"], "value": 1}
                shared = {
                    "operation": "merge",
                    "path": ["parts"],
                    "value": {f"w{writer}": {str(len(told)): 1}},
                }
                assert give(connection, own) is None
                assert give(connection, shared) is None
                counted[writer] += 1

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals == []
    document = one(caller, "select hotmesh.entity_get('my-app', 'a')")
    assert counted == [len(words) for words in told]
    assert document["own"] == {f"w{n}": count for n, count in enumerate(counted) if count}
    assert set(document["parts"]) == {f"w{n}" for n, count in enumerate(counted) if count}
    assert replayed(history(caller), {}) == document
    changes = history(caller)
    assert one(db, "select entity_version from my_app.jobs") == len(changes)
    at = "select hotmesh.entity_at('my-app', 'a', version => %s)"
    for version in (len(changes) // 2, len(changes) - 1):
        assert replayed(changes[version:], one(caller, at, version)) == document
