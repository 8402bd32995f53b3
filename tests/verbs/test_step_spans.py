"""Training steps as spans: none unless asked for, each when asked for all."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

SECOND = 1_000_000_000


def steps(capture: Capture) -> list[Any]:
    """The spans of training steps."""
    return capture.named("train_step")


def test_by_default_a_step_has_no_span(capture: Capture) -> None:
    """The spans are those of the run and its epochs."""
    capture.configure()
    with cx.train("m") as run:
        run.step(loss=0.5)
    assert ["/train m"] == capture.paths()


def test_each_step_of_the_loop_is_a_span_of_its_epoch(capture: Capture) -> None:
    """From the arrival of its batch to the next; with what was logged, and nothing that was not."""
    clock = capture.stopped(step_sample_rate=1.0)
    with cx.train("m") as run:
        for _ in run.epochs(2):
            for _, step in run.steps([[1, 2], [3, 4]]):
                clock.advance(2.0)
                step.log(loss=0.5, tokens=10)
    assert ["/train m"] + ["/train m/train_epoch"] * 2 + ["/train m/train_epoch/train_step"] * 4 == capture.paths()
    assert [1, 2, 3, 4] == [span.attributes["crucible.training.step"] for span in steps(capture)]
    assert {2 * SECOND} == {span.end_time - span.start_time for span in steps(capture)}
    assert {
        "crucible.model.name": "m",
        "crucible.training.epoch": 0,
        "crucible.training.step": 1,
        "crucible.training.loss.value": 0.5,
        "crucible.training.step_tokens": 10,
        "crucible.training.step_samples": 2,
        "crucible.training.step_data_wait": 0.0,
        "crucible.result": "success",
    } == dict(steps(capture)[0].attributes)
    assert 4 == capture.value("crucible.training.steps")


def test_a_step_that_is_reported_is_a_span_from_the_one_before(capture: Capture) -> None:
    """Outside all epochs it belongs to the run, wherever it is reported from."""
    clock = capture.stopped(step_sample_rate=1.0)
    run = cx.train("m").start()
    with cx.stage("other"):
        clock.advance(3.0)
        run.step(loss=0.5, step=7)
    run.finish()
    (span,) = steps(capture)
    assert ("train m", 3 * SECOND) == (capture.parent(span), span.end_time - span.start_time)
    assert {"crucible.model.name", "crucible.result", "crucible.training.loss.value", "crucible.training.step"} == set(
        span.attributes
    )


def test_steps_of_the_slow_road_are_spans_too(capture: Capture) -> None:
    """A handler that listens, further metrics, a tensor: each step has one span all the same."""
    capture.configure(step_sample_rate=1.0)
    seen = listen("crucible.training.step")
    with cx.train("m") as run:
        run.step(loss=0.5, metrics={"ppl": 2.0})
        for _, step in run.steps([[1]]):
            step.log(loss=0.25)
    assert (2, 2) == (len(steps(capture)), len(seen))


def test_a_share_of_the_steps(capture: Capture) -> None:
    """About that many; metrics count all, and a seeded generator of the program's has no part in it."""
    capture.configure(step_sample_rate=0.25)
    random.seed(1)
    with cx.train("m") as run:
        for _ in range(400):
            run.step(loss=0.5)
    assert 40 < len(steps(capture)) < 180
    assert 400 == capture.value("crucible.training.steps")


def test_an_unsampled_trace_has_no_steps_either(capture: Capture) -> None:
    """The rate is that within a trace."""
    capture.configure(step_sample_rate=1.0, sample_rate=0.0)
    with cx.train("m") as run:
        run.step(loss=0.5)
    assert () == capture.spans


def test_a_processor_of_the_user_s_sees_them_start(capture: Capture) -> None:
    """From when it is added on the SDK makes the spans, with the same attributes and parents."""

    class Starts(SpanProcessor):
        def __init__(self) -> None:
            self.names: list[str] = []

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            self.names.append(span.name)

    capture.configure(step_sample_rate=1.0)
    starts = Starts()
    trace.get_tracer_provider().add_span_processor(starts)  # type: ignore[attr-defined]
    with cx.train("m") as run:
        run.step(loss=0.5, step=3)
    assert ["/train m", "/train m/train_step"] == capture.paths()
    assert ["train m", "train_step"] == starts.names
    assert 3 == steps(capture)[0].attributes["crucible.training.step"]
