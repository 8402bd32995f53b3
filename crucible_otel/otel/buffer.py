"""Spans of hot events: made at a few percent of the SDK's price, kept as records until they are fetched.

They have real ids and are current for what runs inside them, so what that makes, and what it propagates to, has the
right parent. The provider's sampler decides for each of them.
"""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from crucible_otel.events.clock import Clock
from crucible_otel.otel.limits import Limits
from crucible_otel.otel.live import LiveSpan
from crucible_otel.otel.record import Columns, Extra, Record, Shape
from crucible_otel.otel.sampling import LOW_64, Sampling, Verdict, keeps
from crucible_otel.otel.segments import Segment, Segments
from crucible_otel.otel.snapshot import Over
from crucible_otel.semconv.names import SEGMENT_NUMBER
from crucible_otel.semconv.segment import SEGMENT_SPAN

SPAN_KEY: str = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""Where OpenTelemetry keeps the current span in a context."""

THINNED: Span = NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)
"""Stands for a span that the rate leaves out; it is never made current."""

_SAMPLED, _RANDOM = TraceFlags.SAMPLED, TraceFlags.RANDOM_TRACE_ID
_ROOT_FLAGS = _SAMPLED | _RANDOM
_ALL = 2**64
_FEW = 8
"""Fewer spans than this are not worth the columns."""

_SEGMENT = Shape(SEGMENT_SPAN, SpanKind.INTERNAL, {}, (SEGMENT_NUMBER,))


class Under(NamedTuple):
    """What is known of all spans under a parent.

    Attributes:
        above: The parent.
        trace_id: Their trace; 0 when none of them is kept.
        parent_id: Its span id.
        flags: Their trace flags.
    """

    above: SpanContext
    trace_id: int = 0
    parent_id: int = 0
    flags: int = 0


class SpanBuffer:
    """Makes spans of hot events, and keeps those that have ended.

    Args:
        clock: Time.
        sampling: What the provider's sampler says.
        limits: How much one span may hold.
        rate: Share of the spans that are kept of those that the sampler keeps, 0 to 1.
        most: Hot spans that one trace may have.
        full: Records after which ``hurry`` is called.
        hurry: Told that many records wait; must not block.

    Attributes:
        rate: Share of the spans that are kept of those that the sampler keeps.
        records: The spans that have ended and are not fetched yet, oldest first.
        columns: Those that came by column, likewise.
        read: Whether anybody fetches spans; if not, those in which nothing else happens need not be made.
        folds: Called before spans are fetched, so that what waits elsewhere comes as columns; may take a lock.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        rate: float = 1.0,
        most: int = 5_000,
        full: int = 4_096,
        hurry: Callable[[], object] | None = None,
    ) -> None:
        self.clock, self.limits, self.full = clock, limits if limits is not None else Limits(), full
        self._sampling = sampling if sampling is not None else Sampling()
        self.rate, self._bound = rate, round(rate * _ALL)
        self.hurry: Callable[[], object] = hurry if hurry is not None else _nothing
        self.read = True
        self.folds: list[Callable[[Over], object]] = []
        self._segments = Segments(most, self._segment_ids, self._ended)
        self._begin_anew()
        _BUFFERS.add(self)

    def _begin_anew(self) -> None:
        self.records: list[Record] = []
        self.columns: list[Columns] = []
        self._bits = random.Random().getrandbits  # not the global generator, which training code seeds
        self._segments.forget()
        self._known: tuple[object, int, int, int] = (None, 0, 0, 0)

    # -- spans -------------------------------------------------------------------------------------------------------

    def start(self, shape: Shape, context: Context, start_ns: int, *, kept: bool = False) -> Span | None:
        """Start a span.

        Args:
            shape: What it has in common with others.
            context: Where its parent is found.
            start_ns: When, in nanoseconds since the epoch.
            kept: Whether the rate does not apply.

        Returns:
            What is to be made current: a :class:`LiveSpan`, or a span that says that its trace is not sampled. None
            when the sampler, and :data:`THINNED` when the rate leaves it out; its parent stays current.
        """
        if self._bound != _ALL and not kept and self._bits(64) >= self._bound:
            return THINNED
        parent = context.get(SPAN_KEY)
        trace_id, parent_id, flags = self._sampled_parent(parent)
        if not trace_id:
            return self._start_otherwise(parent, shape, context, start_ns)
        segment = self._segments.place(trace_id, parent_id, parent.get_span_context, start_ns)  # type: ignore[attr-defined]
        if segment is not None:
            trace_id, parent_id, flags = segment.trace_id, segment.span_id, _ROOT_FLAGS
        return LiveSpan(self, shape, trace_id, self._bits(64) or 1, parent_id, flags, start_ns)

    def leaf(
        self,
        shape: Shape,
        context: Context,
        start_ns: int,
        end_ns: int,
        values: tuple[Any, ...] = (),
        *,
        kept: bool = False,
    ) -> None:
        """Keep a span that has ended, and in which nothing else happened.

        Args:
            shape: What it has in common with others.
            context: Where its parent is found.
            start_ns: When it started, in nanoseconds since the epoch.
            end_ns: When it ended.
            values: Values of the shape's fields.
            kept: Whether the rate does not apply.
        """
        if self._bound != _ALL and not kept and self._bits(64) >= self._bound:
            return
        parent = context.get(SPAN_KEY)
        trace_id, parent_id, flags = self._sampled_parent(parent)
        if not trace_id:
            span = self._start_otherwise(parent, shape, context, start_ns)
            if type(span) is LiveSpan:
                span.finish(end_ns, shape, values)
            return
        segment = self._segments.place(trace_id, parent_id, parent.get_span_context, start_ns)  # type: ignore[attr-defined]
        if segment is not None:
            trace_id, parent_id, flags = segment.trace_id, segment.span_id, _ROOT_FLAGS
        records = self.records
        records.append((shape, trace_id, self._bits(64) or 1, parent_id, flags, start_ns, end_ns, values, None))
        if len(records) >= self.full:
            self.hurry()

    # -- spans by column ---------------------------------------------------------------------------------------------

    def under(self, above: SpanContext) -> Under | None:
        """Return what is known of all spans under a parent; None where the sampler has to look at each of them."""
        if not above.is_valid:
            return Under(above) if self._sampling.root is False else None
        rule = self._sampling.of_parent(remote=above.is_remote, sampled=above.trace_flags.sampled)
        if rule is False:
            return Under(above)
        if rule is not True or above.is_remote or above.trace_state or not above.trace_flags.sampled:
            return None
        return Under(above, above.trace_id, above.span_id, _SAMPLED | (above.trace_flags & _RANDOM))

    def chosen(self, durations: Sequence[int], slow_ns: int) -> bytes | None:
        """Return which of some spans the rate keeps, a byte each; None for all of them."""
        bound, bits = self._bound, self._bits
        if bound == _ALL:
            return None
        return bytes([duration >= slow_ns or bits(64) < bound for duration in durations])

    def add(
        self,
        shape: Shape,
        under: Under,
        starts: Sequence[int],
        ends: Sequence[int],
        values: Sequence[Sequence[Any] | None],
        chosen: bytes | None = None,
    ) -> None:
        """Keep many spans that have ended and in which nothing else happened.

        Args:
            shape: What they have in common.
            under: Their trace and their parent, as :meth:`under` says.
            starts: When each started, in nanoseconds since the epoch.
            ends: When each ended.
            values: The values of each of the shape's fields; None for none.
            chosen: A byte for each span: whether it is kept; None for all.
        """
        if chosen is not None:
            starts, ends = list(compress(starts, chosen)), list(compress(ends, chosen))
            values = [column if column is None else list(compress(column, chosen)) for column in values]
        size, at = len(ends), 0
        if not size:
            return
        span_ids = self._bits(64 * size).to_bytes(8 * size, "big")
        all_of_them = Columns(
            shape, under.trace_id, under.parent_id, under.flags, span_ids, starts, ends, tuple(values)
        )
        for number, segment in self._segments.share(
            under.trace_id, under.parent_id, lambda: under.above, starts[0], size
        ):
            some = all_of_them if number == size else all_of_them[at : at + number]
            if segment is not None:
                some.trace_id, some.parent_id, some.flags = segment.trace_id, segment.span_id, _ROOT_FLAGS
            at += number
            if number < _FEW:
                self.records.extend(some.records())
            else:
                self.columns.append(some)

    @property
    def crowded(self) -> bool:
        """Whether so many spans wait that ``hurry`` is to be called."""
        return len(self.records) + sum(map(len, self.columns)) >= self.full

    # -- fetching ----------------------------------------------------------------------------------------------------

    def fetch(self, most: int | None = None) -> list[Record]:
        """Take the spans that have ended, oldest first, at most so many."""
        records = self.records
        size = len(records) if most is None else min(most, len(records))
        taken = records[:size]
        del records[:size]
        return taken

    def fetch_columns(self, *, fold: bool = True, over: Over = iter) -> list[Columns]:
        """Take the spans that came by column, oldest first.

        Args:
            fold: Whether to take a lock and fold; else those are taken that are there.
            over: Iterates over what is folded, and may pause meanwhile.
        """
        for each in self.folds if fold else ():
            each(over)
        size = len(self.columns)
        taken = self.columns[:size]
        del self.columns[:size]
        return taken

    def end_segments(self, over: Over = iter) -> None:
        """End the segments that are open, so that their roots are among what is fetched next; may take a lock.

        Args:
            over: As in :meth:`fetch_columns`.
        """
        for fold in self.folds:  # what waits elsewhere may begin one
            fold(over)
        self._segments.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _ids(self) -> tuple[int, int]:
        return self._bits(128) or 1, self._bits(64) or 1

    def _segment_ids(self, trace_id: int) -> tuple[int, int]:
        new_id, span_id = self._ids()
        if type(self._sampling.local_sampled) is int:  # what is kept of the trace is to be kept of its segments
            new_id = new_id & ~LOW_64 | trace_id & LOW_64
        return new_id, span_id

    def _sampled_parent(self, parent: object) -> tuple[int, int, int]:
        """Return trace id, span id and flags of a parent whose children are all kept; zeros for any other.

        That is a sampled span of this process without a trace state, under a sampler that keeps what is inside such.
        """
        known, trace_id, span_id, flags = self._known
        if parent is known and parent is not None:
            return trace_id, span_id, flags
        if parent is None or self._sampling.local_sampled is not True:
            return 0, 0, 0
        if type(parent) is LiveSpan:
            if parent.trace_state or not parent.flags & _SAMPLED:
                return 0, 0, 0
            return parent.trace_id, parent.span_id, parent.flags
        above = parent.get_span_context()  # type: ignore[attr-defined]
        if above.is_remote or not above.is_valid or above.trace_state or not above.trace_flags.sampled:
            return 0, 0, 0
        found = (above.trace_id, above.span_id, _SAMPLED | (above.trace_flags & _RANDOM))
        self._known = (parent, *found)  # most often the next has the same
        return found

    def _start_otherwise(self, parent: Any, shape: Shape, context: Context, start_ns: int) -> Span | None:
        above: SpanContext | None = parent.get_span_context() if parent is not None else None
        if above is None or not above.is_valid:
            above, rule, flags = None, self._sampling.root, _ROOT_FLAGS
            trace_id, span_id = self._ids()
        else:
            rule = self._sampling.of_parent(remote=above.is_remote, sampled=above.trace_flags.sampled)
            flags = _SAMPLED | (above.trace_flags & _RANDOM)
            trace_id, span_id = above.trace_id, self._bits(64) or 1
        if rule is None:
            assert self._sampling.ask is not None
            verdict = self._sampling.ask(context, trace_id, shape.name, shape.kind, shape.attributes)
        else:
            kept = keeps(rule, trace_id)
            verdict = Verdict(kept, kept, shape.attributes, above.trace_state if above is not None else None)
        if not verdict.sampled:
            flags &= ~_SAMPLED
        if not verdict.recording:
            if above is not None:
                return None
            return NonRecordingSpan(SpanContext(trace_id, span_id, False, TraceFlags(flags), verdict.trace_state))
        span = LiveSpan(self, shape, trace_id, span_id, above.span_id if above is not None else 0, flags, start_ns)
        self._qualify(span, above, verdict)
        return span

    def _qualify(self, span: LiveSpan, above: SpanContext | None, verdict: Verdict) -> None:
        """Note what most spans do not have."""
        segment = None
        if above is not None and verdict.sampled:
            segment = self._segments.place(above.trace_id, above.span_id, lambda: above, span.start_ns)
        if segment is not None:
            span.trace_id, span.parent_id, span.flags = segment.trace_id, segment.span_id, _ROOT_FLAGS
        else:
            if verdict.trace_state:
                span.trace_state = span.more().trace_state = verdict.trace_state
            if above is not None and (
                above.is_remote or above.trace_state or verdict.trace_state or above.trace_flags != span.flags
            ):
                span.more().parent = above
        if verdict.attributes != span.shape.attributes:
            span.begin_with(verdict.attributes)

    def _ended(self, segment: Segment) -> None:
        extra = Extra()
        extra.links.append(Link(segment.owner))
        end_ns = max(segment.start_ns, self.clock.time_ns())
        ids = (segment.trace_id, segment.span_id, 0, _ROOT_FLAGS)
        self.records.append((_SEGMENT, *ids, segment.start_ns, end_ns, (segment.number,), extra))


def _nothing() -> None:
    return None


_BUFFERS: weakref.WeakSet[SpanBuffer] = weakref.WeakSet()


def _after_fork() -> None:
    for buffer in list(_BUFFERS):
        buffer._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
