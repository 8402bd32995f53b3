"""Snapshots become the SDK's points."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.points import PointBuilder
from crucible_otel.export.scope import own_scope
from crucible_otel.otel.snapshot import Exemplar, MetricSnapshot, Point, Snapshot
from crucible_otel.otel.snapshot import Histogram as HistogramValue
from crucible_otel.semconv.model import MetricKind
from crucible_otel.semconv.names import OVERFLOW
from tests.export.fake_source import ACTIVE, DURATION, LOSS, START, STEPS, FakeSource

DELTA = AggregationTemporality.DELTA
CUMULATIVE = AggregationTemporality.CUMULATIVE
ALL_DELTA: dict[MetricKind, AggregationTemporality] = {
    "counter": DELTA,
    "histogram": DELTA,
    "updowncounter": DELTA,
    "gauge": DELTA,
}
S = 1_000_000_000


def by_name(metrics: list[Metric]) -> dict[str, Any]:
    """Return each metric's data."""
    return {metric.name: metric.data for metric in metrics}


def encoded(metrics: list[Metric]) -> Any:
    """Return the metrics as the OTLP exporter sends them."""
    scope = own_scope()
    data = MetricsData(
        [ResourceMetrics(Resource({}), [ScopeMetrics(scope, metrics, scope.schema_url or "")], schema_url="")]
    )
    return {one.name: one for one in encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics}


def test_cumulative_points_are_the_snapshot_itself() -> None:
    """Each kind becomes its SDK type, with times, bounds, minimum and maximum."""
    source, builder = FakeSource(), PointBuilder({})
    source.add(STEPS, 2, model="m")
    source.add(ACTIVE, 1)
    source.add(LOSS, 0.5)
    for value in (0.05, 0.5, 5.0, 50.0):
        source.add(DURATION, value)

    data = by_name(builder.build(source.snapshot()))

    counter, active, duration, loss = (
        data["test.steps"],
        data["test.active"],
        data["test.step.duration"],
        data["test.loss"],
    )
    assert (Sum, True, CUMULATIVE) == (type(counter), counter.is_monotonic, counter.aggregation_temporality)
    assert (Sum, False) == (type(active), active.is_monotonic)
    assert (Histogram, CUMULATIVE) == (type(duration), duration.aggregation_temporality)
    assert Gauge is type(loss)
    assert ({"model": "m"}, START, START + S, 2) == (
        counter.data_points[0].attributes,
        counter.data_points[0].start_time_unix_nano,
        counter.data_points[0].time_unix_nano,
        counter.data_points[0].value,
    )
    point = duration.data_points[0]
    assert (4, 55.55, 0.05, 50.0, (1, 1, 1, 1), (0.1, 1.0, 10.0)) == (
        point.count,
        point.sum,
        point.min,
        point.max,
        point.bucket_counts,
        point.explicit_bounds,
    )


def test_delta_points_are_the_difference_to_the_previous_collection() -> None:
    """The second interval starts where the first ended and holds only what came in it."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(STEPS, 2)
    source.add(DURATION, 0.5)
    first = by_name(builder.build(source.snapshot()))
    source.add(STEPS, 3)
    source.add(DURATION, 5.0)
    source.add(DURATION, 0.05)

    second = by_name(builder.build(source.snapshot()))

    steps = [data["test.steps"].data_points[0] for data in (first, second)]
    assert [(2, START, START + S), (3, START + S, START + 2 * S)] == [
        (point.value, point.start_time_unix_nano, point.time_unix_nano) for point in steps
    ]
    durations = [data["test.step.duration"].data_points[0] for data in (first, second)]
    assert [(1, 0.5, (0, 1, 0, 0)), (2, 5.05, (1, 0, 1, 0))] == [
        (point.count, round(point.sum, 9), point.bucket_counts) for point in durations
    ]
    assert DELTA == second["test.steps"].aggregation_temporality


def test_minimum_and_maximum_of_an_interval_are_left_out_once_unknown() -> None:
    """Of the first interval they are those of the series; later ones cannot be had, and OTLP has them unset."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(DURATION, 0.5)
    first = encoded(builder.build(source.snapshot()))["test.step.duration"].histogram.data_points[0]
    source.add(DURATION, 5.0)

    second = encoded(builder.build(source.snapshot()))["test.step.duration"].histogram.data_points[0]

    assert (0.5, 0.5) == (first.min, first.max)
    assert (False, False) == (second.HasField("min"), second.HasField("max"))
    assert (1, 5.0, [0, 0, 1, 0]) == (second.count, second.sum, list(second.bucket_counts))


