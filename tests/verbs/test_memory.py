"""Memory that the program says it allocates and releases."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality

import crucible_otel as cx
from tests.captured import Capture, listen

# What the preference "delta" means: an up-down counter stays cumulative.
DELTA = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def values(capture: Capture, **attributes: Any) -> list[Any]:
    """Return bytes allocated, released and in use."""
    return [capture.value(f"crucible.memory.{name}", **attributes) for name in ("allocated", "released", "usage")]


def total(capture: Capture, name: str, temporality: str) -> int:
    """Return the sum of a counter: its last value, or all of its deltas."""
    capture.flush()
    found = [
        point.value
        for collection in capture._metrics.collections
        for resource in collection.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == f"crucible.memory.{name}"
        for point in metric.data.data_points
    ]
    return sum(found) if temporality == "delta" else found[-1]


def test_allocated_and_released_bytes_are_counted_by_type_and_device(capture: Capture) -> None:
    """Cumulative and in use, for each device by itself; devices in any of their forms."""
    capture.configure()
    cx.memory.allocate(1_000, type="gpu", device="cuda:0")
    cx.memory.allocate(500, type="gpu", device=("cuda", 0))
    cx.memory.release(300, type="gpu", device=0)
    cx.memory.allocate(64)
    cx.memory.release(64)
    gpu = {"crucible__memory__type": "gpu", "crucible__device__name": "cuda:0"}
    assert [1_500, 300, 1_200] == values(capture, **gpu)
    assert [64, 64, 0] == values(capture, crucible__memory__type="cpu")
    assert [] == capture.logs


@pytest.mark.parametrize(
    ("expected", "device"),
    [("cpu", None), ("cpu", "cpu"), ("gpu", "cuda:1"), ("gpu", 0), ("gpu", ("cuda", 0))],
    ids=repr,
)
def test_the_device_says_which_kind_of_memory_it_is(capture: Capture, expected: str, device: Any) -> None:
    """When nobody else does."""
    capture.configure()
    cx.memory.allocate(8, device=device)
    cx.memory.release(8, device=device)
    assert [8, 8, 0] == values(capture, crucible__memory__type=expected)
    cx.memory.allocate(8, type="pinned", device=device)
    assert 8 == capture.value("crucible.memory.usage", crucible__memory__type="pinned")


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_eight_threads_lose_and_double_nothing(capture: Capture, temporality: str) -> None:
    """Through the verbs, the pipeline and concurrent flushes; the seed's functions count into the same series."""
    if temporality == "delta":
        capture._metrics._preferred_temporality = DELTA
    telemetry = capture.configure()
    rounds, threads = 2_000, 8

    def work() -> None:
        for _ in range(rounds):
            cx.memory.allocate(5, type="gpu", device="cuda:0")
            cx.memory.release(3, type="gpu", device=0)
            cx.snakepit.memory_allocate(2, "gpu", ("cuda", 0))

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        telemetry.flush()
    for thread in running:
        thread.join()
    telemetry.flush()
    made = rounds * threads
    assert (7 * made, 3 * made, 4 * made) == (
        total(capture, "allocated", temporality),
        total(capture, "released", temporality),
        capture.value("crucible.memory.usage"),
    )


def test_deltas_of_what_is_in_use_go_both_ways(capture: Capture) -> None:
    """An up-down counter stays cumulative where counters are sent as deltas."""
    capture._metrics._preferred_temporality = DELTA
    capture.configure()
    seen = []
    for change in (cx.memory.allocate, cx.memory.allocate, cx.memory.release):
        change(10)
        seen.append((capture.value("crucible.memory.allocated"), capture.value("crucible.memory.usage")))
    assert [(10, 10), (10, 20), (None, 10)] == seen


@pytest.mark.parametrize("bad", [-1, 1.5, "much", None, float("nan")], ids=repr)
def test_what_is_no_size_is_refused(capture: Capture, bad: Any) -> None:
    """Counted, and nothing else happens."""
    capture.configure()
    cx.memory.allocate(bad)
    assert [None, None, None] == values(capture)
    refused = capture.value("crucible.sdk.refused_attributes")
    assert (None if bad is None else 1) == refused


def test_a_handler_gets_every_one(capture: Capture) -> None:
    """Under the seed's name and under ours, as it was told."""
    capture.configure()
    seed = listen("snakepit.memory.allocate", "snakepit.memory.release")
    ours = listen("crucible.memory.allocate", handler_id="ours")
    with cx.stage("load"):
        cx.memory.allocate(10, type="gpu", device=("cuda", 0))
        cx.memory.release(0)
    assert [
        ("snakepit.memory.allocate", {"bytes": 10}, {"type": "gpu", "device": ("cuda", 0)}),
        ("snakepit.memory.release", {"bytes": 0}, {"type": "cpu"}),
    ] == seed
    assert "load" == ours[0][2]["stage"]
    assert [10, 0, 10] == [
        sum(point.value for point in capture.points(f"crucible.memory.{name}"))
        for name in ("allocated", "released", "usage")
    ]


def test_a_handler_alone_gets_them_too() -> None:
    """With nothing configured."""
    seen = listen("crucible.memory.allocate")
    cx.memory.allocate(10)
    assert [("crucible.memory.allocate", {"bytes": 10}, {"type": "cpu"})] == seen
