"""How an event travels: clock, ids, event, bus, context, sanitising; as ``cx.events``, which events there are."""

from __future__ import annotations

from crucible_otel.events.registry import all_events as all_events
from crucible_otel.events.registry import canonical_events as canonical_events
from crucible_otel.events.registry import deployment_events as deployment_events
from crucible_otel.events.registry import event_info as event_info
from crucible_otel.events.registry import events as events
from crucible_otel.events.registry import events_by_category as events_by_category
from crucible_otel.events.registry import framework_events as framework_events
from crucible_otel.events.registry import standard_events as standard_events
from crucible_otel.events.registry import training_events as training_events

__all__ = [
    "all_events",
    "canonical_events",
    "deployment_events",
    "event_info",
    "events",
    "events_by_category",
    "framework_events",
    "standard_events",
    "training_events",
]
