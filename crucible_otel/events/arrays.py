"""Look at tensors and arrays without reading them and without importing their libraries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

__all__ = ["Array", "look"]

_PLAIN: Final = (str, int, float, bool)


@dataclass(frozen=True)
class Array:
    """A tensor, an array or a number of an array library.

    Attributes:
        text: Its type, shape, element type and, unless that is the CPU, its device.
        single: Whether it has exactly one element, which its ``item()`` gives.
        on_cpu: Whether it can be read without waiting for an accelerator.
    """

    text: str
    single: bool
    on_cpu: bool


def look(value: object) -> Array | None:
    """Return what can be told of a value by its shape and device alone, ``None`` if it is no array.

    Args:
        value: Anything; it is not read, and its library is not imported.
    """
    kind = type(value)
    if kind in _PLAIN or isinstance(value, (Mapping, list, tuple, BaseException)):
        return None
    try:
        shape, item = getattr(value, "shape", None), getattr(value, "item", None)
        if not isinstance(shape, Iterable) or not (callable(item) or hasattr(value, "dtypes")):
            return None
        sizes = tuple(int(size) for size in islice(shape, 32))
        device = getattr(value, "device", None)
        where = str(getattr(device, "type", None) or getattr(device, "platform", None) or device or "cpu")
        on_cpu = "cpu" in where.lower() and getattr(value, "is_cuda", False) is not True
        place = "" if on_cpu else f", device={str(device)[:64]}"
        dtype = str(getattr(value, "dtype", "?"))[:64]
        return Array(
            f"{kind.__name__}(shape={sizes}, dtype={dtype}{place})", callable(item) and math.prod(sizes) == 1, on_cpu
        )
    except Exception:
        return None
