"""The way of the hot spans: from the buffer that keeps them to the queues of our provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.events.clock import Clock
from crucible_otel.export.deciding import rules_of
from crucible_otel.export.fork import in_child
from crucible_otel.export.readable import readable
from crucible_otel.export.scope import own_scope
from crucible_otel.export.templates import span_body
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import RECORD_BYTES, Record

if TYPE_CHECKING:
    from crucible_otel.config.settings import Settings
    from crucible_otel.export.queues import SpanQueue

__all__ = ["HotSpans", "limits_of"]

_EXTRA = 8
_AT_ONCE = 4_096
_AT_MOST = 4 * _AT_ONCE
"""So many records wait in the buffer while the thread that fetches them is busy exporting; then they go to the queue,
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
        self._reset()
        in_child(self._reset)  # after the provider's own, which renews its resource
        if queues:
            queues[0].queue.sources.append(self._fetch)

    def give_way(self) -> None:
        """Leave the spans of hot events to the SDK from now on."""
        if self.on_give_way is not None:
            self.on_give_way()

    def _reset(self) -> None:
        self._fetching = threading.Lock()
        about = {"__slots__": (), "resource": self._provider.resource, "limits": self.buffer.limits}
        self._span = type(HotSpan.__name__, (HotSpan,), about)

    def _fetch(self) -> Iterable[Any]:
        with self._fetching:
            return self._shared(self.buffer.fetch())

    def _hurry(self) -> None:
        if not self._queues:
            self.buffer.fetch()
            return
        self._queues[0].queue.wake()
        # Not blocking: a signal handler may end a span while this thread fetches.
        if len(self.buffer.records) >= _AT_MOST and self._fetching.acquire(blocking=False):
            try:
                self._queues[0].queue.put_many(list(self._shared(self.buffer.fetch())))
            finally:
                self._fetching.release()

    def _shared(self, records: list[Record]) -> Iterable[Any]:
        if len(self._queues) == 1:
            return map(self._span, records)  # one after the other, so that the queue can pause
        spans = list(map(self._span, records))
        for other in self._queues[1:]:
            other.queue.put_many(spans)
        return spans


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
