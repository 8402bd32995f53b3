"""Our points leave with the SDK's, through real readers of a real MeterProvider: ours, and an application's."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter, _Gauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.readers import MemoryMetricReader, OtlpMetricReader
from crucible_otel.export.scope import own_scope
from tests.export.collected import KeepingExporter, metrics_of, points_of, values_of
from tests.export.fake_source import ACTIVE, DURATION, LOSS, SPECS, START, STEPS, FakeSource
from tests.export.ways import OWN, WAYS, Built, Way

DELTA = AggregationTemporality.DELTA
PREFERENCE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
EVERYTHING_DELTA: dict[type, AggregationTemporality] = {
    Counter: DELTA,
    UpDownCounter: DELTA,
    Histogram: DELTA,
    _Gauge: DELTA,
}


def own(source: FakeSource, *readers: MetricReader, **options: Any) -> OwnMetrics:
    """Return a pipeline with these readers."""
    return OwnMetrics(source, SPECS, readers, resource=Resource({"service.name": "test"}), **options)


def user_counter(pipeline: OwnMetrics | Built, scope: str = "user") -> Any:
    """Return a counter of the user's own."""
    return pipeline.provider.get_meter(scope).create_counter("user.counter", description="The user's.")


def test_points_leave_without_any_sdk_instrument(way: Way) -> None:
    """Whatever keeps the SDK collecting is not seen."""
    source = FakeSource()
    reader = way.reader(source)
    built = way.build(source, reader)
    source.add(STEPS, 3, model="m")

    data = reader.get_metrics_data()

    assert {"test.steps"} == set(metrics_of(data))
    assert data is not None
    assert [own_scope()] == [scope.scope for scope in data.resource_metrics[0].scope_metrics]
    assert built.provider._sdk_config.resource == data.resource_metrics[0].resource  # type: ignore[attr-defined]
    assert "test" == data.resource_metrics[0].resource.attributes["service.name"]


def test_nothing_is_delivered_when_there_is_nothing(way: Way) -> None:
    """An export of the anchor alone would be an empty one."""
    source = FakeSource()
    exporter = KeepingExporter()
    pipeline = way.build(source, way.pushing(source, exporter))

    pipeline.provider.force_flush()

    assert [] == exporter.exports


def test_our_points_join_the_scope_and_resource_that_are_there(way: Way) -> None:
    """Of two equal scopes the OTLP encoder keeps only the last, so there is one."""
    source = FakeSource()
    reader = way.reader(source)
    pipeline = way.build(source, reader)
    scope = own_scope()
    pipeline.provider.get_meter(scope.name, scope.version, scope.schema_url).create_counter("ours.by.sdk").add(1)
    user_counter(pipeline).add(1)
    source.add(STEPS, 3)

    data = reader.get_metrics_data()

    assert data is not None
    sent = encode_metrics(data).resource_metrics
    assert [
        [(scope.name, {"ours.by.sdk", "test.steps"}), ("user", {"user.counter"})],
    ] == [
        sorted((one.scope.name, {metric.name for metric in one.metrics}) for one in each.scope_metrics) for each in sent
    ]


@pytest.mark.parametrize(
    ("preference", "values"),
    [
        (None, {"test.steps": [[2], [5]], "test.active": [[1], [2]], "test.step.duration": [[1], [2]]}),
        ("cumulative", {"test.steps": [[2], [5]], "test.active": [[1], [2]], "test.step.duration": [[1], [2]]}),
        ("delta", {"test.steps": [[2], [3]], "test.active": [[1], [2]], "test.step.duration": [[1], [1]]}),
        ("lowmemory", {"test.steps": [[2], [3]], "test.active": [[1], [2]], "test.step.duration": [[1], [1]]}),
    ],
)
def test_points_follow_the_exporters_temporality(
    monkeypatch: pytest.MonkeyPatch, preference: str | None, values: dict[str, list[list[int]]], way: Way
) -> None:
    """A counter is a counter: under lowmemory it is delta, which an observable one would not be."""
    if preference is not None:
        monkeypatch.setenv(PREFERENCE, preference)
    source = FakeSource()
    reader = way.reader(source, OTLPMetricExporter()._preferred_temporality)
    built = way.build(source, reader)
    collections = []
    for count in (2, 3):
        source.add(STEPS, count)
        source.add(ACTIVE, 1)
        source.add(DURATION, 0.5)
        collections.append(reader.get_metrics_data())

    assert values == {name: [values_of(data, name) for data in collections] for name in values}
    assert 0 == built.faults.count


