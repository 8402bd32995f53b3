"""The current OpenTelemetry context, without the calls on the way to where it is kept; for what is very frequent."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context


def _ways() -> tuple[Callable[[], Context], Callable[[Context], object]]:
    kept: Any = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
    return (kept.get, kept.set) if isinstance(kept, ContextVar) else (otel_context.get_current, otel_context.attach)


current_context, make_current = _ways()
"""The first returns the current context, as ``opentelemetry.context.get_current`` does, and the second makes one
current, as ``attach`` does."""
