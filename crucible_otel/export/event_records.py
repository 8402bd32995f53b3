"""Our events on their way to the queues of our logger provider, without the SDK's objects around each.

A log record of the SDK is five objects and two locks, made by a dozen calls on the thread that trains. Where nobody but
our queues would see it, the values alone wait, and the queue's thread writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import Logger as SdkLogger
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context

from crucible_otel.export.encode_logs import log_fields
from crucible_otel.export.protobuf import attributes
from crucible_otel.export.queues import LogQueue
from crucible_otel.export.sizes import size_of_attributes

__all__ = ["EventLogger", "EventRecord"]

_RECORD_BYTES: Final = 700
_TIME, _SEVERITY, _TEXT, _BODY, _ATTRIBUTES, _NAME, _TRACE, _SPAN, _FLAGS, _RESOURCE, _SCOPE = range(11)


class EventRecord(tuple[Any, ...]):
    """The values of a log record, as :meth:`EventLogger.emit` puts them; asked for what a queue and an encoder ask."""

    __slots__ = ()

    resource: Resource = property(itemgetter(_RESOURCE))  # type: ignore[assignment]
    instrumentation_scope: InstrumentationScope = property(itemgetter(_SCOPE))  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return _RECORD_BYTES + size_of_attributes(self[_ATTRIBUTES])

    def otlp_body(self) -> bytes:
        """Write it as the content of a ``LogRecord`` message."""
        time_ns, severity, severity_text, body, given, name, trace_id, span_id, flags, _, _ = self
        return log_fields(
            time_ns=time_ns,
            observed_ns=time_ns,
            severity=severity.value,
            severity_text=severity_text,
            body=body,
            attributes=attributes(6, given),
            dropped=0,
            flags=flags,
            trace_id=trace_id,
            span_id=span_id,
            event_name=name,
        )

    def readable(self) -> ReadableLogRecord:
        """Return it as the SDK's exporters know log records."""
        time_ns, severity, severity_text, body, given, name, trace_id, span_id, flags, resource, scope = self
        span = NonRecordingSpan(SpanContext(trace_id, span_id, False, TraceFlags(flags)))
        record = LogRecord(
            timestamp=time_ns,
            observed_timestamp=time_ns,
            context=set_span_in_context(span, Context()),
            severity_number=severity,
            severity_text=severity_text,
            body=body,
            attributes=given,
            event_name=name,
        )
        record.context = Context()
        made = ReadWriteLogRecord(record, resource, scope)
        return ReadableLogRecord(made.log_record, resource, scope, made.limits)


class EventLogger:
    """Takes our events as the SDK's logger does.

    Args:
        logger: Our provider's, for what must go through the SDK.
        queues: All that our provider hands log records to.
        limits: How much one log record may hold.
    """

    def __init__(self, logger: Logger, queues: Sequence[LogQueue], limits: LogRecordLimits) -> None:
        self._logger: Any = logger
        self._queues = tuple(each.queue for each in queues)
        self._most = limits.max_log_record_attributes
        self._direct = limits.max_log_record_attribute_length is None and isinstance(logger, SdkLogger)
        self._scope = getattr(logger, "instrumentation_scope", None)

    def give_way(self) -> None:
        """Leave the events to the SDK from now on: a processor of somebody else's is to see them."""
        self._direct = False

    def emit(
        self,
        *,
        timestamp: int,
        observed_timestamp: int,
        context: Context | None,
        severity_number: SeverityNumber,
        severity_text: str,
        body: str,
        attributes: Mapping[str, Any],
        event_name: str,
    ) -> None:
        """Queue an event.

        Args:
            timestamp: When it happened, in nanoseconds since the epoch.
            observed_timestamp: The same.
            context: The context it happened in; the current one for none.
            severity_number: Its severity.
            severity_text: The same in words.
            body: Its brief.
            attributes: Values that OTLP has, to be changed no more.
            event_name: Its name.
        """
        if not self._direct or (self._most is not None and len(attributes) > self._most):
            self._logger.emit(
                timestamp=timestamp,
                observed_timestamp=observed_timestamp,
                context=context,
                severity_number=severity_number,
                severity_text=severity_text,
                body=body,
                attributes=attributes,
                event_name=event_name,
            )
            return
        span = get_current_span(context).get_span_context()
        record = EventRecord(
            (
                timestamp, severity_number, severity_text, body, attributes, event_name,
                span.trace_id, span.span_id, span.trace_flags, self._logger.resource, self._scope,
            )
        )  # fmt: skip
        for queue in self._queues:
            queue.put(record)
