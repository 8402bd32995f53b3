"""Calls and inferences to which nobody listens: what leaves is what leaves when somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.trace import StatusCode

import crucible_otel as cx
from crucible_otel.testing import FakeClock, fresh
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("no_complaints")

MS = 1_000_000
Act = Callable[[FakeClock], object]


class Told(Exception):
    """Says what it was."""


def good(clock: FakeClock) -> None:
    """All that a call can say."""
    with cx.call("numpy", "svd", bytes=7, worker_id="w1", device="cuda:0", shard=3, note="ü") as call:
        clock.advance(0.51)
        call.timing(queue_ns=100 * MS, execute_ns=300 * MS)
        call.io(5)
        call.set(rows=2, worker_id="w2", tags=["a", "b"])


def plain(clock: FakeClock) -> None:
    """Nothing but a call, and one of an object that is used again."""
    made = cx.call("numpy", "sum")
    for _ in range(2):
        with made:
            clock.advance(0.26)


def parts_too_long(clock: FakeClock) -> None:
    """Phases that exceed the call."""
    with cx.call("numpy", "sum") as call:
        clock.advance(0.11)
        call.timing(queue_ns=90 * MS, execute_ns=90 * MS)


def backwards(clock: FakeClock) -> None:
    """No time at all."""
    with cx.call("numpy", "sum") as call:
        call.timing(queue_ns=0)


def skipped(clock: FakeClock) -> None:
    """One that says it had nothing to do, then one that did."""
    made = cx.call("numpy", "sum")
    for _ in range(2):
        with made:
            clock.advance(0.11)
            if not _:
                made.skip("nothing there")


def failed(clock: FakeClock) -> None:
    """One that says it failed."""
    with cx.call("numpy", "sum") as call:
        clock.advance(0.11)
        call.timing(queue_ns=10 * MS)
        call.fail("no such thing")


def raising(kind: type[BaseException], *arguments: Any) -> Act:
    """Return what is left by an exception."""

    def act(clock: FakeClock) -> None:
        with suppress(kind), cx.call("numpy", "sum", bytes=3) as call:
            clock.advance(0.11)
            call.timing(execute_ns=10 * MS)
            call.set(rows=2)
            raise kind(*arguments)

    return act


def written_on(clock: FakeClock) -> None:
    """What is inside writes on the current span, even what it is not to write."""
    with cx.call("numpy", "sum"):
        span = trace.get_current_span()
        span.set_attribute("crucible.result", "mine")
        span.set_attribute("crucible.call.library", "mine")
        span.set_attributes({"more": 1, "list": [1, 2]})
        span.add_event("happened", {"a": 1}, timestamp=7)
        span.add_link(span.get_span_context(), {"b": 2})
        span.set_status(StatusCode.OK)
        span.update_name("another name")
        clock.advance(0.11)


def ended_inside(clock: FakeClock) -> None:
    """What is inside ends the span itself."""
    with cx.call("numpy", "sum"):
        trace.get_current_span().end(clock.time_ns() + 5)
        clock.advance(0.11)


def nested(clock: FakeClock) -> None:
    """Calls in calls, stages in calls, calls in stages, a failure from within."""
    with suppress(Told), cx.workflow("w", run_id="r"), cx.stage("s"), cx.call("a", "outer"):
        with cx.call("b", "inner"), cx.stage("inside"), cx.inference("m"):
            clock.advance(0.11)
        with cx.call("b", "fails"):
            clock.advance(0.11)
            raise Told("from within")


def decorated(clock: FakeClock) -> None:
    """Functions, coroutines, generators, with a name of their own for each call."""

    @cx.call("lib", "f {number}")
    def function(number: int) -> int:
        clock.advance(0.11)
        return number

    @cx.call("lib", "coroutine")
    async def coroutine() -> None:
        clock.advance(0.11)
        await asyncio.sleep(0)

    @cx.inference("m", batch_size=3)
    def generator() -> Any:
        for item in range(3):
            clock.advance(0.11)
            yield item

    for number in (1, 2, 1):
        assert number == function(number)
    asyncio.run(coroutine())
    list(generator())
    abandoned = generator()
    next(abandoned)
    abandoned.close()


def a_template_that_is_used(clock: FakeClock) -> None:
    """An object as a block, and then as a decorator whose name has an argument in it."""
    made = cx.call("lib", "f {number}")
    with made:
        clock.advance(0.11)

    @made
    def function(number: int) -> None:
        clock.advance(0.11)

    function(1)
    with made:
        clock.advance(0.11)


def inferred(clock: FakeClock) -> None:
    """All that an inference can say, in a run of a model."""
    with cx.train("outer"), cx.inference("bert", batch_size=32, device=0, version="v2", shard=1) as inference:
        clock.advance(0.51)
        inference.tokens(300)
        inference.tokens(212)
        inference.set(rows=2)
    with cx.inference("bert"):
        clock.advance(0.11)


def inference_failed(clock: FakeClock) -> None:
    """An inference that fails after some tokens."""
    with suppress(Told), cx.inference("bert", batch_size=2) as inference:
        clock.advance(0.51)
        inference.tokens(10)
        raise Told("no")


def hostile(clock: FakeClock) -> None:
    """What no attribute can hold."""
    with cx.call("numpy", "sum", odd=object, big=2**70, none=None, bad="\ud800") as call:
        clock.advance(0.11)
        call.set(odd={"a": 1}, big=-(2**80), none=None, long="x" * 10_000)


def by_name(clock: FakeClock) -> None:
    """Events by their names, among the others."""
    cx.execute("crucible.call.start", {}, {"operation": "a.b", "library": "a", "function": "b"})
    clock.advance(0.11)
    with cx.call("numpy", "sum"):
        clock.advance(0.11)
    cx.execute("crucible.call.stop", {"duration": 200 * MS}, {"operation": "a.b", "library": "a", "function": "b"})


ACTS: Mapping[str, Act] = {
    **{
        act.__name__: act
        for act in (
            good,
            plain,
            parts_too_long,
            backwards,
            skipped,
            failed,
            written_on,
            ended_inside,
            nested,
            decorated,
            a_template_that_is_used,
            inferred,
            inference_failed,
            hostile,
            by_name,
        )
    },
    **{
        f"raising_{'_'.join(map(repr, error[1:]))}_{error[0].__name__}": raising(*error)
        for error in (
            (ValueError, "bad \ud800"),
            (TimeoutError, "late"),
            (KeyboardInterrupt,),
            (asyncio.CancelledError,),
            (GeneratorExit,),
            (SystemExit, 0),
            (SystemExit, 1),
        )
    },
}


def left(act: Act, *, listening: bool, **settings: Any) -> dict[str, Any]:
    """Return all that leaves of what is done."""
    with fresh():
        capture = Capture()
        clock = capture.stopped(**settings)
        if listening:
            listen()
        act(clock)
        capture.flush()
        names = {span.context.span_id: span.name for span in capture.spans}
        told = {
            "paths": capture.paths(),
            "spans": sorted(map(described, capture.spans)),
            "logs": sorted(said(each, names) for each in capture._logs.get_finished_logs()),
            "metrics": measured(capture),
        }
        assert capture.telemetry is not None
        capture.telemetry.shutdown(5)
        assert not trace.get_current_span().get_span_context().is_valid
    return told


def described(span: Any) -> str:
    """Return all of a span but its ids."""
    attributes = sorted((key, repr(value)) for key, value in span.attributes.items())
    events = [
        (event.name, event.timestamp, sorted((key, str(value)[-40:]) for key, value in event.attributes.items()))
        for event in span.events
    ]
    links = [repr(dict(link.attributes or {})) for link in span.links]
    status = (span.status.status_code.name, span.status.description)
    scope = span.instrumentation_scope.name
    return repr((span.name, span.start_time, span.end_time, span.kind, status, attributes, events, links, scope))


def said(log: ReadableLogRecord, names: Mapping[int, str]) -> str:
    """Return all of a log record, with the name of the span that it belongs to."""
    record = log.log_record
    attributes = sorted((key, repr(value)[-60:]) for key, value in (record.attributes or {}).items())
    span = names.get(record.span_id or 0, str(record.span_id))
    return repr((record.event_name, record.timestamp, record.severity_text, str(record.body), attributes, span))


def measured(capture: Capture) -> dict[str, Any]:
    """Return the points of all metrics of ours, but those about handlers and exporters."""
    found = {}
    for resource in capture._metrics.collections[-1].resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name.startswith("crucible.") and not metric.name.startswith("crucible.sdk.queue"):
                    for point in metric.data.data_points:
                        number = getattr(point, "value", None)
                        total = (number,) if number is not None else (point.count, point.sum, *point.bucket_counts)
                        key = (metric.name, *sorted((name, str(value)) for name, value in point.attributes.items()))
                        found[key] = tuple(round(each, 9) for each in total)
    return found


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_it_leaves_what_the_way_of_all_events_leaves(act: Act) -> None:
    """The same spans in the same places, the same log records on the same spans, the same metrics."""
    expected = left(act, listening=True)
    assert expected["spans"]
    assert any(name[0].startswith("crucible.") for name in expected["metrics"])
    assert expected == left(act, listening=False)


@pytest.mark.parametrize("events", ["span", "both", "off"])
@pytest.mark.parametrize("act", [good, failed, nested, raising(TimeoutError, "late")])
def test_it_does_with_events_on_spans_too(act: Act, events: str) -> None:
    """Wherever events go."""
    assert left(act, listening=True, events=events) == left(act, listening=False, events=events)


@pytest.mark.parametrize("signal", ["logs", "logs/dup"])
@pytest.mark.parametrize("act", [raising(TimeoutError, "late"), inference_failed])
def test_exceptions_are_where_they_are_asked_for(act: Act, signal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On log records instead of the span, or on both."""
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", signal)
    assert left(act, listening=True) == left(act, listening=False)
