"""From the bytes of an OTLP export request to plain records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, get_args

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.metrics.v1.metrics_pb2 import DataPointFlags, Exemplar, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from crucible_otel.testing.records import (
    ExponentialBuckets,
    ReceivedEvent,
    ReceivedExemplar,
    ReceivedLink,
    ReceivedLog,
    ReceivedMetric,
    ReceivedScope,
    ReceivedSpan,
    Records,
    Signal,
    SpanKind,
    StatusCode,
    Temporality,
)

__all__ = ["MalformedBodyError", "decode"]

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
# The literals of records.py list the words in the order of the protocol's numbers.
_SPAN_KINDS: Final[tuple[SpanKind, ...]] = get_args(SpanKind)
_STATUS_CODES: Final[tuple[StatusCode, ...]] = get_args(StatusCode)
_TEMPORALITIES: Final[tuple[Temporality, ...]] = get_args(Temporality)
_SEVERITIES: Final[Mapping[int, str]] = {
    number: name.removeprefix("SEVERITY_NUMBER_") for name, number in SeverityNumber.items() if number
}
_Word = TypeVar("_Word", bound=str)


class MalformedBodyError(ValueError):
    """A body that is not the export request it should be."""


def decode(signal: Signal, body: bytes) -> Records:
    """Decode the body of one export request.

    Args:
        signal: What it should carry.
        body: The protobuf bytes, decompressed.

    Raises:
        MalformedBodyError: When it is no such request, or an id or a number in it cannot be one.
    """
    try:
        return _DECODERS[signal](body)
    except DecodeError as error:
        raise MalformedBodyError(f"the body is no export request for {signal}: {error}") from error


def _decode_traces(body: bytes) -> Records:
    return Records(
        spans=tuple(
            _span(span, scope, resource)
            for batch in ExportTraceServiceRequest.FromString(body).resource_spans
            for resource in [_attributes(batch.resource.attributes)]
            for group in batch.scope_spans
            for scope in [_scope(group.scope, group.schema_url)]
            for span in group.spans
        )
    )


def _decode_logs(body: bytes) -> Records:
    return Records(
        logs=tuple(
            _log(record, scope, resource)
            for batch in ExportLogsServiceRequest.FromString(body).resource_logs
            for resource in [_attributes(batch.resource.attributes)]
            for group in batch.scope_logs
            for scope in [_scope(group.scope, group.schema_url)]
            for record in group.log_records
        )
    )


def _decode_metrics(body: bytes) -> Records:
    return Records(
        points=tuple(
            point
            for batch in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for resource in [_attributes(batch.resource.attributes)]
            for group in batch.scope_metrics
            for scope in [_scope(group.scope, group.schema_url)]
            for metric in group.metrics
            for point in _points(metric, scope, resource)
        )
    )


_DECODERS: Final[Mapping[Signal, Callable[[bytes], Records]]] = {
    "traces": _decode_traces,
    "metrics": _decode_metrics,
    "logs": _decode_logs,
}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _scope(scope: InstrumentationScope, schema_url: str) -> ReceivedScope:
    return ReceivedScope(
        name=scope.name, version=scope.version, schema_url=schema_url, attributes=_attributes(scope.attributes)
    )


def _id(value: bytes, length: int) -> str:
    if value and len(value) != length:
        raise MalformedBodyError(f"an id of {len(value)} bytes where {length} are due")
    return value.hex()


def _word(words: tuple[_Word, ...], number: int) -> _Word:
    if not 0 <= number < len(words):
        raise MalformedBodyError(f"enumeration value {number} where 0 to {len(words) - 1} are known")
    return words[number]


def _span(span: Span, scope: ReceivedScope, resource: Mapping[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=_id(span.trace_id, _TRACE_ID_BYTES),
        span_id=_id(span.span_id, _SPAN_ID_BYTES),
        parent_span_id=_id(span.parent_span_id, _SPAN_ID_BYTES),
        name=span.name,
        kind=_word(_SPAN_KINDS, span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(
            ReceivedEvent(name=event.name, time_ns=event.time_unix_nano, attributes=_attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(
            ReceivedLink(
                trace_id=_id(link.trace_id, _TRACE_ID_BYTES),
                span_id=_id(link.span_id, _SPAN_ID_BYTES),
                trace_state=link.trace_state,
                attributes=_attributes(link.attributes),
                flags=link.flags,
            )
            for link in span.links
        ),
        status_code=_word(_STATUS_CODES, span.status.code),
        status_message=span.status.message,
        flags=span.flags,
        trace_state=span.trace_state,
        scope=scope,
        resource=resource,
    )


def _log(record: LogRecord, scope: ReceivedScope, resource: Mapping[str, Any]) -> ReceivedLog:
    number = record.severity_number
    return ReceivedLog(
        event_name=record.event_name,
        severity=_SEVERITIES.get(number, ""),
        severity_number=number,
        severity_text=record.severity_text,
        body=_value(record.body),
        attributes=_attributes(record.attributes),
        trace_id=_id(record.trace_id, _TRACE_ID_BYTES),
        span_id=_id(record.span_id, _SPAN_ID_BYTES),
        flags=record.flags,
        time_ns=record.time_unix_nano,
        observed_time_ns=record.observed_time_unix_nano,
        scope=scope,
        resource=resource,
    )


def _points(metric: Metric, scope: ReceivedScope, resource: Mapping[str, Any]) -> Iterator[ReceivedMetric]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        yield ReceivedMetric(
            name=metric.name,
            unit=metric.unit,
            description=metric.description,
            kind=kind,
            monotonic=getattr(data, "is_monotonic", False),
            temporality=_word(_TEMPORALITIES, getattr(data, "aggregation_temporality", 0)),
            attributes=_attributes(point.attributes),
            time_ns=point.time_unix_nano,
            start_ns=point.start_time_unix_nano,
            exemplars=tuple(_exemplar(exemplar) for exemplar in getattr(point, "exemplars", ())),
            scope=scope,
            resource=resource,
            **_CONTENTS[kind](point),
        )


def _number(holder: Any) -> int | float | None:
    kind = holder.WhichOneof("value")
    return None if kind is None else getattr(holder, kind)


def _number_content(point: Any) -> dict[str, Any]:
    nothing_recorded = point.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
    return {"value": None if nothing_recorded else _number(point)}


def _statistics(point: Any) -> dict[str, Any]:
    optional = {name: getattr(point, name) for name in ("sum", "min", "max") if point.HasField(name)}
    return {"count": point.count, **optional}


def _histogram_content(point: Any) -> dict[str, Any]:
    return {
        **_statistics(point),
        "buckets": tuple(point.bucket_counts),
        "bounds": tuple(point.explicit_bounds),
    }


def _exponential_content(point: Any) -> dict[str, Any]:
    return {
        **_statistics(point),
        "exponential": ExponentialBuckets(
            scale=point.scale,
            zero_count=point.zero_count,
            zero_threshold=point.zero_threshold,
            positive_offset=point.positive.offset,
            positive=tuple(point.positive.bucket_counts),
            negative_offset=point.negative.offset,
            negative=tuple(point.negative.bucket_counts),
        ),
    }


def _summary_content(point: Any) -> dict[str, Any]:
    return {
        "count": point.count,
        "sum": point.sum,
        "quantiles": tuple((pair.quantile, pair.value) for pair in point.quantile_values),
    }


_CONTENTS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "gauge": _number_content,
    "sum": _number_content,
    "histogram": _histogram_content,
    "exponential_histogram": _exponential_content,
    "summary": _summary_content,
}


def _exemplar(exemplar: Exemplar) -> ReceivedExemplar:
    return ReceivedExemplar(
        value=_number(exemplar) or 0,
        time_ns=exemplar.time_unix_nano,
        trace_id=_id(exemplar.trace_id, _TRACE_ID_BYTES),
        span_id=_id(exemplar.span_id, _SPAN_ID_BYTES),
        attributes=_attributes(exemplar.filtered_attributes),
    )
