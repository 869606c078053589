"""What the order graph may ask for; ordinary functions, that a workflow as code could use as well."""

from __future__ import annotations

from hotmesh import activity

STOCK = {"item-123": 18, "item-124": 0}


async def check_inventory(item_id: str) -> int:
    """How many pieces of an item are in stock."""
    return STOCK[item_id]


async def reserve_item(item_id: str, quantity: int) -> str:
    """Put pieces aside; the number of the reservation comes from the order, so it may be repeated."""
    return f"R-{activity.context().workflow_id}: {quantity} x {item_id}"


async def notify_backorder(item_id: str) -> None:
    """Tell purchasing that there is not enough of an item."""
