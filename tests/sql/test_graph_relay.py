"""What comes after the answer of a graph's worker goes to that worker in the same turn."""

from __future__ import annotations

from typing import Any

import pytest

from support.graphs import Connection, Graphs
from support.hand import Hand, body, messages, verdict

CHAIN = """
subscribes: chain
activities:
  t: {type: trigger}
  a: {type: worker, topic: one}
  b: {type: worker, topic: two}
  c: {type: worker, topic: three}
transitions:
  t: [{to: a}]
  a: [{to: b}]
  b: [{to: c}]
"""
LOOP = """
subscribes: loop
activities:
  t: {type: trigger}
  p: {type: hook}
  a: {type: worker, topic: one}
  c: {type: cycle, ancestor: p}
transitions:
  t: [{to: p}]
  p: [{to: a}]
  a: [{to: c}]
"""


@pytest.fixture
def graphs(db: Connection) -> Graphs:
    return Graphs(db)


@pytest.fixture
def hand(db: Connection) -> Hand:
    return Hand(db, workflows=(), activities=(("one", "one"), ("two", "two")))


def answer(hand: Hand, task: Any, **want: Any) -> list[Any]:
    """Report an answer; the tasks that come back."""
    rows = hand.turn(body(task, output={"status": "success", "data": {}}), **want)
    assert verdict(rows, task.id) == "ok"
    return [row for row in rows if row.answer == "task"]


def test_the_next_step_comes_with_the_answer_to_the_last(graphs: Graphs, hand: Hand) -> None:
    graphs.deploy(CHAIN)
    key = graphs.pub("chain")
    one = hand.take("activity")
    [two] = answer(hand, one, activity=1)
    assert (two.name, two.id, two.token, two.attempt) == ("two", one.id, one.token + 1, 1)
    assert two.args[0]["metadata"]["aid"] == "b"
    assert answer(hand, two, activity=1) == []
    graphs.work("three")
    assert graphs.state(key).status == 0
    assert messages(graphs.connection) == []


def test_an_answer_that_is_told_twice_is_stale(graphs: Graphs, hand: Hand) -> None:
    graphs.deploy(CHAIN)
    graphs.pub("chain")
    one = hand.take("activity")
    [two] = answer(hand, one, activity=1)
    rows = hand.turn(body(one, output={"data": {}}), activity=1)
    assert [row.answer for row in rows] == ["stale"]
    assert answer(hand, two, activity=1) == []


def test_a_step_whose_delivery_was_lost_comes_again(graphs: Graphs, hand: Hand) -> None:
    graphs.deploy(CHAIN)
    graphs.pub("chain")
    one = hand.take("activity")
    answer(hand, one, activity=1)  # and the worker never got this answer
    rows = hand.turn(body(one, output={"data": {}}), activity=1, held=[one.id])
    assert [row.answer for row in rows] == ["stale"]
    rows = hand.turn(activity=1, held=[])
    assert [(row.name, row.attempt) for row in rows if row.answer == "task"] == [("two", 1)]


@pytest.mark.parametrize("want", [{}, {"activity": 0}, {"activity": 5, "held": []}])
def test_who_has_no_slot_or_is_in_doubt_is_given_nothing_at_once(
    graphs: Graphs, hand: Hand, want: dict[str, Any]
) -> None:
    graphs.deploy(CHAIN)
    graphs.pub("chain")
    one = hand.take("activity")
    for task in answer(hand, one, **want):
        assert task.id != one.id
    assert hand.turn(activity=1) or messages(graphs.connection, "name") == [("two",)]


def test_a_topic_with_a_limit_is_claimed_in_its_queue(graphs: Graphs, hand: Hand) -> None:
    graphs.deploy(CHAIN)
    graphs.connection.execute("select hotmesh.queue_limit('my-app', 'two', concurrency => 1)")
    for _ in range(2):
        graphs.pub("chain")
    tasks = hand.claim("activity", 2)
    rows = hand.turn(*[body(task, output={"data": {}}) for task in tasks], activity=5)
    assert [row.name for row in rows if row.answer == "task"] == ["two"]


def test_a_job_that_goes_in_circles_queues_up_behind_others_in_the_end(
    graphs: Graphs, hand: Hand
) -> None:
    graphs.deploy(LOOP)
    graphs.pub("loop", key="first")
    task = hand.take("activity")
    graphs.pub("loop", key="second")
    for _ in range(20):
        [task] = answer(hand, task, activity=1)
        if task.key == "second":
            return
    raise AssertionError("the second job was never served")
