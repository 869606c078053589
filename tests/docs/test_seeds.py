"""What the project has always shown of itself, word for word but in Python: programs, snippets and queries.

The programs are those of `python_driver/examples`, looked at from inside; the order workflow is in
test_readme and test_examples.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from hotmesh import Entity, MemFlow
from hotmesh.client import WorkflowHandle
from hotmesh.errors import JobFailedError, MaxedError
from support.clock import Clock
from support.cluster import ROOT
from support.flows import APP, House, opened, wait_for


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with opened(dsn) as house:
        yield house


def example(name: str) -> ModuleType:
    """An example's module, without running its main()."""
    path = ROOT / "python_driver/examples" / name / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(house: House, query: str) -> list[tuple[Any, ...]]:
    return house.db.execute(query.encode()).fetchall()


async def memory_where(handle: WorkflowHandle, met: Any, timeout: float = 20) -> Any:
    """The entity, as soon as `met(entity)` is true."""
    until = asyncio.get_running_loop().time() + timeout
    while not ((memory := await handle.entity().get()) and met(memory)):
        assert asyncio.get_running_loop().time() < until, memory
        await asyncio.sleep(0.01)
    return memory


async def until_asleep(house: House) -> None:
    """Let the loop work until something is due in an hour or later."""
    ask = "select count(*) from my_app.streams where visible_at > hotmesh.now() + '1 hour'"
    await wait_for(lambda: house.one(ask), what="a timer")


# --- the research agent ---------------------------------------------------------------------------


async def agents(house: House) -> ModuleType:
    module = example("research_agent")
    await house.worker(*module.AGENTS, queue="agents", activities=module.TOOLS)
    await house.worker(module.synthesize_perspectives, queue="perspectives")
    return module


async def ask(house: House, module: ModuleType, key: str, **more: Any) -> WorkflowHandle:
    return await house.client.workflow.start(
        entity="research-agent", workflow_name="research_agent", workflow_id=key,
        args=[module.QUERY], task_queue="agents", **more,
    )  # fmt: skip


async def test_the_research_agent_remembers_both_views_and_their_synthesis(house: House) -> None:
    module = await agents(house)
    handle = await ask(house, module, "agent-session-jane-001")
    memory = await handle.result(timeout=20)
    views = memory["perspectives"]
    assert memory["status"] == "completed"
    assert set(views) == {"optimistic", "skeptical", "synthesis"}
    assert [note["source"] for note in views["optimistic"]["findings"]] == [
        "note-02", "note-03", "note-04", "note-01", "note-05",
    ]  # fmt: skip
    assert len(views["skeptical"]["counterEvidence"]) == 4
    assert views["synthesis"] == {
        "finalAssessment": "optimistic view prevails, 3.6 to 2.8",
        "confidence": 0.7,
    }
    assert await handle.status() == 0
    assert memory == await handle.entity().get()


async def test_its_fact_checker_is_a_child_with_an_entity_of_its_own(house: House) -> None:
    module = await agents(house)
    await (await ask(house, module, "jane")).result(timeout=20)
    assert rows(
        house,
        "select c.entity, p.entity, jsonb_array_length(c.context -> 'verifications')"
        " from my_app.jobs c join my_app.jobs p on p.id = c.parent_id where c.key like 'fact-check-%'",
    ) == [("fact-checker", "research-agent", 9)]


async def test_agents_at_the_same_time_do_not_take_each_others_signals(house: House) -> None:
    """All use the same names: what a hook signals is for its own job first."""
    await agents(house)

    async def verification_hook(query: str, config: dict[str, str]) -> None:
        entity = await MemFlow.workflow.entity()
        await entity.merge({"verification": {"of": query}, "needsVerification": False})
        await MemFlow.workflow.signal(config["signal"], query)

    async def named_agent(query: str) -> Any:
        entity = await MemFlow.workflow.entity()
        await entity.set({"query": query, "perspectives": {}, "status": "researching"})
        for queue, hook, args, signal_id in (
            ("agents", "optimistic_perspective", [query], "optimistic-complete"),
            ("agents", "skeptical_perspective", [query], "skeptical-complete"),
            ("verifiers", "verification_hook", [query], "verification-complete"),
            ("perspectives", "synthesize_perspectives", [], "synthesis-complete"),
        ):
            await MemFlow.workflow.exec_hook(
                task_queue=queue, workflow_name=hook, args=args, signal_id=signal_id
            )
        return await entity.get()

    await house.worker(verification_hook, queue="verifiers")
    await house.worker(named_agent, queue="coordinators")
    queries = [f"renewable energy subsidies {n}" for n in range(10)]
    handles = [
        await house.start(named_agent, query, queue="coordinators", entity="research-agent")
        for query in queries
    ]
    memories = await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert [memory["verification"]["of"] for memory in memories] == queries
    assert {memory["status"] for memory in memories} == {"completed"}


