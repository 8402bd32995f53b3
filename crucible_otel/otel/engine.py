"""The engine: the series of this process, the buffers in front of them, and the one lock around both.

Hot records are folded in place by the thread that made the 1024th, under a lock it does not wait for; every collection
folds first and reads everything under the same lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanContext

from crucible_otel.events.clock import Clock
from crucible_otel.events.scope import Scope
from crucible_otel.otel.diversion import Diversion, Drained
from crucible_otel.otel.family import Family
from crucible_otel.otel.group import Group, grouped
from crucible_otel.otel.handle import Handle, Owner
from crucible_otel.otel.labels import placed
from crucible_otel.otel.snapshot import Exemplar, MetricSnapshot, Over, Point, Snapshot
from crucible_otel.otel.structural import StructuralSeries, Update
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Feed, Metric
from crucible_otel.semconv.registry import HOT
from crucible_otel.semconv.sdk import DROPPED, FAULTS, REFUSED
from crucible_otel.semconv.training import NONFINITE

FOLD_AT = 1024
"""Records of a hot event that are folded at once; see docs/decisions/0007-fold-size.md."""
_UPDATE_AT = 256
_WAIT_S = 3.0
"""How long to wait for who folds and pauses meanwhile, which is 2 s at most."""
Report = Callable[..., None]


class Rows(Protocol):
    """A further buffer in front of series; the engine's lock is held."""

    def fold_now(self, over: Over = iter) -> None:
        """Fold what is buffered; ``over`` iterates over what may be a lot, and may pause meanwhile."""

    def clear(self) -> None:
        """Forget it."""


