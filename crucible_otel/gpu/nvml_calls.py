"""Calling NVML so that one failing call takes nothing with it: what a device cannot do is asked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from crucible_otel.gpu.backend import DeviceLostError
from crucible_otel.gpu.nvml_fields import GONE, NEVER, UNION, UNKNOWN_VALUES, Field

__all__ = ["Calls", "as_list"]

_LONGEST_PAUSE: Final = 64
"""Reads that are left out at most after a call has failed again and again."""
_MAX_FIELDS: Final = 100
"""Of one ``nvmlDeviceGetFieldValues``."""


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
        self._batches: dict[tuple[Field, ...], list[Field]] = {}

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

    def fields(self, wanted: tuple[Field, ...]) -> Iterable[tuple[Field, float]]:
        """Yield the fields that have a value, in one call for all.

        Raises:
            DeviceLostError: The device is gone.
        """
        batch = self._batches.setdefault(wanted, list(wanted))
        if not batch:
            return
        values = self.run(("fields", wanted), lambda: self._values(batch))
        if values is None:
            if ("fields", wanted) in self._never:  # one field that this driver does not know may spoil them all
                self._never.discard(("fields", wanted))
                batch[:] = [each for each in batch if self._known(each)]
            return
        for field, value in zip(tuple(batch), values, strict=True):
            if value.nvmlReturn:
                self.failed(field.id, value.nvmlReturn)
                if field.id in self._never:
                    batch.remove(field)
                continue
            found = _value_of(value)
            if found is not None:
                yield field, found * field.scale

    def _known(self, field: Field) -> bool:
        return self.run(field.id, lambda: self._values([field])) is not None

    def _values(self, batch: list[Field]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(batch), _MAX_FIELDS):
            ids = [(field.id, field.scope) for field in batch[start : start + _MAX_FIELDS]]
            found.extend(self._library.nvmlDeviceGetFieldValues(self.handle, ids))
        return found

    def _bound(self, name: str, *args: Any) -> Callable[[], Any]:
        return lambda: getattr(self._library, name)(self.handle, *args)


def as_list(found: Any) -> list[Any]:
    """Return a sequence that a call gave, or an empty list."""
    return list(found) if found is not None else []


def _value_of(value: Any) -> float | None:
    kind = value.valueType
    found = getattr(value.value, UNION[kind]) if 0 <= kind < len(UNION) else None
    if found is None or found in UNKNOWN_VALUES or not math.isfinite(found):
        return None
    return float(found)
