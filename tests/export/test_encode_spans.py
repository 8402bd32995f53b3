"""Spans as bytes, against what the SDK's encoder makes of the same spans."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from crucible_otel.export.encode_spans import span_body, span_encoder
from tests.export.attributes import ATTRIBUTES, EVERY_TIME_THE_SAME, TEXT, TIMES

RESOURCES = [
    Resource({}),
    Resource({"service.name": "train", "n": 1}, "https://opentelemetry.io/schemas/1.30.0"),
    Resource({"service.name": "train", "n": True}),
    Resource({"service.name": "ünï", "list": ["a", "b"], "big": 2**62}),
]
SCOPES = [
    None,
    InstrumentationScope("a"),
    InstrumentationScope("a", "1.0", "https://example.org/schema", {"x": (1, 2)}),
    InstrumentationScope("", ""),
]
RESOURCE = st.sampled_from(RESOURCES) | st.sampled_from(RESOURCES).map(
    lambda one: Resource(one.attributes, one.schema_url)
)
STATES = st.sampled_from(
    [None, TraceState(), TraceState([("a", "1")]), TraceState([("b", "x y"), ("a", "1"), ("c@d", "")])]
)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(flags) for flags in (0, 1, 3)]),
    STATES,
)
BOUNDED = st.builds(
    BoundedAttributes, st.sampled_from([None, 2]), ATTRIBUTES, st.booleans(), st.sampled_from([None, 3])
)
MAPPINGS = st.none() | ATTRIBUTES | BOUNDED
EVENTS = st.builds(Event, TEXT, MAPPINGS, TIMES)
LINKS = st.builds(Link, CONTEXTS, MAPPINGS)
STATUS = st.builds(Status, st.just(StatusCode.ERROR), st.none() | TEXT) | st.sampled_from(
    [Status(StatusCode.UNSET), Status(StatusCode.OK), None]
)


def bounded(items: list[Any]) -> Any:
    """Return items as the SDK keeps them: the newest two, with the number of the others."""
    kept = BoundedList[Any](2)
    for item in items:
        kept.append(item)
    return kept


SPANS = st.builds(
    ReadableSpan,
    TEXT,
    CONTEXTS,
    st.none() | CONTEXTS,
    RESOURCE,
    MAPPINGS,
    st.lists(EVENTS, max_size=2) | st.lists(EVENTS, min_size=3, max_size=3).map(bounded),
    st.lists(LINKS, max_size=2) | st.lists(LINKS, min_size=3, max_size=3).map(bounded),
    st.sampled_from(SpanKind),
    st.none(),
    STATUS,
    st.none() | TIMES,
    st.none() | TIMES,
    st.sampled_from(SCOPES),
)


def span(name: str = "s", **given: Any) -> ReadableSpan:
    """Make a span with nothing but what is given."""
    made: dict[str, Any] = {
        "context": SpanContext(1, 2, False),
        "resource": RESOURCES[0],
        "instrumentation_scope": SCOPES[1],
        "start_time": 1,
        "end_time": 2,
    }
    return ReadableSpan(name, **{**made, **given})


def names(data: bytes) -> list[str]:
    """Return the names of the spans in a request."""
    message = ExportTraceServiceRequest.FromString(data)
    return [one.name for resource in message.resource_spans for scope in resource.scope_spans for one in scope.spans]


@EVERY_TIME_THE_SAME
@given(st.lists(SPANS, max_size=3))
def test_spans_are_written_as_the_sdk_writes_them(spans: list[ReadableSpan]) -> None:
    """Byte for byte: ids, parents, states, flags, events, links, status, counts, resources, scopes."""
    encoder = span_encoder()
    expected = encode_spans(spans)
    for _ in range(2):  # the second time with what the first has left behind
        data, written, lost, _ = encoder.encode(spans)
        assert (len(spans), 0) == (written, lost)
        assert expected.SerializeToString() == data
    assert names(expected.SerializeToString()) == names(data)


@EVERY_TIME_THE_SAME
@given(SPANS)
def test_no_span_needs_the_sdks_encoder(one: ReadableSpan) -> None:
    """What ours writes of a span is its own work."""
    expected = encode_spans([one]).resource_spans[0].scope_spans[0].spans[0]
    assert expected.SerializeToString() == span_body(one)


def test_spans_that_a_tracer_made_are_written_as_the_sdk_writes_them() -> None:
    """Real ones, whose limits cut attributes, events and links, with an exception and a remote parent."""
    kept = InMemorySpanExporter()
    limits = SpanLimits(
        max_span_attributes=3, max_events=2, max_links=2, max_attribute_length=8, max_event_attributes=1
    )
    provider = TracerProvider(resource=RESOURCES[1], span_limits=limits, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    links = [Link(SpanContext(7, number, bool(number % 2)), {"i": number}) for number in range(1, 5)]
    tracers = [provider.get_tracer("a", "1"), provider.get_tracer("b")]
    for tracer, kind in itertools.product(tracers, SpanKind):
        with suppress(KeyError), tracer.start_as_current_span("outer", kind=kind, links=links) as outer:
            outer.set_attributes({"a": "x" * 20, "b": [1.5, 2.5], "c": True, "d": -1, "e": b"\xff"})
            with tracer.start_as_current_span("inner") as inner:
                inner.set_status(StatusCode.OK)
                for number in range(4):
                    inner.add_event("e", {"n": number, "m": 0})
            raise KeyError("ä\ud800")
    spans = list(kept.get_finished_spans())
    assert 20 == len(spans)
    assert encode_spans(spans).SerializeToString() == span_encoder().encode(spans).data


def test_a_span_that_cannot_be_written_is_lost_and_the_others_go() -> None:
    """The SDK's encoder would lose the whole batch."""
    bad = [span("\ud800"), span(start_time=-1), span(kind=None), span(context=None), span(end_time=2**64)]
    data, written, lost, _ = span_encoder().encode([span("first"), *bad, span("last")])
    assert (["first", "last"], 2, len(bad)) == (names(data), written, lost)


