"""What ``export`` sees of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from crucible_otel.otel.snapshot import Over, Point, Snapshot
from crucible_otel.semconv.model import Metric


class MetricSource(Protocol):
    """The series of this process, as a collection reads them."""

    def snapshot(self, over: Over = iter) -> Snapshot:
        """Fold what is buffered and return all series under one lock; diverted metrics are left out.

        Args:
            over: Iterates over what may be a lot, and may pause meanwhile: nobody waits for this lock to record.
        """

    def settle(self, over: Over = iter) -> None:
        """Fold what is buffered, and emit the events of what that finds; ``over`` as in :meth:`snapshot`."""

    def divert(self, specs: Iterable[Metric], limit: int = 65_536) -> None:
        """From now on keep these metrics' values for :meth:`drain_diverted`, at most ``limit`` histogram values."""

    def drain_diverted(self) -> list[tuple[Metric, Mapping[str, Any], list[float]]]:
        """Take what diverted counters (one delta) and histograms (each value) have received since the last call."""

    def gauge_points(self, spec: Metric) -> tuple[Point, ...]:
        """Return the present points of a diverted gauge."""
