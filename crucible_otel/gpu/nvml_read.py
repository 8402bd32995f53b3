"""What NVML says of one device, as readings."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any, Final

from crucible_otel.gpu.backend import FastReading, ProcessReading, SlowReading
from crucible_otel.gpu.nvml_batch import Answers
from crucible_otel.gpu.nvml_calls import Ask, Calls, Number
from crucible_otel.gpu.nvml_fields import (
    CLOCKS,
    ENERGY_FIELDS,
    FAST_FIELDS,
    SLOW_FIELDS,
    TEMPERATURE_LIMITS,
)
from crucible_otel.gpu.nvml_gpm import Activity
from crucible_otel.gpu.nvml_processes import Processes, own_memory
from crucible_otel.gpu.nvml_questions import Questions
from crucible_otel.gpu.nvml_told import MHZ, Room, ToldReading

__all__ = ["DeviceReader", "PartReader", "slow_reading"]

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
_ENGINE: Final = "engine"
_FAN: Final = "fan"
_PCIE: Final[Mapping[str, str]] = {
    "pcie_generation": "nvmlDeviceGetCurrPcieLinkGeneration",
    "pcie_width_lanes": "nvmlDeviceGetCurrPcieLinkWidth",
}
_CONSTANTS: Final[Mapping[str, str]] = {
    "temperature_limit_celsius": "nvmlDeviceGetTemperatureThreshold",
    "clock_limit_hz": "nvmlDeviceGetMaxClockInfo",
}
_REASONS_NAMES: Final = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_PROCESSES: Final = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")


class PartReader:
    """Reads what NVML has of a part of a GPU (a MIG instance): memory, activity and processes.

    Args:
        calls: For the device.
        activity: Its GPM samples.

    Attributes:
        room: Where the answers of a tick are.
        questions: What is asked on every tick, besides the fields.
        told_slowly: What of the room a slow reading fills.
        numbers: What a slow reading asks for besides the fields; for what a field may tell too, see :meth:`asked`.
        constants: Function -> what does not change while the driver runs, by kind.
    """

    def __init__(self, calls: Calls, activity: Activity) -> None:
        self.calls, self.activity = calls, activity
        self.room = Room()
        self.questions = Questions(
            (
                ("memory_v2", calls.prepare("nvmlDeviceGetMemoryInfo_v2", self.room.memory_v2)),
                ("memory_v1", calls.prepare("nvmlDeviceGetMemoryInfo", self.room.memory_v1)),
            ),
            never=calls.never,
        )
        self.told_slowly: tuple[str, ...] = ()
        self.slow_clocks: tuple[tuple[str, Ask], ...] = ()
        self.numbers: dict[object, Number] = {}
        self.constants: dict[str, dict[str, float]] = {}
        self._processes = tuple(Processes(calls, name) for name in _PROCESSES)

    @property
    def settled(self) -> bool:
        """Whether all that is asked is answered, or never will be."""
        return self.calls.settled and self.questions.settled and self.activity.settled

    @property
    def processes(self) -> Processes | None:
        """What lists the processes, if anything does."""
        return next((each for each in self._processes if each.name not in self.calls.never), None)

    def asked(self, *targets: str) -> Mapping[object, Number]:
        """Return what asks for those of these that no field told last."""
        return {}

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
            found = self.calls.run(processes.name, processes.read)
            if found is not None:
                return own_memory(found, os.getpid())
        return ProcessReading()

    def _fast(self, energy_j: float | None, power_w: float | None, fields: Answers | None) -> FastReading:
        activity = self.activity.read()
        told = self.questions.ask() + self.told_slowly
        return ToldReading(energy_j, power_w, told, bytes(self.room), fields, activity)


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
        room = self.room
        clocks: dict[str, tuple[str, Ask]] = {
            name: (
                name,
                calls.prepare(
                    "nvmlDeviceGetClockInfo", kind, getattr(room, name), key=("nvmlDeviceGetClockInfo", kind)
                ),
            )
            for name, kind in CLOCKS.items()
        }
        self.questions = Questions(
            *self.questions.all,
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
        self.slow_clocks = clocks["graphics"], clocks["video"]
        self._instead = {target: calls.number(name, kind) for target, (name, kind) in _INSTEAD.items()}
        self._lacking: set[str] = set()
        self._fans = calls.number("nvmlDeviceGetNumFans", ctypes.c_uint)
        self.numbers = {
            **{(_ENGINE, name): calls.number(function, ctypes.c_uint, 2) for name, function in _ENGINES.items()},
            **{name: calls.number(function, ctypes.c_uint) for name, function in _PCIE.items()},
        }

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
        told: dict[object, Any] = {"power_limit_w": self._of("power_limit_w", fields)}
        for fan in range(self._fans() or 0):
            if (_FAN, fan) not in self.numbers:
                name = "nvmlDeviceGetFanSpeed_v2"
                self.numbers[_FAN, fan] = self.calls.number(name, ctypes.c_uint, before=(fan,), key=(name, fan))
        told.update({key: number() for key, number in self.numbers.items()})
        self.told_slowly = tuple(name for name, ask in self.slow_clocks if ask())
        self._once(_CONSTANTS["temperature_limit_celsius"], TEMPERATURE_LIMITS)
        self._once(_CONSTANTS["clock_limit_hz"], CLOCKS, MHZ)
        return slow_reading(fields, told, self.constants)

    def process(self) -> ProcessReading:
        """Return the memory of this process; of a divided GPU its parts say it.

        Raises:
            DeviceLostError: The device is gone.
        """
        return ProcessReading() if self._divided else super().process()

    @property
    def processes(self) -> Processes | None:
        """What lists the processes; of a divided GPU nothing."""
        return None if self._divided else super().processes

    def asked(self, *targets: str) -> Mapping[object, Number]:
        """Return what asks for those of these that no field told last."""
        return {target: self._instead[target] for target in targets if target in self._lacking}

    def _of(self, target: str, fields: Answers | None) -> float | None:
        found = fields.value(target) if fields is not None else None
        if found is not None:
            self._lacking.discard(target)
            return found
        self._lacking.add(target)
        milli = self._instead[target]()
        return milli / 1000 if milli is not None else None

    def _once(self, function: str, kinds: Mapping[str, int], scale: int = 1) -> None:
        """Ask for what does not change while the driver runs until it is told."""
        told = self.constants.setdefault(function, {})
        for name, kind in kinds.items() if len(told) < len(kinds) else ():
            value = self.calls.call(function, kind) if name not in told else None
            if value is not None:
                told[name] = float(value * scale)


def slow_reading(
    fields: Answers | None, told: Mapping[object, Any], constants: Mapping[str, Mapping[str, float]]
) -> SlowReading:
    """Return what was told.

    Args:
        fields: The call for fields.
        told: The calls for numbers; with the power limit in watts, if the fields do not have it.
        constants: Function -> what does not change.
    """
    found = fields.all() if fields is not None else {}
    for flag in ("remap_pending", "remap_failed", "recovery_needed"):
        if flag in found:
            found[flag] = bool(found[flag])
    found.setdefault("power_limit_w", told.get("power_limit_w"))
    ratios = {key: told[key] / 100 for key in told if isinstance(key, tuple) and told[key] is not None}
    found["engine_utilization_ratio"] = {name: ratios[_ENGINE, name] for name in _ENGINES if (_ENGINE, name) in ratios}
    found["fan_ratio"] = tuple(ratio for (kind, _), ratio in ratios.items() if kind == _FAN)
    for name, function in _CONSTANTS.items():
        found[name] = {kind: value for kind, value in constants.get(function, {}).items() if value}
    found.update({name: told.get(name) for name in _PCIE})
    return SlowReading(**found)