def test_a_request_without_spans_is_empty() -> None:
    """Nothing given, or nothing that can be written."""
    assert (b"", 0, 0) == span_encoder().encode([])[:3]
    assert (b"", 0, 1) == span_encoder().encode([span("\ud800")])[:3]


class Unusual(ReadableSpan):
    """A span whose status the SDK's encoder understands, and ours does not."""

    seen = 0

    @property
    def status(self) -> Any:
        Unusual.seen += 1
        return None if Unusual.seen > 1 else 0


def test_a_span_that_only_the_sdk_can_write_is_written_by_it() -> None:
    """Whatever ours stumbles over."""
    Unusual.seen = 0
    one = Unusual("unusual", SpanContext(1, 2, False), resource=RESOURCES[0])
    data, written, lost, _ = span_encoder().encode([span("usual"), one])
    assert (["usual", "unusual"], 2, 0) == (names(data), written, lost)
    assert 2 == Unusual.seen


class Buffered:
    """A span of another class, which writes itself."""

    resource, instrumentation_scope = RESOURCES[0], SCOPES[1]

    def __init__(self, name: str, error: bool = False) -> None:
        self.name, self.error = name, error

    def otlp_body(self) -> bytes:
        if self.error:
            raise ValueError
        return span_body(span(self.name))

    def readable(self) -> ReadableSpan:
        return span(f"{self.name} as the SDK's")


def test_a_span_of_another_class_writes_itself() -> None:
    """Between those of the SDK, in its resource and scope; where it fails, what it gives for the SDK is written."""
    items = [span("a"), Buffered("b"), Buffered("c", error=True), span("d"), Buffered("\ud800")]
    data, written, lost, _ = span_encoder().encode(items)
    message = ExportTraceServiceRequest.FromString(data)
    assert (4, 1) == (written, lost)
    assert ["a", "b", "c as the SDK's", "d"] == names(data)
    assert [1] == [len(resource.scope_spans) for resource in message.resource_spans]


