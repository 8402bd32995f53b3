"""Many items that wait, are counted, and leave as many, but are kept and written as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from crucible_otel.export.pace import Pace, free, paced

__all__ = ["Batch", "Chunk"]


class Chunk(Sequence[Any]):
    """Items in a form of their own: a sequence of them, of which a part is a chunk, too.

    Attributes:
        nbytes: About how much memory all of them take.
        resource: The resource of all of them.
        instrumentation_scope: Their scope.
    """

    __slots__ = ()
    nbytes: int
    resource: Any
    instrumentation_scope: Any

    @abstractmethod
    def otlp_fields(self) -> bytes | bytearray:
        """Write all of them as fields of their scope's message, each with tag and length.

        Raises:
            Exception: One of them cannot be written; then each is to be written by itself.
        """


class Batch(Sequence[Any]):
    """What one export takes: a sequence of items, those of chunks among them.

    It pauses while it is iterated over.

    Args:
        pace: When to pause.

    Attributes:
        pace: When to pause.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._pieces: list[list[Any] | Chunk] = []
        self._number = 0

    def append(self, item: Any) -> None:
        """Add an item."""
        self._number += 1
        self._list().append(item)

    def extend(self, items: Sequence[Any]) -> None:
        """Add items; a chunk stays one."""
        self._number += len(items)
        if isinstance(items, Chunk):
            self._pieces.append(items)
        else:
            self._list().extend(items)

    def __len__(self) -> int:
        """Return the number of items."""
        return self._number

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items, those of chunks one by one."""
        for piece in self._pieces:
            yield from paced(piece, self.pace)

    def pieces(self) -> Iterator[Iterable[Any]]:
        """Iterate over the chunks, and what is between them."""
        for piece in self._pieces:
            if isinstance(piece, Chunk):
                yield piece
                self.pace.breathe()
            else:
                yield paced(piece, self.pace)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return an item, or some in a row as a batch."""
        if not isinstance(index, slice):
            at = range(self._number)[index]
            return next(iter(self[at : at + 1]))
        start, stop, _ = index.indices(self._number)
        part, at = Batch(self.pace), 0
        for piece in self._pieces:
            some = piece[max(0, start - at) : max(0, stop - at)]
            if len(some):
                part.extend(some)
            at += len(piece)
        return part

    def free(self) -> None:
        """Let go of the items, pausing meanwhile: to free thousands of spans at once takes long."""
        self._number = 0
        while self._pieces:
            piece = self._pieces.pop()
            if isinstance(piece, list):
                free(piece, self.pace)
            del piece
            self.pace.breathe()

    def _list(self) -> list[Any]:
        """Return the list that the next item goes to."""
        last = self._pieces[-1] if self._pieces else None
        if type(last) is not list:
            last = []
            self._pieces.append(last)
        return last
