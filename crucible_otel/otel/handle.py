"""Pre-bound handles of hot events: one clock read, one tuple, one ``list.extend``.

The recording function of an event is generated from its spec, so that its signature is the event's fields and
nothing is looked up when it is called. Whatever is not the common case (a handler that listens, a log event that is
due, a tensor, further metrics) takes the slow road, chosen by one comparison and the types of the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crucible_otel.events.context import current_context
from crucible_otel.events.scope import Scope
from crucible_otel.otel.baking import baked
from crucible_otel.otel.values import finite, is_kept, number
from crucible_otel.semconv.model import Event as EventSpec

if TYPE_CHECKING:
    from crucible_otel.otel.family import Family
    from crucible_otel.otel.record_spans import RecordSpans

Record = Callable[..., None]

_LAST_ONES = (8, None)
"""How many of the waiting records are looked at: what is looked for is mostly the last one, and a thousand are long."""

_TEMPLATE = """
def build(owner, slow):
    last = now()
    due = -INFINITY
    def record({signature}):
        {nonlocal_last}
        at = now()
        {elapse}
        if at < due{guards}:
            extend((owner, {columns}{stamp}))
            if len(buffer) >= {limit}:
                fold()
        else:
            slow(at, {columns}, {extra})
        {span}
    def commit(at, {positional}):
        if at < due{guards}:
            extend((owner, {columns}{stamp}))
            if len(buffer) >= {limit}:
                fold()
        else:
            slow(at, {columns}, {extra})
        {span}
    def mark():
        nonlocal last
        last = now()
    def arm(at):
        nonlocal due
        due = at
    return record, commit, mark, arm
