"""Calling NVML so that one failing call takes nothing with it: what a device cannot do is asked once.

What is read on every tick is called in the library itself, with the same memory for its answers each time: what pynvml
does around a call costs several times as much as the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from crucible_otel.gpu.backend import DeviceLostError
from crucible_otel.gpu.nvml_batch import Answers, Batch
from crucible_otel.gpu.nvml_fields import FUNCTION_NOT_FOUND, GONE, NEVER, Field

__all__ = ["Ask", "Calls", "Number"]

_LONGEST_PAUSE: Final = 64
"""Reads that are left out at most after a call has failed again and again."""


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
        self._batches: dict[str, Batch] = {}

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
        if not self.asks(key):
            return None
        try:
            found = read()
        except self._library.NVMLError as error:
            self.failed(key, int(error.value))
            return None
        except Exception:  # pynvml has errors of its own, and may be older than the function
            self._never[key] = FUNCTION_NOT_FOUND
            return None
        self.answered(key)
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

    def prepare(self, name: str, *args: Any, key: object = None) -> Ask:
        """Return what calls a function of the library itself, and says whether it answered.

        Args:
            name: Of the function, whose first argument is the handle.
            args: Its other arguments, among them where it puts its answer.
            key: What its failures are remembered by, instead of its name.
        """
        try:
            function = self.function(name)
        except self._library.NVMLError:
            self._never[key or name] = FUNCTION_NOT_FOUND
            function = None
        return Ask(self, key or name, function, (self.handle, *args))

    def number(
        self, name: str, kind: Any, count: int = 1, *, before: tuple[Any, ...] = (), key: object = None
    ) -> Number:
        """Return what asks a function of the library itself for a number.

        Args:
            name: Of the function, whose first argument is the handle.
            kind: The number's type in ctypes.
            count: How many it gives, each in a place of its own; the first is taken.
            before: Its arguments between the handle and where it puts its answer.
            key: What its failures are remembered by, instead of its name.
        """
        places = tuple((kind * 1)() for _ in range(count))
        return Number(self.prepare(name, *before, *places, key=key), places)

    @property
    def settled(self) -> bool:
        """Whether nothing has failed lately that may be answered again."""
        return not self._failed and not self._pause

    def asks(self, key: object) -> bool:
        """Whether something is to be called now: it has not failed for good, nor is left out this time."""
        return not (key in self._never or (self._pause and self._left_out(key)))

    def answered(self, key: object) -> None:
        """Remember that something has not failed."""
        if self._failed:
            self._failed.pop(key, None)

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

    def fields(self, name: str, wanted: tuple[Field, ...]) -> Answers | None:
        """Return what was answered of these fields, in one call for all; None when there was no answer at all.

        Args:
            name: Of this group of fields, always the same group.
            wanted: The fields.

        Raises:
            DeviceLostError: The device is gone.
        """
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = self._batch(name, wanted)
        if not batch.fields:
            return None
        if not batch.ask():
            if name in self._never:  # one field that this driver does not know may spoil them all
                del self._never[name]
                self._batches[name] = self._batch(name, [each for each in batch.fields if self._known(each)])
            return None
        values = batch.unpack(batch.bytes)
        if any(values[1::3]):
            for field, code in zip(batch.fields, values[1::3], strict=True):
                if code:
                    self.failed(field.id, code)
                    self.answered(field.id)  # it is asked with the others next time, whatever it was
                    self._pause.pop(field.id, None)
            kept = [each for each in batch.fields if each.id not in self._never]
            if len(kept) < len(batch.fields):
                self._batches[name] = self._batch(name, kept)
        return Answers(batch, values)

    def batch(self, name: str) -> Batch | None:
        """Return what is asked for a group of fields; None when it has not been, or there is none left."""
        batch = self._batches.get(name)
        return batch if batch is not None and batch.fields else None

    def _known(self, field: Field) -> bool:
        return bool(self._batch(field.id, [field]).ask())

    def _batch(self, key: object, fields: Iterable[Field]) -> Batch:
        return Batch(self._library.c_nvmlFieldValue_t, tuple(fields), functools.partial(self.prepare, key=key))


class Ask:
    """A call of a function of the library itself; :meth:`Calls.prepare` makes it.

    Attributes:
        key: What its failures are remembered by.
        function: The function; None where this driver does not have it.
        arguments: What it is called with.
    """

    __slots__ = ("_calls", "arguments", "function", "key")

    def __init__(self, calls: Calls, key: object, function: Any, arguments: tuple[Any, ...]) -> None:
        self._calls, self.key, self.function, self.arguments = calls, key, function, arguments

    def __call__(self) -> bool:
        """Call it, if it is to be called, and return whether it answered.

        Raises:
            DeviceLostError: The device is gone.
        """
        calls = self._calls
        if not calls.asks(self.key):
            return False
        code = self.function(*self.arguments)
        if code:
            self.failed(code)
            return False
        calls.answered(self.key)
        return True

    def failed(self, code: int) -> None:
        """Remember that it failed.

        Raises:
            DeviceLostError: With this code the device is gone.
        """
        self._calls.failed(self.key, code)


class Number:
    """A question for a number; :meth:`Calls.number` makes it.

    Attributes:
        ask: The call.
        places: Where it puts its answer; the first of them is meant.
    """

    __slots__ = ("ask", "places")

    def __init__(self, ask: Ask, places: tuple[Any, ...]) -> None:
        self.ask, self.places = ask, places

    def __call__(self) -> int | None:
        """Return it; None when there is none.

        Raises:
            DeviceLostError: The device is gone.
        """
        return int(self.places[0][0]) if self.ask() else None
