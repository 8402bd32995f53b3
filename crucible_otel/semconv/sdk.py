"""What the SDK says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crucible_otel.semconv.model import Event, Metric, MetricKind
from crucible_otel.semconv.names import COMPONENT_NAME, COMPONENT_TYPE, ERROR_TYPE

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

_NOUNS: Final = {
    "span": ("spans", "{span}"),
    "log": ("log records", "{log_record}"),
    "metric_data_point": ("metric data points", "{data_point}"),
}
_COMPONENT: Final = (COMPONENT_TYPE, COMPONENT_NAME)
_OF_PROCESSOR: Final[tuple[tuple[str, MetricKind, str], ...]] = (
    ("processed", "counter", "The number of {} that were handed to the exporter, or dropped before."),
    ("queue.size", "updowncounter", "The number of {} that wait in the queue."),
    ("queue.capacity", "updowncounter", "How many {} may wait, where a number bounds the queue."),
)
_OF_EXPORTER: Final[tuple[tuple[str, MetricKind, str], ...]] = (
    ("exported", "counter", "The number of {} whose export has finished, successful or failed."),
    ("inflight", "updowncounter", "The number of {} that are being exported."),
)


def _observed(part: str, of: str, rows: tuple[tuple[str, MetricKind, str], ...]) -> Mapping[str, Metric]:
    """Return OpenTelemetry's metrics of a part of the SDK, by the last words of their names, as one word."""
    nouns, unit = _NOUNS[of]
    return {
        name.replace(".", "_"): Metric(
            name=f"otel.sdk.{part}.{of}.{name}",
            kind=kind,
            unit=unit,
            brief=brief.format(nouns),
            attributes=(*_COMPONENT, ERROR_TYPE) if kind == "counter" else _COMPONENT,
        )
        for name, kind, brief in rows
    }


PROCESSORS: Final[Mapping[str, Mapping[str, Metric]]] = {
    "traces": _observed("processor", "span", _OF_PROCESSOR),
    "logs": _observed("processor", "log", _OF_PROCESSOR),
}
"""Of batching processors, by signal and last words of the name."""

EXPORTERS: Final[Mapping[str, Mapping[str, Metric]]] = {
    "traces": _observed("exporter", "span", _OF_EXPORTER),
    "logs": _observed("exporter", "log", _OF_EXPORTER),
    "metrics": _observed("exporter", "metric_data_point", _OF_EXPORTER),
}
"""Of exporters, likewise."""

QUEUE_USAGE: Final = Metric(
    name="crucible.sdk.queue.memory.usage",
    kind="updowncounter",
    unit="By",
    brief="Estimated memory of the items that wait in the queue or are being exported.",
    attributes=_COMPONENT,
)
QUEUE_LIMIT: Final = Metric(
    name="crucible.sdk.queue.memory.limit",
    kind="updowncounter",
    unit="By",
    brief="How much of it there may be; what comes then is dropped.",
    attributes=_COMPONENT,
)

METRICS: Final = (DROPPED, HANDLER_FAILURES, REFUSED, OVERFLOWS, FAULTS, EVICTIONS)
"""Those whose series the engine keeps."""

OBSERVED: Final = (
    *(metric for part in (PROCESSORS, EXPORTERS) for of in part.values() for metric in of.values()),
    QUEUE_USAGE,
    QUEUE_LIMIT,
)
"""Those that are read off the queues and deliveries when they are collected. :data:`DROPPED` sums up what they say of
losses, with those of other ways: one name for an alert."""

ANCHOR: Final = "crucible.sdk.anchor"
"""Instrument that keeps the SDK collecting; never exported."""

USER_EVENT: Final = Event(name="", brief="An event that the conventions do not know.")
