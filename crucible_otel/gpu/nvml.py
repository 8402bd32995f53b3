"""NVIDIA GPUs, by NVML: the first backend.

Only this module imports ``pynvml``, and only when the driver's library is there.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crucible_otel.gpu.backend import (
    BackendUnavailableError,
    Device,
    DeviceFault,
    FastReading,
    ProcessReading,
    SlowReading,
)
from crucible_otel.gpu.nvml_calls import Calls, as_list
from crucible_otel.gpu.nvml_fields import (
    CLOCKS,
    ENERGY_FIELDS,
    FAST_FIELDS,
    REASONS,
    SLOW_FIELDS,
    TEMPERATURE_LIMITS,
    Field,
)
from crucible_otel.gpu.nvml_gpm import Activity

__all__ = ["NvmlBackend", "library_is_there"]

_LIBRARIES: Final[Mapping[str, str]] = {"linux": "libnvidia-ml.so.1", "win32": "nvml.dll"}
_MOST_FAULTS: Final = 64
"""Faults that one tick takes; a GPU in trouble may report them without end."""
_MHZ: Final = 1_000_000


def library_is_there() -> bool:
    """Whether the driver's library can be loaded; nothing of it is called."""
    name = _LIBRARIES.get(sys.platform)
    if name is None:
        return False
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


