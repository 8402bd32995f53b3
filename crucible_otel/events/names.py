"""Event names as they come in: dotted strings or tuples of parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

EventName: TypeAlias = "str | tuple[str, ...] | list[str]"
"""``"crucible_kitchen.training.step"`` or ``("crucible_kitchen", "training", "step")``; both are the same name."""

_MAX_LENGTH = 255


def dotted(name: EventName) -> str:
    """Return the dotted form of an event name; never raises.

    Args:
        name: Dotted string or sequence of parts.
    """
    if type(name) is str:
        return name if len(name) <= _MAX_LENGTH else name[:_MAX_LENGTH]
    try:
        if isinstance(name, (tuple, list)):
            return ".".join(str(part) for part in name)[:_MAX_LENGTH]
        return str(name)[:_MAX_LENGTH]
    except Exception:
        return type(name).__name__


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
