"""The documents' own metrics: other names for what a snapshot has, never a second reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Observation

from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.telling import sampled_fields
from crucible_otel.semconv import gpu, seed
from crucible_otel.semconv.model import SeedMetric

__all__ = ["renamed", "without_renamed"]

_BY_OURS: Final[Mapping[str, tuple[SeedMetric, ...]]] = {
    metric.name: tuple(each for each in seed.GPU if each.of is metric) for metric in gpu.METRICS
}


def renamed(snapshot: GpuSnapshot) -> dict[str, list[Observation]]:
    """Return seed name -> what it reports, of whole MiB, percent, degrees and watts; nothing of a lost device."""
    found: dict[str, list[Observation]] = {}
    for state in snapshot.devices:
        fields = {} if state.lost else sampled_fields(state)
        attributes = {seed.DEVICE: state.name, gpu.ID: state.device.uuid}
        for each in seed.GPU:
            value = fields.get(each.field)
            if value is not None and (state.owned or each.own):
                found.setdefault(each.metric.name, []).append(Observation(value, attributes))
    return found


def without_renamed(found: Mapping[str, list[Observation]]) -> dict[str, list[Observation]]:
    """Return what is left of our metrics when the series that have a seed name are reported under that alone."""
    return {
        name: [one for one in points if not any(_is(one, each) for each in _BY_OURS.get(name, ()))]
        for name, points in found.items()
    }


def _is(observation: Observation, of: SeedMetric) -> bool:
    attributes = observation.attributes or {}
    return all(attributes.get(name) == value for name, value in of.where.items())
