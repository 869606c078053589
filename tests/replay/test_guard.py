"""Workflow code that blocks, does I/O or starts a thread is named, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import timeit
import traceback
import urllib.request
import uuid
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from hotmesh import _guard, workflow
from hotmesh.errors import ForbiddenInWorkflow, JobFailedError
from support.flows import House, opened
from support.offline import Life


@pytest.fixture(autouse=True)
def guarded() -> None:
    _guard.install()


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


def outcome_of(action: Callable[[], object]) -> tuple[str, Any]:
    """What becomes of a workflow that does this."""

    async def flow() -> str:
        action()
        return "done"

    life = Life(flow)
    try:
        return life.outcome
    finally:
        life.close()


def thread() -> None:
    threading.Thread(target=print).start()


def connect() -> None:
    with socket.socket() as door:
        door.connect(("127.0.0.1", 1))


FORBIDDEN: dict[str, tuple[Callable[[], object], str]] = {
    "sleep": (lambda: time.sleep(5), "time.sleep(5)"),
    "open": (lambda: open("/etc/hosts").close(), "open('/etc/hosts')"),
    "path": (lambda: Path("/etc/hosts").read_text(), "open("),
    "thread": (thread, "threading.Thread.start()"),
    "to_thread": (
        lambda: asyncio.get_running_loop().run_in_executor(None, print),
        "asyncio.to_thread",
    ),
    "connect": (connect, "socket.connect(('127.0.0.1', 1))"),
    "dns": (lambda: socket.getaddrinfo("localhost", 80), "socket.getaddrinfo('localhost')"),
    "http": (lambda: urllib.request.urlopen("http://127.0.0.1:1/"), "socket."),
    "subprocess": (lambda: subprocess.run(["true"], check=True), "subprocess.Popen("),
    "system": (lambda: os.system("true"), "os.system("),
    "fork": (os.fork, "os.fork("),
    "sqlite": (lambda: sqlite3.connect(":memory:"), "sqlite3.connect(':memory:')"),
    "listdir": (lambda: os.listdir("/"), "os.listdir('/')"),
    "remove": (lambda: os.remove("/nowhere"), "os.remove("),
}


@pytest.mark.parametrize("kind", list(FORBIDDEN))
def test_what_blocks_or_does_io_is_refused_with_its_name_and_line(kind: str) -> None:
    action, said = FORBIDDEN[kind]
    how, text = outcome_of(action)
    assert how == "raised"
    assert "ForbiddenInWorkflow" in text
    assert said in text
    assert "put it into an activity" in text
    if kind != "to_thread":
        assert "test_guard.py:" in text


def test_the_line_is_that_of_the_user_s_code_not_of_a_library() -> None:
    line = connect.__code__.co_firstlineno + 2
    assert f"at test_guard.py:{line} in connect" in outcome_of(connect)[1]


def imports() -> None:
    sys.modules.pop("this_module_is_read", None)
    import colorsys

    sys.modules.pop("colorsys")
    import colorsys  # noqa: F811

    assert colorsys


def tells_where() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        assert "raise ValueError" in traceback.format_exc()


def warns() -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("default")
        warnings.warn("old", stacklevel=1)


def zone() -> None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    with contextlib.suppress(ZoneInfoNotFoundError):
        ZoneInfo.no_cache("Europe/Berlin")


def logs() -> None:
    handler = logging.FileHandler(os.devnull, delay=True)
    try:
        handler.emit(logging.LogRecord("x", 10, "x", 1, "x", (), None))
    finally:
        handler.close()


def unsafely() -> None:
    with workflow.unsafe():
        time.sleep(0)
        open(os.devnull).close()


ALLOWED = [imports, tells_where, warns, zone, logs, unsafely, print, gc.collect, time.time]


@pytest.mark.parametrize("action", ALLOWED, ids=lambda action: action.__name__)
def test_code_imports_tracebacks_logs_and_what_is_said_to_be_unsafe_pass(
    action: Callable[[], object],
) -> None:
    assert outcome_of(action) == ("returned", "done")


def test_unsafe_ends_with_its_block_and_is_of_its_task_alone() -> None:
    async def other() -> str:
        try:
            time.sleep(0)
        except ForbiddenInWorkflow:
            return "refused"
        return "slept"

    async def flow() -> Any:
        with workflow.unsafe():
            time.sleep(0)
        first = await other()
        task = asyncio.create_task(other())
        with workflow.unsafe():
            await asyncio.sleep(0)
            return [first, await task]

    life = Life(flow)
    assert life.outcome == ("returned", ["refused", "refused"])


def test_a_finalizer_that_the_collector_runs_is_nobody_s_fault() -> None:
    done = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            open(os.devnull).close()
            done.append(True)

    Cycle()
    assert outcome_of(gc.collect) == ("returned", "done")
    assert done == [True]


async def test_activities_and_the_code_around_may_do_what_workflows_may_not(house: House) -> None:
    def reads() -> int:
        time.sleep(0.001)
        return len(Path(__file__).read_text())

    async def reads_too() -> int:
        time.sleep(0.001)
        return len(Path(__file__).read_text())

    async def flow(forbidden: bool) -> int:
        if forbidden:
            time.sleep(1)
        first: int = await workflow.execute_activity(reads, task_queue="acts")
        second: int = await workflow.execute_activity(reads_too, task_queue="acts")
        return first + second

    await house.worker(flow)
    await house.activity_worker(reads, reads_too)
    assert await house.run(flow, False) == 2 * len(Path(__file__).read_text())
    with pytest.raises(JobFailedError, match=r"time.sleep\(1\) at test_guard.py") as caught:
        await house.run(flow, True)
    assert isinstance(caught.value.__cause__, ForbiddenInWorkflow)
    time.sleep(0)


def test_the_hook_costs_little_where_no_workflow_runs() -> None:
    """Microseconds per event that it is asked about; a fraction of what the event itself costs."""
    took = min(timeit.repeat(lambda: sys.audit("open", "x", "r", 0), number=10_000, repeat=5))
    assert took / 10_000 < 5e-6


# --- the clock, and chance ------------------------------------------------------------------------


async def unrepeatable(count: int) -> Any:
    started = time.time()
    today = datetime.now(timezone.utc)
    ids = [uuid.uuid4() for _ in range(count)]

    def inner() -> float:
        return random.random()

    return started, today, ids, inner, secrets.token_hex()


async def repeatable(time: Any) -> Any:
    return time.time(), workflow.now(), workflow.random(), datetime(2026, 1, 1), uuid.UUID(int=1)


def test_reading_the_clock_or_chance_is_warned_of_with_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _guard.warn_of(unrepeatable)
    told = [record.getMessage() for record in caplog.records]
    first = unrepeatable.__code__.co_firstlineno
    expected = {
        f"time.time() at test_guard.py:{first + 1}": "workflow.now().timestamp()",
        f"datetime.now() at test_guard.py:{first + 2}": "workflow.now()",
        f"uuid.uuid4() at test_guard.py:{first + 3}": "workflow.uuid4()",
        f"random.random() at test_guard.py:{first + 6}": "workflow.random()",
        f"secrets.token_hex() at test_guard.py:{first + 8}": "workflow.uuid4()",
    }
    assert len(told) == len(expected)
    for call, instead in expected.items():
        assert any(call in text and text.endswith(f"use {instead}") for text in told), call


def test_code_that_a_replay_repeats_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    _guard.warn_of(repeatable)
    _guard.warn_of(print)  # type: ignore[arg-type]
    assert caplog.records == []


# --- the logger -----------------------------------------------------------------------------------


def test_the_workflow_s_logger_is_silent_in_a_replay_and_says_who_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    acts = workflow.proxy_activities(task_queue="acts")

    async def flow() -> None:
        workflow.logger.info("began")
        await acts.one()
        workflow.logger.info("one %s", "done", extra={"more": 1})
        await acts.two()
        workflow.logger.warning("two done")

    with caplog.at_level(logging.INFO, "hotmesh.workflow"):
        first = Life(flow)
        first.answer(1)
        assert [r.getMessage() for r in caplog.records] == ["began", "one done"]
        assert vars(caplog.records[1])["workflow_id"] == "job-1"
        assert vars(caplog.records[1])["more"] == 1
        caplog.clear()
        second = Life(flow, history=first.history)
        assert caplog.records == []
        second.answer(2)
        assert [r.getMessage() for r in caplog.records] == ["two done"]
        workflow.logger.info("outside")
        assert caplog.records[-1].getMessage() == "outside"
        assert "workflow_id" not in vars(caplog.records[-1])
    first.close()
