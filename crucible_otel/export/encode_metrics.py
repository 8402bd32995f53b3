"""Metrics of the SDK as an OTLP request; field numbers as in ``opentelemetry/proto/metrics/v1/metrics.proto``.

A collection may have ten thousands of points. The SDK's encoder makes a message of each and copies them level by level,
without letting other threads run; here each is written once, with pauses between them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from crucible_otel.export.encoding import Encoded, attribute_fields, resource_field, scope_field
from crucible_otel.export.pace import Pace, paced
from crucible_otel.export.protobuf import FIXED64, delimited, double, fixed64, length_of, tag, text, varint

__all__ = ["encode_metrics"]

_REQUEST, _SCOPES, _METRICS, _POINTS = b"\x0a", b"\x12", b"\x12", b"\x0a"
"""Tags: ``resource_metrics`` of the request, ``scope_metrics``, ``metrics``, and ``data_points`` of a metric's data."""

_START, _TIME = tag(2, FIXED64), tag(3, FIXED64)
_NUMBER_DOUBLE, _NUMBER_INT = tag(4, FIXED64), tag(6, FIXED64)
_COUNT, _SUM, _MIN, _MAX = tag(4, FIXED64), tag(5, FIXED64), tag(11, FIXED64), tag(12, FIXED64)
_BUCKETS, _BOUNDS = tag(6), tag(7)
_EXEMPLAR_TIME, _EXEMPLAR_DOUBLE, _EXEMPLAR_INT = tag(2, FIXED64), tag(3, FIXED64), tag(6, FIXED64)
_MONOTONIC: Final = b"\x18\x01"

_sfixed64: Final = struct.Struct("<q").pack


def encode_metrics(data: MetricsData, pace: Pace) -> Encoded:
    """Write a collection as an ``ExportMetricsServiceRequest``, as the SDK does.

    A metric that cannot be written, not by the SDK either, is left out and its points are counted as lost.

    Args:
        data: The collection.
        pace: When to pause.
    """
    parts: list[bytes] = []
    written = lost = 0
    for one in data.resource_metrics:
        inside = [resource_field(one.resource)]
        for scope in one.scope_metrics:
            of_scope = [scope_field(scope.scope)]
            for metric in scope.metrics:
                number = len(metric.data.data_points)
                content = _metric(metric, one, scope, pace)
                if content is None:
                    lost += number
                    continue
                written += number
                of_scope += (_METRICS, varint(len(content)), content)
            of_scope.append(text(3, scope.scope.schema_url))
            inside += (_SCOPES, length_of(of_scope), *of_scope)
        inside.append(text(3, one.resource.schema_url))
        parts += (_REQUEST, length_of(inside), *inside)
    pace.pause()
    return Encoded(b"".join(parts), written, lost)


def _metric(metric: Metric, resource: ResourceMetrics, scope: ScopeMetrics, pace: Pace) -> bytes | None:
    """Write the content of a ``Metric`` message; None when it cannot be written."""
    try:
        known = _DATA.get(type(metric.data))
        if known is not None:
            return _described(metric) + known(metric.data, pace)
    except Exception:  # the SDK may know how to take it
        pass
    try:
        return _metric_by_sdk(metric, resource, scope)
    except Exception:
        return None


def _described(metric: Metric) -> bytes:
    return text(1, metric.name) + text(2, metric.description) + text(3, metric.unit)


def _gauge(data: Any, pace: Pace) -> bytes:
    return _of_points(5, data, pace, lambda point: _number(point, None), b"")


def _sum(data: Any, pace: Pace) -> bytes:
    after = _temporality(data) + (_MONOTONIC if data.is_monotonic else b"")
    return _of_points(7, data, pace, lambda point: _number(point, point.start_time_unix_nano), after)


def _histogram(data: Any, pace: Pace) -> bytes:
    return _of_points(9, data, pace, _histogram_point, _temporality(data))


