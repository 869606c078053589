"""What the order workflow may ask for: look into the stock, reserve, or tell that an item is out.

An activity runs at least once: when its worker dies before the result is written, it runs again. So
each is written to be repeated: the reservation's number comes from the order, not from a counter.
"""

from __future__ import annotations

import asyncio
import csv
import functools
import json
import os
import random
from pathlib import Path

from hotmesh import activity

INVENTORY = Path(__file__).with_name("inventory.csv")
LATENCY = (0.02, 0.08)
"""Seconds, from and to; what a warehouse behind a network would take to answer."""


async def check_inventory(item_id: str) -> int:
    """How many pieces of an item are in stock."""
    available = _stock()[item_id]
    _note("check_inventory", item_id, available)
    await asyncio.sleep(random.uniform(*LATENCY))
    return available


async def reserve_item(item_id: str, quantity: int) -> str:
    """Put pieces aside for this order; the number of the reservation."""
    reservation = f"R-{activity.context().workflow_id}"
    _note("reserve_item", item_id, {"number": reservation, "quantity": quantity})
    await asyncio.sleep(random.uniform(*LATENCY))
    return reservation


async def notify_backorder(item_id: str) -> None:
    """Tell purchasing that there is not enough of an item."""
    _note("notify_backorder", item_id, None)
    await asyncio.sleep(random.uniform(*LATENCY))


@functools.cache
def _stock() -> dict[str, int]:
    with INVENTORY.open(newline="") as file:
        return {row["item_id"]: int(row["available"]) for row in csv.DictReader(file)}


def _note(name: str, item_id: str, about: object) -> None:
    """Write down that this runs, in a file of its own, if ORDER_LOG names one.

    The outside world's view: what was done twice is there twice, whatever the database says.
    """
    if not (log := os.environ.get("ORDER_LOG")):
        return
    order, pid = activity.context().workflow_id, os.getpid()
    line = {"order": order, "activity": name, "item": item_id, "about": about, "pid": pid}
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
    finally:
        os.close(file)
