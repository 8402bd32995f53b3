"""What NVML says of one device, as readings."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from crucible_otel.gpu.backend import FastReading, ProcessReading, SlowReading
from crucible_otel.gpu.nvml_calls import Calls
from crucible_otel.gpu.nvml_fields import (
    CLOCKS,
    ENERGY_FIELDS,
    FAST_FIELDS,
    MEMORY_V2,
    REASONS,
    SLOW_FIELDS,
    TEMPERATURE_LIMITS,
    TEMPERATURE_V1,
)
from crucible_otel.gpu.nvml_gpm import Activity

__all__ = ["DeviceReader", "PartReader"]

_MHZ: Final = 1_000_000
_DIE: Final = 0
_INSTEAD: Final[Mapping[str, str]] = {
    "energy_j": "nvmlDeviceGetTotalEnergyConsumption",
    "power_w": "nvmlDeviceGetPowerUsage",
    "power_limit_w": "nvmlDeviceGetEnforcedPowerLimit",
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
        self._memory_v2, self._memory_v1 = (ctypes.c_ulonglong * 5)(), (ctypes.c_ulonglong * 3)()
        ctypes.c_uint.from_buffer(self._memory_v2).value = MEMORY_V2
        self._read_v2 = calls.prepare("nvmlDeviceGetMemoryInfo_v2", self._memory_v2)
        self._read_v1 = calls.prepare("nvmlDeviceGetMemoryInfo", self._memory_v1)
        self._processes = tuple(_Processes(calls, name) for name in _PROCESSES)

    def fast(self) -> FastReading:
        """Return what is read on every tick.

        Raises:
            DeviceLostError: The device is gone.
        """
        return FastReading(**self._common())

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

    def _common(self) -> dict[str, Any]:
        found = self.activity.read()
        if self._read_v2():  # without what the driver keeps for itself
            _, total, _, free, used = self._memory_v2
        elif self._read_v1():
            total, free, used = self._memory_v1
        else:
            return found
        found["memory_used_bytes"], found["memory_total_bytes"], found["memory_free_bytes"] = used, total, free
        return found


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
        self._utilization, self._reasons = (ctypes.c_uint * 2)(), (ctypes.c_ulonglong * 1)()
        self._read_utilization = calls.prepare("nvmlDeviceGetUtilizationRates", self._utilization)
        self._read_reasons = tuple(calls.prepare(name, self._reasons) for name in _REASONS_NAMES)
        self._temperature = (ctypes.c_int * 3)(TEMPERATURE_V1, _DIE, 0)
        self._temperature_before = (ctypes.c_int * 1)()
        self._read_temperature = calls.prepare("nvmlDeviceGetTemperatureV", self._temperature)
        self._read_temperature_before = calls.prepare("nvmlDeviceGetTemperature", _DIE, self._temperature_before)
        self._mhz = {name: (ctypes.c_uint * 1)() for name in CLOCKS}
        self._read_clock = {
            name: calls.prepare("nvmlDeviceGetClockInfo", kind, self._mhz[name], key=("nvmlDeviceGetClockInfo", kind))
            for name, kind in CLOCKS.items()
        }
        self._clock_hz: Mapping[str, float] = {}
        self._constants: dict[tuple[str, int], Any] = {}

    def fast(self) -> FastReading:
        """Return what is read on every tick.

        Raises:
            DeviceLostError: The device is gone.
        """
        found = self._common()
        self.calls.fields("fast", FAST_FIELDS, found)
        if self._read_utilization():
            busy, memory = self._utilization
            found["utilization_ratio"], found["memory_controller_ratio"] = busy / 100, memory / 100
        if self._read_temperature():
            found.setdefault("temperature_celsius", {})["die"] = float(self._temperature[2])
        elif self._read_temperature_before():
            found.setdefault("temperature_celsius", {})["die"] = float(self._temperature_before[0])
        self._clocks("sm", "memory")
        found["clock_hz"] = self._clock_hz
        for read in self._read_reasons:
            if read():
                found["throttle_reasons"] = _reasons(self._reasons[0])
                break
        self._instead(found, "energy_j", "power_w")
        return FastReading(**found)

    def energy(self) -> tuple[float | None, float | None]:
        """Return energy and power.

        Raises:
            DeviceLostError: The device is gone.
        """
        found: dict[str, Any] = {}
        self.calls.fields("energy", ENERGY_FIELDS, found)
        self._instead(found, "energy_j", "power_w")
        return found.get("energy_j"), found.get("power_w")

    def slow(self) -> SlowReading:
        """Return what is read now and then.

        Raises:
            DeviceLostError: The device is gone.
        """
        calls, found = self.calls, dict[str, Any]()
        calls.fields("slow", SLOW_FIELDS, found)
        for flag in ("remap_pending", "remap_failed", "recovery_needed"):
            if flag in found:
                found[flag] = bool(found[flag])
        self._instead(found, "power_limit_w")
        engines = {name: calls.call(function) for name, function in _ENGINES.items()}
        found["engine_utilization_ratio"] = {
            name: values[0] / 100 for name, values in engines.items() if values is not None
        }
        fans = calls.call("nvmlDeviceGetNumFans")
        speeds = [calls.call("nvmlDeviceGetFanSpeed_v2", fan) for fan in range(fans or 0)]
        found["fan_ratio"] = tuple(speed / 100 for speed in speeds if speed is not None)
        found["temperature_limit_celsius"] = self._once("nvmlDeviceGetTemperatureThreshold", TEMPERATURE_LIMITS)
        self._clocks("graphics", "video")
        found["clock_limit_hz"] = self._once("nvmlDeviceGetMaxClockInfo", CLOCKS, _MHZ)
        return SlowReading(
            **found,
            pcie_generation=calls.call("nvmlDeviceGetCurrPcieLinkGeneration"),
            pcie_width_lanes=calls.call("nvmlDeviceGetCurrPcieLinkWidth"),
        )

    def process(self) -> ProcessReading:
        """Return the memory of this process; of a divided GPU its parts say it.

        Raises:
            DeviceLostError: The device is gone.
        """
        return ProcessReading() if self._divided else super().process()

    def _clocks(self, *names: str) -> None:
        """Read these clocks; the mapping that readings have already stays as it is."""
        for name in names:
            hz = float(self._mhz[name][0] * _MHZ) if self._read_clock[name]() else None
            if hz != self._clock_hz.get(name):
                self._clock_hz = {
                    key: value for key, value in {**self._clock_hz, name: hz}.items() if value is not None
                }

    def _once(self, function: str, kinds: Mapping[str, int], scale: int = 1) -> dict[str, float]:
        """Return what does not change while the driver runs: it is asked until it is told."""
        found = {}
        for name, kind in kinds.items():
            key = function, kind
            value = self._constants.get(key)
            if value is None:
                value = self._constants[key] = self.calls.call(function, kind)
            if value:
                found[name] = float(value * scale)
        return found

    def _instead(self, found: dict[str, Any], *targets: str) -> None:
        for target in targets:
            if target not in found:
                milli = self.calls.call(_INSTEAD[target])
                if milli is not None:
                    found[target] = milli / 1000


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


@functools.lru_cache(maxsize=64)
def _reasons(bits: int) -> frozenset[str]:
    return frozenset(name for bit, name in REASONS.items() if bits & bit)
