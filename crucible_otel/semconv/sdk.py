"""What the SDK says about itself."""

from __future__ import annotations

from typing import Final

from crucible_otel.semconv.model import Event, Metric

DROPPED: Final = Metric(
    name="crucible.sdk.dropped",
    kind="counter",
    unit="{item}",
    brief="Items that were accepted and could not be delivered.",
    attributes=("crucible.sdk.signal", "crucible.sdk.drop.reason"),
)
HANDLER_FAILURES: Final = Metric(
    name="crucible.sdk.handler.failures",
    kind="counter",
    unit="{failure}",
    brief="Exceptions raised by event handlers and their filters.",
    attributes=("crucible.sdk.handler.id",),
)
REFUSED: Final = Metric(
    name="crucible.sdk.refused_attributes",
    kind="counter",
    unit="{attribute}",
    brief="Attribute values that were converted to another type, or dropped because they have no representation.",
    attributes=("crucible.sdk.refusal.reason",),
)
OVERFLOWS: Final = Metric(
    name="crucible.sdk.series.overflows",
    kind="counter",
    unit="{series}",
    brief="Attribute sets beyond the cardinality limit; their values are in the overflow series.",
    attributes=("crucible.sdk.metric.name",),
)
FAULTS: Final = Metric(
    name="crucible.sdk.faults",
    kind="counter",
    unit="{fault}",
    brief="Errors inside the SDK that were kept away from the program.",
    attributes=("crucible.sdk.component",),
)
EVICTIONS: Final = Metric(
    name="crucible.sdk.operation.evictions",
    kind="counter",
    unit="{operation}",
    brief="Operations that were ended as incomplete, because their ends did not come and too many were open.",
)

METRICS: Final = (DROPPED, HANDLER_FAILURES, REFUSED, OVERFLOWS, FAULTS, EVICTIONS)

ANCHOR: Final = "crucible.sdk.anchor"
"""Instrument that keeps the SDK collecting; never exported."""

USER_EVENT: Final = Event(name="", brief="An event that the conventions do not know.")
