"""An application's readers, one and several, from beginning to end: what each of them is told of our series."""

from __future__ import annotations

import gc
import logging
import math
import os
import subprocess
import sys
import threading
import urllib.request
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from crucible_otel.export.joined import JoinedMetrics, foreign_meter_provider, join
from crucible_otel.otel.snapshot import Exemplar
from crucible_otel.semconv.names import OVERFLOW
from crucible_otel.semconv.registry import KEPT
from crucible_otel.semconv.sdk import FAULTS
from crucible_otel.testing import OtlpReceiver
from tests.export.collected import KeepingExporter, metrics_of, points_of, values_of
from tests.export.fake_source import DURATION, LOSS, SPECS, START, STEPS, FakeSource
from tests.export.ways import READERS, Way
from tests.otel.engines import engine
from tests.versions import READERS_HAVE_LIMITS

DELTA = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}


def application(*readers: MetricReader, **options: Any) -> MeterProvider:
    """Return an application's provider."""
    return MeterProvider(readers, shutdown_on_exit=False, **options)


def joined(source: Any, provider: MeterProvider, **options: Any) -> JoinedMetrics:
    """Join, with the readers in reach."""
    route = join(provider, source, SPECS, budget_s=60, **options)
    assert "readers" == route.route
    return route


class Summing(MetricReader):
    """Adds up the deltas that it is handed, whoever asked for them."""

    def __init__(self) -> None:
        super().__init__(preferred_temporality=DELTA)
        self.total: dict[str, int] = {}

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        for name in metrics_of(metrics_data):
            self.total[name] = self.total.get(name, 0) + sum(values_of(metrics_data, name))

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing."""


@pytest.fixture
def scraped() -> Iterator[tuple[PrometheusMetricReader, Any]]:
    """An application's Prometheus reader, and a function that scrapes it over a socket."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def scrape() -> dict[str, list[float]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60) as response:
            families = text_string_to_metric_families(response.read().decode())
            found: dict[str, list[float]] = {}
            for sample in (sample for family in families for sample in family.samples):
                found.setdefault(sample.name, []).append(sample.value)
            return found

    yield reader, scrape
    server.shutdown()
    server.server_close()
    thread.join(30)


def test_two_providers_never_mix(joining: Way) -> None:
    """Each has the series of its own source, whoever collects first."""
    sources, readers = (FakeSource(), FakeSource()), (InMemoryMetricReader(), InMemoryMetricReader(DELTA))
    routes = [joining.build(source, reader) for source, reader in zip(sources, readers, strict=True)]
    for source, count in zip(sources, (2, 5), strict=True):
        source.add(STEPS, count)
        source.add(LOSS, count)
    first = [values_of(reader.get_metrics_data(), "test.steps") for reader in readers]
    sources[0].add(STEPS, 1)
    datas = [reader.get_metrics_data() for reader in readers]

    assert [[2], [5]] == first
    assert [[3], []] == [values_of(data, "test.steps") for data in datas]
    assert [[2], [5]] == [values_of(data, "test.loss") for data in datas]
    assert [0, 0] == [route.faults.count for route in routes]


