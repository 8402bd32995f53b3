"""One tick: every device read, its counters kept, its loss noticed. Knows no thread and no telemetry."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from crucible_otel.gpu.backend import (
    AtOnce,
    DeviceFault,
    DeviceLostError,
    GpuBackend,
    ProcessReading,
    ReadsAtOnce,
    SlowReading,
)
from crucible_otel.gpu.ownership import Ownership
from crucible_otel.gpu.rounds import Account, Fixed, Round, RoundSnapshot, Slowly
from crucible_otel.gpu.selection import Chosen, choose
from crucible_otel.gpu.snapshot import NO_FAST, Counted, DeviceState, Energy, GpuSnapshot
from crucible_otel.gpu.torch_memory import allocator_bytes, is_loaded

__all__ = ["SLOW_EVERY_S", "Watch"]

SLOW_EVERY_S: Final = 30.0
"""Least time between two slow readings of a device."""
PROCESS_EVERY_S: Final = 10.0
"""Least time between two looks at the processes of a device, which cost a driver more than anything else."""
_LONGEST_APART: Final = 64
"""Ticks for which each device is read by itself at most after reading all at once has failed again and again."""
_FELL_OFF_THE_BUS: Final = 79
"""The XID after which a GPU is of no use any more."""


class _Watched:
    """What is remembered of one device from tick to tick."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self.sums = Counted()
        self.energy = Energy()
        self.slow = SlowReading()
        self.slow_s = float("-inf")
        self.fast = NO_FAST
        self.process = ProcessReading()
        self.process_s = float("-inf")
        self.owned = self.lost = self.failed = False


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
        self._together: _Together | None = None
        self._apart = _Apart()

    def tick(self, now_s: float, now_ns: int, *, detailed: bool = True) -> GpuSnapshot:
        """Read every device.

        Args:
            now_s: The monotonic clock.
            now_ns: Nanoseconds since the Unix epoch.
            detailed: Whether also the devices that another process reports are read, and not only their energy and what
                this process uses of them.
        """
        found = self._together.round(now_s, self._slow_every_s) if self._together is not None else None
        if found is not None:
            snapshot = RoundSnapshot(now_s, now_ns, found)
            faults = self._backend.read_faults()
            if not faults:
                return snapshot
            self._part()
            states = {state.device.uuid: state for state in snapshot.devices}
        else:
            if self._together is not None:
                self._apart.longer(self._part())
            states = {each.chosen.device.uuid: self._read(each, now_s, detailed) for each in self._watched}
            faults = self._backend.read_faults() if states else ()
        for fault in faults:
            states = self._note(states, fault)
        self._join()
        return GpuSnapshot(taken_s=now_s, taken_ns=now_ns, devices=tuple(states.values()))

    def _join(self) -> None:
        """From now on read all devices at once, if all goes well with them."""
        backend, watched = self._backend, self._watched
        if not isinstance(backend, ReadsAtOnce) or not watched or self._apart.still():
            return
        if all(each.owned and not each.lost for each in watched):
            at_once = backend.at_once([each.chosen.device for each in watched])
            self._together = _Together(at_once, watched) if at_once is not None else None

    def _part(self) -> int:
        """From now on read each device by itself; return how often they had been read at once."""
        together, self._together = self._together, None
        return together.end() if together is not None else 0

    def _read(self, watched: _Watched, now_s: float, detailed: bool) -> DeviceState:
        device, backend = watched.chosen.device, self._backend
        owned = watched.owned = self._ownership.owns(device.uuid)
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
            watched.energy = watched.energy.after(energy_j, power_w, now_s)
            if owned:
                watched.sums = watched.sums.after(watched.fast)
            if (owned or detailed) and now_s - watched.slow_s >= self._slow_every_s:
                watched.slow, watched.slow_s = backend.read_slow(device), now_s
                if owned:
                    watched.sums = watched.sums.after(watched.slow)
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
            totals=watched.sums,
            energy_j=energy_j,
            energy_estimated=estimated,
            power_w=watched.energy.power_w,
            failed=watched.failed,
        )

    def _note(self, states: dict[str, DeviceState], fault: DeviceFault) -> dict[str, DeviceState]:
        watched = next((each for each in self._watched if each.chosen.device.uuid == fault.uuid), None)
        if watched is None or not states[fault.uuid].owned:
            return states
        watched.sums = watched.sums.after(1)
        watched.failed = watched.failed or fault.code == _FELL_OFF_THE_BUS
        self._on_fault(states[fault.uuid], fault.code)
        state = states[fault.uuid]
        return {**states, fault.uuid: self._state(watched, True, None if state.lost else state.process)}


class _Read:
    """Slow readings that each device was asked for by itself."""

    def __init__(self, slow: Sequence[SlowReading]) -> None:
        self._slow = slow

    def __call__(self) -> Sequence[SlowReading]:
        return self._slow

    def follows(self, before: object) -> bool:
        """Whether they need not be made out to count: they have been counted, and are asked for no more."""
        return False


class _Together:
    """The devices while all of them are read at once: this process reports each, and none is lost."""

    def __init__(self, at_once: AtOnce, watched: Sequence[_Watched]) -> None:
        self._at_once, self._watched = at_once, watched
        self._names = [each.chosen.name for each in watched]
        self._fixed = Fixed(
            chosen=tuple(each.chosen for each in watched), failed=tuple(each.failed for each in watched)
        )
        self._slow_s = min(each.slow_s for each in watched)
        self._process_s = min(each.process_s for each in watched)
        self._slow = Slowly(_Read([each.slow for each in watched]))
        self._process: Sequence[ProcessReading] = [each.process for each in watched]
        self._last: Round | Sequence[Account] = [Account(each.energy, each.sums) for each in watched]
        self._rounds = 0

    def round(self, now_s: float, slow_every_s: float) -> Round | None:
        """Read them; None when anything failed."""
        at_once = self._at_once
        if now_s - self._process_s >= PROCESS_EVERY_S:
            process = at_once.read_process()
            if process is None:
                return None
            self._process, self._process_s = process, now_s
        fast = at_once.read_fast()
        if fast is None:
            return None
        slowly = now_s - self._slow_s >= slow_every_s
        if slowly:
            slow = at_once.read_slow()
            if slow is None:
                return None
            self._slow, self._slow_s = Slowly(slow), now_s
        torch = [allocator_bytes(name) for name in self._names] if is_loaded() else None
        self._rounds += 1
        found = self._last = Round(self._fixed, self._last, now_s, fast, self._slow, slowly, self._process, torch)
        return found

    def end(self) -> int:
        """Go on with each by itself; return how often they were read."""
        self._at_once.end()
        if isinstance(self._last, Round):
            fast, accounts = self._last.made()
            slow = self._slow()
            for place, each in enumerate(self._watched):
                each.fast, each.slow, each.process = fast[place], slow[place], self._process[place]
                each.energy, each.sums = accounts[place]
                each.slow_s, each.process_s = self._slow_s, self._process_s
        return self._rounds


class _Apart:
    """For how many ticks each device is read by itself, after something went wrong: ever longer where it often does."""

    def __init__(self) -> None:
        self._ticks = self._left = 0

    def longer(self, rounds: int) -> None:
        """Read each by itself, after so many rounds that went well."""
        self._ticks = min(2 * self._ticks + 1, _LONGEST_APART) if rounds < _LONGEST_APART else 1
        self._left = self._ticks

    def still(self) -> bool:
        """Whether each is read by itself this time."""
        self._left = max(self._left - 1, 0)
        return self._left > 0
