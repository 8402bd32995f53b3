"""The engine of the current runtime; one without a way out while nothing is configured."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.runtime import Runtime
from crucible_otel.events.scope import Scope, current
from crucible_otel.otel.engine import Engine
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Severity


def engine_of(runtime: Runtime) -> Engine:
    """Return the engine of a runtime, making one that only feeds handlers where there is none."""
    if isinstance(runtime.engine, Engine):
        return runtime.engine
    engine = Engine(clock=runtime.clock, listened=runtime.bus.wants)

    def report(
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
        if tell:
            scope = scope if scope is not None else current()
            runtime.bus.deliver(runtime.event(spec, measurements, metadata, scope, severity=severity, alias=alias))

    engine.report = report
    runtime.engine = engine
    runtime.bus.on_change(engine.rearm)
    return engine
