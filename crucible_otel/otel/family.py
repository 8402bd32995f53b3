"""One hot event of this process: its buffer, its folds, its handles."""

from __future__ import annotations

import operator
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from crucible_otel.events.context import current_context
from crucible_otel.events.runtime import runtime
from crucible_otel.otel.feeds import compiled
from crucible_otel.otel.handle import Handle, Owner, generate, measured, suspicious
from crucible_otel.otel.labels import label, labelling
from crucible_otel.otel.sequence import in_order
from crucible_otel.otel.snapshot import Over
from crucible_otel.otel.values import cleaned, settled, spelled
from crucible_otel.semconv.model import Event as EventSpec
from crucible_otel.semconv.model import Severity
from crucible_otel.semconv.training import NONFINITE_EVENT

if TYPE_CHECKING:
    from crucible_otel.otel.engine import Engine
    from crucible_otel.otel.group import Group
    from crucible_otel.otel.record_spans import RecordSpans


class Family:
    """One hot event, compiled from its spec.

    Attributes:
        spec: The event.
        group: The series it is folded into.
        buffer: After its first half, which stays empty, the records that are not folded yet, one after the other:
            ``owner, *columns``. A list that is emptied gives its memory back and grows again in forty steps.
        columns: Fields of a record, in order.
        width: Entries of the buffer a record takes.
        gauges: Indices of the columns whose values are gauges of numbers.
        full: Length of the buffer at which the thread that makes the next record folds.
        labels: The fields whose values are the attributes of its series, in order, with what makes these of them.
        timed: Names of the columns that are durations: seconds here, nanoseconds on the bus.
        interval_s: Least time between two log events of a handle.
        spans: Makes spans of its records; None when none of them gets one. If it does so by column, two more entries
            of a record say when it was made, and the scope or the context it was made in.
    """

    def __init__(self, spec: EventSpec, group: Group, engine: Engine, limit: int) -> None:
        self.spec, self.group, self.interval_s = spec, group, engine.interval_s
        self._engine = engine
        streams = tuple(feed for feed in spec.feeds if not feed.each)
        self._further = tuple(feed for feed in spec.feeds if feed.each)
        used = {feed.field for feed in streams}
        self.columns = tuple(field.name for field in spec.fields if field.name in used)
        gauged = {feed.field for feed in streams if feed.how == "set" and feed.field != spec.sequence}
        self.gauges = frozenset(index for index, name in enumerate(self.columns) if name in gauged)
        self._limit = limit
        self.spans: RecordSpans | None = None
        self._measure()
        self.logged: weakref.WeakKeyDictionary[Owner, tuple[Any, ...]] = weakref.WeakKeyDictionary()
        place = {name: index + 1 for index, name in enumerate(self.columns)}
        self._folds = tuple(
            (feed.how, compiled(feed, group.slot(feed), place.get(feed.field, 0), engine, spec.sequence))
            for feed in streams
        )
        self._number, self._duration = place.get(spec.sequence, 0), place.get("duration", 0)
        self.timed = frozenset(field.name for field in spec.fields if field.unit == "ns") & {*self.columns}
        fields = {field.attribute: field.name for field in spec.fields if field.attribute}
        self.labels = tuple((fields[name], labelling(fields[name])) for name in group.attributes)
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._build: Callable[..., Any] | None = None

    def _measure(self) -> None:
        self.width = len(self.columns) + (3 if self.spans is not None and self.spans.by_column else 1)
        self._start = self._limit * self.width
        self.full = 2 * self._start
        self.buffer: list[Any] = [None] * self._start

    # -- handles -----------------------------------------------------------------------------------------------------

    def shared_owner(self, labels: Sequence[object]) -> Owner:
        """Return an owner that is nobody in particular; its events say what the attributes of its series say."""
        told = zip(self.labels, labels, strict=False)
        fields = {name: value for (name, _), value in told if value not in (None, "")}
        return Owner(self.group.series(labels), None, fields)

    def handle(self, owner: Owner, *, silent: bool = False) -> Handle:
        """Return a handle for an owner; a silent one leaves it to its user to tell handlers."""
        handle = Handle(self, owner, silent=silent)
        self._handles.add(handle)
        return handle

    def bind(self, owner: Owner, slow: Callable[..., None]) -> Any:
        """Return the recording functions of an owner."""
        if self._build is None:  # not before it is needed: most programs use few of the families
            extra = self._further[0].field if self._further else "None"
            self._build = generate(
                self.spec,
                self.columns,
                extra,
                buffer=self.buffer,
                limit=self.full,
                now=self._engine.clock.now,
                fold=_folding(self),
                spans=self.spans,
            )
        return self._build(owner, slow)

    def make_spans(self, spans: RecordSpans) -> None:
        """Have spans made of the records; to be called before the first handle is made."""
        self.spans = spans
        self._measure()

    def stamp(self, owner: Owner) -> tuple[Any, ...]:
        """Return what a record made now has after its columns."""
        if self.spans is None or not self.spans.by_column:
            return ()
        return self.spans.time_ns(), owner.scope or current_context()

    def waiting(self, most: int | None = None) -> list[Any]:
        """Return the records that are not folded yet, or the last ``most`` rows: before the records they are empty."""
        return self.buffer[self._start :] if most is None else self.buffer[-most * self.width :]

    def rearm(self) -> None:
        """Have every handle look again at who listens."""
        for handle in list(self._handles):
            handle.rearm()

    # -- the slow road -----------------------------------------------------------------------------------------------

    def taken(self, column: str, value: Any) -> Any:
        """Return a value as it goes into a record: a number, a tensor to be read later, or None."""
        if column == self.spec.sequence and value is not None:
            try:
                return operator.index(value)
            except Exception:
                pass
        return settled(value)

    def told(self) -> bool:
        """Return whether a handler subscribes to this event."""
        return self._engine.listened(self.spec.name)

    def looks_bad(self, columns: tuple[Any, ...]) -> bool:
        """Return whether a gauge of a record is not finite."""
        return suspicious(columns, self.gauges)

    def refused(self, size: int) -> None:
        """Count values that are no numbers."""
        metric, how, labels, _ = self._engine.refusal
        self._engine.update(metric, how, labels, size)

    def further(self, owner: Owner, values: Any) -> None:
        """Record a map of further values."""
        try:
            items = list(values.items())
        except Exception:
            self.refused(1)
            return
        for feed in self._further:
            for name, value in items:
                read = settled(value)
                if read is None:
                    self._engine.update(*self._engine.refusal)
                else:
                    self._engine.update(feed.metric, "set", (*owner.state.values, label(name)), read)

    def report(self, owner: Owner, record: tuple[Any, ...], *, log: bool, tell: bool, extra: Any = None) -> None:
        """Emit a record as an event."""
        measurements, metadata = measured(self.spec, self.columns, record)
        if self.spec.sequence and record[self._number] is None:
            waiting = self.buffer[:: self.width].count(owner)
            metadata[self.spec.sequence] = owner.sequence + waiting
        if extra is not None and self._further:
            measurements[self._further[0].field] = extra
        for key, value in owner.fields.items():
            metadata.setdefault(key, value)
        if log:
            self.logged[owner] = record
        self._engine.report(self.spec, measurements, metadata, owner.scope, log=log, tell=tell)

    def tell_bad(self, owner: Owner, field: str, value: float, since: int) -> None:
        """Emit the event of a value that became NaN or infinite."""
        metadata = {**owner.fields, "signal": field, "value": spelled(value), self.spec.sequence: since}
        severity: Severity | None = "WARN" if field in owner.tolerated else None
        self._engine.report(NONFINITE_EVENT, {}, metadata, owner.scope, log=True, tell=True, severity=severity)

    # -- folding -----------------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """Fold in place unless somebody else holds the lock; called by whoever filled the buffer."""
        engine = self._engine
        if not engine.lock.acquire(blocking=False):
            if len(self.buffer) > 64 * self.full:  # only while the lock's holder is starved
                time.sleep(0)
            return
        try:
            try:
                self.fold_now(hot=True)
            finally:
                engine.lock.release()
            if engine.has_bad:
                engine.tell_bad()
            if self.spans is not None:
                self.spans.emit()
                self.spans.hurry()
        except Exception as error:  # who folds is the user's loop
            runtime().fault(self.spec.name, error)

    def fold_now(self, *, hot: bool, over: Over = iter) -> None:
        """Fold what is buffered; the engine's lock is held.

        Args:
            hot: Whether who folds is who made the last record.
            over: Iterates over who made records, and may pause meanwhile.
        """
        buffer, width, start = self.buffer, self.width, self._start
        entries = len(buffer)
        if entries == start:
            return
        columns = [buffer[index:entries:width] for index in range(start, start + width)]
        del buffer[start:entries]
        if self.spans is not None and self.spans.by_column:
            *columns, ends, places = columns
            self.spans.take(columns[0], columns[1:], ends, places, over)
        owners = columns[0]
        last, size = owners[-1], len(owners)
        if owners.count(last) == size:
            self._fold(last, columns, size, self._engine.exemplar(last, hot))
            return
        groups: dict[Owner, list[tuple[Any, ...]]] = {}
        for record in zip(*columns, strict=True):
            groups.setdefault(record[0], []).append(record)
        for owner, records in over(list(groups.items())):
            exemplar = self._engine.exemplar(owner, hot and owner is last)
            self._fold(owner, [list(column) for column in zip(*records, strict=True)], len(records), exemplar)

    def _fold(self, owner: Owner, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        state = owner.state
        if self._number:
            try:
                columns, size, late = in_order(owner, columns, size, self._number, self._duration)
            except Exception:  # a value that cannot even be compared
                columns, size, late = in_order(owner, cleaned(columns), size, self._number, self._duration)
            for additions in late:
                self._add_late(owner, additions)
            if not size:
                return
        for _, fold in self._folds:
            try:
                fold(state, owner, columns, size, exemplar)
            except Exception:
                columns = cleaned(columns)
                fold(state, owner, columns, size, exemplar)
        owner.tail = (None, *[column[-1] for column in columns[1:]])

    def _add_late(self, owner: Owner, additions: list[Any]) -> None:
        columns = [(value,) for value in additions]
        for how, fold in self._folds:
            if how in ("set", "sum"):
                fold(owner.state, owner, columns, 1, None)
        if owner.tail is not None:
            merged = [old if new is None else new for old, new in zip(owner.tail, additions, strict=True)]
            owner.tail = (None, *merged[1:])

    def clear(self) -> None:
        """Forget what is not folded yet."""
        del self.buffer[self._start :]
        if self.spans is not None:
            self.spans.clear()


def _folding(family: Family) -> Callable[[], None]:
    """Return what folds a family without keeping it: CPython looks for no cycles in the constants of code."""
    known = weakref.ref(family)

    def fold() -> None:
        found = known()
        if found is not None:
            found.fold()

    return fold