def test_a_series_without_measurements_has_no_delta_point() -> None:
    """As with the SDK's synchronous instruments; a metric without points is left out, a gauge keeps its value."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(STEPS, 1, model="a")
    source.add(STEPS, 1, model="b")
    source.add(DURATION, 0.5)
    source.add(LOSS, 0.5)
    builder.build(source.snapshot())
    source.add(STEPS, 1, model="b")

    data = by_name(builder.build(source.snapshot()))

    assert {"test.steps", "test.loss"} == set(data)
    assert [({"model": "b"}, 1)] == [(point.attributes, point.value) for point in data["test.steps"].data_points]


def test_a_series_that_begins_later_starts_with_the_interval_it_was_made_in() -> None:
    """Never before its own start, never before the previous collection."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(STEPS, 1, model="a")
    builder.build(source.snapshot())
    source.add(STEPS, 1, model="b")
    source.start = START + S + 5
    source.add(STEPS, 1, model="c")

    data = by_name(builder.build(source.snapshot()))

    assert [("b", START + S), ("c", START + S + 5)] == [
        (point.attributes["model"], point.start_time_unix_nano) for point in data["test.steps"].data_points
    ]


def test_a_restarted_series_is_all_new() -> None:
    """A new start time, as after a fork, means that nothing of the value was reported, however it compares."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(STEPS, 5)
    source.add(DURATION, 0.5)
    builder.build(source.snapshot())
    source.restart()
    source.add(STEPS, 7)
    source.add(DURATION, 5.0)

    data = by_name(builder.build(source.snapshot()))

    assert [(7, START + S + 1)] == [
        (point.value, point.start_time_unix_nano) for point in data["test.steps"].data_points
    ]
    assert [(1, (0, 0, 1, 0))] == [
        (point.count, point.bucket_counts) for point in data["test.step.duration"].data_points
    ]


def test_an_up_down_counter_has_negative_deltas() -> None:
    """Going down is a measurement like any."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(ACTIVE, 2)
    builder.build(source.snapshot())
    source.add(ACTIVE, -1)

    assert [-1] == [point.value for point in by_name(builder.build(source.snapshot()))["test.active"].data_points]


def test_a_failed_build_leaves_the_deltas_for_the_next() -> None:
    """What could not be built is not lost: the state moves on only with a whole collection."""
    source, builder = FakeSource(), PointBuilder(ALL_DELTA)
    source.add(STEPS, 1)
    builder.build(source.snapshot())
    source.add(STEPS, 2)
    snapshot = source.snapshot()
    broken = MetricSnapshot(replace(DURATION, kind="unheard of"), (Point({}, 1.0, START),))  # type: ignore[arg-type]
    failed = False
    try:
        builder.build(Snapshot(snapshot.time_unix_nano, (*snapshot.metrics, broken)))
    except Exception:
        failed = True

    assert failed
    assert [2] == [point.value for point in by_name(builder.build(source.snapshot()))["test.steps"].data_points]


def test_what_is_not_finite_is_absent() -> None:
    """A NaN or infinite number never leaves; neither does a histogram without a value."""
    source, builder = FakeSource(), PointBuilder({})
    source.add(LOSS, math.nan)
    source.add(STEPS, math.inf)
    empty = MetricSnapshot(DURATION, (Point({}, HistogramValue(0, 0.0, math.inf, -math.inf, (0, 0, 0, 0)), START),))
    snapshot = source.snapshot()

    assert [] == builder.build(Snapshot(snapshot.time_unix_nano, (*snapshot.metrics, empty)))


def test_a_number_beyond_64_bits_does_not_break_the_export() -> None:
    """The encoder would raise for it, and lose everything."""
    source, builder = FakeSource(), PointBuilder({})
    source.add(STEPS, 2**70, model="big")
    source.add(STEPS, 2**2000, model="absurd")

    points = encoded(builder.build(source.snapshot()))["test.steps"].sum.data_points

    assert [2.0**70] == [point.as_double for point in points]


def test_an_exemplar_is_reported_once_with_its_span() -> None:
    """It belongs to the interval in which it was sampled, under either temporality."""
    source, builder = FakeSource(), PointBuilder({})
    exemplar = Exemplar(0.5, START + 1, 0xABC, 0xDEF)
    source.add(DURATION, 0.5, (exemplar,))
    first = encoded(builder.build(source.snapshot()))["test.step.duration"].histogram.data_points[0]

    second = encoded(builder.build(source.snapshot()))["test.step.duration"].histogram.data_points[0]

    assert [(0.5, (0xABC).to_bytes(16, "big"), (0xDEF).to_bytes(8, "big"))] == [
        (one.as_double, one.trace_id, one.span_id) for one in first.exemplars
    ]
    assert [] == list(second.exemplars)


def test_the_overflow_series_keeps_its_attribute() -> None:
    """It is a boolean in OTLP, as the specification has it."""
    source, builder = FakeSource(), PointBuilder({})
    source.add(STEPS, 1, **{OVERFLOW: True})

    point = encoded(builder.build(source.snapshot()))["test.steps"].sum.data_points[0]

    assert [(OVERFLOW, True)] == [(one.key, one.value.bool_value) for one in point.attributes]
