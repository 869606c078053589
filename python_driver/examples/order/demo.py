#!/usr/bin/env python3
"""`make demo`: a few hundred orders, a worker killed in the middle, and the proof that nothing was lost.

An embedded Postgres of its own, beside that of the user, keeps the state in the app `order-demo`; each
run makes it anew. A worker (`hotmesh worker`, a process of its own) is stopped by SIGKILL while it holds
orders; another goes on when the leases have run out. Then the input is read once more, and every order
is compared with it.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hotmesh import HotMeshError, SyncClient, embedded

HERE = Path(__file__).parent
APP, SCHEMA = "order-demo", "order_demo"
LEASE = "2s"
PATIENCE = 60.0

BUSY = """\
select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and state = 'active'"""

SEEDS = """\
select j.key as job_key, j.status as semaphore, j.entity as workflow,
       a.field as attribute, a.value as value, j.created_at, j.updated_at
from jobs j join jobs_attributes a on a.job_id = j.id
where j.key = 'order-456' order by a.field"""

# `hotmesh`, which ends when its input does: when the demo is gone, and be it by SIGKILL.
TETHERED = """\
import os, sys, threading
from hotmesh.cli import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
main()"""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Order(NamedTuple):
    """A line of orders.csv; what the file calls requestedQty is the workflow's quantity."""

    id: str
    item_id: str
    quantity: int


def read_orders() -> list[Order]:
    with (HERE / "orders.csv").open(newline="") as file:
        return [
            Order(row["orderId"], row["itemId"], int(row["requestedQty"]))
            for row in csv.DictReader(file)
        ]


def read_stock() -> dict[str, int]:
    with (HERE / "inventory.csv").open(newline="") as file:
        return {row["item_id"]: int(row["available"]) for row in csv.DictReader(file)}


# --- the run --------------------------------------------------------------------------------------


@contextmanager
def postgres(dsn: str | None) -> Iterator[str]:
    """The database that was named; else one in a server of the demo's own, empty whatever was in it.

    So it does not matter what an earlier version left there, and nothing of the user's is touched. A
    second demo waits until the first is over.
    """
    if dsn is not None:
        yield dsn
        return
    server = embedded.Server(embedded.default_home() / "demo")
    with ExitStack() as stack:
        lock = os.open(server.home, os.O_RDONLY)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        stack.enter_context(server)
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            admin.execute(f"drop database {embedded.DATABASE} with (force)".encode())
        yield server.start().dsn


def start_orders(dsn: str, orders: list[Order]) -> psycopg.Connection[Any]:
    """A new app with all orders in it, started in one call; the connection looks into its tables."""
    with SyncClient(dsn, APP) as client:
        client.workflow.start_many([])  # installs the engine and makes the app, if need be
        look = psycopg.connect(dsn, autocommit=True, options=f"-c search_path={SCHEMA}")
        look.execute("select hotmesh.app_drop(%s, force => true)", [APP])
        look.execute("select hotmesh.app_create(%s)", [APP])
        client.workflow.start_many(
            {
                "workflow_name": "order_workflow",
                "workflow_id": order.id,
                "args": [order.item_id, order.quantity],
                "task_queue": "orders",
            }
            for order in orders
        )
    return look


