"""A buffered span as the SDK's exporters know spans: for those that are not ours."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Extra, Record, Shape

__all__ = ["attributes_of", "readable"]

_UNSET = Status(StatusCode.UNSET)


def attributes_of(shape: Shape, values: tuple[Any, ...], extra: Extra | None) -> dict[str, Any]:
    """Return all attributes of a record: what was set on the span, then what its end says."""
    given = extra.attributes if extra is not None and extra.attributes is not None else None
    if given is None:
        return {**shape.attributes, **shape.values(values)}
    return {**shape.attributes, **given, **shape.values(values)}


def readable(record: Record, resource: Resource, scope: InstrumentationScope, limits: Limits) -> ReadableSpan:
    """Return a record as a span of the SDK.

    Args:
        record: The span.
        resource: Of this process.
        scope: Our instrumentation scope.
        limits: How many attributes a span may have, and how long they may be.
    """
    shape, trace_id, span_id, parent_id, flags, start_ns, end_ns, values, extra = record
    state = extra.trace_state if extra is not None else None
    context = SpanContext(trace_id, span_id, False, TraceFlags(flags), state)
    parent = extra.parent if extra is not None else None
    if parent is None and parent_id:
        parent = SpanContext(trace_id, parent_id, False, TraceFlags(flags), state)
    attributes = limits.bounded(attributes_of(shape, values, extra), limits.attributes)
    if extra is not None and extra.attributes is not None:
        attributes.dropped += getattr(extra.attributes, "dropped", 0)
    events: list[Event] = []
    links: Any = ()
    status = _UNSET
    if extra is not None:
        events = [Event(name, bounded, at) for name, bounded, at in extra.events]
        links = list(extra.links)
        status = Status(*extra.status) if extra.status is not None else _UNSET
    return ReadableSpan(
        name=(extra.name if extra is not None else "") or shape.name,
        context=context,
        parent=parent,
        resource=resource,
        attributes=attributes,
        events=events,
        links=links,
        kind=shape.kind,
        status=status,
        start_time=start_ns,
        end_time=end_ns,
        instrumentation_scope=scope,
    )
