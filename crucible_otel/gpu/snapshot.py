"""What the sampler knows at one moment, immutable, for everybody who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from crucible_otel.gpu.backend import NOTHING, Device, FastReading, ProcessReading, SlowReading

__all__ = ["EMPTY", "NO_FAST", "DeviceState", "Energy", "GpuSnapshot", "Totals"]

NO_FAST: Final = FastReading()
"""Of a device that another process reports: nothing was read but its energy."""
_NO_SLOW: Final = SlowReading()
_NO_PROCESS: Final = ProcessReading()

_ENERGY: Final = "energy_j"
_FAST_TOTALS: Final = (_ENERGY, "pcie_bytes", "nvlink_bytes")
_SLOW_TOTALS: Final = ("throttle_time_s", "errors")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceState:
    """One device.

    Attributes:
        device: The device.
        name: What this process calls it, such as ``cuda:0``.
        owned: Whether this process reports the device, and not only itself.
        fast: What the last tick read.
        slow: What the last slow read gave.
        process: What this process uses of it.
        torch_allocated_bytes: What PyTorch's allocator has given out in this process; None without PyTorch on it.
        torch_reserved_bytes: What PyTorch's allocator holds in this process; None without PyTorch on it.
        totals: The counters, as attribute of the reading -> entry (empty for a plain number) -> amount since this
            process reads the device. They never go down.
        energy_j: Energy used since this process reads the device; integrated power where it has no energy counter.
        energy_estimated: Whether it is integrated.
        power_w: Power drawn at the last tick.
        lost: Whether the device is gone; then there are no readings.
        failed: Whether the driver reported an error after which the device cannot be used.
    """

    device: Device
    name: str
    owned: bool = True
    fast: FastReading = NO_FAST
    slow: SlowReading = _NO_SLOW
    process: ProcessReading = _NO_PROCESS
    torch_allocated_bytes: int | None = None
    torch_reserved_bytes: int | None = None
    totals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    energy_j: float | None = None
    energy_estimated: bool = False
    power_w: float | None = None
    lost: bool = False
    failed: bool = False

    @property
    def visible(self) -> bool:
        """Whether this process can use the device, as far as CUDA is concerned."""
        return self.name != self.device.uuid


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSnapshot:
    """All devices, at one moment.

    Attributes:
        taken_s: When, on the monotonic clock.
        taken_ns: When, in nanoseconds since the Unix epoch.
        devices: Their states.
    """

    taken_s: float
    taken_ns: int
    devices: tuple[DeviceState, ...] = ()


EMPTY: Final = GpuSnapshot(taken_s=float("-inf"), taken_ns=0)


class Totals:
    """The counters of one device, from the moment this process begins to report it.

    A driver that is loaded anew begins at 0: what had been counted stays, and is added to.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, float]] = {}
        self._sums: dict[str, dict[str, float]] = {}

    def take(self, reading: FastReading | SlowReading) -> None:
        """Add what a reading has more than the one before."""
        for name in _FAST_TOTALS if isinstance(reading, FastReading) else _SLOW_TOTALS:
            found = getattr(reading, name)
            if found is None or found is NOTHING:
                continue
            values = {"": found} if name == _ENERGY else found
            last, sums = self._last.get(name, NOTHING), self._sums.get(name, NOTHING)
            if values == last and sums:
                continue
            added = dict(sums)  # snapshots have the one that was
            for key, value in values.items():
                before = last.get(key, value)
                added[key] = added.get(key, 0) + (value - before if value >= before else value)
            if added:
                self._last[name], self._sums[name] = {**last, **values}, added

    def xid(self) -> None:
        """Count an XID."""
        errors = self._sums.get("errors", {})
        self._sums["errors"] = {**errors, "xid": errors.get("xid", 0) + 1}

    def sums(self) -> Mapping[str, Mapping[str, float]]:
        """Return the amounts, as they are now."""
        return MappingProxyType(self._sums.copy())


class Energy:
    """The energy of one device from the moment this process reads it, whoever reports it; else integrated power.

    Attributes:
        power_w: Power drawn at the last reading.
    """

    def __init__(self) -> None:
        self.power_w: float | None = None
        self._last_j: float | None = None
        self._counted_j = self._integrated_j = 0.0
        self._power: tuple[float, float] | None = None

    def take(self, energy_j: float | None, power_w: float | None, now_s: float) -> None:
        """Add what was used since the reading before."""
        self.power_w = power_w
        if energy_j is not None:
            last_j = energy_j if self._last_j is None else self._last_j
            self._counted_j += energy_j - last_j if energy_j >= last_j else energy_j
            self._last_j = energy_j
        if power_w is not None:
            if self._power is not None:
                before_s, before_w = self._power
                self._integrated_j += (now_s - before_s) * (before_w + power_w) / 2
            self._power = now_s, power_w

    def total(self) -> tuple[float | None, bool]:
        """Return the energy in joules, and whether it is integrated power."""
        if self._last_j is not None:
            return self._counted_j, False
        return (self._integrated_j, True) if self._power is not None else (None, False)