_DATA: Final[Mapping[type, Callable[[Any, Pace], bytes]]] = {Gauge: _gauge, Sum: _sum, Histogram: _histogram}


def _temporality(data: Any) -> bytes:
    """Write the field ``aggregation_temporality``."""
    value = int(data.aggregation_temporality)
    return b"\x10" + varint(value) if value else b""


def _of_points(
    field_number: int, data: Any, pace: Pace, write: Callable[[Any], Sequence[bytes]], after: bytes
) -> bytes:
    """Write a metric's data; nothing when it has no points, as the SDK does."""
    parts: list[bytes] = []
    for point in paced(data.data_points, pace):
        fields = write(point)
        parts += (_POINTS, length_of(fields), *fields)
    if not parts:
        return b""
    parts.append(after)
    return b"".join([tag(field_number), length_of(parts), *parts])


def _number(point: Any, start_ns: int | None) -> list[bytes]:
    value = point.value
    parts = [_times(start_ns, point.time_unix_nano)]
    exemplars = _exemplars(5, point.exemplars)
    if isinstance(value, int):
        parts += (exemplars, _NUMBER_INT, _sfixed64(value))
    else:
        parts += (_NUMBER_DOUBLE, double(value), exemplars)
    parts.append(attribute_fields(7, point.attributes))
    return parts


def _histogram_point(point: Any) -> list[bytes]:
    parts = [_times(point.start_time_unix_nano, point.time_unix_nano)]
    if point.count:
        parts += (_COUNT, fixed64(point.count))
    if point.sum is not None:
        parts += (_SUM, double(point.sum))
    counts = point.bucket_counts
    if counts:
        parts += (_BUCKETS, varint(8 * len(counts)), struct.pack(f"<{len(counts)}Q", *counts))
    parts += (
        _bounds(tuple(point.explicit_bounds)),
        _exemplars(8, point.exemplars),
        attribute_fields(9, point.attributes),
    )
    if point.min is not None:
        parts += (_MIN, double(point.min))
    if point.max is not None:
        parts += (_MAX, double(point.max))
    return parts


def _times(start_ns: int | None, time_ns: int | None) -> bytes:
    start = _START + fixed64(start_ns) if start_ns else b""
    return start + _TIME + fixed64(time_ns) if time_ns else start


@lru_cache(maxsize=256)
def _bounds(bounds: tuple[float, ...]) -> bytes:
    if not bounds:
        return b""
    return _BOUNDS + varint(8 * len(bounds)) + struct.pack(f"<{len(bounds)}d", *bounds)


def _exemplars(field_number: int, exemplars: Sequence[Any]) -> bytes:
    return b"".join([delimited(field_number, _exemplar(each)) for each in exemplars]) if exemplars else b""


def _exemplar(exemplar: Any) -> bytes:
    value, parts = exemplar.value, list[bytes]()
    if exemplar.time_unix_nano:
        parts += (_EXEMPLAR_TIME, fixed64(exemplar.time_unix_nano))
    if isinstance(value, float):
        parts += (_EXEMPLAR_DOUBLE, double(value))
    if exemplar.span_id is not None and exemplar.trace_id is not None:
        parts += (b"\x22\x08", exemplar.span_id.to_bytes(8, "big"), b"\x2a\x10", exemplar.trace_id.to_bytes(16, "big"))
    if not isinstance(value, float):
        parts += (_EXEMPLAR_INT, _sfixed64(value))
    parts.append(attribute_fields(7, exemplar.filtered_attributes))
    return b"".join(parts)


def _metric_by_sdk(metric: Metric, resource: ResourceMetrics, scope: ScopeMetrics) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as by_sdk

    alone = ScopeMetrics(scope.scope, [metric], scope.schema_url)
    request = by_sdk(MetricsData([ResourceMetrics(resource.resource, [alone], resource.schema_url)]))
    content: bytes = request.resource_metrics[0].scope_metrics[0].metrics[0].SerializePartialToString()
    return content
