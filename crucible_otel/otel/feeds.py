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

    def pend(self, feed: Feed, state: Any, values: Sequence[float]) -> None:
        """Values of a diverted histogram."""


def compiled(feed: Feed, slot: Any, column: int, sink: Sink, sequence: str) -> Fold:
    """Return the fold of one feed.

    Args:
        feed: The feed.
        slot: Where the series keeps the stream.
        column: Index of its field in the record; ignored by ``count``.
        sink: See :class:`Sink`.
        sequence: The field that numbers the records, or empty.
    """
    numbered = sequence and feed.field == sequence and feed.how == "set"
    return _COMPILERS["number" if numbered else feed.how](feed, slot, column, sink)


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
    def careful(values: Sequence[Any]) -> float:
        total: float = 0
        refused = 0
        for value in values:
            if value is None:
                continue
            if type(value) is not int:
                value = number(value)
            if value is None or not 0 <= value < LARGE:
                refused += 1
            else:
                total += value
        if refused:
            sink.refused(refused)
        return total

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
        try:
            total = sum(values)
            if type(total) is not int or min(values) < 0 or total >= LARGE:
                total = careful(values)
        except Exception:
            total = careful(values)
        state[slot] += total

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


_COMPILERS = {
    "count": _count, "rewind": _rewind, "sum": _sum, "set": _set, "number": _number, "record": _record,
}  # fmt: skip
