"""What waits for an exporter: bounded by bytes, and counted.

What puts items in takes no lock: each statement that counts is one that CPython, with its GIL, does not interrupt
between reading a number and writing it. It may do so at a call, so none of these statements has one.

When it is full, what comes next is dropped, and counted. To drop the oldest instead would take from the exporter what
is about to leave. But a span ends after the spans inside it, so what comes next is often the parent of all that waits:
therefore what comes in bulk, the spans of hot calls, may fill seven eighths only, and the rest is kept for the spans
and log records that come one by one.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crucible_otel.export.chunk import Batch, Chunk
from crucible_otel.export.pace import Pace
from crucible_otel.export.sizes import NBYTES, size_of

__all__ = ["Backlog", "Bounds", "QueueCounts"]

MAX_BYTES: Final = 64 * 1024 * 1024
BATCH_BYTES: Final = 3 * 1024 * 1024
"""A message is smaller than its items in memory: well below the 4 MiB that a gRPC receiver accepts."""

_PIECE: Final = 512
"""Items that come in bulk are weighed and kept in pieces of this many."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may wait, and how much goes at once.

    Attributes:
        max_bytes: What may wait or be on its way, by :func:`~crucible_otel.export.sizes.size_of`.
        max_items: How many may wait; None for no bound but the bytes.
        batch_bytes: What one export takes; a single larger item goes alone.
        batch_items: How many one export takes; None for no bound but the bytes.
        delay_s: How long an item waits at most, unless the exporter takes longer.
    """

    max_bytes: int = MAX_BYTES
    max_items: int | None = None
    batch_bytes: int = BATCH_BYTES
    batch_items: int | None = None
    delay_s: float = 5.0


class QueueCounts(NamedTuple):
    """What became of the items of this process.

    Attributes:
        offered: How many were put in, or tried to be.
        taken: How many were handed to the exporter.
        waiting: How many wait.
        waiting_bytes: The memory of those that wait and of those that are on their way.
        full: How many were dropped because it was full.
        ended: How many came after the end, or were left when the time for it was over.
    """

    offered: int
    taken: int
    waiting: int
    waiting_bytes: int
    full: int
    ended: int


class Backlog:
    """Items in the order they came; put in by any thread, taken out by one at a time.

    Args:
        bounds: How much may wait and go at once.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        max_bytes, max_items = bounds.max_bytes, bounds.max_items or sys.maxsize
        self._max_bytes, self._bulk_bytes = max_bytes, max_bytes - max_bytes // 8
        self._max_items, self._bulk_items = max_items, max_items - max_items // 8
        self._batch_items = bounds.batch_items or sys.maxsize
        # A batch is full before the backlog is, where that is small.
        self._full_bytes = max(1, min(bounds.batch_bytes, max_bytes // 2))
        self._full_items = max(1, min(self._batch_items, max_items // 2))
        self._entries: deque[tuple[int, int, Any]] = deque()  # size, number (0: an item and not many of them), what
        self._items_in = self._bytes_in = self._full = self._late = 0
        # Written by who takes out; what is on its way takes room until it is let go of.
        self._items_taken = self._bytes_taken = self._bytes_done = 0
        self.closed = self.ended = False

    def add(self, item: Any) -> bool:
        """Add an item, or drop and count it; return whether there is a full batch now."""
        if self.closed:
            self._late += 1
            return False
        size = size_of(item)
        waiting = self._items_in - self._items_taken
        if waiting >= self._max_items or self._bytes_in - self._bytes_done + size > self._max_bytes:
            self._full += 1
            return False
        self._bytes_in += size
        self._items_in += 1
        self._entries.append((size, 0, item))
        return waiting + 1 >= self._full_items or self._bytes_in - self._bytes_taken >= self._full_bytes

    def extend(self, items: Sequence[Any], pace: Pace | None = None, *, late: bool = False) -> int:
        """Add many items; what does not fit is dropped and counted.

        Args:
            items: The items, or a chunk of them; kept as they are, to be changed no more.
            pace: When to pause, in the background.
            late: Whether items are welcome although it is closed.

        Returns:
            How many were accepted: the first ones.
        """
        if self.closed and not late:
            missed = len(items)
            self._late += missed
            return 0
        accepted = 0
        for start in range(0, len(items), _PIECE):
            piece = items if len(items) <= _PIECE else items[start : start + _PIECE]
            kept = self._extend(piece)
            accepted += kept
            if kept < len(piece):
                missed = len(items) - accepted
                self._full += missed
                break
            if pace is not None:
                pace.breathe()
        return accepted

    def _extend(self, piece: Sequence[Any]) -> int:
        size = _weight(piece)
        room_bytes = self._bulk_bytes - (self._bytes_in - self._bytes_done)
        room_items = self._bulk_items - (self._items_in - self._items_taken)
        if size > room_bytes or len(piece) > room_items:
            piece, size = _fitting(piece, room_bytes, room_items)
        number = len(piece)
        if number:
            self._bytes_in += size
            self._items_in += number
            self._entries.append((size, number, piece))
        return number

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._items_in - self._items_taken if self._entries else 0

    @property
    def has_batch(self) -> bool:
        """Whether a full batch waits."""
        return (
            self._bytes_in - self._bytes_taken >= self._full_bytes
            or self._items_in - self._items_taken >= self._full_items
        )

    @property
    def room_bytes(self) -> int:
        """How much :meth:`extend` would accept."""
        if self._items_in - self._items_taken >= self._bulk_items:
            return 0
        return max(0, self._bulk_bytes - (self._bytes_in - self._bytes_done))

    @property
    def counts(self) -> QueueCounts:
        """The counts at this moment; exact when nobody is adding anything."""
        items_in, taken = self._items_in, self._items_taken
        waiting = items_in - taken
        return QueueCounts(
            offered=items_in + self._full + self._late,
            taken=taken,
            waiting=0 if self.ended else waiting,
            waiting_bytes=0 if self.ended else self._bytes_in - self._bytes_done,
            full=self._full,
            # One who looked just before it was closed may have added something after the end.
            ended=self._late + (waiting if self.ended else 0),
        )

    # -- taking out ----------------------------------------------------------------------------------------------------

    @property
    def added(self) -> int:
        """How many items were accepted so far."""
        return self._items_in

    def delivered_all_before(self, added: int) -> bool:
        """Whether none of the first ``added`` items waits."""
        return self._items_taken >= added or not self._entries

    def take(self, batch: Batch) -> int:
        """Move what one export takes, at least one item if there is one, into a batch; return its size in bytes."""
        entries, taken, left = self._entries, 0, self._batch_items
        while entries and left:
            room = self.bounds.batch_bytes - taken
            size, number, what = entries.popleft()
            if number > left or (number > 1 and size > room):
                first = min(left, number * max(room, 0) // max(size, 1)) or (not batch)
                part = size * first // number
                entries.appendleft((size - part, number - first, what[first:]))
                size, number, what = part, int(first), what[:first]
                if not number:
                    break
            elif size > room and batch:
                entries.appendleft((size, number, what))
                break
            if number:
                batch.extend(what)
            else:
                batch.append(what)
            taken += size
            left -= number or 1
            batch.pace.breathe()
        self._items_taken += len(batch)
        self._bytes_taken += taken
        return taken

    def let_go(self, size: int) -> None:
        """Give back the room of a batch of this size."""
        self._bytes_done += size

    def end(self) -> None:
        """Drop what is left, for good."""
        self.closed = self.ended = True
        self._entries.clear()


def _weight(items: Sequence[Any]) -> int:
    if isinstance(items, Chunk):
        return items.nbytes
    try:
        return sum(map(NBYTES, items))
    except AttributeError:
        return sum(map(size_of, items))


def _fitting(items: Sequence[Any], room_bytes: int, room_items: int) -> tuple[Sequence[Any], int]:
    """Return the first items that fit, and their size."""
    if isinstance(items, Chunk):
        number = max(0, min(room_items, len(items) * room_bytes // max(items.nbytes, 1)))
        first = items[:number]
        return first, _weight(first)
    size = number = 0
    for item in items:
        more = size + size_of(item)
        if more > room_bytes or number + 1 > room_items:
            break
        size, number = more, number + 1
    return items[:number], size
