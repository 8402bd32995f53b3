"""Span and trace ids that a seeded ``random`` cannot repeat."""

from __future__ import annotations

import random

from opentelemetry.sdk.trace.id_generator import IdGenerator

from crucible_otel.export.fork import in_child

__all__ = ["RandomIds"]


class RandomIds(IdGenerator):
    """Ids from a generator of our own.

    Training code seeds the global ``random``, which the SDK's default generator draws from: two runs with one seed, or
    two ranks, would then make the same ids. This one is seeded by the operating system, and anew in a forked child.
    """

    def __init__(self) -> None:
        self._reseed()
        in_child(self._reseed)

    def _reseed(self) -> None:
        self._bits = random.Random().getrandbits

    def generate_span_id(self) -> int:
        """Return 64 random bits, never all zero."""
        return self._bits(64) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        """Return 128 random bits, never all zero."""
        return self._bits(128) or self.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        """Say that the W3C ``random-trace-id`` flag may be set."""
        return True
