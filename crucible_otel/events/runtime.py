"""The runtime: what is configured now, and the one way by which every event travels."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Protocol

from crucible_otel.events.bus import Bus
from crucible_otel.events.clock import Clock, SystemClock
from crucible_otel.events.event import Event
from crucible_otel.events.hooks import ScopeHook, call_closing, call_opened
from crucible_otel.events.names import EventName
from crucible_otel.events.outcome import Terminated, result_of, type_name
from crucible_otel.events.raw import RawEvents
from crucible_otel.events.sanitize import error_text, plain
from crucible_otel.events.scope import Scope, current
from crucible_otel.events.translate import nanoseconds
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Operation, Severity

logger = logging.getLogger("crucible_otel")


class Projection(Protocol):
    """The bus's first subscriber: makes telemetry of events."""

    def opened(self, event: Event, scope: Scope) -> None:
        """A scope starts: make its span and its context."""

    def closed(self, event: Event, scope: Scope | None) -> None:
        """A scope ends; ``None`` for an end without a start."""

    def happened(self, event: Event) -> None:
        """A point event."""

    def hot(self, spec: EventSpec, measurements: dict[str, Any], metadata: dict[str, Any], alias: str) -> bool:
        """A high-frequency event by its name; False when there is nowhere to record it."""

    def fault(self, component: str, error: BaseException) -> None:
        """Something inside went wrong."""

    def refused(self) -> None:
        """A value could not be used."""

    def evicted(self) -> None:
        """An operation was ended because its end did not come."""