async def test_its_memory_is_found_by_index_query_and_sql(house: House) -> None:
    module = await agents(house)
    handle = await ask(house, module, "premium")
    await handle.result(timeout=20)
    await (await ask(house, module, "ordinary")).result(timeout=20)
    await handle.entity().merge({"isPremium": True, "needsVerification": True, "confidence": 0.9})

    await Entity.create_index("research-agent", "isPremium", house.client)
    found = await MemFlow.Entity.find(
        "research-agent", {"isPremium": True, "needsVerification": True}, house.client
    )
    assert [agent["key"] for agent in found] == ["premium"]

    house.db.execute(
        "CREATE INDEX idx_research_agents_premium ON my_app.jobs (id)"
        " WHERE entity = 'research-agent' AND (context->>'isPremium')::boolean = true"
    )
    assert rows(
        house,
        "SELECT context->>'status' as status, context->>'confidence' as confidence"
        " FROM my_app.jobs WHERE entity = 'research-agent'"
        " AND (context->>'isPremium')::boolean = true"
        " AND (context->>'confidence')::numeric > 0.8",
    ) == [("completed", "0.9")]


async def test_an_index_of_ones_own_does_not_disturb_the_engine(house: House) -> None:
    module = await agents(house)
    await (await ask(house, module, "before")).result(timeout=20)
    house.db.execute(
        "CREATE INDEX idx_user_premium ON my_app.jobs (id)"
        " WHERE entity = 'user' AND (context->>'isPremium')::boolean = true"
    )
    memory = await (await ask(house, module, "after")).result(timeout=20)
    assert memory["status"] == "completed"


# --- the claims review ----------------------------------------------------------------------------

OPEN_CLAIMS = (
    "SELECT context->>'stage', context->'aiSummary'->>'result' FROM my_app.jobs"
    " WHERE entity = 'claims-review' AND context->>'stage' != 'complete'"
)


async def review(house: House, module: ModuleType, *args: Any) -> WorkflowHandle:
    if not house.workers:
        await house.worker(*module.WORKFLOWS, queue="agents", activities=module.TOOLS)
    workflow = module.claims_workflow if len(args) == 1 else module.escalating_claims_workflow
    return await house.start(
        workflow, *args, queue="agents", key=f"claim-{args[0]}", entity="claims-review"
    )


async def test_a_claim_waits_for_its_reviewer_in_plain_sight(house: House) -> None:
    handle = await review(house, example("claims_review"), "A42")
    await memory_where(handle, lambda memory: {"coverage", "aiSummary"} <= set(memory))
    summary = "Water from a burst pipe under the kitchen sink: 1820 claimed"
    assert rows(house, OPEN_CLAIMS) == [("verification", summary)]
    assert await handle.status() > 0

    await handle.signal("human-approval", True)
    memory = await handle.result(timeout=20)
    assert (memory["approved"], memory["stage"]) == (True, "complete")
    assert rows(house, OPEN_CLAIMS) == []


async def test_only_true_is_an_approval(house: House) -> None:
    handle = await review(house, example("claims_review"), "A42")
    await handle.signal("human-approval", "perhaps")
    assert (await handle.result(timeout=20))["approved"] is False


async def test_a_claim_that_nobody_answers_is_escalated(house: House, clock: Clock) -> None:
    handle = await review(house, example("claims_review"), "A43", "2 days")
    await memory_where(handle, lambda memory: {"coverage", "aiSummary"} <= set(memory))
    assert (await handle.entity().get())["escalations"] == 0
    await until_asleep(house)
    clock.advance("2 days")
    memory = await memory_where(handle, lambda memory: memory["stage"] == "escalated")
    assert (memory["escalations"], len(memory["notes"])) == (1, 1)
    await handle.signal("manager-approval", True)
    assert (await handle.result(timeout=20))["approved"] is True


