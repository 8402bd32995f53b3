"""Calls over the life of telemetry: open at its end, after it, with others' processors, providers and handlers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.export import providers
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.projection import TelemetryProjection
from crucible_otel.semconv.names import INCOMPLETE, RESULT
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


@pytest.fixture(autouse=True)
def context_is_back(fresh: None) -> Iterator[None]:
    """Fail the test when it ends in another context than it began in."""
    before = otel_context.get_current()
    yield
    assert before == otel_context.get_current()


def results(capture: Capture) -> dict[str, tuple[Any, Any]]:
    """Return how each span ended: name -> result, and whether it is incomplete."""
    found = {}
    for span in capture.spans:
        attributes = span.attributes or {}
        found[span.name] = (attributes.get(RESULT), attributes.get(INCOMPLETE, False))
    assert len(found) == len(capture.spans)
    return found


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_what_is_open_at_shutdown_ends_as_cancelled_and_incomplete(capture: Capture, rate: float) -> None:
    """Once, with its metrics; whoever leaves it afterwards is silent, and comes out of its context."""
    capture.configure(call_sample_rate=rate)
    assert capture.telemetry is not None

    @cx.call("a", "generator")
    def generate() -> Iterator[int]:
        yield 1
        yield 2

    waiting, asked, left = threading.Event(), threading.Event(), []

    def elsewhere() -> None:
        before = otel_context.get_current()
        with cx.call("a", "thread"):
            waiting.set()
            assert asked.wait(60)
        left.append(before == otel_context.get_current())

    generator = generate()
    assert 1 == next(generator)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert waiting.wait(60)
    before = otel_context.get_current()
    with cx.call("a", "outer"):
        with suppress(ValueError), cx.call("a", "inner") as inner:
            assert capture.telemetry.shutdown(30)
            inner.io(3)
            inner.set(more=1)
            raise ValueError
        with cx.call("a", "afterwards"), cx.inference("afterwards"):
            pass
    assert before == otel_context.get_current()
    assert [2] == list(generator)
    asked.set()
    thread.join(60)
    assert [True] == left
    names = ("outer", "inner", "generator", "thread")
    assert {f"call a.{name}": ("cancellation", True) for name in names} == results(capture)
    points = capture.points("crucible.calls")
    assert {("cancellation", 1)} == {(point.attributes[RESULT], point.value) for point in points}
    assert set(names) == {point.attributes["code.function.name"] for point in points}


def test_a_shutdown_inside_a_stage_and_a_call_leaves_both(capture: Capture) -> None:
    """Whatever is current then, the context from before is back at the end."""
    capture.configure()
    assert capture.telemetry is not None
    with cx.call("a", "outer"), cx.stage("s"), cx.call("a", "inner"):
        capture.telemetry.shutdown(30)
    ended = ("cancellation", True)
    assert {"call a.outer": ended, "run_stage s": ended, "call a.inner": ended} == results(capture)
    assert ["/call a.outer", "/call a.outer/run_stage s", "/call a.outer/run_stage s/call a.inner"] == capture.paths()


def test_it_begins_anew_with_the_next_configure() -> None:
    """An object that was open is used on; what it was in then is not said of what it is in now."""
    first, second = Capture(), Capture()
    first.configure()
    call = cx.call("a", "b")
    with call:
        assert first.telemetry is not None
        first.telemetry.shutdown(30)
        second.configure(service_name="second")
    with call:
        pass
    assert 2 == len({id(first.telemetry), id(second.telemetry)})
    assert ["cancellation"] == [(span.attributes or {})[RESULT] for span in first.spans]
    (span,) = second.spans
    assert ("success", "second") == ((span.attributes or {})[RESULT], span.resource.attributes["service.name"])
    assert span.parent is None


class Watching(SpanProcessor):
    """A processor of the user's."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: SdkSpan, parent_context: Any = None) -> None:
        self.started.append(span.name)
        span.set_attribute("watched", True)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_processor_of_the_users_sees_every_later_call(capture: Capture) -> None:
    """Start and end, with what is written on it; what was open before it came ends as it would have."""
    clock, watching = capture.stopped(), Watching()
    provider: Any = trace.get_tracer_provider()
    with cx.call("a", "before"):
        provider.add_span_processor(watching)
        clock.advance(0.5)
        with cx.call("a", "good", shard=1) as good:
            assert not isinstance(trace.get_current_span(), LiveSpan)
            clock.advance(0.5)
            good.io(3)
            good.set(rows=2)
        with suppress(ValueError), cx.call("a", "bad"):
            raise ValueError
        with cx.inference("m") as inference:
            inference.tokens(5)
    assert ["call a.good", "call a.bad", "predict m"] == watching.started
    assert watching.started == [span.name for span in watching.ended]
    assert {
        "/call a.before",
        "/call a.before/call a.good",
        "/call a.before/call a.bad",
        "/call a.before/predict m",
    } == (set(capture.paths()))
    good_span = capture.span("call a.good")
    assert {"watched": True, "shard": 1, "rows": 2, "crucible.call.io_bytes": 3, RESULT: "success"}.items() <= dict(
        good_span.attributes or {}
    ).items()
    assert 500_000_000 == (good_span.end_time or 0) - (good_span.start_time or 0)
    assert "watched" not in (capture.span("call a.before").attributes or {})


