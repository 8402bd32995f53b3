"""A buffered span as the SDK's exporters know spans: for those that are not ours."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from crucible_otel.otel.limits import Limits
from crucible_otel.otel.record import Extra, Record, Shape

__all__ = ["attributes_of", "readable"]

_UNSET = Status(StatusCode.UNSET)


def attributes_of(shape: Shape, values: tuple[Any, ...], extra: Extra | None) -> dict[str, Any]:
    """Return all attributes of a record, before they are cut to the limits."""
    given = extra.attributes if extra is not None else None
    return {**shape.attributes, **shape.values(values)} if given is None else dict(given)


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
    attributes = extra.attributes if extra is not None else None
    if attributes is None:
        attributes = limits.bounded(attributes_of(shape, values, extra), limits.attributes)
    events: Any = ()
    links: Any = ()
    status = _UNSET
    if extra is not None:
        events = _bounded([Event(name, bounded, at) for name, bounded, at in extra.events], extra.dropped[0])
        links = _bounded(extra.links, extra.dropped[1])
        status = Status(*extra.status) if extra.status is not None else _UNSET
    return ReadableSpan(
        name=shape.name if extra is None or extra.name is None else extra.name,
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


def _bounded(items: list[Any], dropped: int) -> BoundedList[Any]:
    """Return items as the SDK keeps them: with the number of those that had to go."""
    kept = BoundedList[Any].from_seq(None, items)
    kept.dropped = dropped
    return kept
