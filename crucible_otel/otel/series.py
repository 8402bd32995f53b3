"""The state of series: what records are folded into and what a snapshot reads."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from crucible_otel.otel.snapshot import Exemplar, Histogram
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Feed


class Distribution:
    """One histogram series."""

    __slots__ = ("buckets", "exemplars", "high", "low", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.buckets = [0] * (len(bounds) + 1)
        self.total, self.low, self.high = 0.0, math.inf, -math.inf
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(
        self, bounds: Sequence[float], values: Sequence[float], low: float, high: float, total: float, exemplar: Any
    ) -> None:
        """Fold values whose extremes and sum are known.

        Buckets are found for the extremes only while all values fall into one; otherwise the values are sorted and
        cut at the bounds in between, which costs less than a search per value.
        """
        first, last, size = bisect_left(bounds, low), bisect_left(bounds, high), len(values)
        buckets = self.buckets
        if first == last:
            buckets[first] += size
        else:
            ordered, done = sorted(values), 0
            for index in range(first, last):
                upto = bisect_right(ordered, bounds[index], done)
                buckets[index] += upto - done
                done = upto
            buckets[last] += size - done
        self.total += total
        if low < self.low:
            self.low = low
        if high > self.high:
            self.high = high
        if exemplar is not None:
            if self.exemplars is None:
                self.exemplars = {}
            value = values[-1]
            self.exemplars[bisect_left(bounds, value)] = exemplar(value)

    def snapshot(self) -> Histogram:
        """Return the cumulative state."""
        return Histogram(sum(self.buckets), self.total, self.low, self.high, tuple(self.buckets))

    def samples(self) -> tuple[Exemplar, ...]:
        """Return the newest exemplar of each bucket."""
        return tuple(self.exemplars.values()) if self.exemplars else ()


class Stopped:
    """Stands in a gauge whose last value was not finite: it reports nothing until a finite one comes."""


STOPPED = Stopped()


def plain(values: Iterable[float | None], *, clamp: bool) -> tuple[list[float], float, float, float] | None:
    """Return the usable values with their extremes and sum, or None when there are none.

    Args:
        values: Numbers and gaps.
        clamp: Whether a negative value is a measurement of zero (two clock reads that threads put in the wrong
            order) or no measurement.
    """
    kept = [
        value if value >= 0.0 else 0.0
        for value in values
        if value is not None and math.isfinite(value) and (clamp or value >= 0.0)
    ]
    return (kept, min(kept), max(kept), math.fsum(kept)) if kept else None


def state_class(spec: EventSpec, feeds: Sequence[Feed]) -> type[Any]:
    """Make the class of a hot event's series: one slot a stream, and the attribute values.

    Args:
        spec: The hot event.
        feeds: Those of its feeds that become streams of a series.
    """
    names = tuple(f"stream_{index}" for index in range(len(feeds)))

    def __init__(self: Any, values: tuple[str, ...]) -> None:
        self.values = values
        self.clear()

    def clear(self: Any) -> None:
        self.touched = False
        for name, feed in zip(names, feeds, strict=True):
            setattr(self, name, 0 if feed.how in ("count", "sum", "rewind") else None)

    return type(
        "Series_" + spec.name.rpartition(".")[2],
        (),
        {"__slots__": ("touched", "values", *names), "__init__": __init__, "clear": clear},
    )
