"""What the sampler asks of a maker's library, and the records in which it answers.

A reading that a device does not have is ``None``, an entry that it does not have is absent from its mapping; neither is
ever 0. Every figure has the unit in its name: bytes, watts, joules, seconds, hertz, degrees Celsius; a ratio lies
between 0 and 1. Totals only grow, from whatever the library starts them at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeVar, runtime_checkable

__all__ = [
    "NOTHING",
    "AtOnce",
    "BackendUnavailableError",
    "Device",
    "DeviceFault",
    "DeviceLostError",
    "FastReading",
    "GpuBackend",
    "ProcessReading",
    "ReadsAtOnce",
    "SlowReading",
    "Told",
]

T_co = TypeVar("T_co", covariant=True)

NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class BackendUnavailableError(Exception):
    """The library or its driver is not there, or cannot be used; the text says which and why."""


class DeviceLostError(Exception):
    """A device stopped answering for good: it fell off the bus, or must be reset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU, or a part of one that is used like a GPU (a MIG instance).

    Attributes:
        uuid: The library's exact identity, ``GPU-...`` or ``MIG-...``.
        index: The library's own number of the GPU; of a part, that of its GPU.
        model: Such as ``NVIDIA H100 80GB HBM3``.
        vendor: The maker.
        driver_version: Of the driver, or None.
        serial_number: Of the board, or None.
        pci_bus_id: Such as ``00000000:1B:00.0``, or None.
        parent_uuid: Of a part, its GPU; else None.
        mig_profile: Of a MIG instance, such as ``1g.10gb``; else None.
        divided: Whether the GPU is divided into parts now, which have the memory and the work.
    """

    uuid: str
    index: int
    model: str
    vendor: str = "NVIDIA"
    driver_version: str | None = None
    serial_number: str | None = None
    pci_bus_id: str | None = None
    parent_uuid: str | None = None
    mig_profile: str | None = None
    divided: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FastReading:
    """What is read of a device on every tick.

    Attributes:
        utilization_ratio: Part of the time in which any kernel ran.
        memory_controller_ratio: Part of the time in which device memory was read or written.
        memory_used_bytes: Memory in use, by anybody.
        memory_total_bytes: Memory there is.
        memory_free_bytes: Memory nobody uses.
        power_w: Power drawn.
        energy_j: Total energy, since the driver was loaded.
        temperature_celsius: By place: ``die``, ``memory``.
        clock_hz: By clock: ``sm``, ``memory``, ``graphics``, ``video``.
        throttle_reasons: Why the clocks are low now, of :data:`crucible_otel.semconv.gpu.THROTTLE_REASONS`; empty when
            nothing lowers them.
        pcie_bytes: Total, by direction: ``transmit`` (from the GPU), ``receive``.
        nvlink_bytes: Total of all links, by direction.
        sm_active_ratio: Part of the time in which an SM had a warp, averaged over SMs.
        sm_occupancy_ratio: Resident warps of those there could be.
        dram_active_ratio: Part of the peak bandwidth of device memory that was used.
        pipe_active_ratio: Part of the cycles in which a pipe worked, by pipe: ``tensor``, ``fp64``, ``fp32``, ``fp16``,
            ``integer``.
    """

    utilization_ratio: float | None = None
    memory_controller_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_celsius: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    clock_hz: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    throttle_reasons: frozenset[str] | None = None
    pcie_bytes: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    nvlink_bytes: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    sm_active_ratio: float | None = None
    sm_occupancy_ratio: float | None = None
    dram_active_ratio: float | None = None
    pipe_active_ratio: Mapping[str, float] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowReading:
    """What is read of a device now and then, because it changes rarely or costs more.

    Attributes:
        power_limit_w: The limit that is enforced.
        throttle_time_s: Total time of lowered clocks, by reason.
        errors: Total, by type: ``corrected`` and ``uncorrected`` (ECC), ``pcie_replay``.
        engine_utilization_ratio: By engine: ``encoder``, ``decoder``.
        fan_ratio: Speed of each fan, of its maximum.
        temperature_limit_celsius: By kind: ``slowdown``, ``shutdown``, ``gpu_max``, ``memory_max``.
        clock_limit_hz: Highest, by clock.
        remapped_rows: Total, by cause: ``corrected``, ``uncorrected``.
        remap_pending: Whether a remapping waits for a reset.
        remap_failed: Whether a remapping failed.
        recovery_needed: Whether the driver asks for a reset, a reboot or a drain.
        pcie_generation: Of the link, now.
        pcie_width_lanes: Of the link, now.
    """

    power_limit_w: float | None = None
    throttle_time_s: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    errors: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    engine_utilization_ratio: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    fan_ratio: tuple[float, ...] = ()
    temperature_limit_celsius: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    clock_limit_hz: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    remapped_rows: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    recovery_needed: bool | None = None
    pcie_generation: int | None = None
    pcie_width_lanes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessReading:
    """What this process uses of a device.

    Attributes:
        memory_bytes: Device memory it holds; None when the library does not say, 0 when it says that it holds none.
    """

    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFault:
    """An error that the driver reports of a device: an XID.

    Attributes:
        uuid: The device.
        code: The driver's number of the error.
    """

    uuid: str
    code: int


class GpuBackend(Protocol):
    """A maker's library. Only the thread that called :meth:`open` calls the rest; any call may take long."""

    def open(self) -> None:
        """Load and initialise the library.

        Raises:
            BackendUnavailableError: It is not there, or cannot be used.
        """

    def devices(self) -> Sequence[Device]:
        """Return every device, in the library's order; a divided GPU is followed by its parts."""

    def read_fast(self, device: Device) -> FastReading:
        """Return what there is; what fails or is unsupported is left out.

        Raises:
            DeviceLostError: The device is gone.
        """

    def read_energy(self, device: Device) -> tuple[float | None, float | None]:
        """Return the total energy in joules and the power in watts, as :meth:`read_fast` would; None for either.

        Raises:
            DeviceLostError: The device is gone.
        """

    def read_slow(self, device: Device) -> SlowReading:
        """Return what there is; what fails or is unsupported is left out.

        Raises:
            DeviceLostError: The device is gone.
        """

    def read_process(self, device: Device) -> ProcessReading:
        """Return what this process uses of the device.

        Raises:
            DeviceLostError: The device is gone.
        """

    def read_faults(self) -> Sequence[DeviceFault]:
        """Return the errors reported since the last call, without waiting for one."""

    def close(self) -> None:
        """Let go of the library; nothing is called afterwards, except :meth:`open`."""


class Told(Protocol[T_co]):
    """What all devices have told, to be made out when and where it is called."""

    def __call__(self) -> Sequence[T_co]:
        """Return the reading of each device."""

    def follows(self, before: object) -> bool:
        """Whether all totals of each device were told both times, and none of them has gone down."""


class AtOnce(Protocol):
    """Reads many devices in one go, as long as all goes well; what does not is found out by reading each by itself."""

    def read_fast(self) -> Told[FastReading] | None:
        """Return what each device has told; None if anything failed."""

    def read_slow(self) -> Told[SlowReading] | None:
        """Return the same of slow readings; None if anything failed: then the fast reading before it does not count."""

    def read_process(self) -> Sequence[ProcessReading] | None:
        """Return what this process uses of each device; None if anything failed."""

    def end(self) -> None:
        """Have the devices read each by itself again; whatever is called afterwards fails."""


@runtime_checkable
class ReadsAtOnce(Protocol):
    """What a backend may have besides, so that a tick of many devices costs little more than that of one."""

    def at_once(self, devices: Sequence[Device]) -> AtOnce | None:
        """Return what reads these devices at once; None as long as one of them has something that comes and goes."""
