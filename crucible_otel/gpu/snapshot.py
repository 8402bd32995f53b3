"""What the sampler knows at one moment, immutable, for everybody who reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from crucible_otel.gpu.backend import Device, FastReading, ProcessReading, SlowReading

__all__ = ["COUNTERS", "EMPTY", "NO_FAST", "Counted", "DeviceState", "Energy", "GpuSnapshot"]

NO_FAST: Final = FastReading()
"""Of a device that another process reports: nothing was read but its energy."""
_NO_SLOW: Final = SlowReading()
_NO_PROCESS: Final = ProcessReading()

_ENERGY: Final = "energy_j"
_FAST_TOTALS: Final = (_ENERGY, "pcie_bytes", "nvlink_bytes")
_SLOW_TOTALS: Final = ("throttle_time_s", "errors")
COUNTERS: Final = frozenset((*_FAST_TOTALS, *_SLOW_TOTALS))
"""Attributes of readings that are totals."""
_MOST_WAITING: Final = 32
"""Readings that wait to be added up at most."""
_Entries = dict[str, dict[str, float]]


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

    @property
    def held(self) -> frozenset[str]:
        """UUIDs of the devices on which this process holds memory."""
        return frozenset(
            state.device.uuid for state in self.devices if state.torch_reserved_bytes or state.process.memory_bytes
        )


EMPTY: Final = GpuSnapshot(taken_s=float("-inf"), taken_ns=0)


class Counted(Mapping[str, Mapping[str, float]]):
    """The counters of one device, from the moment this process begins to report it, as they were after a reading.

    A driver that is loaded anew begins at 0: what had been counted stays, and is added to. They are added up when
    somebody looks, for few readings are looked at: it remembers the one before and what was read since. Two threads
    that look at once find the same.
    """

    __slots__ = ("_done", "_since", "_waiting")

    def __init__(self, since: tuple[Counted, FastReading | SlowReading | int] | None = None) -> None:
        self._since = since
        self._waiting: int = 0 if since is None else since[0]._waiting + 1
        self._done: tuple[_Entries, _Entries] | None = ({}, {}) if since is None else None

    def after(self, reading: FastReading | SlowReading | int) -> Counted:
        """Return them with what a reading has more than the one before; a number is that of new XIDs."""
        found = Counted((self, reading))
        if found._waiting >= _MOST_WAITING:  # nobody may ever look
            found.add_up()
        return found

    def add_up(self) -> tuple[_Entries, _Entries]:
        """Return the last values and the sums, which nobody changes."""
        done, one, readings = self._done, self, []
        while done is None:
            since = one._since
            done = one._done
            if done is None and since is not None:  # else another thread has just added it up
                one, reading = since
                readings.append(reading)
                done = one._done
        if readings:
            last, sums = ({name: dict(values) for name, values in each.items()} for each in done)
            for reading in reversed(readings):
                _add(reading, last, sums)
            self._done = done = last, sums
            self._since, self._waiting = None, 0
        return done

    def __getitem__(self, name: str) -> Mapping[str, float]:
        """Return the amounts of a counter, by entry."""
        return self.add_up()[1][name]

    def __iter__(self) -> Iterator[str]:
        """Return the counters that there are."""
        return iter(self.add_up()[1])

    def __len__(self) -> int:
        """Return how many."""
        return len(self.add_up()[1])


def _add(reading: FastReading | SlowReading | int, last: _Entries, sums: _Entries) -> None:
    """Add what a reading has more than the one before; a number is that of new XIDs."""
    if isinstance(reading, int):
        errors = sums.setdefault("errors", {})
        errors["xid"] = errors.get("xid", 0) + reading
        return
    for name in _FAST_TOTALS if isinstance(reading, FastReading) else _SLOW_TOTALS:
        found = getattr(reading, name)
        if found is None or not (name == _ENERGY or found):
            continue
        before, added = last.setdefault(name, {}), sums.setdefault(name, {})
        for key, value in (("", found),) if name == _ENERGY else found.items():
            least = before.get(key, value)
            added[key] = added.get(key, 0) + (value - least if value >= least else value)
            before[key] = value


class Energy(NamedTuple):
    """The energy of one device from the moment this process reads it, whoever reports it; else integrated power.

    Attributes:
        power_w: Power drawn at the last reading.
        last_j: What the energy counter last said; None without one.
        counted_j: Energy by the counter.
        integrated_j: Energy by integrated power, as long as there is no counter.
        power: When power was last told, and how much; None when it never was.
    """

    power_w: float | None = None
    last_j: float | None = None
    counted_j: float = 0.0
    integrated_j: float = 0.0
    power: tuple[float, float] | None = None

    def after(self, energy_j: float | None, power_w: float | None, now_s: float) -> Energy:
        """Return it with what was used since the reading before."""
        _, last_j, counted_j, integrated_j, power = self
        if energy_j is not None:
            if last_j is not None:
                counted_j += energy_j - last_j if energy_j >= last_j else energy_j
            last_j = energy_j
        elif power_w is not None and last_j is None:
            if power is not None:
                before_s, before_w = power
                integrated_j += (now_s - before_s) * (before_w + power_w) / 2
            power = now_s, power_w
        return Energy(power_w, last_j, counted_j, integrated_j, power)

    def total(self) -> tuple[float | None, bool]:
        """Return the energy in joules, and whether it is integrated power."""
        if self.last_j is not None:
            return self.counted_j, False
        return (self.integrated_j, True) if self.power is not None else (None, False)
