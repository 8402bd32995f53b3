"""Spans of what is recorded by a handle: the training steps that are sampled.

A record has ended when it is made, so its span is a leaf: what happened in the step belongs to the epoch, as it does
when the step has no span.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.trace import SpanKind, Tracer

from crucible_otel.events.clock import Clock
from crucible_otel.events.event import Event
from crucible_otel.events.sanitize import Refusals
from crucible_otel.events.scope import Scope, in_context
from crucible_otel.otel.attributes import of_event
from crucible_otel.otel.buffer import SpanBuffer
from crucible_otel.otel.handle import Owner
from crucible_otel.otel.naming import named
from crucible_otel.otel.record import Shape
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.names import RESULT

_NUMBERS = (float, int)
_USUAL = frozenset((float, int, type(None)))


class RecordSpans:
    """Makes spans of the records of a hot event.

    Args:
        spec: The event; its ``span`` is the name.
        columns: The fields of its records, in order.
        clock: Time.
        rate: Share of the records that become spans.
        buffer: Keeps the spans; None when the provider is the application's.
        tracer: Makes the spans when there is no buffer.
    """

    def __init__(
        self,
        spec: EventSpec,
        columns: Sequence[str],
        *,
        clock: Clock,
        rate: float,
        buffer: SpanBuffer | None,
        tracer: Tracer,
    ) -> None:
        self._spec, self._clock, self._rate, self._buffer, self._tracer = spec, clock, rate, buffer, tracer
        fields = {field.name: field for field in spec.fields}
        totals = {feed.field for feed in spec.feeds if feed.how == "sum"}
        told = [name for name in columns if name != "duration"]
        self._names = tuple(fields[name].attribute for name in told)
        self._totals = tuple(name in totals for name in told)  # 0 where nothing is told
        self._duration = tuple(columns).index("duration")
        self._random = random.Random()  # seeded by the system; not the generator that training code seeds
        self._last: tuple[Owner | None, Scope | None, Shape | None] = (None, None, None)

    def make(self, owner: Owner, *columns: Any) -> None:
        """Make the span of a record, if it is one of those that get one; durations are in seconds."""
        if self._rate < 1.0 and self._random.random() >= self._rate:
            return
        duration_s = columns[self._duration]
        if type(duration_s) not in _NUMBERS or not 0.0 <= duration_s < 1e9:
            return
        context: Context = get_current()
        scope = owner.scope
        if scope is None:
            scope = in_context(context)
        elif scope.context is not None:
            context = scope.context
        known_owner, known_scope, shape = self._last
        if shape is None or owner is not known_owner or scope is not known_scope:
            shape = self._shape(owner, scope)
            self._last = (owner, scope, shape)
        place = self._duration
        values = (*columns[:place], *columns[place + 1 :])
        if 0 in values or not _USUAL.issuperset(map(type, values)):
            values = self._told(values)
        end_ns = self._clock.time_ns()
        start_ns = end_ns - round(duration_s * 1e9)
        if self._buffer is not None:
            self._buffer.leaf(shape, context, start_ns, end_ns, values, kept=True)
            return
        attributes = {**shape.attributes, **shape.values(values)}
        span = self._tracer.start_span(shape.name, context=context, attributes=attributes, start_time=start_ns)
        span.end(end_time=end_ns)

    def _told(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return values without what was not told; a tensor that is still on its device is not waited for."""
        return tuple(
            [
                value if type(value) in _NUMBERS and (value or not is_total) else None
                for value, is_total in zip(values, self._totals, strict=True)
            ]
        )

    def give_way(self) -> None:
        """Have the tracer make the spans from now on."""
        self._buffer = None

    def _shape(self, owner: Owner, scope: Scope | None) -> Shape:
        event = Event(self._spec, self._spec.name, {}, {}, 0)
        inherited: Mapping[str, Any] = scope.inherited if scope is not None else {}
        event.complete(owner.fields, inherited)
        attributes = {**of_event(event, Refusals()), RESULT: "success"}
        return Shape(named(self._spec.span, event), SpanKind.INTERNAL, attributes, self._names)
