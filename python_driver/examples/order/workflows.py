"""The order workflow: enough in stock is reserved, the rest is ordered back."""

from __future__ import annotations

import activities

from hotmesh import MemFlow


async def order_workflow(item_id: str, qty: int) -> str:
    """Reserve `qty` pieces of an item, or notify that they are out: one of the two."""
    acts = MemFlow.workflow.proxy_activities(
        activities,
        task_queue="inventory-tasks",
        retry_policy={
            "maximum_attempts": 5,
            "backoff_coefficient": 2,
            "maximum_interval": "60s",
        },
    )
    if await acts.check_inventory(item_id) >= qty:
        return await acts.reserve_item(item_id, qty)
    await acts.notify_backorder(item_id)
    return "backordered"
