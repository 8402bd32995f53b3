"""Log records of the SDK as OTLP messages; field numbers as in ``opentelemetry/proto/logs/v1/logs.proto``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord

from crucible_otel.export.encoding import Encoder, attribute_fields
from crucible_otel.export.protobuf import FIXED32, FIXED64, any_value, delimited, fixed32, fixed64, tag, text, varint

__all__ = ["log_body", "log_encoder", "log_fields"]

_TIME: Final = tag(1, FIXED64)
_FLAGS: Final = tag(8, FIXED32)
_OBSERVED: Final = tag(11, FIXED64)


def log_encoder() -> Encoder:
    """Make an encoder of ``ExportLogsServiceRequest``."""
    return Encoder(log_body, _log_body_by_sdk)


def log_body(readable: ReadableLogRecord) -> bytes:
    """Write the content of a ``LogRecord`` message.

    Raises:
        Exception: Something of it is not what the SDK would have made.
    """
    record: Any = readable.log_record
    return log_fields(
        time_ns=record.timestamp,
        observed_ns=record.observed_timestamp,
        severity=getattr(record.severity_number, "value", None),
        severity_text=record.severity_text,
        body=record.body,
        attributes=attribute_fields(6, record.attributes),
        dropped=readable.dropped_attributes,
        flags=int(record.trace_flags),
        trace_id=record.trace_id,
        span_id=record.span_id,
        event_name=record.event_name,
    )


def log_fields(
    *,
    time_ns: int | None,
    observed_ns: int | None,
    severity: int | None,
    severity_text: str | None,
    body: Any,
    attributes: bytes,
    dropped: int,
    flags: int,
    trace_id: int,
    span_id: int,
    event_name: str | None,
) -> bytes:
    """Write the content of a ``LogRecord`` message of its values; of the attributes the fields, written already."""
    parts: list[bytes] = []
    if time_ns:
        parts += (_TIME, fixed64(time_ns))
    if severity:
        parts += (b"\x10", varint(severity))
    parts += (text(3, severity_text), delimited(5, any_value(body)))
    parts.append(attributes)
    if dropped:
        parts += (b"\x38", varint(dropped))
    if flags:
        parts += (_FLAGS, fixed32(flags))
    if trace_id != 0:
        parts += (b"\x4a\x10", trace_id.to_bytes(16, "big"))
    if span_id != 0:
        parts += (b"\x52\x08", span_id.to_bytes(8, "big"))
    if observed_ns:
        parts += (_OBSERVED, fixed64(observed_ns))
    parts.append(text(12, event_name))
    return b"".join(parts)


def _log_body_by_sdk(readable: ReadableLogRecord) -> bytes:
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    records: Sequence[Any] = encode_logs([readable]).resource_logs[0].scope_logs[0].log_records
    body: bytes = records[0].SerializePartialToString()
    return body
