"""Where events go besides spans and metrics: log records, span events, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import Logger, SeverityNumber

from crucible_otel.events.event import Event
from crucible_otel.events.scope import Scope, chain, current
from crucible_otel.otel.exceptions import described
from crucible_otel.semconv.model import Severity
from crucible_otel.semconv.names import EXCEPTION_STACKTRACE

FAILED = ("failure", "timeout")
_SEVERITIES: Mapping[Severity, SeverityNumber] = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARN": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "FATAL": SeverityNumber.FATAL,
}


class EventLog:
    """Records events.

    Args:
        log: Emits log records; None when there is no logs pipeline.
        events: ``log``, ``span``, ``both`` or ``off``.
        stacks: Whether log records of failures carry stack traces.
    """

    def __init__(self, log: Logger | None, events: str, *, stacks: bool) -> None:
        self._log = log if events in ("log", "both") else None
        self._on_spans, self._stacks = events in ("span", "both"), stacks

    def operation(self, event: Event, attributes: dict[str, Any]) -> None:
        """Record the start or the end of an operation."""
        self._emit(event, attributes)

    def point(self, event: Event, attributes: dict[str, Any]) -> None:
        """Record an event in the scope that it happened in."""
        self._emit(event, attributes)
        if self._on_spans:
            span = trace.get_current_span(_context_of(event.scope))
            span.add_event(event.name, attributes, timestamp=event.time_ns)

    def stop(self) -> None:
        """Emit no more log records."""
        self._log = None

    def _emit(self, event: Event, attributes: dict[str, Any]) -> None:
        log = self._log
        if log is None or not event.spec.logged:
            return
        if event.error is not None and event.metadata.get("result") in FAILED:
            attributes = {**attributes, **described(event.error)}
            if not self._stacks:
                attributes.pop(EXCEPTION_STACKTRACE, None)
        scope = event.scope
        log.emit(
            timestamp=event.time_ns,
            observed_timestamp=event.time_ns,
            context=scope.context if scope is not None and event.spec.role != "point" else _context_of(scope),
            severity_number=_SEVERITIES[event.severity],
            severity_text=event.severity,
            body=event.spec.brief,
            attributes=attributes,
            event_name=event.name,
        )


def _context_of(scope: Scope | None) -> Any:
    """Return the caller's context if it is inside the scope, the scope's own otherwise."""
    return None if scope is None or scope in chain(current()) else scope.context
