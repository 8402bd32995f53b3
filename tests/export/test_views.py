"""Metrics that a View or a reader treats specially go the SDK's way; this file fails on an SDK we do not know."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, ExponentialHistogram, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)

from crucible_otel.export.views import altered_kinds, metrics_to_divert, named_by_views, temporalities
from crucible_otel.semconv.names import SCOPE_NAME
from crucible_otel.semconv.sdk import ANCHOR
from tests.export.collected import KeepingExporter, metrics_of, points_of, values_of
from tests.export.fake_source import ACTIVE, DURATION, LOSS, SPECS, STEPS, UTILIZATION, FakeSource
from tests.export.ways import Built, Way

BASE2 = "base2_exponential_bucket_histogram"


def pipeline(way: Way, source: FakeSource, reader: Any, *views: View) -> Built:
    """Return a pipeline with a user's Views."""
    return way.build(source, reader, views=views)


def fill(source: FakeSource) -> None:
    """Give every metric a value."""
    source.add(STEPS, 2, model="a", shard=1)
    source.add(STEPS, 1, model="a", shard=2)
    source.add(ACTIVE, 1)
    source.add(DURATION, 0.5)
    source.add(DURATION, 5.0)
    source.add(LOSS, 0.25)
    source.add(UTILIZATION, 0.5)


@pytest.mark.parametrize(
    ("view", "named"),
    [
        (View(instrument_name="test.steps"), (STEPS,)),
        (View(instrument_name="test.step*"), (STEPS, DURATION)),
        (View(instrument_name="*"), SPECS),
        (View(instrument_unit="s"), (DURATION,)),
        (View(instrument_type=UpDownCounter), (ACTIVE,)),
        (View(meter_name=SCOPE_NAME), SPECS),
        (View(meter_name="another"), ()),
        (View(instrument_name="user.*"), ()),
    ],
)
def test_views_name_metrics_by_all_their_criteria(view: View, named: tuple[Any, ...]) -> None:
    """Whatever the SDK would match, with our scope, unit and kind."""
    assert named == named_by_views(SPECS, [view])


def test_a_view_gets_sdk_instruments_and_all_values(way: Way) -> None:
    """Renamed, with attributes and buckets of its own, in the collection that follows the values."""
    source = FakeSource()
    reader = way.reader(source)
    own = pipeline(
        way,
        source,
        reader,
        View(instrument_name="test.steps", name="renamed.steps", attribute_keys={"model"}),
        View(instrument_name="test.step.duration", aggregation=ExplicitBucketHistogramAggregation([1.0, 2.0])),
        View(instrument_name="test.loss", description="Another."),
    )
    fill(source)

    data = reader.get_metrics_data()

    assert ((STEPS, DURATION, LOSS) if way.merges else SPECS) == own.diverted
    found = metrics_of(data)
    assert {"renamed.steps", "test.active", "test.step.duration", "test.loss", "test.utilization"} == set(found)
    assert [({"model": "a"}, 3)] == [(one.attributes, one.value) for one in points_of(data, "renamed.steps")]
    assert [((1.0, 2.0), (1, 0, 1))] == [
        (one.explicit_bounds, one.bucket_counts) for one in points_of(data, "test.step.duration")
    ]
    assert ("Another.", [0.25]) == (found["test.loss"].description, values_of(data, "test.loss"))
    assert ("Steps made.", "{step}") == (found["renamed.steps"].description, found["renamed.steps"].unit)


def test_a_view_that_changes_nothing_keeps_our_buckets(way: Way) -> None:
    """The instruments carry the declared bounds as advice."""
    source = FakeSource()
    reader = way.reader(source)
    pipeline(way, source, reader, View(instrument_name="*"))
    fill(source)

    assert [(DURATION.buckets, (0, 1, 1, 0), 5.5)] == [
        (one.explicit_bounds, one.bucket_counts, one.sum)
        for one in points_of(reader.get_metrics_data(), "test.step.duration")
    ]


def test_a_diverted_gauge_that_ends_disappears(way: Way) -> None:
    """A loss that turned NaN must not stay at its last healthy value."""
    source = FakeSource()
    reader = way.reader(source)
    pipeline(way, source, reader, View(instrument_name="test.loss"))
    source.add(LOSS, 0.25)
    before = values_of(reader.get_metrics_data(), "test.loss")
    source.end(LOSS)

    assert ([0.25], []) == (before, values_of(reader.get_metrics_data(), "test.loss"))


@pytest.mark.parametrize(
    "criteria", [{"instrument_name": "*"}, {"instrument_name": ANCHOR}, {"meter_name": SCOPE_NAME}]
)
def test_a_view_that_drops_everything_does_not_stop_collections(way: Way, criteria: dict[str, str]) -> None:
    """The anchor has a View of its own; what another View keeps is still delivered."""
    source = FakeSource()
    reader = way.reader(source)
    pipeline(way, source, reader, View(**criteria, aggregation=DropAggregation()), View(instrument_name="test.steps"))
    fill(source)

    assert [2, 1] == values_of(reader.get_metrics_data(), "test.steps")
    assert ANCHOR not in metrics_of(reader.get_metrics_data())


