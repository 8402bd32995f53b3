"""The span that no operation makes: the root of a trace that continues another one which is full."""

from __future__ import annotations

from typing import Final

SEGMENT_SPAN: Final = "trace_segment"
"""Its name; it is linked to the span that its children would have been children of."""
