"""Ticks that went well, kept as they were told: states and counters are made when somebody looks at a snapshot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crucible_otel.gpu.backend import FastReading, ProcessReading, SlowReading, Told
from crucible_otel.gpu.selection import Chosen
from crucible_otel.gpu.snapshot import Counted, DeviceState, Energy, GpuSnapshot

__all__ = ["Account", "Fixed", "Round", "RoundSnapshot", "Slowly"]

_MOST_WAITING: Final = 32
"""Rounds that wait to be looked at at most."""


class Account(NamedTuple):
    """What a device has used and counted.

    Attributes:
        energy: Its energy.
        sums: Its counters.
    """

    energy: Energy
    sums: Counted


class Slowly:
    """Slow readings of all devices, made out when they are first asked for; two threads that ask at once make the same.

    Args:
        told: Makes them; also an attribute.
    """

    __slots__ = ("_made", "told")

    def __init__(self, told: Told[SlowReading]) -> None:
        self.told = told
        self._made: Sequence[SlowReading] | None = None

    def __call__(self) -> Sequence[SlowReading]:
        """Return them."""
        made = self._made
        if made is None:
            made = self._made = self.told()
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """What is the same from round to round.

    Attributes:
        chosen: The devices.
        failed: Of which the driver reported an error after which they cannot be used.
    """

    chosen: tuple[Chosen, ...]
    failed: tuple[bool, ...]


class Round:
    """One reading of all devices.

    Args:
        fixed: What is the same from round to round.
        before: The round before, or what there was before the first.
        now_s: The monotonic clock.
        fast: Makes out what was read.
        slow: The last slow readings.
        slowly: Whether they are of this round.
        process: The last look at the processes.
        torch: What the allocator of PyTorch said of each device; None where there is none.
    """

    __slots__ = ("_before", "_done", "_fast", "_now_s", "_torch", "_waiting", "fixed", "process", "slow", "slowly")

    def __init__(
        self,
        fixed: Fixed,
        before: Round | Sequence[Account],
        now_s: float,
        fast: Told[FastReading],
        slow: Slowly,
        slowly: bool,
        process: Sequence[ProcessReading],
        torch: Sequence[tuple[int, int] | None] | None,
    ) -> None:
        self.fixed, self._now_s, self._fast, self.slow, self.slowly = fixed, now_s, fast, slow, slowly
        self.process, self._torch = process, torch
        self._before: Round | Sequence[Account] | None = before
        self._done: tuple[Sequence[FastReading], Sequence[Account]] | None = None
        self._waiting: int = before._waiting + 1 if isinstance(before, Round) else 0
        if self._waiting >= _MOST_WAITING:  # nobody may ever look
            self.made()

    def made(self) -> tuple[Sequence[FastReading], Sequence[Account]]:
        """Return the readings, and what had been used and counted after them."""
        waiting, at = [], self
        accounts: Sequence[Account] = ()
        while True:
            done, before = at._done, at._before
            if done is not None:
                accounts = done[1]
                break
            waiting.append(at)
            if not isinstance(before, Round):
                if before is not None:
                    accounts = before
                    break
                waiting.pop()  # another thread has just made it
                continue
            at = before
        waiting.reverse()
        counting = _counting([each._fast for each in waiting])
        slowly = [place for place, each in enumerate(waiting) if each.slowly]
        counted_slowly = {
            begin
            for begin, end, counts in zip(
                slowly, (*slowly[1:], None), _counting([waiting[place].slow.told for place in slowly]), strict=False
            )
            if counts or any(counting[begin:end])  # a round that is made has to have counted all before it
        }
        for place, (each, counts) in enumerate(zip(waiting, counting, strict=True)):
            fast = each._fast() if counts else ()
            slow = each.slow() if place in counted_slowly else ()
            accounts = each._after(accounts, fast, slow)
            if counts:
                each._done = fast, accounts
                each._before = None
                each._waiting = 0
        done = self._done
        assert done is not None
        return done

    def _after(
        self, accounts: Sequence[Account], fast: Sequence[FastReading], slow: Sequence[SlowReading]
    ) -> Sequence[Account]:
        if slow:
            accounts = [Account(each.energy, each.sums.after(slow[place])) for place, each in enumerate(accounts)]
        if not fast:
            return accounts
        return [
            Account(energy.after(reading.energy_j, reading.power_w, self._now_s), sums.after(reading))
            for (energy, sums), reading in zip(accounts, fast, strict=True)
        ]

    def states(self) -> tuple[DeviceState, ...]:
        """Return the states of the devices."""
        fast, accounts = self.made()
        slow, found = self.slow(), []
        for place, chosen in enumerate(self.fixed.chosen):
            energy, sums = accounts[place]
            energy_j, estimated = energy.total()
            torch = self._torch[place] if self._torch is not None else None
            found.append(
                DeviceState(
                    device=chosen.device,
                    name=chosen.name,
                    fast=fast[place],
                    slow=slow[place],
                    process=self.process[place],
                    torch_allocated_bytes=torch[0] if torch is not None else None,
                    torch_reserved_bytes=torch[1] if torch is not None else None,
                    totals=sums,
                    energy_j=energy_j,
                    energy_estimated=estimated,
                    power_w=energy.power_w,
                    failed=self.fixed.failed[place],
                )
            )
        return tuple(found)

    def held(self) -> frozenset[str]:
        """Return the UUIDs of the devices on which this process holds memory."""
        return frozenset(
            chosen.device.uuid
            for place, chosen in enumerate(self.fixed.chosen)
            if self.process[place].memory_bytes or (self._torch is not None and (self._torch[place] or (0, 0))[1])
        )


def _counting(told: Sequence[Told[Any]]) -> list[bool]:
    """Return which of these have to be made out to count: not what lies between others and only adds to a growth."""
    follows = [later.follows(each) for each, later in itertools.pairwise(told)]
    return [
        not all(follows[max(place - 1, 0) : place + 1]) or place in (0, len(told) - 1) for place in range(len(told))
    ]


class RoundSnapshot(GpuSnapshot):
    """The snapshot of a round: its devices are made when they are first asked for.

    Args:
        taken_s: See :class:`GpuSnapshot`.
        taken_ns: See there.
        round: What was read.
    """

    __slots__ = ("round",)
    round: Round

    def __init__(self, taken_s: float, taken_ns: int, round: Round) -> None:
        _keep_taken_s(self, taken_s)
        _keep_taken_ns(self, taken_ns)
        _keep_round(self, round)

    def __getattr__(self, name: str) -> Any:
        """Make the devices; two threads that ask at once make the same."""
        if name != "devices":
            raise AttributeError(name)
        found = self.round.states()
        object.__setattr__(self, name, found)
        return found

    @property
    def held(self) -> frozenset[str]:
        """UUIDs of the devices on which this process holds memory."""
        return self.round.held()


# What is frozen keeps its attributes so.
_keep_taken_s: Final = vars(GpuSnapshot)["taken_s"].__set__
_keep_taken_ns: Final = vars(GpuSnapshot)["taken_ns"].__set__
_keep_round: Final = vars(RoundSnapshot)["round"].__set__