def test_everything_dropped_is_nothing_delivered(way: Way) -> None:
    """Not even the anchor."""
    source = FakeSource()
    exporter = KeepingExporter()
    own = pipeline(
        way,
        source,
        way.pushing(source, exporter),
        View(instrument_name="*", aggregation=DropAggregation()),
    )
    fill(source)
    own.provider.force_flush()

    assert [] == exporter.exports


def test_a_view_that_renames_gauges_does_not_let_the_anchor_out(way: Way) -> None:
    """Whatever streams are made of it are in its own scope, and stripped with that."""
    source = FakeSource()
    reader = way.reader(source)
    pipeline(way, source, reader, View(instrument_unit="", name="caught"))
    source.add(STEPS, 1)

    assert {"test.steps"} == set(metrics_of(reader.get_metrics_data()))


def test_the_base2_preference_diverts_histograms_only(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter's environment variable gives base-2 histograms; all else stays on our route."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", BASE2)
    source = FakeSource()
    exporter = OTLPMetricExporter()
    reader = way.reader(source, exporter._preferred_temporality, exporter._preferred_aggregation)
    own = pipeline(way, source, reader)
    fill(source)

    data = reader.get_metrics_data()

    assert ((DURATION,) if way.merges else SPECS) == own.diverted
    assert ExponentialHistogram is type(metrics_of(data)["test.step.duration"].data)
    assert [(2, 5.5)] == [(one.count, one.sum) for one in points_of(data, "test.step.duration")]


def test_a_reader_of_base2_leaves_another_its_buckets(way: Way) -> None:
    """Both read the same SDK instrument, each in its way."""
    source = FakeSource()
    base2 = way.reader(source, None, {Histogram: ExponentialBucketHistogramAggregation()})
    plain = way.reader(source)
    way.build(source, base2, plain)
    fill(source)

    first, second = base2.get_metrics_data(), plain.get_metrics_data()

    assert [2] == values_of(first, "test.step.duration") == values_of(second, "test.step.duration")
    assert [(0, 1, 1, 0)] == [one.bucket_counts for one in points_of(second, "test.step.duration")]


def test_a_reader_that_drops_gauges_still_collects(way: Way) -> None:
    """The anchor's View names its aggregation, which wins over the reader's preference."""
    from opentelemetry.sdk.metrics import ObservableGauge

    source = FakeSource()
    reader = way.reader(source, None, {ObservableGauge: DropAggregation()})
    pipeline(way, source, reader)
    fill(source)

    assert {"test.steps", "test.active", "test.step.duration"} == set(metrics_of(reader.get_metrics_data()))


def test_altered_kinds_are_those_that_a_reader_aggregates_otherwise() -> None:
    """The SDK's spellings of what we do ourselves are not among them."""
    preferences: list[tuple[Any, set[str]]] = [
        (None, set()),
        ({Histogram: ExplicitBucketHistogramAggregation()}, set()),
        ({Histogram: ExplicitBucketHistogramAggregation([1.0])}, {"histogram"}),
        ({Histogram: ExplicitBucketHistogramAggregation(record_min_max=False)}, {"histogram"}),
        ({Histogram: ExponentialBucketHistogramAggregation()}, {"histogram"}),
        ({Counter: SumAggregation()}, set()),
        ({Counter: DropAggregation()}, {"counter"}),
    ]

    assert [kinds for _, kinds in preferences] == [
        altered_kinds(InMemoryMetricReader(preferred_aggregation=one)) for one, _ in preferences
    ]


def test_temporalities_are_those_of_the_declared_kinds() -> None:
    """As a reader was given them."""
    assert {
        "counter": AggregationTemporality.DELTA,
        "updowncounter": AggregationTemporality.CUMULATIVE,
        "histogram": AggregationTemporality.CUMULATIVE,
        "gauge": AggregationTemporality.CUMULATIVE,
    } == temporalities(InMemoryMetricReader(preferred_temporality={Counter: AggregationTemporality.DELTA}))


def test_an_unknown_sdk_is_answered_safely(caplog: pytest.LogCaptureFixture) -> None:
    """Without the undocumented parts: everything diverted for a View, cumulative points, and a line in the log."""
    strange: Any = object()
    with caplog.at_level(logging.WARNING):
        diverted = metrics_to_divert(SPECS, [strange], [strange])
        kinds = temporalities(strange)

    assert SPECS == diverted
    assert {AggregationTemporality.CUMULATIVE} == set(kinds.values())
    assert 3 == len(caplog.records)
