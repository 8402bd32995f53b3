"""Columns of spans as bytes, against what the SDK's encoder makes of the same spans one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.trace import SpanKind

from crucible_otel.export.columns import span_bytes, span_fields
from crucible_otel.export.protobuf import varint
from crucible_otel.export.readable import readable
from crucible_otel.export.templates import encoded_of, span_body
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Columns, Shape, packed
from tests.export.attributes import ATTRIBUTES, EVERY_TIME_THE_SAME, TEXT, TIMES
from tests.export.live_spans import RESOURCE, SCOPE, START, in_order, message

_FEW_SIZES = st.integers(0, 3).flatmap(lambda size: st.integers(0, 2 ** (7 * size + 3)))
_ALL_SIZES = st.integers(0, 63).flatmap(lambda bits: st.integers(-(2**bits), 2**bits - 1))
_DURATIONS = st.integers(0, 2**40)
_ODD = st.none() | st.booleans() | TEXT | st.floats() | _ALL_SIZES


def columns(shape: Shape, values: Sequence[Sequence[Any] | None], size: int, *, parent_id: int = 7) -> Columns:
    """Return columns of spans."""
    ids = random.Random(size).randbytes(8 * size)
    starts = [START + 1_000 * number for number in range(size)]
    ends = [start + 17 * number for number, start in enumerate(starts)]
    return Columns(shape, 2**127 + 5, parent_id, 1, ids, starts, ends, tuple(values))


def one_by_one(spans: Columns, limits: Limits) -> bytes:
    """Write the spans with the templates of single ones."""
    bodies = [span_body(record, limits) for record in spans.records()]
    return b"".join([b"\x12" + varint(len(body)) + body for body in bodies])


def read(fields: bytes | bytearray) -> list[Any]:
    """Return the spans as messages, by id."""
    spans = ScopeSpans.FromString(bytes(fields)).spans
    return sorted(map(in_order, spans), key=lambda span: (span.span_id, span.start_time_unix_nano))


@st.composite
def _columns(draw: st.DrawFn) -> tuple[Columns, Limits]:
    size = draw(st.integers(1, 40))
    limits = draw(
        st.sampled_from([Limits(), Limits(), Limits(attributes=None), Limits(attributes=2), Limits(length=2)])
    )
    fields, values = list[str](), list[Any]()
    for name in draw(st.lists(TEXT.map("field {}".format), unique=True, max_size=4)):
        kinds = st.sampled_from([_FEW_SIZES, _ALL_SIZES, st.floats(), _DURATIONS, _ODD, st.none()])
        column = draw(st.lists(draw(kinds), min_size=size, max_size=size))
        if draw(st.booleans()):
            types = set(map(type, column))
            column = packed("d", column) if types == {float} else packed("Q", column) if types == {int} else column
        fields.append(name)
        values.append(None if set(column) == {None} and draw(st.booleans()) else column)
    start = dict(limits.bounded(draw(ATTRIBUTES), None))
    shape = Shape(draw(TEXT), draw(st.sampled_from(SpanKind)), start, fields)
    found = columns(shape, values, size, parent_id=draw(st.sampled_from([0, 1, 2**64 - 1])))
    times = st.lists(TIMES | st.integers(0, 2**64 - 1), min_size=size, max_size=size)
    times |= times.map(lambda found: packed("Q", found))
    return (
        Columns(
            shape, draw(st.integers(0, 2**128 - 1)), found.parent_id, draw(st.sampled_from([0, 1, 3])), found.span_ids,
            draw(times), draw(times), found.values,
        ),
        limits,
    )  # fmt: skip


@EVERY_TIME_THE_SAME
@given(_columns())
def test_columns_are_written_as_the_sdk_writes_their_spans(found: tuple[Columns, Limits]) -> None:
    """Field by field: numbers of every size, what some spans do not have, texts, and what exceeds the limits."""
    spans, limits = found
    expected = [message(readable(record, RESOURCE, SCOPE, limits)) for record in spans.records()]
    expected.sort(key=lambda span: (span.span_id, span.start_time_unix_nano))
    assert expected == read(span_fields(spans, limits))


@pytest.mark.parametrize("size", [1, 8, 11, 12, 13, 255, 256, 512])
@pytest.mark.parametrize("parent_id", [0, 5])
def test_the_bytes_are_those_of_the_spans_one_by_one(size: int, parent_id: int) -> None:
    """In the same order, where numbers are of the same length."""
    shape = Shape("call f", SpanKind.CLIENT, {"a": "b"}, ("packed", "double", "int", "none"))
    numbers = range(size)
    seconds, sevenths = packed("d", [each * 1e-9 for each in numbers]), [each / 7 for each in numbers]
    values = [seconds, sevenths, [20_000 + each for each in numbers], None]
    spans = columns(shape, values, size, parent_id=parent_id)
    assert one_by_one(spans, Limits()) == bytes(span_fields(spans, Limits()))


@pytest.mark.parametrize("bits", range(1, 64))
def test_a_whole_number_takes_as_few_bytes_as_it_can(bits: int) -> None:
    """The smallest and the largest of each number of bits."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("number",))
    spans = columns(shape, [[2 ** (bits - 1), 2**bits - 1] * 10], 20)
    assert one_by_one(spans, Limits()) == bytes(span_fields(spans, Limits()))


