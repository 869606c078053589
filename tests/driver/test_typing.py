"""What mypy says of users' programs: right ones pass, wrong ones fail on the line that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.cluster import ROOT

pytest.importorskip("mypy")

ACTIVITIES = """
from dataclasses import dataclass


@dataclass
class Receipt:
    total: int


async def check(item: str, count: int = 1) -> int:
    return count


def charge(item: str) -> Receipt:
    return Receipt(1)


class Shop:
    async def reserve(self, item: str) -> Receipt:
        return Receipt(1)
"""

HEAD = """
from typing import Any, Protocol

import shop

from hotmesh import Client, HotMesh, SyncClient, workflow


class Remote(Protocol):
    async def ship(self, to: str) -> bool: ...


async def order(item: str) -> shop.Receipt:
    return await workflow.execute_activity(shop.charge, item)

"""

RIGHT = """
async def flow(item: str) -> str:
    count: int = await workflow.execute_activity(shop.check, item, 2, task_queue="acts")
    count = await workflow.execute_activity(shop.check, item, start_to_close_timeout="5 s")
    receipt: shop.Receipt = await workflow.execute_activity(shop.charge, item, retry_policy={})
    by_name: shop.Receipt = await workflow.execute_activity("charge", 1, result_type=shop.Receipt)
    untyped = await workflow.execute_activity("charge", item)
    many = await workflow.all(workflow.execute_activity(shop.check, item), workflow.sleep("1 s"))
    acts = workflow.proxy_activities(shop.Shop, task_queue="acts")
    receipt = await acts.reserve(item)
    remote: Remote = workflow.proxy_activities(Remote)
    done: bool = await remote.ship("you")
    module = workflow.proxy_activities(shop, retry_policy={"maximum_attempts": 5})
    count = await module.check(item)
    anything = workflow.proxy_activities(task_queue="acts")
    await anything.whatever(1, 2)
    some = workflow.proxy_activities([shop.check, shop.charge])
    await some.charge("x")
    receipt = await workflow.exec_child(order, args=[item])
    child = await workflow.start_child(order, args=[item])
    receipt = await child.result()
    waited: int = await workflow.wait_for("go", result_type=int)
    workflow.logger.info("%s", untyped)
    with workflow.unsafe():
        pass
    return f"{count} {receipt} {by_name} {many} {done} {waited}"


async def main(client: Client, blocking: SyncClient) -> None:
    handle = await client.workflow.start(workflow_name=order, args=["a"], task_queue="orders")
    receipt: shop.Receipt = await handle.result()
    named = await client.workflow.start(workflow_name="order", args=["a"])
    number: int = await named.result()
    number = await named.result(result_type=int)
    receipt = await client.workflow.get_handle("orders", order, "o-1").result()
    receipt = blocking.workflow.start(workflow_name=order, workflow_id="o-1").result("5 s")
    handles = await client.workflow.start_many([{"workflow_name": order, "args": ["a"]}])
    print(receipt, number, handles)


async def answer(message: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"to": message["data"]["to"]}}


def plain(message: dict[str, Any]) -> None:
    pass


async def meshed() -> None:
    policy = {"maximum_attempts": 5, "maximum_interval": "60s"}
    mesh = await HotMesh.init(
        app_id="orders",
        workers=[
            {"topic": "ship", "callback": answer, "retry_policy": policy},
            {"topic": "note", "callback": plain},
            {"topic": "nothing", "callback": lambda message: None},
        ],
    )
    job_id: str = await mesh.pub("order.requested", {"to": "you"})
    output: dict[str, Any] = await mesh.pubsub("order.requested", {"to": "you"}, "5 s")
    await mesh.sub("order.done", lambda topic, message: print(topic, message))
    active: bool = await mesh.activate("1")
    print(job_id, output, active, HotMesh.guid())
    await mesh.stop()
    await HotMesh.stop()
"""

WRONG = [
    ("await workflow.execute_activity(shop.check, 5)", "arg-type"),
    ("await workflow.execute_activity(shop.charge)", "arg-type|call-arg|call-overload"),
    ("count: str = await workflow.execute_activity(shop.check, 'a')", "assignment"),
    ("text: str = await workflow.execute_activity(shop.charge, 'a')", "assignment"),
    ("await workflow.execute_activity(shop.check, 'a', task_cue='x')", "call-overload|call-arg"),
    ("await workflow.proxy_activities(shop.Shop).reserve(5)", "arg-type"),
    ("await workflow.proxy_activities(shop.Shop).nothing()", "attr-defined"),
    ("text: str = await workflow.proxy_activities(shop.Shop).reserve('a')", "assignment"),
    ("workflow.proxy_activities(shop, retry=5)", "call-overload|call-arg"),
    ("text: str = await workflow.exec_child(order, args=['a'])", "assignment"),
    ("text: str = await (await workflow.start_child(order)).result()", "assignment"),
    ("text: str = await workflow.wait_for('go', result_type=int)", "assignment"),
    ("text: str = await (await client.workflow.start(workflow_name=order)).result()", "assignment"),
    ("text: str = await client.workflow.get_handle(None, order, 'o').result()", "assignment"),
    ("text: str = await client.workflow.get_handle(workflow_id='o').result(result_type=int)",
     "assignment"),
    ("await client.workflow.start(workflow_name=order, prority=5)", "call-overload|call-arg"),
    ("await HotMesh.init(workers=[{'topic': 'a', 'calback': print}])", "typeddict-unknown-key"),
    ("await HotMesh.init(workers=[{'topic': 5, 'callback': print}])", "typeddict-item"),
    ("text: int = await (await HotMesh.init()).pub('t')", "assignment"),
    ("text: str = blocking.workflow.get_handle(None, order, 'o').result()", "assignment"),
]  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Mypy's errors by program: one run for all, it takes seconds."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "shop.py").write_text(ACTIVITIES)
    (folder / "right.py").write_text(HEAD + RIGHT)
    for number, (line, _) in enumerate(WRONG):
        function = f"\nasync def main(client: Client, blocking: SyncClient) -> None:\n    {line}\n"
        (folder / f"wrong{number}.py").write_text(HEAD + function)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"),
         "--python-version", "3.10", "--no-error-summary", *map(str, folder.glob("*.py"))],
        env={"MYPYPATH": str(ROOT / "python_driver"), "PATH": ""}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        found.setdefault(Path(line.split(":")[0]).stem, []).append(line)
    return found


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "python_driver/hotmesh/py.typed").exists()


def test_right_programs_pass(said: dict[str, list[str]]) -> None:
    assert said.get("right", []) == []
    assert said.get("shop", []) == []


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[line for line, _ in WRONG])
def test_a_wrong_program_fails_on_its_line(said: dict[str, list[str]], number: int) -> None:
    line, codes = WRONG[number]
    errors = [text for text in said.get(f"wrong{number}", []) if ": error:" in text]
    last = HEAD.count("\n") + 3
    assert errors, f"mypy takes it: {line}"
    assert all(text.split(":")[1] == str(last) for text in errors), errors
    assert re.search(rf"\[({codes}|arg-type)\]$", errors[0]), errors
