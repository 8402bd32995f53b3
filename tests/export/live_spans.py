"""The same said of a span of a hot event and of one of the SDK's own, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.span import TraceState

from crucible_otel.export.deciding import rules_of
from crucible_otel.export.hot_spans import limits_of
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.record import Record, Shape
from crucible_otel.semconv.names import RESULT
from crucible_otel.testing import FakeClock
from tests.export.attributes import ATTRIBUTES, TEXT

START, END = 1_700_000_000_000_000_000, 1_700_000_001_500_000_000
RESOURCE, SCOPE = Resource({"service.name": "train"}), InstrumentationScope("ours", "1")


class Odd:
    """A value that is of no type an attribute may have, and says so as text."""

    def __str__(self) -> str:
        return "odd"


def _raised() -> ValueError:
    try:
        raise ValueError("an ü that went wrong")
    except ValueError as error:
        return error


RAISED = _raised()
KEYS = st.sampled_from(["a", "b", "c", "crucible.call.library", RESULT, ""]) | TEXT
SOME = ATTRIBUTES | st.dictionaries(KEYS, st.sampled_from(["x", "longer than that", 1, 0.5, True, Odd()]), max_size=4)
AT = st.sampled_from([0, 1, START, 2**64 - 1])
CONTEXTS = st.builds(
    SpanContext,
    st.sampled_from([0, 1, 2**128 - 1]),
    st.sampled_from([0, 7, 2**64 - 1]),
    st.booleans(),
    st.sampled_from([TraceFlags(flags) for flags in (0, 1, 3)]),
    st.sampled_from([None, TraceState([("a", "1")])]),
)
STATUS = (
    st.builds(Status, st.sampled_from(StatusCode), st.none() | TEXT),
    st.sampled_from([None, "text", 7]) | TEXT,
)
ACTIONS = st.one_of(
    st.tuples(st.just("set_attribute"), KEYS, SOME.map(lambda some: next(iter(some.values()), None))),
    st.tuples(st.just("set_attributes"), SOME),
    st.tuples(st.just("add_event"), TEXT, st.none() | SOME, AT),
    st.tuples(st.just("add_link"), CONTEXTS | st.just(INVALID_SPAN_CONTEXT), st.none() | SOME),
    st.tuples(st.just("set_status"), STATUS[0]),
    st.tuples(st.just("set_status"), st.sampled_from(StatusCode), st.none() | TEXT),
    st.tuples(st.just("set_status"), STATUS[1]),
    st.tuples(st.just("update_name"), TEXT),
    st.tuples(st.just("record_exception"), st.just(RAISED), st.none() | SOME, AT),
    st.tuples(st.just("end"), AT),
)
"""``(method, argument, ...)``."""

PARENTS = st.none() | CONTEXTS.filter(lambda context: context.is_valid)
STARTS = st.sampled_from(
    [{}, {"crucible.call.library": "numpy"}, {"a": "a long text", "b": 1, "crucible.call.library": "ü"}]
)
VALUES = st.tuples(st.none() | st.floats(), st.none() | st.integers(-(2**63), 2**63 - 1)) | st.just(())
FIELDS = ("seconds", "crucible.call.io_bytes")


class Twice:
    """One span, as a hot event makes it and as a tracer does.

    Args:
        limits: What both may hold.
        parent: Its parent, if any.
        start: What it starts with.
    """

    def __init__(self, limits: SpanLimits | None, parent: SpanContext | None, start: Mapping[str, Any]) -> None:
        limits = limits if limits is not None else SpanLimits()
        context = trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent is not None else Context()
        self.buffer = SpanBuffer(clock=FakeClock(), sampling=rules_of(ALWAYS_ON), limits=limits_of(limits))
        shape = Shape("call f", SpanKind.CLIENT, start)
        self._stop = Shape("call f", SpanKind.CLIENT, {**start, RESULT: "success"}, FIELDS)
        ours = self.buffer.start(shape, context, START)
        assert isinstance(ours, LiveSpan)
        self.ours: LiveSpan = ours
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=RESOURCE,
            id_generator=_Ids(ours.trace_id, ours.span_id),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        self._ended = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._ended))
        tracer = provider.get_tracer(SCOPE.name, SCOPE.version)
        self.theirs: Span = tracer.start_span(
            shape.name, context=context, kind=shape.kind, attributes=start, start_time=START
        )

    def do(self, method: str, *arguments: Any) -> None:
        """Say it of both."""
        getattr(self.ours, method)(*arguments)
        with suppress(Exception):
            getattr(self.theirs, method)(*arguments)

    def finish(self, values: tuple[Any, ...] = ()) -> tuple[Record, ReadableSpan]:
        """End both as a call that went well, and return what came of them."""
        self.ours.finish(END, self._stop, values)
        self.theirs.set_attributes({RESULT: "success", **self._stop.values(values)})
        self.theirs.end(END)
        (record,), (span,) = self.buffer.fetch(), self._ended.get_finished_spans()
        return record, span


class _Ids(IdGenerator):
    def __init__(self, trace_id: int, span_id: int) -> None:
        self._trace_id, self._span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        return self._span_id

    def is_trace_id_random(self) -> bool:
        return True


def message(span: ReadableSpan) -> Any:
    """Return a span as the message that the SDK's encoder makes of it, its attributes in order."""
    return in_order(encode_spans([span]).resource_spans[0].scope_spans[0].spans[0])


def in_order(message: Any) -> Any:
    """Sort the attributes of a message, whose order means nothing."""
    pairs = sorted(message.attributes, key=lambda pair: (pair.key, pair.SerializeToString(deterministic=True)))
    del message.attributes[:]
    message.attributes.extend(pairs)
    return message
