"""Metrics as bytes, against what the SDK's encoder makes of the same collection."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal.metrics_encoder import EncodingException
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as by_sdk
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.export.encode_metrics import encode_metrics
from crucible_otel.export.pace import Pace
from tests.export.attributes import ATTRIBUTES, EVERY_TIME_THE_SAME, TEXT, TIMES

RESOURCES = [Resource({}), Resource({"service.name": "train"}, "https://opentelemetry.io/schemas/1.30.0")]
SCOPES = [InstrumentationScope("a"), InstrumentationScope("a", "1.0", "https://example.org", {"x": (1, 2)})]
COUNTS = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats()
IDS = st.none() | st.integers(0, 2**64 - 1)
EXEMPLARS = st.lists(st.builds(Exemplar, ATTRIBUTES, NUMBERS, TIMES, IDS, IDS), max_size=2)
NUMBER_POINTS = st.lists(
    st.builds(NumberDataPoint, ATTRIBUTES, st.none() | TIMES, TIMES, NUMBERS, EXEMPLARS), max_size=3
)
HISTOGRAM_POINTS = st.lists(
    st.builds(
        HistogramDataPoint,
        ATTRIBUTES,
        TIMES,
        TIMES,
        COUNTS,
        st.floats(),
        st.lists(COUNTS, max_size=4).map(tuple),
        st.lists(st.floats(), max_size=3),
        st.none() | st.floats(),
        st.none() | st.floats(),
        EXEMPLARS,
    ),
    max_size=3,
)
TEMPORALITIES = st.sampled_from(AggregationTemporality)
METRICS = st.builds(
    Metric,
    TEXT,
    st.none() | TEXT,
    st.none() | TEXT,
    st.builds(Gauge, NUMBER_POINTS)
    | st.builds(Sum, NUMBER_POINTS, TEMPORALITIES, st.booleans())
    | st.builds(Histogram, HISTOGRAM_POINTS, TEMPORALITIES),
)


def collection(*scopes: list[Metric], resource: Resource = RESOURCES[1]) -> MetricsData:
    """Make a collection of a resource, with a scope for each list."""
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [ScopeMetrics(scope, metrics, "") for scope, metrics in zip(SCOPES, scopes, strict=False)],
                "",
            )
        ]
    )


def points(data: MetricsData) -> int:
    """Count."""
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


@EVERY_TIME_THE_SAME
@given(st.lists(st.lists(METRICS, max_size=3), max_size=2), st.sampled_from(RESOURCES))
def test_metrics_are_written_as_the_sdk_writes_them(scopes: list[list[Metric]], resource: Resource) -> None:
    """Byte for byte: kinds, temporality, values, buckets, exemplars, attributes, resources, scopes."""
    data = collection(*scopes, resource=resource)
    assert (by_sdk(data).SerializeToString(), points(data), 0) == encode_metrics(data, Pace())[:3]


def test_what_an_application_has_recorded_is_written_as_the_sdk_writes_it() -> None:
    """Real instruments, an exponential histogram among them, which the SDK writes."""
    aggregation = {HistogramInstrument: ExponentialBucketHistogramAggregation()}
    reader = InMemoryMetricReader(preferred_aggregation=aggregation)
    provider = MeterProvider([reader], resource=RESOURCES[1], shutdown_on_exit=False)
    for name in "ab":
        meter = provider.get_meter(name, "1.0", "https://example.org", {"x": 1})
        meter.create_counter("c", "1", "calls").add(3, {"k": "v"})
        meter.create_up_down_counter("u").add(-2.5)
        meter.create_gauge("g").set(7)
        meter.create_histogram("h", "s").record(0.25, {"k": 1})
    data = reader.get_metrics_data()
    assert data is not None
    assert (by_sdk(data).SerializeToString(), 8, 0) == encode_metrics(data, Pace())[:3]


@pytest.mark.parametrize(
    "bad",
    [
        Gauge([NumberDataPoint({}, 0, 1, 2**64), NumberDataPoint({}, 0, 1, 2)]),
        Sum([NumberDataPoint({}, 0, 1, "many")] * 2, AggregationTemporality.DELTA, True),  # type: ignore[arg-type]
        Histogram(
            [HistogramDataPoint({}, 0, 1, -1, 0.0, (), (), math.nan, math.nan)] * 2, AggregationTemporality.DELTA
        ),
    ],
    ids=lambda data: type(data).__name__,
)
def test_a_metric_that_cannot_be_written_costs_only_itself(bad: Any) -> None:
    """Its points are counted; with the SDK's encoder the whole collection is lost."""
    good = Metric("good", "", "", Gauge([NumberDataPoint({}, 0, 1, 2.0)]))
    with pytest.raises(EncodingException):
        by_sdk(collection([Metric("bad", "", "", bad), good]))
    written = encode_metrics(collection([Metric("bad", "", "", bad), good]), Pace())[:3]
    assert (by_sdk(collection([good])).SerializeToString(), 1, 2) == written


def test_it_pauses_between_points() -> None:
    """As often as its slices are over, within a metric, too."""
    clock, pauses = iter(range(10**6)), list[float]()
    pace = Pace(lambda: next(clock) * 1e-4, pauses.append)
    encode_metrics(collection([Metric("g", "", "", Gauge([NumberDataPoint({}, 0, 1, 2.0)] * 1000))]), pace)
    assert len(pauses) > 3
