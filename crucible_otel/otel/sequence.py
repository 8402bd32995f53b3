"""Numbered events: what the same number again, a lower number and no number mean.

The same number as the last one only adds what was missing and counts nothing; a lower number is a rewind and counts
as such; no number is the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from crucible_otel.otel.handle import Owner
from crucible_otel.otel.values import LARGE

Columns = Sequence[Sequence[Any]]
_WHOLE = 256


def in_order(owner: Owner, columns: Columns, size: int, number: int, duration: int) -> tuple[Columns, int, list[Any]]:
    """Return the columns to fold, their size, and the late additions to the record before them.

    Args:
        owner: Whose records they are; its ``sequence`` and ``rewinds`` are brought up to date.
        columns: The columns of a chunk, the owners first.
        size: Number of records.
        number: Index of the column that numbers them.
        duration: Index of the column of their durations.
    """
    numbers = columns[number]
    first = owner.sequence + 1
    if owner.carried_s == 0.0:
        if numbers[0] is None:
            if numbers.count(None) == size:
                owner.sequence += size
                return [*columns[:number], [owner.sequence], *columns[number + 1 :]], size, []
        elif _follow(numbers, first, size):
            owner.sequence += size
            return columns, size, []
    return _one_by_one(owner, columns, number, duration)


def _follow(numbers: Sequence[Any], first: int, size: int) -> bool:
    """Return whether the numbers count up from the first.

    Those of a whole chunk are compared as one integer, which costs half as much as one by one.
    """
    if size % _WHOLE == 0 and numbers[0] == first >= 0 and numbers[-1] == first + size - 1:
        pack, ramp, ones = _as_one(size)
        try:
            return pack(*numbers) == (ramp + first * ones).to_bytes(4 * size, "little")
        except (struct.error, OverflowError):  # no integers, or such beyond 32 bits
            pass
    return list(numbers) == list(range(first, first + size))


@lru_cache(maxsize=4)
def _as_one(size: int) -> tuple[Callable[..., bytes], int, int]:
    pack = struct.Struct(f"<{size}I").pack
    return pack, int.from_bytes(pack(*range(size)), "little"), int.from_bytes(pack(*[1] * size), "little")


def _one_by_one(owner: Owner, columns: Columns, number: int, duration: int) -> tuple[Columns, int, list[Any]]:
    rows: list[list[Any]] = []
    late: list[Any] = []
    for record in zip(*columns, strict=True):
        row = list(record)
        value = row[number] = _whole(row[number], owner.sequence + 1)
        before = rows[-1] if rows else owner.tail
        if before is not None and value == owner.sequence:
            owner.carried_s += row[duration] or 0.0
            additions = [
                new if old is None or (old == 0 and index != number) else None
                for index, (old, new) in enumerate(zip(before, row, strict=True))
            ]
            if rows:
                rows[-1] = [old if new is None else new for old, new in zip(before, additions, strict=True)]
            else:
                late.append(additions)
            continue
        if before is not None and value < owner.sequence:
            owner.rewinds += 1
        if row[duration] is not None:
            row[duration] += owner.carried_s
            owner.carried_s = 0.0
        owner.sequence = value
        rows.append(row)
    return list(zip(*rows, strict=True)), len(rows), late


def _whole(value: Any, default: int) -> int:
    try:
        number = value if type(value) is int else int(value)
    except Exception:
        return default
    return number if -LARGE < number < LARGE else default