def test_a_handler_that_comes_and_goes_gets_every_call_in_between(capture: Capture) -> None:
    """Those that are open when it comes end as they began; then the short way is open again."""
    capture.configure()
    with cx.call("a", "b"):
        seen = listen("crucible.call.start", "crucible.call.stop", "crucible.call.exception")
        for _ in range(3):
            with cx.call("a", "c"):
                pass
        with suppress(ValueError), cx.call("a", "d"):
            raise ValueError
        between = cx.call("a", "e")
        between.__enter__()
        cx.detach("seen")
        with cx.call("a", "f"):
            pass
        between.__exit__(None, None, None)
    assert [*["crucible.call.start", "crucible.call.stop"] * 3, "crucible.call.start", "crucible.call.exception"] == (
        seen.names[:-1]
    )
    assert ["crucible.call.start"] == seen.names[-1:]
    stem = "/call a.b"
    expected = [stem, *[f"{stem}/call a.c"] * 3, f"{stem}/call a.d", f"{stem}/call a.e", f"{stem}/call a.e/call a.f"]
    assert expected == capture.paths()
    assert 7 == sum(point.value for point in capture.points("crucible.calls"))


@pytest.mark.parametrize("listening", [False, True], ids=["short", "all_events"])
def test_a_trace_with_too_many_calls_continues_in_others(capture: Capture, listening: bool) -> None:
    """Whoever listens."""
    capture.configure(trace_span_limit=10)
    if listening:
        listen()
    with cx.stage("s"):
        for _ in range(25):
            with cx.call("a", "b"):
                pass
    assert ["/run_stage s", *["/run_stage s/call a.b"] * 10, *["/trace_segment"] * 2] == [
        path for path in capture.paths() if path != "/trace_segment/call a.b"
    ]
    assert 25 == len(capture.named("call a.b"))


def test_without_an_exporter_of_traces_calls_are_counted_and_current(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of them is kept."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    capture.configure(span_exporter=None)
    for _ in range(10_000):
        with cx.call("a", "b"):
            assert trace.get_current_span().get_span_context().is_valid
    assert 10_000 == capture.value("crucible.calls")
    provider: Any = trace.get_tracer_provider()
    assert len(provider.hot.buffer.records) < 10_000


def test_each_of_two_exporters_gets_every_call(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, those of segments too."""
    console = InMemorySpanExporter()
    monkeypatch.setattr(providers, "ConsoleSpanExporter", lambda: console)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp,console")
    capture.configure(trace_span_limit=10)
    with cx.stage("s"):
        for number in range(25):
            with cx.call("a", f"f{number}"):
                pass
    ids = [span.context.span_id for span in capture.spans]
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(30)
    assert 25 + 1 + 2 == len(set(ids))
    assert sorted(ids) == sorted(span.context.span_id for span in console.get_finished_spans())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_applications_provider_makes_the_spans_itself(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """Real ones, with the same attributes as ours; the rate holds there too."""

    def act() -> None:
        with cx.call("a", "good", bytes=3, shard=1) as call:
            capture.clock.advance(0.5)
            call.timing(queue_ns=10**8)
            call.set(rows=2)
        with cx.call("a", "slow"):
            capture.clock.advance(2)
        with suppress(ValueError), cx.call("a", "bad"):
            capture.clock.advance(0.5)
            raise ValueError
        with cx.call("a", "skipped") as call:
            call.skip()
        with cx.inference("m", batch_size=2) as inference:
            capture.clock.advance(0.5)
            inference.tokens(5)

    def told(spans: Any) -> dict[str, Any]:
        return {
            span.name: (
                dict(span.attributes),
                span.status.status_code,
                [event.name for event in span.events],
                span.end_time - span.start_time,
            )
            for span in spans
        }

    capture.stopped(call_sample_rate=rate)
    act()
    expected = told(capture.spans)
    assert capture.telemetry is not None
    capture.telemetry.shutdown(30)
    exporter, theirs = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", theirs)
    capture.stopped(call_sample_rate=rate)
    with cx.call("a", "probe"):
        assert not isinstance(trace.get_current_span(), LiveSpan)
    exporter.clear()
    act()
    assert expected == told(exporter.get_finished_spans())
    assert {"call a.slow", "call a.bad"} <= expected.keys()
    assert (2 if rate == 0.0 else 5) == len(expected)
    theirs.shutdown()


def test_a_call_that_begins_while_the_process_leaves_has_no_span(capture: Capture) -> None:
    """What is open has been ended by then, and nobody fetches what comes."""
    capture.configure()
    with cx.call("lib", "before"):
        pass
    projection = runtime().projection
    assert isinstance(projection, TelemetryProjection)
    projection.leave(lambda: None)
    with cx.call("lib", "late"):
        pass
    assert ["/call lib.before"] == capture.paths()
