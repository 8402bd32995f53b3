"""Event names as they come in: dotted strings or tuples of parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from crucible_otel.events.sanitize import utf8

EventName: TypeAlias = "str | tuple[str, ...] | list[str]"
"""``"crucible_kitchen.training.step"`` or ``("crucible_kitchen", "training", "step")``; both are the same name."""

_MAX_LENGTH = 255


def text(value: object) -> str:
    """Return the value as text; the name of its type if it has none."""
    try:
        return value if type(value) is str else str(value)
    except Exception:
        return type(value).__name__


def dotted(name: EventName) -> str:
    """Return the dotted form of an event name; never raises.

    Args:
        name: Dotted string or sequence of parts.
    """
    if type(name) is not str:
        name = ".".join(map(text, name)) if isinstance(name, (tuple, list)) else text(name)
    return utf8(name if len(name) <= _MAX_LENGTH else name[:_MAX_LENGTH])


def dotted_all(names: EventName | Iterable[EventName] | None) -> tuple[str, ...] | None:
    """Return the dotted forms of what a handler subscribes to.

    A list holds names; a tuple of strings is one name in parts when none of its parts has a dot, and several names
    otherwise. ``None`` subscribes to everything.

    Raises:
        TypeError: Something among them is no name.
    """
    if names is None:
        return None
    if isinstance(names, str):
        return (dotted(names),)
    if isinstance(names, tuple) and names and all(isinstance(part, str) and "." not in part for part in names):
        return (dotted(names),)
    names = tuple(names)
    if not all(isinstance(name, (str, tuple, list)) for name in names):
        raise TypeError("names are strings, or sequences of parts")
    return tuple(dict.fromkeys(dotted(name) for name in names))