def test_a_large_request_is_one_message() -> None:
    """Lengths of more than one byte at every level, more than a MiB in all."""
    spans = [span("x" * 400, attributes={"a": "y" * 200, "n": number}) for number in range(3_000)]
    data = span_encoder().encode(spans).data
    assert len(data) > 2**20
    assert encode_spans(spans).SerializeToString() == data


def test_requests_of_one_encoder_have_nothing_of_each_other() -> None:
    """A small one after a large one and the other way round, with groups that grow in turns."""
    encoder = span_encoder()
    spans = [
        span("x" * (number % 5_000), resource=RESOURCES[number // 300 % 3], instrumentation_scope=SCOPES[number % 2])
        for number in range(1_500)
    ]
    for some in (spans[:3], spans, spans[1_499:], spans[500:], []):
        request = encode_spans(some).SerializeToString()
        assert request == encoder.encode(some).data


def test_many_resources_and_scopes_are_kept_apart() -> None:
    """More than an encoder keeps the bytes of, interleaved, equal ones as different objects."""
    encoder = span_encoder()
    spans = [
        span(
            str(number),
            resource=Resource({"n": number % 100}),
            instrumentation_scope=InstrumentationScope(f"s{number % 7}"),
        )
        for number in range(400)
    ]
    for _ in range(2):
        assert encode_spans(spans).SerializeToString() == encoder.encode(spans).data
    assert len(encoder._kept) <= 64


def test_a_request_stays_as_it_is_until_it_is_let_go_of() -> None:
    """Whatever is written meanwhile; then the next one is written in the same memory."""
    encoder = span_encoder()
    requests = [[span("x" * (number << 18))] for number in range(5)]
    written = [encoder.encode(spans) for spans in requests]
    assert [encode_spans(spans).SerializeToString() for spans in requests] == [each.data for each in written]
    memory = {id(cast("memoryview", each.data).obj) for each in written}
    for each in written:
        each.let_go()
    again = [encoder.encode(spans) for spans in requests]
    assert [encode_spans(spans).SerializeToString() for spans in requests] == [each.data for each in again]
    assert len(memory & {id(cast("memoryview", each.data).obj) for each in again}) >= 2


@pytest.mark.parametrize("size", [1_000, 16_000, 17_000, 1 << 20])
def test_a_resource_may_be_of_any_size(size: int) -> None:
    """It stands before the spans, and before that, how long they are."""
    encoder = span_encoder()
    spans = [span("a", resource=Resource({"n": "x" * size})), span("b", resource=Resource({"n": "x" * size}))]
    for some in (spans[:1], spans, spans[:1]):
        written = encoder.encode(some)
        assert encode_spans(some).SerializeToString() == written.data
        written.let_go()


def test_large_spans_do_not_leave_their_memory_behind() -> None:
    """Each larger than those before it, none of which has room for it."""
    encoder = span_encoder()
    for mebibytes in (1, 5, 11):
        encoder.encode([span("x" * (mebibytes << 20))]).let_go()
        memory = cast("memoryview", encoder.encode([span("small")]).data).obj
        assert len(memory) < 6 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_writes_its_own_resource() -> None:
    """A resource that was put right in the child is not written as the parent's."""
    resource = Resource({"process.pid": 1})
    encoder = span_encoder()
    encoder.encode([span(resource=resource)])
    child = os.fork()
    if child == 0:
        resource._attributes = BoundedAttributes(attributes={"process.pid": 2})
        same = (
            encode_spans([span(resource=resource)]).SerializeToString()
            == encoder.encode([span(resource=resource)]).data
        )
        os._exit(0 if same else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
