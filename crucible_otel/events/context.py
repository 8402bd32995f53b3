"""The current OpenTelemetry context, without the two calls on the way to where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context


def _reader() -> Callable[[], Context]:
    kept: Any = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
    read: Callable[[], Context] = kept.get if isinstance(kept, ContextVar) else otel_context.get_current
    return read


current_context: Callable[[], Context] = _reader()
"""Returns the current context, as ``opentelemetry.context.get_current`` does; for what happens very often."""
