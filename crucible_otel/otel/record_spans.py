"""Spans of what is recorded by a handle: the training steps that are sampled.

A record has ended when it is made, so its span is a leaf: what happened in the step belongs to the epoch, as it does
when the step has no span. Where our buffer keeps the spans, nothing of them is made before the records are folded.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from opentelemetry.context import Context, get_current
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, SpanKind, Tracer

from crucible_otel.events.clock import Clock
from crucible_otel.events.event import Event
from crucible_otel.events.runtime import runtime
from crucible_otel.events.sanitize import Refusals
from crucible_otel.events.scope import Scope, in_context
from crucible_otel.events.translate import LONGEST_NS
from crucible_otel.otel.attributes import of_event
from crucible_otel.otel.buffer import SPAN_KEY, SpanBuffer
from crucible_otel.otel.handle import Owner
from crucible_otel.otel.naming import named
from crucible_otel.otel.record import Shape
from crucible_otel.otel.snapshot import Over
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.names import RESULT

_NUMBERS = frozenset((float, int))
_LONGEST_S = LONGEST_NS / 1e9


class _Ended(NamedTuple):
    shape: Shape
    context: Context
    starts: Sequence[int]
    ends: Sequence[int]
    values: Sequence[Sequence[Any] | None]


class RecordSpans:
    """Makes spans of the records of a hot event.

    Args:
        spec: The event; its ``span`` is the name.
        columns: The fields of its records, in order.
        clock: Time.
        rate: Share of the records that become spans.
        buffer: Keeps the spans; None when the provider is the application's.
        tracer: Makes the spans when there is no buffer.

    Attributes:
        by_column: Whether records are to be taken as columns when they are folded; else one by one.
        time_ns: The wall clock.
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
        self._spec, self.time_ns, self._rate, self._buffer, self._tracer = spec, clock.time_ns, rate, buffer, tracer
        self.by_column = buffer is not None
        fields = {field.name: field for field in spec.fields}
        totals = {feed.field for feed in spec.feeds if feed.how == "sum"}
        told = [name for name in columns if name != "duration"]
        self._names = tuple(fields[name].attribute for name in told)
        self._totals = tuple(name in totals for name in told)  # 0 where nothing is told
        self._duration = tuple(columns).index("duration")
        self._random = random.Random().random  # seeded by the system; not the generator that training code seeds
        self._last: tuple[Owner | None, Scope | None, Shape | None] = (None, None, None)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._waiting: deque[_Ended] = deque()
        self._faults: list[Exception] = []  # to be told without the engine's lock
        self._making = threading.RLock()  # reentrant: the sampler may do what makes it be asked of others

    def make(self, owner: Owner, *columns: Any) -> None:
        """Make the span of a record that ends now, if it is one of those that get one; durations are in seconds."""
        try:
            ended = self._ended(owner, owner.scope or get_current(), [(value,) for value in columns], (self.time_ns(),))
            if ended is not None:
                self._one_by_one(ended)
        except Exception as error:  # whose record this is has to do with none of it
            runtime().fault(self._spec.name, error)

    def take(
        self,
        owners: Sequence[Owner],
        columns: Sequence[Sequence[Any]],
        ends: Sequence[int],
        places: Sequence[Scope | Context],
        over: Over = iter,
    ) -> None:
        """Make spans of records; the engine's lock is held.

        Args:
            owners: Who made each record.
            columns: Its fields.
            ends: When it was made, in nanoseconds since the epoch.
            places: The scope or the context it was made in.
            over: Iterates over those made by one in one place, and may pause meanwhile.
        """
        owner, place, size = owners[-1], places[-1], len(owners)
        if owners.count(owner) == size and all(each is place for each in places):
            self._take(owner, place, columns, ends)
            return
        groups: dict[tuple[int, int], list[int]] = {}
        for index, ids in enumerate(zip(map(id, owners), map(id, places), strict=True)):
            groups.setdefault(ids, []).append(index)
        for indices in over(list(groups.values())):
            few = [list(map(column.__getitem__, indices)) for column in columns]
            first = indices[0]
            self._take(owners[first], places[first], few, list(map(ends.__getitem__, indices)))

    def emit(self, *, wait_s: float = 0.0) -> None:
        """Make the spans that were left because the sampler has to look at them; called without the engine's lock.

        Args:
            wait_s: How long to wait for another thread that does so, for who wants to have its spans too.
        """
        faults, self._faults = self._faults, []
        for error in faults:
            runtime().fault(self._spec.name, error)
        making = self._making
        if not making.acquire(timeout=wait_s):
            return
        try:
            while self._waiting:
                self._one_by_one(self._waiting.popleft())
        finally:
            making.release()

    def hurry(self) -> None:
        """Have the spans fetched if many wait; called without the lock."""
        if self._buffer is not None and self._buffer.crowded:
            self._buffer.hurry()

    def clear(self) -> None:
        """Forget what is left, in a forked child: it is its parent's."""
        self._begin_anew()

    def give_way(self) -> None:
        """Have the tracer make the spans from now on."""
        self._buffer = None

    def _take(
        self, owner: Owner, place: Scope | Context, columns: Sequence[Sequence[Any]], ends: Sequence[int]
    ) -> None:
        try:
            ended = self._ended(owner, place, columns, ends)
            if ended is None:
                return
            under = self._buffer.under(_above(ended.context)) if self._buffer is not None else None
            if under is None or self._buffer is None:
                self._waiting.append(ended)
            elif under.trace_id and self._buffer.read:
                self._buffer.add(ended.shape, under, ended.starts, ended.ends, ended.values)
        except Exception as error:  # which costs spans, but neither their metrics nor other spans
            self._faults.append(error)

    def _one_by_one(self, ended: _Ended) -> None:
        shape, context, starts, ends, values = ended
        rows: Iterable[tuple[Any, ...]] = zip(*[column or (None,) * len(ends) for column in values], strict=True)
        for start_ns, end_ns, row in zip(starts, ends, rows, strict=True):
            try:
                if self._buffer is not None:
                    self._buffer.leaf(shape, context, start_ns, end_ns, row, kept=True)
                    continue
                attributes = {**shape.attributes, **shape.values(row)}
                span = self._tracer.start_span(shape.name, context=context, attributes=attributes, start_time=start_ns)
                span.end(end_time=end_ns)
            except Exception as error:  # who folds is the user's loop, or a collection of metrics
                runtime().fault(self._spec.name, error)

    def _ended(
        self, owner: Owner, place: Scope | Context, columns: Sequence[Sequence[Any]], ends: Sequence[int]
    ) -> _Ended | None:
        """Return the spans of those records that get one; None for none."""
        durations = columns[self._duration]
        chosen = [type(value) in _NUMBERS and 0.0 <= value < _LONGEST_S for value in durations]
        if self._rate < 1.0:
            chosen = [each and self._random() < self._rate for each in chosen]
        if not all(chosen):
            ends, columns = list(compress(ends, chosen)), [list(compress(column, chosen)) for column in columns]
            durations = columns[self._duration]
        if not ends:
            return None
        told = [column for index, column in enumerate(columns) if index != self._duration]
        values = [_told(column, is_total) for column, is_total in zip(told, self._totals, strict=True)]
        scope, context = (place, place.context) if isinstance(place, Scope) else (in_context(place), place)
        starts = [end_ns - round(duration_s * 1e9) for end_ns, duration_s in zip(ends, durations, strict=True)]
        return _Ended(self._shape_of(owner, scope), context if context is not None else Context(), starts, ends, values)

    def _shape_of(self, owner: Owner, scope: Scope | None) -> Shape:
        known_owner, known_scope, shape = self._last
        if shape is None or owner is not known_owner or scope is not known_scope:
            shape = self._shape(owner, scope)
            self._last = (owner, scope, shape)
        return shape

    def _shape(self, owner: Owner, scope: Scope | None) -> Shape:
        event = Event(self._spec, self._spec.name, {}, {}, 0)
        inherited: Mapping[str, Any] = scope.inherited if scope is not None else {}
        event.complete(owner.fields, inherited)
        attributes = {**of_event(event, Refusals()), RESULT: "success"}
        return Shape(named(self._spec.span, event), SpanKind.INTERNAL, attributes, self._names)


def _told(column: Sequence[Any], is_total: bool) -> Sequence[Any] | None:
    """Return values without what was not told; a tensor that is still on its device is not waited for."""
    kinds = set(map(type, column))
    if not kinds <= _NUMBERS:
        column = [value if type(value) in _NUMBERS else None for value in column]
        if kinds.isdisjoint(_NUMBERS):
            return None
    if is_total and 0 in column:
        column = [value or None for value in column]
        if column.count(None) == len(column):
            return None
    return column


def _above(context: Context) -> SpanContext:
    span: Any = context.get(SPAN_KEY)
    return span.get_span_context() if span is not None else INVALID_SPAN_CONTEXT
