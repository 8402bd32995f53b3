"""Spans of the SDK as OTLP messages; field numbers as in ``opentelemetry/proto/trace/v1/trace.proto``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from crucible_otel.export.encoding import Encoder, attribute_fields
from crucible_otel.export.protobuf import FIXED32, FIXED64, VARINT, delimited, fixed32, fixed64, tag, text, varint

__all__ = [
    "DROPPED_ATTRIBUTES",
    "DROPPED_EVENTS",
    "DROPPED_LINKS",
    "KINDS",
    "LOCAL_PARENT",
    "REMOTE_PARENT",
    "event_field",
    "link_field",
    "span_body",
    "span_encoder",
    "status_field",
    "uint32",
]

DROPPED_ATTRIBUTES: Final = tag(10, VARINT)
DROPPED_EVENTS: Final = tag(12, VARINT)
DROPPED_LINKS: Final = tag(14, VARINT)

KINDS: Final = {kind: tag(6, VARINT) + varint(kind.value + 1) for kind in SpanKind}
"""The field of a span's kind: OTLP's numbers begin with that of an unspecified one."""

_IS_REMOTE_KNOWN: Final = 0x100
_IS_REMOTE: Final = 0x200

LOCAL_PARENT: Final = tag(16, FIXED32) + fixed32(_IS_REMOTE_KNOWN)
"""The flags of a span whose parent, if any, is of this process."""
REMOTE_PARENT: Final = tag(16, FIXED32) + fixed32(_IS_REMOTE_KNOWN | _IS_REMOTE)

_LOCAL_LINK: Final = tag(6, FIXED32) + fixed32(_IS_REMOTE_KNOWN)
_REMOTE_LINK: Final = tag(6, FIXED32) + fixed32(_IS_REMOTE_KNOWN | _IS_REMOTE)

_START: Final = tag(7, FIXED64)
_END: Final = tag(8, FIXED64)
_EVENT_TIME: Final = tag(1, FIXED64)
_UNSET: Final = delimited(15, b"")


def span_encoder() -> Encoder:
    """Make an encoder of ``ExportTraceServiceRequest``."""
    return Encoder(span_body, _span_body_by_sdk)


def span_body(span: ReadableSpan) -> bytes:
    """Write the content of a ``Span`` message.

    Raises:
        Exception: Something of it is not what the SDK would have made.
    """
    context: Any = span.get_span_context()
    parent, start, end, state = span.parent, span.start_time, span.end_time, context.trace_state
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")]
    if state:
        parts.append(text(3, ",".join([f"{key}={value}" for key, value in state.items()])))
    if parent:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8, "big"))
    parts += (text(5, span.name), KINDS[span.kind])
    if start:
        parts += (_START, fixed64(start))
    if end:
        parts += (_END, fixed64(end))
    parts.append(attribute_fields(9, span.attributes))
    if dropped := span.dropped_attributes:
        parts += (DROPPED_ATTRIBUTES, uint32(dropped))
    parts += [
        event_field(event.name, event.timestamp, event.attributes, event.dropped_attributes) for event in span.events
    ]
    if dropped := span.dropped_events:
        parts += (DROPPED_EVENTS, uint32(dropped))
    parts += map(link_field, span.links)
    if dropped := span.dropped_links:
        parts += (DROPPED_LINKS, uint32(dropped))
    status = span.status
    if status is not None:
        parts.append(status_field(status.status_code, status.description))
    parts.append(REMOTE_PARENT if parent and parent.is_remote else LOCAL_PARENT)
    return b"".join(parts)


def status_field(code: StatusCode, description: str | None) -> bytes:
    """Write the field of a span's status."""
    if code is StatusCode.UNSET and not description:
        return _UNSET
    return delimited(15, text(2, description) + (b"\x18" + varint(code.value) if code.value else b""))


def event_field(name: str, time_ns: int, given: Any, dropped: int) -> bytes:
    """Write the field of an event of a span."""
    parts = (
        _EVENT_TIME + fixed64(time_ns) if time_ns else b"",
        text(2, name),
        attribute_fields(3, given),
        b"\x20" + uint32(dropped) if dropped else b"",
    )
    return delimited(11, b"".join(parts))


def link_field(link: Link) -> bytes:
    """Write the field of a link of a span; like the SDK without its trace state."""
    context: SpanContext = link.context
    dropped = link.dropped_attributes
    body = b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            attribute_fields(4, link.attributes),
            b"\x28" + uint32(dropped) if dropped else b"",
            _REMOTE_LINK if context.is_remote else _LOCAL_LINK,
        )
    )
    return delimited(13, body)


def uint32(number: int) -> bytes:
    """Write a number that was counted.

    Raises:
        ValueError: It does not fit.
    """
    if not 0 <= number < 2**32:
        raise ValueError(f"Value out of range: {number}")
    return varint(number)


def _span_body_by_sdk(span: ReadableSpan) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    spans: Sequence[Any] = encode_spans([span]).resource_spans[0].scope_spans[0].spans
    body: bytes = spans[0].SerializePartialToString()
    return body
