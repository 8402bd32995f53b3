"""Calls that are reported whole, over their life: what was found out for the next one is forgotten when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.span import TraceState

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.export import providers
from crucible_otel.otel.leaves import FULL
from crucible_otel.verbs.call import Call
from tests.captured import Capture, listen
from tests.samplers import Asked
from tests.verbs.test_hot_sampling import PARENTS, SAMPLERS
from tests.verbs.test_rows import ALL, in_threads

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

LASTS_NS = 5_000_000
NAME = "call a.f"
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


@pytest.fixture(autouse=True)
def context_is_back(fresh: None) -> Iterator[None]:
    """Fail the test when it ends in another context than it began in."""
    before = otel_context.get_current()
    yield
    assert before == otel_context.get_current()


def report(call: Call, times: int = 1, **told: Any) -> None:
    """Report a call, all of which is known."""
    for _ in range(times):
        call.record(told.get("duration_ns", LASTS_NS), **ALL)


def waiting() -> int:
    """Return how many rows wait to be folded: those of the short way do."""
    leaves = runtime().operations["crucible.call"].leaves
    return (len(leaves.buffer) - FULL * 9) // 9


def spans_by_parent(capture: Capture) -> Counter[str]:
    """Return how many spans of the call each parent has."""
    spans = capture.spans
    names = {span.context.span_id: span.name for span in spans}
    return Counter(names.get(span.parent.span_id, "?") if span.parent else "" for span in spans if span.name == NAME)


# -- what is forgotten -------------------------------------------------------------------------------------------------


def test_all_that_is_known_goes_the_short_way(capture: Capture) -> None:
    """Which the other tests here are about."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 3)
    assert 3 == waiting()
    assert {"run_stage s": 3} == spans_by_parent(capture)


def test_a_handler_gets_each_call_from_its_coming_to_its_going(capture: Capture) -> None:
    """And all are counted, and have their spans, once."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 3)
        seen = listen("crucible.call.stop")
        report(made, 4)
        cx.detach("seen")
        report(made, 5)
        assert 3 + 5 == waiting()
    assert ["crucible.call.stop"] * 4 == seen.names
    assert 12 == capture.value("crucible.calls")
    assert {"run_stage s": 12} == spans_by_parent(capture)


def test_another_telemetry_counts_its_own_only() -> None:
    """An object and a context from before are used on; between the two nothing is counted."""
    first, second = Capture(), Capture()
    made, outside = cx.call("a", "f"), otel_context.get_current()
    first.configure()
    with cx.stage("s"):
        report(made, 3)
        inside = otel_context.get_current()
        assert first.telemetry is not None
        first.telemetry.shutdown(30)
    otel_context.attach(inside)
    report(made, 100)
    second.configure()
    report(made, 4)
    otel_context.attach(outside)
    assert {"run_stage s": 3} == spans_by_parent(first)
    assert 3 == sum(point.value for point in first.points("crucible.calls"))
    assert 4 == second.value("crucible.calls")
    assert second.telemetry is not None
    second.telemetry.shutdown(5)


class Watching(SpanProcessor):
    """A processor of the user's."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_processor_of_the_users_sees_every_later_call(capture: Capture) -> None:
    """From the next one on, although the context is the same; those before have their spans too."""
    capture.configure()
    made, watching = cx.call("a", "f"), Watching()
    provider: Any = trace.get_tracer_provider()
    with cx.stage("s"):
        report(made, 20)
        provider.add_span_processor(watching)
        report(made, 4)
        assert [NAME] * 4 == [span.name for span in watching.ended]
    assert {"run_stage s": 24} == spans_by_parent(capture)
    assert 24 == capture.value("crucible.calls")


def test_a_call_that_comes_while_the_process_leaves_has_no_span(capture: Capture) -> None:
    """Nobody would fetch it; those before are there, and all are counted."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 3)
        projection: Any = runtime().projection
        projection.leave(lambda: None)
        report(made, 4)
    assert 3 == len(capture.named(NAME))
    assert 7 == capture.value("crucible.calls")


@NEEDS_FORK
def test_a_child_reports_its_own_calls_only(capture: Capture) -> None:
    """The parent's rows are its own to send, and are all there."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 20)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                report(made, 30)
                status = 0 if (30, 30) == (capture.value("crucible.calls"), len(capture.named(NAME))) else 2
            finally:
                os._exit(status)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        report(made)
    assert {"run_stage s": 21} == spans_by_parent(capture)
    assert 21 == capture.value("crucible.calls")


