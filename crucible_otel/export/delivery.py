"""Exporters wrapped so that they count, never raise, and speak through the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from crucible_otel.export.causes import INTERRUPTED, Cause, classify
from crucible_otel.export.fork import in_child
from crucible_otel.export.quiet import listening
from crucible_otel.export.tally import Ledger, Tally

__all__ = ["Delivery", "LogDelivery", "MetricDelivery", "SpanDelivery"]


class Delivery:
    """What the three wrappers share.

    Args:
        exporter: The exporter inside.
        tally: Where items are counted.
        ledger: Who warns.
        rebuild: Makes a fresh exporter in a forked child, where inherited connections and locks are unusable; None
            for an exporter of the user's, which is kept.
        observed: What the exporter's transport saw during an export is appended here: HTTP statuses, exceptions.

    Attributes:
        tally: The counts of this delivery.
        exporter: The exporter inside.
    """

    counts_acceptance = False
    """Whether nobody before us has counted the items as accepted."""

    def __init__(
        self,
        exporter: Any,
        *,
        tally: Tally,
        ledger: Ledger,
        rebuild: Callable[[], Any] | None = None,
        observed: list[object] | None = None,
    ) -> None:
        self.exporter, self.tally = exporter, tally
        self._ledger, self._rebuild = ledger, rebuild
        self._closed = self._ended = self._stale = False
        self._observed: list[object] = [] if observed is None else observed
        self._inherited: list[Any] = []
        in_child(self._after_fork)

    def _after_fork(self) -> None:
        self._stale = self._rebuild is not None
        self._observed.clear()

    def _hear(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            args = record.args if isinstance(record.args, tuple) else ()
            self._observed.append((str(record.msg), *args))

    def _deliver(self, count: int, export: Callable[[Any], object]) -> bool:
        """Export a batch; never raises.

        Args:
            count: How many items the batch holds.
            export: Given the exporter, exports the batch and returns the SDK's result.

        Returns:
            Whether the batch arrived.
        """
        tally = self.tally
        if self.counts_acceptance:
            tally.accept(count)
        if self._closed:
            tally.fail(count, tally.cause or INTERRUPTED)
            return False
        self._observed.clear()
        tally.in_flight += count
        try:
            with listening(self._hear):
                if self._stale:
                    self._renew()
                result = export(self.exporter)
        except Exception as error:  # whatever an exporter does, the program that is watched goes on
            self._observed.append(error)
            result = False
        finally:
            tally.in_flight -= count
        # The SDK takes a redirect, which it does not follow, for success.
        last = self._observed[-1] if self._observed else None
        redirected = isinstance(last, int) and 300 <= last < 400
        if getattr(result, "name", result) not in ("FAILURE", False) and not redirected:
            tally.deliver(count)
            return True
        cause = self._cause()
        tally.fail(count, cause)
        self._ledger.complain(tally, cause)
        return False

    def _cause(self) -> Cause:
        """Prefer what the transport saw over what the exporter said about it."""
        seen = [what for what in self._observed if isinstance(what, (int, BaseException))]
        cause = classify(seen[-1] if seen else tuple(self._observed) or None)
        if cause.kind == "unknown" and self._closed:
            return self.tally.cause or INTERRUPTED
        return cause

    def _renew(self) -> None:
        # Closing what the parent still uses, or waiting for threads that the child does not have, could hang.
        self._inherited.append(self.exporter)
        if self._rebuild is not None:
            self.exporter = self._rebuild()
        self._stale = False

    def interrupt(self) -> None:
        """Refuse further batches, which are counted as lost, and make one under way give up.

        The latter only with exporters of ours: those do not block in their shutdown, a user's might.
        """
        self._closed = True
        if self._rebuild is not None:
            self.shutdown()

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Shut the exporter down; further calls do nothing."""
        self._closed = True
        if self._ended or self._stale:
            return
        self._ended = True
        try:
            with listening():
                self.exporter.shutdown()
        except Exception as error:  # it has ended, whatever it says
            logging.getLogger("crucible_otel").debug("the exporter's shutdown failed: %s", type(error).__name__)

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Flush the exporter."""
        if self._closed or self._stale:
            return True
        try:
            with listening():
                return self.exporter.force_flush(timeout_millis=int(timeout_millis)) is not False
        except Exception:  # an exporter that cannot flush has not flushed
            return False


class SpanDelivery(Delivery, SpanExporter):
    """Delivers spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch of spans."""
        arrived = self._deliver(len(spans), lambda exporter: exporter.export(spans))
        return SpanExportResult.SUCCESS if arrived else SpanExportResult.FAILURE


class LogDelivery(Delivery, LogRecordExporter):
    """Delivers log records."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export a batch of log records."""
        arrived = self._deliver(len(batch), lambda exporter: exporter.export(batch))
        return LogRecordExportResult.SUCCESS if arrived else LogRecordExportResult.FAILURE


class MetricDelivery(Delivery, MetricExporter):
    """Delivers metrics; counts data points."""

    counts_acceptance = True

    def __init__(self, exporter: Any, **options: Any) -> None:
        # The reader asks the outermost exporter for its preferences; the SDK documents no way to read them back.
        MetricExporter.__init__(
            self,
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        Delivery.__init__(self, exporter, **options)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        """Export one collection."""
        arrived = self._deliver(
            _points(metrics_data), lambda exporter: exporter.export(metrics_data, timeout_millis=timeout_millis)
        )
        return MetricExportResult.SUCCESS if arrived else MetricExportResult.FAILURE


def _points(metrics_data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
