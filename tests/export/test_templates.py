"""Spans of hot events as bytes, against what the SDK's encoder makes of the SDK's own spans."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import SpanContext, SpanKind

from crucible_otel.export.hot_spans import limits_of
from crucible_otel.export.readable import readable
from crucible_otel.export.templates import span_body
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Shape
from tests.export.attributes import ATTRIBUTES, TEXT, TIMES
from tests.export.live_spans import ACTIONS, PARENTS, RESOURCE, SCOPE, STARTS, VALUES, Twice, in_order, message

TIGHT = SpanLimits(max_span_attributes=3, max_events=2, max_links=1, max_event_attributes=1, max_attribute_length=3)


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    """Keep the SDK from saying a thousand times what it cuts."""
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@given(PARENTS, STARTS, st.lists(ACTIONS, max_size=6), VALUES, st.sampled_from([None, TIGHT]))
def test_a_span_is_written_as_the_sdk_writes_its_own(
    parent: SpanContext | None, start: Any, actions: Any, values: Any, limits: SpanLimits | None
) -> None:
    """Field by field, whatever was said of it."""
    twice = Twice(limits, parent, start)
    for action in actions:
        twice.do(*action)
    record, theirs = twice.finish(values)
    ours = limits_of(limits if limits is not None else SpanLimits())
    assert message(theirs) == in_order(Span.FromString(span_body(record, ours)))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**128 - 1),
            st.integers(1, 2**64 - 1),
            st.just(0) | st.integers(1, 2**64 - 1),
            TIMES,
            TIMES,
            st.tuples(st.none() | st.floats(), st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | TEXT),
        ),
        max_size=5,
    ),
    TEXT,
    st.sampled_from(SpanKind),
    ATTRIBUTES,
    st.sampled_from([Limits(), Limits(attributes=2), Limits(length=2), Limits(attributes=None)]),
)
def test_spans_of_one_shape_are_written_as_the_sdk_would(
    spans: Any, name: str, kind: SpanKind, start: dict[str, Any], limits: Limits
) -> None:
    """With numbers of every size, texts, and values that some of them do not have."""
    bounded = dict(limits.bounded(start, None))
    shape = Shape(name, kind, bounded, ("double", "int", "text"))
    for trace_id, span_id, parent_id, begin, end, values in spans:
        record = (shape, trace_id, span_id, parent_id, 1, begin, end, values, None)
        expected = message(readable(record, RESOURCE, SCOPE, limits))
        assert expected == in_order(Span.FromString(span_body(record, limits)))


@pytest.mark.parametrize("values", [(), (1.5, 2.5), (1.5, None), (None, None), (1.5, 7), (True, 2**63 - 1)])
def test_values_keep_their_names(values: tuple[Any, ...]) -> None:
    """Also of different types from one span of a shape to the next."""
    shape = Shape("s", SpanKind.INTERNAL, {}, ("first", "second"))
    found = Span.FromString(span_body((shape, 1, 2, 0, 1, 3, 4, values, None), Limits()))
    kept = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in found.attributes}
    assert {name: value for name, value in zip(shape.fields, values, strict=False) if value is not None} == kept
