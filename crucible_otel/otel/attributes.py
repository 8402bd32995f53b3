"""From the fields of an event to attributes of spans and log records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.events.event import Event
from crucible_otel.events.sanitize import LONGEST_TEXT, Refusals, attribute, utf8
from crucible_otel.otel.values import LARGE, is_kept, number
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Field
from crucible_otel.semconv.names import SOURCE
from crucible_otel.semconv.registry import ALIASES, EVENTS

_KEY_LENGTH = 255
_NUMBERS = ("int", "double")


class _Places:
    """Where the fields of an event go.

    Attributes:
        fields: The fields by name.
        texts: The attribute of each field whose texts stay as they are.
        numbers: The attribute of each field whose numbers do.
    """

    __slots__ = ("fields", "numbers", "texts")

    def __init__(self, spec: EventSpec) -> None:
        self.fields = {field.name: field for field in spec.fields}
        self.numbers = {field.name: field.attribute for field in spec.fields if field.attribute and field.unit != "ns"}
        self.texts = {name: key for name, key in self.numbers.items() if self.fields[name].type not in _NUMBERS}


_PLACES = {name: _Places(spec) for name, spec in EVENTS.items()}


def of_event(event: Event, refusals: Refusals) -> dict[str, Any]:
    """Return the attributes of an event.

    Fields go under the names of the conventions, durations in seconds; what the user added goes under the user's
    name, unless that is an attribute which the event has already. A map whose brief says that each entry becomes an
    attribute is spread, any other becomes JSON text. An event that came in by a seed's name says whose it was.

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
    places = _PLACES.get(event.spec.name) or _Places(event.spec)
    fields, texts, numbers = places.fields, places.texts, places.numbers
    added: list[tuple[str, Any, bool]] = []
    for values in (event.metadata, event.measurements):
        for name, value in values.items():
            kind = type(value)
            key: str | None = None
            if kind is str:
                if value.isascii() and len(value) <= LONGEST_TEXT:
                    key = texts.get(name)
            elif kind is float or (kind is int and -LARGE < value < LARGE):
                key = numbers.get(name)
            elif value is None:
                continue
            told = started.get(name) is value
            if key is not None:  # most are: as they are, without a call
                out[key] = value
                if not told and out is not new:
                    new[key] = value
            elif (field := fields.get(name)) is None:
                added.append((name, value, told))
            else:
                _take(out, new, told, name, value, field, refusals)
    for name, value, told in added:
        _take(out, new, told, name, value, None, refusals)
    if event.alias:
        out[SOURCE] = ALIASES[event.alias].family
    return out, new


def _take(
    out: dict[str, Any],
    new: dict[str, Any],
    told: bool,
    name: str,
    value: Any,
    field: Field | None,
    refusals: Refusals,
) -> None:
    """Convert a value, and put it among all attributes and, if it was not told before, among the new ones."""
    found: dict[str, Any] = {}
    _put(found, name, value, field, None if told else refusals)
    if field is None and found.keys() & out.keys():
        refusals.dropped += not told
        return
    out.update(found)
    if not told:
        new.update(found)


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
    converted = attribute(value, refusals=refusals, map_expected=field is not None and field.type == "map")
    if converted is not None:
        out[key] = converted
