"""Records of hot spans as OTLP bytes: what spans of a shape have in common is written once.

A span of a shape and of the same kinds of values differs from the next in its ids, its times and a few numbers, all of
them of fixed length. What has no fixed length, such as an exception, is written after it: in a message the order of
the fields has no meaning.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind, StatusCode

from crucible_otel.export.protobuf import attributes, delimited, fixed32, fixed64, key_value, tag, text, varint
from crucible_otel.export.readable import attributes_of
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Extra, Record, Shape

__all__ = ["span_body"]

# Field numbers of opentelemetry.proto.trace.v1.Span.
_TRACE_STATE, _NAME, _KIND, _ATTRIBUTES, _DROPPED_ATTRIBUTES = 3, 5, 6, 9, 10
_EVENTS, _DROPPED_EVENTS, _LINKS, _DROPPED_LINKS, _STATUS = 11, 12, 13, 14, 15

_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_TIMES = struct.Struct("<BQBQ").pack
_START, _END = 0x39, 0x41
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_FLAGS_TAG = tag(16, 5)
_FLAGS: Final = _FLAGS_TAG + fixed32(_HAS_IS_REMOTE)
_REMOTE_FLAGS: Final = _FLAGS_TAG + fixed32(_HAS_IS_REMOTE | _IS_REMOTE)
_UNSET: Final = delimited(_STATUS, b"")
_KINDS = {kind: varint(kind.value + 1) for kind in SpanKind}
_LAYOUTS = 64


class _Layout(NamedTuple):
    """What spans of a shape with the same kinds of values have in common.

    Attributes:
        pack: Packs the numbers with what stands before each.
        heads: What stands before each.
        places: Which of the values the numbers are.
        others: Which of the values have no fixed length, with their names.
    """

    pack: Any
    heads: tuple[bytes, ...]
    places: tuple[int, ...]
    others: tuple[tuple[int, str], ...]


class _Encoded:
    """What is prepared for a shape."""

    __slots__ = ("layouts", "name_and_kind", "start", "whole")

    def __init__(self, shape: Shape, limits: Limits) -> None:
        self.name_and_kind = text(_NAME, shape.name) + tag(_KIND, 0) + _KINDS[shape.kind]
        self.start = attributes(_ATTRIBUTES, shape.attributes)
        self.whole = limits.hold(shape.attributes, len(shape.fields))
        self.layouts: dict[tuple[type, ...], _Layout] = {}

    def layout(self, shape: Shape, kinds: tuple[type, ...]) -> _Layout:
        """Return the layout of values of these types."""
        found = self.layouts.get(kinds)
        if found is None:
            if len(self.layouts) >= _LAYOUTS:
                self.layouts.clear()
            found = self.layouts[kinds] = _layout(shape, kinds)
        return found


def _layout(shape: Shape, kinds: tuple[type, ...]) -> _Layout:
    heads, places, others = [], [], []
    for place, (name, kind) in enumerate(zip(shape.fields, kinds, strict=False)):
        if kind is float:
            heads.append(key_value(_ATTRIBUTES, name, 0.0)[:-8])
            places.append(place)
        elif kind is not type(None):
            others.append((place, name))
    form = struct.Struct("<" + "".join(f"{len(head)}sd" for head in heads))
    return _Layout(form.pack, tuple(heads), tuple(places), tuple(others))


def span_body(record: Record, limits: Limits) -> bytes:
    """Write a record as the content of a ``Span`` message, without tag and length.

    Args:
        record: The span.
        limits: How many attributes a span may have, and how long they may be.
    """
    shape, trace_id, span_id, parent_id, _, start_ns, end_ns, values, extra = record
    encoded = shape.encoded
    if encoded is None:
        encoded = shape.encoded = _Encoded(shape, limits)
    if extra is not None or not encoded.whole:
        return _at_length(record, encoded, limits)
    return b"".join(
        (
            _TRACE_ID,
            trace_id.to_bytes(16, "big"),
            _SPAN_ID,
            span_id.to_bytes(8, "big"),
            _PARENT_ID + parent_id.to_bytes(8, "big") if parent_id else b"",
            encoded.name_and_kind,
            _TIMES(_START, start_ns, _END, end_ns),
            encoded.start,
            _of_values(shape, encoded, values),
            _UNSET,
            _FLAGS,
        )
    )


def _of_values(shape: Shape, encoded: _Encoded, values: tuple[Any, ...]) -> bytes:
    if not values:
        return b""
    kinds = tuple(map(type, values))
    layout = encoded.layouts.get(kinds) or encoded.layout(shape, kinds)
    numbers: list[Any] = []
    for head, place in zip(layout.heads, layout.places, strict=False):
        numbers += (head, values[place])
    written: bytes = layout.pack(*numbers)
    if layout.others:
        written += b"".join([key_value(_ATTRIBUTES, name, values[place]) for place, name in layout.others])
    return written


def _at_length(record: Record, encoded: _Encoded, limits: Limits) -> bytes:
    shape, trace_id, span_id, parent_id, _, start_ns, end_ns, values, extra = record
    extra = extra if extra is not None else Extra()
    state = extra.trace_state
    parts = [_TRACE_ID, trace_id.to_bytes(16, "big"), _SPAN_ID, span_id.to_bytes(8, "big")]
    if state:
        parts.append(text(_TRACE_STATE, ",".join([f"{key}={value}" for key, value in state.items()])))
    if parent_id:
        parts += (_PARENT_ID, parent_id.to_bytes(8, "big"))
    if extra.name is not None:
        parts.append(text(_NAME, extra.name) + tag(_KIND, 0) + _KINDS[shape.kind])
    else:
        parts.append(encoded.name_and_kind)
    parts.append(_TIMES(_START, start_ns, _END, end_ns))
    given = extra.attributes
    if given is None and encoded.whole:
        parts += (encoded.start, _of_values(shape, encoded, values))
    else:
        if given is None:
            given = limits.bounded(attributes_of(shape, values, extra), limits.attributes)
        parts += (attributes(_ATTRIBUTES, given), _count(_DROPPED_ATTRIBUTES, given.dropped))
    for name, given, at_ns in extra.events:
        parts.append(delimited(_EVENTS, _event(name, given, at_ns)))
    parts.append(_count(_DROPPED_EVENTS, extra.dropped[0]))
    for link in extra.links:
        parts.append(delimited(_LINKS, _link(link)))
    parts.append(_count(_DROPPED_LINKS, extra.dropped[1]))
    parts.append(_UNSET if extra.status is None else delimited(_STATUS, _status(*extra.status)))
    parts.append(_REMOTE_FLAGS if extra.parent is not None and extra.parent.is_remote else _FLAGS)
    return b"".join(parts)


def _count(number: int, dropped: int) -> bytes:
    return tag(number, 0) + varint(dropped) if dropped else b""


def _event(name: str, given: Any, at_ns: int) -> bytes:
    """Write the content of a ``Span.Event``."""
    at = tag(1, 1) + fixed64(at_ns) if at_ns else b""
    return at + text(2, name) + attributes(3, given) + _count(4, given.dropped)


def _link(link: Any) -> bytes:
    """Write the content of a ``Span.Link``; like the SDK without its trace state."""
    context = link.context
    flags = _HAS_IS_REMOTE | (_IS_REMOTE if context.is_remote else 0)
    return b"".join(
        (
            delimited(1, context.trace_id.to_bytes(16, "big")),
            delimited(2, context.span_id.to_bytes(8, "big")),
            attributes(4, link.attributes),
            _count(5, getattr(link.attributes, "dropped", 0)),
            tag(6, 5),
            fixed32(flags),
        )
    )


def _status(code: StatusCode, description: str | None) -> bytes:
    """Write the content of a ``Status``."""
    return text(2, description) + (tag(3, 0) + varint(code.value) if code.value else b"")