class Engine:
    """The series of this process.

    Args:
        clock: Time.
        limit: Most attribute sets a metric has before the rest shares its overflow series.
        interval_s: Least time between two log events of one handle.
        exemplars: ``trace_based``, ``always_on`` or ``always_off``.
        report: ``report(spec, measurements, metadata, scope, *, log, tell, severity=None)`` emits a record's event.
        listened: Whether a handler subscribes to an event's name.

    Attributes:
        rows: Further buffers, which are folded with the families'.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        limit: int = 2000,
        interval_s: float = 1.0,
        exemplars: str = "trace_based",
        report: Report | None = None,
        listened: Callable[[str], bool] | None = None,
    ) -> None:
        self.clock, self.cardinality_limit, self.interval_s = clock, limit, interval_s
        self.report: Report = report if report is not None else _ignore
        self.listened = listened if listened is not None else lambda name: False
        self.lock = threading.Lock()
        self.started_ns = clock.time_ns()
        self._exemplars = exemplars
        self._diversion = Diversion(self._no_room)
        self._structural = StructuralSeries(limit, self._diversion)
        self._updates = self._structural.updates
        self._bound: dict[tuple[str, bool, tuple[object, ...]], Handle] = {}
        self._bad: list[tuple[Owner, str, float, int]] = []
        self.rows: list[Rows] = []
        self._groups: list[Group] = []
        self.families: dict[str, Family] = {}
        for specs in grouped(HOT):
            self._groups.append(Group(specs, self))
            self.families.update({spec.name: Family(spec, self._groups[-1], self, FOLD_AT) for spec in specs})
        _ENGINES.add(self)

    refusal: Update = (REFUSED, "sum", ("dropped",), 1)
    """The update that counts one unusable value."""

    @property
    def has_bad(self) -> bool:
        """Whether folds have found transitions whose events are not emitted yet."""
        return bool(self._bad)

    # -- recording ---------------------------------------------------------------------------------------------------

    def handle(
        self,
        spec: EventSpec,
        labels: Sequence[object],
        scope: Scope | None,
        fields: dict[str, Any],
        sequence: int = 0,
        tolerated: frozenset[str] = frozenset(),
    ) -> Handle:
        """Bind a hot event to an attribute set."""
        family = self.families[spec.name]
        return family.handle(Owner(family.group.series(labels), scope, fields, sequence, tolerated))

    def bound(self, spec: EventSpec, labels: Sequence[object], *, silent: bool = False) -> Handle:
        """Return the handle that everybody shares who records this event with these attribute values."""
        key = (spec.name, silent, tuple(labels))
        found = self._bound.get(key)
        if found is None:
            family = self.families[spec.name]
            found = family.handle(family.shared_owner(labels), silent=silent)
            if len(self._bound) < 2 * self.cardinality_limit:
                found = self._bound.setdefault(key, found)
        return found

    def update(self, metric: Metric, how: str, labels: tuple[Any, ...], value: float = 1) -> None:
        """Buffer what a structural event does to a metric; never blocks."""
        updates = self._updates
        updates.append((metric, how, labels, value))
        if len(updates) >= _UPDATE_AT and self.lock.acquire(blocking=False):
            try:
                self._structural.fold()
            finally:
                self.lock.release()

    def rearm(self) -> None:
        """Have every handle look again at who listens."""
        for family in self.families.values():
            family.rearm()

    def settle(self, over: Over = iter) -> None:
        """Fold what is buffered, and emit the events and spans of what that finds; ``over`` as in :meth:`snapshot`."""
        # With an end: who waits may be a signal handler that has interrupted the one who holds the lock.
        if self.lock.acquire(timeout=_WAIT_S):
            try:
                self._fold_all(over)
            finally:
                self.lock.release()
        self.tell_bad()

    def fold_for_spans(self, over: Over = iter) -> None:
        """Fold what may have spans, and make these; ``over`` as in :meth:`snapshot`."""
        if self.lock.acquire(timeout=_WAIT_S):  # with an end, as above
            try:
                for family in self.families.values():
                    if family.spans is not None:
                        family.fold_now(hot=False, over=over)
                for rows in self.rows:
                    rows.fold_now(over)
            finally:
                self.lock.release()
        for family in self.families.values():
            if family.spans is not None:
                family.spans.emit(wait_s=1.0)  # what a collection in another thread has taken is to be there, too
        self.tell_bad()

    # -- what folds report (the lock is held) ------------------------------------------------------------------------

    def nonfinite(self, owner: Owner, field: str, value: float, since: int | None) -> None:
        """Count a value that is not finite, and remember a transition for its event."""
        self._structural.apply(NONFINITE, "sum", (*owner.state.values, field), 1)
        if since is not None:
            self._bad.append((owner, field, value, since))

    def refused(self, size: int) -> None:
        """Count values that could not be used."""
        self._structural.apply(REFUSED, "sum", ("dropped",), size)

    def pend(self, feed: Feed, state: Any, values: Sequence[float], scale: float = 1.0) -> None:
        """Keep the values of a histogram, multiplied by ``scale``, if it is diverted."""
        if feed.metric in self._diversion:
            values = values if scale == 1.0 else [value * scale for value in values]
            self._diversion.pend(feed.metric, placed(feed, state.values), values)

    def overflowed(self, metric: Metric) -> None:
        """Count an attribute set beyond the limit."""
        self._structural.overflowed(metric)

    def take_bad(self) -> list[tuple[Owner, str, float, int]]:
        """Take the transitions since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def exemplar(self, owner: Owner, hot: bool) -> Callable[[float], Exemplar] | None:
        """Return what makes an exemplar of a value folded now: read once a fold."""
        try:
            if hot:
                return self.exemplar_of(trace.get_current_span().get_span_context())
            if owner.scope is not None and owner.scope.span is not None:
                return self.exemplar_of(owner.scope.span.get_span_context())
        except Exception:  # of a span of somebody else's, which is to cost no metrics
            self._structural.apply(FAULTS, "sum", ("exemplar",), 1)
        return None

    def exemplar_of(self, context: SpanContext) -> Callable[[float], Exemplar] | None:
        """Return what makes an exemplar of a value that was measured in a span."""
        if self._exemplars == "always_off" or not context.is_valid:
            return None
        if self._exemplars == "trace_based" and not context.trace_flags.sampled:
            return None
        at = self.clock.time_ns()
        return lambda value: Exemplar(value, at, context.trace_id, context.span_id)

    # -- collecting --------------------------------------------------------------------------------------------------

    def snapshot(self, over: Over = iter) -> Snapshot:
        """See :class:`crucible_otel.otel.source.MetricSource`."""
        with self.lock:
            self._fold_all(over)
            metrics = [
                MetricSnapshot(metric, points)
                for metric, points in self._points(over)
                if points and metric not in self._diversion
            ]
            at = self.clock.time_ns()
        self.tell_bad()
        return Snapshot(at, tuple(metrics))

    def divert(self, specs: Iterable[Metric], limit: int = 65_536) -> None:
        """See :class:`crucible_otel.otel.source.MetricSource`."""
        with self.lock:
            self._fold_all()
            self._diversion.add(specs, limit)

    def drain_diverted(self) -> list[Drained]:
        """See :class:`crucible_otel.otel.source.MetricSource`."""
        with self.lock:
            self._fold_all()
            out = self._diversion.drain(self._points())
        self.tell_bad()
        return out

    def gauge_points(self, spec: Metric) -> tuple[Point, ...]:
        """See :class:`crucible_otel.otel.source.MetricSource`."""
        with self.lock:
            self._fold_all()
            for metric, points in self._points():
                if metric.name == spec.name:
                    return points
        return ()

    def tell_bad(self) -> None:
        """Emit the events of the transitions that folds have found, and spans; called without the lock."""
        for family in self.families.values():
            if family.spans is not None:
                family.spans.emit()
        for owner, field, value, since in self.take_bad():
            for family in self.families.values():
                if family.spec.sequence and isinstance(owner.state, family.group.state_class):
                    family.tell_bad(owner, field, value, since)

    # -- life --------------------------------------------------------------------------------------------------------

    def reset_after_fork(self) -> None:
        """Start from zero in a child process, whatever the parent was doing."""
        self.lock = threading.Lock()
        self._structural.clear()
        self._bad = []
        self._diversion.clear()
        self.started_ns = self.clock.time_ns()
        for family in self.families.values():
            family.clear()
        for rows in self.rows:
            rows.clear()
        for group in self._groups:
            group.clear()

    # -- inside (the lock is held) -----------------------------------------------------------------------------------

    def _no_room(self, size: int) -> None:
        self._structural.apply(DROPPED, "sum", ("metrics", "divert_full"), size)

    def _fold_all(self, over: Over = iter) -> None:
        for family in over(list(self.families.values())):
            family.fold_now(hot=False, over=over)
        for rows in over(self.rows):
            rows.fold_now(over)
        self._structural.fold(over)

    def _points(self, over: Over = iter) -> Iterable[tuple[Metric, tuple[Point, ...]]]:
        for group in self._groups:
            yield from group.points(self.started_ns, over)
        yield from self._structural.points(self.started_ns, over)


def _ignore(*args: object, **kwargs: object) -> None:
    return None


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
