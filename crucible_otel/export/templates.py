"""Records of hot spans as OTLP bytes: what spans of a shape have in common is written once.

A span of a shape and of the same kinds of values differs from the next in its ids, its times and a few numbers, nearly
all of them of fixed length: one ``struct.pack`` writes them with all that stands between them. What few spans have,
such as an exception, is written after it: in a message the order of the fields has no meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from crucible_otel.export.encode_spans import (
    DROPPED_ATTRIBUTES,
    DROPPED_EVENTS,
    DROPPED_LINKS,
    KINDS,
    LOCAL_PARENT,
    REMOTE_PARENT,
    event_field,
    link_field,
    status_field,
    uint32,
)
from crucible_otel.export.protobuf import attributes, delimited, key_value, signed, text
from crucible_otel.export.readable import attributes_of
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Extra, Record, Shape

__all__ = [
    "ATTRIBUTES",
    "END",
    "PARENT_ID",
    "SPAN_ID",
    "START",
    "TRACE_ID",
    "UNSET",
    "encoded_of",
    "span_body",
]

NAME, ATTRIBUTES, STATUS = 5, 9, 15
"""Field numbers of ``opentelemetry.proto.trace.v1.Span``."""

TRACE_ID, SPAN_ID, PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
START, END = b"\x39", b"\x41"
UNSET: Final = delimited(STATUS, b"")
_MOST_WRITERS = 64

_Writer = Callable[[int, int, int, int, int, "tuple[Any, ...]"], bytes]
"""``write(trace_id, span_id, parent_id, start_ns, end_ns, values)``."""

_SOURCE = """
def write(trace_id, span_id, parent_id, start_ns, end_ns, values):
    return {pieces}
