"""JavaScript as the second opinion on @pipe: random values for its functions, random pipes, node.

HOTMESH_PIPE_CALLS is how many calls are made of each function, HOTMESH_PIPE_SEED where they begin.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

CALLS = int(os.environ.get("HOTMESH_PIPE_CALLS", "60"))
SEED = int(os.environ.get("HOTMESH_PIPE_SEED", "1"))
NODE = shutil.which("node")
UNDEFINED = {"$undefined": True}
Call = tuple[str, list[Any]]

# What a function is called with, one letter for a value (see VALUES); `*` repeats the last one.
SIGNATURES = {
    "array": "get:ai length:a concat:av* indexOf:aei join:as lastIndexOf:aei pop:a push:av* reverse:a"
    " shift:a slice:aii sort:ho splice:aiie unshift:av*",
    "bitwise": "and:nn or:nn xor:nn leftShift:nn rightShift:nn unsignedRightShift:nn",
    "conditional": "ternary:vvv equality:ee strict_equality:ee inequality:ee strict_inequality:ee"
    " greater_than:ee less_than:ee greater_than_or_equal:ee less_than_or_equal:ee nullish:vv"
    " eq:ee ne:ee neq:ee gt:ee lt:ee gte:ee lte:ee",
    "date": "fromISOString:d parse:d UTC:yiiiiii getDate:d getDay:d getFullYear:d getHours:d"
    " getMilliseconds:d getMinutes:d getMonth:d getSeconds:d getTime:d getTimezoneOffset:d"
    " getUTCDate:d getUTCDay:d getUTCFullYear:d getUTCHours:d getUTCMilliseconds:d"
    " getUTCMinutes:d getUTCMonth:d getUTCSeconds:d setDate:di setFullYear:dyii setHours:diiii"
    " setMilliseconds:di setMinutes:diii setMonth:dii setSeconds:dii setTime:dm setUTCDate:di"
    " setUTCFullYear:dyii setUTCHours:diiii setUTCMilliseconds:di setUTCMinutes:diii"
    " setUTCMonth:dii setUTCSeconds:dii toDateString:d toISOString:d toISOXString:d toJSON:d"
    " toString:d toLocaleString:d toLocaleDateString:d toLocaleTimeString:d valueOf:d yyyymmdd:d",
    "json": "stringify:vrg parse:j",
    "logical": "and:vv or:vv",
    "math": "add:l* subtract:l* multiply:l* divide:l* abs:n acos:u acosh:n asin:u asinh:n atan:n"
    " atan2:nn atanh:u cbrt:n ceil:n clz32:n cos:n cosh:n exp:n expm1:n floor:n fround:n hypot:n*"
    " imul:nn log:n log10:n log1p:n log2:n max:n* min:n* pow:nn round:n sign:n sin:n sinh:n sqrt:n"
    " tan:n tanh:n trunc:n",
    "number": "isFinite:n isEven:n isOdd:n isInteger:n isNaN:n parseFloat:q parseInt:qi toFixed:Nf"
    " toExponential:Nf toPrecision:Nf gte:ee lte:ee gt:ee lt:ee max:n* min:n* pow:nn round:n",
    "object": "get:ck set:Okv create:kv* keys:c values:c entries:c fromEntries:E assign:Oo*"
    " getOwnPropertyNames:c getOwnPropertySymbols:c getOwnPropertyDescriptor:ck"
    " defineProperty:OkD freeze:c isFrozen:c seal:c isSealed:c preventExtensions:c isExtensible:c"
    " hasOwnProperty:ck isPrototypeOf:cc propertyIsEnumerable:ck defineProperties:OP",
    "string": "split:spi charAt:si concat:sv* includes:spi indexOf:spi lastIndexOf:spi slice:sii"
    " toLowerCase:s toUpperCase:s trim:w trimStart:w trimEnd:w padStart:sip padEnd:sip replace:spt"
    " search:sx substring:sii startsWith:spi endsWith:spi repeat:si",
    "symbol": "null: undefined: whitespace: object: array: posInfinity: negInfinity: NaN:",
    "unary": "not:v positive:v negative:v bitwise_not:n",
}  # fmt: skip

# Their last digits are those of the server's C library; so many are beyond doubt.
ABOUT = {
    f"math.{name}": 1e-13
    for name in [
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "exp"),
        *("expm1", "hypot", "log", "log10", "log1p", "log2", "pow", "sin", "sinh", "tan", "tanh"),
    ]
} | {"number.pow": 1e-13}

# The standard leaves digits after the 20th to the engine, and V8 rounds on the way.
ABOUT["number.parseInt"] = 1e-15


class Values:
    """Random values of a kind; each method is a letter of SIGNATURES."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def call(self, kinds: str) -> list[Any]:
        if kinds.endswith("*"):
            kinds = kinds[:-2] + kinds[-2] * self.random.randint(0, 4)
        args = [getattr(self, kind)() for kind in kinds]
        if self.random.random() < 0.1 and len(args) > 1:
            del args[self.random.randint(1, len(args)) :]
        if self.random.random() < 0.08 and args:
            place = self.random.randrange(len(args))
            args[place] = self.pick([None, UNDEFINED, {}]) if kinds[place] == "d" else self.v()
        return args

    def float(self) -> Any:
        return self.pick([
            lambda: self.random.randint(-10, 10),
            lambda: self.random.randint(-1000, 1000) / self.pick([2, 4, 8, 10, 100, 1000]),
            lambda: self.random.uniform(-1, 1) * 10 ** self.random.randint(-8, 25),
            lambda: self.random.gauss(0, 5),
            lambda: self.pick([1, -1]) * 2 ** self.random.randint(-60, 70),
            lambda: self.pick([1, -1]) * self.random.random() * 10.0 ** self.random.randint(-320, 308),
            lambda: self.pick([5e-324, 1.7976931348623157e308, 2**31, 2**32, 2**53, 2**53 - 1, 0.5, 1e21,
                               1e-6, 1e-7, 1.005, 0.1, 4294967295, -2147483649, 12345678901234568e4, 709.8]),
            lambda: self.pick([0, 1, {"$number": "-0"}, {"$number": "NaN"}, {"$number": "Infinity"},
                               {"$number": "-Infinity"}]),
        ])()  # fmt: skip

    N = float

    def n(self) -> Any:
        return self.e() if self.random.random() < 0.15 else self.float()

    def u(self) -> Any:
        return self.random.uniform(-1, 1) if self.random.random() < 0.6 else self.n()

    def l(self) -> Any:  # noqa: E743
        return (
            [self.random.gauss(0, 50) for _ in range(3)] if self.random.random() < 0.2 else self.n()
        )

    def i(self) -> Any:
        if self.random.random() < 0.9:
            return self.random.randint(-6, 12)
        return self.pick([1.5, -0.5, 100, -100, "2", "x", None, True, UNDEFINED])

    def f(self) -> Any:
        return self.random.randint(0, 25) if self.random.random() < 0.9 else self.i()

    def y(self) -> Any:
        return self.pick(
            [self.random.randint(1900, 2100), self.random.randint(-300000, 300000), 99, 0]
        )

    def s(self) -> str:
        letters = self.pick(["ab", "abc AB", "aäÄßéÉñЯяΩω ", "a.*b$1'\"\\\n\t", "日本語a", "0123"])
        return "".join(self.pick(letters) for _ in range(self.random.randint(0, 8)))

    def p(self) -> str:
        return self.s()[: self.pick([0, 1, 1, 1, 2, 2, 3])]

    def t(self) -> str:
        return "".join(self.pick(["$&", "$$", "$`", "$'", "$", "x", "y1"]) for _ in range(3))

    def w(self) -> str:
        edge = [self.pick(" \t\n\v\f\r\u00a0\ufeff\u3000\u2028x\u200b") for _ in range(6)]
        return "".join([*edge[:3], self.s(), *edge[3:]])

    def x(self) -> str:
        return "".join(self.pick(["a", "b", "[ab]", "b+", "a*", ".", "$", r"\s", r"\d+", r"\bA", "(b|c)"])
                       for _ in range(self.random.randint(0, 3)))  # fmt: skip

    def q(self) -> Any:
        return self.pick([
            lambda: self.pick(["", " ", "-", "+"]) + str(self.random.randint(0, 10**6))
            + self.pick(["", "px", ".5e3x", "e", "."]),
            lambda: self.pick(["0x1F", "-0xff", "0b11", "077", ".5", "-.5e-3", "1e400", "Infinityx",
                               "-Infinity", "zz", "1_0"]),
            self.float, self.s, self.v,
        ])()  # fmt: skip

    def e(self) -> Any:
        """What is compared and converted."""
        return self.pick([
            self.float, self.s, self.v,
            lambda: self.random.randint(0, 3),
            lambda: self.pick([None, True, False, UNDEFINED, "", "0", "1", " 1 ", "1.0", "null", "0x10",
                               "1e3", "-0"]),
            lambda: self.pick(["a", "b", "A", "B", "10", "9", [1], ["1"], [], [[2]], {}, [1, 2], "1,2"]),
        ])()  # fmt: skip

    def v(self, depth: int = 2) -> Any:
        kind = self.random.randint(0, 9 if depth else 6)
        if kind > 7:
            return [self.json(depth - 1) for _ in range(self.random.randint(0, 4))]
        if kind == 7:
            return {self.k(): self.json(depth - 1) for _ in range(self.random.randint(0, 4))}
        return self.pick(
            [self.s, self.float, lambda: self.pick([None, True, False, UNDEFINED, "", 0])]
        )()

    def json(self, depth: int) -> Any:
        found = self.v(depth)
        return None if isinstance(found, dict) and any(key[:1] == "$" for key in found) else found

    def a(self) -> list[Any]:
        return [self.json(1) if self.random.random() < 0.3 else self.random.randint(0, 3)
                for _ in range(self.random.randint(0, 6))]  # fmt: skip

    def h(self) -> list[Any]:
        items = [self.json(0) for _ in range(self.random.randint(0, 8))]
        return [
            item
            for item in items
            if isinstance(item, (int, float, str)) and item not in (True, False)
        ]

    def o(self) -> Any:
        return self.pick(
            [
                {self.k(): self.json(1) for _ in range(3)},
                "ASCENDING",
                "DESCENDING",
                {"b": 1, "a": 2},
            ]
        )

    def O(self) -> Any:  # noqa: E743, N802
        return {self.k(): self.json(1) for _ in range(self.random.randint(0, 4))}

    def c(self) -> Any:
        return self.pick([self.O, self.a, self.v])()

    def k(self) -> Any:
        return self.pick(["a", "b", "aa", "length", "0", "1", "10", "2", "é", "a b", "x.y", ""])

    def D(self) -> Any:  # noqa: N802
        names = ["value", "enumerable", "writable"]
        return {name: self.json(1) for name in names if self.random.random() < 0.7}

    def P(self) -> Any:  # noqa: N802
        return {self.k(): self.D() for _ in range(2)}

    def E(self) -> Any:  # noqa: N802
        return [[self.k(), self.json(1)] for _ in range(self.random.randint(0, 4))]

    def r(self) -> Any:
        return self.pick([None, None, ["a", "b", 1], ["0", "length", "a", "a"], UNDEFINED, {}])

    def g(self) -> Any:
        return self.pick([None, 0, 2, 12, 1.5, -1, "--", "\t", "much more than ten", UNDEFINED])

    def j(self) -> Any:
        text = json.dumps(self.json(2))
        return text[:-1] if self.random.random() < 0.1 else text

    def m(self) -> Any:
        return self.pick(
            [
                self.random.randint(-(10**12), 2 * 10**12),
                self.random.randint(-9 * 10**15, 9 * 10**15),
            ]
        )

    def d(self) -> Any:
        R = self.random.randint  # noqa: N806
        day = f"{R(0, 9999):04}-{R(1, 12):02}-{R(1, 31):02}"
        time = f"{R(0, 24):02}:{R(0, 60):02}:{R(0, 59):02}"
        zone = self.pick(["", "Z", "+02:00", "-11:30"])
        return self.pick([
            self.m, self.m, lambda: day, lambda: f"{day}T{time}{zone}",
            lambda: f"{day}T{time}.{R(0, 99999)}{zone}",
            lambda: f"{day}T{time[:5]}{zone}", lambda: day[:7], lambda: day[:4], lambda: f"1{day[1:]} {time}",
            lambda: self.pick(["+012024-01-01", "-000001-06-15T00:00:00Z", "2024-13-01", "2024-00-01",
                               "2024-02-32", "2024-02-30", "", "x", "Tue, 05 Mar 2024 10:11:12 GMT",
                               "Tue Mar 05 2024 10:11:12 GMT+0100 (Central European Standard Time)",
                               "Tue Mar 05 2024", "January 31, 2024", "31 January 2024 10:00", "2024/1/31",
                               "1/31/2024",
                               "1/31/2024, 12:05:09 AM", "2024/02/03 10:11", "Mar 5, 2024 11:59 PM", None,
                               UNDEFINED]),
        ])()  # fmt: skip