async def test_hooks_answer_a_batch_by_key(house: House) -> None:
    module = example("claims_review")

    async def batch(case_id: str) -> dict[str, Any]:
        return await MemFlow.workflow.exec_hook_batch(module.checks(case_id))

    await house.worker(batch, *module.WORKFLOWS, queue="agents", activities=module.TOOLS)
    assert await house.run(batch, "A44", queue="agents") == {
        "verify_coverage": {"inForce": False, "pays": 0},
        "generate_summary": {},
    }


# --- the data pipeline ----------------------------------------------------------------------------


async def pipeline(house: House, interval: str) -> WorkflowHandle:
    module = example("data_pipeline")
    for queue, workflows in module.QUEUES.items():
        await house.worker(*workflows, queue=queue, activities=[module.read_and_clean])
    return await house.start(
        module.data_pipeline, "readings.csv", interval, queue="pipeline", key="pipeline-123"
    )


def rounds(memory: dict[str, Any], action: str = "schedule_refresh") -> int:
    return [change["action"] for change in memory["changeLog"]].count(action)


async def test_the_data_pipeline_sleeps_as_its_policy_says(house: House, clock: Clock) -> None:
    handle = await pipeline(house, "24 hours")
    memory = await memory_where(handle, lambda memory: rounds(memory, "clean") == 1)
    assert memory["rows"] == {"read": 7, "kept": 4}
    for day in (1, 2, 3):
        await until_asleep(house)
        clock.advance("12 hours")
        assert rounds(await handle.entity().get()) == day - 1
        clock.advance("12 hours")
        await memory_where(handle, lambda memory, day=day: rounds(memory, "clean") == day + 1)
    assert rounds(await handle.entity().get()) == 3


async def test_a_policy_that_is_changed_holds_from_the_next_round(
    house: House, clock: Clock
) -> None:
    handle = await pipeline(house, "24 hours")
    await memory_where(handle, lambda memory: rounds(memory, "clean") == 1)
    await until_asleep(house)
    await handle.entity().set("pipeline.policy.refreshInterval", "1 ms")
    clock.advance("24 hours")
    await memory_where(handle, lambda memory: rounds(memory) >= 4)


async def test_its_journal_stays_small_for_ever(house: House) -> None:
    """The loop is continue_as_new: what grows is the document, by what the hooks append to it."""
    handle = await pipeline(house, "1 ms")
    for times in (3, 15):
        await memory_where(handle, lambda memory, times=times: rounds(memory) >= times)
        assert house.one("select count(*) from my_app.jobs_attributes") < 40


async def test_a_run_is_triggered_from_outside(house: House) -> None:
    handle = await pipeline(house, "24 hours")
    await memory_where(handle, lambda memory: rounds(memory, "clean") == 1)
    await until_asleep(house)
    open_before = await handle.status()
    await example("data_pipeline").trigger_refresh(house.client)
    memory = await memory_where(handle, lambda memory: rounds(memory, "clean") == 2)
    assert rounds(memory) == 0, "a single run schedules nothing"
    while await handle.status() > open_before:
        await asyncio.sleep(0.01)


# --- the document pipeline ------------------------------------------------------------------------


async def test_the_document_pipeline_leaves_its_whole_story_in_the_entity(house: House) -> None:
    module = example("document_pipeline")
    await house.worker(*module.WORKFLOWS, queue="pipeline", activities=module.TOOLS)
    handle = await house.start(module.document_processing_pipeline, queue="pipeline")
    memory = await memory_where(handle, lambda memory: memory["status"] == "waiting-for-approval")
    assert memory["validationResults"] == [
        {"computed": "730.90", "stated": "730.90", "valid": True}
    ]
    await handle.signal("document-approved", {"by": "Mrs Berg"})
    memory = await handle.result(timeout=20)
    assert memory["finalResult"]["approvedBy"] == "Mrs Berg"
    assert memory["pageSignals"] == {"1": True, "2": True, "3": True}
    assert len(memory["processingSteps"]) == 9


async def test_a_document_without_pages_fails_with_its_reason(house: House) -> None:
    module = example("document_pipeline")

    async def load_image_pages() -> list[str]:
        return []

    tools = [load_image_pages, module.extract_items, module.send_notification]
    await house.worker(*module.WORKFLOWS, queue="pipeline", activities=tools)
    with pytest.raises(JobFailedError, match="No image references found"):
        await house.run(module.document_processing_pipeline, queue="pipeline")


