"""What NVML says of one device, as readings."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping
from typing import Final

from crucible_otel.gpu.backend import FastReading, ProcessReading, SlowReading
from crucible_otel.gpu.nvml_batch import Answers
from crucible_otel.gpu.nvml_calls import Ask, Calls
from crucible_otel.gpu.nvml_fields import (
    CLOCKS,
    ENERGY_FIELDS,
    FAST_FIELDS,
    SLOW_FIELDS,
    TEMPERATURE_LIMITS,
)
from crucible_otel.gpu.nvml_gpm import Activity
from crucible_otel.gpu.nvml_questions import Questions
from crucible_otel.gpu.nvml_told import MHZ, Room, ToldReading

__all__ = ["DeviceReader", "PartReader"]

_DIE: Final = 0
_INSTEAD: Final[Mapping[str, tuple[str, type]]] = {
    "energy_j": ("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong),
    "power_w": ("nvmlDeviceGetPowerUsage", ctypes.c_uint),
    "power_limit_w": ("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint),
}
"""What drivers answer that do not have the field of it yet; in thousandths."""
_ENGINES: Final[Mapping[str, str]] = {
    "encoder": "nvmlDeviceGetEncoderUtilization",
    "decoder": "nvmlDeviceGetDecoderUtilization",
}
_REASONS_NAMES: Final = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_PROCESSES: Final = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_PROCESS: Final = struct.Struct("@IQII")
"""``nvmlProcessInfo_v2_t``: process, memory, instances."""
_NO_MEMORY: Final = 0xFFFFFFFFFFFFFFFF
_TOO_SMALL: Final = 7


class PartReader:
    """Reads what NVML has of a part of a GPU (a MIG instance): memory, activity and processes.

    Args:
        calls: For the device.
        activity: Its GPM samples.
    """

    def __init__(self, calls: Calls, activity: Activity) -> None:
        self.calls, self.activity = calls, activity
        self._room = Room()
        self._questions = Questions(
            (
                ("memory_v2", calls.prepare("nvmlDeviceGetMemoryInfo_v2", self._room.memory_v2)),
                ("memory_v1", calls.prepare("nvmlDeviceGetMemoryInfo", self._room.memory_v1)),
            ),
            never=calls.never,
        )
        self._told_slowly: tuple[str, ...] = ()
        self._processes = tuple(_Processes(calls, name) for name in _PROCESSES)

    def fast(self) -> FastReading:
        """Return what is read on every tick.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self._fast(None, None, None)

    def energy(self) -> tuple[float | None, float | None]:
        """Return energy and power.

        Raises:
            DeviceLostError: The device is gone.
        """
        return None, None

    def slow(self) -> SlowReading:
        """Return what is read now and then.

        Raises:
            DeviceLostError: The device is gone.
        """
        return SlowReading()

    def process(self) -> ProcessReading:
        """Return the memory of this process, if the driver lists it: in a container it often does not.

        Raises:
            DeviceLostError: The device is gone.
        """
        for processes in self._processes:
            listed = self.calls.run(processes.name, processes.read)
            if listed is not None:
                own = [used for pid, used, *_ in listed if pid == os.getpid() and used != _NO_MEMORY]
                return ProcessReading(memory_bytes=sum(own) if own else None)
        return ProcessReading()

    def _fast(self, energy_j: float | None, power_w: float | None, fields: Answers | None) -> FastReading:
        activity = self.activity.read()
        told = self._questions.ask() + self._told_slowly
        return ToldReading(energy_j, power_w, told, bytes(self._room), fields, activity)


