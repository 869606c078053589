"""A document, page by page: read, validated, approved, told; each phase is a hook, the entity its record.

`python document_pipeline.py` processes an invoice of three pages. The pages are texts, as a scanner with
text recognition gives them; the activities read them and check the sum.
"""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from hotmesh import MemFlow

PAGES = Path(__file__).with_name("pages")
ITEM = re.compile(r"^ *(\d+) x (.+?) +(\d+\.\d\d)$", re.M)
TOTAL = re.compile(r"^Total: (\d+\.\d\d)$", re.M)
NEEDS_APPROVAL = Decimal(500)

Signal = dict[str, str]


# --- activities -----------------------------------------------------------------------------------


async def load_image_pages() -> list[str]:
    """The pages of the document, in order."""
    return sorted(page.name for page in PAGES.glob("page-*.txt"))


async def extract_items(ref: str) -> dict[str, Any]:
    """What a page says: its lines, and the total if it is there."""
    text = (PAGES / ref).read_text()
    items = [
        {"quantity": int(number), "item": item, "price": price}
        for number, item, price in ITEM.findall(text)
    ]
    total = TOTAL.search(text)
    return {"items": items, "total": total[1] if total else None}


async def send_notification(document_id: str, text: str) -> str:
    """Tell accounting; here, what would be sent."""
    return f"{document_id}: {text}"


acts = MemFlow.workflow.proxy_activities(
    [load_image_pages, extract_items, send_notification], task_queue="pipeline"
)


# --- the coordinator ------------------------------------------------------------------------------


async def document_processing_pipeline() -> Any:
    pipeline = await MemFlow.workflow.entity()

    now = MemFlow.workflow.now()
    initial: dict[str, Any] = {
        "documentId": f"doc-{int(now.timestamp() * 1000)}",
        "status": "started",
        "startTime": now.isoformat(),
        "imageRefs": [],
        "extractedInfo": [],
        "validationResults": [],
        "finalResult": None,
        "processingSteps": [],
        "errors": [],
        "pageSignals": {},
    }
    await pipeline.set(initial)

    await pipeline.merge({"status": "loading-images"})
    await pipeline.append("processingSteps", "image-load-started")
    image_refs = await acts.load_image_pages()
    if not image_refs:
        raise ValueError("No image references found")
    await pipeline.merge({"imageRefs": image_refs})
    await pipeline.append("processingSteps", "image-load-completed")

    for page, ref in enumerate(image_refs, 1):
        await MemFlow.workflow.exec_hook(
            task_queue="pipeline",
            workflow_name="page_processing_hook",
            args=[ref, page, initial["documentId"]],
            signal_id=f"page-{page}-complete",
        )

    for hook, signal_id in (
        ("validation_hook", "validation-complete"),
        ("approval_hook", "approval-complete"),
        ("notification_hook", "processing-complete"),
    ):
        await MemFlow.workflow.exec_hook(
            task_queue="pipeline",
            workflow_name=hook,
            args=[initial["documentId"]],
            signal_id=signal_id,
        )

    await pipeline.merge({"status": "completed", "completedAt": MemFlow.workflow.now().isoformat()})
    await pipeline.append("processingSteps", "pipeline-completed")
    return await pipeline.get()


# --- its hooks ------------------------------------------------------------------------------------


async def page_processing_hook(ref: str, page: int, document_id: str, info: Signal) -> None:
    pipeline = await MemFlow.workflow.entity()
    found = await acts.extract_items(ref)
    await pipeline.append("extractedInfo", {"page": page, **found})
    await pipeline.append("processingSteps", f"page-{page}-processed")
    await pipeline.merge({"pageSignals": {str(page): True}})
    await MemFlow.workflow.signal(info["signal"], {"page": page})


async def validation_hook(document_id: str, info: Signal) -> None:
    pipeline = await MemFlow.workflow.entity()
    pages = await pipeline.get("extractedInfo")
    items = [item for page in pages for item in page["items"]]
    computed = sum(item["quantity"] * Decimal(item["price"]) for item in items)
    stated = next(page["total"] for page in pages if page["total"])
    result = {"computed": str(computed), "stated": stated, "valid": computed == Decimal(stated)}
    await pipeline.append("validationResults", result)
    await pipeline.append("processingSteps", "validation-completed")
    await MemFlow.workflow.signal(info["signal"], result)


async def approval_hook(document_id: str, info: Signal) -> None:
    """Small and valid documents need nobody; all others wait for somebody."""
    pipeline = await MemFlow.workflow.entity()
    result = await pipeline.get("validationResults.-1")
    by = "rule"
    if not result["valid"] or Decimal(result["stated"]) > NEEDS_APPROVAL:
        await pipeline.merge({"status": "waiting-for-approval"})
        by = (await MemFlow.workflow.wait_for("document-approved"))["by"]
    await pipeline.merge({"finalResult": {**result, "approvedBy": by}})
    await pipeline.append("processingSteps", "approval-completed")
    await MemFlow.workflow.signal(info["signal"], {"by": by})


async def notification_hook(document_id: str, info: Signal) -> None:
    pipeline = await MemFlow.workflow.entity()
    final = await pipeline.get("finalResult")
    sent = await acts.send_notification(document_id, f"{final['stated']} approved")
    await pipeline.append("processingSteps", "notification-sent")
    await MemFlow.workflow.signal(info["signal"], {"sent": sent})


WORKFLOWS = [
    document_processing_pipeline,
    page_processing_hook,
    validation_hook,
    approval_hook,
    notification_hook,
]
TOOLS = [load_image_pages, extract_items, send_notification]


async def main() -> None:
    mf = await MemFlow.init(app_id="my-app")
    await MemFlow.Worker.create(
        app_id="my-app", task_queue="pipeline", workflows=WORKFLOWS, activities=TOOLS
    )
    handle = await mf.workflow.start(
        entity="document",
        workflow_name="document_processing_pipeline",
        workflow_id="invoice-2026-0117",
        task_queue="pipeline",
        on_conflict="replace",  # so that this file can be run again
    )
    await handle.signal("document-approved", {"by": "Mrs Berg"})
    memory = await handle.result()
    print("{stated} approved by {approvedBy}".format(**memory["finalResult"]))
    print(*memory["processingSteps"], sep="\n")
    await MemFlow.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
