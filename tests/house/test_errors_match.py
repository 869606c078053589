"""Errors are an API: SQLSTATEs in sql/, classes in hotmesh.errors and tests are the same set."""

from __future__ import annotations

import re

import pytest

from hotmesh import errors
from support.cluster import ROOT
from support.rooms import raises, rooms

# Standard codes with which Postgres itself, or a guard, speaks to users of the doors.
STANDARD = {"22023", "42501"}
NOT_RAISED_AS_SUCH = {"40001", "0A000", "23514"}  # repeated or passed through by standard names


def raised() -> dict[str, str]:
    """Every code that a room raises, with one place where it does."""
    return {
        found.code: found.at
        for room in rooms()
        for function in room.functions
        for found in raises(function)
        if found.code and found.code not in NOT_RAISED_AS_SUCH
    }


def test_every_code_has_a_class() -> None:
    missing = {code: at for code, at in raised().items() if code not in errors.by_sqlstate()}
    assert not missing


def test_every_class_has_a_code_that_is_raised() -> None:
    idle = set(errors.by_sqlstate()) - set(raised()) - STANDARD
    assert not idle, [f"{code} {errors.by_sqlstate()[code].__name__}" for code in sorted(idle)]


@pytest.mark.parametrize("code", sorted(errors.by_sqlstate()))
def test_the_class_carries_its_code_and_is_in_the_tree(code: str) -> None:
    kind = errors.by_sqlstate()[code]
    assert issubclass(kind, errors.HotMeshError)
    assert kind("x").sqlstate == code
    assert kind.__name__ in errors.__all__
    assert re.search(rf"\b{kind.__name__}\b.* {code}\b", errors.__doc__ or "")


def provoking_tests() -> str:
    """The text of all tests but those that only compare names."""
    folders = [p for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "house"]
    return "\n".join(file.read_text() for folder in folders for file in folder.rglob("test_*.py"))


@pytest.mark.parametrize("code", sorted(raised()))
def test_every_code_is_provoked_by_a_test(code: str) -> None:
    kind = errors.by_sqlstate().get(code)
    names = f"{code}|{kind.__name__}" if kind else code
    is_provoked = bool(re.search(rf"\b({names})\b", provoking_tests()))
    assert is_provoked, f"{raised()[code]}: no test for {names}"
