"""From the fields of an event to attributes of spans and log records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.events.event import Event
from crucible_otel.events.sanitize import Refusals, attribute, utf8
from crucible_otel.otel.values import is_kept, number
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Field
from crucible_otel.semconv.names import SOURCE
from crucible_otel.semconv.registry import ALIASES, EVENTS

_KEY_LENGTH = 255
_NUMBERS = ("int", "double")


def _by_name(spec: EventSpec) -> dict[str, Field]:
    return {field.name: field for field in spec.fields}


_FIELDS = {name: _by_name(spec) for name, spec in EVENTS.items()}


def of_event(event: Event, refusals: Refusals) -> dict[str, Any]:
    """Return the attributes of an event.

    Fields go under the names of the conventions, durations in seconds; what the user added goes under the user's
    name. A map whose brief says that each entry becomes an attribute is spread, any other becomes JSON text. An event
    that came in by a seed's name says whose it was.

    Args:
        event: The event.
        refusals: Counts what had to be converted or dropped.
    """
    return of_end(event, {}, refusals)[0]


def of_end(event: Event, started: Mapping[str, Any], refusals: Refusals) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of the end of an operation: all of them, and those that its start has not told.

    Args:
        event: The event.
        started: What the start told, by field name.
        refusals: Counts what had to be converted or dropped and was not when it started.
    """
    new: dict[str, Any] = {}
    out: dict[str, Any] = {} if started else new
    fields = _FIELDS.get(event.spec.name)
    if fields is None:
        fields = _by_name(event.spec)
    for values in (event.metadata, event.measurements):
        for name, value in values.items():
            if value is None:
                continue
            if not started:
                _put(out, name, value, fields.get(name), refusals)
            elif started.get(name) is value:
                _put(out, name, value, fields.get(name), None)
            else:
                found: dict[str, Any] = {}
                _put(found, name, value, fields.get(name), refusals)
                out.update(found)
                new.update(found)
    if event.alias:
        out[SOURCE] = ALIASES[event.alias].family
    return out, new


def _put(out: dict[str, Any], name: str, value: Any, field: Field | None, refusals: Refusals | None) -> None:
    """Put the attributes that a value becomes where they belong."""
    if field is None:
        key = utf8(name[:_KEY_LENGTH]) or "_"
    elif not field.attribute:
        return
    else:
        key = field.attribute
        if field.unit == "ns":
            out[key] = value * 1e-9
            return
        if field.type in _NUMBERS:
            if type(value) not in (int, float):
                read = number(value) if field.type == "double" or is_kept(value) else value
                value = value if read is None else read
        elif field.type == "map" and field.name == "tags" and hasattr(value, "items"):
            for tag, item in value.items():
                _put(out, f"{key}.{tag}", item, None, refusals)
            return
    converted = attribute(value, refusals=refusals)
    if converted is not None:
        out[key] = converted
