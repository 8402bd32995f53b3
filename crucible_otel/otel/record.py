"""What is kept of a span of a hot event until it leaves: a tuple, and what all spans of its kind have in common."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.span import TraceState

Record: TypeAlias = "tuple[Shape, int, int, int, int, int, int, tuple[Any, ...], Extra | None]"
"""``(shape, trace id, span id, parent's span id or 0, flags, start, end, values, extra)``.

Start and end are in nanoseconds since the epoch.
"""

RECORD_BYTES = 400
"""What a record takes in memory, ids and times included, without its extra."""


class Shape:
    """What spans have in common.

    Attributes:
        name: Their name.
        kind: Their kind.
        attributes: Those they start with, and their result.
        fields: The attributes of their values, in order; a value that is None is absent.
        types: The types of the values, where all spans have values of the same; None where they differ.
        encoded: What an encoder has prepared for them; its own business.
    """

    __slots__ = ("attributes", "encoded", "fields", "kind", "name", "types")

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        fields: Sequence[str] = (),
        types: tuple[type, ...] | None = None,
    ) -> None:
        self.name, self.kind, self.attributes, self.fields = name, kind, attributes, tuple(fields)
        self.types = types
        self.encoded: Any = None

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Return values as attributes."""
        return {name: value for name, value in zip(self.fields, given, strict=False) if value is not None}


class Extra:
    """What one span has besides its kind's: most have nothing.

    Attributes:
        attributes: All its attributes, where it has others than the shape's.
        events: ``(name, attributes, time in ns)``, oldest first.
        links: Its links.
        status: Status code and description.
        name: Another name than its shape's; None for none.
        parent: Its parent, where the parent's id alone does not say all.
        trace_state: Its trace state.
        dropped: Events and links that exceeded the limits.
    """

    __slots__ = ("attributes", "dropped", "events", "links", "name", "parent", "status", "trace_state")

    def __init__(self) -> None:
        self.attributes: BoundedAttributes | None = None
        self.events: list[tuple[str, BoundedAttributes, int]] = []
        self.links: list[Link] = []
        self.status: tuple[StatusCode, str | None] | None = None
        self.name: str | None = None
        self.parent: SpanContext | None = None
        self.trace_state: TraceState | None = None
        self.dropped = [0, 0]

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        attributes = sum(map(len, (each for _, each, _ in self.events))) + len(self.attributes or ())
        size = 300 + 200 * attributes + 100 * len(self.links)
        return size + sum(_text_bytes(each) for _, each, _ in self.events)


class Columns:
    """Spans of one shape under one parent that have ended and have nothing else, column by column.

    Nothing of it changes any more; a part of it is ``columns[start:stop]``, and its length is its number of spans.

    Attributes:
        shape: Their shape; what it says of the types of values is not said of these.
        trace_id: Their trace.
        parent_id: Their parent's span id, 0 for roots.
        flags: Their trace flags.
        span_ids: Their ids, eight bytes each, one after the other.
        start_ns: When each started, in nanoseconds since the epoch.
        end_ns: When each ended.
        values: For each of the shape's fields the values of all spans, as :data:`Record` has them, or an array of them
            (see :func:`packed`); None where no span has one.
    """

    __slots__ = ("end_ns", "flags", "parent_id", "shape", "span_ids", "start_ns", "trace_id", "values")

    def __init__(
        self,
        shape: Shape,
        trace_id: int,
        parent_id: int,
        flags: int,
        span_ids: bytes,
        start_ns: Sequence[int],
        end_ns: Sequence[int],
        values: tuple[Sequence[Any] | None, ...],
    ) -> None:
        self.shape, self.trace_id, self.parent_id, self.flags = shape, trace_id, parent_id, flags
        self.span_ids, self.start_ns, self.end_ns = span_ids, start_ns, end_ns
        self.values = values

    def __len__(self) -> int:
        """Return the number of spans."""
        return len(self.end_ns)

    def __getitem__(self, part: slice) -> Columns:
        """Return the spans from ``part.start`` to before ``part.stop``; there are no steps."""
        start, stop, _ = part.indices(len(self))
        return Columns(
            self.shape,
            self.trace_id,
            self.parent_id,
            self.flags,
            self.span_ids[8 * start : 8 * stop],
            self.start_ns[start:stop],
            self.end_ns[start:stop],
            tuple([values if values is None else values[start:stop] for values in self.values]),
        )

    def record(self, at: int) -> Record:
        """Return one of the spans."""
        values = tuple([None if values is None else values[at] for values in self.values])
        span_id = int.from_bytes(self.span_ids[8 * at : 8 * at + 8], "big")
        start_ns, end_ns = self.start_ns[at], self.end_ns[at]
        return self.shape, self.trace_id, span_id, self.parent_id, self.flags, start_ns, end_ns, values, None

    def records(self) -> list[Record]:
        """Return the spans one by one."""
        return list(map(self.record, range(len(self))))


def packed(code: str, values: Sequence[Any]) -> Sequence[Any]:
    """Return numbers as an array, which takes a fifth of a list's memory; as they are if one of them is another number.

    Args:
        code: ``"d"`` for floats, ``"Q"`` for whole numbers from 0 to 2**64 - 1.
        values: The numbers.
    """
    try:
        return array(code, struct.pack(f"{len(values)}{code}", *values))
    except struct.error:
        return values


def _text_bytes(attributes: BoundedAttributes) -> int:
    return sum(len(value) for value in attributes.values() if isinstance(value, (str, bytes)))
