"""Claims review: two checks side by side, then a person signs off, or is reminded that it is late.

`python claims_review.py` reviews three claims of claims.csv. The activities do by rule what a coverage
system and a language model would be asked for; whoever signs off here is `main`.
"""

from __future__ import annotations

import asyncio
import csv
from datetime import date
from pathlib import Path
from typing import Any

from hotmesh import MemFlow
from hotmesh.errors import TimedOutError

CLAIMS = Path(__file__).with_name("claims.csv")


# --- activities -----------------------------------------------------------------------------------


def look_up_coverage(case_id: str) -> dict[str, Any]:
    """Whether the policy was in force, and what it pays."""
    claim = _claim(case_id)
    start, end = (date.fromisoformat(claim[name]) for name in ("policyFrom", "policyUntil"))
    in_force = start <= date.fromisoformat(claim["lossDate"]) <= end
    due = max(0, min(int(claim["amount"]), int(claim["limit"])) - int(claim["deductible"]))
    return {"inForce": in_force, "pays": due if in_force else 0}


def summarize(case_id: str) -> dict[str, Any]:
    """One line for whoever decides; less sure, the more of the claim exceeds the limit."""
    claim = _claim(case_id)
    confidence = min(1.0, int(claim["limit"]) / int(claim["amount"]))
    text = f"{claim['description']}: {claim['amount']} claimed"
    return {"result": text, "confidence": round(confidence, 2)}


def _claim(case_id: str) -> dict[str, str]:
    with CLAIMS.open(newline="") as file:
        return next(row for row in csv.DictReader(file) if row["caseId"] == case_id)


acts = MemFlow.workflow.proxy_activities([look_up_coverage, summarize], task_queue="agents")


# --- the workflow ---------------------------------------------------------------------------------


async def claims_workflow(case_id: str) -> Any:
    e = await MemFlow.workflow.entity()
    await e.set({"caseId": case_id, "stage": "intake", "approved": False})

    # verification and summary at the same time
    await MemFlow.workflow.exec_hook_batch(checks(case_id))

    # wait for human sign-off, however long it takes
    approval = await MemFlow.workflow.wait_for("human-approval")
    await e.merge({"approved": approval is True, "stage": "complete"})

    return await e.get()


async def escalating_claims_workflow(case_id: str, patience: str = "2 days") -> Any:
    """The same, but somebody else is told when there is no answer in time."""
    e = await MemFlow.workflow.entity()
    await e.set({"caseId": case_id, "stage": "intake", "approved": False, "escalations": 0})
    await MemFlow.workflow.exec_hook_batch(checks(case_id))

    try:
        approval = await MemFlow.workflow.wait_for("human-approval", timeout=patience)
    except TimedOutError:
        await e.increment("escalations", 1)
        await e.append("notes", {"reviewer": "nobody", "comment": f"no answer in {patience}"})
        await e.merge({"stage": "escalated"})
        approval = await MemFlow.workflow.wait_for("manager-approval")
    await e.merge({"approved": approval is True, "stage": "complete"})

    return await e.get()


def checks(case_id: str) -> list[dict[str, Any]]:
    return [
        {
            "key": "verify_coverage",
            "options": {
                "task_queue": "agents",
                "workflow_name": "verify_coverage",
                "args": [case_id],
                "signal_id": "verify-complete",
            },
        },
        {
            "key": "generate_summary",
            "options": {
                "task_queue": "agents",
                "workflow_name": "generate_summary",
                "args": [case_id],
                "signal_id": "summary-complete",
            },
        },
    ]


# --- its hooks ------------------------------------------------------------------------------------


async def verify_coverage(case_id: str, config: dict[str, str]) -> None:
    e = await MemFlow.workflow.entity()
    coverage = await acts.look_up_coverage(case_id)
    await e.merge({"coverage": coverage, "stage": "verification"})
    await MemFlow.workflow.signal(config["signal"], coverage)


async def generate_summary(case_id: str, config: dict[str, str]) -> None:
    e = await MemFlow.workflow.entity()
    await e.merge({"aiSummary": await acts.summarize(case_id)})
    await MemFlow.workflow.signal(config["signal"], {})


WORKFLOWS = [claims_workflow, escalating_claims_workflow, verify_coverage, generate_summary]
TOOLS = [look_up_coverage, summarize]


async def main() -> None:
    mf = await MemFlow.init(app_id="my-app")
    await MemFlow.Worker.create(
        app_id="my-app", task_queue="agents", workflows=WORKFLOWS, activities=TOOLS
    )

    async def start(case_id: str, workflow: str, *more: str) -> Any:
        return await mf.workflow.start(
            entity="claims-review",
            workflow_name=workflow,
            workflow_id=f"claim-{case_id}",
            args=[case_id, *more],
            task_queue="agents",
            on_conflict="replace",  # so that this file can be run again
        )

    quick, refused = [await start(case_id, "claims_workflow") for case_id in ("A42", "A44")]
    late = await start("A43", "escalating_claims_workflow", "1 second")
    await quick.signal("human-approval", True)
    await refused.signal("human-approval", False)
    await late.signal("manager-approval", True)  # it may come before anybody waits for it

    for claim in (quick, late, refused):
        memory = await claim.result()
        verdict = "approved" if memory["approved"] else "refused"
        print(memory["caseId"], verdict, memory["coverage"]["pays"], *memory.get("notes", []))
    await MemFlow.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
