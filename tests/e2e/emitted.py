"""What this process emitted, as the SDK handed it over: taken down beside the exporters, before any encoder or wire.

Everything becomes the records of ``crucible_otel.testing``, which is what backends are read back as, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from opentelemetry import _logs, trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from crucible_otel.events.runtime import runtime
from crucible_otel.otel.engine import Engine
from crucible_otel.otel.snapshot import Histogram, Snapshot
from crucible_otel.testing import ReceivedLog, ReceivedSpan
from crucible_otel.testing.records import ReceivedEvent, ReceivedLink, ReceivedScope, SpanKind, StatusCode

HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200
"""OTLP's bits above the W3C trace flags."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], int | float]
"""Samples under the names that Prometheus has for them: (name, labels) -> value."""


class Emitted:
    """Takes down what leaves the providers that ``configure()`` has installed in this process.

    Attributes:
        spans: The spans that ended, in that order.
        logs: The log records, in the order emitted.
        looks: The metrics, at each :meth:`look`.
    """

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.logs: list[ReceivedLog] = []
        self.looks: list[Series] = []
        cast("TracerProvider", trace.get_tracer_provider()).add_span_processor(_Spans(self.spans))
        cast("LoggerProvider", _logs.get_logger_provider()).add_log_record_processor(_Logs(self.logs))
        engine = runtime().engine
        assert isinstance(engine, Engine)
        self._engine = engine

    def look(self) -> None:
        """Take the metrics down as they are now."""
        self.looks.append(_samples(self._engine.snapshot()))


class _Spans(SpanProcessor):
    def __init__(self, kept: list[ReceivedSpan]) -> None:
        self._kept = kept

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        return None

    def on_end(self, span: ReadableSpan) -> None:
        self._kept.append(_span(span))


class _Logs(LogRecordProcessor):
    def __init__(self, kept: list[ReceivedLog]) -> None:
        self._kept = kept

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._kept.append(_log(log_record))

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _span(span: ReadableSpan) -> ReceivedSpan:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return ReceivedSpan(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{parent.span_id:016x}" if parent is not None else "",
        name=span.name,
        kind=cast("SpanKind", span.kind.name.lower()),
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes=_attributes(span.attributes),
        events=tuple(
            ReceivedEvent(name=event.name, time_ns=event.timestamp, attributes=_attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(
            ReceivedLink(
                trace_id=f"{link.context.trace_id:032x}",
                span_id=f"{link.context.span_id:016x}",
                trace_state=link.context.trace_state.to_header(),
                attributes=_attributes(link.attributes),
                flags=int(link.context.trace_flags) | _remote(link.context),
            )
            for link in span.links
        ),
        status_code=cast("StatusCode", span.status.status_code.name.lower()),
        status_message=span.status.description or "",
        flags=int(context.trace_flags) | _remote(parent),
        trace_state=context.trace_state.to_header(),
        scope=_scope(span.instrumentation_scope),
        resource=_attributes(span.resource.attributes),
    )


def _log(log: ReadWriteLogRecord) -> ReceivedLog:
    record = log.log_record
    assert record.severity_number is not None
    return ReceivedLog(
        event_name=record.event_name or "",
        severity=record.severity_number.name,
        severity_number=record.severity_number.value,
        severity_text=record.severity_text or "",
        body=record.body,
        attributes=_attributes(record.attributes),
        trace_id=f"{record.trace_id:032x}" if record.trace_id else "",
        span_id=f"{record.span_id:016x}" if record.span_id else "",
        flags=int(record.trace_flags or 0),
        time_ns=record.timestamp or 0,
        observed_time_ns=record.observed_timestamp or 0,
        scope=_scope(log.instrumentation_scope),
        resource=_attributes(log.resource.attributes if log.resource is not None else None),
    )


def _remote(context: SpanContext | None) -> int:
    return HAS_IS_REMOTE | (IS_REMOTE if context is not None and context.is_remote else 0)


def _attributes(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value
        for key, value in (values or {}).items()
    }


def _scope(scope: InstrumentationScope | None) -> ReceivedScope:
    if scope is None:
        return ReceivedScope()
    return ReceivedScope(
        name=scope.name,
        version=scope.version or "",
        schema_url=scope.schema_url or "",
        attributes=_attributes(scope.attributes),
    )


# -- metrics -----------------------------------------------------------------------------------------------------------

_UNIT_WORDS = {"s": "_seconds", "By": "_bytes"}
"""The units that our metrics have and what Prometheus calls them; those in braces are no part of a name."""


def _samples(snapshot: Snapshot) -> Series:
    """Return a snapshot under the names that Prometheus has, by OpenTelemetry's rules of compatibility.

    Names are spelled here by themselves, not by the package's own translation: that is under test.
    """
    found: Series = {}
    for metric, points in snapshot.metrics:
        name = metric.name.replace(".", "_") + ("" if metric.unit.startswith("{") else _UNIT_WORDS.get(metric.unit, ""))
        for point in points:
            labels = {key.replace(".", "_"): str(value) for key, value in point.attributes.items()}
            if not isinstance(point.value, Histogram):
                found[sample(name + ("_total" if metric.kind == "counter" else ""), labels)] = point.value
                continue
            below = 0
            for bound, count in zip((*metric.buckets, math.inf), point.value.buckets, strict=True):
                below += count
                found[sample(f"{name}_bucket", {**labels, "le": _bound(bound)})] = below
            found[sample(f"{name}_sum", labels)] = point.value.sum
            found[sample(f"{name}_count", labels)] = point.value.count
    return found


def sample(
    name: str, labels: Mapping[str, str], without: Collection[str] = ()
) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a series, without some of its labels."""
    return name, frozenset((key, value) for key, value in labels.items() if key not in without)


def _bound(bound: float) -> str:
    """Write a bound as Prometheus 3 keeps it in ``le``: Go's shortest form, with a fraction in any case."""
    if bound == math.inf:
        return "+Inf"
    shortest = Decimal(repr(float(bound))).normalize()
    if -4 <= shortest.adjusted() < 6:
        return repr(float(bound))
    digits = "".join(map(str, shortest.as_tuple().digits))
    return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{shortest.adjusted():+03d}"