def calls(domain: str, count: int) -> list[Call]:
    made = []
    for signature in SIGNATURES[domain].split():
        name, kinds = signature.split(":")
        values = Values(f"{SEED} {domain}.{name}")
        made += [(f"{domain}.{name}", values.call(kinds)) for _ in range(count if kinds else 1)]
    return [call for call in made if not is_known(*call)]


def is_known(name: str, args: list[Any]) -> bool:
    """Where we differ, and why.

    Undefined is today for toISOXString and yyyymmdd. The length of an array is not set.
    A part of a date that is undefined stays as it is; JavaScript tells it from one that is not given.
    V8 breaks lines when the space of JSON.stringify is a number below 1, against the standard.
    A first place that is undefined is none for splice.
    """
    if name.startswith("date.set") or name == "date.UTC":
        return UNDEFINED in args[2:]
    if name in ("date.toISOXString", "date.yyyymmdd"):
        return UNDEFINED in args
    if name == "array.splice":
        return UNDEFINED in args[1:2]
    if name.startswith(("object.set", "object.assign", "object.define")):
        return isinstance(args[0], list) and any(
            arg == "length" or (isinstance(arg, dict) and "length" in arg) for arg in args[1:]
        )
    if name == "json.stringify":
        return any(isinstance(arg, float) and 0 < arg < 1 for arg in args[2:])
    return False


