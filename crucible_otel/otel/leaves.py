"""Operations that somebody else has timed and that ended well: rows of whole numbers, folded by the hundred.

Of a row that is put nothing is made before the fold: neither seconds nor an id. Then each metric is given its column,
and the spans of one place go on as columns, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from operator import mul, sub
from typing import TYPE_CHECKING, Any, Final

from crucible_otel.events.runtime import runtime
from crucible_otel.otel.feeds import compiled
from crucible_otel.otel.record import packed
from crucible_otel.otel.snapshot import Over
from crucible_otel.semconv.model import Field

if TYPE_CHECKING:
    from crucible_otel.otel.buffer import SpanBuffer
    from crucible_otel.otel.engine import Engine
    from crucible_otel.otel.family import Family
    from crucible_otel.otel.places import Place

FULL: Final = 512
"""Rows that are folded at once: their spans' numbers are still in the cache, and who folds is not kept long."""

_AT_MOST: Final = 64


class Leaves:
    """The rows of an operation: ``(place, end in ns, duration in ns, *values)``, none of them negative.

    Args:
        family: Has the metrics: each of its columns is the duration or one of the values.
        engine: Has the lock.
        told: The fields of the values, in order: nanoseconds and other whole numbers.
        buffer: Keeps the spans; None when there are none.
        slow_ns: From which duration on a span is kept whatever the rate says.

    Attributes:
        buffer: The rows, one after the other, after a first half that stays empty; see :class:`Family`.
        full: Length of the buffer at which to call ``fold``.
    """

    def __init__(
        self, family: Family, engine: Engine, told: Sequence[Field], *, buffer: SpanBuffer | None, slow_ns: int
    ) -> None:
        self._engine, self._spans, self._slow_ns = engine, buffer, slow_ns
        names = ["duration", *(field.name for field in told)]
        self._timed = tuple(field.unit == "ns" for field in told)
        self._folds = tuple(
            compiled(feed, family.group.slot(feed), names.index(feed.field) if feed.field else 0, engine, whole=True)
            for feed in family.spec.feeds
        )
        self._width = 2 + len(names)
        self._start = FULL * self._width
        self.full = 2 * self._start
        self.buffer: list[Any] = [None] * self._start
        engine.rows.append(self)

    def fold(self) -> None:
        """Fold in place unless somebody else holds the lock; called by whoever filled the buffer."""
        lock = self._engine.lock
        if not lock.acquire(blocking=False):
            if len(self.buffer) > _AT_MOST * self.full:  # only while the lock's holder is starved
                time.sleep(0)
            return
        fault: Exception | None = None
        try:
            self.fold_now()
        except Exception as error:
            fault = error
        finally:
            lock.release()
        try:
            if fault is not None:
                raise fault
            if self._spans is not None and self._spans.crowded:
                self._spans.hurry()
        except Exception as error:  # else the call that filled the buffer would be reported once more
            runtime().fault("calls", error)

    def fold_now(self, over: Over = iter) -> None:
        """Fold what is buffered; the engine's lock is held.

        Args:
            over: Iterates over the places, and may pause meanwhile.
        """
        buffer, width, start = self.buffer, self._width, self._start
        entries = len(buffer)
        if entries == start:
            return
        places, *columns = (buffer[index:entries:width] for index in range(start, start + width))
        del buffer[start:entries]
        place, size = places[-1], len(places)
        if places.count(place) == size:
            self._fold(place, columns, size)
            return
        groups: dict[Place, list[int]] = {}
        for index, each in enumerate(places):
            groups.setdefault(each, []).append(index)
        for each, indices in over(list(groups.items())):
            self._fold(each, [list(map(column.__getitem__, indices)) for column in columns], len(indices))

    def clear(self) -> None:
        """Forget what is not folded yet."""
        del self.buffer[self._start :]

    def _fold(self, place: Place, columns: list[list[int]], size: int) -> None:
        ends, *measured = columns
        state, exemplar = place.owner.state, self._engine.exemplar_of(place.under.above)
        for fold in self._folds:
            fold(state, place.owner, measured, size, exemplar)
        if self._spans is not None and place.shape is not None:
            durations, *told = measured
            starts = packed("Q", list(map(sub, ends, durations)))
            values = [
                packed("d", list(map(mul, column, repeat(1e-9)))) if timed else packed("Q", column)
                for column, timed in zip(told, self._timed, strict=True)
            ]
            chosen = self._spans.chosen(durations, self._slow_ns)
            self._spans.add(place.shape, place.under, starts, packed("Q", ends), values, chosen)