@contextmanager
def worker(dsn: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`hotmesh worker` in a process of its own; whatever happens, it does not outlive the demo."""
    command = [sys.executable, "-c", TETHERED, "worker", "workflows:order_workflow"]
    command += ["--queue", "orders", "--activities", "activities"]
    command += ["--activity-queue", "inventory-tasks", "--app", APP, "--lease", LEASE]
    command += ["--max-concurrent-workflows", "20"]
    env = {**os.environ, "DATABASE_URL": dsn, "ORDER_LOG": str(log / "executions")}
    with (log / "workers").open("ab") as out:
        process = subprocess.Popen(
            command, cwd=HERE, env=env, stdin=subprocess.PIPE, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def closed(look: psycopg.Connection[Any]) -> int:
    return int(number(look, "select count(*) from jobs where closed_at is not null"))


def held(look: psycopg.Connection[Any]) -> set[str]:
    """The orders whose lease is in somebody's hands."""
    rows = look.execute(
        "select j.key from streams s join jobs j on j.id = s.job_id where s.state = 'leased'"
    )
    return {key for (key,) in rows}


def number(look: psycopg.Connection[Any], query: str) -> Any:
    row = look.execute(query.encode()).fetchone()
    assert row
    return row[0]


def watch(
    look: psycopg.Connection[Any], bar: Progress, process: subprocess.Popen[bytes], until: int
) -> None:
    """Show progress until so many orders are through."""
    deadline = time.monotonic() + PATIENCE
    while (done := closed(look)) < until:
        if process.poll() is not None:
            raise SystemExit(f"the worker ended by itself, with {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit(f"only {done} of {until} orders were through after {PATIENCE:.0f} s")
        bar.update(bar.task_ids[0], completed=done)
        time.sleep(0.05)
    bar.update(bar.task_ids[0], completed=done)


def kill(look: psycopg.Connection[Any], process: subprocess.Popen[bytes]) -> set[str]:
    """SIGKILL at a moment when the worker holds orders; these orders."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)  # so that what we see stays true
        time.sleep(0.05)
        if held(look):
            process.kill()
            process.wait()
            for _ in range(200):  # what the server had begun for it, it ends
                if number(look, BUSY) == 0:
                    break
                time.sleep(0.01)
            return held(look)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    raise SystemExit("the worker was never seen with an order in its hands")


def run(look: psycopg.Connection[Any], dsn: str, count: int, log: Path) -> set[str]:
    """One worker until a third is done, its death, and another one for the rest."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as bar:
        bar.add_task("orders", total=count)
        with worker(dsn, log) as first:
            watch(look, bar, first, count // 3)
            orphans = kill(look, first)
        bar.console.print(
            f"worker {first.pid} was killed (SIGKILL) after {closed(look)} orders,"
            f" with {len(orphans)} in its hands"
        )
        with worker(dsn, log) as second:
            bar.console.print(f"worker {second.pid} goes on; a lease runs out after {LEASE}")
            watch(look, bar, second, count)
            second.terminate()
            if status := second.wait(20):
                raise SystemExit(f"the second worker ended with {status}")
    return orphans


# --- the proof ------------------------------------------------------------------------------------


class Proof:
    """What was found, line by line; `failed` counts what was not as it should be."""

    def __init__(self) -> None:
        self.failed = 0

    def says(self, good: bool, text: str) -> None:
        self.failed += not good
        console.print(f"  [{'green' if good else 'red'}]{'yes' if good else 'NO '}[/]  {text}")


def expected(order: Order, stock: dict[str, int]) -> tuple[str, list[tuple[str, Any]]]:
    """What must come out of an order, from the input alone: outcome and journal."""
    available = stock[order.item_id]
    if available >= order.quantity:
        reservation = f"R-{order.id}"
        return reservation, [("check_inventory", available), ("reserve_item", reservation)]
    return "backordered", [("check_inventory", available), ("notify_backorder", None)]


def prove(look: psycopg.Connection[Any], orders: list[Order], orphans: set[str], log: Path) -> int:
    """Compare the tables and the log of executions with the input; how many things are wrong."""
    proof, stock = Proof(), read_stock()
    truth = {order.id: expected(order, stock) for order in orders}
    rows = look.execute(
        "select j.key, a.value from jobs j join jobs_attributes a on a.job_id = j.id"
        " where a.field = 'output' and j.status = 0"
    ).fetchall()
    proof.says(
        number(look, "select count(*) from jobs") == len(rows) == len(orders)
        and dict(rows) == {key: outcome for key, (outcome, _) in truth.items()},
        f"{len(rows)} of {len(orders)} orders have exactly one outcome, as the input wants it",
    )
    kinds = Counter(
        "backordered" if outcome == "backordered" else "reserved" for _, outcome in rows
    )
    console.print(f"       {kinds['reserved']} reserved, {kinds['backordered']} backordered")

    journal: dict[str, list[tuple[str, Any]]] = {order.id: [] for order in orders}
    for key, name, value in look.execute(
        "select j.key, a.name, a.value from jobs j join jobs_attributes a on a.job_id = j.id"
        " where a.sequence is not null and a.state = 'done' order by a.sequence"
    ):
        journal[key].append((name, value))
    steps = sum(map(len, journal.values()))
    proof.says(
        journal == {key: told for key, (_, told) in truth.items()},
        f"{steps} activity results are in the journal, each once and none lost",
    )

    done = [json.loads(line) for line in (log / "executions").read_text().splitlines()]
    ran = Counter((line["order"], line["activity"]) for line in done)
    proof.says(
        set(ran) == {(key, name) for key, told in journal.items() for name, _ in told},
        f"{len(done)} executions were noted outside: at least one per result, and no others",
    )
    heirs = {line["order"] for line in done if line["pid"] == done[-1]["pid"]}
    proof.says(
        bool(orphans) and orphans <= heirs,
        f"{len(orphans)} leases of the dead worker were taken over by the other",
    )
    left = number(look, "select count(*) from streams")
    proof.says(left == 0, f"{left} messages are left in the queue")
    console.print(
        f"       {len(done) - len(ran)} executions were repeats: an activity runs at least once"
    )
    return proof.failed


def show_rows(look: psycopg.Connection[Any]) -> None:
    """The query of HotMesh's documents, as it stands there, and its rows."""
    console.print(f"\n[dim]set search_path to {SCHEMA};[/]\n{SEEDS};\n")
    cursor = look.execute(SEEDS.encode())
    table = [[column.name for column in cursor.description or ()]]
    for key, semaphore, workflow, field, value, *times in cursor:
        shown = [f"{moment:%H:%M:%S}" for moment in times]
        table.append([key, str(semaphore), workflow, field, json.dumps(value), *shown])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    for row in table:
        line = " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(line.rstrip(), markup=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dsn", help="a database of yours instead of the embedded one")
    given, began = parser.parse_args(), time.monotonic()
    console.print("[bold]starting Postgres[/]" if not given.dsn else "[bold]connecting[/]")
    with tempfile.TemporaryDirectory(prefix="hotmesh-demo-") as directory:
        with postgres(given.dsn) as dsn:
            failed = play(dsn, Path(directory))
    console.print(
        f"{time.monotonic() - began:.1f} s. {'It does not hold.' if failed else 'It holds.'}"
    )
    if not given.dsn:
        home = shlex.quote(str(embedded.default_home() / "demo"))
        command = os.path.relpath(Path(sys.executable).with_name("hotmesh"))
        console.print("[dim]To look around:[/]")
        look = f"HOTMESH_HOME={home} {command} job order-456 --app {APP}"
        console.print(f"    {look}", markup=False, soft_wrap=True)
    return 1 if failed else 0


def play(dsn: str, log: Path) -> int:
    """The run and the proof; how many things are wrong."""
    orders = read_orders()
    look = start_orders(dsn, orders)
    console.print(f"{len(orders)} orders were started in one transaction")
    try:
        orphans = run(look, dsn, len(orders), log)
    except SystemExit:
        console.print((log / "workers").read_text()[-2000:], markup=False)
        raise
    console.print("\n[bold]the proof[/]")
    failed = prove(look, orders, orphans, log)
    show_rows(look)
    look.close()
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except HotMeshError as error:
        sys.exit(f"{error}\n{error.hint or ''}")
