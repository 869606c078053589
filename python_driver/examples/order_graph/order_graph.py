"""The order workflow as a graph: the database goes through it, Python only answers its three topics.

`python order_graph.py` deploys order.yaml and runs an order that can be reserved, and one that can't.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import activities

from hotmesh import HotMesh

GRAPH = Path(__file__).with_name("order.yaml")


async def check(data: dict[str, Any]) -> dict[str, Any]:
    available = await activities.check_inventory(data["data"]["itemId"])
    return {"metadata": {**data["metadata"]}, "data": {"availableQty": available}}


async def reserve(data: dict[str, Any]) -> dict[str, Any]:
    order = data["data"]
    reservation = await activities.reserve_item(order["itemId"], order["requestedQty"])
    return {"metadata": {**data["metadata"]}, "data": {"reservationId": reservation}}


async def notify(data: dict[str, Any]) -> dict[str, Any]:
    await activities.notify_backorder(data["data"]["itemId"])
    return {"metadata": {**data["metadata"]}}


async def main() -> None:
    mesh = await HotMesh.init(
        app_id="orders",
        workers=[
            {
                "topic": "inventory.check",
                "callback": check,
                "retry_policy": {"maximum_attempts": 5, "maximum_interval": "60s"},
            },
            {"topic": "inventory.reserve", "callback": reserve},
            {"topic": "inventory.backorder.notify", "callback": notify},
        ],
    )
    await mesh.deploy(GRAPH)
    await mesh.activate("1")

    for item_id in ("item-123", "item-124"):
        result = await mesh.pubsub("order.requested", {"itemId": item_id, "requestedQty": 5})
        export = await mesh.export(result["metadata"]["jid"])
        way = " -> ".join(step["activity"] for step in export["transitions"])
        print(f"{item_id}: {way}, status {export['status']}")
    await HotMesh.stop()


if __name__ == "__main__":
    asyncio.run(main())
