"""Datasets: ``cx.dataset.load`` and ``cx.dataset.batch``."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.runtime import runtime
from crucible_otel.otel.current import engine_of
from crucible_otel.semconv.dataset import BATCH_EVENT, LOAD_EVENT


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
    current = runtime()
    if not current.enabled:
        return
    duration = round(duration_s * 1e9) if isinstance(duration_s, (int, float)) and 0 <= duration_s < 1e9 else None
    given = {"size": size, "size_bytes": size_bytes, "duration": duration}
    measurements = {key: value for key, value in given.items() if value is not None}
    current.point(LOAD_EVENT, measurements, {"dataset": name, **fields})


def batch(batch_size: int, *, dataset: str = "", wait_s: float | None = None, index: int | None = None) -> None:
    """Report that a batch was processed.

    Args:
        batch_size: Records in it.
        dataset: Name of the dataset.
        wait_s: Seconds spent waiting for it.
        index: Its index; on events only.
    """
    current = runtime()
    if not current.enabled:
        return
    if index is not None and current.bus.wants(BATCH_EVENT.name):
        metadata = {"batch_idx": index, "dataset": dataset or None}
        wait = round(wait_s * 1e9) if isinstance(wait_s, (int, float)) else None
        measurements = {"batch_size": batch_size, **({"wait_time": wait} if wait is not None else {})}
        current.execute(BATCH_EVENT.name, measurements, metadata)
        return
    engine_of(current).bound(BATCH_EVENT, (dataset,)).record(batch_size=batch_size, wait_time=wait_s)
