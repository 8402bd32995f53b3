"""Snapshots of our series as the SDK's data points, in the temporality that one reader asks for.

Cumulative points are the snapshot itself. Delta points are the difference to this reader's previous snapshot, and as
with the SDK's synchronous instruments a series without a measurement in between has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, HistogramDataPoint, NumberDataPoint, Sum
from opentelemetry.sdk.metrics.export import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import Metric as SdkMetric

from crucible_otel.otel.snapshot import Exemplar, Histogram, MetricSnapshot, Over, Point, Snapshot
from crucible_otel.semconv.model import Metric, MetricKind

Temporalities = Mapping[MetricKind, AggregationTemporality]
"""The temporality of each declared instrument kind."""

CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
DELTA: Final = AggregationTemporality.DELTA

_INT64: Final = range(-(2**63), 2**63)
_DOUBLE_BITS: Final = 1024

_SeriesKey = tuple[str, tuple[tuple[str, str, Any], ...]]


class _Seen(NamedTuple):
    """What a reader was last told of a series."""

    start_time_unix_nano: int
    value: int | float | Histogram


class PointBuilder:
    """Turns snapshots into SDK metrics for one reader; the caller serialises the calls.

    Args:
        temporality: What the reader asks for; a kind that is missing is cumulative.
        exemplars: Whether points carry exemplars.
    """

    def __init__(self, temporality: Temporalities, *, exemplars: bool = True) -> None:
        self._temporality = temporality
        self._with_exemplars = exemplars
        self._previous: dict[_SeriesKey, _Seen] = {}
        self._collected_unix_nano = 0

    def reset(self) -> None:
        """Forget what was reported, as a forked child must."""
        self._previous = {}
        self._collected_unix_nano = 0

    def build(self, snapshot: Snapshot, over: Over = iter) -> list[SdkMetric]:
        """Return the metrics that have points; the delta state moves on only when all could be built.

        Args:
            snapshot: All series.
            over: Iterates over the points of a metric, and may pause meanwhile.
        """
        seen: dict[_SeriesKey, _Seen] = {}
        metrics = [
            metric for one in snapshot.metrics if (metric := self._metric(one, snapshot, seen, over)) is not None
        ]
        self._previous.update(seen)
        self._collected_unix_nano = snapshot.time_unix_nano
        return metrics

    def _metric(
        self, one: MetricSnapshot, snapshot: Snapshot, seen: dict[_SeriesKey, _Seen], over: Over
    ) -> SdkMetric | None:
        spec = one.spec
        temporality = self._temporality.get(spec.kind, CUMULATIVE)
        points: Iterable[Point] = (point for point in over(one.points) if _is_reportable(point.value))
        if temporality is DELTA and spec.kind != "gauge":
            points = self._deltas(spec, points, snapshot.time_unix_nano, seen)
        make = _histogram_point if spec.kind == "histogram" else _number_point
        made = [make(spec, point, snapshot.time_unix_nano, self._exemplars(point.exemplars)) for point in points]
        if not made:
            return None
        return SdkMetric(
            name=spec.name, description=spec.brief, unit=spec.unit, data=_DATA[spec.kind](made, temporality)
        )

    def _deltas(
        self, spec: Metric, points: Iterable[Point], time_unix_nano: int, seen: dict[_SeriesKey, _Seen]
    ) -> Iterable[Point]:
        difference: Callable[[Metric, Any, Any], Any] = (
            _histogram_difference if spec.kind == "histogram" else _number_difference
        )
        for point in points:
            key = (spec.name, series_key(point.attributes))
            before = self._previous.get(key)
            value: Any = point.value
            if before is not None and before.start_time_unix_nano == point.start_time_unix_nano:
                value = difference(spec, value, before.value)
            seen[key] = _Seen(point.start_time_unix_nano, point.value)
            if value is not None:
                start = min(max(point.start_time_unix_nano, self._collected_unix_nano), time_unix_nano)
                yield point._replace(value=value, start_time_unix_nano=start)

    def _exemplars(self, exemplars: tuple[Exemplar, ...]) -> list[SdkExemplar]:
        """Return those of the interval; an exemplar is reported once, as the SDK's reservoirs do."""
        return [
            SdkExemplar(
                filtered_attributes={},
                value=one.value,
                time_unix_nano=one.time_unix_nano,
                span_id=one.span_id or None,
                trace_id=one.trace_id or None,
            )
            for one in exemplars
            if self._with_exemplars and one.time_unix_nano > self._collected_unix_nano
        ]


def series_key(attributes: Mapping[str, Any]) -> tuple[tuple[str, str, Any], ...]:
    """Return what identifies a series within its metric; ``True``, ``1`` and ``1.0`` are different values."""
    return tuple(sorted((name, type(value).__name__, value) for name, value in attributes.items()))


def _is_reportable(value: int | float | Histogram) -> bool:
    # As in the SDK: a number that is not finite is never exported. isfinite() raises for an int that no double holds.
    if isinstance(value, Histogram):
        return value.count > 0
    return value.bit_length() < _DOUBLE_BITS if isinstance(value, int) else math.isfinite(value)


def _number_difference(spec: Metric, now: float, before: float) -> float | None:
    if now == before:
        return None
    # A counter that went back was restarted without saying so: all of it is new.
    return now if spec.kind == "counter" and now < before else now - before


def _histogram_difference(spec: Metric, now: Histogram, before: Histogram) -> Histogram | None:
    if now.count == before.count:
        return None
    buckets = tuple(new - old for new, old in zip(now.buckets, before.buckets, strict=True))
    if now.count < before.count or min(buckets, default=0) < 0:
        return now
    # Minimum and maximum of an interval cannot be had from two cumulative ones; NaN marks them as unknown.
    return Histogram(now.count - before.count, now.sum - before.sum, math.nan, math.nan, buckets)


def _number_point(spec: Metric, point: Point, time_unix_nano: int, exemplars: list[SdkExemplar]) -> NumberDataPoint:
    value = cast("int | float", point.value)
    if isinstance(value, int) and value not in _INT64:
        value = float(value)  # OTLP has 64 bits; an encoder that raises would lose the whole export
    return NumberDataPoint(
        attributes=dict(point.attributes),
        # As the SDK does it, a gauge has no start.
        start_time_unix_nano=cast(int, None if spec.kind == "gauge" else point.start_time_unix_nano),
        time_unix_nano=time_unix_nano,
        value=value,
        exemplars=exemplars,
    )


def _histogram_point(
    spec: Metric, point: Point, time_unix_nano: int, exemplars: list[SdkExemplar]
) -> HistogramDataPoint:
    value = cast(Histogram, point.value)
    return HistogramDataPoint(
        attributes=dict(point.attributes),
        start_time_unix_nano=point.start_time_unix_nano,
        time_unix_nano=time_unix_nano,
        count=value.count,
        sum=value.sum,
        bucket_counts=value.buckets,
        explicit_bounds=spec.buckets,
        # Optional in OTLP, and None leaves them out; only the dataclass is typed as if they were not.
        min=cast(float, value.min if math.isfinite(value.min) else None),
        max=cast(float, value.max if math.isfinite(value.max) else None),
        exemplars=exemplars,
    )


_DATA: Final[Mapping[MetricKind, Callable[[list[Any], AggregationTemporality], Any]]] = {
    "counter": lambda points, temporality: Sum(points, temporality, is_monotonic=True),
    "updowncounter": lambda points, temporality: Sum(points, temporality, is_monotonic=False),
    "histogram": SdkHistogram,
    "gauge": lambda points, temporality: Gauge(points),
}