def of_node(made: list[Any]) -> list[Any]:
    """What node answers to calls, [function, arguments], and to pipes, {"pipe", "data"}."""
    script = Path(__file__).with_name("pipe.js")
    assert NODE
    done = subprocess.run(
        [NODE, str(script)], input=json.dumps(made), capture_output=True, text=True, check=True,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "en_US.UTF-8"},
    )  # fmt: skip
    found: list[Any] = json.loads(done.stdout)
    return found


def same(expected: Any, found: Any, about: float) -> bool:
    """Equal as values; numbers as double precision, `about` apart."""
    if isinstance(expected, dict) and "$throws" in expected:
        return isinstance(found, dict) and "$throws" in found
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        return float(expected) == float(found) or math.isclose(
            expected, found, rel_tol=about, abs_tol=about * 1e-290
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(
            same(a, b, about) for a, b in zip(expected, found, strict=False)
        )
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            same(expected[key], found[key], about) for key in expected
        )
    return bool(type(expected) is type(found) and expected == found)


# What a whole pipe is made of: functions of which neither the last digits nor a clock are told, and
# that have no documented difference that a chain could run into.
CHAINED = [
    (f"{domain}.{name}", kinds)
    for domain, signatures in SIGNATURES.items()
    for name, kinds in (signature.split(":") for signature in signatures.split())
    if f"{domain}.{name}" not in ABOUT
    and domain != "date"
    and name not in ("search", "set", "assign", "splice", "stringify", "parse", "repeat")
    and not name.startswith(("pad", "define"))
]


