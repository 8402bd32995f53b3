"""That collections, exports and scrapes of many series let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from types import ModuleType

import pytest
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from crucible_otel.config.settings import Settings
from crucible_otel.export import delivery, exposition, merging, pace
from crucible_otel.export.exposition import families
from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.halves import count_points
from crucible_otel.export.otlp import build_metric_delivery
from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.readers import MemoryMetricReader
from crucible_otel.export.tally import Ledger
from crucible_otel.semconv import registry
from crucible_otel.semconv.training import STEP_EVENT
from crucible_otel.testing import OtlpReceiver
from tests.otel.engines import engine

SERIES = 300
MOST_IN_A_SLICE = 64 * 11

Pauses = Callable[[ModuleType], list[float]]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Have a tenth of a slice go by each time a module looks at the clock, and return its pauses."""

    def of(module: ModuleType) -> list[float]:
        slept = list[float]()
        clock = count(step=pace.SLICE_S / 10)
        monkeypatch.setattr(module, "Pace", lambda **options: pace.Pace(clock.__next__, slept.append, **options))
        return slept

    return of


def collected() -> MetricsData:
    """Collect the steps of many models."""
    source, clock, _ = engine()
    for number in range(SERIES):
        handle = source.handle(STEP_EVENT, (f"model {number}",), None, {})
        clock.advance(0.1)
        handle.record(loss=1.5)
    reader = MemoryMetricReader(source)
    OwnMetrics(source, registry.METRICS.values(), [reader], resource=Resource({}))
    data = reader.get_metrics_data()
    assert data is not None
    return data


def test_a_collection_pauses_between_series(pauses: Pauses) -> None:
    """While they are read, and again while points are made of them."""
    slept = pauses(merging)

    points = count_points(collected())

    assert points > 3 * SERIES
    assert len(slept) > 2 * points / MOST_IN_A_SLICE
    assert {pace.PAUSE_S} == set(slept)


def test_an_export_pauses_between_points(pauses: Pauses) -> None:
    """While they are written."""
    data, slept = collected(), pauses(delivery)

    with OtlpReceiver() as receiver:
        sender = build_metric_delivery(Settings(endpoint=receiver.http_endpoint).resolve(os.environ), Ledger())
        sender.export(data)
        sender.shutdown()
        assert count_points(data) == len(receiver.points())

    assert len(slept) > count_points(data) / MOST_IN_A_SLICE


def test_a_scrape_pauses_between_samples(pauses: Pauses) -> None:
    """While they are made of points, and again while the page is written."""
    data, slept = collected(), pauses(exposition)

    class Page(Collector):
        def collect(self) -> list[Family]:
            return families(data, FaultCounter("test"))

    registry = CollectorRegistry()
    registry.register(Page())
    page = generate_latest(registry)
    samples = page.count(b"\n") - page.count(b"\n#")

    assert samples > 15 * SERIES
    assert len(slept) > (count_points(data) + samples) / MOST_IN_A_SLICE