def test_points_match_what_sdk_instruments_yield(way: Way) -> None:
    """The same measurements on synchronous instruments give equal points, interval by interval, in delta too."""
    source = FakeSource()
    reader = way.reader(source, EVERYTHING_DELTA)
    pipeline = way.build(source, reader)
    meter = pipeline.provider.get_meter("sdk")
    counter, updown = meter.create_counter("c"), meter.create_up_down_counter("u")
    histogram = meter.create_histogram("h", explicit_bucket_boundaries_advisory=list(DURATION.buckets))
    for steps, change, durations in ((2, 1, (0.5,)), (0, 0, ()), (3, -1, (5.0, 50.0))):
        if steps:
            source.add(STEPS, steps)
            counter.add(steps)
        if change:
            source.add(ACTIVE, change)
            updown.add(change)
        for value in durations:
            source.add(DURATION, value)
            histogram.record(value)

        data = reader.get_metrics_data()

        assert values_of(data, "c") == values_of(data, "test.steps")
        assert values_of(data, "u") == values_of(data, "test.active")
        assert [(one.sum, one.bucket_counts) for one in points_of(data, "h")] == [
            (one.sum, one.bucket_counts) for one in points_of(data, "test.step.duration")
        ]


def test_two_readers_have_deltas_of_their_own(way: Way) -> None:
    """Each reader is told everything once, whatever another has collected."""
    source = FakeSource()
    delta, cumulative = way.reader(source, EVERYTHING_DELTA), way.reader(source)
    built = way.build(source, delta, cumulative)
    source.add(STEPS, 1)
    first = values_of(delta.get_metrics_data(), "test.steps")
    source.add(STEPS, 2)
    second = values_of(cumulative.get_metrics_data(), "test.steps")
    source.add(STEPS, 3)

    assert ([1], [3], [5], [6]) == (
        first,
        second,
        values_of(delta.get_metrics_data(), "test.steps"),
        values_of(cumulative.get_metrics_data(), "test.steps"),
    )
    assert 0 == built.faults.count


def test_a_failing_merge_lets_the_sdks_data_pass(merging: Way, caplog: pytest.LogCaptureFixture) -> None:
    """The error is counted each time and logged once, and the next good collection has everything."""
    source = FakeSource()
    reader = merging.reader(source, EVERYTHING_DELTA)
    pipeline = merging.build(source, reader)
    faults = reader.faults if merging.name == "own" else pipeline.faults
    counter = user_counter(pipeline)
    source.add(STEPS, 1)
    source.fails = RuntimeError("no snapshot")
    with caplog.at_level(logging.WARNING):
        collections = []
        for _ in range(2):
            counter.add(1)
            collections.append(set(metrics_of(reader.get_metrics_data())))
    source.fails = None

    assert [{"user.counter"}, {"user.counter"}] == collections
    assert 2 == faults.count
    assert 1 == len(caplog.records)
    assert [1] == values_of(reader.get_metrics_data(), "test.steps")


def test_a_merge_that_cannot_read_the_sdks_data_passes_it_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a future SDK hands over reaches the exporter as it is."""
    source = FakeSource()
    exporter = KeepingExporter()
    reader = OtlpMetricReader(source, exporter, interval_s=math.inf)
    strange: Any = MetricsData([object()])  # type: ignore[list-item]
    reader._delivers_empty = True

    reader._receive_metrics(strange)

    assert [True] == [data is strange for data in exporter.exports]
    assert 1 == reader.faults.count


def test_the_ticker_survives_any_exception(caplog: pytest.LogCaptureFixture) -> None:
    """The SDK's thread would end with the first error in a collection, and with it all metrics."""
    source = FakeSource()
    exporter = KeepingExporter()
    exported = threading.Event()
    exporter.export = lambda *args, **kwargs: exported.set()  # type: ignore[method-assign, assignment]
    reader = OtlpMetricReader(source, exporter, interval_s=0.01)
    failures = iter([KeyError("a"), ValueError("b")])

    def collect(*args: Any, **kwargs: Any) -> Any:
        for failure in failures:
            raise failure
        return real(*args, **kwargs)

    own(source, reader)
    real = reader._collect
    assert real is not None
    reader._collect = collect  # type: ignore[assignment]
    source.add(STEPS, 1)

    assert exported.wait(20)
    assert 2 == reader.faults.count
    reader.shutdown()


def test_shutdown_ends_even_if_every_collection_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The ticker tries again once after shutdown began, not for ever."""
    source = FakeSource()
    reader = OtlpMetricReader(source, KeepingExporter(), interval_s=3600)
    own(source, reader)

    def collect(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("always")

    reader._collect = collect  # type: ignore[assignment]
    reader.shutdown()
    thread = reader._daemon_thread

    assert thread is not None
    assert not thread.is_alive()
    assert 2 == reader.faults.count


@pytest.mark.parametrize(
    ("way", "interval_s"), [(OWN, math.inf), *((each, 3600.0) for each in WAYS)], ids=lambda given: str(given)
)
def test_shutdown_exports_what_came_last(way: Way, interval_s: float) -> None:
    """With a ticker and without one, exactly once; without one the SDK's own reader exports nothing then."""
    source = FakeSource()
    exporter = KeepingExporter(preferred_temporality=EVERYTHING_DELTA)
    pipeline = way.build(source, way.pushing(source, exporter, interval_s))
    source.add(STEPS, 1)
    pipeline.provider.force_flush()
    source.add(STEPS, 2)

    pipeline.provider.shutdown()

    assert [[1], [2]] == [values_of(data, "test.steps") for data in exporter.exports]


