"""The runtime: what is configured now, and the one way by which every event travels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from crucible_otel.events.bus import Bus
from crucible_otel.events.clock import Clock, SystemClock
from crucible_otel.events.event import Event
from crucible_otel.events.names import EventName, dotted
from crucible_otel.events.outcome import Reported, Terminated, result_of, type_name
from crucible_otel.events.sanitize import error_text
from crucible_otel.events.scope import Scope, current, innermost
from crucible_otel.events.translate import inward
from crucible_otel.semconv.model import Alias, Operation, Severity
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.registry import ALIASES, EVENTS, OPERATIONS
from crucible_otel.semconv.sdk import USER_EVENT


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


class Runtime:
    """What is configured now.

    Attributes:
        bus: The handlers.
        clock: Time.
        projection: Makes spans, metrics and log records; None while nothing is configured.
        engine: The hot-path engine, as ``otel.engine`` made it; None while nothing is configured.
        enabled: False when telemetry is switched off: every verb is a no-op.
        open_scopes: What is open, oldest first.
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
        self.open_scopes: dict[int, Scope] = {}

    # -- operations --------------------------------------------------------------------------------------------------

    def open(
        self,
        operation: Operation,
        metadata: dict[str, Any],
        *,
        enter: bool = True,
        alias: str = "",
        measurements: dict[str, Any] | None = None,
    ) -> Scope:
        """Start an operation and, with ``enter``, make it current."""
        clock = self.clock
        scope = Scope(operation, metadata, current(), clock.now(), clock.time_ns())
        scope.family = alias.partition(".")[0]
        event = Event(
            operation.start, operation.start.name, measurements or {}, {}, scope.started_ns, scope=scope, alias=alias
        )
        self._complete(event, metadata, scope.inherited)
        self.open_scopes[id(scope)] = scope
        if self.projection is not None:
            try:
                self.projection.opened(event, scope)
            except Exception as error:
                self.projection.fault("span", error)
        if enter:
            scope.enter()
        self.bus.deliver(event)
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
            return False
        self.open_scopes.pop(id(scope), None)
        now_s, operation = self.clock.now(), scope.operation
        outcome = result or result_of(error)
        spec = operation.stop if error is None or outcome == "success" else operation.exception
        values = {"duration": max(0, round((now_s - scope.started_s) * 1e9)), **(measurements or {})}
        event = Event(
            spec,
            spec.name,
            values,
            {},
            scope.started_ns + int(values["duration"]),
            scope=scope,
            error=error,
            alias=alias,
        )
        self._complete(event, {**scope.fields, **(metadata or {}), "result": outcome}, scope.inherited)
        if spec is operation.exception and error is not None:
            event.metadata.setdefault("error", error_text(error))
            event.metadata.setdefault("error_type", type_name(error))
        try:
            self._finish(event, scope)
        finally:
            scope.leave()
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
        for scope in reversed(list(self.open_scopes.values())):
            self.close(scope, error=error if error is not None else Terminated("telemetry was shut down"))

    def forget_open_scopes(self) -> None:
        """Leave what is open to the process that opened it; called in a forked child."""
        for scope in list(self.open_scopes.values()):
            scope.end_once()
        self.open_scopes.clear()

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
        self._complete(event, metadata, scope.inherited if scope is not None else {})
        return event

    # -- raw events --------------------------------------------------------------------------------------------------

    def execute(self, name: EventName, measurements: object = None, metadata: object = None) -> None:
        """Emit an event by its name: ours, a seed's, or the user's own."""
        called = dotted(name)
        alias = ALIASES.get(called)
        spec = EVENTS.get(alias.targets[0] if alias is not None else called)
        if spec is None:
            values, fields = inward(USER_EVENT, None, measurements, metadata)
            self.point(USER_EVENT, values, fields, name=called)
            return
        values, fields = inward(spec, alias, measurements, metadata)
        seed = called if alias is not None else ""
        if spec.hot:
            if self.projection is None or not self.projection.hot(spec, values, fields, seed):
                self.point(spec, values, fields, alias=seed)
        elif spec.role == "start":
            self._raw_start(OPERATIONS[spec.operation], values, fields, alias, seed)
        elif spec.role == "point":
            self.point(spec, values, fields, alias=seed, error=_exception_in(fields))
        else:
            self._raw_end(spec, values, fields, alias, seed)

    def _raw_start(
        self,
        operation: Operation,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        alias: Alias | None,
        seed: str,
    ) -> None:
        family = alias.family if alias is not None else ""
        outer = current()
        if outer is not None and outer.operation is operation and outer.family != family and not outer.ended:
            name = operation.start.fields[0].name
            if metadata.get(name) is None or outer.fields.get(name) in (None, metadata[name]):
                outer.shadowed.append(family)
                return
        self.open(operation, metadata, alias=seed, measurements=measurements)

    def _raw_end(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        alias: Alias | None,
        seed: str,
    ) -> None:
        family = alias.family if alias is not None else ""
        scope = innermost(spec.operation)
        if scope is not None and family in scope.shadowed:
            scope.shadowed.remove(family)
            return
        error = _exception_in(metadata)
        if error is not None:
            metadata = {**metadata, "error": error_text(error)}
        if scope is None:
            self._orphan_end(spec, measurements, metadata, error, seed)
            return
        result = metadata.pop("result", "") or ("failure" if spec.role == "exception" else "")
        if spec.role == "exception" and error is None:
            kind = str(metadata.get("error_type") or metadata.get("kind") or "_OTHER")
            error = Reported(str(metadata.get("error", "")), kind)
        self.close(scope, error=error, result=str(result), measurements=measurements, metadata=metadata, alias=seed)

    def _orphan_end(
        self,
        spec: EventSpec,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        error: BaseException | None,
        seed: str,
    ) -> None:
        metadata.setdefault("result", "failure" if spec.role == "exception" else "success")
        scope = current()
        event = Event(spec, spec.name, measurements, {}, self.clock.time_ns(), error=error, alias=seed)
        self._complete(event, metadata, scope.inherited if scope is not None else {})
        self._finish(event, None)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _finish(self, event: Event, scope: Scope | None) -> None:
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

    @staticmethod
    def _complete(event: Event, given: Mapping[str, Any], inherited: Mapping[str, Any]) -> None:
        """Put the metadata in the order of the spec, with what the scopes know, then what the user added."""
        metadata = event.metadata
        for field in event.spec.fields:
            name = field.name
            if field.measurement:
                continue
            value = given.get(name)
            if value is None and field.context:
                value = inherited.get(name)
            if value is not None:
                metadata[name] = value
        for name, value in given.items():
            if name not in metadata and value is not None and name not in event.measurements:
                metadata[name] = value
        if event.spec is USER_EVENT:
            for name, value in inherited.items():
                metadata.setdefault(name, value)


def _exception_in(fields: Mapping[str, Any]) -> BaseException | None:
    for name in ("error", "reason", "exception"):
        found = fields.get(name)
        if isinstance(found, BaseException):
            return found
    return None


_current = Runtime()


def runtime() -> Runtime:
    """Return what is configured now."""
    return _current


def install(new: Runtime) -> Runtime:
    """Replace the current runtime and return the one before."""
    global _current
    before, _current = _current, new
    return before


def _after_fork() -> None:
    _current.forget_open_scopes()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