def test_numbers_of_several_lengths_are_told_apart() -> None:
    """Of two fields at once; every span keeps its own."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("first", "second"))
    numbers = [10**digits for digits in range(12)]
    first = [number for number in numbers for _ in numbers] * 3
    spans = columns(shape, [first, numbers * 12 * 3], 432)
    assert read(one_by_one(spans, Limits())) == read(span_fields(spans, Limits()))
    assert [*range(432)] == sorted(
        (span.start_time_unix_nano - START) // 1_000 for span in read(span_fields(spans, Limits()))
    )


@pytest.mark.parametrize("odd", [[0], [63], [0, 63], [62, 63], [0, 1, 5, 30, 31, 32, 61, 63]])
@pytest.mark.parametrize("parent_id", [0, 5])
def test_a_few_spans_with_numbers_of_another_length_are_written_whole(odd: list[int], parent_id: int) -> None:
    """The first and the last among them; of another field of such numbers, and of one between the two."""
    shape = Shape("s", SpanKind.INTERNAL, {"a": "b"}, ("first", "none", "double", "second", "last"))
    first, second = [300] * 64, [20_000] * 64
    for number, index in enumerate(odd):
        first[index], second[-1 - index] = 10**number, 10 ** (2 * number)
    spans = columns(shape, [first, None, [index / 7 for index in range(64)], second, [5] * 64], 64, parent_id=parent_id)
    assert read(one_by_one(spans, Limits())) == read(span_fields(spans, Limits()))


@pytest.mark.parametrize(
    "values", [[None, 1], [True, False], ["a", "b"], [1, 1.5], [-1, 1], [2**56, 2**60], [type("Int", (int,), {})(7), 1]]
)
def test_values_that_are_no_column_of_numbers_are_written_all_the_same(values: list[Any]) -> None:
    """Those that some do not have, truths, texts, a mixture, negative and very large ones, and subclasses."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("value",))
    spans = columns(shape, [values * 10], 20)
    assert one_by_one(spans, Limits()) == bytes(span_fields(spans, Limits()))


@pytest.mark.parametrize("values", [[2**64] * 20, [1] * 19 + ["\ud800"]])
def test_what_cannot_be_written_is_said(values: list[Any]) -> None:
    """So that each span is tried by itself."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("value",))
    spans = Columns(shape, 2**128, 0, 1, bytes(160), [1] * 20, [2] * 20, (values,))
    with pytest.raises(OverflowError):
        span_fields(spans, Limits())


@pytest.mark.parametrize("odd", [2**63, 2**64 - 1])
def test_a_number_that_no_attribute_can_hold_is_said(odd: int) -> None:
    """One of 64 bits, among others."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("value",))
    with pytest.raises(ValueError, match="out of range"):
        span_fields(columns(shape, [packed("Q", [1] * 19 + [odd])], 20), Limits())


def test_what_is_prepared_for_a_shape_is_bounded() -> None:
    """Whatever the lengths of its numbers are."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("a", "b", "c"))
    for first in range(8):
        for second in range(8):
            for third in range(3):
                values = [[1 << 7 * bits] * 12 for bits in (first, second, third)]
                span_fields(columns(shape, values, 12), Limits())
    assert 0 < len(encoded_of(shape, Limits()).templates) <= 64


def test_the_size_of_a_span_is_known_before_it_is_written() -> None:
    """About."""
    shape = Shape("call f", SpanKind.CLIENT, {"a": "b" * 100}, ("seconds", "int"))
    spans = columns(shape, [[7e-9] * 64, [300] * 64], 64)
    written = len(span_fields(spans, Limits())) / 64
    assert written <= span_bytes(shape, Limits()) < written + 20
