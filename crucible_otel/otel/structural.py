"""The series of metrics that structural events and our own counters feed, and the updates on their way there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from crucible_otel.otel.diversion import Diversion
from crucible_otel.otel.labels import OVERFLOWING, attributes
from crucible_otel.otel.series import STOPPED, Distribution
from crucible_otel.otel.snapshot import Over, Point
from crucible_otel.otel.values import is_kept, number
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.sdk import OVERFLOWS, REFUSED
from crucible_otel.semconv.training import NONFINITE

Labels = tuple[Any, ...]
Update = tuple[Metric, str, Labels, float]
"""``(metric, how, attribute values, value)``."""


class StructuralSeries:
    """Series that are updated one by one; all but ``updates`` is used by who holds the engine's lock.

    Attributes:
        updates: What is not folded yet; anybody may append to it.

    Args:
        limit: Most attribute sets a metric has before the rest shares its overflow series.
        diversion: Takes the values of diverted histograms.
    """

    def __init__(self, limit: int, diversion: Diversion) -> None:
        self._limit, self._diversion = limit, diversion
        self.updates: list[Update] = []
        self._series: dict[str, dict[Labels, Any]] = {}
        self._metrics: dict[str, Metric] = {}

    def fold(self, over: Over = iter) -> None:
        """Apply the updates; ``over`` iterates over them, and may pause meanwhile."""
        updates = self.updates
        size = len(updates)
        chunk = updates[:size]
        del updates[:size]
        kept = {(each[0].name, each[2]): index for index, each in enumerate(chunk) if is_kept(each[3])}
        for index, (metric, how, labels, value) in over(list(enumerate(chunk))):
            if kept and is_kept(value):  # on an accelerator: of those for one series only the last is read
                if kept[metric.name, labels] != index:
                    continue
                read = number(value)
                if read is None:
                    self.apply(REFUSED, "sum", ("dropped",), 1)
                    continue
                value = read
            self.apply(metric, how, labels, value)

    def apply(self, metric: Metric, how: str, labels: Labels, value: float) -> None:
        """Change a series."""
        series = self._series.setdefault(metric.name, {})
        self._metrics.setdefault(metric.name, metric)
        if how == "off":
            series.pop(labels, None)
            return
        if labels not in series and len(series) >= self._limit:
            if OVERFLOWING not in series and metric is not OVERFLOWS:
                self.overflowed(metric)
            labels = OVERFLOWING
        if metric.kind == "histogram":
            distribution = series.get(labels)
            if distribution is None:
                distribution = series[labels] = Distribution(metric.buckets)
            distribution.observe(metric.buckets, (value,), value, value, value, None)
            if metric in self._diversion:
                self._diversion.pend(metric, labels, (value,))
        elif metric.kind == "gauge":
            self._apply_gauge(metric, series, labels, value)
        else:
            series[labels] = series.get(labels, 0) + value

    def overflowed(self, metric: Metric) -> None:
        """Count an attribute set beyond the limit."""
        self.updates.append((OVERFLOWS, "sum", (metric.name,), 1))

    def points(self, started_ns: int, over: Over = iter) -> Iterable[tuple[Metric, tuple[Point, ...]]]:
        """Return the points of every metric."""
        for name, series in self._series.items():
            metric = self._metrics[name]
            yield (
                metric,
                tuple(
                    Point(
                        attributes(metric, labels),
                        value.snapshot() if isinstance(value, Distribution) else value,
                        started_ns,
                        value.samples() if isinstance(value, Distribution) else (),
                    )
                    for labels, value in over(list(series.items()))
                    if value is not STOPPED
                ),
            )

    def clear(self) -> None:
        """Start from zero."""
        self.updates.clear()
        self._series.clear()

    def _apply_gauge(self, metric: Metric, series: dict[Labels, Any], labels: Labels, value: float) -> None:
        if math.isfinite(value):
            series[labels] = value
        else:
            model = labels[0] if labels else ""
            self.apply(NONFINITE, "sum", (model, metric.name.rpartition(".")[2]), 1)
            series[labels] = STOPPED
