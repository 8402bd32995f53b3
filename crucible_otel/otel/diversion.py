"""What is on its way to instruments of the SDK, because a View or a reader treats a metric specially."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from crucible_otel.otel.labels import attributes
from crucible_otel.otel.snapshot import Point
from crucible_otel.semconv.model import Metric

Labels = tuple[Any, ...]
Drained = tuple[Metric, Mapping[str, Any], list[float]]
"""``(metric, attributes, values)``: one delta of a counter, or each value of a histogram."""


class Diversion:
    """The diverted metrics of an engine; whoever calls it holds the engine's lock.

    Args:
        full: Called with a number of values for which there was no room.
    """

    def __init__(self, full: Callable[[int], None]) -> None:
        self._full = full
        self._metrics: dict[str, Metric] = {}
        self._pending: dict[tuple[str, Labels], list[float]] = {}
        self._drained: dict[tuple[str, Labels], float] = {}
        self._size = self._limit = 0

    def __contains__(self, metric: Metric) -> bool:
        return metric.name in self._metrics

    def add(self, specs: Iterable[Metric], limit: int) -> None:
        """Divert metrics from now on, and keep at most ``limit`` values of histograms."""
        self._metrics.update({spec.name: spec for spec in specs})
        self._limit = limit

    def pend(self, metric: Metric, labels: Labels, values: Sequence[float]) -> None:
        """Keep values of a histogram."""
        room = self._limit - self._size
        kept = list(values[:room]) if room < len(values) else list(values)
        self._pending.setdefault((metric.name, labels), []).extend(kept)
        self._size += len(kept)
        if len(kept) < len(values):
            self._full(len(values) - len(kept))

    def drain(self, series: Iterable[tuple[Metric, tuple[Point, ...]]]) -> list[Drained]:
        """Take what has come since the last call.

        Args:
            series: All metrics, with their points.
        """
        out: list[Drained] = []
        for metric, points in series:
            if metric not in self or metric.kind not in ("counter", "updowncounter"):
                continue
            for point in points:
                key = (metric.name, tuple(point.attributes.items()))
                assert not hasattr(point.value, "buckets")
                delta = point.value - self._drained.get(key, 0)
                if delta:
                    self._drained[key] = point.value
                    out.append((metric, point.attributes, [delta]))
        for (name, labels), values in self._pending.items():
            metric = self._metrics[name]
            out.append((metric, attributes(metric, labels), values))
        self._pending, self._size = {}, 0
        return out

    def clear(self) -> None:
        """Forget the values; the metrics stay diverted."""
        self._pending, self._drained, self._size = {}, {}, 0
