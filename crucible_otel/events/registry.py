"""The registry of events: which there are, in which family, and what they mean."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.names import EventName, dotted
from crucible_otel.semconv.aliases import ADDED
from crucible_otel.semconv.registry import ALIASES, EVENTS

_CATEGORIES: dict[str, tuple[str, ...]] = {}
for _alias in ALIASES.values():
    if _alias.name not in ADDED:
        _CATEGORIES[_alias.category] = (*_CATEGORIES.get(_alias.category, ()), _alias.name)


def events() -> tuple[str, ...]:
    """Return the twelve events of the CrucibleKitchen guide, by its names."""
    return _CATEGORIES["kitchen"]


def training_events() -> tuple[str, ...]:
    """Return the training events of the CrucibleTelemetry README, by its names."""
    return _CATEGORIES["training"]


def deployment_events() -> tuple[str, ...]:
    """Return the deployment events of the CrucibleTelemetry README, by its names."""
    return _CATEGORIES["deployment"]


def framework_events() -> tuple[str, ...]:
    """Return the framework events of the CrucibleTelemetry README, by its names."""
    return _CATEGORIES["framework"]


def standard_events() -> tuple[str, ...]:
    """Return the standard events of the CrucibleTelemetry README, by its names."""
    return (*training_events(), *deployment_events(), *framework_events())


def canonical_events() -> tuple[str, ...]:
    """Return our own names of all events."""
    return tuple(EVENTS)


def all_events() -> tuple[str, ...]:
    """Return every name the conventions know, ours and the seeds'."""
    return (*EVENTS, *ALIASES)


def events_by_category() -> dict[str, tuple[str, ...]]:
    """Return category -> the seeds' names in it; every event that a seed defines is in one."""
    return dict(_CATEGORIES)


def event_info(name: EventName) -> dict[str, Any] | None:
    """Return what is known of an event: category, description, measurements with units, metadata; None if unknown."""
    called = dotted(name)
    alias = ALIASES.get(called)
    spec = EVENTS.get(alias.targets[0] if alias is not None else called)
    if spec is None:
        return None
    if alias is not None:
        units = {field.name: field.unit for field in spec.fields}
        return {
            "category": alias.category,
            "description": alias.brief,
            "canonical": alias.targets[0],
            "measurements": {name: units.get(alias.fields[name], "") for name in alias.measurements},
            "metadata": alias.metadata,
        }
    return {
        "category": spec.name.split(".")[1],
        "description": spec.brief,
        "canonical": spec.name,
        "measurements": {field.name: field.unit for field in spec.fields if field.measurement},
        "metadata": tuple(field.name for field in spec.fields if not field.measurement),
    }