"""


def generate(
    spec: EventSpec,
    columns: tuple[str, ...],
    extra: str,
    *,
    buffer: list[Any],
    limit: int,
    now: Callable[[], float],
    fold: Callable[[], None],
    spans: RecordSpans | None = None,
) -> Callable[..., Any]:
    """Compile the recording functions of a hot event.

    What all handles share, built-ins included, are constants of the functions; see :mod:`crucible_otel.otel.baking`.

    Args:
        spec: The event.
        columns: Its fields in the order of the record.
        extra: The field that holds a map of further values, or ``None`` as text.
        buffer: Where the records go.
        limit: Its length at which it is folded.
        now: The monotonic clock.
        fold: Folds it.
        spans: Makes spans of records; None when none of them gets one.
    """
    interval = spec.timing == "interval"
    totals = {feed.field for feed in spec.feeds if feed.how == "sum"}
    keywords = [name for name in columns if not (interval and name == "duration")]
    defaults = ", ".join(f"{name}={0 if name in totals else None}" for name in keywords)
    maps = [extra] if extra != "None" else []
    code = _TEMPLATE.format(
        signature=", ".join([defaults, *(f"{name}=None" for name in maps)]),
        nonlocal_last="nonlocal last" if interval else "pass",
        elapse="duration = at - last; last = at" if interval else "pass",
        columns=", ".join(columns),
        positional=", ".join([*columns, *(f"{name}=None" for name in maps)]),
        extra=extra,
        stamp=", time_ns(), owner.scope or context()" if spans is not None and spans.by_column else "",
        span=f"span(owner, {', '.join(columns)})" if spans is not None and not spans.by_column else "",
        limit=limit,
        guards="".join(f" and {name} is None" for name in maps)
        + "".join(f" and (type({name}) is float or {name} is None)" for name in spec.graphs),
    )
    shared: dict[str, Any] = {
        "INFINITY": math.inf, "buffer": buffer, "extend": buffer.extend, "now": now, "fold": fold,
        "len": len, "type": type, "float": float, "context": current_context,
        "span": spans and spans.make, "time_ns": spans and spans.time_ns,
    }  # fmt: skip
    build: Callable[..., Any] = baked(code, f"<{spec.name}>", shared)["build"]
    return build


class Owner:
    """Who makes the records: one run, loop or point of recording.

    Attributes:
        state: The series its records are folded into.
        scope: The scope they happen in, for spans, logs and exemplars of a fold in another thread.
        sequence: Number of the last record, where the event is numbered.
        rewinds: Times the number went down in the chunk being folded.
        carried_s: Time between two reports of the same number, which belongs to the next.
        tail: Its last folded record, without itself.
        fields: What its log events and its events for handlers carry besides the record.
        tolerated: Fields of which a value that is not finite is expected now and then.
    """

    __slots__ = ("__weakref__", "carried_s", "fields", "rewinds", "scope", "sequence", "state", "tail", "tolerated")

    def __init__(
        self,
        state: Any,
        scope: Scope | None,
        fields: dict[str, Any],
        sequence: int = 0,
        tolerated: frozenset[str] = frozenset(),
    ) -> None:
        self.state, self.scope, self.fields, self.sequence = state, scope, fields, sequence
        self.tolerated = tolerated
        self.rewinds, self.carried_s = 0, 0.0
        self.tail: tuple[Any, ...] | None = None


class Handle:
    """A hot event bound to one attribute set.

    Attributes:
        record: ``record(**fields)``: one event, timed from the one before where its spec says so.
        commit: ``commit(at_s, *columns, extra=None)``: one event whose every column is given.
        mark: Restarts the interval clock.
        owner: See :class:`Owner`.
        due_s: When the next record has to take the slow road, by the monotonic clock.
    """

    __slots__ = (
        "__weakref__", "_arm", "_family", "_log_due_s", "_silent", "commit", "due_s", "mark", "owner", "record",
    )  # fmt: skip

    def __init__(self, family: Family, owner: Owner, *, silent: bool = False) -> None:
        self._family, self.owner, self._silent = family, owner, silent
        self._log_due_s = -math.inf
        self.record: Record
        self.commit: Record
        self.mark: Callable[[], None]
        self.record, self.commit, self.mark, self._arm = family.bind(owner, self._slow)
        self.due_s = -math.inf
        self.rearm()

    def rearm(self) -> None:
        """Have the next record look again at who listens and what is due."""
        self._due(-math.inf)

    def _due(self, at_s: float) -> None:
        self.due_s = at_s if self._family.spans is None else -math.inf  # a span is made by `commit`
        self._arm(at_s)

    def direct(self) -> tuple[list[Any], int, Callable[[], None]]:
        """Return what a loop of its own needs to do what ``commit`` does, without a call.

        Returns:
            The buffer, to be extended by ``(owner, *columns)`` before ``due_s``, when every column holds a number or
            None; its length at which to fold; and the function that folds.
        """
        return self._family.buffer, self._family.full, self._family.fold

    def log_next(self) -> None:
        """Make the next record a log event, whatever the rate limit says."""
        self._log_due_s = -math.inf
        self.rearm()

    def take_log(self, at: float) -> bool:
        """Take the right to emit the log event of the next record oneself; False while the rate limit holds."""
        if not self._family.spec.logged or at < self._log_due_s:
            return False
        self._log_due_s = at + self._family.interval_s
        return True

    def last_record(self) -> tuple[Any, ...] | None:
        """Return the last record of this handle's owner, without the owner: who keeps it keeps nobody alive."""
        owner, width, size = self.owner, self._family.width, len(self._family.columns)
        for most in _LAST_ONES:
            buffer = self._family.waiting(most)
            for start in range(len(buffer) - width, -1, -width):
                if buffer[start] is owner:
                    return (None, *buffer[start + 1 : start + 1 + size])
        return owner.tail

    def reached(self) -> int | None:
        """Return the number of the last record, None before the first."""
        return None if self.last_record() is None else self.next_number() - 1

    def next_number(self) -> int:
        """Return the number that a record without one gets next."""
        family, owner, width = self._family, self.owner, self._family.width
        number = family.columns.index(family.spec.sequence) + 1 if family.spec.sequence else 0
        reached, unnumbered = owner.sequence, 0
        for most in _LAST_ONES:
            buffer, unnumbered = family.waiting(most), 0
            for start in range(len(buffer) - width, -1, -width):
                if buffer[start] is owner:
                    given = buffer[start + number]
                    if type(given) is int:
                        return given + unnumbered + 1
                    unnumbered += 1
        return reached + unnumbered + 1

    def log_last(self) -> None:
        """Emit the log event of the last record, unless it has been emitted."""
        record = self.last_record()
        logged = self._family.logged.get(self.owner)
        if record is not None and (logged is None or record[1] is not logged[1]):
            self._family.report(self.owner, record, log=True, tell=False)

    def _slow(self, at: float, *values: Any) -> None:
        family, owner = self._family, self.owner
        columns = tuple(
            value if type(value) is float else family.taken(name, value)
            for name, value in zip(family.columns, values, strict=False)
        )
        refused = sum(values[index] is not None and columns[index] is None for index in range(len(columns)))
        if refused:
            family.refused(refused)
        family.buffer.extend((owner, *columns, *family.stamp(owner)))
        tell = not self._silent and family.told()
        log = family.spec.logged and at >= self._log_due_s
        if values[-1] is not None:
            family.further(owner, values[-1])
        if log:
            self._log_due_s = at + family.interval_s
        if tell or log:
            family.report(owner, (None, *columns), log=log, tell=tell, extra=values[-1])
        self._due(-math.inf if tell else self._log_due_s if family.spec.logged else math.inf)
        if len(family.buffer) >= family.full or (log and family.looks_bad(columns)):
            family.fold()


def measured(
    spec: EventSpec, columns: tuple[str, ...], record: tuple[Any, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the measurements and metadata of a record, as the bus carries them."""
    out: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    fields = {field.name: field for field in spec.fields}
    totals = {feed.field for feed in spec.feeds if feed.how == "sum"}
    for name, value in zip(columns, record[1:], strict=True):
        field = fields[name]
        if is_kept(value):
            value = number(value)
        if field.unit == "ns" and value is not None:
            value = max(0, round(value * 1e9)) if finite(value) else None
        if value is not None and not (name in totals and value == 0):
            out[0 if field.measurement else 1][name] = value
    return out


def suspicious(values: tuple[Any, ...], gauges: frozenset[int]) -> bool:
    """Return whether a value that is at hand is not finite."""
    return any(type(values[index]) is float and not finite(values[index]) for index in gauges)