def test_concurrent_collections_tell_everything_once(way: Way) -> None:
    """Flushes and the ticker at once: the deltas add up and their intervals follow each other without a gap."""
    source = FakeSource()
    exporter = KeepingExporter(preferred_temporality=EVERYTHING_DELTA)
    pipeline = way.build(source, way.pushing(source, exporter, interval_s=0.005))

    def work() -> None:
        for _ in range(30):
            source.add(STEPS, 1)
            source.add(DURATION, 0.5)
            pipeline.provider.force_flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipeline.provider.shutdown()

    points = [point for data in exporter.exports for point in points_of(data, "test.steps")]
    assert (120, 120) == (
        sum(point.value for point in points),
        sum(point.count for data in exporter.exports for point in points_of(data, "test.step.duration")),
    )
    if way.name == "own":  # the SDK exports without the lock under which it collects
        assert sorted(point.time_unix_nano for point in points) == [point.time_unix_nano for point in points]
    points.sort(key=lambda point: point.time_unix_nano)
    assert all(before.time_unix_nano <= after.start_time_unix_nano for before, after in pairwise(points))


def test_an_exporter_that_raises_does_not_stop_the_next_export(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """A user's exporter inside our reader is as isolated as inside the SDK's."""

    class Raising(KeepingExporter):
        def export(self, *args: Any, **kwargs: Any) -> Any:
            super().export(*args, **kwargs)
            raise OSError("no way out")

    source = FakeSource()
    exporter: MetricExporter = Raising()
    pipeline = way.build(source, way.pushing(source, exporter))
    source.add(LOSS, 1.0)

    pipeline.provider.force_flush()
    pipeline.provider.force_flush()

    assert isinstance(exporter, Raising)
    assert [[1.0], [1.0]] == [values_of(data, "test.loss") for data in exporter.exports]


def test_an_observable_of_the_user_is_asked_once_a_collection(way: Way) -> None:
    """Merging adds no collection of its own."""
    source, calls = FakeSource(), []
    reader = way.reader(source)

    def observe(options: CallbackOptions) -> list[Observation]:
        calls.append(1)
        return [Observation(1)]

    built = way.build(source, reader)
    built.provider.get_meter("user").create_observable_gauge("user.gauge", callbacks=[observe])

    reader.get_metrics_data()

    assert [1] == calls
    assert way.merges == source.snapshots


LATE_POOL = """
import os
from opentelemetry.sdk.resources import Resource
from crucible_otel.export.own import OwnMetrics
from tests.export.fake_source import SPECS, FakeSource
own = OwnMetrics(FakeSource(), SPECS, [], resource=Resource({}))
Resource.create({})
child = os.fork()
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_hang_in_the_sdks_resource_detection() -> None:
    """It uses a thread pool, whose module must have registered its own fork hook earlier than the provider."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LATE_POOL], capture_output=True, timeout=60, check=True, text=True
    )

    assert "7\n" == done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("temporality", [None, EVERYTHING_DELTA], ids=["cumulative", "delta"])
def test_a_forked_child_reports_its_own_steps_only(way: Way, temporality: Any) -> None:
    """Whatever its parent had collected, if it is the same, and what it had not; the parent goes on with its own."""
    source = FakeSource()
    reader = way.reader(source, temporality)
    built = way.build(source, reader)
    built.provider.get_meter("user").create_counter("user.counter").add(5)
    source.add(STEPS, 5)
    source.add(DURATION, 0.5)
    collected = values_of(reader.get_metrics_data(), "test.steps")
    source.add(STEPS, 3)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            source.restart()
            source.start = START  # as by a clock that stands still
            source.add(STEPS, 5)
            found = [reader.get_metrics_data()]
            source.add(STEPS, 1)
            found.append(reader.get_metrics_data())
            seen = [values_of(data, name) for data in found for name in ("test.steps", "test.step.duration")]
            os.write(write, repr(seen).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        assert str([[5], [], [6] if temporality is None else [1], []]) == pipe.read()
    assert [5] == collected
    assert [8 if temporality is None else 3] == values_of(reader.get_metrics_data(), "test.steps")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_of_our_own_pipeline_begins_anew() -> None:
    """Neither our deltas nor what the parent recorded on SDK instruments, even if a collection ran at the fork."""
    source = FakeSource()
    reader = MemoryMetricReader(source)
    pipeline = own(source, reader)
    counter = user_counter(pipeline)
    counter.add(5)
    source.add(STEPS, 5)
    reader.get_metrics_data()
    read, write = os.pipe()
    with reader._merge_lock, pipeline.provider._measurement_consumer._lock:  # type: ignore[attr-defined]
        child = os.fork()
    if child == 0:
        try:
            source.restart()
            source.add(STEPS, 2)
            counter.add(1)
            data = reader.get_metrics_data()
            os.write(write, repr((values_of(data, "test.steps"), values_of(data, "user.counter"))).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        assert "([2], [1])" == pipe.read()
