"""The SDK's batch processors, made to count.

The only place that reaches into them; where their inside looks different, a full queue goes uncounted until the end,
when what was accepted and not delivered is counted all the same.
"""

from __future__ import annotations

import os
from typing import Any, Final

from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from crucible_otel.export.causes import ENDED, QUEUE_FULL
from crucible_otel.export.delivery import LogDelivery, SpanDelivery
from crucible_otel.export.quiet import listening
from crucible_otel.export.tally import Ledger, Tally

__all__ = ["LogQueue", "SpanQueue"]

_LOG_DELAY: Final = "OTEL_BLRP_SCHEDULE_DELAY"
_LOG_DELAY_MS: Final = 5_000.0


class _Drops:
    """Stands in for a processor's own metrics, to which it passes everything on."""

    def __init__(self, inner: Any, tally: Tally, ledger: Ledger) -> None:
        self._inner, self._tally, self._ledger = inner, tally, ledger

    def drop_items(self, count: int, *error_type: str) -> None:
        # The type was added in 1.45; before, a full queue is the only reason.
        self._inner.drop_items(count, *error_type)
        if error_type in ((), ("queue_full",)):
            self._tally.overflow(count)
            self._ledger.complain(self._tally, QUEUE_FULL)
        else:
            self._tally.fail(count, self._tally.cause or ENDED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _count_drops(processor: Any, tally: Tally, ledger: Ledger) -> None:
    batches: Any = getattr(processor, "_batch_processor", None)
    if hasattr(getattr(batches, "_metrics", None), "drop_items"):
        batches._metrics = _Drops(batches._metrics, tally, ledger)


class SpanQueue(BatchSpanProcessor):
    """Batches spans for a delivery; sizes and delay come from ``OTEL_BSP_*``."""

    def __init__(self, delivery: SpanDelivery, ledger: Ledger) -> None:
        super().__init__(delivery)
        self._tally = delivery.tally
        _count_drops(self, self._tally, ledger)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._tally.accept()
            with listening():
                super().on_end(span)


class LogQueue(BatchLogRecordProcessor):
    """Batches log records for a delivery; sizes and delay come from ``OTEL_BLRP_*``.

    Where no delay is set it is that of spans, 5 s, instead of the SDK's 1 s: a training loop makes about one event a
    second, and an export of each by itself would cost more than everything else (``make bench``).
    """

    def __init__(self, delivery: LogDelivery, ledger: Ledger) -> None:
        set_by_user = os.environ.get(_LOG_DELAY, "").strip()
        super().__init__(delivery, schedule_delay_millis=None if set_by_user else _LOG_DELAY_MS)
        self._tally = delivery.tally
        _count_drops(self, self._tally, ledger)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a log record."""
        self._tally.accept()
        with listening():
            super().on_emit(log_record)
