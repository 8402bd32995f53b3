"""The energy of runs, stages and epochs: a scope hook that reads the sampler's snapshots and waits for none.

A scope begins and ends between two samples. At its beginning the energy is interpolated, once the next sample is there;
at its end, and at a beginning before the first sample, the power of the nearest sample stands for the time in between.
How much time that is, the event says.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from crucible_otel.events.event import Event
from crucible_otel.events.hooks import Closing
from crucible_otel.events.scope import Scope
from crucible_otel.gpu.snapshot import EMPTY, DeviceState, GpuSnapshot
from crucible_otel.semconv.energy import COUNTER, ENERGY_J, ENERGY_SOURCE, ENERGY_UNSAMPLED, POWER
from crucible_otel.semconv.registry import OPERATIONS

__all__ = ["MEASURED", "EnergyUse", "Opening", "ScopeEnergy", "used_since"]

MEASURED: Final = frozenset(name for name, spec in OPERATIONS.items() if ENERGY_J in spec.stop.fields)
"""The operations whose ends have room for their energy."""
_MOST_WAITING: Final = 1024
"""Scopes that wait for the first sample after their beginning; while the driver hangs there could be any number."""


@dataclass(kw_only=True, slots=True)
class Opening:
    """The beginning of a scope.

    Attributes:
        opened_s: When, on the monotonic clock.
        before: The last sample before it.
        after: The first one after it; None until there is one.
    """

    opened_s: float
    before: GpuSnapshot
    after: GpuSnapshot | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyUse:
    """What GPUs used in a time.

    Attributes:
        energy_j: Energy, in joules.
        estimated: Whether that of one of them is integrated power, because it has no energy counter.
        unsampled_s: Time at both ends for which a power was assumed.
    """

    energy_j: float
    estimated: bool
    unsampled_s: float


class Snapshots(Protocol):
    """Who has the last snapshot."""

    @property
    def snapshot(self) -> GpuSnapshot:
        """The last one."""


class ScopeEnergy:
    """The hook.

    A process's devices are those on which it was seen to hold memory, else all that CUDA lets it see. An instance of a
    divided GPU (MIG) has no energy of its own.

    Args:
        sampler: Has the last snapshot.
        reach_s: For how long the power of a sample is assumed to last.
        now: The monotonic clock of the snapshots.
    """

    def __init__(self, sampler: Snapshots, reach_s: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._sampler, self._reach_s, self._now = sampler, reach_s, now
        self._waiting: deque[Opening] = deque(maxlen=_MOST_WAITING)
        self._held: set[str] = set()

    def opened(self, scope: Scope) -> Closing | None:
        """Remember where a scope began; see :data:`crucible_otel.events.hooks.ScopeHook`."""
        if scope.operation.name not in MEASURED:
            return None
        opening = Opening(opened_s=self._now(), before=self._sampler.snapshot)
        self._waiting.append(opening)
        return partial(self._closing, opening)

    def sampled(self, snapshot: GpuSnapshot) -> None:
        """Take a sample, on the sampler's thread."""
        while self._waiting:
            self._waiting.popleft().after = snapshot
        self._held |= snapshot.held

    def forget(self) -> None:
        """In a forked child: what has begun is the parent's, and so is the memory."""
        self._waiting.clear()
        self._held.clear()

    def _closing(self, opening: Opening, event: Event) -> None:
        if ENERGY_J.name in event.measurements or ENERGY_J.name in event.metadata:
            return  # the caller knows it better
        use = used_since(opening, lambda: self._sampler.snapshot, self._now(), self._reach_s, self._held)
        if use is not None:
            event.measurements[ENERGY_J.name] = use.energy_j
            event.measurements[ENERGY_UNSAMPLED.name] = round(use.unsampled_s * 1e9)
            event.metadata[ENERGY_SOURCE.name] = POWER if use.estimated else COUNTER


def used_since(
    opening: Opening, latest: Callable[[], GpuSnapshot], now_s: float, reach_s: float, held: Set[str] = frozenset()
) -> EnergyUse | None:
    """Return what the devices of this process used since an opening; None when none of them tells.

    Args:
        opening: The beginning.
        latest: Returns the last snapshot; asked after ``opening`` was read, which may change meanwhile.
        now_s: The end, on the monotonic clock.
        reach_s: For how long the power of a sample is assumed to last.
        held: UUIDs of the devices on which this process was seen to hold memory.
    """
    after = opening.after
    last = latest()
    if after is None and last.taken_s > opening.opened_s:
        after = last
    mine = [state for state in last.devices if state.visible and not state.device.divided]
    mine = [state for state in mine if state.device.uuid in held] or mine
    found = [(state, _joules(state, opening, after, last, now_s, reach_s)) for state in mine]
    told = [(state, joules) for state, joules in found if joules is not None]
    if not told:
        return None
    begun_s = opening.opened_s if opening.before is not EMPTY or after is None else min(after.taken_s, now_s)
    return EnergyUse(
        energy_j=sum(joules for _, joules in told),
        estimated=any(state.energy_estimated for state, _ in told),
        unsampled_s=begun_s - opening.opened_s + max(now_s - max(last.taken_s, opening.opened_s), 0.0),
    )


def _joules(
    state: DeviceState, opening: Opening, after: GpuSnapshot | None, last: GpuSnapshot, now_s: float, reach_s: float
) -> float | None:
    if state.energy_j is None:
        return None
    ended_j = state.energy_j + _assumed(state, now_s - last.taken_s, reach_s)
    uuid = state.device.uuid
    if after is None:  # no sample since it began: power is all there is
        if state.power_w is None or opening.opened_s - last.taken_s >= reach_s:
            return None
        return ended_j - state.energy_j - _assumed(state, opening.opened_s - last.taken_s, reach_s)
    first, before = _of(after, uuid), _of(opening.before, uuid)
    if first is None or first.energy_j is None:
        return ended_j  # it began to tell later, from 0
    if before is None or before.energy_j is None:
        begun_j = first.energy_j - _assumed(first, after.taken_s - opening.opened_s, reach_s)
    else:
        part = (opening.opened_s - opening.before.taken_s) / (after.taken_s - opening.before.taken_s)
        begun_j = before.energy_j + (first.energy_j - before.energy_j) * part
    return max(ended_j - begun_j, 0.0)


def _assumed(state: DeviceState, time_s: float, reach_s: float) -> float:
    return (state.power_w or 0.0) * min(max(time_s, 0.0), reach_s)


def _of(snapshot: GpuSnapshot, uuid: str) -> DeviceState | None:
    return next((state for state in snapshot.devices if state.device.uuid == uuid), None)
