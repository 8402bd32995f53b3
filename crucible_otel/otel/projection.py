"""The bus's first subscriber: events become spans, metric updates and log records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import Logger
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from crucible_otel.events.event import Event
from crucible_otel.events.outcome import Terminated
from crucible_otel.events.runtime import Runtime
from crucible_otel.events.sanitize import Refusals
from crucible_otel.events.scope import Scope, carrying, chain, current, innermost
from crucible_otel.events.translate import LONGEST_NS
from crucible_otel.otel.attributes import of_end, of_event
from crucible_otel.otel.buffer import THINNED
from crucible_otel.otel.engine import Engine
from crucible_otel.otel.event_log import FAILED, EventLog
from crucible_otel.otel.exceptions import described, message
from crucible_otel.otel.handle import Handle
from crucible_otel.otel.labelling import Plan
from crucible_otel.otel.labels import label
from crucible_otel.otel.naming import named
from crucible_otel.otel.operations import KINDS, HotOperation
from crucible_otel.otel.parts import divide
from crucible_otel.otel.record import Shape
from crucible_otel.otel.values import spelled
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Operation, Severity
from crucible_otel.semconv.names import ERROR_TYPE, EXCEPTION_EVENT, INCOMPLETE, RESULT
from crucible_otel.semconv.registry import EVENTS, OPERATIONS
from crucible_otel.semconv.sdk import EVICTIONS, FAULTS, HANDLER_FAILURES, REFUSED
from crucible_otel.semconv.training import NONFINITE_EVENT, TRAINING, WATCHED

logger = logging.getLogger("crucible_otel")


class TelemetryProjection:
    """Makes telemetry of events.

    Args:
        tracer: Makes spans.
        log: Emits log records; None when there is no logs pipeline.
        engine: Keeps the metrics.
        runtime: Whose projection it is; events that the engine reports go to its handlers.
        events: ``log``, ``span``, ``both`` or ``off``: where events go besides spans and metrics.
        exceptions: ``""``, ``logs`` or ``logs/dup``: where exceptions are recorded.
    """

    def __init__(
        self,
        *,
        tracer: Tracer,
        log: Logger | None,
        engine: Engine,
        runtime: Runtime,
        events: str = "log",
        exceptions: str = "",
    ) -> None:
        self._tracer, self._engine, self._runtime, self._bus = tracer, engine, runtime, runtime.bus
        self._log = EventLog(log, events, stacks=exceptions in ("logs", "logs/dup"))
        self._on_span = exceptions != "logs"
        self._plans = {name: Plan(spec) for name, spec in EVENTS.items() if spec.feeds and not spec.hot}
        self._stopped: set[tuple[str, tuple[Any, ...]]] = set()
        self._faulted: set[str] = set()
        engine.report = self.report
        self.hot_ends: Mapping[str, HotOperation] = {}

    # -- what the runtime calls --------------------------------------------------------------------------------------

    def opened(self, event: Event, scope: Scope) -> None:
        """Start the span of a scope and make the context that is current inside it."""
        operation = scope.operation
        scope.fields = {**event.metadata, **event.measurements}
        attributes = self._attributes(event)
        name, kind, hot = named(operation.span, event), KINDS[operation.kind], self._hot(operation)
        scope.context = carrying(scope)
        if hot is not None:
            scope.span = hot.start(Shape(name, kind, attributes), scope.context, event.time_ns)
        else:
            scope.span = self._tracer.start_span(name, kind=kind, attributes=attributes, start_time=event.time_ns)
        if scope.span is not None and scope.span is not THINNED:
            scope.context = trace.set_span_in_context(scope.span, scope.context)
        self._feed(event, scope)
        self._log.operation(event, attributes)

    def closed(self, event: Event, scope: Scope | None) -> None:
        """End the span of a scope; an end without a start gives a span if it says how long it took."""
        if event.spec.parts and divide(event.spec, event.measurements, event.measurements.get("duration")):
            self.refused()
        self._feed(event, scope)
        refusals = Refusals()
        attributes, new = of_end(event, scope.fields if scope is not None else {}, refusals)
        self.count(refusals)
        self._log.operation(event, attributes)
        result = str(event.metadata.get("result", "success"))
        if scope is None:
            template = OPERATIONS[event.spec.operation].span
            span = self._after_the_fact(template, event, {RESULT: result, **attributes})
        else:
            span = self._kept(event, scope, result, attributes) if scope.span is THINNED else scope.span
            if span is not None:
                span.set_attributes({RESULT: result, **new})
        if span is None:
            return
        if result in FAILED:
            self._failed(span, event)
        elif isinstance(event.error, Terminated):
            span.set_attribute(INCOMPLETE, True)
        span.end(end_time=event.time_ns)

    def happened(self, event: Event) -> None:
        """Record a point event."""
        self._feed(event)
        spec = event.spec
        if not spec.span and not spec.logged:
            return
        attributes = self._attributes(event)
        if spec.span:
            span = self._after_the_fact(spec.span, event, {**attributes, RESULT: "success"})
            if span is not None:
                span.end(end_time=event.time_ns)
        if spec.logged:
            self._log.point(event, attributes)

    def hot(self, spec: EventSpec, measurements: dict[str, Any], metadata: dict[str, Any], alias: str) -> bool:
        """Record a high-frequency event that came by its name, on the run it happened in."""
        family = self._engine.families[spec.name]
        handle = self._raw_handle(spec, metadata)
        values = {name: measurements.get(name, metadata.get(name)) for name in family.columns}
        further = measurements.get("metrics")
        given = {name: value for name, value in values.items() if value is not None}
        for field in spec.fields:
            if field.unit == "ns" and isinstance(given.get(field.name), (int, float)):
                given[field.name] = given[field.name] * 1e-9
        now_s = self._engine.clock.now()
        log = handle.take_log(now_s)  # here, where all that the event carries is known
        if spec.timing == "interval" and "duration" in given:
            totals = {feed.field for feed in spec.feeds if feed.how == "sum"}
            columns = [given.get(name, 0 if name in totals else None) for name in family.columns]
            handle.commit(now_s, *columns, further)
        else:
            handle.record(**given, **({"metrics": further} if further is not None else {}))
        if log:
            record = handle.last_record()
            if record is not None:
                family.logged[handle.owner] = record
            family.fold()
        tell = self._bus.wants(spec.name)
        if log or tell:
            owner, here = handle.owner.scope, current()
            scope = here if owner is None or owner in chain(here) else owner
            self.report(spec, measurements, metadata, scope, log=log, tell=tell, alias=alias)
        return True

    def fault(self, component: str, error: BaseException) -> None:
        """Count an error of ours, and say so once a component."""
        self._engine.update(FAULTS, "sum", (component,))
        if component not in self._faulted:
            self._faulted.add(component)
            logger.warning(
                "internal error in %s: %s; counted from now on", component, type(error).__name__, exc_info=error
            )

    def refused(self) -> None:
        """Count a value that could not be used."""
        self._engine.update(*self._engine.refusal)

    def evicted(self) -> None:
        """Count an operation that was ended because its end did not come."""
        self._engine.update(EVICTIONS, "sum", ())

    def handler_failed(self, handler_id: str) -> None:
        """Count an exception of a handler."""
        self._engine.update(HANDLER_FAILURES, "sum", (label(handler_id),))

    def leave(self, end_open: Callable[[], object]) -> None:
        """End what is open, and begin nothing more: what happens while the process leaves would count as lost."""
        self._tracer = trace.NoOpTracer()
        end_open()
        self._engine.settle()  # while what it finds can still be told
        for operation in self.hot_ends.values():
            operation.leave()
        self._log.stop()

    # -- what the engine calls ---------------------------------------------------------------------------------------

    def report(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        scope: Scope | None,
        *,
        log: bool,
        tell: bool,
        severity: Severity | None = None,
        alias: str = "",
    ) -> None:
        """Emit the event of a record: to the log, to handlers, or both."""
        scope = scope if scope is not None else current()
        event = self._runtime.event(spec, measurements, metadata, scope, severity=severity, alias=alias)
        if log:
            try:
                self._log.point(event, self._attributes(event))
            except Exception as error:
                self.fault("event", error)
        if tell:
            self._bus.deliver(event)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _raw_handle(self, spec: EventSpec, metadata: Mapping[str, Any]) -> Handle:
        family, scope = self._engine.families[spec.name], innermost(TRAINING.name)
        inherited = scope.inherited if scope is not None else {}
        labels = tuple(read(metadata.get(name)) or label(inherited.get(name)) for name, read in family.labels)
        if scope is None or not spec.sequence:  # only what is numbered belongs to the run
            return self._engine.bound(spec, labels, silent=True)
        key = "raw " + spec.name
        found: Handle | None = scope.handles.get(key)
        if found is None:
            of_run: Handle = scope.handles.get(spec.name) or self._engine.handle(spec, labels, scope, {})
            found = scope.handles[key] = family.handle(of_run.owner, silent=True)
        return found

    def _hot(self, operation: Operation) -> HotOperation | None:
        """Return what makes the spans of an operation: all of one, whoever listens, are sampled and bounded alike."""
        hot = self.hot_ends.get(operation.stop.name)
        return hot if hot is not None and hot.operation is operation else None

    def _kept(self, event: Event, scope: Scope, result: str, attributes: dict[str, Any]) -> Span | None:
        """Make the span of what the rate leaves out, if it failed or was slow, after all."""
        operation = scope.operation
        hot = self._hot(operation)
        if hot is None:
            return None
        slow = (event.measurements.get("duration") or 0) >= hot.slow_s * 1e9
        if not (slow or result in FAILED or isinstance(event.error, Terminated)):
            return None
        shape = Shape(named(operation.span, event), KINDS[operation.kind], attributes)
        return hot.start(shape, scope.inside(), scope.started_ns, kept=True)

    def _feed(self, event: Event, scope: Scope | None = None) -> None:
        if (hot := self.hot_ends.get(event.spec.name)) is not None:
            hot.count(event)
        plan = self._plans.get(event.spec.name)
        if plan is None:
            return
        for metric, how, labels, value in plan.changes(event):
            if event.spec.role == "start" and scope is not None:
                scope.labels[metric.name] = labels
            elif metric.kind == "updowncounter" or how == "off":  # undo what the start did, and nothing without one
                if scope is None or metric.name not in scope.labels:
                    continue
                labels = scope.labels[metric.name]
            if math.isfinite(value):
                if how == "set":
                    self._stopped.discard((metric.name, labels))
                if metric.kind in ("histogram", "counter") and value < 0:
                    self._engine.update(REFUSED, "sum", ("dropped",))
                else:
                    self._engine.update(metric, how, labels, value)
            elif metric.name in WATCHED:
                self._engine.update(metric, how, labels, value)
                if (metric.name, labels) not in self._stopped:
                    self._stopped.add((metric.name, labels))
                    self.report(
                        NONFINITE_EVENT,
                        {},
                        {"signal": labels[-1] or metric.name.rpartition(".")[2], "value": spelled(value)},
                        event.scope,
                        log=True,
                        tell=True,
                    )
            else:
                self._engine.update(REFUSED, "sum", ("dropped",))

    def _after_the_fact(self, template: str, event: Event, attributes: dict[str, Any]) -> Span | None:
        duration = event.measurements.get("duration")
        if not isinstance(duration, (int, float)) or not 0 <= duration < LONGEST_NS:
            return None
        return self._tracer.start_span(
            named(template, event), attributes=attributes, start_time=event.time_ns - int(duration)
        )

    def _failed(self, span: Span, event: Event) -> None:
        error = event.error
        reported = label(event.metadata.get("error"))
        span.set_attribute(ERROR_TYPE, label(event.metadata.get("error_type")) or "_OTHER")
        span.set_status(Status(StatusCode.ERROR, message(error) if error is not None else reported or None))
        if error is not None and self._on_span:  # one record a span
            span.add_event(EXCEPTION_EVENT, described(error), timestamp=event.time_ns)

    def _attributes(self, event: Event) -> dict[str, Any]:
        refusals = Refusals()
        attributes = of_event(event, refusals)
        self.count(refusals)
        return attributes

    def count(self, refusals: Refusals) -> None:
        """Count what had to be converted or dropped."""
        if refusals.converted:
            self._engine.update(REFUSED, "sum", ("converted",), refusals.converted)
        if refusals.dropped:
            self._engine.update(REFUSED, "sum", ("dropped",), refusals.dropped)
