"""A pipeline that is a long-lived record: it cleans its data, sleeps as its policy says, and begins again.

`python data_pipeline.py` runs it with a policy of one second, and triggers one more run from outside.
The loop has no end: `continue_as_new` starts the hook over with an empty journal, so that its thousandth
round is as small as its first.
"""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path
from typing import Any

from hotmesh import MemFlow

READINGS = Path(__file__).with_name("readings.csv")
ABSOLUTE_ZERO = -273.15


def read_and_clean(source: str) -> dict[str, Any]:
    """The activity: drop what is empty, doubled or below absolute zero."""
    with (READINGS.parent / source).open(newline="") as file:
        rows = [(row["sensor"], row["celsius"]) for row in csv.DictReader(file)]
    kept = [
        (sensor, float(celsius))
        for sensor, celsius in dict.fromkeys(rows)
        if celsius and float(celsius) >= ABSOLUTE_ZERO
    ]
    return {"read": len(rows), "kept": len(kept)}


acts = MemFlow.workflow.proxy_activities([read_and_clean], task_queue="transform")


async def data_pipeline(source: str, refresh_interval: str = "24 hours") -> None:
    entity = await MemFlow.workflow.entity()

    # policy and tracking
    await entity.set(
        {
            "source": source,
            "pipeline": {"version": 1, "policy": {"refreshInterval": refresh_interval}},
            "changeLog": [],
        }
    )

    # the recurring part
    await MemFlow.workflow.exec_hook(
        task_queue="pipeline", workflow_name="run_pipeline", args=[True]
    )


# --- hooks ----------------------------------------------------------------------------------------


async def run_pipeline(repeat: bool = False) -> None:
    await MemFlow.workflow.exec_hook(task_queue="transform", workflow_name="clean_data", args=[])

    if repeat:
        # until the next execution is due
        await MemFlow.workflow.exec_hook(
            task_queue="scheduler", workflow_name="schedule_refresh", args=[]
        )
        await MemFlow.workflow.continue_as_new(repeat)


async def clean_data(signal_info: dict[str, str] | None = None) -> None:
    entity = await MemFlow.workflow.entity()
    rows = await acts.read_and_clean(await entity.get("source"))

    await entity.merge({"status": "cleaning", "rows": rows, "lastCleanedAt": timestamp()})
    await entity.append("changeLog", {"action": "clean", "timestamp": timestamp()})

    # tell the caller, if called by exec_hook
    if signal_info and signal_info.get("signal"):
        await MemFlow.workflow.signal(
            signal_info["signal"], {"status": "cleaned", "timestamp": timestamp()}
        )


async def schedule_refresh(signal_info: dict[str, str] | None = None) -> None:
    entity = await MemFlow.workflow.entity()

    # the policy may have been changed since the last round
    current = await entity.get()
    await MemFlow.workflow.sleep_for(current["pipeline"]["policy"]["refreshInterval"])

    await entity.merge({"status": "ready_for_refresh", "nextRefreshAt": timestamp()})
    await entity.append(
        "changeLog",
        {"action": "schedule_refresh", "timestamp": timestamp(), "nextRefresh": timestamp()},
    )

    if signal_info and signal_info.get("signal"):
        await MemFlow.workflow.signal(
            signal_info["signal"], {"status": "scheduled", "nextRefresh": timestamp()}
        )


def timestamp() -> str:
    """The job's time, the same in every replay."""
    return MemFlow.workflow.now().isoformat()


# --- from outside ---------------------------------------------------------------------------------


async def trigger_refresh(client: MemFlow.Client) -> None:
    """External systems can trigger a single run of the pipeline."""
    await client.workflow.hook(
        workflow_id="pipeline-123", task_queue="pipeline", workflow_name="run_pipeline", args=[]
    )


QUEUES = {
    "pipeline": [data_pipeline, run_pipeline],
    "transform": [clean_data],
    "scheduler": [schedule_refresh],
}


async def main() -> None:
    client = MemFlow.Client(app_id="my-app")
    handle = await client.workflow.start(
        entity="data-pipeline",
        workflow_name="data_pipeline",
        workflow_id="pipeline-123",
        args=[READINGS.name, "1 second"],
        task_queue="pipeline",
        on_conflict="replace",  # so that this file can be run again
    )
    for queue, workflows in QUEUES.items():
        activities = [read_and_clean] if queue == "transform" else None
        await MemFlow.Worker.create(
            app_id="my-app", task_queue=queue, workflows=workflows, activities=activities
        )

    await trigger_refresh(client)
    while len((memory := await handle.entity().get() or {}).get("changeLog", [])) < 6:
        await asyncio.sleep(0.1)
    print("kept {kept} of {read} rows".format(**memory["rows"]))
    print(*[change["action"] for change in memory["changeLog"]])

    await handle.interrupt(reason="seen enough")  # it would go on for years
    await MemFlow.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
