"""Numbers for people, and percentiles out of a histogram."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_otel.testing.records import ReceivedMetric

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_SMALL = 1e-3
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def seconds(value: float) -> str:
    """Show a duration: ``1.62 s``, ``35 ms``, ``180 us``."""
    return _scaled(value, _SECONDS)


def size(value: float) -> str:
    """Show bytes: ``670 kB``."""
    return _scaled(value, _BYTES)


def plain(value: float) -> str:
    """Show a number: ``3,771``, ``0.4240``, ``8.5e-05``."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.4f}" if abs(value) >= _SMALL else f"{value:.2g}"


def counted(count: int, noun: str) -> str:
    """Show how many there are: ``1 file``, ``3 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def quantile(point: ReceivedMetric, share: float) -> float | None:
    """Estimate a quantile of a histogram, like ``histogram_quantile`` but within the least and greatest value.

    Args:
        point: An explicit-bucket histogram.
        share: 0 to 1.
    """
    if not point.count or not point.buckets:
        return None
    least = point.min if point.min is not None else 0.0
    greatest = point.max if point.max is not None else (point.bounds[-1] if point.bounds else least)
    edges = (least, *point.bounds, greatest)
    rank, below = share * point.count, 0
    for index, count in enumerate(point.buckets):
        if count and below + count >= rank:
            low, high = max(edges[index], least), min(edges[index + 1], greatest)
            return low + (high - low) * (rank - below) / count
        below += count
    return greatest


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    factor, unit = next((pair for pair in units if abs(value) >= pair[0]), units[-1])
    amount = value / factor
    return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
