"""An engine on a fake clock, and what a snapshot of it holds."""

from __future__ import annotations

from typing import Any

from crucible_otel.otel.engine import Engine
from crucible_otel.otel.snapshot import Histogram, Point
from crucible_otel.testing import FakeClock


def engine(**options: Any) -> tuple[Engine, FakeClock, list[dict[str, Any]]]:
    """Return an engine, its clock, and the list into which its reports go."""
    clock = FakeClock()
    reports: list[dict[str, Any]] = []

    def report(spec: Any, measurements: Any, metadata: Any, scope: Any, **how: Any) -> None:
        reports.append({"name": spec.name, "measurements": measurements, "metadata": metadata, **how})

    return Engine(clock=clock, report=report, **options), clock, reports


def points(of: Engine, name: str) -> tuple[Point, ...]:
    """Return the points of a metric."""
    return next((metric.points for metric in of.snapshot().metrics if metric.spec.name == name), ())


def value(of: Engine, name: str) -> Any:
    """Return the value of a metric with one point; None when it has none."""
    found = points(of, name)
    assert len(found) <= 1
    return found[0].value if found else None


def histogram(of: Engine, name: str) -> Histogram:
    """Return the histogram of a metric with one point."""
    found = value(of, name)
    assert isinstance(found, Histogram)
    return found