def test_readers_of_every_kind_agree_while_all_of_them_collect(
    monkeypatch: pytest.MonkeyPatch, scraped: tuple[PrometheusMetricReader, Any], joining: Way
) -> None:
    """Cumulative, delta, pushed over OTLP in low-memory temporality, and scraped: each ends with what was made."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "lowmemory")
    source, kept, summing, (prometheus, scrape) = FakeSource(), InMemoryMetricReader(), Summing(), scraped
    done = threading.Event()
    with OtlpReceiver() as receiver:
        exporter = OTLPMetricExporter(f"{receiver.http_endpoint}/v1/metrics")
        pushing = PeriodicExportingMetricReader(exporter, export_interval_millis=5)
        built = joining.build(source, kept, summing, prometheus, pushing)

        def collect(action: Any) -> None:
            while not done.is_set():
                action()

        def work() -> None:
            for _ in range(500):
                source.add(STEPS, 1)
                source.add(DURATION, 0.5)

        collectors = [
            threading.Thread(target=collect, args=(each,)) for each in (kept.collect, summing.collect, scrape)
        ]
        workers = [threading.Thread(target=work) for _ in range(4)]
        for thread in (*collectors, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        for thread in collectors:
            thread.join()
        assert built.provider.force_flush(60_000)
        assert [2000.0] == scrape()["test_steps_total"][-1:]
        built.provider.shutdown(60_000)

        names = ("test.steps", "test.step.duration")
        assert [[2000], [2000]] == [values_of(kept.get_metrics_data(), name) for name in names]
        assert [2000, 2000] == [summing.total[name] for name in names]
        assert [2000, 2000] == [receiver.total(name) for name in names]
        assert {"delta"} == {point.temporality for name in names for point in receiver.points(name)}
    assert 0 == built.faults.count


def test_a_prometheus_reader_says_ours_as_often_as_the_applications(
    scraped: tuple[PrometheusMetricReader, Any], joining: Way
) -> None:
    """It keeps every collection until it is scraped: that is so for all metrics, and not for ours in particular."""
    source, (reader, scrape) = FakeSource(), scraped
    built = joining.build(source, reader)
    built.provider.get_meter("application").create_counter("their.counter").add(1)
    source.add(STEPS, 1)
    once = scrape()
    built.provider.force_flush()
    source.add(STEPS, 1)
    twice = scrape()

    assert ([1.0], [1.0]) == (once["test_steps_total"], once["their_counter_total"])
    assert len(twice["test_steps_total"]) == len(twice["their_counter_total"])
    assert ([1.0, 2.0], [1.0]) == (sorted(set(twice["test_steps_total"])), sorted(set(twice["their_counter_total"])))


def test_a_reader_that_is_added_later_is_told_everything_in_its_temporality(joining: Way) -> None:
    """Since the beginning, when our points are merged; the SDK begins with what it records from then on."""
    source, first, later = FakeSource(), InMemoryMetricReader(), InMemoryMetricReader(DELTA)
    built = joining.build(source, first)
    source.add(STEPS, 2)
    first.get_metrics_data()
    built.provider.add_metric_reader(later)
    source.add(STEPS, 3)
    one = values_of(later.get_metrics_data(), "test.steps")
    source.add(STEPS, 1)

    assert [5 if joining is READERS else 3] == one
    assert [1] == values_of(later.get_metrics_data(), "test.steps")
    assert [6] == values_of(first.get_metrics_data(), "test.steps")


def test_our_flush_reaches_a_reader_that_the_providers_forgets() -> None:
    """``MeterProvider.force_flush`` knows only the readers that the provider was made with."""
    source, exporter = FakeSource(), KeepingExporter()
    provider = application()
    route = joined(source, provider)
    provider.add_metric_reader(PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf))
    source.add(STEPS, 2)
    provider.force_flush()
    before = list(exporter.exports)

    assert route.deliver(60)
    assert ([], [[2]]) == (before, [values_of(data, "test.steps") for data in exporter.exports])


def test_what_a_later_reader_wants_otherwise_is_said_and_not_done(caplog: pytest.LogCaptureFixture) -> None:
    """To record histograms on an SDK instrument from now on would lose what the others were told last."""
    source, first = FakeSource(), InMemoryMetricReader()
    later = InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})
    provider = application(first)
    route = joined(source, provider)
    provider.add_metric_reader(later)
    source.add(DURATION, 0.5)
    with caplog.at_level(logging.WARNING):
        datas = [reader.get_metrics_data() for reader in (later, first, later)]

    assert [DURATION.buckets] * 3 == [
        point.explicit_bounds for data in datas for point in points_of(data, DURATION.name)
    ]
    assert (1, 1) == (route.faults.count, len(caplog.records))
    assert "InMemoryMetricReader was added later and gets our metrics as declared: histogram" in caplog.text


def test_a_reader_that_wants_fewer_series_gets_them_by_the_sdk(joining: Way) -> None:
    """Its limit is the SDK's to enforce, where that has any; a kind without one stays on our way."""
    limits: dict[str, Any] = {"cardinality_limits": {Counter: 2}} if READERS_HAVE_LIMITS else {}
    source, reader = FakeSource(), InMemoryMetricReader(**limits)
    built = joining.build(source, reader)
    for number in range(5):
        source.add(STEPS, 1, model=str(number))
    points = points_of(reader.get_metrics_data(), "test.steps")

    assert (((STEPS,) if limits else ()) if joining is READERS else SPECS) == built.diverted
    assert 5 == sum(point.value for point in points)
    assert ([True] if limits else []) == [
        point.attributes[OVERFLOW] for point in points if OVERFLOW in point.attributes
    ]


