"""Our metrics in a MeterProvider of the application's."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import TracerProvider

from crucible_otel.export.joined import JoinedMetrics, join
from crucible_otel.export.scope import own_scope
from tests.export.collected import metrics_of, points_of, values_of
from tests.export.fake_source import ACTIVE, DURATION, LOSS, SPECS, STEPS, FakeSource
from tests.export.ways import CALLBACK, READERS, Way


def application(*readers: Any, **options: Any) -> MeterProvider:
    """Return an application's provider."""
    return MeterProvider(readers, shutdown_on_exit=False, **options)


def joined(source: FakeSource, provider: MeterProvider, joining: Way = CALLBACK, **options: Any) -> JoinedMetrics:
    """Join with all metrics of the fake, by the callback unless another way is given."""
    # On a busy machine the 50 ms of a collection may be over before it begins.
    route = join(provider, source, SPECS, reach_readers=joining is READERS, **{"budget_s": 60.0, **options})
    assert joining.name == route.route
    return route


def fill(source: FakeSource) -> None:
    """Give each kind a value."""
    source.add(STEPS, 2, model="m")
    source.add(STEPS, 1, model="m")
    source.add(ACTIVE, 2)
    source.add(ACTIVE, -1)
    source.add(DURATION, 0.5)
    source.add(DURATION, 5.0)
    source.add(LOSS, 0.25)


def test_everything_arrives_in_the_collection_that_follows(joining: Way) -> None:
    """Under our scope, with description, unit and buckets, and without a stream of the hook."""
    source, reader = FakeSource(), InMemoryMetricReader()
    joined(source, application(reader), joining)
    fill(source)

    data = reader.get_metrics_data()

    assert data is not None
    assert [own_scope()] == [scope.scope for scope in data.resource_metrics[0].scope_metrics]
    found = metrics_of(data)
    assert {
        "test.steps": [3],
        "test.active": [1],
        "test.step.duration": [2],
        "test.loss": [0.25],
    } == {name: values_of(data, name) for name in found}
    assert ("Duration of a step.", "s") == (
        found["test.step.duration"].description,
        found["test.step.duration"].unit,
    )
    assert [(DURATION.buckets, (0, 1, 1, 0))] == [
        (one.explicit_bounds, one.bucket_counts) for one in points_of(data, "test.step.duration")
    ]


def test_several_readers_count_nothing_twice(joining: Way) -> None:
    """Whoever collects first, every reader has everything once, in its temporality."""
    delta = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
    source, one, two = FakeSource(), InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality=delta)
    joined(source, application(one, two), joining)
    fill(source)
    first = [values_of(reader.get_metrics_data(), "test.steps") for reader in (one, two)]
    fill(source)
    datas = [reader.get_metrics_data() for reader in (two, one)]

    assert [[3], [3]] == first
    assert [[3], [6]] == [values_of(data, "test.steps") for data in datas]
    assert [[2], [4]] == [values_of(data, "test.step.duration") for data in datas]


def test_nothing_of_ours_is_added_to_the_provider(joining: Way) -> None:
    """A reader of ours would export the application's metrics a second time."""
    provider = application(InMemoryMetricReader())
    before = list(provider._measurement_consumer._reader_storages)  # type: ignore[attr-defined]

    joined(FakeSource(), provider, joining)

    assert before == list(provider._measurement_consumer._reader_storages)  # type: ignore[attr-defined]


def test_the_applications_views_apply(joining: Way) -> None:
    """Its metrics and ours are alike to it."""
    source, reader = FakeSource(), InMemoryMetricReader()
    joined(source, application(reader, views=[View(instrument_name="test.steps", name="renamed")]), joining)
    fill(source)

    assert [3] == values_of(reader.get_metrics_data(), "renamed")


def test_a_second_join_binds_the_one_route_anew(joining: Way) -> None:
    """Instruments cannot be removed from a provider, so there is one route for its life; SDK sums go on."""
    old, new, reader = FakeSource(), FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    first = joined(old, provider, joining)
    fill(old)
    reader.get_metrics_data()
    first.close()
    second = joined(new, provider, joining)
    old.add(STEPS, 100, model="m")
    old.add(LOSS, 9.0)
    new.add(STEPS, 1, model="m")

    data = reader.get_metrics_data()

    assert first is second
    assert ([4 if joining is CALLBACK else 1], []) == (values_of(data, "test.steps"), values_of(data, "test.loss"))


