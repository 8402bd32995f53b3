"""Between the seeds' names and ours: what comes in under an alias, and what goes out under one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.semconv.aliases import SYNONYMS, VALUES_IN, VALUES_OUT
from crucible_otel.semconv.model import Alias
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.registry import ALIASES, EVENTS

Pair = tuple[dict[str, Any], dict[str, Any]]
_CONTEXT = frozenset({"workflow", "run_id", "stage", "model", "epoch", "total_steps", "total_epochs"})


def _text_keys(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {}
    return {key if type(key) is str else str(key): value for key, value in given.items()}


def inward(spec: EventSpec, alias: Alias | None, measurements: object, metadata: object) -> Pair:
    """Return measurements and metadata under our field names, each where our convention puts it.

    A value is looked for in both, and the measurement wins. Fields that neither the alias nor the event knows stay
    where they are, under their own name.
    """
    renamed = alias.fields if alias is not None else {}
    place = {field.name: field.measurement for field in spec.fields}
    out: Pair = ({}, {})
    for is_measurement, given in ((False, _text_keys(metadata)), (True, _text_keys(measurements))):
        for key, value in given.items():
            name = renamed.get(key) or (key if key in place else SYNONYMS.get(key, key))
            if key == "duration_ms" and "duration" in place and isinstance(value, (int, float)):
                name, value = "duration", round(value * 1_000_000)
            if name in VALUES_IN and isinstance(value, (str, bool)):
                value = VALUES_IN[name].get(value, value)
            if name == "result" and name not in place:
                continue
            target = out[0] if place.get(name, is_measurement) else out[1]
            if target.get(name) is None or is_measurement:
                target[name] = value
    if "success" in out[1] and "result" in place and "result" not in out[1]:
        out[1]["result"] = VALUES_IN["result"].get(out[1].pop("success"), "success")
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
