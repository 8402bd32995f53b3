"""What an open span of a hot event does; what comes of it is compared with the SDK's in ``tests/export``."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.record import Shape
from crucible_otel.testing import FakeClock

SHAPE = Shape("s", SpanKind.INTERNAL, {"known": 1})


def opened(limits: Limits | None = None) -> tuple[LiveSpan, SpanBuffer, FakeClock]:
    """Return an open span, and where it goes."""
    clock = FakeClock()
    buffer = SpanBuffer(clock=clock, limits=limits)
    span = buffer.start(SHAPE, Context(), clock.time_ns())
    assert isinstance(span, LiveSpan)
    return span, buffer, clock


def test_events_and_ends_without_a_time_have_the_clocks() -> None:
    """The clock of telemetry, not the machine's."""
    span, buffer, clock = opened()
    clock.advance(1)
    span.add_event("e")
    clock.advance(1)
    span.end()
    ((_, _, _, _, _, start, end, _, extra),) = buffer.fetch()
    assert extra is not None
    assert [start + 10**9] == [at for _, _, at in extra.events]
    assert start + 2 * 10**9 == end


def test_it_ends_once_and_is_silent_then() -> None:
    """Who ends it first decides, and what is said afterwards is ignored."""
    span, buffer, _ = opened()
    assert span.is_recording()
    span.end(7)
    assert not span.is_recording()
    span.end(8)
    span.finish(9, SHAPE, ())
    span.set_attribute("a", 1)
    span.set_attributes({"b": 1})
    span.add_event("e")
    span.add_link(span.get_span_context(), {})
    span.update_name("n")
    span.set_status(trace.StatusCode.ERROR)
    span.record_exception(ValueError())
    ((_, _, _, _, _, _, end, _, extra),) = buffer.fetch()
    assert (7, None) == (end, extra)


def test_its_context_is_one_and_the_same() -> None:
    """Who propagates it twice propagates the same ids."""
    span, _, _ = opened()
    context = span.get_span_context()
    assert context is span.get_span_context()
    assert (span.trace_id, span.span_id, False) == (context.trace_id, context.span_id, context.is_remote)
    assert (True, True) == (context.trace_flags.sampled, context.trace_flags.random_trace_id)


def test_threads_that_write_at_once_lose_nothing() -> None:
    """The first thing said of a span included, whoever says it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            span, buffer, _ = opened(Limits(attributes=None, events=None))
            ready = threading.Barrier(4)

            def write(number: int, span: LiveSpan = span, ready: threading.Barrier = ready) -> None:
                ready.wait(30)
                span.set_attribute(f"a{number}", number)
                span.add_event(f"e{number}")

            threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            span.end()
            (record,) = buffer.fetch()
            extra: Any = record[8]
            assert {"known", "a0", "a1", "a2", "a3"} == set(extra.attributes)
            assert {"e0", "e1", "e2", "e3"} == {name for name, _, _ in extra.events}
    finally:
        sys.setswitchinterval(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_leaves_its_parents_spans_to_it() -> None:
    """What is open at a fork is ended by both, and kept by the parent alone."""
    span, buffer, clock = opened()
    before = buffer.start(SHAPE, Context(), clock.time_ns())
    assert isinstance(before, LiveSpan)
    before.end()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            span.end()
            own = buffer.start(SHAPE, Context(), clock.time_ns())
            assert isinstance(own, LiveSpan)
            own.end()
            kept = [record[2] for record in buffer.fetch()]
            status = 0 if kept == [own.span_id] else 2
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    span.end()
    assert [before.span_id, span.span_id] == [record[2] for record in buffer.fetch()]
