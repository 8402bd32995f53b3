"""The state of series: what records are folded into and what a snapshot reads."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from crucible_otel.otel.snapshot import Exemplar, Histogram
from crucible_otel.semconv.model import Metric

if TYPE_CHECKING:
    Doubles = array[float]
else:
    Doubles = array  # which cannot be subscripted before Python 3.12

_TOTAL, _LOW, _HIGH, _BUCKETS = range(4)


class Distribution(Doubles):
    """One histogram series, eight bytes a number: sum, least and greatest value, then the count of each bucket."""

    __slots__ = ("exemplars",)
    exemplars: dict[int, Exemplar] | None

    def __new__(cls, bounds: Sequence[float]) -> Distribution:
        """Make an empty one."""
        initial = (0.0, math.inf, -math.inf, *[0.0] * (len(bounds) + 1))
        self = cast("Distribution", super().__new__(cls, "d", initial))
        self.exemplars = None
        return self

    def observe(
        self,
        bounds: Sequence[float],
        values: Sequence[float],
        low: float,
        high: float,
        total: float,
        exemplar: Any,
        scale: float = 1.0,
        ordered: Sequence[float] | None = None,
    ) -> None:
        """Fold values whose extremes and sum are known.

        Buckets are found for the extremes only while all values fall into one; otherwise the values are sorted and
        cut at the bounds in between, which costs less than a search per value.

        Args:
            bounds: Upper bounds of the buckets, in the unit of the values.
            values: The values.
            low: The least of them.
            high: The greatest.
            total: Their sum.
            exemplar: Makes an exemplar of a value; None for no exemplars.
            scale: What the values are to be multiplied by.
            ordered: The values in order, if that is known.
        """
        first, last, size = bisect_left(bounds, low), bisect_left(bounds, high), len(values)
        if first == last:
            self[_BUCKETS + first] += size
        else:
            ordered, done = sorted(values) if ordered is None else ordered, 0
            for index in range(first, last):
                upto = bisect_right(ordered, bounds[index], done)
                self[_BUCKETS + index] += upto - done
                done = upto
            self[_BUCKETS + last] += size - done
        self[_TOTAL] += total * scale
        if low * scale < self[_LOW]:
            self[_LOW] = low * scale
        if high * scale > self[_HIGH]:
            self[_HIGH] = high * scale
        if exemplar is not None:
            if self.exemplars is None:
                self.exemplars = {}
            value = values[-1]
            self.exemplars[bisect_left(bounds, value)] = exemplar(value * scale)

    def snapshot(self) -> Histogram:
        """Return the cumulative state."""
        buckets = tuple(map(int, self[_BUCKETS:]))
        return Histogram(sum(buckets), self[_TOTAL], self[_LOW], self[_HIGH], buckets)

    def samples(self) -> tuple[Exemplar, ...]:
        """Return the newest exemplar of each bucket."""
        return tuple(self.exemplars.values()) if self.exemplars else ()


class Stopped:
    """Stands in a gauge whose last value was not finite: it reports nothing until a finite one comes."""


STOPPED = Stopped()
UNSET, HELD = math.nan, math.inf
"""Stand in a series for a gauge or a level without a value, and for a gauge whose last value was not finite."""


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


class Series(Doubles):
    """The state of a hot event's series: eight bytes for each stream that is a number, and its histograms.

    Attributes:
        values: The attribute values.
    """

    __slots__ = ("values",)
    values: tuple[Any, ...]
    initial: tuple[float, ...]
    histograms: tuple[str, ...]

    def __new__(cls, values: tuple[Any, ...]) -> Series:
        """Make one that nothing was folded into."""
        self = cast("Series", super().__new__(cls, "d", cls.initial))
        self.values = values
        self.clear()
        return self

    def clear(self) -> None:
        """Start from zero."""
        self[:] = array("d", self.initial)
        for name in self.histograms:
            setattr(self, name, None)


def state_class(name: str, metrics: Sequence[Metric]) -> tuple[type[Series], tuple[Any, ...]]:
    """Make the class of the series of a hot event, or of several that share theirs.

    Args:
        name: For error messages and profiles.
        metrics: The metric of each stream of a series.

    Returns:
        The class, and where it keeps each of the streams: an index, or the name of a histogram.
    """
    initial: list[float] = []
    slots: list[int | str] = []
    for index, metric in enumerate(metrics):
        if metric.kind == "histogram":
            slots.append(f"stream_{index}")
        else:
            slots.append(len(initial))
            initial.append(0.0 if metric.kind == "counter" else UNSET)
    histograms = tuple(slot for slot in slots if isinstance(slot, str))
    members = {"__slots__": histograms, "initial": tuple(initial), "histograms": histograms}
    return type("Series_" + name.rpartition(".")[2], (Series,), members), tuple(slots)
