"""The examples: each runs as it is, and the proof of the demo would notice what it says it excludes."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from hotmesh import _binaries, install
from support.cluster import ROOT
from support.crash import python_path
from support.waiting import wait_until

EXAMPLES = ROOT / "python_driver/examples"
ORDER = EXAMPLES / "order"


def run(script: Path, *arguments: str, dsn: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": python_path()}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("order_demo", ORDER / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hello_says_hello(dsn: str) -> None:
    done = run(EXAMPLES / "hello.py", dsn=dsn)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, world!\n", "")


def test_hello_fits_on_a_page() -> None:
    assert len((EXAMPLES / "hello.py").read_text().splitlines()) < 30


ORDER_YAML = """\
# order.yaml
activities:
trigger:
type: trigger
checkInventory:
type: worker
topic: inventory.check
reserveItem:
type: worker
topic: inventory.reserve
notifyBackorder:
type: worker
topic: inventory.backorder.notify
transitions:
trigger:
- to: checkInventory
checkInventory:
- to: reserveItem
conditions:
match:
- expected: true
actual:
'@pipe':
- ['{checkInventory.output.data.availableQty}', '{trigger.output.data.requestedQty}']
- ['{@conditional.gte}']
- to: notifyBackorder
conditions:
match:
- expected: false
actual:
'@pipe':
- ['{checkInventory.output.data.availableQty}', '{trigger.output.data.requestedQty}']
- ['{@conditional.gte}']"""

RUNS = {
    "research_agent": """\
completed - optimistic view prevails, 3.6 to 2.8
sources checked: note-02 note-03 note-06 note-09 note-04 note-07 note-01 note-05 note-08
""",
    "claims_review": """\
A42 approved 1570
A43 approved 4750 {'comment': 'no answer in 1 second', 'reviewer': 'nobody'}
A44 refused 0
""",
    "order_graph": """\
item-123: trigger -> checkInventory -> reserveItem, status 0
item-124: trigger -> checkInventory -> notifyBackorder, status 0
""",
    "data_pipeline": "kept 4 of 7 rows\n",
    "document_pipeline": """\
730.90 approved by Mrs Berg
image-load-started
image-load-completed
page-1-processed
page-2-processed
page-3-processed
validation-completed
approval-completed
notification-sent
pipeline-completed
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_again_and_again(name: str, dsn: str) -> None:
    for _ in range(2):
        done = run(EXAMPLES / name / f"{name}.py", dsn=dsn)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(RUNS[name])


def test_the_graph_of_the_orders_is_the_one_of_the_seeds() -> None:
    """Word for word, but for the indentation that a page without code blocks had lost."""
    lines = (EXAMPLES / "order_graph/order.yaml").read_text().splitlines()
    assert [line.strip() for line in lines if line.strip()] == ORDER_YAML.split("\n")


def test_the_orders_are_real_input() -> None:
    with (ORDER / "orders.csv").open(newline="") as file:
        orders = list(csv.DictReader(file))
    with (ORDER / "inventory.csv").open(newline="") as file:
        stock = {row["item_id"]: int(row["available"]) for row in csv.DictReader(file)}
    short = [row for row in orders if stock[row["itemId"]] < int(row["requestedQty"])]
    assert len({row["orderId"] for row in orders}) == len(orders) == 400
    assert 0 < len(short) < 100
    assert "order-456" in {row["orderId"] for row in orders}


def test_the_demo_holds_and_its_proof_would_notice(
    demo: ModuleType, dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # it can be run again
        done = run(ORDER / "demo.py", "--dsn", dsn, dsn=dsn)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "was killed (SIGKILL) after" in done.stdout
    assert "NO" not in done.stdout
    assert "357 reserved, 43 backordered" in done.stdout
    assert "R-order-456" in done.stdout

    with psycopg.connect(dsn, autocommit=True, options="-c search_path=order_demo") as look:
        orders, log = demo.read_orders(), _log_of(look, tmp_path)
        assert demo.prove(look, orders, {"order-456"}, log) == 0
        assert demo.prove(look, orders, {"order-0"}, log) == 1, "a lease that nobody took over"
        for harm in (
            "update jobs_attributes set value = '\"backordered\"'"
            " where field = 'output' and job_id = (select id from jobs where key = 'order-456')",
            "delete from jobs_attributes where field = 'step-0002'"
            " and job_id = (select id from jobs where key = 'order-455')",
            "insert into jobs_attributes (job_id, field, value, created_at, updated_at)"
            " select id, 'output', '1', now(), now() from jobs where key = 'order-454'"
            " on conflict (job_id, field) do update set value = '1'",
        ):
            with look.transaction(force_rollback=True):
                look.execute(harm.encode())
                assert demo.prove(look, orders, {"order-456"}, log) >= 1, harm
    with (log / "executions").open("a") as file:
        line = {"order": "order-456", "activity": "notify_backorder", "pid": 1}
        file.write(json.dumps(line) + "\n")
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=order_demo") as look:
        assert demo.prove(look, orders, set(), log) >= 1, "an order both reserved and ordered back"
    assert "NO" in capsys.readouterr().out


def _log_of(look: psycopg.Connection, place: Path) -> Path:
    """A log of executions that fits to the journal."""
    rows = look.execute(
        "select j.key, a.name from jobs j join jobs_attributes a on a.job_id = j.id"
        " where a.sequence is not null"
    )
    lines = [json.dumps({"order": key, "activity": name, "pid": 1}) for key, name in rows]
    (place / "executions").write_text("\n".join(lines) + "\n")
    return place


def test_the_demo_begins_in_an_empty_database_whatever_was_there(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _binaries.server_user().own(Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp")))
    monkeypatch.setenv("HOTMESH_HOME", str(home))
    try:
        with demo.postgres(None) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
            install.install(conn, "plain")
            conn.execute("drop function hotmesh.build()")
            conn.execute("alter table hotmesh.streams rename column token to badge")
        with demo.postgres(None) as dsn, demo.start_orders(dsn, demo.read_orders()) as look:
            assert demo.number(look, "select count(*) from jobs") == 400
        assert [place.name for place in home.iterdir() if place.name.startswith("pg")] == []
    finally:
        shutil.rmtree(home)


def test_the_demo_says_why_it_could_not_run(tmp_path: Path) -> None:
    done = run(ORDER / "demo.py", "--dsn", f"host={tmp_path}", dsn="")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot reach the database")
    assert "Traceback" not in done.stderr


def test_the_demo_s_worker_ends_with_the_demo(dsn: str, tmp_path: Path) -> None:
    """Also when the demo is killed: it is not asked then."""
    program = (
        "import os, pathlib, signal, sys\n"
        f"sys.path.insert(0, {str(ORDER)!r})\n"
        "import demo\n"
        f"with demo.worker({dsn!r}, pathlib.Path({str(tmp_path)!r})) as worker:\n"
        "    print(worker.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    try:
        wait_until(lambda: not _alive(pid), 20)
    finally:
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
