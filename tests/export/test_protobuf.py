"""OTLP values as bytes, against what the SDK's encoder and the protobuf runtime make of them."""

from __future__ import annotations

import enum
import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal import _encode_attributes, _encode_key_value, _encode_value
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from crucible_otel.export import protobuf
from crucible_otel.export.protobuf import any_value, attributes, delimited, key_value, signed, tag, text, varint
from tests.export.attributes import EVERY_TIME_THE_SAME

EDGES = sorted(
    {
        sign * (2**power + more)
        for power in (0, 7, 10, 14, 21, 28, 32, 35, 62)
        for more in (-1, 0, 1)
        for sign in (1, -1)
    }
)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([*EDGES, 2**63 - 1, -(2**63)])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | INT64 | st.floats() | TEXT | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(TEXT | st.integers(), inner)
)
ANYTHING = VALUES | st.text(st.characters()) | st.integers()  # halves of surrogate pairs, and ints of any size


class Word(str):
    __slots__ = ()


class Level(enum.IntEnum):
    HIGH = 300


class Ratio(float):
    pass


@EVERY_TIME_THE_SAME
@given(VALUES)
@example("")
@example(-0.0)
@example([None, "", 0, b"", [], {}])
def test_a_value_is_written_as_the_sdk_writes_it(value: Any) -> None:
    """Every kind of value, empty ones and nested ones too, to the byte."""
    assert _encode_value(value).SerializeToString() == any_value(value)


@pytest.mark.parametrize(
    "value",
    [Word("w"), Level.HIGH, Ratio(0.5), range(3), bytearray(b"ab"), memoryview(b"ab"), [True, 1, 1.0, "1"], math.nan],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_a_derived_type_is_written_as_its_base(value: Any) -> None:
    """What the SDK takes for a sequence, an int and so on is one here too."""
    assert _encode_value(value).SerializeToString() == any_value(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2**63, ValueError),
        (-(2**63) - 1, ValueError),
        (2**200, ValueError),
        ("\ud800", ValueError),
        (object(), TypeError),
        (1j, TypeError),
        ([1, object()], TypeError),
        ({"a": "\udfff"}, ValueError),
    ],
)
def test_a_value_that_otlp_does_not_have_is_refused(value: Any, error: type[Exception]) -> None:
    """The SDK refuses the same."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - of whatever type
        _encode_value(value)
    with pytest.raises(error):
        any_value(value)


@EVERY_TIME_THE_SAME
@given(st.dictionaries(TEXT, ANYTHING))
@example({"good": 1, "too large": 2**64, "half": "\ud800", "strange": object(), "good too": "x", "\ud800": 1})
def test_attributes_are_written_as_the_sdk_writes_them(given: dict[str, Any]) -> None:
    """To the byte; those that cannot be written are left out."""
    assert Resource(attributes=_encode_attributes(given)).SerializeToString() == attributes(1, given)


@EVERY_TIME_THE_SAME
@given(st.lists(st.tuples(TEXT, SCALARS)))
@example([("a", True), ("a", 1), ("a", 1.0), ("a", "1"), ("a", False), ("a", 0), ("a", 0.0), ("a", -0.0)])
def test_a_pair_is_the_same_when_it_comes_again(pairs: list[tuple[str, Any]]) -> None:
    """What is kept of one is never taken for another that equals it in Python: True, 1 and 1.0."""
    for _ in range(2):
        for key, value in pairs:
            expected = InstrumentationScope(attributes=[_encode_key_value(key, value)]).SerializeToString()
            assert expected == key_value(3, key, value)


def test_what_is_kept_of_pairs_is_bounded() -> None:
    """Many keys and many values leave no more behind than a few, and are still written right."""
    for number in range(2_500):
        given: dict[str, Any] = {
            f"k{number}": number,
            "t": f"t{number}",
            f"b{number}": True,
            f"f{number}": 0.5,
            "long": "x" * (number % 99),
        }
        assert Resource(attributes=_encode_attributes(given)).SerializeToString() == attributes(1, given)
    caches = (protobuf._texts, protobuf._flags, protobuf._double_heads, protobuf._int_heads)
    assert [True] * 4 == [0 < len(cache) <= protobuf._MOST_CACHED for cache in caches]
    assert protobuf._LONGEST_CACHED >= max(len(value) for _, value in protobuf._texts)


def test_nothing_is_written_of_no_attributes() -> None:
    """None and an empty mapping are the same."""
    assert (b"", b"") == (attributes(9, None), attributes(9, {}))


@EVERY_TIME_THE_SAME
@given(st.integers(0, 2**64 - 1) | st.sampled_from([number for number in EDGES if number >= 0]))
def test_a_varint_is_as_short_as_can_be(number: int) -> None:
    """Seven bits a byte, and no padding; it reads back."""
    written = varint(number)
    assert max(1, -(-number.bit_length() // 7)) == len(written)
    assert number == sum((byte & 0x7F) << 7 * place for place, byte in enumerate(written))
    assert [True] * (len(written) - 1) + [False] == [byte > 0x7F for byte in written]


@pytest.mark.parametrize(("number", "length"), [(0, 1), (127, 1), (128, 2), (2**63 - 1, 9), (-1, 10), (-(2**63), 10)])
def test_a_signed_number_is_in_twos_complement(number: int, length: int) -> None:
    """So a negative one takes ten bytes."""
    written = signed(number)
    assert length == len(written)
    assert number % 2**64 == sum((byte & 0x7F) << 7 * place for place, byte in enumerate(written))


def test_fields_are_written_with_their_number_and_length() -> None:
    """The first 15 numbers take one byte; text that is empty is left out, a message that is empty is not."""
    assert (b"\x0a", b"\x82\x01", b"\x39") == (tag(1), tag(16), tag(7, protobuf.FIXED64))
    assert (b"\x0a\x00", b"\x0a\x02ab") == (delimited(1, b""), delimited(1, b"ab"))
    assert KeyValue(key="ä").SerializeToString() == text(1, "ä")
    assert (b"", b"") == (text(1, ""), text(1, None))
    assert b"\x83\x02" == protobuf.length_of([b"x" * 200, b"y" * 59])
    assert struct.pack("<IQ", 256, 2**64 - 1) == protobuf.fixed32(256) + protobuf.fixed64(2**64 - 1)
