"""Datasets and batches."""

from __future__ import annotations

from typing import Any

import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def value(capture: Capture, name: str, dataset: str = "d") -> Any:
    """Return the value of a dataset metric."""
    return capture.value(f"crucible.dataset.{name}", crucible__dataset__name=dataset)


def test_a_load_with_a_duration_is_a_span(capture: Capture) -> None:
    """Under what is around it, with size and bytes; the kitchen sees its own names."""
    capture.configure()
    seen = listen("crucible_kitchen.dataset.load")
    with cx.stage("s"):
        cx.dataset.load("d", size=36_718, duration_s=1.25, size_bytes=1_000, revision="main")
    assert ["/run_stage s", "/run_stage s/load_dataset d"] == capture.paths()
    span = capture.span("load_dataset d")
    assert (1_250_000_000, 36_718, "main") == (
        span.end_time - span.start_time,
        span.attributes["crucible.dataset.record_count"],
        span.attributes["revision"],
    )
    found = {name: value(capture, name) for name in ("load.duration", "size", "io")}
    assert {"load.duration": 1, "size": 36_718, "io": 1_000} == found
    _, measurements, metadata = seen[0]
    expected = {"size": 36_718, "duration": 1_250_000_000}
    assert (expected, "d", "main") == (measurements, metadata["name"], metadata["revision"])


def test_a_load_without_a_duration_is_an_event(capture: Capture) -> None:
    """No span, no duration."""
    capture.configure()
    cx.dataset.load("d", size=5)
    assert ((), 5, None) == (capture.spans, value(capture, "size"), value(capture, "load.duration"))
    assert ["crucible.dataset.load"] == [record.event_name for record in capture.logs]


def test_batches_are_counted_by_dataset(capture: Capture) -> None:
    """Number, records, sizes, waits; the index is no attribute of a metric, and batches are no log events."""
    capture.configure()
    for index in range(300):
        cx.dataset.batch(32, dataset="d", wait_s=0.001, index=index)
    cx.dataset.batch(8)
    found = {name: value(capture, name) for name in ("batches", "records", "batch.size", "batch.wait_time")}
    assert {"batches": 300, "records": 9_600, "batch.size": 300, "batch.wait_time": 300} == found
    assert [{"crucible.dataset.name": "d"}, {}] == [
        dict(point.attributes) for point in capture.points("crucible.dataset.batches")
    ]
    assert [] == capture.logs


@pytest.mark.parametrize("configured", [True, False])
def test_every_batch_reaches_handlers(capture: Capture, configured: bool) -> None:
    """With its index where it was told."""
    if configured:
        capture.configure()
    seen = listen("crucible_kitchen.dataset.batch")
    ours = listen("crucible.dataset.batch", handler_id="ours")
    cx.dataset.batch(32, dataset="d", wait_s=0.5, index=0)
    cx.dataset.batch(16)
    assert [({"batch_size": 32}, {"batch_idx": 0}), ({"batch_size": 16}, {})] == [
        (measurements, metadata) for _, measurements, metadata in seen
    ]
    assert {"batch_size": 32, "wait_time": 500_000_000} == ours[0][1]
    assert {"batch_idx": 0, "dataset": "d"} == ours[0][2]
