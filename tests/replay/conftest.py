"""The runtime of a loop, and a look at what nobody could raise, for the files of the loop."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from support.runtime import Runtime


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.loop.close()


@pytest.fixture
def nothing_is_unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the collector meets in the test raises nothing."""
    caught: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: caught.append(event.exc_value))
    yield
    gc.collect()
    assert caught == []
