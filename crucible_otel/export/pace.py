"""Working through a lot in the background without keeping the other threads from running.

CPython takes the GIL from a thread only after 5 ms. A training loop that wants it back would wait as long, so who works
in the background gives it up by itself, after less than a millisecond.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

__all__ = ["PATIENCE_S", "PAUSE_S", "SLICE_S", "Pace", "Paced", "free", "paced", "pacing"]

Item = TypeVar("Item")

SLICE_S: Final = 0.0003
"""How long to work in one go, about. To work less would take longer wherever the other threads are never idle: each
time they keep the GIL for 5 ms."""

PAUSE_S: Final = 0.00005
"""How long to pause then. ``sleep(0)`` would take the GIL again before a thread that waits for it has woken up."""

PATIENCE_S: Final = 2.0
"""How long to pause again and again where somebody waits for the end: a scrape or an export is given up after 10 s."""

_AT_MOST: Final = 64
_FREED_AT_ONCE: Final = 64


class Pace:
    """Says when to pause; for one thread.

    Args:
        clock: Monotonic seconds.
        sleep: Pauses.
        patience_s: After so many seconds it pauses no more.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        *,
        patience_s: float = math.inf,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._since_s = clock()
        self._until_s = self._since_s + patience_s

    def breathe(self) -> float:
        """Pause if it is time to.

        Returns:
            The share of the slice that has gone; 0 after a pause.
        """
        gone = (self._clock() - self._since_s) / SLICE_S
        if gone < 1:
            return gone
        self.pause()
        return 0.0

    def pause(self) -> None:
        """Pause now: before what takes long and cannot pause."""
        if self._since_s < self._until_s:
            self._sleep(PAUSE_S)
        self._since_s = self._clock()


def paced(items: Sequence[Item], pace: Pace) -> Iterator[Item]:
    """Iterate, with a look at the clock each few items: fewer when what is done with them takes long."""
    start, few = 0, 1
    gone = 0.0
    while start < len(items):
        yield from items[start : start + few]
        start += few
        before, gone = gone, pace.breathe()
        taken = gone - before
        if 0 < taken < 0.0625 and few < _AT_MOST:
            few *= 2
        elif taken > 0.125 or gone == 0:
            few = max(1, few // 2)


def pacing() -> Callable[[Sequence[Any]], Iterator[Any]]:
    """Return what iterates like :func:`paced`, with a pace of its own, for as long as somebody who waits is patient."""
    return partial(paced, pace=Pace(patience_s=PATIENCE_S))


class Paced(list[Item]):
    """A list that pauses while it is iterated over, whoever does so: encoders of the SDK too.

    Args:
        pace: When to pause.
        items: What is in it.
    """

    def __init__(self, pace: Pace, items: Iterable[Item] = ()) -> None:
        super().__init__(items)
        self._pace = pace

    def __iter__(self) -> Iterator[Item]:
        """Iterate."""
        return paced(self, self._pace)


def free(items: list[Any], pace: Pace) -> None:
    """Empty a list, pausing meanwhile: to free thousands of spans at once takes long."""
    while items:
        del items[-_FREED_AT_ONCE:]
        pace.breathe()
