"""Whether what is read of GPUs moves under load as it should."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crucible_otel.gpu.snapshot import DeviceState, GpuSnapshot

__all__ = ["Verdict", "movements"]

Read = Callable[[DeviceState], float | None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one figure of one GPU.

    Attributes:
        gpu: Which.
        figure: What.
        idle: Without load; None where it is absent.
        busy: Under load.
        failed: Whether it is not as it should be.
    """

    gpu: str
    figure: str
    idle: float | None
    busy: float | None
    failed: bool

    @property
    def row(self) -> str:
        """A line of a table in Markdown."""
        shown = ["-" if each is None else f"{each:.6g}" for each in (self.idle, self.busy)]
        verdict = "absent" if self.busy is None else "**wrong**" if self.failed else "as it should"
        return f"| {self.gpu} | {self.figure} | {shown[0]} | {shown[1]} | {verdict} |"

    @property
    def text(self) -> str:
        """A sentence."""
        return f"{self.figure} of {self.gpu}: {self.idle} idle, {self.busy} under load"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    figure: str
    read: Read
    right: Callable[[float, float], bool]


def _pipe(state: DeviceState) -> float | None:
    return max(state.fast.pipe_active_ratio.values(), default=None)


def _die(state: DeviceState) -> float | None:
    return state.fast.temperature_celsius.get("die")


_RULES = (
    _Rule(
        figure="utilization", read=lambda s: s.fast.utilization_ratio, right=lambda idle, busy: busy > max(idle, 0.5)
    ),
    _Rule(figure="power, W", read=lambda s: s.fast.power_w, right=lambda idle, busy: busy > 1.1 * idle),
    _Rule(figure="temperature, °C", read=_die, right=lambda idle, busy: busy >= idle - 1),
    _Rule(figure="SM active", read=lambda s: s.fast.sm_active_ratio, right=lambda idle, busy: busy > max(idle, 0.3)),
    _Rule(figure="SM occupancy", read=lambda s: s.fast.sm_occupancy_ratio, right=lambda idle, busy: busy > idle),
    _Rule(figure="DRAM active", read=lambda s: s.fast.dram_active_ratio, right=lambda idle, busy: busy > idle),
    _Rule(figure="busiest pipe", read=_pipe, right=lambda idle, busy: busy > max(idle, 0.1)),
)
_ENERGY_SLACK = 0.25
"""How far energy may be from mean power times duration; power is an average of its own."""


def movements(idle: Sequence[GpuSnapshot], busy: Sequence[GpuSnapshot], allocated_bytes: int) -> list[Verdict]:
    """Return what moved and how.

    Args:
        idle: Samples without load.
        busy: Samples under load.
        allocated_bytes: Device memory that the load takes on each GPU at least.
    """
    found = []
    for place, state in enumerate(busy[-1].devices):
        if state.device.parent_uuid is not None or state.device.divided:
            continue
        before, after = ([each.devices[place] for each in samples] for samples in (idle, busy))
        name = f"GPU {state.device.index}"
        for rule in _RULES:
            quiet, loaded = _mean(before, rule.read), _mean(after, rule.read)
            wrong = loaded is not None and not rule.right(quiet or 0.0, loaded)
            found.append(Verdict(gpu=name, figure=rule.figure, idle=quiet, busy=loaded, failed=wrong))
        found += [_memory(name, before, after, allocated_bytes), *_energy(name, after, busy)]
    return found


def _memory(name: str, before: Sequence[DeviceState], after: Sequence[DeviceState], allocated_bytes: int) -> Verdict:
    quiet, loaded = (_mean(each, lambda s: s.fast.memory_used_bytes) for each in (before, after))
    wrong = loaded is not None and loaded - (quiet or 0.0) < max(allocated_bytes, 1)
    return Verdict(gpu=name, figure="memory used, bytes", idle=quiet, busy=loaded, failed=wrong)


def _energy(name: str, after: Sequence[DeviceState], busy: Sequence[GpuSnapshot]) -> list[Verdict]:
    """Energy is power by time: what the one says must be what the other says."""
    first_j, last_j, power_w = after[0].energy_j, after[-1].energy_j, _mean(after, lambda s: s.fast.power_w)
    duration_s = busy[-1].taken_s - busy[0].taken_s
    if first_j is None or last_j is None or power_w is None or after[-1].energy_estimated:
        return [
            Verdict(gpu=name, figure="energy a second, J (idle: mean power)", idle=power_w, busy=None, failed=False)
        ]
    rate = (last_j - first_j) / duration_s
    wrong = abs(rate - power_w) > _ENERGY_SLACK * power_w
    return [Verdict(gpu=name, figure="energy a second, J (idle: mean power)", idle=power_w, busy=rate, failed=wrong)]


def _mean(states: Sequence[DeviceState], read: Read) -> float | None:
    found = [value for value in map(read, states) if value is not None]
    return statistics.fmean(found) if found else None
