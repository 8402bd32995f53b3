"""Reading what a reader or exporter got."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)


def metrics_of(data: MetricsData | None) -> dict[str, Metric]:
    """Return all metrics of a collection by name, failing on a name that comes twice."""
    found: dict[str, Metric] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                assert metric.name not in found
                found[metric.name] = metric
    return found


def points_of(data: MetricsData | None, name: str) -> list[Any]:
    """Return one metric's points, none when it is absent."""
    metric = metrics_of(data).get(name)
    return list(metric.data.data_points) if metric is not None else []


def values_of(data: MetricsData | None, name: str) -> list[Any]:
    """Return the values of a sum or gauge, the counts of a histogram."""
    return [point.value if hasattr(point, "value") else point.count for point in points_of(data, name)]


class KeepingExporter(MetricExporter):
    """Keeps what it is given."""

    def __init__(self, **preferences: Any) -> None:
        super().__init__(**preferences)
        self.exports: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Keep a collection."""
        self.exports.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing."""
