"""One tick: every device read, its counters kept, its loss noticed. Knows no thread and no telemetry."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from crucible_otel.gpu.backend import (
    DeviceFault,
    DeviceLostError,
    GpuBackend,
    ProcessReading,
    SlowReading,
)
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.selection import Chosen, choose
from crucible_otel.gpu.snapshot import NO_FAST, DeviceState, Energy, GpuSnapshot, Totals
from crucible_otel.gpu.torch_memory import allocator_bytes

__all__ = ["SLOW_EVERY_S", "Watch"]

SLOW_EVERY_S: Final = 30.0
"""Least time between two slow readings of a device."""
PROCESS_EVERY_S: Final = 10.0
"""Least time between two looks at the processes of a device, which cost a driver more than anything else."""
_FELL_OFF_THE_BUS: Final = 79
"""The XID after which a GPU is of no use any more."""


class _Watched:
    """What is remembered of one device from tick to tick."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self.totals = Totals()
        self.energy = Energy()
        self.slow = SlowReading()
        self.slow_s = float("-inf")
        self.fast = NO_FAST
        self.process = ProcessReading()
        self.process_s = float("-inf")
        self.lost = self.failed = False


class Watch:
    """The devices that are sampled.

    Args:
        backend: Opened already.
        ownership: Which devices this process reports.
        on_lost: ``on_lost(state, reason)``, once for each device that this process reports.
        on_fault: ``on_fault(state, code)`` for each XID of a device that this process reports.
        wanted: See :func:`crucible_otel.gpu.selection.choose`.
        environ: The environment.
        slow_every_s: Least time between two slow readings.

    Attributes:
        unknown: Words of ``wanted`` that mean no device.
    """

    def __init__(
        self,
        backend: GpuBackend,
        ownership: Ownership,
        *,
        on_lost: Callable[[DeviceState, str], object],
        on_fault: Callable[[DeviceState, int], object],
        wanted: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        slow_every_s: float = SLOW_EVERY_S,
    ) -> None:
        self._backend, self._ownership = backend, ownership
        self._on_lost, self._on_fault, self._slow_every_s = on_lost, on_fault, slow_every_s
        chosen, self.unknown = choose(backend.devices(), os.environ if environ is None else environ, wanted)
        self._watched = [_Watched(each) for each in chosen]

    def tick(self, now_s: float, now_ns: int, *, detailed: bool = True) -> GpuSnapshot:
        """Read every device.

        Args:
            now_s: The monotonic clock.
            now_ns: Nanoseconds since the Unix epoch.
            detailed: Whether also the devices that another process reports are read, and not only their energy and what
                this process uses of them.
        """
        states = {each.chosen.device.uuid: self._read(each, now_s, detailed) for each in self._watched}
        for fault in self._backend.read_faults() if states else ():
            states = self._note(states, fault)
        return GpuSnapshot(taken_s=now_s, taken_ns=now_ns, devices=tuple(states.values()))

    def _read(self, watched: _Watched, now_s: float, detailed: bool) -> DeviceState:
        device, backend = watched.chosen.device, self._backend
        owned = self._ownership.owns(device.uuid)
        if watched.lost:
            return self._state(watched, owned)
        try:
            if now_s - watched.process_s >= PROCESS_EVERY_S:
                watched.process, watched.process_s = backend.read_process(device), now_s
            watched.fast = NO_FAST
            if owned or detailed:
                watched.fast = backend.read_fast(device)
                energy_j, power_w = watched.fast.energy_j, watched.fast.power_w
            else:
                energy_j, power_w = backend.read_energy(device)
            watched.energy.take(energy_j, power_w, now_s)
            if owned:
                watched.totals.take(watched.fast)
            if (owned or detailed) and now_s - watched.slow_s >= self._slow_every_s:
                watched.slow, watched.slow_s = backend.read_slow(device), now_s
                if owned:
                    watched.totals.take(watched.slow)
        except DeviceLostError as error:
            watched.lost = True
            state = self._state(watched, owned)
            if owned:
                self._on_lost(state, str(error))
            return state
        return self._state(watched, owned, watched.process)

    def _state(self, watched: _Watched, owned: bool, process: ProcessReading | None = None) -> DeviceState:
        chosen = watched.chosen
        energy_j, estimated = watched.energy.total()
        if watched.lost or process is None:
            return DeviceState(
                device=chosen.device,
                name=chosen.name,
                owned=owned,
                lost=watched.lost,
                failed=watched.failed,
                energy_j=energy_j,
                energy_estimated=estimated,
            )
        torch = allocator_bytes(chosen.name)
        return DeviceState(
            device=chosen.device,
            name=chosen.name,
            owned=owned,
            fast=watched.fast,
            slow=watched.slow,
            process=process,
            torch_allocated_bytes=torch[0] if torch is not None else None,
            torch_reserved_bytes=torch[1] if torch is not None else None,
            totals=watched.totals.sums,
            energy_j=energy_j,
            energy_estimated=estimated,
            power_w=watched.energy.power_w,
            failed=watched.failed,
        )

    def _note(self, states: dict[str, DeviceState], fault: DeviceFault) -> dict[str, DeviceState]:
        watched = next((each for each in self._watched if each.chosen.device.uuid == fault.uuid), None)
        if watched is None or not states[fault.uuid].owned:
            return states
        watched.totals.take(1)
        watched.failed = watched.failed or fault.code == _FELL_OFF_THE_BUS
        self._on_fault(states[fault.uuid], fault.code)
        state = states[fault.uuid]
        return {**states, fault.uuid: self._state(watched, True, None if state.lost else state.process)}
