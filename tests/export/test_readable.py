"""Spans of hot events as the SDK's exporters get them, against spans that the SDK made of the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from crucible_otel.export.hot_spans import limits_of
from crucible_otel.export.readable import readable
from crucible_otel.otel.record import Record
from tests.export.live_spans import ACTIONS, PARENTS, RESOURCE, SCOPE, STARTS, VALUES, Twice, message

TIGHT = SpanLimits(
    max_span_attributes=3,
    max_events=2,
    max_links=1,
    max_event_attributes=1,
    max_link_attributes=1,
    max_attribute_length=3,
    max_span_attribute_length=5,
)


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    """Keep the SDK from saying a thousand times what it cuts."""
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def ours(record: Record, limits: SpanLimits | None = None) -> ReadableSpan:
    """Return a record as a span of the SDK."""
    return readable(record, RESOURCE, SCOPE, limits_of(limits if limits is not None else SpanLimits()))


def parts(span: ReadableSpan) -> dict[str, Any]:
    """Return all that an exporter can read off a span."""
    return {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "kind": span.kind,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": {key: repr(value) for key, value in (span.attributes or {}).items()},
        "events": [(one.name, one.timestamp, repr(dict(one.attributes or {}))) for one in span.events],
        "event_drops": [one.dropped_attributes for one in span.events],
        "links": [(one.context, repr(dict(one.attributes or {})), one.dropped_attributes) for one in span.links],
        "status": (span.status.status_code, span.status.description),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "resource": span.resource,
        "scope": span.instrumentation_scope,
    }


@given(PARENTS, STARTS, st.lists(ACTIONS, max_size=8), VALUES, st.sampled_from([None, TIGHT]))
def test_a_span_is_what_the_sdk_makes_of_the_same(
    parent: SpanContext | None, start: Any, actions: Any, values: Any, limits: SpanLimits | None
) -> None:
    """Whatever is said of it, in whatever order, before its end and after, with and without limits that cut."""
    twice = Twice(limits, parent, start)
    for action in actions:
        twice.do(*action)
    record, theirs = twice.finish(values)
    for action in actions:
        getattr(twice.ours, action[0])(*action[1:])
    assert parts(theirs) == parts(ours(record, limits))
    assert [] == twice.buffer.fetch()


def test_its_parent_is_the_one_that_it_had() -> None:
    """With its flags and its trace state; the random flag is handed on."""
    state = TraceState([("vendor", "1")])
    for flags in (0, 1, 2, 3):
        for remote in (False, True):
            parent = SpanContext(5, 6, remote, TraceFlags(flags), state)
            record, theirs = Twice(None, parent, {}).finish()
            made = ours(record)
            assert (parent, theirs.context) == (made.parent, made.context)
            assert (flags | 1, state) == (made.context.trace_flags, made.context.trace_state)


@pytest.mark.parametrize(
    ("variable", "number"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "2"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "2"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
    ],
)
def test_the_sdks_limits_hold(monkeypatch: pytest.MonkeyPatch, variable: str, number: str) -> None:
    """Each cuts what it cuts of the SDK's own span, and is the reason for it."""

    def made() -> tuple[dict[str, Any], dict[str, Any]]:
        twice = Twice(None, None, {"first": "a long text", "second": ["a long text"]})
        for index in range(4):
            twice.do("set_attribute", f"further {index}", "another long text")
            twice.do("add_event", f"event {index}", {"a": "a long text", "b": 1}, index)
            twice.do("add_link", SpanContext(1, index + 1, False), {"a": "a long text", "b": 1})
        record, theirs = twice.finish((0.5, 7))
        assert message(theirs) == message(ours(record))
        return parts(theirs), parts(ours(record))

    free, _ = made()
    monkeypatch.setenv(variable, number)
    theirs, cut = made()
    assert theirs == cut
    assert any(free[name] != cut[name] for name in ("attributes", "events", "links"))


def test_the_newest_of_too_many_are_kept() -> None:
    """And what went is counted, in the span's own words."""
    limits = SpanLimits(max_span_attributes=2, max_events=2, max_links=2)
    twice = Twice(limits, None, {"a": 1, "b": 2})
    for index in range(5):
        twice.ours.add_event(str(index))
        twice.ours.add_link(SpanContext(1, index + 1, False))
    twice.ours.set_attribute("a", 3)
    twice.ours.set_attribute("c", 4)
    twice.ours.end()
    (record,) = twice.buffer.fetch()
    span = ours(record, limits)
    assert {"a": 3, "c": 4} == dict(span.attributes or {})
    assert ["3", "4"] == [event.name for event in span.events]
    assert [4, 5] == [link.context.span_id for link in span.links]
    assert (1, 3, 3) == (span.dropped_attributes, span.dropped_events, span.dropped_links)


@pytest.mark.parametrize("status", ["ERROR", None, 2, object()])
def test_what_is_no_status_changes_none(status: Any) -> None:
    """Nor does it spoil the span, or those that leave with it."""
    twice = Twice(None, None, {})
    twice.do("set_status", status)
    record, theirs = twice.finish()
    assert StatusCode.UNSET is theirs.status.status_code is ours(record).status.status_code
