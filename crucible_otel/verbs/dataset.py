"""Datasets: ``cx.dataset.load`` and ``cx.dataset.batch``."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.runtime import runtime
from crucible_otel.otel.current import engine_of
from crucible_otel.otel.labels import label
from crucible_otel.semconv.dataset import BATCH_EVENT, LOAD_EVENT
from crucible_otel.verbs.given import duration_ns, present, quietly
from crucible_otel.verbs.hot import record

__all__ = ["batch", "load"]


@quietly
def load(
    name: str,
    *,
    size: int | None = None,
    duration_s: float | None = None,
    size_bytes: int | None = None,
    **fields: Any,
) -> None:
    """Report that a dataset was loaded; with a duration it becomes a span too.

    Args:
        name: Name of the dataset.
        size: Examples in it.
        duration_s: Seconds it took.
        size_bytes: Bytes read.
        fields: Further attributes of the event.
    """
    duration = duration_ns(duration_s, "dataset.load(duration_s)")
    measurements = present(size=size, size_bytes=size_bytes, duration=duration)
    runtime().point(LOAD_EVENT, measurements, {"dataset": name, **fields})


@quietly
def batch(batch_size: int, *, dataset: str = "", wait_s: float | None = None, index: int | None = None) -> None:
    """Report that a batch was processed.

    Args:
        batch_size: Records in it.
        dataset: Name of the dataset.
        wait_s: Seconds spent waiting for it.
        index: Its index; on events only.
    """
    current = runtime()
    if index is not None and current.bus.wants(BATCH_EVENT.name):
        wait = duration_ns(wait_s, "dataset.batch(wait_s)")
        metadata = {"batch_idx": index, "dataset": label(dataset) or None}
        record(BATCH_EVENT, {"batch_size": batch_size, "wait_time": wait}, metadata)
        return
    # The handle itself: twice as fast, there is nothing else to tell.
    engine_of(current).bound(BATCH_EVENT, (label(dataset),)).record(batch_size=batch_size, wait_time=wait_s)
