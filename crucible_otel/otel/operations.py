"""Hot operations: calls and inferences, of which there may be a hundred thousand a second.

What the events of one cost is paid once for each different one: its name, the attributes it starts with, the handles
of its series. An operation that ends well then takes two clock reads, a record for its metrics and one for its span.
One that fails, one that somebody listens to, and one that comes in by its name goes the way of all events.
"""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer

from crucible_otel.events.event import Event
from crucible_otel.events.sanitize import Refusals
from crucible_otel.otel.attributes import of_event
from crucible_otel.otel.buffer import THINNED, SpanBuffer
from crucible_otel.otel.engine import Engine
from crucible_otel.otel.family import Family
from crucible_otel.otel.handle import Owner
from crucible_otel.otel.labelling import sources
from crucible_otel.otel.labels import label
from crucible_otel.otel.leaves import Leaves
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.naming import named
from crucible_otel.otel.parts import divide
from crucible_otel.otel.places import Place, Places
from crucible_otel.otel.record import Shape
from crucible_otel.otel.rows import Values, compiled_row, compiled_values, totals_of
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Feed, Operation
from crucible_otel.semconv.names import RESULT
from crucible_otel.semconv.registry import EVENTS

_PREPARED = 4_096
_SUCCESS = "success"
_FAILED = ("failure", "timeout")
KINDS: Mapping[str, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}  # fmt: skip


class Prepared(NamedTuple):
    """An operation with what identifies it, ready to be made.

    Attributes:
        hot: Which operation.
        inherited: What the scopes around it knew.
        metadata: What its start event says.
        start: What its span starts with.
        stop: What its span is when it ended well.
        full: What it is when all that can be measured of it was.
        plain: ``plain(duration_s)`` for each of its records, to be put when nothing else was measured.
        told: ``told(duration_s, values)`` for each, when something was.
        gauges: ``set(get)`` for each gauge that an end without exception sets.
        owner: Has the series of its last record.
    """

    hot: HotOperation
    inherited: Mapping[str, Any]
    metadata: Mapping[str, Any]
    start: Shape
    stop: Shape
    full: Shape
    plain: tuple[Callable[[float], None], ...]
    told: tuple[Callable[[float, Values], None], ...]
    gauges: tuple[Callable[[Callable[[str], Any]], None], ...]
    owner: Owner


