"""What releases of OpenTelemetry do differently: the one place where the tests ask for a version.

The oldest is the floor of ``pyproject.toml``. A line goes when the floor passes it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

_SDK: Final = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])


def _since(*release: int) -> bool:
    return release <= _SDK


HTTP_RETRIES_429: Final = _since(1, 45)
"""Before, the OTLP/HTTP exporter gives up a request that the server finds one too many."""

SCHEMA_1_44_IS_LISTED: Final = _since(1, 45)
"""Before, the semantic conventions end with a schema whose names for what we use are the same."""

BATCH_OF_SPANS: Final = "spans batch" if _since(1, 45) else "span batch"
"""What the OTLP/HTTP exporter calls what it could not deliver."""

READERS_HAVE_LIMITS: Final = _since(1, 45)
"""Before, a metric reader has no cardinality limits of its own."""
