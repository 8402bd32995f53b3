"""Which spans of hot events are kept: what the SDK's tracer decides with the same sampler, parent and trace id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import TraceState

from crucible_otel.export.deciding import rules_of
from crucible_otel.export.readable import readable
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.record import Shape
from crucible_otel.testing import FakeClock
from tests.export.live_spans import RESOURCE, SCOPE

START_WITH = {"library": "numpy", "n": 1}
CALL = Shape("call numpy.sum", SpanKind.CLIENT, START_WITH)
LOW, HIGH = 2**127 + 1, 2**127 + 2**64 - 1
"""Trace ids that every sampler by ratio keeps, and that none does but the one that keeps all."""

STATE = TraceState([("vendor", "1")])


class Own(Sampler):
    """Decides by the trace id, and says more than whether."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        decision = Decision.RECORD_AND_SAMPLE if trace_id % 4 == 1 else Decision.RECORD_ONLY
        said = {**attributes, "n": 2, "sampler": f"{name} {kind} {sorted(attributes)} {links}"}
        return SamplingResult(decision, said, TraceState([("own", "2")]))

    def get_description(self) -> str:
        return "Own"


class Forgetful(Own):
    """Keeps everything, and returns nothing of what it was given."""

    def should_sample(self, *given: Any, **further: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE)


class NoOdd(TraceIdRatioBased):
    """A built-in one that decides in its own way."""

    def should_sample(self, parent_context: Context | None, trace_id: int, *given: Any, **further: Any) -> Any:
        return (ALWAYS_OFF if trace_id % 4 == 3 else ALWAYS_ON).should_sample(parent_context, trace_id, *given)


class Named(ParentBased):
    """A built-in one under another name."""


def patched() -> Sampler:
    """Return a built-in one of which just this one decides otherwise."""
    made = TraceIdRatioBased(1.0)
    made.should_sample = ALWAYS_OFF.should_sample  # type: ignore[method-assign]
    return made


SAMPLERS: Mapping[str, Sampler] = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "record_only": StaticSampler(Decision.RECORD_ONLY),
    **{f"traceidratio_{rate}": TraceIdRatioBased(rate) for rate in (0.0, 0.3, 1.0)},
    "parentbased_always_on": ParentBased(ALWAYS_ON),
    "parentbased_always_off": ParentBased(ALWAYS_OFF),
    **{f"parentbased_traceidratio_{rate}": ParentBasedTraceIdRatio(rate) for rate in (0.0, 0.3, 1.0)},
    "odd_delegates": ParentBased(
        ALWAYS_OFF,
        remote_parent_sampled=TraceIdRatioBased(0.3),
        remote_parent_not_sampled=ALWAYS_ON,
        local_parent_sampled=ALWAYS_OFF,
        local_parent_not_sampled=TraceIdRatioBased(0.3),
    ),
    "own_delegates": ParentBased(Own(), remote_parent_sampled=Own(), local_parent_sampled=Own()),
    "nested": ParentBased(ParentBased(TraceIdRatioBased(0.3))),
    "own": Own(),
    "forgetful": Forgetful(),
    "derived": NoOdd(1.0),
    "derived_unchanged": Named(TraceIdRatioBased(0.3)),
    "patched": patched(),
    **(
        {
            "always_record": sampling.AlwaysRecordSampler(TraceIdRatioBased(0.3)),
            "parentbased_always_record": ParentBased(sampling.AlwaysRecordSampler(ALWAYS_OFF)),
        }
        if hasattr(sampling, "AlwaysRecordSampler")
        else {}
    ),
}
PARENTS: Mapping[str, SpanContext | None] = {
    "none": None,
    **{
        f"{'remote' if remote else 'local'}_{flags:02b}_{'state' if state else 'plain'}_{name}": SpanContext(
            trace_id, 77, remote, TraceFlags(flags), state
        )
        for remote in (False, True)
        for flags in range(4)
        for state in (None, STATE)
        for name, trace_id in (("low", LOW), ("high", HIGH))
    },
}


class Decided(NamedTuple):
    """What was decided of a span.

    Attributes:
        recording: Whether it is recorded.
        sampled: Whether it leaves.
        state: Its trace state.
        flags: Its flags.
        attributes: Those that it has at its end.
        parent: Its parent, as it leaves.
    """

    recording: bool
    sampled: bool
    state: Any
    flags: int
    attributes: Mapping[str, Any]
    parent: Any

    @classmethod
    def of(cls, span: Span, left: Sequence[ReadableSpan], recording: bool) -> Decided:
        """Look at a span, and at what left."""
        context = span.get_span_context()
        attributes = dict(left[0].attributes or {}) if left else {}
        parent = left[0].parent if left else None
        return cls(recording, bool(left), context.trace_state, context.trace_flags, attributes, parent)


class _Ids(IdGenerator):
    trace_id = span_id = 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        return True