class HotOperation:
    """One operation.

    Args:
        operation: Its spec.
        engine: Keeps its metrics.
        buffer: Keeps its spans; None when the provider is the application's.
        tracer: Makes its spans when there is no buffer.
        wants: Whether a handler subscribes to an event's name.
        refused: Called with what had to be converted or dropped.
        slow_s: From which duration on a span is kept whatever the rate says.
        rate: Share of the spans that are kept, where there is no buffer that knows it.

    Attributes:
        direct: Whether nobody listens to its events.
        events: The names of the events that feed its metrics.
        running: What is open: the id of the context inside it -> the entry of whoever opened it.
        left: What was still open when telemetry ended, as in ``running``: whoever opened it must find the context
            outside.
        generation: Another one in a forked child.
        leaves: Takes those that have ended well and of which all is known; None where the fields are no whole numbers.
        places: Where the rows of these go.
        patterns: What verbs make others of its kind from; their own business.
    """

    def __init__(
        self,
        operation: Operation,
        engine: Engine,
        *,
        buffer: SpanBuffer | None,
        tracer: Tracer,
        wants: Callable[[str], bool],
        refused: Callable[[Refusals], None],
        slow_s: float = 1.0,
        rate: float = 1.0,
    ) -> None:
        self.operation, self.buffer, self.slow_s = operation, buffer, slow_s
        self._slow_ns = round(slow_s * 1e9)
        self._rate, self._random = rate, random.Random().random  # not the global one, which training code seeds
        self.now, self.time_ns = engine.clock.now, engine.clock.time_ns
        self._engine, self._tracer, self._wants, self.refused = engine, tracer, wants, refused
        self._families = tuple(engine.families[spec.name] for spec in operation.hot)
        self._fed = tuple(frozenset(_fed_by(spec)) for spec in operation.hot)
        self.events = frozenset().union(*self._fed)
        told = [field for field in operation.stop.fields if field.measurement and field.attribute]
        self._values = compiled_values(operation.stop, told)
        self._value_names = tuple(field.attribute for field in told)
        self._value_types = tuple(int if field.unit != "ns" and field.type == "int" else float for field in told)
        self._rows = tuple(compiled_row(family, told) for family in self._families)
        self._prepared: dict[tuple[Any, ...], Prepared] = {}
        self.running: dict[int, Any] = {}
        self.left: dict[int, Any] = {}
        self.generation = 0
        self.direct = False
        self.places = Places(self._slow_ns)
        self.patterns: dict[tuple[str, str], Any] = {}
        self.leaves: Leaves | None = None
        if len(self._families) == 1 and {*self._value_types} == {float, int} and all(f.type == "int" for f in told):
            self.leaves = Leaves(self._families[0], engine, told, buffer=buffer, slow_ns=self._slow_ns)
        self.rearm()
        _OPERATIONS.add(self)

    def rearm(self) -> None:
        """Look again at who listens."""
        parts = (self.operation.start, self.operation.stop, self.operation.exception)
        self.direct = not any(self._wants(part.name) for part in parts)
        self.look_again()

    def look_again(self) -> None:
        """Forget what was found out for the next rows."""
        self.places.forget(closed=not self.direct)
        if not self.direct:  # another thread may have found out in between that it was
            self.places.gate.clear()

    def give_way(self) -> None:
        """Have the tracer make the spans from now on."""
        self.buffer = None
        self.look_again()

    def leave(self) -> None:
        """Make no spans any more: nobody would fetch them."""
        self.buffer, self._tracer = None, NoOpTracer()
        self.look_again()

    def end_all(self, error: BaseException) -> None:
        """End what is open, as cancelled."""
        for key, entry in reversed(self.running.copy().items()):  # the innermost first
            self.left[key] = entry
            if self.running.pop(key, None) is entry:
                entry[0]._abandon(entry, error)
            else:  # another thread's end was faster
                del self.left[key]

    def values(self, measured: dict[str, Any], duration_ns: int) -> tuple[Values, bool]:
        """Return what was measured in the order of the fields, and whether something had to be cut for it.

        Args:
            measured: By field name, in the event's units.
            duration_ns: How long it took altogether, in nanoseconds.
        """
        found = self._values(measured.get, duration_ns)
        if found is not None:
            return found, False
        divide(self.operation.stop, measured, duration_ns)  # the parts are longer than the whole
        return self._values(measured.get, duration_ns) or (), True

    # -- making one --------------------------------------------------------------------------------------------------

    def prepare(self, fields: Mapping[str, Any], inherited: Mapping[str, Any]) -> Prepared:
        """Return what is the same for all operations with these fields in these scopes.

        Args:
            fields: What identifies it, and what else is to stand on its span.
            inherited: What the scopes around it know.
        """
        key = (id(inherited), *fields, *fields.values())
        plain = all(type(value) is str or value is None for value in fields.values())
        found = self._prepared.get(key) if plain else None
        if found is None or found.inherited is not inherited:
            found = self._prepare(fields, inherited)
            if plain:
                if len(self._prepared) >= _PREPARED:
                    self._prepared.clear()
                self._prepared[key] = found
        return found

    def start(self, shape: Shape, context: Context, start_ns: int, *, kept: bool = False) -> Span | None:
        """Start its span; see :meth:`SpanBuffer.start`."""
        if self.buffer is not None:
            return self.buffer.start(shape, context, start_ns, kept=kept)
        if self._rate < 1.0 and not kept and self._random() >= self._rate:
            return THINNED
        return self._tracer.start_span(
            shape.name, context=context, kind=shape.kind, attributes=shape.attributes, start_time=start_ns
        )

    def leaf(
        self, prepared: Prepared, context: Context, start_ns: int, end_ns: int, values: Values, *, full: bool = False
    ) -> None:
        """Make the span of one that has ended well, and in which nothing else happened.

        Args:
            prepared: What is the same for all.
            context: Where its parent is found.
            start_ns: When it started, in nanoseconds since the epoch.
            end_ns: When it ended.
            values: What was measured.
            full: Whether all that can be measured was, and each value has its field's own type.
        """
        slow = end_ns - start_ns >= self._slow_ns
        if self.buffer is not None:
            shape = prepared.full if full else prepared.stop
            self.buffer.leaf(shape, context, start_ns, end_ns, values, kept=slow)
            return
        span = self.start(prepared.start, context, start_ns, kept=slow)
        if span is not None and span is not THINNED:
            finish(prepared, span, end_ns, values)

    def place(self, prepared: Prepared, context: Context) -> Place | None:
        """Return where rows go of those that end well in a context; None where each has to be looked at.

        Args:
            prepared: What is the same for all.
            context: Where their parent is found.
        """
        return self.places.find(prepared, context, self.buffer, self._tracer)

    # -- what came the way of all events -----------------------------------------------------------------------------

    def count(self, event: Event) -> None:
        """Put the records of an event that ends one."""
        at = self.now()
        for spec, family, fed in zip(self.operation.hot, self._families, self._fed, strict=True):
            if event.name not in fed:
                continue
            labels = tuple([_label(event, name, read) for name, read in family.labels])
            handle = self._engine.bound(spec, labels, silent=True)
            handle.commit(at, *[_column(event, family, name) for name in family.columns])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _prepare(self, fields: Mapping[str, Any], inherited: Mapping[str, Any]) -> Prepared:
        operation, refusals = self.operation, Refusals()
        event = Event(operation.start, operation.start.name, {}, {}, 0)
        event.complete(fields, inherited)
        attributes = of_event(event, refusals)
        self.refused(refusals)
        name, kind = named(operation.span, event), KINDS[operation.kind]
        adapted = []
        for spec, family, bind in zip(operation.hot, self._families, self._rows, strict=True):
            known = {**event.metadata, RESULT_FIELD: _SUCCESS}
            labels = tuple([read(known.get(each)) for each, read in family.labels])
            handle = self._engine.bound(spec, labels, silent=True)
            buffer, full, fold = handle.direct()  # as nobody is told of such a record, and no log speaks of it
            adapted.append(bind(handle.owner, buffer.extend, buffer, full, fold))
        return Prepared(
            self,
            inherited,
            event.metadata,
            Shape(name, kind, attributes),
            Shape(name, kind, {**attributes, RESULT: _SUCCESS}, self._value_names),
            Shape(name, kind, {**attributes, RESULT: _SUCCESS}, self._value_names, self._value_types),
            tuple(plain for plain, _ in adapted),
            tuple(told for _, told in adapted),
            tuple(self._gauge(feed, event) for feed in operation.stop.feeds if feed.how == "set"),
            handle.owner,
        )

    def _gauge(self, feed: Feed, event: Event) -> Callable[[Callable[[str], Any]], None]:
        labels = tuple(source(event, "") for source in sources(feed, self.operation.stop))
        update, metric, field = self._engine.update, feed.metric, feed.field

        def put(get: Callable[[str], Any]) -> None:
            value = get(field)
            if value is not None:
                update(metric, "set", labels, value)

        return put

    def _after_fork(self) -> None:
        self.look_again()
        self.generation += 1  # what is open stays known: who leaves it here must find the context outside