class NvmlBackend:
    """NVML. See :class:`crucible_otel.gpu.backend.GpuBackend` for who may call what."""

    def __init__(self) -> None:
        self._library: Any = None
        self._calls: dict[str, Calls] = {}
        self._activities: dict[str, Activity] = {}
        self._speeds: dict[str, dict[str, int | None]] = {}
        self._faults: Any = None
        self._by_handle: dict[int | None, str] = {}

    def open(self) -> None:
        """Load and initialise the library.

        Raises:
            BackendUnavailableError: It is not there, its driver is not loaded, or the two do not fit.
        """
        if not library_is_there():
            raise BackendUnavailableError(f"{_LIBRARIES.get(sys.platform, 'the NVIDIA library')} was not found")
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise BackendUnavailableError(f"NVML: {error}") from None
        self._library = pynvml

    def devices(self) -> Sequence[Device]:
        """Return every GPU in NVML's order, each divided one followed by its MIG instances."""
        library, found = self._library, []
        driver = self._safely(library.nvmlSystemGetDriverVersion)
        for index in range(self._safely(library.nvmlDeviceGetCount) or 0):
            handle = self._safely(library.nvmlDeviceGetHandleByIndex, index)
            if handle is not None:
                found.extend(self._gpu_and_parts(Calls(library, handle), index, driver))
        self._listen()
        return found

    def read_fast(self, device: Device) -> FastReading:
        """Return what there is.

        Raises:
            DeviceLostError: The device is gone.
        """
        calls = self._calls[device.uuid]
        found: dict[str, Any] = {**_memory(self._library, calls), **self._activities[device.uuid].read()}
        if device.parent_uuid is not None:  # NVML has the rest only of the whole GPU
            return FastReading(**found)
        _put(found, calls, "fast", FAST_FIELDS)
        utilization = calls.call("nvmlDeviceGetUtilizationRates")
        if utilization is not None:
            found["utilization_ratio"] = utilization.gpu / 100
            found["memory_controller_ratio"] = utilization.memory / 100
        die = calls.first(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), 0)
        if die is not None:
            found["temperature_celsius"] = {"die": float(die), **found.get("temperature_celsius", {})}
        clocks = self._clocks(calls, device.uuid, ("sm", "memory"))
        found["clock_hz"] = {name: float(mhz * _MHZ) for name, mhz in clocks.items() if mhz is not None}
        reasons = calls.first(("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"))
        if reasons is not None:
            found["throttle_reasons"] = frozenset(name for bit, name in REASONS.items() if reasons & bit)
        for target, name in _INSTEAD.items():
            if target not in found:
                milli = calls.call(name)
                if milli is not None:
                    found[target] = milli / 1000
        return FastReading(**found)

    def read_energy(self, device: Device) -> tuple[float | None, float | None]:
        """Return energy and power.

        Raises:
            DeviceLostError: The device is gone.
        """
        if device.parent_uuid is not None:
            return None, None
        calls, found = self._calls[device.uuid], dict[str, Any]()
        _put(found, calls, "energy", ENERGY_FIELDS)
        for target in ("energy_j", "power_w"):
            if target not in found:
                milli = calls.call(_INSTEAD[target])
                found[target] = None if milli is None else milli / 1000
        return found["energy_j"], found["power_w"]

    def read_slow(self, device: Device) -> SlowReading:
        """Return what there is.

        Raises:
            DeviceLostError: The device is gone.
        """
        if device.parent_uuid is not None:
            return SlowReading()
        calls = self._calls[device.uuid]
        found: dict[str, Any] = {}
        _put(found, calls, "slow", SLOW_FIELDS)
        for flag in ("remap_pending", "remap_failed", "recovery_needed"):
            if flag in found:
                found[flag] = bool(found[flag])
        engines = {name: calls.call(function) for name, function in _ENGINES.items()}
        found["engine_utilization_ratio"] = {
            name: values[0] / 100 for name, values in engines.items() if values is not None
        }
        fans = calls.call("nvmlDeviceGetNumFans")
        speeds = [calls.call("nvmlDeviceGetFanSpeed_v2", fan) for fan in range(fans or 0)]
        found["fan_ratio"] = tuple(speed / 100 for speed in speeds if speed is not None)
        limits = {
            name: calls.call("nvmlDeviceGetTemperatureThreshold", kind) for name, kind in TEMPERATURE_LIMITS.items()
        }
        found["temperature_limit_celsius"] = {name: float(value) for name, value in limits.items() if value}
        self._clocks(calls, device.uuid, ("graphics", "video"))
        highest = {name: calls.call("nvmlDeviceGetMaxClockInfo", kind) for name, kind in CLOCKS.items()}
        found["clock_limit_hz"] = {name: float(mhz * _MHZ) for name, mhz in highest.items() if mhz}
        return SlowReading(
            **found,
            pcie_generation=calls.call("nvmlDeviceGetCurrPcieLinkGeneration"),
            pcie_width_lanes=calls.call("nvmlDeviceGetCurrPcieLinkWidth"),
        )

    def read_process(self, device: Device) -> ProcessReading:
        """Return the memory of this process, if the driver lists it: in a container it often does not.

        Raises:
            DeviceLostError: The device is gone.
        """
        if device.divided:  # its instances have the processes
            return ProcessReading()
        # By their versions: with a driver that has only the older, the name without one raises pynvml's own error.
        listed = as_list(self._calls[device.uuid].first(_PROCESSES))
        own = [each.usedGpuMemory for each in listed if each.pid == os.getpid() and each.usedGpuMemory is not None]
        return ProcessReading(memory_bytes=sum(own) if own else None)

    def read_faults(self) -> Sequence[DeviceFault]:
        """Return the XIDs since the last call."""
        found: list[DeviceFault] = []
        while self._faults is not None and len(found) < _MOST_FAULTS:
            try:
                event = self._library.nvmlEventSetWait_v2(self._faults, 0)
            except Exception:  # as a rule: none has come in no time
                break
            uuid = self._by_handle.get(_address(event.device))
            if uuid is not None and event.eventType & self._library.nvmlEventTypeXidCriticalError:
                found.append(DeviceFault(uuid=uuid, code=int(event.eventData)))
        return found

    def close(self) -> None:
        """Free the samples and the set of events, then let go of the library."""
        if self._library is None:
            return
        for activity in self._activities.values():
            activity.close()
        if self._faults is not None:
            self._safely(self._library.nvmlEventSetFree, self._faults)
        self._safely(self._library.nvmlShutdown)
        self.__init__()  # type: ignore[misc]  # as new, for another open()

    def _clocks(self, calls: Calls, uuid: str, names: Sequence[str]) -> Mapping[str, int | None]:
        """Read these clocks, and return all: the others as they were read last."""
        known = self._speeds.setdefault(uuid, {})
        known.update({name: calls.call("nvmlDeviceGetClockInfo", CLOCKS[name]) for name in names})
        return known

    # -- finding -----------------------------------------------------------------------------------------------------

    def _gpu_and_parts(self, calls: Calls, index: int, driver: str | None) -> list[Device]:
        uuid = calls.call("nvmlDeviceGetUUID")
        if uuid is None:
            return []
        mode = calls.call("nvmlDeviceGetMigMode")
        pci = calls.call("nvmlDeviceGetPciInfo")
        gpu = Device(
            uuid=_text(uuid),
            index=index,
            model=_text(calls.call("nvmlDeviceGetName") or "NVIDIA GPU"),
            driver_version=_text(driver) if driver is not None else None,
            serial_number=_text(calls.call("nvmlDeviceGetSerial") or "") or None,
            pci_bus_id=_text(pci.busId) if pci is not None else None,
            divided=bool(mode and mode[0]),
        )
        self._keep(gpu.uuid, calls, Activity(self._library, calls))
        return [gpu, *self._parts(gpu, calls)] if gpu.divided else [gpu]

    def _parts(self, gpu: Device, calls: Calls) -> list[Device]:
        found = []
        for number in range(calls.call("nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = self._safely(self._library.nvmlDeviceGetMigDeviceHandleByIndex, calls.handle, number)
            part = Calls(self._library, handle)
            uuid = part.call("nvmlDeviceGetUUID") if handle is not None else None
            if uuid is None:
                continue
            model = _text(part.call("nvmlDeviceGetName") or gpu.model)
            found.append(
                Device(
                    uuid=_text(uuid),
                    index=gpu.index,
                    model=model,
                    driver_version=gpu.driver_version,
                    serial_number=gpu.serial_number,
                    pci_bus_id=gpu.pci_bus_id,
                    parent_uuid=gpu.uuid,
                    mig_profile=_profile(model, part),
                )
            )
            instance = part.call("nvmlDeviceGetGpuInstanceId")
            self._keep(found[-1].uuid, part, Activity(self._library, calls if instance is not None else part, instance))
        return found

    def _keep(self, uuid: str, calls: Calls, activity: Activity) -> None:
        self._calls[uuid], self._activities[uuid] = calls, activity
        self._by_handle[_address(calls.handle)] = uuid

    def _listen(self) -> None:
        library = self._library
        self._faults = self._safely(library.nvmlEventSetCreate)
        for calls in self._calls.values() if self._faults is not None else ():
            self._safely(
                library.nvmlDeviceRegisterEvents, calls.handle, library.nvmlEventTypeXidCriticalError, self._faults
            )

    def _safely(self, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except Exception:  # pynvml has errors besides NVML's
            return None


_INSTEAD: Final[Mapping[str, str]] = {
    "energy_j": "nvmlDeviceGetTotalEnergyConsumption",
    "power_w": "nvmlDeviceGetPowerUsage",
    "power_limit_w": "nvmlDeviceGetEnforcedPowerLimit",
}
"""What drivers answer that do not have the field of it yet; in thousandths."""
_PROCESSES: Final = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_ENGINES: Final[Mapping[str, str]] = {
    "encoder": "nvmlDeviceGetEncoderUtilization",
    "decoder": "nvmlDeviceGetDecoderUtilization",
}


def _memory(library: Any, calls: Calls) -> dict[str, int]:
    second = getattr(library, "nvmlMemory_v2", None)  # without what the driver keeps for itself
    found = calls.call("nvmlDeviceGetMemoryInfo", second) if second is not None else None
    found = found if found is not None else calls.call("nvmlDeviceGetMemoryInfo")
    if found is None:
        return {}
    return {
        "memory_used_bytes": int(found.used),
        "memory_total_bytes": int(found.total),
        "memory_free_bytes": int(found.free),
    }


def _put(found: dict[str, Any], calls: Calls, name: str, fields: tuple[Field, ...]) -> None:
    for field, value in calls.fields(name, fields):
        if field.key:
            found.setdefault(field.target, {})[field.key] = value
        else:
            found[field.target] = value


def _profile(model: str, part: Calls) -> str | None:
    _, _, profile = model.partition(" MIG ")
    if profile:
        return profile
    attributes = part.call("nvmlDeviceGetAttributes")
    if attributes is None:
        return None
    return f"{attributes.gpuInstanceSliceCount}g.{round(attributes.memorySizeMB / 1024)}gb"


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _after_fork() -> None:
    """Give the child a lock of its own: the parent's sampler may hold pynvml's at this moment."""
    library: Any = sys.modules.get("pynvml")
    if library is not None:
        library.libLoadLock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
