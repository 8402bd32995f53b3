"""Spans of training steps, made of their records by the column."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import signal
import threading
from collections import Counter
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.export import providers
from crucible_otel.semconv.training import STEP_EVENT
from tests.captured import Capture, listen
from tests.samplers import Asked

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

NAME = "train_step"
SECOND = 1_000_000_000
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def told(capture: Capture, *names: str) -> list[tuple[Any, ...]]:
    """Return attributes of each step's span in the order of the steps; None for one it has not."""
    spans = sorted(capture.named(NAME), key=lambda span: span.start_time or 0)
    return [tuple((span.attributes or {}).get(name) for name in names) for span in spans]


def waiting() -> int:
    """Return how many records of steps wait to be folded."""
    family = runtime().engine.families[STEP_EVENT.name]  # type: ignore[attr-defined]
    return len(family.waiting()) // int(family.width)


class Tensor:
    """Like one on an accelerator: whoever reads it waits."""

    read = 0
    device = type("Device", (), {"type": "cuda"})()

    def detach(self) -> Tensor:
        return self

    def item(self) -> float:
        type(self).read += 1
        return 0.125

    def __float__(self) -> float:
        return self.item()


# -- values ------------------------------------------------------------------------------------------------------------


def test_each_has_what_it_was_told(capture: Capture) -> None:
    """And nothing else: told by all, by some, by none; nothing where nothing was added, and whole numbers stay so."""
    clock = capture.stopped(step_sample_rate=1.0)
    with cx.train("m") as run:
        for number in range(20):
            clock.advance(1)
            tokens = {"tokens": number} if number % 3 else {}
            rate = {"learning_rate": 0.5} if number % 2 else {}
            run.step(loss=number / 4, **tokens, **rate)
        assert 20 == waiting()
    names = ("loss.value", "step_tokens", "learning_rate.value", "gradient.norm.value", "step_samples")
    assert [
        (number / 4, number if number % 3 else None, 0.5 if number % 2 else None, None, None) for number in range(20)
    ] == told(capture, *(f"crucible.training.{name}" for name in names))
    kinds = {tuple(map(type, row[:2])) for row in told(capture, *(f"crucible.training.{name}" for name in names))}
    assert {(float, int), (float, type(None))} == kinds


def test_values_that_are_no_numbers_are_left_out(capture: Capture) -> None:
    """A tensor is not waited for, and one that is not finite stands there as it is."""
    clock = capture.stopped(step_sample_rate=1.0)
    Tensor.read = 0
    with cx.train("m") as run:
        for loss in (0.5, Tensor(), math.nan, None, "x", math.inf, 3, *[0.25] * 5):
            clock.advance(1)
            run.step(loss=loss)
        assert 12 >= waiting()
        read = Tensor.read
        found = [loss for (loss,) in told(capture, "crucible.training.loss.value")]
    assert [0.5, None, None, None, math.inf, 3, *[0.25] * 5] == [each for each in found if each == each]
    assert 12 == len(found)
    assert read <= 1
    assert 12 == capture.value("crucible.training.steps")


def test_each_lasts_from_the_one_before(capture: Capture) -> None:
    """By the clock when it was reported, not by that of the fold."""
    clock = capture.stopped(step_sample_rate=1.0)
    began = clock.time_ns()
    with cx.train("m") as run:
        for number in range(1, 12):
            clock.advance(number)
            run.step(loss=0.5)
        clock.advance(1_000)
    spans = capture.named(NAME)
    assert [number * SECOND for number in range(1, 12)] == [(s.end_time or 0) - (s.start_time or 0) for s in spans]
    assert [began, *[span.end_time for span in spans[:-1]]] == [span.start_time for span in spans]


# -- places ------------------------------------------------------------------------------------------------------------


