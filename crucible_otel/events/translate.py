"""Between the seeds' names and ours: what comes in under an alias, and what goes out under one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crucible_otel.events.outcome import result_named
from crucible_otel.semconv.aliases import SYNONYMS, VALUES_OUT
from crucible_otel.semconv.model import Alias
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.registry import ALIASES, EVENTS

Pair = tuple[dict[str, Any], dict[str, Any]]
_CONTEXT = frozenset({"workflow", "run_id", "stage", "model", "epoch", "total_steps", "total_epochs"})
LONGEST_NS: Final = 10**18
"""Durations are below this, some thirty years: a longer one is a mistake, and may begin before any time there is."""


def text_keys(given: object) -> dict[str, Any]:
    """Return a copy of a map with its keys as text; of anything else, an empty one. Never raises."""
    if not isinstance(given, Mapping):
        return {}
    try:
        return {key if type(key) is str else str(key): value for key, value in given.items()}
    except Exception:
        return {}


def nanoseconds(value: Any, scale: float = 1.0) -> int | None:
    """Return a duration as whole nanoseconds; None for what is none. Never raises.

    Args:
        value: The duration.
        scale: Nanoseconds in its unit.
    """
    try:
        if isinstance(value, bool) or not 0 <= value < LONGEST_NS / scale:
            return None
        return value if type(value) is int and scale == 1.0 else round(float(value) * scale)
    except Exception:
        return None


def inward(spec: EventSpec, alias: Alias | None, measurements: object, metadata: object) -> Pair:
    """Return measurements and metadata under our field names, each where our convention puts it.

    A value is looked for in both, and the measurement wins. Fields that neither the alias nor the event knows stay
    where they are, under their own name. Durations that are none are left out.
    """
    renamed = alias.fields if alias is not None else {}
    fields = {field.name: field for field in spec.fields}
    out: Pair = ({}, {})
    for is_measurement, given in ((False, text_keys(metadata)), (True, text_keys(measurements))):
        for key, value in given.items():
            name = renamed.get(key) or (key if key in fields else SYNONYMS.get(key, key))
            if key == "duration_ms" and "duration" in fields:
                name, value = "duration", nanoseconds(value, 1e6)
            field = fields.get(name)
            if field is not None and field.unit == "ns":
                value = nanoseconds(value)
                if value is None:
                    continue
            if name == "result" and field is not None:
                value = result_named(value) or value
            target = out[0 if (field.measurement if field is not None else is_measurement) else 1]
            if target.get(name) is None or is_measurement:
                target[name] = value
    if "success" in out[1] and "result" in fields and "result" not in out[1]:
        out[1]["result"] = result_named(out[1].pop("success"))
    return out


def outward(alias: Alias, measurements: Mapping[str, Any], metadata: Mapping[str, Any]) -> Pair:
    """Return what a subscriber of the alias gets: the seed's fields, plus what the user added himself."""
    out: Pair = ({}, {})
    known = set(alias.fields.values())
    for seed, ours in alias.fields.items():
        value = measurements.get(ours)
        if value is None:
            value = metadata.get(ours)
        if value is None:
            continue
        if seed in VALUES_OUT and isinstance(value, str):
            value = VALUES_OUT[seed].get(value, value)
        out[0 if seed in alias.measurements else 1][seed] = value
    canonical = {field.name for target in alias.targets for field in EVENTS[target].fields}
    for given, target in ((measurements, out[0]), (metadata, out[1])):
        for key, value in given.items():
            if key not in known and key not in canonical and key not in _CONTEXT:
                target[key] = value
    return out


_SEED_OF: dict[str, Alias] = {}
for _alias in reversed(tuple(ALIASES.values())):
    for _target in _alias.targets:
        _SEED_OF[_target] = _alias


def seed_of(name: str) -> Alias | None:
    """Return the seed's name of a canonical event; CrucibleKitchen's where several seeds have one."""
    return _SEED_OF.get(name)
