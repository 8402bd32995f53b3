"""NVIDIA GPUs, by NVML: the first backend.

Only this module imports ``pynvml``, and only when the driver's library is there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crucible_otel.gpu.backend import (
    BackendUnavailableError,
    Device,
    DeviceFault,
    FastReading,
    ProcessReading,
    SlowReading,
)
from crucible_otel.gpu.nvml_at_once import NvmlAtOnce
from crucible_otel.gpu.nvml_calls import Calls
from crucible_otel.gpu.nvml_gpm import Activity
from crucible_otel.gpu.nvml_read import DeviceReader, PartReader

__all__ = ["NvmlBackend", "library_is_there"]

_LIBRARIES: Final[Mapping[str, str]] = {"linux": "libnvidia-ml.so.1", "win32": "nvml.dll"}
_MOST_FAULTS: Final = 64
"""Faults that one tick takes; a GPU in trouble may report them without end."""


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
        self._direct: Any = None
        self._readers: dict[str, PartReader] = {}
        self._faults: Any = None
        self._by_handle: dict[int | None, str] = {}
        self._event: Any = None
        self._next_fault: Callable[[], int]
        self._at_once = weakref.WeakSet[NvmlAtOnce]()

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
        self._library, self._direct = pynvml, ctypes.CDLL(_LIBRARIES[sys.platform])

    def devices(self) -> Sequence[Device]:
        """Return every GPU in NVML's order, each divided one followed by its MIG instances."""
        self._let_go()
        library, found = self._library, []
        driver = self._safely(library.nvmlSystemGetDriverVersion)
        for index in range(self._safely(library.nvmlDeviceGetCount) or 0):
            handle = self._safely(library.nvmlDeviceGetHandleByIndex, index)
            if handle is not None:
                found.extend(self._gpu_and_parts(Calls(library, self._direct, handle), index, driver))
        self._listen()
        return found

    def read_fast(self, device: Device) -> FastReading:
        """Return what there is.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self._readers[device.uuid].fast()

    def read_energy(self, device: Device) -> tuple[float | None, float | None]:
        """Return energy and power.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self._readers[device.uuid].energy()

    def read_slow(self, device: Device) -> SlowReading:
        """Return what there is.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self._readers[device.uuid].slow()

    def read_process(self, device: Device) -> ProcessReading:
        """Return the memory of this process, if the driver lists it: in a container it often does not.

        Raises:
            DeviceLostError: The device is gone.
        """
        return self._readers[device.uuid].process()

    def read_faults(self) -> Sequence[DeviceFault]:
        """Return the XIDs since the last call."""
        found: list[DeviceFault] = []
        while self._faults is not None and len(found) < _MOST_FAULTS:
            if self._next_fault():  # as a rule: none has come in no time
                break
            event = self._event
            uuid = self._by_handle.get(_address(event.device))
            if uuid is not None and event.eventType & self._library.nvmlEventTypeXidCriticalError:
                found.append(DeviceFault(uuid=uuid, code=int(event.eventData)))
        return found

    def at_once(self, devices: Sequence[Device]) -> NvmlAtOnce | None:
        """Return what reads these devices at once; None as long as one of them has something that comes and goes."""
        readers = [self._readers[device.uuid] for device in devices]
        if not all(reader.settled for reader in readers):
            return None
        found = NvmlAtOnce(readers)
        self._at_once.add(found)
        return found

    def refused(self, device: Device) -> Mapping[object, int]:
        """Return what the driver says that it does not do for a device: call or id of a field -> NVML's code."""
        return self._readers[device.uuid].calls.never

    def close(self) -> None:
        """Free the samples and the set of events, then let go of the library."""
        if self._library is None:
            return
        self._let_go()
        self._safely(self._library.nvmlShutdown)
        self.__init__()  # type: ignore[misc]  # as new, for another open()

    def _let_go(self) -> None:
        for at_once in list(self._at_once):
            at_once.end()
        for reader in self._readers.values():
            reader.activity.close()
        if self._faults is not None:
            self._safely(self._library.nvmlEventSetFree, self._faults)
            self._faults = None
        self._readers, self._by_handle = {}, {}

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
        self._keep(gpu.uuid, DeviceReader(calls, Activity(self._library, calls), divided=gpu.divided))
        return [gpu, *self._parts(gpu, calls)] if gpu.divided else [gpu]

    def _parts(self, gpu: Device, calls: Calls) -> list[Device]:
        found = []
        for number in range(calls.call("nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = self._safely(self._library.nvmlDeviceGetMigDeviceHandleByIndex, calls.handle, number)
            part = Calls(self._library, self._direct, handle)
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
            activity = Activity(self._library, calls if instance is not None else part, instance)
            self._keep(found[-1].uuid, PartReader(part, activity))
        return found

    def _keep(self, uuid: str, reader: PartReader) -> None:
        self._readers[uuid] = reader
        self._by_handle[_address(reader.calls.handle)] = uuid

    def _listen(self) -> None:
        library = self._library
        wait = self._safely(getattr, self._direct, "nvmlEventSetWait_v2")
        if wait is None:
            return
        self._faults = self._safely(library.nvmlEventSetCreate)
        self._event = library.c_nvmlEventData_t()
        self._next_fault = functools.partial(wait, self._faults, ctypes.byref(self._event), 0)
        for reader in self._readers.values() if self._faults is not None else ():
            self._safely(
                library.nvmlDeviceRegisterEvents,
                reader.calls.handle,
                library.nvmlEventTypeXidCriticalError,
                self._faults,
            )

    def _safely(self, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except Exception:  # pynvml has errors besides NVML's
            return None


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