def test_each_is_in_the_epoch_it_was_made_in(capture: Capture) -> None:
    """Although all are folded after the last; two runs at once, and between the epochs."""
    capture.stopped(step_sample_rate=1.0)
    two = cx.train("two").start()
    with cx.train("one") as one:
        for epoch in one.epochs(3):
            for _ in range(10):
                one.step(loss=0.5)
                two.step(loss=0.25)
            assert 20 * (epoch + 1) == waiting()
        one.step(loss=0.5)
    two.finish()
    number = "crucible.training.epoch"
    epochs = {span.context.span_id: (span.attributes or {})[number] for span in capture.named("train_epoch")}
    found: Counter[Any] = Counter()
    for span in capture.named(NAME):
        attributes, parent_id = span.attributes or {}, span.parent.span_id if span.parent else 0
        where = epochs.get(parent_id, capture.parent(span))
        found[attributes["crucible.model.name"], attributes.get(number), where] += 1
    expected: dict[Any, int] = {("one", epoch, epoch): 10 for epoch in range(3)}
    expected |= {("one", None, "train one"): 1, ("two", None, "train two"): 30}
    assert expected == found


def test_a_step_outside_of_any_run_is_where_it_is_reported(capture: Capture) -> None:
    """In a stage, in another one, in none; in a task and in a thread."""
    capture.configure(step_sample_rate=1.0)
    cx.emit_step({"loss": 0.5})
    with cx.stage("one"):
        for _ in range(10):
            cx.emit_step({"loss": 0.5})
        here = contextvars.copy_context()
    with cx.stage("two"):

        async def task() -> None:
            cx.emit_step({"loss": 0.5})

        asyncio.run(task())
        cx.emit_step({"loss": 0.5})
        thread = threading.Thread(target=lambda: here.run(cx.emit_step, {"loss": 0.25}))
        thread.start()
        thread.join(60)
    assert {"": 1, "run_stage one": 11, "run_stage two": 2} == Counter(map(capture.parent, capture.named(NAME)))
    assert 14 == capture.value("crucible.training.steps")


def test_what_is_too_much_for_a_trace_continues_in_others(capture: Capture) -> None:
    """Those that wait at the shutdown too."""
    capture.configure(step_sample_rate=1.0, trace_span_limit=100)
    with cx.train("m") as run:
        for _ in range(455):
            run.step(loss=0.5)
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(60)
    spans = capture.spans
    assert {NAME: 455, "trace_segment": 4, "train m": 1} == Counter(span.name for span in spans)
    ids = {span.context.span_id for span in spans}
    assert all(span.parent.span_id in ids for span in spans if span.parent)


# -- who decides -------------------------------------------------------------------------------------------------------


def test_a_share_of_them(capture: Capture) -> None:
    """Of 4,000 a quarter, within six standard deviations, each with its own values."""
    clock = capture.stopped(step_sample_rate=0.25)
    with cx.train("m") as run:
        for number in range(4_000):
            clock.advance(1)
            run.step(loss=float(number), tokens=number)
    found = told(capture, "crucible.training.loss.value", "crucible.training.step_tokens")
    assert 835 < len(found) < 1_165
    assert all(loss == (tokens or 0) for loss, tokens in found)
    assert 4_000 == capture.value("crucible.training.steps")


@pytest.mark.parametrize(("remote", "flags"), [(False, 0), (True, 0), (True, 1)])
def test_the_parent_decides(capture: Capture, remote: bool, flags: int) -> None:
    """An unsampled one has no steps; a remote one has all of them, and is their remote parent."""
    capture.configure(step_sample_rate=1.0)
    above = SpanContext(2**100, 77, remote, TraceFlags(flags))
    before = otel_context.get_current()
    otel_context.attach(trace.set_span_in_context(NonRecordingSpan(above), Context()))
    for _ in range(10):
        cx.emit_step({"loss": 0.5})
    otel_context.attach(before)
    assert [above] * (10 * flags) == [span.parent for span in capture.named(NAME)]
    assert 10 == capture.value("crucible.training.steps")


