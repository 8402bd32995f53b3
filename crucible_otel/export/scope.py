"""The instrumentation scopes under which our metrics leave."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.semconv.names import SCHEMA_URL, SCOPE_NAME

ANCHOR_SCOPE: Final = InstrumentationScope(f"{SCOPE_NAME}.anchor")
"""Scope of the anchor alone: whatever a user's View makes of the anchor stays in it, and is stripped with it."""


@cache
def own_scope() -> InstrumentationScope:
    """Return the scope of our metrics: name, installed version, schema URL."""
    try:
        version = metadata.version("crucible-otel")
    except metadata.PackageNotFoundError:
        version = "0"
    return InstrumentationScope(SCOPE_NAME, version, SCHEMA_URL)
