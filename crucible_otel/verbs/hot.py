"""How the verbs of high-frequency events record: by a handle, or as a whole event when somebody looks at it."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.runtime import runtime
from crucible_otel.otel.current import engine_of
from crucible_otel.semconv.model import Event


def record(spec: Event, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Record a high-frequency event.

    Handlers that subscribe to it, and its log event when one is due, get all that is told; otherwise only the values
    of its metrics travel.

    Args:
        spec: The event.
        measurements: Numbers by field name, durations in nanoseconds; None for what is not known.
        metadata: Everything else by field name, likewise.
    """
    current = runtime()
    if not current.enabled:
        return
    if current.bus.wants(spec.name):
        current.execute(spec.name, _known(measurements), _known(metadata))
    elif current.projection is not None:
        engine = engine_of(current)
        family = engine.families[spec.name]
        labels = tuple([read(metadata.get(name)) for name, read in family.labels])
        handle = engine.bound(spec, labels, silent=True)
        if spec.logged and engine.clock.now() >= handle.due_s:
            current.execute(spec.name, _known(measurements), _known(metadata))
            return
        values = dict(measurements) if family.timed else measurements
        for name in family.timed:
            if values.get(name) is not None:
                values[name] *= 1e-9
        handle.record(**values)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
