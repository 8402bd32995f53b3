"""Traces that stay readable: beyond a number of hot spans the next ones get a trace of their own.

A backend shows a trace of some thousand spans, and Tempo discards what exceeds its limit without saying so. The span
that would be one too many starts a segment instead: a trace with a root span that is linked to the owner, the span it
would have been a child of; it and what follows under the same owner are children of that root.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable
from itertools import count, islice

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

    __slots__ = ("_open", "number", "owner", "span_id", "start_ns", "taken", "trace_id")

    def __init__(self, trace_id: int, span_id: int, number: int, owner: SpanContext, start_ns: int) -> None:
        self.trace_id, self.span_id, self.number, self.owner = trace_id, span_id, number, owner
        self.start_ns = start_ns
        self.taken = count(2)
        self._open = [True]

    @property
    def open(self) -> bool:
        """Whether it takes more spans."""
        return bool(self._open)

    def end_once(self) -> bool:
        """Take the right to end it; True for the first caller only, whatever the thread."""
        try:
            return self._open.pop()
        except IndexError:
            return False


class Segments:
    """How many hot spans each trace has, and where the surplus goes.

    Args:
        most: Hot spans that a trace may have.
        new_ids: Returns the trace id of a segment of this trace, and a span id.
        ended: Called with a segment that takes no more spans, once.
    """

    def __init__(self, most: int, new_ids: Callable[[int], tuple[int, int]], ended: Callable[[Segment], None]) -> None:
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
        if segment is not None and segment.open and next(segment.taken) <= self._most:
            return segment
        return self._next((trace_id, parent_id), owner, at_ns)

    def share(
        self, trace_id: int, parent_id: int, owner: Callable[[], SpanContext], at_ns: int, size: int
    ) -> list[tuple[int, Segment | None]]:
        """Count many spans that have ended; see :meth:`place`.

        Returns:
            How many of them, in order, belong to which segment; none is left over.
        """
        shares: list[tuple[int, Segment | None]] = []
        taken = self._taken.get(trace_id)
        if taken is None:
            taken = self._counter(trace_id)
        left = size - (self._fit(taken, size) if _reached(taken) <= self._most else 0)
        if left < size:
            shares.append((size - left, None))
        segment = self._of_owner.get((trace_id, parent_id))
        while left:
            fitting = self._fit(segment.taken, left) if segment is not None and segment.open else 0
            if not fitting:
                segment = self._next((trace_id, parent_id), owner, at_ns)
                fitting = 1
            shares.append((fitting, segment))
            left -= fitting
        return shares

    def close(self) -> None:
        """End all segments; what comes later starts new ones."""
        for segment in list(self._of_owner.values()):  # they stay, for their numbers
            if segment.end_once():
                self._ended(segment)

    def _fit(self, taken: count[int], size: int) -> int:
        """Take numbers in one go, which no other thread interrupts; return how many of them are not too many."""
        return bisect_right(list(islice(taken, size)), self._most)

    def _counter(self, trace_id: int, counter: count[int] | None = None) -> count[int]:
        with self._lock:
            if len(self._taken) >= _TRACES:
                for old in sorted(self._taken, key=lambda known: _reached(self._taken[known]))[: _TRACES // 2]:
                    del self._taken[old]
            return self._taken.setdefault(trace_id, counter if counter is not None else count(1))

    def _next(self, key: tuple[int, int], owner: Callable[[], SpanContext], at_ns: int) -> Segment:
        full = []
        with self._lock:
            while True:
                present = self._of_owner.get(key)
                if present is not None and present.open and next(present.taken) <= self._most:
                    made = present  # another thread has made it meanwhile
                    break
                if present is not None:
                    full.append(self._of_owner.pop(key, present))
                elif len(self._of_owner) >= _TRACES:
                    full.append(self._of_owner.pop(next(iter(self._of_owner))))
                number = present.number + 1 if present is not None else 2
                made = Segment(*self._new_ids(key[0]), number, owner(), at_ns)
                if self._of_owner.setdefault(key, made) is made:  # unless a signal handler was faster
                    next(made.taken)
                    self._counter(made.trace_id, made.taken)
                    break
        for segment in full:
            if segment.end_once():
                self._ended(segment)
        return made


def _reached(counter: count[int]) -> int:
    """Return what a counter gives next, without taking it."""
    return int(repr(counter)[6:-1])
