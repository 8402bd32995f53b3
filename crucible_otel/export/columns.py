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
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, count
from typing import Any, Final, NamedTuple

from crucible_otel.export.encode_spans import LOCAL_PARENT
from crucible_otel.export.protobuf import attributes, fixed64, key_value, length_of, varint
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
_MOST_HEADS: Final = 256

_LITTLE: Final = sys.byteorder == "little"

_LONGEST: Final = 9
"""The bytes of the longest varint; negative numbers, which take ten, are rare and written span by span."""

_Planes = list[bytes]
"""Numbers of the same length, a byte of all of them at a time: the least significant ones first."""

_MORE: Final = tuple(
    [
        bytes([(1 << max(0, (byte << 8 * place).bit_length() - 1) // 7) - 1 & 0xFF for byte in range(256)])
        for place in range(8)
    ]
)
"""For a byte, by its place in a number: a bit for each byte that the varint has besides its first. So ``|`` finds the
longest of several."""
_LENGTHS: Final = bytes([1 + more.bit_length() for more in range(256)])
"""How long a varint is, by these bits."""
_OTHERS: Final = tuple([bytes([each != length for each in range(256)]) for length in range(_LONGEST + 1)])
"""By a length, what tells all others from it."""

_RIGHT: Final = tuple([bytes([byte >> bits & 0x7F for byte in range(256)]) for bits in range(8)])
_LEFT: Final = tuple([bytes([byte << bits & 0x7F for byte in range(256)]) for bits in range(8)])
_CONTINUED: Final = bytes([byte | 0x80 for byte in range(256)])
"""What moves the bits of a byte to where they are in a septet, and what says that more follow."""

_Kind = int
"""How a value is written: 0 for none, -1 for a double, else the bytes of its varint."""
_FLOATS: Final = {float}
_INTS: Final = {int}
_PACKED: Final = {"d": _FLOATS, "Q": _INTS}
_ABSENT: Final = 0
_DOUBLE: Final = -1
_DOUBLE_BYTES: Final = 8


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
    kinds, fields, odd = _fields(columns)
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
    _lay(spans, length, template.span_id, _planes(columns.span_ids))
    _lay(spans, length, template.start, _planes(_raw("Q", columns.start_ns)))
    _lay(spans, length, template.end, _planes(_raw("Q", columns.end_ns)))
    for (_, at, _), planes in zip(template.fields, fields, strict=True):
        _lay(spans, length, at, planes)
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


def _fields(columns: Columns) -> tuple[list[_Kind], list[_Planes], Sequence[int]]:
    """Return how the values of each field are written, their bytes, and which spans have one that is written otherwise.

    Raises:
        TypeError: The values of a field are not all floats, or all whole numbers.
        OverflowError: A number has more than 63 bits.
    """
    kinds: list[_Kind] = []
    fields: list[_Planes] = []
    odd: set[int] = set()
    for values in columns.values:
        if values is None:
            kinds.append(_ABSENT)
            fields.append([])
            continue
        types = _PACKED[values.typecode] if type(values) is array else set(map(type, values))
        if types == _FLOATS:
            kinds.append(_DOUBLE)
            fields.append(_planes(_raw("d", values)))
        elif types == _INTS:
            numbers = _planes(_raw("Q", values))
            lengths = _lengths(numbers)
            kind = lengths[len(lengths) // 2]
            if lengths.count(kind) < len(lengths):
                kind = max(set(lengths), key=lengths.count)
                odd.update(compress(count(), lengths.translate(_OTHERS[kind])))
            kinds.append(kind)
            fields.append(_varints(numbers, kind))
        else:
            raise TypeError("values of several types")
    return kinds, fields, sorted(odd)


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
    parts: list[bytes | bytearray] = []
    last = len(spans)
    for index in reversed(odd):
        start, last = index * length, last - length
        at, stop, pieces = start + before, start + length, list[bytes | bytearray]()
        for name, values, first, end in numbers:
            number = varint(values[index])
            pieces += (spans[at : start + first], _before(name, len(number)), number)
            at = start + end
        pieces.append(spans[at:stop])
        parts += (_SPANS, length_of(pieces), *pieces)
        spans[start:stop] = spans[last : last + length]
    spans[last:] = b"".join(parts)


@lru_cache(maxsize=_MOST_HEADS)
def _before(name: str, length: int) -> bytes:
    """Write what stands before a whole number of this length in its attribute: it tells the length, too."""
    return key_value(ATTRIBUTES, name, (1 << 7 * length) - 1)[:-length]


def _raw(code: str, values: Sequence[Any]) -> bytes:
    """Return numbers as eight bytes each, little-endian; ``code`` is as for :func:`packed`."""
    if _LITTLE and type(values) is array:
        return values.tobytes()
    return struct.pack(f"<{len(values)}{code}", *values)


def _planes(raw: bytes) -> _Planes:
    """Cut numbers of eight bytes each."""
    return [raw[byte::8] for byte in range(8)]


def _lay(spans: bytearray, length: int, at: int, planes: _Planes) -> None:
    """Put the bytes of each number in their place in each span."""
    for byte, plane in enumerate(planes, at):
        spans[byte::length] = plane


def _lengths(numbers: _Planes) -> bytes:
    """Return the length of each number as a varint.

    Raises:
        OverflowError: One has more than 63 bits.
    """
    if not numbers[-1].isascii():
        raise OverflowError("a number of more than 63 bits")
    nothing = bytes(len(numbers[0]))
    more = [plane.translate(table) for plane, table in zip(numbers, _MORE, strict=True) if plane != nothing]
    return _either(more, len(nothing)).translate(_LENGTHS)


def _varints(numbers: _Planes, length: int) -> _Planes:
    """Write numbers as varints of this length."""
    planes = []
    for septet in range(length):
        place, bits = divmod(7 * septet, 8)
        plane = numbers[place].translate(_RIGHT[bits])
        if bits > 1:
            plane = _either((plane, numbers[place + 1].translate(_LEFT[8 - bits])), len(plane))
        planes.append(plane.translate(_CONTINUED) if septet < length - 1 else plane)
    return planes


def _either(planes: Iterable[bytes], size: int) -> bytes:
    """Return what is ``|`` of each byte."""
    bits = 0
    for plane in planes:
        bits |= int.from_bytes(plane, "little")
    return bits.to_bytes(size, "little")


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
        first = ids + len(after)
        if kind == _DOUBLE:
            after += key_value(ATTRIBUTES, name, 0.0)[:-_DOUBLE_BYTES]
        elif kind != _ABSENT:
            after += _before(name, kind)
        value = ids + len(after)
        after += bytes(_DOUBLE_BYTES if kind == _DOUBLE else kind)
        places.append((first, value, ids + len(after)))
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