"""


class _Encoded:
    """What is prepared for a shape.

    Attributes:
        name_and_kind: The fields of its name and its kind.
        whole: Whether its attributes and values are within the limits, whatever they are.
        writers: A writer for each combination of types of values that occurs.
        root: The writer of roots, where the types of the values are known.
        child: The writer of spans that have a parent, likewise.
        templates: What writes spans by column has prepared; its own business.
    """

    __slots__ = ("child", "name_and_kind", "root", "templates", "whole", "writers")

    def __init__(self, shape: Shape, limits: Limits) -> None:
        self.name_and_kind = text(NAME, shape.name) + KINDS[shape.kind]
        self.whole = limits.hold(shape.attributes, len(shape.fields))
        self.writers: dict[tuple[Any, ...], _Writer] = {}
        self.templates: dict[Any, Any] = {}
        self.root: _Writer | None = None
        self.child: _Writer | None = None
        if shape.types is not None and self.whole:
            self.root, self.child = (_writer(shape, self, root=root, kinds=shape.types) for root in (True, False))


def span_body(record: Record, limits: Limits) -> bytes:
    """Write a record as the content of a ``Span`` message, without tag and length.

    Args:
        record: The span.
        limits: How many attributes a span may have, and how long they may be.
    """
    shape, trace_id, span_id, parent_id, _, start_ns, end_ns, values, extra = record
    encoded = shape.encoded or encoded_of(shape, limits)
    if extra is not None or not encoded.whole:
        return _at_length(record, encoded, limits)
    writer: _Writer | None = encoded.child if parent_id else encoded.root
    if writer is None:
        kinds = (parent_id == 0, *map(type, values))
        writer = encoded.writers.get(kinds) or _new_writer(shape, encoded, kinds)
    return writer(trace_id, span_id, parent_id, start_ns, end_ns, values)


def encoded_of(shape: Shape, limits: Limits) -> _Encoded:
    """Return what is prepared for a shape; it is made once."""
    encoded: _Encoded | None = shape.encoded
    if encoded is None:
        encoded = shape.encoded = _Encoded(shape, limits)
    return encoded


def _new_writer(shape: Shape, encoded: _Encoded, kinds: tuple[Any, ...]) -> _Writer:
    if len(encoded.writers) >= _MOST_WRITERS:
        encoded.writers.clear()
    made = encoded.writers[kinds] = _writer(shape, encoded, root=kinds[0], kinds=kinds[1:])
    return made


def _writer(shape: Shape, encoded: _Encoded, *, root: bool, kinds: tuple[type, ...]) -> _Writer:
    """Compile what writes spans with values of these types."""
    scope: dict[str, Any] = {"key_value": key_value}
    pieces: list[str] = []
    form, arguments, before = "<", list[str](), TRACE_ID

    def place(code: str, value: str, after: bytes) -> None:
        nonlocal form, before
        name = f"c{len(scope)}"
        scope[name] = before
        form += f"{len(before)}s{code}"
        arguments.extend((name, value))
        before = after

    def pack() -> None:
        nonlocal form, before
        name = f"p{len(scope)}"
        scope[f"{name}t"] = before
        scope[name] = struct.Struct(f"{form}{len(before)}s").pack
        pieces.append(f"{name}({', '.join([*arguments, f'{name}t'])})")
        form, before = "<", b""
        arguments.clear()

    place("16s", "trace_id.to_bytes(16, 'big')", SPAN_ID)
    place("8s", "span_id.to_bytes(8, 'big')", b"" if root else PARENT_ID)
    if not root:
        place("8s", "parent_id.to_bytes(8, 'big')", b"")
    before += encoded.name_and_kind + START
    place("Q", "start_ns", END)
    place("Q", "end_ns", UNSET + LOCAL_PARENT + attributes(ATTRIBUTES, shape.attributes))
    for index, (name, kind) in enumerate(zip(shape.fields, kinds, strict=False)):
        if kind is float:
            before += key_value(ATTRIBUTES, name, 0.0)[:-8]
            place("d", f"values[{index}]", b"")
        elif kind is int:
            pack()
            scope[f"w{index}"] = _int_writer(name)
            pieces.append(f"w{index}(values[{index}])")
        elif kind is not type(None):
            pack()
            pieces.append(f"key_value({ATTRIBUTES}, {name!r}, values[{index}])")
    if arguments or before:
        pack()
    exec(_SOURCE.format(pieces=" + ".join(pieces)), scope)
    write: _Writer = scope["write"]
    return write


def _int_writer(name: str) -> Callable[[int], bytes]:
    """Return what writes an attribute that is a whole number; what stands before that depends on its length only."""
    heads: dict[int, bytes] = {}

    def write(value: int) -> bytes:
        content = signed(value)
        head = heads.get(len(content))
        if head is None:
            head = heads[len(content)] = key_value(ATTRIBUTES, name, value)[: -len(content)]
        return head + content

    return write


def _at_length(record: Record, encoded: _Encoded, limits: Limits) -> bytes:
    """Write one that has more than its shape says, or whose attributes may exceed the limits."""
    shape, trace_id, span_id, parent_id, _, start_ns, end_ns, values, extra = record
    extra = extra if extra is not None else Extra()
    state, given = extra.trace_state, extra.attributes
    if given is None:
        given = limits.bounded(attributes_of(shape, values, extra), limits.attributes)
    parts = [TRACE_ID, trace_id.to_bytes(16, "big"), SPAN_ID, span_id.to_bytes(8, "big")]
    if state:
        parts.append(text(3, ",".join([f"{key}={value}" for key, value in state.items()])))
    if parent_id:
        parts += (PARENT_ID, parent_id.to_bytes(8, "big"))
    parts.append(encoded.name_and_kind if extra.name is None else text(NAME, extra.name) + KINDS[shape.kind])
    parts.append(_TIMES(START, start_ns, END, end_ns))
    parts.append(attributes(ATTRIBUTES, given.copy()))
    parts += [event_field(name, at_ns, bounded, bounded.dropped) for name, bounded, at_ns in extra.events]
    parts += map(link_field, extra.links)
    dropped = (given.dropped, *extra.dropped)
    for field, number in zip((DROPPED_ATTRIBUTES, DROPPED_EVENTS, DROPPED_LINKS), dropped, strict=True):
        if number:
            parts += (field, uint32(number))
    parts.append(UNSET if extra.status is None else status_field(*extra.status))
    parts.append(REMOTE_PARENT if extra.parent is not None and extra.parent.is_remote else LOCAL_PARENT)
    return b"".join(parts)


_TIMES = struct.Struct("<cQcQ").pack
