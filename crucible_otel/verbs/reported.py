"""What calls and inferences have in common when they are reported after they have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.context import Context

from crucible_otel.events.context import current_context
from crucible_otel.events.runtime import runtime
from crucible_otel.events.scope import NOTHING, in_context
from crucible_otel.otel.operations import HotOperation, Prepared
from crucible_otel.otel.places import Place
from crucible_otel.otel.rows import Values
from crucible_otel.verbs.managed import Managed

_Next: TypeAlias = (
    "tuple[Sequence[None], Context | None, int, Place | None, Callable[[], int], list[Any], int, Callable[[], object]]"
)
"""The operation's gate, the context, the limit of its duration, where it goes, the clock, the buffer, its length at
which to fold, and what folds."""


class Reported(Managed):
    """A hot operation that was timed by somebody else."""

    _ready: Prepared | None = None
    _origin: Reported | None = None
    """What this is a copy of."""
    _next: _Next = ((), None, 0, None, int, [], 0, int)
    """How to put the next row; to be tried while the gate is not empty, in the same context."""

    def _row(self, duration_ns: int, *values: int) -> bool:
        """Put one that has ended just now as a row of whole numbers, and note how to put the next.

        Args:
            duration_ns: How long it took, in nanoseconds.
            values: All that can be measured besides, in the units of the event.

        Returns:
            False where that is not possible.
        """
        hot = runtime().operations.get(self._operation.name)
        gate = hot.places.gate if hot is not None else ()
        if hot is None or hot.leaves is None or not gate:
            return False
        leaves, context = hot.leaves, current_context()
        scope = in_context(context)
        inherited = scope.inherited if scope is not None else NOTHING
        ready = self._ready
        if ready is None or ready.inherited is not inherited or ready.hot is not hot:
            ready = self._prepare(hot, inherited)
        place = hot.place(ready, context)
        if place is None or duration_ns >= place.limit_ns:
            return False
        now = hot.time_ns if place.shape is not None else int  # whose call is cheaper
        self._next = (gate, context, place.limit_ns, place, now, leaves.buffer, leaves.full, leaves.fold)
        leaves.buffer.extend((place, now(), duration_ns, *values))
        if len(leaves.buffer) >= leaves.full:
            leaves.fold()
        return True

    def _leaf(self, duration_ns: int, values: Values, *, full: bool = False) -> bool:
        """Put one that has ended just now and in which nothing else happened; False where the short way is closed."""
        hot = runtime().operations.get(self._operation.name)
        if hot is None or not hot.direct:
            return False
        context = current_context()
        scope = in_context(context)
        inherited = scope.inherited if scope is not None else NOTHING
        ready = self._ready
        if ready is None or ready.inherited is not inherited or ready.hot is not hot:
            ready = self._prepare(hot, inherited)
        duration_s = duration_ns * 1e-9
        for put in ready.told:
            put(duration_s, values)
        end_ns = hot.time_ns()
        hot.leaf(ready, context, end_ns - duration_ns, end_ns, values, full=full)
        return True

    def _leaf_of(self, duration_ns: int, measured: dict[str, Any]) -> bool:
        """Do so with measurements by field name, in the event's units."""
        hot = runtime().operations.get(self._operation.name)
        if hot is None or not hot.direct:
            return False
        values, cut = hot.values(measured, duration_ns)
        if cut:
            runtime().projection.refused()  # type: ignore[union-attr]
        return self._leaf(duration_ns, values)

    def _prepare(self, hot: HotOperation, inherited: Mapping[str, Any]) -> Prepared:
        ready = self._ready = hot.prepare(self.fields, inherited)
        origin = self._origin
        while origin is not None:  # whose next copy has it at once
            origin._ready = ready
            origin = origin._origin
        return ready