class Pipes(Values):
    """Random pipes that end within reason, with the data that their references mean."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.data: dict[str, Any] = {}

    def make(self) -> dict[str, Any]:
        self.data = {}
        pipe = self.rows(self.random.randint(1, 4), 2)
        return {"pipe": pipe, "data": self.data}

    def cell(self, kind: str, depth: int, local: list[str]) -> Any:
        """A literal, a reference, a nested pipe, a variable."""
        value = getattr(self, kind)()
        how = self.random.random()
        if local and how < 0.3:
            return self.pick(local)
        if depth and how < 0.4:
            return {"@pipe": self.rows(1, depth - 1, local)}
        if value == UNDEFINED or how > 0.6:
            name = f"v{len(self.data)}"
            if value != UNDEFINED:
                self.data[name] = plain(value)
            return f"{{t.output.data.{name}}}"
        return plain(value)

    def cells(self, kinds: str, depth: int, local: list[str]) -> list[Any]:
        if kinds.endswith("*"):
            kinds = kinds[:-2] + kinds[-2] * self.random.randint(len(kinds) == 2, 3)
        return [self.cell(kind, depth, local) for kind in kinds]

    def rows(self, length: int, depth: int, local: list[str] | None = None) -> list[Any]:
        local = local or []
        name, kinds = self.pick(CHAINED)
        rows: list[Any] = [self.cells(kinds or "v", depth, local)]
        for _ in range(length):
            following, kinds = self.pick(CHAINED)
            how = self.random.random()
            if depth and how < 0.15:
                rows += [{"@pipe": self.rows(1, depth - 1, local)}
                         for _ in range(self.random.randint(1, 3))]  # fmt: skip
            elif depth and how < 0.25:
                # a function at the head takes the row before
                rows.append({"@pipe": [[f"{{@{name}}}"], *self.rows(0, 0, local)[1:]]})
            elif depth and how < 0.35:
                rows += [{"@pipe": [[self.cell(self.pick("aOc"), 0, local)]]},
                         {"@pipe": [[self.cell("v", 0, local)]]},
                         {"@reduce": self.body(depth - 1)}]  # fmt: skip
            rows.append(
                [
                    f"{{@{name}}}",
                    *self.cells(kinds if kinds[1:] == "*" else kinds[1:], depth, local),
                ]
            )
            name = following
        return rows

    def body(self, depth: int) -> list[Any]:
        local = [
            "{$item}",
            "{$output}",
            "{$index}",
            "{$key}",
            "{$input}",
            "{$item.a}",
            "{$input.0}",
        ]
        rows = self.rows(self.random.randint(0, 2), depth, local)
        if self.random.random() < 0.3:
            rows.insert(0, [f"{{@{self.pick(CHAINED)[0]}}}", "{$item}"])
            rows[1][0] = "{$item}"
        return rows


def plain(value: Any) -> Any:
    """The value without what JSON can't say."""
    return 0 if isinstance(value, dict) and any(key[:1] == "$" for key in value) else value


def pipes(count: int) -> list[dict[str, Any]]:
    values = Pipes(f"{SEED} pipes")
    return [values.make() for _ in range(count)]