def test_each_is_where_its_context_says(capture: Capture) -> None:
    """Stages, calls, tasks and threads in turn, with two objects, of which one is made in each place."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("outer"):
        report(made)
        outer = contextvars.copy_context()
        with cx.stage("inner"):
            report(made, 2)
            inner = contextvars.copy_context()
            with cx.call("a", "around"):
                report(made, 4)
                report(cx.call("a", "f"), 4)
            report(made, 2)
            outer.run(report, made, 8)
        report(made)

        async def task(name: str) -> None:
            with cx.stage(name):
                for _ in range(16):
                    report(made)
                    await asyncio.sleep(0)

        async def tasks() -> None:
            await asyncio.gather(*(task(f"task {number}") for number in range(3)))

        asyncio.run(tasks())
        in_threads([lambda: inner.copy().run(report, made, 32), lambda: outer.copy().run(report, made, 64)])
    assert {
        "run_stage outer": 2 + 8 + 64,
        "run_stage inner": 4 + 32,
        "call a.around": 8,
        **{f"run_stage task {number}": 16 for number in range(3)},
    } == spans_by_parent(capture)


def test_a_carrier_attached_in_its_own_process_is_a_remote_parent(capture: Capture) -> None:
    """Although it has the ids of the stage it comes from; and the stage is none."""
    capture.configure()
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 10)
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        here = otel_context.attach(propagate.extract(carrier))
        report(made, 10)
        otel_context.detach(here)
        report(made, 10)
    parents = [span.parent for span in capture.named(NAME)]
    assert [20, 10] == [sum(parent.is_remote is remote for parent in parents if parent) for remote in (False, True)]
    assert {"run_stage s": 30} == spans_by_parent(capture)


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_the_sampler_decides_for_each(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, sampler: Sampler, rate: float
) -> None:
    """As it does on the way of all events; slow ones are kept at any rate; metrics count all."""
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: sampler)
    capture.configure(call_sample_rate=rate, slow_call_threshold_ms=1000)
    before = otel_context.get_current()
    short, long = cx.call("a", "short"), cx.call("a", "long")

    def all_of(made: Call) -> None:
        for parent in PARENTS.values():
            if parent is None:  # whose random trace id a sampler by ratio looks at
                continue
            otel_context.attach(trace.set_span_in_context(NonRecordingSpan(parent), Context()))
            for _ in range(3):
                report(made)
                report(made, duration_ns=10**9)
        otel_context.attach(before)

    all_of(short)
    listen("crucible.call.*")
    all_of(long)

    def kept(name: str) -> Counter[Any]:
        found = capture.named(name)
        return Counter(repr((span.parent, (span.end_time or 0) - (span.start_time or 0))) for span in found)

    assert kept("call a.long") == kept("call a.short")
    each = 6 * (len(PARENTS) - 1)
    assert [each, each] == [point.value for point in capture.points("crucible.calls")]


def test_a_parent_with_a_trace_state_hands_it_on(capture: Capture) -> None:
    """Each of its calls is looked at."""
    capture.configure()
    state = TraceState([("vendor", "x")])
    made, before = cx.call("a", "f"), otel_context.get_current()
    for each in (None, state, None):
        above = SpanContext(2**100, 77, False, TraceFlags(1), each)
        otel_context.attach(trace.set_span_in_context(NonRecordingSpan(above), Context()))
        report(made, 10)
    otel_context.attach(before)
    assert {0: 20, 1: 10} == Counter(len(span.context.trace_state) for span in capture.named(NAME))


def test_a_sampler_of_the_users_is_asked_for_each(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once."""
    sampler = Asked(lambda name: name != NAME or len(sampler.names) % 2 == 0)
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: sampler)
    capture.configure()
    with cx.stage("s"):
        report(cx.call("a", "f"), 10)
    assert 10 == sampler.names.count(NAME)
    assert {"run_stage s": 5} == spans_by_parent(capture)
    assert 10 == capture.value("crucible.calls")


def test_calls_outside_of_all_spans_are_roots(capture: Capture) -> None:
    """Each of a trace of its own."""
    capture.configure()
    report(cx.call("a", "f"), 10)
    assert {"": 10} == spans_by_parent(capture)
    assert 10 == len({span.context.trace_id for span in capture.spans})


