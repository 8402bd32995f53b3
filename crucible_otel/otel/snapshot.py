"""Plain snapshots of our series: what ``export`` turns into SDK data points.

A snapshot is cumulative since ``start_time_unix_nano`` and immutable. All its metrics are read under one lock after
one fold, so the step counter, the histogram's count and the sum of its buckets always agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from crucible_otel.semconv.model import Metric

Over: TypeAlias = Callable[[Sequence[Any]], Iterable[Any]]
"""Iterates over a sequence, maybe with pauses."""


class Histogram(NamedTuple):
    """A cumulative explicit-bucket histogram; ``buckets`` has one entry more than ``spec.buckets``."""

    count: int  # type: ignore[assignment]  # the field's name in OTLP; nobody counts occurrences in this tuple
    sum: float
    min: float
    max: float
    buckets: tuple[int, ...]


class Exemplar(NamedTuple):
    """One sampled measurement and the span it was made in."""

    value: float
    time_unix_nano: int
    trace_id: int
    span_id: int


class Point(NamedTuple):
    """One series of a metric."""

    attributes: Mapping[str, str | int | float | bool]
    value: int | float | Histogram
    start_time_unix_nano: int
    exemplars: tuple[Exemplar, ...] = ()


class MetricSnapshot(NamedTuple):
    """One metric and its series."""

    spec: Metric
    points: tuple[Point, ...]


class Snapshot(NamedTuple):
    """All our metrics at one moment."""

    time_unix_nano: int
    metrics: tuple[MetricSnapshot, ...]