def test_series_beyond_our_limit_share_one(way: Way) -> None:
    """The cap is the engine's, whatever the way out; nothing of it is lost."""
    source, _, _ = engine(limit=3)
    reader = way.reader(source)  # type: ignore[arg-type]
    way.build(source, reader, specs=KEPT.values())  # type: ignore[arg-type]
    for number in range(10):
        source.update(FAULTS, "sum", (f"component {number}",))
    points = points_of(reader.get_metrics_data(), FAULTS.name)

    assert (10, 4) == (sum(point.value for point in points), len(points))
    assert [7] == [point.value for point in points if point.attributes.get(OVERFLOW)]


def test_an_exemplar_arrives_once_at_each_reader(merging: Way) -> None:
    """With its trace; the SDK makes none of values that it is given later."""
    source, readers = FakeSource(), []
    readers = [merging.reader(source), merging.reader(source, DELTA)]
    merging.build(source, *readers)
    source.add(DURATION, 0.5, (Exemplar(0.5, START + 1, 0xABC, 0xDEF),))

    found = [[points_of(reader.get_metrics_data(), DURATION.name) for reader in readers] for _ in range(2)]

    assert [[(0.5, 0xABC, 0xDEF)]] * 2 == [
        [(one.value, one.trace_id, one.span_id) for point in points for one in point.exemplars] for points in found[0]
    ]
    assert [[], []] == [[one for point in points for one in point.exemplars] for points in found[1]]


def test_no_exemplar_arrives_at_a_provider_that_takes_none() -> None:
    """Its filter holds for our points as for its own."""
    source, reader = FakeSource(), InMemoryMetricReader()
    joined(source, application(reader, exemplar_filter=AlwaysOffExemplarFilter()))
    source.add(DURATION, 0.5, (Exemplar(0.5, START + 1, 0xABC, 0xDEF),))
    with use_span(NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(1)))):
        (point,) = points_of(reader.get_metrics_data(), DURATION.name)

    assert [] == list(point.exemplars)