def test_calls_outside_of_all_spans_that_the_rate_leaves_out_go_the_short_way(capture: Capture) -> None:
    """But for the slow ones, each of which is a root."""
    capture.configure(call_sample_rate=0.0, slow_call_threshold_ms=1000)
    made = cx.call("a", "f")
    report(made, 10)
    report(made, 2, duration_ns=10**9)
    report(made, 10)
    assert 20 == waiting()
    assert {"": 2} == spans_by_parent(capture)
    assert 22 == capture.value("crucible.calls")


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_without_an_exporter_or_a_sampled_trace_nothing_is_kept(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """But counted all the same."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    capture.configure(span_exporter=None)
    made = cx.call("a", "f")
    with cx.stage("s"):
        report(made, 10_000)
    report(made, 10_000)
    assert 20_000 == capture.value("crucible.calls")
    buffer = trace.get_tracer_provider().hot.buffer  # type: ignore[attr-defined]
    assert buffer.full >= len(buffer.records) + sum(map(len, buffer.columns))


# -- together ----------------------------------------------------------------------------------------------------------


def test_what_is_too_much_for_a_trace_continues_in_others(capture: Capture) -> None:
    """Rows of four threads, mixed with calls around blocks; all leave with the shutdown, and none is an orphan."""
    capture.configure(trace_span_limit=1_000)
    with cx.stage("s"):
        here = contextvars.copy_context()

        def work() -> None:
            made = cx.call("a", "f")
            for number in range(1_500):
                report(made)
                if number % 10 == 0:
                    with cx.call("a", "around"):
                        report(made, 2)

        in_threads([lambda: here.copy().run(work) for _ in range(4)])
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(60)
    spans = capture.spans
    names = Counter(span.name for span in spans)
    assert (4 * 1_800, 4 * 150) == (names[NAME], names["call a.around"])
    where = {span.context.span_id: span.context.trace_id for span in spans}
    assert len(spans) == len(where)
    assert all(where[span.parent.span_id] == span.context.trace_id for span in spans if span.parent)
    sizes = Counter(span.context.trace_id for span in spans)
    (stage,) = [span for span in spans if span.name == "run_stage s"]
    assert 1_001 == sizes.pop(stage.context.trace_id)
    assert 1_000 >= max(sizes.values())
    roots = [span for span in spans if span.name == "trace_segment"]
    assert sizes.keys() == {span.context.trace_id for span in roots}
    assert all(link.context.span_id in where for root in roots for link in root.links)


def test_threads_amid_flushes_lose_and_double_nothing(capture: Capture) -> None:
    """Four that report, one that flushes."""
    capture.configure(trace_span_limit=100_000)
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            capture.flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        in_threads([lambda: _in_stage(report, 2_000)] * 4)
    finally:
        over.set()
        flushing.join(120)
    assert 8_000 == capture.value("crucible.calls")
    assert {"run_stage s": 8_000} == spans_by_parent(capture)
    assert 8_004 == len({span.context.span_id for span in capture.spans})


def _in_stage(act: Callable[..., object], times: int) -> None:
    with cx.stage("s"):
        act(cx.call("a", "f"), times)


def test_a_shutdown_amid_calls_delivers_those_before_it(capture: Capture) -> None:
    """What comes later is nobody's; nothing is raised, and nothing comes twice."""
    capture.configure(trace_span_limit=100_000)
    made, over, enough = [0] * 4, threading.Event(), threading.Event()

    def work(index: int) -> None:
        call = cx.call("a", "f")
        with cx.stage("s"):
            while not over.wait(0.001):
                for _ in range(20):
                    report(call)
                    made[index] += 1
                if made[index] >= 1_000:
                    enough.set()

    def end() -> None:
        assert enough.wait(120)
        before.extend(made)
        assert capture.telemetry is not None
        assert capture.telemetry.shutdown(60)
        over.set()

    before: list[int] = []
    in_threads([*[lambda index=index: work(index) for index in range(4)], end])
    spans = capture.named(NAME)
    assert sum(before) <= len(spans) <= sum(made)
    assert len(spans) == len({span.context.span_id for span in spans})
    assert sum(before) <= sum(point.value for point in capture.points("crucible.calls")) <= sum(made)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
def test_a_signal_handler_may_report_and_flush_whatever_it_interrupts(capture: Capture) -> None:
    """Even a fold, or a collection: its rows wait, and its flush ends when its time is over."""
    capture.configure()
    made = cx.call("a", "f")
    delivered: list[bool] = []

    def handler(number: int, frame: Any) -> None:
        report(made, 2 * FULL)
        assert capture.telemetry is not None
        delivered.append(capture.telemetry.flush(timeout_s=0.2))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        engine: Any = runtime().engine
        with cx.stage("s"):
            report(made)
            with engine.lock:
                signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [False] == delivered
    assert 1 + 2 * FULL == capture.value("crucible.calls")
    assert {"run_stage s": 1 + 2 * FULL} == spans_by_parent(capture)


# -- exemplars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sampled", "expected"),
    [("trace_based", True, 1), ("trace_based", False, 0), ("always_on", False, 1), ("always_off", True, 0)],
)
def test_exemplars_are_of_the_calls_parent(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, given: str, sampled: bool, expected: int
) -> None:
    """Although another span is current where they are collected."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", given)
    capture.configure()
    above = SpanContext(2**100, 77, False, TraceFlags(int(sampled)))
    before = otel_context.get_current()
    otel_context.attach(trace.set_span_in_context(NonRecordingSpan(above), Context()))
    report(cx.call("a", "f"))
    otel_context.attach(before)
    with cx.stage("collecting"):
        (point,) = capture.points("crucible.call.duration")
    assert [(77, 2**100)] * expected == [(each.span_id, each.trace_id) for each in point.exemplars]


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_fault_in_a_fold_raises_nothing_and_counts_no_call_twice(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of that fold are lost, which is said and counted; the next ones are not."""
    capture.configure()
    call = cx.call("a", "f")

    def broken(*args: object) -> None:
        raise RuntimeError("inside")

    with cx.stage("s"):
        leaves = runtime().operations["crucible.call"].leaves
        with monkeypatch.context() as patched:
            patched.setattr(leaves, "_folds", (broken,))
            report(call, FULL)
        report(call, 3)
    assert ["internal error in calls: RuntimeError; counted from now on"] == [one.message for one in caplog.records]
    assert 1 == capture.value("crucible.sdk.faults", crucible__sdk__component="calls")
    assert 3 == capture.value("crucible.calls")
