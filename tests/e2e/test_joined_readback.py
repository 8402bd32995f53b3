"""The same unlikely program inside an application that has a MeterProvider: what Prometheus has is what was counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

import crucible_otel as cx
from crucible_otel.testing import FakeClock, fresh
from tests.e2e.emitted import Emitted, Series
from tests.e2e.readback import in_prometheus, settled, shown_series, through, unlike
from tests.e2e.servers import Collector, Jaeger, Prometheus
from tests.e2e.story import Story

COLLECTED = ("Collector's page", "Prometheus")


@contextmanager
def application(collector: Collector, route: str) -> Iterator[None]:
    """Install an application's MeterProvider for a while, with somebody else between it and its reader or not."""
    exporter = OTLPMetricExporter(f"{collector.otlp_http}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource=Resource.create({"service.name": "theirs"}), shutdown_on_exit=False)
    if route == "callback":
        collect: Any = reader._collect
        reader._set_collect_callback(lambda *args, **kwargs: collect(*args, **kwargs))
    before, metrics._internal._METER_PROVIDER = metrics._internal._METER_PROVIDER, provider
    try:
        yield
    finally:
        provider.shutdown()
        metrics._internal._METER_PROVIDER = before


@pytest.mark.parametrize("route", ["readers", "callback"])
def test_prometheus_has_every_series_from_an_applications_collector(
    route: str, jaeger_server: Jaeger, prometheus_server: Prometheus, tmp_path: Path
) -> None:
    """Every counter, gauge, bucket, sum and count of ours, label by label, and what the program itself has counted."""
    port = prometheus_server.take_ports()
    clock = FakeClock(time_ns=time.time_ns())
    with (
        Collector([through(jaeger_server, port)], tmp_path / "collector") as collector,
        fresh(),
        application(collector, route),
    ):
        telemetry = cx.configure(endpoint=collector.otlp_http, handle_sigterm=False, clock=clock)
        assert route == telemetry.status()["joined_metrics"]
        emitted = Emitted()

        def flush() -> None:
            emitted.look()
            assert telemetry.flush(30)

        story = Story(7, clock, tmp_path, flush)
        story.tell()
        clock.advance(1)
        flush()
        counted = {key: float(count) for key, count in story.ledger.counts.items()}
        # By the callback the SDK keeps the series: there is no snapshot of them to compare with.
        expected = shown_series(emitted.looks, *COLLECTED) if route == "readers" else counted
        names = {name for name, _ in expected}

        def wanted(key: Any) -> bool:
            return key[0] in names if route == "readers" else key in counted

        def read() -> Series:
            series = in_prometheus(prometheus_server, port, *COLLECTED)
            return {key: value for key, value in series.items() if wanted(key)}

        found = settled(read, expected)
        assert telemetry.shutdown(30)

    assert [] == unlike(expected, found)
    assert counted == {key: found.get(key) for key in counted}
