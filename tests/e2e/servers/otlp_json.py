"""OTLP as JSON, as the Collector's file exporter and Jaeger's query API write it, to the records of our receiver."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from crucible_otel.testing.decode import decode
from crucible_otel.testing.records import Records, Signal

_IDS: Final = ("traceId", "spanId", "parentSpanId")
_REQUESTS: Final[Mapping[str, tuple[Signal, type[Message]]]] = {
    "resourceSpans": ("traces", ExportTraceServiceRequest),
    "resourceMetrics": ("metrics", ExportMetricsServiceRequest),
    "resourceLogs": ("logs", ExportLogsServiceRequest),
}


def records(request: Mapping[str, Any]) -> Records:
    """Decode an export request; of an empty one nothing comes."""
    for field, (signal, message) in _REQUESTS.items():
        if field in request:
            # What a newer protocol adds is none of our business.
            parsed = ParseDict(_as_protobuf_has_it(request), message(), ignore_unknown_fields=True)
            return decode(signal, parsed.SerializeToString())
    return Records()


def _as_protobuf_has_it(value: Any) -> Any:
    """Write ids in base64, as protobuf's own mapping to JSON does; OTLP's has them in hex."""
    if isinstance(value, list):
        return [_as_protobuf_has_it(item) for item in value]
    if isinstance(value, Mapping):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode() if key in _IDS else _as_protobuf_has_it(item)
            for key, item in value.items()
        }
    return value
