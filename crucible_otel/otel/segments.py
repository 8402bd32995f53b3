"""Traces that stay readable: beyond a number of hot spans the next ones get a trace of their own.

A backend shows a trace of some thousand spans, and Tempo discards what exceeds its limit without saying so. The span
that would be one too many starts a segment instead: a trace with a root span that is linked to the owner, the span it
would have been a child of; it and what follows under the same owner are children of that root.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

from opentelemetry.trace import SpanContext

_TRACES = 4096
"""Traces that are counted, and owners with a segment; of more those with the fewest spans are forgotten."""


class Segment:
    """A trace that continues another.

    Attributes:
        trace_id: Its trace.
        span_id: The id of its root span.
        number: 2 for the first that continues an owner's trace, and so on.
        owner: What it is linked to.
        start_ns: When it started, in nanoseconds since the epoch.
        taken: Counts the spans in it, its root included.
    """

    __slots__ = ("number", "owner", "span_id", "start_ns", "taken", "trace_id")

    def __init__(self, trace_id: int, span_id: int, number: int, owner: SpanContext, start_ns: int) -> None:
        self.trace_id, self.span_id, self.number, self.owner = trace_id, span_id, number, owner
        self.start_ns = start_ns
        self.taken = count(2)


class Segments:
    """How many hot spans each trace has, and where the surplus goes.

    Args:
        most: Hot spans that a trace may have.
        new_ids: Returns a trace id and a span id.
        ended: Called with a segment that takes no more spans.
    """

    def __init__(self, most: int, new_ids: Callable[[], tuple[int, int]], ended: Callable[[Segment], None]) -> None:
        self._most, self._new_ids, self._ended = most, new_ids, ended
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        self._lock = threading.RLock()  # reentrant: a signal handler may end a call in the middle of the slow part
        self._taken: dict[int, count[int]] = {}
        self._of_owner: dict[tuple[int, int], Segment] = {}

    def place(self, trace_id: int, parent_id: int, owner: Callable[[], SpanContext], at_ns: int) -> Segment | None:
        """Count a span; return the segment it belongs to, None while it may stay in its trace.

        Args:
            trace_id: Its trace.
            parent_id: The span id of its parent.
            owner: Returns the parent's context.
            at_ns: When the span starts, in nanoseconds since the epoch.
        """
        taken = self._taken.get(trace_id)
        if taken is None:
            taken = self._counter(trace_id)
        if next(taken) <= self._most:
            return None
        segment = self._of_owner.get((trace_id, parent_id))
        if segment is not None and next(segment.taken) <= self._most:
            return segment
        return self._next((trace_id, parent_id), owner, at_ns)

    def close(self) -> None:
        """End all segments; what comes later starts new ones."""
        with self._lock:
            segments, self._of_owner = self._of_owner, {}
        for segment in segments.values():
            self._ended(segment)

    def _counter(self, trace_id: int) -> count[int]:
        with self._lock:
            if len(self._taken) >= _TRACES:
                for old in sorted(self._taken, key=lambda known: _reached(self._taken[known]))[: _TRACES // 2]:
                    del self._taken[old]
            return self._taken.setdefault(trace_id, count(1))

    def _next(self, key: tuple[int, int], owner: Callable[[], SpanContext], at_ns: int) -> Segment:
        full = None
        with self._lock:
            present = self._of_owner.get(key)
            if present is not None and next(present.taken) <= self._most:  # another thread has made it meanwhile
                return present
            full = present
            if full is None and len(self._of_owner) >= _TRACES:
                full = self._of_owner.pop(next(iter(self._of_owner)))
            made = Segment(*self._new_ids(), present.number + 1 if present is not None else 2, owner(), at_ns)
            next(made.taken)
            self._of_owner[key] = made
            self._taken[made.trace_id] = made.taken
        if full is not None:
            self._ended(full)
        return made


def _reached(counter: count[int]) -> int:
    """Return what a counter gives next, without taking it."""
    return int(repr(counter)[6:-1])