RESULT_FIELD = "result"
_ERROR_FIELD = "error_type"


def finish(prepared: Prepared, span: Span, end_ns: int, values: Values, more: Mapping[str, Any] | None = None) -> None:
    """End the span of an operation that ended well.

    Args:
        prepared: What is the same for all.
        span: Its span.
        end_ns: When, in nanoseconds since the epoch.
        values: What was measured; empty for nothing.
        more: Further attributes, sanitised.
    """
    if type(span) is LiveSpan:
        span.finish(end_ns, prepared.stop, values, more)
        return
    span.set_attributes({RESULT: _SUCCESS, **prepared.stop.values(values), **(more or {})})
    span.end(end_time=end_ns)


def _fed_by(spec: EventSpec) -> Iterable[str]:
    """Return the names of the events that feed the metrics of a record."""
    metrics = {feed.metric.name for feed in spec.feeds}
    return (each.name for each in EVENTS.values() if metrics & {feed.metric.name for feed in each.feeds})


def _label(event: Event, name: str, read: Callable[[object], str]) -> str:
    result = event.metadata.get(RESULT_FIELD, _SUCCESS)
    if name == RESULT_FIELD:
        return label(result)
    if name == _ERROR_FIELD:
        return label(event.metadata.get(name)) if result in _FAILED else ""
    return read(event.value(name))


def _column(event: Event, family: Family, name: str) -> Any:
    value = event.value(name)
    if value is not None and name in family.timed:
        return value * 1e-9
    return 0 if value is None and name in totals_of(family) else value


_OPERATIONS: weakref.WeakSet[HotOperation] = weakref.WeakSet()


def _after_fork() -> None:
    for operation in list(_OPERATIONS):
        operation._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
