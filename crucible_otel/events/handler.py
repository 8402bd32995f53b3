"""What a built-in handler is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Handle = Callable[[str, dict[str, Any], dict[str, Any], Any], object]
"""``handler(event, measurements, metadata, config)``; what it returns is ignored."""


def _nothing_to_flush(timeout_s: float) -> bool:
    return True


def _nothing_to_close() -> None:
    return None


def _nothing_dropped() -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class BuiltHandler:
    """A handler with its resources, as a factory in ``handlers/`` returns it.

    Attributes:
        id: The id it is attached under.
        events: The names it subscribes to; ``None`` for everything.
        handle: Called for each event.
        config: Passed to ``handle`` untouched.
        flush: ``flush(timeout_s)`` delivers what was accepted; False when time ran out.
        close: Ends it; called once, after the last event.
        dropped: How many events it was given and has lost, without an exception that would tell.
        names: Whether a handler of everything sees canonical or seed names.
    """

    id: str
    handle: Handle
    events: tuple[str, ...] | None = None
    config: Any = None
    flush: Callable[[float], bool] = field(default=_nothing_to_flush)
    close: Callable[[], None] = field(default=_nothing_to_close)
    dropped: Callable[[], int] = field(default=_nothing_dropped)
    names: Literal["canonical", "seed"] = "canonical"
