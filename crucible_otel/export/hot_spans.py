"""The way of the hot spans: from the buffer that keeps them to the queues of our provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.events.clock import Clock
from crucible_otel.export.chunk import Chunk
from crucible_otel.export.columns import span_bytes, span_fields
from crucible_otel.export.deciding import rules_of
from crucible_otel.export.fork import in_child
from crucible_otel.export.pace import pacing
from crucible_otel.export.readable import readable
from crucible_otel.export.scope import own_scope
from crucible_otel.export.templates import span_body
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import RECORD_BYTES, Columns, Record

if TYPE_CHECKING:
    from crucible_otel.config.settings import Settings
    from crucible_otel.export.queues import SpanQueue

__all__ = ["HotSpans", "limits_of"]

_EXTRA = 8
_COLUMNS_BYTES = 105
"""What a span takes in columns: its id and its times."""
_VALUE_BYTES = 44
"""What a value takes in a column that is a list; one in an array takes less than where it is written."""
_PIECE = 512
"""So many spans are weighed, written and freed in one go: that takes a tenth of a millisecond."""
_FEW = 64
_GONE: Any = None
_AT_ONCE = 4_096
_AT_MOST = 4 * _AT_ONCE
"""So many spans wait in the buffer while the thread that fetches them is busy exporting; then they go to the queue,
where they are bounded and counted, by whoever ends the next span."""


class HotSpan(tuple[Any, ...]):
    """A record with what is asked of whatever waits in a queue and is encoded.

    Attributes:
        resource: Of this process; on the class that belongs to a buffer, as the others.
        instrumentation_scope: Ours.
        limits: How much one span may hold.
    """

    __slots__ = ()
    resource: Resource
    instrumentation_scope: InstrumentationScope = own_scope()
    limits: Limits

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        extra = self[_EXTRA]
        return RECORD_BYTES if extra is None else RECORD_BYTES + int(extra.nbytes)

    def otlp_body(self) -> bytes:
        """Write it as the content of a ``Span`` message."""
        return span_body(self, self.limits)

    def readable(self) -> ReadableSpan:
        """Return it as the SDK's exporters know spans."""
        return readable(self, self.resource, self.instrumentation_scope, self.limits)


