"""What goes wrong while records of handles are folded costs what it went wrong with, and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.otel.engine import FOLD_AT
from crucible_otel.semconv.training import STEP_EVENT
from tests.captured import Capture

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

STEPS = "crucible.training.steps"
FAULTS = "crucible.sdk.faults"


class Nameless(NonRecordingSpan):
    """A span of somebody else's that does not say what it is."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        raise RuntimeError("not said")


NAMELESS, SOUND = (
    trace.set_span_in_context(span, Context())
    for span in (Nameless(), NonRecordingSpan(SpanContext(2**100, 77, False, TraceFlags(1))))
)


def steps_in(context: Context, number: int) -> None:
    """Report steps in a context."""
    before = otel_context.get_current()
    otel_context.attach(context)
    try:
        for _ in range(number):
            cx.emit_step({"loss": 0.5})
    finally:
        otel_context.attach(before)


def said(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Return what was logged, and how often."""
    return Counter(record.message for record in caplog.records)


SAID = {f"internal error in {STEP_EVENT.name}: RuntimeError; counted from now on": 1}


def test_what_has_no_parent_to_be_found_costs_its_spans(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever folds, the program's own loop or a collection: each step is counted once, and the others have spans."""
    capture.stopped(step_sample_rate=1.0, events="off")
    steps_in(SOUND, 10)
    steps_in(NAMELESS, FOLD_AT)  # the fold is theirs
    assert 1 == sum(said(caplog).values())
    assert (FOLD_AT + 10, 10) == (capture.value(STEPS), len(capture.named("train_step")))
    steps_in(NAMELESS, 5)
    steps_in(SOUND, 5)
    assert (FOLD_AT + 20, 15) == (capture.value(STEPS), len(capture.named("train_step")))
    assert SAID == said(caplog)
    assert 3 == capture.value(
        FAULTS, crucible__sdk__component=STEP_EVENT.name
    )  # two folds of the first, one of the rest


def test_so_it_does_where_the_application_makes_them(
    capture: Capture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, as the steps are reported."""
    exporter, theirs = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", theirs)
    capture.stopped(step_sample_rate=1.0, events="off")
    for context in (NAMELESS, SOUND, NAMELESS):
        steps_in(context, 10)
    assert 30 == capture.value(STEPS)
    assert ["train_step"] * 10 == [span.name for span in exporter.get_finished_spans()]
    assert SAID == said(caplog)
    assert 20 == capture.value(FAULTS, crucible__sdk__component=STEP_EVENT.name)


def test_it_costs_exemplars_too(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """Which are counted."""
    capture.stopped(events="off")
    steps_in(NAMELESS, 1)  # the first one is a log event, and folded at once
    steps_in(NAMELESS, FOLD_AT + 3)
    assert FOLD_AT + 4 == capture.value(STEPS)
    assert 2 == capture.value(FAULTS, crucible__sdk__component="exemplar")
    assert {} == said(caplog)


@pytest.mark.parametrize("where", ["fold_now", "hurry"])
def test_a_fault_in_a_fold_is_not_the_loops(
    capture: Capture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It is counted and said; what it left undone is lost, and nothing comes twice."""
    capture.configure(step_sample_rate=1.0)
    family = runtime().engine.families[STEP_EVENT.name]  # type: ignore[attr-defined]

    def broken(*args: Any, **more: Any) -> None:
        raise RuntimeError("inside")

    with cx.train("m") as run:
        with monkeypatch.context() as patched:
            if where == "fold_now":
                patched.setattr(family, "_folds", ((None, broken),))
            else:
                patched.setattr(family.spans, "hurry", broken)
            for _ in range(FOLD_AT):
                run.step(loss=0.5)
        for _ in range(3):
            run.step(loss=0.5)
        assert 3 + FOLD_AT * (where == "hurry") == capture.value(STEPS)
    assert SAID == said(caplog)
    assert 1 == capture.value(FAULTS, crucible__sdk__component=STEP_EVENT.name)
