"""Schedules by the command line tool: created, listed, triggered, paused, and what is refused."""

from __future__ import annotations

import re

import pytest

from support.clock import Clock
from support.shell import APP, Said, Tool, only_a_sentence


@pytest.fixture
def timed(bare: Tool, dsn: str) -> Tool:
    """`timed("list")`: a word of `hotmesh schedule`."""

    def run(word: str, *words: str) -> Said:
        return bare("schedule", word, *APP, "--dsn", dsn, *words)

    return run


def test_a_schedule_is_created_listed_paused_and_deleted(timed: Tool) -> None:
    when = ["--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--queue", "q", "--note", "why"]
    made = timed("create", "nightly", "total", "1", "two", *when, "--json").document
    assert (made["args"], made["queue"], made["status"]) == ([1, "two"], "q", "active")
    assert timed("create", "often", "total", "--every", "90 s").status == 0
    said = timed("list")
    assert re.search(r"nightly +0 2 \* \* \* Europe/Berlin +total +q +active +20\d\d-", said.out)
    assert re.search(r"often +every 0:01:30 +total +active", said.out)
    assert [each["every"] for each in timed("list", "--json").document] == [None, 90.0]
    assert re.search("nightly .* paused", timed("pause", "nightly", "--note", "moving").out)
    assert "moving" in timed("show", "nightly").err
    assert timed("resume", "nightly", "--json").document["paused_at"] is None
    assert timed("delete", "often").out.startswith("often is gone")
    assert timed("delete", "nightly", "--json").document == {"name": "nightly"}
    assert timed("list", "--json").document == []


def test_every_option_of_a_schedule_reaches_the_engine(timed: Tool) -> None:
    words = ["--overlap", "allow_all", "--entity", "e", "--expire", "2 days", "--priority", "7"]
    words += ["--offset", "5 s", "--start-at", "2040-01-01", "--end-at", "2041-01-01T00:00Z"]
    words += ["--catchup-window", "1 h", "--paused", "--retry-policy", '{"maximum_attempts": 9}']
    made = timed("create", "s", "total", "--every", "1 h", *words, "--json").document
    assert (made["overlap"], made["status"]) == ("allow_all", "paused")
    assert made["next_tick"] == "2040-01-01T00:00:05+00:00"
    assert made["options"] == {
        "entity": "e", "expire": 172800, "priority": 7, "offset": 5, "start_at": "2040-01-01",
        "end_at": "2041-01-01T00:00Z", "catchup_window": 3600, "paused": True,
        "retry_policy": {"maximum_attempts": 9},
    }  # fmt: skip
    changed = timed("create", "s", "x", "--cron", "@daily", "--on-conflict", "replace", "--json")
    assert changed.document["workflow"] == "x"


def test_a_schedule_is_triggered_and_backfilled(timed: Tool, clock: Clock) -> None:
    clock.freeze("2030-01-01 12:00:30+00")
    timed("create", "s", "total", "--cron", "@hourly")
    assert timed("trigger", "s").out == "s-2030-01-01T12:00:30Z\n"
    ends = ("2030-01-01T11:00Z", "2030-01-01T12:00Z")
    filled = timed("backfill", "s", *ends)
    assert filled.out == "s-2030-01-01T11:00:00Z\ns-2030-01-01T12:00:00Z\n"
    assert timed("backfill", "s", *ends, "--json").document == []


@pytest.mark.parametrize(
    ("words", "status", "pattern"),
    [
        (["create", "s"], 2, "Missing argument 'WORKFLOW'"),
        (["create", "s", "w"], 1, "needs either cron or every"),
        (["create", "s", "w", "--cron", "61 * * * *"], 1, "cron: 61"),
        (["create", "s", "w", "--every", "soon"], 1, "every: 'soon' is no duration"),
        (["create", "s", "w", "--cron", "@daily", "--timezone", "Mars"], 1, "time zone: Mars"),
        (["create", "s", "w", "--cron", "@daily", "--overlap", "some"], 2, "--overlap"),
        (["create", "s", "w", "--cron", "@daily", "--end-at", "soon"], 1, "end_at is no instant"),
        (["pause", "nobody"], 1, 'schedule "nobody" not found'),
        (["show", "nobody"], 1, 'schedule "nobody" not found\n  hotmesh.schedule_list'),
        (["backfill", "s", "then"], 2, "Missing argument 'TO'"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said_in_a_sentence(
    timed: Tool, words: list[str], status: int, pattern: str
) -> None:
    only_a_sentence(timed(*words), status, pattern)
