"""The engine: folding, snapshots, the cap, diversion, exemplars, forks."""

from __future__ import annotations

import gc
import math
import os

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from crucible_otel.otel.engine import FOLD_AT
from crucible_otel.otel.snapshot import Histogram
from crucible_otel.semconv.dataset import BATCH_EVENT
from crucible_otel.semconv.names import OVERFLOW
from crucible_otel.semconv.training import EVALUATION_METRIC, STEP_CURRENT, STEP_DURATION, STEP_EVENT, STEPS
from crucible_otel.semconv.workflow import RUN_ACTIVE, RUN_INFO

from .engines import engine, histogram, points, value

STEP = "crucible.training.steps"
DURATION = "crucible.training.step.duration"


def test_a_snapshot_shows_what_is_not_folded_yet() -> None:
    """Three steps are in the next collection, although a chunk has far more."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for _ in range(3):
        clock.advance(0.2)
        handle.record(loss=1.5, learning_rate=0.1, gradient_norm=2.0, tokens=7, samples=4)
    assert value(one, STEP) == 3
    assert value(one, "crucible.training.tokens") == 21
    assert value(one, "crucible.training.samples") == 12
    assert value(one, "crucible.training.loss") == 1.5
    assert value(one, "crucible.training.step.current") == 3
    found = histogram(one, DURATION)
    assert (found.count, round(found.sum, 6), round(found.min, 6), round(found.max, 6)) == (3, 0.6, 0.2, 0.2)
    assert found.buckets[STEP_DURATION.buckets.index(0.25)] == 3


@pytest.mark.parametrize("size", [1, FOLD_AT - 1, FOLD_AT, FOLD_AT + 1, 2500])
def test_every_bucket_gets_what_bisection_would_give_it(size: int) -> None:
    """Folding by extremes and cuts equals folding value by value."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    expected = [0] * (len(STEP_DURATION.buckets) + 1)
    for index in range(size):
        took = (index * 37 % 101) / 100 + (0.005 if index % 3 else 0.0)
        handle.commit(clock.now(), took, None, None, None, 0, 0, None, None)
        expected[sum(bound < took for bound in STEP_DURATION.buckets)] += 1
    assert histogram(one, DURATION).buckets == tuple(expected)


def test_a_missing_value_leaves_no_series() -> None:
    """No zero for what was never reported."""
    one, clock, _ = engine()
    clock.advance(1)
    one.handle(STEP_EVENT, ("m",), None, {}).record(loss=1.0)
    names = {metric.spec.name for metric in one.snapshot().metrics}
    assert names == {STEP, DURATION, "crucible.training.loss", "crucible.training.step.current"}


def test_a_handle_that_recorded_nothing_has_no_series() -> None:
    """A run that made no step does not report zero steps of nothing."""
    one, _, _ = engine()
    one.handle(STEP_EVENT, ("m",), None, {})
    assert one.snapshot().metrics == ()


def test_nonfinite_values_stop_the_gauge_and_are_told_once_per_transition() -> None:
    """NaN is counted each time, told once, and the gauge comes back with the next finite value."""
    one, _, reports = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for loss in (1.0, math.nan, math.nan, math.inf):
        handle.record(loss=loss)
    assert value(one, "crucible.training.loss") is None
    assert value(one, "crucible.training.nonfinite") == 3
    bad = [each for each in reports if each["name"] == "crucible.training.nonfinite"]
    assert [(each["metadata"]["signal"], each["metadata"]["value"], each["metadata"]["step"]) for each in bad] == [
        ("loss", "NaN", 2)
    ]
    handle.record(loss=-2.0)
    assert value(one, "crucible.training.loss") == -2.0
    handle.record(loss=-math.inf)
    one.snapshot()
    bad = [each for each in reports if each["name"] == "crucible.training.nonfinite"]
    assert [each["metadata"]["value"] for each in bad] == ["NaN", "-Infinity"]


def test_a_nonfinite_loss_is_told_without_waiting_for_a_collection() -> None:
    """The record that is due for the log is looked at on the spot."""
    one, clock, reports = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    handle.record(loss=1.0)
    clock.advance(2.0)
    handle.record(loss=math.nan)
    assert [each["name"] for each in reports][-1] == "crucible.training.nonfinite"