class Tracers:
    """A sampler, at work in the SDK and in our buffer."""

    def __init__(self, sampler: Sampler) -> None:
        self.buffer = SpanBuffer(clock=FakeClock(), sampling=rules_of(sampler))
        self._left, self._ids = InMemorySpanExporter(), _Ids()
        provider = TracerProvider(sampler=sampler, resource=RESOURCE, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._left))
        self._tracer = provider.get_tracer("ours")

    def theirs(self, context: Context, trace_id: int) -> Decided:
        """Return what the SDK decides."""
        self._ids.trace_id = trace_id
        span = self._tracer.start_span(
            CALL.name, context=context, kind=CALL.kind, attributes=CALL.attributes, start_time=1
        )
        recording = span.is_recording()
        span.end()
        left = [
            one
            for one in self._left.get_finished_spans()
            if one.context is not None and one.context.trace_flags.sampled
        ]
        self._left.clear()
        return Decided.of(span, left, recording)

    def left(self) -> list[ReadableSpan]:
        """Return what left our buffer."""
        return [readable(record, RESOURCE, SCOPE, self.buffer.limits) for record in self.buffer.fetch()]


def around(parent: SpanContext | None) -> Context:
    """Return a context with this parent in it."""
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_it_is_decided_as_the_sdk_does(sampler: Sampler) -> None:
    """Whether it is recorded and leaves, with which flags, trace state, attributes and parent; for each parent."""
    tracers = Tracers(sampler)
    for name, parent in PARENTS.items():
        context = around(parent)
        for _ in range(1 if parent is not None else 20):  # roots have other trace ids each time
            span = tracers.buffer.start(CALL, context, 1)
            if span is None:  # the parent, which there is, stays current
                assert parent is not None
                expected = tracers.theirs(context, 0)
                assert (name, False, False) == (name, expected.recording, expected.sampled)
                assert [] == tracers.left()
                continue
            identity = span.get_span_context()
            assert identity.is_valid
            recording = span.is_recording()
            span.end()
            expected = tracers.theirs(context, identity.trace_id)
            assert (name, expected) == (name, Decided.of(span, tracers.left(), recording))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_one_in_which_nothing_happens_is_decided_the_same(sampler: Sampler) -> None:
    """A span that is known only when it is over."""
    tracers = Tracers(sampler)
    for name, parent in PARENTS.items():
        context = around(parent)
        for _ in range(1 if parent is not None else 20):
            tracers.buffer.leaf(CALL, context, 1, 2)
            left = tracers.left()
            if not left:
                assert (name, False) == (name, parent is not None and tracers.theirs(context, 0).sampled)
            for span in left:
                expected = tracers.theirs(context, span.context.trace_id)
                assert (name, expected) == (name, Decided.of(NonRecordingSpan(span.context), [span], True))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_what_is_inside_of_a_call_has_a_parent_that_leaves(sampler: Sampler) -> None:
    """Unless the SDK would have left it without one: a span that is recorded only is a parent to it too."""
    tracers = Tracers(sampler)
    for parent in PARENTS.values():
        context, opened = around(parent), []
        for _ in range(3):
            span = tracers.buffer.start(CALL, context, 1)
            if span is not None:
                opened.append(span)
                context = trace.set_span_in_context(span, context)
        for span in reversed(opened):
            span.end()
        known = {span.get_span_context().span_id for span in opened if span.is_recording() is False}
        kept = {span.context.span_id: span for span in tracers.left()}
        recorded_only = known - kept.keys()
        for span in kept.values():
            above = span.parent.span_id if span.parent is not None else None
            outside = parent.span_id if parent is not None else None
            assert above in (outside, *kept, *recorded_only)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_rate_thins_what_the_sampler_keeps(rate: float) -> None:
    """It keeps about its share, all where that is asked for, and nothing that the sampler does not keep."""
    sampled, unsampled = around(PARENTS["local_11_plain_low"]), around(PARENTS["local_10_plain_low"])
    made = SpanBuffer(clock=FakeClock(), sampling=rules_of(ParentBased(ALWAYS_ON)), rate=rate, most=10**6)
    for context in (sampled, Context(), unsampled):
        for _ in range(2_000):
            made.leaf(CALL, context, 1, 2)
            span = made.start(CALL, context, 1)
            if span is not None:
                span.end()
        number = len(made.fetch())
        assert 0 == number if context is unsampled else abs(number - 4_000 * rate) < 200
    for context, number in ((sampled, 2), (unsampled, 0)):
        made.leaf(CALL, context, 1, 2, kept=True)
        span = made.start(CALL, context, 1, kept=True)
        if span is not None:
            span.end()
        assert number == len(made.fetch())


def test_a_built_in_sampler_is_not_asked_for_each_span() -> None:
    """What they decide is known beforehand; the others have nothing else to go by."""
    asked: list[str] = []

    class Asked(Own):
        def should_sample(self, *given: Any, **further: Any) -> SamplingResult:
            asked.append(given[2])
            return super().should_sample(*given, **further)

    for name, number in (("parentbased_always_on", 0), ("own", 2)):
        sampler = Asked() if number else SAMPLERS[name]
        made = SpanBuffer(clock=FakeClock(), sampling=rules_of(sampler))
        made.leaf(CALL, Context(), 1, 2)
        made.leaf(CALL, around(PARENTS["local_01_plain_low"]), 1, 2)
        assert number == len(asked)
