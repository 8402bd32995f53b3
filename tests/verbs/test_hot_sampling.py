"""Which calls have spans: the provider's sampler decides, then the rate, which failed and slow ones are exempt from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

import crucible_otel as cx
from crucible_otel.export import providers
from crucible_otel.testing import FakeClock
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

LOW, HIGH = 2**127 + 1, 2**127 + 2**64 - 1
NAME = "call numpy.sum"
SAMPLERS: Mapping[str, Sampler] = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "record_only": StaticSampler(Decision.RECORD_ONLY),
    "traceidratio": TraceIdRatioBased(0.3),
    "parentbased_always_on": ParentBased(ALWAYS_ON),
    "parentbased_always_off": ParentBased(ALWAYS_OFF),
    "parentbased_traceidratio": ParentBasedTraceIdRatio(0.3),
    "odd": ParentBased(ALWAYS_ON, local_parent_sampled=ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON),
}
PARENTS: Mapping[str, SpanContext | None] = {
    "none": None,
    **{
        f"{'remote' if remote else 'local'}_{flags}_{name}": SpanContext(trace_id, 77, remote, TraceFlags(flags))
        for remote in (False, True)
        for flags in (0, 1)
        for name, trace_id in (("low", LOW), ("high", HIGH))
    },
}


def normal(clock: FakeClock, call: Any) -> None:
    """End well, at once."""
    clock.advance(0.9)


def slow(clock: FakeClock, call: Any) -> None:
    """Take as long as the threshold."""
    clock.advance(1.0)


def failing(clock: FakeClock, call: Any) -> None:
    """Raise."""
    raise ValueError


def timing_out(clock: FakeClock, call: Any) -> None:
    """Raise what is a timeout."""
    raise TimeoutError


def said_to_fail(clock: FakeClock, call: Any) -> None:
    """Fail without an exception."""
    call.fail("no")


def skipping(clock: FakeClock, call: Any) -> None:
    """Have nothing to do."""
    call.skip()


def cancelled(clock: FakeClock, call: Any) -> None:
    """Be cancelled."""
    raise asyncio.CancelledError


OUTCOMES: Mapping[Callable[[FakeClock, Any], None], bool] = {
    normal: False,
    slow: True,
    failing: True,
    timing_out: True,
    said_to_fail: True,
    skipping: False,
    cancelled: False,
}
"""How it ends -> whether it is kept although the rate leaves it out."""


@pytest.mark.parametrize("listening", [False, True], ids=["short", "all_events"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_call_has_a_span_if_the_sampler_and_the_rate_keep_it(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, sampler: Sampler, outcome: Any, rate: float, listening: bool
) -> None:
    """Never against the sampler, whatever becomes of the call; metrics count all of them."""
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: sampler)
    clock = capture.stopped(call_sample_rate=rate, slow_call_threshold_ms=1000)
    if listening:
        listen()
    before, left = otel_context.get_current(), 0
    for parent in PARENTS.values():
        context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
        otel_context.attach(context)
        outside = trace.get_current_span()
        with suppress(ValueError, TimeoutError, asyncio.CancelledError), cx.call("numpy", "sum") as call:
            inside = trace.get_current_span()
            outcome(clock, call)
        assert context == otel_context.get_current()
        spans = capture.spans[left:]
        left += len(spans)
        trace_id = parent.trace_id if parent is not None else inside.get_span_context().trace_id
        if trace_id == 0:  # a root that the rate leaves out
            trace_id = spans[0].context.trace_id if spans else HIGH
        kept = sampler.should_sample(context, trace_id, NAME, SpanKind.INTERNAL, {}, ()).decision
        by_rate = rate == 1.0 or OUTCOMES[outcome]
        assert (by_rate and kept is Decision.RECORD_AND_SAMPLE) == bool(spans), parent
        for span in spans:
            assert (NAME, trace_id, parent) == (span.name, span.context.trace_id, span.parent)
        if rate == 0.0 or (parent is not None and kept is Decision.DROP):
            assert outside is inside
        elif kept is Decision.DROP:
            assert not inside.get_span_context().trace_flags.sampled
            assert inside.get_span_context().is_valid
    otel_context.attach(before)
    assert len(PARENTS) == sum(point.value for point in capture.points("crucible.calls"))


@pytest.mark.parametrize("listening", [False, True], ids=["short", "all_events"])
def test_what_is_inside_of_a_call_without_a_span_is_inside_of_what_is_around_it(
    capture: Capture, listening: bool
) -> None:
    """Its parent is there; a call that fails afterwards stands beside what it held."""
    capture.configure(call_sample_rate=0)
    if listening:
        listen()
    with suppress(ValueError), cx.stage("s"), cx.call("a", "left out"), cx.call("a", "fails"):
        with cx.stage("inner"), trace.get_tracer("theirs").start_as_current_span("full"):
            pass
        with cx.call("a", "left out too"):
            pass
        raise ValueError
    assert ["/run_stage s", "/run_stage s/call a.fails", "/run_stage s/call a.left out"] == capture.paths()[:3]
    assert ["/run_stage s/run_stage inner", "/run_stage s/run_stage inner/full"] == capture.paths()[3:]


def test_the_threshold_is_a_setting(capture: Capture) -> None:
    """0 makes every call a slow one."""
    capture.stopped(call_sample_rate=0, slow_call_threshold_ms=0)
    with cx.call("a", "b"), cx.inference("m"):
        pass
    assert ["/call a.b", "/predict m"] == capture.paths()


@pytest.mark.parametrize("unsampled", [False, True])
def test_environment_variables_choose_the_sampler(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, unsampled: bool
) -> None:
    """``OTEL_TRACES_SAMPLER`` decides of calls too; what is inside a root that it drops is dropped with it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0" if unsampled else "1")
    capture.configure(call_sample_rate=1)
    with suppress(ValueError), cx.call("a", "b"), cx.stage("s"), cx.inference("m"):
        raise ValueError
    stem = "/call a.b"
    expected = [] if unsampled else [stem, f"{stem}/run_stage s", f"{stem}/run_stage s/predict m"]
    assert expected == capture.paths()
    assert 1 == capture.value("crucible.calls")
