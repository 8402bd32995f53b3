"""Memory that the program says it allocates and releases, such as that of zero-copy tensors."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.fields import CONTEXT, DEVICE
from crucible_otel.semconv.model import Event, Feed, Field, Metric, MetricKind

_TYPE = "crucible.memory.type"


def _metric(name: str, kind: MetricKind, brief: str) -> Metric:
    return Metric(name=name, kind=kind, unit="By", brief=brief, attributes=(_TYPE, DEVICE.attribute))


ALLOCATED: Final = _metric("crucible.memory.allocated", "counter", "Bytes that were allocated.")
RELEASED: Final = _metric("crucible.memory.released", "counter", "Bytes that were released.")
USAGE: Final = _metric("crucible.memory.usage", "updowncounter", "Bytes that were allocated and not released yet.")

_FIELDS = (
    Field(name="bytes", unit="By", brief="Size.", measurement=True, type="int"),
    Field(name="type", attribute=_TYPE, brief="Kind of memory: cpu or gpu."),
    DEVICE,
    *CONTEXT,
)

ALLOCATE_EVENT: Final = Event(
    name="crucible.memory.allocate",
    brief="Memory allocated.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=_FIELDS,
    feeds=(Feed(metric=ALLOCATED, how="sum", field="bytes"), Feed(metric=USAGE, how="add", field="bytes")),
)
RELEASE_EVENT: Final = Event(
    name="crucible.memory.release",
    brief="Memory released.",
    severity="DEBUG",
    hot=True,
    logged=False,
    fields=_FIELDS,
    feeds=(Feed(metric=RELEASED, how="sum", field="bytes"), Feed(metric=USAGE, how="take", field="bytes")),
)

OPERATIONS: Final = ()
EVENTS: Final = (ALLOCATE_EVENT, RELEASE_EVENT)
