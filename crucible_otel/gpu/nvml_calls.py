"""Calling NVML so that one failing call takes nothing with it: what a device cannot do is asked once.

What is read on every tick is called in the library itself, with the same memory for its answers each time: what pynvml
does around a call costs several times as much as the call.
"""

from __future__ import annotations

import ctypes
import math
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from crucible_otel.gpu.backend import DeviceLostError
from crucible_otel.gpu.nvml_fields import FUNCTION_NOT_FOUND, GONE, NEVER, UNKNOWN_VALUES, VALUE_TYPES, Field

__all__ = ["Calls"]

_LONGEST_PAUSE: Final = 64
"""Reads that are left out at most after a call has failed again and again."""
_ANSWER: Final = struct.Struct("=IIqqIIQ")
"""``nvmlFieldValue_t``: field, scope, time, latency, type, return, value. ctypes attributes cost ten times as much."""
_WHOLE: Final = 3
"""The type of a value that fills its eight bytes, unsigned: it can be taken as it is."""
_UNSIGNED: Final = 1 if sys.byteorder == "little" else -1
"""The type of a value that is the lower half of them."""


class Calls:
    """The calls for one device, with the memory of which fail.

    An error that stays, such as "not supported", ends the call for good. After any other it is left out once, then
    twice, four times ... Losing the device raises.

    Args:
        library: The module ``pynvml``.
        direct: The library that it has loaded.
        handle: NVML's handle of the device.
    """

    def __init__(self, library: Any, direct: Any, handle: Any) -> None:
        self._library, self._direct, self.handle = library, direct, handle
        self._never: dict[object, int] = {}
        self._failed: dict[object, int] = {}
        self._pause: dict[object, int] = {}
        self._batches: dict[str, _Batch] = {}

    @property
    def never(self) -> Mapping[object, int]:
        """What the device cannot do: a call, alone or with its arguments, or the id of a field -> NVML's code."""
        return MappingProxyType(self._never)

    def call(self, name: str, *args: Any) -> Any:
        """Return what a function of pynvml says of the device; None when it says nothing.

        Args:
            name: Of the function, whose first argument is the handle.
            args: Its other arguments.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self.run((name, *args) if args else name, lambda: getattr(self._library, name)(self.handle, *args))

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
        if key in self._never or (self._pause and self._left_out(key)):
            return None
        try:
            found = read()
        except self._library.NVMLError as error:
            self.failed(key, int(error.value))
            return None
        except Exception:  # pynvml has errors of its own, and may be older than the function
            self._never[key] = FUNCTION_NOT_FOUND
            return None
        if self._failed:
            self._failed.pop(key, None)
        return found

    def function(self, name: str) -> Any:
        """Return a function of the library itself; calling it returns NVML's code.

        Raises:
            NVMLError: This driver does not have it.
        """
        try:
            return getattr(self._direct, name)
        except AttributeError:
            raise self._library.NVMLError(FUNCTION_NOT_FOUND) from None

    def prepare(self, name: str, *args: Any, key: object = None) -> Callable[[], bool]:
        """Return what calls a function of the library itself, and says whether it answered.

        Args:
            name: Of the function, whose first argument is the handle.
            args: Its other arguments, among them where it puts its answer.
            key: What its failures are remembered by, instead of its name.
        """
        key, handle, never, failed, pause = key or name, self.handle, self._never, self._failed, self._pause
        try:
            function = self.function(name)
        except self._library.NVMLError:
            never[key] = FUNCTION_NOT_FOUND
            return lambda: False

        def call() -> bool:
            if key in never or (pause and self._left_out(key)):
                return False
            code = function(handle, *args)
            if code:
                self.failed(key, code)
                return False
            if failed:
                failed.pop(key, None)
            return True

        return call

    def check(self, code: int) -> None:
        """Raise what NVML's code says, if it is an error."""
        if code:
            raise self._library.NVMLError(code)

    def failed(self, key: object, code: int) -> None:
        """Remember that something failed.

        Raises:
            DeviceLostError: With this code the device is gone.
        """
        if code in GONE:
            raise DeviceLostError(str(self._library.NVMLError(code)))
        if code in NEVER:
            self._never[key] = code
            return
        times = self._failed[key] = self._failed.get(key, -1) + 1
        self._pause[key] = min(2**times - 1, _LONGEST_PAUSE)

    def _left_out(self, key: object) -> bool:
        left = self._pause.pop(key, 0)
        if left > 1:
            self._pause[key] = left - 1
        return left > 0

    def fields(self, name: str, wanted: tuple[Field, ...], found: dict[str, Any]) -> None:
        """Put the fields that have a value where they belong, in one call for all.

        Args:
            name: Of this group of fields, always the same group.
            wanted: The fields.
            found: Attribute of the reading -> its value, or entry -> value.

        Raises:
            DeviceLostError: The device is gone.
        """
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = self._batch(wanted)
        if not batch.fields:
            return
        answers = self.run(name, batch.ask)
        if answers is None:
            if name in self._never:  # one field that this driver does not know may spoil them all
                del self._never[name]
                self._batches[name] = self._batch([each for each in batch.fields if self._known(each)])
            return
        unsupported = False
        for (number, target, key, scale), (_, _, _, _, kind, code, raw) in zip(batch.places, answers, strict=True):
            if code:
                self.failed(number, code)
                unsupported = unsupported or number in self._never
                continue
            value = raw if kind == _WHOLE else raw & 0xFFFFFFFF if kind == _UNSIGNED else _decoded(kind, raw)
            if value is None or value in UNKNOWN_VALUES:
                continue
            if not key:
                found[target] = value * scale
            elif target in found:
                found[target][key] = value * scale
            else:
                found[target] = {key: value * scale}
        if unsupported:
            self._batches[name] = self._batch([each for each in batch.fields if each.id not in self._never])

    def _known(self, field: Field) -> bool:
        return self.run(field.id, self._batch([field]).ask) is not None

    def _batch(self, fields: Iterable[Field]) -> _Batch:
        return _Batch(self, self._library.c_nvmlFieldValue_t, tuple(fields))


class _Batch:
    """The array that one call fills, made once: making it costs more than the call."""

    def __init__(self, calls: Calls, kind: Any, fields: tuple[Field, ...]) -> None:
        self.fields, self._calls = fields, calls
        self.places = tuple((each.id, each.target, each.key, each.scale) for each in fields)
        self._array = (kind * len(fields))()
        self._bytes = (ctypes.c_char * ctypes.sizeof(self._array)).from_buffer(self._array)
        for place, field in zip(self._array, fields, strict=True):
            place.fieldId, place.scopeId = field.id, field.scope

    def ask(self) -> Iterator[tuple[Any, ...]]:
        """Return the answers, one for each field.

        Raises:
            NVMLError: Of the call as a whole.
        """
        calls = self._calls
        calls.check(calls.function("nvmlDeviceGetFieldValues")(calls.handle, len(self.fields), self._array))
        return _ANSWER.iter_unpack(self._bytes)


def _decoded(kind: int, raw: int) -> float | None:
    layout = VALUE_TYPES.get(kind)
    if layout is None:
        return None
    value: float = layout.unpack_from(raw.to_bytes(8, sys.byteorder))[0]
    return value if math.isfinite(value) else None