# --- snippets -------------------------------------------------------------------------------------


async def test_the_commands_of_an_entity(house: House) -> None:
    async def commands() -> list[Any]:
        e = await MemFlow.workflow.entity()
        await e.set({"caseId": "A42", "stage": "verification", "retries": 0, "notes": []})
        await e.merge(
            {"aiSummary": {"result": "Verified coverage", "confidence": 0.93}, "stage": "approval"}
        )
        await e.append("notes", {"reviewer": "ops1", "comment": "ok to proceed"})
        await e.increment("retries", 1)
        before = await e.get()

        await e.set({"user": {"id": 123, "name": "John"}})
        await e.merge({"user": {"email": "john@example.com"}})
        await e.append("items", {"id": 1, "name": "New Item"})
        await e.prepend("items", {"id": 0, "name": "First Item"})
        await e.remove("items", 0)
        await e.increment("counter", 5)
        await e.toggle("settings.enabled")
        await e.set_if_not_exists("user.id", 456)
        email = await e.get("user.email")
        await e.delete("user.email")
        return [before, email, await e.get()]

    await house.worker(commands)
    before, email, after = await house.run(commands)
    assert before == {
        "caseId": "A42",
        "stage": "approval",
        "retries": 1,
        "notes": [{"reviewer": "ops1", "comment": "ok to proceed"}],
        "aiSummary": {"result": "Verified coverage", "confidence": 0.93},
    }
    assert email == "john@example.com"
    assert after == {
        "user": {"id": 123, "name": "John"},
        "items": [{"id": 1, "name": "New Item"}],
        "counter": 5,
        "settings": {"enabled": True},
    }


async def test_a_process_may_restart_while_a_workflow_sleeps_for_a_month(
    house: House, clock: Clock
) -> None:
    sent: list[str] = []

    async def send_follow_up() -> None:
        sent.append("follow-up")

    async def follow_up() -> str:
        await MemFlow.workflow.sleep_for("30 days")
        await MemFlow.workflow.proxy_activities([send_follow_up]).send_follow_up()
        await MemFlow.workflow.sleep("30 days")
        return "done"

    worker = await house.worker(follow_up, activities=[send_follow_up])
    handle = await house.start(follow_up)
    await until_asleep(house)
    await worker.shutdown()
    clock.advance("29 days")
    await house.worker(follow_up, activities=[send_follow_up])
    assert (sent, await handle.status()) == ([], 1)
    clock.advance("1 day")
    await wait_for(lambda: sent)
    await until_asleep(house)
    clock.advance("30 days")
    assert await handle.result(timeout=20) == "done"
    assert sent == ["follow-up"]


async def test_activities_run_side_by_side(house: House) -> None:
    together = asyncio.Barrier(3) if hasattr(asyncio, "Barrier") else None

    async def meet(text: str) -> str:
        if together:
            await asyncio.wait_for(together.wait(), 10)
        return text

    async def process_payment(order_id: str) -> str:
        return await meet(f"paid {order_id}")

    async def update_inventory(order_id: str) -> str:
        return await meet(f"updated {order_id}")

    async def notify_warehouse(order_id: str) -> str:
        return await meet(f"notified {order_id}")

    activities = [process_payment, update_inventory, notify_warehouse]

    async def fulfil(order_id: str) -> list[str]:
        acts = MemFlow.workflow.proxy_activities(activities, task_queue="acts")
        payment, inventory, shipment = await MemFlow.workflow.all(
            acts.process_payment(order_id),
            acts.update_inventory(order_id),
            acts.notify_warehouse(order_id),
        )
        return [payment, inventory, shipment]

    await house.worker(fulfil)
    await house.activity_worker(*activities)
    assert await house.run(fulfil, "o-1") == ["paid o-1", "updated o-1", "notified o-1"]


async def test_all_takes_a_list_and_values_that_are_there(house: House) -> None:
    async def three() -> int:
        return 3

    async def mixed() -> list[Any]:
        known = {"fact": "checked"}
        first = await MemFlow.workflow.all(three(), known, [1, 2], None)
        return [first, await MemFlow.workflow.all([three(), 4]), await MemFlow.workflow.all()]

    await house.worker(mixed)
    assert await house.run(mixed) == [[3, {"fact": "checked"}, [1, 2], None], [3, 4], []]


