"""A span of a hot event while it is open: what runs inside it finds it, and may write on it, as on any span.

It costs a few hundred nanoseconds because what most spans never have is made when it is asked for: the span context
by who propagates it, the extra by who sets something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from crucible_otel.otel.exceptions import described
from crucible_otel.otel.limits import append_bounded
from crucible_otel.otel.record import Extra, Shape
from crucible_otel.semconv.names import EXCEPTION_ESCAPED, EXCEPTION_EVENT

if TYPE_CHECKING:
    from crucible_otel.otel.buffer import SpanBuffer

_EVENTS, _LINKS = range(2)


class LiveSpan(Span):
    """An open span.

    Attributes:
        shape: What it has in common with others; see :class:`~crucible_otel.otel.record.Shape`.
        trace_id: Its trace.
        span_id: Its id.
        parent_id: The span id of its parent, 0 for a root.
        flags: Its trace flags.
        start_ns: When it started, in nanoseconds since the epoch.
        extra: What it has besides.
        trace_state: Its trace state, which it has from its parent or its sampler.
    """

    extra: Extra | None = None
    trace_state: TraceState | None = None
    _context: SpanContext | None = None
    _ended = False

    def __init__(
        self, buffer: SpanBuffer, shape: Shape, trace_id: int, span_id: int, parent_id: int, flags: int, start_ns: int
    ) -> None:
        self._buffer, self.shape, self.trace_id, self.span_id = buffer, shape, trace_id, span_id
        self.parent_id, self.flags, self.start_ns = parent_id, flags, start_ns
        self._records = buffer.records  # a forked child has others, and what its parent opened is its parent's

    # -- what OpenTelemetry's users call -----------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        """Return its identity, for children and for propagation."""
        if self._context is None:
            self._context = SpanContext(self.trace_id, self.span_id, False, TraceFlags(self.flags), self.trace_state)
        return self._context

    def is_recording(self) -> bool:
        """Return whether it is still open."""
        return not self._ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute."""
        if not self._ended:
            self._all_attributes()[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes."""
        if self._ended or not attributes:
            return
        given = self._all_attributes()
        for key, value in attributes.items():
            # As the SDK does, whose keys may be of any type here, but not in set_attribute().
            given[key if isinstance(key, str) or not key else str(key)] = value

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event; the time is in nanoseconds since the epoch."""
        if self._ended:
            return
        extra, limits = self.more(), self._buffer.limits
        at = self._buffer.clock.time_ns() if timestamp is None else timestamp
        event = (name, limits.bounded_detail(attributes, limits.event_attributes), at)
        extra.dropped[_EVENTS] += append_bounded(extra.events, event, limits.events)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Link to another span."""
        if self._ended or context is None or not (context.is_valid or attributes or context.trace_state):
            return
        extra, limits = self.more(), self._buffer.limits
        link = Link(context, limits.bounded_detail(attributes, limits.link_attributes))
        extra.dropped[_LINKS] += append_bounded(extra.links, link, limits.links)

    def update_name(self, name: str) -> None:
        """Give it another name."""
        if not self._ended:
            self.more().name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status: ``OK`` is final, ``UNSET`` changes nothing."""
        if isinstance(status, StatusCode):
            status = Status(status, description)
        if self._ended or not isinstance(status, Status) or status.status_code is StatusCode.UNSET:
            return
        extra = self.more()
        if extra.status is None or extra.status[0] is not StatusCode.OK:
            extra.status = (status.status_code, status.description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event for an exception."""
        given = {**described(exception), EXCEPTION_ESCAPED: str(escaped), **(attributes or {})}
        self.add_event(EXCEPTION_EVENT, given, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it, before who opened it does."""
        self.finish(self._buffer.clock.time_ns() if end_time is None else end_time, self.shape, ())

    # -- what who opened it calls ------------------------------------------------------------------------------------

    def more(self) -> Extra:
        """Return what it has besides its shape, to be written on."""
        extra = self.extra
        if extra is None:  # not two, when two threads write at once
            extra = self.__dict__.setdefault("extra", Extra())
        return extra

    def begin_with(self, attributes: Mapping[str, Any]) -> None:
        """Have it begin with other attributes than its shape's."""
        limits = self._buffer.limits
        self.more().attributes = limits.bounded(attributes, limits.attributes)

    def finish(self, end_ns: int, shape: Shape, values: tuple[Any, ...], more: Mapping[str, Any] | None = None) -> None:
        """End it, once.

        Args:
            end_ns: When, in nanoseconds since the epoch.
            shape: The shape that its result gives it.
            values: Values of the shape's fields.
            more: Further attributes.
        """
        if self._ended:
            return
        extra = self.extra
        if more or (extra is not None and extra.attributes is not None):
            known = self.shape.attributes
            given = {name: value for name, value in shape.attributes.items() if name not in known}
            self.set_attributes({**given, **shape.values(values), **(more or {})})
            values = ()
        self._ended = True
        if self.flags & 1:
            records = self._records
            records.append(
                (
                    shape, self.trace_id, self.span_id, self.parent_id, self.flags,
                    self.start_ns, end_ns, values, self.extra,
                )
            )  # fmt: skip
            if len(records) >= self._buffer.full:
                self._buffer.hurry()

    def _all_attributes(self) -> BoundedAttributes:
        """Return its attributes, those of its shape among them, to be written on."""
        extra = self.more()
        if extra.attributes is None:
            limits = self._buffer.limits
            first = limits.bounded(self.shape.attributes, limits.attributes)
            extra.attributes = self.__dict__.setdefault("_given", first)  # not two, when two threads write at once
        return extra.attributes
