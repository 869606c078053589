"""What type hints make of JSON: what comes back is what was sent, and a misfit is named."""

# ruff: noqa: UP007, UP045
from __future__ import annotations

import dataclasses
import enum
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NewType, Optional, TypedDict, Union
from uuid import UUID

import pytest

from hotmesh import _payload, _types
from hotmesh.errors import InvalidArgumentError

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=timezone.utc)
ID = UUID("12345678-1234-5678-1234-567812345678")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Corner(enum.Enum):
    ORIGIN = (0, 0)


class Point(NamedTuple):
    x: int
    at: datetime


class Row(TypedDict, total=False):
    id: UUID
    name: str


@dataclass
class Line:
    sku: str
    price: Decimal
    count: int = 1
    tags: frozenset[str] = frozenset()


@dataclass
class Box:
    raw: bytes
    names: set[str]
    frozen: frozenset[int]
    many: list[bytes]
    by_key: dict[str, set[UUID]]


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    placed: datetime
    note: str | None = None
    weight: float = 0.0
    by_color: dict[Color, Line] = field(default_factory=dict)
    size: int = field(init=False, default=0)


@dataclass
class Refund:
    order: str
    reason: str


@dataclass
class Payment:
    order: str


@dataclass
class Tree:
    value: int
    below: list[Tree] = field(default_factory=list)


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


