"""Calling NVML so that one failing call takes nothing with it: what a device cannot do is asked once."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from crucible_otel.gpu.backend import DeviceLostError
from crucible_otel.gpu.nvml_fields import GONE, NEVER, UNKNOWN_VALUES, VALUE_TYPES, WHOLE, Field

__all__ = ["Calls", "as_list"]

_LONGEST_PAUSE: Final = 64
"""Reads that are left out at most after a call has failed again and again."""
_ANSWER: Final = struct.Struct("=IIqqIIQ")
"""``nvmlFieldValue_t``: field, scope, time, latency, type, return, value. ctypes attributes cost ten times as much."""


class Calls:
    """The calls for one device, with the memory of which fail.

    An error that stays, such as "not supported", ends the call for good. After any other it is left out once, then
    twice, four times ... Losing the device raises.

    Args:
        library: The module ``pynvml``.
        handle: NVML's handle of the device.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self.handle = library, handle
        self._never: set[object] = set()
        self._failed: dict[object, int] = {}
        self._pause: dict[object, int] = {}
        self._batches: dict[str, _Batch] = {}

    @property
    def never(self) -> frozenset[object]:
        """What the device cannot do: names of calls, alone or with their arguments, and ids of fields."""
        return frozenset(self._never)

    def call(self, name: str, *args: Any, key: object = None) -> Any:
        """Return what a function of the library says of the device; None when it says nothing.

        Args:
            name: Of the function, whose first argument is the handle.
            args: Its other arguments.
            key: What the failures are remembered by, where not by name and arguments.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self.run(key if key is not None else (name, *args) if args else name, self._bound(name, *args))

    def first(self, names: Iterable[str], *args: Any) -> Any:
        """Return what the first of several functions says that says anything: the newer before the older."""
        for name in names:
            found = self.call(name, *args)
            if found is not None:
                return found
        return None

    def run(self, key: object, read: Callable[[], Any]) -> Any:
        """Return what ``read`` returns; None when it fails or has failed for good.

        Raises:
            DeviceLostError: The device is gone.
        """
        if key in self._never:
            return None
        if self._pause.get(key, 0):
            self._pause[key] -= 1
            return None
        try:
            found = read()
        except self._library.NVMLError as error:
            self.failed(key, int(error.value))
            return None
        except Exception:  # pynvml has errors of its own, and may be older than the function
            self._never.add(key)
            return None
        self._failed.pop(key, None)
        return found

    def failed(self, key: object, code: int) -> None:
        """Remember that something failed.

        Raises:
            DeviceLostError: With this code the device is gone.
        """
        if code in GONE:
            raise DeviceLostError(str(self._library.NVMLError(code)))
        if code in NEVER:
            self._never.add(key)
            return
        times = self._failed[key] = self._failed.get(key, -1) + 1
        self._pause[key] = min(2**times - 1, _LONGEST_PAUSE)

    def fields(self, name: str, wanted: tuple[Field, ...]) -> Iterator[tuple[Field, float]]:
        """Yield the fields that have a value, in one call for all.

        Args:
            name: Of this group of fields, always the same group.
            wanted: The fields.

        Raises:
            DeviceLostError: The device is gone.
        """
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = _Batch(self._library, wanted)
        if not batch.fields:
            return
        answers = self.run(name, lambda: batch.ask(self.handle))
        if answers is None:
            if name in self._never:  # one field that this driver does not know may spoil them all
                self._never.discard(name)
                known = [each for each in batch.fields if self._known(each)]
                self._batches[name] = _Batch(self._library, known)
            return
        unsupported = False
        for field, (_, _, _, _, kind, code, raw) in zip(batch.fields, answers, strict=True):
            if code:
                self.failed(field.id, code)
                unsupported = unsupported or field.id in self._never
                continue
            value = raw if kind in WHOLE else _decoded(kind, raw)
            if value is not None and value not in UNKNOWN_VALUES:
                yield field, value * field.scale
        if unsupported:
            left = [each for each in batch.fields if each.id not in self._never]
            self._batches[name] = _Batch(self._library, left)

    def _known(self, field: Field) -> bool:
        return self.run(field.id, lambda: _Batch(self._library, [field]).ask(self.handle)) is not None

    def _bound(self, name: str, *args: Any) -> Callable[[], Any]:
        return lambda: getattr(self._library, name)(self.handle, *args)


def as_list(found: Any) -> list[Any]:
    """Return a sequence that a call gave, or an empty list."""
    return list(found) if found is not None else []


class _Batch:
    """The array that one call fills, made once: making it costs more than the call."""

    def __init__(self, library: Any, fields: Iterable[Field]) -> None:
        self.fields = tuple(fields)
        self._library = library
        self._array = (library.c_nvmlFieldValue_t * len(self.fields))()
        for place, field in zip(self._array, self.fields, strict=True):
            place.fieldId, place.scopeId = field.id, field.scope

    def ask(self, handle: Any) -> list[tuple[Any, ...]]:
        """Return the answers, one for each field.

        Raises:
            NVMLError: Of the call as a whole.
        """
        array = self._array
        pointer = getattr(self._library, "_nvmlGetFunctionPointer", None)
        if pointer is None:
            array = self._library.nvmlDeviceGetFieldValues(handle, [(each.id, each.scope) for each in self.fields])
        else:
            code = pointer("nvmlDeviceGetFieldValues")(handle, len(self.fields), array)
            if code:
                raise self._library.NVMLError(code)
        return list(_ANSWER.iter_unpack(array))


def _decoded(kind: int, raw: int) -> float | None:
    layout = VALUE_TYPES.get(kind)
    if layout is None:
        return None
    value: float = layout.unpack_from(raw.to_bytes(8, sys.byteorder))[0]
    return value if math.isfinite(value) else None
