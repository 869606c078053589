"""Graphs by hand, for the files that need them."""

from __future__ import annotations

import pytest

from support.graphs import Connection, Graphs


@pytest.fixture
def graphs(db: Connection) -> Graphs:
    return Graphs(db)
