"""Where rows of hot operations go: found once, and good until something changes that it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NoOpTracer, SpanContext, Tracer

from crucible_otel.events.translate import LONGEST_NS
from crucible_otel.otel.buffer import SPAN_KEY, SpanBuffer, Under

if TYPE_CHECKING:
    from crucible_otel.otel.handle import Owner
    from crucible_otel.otel.operations import Prepared
    from crucible_otel.otel.record import Shape

_MOST: Final = 4_096


class Place:
    """Where rows go.

    Attributes:
        owner: Has their series.
        shape: What their spans have in common; None when they have no spans.
        under: The trace of their spans, and their parent.
        limit_ns: Duration from which on something else is to be done with it.
        keeps: What has to stay alive while this does.
    """

    __slots__ = ("keeps", "limit_ns", "owner", "shape", "under")

    def __init__(self, owner: Owner, shape: Shape | None, under: Under, limit_ns: int, keeps: object) -> None:
        self.owner, self.shape, self.under, self.limit_ns, self.keeps = owner, shape, under, limit_ns, keeps


class Places:
    """The places of an operation.

    Args:
        slow_ns: From which duration on a span is kept whatever the rate says.

    Attributes:
        gate: Not empty while what was found out for the next rows holds; emptied, and replaced, when it does not.
    """

    def __init__(self, slow_ns: int) -> None:
        self._slow_ns = min(slow_ns, LONGEST_NS)
        self._known: dict[tuple[Any, ...], Place] = {}
        self.gate: list[None] = []

    def forget(self, *, closed: bool) -> None:
        """Forget what was found out; find out nothing more while it is closed."""
        self._known = {}  # another one, in which nobody puts what was found out before
        before = self.gate
        self.gate = [] if closed else [None]
        before.clear()

    def find(self, prepared: Prepared, context: Context, buffer: SpanBuffer | None, tracer: Tracer) -> Place | None:
        """Return where rows go of those that end well in a context; None where each has to be looked at.

        Args:
            prepared: What is the same for all.
            context: Where their parent is found.
            buffer: Keeps their spans; None when the tracer makes them.
            tracer: Makes them then.
        """
        parent: Any = context.get(SPAN_KEY)
        above: SpanContext = parent.get_span_context() if parent is not None else INVALID_SPAN_CONTEXT
        known = self._known
        # A propagated context has the ids of the span it comes from, and may be treated otherwise.
        kind = above.is_remote, above.trace_flags, bool(above.trace_state)
        key = (id(prepared), above.trace_id, above.span_id, *kind)
        found = known.get(key)
        if found is None:
            found = self._found(prepared, above, buffer, tracer)
            if found is not None:
                if len(known) >= _MOST:
                    known.clear()
                known[key] = found
        return found

    def _found(self, prepared: Prepared, above: SpanContext, buffer: SpanBuffer | None, tracer: Tracer) -> Place | None:
        if buffer is None:
            nobody = isinstance(tracer, NoOpTracer)
            return Place(prepared.owner, None, Under(above), LONGEST_NS, prepared) if nobody else None
        under = buffer.under(above)
        if under is None:  # the sampler has to look at each of those that the rate keeps: of these, at the slow ones
            none_but_slow = Under(above)
            return Place(prepared.owner, None, none_but_slow, self._slow_ns, prepared) if buffer.rate <= 0.0 else None
        wanted = under.trace_id and buffer.read
        if wanted and buffer.rate > 0.0:
            return Place(prepared.owner, prepared.full, under, LONGEST_NS, prepared)
        return Place(prepared.owner, None, under, self._slow_ns if wanted else LONGEST_NS, prepared)