class Model:
    """What makes a class a pydantic model here, without pydantic."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.at == self.at

    __hash__ = None  # type: ignore[assignment]

    def model_dump(self, mode: str) -> dict[str, str]:
        assert mode == "json"
        return {"at": self.at.isoformat()}

    @classmethod
    def model_validate_json(cls, text: str) -> Model:
        return cls(datetime.fromisoformat(json.loads(text)["at"]))


Sku = NewType("Sku", UUID)
LINE = Line("a", Decimal("1.10"), 2, frozenset({"x", "y"}))
ORDER = Order(ID, [LINE], NOON, None, 1.0, {Color.RED: LINE})

SAME: list[tuple[Any, Any]] = [
    (LINE, Line),
    (Box(b"\x00\xff", {"b", "a"}, frozenset({1}), [b"x"], {"k": {ID}}), Box),
    (ORDER, Order),
    ([ORDER, ORDER], list[Order]),
    ((ORDER,), tuple[Order, ...]),
    ({"a": ORDER}, dict[str, Order]),
    ({"a": [ORDER]}, Mapping[str, Sequence[Order]]),
    ({ID: 1}, dict[UUID, int]),
    ({1: "a", 2: "b"}, dict[int, str]),
    ({Color.RED: 1}, dict[Color, int]),
    ({Level.LOW: 1}, dict[Level, int]),
    (Tree(1, [Tree(2), Tree(3, [Tree(4)])]), Tree),
    (NOON, datetime),
    (NOON.date(), date),
    (NOON.time(), time),
    (timedelta(days=3, microseconds=7), timedelta),
    (ID, UUID),
    (ID, Sku),
    (Decimal("1.10"), Decimal),
    (Decimal("12345678901234567890.123456789"), Decimal),
    (Color.BLUE, Color),
    (Level.LOW, Level),
    (Corner.ORIGIN, Corner),
    ((1, "a"), tuple[int, str]),
    ((), tuple[()]),
    ((1, 2), tuple),
    (Point(1, NOON), Point),
    ({"id": ID, "name": "a"}, Row),
    ({"name": "a"}, Row),
    (None, Optional[Order]),
    (ORDER, Optional[Order]),
    (ORDER, Union[Order, None]),
    (ID, "UUID | str"),
    ("no id", "UUID | str"),
    (5, "UUID | int"),
    (Refund("o", "late"), "Payment | Refund"),
    (Payment("o"), "Refund | Payment"),
    (Model(NOON), Model),
    ([Model(NOON), None], "list[Model | None]"),
    (PurePosixPath("/a/b"), PurePosixPath),
    (Path("a"), Path),
    ({"a": [NOON]}, dict[str, list[datetime]]),
    (Even(2), Even),
]


def back(value: Any, hint: Any) -> Any:
    """The value after JSON, read by the hint."""
    reader = _types.reader_of(hint)
    assert reader is not None
    return _payload.read(reader, json.loads(_payload.written(value, "x")), "x")


def resolved(hint: Any) -> Any:
    return eval(hint) if isinstance(hint, str) else hint


@pytest.mark.parametrize(("value", "hint"), SAME, ids=[str(hint) for _, hint in SAME])
def test_what_was_sent_comes_back_with_its_type(value: Any, hint: Any) -> None:
    found = back(value, resolved(hint))
    assert found == value
    assert type(found) is type(value)


def test_a_dataclass_keeps_the_digits_of_its_decimals_and_the_types_of_its_fields() -> None:
    found = back(ORDER, Order)
    assert str(found.lines[0].price) == "1.10"
    assert type(found.weight) is float
    assert found.by_color == {Color.RED: LINE}


NOTHING_TO_DO = [
    str, int, float, bool, dict, list, Any, object, None, type(None), list[int],
    dict[str, Any], dict[str, list[int | None]], "str | None", typing.Callable[[], int],
    typing.TypeVar("T"), typing.Literal["a", "b"], Sequence[str], "unknown", type, Exception,
]  # fmt: skip


@pytest.mark.parametrize("hint", NOTHING_TO_DO, ids=str)
def test_a_hint_that_only_names_json_costs_nothing(hint: Any) -> None:
    assert _types.reader_of(eval(hint) if hint == "str | None" else hint) is None


MISFITS: list[tuple[Any, Any, str]] = [
    ("x", UUID, "x must be a UUID, not the text 'x'"),
    (None, UUID, "x must be a UUID, not null"),
    (7, datetime, "x must be a date and time (ISO 8601), not the number 7"),
    ({}, list[UUID], "x must be an array, not an object"),
    ([str(ID), 5], list[UUID], "x: it[1] must be a UUID, not the number 5"),
    (
        {**json.loads(_payload.written(ORDER, "o")), "lines": [{"sku": "a"}]},
        Order,
        "x: it.lines[0] must have the field 'price' of Line",
    ),
    (
        {**json.loads(_payload.written(ORDER, "o")), "lines": [{"sku": 1, "price": "1"}]},
        Order,
        "x: it.lines[0].sku must be a value of type str, not the number 1",
    ),
    ("green", Color, "x must be one of the Color values 'red', 'blue', not the text 'green'"),
    ([1], tuple[int, UUID], "x must be an array of 2, not one of 1"),
    (True, timedelta, "x must be a duration in seconds, not the boolean True"),
    ("!", bytes, "x must be bytes as base64, not the text '!'"),
    ([], Line, "x must be an object for Line, not an array"),
    ({"number": 3}, Even, "x is no Even: 3 is odd"),
    (1.5, Union[UUID, Line], "x must be UUID or Line, not the number 1.5"),
    ({"x": 1}, dict[int, int], "x must be a key of type int, not the text 'x'"),
]


@pytest.mark.parametrize(("value", "hint", "said"), MISFITS, ids=range(len(MISFITS)))
def test_a_value_that_its_hint_refuses_is_named_with_its_place(
    value: Any, hint: Any, said: str
) -> None:
    reader = _types.reader_of(hint)
    assert reader is not None
    with pytest.raises(InvalidArgumentError) as caught:
        _payload.read(reader, value, "x")
    assert str(caught.value) == said


def test_what_a_newer_sender_adds_to_a_dataclass_is_left_out() -> None:
    reader = _types.reader_of(Payment)
    assert reader is not None
    assert reader({"order": "o", "method": "card"}) == Payment("o")


def test_a_set_is_written_in_one_order_in_every_process() -> None:
    line = Line("a", Decimal(1), 1, frozenset({"b", "a", "c"}))
    assert _payload.written(line, "x").endswith('"tags":["a","b","c"]}')
    line = Line("a", Decimal(1), 1, frozenset({Color.RED, Color.BLUE}))  # type: ignore[arg-type]
    assert _payload.written(line, "x").endswith('"tags":["blue","red"]}')


UNCARRIED = [
    (object(), "args[0]"),
    ({"price": Decimal("nan")}, "args[0].price"),
    (Line("a", Decimal("1"), tags=frozenset({"\ud800"})), "args[0].tags[0]"),
    ([NOON, ["a\x00"]], "args[0][1][0]"),
    ({NOON: object()}, "args[0].2026-11-21"),
    (Tree, "args[0]"),
    (1j, "args[0]"),
    ({1, 2}, "args[0]"),
    ({"raw": b"x"}, "args[0].raw"),
]


@pytest.mark.parametrize(("value", "place"), UNCARRIED, ids=range(len(UNCARRIED)))
def test_what_no_json_stands_for_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _payload.written([value], "args")
    assert str(caught.value).startswith(place)


def test_a_dataclass_that_holds_itself_is_refused() -> None:
    tree = Tree(1)
    tree.below.append(tree)
    with pytest.raises(InvalidArgumentError, match=r"contains itself|nested too deeply"):
        _payload.written(tree, "x")


# --- functions ------------------------------------------------------------------------------------


def takes(
    order: Order,
    at: datetime = None,  # type: ignore[assignment]  # noqa: RUF013
    *more: UUID,
) -> Line:
    raise NotImplementedError


class Shop:
    async def sell(self, line: Line, count: int) -> Order:
        raise NotImplementedError

    def __call__(self, line: Line) -> None:
        """Callable itself."""


def test_arguments_are_read_by_position_and_what_was_not_given_stays_out() -> None:
    args = json.loads(_payload.written([ORDER, NOON, ID, ID], "x"))
    assert _payload.arguments(takes, args, "f") == [ORDER, NOON, ID, ID]
    assert _payload.arguments(takes, args[:1], "f") == [ORDER]
    assert _payload.arguments(takes, [args[0], None], "f") == [ORDER, None]


def test_a_method_and_a_callable_object_have_hints_too() -> None:
    args = json.loads(_payload.written([LINE, 2], "x"))
    assert _payload.arguments(Shop().sell, args, "f") == [LINE, 2]
    assert _payload.arguments(Shop(), args[:1], "f") == [LINE]


def test_an_argument_that_does_not_fit_is_named_by_number_and_name() -> None:
    order = json.loads(_payload.written(ORDER, "x"))
    with pytest.raises(InvalidArgumentError) as caught:
        _payload.arguments(takes, [{**order, "id": "?"}], 'activity "takes"')
    assert str(caught.value) == (
        "argument 1 of activity \"takes\": order.id must be a UUID, not the text '?'"
    )


def test_a_hint_that_nobody_can_resolve_costs_no_other() -> None:
    def flow(a: Nowhere, line: Line) -> Nothing:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    assert _payload.arguments(flow, [{"sku": "a"}, {"sku": "a", "price": "1"}], "f") == [
        {"sku": "a"}, Line("a", Decimal(1)),
    ]  # fmt: skip


def test_a_class_of_the_function_around_is_found_where_the_function_uses_it() -> None:
    @dataclass
    class Local:
        at: date

    def flow(value: Local) -> Local:
        return Local(value.at)

    assert _payload.arguments(flow, [{"at": "2026-01-02"}], "f") == [Local(date(2026, 1, 2))]


def test_a_function_of_plain_hints_gets_the_very_list_that_came() -> None:
    def flow(a: str, b: list[int], c: dict[str, Any] | None = None) -> None:
        """Takes JSON."""

    args: list[Any] = ["a", [1], {}]
    assert _payload.arguments(flow, args, "f") is args


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` is a statement since 3.12")
def test_a_type_alias_stands_for_what_it_names() -> None:
    names: dict[str, Any] = {"UUID": UUID}
    exec("type Ids = list[UUID]", names)
    assert back([ID], names["Ids"]) == [ID]


# --- pydantic, where it is installed --------------------------------------------------------------


def test_pydantic_models_pass_as_they_are() -> None:
    pydantic = pytest.importorskip("pydantic")

    item = pydantic.create_model("item", price=(Decimal, ...), at=(datetime, ...))
    basket = pydantic.create_model(
        "basket", items=(list[item], ...), raw=(set[int], ...), __config__={"strict": True}
    )
    value = basket(items=[item(price=Decimal("1.10"), at=NOON)], raw={1, 2})
    assert back(value, basket) == value
    assert back([value], list[basket]) == [value]
    with pytest.raises(InvalidArgumentError, match=r"x is no basket: .*\n?items"):
        _payload.read(_types.reader_of(basket), {"items": 5, "raw": []}, "x")  # type: ignore[arg-type]


def test_a_pydantic_dataclass_is_a_dataclass() -> None:
    pydantic_dataclasses = pytest.importorskip("pydantic.dataclasses")
    kind = pydantic_dataclasses.dataclass(dataclasses.make_dataclass("kind", [("at", datetime)]))
    assert back(kind(at=NOON), kind) == kind(at=NOON)
