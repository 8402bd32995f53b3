"""What queues and exporters say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from crucible_otel.config.settings import Settings
from crucible_otel.export.delivery import LogDelivery, MetricDelivery, SpanDelivery
from crucible_otel.export.otlp import build_log_delivery, build_metric_delivery, build_span_delivery
from crucible_otel.export.queues import LogQueue, SpanQueue
from crucible_otel.export.self_metrics import SelfMetrics
from crucible_otel.export.tally import Ledger
from tests.export.otlp_server import closed_port

WAIT_MS = 60_000
SPANS = {"otel.component.type": "batching_span_processor", "otel.component.name": "batching_span_processor/0"}

Points = dict[str, list[tuple[Mapping[str, Any], float]]]


def collected(reader: InMemoryMetricReader) -> Points:
    """Return name -> attributes and value of each point."""
    data = reader.get_metrics_data()
    return {
        metric.name: [(dict(point.attributes or {}), point.value) for point in metric.data.data_points]  # type: ignore[union-attr]
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


class Fussy(SpanExporter):
    """Takes only what is called good."""

    def export(self, spans: Any) -> SpanExportResult:
        """Export."""
        return SpanExportResult.SUCCESS if spans[0].name == "good" else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Do nothing."""


def test_the_metrics_say_what_became_of_every_span() -> None:
    """Waiting, delivered, failed, dropped by a full queue, come too late: each in its series."""
    reader, ledger = InMemoryMetricReader(), Ledger(lambda line: None)
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    delivery = SpanDelivery(Fussy(), tally=ledger.open("traces", "memory"), ledger=ledger)
    environ = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "6",
        "OTEL_BSP_SCHEDULE_DELAY": "1000000",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3",
    }
    tracers = TracerProvider(shutdown_on_exit=False)
    queue = SpanQueue(delivery, ledger, environ)
    tracers.add_span_processor(queue)
    tracer = tracers.get_tracer("test")
    metrics = SelfMetrics(meters.get_meter("test"), ledger, [delivery])
    exporter = f"{Fussy.__module__}.{Fussy.__qualname__}"
    of_exporter = {"otel.component.type": exporter, "otel.component.name": f"{exporter}/0"}

    tracer.start_span("good").end()
    tracer.start_span("good").end()
    waiting = collected(reader)
    assert tracers.force_flush(WAIT_MS)
    tracer.start_span("bad").end()
    assert tracers.force_flush(WAIT_MS)
    queue.queue.put_many([tracer.start_span("good") for _ in range(8)])
    tracers.shutdown()
    tracer.start_span("late").end()
    ended = collected(reader)
    metrics.close()
    tracers.shutdown()

    assert [(SPANS, 2)] == waiting["otel.sdk.processor.span.queue.size"]
    assert [(SPANS, 6)] == waiting["otel.sdk.processor.span.queue.capacity"]
    assert [(SPANS, 64 * 1024 * 1024)] == waiting["crucible.sdk.queue.memory.limit"]
    assert 2 * 2_000 < waiting["crucible.sdk.queue.memory.usage"][0][1] < 2 * 4_000
    assert [(of_exporter, 0)] == waiting["otel.sdk.exporter.span.exported"]
    assert [(of_exporter, 0)] == waiting["otel.sdk.exporter.span.inflight"]
    assert [(SPANS, 0), ({**SPANS, "error.type": "queue_full"}, 0)] == waiting["otel.sdk.processor.span.processed"]
    assert [
        (SPANS, 9),
        ({**SPANS, "error.type": "queue_full"}, 2),
        ({**SPANS, "error.type": "already_shutdown"}, 1),
    ] == ended["otel.sdk.processor.span.processed"]
    assert [(of_exporter, 8), ({**of_exporter, "error.type": "unknown"}, 1)] == ended["otel.sdk.exporter.span.exported"]
    assert [(SPANS, 0)] == ended["otel.sdk.processor.span.queue.size"] == ended["crucible.sdk.queue.memory.usage"]
    assert {} == {name: points for name, points in collected(reader).items() if points}
    meters.shutdown()


def test_components_are_named_as_opentelemetry_names_them() -> None:
    """Exporters by signal and transport, each with a number of its own; another's by its class."""
    reader, ledger = InMemoryMetricReader(), Ledger(lambda line: None)
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    with closed_port() as endpoint:
        http, grpc = (Settings(endpoint=endpoint, protocol=each).resolve({}) for each in ("http/protobuf", "grpc"))
        deliveries: list[Any] = [
            build_span_delivery(http, ledger, {}),
            build_span_delivery(http, ledger, {}),
            build_span_delivery(grpc, ledger, {}),
            build_log_delivery(http, ledger, {}),
            build_metric_delivery(grpc, ledger, {}),
            LogDelivery(InMemoryLogRecordExporter(), tally=ledger.open("logs", "memory"), ledger=ledger),
        ]
        queues = [
            *(SpanQueue(each, ledger, {}) for each in deliveries[:3]),
            *(LogQueue(each, ledger, {}) for each in deliveries[3:] if not isinstance(each, MetricDelivery)),
        ]
        SelfMetrics(meters.get_meter("test"), ledger, deliveries)
        found = collected(reader)
        for each in queues:
            each.shutdown()
        deliveries[4].shutdown()
        meters.shutdown()

    def names(metric: str) -> list[str]:
        return [str(attributes["otel.component.name"]) for attributes, _ in found[metric]]

    assert ["otlp_http_span_exporter/0", "otlp_http_span_exporter/1", "otlp_grpc_span_exporter/0"] == names(
        "otel.sdk.exporter.span.inflight"
    )
    own = f"{InMemoryLogRecordExporter.__module__}.InMemoryLogRecordExporter/0"
    assert ["otlp_http_log_exporter/0", own] == names("otel.sdk.exporter.log.inflight")
    assert ["otlp_grpc_metric_exporter/0"] == names("otel.sdk.exporter.metric_data_point.inflight")
    assert ["batching_log_processor/0", "batching_log_processor/1"] == names("otel.sdk.processor.log.queue.size")
    assert 5 == len(names("crucible.sdk.queue.memory.limit"))
    assert "otel.sdk.processor.span.queue.capacity" not in {name for name, points in found.items() if points}


def test_a_second_pipeline_on_one_meter_takes_the_place_of_the_first() -> None:
    """Instruments cannot be taken off an application's provider; nothing is reported twice."""
    reader, ledger = InMemoryMetricReader(), Ledger(lambda line: None)
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    deliveries = [SpanDelivery(Fussy(), tally=ledger.open("traces", "memory"), ledger=ledger) for _ in range(2)]
    first, second = (SelfMetrics(meters.get_meter("test"), ledger, [each]) for each in deliveries)
    deliveries[1].tally.deliver(7)
    first.close()  # late, as after a shutdown that took long

    assert [7] == [value for _, value in collected(reader)["otel.sdk.exporter.span.exported"]]
    second.close()
    meters.shutdown()