async def test_a_workflow_is_made_of_others(house: House) -> None:
    async def validate_order(order_id: str) -> str:
        return f"{order_id} is valid"

    async def parent(order_id: str) -> list[str]:
        child_handle = await MemFlow.workflow.start_child(
            validate_order,
            args=[order_id],
            task_queue="validation",
            workflow_id=f"validate-{order_id}",
        )
        short = await MemFlow.workflow.start_child(validate_order, args=["short"])
        return [await child_handle.result(), await short.result()]

    await house.worker(parent, validate_order)
    await house.worker(validate_order, queue="validation")
    assert await house.run(parent, "o-1") == ["o-1 is valid", "short is valid"]
    assert await house.client.workflow.get_handle(workflow_id="validate-o-1").status() == 0


@pytest.mark.parametrize(("approved", "ends"), [(True, "approved"), (False, "rejected")])
async def test_a_workflow_pauses_until_an_event_arrives(
    house: House, approved: bool, ends: str
) -> None:
    async def purchase() -> str:
        approval = await MemFlow.workflow.wait_for("manager-approval")
        if not approval["approved"]:
            return "rejected"
        return "approved"

    await house.worker(purchase)
    handle = await house.start(purchase, key="purchase-1")
    await house.client.workflow.signal("manager-approval", {"approved": approved})
    assert await handle.result(timeout=20) == ends


async def test_retries_are_used_up_and_then_the_workflow_may_handle_it(house: House) -> None:
    tries: list[int] = []

    async def reserve_item(item_id: str, quantity: int) -> str:
        tries.append(quantity)
        raise ConnectionError("the warehouse does not answer")

    async def stubborn() -> str:
        acts = MemFlow.workflow.proxy_activities(
            [reserve_item],
            task_queue="inventory-tasks",
            retry_policy={
                "maximum_attempts": 5,
                "backoff_coefficient": 2,
                "maximum_interval": "60s",
                "initial_interval": "1ms",
            },
        )
        try:
            return str(await acts.reserve_item("item-123", 5))
        except MaxedError as error:
            return f"gave up: {error.__cause__}"

    await house.worker(stubborn)
    await house.activity_worker(reserve_item, queue="inventory-tasks")
    assert await house.run(stubborn) == "gave up: the warehouse does not answer"
    assert tries == [5] * 5


async def test_a_handle_tells_what_became_of_a_workflow(house: House) -> None:
    async def order_workflow(item_id: str, qty: int) -> str:
        await MemFlow.workflow.execute_activity(str, item_id)
        return f"{qty} x {item_id}"

    await house.worker(order_workflow, activities=[str])
    await house.start(order_workflow, "item-123", 5, key="order-456")
    handle = house.client.workflow.get_handle("orders", "order_workflow", "order-456")

    assert await handle.result() == "5 x item-123"
    assert await handle.status() == 0
    state = await handle.state(True)
    assert set(state) == {"data", "metadata"}
    exported = await handle.export(allow=["data", "state", "status", "timeline"])
    assert set(exported) == {"data", "state", "status", "timeline"}

    house.db.execute("set search_path to my_app")
    assert rows(
        house,
        """
        SELECT
          j.key AS job_key,
          j.status AS semaphore,
          j.entity AS workflow,
          a.field AS attribute,
          a.value AS value
        FROM
          jobs j
          JOIN jobs_attributes a ON a.job_id = j.id
        WHERE
          j.key = 'order-456'
        ORDER BY
          a.field;
        """,
    ) == [
        ("order-456", 0, "order_workflow", "input", ["item-123", 5]),
        ("order-456", 0, "order_workflow", "output", "5 x item-123"),
        ("order-456", 0, "order_workflow", "step-0001", "item-123"),
    ]


async def test_init_takes_the_form_with_an_engine(dsn: str) -> None:
    async def hello(name: str) -> str:
        return f"hello {name}"

    mf = await MemFlow.init(app_id=APP, engine={"connection": dsn})
    async with await MemFlow.Worker.create(dsn, APP, task_queue="agents", workflow=hello):
        handle = await mf.workflow.start(
            entity="greeter", workflow_name="hello", workflow_id="jane", args=["Jane"],
            task_queue="agents",
        )  # fmt: skip
        assert await handle.result(timeout=20) == "hello Jane"
    await mf.shutdown()
