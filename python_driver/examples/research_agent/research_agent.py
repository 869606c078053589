"""An agent that remembers: two views and a fact check at the same time, then a synthesis.

`python research_agent.py` asks one question. The hooks run side by side in one job and write to one
document, the job's entity; the fact checker is a child with a document of its own. Instead of the web
and a language model, the activities search notes.csv, a few sentences made up for this example.
"""

from __future__ import annotations

import asyncio
import csv
import re
from pathlib import Path
from typing import Any

from hotmesh import MemFlow

NOTES = Path(__file__).with_name("notes.csv")
QUERY = "What are the long-term impacts of renewable energy subsidies?"
PRAISE = {"success", "increased", "improved", "reduced", "confidence", "declined", "security"}
BLAME = {"burden", "wasted", "distorted", "shortage", "risk", "curtailment", "raised", "caused"}
WEIGHTS = {"study": 0.9, "statistics": 0.8, "opinion": 0.2}

Signal = dict[str, str]


# --- activities: they read files, and would call the web ------------------------------------------


def search_for_supporting_evidence(query: str) -> list[dict[str, Any]]:
    """What speaks for it, the most to the point first."""
    return [note for note in _about(query) if note["stance"] > 0]


def search_for_counter_evidence(query: str) -> list[dict[str, Any]]:
    """What speaks against it, the most to the point first."""
    return [note for note in _about(query) if note["stance"] < 0]


def list_sources(query: str) -> list[dict[str, Any]]:
    """Everything that was written about it."""
    return _about(query)


async def analyze_perspectives(perspectives: dict[str, Any]) -> str:
    """Weigh the notes of both sides by what kind of source they come from."""
    weight = {
        side: sum(WEIGHTS[note["kind"]] for note in perspectives[side][key])
        for side, key in (("optimistic", "findings"), ("skeptical", "counterEvidence"))
    }
    more = max(weight, key=lambda side: weight[side])
    return f"{more} view prevails, {weight['optimistic']:.1f} to {weight['skeptical']:.1f}"


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def _about(query: str) -> list[dict[str, Any]]:
    wanted, found = _words(query), []
    with NOTES.open(newline="") as file:
        for note in csv.DictReader(file):
            words = _words(note["statement"])
            if hits := len(words & wanted):
                stance = len(words & PRAISE) - len(words & BLAME)
                found.append({**note, "hits": hits, "stance": stance})
    return sorted(found, key=lambda note: (-note["hits"], note["source"]))


acts = MemFlow.workflow.proxy_activities(
    [
        search_for_supporting_evidence,
        search_for_counter_evidence,
        list_sources,
        analyze_perspectives,
    ],
    task_queue="agents",
)


# --- the coordinator ------------------------------------------------------------------------------


async def research_agent(query: str) -> Any:
    entity = await MemFlow.workflow.entity()

    # shared memory of this session
    await entity.set(
        {
            "query": query,
            "findings": [],
            "perspectives": {},
            "confidence": 0,
            "status": "researching",
        }
    )

    # both views begin now; nobody has to await them yet
    optimistic = MemFlow.workflow.exec_hook(
        task_queue="agents", workflow_name="optimistic_perspective", args=[query]
    )
    skeptical = MemFlow.workflow.exec_hook(
        task_queue="agents", workflow_name="skeptical_perspective", args=[query]
    )

    # a child has an entity of its own
    fact_checker = await MemFlow.workflow.exec_child(
        entity="fact-checker",
        workflow_name="fact_check_agent",
        workflow_id=f"fact-check-{int(MemFlow.workflow.now().timestamp() * 1000)}",
        args=[query],
        task_queue="agents",
    )

    # all views, before they are compared
    await MemFlow.workflow.all(optimistic, skeptical, fact_checker)

    await MemFlow.workflow.exec_hook(
        task_queue="perspectives", workflow_name="synthesize_perspectives", args=[]
    )
    return await entity.get()


# --- its hooks: same job, same entity -------------------------------------------------------------


async def optimistic_perspective(query: str, config: Signal) -> None:
    entity = await MemFlow.workflow.entity()
    findings = await acts.search_for_supporting_evidence(query)
    await entity.merge({"perspectives": {"optimistic": {"findings": findings, "confidence": 0.8}}})
    # tell the caller that this is done
    await MemFlow.workflow.signal(config["signal"], {})


async def skeptical_perspective(query: str, config: Signal) -> None:
    entity = await MemFlow.workflow.entity()
    counter_evidence = await acts.search_for_counter_evidence(query)
    await entity.merge(
        {"perspectives": {"skeptical": {"counterEvidence": counter_evidence, "confidence": 0.6}}}
    )
    await MemFlow.workflow.signal(config["signal"], {})


async def synthesize_perspectives(config: Signal) -> None:
    entity = await MemFlow.workflow.entity()
    context = await entity.get()

    result = await acts.analyze_perspectives(context["perspectives"])

    await entity.merge(
        {
            "perspectives": {
                "synthesis": {
                    "finalAssessment": result,
                    "confidence": calculate_confidence(context["perspectives"]),
                }
            },
            "status": "completed",
        }
    )
    await MemFlow.workflow.signal(config["signal"], {})


def calculate_confidence(perspectives: dict[str, Any]) -> float:
    """A plain function without I/O may be called in workflow code as it is."""
    both = [perspectives[side]["confidence"] for side in ("optimistic", "skeptical")]
    return round(sum(both) / len(both), 2)


# --- the fact checker: a child with a hook of its own ---------------------------------------------


async def fact_check_agent(query: str) -> Any:
    entity = await MemFlow.workflow.entity()
    await entity.set({"query": query, "sources": [], "verifications": []})

    await MemFlow.workflow.exec_hook(
        task_queue="agents", workflow_name="verify_source_credibility", args=[query]
    )
    return await entity.get()


async def verify_source_credibility(query: str) -> int:
    """A hook that does not signal; what it returns is the caller's answer."""
    entity = await MemFlow.workflow.entity()
    notes = await acts.list_sources(query)
    for note in notes:
        await entity.append("sources", note["source"])
        await entity.append(
            "verifications", {"source": note["source"], "credibility": WEIGHTS[note["kind"]]}
        )
    return len(notes)


AGENTS = [
    research_agent,
    optimistic_perspective,
    skeptical_perspective,
    fact_check_agent,
    verify_source_credibility,
]
TOOLS = [
    search_for_supporting_evidence,
    search_for_counter_evidence,
    list_sources,
    analyze_perspectives,
]


async def main() -> None:
    mf = await MemFlow.init(app_id="my-app")
    await MemFlow.Worker.create(
        app_id="my-app", task_queue="agents", workflows=AGENTS, activities=TOOLS
    )
    await MemFlow.Worker.create(
        app_id="my-app", task_queue="perspectives", workflow=synthesize_perspectives
    )

    handle = await mf.workflow.start(
        entity="research-agent",
        workflow_name="research_agent",
        workflow_id="agent-session-jane-001",
        args=[QUERY],
        task_queue="agents",
        on_conflict="replace",  # so that this file can be run again
    )
    memory = await handle.result()
    print(memory["status"], "-", memory["perspectives"]["synthesis"]["finalAssessment"])

    for found in await MemFlow.Entity.find("fact-checker", {"query": QUERY}, mf, limit=1):
        print("sources checked:", *found["context"]["sources"])
    await MemFlow.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
