"""A small stand-in for the engine: it builds real snapshots, and diverts as the engine promises to."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from crucible_otel.export.points import series_key
from crucible_otel.otel.snapshot import Exemplar, Histogram, MetricSnapshot, Over, Point, Snapshot
from crucible_otel.semconv.model import Metric

START = 1_000_000_000_000

STEPS = Metric(name="test.steps", kind="counter", unit="{step}", brief="Steps made.", attributes=("model",))
ACTIVE = Metric(name="test.active", kind="updowncounter", unit="{run}", brief="Runs that are active.")
DURATION = Metric(
    name="test.step.duration", kind="histogram", unit="s", brief="Duration of a step.", buckets=(0.1, 1.0, 10.0)
)
LOSS = Metric(name="test.loss", kind="gauge", unit="", brief="Latest loss.")
UTILIZATION = Metric(name="test.utilization", kind="gauge", unit="1", brief="Share of the time in use.")
SPECS = (STEPS, ACTIVE, DURATION, LOSS, UTILIZATION)


class FakeSource:
    """Series that tests set by hand; its clock moves one second with each snapshot."""

    def __init__(self) -> None:
        self.now = START
        self.start = START
        self.fails: Exception | None = None
        self.snapshots = 0
        self.limit = 0
        self._series: dict[str, dict[Any, Point]] = {}
        self._specs: dict[str, Metric] = {}
        self._diverted: dict[str, list[tuple[Metric, Mapping[str, Any], float]]] = {}
        self._lock = threading.Lock()

    def add(self, spec: Metric, value: float, exemplars: tuple[Exemplar, ...] = (), **attributes: Any) -> None:
        """Add to a sum, record in a histogram or set a gauge."""
        with self._lock:
            if spec.name in self._diverted and spec.kind != "gauge":
                self._diverted[spec.name].append((spec, attributes, value))
                return
            self._specs[spec.name] = spec
            series = self._series.setdefault(spec.name, {})
            before = series.get(series_key(attributes))
            series[series_key(attributes)] = Point(
                attributes, _next(spec, before, value), before.start_time_unix_nano if before else self.start, exemplars
            )

    def end(self, spec: Metric) -> None:
        """Let all series of a metric disappear."""
        with self._lock:
            self._series.pop(spec.name, None)

    def restart(self) -> None:
        """Begin at zero, as a forked child does."""
        with self._lock:
            self._series.clear()
            for kept in self._diverted.values():
                kept.clear()
            self.start = self.now + 1

    def snapshot(self, over: Over = iter) -> Snapshot:
        """Return all series that are not diverted."""
        with self._lock:
            if self.fails is not None:
                raise self.fails
            self.snapshots += 1
            self.now += 1_000_000_000
            return Snapshot(
                self.now,
                tuple(
                    MetricSnapshot(self._specs[name], tuple(series.values()))
                    for name, series in self._series.items()
                    if name not in self._diverted
                ),
            )

    def settle(self, over: Over = iter) -> None:
        """Do nothing: nothing is buffered."""

    def divert(self, specs: Iterable[Metric], limit: int = 65_536) -> None:
        """Keep the values of these metrics."""
        self.limit = limit
        for spec in specs:
            self._diverted.setdefault(spec.name, [])

    def drain_diverted(self) -> list[tuple[Metric, Mapping[str, Any], list[float]]]:
        """Hand over the values once."""
        with self._lock:
            found: dict[Any, tuple[Metric, Mapping[str, Any], list[float]]] = {}
            for name, kept in self._diverted.items():
                for spec, attributes, value in kept:
                    found.setdefault((name, series_key(attributes)), (spec, attributes, []))[2].append(value)
                kept.clear()
        return [
            (spec, attributes, values if spec.kind == "histogram" else [sum(values)])
            for spec, attributes, values in found.values()
        ]

    def gauge_points(self, spec: Metric) -> tuple[Point, ...]:
        """Return a gauge's points."""
        with self._lock:
            return tuple(self._series.get(spec.name, {}).values())


def _next(spec: Metric, before: Point | None, value: float) -> Any:
    if spec.kind == "gauge" or (before is None and spec.kind != "histogram"):
        return value
    if spec.kind != "histogram":
        assert before is not None
        return before.value + value  # type: ignore[operator]
    old = before.value if before is not None else None
    assert old is None or isinstance(old, Histogram)
    buckets = list(old.buckets if old else (0,) * (len(spec.buckets) + 1))
    buckets[bisect_left(spec.buckets, value)] += 1
    return Histogram(
        (old.count if old else 0) + 1,
        (old.sum if old else 0.0) + value,
        min(value, old.min) if old else value,
        max(value, old.max) if old else value,
        tuple(buckets),
    )
