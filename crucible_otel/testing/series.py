"""Questions about metric points: which are of a series, what is its last value, what do all amount to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, Literal

from crucible_otel.semconv.names import SERVICE_INSTANCE_ID
from crucible_otel.testing.records import ReceivedMetric

__all__ = ["Amount", "latest", "select", "total"]

Amount = Literal["value", "count", "sum"]
"""What of a point is added up."""

# What a point of a kind amounts to, unless said otherwise.
_AMOUNTS: Final[Mapping[str, Amount]] = {"gauge": "value", "sum": "value"}


def select(
    points: Iterable[ReceivedMetric], name: str | None, attributes: Mapping[str, Any] | None
) -> tuple[ReceivedMetric, ...]:
    """Return the points of a metric that have these attributes, whatever others they have."""
    wanted = (attributes or {}).items()
    return tuple(
        point
        for point in points
        if name in (None, point.name)
        and all(key in point.attributes and point.attributes[key] == value for key, value in wanted)
    )


def latest(points: Iterable[ReceivedMetric]) -> tuple[ReceivedMetric, ...]:
    """Return the newest point of each series and service instance, in the order of their first points."""
    newest: dict[Hashable, ReceivedMetric] = {}
    for point in points:
        key = _series(point)
        # Of two points with one time the one that came later counts.
        if key not in newest or point.time_ns >= newest[key].time_ns:
            newest[key] = point
    return tuple(newest.values())


def total(points: Iterable[ReceivedMetric], of: Amount | None = None) -> int | float:
    """Add up series and instances: deltas all of them, cumulative and other values the newest of each.

    A cumulative series that began anew (a later start time: the process or its telemetry was restarted) goes on from
    where it was, if it only grows; else what it was before is gone.

    Args:
        points: The points.
        of: What to add; by default the value of gauges and sums and the count of histograms.
    """
    amounts: int | float = 0
    lives: dict[Hashable, list[ReceivedMetric]] = {}
    for point in points:
        if point.temporality == "delta":
            amounts += _amount(point, of)
        else:
            keeps_growing = point.monotonic or point.kind not in _AMOUNTS
            lives.setdefault((_series(point), point.start_ns if keeps_growing else None), []).append(point)
    for life in lives.values():
        amounts += sum(_amount(point, of) for point in latest(life))
    return amounts


def _amount(point: ReceivedMetric, of: Amount | None) -> int | float:
    amount: int | float | None = getattr(point, of or _AMOUNTS.get(point.kind, "count"))
    return 0 if amount is None else amount


def _series(point: ReceivedMetric) -> Hashable:
    instance = point.resource.get(SERVICE_INSTANCE_ID) or _frozen(point.resource)
    return instance, point.scope.name, point.name, point.unit, point.kind, _frozen(point.attributes)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, tuple):
        return tuple(_frozen(item) for item in value)
    # 1, 1.0 and True are one dictionary key, but three attribute values.
    return type(value).__name__, value
