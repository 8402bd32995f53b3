"""Exporters wrapped so that they count, never raise, and speak through the ledger.

What is delivered goes as bytes through an exporter of ours, and as objects through one of the user's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from crucible_otel.export.causes import (
    INTERRUPTED,
    PARTIAL,
    TOO_LARGE,
    UNWRITABLE,
    Answer,
    Cause,
    best,
    classify,
    raised,
)
from crucible_otel.export.chunk import Batch
from crucible_otel.export.encode_logs import log_encoder
from crucible_otel.export.encode_metrics import encode_metrics
from crucible_otel.export.encode_spans import span_encoder
from crucible_otel.export.encoding import Encoded
from crucible_otel.export.fork import in_child
from crucible_otel.export.halves import count_points, halves, halves_of_metrics
from crucible_otel.export.pace import PATIENCE_S, Pace, Paced, free
from crucible_otel.export.quiet import listening
from crucible_otel.export.sending import Send, byte_sender
from crucible_otel.export.tally import Ledger, Tally

__all__ = ["Delivery", "LogDelivery", "MetricDelivery", "SpanDelivery"]

_logger = logging.getLogger("crucible_otel")

_Count = Callable[[Any], int]

Encode = Callable[[Any], Encoded]

_Export = Callable[[Any], "tuple[object, int]"]
"""Exports a batch; returns the SDK's result, and how many of its items could not be written."""

_MOST_CUTS = 32
"""How often a batch is cut when the server finds it, or a piece of it, too large; then the rest is lost."""


