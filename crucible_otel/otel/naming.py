"""Names of spans, from the templates of the conventions."""

from __future__ import annotations

import functools
import re

from crucible_otel.events.event import Event
from crucible_otel.otel.labels import label

_PLACE = re.compile(r"\{(\w+)\}")


def named(template: str, event: Event) -> str:
    """Return a template with its fields filled in; one that the event lacks goes with what stands before it."""
    if "{" not in template:
        return template
    head, places = _pieces(template)
    name = ""
    for between, field in places:
        value = label(event.value(field))
        if value:
            name += f"{between}{value}" if name else value
    return f"{head}{name}".strip()


@functools.cache
def _pieces(template: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return how a name begins, and its fields with what stands before each but the first."""
    head, *rest = _PLACE.split(template)
    return head, tuple(zip(("", *rest[1::2]), rest[::2], strict=False))
