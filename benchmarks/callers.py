"""The other sides of the comparison: what a program would write without us, and what no program can go below.

Each is a function of the same five keywords, makes six streams of the same names, buckets and attributes, and times
the steps by one clock read, as ``run.step`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from crucible_otel.semconv import training as names

MODEL = "m"
ATTRIBUTES = {"crucible.model.name": MODEL}
Caller = Callable[..., Any]


def empty(loss=None, learning_rate=None, gradient_norm=None, tokens=0, step=None):
    """The floor of every Python call with five keywords."""


def floor() -> Caller:
    """The floor of everything that measures time: one clock read, and nothing done with it."""

    def clocked(loss=None, learning_rate=None, gradient_norm=None, tokens=0, step=None, now=perf_counter):
        now()

    return clocked


class Naive:
    """Six synchronous instruments of the SDK, one attributes dict, made once."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics")
        # Exported when asked to, by `flush`: an export in the middle of a round would fall on whoever runs then.
        self.reader = PeriodicExportingMetricReader(exporter, export_interval_millis=86_400_000)
        self._provider = MeterProvider([self.reader], shutdown_on_exit=False)
        meter = self._provider.get_meter("benchmarks")
        self.record = self._caller(meter)

    def _caller(self, meter: Any) -> Caller:
        count, count_tokens = (meter.create_counter(each.name, each.unit) for each in (names.STEPS, names.TOKENS))
        gauges = (names.LOSS_GAUGE, names.RATE_GAUGE, names.NORM_GAUGE)
        set_loss, set_rate, set_norm = (meter.create_gauge(each.name, each.unit).set for each in gauges)
        durations = meter.create_histogram(
            names.STEP_DURATION.name, "s", explicit_bucket_boundaries_advisory=names.STEP_DURATION.buckets
        )
        add, add_tokens, observe, attributes, last = count.add, count_tokens.add, durations.record, ATTRIBUTES, 0.0

        def record(loss=None, learning_rate=None, gradient_norm=None, tokens=0, step=None):
            nonlocal last
            at = perf_counter()
            add(1, attributes)
            observe(at - last, attributes)
            add_tokens(tokens, attributes)
            set_loss(loss, attributes)
            set_rate(learning_rate, attributes)
            set_norm(gradient_norm, attributes)
            last = at

        last = perf_counter()
        return record

    def flush(self) -> None:
        self._provider.force_flush()


class PrometheusClient:
    """Six children of prometheus_client, bound to their labels once."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        registry = CollectorRegistry()

        def bound(kind: Any, metric: Any, **options: Any) -> Any:
            name = metric.name.replace(".", "_")
            return kind(name, metric.brief, ("crucible_model_name",), registry=registry, **options).labels(MODEL)

        add, add_tokens = bound(Counter, names.STEPS).inc, bound(Counter, names.TOKENS).inc
        set_loss, set_rate = bound(Gauge, names.LOSS_GAUGE).set, bound(Gauge, names.RATE_GAUGE).set
        set_norm = bound(Gauge, names.NORM_GAUGE).set
        observe = bound(Histogram, names.STEP_DURATION, buckets=names.STEP_DURATION.buckets).observe
        last = perf_counter()

        def record(loss=None, learning_rate=None, gradient_norm=None, tokens=0, step=None):
            nonlocal last
            at = perf_counter()
            add()
            observe(at - last)
            add_tokens(tokens)
            set_loss(loss)
            set_rate(learning_rate)
            set_norm(gradient_norm)
            last = at

        self.record = record