def test_a_reader_that_raises_takes_nothing_from_the_others(joining: Way, caplog: pytest.LogCaptureFixture) -> None:
    """The application sees the error as ever; our flush only says that something failed."""

    class Raising(InMemoryMetricReader):
        def _receive_metrics(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no way out")

    source, summing, raising = FakeSource(), Summing(), Raising()
    built = joining.build(source, raising, summing)
    source.add(STEPS, 2)
    with pytest.raises(Exception, match="no way out"):
        built.provider.force_flush()
    source.add(STEPS, 1)
    assert isinstance(built.keep, JoinedMetrics)

    assert not built.keep.deliver(60)
    assert 3 == summing.total["test.steps"]
    assert 1 == built.faults.count


def test_data_that_cannot_be_read_costs_no_delta(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They pass as they are, and the next collection has what they could not carry."""
    source, reader = FakeSource(), InMemoryMetricReader(DELTA)
    provider = application(reader)
    route = joined(source, provider)
    source.add(STEPS, 2)
    strange: Any = MetricsData([object()])  # type: ignore[list-item]
    storage: Any = provider._measurement_consumer._reader_storages[reader]  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(storage, "collect", lambda: strange)
        seen = reader.get_metrics_data()

    assert seen is strange
    assert ([2], 1) == (values_of(reader.get_metrics_data(), "test.steps"), route.faults.count)


def test_who_collects_while_he_is_told_of_an_event_neither_hangs_nor_counts_twice(merging: Way) -> None:
    """A fold emits events after the snapshot is taken, and a handler may flush the application's provider then."""
    source, exporter = FakeSource(), KeepingExporter(preferred_temporality=DELTA)
    built = merging.build(source, merging.pushing(source, exporter))
    built.provider.get_meter("application").create_counter("their.counter").add(1)
    source.add(STEPS, 2)
    snapshot, collections = source.snapshot, []

    def telling(over: Any = iter) -> Any:
        taken = snapshot(over)
        if not collections:
            collections.append(1)
            source.add(STEPS, 1)
            built.provider.get_meter("application").create_counter("their.counter").add(1)
            built.provider.force_flush()
        return taken

    source.snapshot = telling  # type: ignore[method-assign]
    thread = threading.Thread(target=built.provider.force_flush, daemon=True)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()
    built.provider.force_flush()
    assert [[2], [1]] == [values for data in exporter.exports if (values := values_of(data, "test.steps"))]
    assert [[1], [1]] == [values for data in exporter.exports if (values := values_of(data, "their.counter"))]


def test_a_closed_route_gives_the_readers_back() -> None:
    """To the SDK's callback, and those that come later never see ours."""
    source, reader, later = FakeSource(), InMemoryMetricReader(), InMemoryMetricReader()
    provider = application(reader)
    callback = reader._collect
    route = joined(source, provider)
    bound = reader._collect
    route.close()
    provider.add_metric_reader(later)

    assert bound != callback
    assert [callback, callback] == [reader._collect, later._collect]
    assert None is reader.get_metrics_data()


def test_who_leaves_late_does_not_close_the_route_of_his_successor(joining: Way) -> None:
    """A runtime whose last flush hung ends when the next one is at work already."""
    old, new, reader = FakeSource(), FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    reach = joining is READERS
    routes = [join(provider, source, SPECS, budget_s=60, reach_readers=reach) for source in (old, new)]
    routes[0].close(old)
    new.add(STEPS, 2)

    assert [2] == values_of(reader.get_metrics_data(), "test.steps")


def test_the_successors_series_begin_anew_with_a_later_start() -> None:
    """So that who reads them takes it for what it is: a restart."""
    old, new, cumulative, delta = FakeSource(), FakeSource(), InMemoryMetricReader(), InMemoryMetricReader(DELTA)
    new.start = START + 1_000_000_000_000
    new.now = new.start
    provider = application(cumulative, delta)
    route = joined(old, provider)
    old.add(STEPS, 5)
    before = [points_of(reader.get_metrics_data(), "test.steps")[0] for reader in (cumulative, delta)]
    route.close()
    joined(new, provider)
    new.add(STEPS, 2)
    after = [points_of(reader.get_metrics_data(), "test.steps")[0] for reader in (cumulative, delta)]

    assert ([5, 5], [2, 2]) == ([point.value for point in before], [point.value for point in after])
    assert new.start == after[0].start_time_unix_nano > before[0].time_unix_nano


def test_what_the_sdk_once_recorded_stays_with_it() -> None:
    """Its instruments cannot be removed: merged too, the metric would be there twice."""
    old, new, reader = FakeSource(), FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    join(provider, old, SPECS, budget_s=60, reach_readers=False).close()
    route = joined(new, provider)
    new.add(STEPS, 2)

    assert SPECS == route.diverted
    assert [2] == values_of(reader.get_metrics_data(), "test.steps")


def test_somebody_else_between_provider_and_reader_means_the_callback() -> None:
    """We cannot tell what he does with what he is given."""
    source, reader = FakeSource(), InMemoryMetricReader()
    provider = application(reader)
    theirs = reader._collect
    assert theirs is not None
    reader._set_collect_callback(lambda *args, **kwargs: theirs(*args, **kwargs))
    route = join(provider, source, SPECS, budget_s=60)
    source.add(STEPS, 2)

    assert "callback" == route.route
    assert [2] == values_of(reader.get_metrics_data(), "test.steps")


def test_diverted_values_are_recorded_before_the_collection_they_belong_to() -> None:
    """A View's metric and ours are of the same moment, at most 50 ms later than they were."""
    source, reader = FakeSource(), InMemoryMetricReader()
    joined(source, application(reader, views=[View(instrument_name="test.step.duration", name="renamed")]))
    source.add(STEPS, 1)
    source.add(DURATION, 0.5)
    data = reader.get_metrics_data()

    assert ([1], [1]) == (values_of(data, "test.steps"), values_of(data, "renamed"))


def test_a_provider_that_is_gone_takes_its_route_with_it(joining: Way) -> None:
    """Nothing of ours keeps it alive."""
    source = FakeSource()
    provider = application(InMemoryMetricReader())
    route = weakref.ref(join(provider, source, SPECS, reach_readers=joining is READERS))
    gone = weakref.ref(provider)
    del provider
    gc.collect()

    assert (None, None) == (gone(), route())


def test_a_provider_that_was_shut_down_is_not_flushed(caplog: pytest.LogCaptureFixture) -> None:
    """Its exporters would complain about every one of our flushes."""
    source, exporter = FakeSource(), KeepingExporter()
    provider = application(PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000))
    route = joined(source, provider)
    source.add(STEPS, 2)
    provider.shutdown()
    source.add(STEPS, 1)

    assert route.deliver(60)
    assert [[2]] == [values_of(data, "test.steps") for data in exporter.exports]


class Vendor(metrics.MeterProvider):
    """A provider of somebody else's make, and what its flush comes to."""

    def __init__(self, flushed: object = None) -> None:
        self.flushed, self.timeouts_ms = flushed, list[float]()

    def force_flush(self, timeout_millis: float) -> object:
        """Say how it went, or that it went wrong."""
        self.timeouts_ms.append(timeout_millis)
        if isinstance(self.flushed, Exception):
            raise self.flushed
        return self.flushed

    def get_meter(self, *args: Any, **kwargs: Any) -> metrics.Meter:
        """Return nothing useful."""
        return metrics.NoOpMeter("vendor")


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        (MeterProvider(shutdown_on_exit=False), True),
        (Vendor(), True),
        (metrics.NoOpMeterProvider(), False),
        (None, False),
    ],
    ids=["the SDK's", "a vendor's", "none", "nothing"],
)
def test_whatever_an_application_has_installed_is_joined(
    monkeypatch: pytest.MonkeyPatch, installed: Any, found: bool
) -> None:
    """Of whatever make; what the API itself stands in with is nobody's."""
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", installed)

    assert found == (foreign_meter_provider(Own) is not None)