class DeviceReader(PartReader):
    """Reads a whole GPU.

    Args:
        calls: For the device.
        activity: Its GPM samples.
        divided: Whether its parts have the processes.
    """

    def __init__(self, calls: Calls, activity: Activity, *, divided: bool) -> None:
        super().__init__(calls, activity)
        self._divided = divided
        room = self._room
        clocks: dict[str, tuple[str, Ask]] = {
            name: (
                name,
                calls.prepare(
                    "nvmlDeviceGetClockInfo", kind, getattr(room, name), key=("nvmlDeviceGetClockInfo", kind)
                ),
            )
            for name, kind in CLOCKS.items()
        }
        self._questions = Questions(
            *self._questions.all,
            (("utilization", calls.prepare("nvmlDeviceGetUtilizationRates", room.utilization)),),
            (
                ("temperature", calls.prepare("nvmlDeviceGetTemperatureV", room.temperature)),
                ("temperature_before", calls.prepare("nvmlDeviceGetTemperature", _DIE, room.temperature_before)),
            ),
            (clocks["sm"],),
            (clocks["memory"],),
            tuple(("reasons", calls.prepare(name, room.reasons)) for name in _REASONS_NAMES),
            never=calls.never,
        )
        self._slow_clocks = clocks["graphics"], clocks["video"]
        self._instead = {target: calls.number(name, kind) for target, (name, kind) in _INSTEAD.items()}
        self._engines = {name: calls.number(function, ctypes.c_uint, 2) for name, function in _ENGINES.items()}
        self._fans = calls.number("nvmlDeviceGetNumFans", ctypes.c_uint)
        self._fan: dict[int, Callable[[], int | None]] = {}
        self._pcie_generation = calls.number("nvmlDeviceGetCurrPcieLinkGeneration", ctypes.c_uint)
        self._pcie_width = calls.number("nvmlDeviceGetCurrPcieLinkWidth", ctypes.c_uint)
        self._constants: dict[str, dict[str, float]] = {}

    def fast(self) -> FastReading:
        """Return what is read on every tick.

        Raises:
            DeviceLostError: The device is gone.
        """
        fields = self.calls.fields("fast", FAST_FIELDS)
        return self._fast(self._of("energy_j", fields), self._of("power_w", fields), fields)

    def energy(self) -> tuple[float | None, float | None]:
        """Return energy and power.

        Raises:
            DeviceLostError: The device is gone.
        """
        fields = self.calls.fields("energy", ENERGY_FIELDS)
        return self._of("energy_j", fields), self._of("power_w", fields)

    def slow(self) -> SlowReading:
        """Return what is read now and then.

        Raises:
            DeviceLostError: The device is gone.
        """
        fields = self.calls.fields("slow", SLOW_FIELDS)
        found = fields.all() if fields is not None else {}
        for flag in ("remap_pending", "remap_failed", "recovery_needed"):
            if flag in found:
                found[flag] = bool(found[flag])
        found["power_limit_w"] = self._of("power_limit_w", fields)
        engines = {name: busy() for name, busy in self._engines.items()}
        found["engine_utilization_ratio"] = {name: busy / 100 for name, busy in engines.items() if busy is not None}
        speeds = [self._speed(fan) for fan in range(self._fans() or 0)]
        found["fan_ratio"] = tuple(speed / 100 for speed in speeds if speed is not None)
        found["temperature_limit_celsius"] = self._once("nvmlDeviceGetTemperatureThreshold", TEMPERATURE_LIMITS)
        self._told_slowly = tuple(name for name, ask in self._slow_clocks if ask())
        found["clock_limit_hz"] = self._once("nvmlDeviceGetMaxClockInfo", CLOCKS, MHZ)
        return SlowReading(**found, pcie_generation=self._pcie_generation(), pcie_width_lanes=self._pcie_width())

    def process(self) -> ProcessReading:
        """Return the memory of this process; of a divided GPU its parts say it.

        Raises:
            DeviceLostError: The device is gone.
        """
        return ProcessReading() if self._divided else super().process()

    def _of(self, target: str, fields: Answers | None) -> float | None:
        found = fields.value(target) if fields is not None else None
        return self._thousandth(target) if found is None else found

    def _thousandth(self, target: str) -> float | None:
        milli = self._instead[target]()
        return milli / 1000 if milli is not None else None

    def _speed(self, fan: int) -> int | None:
        ask = self._fan.get(fan)
        if ask is None:
            name = "nvmlDeviceGetFanSpeed_v2"
            ask = self._fan[fan] = self.calls.number(name, ctypes.c_uint, before=(fan,), key=(name, fan))
        return ask()

    def _once(self, function: str, kinds: Mapping[str, int], scale: int = 1) -> dict[str, float]:
        """Return what does not change while the driver runs: it is asked until it is told."""
        told = self._constants.setdefault(function, {})
        for name, kind in kinds.items() if len(told) < len(kinds) else ():
            value = self.calls.call(function, kind) if name not in told else None
            if value is not None:
                told[name] = float(value * scale)
        return {name: value for name, value in told.items() if value}


class _Processes:
    """The list of processes, with room for more than there were."""

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
            self._count[0] = self._room
            code = function(calls.handle, self._count, self._list)
            if code != _TOO_SMALL:
                break
            self._make_room(2 * max(self._count[0], self._room))
        calls.check(code)
        return [_PROCESS.unpack_from(self._list, place * _PROCESS.size) for place in range(self._count[0])]

    def _make_room(self, room: int) -> None:
        self._room, self._list = room, (ctypes.c_char * (room * _PROCESS.size))()
