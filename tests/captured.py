"""What left the pipeline, kept in memory: the real pipeline with the SDK's own in-memory exporters behind it."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import crucible_otel as cx
from crucible_otel.testing import FakeClock

NEVER_S = 1_000_000


class InMemoryMetricExporter(MetricExporter):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.collections: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.collections.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        return None


class Capture:
    """Configures telemetry and tells what left it."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricExporter()
        self._logs = InMemoryLogRecordExporter()
        self.clock = FakeClock()
        self.telemetry: cx.Telemetry | None = None

    def configure(self, *, clock: Any = None, handlers: Any = (), **fields: Any) -> cx.Telemetry:
        """Configure telemetry with these exporters; further settings as they are given."""
        self.telemetry = cx.configure(
            clock=clock,
            handlers=handlers,
            **{
                "span_exporter": self._spans,
                "metric_exporter": self._metrics,
                "log_exporter": self._logs,
                "metrics_exporter": ("otlp",),
                "export_interval_s": NEVER_S,
                "handle_sigterm": False,
                **fields,
            },
        )
        return self.telemetry

    def stopped(self, **fields: Any) -> FakeClock:
        """Configure telemetry on a clock that only the test moves, and return the clock."""
        self.configure(clock=self.clock, **fields)
        return self.clock

    def flush(self) -> None:
        """Bring everything here."""
        if self.telemetry is not None and self.telemetry.status()["enabled"]:
            assert self.telemetry.flush(30)

    def encoded(self, signal: str) -> bytes:
        """The signal as OTLP has it, by the SDK's own encoder."""
        self.flush()
        if signal == "spans":
            message: Any = encode_spans(self._spans.get_finished_spans())
        elif signal == "logs":
            message = encode_logs(self._logs.get_finished_logs())
        else:
            message = encode_metrics(self._metrics.collections[-1])
        return bytes(message.SerializeToString())

    # -- traces ------------------------------------------------------------------------------------------------------

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The finished spans, in the order in which they ended."""
        self.flush()
        return self._spans.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        found = [span for span in self.spans if span.name == name]
        assert [name] == [span.name for span in found], [span.name for span in self.spans]
        return found[0]

    def named(self, name: str) -> list[ReadableSpan]:
        """All spans of a name."""
        return [span for span in self.spans if span.name == name]

    def paths(self) -> list[str]:
        """Where each span stands, as the names from the root to it, sorted."""
        spans = {span.context.span_id: span for span in self.spans}

        def path(span: ReadableSpan) -> str:
            parent = spans.get(span.parent.span_id) if span.parent is not None else None
            root = "" if span.parent is None else "?"
            return f"{path(parent) if parent is not None else root}/{span.name}"

        return sorted(path(span) for span in spans.values())

    def parent(self, span: ReadableSpan) -> str:
        """The name of a span's parent; empty for a root."""
        names = {each.context.span_id: each.name for each in self.spans}
        return names.get(span.parent.span_id, "?") if span.parent is not None else ""

    # -- logs --------------------------------------------------------------------------------------------------------

    @property
    def logs(self) -> list[Any]:
        """The log records, in the order in which they were emitted."""
        self.flush()
        return [each.log_record for each in self._logs.get_finished_logs()]

    def events(self, name: str) -> list[Any]:
        """The log records of an event."""
        return [each for each in self.logs if each.event_name == name]

    # -- metrics -----------------------------------------------------------------------------------------------------

    def points(self, name: str, **attributes: Any) -> list[Any]:
        """The points of a metric now, as many as have these attributes (``__`` stands for a dot)."""
        self.flush()
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            point
            for collection in self._metrics.collections[-1:]
            for resource in collection.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if metric.name == name and wanted.items() <= dict(point.attributes).items()
        ]

    def value(self, name: str, **attributes: Any) -> Any:
        """The value of the only point: a number, or the count of a histogram; None when there is none."""
        found = self.points(name, **attributes)
        assert len(found) <= 1, [dict(point.attributes) for point in found]
        return next((point.value if hasattr(point, "value") else point.count for point in found), None)

    def sum(self, name: str, **attributes: Any) -> float:
        """The sum of the only histogram point."""
        (point,) = self.points(name, **attributes)
        return float(point.sum)

    def buckets(self, name: str, **attributes: Any) -> dict[float, int]:
        """The filled buckets of the only histogram point: upper bound -> count."""
        (point,) = self.points(name, **attributes)
        bounds = (*point.explicit_bounds, float("inf"))
        return {bound: count for bound, count in zip(bounds, point.bucket_counts, strict=True) if count}


class Seen(list[tuple[str, dict[str, Any], dict[str, Any]]]):
    """A handler that keeps what it gets."""

    def __call__(self, event: str, measurements: dict[str, Any], metadata: dict[str, Any], config: Any) -> None:
        self.append((event, measurements, metadata))

    @property
    def names(self) -> list[str]:
        """The names of the events."""
        return [event for event, _, _ in self]


def listen(*events: Any, handler_id: str = "seen", **options: Any) -> Seen:
    """Attach a handler of these events, of everything without any, and return what it will see."""
    seen = Seen()
    cx.attach_handler(handler_id, list(events) or None, seen, **options)
    return seen