def test_unusable_values_are_counted_and_change_nothing() -> None:
    """Text for a gauge and negative tokens are refused."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    handle.record(loss="high", gradient_norm="big", tokens=-3)
    handle.record(tokens=5)
    assert value(one, STEP) == 2
    assert value(one, "crucible.training.tokens") == 5
    assert value(one, "crucible.training.loss") is None
    assert value(one, "crucible.sdk.refused_attributes") >= 2


def test_attribute_sets_beyond_the_limit_share_one_series() -> None:
    """Models are capped; nothing is lost and the overflow is counted."""
    one, clock, _ = engine(limit=3)
    for index in range(5):
        clock.advance(1)
        one.handle(STEP_EVENT, (f"model-{index}",), None, {}).record(loss=float(index))
    by_model = {tuple(point.attributes.items()): point.value for point in points(one, STEP)}
    assert by_model[((OVERFLOW, True),)] == 2
    assert sum(by_model.values()) == 5
    assert value(one, "crucible.sdk.series.overflows") == 2


def test_structural_metrics_are_capped_too() -> None:
    """Evaluation metrics with unbounded names end in the overflow series."""
    one, _, _ = engine(limit=3)
    for index in range(10):
        one.update(EVALUATION_METRIC, "set", ("m", "validation", f"name-{index}"), float(index))
    found = points(one, EVALUATION_METRIC.name)
    assert len(found) == 4
    assert any(point.attributes == {OVERFLOW: True} for point in found)


def test_a_gauge_can_end_and_an_up_down_counter_goes_both_ways() -> None:
    """``off`` takes the point away; +1 and -1 meet in one series."""
    one, _, _ = engine()
    one.update(RUN_INFO, "set", ("w", "r"), 1)
    one.update(RUN_ACTIVE, "sum", ("w",), 1)
    assert value(one, RUN_INFO.name) == 1
    one.update(RUN_INFO, "off", ("w", "r"), 1)
    one.update(RUN_ACTIVE, "sum", ("w",), -1)
    assert value(one, RUN_INFO.name) is None
    assert value(one, RUN_ACTIVE.name) == 0


def test_diverted_metrics_leave_the_snapshot_and_are_drained_once() -> None:
    """Counters give deltas, histograms every value, gauges their points on request."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    one.divert([STEPS, STEP_DURATION, STEP_CURRENT])
    for _ in range(300):
        clock.advance(0.01)
        handle.record(loss=1.0)
    assert {metric.spec.name for metric in one.snapshot().metrics} == {"crucible.training.loss"}
    drained = {spec.name: values for spec, _, values in one.drain_diverted()}
    assert drained[STEP] == [300]
    assert [round(each, 6) for each in drained[DURATION]] == [0.01] * 300
    assert [point.value for point in one.gauge_points(STEP_CURRENT)] == [300]
    assert one.drain_diverted() == []
    handle.record(loss=1.0)
    assert {spec.name: len(values) for spec, _, values in one.drain_diverted()} == {STEP: 1, DURATION: 1}


def test_the_buffer_of_diverted_values_is_bounded_and_counted() -> None:
    """What does not fit until the next drain is dropped and counted."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    one.divert([STEP_DURATION], limit=10)
    for _ in range(25):
        clock.advance(0.01)
        handle.record(loss=1.0)
    assert [len(values) for spec, _, values in one.drain_diverted() if spec is STEP_DURATION] == [10]
    assert value(one, "crucible.sdk.dropped") == 15


def test_an_exemplar_is_the_trace_of_the_folds_last_record() -> None:
    """Read once a fold, from the span that is current then; never from an unsampled one."""
    one, clock, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with tracer.start_as_current_span("train") as span:
        for _ in range(FOLD_AT):
            clock.advance(0.3)
            handle.record(loss=1.0)
    (point,) = points(one, DURATION)
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id, exemplar.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert round(exemplar.value, 6) == 0.3


@pytest.mark.parametrize(("filtered", "sampled"), [("trace_based", False), ("always_off", True)])
def test_no_exemplar_where_the_filter_says_no(filtered: str, sampled: bool) -> None:
    """An unsampled span gives none, and neither does a sampled one when exemplars are off."""
    one, clock, _ = engine(exemplars=filtered)
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    provider = TracerProvider(shutdown_on_exit=False) if sampled else TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    with trace.use_span(provider.get_tracer("t").start_span("train")):
        for _ in range(FOLD_AT):
            clock.advance(0.3)
            handle.record(loss=1.0)
    assert points(one, DURATION)[0].exemplars == ()


def test_given_measurements_need_no_clock() -> None:
    """A batch records what it is given; a wait that was not given is no measurement."""
    one, _, _ = engine()
    handle = one.bound(BATCH_EVENT, ("digits",))
    handle.record(batch_size=32, wait_time=0.02)
    handle.record(batch_size=16)
    assert value(one, "crucible.dataset.batches") == 2
    assert value(one, "crucible.dataset.records") == 48
    assert histogram(one, "crucible.dataset.batch.size").count == 2
    assert histogram(one, "crucible.dataset.batch.wait_time").count == 1
    assert one.bound(BATCH_EVENT, ("digits",)) is handle


def test_memory_does_not_grow_with_events() -> None:
    """100,000 steps leave as many objects as 1,000 did."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for _ in range(1_000):
        handle.record(loss=1.0, tokens=1)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100_000):
        handle.record(loss=1.0, tokens=1)
    gc.collect()
    assert len(gc.get_objects()) - before < 50
    assert value(one, STEP) == 101_000


def test_a_forked_child_starts_from_zero() -> None:
    """The child reports its own steps; a lock that somebody held at the fork does not hold it up."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for _ in range(300):
        handle.record(loss=1.0)
    one.update(RUN_ACTIVE, "sum", ("w",), 1)
    read, write = os.pipe()
    one.lock.acquire()
    child = os.fork()
    if child == 0:
        handle.record(loss=2.0)
        found = {metric.spec.name: metric.points[0].value for metric in one.snapshot().metrics}
        duration = found[DURATION]
        assert isinstance(duration, Histogram)
        os.write(write, repr((found[STEP], duration.count, found.get(RUN_ACTIVE.name))).encode())
        os._exit(0)
    one.lock.release()
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == repr((1, 1, None))
    assert value(one, STEP) == 300
