"""The plans of the statements inside functions, as Postgres really chose them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class Plan:
    """One statement that ran, with its plan."""

    query: str
    tree: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.tree]
        while waiting:
            node = waiting.pop()
            waiting += node.get("Plans", [])
            yield node

    def scans(self, table: str) -> list[str]:
        """How the table is read: the names of the indexes, or the kind of scan."""
        bitmaps = [
            inner["Index Name"]
            for node in self.nodes()
            if node["Node Type"] == "Bitmap Heap Scan" and node["Relation Name"] == table
            for inner in Plan("", node).nodes()
            if inner["Node Type"] == "Bitmap Index Scan"
        ]
        return bitmaps + [
            node.get("Index Name", node["Node Type"])
            for node in self.nodes()
            if node.get("Relation Name") == table
            and node["Node Type"] not in ("ModifyTable", "Bitmap Heap Scan")
        ]


@contextmanager
def recorded(connection: psycopg.Connection[Any]) -> Iterator[list[Plan]]:
    """Collect the plan of every statement, nested ones too; needs a superuser's connection.

    The session keeps its cached plans: warm it up on an empty app first, and a plan that
    was only good for an empty table is caught.
    """
    plans: list[Plan] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if "plan:\n" in text:
            plan = json.loads(text.split("plan:\n", 1)[1])
            plans.append(Plan(plan["Query Text"], plan["Plan"]))

    connection.execute("load 'auto_explain'")
    settings = {
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_nested_statements": "on",
        "auto_explain.log_format": "json",
        "auto_explain.log_level": "notice",
    }
    for name, value in settings.items():
        connection.execute("select set_config(%s, %s, false)", [name, value])
    connection.add_notice_handler(listen)
    try:
        yield plans
    finally:
        connection.remove_notice_handler(listen)
        connection.execute("select set_config('auto_explain.log_min_duration', '-1', false)")