class Runtime:
    """What is configured now.

    Attributes:
        bus: The handlers.
        clock: Time.
        projection: Makes spans, metrics and log records; None while nothing is configured.
        engine: The hot-path engine, as ``otel.engine`` made it; None while nothing is configured.
        enabled: False when telemetry is switched off: every verb is a no-op.
        raw: Where events by name enter.
        owner: What ``configure()`` returned for it; None while nothing is configured.
        open_scopes: What is open, oldest first.
        operations: The hot operations by name, as ``otel.operations`` made them; empty while nothing is configured.
        hooks: Who is called with every scope that begins; replaced as a whole, never changed.
    """

    def __init__(
        self,
        *,
        bus: Bus | None = None,
        clock: Clock | None = None,
        projection: Projection | None = None,
        engine: object = None,
        enabled: bool = True,
    ) -> None:
        self.bus = bus if bus is not None else Bus()
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.projection, self.engine, self.enabled = projection, engine, enabled
        self.raw = RawEvents(self)
        self.owner: object = None
        self.open_scopes: dict[int, Scope] = {}
        self.operations: Mapping[str, Any] = {}
        self.hooks: tuple[ScopeHook, ...] = ()
        self._refused: set[str] = set()

    # -- operations --------------------------------------------------------------------------------------------------

    def open(
        self,
        operation: Operation,
        metadata: dict[str, Any],
        *,
        enter: bool = True,
        alias: str = "",
        measurements: dict[str, Any] | None = None,
        family: str = "",
    ) -> Scope:
        """Start an operation and, with ``enter``, make it current."""
        clock = self.clock
        scope = Scope(operation, metadata, current(), clock.now(), clock.time_ns())
        scope.family = family
        event = Event(
            operation.start, operation.start.name, measurements or {}, {}, scope.started_ns, scope=scope, alias=alias
        )
        event.complete(metadata, scope.inherited)
        self.open_scopes[id(scope)] = scope
        if self.projection is not None:
            try:
                self.projection.opened(event, scope)
            except Exception as error:
                self.projection.fault("span", error)
        if enter:
            scope.enter()
        try:
            if self.hooks:
                scope.closings = call_opened(self.hooks, scope, self.fault)
            self.bus.deliver(event)
        except BaseException as error:  # a Ctrl-C in a handler: the caller's block never begins
            self.close(scope, error=error)
            raise
        return scope

    def close(
        self,
        scope: Scope,
        *,
        error: BaseException | None = None,
        result: str = "",
        measurements: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        alias: str = "",
    ) -> bool:
        """End an operation, once; False if it has ended already."""
        if not scope.end_once():
            scope.leave()  # ended from another thread, at shutdown: the caller's context is still inside
            return False
        self.open_scopes.pop(id(scope), None)
        if scope.family:
            self.raw.ended(scope)
        if scope.shadowed:
            self.raw.expect(scope, scope.shadowed)
        now_s, operation = self.clock.now(), scope.operation
        outcome = result or result_of(error)
        spec = operation.stop if error is None or outcome == "success" else operation.exception
        values = {"duration": None, **(measurements or {})}
        duration = nanoseconds(values["duration"])
        values["duration"] = duration = max(0, round((now_s - scope.started_s) * 1e9)) if duration is None else duration
        event = Event(spec, spec.name, values, {}, scope.started_ns + duration, scope=scope, error=error, alias=alias)
        event.complete({**scope.fields, **(metadata or {}), "result": outcome}, scope.inherited)
        if spec is operation.exception and error is not None:
            event.metadata.setdefault("error", error_text(error))
            if outcome != "cancellation":
                event.metadata.setdefault("error_type", type_name(error))
        try:
            if scope.closings:
                call_closing(scope.closings, event, self.fault)
            self._finish(event, scope)
        finally:
            scope.leave()
            scope.handles.clear()  # CPython finds no cycle through them: a record that waits keeps its scope
        return True

    def point(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        *,
        scope: Scope | None = None,
        error: BaseException | None = None,
        alias: str = "",
        name: str = "",
    ) -> None:
        """Emit a point event in a scope, the current one by default."""
        event = self.event(spec, measurements, metadata, scope if scope is not None else current(), alias=alias)
        event.name, event.error = name or spec.name, error
        self._emit(event)

    def close_all(self, error: BaseException | None = None) -> None:
        """End everything that is open, innermost first, as cancelled."""
        error = error if error is not None else Terminated("telemetry was shut down")
        for operation in self.operations.values():
            operation.end_all(error)
        for scope in reversed(list(self.open_scopes.values())):
            self.close(scope, error=error)

    def forget_open_scopes(self) -> None:
        """Leave what is open to the process that opened it; called in a forked child."""
        for scope in list(self.open_scopes.values()):
            scope.end_once()
        self.open_scopes.clear()
        self.raw.forget()

    def event(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: Mapping[str, Any],
        scope: Scope | None,
        *,
        severity: Severity | None = None,
        alias: str = "",
    ) -> Event:
        """Return a point event with what the scopes know, not emitted yet."""
        event = Event(
            spec, spec.name, measurements, {}, self.clock.time_ns(), scope=scope, alias=alias, severity=severity
        )
        event.complete(metadata, scope.inherited if scope is not None else {})
        return event

    # -- raw events --------------------------------------------------------------------------------------------------

    def execute(self, name: EventName, measurements: object = None, metadata: object = None) -> None:
        """Emit an event by its name: ours, a seed's, or the user's own."""
        self.raw.execute(name, measurements, metadata)

    def end_orphan(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        error: BaseException | None,
        alias: str,
    ) -> None:
        """Emit the end of an operation of whose start nothing is known."""
        scope = current()
        event = Event(spec, spec.name, measurements, {}, self.clock.time_ns(), error=error, alias=alias)
        event.complete(metadata, scope.inherited if scope is not None else {})
        self._finish(event, None)

    # -- what cannot be used -----------------------------------------------------------------------------------------

    def refuse(self, what: str, value: object, instead: str) -> None:
        """Count an argument that cannot be used, and say so once.

        Args:
            what: Verb and argument.
            value: What was given.
            instead: What happens instead.
        """
        if self.projection is not None:
            self.projection.refused()
        if what not in self._refused:
            self._refused.add(what)
            shown = plain(value, max_string=100)
            shown = repr(shown) if isinstance(value, str) else shown  # an empty one, "2", and what a terminal acts on
            logger.warning("%s=%s cannot be used; %s", what, shown, instead)

    def fault(self, component: str, error: BaseException) -> None:
        """Keep an error of ours away from the user's program: count it, and say so once a component."""
        if self.projection is not None:
            self.projection.fault(component, error)
        elif component not in self._refused:
            self._refused.add(component)
            logger.warning("error in %s: %s", component, type(error).__name__, exc_info=error)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _finish(self, event: Event, scope: Scope | None) -> None:
        if event.spec.role == "exception" and event.error is not None:
            event.metadata.setdefault("error", error_text(event.error))
            if event.metadata.get("result") != "cancellation":
                event.metadata.setdefault("error_type", type_name(event.error))
        if self.projection is not None:
            try:
                self.projection.closed(event, scope)
            except Exception as error:
                self.projection.fault("span", error)
        self.bus.deliver(event)

    def _emit(self, event: Event) -> None:
        if self.projection is not None:
            try:
                self.projection.happened(event)
            except Exception as error:
                self.projection.fault("event", error)
        self.bus.deliver(event)


_current = Runtime()


def runtime() -> Runtime:
    """Return what is configured now."""
    return _current


def install(new: Runtime) -> Runtime:
    """Replace the current runtime and return the one before."""
    global _current
    before, _current = _current, new
    for operation in before.operations.values():
        operation.look_again()
    return before


def _after_fork() -> None:
    _current.forget_open_scopes()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
