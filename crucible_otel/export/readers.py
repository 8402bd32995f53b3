"""Our readers: the SDK's, with our points merged into what they deliver.

``MetricReader.collect`` is final and delivers only when the SDK itself has data, so an anchor instrument keeps it
collecting (see :mod:`crucible_otel.export.own`); its stream is stripped here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import Aggregation

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.fork import in_child
from crucible_otel.export.halves import all_points
from crucible_otel.export.merging import Merger
from crucible_otel.export.pace import PATIENCE_S, Pace, free
from crucible_otel.otel.source import MetricSource

OnFault = Callable[[str], object]


class SnapshotReader(MetricReader):
    """What all our readers share; stands before the SDK's reader among the bases.

    Attributes:
        faults: Counts the collections that went out without our points, and the ticks that failed.
    """

    faults: FaultCounter
    _delivers_empty = False

    def _prepare(self, source: MetricSource, on_fault: OnFault | None) -> None:
        """Set up what collecting needs; comes before ``super().__init__``, which may start a thread."""
        self.faults = FaultCounter(type(self).__name__, on_fault)
        self._merger = Merger(source, self.faults)
        self._merge_lock = threading.RLock()
        in_child(self._after_fork)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        # Held while delivering, so that the deltas of a flush and of the ticker arrive in the order they were made in.
        with self._merge_lock:
            pace = Pace(patience_s=PATIENCE_S)
            pace.pause()
            metrics_data = self._merger.merge(self, metrics_data)
            points = list[Any]()
            with suppress(AttributeError):  # a future SDK's
                points = all_points(metrics_data)
            pace.pause()
            if self._delivers_empty or any(resource.scope_metrics for resource in metrics_data.resource_metrics):
                super()._receive_metrics(metrics_data, timeout_millis, **kwargs)  # type: ignore[safe-super]
            del metrics_data
            free(points, pace)  # to free thousands of points at once takes long
            pace.pause()

    def _after_fork(self) -> None:
        self._merge_lock = threading.RLock()
        self._merger.reset()


class OtlpMetricReader(SnapshotReader, PeriodicExportingMetricReader):
    """Pushes through an exporter at an interval.

    Args:
        source: Our series.
        exporter: Any metric exporter; its temporality and aggregation preferences hold for our points too.
        interval_s: Seconds between exports; infinite for exports on flush only.
        timeout_s: Bound of one export; ``None`` for what the environment says.
        on_fault: Called with this reader's name for each fault.
    """

    def __init__(
        self,
        source: MetricSource,
        exporter: MetricExporter,
        *,
        interval_s: float = 60.0,
        timeout_s: float | None = None,
        on_fault: OnFault | None = None,
    ) -> None:
        self._prepare(source, on_fault)
        self._closing = False
        self._ticks = interval_s < math.inf
        super().__init__(
            exporter,
            export_interval_millis=interval_s * 1e3,
            export_timeout_millis=None if timeout_s is None else timeout_s * 1e3,
        )

    def _ticker(self) -> None:
        # The SDK's loop ends with the first exception that is not a timeout, and with it all metrics.
        while True:
            closing = self._closing
            try:
                super()._ticker()
            except Exception as error:
                self.faults.note(type(error).__name__, "a periodic collection failed", error)
                if not closing:
                    continue  # also once after shutdown began: the failure may not have been the last collection's
            return

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Export once more and shut the exporter down."""
        if not self._closing and not self._ticks:
            # The last collection is the ticker's business, and there is none.
            try:
                self.collect(timeout_millis)
            except Exception as error:
                self.faults.note(type(error).__name__, "the last collection failed", error)
        self._closing = True
        super().shutdown(timeout_millis, **kwargs)


class MemoryMetricReader(SnapshotReader, InMemoryMetricReader):
    """Keeps the latest collection for tests.

    Args:
        source: Our series.
        preferred_temporality: As for the SDK's reader.
        preferred_aggregation: As for the SDK's reader.
        on_fault: Called with this reader's name for each fault.
    """

    def __init__(
        self,
        source: MetricSource,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
        *,
        on_fault: OnFault | None = None,
    ) -> None:
        self._prepare(source, on_fault)
        super().__init__(preferred_temporality, preferred_aggregation)