class HotColumns(Chunk):
    """Columns of spans, likewise.

    Args:
        columns: The spans, at most :data:`_PIECE` of them.
        span: The class of one of them, a :class:`HotSpan` of the same process.
    """

    __slots__ = ("_columns", "_span", "nbytes")

    def __init__(self, columns: Columns, span: type[HotSpan]) -> None:
        self._columns, self._span = columns, span
        self.nbytes = len(columns) * _bytes_each(columns, span.limits)

    @property
    def resource(self) -> Resource:
        """Of this process."""
        return self._span.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Ours."""
        return self._span.instrumentation_scope

    def __len__(self) -> int:
        """Return the number of spans."""
        return len(self._columns)

    def __iter__(self) -> Iterator[HotSpan]:
        """Iterate over the spans."""
        return map(self._span, self._columns.records())

    def __getitem__(self, part: Any) -> Any:
        """Return a span, or some in a row."""
        if isinstance(part, slice):
            return HotColumns(self._columns[part], self._span)
        at = range(len(self))[part]
        return self._span(*self._columns[at : at + 1].records())

    def otlp_fields(self) -> bytes | bytearray:
        """Write the spans as fields of ``ScopeSpans``."""
        return span_fields(self._columns, self._span.limits)


def _bytes_each(columns: Columns, limits: Limits) -> int:
    """Return about how many bytes a span of columns takes: where it waits or, if that is more, where it is written."""
    waiting = _COLUMNS_BYTES + sum([type(values) is list for values in columns.values]) * _VALUE_BYTES
    try:
        return max(waiting, span_bytes(columns.shape, limits))
    except Exception:  # it cannot be written, which will be counted when that is tried
        return waiting


class HotSpans:
    """A buffer whose spans go to queues.

    Args:
        clock: Time.
        provider: Our provider.
        queues: Where the spans go; without any they go nowhere.
        settings: Rates and the size of traces.

    Attributes:
        buffer: The buffer.
        on_give_way: Called when a processor of somebody else's is to see every span start: from then on the spans of
            hot events are the SDK's own.
    """

    def __init__(
        self, *, clock: Clock, provider: TracerProvider, queues: Sequence[SpanQueue], settings: Settings
    ) -> None:
        self._queues, self._provider = tuple(queues), provider
        self.on_give_way: Callable[[], object] | None = None
        self.buffer = SpanBuffer(
            clock=clock,
            sampling=rules_of(provider.sampler),
            limits=limits_of(SpanLimits()),
            rate=settings.call_sample_rate,
            most=settings.trace_span_limit,
            full=_AT_ONCE,
            hurry=self._hurry,
        )
        self.buffer.read = bool(queues)
        self._reset()
        in_child(self._reset)  # after the provider's own, which renews its resource
        if queues:
            queues[0].queue.sources.append(self._fetch)

    def end_segments(self) -> None:
        """End the segments that are open; see :meth:`SpanBuffer.end_segments`."""
        self.buffer.end_segments(pacing())

    def give_way(self) -> None:
        """Leave the spans of hot events to the SDK from now on."""
        if self.on_give_way is not None:
            self.on_give_way()

    def _reset(self) -> None:
        self._fetching = threading.Lock()
        about = {"__slots__": (), "resource": self._provider.resource, "limits": self.buffer.limits}
        self._span: type[HotSpan] = type(HotSpan.__name__, (HotSpan,), about)

    def _fetch(self, everything: bool) -> Iterator[Sequence[Any]]:
        # To fold each time would keep whoever records from it, and what waits for the lock is folded in one go then.
        with self._fetching:
            return self._shared(self.buffer.fetch_columns(fold=everything, over=pacing()), self.buffer.fetch())

    def _hurry(self) -> None:
        buffer = self.buffer
        if not self._queues:
            buffer.fetch()
            buffer.columns.clear()
            return
        self._queues[0].queue.wake()
        waiting = len(buffer.records) + sum(map(len, buffer.columns))
        # Not blocking: a signal handler may end a span while this thread fetches.
        if waiting >= _AT_MOST and self._fetching.acquire(blocking=False):
            try:
                for piece in self._shared(buffer.fetch_columns(fold=False), buffer.fetch()):
                    self._queues[0].queue.put_many(piece)
            finally:
                self._fetching.release()

    def _shared(self, columns: list[Columns], records: list[Record]) -> Iterator[Sequence[Any]]:
        """Yield spans for the first queue, a few at a time, so that it can pause; the others have got them then."""
        for piece in self._pieces(columns, records):
            for other in self._queues[1:]:
                other.queue.put_many(piece)
            yield piece

    def _pieces(self, columns: list[Columns], records: list[Record]) -> Iterator[Sequence[Any]]:
        for each in columns:
            for start in range(0, len(each), _PIECE):
                yield HotColumns(each if len(each) <= _PIECE else each[start : start + _PIECE], self._span)
        for start in range(0, len(records), _FEW):
            some = records[start : start + _FEW]
            records[start : start + _FEW] = repeat(_GONE, len(some))  # else all of them would be freed in one go
            yield list(map(self._span, some))


def limits_of(limits: SpanLimits) -> Limits:
    """Return the SDK's limits as ours."""

    def known(name: str) -> Any:
        return getattr(limits, name, None)

    return Limits(
        attributes=known("max_span_attributes"),
        events=known("max_events"),
        links=known("max_links"),
        event_attributes=known("max_event_attributes"),
        link_attributes=known("max_link_attributes"),
        length=known("max_span_attribute_length"),
        detail_length=known("max_attribute_length"),
    )
