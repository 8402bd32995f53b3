"""Values that users hand in, on the hot path: numbers, NumPy scalars, tensors.

A tensor on an accelerator is detached and kept, because reading it would wait for the device; it is read when its
chunk is folded, and only the last one of the chunk. Everything else becomes a float at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

LARGE: Final = 2**53
"""A count or a number beyond this is a mistake; added up it would not fit into what is sent."""


def settled(value: Any) -> Any:
    """Return a float, a detached accelerator tensor to be read later, or None for what is no number; never raises."""
    kind = type(value)
    if kind is float or value is None:
        return value
    if kind is int:
        return value if -LARGE < value < LARGE else number(value)
    try:
        detach = getattr(value, "detach", None)
        if detach is not None:
            value = detach()
        device = getattr(value, "device", None)
        place = getattr(device, "type", None) or getattr(device, "platform", None)
        if place is not None and place != "cpu":
            return value
        return _read(value)
    except Exception:
        return None


def number(value: Any) -> float | None:
    """Return a float, reading a kept tensor; None for what is no number; never raises."""
    if type(value) is float:
        return value
    if value is None:
        return None
    try:
        return _read(value)
    except Exception:
        return None


def _read(value: Any) -> float:
    item = getattr(value, "item", None)  # an array of one element is a number, whatever its shape
    return float(value if item is None else item())


def cleaned(columns: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Return the columns of records, the owners first, with nothing in them but numbers and gaps."""
    return [columns[0], *([_clean(value) for value in column] for column in columns[1:])]


def _clean(value: Any) -> float | None:
    return value if type(value) is int and -LARGE < value < LARGE else number(value)


def is_kept(value: Any) -> bool:
    """Return whether :func:`settled` kept the value to be read later."""
    return value is not None and not isinstance(value, (int, float))


def finite(value: float | None) -> bool:
    """Return whether the value is a finite number."""
    return value is not None and math.isfinite(value)


def spelled(value: float) -> str:
    """Return ``NaN``, ``Infinity`` or ``-Infinity``, as the protobuf JSON mapping spells them."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
