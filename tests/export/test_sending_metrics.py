"""Collections that are written by us, sent by the SDK's exporters to a real receiver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    InMemoryMetricReader,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.config.settings import Settings
from crucible_otel.export.delivery import MetricDelivery
from crucible_otel.export.encode_metrics import encode_metrics
from crucible_otel.export.otlp import build_metric_delivery
from crucible_otel.export.pace import Pace
from crucible_otel.export.quiet import Quiet
from crucible_otel.export.tally import Counts, Ledger
from crucible_otel.testing import OtlpReceiver
from tests.export.test_sending import bodies, endpoint, settings

PROTOCOLS = ("http/protobuf", "grpc")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Receive OTLP, and hear what the exporters say, as a pipeline does."""
    noise = Quiet()
    noise.install()
    with OtlpReceiver() as receiver:
        yield receiver
    noise.remove()


def collection(*values: Any) -> MetricsData:
    """Make a collection of gauges."""
    metrics = [
        Metric(f"g{number}", "", "", Gauge([NumberDataPoint({}, 0, 1, value)])) for number, value in enumerate(values)
    ]
    scope = ScopeMetrics(InstrumentationScope("test"), metrics, "")
    return MetricsData([ResourceMetrics(Resource({"service.name": "test"}), [scope], "")])


def delivery(receiver: OtlpReceiver, protocol: str, **given: Any) -> MetricDelivery:
    """Build one as configure() would."""
    return build_metric_delivery(settings(endpoint(receiver, protocol), protocol, **given), Ledger())


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_arrives_is_what_was_written(protocol: str, compression: str, receiver: OtlpReceiver) -> None:
    """To the byte; what cannot be written costs itself alone, where the SDK would lose the collection."""
    sender = delivery(receiver, protocol, compression=compression)
    for data in (collection(1, 2.5), collection(1, 2**70, 3)):
        sender.export(data)
    sender.shutdown()
    assert [encode_metrics(data, Pace()).data for data in (collection(1, 2.5), collection(1, 2**70, 3))] == bodies(
        receiver
    )
    assert Counts(delivered=4, failed=1) == sender.tally.counts._replace(accepted=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collection_that_is_too_large_is_cut(protocol: str) -> None:
    """Each piece is a request of its own; nothing is lost."""
    with OtlpReceiver(max_body_bytes=500) as receiver:
        sender = delivery(receiver, protocol)
        sender.export(collection(*range(50)))
        sender.shutdown()
        assert 50 == len(receiver.points())
    assert 50 == sender.tally.counts.delivered


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sdk_counts_the_points_it_sends(
    protocol: str, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is told to: in its own metrics."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    reader = InMemoryMetricReader()
    sender = delivery(receiver, protocol)
    sender.exporter.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    sender.export(collection(1, 2, 3))
    sender.shutdown()
    data = reader.get_metrics_data()
    assert data is not None
    counted = {
        metric.name: point.value  # type: ignore[union-attr]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if metric.name.endswith("exported")
    }
    assert {"otel.sdk.exporter.metric_data_point.exported": 3} == counted


def test_an_exporter_of_the_users_gets_the_collection() -> None:
    """As the SDK's classes, with the time that it has."""
    got = []

    class Keeping(MetricExporter):
        def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: Any) -> MetricExportResult:
            got.append((metrics_data, timeout_millis))
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
            pass

    data = collection(1)
    build_metric_delivery(Settings(metric_exporter=Keeping()).resolve(os.environ), Ledger()).export(data, 123)
    assert [(data, 123)] == got
