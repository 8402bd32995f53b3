"""The observable instruments: what each reports of a device, as one table.

Made through the API's Meter, so that they are the same on our own provider and on an application's. A callback looks
the observations up that were made of the last snapshot; it never asks the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from crucible_otel.gpu.seed import renamed, without_renamed
from crucible_otel.gpu.snapshot import EMPTY, DeviceState, GpuSnapshot
from crucible_otel.semconv import gpu, seed
from crucible_otel.semconv.model import Metric

__all__ = ["Instruments", "observations"]

Fresh = Callable[[], GpuSnapshot]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """What one metric says of a device.

    Attributes:
        metric: The metric.
        read: Returns its value, a mapping of one attribute's values to values, or None.
        each: The attribute that takes the keys of such a mapping.
        constants: Attributes that are always the same.
        everybody: Whether every process reports it, not only the one that reports the device.
    """

    metric: Metric
    read: Callable[[DeviceState], Any]
    each: str = ""
    constants: Mapping[str, str] = field(default_factory=dict)
    everybody: bool = False


_LIMIT_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "shutdown": ("die", "high.critical"),
    "slowdown": ("die", "high.degraded"),
    "gpu_max": ("die", "max"),
    "memory_max": ("memory", "max"),
}
_SLOWED_DOWN: Final = frozenset({gpu.HW_SLOWDOWN, gpu.HW_THERMAL, gpu.HW_POWER_BRAKE})
_GPU: Final[Mapping[str, str]] = {gpu.TYPE: "gpu"}


def _total(name: str) -> Callable[[DeviceState], Any]:
    return lambda state: state.totals.get(name)


def _memory_utilization(state: DeviceState) -> float | None:
    used, total = state.fast.memory_used_bytes, state.fast.memory_total_bytes
    return used / total if used is not None and total else None


def _energy(state: DeviceState) -> float | None:
    return state.totals.get("energy_j", {}).get("")


def _limit(name: str) -> _Row:
    place, kind = _LIMIT_TYPES[name]
    return _Row(
        metric=gpu.TEMPERATURE_LIMIT,
        read=lambda state: state.slow.temperature_limit_celsius.get(name),
        constants={gpu.SENSOR: place, gpu.LIMIT_TYPE: kind},
    )


def _fans(state: DeviceState) -> Mapping[str, float]:
    return {f"fan{number}": ratio for number, ratio in enumerate(state.slow.fan_ratio)}


def _throttling(state: DeviceState) -> Mapping[str, int] | None:
    active = state.fast.throttle_reasons
    return None if active is None else {reason: int(reason in active) for reason in gpu.THROTTLE_REASONS}


def _pending(state: DeviceState) -> int | None:
    return None if state.slow.remap_pending is None else int(state.slow.remap_pending)


def _status(state: DeviceState) -> Mapping[str, int] | None:
    if state.device.parent_uuid is not None:
        return None
    slow = state.slow
    if state.lost or state.failed:
        found = "failed"
    elif slow.remap_pending or slow.remap_failed or slow.recovery_needed:
        found = "predicted_failure"
    elif _SLOWED_DOWN & (state.fast.throttle_reasons or frozenset()):
        found = "degraded"
    else:
        found = "ok"
    return {each: int(each == found) for each in gpu.STATES}


_STATUS: Final = _Row(metric=gpu.STATUS, read=_status, each=gpu.STATE, constants=_GPU)
_ROWS: Final = (
    _Row(metric=gpu.UTILIZATION, read=lambda s: s.fast.utilization_ratio, constants={gpu.TASK: "general"}),
    _Row(metric=gpu.UTILIZATION, read=lambda s: s.slow.engine_utilization_ratio, each=gpu.TASK),
    _Row(metric=gpu.MEMORY_USAGE, read=lambda s: s.fast.memory_used_bytes),
    _Row(metric=gpu.MEMORY_LIMIT, read=lambda s: s.fast.memory_total_bytes),
    _Row(metric=gpu.MEMORY_UTILIZATION, read=_memory_utilization),
    _Row(metric=gpu.IO, read=_total("pcie_bytes"), each=gpu.DIRECTION),
    _Row(metric=gpu.POWER, read=lambda s: s.fast.power_w, constants=_GPU),
    _Row(metric=gpu.ENERGY, read=_energy, constants=_GPU),
    _Row(metric=gpu.TEMPERATURE, read=lambda s: s.fast.temperature_celsius, each=gpu.SENSOR),
    *(_limit(name) for name in _LIMIT_TYPES),
    _Row(metric=gpu.FAN_SPEED, read=_fans, each=gpu.SENSOR),
    _Row(metric=gpu.ERRORS, read=_total("errors"), each=gpu.ERROR_TYPE, constants=_GPU),
    _STATUS,
    _Row(metric=gpu.MEMORY_CONTROLLER, read=lambda s: s.fast.memory_controller_ratio),
    _Row(metric=gpu.CLOCK_SPEED, read=lambda s: s.fast.clock_hz, each=gpu.CLOCK),
    _Row(metric=gpu.CLOCK_LIMIT, read=lambda s: s.slow.clock_limit_hz, each=gpu.CLOCK),
    _Row(metric=gpu.POWER_LIMIT, read=lambda s: s.slow.power_limit_w),
    _Row(metric=gpu.THROTTLE_ACTIVE, read=_throttling, each=gpu.REASON),
    _Row(metric=gpu.THROTTLE_TIME, read=_total("throttle_time_s"), each=gpu.REASON),
    _Row(metric=gpu.NVLINK_IO, read=_total("nvlink_bytes"), each=gpu.DIRECTION),
    _Row(metric=gpu.SM_ACTIVE, read=lambda s: s.fast.sm_active_ratio),
    _Row(metric=gpu.SM_OCCUPANCY, read=lambda s: s.fast.sm_occupancy_ratio),
    _Row(metric=gpu.DRAM_ACTIVE, read=lambda s: s.fast.dram_active_ratio),
    _Row(metric=gpu.PIPE_ACTIVE, read=lambda s: s.fast.pipe_active_ratio, each=gpu.PIPE),
    _Row(metric=gpu.REMAPPED_ROWS, read=lambda s: s.slow.remapped_rows, each=gpu.CAUSE),
    _Row(metric=gpu.REMAP_PENDING, read=_pending),
    _Row(metric=gpu.PCIE_GENERATION, read=lambda s: s.slow.pcie_generation),
    _Row(metric=gpu.PCIE_WIDTH, read=lambda s: s.slow.pcie_width_lanes),
    _Row(metric=gpu.PROCESS_MEMORY, read=lambda s: s.process.memory_bytes, everybody=True),
    _Row(metric=gpu.TORCH_ALLOCATED, read=lambda s: s.torch_allocated_bytes, everybody=True),
    _Row(metric=gpu.TORCH_RESERVED, read=lambda s: s.torch_reserved_bytes, everybody=True),
)


def observations(snapshot: GpuSnapshot, names: str = seed.OFF) -> dict[str, list[Observation]]:
    """Return metric name -> what it reports. Of a lost device only its status is left.

    Args:
        snapshot: Of the devices.
        names: Whether what has a seed name too is reported under that: see :mod:`crucible_otel.semconv.seed`.
    """
    ours = _observations(snapshot)
    if names == seed.OFF:
        return ours
    return {**(without_renamed(ours) if names == seed.ONLY else ours), **renamed(snapshot)}


def _observations(snapshot: GpuSnapshot) -> dict[str, list[Observation]]:
    found: dict[str, list[Observation]] = {}
    for state in snapshot.devices:
        identity = _identity(state)
        if state.owned and not state.lost:
            found.setdefault(gpu.INFO.name, []).append(Observation(1, {**identity, **_details(state)}))
        for row in (_STATUS,) if state.lost else _ROWS:
            if state.owned or row.everybody:
                found.setdefault(row.metric.name, []).extend(_of(row, state, identity))
    return found


def _of(row: _Row, state: DeviceState, identity: Mapping[str, str]) -> Iterable[Observation]:
    value = row.read(state)
    if value is None:
        return
    if not row.each:
        yield Observation(value, {**identity, **row.constants})
        return
    for key, one in value.items():
        yield Observation(one, {**identity, **row.constants, row.each: key})


def _identity(state: DeviceState) -> dict[str, str]:
    device = state.device
    name = f"GPU {device.index}" + (f" MIG {device.mig_profile}" if device.mig_profile else "")
    found = {gpu.ID: device.uuid, gpu.NAME: name, gpu.MODEL: device.model, gpu.VENDOR: device.vendor}
    return found if device.parent_uuid is None else {**found, gpu.PARENT: device.parent_uuid}


def _details(state: DeviceState) -> dict[str, str]:
    device = state.device
    details = {
        gpu.DRIVER: device.driver_version,
        gpu.SERIAL: device.serial_number,
        gpu.PCI: device.pci_bus_id,
        gpu.MIG_PROFILE: device.mig_profile,
    }
    return {name: value for name, value in details.items() if value}


class Instruments:
    """The observable instruments of one meter; :meth:`of` makes or finds them.

    They cannot be taken off a provider, so they live as long as their meter, whatever fills them.
    """

    def __init__(self, meter: Meter) -> None:
        self._fresh: Fresh = lambda: EMPTY
        self._made: tuple[GpuSnapshot, dict[str, list[Observation]]] = (EMPTY, {})
        self._names, self._has_seed = seed.OFF, False
        self._create(meter, gpu.METRICS)

    def _create(self, meter: Meter, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            create = getattr(meter, _CREATE[metric.kind])
            create(metric.name, callbacks=[self._callback(metric.name)], unit=metric.unit, description=metric.brief)

    @classmethod
    def of(cls, meter: Meter, names: str = seed.OFF) -> Instruments:
        """Return the instruments of a meter, with those of the seeds where they are asked for.

        Args:
            meter: Where they are.
            names: Under which names they report; see :func:`observations`.
        """
        found = _MADE.get(meter)
        if found is None:
            found = _MADE[meter] = cls(meter)
        if names != seed.OFF and not found._has_seed:
            found._create(meter, (each.metric for each in seed.GPU))
            found._has_seed = True
        found._names, found._made = names, (EMPTY, {})
        return found

    def bind(self, fresh: Fresh) -> None:
        """Report what ``fresh()`` returns from now on."""
        self._fresh = fresh

    def unbind(self, fresh: Fresh | None = None) -> None:
        """Report nothing any more; with an argument only if it is what is reported."""
        if fresh is None or fresh == self._fresh:
            self._fresh = lambda: EMPTY

    def _callback(self, name: str) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def report(options: CallbackOptions) -> Sequence[Observation]:
            snapshot, made = self._fresh(), self._made
            if made[0] is not snapshot:
                made = self._made = (snapshot, observations(snapshot, self._names))
            return made[1].get(name, ())

        return report


_CREATE: Final[Mapping[str, str]] = {
    "counter": "create_observable_counter",
    "updowncounter": "create_observable_up_down_counter",
    "gauge": "create_observable_gauge",
}
_MADE: WeakKeyDictionary[Meter, Instruments] = WeakKeyDictionary()
