"""The one place in the tests that sleeps: it polls until something is true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 30.0, what: str = "the condition") -> T:
    """Poll until `predicate()` is true and return its value; fail after `timeout` seconds."""
    until = time.monotonic() + timeout
    pause = 0.001
    while not (value := predicate()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return value
