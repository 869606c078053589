"""Typed values and sealed payloads on their whole way: client, workflow, activity, signal, result."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from hotmesh import MemFlow, SyncClient, workflow
from hotmesh.errors import (
    InvalidArgumentError,
    JobFailedError,
    MaxedError,
    PayloadCodecError,
    PayloadTooLargeError,
)
from support.apart import apart
from support.flows import APP, FAST, House, wait_for

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
ID = UUID("12345678-1234-5678-1234-567812345678")


@dataclass
class Line:
    sku: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    lines: list[Line]


@dataclass
class Receipt:
    order: UUID
    total: Decimal
    at: datetime


def charge(order: Order, at: datetime) -> Receipt:
    return Receipt(order.id, sum((line.price for line in order.lines), Decimal(0)), at)


async def sell(order: Order, at: datetime) -> Receipt:
    receipt = await workflow.execute_activity(charge, order, at, task_queue="acts")
    assert isinstance(receipt, Receipt), receipt
    return receipt


ORDER = Order(ID, [Line("a", Decimal("1.10")), Line("b", Decimal("2.20"))])
RECEIPT = Receipt(ID, Decimal("3.30"), NOON)


# --- types ----------------------------------------------------------------------------------------


async def test_values_keep_their_types_from_client_to_activity_and_back(house: House) -> None:
    await house.worker(sell)
    await house.activity_worker(charge)
    handle = await house.start(sell, ORDER, NOON, key="o")
    assert await handle.result(timeout=20) == RECEIPT
    by_name = house.client.workflow.get_handle(workflow_id="o")
    assert await by_name.result(timeout=20) == {
        "order": str(ID), "total": "3.30", "at": NOON.isoformat(),
    }  # fmt: skip
    assert await by_name.result(timeout=20, result_type=Receipt) == RECEIPT
    assert await by_name.result(result_type=dict[str, str]) == await by_name.result()
    assert house.one("select value -> 'total' from my_app.jobs_attributes where field = 'output'")


async def test_the_blocking_client_reads_results_the_same_way(house: House) -> None:
    await house.worker(sell)
    await house.activity_worker(charge)
    await house.run(sell, ORDER, NOON, key="o")
    client = SyncClient(house.dsn, APP)
    try:
        handle = client.workflow.get_handle("orders", sell, "o")
        assert handle.result() == RECEIPT
        assert handle.result(result_type=dict[str, Any])["total"] == "3.30"
    finally:
        client.close()


VALUES: list[Any] = [
    ORDER, [ORDER], NOON, Decimal("1.50"), (1, ORDER), {ID: NOON},
    {"z": Line("a", Decimal(1)), "b": None, "aa": 1},
]  # fmt: skip


async def test_an_activity_meets_the_same_values_inline_and_streamed(house: House) -> None:
    seen: dict[str, list[str]] = {}

    def give(job: str, index: int, value: Any, typed: Order) -> Any:
        seen[job] += [repr(value), repr(typed)]
        return VALUES[index]

    async def flow() -> None:
        me = workflow.context().workflow_id
        seen[me] = []
        for index, value in enumerate(VALUES):
            found = await workflow.execute_activity(
                give, me, index, value, ORDER, task_queue="acts"
            )
            seen[me].append(repr(found))

    await house.worker(flow)
    await house.activity_worker(give)
    await house.run(flow, key="inline")
    async with apart(house.dsn, give):
        await house.workers[1].shutdown()
        await house.run(flow, key="streamed")
    assert len(seen["inline"]) == 3 * len(VALUES)
    assert seen["inline"] == seen["streamed"]


async def test_a_proxy_of_functions_and_a_result_type_make_values_too(house: House) -> None:
    async def flow(order: Order) -> list[str]:
        acts = workflow.proxy_activities([charge], task_queue="acts")
        first = await acts.charge(order, NOON)
        second = await workflow.execute_activity(
            "charge", order, NOON, task_queue="acts", result_type=Receipt
        )
        third = await workflow.execute_activity("charge", order, at_text(), task_queue="acts")
        return [type(first).__name__, type(second).__name__, type(third).__name__]

    def at_text() -> str:
        return NOON.isoformat()

    await house.worker(flow)
    await house.activity_worker(charge)
    assert await house.run(flow, ORDER) == ["Receipt", "Receipt", "dict"]


async def test_the_data_of_a_signal_is_of_the_type_that_the_waiter_names(house: House) -> None:
    async def flow() -> list[str]:
        await workflow.signal("mine", Line("a", Decimal("1.1")))
        mine = await workflow.wait_for("mine", result_type=Line)
        theirs = await workflow.wait_for("theirs", "1 minute", result_type=list[datetime])
        return [repr(mine), repr(theirs == [NOON])]

    await house.worker(flow)
    handle = await house.start(flow)
    await handle.signal("theirs", [NOON])
    assert await handle.result(timeout=20) == ["Line(sku='a', price=Decimal('1.1'))", "True"]


async def test_an_argument_that_does_not_fit_fails_its_job_or_activity_and_is_named(
    house: House,
) -> None:
    tried = []

    def pay(line: Line) -> None:
        tried.append(line)

    async def flow(line: Line | None = None) -> Any:
        try:
            await workflow.execute_activity(pay, {"sku": 1}, task_queue="acts")
        except Exception as error:
            return [type(error).__name__, str(error)]

    await house.worker(flow)
    await house.activity_worker(pay)
    assert await house.run(flow) == [
        "FatalError",
        'argument 1 of activity "pay": line.sku must be a value of type str, not the number 1',
    ]
    assert tried == []
    with pytest.raises(JobFailedError) as caught:
        await house.run(flow, {"sku": "a"})
    assert str(caught.value) == (
        "argument 1 of workflow \"flow\" (line) must have the field 'price' of Line"
    )
    assert isinstance(caught.value.__cause__, InvalidArgumentError)


async def test_a_result_that_does_not_fit_its_hint_is_an_error_in_the_workflow(
    house: House,
) -> None:
    def lie() -> datetime:
        return "soon"  # type: ignore[return-value]

    async def flow() -> str:
        try:
            await workflow.execute_activity(lie, task_queue="acts")
        except InvalidArgumentError as error:
            return str(error)
        return "no error"

    await house.worker(flow)
    await house.activity_worker(lie)
    assert await house.run(flow) == (
        "the result of activity \"lie\" must be a date and time (ISO 8601), not the text 'soon'"
    )


# --- sealed ---------------------------------------------------------------------------------------


class Toy:
    """A cipher for tests: every byte is moved, so that nothing can be read."""

    def __init__(self, key: int = 77) -> None:
        self.key = key

    def encode(self, payload: bytes) -> bytes:
        return bytes([self.key]) + bytes(byte ^ self.key for byte in payload)

    def decode(self, stored: bytes) -> bytes:
        if stored[0] != self.key:
            raise ValueError(f"no key {stored[0]}")
        return bytes(byte ^ self.key for byte in stored[1:])


@pytest.fixture
def sealed() -> Iterator[None]:
    MemFlow.register_codec(Toy())
    yield
    MemFlow.register_codec(None)


SECRET = "swordfish"


async def keep(secret: str) -> list[str]:
    def told(secret: str) -> str:
        return secret.upper()

    loud = await workflow.execute_activity("loud", secret, task_queue="acts")
    try:
        await workflow.execute_activity("fails", secret, task_queue="acts", retry_policy=FAST)
    except MaxedError as error:
        failed = f"{error} {error.type} {type(error.__cause__).__name__}"
    signal = await workflow.wait_for("go")
    await workflow.signal("mine", {"secret": secret})
    mine = await workflow.wait_for("mine")
    return [loud, failed, signal, mine["secret"], told(secret)]


def loud(secret: str) -> str:
    return f"{secret}!"


def fails(secret: str) -> None:
    raise ValueError(f"not {secret}")


def everything(house: House) -> str:
    """All rows of the app as text."""
    tables = house.db.execute("select tablename from pg_tables where schemaname = 'my_app'")
    return "\n".join(
        str(row) for (table,) in tables.fetchall()
        for row in house.db.execute(f"select t::text from my_app.{table} t".encode())
    )  # fmt: skip


@pytest.mark.parametrize("inline", [True, False])
async def test_nothing_that_a_codec_sealed_can_be_read_in_the_tables(
    house: House, sealed: None, inline: bool
) -> None:
    await house.worker(keep)
    handle = await house.start(keep, SECRET, key="k")

    async def finish() -> list[str]:
        await wait_for(lambda: len(house.steps("k")) == 3)
        assert SECRET not in everything(house)
        await handle.signal("go", SECRET)
        found: list[str] = await handle.result(timeout=20)
        return found

    if inline:
        await house.activity_worker(loud, fails)
        found = await finish()
    else:
        async with apart(house.dsn, loud, fails):
            found = await finish()
    assert found == [
        f"{SECRET}!",
        f"not {SECRET} ValueError ValueError",
        SECRET,
        SECRET,
        "SWORDFISH",
    ]
    text = everything(house)
    assert SECRET not in text
    assert SECRET.upper() not in text
    assert base64.b64encode(SECRET.encode()).decode()[:8] not in text
    assert "$hotmesh.codec" in text
    assert "ValueError" in text  # retries go by it


async def test_without_a_codec_the_same_job_can_be_read(house: House) -> None:
    """The control."""
    await house.worker(keep)
    await house.start(keep, SECRET, key="k")
    await wait_for(lambda: len(house.steps("k")) > 0)
    assert SECRET in everything(house)


async def test_a_sealed_failure_of_a_job_can_be_read_by_who_has_the_codec(
    house: House, sealed: None
) -> None:
    async def flow() -> None:
        raise KeyError(SECRET)

    await house.worker(flow)
    handle = await house.start(flow)
    with pytest.raises(JobFailedError, match=SECRET) as caught:
        await handle.result(timeout=20)
    assert isinstance(caught.value.__cause__, KeyError)
    assert SECRET not in everything(house)
    MemFlow.register_codec(None)
    with pytest.raises(JobFailedError, match="sealed this error") as caught:
        await handle.result(timeout=20)
    assert caught.value.type == "KeyError"


async def test_exports_and_states_are_opened_where_there_is_a_codec(
    house: House, sealed: None
) -> None:
    async def flow(secret: str) -> str:
        await workflow.execute_activity(loud, secret, task_queue="acts")
        return secret

    async def breaks(secret: str) -> None:
        raise ValueError(secret)

    await house.worker(flow, breaks)
    await house.activity_worker(loud)
    done, failed = await house.start(flow, SECRET), await house.start(breaks, SECRET)
    await done.result(timeout=20)
    with pytest.raises(JobFailedError):
        await failed.result(timeout=20)
    opened = [await done.export(), await done.state(True), await failed.export(["state"])]
    assert opened[0]["state"]["input"] == [SECRET]
    assert opened[0]["timeline"][0]["value"] == f"{SECRET}!"
    assert opened[1]["data"]["response"] == SECRET
    assert opened[2]["state"]["error"]["message"] == SECRET
    MemFlow.register_codec(None)
    closed = [await done.export(), await done.state(True), await failed.export(["state"])]
    assert SECRET not in str(closed)


async def test_a_result_that_nobody_here_can_open_says_what_is_missing(
    house: House, sealed: None
) -> None:
    async def flow(value: str) -> str:
        return value

    await house.worker(flow)
    handle = await house.start(flow, SECRET)
    assert await handle.result(timeout=20) == SECRET
    MemFlow.register_codec(None)
    with pytest.raises(PayloadCodecError, match="this process has no codec") as missing:
        await handle.result(timeout=20)
    assert "register_codec" in (missing.value.hint or "")
    MemFlow.register_codec(Toy(5))
    with pytest.raises(PayloadCodecError, match="can't decode a payload: ValueError: no key 77"):
        await handle.result(timeout=20)


async def test_a_worker_without_the_codec_fails_no_job_and_says_so(
    house: House, sealed: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def flow(value: str) -> str:
        return value

    handle = await house.start(flow, SECRET)
    MemFlow.register_codec(None)
    await house.worker(flow)
    await wait_for(lambda: "this process has no codec" in caplog.text)
    assert await handle.status() > 0


async def test_what_was_stored_before_the_codec_and_what_sql_starts_stays_readable(
    house: House,
) -> None:
    async def flow(value: str) -> str:
        return value

    handle = await house.start(flow, "plain")
    MemFlow.register_codec(Toy())
    try:
        await house.worker(flow)
        assert await handle.result(timeout=20) == "plain"
    finally:
        MemFlow.register_codec(None)


class Broken:
    def encode(self, payload: bytes) -> Any:
        raise OSError("no key server")

    def decode(self, stored: bytes) -> bytes:
        return stored


class NoBytes(Broken):
    def encode(self, payload: bytes) -> Any:
        return "text"


class Large(Broken):
    def encode(self, payload: bytes) -> Any:
        return b"x" * 13_000_000


async def test_a_codec_that_does_not_work_is_named(house: House) -> None:
    for codec, said in [
        (Broken(), "OSError: no key server"),
        (NoBytes(), "a str of args, not bytes"),
    ]:
        MemFlow.register_codec(codec)
        try:
            with pytest.raises(PayloadCodecError, match=said):
                await house.start("flow", 1)
            MemFlow.register_codec(Large())
            with pytest.raises(PayloadTooLargeError, match="args, sealed, has 17,"):
                await house.start("flow", 1)
        finally:
            MemFlow.register_codec(None)
    with pytest.raises(InvalidArgumentError, match=r"an? Line without encode\(\)"):
        MemFlow.register_codec(Line("a", Decimal(1)))  # type: ignore[arg-type]


# --- children and hooks ---------------------------------------------------------------------------


async def discount(line: Line, percent: Decimal) -> Line:
    return Line(line.sku, line.price * (100 - percent) / 100)


async def reviews(line: Line, by: dict[str, str] | None = None) -> str:
    assert isinstance(line, Line)
    await workflow.signal((by or {})["signal"], line)
    return line.sku


async def family(line: Line) -> list[Any]:
    first = await workflow.exec_child(discount, args=[line, Decimal(10)])
    handle = await workflow.start_child(discount, args=[first, Decimal(50)])
    second = await handle.result()
    by_name = await workflow.exec_child("discount", args=[line, Decimal(0)])
    reviewed = await workflow.exec_hook(workflow_name="reviews", args=[second])
    return [type(first).__name__, str(second.price), type(by_name).__name__, reviewed["sku"]]


@pytest.mark.parametrize("codec", [None, Toy()], ids=["plain", "sealed"])
async def test_children_and_hooks_get_and_give_values_of_their_types(
    house: House, codec: Any
) -> None:
    MemFlow.register_codec(codec)
    try:
        await house.worker(family, discount, reviews)
        found = await house.run(family, Line(SECRET, Decimal(100)), key="k")
    finally:
        MemFlow.register_codec(None)
    assert found == ["Line", "45", "dict", SECRET]
    assert (SECRET in everything(house)) == (codec is None)