def test_a_closed_route_delivers_nothing(joining: Way) -> None:
    """What the SDK has recorded stays where it was, as with any instrument; the rest disappears."""
    source, reader = FakeSource(), InMemoryMetricReader()
    route = joined(source, application(reader), joining)
    fill(source)
    reader.get_metrics_data()
    route.close()
    fill(source)

    data = reader.get_metrics_data()

    assert ([3] if joining is CALLBACK else [], []) == (values_of(data, "test.steps"), values_of(data, "test.loss"))


def test_what_does_not_fit_into_one_collection_comes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums first and whole, histogram values as far as the budget goes; nothing lost, nothing twice."""
    source, reader = FakeSource(), InMemoryMetricReader()
    joined(source, application(reader), budget_s=1.0)
    clock = iter([0.0, 0.5, 0.5, 2.0])  # the start, then one look each 32 values: time is up after 64
    for _ in range(100):
        source.add(DURATION, 0.5)
    source.add(STEPS, 1)
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: next(clock))
        first = reader.get_metrics_data()
    second = reader.get_metrics_data()

    assert ([1], [63], [100]) == (
        values_of(first, "test.steps"),
        values_of(first, "test.step.duration"),
        values_of(second, "test.step.duration"),
    )


def test_too_many_waiting_values_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The buffer is bounded by count; sums need no room and lose nothing."""
    source, reader, faults, lost = FakeSource(), InMemoryMetricReader(), [], []
    with caplog.at_level(logging.WARNING):
        route = joined(
            source,
            application(reader),
            limit=10,
            on_fault=faults.append,
            on_lost=lambda signal, reason, count: lost.append((signal, reason, count)),
        )
        for _ in range(25):
            source.add(DURATION, 0.5)
            source.add(STEPS, 1)
        data = reader.get_metrics_data()

    assert (10, 15, ["JoinedMetrics"]) == (source.limit, route.overflow, faults)
    assert [("metrics", "divert_full", 15)] == lost
    assert ([10], [25]) == (values_of(data, "test.step.duration"), values_of(data, "test.steps"))
    assert 1 == len(caplog.records)


def test_flush_records_what_waits_without_a_collection() -> None:
    """So that the owner's last export has everything."""
    source, reader = FakeSource(), InMemoryMetricReader()
    route = joined(source, application(reader), budget_s=0.0)
    for _ in range(1000):
        source.add(DURATION, 0.5)

    assert route.flush(10)
    assert [1000] == values_of(reader.get_metrics_data(), "test.step.duration")


def test_values_are_no_exemplars_of_whoever_collects(joining: Way) -> None:
    """A flush inside a sampled span must not connect hundreds of earlier values with it."""
    source, reader = FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    joined(source, provider, joining)
    fill(source)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")

    with tracer.start_as_current_span("flushing"):
        assert trace.get_current_span().get_span_context().trace_flags.sampled
        data = reader.get_metrics_data()

    assert [[], [], []] == [
        list(point.exemplars)
        for name in ("test.steps", "test.step.duration", "test.loss")
        for point in points_of(data, name)
    ]


def test_a_source_that_raises_leaves_the_applications_metrics_alone(
    joining: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted and logged once; the application's collection goes on."""
    source, reader = FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    route = joined(source, provider, joining)
    provider.get_meter("app").create_counter("app.counter").add(1)

    def fail(*args: Any) -> Any:
        raise RuntimeError("broken")

    source.drain_diverted = fail  # type: ignore[method-assign]
    source.gauge_points = fail  # type: ignore[method-assign]
    source.snapshot = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        data = [reader.get_metrics_data() for _ in range(2)]

    assert [[1], [1]] == [values_of(one, "app.counter") for one in data]
    assert (6 if joining is CALLBACK else 2) == route.faults.count
    assert 1 == len(caplog.records)


def test_a_joined_provider_without_sdk_is_harmless() -> None:
    """The API's no-op provider takes everything and keeps nothing."""
    from opentelemetry.metrics import NoOpMeterProvider

    source = FakeSource()
    route = join(NoOpMeterProvider(), source, SPECS)
    fill(source)

    assert route.flush(1)
    assert route.deliver(1)
    assert "callback" == route.route


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_forgets_what_waited() -> None:
    """It is the parent's to record."""
    source, reader = FakeSource(), InMemoryMetricReader()
    route = joined(source, application(reader), budget_s=0.0)
    for _ in range(10):
        source.add(DURATION, 0.5)
    reader.get_metrics_data()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            source.restart()
            route.flush(5)
            os.write(write, repr(values_of(reader.get_metrics_data(), "test.step.duration")).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        assert "[]" == pipe.read()
    assert route.flush(5)
    assert [10] == values_of(reader.get_metrics_data(), "test.step.duration")