class Delivery:
    """What the three wrappers share.

    Args:
        exporter: The exporter inside.
        tally: Where items are counted.
        ledger: Who warns.
        rebuild: Makes a fresh exporter in a forked child, where inherited connections and locks are unusable; None
            for an exporter of the user's, which is kept.
        observed: What the exporter's transport saw during an export is appended here: answers, exceptions, causes.
        encode: Writes the bytes that an exporter of ours is to send, where it can.

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
        encode: Encode | None = None,
    ) -> None:
        self.exporter, self.tally = exporter, tally
        self._ledger, self._rebuild = ledger, rebuild
        self._closed = self._ended = self._stale = False
        self._observed: list[object] = [] if observed is None else observed
        self._inherited: list[Any] = []
        self._encode = encode
        self._send = self._sender()
        in_child(self._after_fork)

    def _after_fork(self) -> None:
        self._stale = self._rebuild is not None
        self._observed.clear()

    def _hear(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            args = record.args if isinstance(record.args, tuple) else ()
            self._observed.append((str(record.msg), *args))

    def _sender(self) -> Send | None:
        # A user's exporter may do anything with what it gets.
        return None if self._encode is None or self._rebuild is None else byte_sender(self.exporter)

    def _export_written(self, items: Any, export_readable: Callable[[Any, Any], object]) -> tuple[object, int]:
        """Export items as bytes if that is possible, and else as it is said."""
        if self._send is None or self._encode is None:
            return export_readable(self.exporter, items), 0
        data, written, lost, let_go = self._encode(items)
        try:
            if not written:
                return True, lost
            if isinstance(items, Batch):
                items.pace.pause()
            return self._send(data, written), lost
        except (AttributeError, TypeError):  # a newer exporter, which asks for more than we thought
            self._send = None
            return export_readable(self.exporter, items), 0
        finally:
            let_go()

    def _export_items(self, items: Sequence[Any]) -> tuple[object, int]:
        """Export spans or log records."""
        return self._export_written(items, _export_readable)

    def _deliver(self, batch: Any, export: _Export, cut: Callable[[Any], Sequence[Any]], count: _Count) -> bool:
        """Export a batch, in pieces when the server finds it too large; never raises.

        Args:
            batch: What to export.
            export: Given a batch, exports it.
            cut: Given a batch, returns its halves; only itself when it cannot be cut.
            count: Given a batch, returns how many items it holds.

        Returns:
            Whether all of it arrived.
        """
        tally, number = self.tally, count(batch)
        if self.counts_acceptance:
            tally.accept(number)
        lost: Cause | None = None
        cuts, pieces = 0, [batch]
        tally.in_flight += number
        try:
            while pieces:
                piece = pieces.pop()
                losses = self._attempt(piece, export, count)
                if any(cause.kind == TOO_LARGE.kind for cause, _ in losses) and cuts < _MOST_CUTS:
                    smaller = cut(piece)
                    if len(smaller) > 1:
                        cuts += 1
                        pieces.extend(reversed(smaller))
                        continue
                tally.deliver(count(piece) - sum(rejected for _, rejected in losses))
                for cause, rejected in losses:
                    lost = cause
                    if cause not in (PARTIAL, UNWRITABLE) and cause.kind != TOO_LARGE.kind:
                        # What goes wrong otherwise would go wrong for each piece, each with retries of its own.
                        rejected += sum(map(count, pieces))
                        pieces.clear()
                    tally.fail(rejected, cause)
        finally:
            tally.in_flight -= number
        if lost is not None and not self._closed:
            self._ledger.complain(tally, lost)
        return lost is None

    def _attempt(self, batch: Any, export: _Export, count: _Count) -> list[tuple[Cause, int]]:
        """Export a batch as it is; return what went wrong, each with how many items are lost by it."""
        number = count(batch)
        if self._closed:
            return [(self.tally.cause or INTERRUPTED, number)]
        self._observed.clear()
        result: object = False
        unwritten = 0
        try:
            with listening(self._hear):
                if self._stale:
                    self._renew()
                result, unwritten = export(batch)
        except Exception as error:  # whatever an exporter does, the program that is watched goes on
            self._observed.append(error if self._rebuild is not None else raised(error))
            if self._rebuild is None:
                _logger.debug("what the exporter raised:", exc_info=error)
        losses = [(UNWRITABLE, unwritten)] if unwritten else []
        answers = [seen for seen in self._observed if isinstance(seen, Answer)]
        # The SDK takes a redirect, which it does not follow, for success.
        redirected = bool(answers) and self._observed[-1] is answers[-1] and 300 <= answers[-1].status < 400
        if getattr(result, "name", result) in ("FAILURE", False) or redirected:
            return [*losses, (self._cause(), number - unwritten)]
        rejected = min(number - unwritten, sum(answer.rejected for answer in answers))
        return [*losses, (PARTIAL, rejected)] if rejected else losses

    def _cause(self) -> Cause:
        """Prefer what the transport saw over what the exporter said about it."""
        seen = [what for what in self._observed if isinstance(what, (Answer, Cause, BaseException))]
        cause = best([classify(what) for what in seen]) if seen else classify(tuple(self._observed) or None)
        if cause.kind == "unknown" and self._closed:
            return self.tally.cause or INTERRUPTED
        return cause

    def _renew(self) -> None:
        # Closing what the parent still uses, or waiting for threads that the child does not have, could hang.
        self._inherited.append(self.exporter)
        if self._rebuild is not None:
            self.exporter = self._rebuild()
            self._send = self._sender()
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
            _logger.debug("the exporter's shutdown failed: %s", type(error).__name__)

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

    def __init__(self, exporter: Any, **options: Any) -> None:
        Delivery.__init__(self, exporter, encode=span_encoder().encode, **options)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch of spans."""
        arrived = self._deliver(spans, self._export_items, halves, len)
        return SpanExportResult.SUCCESS if arrived else SpanExportResult.FAILURE


class LogDelivery(Delivery, LogRecordExporter):
    """Delivers log records."""

    def __init__(self, exporter: Any, **options: Any) -> None:
        Delivery.__init__(self, exporter, encode=log_encoder().encode, **options)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export a batch of log records."""
        arrived = self._deliver(batch, self._export_items, halves, len)
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
        Delivery.__init__(
            self, exporter, encode=lambda collection: encode_metrics(collection, Pace(patience_s=PATIENCE_S)), **options
        )

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        """Export one collection."""
        arrived = self._deliver(
            metrics_data,
            lambda collection: self._export_written(
                collection, lambda exporter, points: exporter.export(points, timeout_millis=timeout_millis)
            ),
            halves_of_metrics,
            count_points,
        )
        return MetricExportResult.SUCCESS if arrived else MetricExportResult.FAILURE


def _export_readable(exporter: Any, items: Sequence[Any]) -> object:
    """Export items as a list of the SDK's classes: those of another class say it by ``readable()``."""
    pace = items.pace if isinstance(items, Batch) else Pace()
    made = Paced(pace, (item.readable() if hasattr(type(item), "readable") else item for item in items))
    kept = made[:]
    try:
        return exporter.export(made)
    finally:
        del made
        free(kept, pace)
