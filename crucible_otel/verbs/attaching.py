"""Attaching handlers of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from crucible_otel.events.bus import Filter, custom
from crucible_otel.events.handler import Handle
from crucible_otel.events.names import EventName
from crucible_otel.events.runtime import runtime


def attach_handler(
    handler_id: str,
    events: Iterable[EventName] | EventName | None,
    handler: Handle,
    config: Any = None,
    *,
    filter: Filter | None = None,
    every: int = 1,
    replace: bool = False,
    names: Literal["canonical", "seed"] = "canonical",
) -> str:
    """Attach a handler: ``handler(event, measurements, metadata, config)``.

    It is called on the thread of the event, for the events it subscribes to, under the first of its names that
    matches. What it raises is counted and logged at a bounded rate; it stays attached. Events from before are not
    replayed. An event that it emits itself is not given to it again.

    Args:
        handler_id: Its id, unique in the process.
        events: Names, dotted or in parts: ours, the seeds', or your own; None for everything.
        handler: Called for each event; what it returns is ignored.
        config: Passed to it untouched.
        filter: ``filter(event, measurements, metadata)``; the handler gets the event only when it returns true.
        every: Of the point events of a name only the first, and then every Nth; counters stay exact.
        replace: Whether an attached handler of this id gives way.
        names: Whether a handler of everything sees canonical names or the seeds'.

    Returns:
        The id.

    Raises:
        DuplicateHandlerError: The id is taken; the handler that has it stays.
        ConfigurationError: An argument that cannot be used.
    """
    return runtime().bus.attach(
        custom(handler_id, events, handler, config, names), filter=filter, every=every, replace=replace
    )


def detach(handler_id: str) -> bool:
    """Detach a handler: deliver what it accepted, close it. False, and no change, if there is none of this id."""
    return runtime().bus.detach(handler_id)


def handlers(prefix: str = "") -> dict[str, tuple[str, ...] | None]:
    """Return what is attached: id -> the names it subscribes to, None for everything."""
    return runtime().bus.handlers(prefix)
