"""What a block of code used of the GPUs: means, maxima and energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from opentelemetry import trace

from crucible_otel.gpu import telling
from crucible_otel.gpu.sampler import Subscription
from crucible_otel.gpu.shared import sampler, source
from crucible_otel.gpu.snapshot import GpuSnapshot
from crucible_otel.gpu.telling import sampled_fields
from crucible_otel.semconv.gpu import SCOPE_ENERGY, SCOPE_ESTIMATED

__all__ = ["DeviceUse", "GpuScope", "scope"]

_TOTAL: Final = "joules"
_FIRST_AND_LAST_S: Final = 0.5
"""How long the beginning and the end of a scope wait for their sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceUse:
    """What a scope used of one device.

    Attributes:
        mean: Means over its samples, by field of :data:`crucible_otel.gpu.profiler.Sample`, such as ``gpu_percent``.
        max: Maxima.
        energy_j: Energy, in joules; None when the device tells neither energy nor power, or there were no two samples.
        energy_estimated: Whether it is integrated power, because the device has no energy counter.
    """

    mean: Mapping[str, float]
    max: Mapping[str, float]
    energy_j: float | None
    energy_estimated: bool


class _Sums:
    """The samples of one device, added up."""

    def __init__(self, first_j: float | None) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self.highest: dict[str, float] = {}
        self.first_j, self.last_j, self.samples, self.estimated = first_j, first_j, 0, False

    def take(self, fields: Mapping[str, Any], energy_j: float | None, estimated: bool) -> None:
        for name, value in fields.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1
            self.highest[name] = max(value, self.highest.get(name, value))
        if energy_j is not None:
            self.first_j = energy_j if self.first_j is None else self.first_j
            self.last_j, self.estimated = energy_j, estimated
        self.samples += 1

    def use(self) -> DeviceUse:
        measured = self.samples > 1 and self.first_j is not None and self.last_j is not None
        return DeviceUse(
            mean={name: total / count for name, (total, count) in self.sums.items()},
            max=dict(self.highest),
            energy_j=self.last_j - self.first_j if measured else None,  # type: ignore[operator]  # both are there
            energy_estimated=self.estimated,
        )


class GpuScope:
    """A measured block; :func:`scope` makes it. Its results are there when the block has ended.

    Attributes:
        name: Its name.
        devices: What it used, by device.
        mean: Means over devices and samples, by field, such as ``watts`` and ``gpu_percent``.
        max: Maxima over devices and samples.
        energy_j: Energy of all devices, in joules; None when none of them tells.
        energy_estimated: Whether that of a device is integrated power.
    """

    def __init__(self, name: str, interval_s: float) -> None:
        self.name, self._interval_s = name, interval_s
        self.devices: Mapping[str, DeviceUse] = {}
        self.mean: Mapping[str, float] = {}
        self.max: Mapping[str, float] = {}
        self.energy_j: float | None = None
        self.energy_estimated = False
        self._sums: dict[str, _Sums] = {}
        self._subscription: Subscription | None = None

    def __enter__(self) -> GpuScope:
        """Begin to measure; where there is no GPU, do nothing."""
        if source().is_there():
            shared = sampler()
            self._subscription = shared.subscribe(None, self._take)
            shared.sample_now(_FIRST_AND_LAST_S)
            self._subscription.set_interval(self._interval_s, at_once=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the last sample, and say what was used: to the caller, on the current span and as an event."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        subscription.close(_FIRST_AND_LAST_S)
        if self._sums:
            self._finish()

    def _take(self, snapshot: GpuSnapshot) -> None:
        for state in snapshot.devices:
            fields = {name: value for name, value in sampled_fields(state).items() if name != _TOTAL}
            if fields and not state.lost:
                sums = self._sums.setdefault(state.name, _Sums(state.energy_j))
                sums.take(fields, state.energy_j, state.energy_estimated)

    def _finish(self) -> None:
        sums = list(self._sums.values())
        self.devices = {name: each.use() for name, each in self._sums.items()}
        names = dict.fromkeys(name for each in sums for name in each.sums)
        totals = {name: [each.sums[name] for each in sums if name in each.sums] for name in names}
        self.mean = {name: sum(t for t, _ in found) / sum(n for _, n in found) for name, found in totals.items()}
        self.max = {name: max(each.highest[name] for each in sums if name in each.highest) for name in names}
        energies = [each.energy_j for each in self.devices.values() if each.energy_j is not None]
        self.energy_j = sum(energies) if energies else None
        self.energy_estimated = any(each.energy_estimated for each in self.devices.values())
        measurements: dict[str, Any] = {"mean": dict(self.mean), "max": dict(self.max)}
        if self.energy_j is not None:
            measurements["energy_j"] = self.energy_j
            span = trace.get_current_span()
            span.set_attribute(SCOPE_ENERGY, self.energy_j)
            span.set_attribute(SCOPE_ESTIMATED, self.energy_estimated)
        telling.used(self.name, measurements, self.energy_estimated)


def scope(name: str, *, interval_ms: int = 1000) -> GpuScope:
    """Measure what a block of code uses of the GPUs that this process sees.

        with cx.gpu.scope("epoch/3") as g:
            train_one_epoch()
        print(g.energy_j, g.mean["gpu_percent"], g.max["used_mb"])

    A device's figures are those of the whole device, whoever else uses it. It works without ``configure()``, on every
    rank. Where there is no GPU the results are empty.

    Args:
        name: What it is called in the event.
        interval_ms: Milliseconds between samples; there is always one at the beginning and one at the end.
    """
    return GpuScope(str(name), max(interval_ms, 100) / 1000)
