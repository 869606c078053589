"""Paths: dots, escapes, indexes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.hand import Connection, one

PARSE = "select hotmesh._path_parse(%s)"
NAMES = st.lists(
    st.text(st.sampled_from("ab0-.\\'\" é\n{},"), max_size=5), min_size=1, max_size=5
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a", ["a"]), ("a.b.c", ["a", "b", "c"]), (r"a\.b.c", ["a.b", "c"]), ("a.0.-1", ["a", "0", "-1"]),
        ("", [""]), ("a..b", ["a", "", "b"]), (".", ["", ""]), (r"a\\.b", ["a\\", "b"]), (r"a\b", [r"a\b"]),
        (r"a\\\.b", ["a\\.b"]), (r"a\\", ["a\\"]), ("it's \"q\" {x},y", ["it's \"q\" {x},y"]),
        ("é.日", ["é", "日"]), (r"\.", ["."]), (None, []),
    ],
)  # fmt: skip
def test_a_path_is_names_between_dots(db: Connection, path: Any, names: list[str]) -> None:
    assert one(db, PARSE, path) == names


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(NAMES)
def test_every_name_can_be_escaped(db: Connection, names: list[str]) -> None:
    path = ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)
    assert one(db, PARSE, path) == names


@pytest.mark.parametrize("path", ["a\\", "\\", "a.b\\\\\\", "x" * 10001])
def test_what_is_no_path_is_refused(db: Connection, path: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="path") as refused:
        one(db, PARSE, path)
    assert refused.value.diag.message_hint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.0", 1), ("a.b.-1", {"c": None}), ("a.b.1.c", "null"), ("a.b.7", None), ("a.x.y", None),
        ("n.x", None), (r"d\.e", True), ("", "empty"), ("a.b.x", None), ("n", 1.50),
    ],
)  # fmt: skip
def test_a_value_is_got_or_nothing(db: Connection, path: str, value: Any) -> None:
    document = {"a": {"b": [1, {"c": None}]}, "n": 1.5, "d.e": True, "": "empty"}
    query = "select hotmesh._path_get(%s, hotmesh._path_parse(%s))"
    got = one(db, query, Jsonb(document), path)
    assert got == value or (value == "null" and got is None)
    there = one(db, f"select ({query}) is not null", Jsonb(document), path)
    assert there is (value is not None)
    assert one(db, "select hotmesh._path_get(%s, '{}')", Jsonb(document)) == document
