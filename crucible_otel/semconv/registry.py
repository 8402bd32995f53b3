"""All tables together, and how to look things up in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crucible_otel.semconv import (
    aliases,
    attributes,
    call,
    dataset,
    future,
    gpu,
    inference,
    memory,
    pool,
    sdk,
    seed,
    serialization,
    tensor,
    training,
    workflow,
)
from crucible_otel.semconv.model import Alias, Attribute, Event, Metric, Operation, SeedMetric

_FAMILIES = (workflow, training, dataset, call, inference, pool, memory, serialization, tensor, future, gpu)

OPERATIONS: Final[Mapping[str, Operation]] = {spec.name: spec for family in _FAMILIES for spec in family.OPERATIONS}
EVENTS: Final[Mapping[str, Event]] = {
    event.name: event
    for family in _FAMILIES
    for event in (
        *(part for spec in family.OPERATIONS for part in (spec.start, spec.stop, spec.exception)),
        *family.EVENTS,
    )
}
HOT: Final = (
    *(event for event in EVENTS.values() if event.hot),
    *(record for spec in OPERATIONS.values() for record in spec.hot),
)
"""What the engine keeps a buffer for: the hot events, and the records that the ends of hot operations make."""
KEPT_HOT: Final = frozenset(feed.metric.name for event in HOT for feed in event.feeds if not feed.each)
"""The metrics whose series are kept by these."""
KEPT: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        *(feed.metric for event in EVENTS.values() for feed in event.feeds),
        *training.METRICS_OF_ITS_OWN,
        *gpu.METRICS_OF_ITS_OWN,
        *sdk.METRICS,
    )
}
"""The metrics whose series the engine keeps."""
METRICS: Final[Mapping[str, Metric]] = {
    **KEPT,
    **{metric.name: metric for metric in (*gpu.METRICS, *sdk.OBSERVED)},
}
"""All metrics: also those that observable instruments report."""
SEED_METRICS: Final[Mapping[str, SeedMetric]] = {each.metric.name: each for each in seed.GPU}
"""Metrics under the names of the seeds, which are reported where that is asked for."""
ALIASES: Final[Mapping[str, Alias]] = {alias.name: alias for alias in aliases.ALIASES}


def _fields_as_attributes() -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for event in EVENTS.values():
        for field in event.fields:
            if field.attribute:
                kind = "string" if field.type == "map" else "double" if field.unit == "ns" else field.type
                found.setdefault(field.attribute, Attribute(name=field.attribute, type=kind, brief=field.brief))
    return found


ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    **_fields_as_attributes(),
    **{attribute.name: attribute for attribute in (*attributes.ATTRIBUTES, *gpu.ATTRIBUTES)},
}
