"""The queues of our providers: what the SDK calls when a span ends or a log record is emitted."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from crucible_otel.config.otel_env import OTEL_VARIABLES, read
from crucible_otel.export.backlog import MAX_BYTES, Bounds
from crucible_otel.export.batching import BatchQueue
from crucible_otel.export.causes import classify
from crucible_otel.export.delivery import Delivery, LogDelivery, SpanDelivery
from crucible_otel.export.tally import Ledger

__all__ = ["LogQueue", "SpanQueue", "bounds_of"]


class _Queue:
    """What the two processors share.

    Args:
        delivery: Exports the batches.
        ledger: Who warns.
        environ: The environment variables; ``os.environ`` if left out.
        max_bytes: The setting ``queue_max_bytes``.

    Attributes:
        queue: The queue inside.
    """

    prefix = name = ""

    def __init__(
        self,
        delivery: Delivery,
        ledger: Ledger,
        environ: Mapping[str, str] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._delivery, tally = delivery, delivery.tally
        export: Any = delivery.export  # type: ignore[attr-defined]  # each kind of delivery has its own
        self.queue = BatchQueue(
            export,
            name=self.name,
            bounds=bounds_of(self.prefix, os.environ if environ is None else environ, max_bytes=max_bytes),
            failed=lambda number, error: tally.fail(number, classify(error)),
            after=lambda: ledger.settle(tally),
        )
        tally.queue = self.queue

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Deliver what there is, then shut the exporter down."""
        self.queue.shutdown(timeout_millis)
        self._delivery.shutdown()

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver what there is; False when that took longer than the timeout."""
        return self.queue.force_flush(timeout_millis)


class SpanQueue(_Queue, SpanProcessor):
    """Batches spans for a delivery; ``OTEL_BSP_*`` bound it further."""

    prefix, name = "OTEL_BSP", "crucible-otel-spans"

    def __init__(self, delivery: SpanDelivery, *args: Any, **options: Any) -> None:
        super().__init__(delivery, *args, **options)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.queue.put(span)


class LogQueue(_Queue, LogRecordProcessor):
    """Batches log records for a delivery; ``OTEL_BLRP_*`` bound it further.

    Where no delay is set it is that of spans, 5 s, instead of the SDK's 1 s: a training loop makes about one event a
    second, and an export of each by itself would cost more than everything else (``make bench``).
    """

    prefix, name = "OTEL_BLRP", "crucible-otel-log-records"

    def __init__(self, delivery: LogDelivery, *args: Any, **options: Any) -> None:
        super().__init__(delivery, *args, **options)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a log record, without its context: that may hold on to anything."""
        record = copy.copy(log_record.log_record)
        record.context = Context()
        self.queue.put(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource if log_record.resource is not None else Resource.create({}),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )


def bounds_of(prefix: str, environ: Mapping[str, str], *, max_bytes: int = MAX_BYTES) -> Bounds:
    """Read the bounds of a queue from the environment.

    The numbers of items bound a queue only where they are set; the SDK's defaults, 2,048 and 512, do not hold.

    Args:
        prefix: ``OTEL_BSP`` or ``OTEL_BLRP``.
        environ: The environment variables.
        max_bytes: The bound in bytes, for which OpenTelemetry has no variable.

    Raises:
        ConfigurationError: A variable cannot be used.
    """
    delay = f"{prefix}_SCHEDULE_DELAY"
    delay_ms = read(delay, environ) or int(OTEL_VARIABLES[delay].default)
    return Bounds(
        max_bytes=max_bytes,
        max_items=read(f"{prefix}_MAX_QUEUE_SIZE", environ),
        batch_items=read(f"{prefix}_MAX_EXPORT_BATCH_SIZE", environ),
        delay_s=delay_ms / 1000,
    )
