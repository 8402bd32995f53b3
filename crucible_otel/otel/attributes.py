"""From the fields of an event to attributes of spans and log records."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.event import Event
from crucible_otel.events.sanitize import Refusals, attribute, utf8
from crucible_otel.otel.values import is_kept, number
from crucible_otel.semconv.names import SOURCE
from crucible_otel.semconv.registry import ALIASES

_KEY_LENGTH = 255


def of_event(event: Event, refusals: Refusals, *, only_new_to: Any = None) -> dict[str, Any]:
    """Return the attributes of an event.

    Fields go under the names of the conventions, durations in seconds; what the user added goes under the user's
    name. A map whose brief says that each entry becomes an attribute is spread, any other becomes JSON text. An event
    that came in by a seed's name says whose it was.

    Args:
        event: The event.
        refusals: Counts what had to be converted or dropped.
        only_new_to: A start event whose attributes are known already.
    """
    out: dict[str, Any] = {}
    fields = {field.name: field for field in event.spec.fields}
    known = only_new_to.fields if only_new_to is not None else {}
    for values in (event.metadata, event.measurements):
        for name, value in values.items():
            if value is None or known.get(name) is value:
                continue
            field = fields.get(name)
            if field is None:
                _put(out, name, value, refusals)
            elif not field.attribute:
                continue
            elif field.unit == "ns":
                out[field.attribute] = value * 1e-9
            elif field.type == "map" and field.name == "tags" and hasattr(value, "items"):
                for key, item in value.items():
                    _put(out, f"{field.attribute}.{key}", item, refusals)
            elif field.type in ("int", "double") and type(value) not in (int, float):
                read = number(value) if field.type == "double" or is_kept(value) else value
                _put(out, field.attribute, value if read is None else read, refusals)
            else:
                _put(out, field.attribute, value, refusals)
    if event.alias and only_new_to is None:
        out[SOURCE] = ALIASES[event.alias].family
    return out


def _put(out: dict[str, Any], key: str, value: Any, refusals: Refusals) -> None:
    converted = attribute(value, refusals=refusals)
    if converted is not None:
        out[utf8(key[:_KEY_LENGTH]) or "_"] = converted
