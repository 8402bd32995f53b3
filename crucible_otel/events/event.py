"""One event on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.events.scope import Scope
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Severity
from crucible_otel.semconv.sdk import USER_EVENT


class Event:
    """One event on its way from a verb to the projection and the handlers.

    Attributes:
        spec: What the conventions say of it.
        name: Its canonical name, or the user's own.
        measurements: Numbers, by field name.
        metadata: Everything else, by field name.
        time_ns: Wall clock.
        scope: The scope it starts or ends, or in which it happened.
        error: The exception it ends with.
        alias: The seed name under which it came in; empty if it came from a verb.
        severity: Severity of its log event.
    """

    __slots__ = ("alias", "error", "measurements", "metadata", "name", "scope", "severity", "spec", "time_ns")

    def __init__(
        self,
        spec: EventSpec,
        name: str,
        measurements: dict[str, Any],
        metadata: dict[str, Any],
        time_ns: int,
        *,
        scope: Scope | None = None,
        error: BaseException | None = None,
        alias: str = "",
        severity: Severity | None = None,
    ) -> None:
        self.spec, self.name = spec, name
        self.measurements, self.metadata = measurements, metadata
        self.time_ns, self.scope, self.error, self.alias = time_ns, scope, error, alias
        self.severity: Severity = severity if severity is not None else spec.severity

    def value(self, field: str) -> Any:
        """Return a field wherever it stands; the measurement wins. ``None`` when absent."""
        found = self.measurements.get(field)
        return found if found is not None else self.metadata.get(field)

    def complete(self, given: Mapping[str, Any], inherited: Mapping[str, Any]) -> None:
        """Put the metadata in the order of the spec, with what the scopes know, then what the user added.

        Args:
            given: The metadata of whoever emits it; of a user's own event nothing of it is left out.
            inherited: What the scopes know.
        """
        metadata = self.metadata
        if self.spec is USER_EVENT:
            metadata.update(given)
            for name, value in inherited.items():
                metadata.setdefault(name, value)
            return
        for field in self.spec.fields:
            name = field.name
            if field.measurement:
                continue
            value = given.get(name)
            if value is None and field.context:
                value = inherited.get(name)
            if value is not None:
                metadata[name] = value
        for name, value in given.items():
            if name not in metadata and value is not None and name not in self.measurements:
                metadata[name] = value
