"""A sampler as a user may write one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult


class Asked(Sampler):
    """Notes what it is asked of, and keeps what it is told to.

    Args:
        keeps: Called with the name of a span, after that was noted.

    Attributes:
        names: Of the spans it was asked of.
    """

    def __init__(self, keeps: Callable[[str], bool]) -> None:
        self.names: list[str] = []
        self._keeps = keeps

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *given: Any, **more: Any) -> SamplingResult:
        """Ask what it was made with."""
        self.names.append(name)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if self._keeps(name) else Decision.DROP)

    def get_description(self) -> str:
        """Return its name."""
        return "Asked"
