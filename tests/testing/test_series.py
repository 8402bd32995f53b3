"""Last values and totals of series."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_otel.semconv.names import SERVICE_INSTANCE_ID
from crucible_otel.testing.records import ReceivedMetric, ReceivedScope
from crucible_otel.testing.series import latest, select, total


def point(value: float | None = None, *, time: int = 1, instance: str = "a", **given: Any) -> ReceivedMetric:
    """Make a point of a cumulative counter, unless something else is said."""
    usual: dict[str, Any] = {
        "name": "m",
        "unit": "",
        "description": "",
        "kind": "sum",
        "monotonic": True,
        "temporality": "cumulative",
        "attributes": {},
        "start_ns": 0,
        "scope": ReceivedScope(name="s"),
        "resource": {SERVICE_INSTANCE_ID: instance},
    }
    return ReceivedMetric(**{**usual, **given, "value": value, "time_ns": time})


def test_a_point_is_selected_by_name_and_some_of_its_attributes() -> None:
    """What is not asked for may be anything; what is asked for must be there."""
    both = point(1, attributes={"k": "v", "l": 2})
    bare = point(2)

    assert (both,) == select([both, bare], "m", {"k": "v"})
    assert (both, bare) == select([both, bare], None, None)
    assert () == select([both, bare], "m", {"absent": None})
    assert () == select([both, bare], "n", {})


def test_the_latest_point_is_the_newest_of_each_series_and_instance() -> None:
    """Late arrivals do not count; of two with one time the later arrival does."""
    early, late, again = point(1, time=1), point(5, time=3), point(6, time=3)
    other_instance, other_series = point(7, instance="b"), point(8, attributes={"k": ("x", "y")})

    assert (again, other_instance, other_series) == latest([late, again, early, other_instance, other_series])


@pytest.mark.parametrize(
    "difference",
    [
        {"attributes": {"k": 1}},
        {"attributes": {"k": True}},
        {"attributes": {"k": 1.0}},
        {"attributes": {"k": {"nested": (1,)}}},
        {"name": "n"},
        {"unit": "s"},
        {"kind": "gauge"},
        {"scope": ReceivedScope(name="other")},
        {"resource": {"no": "instance"}},
    ],
    ids=str,
)
def test_what_makes_a_series_another_one(difference: dict[str, Any]) -> None:
    """Name, unit, kind, scope, process, and attributes with their types."""
    assert 3 == len(latest([point(1), point(2, **difference), point(3, attributes={"k": "1"})]))


def test_without_an_instance_the_whole_resource_tells_processes_apart() -> None:
    """Two processes that do not say who they are may still differ."""
    assert 2 == len(
        latest([point(1, resource={"pid": 1}), point(1, resource={"pid": 2}), point(2, resource={"pid": 1})])
    )


def test_a_total_adds_the_newest_cumulative_values() -> None:
    """Over series and instances, never over time."""
    assert 14 == total([point(1), point(4, time=2), point(7, attributes={"k": 1}), point(3, instance="b")])


def test_a_total_adds_all_deltas() -> None:
    """Each says only what is new."""
    assert 6 == total([point(value, temporality="delta", time=value) for value in (1, 2, 3)])


def test_a_counter_goes_on_after_a_restart() -> None:
    """A later start time begins a new count; the last value of the one before is not lost."""
    assert 12 == total([point(5, time=1), point(10, time=2), point(2, start_ns=3, time=4)])


def test_what_can_shrink_is_forgotten_with_a_restart() -> None:
    """What was open in a process that is gone is open no more; nor has a gauge a past."""
    assert 2 == total([point(10, monotonic=False), point(2, monotonic=False, start_ns=3, time=4)])
    assert 2 == total([point(10, kind="gauge", monotonic=False), point(2, kind="gauge", monotonic=False, time=4)])


def test_a_histogram_amounts_to_its_count_or_its_sum() -> None:
    """Whatever was asked for, over restarts too."""
    histograms = [
        point(kind="histogram", monotonic=False, count=3, sum=1.5),
        point(kind="histogram", monotonic=False, count=1, sum=0.5, start_ns=2, time=3),
    ]

    assert (4, 4, 2.0) == (total(histograms), total(histograms, "count"), total(histograms, "sum"))


def test_nothing_amounts_to_nothing() -> None:
    """No points, and points without a value, are 0."""
    assert (0, 0) == (total([]), total([point(None)]))