def test_a_sampler_of_the_users_may_do_what_a_program_may(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked of each once, in whatever thread the records are folded, and may report and flush there."""

    def keeps(name: str) -> bool:
        if name == NAME:
            cx.memory.allocate(1, type="gpu", device="cuda:0")
            cx.call("a", "f").record(5, queue_ns=1, serialize_ns=1, execute_ns=1, deserialize_ns=1, nbytes=1)
            if sampler.names.count(NAME) == 1:
                assert capture.telemetry is not None
                capture.telemetry.flush(timeout_s=0.1)
        return True

    sampler = Asked(keeps)
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: sampler)
    capture.configure(step_sample_rate=1.0)
    with cx.train("m") as run:
        for _ in range(1_500):
            run.step(loss=0.5)
        assert 0 < sampler.names.count(NAME) < 1_500  # the first thousand, by whoever folded them
    assert 1_500 == len(capture.named(NAME)) == sampler.names.count(NAME)
    assert (1_500, 1_500) == (capture.value("crucible.training.steps"), capture.value("crucible.calls"))


def test_a_sampler_that_raises_costs_spans_and_nothing_else(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the loop, nor a collection, nor the spans of the steps it has nothing against."""

    def keeps(name: str) -> bool:
        if name == NAME and sampler.names.count(NAME) % 2:
            raise RuntimeError("a mistake")
        return True

    sampler = Asked(keeps)
    monkeypatch.setattr(providers, "sampler", lambda settings, environ: sampler)
    capture.configure(step_sample_rate=1.0)
    with cx.train("m") as run:
        for _ in range(1_500):
            run.step(loss=0.5)
        assert 1_500 == capture.value("crucible.training.steps")
        run.step(loss=0.5)
        run.step(loss=0.5)
    assert 1_502 == capture.value("crucible.training.steps")
    assert 751 == len(capture.named(NAME))
    assert 1 == sum("internal error" in record.message for record in caplog.records)


# -- life --------------------------------------------------------------------------------------------------------------


class Watching(SpanProcessor):
    """A processor of the user's."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_processor_of_the_users_sees_them_from_when_it_is_added(capture: Capture) -> None:
    """Those that wait too; each is there once, as it would be without it."""
    clock, watching = capture.stopped(step_sample_rate=1.0), Watching()
    provider: Any = trace.get_tracer_provider()
    with cx.train("m") as run:
        for number in range(30):
            clock.advance(1)
            run.step(loss=float(number), tokens=number)
            if number == 9:
                capture.flush()
            if number == 19:
                provider.add_span_processor(watching)
        capture.flush()
        assert [number * 1.0 for number in range(10, 30)] == [
            (span.attributes or {})["crucible.training.loss.value"] for span in watching.ended if span.name == NAME
        ]
    names = ("crucible.training.loss.value", "crucible.training.step_tokens", "crucible.result")
    assert [(float(number), number or None, "success") for number in range(30)] == told(capture, *names)
    spans = capture.named(NAME)
    assert {SECOND} == {(span.end_time or 0) - (span.start_time or 0) for span in spans}
    assert {"train m"} == set(map(capture.parent, spans))
    assert 30 == len({span.context.span_id for span in spans})


def test_an_applications_provider_makes_them_at_once(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each when it is reported, without a flush of ours."""
    exporter, theirs = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", theirs)
    clock = capture.stopped(step_sample_rate=1.0)
    with cx.train("m") as run:
        for number in range(1, 6):
            clock.advance(number)
            run.step(loss=0.5)
            spans = exporter.get_finished_spans()
            assert [NAME] * number == [span.name for span in spans]
            assert number * SECOND == (spans[-1].end_time or 0) - (spans[-1].start_time or 0)
    theirs.shutdown()


def test_a_handler_gets_each_and_each_has_its_span(capture: Capture) -> None:
    """Before it comes, while it is there and after."""
    clock = capture.stopped(step_sample_rate=1.0)
    with cx.train("m") as run:
        for number in range(30):
            if number == 10:
                seen = listen("crucible.training.step")
            if number == 20:
                cx.detach("seen")
            clock.advance(1)
            run.step(loss=float(number))
    assert [(float(number),) for number in range(30)] == told(capture, "crucible.training.loss.value")
    assert [float(number) for number in range(10, 20)] == [measurements["loss"] for _, measurements, _ in seen]


@NEEDS_FORK
def test_a_child_has_its_own_steps_only(capture: Capture) -> None:
    """The parent's are its own to send."""
    capture.configure(step_sample_rate=1.0)
    with cx.train("m") as run:
        for _ in range(20):
            run.step(loss=0.5)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(30):
                    run.step(loss=0.25)
                found = (len(capture.named(NAME)), capture.value("crucible.training.steps"))
                status = 0 if found == (30, 30) else 2
            finally:
                os._exit(status)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (20, 20) == (len(capture.named(NAME)), capture.value("crucible.training.steps"))


def test_steps_after_the_end_are_not_kept(capture: Capture) -> None:
    """A loop that goes on after a shutdown has no memory of it."""
    capture.configure(step_sample_rate=1.0)
    buffer = trace.get_tracer_provider().hot.buffer  # type: ignore[attr-defined]
    run = cx.train("m").start()
    run.step(loss=0.5)
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(30)
    for _ in range(30_000):
        run.step(loss=0.5)
    assert len(buffer.records) + sum(map(len, buffer.columns)) < 20_000
    assert 1 == len(capture.named(NAME))


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_without_an_exporter_or_a_sampled_trace_nothing_is_kept(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """But counted all the same."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    capture.configure(span_exporter=None, step_sample_rate=1.0)
    with cx.train("m") as run:
        for _ in range(10_000):
            run.step(loss=0.5)
    assert 10_000 == capture.value("crucible.training.steps")
    buffer = trace.get_tracer_provider().hot.buffer  # type: ignore[attr-defined]
    assert buffer.full >= len(buffer.records) + sum(map(len, buffer.columns))


def test_threads_amid_flushes_lose_and_double_nothing(capture: Capture) -> None:
    """Four loops, and another thread that flushes; then all ends."""
    capture.configure(step_sample_rate=1.0, trace_span_limit=100_000)
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            capture.flush()

    def work() -> None:
        with cx.train("m") as run:
            for _ in run.epochs(2):
                for _ in range(1_000):
                    run.step(loss=0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    flushing = threading.Thread(target=flush)
    for thread in (*threads, flushing):
        thread.start()
    for thread in threads:
        thread.join(120)
    over.set()
    flushing.join(120)
    assert capture.telemetry is not None
    assert capture.telemetry.shutdown(60)
    spans = capture.spans
    assert {NAME: 8_000, "train_epoch": 8, "train m": 4} == Counter(span.name for span in spans)
    names = {span.context.span_id: span.name for span in spans}
    assert len(spans) == len(names)
    by_epoch = Counter(span.parent.span_id for span in spans if span.parent and span.name == NAME)
    assert {1_000} == set(by_epoch.values())
    assert {"train_epoch"} == {names[parent] for parent in by_epoch}
    assert 8_000 == sum(point.value for point in capture.points("crucible.training.steps"))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
def test_a_signal_handler_may_report_and_flush_whatever_it_interrupts(capture: Capture) -> None:
    """Even a fold: its steps wait, and its flush ends when its time is over."""
    capture.configure(step_sample_rate=1.0)
    delivered: list[bool] = []

    def handler(number: int, frame: Any) -> None:
        for _ in range(3_000):
            run.step(loss=0.25)
        assert capture.telemetry is not None
        delivered.append(capture.telemetry.flush(timeout_s=0.2))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        engine: Any = runtime().engine
        with cx.train("m") as run:
            run.step(loss=0.5)
            with engine.lock:
                signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [False] == delivered
    assert (3_001, 3_001) == (capture.value("crucible.training.steps"), len(capture.named(NAME)))
