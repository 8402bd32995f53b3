"""A process in which nothing has been configured yet, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from crucible_otel._setup import Telemetry
from crucible_otel.events.runtime import Runtime, install, runtime

__all__ = ["fresh"]


@contextmanager
def fresh(timeout_s: float = 5.0) -> Iterator[None]:
    """Run a block as if nothing had been configured, and undo what it configures.

    Inside there are no handlers and nothing is open. At the end what ``configure()`` returned is shut down, handlers
    are detached, and the configuration and the context from before are back: no test leaks into the next one. The
    OpenTelemetry API lets nobody take a provider back, so its own globals keep the one that has ended until the next
    ``configure()``.

    Args:
        timeout_s: How long the shutdown may take.
    """
    context = otel_context.get_current()
    before = install(Runtime())
    otel_context.attach(Context())
    try:
        yield
    finally:
        try:
            left = runtime()
            if isinstance(left.owner, Telemetry):
                left.owner.shutdown(timeout_s)
            for handler_id in left.bus.handlers():
                left.bus.detach(handler_id)
        finally:
            install(before)
            otel_context.attach(context)
