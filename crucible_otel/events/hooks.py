"""Scope hooks: who wants to know when an operation begins and ends without being imported by whoever opens it.

A hook adds to what the end of an operation says, as the energy of a stage; an event that is told afterwards could not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crucible_otel.events.event import Event
from crucible_otel.events.scope import Scope

__all__ = ["Closing", "ScopeHook", "call_closing", "call_opened"]

Closing = Callable[[Event], object]
"""Called with the end of the scope before anybody else sees it; may add to its measurements and metadata."""
ScopeHook = Callable[[Scope], Closing | None]
"""Called with every scope that begins, on the caller's thread: it must not wait for anything."""
Fault = Callable[[str, BaseException], object]


def call_opened(hooks: Iterable[ScopeHook], scope: Scope, fault: Fault) -> tuple[Closing, ...]:
    """Call the hooks, and return what is to be called at the scope's end. An error of a hook is a fault."""
    found: list[Closing] = []
    for hook in hooks:
        try:
            closing = hook(scope)
        except Exception as error:
            fault("hook", error)
            continue
        if closing is not None:
            found.append(closing)
    return tuple(found)


def call_closing(closings: Iterable[Closing], event: Event, fault: Fault) -> None:
    """Let the hooks add to the end of their scope. An error of one is a fault."""
    for closing in closings:
        try:
            closing(event)
        except Exception as error:
            fault("hook", error)
