"""Columns of hot spans as OTLP bytes: column by column, too.

Spans of one shape whose values are written with the same number of bytes are the same but for what stands in a few
places. So the first is written once, repeated, and each column is laid over all of them, a byte of each span at a time:
that costs a few nanoseconds a value, where to touch each span costs some hundred. A whole number is as long as it needs
to be; spans that differ in this from most of the others are written by themselves if they are few, and else as columns
of their own.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress, count
from typing import Any, Final, NamedTuple

from crucible_otel.export.encode_spans import LOCAL_PARENT
from crucible_otel.export.protobuf import attributes, double, fixed64, key_value, length_of, varint
from crucible_otel.export.templates import (
    ATTRIBUTES,
    END,
    PARENT_ID,
    SPAN_ID,
    START,
    TRACE_ID,
    UNSET,
    encoded_of,
    span_body,
)
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Columns, Shape

__all__ = ["span_bytes", "span_fields"]

_SPANS: Final = b"\x12"
"""The tag of ``ScopeSpans.spans``."""

_FEW: Final = 12
"""Fewer spans than this cost less one by one."""

_MOST_TEMPLATES: Final = 64

_LITTLE: Final = sys.byteorder == "little"

_LENGTHS: Final = bytes([max(1, -(-bits // 7)) for bits in range(256)])
"""How many bytes a varint takes, by the bits of its number."""
_LONGEST: Final = 8
"""Longer ones do not fit a 64-bit lane; rare ones, and all negative ones, are written span by span."""

_OTHERS: Final = tuple([bytes([each != kind for each in range(256)]) for kind in range(max(_LENGTHS) + 1)])
"""By a number of bytes, what tells all others from it."""

_MOST_MASKS: Final = 16
_SEPTET: Final = 0x7F
_CONTINUED: Final = 0x80

_Kind = int
"""How a value is written: 0 for none, -1 for a double, else the bytes of its varint."""
_FLOATS: Final = {float}
_INTS: Final = {int}
_PACKED: Final = {"d": _FLOATS, "Q": _INTS}
_ABSENT: Final = 0
_DOUBLE: Final = -1


class _Template(NamedTuple):
    """A span without what differs.

    Attributes:
        length: The length of all of it.
        before: What stands before the trace id.
        after: What stands after the parent's id, or after the span id where there is none.
        span_id: Where the span id is.
        start: Where the start is.
        end: Where the end is.
        fields: Where each field is: its first byte, that of its value, and what comes after it.
    """

    length: int
    before: bytes
    after: bytes
    span_id: int
    start: int
    end: int
    fields: tuple[tuple[int, int, int], ...]


def span_fields(columns: Columns, limits: Limits) -> bytes | bytearray:
    """Write spans as fields of ``ScopeSpans``, each with tag and length, in any order.

    Args:
        columns: The spans; some hundred at most, because it is done in one go.
        limits: How many attributes a span may have, and how long they may be.

    Raises:
        Exception: One of the spans cannot be written.
    """
    if len(columns) >= _FEW and encoded_of(columns.shape, limits).whole:
        try:
            return _by_column(columns, limits)
        except (TypeError, ValueError, OverflowError, struct.error):  # a value that is no number, or too large a one
            pass
    return _by_row(columns, limits)


def span_bytes(shape: Shape, limits: Limits) -> int:
    """Return about how many bytes a span of a shape takes when it is written."""
    kinds = tuple([_DOUBLE] * len(shape.fields))
    return _template(shape, limits, kinds, root=False).length


def _by_row(columns: Columns, limits: Limits) -> bytes:
    parts: list[bytes] = []
    for record in columns.records():
        body = span_body(record, limits)
        parts += (_SPANS, varint(len(body)), body)
    return b"".join(parts)


def _by_column(columns: Columns, limits: Limits) -> bytes | bytearray:
    size = len(columns)
    kinds, odd = _kinds(columns)
    if len(odd) > size // 8:
        # All of them may be odd where several fields differ: then there is no part to be had that is all alike.
        return (
            b"".join([span_fields(part, limits) for part in _apart(columns, odd)])
            if len(odd) < size
            else _by_row(columns, limits)
        )
    template = _template(columns.shape, limits, tuple(kinds), root=not columns.parent_id)
    length = template.length
    parent = PARENT_ID + columns.parent_id.to_bytes(8, "big") if columns.parent_id else b""
    trace_and_span_id = columns.trace_id.to_bytes(16, "big") + SPAN_ID + bytes(8)
    spans = bytearray(template.before + trace_and_span_id + parent + template.after) * size
    _lay(spans, length, template.span_id, columns.span_ids, 8)
    _lay(spans, length, template.start, _raw("Q", columns.start_ns), 8)
    _lay(spans, length, template.end, _raw("Q", columns.end_ns), 8)
    for (_, at, _), kind, values in zip(template.fields, kinds, columns.values, strict=True):
        if values is None:
            continue
        if kind == _DOUBLE:
            _lay(spans, length, at, _raw("d", values), 8)
        else:
            _lay(spans, length, at, _varints(_raw("Q", values), kind), kind)
    if odd:
        _mend(spans, template, kinds, odd, columns)
    return spans


def _apart(columns: Columns, odd: Sequence[int]) -> Iterator[Columns]:
    """Yield the spans of these indices, and the others."""
    chosen = bytearray(len(columns))
    for index in odd:
        chosen[index] = 1
    span_ids = array("Q", columns.span_ids)
    for keys in (chosen, chosen.translate(b"\1\0" + bytes(254))):
        yield Columns(
            columns.shape,
            columns.trace_id,
            columns.parent_id,
            columns.flags,
            array("Q", compress(span_ids, keys)).tobytes(),
            list(compress(columns.start_ns, keys)),
            list(compress(columns.end_ns, keys)),
            tuple([values if values is None else list(compress(values, keys)) for values in columns.values]),
        )


def _kinds(columns: Columns) -> tuple[list[_Kind], Sequence[int]]:
    """Return how the values of each field are written, and the indices of the spans of which one is written otherwise.

    Raises:
        TypeError: The values of a field are not all floats, or all whole numbers.
    """
    kinds: list[_Kind] = []
    odd: set[int] = set()
    for values in columns.values:
        if values is None:
            kinds.append(_ABSENT)
            continue
        types = _PACKED[values.typecode] if type(values) is array else set(map(type, values))
        if types == _FLOATS:
            kinds.append(_DOUBLE)
        elif types == _INTS:
            lengths = bytes(map(int.bit_length, values)).translate(_LENGTHS)
            kind = lengths[len(lengths) // 2]
            if lengths.count(kind) < len(lengths):
                kind = max(set(lengths), key=lengths.count)
                odd.update(compress(count(), lengths.translate(_OTHERS[kind])))
            kinds.append(kind)
        else:
            raise TypeError("values of several types")
    if max(kinds, default=0) > _LONGEST:
        raise OverflowError("numbers of more than 64 bits")
    return kinds, sorted(odd)


def _mend(spans: bytearray, template: _Template, kinds: Sequence[_Kind], odd: Sequence[int], columns: Columns) -> None:
    """Move the spans of which a number is of another length to the end, and write it.

    The last ones take their places: to move all that follows would cost more than the writing.
    """
    length, before = template.length, len(template.before) - len(TRACE_ID)
    numbers = [
        (name, values, first, end)
        for name, values, kind, (first, _, end) in zip(
            columns.shape.fields, columns.values, kinds, template.fields, strict=True
        )
        if kind > 0 and values is not None
    ]
    parts: list[bytes] = []
    for index in reversed(odd):
        span, last = bytes(spans[index * length : (index + 1) * length]), spans[-length:]
        del spans[-length:]
        if index * length < len(spans):
            spans[index * length : (index + 1) * length] = last
        pieces, at = list[bytes](), before
        for name, values, first, end in numbers:
            pieces += (span[at:first], key_value(ATTRIBUTES, name, values[index]))
            at = end
        pieces.append(span[at:])
        parts += (_SPANS, length_of(pieces), *pieces)
    spans += b"".join(parts)


def _raw(code: str, values: Sequence[Any]) -> bytes:
    """Return numbers as eight bytes each, little-endian; ``code`` is as for :func:`packed`."""
    if _LITTLE and type(values) is array:
        return values.tobytes()
    return struct.pack(f"<{len(values)}{code}", *values)


def _lay(spans: bytearray, length: int, at: int, raw: bytes, number: int) -> None:
    """Put the first bytes of each value in its place in each span; a value has eight."""
    for byte in range(number):
        spans[at + byte :: length] = raw[byte::8]


def _varints(raw: bytes, length: int) -> bytes:
    """Write numbers of eight bytes, little-endian, as varints of the same length, in eight bytes, too.

    All at once, as one large number: seven bits of each are moved to their byte.
    """
    numbers = int.from_bytes(raw, "little")
    septets, varints = _masks(len(raw) // 8, length)
    for byte, septet in enumerate(septets):
        varints |= (numbers & septet) << byte
    return varints.to_bytes(len(raw), "little")


@lru_cache(maxsize=_MOST_MASKS)
def _masks(size: int, length: int) -> tuple[tuple[int, ...], int]:
    """Return what picks the seven bits of each byte out of so many numbers, and the bits that say that more follow."""
    ones = int.from_bytes(b"\x01\0\0\0\0\0\0\0" * size, "little")
    septets = tuple([ones * (_SEPTET << 7 * byte) for byte in range(length)])
    return septets, sum([ones * (_CONTINUED << 8 * byte) for byte in range(length - 1)])


def _template(shape: Shape, limits: Limits, kinds: tuple[_Kind, ...], *, root: bool) -> _Template:
    templates: dict[Any, _Template] = encoded_of(shape, limits).templates
    template = templates.get((root, kinds))
    if template is None:
        if len(templates) >= _MOST_TEMPLATES:
            templates.clear()
        template = templates[root, kinds] = _made(shape, encoded_of(shape, limits).name_and_kind, kinds, root=root)
    return template


def _made(shape: Shape, name_and_kind: bytes, kinds: tuple[_Kind, ...], *, root: bool) -> _Template:
    ids = len(TRACE_ID) + 16 + len(SPAN_ID) + 8 + (0 if root else len(PARENT_ID) + 8)
    after = name_and_kind + START
    start = ids + len(after)
    after += fixed64(0) + END
    end = ids + len(after)
    after += fixed64(0) + UNSET + LOCAL_PARENT + attributes(ATTRIBUTES, shape.attributes)
    places = []
    for name, kind in zip(shape.fields, kinds, strict=True):
        value = double(0.0) if kind == _DOUBLE else bytes(kind)
        first = ids + len(after)
        if kind != _ABSENT:
            # The largest number of this length, so that what stands before it is right.
            sample: Any = 0.0 if kind == _DOUBLE else (1 << 7 * kind) - 1
            after += key_value(ATTRIBUTES, name, sample)[: -len(value)] + value
        places.append((first, ids + len(after) - len(value), ids + len(after)))
    before = _SPANS + varint(ids + len(after))
    return _Template(
        length=len(before) + ids + len(after),
        before=before + TRACE_ID,
        after=after,
        span_id=len(before) + len(TRACE_ID) + 16 + len(SPAN_ID),
        start=len(before) + start,
        end=len(before) + end,
        fields=tuple([(len(before) + first, len(before) + value, len(before) + end) for first, value, end in places]),
    )
