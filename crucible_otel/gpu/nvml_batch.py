"""Many fields asked for in one call, and what its answer means."""

from __future__ import annotations

import ctypes
import math
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from crucible_otel.gpu.nvml_fields import UNKNOWN_VALUES, VALUE_TYPES, Field

__all__ = ["Answers", "Batch"]

_ANSWER: Final = "24xIIQ"
"""``nvmlFieldValue_t``: (field, scope, time, latency,) type, code, value. ctypes attributes cost ten times as much."""
_WHOLE: Final = 3
"""The type of a value that fills its eight bytes, unsigned: it can be taken as it is."""
_LARGE: Final = min(UNKNOWN_VALUES)
"""Below it no value stands for an unknown one."""
_UNSIGNED: Final = 1 if sys.byteorder == "little" else -1
"""The type of a value that is the lower half of them."""


class Batch:
    """The array that one call fills, made once: making it costs more than the call.

    Args:
        kind: NVML's record of a field, as a type of ctypes.
        fields: What is asked for; also an attribute.
        prepare: Makes the call: see :meth:`crucible_otel.gpu.nvml_calls.Calls.prepare`.

    Attributes:
        ask: Makes it, and says whether it was answered.
        bytes: What was answered.
        unpack: Makes type, code and raw value of each field of it, one after the other.
        places: Attribute of the reading -> where its values are, for which entry, and what they are worth.
    """

    def __init__(self, kind: Any, fields: tuple[Field, ...], prepare: Callable[..., Any]) -> None:
        self.fields = fields
        self.places: dict[str, list[tuple[int, str, float]]] = {}
        for number, field in enumerate(fields):
            self.places.setdefault(field.target, []).append((3 * number, field.key, field.scale))
        array = (kind * len(fields))()
        for place, field in zip(array, fields, strict=True):
            place.fieldId, place.scopeId = field.id, field.scope
        self.bytes = (ctypes.c_char * ctypes.sizeof(array)).from_buffer(array)
        self.unpack = struct.Struct("=" + _ANSWER * len(fields)).unpack
        self.ask = prepare("nvmlDeviceGetFieldValues", len(fields), array)


class Answers:
    """What one call for fields has told; what it means is found out when somebody looks.

    Args:
        batch: What was asked.
        values: Type, code and raw value of each.
    """

    __slots__ = ("_batch", "_values")

    def __init__(self, batch: Batch, values: tuple[int, ...]) -> None:
        self._batch, self._values = batch, values

    def entries(self, target: str) -> dict[str, float]:
        """Return what there is of an attribute of a reading, by entry; a plain number has the entry ``""``."""
        found, values = {}, self._values
        for place, key, scale in self._batch.places.get(target, ()):
            if not values[place + 1]:
                raw = values[place + 2]
                value = raw if values[place] == _WHOLE and raw < _LARGE else _worth(values[place], raw)
                if value is not None:
                    found[key] = value * scale
        return found

    def value(self, target: str) -> float | None:
        """Return what there is of an attribute that is a plain number."""
        found, values = None, self._values
        for place, _, scale in self._batch.places.get(target, ()):
            if not values[place + 1]:
                raw = values[place + 2]
                value = raw if values[place] == _WHOLE and raw < _LARGE else _worth(values[place], raw)
                found = found if value is None else value * scale
        return found

    def all(self) -> dict[str, Any]:
        """Return all there is, by attribute."""
        found: dict[str, Any] = {}
        for target in self._batch.places:
            entries = self.entries(target)
            if entries:
                found[target] = entries.get("", entries)
        return found


def _worth(kind: int, raw: int) -> float | None:
    """Return the value of a field, by its type; None where NVML has none."""
    value = raw if kind == _WHOLE else raw & 0xFFFFFFFF if kind == _UNSIGNED else _decoded(kind, raw)
    return None if value in UNKNOWN_VALUES else value


def _decoded(kind: int, raw: int) -> float | None:
    layout = VALUE_TYPES.get(kind)
    if layout is None:
        return None
    value: float = layout.unpack_from(raw.to_bytes(8, sys.byteorder))[0]
    return value if math.isfinite(value) else None