class Own(MeterProvider):
    """Stands for the class of our own providers."""


def test_our_own_provider_is_not_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second ``configure()`` does not join the first one's."""
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", Own(shutdown_on_exit=False))

    assert None is foreign_meter_provider(Own)


@pytest.mark.parametrize(
    ("flushed", "good"), [(True, True), (None, True), (False, False), (OSError("gone"), False)], ids=str
)
def test_our_flush_is_as_good_as_that_of_a_provider_of_any_make(
    flushed: object, good: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Within the time that is left, and without raising."""
    provider = Vendor(flushed)
    route = join(provider, FakeSource(), SPECS)

    assert good == route.deliver(60)
    assert isinstance(flushed, Exception) == route.faults.count
    (timeout_ms,) = provider.timeouts_ms
    assert 0 < timeout_ms <= 60_000


AMID_A_MERGE = """
import tests.forks
import os, signal, threading
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from crucible_otel.export.joined import join
from tests.export.collected import values_of
from tests.export.fake_source import SPECS, STEPS, FakeSource
source, reader = FakeSource(), InMemoryMetricReader()
provider = MeterProvider([reader], shutdown_on_exit=False)
route = join(provider, source, SPECS)
source.add(STEPS, 5)
merging, forked = threading.Event(), threading.Event()
snapshot = source.snapshot
def slow(over=iter):
    merging.set()
    assert forked.wait(60)
    return snapshot(over)
source.snapshot = slow
thread = threading.Thread(target=reader.collect)
thread.start()
assert merging.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(30)
    forked.set()
    source.restart()
    source.add(STEPS, 2)
    print(values_of(reader.get_metrics_data(), "test.steps"), flush=True)
    os._exit(0)
forked.set()
thread.join()
assert os.waitpid(child, 0) == (child, 0)
print(values_of(reader.get_metrics_data(), "test.steps"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_forked_amid_a_merge_collects() -> None:
    """Our locks are its own; those of the SDK are not held at that time."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AMID_A_MERGE], capture_output=True, timeout=120, check=True, text=True
    )

    assert "[2]\n[5]\n" == done.stdout
