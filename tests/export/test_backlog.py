"""What waits: bounded, in order, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from crucible_otel.export.backlog import Backlog, Bounds
from crucible_otel.export.chunk import Batch
from crucible_otel.export.pace import Pace


@dataclass(frozen=True)
class Item:
    """Something that knows its size."""

    number: int
    nbytes: int = 100


def items(count: int, start: int = 0, nbytes: int = 100) -> list[Item]:
    """Return numbered items."""
    return [Item(number, nbytes) for number in range(start, start + count)]


def taken(backlog: Backlog) -> list[list[int]]:
    """Take everything out, and let go of it; return the numbers, by batch."""
    batches = []
    while True:
        batch = Batch(Pace())
        size = backlog.take(batch)
        if not batch:
            return batches
        assert sum(item.nbytes for item in batch) == size or len({item.nbytes for item in batch}) > 1
        backlog.let_go(size)
        batches.append([item.number for item in batch])


def test_what_comes_next_is_dropped_when_the_bytes_are_used_up() -> None:
    """The first ones stay, in order; the counts account for all."""
    backlog = Backlog(Bounds(max_bytes=1000))
    for item in items(15):
        backlog.add(item)

    assert (15, 0, 10, 1000, 5, 0) == backlog.counts
    assert [list(range(10))] == taken(backlog)
    assert (15, 10, 0, 0, 5, 0) == backlog.counts


def test_a_smaller_item_still_fits_where_a_large_one_did_not() -> None:
    """It is bounded by bytes, not by luck."""
    backlog = Backlog(Bounds(max_bytes=1000))
    for number, nbytes in enumerate((900, 200, 100, 1)):
        backlog.add(Item(number, nbytes))

    assert (2, 1000) == (backlog.counts.full, backlog.counts.waiting_bytes)
    assert [[0, 2]] == taken(backlog)


def test_a_number_bounds_it_too_where_there_is_one() -> None:
    """As ``OTEL_BSP_MAX_QUEUE_SIZE`` asks."""
    backlog = Backlog(Bounds(max_items=3))
    for item in items(5):
        backlog.add(item)

    assert (3, 2) == (backlog.counts.waiting, backlog.counts.full)


def test_what_is_on_its_way_takes_room_until_it_is_let_go_of() -> None:
    """Else a slow exporter would hold twice the memory that was asked for."""
    backlog = Backlog(Bounds(max_bytes=1000))
    for item in items(10):
        backlog.add(item)
    size = backlog.take(Batch(Pace()))
    backlog.add(Item(10))
    assert (1000, 1) == (backlog.counts.waiting_bytes, backlog.counts.full)

    backlog.let_go(size)
    backlog.add(Item(11))

    assert (100, 1) == (backlog.counts.waiting_bytes, backlog.counts.full)


@pytest.mark.parametrize("bounds", [Bounds(max_bytes=8000), Bounds(max_items=80)], ids=["bytes", "items"])
def test_what_comes_in_bulk_leaves_an_eighth_to_what_comes_one_by_one(bounds: Bounds) -> None:
    """So a flood of calls costs no span of the stage around them."""
    backlog = Backlog(bounds)

    assert 70 == backlog.extend(items(100))
    assert (0, 0) == (backlog.room_bytes, backlog.extend(items(1)))
    for item in items(12, start=100):
        backlog.add(item)

    assert (80, 33) == (backlog.counts.waiting, backlog.counts.full)
    assert [*range(70), *range(100, 110)] == [number for batch in taken(backlog) for number in batch]
    assert backlog.room_bytes == (7000 if bounds.max_items is None else backlog.bounds.max_bytes * 7 // 8)


def test_bulk_of_many_pieces_is_kept_in_order() -> None:
    """Whatever it is mixed with, and however batches cut it."""
    backlog = Backlog(Bounds(batch_bytes=70_000))
    backlog.add(Item(0))
    assert 5000 == backlog.extend(items(5000, start=1))
    backlog.add(Item(5001))

    batches = taken(backlog)

    assert list(range(5002)) == [number for batch in batches for number in batch]
    assert {700} == {len(batch) for batch in batches[:-1]}


def test_the_first_of_bulk_that_does_not_fit_are_kept() -> None:
    """Sizes may differ, and some items may not know theirs."""
    backlog = Backlog(Bounds(max_bytes=8000))
    mixed: list[Any] = [*items(10, nbytes=300), object(), *items(1, start=10, nbytes=1)]

    assert 11 == backlog.extend([*mixed[:11]])
    assert (1, 1) == (backlog.extend([Item(11, 0), Item(12, 1)]), backlog.counts.full)


@pytest.mark.parametrize(
    ("bounds", "sizes"),
    [
        (Bounds(batch_bytes=250), [2, 2, 2, 2, 2]),
        (Bounds(batch_items=4), [4, 4, 2]),
        (Bounds(batch_bytes=250, batch_items=1), [1] * 10),
        (Bounds(batch_bytes=1), [1] * 10),
        (Bounds(), [10]),
    ],
)
@pytest.mark.parametrize("bulk", [True, False])
def test_a_batch_is_bounded_by_bytes_and_where_asked_by_number(bounds: Bounds, sizes: list[int], bulk: bool) -> None:
    """A single item that is too large goes alone."""
    backlog = Backlog(bounds)
    if bulk:
        backlog.extend(items(10))
    else:
        for item in items(10):
            backlog.add(item)

    batches = taken(backlog)

    assert sizes == [len(batch) for batch in batches]
    assert list(range(10)) == [number for batch in batches for number in batch]


@pytest.mark.parametrize(
    ("bounds", "full_at"),
    [
        (Bounds(batch_bytes=500), 5),
        (Bounds(batch_items=3), 3),
        (Bounds(max_items=8), 4),
        (Bounds(max_items=1), 1),
        (Bounds(max_bytes=1200), 6),
    ],
)
def test_it_says_when_a_batch_is_full(bounds: Bounds, full_at: int) -> None:
    """Where the backlog is small, when half of it is: an export should begin before anything is dropped."""
    backlog = Backlog(bounds)

    said = [backlog.add(item) for item in items(full_at)]

    assert [False] * (full_at - 1) + [True] == said
    assert backlog.has_batch


def test_what_comes_after_the_end_and_what_is_left_is_counted_as_such() -> None:
    """Nothing vanishes from the books."""
    backlog = Backlog(Bounds())
    for item in items(3):
        backlog.add(item)
    backlog.closed = True
    backlog.add(Item(3))
    assert (0, 2) == (backlog.extend(items(2)), backlog.extend(items(2), late=True))
    assert (8, 5, 3) == (backlog.counts.offered, backlog.counts.waiting, backlog.counts.ended)

    backlog.end()

    assert (8, 0, 0, 0, 0, 8) == backlog.counts
    assert [] == taken(backlog)
