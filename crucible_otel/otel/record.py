"""What is kept of a span of a hot event until it leaves: a tuple, and what all spans of its kind have in common."""

from __future__ import annotations

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


def record_bytes(record: Record) -> int:
    """Return about how much memory a record takes."""
    extra = record[8]
    return RECORD_BYTES if extra is None else RECORD_BYTES + extra.nbytes


def _text_bytes(attributes: BoundedAttributes) -> int:
    return sum(len(value) for value in attributes.values() if isinstance(value, (str, bytes)))
