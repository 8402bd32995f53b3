"""The processes that NVML lists for a device, and what this one holds."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable
from typing import Final

from crucible_otel.gpu.backend import ProcessReading
from crucible_otel.gpu.nvml_calls import Calls

__all__ = ["PROCESS_BYTES", "Processes", "listed", "own_memory"]

_PROCESS: Final = struct.Struct("@IQII")
"""``nvmlProcessInfo_v2_t``: process, memory, instances."""
PROCESS_BYTES: Final = _PROCESS.size
"""Of one of the list."""
_NO_MEMORY: Final = 0xFFFFFFFFFFFFFFFF
_TOO_SMALL: Final = 7


def own_memory(listed: Iterable[tuple[int, ...]], pid: int) -> ProcessReading:
    """Return what a process holds, of process and memory of each."""
    own = [used for each, used, *_ in listed if each == pid and used != _NO_MEMORY]
    return ProcessReading(memory_bytes=sum(own) if own else None)


class Processes:
    """The list of processes, with room for more than there were.

    Attributes:
        name: Of the function.
        room: For how many.
    """

    def __init__(self, calls: Calls, name: str) -> None:
        self.name, self._calls = name, calls
        self._count = (ctypes.c_uint * 1)()
        self._make_room(16)

    def read(self) -> list[tuple[int, ...]]:
        """Return process and memory of each.

        Raises:
            NVMLError: Of the call.
        """
        calls, code = self._calls, _TOO_SMALL
        function: Callable[..., int] = calls.function(self.name)
        for _ in range(3):  # others may begin between two calls
            self._count[0] = self.room
            code = function(calls.handle, self._count, self._list)
            if code != _TOO_SMALL:
                break
            self._make_room(2 * max(self._count[0], self.room))
        calls.check(code)
        return listed(self._list, self._count[0])

    def _make_room(self, room: int) -> None:
        self.room, self._list = room, (ctypes.c_char * (room * PROCESS_BYTES))()


def listed(processes: ctypes.Array[ctypes.c_char], count: int, begin: int = 0) -> list[tuple[int, ...]]:
    """Return process and memory of each of so many, from a place on."""
    return [_PROCESS.unpack_from(processes, begin + place * PROCESS_BYTES) for place in range(count)]
