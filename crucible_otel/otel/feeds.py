"""From a feed of the conventions to the function that folds a column into a series."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from crucible_otel.otel.series import HELD, Distribution, plain
from crucible_otel.otel.values import LARGE, finite, is_kept, number, settled
from crucible_otel.semconv.model import Feed

_NUMBERS = (float, int)
Fold = Callable[[Any, Any, Sequence[Sequence[Any]], int, Any], None]
"""``fold(state, owner, columns, size, exemplar)``."""


class Sink(Protocol):
    """Where a fold reports what it cannot put into a series."""

    def nonfinite(self, owner: Any, field: str, value: float, since: int | None) -> None:
        """A value that is not finite; ``since`` is the number of its event where the finite ones ended."""

    def refused(self, size: int) -> None:
        """Values that are no numbers, or negative where that has no meaning."""

    def pend(self, feed: Feed, state: Any, values: Sequence[float], scale: float = 1.0) -> None:
        """Values of a histogram that may be diverted, to be multiplied by ``scale``."""


def compiled(feed: Feed, slot: Any, column: int, sink: Sink, sequence: str = "", *, whole: bool = False) -> Fold:
    """Return the fold of one feed.

    Args:
        feed: The feed.
        slot: Where the series keeps the stream.
        column: Index of its field in the record; ignored by ``count``.
        sink: See :class:`Sink`.
        sequence: The field that numbers the records, or empty.
        whole: Whether all values are whole numbers in the unit of the event, and none is negative.
    """
    how: str = feed.how
    if how == "record" and whole:
        return _record_whole(feed, slot, column, sink)
    if how == "set" and feed.metric.kind == "updowncounter":
        how = "level"
    elif how == "set" and sequence and feed.field == sequence:
        how = "number"
    return _COMPILERS[how](feed, slot, column, sink)


def _count(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        state[slot] += size

    return fold


def _rewind(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        if owner.rewinds:
            state[slot] += owner.rewinds
            owner.rewinds = 0

    return fold


def _sum(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        values = columns[column]
        last = values[-1]
        if (
            last is values[0]
            and (last is None or (type(last) is int and 0 <= last < LARGE))
            and values.count(last) == size
        ):
            if last:  # the same number again and again
                state[slot] += last * size
            return
        state[slot] += _total(values, sink)

    return fold


def _total(values: Sequence[Any], sink: Sink) -> float:
    try:
        total: float = sum(values)
        if type(total) is int and min(values) >= 0 and total < LARGE:
            return total
    except Exception:
        pass
    usable, refused = _usable(values)
    if refused:
        sink.refused(refused)
    return sum(usable)


def _usable(values: Sequence[Any]) -> tuple[list[float], int]:
    """Return the numbers that a sum or a level can take, and how many of the values are none."""
    usable: list[float] = []
    missing = 0
    for value in values:
        read = value if value is None or type(value) is int else number(value)
        if value is None:
            missing += 1
        elif read is not None and 0 <= read < LARGE:
            usable.append(read)
    return usable, len(values) - missing - len(usable)


def _add(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    sign = -1.0 if feed.how == "take" else 1.0

    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        values = columns[column]
        if values[-1] is None and values.count(None) == size:
            return
        present = state[slot]
        state[slot] = sign * _total(values, sink) + (0.0 if math.isnan(present) else present)

    return fold


def _level(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        usable, refused = _usable(columns[column])
        if refused:
            sink.refused(refused)
        if usable:
            state[slot] = usable[-1]

    return fold


def _set(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    field = feed.field

    def careful(state: Any, owner: Any, values: Sequence[Any]) -> None:
        present = state[slot]
        last = len(values) - 1
        for index, value in enumerate(values):
            if value is None:
                continue
            read = value if type(value) in _NUMBERS else settled(value)
            if is_kept(read):  # on an accelerator: reading all of them would wait for it once a step
                if index != last:
                    continue
                read = number(read)
            if read is None:
                sink.refused(1)
            elif finite(read):
                present = read
            else:
                sink.nonfinite(owner, field, read, owner.sequence - (last - index) if present != HELD else None)
                present = HELD
        state[slot] = present

    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        values = columns[column]
        last = values[-1]
        if last is None and values.count(None) == size:
            return
        if type(last) in _NUMBERS and type(values[0]) in _NUMBERS and _are_finite(values, last, size):
            state[slot] = last  # a tensor would not be asked to add
        else:
            careful(state, owner, values)

    return fold


def _are_finite(values: Sequence[Any], last: Any, size: int) -> bool:
    try:
        total = last if last is values[0] and values.count(last) == size else sum(values)
        return type(total) in _NUMBERS and math.isfinite(total)
    except Exception:
        return False


def _number(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        if -LARGE < owner.sequence < LARGE:
            state[slot] = owner.sequence

    return fold


def _record(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    bounds, isfinite = feed.metric.buckets, math.isfinite

    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        values = columns[column]
        if values[0] is None and values.count(None) == size:
            return
        try:
            low, high, total = min(values), max(values), sum(values)
            sound = low >= 0.0 and isfinite(total)
        except Exception:
            sound = False
        if not sound:
            checked = plain([number(value) for value in values], clamp=feed.scale != 1.0)
            missing = size - values.count(None) - (len(checked[0]) if checked else 0)
            if missing:
                sink.refused(missing)
            if checked is None:
                return
            values, low, high, total = checked
        distribution = getattr(state, slot)
        if distribution is None:
            distribution = Distribution(bounds)
            setattr(state, slot, distribution)
        distribution.observe(bounds, values, low, high, total, exemplar)
        sink.pend(feed, state, values)

    return fold


def _record_whole(feed: Feed, slot: Any, column: int, sink: Sink) -> Fold:
    metric, scale = feed.metric, feed.scale
    bounds = [whole_bound(bound, scale) for bound in metric.buckets]

    def fold(state: Any, owner: Any, columns: Sequence[Sequence[Any]], size: int, exemplar: Any) -> None:
        values = columns[column]
        distribution = getattr(state, slot)
        if distribution is None:
            distribution = Distribution(bounds)
            setattr(state, slot, distribution)
        ordered = sorted(values)  # which needs no search for the extremes then
        distribution.observe(bounds, values, ordered[0], ordered[-1], sum(values), exemplar, scale, ordered)
        sink.pend(feed, state, values, scale)

    return fold


def whole_bound(bound: float, scale: float) -> int:
    """Return the greatest whole number that is not above a bound when it is multiplied by a scale."""
    found = round(bound / scale)
    while found * scale > bound:
        found -= 1
    while (found + 1) * scale <= bound:
        found += 1
    return found


_COMPILERS = {
    "count": _count, "rewind": _rewind, "sum": _sum, "add": _add, "take": _add,
    "set": _set, "number": _number, "level": _level, "record": _record,
}  # fmt: skip
