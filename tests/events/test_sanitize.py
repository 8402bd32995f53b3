"""Plain data from any value: what each kind becomes, the bounds, and that nothing raises."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_otel.events.sanitize import Refusals, attribute, error_text, json_text, plain

ROOT = pathlib.Path(__file__).parents[2]


class Split(enum.Enum):
    TRAIN = 1
    TEST = "test"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Optimizer:
    name: str
    betas: tuple[float, float]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


class HostileMap(collections.UserDict[str, int]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("changed")

    def __len__(self) -> int:
        raise RuntimeError("no")


class OnDevice:
    """A tensor on an accelerator, as torch shows it; reading it is what must not happen."""

    shape: tuple[int, ...] = ()
    dtype = "torch.float32"
    is_cuda = True

    class device:
        type = "cuda"

        def __str__(self) -> str:
            return "cuda:0"

    device = device()  # type: ignore[assignment,misc]

    def item(self) -> float:
        raise AssertionError("the accelerator was synchronised")

    __float__ = item


class OnCpu:
    """A scalar tensor with a graph on the CPU, as torch shows it."""

    shape = ()
    dtype = "torch.float32"
    is_cuda = False
    device = SimpleNamespace(type="cpu")
    requires_grad = True

    def item(self) -> float:
        return 0.25


class OnJaxCpu(OnCpu):
    device = SimpleNamespace(platform="cpu")


UTC = datetime.timezone.utc


def names(cases: list[tuple[Any, ...]]) -> list[str]:
    """An id for each case, from its place and its type."""
    return [f"{number}-{type(case[0]).__name__}" for number, case in enumerate(cases)]


PLAIN: list[tuple[Any, ...]] = [
    (None, None), (True, True), (3, 3), (0.5, 0.5), ("é", "é"), ("", ""),
    (math.inf, math.inf),
    (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (2**63, "9223372036854775808"), (10**5000, "<int of 16610 bits>"),
    ("\ud800x", "\\ud800x"), (b"\x00\xff", "AP8="), (bytearray(b"ab"), "YWI="), (memoryview(b"ab"), "YWI="),
    (bytes(5000), "<5000 bytes>"),
    (Split.TRAIN, "TRAIN"), (Split.TEST, "test"), (Level.HIGH, 3),
    (Point(1, 2.0), {"x": 1, "y": 2.0}),
    (Optimizer("adam", (0.9, 0.99)), {"name": "adam", "betas": [0.9, 0.99]}), (Optimizer, f"{__name__}.Optimizer"),
    ((1, "a"), [1, "a"]), ({3, 1, 2}, [1, 2, 3]), (frozenset({"b", "a"}), ["a", "b"]),
    (collections.deque([1, 2]), [1, 2]), (range(3), [0, 1, 2]), ({"a": 1}.values(), [1]), ({"a": 1}.keys(), ["a"]),
    ({1: 2, None: 3, "": 4}, {"1": 2, "None": 3, "_": 4}),
    (pathlib.PurePosixPath("/a/b"), "/a/b"), (ValueError("bad"), "ValueError: bad"),
    (datetime.datetime(2024, 1, 15, 10, 30, tzinfo=UTC), "2024-01-15T10:30:00+00:00"),
    (datetime.date(2024, 1, 15), "2024-01-15"), (datetime.timedelta(minutes=1), 60.0),
    (decimal.Decimal("0.5"), 0.5), (fractions.Fraction(1, 4), 0.25), (1 + 2j, "(1+2j)"),
    (fractions.Fraction(10**400), "1" + "0" * 400),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.longdouble(0.5), 0.5), (np.int64(7), 7), (np.bool_(True), True),
    (np.uint64(2**64 - 1), "18446744073709551615"), (np.str_("s"), "s"), (np.bytes_(b"ab"), "YWI="),
    (np.array(1.5), 1.5), (np.array([2.5]), 2.5), (np.zeros((2, 3)), "ndarray(shape=(2, 3), dtype=float64)"),
    (np.datetime64("2024-01-15"), "2024-01-15"), (np.dtype("float32"), "float32"),
    (OnCpu(), 0.25), (OnJaxCpu(), 0.25), (OnDevice(), "OnDevice(shape=(), dtype=torch.float32, device=cuda:0)"),
    (Hostile(), "<Hostile>"), (HostileMap(), "<HostileMap>"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), PLAIN, ids=names(PLAIN))
def test_each_kind_of_value_has_a_plain_form(value: object, expected: object) -> None:
    """Numbers stay numbers, containers stay containers, everything else is text."""
    result = plain(value)
    assert (expected, type(expected)) == (result, type(result))


def test_nan_stays_a_float() -> None:
    """Only JSON has to do without it."""
    result = plain({"loss": np.float32("nan")})
    assert isinstance(result, dict)
    assert math.isnan(result["loss"])


def test_a_mock_of_a_tensor_is_text() -> None:
    """An object that pretends to have every attribute does no harm."""
    assert isinstance(plain(MagicMock()), str)


def test_a_structure_within_itself_ends() -> None:
    """Recursion is named, through lists and maps alike; the same list twice is no recursion."""
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert [1, {"again": "<recursive>"}] == plain(loop)
    twice = [1]
    assert [[1], [1]] == plain([twice, twice])


def test_depth_items_and_strings_are_bounded() -> None:
    """What is too deep, too many or too long is cut and counted."""
    refusals = Refusals()
    assert {"a": ["<list>"]} == plain({"a": [[1]]}, depth=2, refusals=refusals)
    assert [0, 1] == plain([0, 1, 2, 3], max_items=2, refusals=refusals)
    assert {"0": 0} == plain({0: 0, 1: 1}, max_items=1, refusals=refusals)
    assert "abc…" == plain("abcdefgh", max_string=4, refusals=refusals)
    assert Refusals(converted=2, dropped=3) == refusals


def test_a_wide_and_deep_structure_is_bounded_as_a_whole() -> None:
    """Bounds for each level alone would allow 128 to the fourth power of items."""
    wide: Any = "x" * 4_096
    for _ in range(4):
        wide = [wide] * 128
    assert len(json_text(plain(wide))) < 200_000


ATTRIBUTES: list[tuple[Any, ...]] = [
    (None, None, Refusals()),
    ("text", "text", Refusals()), (True, True, Refusals()), (3, 3, Refusals()), (0.5, 0.5, Refusals()),
    (np.float32(0.5), 0.5, Refusals()), (OnCpu(), 0.25, Refusals()),
    ([1, 2], [1, 2], Refusals()), (("a", "b"), ["a", "b"], Refusals()), ([], [], Refusals()),
    ([np.float32(0.5), np.float32(1)], [0.5, 1.0], Refusals()),
    (2**64, "18446744073709551616", Refusals(converted=1)),
    ("\ud800", "\\ud800", Refusals()),
    ("x" * 5000, "x" * 4095 + "…", Refusals(converted=1)),
    ([1, 2.0], "[1,2.0]", Refusals(converted=1)), ([1, True], "[1,true]", Refusals(converted=1)),
    ([None], "[null]", Refusals(converted=1)), ([[1], [2]], "[[1],[2]]", Refusals(converted=1)),
    (list(range(200)), list(range(128)), Refusals(converted=1)),
    ({"a": math.nan}, '{"a":"NaN"}', Refusals(converted=1)), ({2, 1}, [1, 2], Refusals(converted=1)),
    (b"ab", "YWI=", Refusals(converted=1)), (pathlib.PurePosixPath("/a"), "/a", Refusals(converted=1)),
    (np.zeros(3), "ndarray(shape=(3,), dtype=float64)", Refusals(converted=1)),
    (ValueError("bad"), "ValueError: bad", Refusals(converted=1)), (Hostile(), "<Hostile>", Refusals(converted=1)),
    (OnDevice(), None, Refusals(dropped=1)),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected", "refusals"), ATTRIBUTES, ids=names(ATTRIBUTES))
def test_each_kind_of_value_has_an_attribute_form(value: object, expected: object, refusals: Refusals) -> None:
    """What OpenTelemetry holds passes; the rest is converted or dropped, and counted once."""
    counts = Refusals()
    result = attribute(value, refusals=counts)
    assert (expected, type(expected), refusals) == (result, type(result), counts)


def test_a_nan_attribute_stays_a_float() -> None:
    """OpenTelemetry has it, so it is kept."""
    result = attribute(math.nan)
    assert isinstance(result, float)
    assert math.isnan(result)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("x" * 1_000), "RuntimeError: " + "x" * 300),
        (OSError("\udcff"), "OSError: \\udcff"),
    ],
)
def test_an_error_is_its_type_and_the_beginning_of_its_message(error: BaseException, expected: str) -> None:
    """Three hundred characters of the message are kept."""
    assert expected == error_text(error)


def test_an_error_whose_message_raises_is_still_named() -> None:
    """The type can always be told."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Silent: (its message cannot be shown)" == error_text(Silent())


def refuse(constant: str) -> None:
    """Stand in for NaN and the infinities."""
    raise AssertionError(f"{constant} is not JSON")


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(),
        st.complex_numbers(), st.datetimes(), st.decimals(), st.builds(object), st.just(OnDevice()),
    ),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)  # fmt: skip


@given(anything)
def test_anything_becomes_strict_json(value: object) -> None:
    """No value raises, and each becomes one line of strict JSON in valid UTF-8."""
    text = json_text(value)
    assert "\n" not in text
    json.loads(text.encode(), parse_constant=refuse)
    json.loads(json_text(plain(value)), parse_constant=refuse)


@given(anything)
def test_anything_becomes_an_attribute_or_nothing(value: object) -> None:
    """The result is a scalar, a homogeneous list, or nothing."""
    result = attribute(value)
    kinds = {type(item) for item in result} if isinstance(result, list) else {type(result)}
    assert kinds <= {str, int, float, bool, type(None)}
    assert len(kinds) <= 1


def test_it_loads_neither_numpy_nor_torch() -> None:
    """Arrays are recognised by their shape, not by their library."""
    code = "import sys, crucible_otel.events.sanitize; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]\n" == result.stdout
