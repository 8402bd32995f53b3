"""GPUs that are not there: a backend whose readings a test decides."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from crucible_otel.gpu.backend import (
    BackendUnavailableError,
    Device,
    DeviceFault,
    DeviceLostError,
    FastReading,
    ProcessReading,
    SlowReading,
)

__all__ = ["FakeGpu", "FakeNvml"]


@dataclass(kw_only=True)
class FakeGpu:
    """One GPU, or MIG instance; what is set here is what the next reading says. None: the device has no such reading.

    Attributes:
        name: The model.
        uuid: Its identity; made from the index when empty.
        memory_total_bytes: Memory there is.
        memory_used_bytes: Memory in use.
        utilization_ratio: Part of the time in which any kernel ran, between 0 and 1.
        power_w: Power drawn.
        energy_j: Total energy.
        temperature_celsius: Of the die.
        process_memory_bytes: Memory that this process holds.
        fast: The readings of every tick that have no attribute of their own here.
        slow: The readings of now and then.
        instances: The MIG instances that it is divided into, each with a ``mig_profile``.
        mig_profile: Of an instance, such as ``1g.10gb``.
        lost: Whether it fell off the bus: every reading raises.
        error: What every reading raises, if anything: a fault of the backend itself.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = ""
    memory_total_bytes: int | None = 80 * 1024**3
    memory_used_bytes: int | None = 0
    utilization_ratio: float | None = 0.0
    power_w: float | None = None
    energy_j: float | None = None
    temperature_celsius: float | None = None
    process_memory_bytes: int | None = None
    fast: FastReading = field(default_factory=FastReading)
    slow: SlowReading = field(default_factory=SlowReading)
    instances: Sequence[FakeGpu] = ()
    mig_profile: str | None = None
    lost: bool = False
    error: Exception | None = None

    def reading(self) -> FastReading:
        """Return what :meth:`FakeNvml.read_fast` says of it now."""
        total, used = self.memory_total_bytes, self.memory_used_bytes
        temperatures = dict(self.fast.temperature_celsius)
        if self.temperature_celsius is not None:
            temperatures["die"] = self.temperature_celsius
        return replace(
            self.fast,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=None if total is None or used is None else total - used,
            utilization_ratio=self.utilization_ratio,
            power_w=self.power_w,
            energy_j=self.energy_j,
            temperature_celsius=temperatures,
        )


class FakeNvml:
    """A backend (:class:`crucible_otel.gpu.backend.GpuBackend`) of GPUs that a test makes and changes.

    For example::

        gpu = FakeGpu(memory_used_bytes=40 * 1024**3, utilization_ratio=0.75, temperature_celsius=65)
        nvml = FakeNvml([gpu, FakeGpu()])
        gpu.temperature_celsius = 91     # the next reading says so
        nvml.report_fault(gpu, 79)       # an XID
        with nvml.hanging(): ...         # the driver does not answer

    Args:
        gpus: In the order of their indices.
        driver_version: Of the driver.
        unavailable: Why there is no library, if there is none: :meth:`open` raises it.

    Attributes:
        calls: How often each method was called.
        is_open: Whether it is open now.
    """

    def __init__(
        self, gpus: Iterable[FakeGpu] = (), *, driver_version: str = "550.54.15", unavailable: str | None = None
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.is_open = False
        self._unavailable = unavailable
        self._faults: deque[DeviceFault] = deque()
        self._answers = threading.Event()
        self._answers.set()
        self._gpus: dict[str, FakeGpu] = {}
        self._devices: list[Device] = []
        for index, gpu in enumerate(gpus):
            gpu.uuid = gpu.uuid or f"GPU-00000000-0000-0000-0000-{index:012}"
            whole = Device(
                uuid=gpu.uuid,
                index=index,
                model=gpu.name,
                driver_version=driver_version,
                divided=bool(gpu.instances),
            )
            self._keep(gpu, whole)
            for number, part in enumerate(gpu.instances):
                part.uuid = part.uuid or f"MIG-00000000-0000-0000-{index:04}-{number:012}"
                profile = part.mig_profile or "1g.10gb"
                self._keep(
                    part,
                    replace(whole, uuid=part.uuid, parent_uuid=gpu.uuid, mig_profile=profile, divided=False),
                )

    def _keep(self, gpu: FakeGpu, device: Device) -> None:
        if device.uuid in self._gpus:
            raise ValueError(f"uuid={device.uuid!r} is that of two GPUs; accepted: one of its own for each")
        self._gpus[device.uuid] = gpu
        self._devices.append(device)

    # -- for the test ------------------------------------------------------------------------------------------------

    def report_fault(self, gpu: FakeGpu, code: int) -> None:
        """Have the driver report an error.

        Args:
            gpu: Of this device.
            code: Its XID.
        """
        self._faults.append(DeviceFault(uuid=gpu.uuid, code=code))

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let every call wait until this is left."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    # -- for the sampler ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Pretend to load the library.

        Raises:
            BackendUnavailableError: There is said to be none.
        """
        self._called("open")
        if self._unavailable is not None:
            raise BackendUnavailableError(self._unavailable)
        self.is_open = True

    def devices(self) -> Sequence[Device]:
        """Return every device."""
        self._called("devices")
        return list(self._devices)

    def read_fast(self, device: Device) -> FastReading:
        """Return what the test says.

        Raises:
            DeviceLostError: The device is said to be lost.
        """
        return self._asked("read_fast", device).reading()

    def read_energy(self, device: Device) -> tuple[float | None, float | None]:
        """Return what the test says.

        Raises:
            DeviceLostError: The device is said to be lost.
        """
        gpu = self._asked("read_energy", device)
        return gpu.energy_j, gpu.power_w

    def read_slow(self, device: Device) -> SlowReading:
        """Return what the test says.

        Raises:
            DeviceLostError: The device is said to be lost.
        """
        return self._asked("read_slow", device).slow

    def read_process(self, device: Device) -> ProcessReading:
        """Return what the test says.

        Raises:
            DeviceLostError: The device is said to be lost.
        """
        return ProcessReading(memory_bytes=self._asked("read_process", device).process_memory_bytes)

    def read_faults(self) -> Sequence[DeviceFault]:
        """Return what was reported since the last call."""
        self._called("read_faults")
        return [self._faults.popleft() for _ in range(len(self._faults))]

    def close(self) -> None:
        """Pretend to let go of the library."""
        self._called("close")
        self.is_open = False

    def _asked(self, method: str, device: Device) -> FakeGpu:
        self._called(method)
        gpu = self._gpus[device.uuid]
        if gpu.lost:
            raise DeviceLostError(f"{device.uuid} is lost")
        if gpu.error is not None:
            raise gpu.error
        return gpu

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        self._answers.wait()
